"""benchmarks/planted_leaks.py on a few generated pictures: it plants, counts and draws."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.data.sample_data import generate_samples

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "planted_leaks.py"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    generate_samples("natural", folder / "data", seed=0)
    done = subprocess.run(
        [sys.executable, SCRIPT, "--data", folder / "data", "--pictures", "60", "--copies", "20",
         "--sheet", folder / "sheet.png", "--output", folder / "out.json"],
        capture_output=True, text=True, check=True)
    return done.stdout, json.loads((folder / "out.json").read_text()), folder


def test_every_kind_of_change_is_planted_and_most_copies_are_found(result):
    told = result[1]
    assert sum(row["copies"] for row in told["kinds"].values()) == 2 * 20  # once more over all
    assert len(told["kinds"]) == 11
    assert told["kinds"]["all copies"]["certain_or_likely"] >= 0.8  # of 64 px


def test_pairs_are_counted_by_what_they_are(result):
    pairs = result[1]["pairs"]
    assert sum(counts["planted"] for counts in pairs.values()) >= 16
    assert result[1]["precision"]["certain"]["without_own"] >= 0.95


def test_the_tables_and_sheets_are_there(result):
    text, told, folder = result
    assert "| crop 5 % | 2 |" in text and f"{told['pictures']} pictures of data" in text
    assert (folder / "sheet.png").exists() and (folder / "sheet-threshold.png").exists()
