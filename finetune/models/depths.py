"""Depth: the one number per parameter that drives freezing and learning rates alike.

0 is the stem, the highest number is the classifier. Between them lie the stages that timm's
feature groups give (ResNet: layer1 to layer4; ViT: its blocks).
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from finetune.errors import ConfigurationError, did_you_mean

__all__ = ["depth_names", "find_depth", "layer_depths", "tensor_depths"]


def tensor_depths(model: nn.Module) -> dict[str, int]:
    """The depth of every parameter and buffer by name, 0 = stem, highest = classifier.

    Stages come from timm's ``group_matcher(coarse=True)``; without one, from the order of the
    model's children, and from the stages of those children that have one. The classifier is split
    off by ``get_classifier()``, not by timm's last group, which also holds final norms. Depths are
    consecutive.

    Raises:
        ConfigurationError: No classifier with parameters can be told apart.
    """
    names = [name for name, _ in model.named_parameters()]
    names += [name for name, _ in model.named_buffers()]
    raw = _timm_groups(model, names) if hasattr(model, "group_matcher") else _by_child(
        model, names)
    head = _classifier_prefixes(model)
    top = max(raw.values(), default=0) + 1
    raw = {n: top if n.startswith(head) else raw[n] for n in names}
    used = {depth: i for i, depth in enumerate(sorted(set(raw.values())))}
    return {name: used[depth] for name, depth in raw.items()}


def layer_depths(model: nn.Module) -> dict[str, int]:
    """The depth of every parameter by name, 0 = stem, highest = classifier.

    >>> import timm
    >>> depths = layer_depths(timm.create_model("resnet18"))
    >>> depths["conv1.weight"], depths["layer4.1.bn2.bias"], depths["fc.weight"]
    (0, 4, 5)
    """
    depths = tensor_depths(model)
    return {name: depths[name] for name, _ in model.named_parameters()}


def depth_names(depths: Mapping[str, int]) -> list[str]:
    """A readable name for each depth: the largest modules that lie in it alone.

    >>> depth_names({"conv1.weight": 0, "bn1.weight": 0, "layer1.0.weight": 1, "fc.weight": 2})
    ['conv1 bn1', 'layer1', 'fc']
    """
    inside: dict[str, set[int]] = {}
    for name, depth in depths.items():
        for module in _modules_around(name):
            inside.setdefault(module, set()).add(depth)
    found: dict[int, list[str]] = {}
    for name, depth in depths.items():
        own = next((m for m in _modules_around(name) if len(inside[m]) == 1), name)
        found.setdefault(depth, []).append(own)
    return [" ".join(dict.fromkeys(found[depth])) for depth in range(max(found) + 1)]


def _modules_around(name: str) -> list[str]:
    """From the outermost inwards; a parameter of the model itself stands for itself."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))] or [name]


def find_depth(wanted: str, names: list[str]) -> int:
    """The depth meant by a number, by ``stem`` or ``head``, or by a module's name.

    >>> find_depth("layer3", ["conv1 bn1", "layer3", "fc"])
    1

    Raises:
        ConfigurationError: There is none; the message lists what there is.
    """
    if wanted.lstrip("-").isdigit():
        if 0 <= int(wanted) < len(names):
            return int(wanted)
    elif wanted in ("head", "classifier"):
        return len(names) - 1
    elif wanted == "stem":
        return 0
    parts = _parts(names)
    if wanted in parts:
        return parts[wanted]
    listed = ", ".join(f"{i} = {name}" for i, name in enumerate(names))
    raise ConfigurationError(f"no depth or stage {wanted!r} in this model"
                             f"{did_you_mean(wanted, parts)}; it has {listed}")


def _parts(names: list[str]) -> dict[str, int]:
    parts = {part: depth for depth, name in enumerate(names) for part in name.split()}
    short = [(end, depth) for part, depth in parts.items() if "." in part
             for end in {part.split(".")[0], part.rsplit(".", 1)[-1]} if not end.isdigit()]
    ends = [end for end, _ in short]
    return {end: depth for end, depth in short if ends.count(end) == 1} | parts


def _timm_groups(model: nn.Module, names: list[str]) -> dict[str, int]:
    from timm.models._manipulate import group_with_matcher  # private; timm 1.0.15 to 1.0.31

    tensors = dict.fromkeys(names, None)
    matcher: Any = model.group_matcher
    try:
        stages = matcher(coarse=True)
    except AssertionError:  # rdnet has fine groups only
        stages = matcher()
    groups = group_with_matcher(tensors.items(), stages, reverse=True)
    return {name: int(groups[name]) for name in names}


def _by_child(model: nn.Module, names: list[str]) -> dict[str, int]:
    """One depth for each child in order, for a timm network as many as it has."""
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(name.partition(".")[0], []).append(name)
    depths: dict[str, int] = {}
    for child_name, members in parts.items():
        start, child = max(depths.values(), default=-1) + 1, getattr(model, child_name)
        inside = [name.partition(".")[2] for name in members]
        groups = (_timm_groups(child, inside) if hasattr(child, "group_matcher")
                  else dict.fromkeys(inside, 0))
        depths |= {name: start + groups[i] for name, i in zip(members, inside, strict=True)}
    return depths


def _classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    modules = _classifier_modules(model)
    found = tuple(f"{name}." for name, module in model.named_modules() if module in modules)
    if not found:
        raise ConfigurationError(
            f"{type(model).__name__} shows no classifier: give it get_classifier(), returning the "
            "module that makes the logits, or end it with a torch.nn.Linear")
    return found


def _classifier_modules(model: nn.Module) -> list[nn.Module]:
    get_classifier: Any = getattr(model, "get_classifier", None)
    if get_classifier is not None:
        given = get_classifier()
        candidates = list(given) if isinstance(given, tuple | list) else [given]
    else:
        candidates = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    return [m for m in candidates if m is not None and any(True for _ in m.parameters())]
