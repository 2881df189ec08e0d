"""The page of an audit: findings by severity, with the pictures side by side, in one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.decoding import conform
from finetune.data.findings import Collection, Finding, Level, label_of
from finetune.data.hashing import oriented
from finetune.data.near_duplicates import NearPair
from finetune.data.unreadable import UnreadableImage
from finetune.files import write_text
from finetune.report.page import picture_uri, render_page
from finetune.specs import Dtype

__all__ = ["write_audit_page"]

SIDE = 144                    # px of a thumbnail
BUDGET = 2_300_000            # characters of all thumbnails; the page stays below 3 MB
SETS, MEMBERS = 12, 4         # of a finding that are shown; of a set
MOST_ROWS = 60                # classes in a table

Pixels = np.ndarray


def write_audit_page(path: Path, name: str, data: Collection, findings: Sequence[Finding],
                     tables: dict[str, Any]) -> Path:
    """Write the page; it asks nothing of any other machine and stays below 3 MB.

    Args:
        path: The file.
        name: Of the collection.
        data: What was looked at; its pictures are read again where they are shown.
        findings: In their order.
        tables: From `finetune.data.audit.tables`.
    """
    drawn = _Drawn(data)
    shown = [{"level": f.level.value, "text": f.text, "details": f.details[:12],
              "more": max(0, len(f.details) - 12), "sets": drawn.sets(f),
              "hidden": max(0, len(f.pictures) - SETS)} for f in findings]
    counts = {level.value: sum(f.level is level for f in findings) for level in Level}
    page = render_page(
        "audit.html.jinja", style="audit.css", name=name, findings=shown, counts=counts,
        pictures=len(data.samples), cues=data.cues, most=MOST_ROWS, tables=tables,
        parts=list(next(iter(tables["classes"].values()))))
    return write_text(path, page)


class _Drawn:
    """Thumbnails, until the page is full."""

    def __init__(self, data: Collection) -> None:
        self._data, self._left = data, BUDGET

    def sets(self, finding: Finding) -> list[dict[str, Any]]:
        """The sets of a finding: pictures with names, and what is known of a pair."""
        made = []
        for number, members in enumerate(finding.pictures[:SETS]):
            pair = finding.pairs[number] if finding.pairs else None
            pictures = [self._picture(i, pair) for i in members[:MEMBERS]]
            made.append({"pictures": pictures, "more": max(0, len(members) - MEMBERS),
                         "told": _told(pair)})
        return made

    def _picture(self, index: int, pair: NearPair | None) -> dict[str, Any]:
        turn = pair.orientation if pair is not None and index == pair.second else 0
        part = self._data.parts[index]
        return {"id": self._data.samples.ids[index].encode("utf-8", "backslashreplace").decode(),
                "label": label_of(self._data.samples, index),
                "part": "" if part == "all" else part, "uri": self._uri(index, turn)}

    def _uri(self, index: int, turn: int) -> str | None:
        if self._left <= 0:
            return None
        samples = self._data.samples
        try:
            pixels = samples.source.read(samples.ids[index], (SIDE, SIDE)).pixels
        except (UnreadableImage, OSError):
            return None
        picture = Image.fromarray(_visible(pixels, turn))
        picture.thumbnail((SIDE, SIDE))
        uri = picture_uri(picture, quality=80)
        self._left -= len(uri)
        return uri


def _told(pair: NearPair | None) -> str:
    if pair is None:
        return ""
    level = "certain" if pair.certain else "likely"
    return f"{level}, correlation {pair.correlation:.3f}; second one {pair.transform}"


def _visible(pixels: Pixels, turn: int) -> Pixels:
    """(H, W, 3) uint8 of any picture, in one of 8 orientations."""
    if pixels.shape[-1] not in (1, 3, 4):
        pixels = pixels[..., :3] if pixels.shape[-1] > 4 else pixels[..., :1]
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels.astype(np.float32) - low) / max(high - low, 1e-12))
    seen = conform(np.ascontiguousarray(pixels), channels=3, dtype=Dtype.uint8)
    return np.ascontiguousarray(np.moveaxis(oriented(np.moveaxis(seen, -1, 0), turn), 0, -1))
