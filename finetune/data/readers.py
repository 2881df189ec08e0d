"""Readers of the formats: class folders, split folders, CSV, ``.npz``."""

import csv
import io
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.decoding import is_picture
from finetune.data.samples import ArraySource, FolderSource, Samples
from finetune.errors import DataError, closest, did_you_mean, first_of
from finetune.specs import LabelKind, LabelSpec

__all__ = ["apply_splits_file", "read_csv", "read_folders", "read_npz", "recognise", "with_groups",
           "with_positive_class"]

_PARTS = {"train": "train", "training": "train", "trn": "train", "val": "val", "valid": "val",
          "validation": "val", "dev": "val", "test": "test", "testing": "test", "tst": "test"}


def recognise(root: Path, wanted: str, labels_file: str | None, columns: Sequence[str]) -> str:
    """``folders``, ``csv`` or ``npz``.

    A folder is taken as CSV when it holds exactly one CSV file, with all of ``columns``.
    """
    if wanted != "auto":
        return wanted
    if root.suffix.lower() == ".npz":
        return "npz"
    if root.is_file() and root.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise DataError(f"data.root={root} is a file of an unknown kind: expected a folder, a "
                        ".csv or an .npz file")
    if root.is_file() or labels_file is not None:
        return "csv"
    tables = _tables(root)
    known = len(tables) == 1 and set(columns) <= set(read_header(tables[0]))
    return "csv" if known else "folders"


def _tables(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries
                      if e.name.lower().endswith((".csv", ".tsv")) and e.is_file())


def read_header(path: Path) -> list[str]:
    """Column names of a CSV file; none when it can't be read."""
    try:
        return read_table(path)[0]
    except DataError:
        return []


def near_folder(path: Path) -> str:
    """A hint at names beside a path that does not exist."""
    parent = path.parent
    names = os.listdir(parent) if parent.is_dir() else []
    near = closest(path.name, names)
    return f" (did you mean {parent / near[0]}?)" if near else ""


def part_name(text: str) -> str | None:
    """``train``, ``val`` or ``test`` for any usual spelling, else None."""
    return _PARTS.get(text.strip().lower())


def read_folders(root: Path) -> Samples:
    """Class folders, possibly below split folders and single wrapping folders."""
    if not root.is_dir():
        raise DataError(f"data.root={root} is no folder")
    base, folders = _descend(root)
    parts = {folder: part_name(folder.name) for folder in folders}
    if folders and all(parts.values()):
        rows, empty, skipped = _split_rows(root, folders)
    else:
        rows, empty, skipped = _class_rows(root, folders, None)
    if not rows:
        raise DataError(f"no pictures in {base}: expected one folder for each class with pictures "
                        "in it (or train/val/test folders of those, a CSV or an .npz file)")
    if empty:
        raise DataError(f"class folders without pictures: {first_of(sorted(empty))}; remove them "
                        "or fill them")
    names = _sorted_names({label for _, label, _ in rows})
    rows.sort()
    loose = sum(e.is_file() and is_picture(e.name) for e in _entries(base))
    warnings = [f"{skipped} files that are no pictures were skipped"] if skipped else []
    warnings += [f"{loose} pictures outside any class folder were skipped"] if loose else []
    given = [part for _, _, part in rows if part]
    return _single([i for i, _, _ in rows], [c for _, c, _ in rows], names,
                   FolderSource(str(root)), given or None, warnings)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(Path(e.path) for e in _entries(folder)
                  if e.is_dir() and not e.name.startswith((".", "__MACOSX")))


def _descend(root: Path) -> tuple[Path, list[Path]]:
    base, folders = root, _visible_folders(root)
    for _ in range(8):
        deeper = [f for f in folders if any(e.is_dir() for e in _entries(f))]
        pictures = any(is_picture(e.name) for f in folders for e in _entries(f))
        if len(folders) != 1 or not deeper or pictures:
            break
        base, folders = folders[0], _visible_folders(folders[0])
    return base, folders


