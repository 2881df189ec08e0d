"""CSV files: labels of pictures, and splits."""

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import numpy.typing as npt

from finetune.data.folders import part_name
from finetune.data.nested_groups import nested_groups
from finetune.data.picture_paths import found_pictures
from finetune.data.samples import FolderSource, Samples, single_label, sorted_names
from finetune.errors import DataError, did_you_mean, first_of
from finetune.files import plain_cell
from finetune.specs import LabelKind, LabelSpec

__all__ = ["apply_splits_file", "read_csv", "read_header", "tables_in"]

Rows = list[dict[str, str]]


def tables_in(folder: Path) -> list[Path]:
    """The CSV and TSV files of a folder, not of those below."""
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if not e.name.startswith(".")
                      and e.name.lower().endswith((".csv", ".tsv")) and e.is_file())


def read_header(path: Path) -> list[str]:
    """Column names of a CSV file; none when it can't be read."""
    try:
        return _table(path)[0]
    except DataError:
        return []


def read_csv(path: Path, base: Path, *, path_column: str, label_column: str,
             label_separator: str | None, split_column: str | None,
             group_column: str | None) -> Samples:
    """A CSV file with a row for each picture.

    Args:
        path: The file.
        base: The folder that paths start from.
        path_column: Of paths; a name without folder or extension is looked for below ``base``.
        label_column: Of labels; several, separated by commas: one yes/no column per class.
        label_separator: Between several labels in one column.
        split_column: Of parts; ``split`` may be absent, others not.
        group_column: Of groups; ``group`` may be absent, others not. Several, separated by commas:
            pictures that share a value of any are one group.

    Raises:
        DataError: Columns, pictures or labels are missing or make no sense.
    """
    columns, rows = _table(path)
    label_columns = [c.strip() for c in label_column.split(",")]
    group_columns = _named(group_column)
    optional = [*(c for c in [split_column] if c and c != "split"),
                *(c for c in group_columns if group_columns != ["group"])]
    _check_columns(path, columns, [path_column, *label_columns, *optional])
    ids, notes = found_pictures([row[path_column] for row in rows], base, path.name)
    groups, told = _groups(rows, group_columns)
    notes += told
    special = {path_column, *label_columns, split_column}
    more: dict[str, Any] = {
        "groups": groups, "warnings": notes,
        "metadata": {c: [row[c] for row in rows] for c in columns if c not in special}}
    given = _given_parts([row[split_column] for row in rows], path.name) \
        if split_column and split_column in columns else None
    source = FolderSource(str(base))
    if len(label_columns) == 1 and label_separator is None:
        classes = _classes(ids, [normalize("NFC", row[label_columns[0]].strip()) for row in rows],
                           path.name)
        more["warnings"] = [*notes, *_lookalikes(classes)]
        return single_label(ids, classes, source=source, given=given, **more)
    names, labels = (_separated(rows, label_columns[0], label_separator) if label_separator
                     else (label_columns, _yes_no(rows, label_columns, path.name)))
    more["warnings"] = [*notes, *_exclusive(labels)]
    return Samples(ids, labels, LabelSpec(LabelKind.multi, tuple(names)), source, given, **more)


def _exclusive(labels: npt.NDArray[Any]) -> list[str]:
    alone = bool((labels.sum(axis=1) == 1).all())  # NaN, unknown, is not 1
    return [f"every picture has exactly one of the {labels.shape[1]} labels, which are trained as "
            "independent; if they exclude each other, give one column with the name of the class"
            ] if alone else []


def _check_columns(path: Path, columns: list[str], wanted: list[str]) -> None:
    problems = [f"{path.name} has no column {c!r}{did_you_mean(c, columns)}; it has "
                f"{', '.join(columns)}; name yours with data.path_column=, data.label_column=, "
                "data.group_column= or data.split_column="
                for c in wanted if c not in columns]
    problems += [f"data.*_column: {c!r} is named {n} times" for c, n in Counter(wanted).items()
                 if n > 1]
    if problems:
        raise DataError("\n".join(problems))


