"""The network with all that stands around it: decoded pictures in, calibrated probabilities out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.evaluation.calibration import Calibration
from finetune.models.familiarity import Distance, WithDistance
from finetune.specs import Dtype, InputSpec, LabelKind, LabelSpec

__all__ = ["ExportedModel", "example_batch"]

_DTYPES = {Dtype.uint8: torch.uint8, Dtype.uint16: torch.uint16, Dtype.float32: torch.float32}


class ExportedModel(nn.Module):
    """Pictures (B, H, W, C) of the spec's number type and size to all that is known of them.

    That is probabilities (B, K), calibrated, logits (B, K) before that, and where the model gives
    them distances (B,) from the training pictures; float32.

    Args:
        model: Normalised images (B, C, H, W) to logits (B, K), or to a pair of these and distances.
        spec: What a picture is.
        labels: What the network answers.
        calibration: Of the logits; None leaves them as they are.
        half: Compute the network in 16-bit floats; what stands around it stays in 32 bits.
    """

    low: Tensor
    span: Tensor
    factor: Tensor
    offset: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, model: nn.Module, spec: InputSpec, labels: LabelSpec,
                 calibration: Calibration | None, *, half: bool = False) -> None:
        super().__init__()
        self.model = _halved(model) if half else model
        self.kind = torch.float16 if half else torch.float32
        self.tells_distances = isinstance(model, WithDistance)
        self.several = labels.kind is LabelKind.multi
        low, high = spec.value_range
        mean, std = np.array(spec.mean), np.array(spec.std)
        width = labels.output_width
        given: dict[str, Any] = {
            "low": low, "span": max(high - low, 1e-12), "factor": 1 / std, "offset": -mean / std,
            "scale": calibration.scale if calibration is not None else [1.0] * width,
            "bias": calibration.bias if calibration is not None else [0.0] * width}
        for name, values in given.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Probabilities (B, K), logits (B, K), and distances (B,) where there are any."""
        unit = ((pictures.to(torch.float32) - self.low) / self.span).clamp(0.0, 1.0)
        images = (unit * self.factor + self.offset).permute(0, 3, 1, 2)
        answers: Any = self.model(images.to(self.kind))
        raw, *distances = answers if self.tells_distances else (answers,)
        logits = raw.to(torch.float32)
        calibrated = logits * self.scale + self.bias
        odds = calibrated.sigmoid() if self.several else calibrated.softmax(dim=1)
        return odds, logits, *distances


def _halved(model: nn.Module) -> nn.Module:
    """With weights in 16-bit floats, but for those of distances, which would overflow."""
    for module in model.modules():
        if not isinstance(module, Distance):
            for values in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if values.is_floating_point():
                    values.data = values.data.half()
    return model


def example_batch(spec: InputSpec, count: int = 2) -> Tensor:
    """Pictures (count, H, W, C) of zeros, in the spec's number type."""
    return torch.zeros((count, *spec.size, spec.channels), dtype=_DTYPES[spec.dtype])