def _split_rows(root: Path, folders: list[Path]) -> tuple[list[tuple[str, str, str]], list[str],
                                                           int]:
    rows, empty, skipped = [], [], 0
    for folder in folders:
        found, none, other = _class_rows(root, _visible_folders(folder), part_name(folder.name))
        rows += found
        empty += none
        skipped += other
    return rows, empty, skipped


def _class_rows(root: Path, folders: list[Path], part: str | None,
                ) -> tuple[list[tuple[str, str, str]], list[str], int]:
    rows, empty, skipped = [], [], 0
    for folder in folders:
        files = list(_files(folder))
        pictures = [f for f in files if is_picture(f)]
        skipped += len(files) - len(pictures)
        rows += [(Path(f).relative_to(root).as_posix(), folder.name, part or "")
                 for f in pictures]
        if not pictures:
            empty.append(folder.relative_to(root).as_posix())
    return rows, empty, skipped


def _files(folder: Path) -> Iterator[str]:
    for here, folders, files in os.walk(folder):  # links to folders are not followed
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        yield from (os.path.join(here, f) for f in sorted(files) if not f.startswith("."))


def _sorted_names(names: set[str]) -> list[str]:
    return sorted(names, key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n))


def _single(ids: list[str], classes: list[str], names: list[str], source: Any,
            given: list[str] | None, warnings: list[str], **more: Any) -> Samples:
    if len(names) < 2:
        raise DataError(f"only one class, {names[0]!r}, was found; a classifier needs two or more")
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[c] for c in classes], dtype=np.int64)
    spec = LabelSpec(LabelKind.single, tuple(names), names[-1] if len(names) == 2 else None)
    return Samples(ids, labels, spec, source, given, warnings=warnings, **more)


def read_csv(root: Path, *, labels_file: str | None, path_column: str, label_column: str,
             label_separator: str | None, split_column: str, group_column: str) -> Samples:
    """A CSV file with a row for each picture."""
    path, base = _csv_path(root, labels_file)
    columns, rows = read_table(path)
    label_columns = [c.strip() for c in label_column.split(",")]
    lacking = [c for c in (path_column, *label_columns) if c not in columns]
    if lacking:
        raise DataError("\n".join(
            f"{path.name} has no column {c!r}{did_you_mean(c, columns)}; it has "
            f"{', '.join(columns)}; name yours with data.path_column= and data.label_column="
            for c in lacking))
    ids = [row[path_column].strip() for row in rows]
    _check_paths(ids, base, path.name)
    special = {path_column, *label_columns, split_column, group_column}
    more: dict[str, Any] = {
        "groups": [row[group_column] for row in rows] if group_column in columns else None,
        "metadata": {c: [row[c] for row in rows] for c in columns if c not in special},
    }
    given = _given_parts([row[split_column] for row in rows], path.name) \
        if split_column in columns else None
    source = FolderSource(str(base))
    if len(label_columns) == 1 and label_separator is None:
        classes = [row[label_columns[0]].strip() for row in rows]
        unknown = [i for i, c in zip(ids, classes, strict=True) if not c]
        if unknown:
            raise DataError(f"{len(unknown)} rows of {path.name} have no label: "
                            f"{first_of(unknown)}; fill them in or remove the rows")
        return _single(ids, classes, _sorted_names(set(classes)), source, given, [], **more)
    names, labels = (_separated(rows, label_columns[0], label_separator) if label_separator
                     else (label_columns, _yes_no(rows, label_columns, path.name)))
    return Samples(ids, labels, LabelSpec(LabelKind.multi, tuple(names)), source, given, **more)