def _table(path: Path) -> tuple[list[str], Rows]:
    """Column names and rows; comma, semicolon or tab; UTF-8 with or without mark."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # names keep their own \r
        first = text.splitlines()[0] if text else ""
        separator = max(",;\t", key=first.count)
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator)
                 if any(value.strip() for value in line)]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8 (in Excel: "
                        "CSV UTF-8)") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} can't be read as a table: {error}") from error
    if len(lines) < 2:
        raise DataError(f"{path} has no rows: expected a line of column names and one for each "
                        "picture")
    columns = [c.strip() for c in lines[0]]
    _check_lines(path, columns, lines, separator)
    return columns, [dict(zip(columns, [*line, *[""] * len(columns)], strict=False))
                     for line in lines[1:]]


def _check_lines(path: Path, columns: list[str], lines: list[list[str]], separator: str) -> None:
    repeated = [repr(c) for c, n in Counter(columns).items() if n > 1 and c]
    if repeated:
        raise DataError(f"{path.name} has several columns named {first_of(repeated)}")
    long = [separator.join(line) for line in lines if len(line) > len(columns)]
    if long:
        raise DataError(f"{len(long)} rows of {path.name} have more values than the "
                        f"{len(columns)} columns {', '.join(columns)}: {first_of(long, count=2)}; "
                        f"write values that hold a {separator!r} in quotes")


def _named(columns: str | None) -> list[str]:
    return [c.strip() for c in (columns or "").split(",") if c.strip()]


def _groups(rows: Rows, columns: Sequence[str]) -> tuple[list[str] | None, list[str]]:
    """The group of each row, None where no row has one, and what has to be said about them."""
    if not columns:
        return None, []
    groups, told = nested_groups({c: [row.get(c, "") for row in rows] for c in columns})
    return (groups, told) if any(groups) else (None, [])


def _classes(ids: list[str], classes: list[str], file: str) -> list[str]:
    """The same, when each row has one.

    ``nan`` is what programs write for a missing value, not a class. "none" and "NA" can be classes.
    """
    unknown = [i for i, c in zip(ids, classes, strict=True) if c.casefold() in ("", "nan")]
    if unknown:
        raise DataError(f"{len(unknown)} rows of {file} have no label (nothing, or nan): "
                        f"{first_of(unknown)}; fill them in or remove the rows")
    return classes


def _lookalikes(classes: Sequence[str]) -> list[str]:
    by_lower: dict[str, set[str]] = {}
    for name in classes:
        by_lower.setdefault(name.casefold(), set()).add(name)
    alike = [" / ".join(sorted(names)) for names in by_lower.values() if len(names) > 1]
    return [f"classes that differ in upper and lower case only: {first_of(alike)}"] if alike else []


def _given_parts(values: list[str], file: str) -> list[str]:
    named = [part_name(v) for v in values]
    wrong = sorted({v for v, n in zip(values, named, strict=True) if n is None})
    if wrong:
        raise DataError(f"{file}: unknown parts {first_of([repr(w) for w in wrong])}; expected "
                        "train, val or test in every row; data.split_column= names another column,"
                        " data.split_column=null ignores it")
    return [n for n in named if n]


def _separated(rows: Rows, column: str, separator: str) -> tuple[list[str], npt.NDArray[Any]]:
    sets = [{p.strip() for p in row[column].split(separator) if p.strip()} for row in rows]
    names = sorted_names(set().union(*sets))
    missing = sum("nan" in {name.casefold() for name in each} for each in sets)
    if missing:
        raise DataError(f"column {column!r} says nan in {missing} rows, which is no label; leave "
                        "it empty where a picture has none of the labels, or remove the rows")
    if len(names) < 2:
        raise DataError(f"column {column!r} holds fewer than two labels in all, separated by "
                        f"{separator!r}: {first_of(names)}")
    return names, np.array([[n in s for n in names] for s in sets], dtype=np.float32)


def _yes_no(rows: Rows, columns: list[str], file: str) -> npt.NDArray[Any]:
    meaning = {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0,
               "no": 0.0, "": np.nan, "nan": np.nan, "?": np.nan, "-1": np.nan, "-1.0": np.nan}
    wrong = sorted({row[c] for row in rows for c in columns if row[c].strip().lower()
                    not in meaning})
    if wrong:
        raise DataError(f"{file}: {first_of([repr(w) for w in wrong])} in a label column; expected "
                        "0, 1, or nothing for unknown")
    return np.array([[meaning[row[c].strip().lower()] for c in columns] for row in rows],
                    dtype=np.float32)


def apply_splits_file(samples: Samples, path: Path) -> tuple[Samples, list[str]]:
    """The samples that a splits file lists; see `finetune.data.samples.read_splits_file`."""
    columns, rows = _table(path)
    lacking = [c for c in ("path", "split") if c not in columns]
    if lacking:
        raise DataError(f"{path.name} lacks the columns {', '.join(lacking)}; expected path, "
                        "label, split and optionally group")
    place = {name: i for i, name in enumerate(samples.ids)}
    rows = [_unescaped(row, place) for row in rows]
    names = [row["path"] if row["path"] in place else
             os.path.normpath(row["path"].strip().replace("\\", "/")) for row in rows]
    _check_listed(names, list(place), path.name)
    left = len(samples) - len(rows)
    notes = [f"{left} pictures that {path.name} doesn't list were left out"] if left else []
    used = [bool(row["split"].strip()) for row in rows]
    if not any(used):
        raise DataError(f"{path.name}: no row has a part; expected train, val or test in split")
    if not all(used):
        notes.append(f"{used.count(False)} pictures without a part in {path.name} were left out")
    rows = [row for row, is_used in zip(rows, used, strict=True) if is_used]
    chosen = samples.select([place[name] for name, is_used in zip(names, used, strict=True)
                             if is_used])
    _check_labels(chosen, rows, path.name)
    given = _given_parts([row["split"] for row in rows], path.name)
    groups, _ = _groups(rows, ["group"])
    return replace(chosen, given_split=given, groups=groups or chosen.groups), notes


def _unescaped(row: dict[str, str], known: Mapping[str, int]) -> dict[str, str]:
    """The row without the apostrophes that `write_splits` puts before what looks like a formula."""
    plain = {key: plain_cell(value) for key, value in row.items()}
    is_other = plain["path"] not in known and row["path"] in known
    return {**plain, "path": row["path"]} if is_other else plain


def _check_listed(names: list[str], known: list[str], file: str) -> None:
    place = set(known)
    unknown = [name for name in names if name not in place]
    repeated = [name for name, n in Counter(names).items() if n > 1]
    problems = []
    if unknown:
        problems.append(f"{file}: {len(unknown)} unknown paths: {first_of(unknown)}; paths are "
                        f"relative to data.root, such as {known[0]}")
    if repeated:
        problems.append(f"{file}: {len(repeated)} pictures are listed twice: {first_of(repeated)}")
    if problems:
        raise DataError("\n".join(problems))


def _check_labels(chosen: Samples, rows: Rows, file: str) -> None:
    if not chosen.label_spec.is_exclusive:
        return
    names = chosen.label_spec.class_names
    wrong = [f"{row['path']} ({row['label'].strip()}, not {names[label]})"
             for row, label in zip(rows, chosen.labels, strict=True)
             if normalize("NFC", row.get("label", "").strip()) not in ("", names[label])]
    if wrong:
        raise DataError(f"{file} has other labels than the data for {len(wrong)} pictures: "
                        f"{first_of(wrong)}; correct it, or leave its column label out")
