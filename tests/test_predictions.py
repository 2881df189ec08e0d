import numpy as np
import pytest
import torch
from torch import nn

from finetune.errors import InputError
from finetune.evaluation.predictions import Predictions, collect_predictions
from finetune.specs import LabelKind, LabelSpec

SPEC = LabelSpec(LabelKind.single, ("no", "肺炎"), "肺炎")


def loader():
    images = torch.arange(10.0).reshape(5, 2)
    order = torch.tensor([3, 0, 4, 1, 2])
    for part in order.split(2):
        yield images[part], part % 2, part


def test_predictions_are_in_the_order_of_the_ids_whatever_the_batches():
    model = nn.Linear(2, 2)
    found = collect_predictions(model, loader(), prepare=lambda x: x, ids=list("abcde"),
                                label_spec=SPEC)
    expected = model(torch.arange(10.0).reshape(5, 2)).detach().numpy()
    assert np.allclose(found.logits, expected, atol=1e-6)
    assert found.labels.tolist() == [0, 1, 0, 1, 0]


def test_every_submodule_has_its_mode_again():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    model.train()
    model[0].eval()
    collect_predictions(model, loader(), prepare=lambda x: x, ids=list("abcde"), label_spec=SPEC)
    assert model.training and not model[0].training and model[1].training


def test_a_file_holds_everything(tmp_path):
    p = Predictions(["ä/1", "b"], np.array([0, 1]), np.ones((2, 2), np.float32), SPEC, ["g", "h"])
    p.save(tmp_path / "p" / "test.npz")
    read = Predictions.load(tmp_path / "p" / "test.npz")
    assert (read.ids, read.groups, read.label_spec) == (p.ids, p.groups, SPEC)
    assert np.array_equal(read.logits, p.logits) and np.array_equal(read.labels, p.labels)
    (tmp_path / "broken.npz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"broken\.npz"):
        Predictions.load(tmp_path / "broken.npz")


def test_probabilities_are_softmax_or_sigmoid():
    logits = np.array([[0.0, np.log(3)]], np.float32)
    single = Predictions(["a"], np.array([0]), logits, SPEC)
    labels = LabelSpec(LabelKind.multi, ("a", "b"))
    multi = Predictions(["a"], np.array([[0.0, 1.0]]), logits, labels)
    assert single.probabilities[0] == pytest.approx([0.25, 0.75])
    assert multi.probabilities[0] == pytest.approx([0.5, 0.75])
