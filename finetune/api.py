"""The same run from a notebook."""

from collections.abc import Mapping
from typing import Any

from finetune.composition import compose, override
from finetune.run_directory import RunDirectory

__all__ = ["fit"]


def fit(recipe: str | None = None, values: Mapping[str, Any] | None = None) -> RunDirectory:
    """Train as ``python -m finetune recipe=RECIPE KEY=VALUE ...`` does, and return the run.

    Args:
        recipe: A recipe's name or a path to its YAML file; None = the schema's defaults.
        values: Any keys of the configuration, such as ``{"data.root": "pictures"}``. Without
            ``data.root``, it is a rehearsal.

    Raises:
        InputError: Something given is wrong; nothing was trained.
        FinetuneError: A failure while running.
    """
    words = [] if recipe is None else [f"recipe={recipe}"]
    composed = compose([*words, *(override(k, v) for k, v in (values or {}).items())])
    from finetune.run import fit as fit_config

    return fit_config(composed.config, replaced=composed.replaced,
                      overrides=list(composed.overrides))
