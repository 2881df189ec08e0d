"""SIGINT and SIGTERM: a run stops where it can go on again, or leaves nothing behind."""

import shlex
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from finetune.errors import Interrupted
from finetune.run_directory import RunDirectory

__all__ = ["Interruption", "interruption", "several_runs"]

T = TypeVar("T")
KINDS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """What the signals do to one run.

    While the run is prepared they stop it at once. When it is ``patient``, the first one is only
    remembered, and whoever trains asks `requested`; a second one stops at once.

    Attributes:
        run: The run, once it has a folder.
        patient: Whether the work in hand is finished first.
    """

    def __init__(self, run: RunDirectory | None) -> None:
        self.run, self.is_new, self.patient = run, run is None, False
        self._received: list[int] = []

    def remember(self, number: int, frame: object) -> None:
        """The handler of both signals."""
        self._received.append(number)
        if not self.patient or len(self._received) > 1:
            raise KeyboardInterrupt

    def requested(self) -> bool:
        """Whether a signal came."""
        return bool(self._received)

    def check(self, where: str) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.requested():
            raise Interrupted(f"stopped {where}")

    def watched(self, batches: Iterable[T], where: str) -> Iterator[T]:
        """The same batches, until a signal comes."""
        for batch in batches:
            self.check(where)
            yield batch

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return self.run is not None and self.run.last_checkpoint.exists()

    def advice(self, error: BaseException) -> str:
        """Where it stopped, what is kept, and how to go on."""
        where = str(error) if isinstance(error, Interrupted) else "stopped at once"
        if self.run is None or not self.has_checkpoint():
            return "stopped before the first epoch; nothing is kept of this run. Start it again"
        return (f"{where}; everything up to the last finished epoch is kept. Continue with\n"
                f"  python -m finetune resume {shlex.quote(str(self.run.path))}")


@contextmanager
def interruption(run: RunDirectory | None) -> Iterator[Interruption]:
    """Handle both signals while a run is made or continued; the handlers before come back.

    A new run that ends before its first checkpoint, by a signal or an error, is removed. Processes
    that read pictures may have got the signal too: their death is then part of the interruption.

    A signal that comes too late to stop the run stops the others of `several_runs`.

    Raises:
        Interrupted: By a signal; the message says how to go on.
        KeyboardInterrupt: The run is finished, but no other is to begin.
    """
    watch = Interruption(run)
    before = _install(watch.remember)
    try:
        yield watch
    except BaseException as error:
        if watch.is_new and watch.run is not None and not watch.has_checkpoint():
            shutil.rmtree(watch.run.path, ignore_errors=True)
        died = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")
        if isinstance(error, KeyboardInterrupt | Interrupted) or (died and watch.requested()):
            raise Interrupted(watch.advice(error)) from error
        raise
    finally:
        _restore(before)
    if watch.requested() and _stop in before:
        raise KeyboardInterrupt


@contextmanager
def several_runs() -> Iterator[None]:
    """Handle both signals around runs that follow each other: no other begins after one.

    Raises:
        KeyboardInterrupt: By a signal between two runs, or one that came while a run ended.
    """
    before = _install(_stop)
    try:
        yield
    finally:
        _restore(before)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _install(handler: Callable[[int, object], None]) -> list[Any]:
    try:
        return [signal.signal(kind, handler) for kind in KINDS]
    except ValueError:  # not the main thread: a notebook's own handling stays
        return []


def _restore(handlers: list[Any]) -> None:
    for kind, handler in zip(KINDS, handlers, strict=False):
        signal.signal(kind, handler)
