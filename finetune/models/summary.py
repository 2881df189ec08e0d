"""What a network is made of, depth by depth: shapes, parameters, multiply-adds, memory.

The network runs twice with empty pictures. If its tensors lie on torch's ``meta`` device, nothing
is computed and no memory is needed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from finetune.errors import ConfigurationError
from finetune.models.depths import depth_names, layer_depths, tensor_depths
from finetune.models.freezing import Policy, freezing_plan

__all__ = ["DepthSummary", "Memory", "NetworkSummary", "PolicySummary", "on_meta",
           "summarise_network", "summarise_policies"]


@dataclass(frozen=True)
class DepthSummary:
    """One depth of a network.

    Attributes:
        depth: 0 is the stem, the last is the classifier.
        modules: What lies in it.
        output_shape: What it hands on, for one picture; None if no module of it runs.
        parameters: Their number.
        multiply_adds: For one picture, forward.
        activations: Bytes kept for the backward pass, for the whole batch.
    """

    depth: int
    modules: str
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int
    activations: int


@dataclass(frozen=True)
class PolicySummary:
    """What a freezing policy trains in its first and its last epoch: depths and parameters."""

    policy: str
    first_depths: tuple[int, ...]
    first_parameters: int
    last_depths: tuple[int, ...]
    last_parameters: int


@dataclass(frozen=True)
class Memory:
    """Bytes that training takes, each tensor once. What is frozen has no gradients and no state.

    Attributes:
        weights: Parameters and buffers (running statistics of norms).
        gradients: One for each trainable parameter.
        adamw_state: Two running means for each trainable parameter.
        activations: See `summarise_network`.
    """

    weights: int
    gradients: int
    adamw_state: int
    activations: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.gradients + self.adamw_state + self.activations


@dataclass(frozen=True)
class NetworkSummary:
    """A network, depth by depth."""

    depths: tuple[DepthSummary, ...]
    policies: tuple[PolicySummary, ...]
    memory: Memory

    @property
    def parameters(self) -> int:
        """Of all depths."""
        return sum(d.parameters for d in self.depths)

    @property
    def multiply_adds(self) -> int:
        """Of all depths, for one picture, forward."""
        return sum(d.multiply_adds for d in self.depths)


def summarise_network(model: nn.Module, *, size: tuple[int, int], in_channels: int = 3,
                      batch_size: int = 32, epochs: int = 10) -> NetworkSummary:
    """The network, depth by depth (`finetune.models.depths`).

    *Multiply-adds* are those of convolutions, linear layers and matrix products, attention's
    included, in evaluation mode; norms, activations, pooling, sums and biases are not counted
    (torch's `FlopCounterMode`, halved; fvcore counts these the same). A product belongs to the
    depth whose module was entered last.

    *Activations* are the bytes that autograd keeps between the forward and the backward pass of
    one training step of those parameters that require gradients: each storage once, with the batch
    itself, without parameters and buffers, at the depth that keeps it first. Attention is taken as
    unfused, with its (heads, tokens, tokens) weights; fused kernels keep less. Not counted: the
    loss, temporary tensors, work space of the kernels, an average of the weights.

    The *output shape* of a depth is that of its last module. Modules without parameters that
    follow (a max-pool, an activation) belong to it; pooling over the whole picture doesn't change
    it. Of several outputs, the first counts.

    Args:
        model: Gives logits (B, K). Its training mode is restored. Running statistics of norms move,
            unless it lies on the meta device.
        size: Height and width of a picture, in pixels.
        in_channels: Channels of a picture.
        batch_size: Pictures in a training step; 2 up, since batch norm needs two values.
        epochs: Length of the training for which policies are told.

    Raises:
        ConfigurationError: The network doesn't take such pictures, or gives no logits.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    >>> found = summarise_network(net, size=(8, 8), batch_size=2)
    >>> [(d.modules, d.output_shape, d.parameters, d.multiply_adds) for d in found.depths]
    [('0', (4, 6, 6), 112, 3888), ('2', (2,), 290, 288)]
    """
    where, parameters = layer_depths(model), dict(model.named_parameters())
    names = depth_names(where)
    watch = _Watch(model, len(names))
    was_training = model.training
    try:
        _count_multiply_adds(model, watch, (1, in_channels, *size))
        _measure_activations(model, watch, (batch_size, in_channels, *size))
    finally:
        model.train(was_training)
    counts = [sum(parameters[n].numel() for n in where if where[n] == d) for d in range(len(names))]
    depths = tuple(DepthSummary(d, name, watch.shapes.get(d), counts[d], watch.multiply_adds[d],
                                watch.activations[d]) for d, name in enumerate(names))
    return NetworkSummary(depths, summarise_policies(counts, names, epochs=epochs),
                          _memory(model, sum(watch.activations)))


def summarise_policies(parameters: Sequence[int], names: Sequence[str], *, epochs: int,
                       ) -> tuple[PolicySummary, ...]:
    """What each named policy, and ``below`` each inner depth, would train.

    Args:
        parameters: Number of parameters of each depth.
        names: Modules of each depth.
        epochs: Length of the training.

    >>> [p.first_parameters for p in summarise_policies([5, 3, 2], ["stem", "layer1", "fc"],
    ...                                                 epochs=4)]
    [10, 2, 2, 2, 5]
    """
    top = len(names) - 1
    named = [p for p in Policy if p not in (Policy.below, Policy.phases)]
    wanted: list[tuple[str, Policy, int]] = [(str(p), p, 0) for p in named]
    wanted += [(f"below={names[d].split()[0]}", Policy.below, d) for d in range(1, top)]

    def at(epoch: int, policy: Policy, below: int) -> tuple[tuple[int, ...], int]:
        plan = freezing_plan(policy, [None] * epoch, depth_count=top + 1, epochs=epochs,
                             below=below)
        return tuple(sorted(plan.depths)), sum(parameters[d] for d in plan.depths)

    return tuple(PolicySummary(label, *at(0, policy, below), *at(epochs - 1, policy, below))
                 for label, policy, below in wanted)


@contextmanager
def on_meta() -> Iterator[None]:
    """Networks built inside have shapes only, on torch's meta device."""
    with torch.device("meta"), _ShapesOnly():
        yield


class _ShapesOnly(TorchFunctionMode):
    """While networks are built: rates of stochastic depth stay numbers, nothing is drawn.

    Networks read the rates from ``torch.linspace``, which meta can't do; and drawing nothing takes
    half of the time.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in (Tensor.normal_, Tensor.uniform_) and args[0].is_meta:
            return args[0]
        if func is torch.linspace:
            given.setdefault("device", "cpu")
        return func(*args, **given)


class _Watch:
    """Follows a network as it runs and writes down what each depth does."""

    def __init__(self, model: nn.Module, depth_count: int) -> None:
        self.here = 0
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.multiply_adds, self.activations = [0] * depth_count, [0] * depth_count
        self._depths = _module_depths(model)

    @contextmanager
    def follow(self, model: nn.Module, before_change: Callable[[], None]) -> Iterator[None]:
        """Keep ``here`` at the depth entered last; tell just before it changes and at the end."""
        def enter(module: nn.Module, _: Any) -> None:
            depth = self._depths.get(module, {self.here})
            if len(depth) == 1 and self.here not in depth:
                before_change()
                self.here = next(iter(depth))

        with ExitStack() as hooks:
            for module in model.modules():
                hooks.callback(module.register_forward_pre_hook(enter).remove)
                hooks.callback(module.register_forward_hook(self._leave).remove)
            self.here = 0
            yield
            before_change()

    def _leave(self, module: nn.Module, _: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple | list) and output else output
        own = self._depths.get(module, set())
        if not isinstance(output, Tensor) or len(own) > 1:
            return
        shape = tuple(output.shape[1:])
        if own or not _pools_everything(self.shapes.get(self.here, ()), shape):
            self.shapes[self.here] = shape


def _module_depths(model: nn.Module) -> dict[nn.Module, set[int]]:
    """Modules with parameters or buffers, and the depths that these lie in."""
    found: dict[nn.Module, set[int]] = {}
    modules = dict(model.named_modules())
    for name, depth in tensor_depths(model).items():
        parts = name.split(".")
        for end in range(len(parts)):
            found.setdefault(modules[".".join(parts[:end])], set()).add(depth)
    return found


def _pools_everything(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return len(after) != len(before) or (after[1:] == (1, 1) and before[1:] != (1, 1))


def _count_multiply_adds(model: nn.Module, watch: _Watch, shape: tuple[int, ...]) -> None:
    counted = 0

    def assign() -> None:
        nonlocal counted
        total = counter.get_total_flops()
        watch.multiply_adds[watch.here] += (total - counted) // 2
        counted = total

    model.eval()
    # Gradients on: without, torch 2.14's counter fails at views of parameters, such as cait's.
    with (torch.enable_grad(), FlopCounterMode(display=False) as counter,
          watch.follow(model, assign)):
        _check_logits(_forward(model, shape))


def _measure_activations(model: nn.Module, watch: _Watch, shape: tuple[int, ...]) -> None:
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, UntypedStorage] = {}  # alive, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in kept:
            kept[storage._cdata] = storage
            watch.activations[watch.here] += storage.nbytes()
        return tensor

    model.train()
    with (torch.enable_grad(), watch.follow(model, lambda: None),
          saved_tensors_hooks(keep, lambda tensor: tensor)):
        _forward(model, shape)


def _forward(model: nn.Module, shape: tuple[int, ...]) -> Any:
    device = next(model.parameters()).device
    try:
        with sdpa_kernel(SDPBackend.MATH):
            return model(torch.zeros(shape, device=device))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        _, channels, height, width = shape
        raise ConfigurationError(f"the network can't take {channels} x {height} x {width}: "
                                 f"{str(error).rstrip('. ') or type(error).__name__}") from error


def _check_logits(output: Any) -> None:
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigurationError(f"the network answers {found} to 1 picture, not logits (1, K)")


def _memory(model: nn.Module, activations: int) -> Memory:
    parameters = list(model.parameters())
    trained = _bytes(p for p in parameters if p.requires_grad)
    return Memory(_bytes([*parameters, *model.buffers()]), trained, 2 * trained, activations)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
