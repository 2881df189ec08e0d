"""The last linear layer, fitted exactly on features; its L2 penalty chosen by cross-validation."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.errors import ConfigurationError, DataError, first_of
from finetune.specs import LabelSpec
from finetune.training.logistic import LogisticRows, logistic_path, principal_axes

__all__ = ["DEFAULT_STRENGTH", "STRENGTHS", "HeadFit", "fit_head", "load_head",
           "one_standard_error", "split_folds"]

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(2, -11, -1))  # 10 to 1e-5
DEFAULT_STRENGTH = 0.05  # where rows can't be split into folds
FLOAT64_ENTRIES = 2 ** 27  # larger feature matrices are multiplied in float32


@dataclass(frozen=True, eq=False)
class HeadFit:
    """A fitted linear layer: ``logits = features @ weight.T + bias``.

    Attributes:
        weight: (K, D) float32, for features as they were given.
        bias: (K,) float32.
        strength: The L2 penalty that was chosen, on the scale of `finetune.training.logistic`,
            which gives the relation to scikit-learn's C.
        path: For each strength, strongest first: ``strength``, ``log_loss`` (mean over folds) and
            ``standard_error``. It ends where three strengths in a row gave the first fold more
            than 1.1 times its least loss. Empty when nothing was cross-validated.
        chosen_by: A sentence: how the strength was chosen.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    path: list[dict[str, float]]
    chosen_by: str


def fit_head(features: Tensor, labels: Any, *, label_spec: LabelSpec, groups: Any = None,
             class_weights: Tensor | None = None, sample_weights: Any = None,
             label_smoothing: float = 0.0, strengths: Sequence[float] | None = None,
             folds: int = 5, seed: int = 0) -> HeadFit:
    """The linear layer with the least penalised training loss, and how its penalty was chosen.

    One class each: multinomial logistic regression with K logits. Multi-label: a logistic
    regression for each label over its known rows, with one strength for all. The strength is the
    strongest within one standard error of the least cross-validated log loss
    (`one_standard_error`). That log loss is weighted as in training but not smoothed, and leaves
    out what the other folds never showed (a class in one group only). Objective and optimiser are
    in `finetune.training.logistic`.

    Runs on the CPU. The final fit multiplies in float64 up to `FLOAT64_ENTRIES` entries, above
    and in the folds in float32. Time: O(N D² + D³) once (N < D: O(N² D) per fold), then O(N D K)
    per step of L-BFGS. Memory beside the features: three copies of them (about 5 GB for 100,000
    rows of 4,096) and about six (N, K) float64 arrays.

    Args:
        features: (N, D); what enters the layer.
        labels: (N,) class indices, or (N, K) of 0, 1 and NaN = unknown.
        label_spec: Decides between the two.
        groups: (N,) of anything; rows of a group stay in one fold.
        class_weights: (K,), as in `finetune.training.losses.class_weights`.
        sample_weights: (N,), not negative.
        label_smoothing: As in training, 0..1.
        strengths: L2 penalties above 0 to choose from; None: `STRENGTHS`; one: nothing is chosen.
        folds: At most; fewer where classes or groups are too few.
        seed: Of the folds. Equal arguments give equal bits.

    Raises:
        ConfigurationError: A strength isn't above 0.
        DataError: Shapes, labels or values aren't as above.
    """
    rows = _read(features, labels, label_spec, class_weights, sample_weights)
    grid = sorted({float(s) for s in (STRENGTHS if strengths is None else strengths)}, reverse=True)
    if not grid or grid[-1] <= 0:
        raise ConfigurationError(f"L2 strengths have to be above 0; found {grid}")
    axes = principal_axes(rows.features)
    path, chosen_by = [], "given"
    if len(grid) > 1:
        parts = split_folds(rows.labels.numpy(), label_spec=label_spec, groups=groups,
                            folds=folds, seed=seed)
        path = _cross_validate(rows, parts, grid, smoothing=label_smoothing, axes=axes)
        strength, chosen_by = _choose(path, len(parts))
        grid = [s for s in grid if s > strength] + [strength]
    dtype = torch.float64 if features.numel() <= FLOAT64_ENTRIES else torch.float32
    *_, (weight, bias, slope) = logistic_path(rows, grid, smoothing=label_smoothing, axes=axes,
                                              tolerance=1e-6, dtype=dtype)
    if slope > 1e-4:
        chosen_by += f"; L-BFGS stopped early, at a gradient of {slope:.1g}"
    return HeadFit(weight.float(), bias.float(), grid[-1], path, chosen_by)


