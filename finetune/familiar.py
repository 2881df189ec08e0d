"""What a run keeps of its training pictures' features, so that others can be said to be far.

It happens once, of the chosen weights, folded as they are measured and used. Training pictures as
evaluation shows them fit the distance; validation pictures, on the way through the network that
measures them, its limit; of test pictures it is told how many are beyond.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.assembly import Data
from finetune.console import say
from finetune.errors import ConfigurationError, DataError
from finetune.evaluation.familiarity import (
    FeatureGaussian,
    fit_familiarity,
    fit_gaussian,
    measure_far,
)
from finetune.method import Method, Watched
from finetune.models.familiarity import NoFeatures, WithFeatures, find_feature_modules
from finetune.models.prefix import folded_copy
from finetune.run_directory import RunDirectory

__all__ = ["LearnedFeatures", "far_warnings", "keep_familiarity", "learn_features"]

PICTURES = 1000    # of training, at most; evenly from the list, which is sorted by class mostly
SURPRISING = 0.01  # less likely counts of far test pictures are told as a warning


@dataclass
class LearnedFeatures:
    """Gaussians of the training pictures' features, and distances of others that passed.

    Attributes:
        names: Modules that give the features; none where there is a reason.
        gaussians: One for each.
        trained_on: So many training pictures.
        reason: Why there are none, or empty.
        passed: For each part of the data distances (B, L), a batch after the other.
    """

    names: list[str] = field(default_factory=list)
    gaussians: list[FeatureGaussian] = field(default_factory=list)
    trained_on: int = 0
    reason: str = ""
    passed: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def watching(self, part: str) -> Callable[[nn.Module], nn.Module]:
        """Puts around a network what keeps the distances of a part's pictures as they pass."""
        def wrapped(model: nn.Module) -> nn.Module:
            return _Watching(WithFeatures(model, self.names), keep) if self.names else model

        def keep(features: list[np.ndarray]) -> None:
            rows = [gaussian.distance(each) for gaussian, each in zip(
                self.gaussians, features, strict=True)]
            self.passed.setdefault(part, []).append(np.stack(rows, axis=1))

        return wrapped


class _Watching(nn.Module):
    """A network whose features are handed over as pictures pass; gives logits."""

    def __init__(self, inner: WithFeatures, keep: Callable[[list[np.ndarray]], None]) -> None:
        super().__init__()
        self.inner, self.keep = inner, keep

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor
        logits, features = self.inner(images)
        self.keep([each.cpu().numpy() for each in features])
        return logits


def learn_features(method: Method, data: Data, *, wanted: bool = True,
                   watched: Watched = lambda batches, where: batches) -> LearnedFeatures:
    """Fit Gaussians on the features that the chosen model gives of training pictures.

    Args:
        method: Of the run, with the chosen weights.
        data: Pictures, divided; only those of training are looked at.
        wanted: Otherwise nothing is done.
        watched: Wraps batches, so that a signal can stop it.
    """
    if not wanted:
        return LearnedFeatures(reason="data.familiarity=false")
    model = folded_copy(method.chosen_model, method.example)
    try:
        names = find_feature_modules(model, method.example)
        features = _features(WithFeatures(model, names), method, data, watched)
        fitted = [(name, fit_gaussian(each)) for name, each in zip(names, features, strict=True)]
        varying = [(name, gaussian) for name, gaussian in fitted if gaussian is not None]
        if not varying or varying[-1][0] != names[-1]:
            raise NoFeatures("what enters the classifier is the same for all training pictures")
    except (NoFeatures, ConfigurationError) as error:
        return LearnedFeatures(reason=str(error))
    return LearnedFeatures([name for name, _ in varying], [each for _, each in varying],
                           len(features[0]))


def _features(network: WithFeatures, method: Method, data: Data,
              watched: Watched) -> list[np.ndarray]:
    """(N, D) for each part of the network, of training pictures as evaluation shows them."""
    count = len(data.part("train"))
    chosen = np.unique(np.linspace(0, count - 1, min(PICTURES, count)).round().astype(int))
    loader = method.ordered("train", augmented=False, only=chosen.tolist())
    rows: list[list[np.ndarray]] = []
    with torch.inference_mode():
        for images, _, _ in watched(loader, "while features of training pictures were computed"):
            rows.append([each.cpu().numpy() for each in network(method.prepare(images))[1]])
    parts = [np.concatenate(part) for part in zip(*rows, strict=True)]
    if not all(np.isfinite(part).all() for part in parts):
        raise NoFeatures("features of training pictures are NaN or infinite")
    return parts


def keep_familiarity(run: RunDirectory, learned: LearnedFeatures, data: Data) -> dict[str, Any]:
    """Write ``familiarity.safetensors``, by the validation pictures that passed; what to tell.

    Returns:
        ``{"familiarity": …}`` with the limit, and for ``test``, where its pictures passed, how many
        are far; or with the ``reason`` why nothing was kept.
    """
    try:
        if learned.reason:
            raise NoFeatures(learned.reason)
        found = fit_familiarity(learned.names, learned.gaussians,
                                np.concatenate(learned.passed["val"]),
                                trained_on=learned.trained_on)
        if not found.limit.limit > 0:
            raise NoFeatures("validation pictures do not differ for the network")
    except (NoFeatures, DataError) as error:
        say(f"how far pictures are from those of training can't be told: {error}")
        return {"familiarity": {"reason": str(error)}}
    found.save(run.familiarity)
    told: dict[str, Any] = {**found.limit.to_dict(), "expected": found.limit.expected,
                            "trained_on": found.trained_on, "parts": list(found.names)}
    if "test" in learned.passed:
        distances = found.join(np.concatenate(learned.passed["test"]))
        told["test"] = measure_far(distances, found.limit, data.part("test").groups)
        say(f"far from the training pictures: {_share(told['test'])} of test pictures")
    return {"familiarity": told}


def far_warnings(metrics: Mapping[str, Any]) -> list[str]:
    """One sentence where more test pictures are far than chance explains; else none."""
    test = metrics["familiarity"].get("test")
    if test is None or test["surprise"] is None or test["surprise"] >= SURPRISING:
        return []
    return [f"{_share(test)} of test pictures are far from the training pictures for the network; "
            f"were they like validation's, it would be {metrics['familiarity']['expected']:.1%}"]


def _share(found: Mapping[str, Any]) -> str:
    return f"{found['share']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
