"""From a decoded picture to what the network is shown: resizing and augmentation.

Evaluation is `finetune.data.decoding.resize_image` and the 0..1 mapping, nothing else. Training
adds a *preset*: a function that gets the `InputSpec` and returns a list of steps, those of
`finetune.data.augmenting` or albumentations transforms. A user's own preset is named by its dotted
path, ``my_lab.augment:stained_slides``.

albumentations is touched in this module only, and imported only for a preset that uses it. Version
2.0.8 gives every transform of a `Compose` the same seed, so that two of them with ``p=0.5`` always
happen together; here they share one stream of random numbers instead.
"""

import math
import os
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from finetune.data.augmenting import OWN_STEPS, Colour, Grey, Light, Mirror, RandomFraming, Turn
from finetune.data.decoding import resize_image, to_unit_range
from finetune.dotted import import_dotted
from finetune.errors import ConfigurationError, did_you_mean
from finetune.specs import Dtype, InputSpec, Resize

__all__ = ["PRESETS", "RandomFraming", "Transform", "aerial", "build_transform", "histology",
           "natural", "none", "strong", "xray"]

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else it asks the package index at import

Pixels = npt.NDArray[Any]
Steps = list[Any]

_ENOUGH_TO_SHRINK = 2.0  # from there on, decoding smaller hardly shows at the network's size


def _resized(pixels: Pixels, spec: InputSpec, resize: Resize) -> Pixels:
    return resize_image(pixels, spec.size, resize=resize, interpolation=spec.interpolation)


def natural(spec: InputSpec) -> Steps:
    """Photographs: a random part of 35-100 %, mirrored left to right, mild colour."""
    return [RandomFraming(spec, (0.35, 1.0), (0.75, 4 / 3)), Mirror(),
            *_colour(spec, light=0.25, saturation=0.2, hue=0.02)]


def strong(spec: InputSpec) -> Steps:
    """Photographs, for training from random weights: a random part of 20-100 %, strong colour.

    Every fifth picture loses its colour. Close to SimCLR's augmentation (arXiv 2002.05709), without
    its blur.
    """
    grey = [Grey(p=0.2)] if spec.channels == 3 and spec.dtype is Dtype.uint8 else []
    return [RandomFraming(spec, (0.2, 1.0), (0.75, 4 / 3)), Mirror(),
            *_colour(spec, light=0.4, saturation=0.4, hue=0.1), *grey]


def xray(spec: InputSpec) -> Steps:
    """Radiographs and scans: small rotation, shift and scale, brightness. Never a mirror image.

    Mirrored anatomy (the heart on the right) is a diagnosis of its own.
    """
    return [RandomFraming(spec, (0.85, 1.0), (0.95, 1.05)),
            *_placement(spec, rotate=10, shift=0.05, scale=0.1), Light(0.2)]


def histology(spec: InputSpec) -> Steps:
    """Stained slides: all 8 orientations, changes of stain as colour (arXiv 1902.06543)."""
    return [RandomFraming(spec, (0.7, 1.0), (0.9, 1.1)), Turn(spec.size[0] == spec.size[1]),
            *_colour(spec, light=0.2, saturation=0.25, hue=0.06)]


def aerial(spec: InputSpec) -> Steps:
    """Aerial and satellite tiles: all 8 orientations, a random part of 50-100 %, mild colour."""
    return [RandomFraming(spec, (0.5, 1.0), (0.9, 1.1)), Turn(spec.size[0] == spec.size[1]),
            *_colour(spec, light=0.2, saturation=0.15, hue=0.02)]


def none(spec: InputSpec) -> Steps:
    """No augmentation: training sees exactly what evaluation sees."""
    return []


PRESETS: dict[str, Callable[[InputSpec], Steps]] = {
    "natural": natural, "strong": strong, "xray": xray, "histology": histology,
    "aerial": aerial, "none": none}


def _placement(spec: InputSpec, *, rotate: float, shift: float, scale: float) -> Steps:
    """Rotation in degrees, shift as a share of the side, scale around 1; black outside.

    With ``resize=pad`` the picture is not enlarged, only made smaller.
    """
    import albumentations as A

    largest = 1.0 if spec.resize is Resize.pad else 1 + scale
    return [A.Affine(rotate=(-rotate, rotate), translate_percent=(-shift, shift),
                     scale=(1 - scale, largest), keep_ratio=True,
                     interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_CONSTANT,
                     fill=0, p=0.8)]


def _colour(spec: InputSpec, *, light: float, saturation: float, hue: float) -> Steps:
    """Colour changes for 8-bit colour pictures; only brightness and contrast for all others."""
    if spec.channels != 3 or spec.dtype is not Dtype.uint8:
        return [Light(light)]
    return [Colour(light, saturation, hue)]


