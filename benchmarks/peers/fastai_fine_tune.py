"""fastai: a Learner and its ``fine_tune``.

Default: fastai's own number of loader workers (one for each core), fp32, one-cycle, its Adam with
decoupled weight decay. Tuned: ``to_bf16()``, ``to_channelslast()`` and ``num_workers``. The
network is the job's own in place of ``vision_learner``'s, whose head is another and a larger one.
Job A: ``fine_tune`` without its frozen epoch first and at one rate, because others train everything
for the same number of epochs. Job B: ``freeze()`` and ``fit_one_cycle``; by default fastai trains
the batch norms of a frozen body, which is more work; tuned, they are held in eval mode.
Augmentation: RandomResizedCrop (35-100 %) and FlipItem.
"""

import tempfile
from typing import Any

from job import Job, build_network, hold_norms, run_peer
from measuring import Clock


def train(job: Job, clock: Clock) -> dict[str, Any]:
    """Train and validate."""
    from fastai.vision.all import CrossEntropyLossFlat, Learner, accuracy, set_seed

    set_seed(job.seed)
    network = build_network(job)
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            build_loaders(job, "val"), network, loss_func=CrossEntropyLossFlat(), lr=job.lr,
            metrics=accuracy, splitter=by_classifier, path=folder, wd=job.weight_decay,
            train_bn=not (job.is_frozen and job.tuned))
        if job.is_frozen and job.tuned:
            hold_norms(network)
        if job.tuned:
            learner.to_channelslast()
            learner.to_bf16()
        with clock.running():
            fit(job, learner)
        measures = clock.measures()
        result = (learner.recorder.values[-1][-1] if job.measured == "val" else
                  learner.validate(dl=build_loaders(job, job.measured).valid)[1])
    return {**measures, "accuracy": float(result)}


def fit(job: Job, learner: Any) -> None:
    """The epochs of the job."""
    if job.is_frozen:
        learner.freeze()
        learner.fit_one_cycle(job.epochs, job.lr)
    else:  # fine_tune halves the rate that it is given
        learner.fine_tune(job.epochs, base_lr=2 * job.lr, freeze_epochs=0, lr_mult=1)


def by_classifier(model: Any) -> list[list[Any]]:
    """Two groups of parameters: body and classifier."""
    head = list(model.get_classifier().parameters())
    names = {id(p) for p in head}
    return [[p for p in model.parameters() if id(p) not in names], head]


def build_loaders(job: Job, part: str) -> Any:
    """Loaders of fastai, of the training part and another."""
    import pandas as pd
    from fastai.vision.all import FlipItem, ImageDataLoaders, Normalize, RandomResizedCrop

    rows = [(path, label, name == part) for name in ("train", part)
            for path, label in job.rows(name)]
    workers = {"num_workers": job.workers} if job.tuned else {}
    return ImageDataLoaders.from_df(
        pd.DataFrame(rows, columns=["path", "label", "valid"]), path="/", fn_col="path",
        label_col="label", valid_col="valid", bs=job.batch_size, device="cpu",
        item_tfms=[RandomResizedCrop(job.size, min_scale=0.35), FlipItem()],
        batch_tfms=[Normalize.from_stats(job.mean, job.std)], **workers)


if __name__ == "__main__":
    run_peer(__doc__, train, "torch", "torchvision", "timm", "fastai")
