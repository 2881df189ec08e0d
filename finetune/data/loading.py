"""Batches of pictures, the same for any number of worker processes.

The sampler yields ``(index, seed)`` and the dataset augments with that seed, so that what a
picture looks like depends on the run's seed, the epoch and the picture alone: not on the process
that reads it, nor on any global random state.
"""

import hashlib
import signal
import struct
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from finetune.data.decoding import conform, resize_image, to_unit_range
from finetune.data.prefetching import read_ahead
from finetune.data.samples import PictureSource, Samples
from finetune.data.transforms import Transform
from finetune.errors import DataError
from finetune.specs import Decoding, Dtype, InputSpec, Resize

__all__ = ["ImageDataset", "LostPicture", "PrepareBatch", "Sampling", "SeededSampler",
           "balanced_weights", "build_loader", "measure_statistics"]

Item = tuple[Tensor, Tensor, int]


class LostPicture(DataError):
    """A picture that can't be read in training, though it could before; names it."""

    def __init__(self, message: str) -> None:
        # a worker process hands over the whole traceback as the message (torch 2.x)
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


class Sampling(StrEnum):
    """In what order, and how often, an epoch shows the pictures."""

    shuffled = "shuffled"      # each once, in random order
    balanced = "balanced"      # with replacement, all classes equally often
    sequential = "sequential"  # each once, in the given order


class SeededSampler(Sampler[tuple[int, int]]):
    """Yields (index, seed) for one epoch; `set_epoch` moves on to another.

    Order and seeds are a function of ``seed`` and the epoch. A picture drawn twice in an epoch
    gets two seeds.

    Args:
        length: Number of pictures, which is also the length of an epoch.
        seed: The run's seed.
        sampling: The order.
        weights: (length,) how often to draw each picture, up to a factor; for ``balanced``.
        views: How often in a row each picture comes, with a seed of its own each time.
    """

    def __init__(self, length: int, *, seed: int, sampling: Sampling | str = Sampling.shuffled,
                 weights: npt.NDArray[np.float64] | None = None, views: int = 1) -> None:
        self.length, self.seed, self.epoch, self.views = length, seed, 0, views
        self.sampling = Sampling(sampling)
        if (weights is None) == (self.sampling is Sampling.balanced):
            raise ValueError("weights go with sampling='balanced', and only with it")
        self.weights = weights

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length * self.views

    def __iter__(self) -> Iterator[tuple[int, int]]:
        drawn: Counter[int] = Counter()
        for index in self._order():
            for _ in range(self.views):
                yield index, _mix(self.seed, self.epoch, index, drawn[index])
                drawn[index] += 1

    def _order(self) -> list[int]:
        random = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch)))
        if self.sampling is Sampling.sequential:
            return list(range(self.length))
        if self.weights is None:
            return [int(i) for i in random.permutation(self.length)]
        share = self.weights / self.weights.sum()
        return [int(i) for i in random.choice(self.length, size=self.length, p=share)]


def _mix(*numbers: int) -> int:
    """A 63-bit seed that depends on every number and on their order."""
    text = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def balanced_weights(samples: Samples) -> npt.NDArray[np.float64]:
    """How often to draw each picture so that classes come equally often, (N,).

    Single-label: one over the number of pictures of its class. Multi-label: the same for the
    rarest of its positive classes; pictures without a positive class count as a class.
    """
    labels = np.asarray(samples.labels)
    if samples.label_spec.is_exclusive:
        counts = np.bincount(labels, minlength=samples.label_spec.output_width)
        return np.asarray(1.0 / counts[labels], dtype=np.float64)
    positive = np.nan_to_num(labels) > 0.5
    with_rest = np.column_stack([positive, ~positive.any(axis=1)])
    inverse = 1.0 / np.maximum(with_rest.sum(axis=0), 1)
    return np.asarray((with_rest * inverse).max(axis=1), dtype=np.float64)


