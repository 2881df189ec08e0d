r"""What is wrong with pictures: copies, leaks between parts, shortcuts, broken and odd ones.

python data_tools/audit.py DIR [--labels FILE] [--output DIR] [--fix-splits FILE] [--no-near]
                           [data.KEY=VALUE ...]

The same as ``python -m finetune audit``. Exit codes: 0 done, 1 a file can't be written, 2 bad
input, 130 interrupted.
"""

import sys

from finetune.__main__ import main as run


def main(arguments: list[str] | None = None) -> int:
    """Audit what the words name; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    return run(["audit", *words])


if __name__ == "__main__":
    sys.exit(main())
