import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from finetune.errors import FinetuneError, Interrupted
from finetune.training.loop import LoopState, Pass, TrainingSettings, set_rates, train
from finetune.training.schedules import Course, ScheduleSettings

CONSTANT = ScheduleSettings(Course.constant, warmup_fraction=0.0)


def plan_of(depths, lr=None, phase=0):
    return SimpleNamespace(depths=frozenset(depths), lr=lr, phase=phase)


def batches(count=4, size=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count * size, 3, generator=generator)
    labels = (images.sum(1) > 0).long()
    return [(images[i:i + size], labels[i:i + size], torch.arange(i, i + size))
            for i in range(0, count * size, size)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def optimizer_of(model, lr=0.1):
    groups = [{"params": model[0].parameters(), "lr": lr, "base_lr": lr, "depth": 0, "name": "a"},
              {"params": model[2].parameters(), "lr": lr, "base_lr": lr, "depth": 1, "name": "b"}]
    return torch.optim.SGD(groups)


def run(model, loader=None, *, optimizer=None, plan=lambda h: plan_of({0, 1}), state=None,
        criterion=None, evaluate=dict, **options):
    settings = {k: options.pop(k) for k in ("epochs", "accumulation_steps", "max_grad_norm",
                                            "schedule", "seed", "batch_size")
                if k in options}
    settings = {"epochs": 2, "seed": 0, "lr": 0.1, "schedule": CONSTANT} | settings
    way = Pass(loader or batches(), model, lambda x: x)
    return train(model, optimizer=optimizer or optimizer_of(model),
                 criterion=criterion or nn.CrossEntropyLoss(), plan=plan,
                 begin=lambda plan, epoch: model.train() and way, evaluate=evaluate,
                 settings=TrainingSettings(**settings), state=state or LoopState(), **options)


def test_the_loop_equals_a_plain_torch_loop():
    ours, plain = network(), network()
    losses = [r.train_loss for r in run(ours, epochs=3)]
    optimizer, expected = torch.optim.SGD(plain.parameters(), lr=0.1), []
    for _ in range(3):
        seen = []
        for images, labels, _ in batches():
            loss = nn.functional.cross_entropy(plain(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
        expected.append(float(torch.stack(seen).mean()))
    assert losses == expected
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(),
                                                 strict=True))


def test_accumulated_batches_equal_one_large_batch():
    small, large = network(), network()
    list(run(small, batches(4, 4), epochs=1, accumulation_steps=4))
    list(run(large, batches(1, 16), epochs=1))
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_a_short_last_accumulation_weighs_its_batches_alike():
    model, state = network(), LoopState()
    list(run(model, batches(3, 4), epochs=1, accumulation_steps=2, state=state))
    assert state.step == 2


def test_clipping_bounds_the_step():
    model = network()
    before = copy.deepcopy(model.state_dict())
    list(run(model, batches(1, 4), epochs=1, max_grad_norm=1e-3))
    moved = sum((model.state_dict()[k] - v).square().sum() for k, v in before.items())
    assert math.sqrt(moved) <= 0.1 * 1e-3 * 1.001


def test_a_loss_that_is_not_finite_stops_with_the_names_and_before_the_step():
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FinetuneError, match=r"epoch 1.*p0, p1, p2, p3"):
        list(run(model, criterion=lambda logits, t: logits.sum() * float("nan"),
                 name_samples=lambda i: [f"p{n}" for n in i.tolist()]))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_of_accumulated_batches_the_one_that_is_not_finite_is_named():
    loader = batches(5, 4)
    loader[3][0][:] = float("inf")
    with pytest.raises(FinetuneError, match=r"batch of 12, 13, 14, 15\."):
        list(run(network(), loader, accumulation_steps=3,
                 name_samples=lambda i: [str(n) for n in i.tolist()]))


def test_a_stop_finishes_the_step_and_leaves_the_epoch_out_of_the_history():
    state = LoopState()
    with pytest.raises(Interrupted, match="epoch 1"):
        list(run(network(), state=state, stop=lambda: True))
    assert state.step == 1 and state.history == []


