"""From words on the command line to a checked `Config`: schema < recipe < rehearsal < command line.

Hydra composes. Texts and structures never pass through its grammar, nor through OmegaConf's
interpolation, and all problems are gathered, so that one message names them all.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config import Config, text_fields
from finetune.dotted import CODE_KEYS, code_in, named_by, trust
from finetune.errors import ConfigurationError, did_you_mean
from finetune.models.architectures import ARCHITECTURES
from finetune.ranges import contradictions
from finetune.recipes import Recipe, find_recipe, flatten, leads_elsewhere, read_yaml
from finetune.rehearsal import fits_only_the_head, half_rehearsal, replacements
from finetune.values import (
    get_value,
    is_section,
    known_keys,
    read_text,
    typed_value,
    value_problem,
    without_auto,
    word_problem,
)

__all__ = ["Composed", "compose", "dump_config", "load_config", "override", "reach_problems"]

_PATHS = {"data.root", "data.labels_file", "data.splits_file", "output_dir", "model.weights"}
_INSIDE = ("data.labels_file", "data.splits_file", "output_dir", "model.weights")
_LEAVES = ("tracking.pictures", "tracking.upload_model")
_STRUCTURES = {"decisions.costs", "freezing.phases", "optimizer.stage_lrs", "tracking.tags"}
_CHOSEN = "chosen"  # the recipe's name inside Hydra, whatever its file is called


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
        notes: What was odd about the words, as plain sentences.
    """

    config: Config
    overrides: tuple[str, ...]
    replaced: dict[str, tuple[Any, Any]] | None
    notes: tuple[str, ...] = ()


def compose(words: Sequence[str], *, typed_by_user: bool = True,
            check_names: Callable[[Config, Collection[str]], list[str]] | None = None) -> Composed:
    """The configuration that ``key=value`` words describe.

    Args:
        words: As typed.
        typed_by_user: False for words that come from a file: code that they name is refused, see
            `finetune.dotted`. Code in a recipe is, anyway.
        check_names: Finds problems with the names in a configuration (networks, presets …), given
            the keys to look at: all, or beside other problems those that were typed.

    Raises:
        ConfigurationError: One message for everything that is wrong.
    """
    problems: list[str] = []
    pairs = [pair for word in words if (pair := _split_word(word, problems))]
    typed = dict(pairs)
    recipe = _recipe(typed.pop("recipe", None), problems)
    values = _checked_recipe(recipe, problems) if recipe else {}
    wrong = {k: told for k, text in typed.items() if (told := word_problem(k, text))}
    given = {k: _read(k, text) for k, text in typed.items() if k not in wrong}
    problems += reach_problems(f"recipe {recipe.path.name}", values, given) if recipe else []
    _note_code(recipe, values, words, typed_by_user)
    config, replaced = _rehearsed(recipe, values, given)
    notes = [*_bring_network(config, values, given, problems), *_one_epoch(config, given)]
    problems += [*wrong.values(), *(half_rehearsal(typed) if replaced is not None else ())]
    if not problems:
        problems += contradictions(config)
    if check_names is not None:
        problems += check_names(config, given if problems else known_keys())
    if problems:
        raise ConfigurationError("\n".join(dict.fromkeys(problems)))
    return Composed(config, tuple(words), replaced, (*_repeated(pairs), *notes))


def _note_code(recipe: Recipe | None, values: Mapping[str, Any], words: Sequence[str],
               typed_by_user: bool) -> None:
    """What was typed may run code; what only stands in a recipe or a study may not."""
    if recipe is not None:
        named_by(f"recipe {recipe.path}", [f"{key}={values[key]}" for key in CODE_KEYS
                                           if key in values])
    if typed_by_user:
        trust(code_in(words))
    else:
        named_by("the study", words)


