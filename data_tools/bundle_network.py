"""Make the bundled network's file of a finished run: half precision, features of a stated scale.

python data_tools/bundle_network.py RUN FILE.safetensors [--scale 3]

A block ends in a ReLU of a sum of two: its last norm, and a shortcut that is a norm too or, in
later blocks, the block before. Multiplying all of the last stage's and dividing what takes them
(first convolutions, classifier) by one number changes the scale of the features and not one answer.
It is chosen so that
the features' root mean square over training pictures is ``--scale``: AdamW's steps don't depend on
the gradient's size, so that a classifier on features of 0.1 would need many more of them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from finetune.config import Loss
from finetune.console import fail, say
from finetune.data.splits import read_splits
from finetune.errors import CheckError, FinetuneError
from finetune.files import hash_file, write_bytes
from finetune.models.building import build_model
from finetune.models.heads import add_projection
from finetune.run_directory import RunDirectory
from finetune.training.checkpoints import load_weights


def main(arguments: list[str] | None = None) -> int:
    """Run and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--scale", type=float, default=3.0)
    given = parser.parse_args(arguments)
    try:
        bundle(RunDirectory.open(given.run), given.file, scale=given.scale)
    except FinetuneError as error:
        fail(str(error))
        return error.exit_code
    return 0


def bundle(run: RunDirectory, target: Path, *, scale: float) -> None:
    """Write the file and say what it holds.

    Raises:
        CheckError: Half precision answers otherwise than the run's weights.
    """
    environment = run.environment
    name = run.config.model.name
    model, _ = build_model(name, num_classes=len(environment["label_spec"]["class_names"]))
    classifier = model.get_submodule("fc")
    if run.config.training.loss is Loss.contrastive:
        add_projection(model)
    load_weights(run.best_weights, model)
    model.fc = classifier  # without a projection, which has done its work
    images = training_pictures(run, environment["input_spec"], count=2000)
    before, rms = answers(model.eval(), images)
    rescale(model, scale / rms)
    model.half().float()
    after, rms = answers(model, images)
    same = float((before.argmax(1) == after.argmax(1)).float().mean())
    if same < 0.998:
        raise CheckError(f"half precision changes {1 - same:.1%} of the answers")
    write_bytes(target, content(model, metadata(run, environment, name)))
    say(f"wrote {target}: {target.stat().st_size / 1e6:.2f} MB, sha256 {hash_file(target)}; "
        f"features' rms {rms:.2f}; {same:.2%} of 2000 answers unchanged")


def training_pictures(run: RunDirectory, spec: dict[str, Any], *, count: int) -> Tensor:
    """Some of the run's training pictures, normalised: (count, 3, H, W)."""
    names = [row["path"] for row in read_splits(run.path / "splits.csv") if row["split"] == "train"]
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, count).astype(int)]
    root = Path(run.config.data.root or ".")
    pixels = np.stack([np.asarray(cv2.imread(str(root / n), cv2.IMREAD_COLOR_RGB))
                       for n in chosen])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(spec[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


@torch.inference_mode()
def answers(model: Any, images: Tensor) -> tuple[Tensor, float]:
    """Logits (N, K) and the root mean square of the features in front of the classifier."""
    features = torch.cat([model.forward_head(model.forward_features(part), pre_logits=True)
                          for part in torch.split(images, 250)])
    return model.fc(features), float(features.square().mean().sqrt())


def rescale(model: Any, factor: float) -> None:
    """Features times ``factor``, the same logits."""
    first, *later = model.get_submodule(model.feature_info[-1]["module"]).children()
    norms: list[Any] = [first.downsample[-1], *(b.get_submodule(b.last_norm)
                                                for b in (first, *later))]
    with torch.no_grad():
        for norm in norms:
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)
        for taking in (model.fc, *(block.conv1 for block in later)):
            taking.weight.div_(factor)


def metadata(run: RunDirectory, environment: dict[str, Any], name: str) -> dict[str, Any]:
    """What goes with the tensors."""
    spec = environment["input_spec"]
    return {"architecture": name, "input_size": [3, *spec["size"]], "mean": spec["mean"],
            "std": spec["std"], "interpolation": spec["interpolation"], "licence": "apache-2.0",
            "source": "finetune's recipe pretrain_small on CIFAR-10's training pictures",
            "class_names": environment["label_spec"]["class_names"],
            "commit": environment["commit"], "seed": environment["seed"]}


def content(model: nn.Module, told: dict[str, Any]) -> bytes:
    """The file: tensors in half precision, counters left out."""
    from safetensors.torch import save

    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()
               if tensor.is_floating_point()}
    whole: bytes = save(tensors, {"finetune": json.dumps(told, sort_keys=True)})
    return whole


if __name__ == "__main__":
    sys.exit(main())
