"""Runs with corrections for rare classes, and what their labels mean afterwards."""

import json

import cv2
import numpy as np
import pytest
import torch

from finetune.composition import compose
from finetune.errors import ConfigurationError
from finetune.evaluation.decision_measures import measure_decisions
from finetune.evaluation.decisions import DecisionSettings, fit_decisions
from finetune.evaluation.intervals import compute_intervals
from finetune.evaluation.predictions import Predictions
from finetune.run import fit

SMALL = ["model.name=resnet10t", "model.weights=null", "data.image_size=32", "data.batch_size=8",
         "data.workers=0", "tracking.mode=disabled", "device=cpu", "data.transform=none",
         "training.epochs=2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures of which 40 are of class a and 12 of b; fever and cough are partly unknown."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = ["path,label,fever,cough"]
    for number in range(52):
        name = f"{number}.png"
        bright = 60 * (number % 4 == 0) + 80 * (number % 3 == 0)
        picture = (random.integers(0, 80, (24, 32, 3)) + bright).astype(np.uint8)
        cv2.imwrite(str(tmp_path / name), picture)
        rows.append(f"{name},{'ab'[number % 4 == 0]},{'' if number % 5 == 1 else number % 2},"
                    f"{'' if number % 7 == 1 else int(number % 3 == 0)}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path


def train(folder, *words):
    return fit(compose([f"data.root={folder}", "data.labels_file=table.csv", *SMALL,
                        *words]).config)


@pytest.mark.usefixtures("without_pages")
@pytest.mark.parametrize("words", [
    ["training.logit_adjustment=1"], ["training.class_weights=effective_number"]])
def test_a_correction_moves_answers_to_the_rare_class(folder, words):
    plain, corrected = train(folder, "data.label_kind=single"), train(folder, *words)
    odds = [Predictions.load(run.predictions_path("test")).probabilities[:, 1].mean()
            for run in (plain, corrected)]
    assert odds[1] > odds[0] + 0.02


def test_several_labels_are_measured_and_decided_over_what_is_known(folder):
    run = train(folder, "data.label_column=fever,cough", "data.label_kind=multi",
                "training.logit_adjustment=1", "data.val_fraction=0.4")
    val = Predictions.load(run.predictions_path("val"))
    assert np.isnan(val.labels).any()
    for name, row in run.metrics["val"]["per_class"].items():
        place = val.label_spec.class_names.index(name)
        assert row["support"] == (val.labels[:, place] == 1).sum()
    intervals = compute_intervals(val, run.metrics["val"])
    assert set(intervals["per_class"]) == {"fever", "cough"}
    json.dumps(intervals, allow_nan=False)
    found = fit_decisions(val, settings=DecisionSettings(best_f1=True), biased_training=True,
                          seed=0)
    assert [p.class_name for p in found.points] == ["fever", "cough"]
    told = measure_decisions(found, Predictions.load(run.predictions_path("test")))
    json.dumps(told, allow_nan=False)
    assert (run.path / "report.html").stat().st_size > 10_000
    assert all(np.isfinite(entry["train_loss"]) for entry in run.history)


@pytest.mark.parametrize("words", [
    ["data.sampling=balanced", "training.class_weights=balanced"],
    ["data.sampling=balanced", "training.logit_adjustment=1"],
    ["training.class_weights=effective_number", "training.logit_adjustment=0.5"]])
def test_two_corrections_are_refused(words):
    with pytest.raises(ConfigurationError, match="more than once: keep one") as found:
        compose(["data.root=x", *words])
    assert all(word in str(found.value) for word in words)


@pytest.mark.parametrize("word", ["training.logit_adjustment=-1", "training.logit_adjustment=11"])
def test_an_adjustment_beyond_its_range_is_refused(word):
    with pytest.raises(ConfigurationError, match="out of range"):
        compose(["data.root=x", word])


def test_evaluation_has_plain_logits(folder):
    """The adjustment is in the loss alone: the same network answers the same."""
    from finetune.assembly import assemble_data, assemble_model, input_spec
    from finetune.method import build_method, predict_part

    found = []
    for tau in (0, 2):
        config = compose([f"data.root={folder}", "data.labels_file=table.csv", *SMALL,
                          f"training.logit_adjustment={tau}"]).config
        data = assemble_data(config, config.data.root)
        torch.manual_seed(0)
        model, weights = assemble_model(config, class_names=("a", "b"), channels=3)
        method = build_method(config, model, data, input_spec(config, data, model, weights),
                              torch.device("cpu"))
        found.append(predict_part(method, data, "val", final=True).logits)
    assert np.array_equal(*found)
