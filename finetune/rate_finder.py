"""``lr-find``: which learning rate a configuration can train at; nothing is kept but curves."""

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.composition import dump_config
from finetune.config import CacheFeatures, Config, HeadFitting
from finetune.console import progress_bar, say, table
from finetune.errors import ConfigurationError, FinetuneError, InputError
from finetune.files import write_json
from finetune.frozen import FrozenPart
from finetune.method import Method
from finetune.models.depths import depth_names, find_depth, layer_depths
from finetune.models.freezing import EpochPlan
from finetune.plan import Prepared, prepare
from finetune.report.rate_curves import write_rate_figure
from finetune.run_directory import RunDirectory
from finetune.session import announce
from finetune.starting import pull_towards
from finetune.training.loop import Pass, batch_loss, measured_shares, seed_epoch, train_step
from finetune.training.rate_search import (
    RateCurve,
    first_suggestion,
    preserved,
    range_test,
    suggest_rates,
)

__all__ = ["DepthRate", "FoundRates", "RateSearch", "find_rates", "search_rates"]

ROWS = 12  # of the printed curve


@dataclass(frozen=True)
class RateSearch:
    """What is searched, and how finely.

    Attributes:
        start: First rate, above 0.
        end: Last rate, above ``start``.
        steps: Training steps of a curve, 20 to 5000.
        by_depth: Whether each depth is searched alone, too.
    """

    start: float = 1e-7
    end: float = 10.0
    steps: int = 100
    by_depth: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.start < self.end < float("inf"):
            raise ConfigurationError(f"--from {self.start:g} --to {self.end:g}: expected two rates "
                                     "above 0, the second one higher")
        if not 20 <= self.steps <= 5000:
            raise ConfigurationError(f"--steps {self.steps}: expected 20 to 5000; 100 is usual")


@dataclass(frozen=True)
class DepthRate:
    """A depth that was searched alone."""

    depth: int
    name: str
    curve: RateCurve
    suggested: dict[str, float | None]
    configured_share: float  # of the classifier's rate

    @property
    def rate(self) -> float | None:
        """The suggestion that is shown."""
        return first_suggestion(self.suggested)


@dataclass(frozen=True)
class FoundRates:
    """The curves of a search, and what is read from them.

    Attributes:
        key: The setting that the rate is a value of.
        epoch: From 1, whose plan was searched: the first that takes steps.
        depths: That trained.
        curve: All rates grown together, told by the classifier's.
        suggested: By each rule.
        by_depth: From the stem up; empty where that wasn't asked for.
    """

    key: str
    epoch: int
    depths: list[int]
    curve: RateCurve
    suggested: dict[str, float | None]
    by_depth: list[DepthRate]

    @property
    def rate(self) -> float | None:
        """The suggestion, with two digits."""
        found = first_suggestion(self.suggested)
        return None if found is None else float(f"{found:.1e}")


def find_rates(config: Config, search: RateSearch, *,
               replaced: dict[str, tuple[Any, Any]] | None = None,
               output: Path | None = None) -> Path:
    """Search, print, and write ``lr_find.json`` and ``lr_find.png``.

    Args:
        config: Checked values.
        search: From where to where, and how finely.
        replaced: In a rehearsal, what it replaced.
        output: A new or empty folder; None: a new one in ``lr-find``.

    Returns:
        The folder.

    Raises:
        InputError: Whatever a run would refuse; no step of the training has a rate.
    """
    if output is not None and output.exists() and (output.is_file() or any(output.iterdir())):
        raise InputError(f"--output {output} exists; choose another folder or remove it first")
    announce(config, replaced)
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        made = prepare(config, Path(folder))
        found = search_rates(made, search)
    _print(found, made.config)
    name = config.recipe if config.recipe != "none" else "run"
    name = name if replaced is None else f"rehearsal-{name}"
    target = output or RunDirectory.create("lr-find", name).path
    write_json(target / "lr_find.json", _plain(found, config, search, replaced is not None))
    write_rate_figure(
        target / "lr_find.png", found.curve, found.suggested,
        depths=[(f"{d.depth} {d.name}", d.curve, d.rate) for d in found.by_depth],
        note="" if replaced is None else "REHEARSAL on generated pictures")
    say(f"wrote {target / 'lr_find.json'} and {target / 'lr_find.png'}")
    return target


