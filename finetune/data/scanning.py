"""One decoding pass over all pictures: what is broken, and which are identical."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.decoding import UnreadableImage
from finetune.data.glances import Glance, glance_at, parse_glance
from finetune.data.row_store import RowStore
from finetune.data.samples import PictureSource
from finetune.data.unions import joined
from finetune.files import parse_json

__all__ = ["PictureFacts", "content_hash", "decoder_versions", "duplicate_groups", "scan_pictures"]

_FORMAT = 5  # of what is stored; a new one makes old caches void
_SAVE_EVERY = 2000  # pictures; what an interrupted scan loses at most

Stamp = tuple[int, int]
_Key = tuple[bytes, int, int]


@dataclass(frozen=True)
class PictureFacts:
    """What one decoding tells about a picture.

    Attributes:
        height: In pixels.
        width: In pixels.
        channels: As decoded.
        dtype: ``uint8``, ``uint16`` or ``float32``.
        mode: The file's own colour mode.
        byte_hash: Of the stored bytes.
        pixel_hash: Of shape, number type and values; a colour picture with three equal channels
            counts as the grey picture that it is.
        minimum: Of the values.
        maximum: Of the values.
        notes: What decoding dropped or chose.
        glance: What the file tells beside its content.
        error: Why it can't be read, or None; then everything else is empty.
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
    glance: Glance | None = None


def scan_pictures(source: PictureSource, ids: Sequence[str], *, cache: Path | None = None,
                  progress: Callable[[int], object] | None = None,
                  threads: int = 2) -> list[PictureFacts]:
    """Facts of every picture, in the order of ``ids``; broken ones have `PictureFacts.error` set.

    A cache that is damaged is made anew; one that can't be read or written is done without.
    Errors are never kept: what was broken is tried again.

    Args:
        source: Where the pictures are.
        ids: Their names.
        cache: A folder; keeps facts by source, name, size, time of change and decoders' versions.
        progress: Called with the number done.
        threads: Pictures decoded at a time; decoders release the interpreter's lock.
    """
    stamps = [_stamp(source, i) for i in ids]
    store = _kept(cache)
    known = _load(store, source.name)
    found = {i: known[_key(ids[i], stamp)] for i, stamp in enumerate(stamps)
             if stamp is not None and _key(ids[i], stamp) in known}
    missing = [i for i in range(len(ids)) if i not in found]
    for start in range(0, len(missing), _SAVE_EVERY):
        part = missing[start:start + _SAVE_EVERY]
        for index, facts in _decode(source, [(i, ids[i]) for i in part], threads):
            found[index] = facts
            if progress is not None:
                progress(len(found))
        _store(store, source.name, [
            (_key(ids[i], stamp), found[i]) for i in part
            if (stamp := stamps[i]) is not None and found[i].error is None])
    if progress is not None:
        progress(len(found))
    return [found[i] for i in range(len(ids))]


def _decode(source: PictureSource, wanted: list[tuple[int, str]],
            threads: int) -> Iterator[tuple[int, PictureFacts]]:
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(lambda each: (each[0], _facts(source, each[1])), wanted)
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption doesn't wait for all the others


def _stamp(source: PictureSource, name: str) -> Stamp | None:
    try:
        return source.stamp(name)
    except OSError:
        return None


def _facts(source: PictureSource, name: str) -> PictureFacts:
    if not _is_text(name):
        return PictureFacts(error="the name is not valid UTF-8; rename the file or its folder")
    try:
        content = source.raw(name)
        decoded = source.read(name)
    except UnreadableImage as error:
        return PictureFacts(error=str(error).removeprefix(f"{name}: "))
    except OSError as error:
        return PictureFacts(error=error.strerror or str(error))
    pixels = decoded.pixels
    if pixels.size == 0:
        return PictureFacts(error=f"no pixels: the shape is {pixels.shape}")
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        return PictureFacts(error="NaN or infinite pixels")
    height, width, channels = pixels.shape
    return PictureFacts(height, width, channels, str(pixels.dtype), decoded.mode,
                        content_hash(content),
                        _pixel_hash(pixels), low, high, decoded.notes,
                        glance=glance_at(name, content, pixels))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def content_hash(content: bytes) -> str:
    """BLAKE2b, 128 bits, of a file's bytes, in hexadecimal: `PictureFacts.byte_hash`."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _pixel_hash(pixels: npt.NDArray[Any]) -> str:
    if pixels.shape[-1] == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    head = f"{pixels.shape}{pixels.dtype}".encode()
    return content_hash(head + np.ascontiguousarray(pixels).tobytes())


def duplicate_groups(facts: Sequence[PictureFacts]) -> list[list[int]]:
    """Indices of pictures that are identical in bytes or in pixels, in groups of two or more."""
    by_hash: dict[str, list[int]] = {}
    for index, fact in enumerate(facts):
        if fact.error is None:
            by_hash.setdefault(f"b{fact.byte_hash}", []).append(index)
            by_hash.setdefault(f"p{fact.pixel_hash}", []).append(index)
    return [group for group in joined(len(facts), by_hash.values()) if len(group) > 1]


def _key(name: str, stamp: Stamp) -> _Key:
    return os.fsencode(name), *stamp  # file names need not be valid text


def decoder_versions() -> str:
    """The libraries that decide about pixels: they may change them between versions."""
    libraries = ("pillow", "tifffile", "imagecodecs", "opencv-python-headless", "simplejpeg")
    return " ".join(_version(each) for each in libraries)


def _version(library: str) -> str:
    """As its metadata say; another build of a library (opencv-python) has another name."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"


def _edition() -> str:
    """What the facts depend on beside the file."""
    return f"{_FORMAT} {decoder_versions()}"


def _kept(cache: Path | None) -> RowStore:
    return RowStore(cache, "pictures.sqlite", "facts",
                    "source BLOB, name BLOB, size INTEGER, time INTEGER, edition TEXT, facts TEXT, "
                    "PRIMARY KEY (source, name)")


def _load(store: RowStore, source: str) -> dict[_Key, PictureFacts]:
    rows = store.select("name, size, time, facts", source=os.fsencode(source), edition=_edition())
    try:
        return {(name, size, time): _parse(text) for name, size, time, text in rows}
    except (ValueError, TypeError, KeyError):
        return {}


def _parse(text: str) -> PictureFacts:
    values = parse_json(text)
    return PictureFacts(**values | {"notes": tuple(values["notes"]),
                                    "glance": parse_glance(values["glance"])})


def _plain(facts: PictureFacts) -> dict[str, Any]:
    return asdict(facts) | {"glance": facts.glance and astuple(facts.glance)}


def _store(store: RowStore, source: str, rows: list[tuple[_Key, PictureFacts]]) -> None:
    edition = _edition()  # slow: not for every row
    store.add([(os.fsencode(source), *key, edition, json.dumps(_plain(facts)))
               for key, facts in rows])
