"""Networks by name: any timm classifier, or a function of the user's own."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import timm
from torch import nn

import finetune.models.registration  # noqa: F401  registers our networks with timm
from finetune.dotted import import_dotted
from finetune.errors import ConfigurationError, did_you_mean, first_of
from finetune.models.heads import classifier_modules, narrow_classifier, replace_with_mlp
from finetune.models.ordinal import make_ordinal, score_count
from finetune.models.weights import WeightsReport, load_weights
from finetune.specs import OrdinalLink

__all__ = ["build_model", "check_model_name"]


def build_model(name: str, *, num_classes: int, in_channels: int = 3, weights: str | None = None,
                head: str = "linear", pooling: str | None = None, drop_rate: float = 0.0,
                drop_path_rate: float = 0.0, class_names: Sequence[str] | None = None,
                ordinal: OrdinalLink | None = None) -> tuple[nn.Module, WeightsReport]:
    """A network for ``num_classes`` classes and where its weights come from.

    Fresh layers are drawn from torch's global generator (set the seed before), the same ones
    whatever ``weights`` is.

    Args:
        name: A timm name (``resnet50``, ``resnet50.a1_in1k``), or ``package.module:function``,
            which is called with ``num_classes=`` and ``in_channels=`` and returns a module.
        num_classes: Number of logits.
        in_channels: Channels of a picture.
        weights: See `finetune.models.weights.load_weights`. None: random.
        head: ``linear`` (one layer) or ``mlp`` (two, see `replace_with_mlp`).
        pooling: timm's ``global_pool``: avg, max, avgmax, catavgmax … None: the network's own.
        drop_rate: Dropout before the classifier, 0 up, below 1.
        drop_path_rate: Stochastic depth, 0 up, below 1.
        class_names: In the order of the logits; needed to keep classifier rows of an earlier run.
        ordinal: For ordered classes. The network then gives the scores that this link needs, and
            the model the logarithms of ``num_classes`` probabilities.

    Raises:
        ConfigurationError: An unknown name, option or weights, or weights that don't fit.

    >>> model, report = build_model("test_resnet", num_classes=3)
    >>> model.get_classifier().out_features, report.source
    (3, 'random')
    """
    _check_choices(head, pooling)
    asked = {"drop_rate": drop_rate or None, "drop_path_rate": drop_path_rate or None,
             "pooling": pooling}
    options = {key: value for key, value in asked.items() if value is not None}
    build = _call_builder if ":" in name else _fresh_timm
    width = num_classes if ordinal is None else score_count(ordinal, num_classes)
    model = build(name, width, in_channels, options)
    _check_classifier(model, name)
    if head == "mlp":
        replace_with_mlp(model, drop_rate=drop_rate)
    if ordinal is not None:
        make_ordinal(model, ordinal, num_classes)
    report = load_weights(model, weights, name=name, in_channels=in_channels,
                          class_names=class_names)
    return model, report


def _check_choices(head: str, pooling: str | None) -> None:
    if head not in ("linear", "mlp"):
        raise ConfigurationError(f"model.head={head}: there are linear and mlp")
    if pooling == "":
        raise ConfigurationError("model.pooling is empty: a classifier needs avg, max, avgmax, "
                                 "catavgmax, or null for the network's own")


_TIMM_NAMES = {"num_classes": "num_classes", "in_channels": "in_chans", "pooling": "global_pool",
               "drop_rate": "drop_rate", "drop_path_rate": "drop_path_rate"}


def check_model_name(name: str) -> None:
    """Raise a `ConfigurationError` with near names when there is no such network or builder."""
    if ":" in name:
        _find_builder(name)
    else:
        _check_name(name)


def _create_timm(name: str, num_classes: int, in_channels: int,
                 options: dict[str, Any]) -> nn.Module:
    _check_name(name)
    options = {"num_classes": num_classes, "in_channels": in_channels, **options}
    given = {_TIMM_NAMES[key]: value for key, value in options.items()}
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **given)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError,
            KeyError) as error:
        raise _refused(name, options, error) from error
    if not hasattr(model, "group_matcher"):
        raise ConfigurationError(
            f"model.name={name} gives no feature groups (timm's group_matcher), so that its depths "
            "can't be told apart: choose another network")
    return model


def _fresh_timm(name: str, num_classes: int, in_channels: int,
                options: dict[str, Any]) -> nn.Module:
    model = _create_timm(name, num_classes, in_channels, options)
    _check_classifier(model, name)
    narrow_classifier(model)
    return model


def _check_name(name: str) -> None:
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        raise ConfigurationError(
            f"model.name={name}: timm {timm.__version__} has no such network"
            f"{did_you_mean(plain, timm.list_models())}; your own is given as "
            "package.module:function")
    known = [n.partition(".")[2] for n in timm.list_models(f"{plain}.*", pretrained=True)]
    if tag and tag not in known:
        raise ConfigurationError(
            f"model.name={name}: {plain} has no weights tag {tag!r}{did_you_mean(tag, known)}; "
            f"it has {first_of(known, count=12) or 'none'}")


def _refused(name: str, options: dict[str, Any], error: Exception) -> ConfigurationError:
    text = str(error) or type(error).__name__
    named = [key for key in options if _TIMM_NAMES[key] in text]
    pooling = [key for key in options if key == "pooling" and "pool" in text.lower()]
    what = " or ".join(f"{key}={options[key]}" for key in named or pooling or options)
    return ConfigurationError(f"model.name={name} doesn't take {what} ({text}): leave it unset, "
                              "or choose another network")


def _call_builder(name: str, num_classes: int, in_channels: int,
                  options: dict[str, Any]) -> nn.Module:
    function = _find_builder(name)
    given = {"num_classes": num_classes, "in_channels": in_channels, **options}
    for key in given:
        try:
            inspect.signature(function).bind_partial(**{key: given[key]})
        except TypeError as error:
            raise ConfigurationError(
                f"model.name={name} is called with {key}={given[key]}, which it doesn't take: "
                f"its arguments are {inspect.signature(function)}") from error
    model = function(**given)
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model.name={name} returned a {type(model).__name__}, "
                                 "not a torch.nn.Module")
    return model


def _find_builder(name: str) -> Callable[..., Any]:
    if name.partition(":")[0] in ("hf-hub", "hf_hub", "local-dir"):
        raise ConfigurationError(f"model.name={name}: write that as model.weights={name}, and the "
                                 "network's timm name as model.name")
    return import_dotted("model.name", name)


def _check_classifier(model: nn.Module, name: str) -> None:
    try:
        classifier_modules(model)
    except ConfigurationError as error:
        raise ConfigurationError(f"model.name={name}: {error}") from error
