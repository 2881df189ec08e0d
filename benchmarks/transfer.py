"""What pretrained weights are worth: the same recipe with ImageNet's and with random weights.

    python benchmarks/transfer.py --data DIR [--seeds 3] [--epochs 5] [--size 96]

Trains EfficientNet-Lite0 with ``recipe=remote_sensing`` on a folder of classes, alternately with
the ImageNet weights of the extra ``[offline]`` (``model.weights=packaged``) and with random ones.
The split is the same for all seeds (``data.split_seed``). Prints a table as Markdown, with the
median of the seeds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from finetune.run_directory import RunDirectory

SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


def main() -> None:
    """Run the benchmark."""
    options = parse()
    print(f"| weights | seed | {' | '.join(SHOWN)} | seconds |\n|---|---|{'---|' * 5}")
    values: dict[str, list[list[float]]] = {"ImageNet": [], "random": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for kind, weights in (("ImageNet", "packaged"), ("random", "null")):
                row = measure(options, Path(folder) / f"{kind}-{seed}", weights, seed)
                values[kind].append(row)
                show(kind, str(seed), row)
    for kind, rows in values.items():
        show(kind, "median", [statistics.median(column) for column in zip(*rows, strict=True)])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder of class folders")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=96)
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path, weights: str, seed: int) -> list[float]:
    """Test metrics and seconds of one run."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "finetune", "recipe=remote_sensing", f"data.root={options.data}",
         "model.name=tf_efficientnet_lite0", f"model.weights={weights}",
         f"data.image_size={options.size}", f"training.epochs={options.epochs}", f"seed={seed}",
         "tracking.mode=disabled", f"output_dir={folder}"],
        stdout=subprocess.DEVNULL, check=True)
    test = RunDirectory(next(folder.iterdir())).metrics["test"]
    return [test[name] for name in SHOWN] + [time.perf_counter() - started]


def show(kind: str, seed: str, row: list[float]) -> None:
    """One row of the table."""
    numbers = " | ".join(f"{value:.3f}" for value in row[:-1])
    print(f"| {kind} | {seed} | {numbers} | {row[-1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
