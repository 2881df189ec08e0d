"""How much to freeze: policies, networks and numbers of labelled pictures, for the guide's table.

    python benchmarks/how_much_to_freeze.py --scenes rsscn7 --scans brain_tumor_mri --keep DIR
    python benchmarks/how_much_to_freeze.py --scenes rsscn7 --keep DIR --only scenes-bundled-200

Each part is a study (docs/studies.md): policies as arms, a rate searched for each on validation,
three seeds; then ``compare STUDY --reference ARM``, every policy against the one that trains
everything. The commands are printed. Scans are divided by ``audit --fix-splits``, so that copies
lie in one part; of their validation and test parts every third set is kept, to save time.
``--keep DIR`` keeps studies: a call finds what an earlier one left there, and resumes what was cut
off.

The table is made from ``study.json`` and ``comparison.json``. Validation: mean over seeds, its
interval over seeds and pictures; it chose rates and epochs, so it is a little too high. Test: the
same, as compare has it. p is corrected by Holm's method within a part; ``p, all`` over all parts of
the table. Seconds are those of the quickest of the seeds, of training alone.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import describe_machine, environment, markdown, parser_of, report

COMMON = ("data.image_size=64", "data.batch_size=16", "data.workers=0", "training.epochs=4",
          "tracking.mode=disabled")
SCENES = ("study=freezing", "recipe=remote_sensing", "data.val_fraction=0.1")
SCANS = ("-m", "seed=0,1,2", "study.rates=0.1,0.316,1,3.16", "recipe=medical")
COLUMNS = ("pictures", "network", "policy", "rate", "validation", "95 %", "spread", "test", "95 %",
           "spread", "against full", "p", "p, all", "s a run")


@dataclass(frozen=True)
class Part:
    """One study: its data (``scenes`` or ``scans``), its words, and its reference's name."""

    data: str
    words: tuple[str, ...]
    reference: str


def scenes(*words: str) -> Part:
    """A study of rsscn7."""
    return Part("scenes", (*SCENES, *words), "full")


def scans(*words: str) -> Part:
    """A study of brain_tumor_mri."""
    return Part("scans", (*SCANS, *words), "none")


PARTS = {
    "scenes-bundled-200": scenes("study.arms=full,head_only,gradual", "model.weights=bundled",
                                 "data.train_fraction=0.1"),
    "scenes-imagenet-200": scenes("study.arms=full,head_only", "model.weights=packaged",
                                  "data.train_fraction=0.1"),
    "scans-imagenet-220": scans("freezing.policy=none,head_only,head_then_all",
                                "model.weights=packaged", "data.train_fraction=0.05"),
}


def main() -> None:
    """Run the studies that aren't there yet, compare, and print the table."""
    options = parse()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in options.only or PARTS:
        study = run_study(options, name, PARTS[name])
        verdict = study / "verdict"
        start(["compare", str(study), "--reference", PARTS[name].reference, "--output",
               str(verdict)])
        found[name] = rows_of(study, json.loads((verdict / "comparison.json").read_text()))
    correct_all(rows := [row for part in found.values() for row in part])
    machine = describe_machine()
    report(options, {"machine": machine, "parts": found}, table(rows))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--scenes", type=Path, help="the folder of rsscn7")
    parser.add_argument("--scans", type=Path, help="the folder of brain_tumor_mri")
    parser.add_argument("--keep", type=Path, required=True, help="where studies are kept")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="parts; unset: all")
    options = parser.parse_args()
    for data in {PARTS[name].data for name in options.only or PARTS}:
        if getattr(options, data) is None:
            parser.error(f"--{data} DIR is needed, or other parts: --only NAME")
    return options


def run_study(options: argparse.Namespace, name: str, part: Part) -> Path:
    """The folder of a part's study, which is complete."""
    folder = options.keep.resolve() / name
    if kept := sorted(folder.glob("study-*/study.json")):
        start(["resume", str(kept[-1].parent)])
        return kept[-1].parent
    data = getattr(options, part.data).resolve()
    words = [*part.words, *COMMON, f"data.root={data}", f"output_dir={folder}"]
    if part.data == "scans":
        words.append(f"data.splits_file={divide_scans(data, options.keep.resolve())}")
    start(words)
    return next(folder.glob("study-*/study.json")).parent


def divide_scans(data: Path, keep: Path) -> Path:
    """``audit``'s splits file, with every third set of the validation and test parts."""
    fixed, small = keep / "fixed.csv", keep / "thinned.csv"
    if not small.exists():
        start(["audit", str(data), "--fix-splits", str(fixed), "--output", str(keep / "audit")])
        with fixed.open(encoding="utf-8", newline="") as file:
            rows = thinned(list(csv.DictReader(file)))
        with small.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return small