class ImageDataset(Dataset[Item]):
    """Picture (C, H, W) uint8 or float32 in 0..1, target and index for an (index, seed).

    An unreadable picture raises `LostPicture` with its name: broken files are found before
    training, so one that breaks later is a failing disk or a changed folder.

    Args:
        samples: Pictures and labels.
        spec: The network's input.
        transform: From `build_transform`.
        decoding: ``scaled`` decodes JPEG only as large as ``transform`` needs it, for 8-bit
            networks.
    """

    def __init__(self, samples: Samples, *, spec: InputSpec, transform: Transform,
                 decoding: Decoding | str = Decoding.full) -> None:
        self.ids, self.source = samples.ids, samples.source
        self.targets = torch.as_tensor(np.asarray(samples.labels))
        self.spec, self.transform = spec, transform
        scaled = Decoding(decoding) is Decoding.scaled and spec.dtype is Dtype.uint8
        self.at_least = transform.at_least if scaled else None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index, seed = key
        pixels = _conformed(self.source, self.ids[index], self.spec.channels, self.spec.dtype,
                            self.at_least)
        shown = self.transform(pixels, seed)
        if not (shown.flags.c_contiguous and shown.flags.writeable):
            shown = np.array(shown, order="C")
        return torch.from_numpy(shown).permute(2, 0, 1), self.targets[index], index


