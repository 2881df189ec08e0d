"""Runs that are to be compared: found, read, refused where they can't be, and joined to methods."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import DataError, FinetuneError, InputError, first_of
from finetune.evaluation.predictions import Predictions
from finetune.files import read_json
from finetune.recipes import flatten
from finetune.run_directory import STUDY, RunDirectory, inner_folder

__all__ = ["ComparedRun", "Member", "Method", "check_comparable", "group_methods", "list_members",
           "read_runs"]

# What may differ between runs of one method: where things lie, and what is only reported.
INCIDENTAL = {"seed", "output_dir", "device", "data.root", "data.workers", "data.pack",
              "training.cache_limit"}
MEASURED = ("training.precision", "training.memory_format")  # auto: by what is quicker at the time


@dataclass(frozen=True)
class Member:
    """A run of a folder.

    Attributes:
        path: Its folder.
        arm: The study's name of its method; ``None`` outside a study.
    """

    path: Path
    arm: str | None = None


@dataclass(frozen=True)
class ComparedRun:
    """What comparing needs of a run.

    Attributes:
        name: Its folder's name.
        path: Its folder.
        arm: The study's name of its method.
        settings: Flat keys of ``config.yaml``.
        environment: Of ``environment.json``.
        metrics: Of ``metrics.json``.
        history: Of ``history.jsonl``.
        part: ``test`` or ``val``.
        predictions: Of that part; pictures in the order of their ids.
    """

    name: str
    path: Path
    arm: str | None
    settings: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    part: str
    predictions: Predictions

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.settings.get("seed", 0))

    @property
    def is_rehearsal(self) -> bool:
        """Whether it was trained on generated pictures."""
        return self.environment.get("rehearsal") is not None


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but the seed.

    Attributes:
        name: What it differs in from the others, or its name in a study.
        runs: In the order of their seeds.
        settings: What it differs in, key to value.
    """

    name: str
    runs: list[ComparedRun]
    settings: dict[str, Any] = field(default_factory=dict)


def list_members(folder: Path) -> tuple[list[Member], list[str]]:
    """The runs that a folder stands for, and what was left out and why.

    A run stands for itself; a study for its members that were not a search; any other folder for
    the finished runs below it. Runs inside a run (of folds, of a random split) are not looked at.

    Raises:
        InputError: There is no such folder, no run in it, or its ``study.json`` is damaged.
    """
    if (folder / "config.yaml").is_file():
        return [Member(folder)], []
    if not folder.is_dir():
        RunDirectory.open(folder)  # tells which runs are near
    found, notes = _of_study(folder) if (folder / STUDY).is_file() else (
        [Member(path) for path in sorted(_runs_below(folder))], [])
    finished = [m for m in found if (m.path / "metrics.json").is_file()]
    notes += [f"left out, not finished: {m.path}" for m in found if m not in finished]
    if not finished:
        why = f": none of its {len(found)} runs is finished" if found else ""
        raise InputError(f"{folder} holds no finished run{why}; expected folders with config.yaml "
                         "and metrics.json")
    return finished, notes


def _of_study(folder: Path) -> tuple[list[Member], list[str]]:
    try:
        members = read_json(folder / STUDY)["members"]
        rows = [(inner_folder(m["path"]), str(m["arm"]), m.get("role")) for m in members]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{folder / STUDY} can't be read ({error}); expected a list `members` "
                         "with path and arm") from error
    searches = sum(role == "search" for _, _, role in rows)
    notes = [f"{folder}: {searches} runs that searched a learning rate are left out"]
    return ([Member(folder / path, arm) for path, arm, role in rows if role != "search"],
            notes if searches else [])


def _runs_below(folder: Path) -> Iterator[Path]:
    for inner in folder.iterdir():
        if (inner / "config.yaml").is_file():
            yield inner
        elif inner.is_dir() and not inner.is_symlink():
            yield from _runs_below(inner)


