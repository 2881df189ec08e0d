"""A study: fair, its members single runs to the bit, stopped and resumed without a trace."""

import json
import os
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune import run as run_module
from finetune.__main__ import main
from finetune.composition import compose
from finetune.errors import DataError
from finetune.files import write_text
from finetune.launch import launch
from finetune.run_directory import RunDirectory
from finetune.study import making as study_making
from finetune.study import member as study_member

pytestmark = pytest.mark.usefixtures("without_pages")
SMALL = ["model.name=resnet10t", "model.weights=null", "data.image_size=32", "data.batch_size=8",
         "data.workers=0", "training.epochs=1", "tracking.mode=disabled", "device=cpu"]
STUDY = """# Two policies
reference: full
seeds: [0, 1]
rates: [0.316, 1]
arms:
  full: [freezing.policy=none]
  head_only: [freezing.policy=head_only]
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """72 pictures of 3 classes, in folders."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(72):
        label = number % 3
        pixels = random.integers(0, 150, (32, 32, 3)) + 30 * label
        path = folder / "abc"[label] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), pixels.astype(np.uint8))
    return folder


def words(pictures, folder, *more):
    (folder / "two.yaml").write_text(STUDY)
    return [f"study={folder / 'two.yaml'}", f"data.root={pictures}",
            f"output_dir={folder / 'runs'}", *SMALL, *more]


def only(folder):
    found = list((folder / "runs").glob("*/"))
    assert len(found) == 1
    return found[0]


def stored(folder):
    return json.loads((folder / "study.json").read_text())


def weights(folder):
    return RunDirectory(folder).best_weights.read_bytes()


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """A finished study, and the folder in which it was started."""
    place = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "write_figures", lambda path: [])
        patch.setattr(run_module.session, "write_batch_figures", lambda *args: None)
        patch.setattr(run_module, "write_report",
                      lambda path, reader=None: write_text(path / "report.html", ""))
        (place / "here").mkdir()
        patch.chdir(place / "here")
        assert main(words(pictures, place)) == 0
    return only(place)


def test_members_are_searches_and_finals_with_what_compare_needs(finished):
    study = stored(finished)
    members = study["members"]
    assert [(m["arm"], m["role"], m["seed"]) for m in members] == [
        *(("full", "search", 2),) * 2, *(("head_only", "search", 2),) * 2,
        ("full", "final", 0), ("full", "final", 1), ("head_only", "final", 0),
        ("head_only", "final", 1)]
    assert {m["state"] for m in members} == {"finished"}
    assert {"study", "words", "reference", "metric", "rates"} <= study.keys()
    assert all((finished / m["path"] / "metrics.json").exists() for m in members)


def test_nothing_is_left_in_the_current_folder(finished):
    assert list((finished.parent.parent / "here").iterdir()) == []
    assert {p.name for p in finished.iterdir()} == {
        "study.json", "logs", *(m["path"] for m in stored(finished)["members"])}


def test_all_are_measured_on_the_same_pictures_and_searches_leave_test_alone(finished):
    study = stored(finished)
    runs = {m["path"]: RunDirectory(finished / m["path"]) for m in study["members"]}
    assert len({study_member.evaluated_pictures(run) for run in runs.values()}) == 1
    for member in study["members"]:
        run, searches = runs[member["path"]], member["role"] == "search"
        assert ("test" in run.metrics) != searches
        assert run.predictions_path("test").exists() != searches
        assert run.predictions_path("val").exists()
    looks = (finished.parent / "test_looks.jsonl").read_text().splitlines()
    assert len({json.loads(line)["configuration"] for line in looks}) == 2  # one for each arm
    assert len(looks) == 4


def test_every_arm_gets_the_same_search_and_the_edge_of_the_grid_is_told(finished, capsys):
    study = stored(finished)
    assert study["settled"]["words"]["training.precision"] != "auto"
    for arm in study["arms"]:
        tried = {m["rate"]: RunDirectory(finished / m["path"]).metrics["val"]
                 for m in study["members"] if m["arm"] == arm["name"] and m["role"] == "search"}
        assert sorted(tried) == [arm["lr"] * 0.316, arm["lr"]]
        best = max(tried, key=lambda r: (tried[r][study["metric"]], -tried[r]["log_loss"]))
        assert arm["rate"] == best and arm["edge"] in ("lowest", "highest")
    assert main(["resume", str(finished)]) == 0
    told = capsys.readouterr()
    assert "nothing to do" in told.out and "(edge)" in told.out and "wider grid" in told.err


