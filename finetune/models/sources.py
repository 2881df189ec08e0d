"""Where weights can be had: installed, timm's tags, the hub, addresses, files, folders, runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from finetune.errors import ConfigurationError, closest, did_you_mean, first_of
from finetune.files import hash_file, parse_json
from finetune.models.architectures import ARCHITECTURES
from finetune.models.downloads import (
    check_address,
    check_in_hub,
    check_named_hash,
    download,
    find_in_hub,
    find_in_torch_cache,
    public_address,
)
from finetune.models.heads import keep_class_rows
from finetune.models.packaged import (
    LICENCE,
    bundled_file,
    packaged_file,
    read_bundled,
    read_packaged,
)
from finetune.models.state_dicts import read_tensors
from finetune.models.stored import check_stored, is_stored, read_json, refuse_sources

__all__ = ["FoundWeights", "check_weights_name", "find_tagged", "find_weights"]

HUB_NAMES = ["model.safetensors", "pytorch_model.bin"]
_FILE_ENDINGS = (".pth", ".pt", ".bin", ".th", ".safetensors", ".ckpt", ".tar")


@dataclass(frozen=True)
class FoundWeights:
    """Weights that were found.

    Attributes:
        tensors: By name, as the source has them (timm's are converted to its network's names).
        source: For people: no local path, no secrets.
        sha256: Of the file.
        settings: timm's keys: mean, std, interpolation, input_size.
        licence: Of the weights, where known.
        tag: timm's.
        notes: What a reader must know.
        network: ``model.name`` of the run that the weights come from.
    """

    tensors: Mapping[str, Tensor]
    source: str
    sha256: str | None
    settings: Mapping[str, Any]
    licence: str | None = None
    tag: str | None = None
    notes: tuple[str, ...] = ()
    network: str | None = None


def find_weights(weights: str, *, model: nn.Module, name: str,
                 class_names: Sequence[str] | None) -> FoundWeights:
    """The weights that a value of ``model.weights`` means, see `finetune.models.weights`.

    A tag goes before a file of the same name; write ``./NAME`` for the file. A name that is
    neither here may be that of a file in torch's own cache.

    Raises:
        ConfigurationError: They aren't there, can't be had or can't be read.
    """
    path = Path(weights).expanduser()
    if weights in ARCHITECTURES:
        _check_architecture(f"model.weights={weights}", ARCHITECTURES[weights], name)
        return _from_bundled() if weights == "bundled" else _from_package(model)
    if weights.startswith("hf-hub:"):
        return _from_hub(weights.removeprefix("hf-hub:"), name)
    if weights.startswith(("http://", "https://")):
        check_address(weights)
        return _from_file(download(weights), model, name, source=public_address(weights))
    if weights == "pretrained" or weights in _tags(name):
        return find_tagged(weights, name)
    if path.is_dir():
        return (_from_stored(path, name) if is_stored(path)
                else _from_run(path, model, class_names))
    file = path if path.exists() else find_in_torch_cache(weights)
    if file is None:
        raise _not_found(weights, path, name)
    return _from_file(file, model, name, source=file.name)


def check_weights_name(weights: str | None, name: str) -> None:
    """Raise a `ConfigurationError` when ``weights`` can't be had: the same as `find_weights` would.

    Nothing is read or downloaded; whether they fit shows when they are.
    """
    if weights is None:
        return
    path = Path(weights).expanduser()
    if weights in ARCHITECTURES:
        (bundled_file if weights == "bundled" else packaged_file)()
    elif weights.startswith("hf-hub:"):
        check_in_hub(weights.removeprefix("hf-hub:"), ["config.json"])
    elif weights.startswith(("http://", "https://")):
        check_address(weights)
    elif weights == "pretrained" or weights in _tags(name):
        settings = _tag_settings(weights, name)
        if settings.hf_hub_id:
            check_in_hub(settings.hf_hub_id, _hub_names(settings))
    elif not weights.strip() or not (path.exists() or find_in_torch_cache(weights)):
        raise _not_found(weights, path, name)


def _hub_names(settings: PretrainedCfg) -> list[str]:
    return [settings.hf_hub_filename] if settings.hf_hub_filename else HUB_NAMES


def _tags(name: str) -> list[str]:
    if ":" in name:
        return []
    plain = name.partition(".")[0]
    return [n.partition(".")[2] for n in timm.list_models(f"{plain}.*", pretrained=True)]


def _not_found(weights: str, path: Path, name: str) -> ConfigurationError:
    if len(path.parts) > 1 or weights.lower().endswith(_FILE_ENDINGS):
        near = closest(path.name, (p.name for p in _listed(path.parent)))
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        what = "" if path.parent.is_dir() else f"; there is no folder {path.parent} either"
        return ConfigurationError(f"model.weights={weights}: no such file or folder{hint}{what}")
    tags = _tags(name)
    listed = f"{name} has the tags {first_of(tags, count=20)}" if tags else f"{name} has no tags"
    return ConfigurationError(
        f"model.weights={weights} is no timm tag and no file{did_you_mean(weights, tags)}: "
        f"{listed}; else null, pretrained, bundled, packaged, hf-hub:NAME, an http(s) address, a "
        "file, or the folder of a run or of `weights fetch` are expected")


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _from_file(path: Path, model: nn.Module, name: str, *, source: str) -> FoundWeights:
    check_named_hash(path)
    tensors, notes = read_tensors(path)
    settings = getattr(model, "pretrained_cfg", {})
    if settings:
        notes += (f"mean, std and interpolation are those that timm gives for {name}; a file "
                  "doesn't say its own",)
    return FoundWeights(tensors, source, hash_file(path), settings, notes=notes)


def _from_bundled() -> FoundWeights:
    path = bundled_file()
    tensors, told = read_bundled(path)
    return FoundWeights(tensors, f"bundled {told['architecture']}", hash_file(path), told,
                        told.get("licence"), notes=(f"the bundled network: {told.get('source')}",))


def _from_package(model: nn.Module) -> FoundWeights:
    path = packaged_file()
    check_named_hash(path)
    tensors = read_packaged(path, model.state_dict())
    settings = get_pretrained_cfg(ARCHITECTURES["packaged"])
    return FoundWeights(tensors, f"package {path.name}", hash_file(path), settings.to_dict(),
                        LICENCE)


def find_tagged(weights: str, name: str) -> FoundWeights:
    """Weights of timm's: ``weights`` is a tag of the network's, or ``pretrained``."""
    settings = _tag_settings(weights, name)
    if settings.hf_hub_id:
        path = find_in_hub(settings.hf_hub_id, _hub_names(settings))
        source = f"hf-hub:{settings.hf_hub_id}"
    else:
        url = settings.url if isinstance(settings.url, str) else settings.url[0]
        path, source = download(url), public_address(url)
    donor = _donor(path, str(settings.architecture), settings.to_dict(), {}, source)
    return FoundWeights(donor, source, hash_file(path), settings.to_dict(), settings.license,
                        settings.tag)


def _tag_settings(weights: str, name: str) -> PretrainedCfg:
    if ":" in name:
        raise ConfigurationError(f"model.weights={weights}: {name} is your own builder, which has "
                                 "no timm tags; give null, a file, an address or a run's folder")
    plain, _, tag = name.partition(".")
    if weights != "pretrained" and tag and tag != weights:
        raise ConfigurationError(f"model.name={name} and model.weights={weights} name different "
                                 f"weights; write model.name={plain}")
    wanted = tag or ("" if weights == "pretrained" else weights)
    settings = get_pretrained_cfg(f"{plain}.{wanted}" if wanted else plain)
    if settings is None or not settings.has_weights:
        raise ConfigurationError(
            f"model.weights={weights}: timm {timm.__version__} has no pretrained weights for "
            f"{name}; choose another network, a file, or model.weights=null")
    return settings


def _from_hub(repository: str, name: str) -> FoundWeights:
    described = read_json(find_in_hub(repository, ["config.json"]))
    architecture = described.get("architecture")
    if not architecture or not timm.is_model(architecture):
        raise ConfigurationError(f"hf-hub:{repository} is not a timm network: its config.json has "
                                 f"architecture={architecture}; download its weights and give the "
                                 "file, if its tensors fit")
    refuse_sources(described, f"hf-hub:{repository}")
    path = find_in_hub(repository, HUB_NAMES)
    return _described(described, path, name, f"hf-hub:{repository}")


def _from_stored(folder: Path, name: str) -> FoundWeights:
    described, path = check_stored(folder)
    return _described(described, path, name, f"folder {folder.resolve().name}")


def _described(described: Mapping[str, Any], path: Path, name: str, source: str) -> FoundWeights:
    """Weights with timm's ``config.json`` beside them."""
    architecture = described["architecture"]
    _check_architecture(source, architecture, name)
    settings = {**described, **described.get("pretrained_cfg", {})}
    settings["num_classes"] = described.get("num_classes", settings.get("num_classes", 1000))
    donor = _donor(path, architecture, settings, described.get("model_args", {}), source)
    return FoundWeights(donor, source, hash_file(path), settings, settings.get("license"),
                        settings.get("tag"))


