"""Heat maps for the pictures that a report shows: the worst mistakes, and some hits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune.assembly import Data
from finetune.evaluation.predictions import Predictions
from finetune.method import Method
from finetune.models.grad_cam import find_map_layer, grad_cam
from finetune.models.prefix import folded_copy
from finetune.report.heat_maps import HeatMap, draw_overlay
from finetune.report.mistakes import find_mistakes
from finetune.specs import LabelKind

__all__ = ["Shown", "choose_shown", "heat_maps", "overlays"]

MISTAKES, HITS = 12, 4  # as many mistakes as the report shows
BATCH = 16              # pictures at a time


@dataclass(frozen=True)
class Shown:
    """A picture and the class that the network is asked about.

    Attributes:
        id: Of the picture.
        class_index: Of the logit.
        kind: ``mistake`` or ``hit``.
    """

    id: str
    class_index: int
    kind: str


def choose_shown(predictions: Predictions, *, mistakes: int = MISTAKES,
                 hits: int = HITS) -> list[Shown]:
    """The worst mistakes, asked about their wrong answer, then the surest hits, each of one class.

    With several labels, a class that was missed is asked about itself; a picture appears once for
    each class that it is asked about.
    """
    names = list(predictions.label_spec.class_names)
    wrong = find_mistakes(predictions, count=mistakes)
    asked = [(m["id"], names.index(m["asked"]), "mistake") for m in wrong]
    asked += [(name, index, "hit") for name, index in _hits(predictions)[:hits]]
    return [Shown(*each) for each in dict.fromkeys(asked)]


def _hits(predictions: Predictions) -> list[tuple[str, int]]:
    """For each class the picture that has it and is most surely said to; surest first."""
    probabilities, labels = predictions.probabilities, predictions.labels
    multi = predictions.label_spec.kind is LabelKind.multi
    right = ((labels == 1) & (probabilities >= 0.5) if multi else
             (np.eye(probabilities.shape[1])[labels] == 1)
             & (probabilities.argmax(axis=1) == labels)[:, None])
    surety = np.where(right, probabilities, -1.0)
    best = [(float(surety[i, k]), predictions.ids[i], k)
            for k, i in enumerate(surety.argmax(axis=0)) if surety[i, k] >= 0]
    return [(name, k) for _, name, k in sorted(best, key=lambda found: -found[0])]


def overlays(method: Method, data: Data, part: str, shown: Sequence[Shown]) -> list[bytes]:
    """A JPEG for each picture: what the network saw, with the Grad-CAM of the class over it.

    The network is the one that is measured, folded and in float32; it stays as it is.

    Args:
        method: Of the run, with the chosen weights.
        data: Pictures, divided.
        part: The pictures' own.
        shown: From `choose_shown`.

    Raises:
        NoSpatialMap: The network hands no feature map towards its classifier.
    """
    model = folded_copy(method.chosen_model, method.example)
    layer = find_map_layer(model, method.example)
    places = {name: place for place, name in enumerate(data.part(part).ids)}
    dataset: Any = method.loaders[part].dataset
    drawn = []
    for start in range(0, len(shown), BATCH):
        some = shown[start:start + BATCH]
        images = torch.stack([dataset[places[each.id], 0][0] for each in some])
        heat = grad_cam(model, method.prepare(images), [each.class_index for each in some],
                        layer=layer).cpu().numpy()
        drawn += [draw_overlay(image, each) for image, each in
                  zip(images.permute(0, 2, 3, 1).numpy(), heat, strict=True)]
    return drawn


def heat_maps(method: Method, data: Data, part: str,
              predictions: Predictions) -> list[tuple[HeatMap, bytes]]:
    """What `finetune.report.heat_maps.write_heat_maps` writes into a run.

    Raises:
        NoSpatialMap: The network hands no feature map towards its classifier.
    """
    shown, names = choose_shown(predictions), predictions.label_spec.class_names
    return [(HeatMap(each.id, names[each.class_index], each.kind, f"{number:02d}.jpg"), content)
            for number, (each, content) in enumerate(
                zip(shown, overlays(method, data, part, shown), strict=True), 1)]
