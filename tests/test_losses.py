import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from finetune.models.heads import ProbeAndProjection
from finetune.specs import LabelKind, LabelSpec
from finetune.training.losses import (
    EFFECTIVE_BETA,
    ContrastiveLoss,
    build_loss,
    build_mix,
    class_weights,
    log_prior,
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


@pytest.mark.parametrize("beta", [0.9, 0.999, EFFECTIVE_BETA])
def test_effective_numbers_are_the_papers(beta):
    """Cui et al. 2019: E_n by the sum of its proof (1 + beta + ... + beta^(n-1)), weights to K."""
    counts = [500, 30, 2]
    effective = [sum(beta**power for power in range(n)) for n in counts]
    plain = [1 / number for number in effective]
    found = class_weights(np.repeat(np.arange(3), counts), SINGLE, beta=beta)
    assert found.tolist() == pytest.approx([3 * w / sum(plain) for w in plain], rel=1e-5)
    assert found.sum() == pytest.approx(3)


def test_effective_weights_lie_between_none_and_balanced():
    labels = np.repeat(np.arange(3), [500, 30, 2])
    ratio = [float(w[2] / w[0]) for w in (
        class_weights(labels, SINGLE, beta=b) for b in (0.5, 0.99, 0.999, 1 - 1e-9))]
    assert ratio == sorted(ratio) and 1 < ratio[0] < 2
    balanced = class_weights(labels, SINGLE)
    assert ratio[-1] == pytest.approx(float(balanced[2] / balanced[0]), rel=1e-3)


def test_effective_weights_of_several_labels_count_known_ones():
    labels = np.array([[1, 0], [0, 0], [0, 1], [np.nan, 0]], dtype=np.float32)
    found = class_weights(labels, MULTI, beta=0.5)
    assert found.tolist() == pytest.approx([1.5 / 1, 1.75 / 1])


def test_logit_adjustment_is_the_papers_loss():
    """Menon et al. 2021, the right side: log(1 + sum of (pi_other / pi)^tau e^(f_other - f))."""
    counts, tau = np.array([50, 5, 1]), 1.5
    labels = np.repeat(np.arange(3), counts)
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3
    prior = counts / counts.sum()
    terms = [np.log(1 + sum((prior[k] / prior[y])**tau * np.exp(float(f[k] - f[y]))
                            for k in range(3) if k != y))
             for f, y in zip(logits, targets.tolist(), strict=True)]
    loss = build_loss(SINGLE, adjustment=tau * log_prior(labels, SINGLE))
    assert loss(logits, targets).item() == pytest.approx(np.mean(terms))


def test_logit_adjustment_of_several_labels_is_that_of_two_classes_each():
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, 0], [np.nan, 0]], dtype=np.float32)
    logits, targets = torch.tensor([[0.3, -1.0]]), torch.tensor([[1.0, float("nan")]])
    found = build_loss(MULTI, adjustment=log_prior(labels, MULTI))(logits, targets)
    two = torch.tensor([[0.0, 0.3]]) + torch.tensor([[0.75, 0.25]]).log()
    assert found.item() == pytest.approx(
        nn.functional.cross_entropy(two, torch.tensor([1])).item())


def test_adjusted_training_answers_as_if_classes_were_equally_frequent():
    """Of features that tell nothing: shares go into the adjustment, answers are even."""
    labels = np.repeat(np.arange(3), [60, 30, 10])
    bias = torch.zeros(3, requires_grad=True)
    loss = build_loss(SINGLE, adjustment=log_prior(labels, SINGLE))
    optimizer = torch.optim.LBFGS([bias], max_iter=50)

    def closure():
        optimizer.zero_grad()
        value = loss(bias.expand(100, 3), torch.as_tensor(labels))
        value.backward()
        return value

    optimizer.step(closure)
    assert bias.softmax(0).tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)


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
