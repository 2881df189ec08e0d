"""Pictures with labels: names, labels, groups, given splits, and where to read the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from finetune.data.decoding import Decoded, decode_image
from finetune.errors import DataError
from finetune.specs import LabelSpec

__all__ = ["ArraySource", "FolderSource", "PictureSource", "Samples", "read_samples",
           "read_splits_file"]


class PictureSource(Protocol):
    """Where pictures are read from, by their ids. Can be sent to worker processes."""

    @property
    def name(self) -> str:
        """What tells this source from others, for caches."""

    def read(self, sample_id: str) -> Decoded:
        """The decoded picture."""

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

    def read(self, sample_id: str) -> Decoded:
        """The decoded picture."""
        return decode_image(Path(self.root, sample_id), name=sample_id)

    def raw(self, sample_id: str) -> bytes:
        """The file's bytes."""
        return Path(self.root, sample_id).read_bytes()

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

    def read(self, sample_id: str) -> Decoded:
        """The picture as (H, W, C)."""
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
        metadata: Other columns.
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


def read_samples(root: str, *, format: str = "auto", labels_file: str | None = None,
                 path_column: str = "path", label_column: str = "label",
                 label_separator: str | None = None, split_column: str = "split",
                 group_column: str = "group", group_from: str | None = None,
                 positive_class: str | None = None) -> Samples:
    """Read names and labels of class folders, split folders, a CSV file or an ``.npz`` file.

    Args:
        root: Folder, CSV file or ``.npz`` file.
        format: ``auto``, ``folders``, ``csv`` or ``npz``; ``auto`` takes a folder as ``csv`` when
            its only CSV file has the columns.
        labels_file: CSV with labels, relative to ``root``.
        path_column: Column of paths.
        label_column: Column of labels; several, separated by commas: one yes/no column per class.
        label_separator: Between several labels in one column.
        split_column: Column of parts, if there.
        group_column: Column of groups, if there.
        group_from: Regular expression searched in the relative path; its first group, or the
            whole match, is the group.
        positive_class: Of two classes, the one whose sensitivity is asked for.

    Raises:
        DataError: What was found, and what to do.
    """
    from finetune.data import readers

    where = Path(root)
    if not where.exists():
        raise DataError(f"data.root={root} does not exist{readers.near_folder(where)}")
    kind = readers.recognise(where, format, labels_file,
                             (path_column, *(c.strip() for c in label_column.split(","))))
    if kind == "npz":
        samples = readers.read_npz(where)
    elif kind == "csv":
        samples = readers.read_csv(
            where, labels_file=labels_file, path_column=path_column, label_column=label_column,
            label_separator=label_separator, split_column=split_column, group_column=group_column)
    else:
        samples = readers.read_folders(where)
    samples = readers.with_positive_class(samples, positive_class)
    return samples if group_from is None else readers.with_groups(samples, group_from)


def read_splits_file(samples: Samples, path: Path) -> tuple[Samples, list[str]]:
    """The samples that a splits file lists, with its parts and groups; and what was left out.

    The file has the columns path, label, split and optionally group.

    Raises:
        DataError: A path or a part is unknown, or a label contradicts the data's own.
    """
    from finetune.data import readers

    return readers.apply_splits_file(samples, path)
