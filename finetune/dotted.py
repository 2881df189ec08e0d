"""Code of the user's own, named by a dotted path such as ``my_lab.augment:stained``.

A path that somebody typed is run. One that only stands in a file (a recipe, a study, the
``config.yaml`` of a run) is refused until it is typed too, or listed in FINETUNE_TRUST: files come
from other people. What is run is told first, with the file that holds it.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from finetune.console import warn
from finetune.errors import ConfigurationError, did_you_mean

__all__ = ["CODE_KEYS", "TRUST", "code_in", "find_code", "import_dotted", "is_dotted", "named_by",
           "trust", "trusted"]

TRUST = "FINETUNE_TRUST"
CODE_KEYS = ("model.name", "data.transform")
_NOT_CODE = ("hf-hub", "hf_hub", "local-dir")
_told: set[str] = set()            # what was shown in this process
_named_by: dict[str, tuple[str, str]] = {}  # paths that files name: the word, and the file


def is_dotted(value: object) -> bool:
    """Whether a value of one of `CODE_KEYS` names code.

    >>> is_dotted("my_lab.augment:stained"), is_dotted("resnet50"), is_dotted("hf-hub:timm/x")
    (True, False, False)
    """
    return isinstance(value, str) and ":" in value and value.split(":")[0] not in _NOT_CODE


def code_in(words: Iterable[str]) -> list[str]:
    """The dotted paths that words ``key=value`` name.

    >>> code_in(["data.transform=a.b:c", "seed=1", "model.name=resnet18"])
    ['a.b:c']
    """
    pairs = (word.partition("=") for word in words)
    return [value for key, _, value in pairs if key in CODE_KEYS and is_dotted(value)]


def trusted() -> list[str]:
    """What FINETUNE_TRUST lists."""
    return [name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip()]


def trust(paths: Iterable[str]) -> None:
    """Let these run, in this process and those that it starts: somebody typed them."""
    os.environ[TRUST] = ",".join(dict.fromkeys([*trusted(), *paths]))


def named_by(file: str | Path, words: Iterable[str]) -> None:
    """Note that a file holds words that name code, which is not to run unless it is typed too."""
    for word in words:
        for path in code_in([word]):
            _named_by[path] = (word, str(file))


def import_dotted(key: str, path: str) -> Callable[..., Any]:
    """The function that a dotted path names, after telling which file it is run from.

    Args:
        key: Of the configuration, for messages.
        path: ``package.module:function``, installed or below the current folder.

    Raises:
        ConfigurationError: A file named it and nobody typed it; nothing was imported. Or there is
            no such module or function.
    """
    module_name, _, name = path.partition(":")
    _refuse_untyped(path)
    with _current_folder_importable():
        _tell(key, path, find_code(module_name))
        module = _imported(key, path, module_name)
    found = getattr(module, name, None)
    if not callable(found):
        there = [n for n, member in vars(module).items() if callable(member)]
        raise ConfigurationError(f"{key}={path}: {module_name} has no function "
                                 f"{name!r}{did_you_mean(name, there)}")
    return found  # type: ignore[no-any-return]


def find_code(module_name: str) -> str | None:
    """The file of a module; nothing is imported. None: there is none, or it isn't a file."""
    place: Sequence[str] | None = None
    spec = None
    for number, part in enumerate(module_name.split("."), 1):
        whole = ".".join(module_name.split(".")[:number])
        spec = PathFinder.find_spec(whole if place is not None else part, place)
        if spec is None:
            return None
        place = list(spec.submodule_search_locations or [])
    return None if spec is None else spec.origin


def _refuse_untyped(path: str) -> None:
    if path not in _named_by or path in trusted():
        return
    word, origin = _named_by[path]
    file = _find_here(path.partition(":")[0])
    raise ConfigurationError(
        f"{word} stands in {origin} and names code ({file or 'not found here'}), which runs only "
        f"if you type it yourself: read it, then add {word} to the command; where a command takes "
        f"no key=value, set the variable {TRUST}={path}")


def _find_here(module_name: str) -> str | None:
    """As `find_code`, below the current folder too."""
    with _current_folder_importable():
        return find_code(module_name)


def _tell(key: str, path: str, file: str | None) -> None:
    if path not in _told and file is not None:
        _told.add(path)
        warn(f"runs code: {key}={path} from {file}")


def _imported(key: str, path: str, module_name: str) -> Any:
    try:
        if not all(part.isidentifier() for part in module_name.split(".")):
            raise ImportError("that is no module's name")
        return importlib.import_module(module_name)
    except (ImportError, ValueError, SyntaxError) as error:
        raise ConfigurationError(
            f"{key}={path}: {module_name!r} can't be imported ({error}); expected is "
            "package.module:function, installed or below the current folder") from error


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.append(folder)  # last: a file in it can't hide a library
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
