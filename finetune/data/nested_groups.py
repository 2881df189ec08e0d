"""Groups on several levels, such as patient, lesion and slide, as one level of groups."""

from collections.abc import Mapping, Sequence

from finetune.data.unions import joined
from finetune.errors import first_of

__all__ = ["nested_groups"]


def nested_groups(levels: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The group of each picture, so that pictures which share a value of any level are together.

    Args:
        levels: Values of the pictures by the level's name, from coarse to fine; "" is none.

    Returns:
        A group for each picture, "" where every level is empty, and what has to be said. With one
        level the values themselves; with several, ``LEVEL=VALUE`` of the coarsest level there.

    >>> nested_groups({"patient": ["A", "A", "", ""], "slide": ["1", "2", "2", ""]})[0]
    ['patient=A', 'patient=A', 'patient=A', '']
    """
    values = {level: [v.strip() for v in column] for level, column in levels.items()}
    if len(values) == 1:
        return next(iter(values.values())), []
    count = len(next(iter(values.values())))
    members: dict[tuple[str, str], list[int]] = {}
    for level, column in values.items():
        for index, value in enumerate(column):
            if value:
                members.setdefault((level, value), []).append(index)
    groups = [""] * count
    for component in joined(count, members.values()):
        name = _name(values, component)
        for index in component:
            groups[index] = name
    return groups, _told(values, groups)


def _name(values: Mapping[str, Sequence[str]], component: Sequence[int]) -> str:
    for level, column in values.items():
        found = {column[i] for i in component} - {""}
        if found:
            return f"{level}={min(found)}"
    return ""


def _told(values: Mapping[str, Sequence[str]], groups: Sequence[str]) -> list[str]:
    counts = " and ".join(f"{len(set(column) - {''})} values of {level}"
                          for level, column in values.items())
    told = [f"{counts} make {len(set(groups) - {''})} groups: pictures that share any of them "
            "stay together"]
    coarse, *finer = values
    inside: dict[str, set[str]] = {}
    for group, value in zip(groups, values[coarse], strict=True):
        if value:
            inside.setdefault(group, set()).add(value)
    several = [" + ".join(sorted(found)) for found in inside.values() if len(found) > 1]
    if several:
        told.append(f"{len(several)} groups hold several values of {coarse}, which share a value "
                    f"of {' or '.join(finer)}: {first_of(sorted(several), count=3)}; where "
                    f"{' or '.join(finer)} is numbered anew in each {coarse}, name {coarse} alone")
    return told
