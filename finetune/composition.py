"""From words on the command line to a checked `Config`: schema < recipe < rehearsal < command line.

Hydra composes; what its grammar would refuse or misread (text values) is quoted before, and all
problems are gathered before it sees anything, so that one message names them all.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config import Config, check_ranges, text_fields
from finetune.errors import ConfigurationError, did_you_mean
from finetune.recipes import Recipe, find_recipe

__all__ = ["Composed", "compose", "known_keys", "load_config", "override"]

_PATHS = {"data.root", "data.labels_file", "data.splits_file", "output_dir", "model.weights"}
_SOURCES = ("data.format", "data.labels_file", "data.path_column", "data.label_column",
            "data.label_separator", "data.split_column", "data.group_column", "data.group_from",
            "data.splits_file", "data.positive_class", "data.split", "data.waiver",
            "data.duplicates", "data.unreadable", "data.channels")
# What a rehearsal replaces: data, model name and weights, picture and batch size, epochs.
REHEARSAL = {"model.name": "resnet10t", "model.weights": None, "data.image_size": 64,
             "data.batch_size": 16, "training.epochs": 6}


@dataclass
class _Root(Config):
    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"recipe": None}])


@dataclass(frozen=True)
class Composed:
    """A checked configuration.

    Attributes:
        config: All values.
        overrides: The words it was made from.
        replaced: In a rehearsal, what it replaced: key to (recipe's value, rehearsal's value).
    """

    config: Config
    overrides: tuple[str, ...]
    replaced: dict[str, tuple[Any, Any]] | None


def compose(words: Sequence[str]) -> Composed:
    """The configuration that ``key=value`` words describe.

    Raises:
        ConfigurationError: One message for everything that is wrong.
    """
    problems: list[str] = []
    given = dict(_split_word(word, problems) for word in words)
    recipe = _recipe(given.pop("recipe", None), problems)
    problems += [p for key, value in given.items() if (p := _key_problem(key, value))]
    if problems:
        raise ConfigurationError("\n".join(problems))
    typed = {key: _quoted(key, value) for key, value in given.items()}
    config = _composed(recipe, typed)
    replaced = None
    if config.data.root is None:
        _refuse_half_rehearsal(given)
        replaced = {k: (_value(config, k), v) for k, v in REHEARSAL.items() if k not in given}
        config = _composed(recipe, {k: override(k, v) for k, (_, v) in replaced.items()} | typed)
    check_ranges(config)
    return Composed(config, tuple(words), replaced)


def load_config(path: Path) -> Config:
    """The `Config` that a run directory's ``config.yaml`` holds.

    Raises:
        ConfigurationError: The file is missing or fits another version.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        config = OmegaConf.to_object(merged)
    except (OSError, OmegaConfBaseException) as error:
        raise ConfigurationError(f"{path} can't be read as a configuration: {error}") from error
    assert isinstance(config, Config)
    return config


def known_keys(schema: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every key of the schema with its type."""
    found: dict[str, Any] = {}
    for each in fields(schema):
        if is_dataclass(each.type) and isinstance(each.type, type):
            found |= known_keys(each.type, f"{prefix}{each.name}.")
        else:
            found[prefix + each.name] = each.type
    return found


def override(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar for any plain value.

    >>> override("data.root", "a, b"), override("training.epochs", 3), override("model.weights", None)
    ("data.root='a, b'", 'training.epochs=3', 'model.weights=null')
    """
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, str):
        # OmegaConf must not read ${…}; Hydra wants quotes and what precedes them escaped
        text = value.replace("${", "\\${")
        return "'" + _escape_quotes(text) + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_literal(v) for v in value) + "]"
    return json.dumps(value)


def _escape_quotes(text: str) -> str:
    # backslashes count double in front of a quote and at the end, and once elsewhere
    return re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), text)


def _split_word(word: str, problems: list[str]) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        problems.append(f"{word!r} is no key=value{did_you_mean(word, known_keys())}")
    elif key[:1] in "+~":
        problems.append(f"{word!r}: keys can't be added or removed, write "
                        f"{key.lstrip('+~')}={value or 'null'}")
    return key, value


