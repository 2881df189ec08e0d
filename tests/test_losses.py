import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from finetune.specs import LabelKind, LabelSpec
from finetune.training.losses import build_loss, build_mix, class_weights

SINGLE = LabelSpec(LabelKind.single, ("a", "b", "c"))
MULTI = LabelSpec(LabelKind.multi, ("a", "b"))


def test_class_weights_are_scikit_learns_balanced():
    labels = np.array([0] * 5 + [1] * 3 + [2] * 2)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(labels, SINGLE).numpy() == pytest.approx(expected)


def test_multi_label_weights_are_negatives_by_positives_of_what_is_known():
    labels = np.array([[1, 0], [0, 0], [0, 1], [np.nan, 0]], dtype=np.float32)
    assert class_weights(labels, MULTI).tolist() == [2.0, 3.0]


def test_unknown_labels_add_nothing():
    loss = build_loss(MULTI)
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    targets = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    value = loss(logits, targets)
    value.backward()
    expected = nn.functional.binary_cross_entropy_with_logits(
        logits.detach()[[0, 1, 1], [0, 0, 1]], targets[[0, 1, 1], [0, 0, 1]])
    assert value.item() == pytest.approx(expected.item())
    assert logits.grad[0, 1] == 0


def test_all_unknown_is_zero_not_nan():
    assert build_loss(MULTI)(torch.zeros(2, 2), torch.full((2, 2), float("nan"))) == 0


def test_smoothing_and_weights_change_the_loss():
    logits, labels = torch.tensor([[2.0, 0, 0], [0, 1.0, 0]]), torch.tensor([0, 2])
    plain = build_loss(SINGLE)(logits, labels)
    assert build_loss(SINGLE, smoothing=0.2)(logits, labels) != plain
    assert build_loss(SINGLE, weights=torch.tensor([1.0, 1.0, 5.0]))(logits, labels) > plain
    targets = torch.tensor([[1.0, 0.0]])
    assert build_loss(MULTI, smoothing=0.2)(logits[:1, :2], targets) != build_loss(MULTI)(
        logits[:1, :2], targets)


def test_no_mixing_when_off():
    assert build_mix(SINGLE) is None


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_mixing_keeps_the_mean_picture_and_probabilities_that_sum_to_one(kind):
    torch.manual_seed(0)
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    mixed, targets = build_mix(SINGLE, **{kind: 1.0})(images, labels)
    assert not torch.equal(mixed, images)
    assert torch.allclose(mixed.mean(0), images.mean(0), atol=1e-6)
    assert torch.allclose(targets.sum(1), torch.ones(6))


def test_mixing_with_unknown_is_unknown():
    torch.manual_seed(0)
    targets = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    _, mixed = build_mix(MULTI, mixup_alpha=1.0)(torch.rand(2, 3, 8, 8), targets)
    assert mixed[:, 1].isnan().all() and not mixed[:, 0].isnan().any()
