"""The circumstances of a run: device, new folders, tracking, what is printed."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from finetune.assembly import Data
from finetune.config import Config, TrackingMode
from finetune.console import say, table, warn
from finetune.data.decoding import to_unit_range
from finetune.data.samples import PictureSource
from finetune.errors import CheckError, InputError
from finetune.evaluation.decisions import Decisions
from finetune.evaluation.per_class import measured_by_class
from finetune.evaluation.predictions import Predictions
from finetune.memory import keep_freed_memory
from finetune.report.mistakes import find_mistakes
from finetune.report.sheet import write_sheet
from finetune.run_directory import RunDirectory
from finetune.specs import InputSpec, LabelSpec
from finetune.training.tracking import Tracker, hashed_id, private_config, start_tracking

__all__ = ["announce", "choose_device", "compare_with_stored", "failing_tracker", "flat_scalars",
           "names_of", "open_tracker", "picture_for_report", "print_decisions", "print_result",
           "refuse_several_processes", "set_up_process", "start_run", "track_mistakes",
           "with_whole_paths", "write_batch_figures"]


HEADLINE = ("accuracy", "balanced_accuracy", "quadratic_kappa", "mean_absolute_error", "macro_f1",
            "average_precision", "roc_auc", "log_loss", "ece")


def refuse_several_processes() -> None:
    """Raise when a launcher started more than one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"WORLD_SIZE={os.environ['WORLD_SIZE']}: this version trains in one "
                         "process; start it without torchrun, or unset WORLD_SIZE")


def set_up_process(before: Mapping[str, Any] | None) -> None:
    """As many threads as the run began with, if it began; freed memory stays in the process."""
    keep_freed_memory()
    torch.set_num_threads(before["threads"] if before else torch.get_num_threads())


def announce(config: Config, replaced: Mapping[str, tuple[Any, Any]] | None) -> None:
    """Say what this is; a rehearsal can't be taken for a result."""
    if replaced is None:
        return
    recipe = f"recipe={config.recipe} " if config.recipe != "none" else ""
    say("REHEARSAL on generated sample pictures: its numbers say nothing about any real data.")
    start = ("random weights" if config.model.weights is None
             else f"weights {config.model.weights!r}")
    say(f"The network, {config.model.name}, starts from {start}; the method is the recipe's own.")
    say(f"For a result:  python -m finetune {recipe}data.root=DIR")
    changes = ", ".join(f"{k}={_shown(new)} (recipe: {_shown(old)})"
                        for k, (old, new) in replaced.items())
    say(f"Replaced for the rehearsal: data, {changes}")


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def choose_device(wanted: str) -> torch.device:
    """The device to compute on; ``auto`` takes CUDA, else MPS, else the CPU.

    Raises:
        InputError: The wanted one is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, here in there.items() if here))
    if not there[wanted]:
        have = ", ".join(name for name, here in there.items() if here)
        raise InputError(f"device={wanted}: torch finds none on this machine; there is {have}")
    return torch.device(wanted)


def start_run(config: Config) -> RunDirectory:
    """A new run directory, named after recipe, time and chance."""
    recipe = config.recipe if config.recipe != "none" else "run"
    name = recipe if config.data.root is not None else f"rehearsal-{recipe}"
    return RunDirectory.create(config.output_dir, name)


def open_tracker(run: RunDirectory, config: Config, *, is_rehearsal: bool) -> Tracker:
    """Start Weights & Biases as configured; a rehearsal stays offline."""
    tracking = config.tracking
    stored = run.path / "wandb" / "run_id"
    mode = tracking.mode
    disabled = TrackingMode.disabled in (mode, mode or os.environ.get("WANDB_MODE"))
    if is_rehearsal and not disabled:
        mode = TrackingMode.offline
    values, _ = private_config(_tree(config))
    tracker = start_tracking(
        run.path, mode=None if mode is None else mode.value, project=tracking.project,
        entity=tracking.entity, group=tracking.group, tags=list(tracking.tags),
        notes=tracking.notes, job_type=tracking.job_type, name=run.name, config=values,
        run_id=stored.read_text() if stored.exists() else None, pictures=tracking.pictures,
        salt=run.name, finish_timeout=900.0 if tracking.upload_model else 60.0)
    if tracker.run_id:
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(tracker.run_id)
    for text in tracker.warnings:
        warn(text)
    return tracker


def _tree(config: Config) -> dict[str, Any]:
    import yaml

    from finetune.composition import dump_config

    return dict(yaml.safe_load(dump_config(config)))


def with_whole_paths(config: Config) -> Config:
    """The configuration with absolute paths of the data: a run is resumed from any folder."""
    data = config.data
    if data.root is None:
        return config
    root, splits = os.path.abspath(data.root), data.splits_file
    folder = root if os.path.isdir(root) else os.path.dirname(root)
    if splits is not None and not Path(folder, splits).exists():
        splits = os.path.abspath(splits)
    return replace(config, data=replace(data, root=root, splits_file=splits))


@contextmanager
def failing_tracker(tracker: Tracker) -> Iterator[None]:
    """Finish tracking whatever happens, with an exit code that tells."""
    code = 1
    try:
        yield
        code = 0
    finally:
        tracker.finish(code)


def flat_scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """An epoch's numbers under flat names: ``train/loss``, ``val/…``, ``lr/…``."""
    flat = {"train/loss": entry["train_loss"], "images_per_second": entry["images_per_second"]}
    flat |= {f"val/{k}": v for k, v in entry["val"].items() if v is not None}
    flat |= {f"lr/{k}": v for k, v in entry["lr"].items()}
    return flat | {"trainable_depths": len(entry["trainable_depths"])}


