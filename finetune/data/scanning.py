"""One decoding pass over all pictures: what is broken, and which are identical."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.decoding import UnreadableImage
from finetune.data.samples import PictureSource

__all__ = ["PictureFacts", "duplicate_groups", "scan_pictures"]

_VERSION = 1  # of what is stored; a new one makes old caches void


@dataclass(frozen=True)
class PictureFacts:
    """What one decoding tells about a picture.

    Attributes:
        byte_hash: Of the stored bytes.
        pixel_hash: Of shape and values; a colour picture whose channels are equal counts as grey.
        notes: What decoding dropped or chose.
        error: Why it can't be read, or None.
    """

    height: int = 0
    width: int = 0
    channels: int = 0
    dtype: str = ""
    mode: str = ""
    byte_hash: str = ""
    pixel_hash: str = ""
    minimum: float = 0.0
    maximum: float = 0.0
    notes: tuple[str, ...] = ()
    error: str | None = None


def scan_pictures(source: PictureSource, ids: Sequence[str], *, cache: Path | None = None,
                  progress: Callable[[int], object] | None = None,
                  threads: int = 4) -> list[PictureFacts]:
    """Facts of every picture, in the order of ``ids``.

    Args:
        source: Where the pictures are.
        ids: Their names.
        cache: A folder that keeps facts by source, name, size and time of change; a damaged
            cache is made anew.
        progress: Called with the number done.
        threads: Pictures decoded at a time; decoders release the interpreter's lock.
    """
    stamps = [_stamp(source, i) for i in ids]
    known = _load(cache, source.name)
    found: dict[int, PictureFacts] = {}
    for index, (name, stamp) in enumerate(zip(ids, stamps, strict=True)):
        if stamp is not None and (name, *stamp) in known:
            found[index] = known[name, *stamp]
    missing = [i for i in range(len(ids)) if i not in found]
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda i: _facts(source, ids[i]), missing)
        for done, (index, facts) in enumerate(zip(missing, results, strict=True), start=1):
            found[index] = facts
            if progress is not None:
                progress(len(ids) - len(missing) + done)
    fresh = [(ids[i], *stamp, found[i]) for i in missing
             if (stamp := stamps[i]) is not None and found[i].error is None]
    _store(cache, source.name, fresh)
    return [found[i] for i in range(len(ids))]


def _stamp(source: PictureSource, name: str) -> tuple[int, int] | None:
    try:
        return source.stamp(name)
    except OSError:
        return None


def _facts(source: PictureSource, name: str) -> PictureFacts:
    try:
        content = source.raw(name)
        decoded = source.read(name)
    except UnreadableImage as error:
        return PictureFacts(error=str(error).removeprefix(f"{name}: "))
    except OSError as error:
        return PictureFacts(error=error.strerror or str(error))
    pixels = decoded.pixels
    return PictureFacts(
        *pixels.shape, str(pixels.dtype), decoded.mode, _digest(content), _pixel_hash(pixels),
        float(pixels.min()), float(pixels.max()), decoded.notes)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _pixel_hash(pixels: npt.NDArray[Any]) -> str:
    if pixels.shape[-1] == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    head = f"{pixels.shape}{pixels.dtype}".encode()
    return _digest(head + np.ascontiguousarray(pixels).tobytes())


def duplicate_groups(facts: Sequence[PictureFacts]) -> list[list[int]]:
    """Indices of pictures that are identical in bytes or in pixels, in groups of two or more."""
    from finetune.data.unions import joined

    by_hash: dict[str, list[int]] = {}
    for index, fact in enumerate(facts):
        if fact.error is None:
            by_hash.setdefault(f"b{fact.byte_hash}", []).append(index)
            by_hash.setdefault(f"p{fact.pixel_hash}", []).append(index)
    return [g for g in joined(len(facts), by_hash.values()) if len(g) > 1]


def _load(cache: Path | None, source: str) -> dict[tuple[str, int, int], PictureFacts]:
    if cache is None or not (cache / "pictures.sqlite").exists():
        return {}
    try:
        with closing(sqlite3.connect(cache / "pictures.sqlite", timeout=10)) as base:
            rows = base.execute("SELECT name, size, time, facts FROM facts WHERE source = ? "
                                "AND version = ?", (source, _VERSION)).fetchall()
            return {(n, s, t): _parse(text) for n, s, t, text in rows}
    except (sqlite3.Error, ValueError, TypeError):
        return {}


def _parse(text: str) -> PictureFacts:
    values = json.loads(text)
    return PictureFacts(**values | {"notes": tuple(values["notes"])})


def _store(cache: Path | None, source: str,
           rows: Iterable[tuple[str, int, int, PictureFacts]]) -> None:
    made = [(source, n, s, t, _VERSION, json.dumps(asdict(f))) for n, s, t, f in rows]
    if cache is None or not made:
        return
    path = cache / "pictures.sqlite"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _insert(path, made)
    except sqlite3.DatabaseError:
        path.unlink(missing_ok=True)
        _insert(path, made)
    except OSError:
        return  # no room or right for a cache: the next run scans again


def _insert(path: Path, rows: list[tuple[str, str, int, int, int, str]]) -> None:
    with closing(sqlite3.connect(path, timeout=10)) as base, base:
        base.execute("CREATE TABLE IF NOT EXISTS facts (source TEXT, name TEXT, size INTEGER, "
                     "time INTEGER, version INTEGER, facts TEXT, PRIMARY KEY (source, name))")
        base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?, ?)", rows)
