"""Files that are whole or not there: write to a temporary name, flush, rename."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["hash_file", "parse_json", "plain_cell", "read_json", "safe_cell", "write_bytes",
           "write_json", "write_text", "write_with"]

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")  # how they begin, in some spreadsheet


def write_with(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Write a file through ``write(stream)`` so that ``path`` is never seen half-written.

    The bytes reach the disk before the rename. On any failure, the old file stays as it was
    and the temporary one is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> Path:
    """Write bytes atomically."""
    return write_with(path, lambda stream: stream.write(content))


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """Write a value as indented, standard JSON (no NaN) atomically."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(text: str | bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: It is none, or is nested so deeply that reading it ends the stack.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        OSError: It can't be read.
        ValueError: As `parse_json`.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def safe_cell(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula; numbers stay as they are.

    An apostrophe leads where text could be one; `plain_cell` is the inverse.

    >>> safe_cell("=1+1"), safe_cell("a=1"), safe_cell("-0.5"), safe_cell("'=1"), safe_cell(-1)
    ("'=1+1", 'a=1', '-0.5', "''=1", -1)
    """
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def plain_cell(text: str) -> str:
    """The text that `safe_cell` was given.

    >>> plain_cell("'=1+1"), plain_cell("''=1"), plain_cell("'a'")
    ('=1+1', "'=1", "'a'")
    """
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(text: str) -> bool:
    bare = text.lstrip("'")
    if not bare.startswith(FORMULAS):
        return False
    try:
        float(bare)
    except ValueError:
        return True
    return "_" in bare


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
