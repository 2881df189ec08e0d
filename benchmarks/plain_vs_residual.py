"""Depth, seen: plain and residual networks of growing depth on small pictures.

python data_tools/unpack_jpegs.py cifar10_jpeg.npz cifar10 --per-class 300
python benchmarks/plain_vs_residual.py cifar10/train --out plain_vs_residual

Trains the paper's CIFAR networks (He et al. 2015, arXiv 1512.03385, section 4.2) with and without
shortcuts, everything else alike, and draws training error against depth, and the norm of the
gradient by layer at the start, in the middle and at the end. Writes OUT.json and OUT.png; under 15
minutes on two cores with the defaults.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.files import write_bytes, write_json
from finetune.models.resnet import build_resnet

matplotlib.use("agg")
MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.2435, 0.2616])
COLOURS = {"plain": "#c2410c", "residual": "#1d4ed8"}


def main() -> int:
    """Train all, write figures and numbers."""
    given = read_arguments()
    images, labels = load_pictures(given.folder)
    results = []
    for layers in given.depths:
        for kind in ("plain", "residual"):
            started = time.perf_counter()
            result = train_one(layers, kind, images, labels, given)
            result["seconds"] = round(time.perf_counter() - started, 1)
            print(f"{kind}-{layers}: training error {result['error'][-1]:.3f}, "
                  f"{result['seconds']:.0f} s", flush=True)
            results.append(result)
    settings = {key: getattr(given, key) for key in ("depths", "epochs", "lr", "seed")}
    told = {"settings": settings, "commit": commit(), "torch": torch.__version__,
            "pictures": len(images), "results": results}
    write_json(given.out.with_suffix(".json"), told)
    draw(results, given.out.with_suffix(".png"), len(images))
    return 0


def read_arguments() -> argparse.Namespace:
    """What to train, how long, where to write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder for each class")
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 20, 44])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("plain_vs_residual"))
    return parser.parse_args()


def load_pictures(folder: Path) -> tuple[Tensor, Tensor]:
    """All pictures as normalised (N, 3, 32, 32) float32 and their classes (N,)."""
    paths = sorted(folder.glob("*/*.jpg"))
    names = sorted({path.parent.name for path in paths})
    if len(names) < 2:
        sys.exit(f"{folder} holds no class folders of .jpg pictures; see the head of this file")
    pixels = np.stack([cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in paths])
    images = (torch.from_numpy(pixels).float() / 255 - MEAN) / STD
    return (images.permute(0, 3, 1, 2).contiguous(),
            torch.tensor([names.index(path.parent.name) for path in paths]))


def train_one(layers: int, kind: str, images: Tensor, labels: Tensor,
              given: argparse.Namespace) -> dict[str, Any]:
    """SGD with momentum, cosine, mirrored pictures; the same seed for both kinds."""
    torch.manual_seed(given.seed)
    model = build_resnet(layers, plain=kind == "plain")
    optimizer = torch.optim.SGD(model.parameters(), lr=given.lr, momentum=0.9, weight_decay=1e-4)
    steps = given.epochs * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    norms = {"start": gradient_norms(model, images, labels)}
    losses, errors = [], []
    for epoch in range(given.epochs):
        found = [step(model, optimizer, schedule, images[part], labels[part])
                 for part in torch.randperm(len(images)).split(128) if len(part) == 128]
        losses.append(float(np.mean([loss for loss, _ in found])))
        errors.append(float(np.mean([error for _, error in found])))
        if epoch == given.epochs // 2:
            norms["middle"] = gradient_norms(model, images, labels)
    norms["end"] = gradient_norms(model, images, labels)
    return {"layers": layers, "kind": kind, "loss": losses, "error": errors, "norms": norms}


def step(model: nn.Module, optimizer: torch.optim.Optimizer,
         schedule: torch.optim.lr_scheduler.LRScheduler, images: Tensor,
         labels: Tensor) -> tuple[float, float]:
    """One step; loss and share of wrong answers before it."""
    mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(mirrored).float()
    loss = functional.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return loss.item(), float((logits.argmax(1) != labels).float().mean())


def gradient_norms(model: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Norm of the loss's gradient by each 3x3 convolution's weights, in fp32, on 256 pictures."""
    part = torch.linspace(0, len(images) - 1, 256).long()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.zero_grad()
    functional.cross_entropy(model(images[part]), labels[part]).backward()
    found = [float(m.weight.grad.norm()) for m in model.modules()
             if isinstance(m, nn.Conv2d) and m.weight.grad is not None]
    model.zero_grad()
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])  # looking changes nothing
    return found


def draw(results: list[dict[str, Any]], path: Path, pictures: int) -> None:
    """Curves, error against depth, gradient norms by layer."""
    import io

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    depths = sorted({r["layers"] for r in results})
    for result in results:
        shade = 0.3 + 0.7 * (depths.index(result["layers"]) + 1) / len(depths)
        style = {"color": COLOURS[result["kind"]], "alpha": shade, "lw": 1 + shade,
                 "label": f"{result['kind']}-{result['layers']}"}
        axes[0, 0].plot(range(1, len(result["error"]) + 1), result["error"], **style)
        if result["layers"] == depths[-1]:
            for lower, when in ((axes[1, 0], "start"), (axes[1, 1], "end")):
                norms = result["norms"][when]
                lower.plot(range(1, len(norms) + 1), norms, **style)
    for kind, colour in COLOURS.items():
        ends = [r["error"][-1] for r in results if r["kind"] == kind]
        axes[0, 1].plot(depths, ends, "o-", color=colour, label=kind)
    place = "convolution (1 = stem)"
    titles = (("Training error by epoch", "epoch", "training error"),
              ("Training error in the last epoch", "layers", "training error"),
              (f"Gradient norm at the start, {depths[-1]} layers", place, "norm"),
              (f"Gradient norm at the end, {depths[-1]} layers", place, "norm"))
    for axis, (title, x, y) in zip(axes.flat, titles, strict=True):
        axis.set(title=title, xlabel=x, ylabel=y, yscale="log" if y == "norm" else "linear")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    axes[0, 1].set_xticks(depths)
    figure.suptitle(f"Plain and residual networks on {pictures:,} CIFAR-10 pictures")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90)
    write_bytes(path, stream.getvalue())


def commit() -> str:
    """The commit that this was run at."""
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                           text=True, check=False, cwd=Path(__file__).parent)
    return asked.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
