"""From a decoded picture to what the network is shown: resizing and augmentation.

Evaluation is `finetune.data.decoding.resize_image` and the 0..1 mapping, nothing else. Training
adds a *preset*: a function that gets the `InputSpec` and returns a list of albumentations
transforms. A user's own preset is named by its dotted path, ``my_lab.augment:stained_slides``.

albumentations is touched in this module only. Version 2.0.8 gives every transform of a
`Compose` the same seed, so that two of them with ``p=0.5`` always happen together; here they
share one stream of random numbers instead.
"""

import importlib
import os
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else it asks the package index at import
import albumentations as A

from finetune.data.decoding import resize_image, to_unit_range
from finetune.errors import ConfigurationError, did_you_mean
from finetune.specs import Dtype, InputSpec, Resize

__all__ = ["PRESETS", "RandomFraming", "Transform", "aerial", "build_transform", "histology",
           "natural", "none", "strong", "xray"]

Pixels = npt.NDArray[Any]
Steps = list[Any]


class RandomFraming(A.ImageOnlyTransform):  # type: ignore[misc]
    """A random part of the picture, resized to the network's size exactly as evaluation does.

    The part has a random share of the area and a random change of aspect ratio, as in Szegedy
    et al. (2014, arXiv 1409.4842). What it starts from follows ``spec.resize``, so that share 1
    and ratio 1 are what evaluation sees: the whole picture with ``squash``, the largest part of
    the network's aspect ratio with ``crop``. With ``pad`` nothing is cut: the whole picture,
    padded, is what training sees too.

    Args:
        spec: Size, resize rule and interpolation.
        area: Smallest and largest share of the area, 0..1.
        ratio: Smallest and largest change of the aspect ratio; 1 is none.
    """

    def __init__(self, spec: InputSpec, area: tuple[float, float] = (0.35, 1.0),
                 ratio: tuple[float, float] = (0.75, 4 / 3)) -> None:
        super().__init__(p=1.0)
        self.spec, self.area, self.ratio = spec, area, ratio

    def get_params_dependent_on_data(self, params: dict[str, Any],
                                     data: dict[str, Any]) -> dict[str, Any]:
        """The rows and columns to keep, from the picture's shape and the transform's stream."""
        return {"box": self._box(params["shape"][:2])}

    def apply(self, img: Pixels, box: tuple[int, int, int, int], **params: Any) -> Pixels:
        """The part of the picture, at the network's size."""
        if self.spec.resize is Resize.pad:
            return _resized(img, self.spec, Resize.pad)
        top, left, height, width = box
        part = img[top:top + height, left:left + width]
        return _resized(np.ascontiguousarray(part), self.spec, Resize.squash)

    def _box(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        rows, columns = _largest_part(shape, self.spec)
        share = self.py_random.uniform(*self.area)
        stretch = np.exp(self.py_random.uniform(*np.log(self.ratio)))
        height = min(rows, round(rows * (share / stretch) ** 0.5)) or 1
        width = min(columns, round(columns * (share * stretch) ** 0.5)) or 1
        top = self.py_random.randint(0, shape[0] - height)
        return top, self.py_random.randint(0, shape[1] - width), height, width


def _largest_part(shape: Sequence[int], spec: InputSpec) -> tuple[int, int]:
    """Height and width of what evaluation shows of a picture (squash: all; crop: the centre)."""
    if spec.resize is not Resize.crop:
        return shape[0], shape[1]
    scale = min(shape[0] / spec.size[0], shape[1] / spec.size[1])
    return max(1, int(spec.size[0] * scale)), max(1, int(spec.size[1] * scale))


def _resized(pixels: Pixels, spec: InputSpec, resize: Resize) -> Pixels:
    return resize_image(pixels, spec.size, resize=resize, interpolation=spec.interpolation)


def natural(spec: InputSpec) -> Steps:
    """Photographs: a random part of 35-100 %, mirrored left to right, mild colour."""
    return [RandomFraming(spec, (0.35, 1.0), (0.75, 4 / 3)), A.HorizontalFlip(p=0.5),
            *_colour(spec, light=0.25, saturation=0.2, hue=0.02)]


def strong(spec: InputSpec) -> Steps:
    """Photographs, for training from random weights: a random part of 20-100 %, strong colour.

    Every fifth picture loses its colour. Close to SimCLR's augmentation (arXiv 2002.05709), without
    its blur.
    """
    grey = [A.ToGray(p=0.2)] if spec.channels == 3 and spec.dtype is Dtype.uint8 else []
    return [RandomFraming(spec, (0.2, 1.0), (0.75, 4 / 3)), A.HorizontalFlip(p=0.5),
            *_colour(spec, light=0.4, saturation=0.4, hue=0.1), *grey]


def xray(spec: InputSpec) -> Steps:
    """Radiographs and scans: small rotation, shift and scale, brightness. Never a mirror image.

    Mirrored anatomy (the heart on the right) is a diagnosis of its own.
    """
    return [RandomFraming(spec, (0.85, 1.0), (0.95, 1.05)),
            *_placement(spec, rotate=10, shift=0.05, scale=0.1), *_light(0.2, p=0.8)]


def histology(spec: InputSpec) -> Steps:
    """Stained slides: all 8 orientations, changes of stain as colour (arXiv 1902.06543)."""
    return [RandomFraming(spec, (0.7, 1.0), (0.9, 1.1)), *_orientation(spec),
            *_colour(spec, light=0.2, saturation=0.25, hue=0.06)]


def aerial(spec: InputSpec) -> Steps:
    """Aerial and satellite tiles: all 8 orientations, a random part of 50-100 %, mild colour."""
    return [RandomFraming(spec, (0.5, 1.0), (0.9, 1.1)), *_orientation(spec),
            *_colour(spec, light=0.2, saturation=0.15, hue=0.02)]


def none(spec: InputSpec) -> Steps:
    """No augmentation: training sees exactly what evaluation sees."""
    return []


PRESETS: dict[str, Callable[[InputSpec], Steps]] = {
    "natural": natural, "strong": strong, "xray": xray, "histology": histology,
    "aerial": aerial, "none": none}


def _orientation(spec: InputSpec) -> Steps:
    """The symmetries of the frame: 8 of a square, 4 of any other rectangle."""
    if spec.size[0] == spec.size[1]:
        return [A.D4(p=1.0)]
    return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]


