"""On a GPU: a run trains, repeats, resumes, caches, compiles and measures as on a CPU.

Skipped without CUDA. ``FINETUNE_CUDA_FIGURES=FILE`` appends what the tests measured, a line each.
"""

import gc
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import method
from finetune import run as run_module
from finetune.assembly import assemble_data, assemble_model, input_spec
from finetune.composition import compose
from finetune.devices import compute_exactly
from finetune.errors import FinetuneError, Interrupted
from finetune.models.freezing import freeze_except, train_mode
from finetune.models.prefix import build_prefix, build_suffix, find_boundary
from finetune.run import evaluate, fit, resume
from finetune.run_directory import RunDirectory

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*deterministic.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32:UserWarning")]
SIZE = 64
FROZEN = ["freezing.policy=below", "freezing.below=layer3", "data.transform=none"]
FIXED = ["training.precision=fp32", "training.memory_format=channels_last"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    random = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = random.integers(0, 150, (240, SIZE, SIZE, 3)) + labels[:, None, None, None] * 30
    path = tmp_path_factory.mktemp("pictures") / "some.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


@pytest.fixture
def words(pictures, tmp_path):
    """Words of a small run on the GPU, with more."""
    compute_exactly(torch.device("cuda"))
    torch.cuda.set_per_process_memory_fraction(1.0)
    return lambda *more: [
        f"data.root={pictures}", f"output_dir={tmp_path}", "model.name=resnet10t",
        "model.weights=null", f"data.image_size={SIZE}", "data.batch_size=16", "data.workers=0",
        "training.epochs=3", "tracking.mode=disabled", "device=cuda", *more]


@pytest.fixture
def train(words, monkeypatch):
    """Train with words; what was said is kept."""
    def run(*more):
        run.said = []
        monkeypatch.setattr(run_module, "say", run.said.append)
        return fit(compose(words(*more)).config)
    return run


@pytest.fixture
def assembled(words):
    """Configuration, method and data as a run has them."""
    def build(*more):
        config = compose(words(*more)).config
        data = assemble_data(config, config.data.root)
        torch.manual_seed(config.seed)
        model, weights = assemble_model(config, class_names=data.samples.label_spec.class_names,
                                        channels=data.channels)
        spec = input_spec(config, data, model, weights)
        device = torch.device("cuda")
        return config, method.build_method(config, model.to(device), data, spec, device), data, spec
    return build


@pytest.fixture
def quick(without_pages):
    """Runs without figures."""


def figures(**measured):
    """Keep what a test measured."""
    where = os.environ.get("FINETUNE_CUDA_FIGURES")
    if where:
        with Path(where).open("a") as stream:
            stream.write(json.dumps(measured) + "\n")


def losses(run):
    return np.array([[e["train_loss"], e["val"]["log_loss"]] for e in run.history])


def furthest(one, other):
    return float(np.abs(losses(one) / losses(other) - 1).max())


def test_a_rehearsal_ends_with_a_report(tmp_path):
    composed = compose(["recipe=medical", f"output_dir={tmp_path}", "device=cuda",
                        "training.epochs=2", "tracking.mode=disabled"])
    run = fit(composed.config, replaced=composed.replaced)
    assert run.is_finished and run.environment["device"] == "cuda"
    assert run.config.training.precision.value != "auto"


@pytest.mark.usefixtures("quick")
def test_the_arithmetic_is_measured_stored_and_remembered(train, monkeypatch):
    monkeypatch.setattr("finetune.fastest.SHORT", 0.0)
    run = train("training.epochs=1")
    told = [text for text in train.said if text.startswith("arithmetic:")]
    assert len(told) == 1 and "speed of a step" in told[0]
    assert run.config.training.precision.value in ("fp32", "bf16")
    assert run.config.training.memory_format.value in ("contiguous", "channels_last")
    again = train("training.epochs=1")
    assert any("measured before" in text for text in train.said)
    assert again.config.training == run.config.training
    figures(arithmetic=told[0])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_are_equal_to_the_bit(train, precision):
    fixed = [f"training.precision={precision}", "training.memory_format=channels_last"]
    first, second = train(*fixed), train(*fixed)
    figures(test="two runs", precision=precision, furthest=furthest(first, second),
            same_weights=first.best_weights.read_bytes() == second.best_weights.read_bytes())
    np.testing.assert_array_equal(losses(first), losses(second))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("more", [[], ["training.ema_decay=0.9", "training.mixup_alpha=0.2"],
                                  ["freezing.policy=head_then_all", "data.transform=none"]])
def test_a_resumed_run_has_the_history_of_one_that_was_not_interrupted(train, words, monkeypatch,
                                                                      more):
    whole = train(*FIXED, *more)
    real, runs = run_module.save_checkpoint, []

    def stopping(path, *, state, **given):
        real(path, state=state, **given)
        runs.append(path.parent.parent)
        if len(state.history) == 2:
            raise Interrupted("after the second epoch")

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(run_module, "save_checkpoint", stopping)
        train(*FIXED, *more)
    resumed = resume(RunDirectory.open(runs[-1]))
    figures(test="resumed", words=more, furthest=furthest(whole, resumed))
    np.testing.assert_array_equal(losses(whole), losses(resumed))


def test_prefix_and_suffix_answer_as_the_network_does(assembled):
    _, made, _, _ = assembled(*FIXED, *FROZEN, "model.drop_rate=0.3")
    plan = made.plan([])
    freeze_except(made.model, plan.depths)
    train_mode(made.model, plan)
    boundary = find_boundary(made.model, min(plan.depths), made.example)  # dropout agrees as well
    made.model.eval()
    suffix, images = build_suffix(made.model, boundary), made.lay_out(
        torch.randn(8, 3, SIZE, SIZE, device="cuda"))
    with torch.no_grad():
        wanted = made.model(images)
        plain = build_prefix(made.model, boundary)(images)
        folded = build_prefix(made.model, boundary, images=images)(images)
        assert torch.equal(suffix(plain), wanted)
    apart = float((folded - plain).abs().max() / plain.abs().max())
    figures(test="folding", apart=apart)
    assert 0 < apart <= 1e-5, "folding was taken back, or is wrong"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-3), ("bf16", 0.05)])
