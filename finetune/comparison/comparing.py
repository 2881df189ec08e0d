"""``compare RUN RUN ...``: which method, or model, is better, and whether the difference is real.

From run directories alone: answers, metrics, settings, environment, history. Nothing is trained.
"""

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from finetune.comparison.facts import find_flags, pareto_front, run_cost, run_curve
from finetune.comparison.pairs import (
    MeasuredMethod,
    changed_pictures,
    compare_pair,
    measure_method,
    method_entry,
    run_intervals,
)
from finetune.comparison.runs import (
    ComparedRun,
    Member,
    Method,
    check_comparable,
    group_methods,
    list_members,
    read_runs,
)
from finetune.comparison.table import print_comparison
from finetune.errors import ConfigurationError, InputError, did_you_mean
from finetune.evaluation.crossed import Components
from finetune.evaluation.influence import cluster_numbers
from finetune.evaluation.selection import SELECT_METRICS, higher_is_better
from finetune.evaluation.subgroups import holm
from finetune.evaluation.summed import class_key
from finetune.evaluation.verdicts import Needed, Verdict, as_gain, evidence_needed, judge
from finetune.files import read_json, write_json
from finetune.report.comparison_page import write_comparison_page
from finetune.run_directory import STUDY

__all__ = ["SCHEMA", "compare"]

SCHEMA = 1
OF_CLASSES = ("recall", "precision", "f1", "roc_auc", "average_precision")


def compare(paths: Sequence[str], *, metric: str | None = None, output: Path | None = None,
            reference: str | None = None, confidence: float = 0.95) -> Path:
    """Compare runs, print verdicts, write ``comparison.json`` and the page ``comparison.html``.

    docs/comparing.md has the schema.

    Args:
        paths: Runs, studies, or folders with runs.
        metric: By which the verdict is; None: that which chose the epochs.
        output: Folder of the file; None: a new ``comparison-TIME`` in the folder of the first run,
            or in the study or folder given.
        reference: A run's folder or a method's name that all others are compared with; None: in a
            study its own reference against the best other arm on validation, else all pairs.
        confidence: Of all intervals; between 0.5 and 1.

    Returns:
        The file; the page lies beside it.

    Raises:
        InputError: What is given can't be compared; nothing was written.
    """
    if not 0.5 < confidence < 1:
        raise ConfigurationError(f"--confidence {confidence:g}: expected a number between 0.5 and "
                                 "1, such as 0.95")
    members, notes = _members(paths)
    runs = read_runs(members)
    check_comparable(runs)
    methods, left_out = group_methods(runs)
    if sum(len(method.runs) for method in methods) < 2:
        raise InputError(f"{'; '.join(left_out)}: one run only is left; compare needs two or more")
    result = _plain(_compare(methods, paths, metric, reference, confidence, [*notes, *left_out]))
    path = write_json((output or _new_folder(Path(paths[0]).expanduser())) / "comparison.json",
                      result)
    write_comparison_page(result, path.parent)
    print_comparison(result, path)
    return path


def _members(paths: Sequence[str]) -> tuple[list[Member], list[str]]:
    """All runs, each once, and what was left out."""
    found: dict[Path, Member] = {}
    notes = []
    for text in paths:
        members, told = list_members(Path(text).expanduser())
        notes += told
        for member in members:
            if member.path.resolve() in found:
                notes.append(f"{member.path} is given twice; it counts once")
            found.setdefault(member.path.resolve(), member)
    return list(found.values()), notes


