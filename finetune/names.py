"""Names in a configuration that stand for code or files: do they exist? Imports what it needs."""

from collections.abc import Callable, Collection
from pathlib import Path

from finetune.config import Config
from finetune.errors import ConfigurationError, DataError, InputError, did_you_mean
from finetune.specs import Dtype, InputSpec, Resize

__all__ = ["check_optimizer_name", "name_problems"]


def name_problems(config: Config, keys: Collection[str]) -> list[str]:
    """What is wrong with the names that these keys hold, before any picture is read.

    >>> name_problems(Config(), ["seed"])
    []
    """
    checks = {"data.root": _check_root, "data.transform": _check_transform,
              "model.name": _check_model, "model.weights": _check_weights,
              "optimizer.name": _check_optimizer, "training.select_metric": _check_metric}
    told = [_told(check, config) for key, check in checks.items() if key in keys]
    return [text for text in told if text]


def check_optimizer_name(name: str) -> None:
    """Raise a `ConfigurationError` with near names when timm has no such optimizer."""
    from timm.optim import list_optimizers

    known = list_optimizers()
    if name.lower() not in known:
        raise ConfigurationError(f"optimizer.name={name}: timm has no such optimizer"
                                 f"{did_you_mean(name, known)}")


def _told(check: Callable[[Config], None], config: Config) -> str | None:
    try:
        check(config)
    except InputError as error:
        return str(error)
    return None


def _check_root(config: Config) -> None:
    from finetune.data.picture_paths import near_folder

    root = config.data.root
    if root is not None and not Path(root).exists():
        raise DataError(f"data.root={root} does not exist{near_folder(Path(root))}")


def _check_transform(config: Config) -> None:
    from finetune.data.transforms import build_transform

    spec = InputSpec((32, 32), 3, ("red", "green", "blue"), Dtype.uint8, (0.0, 255.0),
                     (0.5,) * 3, (0.5,) * 3, "bilinear", Resize.squash)
    build_transform(config.data.transform, spec, train=False)


def _check_model(config: Config) -> None:
    from finetune.models.building import check_model_name

    check_model_name(config.model.name)


def _check_weights(config: Config) -> None:
    from finetune.models.sources import check_weights_name

    if config.model.weights == "pretrained" and _told(_check_model, config):
        return  # an unknown network has none; that is told already
    check_weights_name(config.model.weights, config.model.name)


def _check_optimizer(config: Config) -> None:
    check_optimizer_name(config.optimizer.name)


def _check_metric(config: Config) -> None:
    from finetune.evaluation.selection import check_select_metric

    if config.training.select_metric is not None:
        check_select_metric(config.training.select_metric)
