"""What is computed once and kept gives the training that computing it anew gives."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune import run as run_module
from finetune.assembly import cache_folder
from finetune.composition import compose
from finetune.config import CacheFeatures
from finetune.data.splits import read_splits
from finetune.errors import ConfigurationError
from finetune.frozen import HAND_OVER, cache_choice, stretch
from finetune.models.freezing import EpochPlan
from finetune.run import fit

pytestmark = pytest.mark.usefixtures("without_pages")
CACHED = ["freezing.policy=below", "freezing.below=layer3", "data.transform=none"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(0, 120, (90, 32, 32, 3)) + labels[:, None, None, None] * 30
    path = tmp_path_factory.mktemp("pictures") / "some.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


@pytest.fixture
def train(pictures, tmp_path, monkeypatch):
    """Train with words; what was said is kept."""
    def run(*words, root=pictures):
        base = [f"data.root={root}", f"output_dir={tmp_path}", "model.name=resnet10t",
                "model.weights=null", "data.image_size=32", "data.batch_size=8", "data.workers=0",
                "training.epochs=3", "tracking.mode=disabled", "device=cpu"]
        run.said = []
        monkeypatch.setattr(run_module, "say", run.said.append)
        return fit(compose([*base, *words]).config)
    return run


def losses(run):
    return [(entry["train_loss"], entry["val"]["log_loss"]) for entry in run.history]


def weights(run):
    return load_file(run.best_weights)


def caches():
    return sorted(about.parent for about in (cache_folder() / "features").glob("*/about.json"))


def about(cache):
    return json.loads((cache / "about.json").read_text())["about"]


@pytest.mark.parametrize("words", [
    CACHED, [*CACHED, "data.sampling=balanced"], [*CACHED, "training.precision=bf16"],
    ["freezing.policy=head_only", "data.transform=none", "model.head=mlp"],
    ["freezing.policy=head_only", "data.transform=none", "model.drop_rate=0.5"],
    ["freezing.policy=head_then_all", "data.transform=none", "training.epochs=4"],
    ["freezing.policy=phases", "data.transform=none",
     "freezing.phases=[{epochs:2,depths:layer3},{epochs:1,depths:layer4 head}]"],
    ["freezing.policy=head_only", "training.cache_features=always", "training.cache_views=3"],
    ], ids=lambda words: words[-1][:40])
def test_training_from_cached_features_is_training_from_pictures(train, words):
    cached = train(*words)
    assert any("are cached" in text for text in train.said)
    assert {about(c)["transform"] for c in caches()} <= {"evaluation", "natural"}
    given = [w for w in words if "training.cache" not in w]
    close = 1e-2 if "training.precision=bf16" in words else 1e-5  # norms are folded in one of them
    plain = train(*given, "training.cache_features=never")
    np.testing.assert_allclose(losses(cached), losses(plain), rtol=close)
    assert [e["trainable_depths"] for e in cached.history] == [e["trainable_depths"]
                                                               for e in plain.history]
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(cached)[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_second_run_reads_the_cache_of_the_first_to_the_bit(train):
    first = train(*CACHED, "seed=0")
    times = {c: (c / "features.bin").stat().st_mtime_ns for c in caches()}
    assert len(times) == 2 and any("writing" in text for text in train.said)
    second = train(*CACHED, "seed=0")
    assert {c: (c / "features.bin").stat().st_mtime_ns for c in caches()} == times
    assert not any("writing" in text for text in train.said)
    assert losses(first) == losses(second)
    assert first.best_weights.read_bytes() == second.best_weights.read_bytes()


def test_a_damaged_cache_is_built_again(train):
    first = train(*CACHED)
    for cache in caches():
        (cache / "features.bin").write_bytes(b"x" * (cache / "features.bin").stat().st_size)
    assert losses(train(*CACHED)) == losses(first)


@pytest.mark.parametrize("change", [
    "seed=1", "data.image_size=48", "data.split_seed=1", "training.precision=bf16",
    "freezing.below=layer4", "data.batch_size=16", "model.name=resnet14t", "pictures"])
def test_what_the_features_depend_on_is_in_their_key(train, pictures, tmp_path, change):
    train(*CACHED, "training.epochs=2")
    before = set(caches())
    if change == "pictures":
        stored = dict(np.load(pictures))
        stored["images"][0] += 1
        np.savez(tmp_path / "other.npz", **stored)
        train(*CACHED, "training.epochs=2", root=tmp_path / "other.npz")
    else:
        train(*[w for w in CACHED if not w.startswith(change.split("=")[0] + "=")],
              "training.epochs=2", change)
    after = set(caches()) - before
    train_parts = [c for c in after if about(c)["views"] == 1]
    assert train_parts, "the features were taken from another run's cache"


def test_without_room_the_run_goes_on_uncached(train, monkeypatch):
    run = train(*CACHED, "training.cache_limit=0.000001")
    assert any("no room" in text and "training.cache_limit" in text for text in train.said)
    assert caches() == [] and len(run.history) == 3


def test_averaged_weights_are_validated_whole(train):
    run = train(*CACHED, "training.ema_decay=0.9")
    assert len(caches()) == 1
    plain = train(*CACHED, "training.ema_decay=0.9", "training.cache_features=never")
    np.testing.assert_allclose(losses(run), losses(plain), rtol=1e-5)


@pytest.mark.parametrize(("given", "expected"), [
    ({"deterministic": True}, True), ({"deterministic": False}, False),
    ({"deterministic": False, "views": 3}, True), ({"deterministic": False, "views": 5}, False),
    ({"deterministic": True, "mixes": True}, False), ({"deterministic": True, "epochs": 1}, False),
    ({"deterministic": True, "epochs": 1, "asked": CacheFeatures.always}, True),
    ({"deterministic": True, "asked": CacheFeatures.never}, False),
    ({"deterministic": False, "fitted": True}, True)])
def test_the_rule_of_caching(given, expected):
    values = {"asked": CacheFeatures.auto, "epochs": 4, "views": None, "mixes": False} | given
    taken, why = cache_choice(values.pop("asked"), **values)
    assert taken is expected and why


def test_a_stretch_ends_where_the_lowest_depth_changes():
    lowest = [2, 2, 1, 1, 1, 0]

    def plan(history):
        return EpochPlan(frozenset(range(lowest[len(history)], 4)))

    assert [stretch(plan, epoch, 6) for epoch in range(6)] == [2, 2, 3, 3, 3, 1]


# ---- the exact head

EXACT = ["freezing.policy=head_only", "training.head_fit=exact", "training.epochs=1"]


def test_an_exact_head_has_no_gradient_left_but_its_penalty(train):
    """Its loss is below that of many epochs of gradient steps, on the same features."""
    exact = train(*EXACT)
    assert [e["fit"] is not None for e in exact.history] == [True]
    assert exact.history[0]["fit"].startswith("penalty ")
    assert any("classifier fitted" in text for text in train.said)
    steps = train("freezing.policy=head_only", "training.epochs=30", "data.transform=none")
    assert exact.history[0]["val"]["log_loss"] <= steps.history[-1]["val"]["log_loss"] + 0.02
    for name, tensor in weights(exact).items():
        if not name.startswith("fc."):
            assert torch.equal(tensor, weights(steps)[name])


def test_an_exact_head_begins_head_then_all_and_may_be_the_best(train):
    run = train("freezing.policy=head_then_all", "training.head_fit=exact", "training.epochs=3",
                "optimizer.lr=1e-7")
    assert [e["fit"] is not None for e in run.history] == [True, False, False]
    assert [len(e["trainable_depths"]) for e in run.history] == [1, 6, 6]
    assert run.metrics["selection"]["epoch"] in (1, 2, 3)
    assert run.history[1]["lr"]["fc"] > 0
    destroyed = train("freezing.policy=head_then_all", "training.head_fit=exact",
                      "training.epochs=3", "optimizer.lr=1", "optimizer.name=sgd",
                      "training.select_metric=log_loss")
    assert destroyed.metrics["selection"]["epoch"] == 1, "the fitted head is a candidate"


def test_an_exact_head_reads_augmented_views_when_asked(train):
    train(*EXACT, "training.cache_views=3")
    kept = {about(c)["views"]: about(c)["transform"] for c in caches()}
    assert kept[3] == "natural"
    train(*EXACT)
    assert "evaluation" in {about(c)["transform"] for c in caches() if about(c)["views"] == 1}


@pytest.mark.parametrize("words", [
    ["training.class_weights=balanced"], ["training.label_smoothing=0.3"],
    ["data.sampling=balanced"]])
def test_an_exact_head_honours_what_weighs_the_loss(train, pictures, tmp_path, words):
    stored = dict(np.load(pictures))
    keep = np.flatnonzero((stored["labels"] > 0) | (np.arange(90) % 4 == 0))
    np.savez(tmp_path / "uneven.npz", images=stored["images"][keep],
             labels=stored["labels"][keep])
    plain = train(*EXACT, root=tmp_path / "uneven.npz")
    changed = train(*EXACT, *words, root=tmp_path / "uneven.npz")
    assert not torch.allclose(weights(plain)["fc.weight"], weights(changed)["fc.weight"])


def test_an_exact_head_takes_logit_adjustment_up_in_its_biases(train, pictures, tmp_path):
    stored = dict(np.load(pictures))
    keep = np.flatnonzero((stored["labels"] > 0) | (np.arange(90) % 4 == 0))
    np.savez(tmp_path / "uneven.npz", images=stored["images"][keep],
             labels=stored["labels"][keep])
    plain = train(*EXACT, root=tmp_path / "uneven.npz")
    run = train(*EXACT, "training.logit_adjustment=1.5", root=tmp_path / "uneven.npz")
    shown = [row["label"] for row in read_splits(run.path / "splits.csv")
             if row["split"] == "train"]
    counts = torch.tensor([shown.count(name) for name in sorted(set(shown))])
    assert torch.equal(weights(plain)["fc.weight"], weights(run)["fc.weight"])
    torch.testing.assert_close(weights(plain)["fc.bias"] - weights(run)["fc.bias"],
                               1.5 * torch.log(counts / counts.sum()), atol=1e-5, rtol=0)
    assert run.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-5)


def test_an_exact_head_without_a_cache_is_the_same(train):
    kept, anew = train(*EXACT), train(*EXACT, "training.cache_features=never")
    assert torch.equal(weights(kept)["fc.weight"], weights(anew)["fc.weight"])
    shutil.rmtree(cache_folder() / "features", ignore_errors=True)


@pytest.mark.parametrize(("words", "told"), [
    (["training.head_fit=exact"], "does nothing with freezing.policy=none"),
    (["training.head_strength=1"], "nothing without training.head_fit=exact"),
    ([*EXACT, "model.head=mlp"], "model.head=linear, not mlp"),
    ([*EXACT, "training.mixup_alpha=0.2"], "no mixup"),
    (["training.cache_views=2", "data.transform=none"], "data.transform=none has none"),
    (["training.cache_features=always"], "training.cache_views=K"),
    (["training.loss=contrastive"], "data.views=2, not 1"),
    (["training.loss=contrastive", "data.views=2", "training.mixup_alpha=1"], "doesn't go with"),
    (["training.loss=contrastive", "data.views=2", "freezing.policy=head_only"], "another policy"),
])
def test_what_contradicts_itself_is_refused(pictures, words, told):
    with pytest.raises(ConfigurationError, match=told):
        compose([f"data.root={pictures}", *words])


def test_a_classifier_that_is_fitted_alone_takes_one_epoch(pictures):
    composed = compose([f"data.root={pictures}", *EXACT[:2], "training.epochs=5"])
    assert composed.config.training.epochs == 1 and "one epoch" in composed.notes[0]
    assert compose([f"data.root={pictures}", *EXACT]).notes == ()
    rehearsal = compose(["recipe=linear_probe"])
    assert rehearsal.config.training.epochs == 1 and rehearsal.notes == ()
    assert "training.epochs" not in rehearsal.replaced


def test_an_exact_head_on_a_network_that_cannot_be_cut_is_refused(train, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ours_skipping.py").write_text(
        "from torch import nn\n"
        "class Skipping(nn.Module):\n"
        "    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(in_channels, 4, 3)\n"
        "        self.fc = nn.Linear(4, num_classes)\n"
        "    def forward(self, x):\n"
        "        x = self.conv(x)\n"
        "        return self.fc(x.mean((2, 3))) * x.mean()\n")
    words = ["model.name=ours_skipping:Skipping", "freezing.policy=head_only"]
    with pytest.raises(ConfigurationError, match=r"can't be cut .*training\.head_fit=sgd"):
        train(*words, *EXACT[1:])
    run = train(*words, "training.epochs=1")
    assert len(run.history) == 1 and any("trained whole" in text for text in train.said)


def test_nothing_is_written_beside_the_cache_folder(train, tmp_path):
    train(*CACHED)
    assert all(Path(c).is_relative_to(cache_folder()) for c in caches())
    assert not any("draft" in p.name for p in (cache_folder() / "features").iterdir())


def strength(run):
    return float(run.history[0]["fit"].split()[1].rstrip(":"))


def test_a_penalty_is_given_or_chosen_and_strong_where_training_goes_on(train):
    assert strength(train(*EXACT, "training.head_strength=0.7")) == 0.7
    weak = ["training.head_strength=0.0001"]
    assert not torch.allclose(weights(train(*EXACT, *weak))["fc.weight"],
                              weights(train(*EXACT))["fc.weight"])
    on = ["freezing.policy=head_then_all", "training.head_fit=exact", "training.epochs=2"]
    assert strength(train(*on)) >= HAND_OVER
    assert strength(train(*on, *weak)) == 0.0001
