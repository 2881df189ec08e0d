"""In which number type and memory layout a network computes, fixed or chosen by measuring.

Weights, gradients, optimizer and norms' statistics are float32 always; ``bf16`` is torch's autocast
around the forward pass. On CPUs with bf16 instructions, dense convolutions gain from it, depthwise
ones may lose: ``bf16_mixed`` keeps these in float32.
"""

import copy
import functools
import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.training.products import use_products

__all__ = ["Arithmetic", "candidates", "has_bf16", "measure_arithmetic"]

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Arithmetic:
    """A choice of number type and memory layout.

    Attributes:
        precision: ``fp32``, ``bf16`` or ``bf16_mixed``.
        memory_format: ``contiguous`` or ``channels_last``.
        convolutions: ``library``, or ``products`` on CPUs where few pixels meet many weights
            (`finetune.training.products`).
    """

    precision: str = "fp32"
    memory_format: str = "contiguous"
    convolutions: str = "library"

    def autocast(self, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
        """Makes the context of a forward pass."""
        if self.precision == "fp32":
            return nullcontext
        return functools.partial(torch.autocast, device.type, torch.bfloat16)

    def apply(self, model: nn.Module) -> nn.Module:
        """Bring a network into this layout, in place; names, values and shapes stay."""
        keep_depthwise_in_float32(model, self.precision == "bf16_mixed")
        use_products(model, self.convolutions == "products")
        return model.to(memory_format=_FORMATS[self.memory_format])

    def lay_out(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in this layout."""
        return images.contiguous(memory_format=_FORMATS[self.memory_format])


class _Float32:
    """Mixed into a convolution's class: its forward leaves autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution's own, in float32."""
        with torch.autocast(x.device.type, enabled=False):
            result: Tensor = super().forward(x.float())  # type: ignore[misc]
        return result


@functools.cache
def _in_float32(kind: Any) -> Any:
    return type(kind.__name__, (_Float32, kind), {"__module__": kind.__module__})


def keep_depthwise_in_float32(model: nn.Module, keep: bool) -> None:
    """Make depthwise convolutions leave autocast, or no longer; in place."""
    for module in model.modules():
        kind = type(module)
        mixed = issubclass(kind, _Float32)
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        if keep and depthwise and not mixed:
            kept: Any = kind
            module.__class__ = _in_float32(kept)
        elif mixed and not keep:
            module.__class__ = kind.__mro__[2]


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16: CUDA from Ampere on, MPS from macOS 14 on, any CPU.

    Old CPUs do it slowly; that is for measuring to find out.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    return True


def candidates(model: nn.Module, device: torch.device, *, precision: str = "auto",
               memory_format: str = "auto", convolutions: str = "library") -> list[Arithmetic]:
    """What there is to choose from, float32 first; ``auto`` leaves a choice open.

    bf16 is left out where the device doesn't have it, ``bf16_mixed`` where a network has no
    depthwise convolution, and layouts where it has no convolution.
    """
    depthwise = any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1
                    for m in model.modules())
    bf16 = device.type in ("cpu", "cuda") and has_bf16(device)
    kinds = ["fp32", *["bf16"] * bf16, *["bf16_mixed"] * (bf16 and depthwise)]
    layouts = ["channels_last", "contiguous"]
    if not any(isinstance(m, nn.Conv2d) for m in model.modules()):
        layouts = layouts[:1]
    return [Arithmetic(kind, layout, convolutions)
            for kind in (kinds if precision == "auto" else [precision])
            for layout in (layouts if memory_format == "auto" else [memory_format])]


def measure_arithmetic(model: nn.Module, images: Tensor, among: Iterable[Arithmetic], *,
                       rounds: int = 3, trains: bool = True) -> dict[Arithmetic, float]:
    """Seconds of a training step (forward and backward) in each arithmetic, the least of rounds.

    Of a forward pass in eval mode where the network isn't trained but read.

    Infinite for one that the device's memory is too small for.

    The rounds are interleaved, so that what else the machine does falls on all alike. The model
    and torch's random state are unchanged afterwards; a copy is measured.

    Args:
        model: On its device.
        images: (B, C, H, W) there, normalised.
        among: What to compare.
        rounds: Timed ones; another one before warms up.
        trains: Whether steps of training are measured.
    """
    times: dict[Arithmetic, list[float]] = {each: [] for each in among}
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        own = copy.deepcopy(model).train(trains)
        for _ in range(rounds + 1):
            for each, seconds in times.items():
                seconds.append(_time_step(each.apply(own), each, images))
    return {each: min(seconds[1:]) for each, seconds in times.items()}


def _time_step(model: nn.Module, arithmetic: Arithmetic, images: Tensor) -> float:
    _wait(images.device)
    started = time.perf_counter()
    try:
        with torch.set_grad_enabled(model.training), arithmetic.autocast(images.device)():
            logits = model(arithmetic.lay_out(images))
        if model.training:
            logits.float().logsumexp(1).sum().backward()
        _wait(images.device)
    except torch.OutOfMemoryError:
        return math.inf
    finally:
        model.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
