"""Our residual networks are the papers' and torchvision's, and speak timm's language."""

import io
import itertools

import cv2
import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.models._registry import _model_default_cfgs
from torch import nn
from torch.nn import functional

from finetune.errors import ConfigurationError
from finetune.models.building import build_model
from finetune.models.depths import depth_names, layer_depths
from finetune.models.registration import OUR_NETWORKS
from finetune.models.resnet import BasicBlock, Bottleneck, ResNet, build_resnet

PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
PAPER_MILLIONS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}  # table 6, shortcut A


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def count(model):
    return sum(p.numel() for p in model.parameters())


def theirs(layers):
    """torchvision's network; its norms as after some training, not at 1 and 0."""
    model = getattr(torchvision.models, f"resnet{layers}")()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def ours_and_theirs(layers):
    ours, other = build_resnet(layers), theirs(layers)
    ours.load_state_dict(other.state_dict())
    return ours, other


# ---- exactness

@pytest.mark.parametrize("layers", PARAMETERS)
def test_the_number_of_parameters_is_the_published_one(layers):
    with torch.device("meta"):
        assert count(build_resnet(layers)) == PARAMETERS[layers]


@pytest.mark.parametrize("layers", PAPER_MILLIONS)
def test_the_networks_for_small_pictures_have_the_papers_size(layers):
    with torch.device("meta"):
        model = build_resnet(layers)
    assert round(count(model) / 1e6, 1 if layers == 110 else 2) == PAPER_MILLIONS[layers]
    weights = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weights) == layers  # shortcut A has no layers of its own


@pytest.mark.parametrize("layers", PARAMETERS)
def test_names_and_shapes_are_torchvisions(layers):
    with torch.device("meta"):
        ours = build_resnet(layers).state_dict()
        other = getattr(torchvision.models, f"resnet{layers}")().state_dict()
    assert [(n, t.shape) for n, t in ours.items()] == [(n, t.shape) for n, t in other.items()]


@pytest.mark.parametrize("layers", [18, 50, *(pytest.param(n, marks=pytest.mark.slow)
                                              for n in (34, 101, 152))])
def test_outputs_and_gradients_are_torchvisions(layers):
    ours, other = ours_and_theirs(layers)
    images = torch.randn(2, 3, 64, 64)
    for mode in (False, True):
        answers = [model.train(mode)(images) for model in (ours, other)]
        torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)
    for answer in answers:
        functional.cross_entropy(answer, torch.tensor([1, 2])).backward()
    for (name, mine), their in zip(ours.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, their.grad, rtol=1e-3, atol=1e-5, msg=name)


# ---- what a block computes

@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("shortcut", ["A", "B", "C", None])
def test_a_block_whose_residual_is_zero_is_its_shortcut(block, shortcut):
    inputs = 8 * block.expansion
    part = block(inputs, 8, shortcut=shortcut).eval()
    nn.init.zeros_(getattr(part, part.last_norm).weight)
    x = torch.rand(2, inputs, 6, 6)
    expected = {"A": x, "B": x, None: torch.zeros_like(x)}.get(shortcut)
    if expected is None:
        expected = part.downsample(x).relu()
    torch.testing.assert_close(part(x), expected)


def test_shortcut_a_takes_every_second_pixel_between_zero_channels():
    shortcut = BasicBlock(16, 32, 2, shortcut="A").downsample
    x = torch.randn(1, 16, 6, 6)
    y = shortcut(x)
    torch.testing.assert_close(y[:, 8:24], x[:, :, ::2, ::2], rtol=0, atol=0)
    assert y.shape == (1, 32, 3, 3) and not y[:, :8].any() and not y[:, 24:].any()
    assert count(shortcut) == 0


def test_projections_stand_where_the_paper_has_them():
    def projections(shortcut):
        return [i for i, m in enumerate(build_resnet(34, shortcut=shortcut).modules())
                if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [len(projections(s)) for s in "ABC"] == [0, 3, 16]


def test_a_plain_network_is_the_residual_one_without_sums():
    plain, residual = build_resnet(20, plain=True).eval(), build_resnet(20).eval()
    plain.load_state_dict(residual.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(plain(images), residual(images))
    x = residual.relu(residual.bn1(residual.conv1(images)))
    for number, block in itertools.product((1, 2, 3), range(3)):
        x = residual.get_submodule(f"layer{number}.{block}").residual(x).relu()
    torch.testing.assert_close(plain(images), residual.fc(x.mean((2, 3))))


def test_zero_init_last_makes_every_block_its_shortcut_at_the_start():
    model = build_resnet(20, zero_init_last=True)
    norms = {n: m for n, m in model.named_modules() if n.endswith("bn2")}
    assert len(norms) == 9 and not any(m.weight.any() for m in norms.values())
    assert all(m.bn2.weight.all() for m in build_resnet(20).layer1)


@pytest.mark.parametrize(("stem", "size", "reductions"), [
    ("imagenet", 64, [2, 4, 8, 16, 32]), ("small", 32, [1, 1, 2, 4, 8])])
def test_stems_and_stages_shrink_pictures_as_told(stem, size, reductions):
    model = build_resnet(18, stem=stem, num_classes=5).eval()
    assert [info["reduction"] for info in model.feature_info] == reductions
    features = model.forward_features(torch.randn(2, 3, size, size))
    assert features.shape == (2, 512, size // reductions[-1], size // reductions[-1])
    assert model.forward_head(features).shape == (2, 5)
    assert model.forward_head(features, pre_logits=True).shape == (2, 512)


def test_dropout_and_stochastic_depth_act_in_training_only():
    model = build_resnet(20, drop_path_rate=0.5)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, timm.layers.DropPath)]
    assert rates == pytest.approx(np.linspace(0, 0.5, 9)[1:])
    images = torch.randn(4, 3, 32, 32)
    for network in (model, build_resnet(20, drop_rate=0.5)):
        network.eval()
        assert torch.equal(network(images), network(images))
        network.train()
        assert not torch.equal(network(images), network(images))


def test_checkpointed_gradients_are_the_same():
    model = build_resnet(20)
    images, found = torch.randn(2, 3, 32, 32), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images).sum().backward()
        found.append(model.conv1.weight.grad.clone())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("options", "told"), [
    ({"stem": "large"}, "stem=large: there are imagenet, small"),
    ({"shortcut": "D"}, "shortcut=D: there are A, B, C"),
    ({"num_classes": -1}, "num_classes=-1"), ({"in_channels": 0}, "in_channels=0")])
