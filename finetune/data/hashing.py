"""What is enough to recognise copies of a picture: a small grey one, and how much is seen.

A perceptual hash in the sense of Zauner (2010): low frequencies of the cosine transform of the
small picture, here kept as numbers instead of bits, because their inner product is a correlation
(`finetune.data.near_search`).
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["BLANK_BELOW", "SIDE", "Descriptors", "blurred_grey", "describe", "fine_detail",
           "orientation_name", "oriented", "stack_descriptors"]

SIDE = 96            # px; 100,000 pictures are 0.9 GB
BLANK_BELOW = 1.0    # levels of 255; what JPEG's blocks leave of a uniform tile is below
_FINE, _COARSE = 1.0, 3.0   # px; details lie between these two blurs

Pixels = npt.NDArray[Any]
Grey = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Descriptors:
    """Small pictures of a collection.

    Attributes:
        thumbnails: (N, 96, 96) uint8, grey, squashed to a square, each stretched to 0..255.
        contrasts: (N,) float32, standard deviation of the details before stretching, in levels
            of 255; 0 for a picture that can't be read.
    """

    thumbnails: npt.NDArray[np.uint8]
    contrasts: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.contrasts)

    @property
    def blank(self) -> npt.NDArray[np.bool_]:
        """(N,) Whether too little is seen to tell copies from pictures that are alike."""
        empty: npt.NDArray[np.bool_] = self.contrasts < BLANK_BELOW
        return empty


def describe(pixels: Pixels) -> tuple[npt.NDArray[np.uint8], float]:
    """The thumbnail and the contrast of a picture (H, W, C) or (H, W), as in `Descriptors`.

    Blurred by half a pixel of the thumbnail before shrinking, so that a shifted or cropped copy
    gives the same values. Pictures of 16 bits or floats are stretched to 0..255 by their own
    minimum and maximum first, so that their contrast is a relative one. More than four channels
    are averaged.
    """
    small = _shrunk(_grey(pixels))
    contrast = float(fine_detail(small).std())
    low, high = float(small.min()), float(small.max())
    stretched = (small - low) * (255 / (high - low)) if high > low else np.zeros_like(small)
    return stretched.round().clip(0, 255).astype(np.uint8), contrast


def stack_descriptors(described: list[tuple[npt.NDArray[np.uint8], float]]) -> Descriptors:
    """What `describe` told of several pictures, in their order."""
    thumbnails = np.zeros((len(described), SIDE, SIDE), np.uint8)
    for index, (thumbnail, _) in enumerate(described):
        thumbnails[index] = thumbnail
    return Descriptors(thumbnails, np.array([c for _, c in described], np.float32))


def _grey(pixels: Pixels) -> Grey:
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    if max(planes.shape[:2]) > 4 * SIDE:  # before anything is done with every pixel
        size = tuple(min(n, 4 * SIDE) for n in planes.shape[1::-1])
        planes = _by_channel(planes, size)
    kept = planes[..., :3] if planes.shape[-1] == 4 else planes
    if kept.shape[-1] == 3:
        grey = kept.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    else:
        grey = kept.mean(axis=-1, dtype=np.float32)
    if pixels.dtype == np.uint8:
        return np.asarray(grey, np.float32)
    low, high = float(grey.min()), float(grey.max())
    return np.asarray((grey - low) * (255 / max(high - low, 1e-12)), np.float32)


def _by_channel(planes: Pixels, size: tuple[int, ...]) -> Pixels:
    return np.stack([cv2.resize(np.ascontiguousarray(planes[..., c]), size,
                                interpolation=cv2.INTER_AREA)
                     for c in range(planes.shape[-1])], axis=-1)


def _shrunk(grey: Grey) -> Grey:
    height, width = (min(n, 2 * SIDE) for n in grey.shape)
    grey = np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA))
    if min(height, width) < SIDE:
        return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
    blurred = cv2.GaussianBlur(grey, (0, 0), sigmaX=0.5 * width / SIDE, sigmaY=0.5 * height / SIDE,
                               borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(blurred, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def fine_detail(grey: Grey) -> Grey:
    """What is finer than some three pixels of a thumbnail, without its noise."""
    return blurred_grey(grey, _FINE) - blurred_grey(grey, _COARSE)


def blurred_grey(grey: Grey, sigma: float) -> Grey:
    """Gaussian blur with the border repeated; ``sigma`` in pixels."""
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def oriented(pictures: Pixels, orientation: int) -> Pixels:
    """Pictures (..., H, W) in one of 8 orientations.

    Bit 2: rows and columns are exchanged; then bit 1: upside down; then bit 0: left-right.

    >>> oriented(np.array([[1, 2], [3, 4]]), 1).tolist()
    [[2, 1], [4, 3]]
    """
    turned = np.swapaxes(pictures, -1, -2) if orientation & 4 else pictures
    turned = turned[..., ::-1, :] if orientation & 2 else turned
    return turned[..., ::-1] if orientation & 1 else turned


def orientation_name(orientation: int) -> str:
    """In words, angles clockwise.

    >>> orientation_name(5)
    'turned by 90°'
    """
    return ("upright", "flipped left-right", "flipped upside down", "turned by 180°",
            "transposed", "turned by 90°", "turned by 270°", "transposed and turned by 180°",
            )[orientation]
