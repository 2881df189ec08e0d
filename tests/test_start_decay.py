"""Decay towards the starting weights: the formula, and what runs make of it."""

import copy

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from test_resume import killed_at

from finetune.composition import compose
from finetune.errors import CheckError, ConfigurationError
from finetune.method import build_optimizer
from finetune.models.depths import layer_depths
from finetune.models.parameters import split_parameter_groups
from finetune.run import fit, resume
from finetune.run_directory import RunDirectory
from finetune.training.start_decay import decay_towards_start, starts_by_group

CPU = torch.device("cpu")


def network(kind=torch.float32):
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=3).to(kind)


def moved(model, shift=0.1):
    """The model's starting tensors; its weights are somewhere else afterwards."""
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(shift * torch.randn_like(parameter))
    return start


def method_of(model, start, name, *, weight_decay=0.3, start_decay=0.7, lr=0.01):
    groups = split_parameter_groups(model, lr=lr, weight_decay=weight_decay, layer_decay=0.5,
                                    start_decay=start_decay)
    optimizer = build_optimizer(name, groups, lr, CPU)
    starts = starts_by_group([g.parameter_names for g in groups], optimizer.param_groups, start)
    return groups, optimizer, starts


def loss_of(model):
    torch.manual_seed(2)
    kind = next(model.parameters()).dtype
    return model.eval()(torch.randn(4, 3, 32, 32, dtype=kind)).square().mean()


def one_step(model, optimizer, starts):
    loss_of(model).backward()
    decay_towards_start(optimizer.param_groups, starts)
    optimizer.step()


def assert_close(left, right):
    for (name, a), b in zip(left.named_parameters(), right.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9), name


def test_what_decays_is_pulled_to_its_start_and_the_classifier_to_zero():
    model = network()
    groups, optimizer, _ = method_of(model, moved(model), "adamw")
    top = max(layer_depths(model).values())
    for group, torchs in zip(groups, optimizer.param_groups, strict=True):
        matrices = all(p.ndim > 1 for p in group.parameters)
        below = group.depth < top
        assert torchs.get("start_decay") == (0.7 if matrices and below else None)
        assert torchs["weight_decay"] == (0.3 if matrices and not below else 0.0)


def test_a_step_of_sgd_follows_the_gradient_of_the_papers_penalty():
    ours = network(torch.float64)
    start = moved(ours)
    theirs = copy.deepcopy(ours)
    groups, optimizer, starts = method_of(ours, start, "sgd")
    for group in optimizer.param_groups:
        group["momentum"], group["nesterov"] = 0.0, False
    one_step(ours, optimizer, starts)

    penalty = torch.zeros(())
    for group in groups:
        for name in group.parameter_names:
            weight = theirs.get_parameter(name)
            if group.towards_start:
                penalty = penalty + 0.7 / 2 * (weight - start[name]).square().sum()
            elif weight.ndim > 1:
                penalty = penalty + 0.3 / 2 * weight.square().sum()
    (loss_of(theirs) + penalty).backward()
    rates = {name: group.lr for group in groups for name in group.parameter_names}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter -= rates[name] * parameter.grad
    assert_close(ours, theirs)


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_of_adamw_are_those_written_by_hand(steps):
    ours = network(torch.float64)
    start = moved(ours)
    theirs = copy.deepcopy(ours)
    groups, optimizer, starts = method_of(ours, start, "adamw")
    first = {name: torch.zeros_like(p) for name, p in theirs.named_parameters()}
    second = copy.deepcopy(first)
    for step in range(1, steps + 1):
        one_step(ours, optimizer, starts)
        optimizer.zero_grad(set_to_none=True)
        theirs.zero_grad()
        loss_of(theirs).backward()
        with torch.no_grad():
            for group in groups:
                for name in group.parameter_names:
                    weight = theirs.get_parameter(name)
                    gradient = weight.grad
                    target = start[name] if group.towards_start else 0.0
                    weight += group.lr * group.weight_decay * (target - weight)
                    first[name] = 0.9 * first[name] + 0.1 * gradient
                    second[name] = 0.999 * second[name] + 0.001 * gradient ** 2
                    mean, square = (first[name] / (1 - 0.9 ** step),
                                    second[name] / (1 - 0.999 ** step))
                    weight -= group.lr * mean / (square.sqrt() + 1e-8)
    assert_close(ours, theirs)


