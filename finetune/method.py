"""The method of a run as objects: loaders, optimizer, loss, plan, averaged weights."""

import copy
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from finetune.assembly import Data, cache_folder, phase_plans, updates_norms
from finetune.config import (
    ClassWeights,
    Config,
    DecayTarget,
    FreezingPolicy,
    HeadFitting,
    Loss,
    MemoryFormat,
    Precision,
)
from finetune.data.loading import PrepareBatch, build_loader
from finetune.data.packing import PackForm, PackPlan, open_pack, plan_pack
from finetune.data.prefetching import BATCHES_AHEAD, reading_processes
from finetune.data.samples import PictureSource, Samples
from finetune.data.transforms import build_transform
from finetune.errors import ConfigurationError, FinetuneError
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions, collect_predictions
from finetune.evaluation.selection import SELECT_METRICS, check_select_metric
from finetune.memory import give_back_freed_memory
from finetune.models.depths import depth_names, layer_depths
from finetune.models.freezing import (
    EpochPlan,
    freeze_except,
    freezing_plan,
    frozen_hash,
    train_mode,
)
from finetune.models.parameters import ParameterGroup, split_parameter_groups
from finetune.models.prefix import folded_copy
from finetune.names import check_optimizer_name
from finetune.specs import Decoding, InputSpec, LabelKind, LabelSpec
from finetune.training.arithmetic import Arithmetic
from finetune.training.loop import LoopState, TrainingSettings
from finetune.training.losses import (
    EFFECTIVE_BETA,
    ContrastiveLoss,
    build_loss,
    build_mix,
    class_weights,
    log_prior,
)
from finetune.training.schedules import Course, ScheduleSettings

__all__ = ["OPEN_BATCH", "Method", "arithmetic", "batch_size", "build_method", "build_optimizer",
           "build_part_loader", "build_plan", "freeze_and_hash", "last_opening", "noise",
           "pack_pictures", "planned_pack", "predict_part", "select_metric", "validate"]

DEFAULT_METRICS = {LabelKind.single: "balanced_accuracy", LabelKind.ordinal: "quadratic_kappa",
                   LabelKind.multi: "average_precision"}
OPEN_BATCH = 32  # pictures, where data.batch_size=auto isn't settled or can't be tried out
Watched = Callable[[Iterable[Any], str], Iterable[Any]]  # batches and where, to the same batches


@dataclass
class Method:
    """Everything that `finetune.training.loop.train` is given."""

    model: nn.Module
    average: nn.Module | None  # exponential moving average of the weights
    loaders: dict[str, DataLoader[Any]]
    groups: list[ParameterGroup]
    optimizer: torch.optim.Optimizer
    criterion: nn.Module
    prepare: Callable[[Tensor], Tensor]
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None
    plan: Callable[[list[dict[str, Any]]], EpochPlan]
    settings: TrainingSettings
    class_weights: Tensor | None
    adjustment: Tensor | None  # (K,), added to logits in training
    device: torch.device
    lay_out: Callable[[Tensor], Tensor]
    example: Tensor  # (2, C, H, W): noise, to watch a pass with
    ordered: Callable[..., DataLoader[Any]]  # (part, augmented=): each picture once, in order

    @property
    def chosen_model(self) -> nn.Module:
        """The network that is measured and kept: the average where there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    def set_train_mode(self, plan: EpochPlan) -> None:
        """Training mode, frozen parts in eval mode."""
        train_mode(self.model, plan)

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler of the training part the epoch."""
        self.loaders["train"].sampler.set_epoch(epoch)  # type: ignore[attr-defined]

    def update_average(self, state: LoopState) -> None:
        """Move the averaged weights after an optimizer step."""
        if self.average is not None:
            self.average.update(self.model, step=state.step)  # type: ignore[operator]


