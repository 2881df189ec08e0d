"""What ``compare`` prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.console import say, table, warn
from finetune.errors import first_of

__all__ = ["print_comparison"]

MOST_CLASSES, MOST_PAIRS, NAMED = 20, 6, 5
FIRST = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "quadratic_kappa",
         "mean_absolute_error", "roc_auc", "average_precision", "log_loss", "brier", "ece")


def print_comparison(result: Mapping[str, Any], path: Path) -> None:
    """Print methods, verdicts, other metrics, classes, changed pictures, and what is flagged."""
    for note in result["notes"]:
        say(note)
    _print_methods(result)
    for pair in result["comparisons"][:MOST_PAIRS]:
        _print_pair(result, pair)
    rest = result["comparisons"][MOST_PAIRS:]
    for pair in rest:
        _say_verdict(result, pair)
    for flag in result["flags"]:
        warn(f"{flag['kind']}: {flag['text']}")
    say(f"wrote {path} and, as a page, comparison.html beside it")


def _print_methods(result: Mapping[str, Any]) -> None:
    metric = result["metric"]
    rows = []
    for row in result["methods"]:
        entry, cost = row["metrics"][metric], row["cost"]
        front = [word for word, key in (("time", "seconds"), ("parameters", "trained_parameters"),
                                        ("memory", "peak_memory_mb"))
                 if row["name"] in result["front"][key]]
        rows.append([row["name"], len(row["seeds"]), _number(entry["mean"], ".4f"), _between(entry),
                     _number(entry["std"], ".4f"), _number(cost["seconds"], ".0f"),
                     _number(cost["peak_memory_mb"], ".0f"),
                     _number(cost["trained_parameters"], ",.0f"), ", ".join(front)])
    units = "" if result["groups"] is None else f" in {result['groups']} groups"
    table(f"{result['part']} {metric}, {result['pictures']} pictures{units}",
          ["method", "seeds", metric, f"{100 * result['confidence']:g} % interval",
           "spread of seeds", "s of training", "MB", "trained parameters",
           "none better at its cost in"], rows)


def _print_pair(result: Mapping[str, Any], pair: Mapping[str, Any]) -> None:
    _say_verdict(result, pair)
    say(f"  {pair['sentence']}")
    for note in pair["notes"]:
        say(f"  {note}")
    metrics = pair["metrics"]
    names = [name for name in FIRST if name in metrics and name != result["metric"]]
    names += [name for name in metrics if name not in names and name != result["metric"]]
    table(f"{pair['first']} against {pair['second']}, other metrics",
          ["metric", "first", "second", "verdict", "p (Holm)"],
          [[name, *_row(metrics[name])] for name in names])
    _print_classes(result, pair)
    _print_changed(pair)


def _say_verdict(result: Mapping[str, Any], pair: Mapping[str, Any]) -> None:
    entry = pair["metrics"][result["metric"]]
    doubt = f" (≈ {entry['why']})" if entry["why"] else ""
    say(f"{pair['first']} against {pair['second']}, {result['metric']}: "
        f"{entry['verdict']['words']}; p {entry['p_holm']:.3g} ({entry['test']}"
        f"{', Holm' if entry['comparisons'] > 1 else ''}){doubt}")


def _row(entry: Mapping[str, Any]) -> list[Any]:
    words = entry["verdict"]["words"].partition("; about")[0]
    return [float(entry["first"]), float(entry["second"]),
            f"{words}{' ≈' if entry['why'] else ''}", f"{entry['p_holm']:.3g}"]


def _print_classes(result: Mapping[str, Any], pair: Mapping[str, Any]) -> None:
    """Recall of each class; the largest differences where there are many."""
    found = [(result["classes"][int(place)], entries["recall"])
             for place, entries in pair["per_class"].items() if "recall" in entries]
    found.sort(key=lambda row: -abs(row[1]["value"]))
    more = f", {MOST_CLASSES} of {len(found)} classes" if len(found) > MOST_CLASSES else ""
    table(f"{pair['first']} against {pair['second']}, recall of classes{more}",
          ["class", "first", "second", "verdict", "p (Holm)"],
          [[name, *_row(entry)] for name, entry in found[:MOST_CLASSES]])


def _print_changed(pair: Mapping[str, Any]) -> None:
    counts, pictures = pair["changed"]["counts"], pair["changed"]["pictures"]
    say(f"{counts['won']} pictures are won, {counts['lost']} lost, {counts['other']} answered "
        f"otherwise without that, {counts['unchanged']} unchanged")
    for change in ("won", "lost"):
        names = [row["id"] for row in pictures if row["change"] == change]
        if names:
            say(f"  {change}: {first_of(names, count=NAMED)}")


def _between(entry: Mapping[str, Any]) -> str:
    return "" if entry["low"] is None else f"{entry['low']:.4f} to {entry['high']:.4f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

