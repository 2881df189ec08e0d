"""A choice of arithmetic changes speed, not what is computed; measuring changes nothing."""

import copy
import json
import math

import pytest
import timm
import torch
from torch import nn

from finetune import fastest
from finetune.assembly import cache_folder
from finetune.config import (
    Config,
    FreezingConfig,
    FreezingPolicy,
    HeadFitting,
    MemoryFormat,
    ModelConfig,
    Precision,
    TrainingConfig,
)
from finetune.errors import FinetuneError
from finetune.fastest import settle_arithmetic
from finetune.specs import Dtype, InputSpec, Resize
from finetune.training.arithmetic import Arithmetic, candidates, has_bf16, measure_arithmetic

CPU = torch.device("cpu")
ALL = [Arithmetic(p, f) for p in ("fp32", "bf16", "bf16_mixed")
       for f in ("contiguous", "channels_last")]


def network():
    torch.manual_seed(0)
    return timm.create_model("mobilenetv3_small_050", num_classes=5)


def images(count=4):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("choice", ALL, ids=str)
def test_every_arithmetic_answers_as_float32_does_within_its_digits(choice):
    plain, chosen = network().eval(), choice.apply(network()).eval()
    with torch.no_grad():
        wanted = plain(images())
        with choice.autocast(CPU)():
            found = chosen(choice.lay_out(images())).float()
    within = 1e-4 if choice.precision == "fp32" else 0.05
    assert float((found - wanted).abs().max() / wanted.abs().max()) < within
    assert list(chosen.state_dict()) == list(plain.state_dict())


def test_depthwise_convolutions_stay_in_float32_when_mixed():
    model, seen = Arithmetic("bf16_mixed").apply(network()), {}
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, i, o: seen.setdefault(m.groups > 1, set()).add(o.dtype))
    with Arithmetic("bf16_mixed").autocast(CPU)():
        copy.deepcopy(model)(images())
        model(images())
    assert seen == {True: {torch.float32}, False: {torch.bfloat16}}
    kinds = {type(m) for m in Arithmetic("bf16").apply(model).modules()}
    assert kinds == {type(m) for m in network().modules()}, "it can be taken back"


@pytest.mark.parametrize(("name", "kinds"), [
    ("resnet10t", {"fp32", "bf16"}), ("mobilenetv3_small_050", {"fp32", "bf16", "bf16_mixed"})])
def test_what_there_is_to_choose_from(name, kinds):
    found = candidates(timm.create_model(name), CPU)
    assert {each.precision for each in found} == kinds and found[0].precision == "fp32"
    assert {each.memory_format for each in found} == {"contiguous", "channels_last"}
    assert {e.precision for e in candidates(timm.create_model(name), torch.device("mps"))} == {
        "fp32"}
    assert len(candidates(nn.Linear(2, 2), CPU)) == 2


