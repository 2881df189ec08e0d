"""Ordered classes: their order, their probabilities, their metrics, and a run with them."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, mean_absolute_error
from torch import nn
from torch.nn import functional

from finetune.composition import compose
from finetune.data.label_kinds import with_label_kind
from finetune.data.samples import FolderSource, single_label
from finetune.errors import ConfigurationError, DataError
from finetune.evaluation.intervals import compute_intervals
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.ranks import squares_by_chance
from finetune.models.building import build_model
from finetune.models.heads import classifier_modules, keep_class_rows
from finetune.models.ordinal import ContinuationRatio, CumulativeLink
from finetune.run import evaluate, fit
from finetune.specs import LabelKind, LabelSpec, OrdinalLink
from finetune.training.losses import build_loss

NAMES = ("mild", "moderate", "severe", "worst")
SPEC = LabelSpec(LabelKind.ordinal, NAMES)


# ---- probabilities

def ranked(count=400, seed=0):
    """Features (N, 2) and the ranks 0..3 that they tell something about."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 2))
    score = features @ [1.5, -0.7] + random.logistic(size=count)
    return features, np.digitize(score, [-1.5, 0.2, 2.0])


def cumulative(weight, thresholds):
    """A linear classifier with a cumulative link of these parameters."""
    head = nn.Sequential(nn.Linear(len(weight), 1), CumulativeLink(len(thresholds) + 1)).double()
    with torch.no_grad():
        head[0].weight[0] = torch.as_tensor(weight)
        head[0].bias.zero_()
        head[1].first[0] = thresholds[0]
        head[1].gaps.copy_(torch.as_tensor(np.log(np.expm1(np.diff(thresholds)))))
    return head


def test_the_cumulative_link_is_statsmodels_ordered_model():
    ordered = pytest.importorskip("statsmodels.miscmodels.ordinal_model")
    features, labels = ranked()
    model = ordered.OrderedModel(labels, features, distr="logit")
    fitted = model.fit(method="bfgs", disp=False, gtol=1e-8)
    thresholds = model.transform_threshold_params(fitted.params)[1:-1]
    head = cumulative(fitted.params[:2], thresholds)
    logits = head(torch.as_tensor(features))
    assert logits.exp().detach().numpy() == pytest.approx(np.asarray(fitted.predict()), abs=1e-10)
    loss = build_loss(SPEC)(logits, torch.as_tensor(labels))
    assert -loss.item() * len(labels) == pytest.approx(fitted.llf)
    found = trained(features, labels)
    assert found[0].weight[0].detach().numpy() == pytest.approx(fitted.params[:2], abs=1e-3)
    assert (found[1].thresholds - found[0].bias).detach().numpy() == pytest.approx(
        thresholds, abs=1e-3)


def trained(features, labels):
    """The head with the least loss, from where a fresh one begins."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(2, 1), CumulativeLink(4)).double()
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = build_loss(SPEC)(head(torch.as_tensor(features)), torch.as_tensor(labels))
        loss.backward()
        return loss

    optimizer.step(closure)
    return head


@pytest.mark.parametrize("classes", [3, 5, 40])
def test_a_fresh_link_knows_nothing_and_thresholds_stay_ordered(classes):
    link = CumulativeLink(classes)
    assert link(torch.zeros(1, 1)).exp()[0].tolist() == pytest.approx(
        [1 / classes] * classes, rel=1e-4)
    with torch.no_grad():
        link.gaps.copy_(torch.linspace(-12, 3, classes - 2))
    assert (link.thresholds.double().diff() > 0).all()


def test_corn_is_the_papers_probabilities_and_loss():
    """Shi et al. 2021: products of conditional steps; each step's loss over who reaches it."""
    torch.manual_seed(0)
    scores, labels = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 4
    steps = scores.sigmoid()
    beyond = torch.cumprod(steps, 1)  # P(y > k)
    logits = ContinuationRatio()(scores)
    torch.testing.assert_close(logits.softmax(1)[:, 1:].flip(1).cumsum(1).flip(1), beyond)
    total, terms = torch.zeros(()), 0
    for task in range(3):
        for i in range(9):
            if labels[i] >= task:
                step = steps[i, task]
                total = total - (torch.log(step) if labels[i] > task else torch.log(1 - step))
                terms += 1
    ours = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(ours * 9 / terms, total / terms)


