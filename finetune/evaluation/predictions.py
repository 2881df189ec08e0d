"""What a network answered for a set of pictures, and how to ask it."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.archives import ARCHIVE_ERRORS, read_npz
from finetune.errors import DataError
from finetune.files import parse_json, write_with
from finetune.specs import LabelKind, LabelSpec

if TYPE_CHECKING:  # predictions can be read without torch
    from torch import Tensor, nn

__all__ = ["Predictions", "collect_predictions"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Answers for N pictures and K classes.

    Attributes:
        ids: One for each picture.
        labels: (N,) int64, or (N, K) float32 with NaN = unknown for multi-label.
        logits: (N, K) float32, before softmax or sigmoid.
        label_spec: What the labels are.
        groups: The group (patient, region) of each picture, when there are groups.
    """

    ids: list[str]
    labels: np.ndarray
    logits: np.ndarray
    label_spec: LabelSpec
    groups: list[str] | None = None

    def __post_init__(self) -> None:
        counts = {"ids": len(self.ids), "labels": len(self.labels), "logits": len(self.logits)}
        if self.groups is not None:
            counts["groups"] = len(self.groups)
        if len(set(counts.values())) > 1:
            raise ValueError(f"predictions of different lengths: {counts}")
        if self.logits.ndim != 2 or self.logits.shape[1] != self.label_spec.output_width:
            raise ValueError(f"logits of shape {self.logits.shape} for "
                             f"{self.label_spec.output_width} classes")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def probabilities(self) -> np.ndarray:
        """(N, K) float64: softmax of the logits, or sigmoid for multi-label."""
        logits = self.logits.astype(np.float64)
        if self.label_spec.kind is LabelKind.multi:
            return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
        logits -= logits.max(axis=1, keepdims=True)  # in place: of many classes a copy is large
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return logits

    def save(self, path: Path) -> Path:
        """Write an ``.npz`` file atomically; it holds no pickled objects."""
        arrays: dict[str, Any] = {
            "ids": np.array(self.ids, dtype=np.str_),
            "labels": self.labels,
            "logits": self.logits,
            "label_spec": np.array(json.dumps(self.label_spec.to_dict())),
        }
        if self.groups is not None:
            arrays["groups"] = np.array(self.groups, dtype=np.str_)
        return write_with(path, lambda stream: np.savez_compressed(stream, **arrays))

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """The predictions that `save` wrote.

        Raises:
            DataError: There is no such file, or it is not one of predictions.
        """
        try:
            arrays = read_npz(path)
            spec = LabelSpec.from_dict(parse_json(str(arrays["label_spec"])))
            groups = arrays["groups"].tolist() if "groups" in arrays else None
            return cls(arrays["ids"].tolist(), arrays["labels"], arrays["logits"], spec, groups)
        except (*ARCHIVE_ERRORS, AttributeError) as error:
            raise DataError(f"{path} is not a file of predictions ({error}); expected the .npz "
                            "that a run writes into its predictions/ folder") from error


def collect_predictions(
    model: "nn.Module",
    loader: "Iterable[tuple[Tensor, Tensor, Tensor]]",
    *,
    prepare: "Callable[[Tensor], Tensor]",
    ids: Sequence[str],
    label_spec: LabelSpec,
    groups: Sequence[str] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] | None = None,
) -> Predictions:
    """The network's answers for every picture of a loader, in the order of ``ids``.

    The model answers in eval mode without gradients; afterwards it and each of its submodules are
    in the mode in which they were.

    Args:
        model: Gives (B, K) logits.
        loader: Batches of (images, targets, indices); the indices point into ``ids``.
        prepare: Brings images to the model's device, normalised.
        ids: All ids that an index may point at.
        label_spec: What the labels are.
        groups: The group of each id.
        autocast: Makes the context in which the forward pass runs.

    Raises:
        DataError: The loader is empty, or gave a picture twice.
    """
    answers = _answers(model, loader, prepare, autocast or nullcontext)
    if not answers:
        raise DataError("there is no picture to predict: the loader gave no batch")
    indices, labels, logits = (np.concatenate(part) for part in zip(*answers, strict=True))
    order = np.argsort(indices, kind="stable")
    if len(np.unique(indices)) < len(indices):
        raise DataError("the loader gave a picture twice; evaluation needs each exactly once")
    return Predictions([ids[i] for i in indices[order]], labels[order], logits[order], label_spec,
                       None if groups is None else [groups[i] for i in indices[order]])


def _answers(
    model: "nn.Module",
    loader: "Iterable[tuple[Tensor, Tensor, Tensor]]",
    prepare: "Callable[[Tensor], Tensor]",
    autocast: Callable[[], AbstractContextManager[Any]],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(indices, labels, logits) of each batch."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    found = []
    model.eval()
    try:
        with torch.inference_mode():
            for images, targets, indices in loader:
                with autocast():
                    logits = model(prepare(images))
                found.append((indices.cpu().numpy(), targets.cpu().numpy(),
                              logits.float().cpu().numpy()))
    finally:
        for module, mode in modes:
            module.training = mode
    return found
