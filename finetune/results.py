"""What a run's answers amount to: metrics, their intervals, and decisions made of them.

Both take logits of validation and test pictures; neither sees a picture or a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from finetune.config import ClassWeights, Config, DecisionsConfig, Sampling
from finetune.errors import ConfigurationError, first_of
from finetune.evaluation.decision_measures import measure_decisions
from finetune.evaluation.decisions import (
    Decisions,
    DecisionSettings,
    fit_decisions,
    selection_part,
)
from finetune.evaluation.intervals import compute_intervals
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.subgroups import measure_subgroups
from finetune.specs import LabelKind, LabelSpec

__all__ = ["check_wishes", "decide", "for_selection", "measure_answers"]


def check_wishes(config: Config, labels: LabelSpec) -> None:
    """Raise, before anything is trained, when the cost matrix is of other classes.

    Raises:
        ConfigurationError: It is; or a picture may have several classes.
    """
    width = len(config.decisions.costs)
    if width and (labels.kind is LabelKind.multi or width != len(labels.class_names)):
        raise ConfigurationError(
            f"decisions.costs has {width} rows; these labels need one for each of "
            f"{len(labels.class_names)} classes ({first_of(list(labels.class_names))}), and "
            f"exactly one class a picture (here: {labels.kind.value})")


def for_selection(config: Config, val: Predictions) -> Predictions:
    """The validation pictures that may choose the epoch: half, where decisions need the other.

    All seeds of a split choose by the same half.
    """
    return selection_part(val, seed=config.data.split_seed) if _settings(config) else val


def measure_answers(answers: Mapping[str, Predictions],
                    columns: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """Metrics of each part, and under ``intervals`` theirs.

    Under ``subgroups`` are those of each value of a column of test, or else of validation.
    """
    metrics: dict[str, Any] = {part: compute_metrics(given) for part, given in answers.items()}
    intervals = {part: compute_intervals(given, metrics[part]) for part, given in answers.items()}
    metrics["intervals"] = intervals
    if columns:
        metrics["subgroups"] = measure_subgroups(answers.get("test", answers["val"]), columns)
    return metrics


def decide(config: Config, answers: Mapping[str, Predictions],
           ) -> tuple[Decisions | None, dict[str, Any]]:
    """Decisions fitted on validation answers, and how they do on test, where there is one."""
    settings = _settings(config)
    if settings is None:
        return None, {}
    decisions = fit_decisions(answers["val"], settings=settings, seed=config.data.split_seed,
                              biased_training=_is_biased(config))
    return decisions, (measure_decisions(decisions, answers["test"]) if "test" in answers else {})


def _settings(config: Config) -> DecisionSettings | None:
    """None where nothing is asked for."""
    wishes: DecisionsConfig = config.decisions
    values = asdict(wishes) | {"calibration": wishes.calibration.value,
                               "set_method": wishes.set_method.value,
                               "costs": wishes.costs or None}
    asked = (wishes.sensitivity, wishes.specificity, wishes.precision, values["costs"],
             wishes.set_level, wishes.answered_accuracy, wishes.best_f1 or None)
    nothing = wishes.calibration.value == "none" and all(wish is None for wish in asked)
    return None if nothing else DecisionSettings(**values)


def _is_biased(config: Config) -> bool:
    """Whether training showed other frequencies of classes than there are."""
    return (config.training.class_weights is not ClassWeights.none
            or config.data.sampling is not Sampling.shuffled
            or config.training.logit_adjustment > 0)
