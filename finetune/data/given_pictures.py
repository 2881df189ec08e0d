"""From the words of a command to pictures: files, folders, patterns, tables, standard input."""

import csv
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.decoding import is_picture
from finetune.data.folders import is_loop, visible_files, visible_folders
from finetune.data.picture_paths import near_folder
from finetune.errors import DataError, did_you_mean, first_of

__all__ = ["Given", "GivenPictures"]

TABLES = (".csv", ".tsv")
# pictures that nothing here decodes: they are told, not passed over
UNDECODED = {".heic", ".heif", ".hif", ".jxl", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".svg",
             ".psd"}


@dataclass(frozen=True)
class Given:
    """A picture that was asked for.

    Attributes:
        name: As it was given, or found.
        path: Where its file is.
        row: Of the table that names it, by column; empty for others.
    """

    name: str
    path: str
    row: dict[str, str] = field(default_factory=dict)


@dataclass
class GivenPictures:
    """Pictures that words mean, in their order, read as one goes: they may be many.

    Attributes:
        words: Files of any name; folders, of which all pictures below are meant; patterns with
            ``*``, ``?`` and ``[]``; CSV and TSV files; ``-`` for names on standard input, one a
            line.
        path_column: Of tables.
        lines: Standard input; needed for ``-`` alone.
        skipped: After a pass: files of folders that are no pictures, by extension.
    """

    words: Sequence[str]
    path_column: str = "path"
    lines: Iterable[str] = ()
    skipped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Refuse words that mean nothing.

        Raises:
            DataError: A word names no file and no folder, or a table has no such column.
        """
        for word in self.words:
            if word == "-" or self._matches(word):
                continue
            if not word:
                raise DataError("one of the paths is empty text: an unset variable?")
            if glob.has_magic(word):
                raise DataError(f"no file fits {word}")
            raise DataError(f"{word} does not exist{near_folder(Path(word))}")

    @property
    def can_be_counted(self) -> bool:
        """Whether a second pass is possible: standard input comes once."""
        return "-" not in self.words

    def count(self) -> int:
        """How many pictures there are; reads names alone."""
        found = sum(1 for _ in self)
        self.skipped.clear()
        return found

    def __iter__(self) -> Iterator[Given]:
        self.skipped.clear()
        for word in self.words:
            if word == "-":
                yield from (Given(line, line) for line in map(_without_end, self.lines) if line)
                continue
            for path in self._matches(word):
                yield from self._below(path)

    def _matches(self, word: str) -> list[str]:
        if os.path.lexists(os.path.expanduser(word)):
            return [os.path.expanduser(word)]
        return sorted(_outermost(_fitting(word))) if glob.has_magic(word) else []

    def _below(self, path: str) -> Iterator[Given]:
        if os.path.isdir(path):
            yield from self._of_folder(path)
        elif path.lower().endswith(TABLES):
            yield from _rows(Path(path), self.path_column)
        else:
            yield Given(path, path)

    def _of_folder(self, folder: str) -> Iterator[Given]:
        for path in visible_files(Path(folder)):
            extension = os.path.splitext(path)[1].lower()
            if is_picture(path) or extension in UNDECODED:
                yield Given(path, path)
            else:
                self.skipped[extension or "no extension"] += 1


def _fitting(pattern: str) -> set[str]:
    """Files and folders that fit; ``**/`` stands for visible folders, none of them twice."""
    parts = re.split(r"(?:^|(?<=/))\*\*/+", pattern, maxsplit=1)
    if len(parts) == 1:
        return {found for found in glob.glob(pattern) if not is_loop(found)}
    return {found for start in (glob.glob(parts[0]) if parts[0] else [""])
            for folder in visible_folders(start or ".")
            for found in _fitting(os.path.join(
                glob.escape(folder if start else folder.removeprefix(".").lstrip("/")), parts[1]))}


def _outermost(paths: set[str]) -> Iterator[str]:
    """Those that lie in none of the others: a folder brings what is in it."""
    return (path for path in paths if not any(str(each) in paths for each in Path(path).parents))


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _rows(table: Path, column: str) -> Iterator[Given]:
    """The pictures of a table, row by row; paths start from its folder.

    Raises:
        DataError: It can't be read, or has no such column.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            rows = csv.DictReader(stream, delimiter=max(",;\t", key=first.count), restkey="",
                                  strict=True)  # an open quote would swallow all rows behind it
            columns = rows.fieldnames or []
            if column not in columns:
                raise DataError(f"{table} has no column {column!r}{did_you_mean(column, columns)}; "
                                f"it has {first_of(columns)}; name yours with --path-column")
            if columns.count(column) > 1:
                raise DataError(f"{table} has {columns.count(column)} columns {column!r}; name one "
                                "of them otherwise")
            for row in rows:
                named = {k: v or "" for k, v in row.items() if isinstance(v, str | None) and k}
                yield Given(named[column], _from_table(table, named[column]), named)
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not UTF-8 text ({error})") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{table} can't be read as a table: {error}") from error


def _from_table(table: Path, name: str) -> str:
    path = os.path.join(table.parent, name) if name else ""
    if "\\" in name and "\0" not in name and not os.path.exists(path):
        return os.path.join(table.parent, name.replace("\\", "/"))
    return path
