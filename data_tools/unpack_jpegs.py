"""Unpack a file of JPEG pictures with labels into folders: PART/CLASS/NUMBER.jpg.

python data_tools/unpack_jpegs.py FILE.npz DIR [--part train|test] [--per-class N]

FILE holds ``jpeg`` (all bytes), ``offsets`` (N + 1), ``labels`` (N), ``class_names`` and, where it
has parts, ``is_test`` (N). Bytes are written as they are. Exit codes: 0 done, 1 the folder can't be
written, 2 bad input.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from finetune.console import fail, say
from finetune.errors import InputError

NEEDED = ("jpeg", "offsets", "labels", "class_names")


def main(arguments: list[str] | None = None) -> int:
    """Run and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", choices=["train", "test"], help="only this part")
    parser.add_argument("--per-class", type=int, help="at most so many of a class and part")
    given = parser.parse_args(arguments)
    try:
        count = unpack(read(given.file), given.folder, part=given.part, per_class=given.per_class)
    except InputError as error:
        fail(str(error))
        return error.exit_code
    except OSError as error:
        fail(f"{given.folder} can't be written: {error.strerror or error}")
        return 1
    say(f"wrote {count} pictures to {given.folder}")
    return 0


def read(path: Path) -> dict[str, Any]:
    """The file's arrays.

    Raises:
        InputError: It isn't such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} can't be read as .npz: {error}") from error
    missing = [name for name in NEEDED if name not in arrays]
    if missing:
        raise InputError(f"{path} has no {', '.join(missing)}; expected {', '.join(NEEDED)}")
    return arrays


def unpack(arrays: dict[str, Any], folder: Path, *, part: str | None, per_class: int | None) -> int:
    """Write the pictures, all or none; return their number.

    Raises:
        InputError: The folder exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists; choose another name or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as unfinished:
        inside = Path(unfinished) / "pictures"
        inside.mkdir()
        count = _write(arrays, inside, part, per_class)
        inside.rename(folder)
    return count


def _write(arrays: dict[str, Any], folder: Path, part: str | None, per_class: int | None) -> int:
    names, labels, offsets = arrays["class_names"], arrays["labels"], arrays["offsets"]
    is_test = arrays.get("is_test", np.zeros(len(labels), dtype=bool))
    done: Counter[tuple[str, str]] = Counter()
    for i, label in enumerate(labels):
        place = ("test" if is_test[i] else "train", str(names[label]))
        if part in (None, place[0]) and (per_class is None or done[place] < per_class):
            target = folder.joinpath(*place, f"{i:05d}.jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(arrays["jpeg"][offsets[i]:offsets[i + 1]].tobytes())
            done[place] += 1
    return done.total()


if __name__ == "__main__":
    sys.exit(main())
