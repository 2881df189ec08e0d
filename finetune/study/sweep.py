"""Trials that Optuna chooses, in Hydra's words: ``hydra/sweeper=optuna``, members of a study.

The words and their checks are those of Hydra's sweeper; its class is not used. It can't go on with
the trials it would have tried, ends with the first failure, writes beside the study, and its SQLite
storage fails with SQLAlchemy 2.1. Here ``study.json`` alone is the history: for each next trial
Optuna is told all trials before, and its sampler gets a seed made of the sweep's and the trial's
number. So the same sweep gives the same trials, stopped and resumed or not.
"""

import functools
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep

from finetune.errors import ConfigurationError
from finetune.evaluation.selection import higher_is_better
from finetune.study.launchers import is_local, read_sweeper
from finetune.study.plan import SEARCH, Arm, Member, Study, Sweep, merge
from finetune.study.words import StudyWords
from finetune.values import known_keys

__all__ = ["corners", "next_trials", "read_sweep", "sweep_notes"]

SAMPLERS = ("TPESampler", "RandomSampler")
TAKEN = ("hydra/sweeper", "hydra/sweeper/sampler", "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs")


def read_sweep(found: StudyWords, seed: int) -> Sweep:
    """What is searched, and how.

    Args:
        found: The words.
        seed: Of the sampler, unless ``hydra.sweeper.sampler.seed`` is given.

    Raises:
        ConfigurationError: One message for what is wrong; the plugin isn't installed.
    """
    settings = read_sweeper(found.sweeper)
    sampler = dict(settings["sampler"])
    problems = [f"{key}: a sweep takes {', '.join(TAKEN)} and hydra.sweeper.sampler.KEY. The "
                "direction follows the metric, trials are kept in study.json and go on with "
                "resume, what is searched is typed as key=choice(A,B) or key=interval(A,B)"
                for key in (word.partition("=")[0] for word in found.sweeper)
                if key not in TAKEN and not key.startswith("hydra.sweeper.sampler.")]
    if sampler["_target_"].rpartition(".")[2] not in SAMPLERS:
        problems.append("hydra/sweeper/sampler: expected tpe or random; every combination is "
                        "trained by -m and lists without hydra/sweeper")
    problems += [f"hydra.sweeper.{key}={settings[key]}: expected 1 or more"
                 for key in ("n_trials", "n_jobs") if settings[key] < 1]
    space = {**found.lists, **found.intervals}
    if "seed" in space:
        problems.append("seed: all trials of a sweep have one; the best words are trained with "
                        "several afterwards")
    if not space:
        problems.append("hydra/sweeper=optuna searches nothing: add key=choice(A,B) or "
                        "key=interval(A,B)")
    problems += [f"{key}={text}: expected a smaller number, then a larger one; 'tag(log, "
                 "interval(A,B))' needs A above 0" for key, text in found.intervals.items()
                 if not _is_sound(*_interval(key, text))]
    if problems:
        raise ConfigurationError("\n".join(problems))
    sampler["seed"] = seed if sampler.get("seed") is None else sampler["seed"]
    at_once = 1 if is_local(found.hydra) else settings["n_jobs"]
    return Sweep(dict(found.lists), dict(found.intervals), settings["n_trials"], at_once, sampler)


def sweep_notes(sweep: Sweep) -> list[str]:
    """What whoever starts the sweep may want to change."""
    notes = []
    for key, text in sweep.intervals.items():
        low, high, is_log = _interval(key, text)
        if not is_log and low > 0 and high / low >= 100:
            notes.append(f"{key}={text} is searched evenly: nine of ten trials lie above "
                         f"{low + (high - low) / 10:g}; "
                         f"'{key}=tag(log, interval({low:g},{high:g}))' searches orders of "
                         "magnitude alike")
    combinations = math.prod(map(len, sweep.choices.values()))
    if not sweep.intervals and combinations <= sweep.trials:
        notes.append(f"there are {combinations} combinations and {sweep.trials} trials: without "
                     "hydra/sweeper=optuna, -m trains each once")
    return notes


def corners(sweep: Sweep) -> list[list[str]]:
    """Words in which every listed value, and both ends of every interval, stand at least once."""
    values = {**sweep.choices, **{key: [_text(key, text, end) for end in _interval(key, text)[:2]]
                                  for key, text in sweep.intervals.items()}}
    return [[f"{key}={own[min(at, len(own) - 1)]}" for key, own in values.items()]
            for at in range(max(map(len, values.values())))]


