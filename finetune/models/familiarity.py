"""Features at several depths of a network, and how far they are from those of training.

A network's feature maps are averaged over the picture, one for each resolution, and joined by what
enters the classifier. Lee et al. 2018 (arXiv:1807.03888) take the same means of several depths.
`finetune.evaluation.familiarity` fits the distance; here it is a module, so that it can be exported
with the network.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.errors import FinetuneError
from finetune.models.heads import classifier_modules

__all__ = ["Distance", "NoFeatures", "WithDistance", "WithFeatures", "find_feature_modules"]


class NoFeatures(FinetuneError):
    """A network whose features can't be told: no single tensor enters one classifier."""


def find_feature_modules(model: nn.Module, images: Tensor) -> list[str]:
    """Modules whose answers are features, and last the classifier, whose input is.

    The others give the last feature map (B, C, H, W) of each resolution above 1 x 1; the last one
    is left out where its mean is what the classifier takes. Once tokens (B, N, C) come, as in
    transformers, no map is looked for.

    Args:
        model: In eval mode; unchanged.
        images: (B, C, H, W), as the network takes them; two are enough.

    Raises:
        NoFeatures: There are several classifiers, it is used more than once, or takes no single
            tensor.
    """
    heads = list(classifier_modules(model))
    if len(heads) != 1:
        raise NoFeatures(f"{type(model).__name__} has {len(heads)} classifiers "
                         f"({', '.join(heads)})")
    calls = _watched(model, images, heads[0])
    given = [call.pooled for call in calls if call.name == heads[0]]
    if len(given) != 1 or given[0] is None:
        raise NoFeatures(f"the classifier {heads[0]} of {type(model).__name__} is called "
                         f"{len(given)} times in a pass, or takes no single tensor")
    maps = _last_maps(model, [call for call in calls if call.name != heads[0]])
    if maps and _same(maps[-1].pooled, given[0]):
        maps.pop()
    return [*(call.name for call in maps), heads[0]]


class WithFeatures(nn.Module):
    """A network that also gives its features: images to logits (B, K) and a list of (B, D).

    Attributes:
        network: Gives logits; used, not copied.
        names: From `find_feature_modules`; none: no features.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and features, float32, in the order of the names."""
        found: dict[str, Tensor] = {}
        with _keeping(self.network, self.names, found):
            logits = self.network(images)
        return logits, [found[name] for name in self.names]


class Distance(nn.Module):
    """Features to distances (B,), as `finetune.evaluation.familiarity.Familiarity` has them.

    Computed in float32.

    Args:
        arrays: From `Familiarity.to_arrays`: for each part ``I.mean`` (D,), ``I.scale`` (D,),
            ``I.axes`` (D, R), ``I.widths`` (R,) and ``I.rest`` (1,); for all of them ``usual`` (L,)
            and ``spread`` (L,).
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        for name, array in arrays.items():
            values = torch.from_numpy(np.array(array, np.float32))
            self.register_buffer(name.replace(".", "_"), values)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """(B,) distances of features (B, D), one for each part."""
        squares = torch.stack([self._square(place, each) for place, each in enumerate(features)],
                              dim=1)
        logarithms = squares.clamp_min(1e-24).log() / 2
        beyond = (logarithms - self.get_buffer("usual")) / self.get_buffer("spread")
        return beyond.relu().square().mean(1).sqrt()

    def _square(self, place: int, features: Tensor) -> Tensor:
        mean, scale, axes, widths, rest = (self.get_buffer(f"{place}_{kind}") for kind in (
            "mean", "scale", "axes", "widths", "rest"))
        shifted = (features.float() - mean) * scale
        along = shifted @ axes
        beside = (shifted - along @ axes.T) * rest
        return (along * widths).square().sum(1) + beside.square().sum(1)


class WithDistance(nn.Module):
    """A network that also says how far a picture is from those of training.

    Attributes:
        features: Logits and features of images.
        distance: Distances of features.
    """

    def __init__(self, network: nn.Module, names: Sequence[str],
                 arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.features, self.distance = WithFeatures(network, names), Distance(arrays)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, C, H, W) to logits (B, K) and distances (B,)."""
        logits, features = self.features(images)
        return logits, self.distance(features)


@dataclass(frozen=True)
class _Call:
    name: str
    shape: tuple[int, ...]
    pooled: Tensor | None  # None where it is no tensor, or not one row for each picture


def _watched(model: nn.Module, images: Tensor, head: str) -> list[_Call]:
    """Modules and what they answered, in the order in which they ended; the head's input."""
    calls: list[_Call] = []

    def told(name: str, value: Any) -> None:
        good = isinstance(value, Tensor) and value.ndim > 1 and len(value) == len(images)
        calls.append(_Call(name, tuple(value.shape) if good else (),
                           _pooled(value, model) if good else None))

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: told(name, output)

    def keep_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        told(head, inputs[0] if len(inputs) == 1 else None)

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()
             if name and name != head and not name.startswith(f"{head}.")]
    hooks.append(model.get_submodule(head).register_forward_pre_hook(keep_input))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _last_maps(model: nn.Module, calls: Sequence[_Call]) -> list[_Call]:
    """The last call of each resolution; modules that run twice aside."""
    counts = Counter(call.name for call in calls)
    last: dict[tuple[int, ...], _Call] = {}
    for call in calls:
        if len(call.shape) == 3:
            break
        if len(call.shape) == 4 and counts[call.name] == 1:
            sides = tuple(call.shape[i] for i in _sides(model))
            last.pop(sides, None)
            last |= {sides: call} if min(sides) > 1 else {}
    return list(last.values())


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether both are the same features, but for rounding."""
    return (one is not None and other is not None and one.shape == other.shape
            and torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max())))


def _sides(model: nn.Module) -> tuple[int, int]:
    """Where height and width are; Swin and its like answer (B, H, W, C), which timm tells."""
    return (1, 2) if getattr(model, "output_fmt", "") == "NHWC" else (2, 3)


def _pooled(features: Tensor, model: nn.Module) -> Tensor:
    """(B, D) float32: the mean over all places."""
    wide = features.float()
    if wide.ndim == 4:
        return wide.mean(_sides(model))
    return wide.flatten(1) if wide.ndim < 3 else wide.mean(1)


@contextmanager
def _keeping(model: nn.Module, names: Sequence[str], found: dict[str, Tensor]) -> Iterator[None]:
    """Put pooled features into ``found`` as they pass; at once, since what follows may write."""
    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = _pooled(output, model)

        return hook

    def keep_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[names[-1]] = _pooled(inputs[0], model)

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names[:-1]]
    hooks += [model.get_submodule(name).register_forward_pre_hook(keep_input)
              for name in names[-1:]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
