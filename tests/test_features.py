"""Cached features: what is read is what was written, or nothing."""

import json

import numpy as np
import pytest
import torch

from finetune.data.loading import SeededSampler
from finetune.training.features import (
    FeatureLoader,
    in_memory,
    list_caches,
    make_room,
    open_features,
    write_features,
)

ABOUT = {"weights": "abc", "views": 2}


def rows(kind=torch.float32, shape=(6, 4, 3, 3)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(kind)


def written(folder, features, views=2):
    write_features(folder, features.split(4), pictures=len(features) // views, views=views,
                   about=ABOUT)
    return open_features(folder, ABOUT)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_come_back_to_the_bit_in_their_layout(tmp_path, kind, layout):
    features = rows(kind).contiguous(memory_format=layout)
    stored = written(tmp_path / "one", features)
    for kept in (stored, in_memory(features.split(4), pictures=3, views=2)):
        assert (len(kept), kept.views) == (3, 2)
        read = kept.read(np.array([2, 0]), np.array([1, 0]))
        assert read.dtype == kind and torch.equal(read, features[[5, 0]])
        assert read.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("damage", ["flip", "cut", "about", "shape", "missing", "nonsense"])
def test_a_damaged_cache_is_noticed(tmp_path, damage):
    folder = tmp_path / "one"
    written(folder, rows())
    data, about = folder / "features.bin", folder / "about.json"
    told = json.loads(about.read_text())
    if damage == "flip":
        raw = bytearray(data.read_bytes())
        raw[7] ^= 1
        data.write_bytes(raw)
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:-4])
    elif damage == "missing":
        data.unlink()
    elif damage == "nonsense":
        about.write_text("[1")
    else:
        changed = {"about": {"about": {"weights": "other", "views": 2}},
                   "shape": {"shape": [2, 3, 4, 3, 2]}}[damage]
        about.write_text(json.dumps(told | changed))
    assert open_features(folder, ABOUT) is None
    assert open_features(tmp_path / "never", ABOUT) is None


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield rows()[:2]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_features(tmp_path / "one", broken(), pictures=3, views=2, about=ABOUT)
    with pytest.raises(ValueError, match="2 rows"):
        write_features(tmp_path / "one", [rows()[:2]], pictures=3, views=2, about=ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_the_caches_used_longest_ago_make_room(tmp_path):
    import os

    for number, name in enumerate("abc"):
        written(tmp_path / name, rows())
        os.utime(tmp_path / name / "about.json", (number, number))
    size = list_caches(tmp_path)[0][1]
    open_features(tmp_path / "a", ABOUT)  # used just now
    assert make_room(tmp_path, size, limit=3 * size + 10) is None
    assert {path.name for path, _, _ in list_caches(tmp_path)} == {"a", "c"}
    assert "cache_limit" in make_room(tmp_path, 4 * size, limit=3 * size)
    assert {path.name for path, _, _ in list_caches(tmp_path)} == {"a", "c"}, "nothing was lost"
    assert "free" in make_room(tmp_path, 10**18, limit=10**19)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_the_order_is_the_samplers_and_the_view_the_epochs(epoch):
    features = in_memory([rows(shape=(10, 2))], pictures=5, views=2)
    order = SeededSampler(5, seed=3)
    order.set_epoch(epoch)
    loader = FeatureLoader(features, torch.arange(5) * 10, order, batch_size=2, batches=2)
    expected = [index for index, _ in order][:4]
    found = list(loader)
    assert [i for _, _, part in found for i in part.tolist()] == expected
    for given, targets, indices in found:
        assert torch.equal(targets, indices * 10)
        assert torch.equal(given, features.read(indices.numpy(), epoch % 2))


def test_a_picture_drawn_again_shows_its_next_view():
    weights = np.array([1.0, 1e-9, 1e-9])
    order = SeededSampler(3, seed=0, sampling="balanced", weights=weights)
    features = in_memory([rows(shape=(6, 2))], pictures=3, views=2)
    (given, _, indices), = FeatureLoader(features, torch.zeros(3), order, batch_size=3, batches=1)
    assert indices.tolist() == [0, 0, 0]
    assert torch.equal(given, features.read(np.array([0, 0, 0]), np.array([0, 1, 0])))
