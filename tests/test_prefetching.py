import threading
import time

import pytest
import torch
from test_loading import make_loader, make_samples

from finetune.data.loading import LostPicture
from finetune.data.prefetching import read_ahead
from finetune.errors import DataError


def readers():
    return [t for t in threading.enumerate() if t.name == "finetune-reader"]


def ahead(loader, depth=4):
    loader.ahead = depth
    return loader


def batches(loader, count):
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        yield from loader


def test_two_epochs_are_those_without_a_thread_and_with_processes():
    samples = make_samples(11)
    expected = list(batches(make_loader(samples), 2))
    for other in (ahead(make_loader(samples)), ahead(make_loader(samples), 1),
                  make_loader(samples, workers=2)):
        found = list(batches(other, 2))
        assert len(found) == len(expected) == 6
        for one, two in zip(expected, found, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
            assert one[0].stride() == two[0].stride()
    assert not readers()


@pytest.mark.parametrize("error", [DataError("broken or truncated"), OSError("gone")])
def test_a_lost_picture_is_raised_by_name_after_the_batches_before_it(error):
    samples = make_samples(12, broken=("p_9",), error=error)
    taken = []
    with pytest.raises(LostPicture, match="p_9"):
        for batch in ahead(make_loader(samples, train=False)):
            taken += batch[2].tolist()
    assert taken == list(range(8)) and not readers()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("own"), SystemExit(3)])
def test_whatever_an_item_raises_is_raised_in_its_place(error):
    def items():
        yield 1
        raise error

    found = read_ahead(items(), 3)
    assert next(found) == 1
    with pytest.raises(type(error)) as caught:
        next(found)
    assert caught.value is error and not readers()


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_items_are_made_than_the_depth_allows(depth):
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    found = read_ahead(items(), depth)
    for number in range(3):
        assert next(found) == number
        wait_for(lambda taken=number + 1: len(made) == taken + depth)
        time.sleep(0.02)
        assert len(made) == number + 1 + depth
    found.close()


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)


def test_the_thread_ends_when_the_consumer_stops_or_fails_early():
    loader = ahead(make_loader(make_samples(40), batch_size=2), 2)
    for _ in loader:
        break
    wait_for(lambda: not readers())
    assert not readers()
    with pytest.raises(KeyboardInterrupt):
        for _ in loader:
            raise KeyboardInterrupt
    wait_for(lambda: not readers())
    assert not readers() and len(list(loader)) == 20


def test_items_are_made_while_the_consumer_works():
    both = threading.Barrier(2, timeout=10)

    def items():
        yield 0
        both.wait()  # passes only while the consumer is at work too
        yield 1

    found = read_ahead(items(), 2)
    next(found)
    both.wait()
    assert next(found) == 1
