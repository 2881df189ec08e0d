"""A plain torch loop, as the tutorials of torch have it.

Default: fp32, contiguous, a DataLoader without workers, AdamW at one rate. Tuned: bf16 autocast,
channels-last, workers, a fused AdamW, inference_mode; frozen parts in eval mode without gradients.
Augmentation: torchvision's RandomResizedCrop (35-100 %) and a mirror image.
"""

from contextlib import nullcontext
from typing import Any

from job import Job, build_dataset, build_network, freeze_backbone, run_peer
from measuring import Clock


def train(job: Job, clock: Clock) -> dict[str, Any]:
    """Train and validate."""
    import torch

    model = build_network(job)
    if job.is_frozen:
        freeze_backbone(model)
    if job.tuned:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=job.lr,
        weight_decay=job.weight_decay, **({"fused": True} if job.tuned else {}))
    loaders = {part: build_loader(job, part) for part in {"train", "val", job.measured}}
    accuracy = 0.0
    with clock.running():
        for _ in range(job.epochs):
            train_epoch(job, model, loaders["train"], optimizer)
            accuracy = measure(job, model, loaders["val"])
    measures = clock.measures()
    if job.measured != "val":
        accuracy = measure(job, model, loaders[job.measured])
    return {**measures, "accuracy": accuracy}


def build_loader(job: Job, part: str) -> Any:
    """Batches of a part."""
    from torch.utils.data import DataLoader

    workers = job.workers if job.tuned else 0
    return DataLoader(build_dataset(job, part), batch_size=job.batch_size,
                      shuffle=part == "train", num_workers=workers,
                      persistent_workers=workers > 0)


def train_epoch(job: Job, model: Any, loader: Any, optimizer: Any) -> None:
    """One pass over the training part."""
    from torch import nn

    model.train(not (job.is_frozen and job.tuned))
    for images, targets in loader:
        optimizer.zero_grad()
        with arithmetic(job):
            loss = nn.functional.cross_entropy(model(laid_out(job, images)).float(), targets)
        loss.backward()
        optimizer.step()


def measure(job: Job, model: Any, loader: Any) -> float:
    """Share of right answers."""
    import torch

    model.eval()
    right = total = 0
    with torch.inference_mode() if job.tuned else torch.no_grad(), arithmetic(job):
        for images, targets in loader:
            right += int((model(laid_out(job, images)).argmax(1) == targets).sum())
            total += len(targets)
    return right / total


def arithmetic(job: Job) -> Any:
    """The context of a forward pass."""
    import torch

    return torch.autocast("cpu", torch.bfloat16) if job.tuned else nullcontext()


def laid_out(job: Job, images: Any) -> Any:
    """Channels-last when tuned."""
    import torch

    return images.to(memory_format=torch.channels_last) if job.tuned else images


if __name__ == "__main__":
    run_peer(__doc__, train, "torch", "torchvision", "timm")