def names_of(data: Data, indices: Tensor) -> list[str]:
    """Names of training pictures, for a message."""
    ids = data.part("train").ids
    return [ids[i] for i in indices.tolist()]


def picture_for_report(source: PictureSource, sample_id: str, *,
                       at_least: tuple[int, int] | None = None) -> np.ndarray:
    """A picture as 8-bit grey or RGB, scaled to its own range where it isn't 8-bit.

    ``at_least``: height and width that suffice; large JPEG files are read sooner then.
    """
    pixels = source.read(sample_id, at_least).pixels
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        unit = to_unit_range(pixels, (low, high if high > low else low + 1))
        pixels = (unit * 255).round().astype(np.uint8)
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]


def track_mistakes(tracker: Tracker, data: Data, predictions: Predictions, part: str) -> None:
    """Send the worst mistakes as pictures, without their names."""
    found = find_mistakes(predictions, count=12)
    images = [picture_for_report(data.samples.source, mistake["id"]) for mistake in found]
    captions = [f"{hashed_id(m['id'], tracker.salt)}: {m['true']}, answered {m['predicted']}"
                for m in found]
    tracker.log_pictures(f"{part}/worst_mistakes", images, captions)


def write_batch_figures(run: RunDirectory, loaders: Mapping[str, DataLoader[Any]],
                        spec: InputSpec, labels: LabelSpec, data: Data) -> None:
    """Draw what the network will see, before it sees it."""
    for part in ("train", "val"):
        dataset = loaders[part].dataset
        count = min(16, len(dataset))  # type: ignore[arg-type]
        places = np.linspace(0, len(dataset) - 1, count).astype(int)  # type: ignore[arg-type]
        items = [dataset[(int(i), int(i) + 1)] for i in places]
        images = [item[0].permute(1, 2, 0).numpy() for item in items]
        titles = [_title(item[1], labels) for item in items]
        write_sheet(run.path / "figures" / f"batch_{part}.png", images, titles,
                    title=f"{part}: what the network sees, {spec.size[0]} px, "
                          f"{spec.resize.value}")


def _title(target: Tensor, labels: LabelSpec) -> str:
    if labels.is_exclusive:
        return labels.class_names[int(target)]
    return ", ".join(n for n, y in zip(labels.class_names, target, strict=True) if y == 1) or "none"


def print_result(metrics: Mapping[str, Any], *, has_test: bool) -> None:
    """The headline of each part and the last one's table per class; undefined is empty."""
    for part in [p for p in ("val", "test") if p in metrics]:
        say(f"{part}: {_headline(metrics[part], metrics.get('intervals', {}).get(part, {}))}")
    last = "test" if "test" in metrics else "val"
    if last == "val":
        why = "The test part was not looked at" if has_test else "There is no test part"
        say(f"{why}: these are validation numbers, also used for selection.")
    columns = ("precision", "recall", "specificity", "f1", "support")
    table(f"{last} per class", ["class", *columns], [
        [name, *[_number(row.get(c)) for c in columns]]
        for name, row in measured_by_class(metrics[last]).items()])


def _headline(values: Mapping[str, Any], entries: Mapping[str, Any]) -> str:
    """Numbers with their intervals, the names of what is not defined, and what ≈ means."""
    there = [k for k in HEADLINE if k in values]
    told = [f"{k} {values[k]:.4f}{_between(entries.get(k))}" for k in there
            if values[k] is not None]
    lacking = [k for k in there if values[k] is None]
    line = "  ".join([*told, *([f"not defined: {', '.join(lacking)}"] if lacking else [])])
    return line + ("  (≈: too little is known for the interval)" if "≈" in line else "")


def print_decisions(decisions: Decisions | None) -> None:
    """What was fitted on validation pictures, and what was refused and why."""
    if decisions is None:
        return
    calibration = decisions.calibration
    if calibration.kept:
        kind = calibration.kind.replace("_", " ")
        at = "" if calibration.temperature is None else f" {calibration.temperature:.3g}"
        say(f"calibrated by {kind}{at}: {calibration.reason}")
    for reason in decisions.reasons:
        if reason != calibration.reason or not calibration.kept:
            say(reason)


def _between(entry: Mapping[str, Any] | None) -> str:
    """An interval in brackets; with ≈ where too little is known for it."""
    if not entry or entry["low"] is None:
        return ""
    return f" ({entry['low']:.3f} to {entry['high']:.3f}{'' if entry['reliable'] else ' ≈'})"


def _number(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, int) else float(value)


def compare_with_stored(path: Path, now: Predictions) -> None:
    """Raise when stored logits differ from these by more than 1e-3."""
    if not path.exists():
        return
    stored = Predictions.load(path)
    same = stored.ids == now.ids and stored.logits.shape == now.logits.shape
    worst = float(np.abs(stored.logits - now.logits).max()) if same else float("inf")
    if worst > 1e-3:
        raise CheckError(f"the predictions differ from {path.name} of the run (largest difference "
                         f"of a logit {worst:.3g}); other versions, hardware or weights?")
    say(f"agrees with the run's own predictions (largest difference of a logit {worst:.2g})")
