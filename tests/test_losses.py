import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from finetune.models.heads import ProbeAndProjection
from finetune.specs import LabelKind, LabelSpec
from finetune.training.losses import (
    ContrastiveLoss,
    build_loss,
    build_mix,
    class_weights,
    nt_xent,
)

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


# ---- contrastive

def test_nt_xent_is_the_papers_formula():
    """Chen et al. 2020, equation 1, written as it stands there."""
    torch.manual_seed(0)
    projections, temperature = torch.randn(6, 4, dtype=torch.float64), 0.3
    unit = projections / projections.norm(dim=1, keepdim=True)
    terms = []
    for i in range(6):
        partner = i + 1 if i % 2 == 0 else i - 1
        powers = [torch.exp(unit[i] @ unit[k] / temperature) for k in range(6)]
        others = sum(p for k, p in enumerate(powers) if k != i)
        terms.append(-torch.log(powers[partner] / others))
    torch.testing.assert_close(nt_xent(projections, temperature), torch.stack(terms).mean())


def test_nt_xent_is_least_where_views_agree_and_pictures_differ():
    good = torch.eye(4).repeat_interleave(2, 0)
    assert nt_xent(good, 0.1) < 0.01 < nt_xent(good.roll(1, 0), 0.1)


def test_labels_reach_the_classifier_and_never_the_features():
    torch.manual_seed(0)
    body, head = nn.Linear(3, 5), ProbeAndProjection(nn.Linear(5, 3), 5)
    loss = ContrastiveLoss(build_loss(SINGLE), output_width=3, temperature=0.5)
    images, targets = torch.randn(8, 3), torch.tensor([0, 0, 1, 1, 2, 2, 0, 0])

    def gradients(targets):
        for parameter in [*body.parameters(), *head.parameters()]:
            parameter.grad = None
        loss(head(body(images)), targets).backward()
        return body.weight.grad.clone(), head.classifier.weight.grad.clone()

    features, classifier = gradients(targets)
    same, other = gradients(targets.flip(0))
    assert torch.equal(features, same) and features.any()
    assert not torch.allclose(classifier, other)
    head.eval()
    assert head(body(images)).shape == (8, 3)
