"""Weights that lie in the installation: the package's by timm's names, and the bundled ones."""

import json
import subprocess
import sys
from importlib import metadata

import pytest
import timm
import torch
from safetensors.torch import save_file

from finetune.errors import ConfigurationError
from finetune.models import packaged, sources
from finetune.models.architectures import ARCHITECTURES
from finetune.models.building import build_model
from finetune.models.packaged import packaged_file, read_packaged, timm_name
from finetune.models.registration import BUNDLED
from finetune.models.sources import check_weights_name
from finetune.models.state_dicts import read_tensors

LITE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def path():
    try:
        return packaged_file()
    except ConfigurationError:
        pytest.skip("the extra [offline] is not installed")


@pytest.fixture(scope="module")
def state():
    return timm.create_model(LITE).state_dict()


def test_names_and_order_agree_one_to_one_with_timms_network(path, state):
    """Two ways that share nothing: the rules for names, and the order in both files."""
    given = read_tensors(path)[0]
    assert [timm_name(n) for n in given] == list(state)
    assert [t.shape for t in given.values()] == [t.shape for t in state.values()]
    assert len(given) == 296


def test_each_layer_keeps_its_kind(path):
    """A norm stays a norm, an expanding convolution isn't taken for a projecting one."""
    kinds = {"_expand_conv": {"conv_pw"}, "_depthwise_conv": {"conv_dw"}, "_bn0": {"bn1"},
             "_bn1": {"bn1", "bn2"}, "_bn2": {"bn2", "bn3"}, "_conv_stem": {"conv_stem"},
             "_project_conv": {"conv_pwl", "conv_pw"}, "_conv_head": {"conv_head"},
             "_fc": {"classifier"}}
    for name in read_tensors(path)[0]:
        old, new = name.split("."), timm_name(name).split(".")
        assert new[-1] == old[-1] and new[-2] in kinds[old[-2]], name


def test_all_tensors_arrive_with_timms_statistics(path, state):
    given = read_tensors(path)[0]
    model, report = build_model(LITE, num_classes=1000, weights="packaged")
    assert all(torch.equal(a, b) for (n, a), b in zip(
        model.state_dict().items(), given.values(), strict=True) if "num_batches" not in n)
    assert report.matched == report.total == 245
    assert report.mean == report.std == (0.5, 0.5, 0.5)
    assert (report.interpolation, report.licence) == ("bicubic", "apache-2.0")
    assert "classifier's tensors fit" in " ".join(report.notes)
    assert str(path.parent) not in repr(report)


@pytest.mark.parametrize("options", [{"in_channels": 1}, {"head": "mlp"}, {"num_classes": 3}])
def test_another_classifier_or_channel_count_keeps_the_backbone(path, options):
    _, report = build_model(LITE, **{"num_classes": 5, **options}, weights="packaged")
    assert report.matched == report.total == 245 and "the classifier is new" in report.notes


def test_the_package_is_never_imported(path):
    code = ("import sys; from finetune.models.building import build_model; "
            f"build_model({LITE!r}, num_classes=2, weights='packaged'); "
            "print([m for m in sys.modules if m.startswith('efficientnet_lite0')])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_package_the_extra_is_named(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packaged.metadata, "files", missing)
    for call in (lambda: build_model(LITE, num_classes=2, weights="packaged"),
                 lambda: check_weights_name("packaged", LITE)):
        with pytest.raises(ConfigurationError, match=r"finetune-images\[train,offline\]"):
            call()


def test_a_package_of_another_version_is_refused(tmp_path, state):
    other = {n: t for n, t in state.items() if n != "bn1.weight"}
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(ConfigurationError, match=r"one to one: bn1\.weight"):
        read_packaged(tmp_path / "w.pth", state)
    torch.save({**state, "bn1.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ConfigurationError, match=r"one to one: bn1\.weight"):
        read_packaged(tmp_path / "w.pth", state)


TOLD = {"architecture": BUNDLED, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
        "interpolation": "area", "input_size": [3, 32, 32], "licence": "mit",
        "source": "tiny photographs"}


def bundle(tmp_path, monkeypatch, told=TOLD):
    torch.manual_seed(0)
    donor = timm.create_model(BUNDLED)
    half = {n: t.half() if t.is_floating_point() else t for n, t in donor.state_dict().items()}
    path = tmp_path / f"{BUNDLED}.safetensors"
    save_file(half, path, metadata={"finetune": json.dumps(told)})
    monkeypatch.setattr(sources, "bundled_file", lambda: path)
    return donor


@pytest.mark.parametrize("num_classes", [10, 4])
def test_the_bundled_network_says_everything_about_itself(tmp_path, monkeypatch, num_classes):
    donor = bundle(tmp_path, monkeypatch)
    model, report = build_model(BUNDLED, num_classes=num_classes, weights="bundled")
    assert {t.dtype for t in model.parameters()} == {torch.float32}
    assert torch.equal(model.conv1.weight, donor.conv1.weight.half().float())
    if num_classes == 10:
        assert torch.equal(model.fc.weight, donor.fc.weight.half().float())
    else:
        assert "the classifier is new" in report.notes
    assert (report.mean, report.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (report.interpolation, report.input_size) == ("area", (32, 32))
    assert (report.licence, report.source) == ("mit", f"bundled {BUNDLED}")
    assert report.matched == report.total
    assert any("tiny photographs" in note for note in report.notes)


def test_a_bundled_file_of_something_else_is_refused(tmp_path, monkeypatch):
    bundle(tmp_path, monkeypatch, {"architecture": "resnet20"})
    with pytest.raises(ConfigurationError, match="says it is resnet20"):
        build_model(BUNDLED, num_classes=4, weights="bundled")


def test_an_installation_without_the_bundled_file_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged.resources, "files", lambda _: tmp_path)
    for call in (lambda: build_model(BUNDLED, num_classes=2, weights="bundled"),
                 lambda: check_weights_name("bundled", BUNDLED)):
        with pytest.raises(ConfigurationError, match="this installation has no bundled/"):
            call()


@pytest.mark.parametrize("weights", ARCHITECTURES)
def test_weights_that_bring_a_network_fit_no_other(weights):
    with pytest.raises(ConfigurationError, match=f"model.name={ARCHITECTURES[weights]}"):
        build_model("resnet20", num_classes=2, weights=weights)
