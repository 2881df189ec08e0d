"""What a person sees: rich progress on a terminal, plain lines when piped."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unicodedata import category

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

__all__ = ["EpochLine", "fail", "printable", "progress_bar", "say", "table", "warn"]

_out = Console(highlight=False, soft_wrap=True, emoji=False)
_err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(text: str) -> None:
    """A line on standard output."""
    _out.print(printable(text), markup=False)


def warn(text: str) -> None:
    """A line on standard error, marked."""
    _err.print(printable(f"! {text}"), markup=False, style="yellow")


def fail(text: str) -> None:
    """An error on standard error, without a traceback."""
    _err.print(printable(f"error: {text}"), markup=False, style="red")


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table; numbers right, text left."""
    drawn = Table(title=printable(title), title_justify="left", box=None, pad_edge=False,
                  header_style="bold")
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        drawn.add_column(printable(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*[_cell(value) for value in row])
    width = None if sys.stdout.isatty() else 160
    Console(highlight=False, emoji=False, markup=False, width=width).print(drawn)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    r"""The text with everything but line ends written out that a terminal might obey or refuse.

    Names come from other people's files: an escape sequence in one could change the title, hide
    other lines or write to the clipboard.

    >>> print(printable("a\x1b[31mred"))
    a\x1b[31mred
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" or category(c) == "Zs"
                   else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def progress_bar(text: str, total: int | None) -> Iterator[Any]:
    """A function that takes the number done; draws only on a terminal. ``total`` None: unknown."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


class EpochLine:
    """The progress of one training: a bar within an epoch, a line for each finished one."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                             TextColumn("batches"), TimeRemainingColumn(), console=_err,
                             transient=True, disable=not _err.is_terminal)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "EpochLine":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def batch(self, done: int, of: int) -> None:
        """One batch is done."""
        self._bar.update(self._task, completed=done, total=of)

    def epoch(self, result: dict[str, Any], metric: str, value: float | None, *,
              chosen: bool) -> None:
        """One epoch is done."""
        depths = result["trainable_depths"]
        shown = "undefined" if value is None else f"{value:.4f}"
        pace = ("fitted at once" if result.get("fit")
                else f"{result['images_per_second']:.0f} images/s")
        left = (self.epochs - result["epoch"]) * result["seconds"]
        say(f"epoch {result['epoch']}/{self.epochs}  loss {result['train_loss']:.4f}  "
            f"val {metric} {shown}{' *' if chosen else '  '}  depths {_span(depths)}  {pace}  "
            f"about {left:.0f} s left")
        self._bar.update(self._task, description=f"epoch {result['epoch'] + 1}")


def _span(depths: list[int]) -> str:
    if depths and depths == list(range(depths[0], depths[-1] + 1)) and len(depths) > 1:
        return f"{depths[0]}-{depths[-1]}"
    return ",".join(map(str, depths)) or "none"
