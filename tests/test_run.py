"""The whole program: pictures in, run directory out, and a clear answer to whatever is wrong."""

import errno
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file, save_file
from wandb_server import serving

import finetune
from finetune import run as run_module
from finetune.__main__ import main
from finetune.composition import compose
from finetune.run import fit
from finetune.run_directory import RunDirectory

FILES = ["config.yaml", "environment.json", "history.jsonl", "metrics.json", "report.html",
         "splits.csv", "checkpoints/best.safetensors", "checkpoints/last.pt",
         "predictions/val.npz", "predictions/test.npz",
         *(f"figures/{name}.{kind}" for name in ("curves", "confusion_matrix", "roc",
                                                 "precision_recall", "confusion_matrix_normalised")
           for kind in ("png", "svg", "csv")),
         "figures/batch_train.png", "figures/batch_val.png"]
SMALL = ["model.name=resnet10t", "model.weights=null", "data.image_size=32", "data.batch_size=8",
         "data.workers=0", "training.epochs=1", "tracking.mode=disabled", "device=cpu"]


def picture(label, random, size=(24, 32, 3)):
    return (random.integers(0, 100, size) + 50 * label).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Class folders: 3 classes of 12 pictures."""
    random = np.random.default_rng(0)
    for number in range(36):
        path = tmp_path / "pictures" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture(number % 3, random))
    return tmp_path / "pictures"


@pytest.fixture
def no_pages(monkeypatch):
    monkeypatch.setattr(run_module, "write_figures", lambda path: [])
    monkeypatch.setattr(run_module.session, "write_batch_figures", lambda *args: None)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(folder, *words):
    return fit(compose([f"data.root={folder}", *SMALL, *words]).config)


def refused(*words, code=2, capsys):
    assert main(list(words)) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


# ---- rehearsals

@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["baseline", "medical", "remote_sensing", "linear_probe",
                                    "full_finetune", "gradual_unfreezing"])
def test_a_rehearsal_leaves_every_file(recipe, capsys):
    assert main([f"recipe={recipe}", "training.epochs=2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("REHEARSAL") and f"recipe={recipe} data.root=DIR" in "".join(out[:4])
    assert [p.name for p in RunDirectory.create("runs", "x").path.parent.iterdir()
            if p.name.startswith(f"rehearsal-{recipe}-")]
    run = next(p for p in RunDirectory.create("runs", "x").path.parent.glob("rehearsal-*"))
    assert [name for name in FILES if not (run / name).is_file()] == []
    assert len(list(run.rglob("config.yaml"))) == 1
    assert "REHEARSAL" in (run / "report.html").read_text(encoding="utf-8")
    assert 0.2 < json.loads((run / "metrics.json").read_text())["test"]["roc_auc"] <= 1


# ---- kinds of data

@pytest.mark.usefixtures("no_pages")
def test_thirteen_channels_of_sixteen_bits_train(tmp_path):
    random = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "bands" / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        bands = random.integers(0, 9000, (20, 20, 13)) + 3000 * (number % 2)
        tifffile.imwrite(path, bands.astype(np.uint16), photometric="minisblack",
                         planarconfig="contig")
    run = train(tmp_path / "bands")
    spec = run.environment["input_spec"]
    assert spec["channels"] == 13 and spec["dtype"] == "uint16" and len(spec["mean"]) == 13
    assert load_file(run.best_weights)["conv1.0.weight"].shape[1] == 13


@pytest.mark.usefixtures("no_pages")
def test_several_labels_with_unknown_ones_train(folder):
    rows = ["path,fever,cough"]
    for number in range(36):
        unknown = number % 12 == 5
        rows.append(f"{'abc'[number % 3]}/{number}.png,{'' if unknown else number % 2},"
                    f"{int(number % 3 == 0)}")
    (folder / "labels.csv").write_text("\n".join(rows))
    run = train(folder, "data.labels_file=labels.csv", "data.label_column=fever,cough")
    test = run.metrics["test"]
    assert set(test["per_class"]) == {"fever", "cough"} and "average_precision" in test
    assert run.environment["label_spec"]["kind"] == "multi"
    assert run.metrics["selection"]["metric"] == "average_precision"


def test_without_a_test_part_the_numbers_are_called_validation(folder, capsys):
    for part in ("train", "valid"):
        for name in "abc":
            (folder.parent / "parts" / part / name).mkdir(parents=True)
            files = sorted((folder / name).iterdir())
            for path in files[:8] if part == "train" else files[8:]:
                os.link(path, folder.parent / "parts" / part / name / path.name)
    run = train(folder.parent / "parts")
    assert "test" not in run.metrics
    assert "validation numbers, also used for selection" in capsys.readouterr().out
    assert "also used for selection" in (run.path / "report.html").read_text(encoding="utf-8")


def test_unreadable_pictures_are_all_named_and_can_be_skipped(folder, capsys):
    (folder / "a" / "broken.png").write_bytes(b"\x89PNG\r\n")
    (folder / "b" / "empty.jpg").write_bytes(b"")
    error = refused(f"data.root={folder}", *SMALL, capsys=capsys)
    assert "a/broken.png" in error and "b/empty.jpg" in error and "unreadable=skip" in error
    run = train(folder, "data.unreadable=skip")
    assert run.environment["data"]["skipped"] == ["a/broken.png", "b/empty.jpg"]
    assert "broken.png" in (run.path / "report.html").read_text(encoding="utf-8")


def leaking(folder):
    rows = ["path,label,split"]
    (folder / "a" / "copy.png").write_bytes((folder / "a" / "0.png").read_bytes())
    for path in sorted(folder.rglob("*.png")):
        part = "test" if path.name == "copy.png" else ("train", "val")[path.name.startswith("1")]
        rows.append(f"{path.relative_to(folder)},{path.parent.name},{part}")
    for name in "abc":
        cv2.imwrite(str(folder / name / "more.png"),
                    picture(1, np.random.default_rng(ord(name))))
        rows.append(f"{name}/more.png,{name},test")
    (folder / "labels.csv").write_text("\n".join(rows))


def test_a_leak_is_refused_and_a_waiver_is_printed(folder, capsys):
    leaking(folder)
    error = refused(f"data.root={folder}", *SMALL, capsys=capsys)
    assert "a/0.png" in error and "data.duplicates=drop_from_train" in error
    assert "data.waiver" in refused(f"data.root={folder}", "data.duplicates=allow", capsys=capsys)
    run = train(folder, "data.duplicates=allow", "data.waiver=they <know> it")
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "they &lt;know&gt; it" in page.split("<h2>")[0]


def test_a_repair_is_on_the_first_screen(folder):
    leaking(folder)
    run = train(folder, "data.duplicates=drop_from_train")
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "repaired" in page.split("<h2>")[0]
    assert "\na/0.png,a,,," in (run.path / "splits.csv").read_text()


# ---- what goes wrong

@pytest.mark.parametrize(("words", "told"), [
    (["data.root={folder}", "model.name=resnet5O"], "model.name=resnet5O"),
    (["data.root={folder}", "data.positive_class=d"], "positive_class"),
    (["data.root={folder}", "device=cuda"], "device=cuda"),
    (["data.root={folder}", "model.name=vit_tiny_patch16_224", "data.image_size=96"], "224"),
    (["data.root={folder}", "model.name=levit_128s", "data.image_size=96"], "levit_128s"),
    (["data.root={folder}", "optimizer.name=adamv"], "'adam'"),
    (["data.root={folder}", "optimizer.name=adahessian"], "second derivatives"),
    (["data.root={folder}", "training.select_metric=f1"], "select_metric"),
    (["data.root={folder}", "data.transform=areal"], "aerial"),
    (["data.root={folder}", "freezing.policy=below", "freezing.below=layer9"], "layer9"),
    (["data.root={folder}", "optimizer.stage_lrs={{layer9: 1}}"], "layer9"),
    (["data.root={folder}", "model.weights=nowhere.pth"], "nowhere.pth"),
    (["data.root={folder}s"], "did you mean"), (["data.root={folder}/a"], "a"),
    (["data.root={folder}", "output_dir=/dev/null/x"], "output_dir"),
    (["data.root={folder}", "training.epochs=0", "sead=1"], "sead"),
    (["recipe=medcal"], "medical"), (["data.root="], "data.root"),
])
def test_bad_input_is_exit_2_and_says_what(words, told, folder, capsys):
    if words[-1] == "device=cuda" and torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    given = [w.format(folder=folder) for w in words]
    keys = {w.split("=")[0] for w in given}
    small = [w for w in SMALL if w.split("=")[0] not in keys] if "recipe" not in keys else []
    assert told in refused(*given, *small, capsys=capsys)
    assert not (folder.parent / "runs").exists()  # nothing is left behind


def test_a_rehearsal_with_a_wrong_value_leaves_no_run(tmp_path, capsys):
    assert "timm has no such optimizer" in refused("optimizer.name=adamv", capsys=capsys)
    assert not any(tmp_path.glob("runs/*"))


def test_several_processes_are_refused(folder, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "WORLD_SIZE=2" in refused(f"data.root={folder}", *SMALL, capsys=capsys)


@pytest.mark.usefixtures("no_pages")
def test_a_loss_that_is_not_finite_names_the_batch(folder, capsys):
    wild = ["optimizer.lr=1000", "optimizer.name=sgd", "training.max_grad_norm=null"]
    error = refused(f"data.root={folder}", *SMALL, *wild, code=1, capsys=capsys)
    assert "diverged" in error
    error = refused(f"data.root={folder}", *[w for w in SMALL if "batch" not in w], *wild,
                    "data.batch_size=2", code=1, capsys=capsys)
    assert "NaN or infinite" in error and ".png" in error
    run = RunDirectory(next((folder.parent / "runs").glob("*/")))
    assert torch.load(run.last_checkpoint, weights_only=True)["state"] is not None


@pytest.mark.usefixtures("no_pages")
def test_a_full_disk_is_told_and_the_last_checkpoint_is_whole(folder, capsys, monkeypatch):
    real, calls = os.fsync, 0

    def full(handle):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    error = refused(f"data.root={folder}", *SMALL, "training.epochs=3", code=1, capsys=capsys)
    assert "No space left" in error
    run = RunDirectory(next((folder.parent / "runs").glob("*/")))
    assert torch.load(run.last_checkpoint, weights_only=True)["model"]
    assert not [p for p in run.path.rglob(".*") if p.is_file()]
    monkeypatch.undo()
    monkeypatch.chdir(folder.parent)
    assert main(["resume", str(run.path)]) == 0 and len(run.history) == 3


def test_training_without_torch_names_the_extra(folder):
    code = ("import sys; sys.modules['torch'] = None\n"
            f"from finetune.__main__ import main; sys.exit(main(['data.root={folder}']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and 'finetune-images[train]' in done.stderr
    assert "Traceback" not in done.stderr


# ---- after training

@pytest.mark.usefixtures("no_pages")
def test_a_failure_of_tracking_costs_no_result(folder, monkeypatch):
    def broken(self, part, metrics):
        raise RuntimeError("the tracker broke")

    monkeypatch.setattr(run_module.Tracker, "log_results", broken)
    with pytest.raises(RuntimeError, match="the tracker broke"):
        train(folder)
    run = RunDirectory(next((folder.parent / "runs").glob("*/")))
    assert 0 <= run.metrics["test"]["accuracy"] <= 1


@pytest.mark.usefixtures("no_pages")
def test_a_class_that_was_never_the_answer_has_no_precision(capsys):
    metrics = {"confusion_matrix": [[2, 0], [1, 0]], "per_class": {
        "a": {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2},
        "b": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}}}
    run_module.session.print_result({"test": metrics}, has_test=True)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line[:1] in "ab"]
    assert rows == [["a", "0.6667", "1", "0.8", "2"], ["b", "0", "0", "1"]]


def test_what_is_not_defined_is_named_and_doubts_are_explained(capsys):
    values = {"accuracy": 0.5, "roc_auc": None, "confusion_matrix": [], "per_class": {}}
    entry = {"low": 0.1, "high": 0.9, "reliable": False}
    show = run_module.session.print_result
    show({"test": values, "intervals": {"test": {"accuracy": entry}}}, has_test=True)
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("test: accuracy 0.5000 (0.100 to 0.900 ≈)  not defined: roc_auc")
    assert "≈: too little is known" in line
    show({"test": {**values, "roc_auc": 0.7}}, has_test=True)
    line = capsys.readouterr().out.splitlines()[0]
    assert "not defined" not in line and "≈" not in line


@pytest.mark.usefixtures("no_pages")
def test_evaluate_agrees_and_notices_other_weights(folder, capsys):
    run = train(folder)
    capsys.readouterr()
    assert main(["evaluate", str(run.path)]) == 0
    told = capsys.readouterr().out
    assert "agrees" in told and " to " in told.split("test: accuracy")[1].split("  ")[0]
    assert main(["evaluate", str(run.path), "--split", "val"]) == 0
    assert "no test part" not in capsys.readouterr().out
    weights = load_file(run.best_weights)
    weights["fc.bias"] += 0.1
    save_file(weights, run.best_weights)
    assert "differ" in refused("evaluate", str(run.path), code=3, capsys=capsys)


def test_report_is_written_again_with_and_without_pictures(folder, capsys):
    run = train(folder)
    page = (run.path / "report.html").read_bytes()
    (run.path / "report.html").unlink()
    assert main(["report", str(run.path)]) == 0
    assert (run.path / "report.html").read_bytes() == page
    folder.rename(folder.parent / "gone")
    assert main(["report", str(run.path)]) == 0
    assert "no pictures" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pages")
def test_a_notebook_gives_the_same_run(folder):
    words = [f"data.root={folder}", *SMALL]
    values = {"data.root": str(folder), "model.name": "resnet10t", "model.weights": None,
              "data.image_size": 32, "data.batch_size": 8, "data.workers": 0,
              "training.epochs": 1, "tracking.mode": "disabled", "device": "cpu"}
    assert finetune.fit(values=values).metrics == fit(compose(words).config).metrics


@pytest.mark.usefixtures("no_pages")
def test_a_run_is_the_start_of_another_with_rows_kept_by_name(folder):
    first = train(folder)
    (folder / "c").rename(folder / "new")
    second = train(folder, f"model.weights={first.path}", "optimizer.lr=1e-12",
                   "optimizer.weight_decay=0")
    old, new = load_file(first.best_weights), load_file(second.best_weights)
    torch.testing.assert_close(new["fc.weight"][:2], old["fc.weight"][:2], rtol=0, atol=1e-6)
    torch.testing.assert_close(new["layer4.0.conv1.weight"], old["layer4.0.conv1.weight"],
                               rtol=0, atol=1e-6)


def test_runs_of_one_second_have_their_own_folders(tmp_path):
    made = [RunDirectory.create(str(tmp_path / "many"), "x").path for _ in range(40)]
    assert len(set(made)) == 40


@pytest.mark.usefixtures("no_pages")
def test_other_seeds_are_tested_on_the_same_pictures(folder):
    runs = [train(folder, f"seed={seed}") for seed in (0, 1)]
    splits = [(r.path / "splits.csv").read_text() for r in runs]
    assert splits[0] == splits[1] and runs[0].metrics != runs[1].metrics


@pytest.mark.usefixtures("no_pages")
def test_an_online_run_sends_its_best_numbers_and_pictures_only_when_asked(folder, monkeypatch):
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(path.with_name(f"patient_{number}.png"))
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    for asked in (False, True):
        with serving() as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            run = train(folder, "tracking.mode=online", f"tracking.pictures={asked}".lower(),
                        f"tracking.upload_model={asked}".lower())
        assert server.summary["best/val/accuracy"] == run.history[0]["val"]["accuracy"]
        assert server.summary["test/accuracy"] == run.metrics["test"]["accuracy"]
        assert ("worst_mistakes" in server.everything) is asked
        assert ("best.safetensors" in server.everything) is asked
        assert "patient" not in server.everything and str(folder) not in server.everything


@pytest.mark.usefixtures("no_pages")
def test_features_learned_without_labels_start_another_run(folder):
    first = train(folder, "training.loss=contrastive", "data.views=2", "data.transform=strong",
                  "training.epochs=2")
    assert 0 <= first.metrics["test"]["accuracy"] <= 1
    assert main(["evaluate", str(first.path)]) == 0
    second = train(folder, f"model.weights={first.path}", "freezing.policy=head_only")
    kept, given = load_file(second.best_weights), load_file(first.best_weights)
    assert torch.equal(kept["conv1.0.weight"], given["conv1.0.weight"])
    assert not [name for name in kept if "projection" in name]
