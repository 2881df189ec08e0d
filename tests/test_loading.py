import warnings

import numpy as np
import pytest
import torch

from finetune.data.decoding import Decoded
from finetune.data.loading import (
    LostPicture,
    PrepareBatch,
    SeededSampler,
    balanced_weights,
    build_loader,
    measure_statistics,
)
from finetune.data.samples import Samples
from finetune.data.transforms import build_transform
from finetune.errors import DataError
from finetune.specs import Dtype, InputSpec, LabelKind, LabelSpec, Resize


class Pictures:
    """Pictures in memory; ``broken`` ones raise."""

    def __init__(self, pixels, broken=(), error=None):
        self.pixels, self.broken, self.error = pixels, broken, error

    def read(self, sample_id):
        if sample_id in self.broken:
            raise self.error
        return Decoded(self.pixels[int(sample_id.split("_")[1])], "test", ())

    def stamp(self, sample_id):
        return 0, 0

    def raw(self, sample_id):
        return b""


def make_samples(count=10, *, channels=3, dtype="uint8", labels=None, top=255, **options):
    random = np.random.default_rng(0)
    pixels = [(random.random((20, 24, channels)) * top).astype(dtype) for _ in range(count)]
    labels = np.arange(count) % 2 if labels is None else labels
    kind = LabelKind.single if labels.ndim == 1 else LabelKind.multi
    width = int(labels.max()) + 1 if labels.ndim == 1 else labels.shape[1]
    return Samples(ids=[f"p_{i}" for i in range(count)], labels=labels,
                   label_spec=LabelSpec(kind, tuple(f"class{i}" for i in range(width))),
                   source=Pictures(pixels, **options))


def make_spec(channels=3, dtype="uint8", value_range=(0.0, 255.0)):
    return InputSpec((16, 16), channels, tuple(f"c{i}" for i in range(channels)), Dtype(dtype),
                     value_range, (0.4,) * channels, (0.2,) * channels)


def make_loader(samples, *, spec=None, preset="natural", workers=0, seed=3, train=True,
                batch_size=4, sampling="shuffled"):
    spec = spec or make_spec()
    return build_loader(samples, spec=spec, workers=workers, seed=seed, train=train,
                        transform=build_transform(preset, spec, train=train),
                        batch_size=batch_size, sampling=sampling)


def epochs(loader, count=2):
    result = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        result.append((torch.cat([b[0] for b in batches]), torch.cat([b[2] for b in batches])))
    return result


@pytest.mark.parametrize("sampling", ["shuffled", "balanced"])
def test_same_pictures_for_any_number_of_workers_and_others_every_epoch(sampling):
    samples = make_samples()
    torch.manual_seed(0)
    reference = epochs(make_loader(samples, sampling=sampling), 3)
    for workers in (1, 2):
        torch.manual_seed(workers)
        np.random.seed(workers)
        for (images, ids), (again, ids_again) in zip(
                reference, epochs(make_loader(samples, workers=workers, sampling=sampling), 3),
                strict=True):
            assert torch.equal(images, again) and torch.equal(ids, ids_again)
    first, second = (images[ids.argsort()] for images, ids in reference[:2])
    assert sum(torch.equal(a, b) for a, b in zip(first, second, strict=True)) == 0
    assert reference[0][1].tolist() != reference[1][1].tolist()


def test_an_epoch_does_not_depend_on_those_before():
    samples = make_samples()
    third = epochs(make_loader(samples), 3)[2]
    resumed = make_loader(samples)
    resumed.sampler.set_epoch(2)
    assert torch.equal(third[0], torch.cat([b[0] for b in resumed]))


def test_loader_leaves_global_random_state_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    epochs(make_loader(make_samples()))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_before, np.random.get_state()[1])


def test_seed_changes_order_and_pictures():
    one, other = (epochs(make_loader(make_samples(), seed=s), 1)[0] for s in (3, 4))
    assert one[1].tolist() != other[1].tolist()
    assert not torch.equal(one[0][one[1].argsort()], other[0][other[1].argsort()])


def test_shuffled_epoch_shows_each_picture_once():
    assert sorted(i for i, _ in SeededSampler(50, seed=1)) == list(range(50))


def test_seeds_differ_between_pictures_epochs_and_repeats():
    sampler = SeededSampler(30, seed=0, sampling="balanced", weights=np.ones(30))
    seeds = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seeds += [seed for _, seed in sampler]
    assert len(set(seeds)) == 600 and min(seeds) >= 0 and max(seeds) < 2**63


