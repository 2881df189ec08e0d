"""WiSE-FT: the network between the starting and the chosen weights that validation likes best.

Wortsman 2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from finetune.assembly import Data
from finetune.config import Config
from finetune.console import say
from finetune.evaluation.metrics import compute_metrics
from finetune.method import Method, Watched, predict_part
from finetune.models.interpolation import (
    has_norm_statistics,
    interpolate_states,
    recompute_norm_statistics,
)
from finetune.results import for_selection
from finetune.run_directory import RunDirectory
from finetune.selection import best_epoch
from finetune.starting import read_start
from finetune.training.checkpoints import load_weights, read_metadata, save_weights

__all__ = ["mix_with_start"]

NORMS = "while statistics of norms were computed"


def mix_with_start(run: RunDirectory, config: Config, method: Method, data: Data, metric: str, *,
                   told: Mapping[str, str], watched: Watched) -> dict[str, Any]:
    """Put the best of the interpolated networks in the place of the chosen weights, if asked for.

    Candidates are ``(1 - a) start + a chosen`` for a = 0, 1/n, ..., 1; ties go to the lower log
    loss, then to the larger a. For a = 0 and 1 these are the two networks themselves, untouched;
    between them the statistics of batch norms are computed anew from training pictures as they are.
    The result is written into the weights' file together with them: what is there isn't repeated.

    Args:
        run: Its chosen and starting weights are read; the chosen ones are written.
        config: All values.
        method: Its chosen model is changed.
        data: Pictures, divided.
        metric: By which candidates are compared, on the validation pictures that may choose.
        told: Metadata of the weights' file.
        watched: Wraps batches, so that a signal can stop it.

    Returns:
        ``{"wise_ft": {"coefficient", "val": {a: metric}}}``, or nothing where it isn't asked for.
    """
    if config.training.wise_ft is None:
        return {}
    before = read_metadata(run.best_weights).get("wise_ft")
    if before is not None:
        return {"wise_ft": json.loads(before)}
    load_weights(run.best_weights, method.chosen_model)
    chosen, states = _try_candidates(run, config, method, data, metric, watched)
    method.chosen_model.load_state_dict(states)
    save_weights(run.best_weights, method.chosen_model,
                 metadata={**told, "wise_ft": json.dumps(chosen)})
    say(f"interpolated with the starting weights, val {metric} by coefficient: "
        + ", ".join(f"{a} {'undefined' if value is None else format(value, '.4f')}"
                    for a, value in chosen["val"].items())
        + f"; kept: {chosen['coefficient']:g}")
    return {"wise_ft": chosen}


def _try_candidates(run: RunDirectory, config: Config, method: Method, data: Data, metric: str,
                    watched: Watched) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is to be told, and the best candidate's tensors."""
    model, steps = method.chosen_model, config.training.wise_ft or 1
    end = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    start = read_start(run, config, model)
    loader = (method.ordered("train", in_order=False, augmented=False)
              if has_norm_statistics(model) else None)
    tried: list[dict[str, Any]] = []  # from the chosen weights down: ties go to the larger one
    best: dict[str, Tensor] = end
    coefficients = [step / steps for step in range(steps, -1, -1)]
    for coefficient in coefficients:
        model.load_state_dict(interpolate_states(start, end, coefficient))
        if 0 < coefficient < 1 and loader is not None:
            recompute_norm_statistics(model, _images(method, watched(loader, NORMS)))
        answers = predict_part(method, data, "val", final=True, watched=watched)
        tried.append({"val": compute_metrics(for_selection(config, answers))})
        if best_epoch(tried, metric) == len(tried) - 1:
            best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    values = {f"{a:.4g}": entry["val"].get(metric)
              for a, entry in zip(coefficients, tried, strict=True)}
    return {"coefficient": coefficients[best_epoch(tried, metric)],
            "val": dict(reversed(values.items()))}, best


def _images(method: Method, batches: Iterable[Any]) -> Iterator[Tensor]:
    for images, _, _ in batches:
        yield method.prepare(images)
