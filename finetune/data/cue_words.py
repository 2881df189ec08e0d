"""What a cue tells about the classes, as one sentence with counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.data.cues import Cue

__all__ = ["MOST_CLASSES", "tell", "tell_by_class"]

Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
MOST_CLASSES = 12   # that are named one by one
_ARE = ("colour mode", "EXIF data", "colours")  # cues whose words follow "is"
_MOST_VALUES = 50  # that are looked at, the most frequent ones


def tell_by_class(cue: Cue, labels: Labels, class_names: Sequence[str]) -> str:
    """How many pictures of each class have the property that `tell` tells of words; else "".

    Only for 3 to 12 classes: fewer are told whole already.
    """
    own = labels[cue.rows]
    classes = np.unique(own).tolist()
    if cue.words is None or not 2 < len(classes) <= MOST_CLASSES:
        return ""
    best = max(_of_words(cue.words, own), key=lambda t: (round(t.contrast, 6), -t.label, t.text))
    has = np.array(cue.words) == best.text
    return f"{best.text}: " + ", ".join(
        f"{int((has & (own == c)).sum()):,} of {int((own == c).sum()):,} {class_names[c]!r}"
        for c in classes)


@dataclass(frozen=True)
class _Tale:
    """A property, and how many pictures of one class and of all others have it."""

    label: int
    text: str
    inside: int
    size: int
    outside: int
    rest: int

    @property
    def contrast(self) -> float:
        return self.inside / max(self.size, 1) - self.outside / max(self.rest, 1)


def tell(cue: Cue, labels: Labels, class_names: Sequence[str]) -> str:
    """The property that tells one class best from the others, with the counts.

    Args:
        cue: With rows that index ``labels``.
        labels: (N,) of all pictures.
        class_names: By label.
    """
    own = labels[cue.rows]
    tales = _of_words(cue.words, own) if cue.words is not None else _of_numbers(cue, own)
    best = max(tales, key=lambda t: (round(t.contrast, 6), -t.label, t.text), default=None)
    return "" if best is None else _sentence(best, cue, own, class_names)


def _of_words(words: Sequence[str], labels: Labels) -> list[_Tale]:
    values, code = np.unique(np.array(words), return_inverse=True)
    classes, own = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(values), len(classes)), np.int64)
    np.add.at(counts, (code, own), 1)
    sizes = counts.sum(axis=0)
    return [_Tale(int(classes[c]), str(values[v]), int(counts[v, c]), int(sizes[c]),
                  int(counts[v].sum() - counts[v, c]), int(len(labels) - sizes[c]))
            for v in np.argsort(-counts.sum(axis=1), kind="stable")[:_MOST_VALUES]
            for c in range(len(classes))]


def _tale(has: Mask, labels: Labels, label: int, text: str) -> _Tale:
    inside = labels == label
    return _Tale(label, text, int((has & inside).sum()), int(inside.sum()),
                 int((has & ~inside).sum()), int((~inside).sum()))


def _of_numbers(cue: Cue, labels: Labels) -> list[_Tale]:
    assert cue.numbers is not None
    return [tale for column, name in zip(cue.numbers.T, cue.columns, strict=True)
            for tale in _of_column(column, name, labels)]


def _of_column(column: npt.NDArray[np.float64], name: str, labels: Labels) -> list[_Tale]:
    """For each class, the threshold that divides it best from the others (Youden 1950)."""
    known = ~np.isnan(column)
    values, order = np.unique(column[known], return_inverse=True)
    if len(values) < 2:
        return []
    tales = []
    every = np.cumsum(np.bincount(order, minlength=len(values)))
    for label in np.unique(labels[known]).tolist():
        mine = np.cumsum(np.bincount(order[labels[known] == label], minlength=len(values)))
        ahead = (mine / mine[-1] - (every - mine) / max(every[-1] - mine[-1], 1))[:-1]
        place = int(np.argmax(np.abs(ahead)))
        below = known & (column <= values[place])
        tales.append(_tale(below, labels, label, f"{_measure(name, values[place])} or less")
                     if ahead[place] >= 0 else
                     _tale(known & ~below, labels, label,
                           f"{_measure(name, values[place + 1])} or more"))
    return tales


def _measure(name: str, value: float) -> str:
    """A property in words.

    >>> _measure("width|px", 224.0), _measure("mean brightness", 0.123456)
    ('a width of 224 px', 'a mean brightness of 0.123')
    """
    text, _, unit = name.partition("|")
    return f"a {text} of {_short(value)} {unit}".rstrip()


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def _sentence(tale: _Tale, cue: Cue, labels: Labels, class_names: Sequence[str]) -> str:
    text, name = tale.text, class_names[tale.label]
    verb = "is" if cue.words is not None and cue.name in _ARE else "has"
    if cue.name == "name pattern":
        text = f"a name like {text!r}"
    elif cue.name == "file format":
        text = f"the format {text}"
    first = _counted(tale.inside, tale.size, f"{name!r} picture", verb, text)
    if not tale.rest:
        return first
    opposite = None if cue.words is None else _only_other(cue.words, labels, tale)
    if opposite is not None and tale.outside == 0:
        return f"{first}; every other one {verb} {opposite}, {tale.rest:,} of {tale.rest:,}"
    if tale.outside == 0:
        return f"{first}; none of the {tale.rest:,} others {verb}"
    return (f"{first}; of all others {tale.outside:,} of {tale.rest:,} "
            f"({_percent(tale.outside, tale.rest)})")


def _counted(count: int, size: int, noun: str, verb: str, text: str) -> str:
    if count == size:
        return f"every {noun} {verb} {text}, {count:,} of {size:,}"
    plural = {"is": "are", "has": "have"}[verb]
    return f"{count:,} of {size:,} {noun}s ({_percent(count, size)}) {plural} {text}"


def _percent(count: int, size: int) -> str:
    """Rounded, but 0 and 100 only where they are exact.

    >>> _percent(1, 5000), _percent(4999, 5000)
    ('0.1 %', '99.9 %')
    """
    exact = 100 * count / size
    bounded = exact if count in (0, size) else min(max(exact, 0.1), 99.9)
    return f"{bounded:.1f} %"


def _only_other(words: Sequence[str], labels: Labels, tale: _Tale) -> str | None:
    others = {word for word, label in zip(words, labels.tolist(), strict=True)
              if label != tale.label}
    return others.pop() if len(others) == 1 else None
