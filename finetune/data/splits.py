"""Dividing pictures into train, val and test so that nothing leaks.

The unit that is divided is not the picture but what belongs together: pictures of one group
(patient, region) and identical pictures.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from finetune.data.assigning import Division, assign, cut_val, lacking, together
from finetune.data.dependence import Dependence
from finetune.data.duplicates import DuplicatePolicy, check_given, check_made
from finetune.data.place_leaks import near_sets
from finetune.data.samples import Samples
from finetune.data.split_by_fold import split_by_fold
from finetune.data.split_by_place import split_by_place
from finetune.data.split_by_site import split_by_site
from finetune.data.split_by_time import split_by_time
from finetune.data.split_warnings import PARTS, gap_warnings, split_warnings
from finetune.data.unions import joined
from finetune.errors import ConfigurationError, DataError, did_you_mean, first_of
from finetune.files import plain_cell, safe_cell, write_text

__all__ = ["Split", "SplitMethod", "class_counts", "read_splits", "split_samples", "write_splits"]

T = TypeVar("T")
Names = npt.NDArray[np.str_]


class SplitMethod(StrEnum):
    """Where the division comes from."""

    provided = "provided"
    stratified = "stratified"
    group = "group"
    spatial = "spatial"
    time = "time"
    site = "site"
    kfold = "kfold"


_BY_DEPENDENCE = {SplitMethod.spatial: split_by_place, SplitMethod.time: split_by_time,
                  SplitMethod.site: split_by_site, SplitMethod.kfold: split_by_fold}


@dataclass(frozen=True)
class Split:
    """A division.

    Attributes:
        names: (N,) ``train``, ``val``, ``test``, or "" for pictures that were dropped.
        method: A member of `SplitMethod`.
        warnings: What a reader has to know.
        repairs: What was changed in a split that leaks, or waived.
    """

    names: Names
    method: str
    warnings: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)


def split_samples(samples: Samples, *, method: SplitMethod | None, seed: int, val_fraction: float,
                  test_fraction: float, duplicates: Sequence[Sequence[int]] = (),
                  policy: DuplicatePolicy = DuplicatePolicy.refuse, waiver: str | None = None,
                  dependence: Dependence | None = None,
                  near: Sequence[Sequence[int]] = ()) -> Split:
    """Divide pictures; a function of names, labels, groups and seed, not of their order.

    Args:
        samples: The pictures.
        method: None: the data's own split where there is one, else by groups where there are
            some, else stratified.
        seed: Of the division.
        val_fraction: Of what isn't test.
        test_fraction: Of all; 0 makes no test part. Given test parts stay as they are.
        duplicates: Indices of identical pictures.
        policy: What identical pictures, or groups, across given parts do; and pictures of
            different parts, given or not, whose places are too near to each other.
        waiver: The reason for allowing them.
        near: Indices of pictures that are copies of each other, changed a little.
        dependence: What ``spatial``, ``time``, ``site`` and ``kfold`` are made from; and places
            that all others are checked by.

    Raises:
        DataError: Leaks in the split, or classes too small to divide.
        ConfigurationError: The method needs what the data don't have.
    """
    chosen = _choose(samples, method, dependence)
    warnings = split_warnings(samples, chosen, duplicates, near)
    alike = [*duplicates, *near]
    if chosen is not SplitMethod.provided:
        division = _division(samples, chosen, seed, val_fraction, test_fraction, alike)
        names, told, repairs = _make(samples, chosen, division, dependence, policy, waiver)
        if chosen in _BY_DEPENDENCE and samples.given_split is not None:
            told.append(f"data.split={chosen}: the data's own split is not used")
        return Split(names, chosen.value, [*warnings, *told, *gap_warnings(samples, names)],
                     repairs)
    assert samples.given_split is not None
    given = np.array(samples.given_split, dtype="<U5")
    repaired, repairs = check_given(samples, given, duplicates, policy, waiver, near, dependence)
    if repaired is None:
        own = SplitMethod.group if samples.groups is not None else SplitMethod.stratified
        names, _ = _by_places(dependence, _division(
            samples, own, seed, val_fraction, test_fraction if (given == "test").any() else 0.0,
            alike), lambda division: _divide(samples, own, division, None))
        return Split(names, own.value, [*warnings, *gap_warnings(samples, names)], repairs)
    names = _complete(samples, repaired, _division(samples, chosen, seed, val_fraction, 0.0,
                                                   alike), dependence)
    warnings += gap_warnings(samples, names)
    if not (names == "test").any():
        warnings.append("there is no test part: results are validation, also used for selection")
    return Split(names, chosen.value, warnings, repairs)


def _make(samples: Samples, method: SplitMethod, division: Division,
          dependence: Dependence | None, policy: DuplicatePolicy,
          waiver: str | None) -> tuple[Names, list[str], list[str]]:
    """A split that nobody gave: its parts, what has to be said, and what was done about places."""
    names, told = _divide(samples, method, division, dependence)
    if method is SplitMethod.spatial:
        return names, told, []
    checked, repairs = check_made(samples, names, dependence, f"data.split={method}", policy,
                                  waiver)
    if checked is None:
        checked, told = _by_places(dependence, division, lambda wider: _divide(
            samples, method, wider, dependence))
    return checked, told, repairs


def _by_places(dependence: Dependence | None, division: Division,
               make: Callable[[Division], T]) -> T:
    """What ``make`` does with pictures of places too near to each other kept together too.

    Raises:
        DataError: It can't; the message says how large these sets are.
    """
    if dependence is None or dependence.places is None:
        return make(division)
    sets = near_sets(dependence.places, dependence.block_buffer)
    try:
        return make(replace(division, together=[*division.together, *sets]))
    except DataError as error:
        if not sets:
            raise
        buffer = dependence.block_buffer
        near = f"nearer than data.block_buffer={buffer:g}" if buffer else "of the same place"
        raise DataError(
            f"pictures {near} were kept together, in {len(sets):,} sets, the largest of "
            f"{max(map(len, sets)):,} of {len(dependence.places):,} pictures, and that leaves no "
            f"split: {error}\nChoose a smaller data.block_buffer, or data.split=spatial "
            "data.block_size=SIZE") from error


def _choose(samples: Samples, method: SplitMethod | None,
            dependence: Dependence | None) -> SplitMethod:
    if method is None:
        if samples.given_split is not None:
            return SplitMethod.provided
        return SplitMethod.group if samples.groups is not None else SplitMethod.stratified
    if method is SplitMethod.provided and samples.given_split is None:
        raise ConfigurationError("data.split=provided, but the data come undivided: expected "
                                 "train/val/test folders, a split column, or data.splits_file=FILE")
    if method is SplitMethod.group and samples.groups is None:
        raise ConfigurationError("data.split=group, but there are no groups: name them with "
                                 "data.group_from=REGEX on the path, or a group column in a CSV")
    if method in _BY_DEPENDENCE and dependence is None:
        raise ConfigurationError(f"data.split={method} needs to know what pictures have in common")
    if method is SplitMethod.kfold and dependence is not None and dependence.fold is None:
        raise ConfigurationError("data.split=kfold: one fold at a time here, for example "
                                 f"data.fold=1 (1 to {dependence.folds}); training without "
                                 "data.fold trains them all")
    return method


def _division(samples: Samples, method: SplitMethod, seed: int, val_fraction: float,
              test_fraction: float, duplicates: Sequence[Sequence[int]]) -> Division:
    with_groups = method is not SplitMethod.stratified and samples.groups is not None
    return Division(seed, val_fraction, test_fraction,
                    together(samples, duplicates, with_groups=with_groups))


def _divide(samples: Samples, method: SplitMethod, division: Division,
            dependence: Dependence | None) -> tuple[Names, list[str]]:
    if method in _BY_DEPENDENCE:
        assert dependence is not None
        return _BY_DEPENDENCE[method](samples, dependence, division)
    units = joined(len(samples), division.together)
    if len(units) == 1 and method is SplitMethod.group:
        raise DataError(f"data.split=group: all {len(samples)} pictures are in one group; expected "
                        "two groups or more: name others with data.group_column or "
                        "data.group_from, or ignore them with data.split=stratified")
    return assign(samples, units, division.shares, division.seed), []


def _complete(samples: Samples, given: Names, division: Division,
              dependence: Dependence | None) -> Names:
    there, dropped = set(given) - {""}, "" in given
    if "train" not in there:
        raise DataError(f"the data's own split has {', '.join(sorted(there))} and no train part"
                        f"{' left after data.duplicates=drop_from_train' if dropped else ''}; make "
                        "a new one: data.split=stratified, or data.split=group where there are "
                        "groups")
    _refuse_untrained(samples, given)
    if "val" in there:
        return given
    return _by_places(dependence, division, lambda wider: cut_val(samples, given, wider))


def _refuse_untrained(samples: Samples, given: Names) -> None:
    untrained = lacking(samples, given, "train")
    if untrained and samples.label_spec.is_exclusive:
        rest = [c for c in samples.label_spec.class_names if c not in untrained]
        first = [f"{c!r}{did_you_mean(c, rest)}" for c in untrained]
        raise DataError(f"{len(untrained)} classes have pictures in the split, but none in train: "
                        f"{first_of(first)}. Spell them alike in all parts, remove them, or make a "
                        "new split: data.split=stratified")


def class_counts(samples: Samples, split: Split) -> dict[str, dict[str, int]]:
    """Pictures by class and part; multi-label: positives."""
    found: dict[str, dict[str, int]] = {}
    for number, name in enumerate(samples.label_spec.class_names):
        has = (samples.labels == number if samples.label_spec.is_exclusive
               else samples.labels[:, number] == 1)
        found[name] = {p: int((has & (split.names == p)).sum()) for p in PARTS
                       if (split.names == p).any()}
    return found


def write_splits(path: Path, samples: Samples, split: Split,
                 hashes: Sequence[str] | None = None) -> Path:
    """Write path, label, split and group of every picture; the split of a dropped one is empty.

    Several labels are joined by ``|``; an unknown one has a ``?`` in front. Text that a spreadsheet
    could take for a formula begins with an apostrophe, which reading takes away again.

    Args:
        path: The file.
        samples: The pictures.
        split: Their parts.
        hashes: Of their contents, where later pictures are to be compared with them.
    """
    assert len(set(samples.ids)) == len(samples) == len(split.names)
    assert set(split.names) <= {*PARTS, ""}
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # \r needs it until 3.13
    plain.writerow(["path", "label", "split", "group", *([] if hashes is None else ["hash"])])
    groups = samples.groups or [""] * len(samples)
    for index, (name, part) in enumerate(zip(samples.ids, split.names, strict=True)):
        row = [safe_cell(v) for v in (name, _label_text(samples, index), part, groups[index],
                                      *([] if hashes is None else [hashes[index]]))]
        (quoted if "\r" in "".join(row) else plain).writerow(row)
    return write_text(path, text.getvalue())


def _label_text(samples: Samples, index: int) -> str:
    names, label = samples.label_spec.class_names, samples.labels[index]
    if samples.label_spec.is_exclusive:
        return names[int(label)]
    return "|".join(f"{'?' if np.isnan(v) else ''}{n}" for n, v in zip(names, label, strict=True)
                    if v == 1 or np.isnan(v))


def read_splits(path: Path) -> list[dict[str, str]]:
    """Rows of a splits file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [{key: plain_cell(value) if isinstance(value, str) else value
                 for key, value in row.items()} for row in csv.DictReader(stream)]
