"""How many different configurations were measured on the same test pictures.

Each finished run adds a line to ``test_looks.jsonl`` in its ``output_dir``: the data's fingerprint
and a digest of the configuration without its seed. The best of many configurations looks better
than it is (Dwork 2015, arXiv 1506.02629); seeds, resumed and repeated measurements don't count.
Each arm of a study counts once, beside the study; runs that search a rate measure no test part.
"""

import dataclasses
import hashlib
import json
import os
from typing import Any

from finetune.composition import dump_config
from finetune.config import Config, TrackingConfig
from finetune.files import parse_json
from finetune.run_directory import RunDirectory

__all__ = ["count_looks", "note_look"]

FILE = "test_looks.jsonl"


def note_look(run: RunDirectory) -> int:
    """Note that a run's test part was measured; how many configurations did so by now.

    Lines are short and appended in one write, so that runs side by side lose none.
    """
    row = {**_look(run), "run": run.name}
    if row not in _rows(run):
        with (run.shelf / FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    return count_looks(run)


def count_looks(run: RunDirectory) -> int:
    """Different configurations that were measured on this run's data, its own included."""
    if not (run.path / "environment.json").exists():
        return 0
    own = _look(run)
    return len({row["configuration"] for row in _rows(run)
                if row["data"] == own["data"]} | {own["configuration"]})


def _look(run: RunDirectory) -> dict[str, str]:
    return {"data": run.environment["data"]["fingerprint"],
            "configuration": _digest(run.config)}


def _digest(config: Config) -> str:
    """Of everything but the seed, where it computes and where it writes."""
    bare = dataclasses.replace(config, seed=0, output_dir="", tracking=TrackingConfig(),
                               device=Config().device)
    return hashlib.sha256(dump_config(bare).encode()).hexdigest()[:16]


def _rows(run: RunDirectory) -> list[dict[str, Any]]:
    """Whole lines of the file; a torn one, of a killed process, is passed over."""
    path = run.shelf / FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"data", "configuration"} <= row.keys():
            rows.append(row)
    return rows
