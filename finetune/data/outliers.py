"""Pictures that are unlike the others: blank, or made of other things."""

import numpy as np
import numpy.typing as npt

from finetune.data.hashing import Descriptors

__all__ = ["find_outliers"]

_SIDE, _COMPONENTS, _FIT = 12, 20, 5000   # px; directions; pictures they are fitted on
_FAR = 6.0                                # robust standard deviations
_LEAST = 50                               # pictures; fewer don't tell what is usual

Numbers = npt.NDArray[np.float64]


def find_outliers(descriptors: Descriptors) -> list[int]:
    """Indices of pictures that aren't blank and unlike all others, the most unlike first.

    A picture is unlike when the main directions of other pictures (principal components of small
    thumbnails, of the half that the picture isn't in) leave far more of it unexplained than usual:
    6 robust standard deviations (median and MAD) on the log scale. Collections where everything
    differs have none.

    Args:
        descriptors: Of all pictures.
    """
    rows = np.flatnonzero(~descriptors.blank)
    small = _small(descriptors.thumbnails, rows)
    is_odd = descriptors.thumbnails[rows, 0].sum(axis=1) % 2 == 1  # by pixels, not by order
    if min(is_odd.sum(), (~is_odd).sum()) < _LEAST // 2:
        return []
    residual = np.empty(len(rows))
    for half in (is_odd, ~is_odd):
        residual[half] = np.log(_residuals(small[half], _axes(small[~half])) + 1e-6)
    middle = float(np.median(residual))
    spread = 1.4826 * float(np.median(np.abs(residual - middle)))
    far = (residual - middle) / max(spread, 1e-6)
    order = np.argsort(-far, kind="stable")
    found: list[int] = rows[order[far[order] > _FAR]].tolist()
    return found


def _small(thumbnails: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> Numbers:
    """(M, 144) block means, each picture with mean 0 and length 1; never all pictures at once."""
    block = thumbnails.shape[1] // _SIDE
    made = np.empty((len(rows), _SIDE * _SIDE))
    for start in range(0, len(rows), 1000):
        part = thumbnails[rows[start:start + 1000]].astype(np.float32)
        means = part.reshape(-1, _SIDE, block, _SIDE, block).mean(axis=(2, 4))
        flat = means.reshape(len(part), -1).astype(np.float64)
        flat -= flat.mean(axis=1, keepdims=True)
        made[start:start + 1000] = flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-9)
    return made


def _axes(small: Numbers) -> tuple[Numbers, Numbers]:
    """The centre and the main directions of some pictures."""
    part = small[::max(1, len(small) // _FIT)]
    centre = part.mean(axis=0)
    return centre, np.linalg.svd(part - centre, full_matrices=False)[2][:_COMPONENTS]


def _residuals(small: Numbers, axes: tuple[Numbers, Numbers]) -> Numbers:
    """(M,) the share of each picture that the directions leave unexplained."""
    centred = small - axes[0]
    left: Numbers = (centred ** 2).sum(axis=1) - ((centred @ axes[1].T) ** 2).sum(axis=1)
    return left.clip(0)
