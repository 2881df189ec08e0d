"""training.compile: the same training, other code."""


import numpy as np
import pytest
import torch
from torch import nn

from finetune import frozen
from finetune import run as run_module
from finetune.composition import compose
from finetune.errors import ConfigurationError
from finetune.models.prefix import build_suffix, find_boundary
from finetune.run import fit, resume
from finetune.training.compiling import compile_forward, compile_problem
from finetune.training.loop import TrainingSettings, _room

pytestmark = [pytest.mark.usefixtures("without_pages"),
              pytest.mark.filterwarnings("ignore::DeprecationWarning"),
              pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train with words by a backend that needs no compiler; what was said and compiled is kept."""
    labels = np.arange(40) % 2
    random = np.random.default_rng(0)
    images = random.integers(0, 150, (40, 32, 32, 3)) + labels[:, None, None, None] * 60
    np.savez(tmp_path / "some.npz", images=images.astype(np.uint8), labels=labels)

    def run(*words, backend="aot_eager"):
        run.said, run.made = [], []

        def compiled(network):
            run.made.append(network)
            return compile_forward(network, backend=backend)

        monkeypatch.setattr(frozen, "compile_forward", compiled)
        monkeypatch.setattr(run_module, "say", run.said.append)
        base = [f"data.root={tmp_path / 'some.npz'}", f"output_dir={tmp_path}",
                "model.name=resnet10t", "model.weights=null", "data.image_size=32",
                "data.batch_size=8", "data.workers=0", "training.epochs=2", "device=cpu",
                "tracking.mode=disabled", "training.convolutions=library",
                "optimizer.lr=1e-3", "optimizer.name=momentum"]
        return fit(compose([*base, *words]).config)
    yield run
    torch.compiler.reset()


def losses(run):
    return [(entry["train_loss"], entry["val"]["log_loss"]) for entry in run.history]


@pytest.mark.parametrize(("words", "compiled"), [
    ([], 1), (["training.convolutions=products"], 1),
    (["freezing.policy=below", "freezing.below=layer4", "data.transform=none"], 1),
    (["freezing.policy=below", "freezing.below=layer3", "training.cache_features=never"], 1),
    (["freezing.policy=head_then_all", "data.transform=none"], 1),
    (["freezing.policy=gradual", "training.epochs=4", "freezing.frozen_fraction=1"], 3),
    ], ids=lambda w: str(w)[:40])
def test_a_compiled_training_is_the_training(train, words, compiled):
    plain = train(*words)
    assert not train.made and not any("training.compile" in text for text in train.said)
    found = train(*words, "training.compile=true")
    assert len(train.made) == compiled
    assert sum("compiled at the first batch" in text for text in train.said) == compiled
    np.testing.assert_allclose(losses(found), losses(plain), rtol=1e-4)
    names = [list(torch.load(each.last_checkpoint, weights_only=True)["model"])
             for each in (plain, found)]
    assert names[0] == names[1]


def test_nothing_is_compiled_for_a_classifier_alone(train):
    run = train("freezing.policy=head_only", "data.transform=none", "training.compile=true")
    assert not train.made and len(run.history) == 2
    assert any("only the classifier trains, nothing is compiled" in text for text in train.said)


def test_a_finished_compiled_run_is_resumed_from_its_checkpoint(train):
    run = train("training.compile=true")
    before = losses(run)
    (run.path / "report.html").unlink()
    assert losses(resume(run)) == before


def test_a_suffix_is_compiled_without_breaks():
    import timm

    torch.manual_seed(0)
    model, images = timm.create_model("resnet10t", num_classes=3).eval(), torch.randn(2, 3, 32, 32)
    boundary = find_boundary(model, 3, images)
    suffix = build_suffix(model, boundary)
    features = torch.randn(2, *boundary.shape)
    whole = torch.compile(suffix, backend="eager", fullgraph=True)
    for _ in range(3):
        torch.testing.assert_close(whole(features), suffix(features))
    torch.compiler.reset()


def test_a_failing_compiler_is_told_with_the_way_out(train):
    def failing(graph, inputs):
        raise RuntimeError("no compiler here")

    with pytest.raises(ConfigurationError, match=r"no compiler here.*training\.compile=false"):
        train("training.compile=true", backend=failing)


def test_other_failures_stay_what_they_are():
    assert compile_problem(RuntimeError("x")) is None
    settings = TrainingSettings(epochs=1, seed=0, lr=0.1)
    with pytest.raises(RuntimeError, match="shape"), _room(settings, lambda share: True):
        raise RuntimeError("shape")


def test_the_compiled_network_shares_its_tensors():
    network = nn.Linear(2, 2)
    compiled = compile_forward(network, backend="eager")
    compiled(torch.ones(1, 2)).sum().backward()
    assert network.weight.grad is not None
    assert next(compiled.parameters()) is network.weight
