"""Thumbnails are made once and remembered by content; the sheet of pairs is a picture."""

import cv2
import numpy as np
import pytest

from finetune.data.descriptors import describe_pictures
from finetune.data.near_duplicates import NearPair
from finetune.data.pair_sheet import contact_sheet
from finetune.data.samples import FolderSource
from finetune.data.scanning import scan_pictures

READ: list[str] = []


class Counting(FolderSource):
    """Counts what is decoded."""

    def read(self, sample_id, at_least=None):
        READ.append(sample_id)
        return super().read(sample_id, at_least)


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.png"):
        cv2.imwrite(str(tmp_path / name), random.integers(0, 255, (30, 40, 3), np.uint8))
    (tmp_path / "a again.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def described(folder, cache=None, **options):
    source = Counting(str(folder))
    ids = sorted(p.name for p in folder.iterdir() if p.is_file())
    hashes = [facts.byte_hash for facts in scan_pictures(source, ids)]
    READ.clear()
    return describe_pictures(source, ids, hashes, cache=cache, **options)


def same(one, other):
    return (one.thumbnails == other.thumbnails).all() and (one.contrasts == other.contrasts).all()


def test_the_cache_gives_the_same_as_computing(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    first = described(folder, cache)
    assert sorted(READ) == ["a again.png", "b.jpg", "broken.png", "c.png"]  # identical: once
    assert same(described(folder, cache), first) and READ == ["broken.png"]
    assert same(described(folder), first)


def test_identical_files_and_renamed_ones_are_known(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    described(folder, cache)
    (folder / "b.jpg").rename(folder / "z.jpg")
    described(folder, cache)
    assert READ == ["broken.png"]


def test_broken_pictures_are_blank(folder):
    found = described(folder)
    assert found.blank.tolist() == [False, False, False, True, False]
    assert not found.thumbnails[3].any()


def test_a_damaged_cache_is_made_anew(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    first = described(folder, cache)
    for path in cache.iterdir():
        path.write_bytes(b"nonsense" * 100)
    assert same(described(folder, cache), first)
    assert same(described(folder, cache), first) and READ == ["broken.png"]


def test_a_cache_with_wrong_values_is_computed_again(folder, tmp_path_factory):
    import sqlite3

    cache = tmp_path_factory.mktemp("cache")
    first = described(folder, cache)
    with sqlite3.connect(cache / "thumbnails.sqlite") as base:
        base.execute("UPDATE thumbnails SET thumbnail = x'00'")
    base.close()
    assert same(described(folder, cache), first)


def test_a_cache_that_cannot_be_written_is_done_without(folder, tmp_path):
    (tmp_path / "no folder").write_text("")
    assert same(described(folder, tmp_path / "no folder"), described(folder))


def test_an_interruption_keeps_what_was_made(folder, tmp_path_factory, monkeypatch):
    from finetune.data import descriptors

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(descriptors, "_SAVE_EVERY", 1)

    def stop(done):
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        described(folder, cache, progress=stop)
    described(folder, cache)
    assert 0 < len(READ) < 4


def test_progress_counts_every_picture(folder):
    told = []
    described(folder, progress=told.append)
    assert told[-1] == 5 and told == sorted(told)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4, 13])
def test_a_sheet_shows_pairs_of_any_kind(tmp_path, dtype, channels):
    random = np.random.default_rng(0)
    pictures = [(random.random((20, 30, channels)) * 200).astype(dtype) for _ in range(2)]
    pairs = [NearPair(0, 1, 0.991, 0.95, 5, (0.95, 1.0), certain=True)] * 5
    path = contact_sheet(pairs, ["a/ü.png", "b" * 99], pictures.__getitem__, tmp_path / "s.png")
    drawn = cv2.imread(str(path))
    assert drawn.shape[1] == 2 * contact_width(pairs[:4], pictures, tmp_path) // 2
    assert drawn.shape[0] == 2 * cv2.imread(str(tmp_path / "row.png")).shape[0]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def contact_width(pairs, pictures, folder):
    contact_sheet(pairs, ["a", "b"], pictures.__getitem__, folder / "row.png")
    return cv2.imread(str(folder / "row.png")).shape[1]


def test_the_second_picture_is_turned_to_fit(tmp_path):
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:20, :20] = 255
    flat = NearPair(0, 1, 0.991, 0.95, 1, (1.0, 1.0), certain=True)
    path = contact_sheet([flat], ["a", "b"], [picture, picture[:, ::-1]].__getitem__,
                         tmp_path / "s.png", columns=1)
    drawn = cv2.imread(str(path))
    assert (drawn[:144, :144] == drawn[:144, 144:288]).all()


def test_no_pairs_give_an_empty_sheet(tmp_path):
    assert (cv2.imread(str(contact_sheet([], [], [].__getitem__, tmp_path / "s.png"))) == 255).all()
