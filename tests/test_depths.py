import pytest
import timm
from torch import nn

from finetune.errors import ConfigurationError
from finetune.models.depths import depth_names, find_depth, layer_depths, tensor_depths

NETWORKS = ["resnet18", "resnet10t", "tf_efficientnet_lite0", "convnext_atto",
            "vit_tiny_patch16_224", "mobilenetv3_small_050"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_has_one_depth_and_depths_are_consecutive(name):
    model = timm.create_model(name)
    depths = layer_depths(model)
    assert set(depths) == {n for n, _ in model.named_parameters()}
    assert sorted(set(depths.values())) == list(range(max(depths.values()) + 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_highest_depth_is_the_classifier_and_nothing_else(name):
    model = timm.create_model(name)
    depths = layer_depths(model)
    top = {id(p) for n, p in model.named_parameters() if depths[n] == max(depths.values())}
    assert top == {id(p) for p in model.get_classifier().parameters()}


def test_resnet_depths_are_stem_stages_head():
    names = depth_names(tensor_depths(timm.create_model("resnet18")))
    assert names == ["conv1 bn1", "layer1", "layer2", "layer3", "layer4", "fc"]


@pytest.mark.parametrize("name", ["convnext_atto", "densenet121", "test_vit", "resnet10t"])
def test_every_depth_has_a_name_of_its_own_by_which_it_is_found(name):
    names = depth_names(layer_depths(timm.create_model(name)))
    parts = [(part, depth) for depth, name in enumerate(names) for part in name.split()]
    assert len({part for part, _ in parts}) == len(parts)
    assert all(find_depth(part, names) == depth for part, depth in parts)


def test_a_classifier_inside_a_head_is_told_from_the_heads_norm():
    names = depth_names(layer_depths(timm.create_model("convnext_atto")))
    assert names[-2:] == ["head.norm", "head.fc"]


def test_buffers_lie_at_the_depth_of_their_layer():
    depths = tensor_depths(timm.create_model("resnet18"))
    for name, depth in depths.items():
        if name.endswith("running_mean"):
            assert depth == depths[name.replace("running_mean", "weight")]


def test_a_model_without_feature_groups_is_divided_by_its_children():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    assert layer_depths(model) == {"0.weight": 0, "0.bias": 0, "3.weight": 1, "3.bias": 1}


def test_a_timm_network_inside_a_model_of_ones_own_keeps_its_stages():
    model = nn.Module()
    model.backbone, model.fc = timm.create_model("resnet10t", num_classes=0), nn.Linear(512, 2)
    names = depth_names(tensor_depths(model))
    assert names == ["backbone.conv1 backbone.bn1", *(f"backbone.layer{i}" for i in range(1, 5)),
                     "fc"]
    assert find_depth("layer3", names) == 3 == find_depth("backbone.layer3", names)


def test_a_network_with_fine_groups_only_is_divided_by_those(monkeypatch):
    model = timm.create_model("resnet10t")
    coarse = model.group_matcher(coarse=True)

    def fine_only(coarse=False):
        assert not coarse, "not implemented"
        return expected

    expected = coarse
    depths = layer_depths(model)
    monkeypatch.setattr(model, "group_matcher", fine_only)
    assert layer_depths(model) == depths


def test_a_model_without_classifier_is_refused():
    with pytest.raises(ConfigurationError, match="get_classifier"):
        layer_depths(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_stages_are_found_by_name_number_and_role():
    names = ["conv1 bn1", "layer1.0", "layer2", "fc"]
    assert [find_depth(w, names) for w in ("stem", "bn1", "1", "layer1", "head")] == [0, 0, 1, 1, 3]
    with pytest.raises(ConfigurationError, match="layer2"):
        find_depth("layer3", names)
    with pytest.raises(ConfigurationError):
        find_depth("4", names)
