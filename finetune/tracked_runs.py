"""Runs that Weights & Biases holds, read through its API and put side by side.

Only numbers are there: no answers for single pictures, so no paired test. For verdicts, compare
the run directories.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from finetune.console import say, table
from finetune.errors import ConfigurationError, InputError, did_you_mean, first_of
from finetune.training.tracking_server import find_key, server_address

__all__ = ["METRICS", "TrackedRun", "compare_tracked", "join_seeds", "read_tracked"]

METRICS = ("accuracy", "balanced_accuracy", "quadratic_kappa", "mean_absolute_error", "macro_f1",
           "average_precision", "roc_auc", "log_loss")
_NOT_METHOD = ("seed", "output_dir", "tracking", "device")  # settings that make no other method


@dataclass(frozen=True)
class TrackedRun:
    """What the server holds of one run.

    Attributes:
        name: As shown there.
        run_id: Its id.
        group: Of a study; else None.
        arm: Its job type; else None.
        state: ``finished``, ``running``, ``crashed`` …
        settings: The configuration without what was private.
        numbers: Its summary: ``test/accuracy``, ``best/accuracy`` …
    """

    name: str
    run_id: str
    group: str | None
    arm: str | None
    state: str
    settings: Mapping[str, Any]
    numbers: Mapping[str, float]

    @property
    def seed(self) -> Any:
        """The seed, if it is known."""
        return self.settings.get("seed")


def compare_tracked(place: str, *, metric: str | None = None) -> None:
    """Print means and spreads of what a server holds; it gives no verdict.

    Args:
        place: ``ENTITY/PROJECT`` or ``ENTITY/PROJECT/GROUP``.
        metric: None: that which chose the epochs of all runs, else the first that any has.

    Raises:
        InputError: As `read_tracked`; or no run is finished.
        ConfigurationError: No run has such a metric.
    """
    runs = read_tracked(place)
    searched = [run for run in runs if (run.arm or "").endswith(" search")]
    finished = [run for run in runs if run.state == "finished" and run not in searched]
    if not finished:
        raise InputError(f"{place}: none of its {len(runs)} runs is finished "
                         f"({first_of([f'{run.name} {run.state}' for run in runs])})")
    chosen = _metric(finished, metric)
    names = [f"test/{chosen}", f"best/val/{chosen}"]
    rows = join_seeds(finished, names)
    table(f"{place}, {len(finished)} finished runs", [
        "method", "seeds", *(word for name in names for word in (name, "SD over seeds")), "state"],
        [[row["method"], ", ".join(map(str, row["seeds"])),
          *(word for name in names for word in _shown(row[name])), "finished"] for row in rows])
    if searched:
        say(f"left out: {len(searched)} runs of studies that searched a learning rate")
    left_out = [f"{run.name} ({run.state})" for run in runs if run not in finished + searched]
    if left_out:
        say(f"left out, not finished: {first_of(left_out)}")
    say("No verdict: Weights & Biases holds no answers for single pictures, so nothing is tested "
        "and spreads are over seeds alone. For verdicts, compare the run directories.")


def _metric(runs: Sequence[TrackedRun], wanted: str | None) -> str:
    known = [name for name in sorted({key.split("/")[-1] for run in runs for key in run.numbers
                                      if key.startswith(("test/", "best/val/"))})]
    if wanted is not None:
        if wanted not in known:
            raise ConfigurationError(f"--metric {wanted}: no finished run has it"
                                     f"{did_you_mean(wanted, known)}; they have {first_of(known)}")
        return wanted
    chose = {(run.settings.get("training") or {}).get("select_metric") for run in runs}
    own = chose.pop() if len(chose) == 1 else None
    found = [name for name in (own, *METRICS, *known) if name in known]
    if not found:
        raise InputError("none of the finished runs has a number of validation or test")
    return str(found[0])


def _shown(entry: Mapping[str, float | None] | None) -> list[str]:
    """Mean and standard deviation."""
    if entry is None:
        return ["", ""]
    return ["" if value is None else f"{value:.4f}" for value in (entry["mean"], entry["std"])]


def read_tracked(place: str, *, timeout: int = 20) -> list[TrackedRun]:
    """The runs of ``ENTITY/PROJECT`` or ``ENTITY/PROJECT/GROUP``, oldest first.

    Args:
        place: As above.
        timeout: Seconds to wait for the server.

    Raises:
        InputError: The place makes no sense, isn't there or holds no run, there is no key, or the
            server can't be reached.
    """
    entity, project, group = _parts(place)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        api = wandb.Api(overrides={"entity": entity, "project": project}, timeout=timeout,
                        api_key=_key())
        found = [_read(run) for run in api.runs(f"{entity}/{project}", lazy=False,
                                                filters={"group": group} if group else {})]
    except (ValueError, OSError, wandb.errors.Error) as error:
        raise InputError(_told(place, entity, project, error)) from error
    if not found:
        raise InputError(f"{place} holds no run{' of this group' if group else ''}")
    return found


def join_seeds(runs: Sequence[TrackedRun], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each method: runs that differ in nothing but the seed are one.

    Args:
        runs: Finished ones.
        names: Keys of their numbers.

    Returns:
        ``method``, ``runs``, ``seeds`` and, for each name, mean and standard deviation over
        seeds; the latter None for one run.
    """
    methods: dict[str, list[TrackedRun]] = {}
    for run in runs:
        methods.setdefault(_method(run), []).append(run)
    shown = _short_names(methods)
    return [{"method": shown[key], "runs": [run.name for run in members],
             "seeds": [run.seed for run in members],
             **{name: _over(members, name) for name in names}}
            for key, members in methods.items()]


