"""The arithmetic of a run: as configured, remembered from before, or measured now."""

import json
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
from finetune.files import write_json
from finetune.method import batch_size, noise
from finetune.specs import InputSpec
from finetune.training.arithmetic import Arithmetic, candidates, has_bf16, measure_arithmetic

__all__ = ["settle_arithmetic"]

SHORT = 5.0  # seconds of training below which measuring isn't worth its time
STEP = 0.1  # seconds that a measured step may take in float32
ADVANTAGE = 1.05  # float32 gives way only to what is faster by this factor


def settle_arithmetic(config: Config, model: nn.Module, spec: InputSpec, *, pictures: int,
                      device: torch.device, say: Callable[[str], object]) -> Config:
    """The configuration with ``auto`` replaced by a choice, in precision and memory format.

    A short training computes in float32, channels last. A longer one is measured, on a few steps,
    and the answer is kept for the next run of the same network, size, batch, machine and torch.

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
    size = min(8, batch_size(config))
    pace = measure_arithmetic(model, noise(spec, size, device), among[:1], rounds=1)[among[0]]
    if pace / size * pictures * training.epochs < SHORT:
        return _with(config, among[0])
    return _with(config, _measured(model, spec, device, among, key, pace / size, config, say))


def _measured(model: nn.Module, spec: InputSpec, device: torch.device, among: list[Arithmetic],
              key: str, pace: float, config: Config, say: Callable[[str], object]) -> Arithmetic:
    size = max(2, min(batch_size(config), int(STEP / pace)))
    times = measure_arithmetic(model, noise(spec, size, device), among, rounds=2)
    best = min(times, key=lambda each: times[each] * (ADVANTAGE if each != among[0] else 1.0))
    if math.isinf(times[best]):
        raise FinetuneError(f"the device's memory is too small for a training step of {size} "
                            "pictures: a smaller data.batch_size, or data.batch_size=auto")
    told = ", ".join(f"{a.precision} {a.memory_format} {times[among[0]] / t:.2f}"
                     for a, t in times.items())
    say(f"arithmetic: {best.precision}, {best.memory_format}; speed of a step of {size} pictures "
        f"against {among[0].precision} {among[0].memory_format}: {told}")
    write_json(_file(), _remembered() | {key: {"precision": best.precision,
                                               "memory_format": best.memory_format}})
    return best


def _with(config: Config, arithmetic: Arithmetic) -> Config:
    return replace(config, training=replace(
        config.training, precision=Precision(arithmetic.precision),
        memory_format=MemoryFormat(arithmetic.memory_format)))


def _key(config: Config, spec: InputSpec, device: torch.device, among: list[Arithmetic]) -> str:
    machine = (device_name(device) if device.type == "cuda"
               else f"{platform.machine()} {_processor()}")
    layouts = "/".join(sorted({each.memory_format for each in among}))
    return (f"{config.model.name} {spec.channels}x{spec.size[0]}x{spec.size[1]} "
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
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    good = {f"{a}" for a in Precision} - {"auto"}
    return {key: value for key, value in found.items() if isinstance(value, dict)
            and value.get("precision") in good
            and value.get("memory_format") in ("contiguous", "channels_last")
            and len(value) == 2} if isinstance(found, dict) else {}
