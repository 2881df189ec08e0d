"""What all pages share: one look, one script, numbers and names as text, pictures inside the file.

A page is a template that fills the blocks of ``base.html.jinja``. ``page.css`` and ``page.js`` are
written into it, and its content security policy lets no other script, style or request through.
"""

import base64
import hashlib
import io
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from finetune.errors import DataError

__all__ = ["ReadPicture", "Thumbnails", "breakable", "number", "picture_uri", "render_page",
           "spans"]

# what no text needs and names may hold: control characters, turned directions, halves of pairs
_HIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ReadPicture = Callable[[str], np.ndarray]
"""Gives a picture (H, W, C) uint8 by its id."""


def render_page(template: str, *, style: str = "", **values: Any) -> str:
    """The text of a page.

    Args:
        template: A file of this folder that extends ``base.html.jinja``.
        style: Another file of this folder, with rules that only this page needs.
        values: What the template names.
    """
    css = _text("page.css") + (_text(style) if style else "")
    script = _text("page.js")
    policy = (f"default-src 'none'; img-src data:; style-src {_source(css)}; "
              f"script-src {_source(script)}; base-uri 'none'; form-action 'none'")
    page = _environment().get_template(template).render(
        css=Markup(css), script=Markup(script), policy=Markup(policy), **values)  # our own files
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), page)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.ChainableUndefined,
                                     loader=jinja2.PackageLoader("finetune", "report"))
    environment.filters |= {"number": number, "spans": spans, "breakable": breakable}
    return environment


@cache
def _text(name: str) -> str:
    return (files("finetune.report") / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def number(value: Any) -> str:
    """A number for a table: three decimals, thousands apart, a dash when it is not defined."""
    if value is None or isinstance(value, jinja2.Undefined):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
    return f"{value:,}".replace(",", "\u2009") if isinstance(value, int) else str(value)


def spans(numbers: list[int]) -> str:
    """Ranges of whole numbers.

    >>> spans([1, 2, 3, 7])
    '1–3, 7'
    """
    ranges: list[list[int]] = []
    for each in sorted(numbers):
        if ranges and each == ranges[-1][1] + 1:
            ranges[-1][1] = each
        else:
            ranges.append([each, each])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in ranges)


def breakable(text: str) -> Markup:
    """The text, escaped, that a browser may wrap where a name's words end.

    >>> breakable("a_b<")
    Markup('a_<wbr>b&lt;')
    """
    words = re.split(r"(?<=[/_-])(?=.)", text)
    return Markup("<wbr>").join(words)


def picture_uri(picture: Image.Image, *, quality: int) -> str:
    """A JPEG as data URI; photographs as PNG would make the page several times as large."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


class Thumbnails:
    """Small pictures for a page, until they have taken the room they were given.

    Args:
        read: Gives a picture by its id; without it there are none.
        room: Characters of all data URIs together.
    """

    def __init__(self, read: ReadPicture | None, *, room: int) -> None:
        self._read, self._room = read, room

    @property
    def are_full(self) -> bool:
        """Whether the last one asked for found no room, or will the next."""
        return self._room <= 0

    def uri(self, sample_id: str, *, side: int, quality: int = 80) -> str | None:
        """At most ``side`` pixels, as data URI; None when it can't be had or there is no room."""
        if self._read is None or self._room <= 0:
            return None
        try:
            pixels = self._read(sample_id)
        except (DataError, OSError, KeyError):
            return None
        picture = Image.fromarray(pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0])
        picture.thumbnail((side, side))
        made = picture_uri(picture, quality=quality)
        self._room -= len(made)
        return made if self._room >= 0 else None
