"""A share of the training part: nested, stratified, groups whole, nothing else touched."""

import itertools

import numpy as np
import pytest

from finetune.assembly import assemble_data
from finetune.composition import compose
from finetune.data.samples import Samples
from finetune.data.thinning import thin_training
from finetune.specs import LabelKind, LabelSpec

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


def build(labels, groups=None, kind=LabelKind.single):
    width = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    spec = LabelSpec(kind, tuple("abcdefgh"[:width]), None)
    return Samples([f"{i:05d}" for i in range(len(labels))], labels, spec, None, groups)


def given_parts(count):
    return np.array(["train", "train", "train", "val", "test"] * (count // 5), dtype="<U5")


def sets(groups):
    found = {}
    for index, group in enumerate(groups):
        found.setdefault(group, []).append(index)
    return list(found.values())


def cases():
    random = np.random.default_rng(0)
    labels = random.choice(4, 2000, p=[0.55, 0.3, 0.1, 0.05])
    yield "single", build(labels), []
    of_class = [f"{label}-{random.integers(0, 60)}" for label in labels]
    yield "groups of a class", build(labels, of_class), sets(of_class)
    mixed = [f"g{random.integers(0, 300)}" for _ in labels]
    yield "groups of several", build(labels, mixed), sets(mixed)
    several = (random.random((2000, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(np.float32)
    yield "several labels", build(several, kind=LabelKind.multi), []


CASES = {name: rest for name, *rest in cases()}


@pytest.mark.parametrize("name", CASES)
def test_shares_are_nested_stratified_and_whole(name):
    samples, together = CASES[name]
    names, kept = given_parts(2000), []
    for share in SHARES:
        thinned = thin_training(samples, names, fraction=share, seed=1, together=together)
        assert (thinned[names != "train"] == names[names != "train"]).all()
        assert set(thinned[names == "train"]) <= {"train", ""}
        kept.append(set(np.flatnonzero(thinned == "train").tolist()))
        inside = kept[-1]
        assert len(inside) / 1200 == pytest.approx(share, abs=0.02)
        for members in together:
            own = [i for i in members if names[i] == "train"]
            assert len(inside & set(own)) in (0, len(own))
        assert_stratified(samples, names, inside, share)
    assert all(a < b for a, b in itertools.pairwise(kept))
    assert kept[-1] == set(np.flatnonzero(names == "train").tolist())


def assert_stratified(samples, names, inside, share):
    labels = samples.labels
    has = np.eye(4)[labels] if labels.ndim == 1 else labels
    every = has[names == "train"].sum(axis=0)
    got = has[sorted(inside)].sum(axis=0)
    assert (got >= 1).all()
    assert (np.abs(got - share * every) <= np.maximum(6, 0.08 * every)).all()


def test_the_share_is_a_function_of_names_and_not_of_their_order():
    samples, together = CASES["groups of several"]
    names = given_parts(2000)
    thinned = thin_training(samples, names, fraction=0.25, seed=3, together=together)
    order = np.random.default_rng(1).permutation(2000)
    place = np.argsort(order)
    moved = thin_training(samples.select(order.tolist()), names[order], fraction=0.25, seed=3,
                          together=[[int(place[i]) for i in members] for members in together])
    assert (moved == thinned[order]).all()
    other = thin_training(samples, names, fraction=0.25, seed=4, together=together)
    assert (other != thinned).any()


def test_a_class_with_one_picture_is_kept():
    samples = build(np.array([0] * 40 + [1]))
    thinned = thin_training(samples, np.array(["train"] * 41), fraction=0.05, seed=0)
    assert thinned[-1] == "train" and (thinned == "train").sum() == 3


def test_a_run_trains_on_the_share_and_keeps_the_other_parts(tmp_path):
    import cv2

    random = np.random.default_rng(0)
    rows = ["path,label,group"]
    for number in range(60):
        cv2.imwrite(str(tmp_path / f"{number}.png"), random.integers(0, 255, (20, 20, 3), np.uint8))
        rows.append(f"{number}.png,{'ab'[number // 2 % 2]},g{number // 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    words = [f"data.root={tmp_path}"]
    whole, half = (assemble_data(compose([*words, f"data.train_fraction={share}"]).config,
                                 str(tmp_path)) for share in (1, 0.5))
    assert half.part("val").ids == whole.part("val").ids
    assert half.part("test").ids == whole.part("test").ids
    count = len(whole.part("train"))
    assert len(half.part("train")) == pytest.approx(count / 2, abs=2)
    assert f"of {count} training pictures" in " ".join(half.warnings)
    groups = half.part("train").groups
    assert all(groups.count(g) == 2 for g in groups)