def test_weights_go_with_balanced_only():
    with pytest.raises(ValueError, match="weights"):
        SeededSampler(3, seed=0, weights=np.ones(3))
    with pytest.raises(ValueError, match="weights"):
        SeededSampler(3, seed=0, sampling="balanced")


def test_balanced_draws_classes_equally_often():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    samples = make_samples(100, labels=labels)
    sampler = SeededSampler(100, seed=0, sampling="balanced", weights=balanced_weights(samples))
    drawn = []
    for epoch in range(60):
        sampler.set_epoch(epoch)
        drawn += [labels[i] for i, _ in sampler]
    share = np.bincount(drawn) / len(drawn)
    np.testing.assert_allclose(share, 1 / 3, atol=0.03)  # 6000 draws: 5 standard deviations


def test_balanced_multi_label_weighs_by_the_rarest_positive_class():
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, np.nan, 0], [0, 0, 0], [0, np.nan, 0],
                       [1, 1, 1]], np.float32)
    weights = balanced_weights(make_samples(6, labels=labels))
    np.testing.assert_allclose(weights, [1 / 4, 1 / 2, 1 / 4, 1 / 2, 1 / 2, 1])


@pytest.mark.parametrize(("count", "train", "batches"), [
    (9, True, 2), (10, True, 3), (9, False, 3), (1, True, 1), (8, True, 2)])
def test_only_a_training_batch_of_one_picture_is_left_out(count, train, batches):
    loader = make_loader(make_samples(count, labels=np.arange(count) % 2), train=train)
    sizes = [len(images) for images, _, _ in loader]
    assert len(sizes) == batches == len(loader)
    assert train is False or count == 1 or min(sizes) > 1


def test_evaluation_keeps_the_given_order_whatever_the_sampling():
    for sampling in ("shuffled", "balanced"):
        loader = make_loader(make_samples(), train=False, sampling=sampling)
        assert torch.cat([ids for _, _, ids in loader]).tolist() == list(range(10))


@pytest.mark.parametrize(("channels", "dtype", "out"), [
    (1, "uint8", torch.uint8), (3, "uint8", torch.uint8), (13, "uint16", torch.float32),
    (4, "float32", torch.float32)])
def test_batches_have_channels_first_and_normalise(channels, dtype, out):
    spec = make_spec(channels, dtype, (0.0, 200.0))
    samples = make_samples(channels=channels, dtype=dtype)
    images, targets, ids = next(iter(make_loader(samples, spec=spec, preset="aerial")))
    assert images.shape == (4, channels, 16, 16) and images.dtype == out
    assert targets.tolist() == samples.labels[ids.numpy()].tolist()
    assert targets.dtype == ids.dtype == torch.int64
    kept = images.clone()
    prepared = PrepareBatch(spec, "cpu")(images)
    unit = images.double() / 200 if out == torch.uint8 else images.double()
    expected = (unit.clamp(0, 1) - 0.4) / 0.2
    assert prepared.dtype == torch.float32 and torch.equal(images, kept)
    torch.testing.assert_close(prepared, expected.float())