def test_training_from_cached_features_is_training_from_pictures(train, precision, close):
    fixed = [f"training.precision={precision}", "training.memory_format=channels_last"]
    cached = train(*fixed, *FROZEN)
    assert any("are cached" in text for text in train.said)
    plain = train(*fixed, *FROZEN, "training.cache_features=never")
    figures(test="cached", precision=precision, furthest=furthest(cached, plain))
    np.testing.assert_allclose(losses(cached), losses(plain), rtol=close)
    again = train(*fixed, *FROZEN)
    assert not any("writing features" in text for text in train.said)
    np.testing.assert_array_equal(losses(cached), losses(again))


@pytest.mark.usefixtures("quick")
def test_an_exact_head_is_fitted_on_cached_features(train):
    exact = [*FIXED, "freezing.policy=head_then_all", "training.head_fit=exact",
             "training.class_weights=balanced", "optimizer.lr=1e-6"]
    run = train(*exact)
    assert [e["fit"] is not None for e in run.history] == [True, False, False]
    on_cpu = train(*exact, "device=cpu")
    figures(test="exact head", furthest=float(abs(losses(run)[0] / losses(on_cpu)[0] - 1).max()))
    np.testing.assert_allclose(losses(run)[0], losses(on_cpu)[0], rtol=0.02)


def peak(method_of_run, count):
    """Bytes that a training step takes at most, beside what is there before."""
    model = method_of_run.model.train()
    images = method_of_run.lay_out(torch.randn(count, 3, 128, 128, device="cuda"))
    model(images).sum().backward()  # libraries take their workspace
    model.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model(images).sum().backward()
    return torch.cuda.max_memory_allocated() - before


def test_checkpointing_gradients_saves_memory(assembled):
    plain = peak(assembled(*FIXED, "model.name=resnet50")[1], 32)
    saving = peak(assembled(*FIXED, "model.name=resnet50", "training.grad_checkpointing=true")[1],
                  32)
    figures(test="grad_checkpointing", plain_mib=plain / 2**20, saving_mib=saving / 2**20)
    assert saving < 0.7 * plain


