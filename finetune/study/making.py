"""From the words of a study to the study as values: arms, checks of all of them, the plan."""

import dataclasses
import os
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from finetune import session
from finetune.composition import compose, reach_problems
from finetune.config import Config
from finetune.console import say, table, warn
from finetune.errors import ConfigurationError
from finetune.evaluation.selection import check_select_metric
from finetune.names import name_problems
from finetune.plan import print_plan
from finetune.rehearsal import fits_only_the_head
from finetune.study.files import StudyValues, find_study
from finetune.study.launchers import check_launcher
from finetune.study.plan import Arm, Study, cross, merge, total_members
from finetune.study.sweep import corners, read_sweep, sweep_notes
from finetune.study.words import StudyWords, read_numbers, read_study_words

__all__ = ["plan_study", "print_study_plan"]


def print_study_plan(words: Sequence[str]) -> None:
    """Print the arms of a study, how many runs they make, and the plan of the reference's run.

    Raises:
        InputError: Whatever the study would refuse.
    """
    study, _ = plan_study(words)
    for note in study.notes:
        warn(note)
    if study.sweep is not None:
        table("what is searched", ["key", "values"],
              [*([key, ", ".join(values)] for key, values in study.sweep.choices.items()),
               *map(list, study.sweep.intervals.items())])
        own_words = corners(study.sweep)[0]
    else:
        own_words = _print_arms(study)
    composed = compose(merge(study.base, own_words), typed_by_user=False)
    print_plan(composed.config, replaced=composed.replaced)
    say(f"this is one run of {total_members(study)}" + (
        ", each chosen by what the ones before it gave" if study.sweep else
        f": {len(study.arms)} arms with {len(study.seeds)} seeds, after the search for rates"))


def _print_arms(study: Study) -> list[str]:
    """Print them; the words of the reference."""
    table(f"arms of study {study.study}", ["arm", "words", "rates searched"],
          [[arm.name + (" (reference)" if arm.name == study.reference else ""),
            shlex.join(arm.words), " ".join(f"{arm.lr * factor:.4g}" for factor in study.rates)
            if arm.searches else "none"] for arm in study.arms])
    return next(arm.words for arm in study.arms if arm.name == study.reference)


def plan_study(words: Sequence[str]) -> tuple[Study, Config]:
    """The study that the words describe, before anything of it trains, and its reference's values.

    Raises:
        ConfigurationError: One message for what is wrong, of all arms.
    """
    found = read_study_words(words)
    if found.hydra:
        check_launcher(found.hydra)
    if found.sweeper:
        return _plan_sweep(found, words)
    values, name = _values(found)
    seeds = [int(s) for s in found.lists.pop("seed", [])] or (
        [int(found.typed["seed"])] if found.typed.get("seed", "").isdecimal() else values.seeds)
    _refuse_typed_twice(found, values, name)
    arms = cross(values.arms, found.lists)
    base = dict(word.split("=", 1) for word in merge(values.common, found.typed))
    configs = _check_arms(arms, base)
    base.pop("seed", None)
    rates = [] if "optimizer.lr" in found.lists else values.rates
    for arm, config in zip(arms, configs, strict=True):
        arm.lr = config.optimizer.lr
        arm.searches = bool(rates) and not fits_only_the_head(config)
    reference = _reference(values.reference, arms)
    chosen = configs[[arm.name for arm in arms].index(reference)]
    search_seeds = values.search_seeds or [max(seeds) + 1]
    study = Study(name, list(words), {**base, **_whole_paths(base, chosen)}, reference,
                  values.metric, rates, seeds, search_seeds if rates else [], found.hydra, arms,
                  notes=_notes(arms, configs))
    return study, chosen


def _plan_sweep(found: StudyWords, words: Sequence[str]) -> tuple[Study, Config]:
    """A study whose members are trials; every value that they may get is checked."""
    wrong = sorted(found.settings.keys() - {"study.metric"})
    if wrong:
        raise ConfigurationError(f"{', '.join(wrong)}: hydra/sweeper=optuna chooses the trials "
                                 "itself; of study.KEY it takes study.metric alone")
    values, _ = _values(found)
    seed = int(found.typed["seed"]) if found.typed.get("seed", "").isdecimal() else 0
    sweep = read_sweep(found, seed)
    configs = _check_arms([Arm(" ".join(own), "", own) for own in corners(sweep)], found.typed)
    base = {key: value for key, value in found.typed.items() if key != "seed"}
    study = Study("optuna", list(words), {**base, **_whole_paths(base, configs[0])}, "trial-000",
                  values.metric, [], [seed], [], found.hydra, [], notes=sweep_notes(sweep),
                  sweep=sweep)
    return study, configs[0]


