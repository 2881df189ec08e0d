"""Fonts that have the characters of class names, so that no name is drawn as boxes."""

import functools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from matplotlib import font_manager, ft2font

__all__ = ["BASE_FAMILY", "drawable", "find_families", "shorten"]

BASE_FAMILY = "DejaVu Sans"  # comes with matplotlib


def drawable(names: Sequence[str], *, longest: int = 28) -> tuple[list[str], list[str], list[str]]:
    """Labels that can be drawn, the font families for them, and warnings.

    A name for which no installed font has all characters becomes ``class 3`` (its place in
    ``names``); one warning tells which names and what to install. Long names are cut in their
    middle; those that would look the same then begin with their place.

    >>> drawable(["cat", "dog"])
    (['cat', 'dog'], ['DejaVu Sans'], [])
    """
    visible = [_visible(name) for name in names]
    families, missing = find_families("".join(visible))
    hidden = [i for i, name in enumerate(visible) if not name or missing & set(name)]
    labels = [f"class {i}" if i in hidden else shorten(name, longest)
              for i, name in enumerate(visible)]
    counts = Counter(labels)
    labels = [label if counts[label] == 1 else shorten(f"{i}: {visible[i]}", longest)
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


def _visible(text: str) -> str:
    """Without control and format characters; any white space becomes a space."""
    plain = "".join(" " if c.isspace() else c for c in unicodedata.normalize("NFC", text))
    return "".join(c for c in plain if not unicodedata.category(c).startswith("C")).strip()


def find_families(text: str) -> tuple[list[str], set[str]]:
    """Font families that together have the characters of ``text``, and characters none has."""
    families, missing = _find(frozenset(text) - {" "})
    return list(families), set(missing)


@functools.lru_cache(maxsize=64)
def _find(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    families, missing = [BASE_FAMILY], set(characters)
    base = font_manager.findfont(BASE_FAMILY)
    missing -= _covered(base, missing)
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
    manager = font_manager.fontManager
    _add_new_fonts(manager)
    upright = [entry for entry in manager.ttflist
               if entry.style == "normal" and "Last Resort" not in entry.name]  # draws boxes
    upright.sort(key=lambda entry: abs(_weight(entry.weight) - 400), reverse=True)
    regular = {entry.name: entry.fname for entry in upright}  # the weight nearest to regular
    yield from sorted(regular.items(), key=lambda item: ("Sans" not in item[0], item[0]))


def _weight(weight: int | str) -> int:
    return int(font_manager.weight_dict.get(weight, 400)) if isinstance(weight, str) else weight


def _add_new_fonts(manager: font_manager.FontManager) -> None:
    """Fonts that were installed since matplotlib last looked."""
    known = {entry.fname for entry in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                manager.addfont(path)
            except (OSError, RuntimeError, ValueError):  # bitmap or broken: not for drawing
                continue


def _covered(path: str, characters: Iterable[str]) -> set[str]:
    try:
        font = ft2font.FT2Font(path)
    except (OSError, RuntimeError):
        return set()
    return {c for c in characters if font.get_char_index(ord(c))}
