"""A study: arms that differ in some words, a rate searched for each, several seeds, one table.

Fair by construction: the same pictures, splits and epochs for all; every arm gets the same search
for its rate, on validation, with a seed of its own; arms are ranked on validation; the test part
compares the chosen arm with the reference alone. Every member is the run of its words, to the bit.
"""

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
from finetune.console import say, warn
from finetune.errors import FinetuneError, InputError, Interrupted
from finetune.files import write_text
from finetune.interruption import several_runs
from finetune.rehearsal import fits_only_the_head
from finetune.run_directory import RunDirectory
from finetune.study.launchers import check_kept_launcher, check_launcher, is_local, run_jobs
from finetune.study.making import plan_study
from finetune.study.member import LOGS, SETTLE, Failure, StudyTask
from finetune.study.plan import (
    FINAL,
    SEARCH,
    Arm,
    Member,
    Study,
    best_rate,
    final_members,
    merge,
    rank_arms,
    search_members,
)
from finetune.study.store import read_study, write_study
from finetune.study.sweep import corners, next_trials
from finetune.study.table import print_table

__all__ = ["resume_study", "run_study"]


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
    check_kept_launcher(study.launcher)
    if study.launcher:
        check_launcher(study.launcher)
    if study.chosen and all(member.state == "finished" for member in study.members):
        say(f"{folder} is finished; nothing to do")
        print_table(study, folder)
        return folder
    return _go_on(folder)


def _go_on(folder: Path) -> Path:
    study = read_study(folder)
    failures: dict[str, Failure] = {}
    try:
        with several_runs():
            if not study.settled:
                _settle(folder, study)
            (_run_trials if study.sweep else _run_arms)(folder, study, failures)
    except (KeyboardInterrupt, Interrupted) as error:
        raise Interrupted(_advice(folder, study)) from error
    _conclude(folder, study)
    print_table(study, folder)
    _tell_failures(study, failures)
    return folder


def _run_arms(folder: Path, study: Study, failures: dict[str, Failure]) -> None:
    """The searches, then the runs that count."""
    if not study.members:
        study.members = search_members(study)
        write_study(folder, study)
    _run_missing(folder, study, SEARCH, failures)
    _choose_rates(folder, study)
    if not any(member.role == FINAL for member in study.members):
        study.members += final_members(study)
        write_study(folder, study)
    _run_missing(folder, study, FINAL, failures)


def _run_trials(folder: Path, study: Study, failures: dict[str, Failure]) -> None:
    """What is missing or failed, then trial after trial."""
    _run_missing(folder, study, SEARCH, failures)
    while True:
        metric = _metric(folder, study)
        found = next_trials(study, [
            _value(folder, member, metric) if metric and member.state == "finished" else None
            for member in study.members])
        if not found:
            return
        new = range(len(study.members), len(study.members) + len(found))
        study.arms += [arm for arm, _ in found]
        study.members += [member for _, member in found]
        write_study(folder, study)
        _run(folder, study, list(new), failures)


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
    own = corners(study.sweep) if study.sweep else [arm.words for arm in order]
    settling = tuple(tuple(merge(study.base, words)) for words in own)
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
    return not fits_only_the_head(compose(merge(study.base, arm.words), typed_by_user=False).config)


def _run_missing(folder: Path, study: Study, role: str, failures: dict[str, Failure]) -> None:
    """Train members of a role that aren't finished."""
    for member in study.members:
        if RunDirectory(folder / member.path).is_finished and member.state != "failed":
            member.state = "finished"
    missing = [number for number, member in enumerate(study.members)
               if member.role == role and member.state != "finished"]
    _run(folder, study, [n for n in missing if not _lacks_rate(study, study.members[n])], failures)


def _run(folder: Path, study: Study, missing: list[int], failures: dict[str, Failure]) -> None:
    """Train the members of these numbers; one at a time in this process."""
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
        own = _finished(study, SEARCH if study.sweep else FINAL, arm.name)
        arm.values = {str(m.seed): _value(folder, m, metric) for m in own}
        arm.seconds = _mean([sum(e["seconds"] for e in RunDirectory(folder / m.path).history)
                             for m in own])
    losses = {m.arm: _value(folder, m, "log_loss") for m in study.members} if study.sweep else {}
    best = rank_arms(sorted(study.arms, key=lambda arm: losses.get(arm.name) or 0.0), metric)[0]
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
