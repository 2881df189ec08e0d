"""Which format a data set has, the reader of ``.npz``, and what is said about any format."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.archives import ARCHIVE_ERRORS
from finetune.archives import read_npz as load_npz
from finetune.data.folders import has_folders
from finetune.data.formats import as_supported
from finetune.data.nested_groups import nested_groups
from finetune.data.picture_paths import near_folder
from finetune.data.samples import ArraySource, Samples, single_label
from finetune.data.tables import read_header
from finetune.errors import DataError, did_you_mean, first_of
from finetune.specs import LabelKind, LabelSpec

__all__ = ["find_table", "read_npz", "recognise", "refuse_columns", "unread_tables", "with_groups",
           "with_positive_class"]

DEFAULT_COLUMNS = ("path", "label")


def recognise(root: Path, wanted: str, labels_file: str | None, columns: Sequence[str],
              tables: Sequence[Path]) -> str:
    """``folders``, ``csv`` or ``npz``.

    A folder is taken as CSV when one of ``tables`` has all of ``columns``, when columns are
    named that are not the default ones, or when it holds no folders but a table.

    Raises:
        DataError: A file of an unknown kind.
    """
    if wanted != "auto":
        return wanted
    if root.suffix.lower() == ".npz":
        return "npz"
    if root.is_file() and root.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise DataError(f"data.root={root} is a file of an unknown kind: expected a folder, a "
                        ".csv or an .npz file")
    if root.is_file() or labels_file is not None or tuple(columns) != DEFAULT_COLUMNS:
        return "csv"
    if tables and not has_folders(root):
        return "csv"
    return "csv" if any(set(columns) <= set(read_header(t)) for t in tables) else "folders"


def find_table(root: Path, labels_file: str | None, columns: Sequence[str],
               tables: Sequence[Path]) -> tuple[Path, Path]:
    """The CSV file with the labels, and the folder that its paths start from.

    Raises:
        DataError: None, or several that could be meant.
    """
    if root.is_file():
        return root, root.parent
    if labels_file is not None:
        path = root / labels_file
        if not path.is_file():
            raise DataError(f"data.labels_file={labels_file} is not in {root}{near_folder(path)}")
        return path, root
    fitting = [t for t in tables if set(columns) <= set(read_header(t))] or list(tables)
    if len(fitting) == 1:
        return fitting[0], root
    if not fitting:
        raise DataError(f"{root} holds no CSV file with columns {', '.join(columns)}: name it with "
                        "data.labels_file=, or leave the columns out to read class folders")
    listed = "".join(f"\n  {_described(t)}" for t in fitting[:5])
    raise DataError(f"{root} holds {len(fitting)} CSV files that could have the labels: name one "
                    f"with data.labels_file={listed}")


def _described(table: Path) -> str:
    return f"{table.name} (columns {', '.join(read_header(table)) or 'unreadable'})"


def unread_tables(tables: Sequence[Path]) -> list[str]:
    """What to say about CSV files beside class folders."""
    if not tables:
        return []
    return [f"classes are the folders; not read: {first_of([_described(t) for t in tables])}; "
            "if the labels are there, name the columns with data.path_column= and "
            "data.label_column="]


def refuse_columns(separator: str | None, split: str | None, group: str | None) -> None:
    """Keys about the columns of a CSV file, where there is none, are not ignored in silence."""
    given = [key for key, value, default in (
        ("label_separator", separator, None), ("split_column", split, "split"),
        ("group_column", group, "group")) if value not in (default, None)]
    if given:
        raise DataError(f"{', '.join(f'data.{key}' for key in given)}: the data are no CSV file, "
                        "there are no columns; groups can come from the paths: "
                        "data.group_from=REGEX")


def read_npz(path: Path) -> Samples:
    """MedMNIST's layout (``train_images``, ``train_labels`` …), or ``images`` and ``labels``."""
    try:
        arrays = load_npz(path)
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path} can't be read as .npz: {error}") from error
    parts = [p for p in ("train", "val", "test") if f"{p}_images" in arrays]
    pairs: list[tuple[str, Any, Any]] = [
        (p, arrays[f"{p}_images"], arrays.get(f"{p}_labels")) for p in parts] or [
        ("images", arrays.get("images"), arrays.get("labels"))]
    for name, images, values in pairs:
        _check_arrays(path, name if parts else "", images, values, list(arrays))
    ids = [f"{name}/{i:06d}" for name, images, _ in pairs for i in range(len(images))]
    labels = _joined_labels([np.asarray(values) for _, _, values in pairs], path)
    given = [name for name, images, _ in pairs for _ in range(len(images))] if parts else None
    converted = {name: as_supported(images, f"{path}: {name}") for name, images, _ in pairs}
    source = ArraySource(str(path), {name: pixels for name, (pixels, _) in converted.items()})
    notes = sorted({f"{path.name}: {note}" for _, told in converted.values() for note in told})
    listed = [str(n) for n in arrays.get("class_names", np.array([]))]
    if labels.ndim == 2:
        spec = _several_labels(labels, listed, path)
        return Samples(ids, labels.astype(np.float32), spec, source, given, warnings=notes)
    names = _named(labels, listed, path)
    return single_label(ids, names, source=source, names=listed, given=given, warnings=notes)


