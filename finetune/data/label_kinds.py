"""What labels are to mean: classes in an order, or as the data have them."""

import math
from dataclasses import replace

import numpy as np

from finetune.data.samples import Samples
from finetune.errors import DataError, did_you_mean, first_of
from finetune.specs import LabelKind, LabelSpec

__all__ = ["with_label_kind"]


def with_label_kind(samples: Samples, kind: LabelKind | None, order: str | None) -> Samples:
    """The samples with labels of the kind asked for; ordered classes are numbered by their order.

    Args:
        samples: As read.
        kind: None: as the data have them.
        order: All classes, from the lowest up, separated by commas; None: they are numbers.

    Raises:
        DataError: The labels are of another kind, or the order isn't one of these classes.
    """
    found = samples.label_spec
    if kind is not LabelKind.ordinal:
        if kind not in (None, found.kind):
            raise DataError(f"data.label_kind={kind}, but the labels are {found.kind}: "
                            f"{_has(found)}; leave it unset, or name other columns with "
                            "data.label_column=")
        return samples
    if not found.is_exclusive:
        raise DataError(f"data.label_kind=ordinal needs one class for each picture; {_has(found)}")
    names = _numbers(found.class_names) if order is None else _listed(order, found.class_names)
    if len(names) < 3:
        raise DataError("data.label_kind=ordinal needs three or more classes; there are "
                        f"{names[0]} and {names[1]}, which is data.label_kind=single")
    place = {name: rank for rank, name in enumerate(names)}
    ranks = np.array([place[name] for name in found.class_names])
    return replace(samples, labels=ranks[samples.labels].astype(np.int64),
                   label_spec=LabelSpec(LabelKind.ordinal, tuple(names)))


def _has(spec: LabelSpec) -> str:
    count = "exactly one" if spec.is_exclusive else "any number"
    return f"a picture has {count} of {first_of(spec.class_names, count=4)}"


def _numbers(names: tuple[str, ...]) -> list[str]:
    """Names of classes by their value."""
    values = {}
    for name in names:
        try:
            values[name] = float(name)
        except ValueError:
            values[name] = math.nan
    other = [name for name, value in values.items() if not math.isfinite(value)]
    if other or len(set(values.values())) < len(names):
        why = f"{first_of(other)} is no number" if other else "some are the same number"
        raise DataError(f"data.label_kind=ordinal: the order of {first_of(names, count=10)} isn't "
                        f"known ({why}); give it, from the lowest up: data.class_order="
                        f'"{",".join(names)}"')
    return sorted(names, key=values.__getitem__)


def _listed(order: str, names: tuple[str, ...]) -> list[str]:
    """The names of the order, which have to be those of the data."""
    listed = [name.strip() for name in order.split(",")]
    unknown = [f"{n!r}{did_you_mean(n, names)}" for n in listed if n not in names]
    lacking = [repr(n) for n in names if n not in listed]
    twice = [repr(n) for n in dict.fromkeys(listed) if listed.count(n) > 1]
    wrong = [f"{what} {first_of(which)}" for what, which in (
        ("no picture has", unknown), ("missing is", lacking), ("named twice is", twice)) if which]
    if wrong:
        raise DataError(f"data.class_order={order}: {'; '.join(wrong)}; expected every class of "
                        f"the data once, from the lowest up: {','.join(names)}")
    return listed
