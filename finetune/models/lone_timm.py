"""timm without wandb.

timm loads wandb when it finds it, for a log that nothing here writes: half a second and 20 MiB of
every process. It is told that there is none; whoever tracks a run loads it later.
"""

import sys
from importlib import import_module
from typing import Any

__all__ = ["timm"]


def _load() -> Any:
    hidden = "wandb" not in sys.modules
    if hidden:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # imports fail
    try:
        return import_module("timm")
    finally:
        if hidden:
            del sys.modules["wandb"]


timm = _load()