def build_method(config: Config, model: nn.Module, data: Data, spec: InputSpec,
                 device: torch.device, source: PictureSource | None = None) -> Method:
    """Put the method together for a model that is on its device; lays it out in memory.

    ``source`` is where the training part is read, as from `pack_pictures`; unset: the data's own.
    """
    arithmetic(config).apply(model)
    optimizer = config.optimizer
    groups = split_parameter_groups(
        model, lr=optimizer.lr, weight_decay=optimizer.weight_decay,
        layer_decay=optimizer.layer_decay, stage_lrs=optimizer.stage_lrs,
        start_decay=_start_decay(config))
    labels = data.samples.label_spec
    training = config.training
    weights, adjustment = _against_imbalance(config, data.part("train"), device)
    return Method(
        model=model, average=_average(model, training.ema_decay),
        loaders=_loaders(config, data, spec, device, source), groups=groups,
        optimizer=build_optimizer(optimizer.name, groups, optimizer.lr, device),
        criterion=_criterion(config, labels, weights, adjustment),
        prepare=_prepare(config, spec, device),
        mix=build_mix(labels, mixup_alpha=training.mixup_alpha,
                      cutmix_alpha=training.cutmix_alpha),
        plan=build_plan(config, model), settings=_settings(config, device),
        class_weights=weights, adjustment=adjustment, device=device,
        lay_out=arithmetic(config).lay_out, example=noise(spec, 2, device),
        ordered=functools.partial(build_part_loader, config, data, spec, device=device,
                                  source=source, in_order=True))


def _start_decay(config: Config) -> float | None:
    """Strength of the decay towards the starting weights; None: towards 0."""
    optimizer = config.optimizer
    if optimizer.decay_towards is not DecayTarget.start:
        return None
    return optimizer.weight_decay if optimizer.start_decay is None else optimizer.start_decay


def noise(spec: InputSpec, count: int, device: torch.device) -> Tensor:
    """Images (count, C, H, W) of noise, always the same, to watch or time a pass with."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, spec.channels, *spec.size, generator=generator).to(device)


def _against_imbalance(config: Config, samples: Samples,
                       device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Class weights and what is added to logits, from the training part; None where not asked."""
    kind, tau = config.training.class_weights, config.training.logit_adjustment
    labels, spec = np.asarray(samples.labels), samples.label_spec
    beta = EFFECTIVE_BETA if kind is ClassWeights.effective_number else None
    weights = None if kind is ClassWeights.none else class_weights(labels, spec, beta=beta)
    adjustment = tau * log_prior(labels, spec) if tau else None
    return (None if weights is None else weights.to(device),
            None if adjustment is None else adjustment.to(device))


def _criterion(config: Config, labels: LabelSpec, weights: Tensor | None,
               adjustment: Tensor | None) -> nn.Module:
    training = config.training
    loss = build_loss(labels, smoothing=training.label_smoothing, weights=weights,
                      adjustment=adjustment)
    if training.loss is Loss.labels:
        return loss
    return ContrastiveLoss(loss, output_width=labels.output_width,
                           temperature=training.temperature)


def _prepare(config: Config, spec: InputSpec, device: torch.device) -> Callable[[Tensor], Tensor]:
    normalise, lay_out = PrepareBatch(spec, device), arithmetic(config).lay_out
    return lambda images: lay_out(normalise(images))


def build_plan(config: Config, model: nn.Module) -> Callable[[list[dict[str, Any]]], EpochPlan]:
    """The freezing plan as a function of the history alone."""
    names = depth_names(layer_depths(model))
    below, phases = phase_plans(config, names)
    return functools.partial(
        freezing_plan, config.freezing.policy.value, depth_count=len(names),
        epochs=config.training.epochs, below=below, phases=phases,
        frozen_fraction=_frozen_fraction(config), update_norms=updates_norms(config))


def _frozen_fraction(config: Config) -> float:
    """A classifier that is fitted exactly needs one epoch alone, not a share of them."""
    return 0.0 if (config.training.head_fit is HeadFitting.exact and config.freezing.policy
                   is FreezingPolicy.head_then_all) else config.freezing.frozen_fraction


def last_opening(plan: Callable[[list[dict[str, Any]]], EpochPlan], epochs: int) -> int:
    """The last epoch, from 0, in which a depth trains that did not in the one before."""
    depths = [plan([{}] * epoch).depths for epoch in range(epochs)]
    return max(e for e in range(epochs) if e == 0 or depths[e] - depths[e - 1])


