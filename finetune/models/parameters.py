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
    towards_start: bool = False  # the decay pulls towards the starting weights, not towards 0

    def as_torch(self) -> dict[str, object]:
        """The group as torch optimizers take it.

        ``start_decay``, where it is, is what `finetune.training.start_decay` applies; the
        optimizer's own decay is 0 then.
        """
        decay = ({"weight_decay": 0.0, "start_decay": self.weight_decay} if self.towards_start
                 else {"weight_decay": self.weight_decay})
        return {"params": list(self.parameters), "lr": self.lr, "base_lr": self.lr, **decay,
                "depth": self.depth, "name": self.name}


def split_parameter_groups(model: nn.Module, *, lr: float, weight_decay: float,
                           layer_decay: float = 1.0,
                           stage_lrs: Mapping[str, float] | None = None,
                           start_decay: float | None = None) -> list[ParameterGroup]:
    """Every parameter in exactly one group, from the stem up.

    Vectors and scalars (norms, biases) and what the model's ``no_weight_decay()`` names get no
    weight decay.

    Args:
        model: The network; all its parameters are taken, frozen or not.
        lr: Rate of the classifier.
        weight_decay: Of matrices and filters.
        layer_decay: Factor from each depth to the one below; 1 = one rate for all.
        stage_lrs: Explicit rates by stage name or depth; they win over ``layer_decay``.
        start_decay: Decay of what lies below the classifier, towards the starting weights and
            in place of ``weight_decay``; None: everything decays towards 0.

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
    groups = []
    for (depth, decays), pairs in sorted(members.items()):
        to_start = start_decay is not None and decays and depth < top
        decay = (start_decay if to_start else weight_decay) if decays else 0.0
        groups.append(ParameterGroup(depth, names[depth], rates[depth], decay or 0.0,
                                     tuple(n for n, _ in pairs), tuple(p for _, p in pairs),
                                     to_start))
    assert sum(len(g.parameters) for g in groups) == len(depths)
    return groups
