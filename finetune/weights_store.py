"""Weights for machines without a network: what is here, fetching into a folder, checking it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from timm.models import get_pretrained_cfg
from torch import nn

from finetune import __version__
from finetune.errors import CheckError, ConfigurationError, first_of
from finetune.models.building import check_model_name
from finetune.models.downloads import torch_cache
from finetune.models.packaged import LICENCE, bundled_file, packaged_file, read_bundled
from finetune.models.sources import find_tagged
from finetune.models.state_dicts import read_tensors
from finetune.models.stored import (
    CONFIG,
    WEIGHTS,
    check_new,
    read_description,
    read_json,
    store,
    stored_problems,
)

__all__ = ["Cached", "fetch_weights", "list_weights", "verify_weights"]

UNKNOWN = "unknown"
# Keys of timm's that say where weights were, not what they are.
_PLACES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load",
           "architecture")


@dataclass(frozen=True)
class Cached:
    """Weights that can be used here without a network.

    Attributes:
        weights: For ``model.weights=``.
        network: For ``model.name=``; ``unknown`` where nothing says it.
        licence: As its source has it; ``unknown`` where that says nothing.
        size: In bytes.
        path: Where it lies.
    """

    weights: str
    network: str
    licence: str
    size: int
    path: Path


def list_weights() -> list[Cached]:
    """All weights on this machine that can be used without a network: installed ones and caches."""
    return [*_installed(), *_in_hub_cache(), *_in_torch_cache()]


def _installed() -> Iterator[Cached]:
    for weights, find in (("bundled", bundled_file), ("packaged", packaged_file)):
        try:
            path = find()
        except ConfigurationError:
            continue
        licence = LICENCE if weights == "packaged" else read_bundled(path)[1].get("licence")
        yield Cached(weights, "brings its own", licence or UNKNOWN, path.stat().st_size, path)


def _in_hub_cache() -> Iterator[Cached]:
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError):
        return
    for repository in sorted(repositories, key=lambda r: r.repo_id):
        for revision in repository.revisions:
            files = [f for f in revision.files if f.file_name in (WEIGHTS, "pytorch_model.bin")]
            if files:
                owner, _, name = repository.repo_id.partition("/")
                network, licence = _described(Path(revision.snapshot_path), owner, name)
                tag = name.partition(".")[2]
                weights = tag if owner == "timm" and tag else f"hf-hub:{repository.repo_id}"
                yield Cached(weights, network, licence, files[0].size_on_disk,
                             Path(files[0].file_path))


def _described(snapshot: Path, owner: str, name: str) -> tuple[str, str]:
    """Network and licence by the repository's ``config.json``, else by timm's own list."""
    path = snapshot / CONFIG
    described = read_json(path) if path.is_file() else {}
    told = described.get("pretrained_cfg", {})
    known = get_pretrained_cfg(name, allow_unregistered=False) if owner == "timm" else None
    licence = told.get("license") or (known.license if known else None)
    return described.get("architecture") or name.partition(".")[0], licence or UNKNOWN


def _in_torch_cache() -> Iterator[Cached]:
    folder = torch_cache()
    known = _by_file_name() if folder.is_dir() else {}
    for path in sorted(p for p in folder.glob("**/*") if p.is_file()):
        name, licence = known.get(path.name, (UNKNOWN, UNKNOWN))
        weights = path.name if path.parent == folder else str(path)
        yield Cached(weights, name, licence, path.stat().st_size, path)


def _by_file_name() -> dict[str, tuple[str, str]]:
    """Network and licence of the files that timm's list, ours included, has addresses of."""
    found = {}
    for name in timm.list_models(pretrained=True):
        settings = get_pretrained_cfg(name)
        if isinstance(settings.url, str) and settings.url:
            found[settings.url.rpartition("/")[2]] = (name, settings.license or UNKNOWN)
    return found


def fetch_weights(name: str, folder: Path) -> dict[str, Any]:
    """Download weights of timm's into a new folder for ``model.weights=DIR`` elsewhere.

    Args:
        name: ``MODEL`` or ``MODEL.TAG``.
        folder: Must not exist; appears whole or not at all.

    Returns:
        What the manifest tells.

    Raises:
        ConfigurationError: No such network or weights, no network connection, the folder exists.
    """
    check_new(folder)
    check_model_name(name)
    found = find_tagged("pretrained", name)
    plain = {k: v for k, v in found.settings.items() if k not in _PLACES and v is not None}
    described = {"architecture": found.settings["architecture"],
                 "num_classes": plain.get("num_classes"), "pretrained_cfg": plain}
    model = described["architecture"] + (f".{found.tag}" if found.tag else "")
    facts = {"made_by": f"finetune {__version__}, timm {timm.__version__}", "model": model,
             "source": found.source, "source_sha256": found.sha256,
             "licence": found.licence or UNKNOWN}
    store(folder, found.tensors, described=described, licence=_licence_text(facts, plain),
          facts=facts)
    return facts


def _licence_text(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    lines = [f"{facts['model']}, fetched from {facts['source']}", f"Licence: {facts['licence']}"]
    lines += [f"{key}: {settings[key]}" for key in ("origin_url", "paper_ids") if key in settings]
    return "\n".join([*lines, "The licence is the one that timm gives for these weights; its text "
                      "is at https://spdx.org/licenses/, conditions of the data may be stricter.",
                      ""])


def verify_weights(folder: Path) -> str:
    """Check a folder of `fetch_weights`: hashes, then whether tensors and architecture fit.

    Returns:
        What it holds, in a line.

    Raises:
        ConfigurationError: It is no such folder.
        CheckError: It is one, but not as it was made; the message has all that is wrong.
    """
    problems = stored_problems(folder)
    if not any(WEIGHTS in text or CONFIG in text for text in problems):
        problems += _misfits(folder)
    if problems:
        raise CheckError(f"{folder} must not be used: {'; '.join(problems)}")
    return f"{folder}: hashes, tensors and architecture agree"


def _misfits(folder: Path) -> list[str]:
    """Names and shapes that differ from those of timm's network."""
    try:
        described = read_description(folder)
        tensors, _ = read_tensors(folder / WEIGHTS)
        state = _network(described).state_dict()
    except ConfigurationError as error:
        return [str(error)]
    wrong = [n for n in {**state, **tensors} if n not in tensors or n not in state
             or tensors[n].shape != state[n].shape]
    return [f"{len(wrong)} tensors don't fit {described['architecture']}: {first_of(wrong)}"
            ] if wrong else []


def _network(described: Mapping[str, Any]) -> nn.Module:
    channels = described.get("pretrained_cfg", {}).get("input_size", (3,))[0]
    try:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = timm.create_model(
                described["architecture"], num_classes=described.get("num_classes"),
                in_chans=channels, **described.get("model_args", {}))
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        raise ConfigurationError(f"{CONFIG} describes no network that can be built: {error}"
                                 ) from error
    return model
