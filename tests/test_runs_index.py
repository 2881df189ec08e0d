"""Runs in a folder: all of them are rows, filtered and sorted as asked."""

import json

import pytest
from run_builder import build_run

from finetune.__main__ import main
from finetune.composition import dump_config
from finetune.config import Config
from finetune.errors import ConfigurationError, InputError
from finetune.runs_index import list_runs, parse_filters


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, model, seed, accuracy in (("a", "resnet18", 0, 0.7), ("b", "resnet50", 1, 0.9),
                                        ("study/arm/seed-0", "resnet18", 2, 0.8)):
        run = build_run(folder / name, ["cat", "dog"], count=20, seed=seed)
        config = Config()
        config.model.name, config.seed = model, seed
        run.write_config(config)
        metrics = run.metrics
        metrics["test"]["accuracy"], metrics["test"]["log_loss"] = accuracy, 1 - accuracy
        (run.path / "metrics.json").write_text(json.dumps(metrics))
        (run.path / "report.html").write_text("")
    (folder / "a" / "wandb").mkdir()
    (folder / "a" / "wandb" / "config.yaml").write_text("not: a run")
    (folder / "stopped").mkdir()
    (folder / "stopped" / "config.yaml").write_text(dump_config(Config()))
    (folder / "stopped" / "environment.json").write_text('{"rehearsal": null}')
    (folder / "broken").mkdir()
    (folder / "broken" / "config.yaml").write_text("model: 7")
    return folder


def names(rows):
    return [row.name for row in rows]


def test_every_run_is_a_row_and_nothing_else(runs):
    states = {row.name: row.state for row in list_runs(runs)}
    assert states == {"a": "finished", "b": "finished", "study/arm/seed-0": "finished",
                      "stopped": "stopped", "broken": "broken"}


@pytest.mark.parametrize("words, expected", [
    (["model.name=resnet18"], {"a", "study/arm/seed-0"}), (["model.name=*50"], {"b"}),
    (["model.name=resnet*", "seed=2"], {"study/arm/seed-0"}), (["state=broken"], {"broken"}),
    (["data.root=null", "state=finished"], {"a", "b", "study/arm/seed-0"}), (["seed=9"], set())])
def test_filters_narrow(words, expected, runs):
    assert set(names(list_runs(runs, filters=parse_filters(words)))) - {"stopped"} == expected


def test_the_best_come_first_whichever_way_is_better(runs):
    finished = parse_filters(["state=finished"])
    best = ["b", "study/arm/seed-0", "a"]
    assert names(list_runs(runs, filters=finished, sort="accuracy")) == best
    assert names(list_runs(runs, filters=finished, sort="log_loss")) == best
    assert names(list_runs(runs, sort="accuracy"))[:3] == best


@pytest.mark.parametrize("words, told", [(["resnet18"], "expected KEY=VALUE"),
                                         (["model.nam=x"], "did you mean 'model.name'"),
                                         (["state=done"], "finished, stopped, broken")])
def test_filters_that_make_no_sense(words, told):
    with pytest.raises(ConfigurationError, match=told):
        parse_filters(words)


def test_a_folder_that_is_not_there_and_a_metric_that_nobody_has(runs, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        list_runs(tmp_path / "none")
    with pytest.raises(InputError, match="none of these runs has a value of fame"):
        list_runs(runs, sort="fame")


def test_the_command_prints_and_tells_what_is_broken(runs, capsys):
    assert main(["ls", "runs", str(runs), "--sort", "accuracy"]) == 0
    told = capsys.readouterr()
    assert "5 runs" in told.out and "0.9000" in told.out
    assert "broken:" in told.err
    assert main(["ls", "runs", str(runs), "model.name=resnet50"]) == 0
    assert "resnet18" not in capsys.readouterr().out
    assert main(["ls", "runs", str(runs), "model.name=none"]) == 0
    assert "no run matches" in capsys.readouterr().out
    assert main(["ls", "runs", str(runs), "x"]) == 2
