import json
import math
import random

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from finetune import rate_finder
from finetune.__main__ import main
from finetune.composition import compose
from finetune.config import HeadFitting
from finetune.plan import prepare
from finetune.rate_finder import RateSearch, search_rates
from finetune.training.loop import LoopState, train
from finetune.training.rate_search import (
    SUGGESTERS,
    RateCurve,
    falls,
    minimum_tenth,
    preserved,
    range_test,
    slide,
    steepest,
    suggest_rates,
    valley,
)


def quadratic_step(curvature, share=1.0):
    """SGD on curvature / 2 * x², with a group whose rate is ``share`` of the one that is told."""
    x = nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=1.0)

    def step(rate):
        loss = curvature / 2 * x.square()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate * share
        optimizer.step()
        return float(loss.detach())

    return step


@pytest.mark.parametrize("curvature", [0.5, 20.0])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_quadratic_diverges_from_two_over_its_curvature(curvature, share):
    curve = range_test(quadratic_step(curvature, share), start=1e-3, end=1e3, steps=400,
                       smoothing=0.0, diverged=1e6)
    edge, factor = 2 / curvature / share, curve.rates[1] / curve.rates[0]
    assert curve.diverged
    assert edge < curve.lowest <= edge * factor


def test_rates_grow_by_one_factor_from_the_first_to_the_last():
    seen = []
    curve = range_test(lambda rate: seen.append(rate) or 1.0, start=1e-4, end=10, steps=50)
    assert seen == curve.rates and not curve.diverged
    assert curve.rates == pytest.approx(np.geomspace(1e-4, 10, 50), rel=1e-9)


def test_the_smoothed_loss_is_a_weighted_mean_of_the_past():
    losses = np.random.default_rng(0).normal(3, 0.5, 30)
    given = iter(losses.tolist())
    curve = range_test(lambda rate: next(given), start=1, end=2, steps=30, smoothing=0.9)
    for n in range(30):
        weights = 0.9 ** np.arange(n, -1, -1)
        assert curve.smoothed[n] == pytest.approx(np.average(losses[:n + 1], weights=weights))


def test_how_hard_a_batch_is_leaves_no_trace_in_the_compared_loss():
    random = np.random.default_rng(0)
    hard = random.normal(0, 1, 50)
    falling = np.linspace(3, 2, 50)
    given = iter((falling + hard).tolist())
    curve = range_test(lambda rate: next(given), start=1e-3, end=1, steps=50,
                       reference=(3 + hard).tolist())
    assert np.diff(curve.compared) == pytest.approx(np.diff(falling))
    assert np.mean(curve.compared) == pytest.approx(np.mean(falling + hard.mean()))
    assert curve.losses == pytest.approx((falling + hard).tolist()) and falls(curve)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_test_and_stays_out(bad):
    given = iter([3.0, 2.0, bad, 1.0])
    curve = range_test(lambda rate: next(given), start=1, end=2, steps=4)
    assert curve.losses == [3.0, 2.0] and curve.diverged
    json.dumps(curve.to_dict(), allow_nan=False)


def test_the_test_stops_where_the_smoothed_loss_is_four_times_its_lowest():
    given = iter([1.0, 1.0, 3.9, 4.1, 9.0])
    curve = range_test(lambda rate: next(given), start=1, end=2, steps=5, smoothing=0.0)
    assert curve.losses == [1.0, 1.0, 3.9, 4.1] and curve.diverged


RATES = np.geomspace(1e-6, 1, 121)  # 20 a decade


def curve_of(losses, planned=None):
    listed = [float(loss) for loss in losses]
    return RateCurve(RATES[:len(listed)].tolist(), listed, [0.0] * len(listed), listed,
                     planned or len(listed), False)


