"""The page beside ``comparison.json``: verdicts, differences, costs, curves, changed pictures."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from finetune.data.decoding import decode_image, to_unit_range
from finetune.errors import DataError, InputError
from finetune.evaluation.verdicts import OWN_UNITS
from finetune.files import write_text
from finetune.report.comparison_charts import cost_charts, learning_charts
from finetune.report.drawing import metric_titles
from finetune.report.forest import Scale, draw_interval, draw_scale, scale_of, told
from finetune.report.page import Thumbnails, render_page

__all__ = ["write_comparison_page"]

ROOM = 1_700_000                   # characters of all thumbnails; the page stays below 3 MB
SIDE = 104                         # px of a thumbnail
MOST_VERDICTS, MOST_PAIRS = 60, 12  # pairs that are told; that are shown in detail
MOST_CLASSES, MOST_PICTURES = 240, 360  # rows and pictures of all pairs together
LEAST_CLASSES, OF_A_PAIR = 12, 120  # rows of a pair, in any case; pictures, at most
FIRST = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "quadratic_kappa",
         "mean_absolute_error", "roc_auc", "average_precision", "log_loss", "brier", "ece")
COSTS = {"seconds": "time", "trained_parameters": "parameters", "peak_memory_mb": "memory"}
DECIDED = ("better", "worse")


def write_comparison_page(result: Mapping[str, Any], folder: Path) -> Path:
    """Write ``comparison.html``; one file below 3 MB that asks nothing of any other machine.

    Changed pictures are shown where their files are still there, and named where not.

    Args:
        result: What ``comparison.json`` holds.
        folder: Where that lies.

    Returns:
        The file.
    """
    titles = metric_titles(single=result["label_kind"] != "multi")
    title = titles.get(result["metric"], result["metric"])
    pairs = _by_importance(result)
    thumbnails = Thumbnails(_read, room=ROOM)
    page = render_page(
        "comparison.html.jinja", style="comparison.css", result=result, titles=titles, title=title,
        points=result["metric"] not in OWN_UNITS, plot=_plot(result, pairs), pairs=pairs,
        details=[_detail(result, pair, titles, thumbnails) for pair in pairs[:MOST_PAIRS]],
        notes=[note for note in result["notes"] if not note.startswith("REHEARSALS")],
        hidden=len(result["comparisons"]) - len(pairs), sentences=_sentences(pairs),
        methods=[_method(result, row) for row in result["methods"]],
        shown=_ordered(result["methods"][0]["metrics"]),
        settings=list(dict.fromkeys(k for row in result["methods"] for k in row["settings"])),
        runs=[_run(row["name"], run, folder) for row in result["methods"] for run in row["runs"]],
        costs=cost_charts(result, title=title), curves=learning_charts(result, title=title),
        colours=10)
    return write_text(folder / "comparison.html", page)


def _by_importance(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All pairs in their order; of very many, those with a verdict come first."""
    pairs = list(result["comparisons"])
    if len(pairs) > MOST_VERDICTS:
        pairs.sort(key=lambda p: p["metrics"][result["metric"]]["verdict"]["kind"] not in DECIDED)
    return pairs[:MOST_VERDICTS]


def _sentences(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(text for pair in pairs for text in (pair["sentence"],
                                                                  *pair["notes"])))


def _ordered(metrics: Mapping[str, Any]) -> list[str]:
    return [name for name in FIRST if name in metrics] + [n for n in metrics if n not in FIRST]


