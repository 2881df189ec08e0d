"""What speaks against intervals of differences."""

from collections.abc import Mapping

import numpy as np

from finetune.evaluation.entries import Answers, few_of_class, few_units, rarest
from finetune.evaluation.influence import one_hot
from finetune.evaluation.predictions import Predictions
from finetune.specs import LabelKind

__all__ = ["difference_doubts"]

MEANS = ("balanced_accuracy", "macro_f1", "roc_auc", "average_precision")
FEW_TELLING = 10


def difference_doubts(predictions: Predictions, clusters: np.ndarray | None,
                      telling: Mapping[str, float]) -> dict[str, list[str]]:
    """Sentences for each metric; none where nothing does.

    Args:
        predictions: Of one of the runs: the truth is all that counts.
        clusters: (N,) numbers 0..C-1 of groups; ``None``: each picture is one.
        telling: For each metric, also of classes (`finetune.evaluation.summed.class_key`), on how
            many pictures (groups) of equal weight the difference rests; infinite where the interval
            allows for few.
    """
    answers = _answers(predictions, clusters)
    units, rare = few_units(answers, answers.units), rarest(answers)
    unit = "pictures" if clusters is None else "groups"
    found = {}
    for metric, number in telling.items():
        name, _, place = metric.partition("[")
        why = [*units, *(rare if name in MEANS and not place else [])]
        if place:
            why += few_of_class(answers, int(place[:-1]), negatives=name != "recall")
        if name == "ece":
            why.append("the calibration error is biased, the more the fewer pictures there are")
        if number < FEW_TELLING:
            why.append(f"the difference rests on fewer than {FEW_TELLING} {unit}")
        found[metric] = list(dict.fromkeys(why))
    return found


def _answers(predictions: Predictions, clusters: np.ndarray | None) -> Answers:
    truth, probabilities = one_hot(predictions), predictions.probabilities
    several = predictions.label_spec.kind is LabelKind.multi
    answered = (probabilities >= 0.5 if several
                else np.eye(truth.shape[1], dtype=bool)[probabilities.argmax(axis=1)])
    return Answers(truth, answered, probabilities, clusters, predictions.label_spec)
