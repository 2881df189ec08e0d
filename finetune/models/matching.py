"""Tensors of a file matched to those of a network: by name, else by order, else refused."""

import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.errors import ConfigurationError, first_of
from finetune.models.extras import QUESTION, refuse_inner, rename_classifier

__all__ = ["MINIMUM_MATCH", "Match", "adapt_stem", "match_tensors", "strip_prefixes"]

MINIMUM_MATCH = 0.9  # share of the backbone's tensors that must be found
COUNTER = "num_batches_tracked"  # not a weight: files with and without it are the same to us

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Match:
    """What of a file goes where.

    Attributes:
        tensors: By the network's names; every shape fits.
        matched: Tensors of the backbone (all but the classifier and counters) that were found.
        total: Tensors of the backbone.
        notes: What a reader must know, as plain sentences.
    """

    tensors: dict[str, Tensor]
    matched: int
    total: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Target:
    """The network's side: all tensors in order, which of them are the classifier's, the stem's."""

    tensors: dict[str, Tensor]
    heads: tuple[str, ...]
    stems: frozenset[str]

    @property
    def backbone(self) -> list[str]:
        return [name for name in self.tensors if not name.startswith(self.heads)]

    def fit(self, name: str, given: Tensor) -> Tensor | None:
        wanted = self.tensors[name]
        if given.shape == wanted.shape:
            return given
        return adapt_stem(given, wanted) if name in self.stems else None


def match_tensors(given: Tensors, target: Tensors, *, heads: Collection[str],
                  stems: Collection[str], name: str) -> Match:
    """What of ``given`` goes where in a network whose state dict is ``target``.

    By name after stripping prefixes such as ``module.``. If fewer than `MINIMUM_MATCH` of the
    backbone's names are found but count, order and every shape agree one to one (the classifier
    may have other rows, or be missing), by order. Order is not trusted when names contradict it:
    a kind against another (a bias for a running mean), a name that both sides have in different
    places, numbers that don't ascend (files sorted by name), or a negative variance.
    Classifier tensors of another shape are left out; for those of another name, and for tensors
    that the network doesn't have, see `finetune.models.extras`.

    Args:
        given: The file's tensors in its order.
        target: The network's state dict.
        heads: Names of the classifier's modules.
        stems: Names of weights whose input channels may be adapted, see `adapt_stem`.
        name: How the file is called in messages.

    Raises:
        ConfigurationError: Too little matches; the message lists what matched and what didn't.
    """
    network = _Target(_without_counters(target), tuple(f"{h}." for h in heads), frozenset(stems))
    tensors, prefixes = strip_prefixes(_without_counters(given), network.tensors)
    notes = [] if len(prefixes) == 1 else [
        f"{name} holds several networks ({', '.join(prefixes)}); {prefixes[0]} is used"]
    found = [n for n in network.backbone if n in tensors]
    if len(found) >= MINIMUM_MATCH * len(network.backbone):
        refuse_inner(tensors, network.backbone, network.heads, name=name)
        tensors, renamed = rename_classifier(tensors, network.tensors, network.heads)
        notes += renamed
        return _by_name(tensors, network, name, notes)
    refusal = _why_not_by_order(tensors, network)
    if refusal:
        raise ConfigurationError(_mismatch(tensors, network, name, refusal))
    return _by_order(tensors, network, name)


def _without_counters(tensors: Tensors) -> dict[str, Tensor]:
    return {name: t for name, t in tensors.items() if not name.endswith(COUNTER)
            and (t.ndim > 0 or t.is_floating_point())}