def _new_folder(first: Path) -> Path:
    around = first.resolve().parent if (first / "config.yaml").is_file() else first
    return around / f"comparison-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _compare(methods: list[Method], paths: Sequence[str], metric: str | None,
             reference: str | None, confidence: float, notes: list[str]) -> dict[str, Any]:
    """Everything that is known, as ``comparison.json`` has it."""
    answers = methods[0].runs[0].predictions
    clusters = cluster_numbers(answers.groups)
    if (len(answers) if clusters is None else int(clusters.max()) + 1) < 2:
        unit = "picture" if clusters is None else "group"
        raise InputError(f"{methods[0].runs[0].path}: its {methods[0].runs[0].part} part is one "
                         f"{unit}, which tells nothing of others; compare needs two or more")
    measured = [measure_method(method, clusters) for method in methods]
    chosen = _metric(measured, metric)
    pairs, why = _pairs(methods, paths, reference)
    found = [_pair(measured[i], measured[j], confidence) for i, j in pairs]
    _correct(found)
    for pair in found:
        _judge(pair, len(found), confidence, len(answers))
    rows = [_method_row(each, chosen, confidence) for each in measured]
    names = answers.label_spec.class_names
    quality = {row["name"]: None if row["metrics"][chosen]["mean"] is None
               else as_gain(chosen, row["metrics"][chosen]["mean"]) for row in rows}
    return {
        "schema": SCHEMA, "confidence": confidence, "metric": chosen,
        "higher_is_better": higher_is_better(chosen), "part": methods[0].runs[0].part,
        "label_kind": answers.label_spec.kind.value, "classes": list(names),
        "pictures": len(answers),
        "groups": None if clusters is None else int(clusters.max()) + 1,
        "rehearsal": methods[0].runs[0].is_rehearsal,
        "notes": [*notes, *why, *_part_notes(methods)], "flags": find_flags(methods),
        "methods": rows, "comparisons": found,
        "front": {cost: pareto_front(quality, {row["name"]: row["cost"][cost] for row in rows})
                  for cost in ("seconds", "trained_parameters", "peak_memory_mb")}}


def _metric(measured: Sequence[MeasuredMethod], wanted: str | None) -> str:
    """The metric of the verdict.

    Raises:
        ConfigurationError: It is not one that all runs have.
    """
    shared = [name for name in SELECT_METRICS if all(each.has(name) for each in measured)]
    first = measured[0].method.runs[0]
    name = wanted or first.metrics.get("selection", {}).get("metric") or "balanced_accuracy"
    if name not in shared:
        raise ConfigurationError(f"--metric {name}: not a metric that all of these runs have"
                                 f"{did_you_mean(name, shared)}; they have {', '.join(shared)}")
    return str(name)


def _pairs(methods: Sequence[Method], paths: Sequence[str],
           reference: str | None) -> tuple[list[tuple[int, int]], list[str]]:
    """Which is compared with which, the second being the reference; and why so."""
    everything = range(len(methods))
    if reference is not None:
        place = _place_of(methods, reference)
        return [(i, place) for i in everything if i != place], []
    study = _study_choice(paths)
    names = [method.name for method in methods]
    if study and study[1] in names:
        chosen, against, beside = study
        place = names.index(against)
        if chosen in names:
            return [(names.index(chosen), place)], [
                f"{chosen} is the best arm on validation{beside}; it alone is compared with "
                f"{against}, the reference. --reference NAME compares all with one"]
        return [(i, place) for i in everything if i != place], [
            f"{against}, the study's reference, is compared with all: no arm was chosen"]
    return [(j, i) for i, j in combinations(everything, 2)], []


def _place_of(methods: Sequence[Method], reference: str) -> int:
    folder = Path(reference).expanduser().resolve()
    for place, method in enumerate(methods):
        runs = method.runs
        if method.name == reference or any(run.path.resolve() == folder or run.name == reference
                                           for run in runs):
            return place
    names = [method.name for method in methods]
    raise ConfigurationError(f"--reference {reference}: neither one of the runs nor a method"
                             f"{did_you_mean(reference, names)}; methods are {'; '.join(names)}")


def _study_choice(paths: Sequence[str]) -> tuple[str, str, str] | None:
    """The best arm on validation beside the reference, the reference, and words for "beside".

    Nothing where several things are given.
    """
    path = Path(paths[0]).expanduser() / STUDY
    if len(paths) > 1 or not path.is_file():
        return None
    study = read_json(path)
    chosen, reference = study.get("chosen"), study.get("reference")
    if chosen != reference or not reference:
        return (chosen, reference, "") if chosen and reference else None
    others = [arm for arm in study.get("arms", []) if arm["name"] != reference and arm.get("rank")]
    best = min(others, key=lambda arm: arm["rank"], default={"name": ""})
    return best["name"], reference, ", after the reference"


