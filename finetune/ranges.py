"""What the values of a configuration may be: ranges, and keys that contradict each other."""

import math
from typing import Any

from finetune.config import (
    CacheFeatures,
    ClassWeights,
    Config,
    DataConfig,
    DataFormat,
    DecayTarget,
    Duplicates,
    FreezingPolicy,
    Head,
    HeadFitting,
    Loss,
    Pack,
    Sampling,
    SetMethod,
    SplitChoice,
)
from finetune.specs import LabelKind

__all__ = ["contradictions", "range_problem"]

# key: (lower bound, whether it belongs to the range, upper bound, whether it belongs to the range)
_RANGES: dict[str, tuple[float, bool, float, bool]] = {
    "seed": (0, True, 2**32 - 1, True),
    "data.channels": (1, True, 4096, True),
    "data.image_size": (16, True, 8192, True),
    "data.batch_size": (2, True, 65536, True),
    "data.views": (1, True, 16, True),
    "data.workers": (0, True, 1024, True),
    "data.split_seed": (0, True, 2**32 - 1, True),
    "data.val_fraction": (0, False, 1, False),
    "data.test_fraction": (0, True, 1, False),
    "data.train_fraction": (0, False, 1, True),
    "data.block_size": (0, False, 1e12, True),
    "data.block_buffer": (0, True, 1e12, True),
    "data.folds": (2, True, 100, True),
    "data.fold": (1, True, 100, True),
    "model.drop_rate": (0, True, 1, False),
    "model.drop_path_rate": (0, True, 1, False),
    "freezing.frozen_fraction": (0, True, 1, True),
    "optimizer.lr": (0, False, 1000, True),
    "optimizer.weight_decay": (0, True, 1000, True),
    "optimizer.start_decay": (0, True, 1000, True),
    "optimizer.layer_decay": (0, False, 1, True),
    "schedule.warmup_fraction": (0, True, 1, False),
    "schedule.final_fraction": (0, True, 1, True),
    "schedule.step_count": (1, True, 1000, True),
    "schedule.step_factor": (0, False, 1, True),
    "training.epochs": (1, True, 100_000, True),
    "training.cache_views": (1, True, 1000, True),
    "training.cache_limit": (0, False, 1e6, True),
    "training.head_strength": (0, False, 1e6, True),
    "training.temperature": (0, False, 10, True),
    "decisions.sensitivity": (0, False, 1, True),
    "decisions.specificity": (0, False, 1, True),
    "decisions.precision": (0, False, 1, True),
    "decisions.set_level": (0, False, 1, False),
    "decisions.answered_accuracy": (0, False, 1, True),
    "decisions.guarantee": (0, False, 1, False),
    "training.patience_fraction": (0, False, 1, True),
    "training.label_smoothing": (0, True, 1, False),
    "training.logit_adjustment": (0, True, 10, True),
    "training.mixup_alpha": (0, True, 100, True),
    "training.cutmix_alpha": (0, True, 100, True),
    "training.accumulation_steps": (1, True, 100_000, True),
    "training.max_grad_norm": (0, False, 1e9, True),
    "training.ema_decay": (0, False, 1, False),
    "training.wise_ft": (1, True, 100, True),
}


def range_problem(key: str, value: Any) -> str | None:
    """What is wrong with a value of the right type, or None."""
    if key == "optimizer.stage_lrs":
        wrong = [f"{key}: {stage}={rate} must be at least 0 and at most 1000"
                 for stage, rate in value.items() if not 0 <= rate <= 1000]
        return "\n".join(wrong) or None
    if key == "freezing.phases":
        wrong = [f"{key}[{i}]: epochs={p.epochs}, lr={p.lr}: epochs must be at least 1, lr above 0 "
                 "and at most 1000" for i, p in enumerate(value)
                 if p.epochs < 1 or not (p.lr is None or 0 < p.lr <= 1000)]
        return "\n".join(wrong) or None
    return _number_problem(key, value) if key in _RANGES else None


def _number_problem(key: str, value: Any) -> str | None:
    low, with_low, high, with_high = _RANGES[key]
    if value is None or ((low <= value if with_low else low < value)
                         and (value <= high if with_high else value < high)):
        return None
    return (f"{key}={value} is out of range: expected {'at least' if with_low else 'more than'} "
            f"{_short(low)} and {'at most' if with_high else 'less than'} {_short(high)}")


def _short(bound: float) -> str:
    return str(int(bound)) if bound == math.floor(bound) else f"{bound:g}"


