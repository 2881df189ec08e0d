"""``predict``: any number of pictures through a model into a file, a batch at a time."""

import functools
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.console import progress_bar, say, warn
from finetune.data.given_pictures import Given, GivenPictures
from finetune.data.prefetching import map_ahead
from finetune.errors import ConfigurationError, DataError, InputError, Interrupted, first_of
from finetune.prediction.files import (
    FORMATS,
    RowFile,
    header_line,
    partial_of,
    row_line,
    side_of,
)
from finetune.prediction.predictor import VIEWS, Predictor
from finetune.prediction.values import Prepared, batches

__all__ = ["PredictOptions", "load_predictor", "predict"]

AHEAD = 3          # batches of pictures that are read before they are needed
LINE_EVERY = 30.0  # seconds, where no bar is drawn
NOT_READ = (".pt2", ".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class PredictOptions:
    """How ``predict`` goes about it.

    Attributes:
        form: ``csv`` or ``jsonl``; None: by the output's name, else ``csv``.
        precision: ``fp32`` or ``bf16``.
        tta: ``flips`` or ``d4``; None: one view.
        batch_size: Pictures at a time.
        workers: Threads that read pictures; None: one less than there are cores, at most 8.
        path_column: Of tables among the paths.
        resume: Go on with a partial file.
        overwrite: Begin anew, and replace the output.
    """

    form: str | None = None
    precision: str = "fp32"
    tta: str | None = None
    batch_size: int = 32
    workers: int | None = None
    path_column: str = "path"
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("--format", self.form, (None, *FORMATS)),
                                   ("--precision", self.precision, ("fp32", "bf16")),
                                   ("--tta", self.tta, (None, *VIEWS))):
            if value not in known:
                raise ConfigurationError(f"{name} {value}: there are "
                                         f"{', '.join(each for each in known if each)}")
        if self.batch_size < 1 or (self.workers or 0) < 0:
            raise ConfigurationError("--batch-size is 1 or more, --workers 0 or more")


def predict(model: str, words: Sequence[str], output: Path,
            options: PredictOptions | None = None, *, lines: Iterable[str] | None = None) -> int:
    """Write a row for each picture; 3 when some could not be read, else 0.

    Rows are in the order of the pictures. Memory does not grow with their number.

    Args:
        model: A run's folder, or an ONNX file of ``export``.
        words: See `finetune.data.given_pictures.GivenPictures`.
        output: The file; what is made is in ``output.partial`` until it is whole.
        options: Unset: the defaults.
        lines: Standard input, for the word ``-``.

    Raises:
        InputError: Nothing to predict, no model, or an output that exists.
        Interrupted: By a signal; ``resume`` goes on.
    """
    options = options or PredictOptions()
    form = options.form or ("jsonl" if output.suffix in (".jsonl", ".ndjson") else "csv")
    _check_output(output, options)
    given = GivenPictures(words, options.path_column, _standard_input() if lines is None else lines)
    total = given.count() if given.can_be_counted else None
    if total == 0:
        raise DataError(f"no pictures found in {first_of(list(words))}")
    predictor = load_predictor(model, precision=options.precision, tta=options.tta,
                               batch_size=options.batch_size)
    rows = RowFile.open(output, form, header_line(predictor, form),
                        _about(predictor, words, form, options), resume=options.resume)
    pictures = iter(given)
    try:
        with _partial_kept(rows):
            done = _skip_done(pictures, rows)
            new = _write_rows(predictor, pictures, rows, options, done["rows"], total)
            if not done["rows"] + new["rows"]:
                raise DataError("no pictures found on standard input")
    except DataError:
        if not options.resume and not rows.wrote:
            _discard(output)
        raise
    rows.finish()
    return _conclude(output, given, predictor, done, new)


def load_predictor(model: str, *, precision: str = "fp32", tta: str | None = None,
                   batch_size: int = 32) -> Predictor:
    """The model of a run or an export, and what has to be said about it.

    Raises:
        InputError: It is none, or can't be used.
    """
    predictor = _open_model(model, precision, batch_size)
    if predictor.origin.rehearsal:
        warn("REHEARSAL: this model was trained on generated pictures; its answers say nothing "
             "about any real picture. Every row is stamped.")
    if predictor.seen is None:
        warn("this run kept no facts of its training pictures: other modes, sizes and ranges of "
             "values are not told")
    if predictor.far is None:
        warn("this run kept no features of its training pictures: that a picture is far from them "
             "is not told")
    if precision != "fp32":
        warn(f"{precision}: answers are near those of fp32, in which the run was measured; that a "
             "picture is far from the training pictures is not told")
    if tta is None:
        return predictor
    warn(f"--tta {tta}: calibration, thresholds and sets were fitted on single views; what was "
         "measured of them need not hold")
    return predictor.with_views(tta)


def _open_model(model: str, precision: str, batch_size: int) -> Predictor:
    """A run's folder or an exported ONNX file."""
    path = Path(model).expanduser()
    if path.suffix == ".onnx":
        if precision != "fp32":
            raise ConfigurationError(f"--precision {precision} goes with a run's folder; an "
                                     "exported file has one arithmetic (export --half)")
        return Predictor.from_export(path, batch_size=batch_size)
    if path.suffix in NOT_READ or (path / "finetune.json").is_file():
        raise InputError(f"{model}: predict takes a run's folder, such as runs/NAME, or an ONNX "
                         "file of export. Files of torch may hold code that runs when they are "
                         "read, and timm's folders have no calibration")
    if path.is_file():
        raise InputError(f"{model} is a file, and no .onnx; predict takes a run's folder, such as "
                         "runs/NAME, or an ONNX file of export")
    return Predictor.from_run(path, precision=precision, batch_size=batch_size)


