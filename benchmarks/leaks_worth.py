"""What copies across parts are worth: accuracy before and after ``audit --fix-splits``.

    python benchmarks/leaks_worth.py --data brain_tumor_mri --keep DIR [--seeds 3] [key=value ...]
    python benchmarks/leaks_worth.py --data brain_tumor_mri --keep DIR model.weights=packaged

For each seed the program trains twice on data that come divided: on their own split
(``data.duplicates=allow`` with a waiver), and on the file that ``audit --fix-splits`` wrote with
``data.split_seed`` equal to the seed. So the validation part, cut from train, differs between seeds
on both sides, and so do the pictures trained on; the test part of either side stays the same.

Besides the whole test part of each, accuracies of the first network on test pictures with a copy
(identical, or certain near-duplicate, or a copy of such a one) in its train or validation part and
on the others; and of both networks on the pictures that are in both test parts: the same pictures,
so that only what was trained on differs. The difference of the two, picture by picture, is told for
those that had a copy in train or val at first and for those that had none: the latter lose nothing
with the copies, only by what else changed in train (its size, its classes). Intervals hold for one
training, at the effective number of pictures when a set of copies is one group; the spread over
seeds is told apart.
``--keep DIR`` keeps audits and runs; a call finds what an earlier one left there.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import describe_machine, environment, markdown, parser_of, report

BEFORE, AFTER = "own split", "copies kept together"
WORDS = ("recipe=linear_probe", "model.weights=bundled", "data.image_size=64")
WAIVER = "data.waiver=to see what leaks are worth"


@dataclass(frozen=True)
class Answers:
    """Right or wrong by picture of a test part, and the pictures of the other parts."""

    right: dict[str, bool]
    others: frozenset[str]


def main() -> None:
    """Run the benchmark."""
    options = parse()
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        audit = run_audit(options, seed)
        sets = copies(json.loads((audit / "out" / "audit.json").read_text()))
        before = train(options, BEFORE, seed, [f"data.split_seed={seed}", "data.duplicates=allow",
                                               WAIVER])
        after = train(options, AFTER, seed, [f"data.splits_file={audit / 'fixed.csv'}"])
        rows += [{"seed": seed, **row} for row in compared(before, after, sets)]
    result = {"machine": describe_machine(), "words": words(options), "rows": rows}
    report(options, result, table(rows))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with its own test part")
    parser.add_argument("--keep", type=Path, required=True, help="where audits and runs are kept")
    parser.add_argument("--seeds", type=int, default=3, help="from 0 up")
    parser.add_argument("words", nargs="*", help=f"key=value beside or instead of {WORDS}")
    return parser.parse_args()


def words(options: argparse.Namespace) -> list[str]:
    """Of every training: those given, and ours that they don't replace."""
    given = {word.partition("=")[0] for word in options.words}
    return [*(w for w in WORDS if w.partition("=")[0] not in given), *options.words]


def run_audit(options: argparse.Namespace, seed: int) -> Path:
    """The folder with ``fixed.csv`` and ``out/audit.json``."""
    folder = options.keep.resolve() / f"audit {seed}"
    if not (folder / "fixed.csv").exists():
        start(["audit", str(options.data), f"data.split_seed={seed}", "--output",
               str(folder / "out"), "--fix-splits", str(folder / "fixed.csv")])
    return folder


def train(options: argparse.Namespace, side: str, seed: int, more: list[str]) -> Answers:
    """Answers of one training, made anew unless it is kept."""
    from finetune.run_directory import RunDirectory

    chosen = [*words(options), *more]
    folder = options.keep.resolve() / " ".join([side, str(seed), *options.words]).replace("/", "_")
    if not (finished := finished_runs(folder)):
        start([*chosen, f"data.root={options.data}", f"seed={seed}", "tracking.mode=disabled",
               f"output_dir={folder}"])
        finished = finished_runs(folder)
    return read_answers(RunDirectory.open(finished[0]))


def finished_runs(folder: Path) -> list[Path]:
    """Those whose test part was answered; interrupted ones are left out."""
    return [path.parent.parent for path in folder.glob("*/predictions/test.npz")]


def start(chosen: list[str]) -> None:
    """Run the program.

    Raises:
        SystemExit: It failed; its last lines are in the message.
    """
    done = subprocess.run([sys.executable, "-m", "finetune", *chosen], capture_output=True,
                          text=True, check=False, env=environment())
    if done.returncode:
        tail = "\n".join([*done.stdout.splitlines()[-15:], *done.stderr.splitlines()[-15:]])
        raise SystemExit(f"finetune {' '.join(chosen)} ended with {done.returncode}:\n{tail}")