def test_suggestions_on_a_loss_of_known_shape():
    position = np.log10(RATES)
    losses = 2 - 1 / (1 + np.exp(-6 * (position + 3.0)))  # falls around 1e-3
    losses = losses + np.maximum(0, position + 1.5) ** 2  # lowest near 10 ** -1.5
    lowest = RATES[losses.argmin()]
    assert minimum_tenth(RATES, losses) == pytest.approx(lowest / 10)
    assert steepest(RATES, losses) == pytest.approx(1e-3, rel=0.13)  # a step of the grid
    fall = losses[:losses.argmin() + 1]
    assert valley(RATES, losses) == pytest.approx(RATES[len(fall) // 2 - 1], rel=0.13)
    assert all(rate < lowest for rate in suggest_rates(curve_of(losses)).values()
               if rate is not None)


def test_a_valley_is_the_longest_not_the_deepest():
    long, deep = np.linspace(1.0, 0.9, 60), np.array([0.95, 0.1, *np.full(59, 2.0)])
    assert valley(RATES, np.concatenate([long, deep])) < RATES[60]


def test_a_slide_stops_where_the_slopes_at_its_ends_are_alike():
    losses = np.concatenate([np.full(80, 1.0), 1 + 0.01 * np.arange(41) ** 2])  # rises from 80 on
    found = slide(RATES, losses)
    assert RATES[60] < found <= RATES[80]
    slopes, place = np.gradient(losses), int(np.searchsorted(RATES, found))
    assert abs(slopes[place + 15] - slopes[place]) > 0.005
    assert abs(slopes[place + 14] - slopes[place - 1]) <= 0.005


@pytest.mark.parametrize("losses", [np.full(121, 1.0), np.linspace(1, 2, 121)])
def test_a_loss_that_does_not_fall_suggests_nothing(losses):
    assert suggest_rates(curve_of(losses)) == dict.fromkeys(SUGGESTERS)
    assert minimum_tenth(RATES, losses) is None and valley(RATES, losses) is None
    assert slide(RATES, losses) is None


def test_chance_alone_is_seldom_taken_for_a_fall():
    found = 0
    for seed in range(200):
        given = iter(np.random.default_rng(seed).normal(2, 0.3, 100).tolist())
        found += falls(range_test(lambda rate, given=given: next(given), start=1, end=2, steps=100))
    assert found <= 20


def test_too_few_steps_before_the_end_suggest_nothing():
    assert suggest_rates(curve_of([2.0, 1.5, 1.0], planned=100)) == dict.fromkeys(SUGGESTERS)
    assert not falls(curve_of([], planned=100))


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(),
                          nn.Linear(4 * 36, 3))
    model.register_buffer("unsaved", torch.zeros(2), persistent=False)
    return model


def train_a_little(model, optimizer, steps=3):
    for _ in range(steps):
        images = torch.randn(8, 3, 8, 8) + random.random() + float(np.random.random())
        nn.functional.cross_entropy(model(images), torch.arange(8) % 3).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.unsaved += 1


def everything(model, optimizer):
    """Bytes of all that a training changes, and draws of every random state."""
    tensors = [*model.parameters(), *model.buffers(),
               *(v for p in model.parameters() for v in optimizer.state[p].values())]
    facts = [t.detach().cpu().numpy().tobytes() for t in tensors]
    facts += [[m.training for m in model.modules()], [p.requires_grad for p in model.parameters()],
              [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()],
              [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]]
    return facts, torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_what_a_search_changes_is_restored_to_the_bit(kind):
    model = network()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01, weight_decay=0.1,
                                           **({"momentum": 0.9} if kind == "SGD" else {}))
    train_a_little(model, optimizer)
    model(torch.randn(2, 3, 8, 8)).sum().backward()  # gradients that wait for a step
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before, generator = everything(model, optimizer), torch.Generator().manual_seed(5)
    drawn = generator.get_state()
    with pytest.raises(KeyError), preserved(model, optimizer, generator):
        model.train().requires_grad_(True)
        optimizer.param_groups[0].update(lr=7.0, new=1)
        train_a_little(model, optimizer)
        torch.randn(3, generator=generator)
        assert everything(model, optimizer)[0] != before[0]
        raise KeyError("also after a failure")
    assert everything(model, optimizer) == before
    assert torch.equal(generator.get_state(), drawn)


