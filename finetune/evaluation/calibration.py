"""Calibration: logits are scaled so that probabilities say how often they are right.

Scale and bias are fitted by log loss on validation logits and kept only if that helps pictures
that they were not fitted on. `Calibration` itself needs numpy alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from finetune.errors import first_of
from finetune.evaluation.halves import cross_fitted, group_folds
from finetune.evaluation.shares import group_numbers, mean_and_error

__all__ = ["KINDS", "MIN_PICTURES", "Calibration", "fit_calibration", "fit_scaling",
           "log_losses", "to_probabilities"]

KINDS = ("temperature", "bias_corrected", "vector")
MIN_PICTURES = 50
MIN_OF_EACH = 10       # positives and negatives of a label
KEEP_ERRORS = 2.0      # standard errors that the gain has to exceed
SCALES = (0.05, 20.0)  # temperatures of 20 to 0.05
BIAS_SPREAD = 3.0      # standard deviation of the weak prior of biases, in logits


@dataclass(frozen=True)
class Calibration:
    """How logits become calibrated ones: ``logits * scale + bias``.

    Attributes:
        kind: One of `KINDS`, ``per_label`` for multi-label, or ``none``.
        temperature: 1 / scale where one scale serves all classes and was kept.
        scale: (K,), all 1 where nothing was kept.
        bias: (K,), all 0 where nothing was kept.
        before: Log loss of the validation pictures as the network answers.
        after: Their log loss by what was fitted without them (cross-fitted), kept or not.
        gain_error: Standard error of before - after, clustered by group.
        kept: Whether scale and bias change anything.
        reason: Why it was kept, not kept or refused, in words.
    """

    kind: str
    scale: tuple[float, ...]
    bias: tuple[float, ...]
    kept: bool
    reason: str
    temperature: float | None = None
    before: float | None = None
    after: float | None = None
    gain_error: float | None = None

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """(N, K) float64 calibrated logits."""
        scaled: np.ndarray = logits.astype(np.float64) * np.array(self.scale) + np.array(self.bias)
        return scaled

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self) | {"scale": list(self.scale), "bias": list(self.bias)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """What `to_dict` described."""
        return cls(**{**values, "scale": tuple(values["scale"]), "bias": tuple(values["bias"])})

    @classmethod
    def unchanged(cls, width: int, reason: str, *, kind: str = "none") -> "Calibration":
        """One that leaves logits as they are."""
        return cls(kind, (1.0,) * width, (0.0,) * width, kept=False, reason=reason)


def to_probabilities(logits: np.ndarray, *, multi: bool = False) -> np.ndarray:
    """(N, K) float64: softmax of the logits, or sigmoid for multi-label."""
    logits = logits.astype(np.float64)
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits) if multi else _log_softmax(logits)))


def log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) log loss of each picture in nats; multi-label: mean over its known labels, NaN if none.

    Args:
        logits: (N, K).
        labels: (N,) class indices, or (N, K) with NaN = unknown.
    """
    logits = logits.astype(np.float64)
    if labels.ndim == 1:
        return np.asarray(-_log_softmax(logits)[np.arange(len(labels)), labels])
    known = ~np.isnan(labels)
    losses = np.logaddexp(0.0, np.where(labels == 1, -logits, logits)) * known
    counts = known.sum(axis=1)
    return np.where(counts > 0, losses.sum(axis=1) / counts.clip(min=1), np.nan)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def fit_scaling(
    logits: np.ndarray, labels: np.ndarray, *, kind: str, bias_spread: float = BIAS_SPREAD,
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) scale and (K,) bias with the least log loss; L-BFGS on a convex function.

    ``temperature``: one scale (Guo 2017, arXiv:1706.04599). ``bias_corrected``: one scale and a
    bias per class (Alexandari 2019, arXiv:1901.06852). ``vector``: a scale and a bias per class
    (Guo 2017). Other than in the papers, biases have a weak normal prior of mean 0, so that a class
    without a picture doesn't get a probability of 0; scales stay within 0.05 to 20.

    Args:
        logits: (N, K).
        labels: (N,) class indices.
        kind: One of `KINDS`.
        bias_spread: Standard deviation of the prior, infinite for none.
    """
    from scipy.optimize import minimize

    width = logits.shape[1]
    scales, biases = (width if kind == "vector" else 1), (0 if kind == "temperature" else width)
    found = minimize(
        _loss_and_slope, np.r_[np.ones(scales), np.zeros(biases)], jac=True, method="L-BFGS-B",
        args=(logits.astype(np.float64), labels, scales, bias_spread),
        bounds=[SCALES] * scales + [(None, None)] * biases,
        options={"maxiter": 1000, "maxfun": 10_000, "ftol": 1e-13, "gtol": 1e-8})
    scale, bias = found.x[:scales], found.x[scales:]
    return np.broadcast_to(scale, width).copy(), bias if biases else np.zeros(width)


def _loss_and_slope(values: np.ndarray, logits: np.ndarray, labels: np.ndarray, scales: int,
                    bias_spread: float) -> tuple[float, np.ndarray]:
    """Mean log loss plus the prior's share, and its gradient."""
    count, scale, bias = len(labels), values[:scales], values[scales:]
    logs = _log_softmax(logits * scale + (bias if len(bias) else 0.0))
    rows = np.arange(count)
    loss = -logs[rows, labels].mean() + (bias**2).sum() / (2 * count * bias_spread**2)
    residual = np.exp(logs)
    residual[rows, labels] -= 1
    by_class = (residual * logits).sum(axis=0) / count
    slope = by_class if scales > 1 else by_class.sum(keepdims=True)
    pull = residual.sum(axis=0) / count + bias / (count * bias_spread**2) if len(bias) else bias
    return float(loss), np.r_[slope, pull]