def _csv_path(root: Path, labels_file: str | None) -> tuple[Path, Path]:
    if root.is_file():
        return root, root.parent
    if labels_file is not None:
        path = root / labels_file
        if not path.is_file():
            raise DataError(f"data.labels_file={labels_file} is not in {root}{near_folder(path)}")
        return path, root
    found = _tables(root)
    if len(found) != 1:
        raise DataError(f"{root} holds {len(found)} CSV files: name one with data.labels_file=")
    return found[0], root


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a CSV file; comma, semicolon or tab; UTF-8 with or without mark."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as UTF-8 text: {error}") from error
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restval="")
    rows = [{k: v for k, v in row.items() if k is not None} for row in reader]
    if not rows:
        raise DataError(f"{path} has no rows")
    return list(reader.fieldnames or []), rows


def _check_paths(ids: list[str], base: Path, file: str) -> None:
    home, problems = base.resolve(), []
    outside = [i for i in ids if not (base / i).resolve().is_relative_to(home)]
    absent = [i for i in ids if i not in set(outside) and not (base / i).is_file()]
    repeated = [i for i, count in Counter(ids).items() if count > 1]
    for found, text in ((outside, "lie outside the data's folder"), (absent, "do not exist"),
                        (repeated, "are listed more than once")):
        if found:
            problems.append(f"{len(found)} pictures of {file} {text}: {first_of(found)}")
    if problems:
        raise DataError("\n".join(problems))


def _given_parts(values: list[str], file: str) -> list[str] | None:
    named = [part_name(v) for v in values]
    wrong = sorted({v for v, n in zip(values, named, strict=True) if n is None})
    if wrong:
        raise DataError(f"{file}: unknown parts {first_of([repr(w) for w in wrong])}; expected "
                        "train, val or test in every row")
    return [n for n in named if n]


def _separated(rows: list[dict[str, str]], column: str, separator: str | None,
               ) -> tuple[list[str], npt.NDArray[Any]]:
    sets = [{p.strip() for p in row[column].split(separator) if p.strip()} for row in rows]
    names = _sorted_names(set().union(*sets))
    if len(names) < 2:
        raise DataError(f"column {column!r} holds fewer than two labels in all")
    return names, np.array([[n in s for n in names] for s in sets], dtype=np.float32)


def _yes_no(rows: list[dict[str, str]], columns: list[str], file: str) -> npt.NDArray[Any]:
    meaning = {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0,
               "no": 0.0, "": np.nan, "nan": np.nan, "?": np.nan, "-1": np.nan, "-1.0": np.nan}
    wrong = sorted({row[c] for row in rows for c in columns if row[c].strip().lower()
                    not in meaning})
    if wrong:
        raise DataError(f"{file}: {first_of([repr(w) for w in wrong])} in a label column; expected "
                        "0, 1, or nothing for unknown")
    return np.array([[meaning[row[c].strip().lower()] for c in columns] for row in rows],
                    dtype=np.float32)


