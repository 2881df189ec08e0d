"""Does an exactly fitted classifier survive the training that follows it?

    python benchmarks/hand_over.py --data DIR --weights packaged --size 96

The first epoch of ``head_then_all`` fits the classifier (``training.head_fit=exact``); then all
depths train. For each penalty and rate in turn, and each seed: validation's selection metric after
the fit, the lowest and the last one of the epochs that follow, the best, and the same metric of
the chosen epoch on test. A dip is the fit's value less the lowest. Further ``key=value`` words go
to every run. Prints a table as Markdown: each seed, and the means.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune.models.architectures import ARCHITECTURES
from finetune.run_directory import RunDirectory

COLUMNS = ("fit", "lowest", "last", "best", "test")


def main() -> None:
    """Run the benchmark."""
    options = parse()
    runs = list(itertools.product(options.strengths.split(","), options.rates.split(","),
                                  range(options.seeds)))
    print(f"| penalty | rate | seed | {' | '.join(COLUMNS)} |")
    print("|---|---|---|" + "---|" * len(COLUMNS))
    gathered: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        rows = pool.map(lambda run: measure(options, Path(folder, "-".join(map(str, run))), *run),
                        runs)
        for (strength, rate, seed), row in zip(runs, rows, strict=True):
            show(strength, rate, str(seed), row)
            gathered.append(row)
            if seed == options.seeds - 1:
                columns = zip(*gathered[-options.seeds:], strict=True)
                show(strength, rate, "mean", [statistics.mean(column) for column in columns])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder of class folders, or a CSV")
    parser.add_argument("--recipe", default="medical")
    parser.add_argument("--weights", default="packaged", choices=list(ARCHITECTURES))
    parser.add_argument("--strengths", default="auto",
                        help="training.head_strength, with commas; auto: as the program chooses")
    parser.add_argument("--rates", default="0.0003", help="optimizer.lr, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("words", nargs="*", help="key=value for every run")
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path, strength: str, rate: str,
            seed: int) -> list[float]:
    """One run's values in the order of `COLUMNS`."""
    given = [] if strength == "auto" else [f"training.head_strength={strength}"]
    subprocess.run(
        [sys.executable, "-m", "finetune", f"recipe={options.recipe}", f"data.root={options.data}",
         f"model.weights={options.weights}", f"data.image_size={options.size}", f"seed={seed}",
         "freezing.policy=head_then_all", "training.head_fit=exact", f"optimizer.lr={rate}",
         f"training.epochs={options.epochs}", "training.patience_fraction=null",
         "tracking.mode=disabled", f"output_dir={folder}", *given, *options.words],
        stdout=subprocess.DEVNULL, check=True)
    run = RunDirectory(next(folder.glob("*/")))
    metric = run.metrics["selection"]["metric"]
    values = [entry["val"][metric] for entry in run.history]
    part = "test" if "test" in run.metrics else "val"
    return [values[0], min(values[1:]), values[-1], max(values), run.metrics[part][metric]]


def show(strength: str, rate: str, seed: str, row: list[float]) -> None:
    """One row of the table."""
    numbers = " | ".join(f"{value:.3f}" for value in row)
    print(f"| {strength} | {rate} | {seed} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
