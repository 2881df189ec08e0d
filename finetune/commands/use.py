"""Commands that use and hand over a trained model."""

from pathlib import Path

from finetune.commands.parsing import command_parser, single_run

__all__ = ["card_command", "export_command", "predict_command"]


def card_command(words: list[str]) -> int:
    """Write a run's model card."""
    parser = command_parser("card", ["run"])
    parser.add_argument("--output", metavar="FILE", type=Path,
                        help="a .md file, or a folder: README.md in it; default: in the run")
    parser.add_argument("--overwrite", action="store_true", help="replace a card that is there")
    given = parser.parse_args(words)
    run = single_run(given.run)
    from finetune.card import write_card

    write_card(run, given.output and given.output.expanduser(), overwrite=given.overwrite)
    return 0


def export_command(words: list[str]) -> int:
    """Write a run's network as a file."""
    parser = command_parser("export", ["run"])
    parser.add_argument("file", metavar="FILE", type=Path, help="NAME.onnx, NAME.pt2 or a folder")
    parser.add_argument("--format", choices=["onnx", "pt2", "timm"], help="default: by the name")
    parser.add_argument("--half", action="store_true", help="16-bit floats")
    parser.add_argument("--pictures", action="append", default=[], metavar="PATH",
                        help="compare the export on these; default: pictures of the test part")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    given = parser.parse_intermixed_args(words)
    run = single_run(given.run)
    from finetune.exporting.exporting import ExportOptions, export

    export(run, given.file.expanduser(), ExportOptions(
        given.format, given.half, given.overwrite, given.pictures))
    return 0


def predict_command(words: list[str]) -> int:
    """A row for each picture."""
    parser = command_parser("predict", ["model"])
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

    return predict(given.model, given.paths, given.output.expanduser(), PredictOptions(
        given.format, given.precision, given.tta, given.batch_size, given.workers,
        given.path_column, given.resume, given.overwrite))
