"""Pictures with labels: names, labels, groups, given splits, and where to read the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from finetune.data.decoding import Decoded, decode_image
from finetune.data.unreadable import read_bytes
from finetune.errors import DataError
from finetune.specs import LabelKind, LabelSpec

__all__ = ["ArraySource", "FolderSource", "PictureSource", "Samples", "read_samples",
           "read_splits_file", "single_label", "sorted_names"]


class PictureSource(Protocol):
    """Where pictures are read from, by their ids. Can be sent to worker processes."""

    @property
    def name(self) -> str:
        """What tells this source from others, for caches."""

    def read(self, sample_id: str, at_least: tuple[int, int] | None = None) -> Decoded:
        """The decoded picture; `decode_image` tells what ``at_least`` allows."""

    def raw(self, sample_id: str) -> bytes:
        """The bytes as stored."""

    def stamp(self, sample_id: str) -> tuple[int, int]:
        """Size in bytes and time of the last change in nanoseconds."""


@dataclass(frozen=True)
class FolderSource:
    """Pictures as files under a folder; an id is the path relative to it, with ``/``."""

    root: str

    @property
    def name(self) -> str:
        """The absolute path."""
        return str(Path(self.root).resolve())

    def read(self, sample_id: str, at_least: tuple[int, int] | None = None) -> Decoded:
        """The decoded picture; `decode_image` tells what ``at_least`` allows."""
        return decode_image(f"{self.root}/{sample_id}", name=sample_id, at_least=at_least)

    def raw(self, sample_id: str) -> bytes:
        """The file's bytes."""
        return read_bytes(f"{self.root}/{sample_id}", sample_id)

    def stamp(self, sample_id: str) -> tuple[int, int]:
        """Size in bytes and time of the last change in nanoseconds."""
        found = Path(self.root, sample_id).stat()
        return found.st_size, found.st_mtime_ns


class ArraySource:
    """Pictures in an ``.npz`` file; an id is ``<array>/<number>``."""

    def __init__(self, path: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
        self.name = str(Path(path).resolve())
        self._arrays = arrays
        found = Path(path).stat()
        self._time = found.st_mtime_ns

    def read(self, sample_id: str, at_least: tuple[int, int] | None = None) -> Decoded:
        """The picture as (H, W, C), always whole."""
        part, number = sample_id.rsplit("/", 1)
        pixels = self._arrays[part][int(number)]
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        return Decoded(np.ascontiguousarray(pixels), f"{pixels.dtype}x{pixels.shape[-1]}")

    def raw(self, sample_id: str) -> bytes:
        """The picture's numbers."""
        return self.read(sample_id).pixels.tobytes()

    def stamp(self, sample_id: str) -> tuple[int, int]:
        """Size in bytes and time of the file's last change."""
        return self.read(sample_id).pixels.nbytes, self._time


@dataclass(frozen=True)
class Samples:
    """A labelled collection.

    Attributes:
        ids: Names, unique; paths relative to the root, with ``/``.
        labels: (N,) int64, or (N, K) float32 with NaN = unknown.
        label_spec: Kind of label, class names.
        source: Where the pixels are.
        given_split: ``train``, ``val`` or ``test`` for each, where the data come divided.
        groups: What must not be divided, such as patients.
        metadata: Columns of the table beside path, label and split.
        warnings: What was skipped or assumed, as sentences.
    """

    ids: list[str]
    labels: npt.NDArray[Any]
    label_spec: LabelSpec
    source: PictureSource
    given_split: list[str] | None = None
    groups: list[str] | None = None
    metadata: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Sequence[int]) -> "Samples":
        """Some of the samples, in the order asked for."""
        def pick(values: list[str] | None) -> list[str] | None:
            return None if values is None else [values[i] for i in indices]

        return replace(
            self, ids=[self.ids[i] for i in indices],
            labels=self.labels[np.asarray(indices, dtype=np.int64)],
            given_split=pick(self.given_split), groups=pick(self.groups),
            metadata={k: [v[i] for i in indices] for k, v in self.metadata.items()})


