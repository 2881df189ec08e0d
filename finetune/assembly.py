"""From a `Config` to data and model: what `fit`, `plan`, `evaluate` and `report` share."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.config import Config, DataConfig, FreezingPolicy, Loss, NormStatistics, Unreadable
from finetune.data.near_duplicates import near_duplicate_groups
from finetune.data.picture_paths import near_folder
from finetune.data.samples import FolderSource, Samples, read_samples, read_splits_file
from finetune.data.scanning import PictureFacts, duplicate_groups, scan_pictures
from finetune.data.shortcuts import CueResult
from finetune.data.splits import Split
from finetune.dividing import divide
from finetune.errors import ConfigurationError, DataError, first_of
from finetune.evaluation.subgroups import choose_columns
from finetune.likeness import Likeness, find_likeness, likeness_warnings
from finetune.shortcuts import find_cues, shortcut_warnings
from finetune.specs import INTERPOLATIONS, Dtype, InputSpec, LabelKind, OrdinalLink

if TYPE_CHECKING:
    from torch import nn

    from finetune.models.freezing import PhasePlan
    from finetune.models.weights import WeightsReport

__all__ = ["Data", "assemble_data", "assemble_model", "cache_folder", "check_forward", "domain_of",
           "input_spec", "phase_plans", "read_labelled", "updates_norms"]

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Data:
    """Pictures that can be read, divided."""

    samples: Samples
    split: Split
    facts: list[PictureFacts]
    duplicates: list[list[int]]
    skipped: list[str]  # unreadable pictures left out
    channels: int
    dtype: Dtype
    warnings: list[str]
    likeness: Likeness = field(default_factory=Likeness)  # pictures that are nearly the same
    cues: list[CueResult] = field(default_factory=list)  # what the label can be told from

    def part(self, name: str) -> Samples:
        """The samples of ``train``, ``val`` or ``test``, in the order of their ids."""
        return self.samples.select(np.flatnonzero(self.split.names == name).tolist())

    def part_facts(self, name: str) -> list[PictureFacts]:
        """What decoding told about the pictures of a part, in the same order."""
        return [self.facts[i] for i in np.flatnonzero(self.split.names == name)]

    @property
    def file_hashes(self) -> list[str] | None:
        """Of each picture's file; None where pictures are no files of their own."""
        is_folder = isinstance(self.samples.source, FolderSource)
        return [fact.byte_hash for fact in self.facts] if is_folder else None

    @property
    def parts(self) -> list[str]:
        """The parts that hold pictures."""
        return [p for p in PARTS if (self.split.names == p).any()]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, contents, labels and parts."""
        digest = hashlib.sha256()
        for i, name in enumerate(self.samples.ids):
            row = (name, self.facts[i].byte_hash, self.samples.labels[i].tolist(),
                   str(self.split.names[i]))
            digest.update(repr(row).encode())
        return digest.hexdigest()


def domain_of(config: Config) -> str:
    """Which generated pictures rehearse this recipe."""
    return {"xray": "medical", "histology": "medical", "aerial": "remote_sensing"}.get(
        config.data.transform, "natural")


def cache_folder() -> Path:
    """Where hashes of pictures are kept: FINETUNE_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("FINETUNE_CACHE") or Path(base) / "finetune")


def assemble_data(config: Config, root: str, *,
                  progress: Callable[[int], object] | None = None,
                  comparing: Callable[[int, int], object] | None = None,
                  with_cues: bool = False) -> Data:
    """Read, check and divide the pictures under ``root``; two kinds of progress may be shown.

    ``with_cues`` measures what the label can be told from without content, as ``data.shortcuts``
    has it.

    Raises:
        DataError: Broken pictures, leaks, classes too small, and so on.
        ConfigurationError: A column that is named does not exist.
    """
    data = config.data
    samples, warnings = read_labelled(data, root)
    facts = scan_pictures(samples.source, samples.ids, cache=cache_folder(), progress=progress,
                          threads=min(16, os.cpu_count() or 2))
    samples, facts, skipped = _without_broken(samples, facts, data.unreadable)
    warnings += _notes(facts)
    if skipped:
        warnings.append(f"{len(skipped)} unreadable pictures were left out: {first_of(skipped)}")
    duplicates = duplicate_groups(facts)
    likeness = find_likeness(data.near_duplicates, samples, facts, duplicates,
                             cache=cache_folder(), progress=comparing)
    split = divide(data, samples, duplicates, likeness.groups)
    channels, dtype, notes = _common_form(samples.ids, facts, data.channels)
    notes += [*split.warnings, *likeness_warnings(likeness, split.names.tolist(), samples.ids)]
    cues = find_cues(data.shortcuts, samples, facts, [
        *duplicates, *near_duplicate_groups(likeness.pairs, len(samples))]) if with_cues else []
    return Data(samples, split, facts, duplicates, skipped, channels, dtype,
                [*warnings, *notes, *shortcut_warnings(cues)], likeness, cues)


