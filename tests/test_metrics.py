"""Every number is scikit-learn's, by scikit-learn's own functions or by its definition."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as reference

from finetune.errors import CheckError, ConfigurationError, DataError, InputError
from finetune.evaluation.metrics import (
    compute_metrics,
    expected_calibration_error,
    group_means,
    select_value,
)
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.selection import SELECT_METRICS, check_select_metric, higher_is_better
from finetune.specs import LabelKind, LabelSpec


def answers(classes, count=200, seed=0, *, groups=None, absent=()):
    random = np.random.default_rng(seed)
    labels = random.choice([c for c in range(classes) if c not in absent], count)
    logits = random.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    names = tuple(f"class {i}" for i in range(classes))
    spec = LabelSpec(LabelKind.single, names, names[-1] if classes == 2 else None)
    return Predictions([str(i) for i in range(count)], labels, logits, spec, groups)


def several(count=200, classes=4, seed=0, unknown=0.2):
    random = np.random.default_rng(seed)
    labels = (random.random((count, classes)) < 0.4).astype(float)
    logits = random.normal(size=(count, classes)) + 2 * labels - 1
    labels[random.random(labels.shape) < unknown] = np.nan
    spec = LabelSpec(LabelKind.multi, tuple("abcd"[:classes]))
    return Predictions([str(i) for i in range(count)], labels, logits, spec)


@pytest.mark.parametrize("classes", [2, 3, 10, 50])
@pytest.mark.parametrize("seed", range(3))
def test_scalars_are_scikit_learns(classes, seed):
    found = answers(classes, count=20 * classes + 100, seed=seed)
    truth, odds = found.labels, softmax(found.logits, axis=1)
    answer, all_classes = odds.argmax(axis=1), list(range(classes))
    if classes == 2:
        roc = reference.roc_auc_score(truth, odds[:, 1])
        brier = reference.brier_score_loss(truth, odds[:, 1])
    else:
        roc = reference.roc_auc_score(truth, odds, multi_class="ovr", labels=all_classes)
        brier = ((odds - np.eye(classes)[truth]) ** 2).sum(axis=1).mean()
    expected = {
        "accuracy": reference.accuracy_score(truth, answer),
        "balanced_accuracy": reference.balanced_accuracy_score(truth, answer),
        "macro_f1": reference.f1_score(truth, answer, average="macro"),
        "cohen_kappa": reference.cohen_kappa_score(truth, answer),
        "mcc": reference.matthews_corrcoef(truth, answer),
        "log_loss": reference.log_loss(truth, odds, labels=all_classes),
        "roc_auc": roc, "brier": brier, "average_precision": np.mean([
            reference.average_precision_score(truth == c, odds[:, c]) for c in all_classes]),
    }
    if classes >= 5:
        expected["top_3_accuracy"] = reference.top_k_accuracy_score(truth, odds, k=3,
                                                                    labels=all_classes)
    got = compute_metrics(found)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-12), name
    assert ("top_3_accuracy" in got) is (classes >= 5)
    assert got["confusion_matrix"] == reference.confusion_matrix(truth, answer).tolist()
    assert got["classification_report"] == reference.classification_report(
        truth, answer, digits=3, target_names=list(found.label_spec.class_names))


@pytest.mark.parametrize("classes", [2, 5, 50])
def test_classes_are_scikit_learns(classes):
    found = answers(classes, count=40 * classes)
    truth, odds = found.labels, softmax(found.logits, axis=1)
    answer = odds.argmax(axis=1)
    precision, recall, f1, support = reference.precision_recall_fscore_support(truth, answer)
    for c, (name, row) in enumerate(compute_metrics(found)["per_class"].items()):
        assert name == f"class {c}"
        assert row == pytest.approx({
            "precision": precision[c], "recall": recall[c], "f1": f1[c], "support": support[c],
            "specificity": reference.recall_score(truth != c, answer != c),
            "npv": reference.precision_score(truth != c, answer != c),
            "roc_auc": reference.roc_auc_score(truth == c, odds[:, c]),
            "average_precision": reference.average_precision_score(truth == c, odds[:, c])})


def test_two_classes_have_what_a_diagnostic_study_reports():
    found = answers(2)
    answer = found.logits.argmax(axis=1)
    tn, fp, fn, tp = reference.confusion_matrix(found.labels, answer).ravel()
    assert compute_metrics(found)["positive"] == pytest.approx({
        "class": "class 1", "sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp),
        "ppv": tp / (tp + fp), "npv": tn / (tn + fn)})
    spec = LabelSpec(LabelKind.single, ("class 0", "class 1"), "class 0")
    other = compute_metrics(Predictions(found.ids, found.labels, found.logits, spec))["positive"]
    assert other["sensitivity"] == tn / (tn + fp) and other["ppv"] == tn / (tn + fn)


@pytest.mark.parametrize("seed", range(4))
def test_several_labels_are_scikit_learns_over_what_is_known(seed):
    found = several(seed=seed)
    odds, got = expit(found.logits), compute_metrics(found)
    areas, precisions = [], []
    for c, row in enumerate(got["per_class"].values()):
        known = ~np.isnan(found.labels[:, c])
        truth, scores = found.labels[known, c].astype(int), odds[known, c]
        answer = (scores >= 0.5).astype(int)
        areas.append(reference.roc_auc_score(truth, scores))
        precisions.append(reference.average_precision_score(truth, scores))
        assert row == pytest.approx({
            "precision": reference.precision_score(truth, answer),
            "recall": reference.recall_score(truth, answer),
            "specificity": reference.recall_score(1 - truth, 1 - answer),
            "npv": reference.precision_score(1 - truth, 1 - answer),
            "f1": reference.f1_score(truth, answer), "support": truth.sum(),
            "roc_auc": areas[-1], "average_precision": precisions[-1]})
    known = ~np.isnan(found.labels)
    assert got["roc_auc"] == pytest.approx(np.mean(areas))
    assert got["average_precision"] == pytest.approx(np.mean(precisions))
    assert got["log_loss"] == pytest.approx(reference.log_loss(found.labels[known], odds[known]))


@pytest.mark.parametrize("seed", range(3))
def test_absent_and_invented_classes_are_scikit_learns(seed):
    found = answers(6, seed=seed, absent=[1, 4])
    found.logits[:, 4] -= 99  # never the answer either; class 1 is answered, but never true
    truth, answer = found.labels, found.logits.argmax(axis=1)
    got = compute_metrics(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn tells of classes that are answered only
        expected = {"balanced_accuracy": reference.balanced_accuracy_score(truth, answer),
                    "macro_f1": reference.f1_score(truth, answer, average="macro"),
                    "cohen_kappa": reference.cohen_kappa_score(truth, answer),
                    "mcc": reference.matthews_corrcoef(truth, answer)}
    assert {name: got[name] for name in expected} == pytest.approx(expected)
    assert (answer == 1).any() and got["roc_auc"] is None
    invented, nowhere = got["per_class"]["class 1"], got["per_class"]["class 4"]
    assert invented["precision"] == 0 and invented["npv"] == 1 and nowhere["npv"] == 1
    assert invented["roc_auc"] is invented["average_precision"] is nowhere["roc_auc"] is None
    there = [row["average_precision"] for row in got["per_class"].values() if row["support"]]
    assert len(there) == 4 and got["average_precision"] == pytest.approx(np.mean(there))


def test_a_class_that_nobody_has_takes_nothing_from_the_mean_of_several_labels():
    found = several(unknown=0)
    found.labels[:, 2], found.logits[:, 2] = 0, -9
    got = compute_metrics(found)
    rest = [row["f1"] for name, row in got["per_class"].items() if name != "c"]
    assert got["macro_f1"] == pytest.approx(np.mean(rest)) == pytest.approx(reference.f1_score(
        found.labels, found.logits >= 0, average="macro", zero_division=np.nan))
    found.labels[:], found.logits[:] = 0, -9
    nothing = compute_metrics(found)
    assert nothing["accuracy"] == 1 and nothing["macro_f1"] is nothing["micro_f1"] is None


def test_a_column_of_which_nothing_is_known_changes_no_other_number():
    found = several()
    found.labels[:, 3] = np.nan
    got = compute_metrics(found)
    fewer = LabelSpec(LabelKind.multi, ("a", "b", "c"))
    rest = compute_metrics(Predictions(found.ids, found.labels[:, :3], found.logits[:, :3], fewer))
    for name in ("accuracy", "macro_f1", "micro_f1", "roc_auc", "average_precision", "log_loss",
                 "brier"):
        assert got[name] == pytest.approx(rest[name]), name
    assert got["per_class"]["d"]["roc_auc"] is None and got["per_class"]["d"]["npv"] is None


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_the_papers_sum_over_bins(bins):
    found = answers(4, count=500)
    odds = softmax(found.logits, axis=1)
    confidence, right = odds.max(axis=1), odds.argmax(axis=1) == found.labels
    total = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(found.labels, odds, bins=bins) == pytest.approx(total)


def test_certain_right_answers_are_perfectly_calibrated_and_wrong_ones_are_not():
    sure = np.eye(3)[[0, 1, 2]]
    assert expected_calibration_error(np.array([0, 1, 2]), sure) == 0
    assert expected_calibration_error(np.array([1, 2, 0]), sure) == 1


def test_groups_are_measured_by_their_mean_probability():
    found = answers(3, count=60)
    groups = [f"p{i // 3}" for i in range(60)]
    found.labels[:] = np.repeat(found.labels[::3], 3)
    got = compute_metrics(Predictions(found.ids, found.labels, found.logits, found.label_spec,
                                      groups))["groups"]
    means = softmax(found.logits, axis=1).reshape(20, 3, 3).mean(axis=1)
    assert got["count"] == 20 and got["left_out"] == 0
    assert got["accuracy"] == np.mean(means.argmax(axis=1) == found.labels[::3])


def test_groups_of_mixed_labels_are_left_out_and_counted():
    labels, means, left_out = group_means(np.array([0, 1, 1, 1]), np.eye(2)[[0, 1, 1, 0]],
                                          ["a", "a", "b", "b"])
    assert labels.tolist() == [1] and means.tolist() == [[0.5, 0.5]] and left_out == 1


def test_a_group_knows_what_one_of_its_pictures_knows():
    nan = np.nan
    labels = np.array([[1, nan], [nan, nan], [0, 1], [0, 1], [1, 0], [0, 0]], np.float32)
    found, means, left_out = group_means(labels, np.arange(12.0).reshape(6, 2), list("aabbcc"))
    assert np.array_equal(found, [[1, nan], [0, 1]], equal_nan=True) and left_out == 1
    assert found.dtype == np.float32 and means.tolist() == [[1, 2], [5, 6]]


def test_single_pictures_are_no_groups():
    found = answers(3, count=6, groups=list("abcdef"))
    assert "groups" not in compute_metrics(found)


@pytest.mark.parametrize("found", [
    answers(3, absent=[1]), answers(2, absent=[0]), answers(3, count=1), several(unknown=1.0),
    several(count=1), answers(6, count=2)],
    ids=["a class is absent", "one class", "one picture", "nothing known", "one", "two"])
def test_what_is_not_defined_is_none_never_nan(found):
    text = json.dumps(compute_metrics(found), allow_nan=False)
    assert json.loads(text)["count"] == len(found)


def test_an_absent_class_makes_no_roc_of_its_own():
    got = compute_metrics(answers(3, absent=[1]))
    assert got["per_class"]["class 1"]["roc_auc"] is None and got["roc_auc"] is None
    assert got["per_class"]["class 1"]["support"] == 0
    assert got["balanced_accuracy"] is not None


def test_broken_answers_are_refused_by_name():
    found = answers(3)
    found.logits[7] = np.nan
    with pytest.raises(CheckError, match="7"):
        compute_metrics(found)
    with pytest.raises(DataError):
        compute_metrics(Predictions([], np.zeros(0, int), np.zeros((0, 3)), found.label_spec))


def test_every_metric_that_can_choose_is_a_number_of_some_labels():
    ordered = answers(6)
    ordered = replace(ordered, label_spec=replace(ordered.label_spec, kind=LabelKind.ordinal))
    known = {k for f in (ordered, several()) for k in compute_metrics(f)}
    assert set(SELECT_METRICS) <= known
    assert [n for n in SELECT_METRICS if not higher_is_better(n)] == [
        "mean_absolute_error", "log_loss", "brier", "ece"]


def test_a_metric_to_choose_by_has_to_exist_and_be_defined():
    with pytest.raises(ConfigurationError, match="balanced_accuracy"):
        check_select_metric("balanced_acuracy")
    with pytest.raises(ConfigurationError, match="micro_f1"):
        select_value(compute_metrics(answers(3)), "micro_f1")
    with pytest.raises(InputError, match="not defined"):
        select_value(compute_metrics(answers(3, absent=[1])), "roc_auc")
    assert select_value({"accuracy": 1}, "accuracy") == 1.0