def _parts(place: str) -> tuple[str, str, str | None]:
    parts = place.split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise InputError(f"--wandb {place}: expected ENTITY/PROJECT or ENTITY/PROJECT/GROUP")
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


def _key() -> str:
    key = find_key(server_address())
    if key is None:  # the API would ask for one
        raise InputError("reading from Weights & Biases needs a key: set WANDB_API_KEY, or "
                         "`wandb login`")
    return key


def _read(run: Any) -> TrackedRun:
    numbers = {key: value for key, value in dict(run.summary).items()
               if isinstance(value, int | float) and not isinstance(value, bool)}
    return TrackedRun(name=run.name or run.id, run_id=run.id, group=run.group, arm=run.job_type,
                      state=run.state, settings=dict(run.config), numbers=numbers)


def _told(place: str, entity: str, project: str, error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    if "Could not find project" in text:
        return (f"--wandb {place}: there is no project {project} of {entity}, or this key can't "
                "see it")
    return f"--wandb {place}: the server gave nothing ({text}); see WANDB_BASE_URL and the key"


def _method(run: TrackedRun) -> str:
    if run.arm:
        return f"{run.group}/{run.arm}"
    kept = {key: value for key, value in _flat(run.settings).items()
            if key.split(".")[0] not in _NOT_METHOD}
    return repr(sorted(kept.items(), key=str))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _short_names(methods: Mapping[str, Sequence[TrackedRun]]) -> dict[str, str]:
    """The arm, or the settings that differ between methods."""
    flats = {key: _flat(runs[0].settings) for key, runs in methods.items()}
    differing = [name for name in dict.fromkeys(name for flat in flats.values() for name in flat)
                 if name.split(".")[0] not in _NOT_METHOD
                 and len({repr(flat.get(name)) for flat in flats.values()}) > 1]
    return {key: runs[0].arm or " ".join(f"{name}={flats[key].get(name)}" for name in differing)
            or runs[0].name for key, runs in methods.items()}


def _over(runs: Sequence[TrackedRun], name: str) -> dict[str, float | None] | None:
    values = [float(run.numbers[name]) for run in runs if name in run.numbers]
    if not values:
        return None
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}