def _placement(spec: InputSpec, *, rotate: float, shift: float, scale: float) -> Steps:
    """Rotation in degrees, shift as a share of the side, scale around 1; black outside.

    With ``resize=pad`` the picture is not enlarged, only made smaller.
    """
    largest = 1.0 if spec.resize is Resize.pad else 1 + scale
    return [A.Affine(rotate=(-rotate, rotate), translate_percent=(-shift, shift),
                     scale=(1 - scale, largest), keep_ratio=True,
                     interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_CONSTANT,
                     fill=0, p=0.8)]


def _colour(spec: InputSpec, *, light: float, saturation: float, hue: float) -> Steps:
    """Colour changes for 8-bit colour pictures; only brightness and contrast for all others."""
    if spec.channels != 3 or spec.dtype is not Dtype.uint8:
        return _light(light, p=0.8)
    return [A.ColorJitter(brightness=(1 - light, 1 + light), contrast=(1 - light, 1 + light),
                          saturation=(1 - saturation, 1 + saturation), hue=(-hue, hue), p=0.8)]


def _light(limit: float, *, p: float) -> Steps:
    return [A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=p)]


@dataclass
class Transform:
    """Shows a decoded picture to the network; the same seed gives the same picture.

    Attributes:
        spec: What comes in and what goes out.
        name: The preset's name, for messages.
        steps: albumentations transforms or functions of the pixels; none when evaluating.
    """

    spec: InputSpec
    name: str
    steps: tuple[Any, ...] = ()

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
        streams = np.random.default_rng(seed), random.Random(seed)
        for step in self.steps:
            if isinstance(step, A.BaseCompose):
                step.set_random_state(*streams)
                result = step(image=pixels)["image"]
            else:
                result = step(pixels)
            pixels = self._checked(result, pixels.dtype)
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
            returns an albumentations transform, a function of the pixels, or a list of these.
            It gets the whole picture, uint8 or float32 in 0..1 (already padded to the size with
            ``resize=pad``); what is not at ``spec.size`` in the end is resized. Its random
            numbers must come from albumentations.
        spec: The network's input.
        train: Whether to augment. The preset's name is checked in both cases.

    Raises:
        ConfigurationError: Unknown preset, module or function, or one that returns nonsense.
    """
    build = _find_preset(preset)
    if not train:
        return Transform(spec, preset)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            steps = build(spec)
        except (UserWarning, ValueError, TypeError) as error:
            # albumentations only warns about unknown arguments
            raise ConfigurationError(f"data.transform={preset}: {error}") from error
    listed = list(steps) if isinstance(steps, list | tuple) else [steps]
    return Transform(spec, preset, tuple(_wrapped(step, preset) for step in listed))


def _wrapped(step: Any, preset: str) -> Any:
    if isinstance(step, A.BasicTransform | A.BaseCompose):
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
    module_name, _, name = preset.partition(":")
    found = getattr(_import(module_name, preset), name, None)
    if not callable(found):
        known = [n for n, v in vars(_import(module_name, preset)).items() if callable(v)]
        raise ConfigurationError(
            f"data.transform={preset}: {module_name} has no function "
            f"{name!r}{did_you_mean(name, known)}.")
    return found  # type: ignore[no-any-return]


def _import(module_name: str, preset: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError) as error:
        raise ConfigurationError(
            f"data.transform={preset}: cannot import {module_name!r} ({error}). Expected "
            "package.module:function, importable from the current folder.") from error