def read_labelled(data: DataConfig, root: str) -> tuple[Samples, list[str]]:
    """The pictures under ``root`` with their labels, and what was skipped or assumed.

    Raises:
        DataError: What was found, and what to do.
        ConfigurationError: A column that is named does not exist.
    """
    splits_file = None if data.splits_file is None else _splits_file(root, data.splits_file)
    samples = read_samples(
        root, format=data.format.value, labels_file=data.labels_file,
        path_column=data.path_column, label_column=data.label_column,
        label_separator=data.label_separator, split_column=data.split_column,
        group_column=data.group_column, group_from=data.group_from,
        positive_class=data.positive_class, splits_file=splits_file,
        label_kind=data.label_kind, class_order=data.class_order)
    choose_columns(samples.metadata, data.subgroup_columns)
    warnings = list(samples.warnings)
    if splits_file is not None:
        samples, notes = read_splits_file(samples, splits_file)
        warnings += notes
    return samples, warnings


def _splits_file(root: str, name: str) -> Path:
    base = Path(root) if Path(root).is_dir() else Path(root).parent
    path = base / name if (base / name).is_file() or not Path(name).is_file() else Path(name)
    if not path.is_file() and base.is_dir():
        raise DataError(f"data.splits_file={name} does not exist in {base}{near_folder(path)} nor "
                        "in the current folder")
    return path


def _without_broken(samples: Samples, facts: list[PictureFacts], unreadable: Unreadable,
                    ) -> tuple[Samples, list[PictureFacts], list[str]]:
    broken = [i for i, fact in enumerate(facts) if fact.error is not None]
    if broken and unreadable is Unreadable.fail:
        lines = "\n".join(f"  {_printable(samples.ids[i])}: {facts[i].error}" for i in broken)
        raise DataError(f"{len(broken)} of {len(facts)} pictures can't be read:\n{lines}\n"
                        "Mend or remove them, or train without them: data.unreadable=skip",
                        ways_out=("data.unreadable=skip",))
    good = [i for i, fact in enumerate(facts) if fact.error is None]
    if not good:
        raise DataError("none of the pictures can be read")
    skipped = [_printable(samples.ids[i]) for i in broken]
    return samples.select(good), [facts[i] for i in good], skipped


