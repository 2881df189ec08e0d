"""Pictures a second: reading and augmentation here against Pillow + torchvision's v2 transforms.

    python benchmarks/input.py [--data DIR] [--rounds 7] [--json FILE]

One process, one thread. Sources are JPEG files (quality 90, colour halved) of 64, 256 and 1024 px:
mosaics of the JPEG files under DIR, cut to size (64 px: shrunk), or generated scenes. The network's
size is 64 px for 64 px sources, else 224. Both sides read the same files, in rounds that take
turns; the ratio is the median of the rounds' ratios.

- same steps: a random part of 35-100 % at the network's size, mirrored in half of the cases, as
  a uint8 tensor (torchvision: RandomResizedCrop, RandomHorizontalFlip, ToImage).
- with colour: the preset ``natural`` against the same and ColorJitter.
- packed: ``natural``'s pictures in a pack, same steps; writing it is reported beside.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from finetune.data.loading import ImageDataset
from finetune.data.packing import PackForm, open_pack, plan_pack
from finetune.data.samples import FolderSource, Samples
from finetune.data.scanning import scan_pictures
from finetune.data.transforms import Transform, build_transform
from finetune.specs import Dtype, InputSpec, LabelKind, LabelSpec

SIZES = {64: 64, 256: 224, 1024: 224}  # px of the source: px of the network
AREA, RATIO = (0.35, 1.0), (0.75, 4 / 3)
Reader = Callable[[int], Any]


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for side in SIZES
                for row in measure(side, Path(folder), options)]
    print(f"\n{options.data or 'generated scenes'}; {machine()}")
    print("| source | work | here, pictures/s | Pillow + torchvision | ratio |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['source']} px | {row['work']} | {row['here']:.0f} | {row['peer']:.0f} | "
              f"{row['ratio']:.1f} ({min(row['ratios']):.1f}-{max(row['ratios']):.1f}) |")
    if options.json:
        told = {"machine": machine(), "data": options.data, "rounds": options.rounds, "rows": rows}
        Path(options.json).write_text(json.dumps(told, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="a folder with JPEG files, searched in depth")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=48, help="in a round")
    parser.add_argument("--json", help="write the numbers to this file")
    return parser.parse_args()


def machine() -> str:
    """Processor, versions and commit."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], text=True,
                               capture_output=True, cwd=Path(__file__).parent)
    return (f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread, torch "
            f"{torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__},"
            f" commit {described.stdout.strip() or 'unknown'}")


