"""data.batch_size=auto: found once, stored as a number."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from finetune import fitting
from finetune import run as run_module
from finetune.composition import compose, dump_config, load_config
from finetune.config import Config, DataConfig
from finetune.errors import ConfigurationError, FinetuneError
from finetune.fitting import _training_step, largest_batch, settle_batch_size
from finetune.run import fit, resume
from finetune.specs import Dtype, InputSpec, Resize

CPU = torch.device("cpu")
SPEC = InputSpec((32, 32), 3, ("r", "g", "b"), Dtype.uint8, (0.0, 255.0), (0.5,) * 3, (0.5,) * 3,
                 "bilinear", Resize.squash)


@pytest.mark.parametrize(("limit", "pictures", "expected"), [
    (100, 1000, 64), (64, 1000, 64), (63, 1000, 32), (10**9, 10**9, 1024), (10**9, 100, 64),
    (10**9, 128, 128), (2, 1000, 2), (10**9, 3, 2)])
def test_the_largest_power_of_two_that_fits(limit, pictures, expected):
    asked = []
    assert largest_batch(lambda size: asked.append(size) or size <= limit,
                         pictures=pictures) == expected
    assert asked == sorted(asked) and sum(size > limit for size in asked) <= 1
    assert all(size <= pictures for size in asked)


def test_a_device_on_which_nothing_fits_is_told():
    with pytest.raises(FinetuneError, match=r"batch of 2.*data\.image_size"):
        largest_batch(lambda size: False, pictures=1000)


@pytest.mark.parametrize(("pictures", "expected"), [(1000, 32), (32, 32), (31, 16), (2, 2)])
def test_without_cuda_it_is_fixed_and_said(pictures, expected):
    said = []
    found = settle_batch_size(Config(data=DataConfig(batch_size=None)), nn.Linear(1, 1), SPEC,
                              pictures=pictures, device=CPU, say=said.append)
    assert found.data.batch_size == expected
    assert len(said) == 1 and f"data.batch_size=auto: {expected} (" in said[0]


@pytest.mark.parametrize(("memory", "fraction", "expected"), [
    (10_000, 1.0, 512),  # room for 1000 pictures, 900 within the margin
    (5_650, 1.0, 256),  # 512 fit, but not within the margin
    (10_000, 0.5, 256), (10**6, 1.0, 1024), (100, 1.0, 8)])
def test_on_cuda_what_is_tried_stays_below_the_free_memory_by_a_margin(monkeypatch, memory,
                                                                      fraction, expected):
    peaks, said = [], []

    def step(size):
        peaks.append(10 * size)
        if 10 * size > memory * fraction:
            raise torch.OutOfMemoryError("CUDA out of memory")

    faked = {"mem_get_info": lambda device: (memory, memory), "memory_reserved": lambda device: 0,
             "max_memory_reserved": lambda device: peaks[-1], "current_device": lambda: 0,
             "get_per_process_memory_fraction": {0: fraction}.__getitem__,
             "empty_cache": lambda: None, "reset_peak_memory_stats": lambda device: None}
    for name, fake in faked.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    monkeypatch.setattr(fitting, "_training_step", lambda *given: step)
    found = settle_batch_size(Config(data=DataConfig(batch_size=None)), nn.Linear(1, 1), SPEC,
                              pictures=5000, device=torch.device("cuda"), say=said.append)
    assert found.data.batch_size == expected and "90%" in said[0]


def test_a_number_stays():
    config, said = Config(data=DataConfig(batch_size=7)), []
    assert settle_batch_size(config, nn.Linear(1, 1), SPEC, pictures=5, device=CPU,
                             say=said.append) is config and not said


def test_the_step_that_is_tried_trains_what_the_widest_epoch_trains():
    import timm

    config = compose(["data.root=r", "freezing.policy=gradual", "freezing.frozen_fraction=1",
                      "training.epochs=3", "optimizer.name=momentum"]).config
    model = timm.create_model("resnet10t", num_classes=3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _training_step(config, model, SPEC, CPU)(4)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("conv1") for name in moved)
    assert all(p.grad is None for p in model.parameters())
    frozen = compose(["data.root=r", "freezing.policy=head_only", "training.epochs=3"]).config
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _training_step(frozen, model, SPEC, CPU)(4)
    assert {n for n, p in model.named_parameters() if not torch.equal(p, before[n])} == {
        "fc.weight", "fc.bias"}


def test_auto_is_typed_written_in_recipes_and_told_in_messages(tmp_path):
    assert compose(["data.root=r", "data.batch_size=auto"]).config.data.batch_size is None
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("data:\n  batch_size: auto\n")
    composed = compose([f"recipe={recipe}", "data.root=r"])
    assert composed.config.data.batch_size is None
    (tmp_path / "config.yaml").write_text("data: {batch_size: auto}\n")
    assert load_config(tmp_path / "config.yaml").data.batch_size is None
    assert "batch_size: null" in dump_config(composed.config)
    with pytest.raises(ConfigurationError, match="a whole number, or auto"):
        compose(["data.root=r", "data.batch_size=many"])
    with pytest.raises(ConfigurationError, match="a whole number"):
        compose(["data.root=r", "training.epochs=auto"])


@pytest.mark.usefixtures("without_pages")
def test_a_run_stores_the_number_and_goes_on_with_it(tmp_path, monkeypatch):
    labels = np.arange(60) % 2
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (60, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "some.npz", images=images, labels=labels)
    said = []
    monkeypatch.setattr(run_module, "say", said.append)
    run = fit(compose([
        f"data.root={tmp_path / 'some.npz'}", f"output_dir={tmp_path}", "data.batch_size=auto",
        "model.name=resnet10t", "model.weights=null", "data.image_size=32", "data.workers=0",
        "training.epochs=1", "tracking.mode=disabled", "device=cpu"]).config)
    assert run.config.data.batch_size == 32 and sum("=auto: 32" in text for text in said) == 1
    said.clear()
    assert resume(run).config.data.batch_size == 32
    assert not any("auto" in text for text in said)
