"""One interval's entry: its ends, its method, and what speaks against it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.auc_intervals import Area, area_interval, area_under_roc
from finetune.evaluation.bootstrap import cluster_sums
from finetune.evaluation.proportions import Proportion, count_proportion
from finetune.specs import LabelKind, LabelSpec

__all__ = [
    "FEW_PICTURES",
    "Answers",
    "Entry",
    "Setting",
    "area_of",
    "entry_of",
    "few_of_class",
    "few_units",
    "grouped",
    "proportion",
    "proportion_entry",
    "rarest",
    "roc_entry",
    "undefined",
]

FEW_CLUSTERS, FEW_PICTURES = 20, 10  # below, an interval is flagged
Entry = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How intervals are computed."""

    confidence: float
    seed: int
    resamples: int


@dataclass(frozen=True)
class Answers:
    """Of N pictures and K classes.

    Attributes:
        truth: (N, K) bool, or 0, 1 and NaN = unknown.
        predicted: (N, K) bool.
        probabilities: (N, K).
        clusters: (N,) numbers of groups, or None.
        spec: What the labels are.
    """

    truth: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    clusters: np.ndarray | None
    spec: LabelSpec

    @property
    def units(self) -> int:
        """Independent clusters: groups, or pictures without groups."""
        return len(self.truth) if self.clusters is None else int(self.clusters.max()) + 1


def entry_of(ends: tuple[float, float] | None, method: str | None, *, why: list[str],
             clusters: int | None = None, effective: float | None = None) -> Entry:
    """An entry; reliable when it has ends and nothing speaks against it."""
    low, high = ends if ends else (None, None)
    return {"low": low, "high": high, "method": method, "effective_n": effective,
            "clusters": clusters, "reliable": not why and ends is not None,
            "why": "; ".join(dict.fromkeys(why)) or None}


def undefined() -> Entry:
    """The entry of a metric that is not defined on these pictures."""
    return entry_of(None, None, why=["not defined on these pictures"])


def grouped(answers: Answers, count: float) -> int | None:
    """The number of groups to be told; ``None`` without groups."""
    return None if answers.clusters is None else int(count)


def few_units(answers: Answers, count: float) -> list[str]:
    """A word about too few clusters."""
    name = "pictures" if answers.clusters is None else "groups"
    return [f"{int(count)} {name}, fewer than {FEW_CLUSTERS}"] if count < FEW_CLUSTERS else []


def few_of_class(answers: Answers, place: int, *, negatives: bool = True) -> list[str]:
    """A word about too few positives, or negatives, of a class."""
    counts = {"positives": int((answers.truth[:, place] == 1).sum())}
    if negatives:
        counts["negatives"] = int((answers.truth[:, place] == 0).sum())
    return [f"{count} {name}, fewer than {FEW_PICTURES}"
            for name, count in counts.items() if count < FEW_PICTURES]


def rarest(answers: Answers) -> list[str]:
    """A word about the rarest class that occurs: in means over classes it weighs as any other.

    Of several labels, also about the class that is lacking least often.
    """
    both = answers.spec.kind is LabelKind.multi
    words = []
    for name, value in (("positives", 1), ("negatives", 0))[:1 + both]:
        for unit, fewest, counts in _counts_of_classes(answers, answers.truth == value):
            place = int(np.where(counts > 0, counts, len(answers.truth) + 1).argmin())
            if 0 < counts[place] < fewest:
                words.append(f"{counts[place]} {unit}{name} of {answers.spec.class_names[place]!r}"
                             f", fewer than {fewest}")
    return words


def _counts_of_classes(answers: Answers, there: np.ndarray) -> list[tuple[str, int, np.ndarray]]:
    """(unit, how many are needed, (K,) how many each class has) of pictures, and of groups."""
    found = [("", FEW_PICTURES, there.sum(axis=0))]
    if answers.clusters is not None:
        sums = cluster_sums(there.astype(np.int8), answers.clusters)
        found.append(("groups with ", FEW_CLUSTERS, np.diff(sums.tocsc().indptr)))
    return found


def proportion(answers: Answers, hits: np.ndarray, counted: np.ndarray, setting: Setting,
               why: list[str], *, f1: bool = False) -> Entry:
    """The entry of a share: Wilson's interval of the hits among what is counted.

    F1 is a monotone function of such a share: of hits among what is in the class or answered so.
    """
    share = count_proportion(hits, counted, answers.clusters, confidence=setting.confidence)
    if share is None:
        return undefined()
    ends = share.interval(setting.confidence)
    method = "wilson" if answers.clusters is None else "wilson, design effect"
    if f1:
        ends, method = (_f1_of(ends[0]), _f1_of(ends[1])), method + ", of jaccard"
    return entry_of(ends, method, why=why + _few_share(answers, share),
                  effective=share.effective, clusters=grouped(answers, share.clusters))


def _few_share(answers: Answers, share: Proportion) -> list[str]:
    if answers.clusters is not None:
        return few_units(answers, share.clusters)
    few = share.count < FEW_PICTURES
    return [f"a share of {share.count} pictures, fewer than {FEW_PICTURES}"] if few else []


def _f1_of(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)


def area_of(answers: Answers, area: Area | None, interval: Any, why: list[str],
            setting: Setting) -> Entry:
    """The entry of an area, flagged for ``why`` and for few groups.

    Args:
        answers: Of which it is the area.
        area: ``None`` where it is not defined.
        interval: `area_interval` or `precision_interval`.
        why: What speaks against it.
        setting: How intervals are computed.
    """
    if area is None:
        return undefined()
    low, high, method = interval(area, setting.confidence)
    if answers.clusters is not None:
        method = method.replace("delong", "obuchowski")
    fewest = int(min(area.clusters) if interval is area_interval else area.clusters[0])
    few = few_units(answers, fewest) if answers.clusters is not None else []
    return entry_of((low, high), method, why=why + few, clusters=grouped(answers, fewest))


def proportion_entry(hits: np.ndarray, counted: np.ndarray, clusters: np.ndarray | None = None, *,
                     confidence: float = 0.95) -> Entry:
    """The entry of one proportion: hits among what is counted.

    Args:
        hits: (N,) bool.
        counted: (N,) bool.
        clusters: (N,) numbers 0..C-1 of groups; ``None`` without groups.
        confidence: Between 0 and 1.
    """
    answers = _one_class(counted.astype(float), hits.astype(float), clusters)
    return proportion(answers, hits, counted, Setting(confidence, 0, 0), [])


def roc_entry(truth: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None = None, *,
              confidence: float = 0.95) -> Entry:
    """The entry of one area under the ROC curve.

    Args:
        truth: (N,) 0, 1 or NaN = unknown.
        scores: (N,) higher for positives.
        clusters: (N,) numbers 0..C-1 of groups; ``None`` without groups.
        confidence: Between 0 and 1.
    """
    answers = _one_class(truth, scores, clusters)
    return area_of(answers, area_under_roc(truth, scores, clusters), area_interval,
                 few_of_class(answers, 0), Setting(confidence, 0, 0))


def _one_class(truth: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None) -> Answers:
    spec = LabelSpec(LabelKind.multi, ("class",))
    return Answers(truth[:, None], scores[:, None] >= 0.5, scores[:, None], clusters, spec)
