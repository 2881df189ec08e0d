"""What a run was made from: versions, data, weights, specs; enough to repeat or doubt it."""

import dataclasses
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.assembly import Data
from finetune.config import Config
from finetune.data.seen_pictures import describe_pictures
from finetune.data.splits import class_counts
from finetune.devices import device_name
from finetune.errors import InputError
from finetune.models.depths import depth_names, layer_depths
from finetune.models.parameters import ParameterGroup
from finetune.models.weights import WeightsReport
from finetune.specs import InputSpec

__all__ = ["current_commit", "depth_table", "describe_environment", "describe_folds",
           "differences_to_now", "read_versions", "refuse_other_data", "without_weights"]

_PACKAGES = ("finetune-images", "torch", "torchvision", "timm", "albumentations", "numpy",
             "pillow", "opencv-python-headless", "scikit-learn", "hydra-core", "wandb")


def read_versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_environment(config: Config, data: Data, spec: InputSpec, weights: WeightsReport,
                         groups: Sequence[ParameterGroup], model: nn.Module, *, device: str,
                         replaced: dict[str, tuple[Any, Any]] | None,
                         overrides: Sequence[str]) -> dict[str, Any]:
    """The content of ``environment.json``."""
    return {
        "command": _command(overrides),
        "versions": read_versions(),
        "commit": current_commit(),
        "hardware": {"machine": platform.machine(), "device": device_name(torch.device(device))},
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": config.seed,
        "data": _describe_data(config, data),
        "input_spec": spec.to_dict(),
        "label_spec": data.samples.label_spec.to_dict(),
        "weights": dataclasses.asdict(weights),
        "rehearsal": _rehearsal(config, replaced),
        "warnings": [*data.warnings, *weights.notes],
        "parameters": {"total": sum(p.numel() for p in model.parameters())},
        "depths": depth_table(model, groups),
    }


def describe_folds(config: Config, overrides: Sequence[str]) -> dict[str, Any]:
    """The content of ``environment.json`` of the folder around all folds."""
    data = config.data
    return {"command": _command(overrides), "versions": read_versions(), "commit": current_commit(),
            "seed": config.seed, "rehearsal": None, "warnings": [],
            "data": {"root": data.root, "split_method": "kfold", "split_seed": data.split_seed,
                     "folds": data.folds}}


def depth_table(model: nn.Module, groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
    """A row for each depth: number, modules, parameters, rate and weight decay."""
    names = depth_names(layer_depths(model))
    rows = []
    for depth, name in enumerate(names):
        own = [g for g in groups if g.depth == depth]
        rows.append({"depth": depth, "name": name, "lr": own[0].lr,
                     "weight_decay": max(g.weight_decay for g in own),
                     "parameters": sum(p.numel() for g in own for p in g.parameters)})
    return rows


def _command(overrides: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "finetune", *overrides])


def _rehearsal(config: Config, replaced: dict[str, tuple[Any, Any]] | None) -> Any:
    if replaced is None:
        return None
    recipe = f"recipe={config.recipe} " if config.recipe != "none" else ""
    return {"replaced": {k: list(v) for k, v in replaced.items()},
            "command": f"python -m finetune {recipe}data.root=DIR"}


def _describe_data(config: Config, data: Data) -> dict[str, Any]:
    seen = describe_pictures(data.part_facts("train"))
    return {
        "fingerprint": data.fingerprint, "root": config.data.root,
        "pictures": len(data.samples), "classes": class_counts(data.samples, data.split),
        "split_method": data.split.method, "split_seed": config.data.split_seed,
        "duplicates": len(data.duplicates),
        "near_duplicates": len(data.likeness.groups), "repairs": list(data.split.repairs),
        "skipped": data.skipped, "dropped": int((data.split.names == "").sum()),
        "waiver": config.data.waiver,
        "groups": None if data.samples.groups is None else len(set(data.samples.groups)),
        "training_pictures": seen and seen.to_dict(),
    }


def current_commit() -> str | None:
    """The commit of this package's own checkout; an installed one has none."""
    home = Path(__file__).resolve().parents[1]
    if not (home / ".git").exists():
        return None
    asked = ["git", "-C", str(home), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def differences_to_now(environment: dict[str, Any]) -> list[str]:
    """What differs from when the run began, as sentences; a resumed run may differ then."""
    now, then = read_versions(), environment["versions"]
    changed = [f"{name} was {then.get(name)}, is {now.get(name)}"
               for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]
    machine = environment["hardware"]["machine"]
    if machine != platform.machine():
        changed.append(f"the machine was {machine}, is {platform.machine()}")
    return [f"{text}: the resumed run may not be the same to the bit" for text in changed]


def refuse_other_data(data: Data, environment: dict[str, Any] | None) -> None:
    """Raise unless the data are those that the run began with."""
    if environment is None or data.fingerprint == environment["data"]["fingerprint"]:
        return
    before, now = environment["data"]["pictures"], len(data.samples)
    raise InputError(f"the data changed since this run began: {before} pictures then, {now} now, "
                     "or other contents, labels or splits. Restore them, or start a new run.")


def without_weights(config: Config) -> Config:
    """The same configuration with random weights, for a model that is loaded afterwards."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, weights=None))

