"""Convolutions over few pixels as matrix products.

Late in a network there are many weights and few pixels: the last stage of a ResNet-18 has 2.4
million weights a layer and, for a picture of 64 px, 2 x 2 places. The libraries' convolutions are
made for the opposite and lose most of their speed there; gathering the patches (im2col: Chellapilla
et al. 2006, "High performance convolutional neural networks for document processing") and
multiplying once is then several times faster, forward and backward.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["use_products"]

# weights for each pixel of the output from which a product is the faster way, by number type;
# benchmarks/convolutions.py measures both ways
_WORTH = {torch.bfloat16: 500, torch.float32: 4000}


class _ProductConv2d(nn.Conv2d):
    """A convolution that is a product where that is worth it, else the library's."""

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution's own, to rounding: (B, C, H, W) to (B, O, H', W')."""
        kind = _number_type(x)
        rows, columns = self._places(x)
        pixels = len(x) * rows * columns
        if x.device.type != "cpu" or self.weight.numel() < _WORTH.get(kind, 1e30) * pixels:
            return super().forward(x)
        patches = self._patches(x.to(kind), rows, columns)
        weight = self.weight.to(kind).permute(0, 2, 3, 1).reshape(len(self.weight), -1)
        bias = None if self.bias is None else self.bias.to(kind)
        found = functional.linear(patches.reshape(pixels, -1), weight, bias)
        return found.view(len(x), rows, columns, -1).permute(0, 3, 1, 2)

    def _places(self, x: Tensor) -> tuple[int, int]:
        rows, columns = ((x.shape[i + 2] + 2 * int(self.padding[i]) - self.weight.shape[i + 2])
                         // self.stride[i] + 1 for i in (0, 1))
        return rows, columns

    def _patches(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """(B, H', W', kernel height x kernel width x C), the weights' order in memory."""
        (down, right), (top, left) = self.stride, (int(p) for p in self.padding)
        padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        return torch.cat([padded[:, i:i + down * rows:down, j:j + right * columns:right]
                          for i in range(self.weight.shape[2])
                          for j in range(self.weight.shape[3])], dim=-1)


def use_products(model: nn.Module, use: bool) -> None:
    """Let plain convolutions choose between both ways at each call, or no longer; in place.

    Left alone are grouped, dilated and otherwise padded ones and subclasses of `torch.nn.Conv2d`.
    """
    library: Any = nn.Conv2d
    for module in model.modules():
        if use and type(module) is library and _is_plain(module):
            module.__class__ = _ProductConv2d
        elif not use and isinstance(module, _ProductConv2d):
            module.__class__ = library


def _is_plain(module: Any) -> bool:
    return bool(module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
                and not isinstance(module.padding, str))


def _number_type(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
