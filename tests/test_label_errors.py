import csv
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from finetune.__main__ import main
from finetune.composition import compose
from finetune.errors import DataError
from finetune.evaluation.label_errors import (
    confident_joint,
    estimate_joint,
    flag_labels,
    rank_labels,
)
from finetune.label_errors import out_of_fold_probabilities
from finetune.report.suspects import write_suspects
from finetune.run import fit
from finetune.specs import LabelKind, LabelSpec

THREE = LabelSpec(LabelKind.single, ("a", "b", "c"))


def test_the_joint_of_an_example_worked_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.array([[.9, .1], [.8, .2], [.1, .9], [.2, .8], [.4, .6], [.7, .3]])
    # thresholds .6 and .5667: confident are 0, 0, 1 | 1, 1, 0
    joint = confident_joint(labels, probabilities)
    assert joint.tolist() == [[2, 1], [1, 2]]
    assert estimate_joint(joint, np.array([3, 3])).tolist() == [[2, 1], [1, 2]]
    assert np.flatnonzero(flag_labels(labels, probabilities)).tolist() == [2, 5]


def test_pictures_that_reach_no_threshold_are_not_counted_but_scaled_to():
    labels = np.array([0] * 4 + [1] * 4)
    probabilities = np.array([[1, 0], [1, 0], [.5, .5], [.5, .5], [0, 1], [0, 1], [.9, .1],
                              [.5, .5]])
    joint = confident_joint(labels, probabilities)  # thresholds .75 and .65
    assert joint.tolist() == [[2, 0], [1, 2]]
    assert estimate_joint(joint, np.array([4, 4])) == pytest.approx(
        np.array([[4, 0], [4 / 3, 8 / 3]]))


def test_a_label_without_a_confident_picture_is_taken_as_right():
    assert estimate_joint(np.array([[2, 1], [0, 0]]), np.array([6, 5])).tolist() == [[4, 2], [0, 5]]


