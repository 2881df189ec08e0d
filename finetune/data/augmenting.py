"""The steps of the shipped presets: plain functions of pixels and a stream of random numbers.

Each is called with a picture (H, W, C), uint8 or float32 in 0..1, and a `random.Random`; it
returns a picture of the same type and never changes the one it was given.
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from finetune.data.decoding import resize_image
from finetune.specs import InputSpec, Resize

__all__ = ["OWN_STEPS", "Colour", "Grey", "Light", "Mirror", "RandomFraming", "Turn"]

Pixels = npt.NDArray[Any]
Range = tuple[float, float]

_HARDLY = 8 / 7
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601
_TO_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class RandomFraming:
    """A random part of the picture, resized to the network's size as evaluation does.

    The part has a random share of the area and a random change of aspect ratio, as in Szegedy
    et al. (2014, arXiv 1409.4842). What it starts from follows ``spec.resize``, so that share 1
    and ratio 1 are what evaluation sees: the whole picture with ``squash``, the largest part of
    the network's aspect ratio with ``crop``. With ``pad`` nothing is cut: the whole picture,
    padded, is what training sees too.

    Attributes:
        spec: Size, resize rule and interpolation.
        area: Smallest and largest share of the area, 0..1.
        ratio: Smallest and largest change of the aspect ratio; 1 is none.
    """

    spec: InputSpec
    area: Range = (0.35, 1.0)
    ratio: Range = (0.75, 4 / 3)

    @property
    def enough(self) -> float:
        """The size of a picture, in sizes of the network, of which no part is ever enlarged."""
        if self.spec.resize is Resize.pad:
            return 1.0
        return float((self.area[0] * min(self.ratio[0], 1 / self.ratio[1])) ** -0.5)

    def __call__(self, pixels: Pixels, stream: random.Random) -> Pixels:
        """The part of the picture, at the network's size."""
        if self.spec.resize is Resize.pad:
            return resize_image(pixels, self.spec.size, resize=Resize.pad,
                                interpolation=self.spec.interpolation)
        top, left, height, width = self._box(pixels.shape[:2], stream)
        return squashed(pixels[top:top + height, left:left + width], self.spec)

    def _box(self, shape: Sequence[int], stream: random.Random) -> tuple[int, int, int, int]:
        rows, columns = _largest_part(shape, self.spec)
        share, stretch = stream.uniform(*self.area), _log_uniform(stream, self.ratio)
        height = min(rows, round(rows * (share / stretch) ** 0.5)) or 1
        width = min(columns, round(columns * (share * stretch) ** 0.5)) or 1
        top, left = stream.random(), stream.random()  # shares: the same part at any scale
        return (int(top * (shape[0] - height + 1)), int(left * (shape[1] - width + 1)), height,
                width)


def _log_uniform(stream: random.Random, bounds: Range) -> float:
    return float(bounds[0] * (bounds[1] / bounds[0]) ** stream.random())


def _largest_part(shape: Sequence[int], spec: InputSpec) -> tuple[int, int]:
    """Height and width of what evaluation shows of a picture (squash: all; crop: the centre)."""
    if spec.resize is not Resize.crop:
        return shape[0], shape[1]
    scale = min(shape[0] / spec.size[0], shape[1] / spec.size[1])
    return max(1, int(spec.size[0] * scale)), max(1, int(spec.size[1] * scale))


def squashed(pixels: Pixels, spec: InputSpec) -> Pixels:
    """`resize_image` to ``spec.size`` by quicker code for 8-bit pictures; a new array always.

    OpenCV enlarges, torch's antialiasing filters, which are Pillow's, shrink. Rounding differs: by
    at most 1 level of 255 (bilinear) or 3 (bicubic), by 0.25 in the mean. Where bilinear shrinks
    by 8/7 or less (256 to 224), OpenCV interpolates without the filter, which is then hardly wider:
    1 level in the mean for photographs.
    """
    size, kernel = spec.size, spec.interpolation
    if pixels.shape[:2] != size and pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        shrinking = max(pixels.shape[0] / size[0], pixels.shape[1] / size[1])
        if kernel == "bilinear" and shrinking <= _HARDLY:
            shown = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
            return np.asarray(shown).reshape(*size, pixels.shape[2])
        if kernel in ("bilinear", "bicubic") and _torch_is_fast():
            return _antialiased(np.array(pixels), size, kernel)
    return resize_image(np.array(pixels), size, resize=Resize.squash, interpolation=kernel)


def _antialiased(pixels: Pixels, size: tuple[int, int], kernel: str) -> Pixels:
    import torch

    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    shown = torch.nn.functional.interpolate(images, size=size, mode=kernel, antialias=True)
    return np.ascontiguousarray(shown[0].permute(1, 2, 0).numpy())


