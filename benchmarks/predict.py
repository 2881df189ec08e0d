"""``predict`` on 100,000 pictures: memory, a kill and its resume; its speed beside a plain loop.

    python benchmarks/predict.py [--pictures 100000] [--rounds 3] [--seed 0]

**Many pictures.** A small network (ResNet-10-T, 32 px) is trained for an epoch on generated
pictures. N JPEG files of 64 px in folders of 1000 (2000 different ones under many names) go through
the command twice: left alone, and killed with SIGKILL at a random moment, then resumed. The
resident set of the process is read five times a second, with the number of rows that are written:
flat means that it doesn't grow with them. A row is lost where a name is missing, doubled where it
is there twice; both have to be 0, and rows have to be in the order of the names.

**Speed.** ``predict`` and the loop that people write, in turn, for the small network (JPEG of
64 px) and for ResNet-18 at 224 px (JPEG of 320 px): Pillow, torchvision's Resize, ToTensor and
Normalize in a DataLoader with as many workers as ``predict`` has threads, timm's network in eval
mode, softmax, a CSV writer; no decisions, no warnings, nothing that survives a kill, and nothing of
this project.
Rates are of the loops, from the first picture to the last row, without imports and loading. The
ratio is the median over rounds of neighbours. Probabilities of both have to agree to 1e-4.
"""

import csv
import itertools
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import (
    describe_machine,
    environment,
    markdown,
    medians,
    parser_of,
    ratio_of_rounds,
    report,
)

