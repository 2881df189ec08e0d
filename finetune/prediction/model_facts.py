"""What an exported model says of itself: one JSON document that travels inside its file."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune import __version__
from finetune.data.seen_pictures import SeenPictures
from finetune.errors import InputError
from finetune.evaluation.decisions import Decisions
from finetune.evaluation.familiarity import FarLimit
from finetune.prediction.predictor import Origin, refuse_newer
from finetune.specs import InputSpec, LabelSpec

if TYPE_CHECKING:
    from finetune.run_directory import RunDirectory

__all__ = ["FORMAT", "KEY", "facts_to_json", "json_to_facts", "measured_part"]

KEY = "finetune"  # of the document among a file's metadata
FORMAT = 1        # of the document; grows when older versions would misread it


def facts_to_json(facts: Mapping[str, Any], export: Mapping[str, Any]) -> str:
    """The document of a model.

    Args:
        facts: As `finetune.prediction.predictor.run_facts` gives them.
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
        told = json.loads(text)
        if told["format"] > FORMAT:
            refuse_newer(name, told["version"])
            raise InputError(f"{name} is of format {told['format']}, and this version reads up to "
                             f"{FORMAT}: use finetune {told['version']} or later")
        decisions, seen, far = (told[name] for name in ("decisions", "seen", "far"))
        return {"spec": InputSpec.from_dict(told["spec"]),
                "labels": LabelSpec.from_dict(told["labels"]),
                "decisions": decisions and Decisions.from_dict(decisions),
                "origin": Origin(**told["origin"]),
                "seen": seen and SeenPictures.from_dict(seen),
                "far": far and FarLimit.from_dict(far)}, dict(told["export"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{name}: what the model says of itself is damaged "
                         f"({type(error).__name__}: {error}); export the run again") from error


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
