"""The training loop: a generator of `EpochResult`.

::

    for epoch in first .. epochs:
        seed everything from (seed, epoch)
        plan = what trains in this epoch
        pass = begin(plan)                   # freezes the rest; may start from cached features
        if pass.by_gradient: rates' shares from the gradients of the first batches
        for images, targets, indices in pass.loader:
            mix;  loss = criterion(pass.forward(pass.prepare(images)), targets);  backward
            every accumulation_steps batches: set rates, clip, step, EMA
        metrics = evaluate(model or its average)
        yield EpochResult                    # logging, checkpoints, stopping: the caller's body
"""

import functools
import itertools
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from finetune.errors import FinetuneError, Interrupted
from finetune.training.compiling import compile_problem
from finetune.training.gradient_norms import MEASURED, rate_shares, relative_gradient_norms
from finetune.training.schedules import ScheduleSettings, lr_multiplier

__all__ = ["EpochResult", "LoopState", "Pass", "Plan", "TrainingSettings", "batch_loss",
           "seed_epoch", "train", "train_step"]

LOOK = 16  # steps; a device that computes ahead would wait at each look at its losses
Batch = tuple[Tensor, Tensor, Tensor]


class Plan(Protocol):
    """What trains in an epoch; `finetune.models.freezing.EpochPlan` is one."""

    @property
    def depths(self) -> frozenset[int]:
        """Trainable depths."""

    @property
    def lr(self) -> float | None:
        """The classifier's rate in this phase; None = the groups' own."""

    @property
    def phase(self) -> int:
        """Number of the phase."""


class EpochLoader(Protocol):
    """A loader that can be told the epoch."""

    def __len__(self) -> int:
        """Number of batches."""

    def __iter__(self) -> Iterator[Batch]:
        """Batches of (images, targets, indices)."""


P = TypeVar("P", bound=Plan)


@dataclass(frozen=True)
class Pass:
    """One epoch's way through the data.

    Attributes:
        loader: Batches of images, or of features of the frozen part, targets and indices.
        forward: From what is prepared to logits (B, K).
        prepare: Brings a batch to the device, normalised.
        by_gradient: Whether each depth's rate is multiplied by its relative gradient norm.
        solve: Fits what trains at once instead; returns the loss and how it was fitted, in words.
    """

    loader: EpochLoader
    forward: Callable[[Tensor], Tensor]
    prepare: Callable[[Tensor], Tensor]
    solve: Callable[[], tuple[float, str]] | None = None
    by_gradient: bool = False


