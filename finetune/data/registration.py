"""How well two thumbnails agree when one is laid over the other."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from finetune.data.hashing import SIDE, blurred_grey, fine_detail

__all__ = ["Agreement", "register"]

_COARSE = 32                # px; a crop of 5 % moves its border by less than two of them
_STEPS = 3                  # of the coarse fit
_BLOCKS = 8                 # by 8, in which details are compared
_SMOOTHING = (9, 3)         # px, of the two fine fits
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 1e-5)
_EDGE = 5                   # px at each picture's border where blurs lack what lies beyond
_START = 0.75               # correlation of details after the coarse fit, to go on
_NOISE = 1.5                # levels of 255; what JPEG at quality 30 leaves is some 0.8

Grey = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Two pictures, the second laid over the first.

    Attributes:
        correlation: Of the grey values where both are.
        detail: Correlation of the details in each of 8 by 8 blocks, the tenth percentile over
            blocks with details above the noise: low when they differ in one place only.
        affine: (2, 3) Takes places in the first picture (column, row, in shares of the side,
            0 = centre) to places in the second one.
    """

    correlation: float
    detail: float
    affine: Matrix

    @property
    def bent(self) -> float:
        """How far the fit is from a crop or a stretch: turning, shear, and scale beyond 15 %."""
        stretch = np.abs(np.log(np.clip(np.diag(self.affine), 1e-3, None)))
        return float(max(abs(self.affine[0, 1]), abs(self.affine[1, 0]),
                         *(stretch - np.log(1.15))))


def register(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], *,
             contrast: float, at_least: float) -> Agreement | None:
    """The best agreement of two thumbnails (96, 96) of the same orientation.

    A linear fit of shift and stretch on 32 x 32 px, then an affine one by enhanced correlation
    (Evangelidis and Psarakis, 2008, as in OpenCV).

    Args:
        first: One.
        second: The other.
        contrast: Of the first one, as in `hashing.Descriptors`; tells what is noise.
        at_least: Correlation of the coarse fit below which nothing more is tried.

    Returns:
        None where the coarse fit shows that they differ.
    """
    one, two = (each.astype(np.float32) for each in (first, second))
    correlation, start = _coarse_fit(one, two)
    if correlation < at_least:
        return None
    details = fine_detail(one), fine_detail(two)
    matrices = [np.eye(2, 3), start]
    scored = [(_overall(details, matrix), matrix) for matrix in matrices]
    score, matrix = max(scored, key=lambda each: each[0])
    if score < _START:
        return None
    for smoothing in _SMOOTHING if score < 0.995 else ():
        fitted = _fine_fit(one, two, matrix, smoothing)
        if fitted is not None and (found := _overall(details, fitted)) > score:
            score, matrix = found, fitted
    noise = _NOISE * float(details[0].std()) / max(contrast, 1e-6)
    return _agreement((one, two), details, matrix, noise)


