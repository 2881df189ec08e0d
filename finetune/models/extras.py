"""Tensors of a file for which a network has no name: its classifier, another network's, or none."""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from finetune.errors import ConfigurationError, first_of

__all__ = ["QUESTION", "refuse_inner", "rename_classifier"]

QUESTION = "\nIs model.name the network that the file was trained with?"
# Float buffers of older programs that hold no weights; timm computes them.
COMPUTED = ("attn_mask", "relative_position_index", "relative_coords_table")


def refuse_inner(given: Mapping[str, Tensor], backbone: Collection[str],
                 heads: tuple[str, ...], *, name: str) -> None:
    """Raise a `ConfigurationError` for extra tensors in the network's own stem or stages.

    Without them the rest computes something else: projections or attention inside blocks, biases
    of convolutions, more blocks. Extras elsewhere (a projector, a second classifier) do no harm.

    Args:
        given: The file's tensors, prefixes taken off.
        backbone: Names of the network's tensors without the classifier's.
        heads: Prefixes of the classifier's names.
        name: Of the file, in the message.
    """
    wrapper = _common_modules(list(backbone))
    own = {_part(n, wrapper) for n in backbone}
    inner = [n for n, t in given.items() if n not in backbone and not n.startswith(heads)
             and n.startswith(wrapper) and _part(n, wrapper) in own
             and t.is_floating_point() and not n.endswith(COMPUTED)]
    if inner:
        raise ConfigurationError(
            f"{name} doesn't fit this network, though all or most names are found: {len(inner)} of "
            "its tensors lie in layers that have no such tensor here (other blocks or shortcuts, "
            f"or a deeper network): {first_of(inner)}.{QUESTION}")


def _common_modules(names: Sequence[str]) -> str:
    """The prefix of modules that all names share: what a wrapper adds.

    >>> _common_modules(["net.a.weight", "net.b.weight"])
    'net.'
    """
    shared = []
    for parts in zip(*(name.split(".")[:-2] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(f"{parts[0]}.")
    return "".join(shared)


def _part(name: str, wrapper: str) -> str:
    return name.removeprefix(wrapper).partition(".")[0]


def rename_classifier(given: Mapping[str, Tensor], target: Mapping[str, Tensor],
                      heads: tuple[str, ...]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with the classifier under the network's name, and a note if it had another.

    That is done only where the network's classifier is missing in the file and exactly one
    top-level module beside the backbone has the classifier's tensors, of the same shapes.

    >>> import torch
    >>> t = torch.zeros(2, 3)
    >>> rename_classifier({"linear.weight": t}, {"fc.weight": t}, ("fc.",))[1]
    ['the classifier is called linear in the file, fc in the network']
    """
    missing = [n for n in target if n.startswith(heads)]
    if not missing or len(heads) != 1 or any(n in given for n in missing):
        return dict(given), []
    wanted = {n.removeprefix(heads[0]): target[n].shape for n in missing}
    modules = dict.fromkeys(n.partition(".")[0] for n in given if n not in target)
    fits = [m for m in modules if wanted == {n.removeprefix(f"{m}."): t.shape for n, t
                                             in given.items() if n.startswith(f"{m}.")}]
    if len(fits) != 1:
        return dict(given), []
    old = f"{fits[0]}."
    note = f"the classifier is called {fits[0]} in the file, {heads[0][:-1]} in the network"
    return {heads[0] + n.removeprefix(old) if n.startswith(old) else n: t
            for n, t in given.items()}, [note]
