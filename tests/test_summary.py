"""Counts and shapes against counts by hand, torchvision's, and real training steps."""

import json

import pytest
import timm
import torch
from huggingface_hub import constants
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torchvision.models import ResNet18_Weights, ResNet50_Weights

from finetune.__main__ import main
from finetune.errors import ConfigurationError
from finetune.models import listing
from finetune.models.building import build_model
from finetune.models.depths import layer_depths
from finetune.models.freezing import freeze_except, freezing_plan
from finetune.models.summary import on_meta, summarise_network

# Output of each depth for the network's own input, from the papers and timm's feature_info.
SHAPES = {
    "resnet18": [(64, 56, 56), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7), (1000,)],
    "resnet20": [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (10,)],
    "convnext_atto": [(40, 56, 56), (40, 56, 56), (80, 28, 28), (160, 14, 14), (320, 7, 7),
                      (320, 1, 1), (1000,)],
    "vit_tiny_patch16_224": [(197, 192)] * 13 + [(1000,)],
    "efficientnet_lite0": [(32, 112, 112), (16, 112, 112), (24, 56, 56), (40, 28, 28),
                           (80, 14, 14), (112, 14, 14), (192, 7, 7), (1280, 7, 7), (1000,)],
    "mobilenetv3_small_050": [(16, 112, 112), (8, 56, 56), (16, 28, 28), (24, 14, 14),
                              (24, 14, 14), (48, 7, 7), (288, 7, 7), (1024, 1, 1), (1000,)],
    "test_resnet": [(32, 40, 40), (32, 40, 40), (48, 20, 20), (192, 10, 10), (96, 5, 5), (1000,)],
}


def meta_model(name, **options):
    with on_meta():
        settings = timm.get_pretrained_cfg(name)
        given = {"num_classes": settings.num_classes, **options}
        return build_model(name, **given)[0], settings.input_size


def summary(name, **options):
    model, (channels, *size) = meta_model(name)
    return summarise_network(model, size=tuple(size), in_channels=channels,
                             **{"batch_size": 2, **options})


