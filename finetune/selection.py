"""Which epoch is the best so far, and when to give up. Pure functions of the history."""

from collections.abc import Sequence
from typing import Any

from finetune.evaluation.selection import higher_is_better

__all__ = ["best_epoch", "is_exhausted", "patience_epochs"]


def best_epoch(history: Sequence[dict[str, Any]], metric: str) -> int:
    """Index of the best epoch by ``metric`` on val; ties by log loss, then the earlier one."""
    sign = 1 if higher_is_better(metric) else -1

    def quality(index: int) -> tuple[float, float, int]:
        val = history[index]["val"]
        value, loss = val.get(metric), val.get("log_loss")
        return (-float("inf") if value is None else sign * value,
                -float("inf") if loss is None else -loss, -index)

    return max(range(len(history)), key=quality)


def patience_epochs(fraction: float | None, epochs: int) -> int | None:
    """Epochs without gain after which training stops: a share of all, at least 1."""
    return None if fraction is None else max(1, round(fraction * epochs))


def is_exhausted(history: Sequence[dict[str, Any]], metric: str, patience: int | None, *,
                 last_opening: int = 0) -> bool:
    """Whether the last ``patience`` epochs brought no gain while the same depths trained.

    An unfreezing starts the count anew, and before the last one (in epoch ``last_opening``, from
    0) nothing is given up: what comes after it has had no chance yet.
    """
    if patience is None or len(history) <= last_opening:
        return False
    last_change = max(i for i, entry in enumerate(history) if entry["opened"] or i == 0)
    return len(history) - 1 - max(best_epoch(history, metric), last_change) >= patience
