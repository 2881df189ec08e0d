"""Top-1 of ``model.weights=packaged`` on ImageNet's validation pictures. Not run here yet.

    python benchmarks/packaged_top1.py DIR [--batch 50] [--limit 5000]

DIR has a folder for each of the 1,000 classes, named by its WordNet id (``n01440764`` ...), in
whose order the network counts; there may be fewer pictures, but all the folders. Pictures are
prepared as timm does for ``tf_efficientnet_lite0``: the shorter side to 256 (bicubic), the middle
224 x 224, mean and standard deviation 0.5. Google gives 75.1 % for all 50,000 (arXiv 1905.11946's
Lite variant). If a tensor sat in a wrong place, the answer would be about 0.1 %.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from finetune.models.building import build_model

NAME, CLASSES, GIVEN = "tf_efficientnet_lite0", 1000, 75.1


def main() -> None:
    """Run the check."""
    options = parse()
    pictures = list_pictures(Path(options.data))
    model, report = build_model(NAME, num_classes=CLASSES, weights="packaged")
    print(f"{report.source}, SHA-256 {report.sha256}: {'; '.join(report.notes)}")
    chosen = spread(pictures, options.limit)
    right = [answer for start in range(0, len(chosen), options.batch)
             for answer in answers(model.eval(), chosen[start:start + options.batch])]
    print(f"top-1 {100 * sum(right) / len(right):.2f} % of {len(right)} pictures "
          f"(given for all 50,000: {GIVEN} %)")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="a folder with a folder for each class")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--limit", type=int, default=None, help="so many pictures, of all classes")
    return parser.parse_args()


def list_pictures(root: Path) -> list[tuple[Path, int]]:
    """Pictures with the number of their class."""
    folders = sorted(p for p in root.iterdir() if p.is_dir())
    if len(folders) != CLASSES:
        raise SystemExit(f"{root} has {len(folders)} folders; expected are {CLASSES}, one for each "
                         "class of ImageNet-1k")
    return [(path, label) for label, folder in enumerate(folders)
            for path in sorted(folder.iterdir()) if path.is_file()]


def spread(pictures: list[tuple[Path, int]], limit: int | None) -> list[tuple[Path, int]]:
    """About ``limit`` pictures at equal distances, so that every class takes part."""
    return pictures[::max(1, len(pictures) // limit)] if limit else pictures


@torch.inference_mode()
def answers(model: torch.nn.Module, batch: list[tuple[Path, int]]) -> list[bool]:
    """Which pictures are recognised."""
    transform = create_transform(**resolve_data_config(model=model))
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path, _ in batch])
    found = model(images).argmax(1).tolist()
    return [guess == label for guess, (_, label) in zip(found, batch, strict=True)]


if __name__ == "__main__":
    main()
