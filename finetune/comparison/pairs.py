"""Two methods on the same pictures: every metric, every class, and which pictures changed.

One run a side says which of two models is better; several say which of two methods.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from finetune.comparison.runs import ComparedRun, Method
from finetune.evaluation.crossed import Components, CrossedDifference, compare_methods
from finetune.evaluation.delong import compare_areas
from finetune.evaluation.doubts import difference_doubts
from finetune.evaluation.influence import measure_moves, one_hot
from finetune.evaluation.intervals import compute_intervals
from finetune.evaluation.mcnemar import mcnemar
from finetune.evaluation.paired import (
    PairedDifference,
    class_of,
    cluster_shares,
    compare_runs,
    right_answers,
    telling_number,
)
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.summed import Moved, class_key
from finetune.evaluation.verdicts import within_range

__all__ = ["RETRAINING", "MeasuredMethod", "changed_pictures", "compare_pair", "measure_method",
           "method_entry", "run_intervals"]

RETRAINING = ("One run a side: this compares these two models, not their methods. Retraining may "
              "reverse it; train each with several seeds to compare the methods.")


@dataclass(frozen=True)
class MeasuredMethod:
    """A method, and what its runs' metrics are moved by.

    Attributes:
        method: Name and runs.
        moves: For each run its metrics.
        clusters: (N,) numbers of groups; ``None`` without.
    """

    method: Method
    moves: list[dict[str, Moved]]
    clusters: np.ndarray | None

    def units(self, metric: str) -> int:
        """How many pictures (groups) tell of it: of a class's those with pictures of the class."""
        shares = self._shares
        return int(np.count_nonzero(shares.get(class_of(metric), shares[""])))

    @cached_property
    def _shares(self) -> dict[str, np.ndarray]:
        return cluster_shares(self.answers[0], self.clusters)

    @property
    def answers(self) -> list[Predictions]:
        """Of each run."""
        return [run.predictions for run in self.method.runs]

    def scores(self, metric: str) -> np.ndarray:
        """(S, C) whose mean over a row is the run's metric."""
        return np.array([each[metric].value + len(each[metric].moves) * each[metric].moves
                         for each in self.moves])

    def mean_moves(self, metric: str) -> np.ndarray:
        """(C,) over the runs."""
        return np.asarray(np.mean([each[metric].moves for each in self.moves], axis=0))

    def has(self, metric: str) -> bool:
        """Whether it is defined for every run."""
        return all(metric in each for each in self.moves)


def measure_method(method: Method, clusters: np.ndarray | None) -> MeasuredMethod:
    """What comparisons of a method need, computed once."""
    return MeasuredMethod(method, [measure_moves(run.predictions, clusters)
                                   for run in method.runs], clusters)


def method_entry(measured: MeasuredMethod, metric: str, confidence: float,
                 own: Mapping[str, Any]) -> dict[str, Any]:
    """A metric of a method: mean, spread over seeds, the values, and its interval.

    Of several seeds the interval is over seeds and pictures; of one run, or where nothing varies,
    over pictures, as ``own``, the first run's intervals (`run_intervals`), has it.
    """
    values = [each[metric].value if metric in each else None for each in measured.moves]
    defined = [value for value in values if value is not None]
    entry: dict[str, Any] = {"mean": None, "std": None, "values": values, "low": None, "high": None}
    if len(defined) < len(values):
        return entry
    entry["mean"] = float(np.mean(defined))
    if len(values) > 1:
        entry["std"] = float(np.std(defined, ddof=1))
        scores = measured.scores(metric)
        alone = compare_methods(scores, np.zeros((2, scores.shape[1])),
                                units=measured.units(metric), confidence=confidence)
        if alone.error > 0:
            low, high = within_range(metric, alone.low, alone.high)
            return entry | {"low": low, "high": high}
    ends = own.get(metric) or {}
    return entry | {"low": ends.get("low"), "high": ends.get("high")}


def run_intervals(run: ComparedRun, confidence: float) -> dict[str, Any]:
    """A run's intervals by metric, those of classes too; computed anew unless at 95 %."""
    stored = run.metrics.get("intervals", {}).get(run.part)
    if stored is None or stored.get("confidence") != confidence:
        stored = compute_intervals(run.predictions, run.metrics[run.part], confidence=confidence)
    classes = run.predictions.label_spec.class_names
    return {**stored, **{class_key(name, place): entry for place, word in enumerate(classes)
                         for name, entry in stored.get("per_class", {}).get(word, {}).items()}}


