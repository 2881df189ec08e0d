"""How often ``compare`` calls equal methods different, and how often it sees a difference.

    python benchmarks/compare_power.py [--fast] [--seed 0] [--only PART ...] [--output FILE]

Methods are drawn, not trained. Whether a run is right about a picture is a coin whose log-odds are
the method's quality + the picture's difficulty (shared by all runs; in clusters of 10 half of its
variance is the cluster's) + method x picture + the seed's luck. The seed's luck is scaled so that
the accuracy of one method's runs, on endless pictures, has a standard deviation of 0, 1 or 2
points. 1,000 pictures, accuracy 85 %. Three kinds of pictures: "steady" (most are easy or hard for
everybody), "mixed", and "unlike" (methods find different pictures hard, runs change their minds).

equal   two methods of equal quality; asked for is 5 % called better or worse
power   one is better by 5 points; asked for is 80 % at 5 seeds and discordance of at most 25 %
metrics equal methods of 3 classes; the metrics that are linearised

Beside it stands McNemar's test of one run a side, which takes no notice of seeds.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from finetune.evaluation.crossed import compare_methods
from finetune.evaluation.influence import measure_moves
from finetune.evaluation.mcnemar import mcnemar
from finetune.evaluation.predictions import Predictions
from finetune.specs import LabelKind, LabelSpec

PICTURES, ACCURACY, BETTER = 1000, 0.85, 0.05
KINDS = {"steady": (2.5, 0.5), "mixed": (2.0, 1.0), "unlike": (1.5, 1.4)}
CLASSES = 3
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision", "log_loss")


@dataclass(frozen=True)
class Design:
    """What is compared, and how often."""

    part: str
    kind: str
    spread: float
    seeds: int
    cluster: int
    repetitions: int

    @property
    def clusters(self) -> np.ndarray:
        """(N,) the number of each picture's cluster."""
        return np.arange(PICTURES) // self.cluster


def main() -> None:
    """Run the benchmark."""
    options = parse()
    begun, rows = time.perf_counter(), []
    for design in designs(options.fast):
        if not options.only or {design.part, design.kind} & set(options.only):
            measure = measure_metrics if design.part == "metrics" else measure_accuracy
            rows += measure(design, np.random.default_rng([options.seed, *map(ord, str(design))]))
    result = {"seed": options.seed, "fast": options.fast, "rows": rows,
              "seconds": round(time.perf_counter() - begun)}
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    print(table(rows))
    print(f"\n{result['seconds']} s")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a fiftieth of the draws")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="equal, power, metrics; steady, mixed, "
                        "unlike; the numbers are those of the whole")
    parser.add_argument("--output", help="a JSON file with every row")
    return parser.parse_args()