def contradictions(config: Config) -> list[str]:
    """Keys that contradict each other, as plain sentences."""
    freezing, data, found = config.freezing, config.data, []
    if freezing.policy is FreezingPolicy.below and freezing.below is None:
        found.append("freezing.policy=below needs freezing.below=DEPTH or a stage name, "
                     "for example freezing.below=layer4")
    if freezing.policy is FreezingPolicy.phases and not freezing.phases:
        found.append("freezing.policy=phases needs freezing.phases, for example "
                     "freezing.phases=[{epochs:2,depths:head},{epochs:3,depths:all,lr:1e-4}]")
    if freezing.below is not None and freezing.policy is not FreezingPolicy.below:
        found.append(f"freezing.below={freezing.below} does nothing with "
                     f"freezing.policy={freezing.policy}: add freezing.policy=below")
    if freezing.phases and freezing.policy is not FreezingPolicy.phases:
        found.append("freezing.phases does nothing without freezing.policy=phases")
    if data.labels_file is not None and data.format in (DataFormat.folders, DataFormat.npz):
        found.append(f"data.labels_file={data.labels_file} does nothing with data.format="
                     f"{data.format}: use data.format=csv, or leave the file out")
    if data.duplicates is Duplicates.allow and not (data.waiver or "").strip():
        found.append('data.duplicates=allow needs data.waiver="REASON", which the report prints')
    if data.waiver is not None and data.duplicates is not Duplicates.allow:
        found.append("data.waiver does nothing without data.duplicates=allow")
    if data.pack is Pack.always and data.transform == "none":
        found.append("data.pack=always keeps what augmentation needs; data.transform=none reads "
                     "whole pictures, as evaluation does")
    return (found + _split_problems(config) + _head_problems(config)
            + _contrastive_problems(config) + _decision_problems(config)
            + _ordinal_problems(config) + _imbalance_problems(config) + _start_problems(config))


# The keys that belong to one kind of split alone.
_OF_SPLIT = {SplitChoice.spatial: ("block_size",), SplitChoice.time: ("time_column",),
             SplitChoice.site: ("site_column", "test_site"), SplitChoice.kfold: ("fold",)}
_COMPARABLE = (SplitChoice.group, SplitChoice.spatial, SplitChoice.time, SplitChoice.site)


def _split_problems(config: Config) -> list[str]:
    """What each kind of split needs, and keys of another kind."""
    data = config.data
    found = [f"data.{key}={getattr(data, key)} does nothing without data.split={split}"
             for split, keys in _OF_SPLIT.items() if data.split is not split
             for key in keys if getattr(data, key) not in (None, 0.0)]
    if data.split is not SplitChoice.kfold and data.folds != DataConfig().folds:
        found.append(f"data.folds={data.folds} does nothing without data.split=kfold")
    found += _place_problems(config)
    if data.split is SplitChoice.time and data.time_column is None:
        found.append("data.split=time needs data.time_column=COLUMN, with dates or numbers")
    if data.split is SplitChoice.site and None in (data.site_column, data.test_site):
        found.append("data.split=site needs data.site_column=COLUMN and data.test_site=NAME")
    if data.split is SplitChoice.kfold and (data.fold or 1) > data.folds:
        found.append(f"data.fold={data.fold} is not there: data.folds={data.folds}")
    if data.all_folds and not data.measure_test:
        found.append("data.measure_test=false: cross-validation pools the answers on the test "
                     "parts; one fold can do without, with data.fold=1")
    if data.compare_random and data.split not in _COMPARABLE:
        found.append("data.compare_random compares a split with a random one: it needs data.split="
                     f"{', '.join(s.value for s in _COMPARABLE[:-1])} or {_COMPARABLE[-1].value}")
    return found


def _place_problems(config: Config) -> list[str]:
    """What coordinates need, which a spatial split is made from and others are checked by."""
    data, found = config.data, []
    columns = [c for c in (data.x_column, data.y_column) if c is not None]
    is_spatial = data.split is SplitChoice.spatial
    if len(columns) not in ((0,) if data.place_from is not None else
                            (2,) if is_spatial else (0, 2)):
        needing = "data.split=spatial needs" if is_spatial else "places need"
        found.append(f"{needing} data.x_column and data.y_column, or, without both, "
                     r"data.place_from=REGEX with two groups, such as tile_(\d+)_(\d+)")
    if is_spatial and data.block_size is None:
        found.append("data.split=spatial needs data.block_size, in the unit of the coordinates: "
                     "larger than the distance over which pictures resemble each other")
    if data.block_buffer and not columns and data.place_from is None and not is_spatial:
        found.append(f"data.block_buffer={data.block_buffer:g} does nothing without places: "
                     "data.x_column and data.y_column, or data.place_from")
    return found


def _head_problems(config: Config) -> list[str]:
    """What an exact fit of the classifier needs, and what caching augmented views does."""
    found, training, policy = [], config.training, config.freezing.policy
    exact = training.head_fit is HeadFitting.exact
    if exact and policy not in (FreezingPolicy.head_only, FreezingPolicy.head_then_all):
        found.append(f"training.head_fit=exact does nothing with freezing.policy={policy}: use "
                     "head_only or head_then_all")
    if exact and (training.mixup_alpha or training.cutmix_alpha) and \
            policy is FreezingPolicy.head_only:
        found.append("training.head_fit=exact fits pictures as they are: no mixup, no cutmix")
    if training.head_strength is not None and not exact:
        found.append("training.head_strength does nothing without training.head_fit=exact")
    if exact and config.model.head is not Head.linear:
        found.append(f"training.head_fit=exact fits model.head=linear, not {config.model.head}")
    if training.cache_views is not None and config.data.transform == "none":
        found.append("training.cache_views draws augmented views; data.transform=none has none")
    if training.cache_features is CacheFeatures.always and config.data.transform != "none" \
            and training.cache_views is None:
        found.append("training.cache_features=always can't cache what the transform changes in "
                     "every epoch: data.transform=none, or training.cache_views=K draws K views")
    return found


