"""What decoding libraries warn of, as a list for each thread."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["caught_warnings"]

_LOGGERS = ("tifffile", "pydicom", "PIL")
_local = threading.local()
_lock = threading.Lock()
_open: list["warnings.catch_warnings[Any]"] = []  # one entry for each thread that is decoding


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _note(record.getMessage())


_listener = _Listener(logging.WARNING)


@contextmanager
def caught_warnings() -> Iterator[list[str]]:
    """A list that fills with what this thread's libraries warn of or log; nothing is printed.

    `warnings.catch_warnings` alone is not safe in threads: two that overlap leave the filters
    changed for good. Here the first thread in sets them and the last one out restores them.
    """
    outer, notes = getattr(_local, "notes", None), list[str]()
    _local.notes = notes
    _enter()
    try:
        yield notes
    finally:
        _leave()
        _local.notes = outer


def _enter() -> None:
    with _lock:
        _open.append(warnings.catch_warnings())
        if len(_open) > 1:
            return
        _open[0].__enter__()
        original = warnings.showwarning

        def show(message: Any, *args: Any, **more: Any) -> None:
            if getattr(_local, "notes", None) is None:
                original(message, *args, **more)
            else:
                _note(str(message))

        warnings.simplefilter("always")
        warnings.showwarning = show
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(_listener)


def _leave() -> None:
    with _lock:
        if len(_open) > 1:
            _open.pop()
            return
        _open.pop().__exit__(None, None, None)
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(_listener)


def _note(text: str) -> None:
    notes, line = getattr(_local, "notes", None), text.strip().split("\n")[0][:200]
    if notes is not None and line not in notes:
        notes.append(line)
