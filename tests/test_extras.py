"""Tensors that a network has no name for: refused inside it, noted beside it, or its classifier."""

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from finetune.errors import ConfigurationError
from finetune.models.building import build_model
from finetune.models.weights import load_weights


def build(tmp_path, tensors, name="resnet20", num_classes=10):
    torch.save(tensors, tmp_path / "w.pth")
    return build_model(name, num_classes=num_classes, weights=str(tmp_path / "w.pth"))


def refused(tmp_path, tensors, name="resnet20"):
    with pytest.raises(ConfigurationError) as caught:
        build(tmp_path, tensors, name)
    return str(caught.value)


def state(name, **options):
    return dict(timm.create_model(name, **options).state_dict())


@pytest.mark.parametrize("extra", ["layer2.0.downsample.0.weight", "layer1.0.se.fc1.weight",
                                   "conv1.bias", "layer3.7.conv1.weight"])
def test_tensors_inside_the_network_are_never_dropped(tmp_path, extra):
    text = refused(tmp_path, {**state("resnet20"), extra: torch.zeros(4)})
    assert extra in text and "1 of its tensors" in text


def test_the_shortcut_that_a_file_has_is_named(tmp_path):
    text = refused(tmp_path, state("resnet20_b"))
    assert "layer2.0.downsample.0.weight" in text and "Is it resnet20_b?" in text


@pytest.mark.parametrize(("given", "name", "first"), [
    ("resnet32", "resnet20", "layer1.3.conv1.weight"),
    ("resnet20", "resnet32", "layer1.3.conv1.weight"),
    ("resnet34", "resnet18", "layer1.2.conv1.weight")])
def test_another_depth_is_refused_with_its_first_mismatch_and_its_name(
        tmp_path, given, name, first):
    prefixed = {f"module.{n}": t for n, t in state(given).items()}
    text = refused(tmp_path, prefixed, name)
    assert first in text and f"Is it {given}" in text and f"write model.name={given}" in text


def test_a_network_that_is_none_of_ours_is_not_guessed(tmp_path):
    assert "Is it" not in refused(tmp_path, state("test_convnext"))


@pytest.mark.parametrize("extra", [
    {"head_dist.weight": torch.zeros(10, 64)}, {"projector.0.weight": torch.zeros(8, 64)},
    {"layer1.0.relative_position_index": torch.zeros(4)}, {"layer1.0.steps": torch.tensor([3])}])
def test_tensors_beside_the_network_are_a_note(tmp_path, extra):
    _, report = build(tmp_path, {**state("resnet20", num_classes=7), **extra})
    assert report.matched == report.total
    assert any(f"not used: {next(iter(extra))}" in note for note in report.notes)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model("resnet20", num_classes=0)
        self.last = nn.Linear(64, 3)

    def get_classifier(self):
        return self.last


@pytest.mark.parametrize(("extra", "fits"), [("backbone.fc.weight", True),
                                             ("backbone.layer1.0.se.weight", False)])
def test_a_wrapper_is_not_the_network(tmp_path, extra, fits):
    model = Wrapped()
    torch.save({**model.state_dict(), extra: torch.zeros(3)}, tmp_path / "w.pth")
    if fits:
        load_weights(model, str(tmp_path / "w.pth"), name="lab:wrapped", in_channels=3)
    else:
        with pytest.raises(ConfigurationError, match=r"se\.weight"):
            load_weights(model, str(tmp_path / "w.pth"), name="lab:wrapped", in_channels=3)


def test_a_refused_file_changes_nothing(tmp_path):
    model = timm.create_model("resnet20")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    torch.save(state("resnet20_b"), tmp_path / "w.pth")
    with pytest.raises(ConfigurationError):
        load_weights(model, str(tmp_path / "w.pth"), name="resnet20", in_channels=3)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def renamed(tensors, name):
    return {n.replace("fc.", f"{name}."): t for n, t in tensors.items()}


