"""Union of overlapping sets of indices."""

from collections.abc import Iterable, Sequence

__all__ = ["joined"]


def joined(count: int, sets: Iterable[Sequence[int]]) -> list[list[int]]:
    """The finest partition of ``range(count)`` that divides none of the sets.

    Ordered by first member.

    >>> joined(5, [[0, 2], [2, 4]])
    [[0, 2, 4], [1], [3]]
    """
    parent = list(range(count))

    def find(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for members in sets:
        for member in members[1:]:
            low, high = sorted((find(members[0]), find(member)))
            parent[high] = low
    classes: dict[int, list[int]] = {}
    for item in range(count):
        classes.setdefault(find(item), []).append(item)
    return list(classes.values())
