"""Predictions as rows of a file that grows, survives a kill, and has its name when it is whole."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from finetune.errors import InputError
from finetune.files import parse_json, read_json, safe_cell, write_json
from finetune.prediction.predictor import Predictor, point_name
from finetune.prediction.values import Prediction

try:
    import fcntl
except ImportError:  # Windows: nothing stops two commands from writing one file
    fcntl = None  # type: ignore[assignment]

__all__ = ["FORMATS", "RowFile", "columns", "header_line", "plain_name", "row_line"]

FORMATS = ("csv", "jsonl")
SEPARATOR = "|"                       # between several class names, warnings
DIGITS = 9                            # of a probability
BLOCK = 1 << 16


def columns(predictor: Predictor) -> list[str]:
    """The columns of the CSV file, in their order."""
    decided = [f"decision_{point_name(point)}" for point in predictor.points]
    return ["path", "predicted", *(f"probability_{n}" for n in predictor.labels.class_names),
            "prediction_set", "abstained", *decided,
            *(["decision_least_cost"] if predictor.has_costs else []), "warnings", "error",
            *(["rehearsal"] if predictor.origin.rehearsal else [])]


def header_line(predictor: Predictor, form: str) -> str:
    """The first line of the file; nothing for ``jsonl``."""
    return _csv_line(columns(predictor)) if form == "csv" else ""


def row_line(prediction: Prediction, predictor: Predictor, form: str) -> str:
    """One line, with its end."""
    if form == "jsonl":
        return json.dumps(_fields(prediction, predictor), ensure_ascii=False) + "\n"
    return _csv_line(_cells(prediction, predictor))


def plain_name(name: str) -> str:
    r"""A file's name on one line; what is not text, and what can't be printed, is escaped.

    >>> plain_name("a\nb.png")
    'a\\nb.png'
    """
    if name.isprintable():
        return name
    text = name.encode("utf-8", "backslashreplace").decode()
    return text if text.isprintable() else repr(text)[1:-1]


def _fields(prediction: Prediction, predictor: Predictor) -> dict[str, Any]:
    odds = {name: _rounded(p) for name, p in zip(predictor.labels.class_names,
                                                 prediction.probabilities, strict=False)}
    stamp = {"rehearsal": True} if predictor.origin.rehearsal else {}
    return {**stamp, "path": plain_name(prediction.name), "predicted": prediction.predicted,
            "probabilities": odds or None, "prediction_set": prediction.prediction_set,
            "abstained": prediction.abstained, "decisions": prediction.decisions,
            "warnings": [plain_name(text) for text in prediction.warnings],
            "error": None if prediction.error is None else plain_name(prediction.error)}


def _cells(prediction: Prediction, predictor: Predictor) -> list[str]:
    width, decided = predictor.labels.output_width, prediction.decisions or {}
    names = [*(point_name(p) for p in predictor.points),
             *(["least_cost"] if predictor.has_costs else [])]
    odds = [f"{_rounded(p)}" for p in prediction.probabilities] or [""] * width
    return [plain_name(prediction.name), _text(prediction.predicted), *odds,
            _text(prediction.prediction_set), _text(prediction.abstained),
            *(_text(decided.get(name)) for name in names),
            SEPARATOR.join(map(plain_name, prediction.warnings)),
            plain_name(prediction.error or ""),
            *(["true"] if predictor.origin.rehearsal else [])]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _text(value: bool | str | Iterable[str] | None) -> str:
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return value if isinstance(value, str) else SEPARATOR.join(value)


def _csv_line(cells: Iterable[str]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerow([safe_cell(plain_name(c)) for c in cells])
    return stream.getvalue()


@dataclass
class RowFile:
    """Rows on their way to ``output``; until `finish` they are in ``output.partial``.

    Beside it lies ``output.partial.json``: which model and options the rows are of.

    Attributes:
        output: The file that is wanted.
        form: One of `FORMATS`.
        header: Its first line, or nothing.
        stream: The partial file, at its end.
        wrote: Whether rows were added.
    """

    output: Path
    form: str
    header: str
    stream: BinaryIO
    wrote: bool = False

    @classmethod
    def open(cls, output: Path, form: str, header: str, about: Mapping[str, Any], *,
             resume: bool) -> "RowFile":
        """Begin anew, or with ``resume`` go on where a partial file ends, if there is one.

        A torn last line is dropped.

        Raises:
            InputError: The rows that are there are of another model or other options, another
                command is writing them, or no file can be made there.
        """
        partial, side = partial_of(output), side_of(output)
        stream = _locked(partial)
        rows = cls(output, form, header, stream)
        try:
            if resume and stream.seek(0, os.SEEK_END):
                _refuse_other(partial, side, about)
                _drop_torn_line(stream)
            else:
                stream.truncate(0)
                _write_side(side, about)
            rows._put_header()
        except InputError:
            rows.close()
            raise
        return rows

    def done(self) -> Iterator[tuple[str, bool]]:
        """Names of pictures whose rows are there already, as written, and whether they failed."""
        with partial_of(self.output).open("rb") as stream:
            stream.seek(len(self.header.encode()))
            for line in stream:
                yield self._parsed(line)

    def write(self, lines: Iterable[str]) -> None:
        """Add rows; they survive the end of this process."""
        self.stream.write("".join(lines).encode())
        self.stream.flush()
        self.wrote = True

    def finish(self) -> None:
        """Give the file its name; no part of it is seen under it before."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        if fcntl is None:  # open files can't be renamed there
            self.stream.close()
        os.replace(partial_of(self.output), self.output)
        side_of(self.output).unlink(missing_ok=True)
        self.stream.close()  # and with it goes the lock

    def close(self) -> None:
        """Leave the partial file as it is."""
        self.stream.close()

    def _put_header(self) -> None:
        start = self.header.encode()
        self.stream.seek(0)
        if self.stream.read(len(start)) != start:
            self.stream.seek(0, os.SEEK_END)
            if self.stream.tell():
                raise InputError(f"{partial_of(self.output)} has other columns; --overwrite begins "
                                 "anew")
            self.stream.write(start)
        self.stream.seek(0, os.SEEK_END)

    def _parsed(self, content: bytes) -> tuple[str, bool]:
        try:
            line = content.decode()
            if self.form == "jsonl":
                values = parse_json(line)
                return str(values["path"]), values["error"] is not None
            names, cells = (next(csv.reader([each])) for each in (self.header, line))
            return cells[0], bool(cells[names.index("error")])
        except (ValueError, LookupError, TypeError, csv.Error, StopIteration) as error:
            raise InputError(f"{partial_of(self.output)} is damaged; --overwrite begins anew"
                             ) from error

    def shown(self, name: str) -> str:
        """A picture's name as `done` gives it."""
        return safe_cell(plain_name(name)) if self.form == "csv" else plain_name(name)


