"""What a model can't be trusted with, as far as it follows from how it was trained and measured."""

from collections.abc import Callable, Mapping
from typing import Any

from finetune.errors import first_of
from finetune.report.card_metadata import licence_fields
from finetune.report.claim import Facts

__all__ = ["find_limits"]

FEW_PICTURES = 30  # of a class in the measured part: below, its numbers say little


def find_limits(facts: Facts) -> list[str]:
    """The limits that follow from a run's facts, as sentences; those of its results first."""
    return [text for rule in _RULES for text in rule(facts) if text]


def _rehearsal(facts: Facts) -> list[str]:
    return ["This is a rehearsal on generated pictures: no number here says anything about real "
            "ones."] if facts.environment.get("rehearsal") else []


def _no_test(facts: Facts) -> list[str]:
    return [] if facts.part == "test" else [
        "There is no test part. The numbers are of validation pictures, which also chose the "
        "epoch: they are too good."]


def _leaks(facts: Facts) -> list[str]:
    waiver = facts.data.get("waiver")
    return [f"Copies of pictures in several parts were allowed, with the reason: {waiver}. The "
            "numbers may be too good."] if waiver else []


def _groups(facts: Facts) -> list[str]:
    if not facts.data.get("groups"):
        return ["No groups (patients, places, slides) were given: intervals take pictures for "
                "independent. If several pictures show one patient or place, intervals are too "
                "narrow, and such pictures can lie in several parts, so that the numbers are too "
                "good."]
    return [f"{facts.divided_groups} groups have pictures in several parts: the numbers may be too "
            "good."] if facts.divided_groups else []


def _one_collection(facts: Facts) -> list[str]:
    site = _setting(facts, "data", "test_site")
    if facts.data["split_method"] == "site":
        return [f"One site ({site}) was kept apart for the test; other sites than those of the "
                "collection were not tried."]
    return ["Training and test pictures come from one collection. How the model does on pictures "
            "of another place, camera, clinic or time was not measured."]


def _looks(facts: Facts) -> list[str]:
    return [f"{facts.looks} different configurations were measured on these test pictures; the "
            "best of several looks better than it is."] if facts.looks > 1 else []


def _few(facts: Facts) -> list[str]:
    rows = facts.values.get("per_class", {})
    absent = [name for name, row in rows.items() if not row["support"]]
    few = [f"{name} ({row['support']})" for name, row in rows.items()
           if 0 < row["support"] < FEW_PICTURES]
    part = "test" if facts.part == "test" else "validation"
    found = [f"No {part} picture is of {first_of(absent)}: nothing is known about "
             f"{'it' if len(absent) == 1 else 'them'}."] if absent else []
    return found + ([f"Fewer than {FEW_PICTURES} {part} pictures are of {first_of(few)}: the "
                     "numbers of these classes say little."] if few else [])


def _subgroups(facts: Facts) -> list[str]:
    columns = facts.metrics.get("subgroups", {}).get("columns", {})
    if not columns:
        return ["Whether the model fails more often for some subgroups (sites, devices, people) "
                "was not measured."]
    uneven = [name for name, found in columns.items()
              if (found.get("test") or {}).get("more_than_chance")]
    return [f"How often it is right differs by {first_of(uneven)}, by more than chance."] \
        if uneven else []


def _shortcuts(facts: Facts) -> list[str]:
    found = [row["cue"] for row in facts.metrics.get("shortcuts", [])
             if row["level"] == "shortcut"]
    return [f"The label can be told in part without looking at content, from {first_of(found)}: "
            "the model may have learned that instead."] if found else []


def _probabilities(facts: Facts) -> list[str]:
    decisions = facts.metrics.get("decisions") or facts.fitted
    if not decisions.get("calibration", {}).get("kept"):
        return ["Probabilities are the network's own, not calibrated"
                + (": see below." if decisions else ".")]
    return ["Calibration and thresholds were fitted on few pictures, which also chose the epoch: "
            "take them as a first guess."] if decisions.get("unstable") else []


def _closed(facts: Facts) -> list[str]:
    spec = facts.environment["label_spec"]
    base = ("The share of right answers among the positive ones (precision) holds where classes "
            "are as frequent as in the measured pictures.")
    return [base] if spec["kind"] == "multi" else [
        f"It answers one of its {len(spec['class_names'])} classes for every picture, also for one "
        "that shows something else.", base]


def _one_training(facts: Facts) -> list[str]:
    return [f"Intervals tell what other test pictures would change. The model was trained once "
            f"(seed {facts.environment['seed']}); what another seed would change is not in them."]


def _licence(facts: Facts) -> list[str]:
    told = licence_fields(facts.environment["weights"])
    name = told.get("license_name", told.get("license", ""))
    if name == "unknown":
        return ["The licence of the weights that training started from is not known."]
    return [f"The weights that training started from are licensed {name}: by its name, not for "
            "commercial use."] if {"nc", "noncommercial"} & set(name.split("-")) else []


def _setting(facts: Facts, section: str, key: str) -> Any:
    found: Mapping[str, Any] = facts.settings.get(section) or {}
    return found.get(key)


_RULES: tuple[Callable[[Facts], list[str]], ...] = (
    _rehearsal, _no_test, _leaks, _groups, _one_collection, _looks, _few, _subgroups, _shortcuts,
    _probabilities, _closed, _one_training, _licence)
