"""How a device computes: exactly, and the same from run to run."""

import os
from typing import Any

import torch

__all__ = ["compute_exactly", "device_name"]


def compute_exactly(device: torch.device) -> None:
    """Let CUDA compute float32 in float32 and with deterministic kernels; nothing elsewhere.

    torch's default for convolutions in float32 on CUDA is TF32, which keeps 10 of 23 bits: answers
    would differ from those of a CPU or of an exported network in the third digit, and cutting and
    folding a network couldn't be checked to 1e-5. Speed comes from bf16, which is measured and
    stored. Kernels aren't chosen by timing them, since another choice rounds differently; torch
    warns where an operation has no deterministic one.

    Call it before anything is computed there. It holds for the process.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling: Any = torch.utils.deterministic  # of new tensors: costs time, hides nothing here
    filling.fill_uninitialized_memory = False


def device_name(device: torch.device) -> str:
    """The device as torch calls it; of a CUDA device also its model.

    >>> device_name(torch.device("cpu"))
    'cpu'
    """
    return (f"{device.type} {torch.cuda.get_device_name(device)}" if device.type == "cuda"
            else str(device))
