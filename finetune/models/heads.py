"""The classifier of a network: where it is, a larger one in its place, its rows by class name."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from finetune.errors import ConfigurationError

__all__ = ["HIDDEN_WIDTH", "ProbeAndProjection", "add_projection", "classifier_modules",
           "keep_class_rows", "narrow_classifier", "replace_with_mlp"]

HIDDEN_WIDTH = 512  # at most; narrower networks keep their own width
PROJECTION_WIDTH = 128  # as in SimCLR


def classifier_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that make the logits, by their name in the model.

    They are what ``get_classifier()`` returns, or the last ``Linear`` of a model without it.

    Raises:
        ConfigurationError: None with parameters can be told apart.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is not None:
        given = get_classifier()
        wanted = list(given) if isinstance(given, tuple | list) else [given]
    else:
        wanted = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    ids = {id(module) for module in wanted}
    found = {name: module for name, module in model.named_modules()
             if name and id(module) in ids and any(True for _ in module.parameters())}
    if not found:
        raise ConfigurationError(
            f"{type(model).__name__} has no classifier that can be told apart: choose a "
            "classification network, or give your own get_classifier(), returning the module "
            "that makes the logits")
    return found


def narrow_classifier(model: nn.Module) -> None:
    """Scale a fresh classifier down to the spread with which torch starts a linear layer.

    timm starts that of EfficientNets and MobileNets by the number of classes alone, uniform within
    K^-½: with 7 classes 14 times wider than a linear layer of 1,280 features, so that the first
    epochs are spent on unlearning it. Narrower ones stay; nothing random is drawn.
    """
    for classifier in classifier_modules(model).values():
        for layer in classifier.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and not layer.weight.is_meta:
                usual = (3 * layer.weight[0].numel()) ** -0.5
                spread = float(layer.weight.detach().std())
                if spread > 2 * usual:
                    layer.weight.data.mul_(usual / spread)


def replace_with_mlp(model: nn.Module, *, drop_rate: float = 0.0) -> None:
    """Put Linear, ReLU, Dropout, Linear where the classifier is; a 1×1 convolution stays one.

    The hidden layer has as many units as there are features, at most `HIDDEN_WIDTH`. Changes the
    model in place; afterwards ``get_classifier()`` returns the new head.

    Raises:
        ConfigurationError: The classifier isn't one linear layer behind ``get_classifier()``.
    """
    modules = classifier_modules(model)
    name, old = next(iter(modules.items()))
    if len(modules) > 1 or not hasattr(model, "get_classifier"):
        raise ConfigurationError(
            f"model.head=mlp needs one classifier behind get_classifier(); {type(model).__name__} "
            f"has {', '.join(modules)}: use model.head=linear")
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, _mlp_like(old, drop_rate))


class ProbeAndProjection(nn.Module):
    """A classifier that only watches the features, and a projection that shapes them.

    In training, features (B, D) become (B, K + `PROJECTION_WIDTH`): logits, whose gradient ends
    here, and the projection on which SimCLR (arXiv 2002.05709) compares pictures. Otherwise the
    logits (B, K) alone: a linear probe that goes along.
    """

    def __init__(self, classifier: nn.Module, features: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(features, features), nn.ReLU(),
                                        nn.Linear(features, PROJECTION_WIDTH))
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits, in training followed by the projection."""
        if not self.training:
            return torch.as_tensor(self.classifier(x))
        return torch.cat([self.classifier(x.detach()), self.projection(x)], dim=1)


def add_projection(model: nn.Module) -> None:
    """Put a `ProbeAndProjection` around the classifier; changes the model in place.

    Raises:
        ConfigurationError: The classifier isn't one module of linear layers.
    """
    modules = classifier_modules(model)
    name, old = next(iter(modules.items()))
    linear = [m for m in old.modules() if isinstance(m, nn.Linear)]
    if len(modules) > 1 or not linear or any(isinstance(m, nn.Conv2d) for m in old.modules()):
        raise ConfigurationError(
            f"training.loss=contrastive needs one linear classifier; {type(model).__name__} has "
            f"{', '.join(f'{n} ({type(m).__name__})' for n, m in modules.items())}")
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute,
            ProbeAndProjection(old, linear[0].in_features))


def _mlp_like(old: nn.Module, drop_rate: float) -> nn.Sequential:
    if isinstance(old, nn.Linear):
        hidden = min(old.in_features, HIDDEN_WIDTH)
        return nn.Sequential(nn.Linear(old.in_features, hidden), nn.ReLU(),
                             nn.Dropout(drop_rate), nn.Linear(hidden, old.out_features))
    if isinstance(old, nn.Conv2d) and old.kernel_size == (1, 1):
        hidden = min(old.in_channels, HIDDEN_WIDTH)
        return nn.Sequential(nn.Conv2d(old.in_channels, hidden, 1), nn.ReLU(),
                             nn.Dropout(drop_rate), nn.Conv2d(hidden, old.out_channels, 1))
    raise ConfigurationError(
        f"model.head=mlp replaces a linear classifier; this one is a {type(old).__name__}: "
        "use model.head=linear")


def keep_class_rows(tensors: Mapping[str, Tensor], model: nn.Module, *, old: Sequence[str],
                    new: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors whose last classifier layer has rows for ``new``, and the class names found in both.

    Rows of classes in ``old`` are taken from ``tensors``, the others from ``model``, which has a
    row for each of ``new``. Where both are the same and everything fits, the classifier is taken
    whole: one for ordered classes has no rows. A classifier that doesn't fit otherwise, or shares
    no class, is left out whole, and no class name is returned.

    Args:
        tensors: State dict of an earlier run of the same kind of network; not changed.
        model: Gives the fresh rows; not changed.
        old: Class names of the earlier run, in the order of its rows.
        new: Class names now.
    """
    heads = tuple(f"{name}." for name in classifier_modules(model))
    state = model.state_dict()
    inner = {n for n in state if n.startswith(heads)}
    last = _last_layer_tensors(model)
    kept = [name for name in new if name in old]
    if list(old) == list(new) and all(n in tensors and tensors[n].shape == state[n].shape
                                      for n in inner):
        return dict(tensors), kept
    if not kept or not _head_fits(tensors, state, inner, last, rows=len(old)):
        return {n: t for n, t in tensors.items() if not n.startswith(heads)}, []
    mapped = {n: _mapped_rows(tensors[n], state[n], old, new) for n in last}
    return {**tensors, **mapped}, kept


def _last_layer_tensors(model: nn.Module) -> set[str]:
    found = set()
    for name, module in classifier_modules(model).items():
        layers = [(n, m) for n, m in module.named_modules(prefix=name)
                  if isinstance(m, nn.Linear | nn.Conv2d)]
        found |= {f"{layers[-1][0]}.{p}" for p, _ in layers[-1][1].named_parameters()}
    return found


def _head_fits(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], inner: set[str],
               last: set[str], *, rows: int) -> bool:
    if not inner <= tensors.keys():
        return False
    return (all(tensors[n].shape == state[n].shape for n in inner - last)
            and all(tensors[n].shape == (rows, *state[n].shape[1:]) for n in last))


def _mapped_rows(given: Tensor, fresh: Tensor, old: Sequence[str], new: Sequence[str]) -> Tensor:
    rows = [given[old.index(name)] if name in old else fresh[i] for i, name in enumerate(new)]
    return torch.stack([row.to(fresh.dtype) for row in rows])
