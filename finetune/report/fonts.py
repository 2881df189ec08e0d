"""Fonts that have the characters of class names, so that no name is drawn as boxes.

matplotlib is loaded only when it is asked for more than Latin letters: a training process doesn't
need it.
"""

import functools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.font_manager import FontManager

__all__ = ["BASE_FAMILY", "base_file", "drawable", "find_families", "find_file", "shorten",
           "visible"]

BASE_FAMILY = "DejaVu Sans"  # comes with matplotlib
_LAST_LATIN = "\u024f"  # up to here, the base font has all visible characters
_MARKS = "–—‘’“”…€"  # and these


def drawable(names: Sequence[str], *, longest: int = 28) -> tuple[list[str], list[str], list[str]]:
    """Labels that can be drawn, the font families for them, and warnings.

    A name for which no installed font has all characters becomes ``class 3`` (its place in
    ``names``); one warning tells which names and what to install. Long names are cut in their
    middle; those that would look the same then begin with their place.

    >>> drawable(["cat", "dog"])
    (['cat', 'dog'], ['DejaVu Sans'], [])
    """
    shown = [visible(name) for name in names]
    families, missing = find_families("".join(shown))
    hidden = [i for i, name in enumerate(shown) if not name or missing & set(name)]
    labels = [f"class {i}" if i in hidden else shorten(name, longest)
              for i, name in enumerate(shown)]
    counts = Counter(labels)
    labels = [label if counts[label] == 1 else shorten(f"{i}: {shown[i]}", longest)
              for i, label in enumerate(labels)]
    return labels, families, _warning(names, hidden, missing) if hidden else []


def _warning(names: Sequence[str], hidden: list[int], missing: set[str]) -> list[str]:
    shown = ", ".join(f"class {i} = {names[i]}" for i in hidden[:10])
    more = f" and {len(hidden) - 10} more" if len(hidden) > 10 else ""
    return [f"No installed font has the characters {''.join(sorted(missing)[:20])}; the figures "
            f"say {shown}{more}. Install a font that has them (for example Noto Sans of that "
            "script) and run `python -m finetune report RUN`; the report's text is not affected."]


def shorten(text: str, longest: int) -> str:
    """The text, cut in its middle when it is longer than ``longest`` characters.

    >>> shorten("a_very_long_name_2", 9)
    'a_ve…me_2'
    """
    if len(text) <= longest:
        return text
    tail = (longest - 1) // 2
    return f"{text[:longest - 1 - tail]}…{text[len(text) - tail:]}"


def visible(text: str) -> str:
    """The text without control and format characters; any white space becomes a space."""
    plain = "".join(" " if c.isspace() else c for c in unicodedata.normalize("NFC", text))
    return "".join(c for c in plain if not unicodedata.category(c).startswith("C")).strip()


def base_file() -> str:
    """The file of the base font, found without loading matplotlib."""
    spec = find_spec("matplotlib")
    assert spec is not None and spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0], "mpl-data", "fonts", "ttf",
                    "DejaVuSans.ttf"))


def find_file(text: str) -> str | None:
    """The file of a font that has all characters of ``text``; None when none has."""
    wanted = set(text) - {" "}
    if all(c <= _LAST_LATIN or c in _MARKS for c in wanted):
        return base_file()
    files = [base_file(), *(path for _, path in _fonts())]
    return next((path for path in files if _covered(path, wanted) == wanted), None)


def find_families(text: str) -> tuple[list[str], set[str]]:
    """Font families that together have the characters of ``text``, and characters none has."""
    families, missing = _find(frozenset(text) - {" "})
    return list(families), set(missing)


@functools.lru_cache(maxsize=64)
def _find(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    families, missing = [BASE_FAMILY], set(characters)
    missing -= _covered(base_file(), missing)
    for name, path in _fonts() if missing else ():
        covered = _covered(path, missing)
        if covered:
            families.append(name)
            missing -= covered
        if not missing:
            break
    return tuple(families), frozenset(missing)


def _fonts() -> Iterator[tuple[str, str]]:
    """Family and path of installed fonts: the upright and regular one of each."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    _add_new_fonts(manager)
    upright = [entry for entry in manager.ttflist
               if entry.style == "normal" and "Last Resort" not in entry.name]  # draws boxes
    upright.sort(key=lambda entry: abs(_weight(entry.weight) - 400), reverse=True)
    regular = {entry.name: entry.fname for entry in upright}  # the weight nearest to regular
    yield from sorted(regular.items(), key=lambda item: ("Sans" not in item[0], item[0]))


def _weight(weight: int | str) -> int:
    from matplotlib.font_manager import weight_dict

    return int(weight_dict.get(weight, 400)) if isinstance(weight, str) else weight


def _add_new_fonts(manager: "FontManager") -> None:
    """Fonts that were installed since matplotlib last looked."""
    from matplotlib import font_manager

    known = {entry.fname for entry in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                manager.addfont(path)
            except (OSError, RuntimeError, ValueError):  # bitmap or broken: not for drawing
                continue


def _covered(path: str, characters: Iterable[str]) -> set[str]:
    from matplotlib import ft2font

    try:
        font = ft2font.FT2Font(path)
    except (OSError, RuntimeError):
        return set()
    return {c for c in characters if font.get_char_index(ord(c))}