def next_trials(study: Study, results: Sequence[float | None]) -> list[tuple[Arm, Member]]:
    """The trials to run next, side by side; none where all are there.

    Args:
        study: Its members are the trials so far.
        results: The metric of each on validation; None where it failed.
    """
    assert study.sweep is not None
    done, sweep = len(study.members), study.sweep
    with _quietly():
        import optuna

        space = {**{key: optuna.distributions.CategoricalDistribution(tuple(values))
                    for key, values in sweep.choices.items()},
                 **{key: _distribution(key, text) for key, text in sweep.intervals.items()}}
        rises = study.metric is None or higher_is_better(study.metric)
        told = optuna.create_study(direction="maximize" if rises else "minimize")
        for arm, value in zip(study.arms, results, strict=True):
            told.add_trial(_told(arm, value, space))
        found = []
        for number in range(done, min(sweep.trials, done + sweep.at_once)):
            told.sampler = _sampler(sweep, number)
            found.append(_trial(study, number, told.ask(fixed_distributions=space).params))
    return found


def _told(arm: Arm, value: float | None, space: dict[str, Any]) -> Any:
    import optuna

    given = dict(word.split("=", 1) for word in arm.words)
    params = {key: given[key] if hasattr(kind, "choices") else _number(given[key])
              for key, kind in space.items()}
    state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(state=state, value=value, params=params, distributions=space)


def _sampler(sweep: Sweep, number: int) -> Any:
    name = str(sweep.sampler.get("_target_")).removeprefix("optuna.samplers.")
    options = {key: value for key, value in sweep.sampler.items() if not key.startswith("_")}
    try:  # not by Hydra's instantiate, which calls whatever a study's file names
        if name not in SAMPLERS:
            raise TypeError(f"{name} is none")
        from optuna import samplers

        seed = np.random.SeedSequence([sweep.sampler["seed"], number]).generate_state(1)[0]
        return getattr(samplers, name)(**{**options, "seed": int(seed)})
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"the sampler {sweep.sampler} is none that a study takes ({error})"
                                 f": there are {', '.join(SAMPLERS)}, with numbers") from error


def _trial(study: Study, number: int, params: dict[str, Any]) -> tuple[Arm, Member]:
    assert study.sweep is not None
    name, intervals = f"trial-{number:03d}", study.sweep.intervals
    own = [f"{key}={_text(key, intervals[key], value) if key in intervals else value}"
           for key, value in params.items()]
    words = merge({"tracking.job_type": "trial"}, study.base, study.settled.get("words", {}), own,
                  [f"seed={study.seeds[0]}", "data.measure_test=false"])
    return Arm(name, name, own), Member(name, name, SEARCH, study.seeds[0], None, words)


@functools.cache
def _interval(key: str, text: str) -> tuple[float, float, bool]:
    """Ends of an interval, and whether it is searched by orders of magnitude."""
    value = OverridesParser.create().parse_override(f"{key}={text}").value()
    assert isinstance(value, IntervalSweep) and value.start is not None and value.end is not None
    low, high = value.start, value.end  # Hydra reads 1 as 1.0
    if known_keys()[key] in (int, int | None) and low % 1 == high % 1 == 0:
        low, high = int(low), int(high)
    return low, high, "log" in value.tags


def _is_sound(low: float, high: float, is_log: bool) -> bool:
    return math.isfinite(high - low) and low < high and (low > 0 or not is_log)


def _distribution(key: str, text: str) -> Any:
    from optuna import distributions as kinds

    low, high, is_log = _interval(key, text)
    if isinstance(low, int) and isinstance(high, int):
        return (kinds.IntLogUniformDistribution if is_log else kinds.IntUniformDistribution)(
            low, high)
    return (kinds.LogUniformDistribution if is_log else kinds.UniformDistribution)(low, high)


def _text(key: str, interval: str, value: float) -> str:
    """A number as one types it, four digits long, inside the interval."""
    low, high, _ = _interval(key, interval)
    return str(min(max(value if isinstance(value, int) else float(f"{value:.4g}"), low), high))


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what Optuna says of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SQLAlchemy, and of what is experimental
        import optuna

        optuna.logging.set_verbosity(logging.ERROR)
        yield
