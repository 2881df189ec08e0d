"""A pass over the validation part: finetune's two evaluation paths and plain torch in fp32.

    python benchmarks/evaluation.py --data rsscn7 [--pictures 400] [--size 224] [key=value ...]

Plain torch: eval mode, no_grad, batches of 32, PIL and torchvision, a DataLoader without workers.
finetune: `finetune.method.validate`, as after each epoch, and `finetune.method.predict_part` with
``final=True``, as after training, with the method that `finetune.fit` builds from the same
configuration for a training that is long enough for its arithmetic to be measured. All in one
process, in turn, on one network (ResNet-18; --weights or random). Measured: seconds and
process seconds of a pass with reading and of one over batches that are in memory already (as each
side's loader hands them over). Ratios are plain torch / finetune within a round, the median of the
rounds. "same class" is the share of pictures that get the class that plain torch gives.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import Clock, describe_machine, markdown, medians, parser_of, ratio_of_rounds, report
from peers.job import Job, build_dataset, divide, list_pictures, write_table

PLAIN = "plain torch fp32"


def main() -> None:
    """Run the benchmark."""
    options = parse()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = build_paths(options, Path(folder))
        answers = {name: path() for name, path in paths.items()}  # warms up as well
        same = {name: float((answers[name] == answers[PLAIN]).mean())
                for name in paths if not name.startswith("after")}
        for number in range(options.rounds):
            turned = list(paths.items())[::-1 if number % 2 else 1]
            rows += [{"round": number, "path": name, **time_pass(path)} for name, path in turned]
    result = {"machine": describe_machine(), "rows": rows, "same_class": same}
    report(options, result, table(rows, same))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights", help="a state dict; unset: random")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("words", nargs="*", help="further key=value for finetune")
    return parser.parse_args()


def build_paths(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Any]]:
    """Each way of measuring the part, by name; plain torch's give classes."""
    from finetune.method import predict_part, validate

    rows = divide(list_pictures(options.data), {"train": 32, "val": options.pictures})
    job = Job("E", str(write_table(rows, folder / "pictures.csv")), str(options.data.resolve()),
              options.model, options.weights, options.size, 1)
    data, method, memory, plain = build_ours(job, options.words, folder)
    loader, batches = build_plain_loader(job)
    return {
        PLAIN: lambda: classify(plain, loader),
        f"{PLAIN}, in memory": lambda: classify(plain, batches),
        "after an epoch": lambda: validate(method, data),
        "after an epoch, in memory": lambda: validate(memory, data),
        "final": lambda: classes(predict_part(method, data, "val", final=True)),
        "final, in memory": lambda: classes(predict_part(memory, data, "val", final=True)),
        "as after an epoch": lambda: classes(predict_part(method, data, "val", final=False))}


def classes(predictions: Any) -> Any:
    """The classes of finetune's answers."""
    return predictions.logits.argmax(1)


def build_ours(job: Job, words: list[str], folder: Path) -> tuple[Any, Any, Any, Any]:
    """Data, the method, the same with batches in memory, and a plain copy of the network."""
    import copy
    from dataclasses import replace

    import torch

    from finetune.assembly import assemble_data, assemble_model, input_spec
    from finetune.composition import compose
    from finetune.fastest import settle_arithmetic
    from finetune.method import build_method

    config = compose([
        f"data.root={job.root}", f"data.labels_file={job.table}", "data.duplicates=allow",
        "data.waiver=benchmark", f"data.image_size={job.size}", f"model.name={job.model}",
        f"model.weights={job.weights or 'null'}", f"output_dir={folder}", *words]).config
    data = assemble_data(config, job.root)
    torch.manual_seed(0)
    names = data.samples.label_spec.class_names
    model, weights = assemble_model(config, class_names=names, channels=data.channels)
    plain = copy.deepcopy(model)
    spec = input_spec(config, data, model, weights)
    config = settle_arithmetic(config, model, spec, pictures=10**6, device=torch.device("cpu"),
                               say=print)
    method = build_method(config, model, data, spec, torch.device("cpu"))
    memory = replace(method, loaders={"val": list(method.loaders["val"])})
    return data, method, memory, plain


def build_plain_loader(job: Job) -> tuple[Any, list[Any]]:
    """Batches of PIL pictures, and the same in memory, in the order of finetune's ids."""
    from torch.utils.data import DataLoader

    loader = DataLoader(build_dataset(job, "val"), batch_size=job.batch_size)
    return loader, list(loader)


def classify(model: Any, batches: Any) -> Any:
    """The classes that plain torch gives."""
    import torch

    model.eval()
    with torch.no_grad():
        return torch.cat([model(images).argmax(1) for images, _ in batches]).numpy()


def time_pass(path: Callable[[], Any]) -> dict[str, float]:
    """What one pass costs."""
    clock = Clock()
    with clock.running():
        path()
    return clock.measures()


def table(rows: list[dict[str, Any]], same: dict[str, float]) -> str:
    """Medians, and ratios to plain torch with reading or without."""
    names = list(dict.fromkeys(row["path"] for row in rows))
    kept = {name: sorted((r for r in rows if r["path"] == name), key=lambda r: r["round"])
            for name in sorted(names)}

    def ratio(name: str, key: str) -> float:
        base = kept[f"{PLAIN}, in memory" if name.endswith("memory") else PLAIN]
        return ratio_of_rounds([r[key] for r in base], [r[key] for r in kept[name]])

    return markdown(["", "s", "ratio", "CPU s", "ratio", "same class"], [
        [name, middle["seconds"], ratio(name, "seconds"), middle["cpu_seconds"],
         ratio(name, "cpu_seconds"), f"{same[name]:.2%}" if name in same else None]
        for name, middle in ((name, medians(found)) for name, found in kept.items())])


if __name__ == "__main__":
    main()
