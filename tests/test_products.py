"""Convolutions as products are convolutions."""

import copy

import pytest
import torch
from torch import nn

from finetune.training.products import use_products

SHAPES = [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (5, 2, 2), (3, 1, 0), (7, 3, 2)]


def both(size, stride, padding, *, bias=True, inputs=64, outputs=80):
    torch.manual_seed(0)
    plain = nn.Conv2d(inputs, outputs, size, stride, padding, bias=bias)
    product = copy.deepcopy(plain)
    use_products(product, True)
    return plain, product


def images(side=9, kind=torch.float32, layout=torch.channels_last, inputs=64):
    generator = torch.Generator().manual_seed(1)
    made = torch.randn(1, inputs, side, side + 1, generator=generator).to(kind)
    return made.contiguous(memory_format=layout).requires_grad_()


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    monkeypatch.setattr("finetune.training.products._WORTH",
                        {torch.float32: 0, torch.bfloat16: 0, torch.float64: 0})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_library(shape, layout, bias):
    found = []
    for module in both(*shape, bias=bias):
        module, x = module.double().to(memory_format=layout), images(9, torch.float64, layout)
        y = module(x)
        y.square().sum().backward()
        found.append([y, x.grad, *(p.grad for p in module.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_under_autocast_it_computes_and_answers_in_bf16():
    plain, product = both(3, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = plain(images()), product(images())
    assert found.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("worth", "taken"), [(500, True), (520, False)])
def test_only_few_pixels_for_many_weights_become_a_product(monkeypatch, worth, taken):
    monkeypatch.setattr("finetune.training.products._WORTH", {torch.float32: worth})
    _, product = both(3, 1, 1)
    assert product.weight.numel() / (9 * 10) == 512
    asked, own = [], type(product)._patches
    monkeypatch.setattr(type(product), "_patches",
                        lambda *given: asked.append(True) or own(*given))
    product(images(9))
    assert bool(asked) is taken


def test_what_is_not_plain_is_left_alone_and_all_can_be_taken_back():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2),
                          nn.Conv2d(4, 4, 3, padding="same"),
                          nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
                          nn.Conv2d(4, 4, 3))
    names = list(model.state_dict())
    use_products(model, True)
    changed = [type(m) is not nn.Conv2d for m in model]
    assert changed == [False] * 4 + [True] and list(model.state_dict()) == names
    use_products(model, False)
    assert all(type(m) is nn.Conv2d for m in model)
