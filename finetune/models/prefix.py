"""The frozen part of a network as a function of its own, and the rest as another.

What lies below the lowest trainable depth is the *prefix*, the rest the *suffix*; the prefix's
answer for a picture, its *features*, stays the same as long as it is frozen. Where to cut is found
by watching one forward pass, so that any network can be cut whose forward pass hands one tensor
over; that both parts together answer as the whole does is checked every time.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.errors import FinetuneError
from finetune.models.depths import tensor_depths

__all__ = ["Boundary", "CannotCut", "Prefix", "build_prefix", "build_suffix", "find_boundary",
           "fold_norms", "folded_copy"]

TOLERANCE = 1e-5  # relative, float32: of folding, and of both parts against the whole


class CannotCut(FinetuneError):
    """A network whose forward pass can't be divided at a depth; it is trained whole."""


@dataclass(frozen=True)
class Boundary:
    """Where a network is cut.

    Attributes:
        depth: The lowest depth of the suffix.
        module: The suffix begins with this one's input.
        shape: Of one picture's features, such as (256, 14, 14).
        skipped: Modules below, by name, with the shape of one picture's output.
        image_shape: Of one picture.
    """

    depth: int
    module: str
    shape: tuple[int, ...]
    skipped: dict[str, tuple[int, ...]]
    image_shape: tuple[int, ...]


@dataclass(frozen=True)
class _Call:
    name: str
    inputs: tuple[Any, ...]
    output: Any


def find_boundary(model: nn.Module, depth: int, images: Tensor) -> Boundary:
    """The place with the fewest features at which all below ``depth`` can be split off.

    Args:
        model: In the mode in which it trains (`finetune.models.freezing.train_mode`); unchanged
            afterwards.
        depth: The lowest depth that trains, 1 up.
        images: (B, C, H, W), as the network takes them; two are enough.

    Raises:
        CannotCut: The pass isn't a chain here, or parts and whole differ.
    """
    names, where = {m: n for n, m in model.named_modules()}, tensor_depths(model)
    with torch.no_grad(), _kept(model):
        calls = _watch(model, names, images)
    sides = {name: _side(name, where, depth) for name in names.values()}
    found = _candidates(calls, sides)
    for call, below in sorted(reversed(found), key=lambda pair: pair[0].inputs[0][0].numel()):
        boundary = Boundary(depth, call.name, tuple(call.inputs[0].shape[1:]),
                            _skipped(below, sides), tuple(images.shape[1:]))
        if _agree(model, boundary, images):
            return boundary
    raise CannotCut(f"{type(model).__name__} can't be cut below depth {depth}: its forward pass "
                    "hands more over there than one tensor")


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Buffers (running statistics) and random state as before afterwards."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng({b.device for b in model.parameters() if b.is_cuda}):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])


def _watch(model: nn.Module, names: dict[nn.Module, str], images: Tensor) -> list[_Call]:
    """The calls of one pass, in the order in which they began."""
    calls: list[Any] = []
    open_calls: list[int] = []

    def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        open_calls.append(len(calls))
        calls.append((names[module], inputs))

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        place = open_calls.pop()
        name, given = calls[place]
        calls[place] = _Call(name, given, output)

    hooks = [h for m in names for h in
             (m.register_forward_pre_hook(begin), m.register_forward_hook(end))]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _side(name: str, where: dict[str, int], depth: int) -> str:
    """``below``, ``above``, ``both`` or, without tensors, ``neither``."""
    own = {where[key] >= depth for key in where if not name or key.startswith(f"{name}.")}
    return {(): "neither", (True,): "above", (False,): "below"}.get(tuple(sorted(own)), "both")


def _candidates(calls: list[_Call], sides: dict[str, str]) -> list[tuple[_Call, list[_Call]]]:
    """Calls that the suffix may begin with, each with the calls before it."""
    last = max(i for i, call in enumerate(calls) if sides[call.name] == "below")
    counts = [call.name for call in calls]
    found = []
    for place in range(last + 1, len(calls)):
        call = calls[place]
        alone = len(call.inputs) == 1 and isinstance(call.inputs[0], Tensor)
        if alone and counts.count(call.name) == 1 and sides[call.name] != "both":
            found.append((call, calls[:place]))
        if sides[call.name] == "above":
            break
    return found


def _skipped(calls: list[_Call], sides: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """The outermost modules that need not run, with their outputs' shapes."""
    found: dict[str, tuple[int, ...]] = {}
    for call in calls:
        inside = any(call.name.startswith(f"{outer}.") for outer in found)
        if sides[call.name] in ("below", "neither") and call.name and not inside:
            found[call.name] = tuple(call.output.shape[1:]) if isinstance(
                call.output, Tensor) else ()
    return found


def _agree(model: nn.Module, boundary: Boundary, images: Tensor) -> bool:
    """Whether parts and whole give the same logits, random numbers included."""
    with torch.no_grad(), _kept(model):
        torch.manual_seed(0)
        whole = model(images)
        prefix = build_prefix(model, boundary)
        torch.manual_seed(0)
        try:
            parts = build_suffix(model, boundary)(prefix(images))
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError):
            return False  # what lies between the modules can't do with the stand-ins
    return parts.shape == whole.shape and _difference(parts, whole) <= TOLERANCE


def _difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    largest = float(wanted.abs().max())
    return float((found - wanted).abs().max()) / largest if largest else float(found.abs().max())


class _Reached(Exception):
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


