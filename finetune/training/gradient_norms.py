"""How large each depth's gradient is beside its weights: Auto-RGN's measure of what to tune.

Lee et al. 2023, "Surgical fine-tuning improves adaptation to distribution shifts",
arXiv 2210.11466.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["MEASURED", "rate_shares", "relative_gradient_norms"]

MEASURED = 5  # batches at the start of an epoch, as in the authors' code


def relative_gradient_norms(groups: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Norm of the gradient over norm of the weights, for each depth's parameters together.

    Args:
        groups: An optimizer's, with ``depth``; what has no gradient is left out. Weights that are
            all 0 give infinity where there is a gradient, else 0.
    """
    members: dict[int, list[Tensor]] = {}
    for group in groups:
        members.setdefault(group["depth"], []).extend(
            p for p in group["params"] if p.grad is not None)
    found = {}
    for depth, parameters in members.items():
        if parameters:
            gradient = _norm([p.grad for p in parameters if p.grad is not None])
            found[depth] = float(torch.nan_to_num(gradient / _norm(parameters), nan=0.0,
                                                  posinf=torch.inf))
    return found


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(t.detach(), dtype=torch.float32) for t in tensors]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return whole


def rate_shares(measured: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The factor on each depth's rate: its mean norm over the batches, the largest being 1.

    A depth with an infinite norm (its weights are all 0) has 1 and doesn't count for the others;
    where nothing has a gradient, all have 1.

    >>> rate_shares([{0: 1.0, 1: 4.0}, {0: 3.0, 1: 4.0}])
    {0: 0.5, 1: 1.0}
    """
    means = {depth: sum(each[depth] for each in measured) / len(measured) for depth in measured[0]}
    largest = max((mean for mean in means.values() if mean < torch.inf), default=0.0)
    return {depth: min(1.0, mean / largest) if largest else 1.0 for depth, mean in means.items()}
