"""Which of our own networks a file of weights belongs to."""

from collections.abc import Mapping

import torch
from torch import Size, Tensor

from finetune.models.lone_timm import timm
from finetune.models.matching import COUNTER, strip_prefixes
from finetune.models.registration import OUR_NETWORKS

__all__ = ["name_network"]


def name_network(tensors: Mapping[str, Tensor]) -> str:
    """A question that names the network whose backbone has exactly these tensors; else nothing.

    The classifier and the number of input channels don't count. Networks that differ in nothing
    but what has no tensors (``plain20`` and ``resnet20``) are told by the first of them.

    >>> name_network({"a": torch.zeros(1)})
    ''
    """
    for name in OUR_NETWORKS:
        with torch.device("meta"):
            state = timm.create_model(name).state_dict()
        given, _ = strip_prefixes(tensors, state)
        if _shapes(state) == _shapes(given):
            timms = name.removeprefix("paper_")
            found = f"{timms} (ours is {name})" if timm.is_model(timms) and timms != name else name
            return f"Is it {found}? Then write model.name={timms if timms in found else name}."
    return ""


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...] | Size]:
    """Of the backbone; the stem's without its input channels."""
    heads = ("fc.", "linear.", "classifier.", "head.")
    return {n: t.shape[:1] + t.shape[2:] if n == "conv1.weight" else t.shape
            for n, t in tensors.items() if not n.endswith(COUNTER) and not n.startswith(heads)}
