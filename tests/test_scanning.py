"""One decoding pass: what is broken, what is identical, and what it remembers."""

import os

import cv2
import numpy as np
import pytest

from finetune.data import scanning
from finetune.data.samples import FolderSource
from finetune.data.scanning import duplicate_groups, scan_pictures

RANDOM = np.random.default_rng(0)


class Counting(FolderSource):
    """Counts what is decoded."""

    def read(self, sample_id):
        READ.append(sample_id)
        return super().read(sample_id)


READ: list[str] = []


@pytest.fixture
def folder(tmp_path):
    READ.clear()
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), RANDOM.integers(0, 255, (6, 9, 3), np.uint8))
    return tmp_path


def scan(folder, *names, cache=None, **options):
    return scan_pictures(Counting(str(folder)), list(names), cache=cache, **options)


def test_facts_are_those_of_the_picture(folder):
    pixels = RANDOM.integers(7, 60000, (5, 4), np.uint16)
    cv2.imwrite(str(folder / "deep.png"), pixels)
    found = scan(folder, "deep.png", "a.png")
    assert (found[0].height, found[0].width, found[0].channels) == (5, 4, 1)
    assert found[0].dtype == "uint16" and found[0].error is None
    assert (found[0].minimum, found[0].maximum) == (pixels.min(), pixels.max())
    assert (found[1].height, found[1].width, found[1].channels) == (6, 9, 3)


def test_broken_pictures_are_told_and_the_rest_goes_on(folder):
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "c.png").write_bytes(b"")
    found = scan(folder, "a.png", "b.png", "c.png", "gone.png")
    assert [f.error is None for f in found] == [True, False, False, False]
    assert "empty" in found[2].error


def test_identical_bytes_and_identical_pixels_are_found(folder):
    (folder / "same bytes.png").write_bytes((folder / "a.png").read_bytes())
    cv2.imwrite(str(folder / "same pixels.bmp"), cv2.imread(str(folder / "b.png")))
    names = ["a.png", "b.png", "c.png", "same bytes.png", "same pixels.bmp"]
    assert sorted(map(sorted, duplicate_groups(scan(folder, *names)))) == [[0, 3], [1, 4]]


def test_grey_stored_as_colour_is_the_same_picture(folder):
    grey = RANDOM.integers(0, 255, (6, 9), np.uint8)
    cv2.imwrite(str(folder / "grey.png"), grey)
    cv2.imwrite(str(folder / "colour.png"), np.repeat(grey[..., None], 3, axis=-1))
    assert duplicate_groups(scan(folder, "grey.png", "colour.png")) == [[0, 1]]


def test_one_changed_pixel_is_another_picture(folder):
    pixels = cv2.imread(str(folder / "a.png"))
    pixels[0, 0, 0] ^= 1
    cv2.imwrite(str(folder / "near.png"), pixels)
    assert duplicate_groups(scan(folder, "a.png", "near.png")) == []


def test_a_second_scan_decodes_what_changed_only(folder, tmp_path_factory):
    cache, names = tmp_path_factory.mktemp("cache"), ["a.png", "b.png", "c.png"]
    first = scan(folder, *names, cache=cache)
    READ.clear()
    assert scan(folder, *names, cache=cache) == first and READ == []
    stat = (folder / "b.png").stat()
    os.utime(folder / "b.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert scan(folder, *names, cache=cache) == first and READ == ["b.png"]


def test_a_name_that_is_no_text_is_told(folder):
    name = os.fsdecode(b"bad\xff.png")
    (folder / name).write_bytes((folder / "a.png").read_bytes())
    assert "not valid UTF-8" in scan(folder, name)[0].error


def test_broken_ones_are_tried_again(folder, tmp_path_factory):
    cache, good = tmp_path_factory.mktemp("cache"), (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(b"")
    assert scan(folder, "a.png", cache=cache)[0].error
    (folder / "a.png").write_bytes(good)
    assert scan(folder, "a.png", cache=cache)[0].error is None


def test_what_facts_depend_on_is_looked_up_once_for_many(folder, tmp_path_factory, monkeypatch):
    asked = []
    monkeypatch.setattr(scanning, "version", lambda name: asked.append(name) or "1")
    scan(folder, "a.png", "b.png", cache=tmp_path_factory.mktemp("cache"))
    few = len(asked)
    scan(folder, "a.png", "b.png", "c.png", cache=tmp_path_factory.mktemp("cache"))
    assert len(asked) == 2 * few


def test_a_damaged_cache_is_made_anew(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    first = scan(folder, "a.png", cache=cache)
    for path in cache.iterdir():
        path.write_bytes(b"nonsense" * 100)
    assert scan(folder, "a.png", cache=cache) == first
    READ.clear()
    assert scan(folder, "a.png", cache=cache) == first and READ == []


def test_a_cache_that_cannot_be_written_is_done_without(folder):
    assert scan(folder, "a.png", cache=folder / "a.png" / "below")[0].error is None


def test_order_progress_and_threads(folder):
    names, told = ["c.png", "a.png", "b.png"] * 5, []
    found = scan(folder, *names, threads=4, progress=told.append)
    assert found == [scan(folder, name)[0] for name in names]
    assert told == sorted(told) and told[-1] == 15
