"""From Enter to the first training step, and to the answer of ``--help``.

    python benchmarks/startup.py [--data DIR] [--rounds 5] [key=value ...]

Starts ``python -m finetune`` on a small folder of pictures (64 generated ones, unless --data names
others; ResNet-18 at 64 px from random weights, one epoch) on a pseudo terminal, as a person does,
with an empty cache, and notes when its output first shows:

- ``run ...``: everything is read, built and checked;
- a progress bar with a finished batch: the first training step is over.

Rich draws ten times a second, so the second one is late by up to 0.1 s. ``plain torch`` is the same
for a loop that imports torch and timm and takes one step on these pictures: the floor. ``--help``
is the whole command.
"""

import argparse
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import (
    describe_machine,
    environment,
    markdown,
    medians,
    parser_of,
    report,
)

MARKS = {"run": re.compile(rb"(^|\n|\r)run "),
         "first_step": re.compile(rb"\s[1-9]\d*/\d+ batches")}
FLOOR = """
import sys, pathlib, torch, timm
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
paths = sorted(pathlib.Path(sys.argv[1]).glob("*/*.*"))[:32]
images = torch.stack([pil_to_tensor(Image.open(p).convert("RGB").resize((64, 64))) for p in paths])
model = timm.create_model("resnet18", num_classes=2)
optimizer = torch.optim.AdamW(model.parameters())
model(images / 255).square().mean().backward()
optimizer.step()
print("  1/1 batches", flush=True)
"""


def main() -> None:
    """Run the benchmark."""
    options = parse()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or make_pictures(Path(folder) / "pictures", 64)
        for number in range(options.rounds):
            rows.append(measure_round(data, Path(folder) / str(number), options.words))
    middle = medians(rows)
    result = {"machine": describe_machine(), "rounds": rows, "medians": middle}
    report(options, result, markdown(
        ["from Enter to", "s, median", "smallest", "largest"],
        [[name.replace("_", " "), value, *(pick(r[name] for r in rows) for pick in (min, max))]
         for name, value in middle.items()]))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, help="a folder of class folders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("words", nargs="*", help="further key=value for finetune")
    return parser.parse_args()


def make_pictures(folder: Path, count: int, side: int = 64) -> Path:
    """A folder of two classes of small JPEG files, no two alike."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("dark", "light"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        name, low = (("dark", 0), ("light", 96))[i % 2]
        pixels = random.integers(low, low + 160, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{i:06d}.jpg")
    return folder


def measure_round(data: Path, folder: Path, words: Sequence[str]) -> dict[str, float]:
    """Seconds of each kind of start, once."""
    env = environment({"FINETUNE_CACHE": str(folder / "cache")})
    ours = [sys.executable, "-m", "finetune", f"data.root={data}", "model.name=resnet18",
            "model.weights=null", "data.image_size=64", "training.epochs=1",
            "tracking.mode=disabled", f"output_dir={folder / 'runs'}", *words]
    found = watch(ours, MARKS, env)
    floor = watch([sys.executable, "-c", FLOOR, str(data)],
                  {"first_step": MARKS["first_step"]}, env)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "finetune", "--help"], stdout=subprocess.DEVNULL,
                   check=True, env=env)
    return {"help": time.perf_counter() - started, "run_line": found["run"],
            "first_step": found["first_step"], "plain_torch_first_step": floor["first_step"]}


def watch(command: Sequence[str], marks: Mapping[str, re.Pattern[bytes]],
          env: Mapping[str, str]) -> dict[str, float]:
    """Seconds until each mark appears on the command's terminal; ends it after the last.

    Raises:
        SystemExit: The command ended before.
    """
    leader, follower = pty.openpty()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower,
                               env={**env, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"})
    os.close(follower)
    seen, found = b"", {}
    try:
        while len(found) < len(marks):
            seen += read(leader, command, seen)
            now = time.perf_counter() - started
            plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", seen)
            found |= {n: now for n, mark in marks.items() if n not in found and mark.search(plain)}
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    return found


def read(leader: int, command: Sequence[str], seen: bytes) -> bytes:
    """What the terminal shows next."""
    try:
        ready, _, _ = select.select([leader], [], [], 600)
        more = os.read(leader, 65536) if ready else b""
    except OSError:  # the other side is closed
        more = b""
    if not more:
        raise SystemExit(f"{' '.join(command)} ended or hung before its first step:\n"
                         f"{seen.decode(errors='replace')[-3000:]}")
    return more


if __name__ == "__main__":
    main()
