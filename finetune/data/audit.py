"""What is wrong with a collection of pictures, as findings in order of severity."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.assigning import class_vector
from finetune.data.audit_copies import find_copies
from finetune.data.duplicates import group_members
from finetune.data.findings import (
    MOST_SHOWN,
    PARTS,
    Collection,
    Finding,
    Level,
    label_of,
    to_show,
)
from finetune.data.outliers import find_outliers
from finetune.data.samples import Samples
from finetune.data.scanning import PictureFacts
from finetune.data.shortcuts import told_alone
from finetune.data.unions import joined
from finetune.errors import first_of

__all__ = ["by_severity", "find_faults", "same_units", "tables"]

_IMBALANCE = 10.0   # largest class over smallest, from which it is a warning
_FEW = 10           # pictures of a class in a part


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; otherwise in their order."""
    return sorted(findings, key=lambda f: list(Level).index(f.level))


def same_units(samples: Samples, sets: Iterable[Sequence[int]]) -> npt.NDArray[np.int64]:
    """(N,) the number of what belongs together: sets that overlap, and groups."""
    units = np.empty(len(samples), np.int64)
    together = [*sets, *group_members(samples).values()]
    for number, members in enumerate(joined(len(samples), together)):
        units[members] = number
    return units


def find_faults(data: Collection) -> list[Finding]:
    """Everything that is to be said, in order of severity."""
    return by_severity([
        *_broken(data), *find_copies(data), *_absent(data),
        *_shortcuts(data), *_empty(data), *_outlying(data), *_balance(data), *_forms(data),
        *[Finding(Level.note, "reading", text) for text in data.notes]])


def _broken(data: Collection) -> list[Finding]:
    if not data.broken:
        return []
    total = len(data.broken) + len(data.samples)
    return [Finding(Level.error, "broken", f"{len(data.broken):,} of {total:,} pictures can't be "
                    "read", tuple(f"{name}: {why}" for name, why in data.broken[:MOST_SHOWN]))]


def _absent(data: Collection) -> list[Finding]:
    """Classes missing from a part, or hardly there."""
    names, found = data.samples.label_spec.class_names, []
    for part, counts in _class_counts(data).items():
        absent = [n for n, c in zip(names, counts, strict=True) if c == 0]
        few = [f"{n} ({c:.0f})" for n, c in zip(names, counts, strict=True) if 0 < c < _FEW]
        if absent:
            found.append(Finding(Level.error if part != "val" else Level.warning, "absent_classes",
                                 f"{len(absent):,} of {len(names):,} classes have no picture in "
                                 f"{part}: {first_of(absent)}"))
        if few:
            found.append(Finding(Level.warning, "small_classes", f"{len(few):,} classes have fewer "
                                 f"than {_FEW} pictures in {part}: {first_of(few)}"))
    return found


def _class_counts(data: Collection) -> dict[str, npt.NDArray[np.float64]]:
    parts = np.array(data.parts)
    return {part: class_vector(data.samples, np.flatnonzero(parts == part))
            for part in ("all", *PARTS) if (parts == part).any()}


def _shortcuts(data: Collection) -> list[Finding]:
    found = []
    for cue in data.cues:
        if cue.words:
            level = Level(cue.verdict.value)
            found.append(Finding(level, f"cue:{cue.name}", (
                f"{cue.name}: {cue.words}"), tuple(filter(None, [
                    cue.by_class, cue.remark, told_alone(cue), _MEANING[
                        "raised" if level is Level.shortcut and cue.kind == "content"
                        else cue.kind.value]]))))
    return found


_MEANING = {
    "seen": "The classes were stored in different ways, and a network may see what that does to "
            "the pixels. Bring all pictures to one form (data.channels=1, one size, one "
            "compression), or get pictures of all classes from the same sources",
    "source": "No network sees this itself. It tells that the classes come from different sources, "
              "which pixels may tell too",
    "name": "Names tell the class; harmless unless the order or the source matters: no network "
            "sees them",
    "content": "This is part of the content and may be meant; it is a shortcut where a model does "
               "little more",
    "raised": "This alone gives half of the model's gain over chance or more",
}


