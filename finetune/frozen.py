"""The frozen part of a run's network: split off, folded, and its features kept where that pays."""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.assembly import Data, cache_folder
from finetune.config import CacheFeatures, Config, HeadFitting, Precision, Sampling
from finetune.data.loading import balanced_weights
from finetune.data.scanning import decoder_versions
from finetune.devices import device_name
from finetune.errors import ConfigurationError
from finetune.evaluation.predictions import Predictions, collect_predictions
from finetune.method import Method, arithmetic, batch_size, freeze_and_hash
from finetune.models.freezing import EpochPlan
from finetune.models.heads import classifier_modules
from finetune.models.prefix import (
    Boundary,
    CannotCut,
    Prefix,
    build_prefix,
    build_suffix,
    find_boundary,
)
from finetune.specs import InputSpec
from finetune.training.compiling import compile_forward
from finetune.training.features import (
    CachedFeatures,
    FeatureLoader,
    in_memory,
    make_room,
    open_features,
    write_features,
)
from finetune.training.head_fit import STRENGTHS, fit_head, load_head
from finetune.training.loop import Pass

__all__ = ["HAND_OVER", "FrozenPart", "cache_choice", "outlook", "stretch"]


HAND_OVER = 0.03  # the weakest penalty of an exact head that is trained on; docs/method.md


def stretch(plan: Callable[[list[dict[str, Any]]], EpochPlan], epoch: int, epochs: int) -> int:
    """How many epochs around this one (0 up) have the same lowest trainable depth.

    The whole stretch counts, not what is left of it: a resumed run decides as the first one did.
    """
    lowest = [min(plan([{}] * e).depths) for e in range(epochs)]
    runs = itertools.groupby(range(epochs), key=lambda e: lowest[e])
    return next(len(run) for run in (list(each) for _, each in runs) if epoch in run)


def cache_choice(asked: CacheFeatures, *, epochs: int, deterministic: bool, views: int | None,
                 mixes: bool, fitted: bool = False) -> tuple[bool, str]:
    """Whether to cache the training part's features, and why. A fixed rule; nothing is timed.

    Args:
        asked: The configuration's wish.
        epochs: How many epochs would read them.
        deterministic: Whether the transform in front shows the same in every epoch.
        views: So many augmented views of each picture may be drawn instead.
        mixes: Whether mixup or cutmix blend pictures in front of the network.
        fitted: Whether the classifier is fitted to them at once; it reads them often.
    """
    if asked is CacheFeatures.never:
        return False, "training.cache_features=never"
    if mixes:
        return False, "mixup and cutmix blend pictures, not features"
    if fitted:
        return True, "the classifier is fitted to them"
    if not deterministic and views is None:
        return False, ("the transform shows something new in every epoch (training.cache_views=K "
                       "would draw K views once)")
    used = 1 if deterministic else views or 1
    if asked is CacheFeatures.auto and epochs <= used:
        return False, f"only {epochs} epochs would read them"
    return True, ("the transform shows the same in every epoch" if deterministic
                  else f"{views} views of each picture are drawn (training.cache_views)")


def outlook(method: Method, config: Config, data: Data) -> list[str]:
    """What would be split off and cached when, and how large it would be; nothing is computed.

    Leaves the model in the mode of the last stretch.
    """
    lines, epoch, epochs = [], 0, config.training.epochs
    while epoch < epochs:
        plan, length = method.plan([{}] * epoch), stretch(method.plan, epoch, epochs)
        if min(plan.depths):
            last = f"-{epoch + length}" if length > 1 else ""
            lines.append(f"epochs {epoch + 1}{last}: "
                         + _foreseen(method, config, data, plan, length))
        epoch += length
    return lines


