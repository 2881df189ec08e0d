"""The archive for a reviewer: what a run is, what came out of it, and what CLAIM asks."""

import csv
import hashlib
import zipfile
from pathlib import Path
from typing import BinaryIO

from finetune.console import say
from finetune.errors import InputError, first_of
from finetune.evaluation.intervals import compute_intervals
from finetune.evaluation.predictions import Predictions
from finetune.files import hash_file, write_with
from finetune.looks import count_looks
from finetune.report.claim import Facts, write_claim
from finetune.report.heat_maps import read_heat_maps
from finetune.run_directory import RunDirectory

__all__ = ["read_facts", "write_evidence"]

FILES = ("config.yaml", "environment.json", "history.jsonl", "metrics.json", "report.html",
         "splits.csv")
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file knows


def write_evidence(run: RunDirectory, path: Path) -> Path:
    """Write report, settings, split, metrics, environment, predictions and CLAIM.md as one zip.

    The same run gives the same bytes. ``SHA256SUMS`` lists every file (``sha256sum -c``). The
    weights are not in it; their hash is in CLAIM.md.

    Raises:
        InputError: The file exists, its folder does not, or the run isn't finished.
    """
    if path.suffix != ".zip":
        raise InputError(f"{path}: the archive's name has to end with .zip")
    if path.exists():
        raise InputError(f"{path} exists; choose another name or remove it first")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}; make it first")
    entries = _entries(run)
    write_with(path, lambda stream: _write_zip(stream, entries))
    say(f"wrote {path}: {len(entries)} files, {path.stat().st_size / 1e6:.1f} MB")
    say("It holds the names of all pictures, some pictures (report.html) and folder names "
        "(config.yaml): read it before you hand it out. CLAIM.md says what is left for you.")
    return path


def _entries(run: RunDirectory) -> dict[str, bytes]:
    answers = sorted((run.path / "predictions").glob("*.npz"))
    lacking = [name for name in (*FILES, "checkpoints/best.safetensors")
               if not (run.path / name).is_file()]
    if lacking or not answers:
        raise InputError(f"{run.path} is not finished: {first_of(lacking or ['predictions'])} is "
                         f"missing; python -m finetune resume {run.path}")
    found = {name: (run.path / name).read_bytes() for name in FILES}
    found |= {f"predictions/{path.name}": path.read_bytes() for path in answers}
    found["CLAIM.md"] = write_claim(read_facts(run)).encode()
    sums = [f"{hashlib.sha256(found[name]).hexdigest()}  {name}\n" for name in sorted(found)]
    return {**found, "SHA256SUMS": "".join(sums).encode()}


def read_facts(run: RunDirectory) -> Facts:
    """What is known of a finished run, for the list of CLAIM."""
    metrics = run.metrics
    part = "test" if "test" in metrics else "val"
    intervals = metrics.get("intervals", {}).get(part) or compute_intervals(
        Predictions.load(run.predictions_path(part)), metrics[part])
    return Facts(run.environment, run.settings, metrics, part, intervals,
                 hash_file(run.best_weights), _divided_groups(run.path / "splits.csv"),
                 len(read_heat_maps(run.path)),
                 count_looks(run) if part == "test" else 0,
                 run.read_json("decisions.json") if (run.path / "decisions.json").is_file() else {})


def _divided_groups(path: Path) -> int:
    """How many groups of a splits file have pictures in several parts."""
    parts: dict[str, set[str]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["group"] and row["split"]:  # with apostrophes or without: the same for all
                parts.setdefault(row["group"], set()).add(row["split"])
    return sum(len(found) > 1 for found in parts.values())


def _write_zip(stream: BinaryIO, entries: dict[str, bytes]) -> None:
    """Sorted names, one date, one mode: equal content gives equal bytes."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(entries):
            about = zipfile.ZipInfo(name, LONG_AGO)
            about.compress_type, about.create_system = zipfile.ZIP_DEFLATED, 3
            about.external_attr = 0o100644 << 16
            archive.writestr(about, entries[name], compresslevel=6)
