"""What pretrained weights are worth: the same recipe with them and with random weights.

    python benchmarks/transfer.py --data DIR
    python benchmarks/transfer.py --data DIR --recipe linear_probe --weights bundled --size 64

Trains a network with its weights (``packaged``: EfficientNet-Lite0 with ImageNet's, of the extra
``[offline]``; ``bundled``: the small residual network that comes with the program) and, in turn,
with random ones. The split is the same for all seeds (``data.split_seed``). Further ``key=value``
words go to every run. Prints a table as Markdown, with mean and median of the seeds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from finetune.models.architectures import ARCHITECTURES
from finetune.run_directory import RunDirectory

SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


def main() -> None:
    """Run the benchmark."""
    options = parse()
    print(f"| weights | seed | {' | '.join(SHOWN)} | seconds |\n|---|---|{'---|' * 5}")
    values: dict[str, list[list[float]]] = {options.weights: [], "random": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for kind in values:
                row = measure(options, Path(folder) / f"{kind}-{seed}", kind, seed)
                values[kind].append(row)
                show(kind, str(seed), row)
    for kind, rows in values.items():
        columns = list(zip(*rows, strict=True))
        show(kind, "median", [statistics.median(column) for column in columns])
        show(kind, "mean", [statistics.mean(column) for column in columns])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder of class folders")
    parser.add_argument("--recipe", default="remote_sensing")
    parser.add_argument("--weights", default="packaged", choices=list(ARCHITECTURES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="unset: the recipe's own")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("words", nargs="*", help="key=value for every run")
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path, kind: str, seed: int) -> list[float]:
    """Test metrics and seconds of one run."""
    started = time.perf_counter()
    weights = ["model.weights=null", f"model.name={ARCHITECTURES[options.weights]}"]
    weights = [f"model.weights={kind}"] if kind != "random" else weights
    epochs = [f"training.epochs={options.epochs}"] if options.epochs else []
    subprocess.run(
        [sys.executable, "-m", "finetune", f"recipe={options.recipe}", f"data.root={options.data}",
         f"data.image_size={options.size}", f"seed={seed}", "tracking.mode=disabled",
         f"output_dir={folder}", *weights, *epochs, *options.words],
        stdout=subprocess.DEVNULL, check=True)
    test = RunDirectory(next(folder.glob("*/"))).metrics["test"]
    return [test[name] for name in SHOWN] + [time.perf_counter() - started]


def show(kind: str, seed: str, row: list[float]) -> None:
    """One row of the table."""
    numbers = " | ".join(f"{value:.3f}" for value in row[:-1])
    print(f"| {kind} | {seed} | {numbers} | {row[-1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
