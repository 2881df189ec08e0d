"""A study as values: arms, their runs, the rate that each arm gets, the ranking. Pure functions."""

import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune.evaluation.selection import higher_is_better

__all__ = ["Arm", "Member", "Study", "Sweep", "best_rate", "cross", "final_members", "merge",
           "rank_arms", "search_members", "total_members"]

FINAL, SEARCH = "final", "search"


@dataclass
class Arm:
    """One of the methods that are compared.

    Attributes:
        name: For tables.
        folder: The name as part of a folder's.
        words: What it differs in.
        lr: Its own ``optimizer.lr``, before any search.
        searches: Whether a rate is searched for it.
        rate: The chosen rate; None: its own.
        edge: ``lowest`` or ``highest`` where the chosen rate is the last one of the grid.
        values: Of the metric on validation, by seed.
        mean: Over the seeds that finished.
        std: Likewise; None for fewer than two.
        seconds: Of training, of one run, in the mean.
        rank: From 1.
    """

    name: str
    folder: str
    words: list[str]
    lr: float = 0.0
    searches: bool = False
    rate: float | None = None
    edge: str | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    mean: float | None = None
    std: float | None = None
    seconds: float | None = None
    rank: int | None = None


@dataclass
class Member:
    """One run of a study.

    Attributes:
        path: Its folder, relative to the study's.
        arm: Its arm's name.
        role: ``search`` or ``final``.
        seed: Of the run.
        rate: ``optimizer.lr`` that it was given; None: the arm's own.
        words: The command that trains the same alone.
        state: ``waiting``, ``finished`` or ``failed``.
        error: Why it failed.
    """

    path: str
    arm: str
    role: str
    seed: int
    rate: float | None
    words: list[str]
    state: str = "waiting"
    error: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A search by trials, each chosen by what the ones before it gave.

    Attributes:
        choices: Listed values by key.
        intervals: Hydra's words for them, by key: ``interval(0.1,1)``.
        trials: How many.
        at_once: How many are chosen, and run, together.
        sampler: Hydra's settings of Optuna's, with a seed.
    """

    choices: dict[str, list[str]]
    intervals: dict[str, str]
    trials: int
    at_once: int
    sampler: dict[str, Any]


@dataclass
class Study:
    """What ``study.json`` holds.

    Attributes:
        study: Its name.
        words: As typed.
        base: Words of all members, key to value.
        reference: The arm that the chosen one is compared with.
        metric: By which arms are ranked; None until it is known.
        rates: Factors of an arm's own rate that are tried; none: no search.
        seeds: Of the final runs.
        search_seeds: Of those that search.
        launcher: Hydra's words.
        settled: What was measured once for all members: words by key, and ``threads``.
        arms: What is compared.
        members: All runs that are known by now.
        chosen: The arm that is best on validation.
        test: The chosen arm and the reference on the test part.
        notes: What a reader has to know.
        sweep: Where trials are chosen one after the other: each is an arm with one member.
    """

    study: str
    words: list[str]
    base: dict[str, str]
    reference: str
    metric: str | None
    rates: list[float]
    seeds: list[int]
    search_seeds: list[int]
    launcher: list[str]
    arms: list[Arm]
    settled: dict[str, Any] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    chosen: str | None = None
    test: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    sweep: Sweep | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Study":
        """From what `to_dict` gave."""
        sweep = values.get("sweep")
        return cls(**{**values, "sweep": Sweep(**sweep) if sweep else None,
                      "arms": [Arm(**arm) for arm in values["arms"]],
                      "members": [Member(**member) for member in values["members"]]})


def cross(arms: Mapping[str, Sequence[str]], lists: Mapping[str, Sequence[str]]) -> list[Arm]:
    """Every combination of prepared arms and listed values.

    >>> [arm.name for arm in cross({}, {"freezing.policy": ["none", "gradual"]})]
    ['none', 'gradual']
    >>> [arm.name for arm in cross({"full": []}, {"optimizer.lr": ["0.1", "1"]})]
    ['full,lr=0.1', 'full,lr=1']
    """
    several = bool(arms) or len(lists) > 1
    prepared = [(name, list(words)) for name, words in arms.items()] or [("", [])]
    listed = [[(_label(key, value, several), f"{key}={value}") for value in values]
              for key, values in lists.items()]
    found: list[Arm] = []
    for (name, words), picked in itertools.product(prepared, itertools.product(*listed)):
        label = ",".join(part for part in (name, *(text for text, _ in picked)) if part) or "run"
        found.append(Arm(label, _folder(label, [arm.folder for arm in found]),
                         [*words, *(word for _, word in picked)]))
    return found


def _label(key: str, value: str, several: bool) -> str:
    is_name = value[:1].isalpha() and not several
    return value if is_name else f"{key.rsplit('.', 1)[-1]}={value}"


def _folder(label: str, taken: Sequence[str]) -> str:
    plain = re.sub(r"[^\w.=,+-]+", "_", label)[:60].strip("_.-") or "arm"
    return next(name for name in itertools.chain(
        [plain], (f"{plain}_{n}" for n in itertools.count(2))) if name not in taken)


def merge(*layers: Mapping[str, str] | Sequence[str]) -> list[str]:
    """Words ``key=value``, a key once; later layers win.

    >>> merge({"seed": "0", "device": "cpu"}, ["seed=1"])
    ['device=cpu', 'seed=1']
    """
    found: dict[str, str] = {}
    for layer in layers:
        pairs = (layer.items() if isinstance(layer, Mapping)
                 else [tuple(word.split("=", 1)) for word in layer])
        for key, value in pairs:
            found.pop(key, None)
            found[key] = value
    return [f"{key}={value}" for key, value in found.items()]


def total_members(study: Study) -> int:
    """How many runs the study will have."""
    if study.sweep is not None:
        return study.sweep.trials
    searching = sum(arm.searches for arm in study.arms)
    return (searching * len(study.rates) * len(study.search_seeds)
            + len(study.arms) * len(study.seeds))


def search_members(study: Study) -> list[Member]:
    """The runs that search rates: every factor of each arm's own rate; test is left alone."""
    return [_member(study, arm, SEARCH, seed, _short(arm.lr * factor))
            for arm in study.arms if arm.searches
            for factor in study.rates for seed in study.search_seeds]


