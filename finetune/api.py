"""The same run from a notebook."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from finetune.composition import compose, override
from finetune.errors import ConfigurationError
from finetune.names import name_problems
from finetune.recipes import flatten
from finetune.run_directory import RunDirectory

__all__ = ["fit"]


def fit(recipe: str | PathLike[str] | None = None,
        values: Mapping[str, Any] | None = None) -> RunDirectory:
    """Train as ``python -m finetune recipe=RECIPE KEY=VALUE ...`` does, and return the run.

    With ``data.split=kfold`` that is the folder around the runs of all folds, with the pooled
    ``metrics``.

    Args:
        recipe: A recipe's name or a path to its YAML file; None = the schema's defaults.
        values: Any keys of the configuration, such as ``{"data.root": "pictures"}``. Without
            ``data.root``, it is a rehearsal. ``{"data": {"root": "pictures"}}`` is the same.

    Raises:
        InputError: Something given is wrong; nothing was trained.
        FinetuneError: A failure while running.
    """
    if not isinstance(values or {}, Mapping):
        raise ConfigurationError('finetune.fit takes values as a dictionary, such as '
                                 '{"data.root": "pictures", "training.epochs": 5}')
    words = [] if recipe is None else [f"recipe={recipe}"]
    words += [override(key, value) for key, value in flatten(values or {}).items()]
    composed = compose(words, check_names=name_problems)
    from finetune.launch import launch

    return launch(composed.config, replaced=composed.replaced,
                  overrides=list(composed.overrides))
