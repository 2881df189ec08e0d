"""A study: arms that differ in some words, a rate searched for each, several seeds, one table.

Fair by construction: the same pictures, splits and epochs for all; every arm gets the same search
for its rate, on validation, with a seed of its own; arms are ranked on validation; the test part
compares the chosen arm with the reference alone. Every member is the run of its words, to the bit.
"""

import dataclasses
import os
import shlex
import shutil
import statistics
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune import session
from finetune.composition import compose
from finetune.config import Config
from finetune.console import say, table, warn
from finetune.errors import ConfigurationError, FinetuneError, InputError, Interrupted
from finetune.evaluation.selection import check_select_metric
from finetune.files import write_text
from finetune.interruption import several_runs
from finetune.launchers import check_launcher, is_local, run_jobs
from finetune.names import name_problems
from finetune.plan import print_plan
from finetune.rehearsal import fits_only_the_head
from finetune.run_directory import RunDirectory
from finetune.study_files import StudyValues, find_study
from finetune.study_member import LOGS, SETTLE, Failure, StudyTask
from finetune.study_plan import (
    FINAL,
    SEARCH,
    Arm,
    Member,
    Study,
    best_rate,
    cross,
    final_members,
    merge,
    rank_arms,
    search_members,
    total_members,
)
from finetune.study_store import read_study, write_study
from finetune.study_table import print_table
from finetune.study_words import StudyWords, read_numbers, read_study_words

__all__ = ["plan_study", "print_study_plan", "resume_study", "run_study"]


def run_study(words: Sequence[str]) -> Path:
    """Train all members of a new study and print its table.

    Args:
        words: As typed: ``-m``, ``study=NAME``, ``study.KEY=…``, Hydra's, and ``key=value``.

    Returns:
        The folder of the study.

    Raises:
        InputError: Something given is wrong, and nothing was trained; or every member failed by it.
        FinetuneError: Some members failed; the others are in the table.
        Interrupted: By a signal; the folder can be resumed.
    """
    session.refuse_several_processes()
    study, config = plan_study(words)
    for note in study.notes:
        warn(note)
    folder = RunDirectory.create(config.output_dir, f"study-{study.study}").path
    study.base.setdefault("tracking.group", folder.name)
    try:
        write_study(folder, study)
        return _go_on(folder)
    finally:
        if not any(folder.glob("*/config.yaml")):
            shutil.rmtree(folder, ignore_errors=True)


def resume_study(folder: Path) -> Path:
    """Train what is missing of a study, failed members too, and print its table.

    Raises:
        FinetuneError: As `run_study`.
    """
    study = read_study(folder)
    if study.chosen and all(member.state == "finished" for member in study.members):
        say(f"{folder} is finished; nothing to do")
        print_table(study, folder)
        return folder
    return _go_on(folder)


def print_study_plan(words: Sequence[str]) -> None:
    """Print the arms of a study, how many runs they make, and the plan of the reference's run.

    Raises:
        InputError: Whatever the study would refuse.
    """
    study, _ = plan_study(words)
    for note in study.notes:
        warn(note)
    table(f"arms of study {study.study}", ["arm", "words", "rates searched"],
          [[arm.name + (" (reference)" if arm.name == study.reference else ""),
            shlex.join(arm.words), " ".join(f"{arm.lr * factor:.4g}" for factor in study.rates)
            if arm.searches else "none"] for arm in study.arms])
    own = next(arm for arm in study.arms if arm.name == study.reference)
    composed = compose(merge(study.base, own.words))
    print_plan(composed.config, replaced=composed.replaced)
    say(f"this is one run of {total_members(study)}: "
        f"{len(study.arms)} arms with {len(study.seeds)} seeds, after the search for rates")


def plan_study(words: Sequence[str]) -> tuple[Study, Config]:
    """The study that the words describe, before anything of it trains, and its reference's values.

    Raises:
        ConfigurationError: One message for what is wrong, of all arms.
    """
    found = read_study_words(words)
    if found.hydra:
        check_launcher(found.hydra)
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


