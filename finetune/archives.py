"""Files that are zip archives inside (``.npz``, ``.pt``): looked at before anything is unpacked."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ARCHIVE_ERRORS", "check_stored_only", "read_npz"]

ARCHIVE_ERRORS = (OSError, EOFError, ValueError, MemoryError, RuntimeError, NotImplementedError,
                  SyntaxError, TypeError, LookupError, zipfile.BadZipFile, zlib.error)
"""What Python's and numpy's readers raise on broken archives."""

SMALL = 256 << 20   # bytes unpacked that are never refused
RATIO = 200         # unpacked to packed; pictures and answers stay below 30, a bomb reaches 1,000


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file; objects in it are refused, not loaded.

    Raises:
        ValueError: An array of objects, or one that unpacks to far more than it can be or than the
            memory holds. Others of `ARCHIVE_ERRORS`: it is damaged.
    """
    with path.open("rb") as stream:
        with zipfile.ZipFile(stream) as archive:
            _check_size(archive, path.stat().st_size)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name]) for name in stored.files}


def check_stored_only(path: Path) -> None:
    """Check that a zip file holds nothing packed, as those of ``torch.save``; others pass.

    Raises:
        ValueError: It would unpack to more than the file's size.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(
            entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("it is packed, which torch.save never does")


def _check_size(archive: zipfile.ZipFile, packed: int) -> None:
    whole = sum(max(entry.file_size, _announced(archive, entry)) for entry in archive.infolist())
    if whole <= SMALL:
        return
    if whole > RATIO * packed:
        raise ValueError(f"{packed:,} bytes would unpack to {whole:,}")
    free = _free_memory()
    if free is not None and whole > free:
        raise ValueError(f"it holds {whole / 1e9:.1f} GB of arrays, and {free / 1e9:.1f} GB of "
                         "memory are free")


def _announced(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Bytes of the array that a member's header promises."""
    read: dict[Any, Any] = {(1, 0): np.lib.format.read_array_header_1_0,
                            (2, 0): np.lib.format.read_array_header_2_0}
    if not entry.filename.endswith(".npy"):
        return 0
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in read:
            return 0
        shape, _, kind = read[version](stream)
    count = int(np.prod([int(side) for side in shape], dtype=object)) if shape else 1
    if any(side < 0 for side in shape):
        raise ValueError(f"{entry.filename} has the shape {shape}")
    return count * int(kind.itemsize)


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None
