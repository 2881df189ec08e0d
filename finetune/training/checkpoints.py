"""Checkpoints: whole or not there, and loadable without running code."""

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from finetune.archives import check_stored_only
from finetune.errors import FinetuneError
from finetune.files import parse_json, write_bytes, write_with
from finetune.training.loop import LoopState

__all__ = ["load_checkpoint", "load_tensors", "load_weights", "read_metadata", "save_checkpoint",
           "save_tensors", "save_weights"]


def save_checkpoint(path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer,
                    state: LoopState, average: nn.Module | None = None) -> None:
    """Write everything that continuing needs, atomically."""
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": asdict(state),
        "average": None if average is None else average.state_dict(),
    }
    write_with(path, lambda stream: _save(content, stream))


def _save(content: dict[str, Any], stream: BinaryIO) -> None:
    try:
        torch.save(content, stream)
    except RuntimeError as error:  # torch hides a full disk behind an error of its own
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def load_checkpoint(path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer,
                    average: nn.Module | None = None) -> LoopState:
    """Restore model, optimizer and averaged weights in place; return the loop's state.

    Raises:
        FinetuneError: The file is missing or damaged.
    """
    try:
        check_stored_only(path)
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")  # of pickles that torch didn't write
            content = torch.load(stream, map_location="cpu", weights_only=True)
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        if average is not None:
            average.load_state_dict(content["average"])
        return LoopState(**content["state"])
    except _UNREADABLE as error:
        raise FinetuneError(f"{path} is no whole checkpoint of this run ({_first_line(error)}). "
                            "It can't be resumed: put a copy of the file back, or start the run "
                            "again") from error


# what torch raises for files that are cut off, empty, of another kind, or another model's
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError,
               ImportError, AssertionError, MemoryError, OverflowError, struct.error,
               pickle.UnpicklingError, zipfile.BadZipFile)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def save_weights(path: Path, model: nn.Module, *, metadata: Mapping[str, str]) -> None:
    """Write a model's tensors as `save_tensors` does."""
    save_tensors(path, model.state_dict(), metadata=metadata)


def save_tensors(path: Path, named: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, atomically.

    The same tensors and metadata give the same bytes: the metadata is one entry, ``finetune``,
    as JSON, since safetensors writes several in an order of chance.
    """
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in named.items()}
    told = {"finetune": json.dumps(dict(metadata), sort_keys=True)}
    write_bytes(path, save(_unshared(tensors), told))


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    copies = {}
    for name, tensor in tensors.items():
        copies[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return copies


def load_weights(path: Path, model: nn.Module) -> None:
    """Load what `save_weights` wrote, in place; every tensor has to fit.

    Raises:
        FinetuneError: The file is missing, damaged, or another model's.
    """
    try:
        model.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise FinetuneError(f"{path} does not hold this model's weights: {error}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name that `save_tensors` wrote, on the CPU.

    Raises:
        FinetuneError: The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError, ValueError, LookupError, RuntimeError, TypeError,
            MemoryError) as error:
        raise FinetuneError(f"{path} does not hold this model's weights: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_tensors` was told beside the tensors; the file has to be there."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(parse_json((file.metadata() or {}).get("finetune", "{}")))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise FinetuneError(f"{path} is no file of weights that this program wrote: {error}"
                            ) from error
