"""What a difference means, in words, and how much evidence would be enough to tell."""

from collections.abc import Callable
from dataclasses import dataclass

from finetune.evaluation.crossed import Components, planned_error
from finetune.evaluation.selection import SELECT_METRICS

__all__ = ["POWER", "Needed", "Verdict", "as_gain", "evidence_needed", "judge", "shown",
           "within_range"]

OWN_UNITS = {"log_loss", "mean_absolute_error", "brier"}  # the rest is told in points
RANGES = {"log_loss": (0.0, float("inf")), "mean_absolute_error": (0.0, float("inf")),
          "brier": (0.0, 2.0), "cohen_kappa": (-1.0, 1.0), "quadratic_kappa": (-1.0, 1.0),
          "mcc": (-1.0, 1.0)}                          # the rest is within 0..1
SMALL, SMALL_SHARE = 0.02, 0.05  # of a metric in points; of a value in own units
POWER = 0.8
MOST_CLUSTERS, MOST_SEEDS = 10_000_000, 100


@dataclass(frozen=True)
class Needed:
    """What would show a difference of a size.

    Attributes:
        target: The true difference that is to be shown.
        power: In which share of studies.
        pictures: With the seeds that there are; ``None``: no number would do.
        seeds: Of each method, with the pictures that there are; likewise. ``None`` too of one run
            a side, which tells nothing of seeds.
        alone: Whether it is of one run a side.
    """

    target: float
    power: float
    pictures: int | None
    seeds: int | None
    alone: bool = False


@dataclass(frozen=True)
class Verdict:
    """What is to be said of the first against the second.

    Attributes:
        kind: ``better``, ``worse``, ``alike`` (a difference that matters is unlikely), ``same``
            (nothing differs) or ``untold``.
        words: The sentence.
    """

    kind: str
    words: str


def as_gain(metric: str, value: float) -> float:
    """A difference by which more is better.

    >>> as_gain("log_loss", -0.5), as_gain("accuracy", -0.5)
    (0.5, -0.5)
    """
    return value if SELECT_METRICS.get(metric.partition("[")[0], True) else -value


def shown(metric: str, value: float, *, unit: bool = True) -> str:
    """A difference as it is told: in points, hundredths, where the metric is within 0..1.

    >>> shown("accuracy", 0.0213), shown("log_loss", 0.0213), shown("accuracy", -0.004, unit=False)
    ('2.1 points', '0.0213', '-0.4')
    """
    if metric in OWN_UNITS:
        return f"{value + 0.0:.3g}"
    text = f"{100 * value:.1f}".replace("-0.0", "0.0") if abs(value) < 5e-4 else f"{100*value:.1f}"
    return f"{text} points" if unit else text


def within_range(metric: str, low: float, high: float, *,
                 difference: bool = False) -> tuple[float, float]:
    """An interval without what the metric, or a difference of two, can't be.

    >>> within_range("accuracy", 0.9, 1.1), within_range("mcc", -2.5, 0.1, difference=True)
    ((0.9, 1.0), (-2.0, 0.1))
    """
    least, most = RANGES.get(metric.partition("[")[0], (0.0, 1.0))
    if difference:
        least, most = least - most, most - least
    return max(low, least), min(high, most)