def _check_output(output: Path, options: PredictOptions) -> None:
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; name a file in it")
    if output.name == "-" or (output.exists() and not output.is_file()):
        raise InputError(f"--output {output} is no ordinary file; rows are written to one that "
                         "gets its name when it is whole")
    if not output.parent.is_dir():
        raise InputError(f"there is no folder {output.parent}; make it first")
    if output.exists() and not options.overwrite:
        whole = " and is whole" if options.resume and not partial_of(output).exists() else ""
        raise InputError(f"{output} exists{whole}; --overwrite replaces it")
    if os.path.exists(partial_of(output)) and not (options.resume or options.overwrite):
        raise InputError(f"{partial_of(output)} is there from a command that did not end, or not "
                         "yet: --resume goes on with it, --overwrite begins anew")


def _standard_input() -> Iterator[str]:
    """Lines of names, which need not be text."""
    for line in sys.stdin.buffer:
        yield os.fsdecode(line)


def _about(predictor: Predictor, words: Sequence[str], form: str,
           options: PredictOptions) -> dict[str, Any]:
    """What rows of one file have in common."""
    decisions = None if predictor.decisions is None else predictor.decisions.to_dict()
    far = None if predictor.far is None else predictor.far.to_dict()
    text = json.dumps(decisions, sort_keys=True).encode()
    return {"model": {"run": predictor.origin.run, "weights": predictor.origin.weights,
                      "decisions": hashlib.sha256(text).hexdigest(), "far": far},
            "format": form, "precision": predictor.precision, "tta": options.tta,
            "paths": [word.encode("utf-8", "backslashreplace").decode() for word in words],
            "path_column": options.path_column}


def _skip_done(pictures: Iterator[Given], rows: RowFile) -> Counter[str]:
    """Pass over pictures that have their rows; counts of rows and errors.

    Raises:
        InputError: They are others than when the file was begun.
    """
    done: Counter[str] = Counter()
    for name, failed in rows.done():
        each = next(pictures, None)
        done["rows"] += 1
        done["error"] += failed
        if each is None or rows.shown(each.name) != name:
            raise InputError(f"row {done['rows']} of {partial_of(rows.output)} is {name}, and the "
                             f"picture there is now {'missing' if each is None else each.name}: "
                             "the pictures changed. Begin anew with --overwrite")
    if done:
        say(f"{done['rows']} rows are there already")
    return done


def _write_rows(predictor: Predictor, pictures: Iterator[Given], rows: RowFile,
                options: PredictOptions, done: int, total: int | None) -> Counter[str]:
    """Predict and write all that is left; counts of rows, errors, warnings."""
    cores = os.cpu_count() or 1
    threads = max(1, min(8, cores - 1)) if options.workers is None else options.workers
    prepared: Iterator[Prepared] = map_ahead(
        functools.partial(_prepared, predictor), pictures, threads=threads,
        ahead=AHEAD * options.batch_size)
    counts: Counter[str] = Counter()
    with _progress(done, total) as progress:
        for some in batches(prepared, options.batch_size):
            answers = predictor.answer(some)
            rows.write(row_line(each, predictor, rows.form) for each in answers)
            counts["rows"] += len(answers)
            counts["error"] += sum(each.error is not None for each in answers)
            counts["warnings"] += sum(bool(each.warnings) for each in answers)
            progress(done + counts["rows"])
    return counts


def _prepared(predictor: Predictor, each: Given) -> Prepared:
    return predictor.prepare(each.path, name=each.name)


@contextmanager
def _progress(done: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere a line now and then."""
    began = last = time.monotonic()
    with progress_bar("predicting", total=total) as bar:
        def told(count: int) -> None:
            nonlocal last
            bar(count)
            now = time.monotonic()
            if now - last > LINE_EVERY and not sys.stderr.isatty():
                last = now
                say(_pace(count, total, (count - done) / (now - began)))

        yield told


def _pace(count: int, total: int | None, rate: float) -> str:
    """How far and how fast.

    >>> _pace(100, 1000, 45.0)
    '100 of 1000 pictures, 45 a second, about 20 s left'
    """
    of = "" if total is None else f" of {total}"
    left = f", about {(total - count) / rate:.0f} s left" if total is not None and rate else ""
    return f"{count}{of} pictures, {rate:.0f} a second{left}"


@contextmanager
def _partial_kept(rows: RowFile) -> Iterator[None]:
    """Whatever ends this, rows that are written stay; a signal is told."""
    try:
        yield
    except KeyboardInterrupt as error:
        rows.close()
        raise Interrupted(f"interrupted; the rows so far are in {partial_of(rows.output)}: the "
                          "same command with --resume goes on") from error
    except BaseException:
        rows.close()
        raise


def _discard(output: Path) -> None:
    partial_of(output).unlink(missing_ok=True)
    side_of(output).unlink(missing_ok=True)


def _conclude(output: Path, given: GivenPictures, predictor: Predictor, done: Counter[str],
              new: Counter[str]) -> int:
    errors = done["error"] + new["error"]
    say(f"wrote {output}: {done['rows'] + new['rows']} rows; of the {new['rows']} new ones "
        f"{new['warnings']} have warnings")
    if given.skipped:
        kinds = [f"{count} {kind}" for kind, count in given.skipped.most_common()]
        warn(f"{given.skipped.total()} files of the folders are no pictures and have no row: "
             f"{first_of(kinds)}")
    if predictor.origin.rehearsal:
        warn("REHEARSAL: these answers say nothing about any real picture")
    if errors:
        warn(f"{errors} pictures could not be read; their rows have an error")
    return 3 if errors else 0