def test_a_classifier_of_another_name_is_loaded_and_that_is_said(tmp_path):
    tensors = state("resnet20")
    model, report = build(tmp_path, renamed(tensors, "linear"))
    assert torch.equal(model.fc.weight, tensors["fc.weight"])
    assert torch.equal(model.fc.bias, tensors["fc.bias"])
    assert any("called linear in the file, fc in the network" in note for note in report.notes)
    assert any("fit and are loaded" in note for note in report.notes)


@pytest.mark.parametrize("change", [
    lambda d: renamed({**d, "fc.weight": torch.ones(9, 64)}, "linear"),
    lambda d: {n: t for n, t in renamed(d, "linear").items() if n != "linear.bias"},
    lambda d: {**renamed(d, "linear"), **renamed({n: d[n] for n in d if "fc" in n}, "other")}])
def test_a_classifier_is_not_guessed(tmp_path, change):
    _, report = build(tmp_path, change(state("resnet20")))
    assert "the classifier is new" in report.notes


def test_the_foreign_resnet20_loads_wholly(real_data):
    file = real_data / "cifar_resnets" / "resnet20-12fca82f.th"
    model, report = build_model("resnet20", num_classes=10, weights=str(file))
    tensors = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    loaded = {f"module.{n.replace('fc.', 'linear.')}": t for n, t in model.state_dict().items()
              if "num_batches" not in n}
    assert loaded.keys() == {n for n in tensors if "num_batches" not in n}
    assert all(torch.equal(t, tensors[n]) for n, t in loaded.items())
    assert report.matched == report.total
    with pytest.raises(ConfigurationError, match=r"Is it resnet20\?"):
        build_model("resnet32", num_classes=10, weights=str(file))


def torchvision_layout(tensors):
    """Modules numbered as in a Sequential of torchvision's children: RadImageNet's PyTorch file."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {f"backbone.{places[n.split('.')[0]]}.{n.partition('.')[2]}": t
            for n, t in tensors.items() if not n.startswith("fc.")}


@pytest.mark.parametrize(("channels", "layout"), [
    (3, torchvision_layout),
    (13, lambda d: {n: t for n, t in d.items() if not n.startswith("fc.")}),  # torchgeo
    (1, lambda d: d)])  # TorchXRayVision
def test_layouts_of_domain_weights_load_wholly(tmp_path, channels, layout):
    tensors = state("resnet50", in_chans=channels, num_classes=18)
    torch.save(layout(tensors), tmp_path / "w.pth")
    model, report = build_model("resnet50", num_classes=4, in_channels=channels,
                                weights=str(tmp_path / "w.pth"))
    assert report.matched == report.total
    assert all(torch.equal(t, tensors[n]) for n, t in model.state_dict().items() if "fc" not in n)


def test_biases_of_a_network_converted_from_keras_are_not_dropped(tmp_path):
    tensors = state("resnet50")
    tensors |= {n.replace("weight", "bias"): torch.zeros(len(t)) for n, t in tensors.items()
                if "conv" in n}
    assert "conv1.bias" in refused(tmp_path, tensors, "resnet50")


@pytest.mark.parametrize(("scale", "offset", "channels"), [(2048, -1024, 1), (2, -1, 3)])
def test_the_rescaling_in_the_documentation_is_exact_inside(scale, offset, channels):
    page = Path(__file__).parent.parent / "docs" / "backbones.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[0]
    exec(code, scope := {})
    pictures = torch.rand(2, channels, 9, 9)
    tensors = {"conv1.weight": torch.randn(4, channels, 3, 3, dtype=torch.float64),
               "bn1.running_mean": torch.randn(4, dtype=torch.float64)}
    new = scope["rescale"](dict(tensors), scale, offset, channels)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    if channels == 1:
        mean, std = mean.mean()[None], std.mean()[None]
    theirs, ours = scale * pictures + offset, (pictures - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)

    def normed(weights, images):
        answer = nn.functional.conv2d(images.double(), weights["conv1.weight"])
        return answer - weights["bn1.running_mean"].view(1, -1, 1, 1)

    assert torch.allclose(normed(tensors, theirs), normed(new, ours), rtol=1e-4, atol=1e-3)
