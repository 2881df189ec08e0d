"""Whether pictures that are far from those of training are told, and others are not.

    python benchmarks/far.py --data DIR [--pictures 200] [--seed 0] [--keep DIR]

DIR holds ``rsscn7`` (aerial scenes) and ``brain_tumor_mri`` (heads). Of each, so many pictures of
every class but one train two networks that come with the package ``packaged``: the exact linear
probe at 96 px and three epochs of full fine-tuning at 64 px. Half of the pictures train; a quarter
is validation, which gives the limit, and a quarter test. The runs are asked about

- their own test pictures: about 1 % should be beyond the limit;
- test pictures stored as JPEG of quality 30, which people would still recognise;
- test pictures blurred (a deviation of 4 % of the longer side), and with inverted values;
- pictures of the class that was left out;
- pictures of the other set, and noise.

Each cell is the share beyond the limit, and the AUROC of the distance against test pictures. Rows
are what a run keeps (the features of all depths, one mean), the same with a mean for each class
(the nearest counts, as in arXiv:1807.03888), and both for what enters the classifier alone.
"""

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import describe_machine, environment, markdown, parser_of, report

SETS = {"rsscn7": ("rsscn7", "gParking"), "mri": ("brain_tumor_mri/Training", "pituitary")}
METHODS = {"linear probe": ["recipe=linear_probe", "data.image_size=96"],
           "full fine-tuning": ["recipe=full_finetune", "data.image_size=64", "training.epochs=3"]}
KINDS = ("test", "JPEG 30", "blurred", "inverted", "class left out", "other set", "noise")
OTHERS, NOISE = 200, 100
Distance = Callable[[list[Any]], Any]  # features, one array (N, D) for each part, to (N,)


def main() -> None:
    """Train, ask, print."""
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        for each in SETS:
            gather(options, each, folder)
        rows = [row for each in SETS for method in METHODS
                for row in measure(options, each, method, folder)]
    report(options, {"machine": describe_machine(), "rows": rows}, markdown(
        ["training", "method", "distance", *KINDS],
        [[row["set"], row["method"], row["distance"], *(cell(row[kind]) for kind in KINDS)]
         for row in rows]))


def parse() -> Any:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with both sets")
    parser.add_argument("--pictures", type=int, default=200, help="of each class")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures that are drawn")
    parser.add_argument("--keep", type=Path, help="where pictures and runs are kept")
    return parser.parse_args()


def gather(options: Any, name: str, folder: Path) -> None:
    """Links to some pictures of each class; the one left out has a folder of its own."""
    source, left_out = SETS[name]
    for classes in sorted(p for p in (options.data / source).resolve().iterdir() if p.is_dir()):
        chosen = sorted(classes.iterdir())
        random.Random(options.seed).shuffle(chosen)
        place = folder / ("left out" if classes.name == left_out else "pictures") / name
        (place / classes.name).mkdir(parents=True, exist_ok=True)
        for path in chosen[:options.pictures]:
            if not (place / classes.name / path.name).exists():
                (place / classes.name / path.name).symlink_to(path)


def train(name: str, method: str, folder: Path) -> Any:
    """The finished run; made anew unless it is kept."""
    from finetune.run_directory import RunDirectory

    runs = folder / "runs" / f"{name} {method}"
    words = [*METHODS[method], "model.weights=packaged", f"data.root={folder / 'pictures' / name}",
             f"output_dir={runs}", "data.val_fraction=0.25", "data.test_fraction=0.25",
             "tracking.mode=disabled", "device=cpu"]
    if not list(runs.glob("*/metrics.json")):
        subprocess.run([sys.executable, "-m", "finetune", *words], check=True, env=environment(),
                       stdout=subprocess.DEVNULL)
    return RunDirectory.open(next(runs.glob("*/metrics.json")).parent)