def _foreseen(method: Method, config: Config, data: Data, plan: EpochPlan, length: int) -> str:
    method.set_train_mode(plan)
    solves = _solves(method, config, plan)
    if solves:
        method.model.eval()
    try:
        boundary = find_boundary(method.model, min(plan.depths), method.example)
    except CannotCut as error:
        return f"{error}: trained whole, nothing cached"
    taken, why = _choice(config, length, solves)
    views = config.training.cache_views or 1
    size = 4 if config.training.precision is Precision.fp32 else 2
    total = math.prod(boundary.shape) * size * len(data.part("train")) * views / 1e6
    return (f"frozen below {boundary.module}; features of the training part "
            + (f"cached, about {total:.1f} MB: {why}" if taken else f"not cached: {why}"))


def _solves(method: Method, config: Config, plan: EpochPlan) -> bool:
    """Whether the classifier is fitted at once in this epoch."""
    top = max(group.depth for group in method.groups)
    return config.training.head_fit is HeadFitting.exact and min(plan.depths) == top


def _choice(config: Config, epochs: int, solves: bool) -> tuple[bool, str]:
    training = config.training
    return cache_choice(
        training.cache_features, epochs=epochs, fitted=solves, views=training.cache_views,
        deterministic=config.data.transform == "none",
        mixes=bool(training.mixup_alpha or training.cutmix_alpha))


