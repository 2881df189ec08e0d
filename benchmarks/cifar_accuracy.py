"""Accuracy of weights on CIFAR-10's test pictures, nothing trained.

python benchmarks/cifar_accuracy.py cifar10_jpeg.npz --model resnet20 --weights FILE
python benchmarks/cifar_accuracy.py cifar10_jpeg.npz --weights bundled

The file holds JPEG pictures (see data_tools/unpack_jpegs.py), whose coding costs some accuracy
against the published pictures. ``--statistics`` is how the weights' pictures were normalised.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from finetune.models.architectures import ARCHITECTURES
from finetune.models.building import build_model
from finetune.models.packaged import bundled_file, read_bundled

STATISTICS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
              "cifar": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))}


@torch.inference_mode()
def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", default=ARCHITECTURES["bundled"])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--statistics", choices=list(STATISTICS), default="imagenet")
    given = parser.parse_args()
    mean, std = STATISTICS[given.statistics]
    model, report = build_model(given.model, num_classes=10, weights=given.weights)
    if given.weights == "bundled":
        _, told = read_bundled(bundled_file())
        mean, std = told["mean"], told["std"]
    stored = dict(np.load(given.pictures))
    places, ends = np.flatnonzero(stored["is_test"]), stored["offsets"]
    right = 0
    for part in np.array_split(places, 40):
        images = np.stack([cv2.imdecode(stored["jpeg"][ends[i]:ends[i + 1]],
                                        cv2.IMREAD_COLOR_RGB) for i in part])
        tensors = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        tensors = (tensors - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        right += int((model.eval()(tensors).argmax(1).numpy() == stored["labels"][part]).sum())
    print(f"{given.model}, {report.source}: {right} of {len(places)} right, "
          f"{right / len(places):.4f}; {report.matched} of {report.total} tensors loaded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
