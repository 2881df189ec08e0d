"""Networks between two others: WiSE-FT's interpolation, and the statistics of norms in it."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

__all__ = ["has_norm_statistics", "interpolate_states", "recompute_norm_statistics"]


def interpolate_states(start: Mapping[str, Tensor], end: Mapping[str, Tensor],
                       coefficient: float) -> dict[str, Tensor]:
    """Tensors ``(1 - coefficient) start + coefficient end``: exactly the ends at 0 and 1.

    What ``start`` lacks, and what isn't of floating point (counters), is the end's.

    >>> interpolate_states({"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)}, 0.25)
    {'w': tensor(1.5000)}
    """
    return {name: torch.lerp(start[name].to(tensor.device, tensor.dtype), tensor, coefficient)
            if name in start and tensor.is_floating_point() else tensor.clone()
            for name, tensor in end.items()}


def has_norm_statistics(model: nn.Module) -> bool:
    """Whether the network has norms that keep running statistics."""
    return bool(_norms(model))


@torch.no_grad()
def recompute_norm_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of all batch norms to what they are on these batches, in place.

    Means of the batches' means and unbiased variances, as `torch.optim.swa_utils.update_bn` takes
    them (Izmailov 2018, arXiv 1803.05407), but with dropout off. Batches have to be mixed as in
    training. All modules are in eval mode afterwards.

    Args:
        model: Changed.
        batches: Images (B, C, H, W), prepared; those of one picture are left out.
    """
    norms = _norms(model)
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    for images in batches:
        if len(images) > 1:
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.running_mean is not None]
