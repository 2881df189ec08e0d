"""Interpolation between the starting and the chosen weights, and the choice on validation."""

import copy
import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from test_resume import Killed, assert_same
from torch.optim.swa_utils import update_bn

from finetune import run as run_module
from finetune import wise_ft
from finetune.composition import compose
from finetune.errors import ConfigurationError
from finetune.models.interpolation import interpolate_states, recompute_norm_statistics
from finetune.run import evaluate, fit, resume
from finetune.run_directory import RunDirectory
from finetune.training.checkpoints import read_metadata
from finetune.verifying import verify


def network(seed, **more):
    torch.manual_seed(seed)
    return timm.create_model("resnet10t", num_classes=3, zero_init_last=False, **more)


def test_the_ends_are_exact_and_counters_are_the_chosen_ones():
    start, end = network(0).state_dict(), network(1).state_dict()
    end["bn1.num_batches_tracked"] += 5
    kept = interpolate_states({n: t for n, t in start.items() if not n.startswith("fc.")}, end, 0)
    for name, tensor in kept.items():
        is_end = name.startswith("fc.") or name.endswith("num_batches_tracked")
        assert torch.equal(tensor, (end if is_end else start)[name]), name
    assert all(torch.equal(t, end[n]) for n, t in interpolate_states(start, end, 1).items())
    middle = interpolate_states(start, end, 0.3)["layer1.0.conv1.weight"]
    expected = (0.7 * start["layer1.0.conv1.weight"] + 0.3 * end["layer1.0.conv1.weight"])
    assert torch.allclose(middle, expected, atol=1e-7)


def test_what_is_frozen_in_training_is_the_same_in_every_candidate():
    start = network(0).state_dict()
    end = {n: t if n.startswith("layer1") else t + 1 for n, t in start.items()}
    for coefficient in (0.1, 0.5, 0.9):
        mixed = interpolate_states(start, end, coefficient)
        assert all(torch.equal(mixed[n], start[n]) for n in start if n.startswith("layer1"))


def test_norm_statistics_are_those_of_torchs_update_bn_and_dropout_is_off():
    ours, torchs = network(0, drop_rate=0.9, drop_path_rate=0.9), network(0)
    torchs.load_state_dict(ours.state_dict())
    batches = list(torch.randn(3, 6, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    momentum = ours.bn1.momentum
    recompute_norm_statistics(ours, [*batches, torch.randn(1, 3, 32, 32)])
    update_bn(batches, torchs)
    for name, buffer in torchs.named_buffers():
        assert torch.allclose(ours.get_buffer(name).float(), buffer.float(), atol=1e-5), name
    assert ours.bn1.momentum == momentum and not any(m.training for m in ours.modules())


# ---- runs

@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Pictures of three classes, and weights to start from."""
    folder, random = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = random.integers(0, 200, (60, 32, 32, 3)) + labels[:, None, None, None] * 25
    np.savez(folder / "some.npz", images=images.astype(np.uint8), labels=labels)
    torch.save(network(0).state_dict(), folder / "start.pth")
    return folder


def words(given, output, *more):
    return [f"data.root={given / 'some.npz'}", f"model.weights={given / 'start.pth'}",
            f"output_dir={output}", "model.name=resnet10t", "data.image_size=32",
            "data.batch_size=8", "data.workers=0", "training.epochs=2", "tracking.mode=disabled",
            "device=cpu", "training.precision=fp32", "training.wise_ft=2",
            "training.select_metric=log_loss", *more]


@pytest.fixture
def train(given, tmp_path, without_pages):
    return lambda *more: fit(compose(words(given, tmp_path, *more)).config)


@pytest.mark.parametrize("more", [[], ["training.ema_decay=0.5"]], ids=["", "ema"])
def test_the_best_candidate_on_validation_is_kept_and_told(more, train, given):
    run, plain = train(*more), train(*more, "training.wise_ft=null")
    told = run.metrics["wise_ft"]
    assert list(told["val"]) == ["0", "0.5", "1"]
    assert told["val"]["1"] == pytest.approx(plain.metrics["val"]["log_loss"], abs=1e-6)
    assert told["val"][f"{told['coefficient']:g}"] == min(told["val"].values())
    assert run.metrics["val"]["log_loss"] == pytest.approx(min(told["val"].values()), abs=1e-6)
    assert json.loads(read_metadata(run.best_weights)["wise_ft"]) == told
    assert "wise_ft" not in plain.metrics and not plain.start_weights.exists()
    evaluate(run, part="val")  # raises when the stored answers don't come again


def test_weights_lie_between_with_the_trained_classifier(train, given, monkeypatch):
    monkeypatch.setattr(wise_ft, "best_epoch", lambda tried, metric: min(len(tried) - 1, 1))
    end, mixed = load_file(train("training.wise_ft=null").best_weights), train()
    found = load_file(mixed.best_weights)
    start = torch.load(given / "start.pth", weights_only=True)
    name = "layer3.0.conv1.weight"
    assert torch.allclose(found[name], (start[name] + end[name]) / 2, atol=1e-6)
    assert torch.equal(found["fc.weight"], end["fc.weight"])
    assert mixed.metrics["wise_ft"]["coefficient"] == 0.5
    name = "layer3.0.bn1.running_mean"  # fixed in training, computed anew between the ends
    assert torch.equal(end[name], start[name]) and not torch.equal(found[name], start[name])
    verify(mixed)  # raises when answers or metrics of the network between don't come again


def test_an_exact_classifier_is_the_starting_one(train):
    run = train("freezing.policy=head_then_all", "training.head_fit=exact", "optimizer.lr=0.01")
    first = run.history[0]
    assert first["fit"] is not None
    assert run.metrics["wise_ft"]["val"]["0"] == pytest.approx(first["val"]["log_loss"], abs=1e-4)
    assert set(load_file(run.start_classifier)) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("dies_in", ["predict_part", "_measure", "_keep"])
def test_killed_while_interpolating_or_after_it(dies_in, train, given, tmp_path, monkeypatch):
    reference = train()
    owner = wise_ft if dies_in == "predict_part" else run_module
    calls, real = 0, getattr(owner, dies_in)

    def dying(*args, **options):
        nonlocal calls
        calls += 1
        if calls == 2 or dies_in != "predict_part":
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, dies_in, dying)
        with pytest.raises(Killed):
            fit(compose(words(given, tmp_path / "cut")).config)
    assert_same(resume(RunDirectory(next((tmp_path / "cut").glob("*/")))), reference)


@pytest.mark.parametrize(("more", "told"), [
    ("model.weights=null", "wise_ft=2 goes back to weights"),
    ("freezing.policy=head_only", "does nothing with freezing.policy=head_only"),
    ("training.wise_ft=0", "out of range"), ("training.wise_ft=101", "out of range")])
def test_what_makes_no_sense_is_refused(more, told, given, tmp_path):
    with pytest.raises(ConfigurationError, match=told):
        compose(words(given, tmp_path, more))


def test_candidates_share_no_memory_with_the_ends():
    end = network(1).state_dict()
    before = copy.deepcopy(end)
    for tensor in interpolate_states({}, end, 0.5).values():
        tensor.zero_()
    assert all(torch.equal(end[n], before[n]) for n in end)