def designs(fast: bool) -> Iterator[Design]:
    """All that is simulated."""
    share = 50 if fast else 1
    for kind in KINDS:
        for cluster in (1, 10):
            for spread in (0.0, 0.01, 0.02):
                for seeds in (3, 5):
                    yield Design("equal", kind, spread, seeds, cluster, 5000 // share)
                yield Design("power", kind, spread, 5, cluster, 2000 // share)
    for cluster in (1, 10):
        for spread in (0.0, 0.02):
            yield Design("metrics", "3 classes", spread, 3, cluster, 400 // share)


def measure_accuracy(design: Design, random: np.random.Generator) -> list[dict[str, Any]]:
    """A row: how often the first is called better, and worse."""
    gap = BETTER if design.part == "power" else 0.0
    quality, luck = calibrated(design, (ACCURACY, ACCURACY - gap))
    found, discordant, spread = [], [], []
    of = design.clusters
    for _ in range(design.repetitions):
        right = draw_right(design, quality, luck, random)
        first, second = right[0][0] > 0, right[1][0] > 0
        sides = [side.reshape(design.seeds, -1, design.cluster).mean(axis=2) for side in right]
        crossed = compare_methods(*sides)
        alone = mcnemar(first, second, None if design.cluster == 1 else of)
        found.append((called(crossed.value, crossed.p), called(first.mean() - second.mean(),
                                                               alone.p)))
        discordant.append(float((first != second).mean()))
        spread.append([side.mean(axis=1).var(ddof=1) for side in right])
    return [row(design, "accuracy", found, float(np.mean(discordant)),
                float(np.mean(spread)) ** 0.5)]


def called(value: float, p: float) -> int:
    """1 for better, -1 for worse, 0 for neither, at 5 %."""
    return int(np.sign(value)) * (p < 0.05)


def row(design: Design, metric: str, found: list[tuple[int, int]], discordant: float | None,
        spread: float | None) -> dict[str, Any]:
    """What was found of one design."""
    crossed, alone = np.array(found).T
    return {"part": design.part, "metric": metric, "kind": design.kind, "spread": design.spread,
            "seeds": design.seeds, "cluster": design.cluster, "draws": len(found),
            "discordance": discordant, "observed_spread": spread,
            "better": float(np.mean(crossed == 1)), "worse": float(np.mean(crossed == -1)),
            "one_run": float(np.mean(alone != 0))}


def calibrated(design: Design, accuracies: tuple[float, float]) -> tuple[list[float], float]:
    """Log-odds that give the accuracies, and the deviation of the seed's luck."""
    total = float(np.hypot(*KINDS[design.kind]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    weights = weights / weights.sum()

    def accuracy(level: float, spread: float) -> float:
        return float(weights @ expit(level + spread * nodes))

    def level(wanted: float, spread: float) -> float:
        return float(brentq(lambda at: accuracy(at, spread) - wanted, -20, 20))

    middle = expit(level(ACCURACY, total) + total * nodes)
    luck = design.spread / float(weights @ (middle * (1 - middle)))
    return [level(wanted, float(np.hypot(total, luck))) for wanted in accuracies], luck


def draw_right(design: Design, quality: list[float], luck: float,
               random: np.random.Generator) -> list[np.ndarray]:
    """For both methods (S, N) 0 and 1: which pictures each run gets right."""
    difficulty, own = KINDS[design.kind]
    shared = difficulty * of_pictures(design, random)
    found = []
    for level in quality:
        odds = (level + shared + own * of_pictures(design, random)
                + luck * random.normal(size=(design.seeds, 1)))
        found.append((random.random(odds.shape) < expit(odds)).astype(float))
    return found


def of_pictures(design: Design, random: np.random.Generator) -> np.ndarray:
    """(N,) standard normal numbers, half of whose variance is the cluster's where there are."""
    alone = random.normal(size=PICTURES)
    if design.cluster == 1:
        return alone
    return (alone + random.normal(size=PICTURES)[design.clusters]) / 2**0.5


def measure_metrics(design: Design, random: np.random.Generator) -> list[dict[str, Any]]:
    """A row for each metric of two equal methods that answer with probabilities."""
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in METRICS}
    clusters = None if design.cluster == 1 else design.clusters
    for _ in range(design.repetitions):
        sides = [[measure_moves(run, clusters) for run in side]
                 for side in draw_answers(design, random)]
        for name in METRICS:
            first, second = (np.array([run[name].value + len(run[name].moves) * run[name].moves
                                       for run in side]) for side in sides)
            crossed = compare_methods(first, second)
            alone = compare_methods(np.tile(first[0], (2, 1)), np.tile(second[0], (2, 1)))
            found[name].append((called(crossed.value, crossed.p), called(alone.value, alone.p)))
    return [row(design, name, calls, None, None) for name, calls in found.items()]


def draw_answers(design: Design, random: np.random.Generator) -> list[list[Predictions]]:
    """Two methods' runs: normal logits around the truth; classes 4 : 2 : 1.

    The seed's luck is in how far the truth stands out; 2 points are about 0.16 of it.
    """
    shares = np.array([4, 2, 1]) / 7
    labels = random.choice(CLASSES, PICTURES, p=shares)[design.clusters * design.cluster]
    names = tuple("abc")

    def noise() -> np.ndarray:
        return np.stack([of_pictures(design, random) for _ in range(CLASSES)], axis=1)

    shared, found = noise(), []
    for _ in range(2):
        own = noise()
        side = []
        for _ in range(design.seeds):
            signal = 2.2 + 8 * design.spread * random.normal()
            logits = (signal * np.eye(CLASSES)[labels] + 0.8 * shared + 0.4 * own
                      + 0.45 * random.normal(size=own.shape)) * 2
            side.append(Predictions(list(map(str, range(PICTURES))), labels,
                                    logits.astype(np.float32), LabelSpec(LabelKind.single, names)))
        found.append(side)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: shares of draws."""
    lines = ["| part | metric | pictures | spread of seeds | seeds | clusters of | discordance "
             "| called better | called worse | one run a side |", "|---" * 10 + "|"]
    for each in rows:
        discordant = "-" if each["discordance"] is None else f"{each['discordance']:.1%}"
        lines.append(f"| {each['part']} | {each['metric']} | {each['kind']} "
                     f"| {100 * each['spread']:g} points | {each['seeds']} | {each['cluster']} "
                     f"| {discordant} | {each['better']:.1%} | {each['worse']:.1%} "
                     f"| {each['one_run']:.1%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
