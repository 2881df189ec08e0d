"""finetune on a job, by its Python API, everything else by its defaults.

Job A: the schema's defaults with the job's rate for all layers. Job B: ``recipe=linear_probe`` with
``model.weights=packaged``, epochs and rate the recipe's own. Augmentation: ``natural`` (35-100 %,
mirrored, and mild changes of colour, which the peers don't make). Accuracy is the finished run's:
of the epoch chosen on validation.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from job import Job, run_peer
from measured_fit import measured_fit
from measuring import Clock


def train(job: Job, clock: Clock) -> dict[str, Any]:
    """Train and validate; the clock is `measured_fit`'s own."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, values = settings(job, Path(folder))
        run, measures = measured_fit(recipe, values)
        return {**measures, "accuracy": run.metrics[job.measured]["accuracy"],
                "epoch_seconds": [entry["seconds"] for entry in run.history]}


def settings(job: Job, folder: Path) -> tuple[str | None, dict[str, Any]]:
    """Recipe and values of a job; FINETUNE_WORDS has more values, as JSON."""
    values: dict[str, Any] = {
        "data.root": job.root, "data.labels_file": job.table, "data.image_size": job.size,
        "data.batch_size": job.batch_size, "data.duplicates": "allow",
        "data.waiver": "the split is the benchmark's", "seed": job.seed,
        "output_dir": str(folder), "tracking.mode": "disabled"}
    if job.is_frozen:
        values |= {"model.weights": "packaged", "model.name": job.model}
    else:
        values |= {"model.name": job.model, "model.weights": job.weights,
                   "training.epochs": job.epochs, "optimizer.lr": job.lr,
                   "optimizer.weight_decay": job.weight_decay, "optimizer.layer_decay": 1.0}
    return ("linear_probe" if job.is_frozen else None,
            values | json.loads(os.environ.get("FINETUNE_WORDS", "{}")))


if __name__ == "__main__":
    run_peer(__doc__, train, "torch", "torchvision", "timm", "finetune-images")
