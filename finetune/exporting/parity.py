"""Whether an export answers as its run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.prediction.predictor import LIKELY, Predictor
from finetune.prediction.values import Answers, Network, Prepared
from finetune.specs import LabelSpec

__all__ = ["BATCH", "TIE", "TOLERANCE", "Parity", "check_parity"]

BATCH = 8         # pictures at a time through the run's network
TOLERANCE = 1e-4  # of probabilities in 32-bit floats
TIE = 0.01        # 16-bit floats may exchange classes whose probabilities differ by less
FAR, HALF_FAR = 1e-3, 0.05  # of distances from the training pictures, as shares of the limit


@dataclass(frozen=True)
class Parity:
    """How an export's answers compare with the run's.

    Attributes:
        pictures: Compared.
        difference: The largest of a probability.
        changed: Pictures that get another class, ties within `TIE` excepted.
        distance: The largest difference of a distance from the training pictures, as a share of the
            limit; 0 where there are none.
    """

    pictures: int
    difference: float
    changed: int
    distance: float = 0.0

    def passes(self, *, half: bool) -> bool:
        """Whether it is small enough: `TOLERANCE`, with 16-bit floats no other class."""
        if self.distance > (HALF_FAR if half else FAR):
            return False
        return self.changed == 0 if half else self.difference <= TOLERANCE

    def complaint(self, *, half: bool) -> str:
        """What differs, where it does not pass."""
        if half and self.changed:
            return (f"with 16-bit floats {self.changed} of {self.pictures} pictures get another "
                    "class (or no answer); export without --half. Nothing was written")
        what, size = (("probabilities", self.difference) if self.difference > TOLERANCE and not half
                      else ("distances, as shares of their limit,", self.distance))
        return (f"the export's {what} differ from the run's by up to {size:.2g} on "
                f"{self.pictures} pictures, more than is allowed. Nothing was written")


def check_parity(predictor: Predictor, network: Network, pictures: Sequence[Prepared]) -> Parity:
    """Compare a network with a predictor's own, on each picture alone and on all at once.

    Args:
        predictor: The run's.
        network: From pictures (B, H, W, C) to probabilities (B, K).
        pictures: At the network's size; those that could not be read are left out.
    """
    batch = np.stack([each.pixels for each in pictures if each.pixels is not None])
    parts = [batch[i:i + BATCH] for i in range(0, len(batch), BATCH)]
    wanted = _joined(predictor.network, parts)
    found = [_joined(network, [batch]), _joined(network, list(batch[:, None]))]
    odds = [each.probabilities for each in found]
    limit = 1.0 if predictor.far is None else max(predictor.far.limit, 1e-6)
    return Parity(len(batch), max(_largest(wanted.probabilities, each) for each in odds),
                  max(_changed(wanted.probabilities, each, predictor.labels) for each in odds),
                  max(_apart(wanted.distances, each.distances, limit) for each in found))


def _joined(network: Network, parts: Sequence[np.ndarray]) -> Answers:
    answers = [network(part) for part in parts]
    distances = [each.distances for each in answers if each.distances is not None]
    return Answers(np.concatenate([each.probabilities for each in answers]),
                   np.concatenate([each.logits for each in answers]),
                   np.concatenate(distances) if distances else None)


def _largest(wanted: np.ndarray, found: np.ndarray) -> float:
    gaps = np.abs(found - wanted)
    return float(np.where(np.isfinite(gaps), gaps, np.inf).max())


def _apart(wanted: np.ndarray | None, found: np.ndarray | None, limit: float) -> float:
    """The largest difference of distances in units of the limit; timm's folders leave them out."""
    return 0.0 if wanted is None or found is None else _largest(wanted, found) / limit


def _changed(wanted: np.ndarray, found: np.ndarray, labels: LabelSpec) -> int:
    """Pictures that get another class, or other labels, where it was not a matter of chance."""
    broken = ~np.isfinite(found).all(axis=1)
    if not labels.is_exclusive:
        other = (wanted >= LIKELY) != (found >= LIKELY)
        return int(((other & (np.abs(wanted - LIKELY) > TIE)).any(axis=1) | broken).sum())
    rows, now = np.arange(len(wanted)), np.where(broken[:, None], 0, found).argmax(axis=1)
    return int(((wanted.max(axis=1) - wanted[rows, now] > TIE) | broken).sum())