@dataclass(frozen=True)
class TrainingSettings:
    """Numbers of the loop.

    Attributes:
        epochs: Planned number of epochs.
        seed: All randomness of an epoch comes from (seed, epoch).
        lr: The classifier's base rate, to which a phase's own rate is compared.
        accumulation_steps: Batches in one optimizer step.
        max_grad_norm: Gradients are scaled down to this norm; None = not.
        batch_size: Pictures in a batch; for a message.
        autocast: Makes a context for the forward pass.
    """

    epochs: int
    seed: int
    lr: float
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    accumulation_steps: int = 1
    max_grad_norm: float | None = None
    batch_size: int = 32
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass
class LoopState:
    """What the loop needs to go on, beside the weights: plain numbers, stored in checkpoints."""

    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0  # optimizer steps made
    phase: int | None = None
    phase_start: int = 0  # step at which the schedule started (restart only)
    opened_at: dict[int, int] = field(default_factory=dict)  # depth: step of its opening


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch."""

    epoch: int  # from 1
    train_loss: float
    lr: dict[str, float]  # the classifier's and each trained depth's rate in the last step
    trainable_depths: list[int]
    opened: list[int]  # depths that did not train in the epoch before
    phase: int
    seconds: float
    images_per_second: float
    val: dict[str, Any]
    fit: str | None = None  # how it was fitted at once, without steps, in words
    gradient_shares: dict[str, float] | None = None  # each depth's factor on its rate, if measured

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self.__dict__)


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed torch's global generators from (seed, epoch): a repeated epoch draws the same."""
    torch.manual_seed((seed * 1_000_003 + epoch * 7919 + 17) % 2**63)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, *,
               max_grad_norm: float | None) -> None:
    """Clip the gathered gradients, step, clear. The only place that steps."""
    if max_grad_norm is not None:
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None],
                                 max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def train(model: nn.Module, *, optimizer: torch.optim.Optimizer,
          criterion: Callable[[Tensor, Tensor], Tensor],
          plan: Callable[[list[dict[str, Any]]], P], begin: Callable[[P, int], Pass],
          evaluate: Callable[[], Mapping[str, Any]],
          settings: TrainingSettings, state: LoopState,
          mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
          before_step: Callable[[], None] = lambda: None,
          after_step: Callable[[], None] | None = None,
          stop: Callable[[], bool] = lambda: False,
          progress: Callable[[int, int], None] = lambda done, of: None,
          name_samples: Callable[[Tensor], list[str]] = lambda indices: [],
          ) -> Iterator[EpochResult]:
    """Train epoch by epoch, from where ``state`` stands; the consumer does everything else.

    Args:
        model: On its device; mutated.
        optimizer: Has every parameter from step 0, in groups with ``base_lr``, ``depth``, ``name``.
        criterion: Loss of logits (B, K) and targets.
        plan: What trains after a history.
        begin: Brings the plan about for an epoch (from 0): freezes, sets modes, chooses the way.
        evaluate: Validation metrics of the current weights.
        settings: Numbers of the loop.
        state: Mutated; complete whenever an epoch is yielded.
        mix: Mixup or cutmix.
        before_step: Called before each optimizer step, when its rates are set (decay towards the
            starting weights).
        after_step: Called after each optimizer step (averaged weights).
        stop: Asked after each step; true ends the loop by `Interrupted`.
        progress: Called with batches done and their number.
        name_samples: Names for a message, from indices.

    Raises:
        FinetuneError: The loss is NaN or infinite; the batch's names are in the message.
        ConfigurationError: A compiler failed.
        Interrupted: ``stop`` said so.
    """
    for epoch in range(len(state.history), settings.epochs):
        seed_epoch(settings.seed, epoch)
        current = plan(state.history)
        opened = _enter(current, state)
        way = begin(current, epoch)
        started, losses, shown, looked = time.perf_counter(), [], [], 0
        gather = functools.partial(_backward, way, criterion=criterion, mix=mix, settings=settings)
        shares, stream = _look_ahead(way, model, optimizer, gather, settings)
        for number, (images, targets, indices) in enumerate(stream, 1):
            targets = targets.to(_device(model), non_blocking=True)
            batches = len(way.loader)
            trial = functools.partial(_fits, gather, images, targets, optimizer)
            with _room(settings, trial):
                loss = gather(images, targets, share=_share(number, batches, settings))
            losses.append(loss)
            shown.append(indices)
            if number % settings.accumulation_steps == 0 or number == batches:
                if loss.device.type == "cpu" or state.step % LOOK == 0 or number == batches:
                    _refuse_not_finite(losses[looked:], shown[looked:], epoch, name_samples)
                    looked = number
                set_rates(optimizer, current, settings, state,
                          steps_per_epoch(way.loader, settings), shares)
                with _room(settings, trial):
                    before_step()
                    train_step(model, optimizer, max_grad_norm=settings.max_grad_norm)
                state.step += 1
                if after_step is not None:
                    after_step()
            progress(number, batches)
            if stop():
                raise Interrupted(f"stopped in epoch {epoch + 1}")
        train_loss, fit = way.solve() if way.solve else (float(torch.stack(losses).mean()), None)
        seconds = time.perf_counter() - started
        result = EpochResult(
            epoch + 1, train_loss, _rates(optimizer, current), sorted(current.depths), opened,
            current.phase, seconds, sum(map(len, shown)) / seconds, dict(evaluate()),
            fit, _by_name(optimizer, shares))
        state.history.append(result.to_dict())
        yield result


def steps_per_epoch(loader: EpochLoader, settings: TrainingSettings) -> int:
    """Optimizer steps in an epoch."""
    return math.ceil(len(loader) / settings.accumulation_steps)


def _enter(plan: Plan, state: LoopState) -> list[int]:
    before = set(state.history[-1]["trainable_depths"]) if state.history else set()
    opened = sorted(plan.depths - before)
    state.opened_at |= {depth: state.step for depth in opened}
    if plan.phase != state.phase:
        state.phase, state.phase_start = plan.phase, state.step
    return opened


def batch_loss(way: Pass, images: Tensor, targets: Tensor, *,
               criterion: Callable[[Tensor, Tensor], Tensor],
               mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
               settings: TrainingSettings) -> Tensor:
    """The loss of a batch as it is trained; targets are on the device."""
    images = way.prepare(images)
    if mix is not None:
        images, targets = mix(images, targets)
    with settings.autocast():
        logits = way.forward(images)
    return criterion(logits.float(), targets)


def _backward(way: Pass, images: Tensor, targets: Tensor, *, share: float,
              **given: Any) -> Tensor:
    loss = batch_loss(way, images, targets, **given)
    (loss * share).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _fits(gather: Callable[..., Tensor], images: Tensor, targets: Tensor,
          optimizer: torch.optim.Optimizer, share: float) -> bool:
    """Whether a step with this share of a batch fits the memory; for a training that ends anyway.

    Its weights and statistics are of no use afterwards.
    """
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    count = max(2, round(len(images) * share))
    try:
        gather(images[:count], targets[:count], share=1.0)
        optimizer.step()
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)
        return False
    return True


