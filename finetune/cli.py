"""The command line: ``key=value`` words train; a bare first word is a sub-command."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from finetune import __version__
from finetune.console import say, table, warn
from finetune.errors import ConfigurationError, InputError, did_you_mean

if TYPE_CHECKING:
    from finetune.composition import Composed
    from finetune.run_directory import RunDirectory

__all__ = ["commands", "run_command"]

HELP = """\
finetune {version}: transfer learning on images, with a result you can defend

  python -m finetune recipe=medical                   rehearse on generated pictures, offline
  python -m finetune recipe=medical data.root=DIR     train on your pictures
  python -m finetune recipe=medical data.root=DIR training.epochs=5 model.name=resnet18

Recipes and configuration
  ls [recipes | studies]  list recipes, or prepared studies
  show RECIPE             print a recipe; show study NAME a study
  cp RECIPE FILE          copy a recipe to a file of yours; then recipe=FILE
  plan KEY=VALUE ...      what would train, on which pictures, for how long; trains nothing
  lr-find KEY=VALUE ... [--from 1e-7] [--to 10] [--steps 100] [--by-depth] [--output DIR]
                          which learning rate to take: a short training at growing rates

Several runs, compared fairly: the same pictures and epochs, a rate searched for each arm
  study=NAME KEY=VALUE ...        a prepared study: freezing, backbones, learning_rates,
                          label_fraction; study.seeds=0,1,2 study.rates=0.1,1,10 study.arms=A,B
  -m KEY=A,B seed=0,1,2 ...       every combination of the listed values, with every seed
  hydra/launcher=joblib   members side by side; also submitit_local, submitit_slurm, ray
  resume STUDY            train what is missing of a study

Networks
  ls models [PATTERN]     networks: parameters, licence, whether their weights are here
  summary MODEL [image_size= num_classes= in_channels= batch_size=] [--json]
                          shapes, parameters, multiply-adds and memory, depth by depth

Pictures
  audit DIR [--labels FILE] [--output DIR] [--fix-splits FILE] [--no-near] [data.KEY=VALUE ...]
                          copies, leaks between parts, shortcuts, broken and odd pictures; writes
                          audit.json and audit.html, and a splits file that keeps copies together

Runs
  ls runs [DIR] [KEY=VALUE ...] [--sort METRIC] [--metric METRIC] [--html] [--open]
                          runs with what they reached; values may hold * and ?; --html: also as a
                          page, DIR/index.html; --open: and show it in the browser
  resume RUN              continue an interrupted run, bit by bit as if it had not stopped; of a
                          folder of folds, those that are missing
  evaluate RUN            measure the chosen weights again on the test part
  report RUN [--open]     write report.html and figures/ again; --open: show it in the browser
  mislabeled RUN [--model NAME] [--weights W] [--folds N]
                          labels that are probably wrong: mislabeled.html and .csv in the run
  verify RUN [--twice]    whether versions, data, weights, split, settings, predictions and metrics
                          are the run's own; --twice: whether training twice gives the same bits
  evidence RUN FILE.zip   what a reviewer needs, with the CLAIM 2024 checklist
  compare RUN RUN ... [--metric NAME] [--reference RUN] [--confidence 0.95] [--output DIR] [--open]
                          which is better, and whether it is real: runs that differ only in seed are
                          one method; of a folder or study, the runs in it; writes comparison.json
                          and comparison.html; --open: show it in the browser
  compare --wandb ENTITY/PROJECT[/GROUP] [--metric NAME]
                          means and spreads over seeds of what Weights & Biases holds; no verdict

Use of a model
  predict RUN PATH ... --output FILE [--format csv|jsonl] [--resume | --overwrite]
          [--precision fp32|bf16] [--tta flips|d4] [--batch-size N] [--workers N]
                          a row for each picture; paths are pictures, folders, patterns, CSV files
                          (--path-column NAME), or - for names on standard input
  evaluate RUN PATH ... [--labels COLUMN] [--output FILE.json]
                          metrics on new labelled pictures beside those of the run's test part;
                          labels are folders' names, or a column of CSV files

