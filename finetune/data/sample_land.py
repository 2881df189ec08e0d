"""Generated pictures that resemble aerial tiles."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from finetune.data.sample_shapes import Array, Random, grid, noise, side, tint, to_bytes

__all__ = ["Region", "draw_region", "draw_tile"]


@dataclass(frozen=True)
class Region:
    """The light, season and ground resolution that one generated region's tiles share."""

    gain: tuple[float, float, float]
    haze: float
    dryness: float
    zoom: float


def draw_region(random: Random) -> Region:
    """A region's light and season, at random."""
    red, green, blue = random.uniform(0.82, 1.2, 3)
    return Region((red, green, blue), haze=random.uniform(0, 0.45),
                  dryness=random.uniform(0, 1), zoom=random.uniform(0.75, 1.35))


def draw_tile(label: str, region: Region, random: Random,
              size: int = 64) -> npt.NDArray[np.uint8]:
    """An RGB tile (64, 64, 3) that resembles an aerial picture of the class of land.

    One tile in two also shows a second class along one side, the smaller part.
    """
    tile = _LAND[label](region, random, size)
    if random.random() < 0.5:
        other = str(random.choice(sorted(set(_LAND) - {label})))
        mask = side(random, size, random.uniform(0.2, 0.49))
        tile = tile * (1 - mask) + _LAND[other](region, random, size) * mask
    tile = tile * np.asarray(region.gain, np.float32) * random.uniform(0.88, 1.12)
    tile = tile * (1 - region.haze) + 0.8 * region.haze
    tile = cv2.GaussianBlur(tile.astype(np.float32), (0, 0), random.uniform(0.4, 0.9))
    return to_bytes(tile + random.normal(0, 0.03, tile.shape))


def _ground(region: Region, random: Random, size: int) -> Array:
    value = 0.5 + 0.18 * noise(random, size, size, 5) + 0.08 * noise(random, size, size, 20)
    dry = region.dryness
    return tint(value, (0.24 + 0.2 * dry, 0.32 + 0.05 * dry, 0.17 + 0.08 * dry),
                 (0.42 + 0.2 * dry, 0.5 + 0.03 * dry, 0.28 + 0.1 * dry))


def _forest(region: Region, random: Random, size: int) -> Array:
    crowns = noise(random, size, size, int(18 * region.zoom))
    value = 0.45 + 0.25 * crowns + 0.12 * noise(random, size, size, 4)
    return tint(value, (0.06, 0.13, 0.07), (0.25 + 0.12 * region.dryness, 0.36, 0.16))


def _field(region: Region, random: Random, size: int) -> Array:
    y, x = grid(size, size)
    angle, rows = random.uniform(0, np.pi), random.uniform(5, 22) * region.zoom
    along = (y * np.sin(angle) + x * np.cos(angle)) * rows * 2 * np.pi
    value = 0.5 + random.uniform(0.02, 0.2) * np.sin(along) + 0.09 * noise(random, size, size, 6)
    ripe = np.clip(region.dryness + random.normal(0, 0.3), 0, 1)
    tile = tint(value, (0.18 + 0.3 * ripe, 0.34 + 0.06 * ripe, 0.14 + 0.12 * ripe),
                 (0.36 + 0.32 * ripe, 0.52 + 0.08 * ripe, 0.24 + 0.16 * ripe))
    if random.random() < 0.5:  # the next parcel, in another state
        tile = tile * (1 + random.uniform(-0.3, 0.3) * side(random, size, 0.45))
    return np.asarray(tile)


def _water(region: Region, random: Random, size: int) -> Array:
    y, x = grid(size, size)
    angle = random.uniform(0, np.pi)
    waves = np.sin((y * np.sin(angle) + x * np.cos(angle)) * random.uniform(40, 90)
                   + noise(random, size, size, 4))
    value = 0.4 + random.uniform(0, 0.08) * waves + 0.12 * noise(random, size, size, 3)
    murk = random.uniform(0, 1)
    return tint(value, (0.06 + 0.1 * murk, 0.15 + 0.1 * murk, 0.2),
                 (0.16 + 0.18 * murk, 0.32 + 0.1 * murk, 0.42 - 0.1 * murk))


def _residential(region: Region, random: Random, size: int) -> Array:
    return _built(region, random, size, step=13, house=(5, 9), skip=0.22,
                  roofs=((0.55, 0.3, 0.24), (0.48, 0.42, 0.4), (0.62, 0.5, 0.42)))


def _industrial(region: Region, random: Random, size: int) -> Array:
    return _built(region, random, size, step=27, house=(15, 25), skip=0.15,
                  roofs=((0.72, 0.73, 0.75), (0.5, 0.52, 0.56), (0.42, 0.5, 0.6)))


def _built(region: Region, random: Random, size: int, *, step: int, house: tuple[int, int],
           skip: float, roofs: tuple[tuple[float, ...], ...]) -> Array:
    """Roofs with shadows on a turned grid of streets; ``step`` and ``house`` in pixels."""
    wide = size * 2
    tile = _ground(region, random, wide).copy()
    step = max(8, round(step * region.zoom * random.uniform(0.85, 1.25)))
    for top in range(0, wide, 2 * step):
        tile[top:top + 3] = tile[:, top:top + 3] = (0.4, 0.4, 0.41)
    for top in range(4, wide, step):
        for left in range(4, wide, step):
            if random.random() < skip:
                continue
            height, width = np.minimum(random.integers(*house, size=2) * region.zoom, step - 2)
            _roof(tile, top, left, int(height), int(width), random, roofs)
    turn = cv2.getRotationMatrix2D((size, size), random.uniform(0, 360), 1.0)
    turned = cv2.warpAffine(tile, turn, (wide, wide), flags=cv2.INTER_LINEAR)
    return np.asarray(turned[size // 2:size // 2 + size, size // 2:size // 2 + size])


def _roof(tile: Array, top: int, left: int, height: int, width: int, random: Random,
          roofs: tuple[tuple[float, ...], ...]) -> None:
    colour = np.asarray(roofs[random.integers(len(roofs))], np.float32)
    tile[top + 2:top + height + 2, left + 2:left + width + 2] *= 0.45
    shade = random.uniform(0.8, 1.15)
    tile[top:top + height, left:left + width] = colour * shade
    tile[top:top + height // 2, left:left + width] *= 1.12


_LAND: dict[str, Callable[[Region, Random, int], Array]] = {
    "field": _field, "forest": _forest, "industrial": _industrial,
    "residential": _residential, "water": _water}
