"""Identical pictures, and groups, across the parts of a split that somebody else made."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.samples import Samples
from finetune.errors import ConfigurationError, DataError, first_of

__all__ = ["DuplicatePolicy", "check_given", "conflicting_labels"]

_RANK = {"train": 0, "val": 1, "test": 2}


class DuplicatePolicy(StrEnum):
    """What to do about them."""

    refuse = "refuse"
    drop_from_train = "drop_from_train"
    regroup = "regroup"
    allow = "allow"


def conflicting_labels(samples: Samples,
                       duplicates: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The sets of identical pictures whose labels differ."""
    return [group for group in duplicates
            if len({repr(samples.labels[i].tolist()) for i in group}) > 1]


def check_given(samples: Samples, given: npt.NDArray[np.str_],
                duplicates: Sequence[Sequence[int]], policy: DuplicatePolicy,
                waiver: str | None) -> tuple[npt.NDArray[np.str_] | None, list[str]]:
    """A given split after the policy, or None when a new one has to be made; and what was done.

    Raises:
        DataError: Something is in two parts and the policy is to refuse.
        ConfigurationError: ``allow`` without a reason.
    """
    across = [g for g in duplicates if len({given[i] for i in g}) > 1]
    groups = _groups_across(samples, given)
    if not across and not groups:
        return given, []
    found = _describe(samples, across, groups, len(duplicates))
    if policy is DuplicatePolicy.refuse:
        raise DataError(f"{found}\n{_WAYS_OUT}")
    if policy is DuplicatePolicy.allow:
        if not (waiver or "").strip():
            raise ConfigurationError('data.duplicates=allow needs data.waiver="REASON"')
        return given, [f"WAIVED ({waiver}): {found.splitlines()[0]}"]
    if policy is DuplicatePolicy.regroup:
        return None, [f"split made anew, with identical pictures and groups kept together, because "
                      f"{found.splitlines()[0]}"]
    names, dropped = _dropped(samples, given, across, groups)
    return names, [f"{dropped} pictures were dropped from train and val, because "
                   f"{found.splitlines()[0]}"]


_WAYS_OUT = """Results on such a split are too good. Ways out:
  data.duplicates=drop_from_train         leave copies out of train (and of val, where test has them)
  data.duplicates=regroup                 make a new split with copies kept together
  data.duplicates=allow data.waiver="REASON"   keep it; the report prints the reason"""


def _groups_across(samples: Samples, given: npt.NDArray[np.str_]) -> list[str]:
    parts: dict[str, set[str]] = {}
    for group, part in zip(samples.groups or [], given, strict=False):
        parts.setdefault(group, set()).add(str(part))
    return sorted(g for g, p in parts.items() if len(p) > 1)


def _describe(samples: Samples, across: Sequence[Sequence[int]], groups: Sequence[str],
              total: int) -> str:
    lines = []
    if across:
        pictures = sum(len(g) for g in across)
        lines.append(f"{len(across)} of {total} groups of identical pictures ({pictures} pictures) "
                     "lie across the parts of the given split")
        lines += ["  " + " = ".join(samples.ids[i] for i in g[:3]) for g in across[:5]]
        wrong = conflicting_labels(samples, across)
        if wrong:
            lines.append(f"  {len(wrong)} of them have conflicting labels")
    if groups:
        lines.append(f"{len(groups)} groups (patients, regions) lie across the parts of the given "
                     f"split: {first_of(groups)}")
    return "\n".join(lines)


def _dropped(samples: Samples, given: npt.NDArray[np.str_], across: Sequence[Sequence[int]],
             groups: Sequence[str]) -> tuple[npt.NDArray[np.str_], int]:
    names: npt.NDArray[Any] = given.copy()
    spread = set(groups)
    members: dict[str, list[int]] = {}
    for index, group in enumerate(samples.groups or []):
        if group in spread:
            members.setdefault(group, []).append(index)
    for together in [*across, *members.values()]:
        last = max(_RANK[given[i]] for i in together)
        for index in together:
            if _RANK[given[index]] < last:
                names[index] = ""
    return names, int((names == "").sum())
