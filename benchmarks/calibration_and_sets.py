"""Whether calibration does no harm and prediction sets cover what they promise, by simulation.

    python benchmarks/calibration_and_sets.py
    python benchmarks/calibration_and_sets.py --predictions runs/RUN/predictions/test.npz

Calibration: labels are drawn from the probabilities of calibrated logits; the network's logits are
these, miscalibrated as planted: times a temperature (1 = calibrated already) or with the classes'
frequencies taken out, as balanced training does. Kept calibrations are measured on 4,000 other
pictures: the fall of log loss, its least value over all rounds, and in how many rounds log loss
rose by more than its 95 % interval. Temperatures are of rounds in which one was kept.

Sets: `fit_decisions` as a run calls it (calibration, then sets at level 90), on resplits of one set
of predictions into calibration and test pictures, groups whole. Coverage is the mean over resplits
of what the level promises (each group counts alike), with the 5 % quantile of single resplits, and
the mean number of classes in a set.

With --predictions the sets are resplits of a real run's predictions, and the logits of the
calibration part are that run's, times the planted temperatures, beside the simulation.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measuring
import numpy as np

FACTORS = (0.5, 1.0, 1.3, 2.0)
PRIOR = np.array([0.7, 0.2, 0.07, 0.03])
TEST = 4000
LEVEL = 0.9


def main() -> None:
    """Simulate, print two tables, write JSON."""
    options = parse()
    calibration = [row for plan in calibration_plans(options) for row in [calibrated(*plan)]]
    sets = [covered(*plan) for plan in set_plans(options)]
    result = {"machine": measuring.describe_machine(("numpy", "scipy")), "rounds": options.rounds,
              "resplits": options.resplits, "calibration": calibration, "sets": sets}
    measuring.report(options, result, tables(calibration, sets))


def parse() -> argparse.Namespace:
    """The options."""
    parser = measuring.parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="seeds of each calibration")
    parser.add_argument("--resplits", type=int, default=200, help="of each set of predictions")
    parser.add_argument("--predictions", type=Path, help=".npz of a run's predictions")
    parser.add_argument("--output", dest="json", type=Path, help="the same as --json")
    parser.add_argument("--fast", action="store_true", help="3 rounds, 10 resplits, fewer plans")
    options = parser.parse_args()
    if options.fast:
        options.rounds, options.resplits = 3, 10
    return options


Draw = Callable[[int, int, int], tuple[Any, Any]]


def calibration_plans(options: argparse.Namespace) -> Iterator[tuple[str, str, Draw, int, int]]:
    """(what is planted, kind, source of val and test, val pictures, rounds)."""
    sizes = (100,) if options.fast else (60, 100, 200, 400, 1000)
    for size in sizes:
        for factor in FACTORS:
            for kind in ("temperature", "bias_corrected", "vector"):
                yield f"x {factor:g}", kind, simulated(factor), size, options.rounds
        for kind in ("temperature", "bias_corrected"):
            yield "balanced", kind, simulated(None), size, options.rounds
        for factor in FACTORS:
            yield f"x {factor:g}", "per_label", simulated_labels(factor), size, options.rounds
        if options.predictions:
            for factor in FACTORS:
                yield (f"run x {factor:g}", "temperature", resplit(options.predictions, factor),
                       size, options.rounds)


def simulated(factor: float | None) -> Draw:
    """Four classes; logits times a factor, or without the classes' frequencies."""
    def draw(val: int, test: int, seed: int) -> tuple[Any, Any]:
        prior = np.full(4, 0.25) if factor else PRIOR
        logits, labels = draw_classes(val + test, prior, 3.0, seed)
        logits = logits * factor if factor else logits - np.log(prior)
        return (logits[:val], labels[:val]), (logits[val:], labels[val:])

    return draw