def _coarse_fit(one: Grey, two: Grey) -> tuple[float, Matrix]:
    small, other = (np.asarray(cv2.resize(blurred_grey(each, 3.0), (_COARSE, _COARSE),
                                          interpolation=cv2.INTER_AREA)) for each in (one, two))
    matrix, correlation = np.eye(3), 0.0
    for _ in range(_STEPS):
        moved = np.asarray(cv2.warpAffine(
            other, matrix[:2], (_COARSE, _COARSE), borderMode=cv2.BORDER_REPLICATE,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
        correlation, change = _linear_step(small, moved)
        matrix = matrix @ change
    ratio = SIDE / _COARSE
    scale = np.array([[ratio, 0, ratio / 2 - 0.5], [0, ratio, ratio / 2 - 0.5], [0, 0, 1]])
    return correlation, (scale @ matrix @ np.linalg.inv(scale))[:2]


def _linear_step(target: Grey, moved: Grey) -> tuple[float, Matrix]:
    """Correlation of the best gain, offset, small shift and stretch, and these as a matrix."""
    place = np.linspace(-1, 1, _COARSE, dtype=np.float32)
    down, right = (np.asarray(each, np.float32) for each in np.gradient(moved))
    columns: list[Grey] = [np.ones_like(moved), moved, right, down, right * place,
                           down * place[:, None]]
    inner = np.s_[2:-2, 2:-2]
    design = np.stack([each[inner].ravel() for each in columns], axis=1).astype(np.float64)
    wanted = target[inner].ravel().astype(np.float64)
    normal = design.T @ design
    found = np.linalg.solve(normal + np.diag(1e-6 * np.diag(normal) + 1e-9), design.T @ wanted)
    total = float(np.square(wanted - wanted.mean()).sum())
    rest = float(np.square(wanted - design @ found).sum())
    gain = found[1] if abs(found[1]) > 0.2 else 0.2
    x, y, wide, high = np.clip(found[2:] / gain, -2, 2)
    half, centre = _COARSE / 2, (_COARSE - 1) / 2
    change = np.array([[1 + wide / half, 0, x - centre * wide / half],
                       [0, 1 + high / half, y - centre * high / half], [0, 0, 1]])
    return float(np.sqrt(max(0.0, 1 - rest / max(total, 1e-9)))), change


def _fine_fit(one: Grey, two: Grey, start: Matrix, smoothing: int) -> Matrix | None:
    try:
        fitted = cv2.findTransformECC(one, two, start.astype(np.float32), cv2.MOTION_AFFINE,
                                      _CRITERIA, None, smoothing)[1]
    except cv2.error:  # it didn't converge
        return None
    return np.asarray(fitted, np.float64)


def _moved(picture: Grey, matrix: Matrix) -> Grey:
    return np.asarray(cv2.warpAffine(
        picture, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE))


def _common(matrix: Matrix) -> npt.NDArray[np.bool_]:
    """(96, 96) Where both pictures are, their borders left out."""
    inner = np.zeros((SIDE, SIDE), np.float32)
    inner[_EDGE:-_EDGE, _EDGE:-_EDGE] = 1
    moved = cv2.warpAffine(inner, matrix, (SIDE, SIDE),
                           flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    common: npt.NDArray[np.bool_] = (moved > 0) & (inner > 0)
    return common


def _overall(details: tuple[Grey, Grey], matrix: Matrix) -> float:
    common = _common(matrix)
    if common.mean() < 0.5:
        return -1.0
    return _correlation(details[0][common], _moved(details[1], matrix)[common])


def _correlation(one: Grey, two: Grey) -> float:
    one, two = one - one.mean(), two - two.mean()
    length = float(np.sqrt(float(one @ one) * float(two @ two)))
    return float(one @ two) / length if length > 0 else 0.0


def _agreement(pictures: tuple[Grey, Grey], details: tuple[Grey, Grey],
               matrix: Matrix, noise: float) -> Agreement:
    common = _common(matrix)
    one, two = (blurred_grey(each, 1.0) for each in pictures)
    correlation = _correlation(one[common], _moved(two, matrix)[common])
    detail = _least_blocks(details[0], _moved(details[1], matrix), common, noise)
    centre, shares = np.full(2, (SIDE - 1) / 2), matrix.copy()
    shares[:, 2] = (matrix[:, :2] @ centre + matrix[:, 2] - centre) / SIDE
    return Agreement(correlation, detail, shares)


def _least_blocks(one: Grey, two: Grey, common: npt.NDArray[np.bool_], noise: float) -> float:
    def block_means(values: Grey) -> Grey:
        size = SIDE // _BLOCKS
        return np.asarray((values * common).reshape(_BLOCKS, size, _BLOCKS, size).mean((1, 3)))

    both, first, second = (block_means(each) for each in (one * two, one * one, two * two))
    covered = block_means(np.ones_like(one))
    seen = (covered > 0.4) & (first > np.maximum(0.1 * first.mean(), noise ** 2) * covered)
    if not seen.any():
        return 0.0
    correlations = both[seen] / np.sqrt(np.maximum(first[seen] * second[seen], 1e-9))
    return float(np.quantile(correlations, 0.1))