def _check_architecture(source: str, architecture: str, name: str) -> None:
    if architecture != name.partition(".")[0]:
        raise ConfigurationError(f"{source} holds {architecture}, model.name is {name}: write "
                                 f"model.name={architecture}")


def _donor(path: Path, architecture: str, settings: Mapping[str, Any],
           options: Mapping[str, Any], label: str) -> dict[str, Tensor]:
    """A file's tensors by the names of timm's network: timm itself converts and checks them.

    The caller's random state is kept.
    """
    known = {field.name for field in fields(PretrainedCfg)}
    plain = {key: value for key, value in settings.items() if key in known}
    plain |= {"source": None, "hf_hub_id": None, "url": None, "file": None, "state_dict": None,
              "hf_hub_filename": None}  # what a config.json says of other files counts for nothing
    if plain.get("custom_load"):
        plain["file"] = str(path)
    else:
        plain["state_dict"] = read_tensors(path)[0]
    options = {"num_classes": plain["num_classes"],
               "in_chans": plain.get("input_size", (3,))[0], **options}
    try:
        with torch.random.fork_rng(devices=[]):
            donor = timm.create_model(architecture, pretrained=True, pretrained_cfg=plain,
                                      **options)
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError,
            OSError, MemoryError, ArithmeticError) as error:
        raise ConfigurationError(f"the weights {label} ({path.name}) don't fit timm "
                                 f"{timm.__version__}'s {architecture}: {error}") from error
    return dict(donor.state_dict())


