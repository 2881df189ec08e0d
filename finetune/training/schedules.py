"""Courses of the learning rate: pure functions of the step.

Nothing is stored but numbers, so that a resumed run has the same rates to the bit.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Course", "ScheduleSettings", "lr_multiplier"]


class Course(StrEnum):
    """Names of the courses."""

    cosine = "cosine"
    one_cycle = "one_cycle"
    linear = "linear"
    step = "step"
    constant = "constant"


@dataclass(frozen=True)
class ScheduleSettings:
    """A course and its numbers; see `lr_multiplier`."""

    course: Course = Course.cosine
    warmup_fraction: float = 0.1
    final_fraction: float = 0.01
    step_count: int = 3
    step_factor: float = 0.1
    restart: bool = False


def lr_multiplier(step: int, *, total: int, settings: ScheduleSettings) -> float:
    """The factor on every base rate at ``step`` of ``total`` (0-based).

    The first ``warmup_fraction`` of the steps rises linearly to 1. Then ``cosine`` (Loshchilov
    2017, arXiv 1608.03983) and ``linear`` fall to ``final_fraction``, ``step`` drops
    ``step_count`` times by ``step_factor`` at even distances, ``constant`` stays. ``one_cycle``
    (Smith 2018, arXiv 1708.07120) rises by a cosine over 30 % of the steps from 1/25 and falls by
    one to ``final_fraction`` in the last step, as torch's ``OneCycleLR``; ``warmup_fraction`` has
    no part in it.

    >>> flat = ScheduleSettings(Course.constant, warmup_fraction=0.5)
    >>> [lr_multiplier(s, total=4, settings=flat) for s in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    if settings.course is Course.one_cycle:
        return _one_cycle(step, total, settings.final_fraction)
    warmup = round(settings.warmup_fraction * total)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    match settings.course:
        case Course.cosine:
            return _cosine(1.0, settings.final_fraction, progress)
        case Course.linear:
            return 1.0 + (settings.final_fraction - 1.0) * progress
        case Course.step:
            return settings.step_factor ** math.floor(progress * (settings.step_count + 1))
        case _:
            return 1.0


def _one_cycle(step: int, total: int, final: float) -> float:
    peak = max(0.0, 0.3 * total - 1)  # as torch's OneCycleLR: between two steps where it falls so
    if step < peak:
        return _cosine(1 / 25, 1.0, step / peak)
    return _cosine(1.0, final, (step - peak) / max(1.0, total - 1 - peak))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