SHOWN = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of the rows at which memory is told
PLAIN = """
import csv, json, pathlib, sys, time
import timm, torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
run, folder, output, name, workers = pathlib.Path(sys.argv[1]), *sys.argv[2:]
told = json.loads((run / "environment.json").read_text())
spec, classes = told["input_spec"], told["label_spec"]["class_names"]
class Pictures(Dataset):
    def __init__(self, paths):
        self.paths, self.prepare = paths, transforms.Compose([
            transforms.Resize(spec["size"]), transforms.ToTensor(),
            transforms.Normalize(spec["mean"], spec["std"])])
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, index):
        with Image.open(self.paths[index]) as image:
            return self.prepare(image.convert("RGB")), index
model = timm.create_model(name, num_classes=len(classes))
model.load_state_dict(load_file(run / "checkpoints" / "best.safetensors"))
model.eval()
paths = sorted(map(str, pathlib.Path(folder).rglob("*.jpg")))
loader = DataLoader(Pictures(paths), batch_size=32, num_workers=int(workers))
began = time.perf_counter()
with open(output, "w", newline="") as stream, torch.inference_mode():
    rows = csv.writer(stream)
    rows.writerow(["path", "predicted", *(f"probability_{c}" for c in classes)])
    for images, places in loader:
        odds = model(images).softmax(1)
        rows.writerows([paths[i], classes[k], *p] for i, k, p in zip(
            places.tolist(), odds.argmax(1).tolist(), odds.tolist()))
print("loop seconds", time.perf_counter() - began)
"""
OURS = """
import sys, time
from finetune.__main__ import main
from finetune.prediction import predicting
real = predicting._write_rows
def timed(*words):
    began = time.perf_counter()
    counts = real(*words)
    print("loop seconds", time.perf_counter() - began)
    return counts
predicting._write_rows = timed
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Case:
    """A network and pictures to time."""

    model: str
    size: int     # of the network's input, in pixels
    side: int     # of the files, in pixels
    pictures: int


CASES = (Case("resnet10t", 32, 64, 10_000), Case("resnet18", 224, 320, 500))


@dataclass
class Watched:
    """What a command did: seconds, exit code, and its memory beside its rows."""

    seconds: float = 0.0
    code: int = 0
    series: list[tuple[int, float]] = field(default_factory=list)  # rows, MiB


def main() -> int:
    """Run the benchmark; 3 when a row was lost, doubled or out of order, or answers differ."""
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many, speed = [], []
        if options.pictures:
            many = predict_many(folder, options)
        for case in CASES if options.rounds else ():
            speed.append(measure_speed(folder, case, options))
    report(options, {"machine": describe_machine(), "many": many, "speed": speed},
           tables(many, speed))
    sound = (all(r["ordered"] and not r["lost"] + r["doubled"] for r in many)
             and all(r["largest_difference"] < 1e-4 for r in speed))
    return 0 if sound else 3


def parse() -> Any:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--pictures", type=int, default=100_000, help="N; 0: only speed")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed; 0: only N pictures")
    parser.add_argument("--workers", type=int, default=1, help="that read pictures, in both")
    parser.add_argument("--share", type=float, default=1.0, help="of the pictures timed for speed")
    parser.add_argument("--seed", type=int, default=0, help="of the moment of the kill")
    return parser.parse_args()


def tables(many: list[dict[str, Any]], speed: list[dict[str, Any]]) -> str:
    """Both results as Markdown."""
    shares = [f"MiB at {share:.0%}" for share in SHOWN]
    first = markdown(
        ["", "pictures", "seconds", "lost", "doubled", "in order", *shares, "largest"],
        [[r["what"], r["pictures"], r["seconds"], r["lost"], r["doubled"],
          "yes" if r["ordered"] else "no", *r["mib"], r["largest_mib"]] for r in many])
    second = markdown(
        ["network", "pixels", "files", "pictures", "plain, pictures/s", "predict, pictures/s",
         "ratio", "largest difference"],
        [[r["model"], r["size"], r["side"], r["pictures"], r["plain"], r["predict"], r["ratio"],
          f"{r['largest_difference']:.1e}"] for r in speed])
    return f"{first}\n\n{second}"


def make_pictures(folder: Path, count: int, side: int, different: int) -> Path:
    """JPEG files in folders of 1000; beyond ``different`` they are links to others."""
    import numpy as np
    from PIL import Image

    chance, originals = np.random.default_rng(side), []
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < different:
            coarse = chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((side, side)).save(path, quality=85)
            originals.append(path)
        else:
            path.hardlink_to(originals[number % different])
    return folder


def train(folder: Path, model: str, size: int) -> Path:
    """A run of one epoch on 60 pictures of two classes."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(1)
    for number in range(60):
        path = folder / "train" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 150, (48, 48, 3)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    words = [f"data.root={folder / 'train'}", f"output_dir={folder / model}", f"model.name={model}",
             "model.weights=null", f"data.image_size={size}", "training.epochs=1", "device=cpu",
             "tracking.mode=disabled", "data.batch_size=8", "data.resize=squash"]
    subprocess.run([sys.executable, "-m", "finetune", *words], check=True, env=environment(),
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return next((folder / model).glob("*/config.yaml")).parent


# ---- many pictures


def predict_many(folder: Path, options: Any) -> list[dict[str, Any]]:
    """The command left alone, and killed and resumed."""
    run = train(folder, "resnet10t", 32)
    pictures = make_pictures(folder / "many", options.pictures, 64, 2000)
    names = sorted(map(str, pictures.rglob("*.jpg")))
    words = [sys.executable, "-m", "finetune", "predict", str(run), str(pictures), "--workers",
             str(options.workers), "--output"]
    whole, other = folder / "whole.csv", folder / "killed.csv"
    alone = watched([*words, str(whole)], whole)
    until = int(len(names) * random.Random(options.seed).uniform(0.3, 0.7))
    first = watched([*words, str(other)], other, kill_at=until)
    second = watched([*words, str(other), "--resume"], other)
    return [judged("`predict`", names, whole, [alone]),
            judged(f"killed at {first.series[-1][0]} rows, resumed", names, other,
                   [first, second])]


def watched(words: list[str], output: Path, *, kill_at: int | None = None) -> Watched:
    """A command and its memory; killed once so many rows are in its partial file.

    Raises:
        SystemExit: It failed.
    """
    found, started, rows = Watched(), time.perf_counter(), Growing(Path(f"{output}.partial"))
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        found.series.append((rows.count(), resident_mib(process.pid)))
        if kill_at is not None and found.series[-1][0] > kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.2)
    found.seconds, found.code = time.perf_counter() - started, process.returncode
    if kill_at is None and found.code:
        raise SystemExit(f"{' '.join(words[:6])} ... ended with {found.code}")
    return found


