"""What the label can be told from without content: measured at a run's start, told at its end.

A cue of how pictures are stored is a warning from the start. One of their content (brightness, a
border) is called a shortcut only when it alone gives half of what the model gains over chance.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.config import Shortcuts
from finetune.data.audit import same_units
from finetune.data.cues import cues_of
from finetune.data.samples import Samples
from finetune.data.scanning import PictureFacts
from finetune.data.shortcuts import (
    CueResult,
    Verdict,
    choose_sample,
    find_shortcuts,
    raise_by_gain,
    told_alone,
)

__all__ = ["find_cues", "gain_warnings", "shortcut_warnings", "weigh_cues"]


def find_cues(wanted: Shortcuts, samples: Samples, facts: Sequence[PictureFacts],
              together: Sequence[Sequence[int]]) -> list[CueResult]:
    """How well each cue tells the label; none of several labels, or where nothing is wanted.

    Args:
        wanted: ``ignore``: nothing is measured.
        samples: The pictures.
        facts: Theirs, from scanning; no file is read again.
        together: Sets of pictures that are copies of each other; groups are known of ``samples``.
    """
    if wanted is Shortcuts.ignore or not samples.label_spec.is_exclusive:
        return []
    return find_shortcuts(
        cues_of(samples.ids, facts), samples.labels, same_units(samples, together),
        samples.label_spec.class_names, sample=choose_sample(samples.ids, samples.labels))


def shortcut_warnings(found: Sequence[CueResult]) -> list[str]:
    """A sentence for each cue of how pictures are stored that tells the label."""
    words = {Verdict.shortcut: "shortcut: ", Verdict.warning: ""}
    return [f"{words[cue.verdict]}{cue.name}: {cue.words}; {told_alone(cue)}"
            + (f". {cue.remark}" if cue.remark else "")
            for cue in found if cue.verdict in words]


def weigh_cues(found: Sequence[CueResult], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cues beside the model, the most telling first; for ``metrics.json``.

    Args:
        found: From `find_cues`.
        values: Metrics of the model on the part that is reported.
    """
    gain = _gain(values) if found else 0.0
    return [{"cue": cue.name, "kind": cue.kind.value, "level": cue.verdict.value,
             "balanced_accuracy": cue.balanced_accuracy, "low": cue.interval[0],
             "high": cue.interval[1], "chance": cue.chance, "p": cue.p_value,
             "share_of_gain": (cue.balanced_accuracy - cue.chance) / gain if gain > 0 else None,
             "pictures": cue.count, "units": cue.units, "words": cue.words,
             "by_class": cue.by_class, "remark": cue.remark}
            for cue in raise_by_gain(found, gain)]


def _gain(values: Mapping[str, Any]) -> float:
    """Balanced accuracy above chance; classes that have no picture count in neither."""
    present = sum(bool(row["support"]) for row in values["per_class"].values())
    return float(values["balanced_accuracy"]) - 1 / present


def gain_warnings(weighed: Sequence[Mapping[str, Any]], values: Mapping[str, Any],
                  part: str) -> list[str]:
    """One sentence where content alone gives half of the model's gain; else none.

    Args:
        weighed: From `weigh_cues`.
        values: As there.
        part: Whose these are.
    """
    raised = [row for row in weighed if row["kind"] == "content" and row["level"] == "shortcut"]
    if not raised:
        return []
    named = "; ".join(f"{row['cue']} {row['balanced_accuracy']:.2f} ({row['low']:.2f} to "
                      f"{row['high']:.2f}): {row['words']}" for row in raised)
    return [f"shortcut: half of what the model gains over chance ({raised[0]['chance']:.2f}) can "
            f"be told without it; its balanced accuracy on {part} is "
            f"{values['balanced_accuracy']:.2f}, and from one cue alone: {named}"]