def _collated(items: list[Item]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch; images (B, C, H, W) lie in memory as they were decoded, channels last."""
    images, targets, indices = zip(*items, strict=True)
    stacked = torch.stack([image.permute(1, 2, 0) for image in images])
    return stacked.permute(0, 3, 1, 2), torch.stack(targets), torch.tensor(indices)


def _conformed(source: PictureSource, sample_id: str, channels: int, dtype: Dtype,
               at_least: tuple[int, int] | None = None) -> npt.NDArray[Any]:
    smaller = {} if at_least is None else {"at_least": at_least}
    try:
        return conform(source.read(sample_id, **smaller).pixels, channels=channels, dtype=dtype)
    except DataError as error:
        named = str(error) if sample_id in str(error) else f"{sample_id}: {error}"
        raise LostPicture(named) from error
    except (OSError, KeyError) as error:
        raise LostPicture(f"{sample_id}: cannot be read ({error}). Check the disk, or whether "
                          "the folder changed.") from error


class _Loader(DataLoader[Item]):
    """Tells in one way, as torch does, that a worker died: its pipe or socket may break first.

    Attributes:
        ahead: How many batches a thread of this process reads ahead; 0: none.
    """

    ahead = 0

    def __iter__(self) -> Iterator[Item]:  # type: ignore[override]
        try:
            batches = super().__iter__()
            yield from read_ahead(batches, self.ahead) if self.ahead else batches
        except (OSError, EOFError, RuntimeError) as error:
            text = str(error)
            broken = not isinstance(error, RuntimeError) or "ancdata" in text
            if self.num_workers == 0 or not broken or text.startswith("Caught "):
                raise  # the reading itself failed
            raise RuntimeError(f"DataLoader worker: {text or 'nothing more came'}") from error


def build_loader(samples: Samples, *, spec: InputSpec, transform: Transform, batch_size: int,
                 workers: int, seed: int, train: bool,
                 sampling: Sampling | str = Sampling.shuffled, views: int = 1,
                 decoding: Decoding | str = Decoding.full, ahead: int = 0,
                 pin: bool = False) -> DataLoader[Item]:
    """Batches of images (B, C, H, W), targets and indices (B,) into ``samples``.

    Images lie in memory with their channels last.

    The loader's ``sampler`` is a `SeededSampler`: call ``loader.sampler.set_epoch`` before each
    epoch. When training, the last batch is left out if it holds one picture only, where batch
    normalisation has no variance to compute; every epoch leaves out another picture. Worker
    processes use one thread each.

    Args:
        samples: Pictures and labels.
        spec: The network's input.
        transform: From `build_transform`.
        batch_size: Pictures in a batch.
        workers: Processes that read pictures; 0 reads in this one.
        seed: Of the order and of the augmentation.
        train: Whether this loader is trained on; if not, the order is as given.
        sampling: The order in training.
        views: How often a batch of the training part shows each picture, augmented anew each
            time ("batch augmentation", Hoffer et al. 2019, arXiv 1901.09335).
        decoding: See `ImageDataset`.
        ahead: With no worker processes: how many batches a thread reads ahead; 0: none.
        pin: Whether batches lie in pinned memory, from which CUDA copies while it computes.
    """
    order = Sampling(sampling) if train else Sampling.sequential
    weights = balanced_weights(samples) if order is Sampling.balanced else None
    sampler = SeededSampler(len(samples), seed=seed, sampling=order, weights=weights,
                            views=views if train else 1)
    dataset = ImageDataset(samples, spec=spec, transform=transform, decoding=decoding)
    loader = _Loader(
        dataset, batch_size=batch_size * sampler.views, sampler=sampler, collate_fn=_collated,
        num_workers=workers, persistent_workers=workers > 0,
        worker_init_fn=_prepare_worker, pin_memory=pin,
        generator=torch.Generator().manual_seed(seed),
        drop_last=(train and len(samples) > batch_size and sampler.views == 1
                   and len(samples) % batch_size == 1))
    loader.ahead = 0 if workers else ahead
    return loader


def _prepare_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches them too; the run decides
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class PrepareBatch:
    """Moves a batch to the device and normalises it: float32, zero mean and unit variance.

    uint8 batches are mapped from ``spec.value_range`` to 0..1 first; float batches are in 0..1
    already. The batch that was given is not changed.
    """

    def __init__(self, spec: InputSpec, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.low, self.high = spec.value_range
        mean, std = np.array(spec.mean), np.array(spec.std)
        self.factor, self.offset = self._column(1 / std), self._column(-mean / std)
        wide = 1 / ((self.high - self.low) * std)  # the same from the 8-bit range
        self.factor8, self.offset8 = self._column(wide), self._column(-mean / std - self.low * wide)

    def _column(self, values: npt.NDArray[np.float64]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) as float32 on the device."""
        moved = images.to(self.device, non_blocking=True)
        if moved.dtype != torch.uint8:
            return (moved.float() * self.factor).add_(self.offset)
        values = moved.float()
        if (self.low, self.high) != (0, 255):
            values.clamp_(self.low, self.high)
        return values.mul_(self.factor8).add_(self.offset8)


def measure_statistics(
        samples: Samples, *, size: tuple[int, int], channels: int, dtype: Dtype,
        resize: Resize = Resize.squash, interpolation: str = "bilinear", limit: int = 2000,
) -> tuple[tuple[float, float], tuple[float, ...], tuple[float, ...]]:
    """Value range, and mean and standard deviation per channel on the 0..1 scale.

    For the training pictures only. uint8 has the range 0..255. Others go from 0 (or, where
    values are negative, the 0.1 percentile) to the 99.9 percentile over all channels, so that
    a few saturated pixels don't darken the rest; values outside are clipped.

    Args:
        samples: The training pictures.
        size: Height and width in pixels.
        channels: Number of channels.
        dtype: Number type of the decoded pictures.
        resize: How other shapes are brought to ``size``.
        interpolation: See `InputSpec`.
        limit: At most so many pictures, drawn evenly from the list, are looked at.

    Raises:
        DataError: No picture, or no finite value in any of them.
    """
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(limit, len(samples))).round())
    values = [_values(resize_image(
        _conformed(samples.source, samples.ids[int(i)], channels, dtype), size,
        resize=resize, interpolation=interpolation)) for i in chosen]
    pixels = np.concatenate(values) if values else np.empty((0, channels), np.float32)
    pixels = pixels[np.isfinite(pixels).all(axis=1)]
    if not len(pixels):
        raise DataError(f"no finite pixel value in {len(values)} training pictures; the value "
                        "range and the mean cannot be measured.")
    value_range = (0.0, 255.0) if dtype is Dtype.uint8 else _value_range(pixels)
    unit = to_unit_range(pixels[:, None, :], value_range)[:, 0].astype(np.float64)
    std = unit.std(axis=0)
    std[std < 1e-6] = 1.0  # a constant channel stays at zero instead of becoming infinite
    return value_range, tuple(map(float, unit.mean(axis=0))), tuple(map(float, std))


def _values(pixels: npt.NDArray[Any], count: int = 1024) -> npt.NDArray[Any]:
    """Up to ``count`` pixels (n, C), evenly from one picture: bounds the memory needed."""
    flat = pixels.reshape(-1, pixels.shape[2])
    rows = np.unique(np.linspace(0, len(flat) - 1, min(count, len(flat))).astype(int))
    return np.asarray(flat[rows])


def _value_range(pixels: npt.NDArray[Any]) -> tuple[float, float]:
    low = 0.0 if pixels.min() >= 0 else float(np.percentile(pixels, 0.1))
    high = float(np.percentile(pixels, 99.9))
    return low, high if high > low else low + 1.0
