import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from finetune.errors import ConfigurationError
from finetune.models.depths import layer_depths
from finetune.models.parameters import split_parameter_groups


@pytest.fixture
def model():
    return timm.create_model("resnet10t", num_classes=3)


def test_groups_are_a_partition_of_the_parameters(model):
    groups = split_parameter_groups(model, lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    names = [n for g in groups for n in g.parameter_names]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())


def test_each_depth_has_its_share_of_the_rate_above(model):
    groups = split_parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    rates = {g.depth: g.lr for g in groups}
    assert rates == {d: 0.5 ** (5 - d) for d in range(6)}


def test_rates_and_decays_agree_with_timms_layer_decay_on_a_vision_transformer():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    ours = split_parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.7)
    timms = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.7,
                                     no_weight_decay_list=model.no_weight_decay())
    scale = {id(p): (g["lr_scale"], g["weight_decay"]) for g in timms for p in g["params"]}
    depths = layer_depths(model)
    top = max(depths.values())
    for group in ours:
        for name, parameter in zip(group.parameter_names, group.parameters, strict=True):
            rate, decay = scale[id(parameter)]
            assert group.weight_decay == decay
            if not name.startswith(("head", "norm")):  # timm puts both in one group
                offset = top - 13  # our classifier is a depth of its own
                assert group.lr == pytest.approx(rate * 0.7**offset, rel=1e-6)


def test_norms_and_biases_do_not_decay(model):
    for group in split_parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=1.0):
        for parameter in group.parameters:
            assert group.weight_decay == (0.1 if parameter.ndim > 1 else 0.0)


def test_explicit_rates_win(model):
    groups = split_parameter_groups(model, lr=1.0, weight_decay=0.0, layer_decay=0.5,
                                    stage_lrs={"layer4": 0.3, "0": 0.01})
    rates = {g.depth: g.lr for g in groups}
    assert (rates[0], rates[4], rates[3]) == (0.01, 0.3, 0.25)
    with pytest.raises(ConfigurationError, match="layer9"):
        split_parameter_groups(model, lr=1.0, weight_decay=0.0, stage_lrs={"layer9": 0.3})


def test_the_rate_is_real_one_step_of_sgd_moves_each_depth_by_it(model):
    groups = split_parameter_groups(model, lr=1.0, weight_decay=0.0, layer_decay=0.5)
    optimizer = torch.optim.SGD([g.as_torch() for g in groups])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    depths = layer_depths(model)
    for name, parameter in model.named_parameters():
        step = before[name] - parameter.detach()
        assert torch.allclose(step, torch.full_like(step, 0.5 ** (5 - depths[name])), atol=1e-6)
