"""Which part each unit gets, so that every part has the classes in the shares that are wanted.

A unit is what is never divided: a picture, or pictures that belong together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.duplicates import group_members
from finetune.data.samples import Samples
from finetune.data.unions import joined
from finetune.errors import DataError, first_of

__all__ = ["Division", "assign", "class_vector", "cut_val", "known_negatives", "lacking",
           "spread_units", "together"]

Names = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Division:
    """What is wanted of a new split.

    Attributes:
        seed: Of what is drawn.
        val_fraction: Of what isn't test.
        test_fraction: Of all; 0 makes no test part.
        together: Sets of indices, none of which is divided; they may overlap.
    """

    seed: int
    val_fraction: float
    test_fraction: float
    together: Sequence[Sequence[int]] = ()

    @property
    def shares(self) -> dict[str, float]:
        """Of train, val and test, those that are not 0."""
        rest = 1 - self.test_fraction
        shares = {"train": rest * (1 - self.val_fraction), "val": rest * self.val_fraction,
                  "test": self.test_fraction}
        return {part: share for part, share in shares.items() if share > 0}


def together(samples: Samples, duplicates: Sequence[Sequence[int]], *,
             with_groups: bool) -> list[Sequence[int]]:
    """What no split divides: sets of identical pictures, and groups if wanted."""
    members = group_members(samples) if with_groups else {}
    return [*members.values(), *duplicates]


def cut_val(samples: Samples, names: Names, division: Division) -> Names:
    """``names`` with val cut from what was train; other parts stay."""
    inside = np.flatnonzero(names == "train")
    place = {int(i): n for n, i in enumerate(inside)}
    kept = [[place[i] for i in members if i in place] for members in division.together]
    units = joined(len(inside), [k for k in kept if k])
    cut = names.copy()
    cut[inside] = assign(samples.select(inside.tolist()), units, {
        "train": 1 - division.val_fraction, "val": division.val_fraction}, division.seed)
    return cut


def lacking(samples: Samples, names: Names, part: str) -> list[str]:
    """Classes without a (positive) picture in a part."""
    inside = class_vector(samples, np.flatnonzero(names == part))
    return [c for c, n in zip(samples.label_spec.class_names, inside, strict=True) if not n]


def assign(samples: Samples, units: list[list[int]], shares: dict[str, float], seed: int, *,
           kind: str | None = None, remedy: str | None = None, dealt: bool = False) -> Names:
    """The part of each picture (N,); a function of names, labels and seed, not of their order.

    Args:
        samples: The pictures.
        units: A partition of their indices.
        shares: Of the parts; they add up to 1.
        seed: Of what is drawn.
        kind: What a message calls the units.
        remedy: What a message advises where there are too few.
        dealt: Single pictures are dealt like cards, class by class, to parts of equal shares.

    Raises:
        DataError: A class has fewer units than there are parts.
    """
    units = sorted(units, key=lambda u: min(samples.ids[i] for i in u))
    counts = np.stack([class_vector(samples, unit) for unit in units])
    _refuse_small(samples, counts, len(shares), kind, remedy)
    single = samples.label_spec.is_exclusive
    if not single and np.isnan(samples.labels).any():  # else those are what positives leave
        counts = np.hstack([counts, [known_negatives(samples, unit) for unit in units]])
    if single and all(len(u) == 1 for u in units):
        divide = _dealt if dealt else _stratified
        parts = divide(counts.argmax(axis=1), shares, seed)
    else:
        parts = spread_units(counts, np.array([len(u) for u in units]), shares, seed)
    names = np.empty(len(samples), dtype="<U5")
    for unit, part in zip(units, parts, strict=True):
        names[unit] = part
    return names


def class_vector(samples: Samples,
                 unit: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Pictures (or positive labels) of each class among some of the samples, (K,)."""
    labels = samples.labels[np.asarray(unit)]
    if samples.label_spec.is_exclusive:
        return np.bincount(labels, minlength=samples.label_spec.output_width).astype(np.float64)
    positives: npt.NDArray[np.float64] = np.nan_to_num(labels).sum(axis=0).astype(np.float64)
    return positives


def known_negatives(samples: Samples,
                    unit: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Of several labels, known negatives of each among some of the samples, (K,)."""
    found: npt.NDArray[np.float64] = (samples.labels[np.asarray(unit)] == 0).sum(axis=0).astype(
        np.float64)
    return found


def _refuse_small(samples: Samples, counts: npt.NDArray[np.float64], needed: int,
                  kind: str | None, remedy: str | None) -> None:
    units = (counts > 0).sum(axis=0)
    small = [f"{name} ({int(n)})" for name, n in
             zip(samples.label_spec.class_names, units, strict=True) if n < needed]
    if small:
        own = "different pictures" if samples.groups is None else "groups (patients, regions)"
        fewer = "set data.test_fraction=0, " if needed > 2 else ""
        raise DataError(f"classes with too few {kind or own} to be in each of {needed} parts: "
                        f"{first_of(small, count=10)}. " + (remedy or (
                            f"Add pictures, join or remove these classes, {fewer}or give a split "
                            "of your own with data.splits_file=FILE")))


def _dealt(classes: npt.NDArray[Any], shares: dict[str, float], seed: int) -> list[str]:
    """In order of class, shuffled inside, one after the other to each part in turn.

    As scikit-learn's StratifiedKFold: parts differ by one in every class and in all.
    """
    order = np.random.default_rng(seed).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    names = list(shares)
    parts = np.empty(len(classes), dtype="<U5")
    for number, name in enumerate(names):
        parts[order[number::len(names)]] = name
    return [str(p) for p in parts]


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


def spread_units(counts: npt.NDArray[np.float64], sizes: npt.NDArray[Any],
                 shares: dict[str, float], seed: int) -> list[str]:
    """The part of each unit: the most telling first, to where class shares are furthest off.

    The idea of scikit-learn's StratifiedGroupKFold, for parts of different sizes.

    Args:
        counts: (U, K) pictures of each class in each unit.
        sizes: (U,) pictures.
        shares: Of the parts; they add up to 1.
        seed: Of the order among equals.
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
