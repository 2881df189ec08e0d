"""The model card of a finished run, for people and for the Hugging Face hub."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from finetune.console import say
from finetune.errors import InputError
from finetune.evidence import read_facts
from finetune.files import write_text
from finetune.prediction.model_facts import run_facts
from finetune.report.card import left_for_a_person, render_card
from finetune.run_directory import RunDirectory

__all__ = ["write_card"]

NAME, HUB_NAME = "MODEL_CARD.md", "README.md"
SHORTEST = 3  # characters of a name that is taken out of a text


def write_card(run: RunDirectory, output: Path | None, *, overwrite: bool) -> Path:
    """Write a run's model card, and say what is left for a person.

    Args:
        run: A finished one.
        output: A file that ends with .md, or an existing folder, where it becomes ``README.md``, as
            the hub wants it. None: ``MODEL_CARD.md`` in the run.
        overwrite: Whether a card that is there is replaced, with all that a person wrote into it.

    Raises:
        InputError: It holds folds, isn't finished, or a newer version trained it; or the file
            can't be written there.
    """
    path = _place(run, output, overwrite=overwrite)
    run_facts(run)  # refuses folds, unfinished runs and newer versions
    if not run.is_finished:
        raise InputError(f"{run.path} is not finished: report.html is missing; python -m finetune "
                         f"resume {run.path}")
    card = render_card(read_facts(run), name=run.name, history=run.history,
                       warnings=_warnings(run))
    write_text(path, card)
    _tell(path, card, rehearsal=bool(run.environment.get("rehearsal")))
    return path


def _place(run: RunDirectory, output: Path | None, *, overwrite: bool) -> Path:
    path = run.path / NAME if output is None else output
    path = path / HUB_NAME if path.is_dir() else path
    if path.suffix != ".md":
        raise InputError(f"{path}: a card is Markdown: name a file that ends with .md, or a folder "
                         "that is there")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}; make it first")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists, and may hold what a person wrote into it: choose another "
                         "name with --output, or replace it with --overwrite")
    return path


def _warnings(run: RunDirectory) -> list[str]:
    """What the run warned of, without what its card tells elsewhere and without names of pictures.

    Names of files and groups are those of people more often than one thinks.
    """
    environment = run.environment
    told = set(environment["weights"].get("notes") or [])
    kept = [text for text in environment.get("warnings", [])
            if text not in told and not text.startswith("shortcut: ")]
    return _without(kept, _names(run.path / "splits.csv")) if kept else []


def _names(path: Path) -> set[str]:
    """Of all pictures and groups, without numbers: a count may be one of these."""
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [(row.get("path", ""), row.get("group", "")) for row in csv.DictReader(stream)]
    return {name for row in rows for name in row
            if name and len(name) >= SHORTEST and not name.isdecimal()}


def _without(texts: Iterable[str], names: set[str]) -> list[str]:
    """The texts with an ellipsis for each name; long ones first, since they hold others."""
    found = []
    for text in texts:
        there = sorted((name for name in names if name in text), key=len, reverse=True)
        pattern = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in there)
        found.append(re.sub(pattern, "…", text) if there else text)
    return found


def _tell(path: Path, card: str, *, rehearsal: bool) -> None:
    left = left_for_a_person(card)
    say(f"wrote {path}: a card with metadata for the Hugging Face hub"
        + (", stamped as a REHEARSAL" if rehearsal else ""))
    say(f"{len(left)} places are left for a person; search for \"To be filled in\":")
    for text in left:
        say(f"  {text}")
    say("It names classes, subgroups and the data's folder: read it before you hand it out. The "
        "hub's own check was not asked (docs/card.md).")
