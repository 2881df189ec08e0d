"""``study.json``: what a study is and how far it came."""

from pathlib import Path

from finetune.errors import InputError
from finetune.files import read_json, write_json
from finetune.run_directory import STUDY
from finetune.study.plan import Study

__all__ = ["is_study", "read_study", "write_study"]


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study."""
    return (folder / STUDY).is_file()


def read_study(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        InputError: There is none, or its file is damaged.
    """
    path = folder / STUDY
    try:
        return Study.from_dict(read_json(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} can't be read as a study: {error}") from error


def write_study(folder: Path, study: Study) -> None:
    """Write ``study.json``."""
    write_json(folder / STUDY, study.to_dict())
