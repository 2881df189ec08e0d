"""The two contracts that data, models and everything after training share.

`InputSpec` says what a picture is when it enters the network, `LabelSpec` what the network answers.
Plain values, no torch: prediction without torch reads the same two.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = ["INTERPOLATIONS", "Decoding", "Dtype", "InputSpec", "LabelKind", "LabelSpec",
           "OrdinalLink", "Resize"]


INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "area", "nearest")


class Resize(StrEnum):
    """How a picture of any shape becomes one of the network's size."""

    squash = "squash"  # both sides to the size; the aspect ratio changes
    crop = "crop"      # shorter side to the size, then the centre (random when training)
    pad = "pad"        # longer side to the size, then black borders: the whole picture is seen


class Decoding(StrEnum):
    """How large JPEG pictures are decoded for training."""

    scaled = "scaled"  # as large as the transform needs, by the decoder's own halving
    full = "full"      # whole


class Dtype(StrEnum):
    """Number type of decoded pictures."""

    uint8 = "uint8"
    uint16 = "uint16"
    float32 = "float32"


class LabelKind(StrEnum):
    """What a label says about a picture."""

    single = "single"    # exactly one class
    ordinal = "ordinal"  # exactly one class, and classes have an order
    multi = "multi"      # any number of classes, each yes, no or unknown


class OrdinalLink(StrEnum):
    """How scores become probabilities of ordered classes."""

    cumulative_link = "cumulative_link"  # one score, cut by ordered thresholds
    corn = "corn"                        # a score for each step up, given that it is reached


@dataclass(frozen=True)
class InputSpec:
    """One picture as the network gets it.

    A decoded picture is (H, W, C) of ``dtype``. It is resized to ``size``, mapped linearly from
    ``value_range`` to 0..1 (values outside are clipped), and normalised by ``mean`` and ``std``
    per channel.

    Attributes:
        size: Height and width in pixels.
        channels: Number of channels C.
        channel_names: A name for each channel.
        dtype: Number type of the decoded picture.
        value_range: The two values of ``dtype`` that become 0 and 1.
        mean: Per channel, on the 0..1 scale.
        std: Per channel, on the 0..1 scale.
        interpolation: ``bilinear``, ``bicubic``, ``lanczos``, ``area`` or ``nearest``.
        resize: How other shapes are brought to ``size``.
    """

    size: tuple[int, int]
    channels: int
    channel_names: tuple[str, ...]
    dtype: Dtype
    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    resize: Resize = Resize.squash

    def __post_init__(self) -> None:
        for name in ("channel_names", "mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries, "
                                 f"not one for each of {self.channels} channels")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r} is none of "
                             f"{', '.join(INTERPOLATIONS)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InputSpec":
        """The spec that `to_dict` described."""
        tuples = ("size", "channel_names", "value_range", "mean", "std")
        plain: dict[str, Any] = {k: tuple(v) if k in tuples else v for k, v in values.items()}
        plain["dtype"], plain["resize"] = Dtype(plain["dtype"]), Resize(plain["resize"])
        return cls(**plain)


@dataclass(frozen=True)
class LabelSpec:
    """What the labels are. Decides output width, loss, decoding, stratification and metrics.

    Targets are (B,) int64 for ``single`` and ``ordinal``; (B, K) float with NaN = unknown for
    ``multi``.

    Attributes:
        kind: One class for each picture, one of ordered classes, or any number.
        class_names: In the order of the network's outputs; ``ordinal``: from the lowest up.
        positive_class: With two classes, the one whose sensitivity is asked for.
    """

    kind: LabelKind
    class_names: tuple[str, ...]
    positive_class: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class names repeat: {self.class_names}")
        if self.positive_class is not None and self.positive_class not in self.class_names:
            raise ValueError(f"positive class {self.positive_class!r} is not in {self.class_names}")
        if self.is_ordinal and len(self.class_names) < 3:
            raise ValueError(f"ordered classes are three or more, not {self.class_names}")

    @property
    def output_width(self) -> int:
        """Number of logits."""
        return len(self.class_names)

    @property
    def is_exclusive(self) -> bool:
        """Whether a picture has exactly one class, so that probabilities sum to 1."""
        return self.kind is not LabelKind.multi

    @property
    def is_ordinal(self) -> bool:
        """Whether classes have an order."""
        return self.kind is LabelKind.ordinal

    @property
    def is_binary(self) -> bool:
        """Whether this is one class out of exactly two."""
        return self.kind is LabelKind.single and len(self.class_names) == 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelSpec":
        """The spec that `to_dict` described."""
        return cls(LabelKind(values["kind"]), tuple(values["class_names"]),
                   values["positive_class"])
