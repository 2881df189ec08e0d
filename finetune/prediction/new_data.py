"""``evaluate MODEL PATHS``: how a model does on labelled pictures that it never had."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.console import progress_bar, say, table, warn
from finetune.data.given_pictures import Given, GivenPictures
from finetune.data.prefetching import map_ahead
from finetune.errors import DataError, InputError, did_you_mean, first_of
from finetune.evaluation.decision_measures import measure_decisions
from finetune.evaluation.familiarity import measure_far
from finetune.evaluation.predictions import Predictions
from finetune.files import write_json
from finetune.prediction.files import plain_name
from finetune.prediction.known_pictures import find_known, read_hashes
from finetune.prediction.model_facts import measured_part
from finetune.prediction.onnx_model import read_onnx
from finetune.prediction.predictor import Predictor
from finetune.prediction.values import batches
from finetune.results import measure_answers
from finetune.run_directory import RunDirectory
from finetune.specs import LabelKind, LabelSpec

__all__ = ["evaluate_new", "truth_of"]

THREADS, AHEAD = 4, 3
YES_NO = {"1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0,
          "no": 0.0, "": np.nan, "nan": np.nan, "?": np.nan}


@dataclass(frozen=True)
class _Subject:
    """What is measured: a model, what was measured of it at first, and its pictures' hashes."""

    predictor: Predictor
    own: dict[str, Any]
    hashes: dict[str, str] | None


def evaluate_new(model: "RunDirectory | str | os.PathLike[str]", words: Sequence[str], *,
                 labels: str | None = None, groups: str | None = None, path_column: str = "path",
                 output: Path | None = None) -> int:
    """Measure a model on new labelled pictures; print it beside its own test part.

    Nothing in the run changes.

    Args:
        model: A finished run, or an ONNX file of ``export``.
        words: See `finetune.data.given_pictures.GivenPictures`.
        labels: The column of tables with the class; unset: the name of each picture's folder.
            Several labels are read from columns that are named as the classes.
        groups: The column of tables that says which pictures belong together, such as a patient's;
            intervals count these. Unset: pictures are taken for independent.
        path_column: Of tables.
        output: A JSON file for all that was measured.

    Returns:
        3 where pictures could not be read, which are left out; else 0.

    Raises:
        InputError: No pictures, no labels, classes that the model does not know, or an output that
            exists.
    """
    if output is not None and output.exists():
        raise InputError(f"{output} exists; choose another name or remove it first")
    if "-" in words:
        raise InputError("names on standard input have no labels: give folders named as the "
                         "classes, or a CSV file with --labels")
    given = list(GivenPictures(words, path_column))
    subject = _opened(model)
    predictor = subject.predictor
    truth = truth_of(given, predictor.labels, labels, words)
    belonging = None if groups is None else _groups_of(given, groups)
    known = find_known([each.path for each in given], subject.hashes)
    answers, distances, broken = _answers(predictor, given, truth, belonging)
    measured: dict[str, Any] = measure_answers({"test": answers})
    if predictor.decisions is not None:
        measured["decisions"] = measure_decisions(predictor.decisions, answers)
    if predictor.far is not None and distances is not None:
        measured["familiarity"] = measure_far(distances, predictor.far, answers.groups)
    for text in [*known.warnings(), *_without_pictures(answers)]:
        warn(text)
    _print(subject, measured, answers)
    if output is not None:
        new = {"new" if k == "test" else k: v for k, v in measured.items() if k != "intervals"}
        write_json(output, {"run": predictor.origin.run, "weights": predictor.origin.weights,
                            "pictures": len(answers),
                            "unreadable": [plain_name(name) for name in broken],
                            "pictures_of_the_run": known.parts, "repeated": known.repeated, **new,
                            "intervals": measured["intervals"]["test"]})
        say(f"wrote {output}")
    if broken:
        warn(f"{len(broken)} pictures could not be read and are left out: {first_of(broken)}")
    return 3 if broken else 0


def _opened(model: "RunDirectory | str | os.PathLike[str]") -> _Subject:
    if not isinstance(model, RunDirectory) and Path(model).suffix == ".onnx":
        predictor, export = read_onnx(model)
        return _Subject(predictor, export["measured"], None)
    run = model if isinstance(model, RunDirectory) else RunDirectory.open(Path(model))
    return _Subject(Predictor.from_run(run), measured_part(run),
                    read_hashes(run.path / "splits.csv"))


