"""Heat maps over pictures as small JPEGs, and the folder of a run in which they lie."""

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.errors import InputError
from finetune.files import read_json, write_bytes, write_json

__all__ = ["HeatMap", "draw_overlay", "heat_uris", "hits_of", "read_heat_maps", "write_heat_maps"]

SIDE = 96            # px, of the longer side
LARGEST = 8_000      # bytes of a JPEG
STRENGTH = 0.6       # of the colour where a map is 1
FOLDER = "figures/grad_cam"


@dataclass(frozen=True)
class HeatMap:
    """A picture as the network saw it, under a heat map for one class.

    Attributes:
        id: Of the picture.
        class_name: That the network is asked about.
        kind: ``mistake`` (the wrong answer is asked about) or ``hit``.
        file: Name in the folder.
    """

    id: str
    class_name: str
    kind: str
    file: str


def draw_overlay(image: np.ndarray, heat: np.ndarray) -> bytes:
    """A JPEG of at most `SIDE` pixels a side and `LARGEST` bytes: colour where the heat is.

    Args:
        image: (H, W, C) uint8, or float from 0 to 1; of many channels the first three are shown,
            of two the first.
        heat: (h, w) from 0 to 1; brought to the picture's size.
    """
    import cv2

    seen = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)
    if seen.dtype != np.uint8:
        seen = (np.nan_to_num(seen).clip(0, 1) * 255).round().astype(np.uint8)
    scale = SIDE / max(seen.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in seen.shape[1::-1])
    small = cv2.resize(np.ascontiguousarray(seen), size, interpolation=cv2.INTER_AREA)
    large = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colour = cv2.applyColorMap((large * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    share = STRENGTH * large[..., None]
    mixed = (small * (1 - share) + colour * share).round().astype(np.uint8)
    return _jpeg(Image.fromarray(mixed))


def _jpeg(picture: Image.Image) -> bytes:
    """As good as fits; noise of this size does at the lowest quality."""
    for quality in (85, 70, 50, 30):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        if stream.tell() <= LARGEST:
            break
    return stream.getvalue()


def write_heat_maps(run: Path, maps: Sequence[tuple[HeatMap, bytes]]) -> Path:
    """Write the JPEGs and ``index.json`` into a run's folder; the index comes last."""
    folder = run / FOLDER
    for told, content in maps:
        write_bytes(folder / told.file, content)
    return write_json(folder / "index.json", [asdict(told) for told, _ in maps])


def read_heat_maps(run: Path) -> list[tuple[HeatMap, bytes]]:
    """What `write_heat_maps` wrote, in its order; nothing where a run has none.

    Raises:
        InputError: The index is damaged. Files elsewhere that it names are left out.
    """
    index = run / FOLDER / "index.json"
    if not index.exists():
        return []
    try:
        found = [HeatMap(**row) for row in read_json(index)]
        paths = {told.file: run / FOLDER / Path(told.file).name for told in found}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{index} is damaged ({error}); remove it") from error
    return [(told, paths[told.file].read_bytes()) for told in found
            if paths[told.file].is_file() and paths[told.file].name == told.file]


def heat_uris(run: Path) -> dict[tuple[str, str], str]:
    """A run's heat maps as ``data:`` addresses, by picture and class."""
    return {(told.id, told.class_name):
            f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
            for told, content in read_heat_maps(run)}


def hits_of(run: Path, uris: dict[tuple[str, str], str]) -> list[dict[str, str]]:
    """The right answers that have a heat map: ``id``, ``true`` and ``heat``, as in ``uris``."""
    return [{"id": told.id, "true": told.class_name, "heat": uris[told.id, told.class_name]}
            for told, _ in read_heat_maps(run) if told.kind == "hit"]