def read_answers(run: Any) -> Answers:
    """Of the test part; names of the others from ``splits.csv``."""
    import csv

    from finetune.evaluation.predictions import Predictions

    found = Predictions.load(run.predictions_path("test"))
    right = found.logits.argmax(axis=1) == found.labels
    with (run.path / "splits.csv").open(encoding="utf-8", newline="") as file:
        others = frozenset(row["path"] for row in csv.DictReader(file)
                           if row["split"] in ("train", "val"))
    return Answers(dict(zip(found.ids, right.tolist(), strict=True)), others)


def copies(told: dict[str, Any]) -> list[list[str]]:
    """Sets of names that are copies of each other, by ``audit.json``."""
    from finetune.data.unions import joined

    near = [[p["first"], p["second"]] for p in told["near_duplicates"] if p["certain"]]
    names = sorted({name for group in [*told["identical"], *near] for name in group})
    place = {name: number for number, name in enumerate(names)}
    groups = [[place[name] for name in group] for group in [*told["identical"], *near]]
    return [[names[i] for i in members] for members in joined(len(names), groups)]


def compared(before: Answers, after: Answers, sets: list[list[str]]) -> list[dict[str, Any]]:
    """Rows of one seed: what was trained on, which test pictures, accuracy."""
    group = {name: members[0] for members in sets for name in members}
    copied = {name for members in sets if before.others & set(members) for name in members}
    both = before.right.keys() & after.right.keys()
    chosen: list[tuple[str, str, Answers, Callable[[str], bool]]] = [
        (BEFORE, "all of its test part", before, lambda name: True),
        (BEFORE, "with a copy in train or val", before, lambda name: name in copied),
        (BEFORE, "without one", before, lambda name: name not in copied),
        (BEFORE, "in both test parts", before, lambda name: name in both),
        (AFTER, "in both test parts", after, lambda name: name in both),
        (AFTER, "all of its test part", after, lambda name: True)]
    rows = [{"training": side, "pictures": which, **accuracy(
        {name: hit for name, hit in answers.right.items() if keep(name)}, group)}
        for side, which, answers, keep in chosen]
    lost = {name: int(before.right[name]) - int(after.right[name]) for name in sorted(both)}
    halves: dict[str, Callable[[str], bool]] = {
        "": lambda name: True, ", had a copy": lambda name: name in copied,
        ", had none": lambda name: name not in copied}
    return rows + [{"training": "difference", "pictures": f"in both test parts{which}",
                    **difference({name: lost[name] for name in lost if keep(name)}, group)}
                   for which, keep in halves.items()]


def accuracy(right: dict[str, bool], group: dict[str, str]) -> dict[str, Any]:
    """Count, accuracy and its 95 % interval; sets of copies are groups."""
    from finetune.evaluation.entries import proportion_entry

    if not right:
        return {"count": 0, "accuracy": None, "low": None, "high": None}
    hits = np.array(list(right.values()))
    clusters = np.unique([group.get(name, name) for name in right], return_inverse=True)[1]
    entry = proportion_entry(hits, np.ones(len(hits), bool), clusters)
    return {"count": len(hits), "accuracy": float(hits.mean()), "low": entry["low"],
            "high": entry["high"]}


def difference(lost: dict[str, int], group: dict[str, str]) -> dict[str, Any]:
    """Mean of -1, 0 or 1 by picture and its normal 95 % interval; sets of copies are groups."""
    values = np.array(list(lost.values()), float)
    if not len(values):
        return {"count": 0, "accuracy": None, "low": None, "high": None}
    clusters = np.unique([group.get(name, name) for name in lost], return_inverse=True)[1]
    mean, sums = values.mean(), np.bincount(clusters, values - values.mean())
    half = 1.96 * float(np.sqrt(np.square(sums).sum())) / len(values)
    return {"count": len(values), "accuracy": float(mean), "low": mean - half, "high": mean + half}


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each training and choice of pictures, a column for each seed, and the spread."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    lines = []
    for key in dict.fromkeys((row["training"], row["pictures"]) for row in rows):
        own = [row for row in rows if (row["training"], row["pictures"]) == key]
        lines.append([*key, numbers(row["count"] for row in own), *map(shown, own),
                      spread([row["accuracy"] for row in own])])
    return markdown(["trained on", "test pictures", "count",
                     *(f"seed {seed} (95 %)" for seed in seeds), "mean, SD over seeds"], lines)


def numbers(counts: Iterable[int]) -> str:
    """Each once."""
    return ", ".join(map(str, dict.fromkeys(counts)))


def shown(row: dict[str, Any]) -> str | None:
    """Accuracy and its interval."""
    if row["accuracy"] is None:
        return None
    return f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def spread(values: list[float | None]) -> str | None:
    """Mean and standard deviation of the seeds.

    >>> spread([0.5, 0.5, 0.8])
    '0.600, 0.173'
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return f"{statistics.mean(known):.3f}, {statistics.stdev(known):.3f}"


if __name__ == "__main__":
    main()
