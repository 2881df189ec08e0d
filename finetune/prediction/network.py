"""The chosen network of a run, as a module and as a function of pictures; this one needs torch."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from finetune import session
from finetune.assembly import assemble_model
from finetune.data.decoding import to_unit_range
from finetune.data.loading import PrepareBatch
from finetune.devices import compute_exactly
from finetune.environment import without_weights
from finetune.errors import InputError
from finetune.evaluation.familiarity import Familiarity
from finetune.method import arithmetic, noise
from finetune.models.familiarity import Distance, WithFeatures
from finetune.models.prefix import folded_copy
from finetune.run_directory import RunDirectory
from finetune.specs import Dtype, InputSpec
from finetune.training.arithmetic import Arithmetic
from finetune.training.checkpoints import load_weights

__all__ = ["load_familiarity", "load_network", "load_plain_model", "load_run_model"]


def load_run_model(run: RunDirectory, device: torch.device) -> nn.Module:
    """The chosen network in eval mode on a device, as it was measured: batch norms are folded.

    It takes normalised images (B, C, H, W) float32 and gives logits (B, K).

    Raises:
        FinetuneError: The weights are missing or damaged.
    """
    environment, config = run.environment, run.config
    spec = InputSpec.from_dict(environment["input_spec"])
    model, _ = assemble_model(without_weights(config), channels=spec.channels,
                              class_names=environment["label_spec"]["class_names"])
    arithmetic(config).apply(model.to(device))
    load_weights(run.best_weights, model)
    return folded_copy(model, noise(spec, 2, device))


def load_plain_model(run: RunDirectory) -> nn.Module:
    """The chosen network in eval mode on the CPU as it was built: nothing folded or replaced.

    Raises:
        FinetuneError: The weights are missing or damaged.
    """
    environment, config = run.environment, without_weights(run.config)
    config = replace(config, training=replace(config.training, grad_checkpointing=False))
    model, _ = assemble_model(config, channels=environment["input_spec"]["channels"],
                              class_names=environment["label_spec"]["class_names"])
    load_weights(run.best_weights, model)
    return model.eval()


def load_network(run: RunDirectory, *, precision: str = "fp32",
                 ) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]:
    """A function from pictures (B, H, W, C) of the run's number type and size to logits (B, K).

    Beside the logits it gives distances (B,) from the training pictures, or None where the run kept
    nothing of them, and in bf16, whose rounding is large along axes in which features hardly vary.
    It computes on the run's device, or on the best one that is here.

    Args:
        run: A finished one.
        precision: ``fp32`` as when the run was measured, or ``bf16``.
    """
    spec = InputSpec.from_dict(run.environment["input_spec"])
    device = _device(run.config.device.value)
    compute_exactly(device)
    model, prepare = load_run_model(run, device), PrepareBatch(spec, device)
    lay_out, autocast = arithmetic(run.config).lay_out, Arithmetic(precision).autocast(device)
    known = load_familiarity(run) if precision == "fp32" else None
    answering = WithFeatures(model, known.names if known is not None else ())
    distance = None if known is None else Distance(known.to_arrays()).to(device)

    def network(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        with torch.inference_mode():
            with autocast():
                logits, features = answering(lay_out(prepare(_images(batch, spec))))
            far = None if distance is None else distance(features).cpu().numpy()
            return logits.float().cpu().numpy(), far

    return network


def load_familiarity(run: RunDirectory) -> Familiarity | None:
    """What the run kept of its training pictures' features; None where it kept nothing.

    Raises:
        DataError: The file is damaged.
    """
    return Familiarity.load(run.familiarity) if run.familiarity.is_file() else None


def _images(batch: np.ndarray, spec: InputSpec) -> Tensor:
    """(B, C, H, W), uint8 or float32 in 0..1, as a loader gives them."""
    shown = batch if spec.dtype is Dtype.uint8 else to_unit_range(batch, spec.value_range)
    return torch.from_numpy(shown).permute(0, 3, 1, 2)


def _device(wanted: str) -> torch.device:
    try:
        return session.choose_device(wanted)
    except InputError:
        return session.choose_device("auto")