def search_rates(made: Prepared, search: RateSearch) -> FoundRates:
    """The range test in the first epoch that takes steps; all is restored afterwards, to the bit.

    All rates grow together, so that the ratio between depths stays. Rates that
    ``optimizer.stage_lrs`` gives stay what they are, as they do when ``optimizer.lr`` is changed.

    With ``by_depth``, each depth that trains in any epoch is then searched with all others frozen:
    what the loss does is this depth's doing. (Were the others trained at their own rates, the loss
    would fall by their steps.) Before the depths below the classifier are searched it is fitted,
    or trained for as many steps at its own rate: a depth meets a classifier that knows something,
    as it does in most of its training.

    Raises:
        ConfigurationError: Every epoch fits the classifier exactly; no rate is changed.
        FinetuneError: The first loss is NaN or infinite.
    """
    method, loader = made.method, made.method.loaders["train"]
    with preserved(method.model, method.optimizer, loader.generator), _same_epoch(loader.sampler):
        plan, epoch = _first_with_steps(made)
        moved = _moved(made, plan, epoch)
        curve = _sweep(made, plan, epoch, search, moved)
        key = "optimizer.lr" if plan.lr is None else f"freezing.phases[{plan.phase}].lr"
        by_depth = list(_each_depth(made, plan, epoch, search)) if search.by_depth else []
        return FoundRates(key, epoch + 1, sorted(plan.depths), curve, suggest_rates(curve),
                          sorted(by_depth, key=lambda found: found.depth))


@contextmanager
def _same_epoch(sampler: Any) -> Iterator[None]:
    before = sampler.epoch
    try:
        yield
    finally:
        sampler.set_epoch(before)


def _first_with_steps(made: Prepared) -> tuple[EpochPlan, int]:
    """The plan of the first epoch that isn't fitted at once; the classifier is, where it is."""
    epochs = made.config.training.epochs
    for epoch in range(epochs):
        plan = made.method.plan([{}] * epoch)
        way = _begin(made, plan, epoch, made.config.training.head_fit)
        if way.solve is None:
            return plan, epoch
        way.solve()
    raise ConfigurationError("training.head_fit=exact fits the classifier at once in every epoch: "
                             "there is no rate to find; it would be one with training.head_fit=sgd "
                             "or a freezing.policy that opens more")


def _begin(made: Prepared, plan: EpochPlan, epoch: int, fitting: HeadFitting) -> Pass:
    """The way of an epoch through the data; nothing is cached or compiled for so few steps."""
    training = dataclasses.replace(made.config.training, cache_features=CacheFeatures.never,
                                   compile=False, head_fit=fitting)
    config = dataclasses.replace(made.config, training=training)
    part = FrozenPart(made.method, config, made.data, made.spec, say=lambda text: None)
    return part.begin(plan, epoch)


Moved = list[tuple[dict[str, Any], float]]  # groups whose rate grows, with their share of it


def _moved(made: Prepared, plan: EpochPlan, epoch: int) -> Moved:
    """The groups that the rate which is searched moves; the others get their own rate.

    A phase's own rate scales what ``optimizer.stage_lrs`` says, ``optimizer.lr`` doesn't. Where the
    policy measures gradients, their shares multiply all rates.
    """
    config, method = made.config, made.method
    names, base = depth_names(layer_depths(method.model)), method.settings.lr
    factors = _gradient_shares(made, plan, epoch)
    fixed = {find_depth(stage, names) for stage in config.optimizer.stage_lrs}
    fixed = set() if plan.lr is not None else fixed
    trained = [group for group in method.optimizer.param_groups if group["depth"] in plan.depths]
    moved = [(group, group["base_lr"] / base * factors.get(group["depth"], 1.0))
             for group in trained if group["depth"] not in fixed]
    if not any(share > 0 for _, share in moved):
        raise ConfigurationError("optimizer.stage_lrs gives the rate of every depth that trains "
                                 "first: optimizer.lr changes nothing there; leave out the stages "
                                 "whose rate is to be found")
    for group in trained:
        group["lr"] = group["base_lr"] * factors.get(group["depth"], 1.0)
    return moved


def _gradient_shares(made: Prepared, plan: EpochPlan, epoch: int) -> dict[int, float]:
    """Of ``freezing.policy=auto_rgn``, as its first epoch measures them."""
    method = made.method
    seed_epoch(method.settings.seed, epoch)
    way = _begin(made, plan, epoch, HeadFitting.sgd)
    method.set_epoch(epoch)
    return measured_shares(way, method.model, method.optimizer, criterion=method.criterion,
                           mix=method.mix, settings=method.settings)


def _sweep(made: Prepared, plan: EpochPlan, epoch: int, search: RateSearch,
           moved: Moved) -> RateCurve:
    """One range test; afterwards the network is as before."""
    same = functools.partial(preserved, made.method.model, made.method.optimizer,
                             made.method.loaders["train"].generator)
    told = f"searching, depths {sorted(plan.depths)}"
    with same(), _steps(made, plan, epoch, moved) as step:
        reference = [step(None) for _ in range(search.steps)]
    if not np.isfinite(reference).all():
        raise FinetuneError("the loss is NaN or infinite before any step: look at the pictures, "
                            "model.weights, and training.precision")
    with same(), _steps(made, plan, epoch, moved) as step, progress_bar(
            told, total=search.steps) as done:
        return range_test(step, start=search.start, end=search.end, steps=search.steps,
                          reference=reference, progress=done)


