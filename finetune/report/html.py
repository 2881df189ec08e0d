"""The report of a run: one HTML file that asks nothing of any other machine."""

import base64
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup
from PIL import Image

from finetune.errors import DataError
from finetune.evaluation.per_class import measured_by_class
from finetune.evaluation.predictions import Predictions
from finetune.files import write_text
from finetune.looks import count_looks
from finetune.report.drawing import metric_titles
from finetune.report.figures import FIGURES, OF_DECISIONS, reported_part
from finetune.report.mistakes import find_confusions, find_mistakes
from finetune.run_directory import RunDirectory

__all__ = ["write_report"]

ReadPicture = Callable[[str], np.ndarray]
HEADLINE = ("accuracy", "balanced_accuracy", "quadratic_kappa", "mean_absolute_error", "macro_f1",
            "average_precision", "roc_auc")
COLUMNS = {"precision": "precision", "npv": "NPV", "recall": "recall",
           "specificity": "specificity", "f1": "F1", "roc_auc": "ROC-AUC",
           "average_precision": "average precision", "support": "pictures"}
SPLITS = {"provided": "as the data's own split has it",
          "stratified": "every part with the same mix of classes",
          "group": "no group in two parts", "spatial": "whole blocks of the map in one part",
          "time": "train is oldest, test newest", "site": "test is one site",
          "kfold": "one fold of a cross-validation is test"}
SIDE_BY_SIDE = 12  # classes up to which two matrices stand beside each other
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
    single = "balanced_accuracy" in values
    titles = metric_titles(single=single)
    page = _template().render(
        name=folder.resolve().name, run=shlex.quote(str(folder)), environment=environment,
        part=part, values=values, metrics=metrics, history=run.history,
        settings=_settings(folder), titles=titles, splits=SPLITS, parts=_parts(environment),
        headline={key: titles[key] for key in HEADLINE if key in values},
        intervals=_intervals(metrics, part), unreliable=_unreliable(_intervals(metrics, part)),
        subgroup_columns=_subgroup_columns, decisions=metrics.get("decisions", {}),
        looks=count_looks(run) if part == "test" else 0,
        per_class=measured_by_class(values), per_group=measured_by_class(values.get("groups", {})),
        columns=_columns(values), single=single, absent=_absent(values),
        depths=_depths(environment, run.history), figures=_figures(folder),
        **_wrong(run, values, read_picture))
    return write_text(folder / "report.html", page)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.ChainableUndefined,
                                     loader=jinja2.PackageLoader("finetune", "report"))
    environment.filters["number"] = _number
    environment.filters["spans"] = _spans
    environment.filters["breakable"] = _breakable
    return environment.get_template("report.html.jinja")


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


def _breakable(text: str) -> Markup:
    """The text, escaped, that a browser may wrap where a name's words end.

    >>> _breakable("a_b<")
    Markup('a_<wbr>b&lt;')
    """
    words = re.split(r"(?<=[/_-])(?=.)", text)
    return Markup("<wbr>").join(words)


def _columns(values: dict[str, Any]) -> dict[str, str]:
    """The columns of a table by class; with many classes each, the negative value says nothing."""
    few = "balanced_accuracy" not in values or len(values["per_class"]) == 2
    return {key: title for key, title in COLUMNS.items() if few or key != "npv"}


def _intervals(metrics: dict[str, Any], part: str | None) -> dict[str, Any]:
    """Those of the reported part; a run of an earlier version has none."""
    found: dict[str, Any] = metrics.get("intervals", {}).get(part, {})
    return found


def _unreliable(intervals: dict[str, Any]) -> list[str]:
    """Why headline intervals aren't to be relied on."""
    entries = [intervals[key] for key in HEADLINE if key in intervals]
    reasons = [reason for entry in entries if not entry["reliable"]
               for reason in (entry["why"] or "").split("; ")]
    return list(dict.fromkeys(filter(None, reasons)))[:3]


def _subgroup_columns(found: dict[str, Any]) -> list[str]:
    """The metrics that the values of a column have, in the order of the first."""
    return list(dict.fromkeys(key for row in found["values"] for key in row["metrics"]))


def _absent(values: dict[str, Any]) -> list[str]:
    """Classes of which the part has no picture."""
    return [name for name, row in values.get("per_class", {}).items() if not row["support"]]


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
    paths = {name: folder / "figures" / f"{name}.svg" for name in (*FIGURES, *OF_DECISIONS)}
    found = {name: _uri(path.read_bytes(), "image/svg+xml")
             for name, path in paths.items() if path.exists()}
    for name in ("batch_train", "batch_val", "near_duplicates"):
        path = folder / "figures" / f"{name}.png"
        if path.exists():
            with Image.open(path) as picture:
                found[name] = _jpeg(picture.convert("RGB"), quality=85)
    return found


def _jpeg(picture: Image.Image, *, quality: int) -> str:
    """A data URI; photographs as PNG would make the page several times as large."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return _uri(stream.getvalue(), "image/jpeg")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _wrong(run: RunDirectory, values: dict[str, Any],
           read_picture: ReadPicture | None) -> dict[str, Any]:
    """The worst mistakes and, for so many classes that a matrix is hard to read, confusions."""
    part = reported_part(run)
    found = [] if part is None else find_mistakes(Predictions.load(run.predictions_path(part)),
                                                  count=12)
    pictures = [{**mistake, "picture": _thumbnail(mistake["id"], read_picture)}
                for mistake in found]
    single = "balanced_accuracy" in values
    many = len(values.get("class_names", [])) > SIDE_BY_SIDE
    return {"mistakes": pictures, "side_by_side": not (single and many),
            "confusions": find_confusions(values, count=12) if single and many else []}


def _thumbnail(sample_id: str, read_picture: ReadPicture | None, *, side: int = 256) -> str | None:
    """A JPEG of at most ``side`` pixels as data URI; None when the picture can't be had."""
    if read_picture is None:
        return None
    try:
        pixels = read_picture(sample_id)
    except (DataError, OSError, KeyError):
        return None
    seen = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    picture = Image.fromarray(seen)
    picture.thumbnail((side, side))
    return _jpeg(picture, quality=90)
