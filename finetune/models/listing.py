"""Which networks there are: size, licence, and whether their weights are on this machine."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import timm
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import PretrainedCfg, get_pretrained_cfg

import finetune
from finetune.errors import ConfigurationError, did_you_mean
from finetune.models.downloads import cache_path
from finetune.models.registration import BUNDLED, OUR_NETWORKS
from finetune.models.sources import HUB_NAMES
from finetune.models.summary import on_meta

__all__ = ["RECOMMENDED", "ListedNetwork", "list_networks"]

# Residual networks, and one for phones, whose licence allows commercial use.
RECOMMENDED = ("resnet10t.c3_in1k", "resnet18.a1_in1k", "resnet26t.ra2_in1k", "resnet34.a1_in1k",
               "resnet50.a1_in1k", "resnet50.tv2_in1k", "resnet101.a1h_in1k",
               "tf_efficientnet_lite0.in1k")
COUNTED = 120  # networks whose parameters are counted, each in a twentieth of a second or more


@dataclass(frozen=True)
class ListedNetwork:
    """A network and its weights.

    Attributes:
        name: As ``model.name`` takes it; with a tag, when there are weights.
        parameters: With the classifier of its weights; None when too many are listed to count.
        licence: Of the weights, as timm states it.
        weights: Where they are: ``bundled``, ``in the hub's cache``, ``in torch's cache``, ``not
            here`` or ``none``.
    """

    name: str
    parameters: int | None
    licence: str
    weights: str


def list_networks(pattern: str | None = None) -> list[ListedNetwork]:
    """Our own networks and `RECOMMENDED`, or all that a pattern such as ``resnet*`` fits.

    A pattern is matched with names with and without their tag. No network is asked, and nothing
    but shapes is built.

    Raises:
        ConfigurationError: Nothing fits.
    """
    names = [*_with_tags(OUR_NETWORKS), *RECOMMENDED] if pattern is None else _matching(pattern)
    counted = len({name.partition(".")[0] for name in names}) <= COUNTED
    return [_listed(name, counted=counted) for name in names]


def _matching(pattern: str) -> list[str]:
    known = timm.list_models()
    found = [name for name in _with_tags(known)
             if fnmatchcase(name, pattern) or fnmatchcase(name.partition(".")[0], pattern)]
    if not found:
        raise ConfigurationError(f"no network of timm {timm.__version__} fits {pattern!r}"
                                 f"{did_you_mean(pattern, known)}; patterns are as resnet* or "
                                 "*.a1_in1k")
    return found


def _with_tags(architectures: Iterable[str]) -> list[str]:
    """Each name once for each of its weights, or plain when there are none."""
    tagged: dict[str, list[str]] = {}
    for name in timm.list_pretrained():
        tagged.setdefault(name.partition(".")[0], []).append(name)
    return [name for plain in architectures for name in tagged.get(plain, [plain])]


def _listed(name: str, *, counted: bool) -> ListedNetwork:
    settings = get_pretrained_cfg(name)
    licence = (settings.license or "not stated") if settings and settings.has_weights else "-"
    classes = settings.num_classes if settings else 1000
    parameters = _count_parameters(name.partition(".")[0], classes) if counted else None
    return ListedNetwork(name, parameters, licence, _where_weights_are(name, settings))


@functools.cache
def _count_parameters(architecture: str, num_classes: int) -> int:
    with on_meta():
        model = timm.create_model(architecture, pretrained=False, num_classes=num_classes)
    return sum(p.numel() for p in model.parameters())


def _where_weights_are(name: str, settings: PretrainedCfg | None) -> str:
    if name == BUNDLED and any(Path(finetune.__file__).parent.rglob(f"{BUNDLED}*.safetensors")):
        return "bundled"
    if settings is None or not settings.has_weights:
        return "none"
    if settings.hf_hub_id and _is_in_hub_cache(settings):
        return "in the hub's cache"
    if isinstance(settings.url, str) and settings.url and cache_path(settings.url).exists():
        return "in torch's cache"
    return "not here"


def _is_in_hub_cache(settings: PretrainedCfg) -> bool:
    files = [settings.hf_hub_filename] if settings.hf_hub_filename else HUB_NAMES
    return any(isinstance(try_to_load_from_cache(settings.hf_hub_id, file,
                                                 cache_dir=constants.HF_HUB_CACHE), str)
               for file in files)
