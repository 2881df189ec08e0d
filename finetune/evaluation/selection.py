"""By which number the best epoch is chosen. Imports nothing heavy: settings are checked with it."""

from collections.abc import Mapping
from typing import Any

from finetune.errors import ConfigurationError, InputError, did_you_mean

__all__ = ["SELECT_METRICS", "check_select_metric", "higher_is_better", "select_value"]

SELECT_METRICS: dict[str, bool] = {
    "accuracy": True,
    "balanced_accuracy": True,
    "macro_f1": True,
    "micro_f1": True,
    "cohen_kappa": True,
    "mcc": True,
    "quadratic_kappa": True,
    "mean_absolute_error": False,
    "roc_auc": True,
    "average_precision": True,
    "top_3_accuracy": True,
    "log_loss": False,
    "brier": False,
    "ece": False,
}
"""Metrics that can choose the best epoch, and whether higher is better."""


def check_select_metric(name: str) -> str:
    """``name`` itself when it is a metric that can choose an epoch.

    Raises:
        ConfigurationError: It is not; with the closest names.
    """
    if name in SELECT_METRICS:
        return name
    raise ConfigurationError(
        f"training.select_metric={name} is not a known metric{did_you_mean(name, SELECT_METRICS)}; "
        f"known are {', '.join(SELECT_METRICS)}")


def higher_is_better(name: str) -> bool:
    """Whether a larger value of this metric is the better one.

    >>> higher_is_better("log_loss")
    False
    """
    return SELECT_METRICS[check_select_metric(name)]


def select_value(metrics: Mapping[str, Any], name: str) -> float:
    """The metric ``name`` of one evaluation, as it is; `higher_is_better` tells how to compare it.

    Args:
        metrics: What `finetune.evaluation.metrics.compute_metrics` returned.
        name: One of `SELECT_METRICS`.

    Raises:
        ConfigurationError: The name is unknown, or this kind of labels does not have the metric.
        InputError: The metric is not defined on these pictures.
    """
    check_select_metric(name)
    if name not in metrics:
        known = [key for key in SELECT_METRICS if key in metrics]
        raise ConfigurationError(
            f"training.select_metric={name} does not exist for these labels and number of classes; "
            f"choose one of {', '.join(known)}")
    if metrics[name] is None:
        raise InputError(
            f"training.select_metric={name} is not defined on the validation pictures (a class "
            "is missing there); choose balanced_accuracy, or enlarge data.val_fraction")
    return float(metrics[name])
