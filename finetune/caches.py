"""What finetune keeps beside the runs, to be quicker the next time; all of it can be deleted."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.assembly import cache_folder
from finetune.data.pack_files import clear_packs, list_packs
from finetune.files import read_json
from finetune.training.features import list_caches

__all__ = ["KINDS", "Kept", "clear_kept", "list_kept"]

KINDS = ("features", "packs", "arithmetic")


@dataclass(frozen=True)
class Kept:
    """One thing that is kept.

    Attributes:
        kind: One of `KINDS`.
        size: In bytes.
        what: What it holds, in words.
        path: Where.
    """

    kind: str
    size: int
    what: str
    path: Path


def list_kept() -> list[Kept]:
    """Cached features, packed pictures, measured arithmetic."""
    home = cache_folder()
    found = [Kept("features", size, f"{_told(path)}, last used {_day(used)}", path)
             for path, size, used in list_caches(home / "features")]
    found += [Kept("packs", pack.size, pack.what, pack.path) for pack in list_packs(home / "packs")]
    measured = home / "arithmetic.json"
    if measured.exists():
        found.append(Kept("arithmetic", measured.stat().st_size, "what was fastest", measured))
    return found


def clear_kept(kinds: Sequence[str] = KINDS) -> int:
    """Delete what is kept of these kinds; the bytes that are free now."""
    gone = [kept for kept in list_kept() if kept.kind in kinds]
    home = cache_folder()
    if "features" in kinds:
        shutil.rmtree(home / "features", ignore_errors=True)
    if "packs" in kinds:
        clear_packs(home / "packs")
    if "arithmetic" in kinds:
        (home / "arithmetic.json").unlink(missing_ok=True)
    return sum(kept.size for kept in gone)


def _told(path: Path) -> str:
    try:
        told = read_json(path / "about.json")
        views, pictures, *shape = told["shape"]
        network = told["about"].get("network", ["?"])[0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "damaged"
    return (f"{network} before {told['about'].get('boundary', '?')}, {pictures} pictures, "
            f"{views} view{'s' if views > 1 else ''}, {'x'.join(map(str, shape))} {told['dtype']}")


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
