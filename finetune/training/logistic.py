"""Logistic regression on features, for a path of L2 penalties, by L-BFGS.

The objective is the training loss of `finetune.training.losses` plus ``strength / 2 * ||W||²``,
where W are the weights of standardised features; the intercept is not penalised.

With M the loss's denominator (the sum of ``sample weight * class weight of the label`` over rows;
multi-label: the sum of sample weights over known entries), scikit-learn's C is
``1 / (strength * M)``; for two classes, where scikit-learn has one logit and we have two,
``2 / (strength * M)``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LogisticLoss", "LogisticRows", "logistic_path"]

FLOAT64_ENTRIES = 2 ** 27  # larger feature matrices are multiplied in float32
STEPS = 1000  # of L-BFGS for a strength, at most


@dataclass(frozen=True, eq=False)
class LogisticLoss:
    """``sum(total * normaliser(logits) - mass * logits) / denominator`` and its derivatives.

    The normaliser is the logarithm of the sum of exponentials over classes, or, for multi-label,
    softplus. Both losses of `finetune.training.losses` are of this form, smoothing included.
    """

    mass: Tensor
    total: Tensor
    denominator: float
    single: bool

    def value(self, logits: Tensor) -> float:
        """For logits (n, K), as in all methods here."""
        top = logits.logsumexp(1, keepdim=True) if self.single else functional.softplus(logits)
        return float((self.total * top).sum() - (self.mass * logits).sum()) / self.denominator

    def gradient(self, logits: Tensor) -> Tensor:
        """Of the loss by the logits, (n, K)."""
        return (self.total * self._probabilities(logits) - self.mass) / self.denominator

    def curvature(self, logits: Tensor) -> Tensor:
        """Second derivatives of the loss by the biases, (K, 1); at least 1e-6."""
        probabilities = self._probabilities(logits)
        spread = (self.total * probabilities * (1 - probabilities)).sum(0)
        return (spread[:, None] / self.denominator).clamp(min=1e-6)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.single else logits.sigmoid()


@dataclass(frozen=True, eq=False)
class LogisticRows:
    """Some rows and all that their loss depends on.

    Features (n, D); labels (n,) int64, or (n, K) float64 with NaN = unknown where not ``single``;
    sample weights (n,) and class weights (K,) float64.
    """

    features: Tensor
    labels: Tensor
    sample_weights: Tensor
    class_weights: Tensor
    single: bool

    def take(self, index: np.ndarray) -> "LogisticRows":
        """The rows of these numbers."""
        rows = torch.from_numpy(index)
        return replace(self, features=self.features[rows], labels=self.labels[rows],
                       sample_weights=self.sample_weights[rows])

    def labelled_as_in(self, fit: "LogisticRows") -> "LogisticRows":
        """These rows without the labels that ``fit`` never shows."""
        if self.single:
            return self.take(np.flatnonzero(np.isin(self.labels.numpy(), fit.labels.numpy())))
        seen = torch.stack([(fit.labels == value).any(0) for value in (0, 1)])
        known = torch.where(self.labels > 0, seen[1], seen[0])
        return replace(self, labels=self.labels.where(known, torch.nan))

    def loss(self, *, smoothing: float) -> LogisticLoss:
        """The training loss of these rows."""
        each, classes = self.sample_weights[:, None], len(self.class_weights)
        if self.single:
            hard = functional.one_hot(self.labels, classes) * each * self.class_weights
            soft = each * self.class_weights * smoothing / classes
            mass = hard * (1 - smoothing) + soft
            return LogisticLoss(mass, mass.sum(1, keepdim=True), float(hard.sum()) or 1.0, True)
        known = each * ~self.labels.isnan()
        soft = self.labels.nan_to_num() * (1 - smoothing) + smoothing / 2
        mass = known * self.class_weights * soft
        return LogisticLoss(mass, mass + known * (1 - soft), float(known.sum()) or 1.0, False)


def logistic_path(rows: LogisticRows, strengths: Sequence[float], *, smoothing: float,
                  tolerance: float) -> Iterator[tuple[Tensor, Tensor, float]]:
    """For each strength the weights (K, D), the biases (K,) and the gradient that was left.

    Weights and biases are float64 and for features as they are in ``rows``. L-BFGS (Liu & Nocedal
    1989) works on the principal axes of the standardised features, each scaled by its curvature,
    and starts where the last strength ended: give the strongest first.

    Args:
        rows: What to fit.
        strengths: L2 penalties, above 0.
        smoothing: Label smoothing, 0..1.
        tolerance: L-BFGS ends at a scaled gradient of this, or after 1,000 steps.
    """
    features, mean, inverse = _standardise(rows.features)
    coordinates, axes, variances = _principal_axes(features)
    del features
    loss = rows.loss(smoothing=smoothing)
    solution = torch.zeros(len(rows.class_weights), len(variances) + 1, dtype=torch.float64)
    for strength in strengths:
        solution, slope = _minimise(loss, coordinates, variances, solution,
                                    strength=strength, tolerance=tolerance)
        weight = solution[:, :-1] @ axes.T * inverse
        yield weight, solution[:, -1] - weight @ mean, slope


def _standardise(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised features, mean and 1 / standard deviation; 0 where a feature is constant."""
    dtype = torch.float64 if features.numel() <= FLOAT64_ENTRIES else torch.float32
    mean = features.mean(0, dtype=torch.float64)
    scores = features.to(dtype) - mean.to(dtype)
    std = torch.linalg.vector_norm(scores, dim=0, dtype=torch.float64) / len(features) ** 0.5
    varies = std > 1e-6 * mean.abs()  # below: the rounding of float32
    inverse = torch.where(varies, 1 / std, 0.0)
    return scores.mul_(inverse.to(dtype)), mean, inverse


