"""Which pairs of thumbnails may be copies: nearest neighbours in a few low frequencies.

Two steps, both bounded in memory. Correlations of low frequencies, under all flips and quarter
turns, give each picture its nearest 64. These are ranked again by the correlation that is left
when the first picture may be shifted and stretched a little (tangent distance: Simard et al.,
1993), so that cropped copies come before pictures that are merely alike.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from finetune.data.hashing import SIDE, blurred_grey

__all__ = ["Candidates", "find_candidates"]

_FINE, _COARSE = 10, 8      # half waves across a picture, for the search and for the ranking
_ZOOM = 1.025               # halves the way to a copy that was cropped by 5 %
_NEAREST = 64               # pictures ranked again
_ALIKE = 0.6                # least correlation in the first step
_ROWS, _COLUMNS, _RANKED = 1024, 8192, 128   # of blocks

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """Pairs, each once.

    Attributes:
        first: (M,) The picture that the second one may be a part of.
        second: (M,)
        orientations: (M,) Which of the 8 orientations of ``second`` fits ``first``.
    """

    first: Indices
    second: Indices
    orientations: Indices


def find_candidates(thumbnails: npt.NDArray[np.uint8], *, rows: Indices, neighbours: int,
                    limit: float, asked: Indices | None = None,
                    progress: Callable[[int], object] | None = None) -> Candidates:
    """Pairs that may be copies, the best ``neighbours`` of each picture.

    Args:
        thumbnails: (A, 96, 96); never copied as a whole.
        rows: (N,) which of them are compared, all different and none blank; pairs number these.
        asked: Places in ``rows`` whose neighbours are looked for; None: all.
        neighbours: Pairs kept of each picture; a pair kept by either is kept.
        limit: Least correlation in low frequencies after a small shift and stretch.
        progress: Called with the number of pictures compared with all others.
    """
    found: list[npt.NDArray[np.float64]] = []
    base = np.concatenate([_waves(thumbnails[part], _FINE) for part in _blocks(rows, _ROWS)]
                          or [np.zeros((0, _FINE, _FINE), np.float32)])
    coarse = np.ascontiguousarray(_coarser(base))
    asked = np.arange(len(rows)) if asked is None else asked
    done = 0
    for own in _blocks(asked, _ROWS):
        zoomed = _zoomed(thumbnails[rows[own]])
        nearest = _nearest(_unit(_waves_of(zoomed, _FINE)), base, own)
        for low in range(0, len(zoomed), _RANKED):
            part = slice(low, low + _RANKED)
            found.append(_ranked(zoomed[part], coarse, nearest[part], own[part], neighbours, limit))
        done += len(own)
        if progress is not None:
            progress(done)
    return _each_once(np.concatenate(found) if found else np.zeros((0, 4)))


def _blocks(values: npt.NDArray[Any], size: int) -> Iterator[npt.NDArray[Any]]:
    return (values[start:start + size] for start in range(0, len(values), size))


def _waves(thumbnails: npt.NDArray[np.uint8], count: int) -> Array:
    return _unit(_waves_of(thumbnails.astype(np.float32), count))


def _waves_of(grey: Array, count: int) -> Array:
    """(N, count, count) of the cosine transform; weights let texture count beside shading."""
    waves = np.cos(np.pi * (np.arange(SIDE) + 0.5) * np.arange(count)[:, None] / SIDE)
    basis = (waves * np.sqrt(2 / SIDE)).astype(np.float32)
    return np.asarray(basis @ grey @ basis.T * _weights(count), np.float32)


def _weights(count: int) -> Array:
    numbers = np.arange(count)
    radius = np.hypot(numbers[:, None], numbers)
    kept = (radius > 0) & (radius < count + 0.5)
    return np.asarray(np.where(kept, np.sqrt(radius), 0), np.float32)


def _coarser(waves: Array) -> Array:
    return _unit(waves[:, :_COARSE, :_COARSE] * (_weights(_COARSE) > 0))


def _unit(waves: Array) -> Array:
    length = np.sqrt(np.square(waves).sum((-2, -1), keepdims=True))
    return np.asarray(waves / np.maximum(length, 1e-6), np.float32)


def _orientations(waves: Array) -> Iterator[Array]:
    """The waves of `hashing.oriented` pictures: odd ones change their sign."""
    sign = np.where(np.arange(waves.shape[-1]) % 2, -1, 1).astype(np.float32)
    for number in range(8):
        turned = np.swapaxes(waves, -1, -2) if number & 4 else waves
        turned = turned * sign[:, None] if number & 2 else turned
        yield turned * sign if number & 1 else turned


def _zoomed(thumbnails: npt.NDArray[np.uint8]) -> Array:
    away = (SIDE - 1) / 2 * (1 - 1 / _ZOOM)
    inner = np.array([[1 / _ZOOM, 0, away], [0, 1 / _ZOOM, away]])
    return np.stack([cv2.warpAffine(blurred_grey(each.astype(np.float32), 1.0), inner, (SIDE, SIDE),
                                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
                     for each in thumbnails])


def _nearest(queries: Array, base: Array, own: Indices) -> Indices:
    """(R, 64) The pictures most alike in any orientation but ``own``; -1 where there are fewer."""
    values = np.full((len(queries), _NEAREST), _ALIKE, np.float32)
    indices = np.full((len(queries), _NEAREST), -1, np.int64)
    turned = [each.reshape(len(queries), -1) for each in _orientations(queries)]
    for low in range(0, len(base), _COLUMNS):
        part = base[low:low + _COLUMNS].reshape(len(base[low:low + _COLUMNS]), -1).T
        alike = turned[0] @ part
        for each in turned[1:]:
            np.maximum(alike, each @ part, out=alike)
        inside = np.flatnonzero((own >= low) & (own < low + alike.shape[1]))
        alike[inside, own[inside] - low] = -1
        _keep_best(values, indices, alike, low)
    return indices


def _keep_best(values: Array, indices: Indices, alike: Array, low: int) -> None:
    """Put what is above a row's least value in its place."""
    better = np.flatnonzero(alike.max(axis=1) > values.min(axis=1))
    all_values = np.concatenate([values[better], alike[better]], axis=1)
    best = np.argpartition(-all_values, _NEAREST - 1, axis=1)[:, :_NEAREST]
    old = np.take_along_axis(indices[better], np.minimum(best, _NEAREST - 1), axis=1)
    indices[better] = np.where(best < _NEAREST, old, best - _NEAREST + low)
    values[better] = np.take_along_axis(all_values, best, axis=1)


