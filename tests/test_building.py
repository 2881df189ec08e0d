"""Networks by name: what is built, what is refused, and that options arrive."""

import sys

import pytest
import timm
import torch
from torch import nn

from finetune.errors import ConfigurationError
from finetune.models.building import build_model
from finetune.models.depths import layer_depths
from finetune.models.heads import HIDDEN_WIDTH, classifier_modules

NAMES = ["resnet10t", "test_resnet", "test_vit", "test_convnext", "test_efficientnet",
         "test_byobnet", "test_nfnet", "test_mambaout"]

BUILDERS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        return self.fc(self.norm(self.stem(x)).mean((2, 3)))

def small(num_classes, in_channels):
    return Small(num_classes, in_channels)

def with_dropout(num_classes, in_channels, drop_rate=0.0):
    model = Small(num_classes, in_channels)
    model.drop_rate = drop_rate
    return model

def no_channels(num_classes):
    return Small(num_classes, 3)

def not_a_module(num_classes, in_channels):
    return "network"

def no_classifier(num_classes, in_channels):
    return nn.Conv2d(in_channels, num_classes, 3)
"""


@pytest.fixture
def builders(tmp_path, monkeypatch):
    (tmp_path / "my_lab_networks.py").write_text(BUILDERS)
    monkeypatch.chdir(tmp_path)
    yield "my_lab_networks"
    sys.modules.pop("my_lab_networks", None)


@pytest.mark.parametrize("name", NAMES)
def test_any_timm_classifier_gives_logits_of_the_wanted_width_and_has_depths(name):
    model, report = build_model(name, num_classes=5, in_channels=2)
    size = model.pretrained_cfg["input_size"][-1]
    assert model.eval()(torch.zeros(2, 2, size, size)).shape == (2, 5)
    assert max(layer_depths(model).values()) >= 3
    assert (report.source, report.matched, report.mean) == ("random", 0, None)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_byobnet", "test_vit"])
def test_mlp_head_sits_where_the_classifier_was(name):
    model, _ = build_model(name, num_classes=5, head="mlp", drop_rate=0.3)
    head = model.get_classifier()
    assert [type(m) for m in head] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert (head[0].in_features, head[2].p) == (model.num_features, 0.3)
    assert model.eval()(torch.zeros(1, 3, 160, 160)).shape == (1, 5)
    depths = layer_depths(model)
    top = {n for n, d in depths.items() if d == max(depths.values())}
    assert top == {n for n, p in model.named_parameters() if any(p is q for q in head.parameters())}


def test_hidden_layer_of_a_wide_network_is_limited():
    head = build_model("resnet18", num_classes=2, pooling="catavgmax", head="mlp")[0].fc
    assert (head[0].in_features, head[0].out_features) == (1024, HIDDEN_WIDTH)


def test_mlp_head_replaces_a_convolutional_classifier_by_convolutions():
    model, _ = build_model("resnetv2_18", num_classes=3, head="mlp")
    assert isinstance(model.get_classifier()[0], nn.Conv2d)
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_the_same_seed_gives_the_same_network_as_timm():
    torch.manual_seed(3)
    ours, _ = build_model("resnet10t", num_classes=4)
    torch.manual_seed(3)
    theirs = timm.create_model("resnet10t", num_classes=4)
    assert all(torch.equal(a, b) for a, b in
               zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "test_resnet",
                                  "test_convnext"])
def test_a_new_classifier_starts_no_wider_than_a_linear_layer_does(name):
    """By timm's own start, EfficientNets' is the wider the fewer classes there are."""
    torch.manual_seed(0)
    model, _ = build_model(name, num_classes=3)
    for module in classifier_modules(model).values():
        usual = (3 * module.weight[0].numel()) ** -0.5
        assert 0 < module.weight.std() < 2.1 * usual
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3)
    for key, tensor in plain.state_dict().items():
        if key not in {f"{n}.weight" for n in classifier_modules(model)}:
            assert torch.equal(model.state_dict()[key], tensor), key


def test_options_arrive_in_the_network():
    model, _ = build_model("resnet10t", num_classes=4, pooling="max", drop_rate=0.25,
                           drop_path_rate=0.5)
    reference = timm.create_model("resnet10t", num_classes=4, global_pool="max", drop_rate=0.25,
                                  drop_path_rate=0.5)
    assert repr(model) == repr(reference)
    assert model.drop_rate == 0.25


@pytest.mark.parametrize(("name", "options", "expected"), [
    ("resnet5", {}, "'resnet50'"),
    ("resnet18.a1_in2k", {}, "did you mean 'a1_in1k'"),
    ("ResNet50", {}, "'resnet50'"),
    ("vgg11", {"drop_path_rate": 0.1}, "drop_path_rate=0.1"),
    ("test_vit", {"pooling": "median"}, "pooling=median"),
    ("resnet10t", {"pooling": "median"}, "pooling=median"),
    ("resnet10t", {"pooling": ""}, "pooling is empty"),
    ("resnet10t", {"head": "quadratic"}, "linear and mlp"),
    ("hf-hub:timm/resnet18.a1_in1k", {}, "model.weights=hf-hub"),
    ("levit_128s", {"head": "mlp"}, "model.head=linear"),
])
def test_a_wrong_name_or_option_is_refused_by_name(name, options, expected):
    with pytest.raises(ConfigurationError, match=expected):
        build_model(name, num_classes=2, **options)


def test_a_network_without_classifier_is_refused():
    with pytest.raises(ConfigurationError, match="no classifier"):
        build_model("test_resnet", num_classes=0)


def test_a_users_builder_is_found_below_the_current_folder(builders):
    path = list(sys.path)
    model, report = build_model(f"{builders}:small", num_classes=3, in_channels=13)
    assert model(torch.zeros(2, 13, 8, 8)).shape == (2, 3)
    assert (report.total, sys.path) == (6, path)


def test_a_users_builder_gets_options_that_it_takes_and_an_mlp_head(builders):
    model, _ = build_model(f"{builders}:with_dropout", num_classes=3, drop_rate=0.4, head="mlp")
    assert model.drop_rate == 0.4
    assert isinstance(model.fc, nn.Sequential)


@pytest.mark.parametrize(("function", "options", "expected"), [
    ("smal", {}, "did you mean 'small'"),
    ("small", {"drop_rate": 0.1}, "drop_rate=0.1"),
    ("no_channels", {}, "in_channels=3"),
    ("not_a_module", {}, "returned a str"),
    ("no_classifier", {}, "no classifier"),
    ("small", {"weights": "pretrained"}, "no timm tags"),
])
def test_a_users_wrong_builder_is_refused(builders, function, options, expected):
    with pytest.raises(ConfigurationError, match=expected):
        build_model(f"{builders}:{function}", num_classes=3, **options)


def test_a_missing_module_is_refused(builders):
    with pytest.raises(ConfigurationError, match="can't be imported"):
        build_model("no_such_lab:small", num_classes=3)
