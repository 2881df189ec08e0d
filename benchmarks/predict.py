"""``predict`` on many pictures: memory, a kill and its resume, and its speed beside a plain loop.

    python benchmarks/predict.py [--pictures 25000] [--side 64] [--seed 0]

A small network is trained on a few generated pictures (32 px). Then N and 4 N generated JPEG files
(64 px; 256 different ones under many names) go through it:

- ``plain loop``: Pillow, torch and a CSV writer in twenty lines, batches of 32, one thread that
  does all; no decisions, no warnings, nothing that survives a kill;
- ``predict``: the command, N pictures;
- ``predict, killed``: 4 N pictures, killed with SIGKILL at a random moment, then resumed.

Memory is the largest resident set of the whole process (the networks' libraries included): flat
means the same for N and 4 N. A row is lost where a name is missing, doubled where it is there
twice; both have to be 0, and rows have to be in the order of the names. Rates are of whole
commands, imports included.
"""

import csv
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import describe_machine, environment, markdown, parser_of, peaks_of_tree, report

DIFFERENT = 256
PLAIN = """
import csv, sys, pathlib, numpy, torch
from PIL import Image
from finetune.run_directory import RunDirectory
from finetune.prediction.network import load_run_model
run, folder, output = RunDirectory.open(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
spec = run.environment["input_spec"]
mean, std = (torch.tensor(spec[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
model = load_run_model(run, torch.device("cpu"))
paths = sorted(folder.iterdir())
with open(output, "w", newline="") as stream, torch.inference_mode():
    rows = csv.writer(stream)
    rows.writerow(["path", "probabilities"])
    for start in range(0, len(paths), 32):
        some = paths[start:start + 32]
        pixels = [numpy.asarray(Image.open(p).convert("RGB").resize(spec["size"], 2)) for p in some]
        images = torch.from_numpy(numpy.stack(pixels)).permute(0, 3, 1, 2) / 255
        odds = model((images - mean) / std).softmax(1).tolist()
        rows.writerows([str(p), *each] for p, each in zip(some, odds))
"""


def main() -> int:
    """Run the benchmark; 3 when a row was lost, doubled or out of order."""
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = train(folder)
        few = make_pictures(folder / "few", options.pictures, options.side)
        many = make_pictures(folder / "many", 4 * options.pictures, options.side)
        rows = [plain_loop(run, few, folder / "plain.csv"),
                predict(run, few, folder / "few.csv"),
                killed(run, many, folder / "many.csv", random.Random(options.seed))]
    report(options, {"machine": describe_machine(), "rows": rows}, markdown(
        ["", "pictures", "pictures a second", "peak MiB", "rows lost", "rows doubled", "in order"],
        [[r["what"], r["pictures"], r["rate"], r["peak_mib"], r["lost"], r["doubled"],
          "yes" if r["ordered"] else "no"] for r in rows]))
    return 0 if all(r["ordered"] and not r["lost"] + r["doubled"] for r in rows) else 3


def parse() -> Any:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--pictures", type=int, default=25_000, help="N")
    parser.add_argument("--side", type=int, default=64, help="of a picture, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the moment of the kill")
    return parser.parse_args()


def make_pictures(folder: Path, count: int, side: int) -> Path:
    """A folder of JPEG files; beyond 256 they are links to others."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:07d}.jpg"
        if number < DIFFERENT:
            pixels = noise.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        else:
            path.hardlink_to(folder / f"{number % DIFFERENT:07d}.jpg")
    return folder


def train(folder: Path) -> Path:
    """A run of one epoch on 60 pictures of two classes."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(1)
    for number in range(60):
        path = folder / "train" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 150, (48, 48, 3)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    words = [f"data.root={folder / 'train'}", f"output_dir={folder / 'runs'}",
             "model.name=resnet10t", "model.weights=null", "data.image_size=32",
             "training.epochs=1", "device=cpu", "tracking.mode=disabled", "data.batch_size=8"]
    subprocess.run([sys.executable, "-m", "finetune", *words], check=True, env=environment(),
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return next((folder / "runs").glob("*/config.yaml")).parent


def plain_loop(run: Path, pictures: Path, output: Path) -> dict[str, Any]:
    """The loop that people write."""
    seconds, peak = watched([sys.executable, "-c", PLAIN, str(run), str(pictures), str(output)])
    return judged("plain loop", pictures, output, seconds, peak)


def command(run: Path, pictures: Path, output: Path, *more: str) -> list[str]:
    """Of ``predict``."""
    return [sys.executable, "-m", "finetune", "predict", str(run), str(pictures), "--output",
            str(output), *more]


def predict(run: Path, pictures: Path, output: Path) -> dict[str, Any]:
    """The command, left alone."""
    seconds, peak = watched(command(run, pictures, output))
    return judged("predict", pictures, output, seconds, peak)


def killed(run: Path, pictures: Path, output: Path, chance: random.Random) -> dict[str, Any]:
    """The command, killed after a random share of its rows, and resumed."""
    count = sum(1 for _ in pictures.iterdir())
    until = int(count * chance.uniform(0.3, 0.7))
    first, before = watched(command(run, pictures, output), rows=until, partial=output)
    there = lines(Path(f"{output}.partial"))
    second, after = watched(command(run, pictures, output, "--resume"))
    found = judged("predict, killed and resumed", pictures, output, first + second,
                   max(before, after))
    return {**found, "rows_before_the_kill": there - 1}


def watched(words: list[str], *, rows: int | None = None,
            partial: Path | None = None) -> tuple[float, float]:
    """Seconds and peak MiB of a command; killed once ``rows`` are in its partial file.

    Raises:
        SystemExit: It failed.
    """
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max([peak, *peaks_of_tree(process.pid).values()])
        if rows is not None and lines(Path(f"{partial}.partial")) > rows:
            process.send_signal(signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.2)
    if rows is None and process.returncode:
        raise SystemExit(f"{' '.join(words[:6])} ... ended with {process.returncode}")
    return time.perf_counter() - started, peak


def lines(path: Path) -> int:
    """Ends of lines in a file; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def judged(what: str, pictures: Path, output: Path, seconds: float,
           peak: float) -> dict[str, Any]:
    """Whether each picture has one row, in order, and how fast that was."""
    wanted = sorted(str(path) for path in pictures.iterdir())
    with output.open(encoding="utf-8", newline="") as stream:
        found = [row[0] for row in itertools.islice(csv.reader(stream), 1, None)]
    return {"what": what, "pictures": len(wanted), "seconds": seconds,
            "rate": len(wanted) / seconds, "peak_mib": peak,
            "lost": len(set(wanted) - set(found)), "doubled": len(found) - len(set(found)),
            "ordered": found == wanted}


if __name__ == "__main__":
    sys.exit(main())
