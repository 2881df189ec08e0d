"""Generated pictures that resemble chest films."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from finetune.data.sample_shapes import Array, Random, ellipse, grid, noise, to_bytes

__all__ = ["Patient", "draw_chest", "draw_patient"]


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
    y, x = grid(*patient.size)
    y, x = y - random.normal(0, 0.015), x - random.normal(0, 0.015) - patient.lean * (y - 0.5)
    lungs = [ellipse(y, x, (patient.lung_y, side), patient.lung) for side in (0.31, 0.69)]
    enlarged = random.uniform(1.5, 2.3) if label == "enlarged_heart" else 1.0
    film = _anatomy(y, x, patient, lungs, enlarged, random)
    film = np.maximum(film, np.minimum(film + _finding(label, y, x, patient, lungs, random), 0.72))
    film += 0.02 * noise(random, *patient.size, 9)
    film = cv2.GaussianBlur(film.astype(np.float32), (0, 0), random.uniform(0.5, 1.0))
    film = np.clip(film, 0, 1) ** random.uniform(0.9, 1.12) * random.uniform(0.9, 1.08)
    film += random.normal(0, random.uniform(0.008, 0.03), film.shape)
    return to_bytes(film)[:, :, None]


def _anatomy(y: Array, x: Array, patient: Patient, lungs: list[Array], enlarged: float,
             random: Random) -> Array:
    body = ellipse(y, x, (0.62, 0.5), (0.62, 0.47), soft=0.2)
    spine = np.exp(-((x - 0.5) / 0.055) ** 2)
    dome = 0.8 - 0.06 * np.cos((x - 0.31) * 16)
    belly = 1 / (1 + np.exp(np.clip((dome - y) / 0.012, -30, 30)))
    phase = (y - 0.9 * (x - 0.5) ** 2 + random.normal(0, 0.01)) * patient.ribs * 2 * np.pi
    ribs = np.maximum(np.sin(phase), 0) ** 3 * (0.3 + 0.7 * (lungs[0] + lungs[1]))
    wide = patient.heart * enlarged
    heart = ellipse(y, x, (0.64, 0.53 + 0.2 * (wide - 0.1)), (0.1 + 0.3 * wide, wide), soft=0.25)
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