class Growing:
    """Rows of a file that grows, each read once."""

    def __init__(self, path: Path) -> None:
        self.path, self.place, self.ends = path, 0, 0

    def count(self) -> int:
        """Rows so far, without the header."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                stream.seek(self.place)
                new = stream.read()
            self.place, self.ends = self.place + len(new), self.ends + new.count(b"\n")
        return max(0, self.ends - 1)


def resident_mib(process: int) -> float:
    """Resident set of a process now; 0 where it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def judged(what: str, names: list[str], output: Path, parts: list[Watched]) -> dict[str, Any]:
    """Whether each picture has one row, in order, and how memory went."""
    with output.open(encoding="utf-8", newline="") as stream:
        found = [row[0] for row in itertools.islice(csv.reader(stream), 1, None)]
    series = [pair for part in parts for pair in part.series]
    at = [next((mib for rows, mib in reversed(series) if 0 < rows <= share * len(names) and mib),
               None) for share in SHOWN]
    return {"what": what, "pictures": len(names), "seconds": sum(p.seconds for p in parts),
            "lost": len(set(names) - set(found)), "doubled": len(found) - len(set(found)),
            "ordered": found == names, "mib": at, "largest_mib": max(mib for _, mib in series),
            "series": series}


# ---- speed


def measure_speed(folder: Path, case: Case, options: Any) -> dict[str, Any]:
    """Pictures a second of both, in turn."""
    run = train(folder, case.model, case.size)
    count = int(case.pictures * options.share)
    pictures = make_pictures(folder / f"speed_{case.side}", count, case.side, 200)
    rounds = [{"plain": count / plain_loop(run, pictures, folder / "plain.csv", case, options),
               "predict": count / predict(run, pictures, folder / "ours.csv", options)}
              for _ in range(options.rounds)]
    return {"model": case.model, "size": case.size, "side": case.side, "pictures": count,
            **medians(rounds), "rounds": rounds,
            "ratio": ratio_of_rounds([r["predict"] for r in rounds], [r["plain"] for r in rounds]),
            "largest_difference": difference(folder / "plain.csv", folder / "ours.csv")}


def plain_loop(run: Path, pictures: Path, output: Path, case: Case, options: Any) -> float:
    """Seconds of the loop that people write."""
    return seconds_told(PLAIN, str(run), str(pictures), str(output), case.model,
                        str(options.workers))


def predict(run: Path, pictures: Path, output: Path, options: Any) -> float:
    """Seconds of the command's loop."""
    return seconds_told(OURS, "predict", str(run), str(pictures), "--output", str(output),
                        "--overwrite", "--workers", str(options.workers))


def seconds_told(code: str, *words: str) -> float:
    """What a process says of its loop."""
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment(), check=False,
                          capture_output=True, text=True)
    found = re.search(r"loop seconds (\S+)", done.stdout)
    if done.returncode or found is None:
        raise SystemExit(f"ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return float(found[1])


def difference(plain: Path, ours: Path) -> float:
    """Largest difference of a probability; infinite where the rows are of other pictures."""
    both = []
    for path in (plain, ours):
        with path.open(encoding="utf-8", newline="") as stream:
            both.append([(row["path"], [float(v) for k, v in row.items() if k.startswith(
                "probability_")]) for row in csv.DictReader(stream)])
    if [name for name, _ in both[0]] != [name for name, _ in both[1]]:
        return float("inf")
    return float(max(abs(a - b) for (_, one), (_, two) in zip(*both, strict=True)
                     for a, b in zip(one, two, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
