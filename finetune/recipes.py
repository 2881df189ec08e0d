"""Recipes: whole methods as YAML files that hold only what differs from the schema."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from finetune.errors import ConfigurationError, did_you_mean

__all__ = ["HeadedFile", "Recipe", "find_recipe", "flatten", "leads_elsewhere", "list_recipes",
           "read_yaml", "recipe_folders", "shipped_folders", "yaml_files"]

_DEEPEST = 20  # levels; no settings have more


class _OnceLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; PyYAML lets the last one win.

    Aliases are refused: ten lines of them can stand for a billion values.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"line {line}: aliases (*name) are not taken: write the value out")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.YAMLError("it is nested too deeply")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: a key has to be a name")
            if key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value} stands twice")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class HeadedFile:
    """A YAML file whose first comment says what it is for."""

    name: str
    path: Path
    kind: ClassVar[str] = "file"

    @property
    def text(self) -> str:
        """The file as it stands.

        Raises:
            ConfigurationError: It can't be read, or isn't UTF-8.
        """
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self.kind} {self.path} can't be read: {error}") from error

    @property
    def summary(self) -> str:
        """First line of its header; nothing of a file that can't be read."""
        try:
            first = self.text.lstrip().split("\n", 1)[0]
        except ConfigurationError:
            return "(can't be read)"
        return first.lstrip("# ").strip() if first.startswith("#") else ""


@dataclass(frozen=True)
class Recipe(HeadedFile):
    """A recipe file."""

    kind: ClassVar[str] = "recipe"

    def values(self) -> dict[str, Any]:
        """Its values by dotted key.

        Raises:
            ConfigurationError: The file is no YAML mapping.
        """
        try:
            tree = read_yaml(self.text)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"recipe {self.path} can't be read: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigurationError(f"recipe {self.path} holds no keys; see the recipes that "
                                     "`python -m finetune ls` lists for examples")
        return flatten(tree)


def read_yaml(text: str) -> Any:
    """What YAML says.

    Raises:
        yaml.YAMLError: It is none, a key stands twice, or it is made to take all memory.
    """
    try:
        return yaml.load(text, Loader=_OnceLoader)
    except (ValueError, OverflowError) as error:  # numbers and dates that are none
        raise yaml.YAMLError(str(error)) from error


def leads_elsewhere(path: str) -> bool:
    """Whether a path leaves the folder that it starts from; links are not followed.

    >>> leads_elsewhere("labels/a.csv"), leads_elsewhere("a/../../b"), leads_elsewhere("~/b")
    (False, True, True)
    """
    text = os.path.normpath(path.replace("\\", "/"))
    return text.startswith(("/", "~")) or text == ".." or text.startswith("../")


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of mappings as dotted keys; mappings that are values stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name != "optimizer.stage_lrs":
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def recipe_folders() -> list[Path]:
    """Where recipes are looked for, first wins: FINETUNE_RECIPE_PATH, checkout or wheel."""
    return shipped_folders("recipes", "FINETUNE_RECIPE_PATH", holding="baseline.yaml")


def shipped_folders(name: str, variable: str, *, holding: str) -> list[Path]:
    """Folders of a variable, then the one that came with the program.

    Args:
        name: Of the folder in a checkout; in a wheel ``_name`` inside the package.
        variable: Holds folders, divided as PATH is.
        holding: A file by which the checkout's folder is known.
    """
    own = Path(__file__).parent
    listed = os.environ.get(variable, "").split(os.pathsep)
    candidates = [Path(p).expanduser() for p in listed if p]
    checkout = own.parent / name
    candidates.append(checkout if (checkout / holding).exists() else own / f"_{name}")
    return [folder for folder in candidates if folder.is_dir()]


def yaml_files(folders: Iterable[Path]) -> dict[str, Path]:
    """YAML files by their names; the first folder wins."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            found.setdefault(path.stem, path)
    return found


def list_recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    return {name: Recipe(name, path) for name, path in yaml_files(recipe_folders()).items()}


def find_recipe(name: str) -> Recipe:
    """The recipe of a name, or of a path to a YAML file.

    Raises:
        ConfigurationError: There is none; the message lists what there is.
    """
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return Recipe(path.stem, path)
    known = list_recipes()
    if name in known:
        return known[name]
    if path.is_dir() or (path.parent.is_dir() and len(path.parts) > 1):
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")])
        raise ConfigurationError(f"recipe={name}: {path} is no .yaml file{near}")
    raise ConfigurationError(f"no recipe {name!r}{did_you_mean(name, known)}; there are "
                             f"{', '.join(sorted(known))}, or a path to a .yaml file")
