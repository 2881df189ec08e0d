"""Trials that Optuna chooses: the same ones each time, in range, told what came before."""

import copy
import dataclasses
import functools
import json

import pytest
from test_studies import SMALL, only, pictures, stored  # noqa: F401

from finetune.__main__ import main
from finetune.errors import ConfigurationError
from finetune.run_directory import RunDirectory
from finetune.study import member as study_member
from finetune.study.making import plan_study
from finetune.study.plan import Study
from finetune.study.sweep import next_trials

optuna = pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
pytestmark = pytest.mark.usefixtures("without_pages")
SPACE = ["optimizer.lr=tag(log, interval(1e-5,1e-2))", "optimizer.weight_decay=choice(0,0.01,0.1)"]


@functools.cache
def planned(*words):
    return plan_study(["-m", "hydra/sweeper=optuna", *SMALL, *words])[0]


def sweep(*more, space=SPACE):
    return copy.deepcopy(planned(*space, *more))


def go_on(study, quality, until=99):
    """Run trials whose result is known, as the driver would; their words."""
    while len(study.members) < until:
        found = next_trials(study, [quality(arm.words) for arm in study.arms])
        if not found:
            break
        study.arms += [arm for arm, _ in found]
        study.members += [member for _, member in found]
    return [arm.words for arm in study.arms]


def value(words, key):
    return float(dict(word.split("=", 1) for word in words)[key])


def near_a_thousandth(words):
    return -abs(value(words, "optimizer.lr") - 1e-3)


def test_the_same_sweep_gives_the_same_trials_and_another_seed_others():
    first, second, other = (go_on(sweep(*more), near_a_thousandth, 15)
                            for more in ([], [], ["hydra.sweeper.sampler.seed=7"]))
    assert first == second != other
    assert len({tuple(words) for words in first}) > 10


@pytest.mark.parametrize("at", [1, 7, 14])
def test_a_sweep_that_was_stopped_chooses_the_trials_it_would_have_chosen(at):
    study = sweep()
    go_on(study, near_a_thousandth, at)
    again = Study.from_dict(json.loads(json.dumps(study.to_dict())))
    assert go_on(again, near_a_thousandth) == go_on(sweep(), near_a_thousandth)


def test_the_number_of_trials_is_the_one_given_side_by_side_too():
    study = sweep("hydra.sweeper.n_trials=7")
    study.sweep = dataclasses.replace(study.sweep, at_once=3)
    assert len(go_on(study, near_a_thousandth)) == 7
    assert len({tuple(arm.words) for arm in study.arms}) == 7


def test_results_steer_the_search_in_the_direction_of_the_metric():
    def distance(metric):
        study = dataclasses.replace(sweep("hydra.sweeper.n_trials=40"), metric=metric)
        sign = -1 if metric == "log_loss" else 1
        words = go_on(study, lambda w: sign * value(w, "optimizer.lr"))[20:]
        return sum(value(each, "optimizer.lr") for each in words) / 20

    even = (1e-2 - 1e-5) / 6.9  # mean of what is drawn without results
    assert distance("accuracy") > 2 * even and distance("log_loss") > 2 * even


def test_every_value_lies_in_its_interval_and_whole_numbers_stay_whole():
    study = sweep(space=["training.epochs=interval(1,3)", "optimizer.lr=interval(0.1,0.12345)",
                         "freezing.policy=none,head_only"])
    trials = go_on(study, lambda words: None)
    assert {value(words, "training.epochs") for words in trials} == {1, 2, 3}
    assert all(0.1 <= value(words, "optimizer.lr") <= 0.12345 for words in trials)
    assert not any("epochs=1.0" in word for words in trials for word in words)
    assert {next(w for w in words if "freezing" in w) for words in trials} == {
        "freezing.policy=none", "freezing.policy=head_only"}


@pytest.mark.parametrize(("more", "told"), [
    (["optimizer.lr=interval(-1,1)"], "optimizer.lr"), (["freezing.policy=none,hed"], "hed"),
    (["optimizer.lr=interval(1,0.1)"], "smaller number"), ([], "searches nothing"),
    (["optimizer.lr=tag(log, interval(0,1))"], "above 0"), (["seed=0,1"], "seed"),
    (["data.val_fraction=interval(0.1,0.2)"], "same pictures"),
    (["hydra.sweeper.direction=maximize", *SPACE], "direction follows"),
    (["hydra.sweeper.n_trails=3", *SPACE], "n_trails"),
    (["hydra.sweeper.n_trials=0", *SPACE], "n_trials"),
    (["hydra/sweeper/sampler=grid", *SPACE], "tpe or random"),
    (["study.rates=1,2", *SPACE], "study.rates"), (["study=freezing", *SPACE], "study"),
    (["hydra/sweeper=ax", *SPACE], "hydra/sweeper=optuna")])
def test_what_is_wrong_is_told_before_anything_trains(more, told):
    with pytest.raises(ConfigurationError, match=told):
        sweep(space=more)


def test_an_interval_needs_the_sweeper():
    with pytest.raises(ConfigurationError, match="hydra/sweeper=optuna"):
        plan_study(["-m", *SMALL, "optimizer.lr=interval(0.1,1)"])


def test_a_wide_even_interval_and_a_small_grid_are_told():
    assert "tag(log" in sweep(space=["optimizer.lr=interval(1e-5,1e-2)"]).notes[0]
    assert "3 combinations" in sweep(space=SPACE[1:]).notes[0] and not sweep().notes


def test_a_plan_tells_what_is_searched(capsys):
    assert main(["plan", "-m", "hydra/sweeper=optuna", *SMALL, *SPACE]) == 0
    told = capsys.readouterr().out
    assert "interval(1e-5,1e-2)" in told and "one run of 20" in told


def test_a_sweep_trains_looks_at_no_test_fails_one_and_goes_on(pictures, tmp_path,  # noqa: F811
                                                               monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    train_in, fate = study_member.train_in, {"trial-001": RuntimeError("out of luck"),
                                             "trial-002": KeyboardInterrupt()}

    def fateful(folder, *args, **more):
        if folder.name in fate:
            raise fate.pop(folder.name)
        return train_in(folder, *args, **more)

    monkeypatch.setattr(study_member, "train_in", fateful)
    line = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", f"data.root={pictures}",
            f"output_dir={tmp_path / 'runs'}", *SMALL, *SPACE]
    assert main(line) == 130
    folder = only(tmp_path)
    assert [m["state"] for m in stored(folder)["members"]] == ["finished", "failed", "waiting"]
    assert f"resume {folder}" in capsys.readouterr().err
    assert main(["resume", str(folder)]) == 0
    told, study = capsys.readouterr().out, stored(folder)
    assert {m["state"] for m in study["members"]} == {"finished"}
    assert study["chosen"] in {m["path"] for m in study["members"]}
    best = next(arm for arm in study["arms"] if arm["name"] == study["chosen"])
    assert best["mean"] == max(arm["mean"] for arm in study["arms"])
    assert all(word in told.split("\n  ")[-1] for word in [*best["words"], "seed=1,2,3"])
    for member in study["members"]:
        run = RunDirectory(folder / member["path"])
        assert "test" not in run.metrics and not run.predictions_path("test").exists()
    assert list((tmp_path / "here").iterdir()) == []
    assert not (folder.parent / "test_looks.jsonl").exists()
    assert main(["resume", str(folder)]) == 0 and "nothing to do" in capsys.readouterr().out
