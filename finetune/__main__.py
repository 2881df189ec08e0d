"""``python -m finetune``: errors become one message and an exit code, never a traceback."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from finetune.errors import FinetuneError, Interrupted

__all__ = ["main"]

_TRAINING_PACKAGES = {"torch", "torchvision", "timm", "albumentations", "sklearn", "wandb",
                      "safetensors", "matplotlib", "scipy", "jinja2"}


def main(words: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1, 2, 3 or 130."""
    _put_current_folder_last()
    from finetune.cli import commands, run_command

    words = sys.argv[1:] if words is None else words
    received: list[int] = []
    try:
        with _signals(received):
            return run_command(words)
    except FinetuneError as error:
        ways = commands(words, getattr(error, "ways_out", ()))
        return _report("\n".join(filter(None, [str(error), ways])), error.exit_code)
    except KeyboardInterrupt:
        return _report("interrupted; nothing was changed", Interrupted.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _TRAINING_PACKAGES:
            raise
        return _report(f"training needs the package {error.name}, which is not installed: "
                       'python -m pip install "finetune-images[train]"', 2)
    except RuntimeError as error:
        told = _outside_failure(error)
        if told is None:
            raise
        return _report(told, 1)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _report(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
                       ". Nothing written before is lost; free space or rights and resume.", 1)


def _put_current_folder_last() -> None:
    """A user's own builders and presets are found there, but nothing in it hides a library."""
    here = os.getcwd()
    while sys.path and sys.path[0] in ("", here):
        del sys.path[0]
    if here not in sys.path:
        sys.path.append(here)


@contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """SIGTERM ends a command as SIGINT does, not in silence; both are remembered."""
    def remember(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(kind, remember) for kind in kinds]
    except ValueError:  # not the main thread
        before = []
    try:
        yield
    except BaseException as error:
        if received and not isinstance(error, FinetuneError):
            raise KeyboardInterrupt from error  # an interrupted import fails in its own ways
        raise
    finally:
        for kind, handler in zip(kinds, before, strict=False):
            signal.signal(kind, handler)


def _outside_failure(error: RuntimeError) -> str | None:
    """What torch tells as a RuntimeError though it is no fault of the program; else None."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    if text.startswith("DataLoader worker"):
        return (f"a process that reads pictures died ({first}). Too little memory is the usual "
                "reason: fewer data.workers or a smaller data.batch_size; then resume the run")
    if "out of memory" in text or "can't allocate memory" in text:
        return (f"{first}\nThe device has too little memory: a smaller data.batch_size, with "
                "training.accumulation_steps to keep the step's size, or data.image_size")
    return None


def _report(text: str, code: int) -> int:
    from finetune.console import fail

    fail(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
