"""Pictures side by side on one sheet.

Drawn before training by Pillow: matplotlib would take a second, and 25 MiB until training ends.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finetune.files import write_with
from finetune.report.fonts import base_file, find_file, shorten, visible

__all__ = ["write_sheet"]

CELL, GAP, LINE, HEAD = 240, 16, 26, 52  # pixels: a picture, between two, a title, the first line
TITLE_SIZE, SIZE, LONGEST = 23, 17, 18  # pixels of letters, and letters above a picture
INK = "#222222"


def write_sheet(path: Path, images: Sequence[np.ndarray], titles: Sequence[str], *,
                title: str) -> Path:
    """Write pictures in rows, with a short title above each, as one PNG.

    Args:
        path: The PNG file.
        images: (H, W, C) each, uint8 or float in 0..1; of many channels, the first three are
            shown, of two the first.
        titles: One for each picture; cut when long, left out when no font can draw it.
        title: Above all.
    """
    pictures = [_scaled(image) for image in images]
    columns = min(8, max(1, math.ceil(math.sqrt(len(images)))))
    height = LINE + max((picture.height for picture in pictures), default=0) + GAP
    head = ImageFont.truetype(base_file(), TITLE_SIZE)
    width = max(columns * (CELL + GAP), math.ceil(head.getlength(title)) + GAP) + GAP
    sheet = Image.new("RGB", (width, HEAD + math.ceil(len(images) / columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, HEAD // 2), title, fill=INK, font=head, anchor="lm")
    for place, (picture, text) in enumerate(zip(pictures, titles, strict=True)):
        row, column = divmod(place, columns)
        centre, top = GAP + column * (CELL + GAP) + CELL // 2, HEAD + row * height
        sheet.paste(picture, (centre - picture.width // 2, top + LINE))
        _write(draw, (centre, top + LINE // 2), text)
    return write_with(path, lambda stream: sheet.save(stream, "PNG"))


def _scaled(image: np.ndarray) -> Image.Image:
    """As large as a cell; single pixels stay visible."""
    picture = Image.fromarray(_shown(image))
    scale = CELL / max(picture.size)
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    return picture.resize((max(1, round(picture.width * scale)),
                           max(1, round(picture.height * scale))), how)


def _shown(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) or (H, W) uint8: the first three channels, or the first."""
    seen = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    if seen.dtype != np.uint8:
        seen = (np.nan_to_num(seen).clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(seen)


def _write(draw: ImageDraw.ImageDraw, centre: tuple[int, int], text: str) -> None:
    """A title, cut until it is no wider than its picture."""
    shown = shorten(visible(text), LONGEST)
    file = find_file(shown)
    if file is None:
        return
    font = ImageFont.truetype(file, SIZE)
    while font.getlength(shown) > CELL:
        shown = shorten(shown, len(shown) - 1)
    draw.text(centre, shown, fill=INK, font=font, anchor="mm")
