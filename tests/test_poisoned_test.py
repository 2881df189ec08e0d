"""Nothing that a run fits or chooses depends on the test part: it is poisoned, and all stays."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.numpy import load_file

from finetune.composition import compose
from finetune.run import fit


def write(folder, *, poisoned):
    """16-bit pictures, so that their statistics are measured; a table with a given split."""
    rows = ["path,label,split"]
    for i in range(150):
        random = np.random.default_rng(i)
        part = ("train", "train", "val", "test", "train")[i % 5]
        label = int(random.integers(3) > 1)
        pixels = random.integers(0, 9000, (24, 24)) + label * 4000
        if part == "test" and poisoned:
            pixels, label = random.integers(0, 65000, (24, 24)), 1 - label
        Image.fromarray(pixels.astype(np.uint16)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{'ab'[label]},{part}")
    (folder / "table.csv").write_text("\n".join(rows))


def network():
    """Weights to start from."""
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=2, zero_init_last=False).state_dict()


def runs(folder, more):
    """The run on clean data, and that on data whose test part is poisoned."""
    start = folder / "start.pth"
    torch.save(network(), start)
    return [run_of(folder / str(poisoned), poisoned, [
        word.replace("start.pth", str(start)) for word in more]) for poisoned in (False, True)]


def run_of(folder, poisoned, more):
    folder.mkdir()
    write(folder, poisoned=poisoned)
    return fit(compose([
        f"data.root={folder}", "data.labels_file=table.csv", f"output_dir={folder / 'runs'}",
        "model.name=resnet10t", "model.weights=null", "data.image_size=32", "training.epochs=2",
        "training.precision=fp32", "tracking.mode=disabled", *more]).config)


@pytest.mark.parametrize("more", [
    ["training.class_weights=balanced", "data.transform=none", "freezing.policy=below",
     "freezing.below=layer4", "decisions.sensitivity=0.8", "decisions.answered_accuracy=0.8"],
    ["data.sampling=balanced", "freezing.policy=head_then_all", "training.head_fit=exact"],
    ["model.weights=start.pth", "training.wise_ft=4", "training.select_metric=log_loss",
     "data.train_fraction=0.6", "freezing.norm_statistics=update"]])
def test_a_poisoned_test_part_changes_no_weight_statistic_threshold_or_choice(
        tmp_path, without_pages, more):
    clean, spoilt = found = runs(tmp_path, more)
    assert clean.metrics["test"] != spoilt.metrics["test"], "the poison reached the test part"
    kept = ["input_spec", "depths"]
    assert {k: clean.environment[k] for k in kept} == {k: spoilt.environment[k] for k in kept}
    tensors = [load_file(run.best_weights) for run in found]
    assert all(np.array_equal(tensors[1][name], value) for name, value in tensors[0].items())
    decisions = [json.loads((run.path / "decisions.json").read_text()) for run in found]
    assert decisions[0] == decisions[1]
    assert clean.metrics["val"] == spoilt.metrics["val"]
    assert clean.metrics["selection"] == spoilt.metrics["selection"]
    assert clean.metrics.get("wise_ft") == spoilt.metrics.get("wise_ft")
    assert ("wise_ft" in clean.metrics) is any("wise_ft" in word for word in more)
    states = [torch.load(run.last_checkpoint, weights_only=True)["model"] for run in found]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_where_test_is_not_looked_at_no_result_has_to_do_with_it(tmp_path, without_pages):
    """As in the runs of a study that search a rate: what is measured, too, is of the other parts.

    Shortcuts are of all pictures, which choose nothing, and are left out here.
    """
    found = runs(tmp_path, ["data.measure_test=false", "data.shortcuts=ignore"])
    clean, spoilt = [run.metrics for run in found]
    assert clean == spoilt and "test" not in clean and "val" in clean
    for run in found:
        assert not run.predictions_path("test").exists()
        assert not (run.shelf / "test_looks.jsonl").exists()
