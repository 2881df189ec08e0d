"""Single values of the configuration: is the key known, the type right, the number in range?"""

import difflib
import functools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config import Config, Phase, text_fields
from finetune.errors import did_you_mean, first_of
from finetune.ranges import range_problem
from finetune.recipes import read_yaml

__all__ = ["get_value", "is_section", "known_keys", "read_text", "typed_value", "value_problem",
           "without_auto", "word_problem"]

_AUTO = {"data.batch_size"}  # numbers for which ``auto`` is written instead of null

# Keys whose values have a structure: told by an example.
_EXAMPLES = {"freezing.phases": "[{epochs:2,depths:head},{epochs:8,depths:all,lr:1e-4}]",
             "decisions.costs": "[[0,1],[5,0]]",
             "optimizer.stage_lrs": "{layer4:1e-3,layer3:1e-4}", "tracking.tags": "[first,second]"}


def known_keys(schema: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every key of the schema with its type."""
    found: dict[str, Any] = {}
    for each in fields(schema):
        if is_dataclass(each.type) and isinstance(each.type, type):
            found |= known_keys(each.type, f"{prefix}{each.name}.")
        else:
            found[prefix + each.name] = each.type
    return found


def get_value(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    return functools.reduce(getattr, key.split("."), config)


def word_problem(key: str, text: str) -> str | None:
    """What is wrong with a typed ``key=text``, or None."""
    if key not in known_keys():
        return _unknown(key)
    if key in text_fields():
        return _text_problem(key, text)
    return _sweep_problem(key, text) or value_problem(key, read_text(key, text), shown=text)


def value_problem(key: str, value: Any, *, shown: str | None = None) -> str | None:
    """What is wrong with a value of a key, or None; ``shown`` is how the user wrote it."""
    if key not in known_keys():
        return _unknown(key)
    shown = str(value) if shown is None else shown
    value = without_auto(key, value)
    if key in text_fields():
        is_text = not isinstance(value, bool | list | Mapping)
        return _text_problem(key, "null" if value is None else shown) if is_text else (
            f"{key}={shown}: expected a text, in quotes where YAML would read something else")
    if "${" in str(value):  # it would read variables of the environment, keys among them
        return f"{key}={shown}: expected {_expected(key, shown)}, nothing that stands for another"
    try:
        typed = typed_value(key, value)
    except OmegaConfBaseException as error:
        return f"{key}={shown}: expected {_expected(key, shown, error)}"
    return range_problem(key, typed)


def _text_problem(key: str, text: str) -> str | None:
    if key == "data.root" and not text.strip():
        return ("data.root= is empty: give a folder, a CSV file or an .npz file; leave the key "
                "out for a rehearsal on generated pictures")
    if known_keys()[key] is str and text.strip() in ("", "null"):
        return f"{key}={text}: expected a text; leave the key out for its default"
    return None


def typed_value(key: str, value: Any) -> Any:
    """The value as the schema has it.

    Raises:
        OmegaConfBaseException: It is of another type.
    """
    if key == "optimizer.stage_lrs" and isinstance(value, Mapping):
        value = {str(stage): rate for stage, rate in value.items()}
    if key == "decisions.costs" and isinstance(value, list):  # whole numbers are numbers
        value = [[float(cost) if type(cost) is int else cost for cost in row]
                 if isinstance(row, list) else row for row in value]
    section, _, name = key.rpartition(".")  # alone, which is quicker than the whole schema
    tree = OmegaConf.structured(type(get_value(Config(), section)) if section else Config)
    OmegaConf.update(tree, name, value)
    return getattr(OmegaConf.to_object(tree), name)


def read_text(key: str, text: str) -> Any:
    """A typed value that isn't free text, by Hydra's grammar; text where that can't read it."""
    try:
        return without_auto(key, OverridesParser.create().parse_override(f"{key}={text}").value())
    except (HydraException, ValueError, RecursionError):  # it takes ASCII only, and short numbers
        return _read_list(text) if key == "tracking.tags" else text


def without_auto(key: str, value: Any) -> Any:
    """The value; None for ``auto`` where a number is expected that the run finds itself.

    >>> without_auto("data.batch_size", "auto"), without_auto("data.root", "auto")
    (None, 'auto')
    """
    return None if key in _AUTO and value == "auto" else value


def _read_list(text: str) -> Any:
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        return text


def _sweep_problem(key: str, text: str) -> str | None:
    try:
        is_sweep = OverridesParser.create().parse_override(f"{key}={text}").is_sweep_override()
    except (HydraException, ValueError, RecursionError):
        return None
    return (f"{key}={text}: expected {_expected(key, '')}, not several (a study of several values "
            "needs -m)") if is_sweep else None


def is_section(key: str) -> bool:
    """Whether keys lie below this one."""
    return any(k.startswith(f"{key}.") for k in known_keys())


def _unknown(key: str) -> str:
    if key.startswith("optimizer.stage_lrs."):
        return f"unknown key {key}: write optimizer.stage_lrs={{STAGE:RATE}}"
    known = known_keys()
    if is_section(key):
        inside = [k for k in known if k.startswith(f"{key}.")]
        return f"{key} is a section, not a key; it has {first_of(inside)}"
    last = key.rsplit(".", 1)[-1].lower()
    ends = [k for k in known if k.rsplit(".", 1)[-1] == last]
    near = difflib.get_close_matches(key.lower(), list(known), 2, 0.7)
    hint = list(dict.fromkeys([*ends, *near]))[:2]
    tail = f" (did you mean {' or '.join(hint)}?)" if hint else ""
    return f"unknown key {key}{tail}; `python -m finetune keys` lists all"


def _expected(key: str, text: str, error: Exception | None = None) -> str:
    kind = known_keys()[key]
    if key in _EXAMPLES:
        reason = f" ({_plainly(str(error).splitlines()[0])})" if error else ""
        return f"something like {_EXAMPLES[key]}{reason}"
    options = [*getattr(kind, "__args__", ()), kind]
    choices = [k for k in options if isinstance(k, type) and issubclass(k, StrEnum)]
    if choices:
        members = [m.value for m in choices[0]]
        return f"one of {', '.join(members)}{did_you_mean(text, members)}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    unset = ", or auto" if key in _AUTO else ", or null" if type(None) in options else ""
    return next(plain[k] for k in options if k in plain) + unset


def _plainly(reason: str) -> str:
    if "not in 'Phase'" in reason:
        return f"{reason.split(' not in')[0].lower()} is none of {', '.join(_phase_keys())}"
    return reason


def _phase_keys() -> list[str]:
    return [each.name for each in fields(Phase)]
