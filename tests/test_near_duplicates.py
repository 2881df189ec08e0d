"""Changed copies are found; pictures that are merely alike, and blank ones, are not."""

import cv2
import numpy as np
import pytest

from finetune.data.hashing import (
    SIDE,
    Descriptors,
    describe,
    orientation_name,
    oriented,
    stack_descriptors,
)
from finetune.data.near_duplicates import (
    NearPair,
    find_near_duplicates,
    near_duplicate_groups,
    near_duplicates_across,
)
from finetune.data.registration import register
from finetune.data.sample_land import draw_region, draw_tile

LABELS = ("forest", "residential", "industrial")


def scene(seed, size=160):
    random = np.random.default_rng(seed)
    return draw_tile(LABELS[seed % 3], draw_region(random), random, size)


def jpeg(pixels, quality):
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def scaled(pixels, factor):
    return cv2.resize(pixels, None, fx=factor, fy=factor,
                      interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def brighter(pixels, factor):
    return (pixels * factor).round().clip(0, 255).astype(np.uint8)


CHANGES = {
    "half size": lambda p: scaled(p, 0.5), "double size": lambda p: scaled(p, 2),
    "jpeg": lambda p: jpeg(p, 30), "left-right": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1], "quarter turn": lambda p: np.rot90(p),
    "brighter": lambda p: brighter(p, 1.2), "darker": lambda p: brighter(p, 0.8),
    "crop": lambda p: p[8:, :152], "grey": lambda p: p.mean(axis=2, keepdims=True).astype(np.uint8),
    "16 bits": lambda p: p.astype(np.uint16) * 200,
    "all": lambda p: jpeg(scaled(brighter(np.rot90(p[2:154, 3:155][::-1]), 0.85), 0.8), 60)}
OTHERS = [describe(scene(seed)) for seed in range(100, 140)]


def descriptors_of(*pictures):
    return stack_descriptors([*map(describe, pictures)])


@pytest.fixture(scope="module")
def planted():
    """Pairs among 40 tiles, 12 further ones and a changed copy of each of these, by numbers."""
    originals = [scene(seed) for seed in range(len(CHANGES))]
    copies = [change(p) for change, p in zip(CHANGES.values(), originals, strict=True)]
    described = [*OTHERS, *map(describe, [*originals, *copies])]
    return find_near_duplicates(stack_descriptors(described), threads=1)


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_found_and_certain(planted, change):
    first = len(OTHERS) + list(CHANGES).index(change)
    found = [p for p in planted if (p.first, p.second) == (first, first + len(CHANGES))]
    assert [p.certain for p in found] == [True]
    assert found[0].correlation >= 0.98


def test_nothing_else_is_found(planted):
    assert all(p.second - p.first == len(CHANGES) and p.first >= len(OTHERS) for p in planted)


def test_the_transform_tells_flips_turns_and_crops(planted):
    names = {name: p.transform for name, p in zip(CHANGES, planted, strict=True)}
    assert names["left-right"] == "flipped left-right"
    assert names["quarter turn"] == "turned by 90°"  # it was turned by 270°: this turns it back
    assert names["half size"] == "upright"
    assert names["crop"] == "upright, shows 95 x 95 %"


def test_the_order_of_pictures_does_not_matter(planted):
    originals = [scene(seed) for seed in range(len(CHANGES))]
    copies = [change(p) for change, p in zip(CHANGES.values(), originals, strict=True)]
    described = [*OTHERS, *map(describe, [*originals, *copies])]
    order = np.random.default_rng(0).permutation(len(described))
    mixed = find_near_duplicates(stack_descriptors([described[i] for i in order]), threads=2)
    told = {tuple(sorted((int(order[p.first]), int(order[p.second])))): p.certain for p in mixed}
    assert told == {(p.first, p.second): p.certain for p in planted}


def test_what_a_crop_shows_is_told_from_either_side():
    whole, part = scene(3), np.rot90(scene(3)[:, 8:])
    one = find_near_duplicates(descriptors_of(whole, part))[0]
    other = find_near_duplicates(descriptors_of(part, whole))[0]
    assert one.shown == pytest.approx((0.95, 1), abs=0.01)
    assert other.shown == pytest.approx((1, 1 / 0.95), abs=0.01)
    assert {one.transform.split(",")[0], other.transform.split(",")[0]} == {
        "turned by 90°", "turned by 270°"}


@pytest.mark.parametrize("noise", [0, 1, 3])
def test_uniform_tiles_are_blank_and_no_copies(noise):
    random = np.random.default_rng(0)
    slope = np.linspace(90, 140, 200)[:, None, None]
    tiles = [(slope + random.normal(0, noise, (200, 200, 3))).astype(np.uint8) for _ in range(8)]
    found = descriptors_of(*(jpeg(tile, 40) for tile in tiles))
    assert found.blank.all()
    assert find_near_duplicates(found) == []


def test_identical_blank_pictures_are_no_pair():
    assert find_near_duplicates(descriptors_of(*[np.full((50, 70, 3), 9, np.uint8)] * 3)) == []


def test_pictures_that_differ_in_one_place_are_not_certain():
    """As neighbouring slices of a scan do."""
    one, other = scene(2), scene(2).copy()
    other[60:110, 60:110] = scene(7)[60:110, 60:110]
    found = find_near_duplicates(descriptors_of(one, other))
    assert not any(pair.certain for pair in found)


