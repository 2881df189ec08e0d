"""The table at the end of a study."""

import shlex
from pathlib import Path
from typing import Any

from finetune.console import say, table, warn
from finetune.study_plan import Arm, Study

__all__ = ["print_table"]


def print_table(study: Study, folder: Path) -> None:
    """Print the arms from best to worst on validation, and what test says of the chosen one."""
    if study.metric is None or study.chosen is None:
        say(f"study {folder}: no arm has a result")
        return
    ordered = sorted(study.arms, key=lambda arm: (arm.rank is None, arm.rank))
    table(f"{study.study}: validation {study.metric}, {len(study.seeds)} seeds",
          ["", "arm", "mean", "standard deviation", "by seed", "learning rate", "s of training"],
          [_row(arm, study) for arm in ordered])
    for arm in ordered:
        if arm.edge is not None:
            warn(f"{arm.name}: its best rate, {arm.rate:g}, is the {arm.edge} that was tried; a "
                 "wider grid (study.rates=…) may find a better one")
    _tell_test(study)
    say(f"study {folder}; whether the difference is real:\n"
        f"  python -m finetune compare {shlex.quote(str(folder))}")


def _row(arm: Arm, study: Study) -> list[Any]:
    mark = " (reference)" if arm.name == study.reference else ""
    seeds = " ".join("-" if v is None else f"{v:.4f}" for v in arm.values.values())
    rate = "its own" if arm.rate is None else f"{arm.rate:g}{' (edge)' if arm.edge else ''}"
    return [arm.rank or "", arm.name + mark, _shown(arm.mean), _shown(arm.std), seeds, rate,
            "" if arm.seconds is None else f"{arm.seconds:.0f}"]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _tell_test(study: Study) -> None:
    if study.test is None:
        return
    chosen, reference = study.test["chosen"], study.test["reference"]
    text = f"test {study.test['metric']}: {chosen['arm']} {chosen['mean']:.4f}"
    if chosen["arm"] == reference["arm"]:
        say(f"{text}; the reference is the best arm on validation, nothing is to be compared")
    else:
        say(f"{text}, {reference['arm']} (reference) {reference['mean']:.4f}, means over seeds")
