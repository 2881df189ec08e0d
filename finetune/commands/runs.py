"""Commands that go on with runs, measure and compare them."""

import argparse
from pathlib import Path

from finetune.commands.parsing import command_parser, open_page, parse, single_run
from finetune.console import say

__all__ = ["compare_command", "evaluate_command", "evidence_command", "mislabeled_command",
           "report_command", "resume_command", "verify_command"]


def resume_command(words: list[str]) -> int:
    """Go on with a run, its folds or a study."""
    from finetune.run_directory import STUDY, RunDirectory

    folder = Path(parse("resume", ["run"], words).run).expanduser()
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


def evaluate_command(words: list[str]) -> int:
    """Measure a run again, or on new pictures."""
    parser = command_parser("evaluate", ["model"])
    parser.add_argument("paths", nargs="*", metavar="PATH", help="new pictures, with labels")
    parser.add_argument("--split", choices=["val", "test"], default=None)
    parser.add_argument("--labels", metavar="COLUMN", help="of CSV files; default: folders' names")
    parser.add_argument("--groups", metavar="COLUMN", help="of CSV files: what belongs together")
    parser.add_argument("--path-column", default="path", metavar="NAME", help="of CSV files")
    parser.add_argument("--output", metavar="FILE", type=Path, help="JSON with everything")
    given = parser.parse_intermixed_args(words)
    if given.paths and given.split:
        parser.error("--split is one of the run's own parts, and goes without paths")
    if given.paths:
        from finetune.prediction.new_data import evaluate_new

        exported = Path(given.model).suffix == ".onnx"
        model = Path(given.model).expanduser() if exported else single_run(given.model)
        return evaluate_new(model, given.paths, labels=given.labels, groups=given.groups,
                            path_column=given.path_column,
                            output=given.output and given.output.expanduser())
    if given.labels or given.output or given.groups:
        parser.error("--labels, --groups and --output go with paths of new pictures")
    if Path(given.model).suffix == ".onnx":
        parser.error(f"{given.model} holds no pictures: name labelled ones")
    from finetune.run import evaluate

    evaluate(single_run(given.model), part=given.split)
    return 0


def report_command(words: list[str]) -> int:
    """Write a run's report again."""
    parser = command_parser("report", ["run"])
    parser.add_argument("--open", action="store_true", help="and open it in the browser")
    given = parser.parse_args(words)
    from finetune.launch import report
    from finetune.run_directory import RunDirectory

    path = report(RunDirectory.open(given.run))
    say(f"wrote {path}")
    if given.open:
        open_page(path)
    return 0


def mislabeled_command(words: list[str]) -> int:
    """Find labels that are probably wrong."""
    parser = command_parser("mislabeled", ["run"])
    parser.add_argument("--model", help="another network for the features")
    parser.add_argument("--weights", help="other weights for the features")
    parser.add_argument("--folds", type=int, default=5, choices=range(2, 101), metavar="N")
    given = parser.parse_args(words)
    run = single_run(given.run)
    from finetune.label_errors import find_mislabeled

    find_mislabeled(run, model=given.model, weights=given.weights, folds=given.folds)
    return 0


def verify_command(words: list[str]) -> int:
    """Whether a run is its own, or can be repeated."""
    parser = command_parser("verify", ["run"])
    parser.add_argument("--twice", action="store_true",
                        help="train twice for an epoch and compare bit by bit")
    given = parser.parse_args(words)
    run = single_run(given.run)
    from finetune import verifying

    (verifying.train_twice if given.twice else verifying.verify)(run)
    return 0


def evidence_command(words: list[str]) -> int:
    """Pack what a reviewer needs."""
    given = parse("evidence", ["run", "file"], words)
    run = single_run(given.run)
    from finetune.evidence import write_evidence

    write_evidence(run, Path(given.file).expanduser())
    return 0


def compare_command(words: list[str]) -> int:
    """Which of some runs is better."""
    parser = command_parser("compare", [])
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
        open_page(path.with_name("comparison.html"))
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
