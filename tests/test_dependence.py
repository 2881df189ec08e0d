"""Splits by place, time, site and fold: what belongs together stays so, and classes stay there."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from finetune.data.dependence import Dependence, read_places, read_sites, read_times
from finetune.data.nested_groups import nested_groups
from finetune.data.samples import FolderSource, Samples, read_samples, read_splits_file
from finetune.data.splits import SplitMethod, class_counts, read_splits, split_samples, write_splits
from finetune.errors import ConfigurationError, DataError
from finetune.specs import LabelKind, LabelSpec
from tests.test_samples import put, table

NAMES = ("a", "b", "c")


def some(count=300, seed=0, *, labels=None, groups=None, **columns):
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=(0.5, 0.3, 0.2)) if labels is None else np.array(labels)
    return Samples([f"{NAMES[k]}/{i:04d}.png" for i, k in enumerate(labels)],
                   labels.astype(np.int64), LabelSpec(LabelKind.single, NAMES), FolderSource("."),
                   groups=groups, metadata={k: [str(v) for v in values]
                                            for k, values in columns.items()})


def divide(samples, method, duplicates=(), **options):
    fractions = {"seed": 0, "val_fraction": 0.2, "test_fraction": 0.2}
    given = {k: options.pop(k) for k in list(options) if k in fractions}
    return split_samples(samples, method=SplitMethod(method), duplicates=duplicates,
                         dependence=Dependence(**options), **fractions | given)


def undivided(names, groups):
    """Whether the pictures of each group that were not dropped are in one part."""
    parts = {}
    for group, part in zip(groups, names, strict=True):
        if part:
            parts.setdefault(group, set()).add(part)
    return all(len(found) == 1 for found in parts.values())


# ---- nested groups

@pytest.mark.parametrize("seed", range(5))
def test_pictures_that_share_a_value_of_any_level_are_in_one_group(seed):
    random = np.random.default_rng(seed)
    levels = {name: [f"{v}" if v else "" for v in random.integers(0, 60, 80)]
              for name in ("patient", "slide")}
    groups, _ = nested_groups(levels)
    for column in levels.values():
        for i, j in zip(*np.triu_indices(80, 1), strict=True):
            assert not column[i] or column[i] != column[j] or groups[i] == groups[j]
    # and no more than that: the same partition as a graph's components
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    edges = [(i, j) for column in levels.values() for i in range(80) for j in range(i)
             if column[i] and column[i] == column[j]]
    ends = np.array(edges).T
    count, number = connected_components(coo_matrix((np.ones(len(edges)), ends), (80, 80)), False)
    inside = [i for i in range(80) if groups[i]]
    assert len({groups[i] for i in inside}) == len({number[i] for i in inside}) <= count


def test_a_value_of_one_level_is_another_than_the_same_text_of_another():
    groups, told = nested_groups({"patient": ["1", "2"], "slide": ["2", "3"]})
    assert groups == ["patient=1", "patient=2"]
    assert "2 values of patient and 2 values of slide make 2 groups" in told[0] and len(told) == 1


def test_slides_numbered_anew_in_each_patient_are_told():
    _, told = nested_groups({"patient": ["A", "A", "B"], "slide": ["1", "2", "1"]})
    assert "1 groups hold several values of patient" in told[1] and "A + B" in told[1]


def test_a_table_names_several_columns_of_groups(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png", "4.png")
    table(tmp_path, "path,label,patient,lesion\n1.png,a,p1,l1\n2.png,b,p1,l2\n3.png,b,,l2\n"
                    "4.png,a,p2,")
    found = read_samples(str(tmp_path), group_column="patient, lesion")
    assert found.groups == ["patient=p1"] * 3 + ["patient=p2"]
    assert found.metadata["lesion"] == ["l1", "l2", "l2", ""]
    assert any("2 values of patient and 2 values of lesion make 2 groups" in w
               for w in found.warnings)
    with pytest.raises(DataError, match="no column 'scene'"):
        read_samples(str(tmp_path), group_column="patient,scene")


def test_a_pattern_names_several_levels(tmp_path):
    put(tmp_path, "a/p1_s1.png", "a/p1_s2.png", "b/p2_s3.png", "b/p3_s3.png")
    found = read_samples(str(tmp_path), group_from=r"(?P<patient>p\d)_(s\d)")
    assert found.groups == ["patient=p1"] * 2 + ["patient=p2"] * 2
    assert any("group 2" in text for text in found.warnings)


def test_one_group_for_all_is_told_and_groups_of_several_classes_are_allowed():
    with pytest.raises(DataError, match="all 300 pictures are in one group"):
        divide(some(groups=["g"] * 300), "group")
    split = divide(some(groups=[f"g{i // 5}" for i in range(300)]), "group")
    assert any("groups hold pictures of several classes" in text for text in split.warnings)


# ---- places

def placed(count=400, seed=0, **more):
    random = np.random.default_rng(seed)
    samples = some(count, seed, **more)
    return samples, random.uniform(-500, 500, (count, 2))


@pytest.mark.parametrize("buffer", [0.0, 15.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_parts_keep_their_distance_and_nothing_farther_is_dropped(seed, buffer):
    samples, places = placed(seed=seed)
    split = divide(samples, "spatial", places=places, block_size=100.0, block_buffer=buffer,
                   seed=seed)
    distances = cdist(places, places)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert distances[np.ix_(split.names == one, split.names == other)].min() >= buffer
    free = divide(samples, "spatial", places=places, block_size=100.0, seed=seed).names
    dropped = split.names == ""
    assert (split.names[~dropped] == free[~dropped]).all() and not (free == "").any()
    for index in np.flatnonzero(dropped):
        assert free[index] != "test"
        assert distances[index][free != free[index]].min() < buffer
    assert bool(dropped.any()) == bool(buffer)
    assert all(min(row.values()) > 0 for row in class_counts(samples, split).values())


def test_a_block_stays_whole_and_groups_join_blocks():
    samples, places = placed(groups=[f"g{i // 4}" if i < 80 else "" for i in range(400)])
    split = divide(samples, "spatial", places=places, block_size=50.0)
    blocks = [str(b) for b in np.floor(places / 50).tolist()]
    assert undivided(split.names, blocks)
    assert undivided(split.names[:80], samples.groups[:80])
    assert any("joined to" in text for text in split.warnings)


def test_the_block_split_depends_on_the_seed_and_not_on_the_order():
    samples, places = placed()
    first, other = (divide(samples, "spatial", places=places, block_size=100.0, block_buffer=10.0,
                           seed=seed).names for seed in (0, 1))
    assert (first != other).any()
    order = np.random.default_rng(1).permutation(len(samples))
    again = divide(samples.select(order.tolist()), "spatial", places=places[order],
                   block_size=100.0, block_buffer=10.0).names
    assert (first[order] == again).all()


@pytest.mark.parametrize(("options", "told"), [
    ({"block_size": 5000.0}, "data.block_size"),  # at most four blocks
    ({"block_size": 100.0, "block_buffer": 2000.0}, "leaves no picture in train")])
def test_blocks_too_large_and_buffers_that_eat_everything_are_refused(options, told):
    samples, places = placed()
    with pytest.raises(DataError, match=told):
        divide(samples, "spatial", places=np.abs(places), **options)


def test_a_class_that_vanishes_from_a_part_is_refused_with_a_remedy():
    samples, places = placed(labels=[0] * 200 + [1] * 190 + [2] * 10)
    places[-10:] = [450, 450]  # the third class is in one block
    with pytest.raises(DataError, match=r"too few blocks.*c \(1\).*smaller blocks"):
        divide(samples, "spatial", places=places, block_size=100.0)
    places[-10:-5], places[-5:] = [5.0, 5.0], [-5.0, -5.0]
    samples.labels[0], places[0] = 2, [-5.0, 5.0]  # three blocks, which touch each other
    with pytest.raises(DataError, match=r"1 classes have no picture in \w+: c.*data.split_seed"):
        divide(samples, "spatial", places=places, block_size=100.0, block_buffer=15.0)


def test_the_dropped_are_written_without_a_part_and_left_out_when_read(tmp_path):
    samples, places = placed()
    split = divide(samples, "spatial", places=places, block_size=100.0, block_buffer=20.0)
    path = write_splits(tmp_path / "splits.csv", samples, split)
    assert [row["split"] for row in read_splits(path)] == split.names.tolist()
    again, notes = read_splits_file(samples, path)
    assert again.given_split == split.names[split.names != ""].tolist()
    count = int((split.names == "").sum())
    assert f"{count} pictures without a part" in notes[0]
    whole = divide(samples, "spatial", places=places, block_size=100.0).names
    lost = {p: int((whole == p).sum() - (split.names == p).sum()) for p in ("train", "val")}
    told = next(text for text in split.warnings if text.startswith("data.block_buffer=20"))
    assert all(f"{n} pictures of {p}" in told for p, n in lost.items() if n)
    assert sum(lost.values()) == count > 0


def test_places_come_from_columns_or_from_names():
    samples = replace(some(4), ids=["t_3_10.png", "t_-1_2.5.png", "t_0_0.png", "t_007_1.png"],
                      metadata={"lon": ["1", " 2.5", "-3e2", "4"], "lat": ["0"] * 4})
    given = {"x_column": None, "y_column": None, "place_from": None}
    found = read_places(samples, **given | {"x_column": "lon", "y_column": "lat"})
    assert found.tolist() == [[1, 0], [2.5, 0], [-300, 0], [4, 0]]
    named = r"t_(-?[\d.]+)_(\d+(?:\.\d+)?)"
    assert read_places(samples, **given | {"place_from": named}).tolist() == [
        [3, 10], [-1, 2.5], [0, 0], [7, 1]]
    turned = r"t_(?P<y>-?[\d.]+)_(?P<x>\d+(?:\.\d+)?)"
    assert read_places(samples, **given | {"place_from": turned})[0].tolist() == [10, 3]


@pytest.mark.parametrize(("change", "told"), [
    ({"x_column": "long"}, r"no such column \(did you mean 'lon'\?\).*it has lon, lat, bad"),
    ({"x_column": "bad"}, r"4 of 4 values are no finite numbers: 'nan' \(./0000.png\), '' "),
    ({"place_from": "(a"}, "no regular expression"), ({"place_from": "(a)"}, "expected two"),
    ({"place_from": r"(q)_(\d)"}, "matches nothing in 4 of 4"),
    ({"place_from": r"(\w)/(\d+)"}, "no finite numbers: '[abc]'")])
def test_coordinates_that_make_no_sense_are_told(change, told):
    samples = some(4, lon=range(4), lat=range(4), bad=["nan", "", "inf", "1,5"])
    given = {"x_column": "lon", "y_column": "lat", "place_from": None}
    with pytest.raises((DataError, ConfigurationError), match=told):
        read_places(samples, **given | change)


# ---- time

@pytest.mark.parametrize("seed", range(5))
def test_the_past_trains_and_the_newest_is_tested(seed):
    random = np.random.default_rng(seed)
    times = random.integers(0, 60, 300).astype(float)
    samples = some(seed=seed)
    split = divide(samples, "time", times=times, time_names=[str(t) for t in times])
    train, val, test = (times[split.names == part] for part in ("train", "val", "test"))
    assert train.max() < val.min() and val.max() < test.min()
    tie = np.bincount(times.astype(int)).max()
    assert abs(len(test) - 60) <= tie / 2 and abs(len(val) - 0.2 * (300 - len(test))) <= tie / 2
    order = random.permutation(300)
    again = divide(samples.select(order.tolist()), "time", times=times[order],
                   time_names=[str(t) for t in times[order]])
    assert (again.names == split.names[order]).all()


def test_a_group_goes_to_the_part_of_its_latest_picture():
    times = np.arange(300.0)
    groups = [f"g{i}" for i in range(298)] + ["g0", "g1"]  # the oldest two come back at the end
    split = divide(some(groups=groups), "time", times=times, time_names=[str(t) for t in times])
    assert split.names[[0, 1, 298, 299]].tolist() == ["test"] * 4
    assert undivided(split.names, groups)
    assert any("2 groups" in text and "2 older pictures" in text for text in split.warnings)


def test_without_a_test_fraction_the_newest_are_val():
    times = np.arange(300.0)
    split = divide(some(), "time", times=times, time_names=[str(t) for t in times],
                   test_fraction=0.0)
    assert split.names.tolist() == ["train"] * 240 + ["val"] * 60


def test_too_few_times_and_classes_that_come_late_are_refused():
    written = {"time_names": ["?"] * 300}
    with pytest.raises(DataError, match="there are 2 different times"):
        divide(some(), "time", times=np.repeat([1.0, 2.0], 150), **written)
    late = some(labels=np.repeat([0, 1, 2], 100))
    with pytest.raises(DataError, match="1 classes are not in train, the oldest pictures: c"):
        divide(late, "time", times=np.arange(300.0), **written)


def test_dates_and_numbers_are_read_in_their_order():
    dates = ["2019-03", "2019-03-01T00:30", "2019-03-02T00:00+02:00", "1969-12-31", "2020-01-01"]
    found, written = read_times(some(5, date=dates), "date")
    assert np.argsort(found).tolist() == [3, 0, 1, 2, 4] and written == dates
    assert read_times(some(3, year=[2019, 2018.5, -1]), "year")[0].tolist() == [2019, 2018.5, -1]


@pytest.mark.parametrize(("values", "told"), [
    (["2019-03-01", "2019-03-02", "01.03.2019"], "1 of 3 values are no dates .*'01.03.2019'"),
    (["1", "2", "2019-03-01"], "no numbers like the others: '2019-03-01'"),
    (["1", "nan", "2"], "'nan'"), (["", "", ""], "3 of 3")])
def test_times_that_make_no_sense_are_told(values, told):
    with pytest.raises(DataError, match=told):
        read_times(some(3, date=values), "date")


# ---- site

def sites_of(count, number):
    return [f"s{i % number}" for i in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_test_is_one_site_and_val_whole_others(seed):
    sites = sites_of(300, 5)
    split = divide(some(seed=seed), "site", sites=sites, test_site="s3", seed=seed)
    assert {s for s, p in zip(sites, split.names, strict=True) if p == "test"} == {"s3"}
    assert undivided(split.names, sites) and set(split.names) == {"train", "val", "test"}
    assert any("val is whole sites: s" in text for text in split.warnings)


def test_with_two_other_sites_val_is_cut_by_groups():
    groups = [f"g{i // 6}" for i in range(300)]
    sites = [f"s{i // 6 % 3}" for i in range(300)]
    split = divide(some(groups=groups), "site", sites=sites, test_site="s0")
    assert undivided(split.names, groups)
    for site in ("s1", "s2"):
        parts = {p for s, p in zip(sites, split.names, strict=True) if s == site}
        assert parts == {"train", "val"}
    assert any("by groups, not by whole sites: fewer than three" in t for t in split.warnings)


def test_a_class_of_one_site_only_is_kept_in_train_and_val():
    sites = sites_of(300, 5)
    labels = [2 if site == "s1" else i // 5 % 2 for i, site in enumerate(sites)]
    split = divide(some(labels=labels), "site", sites=sites, test_site="s0")
    assert any("not every class is in two of them" in text for text in split.warnings)
    assert all(row["train"] and row["val"]
               for row in class_counts(some(labels=labels), split).values())


def test_what_other_sites_share_with_the_test_site_is_dropped():
    groups = [f"g{i}" for i in range(300)]
    groups[1] = groups[2] = groups[0]  # a patient of three sites
    sites = sites_of(300, 5)
    split = divide(some(groups=groups), "site", duplicates=[[10, 11]], sites=sites,
                   test_site="s0")
    assert np.flatnonzero(split.names == "").tolist() == [1, 2, 11]
    assert any("3 pictures of other sites share" in text for text in split.warnings)


def test_sites_that_make_no_sense_are_told():
    with pytest.raises(DataError, match="all pictures are of one site, s0"):
        divide(some(), "site", sites=["s0"] * 300, test_site="s0")
    with pytest.raises(DataError, match=r"no such site \(did you mean 'north'\?\); .* south"):
        divide(some(), "site", sites=["north", "south"] * 150, test_site="nord")
    only = [2 if i % 2 else i // 2 % 2 for i in range(300)]
    with pytest.raises(DataError, match="1 classes are in no site but s1: c"):
        divide(some(labels=only), "site", sites=sites_of(300, 2), test_site="s1")
    with pytest.raises(DataError, match="1 of 2 pictures have no site"):
        read_sites(some(2, hospital=["A", " "]), "hospital")
    with pytest.raises(DataError, match="the data are no table"):
        read_sites(some(2), "hospital")


# ---- folds

def folds_of(samples, count, **options):
    """The fold in which each picture is tested, and the splits."""
    splits = [divide(samples, "kfold", folds=count, fold=k + 1, **options) for k in range(count)]
    tested = np.stack([split.names == "test" for split in splits])
    assert (tested.sum(axis=0) == 1).all()
    assert all(set(split.names) == {"train", "val", "test"} for split in splits)
    return tested.argmax(axis=0), splits


@pytest.mark.parametrize(("count", "seed"), [(2, 0), (5, 0), (5, 1), (10, 2)])
def test_folds_are_as_even_as_those_of_scikit_learn(count, seed):
    samples = some(seed=seed)
    found, _ = folds_of(samples, count, seed=seed)
    table = np.array([[((found == k) & (samples.labels == c)).sum() for c in range(3)]
                      for k in range(count)])
    theirs = np.array([np.bincount(samples.labels[test], minlength=3) for _, test in
                       StratifiedKFold(count).split(samples.ids, samples.labels)])
    assert np.sort(table, axis=0).tolist() == np.sort(theirs, axis=0).tolist()
    assert np.ptp(table.sum(axis=1)) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_folds_divide_no_group_and_are_no_less_even_than_scikit_learns(seed):
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 60, 400)
    labels = np.where(random.random(400) < 0.8, numbers % 3, random.integers(0, 3, 400))
    groups = [f"g{n}" for n in numbers]
    samples = some(400, labels=labels, groups=groups)
    found, splits = folds_of(samples, 5, seed=seed)
    assert all(undivided(split.names, groups) for split in splits)

    def unevenness(folds):
        shares = np.array([np.bincount(labels[folds == k], minlength=3) for k in range(5)])
        return np.std(shares / np.bincount(labels), axis=0).mean()

    theirs = np.empty(400, int)
    chosen = StratifiedGroupKFold(5).split(samples.ids, labels, groups)
    for k, (_, test) in enumerate(chosen):
        theirs[test] = k
    assert unevenness(found) <= unevenness(theirs) + 0.01


def test_the_rest_of_a_fold_is_cut_by_val_fraction_and_copies_stay_together():
    copies = [[0, 1], [2, 3, 4]]
    _, splits = folds_of(some(), 5, duplicates=copies)
    for split in splits:
        assert all(len({split.names[i] for i in members}) == 1 for members in copies)
        rest = split.names[split.names != "test"]
        assert abs((rest == "val").mean() - 0.2) < 0.03


def test_the_folds_depend_on_the_seed_and_not_on_the_order():
    samples = some()
    first, _ = folds_of(samples, 5)
    assert (first != folds_of(samples, 5, seed=1)[0]).any()
    order = np.random.default_rng(0).permutation(300)
    assert (folds_of(samples.select(order.tolist()), 5)[0] == first[order]).all()


def test_a_split_of_the_datas_own_that_is_not_used_is_told():
    given = replace(some(), given_split=["train", "val", "test"] * 100)
    told = "the data's own split is not used"
    assert any(told in text for text in divide(given, "kfold", fold=1).warnings)
    assert not any(told in text for text in divide(some(), "kfold", fold=1).warnings)


def test_several_labels_are_in_every_fold():
    random = np.random.default_rng(0)
    labels = (random.random((200, 3)) < (0.5, 0.2, 0.1)).astype(np.float32)
    samples = Samples([f"{i}.png" for i in range(200)], labels, LabelSpec(LabelKind.multi, NAMES),
                      FolderSource("."))
    found, _ = folds_of(samples, 5)
    assert min(labels[found == k].sum(axis=0).min() for k in range(5)) >= 1


def test_a_class_smaller_than_the_folds_is_told_and_a_fold_has_to_be_named():
    few = some(labels=[0] * 150 + [1] * 146 + [2] * 4)
    with pytest.raises(DataError, match=r"c \(4\).*fewer than 5 data.folds"):
        divide(few, "kfold", folds=5, fold=1)
    with pytest.raises(ConfigurationError, match=r"data\.fold=1"):
        divide(few, "kfold", folds=5)
