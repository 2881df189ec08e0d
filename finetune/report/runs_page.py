"""The page of all runs of a folder: a table that sorts and filters, with links to their reports."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finetune.files import write_text
from finetune.report.drawing import metric_titles
from finetune.report.page import render_page

__all__ = ["MARK", "write_runs_page"]

MARK = "<title>finetune runs: "
"""Stands in every such page, and in no other."""


def write_runs_page(path: Path, *, name: str, metric: str, rows: Sequence[Mapping[str, Any]],
                    comparisons: Sequence[Mapping[str, Any]]) -> Path:
    """Write the page; it asks nothing of any other machine.

    Args:
        path: The file; links are relative to its folder.
        name: Of the folder.
        metric: Of the values.
        rows: Of `finetune.runs_tree.group_rows`.
        comparisons: Of `finetune.runs_tree.find_comparisons`.
    """
    return write_text(path, render_page(
        "runs.html.jinja", style="runs.css", name=name,
        title=metric_titles(single=True).get(metric, metric), rows=[_linked(row) for row in rows],
        runs=sum(row["is_run"] for row in rows),
        comparisons=[_linked(each) for each in comparisons]))


def _linked(row: Mapping[str, Any]) -> dict[str, Any]:
    """A relative address that no name can turn into another one."""
    return {**row, "link": quote(os.fsencode(f"./{row['link']}")) if row["link"] else None}
