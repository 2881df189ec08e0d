"""Write generated sample pictures to try things out with: no download, no real picture.

python data_tools/make_sample.py medical samples/medical --seed 0
"""

import argparse
import sys
from pathlib import Path

from finetune.data.sample_data import DOMAINS, generate_samples


def main(arguments: list[str] | None = None) -> int:
    """Write the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("domain", choices=DOMAINS, help="what the pictures resemble")
    parser.add_argument("folder", type=Path, help="where to write; made if missing")
    parser.add_argument("--seed", type=int, default=0, help="0 or more; chooses the pictures")
    given = parser.parse_args(arguments)
    if given.seed < 0:
        parser.error(f"--seed {given.seed}: expected 0 or more")
    folder = generate_samples(given.domain, given.folder, seed=given.seed)
    count = len((folder / "samples.csv").read_text(encoding="utf-8").splitlines()) - 1
    print(f"{count} generated pictures and samples.csv are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
