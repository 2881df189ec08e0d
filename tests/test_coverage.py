"""benchmarks/coverage.py: intervals contain the truth as often as they say."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.delitem(sys.modules, "coverage", raising=False)  # a library has the same name
    script = importlib.import_module("coverage")
    assert Path(script.__file__).parent == ROOT
    yield script
    del sys.modules["coverage"]


CLOSED = [("recall_draw", {"n": 50, "prevalence": 0.5, "value": 0.99, "cluster": 1, "icc": 0.0}),
          ("recall_draw", {"n": 500, "prevalence": 1.0, "value": 0.95, "cluster": 20, "icc": 0.5}),
          ("area_draw", {"n": 100, "prevalence": 0.2, "value": 0.995, "cluster": 1, "icc": 0.0,
                         "mixed": True}),
          ("area_draw", {"n": 300, "prevalence": 0.5, "value": 0.9, "cluster": 5, "icc": 0.5,
                         "mixed": False})]


@pytest.mark.parametrize(("name", "condition"), CLOSED, ids=lambda v: str(v))
def test_intervals_that_are_not_flagged_cover(coverage, name, condition):
    draw = getattr(coverage, name)(**condition)
    scenario = coverage.Scenario("one", condition, draw, 300)
    (cell,) = coverage.repeat(scenario, 300, seed=0)
    assert cell["flagged"] < 0.5
    assert cell["coverage"] >= 0.92 - 2 * (0.92 * 0.08 / 300) ** 0.5  # two standard errors


def test_all_metrics_of_good_answers_cover(coverage):
    condition = {"classes": 3, "signal": 3.0, "n": 100, "cluster": 1, "icc": 0.0}
    scenario = coverage.Scenario("single", condition,
                                 coverage.whole_draw("single", **condition, pictures=50_000), 120)
    cells = {cell["metric"]: cell for cell in coverage.repeat(scenario, 120, seed=0)}
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "cohen_kappa", "mcc", "roc_auc"):
        assert cells[name]["coverage"] >= 0.92 - 2 * (0.92 * 0.08 / 120) ** 0.5, name
    assert cells["ece"]["coverage"] is None  # flagged below 1,000 pictures


def test_a_cell_is_judged_by_what_is_not_flagged(coverage):
    pairs = iter([(True, True), (True, False), (True, True), (False, False)])
    scenario = coverage.Scenario("p", {"cluster": 1}, lambda random: {"m": next(pairs)}, 4)
    (cell,) = coverage.repeat(scenario, 4, seed=0)
    assert cell["coverage"] == pytest.approx(2 / 3) and cell["flagged"] == 0.25
    flagged = coverage.Scenario("p", {}, lambda random: {"m": (False, True)}, 4)
    assert coverage.repeat(flagged, 4, seed=0)[0]["coverage"] is None


def test_a_doubtful_cell_is_drawn_again_and_only_then_counts(coverage):
    scenario = coverage.Scenario("p", {}, lambda random: {"m": (True, random.random() < 0.8)}, 100)
    (cell,) = coverage.measure(scenario, seed=0)
    assert cell["repetitions"] == 400 and 0.7 < cell["coverage"] < 0.9


def test_the_table_and_the_file_have_every_cell(coverage, monkeypatch, tmp_path, capsys):
    condition = {"n": 100, "prevalence": 1.0, "value": 0.8, "cluster": 1, "icc": 0.0}
    one = coverage.Scenario("proportion", condition, coverage.recall_draw(**condition), 100)
    monkeypatch.setattr(coverage, "scenarios", lambda fast: [one])
    monkeypatch.setattr(sys, "argv", ["coverage.py", "--fast", "--output", str(tmp_path / "f")])
    coverage.main()
    assert "| proportion | accuracy | 1 | 0% |" in capsys.readouterr().out
    cells = json.loads((tmp_path / "f").read_text())["cells"]
    assert [cell["metric"] for cell in cells] == ["accuracy"]


def test_fast_takes_a_few_of_all_parts(coverage):
    everything, few = list(coverage.scenarios(False)), list(coverage.scenarios(True))
    assert len(few) < len(everything) / 10
    assert {s.part for s in few} >= {"proportion", "area", "single"}
    assert min(s.repetitions for s in everything if s.part in ("proportion", "area")) >= 1000
    assert min(s.repetitions for s in everything) >= 400
    assert np.unique([s.repetitions for s in few]).max() <= 100


def test_the_cost_of_a_set_is_told(coverage, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coverage.py", "--cost", "4", "50"])
    coverage.main()
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == 4 and found["seconds"] >= 0 and found["extra_mib"] >= 0