def noisy(count=900, share=0.1, seed=0):
    """Features of three classes, the labels, and which of them were made wrong."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, count)
    features = 3 * np.eye(3)[truth] + random.normal(size=(count, 3))
    wrong = random.random(count) < share
    labels = np.where(wrong, (truth + random.integers(1, 3, count)) % 3, truth)
    return torch.tensor(features, dtype=torch.float32), labels, wrong, truth


def test_the_estimated_number_of_errors_is_that_of_the_planted_ones():
    features, labels, wrong, _ = noisy(3000)
    probabilities = out_of_fold_probabilities(features, labels, label_spec=THREE)
    joint = estimate_joint(confident_joint(labels, probabilities), np.bincount(labels))
    assert joint.sum() == pytest.approx(3000)
    assert (joint.sum() - joint.trace()) / wrong.sum() == pytest.approx(1, abs=0.25)


def test_planted_errors_are_found_and_their_class_suggested():
    features, labels, wrong, truth = noisy()
    probabilities = out_of_fold_probabilities(features, labels, label_spec=THREE)
    suspects = rank_labels(labels, probabilities, label_spec=THREE)
    assert len(suspects) == 900
    for sooner, later in pairwise(suspects):
        assert sooner.margin <= later.margin or sooner.self_confidence <= later.self_confidence
    flagged = np.array([s.row for s in suspects if s.flagged])
    assert wrong[flagged].sum() / wrong.sum() > 0.75 and wrong[flagged].mean() > 0.75
    assert wrong[[s.row for s in suspects[:40]]].mean() > 0.95
    named = [THREE.class_names[truth[s.row]] == s.suggested for s in suspects[:40]]
    assert np.mean(named) > 0.95
    assert all(s.given == THREE.class_names[labels[s.row]] != s.suggested for s in suspects)


def test_copies_of_a_picture_defend_its_label_unless_they_are_a_group():
    random = np.random.default_rng(3)
    features = torch.tensor(np.repeat(random.normal(size=(100, 300)), 2, axis=0),
                            dtype=torch.float32)
    labels = np.repeat(random.integers(0, 3, 100), 2)  # nothing to be learnt but by heart
    groups = [i // 2 for i in range(200)]

    def right(groups):
        found = out_of_fold_probabilities(features, labels, label_spec=THREE, groups=groups)
        return float((found.argmax(axis=1) == labels).mean())

    assert right(groups) < 0.5 < 0.7 < right(None)


def test_a_class_that_no_other_fold_shows_is_not_judged():
    features, labels, _, _ = noisy(120, share=0)
    labels = np.where(labels == 2, 1, labels)
    labels[:6] = 2
    groups = [0] * 6 + list(range(1, 115))
    found = out_of_fold_probabilities(features, labels, label_spec=THREE, groups=groups)
    assert np.isnan(found[:6]).all() and not np.isnan(found[6:]).any()
    assert {s.row for s in rank_labels(labels, found, label_spec=THREE)} == set(range(6, 120))


def test_one_group_can_not_be_judged():
    features, labels, _, _ = noisy(30)
    with pytest.raises(DataError, match="too few"):
        out_of_fold_probabilities(features, labels, label_spec=THREE, groups=[0] * 30)


def test_several_labels_are_judged_one_by_one_and_unknown_ones_are_not():
    random = np.random.default_rng(1)
    truth = (random.random((600, 2)) < 0.5).astype(np.float32)
    features = torch.tensor(9 * truth + random.normal(size=truth.shape), dtype=torch.float32)
    labels = truth.copy()
    labels[:30, 1] = 1 - labels[:30, 1]
    labels[30:60] = np.nan
    spec = LabelSpec(LabelKind.multi, ("x", "y"))
    suspects = rank_labels(labels, out_of_fold_probabilities(features, labels, label_spec=spec),
                           label_spec=spec)
    assert len(suspects) == 2 * 570
    assert {s.row for s in suspects}.isdisjoint(range(30, 60))
    first = suspects[:25]
    assert {s.row for s in first} <= set(range(30)) and all(s.flagged for s in first)
    assert {(s.given, s.suggested) for s in first} == {("y", "not y"), ("not y", "y")}


def test_the_page_stays_below_3_mb(tmp_path):
    random = np.random.default_rng(2)
    noise = random.integers(0, 255, (400, 400, 3)).astype(np.uint8)
    rows = [{"path": f"<{i}>.png", "part": "train", "given": "a", "suggested": "b",
             "self_confidence": 0.1} for i in range(500)]
    shown = write_suspects(tmp_path / "page.html", rows, title="t", notes=["n"],
                           read_picture=lambda name: noise)
    text = (tmp_path / "page.html").read_text()
    assert 50 < shown < 500 and len(text) < 3_000_000
    assert f"first {shown} of 500" in text and "&lt;0&gt;.png" in text and "http:" not in text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on pictures of stripes, across or down, of which some lie in the wrong folder."""
    folder = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(0)
    wrong = set()
    for number in range(120):
        picture = random.integers(0, 60, (64, 64, 3)).astype(np.uint8)
        if number % 2:
            picture[::8] += 180
        else:
            picture[:, ::8] += 180
        label = number % 2 if number % 15 else 1 - number % 2
        path = folder / "pictures" / ("across", "down")[1 - label] / f"{number}.png"
        wrong |= set() if number % 15 else {f"{path.parent.name}/{path.name}"}
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture)
    run = fit(compose([
        f"data.root={folder / 'pictures'}", "model.name=resnet10t", "model.weights=null",
        "data.image_size=32", "data.workers=0", "training.epochs=1", "tracking.mode=disabled",
        "device=cpu", f"output_dir={folder / 'runs'}"]).config)
    return run, wrong


def test_wrong_labels_of_a_run_are_listed_with_pictures(trained, capsys):
    run, wrong = trained
    assert main(["mislabeled", str(run.path)]) == 2
    assert "--weights" in capsys.readouterr().err
    before = (run.path / "config.yaml").read_bytes()
    assert main(["mislabeled", str(run.path), "--weights", "bundled"]) == 0
    with (run.path / "mislabeled.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 120 and {row["part"] for row in rows} == {"train", "val", "test"}
    flagged = [row["path"] for row in rows if row["flagged"] == "yes"]
    assert set(flagged[:len(wrong)]) == wrong
    page = (run.path / "mislabeled.html").read_text()
    assert all(name in page for name in wrong) and page.count("<img") == len(flagged)
    assert (run.path / "config.yaml").read_bytes() == before
