"""Smith's range test: the loss while the learning rate grows from step to step.

From *Cyclical Learning Rates for Training Neural Networks* (Smith 2017, arXiv 1506.01186), with
fastai's changes (Howard and Gugger 2020, arXiv 2002.04688): the rate grows exponentially, the loss
is smoothed, and the test stops where the training diverges.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["SUGGESTERS", "RateCurve", "falls", "first_suggestion", "minimum_tenth", "preserved",
           "range_test", "slide", "steepest", "suggest_rates", "valley"]

SMOOTHING = 0.98  # share of the past in a smoothed loss; fastai's
DIVERGED = 4.0    # times the lowest smoothed loss; fastai's


@dataclass(frozen=True)
class RateCurve:
    """What a range test saw; one value for each step.

    Attributes:
        rates: Growing; the rate of each step.
        losses: Of the step's batch, before the step.
        reference: Of the same batch, by the network before the first step.
        smoothed: Exponential mean of `compared`, corrected for its start at nothing.
        planned: Steps that were asked for.
        diverged: Whether the test stopped because the loss rose too far or was no number.
    """

    rates: list[float]
    losses: list[float]
    reference: list[float]
    smoothed: list[float]
    planned: int
    diverged: bool

    @property
    def compared(self) -> list[float]:
        """Losses without what makes a batch easier or harder than others from the start."""
        return _compared(self.losses, self.reference)

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest; what lies above makes it worse."""
        return self.rates[int(np.argmin(self.smoothed))]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self.__dict__)


def _compared(losses: Sequence[float], reference: Sequence[float]) -> list[float]:
    mean = float(np.mean(reference)) if len(reference) else 0.0
    return [loss - at_start + mean for loss, at_start in zip(losses, reference, strict=False)]


def range_test(step: Callable[[float], float], *, start: float, end: float, steps: int,
               reference: Sequence[float] | None = None, smoothing: float = SMOOTHING,
               diverged: float = DIVERGED,
               progress: Callable[[int], object] = lambda done: None) -> RateCurve:
    """Call ``step`` with rates that grow exponentially from ``start`` to ``end``.

    Some batches are harder than others, which in so few steps hides what a rate does. Each loss is
    therefore compared with the starting network's on the same batch (a control variate; not in the
    papers). The test stops by the losses as they are.

    Args:
        step: Makes a training step at a rate and returns the loss before it.
        start: First rate, above 0.
        end: Last rate, if the training doesn't diverge before.
        steps: How many, 2 up.
        reference: (steps,) losses of the batches by the starting network; None: all alike.
        smoothing: Share of the past in the smoothed loss; 0 up, below 1.
        diverged: The test stops above so many times the lowest smoothed loss.
        progress: Called with the steps done.
    """
    known = [0.0] * steps if reference is None else list(reference)
    rates: list[float] = []
    losses: list[float] = []
    plain: list[float] = []
    stopped = False
    for number in range(steps):
        rate = start * (end / start) ** (number / (steps - 1))
        loss = step(rate)
        stopped = not math.isfinite(loss)
        if stopped:
            break
        rates.append(rate)
        losses.append(loss)
        plain = _smoothed(losses, smoothing)
        progress(number + 1)
        stopped = plain[-1] > diverged * min(plain)
        if stopped:
            break
    return RateCurve(rates, losses, known, _smoothed(_compared(losses, known), smoothing), steps,
                     stopped)


def _smoothed(losses: Sequence[float], smoothing: float) -> list[float]:
    """Exponential means, each of all losses up to its own."""
    means, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = smoothing * mean + (1 - smoothing) * loss
        means.append(mean / (1 - smoothing ** number))
    return means


