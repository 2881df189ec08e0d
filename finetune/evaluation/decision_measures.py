"""How decisions do on pictures that they were not fitted on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.errors import DataError
from finetune.evaluation.abstention import area_under_risk, measure_answered
from finetune.evaluation.calibration import log_losses
from finetune.evaluation.decisions import Decisions, apply_decisions
from finetune.evaluation.operating_points import OperatingPoint, measure_answers, outcomes
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.reliability import reliability_diagram
from finetune.evaluation.shares import group_numbers, mean_and_error

__all__ = ["measure_decisions"]


def measure_decisions(decisions: Decisions, test: Predictions) -> dict[str, Any]:
    """How the decisions do on pictures that they were not fitted on; plain values for JSON.

    Intervals of shares are Wilson's; where there are groups, at the effective number of pictures.

    Raises:
        DataError: There are no pictures, or they have other classes.
    """
    if not len(test) or test.label_spec.class_names != decisions.label_spec.class_names:
        raise DataError(f"{len(test)} pictures of {len(test.label_spec.class_names)} classes can't "
                        "be measured: there have to be some, with the classes of the decisions")
    done = apply_decisions(decisions, test.logits)
    result: dict[str, Any] = {"unstable": decisions.unstable, "reasons": list(decisions.reasons),
                              "calibration": _measured_calibration(decisions, test, done)}
    if decisions.points:
        result["operating_points"] = _measured_points(decisions.points, done["points"], test)
    if decisions.costs:
        result["costs"] = decisions.costs.measure(test.labels, done["probabilities"], test.groups)
    if done["sets"] is not None and decisions.sets is not None:
        result["prediction_sets"] = {
            "level": decisions.sets.level, "method": decisions.sets.method,
            **decisions.sets.measure(test.labels, done["probabilities"], test.groups)}
    if test.labels.ndim == 1:
        result["abstention"] = _measured_abstention(decisions, test, done)
    return result


def _measured_calibration(decisions: Decisions, test: Predictions,
                          done: Mapping[str, Any]) -> dict[str, Any]:
    """Log loss, Brier score and reliability before and after; ``gain`` is the fall of log loss."""
    names, raw = test.label_spec.class_names, test.probabilities
    logits = {"before": test.logits, "after": decisions.calibration.apply(test.logits)}
    losses = {name: log_losses(z, test.labels) for name, z in logits.items()}
    told = ~np.isnan(losses["before"])
    result: dict[str, Any] = {"kind": decisions.calibration.kind,
                              "kept": decisions.calibration.kept,
                              "temperature": decisions.calibration.temperature}
    for name, odds in {"before": raw, "after": done["probabilities"]}.items():
        result[name] = {"log_loss": float(losses[name][told].mean()) if told.any() else None,
                        "brier": _brier(test.labels, odds) if told.any() else None,
                        "reliability": reliability_diagram(test.labels, odds, names, test.groups)}
    if told.any():
        units = group_numbers(test.groups, len(test))[told]
        gain, error = mean_and_error((losses["before"] - losses["after"])[told], units)
        result |= {"gain": gain, "gain_error": error if np.isfinite(error) else None}
    return result


def _brier(labels: np.ndarray, odds: np.ndarray) -> float:
    """Squares summed over classes, halved for two; multi-label: mean over known labels."""
    if labels.ndim == 2:
        return float(np.nanmean((odds - labels) ** 2))
    squares = ((odds - np.eye(odds.shape[1])[labels]) ** 2).sum(axis=1).mean()
    return float(squares / 2 if odds.shape[1] == 2 else squares)


def _measured_points(points: Sequence[OperatingPoint], said: Sequence[np.ndarray | None],
                     test: Predictions) -> list[dict[str, Any]]:
    return [{"class": point.class_name, "target": point.target, "wish": point.wish,
             "threshold": point.threshold, "unstable": point.unstable, "reason": point.reason,
             **({} if positive is None else
                measure_answers(outcomes(test.labels, point.place), positive, test.groups))}
            for point, positive in zip(points, said, strict=True)]


def _measured_abstention(decisions: Decisions, test: Predictions,
                         done: Mapping[str, Any]) -> dict[str, Any]:
    odds = done["probabilities"]
    right = odds.argmax(axis=1) == test.labels
    result: dict[str, Any] = {"aurc": area_under_risk(odds.max(axis=1), right),
                              "error_rate": float((~right).mean())}
    if done["answered"] is not None and decisions.abstention is not None:
        result |= {"wish": decisions.abstention.accuracy,
                   "threshold": decisions.abstention.threshold,
                   **measure_answered(right, done["answered"], test.groups)}
    return result
