import copy
import functools

import numpy as np
import pytest
import timm
import torch
from torch import nn

import finetune.models.registration  # noqa: F401 (our own networks)
from finetune.models.grad_cam import NoSpatialMap, find_map_layer, grad_cam


def picture(size=32, count=2, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@functools.cache
def network(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, **options).eval()


@pytest.mark.parametrize(("name", "size", "layer"), [
    ("resnet10t", 64, "layer4"), ("tf_efficientnet_lite0", 64, "bn2"),
    ("convnext_atto", 64, "norm_pre"), ("densenet121", 64, "features"),
    ("swin_tiny_patch4_window7_224", 224, "norm"), ("mobilenetv3_small_050", 64, "blocks"),
    ("resnet12_wide", 32, "layer3")])
def test_the_last_map_before_the_classifier_is_found(name, size, layer):
    model, images = network(name), picture(size, 1)
    found = find_map_layer(model, images)
    assert found == layer or found.startswith(f"{layer}.")
    heat = grad_cam(model, images.expand(4, -1, -1, -1), [0, 1, 2, 3])
    assert heat.shape[0] == 4 and min(heat.shape[1:]) > 1 and heat.min() >= 0
    highest = heat.amax((1, 2)).round(decimals=5)
    assert set(highest.tolist()) <= {0.0, 1.0}  # random weights may find nothing for a class


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s32_224"])
def test_networks_of_tokens_are_refused_by_name(name):
    with pytest.raises(NoSpatialMap, match="tokens"):
        grad_cam(network(name), picture(224, 1), [0])


def test_networks_without_a_map_are_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(NoSpatialMap, match="none comes before"):
        find_map_layer(flat, picture())


def test_heat_maps_equal_the_papers_formula_on_a_plain_network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    images = picture(12)
    maps = body(images).detach()
    weights = model[3].weight[[2, 0]] / maps[0, 0].numel()  # of a mean: the same for every pixel
    expected = (weights[:, :, None, None] * maps).sum(1).relu()
    expected = expected / expected.amax((1, 2), keepdim=True)
    assert torch.allclose(grad_cam(model, images, [2, 0]), expected, atol=1e-6)


def test_a_batch_equals_pictures_one_by_one():
    model, images = network("resnet10t"), picture(64, 3)
    alone = [grad_cam(model, images[i:i + 1], [i])[0] for i in range(3)]
    assert torch.allclose(grad_cam(model, images, [0, 1, 2]), torch.stack(alone), atol=1e-4)


def test_classes_have_maps_of_their_own():
    images, _, _ = planted(8, seed=2)
    one, other = (grad_cam(finder(), images, [k] * 8) for k in (0, 1))
    assert one.amax() == 1 and other.amax() == pytest.approx(1) and not torch.allclose(one, other)


def test_a_class_that_nothing_speaks_for_has_an_empty_map():
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    nn.init.constant_(model[3].weight, -1.0)
    heat = grad_cam(model, picture(12), [0, 1])
    assert torch.equal(heat, torch.zeros_like(heat))


def test_each_picture_needs_a_class():
    with pytest.raises(ValueError, match="2 images"):
        grad_cam(network("resnet10t"), picture(64), [0])


@pytest.mark.parametrize("fails", [False, True])
def test_modes_flags_gradients_and_statistics_are_as_before(fails):
    model = copy.deepcopy(network("resnet10t")).train()
    model.layer2.eval()
    model.conv1.requires_grad_(False)
    model(picture(64)).sum().backward()
    before = ({n: m.training for n, m in model.named_modules()},
              {n: p.requires_grad for n, p in model.named_parameters()},
              {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
              {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state())
    hooks = [len(m._forward_hooks) for m in model.modules()]
    if fails:
        with pytest.raises(RuntimeError):
            grad_cam(model, picture(64), [0, 99])
    else:
        grad_cam(model, picture(64), [0, 1])
    assert before[0] == {n: m.training for n, m in model.named_modules()}
    assert before[1] == {n: p.requires_grad for n, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        old = before[2][name]
        assert (old is None) == (parameter.grad is None)
        assert old is None or torch.equal(old, parameter.grad)
    assert all(torch.equal(before[3][n], t) for n, t in model.state_dict().items())
    assert torch.equal(before[4], torch.get_rng_state())
    assert hooks == [len(m._forward_hooks) for m in model.modules()]


def planted(count, seed, size=32, patch=8):
    """Noise; class 1 has a bright square somewhere. Also where."""
    random = np.random.default_rng(seed)
    images = random.normal(0, 0.3, (count, 3, size, size)).astype(np.float32)
    labels = np.arange(count) % 2
    corners = random.integers(0, size - patch + 1, (count, 2))
    for image, label, (y, x) in zip(images, labels, corners, strict=True):
        if label:
            image[:, y:y + patch, x:x + patch] += 1.5
    return torch.from_numpy(images), torch.from_numpy(labels), corners + patch / 2


@functools.cache
def finder():
    """A small network that has learnt to see the square."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
              nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
              nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    images, labels, _ = planted(128, seed=1)
    for _ in range(40):
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def centre(heat):
    """(B, 2): rows and columns of the maps' centres of mass, from 0 to 1."""
    places = (torch.arange(heat.shape[1]) + 0.5) / heat.shape[1]
    mass = heat.sum((1, 2))
    return torch.stack([heat.sum(2) @ places / mass, heat.sum(1) @ places / mass], dim=1)


def test_a_network_that_sees_a_planted_patch_points_at_it():
    images, labels, where = planted(64, seed=2)
    model = finder()
    assert (model(images).argmax(1) == labels).float().mean() > 0.95
    has = labels == 1
    heat = grad_cam(model, images[has], labels[has])
    apart = (centre(heat) * 32 - torch.from_numpy(where)[has]).abs().amax(1)
    assert apart.median() < 3 and (apart < 6).float().mean() > 0.9


@pytest.mark.parametrize("kept", [9, 6, 3])
def test_maps_change_when_upper_layers_are_randomised(kept):
    """Adebayo 2018: cascading randomisation from the classifier down."""
    images, labels, _ = planted(64, seed=2)
    has = labels == 1
    heat = grad_cam(finder(), images[has], labels[has])
    correlations = []
    for seed in range(5):
        random = copy.deepcopy(finder())
        torch.manual_seed(seed)
        for module in [*random[0][kept:], random[3]]:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        other = grad_cam(random, images[has], labels[has])
        pairs = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in
                 zip(heat.numpy(), other.numpy(), strict=True) if b.std() > 0]
        correlations.append(float(np.mean(pairs)) if pairs else 0.0)
    assert np.mean(correlations) < 0.7


def test_maps_don_t_change_when_nothing_is_randomised():
    images, labels, _ = planted(8, seed=2)
    same = copy.deepcopy(finder())
    assert torch.equal(grad_cam(finder(), images, labels), grad_cam(same, images, labels))
