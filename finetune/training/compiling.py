"""A forward pass compiled by torch, and what to say when that fails."""

import warnings

import torch
from torch import nn

from finetune.errors import ConfigurationError

__all__ = ["compile_forward", "compile_problem"]


def compile_forward(network: nn.Module, *, backend: str = "inductor") -> nn.Module:
    """A module that computes as ``network`` does and trains it, compiled at its first call.

    The network itself stays as it is, with its names and its state dict; only what goes through
    the returned module is compiled. What was compiled before in this process is forgotten: one
    training compiles one network at a time, and torch goes back to uncompiled code without an error
    where it finds more variants of a function than it keeps.

    Args:
        network: In its mode, with the parameters that are to train requiring gradients. Make the
            compiled one anew when that changes.
        backend: Of `torch.compile`.
    """
    torch.compiler.reset()
    warnings.filterwarnings("ignore", "TensorFloat32", UserWarning)  # float32 is meant
    compiled: nn.Module = torch.compile(network, backend=backend)  # type: ignore[assignment]
    return compiled


def compile_problem(error: RuntimeError) -> ConfigurationError | None:
    """What to say when an error of a training step is a compiler's; None for all others."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    lines = (str(error).strip() or type(error).__name__).splitlines()
    first = " ".join(line.strip() for line in lines[:2] if line.strip())
    return ConfigurationError(
        f"training.compile=true: torch can't compile this network on this machine ({first}). It "
        "needs a C++ compiler, on CUDA triton too; without: training.compile=false",
        ways_out=("training.compile=false",))
