"""Runs read back from a tracking server: what was sent is what is compared."""

import socket
import subprocess
import sys

import pytest
from wandb_server import serving

from finetune.__main__ import main
from finetune.errors import InputError
from finetune.tracked_runs import TrackedRun, compare_tracked, join_seeds, read_tracked
from finetune.training.tracking import start_tracking

ANSWERS = {"class_names": ["cat", "dog"], "confusion_matrix": [[2, 0], [1, 1]],
           "per_class": {"cat": {"recall": 1.0}, "dog": {"recall": 0.5}}}


@pytest.fixture
def server(filled, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", filled.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    return filled


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    with serving() as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", found.url)
        patch.setenv("WANDB_API_KEY", "a" * 40)
        for group, policy, seed, accuracy in (("g", "none", 0, 0.7), ("g", "none", 1, 0.8),
                                              ("g", "head_only", 0, 0.6), ("h", "none", 0, 0.1)):
            tracker = start_tracking(
                tmp_path_factory.mktemp("run"), mode="online", project="mine", entity="me",
                group=group, tags=[], notes=None, name=f"{policy}-{seed}", pictures=False,
                config={"seed": seed, "freezing": {"policy": policy}}, run_id=None, salt="s")
            tracker.log_epoch({"val/accuracy": accuracy}, 1)
            tracker.log_best({"val/accuracy": accuracy, "val/log_loss": 1 - accuracy})
            tracker.log_results("test", {"accuracy": accuracy, **ANSWERS})
            tracker.finish()
            assert not tracker.warnings
        yield found


def test_what_was_sent_comes_back(server):
    runs = read_tracked("me/mine/g")
    assert [(r.name, r.seed, r.numbers["test/accuracy"], r.numbers["best/val/accuracy"], r.state)
            for r in runs] == [("none-0", 0, 0.7, 0.7, "finished"),
                               ("none-1", 1, 0.8, 0.8, "finished"),
                               ("head_only-0", 0, 0.6, 0.6, "finished")]
    assert runs[2].settings["freezing"]["policy"] == "head_only"


def test_a_project_holds_the_runs_of_all_groups(server):
    assert {run.group for run in read_tracked("me/mine")} == {"g", "h"}


def test_runs_that_differ_only_in_the_seed_are_one_method(server):
    rows = join_seeds(read_tracked("me/mine/g"), ["test/accuracy"])
    assert [row["method"] for row in rows] == ["freezing.policy=none", "freezing.policy=head_only"]
    assert rows[0]["test/accuracy"]["mean"] == pytest.approx(0.75)
    assert rows[0]["test/accuracy"]["std"] == pytest.approx(0.05 * 2 ** 0.5)
    assert rows[1]["test/accuracy"] == {"mean": 0.6, "std": None}


def test_offline_members_of_a_study_are_sent_later_and_read_back(tmp_path, monkeypatch):
    with serving() as later:
        monkeypatch.setenv("WANDB_BASE_URL", later.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        for arm, seed, accuracy in (("full", 0, 0.7), ("full", 1, 0.8), ("gradual", 0, 0.6)):
            folder = tmp_path / f"{arm}-{seed}"
            folder.mkdir()
            tracker = start_tracking(
                folder, mode="offline", project="mine", entity="me", group="study-freezing-1",
                job_type=arm, tags=[], notes=None, name=folder.name, pictures=False,
                config={"seed": seed, "freezing": {"policy": arm}}, run_id=None, salt="s")
            tracker.log_epoch({"val/accuracy": accuracy - 0.1}, 1)
            tracker.log_epoch({"val/accuracy": accuracy}, 2)
            tracker.log_best({"val/accuracy": accuracy})
            tracker.log_results("test", {"accuracy": accuracy, **ANSWERS})
            tracker.finish()
        assert later.requests == []
        folders = sorted(map(str, tmp_path.glob("*/wandb/offline-run-*")))
        sent = subprocess.run([sys.executable, "-m", "wandb", "sync", *folders],
                              capture_output=True, text=True, timeout=90, check=False)
        assert len(folders) == 3 and sent.returncode == 0, sent.stdout + sent.stderr
        runs = read_tracked("me/mine/study-freezing-1")
        tables = [row for row in later.history if "test/confusion_matrix" in row]
    assert sorted((r.name, r.group, r.arm, r.seed, r.numbers["best/val/accuracy"],
                   r.numbers["val/accuracy"], r.numbers["test/accuracy"]) for r in runs) == [
        ("full-0", "study-freezing-1", "full", 0, 0.7, 0.7, 0.7),
        ("full-1", "study-freezing-1", "full", 1, 0.8, 0.8, 0.8),
        ("gradual-0", "study-freezing-1", "gradual", 0, 0.6, 0.6, 0.6)]
    assert len({tuple(sorted(run.numbers)) for run in runs}) == 1  # the same keys
    assert [row["test/per_class"]["ncols"] for row in tables] == [2, 2, 2]
    rows = {row["method"]: row["test/accuracy"] for row in join_seeds(runs, ["test/accuracy"])}
    assert rows["full"]["mean"] == pytest.approx(0.75) and rows["gradual"]["std"] is None


def test_an_arm_names_the_method():
    runs = [TrackedRun(f"r{seed}", f"r{seed}", "study", "gradual", "finished",
                       {"seed": seed, "optimizer": {"lr": 0.1}}, {"test/accuracy": 0.5})
            for seed in (0, 1)]
    assert [row["method"] for row in join_seeds(runs, [])] == ["gradual"]


@pytest.mark.parametrize("place, words", [
    ("me", "expected ENTITY/PROJECT"), ("me/", "expected ENTITY/PROJECT"),
    ("me/other", "no project other of me"), ("me/mine/nothing", "no run of this group")])
def test_a_place_that_is_not_there_is_told(place, words, server):
    with pytest.raises(InputError, match=words):
        read_tracked(place)


def test_a_server_that_cannot_be_reached_is_told(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with pytest.raises(InputError, match="the server gave nothing"):
        read_tracked("me/mine", timeout=3)


def test_no_key_is_told_and_not_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="WANDB_API_KEY"):
        read_tracked("me/mine")


def test_the_command_prints_means_spreads_and_no_verdict(server, capsys):
    assert main(["compare", "--wandb", "me/mine/g"]) == 0
    told = capsys.readouterr().out
    row = next(line for line in told.splitlines() if "policy=none" in line)
    assert row.split() == ["freezing.policy=none", "0,", "1", "0.7500", "0.0707", "0.7500",
                           "0.0707", "finished"]
    assert "test/accuracy" in told and "best/val/accuracy" in told and "No verdict" in told


def test_a_metric_of_validation_alone_leaves_test_empty(server, capsys):
    assert main(["compare", "--wandb", "me/mine/g", "--metric", "log_loss"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "head_only" in line)
    assert row.split() == ["freezing.policy=head_only", "0", "0.4000", "finished"]


@pytest.mark.parametrize("words, told", [
    (["--metric", "acuracy"], "did you mean 'accuracy'"),
    (["runs/a"], "exclude each other"), (["--reference", "none"], "there is only --metric"),
    (["--open"], "--open needs answers")])
def test_what_cannot_be_asked_of_a_server_is_told(words, told, server, capsys):
    assert main(["compare", "--wandb", "me/mine/g", *words]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_neither_runs_nor_a_place_is_told(capsys):
    assert main(["compare"]) == 2
    assert "or --wandb ENTITY/PROJECT" in capsys.readouterr().err


def run_of(name, state, accuracy, **settings):
    return TrackedRun(name, name, None, None, state, {"seed": 0, **settings},
                      {"test/macro_f1": accuracy, "test/accuracy": accuracy})


def test_unfinished_runs_are_named_and_left_out(monkeypatch, capsys):
    chose = {"training": {"select_metric": "macro_f1"}}
    runs = [run_of("a", "finished", 0.5, **chose), run_of("b", "crashed", 0.9, **chose)]
    monkeypatch.setattr("finetune.tracked_runs.read_tracked", lambda place: runs)
    compare_tracked("me/mine")
    told = capsys.readouterr().out
    assert "left out, not finished: b (crashed)" in told and "0.9000" not in told
    assert "test/macro_f1" in told
    monkeypatch.setattr("finetune.tracked_runs.read_tracked", lambda place: runs[1:])
    with pytest.raises(InputError, match="none of its 1 runs is finished"):
        compare_tracked("me/mine")


def test_runs_that_searched_a_rate_are_no_spread_over_seeds(monkeypatch, capsys):
    def run(arm, seed, accuracy):
        return TrackedRun(f"{arm} {seed}", "x", "study", arm, "finished", {"seed": seed},
                          {"test/accuracy": accuracy, "best/val/accuracy": accuracy})

    found = [run("full search", 3, 0.1), run("full search", 3, 0.5), run("full", 0, 0.7),
             run("full", 1, 0.9)]
    monkeypatch.setattr("finetune.tracked_runs.read_tracked", lambda place: found)
    compare_tracked("me/mine")
    told = capsys.readouterr().out
    assert "full search" not in told and "0.8" in told and "2 runs of studies that searched" in told