def fit_calibration(
    logits: np.ndarray, labels: np.ndarray, *, kind: str, seed: int,
    groups: Sequence[Any] | None = None, class_names: Sequence[str] | None = None,
) -> tuple[Calibration, np.ndarray]:
    """A calibration, and the pictures' own logits calibrated by fits without them (cross-fitted).

    Kept if log loss falls, cross-fitted in five folds by group, by more than twice its standard
    error (clustered by group). Refused, with a reason, below 50 pictures, where no picture is wrong
    (the best temperature is then 0), and where the best scale is out of bounds. Multi-label logits
    get a scale and a bias for each label that has 10 known positives and negatives, by the same
    rules label by label. What isn't kept leaves logits as they are.

    Args:
        logits: (N, K) of validation pictures.
        labels: (N,) class indices, or (N, K) with NaN = unknown.
        kind: One of `KINDS`; multi-label knows one kind alone.
        seed: Of the folds.
        groups: The group of each picture; a fold holds whole ones.
        class_names: For the words of multi-label; numbers where not given.
    """
    units = group_numbers(groups, len(labels))
    if labels.ndim == 1:
        return _fit_single(logits, labels, kind, units, seed)
    names = class_names or [str(k) for k in range(logits.shape[1])]
    return _fit_labels(logits, labels, units, seed, names)


def _fit_single(logits: np.ndarray, labels: np.ndarray, kind: str, units: np.ndarray,
                seed: int) -> tuple[Calibration, np.ndarray]:
    whole, raw = logits.shape[1], logits.astype(np.float64)
    refused = _refused_before(labels, units)
    if refused:
        return Calibration.unchanged(whole, refused, kind=kind), raw
    scale, bias = fit_scaling(raw, labels, kind=kind)
    refused = _refused_after(raw * scale + bias, labels, scale, kind)
    if refused:
        return Calibration.unchanged(whole, refused, kind=kind), raw
    folds = group_folds(labels, units.tolist(), seed=seed)
    crossed = cross_fitted(lambda rows: fit_scaling(raw[rows], labels[rows], kind=kind),
                           lambda fitted, rows: raw[rows] * fitted[0] + fitted[1], folds)
    found = _judged(kind, scale, bias, log_losses(raw, labels), log_losses(crossed, labels), units)
    return found, crossed if found.kept else raw


def _refused_before(labels: np.ndarray, units: np.ndarray) -> str | None:
    if len(labels) < MIN_PICTURES:
        return (f"not calibrated: {len(labels)} validation pictures are too few, "
                f"{MIN_PICTURES} are needed")
    if len(np.unique(units)) < 2:
        return "not calibrated: all validation pictures are of one group, nothing can be left out"
    return None


