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

__all__ = ["LogisticLoss", "LogisticRows", "logistic_path", "principal_axes"]

STEPS = 1000  # of L-BFGS for a strength, at most


@dataclass(frozen=True, eq=False)
class LogisticLoss:
    """``sum(total * normaliser(logits) - mass * logits) / denominator`` and its derivatives.

    The normaliser is the logarithm of the sum of exponentials over classes, or, for multi-label,
    softplus. Both losses of `finetune.training.losses` are of this form, smoothing included.
    Logits and ``mass`` are (K, n) here, which is several times faster than (n, K) for few classes;
    ``total`` is (n,), or (K, n) for multi-label.
    """

    mass: Tensor
    total: Tensor
    denominator: float
    single: bool

    def value_and_probabilities(self, logits: Tensor) -> tuple[float, Tensor]:
        """The loss, and the probabilities (K, n)."""
        top = logits.logsumexp(0) if self.single else functional.softplus(logits)
        value = torch.sum(self.total * top) - torch.sum(self.mass * logits)
        probabilities = (logits - top).exp_() if self.single else logits.sigmoid()
        return float(value) / self.denominator, probabilities

    def gradient(self, probabilities: Tensor) -> Tensor:
        """Of the loss by the logits, (K, n)."""
        return (self.total * probabilities - self.mass) / self.denominator

    def curvature(self, probabilities: Tensor) -> Tensor:
        """Second derivatives of the loss by the biases, (K, 1); at least 1e-6."""
        spread = self.total * probabilities * (1 - probabilities)
        return (spread.sum(1, keepdim=True) / self.denominator).clamp(min=1e-6)


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
        each, classes = self.sample_weights, len(self.class_weights)
        weights = self.class_weights[:, None]
        if self.single:
            hard = functional.one_hot(self.labels, classes).T.contiguous() * each * weights
            mass = hard * (1 - smoothing) + each * weights * smoothing / classes
            return LogisticLoss(mass, mass.sum(0), float(hard.sum()) or 1.0, True)
        labels = self.labels.T.contiguous()
        known = each * ~labels.isnan()
        soft = labels.nan_to_num() * (1 - smoothing) + smoothing / 2
        mass = known * weights * soft
        return LogisticLoss(mass, mass + known * (1 - soft), float(known.sum()) or 1.0, False)


def logistic_path(rows: LogisticRows, strengths: Sequence[float], *, smoothing: float,
                  tolerance: float, axes: Tensor | None = None,
                  dtype: torch.dtype = torch.float64) -> Iterator[tuple[Tensor, Tensor, float]]:
    """For each strength the weights (K, D), the biases (K,) and the gradient that was left.

    Weights and biases are float64 and for features as they are in ``rows``. L-BFGS (Liu & Nocedal
    1989) works on principal axes of the standardised features, each scaled by its curvature, and
    starts where the last strength ended: give the strongest first.

    Args:
        rows: What to fit.
        strengths: L2 penalties, above 0.
        smoothing: Label smoothing, 0..1.
        tolerance: L-BFGS ends at a scaled gradient of this, where a step gains a tenth of its
            square (float32 can't tell less in the folds), or after `STEPS` steps.
        axes: `principal_axes` of these or similar rows, (D, D). They change the time, not the
            solution. None: from these rows, of which there should be fewer than features.
        dtype: Of the products with the features; losses and sums are float64 in any case.
    """
    features, mean, inverse = _standardise(rows.features.to(dtype))
    axes = _axes_of_few(features) if axes is None else axes
    coordinates = features @ axes.to(dtype)
    del features
    variances = coordinates.square().mean(0, dtype=torch.float64)
    loss = rows.loss(smoothing=smoothing)
    solution = torch.zeros(len(rows.class_weights), len(variances) + 1, dtype=torch.float64)
    for strength in strengths:
        solution, slope = _minimise(loss, coordinates, variances, solution,
                                    strength=strength, tolerance=tolerance)
        weight = solution[:, :-1] @ axes.T * inverse
        yield weight, solution[:, -1] - weight @ mean, slope


def principal_axes(features: Tensor) -> Tensor | None:
    """Principal axes of standardised features (n, D), (D, D) float64; None where n < D."""
    if len(features) < features.shape[1]:
        return None
    standard = _standardise(features.float())[0]
    axes: Tensor = torch.linalg.eigh((standard.T @ standard).double())[1]
    return axes


def _axes_of_few(features: Tensor) -> Tensor:
    """The axes (D, rank) in which n < D standardised features vary."""
    wide = features.double()
    variances, rows = torch.linalg.eigh(wide @ wide.T)
    kept = variances > 1e-12 * variances[-1].clamp(min=1e-300)
    axes: Tensor = wide.T @ rows[:, kept] / variances[kept].sqrt()
    return axes


def _standardise(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised features, mean and 1 / standard deviation; 0 where a feature is constant."""
    mean = features.mean(0, dtype=torch.float64).to(features.dtype)
    scores = features - mean
    std = torch.linalg.vector_norm(scores, dim=0, dtype=torch.float64) / len(features) ** 0.5
    varies = std > 1e-6 * mean.abs()  # below: the rounding of float32
    inverse = torch.where(varies, 1 / std, 0.0)
    return scores.mul_(inverse.to(scores.dtype)), mean.double(), inverse


def _minimise(loss: LogisticLoss, coordinates: Tensor, variances: Tensor, start: Tensor, *,
              strength: float, tolerance: float) -> tuple[Tensor, float]:
    """L-BFGS over parameters that are scaled to have curvatures near 1."""
    from scipy.optimize import minimize

    def evaluate(solution: Tensor) -> tuple[float, Tensor]:
        products = solution[:, :-1].to(coordinates.dtype) @ coordinates.T
        return loss.value_and_probabilities(products.double() + solution[:, -1:])

    curvature = loss.curvature(evaluate(start)[1])
    scale = torch.cat([strength + curvature * variances, curvature], dim=1).rsqrt()

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        solution = torch.from_numpy(parameters).view_as(start) * scale
        value, probabilities = evaluate(solution)
        weight, slopes = solution[:, :-1], loss.gradient(probabilities)
        inner = (slopes.to(coordinates.dtype) @ coordinates).double() + strength * weight
        gradient = torch.cat([inner, slopes.sum(1, keepdim=True)], dim=1) * scale
        return value + strength / 2 * float(weight.square().sum()), gradient.flatten().numpy()

    found = minimize(objective, (start / scale).flatten().numpy(), jac=True, method="L-BFGS-B",
                     options={"gtol": tolerance, "ftol": tolerance**2 / 10, "maxiter": STEPS,
                              "maxfun": 2 * STEPS})
    return torch.from_numpy(found.x).view_as(start) * scale, float(np.abs(found.jac).max())
