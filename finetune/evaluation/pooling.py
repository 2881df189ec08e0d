"""The answers of several networks to different pictures, taken together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.errors import CheckError, first_of
from finetune.evaluation.predictions import Predictions

__all__ = ["pool_predictions", "spread"]


def pool_predictions(answers: Sequence[Predictions]) -> Predictions:
    """All answers, one after the other.

    Raises:
        CheckError: A picture is there twice, or the classes differ.
    """
    first = answers[0]
    if any(each.label_spec != first.label_spec for each in answers):
        raise CheckError("the folds have different classes: the data changed between them")
    ids = [name for each in answers for name in each.ids]
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise CheckError(f"{len(twice)} pictures were tested in several folds: {first_of(twice)}; "
                         "the data changed between them")
    groups = [g for each in answers for g in each.groups or []]
    return Predictions(ids, np.concatenate([each.labels for each in answers]),
                       np.concatenate([each.logits for each in answers]), first.label_spec,
                       groups if groups else None)


def spread(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each scalar metric ``values`` in the order given, and their mean, std, min and max.

    The standard deviation (n - 1) tells how folds differ; it is no standard error, because folds
    share training pictures (Bengio and Grandvalet 2004, JMLR 5). An undefined value is None, and
    left out of the others.
    """
    names = [name for name, value in results[0].items()
             if (value is None or isinstance(value, int | float)) and name != "count"]
    return {name: _spread([result.get(name) for result in results]) for name in names}


def _spread(values: list[float | None]) -> dict[str, Any]:
    known = np.array([v for v in values if v is not None], dtype=np.float64)
    if not len(known):
        return {"values": values, "mean": None, "std": None, "min": None, "max": None}
    return {"values": values, "mean": float(known.mean()),
            "std": float(known.std(ddof=1)) if len(known) > 1 else None,
            "min": float(known.min()), "max": float(known.max())}
