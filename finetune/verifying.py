"""Whether a finished run is what it says: nothing was changed, and its numbers come again."""

import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune import session
from finetune.assembly import assemble_model
from finetune.config import Config, TrackingMode
from finetune.console import say
from finetune.devices import device_name
from finetune.environment import current_commit, read_versions
from finetune.errors import CheckError, DataError, FinetuneError, InputError
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions
from finetune.files import hash_file
from finetune.run import evaluate, fit
from finetune.run_directory import RunDirectory

__all__ = ["train_twice", "verify"]

TIMES = ("seconds", "images_per_second")  # of an epoch: never the same twice


def verify(run: RunDirectory) -> None:
    """Compare a run with what it began with, and repeat its evaluation.

    Versions, commit and machine; config.yaml and splits.csv by their hashes; the weights it started
    from; contents, labels and parts of the pictures; answers of the chosen weights; metrics of the
    stored answers.

    Raises:
        CheckError: Something differs; the message names each difference.
        InputError: The run isn't finished.
    """
    if not run.best_weights.exists() or not (run.path / "metrics.json").exists():
        raise InputError(f"{run.path} is not finished: python -m finetune resume {run.path}")
    environment, config = run.whole_environment, run.config
    found = [*_circumstances(environment, config), *_files(run, environment),
             *_starting_weights(config, environment), *_results(run)]
    _conclude(list(dict.fromkeys(found)), f"{run.path} is what it says: versions, settings, split, "
              "data, weights, answers and metrics agree")


def train_twice(run: RunDirectory) -> None:
    """Train the run's configuration twice for one epoch and compare bit by bit.

    Weights, answers, and the history without times. Each training has an empty cache of its own;
    nothing stays behind.

    Raises:
        CheckError: A bit differs; the message names tensors and values.
    """
    environment = run.whole_environment
    torch.set_num_threads(environment["threads"])
    with tempfile.TemporaryDirectory(prefix="finetune-verify-") as folder:
        first, second = (_trained(run, Path(folder, name)) for name in ("first", "second"))
        found = [*_tensors(first, second), *_epochs(first.history, second.history),
                 *_answers(first, second)]
        depths = first.history[0]["trainable_depths"]
    _conclude(found, "two trainings of one epoch are the same to the bit: weights, history and "
              f"answers (depths that trained: {', '.join(map(str, depths))})")


def _conclude(differences: Sequence[str], good: str) -> None:
    if differences:
        count = f"{len(differences)} difference{'s' if len(differences) > 1 else ''}"
        raise CheckError("\n".join([f"{count}:", *(f"  {text}" for text in differences)]))
    say(good)


def _circumstances(environment: Mapping[str, Any], config: Config) -> Iterator[str]:
    then, now = environment["versions"], read_versions()
    for name in sorted(then.keys() | now.keys()):
        yield from _changed(f"version of {name}", then.get(name), now.get(name))
    yield from _changed("commit", environment["commit"], current_commit())
    hardware = environment["hardware"]
    yield from _changed("machine", hardware["machine"], platform.machine())
    device = device_name(session.choose_device(config.device.value))
    yield from _changed("device", hardware["device"], device)


def _changed(what: str, then: Any, now: Any) -> Iterator[str]:
    if then != now:
        yield f"{what}: was {then}, is {now}"


def _files(run: RunDirectory, environment: Mapping[str, Any]) -> Iterator[str]:
    if "files" not in environment:
        say("not checked: config.yaml and splits.csv, of which this run's version kept no hash")
    for name, then in environment.get("files", {}).items():
        path = run.path / name
        if not path.is_file():
            yield f"{name} is missing"
        elif hash_file(path) != then:
            yield f"{name} was changed since the run began (its SHA-256 is another)"


def _starting_weights(config: Config, environment: Mapping[str, Any]) -> Iterator[str]:
    then = environment["weights"]["sha256"]
    if then is None:
        return
    try:
        _, weights = assemble_model(config, channels=environment["input_spec"]["channels"],
                                    class_names=environment["label_spec"]["class_names"])
    except FinetuneError as error:
        say(f"not checked: the weights it started from ({error})")
        return
    yield from _changed("SHA-256 of the weights it started from", then, weights.sha256)


