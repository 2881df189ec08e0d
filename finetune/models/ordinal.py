"""Classifiers for ordered classes: scores in, logarithms of the K classes' probabilities out.

Softmax leaves logarithms of probabilities as they are, so that all that reads logits (the loss,
calibration, metrics, the report) needs no case of its own, and cross-entropy is the model's
negative log-likelihood.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import ConfigurationError
from finetune.models.heads import classifier_modules
from finetune.specs import OrdinalLink

__all__ = ["ContinuationRatio", "CumulativeLink", "make_ordinal", "score_count"]


class CumulativeLink(nn.Module):
    """One score (B, 1) to (B, K): ``P(y <= k) = sigmoid(threshold_k - score)``.

    The proportional odds model (McCullagh 1980, JRSS B 42). Thresholds are ordered whatever is
    learned: each is the one below plus softplus of a free number. They begin where a score of 0
    makes all classes equally likely.

    Attributes:
        first: The lowest threshold, (1,).
        gaps: (K - 2,); softplus of them are the distances between neighbours.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        shares = torch.arange(1, classes) / classes
        thresholds = shares.logit()
        self.first = nn.Parameter(thresholds[:1].clone())
        self.gaps = nn.Parameter(thresholds.diff().expm1().log())

    @property
    def thresholds(self) -> Tensor:
        """The K - 1 ordered thresholds."""
        return torch.cat([self.first, self.first + functional.softplus(self.gaps).cumsum(0)])

    def forward(self, scores: Tensor) -> Tensor:
        """Logarithms of probabilities, (B, K) float32 or wider.

        With thresholds b > a around a class, ``sigmoid(b - s) - sigmoid(a - s) = sigmoid(b - s)
        sigmoid(s - a) (1 - exp(a - b))``, and the last factor is ``sigmoid(gap)``: nothing cancels.
        """
        distances = self.thresholds - scores.to(_wide(scores))
        nothing = torch.zeros_like(distances[:, :1])
        below = torch.cat([functional.logsigmoid(distances), nothing], dim=1)
        above = torch.cat([nothing, functional.logsigmoid(-distances)], dim=1)
        between = functional.pad(functional.logsigmoid(self.gaps), (1, 1))
        return below + above + between


class ContinuationRatio(nn.Module):
    """K - 1 scores (B, K - 1) to (B, K): ``P(y > k | y >= k) = sigmoid(score_k)``.

    CORN (Shi, Cao, Raschka 2021, arXiv 2111.08851). Its loss, binary cross-entropies of each step
    over the pictures that reach it, is the negative log-likelihood of these probabilities; the
    paper divides the sum by the number of all such terms, cross-entropy by the number of pictures.
    """

    def forward(self, scores: Tensor) -> Tensor:
        """Logarithms of probabilities, (B, K) float32 or wider."""
        scores = scores.to(_wide(scores))
        reached = functional.logsigmoid(scores).cumsum(1)
        nothing = torch.zeros_like(reached[:, :1])
        return torch.cat([nothing, reached], dim=1) + torch.cat(
            [functional.logsigmoid(-scores), nothing], dim=1)


def _wide(scores: Tensor) -> torch.dtype:
    return torch.promote_types(scores.dtype, torch.float32)


def score_count(link: OrdinalLink, classes: int) -> int:
    """How many scores a network gives for so many ordered classes."""
    return 1 if link is OrdinalLink.cumulative_link else classes - 1


def make_ordinal(model: nn.Module, link: OrdinalLink, classes: int) -> None:
    """Put the link behind the classifier, which gives `score_count` scores; changes the model.

    Afterwards ``get_classifier()`` returns both.

    Raises:
        ConfigurationError: The classifier isn't made of linear layers behind ``get_classifier()``.
    """
    modules = classifier_modules(model)
    name, old = next(iter(modules.items()))
    linear = [m for m in old.modules() if isinstance(m, nn.Linear)]
    if (len(modules) > 1 or not linear or not hasattr(model, "get_classifier")
            or any(isinstance(m, nn.Conv2d) for m in old.modules())):
        raise ConfigurationError(
            "data.label_kind=ordinal needs one linear classifier behind get_classifier(); "
            f"{type(model).__name__} has "
            + ", ".join(f"{n} ({type(m).__name__})" for n, m in modules.items())
            + ": another network")
    made = (CumulativeLink(classes) if link is OrdinalLink.cumulative_link
            else ContinuationRatio())
    parent, _, attribute = name.rpartition(".")
    layers = list(old) if isinstance(old, nn.Sequential) else [old]
    setattr(model.get_submodule(parent), attribute, nn.Sequential(*layers, made))