def _decision_problems(config: Config) -> list[str]:
    """Wishes about sets and answers that nothing would act on."""
    decisions, found = config.decisions, []
    if decisions.guarantee is not None and decisions.answered_accuracy is None:
        found.append("decisions.guarantee does nothing without decisions.answered_accuracy")
    if decisions.sets_randomised and decisions.set_method is not SetMethod.aps:
        found.append("decisions.sets_randomised does nothing with decisions.set_method="
                     f"{decisions.set_method}")
    width = len(decisions.costs)
    if any(len(row) != width for row in decisions.costs):
        found.append(f"decisions.costs has {width} rows, of {[len(r) for r in decisions.costs]} "
                     "numbers: expected as many in each as there are rows, a row and a column for "
                     "each class")
    return found


def _ordinal_problems(config: Config) -> list[str]:
    """Keys of ordered classes without them, and what their loss doesn't go with."""
    data, training = config.data, config.training
    if data.label_kind is not LabelKind.ordinal:
        return [f"{key}={value} does nothing without data.label_kind=ordinal" for key, value in (
            ("data.class_order", data.class_order), ("training.ordinal", training.ordinal))
            if value is not None]
    ordered = "data.label_kind=ordinal"
    found = [f"{ordered}: training.{key} blends pictures of distant ranks, whose mixture has no "
             f"rank: training.{key}=0" for key in ("mixup_alpha", "cutmix_alpha")
             if getattr(training, key)]
    if training.head_fit is HeadFitting.exact:
        found.append(f"{ordered}: training.head_fit=exact fits a logit for each class; ordered "
                     "thresholds are trained by steps: training.head_fit=sgd")
    if training.loss is Loss.contrastive:
        found.append(f"{ordered} doesn't go with training.loss=contrastive, which learns from "
                     "pairs of views: train features with it first, then start from them with "
                     "model.weights=RUN")
    if data.positive_class is not None:
        found.append(f"{ordered}: data.positive_class is for two classes; leave it out")
    return found


def _imbalance_problems(config: Config) -> list[str]:
    """More than one correction for rare classes."""
    data, training = config.data, config.training
    used = [word for word, is_used in (
        ("data.sampling=balanced", data.sampling is Sampling.balanced),
        (f"training.class_weights={training.class_weights}",
         training.class_weights is not ClassWeights.none),
        (f"training.logit_adjustment={training.logit_adjustment:g}",
         training.logit_adjustment > 0)) if is_used]
    if len(used) < 2:
        return []
    return [f"{' and '.join(used)} correct for rare classes more than once: keep one, and turn the "
            "others off (data.sampling=shuffled, training.class_weights=none, "
            "training.logit_adjustment=0)"]


def _start_problems(config: Config) -> list[str]:
    """What decays towards the starting weights, or is mixed with them, needs some."""
    optimizer, training, found = config.optimizer, config.training, []
    towards_start = optimizer.decay_towards is DecayTarget.start
    used = [word for word, is_used in (
        ("optimizer.decay_towards=start", towards_start),
        (f"training.wise_ft={training.wise_ft}", training.wise_ft is not None)) if is_used]
    if config.model.weights is None:
        found += [f"{word} goes back to weights that were trained before; model.weights=null has "
                  "none: give model.weights, or leave it out" for word in used]
    if config.freezing.policy is FreezingPolicy.head_only:
        found += [f"{word} does nothing with freezing.policy=head_only: all but the classifier "
                  "stays as it was" for word in used]
    if optimizer.start_decay is not None and not towards_start:
        found.append("optimizer.start_decay does nothing without optimizer.decay_towards=start")
    return found


def _contrastive_problems(config: Config) -> list[str]:
    """What the contrastive loss needs: two views of each picture, unmixed, that move features."""
    if config.training.loss is not Loss.contrastive:
        return []
    found = []
    if config.data.views != 2:
        found.append(f"training.loss=contrastive compares two views of each picture: data.views=2, "
                     f"not {config.data.views}")
    if config.training.mixup_alpha or config.training.cutmix_alpha:
        found.append("training.loss=contrastive doesn't go with training.mixup_alpha or "
                     "training.cutmix_alpha")
    if config.freezing.policy is FreezingPolicy.head_only:
        found.append("training.loss=contrastive learns features, which freezing.policy=head_only "
                     "freezes: another policy")
    return found
