"""Lightning with its BackboneFinetuning callback, torchvision's transforms.

Default: fp32, loaders without workers, its own logger, progress bar, checkpoint and sanity check.
Tuned: ``precision="bf16-mixed"``, workers, channels-last. Job A: the backbone opens in the first
epoch at the head's rate. Job B: it never opens. The callback trains the batch norms of a frozen
backbone, which is more work (its ``train_bn`` speaks of the opening only); tuned, it is told to
freeze them and they are held in eval mode.
Augmentation: RandomResizedCrop (35-100 %) and a mirror image.
"""

import tempfile
from typing import Any

from job import Job, build_dataset, build_network, hold_norms, run_peer
from measuring import Clock


def train(job: Job, clock: Clock) -> dict[str, Any]:
    """Train and validate."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import BackboneFinetuning

    lightning.seed_everything(job.seed)
    module = build_module(job)
    if job.tuned:
        module.to(memory_format=torch.channels_last)
    if job.is_frozen and job.tuned:
        hold_norms(module)
    class WholeFreezing(BackboneFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.backbone, train_bn=False)

    kind = WholeFreezing if job.is_frozen and job.tuned else BackboneFinetuning
    callback = kind(unfreeze_backbone_at_epoch=job.epochs + 1 if job.is_frozen else 0,
                    backbone_initial_lr=job.lr, initial_denom_lr=1.0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=job.epochs, callbacks=[callback], accelerator="cpu", devices=1,
            default_root_dir=folder, **({"precision": "bf16-mixed"} if job.tuned else {}))
        with clock.running():
            trainer.fit(module, build_loader(job, "train"), build_loader(job, "val"))
        measures = clock.measures()
        found = (trainer.callback_metrics if job.measured == "val" else
                 trainer.validate(module, build_loader(job, job.measured))[0])
    return {**measures, "accuracy": float(found["accuracy"])}


def build_module(job: Job) -> Any:
    """A LightningModule with ``backbone`` and ``head``, as the callback wants it."""
    import lightning
    import torch
    from torch.nn.functional import cross_entropy

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build_network(job)
            self.head = self.backbone.get_classifier()
            self.backbone.reset_classifier(0)

        def forward(self, images: Any) -> Any:
            if job.tuned:
                images = images.to(memory_format=torch.channels_last)
            return self.head(self.backbone(images))

        def training_step(self, batch: Any, _: int) -> Any:
            loss = cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            logits = self(batch[0])
            self.log("val_loss", cross_entropy(logits, batch[1]))
            self.log("accuracy", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True,
                     batch_size=len(batch[1]))

        def configure_optimizers(self) -> Any:
            chosen = [p for p in self.parameters() if p.requires_grad]
            return torch.optim.AdamW(chosen, lr=job.lr, weight_decay=job.weight_decay)

    return Module()


def build_loader(job: Job, part: str) -> Any:
    """Batches of a part."""
    from torch.utils.data import DataLoader

    workers = job.workers if job.tuned else 0
    return DataLoader(build_dataset(job, part), batch_size=job.batch_size,
                      shuffle=part == "train", num_workers=workers,
                      persistent_workers=workers > 0)


if __name__ == "__main__":
    run_peer(__doc__, train, "torch", "torchvision", "timm", "lightning")
