"""Shortcuts in a run: measured at its start, told, and weighed against its model at its end."""

import cv2
import numpy as np
import pytest

from finetune import run as run_module
from finetune.assembly import assemble_data
from finetune.composition import compose
from finetune.data.cues import CueKind
from finetune.data.shortcuts import CueResult, Verdict
from finetune.errors import InputError
from finetune.run import fit, resume
from finetune.run_directory import RunDirectory
from finetune.shortcuts import gain_warnings, weigh_cues

SMALL = ["model.name=resnet10t", "model.weights=null", "data.image_size=32", "data.batch_size=16",
         "data.workers=0", "training.epochs=1", "tracking.mode=disabled", "device=cpu",
         "data.near_duplicates=ignore"]
PER_CLASS = 30


def planted(kind, random, label):
    """A picture of noise, with something beside it that tells the label."""
    pixels = random.integers(60, 190, (40, 40, 3), np.uint8)
    if kind == "mode" and label:
        pixels = pixels[..., 0]
    if kind == "bytes":  # half of the rows hold no noise: the file is smaller
        pixels[:20 if label else 2] = 120
    if kind == "border":
        pixels[:2] = pixels[-2:] = pixels[:, :2] = pixels[:, -2:] = 230 if label else 20
    return pixels


def fill(folder, kind, seed=0):
    random = np.random.default_rng(seed)
    for number in range(2 * PER_CLASS):
        label = number % 2
        path = folder / ("cat", "dog")[label] / f"{random.integers(1 << 40)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), planted(kind, random, label))
    return folder


def assembled(folder, *words):
    return assemble_data(compose([f"data.root={folder}", *SMALL, *words]).config, str(folder),
                         with_cues=True)


def trained(folder, tmp_path, *words, **more):
    return fit(compose([f"data.root={folder}", f"output_dir={tmp_path / 'runs'}", *SMALL,
                        *words]).config, **more)


def rows_of(run):
    return {row["cue"]: row for row in run.metrics["shortcuts"]}


def as_good_as(monkeypatch, value):
    """The model answers as well as is wished for: what it learned plays no part here."""
    whole = run_module.measure_answers

    def measured(*args):
        metrics = whole(*args)
        metrics["test"]["balanced_accuracy"] = value
        return metrics

    monkeypatch.setattr(run_module, "measure_answers", measured)


def test_grey_against_colour_is_told_from_the_start_to_the_report(tmp_path, capsys):
    run = trained(fill(tmp_path / "set", "mode"), tmp_path)
    told = "shortcut: colour mode: every 'cat' picture is RGB, 30 of 30; every other one is grey"
    assert told in capsys.readouterr().err
    assert any(told in text for text in run.environment["warnings"])
    row = rows_of(run)["colour mode"]
    assert row["level"] == "shortcut" and row["balanced_accuracy"] == 1 and row["p"] <= 0.05
    assert 0.8 < row["low"] < 1 == row["high"] and row["chance"] == 0.5
    page = (run.path / "report.html").read_text()
    assert "What could be told without looking at content" in page
    assert "How pictures are stored tells the class" in page


@pytest.mark.parametrize(("kind", "cue"), [("bytes", "file size"), ("border", "border colours")])
def test_content_is_a_note_at_first_and_a_shortcut_beside_a_model_that_does_little_more(
        kind, cue, tmp_path, monkeypatch, capsys, without_pages):
    as_good_as(monkeypatch, 0.99)
    run = trained(fill(tmp_path / "set", kind), tmp_path)
    row = rows_of(run)[cue]
    assert row["level"] == "shortcut" and row["kind"] == "content"
    assert row["share_of_gain"] == pytest.approx((row["balanced_accuracy"] - 0.5) / 0.49)
    told = [line for line in capsys.readouterr().err.splitlines() if "shortcut" in line]
    assert len(told) == 1 and cue in told[0] and "on test is 0.99" in told[0]
    assert told[0].removeprefix("! ") in run.environment["warnings"]
    assert not any("shortcut" in text for text in assembled(tmp_path / "set").warnings)