def _values(found: StudyWords) -> tuple[StudyValues, str]:
    """What the study's file says, and over it what was typed; and the study's name."""
    given, name = found.settings, "sweep"
    values = StudyValues(arms={}, seeds=[0])
    if "study" in given:
        file = find_study(given["study"])
        values, name = file.values(), file.name
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
            config = compose(words, check_names=name_problems).config
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


def _go_on(folder: Path) -> Path:
    study = read_study(folder)
    failures: dict[str, Failure] = {}
    try:
        with several_runs():
            _run_members(folder, study, failures)
    except (KeyboardInterrupt, Interrupted) as error:
        raise Interrupted(_advice(folder, study)) from error
    _conclude(folder, study)
    print_table(study, folder)
    _tell_failures(study, failures)
    return folder


def _run_members(folder: Path, study: Study, failures: dict[str, Failure]) -> None:
    """What is missing of both rounds: all that search rates, then all that count."""
    if not study.settled:
        _settle(folder, study)
    if not study.members:
        study.members = search_members(study)
        write_study(folder, study)
    _run_missing(folder, study, SEARCH, failures)
    _choose_rates(folder, study)
    if not any(member.role == FINAL for member in study.members):
        study.members += final_members(study)
        write_study(folder, study)
    _run_missing(folder, study, FINAL, failures)


def _advice(folder: Path, study: Study) -> str:
    if not any(folder.glob("*/config.yaml")):
        return "stopped before the first member; nothing is kept of this study. Start it again"
    done = sum(RunDirectory(folder / member.path).is_finished for member in study.members)
    return (f"stopped with {done} members finished; what is finished is kept. Continue with\n"
            f"  python -m finetune resume {shlex.quote(str(folder))}")


def _settle(folder: Path, study: Study) -> None:
    """Measure once what is ``auto``, where the members run, for all of them."""
    order = sorted(study.arms, key=lambda arm: (not _trains_a_network(study, arm),
                                                arm.name != study.reference))
    settling = tuple(tuple(merge(study.base, arm.words)) for arm in order)
    answer = run_jobs(StudyTask(str(folder), os.getpid(), settling), folder, study.launcher,
                      [SETTLE])[0]
    if isinstance(answer, Failure):
        if answer.is_interruption:
            raise Interrupted(answer.error)
        raise (InputError if answer.is_input else FinetuneError)(answer.error)
    if isinstance(answer, BaseException):
        raise answer
    study.settled = answer
    write_study(folder, study)


def _trains_a_network(study: Study, arm: Arm) -> bool:
    return not fits_only_the_head(compose(merge(study.base, arm.words)).config)


def _run_missing(folder: Path, study: Study, role: str, failures: dict[str, Failure]) -> None:
    """Train members of a role that aren't finished; one at a time in this process."""
    for member in study.members:
        if RunDirectory(folder / member.path).is_finished and member.state != "failed":
            member.state = "finished"
    missing = [number for number, member in enumerate(study.members)
               if member.role == role and member.state != "finished"]
    missing = [n for n in missing if not _lacks_rate(study, study.members[n])]
    batches = [[n] for n in missing] if is_local(study.launcher) else [missing] if missing else []
    task = StudyTask(str(folder), os.getpid())
    for batch in batches:
        answers = run_jobs(task, folder, study.launcher, batch)
        for number, answer in zip(batch, answers, strict=True):
            _note(folder, study.members[number], answer, failures)
        write_study(folder, study)
        stopped = [a for a in answers if isinstance(a, Failure) and a.is_interruption]
        if stopped:
            raise Interrupted(stopped[0].error)


def _lacks_rate(study: Study, member: Member) -> bool:
    """Whether no search of the member's arm came to an end; it has failed then."""
    arm = next(arm for arm in study.arms if arm.name == member.arm)
    lacks = member.role == FINAL and arm.searches and arm.rate is None
    if lacks:
        member.state, member.error = "failed", "no rate: every run of its search failed"
    return lacks


