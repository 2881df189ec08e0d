"""Our residual networks by name, through timm's registry: ``timm.create_model("resnet20")``.

Names that timm uses stay timm's: ``resnet50`` is its own, ``paper_resnet50`` is ours. Importing
this module registers them; nothing of timm's changes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from finetune.models.architectures import ARCHITECTURES
from finetune.models.resnet import CIFAR, IMAGENET, BasicBlock, ResNet, build_resnet

__all__ = ["BUNDLED", "OUR_NETWORKS"]

BUNDLED = ARCHITECTURES["bundled"]
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_TORCHVISION = {18: "f37072fd", 34: "b627a593", 50: "0676ba61", 101: "63fe2227", 152: "394f9c45"}


def _imagenet(layers: int | None = None) -> dict[str, Any]:
    url = "" if layers is None else (
        f"https://download.pytorch.org/models/resnet{layers}-{_TORCHVISION[layers]}.pth")
    return {"url": url, "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7),
            "crop_pct": 0.875, "interpolation": "bilinear", "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD, "first_conv": "conv1", "classifier": "fc",
            "license": "bsd-3-clause" if url else None}


def _cifar() -> dict[str, Any]:
    return {"url": "", "num_classes": 10, "input_size": (3, 32, 32), "pool_size": (8, 8),
            "crop_pct": 1.0, "interpolation": "bilinear", "mean": CIFAR_MEAN, "std": CIFAR_STD,
            "first_conv": "conv1", "classifier": "fc"}


def _resnet12_wide(**options: Any) -> ResNet:
    """Two, two and one basic blocks of 32, 64 and 448 channels: many features at little cost."""
    given: dict[str, Any] = {"num_classes": 10, "stem": "small"} | options
    return ResNet(BasicBlock, (2, 2, 1), (32, 64, 448), **given)


def _networks() -> dict[str, tuple[Callable[..., ResNet], dict[str, Any]]]:
    """Name to (builder, {tag: settings})."""
    found: dict[str, tuple[Callable[..., ResNet], dict[str, Any]]] = {}
    for layers in CIFAR:
        found[f"resnet{layers}"] = _of(layers), {"": _cifar()}
        found[f"resnet{layers}_b"] = _of(layers, shortcut="B"), {"": _cifar()}
        found[f"plain{layers}"] = _of(layers, plain=True), {"": _cifar()}
    for layers in IMAGENET:
        found[f"paper_resnet{layers}"] = _of(layers), {"tv_in1k": _imagenet(layers)}
    for layers in (18, 34):
        found[f"paper_plain{layers}"] = _of(layers, plain=True), {"": _imagenet()}
    bundled = _cifar() | {"license": "apache-2.0"}
    return found | {BUNDLED: (_resnet12_wide, {"": bundled})}


def _of(layers: int, **fixed: Any) -> Callable[..., ResNet]:
    return lambda **options: build_resnet(layers, **fixed | options)


def _from_timm(build: Callable[..., ResNet]) -> Callable[..., ResNet]:
    """The builder under timm's names of arguments."""
    def made(in_chans: int = 3, **options: Any) -> ResNet:
        return build(in_channels=in_chans, **options)
    return made


def _entry(name: str, build: Callable[..., ResNet]) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        stages = 3 if default_cfgs[name].default.input_size[-1] == 32 else 4
        model: nn.Module = build_model_with_cfg(
            _from_timm(build), name, pretrained,
            feature_cfg={"out_indices": tuple(range(stages + 1))}, **options)
        return model
    create.__name__, create.__module__ = name, __name__
    create.__doc__ = f"``{name}``, see `finetune.models.resnet`."
    return create


def _register(networks: Mapping[str, tuple[Callable[..., ResNet], dict[str, Any]]]) -> list[str]:
    for name, (build, _) in networks.items():
        register_model(_entry(name, build))
    return list(networks)


_NETWORKS = _networks()
default_cfgs = generate_default_cfgs({f"{name}.{tag}" if tag else name: settings for name, (_, tags)
                                      in _NETWORKS.items() for tag, settings in tags.items()})
OUR_NETWORKS = _register(_NETWORKS)
