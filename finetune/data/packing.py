"""Pictures as training reads them, in one memory-mapped file: decoded and shrunk once.

Shrinking leaves every side as large as the transform needs (`Transform.at_least`), so that the
parts that augmentation takes are never enlarged. `ShrunkSource` shrinks at each reading,
`PackedSource` gives the same pixels from the file; which one a run uses changes its speed alone.

The file's layout is in `finetune.data.pack_files`.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.decoding import Decoded, conform, resize_image
from finetune.data.pack_files import is_whole, read_end, write_pack
from finetune.data.samples import PictureSource
from finetune.data.scanning import PictureFacts, decoder_versions
from finetune.specs import Decoding, Dtype, Resize

__all__ = ["PackForm", "PackPlan", "PackedSource", "ShrunkSource", "open_pack", "plan_pack",
           "shrunk_shape"]

Pixels = npt.NDArray[Any]

_FORMAT = 1  # of what is kept; a new one makes old packs void
_TOGETHER = 64  # pictures decoded before they are written: bounds the memory
_GAIN = 4.0  # pixels decoded for each pixel kept from which a pack is worth its place
_EPOCHS = 3  # building takes about as long as one epoch's reading
_ROOM = 2  # free bytes for each byte of a pack


@dataclass(frozen=True)
class PackForm:
    """What is kept of each picture.

    Attributes:
        at_least: Height and width below which no side is shrunk; None keeps pictures whole.
        channels: Number of channels.
        dtype: Number type.
        interpolation: The filter that shrinks.
        decoding: How large JPEG is decoded before.
    """

    at_least: tuple[int, int] | None
    channels: int
    dtype: Dtype
    interpolation: str = "bilinear"
    decoding: Decoding = Decoding.scaled

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a picture is kept with."""
        return (height, width) if self.at_least is None else shrunk_shape((height, width),
                                                                          self.at_least)


def shrunk_shape(shape: tuple[int, int], at_least: tuple[int, int]) -> tuple[int, int]:
    """The smallest shape of the same aspect ratio with both sides ``at_least``; never enlarged.

    >>> shrunk_shape((1000, 2000), (400, 400)), shrunk_shape((300, 2000), (400, 400))
    ((400, 800), (300, 2000))
    """
    ratio = max(at_least[0] / shape[0], at_least[1] / shape[1])
    if ratio >= 1:
        return shape
    return (max(at_least[0], round(shape[0] * ratio)), max(at_least[1], round(shape[1] * ratio)))


@dataclass(frozen=True)
class ShrunkSource:
    """Pictures of another source, brought to a `PackForm` at each reading."""

    source: PictureSource
    form: PackForm

    @property
    def name(self) -> str:
        """The other source's."""
        return self.source.name

    def read(self, sample_id: str, at_least: tuple[int, int] | None = None) -> Decoded:
        """The picture as it is kept; ``at_least`` changes nothing."""
        form = self.form
        scaled = form.decoding is Decoding.scaled and form.dtype is Dtype.uint8
        wanted = {"at_least": form.at_least} if scaled and form.at_least else {}
        found = self.source.read(sample_id, **wanted)
        pixels = conform(found.pixels, channels=form.channels, dtype=form.dtype)
        shrunk = resize_image(pixels, form.shape(*pixels.shape[:2]), resize=Resize.squash,
                              interpolation=form.interpolation)
        return Decoded(np.ascontiguousarray(shrunk), found.mode, found.notes)

    def raw(self, sample_id: str) -> bytes:
        """The bytes as stored."""
        return self.source.raw(sample_id)

    def stamp(self, sample_id: str) -> tuple[int, int]:
        """Size in bytes and time of the last change in nanoseconds."""
        return self.source.stamp(sample_id)


class PackedSource:
    """A `ShrunkSource` whose pictures are kept in a pack; can be sent to worker processes.

    Each picture's checksum is compared when it is read first. A damaged one is shrunk anew, and the
    file is removed, so that the next run writes another.
    """

    def __init__(self, shrunk: ShrunkSource, ids: Sequence[str], path: Path) -> None:
        self.shrunk, self.path, self.name = shrunk, path, shrunk.name
        self._places = {name: place for place, name in enumerate(ids)}
        self._table = read_end(path)[0]
        self._seen = np.zeros(len(self._table), bool)
        self._bytes = _mapped(path)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_bytes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_bytes": _mapped(state["path"])}

    def read(self, sample_id: str, at_least: tuple[int, int] | None = None) -> Decoded:
        """The picture as it is kept, not writable; ``at_least`` changes nothing."""
        place = self._places.get(sample_id)
        if place is None or self._bytes is None:
            return self.shrunk.read(sample_id)
        offset, height, width, checksum = (int(v) for v in self._table[place])
        form = self.shrunk.form
        shape, kind = (height, width, form.channels), np.dtype(form.dtype.value)
        stored = self._bytes[offset:offset + height * width * form.channels * kind.itemsize]
        if not self._seen[place]:
            if zlib.crc32(stored.data) != checksum:
                self.path.unlink(missing_ok=True)
                return self.shrunk.read(sample_id)
            self._seen[place] = True
        return Decoded(stored.view(kind).reshape(shape), "packed")

    def raw(self, sample_id: str) -> bytes:
        """The bytes as stored in the data set."""
        return self.shrunk.raw(sample_id)

    def stamp(self, sample_id: str) -> tuple[int, int]:
        """Size in bytes and time of the last change in nanoseconds, of the data set's file."""
        return self.shrunk.stamp(sample_id)