def test_a_rotated_picture_is_not_certain():
    turn = cv2.getRotationMatrix2D((80, 80), 8, 1)
    rotated = cv2.warpAffine(scene(4), turn, (160, 160), borderMode=cv2.BORDER_REFLECT)
    assert not any(p.certain for p in find_near_duplicates(descriptors_of(scene(4), rotated)))


@pytest.mark.parametrize("count", [0, 1])
def test_few_pictures_have_no_pairs(count):
    assert find_near_duplicates(descriptors_of(*[scene(0)] * count)) == []


def test_many_identical_pictures_hide_no_other_copy():
    found = descriptors_of(*[scene(0)] * 70, scene(0)[8:, 8:], scene(1))
    pairs = find_near_duplicates(found)
    assert near_duplicate_groups(pairs, 72) == [[*range(71)]]
    assert len(pairs) == 70


def test_a_crowd_of_copies_does_not_fall_apart(monkeypatch):
    """Each has more copies that are nearer than those of the other half, and keeps eight pairs."""
    random, whole = np.random.default_rng(0), scene(5)
    halves = [(jpeg(brighter(part, 1 + step / 200), 95) + random.integers(-2, 3, part.shape))
              .clip(0, 255).astype(np.uint8)
              for part in (whole, whole[5:-5, 5:-5]) for step in range(16)]
    pictures = descriptors_of(*halves, *(scene(seed) for seed in range(20, 30)))

    def sizes():
        found = near_duplicate_groups(find_near_duplicates(pictures), len(pictures.thumbnails))
        return [len(group) for group in found]

    assert sizes() == [32]
    monkeypatch.setattr("finetune.data.near_duplicates._ROUNDS", 0)
    assert sizes() == [16, 16]


def test_progress_ends_at_the_whole():
    told = []
    find_near_duplicates(stack_descriptors(OTHERS), progress=lambda *done: told.append(done))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_blocks_give_the_same_as_one_piece(planted, monkeypatch):
    from finetune.data import near_search

    for name, value in (("_ROWS", 7), ("_COLUMNS", 70), ("_RANKED", 3)):
        monkeypatch.setattr(near_search, name, value)
    originals = [scene(seed) for seed in range(len(CHANGES))]
    copies = [change(p) for change, p in zip(CHANGES.values(), originals, strict=True)]
    again = find_near_duplicates(stack_descriptors(
        [*OTHERS, *map(describe, [*originals, *copies])]), threads=1)
    assert [(p.first, p.second, p.orientation) for p in again] == [
        (p.first, p.second, p.orientation) for p in planted]


def pair(first, second, *, certain=True, correlation=0.99):
    return NearPair(first, second, correlation, 0.95, 0, (1.0, 1.0), certain)


def test_groups_join_certain_pairs_and_likely_ones_on_request():
    pairs = [pair(0, 2), pair(2, 4), pair(1, 3, certain=False)]
    assert near_duplicate_groups(pairs, 6) == [[0, 2, 4]]
    assert near_duplicate_groups(pairs, 6, likely=True) == [[0, 2, 4], [1, 3]]


def test_pairs_across_parts_come_surest_first_and_dropped_pictures_are_out():
    pairs = [pair(0, 1, certain=False, correlation=0.995), pair(1, 2), pair(0, 3),
             pair(0, 2, correlation=0.999), pair(1, 4)]
    found = near_duplicates_across(pairs, ["train", "val", "test", "train", ""])
    assert [(p.first, p.second) for p in found] == [(0, 2), (1, 2), (0, 1)]


@pytest.mark.parametrize("number", range(8))
def test_orientations_are_the_eight_of_a_square(number):
    picture = np.arange(9).reshape(3, 3)
    every = {oriented(picture, each).tobytes() for each in range(8)}
    assert len(every) == 8
    turned = {"turned by 90°": np.rot90(picture, -1), "turned by 180°": np.rot90(picture, 2),
              "turned by 270°": np.rot90(picture), "transposed": picture.T}
    name = orientation_name(number)
    if name in turned:
        assert (oriented(picture, number) == turned[name]).all()


@pytest.mark.parametrize("shape", [(1, 1), (5, 700), (40, 40, 3), (300, 200, 4), (96, 96, 13)])
def test_any_shape_has_a_thumbnail(shape):
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    thumbnail, contrast = describe(pixels)
    assert thumbnail.shape == (SIDE, SIDE) and thumbnail.dtype == np.uint8
    assert np.isfinite(contrast)


def test_a_hundred_thousand_pictures_stay_below_a_gibibyte():
    assert isinstance(descriptors_of(scene(0)), Descriptors)
    assert 100_000 * descriptors_of(scene(0)).thumbnails[0].nbytes < 2**30


def test_a_shift_is_measured():
    wide = scene(1, 240)
    one, two = (describe(wide[:, start:start + 192])[0] for start in (0, 10))
    found = register(one, two, contrast=5, at_least=0.9)
    assert found is not None and found.detail > 0.9
    assert found.affine[0, 2] == pytest.approx(-10 / 192, abs=0.004)
    assert np.diag(found.affine) == pytest.approx(1, abs=0.01)
