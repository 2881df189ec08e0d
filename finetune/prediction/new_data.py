"""``evaluate RUN PATHS``: how a finished run does on labelled pictures that it never had."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.console import progress_bar, say, table, warn
from finetune.data.given_pictures import Given, GivenPictures
from finetune.data.prefetching import map_ahead
from finetune.errors import DataError, InputError, did_you_mean, first_of
from finetune.evaluation.decision_measures import measure_decisions
from finetune.evaluation.predictions import Predictions
from finetune.files import write_json
from finetune.prediction.known_pictures import find_known, read_hashes
from finetune.prediction.predictor import Predictor, batches, run_facts
from finetune.results import measure_answers
from finetune.run_directory import RunDirectory
from finetune.specs import LabelKind, LabelSpec

__all__ = ["evaluate_new", "truth_of"]

THREADS, AHEAD = 4, 3
YES_NO = {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0,
          "no": 0.0, "": np.nan, "nan": np.nan, "?": np.nan}


def evaluate_new(run: RunDirectory, words: Sequence[str], *, labels: str | None = None,
                 path_column: str = "path", output: Path | None = None) -> int:
    """Measure a run on new labelled pictures; print it beside its own test part.

    Nothing in the run changes. Intervals take pictures for independent.

    Args:
        run: A finished one.
        words: See `finetune.data.given_pictures.GivenPictures`.
        labels: The column of tables with the class; unset: the name of each picture's folder.
            Several labels are read from columns that are named as the classes.
        path_column: Of tables.
        output: A JSON file for all that was measured.

    Returns:
        3 where pictures could not be read, which are left out; else 0.

    Raises:
        InputError: No pictures, no labels, classes that the run does not know, or an output that
            exists.
    """
    if output is not None and output.exists():
        raise InputError(f"{output} exists; choose another name or remove it first")
    facts = run_facts(run)
    if "-" in words:
        raise InputError("names on standard input have no labels: give folders named as the "
                         "classes, or a CSV file with --labels")
    given = list(GivenPictures(words, path_column))
    truth = truth_of(given, facts["labels"], labels)
    known = find_known([each.path for each in given], read_hashes(run.path / "splits.csv"))
    from finetune.prediction.network import load_network

    predictor = Predictor(**facts, network=load_network(run))
    answers, broken = _answers(predictor, given, truth)
    measured: dict[str, Any] = measure_answers({"test": answers})
    if predictor.decisions is not None:
        measured["decisions"] = measure_decisions(predictor.decisions, answers)
    for text in [*known.warnings(), *_without_pictures(answers)]:
        warn(text)
    _print(run, measured, len(answers), predictor.origin.rehearsal)
    if output is not None:
        new = {"new" if k == "test" else k: v for k, v in measured.items() if k != "intervals"}
        write_json(output, {"run": run.name, "weights": predictor.origin.weights,
                            "pictures": len(answers), "unreadable": broken,
                            "pictures_of_the_run": known.parts, "repeated": known.repeated, **new,
                            "intervals": measured["intervals"]["test"]})
        say(f"wrote {output}")
    if broken:
        warn(f"{len(broken)} pictures could not be read and are left out: {first_of(broken)}")
    return 3 if broken else 0


def truth_of(given: Sequence[Given], spec: LabelSpec, column: str | None) -> np.ndarray:
    """(N,) class indices, or (N, K) of 0, 1 and NaN = unknown.

    Raises:
        DataError: There are no pictures, or labels are missing or none of the run's classes.
    """
    if not given:
        raise DataError("no pictures found")
    if spec.kind is LabelKind.multi:
        return np.array([[_yes_no(each, name) for name in spec.class_names] for each in given],
                        dtype=np.float32)
    names = [_class_of(each, column) for each in given]
    without = [each.name for each, name in zip(given, names, strict=True) if not name]
    if without:
        raise DataError(f"{len(without)} pictures have no label: {first_of(without)}; fill column "
                        f"{column!r} or leave these rows out")
    unknown = sorted(set(names) - set(spec.class_names))
    if unknown:
        where = f"column {column!r}" if column else "the pictures' folders; --labels names a column"
        raise DataError(f"classes that the run does not know: {first_of(unknown)}"
                        f"{did_you_mean(unknown[0], spec.class_names)}; it knows "
                        f"{first_of(spec.class_names)} (read from {where})")
    return np.array([spec.class_names.index(name) for name in names], dtype=np.int64)


def _class_of(each: Given, column: str | None) -> str:
    if column is None:
        return os.path.basename(os.path.dirname(os.path.abspath(each.path)))
    return _cell(each, column)


def _cell(each: Given, column: str) -> str:
    if column not in each.row:
        raise DataError(f"{each.name} has no column {column!r}{did_you_mean(column, each.row)}; "
                        "labels are columns of a CSV file among the paths")
    return each.row[column].strip()


def _yes_no(each: Given, name: str) -> float:
    value = _cell(each, name)
    if value.lower() not in YES_NO:
        raise DataError(f"{each.name}: column {name!r} holds {value!r}; expected 0, 1 or nothing")
    return YES_NO[value.lower()]


def _answers(predictor: Predictor, given: Sequence[Given],
             truth: np.ndarray) -> tuple[Predictions, list[str]]:
    """What the network answers for the pictures that can be read, and the names of the others."""
    prepared = map_ahead(lambda each: predictor.prepare(each.path, name=each.name), given,
                         threads=THREADS, ahead=AHEAD * predictor.batch_size)
    logits, readable = [], list[bool]()
    with progress_bar("predicting", total=len(given)) as progress:
        for some in batches(prepared, predictor.batch_size):
            good = [each.pixels for each in some if each.pixels is not None]
            readable += [each.pixels is not None for each in some]
            logits += [predictor.network(np.stack(good))] if good else []
            progress(len(readable))
    if not logits:
        raise DataError(f"none of the {len(given)} pictures can be read")
    kept = np.flatnonzero(readable)
    names = [each.name for each in given]
    return (Predictions([names[i] for i in kept], truth[kept], np.concatenate(logits),
                        predictor.labels),
            [names[i] for i in np.flatnonzero(~np.array(readable))])


def _without_pictures(answers: Predictions) -> list[str]:
    """What to say where averages over classes are over fewer than the run's own."""
    spec = answers.label_spec
    absent = [name for number, name in enumerate(spec.class_names)
              if not (answers.labels == number).any()] if spec.is_exclusive else []
    return [f"none of the new pictures is of {first_of(absent)}: averages over classes are over "
            "others than the run's own"] if absent else []


def _print(run: RunDirectory, measured: dict[str, Any], count: int, rehearsal: bool) -> None:
    before = run.metrics
    part = "test" if "test" in before else "val"
    own, new = before[part], measured["test"]
    shown = [k for k, v in new.items() if isinstance(v, float) and k != "count"]
    table(f"{count} new pictures, and the run's own {part} part",
          ["metric", "new", f"the run's {part}"],
          [[k, _with_interval(new, measured["intervals"]["test"], k),
            _with_interval(own, before.get("intervals", {}).get(part, {}), k)] for k in shown])
    say("Intervals of new pictures take these for independent of each other.")
    if rehearsal:
        warn("REHEARSAL: this model was trained on generated pictures")


def _with_interval(values: dict[str, Any], intervals: dict[str, Any], name: str) -> str:
    value, entry = values.get(name), intervals.get(name)
    if value is None:
        return ""
    low = None if not entry else entry.get("low")
    return f"{value:.4f}" + (f" ({low:.3f} to {entry['high']:.3f})" if entry and low is not None
                             else "")
