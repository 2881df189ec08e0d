"""Rows in a SQLite file of the cache. To lose them costs time, never a result."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RowStore"]


@dataclass(frozen=True)
class RowStore:
    """One table in one file.

    Attributes:
        folder: Of the file; None: nothing is kept.
        file: Its name.
        table: The table's name.
        columns: As ``CREATE TABLE`` takes them, key included.
    """

    folder: Path | None
    file: str
    table: str
    columns: str

    def select(self, columns: str, **where: Any) -> Iterator[tuple[Any, ...]]:
        """Rows whose columns have these values; of a damaged file those before the damage."""
        if self.folder is None or not (self.folder / self.file).exists():
            return
        condition = " AND ".join(f"{name} = ?" for name in where)
        try:
            with self._base(self.folder) as base:
                yield from base.execute(f"SELECT {columns} FROM {self.table} WHERE {condition}",
                                        tuple(where.values()))
        except sqlite3.Error:
            return

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert or replace whole rows. A damaged or older file is begun anew.

        One that is locked, full or read-only is done without.
        """
        if self.folder is None or not rows:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._insert(self.folder, rows)
            except sqlite3.OperationalError as error:
                if "column" in str(error):
                    self._start_anew(self.folder, rows)
            except sqlite3.DatabaseError:
                self._start_anew(self.folder, rows)
        except (OSError, sqlite3.Error):
            return

    @contextmanager
    def _base(self, folder: Path) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(folder / self.file, timeout=10)) as base, base:
            base.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({self.columns})")
            yield base

    def _insert(self, folder: Path, rows: Sequence[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" * len(rows[0]))
        with self._base(folder) as base:
            base.executemany(f"INSERT OR REPLACE INTO {self.table} VALUES ({marks})", rows)

    def _start_anew(self, folder: Path, rows: Sequence[tuple[Any, ...]]) -> None:
        (folder / self.file).unlink(missing_ok=True)
        self._insert(folder, rows)
