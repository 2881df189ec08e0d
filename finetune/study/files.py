"""Prepared studies: YAML files that say what is compared with what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from finetune.errors import ConfigurationError, did_you_mean
from finetune.recipes import HeadedFile, read_yaml, shipped_folders, yaml_files

__all__ = ["StudyFile", "StudyValues", "find_study", "list_studies"]


@dataclass(frozen=True)
class StudyValues:
    """What a study compares.

    Attributes:
        arms: Name to the words ``key=value`` that make the arm.
        reference: The arm that the best one is compared with.
        seeds: Of the final runs of each arm.
        rates: Factors of each arm's own ``optimizer.lr`` that are tried first; none: no search.
        search_seeds: Of the runs that search; None: one, which is none of ``seeds``.
        metric: By which arms are ranked on validation; None: the one that chooses the epoch.
        common: Words of all arms; typed ones win.
    """

    arms: dict[str, list[str]]
    reference: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    rates: list[float] = field(default_factory=list)
    search_seeds: list[int] | None = None
    metric: str | None = None
    common: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StudyFile(HeadedFile):
    """The file of a study."""

    kind: ClassVar[str] = "study"

    def values(self) -> StudyValues:
        """What it compares.

        Raises:
            ConfigurationError: The file says something else; one message for all of it.
        """
        try:
            tree = read_yaml(self.text)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"study {self.path} can't be read: {error}") from error
        problems = _problems(tree)
        if problems:
            raise ConfigurationError("\n".join(f"study {self.path.name}: {p}" for p in problems))
        arms = {str(name): list(words or []) for name, words in tree["arms"].items()}
        return StudyValues(**{**tree, "arms": arms})


_LISTS: dict[str, type | tuple[type, ...]] = {
    "seeds": int, "search_seeds": int, "rates": (int, float), "common": str}


def _problems(tree: Any) -> list[str]:
    known = list(StudyValues.__dataclass_fields__)
    if not isinstance(tree, Mapping) or not isinstance(tree.get("arms"), Mapping):
        return ["expected arms, a mapping of names to lists of key=value; see "
                "`python -m finetune show study freezing`"]
    found = [f"unknown key {key}{did_you_mean(str(key), known)}; there are {', '.join(known)}"
             for key in tree if key not in known]
    found += [f"arm {name}: expected a list of key=value, not {words!r}"
              for name, words in tree["arms"].items()
              if words is not None and not _is_list(words, str)]
    found += [f"{key}: expected a list of {'texts' if kind is str else 'numbers'}, not "
              f"{tree[key]!r}" for key, kind in _LISTS.items()
              if tree.get(key) is not None and not _is_list(tree[key], kind)]
    if tree.get("reference") not in (None, *tree["arms"]):
        found.append(f"reference {tree['reference']!r} is no arm"
                     f"{did_you_mean(str(tree['reference']), map(str, tree['arms']))}")
    return found


def _is_list(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, kind) and not isinstance(v, bool) for v in value)


def list_studies() -> dict[str, StudyFile]:
    """All prepared studies by name; FINETUNE_STUDY_PATH, then the checkout's or the wheel's."""
    folders = shipped_folders("studies", "FINETUNE_STUDY_PATH", holding="freezing.yaml")
    return {name: StudyFile(name, path) for name, path in yaml_files(folders).items()}


def find_study(name: str) -> StudyFile:
    """The study of a name, or of a path to a YAML file.

    Raises:
        ConfigurationError: There is none; the message lists what there is.
    """
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return StudyFile(path.stem, path)
    known = list_studies()
    if name in known:
        return known[name]
    raise ConfigurationError(f"no study {name!r}{did_you_mean(name, known)}; there are "
                             f"{', '.join(sorted(known))}, or a path to a .yaml file")