Weights without a network
  weights ls              which are on this machine, where, under which licence
  weights fetch MODEL[.TAG] --to DIR   on a connected machine; on the other one model.weights=DIR
  weights verify DIR      hashes, tensors and architecture of such a folder

What is kept to be quicker (cached features, packed pictures, measured arithmetic)
  cache ls                what, how large, where
  cache clear [KIND ...]  delete it: features, packs, arithmetic; without KIND all of it

Every key with its default: python -m finetune keys
Exit codes: 0 done, 1 failure while running, 2 bad input, 3 a check failed, 130 interrupted
"""

NEXT = """\
Nothing to do yet. Try

  python -m finetune recipe=medical                  a rehearsal: generated pictures, a minute
  python -m finetune recipe=medical data.root=DIR    your pictures, one folder for each class
  python -m finetune --help                          everything else
"""


def run_command(words: Sequence[str]) -> int:
    """Run what the words say and return an exit code.

    Raises:
        FinetuneError: With an exit code of its own.
    """
    if not words:
        sys.stdout.write(NEXT)
        return 0
    if words[0] in ("-h", "--help", "help") or _asks_for_help(words):
        sys.stdout.write(HELP.format(version=__version__))
        return 0
    if words[0] == "--version":
        say(__version__)
        return 0
    if "=" in words[0] or words[0] in ("-m", "--multirun"):
        return _train(words)
    if words[0] not in _COMMANDS:
        raise _unknown_command(words[0])
    return _COMMANDS[words[0]](list(words[1:]))


def commands(words: Sequence[str], ways_out: Sequence[str]) -> str:
    """The command that was typed with each of the ways out, ready to be pasted.

    Nothing for commands that take no ``key=value``, such as resume.

    >>> print(commands(["data.root=my set", "data.waiver=x"], ["data.duplicates=regroup"]))
    Corrected command:
      python -m finetune 'data.root=my set' data.waiver=x data.duplicates=regroup
    """
    if not ways_out or "=" not in words[-1]:
        return ""
    lines = []
    for way in (text.split("\n") for text in ways_out):
        keys = {word.partition("=")[0] for word in way}
        kept = [word for word in words if word.partition("=")[0] not in keys]
        lines.append("\n  " + shlex.join(["python", "-m", "finetune", *kept, *way]))
    return f"Corrected command{'s' if len(lines) > 1 else ''}:" + "".join(lines)


def _asks_for_help(words: Sequence[str]) -> bool:
    """Beside ``key=value`` words; the other sub-commands have a help of their own."""
    trains = "=" in words[0] or words[0] in ("plan", "-m", "--multirun")
    return trains and bool({"-h", "--help"} & set(words))


def _asks_for_study(words: Sequence[str]) -> bool:
    """Whether these words train several runs."""
    return any(word in ("-m", "--multirun") or word.startswith(("study=", "study.", "hydra"))
               for word in words)


def _unknown_command(word: str) -> InputError:
    from finetune.recipes import list_recipes

    recipe = f"; to train: recipe={word}" if word in list_recipes() else ""
    return InputError(f"unknown command {word!r}{did_you_mean(word, _COMMANDS)}{recipe}; there are "
                      f"{', '.join(_COMMANDS)}, or key=value words to train")


def _compose(words: Sequence[str]) -> "Composed":
    from finetune.composition import compose
    from finetune.names import name_problems

    composed = compose(words, check_names=name_problems)
    for note in composed.notes:
        warn(note)
    return composed


def _train(words: Sequence[str]) -> int:
    if _asks_for_study(words):
        from finetune.study.running import run_study

        run_study(words)
        return 0
    composed = _compose(words)
    from finetune.launch import launch

    launch(composed.config, replaced=composed.replaced, overrides=list(composed.overrides))
    return 0


def _ls(words: list[str]) -> int:
    if words[:1] == ["runs"]:
        return _ls_runs(words[1:])
    parser = _parser("ls", [])
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
    parser = _parser("ls runs", [])
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
            _open(page)
    return 0


def _summary(words: list[str]) -> int:
    parser = _parser("summary", ["model"])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_intermixed_args(words)
    from finetune.inspect_models import print_summary

    print_summary(given.model, given.settings, as_json=given.json)
    return 0


def _show(words: list[str]) -> int:
    from finetune.recipes import find_recipe
    from finetune.study.files import find_study

    is_study = len(words) > 1 and words[0] == "study"
    given = _parse("show", ["recipe"], words[1:] if is_study else words).recipe
    sys.stdout.write((find_study(given) if is_study else find_recipe(given)).text)
    return 0


def _cp(words: list[str]) -> int:
    from finetune.files import write_text
    from finetune.recipes import find_recipe

    given = _parse("cp", ["recipe", "file"], words)
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


def _keys(words: list[str]) -> int:
    from finetune.composition import dump_config
    from finetune.config import Config

    _parse("keys", [], words)
    sys.stdout.write(dump_config(Config()))
    return 0


def _plan(words: list[str]) -> int:
    if _asks_for_study(words):
        from finetune.study.making import print_study_plan

        print_study_plan(words)
        return 0
    composed = _compose(words)
    from finetune.plan import print_plan

    print_plan(composed.config, replaced=composed.replaced)
    return 0


def _lr_find(words: list[str]) -> int:
    parser = _parser("lr-find", [])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--from", type=float, default=1e-7, dest="start", metavar="RATE")
    parser.add_argument("--to", type=float, default=10.0, dest="end", metavar="RATE")
    parser.add_argument("--steps", type=int, default=100, metavar="N")
    parser.add_argument("--by-depth", action="store_true", help="each depth alone, too")
    parser.add_argument("--output", metavar="DIR", type=Path, help="default: lr-find/NAME-TIME")
    given = parser.parse_intermixed_args(words)
    composed = _compose(given.settings)
    from finetune.rate_finder import RateSearch, find_rates

    search = RateSearch(given.start, given.end, given.steps, given.by_depth)
    find_rates(composed.config, search, replaced=composed.replaced, output=given.output)
    return 0


def _audit(words: list[str]) -> int:
    parser = _parser("audit", ["dir"])
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


def _resume(words: list[str]) -> int:
    from finetune.run_directory import STUDY, RunDirectory

    folder = Path(_parse("resume", ["run"], words).run).expanduser()
    if (folder / STUDY).is_file():
        from finetune.study.running import resume_study

        resume_study(folder)
        return 0
    run = RunDirectory.open(folder)
    if run.is_complete:
        say(f"{run.path} is finished; nothing to do. Result: {run.path / 'report.html'}")
        return 0
    from finetune.launch import relaunch

    relaunch(run)
    return 0


def _single_run(path: str) -> "RunDirectory":
    """A run that trained; the folder around folds has no network to measure."""
    from finetune.run_directory import RunDirectory

    run = RunDirectory.open(path)
    if run.has_folds:
        raise InputError(f"{run.path} holds the runs of all folds: name one of them, such as "
                         f"{run.path / 'fold-1'}; pooled results are in "
                         f"{run.path / 'report.html'}")
    return run


def _evaluate(words: list[str]) -> int:
    parser = _parser("evaluate", ["run"])
    parser.add_argument("paths", nargs="*", metavar="PATH", help="new pictures, with labels")
    parser.add_argument("--split", choices=["val", "test"], default=None)
    parser.add_argument("--labels", metavar="COLUMN", help="of CSV files; default: folders' names")
    parser.add_argument("--path-column", default="path", metavar="NAME", help="of CSV files")
    parser.add_argument("--output", metavar="FILE", type=Path, help="JSON with everything")
    given = parser.parse_intermixed_args(words)
    run = _single_run(given.run)
    if given.paths:
        from finetune.prediction.new_data import evaluate_new

        return evaluate_new(run, given.paths, labels=given.labels, path_column=given.path_column,
                            output=given.output and given.output.expanduser())
    if given.labels or given.output:
        parser.error("--labels and --output go with paths of new pictures")
    from finetune.run import evaluate

    evaluate(run, part=given.split)
    return 0


def _report(words: list[str]) -> int:
    parser = _parser("report", ["run"])
    parser.add_argument("--open", action="store_true", help="and open it in the browser")
    given = parser.parse_args(words)
    from finetune.launch import report
    from finetune.run_directory import RunDirectory

    path = report(RunDirectory.open(given.run))
    say(f"wrote {path}")
    if given.open:
        _open(path)
    return 0


def _open(path: Path) -> None:
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        warn(f"no browser was found; open {path.resolve()} in one")


def _mislabeled(words: list[str]) -> int:
    parser = _parser("mislabeled", ["run"])
    parser.add_argument("--model", help="another network for the features")
    parser.add_argument("--weights", help="other weights for the features")
    parser.add_argument("--folds", type=int, default=5, choices=range(2, 101), metavar="N")
    given = parser.parse_args(words)
    run = _single_run(given.run)
    from finetune.label_errors import find_mislabeled

    find_mislabeled(run, model=given.model, weights=given.weights, folds=given.folds)
    return 0


def _verify(words: list[str]) -> int:
    parser = _parser("verify", ["run"])
    parser.add_argument("--twice", action="store_true",
                        help="train twice for an epoch and compare bit by bit")
    given = parser.parse_args(words)
    run = _single_run(given.run)
    from finetune import verifying

    (verifying.train_twice if given.twice else verifying.verify)(run)
    return 0


def _evidence(words: list[str]) -> int:
    given = _parse("evidence", ["run", "file"], words)
    run = _single_run(given.run)
    from finetune.evidence import write_evidence

    write_evidence(run, Path(given.file).expanduser())
    return 0


def _predict(words: list[str]) -> int:
    parser = _parser("predict", ["run"])
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--output", required=True, metavar="FILE", type=Path)
    parser.add_argument("--format", choices=["csv", "jsonl"], help="default: by the name, or csv")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--tta", choices=["flips", "d4"], help="mean over 4 or 8 views")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N")
    parser.add_argument("--workers", type=int, metavar="N", help="threads that read pictures")
    parser.add_argument("--path-column", default="path", metavar="NAME", help="of CSV files")
    parser.add_argument("--resume", action="store_true", help="go on with FILE.partial")
    parser.add_argument("--overwrite", action="store_true", help="begin anew, replace FILE")
    given = parser.parse_intermixed_args(words)
    from finetune.prediction.predicting import PredictOptions, predict

    return predict(given.run, given.paths, given.output.expanduser(), PredictOptions(
        given.format, given.precision, given.tta, given.batch_size, given.workers,
        given.path_column, given.resume, given.overwrite))


def _compare(words: list[str]) -> int:
    parser = _parser("compare", [])
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run, a study, a folder of runs")
    parser.add_argument("--metric", metavar="NAME", help="of the verdict; default: that which "
                        "chose the epochs")
    parser.add_argument("--reference", metavar="RUN", help="a run or method that all others are "
                        "compared with; default: all pairs")
    parser.add_argument("--confidence", type=float, help="of the intervals; default: 0.95")
    parser.add_argument("--output", metavar="DIR", type=Path,
                        help="default: a new comparison-TIME beside the first run")
    parser.add_argument("--open", action="store_true", help="and open the page in the browser")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT[/GROUP]",
                        help="runs that Weights & Biases holds, in place of run directories")
    given = parser.parse_intermixed_args(words)
    if given.wandb is not None:
        return _compare_tracked(parser, given)
    if not given.runs:
        parser.error("compare needs runs, a study or a folder of runs, or --wandb ENTITY/PROJECT")
    from finetune.comparison.comparing import compare

    path = compare(given.runs, metric=given.metric, reference=given.reference,
                   confidence=0.95 if given.confidence is None else given.confidence,
                   output=None if given.output is None else given.output.expanduser())
    if given.open:
        _open(path.with_name("comparison.html"))
    return 0


def _compare_tracked(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    if given.runs:
        parser.error(f"--wandb {given.wandb} and run directories ({given.runs[0]}) exclude each "
                     "other: the server holds no answers that could be compared with theirs")
    unused = [f"--{name}" for name in ("reference", "confidence", "output", "open")
              if getattr(given, name)]
    if unused:
        parser.error(f"{unused[0]} needs answers for single pictures, which Weights & Biases "
                     "doesn't hold; with --wandb there is only --metric")
    from finetune.tracked_runs import compare_tracked

    compare_tracked(given.wandb, metric=given.metric)
    return 0


def _weights(words: list[str]) -> int:
    parser = _parser("weights", [])
    kinds = parser.add_subparsers(dest="what", required=True, metavar="ls | fetch | verify")
    kinds.add_parser("ls", help="what is on this machine")
    fetch = kinds.add_parser("fetch", help="download into a new folder")
    fetch.add_argument("model", metavar="MODEL[.TAG]")
    fetch.add_argument("--to", required=True, metavar="DIR", type=Path)
    kinds.add_parser("verify", help="check such a folder").add_argument("folder", type=Path)
    given = parser.parse_args(words)
    from finetune import weights_store

    if given.what == "verify":
        say(weights_store.verify_weights(given.folder.expanduser()))
    elif given.what == "fetch":
        facts = weights_store.fetch_weights(given.model, given.to.expanduser())
        say(f"wrote {given.to}: {facts['model']}, licence {facts['licence']}; use it with "
            f"model.name={facts['model'].partition('.')[0]} model.weights={given.to}")
    else:
        table("weights that need no network", ["model.weights=", "model.name=", "licence", "MB",
                                               "where"],
              [[c.weights, c.network, c.licence, c.size / 1e6, c.path]
               for c in weights_store.list_weights()])
    return 0


def _cache(words: list[str]) -> int:
    from finetune.caches import KINDS, clear_kept, list_kept

    parser = _parser("cache", [])
    kinds = parser.add_subparsers(dest="what", required=True, metavar="ls | clear")
    kinds.add_parser("ls", help="what is kept")
    kinds.add_parser("clear", help="delete it").add_argument(
        "kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    given = parser.parse_args(words)
    if given.what == "clear":
        wrong = [kind for kind in given.kinds if kind not in KINDS]
        if wrong:
            raise ConfigurationError(f"cache clear {wrong[0]}: there are {', '.join(KINDS)}"
                                     f"{did_you_mean(wrong[0], KINDS)}")
        say(f"{clear_kept(given.kinds or KINDS) / 1e6:.1f} MB deleted")
        return 0
    table("kept to be quicker", ["kind", "MB", "what", "where"],
          [[k.kind, k.size / 1e6, k.what, k.path] for k in list_kept()])
    return 0


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "ls": _ls, "show": _show, "cp": _cp, "keys": _keys, "plan": _plan, "lr-find": _lr_find,
    "resume": _resume, "evaluate": _evaluate, "report": _report, "summary": _summary,
    "weights": _weights, "cache": _cache, "audit": _audit, "mislabeled": _mislabeled,
    "verify": _verify, "evidence": _evidence, "compare": _compare, "predict": _predict,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}\n{self.format_usage().strip()}")


def _parser(command: str, names: list[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"python -m finetune {command}")
    for name in names:
        parser.add_argument(name, metavar=name.upper())
    return parser


def _parse(command: str, names: list[str], words: list[str]) -> argparse.Namespace:
    return _parser(command, names).parse_args(words)
