"""What is told of a model beside its network: by a run's files, or by an export's metadata.

An export's is one JSON document that travels inside its file.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune import __version__
from finetune.data.seen_pictures import SeenPictures
from finetune.data.unreadable import MAX_PIXELS
from finetune.errors import ConfigurationError, InputError
from finetune.evaluation.decisions import Decisions
from finetune.evaluation.familiarity import FarLimit, read_limit
from finetune.files import hash_file, parse_json
from finetune.prediction.values import Origin
from finetune.specs import InputSpec, LabelSpec

if TYPE_CHECKING:
    from finetune.run_directory import RunDirectory

__all__ = ["FORMAT", "KEY", "facts_to_json", "json_to_facts", "measured_part", "refuse_newer",
           "run_facts"]

KEY = "finetune"  # of the document among a file's metadata
FORMAT = 1        # of the document; grows when older versions would misread it


def facts_to_json(facts: Mapping[str, Any], export: Mapping[str, Any]) -> str:
    """The document of a model.

    Args:
        facts: As `run_facts` gives them.
        export: How the file was made: plain values.
    """
    parts = ("spec", "labels", "decisions", "origin", "seen", "far")
    told = {name: facts[name] and facts[name].to_dict() for name in parts}
    return json.dumps({"format": FORMAT, "version": __version__, **told, "export": dict(export)},
                      sort_keys=True, allow_nan=False)


def json_to_facts(text: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `facts_to_json` was given.

    Raises:
        InputError: It is damaged, or of a newer version.
    """
    try:
        told = parse_json(text)
        if told["format"] > FORMAT:
            refuse_newer(name, told["version"])
            raise InputError(f"{name} is of format {told['format']}, and this version reads up to "
                             f"{FORMAT}: use finetune {told['version']} or later")
        _check_size(told["spec"])
        decisions, seen, far = (told[name] for name in ("decisions", "seen", "far"))
        labels = LabelSpec.from_dict(told["labels"])
        _check_measured(told["export"]["measured"])
        return {"spec": InputSpec.from_dict(told["spec"]), "labels": labels,
                "decisions": decisions and _checked(Decisions.from_dict(decisions), labels),
                "origin": Origin(**told["origin"]),
                "seen": seen and SeenPictures.from_dict(seen),
                "far": far and FarLimit.from_dict(far)}, dict(told["export"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError,
            ConfigurationError) as error:
        raise InputError(f"{name}: what the model says of itself is damaged "
                         f"({type(error).__name__}: {error}); export the run again") from error


def _checked(decisions: Decisions, labels: LabelSpec) -> Decisions:
    """The decisions, unless they are of another network.

    Raises:
        ValueError: They are of other classes.
    """
    names, width = labels.class_names, labels.output_width
    sets, costs, calibration = decisions.sets, decisions.costs, decisions.calibration
    sizes = [len(calibration.scale), len(calibration.bias),
             *([len(sets.quantiles)] if sets is not None and not sets.refused else []),
             *([len(costs.costs)] if costs is not None else [])]
    places = [(point.class_name, point.place) for point in decisions.points]
    if (decisions.label_spec.kind, decisions.label_spec.class_names) != (labels.kind, names) or any(
            size != width for size in sizes) or any(
            not 0 <= place < width or names[place] != name for name, place in places):
        raise ValueError("the decisions are of other classes than the network")
    return decisions


def _check_measured(measured: Mapping[str, Any]) -> None:
    """Raise unless it is what `measured_part` gives."""
    if measured["part"] not in ("test", "val") or not all(
            isinstance(value, int | float) for value in measured["values"].values()) or not all(
            isinstance(entry, dict) for entry in measured["intervals"].values()):
        raise ValueError("what was measured of the run can't be read")


def _check_size(spec: Mapping[str, Any]) -> None:
    height, width = (int(side) for side in spec["size"])
    if not (0 < height * width * int(spec["channels"]) <= MAX_PIXELS and min(height, width) > 0):
        raise ValueError(f"pictures of {height} x {width} x {spec['channels']}")


def measured_part(run: "RunDirectory") -> dict[str, Any]:
    """What a run measured of itself: on test, or where it has none on validation.

    Returns:
        ``part``, its scalar ``values`` and their ``intervals`` by name.
    """
    metrics = run.metrics
    part = "test" if "test" in metrics else "val"
    values = {k: v for k, v in metrics[part].items() if isinstance(v, int | float)}
    intervals = metrics.get("intervals", {}).get(part, {})
    return {"part": part, "values": values,
            "intervals": {k: v for k, v in intervals.items() if k in values}}


def run_facts(run: "RunDirectory") -> dict[str, Any]:
    """What a run's files tell beside its network: all else that `Predictor` is made of.

    Raises:
        InputError: It holds folds, isn't finished, or a newer version trained it.
    """
    if not run.best_weights.is_file() or not (run.path / "metrics.json").is_file():
        folds = run.has_folds
        raise InputError(f"{run.path} holds the runs of all folds: name one of them, such as "
                         f"{run.path / 'fold-1'}" if folds else
                         f"{run.path} is not finished: python -m finetune resume {run.path}")
    versions = run.environment.get("versions")  # first: a later one may write other things
    version = versions.get("finetune-images") if isinstance(versions, dict) else None
    refuse_newer(run.path, version)
    try:
        return _facts(run, run.whole_environment, version)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError,
            ConfigurationError) as error:
        raise InputError(f"{run.path}: environment.json or decisions.json is damaged "
                         f"({type(error).__name__}: {error})") from error


def _facts(run: "RunDirectory", environment: dict[str, Any],
           version: str | None) -> dict[str, Any]:
    decisions = run.path / "decisions.json"
    seen = environment["data"].get("training_pictures")
    labels = LabelSpec.from_dict(environment["label_spec"])
    return {"spec": InputSpec.from_dict(environment["input_spec"]), "labels": labels,
            "decisions": (_checked(Decisions.from_dict(run.read_json("decisions.json")), labels)
                          if decisions.is_file() else None),
            "origin": Origin(run.name, hash_file(run.best_weights),
                             environment["weights"].get("licence"), version,
                             environment["rehearsal"] is not None),
            "seen": None if seen is None else SeenPictures.from_dict(seen),
            "far": read_limit(run.familiarity)}


def refuse_newer(path: object, version: str | None) -> None:
    """Refuse what a later version than this one made.

    Raises:
        InputError: It is later.
    """
    def numbers(text: str) -> list[int]:
        return [int(part[:9]) for part in str(text).split(".")[:3] if part.isdecimal()]

    if version is not None and numbers(version) > numbers(__version__):
        raise InputError(f"{path} was made by finetune {version}, this is {__version__}: "
                         "use that version or a later one")
