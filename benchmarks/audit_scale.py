"""``audit DIR`` on many pictures: seconds, memory, what is found, and an interruption.

    python benchmarks/audit_scale.py [--pictures 100000] [--copies 500] [--kill-at 0.5]

Generates JPEG files of blobs and noise, all different, and among them changed copies of some: the
kinds of `planted_leaks.py`, each a file of its own, as likely as not in the other class. Then runs
``python -m finetune audit`` on them, with an empty cache, in a process of its own. Measured: wall
seconds until all facts are kept, until all thumbnails are kept, and to the end; process seconds;
the peak resident set of the process and its children (each one's own peak, summed). Found: the
planted pairs, and pairs beyond them.

With ``--kill-at SHARE`` the audit is killed (SIGKILL) once thumbnails of that share of the pictures
are in the cache, and started again. "made anew" counts entries that were in the cache and were
nevertheless computed once more: they are inserted again, which gives them a new row number.
"""

import argparse
import itertools
import json
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
from measuring import (
    describe_machine,
    environment,
    markdown,
    parser_of,
    peaks_of_tree,
    report,
)
from planted_leaks import KINDS, changed

TABLES = {"facts": "pictures.sqlite", "thumbnails": "thumbnails.sqlite"}
Planted = dict[tuple[str, str], str]


