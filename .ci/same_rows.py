"""Whether two files of predict agree: probabilities to 1e-4, all else letter by letter."""

import csv
import sys
from pathlib import Path


def main() -> int:
    """Compare the two files that are named; 1 when they differ."""
    one, other = (list(csv.DictReader(Path(name).read_text(encoding="utf-8").splitlines()))
                  for name in sys.argv[1:3])
    differing = [column for a, b in zip(one, other, strict=True) for column in a
                 if (abs(float(a[column]) - float(b[column])) > 1e-4
                     if column.startswith("probability_") else a[column] != b[column])]
    print(f"{len(one)} rows, {len(differing)} cells differ {sorted(set(differing))}")
    return 1 if differing or not one else 0


if __name__ == "__main__":
    sys.exit(main())
