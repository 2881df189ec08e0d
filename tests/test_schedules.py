import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, StepLR

from finetune.training.schedules import Course, ScheduleSettings, lr_multiplier


def course(name, total=20, **options):
    settings = ScheduleSettings(Course(name), **options)
    return [lr_multiplier(s, total=total, settings=settings) for s in range(total)]


def torch_course(kind, total=20, **options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    schedule, rates = kind(optimizer, **options), []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < total:  # OneCycleLR refuses a step too many
            schedule.step()
    return rates


def test_cosine_agrees_with_torch():
    assert course("cosine", warmup_fraction=0, final_fraction=0.1) == pytest.approx(
        torch_course(CosineAnnealingLR, T_max=20, eta_min=0.1))


def test_linear_agrees_with_torch():
    assert course("linear", warmup_fraction=0, final_fraction=0.1) == pytest.approx(
        torch_course(LinearLR, start_factor=1.0, end_factor=0.1, total_iters=20))


@pytest.mark.parametrize("total", [4, 10, 37, 101])
def test_one_cycle_agrees_with_torch(total):
    assert course("one_cycle", total=total, final_fraction=0.01) == pytest.approx(
        torch_course(OneCycleLR, total=total, max_lr=1.0, total_steps=total, pct_start=0.3,
                     div_factor=25, final_div_factor=4))


@pytest.mark.parametrize(("total", "count"), [(20, 3), (49, 6), (7, 0), (120, 5)])
def test_step_agrees_with_torch(total, count):
    assert course("step", total=total, warmup_fraction=0, step_count=count) == pytest.approx(
        torch_course(StepLR, total=total, step_size=total // (count + 1), gamma=0.1))


@pytest.mark.parametrize("name", ["cosine", "linear", "step", "constant"])
def test_warmup_rises_to_the_full_rate(name):
    rates = course(name, warmup_fraction=0.25)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_step_drops_as_often_as_asked():
    rates = course("step", warmup_fraction=0, step_count=3, step_factor=0.1)
    assert sorted({round(r, 6) for r in rates}, reverse=True) == [1.0, 0.1, 0.01, 0.001]


@pytest.mark.parametrize("name", list(Course))
def test_a_single_step_has_a_rate(name):
    assert 0 < course(name, total=1)[0] <= 1
