"""Weight decay towards the weights that training started from: L2-SP.

Li, Grandvalet, Davoine 2018, arXiv 1802.01483: what was pretrained is pulled to where it came from,
with strength a, and the new classifier to 0. Here the pull is decoupled, as AdamW's decay is
(Loshchilov and Hutter 2019, arXiv 1711.05101), for every optimizer:

    w <- w + lr a (start - w),  then the optimizer's own step

For SGD without momentum that is the gradient of the paper's penalty a/2 |w - start|^2. With
momentum, or a scaling of gradients as in Adam, the paper's penalty in the loss would be something
else: its gradient would be averaged and scaled with the loss's. Clipping doesn't see the pull.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["decay_towards_start", "starts_by_group"]


def starts_by_group(names: Sequence[Sequence[str]], groups: Sequence[Mapping[str, Any]],
                    start: Mapping[str, Tensor]) -> list[list[Tensor]]:
    """For each optimizer group the starting tensors of its parameters, on their device.

    They are copies; groups without ``start_decay`` have none.

    Args:
        names: For each group, the names of its parameters.
        groups: The optimizer's, in the same order.
        start: Tensors by name.
    """
    return [[start[name].detach().to(parameter.device, parameter.dtype, copy=True)
             for name, parameter in zip(own, group["params"], strict=True)]
            if "start_decay" in group else []
            for own, group in zip(names, groups, strict=True)]


@torch.no_grad()
def decay_towards_start(groups: Sequence[Mapping[str, Any]],
                        starts: Sequence[Sequence[Tensor]]) -> None:
    """Pull each parameter that is about to step by ``lr * start_decay`` of its way to the start.

    What has no gradient is frozen, and stays.

    Args:
        groups: The optimizer's, with the rates of the step that comes; parameters are changed.
        starts: From `starts_by_group`.

    >>> group = {"params": [torch.nn.Parameter(torch.tensor(3.0))], "lr": 0.5, "start_decay": 0.2}
    >>> group["params"][0].grad = torch.tensor(0.0)
    >>> decay_towards_start([group], [[torch.tensor(1.0)]])
    >>> round(group["params"][0].item(), 6)
    2.8
    """
    for group, tensors in zip(groups, starts, strict=True):
        for parameter, tensor in zip(group["params"] if tensors else (), tensors, strict=True):
            if parameter.grad is not None:
                parameter.lerp_(tensor, group["lr"] * group["start_decay"])
