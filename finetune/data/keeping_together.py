"""A given split, changed as little as possible so that what belongs together is in one part."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from finetune.data.samples import Samples
from finetune.data.unions import joined

__all__ = ["keep_together"]

_RANK = {"train": 0, "val": 1, "test": 2}


def keep_together(samples: Samples, together: Sequence[Sequence[int]]) -> tuple[Samples, int]:
    """The samples with each set moved to the part where most of it is, and how many moved.

    The fewest pictures change their part; a tie goes to test, else to val. No picture is lost.
    Samples without a given split stay as they are.

    Args:
        samples: The pictures.
        together: Sets of indices that may overlap; groups of the samples are added.
    """
    if samples.given_split is None:
        return samples, 0
    groups: dict[str, list[int]] = {}
    for index, group in enumerate(samples.groups or []):
        if group:
            groups.setdefault(group, []).append(index)
    given = list(samples.given_split)
    for members in joined(len(samples), [*together, *groups.values()]):
        counts = Counter(given[i] for i in members if given[i])
        if len(counts) > 1:
            home = max(counts, key=lambda part: (counts[part], _RANK[part]))
            for index in members:
                given[index] = home if given[index] else ""
    moved = sum(a != b for a, b in zip(given, samples.given_split, strict=True))
    return replace(samples, given_split=given), moved