def test_a_fresh_optimizer_is_fresh_again():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    with preserved(model, optimizer):
        train_a_little(model, optimizer)
    assert not optimizer.state


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    made = np.random.default_rng(0)
    for number in range(48):
        path = folder / "pictures" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = made.integers(0, 120, (32, 32, 3)) + 60 * (np.arange(3) == number % 3)
        cv2.imwrite(str(path), pixels.astype(np.uint8))
    return [f"data.root={folder / 'pictures'}", f"model.name={__name__}:build_small",
            "model.weights=null", "data.image_size=32", "data.batch_size=8", "data.workers=0",
            "training.epochs=3", "device=cpu",
            "training.precision=fp32", "training.memory_format=contiguous",
            "data.near_duplicates=ignore", "data.transform=none"]


class Small(nn.Module):
    """Six depths that cost nothing."""

    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU())
        for number in range(1, 5):
            layer = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
            setattr(self, f"layer{number}", layer)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


def build_small(num_classes, in_channels):
    return Small(num_classes, in_channels)


def prepared(words, tmp_path):
    return prepare(compose(words).config, tmp_path)


SEARCH = RateSearch(1e-6, 10, 30)


@pytest.mark.parametrize("more", [
    [], ["freezing.policy=gradual", "training.ema_decay=0.9", "training.mixup_alpha=0.2"],
    ["training.precision=bf16", "training.accumulation_steps=2", "optimizer.name=nadamw"]])
def test_a_method_is_as_before_a_search(more, words, tmp_path):
    method = prepared([*words, *more], tmp_path).method
    made = prepared([*words, *more], tmp_path)
    method, sampler = made.method, made.method.loaders["train"].sampler
    method.set_epoch(4)
    before = everything(method.model, method.optimizer), method.average and [
        t.clone() for t in method.average.state_dict().values()]
    search_rates(made, RateSearch(1e-6, 10, 20, by_depth=not more))
    assert everything(method.model, method.optimizer) == before[0]
    assert sampler.epoch == 4
    for old, new in zip(before[1] or [], method.average.state_dict().values() if method.average
                        else [], strict=True):
        assert torch.equal(old, new)


def test_a_search_is_repeatable_and_moves_only_what_trains_first(words, tmp_path):
    made = prepared([*words, "freezing.policy=head_then_all"], tmp_path)
    first, again = search_rates(made, SEARCH), search_rates(made, SEARCH)
    assert first == again
    assert first.depths == [5] and first.epoch == 1 and first.key == "optimizer.lr"


def test_rates_of_depths_grow_at_their_ratio_and_explicit_ones_stay(words, tmp_path, monkeypatch):
    made = prepared([*words, "optimizer.layer_decay=0.5", "optimizer.stage_lrs={layer2:1e-4}"],
                    tmp_path)
    seen = []
    optimizer = made.method.optimizer
    real = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: seen.append(
        {g["depth"]: g["lr"] for g in optimizer.param_groups}) or real())
    found = search_rates(made, SEARCH)
    assert [rates[5] for rates in seen][:len(found.curve.rates)] == pytest.approx(found.curve.rates)
    for rates in seen:
        assert rates[2] == 1e-4
        assert [rates[d] / rates[5] for d in (0, 1, 3, 4)] == pytest.approx(
            [0.5 ** (5 - d) for d in (0, 1, 3, 4)])


def test_rates_follow_the_gradients_where_the_policy_measures_them(words, tmp_path, monkeypatch):
    made = prepared([*words, "freezing.policy=auto_rgn", "optimizer.layer_decay=1"], tmp_path)
    seen, optimizer = [], made.method.optimizer
    real = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: seen.append(
        {g["depth"]: g["lr"] for g in optimizer.param_groups}) or real())
    search_rates(made, SEARCH)
    method = made.method
    method.set_epoch(0)
    epoch = next(train(
        method.model, optimizer=optimizer, criterion=method.criterion, plan=method.plan,
        settings=method.settings, state=LoopState(), evaluate=lambda: {},
        begin=lambda plan, epoch: rate_finder._begin(made, plan, epoch, HeadFitting.sgd)))
    shares = list(epoch.gradient_shares.values())
    assert min(shares) < 0.9 and max(shares) == 1
    for rates in seen[:20]:
        assert [rate / max(rates.values()) for rate in rates.values()] == pytest.approx(shares)