def _results(run: RunDirectory) -> Iterator[str]:
    metrics = run.metrics
    for part in [part for part in ("val", "test") if part in metrics]:
        try:
            now = evaluate(run, part=part)
        except (CheckError, InputError) as error:
            yield str(error)
        else:
            yield from _labels(run, part, now)
        yield from _metrics(run, part, metrics[part])
    chosen = metrics["selection"]
    history = run.history[chosen["epoch"] - 1:chosen["epoch"]]
    value = history[0]["val"].get(chosen["metric"]) if history else None
    yield from _changed(f"{chosen['metric']} of epoch {chosen['epoch']} in history.jsonl",
                        chosen["value"], value)


def _labels(run: RunDirectory, part: str, now: Predictions) -> Iterator[str]:
    path = run.predictions_path(part)
    if path.exists():
        then = Predictions.load(path).labels
        if not np.array_equal(np.asarray(then, float), np.asarray(now.labels, float),
                              equal_nan=True):
            yield f"predictions/{part}.npz has other labels than the data"


def _metrics(run: RunDirectory, part: str, stored: Mapping[str, Any]) -> Iterator[str]:
    try:
        found = compute_metrics(Predictions.load(run.predictions_path(part)))
    except DataError as error:
        yield str(error)
        return
    yield from _unequal(f"metrics.json, {part}", stored, found)


def _unequal(where: str, stored: Any, found: Any) -> Iterator[str]:
    """Where plain values differ; numbers by more than 1e-6 of their size."""
    if isinstance(found, Mapping) and isinstance(stored, Mapping):
        for key, value in found.items():
            yield from _unequal(f"{where}: {key}", stored.get(key), value)
    elif isinstance(found, float) and isinstance(stored, int | float):
        if not math.isclose(found, stored, rel_tol=1e-6, abs_tol=1e-9):
            yield f"{where} says {stored}, the stored answers give {found}"
    elif found != stored:
        yield f"{where} says {stored}, the stored answers give {found}"


def _trained(run: RunDirectory, folder: Path) -> RunDirectory:
    """One epoch of the run's configuration, in a folder of its own."""
    config, rehearsal = run.config, run.environment["rehearsal"]
    replaced = None if rehearsal is None else {k: tuple(v) for k, v in
                                               rehearsal["replaced"].items()}
    once = replace(
        config, output_dir=str(folder), training=replace(config.training, epochs=1),
        tracking=replace(config.tracking, mode=TrackingMode.disabled, upload_model=False))
    with _cache(folder / "cache"):
        return fit(once, replaced=replaced)


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Facts and features are kept in this folder for a while."""
    before = os.environ.get("FINETUNE_CACHE")
    os.environ["FINETUNE_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["FINETUNE_CACHE"]
        os.environ |= {} if before is None else {"FINETUNE_CACHE": before}


def _tensors(first: RunDirectory, second: RunDirectory) -> Iterator[str]:
    from safetensors.torch import load_file

    one, other = load_file(first.best_weights), load_file(second.best_weights)
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            yield f"weights: {name} is in one training only"
        elif not _same_bits(one[name], other[name]):
            yield f"weights: {name} differs"


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return torch.equal(*raw)


def _epochs(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]],
            ) -> Iterator[str]:
    for one, other in zip(first, second, strict=True):
        for key in sorted((one.keys() | other.keys()) - set(TIMES)):
            if one.get(key) != other.get(key):
                yield f"history: {key} is {one.get(key)} and {other.get(key)}"


def _answers(first: RunDirectory, second: RunDirectory) -> Iterator[str]:
    for path in sorted((first.path / "predictions").glob("*.npz")):
        one, other = (Predictions.load(run.path / "predictions" / path.name)
                      for run in (first, second))
        if one.ids != other.ids or not np.array_equal(one.logits, other.logits):
            yield f"predictions: {path.stem} differs"
