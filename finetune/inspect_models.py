"""``summary`` and ``ls models``: what networks are made of, and which there are."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn

from finetune.console import say, table
from finetune.errors import ConfigurationError, did_you_mean
from finetune.models.building import build_model
from finetune.models.listing import COUNTED, list_networks
from finetune.models.summary import Memory, NetworkSummary, on_meta, summarise_network

__all__ = ["print_networks", "print_summary"]

# key: smallest and largest value
_RANGES = {"image_size": (16, 8192), "num_classes": (1, 1_000_000), "in_channels": (1, 4096),
           "batch_size": (2, 65536)}
_EPOCHS = 10
_MIB = 2 ** 20


def print_networks(pattern: str | None) -> None:
    """Print the networks that `list_networks` finds."""
    found = list_networks(pattern)
    rows = [[n.name, "-" if n.parameters is None else n.parameters, n.licence, n.weights]
            for n in found]
    title = f"networks like {pattern}" if pattern else "networks"
    table(title, ["model.name", "parameters", "licence of weights", "weights"], rows)
    if pattern is None:
        say(f"A pattern lists others of the {len(timm.list_models())}, for example "
            "`ls models 'resnet*'`. A weights' licence may restrict use further down its sources.")
    elif any(n.parameters is None for n in found):
        say(f"Parameters are counted for at most {COUNTED} networks: narrow the pattern.")


def print_summary(name: str, words: Sequence[str], *, as_json: bool) -> None:
    """Print what a network is made of, as tables or as one JSON document.

    Raises:
        ConfigurationError: An unknown network or key, a value out of range, or pictures that the
            network doesn't take. All problems of the words are told at once.
    """
    given = _settings(name, _read(words))
    found = _summarise(name, given)
    if as_json:
        sys.stdout.write(json.dumps(_document(name, given, found), indent=2) + "\n")
    else:
        _print_tables(name, given, found)


def _read(words: Sequence[str]) -> dict[str, int]:
    values: dict[str, int] = {}
    problems = []
    for word in words:
        key, _, text = word.partition("=")
        if key not in _RANGES:
            problems.append(f"summary has no key {key!r}{did_you_mean(key, _RANGES)}; there are "
                            f"{', '.join(_RANGES)}")
            continue
        low, high = _RANGES[key]
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            problems.append(f"{word}: expected a whole number, {low} to {high}")
        elif key in values:
            problems.append(f"{key} is given twice")
        else:
            values[key] = int(text)
    if problems:
        raise ConfigurationError("\n".join(problems))
    return values


def _settings(name: str, given: dict[str, int]) -> dict[str, Any]:
    """The given values, for the others what the network was made for."""
    if "=" in name:
        raise ConfigurationError(f"{name}: the network's name comes first, for example "
                                 f"summary resnet18 {name}")
    own = _own_settings(name)
    channels, *size = own.input_size if own else (3, 224, 224)
    defaults = {"in_channels": channels, "num_classes": (own and own.num_classes) or 1000,
                "batch_size": 32}
    pair = (given["image_size"],) * 2 if "image_size" in given else tuple(size)
    return defaults | {k: v for k, v in given.items() if k != "image_size"} | {"size": pair}


def _own_settings(name: str) -> PretrainedCfg | None:
    """timm's, if it knows the name; building it tells what is wrong."""
    try:
        return None if ":" in name else get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # an unknown tag
        return None


def _summarise(name: str, given: dict[str, Any]) -> NetworkSummary:
    try:
        return _measure(name, given, _on_meta(name, given))
    except (ConfigurationError, RuntimeError, TypeError) as error:
        if "meta" not in str(error) and not isinstance(error.__cause__, NotImplementedError):
            raise
    return _measure(name, given, _build(name, given))  # it looks at values: they are computed


def _measure(name: str, given: dict[str, Any], model: nn.Module) -> NetworkSummary:
    try:
        return summarise_network(model, size=given["size"], in_channels=given["in_channels"],
                                 batch_size=given["batch_size"], epochs=_EPOCHS)
    except ConfigurationError as error:
        own = tuple((getattr(model, "pretrained_cfg", None) or {}).get("input_size", ()))
        hint = f"; it was made for {own[1]} x {own[2]}" if own and own[1:] != given["size"] else ""
        raise ConfigurationError(f"{name}: {error}{hint}") from error.__cause__


def _on_meta(name: str, given: dict[str, Any]) -> nn.Module:
    with on_meta():
        return _build(name, given)


def _build(name: str, given: dict[str, Any]) -> nn.Module:
    return build_model(name, num_classes=given["num_classes"], in_channels=given["in_channels"])[0]


def _document(name: str, given: dict[str, Any], found: NetworkSummary) -> dict[str, Any]:
    depths = [asdict(d) | _shares(d.parameters, d.multiply_adds, found) for d in found.depths]
    return {"model": name, **given, "parameters": found.parameters,
            "multiply_adds": found.multiply_adds, "depths": depths, "epochs": _EPOCHS,
            "policies": [asdict(p) for p in found.policies],
            "memory": asdict(found.memory) | {"total": found.memory.total}}


def _shares(parameters: int, multiply_adds: int, found: NetworkSummary) -> dict[str, float]:
    return {"parameter_share": parameters / found.parameters,
            "multiply_add_share": multiply_adds / max(found.multiply_adds, 1)}


def _print_tables(name: str, given: dict[str, Any], found: NetworkSummary) -> None:
    height, width = given["size"]
    say(f"{name}: {given['in_channels']} x {height} x {width} to {given['num_classes']} classes; "
        f"{found.parameters:,} parameters, {found.multiply_adds:,} multiply-adds for a picture")
    _print_depths(found, given["batch_size"])
    _print_policies(found)
    _print_memory(found.memory, given["batch_size"])


def _print_depths(found: NetworkSummary, batch_size: int) -> None:
    rows = []
    for d in found.depths:
        shares = _shares(d.parameters, d.multiply_adds, found).values()
        shape = "-" if d.output_shape is None else " x ".join(map(str, d.output_shape))
        parameters, multiply_adds = (round(100 * share, 1) for share in shares)
        rows.append([d.depth, d.modules, shape, d.parameters, parameters,
                     _in_units(d.multiply_adds, 10 ** 6), multiply_adds,
                     _in_units(d.activations, _MIB)])
    table("depths", ["depth", "modules", "output", "parameters", "% of all",
                     "M multiply-adds", "% of all", f"MiB kept, batch of {batch_size}"], rows)


def _print_policies(found: NetworkSummary) -> None:
    table("parameters that train with freezing.policy=",
          ["policy", "in epoch 1", "depths", f"in epoch {_EPOCHS} of {_EPOCHS}", "depths"],
          [[p.policy, p.first_parameters, _span(p.first_depths), p.last_parameters,
            _span(p.last_depths)] for p in found.policies])


def _print_memory(memory: Memory, batch_size: int) -> None:
    rows = {"weights and running statistics": memory.weights, "gradients": memory.gradients,
            "AdamW's two means": memory.adamw_state,
            f"activations, batch of {batch_size}": memory.activations, "together": memory.total}
    table("memory when everything trains", ["what (32 bits)", "MiB"],
          [[what, _in_units(size, _MIB)] for what, size in rows.items()])
    say("Without the loss, temporary tensors and work space of the kernels; attention as unfused.")


def _in_units(number: int, unit: int) -> float:
    """Whole from 1000 up, which the table would write with an exponent."""
    return number / unit if number < 1000 * unit else round(number / unit)


def _span(depths: tuple[int, ...]) -> str:
    return str(depths[0]) if len(depths) == 1 else f"{depths[0]}-{depths[-1]}"