def _from_run(folder: Path, model: nn.Module, class_names: Sequence[str] | None) -> FoundWeights:
    path, described = folder / "checkpoints" / "best.safetensors", folder / "environment.json"
    missing = [str(p.relative_to(folder)) for p in (path, described) if not p.is_file()]
    if missing:
        raise ConfigurationError(f"model.weights={folder} is a folder without "
                                 f"{' and '.join(missing)}; expected is a finished run's folder, "
                                 "or a weights file")
    environment = read_json(described)
    tensors, notes = read_tensors(path)
    try:
        old, spec = environment["label_spec"]["class_names"], environment.get("input_spec") or {}
        earlier = environment.get("weights") or {}
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"{described} has no label_spec.class_names: was it written by "
                                 "another version?") from error
    tensors, kept = keep_class_rows(tensors, model, old=old, new=class_names or [])
    fresh = [name for name in class_names or [] if name not in kept]
    notes += (f"classifier rows kept by class name: {first_of(kept) or 'none'}; new: "
              f"{first_of(fresh) or 'none'}",)
    if not (folder / "metrics.json").is_file():
        notes += ("that run is not finished: the best of its epochs so far is used",)
    settings = {**spec, "input_size": spec.get("size")}
    return FoundWeights(tensors, f"run {folder.resolve().name}", hash_file(path), settings,
                        earlier.get("licence"), earlier.get("tag"), notes, _network_of(path))


def _network_of(path: Path) -> str | None:
    """``model.name`` in the metadata that a run writes beside its weights."""
    with safetensors.safe_open(path, "pt") as file:
        told = (file.metadata() or {}).get("finetune", "{}")
    try:
        network = parse_json(told).get("model")
    except (ValueError, AttributeError):
        network = None  # somebody else wrote it
    return network if isinstance(network, str) else None
