"""Text of others inside Markdown: names are shown as they are and never become markup."""

import re

__all__ = ["escape_markdown", "on_one_line"]

# Controls, halves of surrogate pairs, and marks that turn the direction of what follows.
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
# Entities, not backslashes, for what HTML and the hub's formulas (``\\(``) would read first.
_ACTIVE = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;",
                         **{each: f"\\{each}" for each in "`*[]|~#$!@"}})
_LONE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # inside a word it means nothing
_LINK = re.compile(r"(?i)(?<=:)/(?=/)|(?<=www)\.")          # links without brackets
_BLOCK = re.compile(r"^(\d{1,9})?([-+=.)])(?=[-+=\s]|$)")   # a list, a rule, a heading


def on_one_line(text: str) -> str:
    r"""The text without line ends and without what can't be printed.

    >>> on_one_line(" a\n---\tb\x00 ")
    'a --- b'
    """
    lines = re.sub("[\ud800-\udfff]", "\ufffd", " ".join(text.split()))
    return " ".join(_UNPRINTED.sub(" ", lines).split())


def escape_markdown(text: str) -> str:
    r"""The text on one line, as CommonMark and GitHub's tables show it: as it is, and nothing else.

    No HTML, link, picture, emphasis, code, formula, cell or list comes of it.

    >>> escape_markdown("<b>a_b</b> | [x](javascript:1) `c`")
    '&lt;b&gt;a_b&lt;/b&gt; \\| \\[x\\](javascript:1) \\`c\\`'
    """
    found = _LONE_UNDERSCORE.sub(r"\\_", on_one_line(text).translate(_ACTIVE))
    return _BLOCK.sub(r"\1\\\2", _LINK.sub(lambda match: f"\\{match.group()}", found))
