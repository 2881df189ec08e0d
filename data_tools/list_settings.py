"""Print docs/configuration.md from the schema: every key, type, default and its comment.

python data_tools/list_settings.py > docs/configuration.md
"""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from finetune.config import Config

HEAD = """# Settings

Every setting is `key=value` on the command line, a line in a recipe, or a key of
`finetune.fit(recipe, {key: value})`. The order of precedence is: these defaults, the recipe, what a
rehearsal replaces, what you type. `null` unsets a value. Text (paths, regular expressions, notes)
is taken literally after the first `=`; quote it for your shell only. This page is written by
`python data_tools/list_settings.py`.
"""


def main() -> int:
    """Print the page."""
    sys.stdout.write(render())
    return 0


def render() -> str:
    """The page as Markdown."""
    lines = [HEAD]
    for title, prefix, schema in sections():
        lines += [f"## {title}", "", (schema.__doc__ or "").strip(), "",
                  "| key | default | meaning |", "|---|---|---|"]
        lines += [f"| `{prefix}{name}` | `{default}` | {meaning} |"
                  for name, default, meaning in rows(schema)]
        lines.append("")
    return "\n".join(lines)


def sections() -> Iterator[tuple[str, str, type]]:
    """Title, prefix of the keys and dataclass of each section."""
    yield "Top level", "", Config
    for each in fields(Config):
        if is_dataclass(each.type) and isinstance(each.type, type):
            yield each.name, f"{each.name}.", each.type


def rows(schema: type) -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of the plain keys of one dataclass."""
    told = comments(schema)
    own: Any = schema()
    for each in fields(schema):
        if not is_dataclass(each.type):
            kinds = [str(m) for m in choices(each.type)]
            words = "; ".join(t for t in (told.get(each.name, ""), ", ".join(kinds)) if t)
            yield each.name, shown(getattr(own, each.name)), words.replace("|", "\\|")


def comments(schema: type) -> dict[str, str]:
    """The comment behind each field in the source."""
    found = {}
    for line in inspect.getsource(schema).splitlines():
        if "  # " in line and ":" in line:
            found[line.split(":")[0].strip()] = line.split("  # ", 1)[1].strip()
    return found


def choices(kind: Any) -> list[str]:
    """The values of an enumeration, also of an optional one."""
    for each in (kind, *getattr(kind, "__args__", ())):
        if isinstance(each, type) and issubclass(each, Enum):
            return [member.value for member in each]
    return []


def shown(value: Any) -> str:
    """A default as it is typed."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
