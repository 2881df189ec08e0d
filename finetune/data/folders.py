"""Class folders, the split folders around them, and what wraps those."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

from finetune.data.decoding import is_picture
from finetune.data.samples import FolderSource, Samples, single_label
from finetune.errors import DataError, first_of

__all__ = ["has_folders", "is_loop", "part_name", "picture_files", "read_folders",
           "visible_files", "visible_folders"]

_PARTS = {"train": "train", "training": "train", "trn": "train", "val": "val", "valid": "val",
          "validation": "val", "dev": "val", "test": "test", "testing": "test", "tst": "test"}
_FILLERS = {"set", "data", "dataset", "images", "image", "imgs", "img", "split", "pictures"}

Row = tuple[str, str, str]  # path relative to the root, class, part


def part_name(text: str) -> str | None:
    """``train``, ``val`` or ``test`` for any usual spelling, else None.

    >>> part_name("Training_Set"), part_name("testset"), part_name("train_station")
    ('train', 'test', None)
    """
    words = [w for w in re.split(r"[\W_]+", text.lower()) if w and w not in _FILLERS]
    return _PARTS.get(words[0].removesuffix("set")) if len(words) == 1 else None


def read_folders(root: Path) -> Samples:
    """Class folders, possibly below split folders and single wrapping folders.

    Raises:
        DataError: No folder, no pictures, an empty class, or only one class.
    """
    if not root.is_dir():
        raise DataError(f"data.root={root} is no folder")
    base, folders = _descend(root)
    parts, others = _split_folders(folders)
    places = {f: _unwrapped(f) for f in parts} or {base: base}
    loose = [p for place in {base, *places.values()} for p in _loose(place)]
    rows, empty, skipped = list[Row](), list[str](), list[str]()
    for folder, place in places.items():
        found, none, other = _class_rows(root, _visible_folders(place), parts.get(folder, ""))
        rows, empty, skipped = rows + found, empty + none, skipped + other
    _refuse_empty(base, rows, empty, loose)
    rows.sort()
    warnings = _told(root, rows, loose, others)
    if skipped:
        kinds = sorted({os.path.splitext(f)[1].lower() or "no extension" for f in skipped})
        warnings.insert(0, f"{len(skipped)} files that are no pictures were skipped "
                           f"({first_of(kinds)})")
    given = [part for _, _, part in rows if part]
    return single_label([i for i, _, _ in rows], [c for _, c, _ in rows],
                        source=FolderSource(str(root)), given=given or None, warnings=warnings)


def _refuse_empty(base: Path, rows: list[Row], empty: list[str], loose: list[str]) -> None:
    if not rows:
        found = (f"{len(loose)} pictures are there, but in no class folder: "
                 f"{first_of(sorted(loose), count=2)}. " if loose else "")
        raise DataError(f"no pictures in class folders in {base}. {found}Expected one folder for "
                        "each class with pictures in it (or train/val/test folders of those), or "
                        "as data.root a CSV or an .npz file")
    if empty:
        raise DataError(f"class folders without pictures: {first_of(sorted(empty))}; remove them "
                        "or fill them")


def _told(root: Path, rows: list[Row], loose: list[str], others: list[Path]) -> list[str]:
    told = []
    if loose:
        names = sorted(os.path.relpath(path, root) for path in loose)
        told.append(f"{len(loose)} pictures outside any class folder were skipped: "
                    f"{first_of(names, count=2)}")
    if others:
        names = [f.relative_to(root).as_posix() for f in others]
        told.append(f"folders beside train, val and test were skipped: {first_of(names)}")
    below = [(path.rsplit("/", 2)[-2], name) for path, name, _ in rows]
    if all(inner != name for inner, name in below):
        inner, outer = (list(dict.fromkeys(names)) for names in zip(*below, strict=True))
        told.append(
            f"all pictures lie in folders below the classes {first_of(outer, count=3)}; the lower "
            f"names ({first_of(inner, count=3)}) are not used: if those are the classes, give the "
            "folder above them as data.root; if they are patients or regions, name them with "
            "data.group_from=REGEX")
    return told


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _loose(folder: Path) -> list[str]:
    return [e.path for e in _entries(folder)
            if is_picture(e.name) and not e.name.startswith(".") and not os.path.isdir(e.path)]


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(Path(e.path) for e in _entries(folder)
                  if os.path.isdir(e.path) and _is_visible(e.name) and not is_loop(e.path))


def has_folders(root: Path) -> bool:
    """Whether there are folders that could be classes."""
    return bool(_visible_folders(root))


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def is_loop(path: str) -> bool:
    """Whether a link leads to a folder that it lies in."""
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    return Path(os.path.realpath(os.path.dirname(path))).is_relative_to(
        target)


def _descend(root: Path) -> tuple[Path, list[Path]]:
    base, folders = root, _visible_folders(root)
    for _ in range(8):
        deeper = [f for f in folders if _visible_folders(f)]
        if len(folders) != 1 or not deeper or _loose(folders[0]):
            break
        base, folders = folders[0], _visible_folders(folders[0])
    return base, folders


def _split_folders(folders: Sequence[Path]) -> tuple[dict[Path, str], list[Path]]:
    """The folders that are parts, and those beside them; nothing where folders are classes."""
    starts = {re.split("[-_ ]", f.name)[0] for f in folders}
    shared = starts.pop() if len(starts) == 1 and len(folders) > 1 else ""  # seg_train, seg_test
    named = {f: part_name(f.name) or part_name(f.name.removeprefix(shared)) for f in folders}
    parts = {f: part for f, part in named.items() if part}
    if len(parts) < len(folders) and not {"train"} < set(parts.values()):
        return {}, []
    return parts, [f for f in folders if f not in parts]


def _unwrapped(part: Path) -> Path:
    """A part that an archive wrapped in a folder of the same name: train/train/CLASS."""
    inner = _visible_folders(part)
    alike = {f.name.lower() for f in inner} == {part.name.lower()} or (
        {part_name(f.name) for f in inner} == {part_name(part.name)} != {None})
    return inner[0] if len(inner) == 1 and alike else part


def _class_rows(root: Path, folders: list[Path], part: str,
                ) -> tuple[list[Row], list[str], list[str]]:
    rows, empty, skipped = [], [], list[str]()
    for folder in folders:
        files = list(visible_files(folder))
        pictures = [f for f in files if is_picture(f)]
        skipped += [f for f in files if not is_picture(f)]
        name = normalize("NFC", folder.name)  # archives from macOS write umlauts as two characters
        rows += [(Path(f).relative_to(root).as_posix(), name, part) for f in pictures]
        if not pictures:
            empty.append(folder.relative_to(root).as_posix())
    return rows, empty, skipped


def visible_files(folder: Path) -> Iterator[str]:
    """Paths of all visible files below a folder, sorted; links are followed, loops are not."""
    for here, files in _walked(folder):
        yield from (os.path.join(here, f) for f in sorted(files) if not f.startswith("."))


def visible_folders(folder: str) -> Iterator[str]:
    """A folder and all visible ones below it, sorted; links are followed, loops are not."""
    return (here for here, _ in _walked(folder))


def _walked(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Each visible folder once, and the names of its files."""
    seen = set[str]()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders
                            if _is_visible(f) and not is_loop(os.path.join(here, f)))
        yield str(here), files


def picture_files(folder: Path) -> list[str]:
    """Paths of all visible pictures below a folder, relative to it, with ``/``."""
    return [Path(f).relative_to(folder).as_posix() for f in visible_files(folder) if is_picture(f)]
