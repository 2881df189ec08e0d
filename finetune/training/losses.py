"""Losses, class weights, mixup and cutmix, contrastive learning."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.specs import LabelSpec

__all__ = ["ContrastiveLoss", "MaskedBinaryCrossEntropy", "build_loss", "build_mix",
           "class_weights", "nt_xent"]

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


def class_weights(labels: np.ndarray, spec: LabelSpec) -> Tensor:
    """Weights that make every class count alike, (K,) float32.

    One class each: ``n / (K * n_k)``, scikit-learn's ``balanced``. Multi-label: known negatives by
    positives of each class.
    """
    if spec.is_exclusive:
        counts = np.bincount(labels, minlength=spec.output_width).clip(min=1)
        return torch.tensor(len(labels) / (spec.output_width * counts), dtype=torch.float32)
    positives = (labels == 1).sum(axis=0).clip(min=1)
    return torch.tensor((labels == 0).sum(axis=0).clip(min=1) / positives, dtype=torch.float32)


def build_loss(spec: LabelSpec, *, smoothing: float = 0.0,
               weights: Tensor | None = None) -> nn.Module:
    """Cross-entropy for one class each, masked binary cross-entropy for multi-label."""
    if spec.is_exclusive:
        return nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)
    return MaskedBinaryCrossEntropy(smoothing=smoothing, weights=weights)


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
