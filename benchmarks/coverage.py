"""How often intervals contain the truth: coverage of those that are not flagged, by simulation.

    python benchmarks/coverage.py [--fast] [--seed 0] [--only PART ...] [--output FILE]
    python benchmarks/coverage.py --only single --where classes=3 n=1000 cluster=20 --times 10
    python benchmarks/coverage.py --cost CLASSES PICTURES      (seconds and memory of one set)

Answers are drawn from known distributions, of independent pictures and of groups of 5 and 20; the
truth is the parameter itself or the metric of 200,000 pictures. A cell is a metric under one
condition in which most draws are not flagged: what is left of others is a selection (the few draws
with ten positives of a class have more of it than there are). Cells below 92 % are drawn again,
four times as often, and the new figure alone counts.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm

from finetune.evaluation.entries import proportion_entry, roc_entry
from finetune.evaluation.intervals import compute_intervals
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions
from finetune.specs import LabelKind, LabelSpec

WANTED = 0.92
OVERALL = ("accuracy", "top_5_accuracy", "balanced_accuracy", "macro_f1", "cohen_kappa", "mcc",
           "log_loss", "brier", "ece", "roc_auc", "average_precision", "per_class")
COUNTS = (50, 100, 300, 1000)
Draw = Callable[[np.random.Generator], dict[str, tuple[bool, bool]]]


@dataclass(frozen=True)
class Scenario:
    """A condition, and how to draw once: for each metric (not flagged, truth inside)."""

    part: str
    condition: dict[str, Any]
    draw: Draw
    repetitions: int


def main() -> None:
    """Run the benchmark."""
    options = parse()
    if options.cost:
        print(json.dumps(cost(*options.cost, options.seed)))
        return
    begun, cells = time.perf_counter(), []
    for scenario in scenarios(options.fast):
        if chosen(scenario, options):
            many = replace(scenario, repetitions=options.times * scenario.repetitions)
            cells += measure(many, options.seed)
    result = {"seed": options.seed, "fast": options.fast, "times": options.times, "cells": cells,
              "seconds": round(time.perf_counter() - begun)}
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    print(table(cells))
    below = [cell for cell in cells if cell["coverage"] is not None and cell["coverage"] < WANTED]
    print(f"\n{len(cells)} cells in {result['seconds']} s; below {WANTED:.0%}: {len(below)}")
    for cell in below:
        print(cell)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="a tenth of the draws and conditions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="proportion, area, single, several")
    parser.add_argument("--where", nargs="*", default=[], metavar="KEY=VALUE",
                        help="conditions alone, such as n=1000 cluster=20")
    parser.add_argument("--times", type=int, default=1, help="that many times as many draws")
    parser.add_argument("--output", help="a JSON file with every cell")
    parser.add_argument("--cost", nargs=2, type=int, metavar=("CLASSES", "PICTURES"),
                        help="draw no coverage: what all intervals of one set take")
    return parser.parse_args()


def chosen(scenario: Scenario, options: argparse.Namespace) -> bool:
    """Whether a scenario is asked for."""
    own = {f"{key}={value}" for key, value in scenario.condition.items()}
    return own >= set(options.where) and (not options.only or scenario.part in options.only)


def cost(classes: int, count: int, seed: int) -> dict[str, float]:
    """Seconds and MiB of all intervals of one set, beyond its float32 logits and the libraries."""
    import scipy.optimize  # noqa: F401  (before the first reading, as are those of the imports)
    from measuring import peak_rss_mib

    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = random.standard_normal((count, classes), dtype=np.float32)
    logits[np.arange(count), labels] += 3
    spec = LabelSpec(LabelKind.single, tuple(f"c{k}" for k in range(classes)))
    answers = Predictions([str(i) for i in range(count)], labels, logits, spec)
    before, begun = peak_rss_mib(), time.perf_counter()
    compute_intervals(answers, dict.fromkeys(OVERALL, 1.0))
    return {"classes": classes, "pictures": count,
            "seconds": round(time.perf_counter() - begun, 1), "before_mib": round(before),
            "extra_mib": round(peak_rss_mib() - before)}


def scenarios(fast: bool) -> Iterator[Scenario]:
    """All conditions; a few with ``fast``."""
    everything = [*proportions(), *areas(), *whole()]
    for scenario in everything[::13] if fast else everything:
        number = max(60, scenario.repetitions // 10) if fast else scenario.repetitions
        yield Scenario(scenario.part, scenario.condition, scenario.draw, number)


def measure(scenario: Scenario, seed: int) -> list[dict[str, Any]]:
    """Coverage of each metric of a scenario."""
    cells = repeat(scenario, scenario.repetitions, seed)
    doubtful = [c["coverage"] is not None and c["coverage"] < WANTED for c in cells]
    if any(doubtful):
        again = repeat(scenario, 4 * scenario.repetitions, seed + 1)
        names = {cell["metric"]: cell for cell in again}
        cells = [names.get(cell["metric"], cell) if doubt else cell
                 for cell, doubt in zip(cells, doubtful, strict=True)]
    return cells


def repeat(scenario: Scenario, repetitions: int, seed: int) -> list[dict[str, Any]]:
    """Coverage among the draws whose interval is not flagged."""
    random = np.random.default_rng([seed, *map(ord, str(scenario.condition))])
    found: dict[str, list[tuple[bool, bool]]] = {}
    for _ in range(repetitions):
        for name, pair in scenario.draw(random).items():
            found.setdefault(name, []).append(pair)
    cells = []
    for name, pairs in found.items():
        inside = [hit for reliable, hit in pairs if reliable]
        enough = len(inside) >= repetitions / 2
        cells.append({"part": scenario.part, "metric": name, **scenario.condition,
                      "repetitions": repetitions, "flagged": 1 - len(inside) / len(pairs),
                      "coverage": float(np.mean(inside)) if enough else None})
    return cells


def judged(entry: dict[str, Any], truth: float) -> tuple[bool, bool]:
    """(not flagged, truth inside); an interval that is not defined counts as flagged."""
    if entry["low"] is None:
        return False, False
    return entry["reliable"], entry["low"] - 1e-12 <= truth <= entry["high"] + 1e-12


def grouped(count: int, size: int) -> np.ndarray | None:
    """The number of each picture's group; ``None`` for groups of one."""
    return None if size == 1 else np.arange(count) // size