def _note(folder: Path, member: Member, answer: Any, failures: dict[str, Failure]) -> None:
    if isinstance(answer, BaseException):
        text = "".join(traceback.format_exception(answer))
        write_text(folder / LOGS / f"{member.path}.error.txt", text)
        answer = Failure(f"{type(answer).__name__}: {answer}")
    if answer is None:
        member.state, member.error = "finished", None
    elif isinstance(answer, Failure) and answer.is_interruption:
        member.state = "waiting"
    else:
        member.state, member.error = "failed", answer.error
        failures[member.path] = answer
        warn(f"{member.path} failed: {answer.error}")


def _value(folder: Path, member: Member, metric: str, part: str = "val") -> float | None:
    value = RunDirectory(folder / member.path).metrics.get(part, {}).get(metric)
    return None if value is None else float(value)


def _finished(study: Study, role: str, arm: str | None = None) -> list[Member]:
    return [m for m in study.members if m.role == role and m.state == "finished"
            and arm in (None, m.arm)]


def _metric(folder: Path, study: Study) -> str | None:
    """The study's metric, or the one that chooses the epoch."""
    for member in study.members:
        if study.metric is None and member.state == "finished":
            selection = RunDirectory(folder / member.path).metrics["selection"]
            study.metric = str(selection["metric"])
    return study.metric


def _choose_rates(folder: Path, study: Study) -> None:
    metric = _metric(folder, study)
    for arm in study.arms:
        if not arm.searches or arm.rate is not None or metric is None:
            continue
        grid = [m.rate for m in study.members
                if m.arm == arm.name and m.role == SEARCH and m.rate is not None]
        results = {}
        for rate in sorted(set(grid)):
            own = [m for m in _finished(study, SEARCH, arm.name) if m.rate == rate]
            results[rate] = (_mean([_value(folder, m, metric) for m in own]),
                             _mean([_value(folder, m, "log_loss") for m in own]))
        found = best_rate(results, metric=metric, grid=grid)
        if found is not None:
            arm.rate, arm.edge = found
            say(f"{arm.name}: rate {arm.rate:g}" + ("" if arm.edge is None else
                f", the {arm.edge} that was tried: a wider grid may find a better one"))
    for member in study.members:  # an arm whose search was made up for has a rate now
        if member.role == FINAL and member.error and member.state == "failed":
            fresh = next(m for m in final_members(study) if m.path == member.path)
            member.words, member.rate = fresh.words, fresh.rate
    write_study(folder, study)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def _conclude(folder: Path, study: Study) -> None:
    """Rank the arms on validation; on test, the best one and the reference alone."""
    metric = _metric(folder, study)
    study.chosen, study.test = None, None
    if metric is None:
        write_study(folder, study)
        return
    for arm in study.arms:
        own = _finished(study, FINAL, arm.name)
        arm.values = {str(m.seed): _value(folder, m, metric) for m in own}
        arm.seconds = _mean([sum(e["seconds"] for e in RunDirectory(folder / m.path).history)
                             for m in own])
    best = rank_arms(study.arms, metric)[0]
    if best.mean is not None:
        study.chosen = best.name
        study.test = _on_test(folder, study, best.name, metric)
    write_study(folder, study)


def _on_test(folder: Path, study: Study, chosen: str, metric: str) -> dict[str, Any] | None:
    found: dict[str, Any] = {"metric": metric}
    for role, name in (("chosen", chosen), ("reference", study.reference)):
        values = {str(m.seed): _value(folder, m, metric, "test")
                  for m in _finished(study, FINAL, name)}
        mean = _mean(list(values.values()))
        if mean is None:
            return None
        found[role] = {"arm": name, "values": values, "mean": mean}
    return found


def _tell_failures(study: Study, failures: dict[str, Failure]) -> None:
    failed = [member for member in study.members if member.state == "failed"]
    if not failed:
        return
    lines = [f"  {m.path}: {m.error}" for m in failed]
    text = f"{len(failed)} of {len(study.members)} members failed:\n" + "\n".join(lines)
    all_failed = len(failed) == len(study.members)
    by_input = all(failures.get(m.path, Failure("", is_input=m.error is not None and
                                                m.error.startswith("no rate"))).is_input
                   for m in failed)
    raise (InputError if all_failed and by_input else FinetuneError)(text)