def reach_problems(origin: str, values: Mapping[str, Any], given: Collection[str]) -> list[str]:
    """What a recipe or study may not reach unless it was typed: other folders, other machines.

    Args:
        origin: The file, for messages.
        values: Of the file, by key.
        given: Keys that were typed, too.
    """
    paths = {key: str(values[key]) for key in _INSIDE if values.get(key) and key not in given}
    told = [f"in {origin}: {key}={value} leads elsewhere, and such a file may only name what lies "
            f"below data.root or the current folder; if you want that, type {key}={value} too"
            for key, value in paths.items() if leads_elsewhere(value)]
    return told + [f"in {origin}: {key}=true lets data leave this machine; if you want that, type "
                   f"{key}=true too" for key in _LEAVES
                   if str(values.get(key) or "false").lower() != "false" and key not in given]


def _rehearsed(recipe: Recipe | None, values: Mapping[str, Any], given: Mapping[str, Any],
               ) -> tuple[Config, dict[str, tuple[Any, Any]] | None]:
    """The configuration, and what a rehearsal replaced in it."""
    config = _composed(recipe, values, given)
    if config.data.root is not None:
        return config, None
    replaced = replacements(config, values, given)
    taken = {key: value for key, (_, value) in replaced.items()}
    return _composed(recipe, values, {**taken, **given}), replaced


def _bring_network(config: Config, values: Mapping[str, Any], given: Mapping[str, Any],
                   problems: list[str]) -> list[str]:
    """Put the network in place that weights bring with them, and tell so.

    A recipe's name gives way, a typed one doesn't: that is a problem.
    """
    weights, name = config.model.weights, config.model.name
    brought = ARCHITECTURES.get(weights or "", name)
    if brought == name:
        return []
    if "model.name" in given:
        problems.append(f"model.weights={weights} brings its own network, {brought}: leave out "
                        f"model.name={name}, or choose other weights")
        return []
    config.model.name = brought
    return [f"model.weights={weights} brings its own network: model.name={brought} instead of the "
            f"recipe's {name}"] if "model.name" in values else []


def _one_epoch(config: Config, given: Mapping[str, Any]) -> list[str]:
    """One epoch for a classifier that is fitted at once and alone; tells so if more were typed."""
    if not fits_only_the_head(config):
        return []
    config.training.epochs = 1
    return [f"training.head_fit=exact is done after one epoch: training.epochs=1 instead of "
            f"{given['training.epochs']}"] if given.get("training.epochs", 1) != 1 else []


def _repeated(pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    keys = [key for key, _ in pairs]
    return tuple(f"{key} is given {keys.count(key)} times; the last one, {key}={value}, counts"
                 for key, value in dict(pairs).items() if keys.count(key) > 1)


def load_config(path: Path) -> Config:
    """The `Config` that a run directory's ``config.yaml`` holds.

    Raises:
        ConfigurationError: The file is missing or fits another version.
    """
    try:
        flat = flatten(read_yaml(path.read_text(encoding="utf-8")))
        named_by(path, [f"{key}={flat.get(key)}" for key in CODE_KEYS])
        texts = {key: flat.pop(key) for key in text_fields() if key in flat}
        if any("${" in str(value) for value in flat.values()):
            raise ValueError("${…} stands for another value, which no run writes")
        tree = OmegaConf.structured(Config)
        for key, value in flat.items():
            OmegaConf.update(tree, key, without_auto(key, value))
        config = OmegaConf.to_object(tree)
    except (OSError, AttributeError, ValueError, TypeError, yaml.YAMLError,
            OmegaConfBaseException) as error:
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


def override(key: str, value: Any) -> str:
    """The word ``key=value`` for any plain value, as the command line takes it.

    Paths, numpy's numbers and arrays, and members of enumerations are plain enough.

    >>> override("data.root", "a, b"), override("tracking.tags", ["a, b", 1])
    ('data.root=a, b', 'tracking.tags=["a, b",1]')

    Raises:
        ConfigurationError: It is something else.
    """
    return f"{key}={value if isinstance(value, str) else _word(key, value)}"


def _word(key: str, value: Any) -> str:
    value = value.tolist() if hasattr(value, "tolist") else value  # numpy's
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_word(key, v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_word(key, v) for v in value) + "]"
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Path):
        return str(value)
    raise ConfigurationError(f"{key}: a {type(value).__name__} can't be a value; expected a text, "
                             "a number, True, False, None, a path, a list or a dictionary")


