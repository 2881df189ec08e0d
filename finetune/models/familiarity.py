"""Features at several depths of a network, and how far they are from those of training.

A network's feature maps are averaged over the picture, one for each resolution, and joined by what
enters the classifier. Lee et al. 2018 (arXiv:1807.03888) take the same means of several depths.
`finetune.evaluation.familiarity` fits the distance; here it is a module, so that it can be exported
with the network.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

    The others give the last feature map (B, C, H, W) of each resolution above 1 x 1; that of the
    last resolution is left out where it has as many channels as the classifier takes. Once tokens
    (B, N, C) come, as in transformers, no map is looked for.

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
    given = [inputs for name, inputs in calls if name == heads[0]]
    if len(given) != 1 or not isinstance(given[0], Tensor) or len(given[0]) != len(images):
        raise NoFeatures(f"the classifier {heads[0]} of {type(model).__name__} is called "
                         f"{len(given)} times in a pass, or takes no single tensor")
    width = _pooled(given[0], model).shape[1]
    maps = _last_maps(model, [call for call in calls if call[0] != heads[0]], len(images))
    names = list(maps)
    if names and maps[names[-1]] == width:
        names.pop()
    return [*names, heads[0]]


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
            ``I.axes`` (D, R), ``I.widths`` (R,) and ``I.rest`` (1,), all of them for a distance
            whose squares add up to the picture's.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.count = sum(name.endswith(".mean") for name in arrays)
        for name, array in arrays.items():
            values = torch.from_numpy(np.array(array, np.float32))
            self.register_buffer(name.replace(".", "_"), values)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """(B,) distances of features (B, D), one for each part."""
        squares = [self._square(place, each) for place, each in enumerate(features)]
        return torch.stack(squares).sum(0).sqrt()

    def _square(self, place: int, features: Tensor) -> Tensor:
        mean, scale, axes, widths, rest = (getattr(self, f"{place}_{kind}") for kind in (
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


def _watched(model: nn.Module, images: Tensor, head: str) -> list[tuple[str, Any]]:
    """Modules and what they answered, in the order in which they ended; the head's first input."""
    calls: list[tuple[str, Any]] = []

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: calls.append((name, output))

    def keep_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append((head, inputs[0] if len(inputs) == 1 else None))

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


def _last_maps(model: nn.Module, calls: Sequence[tuple[str, Any]], batch: int) -> dict[str, int]:
    """The last module of each resolution and its channels; modules that run twice aside."""
    names = [name for name, _ in calls]
    last: dict[tuple[int, ...], tuple[str, int]] = {}
    for name, output in calls:
        if not isinstance(output, Tensor) or len(output) != batch:
            continue
        if output.ndim == 3:
            break
        if output.ndim == 4 and names.count(name) == 1:
            shape = tuple(output.shape[i] for i in _sides(model))
            if min(shape) > 1:
                last.pop(shape, None)
                last[shape] = name, _pooled(output, model).shape[1]
    return dict(last.values())


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