def _printable(name: str) -> str:
    """A file's name on one line; what is not text, as its bytes."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return text if text.isprintable() else repr(text)[1:-1]


def _notes(facts: Sequence[PictureFacts]) -> list[str]:
    counts: dict[str, int] = {}
    for note in (note for fact in facts for note in fact.notes):
        counts[note] = counts.get(note, 0) + 1
    return [f"{count} pictures: {note}" for note, count in sorted(counts.items())]


def _common_form(ids: Sequence[str], facts: Sequence[PictureFacts],
                 wanted: int | None) -> tuple[int, Dtype, list[str]]:
    counts = sorted({fact.channels for fact in facts})
    types = sorted({fact.dtype for fact in facts})
    notes = []
    channels = wanted or (counts[0] if len(counts) == 1 else 3)
    channels = 3 if wanted is None and channels == 4 and types == ["uint8"] else channels
    odd = [c for c in counts if c != channels and (c not in (1, 3, 4) or channels not in (1, 3))]
    if odd:
        raise DataError("\n".join([
            f"pictures have {' or '.join(map(str, counts))} channels and {channels} are wanted:",
            *_by_channels(ids, facts, counts),
            f"Use data.channels={counts[0]}" if len(counts) == 1 else
            "Keep pictures of one kind, or bring them to one number of channels"]))
    if len(counts) > 1:
        notes.append(f"pictures have {' and '.join(map(str, counts))} channels; all are brought to "
                     f"{channels} (grey is repeated, alpha dropped)")
    dtype = Dtype(types[0]) if len(types) == 1 else Dtype.uint8
    if len(types) > 1:
        notes.append(f"pictures are {' and '.join(types)}; all are scaled to 8 bits by the full "
                     "range of their type")
    return channels, dtype, notes


def _by_channels(ids: Sequence[str], facts: Sequence[PictureFacts],
                 counts: Sequence[int]) -> list[str]:
    having = {c: [i for i, fact in zip(ids, facts, strict=True) if fact.channels == c]
              for c in counts}
    return [f"  {c} channels: {len(names)} pictures: {first_of(names, count=3)}"
            for c, names in having.items()]


def assemble_model(config: Config, *, class_names: Sequence[str],
                   channels: int) -> "tuple[nn.Module, WeightsReport]":
    """The network with its new classifier, and where its weights come from."""
    from finetune.models.building import build_model
    from finetune.models.heads import add_projection

    model = config.model
    built = build_model(
        model.name, num_classes=len(class_names), in_channels=channels, weights=model.weights,
        head=model.head.value, pooling=model.pooling, drop_rate=model.drop_rate,
        drop_path_rate=model.drop_path_rate, class_names=list(class_names),
        ordinal=ordinal_link(config))
    if config.training.loss is Loss.contrastive:
        add_projection(built[0])
    if config.training.grad_checkpointing:
        _checkpoint_gradients(built[0], model.name)
    return built


def ordinal_link(config: Config) -> OrdinalLink | None:
    """How scores become probabilities of ordered classes; None where classes have no order."""
    if config.data.label_kind is not LabelKind.ordinal:
        return None
    return config.training.ordinal or OrdinalLink.cumulative_link


def _checkpoint_gradients(model: "nn.Module", name: str) -> None:
    set_checkpointing: Any = getattr(model, "set_grad_checkpointing", None)
    try:
        set_checkpointing(True)
    except (TypeError, AssertionError, AttributeError) as error:  # timm asserts that it can
        raise ConfigurationError(f"training.grad_checkpointing: model.name={name} can't recompute "
                                 "what it computed; leave it out, or choose a smaller "
                                 "data.batch_size with training.accumulation_steps") from error


def input_spec(config: Config, data: Data, model: "nn.Module", weights: "WeightsReport",
               ) -> InputSpec:
    """What a picture is when it enters the network.

    Mean and standard deviation are the weights' own for 8-bit pictures with 1 or 3 channels, and
    measured on the training part otherwise.
    """
    from finetune.data.loading import measure_statistics

    own = getattr(model, "pretrained_cfg", {}) or {}
    size = config.data.image_size or (weights.input_size or tuple(own.get("input_size", ()))[-2:]
                                      or (224, 224))
    pair = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    resize = config.data.resize
    interpolation = weights.interpolation or "bilinear"
    if interpolation not in INTERPOLATIONS:
        raise ConfigurationError(f"{weights.source} asks for interpolation {interpolation!r}; "
                                 f"there are {', '.join(INTERPOLATIONS)}")
    mean, std = weights.mean, weights.std
    value_range = (0.0, 255.0)
    if mean is None and data.dtype is Dtype.uint8 and data.channels in (1, 3):
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if mean is not None and data.channels == 1 and len(mean) == 3 and std is not None:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    if mean is None or len(mean) != data.channels or data.dtype is not Dtype.uint8:
        value_range, mean, std = measure_statistics(
            data.part("train"), size=pair, channels=data.channels, dtype=data.dtype,
            resize=resize, interpolation=interpolation)
    assert std is not None
    return InputSpec(pair, data.channels, _channel_names(data.channels), data.dtype, value_range,
                     tuple(mean), tuple(std), interpolation, resize)


def check_forward(config: Config, model: "nn.Module", spec: InputSpec, classes: int) -> None:
    """One pass of an empty picture, so that a network that can't take it is told before training.

    Raises:
        ConfigurationError: It doesn't accept the size, or answers another shape than (B, classes).
    """
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            shape = tuple(model(torch.zeros(2, spec.channels, *spec.size)).shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        own = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (None,))[-1]
        hint = f"; leave data.image_size unset, its own is {own}" if own else ""
        raise ConfigurationError(f"model.name={config.model.name} can't take {spec.channels} x "
                                 f"{spec.size[0]} x {spec.size[1]}: {error}{hint}") from error
    finally:
        model.train(was_training)
    if shape != (2, classes):
        raise ConfigurationError(f"model.name={config.model.name} answers {shape} to 2 pictures, "
                                 f"not logits (2, {classes})")


def _channel_names(channels: int) -> tuple[str, ...]:
    named = {1: ("grey",), 3: ("red", "green", "blue")}
    return named.get(channels, tuple(f"channel_{i + 1}" for i in range(channels)))


def phase_plans(config: Config, names: list[str]) -> "tuple[int, list[PhasePlan]]":
    """``freezing.below`` as a depth, and ``freezing.phases`` with depths as numbers.

    Raises:
        ConfigurationError: A stage does not exist.
    """
    from finetune.models.depths import find_depth
    from finetune.models.freezing import PhasePlan

    freezing = config.freezing
    below = find_depth(freezing.below, names) if freezing.below is not None else 0
    everything = frozenset(range(len(names)))
    phases = [
        PhasePlan(p.epochs, everything if p.depths == "all" else frozenset(
            find_depth(word, names) for word in p.depths.replace(",", " ").split()), p.lr)
        for p in freezing.phases]
    if freezing.policy is FreezingPolicy.phases and not all(p.depths for p in phases):
        raise ConfigurationError("freezing.phases: a phase without depths would train nothing")
    return below, phases


def updates_norms(config: Config) -> bool:
    """Whether running statistics move: not with pretrained weights, unless told so."""
    chosen: Any = config.freezing.norm_statistics
    if chosen is None:
        return config.model.weights is None
    return bool(chosen is NormStatistics.update)
