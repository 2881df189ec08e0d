"""A run directory: where each file lies, and how the readers find it."""

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.composition import dump_config, load_config
from finetune.config import Config
from finetune.errors import FinetuneError, InputError, closest
from finetune.files import hash_file, parse_json, read_json, write_json, write_text
from finetune.recipes import leads_elsewhere, read_yaml

__all__ = ["RunDirectory", "inner_folder"]

STUDY = "study.json"  # lies in the folder around the members of a study
# written before anything is trained; the last one by runs that come back to these weights
HASHED = ("config.yaml", "splits.csv", "checkpoints/start.safetensors")


def inner_folder(name: str) -> str:
    """The name of a folder inside another one, as a file tells it.

    Raises:
        ValueError: It leads elsewhere.
    """
    if leads_elsewhere(name) or "\0" in name or len(name) > 250 or name in ("", "."):
        raise ValueError(f"{name!r} is no folder inside this one")
    return name


@dataclass(frozen=True)
class RunDirectory:
    """One run's files. Everything after training works on this alone."""

    path: Path

    @classmethod
    def create(cls, output_dir: str, name: str) -> "RunDirectory":
        """A new folder ``<name>-<time>-<suffix>``; two runs of one second don't collide.

        Raises:
            InputError: The folder can't be made.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for _ in range(100):
            path = Path(output_dir) / f"{name}-{stamp}-{secrets.token_hex(2)}"
            try:
                path.mkdir(parents=True)
                return cls(path)
            except FileExistsError:
                continue
            except OSError as error:
                raise InputError(f"output_dir={output_dir}: no folder can be made there: "
                                 f"{error.strerror}") from error
        raise FinetuneError(f"no free name for a run in {output_dir}")

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """An existing run.

        Raises:
            InputError: There is none at ``path``; the message names similar ones.
        """
        folder = Path(path).expanduser()
        if (folder / "config.yaml").is_file():
            return cls(folder)
        around = folder.parent if folder.parent.is_dir() else Path(".")
        known = [p.parent.name for p in around.glob("*/config.yaml")]
        near = closest(folder.name, known) or sorted(known)[-3:]
        hint = f"; runs in {around}: {', '.join(near)}" if near else ""
        raise InputError(f"no run in {folder}: config.yaml is missing{hint}")

    @property
    def name(self) -> str:
        """The folder's name; with the one around it where that is a run, a study or holds folds."""
        folder = self.path.resolve()
        above = folder.parent
        is_inside = (above / "config.yaml").is_file() or (above / STUDY).is_file()
        return f"{above.name}-{folder.name}" if is_inside else folder.name

    @property
    def shelf(self) -> Path:
        """The folder in which this run, or the study that it belongs to, stands among others."""
        above = self.path.parent
        return above.parent if (above / STUDY).is_file() else above

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return load_config(self.path / "config.yaml")

    @property
    def settings(self) -> dict[str, Any]:
        """``config.yaml`` as plain values: shown and compared, never acted on.

        Raises:
            InputError: It can't be read.
        """
        path = self.path / "config.yaml"
        try:
            return dict(read_yaml(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise InputError(f"{path} can't be read: {error}") from error

    @property
    def environment(self) -> dict[str, Any]:
        """Command, versions, data, specs, weights, warnings."""
        return self.read_json("environment.json")

    @property
    def whole_environment(self) -> dict[str, Any]:
        """The same of a run that is acted on.

        Raises:
            InputError: What every run writes is missing.
        """
        found, name = self.environment, self.path / "environment.json"
        lacking = [key for key in ("versions", "hardware", "data", "input_spec", "label_spec")
                   if not isinstance(found.get(key), dict)]
        if lacking:
            raise InputError(f"{name} is damaged: {', '.join(lacking)} can't be read")
        return found

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics by part: ``val``, ``test``, and ``selection``."""
        return self.read_json("metrics.json")

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry for each finished epoch."""
        path = self.path / "history.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        try:
            return [parse_json(line) for line in lines]
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); the checkpoint holds the same: remove "
                             f"{self.path / 'report.html'}, then `python -m finetune resume "
                             f"{self.path}` writes it again") from error

    @property
    def last_checkpoint(self) -> Path:
        """Everything that continuing needs."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best_weights(self) -> Path:
        """The chosen weights."""
        return self.path / "checkpoints" / "best.safetensors"

    @property
    def start_weights(self) -> Path:
        """The weights that training started from, in runs that come back to them."""
        return self.path / "checkpoints" / "start.safetensors"

    @property
    def start_classifier(self) -> Path:
        """The classifier that was fitted on them at once, in runs that mix it in."""
        return self.path / "checkpoints" / "start_classifier.safetensors"

    @property
    def familiarity(self) -> Path:
        """Features of the training pictures, from which others are said to be far."""
        return self.path / "familiarity.safetensors"

    @property
    def is_finished(self) -> bool:
        """Whether the report, the last file of a run, is there."""
        return (self.path / "report.html").exists() and (self.path / "metrics.json").exists()

    @property
    def has_folds(self) -> bool:
        """Whether this is the folder around the runs of all folds, ``fold-1`` and so on."""
        return self.config.data.all_folds

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do: every fold, or the random split beside the run, too."""
        compares = self.config.data.compare_random and not self.has_folds
        return self.is_finished and not (compares and "random_split" not in self.metrics)

    def write_config(self, config: Config) -> None:
        """Write ``config.yaml``."""
        write_text(self.path / "config.yaml", dump_config(config))

    def write_environment(self, values: dict[str, Any]) -> None:
        """Write ``environment.json``.

        The first time, when the run begins, hashes of its configuration and split are added, as
        ``files``; ``verify`` compares with them.
        """
        kept = values.get("files") or {name: hash_file(self.path / name) for name in HASHED
                                       if (self.path / name).is_file()}
        write_json(self.path / "environment.json", {**values, "files": kept})

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write ``history.jsonl`` anew, a line an epoch."""
        lines = [json.dumps(entry, allow_nan=False) for entry in history]
        write_text(self.path / "history.jsonl", "".join(f"{line}\n" for line in lines))

    def predictions_path(self, part: str) -> Path:
        """Where the logits of a part are kept."""
        return self.path / "predictions" / f"{part}.npz"

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of the run.

        Raises:
            InputError: It is missing or damaged.
        """
        try:
            return dict(read_json(self.path / name))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.path / name} can't be read ({error}): the run was not "
                             "finished, or the file was damaged since") from error
