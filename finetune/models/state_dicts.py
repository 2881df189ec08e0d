"""Files of weights: read without running code, and unwrapped to one flat state dict."""

import argparse
import pathlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from finetune.archives import check_stored_only
from finetune.errors import ConfigurationError, first_of

__all__ = ["read_tensors", "unwrap"]

# Averaged weights first, as timm does.
WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model_state",
            "model", "net", "weights", "module")
# What training programs put beside tensors: settings and best scores. Plain data, no code.
_HARMLESS: list[Any] = [argparse.Namespace, pathlib.PosixPath, np.dtype, *{
    type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
    *[(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar")
      for core in ("core", "_core")]]
_FOREIGN_CODE = re.compile(r"GLOBAL ([\w.]+)")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a weights file by name, on the CPU, and notes on what was unwrapped.

    Reads ``.safetensors`` and what ``torch.save`` writes, told apart by content. Code inside a
    pickle is never run (``weights_only=True``).

    Raises:
        ConfigurationError: Not there, empty, broken, with code, without tensors, or with values
            that aren't finite.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise ConfigurationError(
            f"weights file {path.name} can't be read: {error.strerror}") from error
    if not start:
        raise ConfigurationError(f"weights file {path.name} is empty (0 bytes): copy it again")
    is_pickle = start.startswith((b"PK", b"\x80"))
    is_safe = start[8:9] == b"{" or (path.suffix == ".safetensors" and not is_pickle)
    content = _read_safetensors(path) if is_safe else _read_pickle(path, start)
    tensors, notes = unwrap(content, name=path.name)
    _check_finite(tensors, path.name)
    return tensors, notes


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, LookupError, RuntimeError, TypeError,
            MemoryError, OverflowError, AttributeError) as error:
        raise ConfigurationError(f"weights file {path.name} is not a whole .safetensors file "
                                 f"({error}): copy or download it again") from error


def _read_pickle(path: Path, start: bytes) -> Any:
    if not start.startswith((b"PK", b"\x80")):
        raise ConfigurationError(
            f"{path.name} is not a weights file: it begins with {start!r}; expected is "
            ".safetensors or a .pth, .pt or .bin file that torch.save wrote")
    try:
        check_stored_only(path)
        with (warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS),
              path.open("rb") as stream):  # torch.load would look at a path's ending
            warnings.simplefilter("ignore")  # old formats are welcome
            return torch.load(stream, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError,
            AttributeError, OSError, ImportError, AssertionError, OverflowError, MemoryError,
            NotImplementedError, struct.error, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    code = _FOREIGN_CODE.search(str(error))
    if code:
        return ConfigurationError(
            f"weights file {path.name} holds more than tensors: it wants {code[1]}, which could "
            "run code and is refused. Save its tensors alone, in the program that made it: "
            "torch.save(model.state_dict(), NEW_FILE)")
    if "TorchScript" in str(error):
        return ConfigurationError(
            f"weights file {path.name} is a TorchScript program; expected is a state dict: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)")
    if "WeightsUnpickler" in str(error):
        return ConfigurationError(
            f"{path.name} is a pickle that torch.save did not write; such a file could run code "
            "and is refused. Expected is a state dict: torch.save(model.state_dict(), NEW_FILE)")
    first_line = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ConfigurationError(f"weights file {path.name} is broken or not written by torch.save "
                              f"({first_line}): copy or download it again")


def unwrap(content: object, *, name: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The flat state dict inside what a file held, and notes.

    Training programs put it under a key such as ``state_dict`` or ``model``; averaged weights
    (``ema``) are preferred, as in timm, otherwise the first set, and that is noted. Entries that
    aren't tensors are left out.

    Raises:
        ConfigurationError: There are no tensors by name.
    """
    notes: list[str] = []
    while isinstance(content, Mapping):
        keys = ([key for key in WRAPPERS if _holds_tensors(content.get(key))]
                or _larger_parts(content))
        if not keys:
            break
        if len(keys) > 1:
            notes.append(f"{name} holds several sets of weights ({', '.join(keys)}); "
                         f"{keys[0]} is used")
        content = content[keys[0]]
    tensors = _tensors_of(content)
    if not tensors:
        raise ConfigurationError(f"{name} holds no tensors by name{_what_it_holds(content)}; "
                                 "expected is a state dict, plain or under one of "
                                 f"{', '.join(WRAPPERS)}")
    return tensors, tuple(notes)


def _larger_parts(content: Mapping[Any, Any]) -> list[str]:
    """Keys of other names with more tensors than lie here, such as student and teacher."""
    here = len(_tensors_of(content))
    return [key for key, part in content.items()
            if isinstance(key, str) and len(_tensors_of(part)) > here]


def _tensors_of(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {key: value for key, value in content.items()
            if isinstance(key, str) and isinstance(value, Tensor)}


def _holds_tensors(content: object, depth: int = 4) -> bool:
    if depth == 0 or not isinstance(content, Mapping):
        return False
    inner = any(_holds_tensors(content.get(key), depth - 1) for key in WRAPPERS)
    return inner or bool(_tensors_of(content))


def _what_it_holds(content: object) -> str:
    if isinstance(content, Mapping):
        return f" but {first_of(list(content)) or 'nothing'}"
    return f" but a {type(content).__name__}"


def _check_finite(tensors: Mapping[str, Tensor], name: str) -> None:
    spread = [key for key, tensor in tensors.items()  # a few bytes that stand for gigabytes
              if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()]
    if spread:
        raise ConfigurationError(f"weights file {name} holds {first_of(spread)} without all of its "
                                 "numbers: save the tensors as torch.nn.Module.state_dict() does")
    bad = [key for key, tensor in tensors.items()
           if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all())]
    if bad:
        raise ConfigurationError(f"weights file {name} holds NaN or infinite values in "
                                 f"{first_of(bad)}: training it was going wrong; use another one")
