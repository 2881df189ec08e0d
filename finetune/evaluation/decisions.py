"""What a network's answers are turned into, fitted on validation pictures.

`finetune.evaluation.decision_measures` measures it on others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.errors import CheckError, ConfigurationError, DataError, first_of
from finetune.evaluation.abstention import Abstention, fit_abstention
from finetune.evaluation.calibration import (
    KINDS,
    Calibration,
    fit_calibration,
    to_probabilities,
)
from finetune.evaluation.conformal import PredictionSets, fit_prediction_sets
from finetune.evaluation.halves import MIN_GROUPS, MIN_PICTURES, decision_halves, group_folds
from finetune.evaluation.operating_points import (
    TARGETS,
    CostRule,
    OperatingPoint,
    fit_operating_point,
)
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.shares import group_numbers
from finetune.specs import LabelKind, LabelSpec

__all__ = ["CALIBRATIONS", "DecisionSettings", "Decisions", "apply_decisions", "calibrated",
           "decide_by", "fit_decisions", "part_of", "selection_part"]

CALIBRATIONS = ("auto", "none", *KINDS)


@dataclass(frozen=True)
class DecisionSettings:
    """What to fit. ``None`` is: not asked for.

    Attributes:
        calibration: ``auto`` (temperature, or bias_corrected after training with class weights,
            balanced sampling or logit adjustment), ``none``, or a kind.
        sensitivity: Wished, 0 to 1; a threshold for the positive class of two, or for each class.
        specificity: Likewise.
        precision: Likewise.
        best_f1: Whether to look for the threshold with the best F1 likewise.
        costs: K rows of K: row = true class, column = answer.
        set_level: Coverage of prediction sets, between 0 and 1.
        set_method: ``aps`` or ``lac``.
        sets_by_class: Whether each class is to have that coverage.
        sets_randomised: Whether APS draws random numbers.
        answered_accuracy: Wished accuracy of what is answered when the rest is left to people.
        guarantee: Probability with which that accuracy is to hold.
    """

    calibration: str = "auto"
    sensitivity: float | None = None
    specificity: float | None = None
    precision: float | None = None
    best_f1: bool = False
    costs: Sequence[Sequence[float]] | None = None
    set_level: float | None = 0.9
    set_method: str = "aps"
    sets_by_class: bool = False
    sets_randomised: bool = False
    answered_accuracy: float | None = None
    guarantee: float | None = None

    def __post_init__(self) -> None:
        if self.calibration not in CALIBRATIONS:
            raise ConfigurationError(f"calibration {self.calibration!r} is not one of "
                                     f"{', '.join(CALIBRATIONS)}")


@dataclass(frozen=True)
class Decisions:
    """All that was fitted on the validation pictures of a run.

    Attributes:
        label_spec: Of the network.
        calibration: Of its logits; all else is fitted on and applied to what it gives.
        points: Operating points.
        costs: The rule of a cost matrix.
        sets: Prediction sets.
        abstention: When to answer.
        unstable: Whether all validation pictures were used, those that chose the model too.
        count: Pictures that it was fitted on.
        reasons: Everything that was refused, not kept or is unstable, in words.
    """

    label_spec: LabelSpec
    calibration: Calibration
    points: tuple[OperatingPoint, ...] = ()
    costs: CostRule | None = None
    sets: PredictionSets | None = None
    abstention: Abstention | None = None
    unstable: bool = False
    count: int = 0
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        parts = {"costs": self.costs, "sets": self.sets, "abstention": self.abstention}
        return {"label_spec": asdict(self.label_spec), "calibration": self.calibration.to_dict(),
                "points": [point.to_dict() for point in self.points],
                **{name: part and part.to_dict() for name, part in parts.items()},
                "unstable": self.unstable, "count": self.count, "reasons": list(self.reasons)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Decisions":
        """What `to_dict` described."""
        kinds: dict[str, Any] = {"costs": CostRule, "sets": PredictionSets,
                                 "abstention": Abstention}
        parts = {name: values[name] and kind.from_dict(values[name])
                 for name, kind in kinds.items()}
        return cls(LabelSpec.from_dict(values["label_spec"]),
                   Calibration.from_dict(values["calibration"]),
                   tuple(OperatingPoint.from_dict(point) for point in values["points"]),
                   **parts, unstable=values["unstable"], count=values["count"],
                   reasons=tuple(values["reasons"]))


def selection_part(val: Predictions, *, seed: int) -> Predictions:
    """The validation pictures that may choose the model; all where there are too few for halves."""
    halves = decision_halves(val.labels, val.groups, seed=seed)
    return val if halves is None else part_of(val, halves[0])


def part_of(given: Predictions, rows: np.ndarray) -> Predictions:
    """The predictions of some rows."""
    groups = None if given.groups is None else [given.groups[i] for i in rows]
    return Predictions([given.ids[i] for i in rows], given.labels[rows], given.logits[rows],
                       given.label_spec, groups)


def fit_decisions(val: Predictions, *, settings: DecisionSettings, biased_training: bool,
                  seed: int) -> Decisions:
    """Calibration, thresholds, sets and abstention from validation pictures alone.

    With at least 400 pictures only the half that `selection_part` leaves is used. Thresholds and
    sets are fitted on logits that were calibrated by fits without them.

    Args:
        val: The network's answers for the validation pictures.
        settings: What to fit.
        biased_training: Whether class weights, balanced sampling or logit adjustment were used.
        seed: The one that `selection_part` had.

    Raises:
        CheckError: A logit is NaN or infinite.
        ConfigurationError: A setting can't be.
        DataError: There are no pictures.
    """
    _check(val)
    halves = decision_halves(val.labels, val.groups, seed=seed)
    part = val if halves is None else part_of(val, halves[1])
    calibration, crossed = _calibrated(part, settings.calibration, biased_training, seed)
    odds = to_probabilities(crossed, multi=_is_multi(val.label_spec))
    folds = group_folds(part.labels, part.groups, seed=seed)
    points = _points(part, odds, settings, folds)
    costs = _costs(settings.costs, val.label_spec)
    sets = None if settings.set_level is None else fit_prediction_sets(
        part.labels, odds, level=settings.set_level, seed=seed, groups=part.groups,
        method=settings.set_method, by_class=settings.sets_by_class,
        randomised=settings.sets_randomised, class_names=val.label_spec.class_names)
    abstention = None if settings.answered_accuracy is None else fit_abstention(
        part.labels, odds, accuracy=settings.answered_accuracy, folds=folds,
        guarantee=settings.guarantee, groups=part.groups)
    said = [_instability(val) if halves is None else "", calibration.reason,
            *(f"{p.target} of {p.class_name}: {p.reason}" for p in points if p.reason),
            sets.reason if sets else "", abstention.reason if abstention else ""]
    return Decisions(val.label_spec, calibration, points, costs, sets, abstention, halves is None,
                     len(part), tuple(reason for reason in said if reason))


def _check(given: Predictions) -> None:
    if not len(given):
        raise DataError("there are no validation pictures to fit decisions on")
    broken = np.flatnonzero(~np.isfinite(given.logits).all(axis=1))
    if len(broken):
        raise CheckError(f"the network answered NaN or infinity for {len(broken)} pictures "
                         f"({first_of([given.ids[i] for i in broken])}); decisions can't be "
                         "fitted on that")


def _is_multi(spec: LabelSpec) -> bool:
    return spec.kind is LabelKind.multi


def _instability(val: Predictions) -> str:
    groups = len(np.unique(group_numbers(val.groups, len(val))))
    there = f"{len(val)} validation pictures" + (
        "" if val.groups is None else f" in {groups} groups")
    return (f"unstable: {there} are too few to halve ({MIN_PICTURES} pictures and {MIN_GROUPS} "
            "groups are needed), so that the same ones chose the model; what is said about "
            "validation pictures is cross-fitted")


def _calibrated(part: Predictions, wish: str, biased: bool,
                seed: int) -> tuple[Calibration, np.ndarray]:
    """By the wished kind; after biased training by temperature alone where biases don't help."""
    width = part.label_spec.output_width
    if wish == "none":
        return Calibration.unchanged(width, ""), part.logits.astype(np.float64)
    kinds = {"auto": ["bias_corrected", "temperature"] if biased else ["temperature"]}
    if _is_multi(part.label_spec):
        kinds = {wish: ["per_label"]}
    for kind in kinds.get(wish, [wish]):
        found, crossed = fit_calibration(part.logits, part.labels, kind=kind, seed=seed,
                                         groups=part.groups,
                                         class_names=part.label_spec.class_names)
        if found.kept:
            break
    return found, crossed


