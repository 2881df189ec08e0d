"""Every error that finetune raises on purpose.

::

    FinetuneError                a failure while running              exit code 1
    ├── InputError               something the user gave is wrong     exit code 2
    │   ├── ConfigurationError   keys, values, recipes
    │   └── DataError            pictures, labels, splits
    ├── CheckError               a check of results failed            exit code 3
    └── Interrupted              SIGINT or SIGTERM                    exit code 130

A message says what was found and where, what was expected, and what to do.
"""

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "CheckError",
    "ConfigurationError",
    "DataError",
    "FinetuneError",
    "InputError",
    "Interrupted",
    "closest",
    "did_you_mean",
    "first_of",
]


class FinetuneError(Exception):
    """A failure while running. The base of all errors here."""

    exit_code = 1


class InputError(FinetuneError):
    """Something that the user gave is wrong; nothing was trained or changed.

    Attributes:
        ways_out: Words ``key=value``; each line of them, added to the command, would mend it.
    """

    exit_code = 2

    def __init__(self, message: str, *, ways_out: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.ways_out = tuple(ways_out)


class ConfigurationError(InputError):
    """A key, a value or a recipe is wrong."""


class DataError(InputError):
    """Pictures, labels or splits are not what they have to be."""


class CheckError(FinetuneError):
    """A check of results failed; the results must not be used."""

    exit_code = 3


class Interrupted(FinetuneError):
    """The run was stopped by SIGINT or SIGTERM and can be resumed."""

    exit_code = 130


def closest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Known names that look like ``name``, best first.

    >>> closest("resnet5", ["resnet50", "vit_base"])
    ['resnet50']
    """
    lower = {k.lower(): k for k in known}
    return [lower[k] for k in difflib.get_close_matches(name.lower(), list(lower), count, 0.6)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean …?)', or nothing when no known name is near.

    >>> did_you_mean("sead", ["seed", "device"])
    " (did you mean 'seed'?)"
    """
    near = closest(name, known)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def first_of(items: Sequence[object], *, count: int = 5) -> str:
    """The first few items of a list and how many more there are.

    >>> first_of(["a", "b", "c"], count=2)
    'a, b and 1 more'
    """
    shown = ", ".join(str(item) for item in items[:count])
    return shown if len(items) <= count else f"{shown} and {len(items) - count} more"
