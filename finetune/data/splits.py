"""Dividing pictures into train, val and test so that nothing leaks.

The unit that is divided is not the picture but what belongs together: pictures of one group
(patient, region) and identical pictures.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.duplicates import (
    DuplicatePolicy,
    check_given,
    conflicting_labels,
    group_members,
)
from finetune.data.samples import Samples
from finetune.data.unions import joined
from finetune.errors import ConfigurationError, DataError, did_you_mean, first_of
from finetune.files import write_text
from finetune.specs import LabelKind

__all__ = ["Split", "SplitMethod", "class_counts", "read_splits", "split_samples", "write_splits"]

PARTS = ("train", "val", "test")
Names = npt.NDArray[np.str_]


class SplitMethod(StrEnum):
    """Where the division comes from."""

    provided = "provided"
    stratified = "stratified"
    group = "group"


@dataclass(frozen=True)
class Split:
    """A division.

    Attributes:
        names: (N,) ``train``, ``val``, ``test``, or "" for pictures that were dropped.
        method: ``provided``, ``stratified`` or ``group``.
        warnings: What a reader has to know.
        repairs: What was changed in a given split, or waived.
    """

    names: Names
    method: str
    warnings: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)


def split_samples(samples: Samples, *, method: SplitMethod | None, seed: int, val_fraction: float,
                  test_fraction: float, duplicates: Sequence[Sequence[int]] = (),
                  policy: DuplicatePolicy = DuplicatePolicy.refuse,
                  waiver: str | None = None) -> Split:
    """Divide pictures; a function of names, labels, groups and seed, not of their order.

    Args:
        samples: The pictures.
        method: None: the data's own split where there is one, else by groups where there are
            some, else stratified.
        seed: Of the division.
        val_fraction: Of what isn't test.
        test_fraction: Of all; 0 makes no test part. Given test parts stay as they are.
        duplicates: Indices of identical pictures.
        policy: What identical pictures, or groups, across given parts do.
        waiver: The reason for allowing them.

    Raises:
        DataError: Leaks in a given split, or classes too small to divide.
        ConfigurationError: The method needs what the data don't have.
    """
    chosen = _choose(samples, method)
    warnings = _duplicate_warnings(samples, duplicates)
    if chosen is SplitMethod.stratified and samples.groups is not None:
        warnings.append(f"data.split=stratified: {len(set(samples.groups))} groups are ignored; "
                        "one group's pictures can be in several parts")
    if chosen is not SplitMethod.provided:
        names = _divide(samples, chosen, seed, val_fraction, test_fraction, duplicates)
        return Split(names, chosen.value, [*warnings, *_gaps(samples, names)])
    assert samples.given_split is not None
    given = np.array(samples.given_split, dtype="<U5")
    repaired, repairs = check_given(samples, given, duplicates, policy, waiver)
    if repaired is None:
        own = SplitMethod.group if samples.groups is not None else SplitMethod.stratified
        names = _divide(samples, own, seed, val_fraction,
                        test_fraction if (given == "test").any() else 0.0, duplicates)
        return Split(names, own.value, [*warnings, *_gaps(samples, names)], repairs)
    names = _complete(samples, repaired, seed, val_fraction, duplicates)
    warnings += _gaps(samples, names)
    if not (names == "test").any():
        warnings.append("there is no test part: results are validation, also used for selection")
    return Split(names, chosen.value, warnings, repairs)


def _choose(samples: Samples, method: SplitMethod | None) -> SplitMethod:
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
    return method


def _duplicate_warnings(samples: Samples, duplicates: Sequence[Sequence[int]]) -> list[str]:
    if not duplicates:
        return []
    count = sum(len(group) for group in duplicates)
    found = [f"{count} pictures are in {len(duplicates)} sets of identical ones; each set is kept "
             "in one part wherever the split is made here"]
    conflicts = conflicting_labels(samples, duplicates)
    if conflicts:
        first = [" = ".join(samples.ids[i] for i in group) for group in conflicts]
        found.append(f"{len(conflicts)} sets of identical pictures have conflicting labels: "
                     f"{first_of(first, count=3)}")
    return found


def _divide(samples: Samples, method: SplitMethod, seed: int, val_fraction: float,
            test_fraction: float, duplicates: Sequence[Sequence[int]]) -> Names:
    together = _units(samples, duplicates, with_groups=method is SplitMethod.group)
    shares = {"train": (1 - test_fraction) * (1 - val_fraction),
              "val": (1 - test_fraction) * val_fraction, "test": test_fraction}
    return _assign(samples, together, {p: s for p, s in shares.items() if s > 0}, seed)


def _complete(samples: Samples, given: Names, seed: int, val_fraction: float,
              duplicates: Sequence[Sequence[int]]) -> Names:
    there, dropped = set(given) - {""}, "" in given
    if "train" not in there:
        raise DataError(f"the data's own split has {', '.join(sorted(there))} and no train part"
                        f"{' left after data.duplicates=drop_from_train' if dropped else ''}; make "
                        "a new one: data.split=stratified, or data.split=group where there are "
                        "groups")
    _refuse_untrained(samples, given)
    if "val" in there:
        return given
    inside = np.flatnonzero(given == "train")
    place = {int(i): n for n, i in enumerate(inside)}
    kept = [[place[i] for i in group if i in place] for group in duplicates]
    part = samples.select(inside.tolist())
    units = _units(part, [k for k in kept if k], with_groups=part.groups is not None)
    names = given.copy()
    names[inside] = _assign(part, units, {"train": 1 - val_fraction, "val": val_fraction}, seed)
    return names


def _lacking(samples: Samples, names: Names, part: str) -> list[str]:
    """Classes without a (positive) picture in a part."""
    inside = _class_vector(samples, np.flatnonzero(names == part))
    return [c for c, n in zip(samples.label_spec.class_names, inside, strict=True) if not n]


def _refuse_untrained(samples: Samples, given: Names) -> None:
    lacking = _lacking(samples, given, "train")
    if lacking and samples.label_spec.kind is LabelKind.single:
        rest = [c for c in samples.label_spec.class_names if c not in lacking]
        first = [f"{c!r}{did_you_mean(c, rest)}" for c in lacking]
        raise DataError(f"{len(lacking)} classes have pictures in the split, but none in train: "
                        f"{first_of(first)}. Spell them alike in all parts, remove them, or make a "
                        "new split: data.split=stratified")


def _gaps(samples: Samples, names: Names) -> list[str]:
    found = {part: _lacking(samples, names, part) for part in PARTS if (names == part).any()}
    return [f"{len(lacking)} classes have no picture in {part}: {first_of(lacking)}"
            for part, lacking in found.items() if lacking]


def _units(samples: Samples, duplicates: Sequence[Sequence[int]], *,
           with_groups: bool) -> list[list[int]]:
    members = group_members(samples) if with_groups else {}
    return joined(len(samples), [*members.values(), *duplicates])


def _assign(samples: Samples, units: list[list[int]], shares: dict[str, float],
            seed: int) -> Names:
    units = sorted(units, key=lambda u: min(samples.ids[i] for i in u))
    counts = np.stack([_class_vector(samples, unit) for unit in units])
    _refuse_small(samples, counts, len(shares))
    single = samples.label_spec.kind is LabelKind.single
    if single and all(len(u) == 1 for u in units):
        parts = _stratified(counts.argmax(axis=1), shares, seed)
    else:
        parts = _greedy(counts, np.array([len(u) for u in units]), shares, seed)
    names = np.empty(len(samples), dtype="<U5")
    for unit, part in zip(units, parts, strict=True):
        names[unit] = part
    return names


def _class_vector(samples: Samples,
                  unit: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    labels = samples.labels[np.asarray(unit)]
    if samples.label_spec.kind is LabelKind.single:
        return np.bincount(labels, minlength=samples.label_spec.output_width).astype(np.float64)
    positives: npt.NDArray[np.float64] = np.nan_to_num(labels).sum(axis=0).astype(np.float64)
    return positives


def _refuse_small(samples: Samples, counts: npt.NDArray[np.float64], needed: int) -> None:
    units = (counts > 0).sum(axis=0)
    small = [f"{name} ({int(n)})" for name, n in
             zip(samples.label_spec.class_names, units, strict=True) if n < needed]
    if small:
        kind = "different pictures" if samples.groups is None else "groups (patients, regions)"
        fewer = "set data.test_fraction=0, " if needed > 2 else ""
        raise DataError(f"classes with too few {kind} to be in each of {needed} parts: "
                        f"{first_of(small, count=10)}. Add pictures, join or remove these classes, "
                        f"{fewer}or give a split of your own with data.splits_file=FILE")


def _stratified(classes: npt.NDArray[Any], shares: dict[str, float], seed: int) -> list[str]:
    """Per class a shuffled cut; each part gets at least one."""
    random = np.random.default_rng(seed)
    parts = np.empty(len(classes), dtype="<U5")
    for each in np.unique(classes):
        inside = random.permutation(np.flatnonzero(classes == each))
        start = 0
        for part, count in _whole_counts(len(inside), shares).items():
            parts[inside[start:start + count]] = part
            start += count
    return [str(p) for p in parts]


def _whole_counts(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Largest remainders, at least one for each part."""
    exact = {part: share * total for part, share in shares.items()}
    counts = {part: max(1, int(value)) for part, value in exact.items()}
    for part in sorted(exact, key=lambda p: counts[p] - exact[p]):
        if sum(counts.values()) < total:
            counts[part] += 1
    counts["train"] += total - sum(counts.values())
    return counts