def truth_of(given: Sequence[Given], spec: LabelSpec, column: str | None,
             roots: Sequence[str] = ()) -> np.ndarray:
    """(N,) class indices, or (N, K) of 0, 1 and NaN = unknown.

    Args:
        given: The pictures.
        spec: What the labels are.
        column: Of tables; None: folders' names.
        roots: The folders that were named: classes are looked for from these down.

    Raises:
        DataError: There are no pictures, or labels are missing or none of the run's classes.
    """
    if not given:
        raise DataError("no pictures found")
    if spec.kind is LabelKind.multi:
        return np.array([[_yes_no(each, name) for name in spec.class_names] for each in given],
                        dtype=np.float32)
    names = [_class_of(each, column, roots, spec.class_names) for each in given]
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


def _class_of(each: Given, column: str | None, roots: Sequence[str],
              names: Sequence[str]) -> str:
    """The nearest folder that is called as a class, from the named one down; or the picture's."""
    if column is not None:
        return _cell(each, column)
    folder = Path(os.path.abspath(each.path)).parent
    above = [one for one in (folder, *folder.parents) if any(
        one.is_relative_to(os.path.abspath(root)) for root in roots)]
    return next((one.name for one in above if one.name in names), folder.name)


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


def _groups_of(given: Sequence[Given], column: str) -> list[str]:
    """The group of each picture.

    Raises:
        DataError: There is no such column, or a picture without a group.
    """
    found = [_cell(each, column) for each in given]
    without = [each.name for each, group in zip(given, found, strict=True) if not group]
    if without:
        raise DataError(f"{len(without)} pictures have no group: {first_of(without)}; fill column "
                        f"{column!r}")
    return found


def _answers(predictor: Predictor, given: Sequence[Given], truth: np.ndarray,
             groups: Sequence[str] | None) -> tuple[Predictions, np.ndarray | None, list[str]]:
    """Answers for the pictures that can be read, their distances, and the names of the others."""
    prepared = map_ahead(lambda each: predictor.prepare(each.path, name=each.name), given,
                         threads=THREADS, ahead=AHEAD * predictor.batch_size)
    answers, readable = [], list[bool]()
    with progress_bar("predicting", total=len(given)) as progress:
        for some in batches(prepared, predictor.batch_size):
            good = [each.pixels for each in some if each.pixels is not None]
            readable += [each.pixels is not None for each in some]
            answers += [predictor.network(np.stack(good))] if good else []
            progress(len(readable))
    if not answers:
        raise DataError(f"none of the {len(given)} pictures can be read")
    kept = np.flatnonzero(readable)
    names = [each.name for each in given]
    distances = [each.distances for each in answers if each.distances is not None]
    return (Predictions([names[i] for i in kept], truth[kept],
                        np.concatenate([each.logits for each in answers]), predictor.labels,
                        None if groups is None else [groups[int(i)] for i in kept]),
            np.concatenate(distances) if distances else None,
            [names[i] for i in np.flatnonzero(~np.array(readable))])


def _without_pictures(answers: Predictions) -> list[str]:
    """What to say where averages over classes are over fewer than the run's own."""
    spec = answers.label_spec
    absent = [name for number, name in enumerate(spec.class_names)
              if not (answers.labels == number).any()] if spec.is_exclusive else []
    return [f"none of the new pictures is of {first_of(absent)}: averages over classes are over "
            "others than the run's own"] if absent else []


def _print(subject: _Subject, measured: dict[str, Any], answers: Predictions) -> None:
    own, new, part = subject.own, measured["test"], subject.own["part"]
    shown = [k for k, v in new.items() if isinstance(v, float) and k != "count"]
    table(f"{len(answers)} new pictures, and the run's own {part} part",
          ["metric", "new", f"the run's {part}"],
          [[k, _with_interval(new, measured["intervals"]["test"], k),
            _with_interval(own["values"], own["intervals"], k)] for k in shown])
    if "familiarity" in measured:
        far = measured["familiarity"]
        say(f"far from the training pictures: {far['share']:.1%} ({far['low']:.1%} to "
            f"{far['high']:.1%}) of the new pictures")
    say("Intervals of new pictures take these for independent of each other; --groups COLUMN names "
        "a patient's, a region's." if answers.groups is None else
        f"Intervals of new pictures count {len(set(answers.groups))} groups.")
    if subject.predictor.origin.rehearsal:
        warn("REHEARSAL: this model was trained on generated pictures")


def _with_interval(values: dict[str, Any], intervals: dict[str, Any], name: str) -> str:
    value, entry = values.get(name), intervals.get(name)
    if value is None:
        return ""
    low = None if not entry else entry.get("low")
    return f"{value:.4f}" + (f" ({low:.3f} to {entry['high']:.3f})" if entry and low is not None
                             else "")
