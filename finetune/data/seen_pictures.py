"""What the training pictures were like as files, and in what another picture differs from them."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.data.decoding import Decoded
from finetune.data.scanning import PictureFacts
from finetune.errors import first_of

__all__ = ["SeenPictures", "describe_pictures"]

_TIMES = 2.0     # a side is far outside where it is beyond the smallest or largest by this factor
_BEYOND = 0.1    # of the range of values: so far may values lie outside
_DARKER = 0.25   # of the range of values: so far may the largest value lie below all others'


@dataclass(frozen=True)
class SeenPictures:
    """Training pictures, as decoded and before anything is resized.

    Attributes:
        count: How many.
        modes: The files' colour modes and how many pictures have each.
        sides: Shortest and longest side in pixels over all pictures.
        values: For each number type the lowest value, the lowest of the pictures' largest values,
            and the highest value.
    """

    count: int
    modes: dict[str, int]
    sides: tuple[int, int]
    values: dict[str, tuple[float, float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SeenPictures":
        """What `to_dict` described."""
        low, high = values["sides"]
        ranges = {kind: (float(a), float(b), float(c)) for kind, (a, b, c)
                  in values["values"].items()}
        return cls(int(values["count"]), dict(values["modes"]), (int(low), int(high)), ranges)

    def oddities(self, decoded: Decoded) -> list[str]:
        """In what a picture is unlike all of these, as sentences; nothing when in none.

        Its mode is none of theirs (an empty mode isn't judged); a side is less than half their
        shortest or more than twice their longest; its values leave their range by more than a tenth
        of it, or its largest value lies below all of theirs by more than a quarter of it.
        """
        return [*self._mode(decoded), *self._size(decoded), *self._values(decoded)]

    def _mode(self, decoded: Decoded) -> list[str]:
        if not decoded.mode or decoded.mode in self.modes:
            return []
        plain = f"{decoded.pixels.dtype}x{decoded.pixels.shape[-1]}"  # arrays have no other name
        if plain in self.modes:
            return []
        common = sorted(self.modes, key=lambda mode: -self.modes[mode])
        return [f"mode {decoded.mode}; in training {first_of(common, count=3)}"]

    def _size(self, decoded: Decoded) -> list[str]:
        height, width = decoded.pixels.shape[:2]
        low, high = self.sides
        if min(height, width) * _TIMES >= low and max(height, width) <= _TIMES * high:
            return []
        return [f"{width} x {height} pixels; in training sides of {low} to {high}"]

    def _values(self, decoded: Decoded) -> list[str]:
        kind = _name_of(decoded.pixels.dtype)
        if kind not in self.values:
            return [f"{kind} values; in training {first_of(sorted(self.values))}"]
        lowest, darkest, highest = self.values[kind]
        low, high = float(decoded.pixels.min()), float(decoded.pixels.max())
        span = highest - lowest
        if low < lowest - _BEYOND * span or high > highest + _BEYOND * span:
            return [f"values of {low:g} to {high:g}; in training {lowest:g} to {highest:g}"]
        if high < darkest - _DARKER * span:
            return [f"largest value {high:g}; in training at least {darkest:g}"]
        return []


_name_of = functools.cache(str)  # of number types: numpy takes its time, for each picture


def describe_pictures(facts: Sequence[PictureFacts]) -> SeenPictures | None:
    """What the readable ones of some pictures have in common; None where there is none."""
    good = [fact for fact in facts if fact.error is None]
    if not good:
        return None
    sides = np.array([(min(f.height, f.width), max(f.height, f.width)) for f in good])
    values = {}
    for kind in sorted({f.dtype for f in good}):
        own = np.array([(f.minimum, f.maximum) for f in good if f.dtype == kind])
        values[kind] = (float(own[:, 0].min()), float(own[:, 1].min()), float(own[:, 1].max()))
    return SeenPictures(len(good), dict(Counter(f.mode for f in good).most_common()),
                        (int(sides[:, 0].min()), int(sides[:, 1].max())), values)
