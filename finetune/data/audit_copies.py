"""Findings about copies: identical pictures, near-duplicates, groups and places across parts."""

from collections.abc import Sequence

import numpy as np

from finetune.data.duplicates import conflicting_labels, group_members
from finetune.data.findings import (
    MOST_SHOWN,
    Collection,
    Finding,
    Level,
    label_of,
    names_of_parts,
    parts_of,
    sets_across,
    to_show,
)
from finetune.data.near_duplicates import NearPair, near_duplicates_across
from finetune.data.place_leaks import find_place_leaks
from finetune.data.samples import Samples
from finetune.data.scanning import PictureFacts
from finetune.errors import first_of

__all__ = ["find_copies", "same_bytes"]


def find_copies(data: Collection) -> list[Finding]:
    """Identical pictures, near ones, conflicting labels among them, groups and places across."""
    return [*_identical(data), *_near(data), *_groups(data), *_places(data)]


def same_bytes(facts: Sequence[PictureFacts]) -> list[list[int]]:
    """Sets of indices of files that are identical byte for byte."""
    found: dict[str, list[int]] = {}
    for index, fact in enumerate(facts):
        found.setdefault(fact.byte_hash, []).append(index)
    return [members for members in found.values() if len(members) > 1]


def _identical(data: Collection) -> list[Finding]:
    """Sets of identical pictures: across parts, inside, and with conflicting labels."""
    if not data.duplicates:
        return []
    files = same_bytes(data.facts)
    across = sets_across(data, data.duplicates)
    files_across = sets_across(data, files)
    wrong = conflicting_labels(data.samples, data.duplicates)
    found = [Finding(
        Level.error if across else Level.warning, "identical",
        f"{len(files):,} groups of identical files ({sum(map(len, files)):,} pictures)"
        + (f", {len(files_across):,} of them across {names_of_parts(data, files_across)}"
           if files_across else ""),
        _beyond(data, files, across) + _named(data, across or list(data.duplicates)),
        to_show([*across, *data.duplicates]))]
    if wrong:
        found.append(Finding(Level.error, "conflicting_labels",
                             f"{len(wrong):,} groups of identical pictures have conflicting labels",
                             _labelled(data, wrong), to_show(wrong)))
    return found


def _beyond(data: Collection, files: list[list[int]],
            across: list[Sequence[int]]) -> tuple[str, ...]:
    """What identical pixels in different files add."""
    more = len({i for members in data.duplicates for i in members}
               - {i for members in files for i in members})
    if not more:
        return ()
    return (f"with files of identical pixels: {len(data.duplicates):,} groups, {len(across):,} of "
            f"them across parts; {more:,} more pictures",)


def _named(data: Collection, sets: Sequence[Sequence[int]], count: int = 3) -> tuple[str, ...]:
    lines = [" = ".join(_place(data, i) for i in members[:4]) for members in sets[:count]]
    return (*lines, *([f"and {len(sets) - count:,} more groups"] if len(sets) > count else []))


def _place(data: Collection, index: int) -> str:
    part = data.parts[index]
    return data.samples.ids[index] + (f" ({part})" if part not in ("all", "") else "")


def _labelled(data: Collection, sets: Sequence[Sequence[int]]) -> tuple[str, ...]:
    return tuple(" = ".join(f"{data.samples.ids[i]} ({label_of(data.samples, i)})" for i in m[:4])
                 for m in sets[:MOST_SHOWN])


def _near(data: Collection) -> list[Finding]:
    """Near-duplicates beyond identical ones, those across parts first."""
    pairs = list(data.pairs or [])
    if not pairs:
        return []
    across = {certain: [p for p in near_duplicates_across(pairs, data.parts)
                        if p.certain is certain] for certain in (True, False)}
    found = []
    for certain in (True, False):
        some = [p for p in pairs if p.certain is certain]
        if some:
            first = across[certain] or sorted(some, key=lambda p: -p.correlation)
            word, level = (("certain", Level.error) if certain else ("likely", Level.warning))
            found.append(Finding(
                level if across[certain] else Level.warning if certain else Level.note,
                f"near_duplicates_{word}", f"{len(some):,} {word} near-duplicate pairs beyond "
                "identical pictures" + _told_across(data, across[certain]),
                tuple(_described(data, p) for p in first[:5]), to_show(
                    [(p.first, p.second) for p in first]), tuple(first[:MOST_SHOWN])))
    wrong = [p for p in pairs if p.certain and _differ(data.samples, p)]
    if wrong:
        found.append(Finding(Level.warning, "conflicting_near_duplicates",
                             f"{len(wrong):,} certain near-duplicate pairs have conflicting labels",
                             _labelled(data, [(p.first, p.second) for p in wrong]),
                             to_show([(p.first, p.second) for p in wrong]),
                             tuple(wrong[:MOST_SHOWN])))
    return found


def _told_across(data: Collection, across: list[NearPair]) -> str:
    sets = [(p.first, p.second) for p in across]
    return f", {len(across):,} of them across {names_of_parts(data, sets)}" if across else ""


def _described(data: Collection, pair: NearPair) -> str:
    return (f"{_place(data, pair.first)} ~ {_place(data, pair.second)}: correlation "
            f"{pair.correlation:.3f}, {pair.transform}")


def _differ(samples: Samples, pair: NearPair) -> bool:
    first, second = samples.labels[pair.first], samples.labels[pair.second]
    return repr(first.tolist()) != repr(second.tolist())


def _groups(data: Collection) -> list[Finding]:
    members = group_members(data.samples)
    across = {name: m for name, m in members.items() if len(parts_of(data, m)) > 1}
    if not across:
        return []
    return [Finding(Level.error, "groups_across", f"{len(across):,} of {len(members):,} groups "
                    f"(patients, regions) lie across {names_of_parts(data, across.values())}: "
                    f"{first_of(sorted(across))}", pictures=to_show(across.values()))]


def _places(data: Collection) -> list[Finding]:
    """Pictures of different parts at places that are too near to each other."""
    if data.places is None:
        return []
    leaks = find_place_leaks(np.array(data.parts), data.places, data.block_buffer)
    if not len(leaks):
        return []
    pairs = zip(leaks.indices.tolist(), leaks.neighbours.tolist(), strict=True)
    return [Finding(Level.error, "places_across", leaks.summary,
                    tuple(line.strip() for line in leaks.examples(data.samples)), to_show(pairs))]
