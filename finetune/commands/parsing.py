"""Parsers of sub-commands, and what several of them do."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from finetune.console import warn
from finetune.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from finetune.composition import Composed
    from finetune.run_directory import RunDirectory

__all__ = ["asks_for_study", "command_parser", "compose_words", "open_page", "parse", "single_run"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}\n{self.format_usage().strip()}")


def command_parser(command: str, names: list[str]) -> argparse.ArgumentParser:
    """A parser with positional words; what is wrong raises `ConfigurationError`."""
    parser = _Parser(prog=f"python -m finetune {command}")
    for name in names:
        parser.add_argument(name, metavar=name.upper())
    return parser


def parse(command: str, names: list[str], words: list[str]) -> argparse.Namespace:
    """The words of a command that has positional ones alone."""
    return command_parser(command, names).parse_args(words)


def compose_words(words: Sequence[str]) -> "Composed":
    """The configuration of ``key=value`` words; what has to be said about it is said."""
    from finetune.composition import compose
    from finetune.names import name_problems

    composed = compose(words, check_names=name_problems)
    for note in composed.notes:
        warn(note)
    return composed


def asks_for_study(words: Sequence[str]) -> bool:
    """Whether these words train several runs."""
    return any(word in ("-m", "--multirun") or word.startswith(("study=", "study.", "hydra"))
               for word in words)


def single_run(path: str) -> "RunDirectory":
    """A run that trained; the folder around folds has no network to measure."""
    from finetune.run_directory import RunDirectory

    run = RunDirectory.open(path)
    if run.has_folds:
        raise InputError(f"{run.path} holds the runs of all folds: name one of them, such as "
                         f"{run.path / 'fold-1'}; pooled results are in "
                         f"{run.path / 'report.html'}")
    return run


def open_page(path: Path) -> None:
    """Show a page in the browser."""
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        warn(f"no browser was found; open {path.resolve()} in one")