def _ranked(zoomed: Array, coarse: Array, nearest: Indices, own: Indices, neighbours: int,
            limit: float) -> npt.NDArray[np.float64]:
    """(M, 4) Rows (first, second, orientation, correlation): the best of each picture."""
    spaces = _tangent_space(zoomed)
    others = coarse[nearest]                                  # (R, 64, k, k)
    shape = (*nearest.shape, -1)
    scores = np.stack([np.square(each.reshape(shape) @ spaces).sum(-1)
                       for each in _orientations(others)], axis=-1)
    orientation = scores.argmax(axis=-1)
    best = np.sqrt(scores.max(axis=-1))
    best[nearest < 0] = 0
    order = np.argsort(-best, axis=1)[:, :neighbours]
    rows = np.repeat(own, order.shape[1])
    kept = [np.take_along_axis(each, order, axis=1).ravel()
            for each in (nearest, orientation, best)]
    table = np.stack([rows, *kept], axis=1).astype(np.float64)
    return table[table[:, 3] >= limit]


def _tangent_space(zoomed: Array) -> Array:
    """(R, k*k, 5) Orthonormal: a picture and its changes when shifted or stretched a little."""
    down, right = (np.asarray(each, np.float32) for each in np.gradient(zoomed, axis=(1, 2)))
    place = np.linspace(-1, 1, SIDE, dtype=np.float32)
    changes: list[Array] = [zoomed, right, down, right * place, down * place[:, None]]
    waves = np.stack([_waves_of(each, _COARSE).reshape(len(zoomed), -1) for each in changes], -1)
    return np.asarray(np.linalg.qr(waves)[0], np.float32)


def _each_once(table: npt.NDArray[np.float64]) -> Candidates:
    """Of a pair found from both sides, the better one."""
    table = table[np.lexsort([table[:, 0], -table[:, 3]])]
    pairs = np.sort(table[:, :2], axis=1)
    _, places = np.unique(pairs, axis=0, return_index=True)
    first, second, orientations = table[places, :3].astype(np.int64).T
    return Candidates(first, second, orientations)