def _refused_after(scaled: np.ndarray, labels: np.ndarray, scale: np.ndarray,
                   kind: str) -> str | None:
    if _separated(scaled, labels, biased=kind != "temperature"):
        return (f"not calibrated: every one of {len(labels)} validation pictures is right, so that "
                "the best temperature would be 0 and claim certainty")
    if scale.min() <= SCALES[0] or scale.max() >= SCALES[1]:
        return (f"not calibrated: the best scale of the logits is beyond {SCALES[0]:g} to "
                f"{SCALES[1]:g}; the network's answers say little about these labels")
    return None


def _separated(scaled: np.ndarray, labels: np.ndarray, *, biased: bool) -> bool:
    """Whether no picture is wrong; of two classes with a bias, whether none need be."""
    if biased and scaled.shape[1] == 2 and len(np.unique(labels)) == 2:
        margins = scaled[:, 1] - scaled[:, 0]
        return bool(margins[labels == 0].max() < margins[labels == 1].min())
    return bool((scaled.argmax(axis=1) == labels).all())


def _judged(kind: str, scale: np.ndarray, bias: np.ndarray, before: np.ndarray,
            after: np.ndarray, units: np.ndarray) -> Calibration:
    """Kept or not, by (N,) log losses before and after."""
    gain, error = mean_and_error(before - after, units)
    kept = gain > KEEP_ERRORS * error
    told = f"cross-fitted log loss {before.mean():.4f} became {after.mean():.4f}"
    rule = f"{'more' if kept else 'not more'} than {KEEP_ERRORS:g} x its standard error {error:.4f}"
    reason = f"{'kept' if kept else 'not kept'}: {told}, a fall of {gain:.4f}, {rule}"
    base = Calibration.unchanged(len(scale), reason, kind=kind)
    if kept:
        one = None if kind == "vector" else float(1 / scale[0])
        base = replace(base, kept=True, temperature=one, scale=tuple(scale.tolist()),
                       bias=tuple(bias.tolist()))
    return replace(base, before=float(before.mean()), after=float(after.mean()), gain_error=error)


def _fit_labels(logits: np.ndarray, labels: np.ndarray, units: np.ndarray, seed: int,
                names: Sequence[str]) -> tuple[Calibration, np.ndarray]:
    fitted = [_fit_label(logits[:, k], labels[:, k], units, seed) for k in range(logits.shape[1])]
    parts, crossed = [part for part, _ in fitted], np.stack([own for _, own in fitted], axis=1)
    before, after = (log_losses(z, labels) for z in (logits, crossed))
    told = ~np.isnan(before)
    kept = sum(part.kept for part in parts)
    left = [f"{name} ({part.reason})" for name, part in zip(names, parts, strict=True)
            if not part.kept]
    reason = f"kept for {kept} of {len(parts)} labels" + (
        f"; not for {first_of(left, count=10)}" if left else "")
    base = Calibration("per_label", tuple(part.scale[0] for part in parts),
                       tuple(part.bias[0] for part in parts), kept=kept > 0, reason=reason)
    if told.any():
        gain_error = mean_and_error((before - after)[told], units[told])[1]
        base = replace(base, before=float(before[told].mean()), after=float(after[told].mean()),
                       gain_error=gain_error)
    return base, crossed


def _fit_label(logits: np.ndarray, labels: np.ndarray, units: np.ndarray,
               seed: int) -> tuple[Calibration, np.ndarray]:
    """One label as two classes of logits 0 and z (Platt scaling, weakly regularised)."""
    known = ~np.isnan(labels)
    truth, crossed = labels[known].astype(np.int64), logits.astype(np.float64)
    fewest = min(int((truth == 0).sum()), int((truth == 1).sum()))
    if fewest < MIN_OF_EACH:
        return Calibration.unchanged(1, f"{fewest} known positives or negatives, {MIN_OF_EACH} "
                                        "are needed"), crossed
    two = np.stack([np.zeros(known.sum()), crossed[known]], axis=1)
    found, own = _fit_single(two, truth, "bias_corrected", units[known], seed)
    crossed[known] = own[:, 1] - own[:, 0]
    return replace(found, scale=found.scale[1:], bias=(found.bias[1] - found.bias[0],)), crossed
