"""The arithmetic of a run: as configured, remembered from before, or measured now."""

import functools
import math
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.assembly import cache_folder
from finetune.config import Config, MemoryFormat, Precision
from finetune.devices import device_name
from finetune.errors import FinetuneError
from finetune.files import read_json, write_json
from finetune.memory import give_back_freed_memory
from finetune.method import batch_size, noise
from finetune.rehearsal import fits_only_the_head
from finetune.specs import InputSpec
from finetune.training.arithmetic import Arithmetic, candidates, has_bf16, measure_arithmetic

__all__ = ["settle_arithmetic"]

SHORT = 5.0  # seconds of training below which measuring isn't worth its time
PIXELS = 2**15  # in the pictures of a measured step: 8 at 64 px, 2 from 128 px up
SHORTEST = 0.025  # seconds of a step below which more pictures are measured
CLOSE = 1.25  # times the least: what may be as fast, the machine's other work aside
ADVANTAGE = 1.05  # float32 gives way only to what is faster by this factor

Times = dict[Arithmetic, float]


def settle_arithmetic(config: Config, model: nn.Module, spec: InputSpec, *, pictures: int,
                      device: torch.device, say: Callable[[str], object]) -> Config:
    """The configuration with ``auto`` replaced by a choice, in precision and memory format.

    A short training computes in float32, channels last. A longer one is measured, on a few steps
    (or forward passes, where only a classifier is fitted, exactly): the number types in channels
    last, then the fastest of them in the other layout. The answer is kept for the next run of the
    same network, size, batch, machine and torch.

    Args:
        config: As composed.
        model: On its device; unchanged.
        spec: The network's input.
        pictures: Of the training part.
        device: The device.
        say: Told what was chosen, and why.
    """
    training = config.training
    if training.precision in (Precision.bf16, Precision.bf16_mixed) and not has_bf16(device):
        say(f"arithmetic: {device} has no bf16: training.precision=fp32 instead of "
            f"{training.precision}")
        training = replace(training, precision=Precision.fp32)
    if training.precision is not Precision.auto:
        layout = (MemoryFormat.channels_last if training.memory_format is MemoryFormat.auto
                  else training.memory_format)
        return _with(config, Arithmetic(training.precision.value, layout.value))
    among = candidates(model, device, memory_format=training.memory_format.value,
                       convolutions=training.convolutions.value)
    key = _key(config, spec, device, among)
    known = _remembered().get(key)
    if known is not None:
        say(f"arithmetic: {known['precision']}, {known['memory_format']} (measured before on this "
            "machine)")
        return _with(config, Arithmetic(**known))
    own = batch_size(config)
    size = min(own, max(2, PIXELS // (spec.size[0] * spec.size[1])))
    trains = not fits_only_the_head(config)
    first = measure_arithmetic(model, noise(spec, size, device), among[:1], rounds=1,
                               trains=trains)
    pace = first[among[0]] / size
    if pace * pictures * training.epochs < SHORT:
        return _with(config, among[0])
    if pace * size < SHORTEST and size < own:
        size, first = min(own, int(4 * SHORTEST / pace)), {}
    times = _compare(functools.partial(measure_arithmetic, model, noise(spec, size, device),
                                       rounds=1, trains=trains), among, first)
    give_back_freed_memory()
    best = _fastest(times, among[0])
    if math.isinf(times[best]):
        raise FinetuneError(f"the device's memory is too small for a training step of {size} "
                            "pictures: a smaller data.batch_size, or data.batch_size=auto")
    _tell_and_keep(best, times, among[0], size, key, say)
    return _with(config, best)


def _compare(measure: Callable[[list[Arithmetic]], Times], among: list[Arithmetic],
             times: Times) -> Times:
    """A look at each number type, and at the fastest in the other layout; then the close ones.

    These are measured in turns, so that what else the machine does falls on all alike.
    """
    layout = among[0].memory_format
    types = [a for a in among if a.memory_format == layout and a not in times]
    times = times | (measure(types) if types else {})
    precision = _fastest(times, among[0]).precision
    any_left = math.isinf(min(times.values()))  # none fits the memory in this layout
    others = [a for a in among if (any_left or a.precision == precision) and a not in times]
    times |= measure(others) if others else {}
    close = [a for a, seconds in times.items() if seconds <= CLOSE * min(times.values())]
    again = measure(close) if len(close) > 1 else {}
    return times | {a: min(times[a], seconds) for a, seconds in again.items()}


def _fastest(times: Times, first: Arithmetic) -> Arithmetic:
    return min(times, key=lambda each: times[each] * (ADVANTAGE if each != first else 1.0))


def _tell_and_keep(best: Arithmetic, times: Times, first: Arithmetic, size: int, key: str,
                   say: Callable[[str], object]) -> None:
    told = ", ".join(f"{a.precision} {a.memory_format} {times[first] / t:.2f}"
                     for a, t in times.items())
    say(f"arithmetic: {best.precision}, {best.memory_format}; speed of a step of {size} pictures "
        f"against {first.precision} {first.memory_format}: {told}")
    write_json(_file(), _remembered() | {key: {"precision": best.precision,
                                               "memory_format": best.memory_format}})


def _with(config: Config, arithmetic: Arithmetic) -> Config:
    return replace(config, training=replace(
        config.training, precision=Precision(arithmetic.precision),
        memory_format=MemoryFormat(arithmetic.memory_format)))


def _key(config: Config, spec: InputSpec, device: torch.device, among: list[Arithmetic]) -> str:
    machine = (device_name(device) if device.type == "cuda"
               else f"{platform.machine()} {_processor()}")
    layouts = "/".join(sorted({each.memory_format for each in among}))
    read = "" if not fits_only_the_head(config) else " read only"
    return (f"{config.model.name}{read} {spec.channels}x{spec.size[0]}x{spec.size[1]} "
            f"batch {batch_size(config)}, {machine}, {torch.get_num_threads()} threads, torch "
            f"{torch.__version__}, {layouts}, {among[0].convolutions}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
                platform.processor())


def _file() -> Path:
    return cache_folder() / "arithmetic.json"


def _remembered() -> dict[str, Any]:
    try:
        found = read_json(_file())
    except (OSError, ValueError):
        return {}
    good = {f"{a}" for a in Precision} - {"auto"}
    return {key: value for key, value in found.items() if isinstance(value, dict)
            and value.get("precision") in good
            and value.get("memory_format") in ("contiguous", "channels_last")
            and len(value) == 2} if isinstance(found, dict) else {}
