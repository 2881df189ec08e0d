import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from finetune.errors import ConfigurationError, DataError
from finetune.specs import LabelKind, LabelSpec
from finetune.training import head_fit, logistic
from finetune.training.head_fit import fit_head, load_head, one_standard_error, split_folds
from finetune.training.losses import build_loss, class_weights

STRENGTH = 3e-3
FEW = (0.1, 0.01, 1e-3)  # strengths, where a test needs a choice but not the whole path


def spec(width, kind=LabelKind.single):
    return LabelSpec(kind, tuple(f"class {i}" for i in range(width)))


def made(count=150, size=12, classes=3, seed=0):
    """Correlated features of very different means and scales, and overlapping classes."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(classes, size=count)
    centres = chance.normal(size=(classes, size)) * 0.6
    plain = centres[labels] + chance.normal(size=(count, size))
    mixed = plain @ chance.normal(size=(size, size)) * np.logspace(-2, 2, size) + 5
    return torch.tensor(mixed, dtype=torch.float32), labels, chance.uniform(0.2, 3, size=count)


def made_multi(count=160, size=8):
    features, _, each = made(count, size)
    chance = np.random.default_rng(1)
    scores = StandardScaler().fit_transform(features) @ chance.normal(size=(size, 3))
    labels = (scores + chance.normal(size=scores.shape) > 0.8).astype(np.float32)
    labels[chance.random(labels.shape) < 0.3] = np.nan
    return features, labels, each


def logits(features, fit):
    return features.double() @ fit.weight.double().T + fit.bias.double()


def reference(features, labels, weights, inverse_strength):
    scaled = StandardScaler().fit_transform(features.double().numpy())
    model = LogisticRegression(C=inverse_strength, tol=1e-8, max_iter=5000)
    return model.fit(scaled, labels, sample_weight=weights).predict_proba(scaled)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [12, 200])
def test_probabilities_are_scikit_learns(classes, weighted, size):
    features, labels, each = made(classes=classes, size=size)
    by_class = class_weights(labels, spec(classes))
    total = each * by_class.numpy()[labels] if weighted else np.ones(len(labels))
    fit = fit_head(features, labels, label_spec=spec(classes), strengths=[STRENGTH],
                   class_weights=by_class if weighted else None,
                   sample_weights=each if weighted else None)
    twice = 2 if classes == 2 else 1  # scikit-learn has one logit for two classes
    expected = reference(features, labels, total, twice / (STRENGTH * total.sum()))
    assert logits(features, fit).softmax(1).numpy() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_each_label_is_scikit_learns_regression_on_its_known_rows(weighted):
    features, labels, each = made_multi()
    known = ~np.isnan(labels)
    positive = torch.tensor([2.0, 0.5, 4.0])
    each = each if weighted else np.ones(len(labels))
    fit = fit_head(features, labels, label_spec=spec(3, LabelKind.multi), strengths=[STRENGTH],
                   class_weights=positive if weighted else None, sample_weights=each)
    found = logits(features, fit).sigmoid().numpy()
    scaled = StandardScaler().fit_transform(features.double().numpy())
    inverse = 1 / (STRENGTH * (each[:, None] * known).sum())
    for k in range(3):
        rows = known[:, k]
        weights = each * np.where(labels[:, k] == 1, positive[k] if weighted else 1, 1)
        model = LogisticRegression(C=inverse, tol=1e-8, max_iter=5000)
        model.fit(scaled[rows], labels[rows, k], sample_weight=weights[rows])
        expected = model.predict_proba(scaled)[:, 1]
        assert found[:, k] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", [LabelKind.single, LabelKind.multi])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_training_loss_has_no_slope_at_the_fit(kind, smoothing):
    features, labels, _ = made() if kind is LabelKind.single else made_multi()
    weights = torch.tensor([2.0, 0.5, 1.0])
    fit = fit_head(features, labels, label_spec=spec(3, kind), class_weights=weights,
                   label_smoothing=smoothing, strengths=[STRENGTH])
    deviation = features.double().std(0, correction=0)
    scaled = (features.double() - features.double().mean(0)) / deviation
    weight = (fit.weight.double() * deviation).requires_grad_()
    bias = (logits(features, fit) - scaled @ weight.T)[0].detach().requires_grad_()
    criterion = build_loss(spec(3, kind), smoothing=smoothing, weights=weights.double())
    loss = criterion(scaled @ weight.T + bias, torch.as_tensor(labels))
    (loss + STRENGTH / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-5
    assert bias.grad.abs().max() < 1e-5


def test_label_smoothing_changes_the_fit():
    features, labels, _ = made()
    fits = [fit_head(features, labels, label_spec=spec(3), strengths=[1e-5],
                     label_smoothing=smoothing) for smoothing in (0.0, 0.2)]
    largest = [logits(features, fit).softmax(1).max() for fit in fits]
    assert largest[1] < largest[0] - 0.01


def test_shift_and_scale_of_the_features_do_not_matter():
    features, labels, _ = made()
    one = fit_head(features, labels, label_spec=spec(3), strengths=FEW)
    moved = features.double() * torch.logspace(3, -3, 12) - 4
    two = fit_head(moved, labels, label_spec=spec(3), strengths=FEW)
    assert one.strength == two.strength
    torch.testing.assert_close(logits(features, one), logits(moved, two), atol=1e-3, rtol=1e-3)


def test_a_constant_feature_gets_no_weight():
    features, labels, _ = made()
    constant = torch.cat([features, torch.full((150, 1), 0.1), torch.zeros(150, 1)], dim=1)
    one, two = (fit_head(given, labels, label_spec=spec(3), strengths=FEW)
                for given in (features, constant))
    assert not two.weight[:, -2:].any()
    torch.testing.assert_close(logits(features, one), logits(constant, two), atol=1e-4, rtol=1e-4)


def test_constant_features_alone_give_the_shares_of_the_classes():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    fit = fit_head(torch.ones(10, 4), labels, label_spec=spec(3))
    assert fit.bias.softmax(0).tolist() == pytest.approx([0.6, 0.3, 0.1], abs=1e-5)


def test_separable_classes_give_finite_weights_and_no_mistakes():
    features, labels, _ = made(count=60, size=100)
    fit = fit_head(features, labels, label_spec=spec(3), strengths=[1e-8])
    assert fit.weight.isfinite().all() and fit.bias.isfinite().all()
    assert "stopped" not in fit.chosen_by
    assert (logits(features, fit).argmax(1).numpy() == labels).all()


def test_fewer_rows_than_classes_take_the_default_strength():
    features, _, _ = made(count=4)
    fit = fit_head(features, np.array([0, 3, 5, 8]), label_spec=spec(9))
    assert fit.strength == head_fit.DEFAULT_STRENGTH
    assert fit.path == [] and "default" in fit.chosen_by
    assert logits(features, fit).argmax(1).tolist() == [0, 3, 5, 8]


def test_a_class_without_rows_is_finite_and_never_likely():
    features, labels, _ = made()
    fit = fit_head(features, labels * 2, label_spec=spec(5), strengths=FEW)  # 0, 2 and 4
    without = fit_head(features, labels, label_spec=spec(3), strengths=FEW)
    probabilities = logits(features, fit).softmax(1)
    assert fit.bias.isfinite().all()
    assert probabilities[:, [1, 3]].max() < 1e-4
    torch.testing.assert_close(probabilities[:, ::2], logits(features, without).softmax(1),
                               atol=1e-3, rtol=0)


def test_a_label_that_nobody_knows_stays_at_one_half():
    features, labels, _ = made_multi()
    labels[:, 1] = np.nan
    fit = fit_head(features, labels, label_spec=spec(3, LabelKind.multi), strengths=FEW)
    assert not fit.weight[1].any() and fit.bias[1] == 0


@pytest.mark.parametrize("kind", [LabelKind.single, LabelKind.multi])
def test_folds_never_split_a_group(kind):
    _, labels, _ = made() if kind is LabelKind.single else made_multi()
    groups = np.array([f"patient {i // 4}" for i in range(len(labels))])
    parts = split_folds(labels, label_spec=spec(3, kind), groups=groups)
    assert len(parts) == 5
    for fit, held in parts:
        assert not set(groups[fit]) & set(groups[held])
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(len(labels)))


def test_groups_change_what_is_chosen():
    """Copies of noise: only held-out groups show that there is nothing to learn."""
    chance = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    features = torch.tensor(np.repeat(chance.normal(size=(40, 60)), 5, axis=0))
    labels = np.repeat(chance.integers(2, size=40), 5)
    apart = fit_head(features, labels, label_spec=spec(2), groups=groups)
    together = fit_head(features, labels, label_spec=spec(2))
    assert apart.strength >= 1 > 0.01 > together.strength


def test_few_groups_give_fewer_folds_and_one_gives_none():
    _, labels, _ = made()
    groups = np.arange(150) % 3
    assert len(split_folds(labels, label_spec=spec(3), groups=groups)) == 3
    assert split_folds(labels, label_spec=spec(3), groups=np.zeros(150)) == []
    assert split_folds(labels, label_spec=spec(3), groups=labels) == []  # a class, a group


def test_a_class_of_one_row_leaves_the_other_classes_their_folds():
    features, labels, _ = made()
    labels[0] = 3
    fit = fit_head(features, labels, label_spec=spec(4), strengths=FEW)
    without = fit_head(features[1:], labels[1:], label_spec=spec(3), strengths=FEW)
    assert [point["log_loss"] for point in fit.path] == pytest.approx(
        [point["log_loss"] for point in without.path], abs=0.1)


def test_a_label_with_one_positive_does_not_spoil_the_path():
    features, labels, _ = made_multi()
    labels[:, 1] = 0
    labels[0, 1] = 1
    multi = spec(3, LabelKind.multi)
    rare = fit_head(features, labels, label_spec=multi, strengths=[1e-3, 1e-5])
    labels[0, 1] = np.nan
    never = fit_head(features, labels, label_spec=multi, strengths=[1e-3, 1e-5])
    assert [point["log_loss"] for point in rare.path] == pytest.approx(
        [point["log_loss"] for point in never.path], abs=0.1)


def test_each_fold_is_fitted_without_what_it_holds_out(monkeypatch):
    features, labels, _ = made()
    seen = []
    real = head_fit.logistic_path
    monkeypatch.setattr(head_fit, "logistic_path", lambda rows, *given, **options: (
        seen.append(rows.features), real(rows, *given, **options))[1])
    fit_head(features, labels, label_spec=spec(3), seed=4)
    expected = [features[fit] for fit, _ in split_folds(labels, label_spec=spec(3), seed=4)]
    assert len(seen) == 6
    assert all(map(torch.equal, seen, [*expected, features]))


def test_the_path_is_the_held_out_log_loss_of_separate_fits():
    features, labels, _ = made()
    path = fit_head(features, labels, label_spec=spec(3), strengths=[1.0, STRENGTH]).path
    losses = []
    for rows, held in split_folds(labels, label_spec=spec(3)):
        fit = fit_head(features[rows], labels[rows], label_spec=spec(3), strengths=[STRENGTH])
        losses.append(nn.functional.cross_entropy(logits(features[held], fit),
                                                  torch.as_tensor(labels[held])).item())
    assert [point["strength"] for point in path] == [1.0, STRENGTH]
    assert path[1]["log_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
    assert path[1]["standard_error"] == pytest.approx(np.std(losses, ddof=1) / 5 ** 0.5, rel=1e-3)


def test_the_path_ends_where_losses_stay_far_above_the_least():
    features, labels, _ = made(size=60)
    noise = np.random.default_rng(0).permutation(labels)
    path = fit_head(features, noise, label_spec=spec(3)).path
    assert 3 < len(path) < len(head_fit.STRENGTHS)
    least = min(point["log_loss"] for point in path)
    assert all(point["log_loss"] > 1.05 * least for point in path[-3:])


def test_axes_do_not_change_the_solution():
    features, labels, each = made()
    rows = logistic.LogisticRows(features, torch.as_tensor(labels), torch.as_tensor(each),
                                 torch.ones(3).double(), True)
    others = [logistic.principal_axes(features), torch.eye(12).double(),
              torch.linalg.qr(torch.randn(12, 12).double())[0]]
    weights = [next(logistic.logistic_path(rows, [STRENGTH], smoothing=0.0, tolerance=1e-8,
                                           axes=axes))[0] for axes in others]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weights[0], weights[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("error", "expected"), [(0.0, 0.1), (0.06, 1), (0.2, 1), (0.6, 10)])
def test_one_standard_error_takes_the_strongest_within_it(error, expected):
    path = [{"strength": strength, "log_loss": loss, "standard_error": error}
            for strength, loss in ((10, 0.9), (1, 0.45), (0.1, 0.4), (0.01, 0.41))]
    assert one_standard_error(path)["strength"] == expected


def test_a_least_loss_at_an_end_of_the_strengths_is_said():
    features, labels, _ = made()
    inner = fit_head(features, labels, label_spec=spec(3))
    outer = fit_head(features, labels, label_spec=spec(3), strengths=[10.0, 5.0])
    assert "an end" not in inner.chosen_by and "5 folds" in inner.chosen_by
    assert "an end of the strengths tried" in outer.chosen_by


def test_equal_arguments_give_equal_bits_and_another_seed_other_folds():
    features, labels, _ = made()
    one, two, other = (fit_head(features, labels, label_spec=spec(3), strengths=FEW, seed=seed)
                       for seed in (1, 1, 2))
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    assert one.path == two.path != other.path


def test_large_features_in_float32_give_the_same_probabilities(monkeypatch):
    features, labels, _ = made()
    exact = fit_head(features, labels, label_spec=spec(3), strengths=FEW)
    monkeypatch.setattr(head_fit, "FLOAT64_ENTRIES", 0)
    coarse = fit_head(features, labels, label_spec=spec(3), strengths=FEW)
    assert coarse.strength == exact.strength and "stopped" not in coarse.chosen_by
    torch.testing.assert_close(logits(features, exact).softmax(1),
                               logits(features, coarse).softmax(1), atol=1e-3, rtol=0)


def test_a_search_that_did_not_end_is_said(monkeypatch):
    features, labels, _ = made()
    monkeypatch.setattr(logistic, "STEPS", 3)
    fit = fit_head(features, labels, label_spec=spec(3), strengths=FEW)
    assert "stopped early" in fit.chosen_by


@pytest.mark.parametrize("classifier", [nn.Linear(12, 3), nn.Conv2d(12, 3, 1),
                                        nn.Sequential(nn.Flatten(), nn.Linear(12, 3))])
def test_a_loaded_head_gives_the_logits_of_the_fit(classifier):
    features, labels, _ = made()
    fit = fit_head(features, labels, label_spec=spec(3))
    load_head(classifier, fit)
    given = features[:, :, None, None] if isinstance(classifier, nn.Conv2d) else features
    torch.testing.assert_close(classifier(given).flatten(1), features @ fit.weight.T + fit.bias,
                               atol=1e-3, rtol=1e-4)
    assert all(p.requires_grad for p in classifier.parameters())


@pytest.mark.parametrize("classifier", [
    nn.Sequential(nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 3)), nn.Linear(12, 3, bias=False),
    nn.Linear(12, 4), nn.Conv2d(12, 3, 3), nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 3)),
    nn.Identity()])
def test_a_classifier_of_another_shape_is_refused(classifier):
    features, labels, _ = made()
    fit = fit_head(features, labels, label_spec=spec(3), strengths=[1.0])
    with pytest.raises(ConfigurationError, match=r"model\.head=linear"):
        load_head(classifier, fit)


def test_wrong_input_is_named():
    features, labels, _ = made()
    cases = {"not \\(150 labels": (features[1:], labels), "beyond": (features, labels + 1),
             "rows 7 aren't finite": (features.index_fill(0, torch.tensor([7]), torch.nan), labels),
             "labels are": (features, np.zeros((150, 3)))}
    for message, (given, answers) in cases.items():
        with pytest.raises(DataError, match=message):
            fit_head(given, answers, label_spec=spec(3))
    with pytest.raises(DataError, match="sample_weights"):
        fit_head(features, labels, label_spec=spec(3), sample_weights=-np.ones(150))
    with pytest.raises(DataError, match="class_weights"):
        fit_head(features, labels, label_spec=spec(3), class_weights=torch.ones(2))
    with pytest.raises(ConfigurationError, match="above 0"):
        fit_head(features, labels, label_spec=spec(3), strengths=[0.0])