def _greedy(counts: npt.NDArray[np.float64], sizes: npt.NDArray[Any], shares: dict[str, float],
            seed: int) -> list[str]:
    """Assign units, the most telling first, to where class shares are furthest below the aim.

    The idea of scikit-learn's StratifiedGroupKFold, for parts of different sizes.
    """
    names = list(shares)
    totals = counts.sum(axis=0).clip(min=1)
    relative = np.concatenate([counts / totals, (sizes / sizes.sum())[:, None]], axis=1)
    target = np.array([shares[n] for n in names])
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-relative[order].std(axis=1), kind="stable")]
    filled = np.zeros((len(names), relative.shape[1]))
    parts = np.zeros(len(counts), dtype=np.int64)
    for unit in order:
        # change of the squared distance to the aim when the unit goes to each part
        lack = target[:, None] - filled
        gain = (relative[unit] * (2 * lack - relative[unit]) / target[:, None]).sum(axis=1)
        parts[unit] = int(np.argmax(gain))
        filled[parts[unit]] += relative[unit]
    _cover(parts, counts, sizes, len(names))
    return [names[p] for p in parts]


def _cover(parts: npt.NDArray[Any], counts: npt.NDArray[np.float64], sizes: npt.NDArray[Any],
           number: int) -> None:
    """Move the smallest unit of a class that a part lacks to it, from where others remain.

    Rare classes first; no move takes another class away from a part.
    """
    has = counts > 0
    for each in np.argsort(has.sum(axis=0), kind="stable"):
        for part in range(number):
            if has[parts == part, each].any():
                continue
            spare = [u for u in np.flatnonzero(has[:, each])
                     if (has[parts == parts[u]][:, has[u]].sum(axis=0) > 1).all()]
            if spare:
                parts[min(spare, key=lambda u: (sizes[u], u))] = part


