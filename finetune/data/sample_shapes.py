"""The strokes that generated sample pictures are drawn with, in numpy and OpenCV only.

Coordinates run from 0 to 1, brightness too. Each domain has a module of its own, with a *setting*
(what the pictures of one group share: a patient's anatomy, a region's colours, a scene's light)
and a function that draws a picture of a class in it. Nothing comes from a real picture.
"""

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Random", "ellipse", "grid", "noise", "side", "tint", "to_bytes"]

Array = npt.NDArray[np.float32]
Random = np.random.Generator


def grid(height: int, width: int) -> tuple[Array, Array]:
    """The coordinates y and x of every pixel's middle, (height, width) each."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return (y + 0.5) / height, (x + 0.5) / width


def noise(random: Random, height: int, width: int, cells: int) -> Array:
    """Smooth noise with about ``cells`` bumps along a side, standard deviation near 1."""
    coarse = random.normal(size=(cells + 2, cells + 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def ellipse(y: Array, x: Array, centre: tuple[float, float], radii: tuple[float, float],
            soft: float = 0.12) -> Array:
    """1 inside an ellipse, 0 outside, with a soft edge (a share of the radius)."""
    distance = np.hypot((y - centre[0]) / radii[0], (x - centre[1]) / radii[1])
    return np.asarray(1 / (1 + np.exp(np.clip((distance - 1) / (soft / 4), -30, 30))))


def to_bytes(picture: Array) -> npt.NDArray[np.uint8]:
    """Brightness 0..1 as uint8; what is outside is clipped."""
    return np.asarray(np.clip(picture * 255, 0, 255).round().astype(np.uint8))


def side(random: Random, size: int, share: float) -> Array:
    """A mask (size, size, 1) of about that share, along a wavy line in any direction."""
    y, x = grid(size, size)
    angle = random.uniform(0, 2 * np.pi)
    along = (y - 0.5) * np.sin(angle) + (x - 0.5) * np.cos(angle)
    along = along + 0.05 * noise(random, size, size, 3)
    return np.asarray((along > np.quantile(along, 1 - share))[:, :, None], dtype=np.float32)


def tint(value: Array, dark: tuple[float, ...], light: tuple[float, ...]) -> Array:
    """Colours between two, by a value that is 0.5 on average and within 0..1."""
    share = np.clip(value, 0, 1)[:, :, None]
    return np.asarray(np.asarray(dark) * (1 - share) + np.asarray(light) * share, np.float32)