def test_towards_a_start_of_zeros_it_is_adamws_own_decay():
    ours = network(torch.float64)
    moved(ours)
    theirs = copy.deepcopy(ours)
    zeros = {name: torch.zeros_like(t) for name, t in ours.state_dict().items()}
    _, optimizer, starts = method_of(ours, zeros, "adamw", weight_decay=0.7)
    one_step(ours, optimizer, starts)
    _, plain, none = method_of(theirs, zeros, "adamw", weight_decay=0.7, start_decay=None)
    assert not any(none)
    one_step(theirs, plain, none)
    assert_close(ours, theirs)


def test_frozen_parameters_stay_and_starts_are_copies():
    model = network()
    start = moved(model)
    _, optimizer, starts = method_of(model, start, "adamw")
    where = layer_depths(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(where[name] >= 3)
    before = copy.deepcopy(model.state_dict())
    one_step(model, optimizer, starts)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (where[name] < 3), name
    assert all(tensor.data_ptr() != start[name].data_ptr() for own in starts for tensor in own
               for name in start)


# ---- runs

@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Pictures of three classes, and weights to start from."""
    folder, random = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = random.integers(0, 120, (60, 32, 32, 3)) + labels[:, None, None, None] * 60
    np.savez(folder / "some.npz", images=images.astype(np.uint8), labels=labels)
    torch.save(network().state_dict(), folder / "start.pth")
    return folder


def words(given, output, *more):
    return [f"data.root={given / 'some.npz'}", f"model.weights={given / 'start.pth'}",
            f"output_dir={output}", "model.name=resnet10t", "data.image_size=32",
            "data.batch_size=8", "data.workers=0", "training.epochs=2", "tracking.mode=disabled",
            "device=cpu", "optimizer.lr=0.01", *more]


@pytest.fixture
def train(given, tmp_path, without_pages):
    return lambda *more: fit(compose(words(given, tmp_path, *more)).config)


def distance(run, given):
    """From the starting weights, by whether the tensor decays towards them."""
    start = torch.load(given / "start.pth", weights_only=True)
    end = load_file(run.best_weights)
    names = [n for n, t in end.items() if t.ndim > 1 and not n.startswith("fc.")]
    return sum(float((end[n] - start[n]).square().sum()) for n in names) ** 0.5


START = ["optimizer.decay_towards=start", "optimizer.start_decay=20"]


@pytest.mark.parametrize("more", [
    [], ["training.ema_decay=0.5", "training.precision=bf16"],
    ["freezing.policy=gradual", "optimizer.name=sgd", "training.select_metric=log_loss",
     "optimizer.lr=0.05", "training.epochs=4"]], ids=["", "ema bf16", "gradual sgd"])
def test_weights_stay_nearer_to_where_they_came_from(more, train, given):
    assert distance(train(*START, *more), given) < 0.8 * distance(train(*more), given)


def test_frozen_depths_do_not_move_in_a_run(train, given):
    run = train(*START, "freezing.policy=below", "freezing.below=layer4")
    start, end = torch.load(given / "start.pth", weights_only=True), load_file(run.best_weights)
    assert torch.equal(start["layer3.0.conv1.weight"], end["layer3.0.conv1.weight"])
    assert not torch.equal(start["layer4.0.conv1.weight"], end["layer4.0.conv1.weight"])


def test_a_run_without_it_keeps_no_starting_weights(train):
    assert not train().start_weights.exists()


def test_other_starting_weights_are_refused_when_it_goes_on(given, tmp_path, without_pages,
                                                            monkeypatch):
    killed_at(monkeypatch, 7, compose(words(given, tmp_path, *START)).config)
    run = RunDirectory(next(tmp_path.glob("*/")))
    content = bytearray(run.start_weights.read_bytes())
    content[-1] ^= 1
    run.start_weights.write_bytes(bytes(content))
    with pytest.raises(CheckError, match=r"start\.safetensors.*SHA-256"):
        resume(run)


@pytest.mark.parametrize(("more", "told"), [
    (["model.weights=null", "optimizer.decay_towards=start"], "model.weights=null"),
    (["optimizer.start_decay=0.1"], "does nothing without optimizer.decay_towards=start"),
    (["optimizer.decay_towards=start", "freezing.policy=head_only"], "head_only"),
    (["optimizer.decay_towards=start", "optimizer.start_decay=-1"], "out of range")])
def test_what_makes_no_sense_is_refused(more, told, given, tmp_path):
    with pytest.raises(ConfigurationError, match=told):
        compose(words(given, tmp_path, *more))
