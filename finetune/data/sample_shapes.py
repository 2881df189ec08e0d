"""The drawing of generated sample pictures, with numpy and OpenCV only.

Each domain has a *setting*, what the pictures of one group share (a patient's anatomy, a region's
colours, a scene's light), and one function that draws a picture of a class in that setting.
Coordinates run from 0 to 1, brightness too. Nothing here comes from a real picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Patient", "Region", "Scene", "draw_chest", "draw_scene", "draw_tile", "draw_patient",
           "draw_region", "draw_scene_setting"]

Array = npt.NDArray[np.float32]
Random = np.random.Generator


def _grid(height: int, width: int) -> tuple[Array, Array]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return (y + 0.5) / height, (x + 0.5) / width


def _noise(random: Random, height: int, width: int, cells: int) -> Array:
    """Smooth noise with about ``cells`` bumps along a side, standard deviation near 1."""
    coarse = random.normal(size=(cells + 2, cells + 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def _ellipse(y: Array, x: Array, centre: tuple[float, float], radii: tuple[float, float],
             soft: float = 0.12) -> Array:
    """1 inside an ellipse, 0 outside, with a soft edge (a share of the radius)."""
    distance = np.hypot((y - centre[0]) / radii[0], (x - centre[1]) / radii[1])
    return np.asarray(1 / (1 + np.exp(np.clip((distance - 1) / (soft / 4), -30, 30))))


def _to_bytes(picture: Array) -> npt.NDArray[np.uint8]:
    return np.asarray(np.clip(picture * 255, 0, 255).round().astype(np.uint8))


@dataclass(frozen=True)
class Patient:
    """The anatomy and the film that one generated patient's pictures share."""

    size: tuple[int, int]
    lung: tuple[float, float]
    lung_y: float
    heart: float
    ribs: int
    rib_strength: float
    density: float
    lean: float


def draw_patient(random: Random) -> Patient:
    """A patient's anatomy, at random."""
    return Patient(size=(int(random.integers(72, 97)), int(random.integers(64, 97))),
                   lung=(random.uniform(0.26, 0.34), random.uniform(0.14, 0.18)),
                   lung_y=random.uniform(0.42, 0.5), heart=random.uniform(0.095, 0.13),
                   ribs=int(random.integers(6, 10)), rib_strength=random.uniform(0.03, 0.09),
                   density=random.uniform(0.44, 0.54), lean=random.uniform(-0.03, 0.03))


def draw_chest(label: str, patient: Patient, random: Random) -> npt.NDArray[np.uint8]:
    """A grey picture (H, W, 1) that resembles a chest film; ``label`` names the finding."""
    y, x = _grid(*patient.size)
    y, x = y - random.normal(0, 0.015), x - random.normal(0, 0.015) - patient.lean * (y - 0.5)
    lungs = [_ellipse(y, x, (patient.lung_y, side), patient.lung) for side in (0.31, 0.69)]
    enlarged = random.uniform(1.5, 2.3) if label == "enlarged_heart" else 1.0
    film = _anatomy(y, x, patient, lungs, enlarged, random)
    film = np.maximum(film, np.minimum(film + _finding(label, y, x, patient, lungs, random), 0.72))
    film += 0.02 * _noise(random, *patient.size, 9)
    film = cv2.GaussianBlur(film.astype(np.float32), (0, 0), random.uniform(0.5, 1.0))
    film = np.clip(film, 0, 1) ** random.uniform(0.9, 1.12) * random.uniform(0.9, 1.08)
    film += random.normal(0, random.uniform(0.008, 0.03), film.shape)
    return _to_bytes(film)[:, :, None]


def _anatomy(y: Array, x: Array, patient: Patient, lungs: list[Array], enlarged: float,
             random: Random) -> Array:
    body = _ellipse(y, x, (0.62, 0.5), (0.62, 0.47), soft=0.2)
    spine = np.exp(-((x - 0.5) / 0.055) ** 2)
    dome = 0.8 - 0.06 * np.cos((x - 0.31) * 16)
    belly = 1 / (1 + np.exp(np.clip((dome - y) / 0.012, -30, 30)))
    phase = (y - 0.9 * (x - 0.5) ** 2 + random.normal(0, 0.01)) * patient.ribs * 2 * np.pi
    ribs = np.maximum(np.sin(phase), 0) ** 3 * (0.3 + 0.7 * (lungs[0] + lungs[1]))
    wide = patient.heart * enlarged
    heart = _ellipse(y, x, (0.64, 0.53 + 0.2 * (wide - 0.1)), (0.1 + 0.3 * wide, wide), soft=0.25)
    film = 0.05 + body * (patient.density - 0.3 * (lungs[0] + lungs[1]) + 0.16 * spine)
    film = film + body * (patient.rib_strength * ribs)
    return np.asarray(np.maximum(film, body * np.maximum(belly * 0.66, heart * 0.62)))


