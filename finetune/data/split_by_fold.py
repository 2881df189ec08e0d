"""One fold of a k-fold cross-validation: every picture is tested in exactly one of them."""

import numpy as np
import numpy.typing as npt

from finetune.data.assigning import Division, assign, cut_val
from finetune.data.dependence import Dependence
from finetune.data.samples import Samples
from finetune.data.unions import joined

__all__ = ["split_by_fold"]

Names = npt.NDArray[np.str_]


def split_by_fold(samples: Samples, dependence: Dependence,
                  division: Division) -> tuple[Names, list[str]]:
    """Test is one fold, val is cut from the others; and what has to be said.

    Folds have the same mix of classes, and divide no group; they depend on the seed alone.

    Raises:
        DataError: A class has fewer pictures (or groups) than there are folds.
    """
    count, fold = dependence.folds, dependence.fold
    assert fold is not None and 1 <= fold <= count
    shares = {str(number): 1 / count for number in range(1, count + 1)}
    folds = assign(samples, joined(len(samples), division.together), shares, division.seed,
                   dealt=True, remedy=f"Choose fewer than {count} data.folds, add pictures, or "
                                      "join or remove these classes")
    names = np.where(folds == str(fold), "test", "train").astype("<U5")
    return cut_val(samples, names, division), [
        f"data.split=kfold: test is fold {fold} of {count}, {int((names == 'test').sum())} "
        "pictures"]
