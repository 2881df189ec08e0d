"""Splits that aren't made by place are checked by it: too near is a leak, as a copy is."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from finetune.__main__ import main
from finetune.data.duplicates import DuplicatePolicy
from finetune.data.place_leaks import drop_near, find_place_leaks, near_sets
from finetune.data.samples import FolderSource, Samples
from finetune.data.splits import SplitMethod, split_samples
from finetune.errors import ConfigurationError, DataError
from finetune.specs import LabelKind, LabelSpec
from tests.test_dependence import Dependence

PARTS = np.array(["train", "val", "test"])
LATER = {"train": ("val", "test"), "val": ("test",), "test": (), "": ()}


def scattered(seed, count=90):
    """Parts and places, some of them the same; odd seeds lie on a grid, with ties."""
    random = np.random.default_rng(seed)
    places = random.random((count, 2)) * 12
    places = places.round() if seed % 2 else places
    names = random.choice([*PARTS, ""], count)
    return names, places


def too_near(places, buffer):
    distances = cdist(places, places)
    return distances < buffer if buffer else distances == 0


@pytest.mark.parametrize("buffer", [0, 0.5, 1, 1.5, 3])
@pytest.mark.parametrize("seed", range(4))
def test_leaks_and_what_is_dropped_are_those_of_all_pairs(seed, buffer):
    names, places = scattered(seed)
    near, leaks = too_near(places, buffer), find_place_leaks(names, places, buffer)
    wanted = [i for i, name in enumerate(names) if (near[i] & np.isin(names, LATER[name])).any()]
    assert sorted(leaks.indices) == wanted
    assert (near[leaks.indices, leaks.neighbours]).all()
    assert (np.diff(leaks.distances) >= 0).all()
    kept = drop_near(names, places, buffer)
    assert not len(find_place_leaks(kept, places, buffer))
    assert set(np.flatnonzero(kept != names)) <= set(wanted) and (kept[kept != names] == "").all()
    assert (kept[names == "test"] == "test").all()


@pytest.mark.parametrize("buffer", [0, 0.3, 1, 1.01, 2**0.5, 2, 50])
@pytest.mark.parametrize("seed", range(6))
def test_sets_are_the_connected_components_of_near_pairs(seed, buffer):
    places = scattered(seed)[1] - 6
    parts = connected_components(too_near(places, buffer), directed=False)[1]
    wanted = [np.flatnonzero(parts == k).tolist() for k in np.unique(parts)]
    assert sorted(near_sets(places, buffer)) == sorted(w for w in wanted if len(w) > 1)


def test_a_hundred_thousand_pictures_are_no_matrix_of_pairs():
    places = np.random.default_rng(0).random((100_000, 2)) * 1000
    assert len(near_sets(places, 30)) == 1  # 280 million pairs are nearer than that
    names = np.random.default_rng(1).choice(PARTS, 100_000)
    assert len(find_place_leaks(names, places, 30)) == (names != "test").sum()


# ---- what the split does with them

def at_places(count=120, *, per_place=3, given=None, **more):
    """Samples, ``per_place`` at each place; places are 10 apart."""
    labels = np.arange(count) // per_place % 2
    where = np.arange(count) // per_place
    ids = [f"{'ab'[k]}/{i:03d}.png" for i, k in enumerate(labels)]
    samples = Samples(ids, labels.astype(np.int64), LabelSpec(LabelKind.single, ("a", "b")),
                      FolderSource("."), given)
    places = np.column_stack([where % 8, where // 8]) * 10.0
    return samples, Dependence(places=places, **more)


def divide(samples, dependence, method=None, policy="refuse", **options):
    return split_samples(samples, method=None if method is None else SplitMethod(method), seed=0,
                         val_fraction=0.25, test_fraction=0.25, dependence=dependence,
                         policy=DuplicatePolicy(policy), **options)


def made(method):
    """Samples whose split by ``method`` leaks, and what that split needs; pairs share a place."""
    samples, where = at_places(240)
    count = len(samples)
    where = replace(where, places=np.column_stack([np.arange(count) - np.arange(count) % 4 // 3,
                                                   np.zeros(count)]))
    if method == "provided":
        samples = replace(samples, given_split=np.random.default_rng(0).choice(
            PARTS, count, p=(0.5, 0.25, 0.25)).tolist())
    if method == "group":
        samples = replace(samples, groups=[f"g{(i + 1) // 2}" for i in range(count)])
    more = {"time": {"times": np.arange(count) * 7 % 40.0, "time_names": ["t"] * count},
            "site": {"sites": [f"s{i * 7 % 40 // 10}" for i in range(count)], "test_site": "s1"},
            "kfold": {"folds": 4, "fold": 2}}.get(method, {})
    return samples, replace(where, **more)


METHODS = ["provided", "stratified", "group", "time", "site", "kfold"]


def leaks(split, dependence):
    return len(find_place_leaks(split.names, dependence.places, dependence.block_buffer))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_place_in_two_parts_is_refused_with_counts_names_and_ways_out(method):
    samples, where = made(method)
    with pytest.raises(DataError) as caught:
        divide(samples, where, method)
    told = str(caught.value)
    assert re.search(r"\d+ pictures of train.* lie at the same place as pictures of", told)
    assert re.search(r"[ab]/\d+.png \(train\) and [ab]/\d+.png \((val|test)\): 0 apart", told)
    for word in ("data.split=spatial", "data.group_column", "drop_from_train", "regroup",
                 "data.waiver="):
        assert word in told
    assert divide(samples, replace(where, places=None), method).repairs == []


@pytest.mark.parametrize("method", METHODS)
def test_dropping_leaves_no_leak_and_loses_nothing_of_test(method):
    samples, where = made(method)
    before = divide(samples, replace(where, places=None), method).names
    split = divide(samples, where, method, "drop_from_train")
    assert not leaks(split, where) and "drops" in split.repairs[0]
    assert (split.names[before == "test"] == "test").all()
    changed = split.names != before
    assert changed.any() and (split.names[changed] == "").all()


@pytest.mark.parametrize("method", METHODS)
def test_regrouping_keeps_places_together_and_all_pictures(method):
    samples, where = made(method)
    split = divide(samples, where, method, "regroup")
    assert not leaks(split, where) and split.repairs[0].startswith("data.duplicates=regroup")
    assert set(split.names) - {""} == {"train", "val", "test"}
    assert method == "site" or (split.names != "").all()


@pytest.mark.parametrize("method", METHODS)
def test_allowing_needs_a_reason_and_changes_nothing(method):
    samples, where = made(method)
    with pytest.raises(ConfigurationError, match="waiver"):
        divide(samples, where, method, "allow")
    split = divide(samples, where, method, "allow", waiver="one camera each")
    assert "one camera each" in split.repairs[0]
    plain = divide(samples, replace(where, places=None), method)
    assert split.names.tolist() == plain.names.tolist()


def test_a_buffer_reaches_to_the_neighbours():
    half = ["train" if i < 57 else "val" if i < 87 else "test" for i in range(120)]
    samples, where = at_places(given=half)
    assert divide(samples, where).repairs == []
    assert divide(samples, replace(where, block_buffer=10.0)).repairs == []  # 10 apart is enough
    with pytest.raises(DataError, match=r"nearer than data.block_buffer=10.5 to pictures of"):
        divide(samples, replace(where, block_buffer=10.5))


def test_validation_cut_from_a_given_train_part_holds_whole_places():
    samples, where = at_places(given=["train"] * 90 + ["test"] * 30)
    split = divide(samples, where)
    assert set(split.names) == {"train", "val", "test"} and not leaks(split, where)


def test_chains_that_hold_everything_are_told_with_their_size():
    samples, where = at_places(block_buffer=11.0)
    with pytest.raises(DataError, match="largest of 120 of 120 pictures") as caught:
        divide(samples, where, "stratified", "regroup")
    assert "data.split=spatial" in str(caught.value)
    with pytest.raises(DataError, match="drop_from_train leaves no picture in train"):
        divide(samples, replace(where, block_buffer=1000.0), "stratified", "drop_from_train")


def test_a_class_that_dropping_would_take_from_train_is_told():
    samples, where = at_places(given=["train", "train", "train", "val", "test", "test"] * 20,
                               per_place=1)
    where = replace(where, places=np.where((samples.labels == 1)[:, None], 0.0, where.places + 10))
    with pytest.raises(DataError, match="none in train"):
        divide(samples, where, policy="drop_from_train")
    samples = replace(samples, given_split=None)
    with pytest.raises(DataError, match="no picture of b in train"):
        divide(samples, where, "stratified", "drop_from_train")


# ---- by command

@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """48 tiles of 12 places in two given parts; three places lie in both."""
    root, random = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0)
    rows = []
    for number in range(48):
        x, part = number % 12, "test" if number % 12 > 8 or number in (0, 1, 14) else "train"
        name = f"tile_{x}_7_{number:02d}.png"
        blobs = cv2.GaussianBlur(random.normal(size=(40, 40)).astype(np.float32), (0, 0), 3)
        cv2.imwrite(str(root / name), ((blobs - blobs.min()) / np.ptp(blobs) * 255).astype("u1"))
        rows.append([name, "ab"[number // 12 % 2], part, x * 100, 7])
    with (root / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "split", "east", "north"], *rows])
    return root


@pytest.fixture
def no_cues(monkeypatch):
    """Shortcuts take seconds and are tested elsewhere."""
    monkeypatch.setattr("finetune.auditing.find_shortcuts", lambda *given, **options: [])


COLUMNS = ["data.x_column=east", "data.y_column=north"]


@pytest.mark.parametrize("words", [COLUMNS, [r"data.place_from=tile_(\d+)_(\d+)"]])
def test_training_is_refused_before_it_starts(words, tiles, tmp_path, capsys):
    assert main([f"data.root={tiles}", f"output_dir={tmp_path}", "model.weights=bundled",
                 *words]) == 2
    error = capsys.readouterr().err
    assert "9 pictures of train lie at the same place as pictures of test" in error
    assert "data.split=spatial data.block_size=SIZE" in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_an_audit_tells_and_its_split_keeps_places_together(tiles, tmp_path, capsys, no_cues):
    fixed = tmp_path / "fixed.csv"
    assert main(["audit", str(tiles), "--no-near", "--output", str(tmp_path / "a"),
                 "--fix-splits", str(fixed), *COLUMNS]) == 0
    found = {f["key"]: f for f in json.loads((tmp_path / "a/audit.json").read_text())["findings"]}
    assert found["places_across"]["level"] == "error"
    assert found["places_across"]["text"].startswith("9 pictures of train lie at the same place")
    assert "error: 9 pictures of train" in capsys.readouterr().out
    with fixed.open(newline="") as stream:
        rows = [(r["path"], r["split"]) for r in csv.DictReader(stream)]
    parts = {}
    for path, part in rows:
        parts.setdefault(path.split("_")[1], set()).add(part)
    assert len(rows) == 48 and all(len(p) == 1 for p in parts.values())
    assert {p for _, p in rows} == {"train", "val", "test"}


def test_an_audit_without_places_or_parts_says_nothing_of_them(tiles, tmp_path, no_cues):
    for number, words in enumerate(([], [*COLUMNS, "data.split_column=null"])):
        folder = tmp_path / str(number)
        assert main(["audit", str(tiles), "--no-near", "--output", str(folder), *words]) == 0
        keys = {f["key"] for f in json.loads((folder / "audit.json").read_text())["findings"]}
        assert "places_across" not in keys


def test_fixing_says_why_chains_can_not_be_kept_together(tiles, tmp_path, capsys, no_cues):
    words = [*COLUMNS, "data.block_buffer=150"]
    fixed = tmp_path / "fixed.csv"
    assert main(["audit", str(tiles), "--no-near", "--output", str(tmp_path / "a"),
                 "--fix-splits", str(fixed), *words]) == 2
    assert "join 48 of 48 pictures" in capsys.readouterr().err and not fixed.exists()
    assert main(["audit", str(tiles), "--no-near", "--output", str(tmp_path / "b"), "--fix-splits",
                 str(fixed), *COLUMNS, "data.split=stratified"]) == 0  # made with places together


def test_the_check_loads_no_torch():
    code = ("import sys, finetune.data.place_leaks as p, finetune.dividing\n"
            "assert 'scipy' not in sys.modules and 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
