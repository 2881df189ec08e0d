"""Copies that were changed a little, in a run: kept together, refused across parts, or shown."""

import cv2
import numpy as np
import pytest

from finetune.assembly import assemble_data, cache_folder
from finetune.composition import compose
from finetune.errors import DataError
from finetune.likeness import Likeness, likeness_warnings, unsure_pairs, write_likeness_sheet


def scene(seed, side=96):
    """A picture with structure at every scale, unlike any other."""
    random = np.random.default_rng(seed)
    layers = [cv2.resize(random.normal(0, 1, (n, n, 3)).astype(np.float32), (side, side),
                         interpolation=cv2.INTER_CUBIC) * 30 for n in (4, 12, 32, 96)]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A given split with 30 pictures; two of test are train's, mirrored or re-encoded."""
    root = tmp_path / "set"
    for part, first, count in (("train", 0, 16), ("val", 100, 6), ("test", 200, 8)):
        for label in ("one", "two"):
            (root / part / label).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(root / part / ("one", "two")[i % 2] / f"{part}{i}.png"),
                        scene(first + i))
    cv2.imwrite(str(root / "test/one/mirrored.png"), scene(0)[:, ::-1])
    cv2.imwrite(str(root / "test/one/again.jpg"), scene(2), [cv2.IMWRITE_JPEG_QUALITY, 60])
    return root


def assembled(folder, *words):
    return assemble_data(compose([f"data.root={folder}", *words]).config, str(folder))


def test_a_given_split_with_changed_copies_is_refused(folder):
    with pytest.raises(DataError, match="2 of 2 sets of copies that were changed a little lie "
                                        "across train and test") as caught:
        assembled(folder)
    assert "mirrored.png (test)" in str(caught.value)
    assert "data.duplicates=drop_from_train" in str(caught.value)


def test_the_policies_are_those_of_identical_pictures(folder):
    dropped = assembled(folder, "data.duplicates=drop_from_train")
    gone = {dropped.samples.ids[i] for i in np.flatnonzero(dropped.split.names == "")}
    assert gone == {"train/one/train0.png", "train/one/train2.png"}
    waived = assembled(folder, "data.duplicates=allow", "data.waiver=checked")
    assert (waived.split.names != "").all() and "changed a little" in waived.split.repairs[0]


def test_a_split_made_here_keeps_copies_together(folder):
    together = [("test/one/mirrored.png", "train/one/train0.png"),
                ("test/one/again.jpg", "train/one/train2.png")]
    for seed in range(6):
        data = assembled(folder, "data.split=stratified", f"data.split_seed={seed}")
        part = dict(zip(data.samples.ids, data.split.names.tolist(), strict=True))
        assert all(part[a] == part[b] for a, b in together)
    assert any("4 pictures are in 2 sets" in text for text in data.warnings)


def test_warn_tears_them_apart_and_shows_them_and_ignore_does_not_look(folder, tmp_path):
    data = assembled(folder, "data.near_duplicates=warn")
    assert set(data.split.names) == {"train", "val", "test"}
    (text,) = [text for text in data.warnings if "look much alike" in text]
    assert text.startswith("2 pairs") and "mirrored.png (test)" in text
    sheet = write_likeness_sheet(data.likeness, data.split.names.tolist(), data.samples, tmp_path)
    assert cv2.imread(str(sheet)) is not None
    blind = assembled(folder, "data.near_duplicates=ignore")
    assert blind.likeness == Likeness() and not any("alike" in text for text in blind.warnings)
    assert write_likeness_sheet(blind.likeness, blind.split.names.tolist(), blind.samples,
                                tmp_path / "none") is None


def test_what_was_found_is_found_again_in_the_cache(folder, monkeypatch):
    first = assembled(folder, "data.split=stratified").likeness
    monkeypatch.setattr("finetune.likeness.find_near_duplicates", None)
    assert assembled(folder, "data.split=stratified").likeness == first
    (stored,) = (cache_folder() / "near").glob("*.json")
    stored.write_text("{")
    monkeypatch.undo()
    assert assembled(folder, "data.split=stratified").likeness == first


def test_too_many_pictures_are_not_compared_and_that_is_told(folder, monkeypatch):
    monkeypatch.setattr("finetune.likeness.MOST", 20)
    data = assembled(folder)
    assert data.likeness.pairs == [] and not data.likeness.groups
    assert any("32 pictures are more than 20" in text for text in data.warnings)


def test_pairs_that_stay_together_are_not_told(folder):
    data = assembled(folder, "data.split=stratified")
    assert unsure_pairs(data.likeness, data.split.names.tolist()) == []
    assert likeness_warnings(data.likeness, data.split.names.tolist(), data.samples.ids) == []