@dataclass
class FrozenPart:
    """What stands below the lowest trainable depth, for as long as that lasts.

    Attributes:
        method: Of the run; its model is what is cut.
        config: All values.
        data: Pictures, divided.
        spec: The network's input.
        say: Told what is cut and cached, in plain sentences.
        watched: Wraps batches, so that a signal can stop a long build.
        own: Folder that a cache belongs to alone, when it can't be shared.
        frozen: Hash of what must not move in the current epoch.
    """

    method: Method
    config: Config
    data: Data
    spec: InputSpec
    say: Callable[[str], object]
    watched: Callable[[Any, str], Any] = lambda batches, where: batches
    own: str = ""
    frozen: str = ""
    _compiled: tuple[Any, nn.Module] | None = None
    _lowest: int = 0
    _boundary: Boundary | None = None
    _prefix: Prefix | None = None
    _features: dict[str, CachedFeatures] = field(default_factory=dict)

    def begin(self, plan: EpochPlan, epoch: int) -> Pass:
        """Freeze, set modes, and choose the way of an epoch (0 up) through the data."""
        method, lowest = self.method, min(plan.depths)
        self.frozen = freeze_and_hash(method.model, plan)
        method.set_train_mode(plan)
        method.set_epoch(epoch)
        if _solves(method, self.config, plan):
            self._enter(plan, epoch, solving=True)
            return self._solution()
        if lowest != self._lowest:
            self._enter(plan, epoch)
        if self._boundary is None or self._prefix is None:
            return Pass(method.loaders["train"], self._forward(plan), method.prepare,
                        by_gradient=plan.by_gradient)
        suffix = self._forward(plan)
        if "train" in self._features:
            return Pass(self._cached_loader(), suffix, self._to_device)
        return Pass(method.loaders["train"], _chain(self._prefix, suffix), method.prepare)

    def _forward(self, plan: EpochPlan) -> nn.Module:
        """What trains: the network, or the suffix where it is cut; compiled, if that is wanted.

        It is made anew when the set of trainable depths, or the mode of norms, changes.
        """
        model = self.method.model
        plain = model if self._boundary is None else build_suffix(model, self._boundary)
        if not self.config.training.compile:
            return plain
        kind = (plan.depths, plan.update_norms, self._boundary)
        if self._compiled is None or self._compiled[0] != kind:
            alone = min(plan.depths) == max(group.depth for group in self.method.groups)
            self.say("training.compile: " + (
                "only the classifier trains, nothing is compiled" if alone and self._boundary
                else "compiled at the first batch" if self._boundary is None
                else f"from {self._boundary.module} on, compiled at the first batch"))
            self._compiled = kind, (plain if alone and self._boundary
                                    else compile_forward(plain))
        return self._compiled[1]

    def predict_val(self) -> Predictions | None:
        """Validation answers from cached features, or None when there are none."""
        if "val" not in self._features or self._boundary is None:
            return None
        samples, features = self.data.part("val"), self._features["val"]
        return collect_predictions(
            build_suffix(self.method.model, self._boundary), _in_order(features, samples.labels),
            prepare=self._to_device, ids=samples.ids, label_spec=samples.label_spec,
            groups=samples.groups, autocast=self.method.settings.autocast)

    def _enter(self, plan: EpochPlan, epoch: int, *, solving: bool = False) -> None:
        """Cut at the plan's lowest depth, and cache what is to be cached there."""
        self._lowest, self._boundary, self._prefix = min(plan.depths), None, None
        self._features = {}
        if not self._lowest:
            return
        if solving:
            self.method.model.eval()  # the classifier is fitted to what evaluation sees
        images = self.method.example
        try:
            self._boundary = find_boundary(self.method.model, self._lowest, images)
        except CannotCut as error:
            if solving:
                raise ConfigurationError(f"{error}: training.head_fit=sgd") from error
            self.say(f"{error}: trained whole, nothing cached")
            return
        self._prefix = build_prefix(self.method.model, self._boundary, images=images)
        arithmetic(self.config).apply(self._prefix.model)
        epochs = stretch(self.method.plan, epoch, self.config.training.epochs)
        self._cache_parts(epochs, solving)

    def _cache_parts(self, epochs: int, solving: bool) -> None:
        training, boundary = self.config.training, self._boundary
        assert boundary is not None
        taken, why = _choice(self.config, epochs, solving)
        self.say(f"frozen below {boundary.module}: features {'x'.join(map(str, boundary.shape))} "
                 f"of the training part {'are' if taken else 'are not'} cached: {why}")
        if taken or solving:  # fitted to pictures as they are, unless views are asked for
            self._make("train", training.cache_views or 1, on_disk=taken, must=solving,
                       augmented=training.cache_views is not None)
        never = training.cache_features is CacheFeatures.never
        if epochs > 1 and not never and self.method.average is None:
            self._make("val", 1, on_disk=True, must=False, augmented=False)

    def _make(self, part: str, views: int, *, on_disk: bool, must: bool, augmented: bool) -> None:
        """Open or build a part's features: on disk, or in memory when that ``must`` be."""
        about, count = self._about(part, views, augmented), len(self.data.part(part))
        folder = cache_folder() / "features" / _key(about)
        found = open_features(folder, about) if on_disk else None
        if found is None and on_disk:
            found = self._written(folder, part, about)
        if found is None and (must or not on_disk):
            found = in_memory(self._batches(part, about), pictures=count, views=views)
        if found is not None:
            self._features[part] = found

    def _written(self, folder: Path, part: str, about: dict[str, Any]) -> CachedFeatures | None:
        count, views = len(self.data.part(part)), about["views"]
        row = self._run(self.method.example)[0]
        needed = row.numel() * row.element_size() * count * views
        limit = int(self.config.training.cache_limit * 1e9)
        told = make_room(folder.parent, needed, limit=limit)
        if told:
            self.say(f"no room to cache the features of {part}: {told}; they are computed anew")
            return None
        self.say(f"writing features of {part}, {needed / 1e6:.1f} MB, to {folder}")
        write_features(folder, self._batches(part, about), pictures=count, views=views, about=about)
        return open_features(folder, about)

    def _run(self, images: Tensor) -> Tensor:
        assert self._prefix is not None
        with self.method.settings.autocast():
            return self._prefix(self.method.lay_out(images))

    def _batches(self, part: str, about: dict[str, Any]) -> Iterator[Tensor]:
        """Features of a part, picture after picture, view after view."""
        loader = self.method.ordered(part, augmented=about["transform"] != "evaluation")
        for view in range(about["views"]):
            loader.sampler.set_epoch(view)  # type: ignore[attr-defined]
            for images, _, _ in self.watched(loader, f"while features of {part} were computed"):
                yield self._run(self.method.prepare(images))

    def _about(self, part: str, views: int, augmented: bool) -> dict[str, Any]:
        """What the features depend on."""
        assert self._boundary is not None
        config, data = self.config, self.data
        places = np.flatnonzero(data.split.names == part)
        pictures = hashlib.sha256("".join(data.facts[i].byte_hash for i in places).encode())
        shown = config.data.transform if augmented else "evaluation"
        own = self.own if ":" in shown + config.model.name else ""  # a user's code may change
        return {
            "weights": self.frozen, "network": [config.model.name, config.model.pooling],
            "boundary": self._boundary.module, "pictures": pictures.hexdigest(), "views": views,
            "transform": shown, "decoding": config.data.decoding.value if augmented else "full",
            "decoders": decoder_versions(), "seed": config.seed if augmented else 0,
            "input": self.spec.to_dict(), "arithmetic": astuple(arithmetic(config)),
            "machine": [device_name(self.method.device), torch.get_num_threads(),
                        torch.__version__],
            "batch_size": batch_size(config), "own": own}

    def _cached_loader(self) -> FeatureLoader:
        loader: Any = self.method.loaders["train"]
        labels = torch.as_tensor(np.asarray(self.data.part("train").labels))
        return FeatureLoader(self._features["train"], labels, loader.sampler,
                             batch_size=loader.batch_size, batches=len(loader))

    def _to_device(self, features: Tensor) -> Tensor:
        return features.to(self.method.device, non_blocking=True)

    def _solution(self) -> Pass:
        return Pass(self.method.loaders["train"], self.method.model,
                    self.method.prepare, solve=self._solve)

    def _solve(self) -> tuple[float, str]:
        """Fit the classifier to the cached features; the loss it reaches, and what was chosen."""
        config, samples = self.config, self.data.part("train")
        features, (classifier,) = self._features["train"], self._classifiers()
        count, views = len(features), features.views
        rows = torch.cat([features.read(np.arange(count), view) for view in range(views)])
        labels = np.concatenate([np.asarray(samples.labels)] * views)
        groups = samples.groups or [str(i) for i in range(count)]
        drawn = (balanced_weights(samples) if config.data.sampling is Sampling.balanced
                 else np.ones(count))
        rows = rows.flatten(1).float()
        fit = fit_head(
            rows, labels, label_spec=samples.label_spec,
            groups=groups * views if views > 1 or samples.groups else None,
            class_weights=self.method.class_weights,
            sample_weights=np.tile(drawn / drawn.mean(), views),
            label_smoothing=config.training.label_smoothing, seed=config.seed,
            strengths=self._strengths())
        if self.method.adjustment is not None:  # the intercept is free: it takes up what is added
            fit = replace(fit, bias=fit.bias - self.method.adjustment.cpu())
        load_head(classifier, fit)
        self.say(f"classifier fitted: {fit.chosen_by}")
        device = self.method.device
        with torch.no_grad():
            logits = rows @ fit.weight.T + fit.bias
            loss = self.method.criterion(logits.to(device), torch.as_tensor(labels).to(device))
        return float(loss), f"penalty {fit.strength:.3g}: {fit.chosen_by}"

    def _strengths(self) -> list[float]:
        """Penalties to choose from: a strong one where training goes on from the fit."""
        given, last = self.config.training.head_strength, self.config.training.epochs == 1
        if given is not None:
            return [given]
        return [s for s in STRENGTHS if last or s >= HAND_OVER]

    def _classifiers(self) -> list[nn.Module]:
        assert self._boundary is not None
        modules = classifier_modules(self.method.model)
        if list(modules) != [self._boundary.module]:
            raise ConfigurationError(
                f"training.head_fit=exact fits a classifier that directly follows the features; "
                f"here {self._boundary.module} stands before {', '.join(modules)}: "
                "training.head_fit=sgd")
        return list(modules.values())


def _chain(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor],
           ) -> Callable[[Tensor], Tensor]:
    return lambda images: second(first(images))


def _in_order(features: CachedFeatures, labels: Any, size: int = 256,
              ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    targets = torch.as_tensor(np.asarray(labels))
    for start in range(0, len(features), size):
        indices = np.arange(start, min(start + size, len(features)))
        chosen = torch.from_numpy(indices)
        yield features.read(indices), targets[chosen], chosen


def _key(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
