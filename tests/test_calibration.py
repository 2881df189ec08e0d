"""Planted temperatures come back, fits are the references', and noise is not kept."""

import json

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax
from sklearn.calibration import _TemperatureScaling
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from statistics_of import drawn, several

from finetune.evaluation.calibration import (
    Calibration,
    fit_calibration,
    fit_scaling,
    log_losses,
    to_probabilities,
)
from finetune.evaluation.reliability import reliability_bins, reliability_diagram


@pytest.mark.parametrize("planted", [0.5, 2.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_planted_temperatures_come_back(planted, classes):
    logits, labels = drawn(3000, classes)
    found, _ = fit_calibration(logits * planted, labels, kind="temperature", seed=0)
    assert found.kept and found.temperature == pytest.approx(planted, rel=0.1)
    assert found.after < found.before
    np.testing.assert_allclose(found.apply(logits * planted), logits, rtol=0.1)


def test_a_temperature_is_scikit_learns():
    logits, labels = drawn(400, 4)
    scale, bias = fit_scaling(logits * 1.7, labels, kind="temperature")
    reference = _TemperatureScaling().fit(logits * 1.7, labels)
    assert scale[0] == pytest.approx(reference.beta_, rel=1e-5)
    assert not bias.any()


def test_vector_scaling_of_two_classes_is_a_logistic_regression():
    logits, labels = drawn(500, 2)
    logits = logits * [1.5, 0.7] + [0.3, 0]
    scale, bias = fit_scaling(logits, labels, kind="vector", bias_spread=np.inf)
    reference = LogisticRegression(C=np.inf, tol=1e-9).fit(logits, labels)
    np.testing.assert_allclose([-scale[0], scale[1]], reference.coef_[0], atol=1e-4)
    assert bias[1] - bias[0] == pytest.approx(reference.intercept_[0], abs=1e-4)


@pytest.mark.parametrize("kind", ["temperature", "bias_corrected", "vector"])
def test_no_nearby_scaling_has_less_log_loss(kind):
    logits, labels = drawn(300, 3)
    scale, bias = fit_scaling(logits * 2, labels, kind=kind, bias_spread=np.inf)

    def loss(scale, bias):
        return -log_softmax(logits * 2 * scale + bias, axis=1)[np.arange(300), labels].mean()

    least, random = loss(scale, bias), np.random.default_rng(0)
    for _ in range(50):
        turn = random.normal(size=3 if kind == "vector" else 1) * 0.01
        shift = random.normal(size=3) * 0.01 * (kind != "temperature")
        assert loss(scale + turn, bias + shift) >= least - 1e-9


def test_balanced_training_is_corrected_by_biases():
    logits, labels = drawn(2000, 3, prior=[0.8, 0.15, 0.05])
    biased = 1.5 * (logits - np.log([0.8, 0.15, 0.05]))
    found, _ = fit_calibration(biased, labels, kind="bias_corrected", seed=0)
    one, _ = fit_calibration(biased, labels, kind="temperature", seed=0)
    assert found.kept and found.after < one.after - 0.05
    expected = np.log([0.8, 0.15, 0.05])
    np.testing.assert_allclose(found.bias - np.mean(found.bias), expected - expected.mean(),
                               atol=0.4)


def test_a_class_without_validation_pictures_keeps_a_finite_bias():
    logits, labels = drawn(300, 4)
    inside = labels != 3
    _, bias = fit_scaling(logits[inside], labels[inside], kind="bias_corrected")
    assert -8 < bias[3] < 0


@pytest.mark.parametrize("kind", ["temperature", "bias_corrected", "vector"])
def test_what_is_calibrated_already_stays(kind):
    kept = [fit_calibration(*drawn(150, 4, seed=seed), kind=kind, seed=seed)[0].kept
            for seed in range(12)]
    assert sum(kept) <= 1


def test_the_cross_fitted_loss_is_that_of_fits_without_the_fold():
    logits, labels = drawn(400, 3)
    found, crossed = fit_calibration(logits * 2, labels, kind="temperature", seed=3)
    assert found.after == pytest.approx(log_loss(labels, softmax(crossed, axis=1)))
    assert found.before == pytest.approx(log_loss(labels, softmax(logits * 2, axis=1)))
    temperatures = np.unique((logits * 2 / crossed).round(9))
    assert len(temperatures) == 5 and found.temperature not in temperatures


def test_groups_lie_in_one_fold_each():
    logits, labels = drawn(300, 3)
    groups = np.repeat(np.arange(60), 5).tolist()
    _, crossed = fit_calibration(logits * 2.5, labels, kind="temperature", groups=groups, seed=0)
    per_picture = (logits * 2.5 / crossed)[:, 0].round(9).reshape(60, 5)
    assert (per_picture == per_picture[:, :1]).all() and len(np.unique(per_picture)) == 5


def test_refusals_are_in_words_and_change_nothing():
    logits, labels = drawn(300, 3)
    few = fit_calibration(logits[:49], labels[:49], kind="temperature", seed=0)[0]
    one = fit_calibration(logits, labels, kind="temperature", groups=["a"] * 300, seed=0)[0]
    perfect = fit_calibration(logits, logits.argmax(axis=1), kind="temperature", seed=0)[0]
    wrong = fit_calibration(logits, logits.argmin(axis=1), kind="temperature", seed=0)[0]
    for found, word in ((few, "49"), (one, "one group"), (perfect, "right"), (wrong, "beyond")):
        assert not found.kept and word in found.reason
        np.testing.assert_array_equal(found.apply(logits), logits)


def test_labels_get_their_own_scale_and_bias_and_unknown_ones_do_not_count():
    logits, labels = several(2000, 3)
    planted = logits * [2, 0.5, 1] + [1, 0, 0]
    found, crossed = fit_calibration(planted, labels, kind="per_label", seed=0,
                                     class_names=["a", "b", "c"])
    np.testing.assert_allclose(found.scale, [0.5, 2, 1], rtol=0.2)
    assert found.bias[0] == pytest.approx(-0.5, abs=0.25)
    known = ~np.isnan(labels[:, 0])
    reference = LogisticRegression(C=np.inf).fit(planted[known, :1], labels[known, 0])
    assert found.scale[0] == pytest.approx(reference.coef_[0, 0], rel=0.02)
    assert "2 of 3" in found.reason and "c (" in found.reason
    np.testing.assert_array_equal(crossed[:, 2], planted[:, 2])


def test_rare_and_separated_labels_stay_as_they_are():
    logits, labels = several(300, 3)
    labels[:, 0] = np.where(np.arange(300) < 9, 1, 0)
    labels[:, 1] = logits[:, 1] > 1
    labels[:, 2] = np.nan
    found, crossed = fit_calibration(logits, labels, kind="per_label", seed=0)
    assert not found.kept and found.scale == (1, 1, 1) and "9 known" in found.reason
    np.testing.assert_array_equal(crossed, logits)


def test_log_losses_and_probabilities_are_the_references():
    logits, labels = drawn(200, 3)
    assert log_losses(logits, labels).mean() == pytest.approx(
        log_loss(labels, softmax(logits, axis=1)))
    np.testing.assert_allclose(to_probabilities(logits), softmax(logits, axis=1))
    logits, labels = several(100, 3)
    np.testing.assert_allclose(to_probabilities(logits, multi=True), expit(logits))
    row = np.flatnonzero(~np.isnan(labels).any(axis=1))[0]
    assert log_losses(logits, labels)[row] == pytest.approx(
        log_loss(labels[row], expit(logits[row])))
    assert np.isnan(log_losses(logits[:1], np.full((1, 3), np.nan)))[0]


@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_a_calibration_survives_json(kind):
    logits, labels = drawn(500, 3)
    found, _ = fit_calibration(logits * 3, labels, kind=kind, seed=0)
    again = Calibration.from_dict(json.loads(json.dumps(found.to_dict())))
    assert found.kept and again == found
    np.testing.assert_array_equal(again.apply(logits), found.apply(logits))


def test_bins_hold_equally_many_pictures_and_their_shares():
    random = np.random.default_rng(0)
    confidence = random.random(1000)
    right = random.random(1000) < confidence
    found = reliability_bins(confidence, right)
    assert [row["count"] for row in found] == pytest.approx([100] * 10, abs=1)
    for row in found:
        inside = (confidence >= row["low"]) & (confidence <= row["high"])
        assert row["accuracy"] == right[inside].mean()
        assert row["confidence"] == pytest.approx(confidence[inside].mean())
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]


def test_equal_confidences_share_a_bin_and_few_pictures_have_few_bins():
    same = reliability_bins(np.r_[np.full(90, 0.5), np.full(110, 1.0)], np.ones(200, bool))
    assert [row["count"] for row in same] == [90, 110]
    assert len(reliability_bins(np.linspace(0, 1, 45), np.ones(45, bool))) == 2
    assert reliability_bins(np.empty(0), np.empty(0, bool)) == []


def test_a_diagram_has_every_class_and_leaves_unknown_labels_out():
    logits, labels = drawn(300, 3)
    found = reliability_diagram(labels, softmax(logits, axis=1), "abc")
    assert sum(row["count"] for row in found["top_label"]) == 300
    assert list(found["per_class"]) == ["a", "b", "c"]
    logits, labels = several(300, 3)
    found = reliability_diagram(labels, expit(logits), "abc")
    assert found["top_label"] is None
    assert sum(row["count"] for row in found["per_class"]["a"]) == (~np.isnan(labels[:, 0])).sum()