def one_standard_error(path: Sequence[dict[str, float]]) -> dict[str, float]:
    """The strongest penalty whose log loss is within one standard error of the least.

    Hastie, Tibshirani, Friedman 2009, The Elements of Statistical Learning, section 7.10.

    >>> losses = {10: 0.9, 1: 0.45, 0.1: 0.4, 0.01: 0.6}
    >>> one_standard_error([{"strength": strength, "log_loss": loss, "standard_error": 0.1}
    ...                     for strength, loss in losses.items()])["strength"]
    1
    """
    least = min(path, key=lambda point: point["log_loss"])
    limit = least["log_loss"] + least["standard_error"]
    return max((point for point in path if point["log_loss"] <= limit),
               key=lambda point: point["strength"])


def split_folds(labels: np.ndarray, *, label_spec: LabelSpec, groups: Any = None, folds: int = 5,
                seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row numbers to fit on and to hold out, for each fold; no group is on both sides.

    Stratified by class (scikit-learn's ``StratifiedKFold``, ``StratifiedGroupKFold``); multi-label:
    ``KFold``, ``GroupKFold`` (which draws nothing). There are no more folds than groups, or than
    rows of the commonest class. Folds that hold out no class that the others show are left out;
    with fewer than two the list is empty.
    """
    from sklearn import model_selection as split

    single, grouped = label_spec.is_exclusive, groups is not None
    groups = np.unique(groups, return_inverse=True)[1] if grouped else np.arange(len(labels))
    count = min(folds, len(np.unique(groups)), np.bincount(labels).max() if single else folds)
    if count < 2:
        return []
    kind = {(True, True): split.StratifiedGroupKFold, (True, False): split.StratifiedKFold,
            (False, True): split.GroupKFold, (False, False): split.KFold}[single, grouped]
    chance = {} if kind is split.GroupKFold else {"shuffle": True, "random_state": seed}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(kind(count, **chance).split(np.zeros(len(labels)), labels,
                                                 groups if grouped else None))
    parts = [(fit, held) for fit, held in parts
             if (np.isin(labels[held], labels[fit]).any() if single else len(held))]
    return parts if len(parts) > 1 else []


def load_head(classifier: nn.Module, fit: HeadFit) -> None:
    """Copy the fit into a classifier's one linear layer; changes it in place.

    That is a ``Linear`` or a 1×1 ``Conv2d`` with a bias; around it there may be layers without
    parameters. The fit's features must be what enters this layer.

    Raises:
        ConfigurationError: The classifier has other parameters, or another shape.
    """
    layers = [m for m in classifier.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    shapes = [tuple(p.shape) for p in classifier.parameters()]
    width, size = fit.weight.shape
    one = (1, 1) if layers and isinstance(layers[0], nn.Conv2d) else ()
    if len(layers) != 1 or shapes != [(width, size, *one), (width,)]:
        raise ConfigurationError(
            f"The exact head needs a classifier of one linear layer with a bias, {size} features "
            f"to {width} outputs; this {type(classifier).__name__} has parameters of shapes "
            f"{first_of(shapes)}: use model.head=linear", ways_out=["model.head=linear"])
    with torch.no_grad():
        for parameter, value in zip(classifier.parameters(), (fit.weight, fit.bias), strict=True):
            parameter.copy_(value.view_as(parameter))


def _read(features: Tensor, labels: Any, spec: LabelSpec, class_weights: Tensor | None,
          sample_weights: Any) -> LogisticRows:
    single, width = spec.is_exclusive, spec.output_width
    targets = torch.as_tensor(labels).to("cpu", torch.int64 if single else torch.float64)
    each = torch.ones(len(targets)) if sample_weights is None else torch.as_tensor(sample_weights)
    classes = torch.ones(width) if class_weights is None else class_weights.cpu()
    rows = LogisticRows(features.detach().cpu(), targets, each.to("cpu", torch.float64),
                        classes.to("cpu", torch.float64), single)
    wrong = _complaint(rows, (len(targets),) if single else (len(targets), width), width)
    if wrong:
        raise DataError(f"The head can't be fitted on these features: {wrong}")
    return rows


def _complaint(rows: LogisticRows, expected: tuple[int, ...], width: int) -> str:
    labels = rows.labels
    if rows.features.ndim != 2 or not len(rows.features) == len(labels) > 0:
        return f"they are {tuple(rows.features.shape)}, not ({len(labels)} labels, D)"
    if labels.shape != expected:
        return f"labels are {tuple(labels.shape)}, not {expected}"
    if (labels < 0).any() or (labels > (width - 1 if rows.single else 1)).any():
        return f"labels reach beyond {'the classes' if rows.single else '0..1'}"
    if rows.sample_weights.shape != expected[:1] or not (rows.sample_weights >= 0).all():
        return f"sample_weights aren't {expected[0]} numbers >= 0"
    if rows.class_weights.shape != (width,):
        return f"class_weights are {tuple(rows.class_weights.shape)}, not ({width},)"
    bad = torch.nonzero(~rows.features.isfinite().all(1)).flatten().tolist()
    return f"rows {first_of(bad)} aren't finite" if bad else ""


def _cross_validate(rows: LogisticRows, parts: Sequence[tuple[np.ndarray, np.ndarray]],
                    grid: Sequence[float], *, smoothing: float,
                    axes: Tensor | None) -> list[dict[str, float]]:
    table: list[list[float]] = []
    for fit, held in parts:
        losses = _held_out_losses(rows.take(fit), rows.take(held), grid, smoothing, axes)
        table.append(list(losses) if table else _until_worse(losses))
        grid = grid[:len(table[0])]
    return [{"strength": strength, "log_loss": float(column.mean()),
             "standard_error": float(column.std(ddof=1) / len(parts) ** 0.5)}
            for strength, column in zip(grid, np.array(table).T, strict=bool(table))]


def _held_out_losses(fit: LogisticRows, held: LogisticRows, grid: Sequence[float],
                     smoothing: float, axes: Tensor | None) -> Iterator[float]:
    held = held.labelled_as_in(fit)
    loss, features = held.loss(smoothing=0.0), held.features.double()
    for weight, bias, _ in logistic_path(fit, grid, smoothing=smoothing, axes=axes,
                                         tolerance=1e-4, dtype=torch.float32):
        yield loss.value_and_probabilities(weight @ features.T + bias[:, None])[0]


def _until_worse(losses: Iterable[float]) -> list[float]:
    """Losses up to three in a row of more than 1.1 times the least."""
    seen: list[float] = []
    for loss in losses:
        seen.append(loss)
        if min(seen[-3:]) > 1.1 * min(seen):
            break
    return seen


def _choose(path: Sequence[dict[str, float]], folds: int) -> tuple[float, str]:
    if not path:
        return DEFAULT_STRENGTH, "default: too few rows, groups or classes for two folds"
    chosen = one_standard_error(path)
    least = min(path, key=lambda point: point["log_loss"])
    said = (f"strongest within one standard error of the least log loss, which is "
            f"{least['log_loss']:.4f} ± {least['standard_error']:.4f} over {folds} folds "
            f"at {least['strength']:.3g}")
    edge = least["strength"] in (path[0]["strength"], path[-1]["strength"])
    return chosen["strength"], said + (", an end of the strengths tried" if edge else "")