def read_runs(members: Sequence[Member]) -> list[ComparedRun]:
    """Read finished runs; pictures in the order of their ids.

    Test pictures are compared where all runs have them, else validation pictures.

    Raises:
        InputError: Runs are unfinished or broken; the message names all of them.
    """
    opened, problems = [], []
    for member in members:
        try:
            opened.append((member, *_read(member.path)))
        except FinetuneError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    with_test = [member.path for member, _, metrics, _ in opened if "test" in metrics]
    part = "test" if with_test else "val"
    lacking = [str(member.path) for member, _, _, _ in opened if member.path not in with_test]
    if with_test and lacking:
        raise InputError(f"{first_of(lacking)}: no test part was measured, as it was of "
                         f"{with_test[0]}; runs are compared on the same pictures")
    return [_run(member, settings, metrics, environment, part)
            for member, settings, metrics, environment in opened]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings, metrics and environment."""
    run = RunDirectory(path)
    if not (path / "metrics.json").is_file():
        raise InputError(f"{path} is not finished: metrics.json is missing; python -m finetune "
                         f"resume {path}")
    settings = flatten(run.settings)
    metrics = run.metrics
    if not isinstance(metrics.get("test", metrics.get("val")), dict):
        raise InputError(f"{path / 'metrics.json'} has neither test nor val; it is not a run's")
    return settings, metrics, run.environment


def _run(member: Member, settings: dict[str, Any], metrics: dict[str, Any],
         environment: dict[str, Any], part: str) -> ComparedRun:
    run = RunDirectory(member.path)
    answers = _in_order(Predictions.load(run.predictions_path(part)))
    if not np.isfinite(answers.logits).all():
        raise DataError(f"{run.predictions_path(part)}: answers are NaN or infinite")
    return ComparedRun(run.path.resolve().name, run.path, member.arm, settings, environment,
                       metrics, run.history, part, answers)


def _in_order(given: Predictions) -> Predictions:
    order = sorted(range(len(given)), key=given.ids.__getitem__)
    groups = given.groups
    return Predictions([given.ids[i] for i in order], given.labels[order], given.logits[order],
                       given.label_spec, None if groups is None else [groups[i] for i in order])


def check_comparable(runs: Sequence[ComparedRun]) -> None:
    """Raise unless all runs answered about the same pictures with the same labels and classes.

    Raises:
        InputError: There is one run only, or rehearsals and others.
        DataError: Pictures, labels or classes differ; names which.
    """
    if len(runs) < 2:
        raise InputError(f"{runs[0].path if runs else 'nothing'} is one run only; compare needs "
                         "two or more, or a folder that holds them")
    first = runs[0]
    for other in runs[1:]:
        if first.is_rehearsal != other.is_rehearsal:
            rehearsal, real = (first, other) if first.is_rehearsal else (other, first)
            raise InputError(f"{rehearsal.path} is a rehearsal on generated pictures, {real.path} "
                             "is not: rehearsals are compared with rehearsals only")
        told = _difference(first.predictions, other.predictions)
        if told:
            raise DataError(f"{other.path} can't be compared with {first.path}: {told}")


def _difference(first: Predictions, other: Predictions) -> str | None:
    """What differs, as a sentence."""
    one, two = first.label_spec, other.label_spec
    if one.kind is not two.kind:
        return f"its labels are of kind {two.kind.value}, not {one.kind.value}"
    if one.class_names != two.class_names:
        same = sorted(one.class_names) == sorted(two.class_names)
        return (f"{'its classes are in another order' if same else 'it has other classes'}: "
                f"{first_of(two.class_names)}; expected {first_of(one.class_names)}")
    if first.ids != other.ids:
        here, there = set(other.ids), set(first.ids)
        parts = [f"{len(ids)} {word} ({first_of(sorted(ids), count=3)})" for ids, word in
                 ((here - there, "are only in it"), (there - here, "are lacking")) if ids]
        return f"it answered about other pictures: {', '.join(parts) or 'some stand there twice'}"
    differs = ~((first.labels == other.labels) | _both_unknown(first.labels, other.labels))
    rows = np.flatnonzero(differs.reshape(len(first), -1).any(axis=1))
    if len(rows):
        return f"{len(rows)} pictures have other labels ({first_of([first.ids[i] for i in rows])})"
    return None


def _both_unknown(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.isnan(first.astype(float)) & np.isnan(other.astype(float)))


def group_methods(runs: Sequence[ComparedRun]) -> tuple[list[Method], list[str]]:
    """Runs that differ only in their seed, joined; and what was left out.

    A second run of the same method and seed is left out: it is no other draw. When all runs are of
    one method and there are two, each stands for itself.
    """
    joined: dict[str, dict[int, ComparedRun]] = {}
    notes = []
    for run in runs:
        seeds = joined.setdefault(_key(run), {})
        if run.seed in seeds:
            notes.append(f"left out: {run.path} repeats seed {run.seed} of {seeds[run.seed].path}")
        seeds.setdefault(run.seed, run)
    groups = [[seeds[seed] for seed in sorted(seeds)] for seeds in joined.values()]
    if len(groups) == 1 and len(groups[0]) == 2:
        return [Method(f"seed={run.seed}", [run], {"seed": run.seed}) for run in groups[0]], notes
    return _named(groups), notes


def _key(run: ComparedRun) -> str:
    return json.dumps([run.arm, _own(run)], sort_keys=True, default=str)


def _own(run: ComparedRun) -> dict[str, Any]:
    """The settings that make the method; arithmetic only where it was asked for."""
    typed = str(run.environment.get("command", ""))
    return {key: value for key, value in run.settings.items()
            if key not in INCIDENTAL and not key.startswith("tracking.")
            and (key not in MEASURED or f"{key}=" in typed)}


def _named(groups: list[list[ComparedRun]]) -> list[Method]:
    """Methods with names that tell them apart."""
    settings = [_own(runs[0]) for runs in groups]
    apart = [key for key in sorted({key for each in settings for key in each})
             if len({repr(each.get(key)) for each in settings}) > 1]
    methods = []
    for runs, each in zip(groups, settings, strict=True):
        own = {key: each.get(key) for key in apart}
        name = runs[0].arm or ", ".join(f"{_short(key)}={value}" for key, value in own.items()
                                        if key != "recipe" or len(apart) == 1)
        methods.append(Method(name if name and len(name) <= 80 else runs[0].name, runs, own))
    names = [method.name for method in methods]
    return [replace(method, name=f"{method.name} ({method.runs[0].name})")
            if names.count(method.name) > 1 else method for method in methods]


def _short(key: str) -> str:
    return key if key in ("model.name", "optimizer.name", "schedule.name") else key.split(".")[-1]
