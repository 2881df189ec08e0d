"""Three ways to stay near pretrained weights, beside plain fine-tuning, on validation.

    python benchmarks/tuning.py --data DIR --seed 0

L2-SP (``optimizer.decay_towards=start``), WiSE-FT (``training.wise_ft``) and Auto-RGN
(``freezing.policy=auto_rgn``; also with one rate for all depths, as in its paper). Takes
``--pictures`` of each class folder for training and as many for validation, the same for all seeds.
Further ``key=value`` words go to every run. Prints a table as Markdown.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from finetune.run_directory import RunDirectory

ARMS = {
    "plain": [],
    "L2-SP, 1": ["optimizer.decay_towards=start", "optimizer.start_decay=1"],
    "L2-SP, 10": ["optimizer.decay_towards=start", "optimizer.start_decay=10"],
    "WiSE-FT": ["training.wise_ft=5"],
    "Auto-RGN": ["freezing.policy=auto_rgn"],
    "Auto-RGN, one rate": ["freezing.policy=auto_rgn", "optimizer.layer_decay=1"],
    "plain, one rate": ["optimizer.layer_decay=1"],
}


def main() -> None:
    """Run the benchmark."""
    options = parse()
    print("| arm | seed | val accuracy | log loss | seconds | |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        splits = write_splits(Path(options.data), Path(folder) / "splits.csv", options.pictures)
        for name in options.arms or ARMS:
            started = time.perf_counter()
            run = train(options, splits, Path(folder) / name.replace(" ", "_"), ARMS[name])
            val = run.metrics["val"]
            print(f"| {name} | {options.seed} | {val['accuracy']:.3f} | {val['log_loss']:.3f} | "
                  f"{time.perf_counter() - started:.0f} | {told(run)} |", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder of class folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=40, help="of each class and part")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="unset: all")
    parser.add_argument("words", nargs="*", help="key=value for every run")
    return parser.parse_args()


def write_splits(data: Path, path: Path, count: int) -> Path:
    """A splits file with so many pictures of each class in train and val."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "label", "split"])
        for folder in sorted(p for p in data.iterdir() if p.is_dir()):
            names = sorted(p.name for p in folder.iterdir())
            random.Random(0).shuffle(names)
            table.writerows([f"{folder.name}/{name}", folder.name, "train" if i < count else "val"]
                            for i, name in enumerate(names[:2 * count]))
    return path


def train(options: argparse.Namespace, splits: Path, output: Path, arm: list[str],
          ) -> RunDirectory:
    """One run with the bundled network."""
    words = [f"data.root={options.data}", f"data.splits_file={splits}", "model.weights=bundled",
             "model.name=resnet12_wide", f"data.image_size={options.size}",
             "data.transform=aerial", f"training.epochs={options.epochs}",
             f"seed={options.seed}", "tracking.mode=disabled", "training.precision=fp32",
             "training.select_metric=accuracy", f"output_dir={output}"]
    subprocess.run([sys.executable, "-m", "finetune", *words, *arm, *options.words],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return RunDirectory(next(output.glob("*/")))


def told(run: RunDirectory) -> str:
    """What an arm tells of itself: the coefficients' accuracies, or the rates' shares."""
    if "wise_ft" in run.metrics:
        found = run.metrics["wise_ft"]
        values = ", ".join(f"{a}: {value:.3f}" for a, value in found["val"].items())
        return f"kept {found['coefficient']:g} of {values}"
    shares = [entry["gradient_shares"] for entry in run.history]
    if shares[0] is None:
        return ""
    first, last = ([round(v, 2) for v in each.values()] for each in (shares[0], shares[-1]))
    return f"shares, stem to head: {json.dumps(first)} to {json.dumps(last)}"


if __name__ == "__main__":
    main()
