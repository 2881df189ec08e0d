"""What pictures have in common beside groups: where, when and by whom they were taken."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from finetune.data.samples import Samples
from finetune.errors import ConfigurationError, DataError, did_you_mean, first_of

__all__ = ["Dependence", "read_places", "read_sites", "read_times"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Dependence:
    """What the splits by place, time, site and fold are made from; None where it isn't asked for.

    Attributes:
        places: (N, 2) coordinates, in any unit in which distances make sense.
        block_size: Side of a square block, in the same unit.
        block_buffer: Distance kept between parts, in the same unit.
        times: (N,) numbers that grow with time.
        time_names: How the data write them.
        sites: Hospital, camera, scanner and so on of each picture.
        test_site: The site that is tested.
        folds: Number of folds.
        fold: The one that is tested, from 1.
    """

    places: Floats | None = None
    block_size: float | None = None
    block_buffer: float = 0.0
    times: Floats | None = None
    time_names: list[str] | None = None
    sites: list[str] | None = None
    test_site: str | None = None
    folds: int = 5
    fold: int | None = None


def read_places(samples: Samples, *, x_column: str | None, y_column: str | None,
                place_from: str | None) -> Floats:
    """Coordinates (N, 2) from two columns of the table, or from two groups of a pattern.

    Args:
        samples: The pictures.
        x_column: Of the table.
        y_column: Of the table.
        place_from: Regular expression on the path, used where no columns are named; its groups
            ``x`` and ``y``, or the first two.

    Raises:
        DataError: Columns are missing, paths don't match, or values are no finite numbers.
        ConfigurationError: The pattern makes no sense.
    """
    if place_from is not None:
        return np.stack([_numbers(samples, f"data.place_from={place_from}", values)
                         for values in _matched(samples, place_from)], axis=1)
    assert x_column is not None and y_column is not None
    return np.stack([_numbers(samples, f"{key}={name}", _column(samples, key, name))
                     for key, name in (("data.x_column", x_column), ("data.y_column", y_column))],
                    axis=1)


def _matched(samples: Samples, pattern: str) -> tuple[list[str], list[str]]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"data.place_from={pattern} is no regular expression: "
                                 f"{error}") from error
    if compiled.groups < 2:
        raise ConfigurationError(f"data.place_from={pattern} has {compiled.groups} groups; "
                                 r"expected two, for x and y, such as tile_(\d+)_(\d+)")
    x, y = ("x", "y") if {"x", "y"} <= set(compiled.groupindex) else (1, 2)
    found = [compiled.search(name) for name in samples.ids]
    missing = [name for name, match in zip(samples.ids, found, strict=True) if match is None]
    if missing:
        raise DataError(f"data.place_from={pattern} matches nothing in {len(missing)} of "
                        f"{len(found)} paths: {first_of(missing)}")
    return [m[x] or "" for m in found if m], [m[y] or "" for m in found if m]


def _column(samples: Samples, key: str, name: str) -> list[str]:
    """A column of the table.

    Raises:
        DataError: There is none of this name.
    """
    if name in samples.metadata:
        return samples.metadata[name]
    there = list(samples.metadata)
    found = (f"the table has no such column{did_you_mean(name, there)}; beside path, label and "
             f"split it has {', '.join(there)}" if there else
             "the data are no table with more columns than path, label and split; give a CSV file "
             "that has the column, as data.root or data.labels_file")
    raise DataError(f"{key}={name}: {found}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _numbers(samples: Samples, what: str, texts: Sequence[str]) -> Floats:
    values = np.array([_number(text) for text in texts], dtype=np.float64)
    wrong = _told(samples, texts, values)
    if wrong:
        raise DataError(f"{what}: {len(wrong)} of {len(texts)} values are no finite numbers: "
                        f"{first_of(wrong)}; correct them, or leave these pictures out")
    return values


def _told(samples: Samples, texts: Sequence[str], values: Floats) -> list[str]:
    """The values that could not be read, and whose they are."""
    return [f"{text!r} ({name})" for name, text, value in
            zip(samples.ids, texts, values, strict=True) if not np.isfinite(value)]


def read_times(samples: Samples, column: str) -> tuple[Floats, list[str]]:
    """When each picture was taken (N,), as numbers that grow, and as the table writes it.

    All values are numbers, or all are ISO dates (``2019-03``, ``2019-03-01``,
    ``2019-03-01T12:30+01:00``; without a zone they are UTC).

    Raises:
        DataError: The column is missing, or values are neither.
    """
    texts = [text.strip() for text in _column(samples, "data.time_column", column)]
    read = [np.array([parse(text) for text in texts]) for parse in (_number, _date)]
    numbers, dates = read
    values = numbers if np.isfinite(numbers).sum() >= np.isfinite(dates).sum() else dates
    wrong = _told(samples, texts, values)
    if wrong:
        raise DataError(f"data.time_column={column}: {len(wrong)} of {len(texts)} values are no "
                        f"{'numbers' if values is numbers else 'dates'} like the others: "
                        f"{first_of(wrong)}; expected numbers throughout, or ISO dates such as "
                        "2019-03-01 throughout")
    return values, texts


def _date(text: str) -> float:
    whole = f"{text}-01" if re.fullmatch(r"\d{4}-\d{2}", text) else text
    try:
        date = datetime.fromisoformat(whole)
    except ValueError:
        return np.nan
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def read_sites(samples: Samples, column: str) -> list[str]:
    """The site of each picture.

    Raises:
        DataError: The column is missing, or has empty values.
    """
    sites = [site.strip() for site in _column(samples, "data.site_column", column)]
    empty = [name for name, site in zip(samples.ids, sites, strict=True) if not site]
    if empty:
        raise DataError(f"data.site_column={column}: {len(empty)} of {len(sites)} pictures have no "
                        f"site: {first_of(empty)}; fill it in, or leave these pictures out")
    return sites
