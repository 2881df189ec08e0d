"""The network that comes with the program."""

import cv2
import numpy as np
import pytest
import torch
import yaml

from finetune.models.building import build_model
from finetune.models.packaged import bundled_file, read_bundled
from finetune.models.registration import BUNDLED
from finetune.recipes import find_recipe


def test_the_file_is_small_and_says_what_it_is():
    assert bundled_file().stat().st_size <= 6_000_000
    _, told = read_bundled(bundled_file())
    assert told["architecture"] == BUNDLED and told["licence"] == "apache-2.0"
    assert len(told["mean"]) == len(told["std"]) == 3 and "CIFAR-10" in told["source"]
    card = (bundled_file().parent / "README.md").read_text(encoding="utf-8")
    for word in ("recipe=pretrain_small", "seed", "licence", "rsscn7", BUNDLED):
        assert word in card


def test_every_tensor_arrives_and_the_classifier_is_new():
    model, report = build_model(BUNDLED, num_classes=7, weights="bundled")
    assert report.matched == report.total and report.input_size == (32, 32)
    assert model.get_classifier().out_features == 7
    tensors, _ = read_bundled(bundled_file())
    torch.testing.assert_close(model.conv1.weight.detach(), tensors["conv1.weight"])


def test_the_recipe_makes_this_network():
    values = yaml.safe_load(find_recipe("pretrain_small").text)
    assert values["model"] == {"name": BUNDLED, "weights": None}


def test_features_have_the_scale_that_a_classifier_learns_from():
    """`data_tools/bundle_network.py` sets it, on training pictures; noise is another matter."""
    model, _ = build_model(BUNDLED, num_classes=10, weights="bundled")
    block = list(model.layer3.children())[-1]
    assert block.bn2.weight.abs().mean() > 1 and block.downsample[1].weight.abs().mean() > 1


@pytest.mark.slow
def test_it_knows_the_classes_that_it_was_trained_on(real_data):
    stored = dict(np.load(real_data / "cifar10_jpeg.npz"))
    _, told = read_bundled(bundled_file())
    model, _ = build_model(BUNDLED, num_classes=10, weights="bundled")
    places, ends = np.flatnonzero(stored["is_test"])[::10], stored["offsets"]
    images = np.stack([cv2.imdecode(stored["jpeg"][ends[i]:ends[i + 1]], cv2.IMREAD_COLOR_RGB)
                       for i in places])
    mean, std = (torch.tensor(told[key]).view(3, 1, 1) for key in ("mean", "std"))
    tensors = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        answers = torch.cat([model.eval()(part).argmax(1) for part in tensors.split(250)])
    names = [str(name) for name in stored["class_names"]]
    assert names == told["class_names"]
    assert (answers.numpy() == stored["labels"][places]).mean() > 0.74
