import json
import re
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune import verifying
from finetune.__main__ import main
from finetune.composition import compose
from finetune.evaluation.predictions import Predictions
from finetune.files import hash_file
from finetune.run import fit
from finetune.run_directory import RunDirectory


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run on 36 pictures of three classes, and the pictures' folder."""
    folder, random = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    for number in range(36):
        path = folder / "pictures" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = random.integers(0, 100, (24, 32, 3)) + 50 * (number % 3)
        cv2.imwrite(str(path), picture.astype(np.uint8))
    return fit(compose([
        f"data.root={folder / 'pictures'}", "model.name=resnet10t", "model.weights=null",
        "data.image_size=32", "data.batch_size=8", "data.workers=0", "training.epochs=2",
        "tracking.mode=disabled", "device=cpu", f"output_dir={folder / 'runs'}"]).config)


@pytest.fixture
def run(made, tmp_path, without_pages, monkeypatch):
    """A copy of the run; the pictures are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made.path, tmp_path / "run")
    pictures = {path: path.read_bytes() for path in Path(made.config.data.root).rglob("*.png")}
    yield RunDirectory(tmp_path / "run")
    for path, content in pictures.items():
        path.write_bytes(content)


def verified(run, capsys, *words):
    code = main(["verify", str(run.path), *words])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return code, told.out if code == 0 else told.err


def test_a_run_left_alone_is_verified(run, capsys):
    code, told = verified(run, capsys)
    assert code == 0 and "is what it says" in told


def test_hashes_are_of_the_start_and_stay(run):
    files = run.environment["files"]
    assert files == {name: hash_file(run.path / name) for name in ("config.yaml", "splits.csv")}
    (run.path / "splits.csv").write_text("other")
    run.write_environment(run.environment)
    assert run.environment["files"] == files


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def other_version(run):
    edit_json(run.path / "environment.json", lambda v: v["versions"].update(torch="1.0"))


def other_split(run):
    path = run.path / "splits.csv"
    path.write_text(path.read_text().replace("train", "test", 1))


def other_config(run):
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("label_smoothing: 0.0", "label_smoothing: 0.1"))


def better_metrics(run):
    edit_json(run.path / "metrics.json", lambda v: v["test"].update(accuracy=0.99))


def better_class(run):
    edit_json(run.path / "metrics.json",
              lambda v: v["test"]["per_class"]["b"].update(recall=0.98))


def other_weights(run):
    tensors = load_file(run.best_weights)
    name = next(n for n in tensors if n.endswith("fc.weight"))
    save_file({**tensors, name: tensors[name] + torch.randn_like(tensors[name])},
              run.best_weights)


def other_picture(run):
    path = next(Path(run.config.data.root, "a").iterdir())
    cv2.imwrite(str(path), np.full((24, 32, 3), 7, np.uint8))


def other_labels(run):
    path = run.predictions_path("test")
    found = Predictions.load(path)
    Predictions(found.ids, (found.labels + 1) % 3, found.logits, found.label_spec).save(path)


def no_predictions(run):
    run.predictions_path("val").unlink()


def other_history(run):
    history = run.history
    for entry in history:
        entry["val"]["balanced_accuracy"] = 0.97
    run.write_history(history)


@pytest.mark.parametrize(("change", "named"), [
    (other_version, "version of torch: was 1.0, is"), (other_split, "splits.csv was changed"),
    (other_config, "config.yaml was changed"), (better_metrics, "accuracy says 0.99"),
    (better_class, "test: per_class: b: recall says 0.98"),
    (other_weights, "largest difference of a logit"), (other_picture, "the data changed"),
    (other_labels, "test.npz has other labels"), (no_predictions, "val.npz"),
    (other_history, "history.jsonl")])
def test_what_was_changed_is_exit_3_and_named(run, change, named, capsys):
    change(run)
    code, told = verified(run, capsys)
    assert code == 3 and re.search(re.escape(named), told), told


def test_every_difference_is_named_at_once(run, capsys):
    for change in (other_version, other_config, better_metrics):
        change(run)
    code, told = verified(run, capsys)
    assert code == 3 and "3 differences:" in told


def test_a_run_that_is_not_finished_can_not_be_verified(run, capsys):
    (run.path / "metrics.json").unlink()
    code, told = verified(run, capsys)
    assert code == 2 and "resume" in told


def test_two_trainings_are_the_same_to_the_bit_and_leave_nothing(run, tmp_path, capsys):
    before = sorted(p for p in tmp_path.rglob("*") if p.name != "__pycache__")
    code, told = verified(run, capsys, "--twice")
    assert code == 0 and "the same to the bit" in told
    assert sorted(p for p in tmp_path.rglob("*") if p.name != "__pycache__") == before


def test_a_training_that_is_not_the_same_twice_is_named(run, monkeypatch, capsys):
    made = []

    def differing(config, **given):
        made.append(fit(config, **given))
        if len(made) == 2:
            other_weights(made[1])
            history = made[1].history
            history[0]["train_loss"] += 1e-12
            made[1].write_history(history)
        return made[-1]

    monkeypatch.setattr(verifying, "fit", differing)
    code, told = verified(run, capsys, "--twice")
    assert code == 3 and "weights: fc.weight differs" in told and "history: train_loss" in told


def test_the_archive_of_a_real_run_knows_its_settings_and_is_small(run, tmp_path, capsys):
    assert main(["evidence", str(run.path), str(tmp_path / "e.zip")]) == 0
    assert "read it before you hand it out" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "e.zip") as archive:
        claim = archive.read("CLAIM.md").decode()
        assert archive.read("report.html") == (run.path / "report.html").read_bytes()
    assert "training.epochs=2" in claim and "=default" not in claim
    assert "None" not in claim.replace("None.", "") and "36 pictures" in claim
    assert (tmp_path / "e.zip").stat().st_size < 3_000_000


@pytest.mark.slow
def test_a_rehearsal_is_verified_twice(tmp_path, without_pages, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recipe=baseline", "training.epochs=1", "tracking.mode=disabled"]) == 0
    run = RunDirectory(next((tmp_path / "runs").glob("*/")))
    assert verified(run, capsys, "--twice")[0] == 0
