"""Weights & Biases, private by default: numbers only, and no request at all when offline."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.errors import ConfigurationError, did_you_mean
from finetune.files import write_text
from finetune.training.tracking_server import reasons_against_online, server_address

__all__ = ["Tracker", "TrackingMode", "hashed_id", "private_config", "start_tracking"]

_LATER = "this run is tracked offline and can be sent later with `wandb sync`"
_PRIVATE = {"root", "labels_file", "splits_file", "output_dir", "group_from", "waiver"}
_FILES = {".pt", ".pth", ".th", ".bin", ".ckpt", ".tar", ".safetensors", ".csv", ".npz"}
_OTHER_MODES = {"dryrun": "offline", "run": "online"}  # older words that wandb still takes


class TrackingMode(StrEnum):
    """Where numbers go."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


def hashed_id(sample_id: str, salt: str) -> str:
    """A name for a picture that says nothing about it outside this run.

    >>> len(hashed_id("patient/1.png", "run"))
    16
    """
    return hashlib.sha256(f"{salt}\0{sample_id}".encode()).hexdigest()[:16]


def private_config(config: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """The configuration without paths and reasons, and the keys that were left out.

    An address stays, unless it carries a name, a password or a query.
    """
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            kept[key], inner = private_config(value, f"{prefix}{key}.")
            dropped += inner
        elif value is not None and (key in _PRIVATE or _is_local(key, value)):
            dropped.append(f"{prefix}{key}")
        else:
            kept[key] = value
    return kept, dropped


def _is_local(key: str, value: Any) -> bool:
    if not isinstance(value, str):
        return False
    if "://" in value:
        return value.startswith("file:") or "@" in value or "?" in value
    if value.startswith(("/", "~", ".")) or "\\" in value or Path(value).suffix.lower() in _FILES:
        return True
    return ("/" in value or key == "weights") and os.path.exists(value)


class Tracker:
    """What a run tells Weights & Biases; every method does nothing when tracking is disabled."""

    def __init__(self, run: Any = None, *, warnings: Sequence[str] = (), pictures: bool = False,
                 salt: str = "", restore: Mapping[str, str | None] | None = None) -> None:
        self._run = run
        self._pictures = pictures
        self.salt = salt  # of the hashed ids of this run
        self._restore = dict(restore or {})
        self.warnings = list(warnings)
        self._staged: list[str] = []

    @property
    def run_id(self) -> str | None:
        """The id under which a resumed run goes on."""
        return None if self._run is None else str(self._run.id)

    def log_epoch(self, values: Mapping[str, float], epoch: int) -> None:
        """Numbers of one epoch; ``epoch`` is the step metric."""
        if self._run is not None:
            self._run.log({**values, "epoch": epoch})

    def log_results(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Final metrics as summary, confusion matrix and table per class."""
        if self._run is None:
            return
        import wandb

        for name, value in metrics.items():
            if isinstance(value, int | float):
                self._run.summary[f"{split}/{name}"] = value
        per_class = metrics["per_class"]
        columns = ["class", *next(iter(per_class.values()))]
        rows = [[name, *row.values()] for name, row in per_class.items()]
        logged: dict[str, Any] = {f"{split}/per_class": wandb.Table(columns=columns, data=rows)}
        if "confusion_matrix" in metrics:
            columns, rows = _counts(metrics["class_names"], metrics["confusion_matrix"])
            logged[f"{split}/confusion_matrix"] = wandb.Table(columns=columns, data=rows)
        self._run.log(logged)

    def log_best(self, values: Mapping[str, float]) -> None:
        """Numbers of the chosen epoch as summary keys ``best/…``."""
        if self._run is not None:
            for name, value in values.items():
                self._run.summary[f"best/{name}"] = value

    def log_pictures(self, name: str, images: Sequence[Any], captions: Sequence[str]) -> None:
        """Pictures, only where they were allowed to leave."""
        if self._run is None or not self._pictures:
            return
        import wandb

        self._run.log({name: [wandb.Image(image, caption=text)
                              for image, text in zip(images, captions, strict=True)]})

    def log_model(self, path: Path) -> None:
        """The chosen weights as an artifact."""
        if self._run is None:
            return
        import wandb

        artifact = wandb.Artifact(f"model-{self._run.id}", type="model")
        folder = tempfile.mkdtemp(prefix="finetune-", dir=_neutral_folder())
        with _variables({"WANDB_DATA_DIR": folder}):  # wandb tells the server where its copy lies
            artifact.add_file(str(path), name=path.name)
        if not self._run.offline:
            self._staged.append(folder)  # `wandb sync` needs the others
        self._run.log_artifact(artifact)

    def finish(self, exit_code: int = 0) -> None:
        """Close the run and restore the process's variables."""
        if self._run is not None:
            self._run.finish(exit_code=exit_code)
            self._run = None
        for folder in self._staged:
            shutil.rmtree(folder, ignore_errors=True)
        _put_back(self._restore)
        self._restore, self._staged = {}, []


def _counts(names: Sequence[str], matrix: Sequence[Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a confusion matrix; of several labels, one row a class."""
    counts = np.array(matrix)
    if counts.ndim == 3:
        columns = ["class", "true negatives", "false positives", "false negatives",
                   "true positives"]
        return columns, [[name, *row.ravel().tolist()]
                         for name, row in zip(names, counts, strict=True)]
    return ["actual", "predicted", "count"], [
        [names[i], names[j], int(count)] for (i, j), count in np.ndenumerate(counts)]


def _neutral_folder() -> str | None:
    """Where a copy can lie whose path tells nothing of the user; None: the system's own choice."""
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else None


def start_tracking(folder: Path, *, mode: TrackingMode | str | None, project: str | None,
                   entity: str | None, group: str | None, tags: Sequence[str], notes: str | None,
                   name: str, config: Mapping[str, Any], run_id: str | None, pictures: bool,
                   salt: str, job_type: str | None = None, timeout: float = 20.0,
                   finish_timeout: float = 60.0) -> Tracker:
    """Start tracking in ``folder/wandb``.

    Args:
        folder: The run directory.
        mode: None: the variable WANDB_MODE, else offline. Online falls back to offline when no
            key is set or the server doesn't answer.
        project: None: WANDB_PROJECT, else ``finetune``. Likewise the next four, and ``job_type``.
        entity: User or team.
        group: Name that joins runs.
        tags: Labels of the run.
        notes: Free text.
        name: The run's name, unless WANDB_NAME says another.
        config: Values without paths, from `private_config`.
        run_id: Of a run to continue.
        pictures: Whether pictures may leave the machine.
        salt: For hashed ids; a secret that stays in ``folder/wandb/secret`` is added to it.
        job_type: Kind of run within the group.
        timeout: Seconds to wait for the server.
        finish_timeout: Seconds to wait at the end; what hasn't arrived by then stays in the folder
            and can be sent with ``wandb sync``.

    Raises:
        ConfigurationError: WANDB_MODE is no mode.
    """
    chosen = _mode(mode)
    if chosen is TrackingMode.disabled:
        return Tracker()
    os.makedirs(folder / "wandb", exist_ok=True)
    salt += _secret(folder / "wandb" / "secret")
    user = os.environ.get  # wandb itself looks at these but once in a process
    given = {
        "project": project or user("WANDB_PROJECT") or "finetune",
        "job_type": job_type or user("WANDB_JOB_TYPE"),
        "entity": entity or user("WANDB_ENTITY"), "group": group or user("WANDB_RUN_GROUP"),
        "tags": list(tags) or [tag for tag in user("WANDB_TAGS", "").split(",") if tag] or None,
        "notes": notes or user("WANDB_NOTES"), "name": user("WANDB_NAME") or name,
        "dir": str(folder.resolve()), "config": dict(config), "id": run_id}
    warnings: list[str] = []
    if chosen is TrackingMode.online:
        warnings = [f"{reason}; {_LATER}" for reason in reasons_against_online(timeout)]
        if not warnings:
            run, restore, error = _begin("online", given, (timeout, finish_timeout))
            if run is not None:
                return Tracker(run, pictures=pictures, salt=salt, restore=restore)
            warnings = [f"the tracking server didn't take the run ({error}); {_LATER}"]
    run, restore, error = _begin("offline", given, (timeout, finish_timeout))
    if run is None:
        warnings.append(f"tracking did not start, the run goes on without: {error}")
    return Tracker(run, warnings=warnings, pictures=pictures, salt=salt, restore=restore)


def _mode(mode: TrackingMode | str | None) -> TrackingMode:
    word = mode or os.environ.get("WANDB_MODE") or "offline"
    word = _OTHER_MODES.get(word, word)
    if word not in list(TrackingMode):
        raise ConfigurationError(f"WANDB_MODE={word} is not known{did_you_mean(word, TrackingMode)}"
                                 f"; expected {', '.join(TrackingMode)}, or set tracking.mode")
    return TrackingMode(word)


def _secret(path: Path) -> str:
    """A random word of this run, the same when it is resumed; it never leaves the machine."""
    if not path.exists():
        write_text(path, secrets.token_hex(16))
    return path.read_text(encoding="utf-8")


def _begin(mode: Literal["online", "offline"], given: dict[str, Any], timeouts: tuple[float, float],
           ) -> tuple[Any, dict[str, str | None], str]:
    """The started run (or None), the variables to put back at its end, and why it failed."""
    restore = _set_variables({"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true",
                              "WANDB_MODE": mode})
    import wandb

    resume: Any = "allow" if given["id"] and mode == "online" else None
    try:
        run = wandb.init(**given, mode=mode, resume=resume,
                         settings=_private_settings(wandb, *timeouts))
    except (wandb.errors.Error, OSError) as error:
        _put_back(restore)
        return None, {}, str(error)
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    return run, restore, ""


def _set_variables(values: Mapping[str, str]) -> dict[str, str | None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    return before


def _put_back(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = _set_variables(values)
    try:
        yield
    finally:
        _put_back(before)


def _private_settings(wandb: Any, timeout: float, finish_timeout: float) -> Any:
    return wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, save_code=False,
        disable_job_creation=True, x_disable_meta=True, x_disable_stats=True,
        x_disable_machine_info=True, x_save_requirements=False, host="", username="", email="",
        program="finetune", program_relpath="finetune", program_abspath="finetune",
        init_timeout=timeout, login_timeout=timeout, finish_timeout=finish_timeout,
        base_url=server_address())
