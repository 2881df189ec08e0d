"""Commands that use and hand over a trained model."""

from pathlib import Path

from finetune.commands.parsing import command_parser

__all__ = ["predict_command"]


def predict_command(words: list[str]) -> int:
    """A row for each picture."""
    parser = command_parser("predict", ["run"])
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
