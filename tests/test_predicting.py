"""A model in use gives the answers that its run measured, for any number of pictures."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from run_builder import make_run

import finetune
from finetune.__main__ import main
from finetune.data.decoding import conform, decode_image, to_unit_range
from finetune.data.samples import read_samples
from finetune.data.splits import read_splits
from finetune.data.transforms import build_transform
from finetune.errors import ConfigurationError, InputError, Interrupted
from finetune.evaluation.abstention import Abstention
from finetune.evaluation.calibration import Calibration
from finetune.evaluation.conformal import PredictionSets
from finetune.evaluation.decisions import Decisions, apply_decisions
from finetune.evaluation.operating_points import CostRule, OperatingPoint
from finetune.evaluation.predictions import Predictions
from finetune.prediction.files import RowFile
from finetune.prediction.predicting import PredictOptions, predict
from finetune.prediction.predictor import Predictor
from finetune.run_directory import RunDirectory
from finetune.specs import Dtype, LabelSpec


def draw(path, number, *, dtype=np.uint8, channels=3, top=160):
    random = np.random.default_rng(number)
    pixels = random.integers(0, top, (24 + number % 5, 40, channels)).astype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    if channels in (1, 3) and dtype == np.uint8:
        cv2.imwrite(str(path), pixels)
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack",
                         planarconfig="contig" if channels > 1 else None)
    return path


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Three classes, one of them with a name that a spreadsheet could compute."""
    folder = tmp_path_factory.mktemp("single")
    for number in range(60):
        name = ("=SUM(A1)", "b", "c")[number % 3]
        draw(folder / "pictures" / name / f"{number:03d}.png", number, top=100 + 70 * (number % 3))
    run = make_run(folder, f"data.root={folder / 'pictures'}")
    decisions = Decisions(
        LabelSpec.from_dict(run.environment["label_spec"]),
        Calibration("vector", (0.5, 0.7, 0.6), (0.1, -0.2, 0.3), kept=True, reason="better"),
        (OperatingPoint("b", 1, "sensitivity", 0.9, 0.35), OperatingPoint("c", 2, "f1", None, 0.4),
         OperatingPoint("c", 2, "precision", 0.9, None, reason="refused")),
        CostRule(((0, 1, 1), (5, 0, 1), (1, 1, 0))), PredictionSets("aps", 0.9, (0.4, 0.3, 0.4)),
        Abstention(0.9, 0.4))
    (run.path / "decisions.json").write_text(json.dumps(decisions.to_dict()))
    return run


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Two labels that a picture may both have, of 16 bits and 5 channels."""
    folder = tmp_path_factory.mktemp("several")
    rows = ["path,label,fever,cough"]
    for number in range(60):
        draw(folder / f"{number}.tif", number, dtype=np.uint16, channels=5,
             top=1000 + 500 * (number % 2) + 900 * (number % 3 == 0))
        rows.append(f"{number}.tif,x,{number % 2},{int(number % 3 == 0)}")
    (folder / "table.csv").write_text("\n".join(rows))
    return make_run(folder, f"data.root={folder}", "data.labels_file=table.csv",
                    "data.label_column=fever,cough", "data.label_kind=multi")


@pytest.fixture(scope="module")
def ordinal(tmp_path_factory):
    """Ordered classes, of DICOM pictures with a window."""
    folder = tmp_path_factory.mktemp("ordinal")
    rows = ["path,label"]
    for number in range(45):
        write_dicom(folder / f"{number}.dcm", 400 + 500 * (number % 3), number)
        rows.append(f"{number}.dcm,{number % 3}")
    (folder / "table.csv").write_text("\n".join(rows))
    return make_run(folder, f"data.root={folder}", "data.labels_file=table.csv",
                    "data.label_kind=ordinal")


def write_dicom(path, top, seed):
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    pixels = np.random.default_rng(seed).integers(0, top, (30, 36)).astype(np.uint16)
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.Rows, file.Columns, file.SamplesPerPixel = 30, 36, 1
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.PhotometricInterpretation = "MONOCHROME2"
    file.WindowCenter, file.WindowWidth = 800, 1600
    file.PixelData = pixels.tobytes()
    file.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.save_as(path, enforce_file_format=True)


def copied(run, folder):
    shutil.copytree(run.path, folder)
    return RunDirectory(folder)


def root_of(run):
    return Path(run.config.data.root)


def stored(run, part="test"):
    """Calibrated probabilities of the run's own answers, and the pictures' names."""
    found = Predictions.load(run.predictions_path(part))
    path = run.path / "decisions.json"
    decisions = Decisions.from_dict(json.loads(path.read_text()))
    return apply_decisions(decisions, found.logits), found.ids, decisions


@pytest.mark.parametrize("kind", ["single", "several", "ordinal"])
def test_answers_are_the_runs_own(kind, request):
    run = request.getfixturevalue(kind)
    wanted, ids, _ = stored(run)
    predictor = Predictor.from_run(run, batch_size=7)
    found = predictor([root_of(run) / name for name in ids])
    odds = np.array([each.probabilities for each in found])
    np.testing.assert_allclose(odds, wanted["probabilities"], atol=1e-5, rtol=0)
    assert [each.error for each in found] == [None] * len(ids)
    assert len(predictor.points) == sum(p is not None for p in wanted["points"])


def chosen(names, row):
    return tuple(name for name, inside in zip(names, row, strict=True) if inside)


def test_decisions_are_the_runs_own(single):
    wanted, ids, _ = stored(single)
    names = single.environment["label_spec"]["class_names"]
    found = Predictor.from_run(single)([root_of(single) / name for name in ids])
    assert [e.predicted for e in found] == [names[k] for k in wanted["probabilities"].argmax(1)]
    assert [e.prediction_set for e in found] == [chosen(names, row) for row in wanted["sets"]]
    assert [e.abstained for e in found] == [not (a and s.any()) for a, s in zip(
        wanted["answered"], wanted["sets"], strict=True)]
    assert [e.decisions for e in found] == [
        {"sensitivity_0.9_b": bool(b), "f1_c": bool(c), "least_cost": names[k]}
        for b, c, k in zip(wanted["points"][0], wanted["points"][1], wanted["least_cost"],
                           strict=True)]


def test_random_numbers_of_sets_depend_on_the_picture_not_on_its_neighbours(single, tmp_path):
    run = copied(single, tmp_path / "run")
    values = json.loads((run.path / "decisions.json").read_text())
    values["sets"] |= {"randomised": True}
    (run.path / "decisions.json").write_text(json.dumps(values))
    predictor, paths = Predictor.from_run(run), sorted(root_of(single).rglob("*.png"))
    together = [each.prediction_set for each in predictor(paths)]
    alone = [predictor(path)[0].prediction_set for path in paths[::-1]]
    assert together == alone[::-1]
    plain = [each.prediction_set for each in Predictor.from_run(single)(paths)]
    assert together != plain


def test_a_run_without_decisions_gives_its_probabilities(single, tmp_path):
    run = copied(single, tmp_path / "run")
    (run.path / "decisions.json").unlink()
    own = Predictions.load(run.predictions_path("test"))
    found = Predictor.from_run(run)([root_of(single) / name for name in own.ids])
    np.testing.assert_allclose([e.probabilities for e in found], own.probabilities, atol=1e-5)
    assert {(e.prediction_set, e.abstained, len(e.decisions)) for e in found} == {(None, None, 0)}


def test_several_labels_may_all_or_none_be_predicted(several):
    ids = stored(several)[1]
    for each in Predictor.from_run(several)([root_of(several) / name for name in ids]):
        likely = [n for n, p in zip(("fever", "cough"), each.probabilities, strict=True)
                  if p >= 0.5]
        assert list(each.predicted) == likely


@pytest.mark.parametrize("kind", ["single", "several", "ordinal"])
def test_pictures_are_prepared_as_evaluation_does(kind, request):
    run = request.getfixturevalue(kind)
    predictor = Predictor.from_run(run)
    spec = predictor.spec
    path = root_of(run) / stored(run)[1][0]
    prepared = predictor.prepare(path)
    assert prepared.pixels.dtype == spec.dtype.value and prepared.pixels.shape[:2] == spec.size
    shown = build_transform("none", spec, train=False)(
        conform(decode_image(path).pixels, channels=spec.channels, dtype=spec.dtype))
    here = prepared.pixels if spec.dtype is Dtype.uint8 else to_unit_range(
        prepared.pixels, spec.value_range)
    np.testing.assert_array_equal(here, shown)


def test_arrays_and_paths_give_the_same(single):
    predictor = Predictor.from_run(single)
    paths = sorted(root_of(single).rglob("*.png"))[:5]
    arrays = [decode_image(path).pixels for path in paths]
    by_path, by_array = predictor(paths), predictor(arrays)
    assert [e.probabilities for e in by_path] == [e.probabilities for e in by_array]
    assert [e.name for e in by_array] == ["0", "1", "2", "3", "4"]
    assert predictor(str(paths[0]))[0].name == str(paths[0])
    assert predictor(arrays[0])[0].probabilities == pytest.approx(by_path[0].probabilities)
    wide = predictor(arrays[0].astype(np.int64))[0]
    assert wide.probabilities == pytest.approx(by_path[0].probabilities, abs=1e-6)
    assert "not a picture" in predictor([np.zeros(3)])[0].error


def test_what_is_unlike_training_is_told(single, tmp_path):
    predictor = Predictor.from_run(single)
    usual = sorted(root_of(single).rglob("*.png"))[0]
    grey = draw(tmp_path / "grey.png", 1, channels=1)
    large, dark = tmp_path / "large.png", tmp_path / "dark.png"
    cv2.imwrite(str(large), np.full((90, 40, 3), 200, np.uint8))
    cv2.imwrite(str(dark), np.zeros((25, 40, 3), np.uint8))
    found = predictor([usual, grey, large, dark])
    assert found[0].warnings == ()
    assert "mode L; in training RGB" in found[1].warnings[0]
    assert "40 x 90 pixels" in found[2].warnings[0]
    assert "largest value 0" in found[3].warnings[0]


def test_a_run_without_those_facts_still_predicts(single, tmp_path):
    old = copied(single, tmp_path / "old")
    environment = old.environment
    del environment["data"]["training_pictures"]
    old.write_environment(environment)
    predictor = Predictor.from_run(old)
    assert predictor.seen is None
    assert predictor(sorted(root_of(single).rglob("*.png"))[0])[0].predicted


def test_views_are_the_pictures_mirrored_and_turned(single):
    predictor = Predictor.from_run(single)
    batch = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3)).astype(np.uint8)
    flips = [batch, batch[:, ::-1], batch[:, :, ::-1], batch[:, ::-1, ::-1]]
    wanted = np.mean([predictor.network(np.ascontiguousarray(v)).probabilities for v in flips],
                     axis=0)
    np.testing.assert_allclose(predictor.with_views("flips").network(batch).probabilities, wanted)

    def whole(given):
        return predictor.with_views("d4").network(given).probabilities

    np.testing.assert_allclose(whole(batch), whole(np.rot90(batch, axes=(1, 2))), atol=1e-6)
    np.testing.assert_allclose(whole(batch).sum(axis=1), 1)
    with pytest.raises(ConfigurationError, match="flips and d4"):
        predictor.with_views("all")


def test_bf16_is_near_fp32_and_another(single):
    paths = sorted(root_of(single).rglob("*.png"))[:8]
    exact, near = (np.array([e.probabilities for e in Predictor.from_run(
        single, precision=p)(paths)]) for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact - near).max() < 0.1


# ---- the command


def read_rows(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text)))


def said(capsys, *words):
    code = main(["predict", *map(str, words)])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return code, told.out + told.err


def test_rows_hold_everything_in_both_formats(single, tmp_path, capsys):
    ids = stored(single)[1][:6]
    for name in ids:
        (tmp_path / "new").mkdir(exist_ok=True)
        shutil.copy(root_of(single) / name, tmp_path / "new" / name.replace("/", "_"))
    rows = {}
    for form in ("csv", "jsonl"):
        code, _ = said(capsys, single.path, tmp_path / "new", "--output", tmp_path / f"o.{form}")
        assert code == 0
        rows[form] = read_rows(tmp_path / f"o.{form}")
    wanted = Predictor.from_run(single)(sorted((tmp_path / "new").iterdir()))
    for cells, line, each in zip(rows["csv"], rows["jsonl"], wanted, strict=True):
        assert cells["path"] == line["path"] == each.name
        assert line["predicted"] == each.predicted
        assert line["prediction_set"] == (each.prediction_set and list(each.prediction_set))
        assert line["abstained"] == each.abstained and line["decisions"] == each.decisions
        odds = [float(v) for k, v in cells.items() if k.startswith("probability_")]
        assert odds == pytest.approx(each.probabilities, abs=1e-7)
        assert odds == list(line["probabilities"].values())
        assert cells["predicted"].removeprefix("'") == each.predicted
        assert cells["decision_sensitivity_0.9_b"] == str(
            each.decisions["sensitivity_0.9_b"]).lower()
        assert cells["error"] == "" and line["error"] is None
        assert "rehearsal" not in cells and "rehearsal" not in line
    assert not list(tmp_path.glob("*.partial*"))


def test_formulas_are_text_and_odd_names_are_names(single, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "+2.png", "-3.png", "@x.png", ";rm -rf ~.png", "a\nb.png", "<script>.png",
             "a,b \"c\".png"]
    for number, name in enumerate(names):
        draw(tmp_path / "p" / name.replace("/", ""), number)
    (tmp_path / "list.csv").write_text("path\n" + "".join(
        '"' + f"p/{n}".replace('"', '""') + '"\n' for n in names))
    os.chdir(tmp_path / "p")
    table = io.StringIO("".join(f"{n}\n" for n in names if "\n" not in n))
    code = predict(str(single.path), ["-"], tmp_path / "o.csv", lines=table)
    rows = read_rows(tmp_path / "o.csv")
    assert code == 0
    assert [row["path"] for row in rows] == [
        "'=1+1.png", "'+2.png", "'-3.png", "'@x.png", ";rm -rf ~.png", "<script>.png",
        "a,b \"c\".png"]
    assert all(not value.startswith(("=", "+", "-", "@")) for row in rows
               for value in row.values())
    os.chdir(tmp_path)
    code, _ = said(capsys, single.path, "list.csv", "--output", "o2.csv")
    assert code == 0 and len(read_rows(tmp_path / "o2.csv")) == len(names)
    assert len((tmp_path / "o2.csv").read_text().splitlines()) == len(names) + 1


def test_what_cannot_be_read_is_a_row_with_an_error_and_code_3(single, tmp_path, capsys):
    folder = tmp_path / "p"
    good = draw(folder / "1.png", 0)
    (folder / "2.png").write_bytes(b"")
    (folder / "3.png").write_bytes(good.read_bytes()[:60])
    (folder / "4.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "5.txt").write_text("no picture")
    draw(folder / "6.tif", 0, dtype=np.uint16, channels=7)
    draw(folder / "7.png", 3)
    code, told = said(capsys, single.path, folder, "--output", tmp_path / "o.csv",
                      "--batch-size", 2)
    rows = read_rows(tmp_path / "o.csv")
    assert code == 3 and "4 pictures could not be read" in told and "1 .txt" in told
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, True, False]
    assert "0 bytes" in rows[1]["error"] and "7 channels" in rows[4]["error"]
    assert rows[1]["predicted"] == rows[1]["probability_b"] == ""


def test_words_are_folders_patterns_tables_and_standard_input(single, tmp_path, capsys,
                                                             monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/deep/2.PNG", "a/.hidden.png", "b/3.png"):
        draw(tmp_path / name, 0)
    (tmp_path / "b" / "t.csv").write_text("number;file\n1;3.png\n2;../a/1.png\n3;gone.png\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"b/3.png\n\na/1.png")))
    code, told = said(capsys, single.path, "a", "b/t.csv", "a/*.png", "-", "--output", "o.jsonl",
                      "--path-column", "file")
    assert code == 3, told
    rows = read_rows(tmp_path / "o.jsonl")
    assert [row["path"] for row in rows] == ["a/1.png", "a/deep/2.PNG", "3.png", "../a/1.png",
                                             "gone.png", "a/1.png", "b/3.png", "a/1.png"]
    assert [row["path"] for row in rows if row["error"]] == ["gone.png"]


@pytest.mark.parametrize(("words", "told"), [
    (["empty"], "no pictures found in empty"), (["missing.png"], "missing.png does not exist"),
    (["*.gif"], "no file fits"), (["t.csv"], "no column 'path' (did you mean 'paths'?)"),
    (["-"], "no pictures found on standard input")])
def test_nothing_to_predict_is_bad_input(single, tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("paths,x\na,1\n")
    code, text = said(capsys, single.path, *words, "--output", "o.csv")
    assert code == 2 and told in text
    assert not list(tmp_path.glob("o.csv*"))


def test_an_output_that_exists_is_refused(single, tmp_path, capsys):
    picture, output = draw(tmp_path / "1.png", 0), tmp_path / "o.csv"
    output.write_text("precious")
    code, told = said(capsys, single.path, picture, "--output", output)
    assert code == 2 and "--overwrite" in told and output.read_text() == "precious"
    assert said(capsys, single.path, picture, "--output", output, "--overwrite")[0] == 0
    assert len(read_rows(output)) == 1
    code, told = said(capsys, single.path, picture, "--output", tmp_path / "no" / "o.csv")
    assert code == 2 and "no folder" in told


def test_models_that_are_none_are_told(single, tmp_path, capsys):
    picture = draw(tmp_path / "1.png", 0)
    (tmp_path / "m.onnx").write_bytes(b"x")
    unfinished, newer = tmp_path / "unfinished", tmp_path / "newer"
    shutil.copytree(single.path, unfinished)
    (unfinished / "checkpoints" / "best.safetensors").unlink()
    shutil.copytree(single.path, newer)
    environment = json.loads((newer / "environment.json").read_text())
    environment["versions"]["finetune-images"] = "99.1.0"
    (newer / "environment.json").write_text(json.dumps(environment))
    for model, text in ((tmp_path / "m.onnx", "no ONNX model"), (tmp_path / "none", "no run in"),
                        (unfinished, "not finished"), (newer, "99.1.0")):
        code, told = said(capsys, model, picture, "--output", tmp_path / "o.csv")
        assert code == 2 and text in told, told
        assert not list(tmp_path.glob("o.csv*"))


def test_a_rehearsals_answers_are_stamped(single, tmp_path, capsys):
    run = copied(single, tmp_path / "rehearsal")
    run.write_environment(run.environment | {"rehearsal": {"replaced": {}, "command": "x"}})
    picture = draw(tmp_path / "1.png", 0)
    for form in ("csv", "jsonl"):
        code, told = said(capsys, run.path, picture, "--output", tmp_path / f"o.{form}")
        assert code == 0 and "REHEARSAL" in told
    assert read_rows(tmp_path / "o.csv")[0]["rehearsal"] == "true"
    assert next(iter(read_rows(tmp_path / "o.jsonl")[0].items())) == ("rehearsal", True)


# ---- killed and resumed


@pytest.fixture
def many(single, tmp_path):
    """30 pictures, one of them broken, and the file that an undisturbed command writes."""
    for number in range(30):
        draw(tmp_path / "many" / f"{number:02d}.png", number)
    (tmp_path / "many" / "03.png").write_bytes(b"broken")
    options = PredictOptions(batch_size=4)
    predict(str(single.path), [str(tmp_path / "many")], tmp_path / "whole.csv", options)
    return tmp_path / "many"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("torn", [b"", b"/some/path,0.5", b"{\"path\": \"x"])
def test_a_stopped_file_is_continued_without_losing_or_doubling_a_row(single, tmp_path, many,
                                                                      monkeypatch, form, torn):
    output, whole = tmp_path / f"o.{form}", tmp_path / f"w.{form}"
    options = {"batch_size": 4, "workers": 2}
    predict(str(single.path), [str(many)], whole, PredictOptions(**options))
    real, written = RowFile.write, []

    def stopping(self, lines):
        if len(written) == 3:
            self.stream.write(torn)
            raise KeyboardInterrupt
        written.append(1)
        real(self, lines)

    monkeypatch.setattr(RowFile, "write", stopping)
    with pytest.raises(Interrupted, match="--resume"):
        predict(str(single.path), [str(many)], output, PredictOptions(**options))
    monkeypatch.setattr(RowFile, "write", real)
    assert not output.exists()
    with pytest.raises(InputError, match="--resume goes on"):
        predict(str(single.path), [str(many)], output, PredictOptions(**options))
    code = predict(str(single.path), [str(many)], output, PredictOptions(**options, resume=True))
    assert code == 3  # the broken one was before the stop
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


def test_a_killed_command_is_continued(single, tmp_path, many):
    output, partial = tmp_path / "o.csv", tmp_path / "o.csv.partial"
    code = (f"import time\nfrom pathlib import Path\n"
            "from finetune.prediction.files import RowFile\n"
            "from finetune.prediction.predicting import predict, PredictOptions\n"
            "real = RowFile.write\n"
            "def slow(self, lines):\n    real(self, lines); time.sleep(0.5)\n"
            "RowFile.write = slow\n"
            f"predict({str(single.path)!r}, [{str(many)!r}], Path({str(output)!r}), "
            f"PredictOptions(batch_size=4))")
    process = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while time.monotonic() < until and (not partial.exists()
                                        or partial.read_bytes().count(b"\n") < 9):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.read_bytes().count(b"\n") >= 9 and not output.exists()
    predict(str(single.path), [str(many)], output, PredictOptions(batch_size=4, resume=True))
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.fixture
def stopped(single, tmp_path, many):
    """A partial file of 10 rows."""
    output = tmp_path / "o.csv"
    predict(str(single.path), [str(many)], output, PredictOptions(batch_size=4))
    lines = output.read_bytes().splitlines(keepends=True)
    output.unlink()
    from finetune.prediction.predicting import _about, load_predictor

    about = _about(load_predictor(str(single.path)), [str(many)], "csv", PredictOptions())
    (tmp_path / "o.csv.partial").write_bytes(b"".join(lines[:11]))
    (tmp_path / "o.csv.partial.json").write_text(json.dumps(about))
    return output


def test_another_model_other_options_and_other_pictures_are_refused(single, tmp_path, many,
                                                                    stopped):
    def resumed(model=single.path, words=(str(many),), **options):
        return predict(str(model), list(words), stopped, PredictOptions(resume=True, **options))

    other = tmp_path / "other"
    shutil.copytree(single.path, other)
    weights = bytearray((other / "checkpoints" / "best.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "checkpoints" / "best.safetensors").write_bytes(bytes(weights))
    with pytest.raises(InputError, match="another model"):
        resumed(other)
    with pytest.raises(InputError, match="another tta"):
        resumed(tta="flips")
    with pytest.raises(InputError, match="another paths"):
        resumed(words=[str(many), str(many)])
    draw(many / "00a.png", 0)
    with pytest.raises(InputError, match=r"row 2 of .* the pictures changed"):
        resumed()
    (many / "00a.png").unlink()
    assert resumed() == 3
    found, wanted = read_rows(stopped), read_rows(tmp_path / "whole.csv")
    assert [row["path"] for row in found] == [row["path"] for row in wanted]
    odds = [[float(row["probability_b"] or 0) for row in rows] for rows in (found, wanted)]
    np.testing.assert_allclose(*odds, atol=1e-6)  # batches are others


def test_a_partial_file_is_damaged_or_alone(single, tmp_path, many, stopped):
    options = PredictOptions(resume=True)
    partial, side = tmp_path / "o.csv.partial", tmp_path / "o.csv.partial.json"
    content = partial.read_bytes()
    partial.write_bytes(content.replace(b"path,predicted", b"path,forecast"))
    with pytest.raises(InputError, match="other columns"):
        predict(str(single.path), [str(many)], stopped, options)
    side.unlink()
    with pytest.raises(InputError, match="can't be read"):
        predict(str(single.path), [str(many)], stopped, options)
    assert predict(str(single.path), [str(many)], stopped, PredictOptions(overwrite=True)) == 3
    assert stopped.read_text().count("\n") == 31


# ---- new labelled pictures


def evaluated(capsys, *words):
    code = main(["evaluate", *map(str, words)])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return code, told.out + told.err


def test_new_pictures_are_measured_as_the_test_part_was(single, tmp_path, capsys):
    test = Predictions.load(single.predictions_path("test"))
    for name in test.ids:
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root_of(single) / name, tmp_path / "new" / name)
    code, told = evaluated(capsys, single.path, tmp_path / "new", "--output", tmp_path / "o.json")
    found, own = json.loads((tmp_path / "o.json").read_text()), single.metrics["test"]
    assert code == 0 and "the run's test" in told
    for name, value in own.items():
        if isinstance(value, float):
            assert found["new"][name] == pytest.approx(value, abs=1e-5)
    assert found["pictures"] == len(test) and found["intervals"]["accuracy"]
    assert found["decisions"]


def test_labels_come_from_a_column_and_several_from_their_own(single, several, tmp_path, capsys):
    names = stored(single)[1][:4]
    rows = [f"{root_of(single) / n},{Path(n).parent}" for n in names] + ["gone.png,b"]
    (tmp_path / "t.csv").write_text("path,class\n" + "\n".join(rows))
    code, told = evaluated(capsys, single.path, tmp_path / "t.csv", "--labels", "class")
    assert code == 3 and "4 new pictures" in told and "gone.png" in told
    code, told = evaluated(capsys, single.path, tmp_path / "t.csv", "--labels", "klass")
    assert code == 2 and "did you mean 'class'" in told
    code, told = evaluated(capsys, several.path, root_of(several) / "table.csv")
    assert code == 0 and "60 new pictures" in told


def test_classes_that_the_run_does_not_know_are_told(single, tmp_path, capsys):
    draw(tmp_path / "B" / "1.png", 0)
    code, told = evaluated(capsys, single.path, tmp_path)
    assert code == 2 and "B (did you mean 'b'?)" in told
    code, told = evaluated(capsys, single.path, "--labels", "x")
    assert code == 2 and "go with paths" in told


def test_new_pictures_that_the_run_had_are_told(single, tmp_path, capsys):
    code, told = evaluated(capsys, single.path, root_of(single), "--output", tmp_path / "o.json")
    rows = read_splits(single.path / "splits.csv")
    parts = {part: sum(row["split"] == part for row in rows) for part in ("train", "val", "test")}
    assert code == 0 and "byte for byte, pictures of this run" in told
    assert json.loads((tmp_path / "o.json").read_text())["pictures_of_the_run"] == parts
    again = read_samples(str(root_of(single)), splits_file=single.path / "splits.csv")
    assert len(again) == 60  # the hashes don't hinder
    new = draw(tmp_path / "new" / "b" / "1.png", 999)
    code, told = evaluated(capsys, single.path, new)
    assert code == 0 and "byte for byte" not in told
    assert "none of the new pictures is of =SUM(A1), c" in told
    code, told = evaluated(capsys, single.path, new, new)
    assert code == 0 and "1 of the 2 new pictures are given more than once" in told


def test_labels_that_are_missing_are_told(single, tmp_path, capsys):
    draw(tmp_path / "1.png", 0)
    (tmp_path / "t.csv").write_text("path,class\n1.png,\n1.png,b\n")
    code, told = evaluated(capsys, single.path, tmp_path / "t.csv", "--labels", "class")
    assert code == 2 and "1 pictures have no label: 1.png" in told
    code, told = evaluated(capsys, single.path, "-")
    assert code == 2 and "standard input have no labels" in told


# ---- elsewhere


def test_reading_the_module_needs_no_torch_and_the_public_name_is_there():
    code = ("import sys; import finetune; finetune.Predictor; "
            "import finetune.prediction.predicting; "
            "print(sorted({'torch', 'timm', 'sklearn', 'scipy'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert finetune.Predictor is Predictor


def test_wrong_options_are_told():
    for wrong in ({"form": "xml"}, {"precision": "int8"}, {"tta": "ten"}, {"batch_size": 0},
                  {"workers": -1}):
        with pytest.raises(ConfigurationError):
            PredictOptions(**wrong)


def test_intervals_of_new_pictures_count_the_groups_that_are_named(single, tmp_path, capsys):
    rows = ["path,label,patient"]
    for number in range(40):
        name = ("=SUM(A1)", "b", "c")[number % 3]
        draw(tmp_path / f"{number}.png", number, top=100 + 70 * (number % 3))
        rows.append(f"{number}.png,{name},p{number // 8}")
    (tmp_path / "new.csv").write_text("\n".join(rows))
    spans = []
    for number, words in enumerate(([], ["--groups", "patient"])):
        assert main(["evaluate", str(single.path), str(tmp_path / "new.csv"), "--labels", "label",
                     "--output", str(tmp_path / f"{number}.json"), *words]) == 0
        entry = json.loads((tmp_path / f"{number}.json").read_text())["intervals"]["accuracy"]
        spans.append(entry["high"] - entry["low"])
    assert spans[0] != spans[1]
    assert "count 5 groups" in capsys.readouterr().out
    assert main(["evaluate", str(single.path), str(tmp_path / "new.csv"), "--labels", "label",
                 "--groups", "patiend"]) == 2
    assert "patient" in capsys.readouterr().err


def test_folders_below_that_of_a_class_belong_to_it():
    from finetune.data.given_pictures import Given
    from finetune.prediction.new_data import truth_of
    from finetune.specs import LabelKind

    spec = LabelSpec(LabelKind.single, ("well", "ill"))
    given = [Given(path, path) for path in ("/x/new/ill/p7/1.png", "/x/new/well/2.png",
                                            "/x/new/ill/well/3.png")]
    assert truth_of(given, spec, None, ["/x/new"]).tolist() == [1, 0, 0]
    assert truth_of(given[:1], spec, None, ["/x/new/ill"]).tolist() == [1]
    with pytest.raises(InputError, match="p7"):  # above what was named nothing is looked for
        truth_of(given[:1], spec, None, ["/x/new/ill/p7"])


def test_decisions_of_another_run_are_refused(single, tmp_path, capsys):
    copy = shutil.copytree(single.path, tmp_path / "run")
    told = json.loads((copy / "decisions.json").read_text())
    told["label_spec"]["class_names"] = told["label_spec"]["class_names"][::-1]
    (copy / "decisions.json").write_text(json.dumps(told))
    code, said_ = said(capsys, copy, draw(tmp_path / "1.png", 0), "--output", tmp_path / "o.csv")
    assert code == 2 and "other classes" in said_


def test_new_pictures_that_can_not_be_read_are_left_out_whatever_their_names(single, tmp_path):
    """A name that is no text, and a file larger than any picture."""
    folder = tmp_path / "new" / "b"
    draw(folder / "1.png", 1)
    draw(folder / "2.png", 2)
    Path(os.fsdecode(bytes(folder) + b"/\xff.png")).write_bytes(b"x")
    with (folder / "huge.png").open("wb") as stream:
        stream.truncate(3 << 30)
    assert main(["evaluate", str(single.path), str(tmp_path / "new"), "--output",
                 str(tmp_path / "new.json")]) == 3
    told = json.loads((tmp_path / "new.json").read_text())
    assert told["pictures"] == 2 and len(told["unreadable"]) == 2


def test_the_share_of_far_pictures_counts_groups(single, tmp_path):
    rows = ["path,label,patient"]
    for number in range(40):
        draw(tmp_path / f"{number}.png", number, top=256 if number < 8 else 20)
        rows.append(f"{number}.png,b,p{number // 8}")
    (tmp_path / "new.csv").write_text("\n".join(rows))
    spans = []
    for name, words in (("a", []), ("b", ["--groups", "patient"])):
        assert main(["evaluate", str(single.path), str(tmp_path / "new.csv"), "--labels", "label",
                     "--output", str(tmp_path / f"{name}.json"), *words]) == 0
        far = json.loads((tmp_path / f"{name}.json").read_text())["familiarity"]
        spans.append((far["low"], far["high"]))
    assert spans[0] != spans[1]