@contextmanager
def _steps(made: Prepared, plan: EpochPlan, epoch: int,
           moved: Moved) -> Iterator[Callable[[float | None], float]]:
    """A function that makes one training step at a rate, as the loop does, and gives its loss.

    Without a rate it makes none. Pictures and random numbers are the same each time.
    """
    method, parts = made.method, made.method.settings.accumulation_steps
    seed_epoch(method.settings.seed, epoch)
    way = _begin(made, plan, epoch, HeadFitting.sgd)
    method.optimizer.zero_grad(set_to_none=True)
    pull = pull_towards(method, dict(method.model.named_parameters()))

    def step(rate: float | None) -> float:
        losses = []
        for images, targets, _ in itertools.islice(batches, parts):
            with torch.set_grad_enabled(rate is not None):
                loss = batch_loss(way, images, targets.to(method.device), mix=method.mix,
                                  criterion=method.criterion, settings=method.settings)
            if rate is not None:
                (loss / parts).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if rate is not None:
            for group, share in moved:
                group["lr"] = rate * share
            pull()
            train_step(method.model, method.optimizer, max_grad_norm=method.settings.max_grad_norm)
        return float(torch.stack(losses).mean())

    with closing(_batches(method, way, epoch)) as batches:
        yield step


def _batches(method: Method, way: Pass, epoch: int) -> Generator[Any, None, None]:
    """Epoch after epoch, without end."""
    loader: Any = way.loader
    while True:
        method.set_epoch(epoch)
        yield from loader
        epoch += 1


def _each_depth(made: Prepared, plan: EpochPlan, epoch: int,
                search: RateSearch) -> Iterator[DepthRate]:
    """From the classifier down; it stays trained for those below."""
    method, epochs = made.method, made.config.training.epochs
    names = depth_names(layer_depths(method.model))
    trained = {depth for e in range(epochs) for depth in method.plan([{}] * e).depths}
    for depth in sorted(trained, reverse=True):
        alone = dataclasses.replace(plan, depths=frozenset({depth}), lr=None)
        groups = [g for g in method.optimizer.param_groups if g["depth"] == depth]
        moved = [(group, 1.0) for group in groups]
        curve = _sweep(made, alone, epoch, search, moved)
        found = DepthRate(depth, names[depth], curve, suggest_rates(curve),
                          groups[0]["base_lr"] / method.settings.lr)
        if depth == len(names) - 1 and epoch == 0 and found.rate is not None:
            with _steps(made, alone, epoch, moved) as step:
                for _ in range(search.steps):
                    step(found.rate)
        yield found


def _print(found: FoundRates, config: Config) -> None:
    curve = found.curve
    chosen = sorted({round(i * (len(curve.rates) - 1) / (ROWS - 1)) for i in range(ROWS)})
    table("loss while the rate grows", ["rate", "loss of the batch", "smoothed"],
          [[curve.rates[i], curve.losses[i], curve.smoothed[i]] for i in chosen])
    say(f"epoch {found.epoch}, depths {', '.join(map(str, found.depths))}: smoothed loss lowest at "
        f"{curve.lowest:.2g}; "
        + (f"diverged at {curve.rates[-1]:.2g}" if curve.diverged else "it did not diverge"))
    table("suggestions", ["rule", "rate"],
          [[name, _shown(rate)] for name, rate in found.suggested.items()])
    if found.by_depth:
        _print_depths(found.by_depth)
    if found.rate is None:
        say("no suggestion: the loss does not fall by more than chance; more --steps, another "
            "--from and --to, or other model.weights may show one")
        return
    say(f"suggestion: {found.key}={found.rate:g}")
    if found.key == "optimizer.lr":
        say(f"(the configuration has {config.optimizer.lr:g}, "
            f"{config.optimizer.lr / found.rate:.2g} times that)")


def _print_depths(found: list[DepthRate]) -> None:
    head = found[-1].rate
    table("each depth alone, the others frozen",
          ["depth", "module", "rate", "loss lowest at", "share of the classifier's",
           "configured share"],
          [[d.depth, d.name, _shown(d.rate), d.curve.lowest,
            _shown(d.rate / head if d.rate and head else None), d.configured_share]
           for d in found[::-1]])


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _plain(found: FoundRates, config: Config, search: RateSearch,
           rehearsal: bool) -> dict[str, Any]:
    return {"suggestion": None if found.rate is None else f"{found.key}={found.rate:g}",
            "rate": found.rate, "rehearsal": rehearsal, "epoch": found.epoch,
            "depths": found.depths, "suggested": found.suggested, "curve": found.curve.to_dict(),
            "by_depth": [{"depth": d.depth, "module": d.name, "suggested": d.suggested,
                          "configured_share": d.configured_share, "curve": d.curve.to_dict()}
                         for d in found.by_depth],
            "search": dataclasses.asdict(search), "config": dump_config(config)}