def _principal_axes(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates (n, r), axes (D, r) and variances (r,); r is D, or the rank where n < D."""
    count, width = features.shape
    if count >= width:
        variances, axes = torch.linalg.eigh((features.T @ features).double() / count)
    else:
        variances, rows = torch.linalg.eigh(features @ features.T / count)
        kept = variances > 1e-12 * variances[-1].clamp(min=1e-300)
        variances, rows = variances[kept], rows[:, kept]
        axes = features.T @ rows / (variances * count).sqrt()
    return features @ axes.to(features.dtype), axes, variances.clamp(min=0)


def _minimise(loss: LogisticLoss, coordinates: Tensor, variances: Tensor, start: Tensor, *,
              strength: float, tolerance: float) -> tuple[Tensor, float]:
    """L-BFGS over parameters that are scaled to have curvatures near 1."""
    from scipy.optimize import minimize

    def logits_of(solution: Tensor) -> Tensor:
        products = coordinates @ solution[:, :-1].T.to(coordinates.dtype)
        return products.double() + solution[:, -1]

    curvature = loss.curvature(logits_of(start))
    scale = torch.cat([strength + curvature * variances, curvature], dim=1).rsqrt()

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        solution = torch.from_numpy(parameters).view_as(start) * scale
        logits, weight = logits_of(solution), solution[:, :-1]
        slopes = loss.gradient(logits)
        inner = (slopes.T.to(coordinates.dtype) @ coordinates).double() + strength * weight
        gradient = torch.cat([inner, slopes.sum(0)[:, None]], dim=1) * scale
        value = loss.value(logits) + strength / 2 * float(weight.square().sum())
        return value, gradient.flatten().numpy()

    found = minimize(objective, (start / scale).flatten().numpy(), jac=True, method="L-BFGS-B",
                     options={"gtol": tolerance, "ftol": 1e-15, "maxiter": STEPS,
                              "maxfun": 2 * STEPS})
    return torch.from_numpy(found.x).view_as(start) * scale, float(np.abs(found.jac).max())
