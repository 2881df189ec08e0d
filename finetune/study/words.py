"""The words of a study: lists by Hydra's grammar, ``study.KEY=``, launcher; texts stay whole."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from finetune.config import text_fields
from finetune.dotted import code_in, trust
from finetune.errors import ConfigurationError, did_you_mean
from finetune.rehearsal import SOURCES
from finetune.values import known_keys

__all__ = ["SETTINGS", "StudyWords", "read_numbers", "read_study_words",
           "split_values"]

SETTINGS = ("study", "study.arms", "study.seeds", "study.rates", "study.search_seeds",
            "study.reference", "study.metric")
# Texts that are names, which have no commas: lists of them are written as lists of numbers are.
NAMES = ("recipe", "model.name", "model.weights", "model.pooling", "optimizer.name",
         "data.transform", "training.select_metric")
# What decides which pictures are in which part: one value for all members.
_ONE_FOR_ALL = {"data.root", "data.val_fraction", "data.test_fraction", "data.split_seed",
                "data.label_kind", "data.class_order", "data.near_duplicates",
                "data.measure_test", "output_dir", *SOURCES}
_PIECE = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,]*?)\s*(?:,|$)""", re.DOTALL)


@dataclass(frozen=True)
class StudyWords:
    """What was typed.

    Attributes:
        typed: Key to its one value.
        lists: Key to its values.
        settings: Those of `SETTINGS`.
        hydra: Words of the launcher.
        sweeper: Words of the sweeper.
        intervals: Key to ``interval(A,B)``, which only a sweeper takes.
    """

    typed: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    hydra: list[str] = field(default_factory=list)
    sweeper: list[str] = field(default_factory=list)
    intervals: dict[str, str] = field(default_factory=dict)


def read_study_words(words: Sequence[str]) -> StudyWords:
    """The words of a study by what they are for.

    Raises:
        ConfigurationError: One message for everything that is wrong.
    """
    found = StudyWords()
    problems: list[str] = []
    with_lists = bool({"-m", "--multirun"} & set(words))
    for word in words:
        if word in ("-m", "--multirun"):
            continue
        key, equals, value = word.partition("=")
        key = re.sub(r"^hydra/(launcher|sweeper)\.", r"hydra.\1.", key)
        if not equals:
            problems.append(f"{word!r} is no key=value")
        elif key.startswith("hydra"):
            _take_hydra(found, key, value, problems)
        elif key.split(".")[0] == "study":
            _take_setting(found, key, value, problems)
        elif with_lists and _is_interval(key, value):
            problems += _take(found, key, value, [])
        else:
            values = split_values(key, value) if with_lists else [value]
            problems += _take(found, key, value, values)
    if not with_lists and "study" not in found.settings:
        problems.append("a launcher and study.KEY= are for studies: add study=NAME, or -m and a "
                        "list of values")
    if not found.sweeper:
        problems += [f"{key}={text}: a study takes single values, such as {key}=1e-4,1e-3; "
                     "intervals need hydra/sweeper=optuna" for key, text in found.intervals.items()]
    if problems:
        raise ConfigurationError("\n".join(problems))
    trust(code_in([*(f"{key}={value}" for key, value in found.typed.items()),
                   *(f"{key}={value}" for key, own in found.lists.items() for value in own)]))
    return found


def _take(found: StudyWords, key: str, text: str, values: list[str]) -> list[str]:
    found.typed.pop(key, None)
    found.lists.pop(key, None)
    found.intervals.pop(key, None)
    if len(values) == 1:
        found.typed[key] = values[0]
        return []
    if values:
        found.lists[key] = values
    else:
        found.intervals[key] = text
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        return [f"{key}={text}: {', '.join(twice)} stands twice"]
    return [f"{key}={text}: members of a study are compared on the same pictures, so {key} is one "
            "for all; start a study for each"] if key in _ONE_FOR_ALL else []


def _take_setting(found: StudyWords, key: str, value: str, problems: list[str]) -> None:
    if key not in SETTINGS:
        problems.append(f"unknown key {key}{did_you_mean(key, SETTINGS)}; there are "
                        f"{', '.join(SETTINGS)}")
    found.settings[key] = value


def _take_hydra(found: StudyWords, key: str, value: str, problems: list[str]) -> None:
    if key == "hydra/launcher" or key.startswith("hydra.launcher."):
        found.hydra.append(f"{key}={value}")
    elif key in ("hydra/sweeper", "hydra/sweeper/sampler") or key.startswith("hydra.sweeper."):
        found.sweeper.append(f"{key}={value}")
    else:
        problems.append(f"{key}={value}: of Hydra's own keys a study takes hydra/launcher=NAME, "
                        "hydra.launcher.KEY=VALUE, hydra/sweeper=optuna and "
                        "hydra.sweeper.KEY=VALUE; folders are chosen with output_dir")


def _is_interval(key: str, text: str) -> bool:
    if key in text_fields() or key not in known_keys():
        return False
    try:
        return OverridesParser.create().parse_override(f"{key}={text}").is_interval_sweep()
    except HydraException:
        return False


def split_values(key: str, text: str) -> list[str]:
    """The values of a list, as texts that follow ``key=``; one where it is none.

    Hydra's grammar, except for texts: names (networks, presets, recipes) are divided at commas
    outside quotes, every other text is one value unless it is written ``choice(…)``.

    >>> split_values("seed", "range(3)"), split_values("model.name", "resnet18,resnet50")
    (['0', '1', '2'], ['resnet18', 'resnet50'])
    >>> split_values("data.root", "a, b"), split_values("data.transform", '"a,b"')
    (['a, b'], ['a,b'])

    Raises:
        ConfigurationError: An interval.
    """
    if key in NAMES or key in text_fields():
        return _split_text(key, text)
    if key not in known_keys():
        return [text]
    try:
        read = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException:
        return [text]
    if not read.is_sweep_override():
        return [text]
    if not read.is_discrete_sweep():
        raise ConfigurationError(f"{key}={text}: a study takes single values, such as "
                                 f"{key}=1e-4,1e-3, not intervals")
    return list(read.sweep_string_iterator())


def _split_text(key: str, text: str) -> list[str]:
    chosen = re.fullmatch(r"choice\((.*)\)", text, re.DOTALL)
    if chosen is None and (key not in NAMES or "," not in text
                           or Path(text).expanduser().exists()):
        return [text]
    inner, values, at = chosen[1] if chosen else text, [], 0
    while at < len(inner):
        piece = _PIECE.match(inner, at)
        if piece is None:
            return [text]
        values.append(_unquoted(piece[1]))
        at = piece.end()
    return values or [text]


def _unquoted(piece: str) -> str:
    quoted = len(piece) > 1 and piece[0] == piece[-1] and piece[0] in "\"'"
    return re.sub(r"\\(.)", r"\1", piece[1:-1], flags=re.DOTALL) if quoted else piece


def read_numbers(key: str, text: str, kind: type) -> list[float]:
    """The numbers of ``study.seeds=0,1,2``, ``[0,1,2]`` or ``range(3)``; none of ``null``.

    Raises:
        ConfigurationError: Something else stands there.
    """
    inner = text.strip().removeprefix("[").removesuffix("]")
    if inner in ("", "null", "none"):
        return []
    name = "seed" if kind is int else "optimizer.lr"
    try:
        values = [kind(value) for value in split_values(name, inner)]
    except ValueError:
        values = []
    if not values or min(values) < 0 or len(set(values)) < len(values):
        raise ConfigurationError(f"{key}={text}: expected different numbers, such as "
                                 f"{key}={'0,1,2' if kind is int else '0.1,1,10'}")
    return values