class Prefix:
    """Features of images, by a frozen copy of the network; (B, C, H, W) to (B, *shape)."""

    def __init__(self, model: nn.Module, boundary: Boundary) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model.get_submodule(boundary.module).register_forward_pre_hook(_stop)

    def __call__(self, images: Tensor) -> Tensor:
        """The features; nothing is recorded for gradients."""
        with torch.no_grad():
            try:
                self.model(images)
            except _Reached as reached:
                return reached.features
        raise CannotCut("the pass ended without reaching the boundary")


def _stop(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    raise _Reached(inputs[0])


def build_prefix(model: nn.Module, boundary: Boundary, *, images: Tensor | None = None) -> Prefix:
    """What lies below the boundary, in eval mode; later changes of ``model`` don't reach it.

    With ``images`` (B, C, H, W) to watch, batch norms are folded into convolutions, unless that
    changes features by more than `TOLERANCE`.
    """
    prefix = Prefix(model, boundary)
    if images is None:
        return prefix
    wanted = prefix(images)
    fold_norms(prefix.model, prefix, images)
    same = _difference(prefix(images), wanted) <= TOLERANCE
    return prefix if same else Prefix(model, boundary)


class _StandIn(nn.Module):
    """Answers with zeros of the shape that the module in its place would give."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, *others: Any, **options: Any) -> Tensor:
        return x.new_zeros(()).expand(len(x), *self.shape)


class _Start(nn.Module):
    """The suffix's first module: takes the features, whatever it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.features: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        return self.module(self.features)


class _Suffix(nn.Module):
    """Logits (B, K) of features; shares the network's modules, so that it trains them.

    No hook does it: `torch.compile` would compile anew whenever one is set.
    """

    def __init__(self, model: nn.Module, boundary: Boundary) -> None:
        super().__init__()
        self.image_shape = boundary.image_shape
        self.body = _shared_copy(model, "", boundary)
        self.start: Any = self.body.get_submodule(boundary.module)

    def forward(self, features: Tensor) -> Tensor:
        """From the features on, as the network goes on."""
        self.start.features = features
        blank = features.new_zeros(()).expand(len(features), *self.image_shape)
        result: Tensor = self.body(blank)
        self.start.features = None
        return result


def _shared_copy(module: nn.Module, name: str, boundary: Boundary) -> nn.Module:
    """The module with stand-ins for what is skipped; only what contains a new one is copied."""
    if name in boundary.skipped:
        return _StandIn(boundary.skipped[name])
    if name == boundary.module:
        return _Start(module)
    if not any(new.startswith(f"{name}." if name else "")
               for new in (*boundary.skipped, boundary.module)):
        return module
    twin = copy.copy(module)
    twin._modules = {key: child and _shared_copy(child, f"{name}.{key}".lstrip("."), boundary)
                     for key, child in module._modules.items()}
    return twin


def build_suffix(model: nn.Module, boundary: Boundary) -> nn.Module:
    """The network from the boundary on: features (B, *shape) to logits (B, K).

    It shares parameters and modules with ``model``. Make it anew whenever the mode of ``model``
    has changed.
    """
    return _Suffix(model, boundary)


def fold_norms(model: nn.Module, run: Any, images: Tensor) -> int:
    """Fold batch norms into the convolutions in front of them, in place; how many.

    A convolution's output w*x + b normalised is (w g/s)*x + (b - m) g/s + c, with the running mean
    m and deviation s, and the norm's weight g and bias c. Only for a network in eval mode.

    Args:
        model: Changed: the norms become what they do beside normalising (activation, identity).
        run: Called with ``images``: a pass through the part that is to be folded.
        images: (B, C, H, W).
    """
    pairs = _pairs(model, run, images)
    for convolution, norm in pairs:
        _fold(convolution, model.get_submodule(norm))
        parent, _, attribute = norm.rpartition(".")
        setattr(model.get_submodule(parent), attribute, _rest(model.get_submodule(norm)))
    return len(pairs)


@torch.no_grad()
def folded_copy(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy in eval mode with batch norms folded, unless logits change beyond `TOLERANCE`.

    Args:
        model: Unchanged.
        images: (B, C, H, W), to watch a pass with.
    """
    folded = copy.deepcopy(model).eval()
    wanted = folded(images)
    fold_norms(folded, folded, images)
    same = _difference(folded(images), wanted) <= TOLERANCE
    return folded if same else copy.deepcopy(model).eval()


def _pairs(model: nn.Module, run: Any, images: Tensor) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions whose output a norm takes, with the norm's name; each of them used once."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[tuple[nn.Conv2d, str]] = []
    names = {m: n for n, m in model.named_modules()}

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs[id(output)] = module, output  # type: ignore[assignment]

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if id(inputs[0]) in outputs:
            found.append((outputs[id(inputs[0])][0], names[module]))

    hooks = [m.register_forward_hook(after) for m in names if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before) for m in names if _foldable(m)]
    try:
        run(images)
    finally:
        for hook in hooks:
            hook.remove()
    uses = Counter(x for convolution, norm in found for x in (id(convolution), norm))
    return [(c, n) for c, n in found if uses[id(c)] == uses[n] == 1]


def _foldable(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    start = 0.0 if convolution.bias is None else convolution.bias.double()
    offset = (start - norm.running_mean.double()) * scale
    offset = offset if norm.bias is None else offset + norm.bias.double()
    kind = convolution.weight.dtype
    weight = convolution.weight.double() * scale.view(-1, 1, 1, 1)
    convolution.weight = nn.Parameter(weight.to(kind), requires_grad=False)
    convolution.bias = nn.Parameter(offset.to(kind), requires_grad=False)


def _rest(norm: nn.Module) -> nn.Module:
    """What timm's norms do after normalising: nothing, or an activation."""
    activation = getattr(norm, "act", None)
    return nn.Identity() if activation is None else activation
