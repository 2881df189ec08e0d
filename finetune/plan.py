"""What a run would train, on what, for how long; nothing is trained."""

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.assembly import (
    Data,
    assemble_data,
    assemble_model,
    check_forward,
    domain_of,
    input_spec,
)
from finetune.config import Config
from finetune.console import say, table, warn
from finetune.data.splits import class_counts
from finetune.devices import compute_exactly
from finetune.environment import depth_table
from finetune.fastest import settle_arithmetic
from finetune.fitting import settle_batch_size
from finetune.frozen import outlook
from finetune.method import Method, build_method, planned_pack
from finetune.models.freezing import freeze_except
from finetune.models.weights import WeightsReport
from finetune.session import announce, choose_device
from finetune.specs import InputSpec

__all__ = ["Prepared", "base_rates", "prepare", "print_plan", "trained_epochs"]


def print_plan(config: Config, *, replaced: dict[str, tuple[Any, Any]] | None) -> None:
    """Print depths, rates, epochs, pictures, and an estimate of the time.

    Raises:
        InputError: Whatever a run would refuse.
    """
    announce(config, replaced)
    if config.data.all_folds:
        say(f"the first of {config.data.folds} folds; all take that many times as long")
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        quiet = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0))
        made = prepare(quiet, Path(folder))
        method, data, weights, spec = made.method, made.data, made.weights, made.spec
        _print_depths(method, config.training.epochs)
        _print_pictures(data)
        for line in outlook(method, made.config, data):
            say(line)
        say(f"weights: {weights.source}; input {spec.channels} x {spec.size[0]} x {spec.size[1]}, "
            f"{spec.resize.value}, mean {_short(spec.mean)}, std {_short(spec.std)}")
        for text in [*weights.notes, planned_pack(config, data, spec)[0].reason]:
            if text:
                say(text)
        say(f"estimated training time: about {_duration(_estimate(method, config))} on "
            f"{method.device} (two batches timed with everything trainable; an upper bound where "
            "depths are frozen)")


@dataclass(frozen=True)
class Prepared:
    """What a run puts together before it trains.

    Attributes:
        config: Settled: of folds the first; arithmetic and batch size are known.
    """

    config: Config
    data: Data
    weights: WeightsReport
    spec: InputSpec
    method: Method


def prepare(config: Config, folder: Path) -> Prepared:
    """Read the data, build network and method as a run does.

    Args:
        config: All values.
        folder: Where a rehearsal's pictures are made.

    Raises:
        InputError: Whatever a run would refuse.
    """
    if config.data.all_folds:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, fold=1))
    data = assemble_data(config, _root(config, folder))
    for text in [*data.warnings, *data.split.repairs]:
        warn(text)
    torch.manual_seed(config.seed)
    names = data.samples.label_spec.class_names
    model, weights = assemble_model(config, class_names=names, channels=data.channels)
    spec = input_spec(config, data, model, weights)
    check_forward(config, model, spec, len(names))
    device = choose_device(config.device.value)
    compute_exactly(device)
    given: dict[str, Any] = {"model": model.to(device), "spec": spec, "device": device,
                             "say": say, "pictures": len(data.part("train"))}
    config = settle_batch_size(settle_arithmetic(config, **given), **given)
    return Prepared(config, data, weights, spec, build_method(config, model, data, spec, device))


def _root(config: Config, folder: Path) -> str:
    if config.data.root is not None:
        return config.data.root
    from finetune.data.sample_data import generate_samples

    generate_samples(domain_of(config), folder / "pictures", seed=config.data.split_seed)
    return str(folder / "pictures")


def trained_epochs(method: Method, epochs: int) -> dict[int, list[int]]:
    """For each depth, the epochs (from 1) in which it trains."""
    plans = [method.plan([{}] * epoch) for epoch in range(epochs)]
    depths = {group.depth for group in method.groups}
    return {d: [e + 1 for e, plan in enumerate(plans) if d in plan.depths] for d in depths}


def base_rates(method: Method, epochs: int) -> dict[int, list[float]]:
    """For each depth, its rates before the schedule's factor: one, or one for each phase's own."""
    plans = [method.plan([{}] * epoch) for epoch in range(epochs)]
    own = {g.depth: g.lr for g in method.groups}
    return {depth: list(dict.fromkeys(
        lr if plan.lr is None else lr * plan.lr / method.settings.lr
        for plan in plans if depth in plan.depths)) or [lr] for depth, lr in own.items()}


def _print_depths(method: Method, epochs: int) -> None:
    when, rates = trained_epochs(method, epochs), base_rates(method, epochs)
    table("what would train", ["depth", "module", "parameters", "learning rate", "weight decay",
                               "epochs"],
          [[row["depth"], row["name"], row["parameters"],
            ", ".join(f"{lr:.4g}" for lr in rates[row["depth"]]), row["weight_decay"],
            _ranges(when[row["depth"]])] for row in depth_table(method.model, method.groups)])
    if any(group.towards_start for group in method.groups):
        say("weight decay below the classifier is towards the starting weights")
    if method.plan([]).by_gradient:
        say("each rate is multiplied by the depth's relative gradient norm, 0 to 1, measured at "
            "the start of each epoch")


def _print_pictures(data: Data) -> None:
    counts = class_counts(data.samples, data.split)
    table(f"pictures ({data.split.method} split)", ["class", *data.parts],
          [[name, *[row.get(p, 0) for p in data.parts]] for name, row in counts.items()])


def _ranges(epochs: list[int]) -> str:
    if not epochs:
        return "never"
    parts, start = [], epochs[0]
    for here, after in zip(epochs, [*epochs[1:], None], strict=True):
        if after != here + 1:
            parts.append(str(start) if start == here else f"{start}-{here}")
            start = after or 0
    return ", ".join(parts)


def _short(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.3f}" for v in values[:3]) + (" …" if len(values) > 3 else "")


def _estimate(method: Method, config: Config) -> float:
    freeze_except(method.model, {g.depth for g in method.groups})
    method.set_train_mode(method.plan([]))
    batches = iter(method.loaders["train"])
    seconds = [_time_batch(method, batch) for _, batch in zip(range(2), batches, strict=False)]
    return min(seconds) * len(method.loaders["train"]) * config.training.epochs * 1.2


def _time_batch(method: Method, batch: Any) -> float:
    started = time.perf_counter()
    targets = batch[1].to(next(method.model.parameters()).device)
    with method.settings.autocast():
        logits = method.model(method.prepare(batch[0]))
    loss = method.criterion(logits.float(), targets)
    loss.backward()
    method.model.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
