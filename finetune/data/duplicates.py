"""Identical pictures, and groups, across the parts of a split that somebody else made."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.samples import Samples
from finetune.errors import ConfigurationError, DataError, first_of

__all__ = ["DuplicatePolicy", "check_given", "conflicting_labels", "group_members"]

Names = npt.NDArray[np.str_]
_RANK = {"train": 0, "val": 1, "test": 2}


class DuplicatePolicy(StrEnum):
    """What identical pictures, or groups, across the parts of a given split do."""

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
                policy: DuplicatePolicy, waiver: str | None) -> tuple[Names | None, list[str]]:
    """A given split after the policy, or None when a new one has to be made; and what was done.

    Pictures of the part "" are out of the game.

    Raises:
        DataError: Something is in two parts and the policy is to refuse.
        ConfigurationError: ``allow`` without a reason.
    """
    if policy is DuplicatePolicy.allow and not (waiver or "").strip():
        raise ConfigurationError('data.duplicates=allow needs data.waiver="REASON", which the '
                                 "report prints")
    copies = [g for g in duplicates if len(_parts(given, g)) > 1]
    members = group_members(samples)
    groups = {name: m for name, m in members.items() if len(_parts(given, m)) > 1}
    if not copies and not groups:
        return given, []
    short = _summary(given, copies, groups, len(duplicates), len(members))
    dropped = _drop(given, [*copies, *groups.values()])
    lost = (dropped == "") & (given != "")
    if policy is DuplicatePolicy.refuse:
        raise DataError("\n".join([f"In the given split, {short}.",
                                   *_details(samples, given, copies, groups),
                                   _WAYS_OUT.format(_losses(given, lost))]),
                        ways_out=("data.duplicates=drop_from_train", "data.duplicates=regroup",
                                  "data.duplicates=allow\ndata.waiver=REASON"))
    if policy is DuplicatePolicy.allow:
        return given, [f"data.duplicates=allow: {short}; waived with the reason: {waiver}"]
    if policy is DuplicatePolicy.regroup:
        return None, [f"data.duplicates=regroup: {short}; the given split was replaced by a new "
                      "one that keeps them together"]
    return dropped, [f"data.duplicates=drop_from_train: {short}; {_losses(given, lost)}"]


_WAYS_OUT = """Results on such a split look better than they are. Choose one:
  data.duplicates=drop_from_train                {}
  data.duplicates=regroup                        makes a new split that keeps them together
  data.duplicates=allow data.waiver="REASON"     keeps the split; the report prints the reason"""


def _parts(given: Names, members: Sequence[int]) -> set[str]:
    return {str(given[i]) for i in members} - {""}


def _summary(given: Names, copies: list[Sequence[int]], groups: dict[str, list[int]],
             sets: int, total: int) -> str:
    found = []
    if copies:
        found.append(f"{len(copies)} of {sets} sets of identical pictures lie across "
                     f"{_which(given, copies)}")
    if groups:
        found.append(f"{len(groups)} of {total} groups (patients, regions) lie across "
                     f"{_which(given, groups.values())}")
    return " and ".join(found)


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
