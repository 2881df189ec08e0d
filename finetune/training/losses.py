"""Losses, imbalance, mixup and cutmix, contrastive learning."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.specs import LabelSpec

__all__ = ["EFFECTIVE_BETA", "AdjustedLoss", "ContrastiveLoss", "MaskedBinaryCrossEntropy",
           "build_loss", "build_mix", "class_weights", "log_prior", "nt_xent"]

EFFECTIVE_BETA = 0.9999  # of 0.9, 0.99, 0.999, 0.9999 in Cui et al. 2019, their best on CIFAR-10
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class MaskedBinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy over the known entries of multi-label targets.

    Logits and targets are (B, K); NaN = unknown, which adds nothing. With ``smoothing`` s,
    targets become ``y * (1 - s) + s / 2``. ``weights`` (K,) multiply the positives of each class.
    """

    weights: Tensor | None

    def __init__(self, *, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar; 0 when nothing is known."""
        known = ~targets.isnan()
        smooth = torch.where(known, targets, 0.0) * (1 - self.smoothing) + self.smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(
            logits, smooth.to(logits.dtype), pos_weight=self.weights, reduction="none")
        return (losses * known).sum() / known.sum().clamp(min=1)


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (Chen et al. 2020, arXiv 2002.05709, eq. 1), a scalar.

    Each view is to be most like the other view of its picture, by cosine similarity, among all
    other views of the batch.

    Args:
        projections: (2B, D); rows 2i and 2i + 1 are views of the same picture.
        temperature: Similarities are divided by it.
    """
    unit = functional.normalize(projections, dim=1)
    similar = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    partners = torch.arange(len(unit), device=unit.device) ^ 1
    return functional.cross_entropy(similar, partners)


class ContrastiveLoss(nn.Module):
    """`nt_xent` of the projections plus the loss of the classifier that watches.

    Outputs (2B, K + D) are logits and projections of pairs of views; the parts don't share a
    gradient (`finetune.models.heads.ProbeAndProjection`).
    """

    def __init__(self, watching: nn.Module, *, output_width: int, temperature: float) -> None:
        super().__init__()
        self.watching, self.width, self.temperature = watching, output_width, temperature

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of both, a scalar."""
        logits, projections = outputs[:, :self.width], outputs[:, self.width:]
        watched: Tensor = self.watching(logits, targets)
        return watched + nt_xent(projections, self.temperature)


class AdjustedLoss(nn.Module):
    """A loss of ``logits + adjustment`` (Menon et al. 2021, arXiv 2007.07314, section 5).

    In training alone: what is evaluated are the logits as they are, which then are those of
    classes that are equally frequent.
    """

    adjustment: Tensor

    def __init__(self, loss: nn.Module, adjustment: Tensor) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("adjustment", adjustment)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar."""
        found: Tensor = self.loss(logits + self.adjustment, targets)
        return found


def _counts(labels: np.ndarray, spec: LabelSpec) -> tuple[np.ndarray, np.ndarray]:
    """(K,) pictures of each class and of the others, unknown ones left out; each at least 1."""
    if spec.is_exclusive:
        counts = np.bincount(labels, minlength=spec.output_width)
        return counts.clip(min=1), (len(labels) - counts).clip(min=1)
    return (labels == 1).sum(axis=0).clip(min=1), (labels == 0).sum(axis=0).clip(min=1)


def class_weights(labels: np.ndarray, spec: LabelSpec, *, beta: float | None = None) -> Tensor:
    """Weights of rare classes that are larger, (K,) float32.

    One class each: ``n / (K * n_k)``, scikit-learn's ``balanced``. Multi-label: known negatives by
    positives of each class.

    Args:
        labels: (N,) class indices, or (N, K) with NaN = unknown.
        spec: Decides between the two.
        beta: Effective numbers ``(1 - beta^n) / (1 - beta)`` take the place of numbers (Cui et al.
            2019, arXiv 1901.05555); one class each: weights then sum to K. Above 0, below 1.
    """
    positives, negatives = _counts(labels, spec)
    if beta is not None:
        positives, negatives = ((1 - beta**n) / (1 - beta) for n in (positives, negatives))
    if not spec.is_exclusive:
        weights = negatives / positives
    elif beta is None:
        weights = len(labels) / (spec.output_width * positives)
    else:
        weights = spec.output_width / positives / (1 / positives).sum()
    return torch.tensor(weights, dtype=torch.float32)


def log_prior(labels: np.ndarray, spec: LabelSpec) -> Tensor:
    """Logarithms of the classes' shares, (K,) float32; multi-label: of the odds of each label.

    Labels are two classes each, whose shares differ by the odds. Unknown ones don't count.
    """
    positives, negatives = _counts(labels, spec)
    prior = positives / (len(labels) if spec.is_exclusive else negatives)
    return torch.tensor(np.log(prior), dtype=torch.float32)


def build_loss(spec: LabelSpec, *, smoothing: float = 0.0, weights: Tensor | None = None,
               adjustment: Tensor | None = None) -> nn.Module:
    """Cross-entropy for one class each, masked binary cross-entropy for multi-label.

    Ordered classes have the former: their logits are logarithms of probabilities
    (`finetune.models.ordinal`). ``adjustment`` (K,) makes it an `AdjustedLoss`.
    """
    loss: nn.Module = (nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)
                       if spec.is_exclusive
                       else MaskedBinaryCrossEntropy(smoothing=smoothing, weights=weights))
    return loss if adjustment is None else AdjustedLoss(loss, adjustment)


def build_mix(spec: LabelSpec, *, mixup_alpha: float = 0.0,
              cutmix_alpha: float = 0.0) -> Mix | None:
    """Mixup (arXiv 1710.09412), cutmix (arXiv 1905.04899), or one of both at random a batch.

    The function maps images (B, C, H, W) and targets to mixed ones with targets (B, K) of class
    probabilities; what is mixed with unknown is unknown. It draws from torch's global generator.
    None when both are off.
    """
    from torchvision.transforms import v2

    kinds = [kind(alpha=alpha, num_classes=spec.output_width)
             for kind, alpha in ((v2.MixUp, mixup_alpha), (v2.CutMix, cutmix_alpha)) if alpha > 0]
    if not kinds:
        return None
    choice = v2.RandomChoice(kinds)
    return lambda images, targets: choice(images, targets)