@contextmanager
def preserved(model: nn.Module, optimizer: torch.optim.Optimizer,
              *others: Any) -> Iterator[None]:
    """Everything that training steps change is afterwards what it was, to the bit.

    Parameters, buffers (also those outside the state dict), gradients, modes and gradient flags;
    the optimizer's state, rates and other numbers; the random states of torch (CPU and CUDA), numpy
    and Python; and those of ``others``, `torch.Generator` each.
    """
    tensors = [*model.parameters(), *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    flags = [(p, p.requires_grad, None if p.grad is None else p.grad.clone())
             for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    state = [(p, copy.deepcopy(kept)) for p, kept in optimizer.state.items()]
    numbers = [copy.deepcopy({k: v for k, v in group.items() if k != "params"})
               for group in optimizer.param_groups]
    with _same_randomness(*others):
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)
            for parameter, wanted, gradient in flags:
                parameter.requires_grad_(wanted)
                parameter.grad = gradient
            for module, mode in modes:
                module.training = mode
            optimizer.state.clear()
            optimizer.state.update(state)
            for group, kept in zip(optimizer.param_groups, numbers, strict=True):
                params = group["params"]
                group.clear()
                group.update(params=params, **kept)


@contextmanager
def _same_randomness(*others: torch.Generator) -> Iterator[None]:
    drawn, numpy_state = random.getstate(), np.random.get_state()
    states = [generator.get_state() for generator in others]
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(drawn)
            np.random.set_state(numpy_state)
            for generator, state in zip(others, states, strict=True):
                generator.set_state(state)


def falls(curve: RateCurve) -> bool:
    """Whether the loss falls by more than chance.

    By more than two standard errors of its mean over the first tenth of the steps, where rates are
    too small to change it, and by a hundredth, after the second tenth, until when the smoothed loss
    is the mean of few. If not, no rate can be read from the curve.
    """
    early = max(3, curve.planned // 10)
    first, later = curve.compared[:early], curve.smoothed[2 * early:]
    if not later:
        return False
    start, error = float(np.mean(first)), float(np.std(first, ddof=1)) / math.sqrt(early)
    return start - min(later) > max(2 * error, 0.01 * abs(start))


def suggest_rates(curve: RateCurve) -> dict[str, float | None]:
    """What each of `SUGGESTERS` suggests; None where it finds nothing.

    As fastai, they see neither the first tenth of the steps nor the last five. Where the loss
    doesn't fall (`falls`), none suggests anything.
    """
    rates = np.array(curve.rates[curve.planned // 10:-5])
    losses = np.array(curve.smoothed[curve.planned // 10:-5])
    if len(rates) < 5 or not falls(curve):
        return dict.fromkeys(SUGGESTERS)
    return {name: suggest(rates, losses) for name, suggest in SUGGESTERS.items()}


def valley(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Halfway down the longest valley: the longest sequence of ever lower losses.

    After fastai's ``valley`` (its default); the sequence's gaps are not counted, so that it begins
    later than its first member where it has some. Where losses are compared with a reference, the
    curve falls a little from its start, and what this gives is low.
    """
    length = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        higher = length[:i][losses[:i] > losses[i]]
        length[i] = 1 + (higher.max() if len(higher) else 0)
    end = int(length.argmax())
    start, third = end - int(length[end]), int(length[end]) / 3
    place = start + int(third) + int(third / 2)
    return float(rates[place]) if length[end] > 2 else None


def steepest(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Where the loss falls fastest over the logarithm of the rate (fastai's ``steep``)."""
    slopes = np.diff(losses) / np.diff(np.log(rates))
    return float(rates[slopes.argmin()]) if slopes.min() < 0 else None


def minimum_tenth(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """A tenth of the rate with the lowest loss (fastai's ``minimum``)."""
    lowest = int(losses.argmin())
    return float(rates[lowest]) / 10 if lowest > 0 else None


def slide(rates: np.ndarray, losses: np.ndarray, *, width: int = 15,
          threshold: float = 0.005) -> float | None:
    """The left end of an interval that slides down from the end of the curve (fastai's ``slide``).

    It stops where the loss's slopes, in loss per step, at both its ends are alike. None where it
    stops at once, because the curve doesn't rise at its end, or never. The threshold isn't relative
    to the loss: of the four rules this one depends on the loss's scale.

    Args:
        rates: (N,)
        losses: (N,)
        width: Of the interval, in steps.
        threshold: Difference of slopes that are alike.
    """
    slopes = np.gradient(losses)
    apart = np.abs(slopes[width:] - slopes[:-width]) > threshold
    alike = np.flatnonzero(~apart)
    if not len(alike) or alike[-1] == len(apart) - 1:
        return None
    return float(rates[alike[-1] + 1])


Suggester = Callable[[np.ndarray, np.ndarray], float | None]
SUGGESTERS: dict[str, Suggester] = {"minimum/10": minimum_tenth, "steepest": steepest,
                                    "valley": valley, "slide": slide}


def first_suggestion(suggested: dict[str, float | None],
                     order: Sequence[str] = tuple(SUGGESTERS)) -> float | None:
    """The first rate that was suggested, in the order of `SUGGESTERS`."""
    return next((rate for name in order if (rate := suggested[name]) is not None), None)
