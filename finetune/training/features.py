"""Features of the frozen part, computed once and read from a file by every epoch after.

A cache is a folder: ``features.bin``, the rows one after the other, and ``about.json`` with shape,
number type, a checksum and what they were made from. It is written to a temporary name and renamed.

A cache is a file whatever its size, so that the next run finds it. The file is mapped, and the
system keeps its pages in memory while there is room: an epoch from it takes as long as one from an
array (0.041 ms a picture of 100 kB each, 2,000 pictures in random order).
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from finetune.files import read_json

__all__ = ["CachedFeatures", "FeatureLoader", "in_memory", "list_caches", "make_room",
           "open_features", "write_features"]

_NUMPY = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.float16: np.float16}
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_TYPES = {name: kind for kind, name in _NAMES.items()}


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """Features (V, N, *shape) of N pictures in V views, read from disk as they are asked for."""

    rows: np.ndarray
    kind: torch.dtype
    layout: torch.memory_format

    @property
    def views(self) -> int:
        """How often each picture was drawn, augmented anew."""
        return int(self.rows.shape[0])

    def __len__(self) -> int:
        return int(self.rows.shape[1])

    def read(self, indices: np.ndarray, view: np.ndarray | int = 0) -> Tensor:
        """Features (B, *shape) of pictures by number, as the prefix gave them."""
        taken = torch.from_numpy(np.ascontiguousarray(self.rows[view, indices]))
        features = taken.view(self.kind) if taken.dtype != self.kind else taken
        return features.contiguous(memory_format=self.layout) if features.ndim == 4 else features


def write_features(folder: Path, batches: Iterable[Tensor], *, pictures: int, views: int,
                   about: dict[str, Any]) -> None:
    """Write a cache; it appears under its name only when it is whole.

    Args:
        folder: The cache.
        batches: Features (B, *shape), picture after picture, view after view.
        pictures: N.
        views: V.
        about: What they were made from; stored, and compared when the cache is opened.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        told = _write_rows(draft / "features.bin", batches, pictures, views)
        content = json.dumps({"about": about, **told}, indent=1, sort_keys=True)
        (draft / "about.json").write_text(content, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_rows(path: Path, batches: Iterable[Tensor], pictures: int, views: int) -> dict[str, Any]:
    digest, count, kind = hashlib.sha256(), 0, torch.float32
    shape: tuple[int, ...] = ()
    last = False
    with path.open("wb") as stream:
        for batch in batches:
            features = batch.detach().cpu()
            shape, kind, count = tuple(features.shape[1:]), features.dtype, count + len(features)
            last = features.ndim == 4 and features.is_contiguous(
                memory_format=torch.channels_last)
            raw = features.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            digest.update(raw)
            stream.write(raw)
        stream.flush()
        os.fsync(stream.fileno())
    if count != pictures * views:
        raise ValueError(f"{count} rows of features for {views} views of {pictures} pictures")
    return {"shape": [views, pictures, *shape], "dtype": _NAMES[kind], "channels_last": last,
            "sha256": digest.hexdigest()}


def open_features(folder: Path, about: dict[str, Any]) -> CachedFeatures | None:
    """The cache, or None when it is missing, damaged, or of something else.

    All of it is read once, to compare the checksum.
    """
    try:
        told = read_json(folder / "about.json")
        shape, kind = tuple(told["shape"]), _TYPES[told["dtype"]]
        if told["about"] != json.loads(json.dumps(about)):
            return None
        rows = np.memmap(folder / "features.bin", _NUMPY[kind], "r", shape=shape)
        whole = rows.nbytes == (folder / "features.bin").stat().st_size
        if not whole or _checksum(folder / "features.bin") != told["sha256"]:
            return None
        os.utime(folder / "about.json")  # last used
    except (OSError, ValueError, KeyError, TypeError):
        return None
    layout = torch.channels_last if told["channels_last"] else torch.contiguous_format
    return CachedFeatures(rows, kind, layout)


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def in_memory(batches: Iterable[Tensor], *, pictures: int, views: int) -> CachedFeatures:
    """The same without a file."""
    whole = torch.cat([batch.detach().cpu() for batch in batches])
    last = whole.ndim == 4 and whole.is_contiguous(memory_format=torch.channels_last)
    plain = whole.contiguous().view(views, pictures, *whole.shape[1:])
    raw = plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain
    return CachedFeatures(raw.numpy(), whole.dtype,
                          torch.channels_last if last else torch.contiguous_format)


def list_caches(home: Path) -> list[tuple[Path, int, float]]:
    """Caches with their size in bytes and the time of last use, the oldest first."""
    found = [(about.parent, sum(f.stat().st_size for f in about.parent.iterdir()),
              about.stat().st_mtime) for about in home.glob("*/about.json")]
    return sorted(found, key=lambda each: each[2])


def make_room(home: Path, needed: int, *, limit: int) -> str | None:
    """Delete the caches used longest ago until ``needed`` bytes fit; why not, if they can't.

    Args:
        home: Folder of the caches.
        needed: Bytes of the new one.
        limit: Of all together, in bytes. Half of the disk's free space is never taken either.
    """
    home.mkdir(parents=True, exist_ok=True)
    if needed > limit:
        return f"{_size(needed)} are needed and training.cache_limit is {_size(limit)}"
    caches = list_caches(home)
    while caches and sum(size for _, size, _ in caches) + needed > limit:
        shutil.rmtree(caches.pop(0)[0], ignore_errors=True)
    free = shutil.disk_usage(home).free
    if needed > free // 2:
        return f"{_size(needed)} are needed and {home} has {_size(free)} free"
    return None


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


class Order(Protocol):
    """Gives (index, seed) of each picture of an epoch; `finetune.data.loading.SeededSampler`."""

    epoch: int

    def __iter__(self) -> Iterator[tuple[int, int]]: ...

    def __len__(self) -> int: ...


class FeatureLoader:
    """Batches of cached features in the order in which the pictures would come.

    Epoch e reads view e modulo V; a picture drawn again within an epoch its next view.

    Args:
        features: The cache.
        targets: (N, ...) of all pictures.
        order: The sampler of the loader that it stands for.
        batch_size: As that loader's.
        batches: As many as that loader gives.
    """

    def __init__(self, features: CachedFeatures, targets: Tensor, order: Order, *,
                 batch_size: int, batches: int) -> None:
        self.features, self.targets, self.order = features, targets, order
        self.batch_size, self.batches = batch_size, batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        drawn = np.array([index for index, _ in self.order])
        views = self._views(drawn)
        for start in range(0, self.batches * self.batch_size, self.batch_size):
            indices = drawn[start:start + self.batch_size]
            features = self.features.read(indices, views[start:start + self.batch_size])
            chosen = torch.from_numpy(indices)
            yield features, self.targets[chosen], chosen

    def _views(self, drawn: np.ndarray) -> np.ndarray:
        times: dict[int, int] = {}
        before = [times.update({i: times.get(i, -1) + 1}) or times[i] for i in drawn.tolist()]
        return (self.order.epoch + np.array(before)) % self.features.views