def measure(options: Any, name: str, method: str, folder: Path) -> list[dict[str, Any]]:
    """A row for each distance."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    from finetune.evaluation.familiarity import find_limit

    run = train(name, method, folder)
    ask = asker(run)
    asked = {kind: ask(pictures) for kind, pictures in pictures_of(run, name, folder).items()}
    rows = []
    for told, distance in distances(run, asked.pop("train"), asked["val"]).items():
        limit, row = find_limit(distance(asked["val"])), {}
        test = distance(asked["test"])
        for kind in KINDS:
            found = distance(asked[kind])
            truth = np.repeat([0, 1], [len(test), len(found)])
            row[kind] = {"share": float(limit.is_far(found).mean()), "count": len(found),
                         "auroc": None if kind == "test" else
                         float(roc_auc_score(truth, np.concatenate([test, found])))}
        rows.append({"set": name, "method": method, "distance": told, **row})
    return rows


def cell(found: dict[str, Any]) -> str:
    """Share and AUROC.

    >>> cell({"share": 0.5, "auroc": 0.987})
    '50 % (0.99)'
    """
    auroc = "" if found["auroc"] is None else f" ({found['auroc']:.2f})"
    return f"{100 * found['share']:.{0 if auroc else 1}f} %{auroc}"


def asker(run: Any) -> Callable[[list[Any]], list[Any]]:
    """Features, one array (N, D) for each part, of pictures as ``predict`` prepares them."""
    import numpy as np
    import torch

    from finetune.data.loading import PrepareBatch
    from finetune.models.familiarity import WithFeatures
    from finetune.prediction.network import load_familiarity, load_run_model
    from finetune.prediction.predictor import Predictor

    predictor, device = Predictor.from_run(run), torch.device("cpu")
    known, prepare = load_familiarity(run), PrepareBatch(predictor.spec, device)
    network = WithFeatures(load_run_model(run, device), known.names)

    def ask(pictures: list[Any]) -> list[Any]:
        rows = []
        for start in range(0, len(pictures), 32):
            pixels = [predictor.prepare(each).pixels for each in pictures[start:start + 32]]
            images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            with torch.inference_mode():
                rows.append([each.numpy() for each in network(prepare(images))[1]])
        return [np.concatenate(part) for part in zip(*rows, strict=True)]

    return ask


def pictures_of(run: Any, name: str, folder: Path) -> dict[str, list[Any]]:
    """Paths and arrays of each kind; also ``train`` and ``val``."""
    import csv

    import cv2
    import numpy as np

    from finetune.data.decoding import decode_image

    with (run.path / "splits.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {part: [folder / "pictures" / name / row["path"] for row in rows
                    if row["split"] == part] for part in ("train", "val", "test")}
    test = [decode_image(path).pixels for path in found["test"]]
    noise, other = np.random.default_rng(0), next(each for each in SETS if each != name)
    files = sorted((folder / "pictures" / other).rglob("*.*"))
    random.Random(0).shuffle(files)
    return {**found, "JPEG 30": [stored(each) for each in test],
            "blurred": [cv2.GaussianBlur(e, (0, 0), max(e.shape) / 25).reshape(e.shape)
                        for e in test],
            "inverted": [255 - each for each in test],
            "class left out": sorted((folder / "left out" / name).rglob("*.*")),
            "other set": files[:OTHERS],
            "noise": [noise.integers(0, 256, test[0].shape, np.uint8) for _ in range(NOISE)]}


def stored(pixels: Any) -> Any:
    """A picture after JPEG of quality 30."""
    import cv2

    content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    return cv2.imdecode(content, cv2.IMREAD_UNCHANGED).reshape(pixels.shape)


def distances(run: Any, train: list[Any], val: list[Any]) -> dict[str, Distance]:
    """The distance that the run keeps, and others, fitted on the same training pictures."""
    import csv

    import numpy as np

    from finetune.evaluation.familiarity import fit_gaussian, join_distances
    from finetune.prediction.network import load_familiarity

    with (run.path / "splits.csv").open(encoding="utf-8", newline="") as file:
        labels = np.array([row["label"] for row in csv.DictReader(file)
                           if row["split"] == "train"])
    known = load_familiarity(run)
    nearest = [by_class(each, labels, fit_gaussian) for each in train]

    def all_nearest(parts: list[Any]) -> Any:
        return np.stack([one(each) for one, each in zip(nearest, parts, strict=True)], axis=1)

    logarithms = np.log(all_nearest(val))
    usual, spread = logarithms.mean(axis=0), logarithms.std(axis=0)
    return {"all depths": known.distance,
            "all depths, by class": lambda parts: join_distances(all_nearest(parts), usual, spread),
            "last features": lambda parts: known.parts[-1].distance(parts[-1]),
            "last features, by class": lambda parts: nearest[-1](parts[-1])}


def by_class(features: Any, labels: Any, fit: Any) -> Callable[[Any], Any]:
    """The distance to the nearest class mean, by the Gaussian of what is left of them."""
    import numpy as np

    names, places = np.unique(labels, return_inverse=True)
    means = np.stack([features[labels == name].mean(axis=0) for name in names])
    around = fit(features - means[places])
    return lambda new: np.min([replace(around, mean=mean).distance(new) for mean in means], axis=0)


if __name__ == "__main__":
    main()
