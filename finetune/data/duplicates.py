"""Identical pictures, groups and places across the parts of a split, and what is done about it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.dependence import Dependence
from finetune.data.place_leaks import drop_near, place_leaks
from finetune.data.samples import Samples
from finetune.errors import ConfigurationError, DataError, first_of

__all__ = ["DuplicatePolicy", "check_given", "check_made", "conflicting_labels", "group_members"]

Names = npt.NDArray[np.str_]
_RANK = {"train": 0, "val": 1, "test": 2}


class DuplicatePolicy(StrEnum):
    """What identical pictures, groups, or near places across the parts of a split do."""

    refuse = "refuse"                    # stop, with the counts and the ways out
    drop_from_train = "drop_from_train"  # train loses what val or test have, val what test has
    regroup = "regroup"                  # a new split, with everything kept together
    allow = "allow"                      # leave it so, for a reason that the report prints


def conflicting_labels(samples: Samples,
                       duplicates: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The sets of identical pictures whose labels differ; unknown ones differ from none."""
    return [group for group in duplicates if _differ(samples.labels[np.asarray(group)])]


def _differ(labels: npt.NDArray[Any]) -> bool:
    """Whether the known labels of some pictures, (n,) or (n, K), aren't the same."""
    known = ~np.isnan(labels.astype(float))
    return bool((np.where(known, labels, np.inf).min(axis=0)
                 < np.where(known, labels, -np.inf).max(axis=0)).any())