@dataclass
class Transform:
    """Shows a decoded picture to the network; the same seed gives the same picture.

    Attributes:
        spec: What comes in and what goes out.
        name: The preset's name, for messages.
        steps: Own steps, albumentations transforms or functions of the pixels; none when
            evaluating.
        enough: A decoded picture may be smaller than its file's as long as both sides are at least
            this many times ``spec.size``; None asks for the whole picture.
    """

    spec: InputSpec
    name: str
    steps: tuple[Any, ...] = ()
    enough: float | None = None

    @property
    def at_least(self) -> tuple[int, int] | None:
        """``enough`` as height and width in pixels; None for the whole picture."""
        if self.enough is None:
            return None
        height, width = (math.ceil(side * self.enough) for side in self.spec.size)
        return height, width

    def __call__(self, pixels: Pixels, seed: int = 0) -> Pixels:
        """The picture (H, W, C) of ``spec.dtype`` at the network's size.

        uint8 pictures stay uint8; all others become float32 in 0..1. Nothing global is read or
        changed.
        """
        if not self.steps or self.spec.resize is Resize.pad:
            pixels = _resized(pixels, self.spec, self.spec.resize)
        result = self._augmented(self._to_output(pixels), seed)
        if result.shape[:2] != tuple(self.spec.size):
            result = _resized(result, self.spec, self.spec.resize)
        return result if result.dtype == np.uint8 else np.clip(result, 0, 1)

    def _to_output(self, pixels: Pixels) -> Pixels:
        return (pixels if self.spec.dtype is Dtype.uint8
                else to_unit_range(pixels, self.spec.value_range))

    def _augmented(self, pixels: Pixels, seed: int) -> Pixels:
        stream, generator = random.Random(seed), None
        for step in self.steps:
            if isinstance(step, OWN_STEPS):
                pixels = step(pixels, stream)
                continue
            given = pixels if pixels.flags.writeable else pixels.copy()
            if hasattr(step, "set_random_state"):
                generator = generator or np.random.default_rng(seed)  # slow: only where needed
                step.set_random_state(generator, stream)
                pixels = self._checked(step(image=given)["image"], pixels.dtype)
            else:
                pixels = self._checked(step(given), pixels.dtype)
        return pixels

    def _checked(self, result: Any, dtype: np.dtype[Any]) -> Pixels:
        if (isinstance(result, np.ndarray) and result.dtype == dtype and result.ndim == 3
                and result.shape[2] == self.spec.channels):
            return result
        found = f"{getattr(result, 'dtype', type(result).__name__)} {np.shape(result)}"
        raise ConfigurationError(
            f"data.transform={self.name}: a step returned {found}; expected a {dtype} array "
            f"(H, W, {self.spec.channels}), as it was given.")


def build_transform(preset: str, spec: InputSpec, *, train: bool) -> Transform:
    """The transform of a preset (training) or the deterministic one (evaluation).

    Args:
        preset: A name in `PRESETS`, or ``package.module:function``: called with ``spec``, it
            returns an albumentations transform, a function of the pixels, a step of
            `finetune.data.augmenting`, or a list of these. It gets the whole picture, uint8 or
            float32 in 0..1 (already padded to the size with ``resize=pad``); what is not at
            ``spec.size`` in the end is resized. Its random numbers must come from albumentations.
        spec: The network's input.
        train: Whether to augment. The preset's name is checked in both cases.

    Raises:
        ConfigurationError: Unknown preset, module or function, or one that returns nonsense.
    """
    build = _find_preset(preset)
    if not train:
        return Transform(spec, preset, enough=_ENOUGH_TO_SHRINK)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            steps = build(spec)
        except (UserWarning, ValueError, TypeError) as error:
            # albumentations only warns about unknown arguments
            raise ConfigurationError(f"data.transform={preset}: {error}") from error
    listed = list(steps) if isinstance(steps, list | tuple) else [steps]
    first = listed[0] if listed and preset in PRESETS else None
    return Transform(spec, preset, tuple(_wrapped(step, preset) for step in listed),
                     first.enough if isinstance(first, RandomFraming) else None)


def _wrapped(step: Any, preset: str) -> Any:
    if any(kind.__module__.startswith("albumentations.") for kind in type(step).__mro__):
        import albumentations as A

        return A.Compose([step])
    if callable(step):
        return step
    raise ConfigurationError(
        f"data.transform={preset}: the function returned {type(step).__name__}; expected an "
        "albumentations transform, a function of the pixels, or a list of these.")


def _find_preset(preset: str) -> Callable[[InputSpec], Any]:
    if preset in PRESETS:
        return PRESETS[preset]
    if ":" not in preset:
        raise ConfigurationError(
            f"data.transform={preset}: no such preset{did_you_mean(preset, PRESETS)}. There are "
            f"{', '.join(PRESETS)}; your own is given as package.module:function.")
    return import_dotted("data.transform", preset)
