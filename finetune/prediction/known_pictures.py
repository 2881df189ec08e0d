"""Which new pictures are none: the run had them already, or they are given more than once."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.prefetching import map_ahead
from finetune.data.scanning import content_hash
from finetune.data.split_warnings import PARTS
from finetune.data.splits import read_splits
from finetune.data.unreadable import UnreadableImage, read_bytes

__all__ = ["Known", "find_known", "read_hashes"]

THREADS, AHEAD = 4, 64


@dataclass(frozen=True)
class Known:
    """What hashes of files tell of new pictures.

    Attributes:
        count: New pictures.
        parts: How many are, byte for byte, pictures of the run's parts; None where it kept no
            hashes of files.
        repeated: How many are, byte for byte, one that is given before.
    """

    count: int
    parts: dict[str, int] | None = field(default_factory=dict)
    repeated: int = 0

    def warnings(self) -> list[str]:
        """What has to be said beside figures of these pictures."""
        told = []
        if self.parts is None:
            told.append("this model brings no hashes of its pictures' files (exports and older "
                        "runs don't): whether new ones were among them was not looked for")
        elif self.parts:
            split = ", ".join(f"{count} of {part}" for part, count in self.parts.items())
            told.append(f"{sum(self.parts.values())} of the {self.count} new pictures are, byte "
                        f"for byte, pictures of this run: {split}. Of new pictures the figures "
                        "below say too much: leave these out")
        if self.repeated:
            told.append(f"{self.repeated} of the {self.count} new pictures are given more than "
                        "once (byte for byte) and count as often: intervals are too narrow")
        return told


def find_known(paths: Sequence[str], hashes: Mapping[str, str] | None) -> Known:
    """Compare new pictures' bytes with those of a run, and with each other.

    Copies that were coded or sized anew are not found.

    Args:
        paths: Their files; what can't be read is passed over.
        hashes: From `read_hashes`.
    """
    parts, seen, repeated = Counter[str](), set[str](), 0
    for found in map_ahead(_hash, paths, threads=THREADS, ahead=AHEAD):
        repeated += found is not None and found in seen
        if found is not None and found not in seen:
            seen.add(found)
        parts.update([hashes[found]] if found and hashes and found in hashes else [])
    return Known(len(paths), None if hashes is None else
                 {part: parts[part] for part in PARTS if parts[part]}, repeated)


def read_hashes(splits: Path) -> dict[str, str] | None:
    """For each content of a run's pictures its part; train where it is in several.

    None where the run kept none, or of pictures that are no files of their own (``.npz``).
    """
    rows = _rows(splits)
    found = [(row["hash"], row["split"]) for row in rows if row.get("hash") and row["split"]]
    return dict(sorted(found, key=lambda each: -PARTS.index(each[1]))) if found else None


def _rows(splits: Path) -> Iterable[dict[str, str]]:
    try:
        return read_splits(splits)
    except (OSError, ValueError):  # taken away by hand: nothing is known
        return []


def _hash(path: str) -> str | None:
    try:
        return content_hash(read_bytes(path, path))
    except (UnreadableImage, MemoryError):
        return None