@contextmanager
def _room(settings: TrainingSettings, fits: Callable[[float], bool]) -> Iterator[None]:
    """Say what to do when a device's memory is too small for a batch, or a compiler fails."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold what filled the memory
        raise FinetuneError(_smaller(settings, str(error).split(".")[0], fits)) from error
    except RuntimeError as error:
        problem = compile_problem(error)
        if problem is None:
            raise
        raise problem from error


def _smaller(settings: TrainingSettings, reason: str, fits: Callable[[float], bool]) -> str:
    """What fits, tried out by halving."""
    size = whole = settings.batch_size
    told = f"the device's memory is too small for a batch of {whole} ({reason})."
    while size >= 4:
        size //= 2
        if fits(size / whole):
            return (f"{told} The same training in less: data.batch_size={size} training."
                    f"accumulation_steps={-(-whole // size) * settings.accumulation_steps}; or "
                    "training.grad_checkpointing=true, which takes longer")
    return (f"{told} Nor does a batch of {size} fit: training.grad_checkpointing=true, or a "
            "smaller data.image_size or model.name")


def _share(number: int, batches: int, settings: TrainingSettings) -> float:
    first = (number - 1) // settings.accumulation_steps * settings.accumulation_steps
    return 1 / min(settings.accumulation_steps, batches - first)


def measured_shares(way: Pass, model: nn.Module, optimizer: torch.optim.Optimizer, *,
                    criterion: Callable[[Tensor, Tensor], Tensor], settings: TrainingSettings,
                    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
                    ) -> dict[int, float]:
    """The factor on each depth's rate that `train` would measure in this epoch; none unasked."""
    gather = functools.partial(_backward, way, criterion=criterion, mix=mix, settings=settings)
    return _look_ahead(way, model, optimizer, gather, settings)[0]


def _look_ahead(way: Pass, model: nn.Module, optimizer: torch.optim.Optimizer,
                gather: Callable[..., Tensor], settings: TrainingSettings,
                ) -> tuple[dict[int, float], Iterable[Batch]]:
    """The factor on each depth's rate from the epoch's first batches, if asked; all its batches.

    Measuring moves nothing: weights and running statistics are as before.
    """
    stream: Iterator[Batch] = iter(() if way.solve else way.loader)
    if not way.by_gradient:
        return {}, stream
    first, norms = list(itertools.islice(stream, MEASURED)), []
    before = [buffer.clone() for buffer in model.buffers()]
    for images, targets, _ in first:
        targets = targets.to(_device(model), non_blocking=True)
        with _room(settings, functools.partial(_fits, gather, images, targets, optimizer)):
            gather(images, targets, share=1.0)
        norms.append(relative_gradient_norms(optimizer.param_groups))
        optimizer.zero_grad(set_to_none=True)
    for buffer, old in zip(model.buffers(), before, strict=True):
        buffer.copy_(old)
    return rate_shares(norms), itertools.chain(first, stream)


def set_rates(optimizer: torch.optim.Optimizer, plan: Plan, settings: TrainingSettings,
              state: LoopState, per_epoch: int, shares: Mapping[int, float] | None = None) -> None:
    """Set every group's real rate for the step that comes.

    The schedule runs over the whole training but what was fitted without steps. A depth that opens
    later joins at the schedule's current height after a warm-up of its own, as long as the
    schedule's. With ``restart``, the schedule starts anew at each change of phase and runs to
    the end of training. ``shares`` are measured factors on the rates of depths.
    """
    solved = sum(past.get("fit") is not None for past in state.history)
    total = (settings.epochs - solved) * per_epoch
    start = state.phase_start if settings.schedule.restart else 0
    factor = lr_multiplier(state.step - start, total=max(1, total - start),
                           settings=settings.schedule)
    own = 1.0 if plan.lr is None else plan.lr / settings.lr
    warmup = round(settings.schedule.warmup_fraction * total)
    for group in optimizer.param_groups:
        since = state.step - state.opened_at.get(group["depth"], 0)
        late = state.opened_at.get(group["depth"], 0) > 0 and not settings.schedule.restart
        joined = min(1.0, (since + 1) / warmup) if late and warmup else 1.0
        share = (shares or {}).get(group["depth"], 1.0)
        group["lr"] = group["base_lr"] * own * factor * joined * share


def _rates(optimizer: torch.optim.Optimizer, plan: Plan) -> dict[str, float]:
    return {g["name"]: float(g["lr"]) for g in optimizer.param_groups if g["depth"] in plan.depths}


def _by_name(optimizer: torch.optim.Optimizer,
             shares: Mapping[int, float]) -> dict[str, float] | None:
    return {g["name"]: shares[g["depth"]] for g in optimizer.param_groups
            if g["depth"] in shares} or None


def _refuse_not_finite(losses: list[Tensor], indices: list[Tensor], epoch: int,
                       name_samples: Callable[[Tensor], list[str]]) -> None:
    finite = torch.isfinite(torch.stack(losses))
    if not bool(finite.all()):
        names = name_samples(indices[int(finite.int().argmin())])
        raise FinetuneError(
            f"the loss became NaN or infinite in epoch {epoch + 1}, in the batch of "
            f"{', '.join(names) or 'unknown pictures'}. The last checkpoint is whole. Try a "
            "lower optimizer.lr, training.precision=fp32, or look at these pictures.")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device

