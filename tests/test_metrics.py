import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from finetune.errors import ConfigurationError
from finetune.evaluation.metrics import (
    check_metric,
    compute_metrics,
    expected_calibration_error,
    is_lower_better,
)
from finetune.evaluation.predictions import Predictions
from finetune.specs import LabelKind, LabelSpec


def made(classes=4, count=200, seed=0, labels=None, groups=None):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)).astype(np.float32)
    labels = random.integers(0, classes, count) if labels is None else labels
    logits[np.arange(count), labels] += 1
    spec = LabelSpec(LabelKind.single, tuple(f"c{i}" for i in range(classes)))
    return Predictions([f"p{i}" for i in range(count)], labels, logits, spec, groups)


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_scalars_agree_with_scikit_learn(classes):
    p = made(classes)
    found, probability = compute_metrics(p), softmax(p.logits.astype(np.float64), axis=1)
    predicted, onehot = probability.argmax(1), np.eye(classes)[p.labels]
    expected = {
        "accuracy": sk.accuracy_score(p.labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(p.labels, predicted),
        "macro_f1": sk.f1_score(p.labels, predicted, average="macro"),
        "cohen_kappa": sk.cohen_kappa_score(p.labels, predicted),
        "mcc": sk.matthews_corrcoef(p.labels, predicted),
        "log_loss": sk.log_loss(p.labels, probability),
        "roc_auc": np.mean([sk.roc_auc_score(onehot[:, k], probability[:, k])
                            for k in range(classes)]),
        "average_precision": np.mean([sk.average_precision_score(onehot[:, k], probability[:, k])
                                      for k in range(classes)]),
        "brier": ((probability - onehot) ** 2).sum(1).mean(),
    }
    if classes > 2:
        assert found["roc_auc"] == pytest.approx(
            sk.roc_auc_score(p.labels, probability, multi_class="ovr"))
    if classes >= 5:
        expected["top_3_accuracy"] = sk.top_k_accuracy_score(p.labels, probability, k=3)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    assert found["confusion_matrix"] == sk.confusion_matrix(p.labels, predicted).tolist()


def test_per_class_agrees_with_scikit_learns_report():
    p = made(4)
    found = compute_metrics(p)["per_class"]
    report = sk.classification_report(p.labels, p.probabilities.argmax(1), output_dict=True)
    matrix = sk.multilabel_confusion_matrix(p.labels, p.probabilities.argmax(1))
    for k in range(4):
        row, expected = found[f"c{k}"], report[str(k)]
        assert row["precision"] == pytest.approx(expected["precision"])
        assert row["recall"] == pytest.approx(expected["recall"])
        assert row["f1"] == pytest.approx(expected["f1-score"])
        assert row["support"] == expected["support"]
        (tn, fp), _ = matrix[k]
        assert row["specificity"] == pytest.approx(tn / (tn + fp))


def test_two_classes_have_predictive_values():
    p = made(2)
    found = compute_metrics(p)["positive"]
    (tn, fp), (fn, tp) = sk.confusion_matrix(p.labels, p.probabilities.argmax(1))
    assert found == {"class": "c1", "sensitivity": pytest.approx(tp / (tp + fn)),
                     "specificity": pytest.approx(tn / (tn + fp)),
                     "ppv": pytest.approx(tp / (tp + fp)), "npv": pytest.approx(tn / (tn + fn))}


def test_an_absent_class_is_undefined_not_zero_and_json_stays_valid():
    found = compute_metrics(made(3, 20, labels=np.array([0, 1] * 10)))
    assert found["per_class"]["c2"]["recall"] is None
    assert found["roc_auc"] is None and found["per_class"]["c0"]["roc_auc"] is not None
    json.dumps(found, allow_nan=False)


def test_a_single_picture_has_metrics():
    json.dumps(compute_metrics(made(3, 1, labels=np.array([1]))), allow_nan=False)


def test_calibration_error_of_known_cases():
    assert expected_calibration_error(np.array([0, 0]), np.array([[1.0, 0], [1.0, 0]])) == 0
    probabilities = np.tile([0.8, 0.2], (10, 1))
    labels = np.array([0] * 6 + [1] * 4)
    assert expected_calibration_error(labels, probabilities) == pytest.approx(0.2)


def test_groups_are_measured_on_mean_probabilities_and_mixed_ones_left_out():
    p = made(3, 6, labels=np.array([0, 0, 1, 1, 2, 0]), groups=["a", "a", "b", "b", "c", "c"])
    found = compute_metrics(p)["groups"]
    mean = p.probabilities[:4].reshape(2, 2, 3).mean(1)
    assert (found["count"], found["left_out_mixed_labels"]) == (2, 1)
    assert found["accuracy"] == (mean.argmax(1) == [0, 1]).mean()
    assert "groups" not in compute_metrics(made(3, 4, groups=["a", "b", "c", "d"]))


def test_multi_label_leaves_unknown_out_and_agrees_with_scikit_learn():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (100, 3)).astype(np.float32)
    labels[:10, 0] = np.nan
    logits = random.normal(size=(100, 3)).astype(np.float32) + np.nan_to_num(labels)
    spec = LabelSpec(LabelKind.multi, ("a", "b", "c"))
    p = Predictions([str(i) for i in range(100)], labels, logits, spec)
    found, probability = compute_metrics(p), p.probabilities
    assert found["per_class"]["a"]["roc_auc"] == pytest.approx(
        sk.roc_auc_score(labels[10:, 0], probability[10:, 0]))
    assert found["per_class"]["b"]["average_precision"] == pytest.approx(
        sk.average_precision_score(labels[:, 1], probability[:, 1]))
    assert found["accuracy"] == sk.accuracy_score(labels[10:], probability[10:] >= 0.5)
    known = ~np.isnan(labels)
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels[known], np.stack(
        [1 - probability[known], probability[known]], 1)))
    assert found["micro_f1"] == pytest.approx(
        sk.f1_score(labels[known], probability[known] >= 0.5))
    json.dumps(found, allow_nan=False)


def test_a_metric_to_choose_by_must_exist_for_the_labels():
    check_metric("macro_f1", LabelKind.multi)
    with pytest.raises(ConfigurationError, match="balanced_accuracy"):
        check_metric("balanced_acuracy", LabelKind.single)
    with pytest.raises(ConfigurationError):
        check_metric("ece", LabelKind.multi)
    assert is_lower_better("log_loss") and not is_lower_better("accuracy")
