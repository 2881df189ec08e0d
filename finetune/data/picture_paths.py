"""From the names in a table to the files they mean."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

from finetune.data.decoding import is_picture
from finetune.data.folders import picture_files
from finetune.errors import DataError, closest, first_of

__all__ = ["found_pictures", "near_folder"]


def near_folder(path: Path) -> str:
    """A hint at names beside a path that does not exist."""
    parent = path.parent
    names = os.listdir(parent) if parent.is_dir() else []
    near = closest(path.name, names)
    return f" (did you mean {parent / near[0]}?)" if near else ""


def found_pictures(names: Sequence[str], base: Path, file: str) -> tuple[list[str], list[str]]:
    """Paths relative to ``base``, with ``/``, of the pictures that a table names; and notes.

    A path is taken as it is. What doesn't exist and has no folder or no extension (an image id)
    is looked for below ``base``, where it must be unique.

    Raises:
        DataError: Pictures outside ``base``, missing, ambiguous, or listed twice.
    """
    plain = [_relative(name.strip(), base) for name in names]
    missing = [i for i, path in enumerate(plain)
               if path is not None and not os.path.isfile(base / path)]
    candidates = _candidates([plain[i] or "" for i in missing], base) if missing else {}
    paths, notes = list(plain), list[str]()
    for i in missing:
        several = candidates.get(normalize("NFC", plain[i] or ""), [])
        paths[i] = several[0] if len(several) == 1 else ""
    _check(names, plain, paths, candidates, base, file)
    if missing:
        first = [f"{plain[i]} is {paths[i]}" for i in missing]
        notes = [f"{len(missing)} pictures of {file} were found by their names: "
                 f"{first_of(first, count=2)}"]
    return [path or "" for path in paths], notes


def _relative(name: str, base: Path) -> str | None:
    """The normal form of a path below ``base``; None for others. Links are not resolved."""
    text = name if "\\" not in name or (base / name).exists() else name.replace("\\", "/")
    for home in (os.path.abspath(base), os.path.realpath(base)):
        whole = os.path.normpath(os.path.join(home, text))
        if Path(whole).is_relative_to(home):
            return Path(whole).relative_to(home).as_posix() if name else ""
    return None


def _candidates(wanted: Sequence[str], base: Path) -> dict[str, list[str]]:
    """Pictures below ``base`` by path and by name, with extension and without, in Unicode's NFC."""
    keys, found = {normalize("NFC", w) for w in wanted}, dict[str, list[str]]()
    for path in picture_files(base):
        whole = normalize("NFC", path)
        name = whole.rsplit("/", 1)[-1]
        for key in {whole, name, *(os.path.splitext(each)[0] for each in (whole, name))} & keys:
            found.setdefault(key, []).append(path)
    return found


def _check(names: Sequence[str], plain: Sequence[str | None], paths: Sequence[str | None],
           candidates: dict[str, list[str]], base: Path, file: str) -> None:
    lost = [p for p, path in zip(plain, paths, strict=True) if p and path == ""]
    known = {p: candidates.get(normalize("NFC", p), []) for p in lost}
    ambiguous = [f"{p} ({first_of(known[p], count=2)})" for p in lost if known[p]]
    absent = [p for p in lost if not known[p]]
    outside = [n for n, p in zip(names, plain, strict=True) if p is None]
    repeated = [p for p, n in Counter(p for p in paths if p).items() if n > 1]
    empty = sum(not n.strip() for n in names)
    problems = [f"{empty} rows of {file} have no path"] if empty else []
    for found, text in (
            (outside, "lie outside the data's folder"), (absent, "do not exist"),
            (ambiguous, "could be several files"), (repeated, "are listed more than once")):
        if found:
            problems.append(f"{len(found)} pictures of {file} {text}: {first_of(found)}")
    if problems:
        hint = _near(absent, base) if absent else ""
        raise DataError("\n".join([*problems, f"Paths start from {base}{hint}. Correct the file, "
                                   "or remove these rows."]))


def _near(absent: list[str], base: Path) -> str:
    """A hint at the first missing picture's namesake: another folder, case or extension."""
    name = absent[0].rsplit("/", 1)[-1].lower()
    stem = os.path.splitext(name)[0] if is_picture(name) else name
    near = [p for p in picture_files(base)
            if os.path.splitext(p.rsplit("/", 1)[-1].lower())[0] == stem]
    return f" (did you mean {near[0]!r} by {absent[0]!r}?)" if near else ""
