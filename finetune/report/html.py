"""The report of a run: one HTML file that asks nothing of any other machine."""

import base64
import io
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from PIL import Image

from finetune.errors import DataError
from finetune.evaluation.predictions import Predictions
from finetune.files import write_text
from finetune.report.figures import FIGURES, reported_part
from finetune.report.mistakes import find_mistakes
from finetune.run_directory import RunDirectory

__all__ = ["write_report"]

ReadPicture = Callable[[str], np.ndarray]
HEADLINE = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy",
            "macro_f1": "Macro F1", "average_precision": "Average precision",
            "roc_auc": "ROC-AUC"}
FURTHER = {"micro_f1": "Micro F1", "cohen_kappa": "Cohen's kappa", "mcc": "Matthews correlation",
           "top_3_accuracy": "Top-3 accuracy", "log_loss": "Log loss", "brier": "Brier score",
           "ece": "Expected calibration error"}
PARTS = ("train", "val", "test")


def write_report(folder: Path, read_picture: ReadPicture | None = None) -> Path:
    """Write ``report.html`` from the run directory; what is missing there is left out.

    Args:
        folder: The run directory, with its figures.
        read_picture: Gives a picture (H, W, C) uint8 by its id; without it, the worst mistakes
            are listed without pictures.

    Returns:
        The file.
    """
    run = RunDirectory(folder)
    environment = _optional(run, "environment")
    metrics = _optional(run, "metrics")
    part = next((p for p in ("test", "val") if p in metrics), None)
    values = metrics.get(part, {}) if part else {}
    page = _template().render(
        name=folder.resolve().name, run=str(folder), environment=environment, part=part,
        values=values, metrics=metrics, history=run.history, settings=_settings(folder),
        headline=_shown(values, HEADLINE), further=_shown(values, FURTHER),
        all_scalars={**HEADLINE, **FURTHER}, parts=_parts(environment),
        depths=_depths(environment, run.history), figures=_figures(folder),
        mistakes=_mistakes(run, read_picture))
    return write_text(folder / "report.html", page)


def _template() -> jinja2.Template:
    source = (files("finetune.report") / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.ChainableUndefined)
    environment.filters["number"] = _number
    environment.filters["spans"] = _spans
    return environment.from_string(source)


def _optional(run: RunDirectory, name: str) -> dict[str, Any]:
    """``environment`` or ``metrics``, empty when the run has none yet."""
    return getattr(run, name) if (run.path / f"{name}.json").exists() else {}


def _settings(folder: Path) -> dict[str, Any]:
    """``config.yaml`` as plain values; shown, never acted on."""
    path = folder / "config.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> str:
    """A number for a table: three decimals, thousands apart, a dash when it is not defined."""
    if value is None or isinstance(value, jinja2.Undefined):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
    return f"{value:,}".replace(",", "\u2009") if isinstance(value, int) else str(value)


def _spans(numbers: list[int]) -> str:
    """Ranges of whole numbers.

    >>> _spans([1, 2, 3, 7])
    '1–3, 7'
    """
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in ranges)


def _shown(values: dict[str, Any], names: dict[str, str]) -> dict[str, float | None]:
    return {title: values[key] for key, title in names.items() if key in values}


def _parts(environment: dict[str, Any]) -> list[str]:
    """The parts that have pictures."""
    rows = environment.get("data", {}).get("classes", {}).values()
    return [part for part in PARTS if any(row.get(part) for row in rows)]


def _depths(environment: dict[str, Any], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The depth table, each row with the epochs in which it trained; the classifier first."""
    rows = [{**row, "epochs": [entry["epoch"] for entry in history
                               if row["depth"] in entry.get("trainable_depths", [])]}
            for row in environment.get("depths", [])]
    return rows[::-1]


def _figures(folder: Path) -> dict[str, str]:
    """Data URIs of the figures that exist."""
    paths = {name: folder / "figures" / f"{name}.svg" for name in FIGURES}
    found = {name: _uri(path.read_bytes(), "image/svg+xml")
             for name, path in paths.items() if path.exists()}
    for name in ("batch_train", "batch_val"):
        path = folder / "figures" / f"{name}.png"
        if path.exists():
            found[name] = _uri(path.read_bytes(), "image/png")
    return found


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _mistakes(run: RunDirectory, read_picture: ReadPicture | None) -> list[dict[str, Any]]:
    part = reported_part(run)
    if part is None:
        return []
    found = find_mistakes(Predictions.load(run.predictions_path(part)), count=12)
    return [{**mistake, "picture": _thumbnail(mistake["id"], read_picture)} for mistake in found]


def _thumbnail(sample_id: str, read_picture: ReadPicture | None, *, side: int = 128) -> str | None:
    """A JPEG of at most ``side`` pixels as data URI; None when the picture can't be had."""
    if read_picture is None:
        return None
    try:
        pixels = read_picture(sample_id)
    except (DataError, OSError, KeyError):
        return None
    seen = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    picture, stream = Image.fromarray(seen), io.BytesIO()
    picture.thumbnail((side, side))
    picture.save(stream, "JPEG", quality=85)
    return _uri(stream.getvalue(), "image/jpeg")
