"""What goes into a model in use, and what comes out of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Answers", "Logits", "Network", "Origin", "Prediction", "Prepared", "batches"]

Logits = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


class Answers(NamedTuple):
    """What a network says about a batch.

    Attributes:
        probabilities: (B, K) float64, calibrated.
        logits: (B, K) before calibration.
        distances: (B,) from the training pictures; None where the model keeps nothing of them.
    """

    probabilities: np.ndarray
    logits: np.ndarray
    distances: np.ndarray | None = None


Network = Callable[[np.ndarray], Answers]  # of pictures (B, H, W, C)


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        run: The run's name.
        weights: SHA-256 of the chosen weights' file.
        licence: Of the weights that training started from, where it is known.
        version: Of finetune, at training.
        rehearsal: Whether it was trained on generated pictures: its answers mean nothing.
    """

    run: str
    weights: str
    licence: str | None
    version: str | None
    rehearsal: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``Origin(**values)`` is the inverse."""
        return asdict(self)


@dataclass(frozen=True)
class Prediction:
    """What a model says about one picture.

    Attributes:
        name: The path as given, or the picture's number.
        predicted: The likeliest class; of several labels all that are likely (0.5 and more);
            None for a picture that can't be read.
        probabilities: One for each class, calibrated; none for a picture that can't be read.
        prediction_set: Classes of the prediction set; None where the model has no sets.
        abstained: Whether the model leaves the answer to a person, by its threshold or an empty
            set; None where it has neither.
        decisions: For each threshold whether positive (see `point_name`), and under
            ``least_cost`` the class with the least expected cost.
        warnings: In what the picture is unlike those of training, that it is far from them for
            the network, and what decoding dropped.
        error: Why the picture can't be read; None for all others.
    """

    name: str
    predicted: str | tuple[str, ...] | None = None
    probabilities: tuple[float, ...] = ()
    prediction_set: tuple[str, ...] | None = None
    abstained: bool | None = None
    decisions: dict[str, bool | str] | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A picture at the network's size: (H, W, C) pixels, or why there are none."""

    name: str
    pixels: np.ndarray | None
    warnings: tuple[str, ...] = ()
    error: str | None = None


def batches(items: Iterable[Prepared], size: int) -> Iterator[list[Prepared]]:
    """Lists of ``size`` items, the last one shorter; takes no more than it gives."""
    here = iter(items)
    while some := list(islice(here, size)):
        yield some