def class_counts(samples: Samples, split: Split) -> dict[str, dict[str, int]]:
    """Pictures by class and part; multi-label: positives."""
    found: dict[str, dict[str, int]] = {}
    for number, name in enumerate(samples.label_spec.class_names):
        has = (samples.labels == number if samples.label_spec.kind is LabelKind.single
               else samples.labels[:, number] == 1)
        found[name] = {p: int((has & (split.names == p)).sum()) for p in PARTS
                       if (split.names == p).any()}
    return found


def write_splits(path: Path, samples: Samples, split: Split) -> Path:
    """Write path, label, split and group of every picture that is used.

    Several labels are joined by ``|``; an unknown one has a ``?`` in front.
    """
    assert len(set(samples.ids)) == len(samples) == len(split.names)
    assert set(split.names) <= {*PARTS, ""}
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # \r needs it until 3.13
    plain.writerow(["path", "label", "split", "group"])
    groups = samples.groups or [""] * len(samples)
    for index, (name, part) in enumerate(zip(samples.ids, split.names, strict=True)):
        if part:
            row = [name, _label_text(samples, index), part, groups[index]]
            (quoted if "\r" in "".join(row) else plain).writerow(row)
    return write_text(path, text.getvalue())


def _label_text(samples: Samples, index: int) -> str:
    names, label = samples.label_spec.class_names, samples.labels[index]
    if samples.label_spec.kind is LabelKind.single:
        return names[int(label)]
    return "|".join(f"{'?' if np.isnan(v) else ''}{n}" for n, v in zip(names, label, strict=True)
                    if v == 1 or np.isnan(v))


def read_splits(path: Path) -> list[dict[str, str]]:
    """Rows of a splits file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