def test_what_does_not_exist_is_told(options, told):
    with pytest.raises(ConfigurationError, match=told):
        build_resnet(20, **options)


@pytest.mark.parametrize("layers", [19, 2, 0, -4])
def test_a_depth_that_does_not_exist_is_told(layers):
    with pytest.raises(ConfigurationError, match=rf"no residual network has {layers} layers"):
        build_resnet(layers)


# ---- timm's language

def test_timms_own_entries_are_untouched():
    assert not set(OUR_NETWORKS) & set(timm.list_models(module="resnet"))
    assert "finetune" not in timm.model_entrypoint("resnet18").__module__
    assert isinstance(timm.create_model("resnet18"), timm.models.resnet.ResNet)
    assert _model_default_cfgs["resnet18"].default.hf_hub_id == "timm/"
    assert set(OUR_NETWORKS) <= set(timm.list_models(module="registration"))


@pytest.mark.parametrize("name", ["resnet20", "resnet32_b", "plain20", "resnet12_wide",
                                  "paper_resnet18", "paper_resnet50", "paper_plain18"])
def test_our_networks_work_as_timms_own(name):
    model, _ = build_model(name, num_classes=7, in_channels=4, drop_rate=0.1, drop_path_rate=0.1,
                           pooling="avgmax")
    settings = model.pretrained_cfg
    images = torch.randn(2, 4, *settings["input_size"][1:])
    assert model.eval()(images).shape == (2, 7)
    depths = layer_depths(model)
    assert depth_names(depths)[0] == "conv1 bn1" and depth_names(depths)[-1] == "fc"
    assert max(depths.values()) == len(model.feature_info)
    model.reset_classifier(3, "max")
    assert model(images).shape == (2, 3) and model.get_classifier().out_features == 3
    assert settings["classifier"] == "fc" and settings["first_conv"] == "conv1"
    features = timm.create_model(name, features_only=True, in_chans=4)
    assert [f.shape[1] for f in features(images)] == [i["num_chs"] for i in model.feature_info]


@pytest.mark.parametrize("layers", PARAMETERS)
def test_weights_of_the_papers_networks_are_torchvisions(layers):
    published = torchvision.models.get_model_weights(f"resnet{layers}").IMAGENET1K_V1
    settings = timm.get_pretrained_cfg(f"paper_resnet{layers}.tv_in1k")
    assert settings.url == published.url and settings.license == "bsd-3-clause"


@pytest.mark.parametrize("name", ["resnet20", "paper_resnet50"])
def test_exported_programs_answer_the_same(name):
    model = timm.create_model(name, num_classes=3).eval()
    images = torch.randn(2, 3, 64, 64)
    program = torch.export.export(model, (images,))
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    torch.testing.assert_close(torch.export.load(stream).module()(images), model(images))


def test_a_bottleneck_network_of_ones_own():
    model = ResNet(Bottleneck, (1, 1), (8, 16), num_classes=2, stem="small", in_channels=1)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 2) and model.num_features == 64


# ---- a published network

def foreign_resnet20(state, images):
    """The file's network, written down a second time, by hand."""
    def norm(x, name):
        return functional.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"],
                                     state[f"{name}.weight"], state[f"{name}.bias"])

    x = norm(functional.conv2d(images, state["conv1.weight"], padding=1), "bn1").relu()
    for stage, block in itertools.product((1, 2, 3), range(3)):
        name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        inside = functional.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        inside = functional.conv2d(norm(inside, f"{name}.bn1").relu(),
                                   state[f"{name}.conv2.weight"], padding=1)
        if stride == 2:
            quarter = inside.shape[1] // 4
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        x = (norm(inside, f"{name}.bn2") + x).relu()
    return functional.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.slow
def test_a_foreign_resnet20_answers_as_it_should(real_data):
    """Published: 91.78 % (the file's own best_prec1).

    The pictures here are JPEG, quality 75 with halved colour, which costs the rest (81 % of all
    10,000): the network written by hand gives the same answers, and the training pictures, which
    it knew by heart, come to 85 %.
    """
    file = real_data / "cifar_resnets" / "resnet20-12fca82f.th"
    stored = dict(np.load(real_data / "cifar10_jpeg.npz"))
    model, report = build_model("resnet20", num_classes=10, weights=str(file))
    assert report.matched == report.total and "classifier's tensors fit" in " ".join(report.notes)
    places, ends = np.flatnonzero(stored["is_test"])[::10], stored["offsets"]
    images = np.stack([cv2.imdecode(stored["jpeg"][ends[i]:ends[i + 1]], cv2.IMREAD_COLOR_RGB)
                       for i in places])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    tensors = (tensors - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    with torch.inference_mode():
        answers = torch.cat([model.eval()(part) for part in tensors.split(250)])
        expected = foreign_resnet20({n.removeprefix("module."): t for n, t in state.items()},
                                    tensors)
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-4)
    assert (answers.argmax(1).numpy() == stored["labels"][places]).mean() > 0.77
