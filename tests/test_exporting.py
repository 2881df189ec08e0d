"""An exported model answers as its run, in any batch, without torch, or is not written."""

import csv
import json
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import hostile_files
import numpy as np
import pytest
import torch
from run_builder import make_run
from test_predicting import draw

from finetune.__main__ import main
from finetune.errors import CheckError, ConfigurationError, InputError
from finetune.exporting import exporting, formats
from finetune.exporting.exporting import ExportOptions, export
from finetune.exporting.parity import TIE, check_parity
from finetune.prediction.predictor import Predictor
from finetune.run_directory import RunDirectory

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NO_TORCH = """
import sys
for name in ("torch", "torchvision", "timm", "albumentations", "sklearn", "scipy", "wandb",
             "safetensors", "matplotlib", "jinja2"):
    sys.modules[name] = None
from finetune.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def draw_all(folder, count=45, classes=3, **kind):
    end = "png" if kind.get("channels", 3) in (1, 3) and "dtype" not in kind else "tif"
    for number in range(count):
        draw(folder / "abc"[number % classes] / f"{number:03d}.{end}", number,
             top=100 + 70 * (number % classes), **kind)
    return folder


def run_of(folder, *words, **kind):
    return make_run(folder, f"data.root={draw_all(folder / 'pictures', **kind)}", *words)


def several_labels(folder):
    rows = ["path,label,fever,cough"]
    for number in range(60):
        draw(folder / f"{number}.png", number, top=90 + 80 * (number % 2) + 60 * (number % 3 == 0))
        rows.append(f"{number}.png,x,{number % 2},{int(number % 3 == 0)}")
    (folder / "table.csv").write_text("\n".join(rows))
    return make_run(folder, f"data.root={folder}", "data.labels_file=table.csv",
                    "data.label_column=fever,cough", "data.label_kind=multi")


def ordered(folder):
    return run_of(folder, "data.label_kind=ordinal", "data.class_order=a,b,c")


RUNS = {
    "resnet18": lambda folder: run_of(folder, "model.name=resnet18"),
    "efficientnet_lite0": lambda folder: run_of(folder, "model.name=efficientnet_lite0"),
    "resnet20": lambda folder: run_of(folder, "model.name=resnet20"),
    "convnext": lambda folder: run_of(folder, "model.name=convnext_atto"),
    "vit": lambda folder: run_of(folder, "model.name=test_vit", "data.image_size=160"),
    "uint16 x 13": lambda folder: run_of(folder, dtype=np.uint16, channels=13),
    "float32": lambda folder: run_of(folder, "model.name=resnet20", dtype=np.float32, channels=2),
    "grey, mlp, checkpointing": lambda folder: run_of(
        folder, "model.head=mlp", "training.grad_checkpointing=true", channels=1),
    "several labels": several_labels,
    "ordered": ordered,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three classes by resnet20, with a calibration that changes answers."""
    folder = tmp_path_factory.mktemp("exported")
    made = run_of(folder, "model.name=resnet20")
    return calibrate(made)


def calibrate(made):
    names = made.environment["label_spec"]["class_names"]
    told = made.read_json("decisions.json")
    width = len(names)
    told["calibration"] |= {"kind": "vector", "kept": True, "scale": [0.5 + 0.3 * k for k in
                                                                      range(width)],
                            "bias": [0.2 * k - 0.1 for k in range(width)]}
    (made.path / "decisions.json").write_text(json.dumps(told))
    return made


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(run, path)
    return path


def pictures_of(run):
    found = sorted(Path(run.config.data.root).rglob("*"))
    return [str(path) for path in found if path.suffix in (".png", ".tif")]


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("kind", RUNS)
def test_onnx_gives_the_runs_probabilities(kind, tmp_path):
    run = calibrate(RUNS[kind](tmp_path))
    parity = export(run, tmp_path / "m.onnx")
    assert parity.difference <= 1e-4 and parity.pictures >= 8
    own, sent = Predictor.from_run(run), Predictor.from_export(tmp_path / "m.onnx", batch_size=7)
    names = pictures_of(run)[:23]
    for one, other in zip(own(names), sent(names), strict=True):
        assert np.abs(np.subtract(one.probabilities, other.probabilities)).max() <= 1e-4
        assert (one.name, one.warnings) == (other.name, other.warnings)
    for part in ("spec", "labels", "decisions", "origin", "seen", "far"):
        assert getattr(own, part) == getattr(sent, part), part


