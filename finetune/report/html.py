"""The report of a run: one HTML file that asks nothing of any other machine."""

import shlex
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.evaluation.predictions import Predictions
from finetune.files import write_text
from finetune.looks import count_looks
from finetune.report.answers import describe_answers, describe_numbers
from finetune.report.charts import history_charts
from finetune.report.figures import reported_part
from finetune.report.heat_maps import heat_uris, hits_of
from finetune.report.mistakes import find_mistakes
from finetune.report.page import ReadPicture, Thumbnails, picture_uri, render_page
from finetune.run_directory import RunDirectory

__all__ = ["describe_depths", "describe_part", "read_settings", "write_report"]

SPLITS = {"provided": "as the data's own split has it",
          "stratified": "every part with the same mix of classes",
          "group": "no group in two parts", "spatial": "whole blocks of the map in one part",
          "time": "train is oldest, test newest", "site": "test is one site",
          "kfold": "one fold of a cross-validation is test"}
PARTS = ("train", "val", "test")
PICTURES = 1_900_000  # characters of all pictures; the page stays below 3 MB
SHEET = 300_000       # of these, at most in a sheet of pictures
IN_CELLS = 1_200_000  # of these, at most in cells of the matrix


def write_report(folder: Path, read_picture: ReadPicture | None = None) -> Path:
    """Write ``report.html`` from the run directory; what is missing there is left out.

    Args:
        folder: The run directory, with its figures.
        read_picture: Gives a picture (H, W, C) uint8 by its id; without it, mistakes are listed
            without pictures.

    Returns:
        The file.
    """
    run = RunDirectory(folder)
    environment, metrics = _optional(run, "environment"), _optional(run, "metrics")
    part = next((p for p in ("test", "val") if p in metrics), None)
    figures = _figures(folder)
    selection = metrics.get("selection", {})
    page = render_page(
        "report.html.jinja", name=folder.resolve().name, run=shlex.quote(str(folder)),
        environment=environment, metrics=metrics, history=run.history,
        settings=read_settings(folder), splits=SPLITS, parts=_parts(environment),
        subgroup_columns=_subgroup_columns, decisions=metrics.get("decisions", {}),
        looks=count_looks(run) if part == "test" else 0, figures=figures,
        depths=describe_depths(environment, run.history),
        training=history_charts(run.history, metric=selection.get("metric", "balanced_accuracy"),
                                chosen=selection.get("epoch")),
        **describe_part(run, metrics, part, read_picture, taken=sum(map(len, figures.values()))))
    return write_text(folder / "report.html", page)


def describe_part(run: RunDirectory, metrics: dict[str, Any], part: str | None,
                  read_picture: ReadPicture | None, *, taken: int = 0) -> dict[str, Any]:
    """Numbers and answers of the reported part, and the worst mistakes.

    Args:
        run: Its folder.
        metrics: Its ``metrics.json``, or nothing.
        part: ``test`` or ``val``, or None when there are no metrics yet.
        read_picture: Gives a picture by its id.
        taken: Characters of pictures that the page has already.
    """
    found = describe_numbers(metrics, part)
    stored = reported_part(run)
    if stored is None:
        return found | {"mistakes": [], "hits": [], "gallery": {}}
    predictions = Predictions.load(run.predictions_path(stored))
    heat = heat_uris(run.path)
    taken += sum(map(len, heat.values()))
    worst = Thumbnails(read_picture, room=PICTURES - taken)
    mistakes = [{**mistake, "picture": worst.uri(mistake["id"], side=256, quality=88),
                 "heat": heat.get((mistake["id"], mistake["asked"]))}
                for mistake in find_mistakes(predictions, count=12)]
    taken += sum(len(mistake["picture"] or "") for mistake in mistakes)
    inside = Thumbnails(read_picture, room=min(IN_CELLS, PICTURES - taken))
    decided = metrics.get("decisions", {}) if stored == "test" else {}
    return found | {"mistakes": mistakes, "hits": hits_of(run.path, heat), **describe_answers(
        run.path, predictions, found["values"], thumbnails=inside, decided=decided)}


def _optional(run: RunDirectory, name: str) -> dict[str, Any]:
    """``environment`` or ``metrics``, empty when the run has none yet."""
    return getattr(run, name) if (run.path / f"{name}.json").exists() else {}


def read_settings(folder: Path) -> dict[str, Any]:
    """``config.yaml`` as plain values; shown, never acted on."""
    return RunDirectory(folder).settings if (folder / "config.yaml").exists() else {}


def _subgroup_columns(found: dict[str, Any]) -> list[str]:
    """The metrics that the values of a column have, in the order of the first."""
    return list(dict.fromkeys(key for row in found["values"] for key in row["metrics"]))


def _parts(environment: dict[str, Any]) -> list[str]:
    """The parts that have pictures."""
    rows = environment.get("data", {}).get("classes", {}).values()
    return [part for part in PARTS if any(row.get(part) for row in rows)]


def describe_depths(environment: dict[str, Any],
                    history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The depth table, each row with the epochs in which it trained; the classifier first."""
    rows = [{**row, "epochs": [entry["epoch"] for entry in history
                               if row["depth"] in entry.get("trainable_depths", [])]}
            for row in environment.get("depths", [])]
    return rows[::-1]


def _figures(folder: Path) -> dict[str, str]:
    """Data URIs of the pictures among the figures that exist; the rest is drawn from data."""
    found = {}
    for name in ("batch_train", "batch_val", "near_duplicates"):
        path = folder / "figures" / f"{name}.png"
        if path.exists():
            with Image.open(path) as picture:
                found[name] = _sheet_uri(picture.convert("RGB"))
    return found


def _sheet_uri(sheet: Image.Image) -> str:
    """As good as fits: coarser, then smaller."""
    for quality, scale in ((85, 1), (70, 1), (50, 1), (50, 0.7), (50, 0.5)):
        size = (round(sheet.width * scale), round(sheet.height * scale))
        uri = picture_uri(sheet if scale == 1 else sheet.resize(size), quality=quality)
        if len(uri) <= SHEET:
            break
    return uri