def _values(found: StudyWords) -> tuple[StudyValues, str]:
    """What the study's file says, and over it what was typed; and the study's name."""
    given, name = found.settings, "sweep"
    values = StudyValues(arms={}, seeds=[0])
    if "study" in given:
        file = find_study(given["study"])
        values, name = file.values(), file.name
        _refuse_reaching(file.path.name, values, found.typed)
    changes: dict[str, Any] = {}
    for key, kind in (("seeds", int), ("search_seeds", int), ("rates", float)):
        if f"study.{key}" in given:
            changes[key] = read_numbers(f"study.{key}", given[f"study.{key}"], kind)
    if changes.get("seeds") == []:
        raise ConfigurationError("study.seeds is empty: at least one seed")
    if "study.arms" in given:
        changes["arms"] = _picked(values.arms, given["study.arms"])
    changes |= {key: given[f"study.{key}"] for key in ("reference", "metric")
                if f"study.{key}" in given}
    values = dataclasses.replace(values, **changes)
    if values.metric is not None:
        check_select_metric(values.metric)
    if "study.reference" not in given and values.reference not in values.arms:
        values = dataclasses.replace(values, reference=None)
    return values, name


def _refuse_reaching(name: str, values: StudyValues, typed: Collection[str]) -> None:
    """Raise where a study's file leads elsewhere, or lets data leave, and nobody typed it."""
    problems = [told for words in (values.common, *values.arms.values())
                for told in reach_problems(f"study {name}", dict(
                    word.split("=", 1) for word in words if "=" in word), typed)]
    if problems:
        raise ConfigurationError("\n".join(dict.fromkeys(problems)))


def _picked(arms: dict[str, list[str]], text: str) -> dict[str, list[str]]:
    names = [name.strip() for name in text.strip("[]").split(",")]
    wrong = [name for name in names if name not in arms]
    if wrong:
        raise ConfigurationError(f"study.arms={text}: there is no arm {wrong[0]!r}; there are "
                                 f"{', '.join(arms) or 'none without study=NAME'}")
    return {name: arms[name] for name in names}


def _refuse_typed_twice(found: StudyWords, values: StudyValues, name: str) -> None:
    own = {word.partition("=")[0] for words in values.arms.values() for word in words}
    twice = sorted(own & (found.typed.keys() | found.lists.keys()))
    if twice:
        raise ConfigurationError(f"{', '.join(twice)} is what the arms of study={name} differ in: "
                                 "leave it out, or choose arms with study.arms=NAME,NAME")


def _check_arms(arms: Sequence[Arm], base: dict[str, str]) -> list[Config]:
    """The configuration of each arm; all that is wrong with any is one message."""
    configs, problems = [], []
    for arm in arms:
        words = merge(base, arm.words)
        try:
            config = compose(words, typed_by_user=False, check_names=name_problems).config
        except ConfigurationError as error:
            problems.append(f"{error}" if len(arms) == 1 else f"arm {arm.name}: {error}")
            continue
        if config.data.all_folds:
            problems.append("a study trains one split: choose a fold with data.fold=K, or "
                            "another data.split")
        if config.data.compare_random:
            problems.append("data.compare_random belongs to a single run: leave it out")
        configs.append(config)
    if problems:
        raise ConfigurationError("\n".join(dict.fromkeys(problems)))
    return configs


def _reference(name: str | None, arms: Sequence[Arm]) -> str:
    names = [arm.name for arm in arms]
    if name is None or name in names:
        return name or names[0]
    among = [each for each in names if each.split(",")[0] == name]
    if among:
        return among[0]
    raise ConfigurationError(f"study.reference={name} is no arm; there are {', '.join(names)}")


def _whole_paths(base: dict[str, str], config: Config) -> dict[str, str]:
    """Absolute paths in place of typed ones, so that each command can be run from anywhere."""
    data = session.with_whole_paths(config).data
    found = {key: str(value) for key, value in (("data.root", data.root),
                                                ("data.splits_file", data.splits_file))
             if key in base and value is not None}
    for key in ("recipe", "model.weights"):
        path = Path(base.get(key, "")).expanduser()
        if base.get(key) and len(path.parts) + bool(path.suffix) > 1 and path.exists():
            found[key] = os.path.abspath(path)
    return found


def _notes(arms: Sequence[Arm], configs: Sequence[Config]) -> list[str]:
    budgets = {arm.name: config.training.epochs for arm, config in zip(arms, configs, strict=True)
               if not fits_only_the_head(config)}
    if len(set(budgets.values())) < 2:
        return []
    told = ", ".join(f"{name} {epochs}" for name, epochs in budgets.items())
    return [f"the arms have different numbers of epochs ({told}): not the same budget"]
