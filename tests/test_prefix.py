"""Both parts of a divided network are the whole; folded norms change nothing."""

import pytest
import timm
import torch
from torch import nn

import finetune.models.registration  # noqa: F401  resnet20 and the like
from finetune.models.depths import depth_names, layer_depths
from finetune.models.freezing import EpochPlan, train_mode
from finetune.models.prefix import (
    CannotCut,
    build_prefix,
    build_suffix,
    find_boundary,
    fold_norms,
    folded_copy,
)

NETWORKS = ["resnet10t", "resnet20", "tf_efficientnet_lite0", "convnext_atto", "regnetx_002",
            "mobilenetv3_small_050", "vit_tiny_patch16_224", "densenet121"]


def network(name, **options):
    torch.manual_seed(0)
    given = {"img_size": 64} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=5, **given, **options)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


def images(count=3, seed=1):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def cuts(model):
    """Every depth at which it can be cut, in training mode from there on."""
    top = len(depth_names(layer_depths(model)))
    for depth in range(1, top):
        plan = EpochPlan(frozenset(range(depth, top)))
        train_mode(model, plan)
        yield depth, plan


@pytest.mark.parametrize("name", NETWORKS)
def test_prefix_and_suffix_are_the_network_to_the_bit(name):
    model = network(name)
    for depth, plan in list(cuts(model))[::3]:
        train_mode(model, plan)
        boundary = find_boundary(model, depth, images(2, seed=0))
        train_mode(model, EpochPlan(plan.depths, update_norms=False))
        parts = build_suffix(model, boundary)(build_prefix(model, boundary)(images()))
        assert torch.equal(parts, model(images())), (name, depth, boundary)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_running_statistics_are_those_of_the_whole(name):
    whole, parted = network(name, drop_rate=0.3), network(name, drop_rate=0.3)
    depth, plan = list(cuts(whole))[-2]
    train_mode(parted, plan)
    train_mode(whole, plan)
    boundary = find_boundary(parted, depth, images(2, seed=0))
    for model, run in ((whole, whole), (parted, build_suffix(parted, boundary))):
        where = layer_depths(model)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(where[key] >= depth)
        torch.manual_seed(7)
        shown = images() if run is whole else build_prefix(parted, boundary)(images())
        run(shown).square().sum().backward()
    for (key, a), b in zip(whole.named_parameters(), parted.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
    for (key, a), b in zip(whole.named_buffers(), parted.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


def test_looking_for_the_boundary_leaves_the_network_as_it_was():
    model = network("resnet10t")
    train_mode(model, EpochPlan(frozenset({3, 4, 5})))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    find_boundary(model, 3, images(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_features_are_as_few_as_they_can_be():
    plain, dropping = network("resnet10t"), network("resnet10t", drop_rate=0.5)
    shapes = []
    for model in (plain, dropping):
        top = len(depth_names(layer_depths(model))) - 1
        train_mode(model, EpochPlan(frozenset({top})))
        shapes.append(find_boundary(model, top, images(2)).shape)
    assert shapes[0] == (512,)
    assert shapes[1] == (512, 2, 2), "dropout stands between pooling and classifier"


@pytest.mark.parametrize("name", [n for n in NETWORKS if "vit" not in n and "next" not in n])
def test_folding_changes_features_by_less_than_a_hundred_thousandth(name):
    model = network(name)
    top = len(depth_names(layer_depths(model))) - 1
    boundary = find_boundary(model.eval(), top, images(2))
    plain, folded = (build_prefix(model, boundary, images=given) for given in (None, images(2)))
    norms = [sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in p.model.modules())
             for p in (plain, folded)]
    assert norms[1] < norms[0]
    wanted, found = plain(images()), folded(images())
    assert float((found - wanted).abs().max() / wanted.abs().max()) <= 1e-5


def test_every_norm_behind_a_convolution_is_folded_and_the_logits_stay():
    model = network("resnet20").eval()
    folded = folded_copy(model, images(2))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(images()), model(images()), rtol=1e-4, atol=1e-5)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


class Shared(nn.Module):
    """One convolution, two norms behind it: nothing to fold into."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return self.one(x) + self.two(x)


def test_a_convolution_with_two_norms_is_left_alone():
    model = Shared().eval()
    assert fold_norms(model, model, images(2)) == 0


class Skipping(nn.Module):
    """A long skip hands a second tensor over the boundary."""

    def __init__(self):
        super().__init__()
        self.stem, self.middle = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.late, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        first = self.stem(x)
        x = self.late(torch.relu(self.middle(first))) * first.mean()
        return self.fc(x.mean((2, 3)))


def test_a_network_that_hands_over_two_tensors_is_refused():
    model = Skipping()
    with pytest.raises(CannotCut, match="can't be cut below depth 2"):
        find_boundary(model, 2, images(2))
    assert find_boundary(model, 3, images(2)).module == "fc"
