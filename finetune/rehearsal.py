"""What a rehearsal puts in place of a recipe's values: without data, nothing else may differ."""

from collections.abc import Iterable, Mapping
from typing import Any

from finetune.config import Config, FreezingPolicy, HeadFitting
from finetune.models.architectures import ARCHITECTURES
from finetune.values import get_value

__all__ = ["REHEARSAL", "fits_only_the_head", "half_rehearsal", "replacements"]

# Data, model name and weights, picture and batch size, epochs.
REHEARSAL = {"model.name": ARCHITECTURES["bundled"], "model.weights": "bundled",
             "data.image_size": 32, "data.batch_size": 8, "training.epochs": 8}
SOURCES = ("data.format", "data.labels_file", "data.path_column", "data.label_column",
           "data.label_separator", "data.split_column", "data.group_column", "data.group_from",
           "data.splits_file", "data.positive_class", "data.split", "data.waiver",
           "data.duplicates", "data.unreadable", "data.channels", "data.x_column",
           "data.y_column", "data.place_from", "data.block_size", "data.block_buffer",
           "data.time_column", "data.site_column", "data.test_site", "data.folds", "data.fold",
           "data.compare_random", "data.subgroup_columns")


def replacements(config: Config, recipe: Mapping[str, Any],
                 typed: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a rehearsal replaces: key to (the recipe's value, the rehearsal's).

    Args:
        config: As it would be without a rehearsal.
        recipe: The recipe's own values by key; where it finds its own data is left out.
        typed: The values typed by key; they stay.
    """
    schema = Config()
    own_data = {key: get_value(schema, key) for key in recipe if key in SOURCES}
    wanted = own_data | REHEARSAL | _network(recipe, typed)
    if fits_only_the_head(config):
        del wanted["training.epochs"]
    return {key: (get_value(config, key), value) for key, value in wanted.items()
            if key not in typed}


def fits_only_the_head(config: Config) -> bool:
    """Whether the training is one exact fit of the classifier."""
    return (config.training.head_fit is HeadFitting.exact
            and config.freezing.policy is FreezingPolicy.head_only)


def _network(recipe: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """The bundled network, unless other weights or another network are asked for."""
    from_nothing = "model.name" in typed or recipe.get("model.weights", "") is None
    default = None if from_nothing else REHEARSAL["model.weights"]
    weights = typed.get("model.weights", default)
    return {"model.name": ARCHITECTURES.get(weights, REHEARSAL["model.name"]),
            "model.weights": weights}


def half_rehearsal(typed: Iterable[str]) -> list[str]:
    """Typed keys that choose or describe data, which a rehearsal has none of."""
    sources = [key for key in typed if key in SOURCES]
    return [f"{', '.join(sources)} without data.root: a rehearsal takes no data of its own; add "
            "data.root=DIR, or leave the key out"] if sources else []
