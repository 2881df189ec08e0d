"""Grad-CAM: where in a picture a network finds what speaks for a class.

From *Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization* (Selvaraju
2017, arXiv 1610.02391). The feature map is found by watching one forward pass, so that any network
will do that ends in convolutions. Heat maps show what the network reacts to, not why it is right;
they pass the sanity check of Adebayo 2018 (arXiv 1810.03292), see ``tests/test_grad_cam.py``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import FinetuneError
from finetune.models.heads import classifier_modules

__all__ = ["NoSpatialMap", "find_map_layer", "grad_cam"]


class NoSpatialMap(FinetuneError):
    """A network that hands no feature map (B, C, H, W) towards its classifier."""


def find_map_layer(model: nn.Module, images: Tensor) -> str:
    """The module whose answer is the last spatial feature map before the classifier.

    Args:
        model: Unchanged.
        images: (B, C, H, W), as the network takes them; one is enough.

    Raises:
        NoSpatialMap: There is none, or tokens come after it, as in transformers.
    """
    calls = _watched(model, images)
    places = [place for place, (_, output) in enumerate(calls) if _is_map(model, output)]
    after = calls[places[-1] + 1:] if places else []
    tokens = [name for name, output in after if isinstance(output, Tensor) and output.ndim == 3]
    if not places or tokens:
        why = f"{tokens[0]} gives tokens" if tokens else "none comes before the classifier"
        raise NoSpatialMap(f"{type(model).__name__} has no last feature map (B, C, H, W) larger "
                           f"than 1 x 1 ({why}): Grad-CAM needs a network that ends in "
                           "convolutions, as resnet, convnext or efficientnet do")
    return calls[places[-1]][0]


def grad_cam(model: nn.Module, images: Tensor, classes: Sequence[int] | Tensor, *,
             layer: str | None = None) -> Tensor:
    """Heat maps (B, h, w) from 0 to 1, as large as the feature map; all 0 where nothing speaks.

    Channels are weighed by the mean gradient of the class's logit, summed, and cut below 0; each
    map's largest value is 1. The network answers in eval mode and in float32; modes, gradients and
    gradient flags are afterwards as before.

    Args:
        model: Gives logits (B, K).
        images: (B, C, H, W) on its device, normalised.
        classes: (B,) the class that each picture is looked at for.
        layer: From `find_map_layer`; None: found.

    Raises:
        NoSpatialMap: See `find_map_layer`.
        ValueError: Not one class for each picture.
    """
    chosen = torch.as_tensor(classes, device=images.device)
    if chosen.shape != (len(images),):
        raise ValueError(f"{len(images)} images and classes of shape {tuple(chosen.shape)}")
    layer = find_map_layer(model, images[:1]) if layer is None else layer
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        maps.append(output.detach().requires_grad_())  # the graph begins here
        return maps[-1].clone()  # what follows may write into it

    with _answering(model), torch.enable_grad(), _hooked(model.get_submodule(layer), keep):
        logits = model(images)
        score = logits.gather(1, chosen[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, maps[-1])
    features, gradient = (_channels_first(model, each) for each in (maps[-1].detach(), gradient))
    heat = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def _is_map(model: nn.Module, output: Any) -> bool:
    if not isinstance(output, Tensor) or output.ndim != 4:
        return False
    return min(_channels_first(model, output).shape[2:]) > 1


def _channels_first(model: nn.Module, maps: Tensor) -> Tensor:
    """Swin and its like answer (B, H, W, C); timm tells."""
    return maps.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "") == "NHWC" else maps


def _watched(model: nn.Module, images: Tensor) -> list[tuple[str, Any]]:
    """Modules and what they answered, in the order in which they ended, until the classifier."""
    calls: list[tuple[str, Any]] = []
    begun: list[int] = []
    hooks = [m.register_forward_hook(
        lambda module, inputs, output, name=name: calls.append((name, output)))
        for name, m in model.named_modules() if name]
    hooks += [m.register_forward_pre_hook(lambda module, inputs: begun.append(len(calls)))
              for m in classifier_modules(model).values()]
    try:
        with _answering(model), torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return calls[:begun[0]] if begun else calls


@contextmanager
def _answering(model: nn.Module) -> Iterator[None]:
    """Eval mode, float32, no gradients of parameters; afterwards as before."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    device = next(model.parameters()).device.type
    try:
        model.eval().requires_grad_(False)
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _hooked(module: nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