def test_prepare_matches_torchvision():
    from torchvision.transforms import v2

    spec = InputSpec((16, 16), 3, ("r", "g", "b"), Dtype.uint8, (0.0, 255.0),
                     (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    reference = v2.Normalize(spec.mean, spec.std)(v2.ToDtype(torch.float32, scale=True)(images))
    torch.testing.assert_close(PrepareBatch(spec, "cpu")(images), reference)


def test_multi_label_targets_keep_unknown():
    labels = np.array([[1, 0], [np.nan, 1], [0, 0], [1, 1]], np.float32)
    _, targets, _ = next(iter(make_loader(make_samples(4, labels=labels), train=False)))
    np.testing.assert_array_equal(targets.numpy(), labels)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [DataError("broken or truncated"), OSError("gone")])
def test_unreadable_picture_is_named_in_one_line(workers, error):
    samples = make_samples(broken=("p_6",), error=error)
    with pytest.raises(LostPicture, match="p_6") as caught, warnings.catch_warnings():
        list(make_loader(samples, workers=workers))
    assert "\n" not in str(caught.value) and str(error) in str(caught.value)


def iterate_raising(error, monkeypatch, workers):
    def broken(self):
        raise error

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", broken)
    list(make_loader(make_samples(), workers=workers))


@pytest.mark.parametrize("error", [
    ConnectionResetError("reset"), EOFError(), FileNotFoundError("socket"),
    RuntimeError("received 0 items of ancdata")])
def test_a_broken_pipe_of_a_worker_is_told_as_its_death(error, monkeypatch):
    with pytest.raises(RuntimeError, match=r"^DataLoader worker"):
        iterate_raising(error, monkeypatch, 1)


@pytest.mark.parametrize(("error", "workers"), [
    (OSError("own"), 0), (RuntimeError("own"), 1),
    (OSError("Caught OSError in DataLoader worker process 0."), 1)])
def test_an_error_of_the_reading_itself_stays(error, workers, monkeypatch):
    with pytest.raises(type(error)) as caught:
        iterate_raising(error, monkeypatch, workers)
    assert caught.value is error


def statistics(samples, channels, dtype, **options):
    return measure_statistics(samples, size=(20, 24), channels=channels, dtype=Dtype(dtype),
                              **options)


def test_statistics_are_numpys_over_all_pixels():
    samples = make_samples(4, channels=13, dtype="uint16", top=9000)
    value_range, mean, std = statistics(samples, 13, "uint16")
    pixels = np.concatenate([p.reshape(-1, 13) for p in samples.source.pixels]).astype(np.float64)
    top = np.percentile(pixels, 99.9)
    assert value_range == (0.0, pytest.approx(top))
    unit = np.clip(pixels / top, 0, 1)
    np.testing.assert_allclose(mean, unit.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, unit.std(axis=0), rtol=1e-5)


def test_statistics_make_training_pictures_zero_mean_and_unit_variance():
    samples = make_samples(12, channels=4, dtype="float32", top=3)
    value_range, mean, std = statistics(samples, 4, "float32")
    spec = InputSpec((20, 24), 4, tuple("abcd"), Dtype.float32, value_range, mean, std)
    loader = make_loader(samples, spec=spec, preset="none", batch_size=12)
    prepared = PrepareBatch(spec, "cpu")(next(iter(loader))[0]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(prepared.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(prepared.std(1), torch.ones(4), atol=1e-3, rtol=0)


def test_eight_bit_range_is_fixed_and_negative_values_start_at_a_percentile():
    assert statistics(make_samples(top=90), 3, "uint8")[0] == (0.0, 255.0)
    samples = make_samples(channels=1, dtype="float32", top=1000)
    for pixels in samples.source.pixels:
        pixels -= 500
    low, high = statistics(samples, 1, "float32")[0]
    everything = np.concatenate([p.ravel() for p in samples.source.pixels])
    assert low == pytest.approx(np.percentile(everything, 0.1))
    assert high == pytest.approx(np.percentile(everything, 99.9))


def test_few_saturated_pixels_do_not_set_the_range_and_constant_channels_stay_finite():
    samples = make_samples(channels=2, dtype="uint16", top=100)
    for pixels in samples.source.pixels:
        pixels[:, :, 1] = 7
    samples.source.pixels[0][0, 0] = 65535
    value_range, _, std = statistics(samples, 2, "uint16")
    assert value_range[1] <= 100
    constant = make_samples(channels=1, dtype="uint16", top=0)
    assert statistics(constant, 1, "uint16") == ((0.0, 1.0), (0.0,), (1.0,))
    assert min(std) > 0


def test_limit_draws_evenly_and_repeats():
    samples = make_samples(9, dtype="float32")
    for number, pixels in enumerate(samples.source.pixels):
        pixels[:] = number
    _, mean, _ = statistics(samples, 3, "float32", limit=3)  # pictures 0, 4 and 8
    assert mean[0] == pytest.approx(0.5, abs=1e-3)
    assert statistics(samples, 3, "float32", limit=3)[1] == mean


def test_statistics_of_nothing_are_refused():
    samples = make_samples(2).select([])
    with pytest.raises(DataError, match="no finite pixel"):
        statistics(samples, 3, "float32")


def test_statistics_resize_like_evaluation():
    samples = make_samples(3, channels=1, dtype="uint16", top=500)
    padded = measure_statistics(samples, size=(24, 24), channels=1, dtype=Dtype.uint16,
                                resize=Resize.pad)
    squashed = measure_statistics(samples, size=(24, 24), channels=1, dtype=Dtype.uint16)
    assert padded[1][0] < squashed[1][0] * 0.9
