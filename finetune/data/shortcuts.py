"""How well the label can be told from what isn't content: shortcuts.

See Geirhos 2020 (arXiv 2004.07780). Naive Bayes is given one cue at a time. Its balanced accuracy,
cross-validated with duplicates and groups kept together, is compared with what it reaches on
permuted labels.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from finetune.data.cue_guessing import Cells, cells_of, guess_labels
from finetune.data.cue_words import tell, tell_by_class
from finetune.data.cues import Cue, CueKind

__all__ = ["CueResult", "Verdict", "choose_sample", "find_shortcuts", "mean_recall_interval",
           "raise_by_gain", "told_alone"]

FOLDS, PERMUTATIONS = 5, 99
ALPHA = 0.05          # for the largest of all cues: one false alarm in 20 collections at most
LEAST_GAIN = 0.1      # of the way from chance to 1; less is not worth a word
LEAST_UNITS = 5       # of a class, for it to be measured
MANY_CLASSES, FEWER = 50, 19  # from so many on, so many permutations: just enough for .05
_Z = 1.959964

Labels = npt.NDArray[np.int64]


class Verdict(StrEnum):
    """What a cue amounts to."""

    shortcut = "shortcut"
    warning = "warning"
    note = "note"
    nothing = "nothing"


@dataclass(frozen=True)
class CueResult:
    """How well the label can be told from one cue.

    Attributes:
        name: Of the cue.
        kind: Of the cue.
        verdict: What it amounts to.
        balanced_accuracy: Of naive Bayes, cross-validated.
        interval: 95 %; see `mean_recall_interval`.
        chance: One over the number of classes.
        p_value: That the best of all cues reaches so much by accident (family-wise).
        count: Pictures used.
        units: Sets of pictures that belong together among these.
        words: The difference in plain words with counts; "" without one.
        by_class: The same property in each class; "" where ``words`` tell everything.
        remark: Of the cue.
    """

    name: str
    kind: CueKind
    verdict: Verdict
    balanced_accuracy: float
    interval: tuple[float, float]
    chance: float
    p_value: float
    count: int
    units: int
    words: str = ""
    by_class: str = ""
    remark: str = ""


def choose_sample(ids: Sequence[str], labels: Labels, *, limit: int = 2000) -> list[int]:
    """Indices of at most about ``limit`` pictures, the same number of each class.

    Drawn by the hash of their names: a function of the names, not of their order.
    """
    keys = [hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
            for name in ids]
    order = np.array(sorted(range(len(ids)), key=lambda i: (keys[i], ids[i])), np.int64)
    classes = np.unique(labels)
    most = -(-limit // max(len(classes), 1))
    taken = [order[labels[order] == label][:most] for label in classes]
    among = np.isin(order, np.concatenate(taken)) if taken else np.zeros(len(order), bool)
    chosen: list[int] = order[among].tolist()
    return chosen


def find_shortcuts(cues: Sequence[Cue], labels: Labels, units: npt.NDArray[np.int64],
                   class_names: Sequence[str], *, sample: Sequence[int],
                   model_gain: float | None = None, seed: int = 0,
                   permutations: int = PERMUTATIONS,
                   progress: Callable[[int], object] | None = None) -> list[CueResult]:
    """What each cue tells of the label, the most telling first.

    The p-value holds for all cues together: labels are permuted between units, and each cue is
    compared with the best cue of each permutation (Westfall and Young 1993). A cue counts from a
    tenth of the way between chance and 1.

    Args:
        cues: With rows that index ``labels``.
        labels: (N,) of all pictures.
        units: (N,) numbers of sets that no fold divides: duplicates, groups.
        class_names: By label.
        sample: Indices of the pictures to measure with, from `choose_sample`.
        model_gain: Balanced accuracy of a trained model above chance, where one is known; content
            that reaches half of it alone is a shortcut too.
        seed: Of folds and permutations.
        permutations: Of the labels; at most 19 with 50 classes or more.
        progress: Called with the number of permutations done.

    Returns:
        One for each cue; none when fewer than two classes have 5 units.
    """
    rows = _measurable(np.asarray(sample, np.int64), labels, units)
    if not len(rows):
        return []
    own, trial = labels[rows], _Trial(*_units_in_order(units[rows]), seed)
    classes = len(np.unique(own))
    permutations = permutations if classes < MANY_CLASSES else min(permutations, FEWER)
    cells = [cells_of(cue, rows, classes=classes) for cue in cues]
    observed = [trial.guess(each, own) for each in cells]
    gains = np.array([_balanced(own, guess) for guess in observed])
    beaten = np.zeros(len(cues), np.int64)
    for number in range(permutations):
        shuffled = trial.permuted(own, number)
        best = max((_balanced(shuffled, trial.guess(c, shuffled)) for c in cells), default=0.0)
        beaten += best >= gains - 1e-12
        if progress is not None:
            progress(number + 1)
    made = [_result(cue, own, guess, trial.units, (1 + int(b)) / (1 + permutations))
            for cue, guess, b in zip(cues, observed, beaten, strict=True)]
    told = [_with_words(r, cue, labels, class_names) for r, cue in zip(made, cues, strict=True)]
    return raise_by_gain(told, model_gain)


def raise_by_gain(results: Sequence[CueResult], model_gain: float | None) -> list[CueResult]:
    """The same, but content that tells half as much as a model is a shortcut; most telling first.

    Args:
        results: From `find_shortcuts`.
        model_gain: Balanced accuracy of the model above chance; None: not known.
    """
    raised = [replace(r, verdict=Verdict.shortcut) if _is_half(r, model_gain) else r
              for r in results]
    rank = list(Verdict).index
    return sorted(raised, key=lambda r: (rank(r.verdict), -r.balanced_accuracy, r.name))


def told_alone(result: CueResult) -> str:
    """The measure in words, such as ``told from it alone: balanced accuracy 0.47 …``."""
    low, high = result.interval
    return (f"told from it alone: balanced accuracy {result.balanced_accuracy:.2f} (95 % interval "
            f"{low:.2f} to {high:.2f}, chance {result.chance:.2f}, permutation p "
            f"{result.p_value:.2g})")


def _is_half(result: CueResult, model_gain: float | None) -> bool:
    return (model_gain is not None and result.kind is CueKind.content
            and result.verdict is Verdict.note
            and result.balanced_accuracy - result.chance >= model_gain / 2)


def _measurable(rows: npt.NDArray[np.int64], labels: Labels,
                units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The rows of classes with enough units; none if these are fewer than two classes."""
    kept = [label for label in np.unique(labels[rows])
            if len(np.unique(units[rows][labels[rows] == label])) >= LEAST_UNITS]
    return rows[np.isin(labels[rows], kept)] if len(kept) > 1 else rows[:0]