def test_arms_are_ranked_on_validation_and_test_compares_two(finished):
    study = stored(finished)
    for arm in study["arms"]:
        own = [RunDirectory(finished / m["path"]).metrics for m in study["members"]
               if m["arm"] == arm["name"] and m["role"] == "final"]
        values = [m["val"][study["metric"]] for m in own]
        assert list(arm["values"].values()) == values
        assert arm["mean"] == pytest.approx(np.mean(values)) and arm["seconds"] > 0
        if arm["name"] == study["chosen"]:
            assert arm["rank"] == 1
            assert list(study["test"]["chosen"]["values"].values()) == [
                m["test"][study["metric"]] for m in own]
    assert study["test"]["reference"]["arm"] == "full"


@pytest.mark.parametrize("number", [3, 7])
def test_a_member_is_the_run_of_its_words_alone(finished, number, tmp_path, monkeypatch):
    member = stored(finished)["members"][number]
    composed = compose([w for w in member["words"] if not w.startswith("output_dir=")]
                       + [f"output_dir={tmp_path}"])
    alone = launch(composed.config, overrides=composed.overrides)
    run = RunDirectory(finished / member["path"])
    assert weights(alone.path) == weights(run.path) and alone.metrics == run.metrics
    for name in ("splits.csv", "predictions/val.npz"):
        assert (alone.path / name).read_bytes() == (run.path / name).read_bytes()
    assert run.environment["command"].endswith(member["words"][-1])
    assert run.name == f"{finished.name}-{member['path']}"


def test_a_stopped_study_goes_on_and_ends_in_the_same_table(finished, pictures, tmp_path,
                                                            monkeypatch, capsys):
    count = 0

    def batch(self, done, of):
        nonlocal count
        count += 1
        if count == 33:  # 6 batches a member: in the second final run
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module.EpochLine, "batch", batch)
        assert main(words(pictures, tmp_path)) == 130
    folder = only(tmp_path)
    assert f"resume {folder}" in capsys.readouterr().err
    done = [p for p in sorted(folder.glob("*/report.html"))]
    before = [p.stat().st_mtime_ns for p in done]
    assert done and main(["resume", str(folder)]) == 0
    assert [p.stat().st_mtime_ns for p in done] == before
    now, then = stored(folder), stored(finished)
    for study in (now, then):
        for arm in study["arms"]:
            arm.pop("seconds")
    assert [now[key] for key in ("arms", "chosen", "test")] == [
        then[key] for key in ("arms", "chosen", "test")]
    for member in then["members"]:
        assert weights(folder / member["path"]) == weights(finished / member["path"])


def test_a_signal_while_a_member_is_reported_ends_the_study_after_that_member(
        pictures, tmp_path, monkeypatch, capsys):
    def report(path, reader=None):
        write_text(path / "report.html", "")
        os.kill(os.getpid(), signal.SIGINT)

    line = ["-m", f"data.root={pictures}", f"output_dir={tmp_path / 'runs'}", *SMALL, "seed=0,1"]
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_report", report)
        assert main(line) == 130
    assert "1 members finished" in capsys.readouterr().err
    folder = only(tmp_path)
    assert main(["resume", str(folder)]) == 0
    assert [m["state"] for m in stored(folder)["members"]] == ["finished", "finished"]


def test_a_study_stopped_before_anything_trains_leaves_nothing(pictures, tmp_path, monkeypatch):
    def stop(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "build_method", stop)
    assert main(words(pictures, tmp_path)) == 130
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), SystemExit(3),
                                   DataError("no such picture")])
