"""Residual networks, as the paper has them (He et al. 2015, arXiv 1512.03385).

A block computes ``relu(F(x) + x)``: its layers learn the residual F(x) = H(x) - x of the mapping
H(x) that is wanted. If the identity is best, F has only to become zero, so that a deeper network
need not be worse than a shallower one; and the sum passes gradients down unchanged (identity
mappings: He et al. 2016, arXiv 1603.05027).

Images are (B, C, H, W). torchvision's state dicts load unchanged; as there, and unlike in the
paper, a bottleneck strides in its 3x3 convolution ("v1.5").
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from timm.layers import DropPath, create_classifier
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from finetune.errors import ConfigurationError

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "build_resnet"]

SHORTCUTS = {
    "A": "identity, strided and padded with zero channels where shapes change: no parameters",
    "B": "identity, and a projection (1x1 convolution) where shapes change",
    "C": "a projection in every block",
}
STEMS = {
    "imagenet": "7x7 convolution of stride 2, 3x3 max-pool of stride 2: H/4",
    "small": "3x3 convolution of stride 1: H; for pictures of 28 to 64 px",
}


def convolution(size: int, inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Keeps H and W at stride 1; has no bias, since a norm follows."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def build_shortcut(kind: str | None, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """What stands beside F(x); None is x itself (or, in a plain block, nothing)."""
    new, changes = outputs - inputs, stride != 1 or inputs != outputs
    if kind == "A" and changes:  # every stride-th pixel, half of the zero channels on each side
        return nn.Sequential(nn.AvgPool2d(1, stride),
                             nn.ConstantPad3d((0, 0, 0, 0, new // 2, new - new // 2), 0.0))
    if kind == "C" or (kind == "B" and changes):
        return nn.Sequential(convolution(1, inputs, outputs, stride), nn.BatchNorm2d(outputs))
    return None


class Block(nn.Module):
    """relu(F(x) + x): (B, inputs, H, W) to (B, expansion width, H/stride, W/stride).

    Args:
        inputs: Channels of x.
        width: Channels of the 3x3 convolutions.
        stride: Of the block.
        shortcut: A, B or C; None makes a *plain* block, relu(F(x)), for comparison.
        drop_path: Probability with which F is left out in training (arXiv 1603.09382).
    """

    expansion: int
    last_norm: str  # name of the norm that F ends with
    build: Callable[[int, int, int], None]  # (inputs, width, stride): makes the layers of F
    residual: Callable[[Tensor], Tensor]  # F

    def __init__(self, inputs: int, width: int, stride: int = 1, *, shortcut: str | None = "B",
                 drop_path: float = 0.0) -> None:
        super().__init__()
        self.build(inputs, width, stride)
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.is_plain = shortcut is None
        self.downsample = build_shortcut(shortcut, inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """relu(F(x) + x)."""
        result: Tensor = self.drop_path(self.residual(x))
        if not self.is_plain:
            result = result + (x if self.downsample is None else self.downsample(x))
        return torch.relu_(result)


class BasicBlock(Block):
    """Two 3x3 convolutions: 18 and 34 layers, and CIFAR's networks. Arguments as `Block`."""

    expansion, last_norm = 1, "bn2"

    def build(self, inputs: int, width: int, stride: int) -> None:
        """Make the layers of F; the first one strides."""
        self.conv1, self.bn1 = convolution(3, inputs, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convolution(3, width, width), nn.BatchNorm2d(width)

    def residual(self, x: Tensor) -> Tensor:
        """F(x), before the sum."""
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return x


class Bottleneck(Block):
    """1x1, 3x3, 1x1: the 3x3 works on a quarter of the channels, which makes depth affordable."""

    expansion, last_norm = 4, "bn3"

    def build(self, inputs: int, width: int, stride: int) -> None:
        """Make the layers of F; the 3x3 one strides."""
        self.conv1, self.bn1 = convolution(1, inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convolution(3, width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = convolution(1, width, 4 * width), nn.BatchNorm2d(4 * width)

    def residual(self, x: Tensor) -> Tensor:
        """F(x), before the sum."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(x)))))
        return x


class ResNet(nn.Module):
    """Stem, stages of blocks, mean over the picture, classifier: (B, C, H, W) to (B, K).

    Every stage but the first halves H and W. Speaks timm's language as timm's own networks do.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: Blocks of each stage.
        widths: Channels of each stage, before a bottleneck's expansion.
        num_classes: K; 0 gives pooled features.
        in_channels: C.
        stem: A key of `STEMS`.
        shortcut: A key of `SHORTCUTS`.
        plain: The same network without shortcuts, to see what they are for.
        zero_init_last: Every block begins as its shortcut (arXiv 1706.02677).
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth, growing linearly to this in the last block.
        global_pool: timm's name of the pooling.

    Raises ConfigurationError for a stem or shortcut that doesn't exist, too few classes, channels.
    """

    def __init__(self, block: type[Block], depths: Sequence[int],
                 widths: Sequence[int] = (64, 128, 256, 512), *, num_classes: int = 1000,
                 in_channels: int = 3, stem: str = "imagenet", shortcut: str = "B",
                 plain: bool = False, zero_init_last: bool = False, drop_rate: float = 0.0,
                 drop_path_rate: float = 0.0, global_pool: str = "avg") -> None:
        super().__init__()
        _check(stem, shortcut, num_classes, in_channels)
        self.num_classes, self.drop_rate, self.grad_checkpointing = num_classes, drop_rate, False
        size, step = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = convolution(size, in_channels, widths[0], step)
        self.bn1, self.relu = nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": widths[0], "reduction": step, "module": "relu"}]
        channels, reduction = widths[0], step * step
        paths = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            stage = nn.Sequential()
            for stride in [1 if number == 1 else 2] + [1] * (depth - 1):
                stage.append(block(channels, width, stride, drop_path=next(paths),
                                   shortcut=None if plain else shortcut))
                channels, reduction = width * block.expansion, reduction * stride
            self.add_module(f"layer{number}", stage)
            self.feature_info.append({"num_chs": channels, "reduction": reduction,
                                      "module": f"layer{number}"})
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, global_pool)
        _initialise(self, zero_init_last)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the last stage's (B, num_features, H', W')."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        saves = self.grad_checkpointing and torch.is_grad_enabled()
        for stage in self.feature_info[1:]:
            for block in self.get_submodule(stage["module"]).children():
                x = checkpoint(block, x, use_reentrant=False) if saves else block(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last stage's features to (B, K), or to what the classifier sees."""
        x = functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The module that makes the logits."""
        return self.get_submodule("fc")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier (and pooling) in place."""
        self.num_classes = num_classes
        kind = global_pool or self.get_submodule("global_pool").pool_type
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, kind)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks again in the backward pass instead of keeping their insides."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of parameter groups, as timm wants them: the stem, then stages or blocks."""
        return {"stem": r"^conv1|bn1|maxpool",
                "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def _initialise(model: ResNet, zero_init_last: bool) -> None:
    """Convolutions as in arXiv 1502.01852; norms stay at 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_last and isinstance(module, Block):
            nn.init.zeros_(module.get_parameter(f"{module.last_norm}.weight"))


def _check(stem: str, shortcut: str, num_classes: int, in_channels: int) -> None:
    problems = [f"{what}={value}: there are {', '.join(known)}" for what, value, known in
                (("stem", stem, STEMS), ("shortcut", shortcut, SHORTCUTS)) if value not in known]
    if num_classes < 0 or in_channels < 1:
        problems.append(f"num_classes={num_classes}, in_channels={in_channels}: too few")
    if problems:
        raise ConfigurationError("; ".join(problems))


IMAGENET: dict[int, tuple[type[Block], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)), 101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3))}
CIFAR = (20, 32, 44, 56, 110)  # 6n + 2 layers: three stages of n basic blocks


def build_resnet(layers: int, **options: Any) -> ResNet:
    """The paper's network with so many layers: ImageNet's, or for 6n + 2 layers CIFAR's.

    CIFAR's have 16, 32 and 64 channels, the small stem, shortcut A and 10 classes. Layers are
    convolutions and classifier, as the paper counts; ``options`` are `ResNet`'s.

    Raises:
        ConfigurationError: There is no network of this depth, or an option is wrong.
    """
    if layers in IMAGENET:
        return ResNet(*IMAGENET[layers], **options)
    if layers < 8 or (layers - 2) % 6:
        raise ConfigurationError(f"no residual network has {layers} layers: there are "
                                 f"{', '.join(map(str, IMAGENET))}, and 6n + 2 (8, 14, 20, ...)")
    given: dict[str, Any] = {"num_classes": 10, "stem": "small", "shortcut": "A"} | options
    return ResNet(BasicBlock, ((layers - 2) // 6,) * 3, (16, 32, 64), **given)
