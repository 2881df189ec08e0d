"""Print docs/configuration.md from the schema: every key, its type, default and comment.

python data_tools/list_settings.py > docs/configuration.md
"""

import inspect
import sys
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, get_args, get_origin

from finetune.config import Config, Phase

HEAD = """# Settings

This page is written by `python data_tools/list_settings.py > docs/configuration.md`.

A setting is a word `key=value` on the command line, a line in a recipe, or an entry of
`finetune.fit(recipe, {key: value})`. A later source wins: these defaults, the recipe, what a
[rehearsal](recipes.md#rehearsals) replaces, what you type. `python -m finetune keys` prints all of
them as YAML. A mistake in a key or a value is exit code 2, with the nearest name; all mistakes are
told at once.

## How values are written

- **null** unsets a setting, also one of a recipe: `model.weights=null`.
- **Text** is taken as it stands after the first `=`: spaces, commas, brackets, `=`, `?` and
  umlauts need no quotes of ours, only those that your shell asks for. A path may begin with `~`.
  A relative path starts at the folder in which you type the command; `data.splits_file` is
  looked for below `data.root` first, `data.labels_file` only there.
- **Lists** are written `tracking.tags=[first,second]`, **mappings**
  `optimizer.stage_lrs={layer3:1e-5,layer4:1e-4}`, both in quotes for most shells.
- **Shares** (`..._fraction`) scale with the epochs or the pictures that there are.
- Several values for a setting make a [study](studies.md) (`-m`).
"""

TAIL = """## Keys that belong together

Each of these is refused (exit code 2):

- a key that chooses or describes data without `data.root`: a rehearsal takes no data of its own;
- `freezing.policy=below` without `freezing.below`, `freezing.policy=phases` without
  `freezing.phases`, and either of the two with another policy;
- `data.duplicates=allow` without `data.waiver`, and the other way round;
- `data.labels_file` with `data.format=folders` or `data.format=npz`;
- `optimizer.decay_towards=start` or `training.wise_ft` with `model.weights=null` or
  `freezing.policy=head_only`, and `optimizer.start_decay` without `optimizer.decay_towards=start`.

## Environment variables

| variable | meaning |
|---|---|
| `FINETUNE_RECIPE_PATH` | folders with recipes of your own; they go before the program's |
| `FINETUNE_CACHE` | where facts about pictures are kept; unset: `~/.cache/finetune` |
| `HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `TORCH_HOME` | weights: as in huggingface_hub, torch |
| `WANDB_MODE`, `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_RUN_GROUP` | for unset `tracking.*` |
| `WANDB_TAGS`, `WANDB_NOTES` | likewise |
| `WANDB_NAME` | another name than that of the run's folder |
| `WANDB_API_KEY`, `WANDB_BASE_URL` | key and server for `tracking.mode=online` |
| `WORLD_SIZE` | above 1: refused, this version trains in one process |
| `FINETUNE_TEST_DATA` | tests only, see [contributing](../CONTRIBUTING.md) |
"""