def draw_classes(count: int, prior: Any, sharp: float, seed: int) -> tuple[Any, Any]:
    """Calibrated logits (N, K), and labels drawn from their softmax."""
    from finetune.evaluation.calibration import to_probabilities

    random, width = np.random.default_rng(seed), len(prior)
    centres = random.choice(width, count, p=prior)
    logits = random.normal(size=(count, width)) + sharp * np.eye(width)[centres] + np.log(prior)
    below = to_probabilities(logits).cumsum(axis=1) < random.random((count, 1))
    return logits, below.sum(axis=1).clip(max=width - 1)


def simulated_labels(factor: float) -> Draw:
    """Three labels, of which one picture in five is unknown."""
    def draw(val: int, test: int, seed: int) -> tuple[Any, Any]:
        random = np.random.default_rng(seed)
        logits = 2 * random.normal(size=(val + test, 3)) + [0, -1, -2]
        labels = (random.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
        labels[random.random(labels.shape) < 0.2] = np.nan
        return (factor * logits[:val], labels[:val]), (factor * logits[val:], labels[val:])

    return draw


def resplit(path: Path, factor: float) -> Draw:
    """Pictures of a run, first groups first in random order."""
    from finetune.evaluation.predictions import Predictions

    found = Predictions.load(path)

    def draw(val: int, test: int, seed: int) -> tuple[Any, Any]:
        order = shuffled(found.groups, len(found), seed)
        logits, labels = factor * found.logits[order], found.labels[order]
        return (logits[:val], labels[:val]), (logits[val:], labels[val:])

    return draw


def shuffled(groups: Any, count: int, seed: int) -> Any:
    """Rows by group in random order."""
    from finetune.evaluation.shares import group_numbers

    units = group_numbers(groups, count)
    places = np.random.default_rng(seed).permutation(units.max() + 1)[units]
    return np.argsort(places, kind="stable")


def calibrated(planted: str, kind: str, draw: Draw, size: int, rounds: int) -> dict[str, Any]:
    """Gains of log loss on test pictures over rounds."""
    from finetune.evaluation.calibration import fit_calibration, log_losses
    from finetune.evaluation.shares import mean_and_error

    kept, gains, worse, temperatures = 0, [], 0, []
    for seed in range(rounds):
        (logits, labels), (others, truth) = draw(size, TEST, seed)
        fitted, _ = fit_calibration(logits, labels, kind=kind, seed=seed)
        falls = log_losses(others, truth) - log_losses(fitted.apply(others), truth)
        gain, error = mean_and_error(falls[~np.isnan(falls)])
        kept, worse = kept + fitted.kept, worse + (gain < -1.96 * error)
        gains.append(gain)
        temperatures += [fitted.temperature] if fitted.temperature else []
    return {"planted": planted, "kind": kind, "val": size, "kept": kept / rounds,
            "temperature": float(np.mean(temperatures)) if temperatures else None,
            "gain": float(np.mean(gains)), "least_gain": float(min(gains)), "worse": int(worse),
            "rounds": rounds}


def set_plans(options: argparse.Namespace) -> Iterator[tuple[str, Any, int, dict[str, Any], int]]:
    """(name, predictions, calibration pictures, settings, resplits)."""
    sources = {"10 classes": one_set(3.2, 10), "4 classes": one_set(6.5, 4),
               "10 classes, groups of 1 to 8": one_set(3.2, 10, grouped=True)}
    if options.predictions:
        from finetune.evaluation.predictions import Predictions

        sources["the run"] = Predictions.load(options.predictions)
    ways = {"aps": {}, "aps, randomised": {"sets_randomised": True}, "lac": {"set_method": "lac"},
            "lac, each class": {"set_method": "lac", "sets_by_class": True}}
    for source, predictions in sources.items():
        right = (predictions.logits.argmax(axis=1) == predictions.labels).mean()
        several = predictions.groups is not None
        for size in (300,) if options.fast else (150, 390, 1000):
            for way, settings in ways.items():
                yield (f"{source}, {right:.0%} right | {way}", predictions,
                       size * (4 if several else 1), settings, options.resplits)


def one_set(sharp: float, classes: int, *, grouped: bool = False) -> Any:
    """8,000 overconfident predictions; pictures of a group are shifted alike."""
    from finetune.evaluation.predictions import Predictions
    from finetune.specs import LabelKind, LabelSpec

    random = np.random.default_rng(1)
    logits, labels = draw_classes(8000, np.full(classes, 1 / classes), sharp, 0)
    groups = np.repeat(np.arange(8000), random.integers(1, 9, 8000))[:8000] if grouped else None
    if groups is not None:  # a group's pictures are alike: right together, wrong together
        logits = logits + 2 * random.normal(size=(8000, classes))[groups]
    spec = LabelSpec(LabelKind.single, tuple(map(str, range(classes))))
    names = None if groups is None else [str(g) for g in groups]
    return Predictions([str(i) for i in range(8000)], labels, 1.6 * logits, spec, names)


def covered(name: str, predictions: Any, size: int, settings: dict[str, Any],
            resplits: int) -> dict[str, Any]:
    """Coverage and sizes over resplits."""
    from finetune.evaluation.calibration import to_probabilities
    from finetune.evaluation.decisions import DecisionSettings, fit_decisions, part_of

    found = []
    for seed in range(resplits):
        order = shuffled(predictions.groups, len(predictions), seed)
        val, test = part_of(predictions, order[:size]), part_of(predictions, order[size:])
        fitted = fit_decisions(val, settings=DecisionSettings(set_level=LEVEL, **settings),
                               biased_training=False, seed=seed)
        if fitted.sets is not None and not fitted.sets.refused:
            odds = to_probabilities(fitted.calibration.apply(test.logits))
            found.append(fitted.sets.measure(test.labels, odds, test.groups, seed=seed)
                         | {"count": fitted.sets.count})
    row: dict[str, Any] = {"name": name, "val": size, "resplits": len(found)}
    if found:
        coverages = [one["group_coverage"] for one in found]
        row |= {"count": float(np.mean([one["count"] for one in found])),
                "coverage": float(np.mean(coverages)),
                "error": float(np.std(coverages) / np.sqrt(len(coverages))),
                "low": float(np.quantile(coverages, 0.05)),
                "size": float(np.mean([one["mean_size"] for one in found])),
                "empty": float(np.mean([one["empty"]["value"] for one in found]))}
    return row


def tables(calibration: list[dict[str, Any]], sets: list[dict[str, Any]]) -> str:
    """Both as markdown, and what they come to."""
    first = measuring.markdown(
        ["planted", "kind", "val", "kept", "temperature", "mean gain", "least gain",
         "worse beyond 95 %"],
        [[row["planted"], row["kind"], row["val"], f"{row['kept']:.0%}", shown(row["temperature"]),
          f"{row['gain']:.4f}", f"{row['least_gain']:.4f}", f"{row['worse']} of {row['rounds']}"]
         for row in calibration])
    second = measuring.markdown(
        ["predictions", "sets", "val", "calibrated on", "coverage", "5 % of resplits below",
         "mean size", "empty"],
        [[*row["name"].split(" | "), row["val"], *shown_set(row)] for row in sets])
    worse, rounds = (sum(row[key] for row in calibration) for key in ("worse", "rounds"))
    least = min((row["coverage"] for row in sets if row["resplits"]), default=float("nan"))
    return (f"{first}\n{second}\nlog loss rose beyond its interval in {worse} of {rounds} rounds; "
            f"least mean coverage {least:.4f} at level {LEVEL:g}\n")


def shown_set(row: dict[str, Any]) -> list[str]:
    """What a row of the second table says of its resplits."""
    if not row["resplits"]:
        return ["refused", "", "", "", ""]
    return [f"{row['count']:.0f}", f"{row['coverage']:.4f}", f"{row['low']:.3f}",
            f"{row['size']:.2f}", f"{row['empty']:.3f}"]


def shown(value: float | None) -> str:
    """Two digits, or nothing."""
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