def test_going_on_from_an_epoch_equals_not_having_stopped():
    def noisy(images, targets):
        return images + torch.randn_like(images), targets

    whole = network()
    list(run(whole, epochs=4, mix=noisy))
    first, state = network(), LoopState()
    optimizer = optimizer_of(first)
    for result in run(first, epochs=4, mix=noisy, state=state, optimizer=optimizer):
        if result.epoch == 2:
            break
    torch.manual_seed(999)
    list(run(first, epochs=4, mix=noisy, state=state, optimizer=optimizer))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), first.parameters(),
                                                 strict=True))


def test_epochs_draw_differently():
    seen = []

    def remember(images, targets):
        seen.append(torch.rand(1).item())
        return images, targets

    list(run(network(), epochs=3, mix=remember))
    assert len(set(seen)) == len(seen)


def test_history_tells_what_was_opened_and_the_rates():
    results = list(run(network(), plan=lambda h: plan_of({1} if not h else {0, 1}), epochs=3))
    assert [r.opened for r in results] == [[1], [0], []]
    assert [set(r.lr) for r in results] == [{"b"}, {"a", "b"}, {"a", "b"}]


def rates_at(step, *, state, plan=None, settings=None):
    model = network()
    optimizer = optimizer_of(model)
    state.step = step
    set_rates(optimizer, plan or plan_of({0, 1}), settings, state, per_epoch=10)
    return [g["lr"] for g in optimizer.param_groups]


def test_a_depth_that_opens_later_warms_up_on_its_own():
    settings = TrainingSettings(epochs=10, seed=0, lr=0.1,
                                schedule=ScheduleSettings(Course.constant, warmup_fraction=0.1))
    state = LoopState(opened_at={1: 0, 0: 50})
    assert rates_at(50, state=state, settings=settings) == pytest.approx([0.01, 0.1])
    assert rates_at(59, state=state, settings=settings) == pytest.approx([0.1, 0.1])


def test_restart_begins_the_schedule_anew_at_a_phase():
    schedule = ScheduleSettings(Course.cosine, warmup_fraction=0.0, restart=True)
    through = ScheduleSettings(Course.cosine, warmup_fraction=0.0)
    state = LoopState(opened_at={1: 0, 0: 50}, phase=1, phase_start=50)
    made = TrainingSettings(epochs=10, seed=0, lr=0.1, schedule=schedule)
    assert rates_at(50, state=state, settings=made) == pytest.approx([0.1, 0.1])
    made = TrainingSettings(epochs=10, seed=0, lr=0.1, schedule=through)
    assert rates_at(50, state=state, settings=made)[1] < 0.06


def test_a_phase_brings_its_own_rate():
    settings = TrainingSettings(epochs=10, seed=0, lr=0.1, schedule=CONSTANT)
    rates = rates_at(0, state=LoopState(), plan=plan_of({0, 1}, lr=0.05), settings=settings)
    assert rates == pytest.approx([0.05, 0.05])


class Large(nn.Module):
    """Has room for so many pictures."""

    def __init__(self, room):
        super().__init__()
        self.layer, self.room = nn.Linear(3, 2), room

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.layer(x)


@pytest.mark.parametrize(("room", "told"), [
    (4, r"batch of 8 .*data\.batch_size=4 training\.accumulation_steps=6"),
    (3, r"batch of 8 .*data\.batch_size=2 training\.accumulation_steps=12"),
    (1, r"batch of 8 .*Nor does a batch of 2 fit: training\.grad_checkpointing=true")])
def test_too_little_memory_names_the_same_training_in_a_batch_that_fits(room, told):
    model = Large(room)
    optimizer = torch.optim.SGD([{"params": model.parameters(), "lr": 0.1, "base_lr": 0.1,
                                  "depth": 0, "name": "a"}])
    with pytest.raises(FinetuneError, match=told):
        list(run(model, batches(size=8), optimizer=optimizer, accumulation_steps=3, batch_size=8))