def _points(part: Predictions, odds: np.ndarray, settings: DecisionSettings,
            folds: np.ndarray) -> tuple[OperatingPoint, ...]:
    spec = part.label_spec
    names = list(spec.class_names)
    if spec.is_binary:
        names = [spec.positive_class or names[-1]]
    wishes = {target: wish for target in TARGETS
              if (wish := getattr(settings, target, None)) is not None}
    if settings.best_f1:
        wishes["f1"] = None
    return tuple(
        fit_operating_point(part.labels, odds, class_name=name, target=target, wish=wish,
                            place=spec.class_names.index(name), folds=folds, groups=part.groups)
        for target, wish in wishes.items() for name in names)


def _costs(costs: Sequence[Sequence[float]] | None, spec: LabelSpec) -> CostRule | None:
    if costs is None:
        return None
    if _is_multi(spec) or len(costs) != spec.output_width:
        raise ConfigurationError(
            f"a cost matrix of {len(costs)} rows does not fit these labels: it needs a row and a "
            f"column for each of the {spec.output_width} classes, and exactly one class a picture")
    return CostRule(tuple(tuple(float(cost) for cost in row) for row in costs))


def apply_decisions(decisions: Decisions, logits: np.ndarray) -> dict[str, Any]:
    """What is decided for pictures, from their (N, K) logits.

    Returns:
        ``probabilities`` (N, K); ``points``: for each operating point (N,) whether positive;
        ``least_cost`` (N,) classes; ``sets`` (N, K) bool, an empty row = abstain; ``answered``
        (N,). ``None`` for what was refused or not asked for.
    """
    return decide_by(decisions, calibrated(decisions, logits))


def calibrated(decisions: Decisions, logits: np.ndarray) -> np.ndarray:
    """(N, K) calibrated probabilities, float64, of (N, K) logits."""
    return to_probabilities(decisions.calibration.apply(logits),
                            multi=_is_multi(decisions.label_spec))


def decide_by(decisions: Decisions, odds: np.ndarray) -> dict[str, Any]:
    """As `apply_decisions`, from (N, K) probabilities that are calibrated already."""
    sets, abstention = decisions.sets, decisions.abstention
    return {
        "probabilities": odds,
        "points": [None if point.threshold is None else point.answers(odds)
                   for point in decisions.points],
        "least_cost": decisions.costs.answers(odds) if decisions.costs else None,
        "sets": None if sets is None or sets.refused else sets.apply(odds),
        "answered": None if abstention is None or abstention.threshold is None
        else abstention.answers(odds),
    }
