"""In which number type and memory layout a network computes.

Weights, gradients, optimizer and norms' statistics are float32 always; ``bf16`` is torch's autocast
around the forward pass. On CPUs with bf16 instructions, dense convolutions gain from it, depthwise
ones may lose: ``bf16_mixed`` keeps these in float32.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Arithmetic"]

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Arithmetic:
    """A choice of number type and memory layout.

    Attributes:
        precision: ``fp32``, ``bf16`` or ``bf16_mixed``.
        memory_format: ``contiguous`` or ``channels_last``.
    """

    precision: str = "fp32"
    memory_format: str = "contiguous"

    def autocast(self, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
        """Makes the context of a forward pass."""
        if self.precision == "fp32":
            return nullcontext
        return functools.partial(torch.autocast, device.type, torch.bfloat16)

    def apply(self, model: nn.Module) -> nn.Module:
        """Bring a network into this layout, in place; names, values and shapes stay."""
        keep_depthwise_in_float32(model, self.precision == "bf16_mixed")
        return model.to(memory_format=_FORMATS[self.memory_format])  # type: ignore[call-overload,no-any-return]

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
def _in_float32(kind: type) -> type:
    return type(kind.__name__, (_Float32, kind), {"__module__": kind.__module__})


def keep_depthwise_in_float32(model: nn.Module, keep: bool) -> None:
    """Make depthwise convolutions leave autocast, or no longer; in place."""
    for module in model.modules():
        kind = type(module)
        mixed = issubclass(kind, _Float32)
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        if keep and depthwise and not mixed:
            module.__class__ = _in_float32(kind)
        elif mixed and not keep:
            module.__class__ = kind.__mro__[2]
