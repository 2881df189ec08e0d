"""Cross-validation is the runs of its folds, pooled; and a split beside a random one."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch

import finetune
from finetune import folds
from finetune import run as run_module
from finetune.__main__ import main
from finetune.composition import compose
from finetune.errors import CheckError
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.pooling import pool_predictions, spread
from finetune.evaluation.predictions import Predictions
from finetune.launch import launch
from finetune.run import fit
from finetune.run_directory import RunDirectory
from finetune.specs import LabelKind, LabelSpec

pytestmark = pytest.mark.usefixtures("without_pages")
PAGE = folds.write_folds_report  # as it is; the tests of training write an empty one
SMALL = ["model.name=resnet10t", "model.weights=null", "data.image_size=32", "data.batch_size=8",
         "data.workers=0", "training.epochs=2", "tracking.mode=disabled", "device=cpu"]
FOLDS = ["data.split=kfold", "data.folds=3"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A table of 72 pictures in 24 groups of 3 classes, at places, of sites and times."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    rows = ["path,label,group,x,y,site,day"]
    for number in range(72):
        label = number // 3 % 3
        pixels = random.integers(0, 150, (32, 32, 3)) + 30 * label
        cv2.imwrite(str(folder / f"{number:02d}.png"), pixels.astype(np.uint8))
        rows.append(f"{number:02d}.png,{'abc'[label]},g{number // 3},{number % 12},{number // 12},"
                    f"s{number // 3 % 4},2020-01-{number // 3 + 1:02d}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def train(pictures, folder, *more):
    words = [f"data.root={pictures}", f"output_dir={folder}", *SMALL, *more]
    return launch(compose(words).config, overrides=words)


@pytest.fixture(scope="module")
def crossed(pictures, tmp_path_factory):
    """A finished cross-validation."""
    with pytest.MonkeyPatch.context() as patch:
        from finetune.files import write_text
        patch.setattr(run_module, "write_figures", lambda path: [])
        patch.setattr(run_module.session, "write_batch_figures", lambda *args: None)
        patch.setattr(run_module, "write_report",
                      lambda path, reader=None: write_text(path / "report.html", ""))
        patch.setattr(folds, "write_figures", lambda path: [])
        return train(pictures, tmp_path_factory.mktemp("crossed"), *FOLDS)


def weights(run):
    return run.best_weights.read_bytes()


def only(folder):
    found = list(folder.glob("*/"))
    assert len(found) == 1
    return RunDirectory(found[0])


def test_a_fold_is_the_run_of_the_same_command_alone(crossed, pictures, tmp_path):
    words = [f"data.root={pictures}", f"output_dir={tmp_path}", *SMALL, *FOLDS, "data.fold=2"]
    alone, member = fit(compose(words).config, overrides=words), crossed.path / "fold-2"
    member = RunDirectory(member)
    assert weights(alone) == weights(member) and alone.metrics == member.metrics
    states = [torch.load(run.last_checkpoint, weights_only=True) for run in (alone, member)]
    assert all(torch.equal(a, b) for a, b in zip(states[0]["model"].values(),
                                                 states[1]["model"].values(), strict=True))
    for name in ("splits.csv", "predictions/test.npz"):
        assert (alone.path / name).read_bytes() == (member.path / name).read_bytes()
    assert member.environment["command"].endswith("data.fold=2")
    assert member.name == f"{crossed.path.name}-fold-2" and alone.name == alone.path.name


def test_every_picture_is_tested_once_and_the_answers_are_pooled(crossed):
    members = [RunDirectory(crossed.path / f"fold-{k}") for k in (1, 2, 3)]
    pooled = Predictions.load(crossed.predictions_path("test"))
    assert sorted(pooled.ids) == [f"{i:02d}.png" for i in range(72)]
    logits = np.concatenate([Predictions.load(m.predictions_path("test")).logits
                             for m in members])
    assert (pooled.logits == logits).all()
    metrics = crossed.metrics
    assert metrics["test"] == json.loads(json.dumps(compute_metrics(pooled)))
    assert set(metrics["test"]) == set(members[0].metrics["test"])
    assert metrics["selection"]["metric"] == members[0].metrics["selection"]["metric"]
    found = metrics["folds"]["test"]["accuracy"]
    assert found["values"] == [m.metrics["test"]["accuracy"] for m in members]
    assert found["std"] == pytest.approx(np.std(found["values"], ddof=1))
    assert metrics["folds"]["runs"] == ["fold-1", "fold-2", "fold-3"]


def test_groups_are_in_one_fold(crossed):
    pooled = Predictions.load(crossed.predictions_path("test"))
    where = np.repeat([1, 2, 3], crossed.metrics["folds"]["counts"])
    by_group = {}
    for group, fold in zip(pooled.groups, where, strict=True):
        by_group.setdefault(group, set()).add(int(fold))
    assert len(by_group) == 24 and all(len(folds) == 1 for folds in by_group.values())


def test_an_interrupted_cross_validation_goes_on_where_it_was(crossed, pictures, tmp_path,
                                                              monkeypatch, capsys):
    count = 0

    def batch(self, done, of):
        nonlocal count
        count += 1
        if count == 18:  # 6 batches an epoch: in the second epoch of the second fold
            raise KeyboardInterrupt

    words = [f"data.root={pictures}", f"output_dir={tmp_path}", *SMALL, *FOLDS]
    with monkeypatch.context() as patch:
        patch.setattr(run_module.EpochLine, "batch", batch)
        assert main(words) == 130
    parent = only(tmp_path)
    error = capsys.readouterr().err
    assert "stopped in fold 2 of 3" in error and f"resume {parent.path}" in error
    assert sorted(p.name for p in parent.path.glob("fold-*")) == ["fold-1", "fold-2"]
    assert not parent.is_complete
    before = (parent.path / "fold-1" / "metrics.json").stat().st_mtime_ns
    assert main(["resume", str(parent.path)]) == 0
    assert (parent.path / "fold-1" / "metrics.json").stat().st_mtime_ns == before
    assert parent.metrics == crossed.metrics and parent.is_complete
    for fold in ("fold-1", "fold-2", "fold-3"):
        assert weights(RunDirectory(parent.path / fold)) == weights(
            RunDirectory(crossed.path / fold))
    assert main(["resume", str(parent.path)]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_what_a_killed_process_left_before_training_is_begun_anew(crossed, tmp_path):
    parent = RunDirectory(shutil.copytree(crossed.path, tmp_path / "copy"))
    (parent.path / "metrics.json").unlink()
    shutil.rmtree(parent.path / "fold-3")
    (parent.path / "fold-3").mkdir()
    (parent.path / "fold-3" / "config.yaml").write_text("half of it")
    assert main(["resume", str(parent.path)]) == 0
    assert parent.metrics == crossed.metrics


def test_a_fold_that_can_not_be_made_is_refused_before_the_first_trains(pictures, tmp_path, capsys):
    words = [f"data.root={pictures}", f"output_dir={tmp_path / 'runs'}", *SMALL,
             "data.split=kfold", "data.folds=9"]
    assert main(words) == 2
    assert "fewer than 9 data.folds" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_interruption_before_anything_is_trained_leaves_nothing(pictures, tmp_path, monkeypatch):
    def stop(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "build_method", stop)
    words = [f"data.root={pictures}", f"output_dir={tmp_path / 'runs'}", *SMALL, *FOLDS]
    assert main(words) == 130
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "verify", "mislabeled"])
def test_the_folder_around_the_folds_is_no_run(command, crossed, capsys):
    assert main([command, str(crossed.path)]) == 2
    assert f"{crossed.path / 'fold-1'}" in capsys.readouterr().err


def test_all_folds_have_one_page(crossed):
    page, metrics = (crossed.path / "report.html").read_text(encoding="utf-8"), crossed.metrics
    assert "3 folds, 72 test pictures" in page
    found, over = metrics["test"], metrics["folds"]["test"]["accuracy"]
    interval = metrics["intervals"]["test"]["accuracy"]
    told = page.split("Folds</h2>")[0]
    assert f"<b>{found['accuracy']:.3f}</b><small>{interval['low']:.3f} to" in told
    assert f"{over['std']:.3f}" in page and "standard error" in page.split("Spread over folds")[1]
    for number, member in enumerate(RunDirectory(crossed.path / f"fold-{k}") for k in (1, 2, 3)):
        assert f'href="{member.path.name}/report.html"' in page
        assert f"{member.metrics['test']['accuracy']:.3f}" in page
        assert over["values"][number] == member.metrics["test"]["accuracy"]
    for row in metrics["test"]["per_class"].values():
        assert f"<td>{row['specificity']:.3f}" in page
    assert "What was trained when" in page and "data:image/jpeg" in page
    cells = re.findall(r"<b>(\d+)</b><i>", page)
    assert cells == [str(n) for row in found["confusion_matrix"] for n in row]
    assert len(page) < 3_000_000


def test_the_page_is_written_again_and_made_up_for(crossed, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(folds, "write_folds_report", PAGE)
    parent = RunDirectory(shutil.copytree(crossed.path, tmp_path / "copy"))
    first = (parent.path / "report.html").read_bytes()
    (parent.path / "report.html").unlink()
    assert not parent.is_complete
    assert main(["report", str(parent.path)]) == 0
    assert first.replace(crossed.path.name.encode(), b"copy").count(b"<tr>") == (
        parent.path / "report.html").read_bytes().count(b"<tr>")
    (parent.path / "report.html").unlink()
    assert main(["resume", str(parent.path)]) == 0  # every fold is finished: pools, and reports
    assert parent.is_complete
    (parent.path / "metrics.json").unlink()
    assert main(["report", str(parent.path)]) == 2
    assert f"resume {parent.path}" in capsys.readouterr().err


def test_a_plan_shows_the_first_fold(pictures, tmp_path, capsys):
    assert main(["plan", f"data.root={pictures}", *SMALL, *FOLDS]) == 0
    assert "the first of 3 folds" in capsys.readouterr().out


def test_data_that_change_between_the_folds_are_noticed():
    spec = LabelSpec(LabelKind.single, ("a", "b"))
    one, other = (Predictions(ids, np.array([0, 1]), np.zeros((2, 2), np.float32), spec)
                  for ids in (["1", "2"], ["2", "3"]))
    with pytest.raises(CheckError, match="1 pictures were tested in several folds: 2"):
        pool_predictions([one, other])
    third = Predictions(["4"], np.array([0]), np.zeros((1, 2), np.float32),
                        LabelSpec(LabelKind.single, ("a", "c")))
    with pytest.raises(CheckError, match="different classes"):
        pool_predictions([one, third])


def test_a_metric_that_is_not_defined_in_a_fold_is_left_out_of_the_mean():
    found = spread([{"count": 3, "roc_auc": None, "per_class": {}}, {"count": 4, "roc_auc": 0.5}])
    assert found == {"roc_auc": {"values": [None, 0.5], "mean": 0.5, "std": None, "min": 0.5,
                                 "max": 0.5}}


# ---- beside a random split

PLACES = ["data.split=spatial", "data.x_column=x", "data.y_column=y", "data.block_size=3",
          "data.group_column=null"]


@pytest.mark.parametrize("split", [
    PLACES, ["data.split=site", "data.site_column=site", "data.test_site=s1"]])
def test_a_split_is_told_beside_a_random_one(split, pictures, tmp_path, capsys):
    run = train(pictures, tmp_path, *split, "data.compare_random=true", "training.epochs=1")
    random = RunDirectory(run.path / "random_split")
    told = run.metrics["random_split"]
    assert told["value"] == run.metrics["test"][told["metric"]]
    assert told["random"] == random.metrics["test"][told["metric"]]
    assert told["text"] in capsys.readouterr().out and told["text"] in run.environment["warnings"]
    assert random.environment["data"]["split_method"] == "stratified"
    assert "random_split" not in random.metrics
    again = [w for w in random.environment["command"].split() if "=" in w]
    assert compose(again).config.data == random.config.data  # a command that can be run
    assert run.is_complete


def test_the_random_split_is_made_up_for_after_an_interruption(pictures, tmp_path, monkeypatch,
                                                              capsys):
    count = 0

    def batch(self, done, of):
        nonlocal count
        count += 1
        if count == 8:  # of 6 in the first epoch
            raise KeyboardInterrupt

    words = [f"data.root={pictures}", f"output_dir={tmp_path}", *SMALL, "training.epochs=1",
             "data.split=group", "data.compare_random=true"]
    with monkeypatch.context() as patch:
        patch.setattr(run_module.EpochLine, "batch", batch)
        assert main(words) == 130
    run = only(tmp_path)
    error = capsys.readouterr().err
    assert "the run itself is finished" in error and f"resume {run.path}" in error
    assert run.is_finished and not run.is_complete
    assert main(["resume", str(run.path)]) == 0
    assert run.is_complete and "a random split would have said" in capsys.readouterr().out


# ---- the whole way from the words

def test_from_python(pictures, tmp_path):
    values = dict(word.split("=", 1) for word in SMALL)
    given = {k: (None if v == "null" else int(v) if v.isdecimal() else v)
             for k, v in values.items()}
    run = finetune.fit(values={**given, "data.root": str(pictures), "output_dir": str(tmp_path),
                               "training.epochs": 1, "data.split": "kfold", "data.folds": 2})
    assert run.metrics["test"]["count"] == 72 and (run.path / "fold-2" / "report.html").exists()


def test_what_the_buffer_dropped_is_counted_in_the_run(pictures, tmp_path):
    run = train(pictures, tmp_path, *PLACES, "data.block_buffer=1.1", "training.epochs=1")
    rows = (run.path / "splits.csv").read_text().splitlines()
    dropped = [row for row in rows if row.split(",")[2] == ""]
    data = run.environment["data"]
    assert len(rows) == 73 and len(dropped) == data["dropped"] > 0
    assert sum(sum(row.values()) for row in data["classes"].values()) == 72 - len(dropped)


@pytest.mark.parametrize(("words", "told"), [
    (["data.split=spatial"], "needs data.x_column and data.y_column"),
    (["data.split=spatial", "data.x_column=x", "data.y_column=y"], "needs data.block_size"),
    (["data.split=spatial", "data.x_column=x", "data.block_size=3"], "data.y_column"),
    ([*PLACES, "data.place_from=(x)(y)"], "without both"),
    ([*PLACES, "data.block_size=0"], "out of range"), ([*PLACES, "data.x_column=z"], "it has"),
    (["data.x_column=x"], "places need data.x_column and data.y_column"),
    (["data.place_from=(x)(y)", "data.y_column=y"], "without both"),
    (["data.block_size=2"], "does nothing without data.split=spatial"),
    (["data.block_buffer=2"], "does nothing without places"),
    (["data.split=time"], "needs data.time_column"),
    (["data.split=time", "data.time_column=site"], "neither|no numbers|no dates"),
    (["data.split=site", "data.site_column=site"], "data.test_site=NAME"),
    (["data.split=site", "data.site_column=site", "data.test_site=s9"], "no such site"),
    (["data.fold=2"], "does nothing without data.split=kfold"),
    (["data.folds=3"], "does nothing without data.split=kfold"),
    (["data.split=kfold", "data.fold=6"], "data.folds=5"),
    (["data.split=kfold", "data.folds=1"], "out of range"),
    (["data.split=stratified", "data.compare_random=true"], "or site")])
def test_words_that_make_no_sense_together_are_refused(words, told, pictures, tmp_path, capsys):
    assert main([f"data.root={pictures}", f"output_dir={tmp_path}", *SMALL, *words]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error) and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