def _finding(label: str, y: Array, x: Array, patient: Patient, lungs: list[Array],
             random: Random) -> Array:
    side = int(random.integers(2))
    if label == "effusion":
        level = random.uniform(0.46, 0.66)
        surface = level - random.uniform(0.1, 0.5) * (x - 0.5) ** 2 * (1 + (y < level))
        fluid = 1 / (1 + np.exp(np.clip((surface - y) / 0.02, -30, 30)))
        return np.asarray(_above(lungs[side], y) * fluid * random.uniform(0.18, 0.36))
    if label == "nodule":
        return _spot(y, x, patient, side, random, random.uniform(0.045, 0.08),
                     random.uniform(0.2, 0.46))
    # harmless vessel ends: normal pictures too have small bright spots
    return _spot(y, x, patient, side, random, random.uniform(0.01, 0.015),
                 random.uniform(0.0, 0.15))


def _above(lung: Array, y: Array) -> Array:
    """A lung without what lies behind the diaphragm, where fluid would not be seen."""
    return np.asarray(lung * (y < 0.76))


def _spot(y: Array, x: Array, patient: Patient, side: int, random: Random, radius: float,
          strength: float) -> Array:
    centre_y = patient.lung_y + random.uniform(-0.55, 0.55) * patient.lung[0]
    centre_x = (0.31, 0.69)[side] + random.uniform(-0.5, 0.5) * patient.lung[1]
    squared = (y - centre_y) ** 2 + (x - centre_x) ** 2
    return np.asarray(strength * np.exp(-squared / (2 * radius**2)))


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
    return Region((red, green, blue), haze=random.uniform(0, 0.22),
                  dryness=random.uniform(0, 1), zoom=random.uniform(0.75, 1.35))


def draw_tile(label: str, region: Region, random: Random,
              size: int = 64) -> npt.NDArray[np.uint8]:
    """An RGB tile (64, 64, 3) that resembles an aerial picture of the class of land.

    One tile in three also shows a second class along one side.
    """
    tile = _LAND[label](region, random, size)
    if random.random() < 0.35:
        other = str(random.choice(sorted(set(_LAND) - {label})))
        mask = _side(random, size, random.uniform(0.15, 0.42))
        tile = tile * (1 - mask) + _LAND[other](region, random, size) * mask
    tile = tile * np.asarray(region.gain, np.float32) * random.uniform(0.88, 1.12)
    tile = tile * (1 - region.haze) + 0.8 * region.haze
    tile = cv2.GaussianBlur(tile.astype(np.float32), (0, 0), random.uniform(0.4, 0.9))
    return _to_bytes(tile + random.normal(0, 0.015, tile.shape))


def _side(random: Random, size: int, share: float) -> Array:
    """A mask (size, size, 1) of about that share, along a wavy line in any direction."""
    y, x = _grid(size, size)
    angle = random.uniform(0, 2 * np.pi)
    along = (y - 0.5) * np.sin(angle) + (x - 0.5) * np.cos(angle)
    along = along + 0.05 * _noise(random, size, size, 3)
    return np.asarray((along > np.quantile(along, 1 - share))[:, :, None], dtype=np.float32)


def _tint(value: Array, dark: tuple[float, ...], light: tuple[float, ...]) -> Array:
    """Colours between two, by a value that is 0.5 on average and within 0..1."""
    share = np.clip(value, 0, 1)[:, :, None]
    return np.asarray(np.asarray(dark) * (1 - share) + np.asarray(light) * share, np.float32)


def _ground(region: Region, random: Random, size: int) -> Array:
    value = 0.5 + 0.18 * _noise(random, size, size, 5) + 0.08 * _noise(random, size, size, 20)
    dry = region.dryness
    return _tint(value, (0.24 + 0.2 * dry, 0.32 + 0.05 * dry, 0.17 + 0.08 * dry),
                 (0.42 + 0.2 * dry, 0.5 + 0.03 * dry, 0.28 + 0.1 * dry))


def _forest(region: Region, random: Random, size: int) -> Array:
    crowns = _noise(random, size, size, int(18 * region.zoom))
    value = 0.45 + 0.25 * crowns + 0.12 * _noise(random, size, size, 4)
    return _tint(value, (0.06, 0.13, 0.07), (0.25 + 0.12 * region.dryness, 0.36, 0.16))