def test_rows_are_the_same_by_the_run_and_by_the_export_without_torch(run, exported, tmp_path):
    root = run.config.data.root
    assert main(["predict", str(run.path), root, "--output", str(tmp_path / "run.csv")]) == 0
    done = subprocess.run([sys.executable, "-c", NO_TORCH, "predict", str(exported), root,
                           "--output", str(tmp_path / "onnx.csv")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [rows_of(tmp_path / name) for name in ("run.csv", "onnx.csv")]
    assert len(rows[0]) == len(rows[1]) == 45
    for one, other in zip(*rows, strict=True):
        for column, value in one.items():
            if column.startswith("probability_"):
                assert abs(float(value) - float(other[column])) <= 1e-4
            else:
                assert value == other[column]


def test_python_without_torch(exported, run):
    code = NO_TORCH.replace("from finetune.__main__ import main\nsys.exit(main(sys.argv[1:]))", """
import finetune
for answer in finetune.Predictor.from_export(sys.argv[1])(sys.argv[2:]):
    print(answer.predicted)
""")
    names = pictures_of(run)[:3]
    done = subprocess.run([sys.executable, "-c", code, str(exported), *names], capture_output=True,
                          text=True, check=True)
    assert done.stdout.split() == [a.predicted for a in Predictor.from_run(run)(names)]


def test_the_file_is_one_and_says_what_it_is(exported, run):
    assert [p.name for p in exported.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert not any(t.external_data for t in model.graph.initializer)
    told = {entry.key: entry.value for entry in model.metadata_props}
    document = json.loads(told["finetune"])
    assert told["classes"] == "a, b, c" and "rehearsal" not in told
    assert document["labels"]["class_names"] == ["a", "b", "c"]
    assert document["origin"]["weights"] == run_hash(run)
    assert document["export"]["opset"] == model.opset_import[0].version == formats.OPSET
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims[1:] == [32, 32, 3] and isinstance(dims[0], str)


def run_hash(run):
    from finetune.files import hash_file

    return hash_file(run.best_weights)


def test_pt2_takes_any_batch_and_gives_the_same(run, tmp_path):
    export(run, tmp_path / "m.pt2")
    told = {"finetune.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(str(tmp_path / "m.pt2"), extra_files=told).module()
    predictor = Predictor.from_run(run)
    batch = np.stack([predictor.prepare(name).pixels for name in pictures_of(run)[:11]])
    for count in (1, 5, 11):
        odds, logits, far = (each.detach().numpy() for each in
                             module(torch.from_numpy(batch[:count])))
        wanted = predictor.network(batch[:count])
        assert np.allclose(logits, wanted.logits, rtol=1e-3, atol=1e-4)
        assert np.abs(odds - wanted.probabilities).max() <= 1e-4
        assert np.allclose(far, wanted.distances, atol=1e-3 * predictor.far.limit)
    assert json.loads(told["finetune.json"])["export"]["format"] == "pt2"


def test_what_lies_beside_an_export_for_timm_stays(tmp_path):
    """A card that a person filled in; timm's transforms can be built, of the run's size."""
    run = run_of(tmp_path / "data", "model.name=resnet10t", "data.resize=crop")
    sent = tmp_path / "sent"
    export(run, sent, ExportOptions(form="timm"))
    (sent / "README.md").write_text("mine")
    (sent / "model.safetensors").write_bytes(b"old")
    export(run, sent, ExportOptions(form="timm", overwrite=True))
    assert (sent / "README.md").read_text() == "mine"
    assert (sent / "model.safetensors").stat().st_size > 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "sent"]
    import timm

    model = timm.create_model(f"local-dir:{sent}", pretrained=True)
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["crop_pct"]) == ((3, 32, 32), 1.0)
    assert not {"test_input_size", "test_crop_pct"} & json.loads(
        (sent / "config.json").read_text())["pretrained_cfg"].keys()
    assert timm.data.create_transform(**config) is not None


def test_an_interrupted_overwrite_loses_nothing(tmp_path, monkeypatch):
    run = run_of(tmp_path / "data", "model.name=resnet10t")
    sent = tmp_path / "sent"
    export(run, sent, ExportOptions(form="timm"))
    before = {p.name for p in sent.iterdir()}

    def interrupted(made, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "_put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(run, sent, ExportOptions(form="timm", overwrite=True))
    assert {p.name for p in sent.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "sent"]


@pytest.mark.parametrize("half", [False, True])
def test_timm_loads_its_folder_by_itself(half, tmp_path):
    """In a process that never sees our package."""
    run = run_of(tmp_path / "data", "model.name=resnet10t", channels=1)
    export(run, tmp_path / "sent", ExportOptions(form="timm", half=half))
    assert {p.name for p in (tmp_path / "sent").iterdir()} == {"config.json", "model.safetensors",
                                                               "finetune.json"}
    code = ("import sys, timm, torch, json; "
            "m = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval().float(); "
            "x = torch.linspace(-2, 2, 2 * 32 * 32).view(2, 1, 32, 32); "
            "assert 'finetune' not in sys.modules; "
            "print(json.dumps([m(x).tolist(), m.pretrained_cfg['label_names'], "
            "list(m.pretrained_cfg['mean'])]))")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "sent")],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    logits, names, mean = json.loads(done.stdout.splitlines()[-1])
    from finetune.prediction.network import load_plain_model

    x = torch.linspace(-2, 2, 2 * 32 * 32).view(2, 1, 32, 32)
    own = load_plain_model(run)(x).detach().numpy()
    assert np.abs(own - logits).max() <= (2e-2 if half else 1e-4) * np.abs(own).max()
    assert names == ["a", "b", "c"] and mean == list(Predictor.from_run(run).spec.mean)


def test_timm_gets_only_what_timm_can_build(run, tmp_path):
    with pytest.raises(ConfigurationError, match=r"resnet20.*ONNX"):
        export(run, tmp_path / "sent", ExportOptions(form="timm"))
    with pytest.raises(ConfigurationError, match="ordered"):
        export(ordered(tmp_path / "data"), tmp_path / "sent", ExportOptions(form="timm"))
    assert not (tmp_path / "sent").exists()


def test_half_is_half_as_large_and_keeps_the_classes(run, exported, tmp_path):
    parity = export(run, tmp_path / "h.onnx", ExportOptions(half=True))
    assert parity.changed == 0 and 0 < parity.difference < 0.02
    assert (tmp_path / "h.onnx").stat().st_size < 0.62 * exported.stat().st_size
    names = pictures_of(run)
    answers = zip(Predictor.from_run(run)(names), Predictor.from_export(tmp_path / "h.onnx")(names),
                  strict=True)
    for one, other in answers:
        top = sorted(one.probabilities)
        assert one.predicted == other.predicted or top[-1] - top[-2] < TIE


def test_half_that_overflows_is_not_written(run, tmp_path, capsys):
    """A network whose activations leave the range of 16-bit floats."""
    copy = RunDirectory(shutil.copytree(run.path, tmp_path / "run"))
    from safetensors.torch import load_file, save_file

    weights = load_file(copy.best_weights)
    name = next(k for k, v in weights.items() if v.ndim == 2)
    save_file(weights | {name: weights[name] * 1e6}, copy.best_weights,
              metadata={"model": "resnet20", "epoch": "1"})
    assert main(["export", str(copy.path), str(tmp_path / "h.onnx"), "--half"]) == 3
    assert "without --half" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_another_answer_is_exit_code_3_and_nothing_is_left(run, tmp_path, monkeypatch, capsys):
    class Shifted(exporting.ExportedModel):
        def forward(self, pictures):
            odds, *others = super().forward(pictures)
            return odds + 2e-4, *others

    monkeypatch.setattr(exporting, "ExportedModel", Shifted)
    for name in ("m.onnx", "m.pt2"):
        assert main(["export", str(run.path), str(tmp_path / name)]) == 3
        assert "differ" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_network_that_can_not_be_exported_is_told(run, tmp_path, monkeypatch):
    class Python(exporting.ExportedModel):
        def forward(self, pictures):
            factor = 2 if pictures.float().sum() > 0 else 3  # known when it runs alone
            odds, *others = super().forward(pictures)
            return odds * factor, *others

    monkeypatch.setattr(exporting, "ExportedModel", Python)
    with pytest.raises(CheckError, match="can't take this network"):
        export(run, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_when_it_runs_is_exit_code_3(run, tmp_path, monkeypatch, capsys):
    def failing(made, form, predictor):
        def network(batch):
            raise RuntimeError("no batch of this size")
        return network

    monkeypatch.setattr(exporting, "_network_of", failing)
    assert main(["export", str(run.path), str(tmp_path / "m.pt2")]) == 3
    assert "no batch of this size" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rows_of_other_arithmetic_are_not_continued(run, exported, tmp_path, capsys):
    """Those of 16-bit floats after those of 32."""
    from finetune.prediction.files import partial_of

    export(run, tmp_path / "h.onnx", ExportOptions(half=True))
    words = ["predict", str(exported), f"{run.config.data.root}/a", "--output",
             str(tmp_path / "a.csv")]
    with monkeypatched_rows():
        assert main(words) != 0
    assert partial_of(tmp_path / "a.csv").exists()
    words[1] = str(tmp_path / "h.onnx")
    assert main([*words, "--resume"]) == 2
    assert "other" in capsys.readouterr().err
    words[1] = str(exported)
    assert main([*words, "--resume"]) == 0


@contextmanager
def monkeypatched_rows():
    """The command ends before its file has its name."""
    from finetune.errors import FinetuneError
    from finetune.prediction.files import RowFile

    def fail(self):
        self.close()
        raise FinetuneError("power cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowFile, "finish", fail)
        yield


def test_parity_sees_single_pictures_and_batches(run):
    predictor = Predictor.from_run(run)
    pictures = [predictor.prepare(name) for name in pictures_of(run)[:9]]
    own = predictor.network

    def changed(when, change):
        return lambda batch: change(own(batch)) if when(len(batch)) else own(batch)

    def swapped(answers):
        return answers._replace(probabilities=answers.probabilities[:, ::-1])

    def broken(answers):
        return answers._replace(probabilities=answers.probabilities * np.nan)

    def farther(answers):
        return answers._replace(distances=answers.distances + 0.1 * predictor.far.limit)

    assert check_parity(predictor, own, pictures).passes(half=False)
    for when in (lambda count: count == 1, lambda count: count > 1):
        for change in (swapped, broken, farther):
            parity = check_parity(predictor, changed(when, change), pictures)
            assert not parity.passes(half=False) and parity.complaint(half=False)
        for change in (broken, farther):
            assert not check_parity(predictor, changed(when, change), pictures).passes(half=True)


BAD = {
    "no run": (["nothing", "m.onnx"], "no run"),
    "no format": (["RUN", "model"], "which format"),
    "other end": (["RUN", "m.onxx"], "did you mean"),
    "format against name": (["RUN", "m.pt2", "--format", "onnx"], "does not go with"),
    "no folder": (["RUN", "none/m.onnx"], "there is no folder"),
    "no such pictures": (["RUN", "m.onnx", "--pictures", "none.png"], "none.png"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_words_are_exit_code_2(case, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, told = BAD[case]
    assert main(["export", *[str(run.path) if w == "RUN" else w for w in words]]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_kept_or_replaced_when_asked(run, tmp_path, capsys):
    target = tmp_path / "m.onnx"
    target.write_text("mine")
    assert main(["export", str(run.path), str(target)]) == 2
    assert target.read_text() == "mine" and "--overwrite" in capsys.readouterr().err
    assert main(["export", str(run.path), str(target), "--overwrite"]) == 0
    Predictor.from_export(target)
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "thesis.txt").write_text("years")
    timm_run = RunDirectory(run.path)
    for words in ([], ["--overwrite"]):
        assert main(["export", str(timm_run.path), str(tmp_path / "dear"), "--format", "timm",
                     *words]) == 2
    assert (tmp_path / "dear" / "thesis.txt").read_text() == "years"


def test_an_unfinished_run_and_one_of_a_newer_version_are_refused(run, tmp_path, capsys):
    copy = shutil.copytree(run.path, tmp_path / "run")
    told = json.loads((copy / "environment.json").read_text())
    told["versions"]["finetune-images"] = "99.0"
    (copy / "environment.json").write_text(json.dumps(told))
    assert main(["export", str(copy), str(tmp_path / "m.onnx")]) == 2
    assert "99.0" in capsys.readouterr().err
    (copy / "metrics.json").unlink()
    assert main(["export", str(copy), str(tmp_path / "m.onnx")]) == 2
    assert "resume" in capsys.readouterr().err


def test_pictures_that_moved_are_named_by_hand(tmp_path, capsys):
    run = run_of(tmp_path / "data", "model.name=resnet20")
    moved = (tmp_path / "data" / "pictures").rename(tmp_path / "elsewhere")
    assert main(["export", str(run.path), str(tmp_path / "m.onnx")]) == 2
    assert "--pictures" in capsys.readouterr().err
    words = ["export", str(run.path), str(tmp_path / "m.onnx"), "--pictures", str(moved / "a")]
    assert main(words) == 0


def damaged(exported):
    """Name to bytes, and what is told."""
    good = exported.read_bytes()
    other = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    model = onnx.load(exported)
    yield "random", np.random.default_rng(0).bytes(5000), "no ONNX model"
    yield "empty", b"", "no ONNX model"
    yield "half of it", good[:len(good) // 2], "no ONNX model"
    yield "not ours", other.SerializeToString(), "not exported by finetune|no ONNX model"
    for key, change, told in (
            ("newer", lambda d: d.update(format=2, version="99.0"), "99.0"),
            ("classes", lambda d: d["labels"].update(class_names=["a", "b"]), "other classes"),
            ("monstrous size", lambda d: d["spec"].update(size=[10**6, 10**6]), "damaged"),
            ("other size", lambda d: d["spec"].update(size=[64, 64]), "was changed"),
            ("no decisions", lambda d: d.update(decisions=3), "damaged"),
            ("infinite size", lambda d: d["spec"].update(size=[float("inf"), 8]), "damaged"),
            ("nothing measured", lambda d: d["export"].pop("measured"), "damaged"),
            ("other decisions", lambda d: d["decisions"]["label_spec"].update(
                class_names=["c", "b", "a"]), "other classes"),
            ("other widths", lambda d: d["decisions"]["calibration"].update(scale=[1.0]),
             "other classes"),
            ("no labels", lambda d: d.pop("labels"), "damaged")):
        twin = onnx.ModelProto()
        twin.CopyFrom(model)
        for entry in twin.metadata_props:
            if entry.key == "finetune":
                document = json.loads(entry.value)
                change(document)
                entry.value = json.dumps(document)
        yield key, twin.SerializeToString(), told


def test_damaged_files_are_told(exported, tmp_path, run, capsys):
    for name, content, told in damaged(exported):
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        with pytest.raises(InputError, match=told):
            Predictor.from_export(path)
        words = ["predict", str(path), run.config.data.root, "--output", str(tmp_path / "a.csv")]
        assert main(words) == 2, name
        assert "Traceback" not in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_hostile_exports_run_nothing_and_are_told(exported, run, tmp_path, monkeypatch, capsys):
    """Neither code nor other files; a file with the name of one in place of the one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"\0" * 10_000_000)
    there = sorted(p.name for p in tmp_path.iterdir())
    for name, content in hostile_files.exports(exported.read_bytes(), tmp_path / "canary").items():
        (tmp_path / "m.onnx").write_bytes(content)
        code = main(["predict", "m.onnx", f"{run.config.data.root}/a", "--output", "a.csv"])
        told = capsys.readouterr()
        if name != "repeated":  # protobuf: what comes twice is joined
            assert code == 2 and "error: " in told.err and "Traceback" not in told.err, name
        for made in ("m.onnx", "a.csv"):
            (tmp_path / made).unlink(missing_ok=True)
        assert sorted(p.name for p in tmp_path.iterdir()) == there, name


def test_a_picture_that_is_far_is_told_by_the_export_too(exported, run):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    own, sent = Predictor.from_run(run), Predictor.from_export(exported)
    assert own.far is not None
    told = [predictor(noise)[0].warnings for predictor in (own, sent)]
    assert told[0] == told[1] and any("far from" in text for text in told[0])


def test_data_outside_of_the_file_are_not_read(exported, tmp_path, monkeypatch):
    """Neither beside it, nor anywhere else: a model is one file."""
    model = onnx.load(exported)
    monkeypatch.chdir(tmp_path)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True,
                    location="weights.bin", size_threshold=0)
    with pytest.raises(InputError, match="no ONNX model"):
        Predictor.from_export(tmp_path / "m.onnx")


def test_predict_names_what_it_does_not_take(run, exported, tmp_path, capsys):
    cases = [([str(exported), "--precision", "bf16"], "--half"),
             ([str(tmp_path / "m.pt2")], "Files of torch"),
             ([str(tmp_path / "none.onnx")], "can't be read")]
    for words, told in cases:
        (tmp_path / "m.pt2").write_bytes(b"PK")
        assert main(["predict", words[0], run.config.data.root, "--output",
                     str(tmp_path / "a.csv"), *words[1:]]) == 2
        assert told in capsys.readouterr().err


def test_a_rehearsals_export_is_stamped(tmp_path, run):
    """In the file, and in each row that it predicts."""
    copy = RunDirectory(shutil.copytree(run.path, tmp_path / "run"))
    told = copy.environment | {"rehearsal": {"data.root": [None, "generated"]}}
    (copy.path / "environment.json").write_text(json.dumps(told))
    export(copy, tmp_path / "m.onnx")
    held = {e.key: e.value for e in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert "REHEARSAL" in held["rehearsal"]
    words = ["predict", str(tmp_path / "m.onnx"), f"{run.config.data.root}/a", "--output",
             str(tmp_path / "a.csv")]
    assert main(words) == 0
    rows = rows_of(tmp_path / "a.csv")
    assert rows and all(row["rehearsal"] == "true" for row in rows)


def test_an_export_is_measured_on_new_pictures_as_its_run(run, exported, tmp_path, capsys):
    """The same figures, beside those that the run measured of itself."""
    root, told = run.config.data.root, []
    for number, model in enumerate((str(run.path), str(exported))):
        words = ["evaluate", model, f"{root}/a", f"{root}/b", f"{root}/c", "--output",
                 str(tmp_path / f"{number}.json")]
        assert main(words) == 0
        told.append(json.loads((tmp_path / f"{number}.json").read_text()))
        own = f"{run.metrics['test']['log_loss']:.4f}"
        assert own in next(line for line in capsys.readouterr().out.splitlines()
                           if line.startswith("log_loss"))
    for name, value in told[0]["new"].items():
        if isinstance(value, float):
            assert told[1]["new"][name] == pytest.approx(value, abs=1e-4), name
    assert told[0]["weights"] == told[1]["weights"]
    assert main(["evaluate", str(exported)]) == 2
    assert "labelled" in capsys.readouterr().err
