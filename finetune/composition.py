"""From words on the command line to a checked `Config`: schema < recipe < rehearsal < command line.

Hydra composes. Text values never pass through its grammar, nor through OmegaConf's interpolation,
and all problems are gathered before it sees anything, so that one message names them all.
"""

import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config import Config, text_fields
from finetune.errors import ConfigurationError, did_you_mean
from finetune.ranges import check_ranges
from finetune.recipes import Recipe, find_recipe, flatten

__all__ = ["Composed", "compose", "dump_config", "known_keys", "load_config", "override"]

_PATHS = {"data.root", "data.labels_file", "data.splits_file", "output_dir", "model.weights"}
_SOURCES = ("data.format", "data.labels_file", "data.path_column", "data.label_column",
            "data.label_separator", "data.split_column", "data.group_column", "data.group_from",
            "data.splits_file", "data.positive_class", "data.split", "data.waiver",
            "data.duplicates", "data.unreadable", "data.channels")
# What a rehearsal replaces: data, model name and weights, picture and batch size, epochs.
REHEARSAL = {"model.name": "resnet10t", "model.weights": None, "data.image_size": 64,
             "data.batch_size": 8, "training.epochs": 8}


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
    config = _composed(recipe, given)
    replaced = None
    if config.data.root is None:
        _refuse_half_rehearsal(given)
        replaced = {k: (_get(config, k), v) for k, v in REHEARSAL.items() if k not in given}
        config = _composed(recipe, {k: _word(v) for k, (_, v) in replaced.items()} | given)
    check_ranges(config)
    return Composed(config, tuple(words), replaced)


def load_config(path: Path) -> Config:
    """The `Config` that a run directory's ``config.yaml`` holds.

    Raises:
        ConfigurationError: The file is missing or fits another version.
    """
    try:
        flat = flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
        texts = {key: flat.pop(key) for key in text_fields() if key in flat}
        tree = OmegaConf.structured(Config)
        for key, value in flat.items():
            OmegaConf.update(tree, key, value)
        config = OmegaConf.to_object(tree)
    except (OSError, AttributeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigurationError(f"{path} can't be read as a configuration: {error}") from error
    assert isinstance(config, Config)
    for key, value in texts.items():
        _set(config, key, value)
    return config


def dump_config(config: Config) -> str:
    """The configuration as YAML, every key with its value; `load_config` reads it."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


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
    """The word ``key=value`` for any plain value, as the command line takes it.

    >>> override("data.root", "a, b"), override("model.weights", None)
    ('data.root=a, b', 'model.weights=null')
    """
    return f"{key}={value if isinstance(value, str) else _word(value)}"


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_word(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_word(v) for v in value) + "]"
    return str(value) if isinstance(value, str) else json.dumps(value)


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


def _composed(recipe: Recipe | None, given: Mapping[str, str]) -> Config:
    store = ConfigStore.instance()
    store.store(name="finetune_config", node=_Root)
    words = [f"{'++' if key == 'optimizer.stage_lrs' else ''}{key}={value}"
             for key, value in given.items() if key not in text_fields()]
    if recipe is not None:
        store.store(group="recipe", name=recipe.name, node=_recipe_node(recipe),
                    package="_global_")
        words.insert(0, f"recipe={recipe.name}")
    try:
        with initialize(version_base="1.3", config_path=None):
            whole = OmegaConf.to_object(hydra_compose("finetune_config", overrides=words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(str(error)) from error
    config = Config(**{f.name: getattr(whole, f.name) for f in fields(Config)})
    for key, value in given.items():
        if key in text_fields():
            _set(config, key, _text(key, value))
    return config


def _recipe_node(recipe: Recipe) -> DictConfig:
    tree = OmegaConf.create({"recipe": recipe.name})
    for key, value in recipe.values().items():
        OmegaConf.update(tree, key, value)
    return tree


def _text(key: str, value: str) -> str | None:
    if value == "null":
        return None
    return str(Path(value).expanduser()) if key in _PATHS and value.startswith("~") else value


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


def _get(config: Config, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


def _set(config: Config, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    setattr(functools.reduce(getattr, parents, config), last, value)
