"""Writing a network as ONNX, as torch.export's file, or as a folder that timm loads."""

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune.errors import CheckError, ConfigurationError, FinetuneError, InputError
from finetune.exporting.graph import ExportedModel, example_batch
from finetune.files import read_json, write_json, write_text
from finetune.prediction.model_facts import KEY
from finetune.prediction.onnx_model import INPUT, OUTPUTS
from finetune.prediction.values import Answers, Network
from finetune.specs import InputSpec, LabelSpec

__all__ = ["OPSET", "as_network", "load_pt2", "load_timm", "refusals_told",
           "write_onnx", "write_pt2", "write_timm"]

OPSET = 18
_TOO_LARGE = 2 << 30  # bytes of one protobuf message
_REFUSALS = (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, KeyError,
             AttributeError)


def write_onnx(model: ExportedModel, spec: InputSpec, path: Path, about: Mapping[str, str]) -> None:
    """One ONNX file; the first dimension of ``pictures`` and ``probabilities`` is free.

    Args:
        model: In eval mode, on the CPU.
        spec: Of the pictures.
        path: The file.
        about: Metadata, name to text.

    Raises:
        CheckError: The exporter can't take this network, or the file would be too large.
        InputError: A package is missing.
    """
    size = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    if size > _TOO_LARGE * 0.98:
        raise CheckError(f"the network has {size / 1e9:.1f} GB of weights, and one ONNX file holds "
                         "2: --half, or a .pt2 file")
    _need("onnx", "onnxscript", "onnxruntime")
    with refusals_told("ONNX"):
        program: Any = torch.onnx.export(
            model, (example_batch(spec),), dynamo=True, opset_version=OPSET, external_data=False,
            input_names=[INPUT], output_names=OUTPUTS[:2 + model.tells_distances], verbose=False,
            dynamic_shapes={"pictures": {0: torch.export.Dim("batch")}})
        program.model.metadata_props.update(about)
        program.save(str(path), external_data=False)


def write_pt2(model: ExportedModel, spec: InputSpec, path: Path, about: Mapping[str, str]) -> None:
    """One file of torch.export; the first dimension is free.

    Raises:
        CheckError: torch.export can't take this network.
    """
    with refusals_told("torch.export"):
        program = torch.export.export(model, (example_batch(spec),), dynamic_shapes={
            "pictures": {0: torch.export.Dim("batch")}})
        torch.export.save(program, str(path), extra_files={f"{KEY}.json": about[KEY]})


def load_pt2(path: Path) -> Network:
    """From pictures (B, H, W, C) to answers.

    torch.export's files may hold pickles: only for a file that was written a moment ago.
    """
    with refusals_told("torch.export"):
        module = torch.export.load(str(path)).module()

    return as_network(module)


def as_network(module: nn.Module) -> Network:
    """What `ExportedModel` answers, with arrays in place of tensors."""
    def network(batch: np.ndarray) -> Answers:
        with torch.inference_mode():
            odds, *others = module(torch.from_numpy(batch))
        return Answers(np.asarray(odds.numpy(), np.float64), *(each.numpy() for each in others))

    return network


def write_timm(model: nn.Module, spec: InputSpec, labels: LabelSpec, folder: Path,
               about: Mapping[str, str], *, name: str, half: bool = False) -> None:
    """``config.json`` and ``model.safetensors`` as timm has them: logits, without calibration.

    Args:
        model: The network under timm's own names, not folded.
        spec: Of the pictures.
        labels: Class names.
        folder: Exists, empty.
        about: Metadata; goes into ``finetune.json``.
        name: timm's, without a tag.
        half: Weights as 16-bit floats.

    Raises:
        ConfigurationError: timm alone could not build this network.
    """
    from timm.models import save_for_hf

    _check_timm(name)
    if labels.is_ordinal:
        raise ConfigurationError("ordered classes have an output layer that timm does not know: "
                                 "export to ONNX")
    mode = {"squash": "squash", "crop": "center", "pad": "border"}[spec.resize.value]
    cfg = {"input_size": [spec.channels, *spec.size], "mean": list(spec.mean),
           "std": list(spec.std), "crop_pct": 1.0,
           "interpolation": {"area": "box"}.get(spec.interpolation, spec.interpolation),
           "crop_mode": mode, "label_names": list(labels.class_names)}
    kept = copy.deepcopy(model).half() if half else model
    with refusals_told("timm"):
        save_for_hf(kept, str(folder), safe_serialization=True, model_config={
            "num_classes": labels.output_width, "label_names": list(labels.class_names),
            "pretrained_cfg": cfg, "model_args": {"in_chans": spec.channels}})
    _forget_other_sizes(folder / "config.json")
    write_text(folder / f"{KEY}.json",
               json.dumps(json.loads(about[KEY]), indent=2, ensure_ascii=False) + "\n")


def _forget_other_sizes(path: Path) -> None:
    """Take sizes for testing, which timm keeps of the weights that training started from, away."""
    config = read_json(path)
    for key in ("test_input_size", "test_crop_pct", "test_pool_size"):
        config["pretrained_cfg"].pop(key, None)
    write_json(path, config)


def load_timm(folder: Path) -> nn.Module:
    """The network in eval mode, by timm alone.

    Raises:
        CheckError: timm can't build or fill it.
    """
    import timm

    with refusals_told("timm"):
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval().float()


def _check_timm(name: str) -> None:
    from finetune.models.registration import OUR_NETWORKS

    if ":" in name or name in OUR_NETWORKS:
        raise ConfigurationError(f"timm has no network {name}: export to ONNX (a name that ends "
                                 "with .onnx) or torch.export (.pt2)")


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise InputError(f"an ONNX export needs {', '.join(missing)}: python -m pip install "
                         '"finetune-images[export]"')


@contextmanager
def refusals_told(what: str) -> Iterator[None]:
    """No warnings of libraries; their refusals as a failed check.

    Raises:
        CheckError: In the words of the library.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except FinetuneError as error:
            if error.exit_code != FinetuneError.exit_code:
                raise
            raise CheckError(str(error)) from error
        except _REFUSALS as error:
            first = str(error).strip().splitlines()
            raise CheckError(f"{what} can't take this network: {type(error).__name__}: "
                             f"{first[0][:300] if first else ''}") from error
