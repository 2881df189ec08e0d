"""Commands that show what there is and what would be trained, or that try it out."""

import sys
from pathlib import Path

from finetune.commands.parsing import (
    asks_for_study,
    command_parser,
    compose_words,
    open_page,
    parse,
)
from finetune.console import printable, say, table
from finetune.errors import ConfigurationError, InputError

__all__ = ["audit_command", "cp_command", "keys_command", "lr_find_command", "ls_command",
           "plan_command", "show_command", "summary_command"]


def ls_command(words: list[str]) -> int:
    """Recipes, networks, studies or runs as a table."""
    if words[:1] == ["runs"]:
        return _ls_runs(words[1:])
    parser = command_parser("ls", [])
    parser.add_argument("kind", nargs="?", choices=["recipes", "models", "studies", "runs"],
                        default="recipes")
    parser.add_argument("pattern", nargs="?")
    given = parser.parse_args(words)
    if given.kind == "models":
        from finetune.inspect_models import print_networks

        print_networks(given.pattern)
        return 0
    if given.pattern:
        raise ConfigurationError(f"ls {given.kind} takes no pattern ({given.pattern})")
    from finetune.recipes import list_recipes
    from finetune.study.files import list_studies

    found = list_studies() if given.kind == "studies" else list_recipes()
    table(given.kind, ["name", "for"], [[r.name, r.summary] for r in found.values()])
    return 0


def _ls_runs(words: list[str]) -> int:
    parser = command_parser("ls runs", [])
    parser.add_argument("words", nargs="*", metavar="DIR | KEY=VALUE")
    parser.add_argument("--metric", default=None, help="shown; default: accuracy")
    parser.add_argument("--sort", metavar="METRIC", help="the best first; default: the newest")
    parser.add_argument("--html", action="store_true", help="write them to DIR/index.html too")
    parser.add_argument("--open", action="store_true", help="the same, and open it in the browser")
    given = parser.parse_intermixed_args(words)
    folders = [word for word in given.words if "=" not in word] or ["runs"]
    if len(folders) > 1:
        parser.error(f"one folder, not {' and '.join(folders)}")
    from finetune.runs_index import list_runs, parse_filters, print_runs

    filters = parse_filters([word for word in given.words if "=" in word])
    folder, metric = Path(folders[0]).expanduser(), given.metric or given.sort or "accuracy"
    rows = list_runs(folder, filters=filters, sort=given.sort)
    print_runs(rows, metric=metric)
    if given.html or given.open:
        from finetune.runs_tree import write_index

        page = write_index(folder, rows, metric=metric)
        say(f"wrote {page}")
        if given.open:
            open_page(page)
    return 0


def summary_command(words: list[str]) -> int:
    """A network, depth by depth."""
    parser = command_parser("summary", ["model"])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_intermixed_args(words)
    from finetune.inspect_models import print_summary

    print_summary(given.model, given.settings, as_json=given.json)
    return 0


def show_command(words: list[str]) -> int:
    """The text of a recipe or study."""
    from finetune.recipes import find_recipe
    from finetune.study.files import find_study

    is_study = len(words) > 1 and words[0] == "study"
    given = parse("show", ["recipe"], words[1:] if is_study else words).recipe
    text = (find_study(given) if is_study else find_recipe(given)).text
    sys.stdout.write(printable(text))
    return 0


def cp_command(words: list[str]) -> int:
    """Copy a recipe to a file that does not exist."""
    from finetune.files import write_text
    from finetune.recipes import find_recipe

    given = parse("cp", ["recipe", "file"], words)
    recipe, target = find_recipe(given.recipe), Path(given.file).expanduser()
    target = target / recipe.path.name if target.is_dir() else target
    target = target if target.suffix in (".yaml", ".yml") else Path(f"{target}.yaml")
    if target.exists():
        raise InputError(f"{target} exists; choose another name or remove it first")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}; make it first")
    write_text(target, recipe.text)
    say(f"wrote {target}; use it with recipe={target}")
    return 0


def keys_command(words: list[str]) -> int:
    """Every key with its default."""
    from finetune.composition import dump_config
    from finetune.config import Config

    parse("keys", [], words)
    sys.stdout.write(dump_config(Config()))
    return 0


def plan_command(words: list[str]) -> int:
    """What these words would train."""
    if asks_for_study(words):
        from finetune.study.making import print_study_plan

        print_study_plan(words)
        return 0
    composed = compose_words(words)
    from finetune.plan import print_plan

    print_plan(composed.config, replaced=composed.replaced)
    return 0


def lr_find_command(words: list[str]) -> int:
    """Range tests of a configuration."""
    parser = command_parser("lr-find", [])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--from", type=float, default=1e-7, dest="start", metavar="RATE")
    parser.add_argument("--to", type=float, default=10.0, dest="end", metavar="RATE")
    parser.add_argument("--steps", type=int, default=100, metavar="N")
    parser.add_argument("--by-depth", action="store_true", help="each depth alone, too")
    parser.add_argument("--output", metavar="DIR", type=Path, help="default: lr-find/NAME-TIME")
    given = parser.parse_intermixed_args(words)
    composed = compose_words(given.settings)
    from finetune.rate_finder import RateSearch, find_rates

    search = RateSearch(given.start, given.end, given.steps, given.by_depth)
    find_rates(composed.config, search, replaced=composed.replaced, output=given.output)
    return 0


def audit_command(words: list[str]) -> int:
    """Look at a collection of pictures."""
    parser = command_parser("audit", ["dir"])
    parser.add_argument("settings", nargs="*", metavar="data.KEY=VALUE")
    parser.add_argument("--labels", metavar="FILE", help="CSV with the labels")
    parser.add_argument("--output", metavar="DIR", type=Path, help="default: audit/NAME")
    parser.add_argument("--fix-splits", metavar="FILE", type=Path,
                        help="write a splits file that keeps duplicates together")
    parser.add_argument("--no-near", action="store_true", help="don't look for near-duplicates")
    given = parser.parse_intermixed_args(words)
    if "=" in given.dir and not Path(given.dir).exists():
        parser.error(f"the first word is the folder to look at, not {given.dir}")
    from finetune.auditing import audit

    audit(given.dir, given.settings, labels=given.labels, output=given.output,
          fix_splits=given.fix_splits, near=not given.no_near)
    return 0