def test_measuring_leaves_network_and_random_numbers_as_they_were():
    model = network()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    times = measure_arithmetic(model, images(), ALL[:3], rounds=1)
    assert torch.equal(torch.rand(2), expected)
    assert list(times) == ALL[:3] and all(t > 0 for t in times.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# ---- settling it for a run

SPEC = InputSpec((64, 64), 3, ("r", "g", "b"), Dtype.uint8, (0.0, 255.0), (0.5,) * 3, (0.5,) * 3,
                 "bilinear", Resize.squash)


def settled(monkeypatch, *, pictures=100_000, times=None, freezing=None, kinds=None, **training):
    asked, said = [], []
    kinds = [] if kinds is None else kinds

    def measure(model, images, among, rounds=3, trains=True):
        asked.append((list(among), len(images)))
        kinds.append(trains)
        given = times or {"bf16 channels_last": 0.1}
        return {a: given.get(f"{a.precision} {a.memory_format}", 0.2) for a in among}

    monkeypatch.setattr(fastest, "measure_arithmetic", measure)
    config = Config(model=ModelConfig(name="mobilenetv3_small_050"),
                    freezing=freezing or FreezingConfig(), training=TrainingConfig(**training))
    chosen = settle_arithmetic(config, network(), SPEC, pictures=pictures, device=CPU,
                               say=said.append).training
    return (chosen.precision, chosen.memory_format), asked, said


def test_the_fastest_is_taken_said_and_remembered(monkeypatch):
    chosen, asked, said = settled(monkeypatch)
    assert chosen == (Precision.bf16, MemoryFormat.channels_last)
    assert "bf16, channels_last" in said[0] and len(asked) == 3
    again, asked, said = settled(monkeypatch, times={"fp32 contiguous": 0.01})
    assert again == chosen and not asked and "measured before" in said[0]
    other, asked, _ = settled(monkeypatch, memory_format=MemoryFormat.contiguous)
    assert other[1] is MemoryFormat.contiguous and asked


def test_a_network_that_is_only_read_is_measured_reading(monkeypatch):
    kinds: list[bool] = []
    settled(monkeypatch, kinds=kinds)
    assert set(kinds) == {True}
    kinds.clear()
    _, asked, said = settled(monkeypatch, kinds=kinds, epochs=1, head_fit=HeadFitting.exact,
                             freezing=FreezingConfig(policy=FreezingPolicy.head_only))
    assert set(kinds) == {False} and asked and "measured before" not in said[0]


def test_reading_is_measured_without_gradients():
    model, seen = network(), []
    model.register_forward_hook(lambda module, given, out: seen.append(
        (module.training, out.requires_grad)))
    measure_arithmetic(model, images(), ALL[:1], rounds=1, trains=False)
    assert set(seen) == {(False, False)}
    seen.clear()
    measure_arithmetic(model, images(), ALL[:1], rounds=1)
    assert set(seen) == {(True, True)}


def test_float32_gives_way_only_to_what_is_clearly_faster(monkeypatch):
    chosen, _, _ = settled(monkeypatch, times={"bf16 channels_last": 0.195})
    assert chosen == (Precision.fp32, MemoryFormat.channels_last)


def test_what_is_clearly_slower_is_looked_at_once_and_what_is_close_again(monkeypatch):
    _, asked, _ = settled(monkeypatch)
    kinds = [[f"{a.precision} {a.memory_format}" for a in among] for among, _ in asked]
    assert kinds == [["fp32 channels_last"], ["bf16 channels_last", "bf16_mixed channels_last"],
                     ["bf16 contiguous"]]
    monkeypatch.setenv("FINETUNE_CACHE", str(cache_folder() / "other"))
    chosen, asked, _ = settled(monkeypatch, times={"bf16 channels_last": 0.1,
                                                   "bf16 contiguous": 0.09})
    assert chosen == (Precision.bf16, MemoryFormat.contiguous)
    assert [a.memory_format for a in asked[-1][0]] == ["channels_last", "contiguous"]


def test_a_small_network_is_measured_on_more_pictures(monkeypatch):
    _, asked, _ = settled(monkeypatch, pictures=10**7, times={
        f"{p} {f}": 0.004 for p in ("fp32", "bf16", "bf16_mixed")
        for f in ("channels_last", "contiguous")})
    assert [count for _, count in asked] == [8, 32, 32, 32]
    assert asked[1][0][0].precision == "fp32", "measured anew with that many"


def test_a_short_training_is_not_measured(monkeypatch):
    chosen, asked, said = settled(monkeypatch, pictures=10, epochs=1)
    assert chosen == (Precision.fp32, MemoryFormat.channels_last) and not said
    assert [len(among) for among, _ in asked] == [1]


def test_a_fixed_choice_is_kept(monkeypatch):
    chosen, asked, _ = settled(monkeypatch, precision=Precision.bf16_mixed,
                               memory_format=MemoryFormat.contiguous)
    assert chosen == (Precision.bf16_mixed, MemoryFormat.contiguous) and not asked
    assert settled(monkeypatch, precision=Precision.fp32)[0][1] is MemoryFormat.channels_last


@pytest.mark.parametrize("wanted", [Precision.bf16, Precision.bf16_mixed])
def test_bf16_falls_to_float32_where_the_device_has_none(monkeypatch, wanted):
    monkeypatch.setattr(fastest, "has_bf16", lambda device: False)
    chosen, asked, said = settled(monkeypatch, precision=wanted)
    assert chosen == (Precision.fp32, MemoryFormat.channels_last) and not asked
    assert said == [f"arithmetic: cpu has no bf16: training.precision=fp32 instead of {wanted}"]
    assert settled(monkeypatch, precision=Precision.fp32)[2] == []


def test_cuda_before_ampere_and_old_macs_have_no_bf16(monkeypatch):
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **given: asked.update(given))
    assert not has_bf16(torch.device("cuda")) and asked == {"including_emulation": False}
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: version <= (13,))
    assert not has_bf16(torch.device("mps")) and has_bf16(CPU)


def test_what_does_not_fit_the_memory_is_not_chosen(monkeypatch):
    slow = {f"{p} {f}": math.inf for p in ("fp32", "bf16", "bf16_mixed")
            for f in ("contiguous", "channels_last")}
    monkeypatch.setattr(fastest, "SHORT", -1.0)
    chosen, _, _ = settled(monkeypatch, times=slow | {"bf16 contiguous": 0.1})
    assert chosen == (Precision.bf16, MemoryFormat.contiguous)
    with pytest.raises(FinetuneError, match=r"data\.batch_size=auto"):
        settled(monkeypatch, times=slow, memory_format=MemoryFormat.channels_last)


def test_a_step_without_room_takes_forever():
    class Large(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    only = Arithmetic("fp32", "contiguous")
    assert measure_arithmetic(Large(), images(), [only], rounds=1) == {only: math.inf}


@pytest.mark.parametrize("content", ["[1", "[]", json.dumps({"x": 3}), "wrong choice"])
def test_a_damaged_memory_is_measured_anew(monkeypatch, content):
    settled(monkeypatch)
    file = cache_folder() / "arithmetic.json"
    if content == "wrong choice":
        told = json.loads(file.read_text())
        content = json.dumps({k: {"precision": "fp7", "memory_format": "x"} for k in told})
    file.write_text(content)
    chosen, asked, _ = settled(monkeypatch)
    assert chosen == (Precision.bf16, MemoryFormat.channels_last) and asked
