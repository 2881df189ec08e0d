"""Thumbnails of all pictures, each made once."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.decoding import UnreadableImage
from finetune.data.hashing import SIDE, Descriptors, describe
from finetune.data.samples import PictureSource
from finetune.data.scanning import decoder_versions

__all__ = ["describe_pictures"]

_FORMAT = 1           # of what is stored; a new one makes old caches void
_CACHE_FILE = "thumbnails.sqlite"
_SAVE_EVERY = 2000    # pictures; what an interruption loses at most
_ENOUGH = (2 * SIDE, 2 * SIDE)

Thumbnail = npt.NDArray[np.uint8]


def describe_pictures(source: PictureSource, ids: Sequence[str], byte_hashes: Sequence[str], *,
                      cache: Path | None = None, threads: int = 2,
                      progress: Callable[[int], object] | None = None) -> Descriptors:
    """Descriptors of pictures, in the order of ``ids``; those that can't be read are blank.

    A cache that is damaged is made anew; one that can't be read or written is done without.

    Args:
        source: Where the pictures are.
        ids: Their names.
        byte_hashes: `PictureFacts.byte_hash` of each; "" is never looked up or stored.
        cache: A folder; keeps descriptors by byte hash and decoders' versions.
        threads: Pictures decoded at a time.
        progress: Called with the number done.
    """
    found = Descriptors(np.zeros((len(ids), SIDE, SIDE), np.uint8), np.zeros(len(ids), np.float32))
    places: dict[str, list[int]] = {}
    for index, key in enumerate(byte_hashes):
        places.setdefault(key or f"no hash {index}", []).append(index)
    edition = f"{_FORMAT} {decoder_versions()}"
    known = _load(cache, edition, places, found)
    missing = [(key, indices) for key, indices in places.items() if key not in known]
    done = len(ids) - sum(len(indices) for _, indices in missing)
    with _stopping(ThreadPoolExecutor(threads)) as pool:
        for start in range(0, len(missing), _SAVE_EVERY):
            part = missing[start:start + _SAVE_EVERY]
            made = []
            for (key, indices), each in zip(
                    part, pool.map(lambda p: _read(source, ids[p[1][0]]), part), strict=True):
                done += len(indices)
                if each is not None:
                    _put(found, indices, *each)
                    made += [(key, edition, each[1], each[0].tobytes())] * bool(
                        byte_hashes[indices[0]])
                if progress is not None:
                    progress(done)
            _store(cache, made)
    if progress is not None:
        progress(done)
    return found


@contextmanager
def _stopping(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption doesn't wait for all the others


def _read(source: PictureSource, name: str) -> tuple[Thumbnail, float] | None:
    try:
        return describe(source.read(name, _ENOUGH).pixels)
    except (UnreadableImage, OSError):
        return None


def _put(found: Descriptors, indices: Sequence[int], thumbnail: Thumbnail,
         contrast: float) -> None:
    found.thumbnails[list(indices)] = thumbnail
    found.contrasts[list(indices)] = contrast


@contextmanager
def _database(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / _CACHE_FILE, timeout=10)) as base, base:
        base.execute("CREATE TABLE IF NOT EXISTS thumbnails (hash TEXT, edition TEXT, "
                     "contrast REAL, thumbnail BLOB, PRIMARY KEY (hash))")
        yield base


def _load(cache: Path | None, edition: str, places: dict[str, list[int]],
          found: Descriptors) -> set[str]:
    """Fill in what is known and tell which."""
    known: set[str] = set()
    if cache is None or not (cache / _CACHE_FILE).exists():
        return known
    try:
        with _database(cache) as base:
            for key, contrast, content in base.execute(
                    "SELECT hash, contrast, thumbnail FROM thumbnails WHERE edition = ?",
                    (edition,)):
                if key in places:
                    pixels = np.frombuffer(content, np.uint8).reshape(SIDE, SIDE)
                    _put(found, places[key], pixels, float(contrast))
                    known.add(key)
    except (sqlite3.Error, ValueError, TypeError):
        return known  # what came before the damage is whole
    return known


def _store(cache: Path | None, rows: list[tuple[Any, ...]]) -> None:
    if cache is None or not rows:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        try:
            _insert(cache, rows)
        except sqlite3.OperationalError as error:
            if "column" not in str(error):  # locked, full or read-only: done without
                return
            _start_anew(cache, rows)
        except sqlite3.DatabaseError:
            _start_anew(cache, rows)
    except (OSError, sqlite3.Error):
        return


def _insert(cache: Path, rows: list[tuple[Any, ...]]) -> None:
    with _database(cache) as base:
        base.executemany("INSERT OR REPLACE INTO thumbnails VALUES (?, ?, ?, ?)", rows)


def _start_anew(cache: Path, rows: list[tuple[Any, ...]]) -> None:
    (cache / _CACHE_FILE).unlink(missing_ok=True)
    _insert(cache, rows)
