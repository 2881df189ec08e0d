"""The page of a folder of runs: members of studies and of folds below what they belong to."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import InputError
from finetune.files import read_json
from finetune.report.runs_page import MARK, write_runs_page
from finetune.run_directory import STUDY
from finetune.runs_index import RunRow

__all__ = ["find_comparisons", "group_rows", "write_index"]

SKIPPED = {"checkpoints", "predictions", "figures", "wandb", "pictures"}


def write_index(folder: Path, rows: Sequence[RunRow], *, metric: str) -> Path:
    """Write ``index.html`` into a folder, with links to what lies in it.

    Args:
        folder: Where the runs lie.
        rows: Of `finetune.runs_index.list_runs`, in their order.
        metric: That is shown.

    Raises:
        InputError: There is an ``index.html`` of something else.
    """
    path = folder / "index.html"
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{path} is no index of runs; it is left as it is: rename it, or list "
                         "another folder")
    return write_runs_page(path, name=folder.resolve().name, metric=metric,
                           rows=group_rows(folder, rows, metric=metric),
                           comparisons=find_comparisons(folder))


def group_rows(folder: Path, rows: Sequence[RunRow], *, metric: str) -> list[dict[str, Any]]:
    """Rows as plain values, each study or run of folds before its members, and these in order.

    ``name`` is the path below the folder, ``parent`` that of what it belongs to or nothing,
    ``depth`` how many of these there are, ``is_run`` false where a row only stands for its members.
    """
    plain = {row.name: _plain(folder, row, metric) for row in rows}
    children: dict[str, list[str]] = {}
    for row in rows:
        parent = ""
        for name in [*_around(folder, row.name, plain), row.name]:
            plain.setdefault(name, _heading(folder, name))
            if name not in children.setdefault(parent, []):
                children[parent].append(name)
            parent = name
    return list(_flat(plain, children, "", 0))


def _around(folder: Path, name: str, known: Mapping[str, Any]) -> list[str]:
    """What a run lies in, from the outside: studies, and runs that hold others."""
    above = [path.as_posix() for path in reversed(Path(name).parents) if path != Path(".")]
    return [each for each in above if each in known or (folder / each / STUDY).is_file()
            or (folder / each / "config.yaml").is_file()]


def _flat(plain: Mapping[str, dict[str, Any]], children: Mapping[str, Sequence[str]],
          parent: str, depth: int) -> Iterator[dict[str, Any]]:
    for name in children.get(parent, []):
        label = name.removeprefix(f"{parent}/")
        yield {**plain[name], "parent": parent, "depth": depth, "label": label,
               "members": len(children.get(name, []))}
        yield from _flat(plain, children, name, depth + 1)


def _plain(folder: Path, row: RunRow, metric: str) -> dict[str, Any]:
    ends = (row.intervals or {}).get(metric) or {}
    name = Path(row.name).as_posix()
    return {"name": name, "is_run": True, "state": row.state, "recipe": row.recipe,
            "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(row.started)),
            "rehearsal": row.rehearsal, "model": row.model, "seed": row.seed, "part": row.part,
            "value": row.value(metric), "low": ends.get("low"), "high": ends.get("high"),
            "reliable": ends.get("reliable", True), "problem": row.problem,
            "link": _link(folder, f"{name}/report.html")}


def _heading(folder: Path, name: str) -> dict[str, Any]:
    """A row for what only holds runs that are shown."""
    is_study = (folder / name / STUDY).is_file()
    return {"name": name, "is_run": False, "state": "study" if is_study else "not listed",
            "link": _link(folder, f"{name}/report.html")}


def _link(folder: Path, name: str) -> str | None:
    return name if (folder / name).is_file() else None


def find_comparisons(folder: Path) -> list[dict[str, Any]]:
    """Comparisons below a folder that have a page, the newest first; broken ones are left out."""
    found = []
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if name not in SKIPPED and name[0] != ".")
        if {"comparison.html", "comparison.json"} <= set(files):
            path = Path(place) / "comparison.json"
            try:
                told = _comparison(read_json(path))
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                continue
            name = path.parent.relative_to(folder).as_posix()
            found.append((path.stat().st_mtime, {
                **told, "name": name, "link": f"{name}/comparison.html",
                "written": time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))}))
    return [told for _, told in sorted(found, key=lambda each: -each[0])]


def _comparison(result: Mapping[str, Any]) -> dict[str, Any]:
    metric = result["metric"]
    words = [f"{pair['first']} against {pair['second']}: "
             f"{pair['metrics'][metric]['verdict']['words'].partition('; about')[0]}"
             for pair in result["comparisons"]]
    return {"methods": [row["name"] for row in result["methods"]], "metric": metric,
            "pictures": result["pictures"], "rehearsal": result["rehearsal"],
            "words": words[0] if len(words) == 1 else ""}