def _average(model: nn.Module, decay: float | None) -> nn.Module | None:
    if decay is None:
        return None
    from timm.utils import ModelEmaV3

    average: nn.Module = ModelEmaV3(copy.deepcopy(model), decay=decay, use_warmup=True)
    return average


_FUSED = {"adam", "adamw", "sgd", "momentum", "nesterov"}  # torch's own, one kernel for all


def build_optimizer(name: str, groups: list[ParameterGroup], lr: float,
                    device: torch.device) -> torch.optim.Optimizer:
    """Any of timm's optimizers over groups with rates of their own; fused where torch has it.

    Raises:
        ConfigurationError: It doesn't exist, or can't be used here.
    """
    from timm.optim import create_optimizer_v2

    check_optimizer_name(name)
    fused = {"fused": True} if name in _FUSED and device.type in ("cpu", "cuda") else {}
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            [g.as_torch() for g in groups], opt=name, lr=lr, weight_decay=0.0,
            **fused)
    except (AssertionError, ImportError) as error:  # some want CUDA or a package of their own
        raise ConfigurationError(f"optimizer.name={name} can't be used here: {error}") from error
    if getattr(made, "is_second_order", False):
        raise ConfigurationError(f"optimizer.name={name} needs second derivatives, which the "
                                 "loop doesn't compute; another one, as adamw")
    return made


def _loaders(config: Config, data: Data, spec: InputSpec, device: torch.device,
             source: PictureSource | None) -> dict[str, DataLoader[Any]]:
    return {part: build_part_loader(config, data, spec, part, device=device, source=source,
                                    in_order=part != "train") for part in data.parts}


def build_part_loader(config: Config, data: Data, spec: InputSpec, part: str, *,
                      device: torch.device, source: PictureSource | None, in_order: bool,
                      augmented: bool | None = None,
                      only: Sequence[int] | None = None) -> DataLoader[Any]:
    """Batches of a part: the training part augmented, the others as they are, unless told.

    What is augmented may be decoded smaller, or read from ``source``, a pack; all other pictures
    are decoded whole. ``in_order``: each picture once, as the ids are ordered; else as the training
    goes. ``only``: places of those that are wanted.
    """
    settings, samples = config.data, data.part(part)
    samples = samples if only is None else samples.select(only)
    shown = part == "train" if augmented is None else augmented
    shown = shown and settings.transform != "none"
    workers = (reading_processes(os.cpu_count() or 1, accelerator=device.type != "cpu")
               if settings.workers is None else settings.workers)
    if source is not None and shown:
        samples = replace(samples, source=source)
    return build_loader(
        samples, spec=spec, batch_size=batch_size(config), workers=workers,
        transform=build_transform(settings.transform, spec, train=shown),
        seed=config.seed, train=not in_order, sampling=settings.sampling.value,
        views=settings.views, ahead=BATCHES_AHEAD if settings.workers is None else 0,
        decoding=settings.decoding if shown else Decoding.full, pin=device.type == "cuda")


def planned_pack(config: Config, data: Data, spec: InputSpec) -> tuple[PackPlan, PackForm]:
    """Whether the training part's pictures are packed and why, and what is kept of them."""
    transform = build_transform(config.data.transform, spec, train=True)
    form = PackForm(transform.at_least, spec.channels, spec.dtype, spec.interpolation,
                    config.data.decoding)
    choice = "never" if config.data.transform == "none" else config.data.pack.value
    return plan_pack(choice, facts=data.part_facts("train"), form=form,
                     epochs=config.training.epochs, folder=cache_folder() / "packs"), form


def pack_pictures(config: Config, data: Data, spec: InputSpec, *,
                  progress: Callable[[int], object] | None = None,
                  ) -> tuple[PictureSource, list[str]]:
    """Where training reads its pictures, packed where that pays; and what is to be said."""
    plan, form = planned_pack(config, data, spec)
    source, told = open_pack(plan, data.samples.source, data.part("train").ids, form,
                             progress=progress)
    return source, [text for text in (plan.reason if plan.shrink else "", told) if text]