def _units_in_order(units: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    """Numbered by their first row, so that only the order of the sample counts."""
    values, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(first)] = np.arange(len(values))
    return rank[inverse], len(values)


class _Trial:
    """Folds and permutations that respect units; folds don't look at labels."""

    def __init__(self, units: npt.NDArray[np.int64], count: int, seed: int) -> None:
        self.units, self._count, self._seed = units, count, seed
        shuffled = np.random.default_rng(seed).permutation(count)
        self._folds = (shuffled % min(FOLDS, count))[units]

    def guess(self, cells: Cells, labels: Labels) -> Labels:
        """(M,) the label that is likeliest by the other folds."""
        return guess_labels(cells, labels, self._folds)

    def permuted(self, labels: Labels, number: int) -> Labels:
        """Labels given to other units as a whole; a unit of several labels goes by its first."""
        first = np.empty(self._count, np.int64)
        first[self.units[::-1]] = labels[::-1]
        random = np.random.default_rng([self._seed, number])
        return first[random.permutation(self._count)][self.units]


def _balanced(labels: Labels, guess: Labels) -> float:
    hits = np.bincount(labels, weights=labels == guess)
    counts = np.bincount(labels, minlength=len(hits))
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def mean_recall_interval(labels: Labels, guess: Labels,
                         units: npt.NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of the balanced accuracy, honest near 1.

    Wilson's interval of each class's recall, at the number of units as its size, combined by
    Zou and Donner (2008, doi 10.1002/sim.3095). The spread between trainings is not in it.

    Args:
        labels: (M,).
        guess: (M,).
        units: (M,) what belongs together; pictures of one are counted as one.
    """
    mean, low, high = 0.0, 0.0, 0.0
    classes = np.unique(labels)
    for label in classes:
        inside = labels == label
        share, size = float((guess[inside] == label).mean()), len(np.unique(units[inside]))
        lower, upper = _wilson(share, size)
        mean, low, high = mean + share, low + (share - lower) ** 2, high + (upper - share) ** 2
    count = len(classes)
    return max(0.0, (mean - low ** 0.5) / count), min(1.0, (mean + high ** 0.5) / count)


def _wilson(share: float, size: int) -> tuple[float, float]:
    centre = (share + _Z ** 2 / (2 * size)) / (1 + _Z ** 2 / size)
    half = _Z / (1 + _Z ** 2 / size) * (share * (1 - share) / size + (_Z / (2 * size)) ** 2) ** 0.5
    return min(share, centre - half), max(share, centre + half)


def _result(cue: Cue, labels: Labels, guess: Labels, units: npt.NDArray[np.int64],
            p_value: float) -> CueResult:
    value, chance = _balanced(labels, guess), 1 / len(np.unique(labels))
    interval = mean_recall_interval(labels, guess, units)
    counts = (value - chance >= LEAST_GAIN * (1 - chance) and p_value <= ALPHA
              and interval[0] > chance)
    verdict = _VERDICTS.get(cue.kind, Verdict.note) if counts else Verdict.nothing
    return CueResult(cue.name, cue.kind, verdict, value, interval, chance, p_value, len(labels),
                     len(np.unique(units)))


_VERDICTS = {CueKind.seen: Verdict.shortcut, CueKind.source: Verdict.warning}


def _with_words(result: CueResult, cue: Cue, labels: Labels,
                class_names: Sequence[str]) -> CueResult:
    if result.verdict is Verdict.nothing:
        return result
    by_class = "" if cue.kind is CueKind.name else tell_by_class(cue, labels, class_names)
    return replace(result, words=tell(cue, labels, class_names), by_class=by_class,
                   remark=cue.remark)
