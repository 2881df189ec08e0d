"""Which depths train in which epoch, and the proof that the others did not move."""

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn

from finetune.models.depths import tensor_depths

__all__ = ["EpochPlan", "PhasePlan", "Policy", "freeze_except", "freezing_plan", "frozen_hash",
           "train_mode"]


class Policy(StrEnum):
    """Named freezing policies."""

    none = "none"
    head_only = "head_only"
    head_then_all = "head_then_all"
    gradual = "gradual"
    below = "below"
    phases = "phases"
    auto_rgn = "auto_rgn"


@dataclass(frozen=True)
class PhasePlan:
    """One stretch of an explicit plan: its share of epochs, its depths, its own base rate."""

    epochs: int
    depths: frozenset[int]
    lr: float | None = None


@dataclass(frozen=True)
class EpochPlan:
    """What trains in one epoch.

    Attributes:
        depths: The trainable depths; everything else is frozen.
        lr: The classifier's rate in this phase, or None for the run's own.
        phase: Number of the phase from 0; a new one may restart the schedule.
        update_norms: Whether running statistics of norms move in the trainable depths.
        by_gradient: Whether each depth's rate is multiplied by its relative gradient norm.
    """

    depths: frozenset[int]
    lr: float | None = None
    phase: int = 0
    update_norms: bool = True
    by_gradient: bool = False


def freezing_plan(policy: Policy | str, history: Sequence[object], *, depth_count: int, epochs: int,
                  below: int = 0, phases: Sequence[PhasePlan] = (), frozen_fraction: float = 0.5,
                  update_norms: bool = True) -> EpochPlan:
    """What trains in the epoch after ``history``. A pure function.

    ``head_only`` is linear probing; ``head_then_all`` LP-FT (Kumar 2022, arXiv 2202.10054);
    ``gradual`` opens depths from the top down (Howard and Ruder 2018, arXiv 1801.06146). The
    last two have everything open after ``frozen_fraction`` of the epochs, and always in the last
    epoch when there are two or more. ``auto_rgn`` trains everything, with rates by gradients
    that are measured at the start of each epoch (Lee 2023, arXiv 2210.11466).

    Args:
        policy: Name of the policy.
        history: One entry for each finished epoch.
        depth_count: Number of depths; the classifier is ``depth_count - 1``.
        epochs: Planned number of epochs.
        below: ``below``: depths under this one stay frozen.
        phases: ``phases``: stretches; their epochs are shares, scaled to ``epochs``.
        frozen_fraction: Share of the epochs until everything trains, 0..1.
        update_norms: Handed through.

    >>> [sorted(freezing_plan("gradual", [0] * e, depth_count=4, epochs=4).depths)
    ...  for e in range(4)]
    [[3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    """
    epoch, top = len(history), depth_count - 1
    closed = min(max(1, math.floor(epochs * frozen_fraction)), max(1, epochs - 1))
    opened = top + 1
    lr, phase = None, 0
    match Policy(policy):
        case Policy.head_only:
            opened = 1
        case Policy.head_then_all:
            opened, phase = (1, 0) if epoch < closed else (top + 1, 1)
        case Policy.gradual:
            opened = min(top + 1, 1 + math.ceil(epoch * top / closed))
            phase = opened - 1
        case Policy.below:
            opened = top + 1 - below
        case Policy.phases:
            phase = _phase_of(epoch, epochs, [p.epochs for p in phases])
            chosen = phases[phase]
            return EpochPlan(chosen.depths, chosen.lr, phase, update_norms)
        case Policy.none | Policy.auto_rgn:
            pass
    return EpochPlan(frozenset(range(depth_count - opened, depth_count)), lr, phase, update_norms,
                     policy == Policy.auto_rgn)


def _phase_of(epoch: int, epochs: int, shares: Sequence[int]) -> int:
    if epoch > 0 and epoch == epochs - 1:
        return len(shares) - 1  # what an explicit plan ends with is reached from two epochs up
    position = 0.0 if epoch == 0 else (epoch + 0.5) * sum(shares) / epochs
    for phase in range(len(shares)):
        if position <= sum(shares[: phase + 1]):
            return phase
    return len(shares) - 1


def freeze_except(model: nn.Module, depths: Collection[int]) -> None:
    """Let exactly the parameters of ``depths`` require gradients. Clears gradients of the rest."""
    where = tensor_depths(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(where[name] in depths)
        if where[name] not in depths:
            parameter.grad = None


def train_mode(model: nn.Module, plan: EpochPlan) -> None:
    """Set training mode, with frozen modules in eval mode.

    ``requires_grad=False`` alone lets batch norm statistics drift, and dropout below the trainable
    part would make frozen features random. Norms of trainable depths are in eval mode too when
    ``plan.update_norms`` is false; their weights and biases still train.
    """
    where = tensor_depths(model)
    model.train()
    for name, module in model.named_modules():
        own = [where[key] for key in where if _owns(name, key)]
        if own and not any(depth in plan.depths for depth in own):
            module.eval()
        elif isinstance(module, nn.modules.batchnorm._NormBase) and not plan.update_norms:
            module.eval()


def _owns(module_name: str, tensor_name: str) -> bool:
    return module_name == "" or tensor_name.startswith(f"{module_name}.")


def frozen_hash(model: nn.Module, depths: Collection[int]) -> str:
    """SHA-256 over every parameter and buffer outside ``depths``, exact to the bit."""
    where, digest = tensor_depths(model), hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if name in where and where[name] not in depths:
            digest.update(name.encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().tobytes())
    return digest.hexdigest()
