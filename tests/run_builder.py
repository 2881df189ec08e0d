"""Run directories with made-up results, for what is written after training."""

import json

import numpy as np
import pytest
from PIL import Image

from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions
from finetune.run_directory import RunDirectory
from finetune.specs import LabelKind, LabelSpec

SMALL = ("model.name=resnet10t", "model.weights=null", "data.image_size=32", "data.batch_size=8",
         "data.workers=0", "tracking.mode=disabled", "device=cpu", "data.transform=none",
         "training.epochs=1", "data.val_fraction=0.3", "data.test_fraction=0.2")


def train_run(folder, *words, names=("a", "b", "c"), count=60):
    """A run that trained for an epoch on noise, without pages."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / "pictures" / names[number % len(names)] / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 100 + 30 * (number % len(names)), (24, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place)
    return make_run(folder, f"data.root={folder / 'pictures'}", *words)


def make_run(folder, *words):
    """A trained run, quickly: no pages."""
    from finetune import run as module
    from finetune.composition import compose
    from finetune.files import write_text

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(folder / "cache"))
        patch.setattr(module, "write_figures", lambda path: [])
        patch.setattr(module, "write_report",
                      lambda path, reader=None: write_text(path / "report.html", ""))
        patch.setattr(module.session, "write_batch_figures", lambda *args: None)
        patch.setattr(module, "heat_maps", lambda *args: [])
        return module.fit(compose([*SMALL, f"output_dir={folder / 'runs'}", *words]).config)


def build_run(folder, names, *, count=200, seed=0, part="test", groups=False, multi=False, **more):
    """A finished run; ``more`` goes into environment.json (``data`` is merged)."""
    random = np.random.default_rng(seed)
    width = len(names)
    spec = LabelSpec(LabelKind.multi if multi else LabelKind.single, tuple(names),
                     names[-1] if width == 2 and not multi else None)
    run = RunDirectory(folder)
    metrics = {}
    for each in ("val", "test") if part == "test" else ("val",):
        found = predictions(random, spec, count, multi, groups)
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        found.save(run.predictions_path(each))
        metrics[each] = compute_metrics(found)
    metrics["selection"] = {"metric": "macro_f1", "epoch": 2, "value": 0.5}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "environment.json").write_text(json.dumps(environment(names, count, more)))
    (folder / "config.yaml").write_text("recipe: medical\nmodel: {name: resnet50}\n")
    run.write_history([epoch(number, metrics["val"]) for number in (1, 2, 3)])
    return run


def predictions(random, spec, count, multi, groups):
    width = spec.output_width
    if multi:
        labels = (random.random((count, width)) < 0.3).astype(np.float32)
        logits = random.normal(size=(count, width)) + 2 * labels - 1
        labels[random.random(labels.shape) < 0.1] = np.nan
    else:
        labels = np.arange(count) // (2 if groups else 1) % width
        logits = random.normal(size=(count, width)) + 2 * np.eye(width)[labels]
    ids = [f"{spec.class_names[0]}/{i:03d}.png" for i in range(count)]
    return Predictions(ids, labels, logits.astype(np.float32), spec,
                       [f"p{i // 2}" for i in range(count)] if groups else None)


def environment(names, count, more):
    data = {"root": "pictures", "pictures": 3 * count, "split_method": "group", "split_seed": 0,
            "classes": {n: {"train": 20, "val": 5, "test": 7} for n in names}, "repairs": [],
            "skipped": [], "waiver": None, "duplicates": 0, "groups": None, "fingerprint": "f00"}
    own = {key: value for key, value in more.items() if key != "data"}
    return {"command": "python -m finetune recipe=medical data.root=pictures", "warnings": [],
            "rehearsal": None, "seed": 0, "device": "cpu", "threads": 2,
            "versions": {"python": "3.11", "torch": "2.14"}, "commit": None,
            "hardware": {"machine": "x86_64", "device": "cpu"},
            "input_spec": {"size": [224, 224], "channels": 3, "dtype": "uint8", "resize": "pad"},
            "weights": {"source": "a file", "sha256": "ab12", "licence": "apache-2.0"},
            "parameters": {"total": 23_500_000},
            "depths": [{"depth": d, "name": n, "lr": 0.1 / (3 - d), "weight_decay": 0.05,
                        "parameters": 1000 * (d + 1)}
                       for d, n in enumerate(("conv1 bn1", "layer1.0", "fc"))],
            "data": data | more.get("data", {}), **own}


def epoch(number, val):
    scalars = {k: v for k, v in val.items() if v is None or isinstance(v, int | float)}
    return {"epoch": number, "train_loss": 1 / number, "lr": {"fc": 0.1}, "phase": number > 1,
            "trainable_depths": [2] if number == 1 else [0, 1, 2],
            "opened": {1: [2], 2: [0, 1], 3: []}[number], "seconds": 1.0,
            "images_per_second": 10.0, "val": scalars, "selected": number == 2}