@pytest.mark.parametrize(("model", "level", "share"), [(0.95, "note", 4 / 9),
                                                       (0.88, "shortcut", 0.2 / 0.38)])
def test_content_is_raised_from_half_of_the_models_gain(model, level, share):
    cue = CueResult("brightness", CueKind.content, Verdict.note, 0.7, (0.6, 0.8), 0.5, 0.01, 60,
                    60, "words")
    values = {"balanced_accuracy": model, "per_class": {
        "cat": {"support": 9}, "dog": {"support": 9}, "absent": {"support": 0}}}
    (row,) = weigh_cues([cue], values)
    assert row["level"] == level and row["share_of_gain"] == pytest.approx(share)
    assert bool(gain_warnings([row], values, "test")) == (level == "shortcut")


def test_pictures_without_a_shortcut_raise_no_alarm(tmp_path):
    alarms = sum(any("shortcut" in text for text in
                     assembled(fill(tmp_path / str(seed), "plain", seed)).warnings)
                 for seed in range(6))
    assert alarms == 0


def test_permuted_classes_hide_a_planted_shortcut(tmp_path):
    """The same pictures with labels from a table that has nothing to do with them."""
    folder = fill(tmp_path / "set", "mode")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*.png"))
    alarms = 0
    for seed in range(8):
        labels = np.random.default_rng(seed).permutation(np.arange(len(names)) % 2)
        rows = [f"{name},{'ab'[label]}" for name, label in zip(names, labels, strict=True)]
        (folder / "table.csv").write_text("\n".join(["path,label", *rows]))
        alarms += any(cue.verdict != "nothing"
                      for cue in assembled(folder, "data.labels_file=table.csv").cues)
    assert alarms <= 2  # at a rate of .05, 3 or more of 8 come in less than 1 % of cases


def test_switched_off_nothing_is_looked_for(tmp_path, without_pages, capsys):
    run = trained(fill(tmp_path / "set", "mode"), tmp_path, "data.shortcuts=ignore")
    assert run.metrics["shortcuts"] == [] and "shortcut" not in capsys.readouterr().err
    assert not any("shortcut" in text for text in run.environment["warnings"])


def test_several_labels_are_not_measured(tmp_path):
    folder = fill(tmp_path / "set", "mode")
    rows = [f"{p.relative_to(folder).as_posix()},{p.parent.name}{'|odd' * (i % 2)}"
            for i, p in enumerate(sorted(folder.glob("*/*.png")))]
    (folder / "table.csv").write_text("\n".join(["path,label", *rows]))
    data = assembled(folder, "data.labels_file=table.csv", "data.label_separator=|")
    assert data.cues == [] and not any("shortcut" in text for text in data.warnings)


def test_what_only_patients_have_in_common_is_no_shortcut(tmp_path):
    """Ten patients, each with a size of its own: nothing is known of an eleventh."""
    random = np.random.default_rng(5)
    for patient in range(10):
        for number in range(8):
            path = tmp_path / "set" / "ab"[patient in (0, 3, 4, 7, 8)] / f"p{patient}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), random.integers(0, 255, (40, 30 + patient, 3), np.uint8))
    grouped = assembled(tmp_path / "set", r"data.group_from=p\d+")
    assert not any("shortcut" in text for text in grouped.warnings)
    assert any("shortcut: picture size" in text for text in assembled(tmp_path / "set").warnings)


def test_a_resumed_run_has_the_same_shortcuts(tmp_path, monkeypatch, without_pages):
    folder = fill(tmp_path / "set", "mode")
    whole = trained(folder, tmp_path)

    def stopped(*args):
        raise InputError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_finish", stopped)
        with pytest.raises(InputError, match="stopped"):
            trained(folder, tmp_path / "again")
    (left,) = (tmp_path / "again/runs").iterdir()
    done = resume(RunDirectory(left))
    assert done.metrics["shortcuts"] == whole.metrics["shortcuts"] != []
    assert done.environment["warnings"] == whole.environment["warnings"]
