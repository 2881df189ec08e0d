"""The runs below a folder, as rows: what they were, how far they came, what they reached."""

import fnmatch
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.console import say, table, warn
from finetune.errors import ConfigurationError, FinetuneError, InputError, did_you_mean
from finetune.evaluation.selection import higher_is_better
from finetune.run_directory import RunDirectory
from finetune.values import get_value, known_keys

__all__ = ["RunRow", "list_runs", "parse_filters", "print_runs"]

_OWN = {"checkpoints", "predictions", "figures", "wandb", "pictures"}  # a run's, without runs
_STATES = ("finished", "stopped", "broken")


@dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
        run: Its directory.
        name: Its path below the folder that was looked at.
        state: ``finished``, ``stopped`` (it can be resumed) or ``broken``.
        started: When its folder was made, in seconds since 1970.
        recipe: The recipe's name.
        model: The network's name.
        seed: Its seed.
        rehearsal: Whether it ran on generated pictures.
        part: What the values are of, ``test`` or ``val``; None where there are none.
        values: Its metrics of that part.
        intervals: Their intervals, where they are known.
        problem: Why it is broken.
    """

    run: RunDirectory
    name: str
    state: str
    started: float
    recipe: str = ""
    model: str = ""
    seed: int | None = None
    rehearsal: bool = False
    part: str | None = None
    values: Mapping[str, Any] | None = None
    intervals: Mapping[str, Any] | None = None
    problem: str = ""

    def value(self, metric: str) -> float | None:
        """A metric, where it was measured and is defined."""
        found = (self.values or {}).get(metric)
        return float(found) if isinstance(found, int | float) else None


def parse_filters(words: Sequence[str]) -> dict[str, str]:
    """``KEY=PATTERN`` words; ``*`` and ``?`` stand for any letters, ``state`` is a key too.

    Raises:
        ConfigurationError: A word isn't of this form, or there is no such key.
    """
    filters = {}
    for word in words:
        key, equals, pattern = word.partition("=")
        if not equals:
            raise ConfigurationError(f"{word}: expected KEY=VALUE, such as model.name=resnet*")
        if key not in {*known_keys(), "state"}:
            raise ConfigurationError(f"{key} is no key{did_you_mean(key, known_keys())}")
        if key == "state" and pattern not in _STATES:
            raise ConfigurationError(f"state={pattern}: expected {', '.join(_STATES)}")
        filters[key] = pattern
    return filters


def list_runs(folder: Path, *, filters: Mapping[str, str] | None = None,
              sort: str | None = None) -> list[RunRow]:
    """All runs below a folder, members of studies and folds too; broken ones are rows as well.

    Args:
        folder: Where to look; ``output_dir`` of the runs.
        filters: Key of the configuration (or ``state``) to a pattern that its value has to match.
        sort: A metric, the best first, undefined last; None: the newest first.

    Raises:
        InputError: There is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; runs lie in output_dir, by default runs/")
    rows = [row for path in _run_folders(folder)
            if _matches(row := _read(RunDirectory(path), folder), filters or {})]
    if sort is None:
        return sorted(rows, key=lambda row: (-row.started, row.name))
    values = {row.name: row.value(sort) for row in rows}
    if rows and not any(value is not None for value in values.values()):
        raise InputError(f"none of these runs has a value of {sort}")
    sign = -1.0 if higher_is_better(sort) else 1.0
    return sorted(rows, key=lambda row: (values[row.name] is None,
                                         sign * (values[row.name] or 0.0)))


def print_runs(rows: Sequence[RunRow], *, metric: str) -> None:
    """A table of runs, and beneath it why broken ones can't be read."""
    if not rows:
        say("no run matches")
        return
    table(f"{len(rows)} run{'s' if len(rows) > 1 else ''}",
          ["run", "state", "started", "recipe", "network", "seed", "of", metric],
          [[row.name, row.state, time.strftime("%Y-%m-%d %H:%M", time.localtime(row.started)),
            f"{row.recipe}{' (rehearsal)' if row.rehearsal else ''}", row.model,
            "" if row.seed is None else row.seed, row.part or "", _shown(row, metric)]
           for row in rows])
    for row in rows:
        if row.problem:
            warn(f"{row.name}: {row.problem}")


def _shown(row: RunRow, metric: str) -> str:
    value, entry = row.value(metric), (row.intervals or {}).get(metric)
    if value is None:
        return ""
    ends = f" ({entry['low']:.3f} to {entry['high']:.3f})" if entry and entry["low"] is not None \
        else ""
    return f"{value:.4f}{ends}"


def _run_folders(folder: Path) -> Iterator[Path]:
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if name not in _OWN and name[0] != ".")
        if "config.yaml" in files:
            yield Path(place)


def _read(run: RunDirectory, folder: Path) -> RunRow:
    name = str(run.path.relative_to(folder))
    started = (run.path / "config.yaml").stat().st_mtime
    try:
        config = run.config
        finished = (run.path / "metrics.json").exists() and run.is_complete
        metrics = run.metrics if (run.path / "metrics.json").exists() else {}
        rehearsal = bool(run.environment.get("rehearsal"))
    except FinetuneError as error:
        return RunRow(run, name, "broken", started, problem=str(error))
    part = next((part for part in ("test", "val") if part in metrics), None)
    return RunRow(run, name, "finished" if finished else "stopped", started,
                  recipe=str(config.recipe), model=config.model.name, seed=config.seed,
                  rehearsal=rehearsal, part=part, values=metrics.get(part or ""),
                  intervals=metrics.get("intervals", {}).get(part or ""))


def _matches(row: RunRow, filters: Mapping[str, str]) -> bool:
    if row.state == "broken":
        return not filters or filters == {"state": "broken"}
    config = row.run.config
    return all(fnmatch.fnmatchcase(row.state if key == "state"
                                   else _text(get_value(config, key)), pattern)
               for key, pattern in filters.items())


def _text(value: Any) -> str:
    value = getattr(value, "value", value)
    return str(value) if not isinstance(value, bool | None) else {
        None: "null", True: "true", False: "false"}[value]
