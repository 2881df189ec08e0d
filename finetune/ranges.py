"""What the values of a configuration may be: ranges, and keys that contradict each other."""

from typing import Any

from finetune.config import Config, DataFormat, Duplicates, FreezingPolicy
from finetune.errors import ConfigurationError

__all__ = ["check_ranges"]

# key: (lower bound, whether it belongs to the range, upper bound, whether it belongs to the range)
_RANGES: dict[str, tuple[float, bool, float, bool]] = {
    "seed": (0, True, 2**32 - 1, True),
    "data.channels": (1, True, 4096, True),
    "data.image_size": (16, True, 8192, True),
    "data.batch_size": (2, True, 65536, True),
    "data.workers": (0, True, 1024, True),
    "data.split_seed": (0, True, 2**32 - 1, True),
    "data.val_fraction": (0, False, 1, False),
    "data.test_fraction": (0, True, 1, False),
    "model.drop_rate": (0, True, 1, False),
    "model.drop_path_rate": (0, True, 1, False),
    "freezing.frozen_fraction": (0, True, 1, True),
    "optimizer.lr": (0, False, 1000, True),
    "optimizer.weight_decay": (0, True, 1000, True),
    "optimizer.layer_decay": (0, False, 1, True),
    "schedule.warmup_fraction": (0, True, 1, False),
    "schedule.final_fraction": (0, True, 1, True),
    "schedule.step_count": (1, True, 1000, True),
    "schedule.step_factor": (0, False, 1, True),
    "training.epochs": (1, True, 100_000, True),
    "training.patience_fraction": (0, False, 1, True),
    "training.label_smoothing": (0, True, 1, False),
    "training.mixup_alpha": (0, True, 100, True),
    "training.cutmix_alpha": (0, True, 100, True),
    "training.accumulation_steps": (1, True, 100_000, True),
    "training.max_grad_norm": (0, False, 1e9, True),
    "training.ema_decay": (0, False, 1, False),
}


def check_ranges(config: Config) -> None:
    """Raise one `ConfigurationError` that lists every value out of its range."""
    problems = [text for key, bounds in _RANGES.items()
                if (text := _range_problem(key, _lookup(config, key), bounds))]
    problems += _contradictions(config)
    if problems:
        raise ConfigurationError("\n".join(problems))


def _range_problem(key: str, value: Any, bounds: tuple[float, bool, float, bool]) -> str | None:
    low, with_low, high, with_high = bounds
    if value is None or ((low <= value if with_low else low < value)
                         and (value <= high if with_high else value < high)):
        return None
    return (f"{key}={value} is out of range: expected {'at least' if with_low else 'more than'} "
            f"{low:g} and {'at most' if with_high else 'less than'} {high:g}")


def _contradictions(config: Config) -> list[str]:
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
    found += [f"freezing.phases[{i}]: epochs={p.epochs}, lr={p.lr}: epochs must be at least 1, "
              "lr above 0" for i, p in enumerate(freezing.phases)
              if p.epochs < 1 or (p.lr is not None and p.lr <= 0)]
    found += [f"optimizer.stage_lrs.{k}={v}: must not be negative"
              for k, v in config.optimizer.stage_lrs.items() if v < 0]
    if data.labels_file is not None and data.format in (DataFormat.folders, DataFormat.npz):
        found.append(f"data.labels_file={data.labels_file} does nothing with data.format="
                     f"{data.format}: use data.format=csv, or leave the file out")
    if data.duplicates is Duplicates.allow and not (data.waiver or "").strip():
        found.append('data.duplicates=allow needs data.waiver="REASON", which the report prints')
    if data.waiver is not None and data.duplicates is not Duplicates.allow:
        found.append("data.waiver does nothing without data.duplicates=allow")
    return found


def _lookup(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