@pytest.mark.parametrize("link", [CumulativeLink(4), ContinuationRatio()])
def test_logits_are_log_probabilities_however_sure(link):
    width = 1 if isinstance(link, CumulativeLink) else 3
    scores = torch.linspace(-200, 200, 11)[:, None].repeat(1, width).requires_grad_()
    logits = link(scores)
    torch.testing.assert_close(logits.logsumexp(1), torch.zeros(11), atol=1e-6, rtol=0)
    functional.cross_entropy(logits, torch.zeros(11, dtype=torch.long)).backward()
    assert logits.isfinite().all() and scores.grad.isfinite().all()
    assert link(scores.detach().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("link", OrdinalLink)
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_network_gives_log_probabilities_of_every_class(link, head):
    torch.manual_seed(0)
    model, _ = build_model("test_resnet", num_classes=4, head=head, ordinal=link)
    logits = model.eval()(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 4)
    torch.testing.assert_close(logits.exp(), logits.softmax(1))
    (classifier,) = classifier_modules(model).values()
    assert any(isinstance(m, CumulativeLink | ContinuationRatio) for m in classifier)


def test_a_convolution_as_classifier_is_refused():
    class Odd(nn.Module):
        def __init__(self, num_classes, in_channels):
            super().__init__()
            self.fc = nn.Conv2d(in_channels, num_classes, 1)

        def get_classifier(self):
            return self.fc

    from finetune.models.ordinal import make_ordinal

    with pytest.raises(ConfigurationError, match="one linear classifier"):
        make_ordinal(Odd(1, 3), OrdinalLink.corn, 4)


def test_an_earlier_runs_ordered_classifier_is_taken_whole_or_not_at_all():
    torch.manual_seed(0)
    old, new = (build_model("test_resnet", num_classes=4, ordinal=OrdinalLink.cumulative_link)[0]
                for _ in range(2))
    same, kept = keep_class_rows(old.state_dict(), new, old=NAMES, new=NAMES)
    assert kept == list(NAMES) and torch.equal(same["fc.0.weight"], old.fc[0].weight)
    other, kept = keep_class_rows(old.state_dict(), new, old=NAMES, new=NAMES[::-1])
    assert kept == [] and not [name for name in other if name.startswith("fc.")]


# ---- metrics

def answers(labels, predicted, width=4):
    logits = 5 * np.eye(width, dtype=np.float32)[predicted]
    return Predictions([str(i) for i in range(len(labels))], labels, logits,
                       replace(SPEC, class_names=tuple("abcdefg"[:width])))


def test_kappa_and_error_are_scikit_learns():
    random = np.random.default_rng(0)
    for width in (3, 4, 7):
        labels, other = random.integers(0, width, (2, 60))
        predicted = np.where(random.random(60) < 0.5, labels, other)
        found = compute_metrics(answers(labels, predicted, width))
        assert found["quadratic_kappa"] == pytest.approx(
            cohen_kappa_score(labels, predicted, weights="quadratic"))
        assert found["mean_absolute_error"] == pytest.approx(
            mean_absolute_error(labels, predicted))


def test_kappa_of_a_single_class_is_not_defined():
    ones = np.ones(8, dtype=np.int64)
    found = compute_metrics(answers(ones, ones))
    assert found["quadratic_kappa"] is None and found["mean_absolute_error"] == 0
    assert compute_intervals(answers(ones, ones), found)["quadratic_kappa"]["low"] is None
    assert compute_metrics(answers(np.array([0, 1, 2]), ones[:3]))["quadratic_kappa"] == 0


def test_only_ordered_classes_have_ranks():
    given = answers(np.arange(8) % 4, np.arange(8) // 2)
    plain = Predictions(given.ids, given.labels, given.logits,
                        LabelSpec(LabelKind.single, given.label_spec.class_names))
    assert set(compute_metrics(given)) - set(compute_metrics(plain)) == {
        "quadratic_kappa", "mean_absolute_error"}


def test_chance_is_the_mean_over_all_pairs():
    truth, said = np.array([0, 1, 1, 3]), np.array([2, 2, 0, 3])
    counts = (np.bincount(values, minlength=4)[None] for values in (truth, said))
    assert squares_by_chance(*counts)[0] == pytest.approx(
        ((truth[:, None] - said) ** 2).mean())


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_of_ranks_hold_the_value_and_narrow(grouped):
    random = np.random.default_rng(1)
    widths = []
    for count in (100, 900):
        labels = random.integers(0, 4, count)
        said = np.clip(labels + random.choice([-1, 0, 1], count, p=[0.2, 0.6, 0.2]), 0, 3)
        given = answers(labels, said)
        if grouped:
            given = replace(given, groups=[str(i // 2) for i in range(count)])
        values = compute_metrics(given)
        found = compute_intervals(given, values)
        for name in ("quadratic_kappa", "mean_absolute_error"):
            entry = found[name]
            assert entry["low"] < values[name] < entry["high"] and entry["reliable"]
        widths.append(found["quadratic_kappa"]["high"] - found["quadratic_kappa"]["low"])
    assert widths[1] < 0.6 * widths[0]


def test_intervals_of_few_errors_are_wide_and_flagged():
    labels = np.arange(100) % 4
    for wrong in (0, 2):
        said = labels.copy()
        said[:wrong] = (labels[:wrong] + 1) % 4
        values = compute_metrics(answers(labels, said))
        found = compute_intervals(answers(labels, said), values)
        assert found["mean_absolute_error"]["high"] > wrong / 100 + 0.01
        assert found["quadratic_kappa"]["low"] < values["quadratic_kappa"] - 0.005
        assert not found["quadratic_kappa"]["reliable"]


# ---- the order of classes

def samples(classes):
    return single_label([f"{i}.png" for i in range(len(classes))], classes,
                        source=FolderSource("."))


def ordinal(classes, order=None):
    return with_label_kind(samples(classes), LabelKind.ordinal, order)


def test_classes_are_numbered_by_the_order_given():
    found = ordinal(["severe", "mild", "moderate", "mild"], "mild, moderate ,severe")
    assert found.label_spec.class_names == ("mild", "moderate", "severe")
    assert found.labels.tolist() == [2, 0, 1, 0] and found.labels.dtype == np.int64
    assert LabelSpec.from_dict(json.loads(json.dumps(found.label_spec.to_dict()))) == (
        found.label_spec)


def test_numbers_are_in_the_order_of_their_values():
    assert ordinal(["10", "9", "-1", "2.5"]).label_spec.class_names == ("-1", "2.5", "9", "10")
    assert ordinal(["10", "9", "-1", "2.5"]).labels.tolist() == [3, 2, 0, 1]


@pytest.mark.parametrize(("classes", "order", "words"), [
    (["a", "b", "3"], None, ["isn't known", "a, b", "data.class_order="]),
    (["1", "1.0", "2"], None, ["the same number"]),
    (["1", "nan", "2"], None, ["nan is no number"]),
    (["mild", "bad", "worse"], "mild,bade,worse", ["'bade'", "did you mean", "missing is 'bad'"]),
    (["a", "b", "c"], "a,b,c,b", ["named twice is 'b'"]),
    (["1", "2"], None, ["three or more", "1 and 2"])])
def test_an_order_that_cannot_be_is_told(classes, order, words):
    with pytest.raises(DataError) as found:
        ordinal(classes, order)
    for word in words:
        assert word in str(found.value)


def test_a_kind_that_the_labels_are_not_is_told():
    given = samples(["a", "b"])
    assert with_label_kind(given, LabelKind.single, None) is given
    with pytest.raises(DataError, match=r"label_kind=multi, but the labels are single"):
        with_label_kind(given, LabelKind.multi, None)
    several = replace(given, labels=np.zeros((2, 2), np.float32),
                      label_spec=LabelSpec(LabelKind.multi, ("a", "b")))
    with pytest.raises(DataError, match="needs one class for each picture"):
        with_label_kind(several, LabelKind.ordinal, None)


@pytest.mark.parametrize(("words", "told"), [
    (["training.mixup_alpha=0.2"], "no rank"), (["training.cutmix_alpha=1"], "no rank"),
    (["training.head_fit=exact", "freezing.policy=head_only"], "training.head_fit=sgd"),
    (["training.loss=contrastive", "data.views=2"], "pairs of views"),
    (["data.positive_class=b"], "two classes")])
def test_what_an_order_does_not_go_with_is_refused(words, told):
    with pytest.raises(ConfigurationError, match=told):
        compose(["data.root=x", "data.label_kind=ordinal", *words])


@pytest.mark.parametrize("word", ["data.class_order=a,b,c", "training.ordinal=corn"])
def test_keys_of_an_order_without_one_are_refused(word):
    with pytest.raises(ConfigurationError, match=r"without data.label_kind=ordinal"):
        compose(["data.root=x", word])


# ---- runs

@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three classes of 16 pictures, brighter from rank to rank; names not in their order."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for number in range(48):
        path = tmp_path / "pictures" / ("mild", "moderate", "bad")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        dark = random.integers(0, 60, (24, 32, 3)) + 80 * (number % 3)
        cv2.imwrite(str(path), dark.astype(np.uint8))
    return tmp_path / "pictures"


SMALL = ["model.name=resnet10t", "model.weights=null", "data.image_size=32", "data.batch_size=8",
         "data.workers=0", "tracking.mode=disabled", "device=cpu", "data.transform=none",
         "data.label_kind=ordinal", "data.class_order=mild,moderate,bad"]


def test_a_run_learns_the_order_and_tells_its_metrics(folder):
    run = fit(compose([f"data.root={folder}", *SMALL, "training.epochs=8",
                       "optimizer.lr=3e-3"]).config)
    found = run.metrics["test"]
    assert found["class_names"] == ["mild", "moderate", "bad"]
    assert run.metrics["selection"]["metric"] == "quadratic_kappa"
    assert found["quadratic_kappa"] > 0.6 and found["mean_absolute_error"] < 0.5
    stored = Predictions.load(run.predictions_path("test"))
    assert stored.label_spec.is_ordinal
    assert stored.probabilities == pytest.approx(np.exp(stored.logits), abs=1e-5)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Quadratic weighted kappa" in page and "Mean absolute error, in ranks" in page
    assert evaluate(run).label_spec == stored.label_spec


@pytest.mark.usefixtures("without_pages")
def test_corn_trains_behind_a_frozen_part(folder):
    run = fit(compose([f"data.root={folder}", *SMALL, "training.epochs=2", "training.ordinal=corn",
                       "freezing.policy=head_only", "training.class_weights=effective_number",
                       ]).config)
    stored = Predictions.load(run.predictions_path("test"))
    assert stored.probabilities == pytest.approx(np.exp(stored.logits), abs=1e-5)
    assert run.environment["label_spec"]["kind"] == "ordinal"
