"""A network's weights: loading them, and an account of where they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune.errors import ConfigurationError
from finetune.models.extras import QUESTION
from finetune.models.heads import classifier_modules
from finetune.models.matching import match_tensors
from finetune.models.nearest import name_network
from finetune.models.sources import FoundWeights, find_weights

__all__ = ["WeightsReport", "load_weights"]


@dataclass(frozen=True)
class WeightsReport:
    """Where weights came from, how much of them fits, and how pictures were prepared for them.

    Attributes:
        source: ``random``, ``hf-hub:…``, an address, a file's name or ``run NAME``; no local path.
        sha256: Of the file, None for random weights.
        licence: Of the weights, where it is known.
        tag: timm's tag.
        matched: Tensors of the backbone (all but classifier and counters) that were loaded.
        total: Tensors of the backbone.
        notes: What a reader must know, as plain sentences.
        mean: One per channel on the 0..1 scale; None for random weights and channel counts other
            than the weights' and 1 (there the mean over channels).
        std: As ``mean``.
        interpolation: With which pictures were resized.
        input_size: Height and width in pixels of the pictures.
    """

    source: str
    sha256: str | None
    licence: str | None
    tag: str | None
    matched: int
    total: int
    notes: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    interpolation: str | None
    input_size: tuple[int, int] | None


def load_weights(model: nn.Module, weights: str | None, *, name: str, in_channels: int,
                 class_names: Sequence[str] | None = None) -> WeightsReport:
    """Load weights into the model, all or nothing, and tell where they came from.

    ``weights`` is None (random), ``pretrained`` (the model's default timm tag), a tag
    (``a1_in1k``), ``bundled`` or ``packaged`` (`finetune.models.packaged`), ``hf-hub:owner/name``
    (a timm repository), an ``http(s)://`` address, a file (also by its name in torch's own cache),
    a folder that ``weights fetch`` made, or that of an earlier run, whose classifier rows are kept
    by class name. What a classifier of another width, or other input channels, need is described
    in `match_tensors`.

    Args:
        model: Changed in place, unless an error is raised.
        weights: See above.
        name: The model's name, as in `build_model`.
        in_channels: Input channels of ``model``.
        class_names: In the order of the logits.

    Raises:
        ConfigurationError: The weights can't be had, can't be read or don't fit.
    """
    heads = list(classifier_modules(model))
    if weights is None:
        return _random_report(model, heads)
    found = find_weights(weights, model=model, name=name, class_names=class_names)
    try:
        match = match_tensors(found.tensors, model.state_dict(), heads=heads,
                              stems=_stem_weights(model), name=found.source)
    except ConfigurationError as error:
        answer = _network_told(found, name)
        text = f"{str(error).removesuffix(QUESTION)}\n{answer}" if answer else str(error)
        raise ConfigurationError(text) from error
    model.load_state_dict(match.tensors, strict=False)
    mean, std, notes = _statistics(found.settings, in_channels)
    size = found.settings.get("input_size")
    return WeightsReport(found.source, found.sha256, found.licence, found.tag, match.matched,
                         match.total, (*found.notes, *match.notes, *notes), mean, std,
                         found.settings.get("interpolation"), tuple(size[-2:]) if size else None)


def _network_told(found: FoundWeights, name: str) -> str:
    """Which network the weights belong to, where that is known."""
    if found.network not in (None, name):
        return (f"That run trained {found.network}, this is {name}: write "
                f"model.name={found.network}")
    return name_network(found.tensors)


def _random_report(model: nn.Module, heads: Sequence[str]) -> WeightsReport:
    prefixes = tuple(f"{head}." for head in heads)
    total = sum(not n.startswith(prefixes) and not n.endswith("num_batches_tracked")
                for n in model.state_dict())
    note = "random weights: nothing is transferred from another task"
    return WeightsReport("random", None, None, None, 0, total, (note,), None, None, None, None)


def _stem_weights(model: nn.Module) -> list[str]:
    """Names of the first convolutions' weights: timm's own entry, else the first one there is."""
    given = getattr(model, "pretrained_cfg", {}).get("first_conv")
    names = [given] if isinstance(given, str) else list(given or [])
    stems = [f"{name}.weight" for name in names]
    return stems or [n for n, t in model.state_dict().items() if t.ndim == 4][:1]


def _statistics(settings: Mapping[str, Any], in_channels: int,
                ) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, list[str]]:
    """Mean and standard deviation for this many channels, and a note where they changed."""
    mean, std = settings.get("mean"), settings.get("std")
    if not mean or not std:
        return None, None, []
    if len(mean) == in_channels:
        return tuple(mean), tuple(std), []
    if in_channels == 1:
        return (sum(mean) / len(mean),), (sum(std) / len(std),), [
            f"mean and std of one channel are the averages of the weights' {len(mean)}"]
    return None, None, [f"the weights' mean and std are for {len(mean)} channels, not "
                        f"{in_channels}, and are not used"]
