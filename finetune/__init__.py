"""Transfer learning on images, for people who must defend their result.

From a notebook, the same run as ``python -m finetune recipe=medical data.root=DIR``::

    import finetune

    run = finetune.fit("medical", {"data.root": "pictures", "training.epochs": 5})
    print(run.metrics["test"]["balanced_accuracy"])
    print(finetune.Predictor.from_run(run)(["new/1.png"])[0].predicted)
"""

import os
from typing import TYPE_CHECKING, Any

# Threads that wait give their core to others (unless the user wants otherwise): two programs that
# spin for each other's cores are ten times slower. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["FinetuneError", "InputError", "Predictor", "RunDirectory", "fit"]

if TYPE_CHECKING:
    from finetune.api import fit
    from finetune.errors import FinetuneError, InputError
    from finetune.prediction.predictor import Predictor
    from finetune.run_directory import RunDirectory

_HOMES = {
    "fit": "finetune.api",
    "FinetuneError": "finetune.errors",
    "InputError": "finetune.errors",
    "Predictor": "finetune.prediction.predictor",
    "RunDirectory": "finetune.run_directory",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: ``--help`` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
