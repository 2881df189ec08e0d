"""The report of a cross-validation: all folds' answers pooled, and how the folds differ."""

import shlex
from pathlib import Path
from typing import Any

from finetune.files import write_text
from finetune.report.html import describe_depths, describe_part, read_settings
from finetune.report.page import ReadPicture, render_page
from finetune.run_directory import RunDirectory

__all__ = ["write_folds_report"]

SHOWN = ("accuracy", "balanced_accuracy", "quadratic_kappa", "mean_absolute_error", "macro_f1",
         "average_precision", "roc_auc", "log_loss")


def write_folds_report(folder: Path, read_picture: ReadPicture | None = None) -> Path:
    """Write ``report.html`` of the folder around all folds from its files and theirs.

    Args:
        folder: With pooled ``metrics.json`` and predictions, and ``fold-1`` and so on.
        read_picture: Gives a picture (H, W, C) uint8 by its id; without it, mistakes are listed
            without pictures.

    Returns:
        The file.
    """
    parent = RunDirectory(folder)
    metrics = parent.metrics
    members = [RunDirectory(folder / name) for name in metrics["folds"]["runs"]]
    first = members[0].environment
    found = describe_part(parent, metrics, "test", read_picture)
    spread = metrics["folds"]["test"]
    page = render_page(
        "folds.html.jinja", name=folder.resolve().name, run=shlex.quote(str(folder)),
        environment=parent.environment, first=first, metrics=metrics,
        settings=read_settings(folder), folds=[_fold(member) for member in members],
        shown=[key for key in SHOWN if found["values"].get(key) is not None],
        spread={key: spread[key] for key in found["titles"] if key in spread},
        depths=describe_depths(first, members[0].history), warnings=_of_all(members), **found)
    return write_text(folder / "report.html", page)


def _of_all(members: list[RunDirectory]) -> list[str]:
    """The warnings that every fold has; its own report has all of a fold's."""
    told = [member.environment["warnings"] for member in members]
    return [text for text in told[0] if all(text in others for others in told)]


def _fold(member: RunDirectory) -> dict[str, Any]:
    """What the table tells of a fold, whose own report lies beside this one."""
    metrics, classes = member.metrics, member.environment["data"]["classes"].values()
    return {"name": member.path.name, "link": f"{member.path.name}/report.html",
            "test": metrics["test"], "selection": metrics["selection"],
            "epochs": len(member.history), "trained_on": sum(row.get("train", 0)
                                                             for row in classes),
            "intervals": metrics.get("intervals", {}).get("test", {})}