def _plot(result: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The forest plot of all pairs."""
    if not pairs:
        return None
    metric = result["metric"]
    seconds = {pair["second"] for pair in pairs}
    rows = [(p["first"] if len(seconds) == 1 else f"{p['first']} against {p['second']}",
             p["metrics"][metric]) for p in pairs]
    return _forest(metric, rows) | {"against": seconds.pop() if len(seconds) == 1 else None}


def _forest(metric: str, named: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    scale: Scale = scale_of([entry for _, entry in named])
    rows = []
    for name, entry in named:
        value, between = told(metric, entry)
        rows.append({**entry, "name": name, "drawn": draw_interval(metric, entry, scale),
                     "told": value, "between": between})
    return {"rows": rows, "scale": draw_scale(metric, scale)}


def _method(result: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    fronts = [word for key, word in COSTS.items() if row["name"] in result["front"][key]]
    return {**row, "main": row["metrics"][result["metric"]], "fronts": fronts}


def _run(method: str, run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """With a link to its report, where that is."""
    report = Path(run["path"]) / "report.html"
    try:
        way = Path(os.path.relpath(report, folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return {**run, "method": method, "link": None}
    link = quote(os.fsencode(f"./{way}")) if report.is_file() else None
    return {**run, "method": method, "link": link}


def _detail(result: Mapping[str, Any], pair: Mapping[str, Any], titles: Mapping[str, str],
            thumbnails: Thumbnails) -> dict[str, Any]:
    """All that is shown of a pair."""
    shared = min(len(result["comparisons"]), MOST_PAIRS)
    changed = pair["changed"]
    chosen = _spread_out(changed["pictures"], min(OF_A_PAIR, MOST_PICTURES // shared))
    return {**pair, "in_short": _in_short(pair["metrics"][result["metric"]]),
            "rows": [_metric_row(name, titles.get(name, name), pair["metrics"][name])
                     for name in _ordered(pair["metrics"])],
            "doubts": _doubts(pair["metrics"].values()),
            "classes": _classes(result, pair, max(LEAST_CLASSES, MOST_CLASSES // shared)),
            "counts": changed["counts"], "changed_count": len(changed["pictures"]),
            "pictures": [_picture(result, row, thumbnails) for row in chosen]}


def _metric_row(name: str, title: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    value, between = told(name, entry)
    return {**entry, "title": title, "told": value, "between": between,
            "own_units": name in OWN_UNITS, "words": _in_short(entry)}


def _in_short(entry: Mapping[str, Any]) -> str:
    """The verdict without its interval, which stands beside it."""
    words = str(entry["verdict"]["words"])
    return words.partition(":" if entry["verdict"]["kind"] == "untold" else ",")[0]


def _doubts(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(entry["why"] for entry in entries if entry["why"]))


def _classes(result: Mapping[str, Any], pair: Mapping[str, Any],
             most: int) -> dict[str, Any] | None:
    """A forest plot of classes, by recall; of very many, the largest differences."""
    found = [(place, entries["recall"]) for place, entries in pair["per_class"].items()
             if "recall" in entries]
    if not found:
        return None
    total = len(found)
    if total > most:
        found = sorted(found, key=lambda row: -abs(row[1]["value"] or 0.0))[:most]
    names = [result["classes"][int(place)] for place, _ in found]
    plot = _forest("recall", list(zip(names, [entry for _, entry in found], strict=True)))
    counts = Counter((row["change"], row["label"]) for row in pair["changed"]["pictures"])
    for row in plot["rows"]:
        row |= {change: counts[change, row["name"]] for change in ("won", "lost")}
    return plot | {"total": total, "doubts": _doubts(plot["rows"])}


def _spread_out(pictures: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most so many: one of every change and label before any gets a second one."""
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in pictures:
        kinds.setdefault((row["change"], row["label"]), []).append(row)
    won_and_lost = [rows for (change, _), rows in kinds.items() if change != "other"]
    others = [rows for (change, _), rows in kinds.items() if change == "other"]
    kept = [*_in_turn(won_and_lost), *_in_turn(others)][:most]
    order = {"won": 0, "lost": 1, "other": 2}
    return sorted(kept, key=lambda row: order[row["change"]])


def _in_turn(kinds: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[Mapping[str, Any]]:
    for turn in zip_longest(*kinds):
        yield from (row for row in turn if row is not None)


def _picture(result: Mapping[str, Any], row: Mapping[str, Any],
             thumbnails: Thumbnails) -> dict[str, Any]:
    uri = thumbnails.uri(row["path"], side=SIDE, quality=75) if row["path"] else None
    return {"id": row["id"].encode("utf-8", "backslashreplace").decode(), "label": row["label"],
            "change": row["change"], "uri": uri,
            "classes": "\n".join(_labels_of(result, row["label"])),
            **{side: _answers(row[side]["answers"]) for side in ("first", "second")}}


def _labels_of(result: Mapping[str, Any], label: str) -> list[str]:
    """The classes of a picture; several are joined by commas."""
    if result["label_kind"] != "multi":
        return [label]
    return [name for name in result["classes"] if f", {name}, " in f", {label}, "] or [label]


def _answers(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Each answer, the commonest first, and of how many runs where they differ."""
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    total = sum(counts.values())
    return [(name, f"{count} of {total}" if len(ordered) > 1 else "") for name, count in ordered]


def _read(path: str) -> np.ndarray:
    """A picture as 8 bits, stretched from its darkest to its brightest value where it has more."""
    try:
        pixels = decode_image(path, at_least=(SIDE, SIDE)).pixels
    except InputError as error:  # a library that reads this format isn't here
        raise DataError(str(error)) from error
    if pixels.dtype == np.uint8:
        return pixels
    unit = to_unit_range(pixels, (float(pixels.min()), float(pixels.max())))
    return np.asarray((unit * 255).round().astype(np.uint8))