def _empty(data: Collection) -> list[Finding]:
    constant = [i for i, f in enumerate(data.facts) if f.minimum == f.maximum]
    found = [Finding(Level.warning, "constant", f"{len(constant):,} pictures have one value in all "
                     f"pixels: {first_of([data.samples.ids[i] for i in constant], count=3)}",
                     pictures=to_show([(i,) for i in constant]))] if constant else []
    if data.descriptors is not None:
        blank = sorted(set(np.flatnonzero(data.descriptors.blank).tolist()) - set(constant))
        if blank:
            names = first_of([data.samples.ids[i] for i in blank], count=3)
            found.append(Finding(Level.note, "blank", f"{len(blank):,} pictures are almost blank, "
                                 f"too empty to be compared: {names}",
                                 pictures=to_show([(i,) for i in blank])))
    return found


def _outlying(data: Collection) -> list[Finding]:
    if data.descriptors is None:
        return []
    far = find_outliers(data.descriptors)
    return [Finding(Level.note, "outlying", f"{len(far):,} pictures are unlike all others: "
                    f"{first_of([data.samples.ids[i] for i in far], count=3)}",
                    pictures=to_show([(i,) for i in far]))] if far else []


def _balance(data: Collection) -> list[Finding]:
    counts = class_vector(data.samples, np.arange(len(data.samples)))
    names = data.samples.label_spec.class_names
    order = np.argsort(-counts, kind="stable")
    large, small = int(order[0]), int(order[-1])
    ratio = counts[large] / max(counts[small], 1)
    told = (f"{len(names):,} classes, {counts[small]:,.0f} ({names[small]}) to "
            f"{counts[large]:,.0f} pictures ({names[large]}), 1 to {ratio:.3g}")
    return [Finding(Level.warning if ratio >= _IMBALANCE else Level.note, "balance", told)]


def _forms(data: Collection) -> list[Finding]:
    """Sizes, modes and channels, in one line each."""
    found = []
    for key, one, several in (("sizes", "picture size", "picture sizes"),
                              ("modes", "colour mode", "colour modes"),
                              ("channels", "kind of pixels", "kinds of pixels")):
        counts = _tally(_form(f)[key] for f in data.facts)
        common = first_of([f"{name} ({count:,})" for name, count in counts.items()])
        title = f"one {one}" if len(counts) == 1 else f"{len(counts):,} {several}"
        found.append(Finding(Level.note, key, f"{title}: {common}"))
    return found


def _form(fact: PictureFacts) -> dict[str, str]:
    return {"sizes": f"{fact.width} x {fact.height}", "modes": fact.mode,
            "channels": f"{fact.channels} x {fact.dtype}"}


def _tally(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def tables(data: Collection, *, most: int = 20) -> dict[str, Any]:
    """Pictures by class and part; sizes, modes and channels by class and part.

    Keys: ``classes``, a class's name to part to count; ``sizes``, ``modes`` and ``channels``, part
    to class's name to value to count, the ``most`` frequent ones. Of several labels, each counts.
    """
    names, counts = data.samples.label_spec.class_names, _class_counts(data)
    made: dict[str, Any] = {"classes": {name: {part: int(row[i]) for part, row in counts.items()}
                                        for i, name in enumerate(names)}}
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for index, fact in enumerate(data.facts):
        for name in label_of(data.samples, index).split("|"):
            rows.setdefault((data.parts[index], name), []).append(_form(fact))
    for key in ("sizes", "modes", "channels"):
        made[key] = {}
        for (part, name), forms in sorted(rows.items()):
            tally = list(_tally(form[key] for form in forms).items())[:most]
            made[key].setdefault(part or "none", {})[name] = dict(tally)
    return made
