"""The file of a pack: pictures one after the other, and a table of where they are.

After the pixels come a table (N, 4) int64 of offset, height, width and checksum, a description in
JSON, and at the very end the lengths of both and a mark. It is written under another name first, so
that what has its name is whole.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from finetune.files import parse_json, write_with

__all__ = ["Pack", "clear_packs", "is_whole", "list_packs", "read_end", "write_pack"]

Pixels = npt.NDArray[Any]

_MARK = b"finetune pack\0\0\0"
_END = struct.Struct("<qq16s")  # bytes of the table, bytes of the description, mark


def write_pack(path: Path, pictures: Iterable[Pixels], count: int,
               about: Mapping[str, Any]) -> None:
    """Write ``count`` pictures (H, W, C), whole or not at all; ``about`` describes them."""
    def write(stream: BinaryIO) -> None:
        table = np.zeros((count, 4), np.int64)
        for place, pixels in enumerate(pictures):
            table[place] = _append(stream, pixels)
        rows = table.tobytes()
        told = json.dumps({**about, "pictures": count, "table": zlib.crc32(rows)}).encode()
        stream.write(rows + told + _END.pack(len(rows), len(told), _MARK))

    write_with(path, write)


def _append(stream: BinaryIO, pixels: Pixels) -> tuple[int, int, int, int]:
    stream.write(b"\0" * (-stream.tell() % 64))  # every number type begins where it may
    offset = stream.tell()
    stream.write(pixels.data)
    return offset, pixels.shape[0], pixels.shape[1], zlib.crc32(pixels.data)


def is_whole(path: Path, count: int) -> bool:
    """Whether this is a pack of ``count`` pictures with its own name."""
    try:
        table, told = read_end(path)
    except (OSError, ValueError):
        return False
    return told.get("key") == path.stem and len(table) == count


def read_end(path: Path) -> tuple[Pixels, dict[str, Any]]:
    """The table (N, 4) and the description of a pack.

    Raises:
        ValueError: It isn't whole.
    """
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END) - _END.size
        stream.seek(max(0, end))
        last = stream.read()
        if len(last) != _END.size or last[-len(_MARK):] != _MARK:
            raise ValueError(f"{path} is truncated")
        rows, text, _ = _END.unpack(last)
        if rows < 0 or text < 0 or rows + text > end:
            raise ValueError(f"{path} is damaged")
        stream.seek(end - rows - text)
        table, told = stream.read(rows), parse_json(stream.read(text))
    if zlib.crc32(table) != told["table"]:
        raise ValueError(f"{path} is damaged")
    return np.frombuffer(table, np.int64).reshape(-1, 4), told


@dataclass(frozen=True)
class Pack:
    """A pack on disk.

    Attributes:
        path: The file.
        size: In bytes.
        what: What it holds, for people.
    """

    path: Path
    size: int
    what: str


def list_packs(folder: Path) -> list[Pack]:
    """The packs of a folder, and what is left of those whose writing was killed."""
    found = [p for p in (folder.iterdir() if folder.is_dir() else ())
             if p.suffix == ".pack" or ".pack." in p.name]
    return [Pack(path, path.stat().st_size, _described(path)) for path in sorted(found)]


def _described(path: Path) -> str:
    try:
        told = read_end(path)[1]
    except (OSError, ValueError):
        return "damaged or unfinished"
    size = "whole" if told["at_least"] is None else "at least {} x {} px".format(*told["at_least"])
    return f"{told['pictures']} pictures, {size}, {told['channels']} channels, {told['dtype']}"


def clear_packs(folder: Path) -> int:
    """Remove all packs of a folder; the bytes that this frees."""
    packs = list_packs(folder)
    for pack in packs:
        pack.path.unlink(missing_ok=True)
    return sum(pack.size for pack in packs)
