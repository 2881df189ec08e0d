"""Training layer4 and the classifier of a ResNet-18 at 224 px: finetune and a naive frozen loop.

    python benchmarks/frozen.py --data rsscn7 [--epochs 10] [--rounds 3] [key=value ...]

The naive loop is what users write: ``requires_grad = False`` below layer4, AdamW over the rest,
then the usual loop over PIL pictures, the whole network forward in each epoch (in fp32, a
DataLoader without workers). finetune has ``freezing.policy=below freezing.below=layer4
data.transform=none``; neither augments. Both start from --weights or from random ones, both
validate after each epoch.

A side runs in a process of its own, sides in turn. "an epoch" is the median of training seconds of
the epochs from the second on, in which whatever is kept of the frozen part can be reused; "all" is
everything from the first picture read for training to the last validation, the building of a cache
included. Ratios are naive / finetune within a round, the median of the rounds.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measured_fit import measured_fit
from measuring import (
    Clock,
    describe_machine,
    disturbance,
    markdown,
    medians,
    parser_of,
    ratio_of_rounds,
    report,
    run_self,
    write_result,
)
from peers.job import (
    Job,
    build_dataset,
    build_network,
    divide,
    list_pictures,
    write_table,
)

KEYS = ("epoch_seconds", "seconds", "cpu_seconds", "whole_seconds", "peak_rss_mib", "accuracy")


def main() -> None:
    """Run the benchmark, or one side of it."""
    options = parse()
    if options.result:
        job = Job.load(options.job)
        sides = {"naive": lambda: naive(job), "finetune": lambda: ours(job, options.words)}
        write_result(options.result, sides[options.side]())
        return
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = build_job(options, Path(folder)).save(Path(folder) / "job.json")
        for number in range(options.rounds):
            rounds += [{"round": number, "side": side,
                        **measure(options, side, path, Path(folder) / f"cache{number}")}
                       for side in ("finetune", "naive")[::1 if number % 2 else -1]]
    result = {"machine": describe_machine(), "rounds": rounds}
    report(options, result, f"{table(rounds)}\n\n{disturbance(rounds)}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, help="a folder of class folders")
    parser.add_argument("--train", type=int, default=320, help="pictures")
    parser.add_argument("--val", type=int, default=80, help="pictures")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--weights", help="a state dict of ResNet-18; unset: random")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("words", nargs="*", help="further key=value for finetune")
    for hidden in ("--side", "--job"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.data or options.result):
        parser.error("--data is needed")
    return options


def build_job(options: argparse.Namespace, folder: Path) -> Job:
    """Pictures and settings of both sides."""
    rows = divide(list_pictures(options.data), {"train": options.train, "val": options.val})
    weights = str(Path(options.weights).resolve()) if options.weights else None
    return Job("C", str(write_table(rows, folder / "pictures.csv")), str(options.data.resolve()),
               "resnet18", weights, options.size, options.epochs)


def measure(options: argparse.Namespace, side: str, job: Path, cache: Path) -> dict[str, Any]:
    """One side, once, with empty caches."""
    return run_self(__file__, ["--side", side, "--job", str(job), *options.words],
                    env={"FINETUNE_CACHE": str(cache)})


def ours(job: Job, words: list[str]) -> dict[str, Any]:
    """The side of finetune."""
    with tempfile.TemporaryDirectory() as folder:
        run, measures = measured_fit(None, {
            "data.root": job.root, "data.labels_file": job.table, "data.image_size": job.size,
            "data.transform": "none", "data.batch_size": job.batch_size, "model.name": job.model,
            "data.duplicates": "allow", "data.waiver": "the split is the benchmark's",
            "model.weights": job.weights, "freezing.policy": "below", "freezing.below": "layer4",
            "optimizer.lr": job.lr, "training.epochs": job.epochs, "output_dir": folder,
            "tracking.mode": "disabled", **dict(word.split("=", 1) for word in words)})
        seconds = [entry["seconds"] for entry in run.history]
        return {**measures, "epochs": seconds, "epoch_seconds": statistics.median(
            seconds[1:] or seconds), "accuracy": run.history[-1]["val"]["accuracy"]}


def naive(job: Job) -> dict[str, Any]:
    """The loop that users write."""
    import torch
    from torch.utils.data import DataLoader

    model = build_network(job)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(("layer4", "fc"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=job.lr)
    train, val = (DataLoader(build_dataset(job, part, augmented=False), shuffle=part == "train",
                             batch_size=job.batch_size) for part in ("train", "val"))
    clock, seconds, accuracy = Clock(), [], 0.0
    with clock.running():
        for _ in range(job.epochs):
            started = time.perf_counter()
            train_epoch(model, train, optimizer)
            seconds.append(time.perf_counter() - started)
            accuracy = validate(model, val)
    return {**clock.measures(), "epochs": seconds, "accuracy": accuracy,
            "epoch_seconds": statistics.median(seconds[1:] or seconds)}


def train_epoch(model: Any, loader: Any, optimizer: Any) -> None:
    """One pass over the training pictures."""
    from torch.nn.functional import cross_entropy

    model.train()
    for images, targets in loader:
        optimizer.zero_grad()
        cross_entropy(model(images), targets).backward()
        optimizer.step()


def validate(model: Any, loader: Any) -> float:
    """Share of right answers."""
    import torch

    model.eval()
    with torch.no_grad():
        right = [int((model(images).argmax(1) == targets).sum()) for images, targets in loader]
    return sum(right) / len(loader.dataset)


def table(rounds: list[dict[str, Any]]) -> str:
    """Medians of both sides and their ratios."""
    sides = {side: [r for r in rounds if r["side"] == side] for side in ("finetune", "naive")}
    middle = {side: medians(rows) for side, rows in sides.items()}
    ratios = {key: ratio_of_rounds(*([r[key] for r in sides[side]]
                                     for side in ("naive", "finetune"))) for key in KEYS[:-1]}
    columns = ["", "an epoch, s", "all, s", "all, CPU s", "whole command, s", "peak MiB",
               "accuracy"]
    return markdown(columns, [
        *([side, *(middle[side][key] for key in KEYS)] for side in sides),
        ["naive / finetune", *(ratios[key] for key in KEYS[:-1]), None]])


if __name__ == "__main__":
    main()
