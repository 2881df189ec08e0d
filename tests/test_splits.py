"""Splits: a partition, stratified, deterministic, and nothing that belongs together divided."""

from dataclasses import replace

import numpy as np
import pytest

from finetune.data.duplicates import DuplicatePolicy, conflicting_labels
from finetune.data.samples import FolderSource, Samples, read_samples, read_splits_file
from finetune.data.scanning import duplicate_groups, scan_pictures
from finetune.data.splits import (
    SplitMethod,
    class_counts,
    read_splits,
    split_samples,
    write_splits,
)
from finetune.errors import ConfigurationError, DataError
from finetune.specs import LabelKind, LabelSpec

NAMES = ("a", "b", "c")


def some(count=300, seed=0, *, groups=None, given=None, shares=(0.6, 0.3, 0.1)):
    """Samples of three classes; pictures of a group have mostly one class."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=shares).astype(np.int64)
    names = None
    if groups:
        numbers = random.integers(0, groups, count)
        labels = (numbers % 3).astype(np.int64)
        names = [f"p{n:03d}" for n in numbers]
    ids = [f"{NAMES[k]}/{i:04d}.png" for i, k in enumerate(labels)]
    return Samples(ids, labels, LabelSpec(LabelKind.single, NAMES), FolderSource("."), given,
                   groups=names)


def divide(samples, **options):
    given = {"method": None, "seed": 0, "val_fraction": 0.2, "test_fraction": 0.2, **options}
    return split_samples(samples, **given)


@pytest.mark.parametrize("seed", range(8))
def test_every_class_is_divided_by_the_fractions_to_within_one_picture(seed):
    samples = some(seed=seed)
    split = divide(samples, seed=seed)
    for number in range(3):
        own = split.names[samples.labels == number]
        for part, share in (("train", 0.64), ("val", 0.16), ("test", 0.2)):
            assert abs((own == part).sum() - share * len(own)) <= 1
    assert set(split.names) == {"train", "val", "test"}


def test_the_seed_decides_and_the_order_does_not():
    samples = some()
    first, again, other = (divide(samples, seed=s).names.tolist() for s in (0, 0, 1))
    assert first == again != other
    order = np.random.default_rng(5).permutation(len(samples)).tolist()
    shuffled = divide(samples.select(order))
    assert [first[i] for i in order] == shuffled.names.tolist()


@pytest.mark.parametrize("seed", range(8))
def test_groups_stay_together_without_being_asked_and_shares_are_near(seed):
    samples = some(groups=60, seed=seed)
    split = divide(samples, seed=seed)
    assert split.method == "group"
    parts = {}
    for group, part in zip(samples.groups, split.names, strict=True):
        parts.setdefault(group, set()).add(part)
    assert all(len(found) == 1 for found in parts.values())
    for number in range(3):
        own = split.names[samples.labels == number]
        for part, share in (("train", 0.64), ("val", 0.16), ("test", 0.2)):
            assert abs((own == part).mean() - share) < 0.08


@pytest.mark.parametrize("seed", range(5))
def test_identical_pictures_stay_together(seed):
    samples = some(groups=60, seed=seed)
    random = np.random.default_rng(seed)
    copies = [sorted(random.choice(300, 2, replace=False).tolist()) for _ in range(20)]
    for method in ("stratified", "group"):
        split = divide(samples, method=SplitMethod(method), duplicates=copies)
        assert all(len({split.names[i] for i in pair}) == 1 for pair in copies)
    assert "identical" in split.warnings[0]


def test_no_test_fraction_makes_no_test_part():
    split = divide(some(), test_fraction=0.0)
    assert set(split.names) == {"train", "val"}


def test_a_given_split_stays():
    given = ["train", "val", "test"] * 100
    split = divide(some(given=given))
    assert split.names.tolist() == given and split.method == "provided"


def test_val_is_cut_from_train_never_from_test():
    given = ["train"] * 200 + ["test"] * 100
    split = divide(some(given=given))
    assert (split.names[200:] == "test").all()
    assert set(split.names[:200]) == {"train", "val"}
    assert abs((split.names[:200] == "val").mean() - 0.2) < 0.03


def test_train_and_val_only_make_no_test_and_say_so():
    split = divide(some(given=["train", "val", "train"] * 100))
    assert set(split.names) == {"train", "val"} and "no test part" in split.warnings[-1]


@pytest.mark.parametrize(("method", "told"), [("provided", "undivided"), ("group", "group_from")])
def test_a_method_needs_what_the_data_have(method, told):
    with pytest.raises(ConfigurationError, match=told):
        divide(some(), method=SplitMethod(method))


def test_classes_too_small_are_named():
    samples = some(30).select([*range(20)])
    few = Samples([*samples.ids, "rare/1.png"], np.append(samples.labels, 3),
                  LabelSpec(LabelKind.single, (*NAMES, "rare")), FolderSource("."))
    with pytest.raises(DataError, match="rare"):
        divide(few)


def test_pictures_without_a_group_stand_alone():
    samples = some(groups=60)
    kept = samples.groups[:150]
    split = divide(replace(samples, groups=kept + [""] * 150))
    assert len(set(split.names[150:])) == 3
    assert all(len({p for p, g in zip(split.names, kept, strict=False) if g == name}) == 1
               for name in set(kept))


def test_a_class_that_train_lacks_is_told_with_its_namesake():
    samples = some(60, given=["train"] * 30 + ["test"] * 30)
    labels = np.array([0] * 15 + [1] * 15 + [0] * 15 + [2] * 15)
    spec = LabelSpec(LabelKind.single, ("a", "no tumor", "notumor"))
    for given in (samples.given_split, ["train"] * 30 + ["val"] * 20 + ["test"] * 10):
        with pytest.raises(DataError, match=r"'notumor' \(did you mean 'no tumor'\?\)"):
            divide(replace(samples, labels=labels, label_spec=spec, given_split=given))


def test_a_class_that_another_part_lacks_is_a_warning():
    samples = some(60, given=["train"] * 30 + ["val"] * 20 + ["test"] * 10)
    labels = np.array([0, 1, 2] * 10 + [0, 1, 2, 2] * 5 + [0, 2] * 5)
    split = divide(replace(samples, labels=labels))
    assert "1 classes have no picture in test: b" in split.warnings


def test_dropping_all_of_train_is_told():
    samples = replace(some(60, given=["train"] * 30 + ["test"] * 30), groups=["g"] * 60)
    with pytest.raises(DataError, match="no train part left"):
        divide(samples, policy=DuplicatePolicy.drop_from_train)


@pytest.mark.parametrize("seed", range(20))
def test_every_part_gets_every_label_where_that_is_possible(seed):
    random = np.random.default_rng(seed)
    labels = np.zeros((12, 2), np.float32)
    labels[:6, 0] = labels[3:9, 1] = 1
    order = random.permutation(12)
    samples = Samples([f"{i:02d}" for i in range(12)], labels[order],
                      LabelSpec(LabelKind.multi, ("a", "b")), FolderSource("."))
    split = divide(samples, seed=seed)
    assert all(n for row in class_counts(samples, split).values() for n in row.values())


def leak():
    """Ten pictures given; 0 and 7 are identical, across train and test."""
    samples = some(60, given=["train"] * 36 + ["val"] * 12 + ["test"] * 12)
    return samples, [[0, 50], [1, 40], [2, 3]]


def test_a_leak_is_refused_with_counts_names_and_the_commands():
    samples, copies = leak()
    with pytest.raises(DataError) as caught:
        divide(samples, duplicates=copies)
    told = str(caught.value)
    assert "2 of 3 sets of identical pictures" in told and samples.ids[0] in told
    for word in ("drop_from_train", "regroup", "allow", "data.waiver="):
        assert word in told


def test_drop_from_train_keeps_each_set_in_its_last_part():
    samples, copies = leak()
    split = divide(samples, duplicates=copies, policy=DuplicatePolicy.drop_from_train)
    before = np.array(samples.given_split)
    changed = np.flatnonzero(split.names != before)
    assert changed.tolist() == [0, 1] and (split.names[changed] == "").all()
    assert split.repairs and "2 pictures from train" in split.repairs[0]


def test_regroup_divides_anew_with_sets_together():
    samples, copies = leak()
    split = divide(samples, duplicates=copies, policy=DuplicatePolicy.regroup)
    assert all(len({split.names[i] for i in pair}) == 1 for pair in copies)
    assert split.repairs and set(split.names) == {"train", "val", "test"}


def test_allow_needs_a_reason_and_keeps_it():
    samples, copies = leak()
    with pytest.raises(ConfigurationError, match="waiver"):
        divide(samples, duplicates=copies, policy=DuplicatePolicy.allow)
    split = divide(samples, duplicates=copies, policy=DuplicatePolicy.allow, waiver="known")
    assert split.names.tolist() == samples.given_split
    assert "known" in split.repairs[0]


def test_a_group_across_given_parts_is_a_leak_too():
    samples = some(60, groups=12, given=["train"] * 36 + ["val"] * 12 + ["test"] * 12)
    with pytest.raises(DataError, match="of 12 groups"):
        divide(samples)


def test_groups_that_a_stratified_split_ignores_are_told():
    split = divide(some(groups=60), method=SplitMethod.stratified)
    assert any("groups are ignored" in text for text in split.warnings)


def test_several_labels_are_divided_alike():
    random = np.random.default_rng(0)
    labels = (random.random((400, 3)) < (0.5, 0.2, 0.05)).astype(np.float32)
    samples = Samples([f"{i}.png" for i in range(400)], labels,
                      LabelSpec(LabelKind.multi, NAMES), FolderSource("."))
    split = divide(samples)
    for part in ("train", "val", "test"):
        share = labels[split.names == part].mean(axis=0)
        assert np.abs(share - labels.mean(axis=0)).max() < 0.06
        assert labels[split.names == part].sum(axis=0).min() >= 1


def test_known_and_unknown_labels_are_divided_alike():
    random = np.random.default_rng(0)
    labels = np.zeros((200, 2), np.float32)
    labels[:, 0] = np.arange(200) % 2
    labels[:, 1] = np.where(random.random(200) < 0.8, np.nan, 1)
    labels[random.choice(200, 6, replace=False), 1] = 0
    samples = Samples([f"{i}.png" for i in range(200)], labels,
                      LabelSpec(LabelKind.multi, ("a", "b")), FolderSource("."))
    for seed in range(5):
        split = divide(samples, seed=seed)
        for part in ("train", "val", "test"):
            assert (labels[split.names == part, 1] == 0).any()
            assert (labels[split.names == part, 1] == 1).any()
        assert not any("known 'no'" in text for text in split.warnings)
    always = replace(samples, labels=np.where(labels == 0, np.nan, labels))
    told = " ".join(divide(always).warnings)
    assert "2 labels have no known 'no' in val: a, b" in told


def test_an_unknown_label_contradicts_none():
    labels = np.array([[1, np.nan], [1, 0], [0, 0]] * 10, np.float32)
    samples = Samples([f"{i}.png" for i in range(30)], labels,
                      LabelSpec(LabelKind.multi, ("a", "b")), FolderSource("."))
    assert conflicting_labels(samples, [[0, 1], [1, 2], [0, 2], [0, 3]]) == [[1, 2], [0, 2]]


def test_a_written_split_is_read_back(tmp_path):
    samples = some(60, groups=20)
    split = divide(samples)
    path = write_splits(tmp_path / "splits.csv", samples, split)
    rows = read_splits(path)
    assert [r["path"] for r in rows] == samples.ids
    again, notes = read_splits_file(samples, path)
    assert again.given_split == split.names.tolist() and notes == []
    assert again.groups == samples.groups
    assert divide(again).names.tolist() == split.names.tolist()
    counts = class_counts(samples, split)
    assert sum(sum(row.values()) for row in counts.values()) == 60


def test_pictures_that_a_splits_file_leaves_out_are_counted(tmp_path):
    samples = some(60)
    path = write_splits(tmp_path / "splits.csv", samples, divide(samples))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-5]))
    again, notes = read_splits_file(samples, path)
    assert len(again) == 55 and "5" in notes[0]


def test_any_name_survives_the_splits_file(tmp_path):
    samples = some(60)
    odd = [", ", "\n", "\r", "\"", "'", " ", "ä", "肺", "\t", ";"]
    samples = replace(samples, ids=[f"{odd[i % 10]}{i}.png" for i in range(60)])
    split = divide(samples)
    path = write_splits(tmp_path / "splits.csv", samples, split)
    assert [row["path"] for row in read_splits(path)] == samples.ids
    again, _ = read_splits_file(samples, path)
    assert again.ids == samples.ids and again.given_split == split.names.tolist()


@pytest.mark.parametrize(("change", "told"), [
    (("a/", "nowhere/"), "nowhere"), ((",train,", ",tain,"), "tain"),
    ((",split", ",part"), "split")])
def test_a_splits_file_that_does_not_fit_is_told(change, told, tmp_path):
    samples = some(60)
    path = write_splits(tmp_path / "splits.csv", samples, divide(samples))
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(DataError, match=told):
        read_splits_file(samples, path)


@pytest.mark.slow
def test_a_real_set_that_leaks_is_refused(real_data, tmp_path):
    samples = read_samples(str(real_data / "brain_tumor_mri"))
    facts = scan_pictures(samples.source, samples.ids, cache=tmp_path)
    copies = duplicate_groups(facts)
    assert len(copies) == 300
    with pytest.raises(DataError, match="189 of 300 sets"):
        divide(samples, duplicates=copies)
    for policy in (DuplicatePolicy.drop_from_train, DuplicatePolicy.regroup):
        split = divide(samples, duplicates=copies, policy=policy)
        for members in copies:
            assert len({split.names[i] for i in members} - {""}) == 1
