"""``study.json``: what a study is and how far it came."""

from pathlib import Path

from finetune.errors import InputError, first_of
from finetune.files import read_json, write_json
from finetune.run_directory import STUDY, inner_folder
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
        study = Study.from_dict(read_json(path))
        _check(study)
        return study
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} can't be read as a study: {error}") from error


def _check(study: Study) -> None:
    """Raise a `ValueError` where members would lie elsewhere, or words are none."""
    for name in [*(member.path for member in study.members), *(arm.folder for arm in study.arms)]:
        inner_folder(name)
    numbers = [*study.seeds, *study.search_seeds, *study.rates]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"seeds and rates have to be numbers, not {first_of(numbers)}")
    words = [*study.launcher, *(f"{key}={value}" for key, value in study.base.items()),
             *(word for arm in study.arms for word in arm.words),
             *(word for member in study.members for word in member.words)]
    if not all("=" in word for word in words):
        raise ValueError("its words have to be key=value")


def write_study(folder: Path, study: Study) -> None:
    """Write ``study.json``."""
    write_json(folder / STUDY, study.to_dict())
