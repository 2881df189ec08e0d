"""``python -m finetune``: errors become one message and an exit code, never a traceback."""

import os
import sys

from finetune.errors import FinetuneError

__all__ = ["main"]

_TRAINING_PACKAGES = {"torch", "torchvision", "timm", "albumentations", "sklearn", "wandb",
                      "safetensors", "matplotlib", "scipy", "jinja2"}


def main(words: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1, 2, 3 or 130."""
    from finetune.cli import commands, run_command

    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, "")  # as with -m: a user's own builders and presets are found here
    words = sys.argv[1:] if words is None else words
    try:
        return run_command(words)
    except FinetuneError as error:
        ways = commands(words, getattr(error, "ways_out", ()))
        return _report("\n".join(filter(None, [str(error), ways])), error.exit_code)
    except KeyboardInterrupt:
        return _report("interrupted", 130)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _TRAINING_PACKAGES:
            raise
        return _report(f"training needs the package {error.name}, which is not installed: "
                       'python -m pip install "finetune-images[train]"', 2)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _report(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
                       ". Nothing written before is lost; free space or rights and resume.", 1)


def _report(text: str, code: int) -> int:
    from finetune.console import fail

    fail(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