def test_a_member_that_fails_stops_no_other_and_is_told(error, pictures, tmp_path, monkeypatch,
                                                        capsys):
    train_in = study_member.train_in

    def failing(folder, *args, **more):
        if folder.name == "run-seed-0":
            raise error
        return train_in(folder, *args, **more)

    line = ["-m", f"data.root={pictures}", f"output_dir={tmp_path / 'runs'}", *SMALL, "seed=0,1"]
    with monkeypatch.context() as patch:
        patch.setattr(study_member, "train_in", failing)
        assert main(line) == 1
    folder = only(tmp_path)
    told = capsys.readouterr().err
    assert "1 of 2 members failed" in told and "run-seed-0" in told
    assert ("SystemExit(3)" if isinstance(error, SystemExit) else str(error)) in told
    study = stored(folder)
    assert [m["state"] for m in study["members"]] == ["failed", "finished"]
    assert list(study["arms"][0]["values"]) == ["1"]
    assert main(["resume", str(folder)]) == 0
    assert {m["state"] for m in stored(folder)["members"]} == {"finished"}


def test_a_study_whose_members_all_fail_by_bad_input_is_bad_input(pictures, tmp_path, monkeypatch,
                                                                  capsys):
    def failing(*args, **more):
        raise DataError("no such picture")

    monkeypatch.setattr(study_member, "train_in", failing)
    assert main(words(pictures, tmp_path)) == 2
    assert "8 of 8 members failed" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "told"), [
    (["-m", "freezing.policy=none,hed_only"], "head_only"), (["study=freezin"], "freezing"),
    (["study=freezing", "freezing.policy=none"], "arms of study=freezing"),
    (["study=freezing", "seed=0,1"], "-m"), (["-m", "optimiser.lr=1,2"], "optimizer.lr"),
    (["study=freezing", "study.arms=ful"], "no arm 'ful'"),
    (["study=freezing", "study.reference=best"], "study.reference"),
    (["study=freezing", "study.rates=-1"], "study.rates"),
    (["study=freezing", "study.metric=acuracy"], "accuracy"),
    (["study=freezing", "data.split=kfold"], "data.fold"),
    (["-m", "seed=0,1", "hydra/launcher=jobli"], "joblib"),
    (["-m", "seed=0,1", "hydra/sweeper=ax"], "hydra/sweeper=optuna"),
    (["-m", "seed=0,1", "hydra/launcher=basic", "hydra.launcher.n_jobs=2"], "n_jobs")])
def test_a_bad_word_is_refused_before_anything_trains(more, told, pictures, tmp_path, capsys):
    line = [*more, f"data.root={pictures}", f"output_dir={tmp_path / 'runs'}", *SMALL]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_relative_paths_hold_from_any_folder(pictures, tmp_path, monkeypatch):
    shutil.copytree(pictures, tmp_path / "data, mine")
    monkeypatch.chdir(tmp_path)
    study, _ = study_making.plan_study(["-m", "seed=0,1", "data.root=data, mine", *SMALL])
    assert study.base["data.root"] == str(tmp_path / "data, mine")
    assert study.seeds == [0, 1] and not study.rates and len(study.arms) == 1


def test_other_epochs_are_told(pictures):
    study, _ = study_making.plan_study(["-m", f"data.root={pictures}", *SMALL,
                                        "training.epochs=1,2"])
    assert "not the same budget" in study.notes[0]


def test_a_plan_tells_arms_and_number_of_runs(pictures, tmp_path, capsys):
    assert main(["plan", *words(pictures, tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "head_only" in told and "one run of 8" in told and not (tmp_path / "runs").exists()


def test_ls_and_show(capsys):
    assert main(["ls", "studies"]) == 0 and main(["show", "study", "freezing"]) == 0
    assert "reference: full" in capsys.readouterr().out


@pytest.mark.slow
def test_joblib_gives_the_same_members(pictures, tmp_path, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    line = ["-m", f"data.root={pictures}", f"output_dir={tmp_path / 'runs'}", *SMALL,
            "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert main(line) == 0
    assert list(Path.cwd().iterdir()) == []
    folder = only(tmp_path)
    for member in stored(folder)["members"]:
        composed = compose([*member["words"], f"output_dir={tmp_path / 'alone'}"])
        alone = launch(composed.config, overrides=composed.overrides)
        assert weights(alone.path) == weights(folder / member["path"])
