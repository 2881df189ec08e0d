"""What every peer is given, and what it hands back.

A job is one task for all: the same pictures in the same parts, one architecture, one size, one
number of epochs. Peers differ in how they read, train and validate; each does so as its own
documentation shows.
"""

import argparse
import csv
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import Clock, read_versions, write_result

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Job:
    """One task.

    Attributes:
        name: ``A`` (everything trains) or ``B`` (the classifier alone).
        table: CSV with the columns path, label and split (train, val, perhaps test).
        root: Folder that its paths start from.
        model: A timm name.
        weights: A state dict by the network's own names, classifier left out; None = random.
        size: Pixels of a side.
        epochs: Number of epochs.
        batch_size: Pictures in a batch.
        lr: Highest rate of AdamW.
        weight_decay: AdamW's.
        seed: Of weights and order.
        measured: The part whose accuracy is reported.
        mean: By which pictures are normalised, for each channel.
        std: By which they are divided.
        tuned: bf16 autocast, channels-last and ``workers`` where the peer has them; else its own
            defaults.
        workers: Loader processes when tuned.
    """

    name: str
    table: str
    root: str
    model: str
    weights: str | None
    size: int
    epochs: int
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0
    measured: str = "val"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    tuned: bool = False
    workers: int = 2

    @property
    def is_frozen(self) -> bool:
        """Whether the classifier alone trains."""
        return self.name == "B"

    def rows(self, part: str) -> list[tuple[str, int]]:
        """Paths and numbers of classes of a part."""
        number = {label: i for i, label in enumerate(self.classes)}
        return [(str(Path(self.root, row["path"])), number[row["label"]])
                for row in self.table_rows if row["split"] == part]

    @property
    def table_rows(self) -> list[dict[str, str]]:
        """The rows of the table."""
        with open(self.table, encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    @property
    def classes(self) -> list[str]:
        """Names of the classes in order."""
        return sorted({row["label"] for row in self.table_rows})

    def save(self, path: Path) -> Path:
        """Write the job as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str) -> "Job":
        """The job that `save` wrote."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})


def list_pictures(root: Path) -> list[tuple[str, str]]:
    """Paths from the folder, and class names, in order."""
    return [(f"{folder.name}/{path.name}", folder.name)
            for folder in sorted(root.iterdir()) if folder.is_dir()
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in {".jpg", ".jpeg", ".png"}]


def divide(pictures: Sequence[tuple[str, str]], sizes: Mapping[str, int], seed: int = 0,
           ) -> list[tuple[str, str, str]]:
    """(path, class, part): so many pictures in each part, classes in equal shares as they come.

    Raises:
        SystemExit: There are too few pictures.
    """
    if sum(sizes.values()) > len(pictures):
        raise SystemExit(f"{len(pictures)} pictures found, {sum(sizes.values())} wanted")
    by_class: dict[str, list[str]] = {}
    for path, label in random.Random(seed).sample(pictures, len(pictures)):
        by_class.setdefault(label, []).append(path)
    turns = [(i / len(paths), label, path) for label, paths in sorted(by_class.items())
             for i, path in enumerate(paths)]
    order = [(path, label) for _, label, path in sorted(turns)]
    parts = [part for part, size in sizes.items() for _ in range(size)]
    return [(path, label, part) for (path, label), part in zip(order, parts, strict=False)]


def write_table(rows: Sequence[tuple[str, str, str]], path: Path) -> Path:
    """The CSV that every side reads."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "split"), *sorted(rows)])
    return path


def run_peer(text: str, train: Callable[[Job, Clock], dict[str, Any]], *packages: str) -> None:
    """The command line of a peer: ``peer.py JOB.json --result FILE``.

    Args:
        text: The peer's docstring: what it does.
        train: Trains and validates with the clock running, and returns ``accuracy`` and notes.
        packages: Whose versions are reported.
    """
    parser = argparse.ArgumentParser(description=text,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", help="JSON of a Job")
    parser.add_argument("--result", type=Path, required=True, help="where to write the measures")
    options = parser.parse_args()
    clock = Clock()
    answer = train(Job.load(options.job), clock)
    write_result(options.result, {**answer, "versions": read_versions(packages)})


def build_network(job: Job) -> Any:
    """The network with a new classifier, and with the job's weights below it."""
    import timm
    import torch

    torch.manual_seed(job.seed)
    model = timm.create_model(job.model, pretrained=False, num_classes=len(job.classes))
    if job.weights:
        loaded = torch.load(job.weights, map_location="cpu", weights_only=True)
        head = tuple(f"{model.default_cfg['classifier']}.{kind}" for kind in ("weight", "bias"))
        told = model.load_state_dict({n: t for n, t in loaded.items() if n not in head},
                                     strict=False)
        if set(told.missing_keys) - set(head) or told.unexpected_keys:
            raise SystemExit(f"{job.weights} doesn't fit {job.model}: {told}")
    return model


def freeze_backbone(model: Any) -> None:
    """Only the classifier asks for gradients, as torch's tutorial on transfer learning has it."""
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parameter in model.get_classifier().parameters():
        parameter.requires_grad = True


def hold_norms(model: Any) -> None:
    """Norms answer as in evaluation from now on, and their statistics stay, whatever mode is set.

    What a user adds who knows that ``requires_grad = False`` alone lets statistics drift.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, held=module: held


def build_dataset(job: Job, part: str, *, augmented: bool = True) -> Any:
    """Pictures by PIL and torchvision: a random part of 35-100 % and mirrored, or resized."""
    import torch
    from PIL import Image
    from torchvision import transforms

    frame = ([transforms.RandomResizedCrop(job.size, scale=(0.35, 1.0)),
              transforms.RandomHorizontalFlip()] if part == "train" and augmented else
             [transforms.Resize(job.size), transforms.CenterCrop(job.size)])
    transform = transforms.Compose([*frame, transforms.ToTensor(),
                                    transforms.Normalize(job.mean, job.std)])

    class Pictures(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.rows = job.rows(part)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            path, label = self.rows[index]
            with Image.open(path) as picture:
                return transform(picture.convert("RGB")), label

    return Pictures()