def partial_of(output: Path) -> Path:
    """Where rows are until the file is whole."""
    return Path(f"{output}.partial")


def side_of(output: Path) -> Path:
    """What the partial rows are of."""
    return Path(f"{output}.partial.json")


def _locked(partial: Path) -> BinaryIO:
    """The partial file, made if there is none, for this process alone."""
    try:
        stream = os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    except OSError as error:
        raise InputError(f"{partial} can't be made or written: {error.strerror}; name a file in "
                         "another folder with --output") from error
    if fcntl is None:
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise InputError(f"another command is writing {partial}: wait for its end, or name another "
                         "--output") from error
    except OSError:  # a file system without locks
        return stream
    if not (partial.exists() and os.path.samestat(os.fstat(stream.fileno()), partial.stat())):
        stream.close()
        raise InputError(f"another command has just finished {partial}")
    return stream


def _write_side(side: Path, about: Mapping[str, Any]) -> None:
    try:
        write_json(side, dict(about))
    except OSError as error:
        raise InputError(f"{side} can't be written: {error.strerror}") from error


def _refuse_other(partial: Path, side: Path, about: Mapping[str, Any]) -> None:
    try:
        then = read_json(side)
    except (OSError, ValueError) as error:
        raise InputError(f"{partial} can't be continued: {side.name} beside it can't be read "
                         f"({error}); --overwrite begins anew") from error
    wanted = json.loads(json.dumps(dict(about)))
    other = [key for key in wanted if not isinstance(then, dict) or then.get(key) != wanted[key]]
    if other:
        raise InputError(f"{partial} was begun with another {' and '.join(other)}: go on with the "
                         "same command, or begin anew with --overwrite")


def _drop_torn_line(stream: BinaryIO) -> None:
    """Cut a file after its last end of a line."""
    end = stream.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - BLOCK)
        stream.seek(start)
        place = stream.read(end - start).rfind(b"\n")
        if place >= 0:
            stream.truncate(start + place + 1)
            return
        end = start
    stream.truncate(0)