def _settings(config: Config, device: torch.device) -> TrainingSettings:
    schedule, training = config.schedule, config.training
    return TrainingSettings(
        epochs=training.epochs, seed=config.seed, lr=config.optimizer.lr,
        schedule=ScheduleSettings(
            Course(schedule.name.value), schedule.warmup_fraction, schedule.final_fraction,
            schedule.step_count, schedule.step_factor, schedule.restart),
        accumulation_steps=training.accumulation_steps, max_grad_norm=training.max_grad_norm,
        batch_size=batch_size(config),
        autocast=arithmetic(config).autocast(device))


def batch_size(config: Config) -> int:
    """Pictures in a batch; 32 where that is open.

    `finetune.fitting.settle_batch_size` settles it at the start of a run.
    """
    return OPEN_BATCH if config.data.batch_size is None else config.data.batch_size


def arithmetic(config: Config) -> Arithmetic:
    """The configuration's number type and memory layout; float32, channels last where it is open.

    `finetune.fastest.settle_arithmetic` settles what is open at the start of a run.
    """
    precision, layout = config.training.precision, config.training.memory_format
    return Arithmetic("fp32" if precision is Precision.auto else precision.value,
                      "channels_last" if layout is MemoryFormat.auto else layout.value,
                      config.training.convolutions.value)


def select_metric(config: Config, labels: LabelSpec) -> str:
    """The metric that chooses the epoch.

    Raises:
        ConfigurationError: It is none that these labels have.
    """
    name = config.training.select_metric or DEFAULT_METRICS[labels.kind]
    check_select_metric(name)
    known = compute_metrics(_no_answers(labels))
    if name not in known:
        listed = ", ".join(n for n in SELECT_METRICS if n in known)
        raise ConfigurationError(f"training.select_metric={name} does not exist for these labels; "
                                 f"expected one of {listed}")
    return name


def _no_answers(labels: LabelSpec) -> Predictions:
    """Predictions of one picture, to see which metrics such labels have."""
    width = labels.output_width
    truth = (np.zeros(1, dtype=np.int64) if labels.is_exclusive
             else np.zeros((1, width), dtype=np.float32))
    return Predictions(["none"], truth, np.zeros((1, width), dtype=np.float32), labels)


def freeze_and_hash(model: nn.Module, plan: EpochPlan) -> str:
    """Freeze all but the plan's depths; a hash of what must not move."""
    freeze_except(model, plan.depths)
    return frozen_hash(model, plan.depths)


def predict_part(method: Method, data: Data, part: str, *, final: bool,
                 watched: Watched = lambda batches, where: batches,
                 wrap: Callable[[nn.Module], nn.Module] = lambda model: model) -> Predictions:
    """Logits of the chosen model for every picture of a part; ``watched`` may stop it.

    Its batch norms are folded. A ``final`` measurement computes in float32, another one in the
    arithmetic of the training. ``wrap`` may put something around the network.
    """
    samples = data.part(part)
    return collect_predictions(
        wrap(folded_copy(method.chosen_model, method.example)),
        watched(method.loaders[part], f"while {part} was measured"),
        prepare=method.prepare, ids=samples.ids,
        label_spec=samples.label_spec, groups=samples.groups,
        autocast=nullcontext if final else method.settings.autocast)


def validate(method: Method, data: Data, *,
             watched: Watched = lambda batches, where: batches,
             cached: Callable[[], Predictions | None] = lambda: None,
             chosen_by: Callable[[Predictions], Predictions] = lambda val: val,
             ) -> Mapping[str, Any]:
    """Scalar metrics on val, or on the part of it that ``chosen_by`` leaves.

    The answers are what ``cached`` gives, if it has them.

    Raises:
        FinetuneError: The training diverged: a logit is NaN or infinite.
    """
    give_back_freed_memory()  # the training's; the validation's, before checkpoints are written
    predictions = cached() or predict_part(method, data, "val", final=False, watched=watched)
    give_back_freed_memory()
    if not np.isfinite(predictions.logits).all():
        raise FinetuneError("the network answers NaN or infinity on validation: the training "
                            "diverged. The last checkpoint is whole. Try a lower optimizer.lr.")
    metrics = compute_metrics(chosen_by(predictions))
    return {k: v for k, v in metrics.items() if v is None or isinstance(v, int | float)}