def judge(
    metric: str, *, first: float, second: float, low: float, high: float, p: float,
    comparisons: int = 1, confidence: float = 0.95, needed: Needed | None = None,
    reliable: bool = True,
) -> Verdict:
    """The first against the second, in words.

    It is called better (worse) when the corrected p is below 1 - confidence and the interval leaves
    0 out. Else, when the whole interval is within 2 points (5 % of the value for metrics in units
    of their own), a larger difference is called unlikely; else there is too little to tell.

    Args:
        metric: Decides direction and units.
        first: Metric of the first.
        second: Of the second.
        low: Of the interval of the first less the second.
        high: Likewise.
        p: Of no difference; corrected for the number of comparisons.
        comparisons: How many that was.
        confidence: Of the interval.
        needed: What would be enough to tell.
        reliable: Whether the interval may be said to leave something out.
    """
    if first == second and low == high:
        return Verdict("same", "no picture tells them apart")
    gain = as_gain(metric, first - second)
    ends = sorted((as_gain(metric, low), as_gain(metric, high)))
    interval = (f"{100 * confidence:g} % interval {shown(metric, ends[0], unit=False)} to "
                f"{shown(metric, ends[1], unit=False)}")
    clear = ends[0] > 0 or ends[1] < 0
    if p < 1 - confidence and clear:
        kind = "better" if gain > 0 else "worse"
        return Verdict(kind, f"{kind} by {shown(metric, abs(gain))}, {interval}")
    bound = max(map(abs, ends))
    small = SMALL_SHARE * max(abs(first), abs(second)) if metric in OWN_UNITS else SMALL
    if bound <= small and reliable:
        return Verdict("alike", f"a difference above {shown(metric, bound)} is unlikely, "
                                f"{interval}")
    why = (f"; 0 is outside, but not after Holm's correction for {comparisons} comparisons"
           if clear and comparisons > 1 else "")
    return Verdict("untold", f"too few to tell: {shown(metric, gain)}, {interval}"
                             f"{why or _would_do(metric, needed)}")


def _would_do(metric: str, needed: Needed | None) -> str:
    """How much would be enough, and for what."""
    if needed is None or shown(metric, abs(needed.target)) in ("0", "0.0 points"):
        return ""
    ways = [f"{_round(needed.pictures)} pictures"] if needed.pictures else []
    ways += [f"{needed.seeds} seeds a side"] if needed.seeds else []
    size = f"a true difference of {shown(metric, abs(needed.target))}"
    if not ways and needed.alone:
        return f"; {MOST_CLUSTERS:,} pictures would not be enough to show {size}"
    if not ways:
        return f"; neither more pictures nor more seeds alone would show {size}"
    words = f"{ways[0]}, or {ways[1]}," if len(ways) == 2 else ways[0]
    return (f"; about {words} would be needed to show {size} in {100 * needed.power:g} of 100 such "
            "studies")


def _round(count: int) -> str:
    """Two figures: more are not known.

    >>> _round(1234)
    '1,300'
    """
    step: int = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // step) * step:,}"


def evidence_needed(
    components: Components, *, runs: tuple[int, int], clusters: int, pictures: int,
    target: float, confidence: float = 0.95, power: float = POWER,
) -> Needed:
    """How many more pictures, or seeds, would show a true difference of a size: the whole numbers.

    Shown is a difference whose interval leaves 0 out, at its standard error by the components that
    were estimated here (Hillis, Obuchowski, Berbaum 2011, Academic Radiology 18, size studies of
    readers and cases so); these are uncertain themselves, so it is a rough number.

    Args:
        components: Where this comparison's uncertainty comes from.
        runs: Seeds of each method here; (1, 1) for one run a side, of which seeds are not known.
        clusters: Pictures, or groups of them, here.
        pictures: Here; more are taken to come in groups as large.
        target: The true difference.
        confidence: Of the interval.
        power: In which share of studies it is to be shown.
    """
    def enough(seeds: tuple[int, int], units: float) -> bool:
        from scipy.stats import t

        error, freedom = planned_error(components, seeds, units)
        far = t.ppf((1 + confidence) / 2, freedom) + t.ppf(power, freedom)
        return bool(abs(target) >= far * error)

    if target == 0:
        return Needed(target, power, None, None, max(runs) == 1)
    many = _least(lambda count: enough(runs, count), clusters + 1, MOST_CLUSTERS)
    seeds = None
    if max(runs) > 1:
        seeds = _least(lambda count: enough((count, count), clusters), max(runs) + 1, MOST_SEEDS)
    return Needed(target, power, None if many is None else -(-many * pictures // clusters), seeds,
                  max(runs) == 1)


def _least(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The least number within the bounds from which on something holds."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
