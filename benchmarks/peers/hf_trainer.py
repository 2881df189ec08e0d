"""transformers' Trainer, around the same timm network and torchvision's transforms.

Written after the image classification example of transformers, whose transforms these are
(RandomResizedCrop, here of 35-100 %, a mirror image). Default: no loader workers, fp32, its AdamW
and linear schedule. Tuned: ``bf16=True``, ``dataloader_num_workers``, channels-last batches (not
weights: the checkpoint that it writes at the end refuses them). Job B: ``requires_grad`` is turned
off below the classifier; tuned, norms are held in eval mode too.
"""

import tempfile
from typing import Any

from job import Job, build_dataset, build_network, freeze_backbone, hold_norms, run_peer
from measuring import Clock


def train(job: Job, clock: Clock) -> dict[str, Any]:
    """Train and validate."""
    from transformers import Trainer, TrainingArguments

    network = build_network(job)
    if job.is_frozen:
        freeze_backbone(network)
    if job.is_frozen and job.tuned:
        hold_norms(network)
    more = {"bf16": True, "dataloader_num_workers": job.workers} if job.tuned else {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=job.epochs, learning_rate=job.lr,
            weight_decay=job.weight_decay, per_device_train_batch_size=job.batch_size,
            per_device_eval_batch_size=job.batch_size, eval_strategy="epoch", report_to="none",
            use_cpu=True, remove_unused_columns=False, seed=job.seed, label_names=["labels"],
            **more)
        trainer = Trainer(
            model=with_loss(network, channels_last=job.tuned), args=arguments,
            train_dataset=build_dataset(job, "train"), eval_dataset=build_dataset(job, "val"),
            data_collator=collate, compute_metrics=accuracy)
        with clock.running():
            trainer.train()
        measures = clock.measures()
        found = (trainer.state.log_history if job.measured == "val" else
                 [trainer.evaluate(build_dataset(job, job.measured))])
    return {**measures, "accuracy": [e for e in found if "eval_accuracy" in e][-1][
        "eval_accuracy"]}


def with_loss(network: Any, *, channels_last: bool) -> Any:
    """The network as transformers' models are: it returns its loss and its logits."""
    import torch

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixel_values: Any, labels: Any = None) -> dict[str, Any]:
            if channels_last:
                pixel_values = pixel_values.to(memory_format=torch.channels_last)
            logits = self.network(pixel_values)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    return WithLoss()


def collate(items: list[tuple[Any, int]]) -> dict[str, Any]:
    """A batch."""
    import torch

    return {"pixel_values": torch.stack([image for image, _ in items]),
            "labels": torch.tensor([label for _, label in items])}


def accuracy(answers: Any) -> dict[str, float]:
    """Share of right answers."""
    logits, labels = answers
    return {"accuracy": float((logits.argmax(1) == labels).mean())}


if __name__ == "__main__":
    run_peer(__doc__, train, "torch", "torchvision", "timm", "transformers", "accelerate")