def thinned(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """All of train; of each class in val and test the first of every three sets of copies.

    >>> thinned([{"path": str(i), "label": "a", "split": "test", "group": g}
    ...          for i, g in enumerate("xxyz")])[-1]["path"]
    '1'
    """
    kept: list[Mapping[str, str]] = []
    seen: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        groups = seen.setdefault((row["split"], row["label"]), {})
        place = groups.setdefault(row.get("group") or row["path"], len(groups))
        if row["split"] == "train" or place % 3 == 0:
            kept.append(row)
    return kept


def start(words: Sequence[str]) -> None:
    """Print a command and run it; what it says goes to the terminal's error stream.

    Raises:
        SystemExit: It failed.
    """
    print(f"python -m finetune {shlex.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "finetune", *words], check=False,
                          stdout=sys.stderr, env=environment())
    if done.returncode:
        raise SystemExit(f"finetune {words[0]} ended with {done.returncode}")


def rows_of(folder: Path, comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each arm, in the study's order."""
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    methods = {method["name"]: method for method in comparison["methods"]}
    pairs = {pair["first"]: pair for pair in comparison["comparisons"]}
    metric = comparison["metric"]
    return [{"part": folder.parent.name, "metric": metric, "arm": arm["name"],
             "rate": arm["rate"], "edge": arm["edge"],
             "val": {"mean": arm["mean"], "std": arm["std"],
                     **validation(folder, study, arm["name"], metric)},
             "test": methods[arm["name"]]["metrics"][metric],
             "seconds": least_seconds(methods[arm["name"]]),
             "searched": searched(folder, study, arm["name"], metric),
             "train": training_pictures(folder, study),
             "pair": told(pairs.get(arm["name"]), metric)} for arm in study["arms"]]


def searched(folder: Path, study: Mapping[str, Any], arm: str, metric: str) -> dict[str, float]:
    """Validation by rate, of the runs that searched an arm's rate."""
    found: dict[str, float] = {}
    for member in study["members"]:
        if (member["arm"], member["role"]) == (arm, "search"):
            path = folder / member["path"] / "metrics.json"
            found[f"{member['rate']:g}"] = json.loads(path.read_text())["val"][metric]
    return found


def least_seconds(method: Mapping[str, Any]) -> float:
    """Of training, of the run that other programs disturbed least."""
    return min(float(run["cost"]["seconds"]) for run in method["runs"])


def validation(folder: Path, study: Mapping[str, Any], arm: str, metric: str) -> dict[str, float]:
    """The interval of an arm's mean on validation over seeds and pictures, as compare's on test."""
    import numpy as np

    from finetune.evaluation.crossed import compare_methods
    from finetune.evaluation.influence import cluster_numbers, measure_moves
    from finetune.evaluation.predictions import Predictions
    from finetune.run_directory import RunDirectory

    answers = [Predictions.load(RunDirectory(folder / member["path"]).predictions_path("val"))
               for member in study["members"] if (member["arm"], member["role"]) == (arm, "final")]
    moved = [measure_moves(each, cluster_numbers(each.groups))[metric] for each in answers]
    scores = np.array([each.value + len(each.moves) * each.moves for each in moved])
    alone = compare_methods(scores, np.zeros((2, scores.shape[1])))
    return {"low": alone.low, "high": alone.high}


def training_pictures(folder: Path, study: Mapping[str, Any]) -> int:
    """How many pictures the members trained on."""
    path = folder / study["members"][-1]["path"] / "splits.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return sum(row["split"] == "train" for row in csv.DictReader(file))


def told(pair: Mapping[str, Any] | None, metric: str) -> dict[str, Any] | None:
    """Of a comparison: the difference, its interval, p, and the verdict in words."""
    if pair is None:
        return None
    entry = pair["metrics"][metric]
    keys = ("value", "low", "high", "p", "p_holm", "reliable")
    return {**{key: entry[key] for key in keys}, "words": entry["verdict"]["words"]}


def correct_all(rows: Sequence[dict[str, Any]]) -> None:
    """Set ``p_all``: Holm's correction over every comparison of the table."""
    from finetune.evaluation.subgroups import holm

    pairs = [row["pair"] for row in rows if row["pair"] is not None]
    for pair, p in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_all"] = p


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """As Markdown, with the search for rates and the verdicts in words below."""
    rates = [[row["part"], row["arm"], ", ".join(
        f"{rate}: {100 * value:.1f}" for rate, value in row["searched"].items())] for row in rows]
    words = [f"* {row['part']}, {row['arm']}: {row['pair']['words']}"
             for row in rows if row["pair"]]
    return "\n".join([markdown(COLUMNS, [cells(row) for row in rows]), "",
                      markdown(("part", "policy", "validation by rate"), rates), "", *words])


def cells(row: Mapping[str, Any]) -> list[str]:
    """Of a row; shares in per cent, differences in points."""
    data, network, _ = row["part"].split("-")
    pair = row["pair"]
    against = ["", "", ""] if pair is None else [
        f"{100 * pair['value']:+.1f} ({100 * pair['low']:+.1f} to {100 * pair['high']:+.1f})",
        f"{pair['p_holm']:.2g}", f"{pair['p_all']:.2g}"]
    rate = f"{row['rate']:g}" + (f" ({row['edge']})" if row["edge"] else "")
    return [f"{row['train']} {data}", network, row["arm"], rate,
            *(text for name in ("val", "test") for text in quality(row[name])), *against,
            f"{row['seconds']:.0f}"]


def quality(entry: Mapping[str, float]) -> list[str]:
    """Mean, interval and spread over seeds, in per cent."""
    mean, low, high, std = (100 * entry[key] for key in ("mean", "low", "high", "std"))
    return [f"{mean:.1f}", f"{low:.0f} to {high:.0f}", f"{std:.1f}"]


if __name__ == "__main__":
    main()