def proportions() -> Iterator[Scenario]:
    """Recall at several prevalences; beta-binomial groups whose pictures agree."""
    for count in COUNTS:
        for prevalence in (0.05, 0.2, 0.5, 1.0):
            for value in (0.6, 0.8, 0.9, 0.95, 0.98, 0.99):
                for size, alike in ((1, 0.0), (5, 0.2), (5, 0.5), (20, 0.2), (20, 0.5)):
                    condition = {"n": count, "prevalence": prevalence, "value": value,
                                 "cluster": size, "icc": alike}
                    if hopeful(count * prevalence, count, size):
                        yield Scenario("proportion", condition, recall_draw(**condition), 1000)


def hopeful(positives: float, count: int, size: int) -> bool:
    """Whether some draws are not flagged."""
    return positives >= 9 and count / size >= 20


def recall_draw(n: int, prevalence: float, value: float, cluster: int, icc: float) -> Draw:
    """Draws of a recall; with prevalence 1 an accuracy."""
    clusters = grouped(n, cluster)

    def draw(random: np.random.Generator) -> dict[str, tuple[bool, bool]]:
        chance = np.full(n, value)
        if clusters is not None:
            total = 1 / icc - 1
            chance = random.beta(value * total, (1 - value) * total, n // cluster)[clusters]
        hits, positive = random.random(n) < chance, random.random(n) < prevalence
        entry = proportion_entry(hits, positive, clusters)
        return {"accuracy" if prevalence == 1 else "recall": judged(entry, value)}

    return draw


def areas() -> Iterator[Scenario]:
    """Areas under the ROC curve of normal scores; groups share a part of it, and may be mixed."""
    for count in COUNTS:
        for prevalence in (0.05, 0.2, 0.5):
            for value in (0.7, 0.9, 0.98, 0.995):
                for size, alike in ((1, 0.0), (5, 0.2), (5, 0.5), (20, 0.2), (20, 0.5)):
                    for mixed in (True, False) if size > 1 else (True,):
                        condition = {"n": count, "prevalence": prevalence, "value": value,
                                     "cluster": size, "icc": alike, "mixed": mixed}
                        if hopeful(count * prevalence, count, size):
                            yield Scenario("area", condition, area_draw(**condition), 1000)


def area_draw(n: int, prevalence: float, value: float, cluster: int, icc: float,
              mixed: bool) -> Draw:
    """Draws of an area under the ROC curve."""
    clusters, distance = grouped(n, cluster), float(norm.ppf(value)) * 2**0.5

    def draw(random: np.random.Generator) -> dict[str, tuple[bool, bool]]:
        number = np.arange(n) if clusters is None else clusters
        truth = random.random(n) < prevalence
        if not mixed:
            truth = truth[number]
        shared = random.normal(size=n)[number] * icc**0.5
        scores = random.normal(size=n) * (1 - icc) ** 0.5 + shared + distance * truth
        return {"roc_auc": judged(roc_entry(truth.astype(float), scores, clusters), value)}

    return draw


def whole() -> Iterator[Scenario]:
    """All metrics of a set of answers: 2, 3 and 10 classes, and several labels."""
    kinds = [("single", 2, (1.0, 2.5)), ("single", 3, (1.5, 4.0)), ("single", 10, (3.0,)),
             ("several", 4, (2.0,))]
    for part, classes, signals in kinds:
        for signal in signals:
            for count, size in ((50, 1), (100, 1), (300, 1), (1000, 1), (300, 5), (1000, 20)):
                condition = {"classes": classes, "signal": signal, "n": count, "cluster": size,
                             "icc": 0.0 if size == 1 else 0.3}
                yield Scenario(part, condition, whole_draw(part, **condition), 400)


def whole_draw(part: str, classes: int, signal: float, n: int, cluster: int, icc: float,
               pictures: int = 200_000) -> Draw:
    """Draws of all metrics at once; the truth is that of many pictures."""
    source = Source(LabelKind.single if part == "single" else LabelKind.multi, classes, signal,
                    cluster, icc)
    truth: dict[str, float] = {}
    shape: dict[str, Any] = {}

    def draw(random: np.random.Generator) -> dict[str, tuple[bool, bool]]:
        if not truth:
            large = compute_metrics(source.predictions(np.random.default_rng(1), pictures))
            shape.update({k: v for k, v in large.items() if k not in ("groups", "positive")})
            truth.update(scalars(large))
        predictions = source.predictions(random, n)
        lacking = part == "single" and len(np.unique(predictions.labels)) < classes
        known = {**shape, "roc_auc": None} if lacking else shape
        found = scalars_of(compute_intervals(predictions, known, resamples=1000))
        return {name: judged(found[name], truth[name]) for name in truth if name in found}

    return draw


@dataclass(frozen=True)
class Source:
    """Normal logits around the truth: calibrated for equal classes, which these are nearly.

    Class shares fall from the first to the last by a factor of 4.
    """

    kind: LabelKind
    classes: int
    signal: float
    cluster: int
    icc: float

    def predictions(self, random: np.random.Generator, count: int) -> Predictions:
        """Answers for ``count`` pictures."""
        groups = grouped(count, self.cluster)
        number = np.arange(count) if groups is None else groups
        shares = 4.0 ** -np.linspace(0, 1, self.classes)
        shape = (count, self.classes)
        noise = (random.normal(size=shape)[number] * self.icc**0.5
                 + random.normal(size=shape) * (1 - self.icc) ** 0.5)
        if self.kind is LabelKind.single:
            labels = random.choice(self.classes, count, p=shares / shares.sum())
            values = noise + self.signal * np.eye(self.classes)[labels]
            logits = self.signal * values
        else:
            labels = (random.random(shape) < 0.4 * shares).astype(float)
            logits = self.signal * (noise + self.signal * (labels - 0.5))
            labels[random.random(shape) < 0.1] = np.nan
        names = tuple(f"class {i}" for i in range(self.classes))
        return Predictions(list(map(str, range(count))), labels, logits.astype(np.float32),
                           LabelSpec(self.kind, names),
                           None if groups is None else list(map(str, groups)))


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Overall metrics by name, and those of the first and last class."""
    found = {name: value for name, value in metrics.items() if isinstance(value, float)}
    return found | {name: value for name, value in of_classes(metrics) if name != "support"}


def scalars_of(intervals: dict[str, Any]) -> dict[str, Any]:
    """Entries by the same names."""
    found = {name: value for name, value in intervals.items()
             if isinstance(value, dict) and "low" in value}
    return found | dict(of_classes(intervals))


def of_classes(values: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """The numbers of the rarest class, which is the last."""
    rows = list(values["per_class"].values())
    return [(f"class {name}", value) for name, value in rows[-1].items() if name != "support"]


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown: coverage over the conditions of each metric, of pictures alone and of groups."""
    lines = ["| part | metric | cells | flagged | mean | lowest | cells in groups | flagged | mean "
             "| lowest |", "|---" * 10 + "|"]
    for part, metric in dict.fromkeys((cell["part"], cell["metric"]) for cell in cells):
        own = [cell for cell in cells if (cell["part"], cell["metric"]) == (part, metric)]
        sides = [summary([cell for cell in own if (cell["cluster"] > 1) is with_groups])
                 for with_groups in (False, True)]
        lines.append(f"| {part} | {metric} | {' | '.join(sides)} |")
    return "\n".join(lines)


def summary(cells: list[dict[str, Any]]) -> str:
    """Number of cells, share of draws flagged, mean and lowest coverage, as columns."""
    shown = [cell["coverage"] for cell in cells if cell["coverage"] is not None]
    flagged = f"{np.mean([cell['flagged'] for cell in cells]):.0%}" if cells else "-"
    covers = f"{np.mean(shown):.1%} | {min(shown):.1%}" if shown else "- | -"
    return f"{len(shown)} | {flagged} | {covers}"


if __name__ == "__main__":
    main()