def main() -> None:
    """Run the benchmark."""
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted = make_collection(folder / "pictures", options.pictures, options.copies,
                                  options.side, options.seed)
        starts = [] if options.kill_at is None else [
            run_audit(folder, until=round(options.kill_at * options.pictures))]
        starts.append(run_audit(folder))
        result = {"machine": describe_machine(("numpy", "opencv-python-headless", "pillow")),
                  "pictures": options.pictures, "copies": options.copies, "side": options.side,
                  "starts": starts,
                  "made_anew": {name: max(0, count - options.pictures) for name, count
                                in kept_rows(folder / "cache").items()},
                  "page_mib": (folder / "out" / "audit.html").stat().st_size / 2**20,
                  **score(json.loads((folder / "out" / "audit.json").read_text()), planted)}
    report(options, result, table(result))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--pictures", type=int, default=100_000, help="the copies are among them")
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--side", type=int, default=64, help="px")
    parser.add_argument("--kill-at", type=float, metavar="SHARE", help="0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_collection(folder: Path, count: int, copies: int, side: int, seed: int) -> Planted:
    """Two classes of pictures; the pairs of names that are copies, and how they were changed."""
    for label in "ab":
        (folder / label).mkdir(parents=True)
    random = np.random.default_rng(seed)
    sources = set(random.permutation(count - copies)[:copies].tolist())
    originals, planted = {}, {}
    for number in range(count - copies):
        pixels, name = blobs(random, side), place(number, random)
        write(folder / name, pixels, quality=90)
        if number in sources:
            originals[name] = pixels
    for number, (name, pixels) in enumerate(originals.items()):
        kind = list(KINDS)[number % len(KINDS)]
        copy = place(count - copies + number, random)
        write(folder / copy, changed(pixels, kind, random), quality=95)
        planted[name, copy] = kind
    return planted


def place(number: int, random: np.random.Generator) -> str:
    """The name of a file in a class drawn at random."""
    return f"{'ab'[int(random.integers(2))]}/{number:06d}.jpg"


def blobs(random: np.random.Generator, side: int) -> np.ndarray:
    """(side, side, 3) A coarse and a finer layer of blobs, and noise."""
    import cv2

    whole = np.zeros((side, side, 3), np.float32)
    for cells, height in ((5, 90), (16, 60), (side, 12)):
        layer = random.random((cells, cells, 3), dtype=np.float32) - 0.5
        whole += height * cv2.resize(layer, (side, side), interpolation=cv2.INTER_CUBIC)
    return (whole + random.uniform(90, 166)).clip(0, 255).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, quality: int) -> None:
    """A JPEG file."""
    import cv2

    path.write_bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def run_audit(folder: Path, *, until: int | None = None) -> dict[str, Any]:
    """One start; with ``until`` it is killed when so many thumbnails are kept.

    Raises:
        SystemExit: The audit failed, or ended before it could be killed.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    last: dict[str, float | None] = dict.fromkeys(TABLES)
    kept, peaks = kept_rows(folder / "cache"), dict[int, float]()
    with (folder / "log.txt").open("w") as log, audit_process(folder, log) as child:
        while child.poll() is None:
            peaks |= peaks_of_tree(child.pid)
            now = kept_rows(folder / "cache")
            last |= {name: time.perf_counter() - started for name in TABLES
                     if now[name] > kept[name]}
            kept = now
            if until is not None and kept["thumbnails"] >= until:
                child.kill()
                break
            time.sleep(0.2)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if child.returncode != (0 if until is None else -signal.SIGKILL):
        tail = "\n".join((folder / "log.txt").read_text().splitlines()[-25:])
        raise SystemExit(f"the audit ended with {child.returncode}:\n{tail}")
    return {"killed": until is not None, "seconds": seconds, "peak_rss_mib": sum(peaks.values()),
            "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            **{f"{name}_until": value for name, value in last.items()},
            **{f"{name}_kept": value for name, value in kept_rows(folder / "cache").items()}}


def audit_process(folder: Path, log: IO[str]) -> subprocess.Popen[bytes]:
    """The command, as a person starts it."""
    words = [sys.executable, "-m", "finetune", "audit", "pictures", "--output", "out"]
    return subprocess.Popen(words, cwd=folder, stdout=log, stderr=subprocess.STDOUT,
                            env=environment({"FINETUNE_CACHE": str(folder / "cache")}))


def kept_rows(cache: Path) -> dict[str, int]:
    """Rows ever written to each table of the cache, which is more than it has if any came twice."""
    return {table: highest_row(cache / file, table) for table, file in TABLES.items()}


def highest_row(file: Path, table: str) -> int:
    """The largest row number; 0 without a table."""
    if not file.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as base:
            return base.execute(f"SELECT MAX(rowid) FROM {table}").fetchone()[0] or 0
    except sqlite3.OperationalError:  # the table is not there yet
        return 0


def score(told: dict[str, Any], planted: Planted) -> dict[str, Any]:
    """Planted pairs found, by kind, and pairs beyond them."""
    level = {frozenset((p["first"], p["second"])): p["certain"] for p in told["near_duplicates"]}
    level |= {frozenset(pair): True for group in told["identical"]
              for pair in itertools.combinations(group, 2)}
    pairs = {frozenset(names): kind for names, kind in planted.items()}
    kinds = {kind: [level.get(pair) for pair, each in pairs.items() if each == kind]
             for kind in dict.fromkeys(planted.values())}
    return {"found": sum(pair in level for pair in pairs),
            "certain": sum(level.get(pair) is True for pair in pairs),
            "beyond": {word: sum(value is certain for pair, value in level.items()
                                 if pair not in pairs)
                       for word, certain in (("certain", True), ("likely", False))},
            "kinds": {kind: {"copies": len(found), "certain": sum(v is True for v in found),
                             "found": sum(v is not None for v in found)}
                      for kind, found in kinds.items()}}


def table(result: dict[str, Any]) -> str:
    """Starts, kinds of copies, and sentences."""
    starts = markdown(
        ["start", "facts kept, s", "thumbnails kept, s", "ended, s", "CPU s", "peak MiB"],
        [["killed" if row["killed"] else "to the end", row["facts_until"], row["thumbnails_until"],
          row["seconds"], row["cpu_seconds"], row["peak_rss_mib"]] for row in result["starts"]])
    kinds = markdown(["change", "copies", "certain", "certain or likely"],
                     [[kind, row["copies"], row["certain"], row["found"]]
                      for kind, row in result["kinds"].items()])
    again = ", ".join(f"{count} of {name}" for name, count in result["made_anew"].items())
    beyond = ", ".join(f"{count} {level}" for level, count in result["beyond"].items())
    return (f"{starts}\n\n{kinds}\n\n{result['pictures']} pictures of {result['side']} px; of "
            f"{result['copies']} planted copies {result['found']} found, {result['certain']} as "
            f"certain; pairs beyond: {beyond}. Made anew though kept: {again}. The page has "
            f"{result['page_mib']:.2f} MiB.")


if __name__ == "__main__":
    main()
