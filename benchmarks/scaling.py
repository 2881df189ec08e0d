"""What a picture costs before training, from 1,000 to 100,000 of them: seconds and memory.

    python benchmarks/scaling.py [--largest 100000] [--rounds 1]

Generates 32 px JPEG files, no two alike, and starts a training of resnet10t at 32 px on the first
1,000, 3,000, 10,000 ... of them, each in a process of its own that ends after its first step.
Measured: seconds from the call of `finetune.fit` to the first step's end, torch's import left out;
the part of it that reads pictures; process seconds; peak resident set. "cold" begins with an empty
cache of hashes, "again" with the one that it left. The operating system's own cache of files is
warm, since the files were just written. "each more" is the cost of a picture beyond the smallest
number: where it stays the same, the cost is linear.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from measuring import (
    Clock,
    describe_machine,
    markdown,
    medians,
    parser_of,
    report,
    run_self,
    write_result,
)
from startup import make_pictures


def main() -> None:
    """Run the benchmark, or one of its processes."""
    options = parse()
    if options.result:
        measure_start(options.data, options.result)
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = make_pictures(Path(folder) / "all", options.largest, side=32)
        for count in sizes(options.smallest, options.largest):
            data = link_some(pictures, Path(folder) / str(count), count)
            rows += [{"pictures": count, "start": kind, **row} for kind, row in
                     measure(data, Path(folder) / "cache", options.rounds).items()]
            shutil.rmtree(data)
    result = {"machine": describe_machine(), "rows": rows}
    report(options, result, markdown(
        ["pictures", "start", "s", "reading s", "CPU s", "peak MiB", "ms each more",
         "KiB each more"],
        [[r["pictures"], r["start"], r["seconds"], r["reading_seconds"], r["cpu_seconds"],
          r["peak_rss_mib"], per_picture(rows, r, "seconds", 1000),
          per_picture(rows, r, "peak_rss_mib", 1024)] for r in rows]))


def per_picture(rows: list[dict[str, Any]], row: dict[str, Any], key: str, unit: float,
                ) -> float | None:
    """What a picture beyond the smallest number costs; None for the smallest itself.

    >>> rows = [{"start": "cold", "pictures": n, "seconds": s} for n, s in ((10, 1.0), (20, 2.0))]
    >>> per_picture(rows, rows[1], "seconds", 1000)
    100.0
    """
    first = next(r for r in rows if r["start"] == row["start"])
    more = row["pictures"] - first["pictures"]
    return unit * (row[key] - first[key]) / more if more else None


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--smallest", type=int, default=1000)
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def sizes(smallest: int, largest: int) -> list[int]:
    """1, 3, 10, 30 ... times the smallest, up to the largest.

    >>> sizes(1000, 50000)
    [1000, 3000, 10000, 30000, 50000]
    """
    found = [smallest * factor * 10 ** power for power in range(9) for factor in (1, 3)]
    return [size for size in found if size < largest] + [largest]


def link_some(pictures: Path, folder: Path, count: int) -> Path:
    """A folder with links to the first pictures; hard ones, which are files like any other."""
    for path in sorted(pictures.glob("*/*.jpg"), key=lambda p: p.name)[:count]:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, folder / path.parent.name / path.name)
    return folder


def measure(data: Path, cache: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of a cold start and of one that finds the cache."""
    rows: dict[str, list[dict[str, float]]] = {"cold": [], "again": []}
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        for kind in rows:
            rows[kind].append(run_self(__file__, ["--data", str(data)],
                                       env={"FINETUNE_CACHE": str(cache)}))
    return {kind: medians(found) for kind, found in rows.items()}


def measure_start(data: Path, result: Path) -> None:
    """Start a training and end the process after its first step."""
    import finetune
    from finetune import run as composition
    from finetune.console import EpochLine

    clock, reading = Clock(), Clock()
    read = composition._read_data

    def read_and_measure(*args: Any) -> Any:
        with reading.running():
            return read(*args)

    def end(self: EpochLine, done: int, of: int) -> None:
        clock.stop()
        write_result(result, {**clock.measures(), "reading_seconds": reading.wall})
        shutil.rmtree(runs)
        os._exit(0)

    composition._read_data, EpochLine.batch = read_and_measure, end
    runs = tempfile.mkdtemp()
    clock.start()
    finetune.fit(None, {
        "data.root": str(data), "data.image_size": 32, "model.name": "resnet10t",
        "model.weights": None, "training.epochs": 1, "tracking.mode": "disabled",
        "output_dir": runs})


if __name__ == "__main__":
    main()