def _mapped(path: Path) -> Pixels | None:
    try:
        return np.asarray(np.memmap(path, np.uint8, mode="r"))
    except OSError:  # removed meanwhile
        return None


@dataclass(frozen=True)
class PackPlan:
    """Whether training reads shrunk pictures, and where they are kept.

    Attributes:
        shrink: Whether training reads them shrunk. Follows from data and settings alone, so that
            a full disk changes the speed and not the result.
        path: The pack's file; None when nothing is kept.
        size: Bytes of the pack.
        reason: A sentence for people; empty where packing is off.
    """

    shrink: bool = False
    path: Path | None = None
    size: int = 0
    reason: str = ""


def plan_pack(choice: str, *, facts: Sequence[PictureFacts], form: PackForm, epochs: int,
              folder: Path) -> PackPlan:
    """Whether the pictures of the training part are packed; nothing is written.

    ``auto`` packs when pictures have at least 4 times the pixels that are kept, for at least 3
    epochs. Either way twice the pack's size has to be free, else pictures are shrunk at each
    reading.

    Args:
        choice: ``auto``, ``always`` or ``never``.
        facts: Of the training part's pictures, in its order.
        form: What would be kept.
        epochs: Of the training.
        folder: Of the packs.
    """
    if choice == "never" or not facts:
        return PackPlan()
    kept = [form.shape(fact.height, fact.width) for fact in facts]
    pixels = sum(height * width for height, width in kept)
    gain = sum(fact.height * fact.width for fact in facts) / max(pixels, 1)
    size = pixels * form.channels * np.dtype(form.dtype.value).itemsize
    if choice == "auto" and (against := _against(form, gain, epochs)):
        return PackPlan(size=size, reason=f"pictures are not packed: {against}")
    return _with_room(folder / f"{_key(facts, form)}.pack", size, gain)


def _against(form: PackForm, gain: float, epochs: int) -> str | None:
    """Why ``auto`` doesn't pack."""
    if form.at_least is None:
        return "this data.transform gets whole pictures"
    if gain < _GAIN:
        return (f"they have {gain:.1f} times the pixels that training needs; from {_GAIN:g} times "
                "a pack is worth its place")
    if epochs < _EPOCHS:
        return f"writing the pack takes longer than {epochs} epochs save"
    return None


def _with_room(path: Path, size: int, gain: float) -> PackPlan:
    told = f"{_bytes(size)} in {path}, {gain:.1f} times fewer pixels to read"
    if path.exists():
        return PackPlan(True, path, size, f"pictures were packed before: {told}")
    there = next(p for p in (path, *path.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if free < _ROOM * size:
        return PackPlan(True, None, size, f"pictures are not packed, there is no room: a pack of "
                        f"{_bytes(size)} wants {_bytes(_ROOM * size)} free, {there} has "
                        f"{_bytes(free)}; training reads the files, more slowly")
    return PackPlan(True, path, size, f"pictures are packed once: {told}")


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _key(facts: Sequence[PictureFacts], form: PackForm) -> str:
    """A name that no other pictures, form or decoders have."""
    content = [_FORMAT, asdict(form), decoder_versions(),
               [(fact.byte_hash, fact.height, fact.width) for fact in facts]]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def open_pack(plan: PackPlan, source: PictureSource, ids: Sequence[str], form: PackForm, *,
              progress: Callable[[int], object] | None = None) -> tuple[PictureSource, str]:
    """The source that training reads, and what is to be said if that differs from the plan.

    A pack that is there and whole is used; one that is damaged, or of other pictures, is written
    anew. When the disk fills up while it is written, the pictures are read from ``source``.

    Args:
        plan: From `plan_pack`.
        source: Where the pictures are.
        ids: The training part's, in its order.
        form: As in the plan.
        progress: Called with the number of pictures packed.
    """
    if not plan.shrink:
        return source, ""
    shrunk = ShrunkSource(source, form)
    if plan.path is None:
        return shrunk, ""
    told = ""
    try:
        if not is_whole(plan.path, len(ids)):
            told = f"{plan.path} was damaged and is written anew" if plan.path.exists() else ""
            write_pack(plan.path, _all_shrunk(shrunk, ids, progress), len(ids),
                       asdict(form) | {"key": plan.path.stem})
        return PackedSource(shrunk, ids, plan.path), told
    except OSError as error:
        return shrunk, (f"pictures are not packed: {plan.path}: {error.strerror or error}; "
                        "training reads the files, more slowly")


def _all_shrunk(shrunk: ShrunkSource, ids: Sequence[str],
                progress: Callable[[int], object] | None) -> Iterator[Pixels]:
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(ids), _TOGETHER):
            found = pool.map(shrunk.read, ids[start:start + _TOGETHER])
            yield from (decoded.pixels for decoded in found)
            if progress is not None:
                progress(min(start + _TOGETHER, len(ids)))