def _part_notes(methods: Sequence[Method]) -> list[str]:
    runs = [run for method in methods for run in method.runs]
    notes = []
    if runs[0].part == "val":
        notes.append("no run has a test part: these are validation pictures, which also chose the "
                     "epochs, so that all values are too good")
    if runs[0].is_rehearsal:
        notes.append("REHEARSALS on generated pictures: nothing here says anything of real data")
    if any(run.predictions.groups != runs[0].predictions.groups for run in runs):
        notes.append(f"the runs have different groups; those of {runs[0].path} are used")
    if len(methods) == 1:
        notes.append("all runs are of one method: there is nothing to compare it with, only its "
                     "spread over seeds is told")
    return notes


def _method_row(measured: MeasuredMethod, metric: str, confidence: float) -> dict[str, Any]:
    """A method: its metrics, those of its classes, its runs, and what they cost in the mean."""
    method = measured.method
    names = dict.fromkeys(name for each in measured.moves for name in each)
    own = run_intervals(method.runs[0], confidence)
    entries = {name: method_entry(measured, name, confidence, own) for name in names}
    classes = method.runs[0].predictions.label_spec.class_names
    costs = [run_cost(run) for run in method.runs]
    return {
        "name": method.name, "settings": method.settings,
        "seeds": [run.seed for run in method.runs],
        "metrics": {name: entry for name, entry in entries.items() if "[" not in name},
        "per_class": {word: {name: entries[class_key(name, place)] for name in OF_CLASSES
                             if class_key(name, place) in entries}
                      for place, word in enumerate(classes)},
        "cost": {key: _mean([cost[key] for cost in costs]) for key in costs[0]},
        "runs": [_run_row(run, metric, cost) for run, cost in zip(method.runs, costs, strict=True)]}


def _run_row(run: ComparedRun, metric: str, cost: dict[str, Any]) -> dict[str, Any]:
    environment = run.environment
    return {"name": run.name, "path": str(run.path.resolve()), "seed": run.seed,
            "value": run.metrics[run.part].get(metric), "selection": run.metrics.get("selection"),
            "validation": run.metrics.get("val", {}).get(metric), "cost": cost,
            "curve": run_curve(run), "command": environment.get("command"),
            "device": environment.get("device"), "versions": environment.get("versions")}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _pair(first: MeasuredMethod, second: MeasuredMethod, confidence: float) -> dict[str, Any]:
    found = compare_pair(first, second, confidence=confidence)
    return {"first": first.method.name, "second": second.method.name, **found,
            "changed": changed_pictures(first.method, second.method)}


def _correct(pairs: Sequence[dict[str, Any]]) -> None:
    """Holm's correction, metric by metric: over the pairs; of classes over pairs and classes."""
    families: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        for name, entry in pair["differences"].items():
            families.setdefault(name.partition("[")[0] + "[" * ("[" in name), []).append(entry)
    for family in families.values():
        corrected = holm([entry["p"] for entry in family])
        for entry, p in zip(family, corrected, strict=True):
            entry |= {"p_holm": p, "comparisons": len(family)}


def _judge(pair: dict[str, Any], comparisons: int, confidence: float, pictures: int) -> None:
    """Verdicts, and classes apart from metrics over all of them."""
    differences: dict[str, Any] = {}
    classes: dict[int, dict[str, Any]] = {}
    for name, entry in pair.pop("differences").items():
        word, _, place = name.partition("[")
        if place:
            verdict = _verdict(name, entry, confidence, None)
            classes.setdefault(int(place[:-1]), {})[word] = {
                **{k: v for k, v in entry.items() if k not in ("telling", "components")},
                "verdict": asdict(verdict)}
            continue
        needed = evidence_needed(
            Components(**entry["components"]), runs=pair["runs"], clusters=entry["clusters"],
            pictures=pictures, target=entry["value"], confidence=confidence)
        verdict = _verdict(name, entry, confidence, needed)
        differences[name] = {
            **{k: v for k, v in entry.items() if k != "telling"},
            "needed": asdict(needed) if verdict.kind == "untold" else None,
            "verdict": asdict(verdict)}
    pair |= {"metrics": differences, "per_class": classes, "comparisons": comparisons}


def _verdict(metric: str, entry: Mapping[str, Any], confidence: float,
             needed: Needed | None) -> Verdict:
    return judge(metric, first=entry["first"], second=entry["second"], low=entry["low"],
                 high=entry["high"], p=entry["p_holm"], comparisons=entry["comparisons"],
                 confidence=confidence, needed=needed, reliable=entry["reliable"])


def _plain(value: Any) -> Any:
    """For JSON: what is not a number is ``None``."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
