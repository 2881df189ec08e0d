"""The page of labels that are probably wrong: one HTML file, below 3 MB."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from finetune.files import write_text

__all__ = ["write_suspects"]

ROOM = 2_500_000  # bytes of pictures, as base64
SIDE = 200        # pixels
MOST = 200        # pictures


def write_suspects(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str,
                   notes: Sequence[str], read_picture: Callable[[str], np.ndarray]) -> int:
    """Write the page and return how many of the rows it shows: as many as there is room for.

    Args:
        path: The HTML file.
        rows: ``path``, ``part``, ``given``, ``suggested``, ``self_confidence`` (0..1).
        title: Above all.
        notes: Paragraphs below the title.
        read_picture: Gives a picture (H, W, C) uint8 by its path.
    """
    shown: list[dict[str, Any]] = []
    used = 0
    for row in rows[:MOST]:
        picture = _thumbnail(read_picture(row["path"]))
        used += len(picture)
        if used > ROOM:
            break
        shown.append({**row, "picture": picture})
    source = (files("finetune.report") / "suspects.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    write_text(path, environment.from_string(source).render(
        title=title, notes=notes, rows=shown, total=len(rows)))
    return len(shown)


def _thumbnail(pixels: np.ndarray) -> str:
    """A JPEG of at most `SIDE` pixels as data URI."""
    picture = Image.fromarray(pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0])
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
