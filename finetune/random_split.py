"""What a random split would have said about the same training."""

import dataclasses
import shlex
from typing import Any

from finetune.config import Config, DataConfig, SplitChoice
from finetune.console import say
from finetune.errors import Interrupted
from finetune.files import write_json
from finetune.folds import train_in, typed_words
from finetune.run import rewrite_report
from finetune.run_directory import RunDirectory

__all__ = ["compare_random"]

_OWN = ("split", "compare_random", "x_column", "y_column", "place_from", "block_size",
        "block_buffer", "time_column", "site_column", "test_site")


def compare_random(run: RunDirectory) -> RunDirectory:
    """Train the same on a random split, in ``random_split`` of a finished run, and tell both.

    The line with both numbers goes to the terminal, to ``metrics.json`` under ``random_split``, and
    to the notes of the report. A random split ignores groups; identical pictures stay together.

    Raises:
        Interrupted: By a signal; the run can be resumed.
    """
    config = run.config
    words = [w for w in typed_words(run)
             if w.partition("=")[0] not in {f"data.{key}" for key in _OWN}]
    try:
        other = train_in(run.path / "random_split", _randomly(config),
                         [*words, f"data.split={SplitChoice.stratified}"])
    except (Interrupted, KeyboardInterrupt) as error:
        raise Interrupted("stopped while the random split was trained; the run itself is finished. "
                          "Continue with\n  python -m finetune resume "
                          f"{shlex.quote(str(run.path))}") from error
    _tell(run, other, str(config.data.split))
    return run


def _randomly(config: Config) -> Config:
    schema = DataConfig()
    plain = {key: getattr(schema, key) for key in _OWN} | {"split": SplitChoice.stratified}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **plain))


def _tell(run: RunDirectory, other: RunDirectory, split: str) -> None:
    metrics, there = run.metrics, other.metrics
    name = metrics["selection"]["metric"]
    part = "test" if "test" in metrics and "test" in there else "val"
    own, random = metrics[part].get(name), there[part].get(name)
    line = (f"{part} {name} is {_shown(own)} with data.split={split}; a random split would have "
            f"said {_shown(random)}")
    environment = run.environment
    environment["warnings"] = list(dict.fromkeys([*environment["warnings"], line]))
    run.write_environment(environment)
    facts: dict[str, Any] = {"metric": name, "part": part, "split": split, "value": own,
                             "random": random, "run": other.path.name, "text": line}
    write_json(run.path / "metrics.json", {**metrics, "random_split": facts})
    rewrite_report(run)
    say(line)


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