def _field(region: Region, random: Random, size: int) -> Array:
    y, x = _grid(size, size)
    angle, rows = random.uniform(0, np.pi), random.uniform(5, 22) * region.zoom
    along = (y * np.sin(angle) + x * np.cos(angle)) * rows * 2 * np.pi
    value = 0.5 + random.uniform(0.02, 0.2) * np.sin(along) + 0.09 * _noise(random, size, size, 6)
    ripe = np.clip(region.dryness + random.normal(0, 0.3), 0, 1)
    tile = _tint(value, (0.18 + 0.3 * ripe, 0.34 + 0.06 * ripe, 0.14 + 0.12 * ripe),
                 (0.36 + 0.32 * ripe, 0.52 + 0.08 * ripe, 0.24 + 0.16 * ripe))
    if random.random() < 0.5:  # the next parcel, in another state
        tile = tile * (1 + random.uniform(-0.3, 0.3) * _side(random, size, 0.45))
    return np.asarray(tile)


def _water(region: Region, random: Random, size: int) -> Array:
    y, x = _grid(size, size)
    angle = random.uniform(0, np.pi)
    waves = np.sin((y * np.sin(angle) + x * np.cos(angle)) * random.uniform(40, 90)
                   + _noise(random, size, size, 4))
    value = 0.4 + random.uniform(0, 0.08) * waves + 0.12 * _noise(random, size, size, 3)
    murk = random.uniform(0, 1)
    return _tint(value, (0.06 + 0.1 * murk, 0.15 + 0.1 * murk, 0.2),
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


@dataclass(frozen=True)
class Scene:
    """The background and light that one generated scene's pictures share."""

    colours: Any
    cells: int
    light: float


def draw_scene_setting(random: Random) -> Scene:
    """A scene's background, at random."""
    return Scene(random.uniform(0.15, 0.6, (2, 3)), int(random.integers(2, 7)),
                 random.uniform(0.8, 1.15))


def draw_scene(label: str, scene: Scene, random: Random,
               size: int = 64) -> npt.NDArray[np.uint8]:
    """An RGB picture (64, 64, 3) of a textured object, partly hidden, before a background."""
    value = 0.5 + 0.3 * _noise(random, size, size, scene.cells)
    picture = _tint(value, tuple(scene.colours[0]), tuple(scene.colours[1]))
    mask = _object(label, random, size)
    colour = 0.55 * np.asarray(_PAINT[label]) + 0.45 * random.uniform(0.1, 0.95, 3)
    skin = _tint(_skin(label, random, size), tuple(0.4 * colour), tuple(1.2 * colour))
    picture = picture * (1 - mask) + skin * mask
    picture = picture * (1 - 0.7 * _object("bar", random, size))
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), random.uniform(0.4, 1.1))
    return _to_bytes(picture * scene.light + random.normal(0, 0.03, picture.shape))


_PAINT = {"ball": (0.9, 0.35, 0.2), "box": (0.55, 0.4, 0.3), "ring": (0.35, 0.55, 0.9),
          "star": (0.9, 0.8, 0.3)}  # what an object tends to, not what it always is


def _skin(label: str, random: Random, size: int) -> Array:
    """How light an object's surface is: boxes have slats, balls and rings a sheen, stars specks."""
    y, x = _grid(size, size)
    if label == "box":
        angle = random.uniform(0, np.pi)
        return np.asarray(0.5 + 0.4 * np.sin((y * np.sin(angle) + x * np.cos(angle)) * 60))
    if label == "star":
        return 0.6 + 0.3 * _noise(random, size, size, 24)
    return 1.2 - y + 0.1 * _noise(random, size, size, 4)


def _object(label: str, random: Random, size: int) -> Array:
    """The outline of an object as a mask (size, size, 1), drawn four times as large."""
    canvas = np.zeros((size * 4, size * 4), np.float32)
    centre = random.uniform(0.35, 0.65, 2) * size * 4
    radius, turn = random.uniform(0.22, 0.36) * size * 4, random.uniform(0, 2 * np.pi)
    if label in ("ball", "ring"):
        middle = (int(centre[0]), int(centre[1]))
        axes = (int(radius), int(radius * random.uniform(0.7, 1.0)))
        cv2.ellipse(canvas, middle, axes, float(np.degrees(turn)), 0, 360, 1.0, -1)
        if label == "ring":
            hole = random.uniform(0.35, 0.6)
            inner = (int(axes[0] * hole), int(axes[1] * hole))
            cv2.ellipse(canvas, middle, inner, float(np.degrees(turn)), 0, 360, 0.0, -1)
    else:
        points = _corners(label, random) * radius
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        cv2.fillPoly(canvas, [(points @ rotation + centre).astype(np.int32)], 1.0)
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)[:, :, None])


def _corners(label: str, random: Random) -> npt.NDArray[np.float64]:
    """Corners around 0 with a radius of about 1: a star, a box, or a long thin bar."""
    if label == "star":
        angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        radii = np.where(np.arange(10) % 2, random.uniform(0.38, 0.6), 1.1)
        return np.asarray(np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None])
    half = (2.0, 0.1) if label == "bar" else (random.uniform(0.6, 0.9), 0.9)
    return np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * half