def test_a_search_pulls_towards_the_start_before_each_step(words, tmp_path, monkeypatch):
    """As the training does with optimizer.decay_towards=start."""
    made, seen = prepared([*words, "freezing.policy=none"], tmp_path), []
    weights = {name: p.detach().clone() for name, p in made.method.model.named_parameters()}

    def watching(method, start):
        assert all(torch.equal(start[name], tensor) for name, tensor in weights.items())
        return lambda: seen.append((method.optimizer.param_groups[-1]["lr"],
                                    method.model.fc.weight.grad is not None))

    monkeypatch.setattr(rate_finder, "pull_towards", watching)
    curve = search_rates(made, SEARCH).curve
    assert [rate for rate, _ in seen] == pytest.approx(curve.rates)
    assert all(is_there for _, is_there in seen)


def test_a_phase_with_a_rate_of_its_own_is_what_is_found(words, tmp_path):
    made = prepared([*words, "freezing.policy=phases",
                     "freezing.phases=[{epochs:1,depths:head,lr:0.1},{epochs:2}]"], tmp_path)
    assert search_rates(made, SEARCH).key == "freezing.phases[0].lr"


def test_a_classifier_that_is_fitted_at_once_is_fitted_first(words, tmp_path):
    made = prepared([*words, "freezing.policy=head_then_all", "training.head_fit=exact"], tmp_path)
    found = search_rates(made, SEARCH)
    assert found.epoch == 2 and found.depths == [0, 1, 2, 3, 4, 5]


def test_by_depth_searches_every_depth_that_ever_trains_alone(words, tmp_path):
    made = prepared([*words, "freezing.policy=below", "freezing.below=layer3"], tmp_path)
    found = search_rates(made, RateSearch(1e-6, 10, 20, by_depth=True)).by_depth
    assert [d.depth for d in found] == [3, 4, 5] and found[-1].configured_share == 1
    assert found[0].configured_share == pytest.approx(0.75 ** 2)
    assert found[0].curve.losses[0] < found[-1].curve.losses[0]  # the classifier is trained by then


@pytest.mark.parametrize(("more", "told"), [
    (["--from", "1", "--to", "0.1"], "--from 1 --to 0.1"), (["--steps", "5"], "--steps 5"),
    (["--steps", "x"], "--steps"), (["optimizer.lrr=1"], "optimizer.lr"),
    (["training.head_fit=exact", "freezing.policy=head_only"], "no rate to find"),
    (["freezing.policy=head_only", "optimizer.stage_lrs={head:0.1}"], "stage_lrs")])
def test_bad_input_is_told_and_nothing_written(more, told, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lr-find", *words, *more]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_figure_and_numbers_and_a_word_to_paste(words, tmp_path, monkeypatch,
                                                                     capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lr-find", *words, "--steps", "60", "optimizer.name=sgd"]) == 0
    written = sorted(p.name for p in tmp_path.glob("lr-find/*/*"))
    assert written == ["lr_find.json", "lr_find.png"]
    found = json.loads(next(tmp_path.glob("lr-find/run-*/lr_find.json")).read_text())
    assert found["suggestion"].startswith("optimizer.lr=")
    assert f"suggestion: {found['suggestion']}\n" in capsys.readouterr().out
    compose([*words, found["suggestion"]])  # it can be pasted
    assert [p.name for p in tmp_path.iterdir()] == ["lr-find"]


def test_a_rehearsal_says_what_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lr-find", "recipe=medical", "--steps", "20", "--output", "here"]) == 0
    assert "REHEARSAL" in capsys.readouterr().out
    assert json.loads((tmp_path / "here" / "lr_find.json").read_text())["rehearsal"]
    assert main(["lr-find", "recipe=medical", "--output", "here"]) == 2