def _quoted(text: str) -> str:
    """By Hydra's rule: backslashes count only before a quote."""
    inner = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
    return f'"{inner}"'


def _split_word(word: str, problems: list[str]) -> tuple[str, str] | None:
    key, equals, value = word.partition("=")
    if key.startswith(("+", "~")):
        plain = key.lstrip("+~")
        problems.append(f"{word!r}: keys can't be added or removed, write {plain}={value or 'null'}"
                        if plain in known_keys() else f"{word!r}: keys can't be added or removed, "
                        f"and there is no key {plain}{did_you_mean(plain, known_keys())}")
    elif not equals or not key:
        problems.append(f"{word!r} is no key=value{did_you_mean(key, known_keys())}")
    else:
        return key, value
    return None


def _recipe(name: str | None, problems: list[str]) -> Recipe | None:
    if name in (None, "null", "none"):
        return None
    assert name is not None
    if not name.strip():
        problems.append("recipe= is empty: give a name or a path to a .yaml file, or leave it out")
        return None
    try:
        return find_recipe(name)
    except ConfigurationError as error:
        problems.append(str(error))
        return None


def _checked_recipe(recipe: Recipe, problems: list[str]) -> dict[str, Any]:
    """The recipe's values that are right; what is wrong with the others is told."""
    try:
        values = {k: v for k, v in recipe.values().items() if v is not None or not is_section(k)}
    except ConfigurationError as error:
        problems.append(str(error))
        return {}
    wrong = {key: text for key, value in values.items() if (text := value_problem(key, value))}
    problems += [f"in recipe {recipe.path.name}: {text}" for text in wrong.values()]
    return {key: without_auto(key, value) for key, value in values.items() if key not in wrong}


def _read(key: str, text: str) -> Any:
    """The value of a typed word: free text as it is."""
    if key in text_fields():
        return None if text == "null" else text
    return read_text(key, text)


def _composed(recipe: Recipe | None, values: Mapping[str, Any], given: Mapping[str, Any],
              ) -> Config:
    """By Hydra; texts and structures are put in afterwards, as they are."""
    late = text_fields() | _STRUCTURES
    store = ConfigStore.instance()
    store.store(name="finetune_config", node=_Root)
    words = [f"{key}={_word(key, value)}" for key, value in given.items() if key not in late]
    if recipe is not None:
        store.store(group="recipe", name=_CHOSEN, package="_global_",
                    node=_recipe_node(recipe, {k: v for k, v in values.items() if k not in late}))
        words.insert(0, f"recipe={_CHOSEN}")
    with initialize(version_base="1.3", config_path=None):
        whole = OmegaConf.to_object(hydra_compose("finetune_config", overrides=words))
    config = Config(**{f.name: getattr(whole, f.name) for f in fields(Config)})
    for key, value in {**values, **given}.items():
        if key in late:
            _set(config, key, _late_value(key, value))
    return config


def _recipe_node(recipe: Recipe, values: Mapping[str, Any]) -> DictConfig:
    tree = OmegaConf.create({"recipe": recipe.name})
    for key, value in values.items():
        OmegaConf.update(tree, key, value)
    return tree


def _late_value(key: str, value: Any) -> Any:
    if key in _STRUCTURES:
        return typed_value(key, value)
    if value is None:
        return None
    is_home = key in _PATHS and str(value).startswith("~")
    return str(Path(value).expanduser()) if is_home else str(value)


def _set(config: Config, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    setattr(get_value(config, ".".join(parents)) if parents else config, last, value)