@functools.cache
def _torch_is_fast() -> bool:
    import torch

    return "AVX" in torch.backends.cpu.get_cpu_capability()  # elsewhere it has no 8-bit kernels


@dataclass(frozen=True)
class Mirror:
    """A mirror image left to right, in half of the cases."""

    def __call__(self, pixels: Pixels, stream: random.Random) -> Pixels:
        """The picture or its mirror image."""
        return _flipped(pixels, columns=stream.random() < 0.5)


@dataclass(frozen=True)
class Turn:
    """The symmetries of the frame, all equally often: 8 of a square, 4 of any other rectangle."""

    square: bool

    def __call__(self, pixels: Pixels, stream: random.Random) -> Pixels:
        """The picture in one of its orientations."""
        pixels = _flipped(pixels, rows=stream.random() < 0.5, columns=stream.random() < 0.5)
        if not self.square or stream.random() < 0.5:
            return pixels
        return np.ascontiguousarray(pixels.swapaxes(0, 1))


def _flipped(pixels: Pixels, *, rows: bool = False, columns: bool = False) -> Pixels:
    if not rows and not columns:
        return pixels
    if pixels.shape[2] not in (1, 3):
        return np.ascontiguousarray(pixels[::-1 if rows else 1, ::-1 if columns else 1])
    turned = cv2.flip(pixels, -1 if rows and columns else 0 if rows else 1)
    return np.reshape(turned, pixels.shape)


@dataclass(frozen=True)
class Colour:
    """Brightness, contrast, saturation and hue of an 8-bit colour picture, changed at once.

    The four changes are one affine map of the colours, in the order of the attributes; hue turns
    the colour plane of YIQ.

    Attributes:
        light: Brightness and contrast become 1 - light to 1 + light times as large.
        saturation: Saturation becomes 1 - saturation to 1 + saturation times as large.
        hue: The largest turn, as a share of a full one.
        p: In what share of the cases.
    """

    light: float
    saturation: float
    hue: float
    p: float = 0.8

    def __call__(self, pixels: Pixels, stream: random.Random) -> Pixels:
        """The picture (H, W, 3) in other colours."""
        if stream.random() >= self.p:
            return pixels
        bright, contrast = (stream.uniform(1 - self.light, 1 + self.light) for _ in range(2))
        saturation = stream.uniform(1 - self.saturation, 1 + self.saturation)
        angle = 2 * np.pi * stream.uniform(-self.hue, self.hue)
        grey = float(_LUMA @ cv2.mean(pixels)[:3]) * bright
        matrix = np.column_stack([bright * contrast * _colour_matrix(saturation, angle),
                                  np.full(3, (1 - contrast) * grey)])
        return np.asarray(cv2.transform(pixels, matrix))


def _colour_matrix(saturation: float, angle: float) -> Pixels:
    """(3, 3): the plane of YIQ's colours turned by ``angle`` and stretched; luma stays."""
    cosine, sine = saturation * np.cos(angle), saturation * np.sin(angle)
    turned = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.asarray(_FROM_YIQ @ turned @ _TO_YIQ)


@dataclass(frozen=True)
class Grey:
    """A colour picture without its colours, in a share ``p`` of the cases."""

    p: float

    def __call__(self, pixels: Pixels, stream: random.Random) -> Pixels:
        """The picture, or its luma (ITU-R 601) in three channels."""
        if stream.random() >= self.p:
            return pixels
        return np.asarray(cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY),
                                       cv2.COLOR_GRAY2RGB))


@dataclass(frozen=True)
class Light:
    """Brightness and contrast of any picture.

    Attributes:
        limit: Values are multiplied by 1 - limit to 1 + limit, then up to ``limit`` of the full
            range is added or taken away.
        p: In what share of the cases.
    """

    limit: float
    p: float = 0.8

    def __call__(self, pixels: Pixels, stream: random.Random) -> Pixels:
        """The picture in another light, clipped."""
        if stream.random() >= self.p:
            return pixels
        factor = 1 + stream.uniform(-self.limit, self.limit)
        offset = stream.uniform(-self.limit, self.limit)
        if pixels.dtype == np.uint8:
            table = (np.arange(256) * factor + offset * 255).round().clip(0, 255)
            return np.reshape(cv2.LUT(pixels, table.astype(np.uint8)), pixels.shape)
        shown: Pixels = np.clip(pixels * np.float32(factor) + np.float32(offset), 0, 1)
        return shown


OWN_STEPS = (RandomFraming, Mirror, Turn, Colour, Grey, Light)
