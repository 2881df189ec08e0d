"""What a trained model needs to be used: pictures in, calibrated answers and decisions out.

No torch here. Pictures are decoded, brought to the network's channels and number type and resized
by the functions that evaluation uses; the network itself is a function that somebody else brings.
"""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.decoding import Decoded, conform, decode_image, resize_image
from finetune.data.formats import as_supported
from finetune.data.seen_pictures import SeenPictures
from finetune.errors import ConfigurationError, DataError, InputError
from finetune.evaluation.calibration import to_probabilities
from finetune.evaluation.decisions import Decisions, calibrated, decide_by
from finetune.evaluation.familiarity import FarLimit
from finetune.evaluation.operating_points import OperatingPoint
from finetune.prediction.model_facts import run_facts
from finetune.prediction.values import (
    Answers,
    Logits,
    Network,
    Origin,
    Prediction,
    Prepared,
    batches,
)
from finetune.specs import InputSpec, LabelKind, LabelSpec

if TYPE_CHECKING:
    from finetune.run_directory import RunDirectory

__all__ = ["LIKELY", "VIEWS", "Predictor", "calibrated_network", "point_name"]

Picture = str | os.PathLike[str] | np.ndarray
VIEWS = {"flips": 4, "d4": 8}  # pictures that the network sees for one
LIKELY = 0.5                   # from there on a label of several is predicted


