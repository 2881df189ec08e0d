"""Weights from the network: the Hugging Face hub and plain URLs, cached, failing fast offline."""

import contextlib
import hashlib
import queue
import re
import socket
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from finetune.errors import ConfigurationError
from finetune.files import hash_file, write_with

__all__ = ["WAYS_OUT", "check_address", "check_in_hub", "check_named_hash", "download",
           "find_in_hub", "find_in_torch_cache", "is_reachable", "public_address", "torch_cache"]

PROBE_SECONDS = 1.5  # a lookup in huggingface_hub would try for most of a minute
READ_SECONDS = 30.0  # without a byte
WAYS_OUT = (
    "Ways out: `weights fetch MODEL --to DIR` on a machine with network, then here "
    "model.weights=DIR; or download a file there and give it here as model.weights=FILE; copy that "
    "machine's hub cache and set HF_HOME to it; model.weights=bundled or packaged, which need no "
    "network; or train from random weights with model.weights=null")
# torch's convention: resnet18-f37072fd.pth. Eight digits that are a date are none.
_NAMED_HASH = re.compile(r"-(?!(?:19|20)\d\d[01]\d[0-3]\d\.)([0-9a-f]{8,64})\.\w+$")


def is_reachable(address: str, *, seconds: float = PROBE_SECONDS) -> bool:
    """Whether the server of a URL (or the proxy that leads to it) accepts a connection in time.

    Nothing is sent. The name lookup counts as well, which no socket timeout limits.
    """
    host, port = _host_and_port(address)
    answers: queue.Queue[bool] = queue.Queue()
    threading.Thread(target=lambda: answers.put(_connects(host, port, seconds)),
                     daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return False


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _connects(host: str, port: int, seconds: float) -> bool:
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def find_in_hub(repository: str, names: list[str]) -> Path:
    """The first of these files of a hub repository: from the cache, else downloaded into it.

    ``repository`` may end in ``@revision``. ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE``
    are honoured.

    Raises:
        ConfigurationError: No network (within two seconds), no such repository or file, no access.
    """
    cached = _in_cache(repository, names)
    if cached is not None:
        return cached
    _check_online(repository)
    repo, _, revision = repository.partition("@")
    for name in names:
        with contextlib.suppress(EntryNotFoundError):
            return _fetch(repo, name, revision or None)
    raise ConfigurationError(f"hf-hub:{repository} has none of {', '.join(names)}")


def check_in_hub(repository: str, names: list[str]) -> None:
    """Raise a `ConfigurationError` when nothing is cached and the hub can't be reached."""
    if _in_cache(repository, names) is None:
        _check_online(repository)


def _in_cache(repository: str, names: list[str]) -> Path | None:
    repo, _, revision = repository.partition("@")
    for name in names:
        cached = try_to_load_from_cache(repo, name, cache_dir=constants.HF_HUB_CACHE,
                                        revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _check_online(repository: str) -> None:
    if constants.HF_HUB_OFFLINE:
        problem = "HF_HUB_OFFLINE is set"
    elif not is_reachable(constants.ENDPOINT):
        problem = f"{public_address(constants.ENDPOINT)} can't be reached"
    else:
        return
    raise ConfigurationError(f"hf-hub:{repository} is not in the cache ({constants.HF_HUB_CACHE}) "
                             f"and {problem}. {WAYS_OUT}")


def _fetch(repo: str, name: str, revision: str | None) -> Path:
    try:
        return Path(hf_hub_download(repo, name, revision=revision, endpoint=constants.ENDPOINT,
                                    etag_timeout=5, cache_dir=constants.HF_HUB_CACHE))
    except LocalEntryNotFoundError as error:  # the server went away, or answers with errors
        raise _hub_failed(repo, name, error) from error
    except EntryNotFoundError:
        raise
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise _hub_failed(repo, name, error) from error


def _hub_failed(repo: str, name: str, error: Exception) -> ConfigurationError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ConfigurationError(f"{name} can't be had from hf-hub:{repo} ({type(error).__name__}: "
                              f"{reason}). Is the name right, and is access granted? {WAYS_OUT}")


def check_address(url: str) -> None:
    """Raise a `ConfigurationError` when a URL has no host or can't be read as one."""
    try:
        parts = urlsplit(url)
        problem = "" if parts.hostname and (parts.port or True) else "it names no server"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise ConfigurationError(f"model.weights={url} is no address: {problem}; expected is "
                                 "https://HOST/PATH")


def download(url: str) -> Path:
    """The file behind an ``http(s)://`` address, in torch's hub cache (``TORCH_HOME``).

    A file that is there already is not fetched again. A name such as ``resnet18-f37072fd.pth``
    is shared with torchvision and its hash is checked; others lie apart, by the address's hash.

    Raises:
        ConfigurationError: Unreachable, refused, cut short, a web page, or another hash.
    """
    if "@" in urlsplit(url).netloc:
        raise ConfigurationError(f"{public_address(url)}: an address with user or password is not "
                                 f"taken. {WAYS_OUT}")
    path = cache_path(url)
    hashed = _NAMED_HASH.search(path.name)
    if not path.exists():
        _download_to(path, url)
    if hashed and not hash_file(path).startswith(hashed[1]):
        path.unlink()
        raise ConfigurationError(f"{public_address(url)} has another SHA-256 than its name says "
                                 f"({hashed[1]}); it was deleted from the cache: try again")
    return path


def torch_cache() -> Path:
    """Where torch and torchvision keep weights (``TORCH_HOME``)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_in_torch_cache(name: str) -> Path | None:
    """The file of this plain name in torch's own cache, or None."""
    path = torch_cache() / name
    return path if Path(name).name == name and path.is_file() else None


def check_named_hash(path: Path) -> None:
    """Raise a `ConfigurationError` when a file's name ends in another SHA-256 than its own."""
    named = _NAMED_HASH.search(path.name)
    if named and not hash_file(path).startswith(named[1]):
        raise ConfigurationError(
            f"weights file {path.name}: its SHA-256 begins with {hash_file(path)[:len(named[1])]}, "
            f"its name says {named[1]}: it is damaged or another file; copy it again (if the name "
            "means something else, rename the file)")


def cache_path(url: str) -> Path:
    """Where `download` keeps the file behind an address, whether or not it is there yet."""
    name = Path(urlsplit(url).path).name or "weights"
    folder = torch_cache()
    if not _NAMED_HASH.search(name):
        folder = folder / f"url-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    return folder / name


def _download_to(path: Path, url: str) -> None:
    shown = public_address(url)
    if not is_reachable(url):
        raise ConfigurationError(f"{shown} is not in the cache ({path.parent}) and its server "
                                 f"can't be reached. {WAYS_OUT}")
    request = urllib.request.Request(url, headers={"User-Agent": "finetune-images"})
    try:
        with urllib.request.urlopen(request, timeout=READ_SECONDS) as answer:
            _check_kind(answer.headers.get_content_type(), shown)
            write_with(path, lambda stream: _copy(answer, stream))
    except (OSError, HTTPException, ValueError) as error:  # HTTPError and URLError are OSErrors
        raise ConfigurationError(f"downloading {shown} failed ({error}). {WAYS_OUT}") from error


def _check_kind(kind: str, shown: str) -> None:
    if kind == "text/html":
        raise ConfigurationError(f"{shown} is a web page, not a weights file: give the address of "
                                 "the file itself (often the link behind 'download' or 'raw')")


def _copy(answer: Any, stream: BinaryIO) -> None:
    expected, received = answer.headers.get("Content-Length"), 0
    while piece := answer.read(1 << 20):
        received += stream.write(piece)
    if expected and received != int(expected):
        raise OSError(f"{received} of {expected} bytes arrived")


def public_address(url: str) -> str:
    """The address without user, password, query and fragment: those may hold secrets.

    >>> public_address("https://me:secret@example.org/a.pth?token=1")
    'https://example.org/a.pth'
    """
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
