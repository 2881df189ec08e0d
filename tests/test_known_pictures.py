"""New pictures that are none are told: those that the run had, and those that are given twice."""

import csv

import pytest

from finetune.data.scanning import content_hash
from finetune.prediction.known_pictures import Known, find_known, read_hashes


def splits(path, rows, columns=("path", "label", "split", "group", "hash")):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return path


def write(folder, **contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in contents]


@pytest.fixture
def hashes(tmp_path):
    of = {name: content_hash(name.encode()) for name in "abcd"}
    return read_hashes(splits(tmp_path / "s.csv", [
        ("1", "x", "test", "", of["a"]), ("2", "x", "train", "", of["a"]),
        ("3", "x", "val", "", of["b"]), ("4", "x", "", "", of["c"])]))


def test_pictures_of_the_run_are_counted_by_part(tmp_path, hashes):
    paths = write(tmp_path, renamed=b"a", other=b"b", dropped=b"c", new=b"d")
    known = find_known([*paths, str(tmp_path / "gone.png"), str(tmp_path), "a\0b"], hashes)
    assert known == Known(7, {"train": 1, "val": 1}, 0)  # of two parts the worse one
    assert known.warnings() == [
        "2 of the 7 new pictures are, byte for byte, pictures of this run: 1 of train, 1 of val. "
        "Of new pictures the figures below say too much: leave these out"]


def test_a_picture_that_is_given_twice_is_counted_once(tmp_path, hashes):
    paths = write(tmp_path, one=b"x", two=b"y", three=b"x")
    known = find_known([*paths, paths[0]], hashes)
    assert known == Known(4, {}, 2)
    assert "2 of the 4 new pictures are given more than once" in known.warnings()[0]


def test_new_pictures_are_not_warned_of(tmp_path, hashes):
    assert find_known(write(tmp_path, one=b"x", two=b"y"), hashes).warnings() == []


@pytest.mark.parametrize("columns", [("path", "label", "split", "group", "hash"),
                                     ("path", "label", "split", "group")])
def test_a_run_without_hashes_says_so(tmp_path, columns):
    rows = [("1", "x", "train", "", "")[:len(columns)]]
    assert read_hashes(splits(tmp_path / "s.csv", rows, columns)) is None
    assert read_hashes(tmp_path / "none.csv") is None
    known = find_known(write(tmp_path, one=b"x"), None)
    assert known.parts is None and "brings no hashes" in known.warnings()[0]