@dataclass(frozen=True)
class Predictor:
    """A model in use.

    >>> predictor = Predictor.from_run("runs/NAME")        # doctest: +SKIP
    >>> predictor(["new/1.png"])[0].predicted              # doctest: +SKIP
    'ill'

    Attributes:
        spec: What a picture is when it enters the network.
        labels: What the network answers.
        decisions: Thresholds, sets and abstention; None where nothing was asked for.
        origin: Where the model comes from.
        seen: What the training pictures were like; None for runs that did not keep it.
        far: From which distance on a picture is far from those of training; None for runs that
            kept no features.
        network: From pictures (B, H, W, C) of the spec's number type and size to `Answers`.
        batch_size: Pictures at a time.
        precision: Arithmetic of the network: ``fp32``, ``bf16`` or, of an export, ``fp16``.
    """

    spec: InputSpec
    labels: LabelSpec
    decisions: Decisions | None
    origin: Origin
    seen: SeenPictures | None
    far: FarLimit | None
    network: Network
    batch_size: int = 32
    precision: str = "fp32"

    @classmethod
    def from_run(cls, run: "RunDirectory | str | os.PathLike[str]", *, precision: str = "fp32",
                 batch_size: int = 32) -> "Predictor":
        """The chosen network of a finished run; needs torch.

        Args:
            run: The run, or its folder.
            precision: ``fp32``, which gives the run's own answers, or ``bf16``, which does not.
            batch_size: Pictures at a time.

        Raises:
            InputError: There is no such run, it isn't finished, or a newer version trained it.
        """
        from finetune.run_directory import RunDirectory

        run = run if isinstance(run, RunDirectory) else RunDirectory.open(Path(run))
        facts = run_facts(run)
        from finetune.prediction.network import load_network

        logits = load_network(run, precision=precision)
        return cls(**facts, network=calibrated_network(logits, facts["labels"], facts["decisions"]),
                   batch_size=batch_size, precision=precision)

    @classmethod
    def from_export(cls, path: str | os.PathLike[str], *, batch_size: int = 32) -> "Predictor":
        """An ONNX file that ``export`` wrote; needs onnxruntime, no torch.

        Raises:
            InputError: It can't be read, isn't ours, or is of a newer version.
        """
        from finetune.prediction.onnx_model import load_onnx

        return load_onnx(path, batch_size=batch_size)

    def with_views(self, tta: str) -> "Predictor":
        """The same model, answering with the mean of its probabilities over several views.

        ``flips``: as it is, mirrored in both ways, and both; ``d4``: also these turned by 90
        degrees. Calibration and thresholds were fitted on single views. Logits and distances are
        those of the picture as it is.

        Raises:
            ConfigurationError: Unknown views, or turned ones of pictures that are not square.
        """
        if tta not in VIEWS:
            raise ConfigurationError(f"views {tta!r}: there are {' and '.join(VIEWS)}")
        if tta == "d4" and self.spec.size[0] != self.spec.size[1]:
            raise ConfigurationError(f"views d4 turn pictures by 90 degrees, and this network "
                                     f"takes {self.spec.size[0]} x {self.spec.size[1]} pixels; "
                                     "use flips")
        inner = self.network

        def network(batch: np.ndarray) -> Answers:
            answers = [inner(np.ascontiguousarray(view)) for view in _views(batch, tta)]
            return answers[0]._replace(
                probabilities=np.mean([each.probabilities for each in answers], axis=0))

        return replace(self, network=network)

    def __call__(self, images: Picture | Iterable[Picture]) -> list[Prediction]:
        """What the model says about each picture, in their order.

        Args:
            images: Paths, or arrays (H, W) or (H, W, C) as decoded, of any size; also a single
                one, or a batch (N, H, W, C).
        """
        prepared = (self.prepare(image, name=None if isinstance(image, str | os.PathLike)
                                 else str(number)) for number, image in enumerate(_listed(images)))
        return [each for some in batches(prepared, self.batch_size) for each in self.answer(some)]

    def prepare(self, image: Picture, *, name: str | None = None) -> Prepared:
        """A picture at the network's size, in its channels and number type; never raises for it.

        Args:
            image: A path, or an array as decoded.
            name: What the prediction calls it; unset: the path.
        """
        label = os.fspath(image) if name is None and not isinstance(image, np.ndarray) else name
        label = str(label)
        try:
            decoded = (_decoded(image, label) if isinstance(image, np.ndarray)
                       else decode_image(os.fspath(image), name=label))
            odd = self.seen.oddities(decoded) if self.seen is not None else []
            pixels = conform(decoded.pixels, channels=self.spec.channels, dtype=self.spec.dtype)
            pixels = resize_image(pixels, self.spec.size, resize=self.spec.resize,
                                  interpolation=self.spec.interpolation)
        except (InputError, OSError, ValueError) as error:  # ValueError: a name with a null byte
            return Prepared(label, None, error=str(error).removeprefix(f"{label}: "))
        except MemoryError:
            return Prepared(label, None, error="too large for the memory")
        return Prepared(label, pixels, (*odd, *decoded.notes))

    def answer(self, prepared: Sequence[Prepared]) -> list[Prediction]:
        """What the model says about some pictures at once, in their order."""
        good = [each for each in prepared if each.pixels is not None]
        if not good:
            return [_unread(each) for each in prepared]
        batch = np.stack([each.pixels for each in good if each.pixels is not None])
        answers = self.network(batch)
        found = iter(self._decided(self._warned(good, answers.distances),
                                   np.asarray(answers.probabilities, np.float64)))
        return [_unread(each) if each.pixels is None else next(found) for each in prepared]

    @property
    def points(self) -> list[OperatingPoint]:
        """Operating points that have a threshold."""
        points = self.decisions.points if self.decisions is not None else ()
        return [point for point in points if point.threshold is not None]

    @property
    def has_sets(self) -> bool:
        """Whether there are prediction sets."""
        sets = None if self.decisions is None else self.decisions.sets
        return sets is not None and not sets.refused

    @property
    def has_costs(self) -> bool:
        """Whether there is a cost matrix."""
        return self.decisions is not None and self.decisions.costs is not None

    def _warned(self, prepared: Sequence[Prepared],
                distances: np.ndarray | None) -> list[Prepared]:
        """Pictures with a warning more where they are far from those of training."""
        if self.far is None or distances is None:
            return list(prepared)
        return [replace(each, warnings=(*each.warnings, self.far.warning(float(distance))))
                if is_far else each for each, distance, is_far in zip(
                    prepared, distances, self.far.is_far(distances), strict=True)]

    def _decided(self, prepared: Sequence[Prepared], odds: np.ndarray) -> Iterator[Prediction]:
        """Predictions of pictures that could be read."""
        names, finite = self.labels.class_names, np.isfinite(odds).all(axis=1)
        safe = np.where(finite[:, None], odds, 1 / len(names))
        told = {} if self.decisions is None else decide_by(self.decisions, safe)
        if self.has_sets:
            told["sets"] = self._sets(safe, [each.name for each in prepared])
        for row, each in enumerate(prepared):
            if not finite[row]:
                yield Prediction(each.name, warnings=each.warnings,
                                 error="the network answers NaN or infinity")
                continue
            yield Prediction(
                each.name, self._predicted(odds[row]), tuple(odds[row].tolist()),
                _chosen(told.get("sets"), row, names), _abstained(told, row),
                self._points(told, row), each.warnings)

    def _predicted(self, odds: np.ndarray) -> str | tuple[str, ...]:
        names = self.labels.class_names
        if self.labels.is_exclusive:
            return names[int(odds.argmax())]
        return tuple(name for name, p in zip(names, odds, strict=True) if p >= LIKELY)

    def _sets(self, odds: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """(N, K) bool; random numbers depend on the picture's name, not on its neighbours."""
        sets = None if self.decisions is None else self.decisions.sets
        assert sets is not None
        if not sets.randomised:
            return sets.apply(odds)
        seeds = [zlib.crc32(name.encode("utf-8", "surrogateescape")) for name in names]
        return np.concatenate([sets.apply(odds[i:i + 1], seed=s) for i, s in enumerate(seeds)])

    def _points(self, told: dict[str, Any], row: int) -> dict[str, bool | str]:
        answers = [said for said in told.get("points", []) if said is not None]
        found: dict[str, bool | str] = {point_name(point): bool(said[row])
                                        for point, said in zip(self.points, answers, strict=True)}
        if self.has_costs:
            found["least_cost"] = self.labels.class_names[int(told["least_cost"][row])]
        return found


def calibrated_network(logits: Logits, labels: LabelSpec,
                       decisions: Decisions | None) -> Network:
    """A function of pictures to calibrated answers, of one to logits (B, K) and distances."""
    def network(batch: np.ndarray) -> Answers:
        values, distances = logits(batch)
        odds = (calibrated(decisions, values) if decisions is not None
                else to_probabilities(values, multi=labels.kind is LabelKind.multi))
        return Answers(odds, values, distances)

    return network


def point_name(point: OperatingPoint) -> str:
    """How a threshold is called, such as ``sensitivity_0.95_ill``, or ``f1_ill``."""
    wish = "" if point.wish is None else f"_{point.wish:g}"
    return f"{point.target}{wish}_{point.class_name}"


def _listed(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    single = isinstance(images, str | os.PathLike) or (
        isinstance(images, np.ndarray) and images.ndim < 4)
    return [images] if single else images  # type: ignore[list-item, return-value]


def _decoded(array: np.ndarray, label: str) -> Decoded:
    """An array as if it had been read from a file; its mode isn't judged."""
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.size == 0:
        raise DataError(f"{label}: an array of shape {array.shape}, not a picture (H, W, C)")
    pixels, notes = as_supported(pixels, label)
    if not np.isfinite(pixels).all():
        raise DataError(f"{label}: pixels are NaN or infinite")
    return Decoded(np.ascontiguousarray(pixels), "", tuple(notes))


def _views(batch: np.ndarray, tta: str) -> Iterator[np.ndarray]:
    turned = [batch, np.rot90(batch, axes=(1, 2))] if tta == "d4" else [batch]
    for each in turned:
        yield from (each, each[:, ::-1], each[:, :, ::-1], each[:, ::-1, ::-1])


def _unread(picture: Prepared) -> Prediction:
    return Prediction(picture.name, warnings=picture.warnings, error=picture.error)


def _chosen(sets: np.ndarray | None, row: int, names: Sequence[str]) -> tuple[str, ...] | None:
    if sets is None:
        return None
    return tuple(name for name, inside in zip(names, sets[row], strict=True) if inside)


def _abstained(told: dict[str, Any], row: int) -> bool | None:
    answered, sets = told.get("answered"), told.get("sets")
    if answered is None and sets is None:
        return None
    unsure = answered is not None and not answered[row]
    return bool(unsure or (sets is not None and not sets[row].any()))