def read_npz(path: Path) -> Samples:
    """MedMNIST's layout (``train_images``, ``train_labels`` …), or ``images`` and ``labels``."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} can't be read as .npz: {error}") from error
    parts = [p for p in ("train", "val", "test") if f"{p}_images" in arrays]
    pairs = [(p, arrays[f"{p}_images"], arrays.get(f"{p}_labels")) for p in parts] or [
        ("images", arrays.get("images"), arrays.get("labels"))]
    for name, images, labels in pairs:
        if images is None or labels is None or len(images) != len(labels) or images.ndim not in (
                3, 4):
            raise DataError(f"{path}: expected {name}_images (N, H, W[, C]) and as many "
                            f"{name}_labels; it holds {', '.join(arrays) or 'nothing'}")
    ids = [f"{name}/{i:06d}" for name, images, _ in pairs for i in range(len(images))]
    labels = np.concatenate([np.asarray(values) for _, _, values in pairs])
    given = [name for name, images, _ in pairs for _ in range(len(images))] if parts else None
    source = ArraySource(str(path), {name: _supported(i, path) for name, i, _ in pairs})
    listed = [str(n) for n in arrays.get("class_names", np.array([]))]
    if labels.ndim == 2 and labels.shape[1] > 1:
        names = listed or [f"label_{i}" for i in range(labels.shape[1])]
        spec = LabelSpec(LabelKind.multi, tuple(names))
        return Samples(ids, labels.astype(np.float32), spec, source, given)
    flat = [str(v) for v in labels.reshape(-1)]
    if listed:
        flat = [listed[int(v)] for v in flat]
    return _single(ids, flat, listed or _sorted_names(set(flat)), source, given, [])


def _supported(images: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    if images.dtype in (np.uint8, np.uint16, np.float32):
        return images
    if images.dtype.kind == "f":
        return images.astype(np.float32)
    raise DataError(f"{path}: pictures of type {images.dtype}; expected uint8, uint16 or float32")


def with_positive_class(samples: Samples, name: str | None) -> Samples:
    """The samples with the positive class of two named."""
    if name is None:
        return samples
    spec = samples.label_spec
    if name not in spec.class_names or not spec.is_binary:
        raise DataError(f"data.positive_class={name}{did_you_mean(name, spec.class_names)}: "
                        f"expected one of exactly two classes; there are "
                        f"{first_of(spec.class_names, count=10)}")
    return replace(samples, label_spec=replace(spec, positive_class=name))


def with_groups(samples: Samples, pattern: str) -> Samples:
    """The samples with groups read from their paths."""
    try:
        found = [re.search(pattern, i) for i in samples.ids]
    except re.error as error:
        raise DataError(f"data.group_from={pattern} is no regular expression: {error}") from error
    missing = [i for i, m in zip(samples.ids, found, strict=True) if m is None]
    if missing:
        raise DataError(f"data.group_from={pattern} matches nothing in {len(missing)} of "
                        f"{len(found)} paths: {first_of(missing)}")
    groups = [m[1] if m.re.groups else m[0] for m in found if m]
    return replace(samples, groups=groups)


def apply_splits_file(samples: Samples, path: Path) -> tuple[Samples, list[str]]:
    """The samples that a splits file lists; see `finetune.data.samples.read_splits_file`."""
    if not path.is_file():
        raise DataError(f"data.splits_file={path} does not exist{near_folder(path)}")
    columns, rows = read_table(path)
    lacking = [c for c in ("path", "split") if c not in columns]
    if lacking:
        raise DataError(f"{path.name} lacks the columns {', '.join(lacking)}; expected path, "
                        "label, split and optionally group")
    place = {name: i for i, name in enumerate(samples.ids)}
    unknown = [row["path"] for row in rows if row["path"] not in place]
    repeated = [p for p, n in Counter(row["path"] for row in rows).items() if n > 1]
    if unknown or repeated:
        raise DataError(f"{path.name}: {len(unknown)} unknown paths ({first_of(unknown)}), "
                        f"{len(repeated)} listed twice ({first_of(repeated)}); paths are relative "
                        "to data.root")
    chosen = samples.select([place[row["path"]] for row in rows])
    _check_labels(chosen, rows, path.name)
    groups = [r["group"] for r in rows] if any(r.get("group") for r in rows) else chosen.groups
    given = _given_parts([row["split"] for row in rows], path.name)
    left = len(samples) - len(rows)
    notes = [f"{left} pictures that {path.name} doesn't list were left out"] if left else []
    return replace(chosen, given_split=given, groups=groups), notes


def _check_labels(chosen: Samples, rows: list[dict[str, str]], file: str) -> None:
    if chosen.label_spec.kind is not LabelKind.single:
        return
    names = chosen.label_spec.class_names
    wrong = [row["path"] for row, label in zip(rows, chosen.labels, strict=True)
             if row.get("label") and row["label"] != names[label]]
    if wrong:
        raise DataError(f"{file} has other labels than the data for {len(wrong)} pictures: "
                        f"{first_of(wrong)}")