def _check_arrays(path: Path, part: str, images: Any, labels: Any, there: list[str]) -> None:
    if (images is None or labels is None or images.ndim not in (3, 4) or labels.ndim not in (1, 2)
            or len(images) != len(labels)):
        before = f"{part}_" if part else ""
        raise DataError(f"{path}: expected {before}images (N, H, W[, C]) and as many "
                        f"{before}labels (N,), (N, 1) or, for several labels, (N, K); it holds "
                        f"{', '.join(there) or 'nothing'}")
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise DataError(f"{path}: pictures of shape {images.shape[1:]} have their channels first; "
                        "expected (H, W, C): store images.transpose(0, 2, 3, 1)")


def _joined_labels(labels: list[npt.NDArray[Any]], path: Path) -> npt.NDArray[Any]:
    """The labels of all parts: (N,), or (N, K) with K above 1."""
    flat = [v.reshape(-1) if v.ndim == 2 and v.shape[1] == 1 else v for v in labels]
    if len({v.shape[1:] for v in flat}) > 1:
        raise DataError(f"{path}: labels of different widths: {[v.shape for v in labels]}")
    return np.concatenate(flat)


def _several_labels(labels: npt.NDArray[Any], listed: list[str], path: Path) -> LabelSpec:
    wrong = [v for v in np.unique(labels).tolist() if v not in (0, 1) and v == v]
    if wrong:
        raise DataError(f"{path}: labels (N, {labels.shape[1]}) are several yes/no labels, but "
                        f"hold {first_of(wrong)}; expected 0, 1 or NaN for unknown")
    names = listed or [f"label_{i}" for i in range(labels.shape[1])]
    if len(set(names)) != labels.shape[1]:
        raise DataError(f"{path}: class_names has {len(set(names))} different names for "
                        f"{labels.shape[1]} labels")
    return LabelSpec(LabelKind.multi, tuple(names))


def _named(labels: npt.NDArray[Any], listed: list[str], path: Path) -> list[str]:
    """The class of each picture as text."""
    if labels.dtype.kind == "f":
        if not (labels == labels.round()).all():
            raise DataError(f"{path}: labels are not whole numbers (NaN or fractions); expected a "
                            "class for each picture")
        labels = labels.astype(np.int64)
    if not listed or labels.dtype.kind not in "iu":
        names = [str(v) for v in labels.tolist()]
        problem = bool(listed) and not set(names) <= set(listed)
    else:
        problem = bool(len(labels)) and not 0 <= labels.min() <= labels.max() < len(listed)
        names = [] if problem else [listed[int(v)] for v in labels]
    if problem or len(set(listed)) < len(listed):
        raise DataError(f"{path}: class_names ({first_of(listed)}) don't fit the labels "
                        f"({first_of(np.unique(labels).tolist())}): expected a different name for "
                        "each, in their order from 0")
    return names


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
    matches = [m for m in found if m]
    groups, told = nested_groups(_levels(matches))
    if not any(groups):
        raise DataError(f"data.group_from={pattern} finds nothing but empty text, such as in "
                        f"{samples.ids[0]}; expected a group that is there, such as (patient\\d+)")
    return replace(samples, groups=groups, warnings=[*samples.warnings, *told])


def _levels(matches: Sequence[re.Match[str]]) -> dict[str, list[str]]:
    """What each group of the pattern found, or the whole match; "" where it took no part."""
    pattern = matches[0].re
    names = {number: name for name, number in pattern.groupindex.items()}
    return {names.get(i, f"group {i}"): [m[i] or "" for m in matches]
            for i in range(1, pattern.groups + 1)} or {"match": [m[0] for m in matches]}
