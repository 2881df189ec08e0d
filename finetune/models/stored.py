"""Folders of weights for machines without a network: ``weights fetch`` makes them.

timm's own format (``model.safetensors`` and ``config.json``; timm loads them as ``local-dir:DIR``),
the licence, and a manifest with every file's hash.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file
from torch import Tensor

from finetune.errors import ConfigurationError
from finetune.files import hash_file, parse_json, write_json, write_text

__all__ = ["CONFIG", "MANIFEST", "WEIGHTS", "check_new", "check_stored", "is_stored",
           "read_description", "read_json", "refuse_sources", "store", "stored_problems"]

# arguments of timm.create_model that name files, or settings of another network
_OTHER_SOURCES = {"model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
                  "checkpoint_path", "cache_dir", "pretrained_custom_load", "pretrained_strict",
                  "scriptable", "exportable", "no_jit", "device", "dtype"}
MANIFEST, CONFIG, WEIGHTS = "manifest.json", "config.json", "model.safetensors"


def is_stored(folder: Path) -> bool:
    """Whether a folder looks like timm's: a ``config.json`` and ``model.safetensors``."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def check_stored(folder: Path) -> tuple[dict[str, Any], Path]:
    """What ``config.json`` says, and the weights' file, after comparing hashes with the manifest.

    A folder that was made by other means, without a manifest, is taken as it is.

    Raises:
        ConfigurationError: Hashes differ, files are missing, or it isn't a timm network's.
    """
    problems = hash_problems(folder) if (folder / MANIFEST).is_file() else []
    if problems:
        raise ConfigurationError(f"model.weights={folder}: {'; '.join(problems)}. Copy the folder "
                                 "again from the machine that fetched it")
    return read_description(folder), folder / WEIGHTS


def read_description(folder: Path) -> dict[str, Any]:
    """What a folder's ``config.json`` says.

    Raises:
        ConfigurationError: It can't be read, or names no network of timm's.
    """
    described = read_json(folder / CONFIG)
    if not timm.is_model(str(described.get("architecture"))):
        raise ConfigurationError(f"{folder / CONFIG} has architecture="
                                 f"{described.get('architecture')}, which is no timm network here")
    for key in ("pretrained_cfg", "model_args"):
        if not isinstance(described.get(key, {}), dict):
            raise ConfigurationError(f"{folder / CONFIG}: {key} is not an object")
    refuse_sources(described, str(folder / CONFIG))
    return described


def refuse_sources(described: Mapping[str, Any], where: str) -> None:
    """Raise a `ConfigurationError` where a ``config.json`` sends timm to other files.

    timm would read them as it pleases, in older versions pickles among them.
    """
    wrong = sorted(_OTHER_SOURCES & {*(described.get("model_args") or {})})
    if wrong:
        raise ConfigurationError(f"{where}: model_args.{wrong[0]} would make timm read another "
                                 "file; remove it")


def hash_problems(folder: Path) -> list[str]:
    """Which files of the manifest are missing or changed.

    Raises:
        ConfigurationError: The manifest can't be read.
    """
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict) or WEIGHTS not in files or CONFIG not in files:
        raise ConfigurationError(f"{folder / MANIFEST} lists no files; expected is what `weights "
                                 "fetch` writes")
    found = []
    for name, entry in files.items():
        path = folder / Path(name).name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif not isinstance(entry, dict) or hash_file(path) != entry.get("sha256"):
            found.append(f"{name} has another SHA-256 than its manifest says (damaged or changed)")
    return found


def stored_problems(folder: Path) -> list[str]:
    """The same as `hash_problems` for a folder of any kind.

    Raises:
        ConfigurationError: It is no folder that ``weights fetch`` made.
    """
    missing = [name for name in (MANIFEST, CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if not folder.is_dir() or MANIFEST in missing:
        what = "is no folder" if not folder.is_dir() else f"has no {MANIFEST}"
        raise ConfigurationError(f"{folder} {what}; expected is a folder that `weights fetch MODEL "
                                 "--to DIR` made")
    return hash_problems(folder)


def store(folder: Path, tensors: Mapping[str, Tensor], *, described: Mapping[str, Any],
          licence: str, facts: Mapping[str, Any]) -> Path:
    """Write such a folder: whole, or not at all.

    Args:
        folder: Must not exist yet; the folder above it must.
        tensors: By timm's names.
        described: timm's ``config.json``.
        licence: Text of ``LICENCE.txt``.
        facts: What the manifest tells beside the files' hashes.

    Raises:
        ConfigurationError: The folder exists, or can't be made.
    """
    check_new(folder)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        save_file({n: t.clone().contiguous() for n, t in tensors.items()}, work / WEIGHTS,
                  metadata={"format": "pt"})
        write_json(work / CONFIG, described)
        write_text(work / "LICENCE.txt", licence)
        files = {p.name: {"sha256": hash_file(p), "bytes": p.stat().st_size}
                 for p in sorted(work.iterdir())}
        write_json(work / MANIFEST, {**facts, "files": files})
        work.chmod(0o755)
        os.rename(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def check_new(folder: Path) -> None:
    """Raise a `ConfigurationError` when a folder can't be made under this name."""
    if folder.exists() or folder.is_symlink():
        raise ConfigurationError(f"{folder} exists; choose another name or remove it first")
    if not folder.parent.is_dir():
        raise ConfigurationError(f"there is no folder {folder.parent}; make it first")
    if not os.access(folder.parent, os.W_OK):
        raise ConfigurationError(f"{folder.parent} can't be written to")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ConfigurationError: It can't be read, or holds something else.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} holds a {type(content).__name__}, not an object")
    return content
