"""Auto-RGN: the measure, and the rates that follow from it."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_loop import batches, network, optimizer_of, plan_of
from torch import nn

from finetune.composition import compose
from finetune.run import fit
from finetune.training.gradient_norms import MEASURED, rate_shares, relative_gradient_norms
from finetune.training.loop import LoopState, Pass, TrainingSettings, train
from finetune.training.schedules import Course, ScheduleSettings


def ratios(model, images, labels):
    """Norm of gradient over norm of weights of both depths, by autograd and NumPy alone."""
    parts = [list(model[0].parameters()), list(model[2].parameters())]
    loss = nn.functional.cross_entropy(model(images), labels)
    found = []
    for own in parts:
        gradients = torch.autograd.grad(loss, own, retain_graph=True)
        flat = [np.concatenate([t.detach().numpy().ravel() for t in each])
                for each in (gradients, own)]
        found.append(np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]))
    return found


def test_the_norm_of_a_depth_is_of_all_its_parameters_together():
    model = network()
    optimizer = optimizer_of(model)
    images, labels, _ = batches()[0]
    nn.functional.cross_entropy(model(images), labels).backward()
    assert list(relative_gradient_norms(optimizer.param_groups).values()) == pytest.approx(
        ratios(model, images, labels), rel=1e-5)


def test_two_groups_of_a_depth_are_one_and_frozen_ones_are_left_out():
    a, b, c = (nn.Parameter(torch.tensor([x])) for x in (3.0, 4.0, 1.0))
    a.grad, b.grad = torch.tensor([6.0]), torch.tensor([8.0])
    groups = [{"params": [a], "depth": 1}, {"params": [b], "depth": 1},
              {"params": [c], "depth": 0}]
    assert relative_gradient_norms(groups) == {1: pytest.approx(2.0)}


def test_weights_of_zeros_neither_divide_nor_rule_the_others():
    zero = nn.Parameter(torch.zeros(2))
    zero.grad = torch.ones(2)
    found = relative_gradient_norms([{"params": [zero], "depth": 0}])
    assert found == {0: math.inf}
    assert rate_shares([found | {1: 0.5, 2: 1.0}]) == {0: 1.0, 1: 0.5, 2: 1.0}
    assert rate_shares([{0: 0.0, 1: 0.0}]) == {0: 1.0, 1: 1.0}


def trained(model, loader, *, state=None, epochs=1, optimizer=None):
    settings = TrainingSettings(epochs=epochs, seed=0, lr=0.1,
                                schedule=ScheduleSettings(Course.constant, warmup_fraction=0.0))
    way = Pass(loader, model, lambda x: x, by_gradient=True)
    return train(model, optimizer=optimizer or optimizer_of(model),
                 criterion=nn.CrossEntropyLoss(), plan=lambda history: plan_of({0, 1}),
                 begin=lambda plan, epoch: model.train() and way, evaluate=dict,
                 settings=settings, state=state or LoopState())


def test_rates_are_the_base_rates_times_the_measured_shares():
    model = network()
    loader = batches(count=7)
    seen = np.mean([ratios(model, images, labels) for images, labels, _ in loader[:MEASURED]], 0)
    (result,) = trained(model, loader)
    shares = seen / seen.max()
    assert list(result.gradient_shares.values()) == pytest.approx(shares, rel=1e-5)
    assert list(result.lr.values()) == pytest.approx(0.1 * shares, rel=1e-5)
    assert max(result.gradient_shares.values()) == 1.0 > min(result.gradient_shares.values())


def test_the_epoch_equals_a_plain_loop_with_these_rates():
    ours, plain = network(), network()
    (result,) = trained(ours, batches())
    rates = list(result.lr.values())
    optimizer = torch.optim.SGD([{"params": plain[0].parameters(), "lr": rates[0]},
                                 {"params": plain[2].parameters(), "lr": rates[1]}])
    for images, labels, _ in batches():
        nn.functional.cross_entropy(plain(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_measuring_leaves_running_statistics_as_they_were():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    next(iter(trained(model, batches(count=3))))
    assert int(model[1].num_batches_tracked) == 3  # the training's own batches alone


def test_each_epoch_measures_anew_and_a_resumed_one_the_same():
    whole, state = network(), LoopState()
    results = list(trained(whole, batches(), state=state, epochs=3))
    measured = [r.gradient_shares for r in results]
    assert all(a != b for a, b in pairwise(measured))
    again, half = network(), LoopState()
    optimizer = optimizer_of(again)
    for result in trained(again, batches(), state=half, epochs=3, optimizer=optimizer):
        if result.epoch == 2:
            break
    rest = list(trained(again, batches(), state=half, epochs=3, optimizer=optimizer))
    assert [r.gradient_shares for r in rest] == measured[2:]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(),
                                                 strict=True))


@pytest.mark.usefixtures("without_pages")
def test_a_run_keeps_each_depths_share_and_rate_in_its_history(tmp_path):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "some.npz", labels=np.arange(30) % 3,
             images=random.integers(0, 255, (30, 32, 32, 3)).astype(np.uint8))
    words = [f"data.root={tmp_path / 'some.npz'}", f"output_dir={tmp_path / 'runs'}",
             "model.name=resnet10t", "model.weights=null", "data.image_size=32",
             "data.batch_size=8", "data.workers=0", "training.epochs=1", "tracking.mode=disabled",
             "device=cpu", "schedule.name=constant", "schedule.warmup_fraction=0"]
    run = fit(compose([*words, "freezing.policy=auto_rgn"]).config)
    plain = fit(compose(words).config)
    (entry,), (other,) = run.history, plain.history
    assert len(entry["gradient_shares"]) == 6 and other["gradient_shares"] is None
    for name, share in entry["gradient_shares"].items():
        assert entry["lr"][name] == pytest.approx(other["lr"][name] * share)
