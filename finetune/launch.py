"""Everything that one configuration asks for: a run, a run for each fold, or two to compare."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.config import Config
from finetune.folds import fit_folds, report_folds, resume_folds
from finetune.random_split import compare_random
from finetune.run import fit, resume, rewrite_report
from finetune.run_directory import RunDirectory

__all__ = ["launch", "relaunch", "report"]


def launch(config: Config, *, replaced: dict[str, tuple[Any, Any]] | None = None,
           overrides: Sequence[str] = ()) -> RunDirectory:
    """Train as configured and return the run, or the folder around the runs of all folds.

    Args:
        config: Checked values.
        replaced: In a rehearsal, what it replaced.
        overrides: The words typed, for the report.

    Raises:
        InputError: Something given is wrong; nothing was trained.
        Interrupted: By a signal; what was made can be resumed.
    """
    if config.data.all_folds:
        return fit_folds(config, overrides=overrides)
    run = fit(config, replaced=replaced, overrides=overrides)
    return compare_random(run) if config.data.compare_random else run


def report(run: RunDirectory) -> Path:
    """Write the report of a run, or of all folds, again from its files; where it lies.

    Raises:
        InputError: The run isn't finished.
    """
    return report_folds(run) if run.has_folds else rewrite_report(run)


def relaunch(run: RunDirectory) -> RunDirectory:
    """Do what is left of an interrupted run, of all folds, or of a comparison.

    Raises:
        InputError: There is nothing to go on from, or the data changed.
        Interrupted: By a signal; it can be resumed again.
    """
    if run.has_folds:
        return resume_folds(run)
    if not run.is_finished:
        resume(run)
    return compare_random(run) if run.config.data.compare_random else run