def measure(side: int, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one size of source."""
    root = folder / str(side)
    write_sources(root, side, options)
    size = SIZES[side]
    spec = InputSpec((size, size), 3, ("r", "g", "b"), Dtype.uint8, (0.0, 255.0), (0.5,) * 3,
                     (0.2,) * 3)
    natural = build_transform("natural", spec, train=True)
    plain = Transform(spec, "plain", natural.steps[:2], natural.enough)
    samples = samples_in(root)
    peers = {"same steps": peer(root, samples.ids, size, colour=False),
             "with colour": peer(root, samples.ids, size, colour=True)}
    work = {"same steps": (reader(samples, spec, plain), peers["same steps"]),
            "with colour": (reader(samples, spec, natural), peers["with colour"])}
    if side == 1024:
        packed, seconds = pack(samples, spec, natural, folder)
        work[f"packed, same steps (written in {1000 * seconds:.1f} ms a picture)"] = (
            reader(packed, spec, plain), peers["same steps"])
    return [compared(side, name, *pair, options) for name, pair in work.items()]


def write_sources(root: Path, side: int, options: argparse.Namespace) -> None:
    """JPEG files of ``side`` x ``side`` px."""
    root.mkdir()
    files = sorted(p for p in Path(options.data).rglob("*") if p.suffix.lower() in (
        ".jpg", ".jpeg")) if options.data else []
    random = np.random.default_rng(side)
    for number in range(options.pictures):
        pixels = mosaic(files, side, random) if files else scene(side, random)
        Image.fromarray(pixels).save(root / f"{number:03d}.jpg", quality=90, subsampling=2)


def mosaic(files: list[Path], side: int, random: np.random.Generator) -> np.ndarray:
    """Pictures beside and below each other, cut to size; one alone is shrunk."""
    def one() -> Image.Image:
        return Image.open(files[random.integers(len(files))]).convert("RGB")

    first = one()
    if min(first.size) >= side:
        return np.asarray(first.resize((side, side), Image.Resampling.LANCZOS))
    canvas = Image.new("RGB", (side, side))
    for top in range(0, side, first.height):
        for left in range(0, side, first.width):
            canvas.paste(one().resize(first.size), (left, top))
    return np.asarray(canvas)


def scene(side: int, random: np.random.Generator) -> np.ndarray:
    """Waves, an edge and noise."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(random.uniform(3, 60) * x + random.uniform(3, 60) * y) for _ in range(3)]
    pixels = 128 + 70 * np.stack(waves, -1) + random.normal(0, 12, (side, side, 1))
    return (pixels + 40 * (x > y)[..., None]).clip(0, 255).astype(np.uint8)


def samples_in(root: Path) -> Samples:
    """The files as one part of a data set."""
    ids = sorted(p.name for p in root.iterdir())
    return Samples(ids, np.zeros(len(ids), np.int64), LabelSpec(LabelKind.single, ("a", "b")),
                   FolderSource(str(root)))


def reader(samples: Samples, spec: InputSpec, transform: Transform) -> Reader:
    """Reads and augments a picture as training does."""
    dataset = ImageDataset(samples, spec=spec, transform=transform, decoding="scaled")
    return lambda number: dataset[(number % len(dataset), number)]


def peer(root: Path, ids: list[str], size: int, *, colour: bool) -> Reader:
    """The same by Pillow and torchvision."""
    jitter = [v2.ColorJitter(0.25, 0.25, 0.2, 0.02)] if colour else []
    transform = v2.Compose([v2.RandomResizedCrop(size, scale=AREA, ratio=RATIO, antialias=True),
                            v2.RandomHorizontalFlip(), *jitter, v2.ToImage()])

    def read(number: int) -> torch.Tensor:
        with Image.open(root / ids[number % len(ids)]) as image:
            return transform(image.convert("RGB"))

    return read


def pack(samples: Samples, spec: InputSpec, transform: Transform,
         folder: Path) -> tuple[Samples, float]:
    """The samples with their pictures in a pack; seconds a picture to write it."""
    form = PackForm(transform.at_least, spec.channels, spec.dtype, spec.interpolation)
    facts = scan_pictures(samples.source, samples.ids)
    plan = plan_pack("auto", facts=facts, form=form, epochs=10, folder=folder / "packs")
    assert plan.path is not None, plan.reason
    started = time.perf_counter()
    source, _ = open_pack(plan, samples.source, samples.ids, form)
    seconds = (time.perf_counter() - started) / len(samples)
    return Samples(samples.ids, samples.labels, samples.label_spec, source), seconds


def compared(side: int, work: str, here: Reader, there: Reader,
             options: argparse.Namespace) -> dict[str, Any]:
    """Pictures a second of both, in rounds that take turns."""
    rates = []
    for turn in range(options.rounds + 1):  # the first warms up
        numbers = range(turn * options.pictures, (turn + 1) * options.pictures)
        rates.append([rate(each, numbers) for each in (here, there)])
    ours, peers = zip(*rates[1:], strict=True)
    ratios = [a / b for a, b in zip(ours, peers, strict=True)]
    return {"source": side, "work": work, "here": statistics.median(ours),
            "peer": statistics.median(peers), "ratio": statistics.median(ratios), "ratios": ratios}


def rate(read: Reader, numbers: range) -> float:
    """Pictures a second."""
    started = time.perf_counter()
    for number in numbers:
        read(number)
    return len(numbers) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
