"""Curves, areas and the report's text are scikit-learn's; with its areas to the bit."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from finetune.evaluation.class_report import class_report
from finetune.evaluation.ranking import (
    average_precision,
    precision_recall_points,
    roc_auc,
    roc_points,
)


def draws(digits):
    """Truths and scores, with ties the fewer digits there are."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        count = int(random.integers(2, 400))
        truth = (random.random(count) < 0.3).astype(float)
        truth[:2] = 0, 1
        yield truth, (random.random(count) + 0.3 * truth).round(digits)


@pytest.mark.parametrize("digits", [0, 1, 2, 15])
def test_areas_are_scikit_learns_to_the_bit(digits):
    for truth, scores in draws(digits):
        assert roc_auc(truth, scores) == reference.roc_auc_score(truth, scores)
        assert average_precision(truth, scores) == reference.average_precision_score(truth, scores)
        only = np.ones_like(truth)
        assert average_precision(only, scores) == reference.average_precision_score(only, scores)


@pytest.mark.parametrize("digits", [0, 1, 2, 15])
def test_curves_are_scikit_learns_to_the_bit(digits):
    for truth, scores in draws(digits):
        for ours, theirs in (
                (roc_points(truth, scores), reference.roc_curve(truth, scores)),
                (precision_recall_points(truth, scores),
                 reference.precision_recall_curve(truth, scores, drop_intermediate=True))):
            for found, wanted in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("classes", [2, 5, 30])
def test_the_text_of_exclusive_classes_is_scikit_learns(classes):
    for seed in range(10):
        random = np.random.default_rng(seed)
        labels, answers = random.integers(0, classes, (2, 300))
        answers = np.where(random.random(300) < 0.6, labels, answers)
        names = [f"{'long ' * i}{i}" for i in range(classes)]
        found = class_report(*(np.eye(classes)[v] > 0 for v in (labels, answers)), names,
                             exclusive=True)
        assert found == reference.classification_report(labels, answers, digits=3,
                                                        target_names=names)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_text_of_several_labels_is_scikit_learns_with_nothing_undefined_left(share):
    for seed in range(10):
        random = np.random.default_rng(seed)
        truth, answers = random.random((2, 200, 4)) < share
        truth[0, 0] = answers[0, 0] = True
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = class_report(truth, answers, list("abcd"), exclusive=False)
        wanted = reference.classification_report(truth, answers, digits=3, zero_division=0,
                                                 target_names=list("abcd"))
        assert found.split() == wanted.replace(".0\n", "\n").split()  # sometimes counts are floats


def test_one_label_alone_is_scikit_learns_positive():
    truth, answers = np.random.default_rng(0).random((2, 50, 1)) < 0.5
    wanted = reference.classification_report(truth, answers, digits=3, labels=[True],
                                             target_names=["a"])
    assert class_report(truth, answers, ["a"], exclusive=False) == wanted


def test_training_loads_nothing_that_it_does_not_need():
    needless = {"sklearn", "scipy", "pandas", "matplotlib", "wandb"}
    code = f"import sys, finetune.run; print(sorted(set(sys.modules) & {needless!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
