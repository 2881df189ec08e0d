"""``data.batch_size=auto``: the largest batch whose training step fits the device's memory."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from finetune.config import Config
from finetune.errors import FinetuneError
from finetune.method import OPEN_BATCH, arithmetic, build_optimizer, build_plan
from finetune.models.freezing import freeze_except, train_mode
from finetune.models.parameters import split_parameter_groups
from finetune.specs import InputSpec

__all__ = ["largest_batch", "settle_batch_size"]

LARGEST = 1024  # pictures
SHARE = 0.9  # of the memory that is free may be taken; the rest is for what differs from the trial


def settle_batch_size(config: Config, model: nn.Module, spec: InputSpec, *, pictures: int,
                      device: torch.device, say: Callable[[str], object]) -> Config:
    """The configuration with ``data.batch_size=auto`` replaced by a number.

    On CUDA, training steps of growing batches are tried out. On other devices memory is the
    system's, which gives more than is good before it fails: there it is `OPEN_BATCH`, or less
    where the training part is smaller. The learning rate stays what it is.

    Args:
        config: With a settled arithmetic.
        model: On its device; unchanged.
        spec: The network's input.
        pictures: Of the training part; no batch is larger.
        device: The device.
        say: Told the number, and where it comes from.

    Raises:
        FinetuneError: Not even a batch of 2 fits.
    """
    if config.data.batch_size is not None:
        return config
    if device.type == "cuda":
        size = largest_batch(_trial(config, model, spec, device), pictures=pictures)
        how = f"the largest power of two whose training step fits {SHARE:.0%} of the free memory"
    else:
        size = largest_batch(lambda count: count <= OPEN_BATCH, pictures=pictures)
        how = f"fixed on {device.type}; larger ones are tried out on CUDA alone"
    say(f"data.batch_size=auto: {size} ({how})")
    return replace(config, data=replace(config.data, batch_size=size))


def largest_batch(fits: Callable[[int], bool], *, pictures: int) -> int:
    """The largest power of two, from 2 to `LARGEST` and ``pictures``, that fits.

    Asked in growing order, so that only the last attempt fails.

    >>> largest_batch(lambda size: size <= 100, pictures=1000)
    64

    Raises:
        FinetuneError: 2 doesn't fit.
    """
    size = 2
    if not fits(size):
        raise FinetuneError("the device's memory is too small for a batch of 2: a smaller "
                            "data.image_size or model.name, or training.grad_checkpointing=true")
    while 2 * size <= min(LARGEST, pictures) and fits(2 * size):
        size *= 2
    return size


def _trial(config: Config, model: nn.Module, spec: InputSpec, device: torch.device,
           ) -> Callable[[int], bool]:
    """Whether a step of a copy of the model fits with so many pictures."""
    step = _training_step(config, copy.deepcopy(model), spec, device)

    def fits(size: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        free, total = torch.cuda.mem_get_info(device)
        share = torch.cuda.get_per_process_memory_fraction(torch.cuda.current_device())
        own = torch.cuda.memory_reserved(device)
        room = SHARE * min(free + own, share * total)
        try:
            with torch.random.fork_rng([device]):
                step(size)
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return torch.cuda.max_memory_reserved(device) <= room

    return fits


def _training_step(config: Config, model: nn.Module, spec: InputSpec, device: torch.device,
                   ) -> Callable[[int], None]:
    """Forward, backward and an optimizer's step where the most depths train."""
    chosen, settings = arithmetic(config), config.optimizer
    plan = build_plan(config, model)
    widest = min((plan([{}] * epoch) for epoch in range(config.training.epochs)),
                 key=lambda each: min(each.depths))
    freeze_except(chosen.apply(model), widest.depths)
    train_mode(model, widest)
    groups = split_parameter_groups(model, lr=settings.lr, weight_decay=settings.weight_decay,
                                    layer_decay=settings.layer_decay)
    optimizer = build_optimizer(settings.name, groups, settings.lr, device)

    def step(size: int) -> None:
        images = torch.randn(size * config.data.views, spec.channels, *spec.size, device=device)
        with chosen.autocast(device)():
            logits = model(chosen.lay_out(images))
        logits.float().logsumexp(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