def compare_pair(first: MeasuredMethod, second: MeasuredMethod, *,
                 confidence: float = 0.95) -> dict[str, Any]:
    """The first less the second: ``kind``, ``sentence``, ``differences``, ``tests``, ``notes``.

    ``differences`` has an entry for each metric that both have, those of a class under
    `finetune.evaluation.summed.class_key`.
    """
    runs = len(first.moves), len(second.moves)
    if runs == (1, 1):
        found: Mapping[str, Any] = compare_runs(first.answers[0], second.answers[0],
                                                first.clusters, confidence=confidence)
        entries = {name: _possible(name, _of_runs(value)) for name, value in found.items()}
        return {"kind": "runs", "runs": runs, "sentence": RETRAINING, "notes": [],
                "differences": _doubted(entries, first, dict.fromkeys(entries, np.inf)),
                "tests": _tests(first, second)}
    names = [name for name in first.moves[0] if first.has(name) and second.has(name)]
    entries = {name: _possible(name, _of_methods(compare_methods(
        first.scores(name), second.scores(name), units=first.units(name),
        confidence=confidence))) for name in names}
    telling = {name: telling_number(first.mean_moves(name) - second.mean_moves(name))
               for name in names}
    notes = [f"{side.method.name} has one run: its seeds are taken to spread as the other's"
             for side in (first, second) if len(side.moves) == 1]
    sentence = (f"Methods: {runs[0]} and {runs[1]} seeds; the interval is over new seeds and new "
                "pictures, with the same training pictures.")
    return {"kind": "methods", "runs": runs, "sentence": sentence, "notes": notes,
            "differences": _doubted(entries, first, telling), "tests": {}}


def _of_runs(found: PairedDifference) -> dict[str, Any]:
    freedom = float(max(found.clusters - 1, 1))
    return {**asdict(found), "freedom": freedom, "components": asdict(Components(
        (0.0, 0.0), found.error**2 * found.clusters, (0.0, 0.0)))}


def _of_methods(found: CrossedDifference) -> dict[str, Any]:
    values = asdict(found)
    del values["runs"]
    return {**values, "method": "crossed, satterthwaite", "test": "crossed, satterthwaite"}


def _possible(metric: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Its interval within what a difference of two such metrics can be."""
    low, high = within_range(metric, entry["low"], entry["high"], difference=True)
    return {**entry, "low": low, "high": high}


def _doubted(entries: dict[str, dict[str, Any]], side: MeasuredMethod,
             telling: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    for name, why in difference_doubts(side.answers[0], side.clusters, telling).items():
        entries[name] |= {"reliable": not why, "why": "; ".join(why) or None}
    return entries


def _tests(first: MeasuredMethod, second: MeasuredMethod) -> dict[str, Any]:
    """McNemar's and DeLong's test of two runs."""
    one, two = first.answers[0], second.answers[0]
    right = mcnemar(right_answers(one), right_answers(two), first.clusters)
    areas = compare_areas(one_hot(one), one.probabilities, two.probabilities, first.clusters)
    return {"mcnemar": asdict(right), "delong": None if areas is None else asdict(areas)}


def changed_pictures(first: Method, second: Method) -> dict[str, Any]:
    """Pictures that the methods answer differently, those won and lost most surely first.

    ``counts``: ``won`` (the first is right more often), ``lost``, ``other`` (equally often, with
    other answers), ``unchanged``. ``pictures`` has all but the unchanged: ``id``, ``path``
    (where the picture is still there),
    ``label``, ``change``, and of each side ``right``, the share of runs, and ``answers``, how many
    runs gave each.
    """
    given = first.runs[0].predictions
    sides = [[(_words(run.predictions), right_answers(run.predictions)) for run in method.runs]
             for method in (first, second)]
    shares = [np.mean([right for _, right in side], axis=0) for side in sides]
    labels, folder = _labels(given), _picture_folder(first)
    rows: list[dict[str, Any]] = []
    unchanged = 0
    for place, name in enumerate(given.ids):
        answers = [Counter(words[place] for words, _ in side) for side in sides]
        gain = float(shares[0][place] - shares[1][place])
        if not gain and set(answers[0]) == set(answers[1]):
            unchanged += 1
            continue
        change = "won" if gain > 0 else "lost" if gain < 0 else "other"
        rows.append({
            "id": name, "path": str(folder / name) if (folder / name).is_file() else None,
            "label": labels[place], "change": change,
            "first": {"right": float(shares[0][place]), "answers": dict(answers[0])},
            "second": {"right": float(shares[1][place]), "answers": dict(answers[1])}})
    rows.sort(key=lambda row: -abs(row["first"]["right"] - row["second"]["right"]))
    counts = Counter(row["change"] for row in rows)
    return {"counts": {**{k: counts.get(k, 0) for k in ("won", "lost", "other")},
                       "unchanged": unchanged}, "pictures": rows}


def _picture_folder(method: Method) -> Path:
    """Where the names of pictures start."""
    run = method.runs[0]
    root = run.settings.get("data.root")
    if root is None:
        return run.path / "pictures"
    return Path(root).parent if Path(root).is_file() else Path(root)


def _words(given: Predictions) -> list[str]:
    names = given.label_spec.class_names
    if given.label_spec.is_exclusive:
        return [names[i] for i in given.probabilities.argmax(axis=1)]
    return [_joined(names, row) for row in given.probabilities >= 0.5]


def _labels(given: Predictions) -> list[str]:
    names = given.label_spec.class_names
    if given.label_spec.is_exclusive:
        return [names[i] for i in given.labels]
    return [_joined(names, row == 1) for row in given.labels]


def _joined(names: Sequence[str], row: np.ndarray) -> str:
    return ", ".join(name for name, yes in zip(names, row, strict=True) if yes) or "none"
