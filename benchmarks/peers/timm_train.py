"""timm as its ``train.py`` uses it. The script itself is in no wheel, so its API is called here.

Written after train.py of timm 1.0: create_loader with the prefetcher, ClassificationTask,
create_optimizer_v2, create_scheduler_v2 (cosine by epochs), the loss read at each step, top-1 and
top-5 in validation, CheckpointSaver after each epoch. Default: 4 workers, fp32. Tuned: ``--amp
--amp-dtype bfloat16 --channels-last --workers N``. Unlike train.py's defaults: AdamW, no colour
jitter, crops of 35-100 % (8-100 % there), no label smoothing, no warm-up epochs: work as the
others'. train.py can't freeze; for job B ``requires_grad`` is turned off below the classifier, as
one does before calling it; tuned, norms are held in eval mode too.
"""

import tempfile
from contextlib import suppress
from functools import partial
from typing import Any

from job import Job, build_network, freeze_backbone, hold_norms, run_peer
from measuring import Clock


def train(job: Job, clock: Clock) -> dict[str, Any]:
    """Train and validate."""
    import torch
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.task import ClassificationTask
    from timm.utils import CheckpointSaver, random_seed

    random_seed(job.seed)
    model = build_network(job)
    if job.is_frozen:
        freeze_backbone(model)
    if job.is_frozen and job.tuned:
        hold_norms(model)
    if job.tuned:
        model.to(memory_format=torch.channels_last)
    loaders = {part: build_loader(job, part) for part in {"train", "val", job.measured}}
    task = ClassificationTask(model=model, criterion=torch.nn.CrossEntropyLoss(),
                              device=torch.device("cpu"), verbose=False)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=job.lr, weight_decay=job.weight_decay)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=job.epochs,
                                       updates_per_epoch=len(loaders["train"]))
    with tempfile.TemporaryDirectory() as folder:
        saver = CheckpointSaver(model=model, optimizer=optimizer, checkpoint_dir=folder,
                                recovery_dir=folder, max_history=10)
        with clock.running():
            for epoch in range(job.epochs):
                train_epoch(job, task, loaders["train"], optimizer, scheduler, epoch)
                top1 = validate(job, task.get_eval_model(), loaders["val"])
                saver.save_checkpoint(epoch, metric=top1)
                scheduler.step(epoch + 1, top1)
    measures = clock.measures()
    if job.measured != "val":
        top1 = validate(job, task.get_eval_model(), loaders[job.measured])
    return {**measures, "accuracy": top1 / 100}


def build_loader(job: Job, part: str) -> Any:
    """A loader of timm with its own transforms."""
    import torch
    from timm.data import ImageDataset, create_loader

    training = part == "train"
    more = ({"scale": (0.35, 1.0), "ratio": (0.75, 4 / 3), "hflip": 0.5, "color_jitter": None,
             "interpolation": "random"} if training else {"crop_pct": 1.0})
    return create_loader(
        ImageDataset(job.root, reader=Table(job, part)), input_size=(3, job.size, job.size),
        batch_size=job.batch_size, is_training=training, mean=job.mean, std=job.std,
        num_workers=job.workers if job.tuned else 4, device=torch.device("cpu"),
        use_prefetcher=True, **more)


class Table:
    """timm's reader of pictures, from the job's table."""

    def __init__(self, job: Job, part: str) -> None:
        self.rows = job.rows(part)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.rows[index]
        return open(path, "rb"), label

    def filename(self, index: int, *_: bool) -> str:
        """The picture's path, which ImageDataset names in its warnings."""
        return self.rows[index][0]


def train_epoch(job: Job, task: Any, loader: Any, optimizer: Any, scheduler: Any,
                epoch: int) -> None:
    """train.py's train_one_epoch without logging."""
    from timm.utils import AverageMeter

    losses, updates = AverageMeter(), epoch * len(loader)
    task.get_trainable_module().train()
    optimizer.zero_grad()
    for images, targets in loader:
        with arithmetic(job)():
            loss = task(laid_out(job, images), targets)["loss"]
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), len(images))
        updates += 1
        optimizer.zero_grad()
        scheduler.step_update(num_updates=updates, metric=losses.avg)


def validate(job: Job, model: Any, loader: Any) -> float:
    """train.py's validate: top-1 in percent."""
    import torch
    from timm.utils import AverageMeter, accuracy

    top1, losses = AverageMeter(), AverageMeter()
    model.eval()
    with torch.inference_mode():
        for images, targets in loader:
            with arithmetic(job)():
                output = model(laid_out(job, images))
                loss = torch.nn.functional.cross_entropy(output, targets)
            first, _ = accuracy(output, targets, topk=(1, 5))
            losses.update(loss.item(), len(images))
            top1.update(first.item(), len(images))
    return float(top1.avg)


def arithmetic(job: Job) -> Any:
    """Makes the context of a forward pass, as train.py does."""
    import torch

    return partial(torch.autocast, device_type="cpu", dtype=torch.bfloat16) if job.tuned \
        else suppress


def laid_out(job: Job, images: Any) -> Any:
    """Channels-last when tuned."""
    import torch

    return images.contiguous(memory_format=torch.channels_last) if job.tuned else images


if __name__ == "__main__":
    run_peer(__doc__, train, "torch", "torchvision", "timm")
