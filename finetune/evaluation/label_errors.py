"""Labels that are probably wrong: confident learning (Northcutt, Jiang, Chuang 2021, JAIR 70).

arXiv 1911.00068. From probabilities that were predicted for each picture without its own label
(out of fold), how many pictures of class i carry the label j is estimated, and as many of them as
that are flagged: those that speak most clearly against their label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.specs import LabelKind, LabelSpec

__all__ = ["Suspect", "confident_joint", "estimate_joint", "flag_labels", "rank_labels"]


@dataclass(frozen=True)
class Suspect:
    """What speaks against one label of one picture.

    Attributes:
        row: The picture's number.
        given: The label; of several labels, ``x`` or ``not x``.
        suggested: The likeliest other one.
        self_confidence: Probability of the given one, 0..1.
        margin: That less the probability of the suggested one, -1..1.
        flagged: Whether it is among those that are estimated to be wrong.
    """

    row: int
    given: str
    suggested: str
    self_confidence: float
    margin: float
    flagged: bool


def rank_labels(labels: np.ndarray, probabilities: np.ndarray, *,
                label_spec: LabelSpec) -> list[Suspect]:
    """Every label that can be judged, the most doubtful first.

    The order is that of the mean of two ranks, by self-confidence and by margin (both are the
    paper's). The first puts labels first that nothing speaks for, the second those for which
    another class is sure: the mean is never far behind the better one (docs/evidence.md). Several
    labels are judged one by one, as yes or no.

    Args:
        labels: (N,) class indices, or (N, K) of 0, 1 and NaN = unknown.
        probabilities: (N, K), out of fold. NaN: not judged; of single labels a whole row.
        label_spec: Decides between the two.
    """
    if label_spec.kind is LabelKind.single:
        found = _ranked(labels, probabilities, label_spec.class_names)
    else:
        found = [suspect for place, name in enumerate(label_spec.class_names)
                 for suspect in _ranked_of_label(labels[:, place], probabilities[:, place], name)]
    margin, own = (np.unique(values, return_inverse=True)[1] for values in (
        [suspect.margin for suspect in found], [suspect.self_confidence for suspect in found]))
    return [found[i] for i in np.argsort(margin + own, kind="stable")]


def _ranked_of_label(labels: np.ndarray, probabilities: np.ndarray, name: str) -> list[Suspect]:
    """Suspects of one of several labels."""
    known = ~np.isnan(labels)
    both = np.stack([1 - probabilities, probabilities], axis=1)
    both[~known] = np.nan
    return _ranked(np.where(known, labels, 0).astype(np.int64), both, (f"not {name}", name))


def _ranked(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> list[Suspect]:
    rows = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    if not len(rows):
        return []
    labels, probabilities = labels[rows], probabilities[rows]
    flagged = flag_labels(labels, probabilities)
    own, other, best = _own_and_other(labels, probabilities)
    return [Suspect(int(rows[i]), names[labels[i]], names[best[i]], float(own[i]),
                    float(own[i] - other[i]), bool(flagged[i])) for i in range(len(rows))]


def _own_and_other(labels: np.ndarray, probabilities: np.ndarray,
                   ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability of the label, of the likeliest other class, and which that is."""
    every = np.arange(len(labels))
    others = probabilities.copy()
    others[every, labels] = -np.inf
    best = others.argmax(axis=1)
    return probabilities[every, labels], others[every, best], best


def confident_joint(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(K, K) how many pictures with label i are confidently of class j (equation 1 of the paper).

    Confidently of class j: its probability is at least the mean that pictures labelled j have for
    j, and the highest of the classes for which that holds. Pictures without one don't count.

    Args:
        labels: (N,) class indices.
        probabilities: (N, K).
    """
    width = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=width)
    sums = np.bincount(labels, weights=own, minlength=width)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = probabilities >= thresholds - 1e-12
    likeliest = np.where(confident, probabilities, -np.inf).argmax(axis=1)
    kept = confident.any(axis=1)
    joint = np.bincount(width * labels[kept] + likeliest[kept], minlength=width**2)
    return joint.reshape(width, width)


def estimate_joint(joint: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(K, K) how many pictures with label i are of class j, all pictures counted (equation 3).

    Each row of the confident joint is scaled to the number of pictures with that label; a label
    without a confident picture is taken as right.

    Args:
        joint: (K, K) as from `confident_joint`.
        counts: (K,) pictures with each label.
    """
    sums = joint.sum(axis=1)
    rows = np.where(sums[:, None] > 0, joint, np.eye(len(counts)))
    return np.asarray(rows * (counts / np.where(sums > 0, sums, 1))[:, None])


def flag_labels(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) whether a label is probably wrong: "prune by noise rate" of the paper, section 3.3.

    For each pair of classes as many pictures as are estimated to be of class j with label i, those
    whose probability of j exceeds that of i the most. A picture whose label is its likeliest class
    is never flagged.

    Args:
        labels: (N,) class indices.
        probabilities: (N, K), out of fold.
    """
    width = probabilities.shape[1]
    joint = estimate_joint(confident_joint(labels, probabilities),
                           np.bincount(labels, minlength=width))
    flagged = np.zeros(len(labels), bool)
    for given, true in zip(*np.nonzero(joint), strict=True):
        if given != true:
            rows = np.flatnonzero(labels == given)
            excess = probabilities[rows, true] - probabilities[rows, given]
            count = round(float(joint[given, true]))
            flagged[rows[np.argsort(-excess, kind="stable")[:count]]] = True
    return np.asarray(flagged & (probabilities.argmax(axis=1) != labels))
