"""Generated pictures of textured objects before a background."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from finetune.data.sample_shapes import Array, Random, grid, noise, tint, to_bytes

__all__ = ["Scene", "draw_scene", "draw_setting"]


@dataclass(frozen=True)
class Scene:
    """The background and light that one generated scene's pictures share."""

    colours: Any
    cells: int
    light: float


def draw_setting(random: Random) -> Scene:
    """A scene's background, at random."""
    return Scene(random.uniform(0.15, 0.6, (2, 3)), int(random.integers(2, 7)),
                 random.uniform(0.8, 1.15))


def draw_scene(label: str, scene: Scene, random: Random,
               size: int = 64) -> npt.NDArray[np.uint8]:
    """An RGB picture (64, 64, 3) of a textured object, partly hidden, before a background."""
    value = 0.5 + 0.3 * noise(random, size, size, scene.cells)
    picture = tint(value, tuple(scene.colours[0]), tuple(scene.colours[1]))
    mask = _object(label, random, size)
    colour = 0.55 * np.asarray(_PAINT[label]) + 0.45 * random.uniform(0.1, 0.95, 3)
    skin = tint(_skin(label, random, size), tuple(0.4 * colour), tuple(1.2 * colour))
    picture = picture * (1 - mask) + skin * mask
    picture = picture * (1 - 0.7 * _object("bar", random, size))
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), random.uniform(0.4, 1.1))
    return to_bytes(picture * scene.light + random.normal(0, 0.03, picture.shape))


_PAINT = {"ball": (0.9, 0.35, 0.2), "box": (0.55, 0.4, 0.3), "ring": (0.35, 0.55, 0.9),
          "star": (0.9, 0.8, 0.3)}  # what an object tends to, not what it always is


def _skin(label: str, random: Random, size: int) -> Array:
    """How light an object's surface is: boxes have slats, balls and rings a sheen, stars specks."""
    y, x = grid(size, size)
    if label == "box":
        angle = random.uniform(0, np.pi)
        return np.asarray(0.5 + 0.4 * np.sin((y * np.sin(angle) + x * np.cos(angle)) * 60))
    if label == "star":
        return 0.6 + 0.3 * noise(random, size, size, 24)
    return 1.2 - y + 0.1 * noise(random, size, size, 4)


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
