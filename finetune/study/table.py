"""The table at the end of a study."""

import shlex
from pathlib import Path
from typing import Any

from finetune.console import say, table, warn
from finetune.study.plan import Arm, Study, merge

__all__ = ["print_table"]

SHOWN = 10  # trials in the table; all are in study.json


def print_table(study: Study, folder: Path) -> None:
    """Print the arms from best to worst on validation, and what test says of the chosen one."""
    if study.metric is None or study.chosen is None:
        say(f"study {folder}: no arm has a result")
        return
    ordered = sorted(study.arms, key=lambda arm: (arm.rank is None, arm.rank))
    if study.sweep is not None:
        _print_trials(study, ordered, folder)
        return
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


def _print_trials(study: Study, ordered: list[Arm], folder: Path) -> None:
    """The best trials, and the command that trains the best words with seeds of their own."""
    keys = [word.partition("=")[0] for word in ordered[0].words]
    best = f"the best {min(SHOWN, len(ordered))} of {len(ordered)} trials"
    table(f"validation {study.metric}: {best}",
          ["", "trial", study.metric or "", *keys, "s of training"],
          [[arm.rank or "", arm.name, _shown(arm.mean), *(w.partition("=")[2] for w in arm.words),
            "" if arm.seconds is None else f"{arm.seconds:.0f}"] for arm in ordered[:SHOWN]])
    base = {key: value for key, value in study.base.items() if key != "tracking.group"}
    seeds = ",".join(str(study.seeds[0] + n) for n in (1, 2, 3))
    words = merge(base, study.settled.get("words", {}), ordered[0].words, [f"seed={seeds}"])
    say(f"sweep {folder}; best: {shlex.join(ordered[0].words)}\n"
        "chosen as the best of many on one validation part, its value is too good; train the words "
        "with seeds of their own, and look at test then:\n"
        f"  {shlex.join(['python', '-m', 'finetune', '-m', *words])}")


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