# What the one-line comments of the schema have no room for.
MORE = {
    "recipe": "typed as `recipe=NAME` or `recipe=FILE.yaml`; see [recipes](recipes.md)",
    "device": "auto takes CUDA, else MPS, else the CPU",
    "output_dir": "made where it is missing",
    "data.root": "see [formats](data.md#formats)",
    "data.group_column": "pictures that share a value of any column stay together",
    "data.group_from": "every path has to match; see [splits](data.md#splits)",
    "data.channels": "see [channels](data.md#channels)",
    "data.resize": "see [resizing](data.md#resizing)",
    "data.workers": "two less than the cores, at most 8; below 5 cores without an accelerator a "
                    "thread; see [reading](data.md#reading)",
    "data.decoding": "see [reading](data.md#reading)",
    "data.pack": "see [reading](data.md#reading)",
    "data.batch_size": "see [batches](method.md#the-size-of-a-batch)",
    "data.subgroup_columns": "see [for whom it fails](evidence.md#for-whom-it-fails)",
    "data.sampling": "balanced draws with replacement, all classes equally often",
    "data.unreadable": "see [unreadable pictures](data.md#unreadable-pictures)",
    "data.split": "see [splits](data.md#splits)",
    "data.block_size": "see [spatial blocks](data.md#spatial-blocks)",
    "data.time_column": "see [time](data.md#time)",
    "data.test_site": "see [site](data.md#site)",
    "data.folds": "see [cross-validation](data.md#cross-validation)",
    "data.compare_random": "see [what a random split would have said]"
                           "(data.md#what-a-random-split-would-have-said)",
    "data.duplicates": "see [identical pictures](data.md#identical-pictures)",
    "model.weights": "see [weights](method.md#weights)",
    "model.head": "mlp has one hidden layer, as wide as the features, at most 512",
    "freezing.policy": "see [freezing](method.md#freezing)",
    "depths": "see [depth](method.md#depth)",
    "optimizer.decay_towards": "see [decay towards the start]"
                               "(method.md#decay-towards-the-starting-weights)",
    "optimizer.stage_lrs": "goes before layer_decay",
    "schedule.name": "see [schedules](method.md#schedules)",
    "schedule.restart": "a phase of `freezing.phases` counts as a change",
    "training.select_metric": "balanced_accuracy, ordinal: quadratic_kappa, multi: "
                              "average_precision; see [choosing](method.md#choosing-the-epoch)",
    "training.wise_ft": "see [between start and end]"
                        "(method.md#between-the-starting-and-the-chosen-weights)",
    "training.ema_decay": "averaged weights are measured and kept; unset: none",
    "data.label_kind": "see [labels](labels.md)",
    "training.ordinal": "see [ordered classes](labels.md#ordered-classes)",
    "training.class_weights": "see [imbalance](labels.md#imbalance)",
    "training.logit_adjustment": "1 is the paper's; see [imbalance](labels.md#imbalance)",
    "training.compile": "see [compiling](method.md#compiling)",
    "training.precision": "bf16 by autocast; weights stay fp32",
    "tracking.tags": "unset: WANDB_TAGS",
    "tracking.notes": "unset: WANDB_NOTES",
    "tracking.pictures": "the worst mistakes, with hashed names",
}


def main() -> int:
    """Print the page."""
    sys.stdout.write(render())
    return 0


def render() -> str:
    """The page as Markdown."""
    lines = [HEAD]
    for title, prefix, schema in sections():
        lines += [f"## {title}", "", (schema.__doc__ or "").strip(), "",
                  "| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [f"| `{prefix}{name}` | {kind} | `{default}` | {meaning} |"
                  for name, kind, default, meaning in rows(schema, prefix)]
        lines.append("")
    return "\n".join([*lines, TAIL])


def sections() -> Iterator[tuple[str, str, type]]:
    """Title, prefix of the keys and dataclass of each section."""
    yield "Top level", "", Config
    for each in fields(Config):
        if is_dataclass(each.type) and isinstance(each.type, type):
            yield each.name, f"{each.name}.", each.type
            if each.name == "freezing":
                yield "An entry of freezing.phases", "", Phase


def rows(schema: type, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of the plain keys of one dataclass."""
    told = comments(schema)
    own: Any = schema()
    for each in fields(schema):
        if not is_dataclass(each.type):
            parts = [told.get(each.name) or described(each.type), MORE.get(prefix + each.name)]
            meaning = "; ".join(part for part in parts if part)
            yield (each.name, kind_of(each.type), shown(getattr(own, each.name)),
                   meaning.replace("|", "\\|"))


def comments(schema: type) -> dict[str, str]:
    """The comment behind each field in the source."""
    found = {}
    for line in inspect.getsource(schema).splitlines():
        if "  # " in line and ":" in line:
            found[line.split(":")[0].strip()] = line.split("  # ", 1)[1].strip()
    return found


def described(kind: Any) -> str:
    """What an enumeration says of itself, for fields without a comment."""
    found = enumeration(kind)
    text = inspect.getdoc(found) if found else None
    return (text or "").split("\n")[0].rstrip(".")


def enumeration(kind: Any) -> type[Enum] | None:
    """The enumeration that a type is, also an optional one."""
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, Enum):
            return each
    return None


def kind_of(kind: Any) -> str:
    """A type in words.

    >>> kind_of(int | None), kind_of(list[str])
    ('whole number or null', 'list of texts')
    """
    if isinstance(kind, types.UnionType):
        return " or ".join(kind_of(each) for each in get_args(kind))
    if get_origin(kind) is dict:
        return "mapping of texts to numbers"
    if get_origin(kind) is list:
        return "list of texts" if get_args(kind) == (str,) else "list of mappings"
    found = enumeration(kind)
    if found:
        return ", ".join(f"`{member.value}`" for member in found)
    return {int: "whole number", float: "number", bool: "true or false", str: "text",
            type(None): "null"}[kind]


def shown(value: Any) -> str:
    """A default as it is typed."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
