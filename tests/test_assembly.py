"""From the configuration to data: what is told before anything is trained."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from finetune.assembly import assemble_data, assemble_model
from finetune.composition import compose
from finetune.errors import ConfigurationError, DataError


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(8):
            pixels = random.integers(0, 255, (6, 6), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{i}.png")
    return tmp_path / "set"


def data(folder, *words):
    return assemble_data(compose([f"data.root={folder}", *words]).config, str(folder))


def test_pictures_of_another_number_of_channels_are_named(folder):
    tifffile.imwrite(folder / "b" / "odd.tif", np.zeros((6, 6, 5), np.uint8),
                     photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match=r"5 channels: 1 pictures: b/odd.tif"):
        data(folder)
    (folder / "b" / "odd.tif").unlink()
    with pytest.raises(DataError, match=r"Use data.channels=1"):
        data(folder, "data.channels=2")


def test_seed_and_order_of_the_table_do_not_change_the_split(folder):
    lines = [f"{c}/{i}.png,{c},g{c}{i // 2}" for c in "ab" for i in range(8)]
    parts = []
    for seed, order in ((0, lines), (7, lines[::-1])):
        (folder / "labels.csv").write_text("\n".join(["path,label,group", *order]))
        found = data(folder, f"seed={seed}")
        parts.append(dict(zip(found.samples.ids, found.split.names.tolist(), strict=True)))
    assert parts[0] == parts[1] and set(parts[0].values()) == {"train", "val", "test"}


def test_a_missing_splits_file_is_told_before_the_data_are_read(folder):
    (folder / "splits.csv").write_text("path,label,split\na/0.png,a,train\n")
    with pytest.raises(DataError, match=r"did you mean .*splits.csv"):
        data(folder, "data.splits_file=split.csv")


def test_unreadable_names_are_printed_on_one_line(folder):
    (folder / "a" / "x\ny.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"  a/x\\ny.png: the file is empty") as caught:
        data(folder)
    assert caught.value.ways_out == ("data.unreadable=skip",)
    assert data(folder, "data.unreadable=skip").skipped == ["a/x\\ny.png"]


def test_gradient_checkpointing_changes_no_gradient(folder):
    found = []
    for wanted in ("false", "true"):
        model = small_model(folder, "model.name=resnet10t",
                            f"training.grad_checkpointing={wanted}")
        assert model.grad_checkpointing is (wanted == "true")
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        model.train()(images).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_a_network_that_cannot_recompute_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ours_without.py").write_text(
        "from torch import nn\n"
        "def small(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(4, num_classes))\n")
    with pytest.raises(ConfigurationError, match="ours_without:small can't recompute"):
        small_model(folder, "model.name=ours_without:small", "training.grad_checkpointing=true")


def small_model(folder, *words):
    config = compose([f"data.root={folder}", "model.weights=null", *words]).config
    torch.manual_seed(0)
    return assemble_model(config, class_names=["a", "b"], channels=3)[0]