def final_members(study: Study) -> list[Member]:
    """The runs that count: every seed of each arm, at its chosen rate."""
    return [_member(study, arm, FINAL, seed, arm.rate)
            for arm in study.arms for seed in study.seeds]


def _short(rate: float) -> float:
    return float(f"{rate:.4g}")


def _member(study: Study, arm: Arm, role: str, seed: int, rate: float | None) -> Member:
    own = [f"seed={seed}"]
    name = f"{arm.folder}-seed-{seed}"
    if rate is not None:
        own.append(f"optimizer.lr={rate:g}")
    if role == SEARCH:
        own.append("data.measure_test=false")
        name = f"search-{arm.folder}-lr-{rate:g}-seed-{seed}"
    kind = arm.name if role == FINAL else f"{arm.name} search"
    settled = study.settled.get("words", {})
    words = merge({"tracking.job_type": kind}, study.base, settled, arm.words, own)
    return Member(name, arm.name, role, seed, rate, words)


def best_rate(results: Mapping[float, tuple[float | None, float | None]], *, metric: str,
              grid: Sequence[float]) -> tuple[float, str | None] | None:
    """The best rate and whether it lies at an edge of the grid; None where none has a value.

    Args:
        results: Rate to the means of metric and log loss on validation, over the seeds that
            finished. Equal metrics are told apart by log loss, then the smaller rate wins.
        metric: Its name.
        grid: All rates that were tried, also those that failed.

    >>> best_rate({0.1: (0.7, 1.0), 1.0: (0.9, 0.5)}, metric="accuracy", grid=[0.1, 1.0])
    (1.0, 'highest')
    """
    sign = 1 if higher_is_better(metric) else -1
    found = [(-sign * value, float("inf") if loss is None else loss, rate)
             for rate, (value, loss) in results.items() if value is not None]
    if not found:
        return None
    rate = min(found)[2]
    edges = {min(grid): "lowest", max(grid): "highest"}
    return rate, edges.get(rate) if len(set(grid)) > 1 else None


def rank_arms(arms: Sequence[Arm], metric: str) -> list[Arm]:
    """The arms from best to worst by their means, numbered; those without a mean come last."""
    sign = 1 if higher_is_better(metric) else -1
    for arm in arms:
        values = [v for v in arm.values.values() if v is not None]
        arm.mean = statistics.fmean(values) if values else None
        arm.std = statistics.stdev(values) if len(values) > 1 else None
    ordered = sorted(arms, key=lambda arm: (arm.mean is None, -sign * (arm.mean or 0.0)))
    for number, arm in enumerate(ordered, 1):
        arm.rank = number if arm.mean is not None else None
    return ordered