def strip_prefixes(given: Tensors, target: Tensors) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without the prefix under which most of the target's names are found.

    Training programs wrap networks (``module.``, ``_orig_mod.``, ``model.backbone.``), or keep two
    of them (``encoder_q.`` and ``encoder_k.``).

    Returns:
        The tensors in their order, and all prefixes under which as many names are found, the
        one that was taken first. A prefix that explains less than half of the names is none.

    >>> import torch
    >>> t = torch.zeros(1)
    >>> tensors, prefixes = strip_prefixes({"net.fc.bias": t}, {"fc.bias": t})
    >>> list(tensors), prefixes
    (['fc.bias'], ['net.'])
    """
    counts: dict[str, int] = {}
    for name in given:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in target:
                prefix = "".join(f"{part}." for part in parts[:i])
                counts[prefix] = counts.get(prefix, 0) + 1
    most = max(counts.values(), default=0)
    if 2 * most <= min(len(given), len(target)):
        return dict(given), [""]
    prefixes = [prefix for prefix, count in counts.items() if count == most]
    if "" in prefixes:
        return dict(given), [""]
    first = prefixes[0]
    stripped = {n.removeprefix(first): n for n in given if n.startswith(first)}
    return {n.removeprefix(first): t for n, t in given.items()
            if n.startswith(first) or n not in stripped}, prefixes


def adapt_stem(weight: Tensor, wanted: Tensor) -> Tensor | None:
    """A convolution's weight for another number of input channels; None when it can't be.

    timm's rule (``adapt_input_conv``): for one channel the sum over channels, otherwise channels
    repeated in turn (or the first of them) and scaled by old / new. Unlike timm before 1.0.31, any
    number of old channels will do.

    Args:
        weight: (O, I, H, W).
        wanted: (O, I', H, W), only its shape is read.
    """
    same = weight.ndim == wanted.ndim == 4 and weight.shape[0] == wanted.shape[0] \
        and weight.shape[2:] == wanted.shape[2:]
    if not same:
        return None
    old, new = weight.shape[1], wanted.shape[1]
    if new == 1:
        return weight.float().sum(dim=1, keepdim=True)
    repeated = weight.float().repeat(1, -(-new // old), 1, 1)[:, :new]
    return repeated * (old / new)


def _by_name(given: Tensors, network: _Target, name: str, notes: list[str]) -> Match:
    fits = {n: network.fit(n, given[n]) for n in network.tensors if n in given}
    tensors = {n: t for n, t in fits.items() if t is not None}
    backbone = network.backbone
    matched = [n for n in backbone if n in tensors]
    if len(matched) < MINIMUM_MATCH * len(backbone):
        raise ConfigurationError(_mismatch(given, network, name, "names match, shapes don't"))
    extra = [n for n in given if n not in network.tensors and not n.startswith(network.heads)]
    left = {n: f"{n} has another shape" if n in given else n for n in backbone if n not in tensors}
    if left:
        notes = [*notes, f"{len(left)} of {len(backbone)} tensors don't come from {name} and stay "
                 f"random: {first_of(list(left.values()))}"]
    if extra:
        notes = [*notes, f"{len(extra)} tensors of {name} are not used: {first_of(extra)}"]
    return _finish(tensors, given, network, notes)


def _by_order(given: Tensors, network: _Target, name: str) -> Match:
    pairs = _pairs(given, network)
    fits = {n: network.fit(n, given[g]) for n, g in pairs}
    tensors = {n: t for n, t in fits.items() if t is not None}
    found = sum(n in given for n in network.backbone)
    note = (f"loaded by order: {found} of {len(network.backbone)} names of {name} match, but "
            "count, order and every shape agree one to one")
    return _finish(tensors, given, network, [note])


def _finish(tensors: dict[str, Tensor], given: Tensors, network: _Target,
            notes: list[str]) -> Match:
    """Take the classifier whole or not at all, and say what happened to stem and classifier."""
    head = [n for n in network.tensors if n.startswith(network.heads)]
    whole = all(n in tensors for n in head)
    if not whole:
        tensors = {n: t for n, t in tensors.items() if n not in head}
    notes.append("the classifier's tensors fit and are loaded" if whole
                 else "the classifier is new")
    notes += [f"{n} was adapted to {network.tensors[n].shape[1]} input channels"
              for n in network.stems & tensors.keys()
              if not any(t is tensors[n] for t in given.values())]
    backbone = network.backbone
    return Match(tensors, sum(n in tensors for n in backbone), len(backbone), tuple(notes))


def _pairs(given: Tensors, network: _Target) -> list[tuple[str, str]]:
    """Names of the network and of the file side by side; the classifier sits in the same place."""
    in_file = _extra(given, network)
    head = [n for n in network.tensors if n.startswith(network.heads)]
    kept = list(zip(head, in_file, strict=True)) if len(head) == len(in_file) else []
    return [*zip(network.backbone, [n for n in given if n not in in_file], strict=True), *kept]


def _extra(given: Tensors, network: _Target) -> dict[str, Tensor]:
    """What the file has more than the backbone, at the classifier's place."""
    start = next(i for i, n in enumerate(network.tensors) if n.startswith(network.heads))
    extra = max(0, len(given) - len(network.backbone))
    return dict(list(given.items())[start:start + extra])


def _is_classifier(tensors: Tensors) -> bool:
    """Nothing, or a matrix, or a matrix and its bias."""
    dims, rows = [t.ndim for t in tensors.values()], {len(t) for t in tensors.values() if t.ndim}
    return not dims or (dims[0] in (2, 4) and dims[1:] in ([], [1]) and len(rows) == 1)


def _why_not_by_order(given: Tensors, network: _Target) -> str:
    """Why the order can't be trusted; empty when it can."""
    extra = len(given) - len(network.backbone)
    if not 0 <= extra <= 2 or not _is_classifier(_extra(given, network)):
        return (f"the count differs: {len(given)} in the file, {len(network.backbone)} in the "
                "network without its classifier")
    pairs = [(n, g) for n, g in _pairs(given, network) if not n.startswith(network.heads)]
    wrong = [f"{n} {_shape(network.tensors[n])} against {g} {_shape(given[g])}"
             for n, g in pairs if network.fit(n, given[g]) is None]
    if wrong:
        return f"in order, {len(wrong)} shapes differ: {first_of(wrong)}"
    return _contradiction(pairs, given, network)


def _contradiction(pairs: list[tuple[str, str]], given: Tensors, network: _Target) -> str:
    kinds = [f"{g} for {n}" for n, g in pairs if "" != _kind(n) != _kind(g) != ""]
    moved = [f"{g} for {n}" for n, g in pairs if g != n and (g in network.tensors or n in given)]
    negative = [f"{g} for {n}" for n, g in pairs
                if _kind(n) == "variance" and bool((given[g] < 0).any())]
    unsorted = _not_ascending(list(given))
    for found, why in ((kinds, "kinds of tensors differ"), (moved, "names in both stand elsewhere"),
                       (negative, "variances would be negative"),
                       (unsorted, "numbers in its names don't ascend, as if sorted by name")):
        if found:
            return f"shapes agree in order, but that is ambiguous, {why}: {first_of(found)}"
    return ""


_KINDS = {"running_mean": "mean", "moving_mean": "mean", "running_var": "variance",
          "moving_variance": "variance", "moving_var": "variance", "bias": "bias", "beta": "bias",
          "weight": "weight", "gamma": "weight", "kernel": "weight"}


def _kind(name: str) -> str:
    last = re.split(r"[./:]", name)[-1]
    return next((kind for ending, kind in _KINDS.items() if last.endswith(ending)), "")


def _not_ascending(names: list[str]) -> list[str]:
    numbers: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for name in names:
        skeleton = re.sub(r"\d+", "#", name)
        numbers.setdefault(skeleton, []).append((tuple(map(int, re.findall(r"\d+", name))), name))
    return [f"{b} after {a}" for group in numbers.values()
            for (i, a), (j, b) in itertools.pairwise(group) if j < i]


def _mismatch(given: Tensors, network: _Target, name: str, reason: str) -> str:
    backbone = network.backbone
    present = [n for n in backbone if n in given]
    good = [n for n in present if network.fit(n, given[n]) is not None]
    missing = [n for n in backbone if n not in given]
    extra = [n for n in given if n not in network.tensors and not n.startswith(network.heads)]
    shapes = [f"{n} {_shape(given[n])} in the file, {_shape(network.tensors[n])} in the network"
              for n in present if n not in good]
    parts = [f"{title} ({len(names)}): {first_of(names)}" for title, names in
             (("matched", good), ("missing in the file", missing), ("not in the network", extra),
              ("other shape", shapes)) if names]
    return (f"{name} doesn't fit this network: {len(good)} of {len(backbone)} tensors match, "
            f"{MINIMUM_MATCH:.0%} are needed.\n  " + "\n  ".join(parts) +
            f"\n  not loaded by order: {reason}{QUESTION}")


def _shape(tensor: Tensor) -> str:
    return str(torch.Size(tensor.shape))[11:-1]
