"""Thumbnails of all pictures, each made once."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune.data.decoding import UnreadableImage
from finetune.data.hashing import SIDE, Descriptors, describe
from finetune.data.row_store import RowStore
from finetune.data.samples import PictureSource
from finetune.data.scanning import decoder_versions

__all__ = ["describe_pictures"]

_FORMAT = 1           # of what is stored; a new one makes old caches void
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
    store = _kept(cache)
    known = _load(store, edition, places, found)
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
            store.add(made)
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


def _kept(cache: Path | None) -> RowStore:
    return RowStore(cache, "thumbnails.sqlite", "thumbnails",
                    "hash TEXT, edition TEXT, contrast REAL, thumbnail BLOB, PRIMARY KEY (hash)")


def _load(store: RowStore, edition: str, places: dict[str, list[int]],
          found: Descriptors) -> set[str]:
    """Fill in what is known and tell which."""
    known: set[str] = set()
    try:
        for key, contrast, content in store.select("hash, contrast, thumbnail", edition=edition):
            if key in places:
                pixels = np.frombuffer(content, np.uint8).reshape(SIDE, SIDE)
                _put(found, places[key], pixels, float(contrast))
                known.add(key)
    except (ValueError, TypeError):
        return known  # what came before the damage is whole
    return known
