"""What a reader has to know about a split."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetune.data.assigning import known_negatives, lacking
from finetune.data.duplicates import conflicting_labels, group_members
from finetune.data.samples import Samples
from finetune.errors import first_of

__all__ = ["PARTS", "gap_warnings", "split_warnings"]

PARTS = ("train", "val", "test")
Names = npt.NDArray[np.str_]


def split_warnings(samples: Samples, method: str, duplicates: Sequence[Sequence[int]],
                   near: Sequence[Sequence[int]]) -> list[str]:
    """What is to be said of copies and groups, before the pictures are divided.

    Args:
        samples: The pictures.
        method: A member of `finetune.data.splits.SplitMethod`.
        duplicates: Sets of identical pictures.
        near: Sets of copies that were changed a little.
    """
    return [*_duplicate_warnings(samples, duplicates), *_near_warnings(samples, near),
            *_group_warnings(samples, method)]


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


def _near_warnings(samples: Samples, near: Sequence[Sequence[int]]) -> list[str]:
    if not near:
        return []
    found = [f"{sum(map(len, near))} pictures are in {len(near)} sets of which some are copies of "
             "others, changed a little (size, coding, flips, quarter turns, brightness, borders); "
             "each set is kept in one part wherever the split is made here"]
    conflicts = conflicting_labels(samples, near)
    if conflicts:
        first = [" = ".join(samples.ids[i] for i in group[:3]) for group in conflicts]
        found.append(f"{len(conflicts)} of these sets have conflicting labels: "
                     f"{first_of(first, count=3)}")
    return found


def _group_warnings(samples: Samples, method: str) -> list[str]:
    """What to say about groups, in a split that is made here."""
    if method == "provided" or samples.groups is None:
        return []
    if method == "stratified":
        return [f"data.split=stratified: {len(set(samples.groups))} groups are ignored; one "
                "group's pictures can be in several parts"]
    if not samples.label_spec.is_exclusive:
        return []
    mixed = [name for name, members in group_members(samples).items()
             if len(set(samples.labels[members].tolist())) > 1]
    return [f"{len(mixed)} groups hold pictures of several classes, and stay together: "
            f"{first_of(sorted(mixed), count=3)}"] if mixed else []


def gap_warnings(samples: Samples, names: Names) -> list[str]:
    """Classes that a part lacks, and labels without a known 'no' in one."""
    there = [part for part in PARTS if (names == part).any()]
    found = {part: lacking(samples, names, part) for part in there}
    return [f"{len(classes)} classes have no picture in {part}: {first_of(classes)}"
            for part, classes in found.items() if classes] + [
        f"{len(always)} labels have no known 'no' in {part}: {first_of(always)}; what needs one, "
        "as specificity and ROC-AUC, is not defined there"
        for part in there if (always := _never_no(samples, names == part))]


def _never_no(samples: Samples, inside: npt.NDArray[np.bool_]) -> list[str]:
    if samples.label_spec.is_exclusive:
        return []
    counts = known_negatives(samples, np.flatnonzero(inside))
    return [n for n, c in zip(samples.label_spec.class_names, counts, strict=True) if not c]