def _recipe(name: str | None, problems: list[str]) -> Recipe | None:
    if name in (None, "", "null", "none"):
        return None
    try:
        assert name is not None
        recipe = find_recipe(name)
        wrong = [p for k, v in recipe.values().items() if (p := _value_problem(k, v))]
        problems += [f"in recipe {recipe.path.name}: {p}" for p in wrong]
        return recipe
    except ConfigurationError as error:
        problems.append(str(error))
        return None


def _key_problem(key: str, value: str) -> str | None:
    if key[:1] in "+~":
        return None
    if key in text_fields():
        empty = not value.strip() and key == "data.root"
        return ("data.root= is empty: give a folder, a CSV file or an .npz file; leave the key "
                "out for a rehearsal on generated pictures") if empty else None
    if key not in known_keys():
        return _unknown(key)
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException as error:
        return f"{key}={value} can't be read: {str(error).splitlines()[0]}"
    if parsed.is_sweep_override():
        return f"{key}={value}: several values need -m"
    return _value_problem(key, parsed.value())


def _unknown(key: str) -> str:
    known = known_keys()
    ends = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = difflib.get_close_matches(key, list(known), 2, 0.6)
    hint = [*ends, *near][:2]
    if key.startswith("optimizer.stage_lrs."):
        return f"unknown key {key}: write optimizer.stage_lrs={{STAGE:RATE}}"
    tail = f" (did you mean {' or '.join(hint)}?)" if hint else ""
    return f"unknown key {key}{tail}"


def _value_problem(key: str, value: Any) -> str | None:
    known = known_keys()
    if key not in known:
        return _unknown(key)
    try:
        OmegaConf.update(OmegaConf.structured(Config), key, value)
    except OmegaConfBaseException as error:
        return f"{key}={value}: expected {_expected(known[key], str(value), error)}"
    return None


def _expected(kind: Any, value: str, error: Exception) -> str:
    options = [*getattr(kind, "__args__", ()), kind]
    choices = [k for k in options if isinstance(k, type) and issubclass(k, StrEnum)]
    if choices:
        members = [m.value for m in choices[0]]
        return f"one of {', '.join(members)}{did_you_mean(value, members)}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    named = [plain[k] for k in options if k in plain]
    return named[0] if named else str(error).splitlines()[0]


def _quoted(key: str, value: str) -> str:
    if key == "optimizer.stage_lrs":
        return f"++{key}={value}"  # Hydra lets new keys of a mapping in only so
    if key not in text_fields() or value == "null":
        return f"{key}={value}"
    expand = key in _PATHS and value.startswith("~")
    return override(key, str(Path(value).expanduser()) if expand else value)


def _composed(recipe: Recipe | None, typed: Mapping[str, str]) -> Config:
    store = ConfigStore.instance()
    store.store(name="finetune_config", node=_Root)
    words = list(typed.values())
    if recipe is not None:
        tree = OmegaConf.create({"recipe": recipe.name})
        for key, value in recipe.values().items():
            OmegaConf.update(tree, key, value)
        store.store(group="recipe", name=recipe.name, node=tree, package="_global_")
        words.insert(0, f"recipe={recipe.name}")
    try:
        with initialize(version_base="1.3", config_path=None):
            config = OmegaConf.to_object(hydra_compose("finetune_config", overrides=words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(str(error)) from error
    assert isinstance(config, Config)
    return Config(**{f.name: getattr(config, f.name) for f in fields(Config)})


def _refuse_half_rehearsal(given: Mapping[str, str]) -> None:
    wrong = [key for key in given if key in _SOURCES]
    if wrong:
        raise ConfigurationError(
            f"{', '.join(wrong)} without data.root: a rehearsal takes no data of its own; "
            "add data.root=DIR, or leave the key out")
    weights = given.get("model.weights")
    if weights == "bundled" and "model.name" in given:
        raise ConfigurationError("model.weights=bundled brings its own network: leave out "
                                 f"model.name={given['model.name']}")


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
