"""How far a picture is from the training pictures, by the network's features at several depths.

The features of each depth get a Gaussian, whose Mahalanobis distances are joined. Lee et al. 2018
(arXiv:1807.03888) take the depths' pooled feature maps, a mean for each class, and weights that are
learned from foreign pictures. Here there is one mean, which serves several labels too and measured
the same (docs/predicting.md); a depth weighs by how little validation pictures differ in it. What
only the last features tell is no use after full fine-tuning, where foreign pictures are mapped into
the midst of the others. The limit is a conformal quantile of validation pictures: those of training
are too near.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import DataError
from finetune.evaluation.proportions import count_proportion
from finetune.files import write_bytes

__all__ = ["AXES", "LEVEL", "Familiarity", "FarLimit", "FeatureGaussian", "find_limit",
           "fit_familiarity", "fit_gaussian", "join_distances", "measure_far", "read_limit"]

AXES = 64     # principal axes of a part with a variance of their own
FAINTEST = 0.01  # of the largest deviation: what hardly varies is taken to vary so much
LEVEL = 0.99  # of validation pictures lie within the limit
ROUNDING = 1e-3  # relative; so far may distances of other arithmetic be apart
TINY = 1e-12  # the smallest distance with a logarithm of its own
NARROWEST = 0.01  # spread of logarithms, at least
KINDS = ("mean", "scale", "axes", "widths", "rest")


@dataclass(frozen=True)
class FarLimit:
    """From which distance on a picture is far from those of training.

    Attributes:
        limit: The distance, in the units of `join_distances`.
        quantile: Which share of validation pictures is within it at least; 1.0 where they were too
            few for `LEVEL`: it is the largest of their distances then.
        count: Validation pictures.
    """

    limit: float
    quantile: float
    count: int

    @property
    def expected(self) -> float:
        """At most this share of pictures that are drawn like the validation pictures is beyond."""
        return (self.count + 1 - self._rank) / (self.count + 1)

    @property
    def _rank(self) -> int:
        return min(_rank(self.count, self.quantile), self.count)

    def is_far(self, distances: np.ndarray) -> np.ndarray:
        """(N,) bool; what is not finite is far.

        The picture that made the limit lies on it: other arithmetic may not push it over.
        """
        return ~(np.asarray(distances) <= self.limit * (1 + ROUNDING))

    def warning(self, distance: float) -> str:
        """What is said of a picture beyond the limit."""
        others = (f"of {self.count} validation pictures none is beyond" if self.quantile >= 1 else
                  f"of validation pictures {1 - self.quantile:.0%} are beyond")
        return (f"far from the training pictures for the network: distance {distance:.3g}, "
                f"{others} {self.limit:.3g}")

    def surprise(self, beyond: int, count: int) -> float:
        """How likely so many of ``count`` new pictures are beyond, or more, were they alike.

        For independent pictures that are drawn like the validation pictures: beta-binomial, as a
        count beyond an order statistic is.
        """
        from scipy.stats import betabinom

        rank = self._rank
        return float(betabinom.sf(beyond - 1, count, self.count + 1 - rank, rank))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FarLimit":
        """What `to_dict` described."""
        return cls(float(values["limit"]), float(values["quantile"]), int(values["count"]))


@dataclass(frozen=True, eq=False)
class FeatureGaussian:
    """A Gaussian of features (D,): R principal axes, and one variance across all others.

    That is a probabilistic principal component analysis (Tipping & Bishop 1999, JRSS B 61), after
    each feature is divided by its standard deviation and the covariance is shrunk.

    Attributes:
        mean: (D,).
        scale: (D,) by which features are multiplied.
        axes: (D, R) orthonormal.
        widths: (R,) by which coordinates along the axes are multiplied.
        rest: By which all beside the axes is multiplied; 0 where nothing is.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    widths: np.ndarray
    rest: float

    def distance(self, features: np.ndarray) -> np.ndarray:
        """(N,) Mahalanobis distances of features (N, D), float64."""
        shifted = (np.asarray(features, np.float64) - self.mean) * self.scale
        along = shifted @ self.axes
        beside = (shifted - along @ self.axes.T) * self.rest
        squares = ((along * self.widths) ** 2).sum(1) + (beside ** 2).sum(1)
        return np.asarray(np.sqrt(squares))


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How far features of several depths are from those of training.

    Attributes:
        names: Of the modules that give the features; see `finetune.models.familiarity`.
        parts: A Gaussian for each.
        usual: (L,) mean logarithms of validation pictures' distances.
        spread: (L,) their standard deviations.
        limit: From where on a picture is far.
        trained_on: Training pictures that the Gaussians were fitted on.
    """

    names: tuple[str, ...]
    parts: tuple[FeatureGaussian, ...]
    usual: tuple[float, ...]
    spread: tuple[float, ...]
    limit: FarLimit
    trained_on: int

    def distance(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """(N,) distances of features (N, D), one array for each part."""
        return self.join(np.stack([part.distance(each) for part, each in zip(
            self.parts, features, strict=True)], axis=1))

    def join(self, distances: np.ndarray) -> np.ndarray:
        """(N,) of distances (N, L) to each part."""
        return join_distances(distances, self.usual, self.spread)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """float32 arrays for `finetune.models.familiarity.Distance`."""
        found = {"usual": np.array(self.usual, np.float32),
                 "spread": np.array(self.spread, np.float32)}
        for place, part in enumerate(self.parts):
            values = (part.mean, part.scale, part.axes, part.widths, part.rest)
            found |= {f"{place}.{kind}": np.atleast_1d(np.asarray(value, np.float32))
                      for kind, value in zip(KINDS, values, strict=True)}
        return found

    def save(self, path: Path) -> None:
        """Write arrays and plain values as safetensors, atomically; equal ones as equal bytes."""
        from safetensors.numpy import save

        about = {"names": self.names, "limit": self.limit.to_dict(),
                 "trained_on": self.trained_on}
        arrays = {name: np.ascontiguousarray(a) for name, a in self.to_arrays().items()}
        write_bytes(path, save(arrays, {"finetune": json.dumps(about, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> "Familiarity":
        """What `save` wrote.

        Raises:
            DataError: The file is damaged or another.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            about, arrays = _about(path), load_file(path)
            return cls._built(about, arrays)
        except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}); without it, nothing is told of how far "
                            "pictures are from those of training") from error

    @classmethod
    def _built(cls, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Familiarity":
        names, parts = tuple(map(str, about["names"])), []
        usual, spread = (tuple(arrays[kind].tolist()) for kind in ("usual", "spread"))
        for place, _ in enumerate(zip(names, usual, spread, strict=True)):
            mean, scale, axes, widths, rest = (arrays[f"{place}.{kind}"].astype(np.float64)
                                               for kind in KINDS)
            if axes.shape != (len(mean), len(widths)) or scale.shape != mean.shape:
                raise ValueError(f"shapes of part {place} do not go together")
            parts.append(FeatureGaussian(mean, scale, axes, widths, float(rest[0])))
        return cls(names, tuple(parts), usual, spread, FarLimit.from_dict(about["limit"]),
                   int(about["trained_on"]))


def read_limit(path: Path) -> FarLimit | None:
    """The limit in a file that `Familiarity.save` wrote; None where there is none.

    Raises:
        DataError: The file is damaged or another.
    """
    return Familiarity.load(path).limit if path.is_file() else None


def _about(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return dict(json.loads((file.metadata() or {})["finetune"]))


def fit_gaussian(features: np.ndarray, *, axes: int = AXES,
                 shrinkage: float | None = None) -> FeatureGaussian | None:
    """The Gaussian of features (N, D) of one part; None where they are all the same.

    Features that hardly vary are divided by `FAINTEST` of the largest deviation, so that they count
    where they leave their value, but not beyond all measure.

    Args:
        features: Of training pictures.
        axes: How many principal axes at most.
        shrinkage: Of the covariance towards the identity, 0..1; None: that of Ledoit and Wolf
            (2004, J. Multivariate Analysis 88), by scikit-learn.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    rows = np.asarray(features, np.float64)
    mean, deviations = rows.mean(axis=0), rows.std(axis=0)
    largest = float(deviations.max())
    if not largest > 1e-12 * float(np.abs(rows).max()):
        return None
    scale = 1 / np.maximum(deviations, FAINTEST * largest)
    rows = (rows - mean) * scale
    if shrinkage is None:
        shrinkage = float(ledoit_wolf_shrinkage(rows, assume_centered=True))
    values, vectors = _principal(rows, min(axes, rows.shape[1]))
    total, width = float((rows ** 2).sum()) / len(rows), rows.shape[1]
    floor = max(shrinkage, 1e-9) * total / width
    left = width - len(values)
    rest = (1 - shrinkage) * (total - values.sum()) / left + floor if left else np.inf
    return FeatureGaussian(mean, scale, vectors,
                           ((1 - shrinkage) * values + floor) ** -0.5, float(rest ** -0.5))


def _principal(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances (R,) and axes (D, R) with the largest ones, of centred rows (N, D)."""
    from scipy.linalg import eigh

    size, width = rows.shape
    small = size < width
    matrix = rows @ rows.T if small else rows.T @ rows
    count = min(count, len(matrix) - small)  # of centred rows one direction is empty
    values, vectors = eigh(matrix, subset_by_index=(len(matrix) - count, len(matrix) - 1))
    if small:
        kept = values > 1e-9 * values.max()
        values, vectors = values[kept], rows.T @ vectors[:, kept] / np.sqrt(values[kept])
    return np.maximum(values, 0) / size, vectors


def join_distances(distances: np.ndarray, usual: Sequence[float],
                   spread: Sequence[float]) -> np.ndarray:
    """(N,) of distances (N, L): by how many standard deviations their logarithms exceed the usual.

    The root mean square over parts; one that is nearer than usual counts as usual: 0. Logarithms,
    since distances have long tails; a part in which validation pictures differ much weighs little.
    """
    logarithms = np.log(np.maximum(distances, TINY))
    beyond = np.maximum((logarithms - np.asarray(usual)) / np.asarray(spread), 0)
    return np.asarray(np.sqrt((beyond ** 2).mean(axis=1)))


def find_limit(distances: np.ndarray, level: float = LEVEL) -> FarLimit:
    """The conformal quantile of validation distances (N,).

    A new picture that is drawn like these is beyond it with a probability of at most 1 - level
    (Vovk 2005; Angelopoulos 2021, arXiv:2107.07511). With fewer than ``level / (1 - level)`` it is
    the largest, and that probability is 1 / (N + 1).

    >>> find_limit(np.arange(99.0)), find_limit(np.arange(9.0)).expected
    (FarLimit(limit=98.0, quantile=0.99, count=99), 0.1)
    """
    ranked, count = np.sort(distances), len(distances)
    rank = _rank(count, level)
    return FarLimit(float(ranked[min(rank, count) - 1]), level if rank <= count else 1.0, count)


def _rank(count: int, level: float) -> int:
    return int(np.ceil((count + 1) * level - 1e-9))


def fit_familiarity(names: Sequence[str], parts: Sequence[FeatureGaussian],
                    validation: np.ndarray, *, trained_on: int) -> Familiarity:
    """Units and the limit, by the distances (N, L) of validation pictures to each part.

    Raises:
        DataError: They aren't finite.
    """
    if not np.isfinite(validation).all():
        raise DataError("features of validation pictures are NaN or infinite")
    logarithms = np.log(np.maximum(validation, TINY))
    usual = logarithms.mean(axis=0).tolist()
    spread = np.maximum(logarithms.std(axis=0), NARROWEST).tolist()
    return Familiarity(tuple(names), tuple(parts), tuple(usual), tuple(spread),
                       find_limit(join_distances(validation, usual, spread)), trained_on)


def measure_far(distances: np.ndarray, limit: FarLimit,
                groups: Sequence[str] | None = None) -> dict[str, Any]:
    """How many pictures are far: ``share``, its 95 % interval, ``beyond``, ``count``.

    Under ``surprise`` is `FarLimit.surprise` of that many; with groups, of the groups' effective
    number.
    """
    far = limit.is_far(distances)
    clusters = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    found = count_proportion(far, np.ones(len(far), bool), clusters)
    if found is None:
        return {"count": 0, "beyond": 0, "share": None, "low": None, "high": None,
                "surprise": None}
    low, high = found.interval()
    effective = round(found.value * found.effective), max(1, round(found.effective))
    return {"count": found.count, "beyond": int(far.sum()), "share": found.value, "low": low,
            "high": high, "surprise": limit.surprise(*effective)}
