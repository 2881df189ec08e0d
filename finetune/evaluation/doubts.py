"""What speaks against an interval of a difference."""

import numpy as np

from finetune.evaluation.entries import Answers, few_of_class, few_units, rarest
from finetune.evaluation.influence import one_hot
from finetune.evaluation.predictions import Predictions
from finetune.specs import LabelKind

__all__ = ["difference_doubts"]

MEANS = ("balanced_accuracy", "macro_f1", "roc_auc", "average_precision")
FEW_TELLING = 10


def difference_doubts(predictions: Predictions, clusters: np.ndarray | None, metric: str, *,
                      telling: float = np.inf) -> list[str]:
    """Sentences, empty when nothing does.

    Args:
        predictions: Of one of the runs: the truth is all that counts.
        clusters: (N,) numbers 0..C-1 of groups; ``None``: each picture is one.
        metric: A name, or that of a class (`finetune.evaluation.summed.class_key`).
        telling: On how many pictures (groups) of equal weight the difference rests.
    """
    truth, probabilities = one_hot(predictions), predictions.probabilities
    several = predictions.label_spec.kind is LabelKind.multi
    answered = (probabilities >= 0.5 if several
                else np.eye(truth.shape[1], dtype=bool)[probabilities.argmax(axis=1)])
    answers = Answers(truth, answered, probabilities, clusters, predictions.label_spec)
    why = few_units(answers, answers.units)
    name, _, place = metric.partition("[")
    if place:
        why += few_of_class(answers, int(place[:-1]), negatives=name != "recall")
    elif name in MEANS:
        why += rarest(answers)
    if name == "ece":
        why.append("the calibration error is biased, the more the fewer pictures there are")
    if telling < FEW_TELLING:
        unit = "pictures" if clusters is None else "groups"
        why.append(f"the difference rests on fewer than {FEW_TELLING} {unit}")
    return list(dict.fromkeys(why))