def count_by_hand(model, shape):
    """fvcore's and torchinfo's way: output values times the weights that make one of them."""
    counts = []

    def count(module, _, output):
        counts.append(output.numel() * module.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in model.modules()
             if isinstance(m, nn.Conv2d | nn.Linear)]
    model.eval()(torch.empty(1, *shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(counts)


@pytest.mark.parametrize("name", ["resnet50", "paper_resnet50", *SHAPES])
def test_multiply_adds_are_those_of_a_count_by_hand(name):
    model, shape = meta_model(name)
    attention = 12 * 2 * 197 ** 2 * 192 if name.startswith("vit") else 0
    assert summary(name).multiply_adds == count_by_hand(model, shape) + attention


@pytest.mark.parametrize(("name", "weights"), [
    ("resnet18", ResNet18_Weights.IMAGENET1K_V1), ("resnet50", ResNet50_Weights.IMAGENET1K_V1),
    ("paper_resnet50", ResNet50_Weights.IMAGENET1K_V1)])
def test_torchvision_publishes_the_same_figures(name, weights):
    found = summary(name)
    assert found.parameters == weights.meta["num_params"]
    assert round(found.multiply_adds / 1e9, 3) == weights.meta["_ops"]


@pytest.mark.parametrize("name", SHAPES)
def test_every_depth_has_its_shape_and_no_parameter_is_lost(name):
    found = summary(name)
    assert [d.output_shape for d in found.depths] == SHAPES[name]
    model = meta_model(name)[0]
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert len(found.depths) == max(layer_depths(model).values()) + 1


def test_the_stages_of_resnet18_by_hand():
    by_hand = [49 * 3 * 64 * 112 ** 2, 4 * 9 * 64 * 64 * 56 ** 2]
    for width, side in ((128, 28), (256, 14), (512, 7)):  # half-width first one, 1x1 shortcut
        by_hand.append((9 * width ** 2 // 2 + 3 * 9 * width ** 2 + width ** 2 // 2) * side ** 2)
    found = [d.multiply_adds for d in summary("resnet18").depths]
    assert found == [*by_hand, 512 * 1000]


def test_activations_of_a_small_network_by_hand():
    """Kept: the batch, what the norm sees, its mean and deviation, and what the ReLU gives."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                        nn.Linear(4 * 36, 2)).to("meta")
    found = summarise_network(net, size=(8, 8), batch_size=5)
    batch, convolved, statistics = 5 * 3 * 64, 5 * 4 * 36, 2 * 4
    assert found.memory.activations == 4 * (batch + convolved + statistics + convolved)


@pytest.mark.parametrize("name", ["test_resnet", "resnet20", "mobilenetv3_small_050"])
def test_nothing_computed_keeps_what_a_real_step_keeps(name):
    settings = timm.get_pretrained_cfg(name)
    model = timm.create_model(name).train()
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(2, *settings.input_size))
    real = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)
    assert summary(name).memory.activations == real


def test_activations_grow_with_the_batch_and_shrink_when_the_stem_is_frozen():
    two, four, eight = (summary("test_resnet", batch_size=n).memory.activations for n in (2, 4, 8))
    assert eight - four == 2 * (four - two) > 0
    model, (_, *size) = meta_model("test_resnet")
    freeze_except(model, {5})
    frozen = summarise_network(model, size=tuple(size), batch_size=2).memory
    assert frozen.activations < two / 100
    assert frozen.gradients == 4 * 97_000


def test_memory_is_what_an_adamw_step_holds():
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=10)[0]
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    state = [t for entry in optimizer.state.values() for t in entry.values() if t.ndim]
    memory = summary("resnet20").memory
    assert memory.adamw_state == sum(t.nbytes for t in state)
    assert memory.gradients == sum(p.grad.nbytes for p in model.parameters())
    assert memory.weights == sum(t.nbytes for t in model.state_dict().values())
    assert memory.total == (memory.weights + memory.gradients + memory.adamw_state
                            + memory.activations)


def test_policies_train_what_freezing_trains():
    model = build_model("resnet20", num_classes=10)[0]
    found = summary("resnet20", epochs=6)
    labels = [p.policy for p in found.policies]
    assert labels == ["none", "head_only", "head_then_all", "gradual", "auto_rgn",
                      "below=layer1", "below=layer2", "below=layer3"]
    for policy in found.policies:
        name, _, stage = policy.policy.partition("=")
        below = int(stage.removeprefix("layer") or 0)
        for epoch, told in ((0, policy.first_parameters), (5, policy.last_parameters)):
            plan = freezing_plan(name, [None] * epoch, depth_count=5, epochs=6, below=below)
            freeze_except(model, plan.depths)
            assert told == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_model_is_left_as_it_was():
    model = build_model("resnet20", num_classes=10)[0].eval()
    summarise_network(model, size=(32, 32), batch_size=2)
    assert not model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_modules_run_twice_count_twice_and_their_parameters_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.body(self.body(x)).mean((2, 3)))

    found = summarise_network(Twice(), size=(4, 4), batch_size=2)
    assert [(d.parameters, d.multiply_adds) for d in found.depths] == [(12, 2 * 9 * 16), (8, 6)]


def test_a_network_without_logits_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(8, 8))
    with pytest.raises(ConfigurationError, match="not logits"):
        summarise_network(net, size=(8, 8))


def test_networks_to_look_at_hold_no_numbers():
    assert all(p.is_meta for name in ("paper_resnet152", "vit_tiny_patch16_224")
               for p in meta_model(name)[0].parameters())


def test_the_command_prints_depths_policies_and_memory(capsys):
    assert main(["summary", "resnet20", "image_size=64", "num_classes=7"]) == 0
    out = capsys.readouterr().out
    for told in ("3 x 64 x 64 to 7 classes", "269,527 parameters", "64 x 16 x 16",
                 "below=layer3", "activations, batch of 32"):
        assert told in out


def test_large_figures_have_no_exponent(capsys):
    assert main(["summary", "vgg11", "batch_size=512"]) == 0
    out = capsys.readouterr().out
    assert "7,609,090,048 multiply-adds" in out and "e+" not in out


def test_json_is_one_document_with_the_same_figures(capsys):
    words = ["--json", "in_channels=5", "batch_size=4"]
    assert main(["summary", "test_resnet", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    model = meta_model("test_resnet", in_channels=5)[0]
    found = summarise_network(model, size=(160, 160), in_channels=5, batch_size=4)
    assert told["parameters"] == found.parameters
    assert told["size"] == [160, 160] and told["in_channels"] == 5
    assert told["memory"]["total"] == found.memory.total
    assert [d["multiply_adds"] for d in told["depths"]] == [d.multiply_adds for d in found.depths]
    assert sum(d["parameter_share"] for d in told["depths"]) == pytest.approx(1)
    assert sum(d["multiply_add_share"] for d in told["depths"]) == pytest.approx(1)


@pytest.mark.parametrize(("words", "told"), [
    (["resnet2O"], ["resnet20"]), (["paper_resnet5"], ["paper_resnet50"]),
    (["resnet50.a1_in1"], ["a1_in1k"]), (["resnet18", "num_clases=3"], ["num_classes"]),
    (["resnet18", "num_classes=0", "in_channels=0", "image_size=0"],
     ["num_classes=0", "in_channels=0", "image_size=0"]),
    (["resnet18", "batch_size=1.5"], ["whole number"]), (["image_size=64"], ["comes first"]),
    (["resnet18", "image_size=64", "image_size=32"], ["twice"]), ([], ["MODEL"]),
    (["inception_v3", "image_size=16"], ["3 x 16 x 16", "made for 299 x 299"]),
    (["vit_tiny_patch16_224", "image_size=64"], ["3 x 64 x 64", "made for 224 x 224"]),
    (["nowhere.at_all:build"], ["nowhere.at_all"])])
def test_what_is_wrong_is_told_and_nothing_printed(words, told, capsys):
    assert main(["summary", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    assert [text for text in told if text not in said.err] == []


OWN = """
from torch import nn

class Own(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.body, self.fc = nn.Conv2d(channels, 8, 3), nn.Linear(8, classes)

    def forward(self, x):
        x = self.body(x)
        return self.fc((x if x.sum().item() else x + 1).mean((2, 3)))

def build(num_classes, in_channels):
    return Own(num_classes, in_channels)

def reads_its_weights(num_classes, in_channels):
    model = build(num_classes, in_channels)
    return model if model.fc.weight.sum().item() else None
"""


@pytest.mark.parametrize("function", ["build", "reads_its_weights"])
def test_own_networks_that_look_at_values_are_computed(function, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_network_for_summary.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["image_size=16", "num_classes=3", "in_channels=2", "batch_size=2", "--json"]
    assert main(["summary", f"own_network_for_summary:{function}", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [d["multiply_adds"] for d in told["depths"]] == [2 * 9 * 8 * 14 ** 2, 24]


def test_ls_models_names_ours_and_some_that_may_be_used_commercially(capsys):
    assert main(["ls", "models"]) == 0
    out = capsys.readouterr().out
    for told in ("resnet20 ", "paper_resnet50.tv_in1k", "resnet18.a1_in1k", "11689512",
                 "apache-2.0", "ls models 'resnet*'"):
        assert told in out
    found = listing.list_networks()
    assert {n.licence for n in found} <= {"apache-2.0", "bsd-3-clause", "-"}
    assert {n.name for n in found} >= set(listing.RECOMMENDED)


def test_patterns_fit_names_with_and_without_tags():
    tags = {n.name for n in listing.list_networks("resnet18")}
    assert "resnet18.fb_swsl_ig1b_ft_in1k" in tags
    assert tags == {n.name for n in listing.list_networks("resnet18.*")}
    assert [n.name for n in listing.list_networks("plain2*")] == ["plain20"]
    with pytest.raises(ConfigurationError, match="resnet18"):
        listing.list_networks("resnet1B")


def test_too_many_networks_are_listed_without_counting(monkeypatch):
    monkeypatch.setattr(listing, "_count_parameters", lambda *_: pytest.fail("counted"))
    assert {n.parameters for n in listing.list_networks("*")} == {None}


def test_weights_that_are_here_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def where(name):
        return [n.weights for n in listing.list_networks(name)]

    assert where("test_resnet.r160_in1k") == where("paper_resnet18") == ["not here"]
    assert where("resnet20") == ["none"]
    saved = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (saved / "snapshots" / "abc").mkdir(parents=True)
    (saved / "snapshots" / "abc" / "model.safetensors").touch()
    (saved / "refs").mkdir()
    (saved / "refs" / "main").write_text("abc")
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth").touch()
    assert where("test_resnet.r160_in1k") == ["in the hub's cache"]
    assert where("paper_resnet18") == ["in torch's cache"]


def test_ls_takes_recipes_or_models(capsys):
    assert main(["ls", "recipes"]) == 0
    recipes = capsys.readouterr().out
    assert main(["ls"]) == 0
    assert capsys.readouterr().out == recipes
    assert main(["ls", "recipes", "x"]) == main(["ls", "modells"]) == 2
