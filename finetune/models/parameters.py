"""Optimizer groups with discriminative learning rates.

The rate of a depth is ``lr * layer_decay ** (classifier's depth - depth)`` (Howard and Ruder 2018,
arXiv 1801.06146; Clark 2020, arXiv 2003.10555). It is the **real** ``lr`` of the group: timm's
``lr_scale`` is only read by timm's own schedulers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune.models.depths import depth_names, find_depth, layer_depths

__all__ = ["ParameterGroup", "split_parameter_groups"]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters of one depth that share learning rate and weight decay."""

    depth: int
    name: str  # modules in it
    lr: float
    weight_decay: float
    parameter_names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]

    def as_torch(self) -> dict[str, object]:
        """The group as torch optimizers take it."""
        return {"params": list(self.parameters), "lr": self.lr, "base_lr": self.lr,
                "weight_decay": self.weight_decay, "depth": self.depth, "name": self.name}


def split_parameter_groups(model: nn.Module, *, lr: float, weight_decay: float,
                           layer_decay: float = 1.0,
                           stage_lrs: Mapping[str, float] | None = None) -> list[ParameterGroup]:
    """Every parameter in exactly one group, from the stem up.

    Vectors and scalars (norms, biases) and what the model's ``no_weight_decay()`` names get no
    weight decay.

    Args:
        model: The network; all its parameters are taken, frozen or not.
        lr: Rate of the classifier.
        weight_decay: Of matrices and filters.
        layer_decay: Factor from each depth to the one below; 1 = one rate for all.
        stage_lrs: Explicit rates by stage name or depth; they win over ``layer_decay``.

    Raises:
        ConfigurationError: A stage of ``stage_lrs`` does not exist.
    """
    depths = layer_depths(model)
    names = depth_names(depths)
    top = len(names) - 1
    rates = {depth: lr * layer_decay ** (top - depth) for depth in range(top + 1)}
    rates |= {find_depth(stage, names): rate for stage, rate in (stage_lrs or {}).items()}
    no_weight_decay: Any = getattr(model, "no_weight_decay", set)
    undecayed = set(no_weight_decay())
    members: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name not in undecayed
        members.setdefault((depths[name], decays), []).append((name, parameter))
    groups = [
        ParameterGroup(depth, names[depth], rates[depth], weight_decay if decays else 0.0,
                       tuple(n for n, _ in pairs), tuple(p for _, p in pairs))
        for (depth, decays), pairs in sorted(members.items())
    ]
    assert sum(len(g.parameters) for g in groups) == len(depths)
    return groups