@pytest.fixture
def small_memory():
    """Of the device's memory, this process may have so many bytes more than it has."""
    def limit(more):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved() + more) / total)
    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def failure(action):
    """What an action fails with; its frames, which hold memory, are let go."""
    try:
        action()
    except FinetuneError as error:
        text = str(error)
    gc.collect()
    torch.cuda.empty_cache()
    return text


@pytest.mark.usefixtures("quick")
def test_too_little_memory_is_told_with_a_batch_that_fits(train, small_memory):
    large = [*FIXED, "model.name=resnet50", "data.image_size=128", "training.epochs=1"]
    small_memory(1600 * 2**20)
    told = failure(lambda: train(*large, "data.batch_size=128"))
    assert "too small for a batch of 128" in told
    size = int(re.search(r"data\.batch_size=(\d+)", told)[1])
    assert size in (2, 4, 8, 16, 32, 64)
    run = train(*large, f"data.batch_size={size}", f"training.accumulation_steps={128 // size}")
    assert len(run.history) == 1, "following the message ends with a training"
    figures(test="out of memory", fits=size)


@pytest.mark.usefixtures("quick")
def test_the_largest_batch_that_fits_is_found_and_trained(train, small_memory):
    small_memory(1600 * 2**20)
    run = train(*FIXED, "model.name=resnet50", "data.image_size=128", "training.epochs=1",
                "data.batch_size=auto")
    size = run.config.data.batch_size
    figures(test="batch_size=auto", size=size,
            said=[text for text in train.said if "batch_size=auto" in text])
    assert size in (2, 4, 8, 16, 32, 64) and len(run.history) == 1
    torch.cuda.set_per_process_memory_fraction(1.0)
    larger = train(*FIXED, "data.batch_size=auto", "training.epochs=1").config.data.batch_size
    assert larger == 128, "the largest power of two of the training part's pictures"


@pytest.mark.parametrize("workers", ["0", "1", "null"])
def test_batches_lie_in_pinned_memory(assembled, workers):
    _, made, _, _ = assembled(*FIXED, f"data.workers={workers}")
    for part in ("train", "val"):
        assert made.loaders[part].pin_memory
        images, targets, _ = next(iter(made.loaders[part]))
        assert images.is_pinned() and targets.is_pinned()
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert made.prepare(images).device.type == "cuda"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("more", [["training.epochs=2"], [*FROZEN, "training.epochs=2"]])
def test_a_compiled_training_is_the_training(train, more):
    plain = train(*FIXED, *more)
    compiled = train(*FIXED, *more, "training.compile=true")
    assert any("compiled at the first batch" in text for text in train.said)
    figures(test="compiled", words=more, furthest=furthest(plain, compiled),
            seconds=[[e["seconds"] for e in run.history] for run in (plain, compiled)])
    np.testing.assert_allclose(losses(plain), losses(compiled), rtol=1e-2)
    torch.compiler.reset()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measuring_again_agrees_with_what_was_stored(train, precision):
    run = train(f"training.precision={precision}", "training.memory_format=channels_last")
    stored = np.load(run.predictions_path("test"))["logits"]
    found = evaluate(run, part="test").logits
    figures(test="evaluate", precision=precision, apart=float(np.abs(found - stored).max()))
    np.testing.assert_allclose(found, stored, atol=1e-3)


@pytest.mark.usefixtures("quick")
def test_a_cpu_measures_what_a_gpu_trained(train):
    """Answers in float32 are the same on both, so that a network may be used anywhere."""
    run = train(*FIXED)
    stored = np.load(run.predictions_path("test"))["logits"]
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("device: cuda", "device: cpu"))
    found = evaluate(run, part="test").logits
    figures(test="CPU against GPU", apart=float(np.abs(found - stored).max()))
    assert (found.argmax(1) == stored.argmax(1)).all()
    np.testing.assert_allclose(found, stored, atol=1e-3)


def test_bf16_is_there_on_ampere_and_later(words):
    from finetune.training.arithmetic import candidates, has_bf16

    device, newer = torch.device("cuda"), torch.cuda.get_device_capability() >= (8, 0)
    assert has_bf16(device) == newer
    kinds = {each.precision for each in candidates(torch.nn.Conv2d(3, 3, 3), device)}
    assert ("bf16" in kinds) == newer
