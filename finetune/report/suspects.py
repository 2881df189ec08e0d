"""The page of labels that are probably wrong: one HTML file, below 3 MB."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.files import write_text
from finetune.report.page import ReadPicture, Thumbnails, render_page

__all__ = ["write_suspects"]

ROOM = 2_500_000  # bytes of pictures, as base64
SIDE = 200        # pixels
MOST = 200        # pictures


def write_suspects(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str,
                   notes: Sequence[str], read_picture: ReadPicture) -> int:
    """Write the page and return how many of the rows it shows: as many as there is room for.

    Args:
        path: The HTML file.
        rows: ``path``, ``part``, ``given``, ``suggested``, ``self_confidence`` (0..1).
        title: Above all.
        notes: Paragraphs below the title.
        read_picture: Gives a picture (H, W, C) uint8 by its path.
    """
    thumbnails = Thumbnails(read_picture, room=ROOM)
    shown: list[dict[str, Any]] = []
    for row in rows[:MOST]:
        picture = thumbnails.uri(row["path"], side=SIDE)
        if thumbnails.are_full:
            break
        shown.append({**row, "picture": picture})
    write_text(path, render_page("suspects.html.jinja", title=title, notes=notes, rows=shown,
                                 total=len(rows)))
    return len(shown)
