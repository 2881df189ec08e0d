r"""Divide pictures as a run would and write the split; nothing is trained.

python data_tools/make_split.py splits.csv data.root=DIR 'data.group_from=patient(\d+)'

Takes the settings of ``data.*`` (and ``recipe=``, for those that a recipe holds), refuses what a
run refuses, and writes a file for ``data.splits_file``. Exit codes: 0 done, 1 the file can't be
written, 2 bad input, 130 interrupted.
"""

import shlex
import sys
from pathlib import Path

from finetune.assembly import Data, assemble_data
from finetune.composition import compose
from finetune.console import fail, say, table, warn
from finetune.data.splits import class_counts, write_splits
from finetune.errors import FinetuneError, InputError


def main(arguments: list[str] | None = None) -> int:
    """Write the split; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 2
    try:
        make_split(Path(words[0]), words[1:])
    except FinetuneError as error:
        return _failed(str(error), error.exit_code)
    except OSError as error:
        return _failed(f"{words[0]} can't be written: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    return 0


def _failed(text: str, code: int) -> int:
    fail(text)
    return code


def make_split(target: Path, words: list[str]) -> None:
    """Divide what the words describe.

    Raises:
        InputError: ``data.root`` is missing, the target exists, or the data are refused.
    """
    _check(target, words)
    config = compose(words).config
    assert config.data.root is not None
    data = assemble_data(config, config.data.root)
    write_splits(target, data.samples, data.split)
    _show(data)
    word = shlex.quote(f"data.splits_file={target.resolve()}")
    say(f"wrote {target}; use it with {word}")


def _check(target: Path, words: list[str]) -> None:
    if "=" in str(target):
        raise InputError(f"the first word is the file to write, not {target}")
    if target.exists():
        raise InputError(f"{target} exists; choose another name or remove it first")
    keys = [word.partition("=")[0] for word in words]
    idle = [key for key in keys if key.partition(".")[0] not in ("data", "recipe")]
    if idle:
        raise InputError(f"{', '.join(idle)} can't change a split: expected keys of data.*, or "
                         "recipe=NAME")
    if "data.root" not in keys:
        raise InputError("data.root=DIR is missing: which pictures are to be divided?")


def _show(data: Data) -> None:
    for text in [*data.warnings, *data.split.repairs]:
        warn(text)
    counts = class_counts(data.samples, data.split)
    table(f"{data.split.method} split", ["class", *data.parts],
          [[name, *[row.get(part, 0) for part in data.parts]] for name, row in counts.items()])


if __name__ == "__main__":
    sys.exit(main())