def group_members(samples: Samples) -> dict[str, list[int]]:
    """Indices of the pictures of each group; a picture whose group is "" belongs to none."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(samples.groups or []):
        if group:
            members.setdefault(group, []).append(index)
    return members


def check_given(samples: Samples, given: Names, duplicates: Sequence[Sequence[int]],
                policy: DuplicatePolicy, waiver: str | None,
                near: Sequence[Sequence[int]] = (),
                dependence: Dependence | None = None) -> tuple[Names | None, list[str]]:
    """A given split after the policy, or None when a new one has to be made; and what was done.

    Pictures of the part "" are out of the game. ``near`` are sets of copies that were changed a
    little; the policy treats them as identical ones. So it does pictures of different parts whose
    places are too near to each other, where ``dependence`` knows places.

    Raises:
        DataError: Something is in two parts and the policy is to refuse.
        ConfigurationError: ``allow`` without a reason.
    """
    _need_reason(policy, waiver)
    copies = [g for g in duplicates if len(_parts(given, g)) > 1]
    alike = [g for g in near if len(_parts(given, g)) > 1]
    members = group_members(samples)
    groups = {name: m for name, m in members.items() if len(_parts(given, m)) > 1}
    leaks = place_leaks(given, dependence)
    short = " and ".join(filter(None, [_summary(given, {
        f"{len(copies)} of {len(duplicates)} sets of identical pictures": copies,
        f"{len(alike)} of {len(near)} sets of copies that were changed a little": alike,
        f"{len(groups)} of {len(members)} groups (patients, regions)": groups.values()}),
        leaks.summary]))
    if not short:
        return given, []
    dropped = _without_near(_drop(given, [*copies, *alike, *groups.values()]), dependence)
    return _treated(given, dropped, policy, waiver, _Leak("given split", short, [
        *_details(samples, given, [*copies, *alike], groups), *leaks.examples(samples)],
        bool(len(leaks))))


def check_made(samples: Samples, made: Names, dependence: Dependence | None, method: str,
               policy: DuplicatePolicy, waiver: str | None) -> tuple[Names | None, list[str]]:
    """A split that was made here, by anything but place, after the policy for places too near.

    None when it has to be made anew with these together; and what was done. Nothing is done where
    ``dependence`` knows no places.

    Raises:
        DataError: Places of different parts are too near and the policy is to refuse, or dropping
            pictures empties a part or takes a class from train.
        ConfigurationError: ``allow`` without a reason.
    """
    _need_reason(policy, waiver)
    leaks = place_leaks(made, dependence)
    if not len(leaks):
        return made, []
    dropped = _without_near(made, dependence)
    found = _treated(made, dropped, policy, waiver, _Leak(
        f"split by {method}", leaks.summary, leaks.examples(samples), True))
    if found[0] is dropped:
        _refuse_emptied(samples, made, dropped)
    return found


@dataclass(frozen=True)
class _Leak:
    """What is wrong with a split: which, a sentence, lines, and whether places are part of it."""

    split: str
    short: str
    details: list[str]
    by_place: bool


def _need_reason(policy: DuplicatePolicy, waiver: str | None) -> None:
    if policy is DuplicatePolicy.allow and not (waiver or "").strip():
        raise ConfigurationError('data.duplicates=allow needs data.waiver="REASON", which the '
                                 "report prints")


def _treated(names: Names, dropped: Names, policy: DuplicatePolicy, waiver: str | None,
             leak: _Leak) -> tuple[Names | None, list[str]]:
    """The split after the policy, None for a new one; and what was done, as a sentence."""
    losses, short = _losses(names, (dropped == "") & (names != "")), leak.short
    if policy is DuplicatePolicy.refuse:
        lines = [f"In the {leak.split}, {short}.", *leak.details,
                 "Results on such a split look better than they are. Choose one:",
                 *([_BY_PLACE] if leak.by_place else []), _WAYS_OUT.format(losses)]
        raise DataError("\n".join(lines), ways_out=(
            *(["data.split=spatial\ndata.block_size=SIZE"] if leak.by_place else []),
            "data.duplicates=drop_from_train", "data.duplicates=regroup",
            "data.duplicates=allow\ndata.waiver=REASON"))
    if policy is DuplicatePolicy.allow:
        return names, [f"data.duplicates=allow: {short}; waived with the reason: {waiver}"]
    if policy is DuplicatePolicy.regroup:
        return None, [f"data.duplicates=regroup: {short}; the {leak.split} was replaced by a new "
                      "one that keeps them together"]
    return dropped, [f"data.duplicates=drop_from_train: {short}; {losses}"]


_BY_PLACE = """\
  data.split=spatial data.block_size=SIZE        divides whole blocks of places
  data.split=group data.group_column=COLUMN      larger groups, that hold what is near"""
_WAYS_OUT = """\
  data.duplicates=drop_from_train                {}
  data.duplicates=regroup                        makes a new split that keeps them together
  data.duplicates=allow data.waiver="REASON"     keeps the split; the report prints the reason"""


def _without_near(names: Names, dependence: Dependence | None) -> Names:
    if dependence is None or dependence.places is None:
        return names
    return drop_near(names, dependence.places, dependence.block_buffer)


def _refuse_emptied(samples: Samples, before: Names, after: Names) -> None:
    gone = [part for part in _RANK if (before == part).any() and not (after == part).any()]
    lost = sorted(_trained(samples, before) - _trained(samples, after))
    if gone or lost:
        what = (f"no picture in {' and '.join(gone)}" if gone
                else f"no picture of {first_of(lost)} in train")
        raise DataError(f"data.duplicates=drop_from_train leaves {what}: choose a smaller "
                        "data.block_buffer, data.duplicates=regroup, or data.split=spatial")


def _trained(samples: Samples, names: Names) -> set[str]:
    labels, classes = samples.labels[names == "train"], samples.label_spec.class_names
    if samples.label_spec.is_exclusive:
        return {classes[k] for k in set(labels.tolist())}
    return {c for c, column in zip(classes, labels.T, strict=True) if (column == 1).any()}


def _parts(given: Names, members: Sequence[int]) -> set[str]:
    return {str(given[i]) for i in members} - {""}


def _summary(given: Names, torn: Mapping[str, Collection[Sequence[int]]]) -> str:
    return " and ".join(f"{told} lie across {_which(given, sets)}"
                        for told, sets in torn.items() if sets)


def _which(given: Names, sets: Iterable[Sequence[int]]) -> str:
    parts = set[str]().union(*(_parts(given, members) for members in sets))
    return " and ".join(sorted(parts, key=_RANK.__getitem__))


def _details(samples: Samples, given: Names, copies: list[Sequence[int]],
             groups: dict[str, list[int]]) -> list[str]:
    lines = ["  " + " = ".join(f"{samples.ids[i]} ({given[i]})" for i in g[:3] if given[i])
             for g in copies[:5]]
    lines += [f"  and {len(copies) - 5} more sets"] if len(copies) > 5 else []
    wrong = conflicting_labels(samples, copies)
    if wrong:
        first = [" = ".join(samples.ids[i] for i in g[:3]) for g in wrong]
        lines.append(f"  {len(wrong)} of these sets have conflicting labels: "
                     f"{first_of(first, count=3)}")
    lines += [f"  groups: {first_of(sorted(groups))}"] if groups else []
    return lines


def _losses(given: Names, lost: npt.NDArray[np.bool_]) -> str:
    counts = {p: int((lost & (given == p)).sum()) for p in ("train", "val")}
    found = " and ".join(f"{n} pictures from {p}" for p, n in counts.items() if n)
    return f"drops {found}"


def _drop(given: Names, together: list[Sequence[int]]) -> Names:
    """The split in which each set stays only in the last of its parts: test, else val."""
    names = given.copy()
    for members in together:
        last = max(_RANK[part] for part in _parts(given, members))
        for index in members:
            if given[index] and _RANK[str(given[index])] < last:
                names[index] = ""
    return names