def sorted_names(names: set[str]) -> list[str]:
    """Class names in order; numbers as numbers."""
    return sorted(names, key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n))


def single_label(ids: list[str], classes: list[str], *, source: PictureSource,
                 names: Sequence[str] | None = None, given: list[str] | None = None,
                 **more: Any) -> Samples:
    """Samples with one class each; ``names`` only where the order of classes is the data's own.

    Raises:
        DataError: Fewer than two classes.
    """
    names = names or sorted_names(set(classes))
    if len(names) < 2:
        raise DataError(f"only one class, {names[0]!r}, was found; a classifier needs two or more")
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[c] for c in classes], dtype=np.int64)
    spec = LabelSpec(LabelKind.single, tuple(names), names[-1] if len(names) == 2 else None)
    return Samples(ids, labels, spec, source, given, **more)


def read_samples(root: str, *, format: str = "auto", labels_file: str | None = None,
                 path_column: str = "path", label_column: str = "label",
                 label_separator: str | None = None, split_column: str | None = "split",
                 group_column: str | None = "group", group_from: str | None = None,
                 positive_class: str | None = None, splits_file: Path | None = None,
                 label_kind: LabelKind | None = None, class_order: str | None = None) -> Samples:
    """Read names and labels of class folders, split folders, a CSV file or an ``.npz`` file.

    Args:
        root: Folder, CSV file or ``.npz`` file.
        format: ``auto``, ``folders``, ``csv`` or ``npz``; ``auto`` takes a folder as ``csv`` when
            a CSV file in it has the columns, or when columns are named.
        labels_file: CSV with labels, relative to ``root``.
        path_column: Column of paths.
        label_column: Column of labels; several, separated by commas: one yes/no column per class.
        label_separator: Between several labels in one column.
        split_column: Column of parts; None ignores it.
        group_column: Column of groups; None ignores it. Several, separated by commas: pictures
            that share a value of any are together.
        group_from: Regular expression searched in the relative path; its groups, used like
            several columns, or the whole match.
        positive_class: Of two classes, the one whose sensitivity is asked for.
        splits_file: An existing file that must not be taken for the labels.
        label_kind: None: single, or multi where there are several labels.
        class_order: All classes from the lowest up, separated by commas, for ordinal labels; None:
            they are numbers.

    Raises:
        DataError: What was found, and what to do.
    """
    from finetune.data import folders, label_kinds, picture_paths, readers, tables

    where = Path(root)
    if not where.exists():
        raise DataError(f"data.root={root} does not exist{picture_paths.near_folder(where)}")
    columns = (path_column, *(c.strip() for c in label_column.split(",")))
    beside = [t for t in tables.tables_in(where) if splits_file is None
              or not t.samefile(splits_file)] if where.is_dir() else []
    kind = readers.recognise(where, format, labels_file, columns, beside)
    if kind == "npz":
        samples = readers.read_npz(where)
    elif kind == "csv":
        samples = tables.read_csv(
            *readers.find_table(where, labels_file, columns, beside), path_column=path_column,
            label_column=label_column, label_separator=label_separator, split_column=split_column,
            group_column=group_column)
    else:
        samples = _with_warnings(folders.read_folders(where), readers.unread_tables(beside))
    if kind != "csv":
        readers.refuse_columns(label_separator, split_column, group_column)
    samples = label_kinds.with_label_kind(samples, label_kind, class_order)
    samples = readers.with_positive_class(samples, positive_class)
    return samples if group_from is None else readers.with_groups(samples, group_from)


def _with_warnings(samples: Samples, warnings: list[str]) -> Samples:
    return replace(samples, warnings=[*samples.warnings, *warnings])


def read_splits_file(samples: Samples, path: Path) -> tuple[Samples, list[str]]:
    """The samples that a splits file lists, with its parts and groups; and what was left out.

    The file has the columns path, label, split and optionally group.

    Raises:
        DataError: A path or a part is unknown, or a label contradicts the data's own.
    """
    from finetune.data import tables

    return tables.apply_splits_file(samples, path)
