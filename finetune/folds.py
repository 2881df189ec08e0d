"""K-fold cross-validation: a run for each fold, and their answers on test, pooled.

Each run is the one that the same command with ``data.fold=K`` makes, to the bit.
"""

import dataclasses
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune import session
from finetune.assembly import assemble_data, read_labelled
from finetune.config import Config
from finetune.console import progress_bar, say, table, warn
from finetune.environment import describe_folds
from finetune.errors import CheckError, DataError, InputError, Interrupted
from finetune.evaluation.pooling import pool_predictions, spread
from finetune.evaluation.predictions import Predictions
from finetune.files import write_json
from finetune.interruption import several_runs
from finetune.report.figures import write_figures
from finetune.report.folds_page import write_folds_report
from finetune.results import measure_answers
from finetune.run import fit, picture_reader, resume
from finetune.run_directory import RunDirectory

__all__ = ["fit_folds", "report_folds", "resume_folds", "train_in", "typed_words"]

SHOWN = ("accuracy", "balanced_accuracy", "quadratic_kappa", "mean_absolute_error", "macro_f1",
         "average_precision", "roc_auc", "log_loss")


def fit_folds(config: Config, *, overrides: Sequence[str] = ()) -> RunDirectory:
    """Train every fold in turn, each in ``fold-K`` of one new folder, and pool their answers.

    Before the first fold trains, the splits of all are made, so that none is refused hours later.

    Raises:
        InputError: Something given is wrong; nothing was trained.
        Interrupted: By a signal; finished folds stay, the folder can be resumed.
    """
    session.refuse_several_processes()
    _check_splits(config)
    parent = session.start_run(config)
    try:
        parent.write_config(session.with_whole_paths(config))
        parent.write_environment(describe_folds(config, overrides))
        return _train_missing(parent, config, overrides)
    except BaseException:
        if not any(parent.path.glob("fold-*")):
            shutil.rmtree(parent.path, ignore_errors=True)
        raise


def resume_folds(parent: RunDirectory) -> RunDirectory:
    """Train the folds that are missing, continue the one that was interrupted, and pool.

    Raises:
        InputError: The data changed.
        Interrupted: By a signal; the folder can be resumed again.
    """
    return _train_missing(parent, parent.config, typed_words(parent))


def train_in(folder: Path, config: Config, overrides: Sequence[str], *,
             replaced: dict[str, tuple[Any, Any]] | None = None) -> RunDirectory:
    """The finished run in a folder: as it is there, continued, or trained."""
    run = RunDirectory(folder)
    if run.is_finished:
        say(f"{folder} is finished")
        return run
    if run.last_checkpoint.exists():
        return resume(run)
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left before training
    return fit(config, replaced=replaced, overrides=overrides, start=lambda _: _made(folder))


def typed_words(run: RunDirectory) -> list[str]:
    """The words ``key=value`` that a run was started with."""
    return [word for word in shlex.split(run.environment["command"]) if "=" in word]


def _made(folder: Path) -> RunDirectory:
    folder.mkdir(parents=True)
    return RunDirectory(folder)


def _with_fold(config: Config, fold: int) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fold=fold))


def _check_splits(config: Config) -> None:
    assert config.data.root is not None
    tested = []
    with progress_bar("reading pictures", total=0) as done:
        for fold in range(1, config.data.folds + 1):
            data = assemble_data(_with_fold(config, fold), config.data.root, progress=done)
            tested.append(data.split.names == "test")
    assert (np.sum(tested, axis=0) == 1).all()


def _train_missing(parent: RunDirectory, config: Config,
                   overrides: Sequence[str]) -> RunDirectory:
    count = config.data.folds
    members = []
    for fold in range(1, count + 1):
        say(f"fold {fold} of {count}")
        folder = parent.path / f"fold-{fold}"
        try:
            with several_runs():
                members.append(train_in(folder, _with_fold(config, fold),
                                        [*overrides, f"data.fold={fold}"]))
        except (Interrupted, KeyboardInterrupt) as error:
            if not any(parent.path.glob("fold-*")):
                raise
            raise Interrupted(f"stopped in fold {fold} of {count}; what is finished is kept. "
                              "Continue with\n  python -m finetune resume "
                              f"{shlex.quote(str(parent.path))}") from error
    _pool(parent, members)
    say(f"folds and pooled results {parent.path}")
    return parent


def _pool(parent: RunDirectory, members: Sequence[RunDirectory]) -> None:
    """Write and print the metrics of all test answers, and how the folds differ."""
    answers = [Predictions.load(member.predictions_path("test")) for member in members]
    pooled = pool_predictions(answers)
    expected = {member.environment["data"]["pictures"] for member in members}
    if expected != {len(pooled)}:
        raise CheckError(f"the folds were made of {' and '.join(map(str, sorted(expected)))} "
                         f"pictures, and {len(pooled)} were tested: the data changed between them")
    pooled.save(parent.predictions_path("test"))
    each = [member.metrics for member in members]
    metrics = {**measure_answers({"test": pooled}), "selection": _selection(each),
               "folds": {"runs": [member.path.name for member in members],
                         "counts": [len(a) for a in answers],
                         "test": spread([m["test"] for m in each]),
                         "selection": [m["selection"] for m in each]}}
    write_json(parent.path / "metrics.json", metrics)
    _print_folds(metrics, [m["test"] for m in each])
    session.print_result(metrics, has_test=True)
    say(f"report {report_folds(parent)}")


def report_folds(parent: RunDirectory) -> Path:
    """Write the page of all folds from their files.

    Raises:
        InputError: Not all folds are finished.
    """
    if not (parent.path / "metrics.json").exists():
        raise InputError(f"{parent.path} has no pooled metrics yet: python -m finetune resume "
                         f"{shlex.quote(str(parent.path))}")
    data = parent.config.data
    assert data.root is not None
    for text in write_figures(parent.path):
        warn(text)
    try:
        reader = picture_reader(read_labelled(data, data.root)[0].source)
    except DataError as error:
        warn(f"the report has no pictures: {error}")
        return write_folds_report(parent.path)
    return write_folds_report(parent.path, reader)


def _selection(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As a run has it; the value is the mean of the folds', and each has its own epoch."""
    values = [m["selection"]["value"] for m in each if m["selection"]["value"] is not None]
    return {"metric": each[0]["selection"]["metric"], "epoch": None,
            "value": float(np.mean(values)) if values else None}


def _print_folds(metrics: dict[str, Any], tests: Sequence[dict[str, Any]]) -> None:
    shown = [name for name in SHOWN if metrics["test"].get(name) is not None]
    rows = [[f"fold {number}", *_cells(test, shown)] for number, test in enumerate(tests, 1)]
    over = metrics["folds"]["test"]
    rows += [["mean", "", *(over[name]["mean"] for name in shown)],
             ["standard deviation", "", *(_cell(over[name]["std"]) for name in shown)],
             ["pooled", *_cells(metrics["test"], shown)]]
    table(f"test, {len(tests)} folds", ["", "pictures", *shown], rows)


def _cells(test: dict[str, Any], shown: Sequence[str]) -> list[Any]:
    return [test["count"], *(_cell(test.get(name)) for name in shown)]


def _cell(value: float | None) -> float | str:
    return "" if value is None else value
