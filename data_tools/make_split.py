r"""Divide pictures as a run would and write the split; nothing is trained.

python data_tools/make_split.py splits.csv data.root=DIR data.group_from='patient(\d+)'

Takes the settings of ``data.*``, refuses what a run refuses, and writes a file for
``data.splits_file``. Exit codes: 0 done, 2 bad input.
"""

import sys
from pathlib import Path

from finetune.assembly import assemble_data
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
        fail(str(error))
        return error.exit_code
    return 0


def make_split(target: Path, words: list[str]) -> None:
    """Divide what the words describe.

    Raises:
        InputError: ``data.root`` is missing, the target exists, or the data are refused.
    """
    if "=" in str(target):
        raise InputError(f"the first word is the file to write, not {target}")
    if target.exists():
        raise InputError(f"{target} exists; choose another name or remove it first")
    config = compose(words).config
    if config.data.root is None:
        raise InputError("data.root=DIR is missing: which pictures are to be divided?")
    data = assemble_data(config, config.data.root)
    for text in data.warnings:
        warn(text)
    write_splits(target, data.samples, data.split)
    counts = class_counts(data.samples, data.split)
    table(f"{data.split.method} split", ["class", *data.parts],
          [[name, *[row.get(part, 0) for part in data.parts]] for name, row in counts.items()])
    say(f"wrote {target}; use it with data.splits_file={target.resolve()}")


if __name__ == "__main__":
    sys.exit(main())
