"""Intervals agree with references, and every metric has one, or says why not."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit
from sklearn import metrics as reference
from test_metrics import answers, several

from finetune.evaluation.agreement import agreement, heaviest_error, mean_f1
from finetune.evaluation.auc_intervals import (
    area_interval,
    area_under_roc,
    average_precision,
    effective_number,
    logit_interval,
    mean_area,
    newcombe_interval,
    precision_interval,
    structural_components,
)
from finetune.evaluation.bootstrap import (
    bca_interval,
    bootstrap_interval,
    cluster_sums,
    expanded,
    leave_one_out,
    percentile_interval,
    resample,
    weighted_errors_interval,
)
from finetune.evaluation.calibration_error import calibration_error
from finetune.evaluation.entries import proportion_entry, roc_entry
from finetune.evaluation.intervals import compute_intervals
from finetune.evaluation.metrics import compute_metrics, expected_calibration_error
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.proportions import count_proportion, effective_sample_size, wilson
from finetune.specs import LabelKind, LabelSpec

# Proportions

@pytest.mark.parametrize("count", [5, 20, 100, 1000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_statsmodels(count, confidence):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for successes in range(0, count + 1, max(1, count // 20)):
        expected = proportion.proportion_confint(successes, count, 1 - confidence, "wilson")
        got = wilson(successes, count, confidence, corrected=False)
        assert got == pytest.approx(expected, abs=1e-12)
        if 3 < successes < count - 3 or successes in (0, count):
            assert wilson(successes, count, confidence) == pytest.approx(got, abs=1e-12)


@pytest.mark.parametrize("count", [10, 30, 100, 500])
def test_corrected_wilson_covers_what_the_plain_one_misses(count):
    def lowest(corrected):
        ends = np.array([wilson(k, count, corrected=corrected) for k in range(count + 1)])
        shares = 1 - np.geomspace(0.02, count / 2, 1000) / count
        inside = (ends[:, 0] <= shares[:, None]) & (shares[:, None] <= ends[:, 1])
        return (inside * stats.binom.pmf(np.arange(count + 1), count, shares[:, None])).sum(1).min()

    assert lowest(False) < 0.86
    assert lowest(True) > 0.91


def test_clusters_of_one_are_independent_pictures():
    random = np.random.default_rng(0)
    hits, counted = random.random(80) < 0.8, random.random(80) < 0.6
    assert count_proportion(hits, counted, np.arange(80)) == count_proportion(hits, counted)


def test_pictures_that_are_all_alike_are_worth_one():
    clusters = np.repeat(np.arange(40), 5)
    hits = (np.arange(40) % 2 == 0)[clusters]
    share = count_proportion(hits, np.ones(200, bool), clusters)
    assert share.count == 200 and share.clusters == 40
    assert 35 < share.effective < 40  # and a little less, by Student's t
    all_right = count_proportion(np.ones(200, bool), np.ones(200, bool), clusters)
    assert all_right.effective == pytest.approx(share.effective, rel=0.05)


def test_the_design_effect_is_that_of_the_intra_cluster_correlation():
    random = np.random.default_rng(0)
    size, number, alike = 10, 5000, 0.3
    chance = random.beta(*(np.array([0.7, 0.3]) * (1 / alike - 1)), number)
    right = random.binomial(size, chance)
    worth = effective_sample_size(right, np.full(number, size))
    assert number * size / worth == pytest.approx(1 + (size - 1) * alike, rel=0.07)


def test_the_variance_of_clusters_is_statsmodels_cluster_robust_one():
    model = pytest.importorskip("statsmodels.regression.linear_model")
    random = np.random.default_rng(2)
    sizes = random.integers(1, 15, 2000)
    clusters = np.repeat(np.arange(2000), sizes)
    hits = random.random(len(clusters)) < random.beta(3, 2, 2000)[clusters]
    fitted = model.OLS(hits.astype(float), np.ones(len(hits))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters})
    share = count_proportion(hits, np.ones(len(hits), bool), clusters)
    expected = share.value * (1 - share.value) / fitted.bse[0] ** 2
    assert share.value == pytest.approx(fitted.params[0])
    assert share.effective == pytest.approx(expected, rel=0.005)  # many clusters: next to no prior


# Areas

def scored(count=60, seed=0, decimals=1, distance=1.0, share=0.4):
    random = np.random.default_rng(seed)
    truth = (random.random(count) < share).astype(float)
    return truth, np.round(random.normal(size=count) + distance * truth, decimals)


@pytest.mark.parametrize("seed", range(5))
def test_components_and_variance_are_delongs_by_comparing_each_pair(seed):
    truth, scores = scored(seed=seed)
    positives, negatives = scores[truth == 1], scores[truth == 0]
    wins = np.array([[(p > n) + 0.5 * (p == n) for n in negatives] for p in positives])
    above, below = structural_components(positives, negatives)
    assert above == pytest.approx(wins.mean(axis=1)) and below == pytest.approx(wins.mean(axis=0))
    area = area_under_roc(truth, scores)
    assert area.value == pytest.approx(reference.roc_auc_score(truth, scores))
    m, n = wins.shape
    expected = wins.mean(axis=1).var(ddof=1) / m + wins.mean(axis=0).var(ddof=1) / n
    assert area.variance == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_clustered_variance_is_obuchowskis(seed):
    truth, scores = scored(90, seed)
    clusters = np.random.default_rng(seed).integers(30, size=90)
    clusters = np.unique(clusters, return_inverse=True)[1]
    above, below = structural_components(scores[truth == 1], scores[truth == 0])
    value, m, n = above.mean(), len(above), len(below)
    size = clusters.max() + 1
    of_m, of_n = clusters[truth == 1], clusters[truth == 0]
    x = [sum(above[of_m == c] - value) for c in range(size)]
    y = [sum(below[of_n == c] - value) for c in range(size)]
    im, jn = len(set(of_m)), len(set(of_n))
    s10 = im / ((im - 1) * m) * sum(v * v for v in x)
    s01 = jn / ((jn - 1) * n) * sum(v * v for v in y)
    s11 = size / (size - 1) * sum(a * b for a, b in zip(x, y, strict=True))
    area = area_under_roc(truth, scores, clusters)
    assert area.variance == pytest.approx(s10 / m + s01 / n + 2 * s11 / (m * n))


def test_clusters_of_one_give_delongs_variance_and_doubled_pictures_change_nothing():
    truth, scores = scored()
    plain = area_under_roc(truth, scores)
    single = area_under_roc(truth, scores, np.arange(60))
    assert single.variance == plain.variance
    twice = area_under_roc(np.repeat(truth, 2), np.repeat(scores, 2), np.repeat(np.arange(60), 2))
    assert twice.value == pytest.approx(plain.value)
    assert twice.variance == pytest.approx(plain.variance, rel=1e-9)


def test_degrees_of_freedom_are_brunner_munzels():
    truth, scores = scored(decimals=8)
    area = area_under_roc(truth, scores)
    half = area.value - logit_interval(area.value, area.variance, area.freedom)[0]
    assert half > area.value - logit_interval(area.value, area.variance, 1e9)[0]
    found = stats.brunnermunzel(scores[truth == 0], scores[truth == 1])
    assert 2 * stats.t.sf(abs(area.value - 0.5) / area.variance**0.5, area.freedom) \
        == pytest.approx(found.pvalue, rel=1e-6)


def test_delongs_variance_is_that_of_a_published_example():
    """Pain scores of Brunner & Munzel 2000; the figures are R's lawstat::brunner.munzel.test."""
    low = np.array([1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 1, 1.0])
    high = np.array([3, 3, 4, 3, 1, 2, 3, 1, 1, 5, 4.0])
    area = area_under_roc(np.repeat([0.0, 1.0], [14, 11]), np.r_[low, high])
    assert area.value == pytest.approx(0.788961, abs=1e-6)
    assert (area.value - 0.5) / area.variance**0.5 == pytest.approx(3.1375, abs=1e-4)
    assert area.freedom == pytest.approx(17.683, abs=1e-3)
    half = stats.t.ppf(0.975, area.freedom) * area.variance**0.5
    assert (area.value - half, area.value + half) == pytest.approx((0.5952169, 0.9827052), abs=1e-6)


def test_logit_interval_is_symmetric_on_its_scale_and_stays_inside():
    low, high = logit_interval(0.97, 0.03**2, 1e9)
    assert 0 < low < 0.97 < high < 1
    assert logit(high) - logit(0.97) == pytest.approx(logit(0.97) - logit(low))
    assert logit(high) - logit(0.97) == pytest.approx(stats.norm.ppf(0.975) * 0.03 / 0.97 / 0.03)


@pytest.mark.parametrize("value", [0.0, 0.3, 0.9, 1.0])
def test_newcombes_ends_are_z_standard_errors_from_the_area(value):
    m, n = 12, 40
    z, extra = stats.norm.ppf(0.975), (m + n) / 2 - 1
    for end in newcombe_interval(value, m, n):
        spread = 1 + extra * (1 - end) / (2 - end) + extra * end / (1 + end)
        error = z * math.sqrt(end * (1 - end) * spread / (m * n))
        assert end in (0, 1) or abs(value - end) == pytest.approx(error, abs=1e-6)
    assert newcombe_interval(1.0, m, n)[1] == 1 and newcombe_interval(0.0, m, n)[0] == 0


def test_a_perfect_ranking_has_an_interval_below_one():
    truth, scores = np.repeat([0.0, 1.0], 20), np.arange(40.0)
    low, high, method = area_interval(area_under_roc(truth, scores))
    assert 0.8 < low < 0.95 and high == 1 and method == "newcombe 5"
    low, high, method = precision_interval(average_precision(truth, scores))
    assert 0.8 < low < 0.95 and high == 1 and method == "wilson"


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_scikit_learns_and_its_moves_are_derivatives(seed):
    truth, scores = scored(80, seed)
    area = average_precision(truth, scores)
    assert area.value == pytest.approx(reference.average_precision_score(truth, scores))
    moves = area.of_positives + area.of_negatives
    for picture in range(0, 80, 7):
        weights = np.ones(80)
        weights[picture] += 1e-6
        moved = reference.average_precision_score(truth, scores, sample_weight=weights)
        assert moves[picture] == pytest.approx((moved - area.value) / 1e-6, abs=1e-5)


def test_the_mean_of_areas_has_their_covariance():
    truth, scores = scored(300)
    area = area_under_roc(truth, scores)
    same = mean_area([area, area_under_roc(1 - truth, -scores)])
    assert same.value == pytest.approx(area.value)
    assert same.variance == pytest.approx(area.variance)
    random = np.random.default_rng(1)
    other = area_under_roc((random.random(300) < 0.4).astype(float), random.normal(size=300))
    apart = mean_area([area, other])
    assert apart.variance == pytest.approx((area.variance + other.variance) / 4, rel=0.2)


def test_unknown_truth_is_left_out_of_areas():
    truth, scores = scored(100)
    truth[::7] = np.nan
    known = ~np.isnan(truth)
    for area in (area_under_roc, average_precision):
        assert area(truth, scores).value == pytest.approx(area(truth[known], scores[known]).value)
        assert area(truth, scores).variance == pytest.approx(
            area(truth[known], scores[known]).variance, rel=1e-3)
    assert area_under_roc(np.ones(4), np.arange(4.0)) is None
    assert average_precision(np.zeros(4), np.arange(4.0)) is None


def test_effective_number_counts_equal_values():
    assert effective_number(np.array([2.0, 2, 2, 0])) == pytest.approx(3)
    assert effective_number(np.array([9.0, 0, 0])) == 1
    assert effective_number(np.zeros(3)) == 0


# Bootstrap

def mean_of(totals):
    return {"mean": totals[:, 0] / totals[:, 1]}


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_bootstrap_is_scipys(method):
    values = np.random.default_rng(0).exponential(size=80)
    sums = cluster_sums(np.stack([values, np.ones(80)], axis=1), None)
    drawn = resample(sums, mean_of, resamples=20_000)["mean"]
    got = (percentile_interval(drawn) if method == "percentile" else
           bca_interval(drawn, values.mean(), leave_one_out(sums, mean_of)["mean"]))
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method=method,
                               rng=np.random.default_rng(1)).confidence_interval
    assert got == pytest.approx(tuple(expected), abs=0.01)


def test_bca_of_given_resamples_is_efrons_formula():
    random = np.random.default_rng(3)
    values, left = random.gamma(3, size=999), random.normal(size=60) ** 2
    shift = stats.norm.ppf(np.mean(values < 2.5))
    moves = left.mean() - left
    skew = (moves**3).sum() / 6 / (moves**2).sum() ** 1.5
    z = stats.norm.ppf([0.025, 0.975])
    levels = stats.norm.cdf(shift + (shift + z) / (1 - skew * (shift + z)))
    assert bca_interval(values, 2.5, left) == pytest.approx(tuple(np.quantile(values, levels)))


def test_clusters_are_drawn_whole_and_the_same_seed_draws_the_same():
    clusters = np.repeat(np.arange(30), 4)
    values = np.random.default_rng(0).normal(size=30)[clusters]
    columns = np.stack([values, np.ones(120)], axis=1)
    together = resample(cluster_sums(columns, clusters), mean_of, seed=1)["mean"]
    single = resample(cluster_sums(columns[::4], None), mean_of, seed=1)["mean"]
    assert together == pytest.approx(single)
    assert not np.allclose(together, resample(cluster_sums(columns, clusters), mean_of,
                                              seed=2)["mean"])


def test_leaving_one_out_leaves_one_out():
    values = np.random.default_rng(0).normal(size=9)
    left = leave_one_out(cluster_sums(np.stack([values, np.ones(9)], axis=1), None), mean_of)
    assert left["mean"] == pytest.approx([np.delete(values, i).mean() for i in range(9)])


def test_bca_begins_at_fifty_clusters_and_few_clusters_are_widened():
    drawn = np.random.default_rng(0).normal(size=2000)
    assert bootstrap_interval(drawn, 0.0, np.arange(49.0))[2] == "percentile bootstrap"
    assert bootstrap_interval(drawn, 0.0, np.arange(50.0))[2] == "bca bootstrap"
    assert 0.95 < expanded(0.95, 1000) < expanded(0.95, 20) < 0.99
    undefined = np.where(np.arange(2000) % 3 > 0, np.nan, drawn)
    assert bootstrap_interval(undefined, 0.0, np.arange(50.0)) is None


def test_few_equal_errors_have_the_exact_poisson_interval():
    for errors in (0, 1, 5):
        low, high = weighted_errors_interval(errors / 200, errors / 200**2, 1 / 200)
        assert low == pytest.approx(stats.chi2.ppf(0.025, 2 * errors) / 400 if errors else 0)
        assert high == pytest.approx(stats.chi2.ppf(0.975, 2 * errors + 2) / 400)


# Confusion matrices

@pytest.mark.parametrize("classes", [2, 3, 10])
def test_metrics_of_many_matrices_are_those_of_each(classes):
    found, rows = [], []
    for seed in range(5):
        each = answers(classes, count=60, seed=seed)
        matrix = np.array(compute_metrics(each)["confusion_matrix"])
        rows.append(np.concatenate([matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)]))
        found.append(compute_metrics(each))
    for name, values in agreement(np.array(rows, float)).items():
        assert values == pytest.approx([each[name] for each in found]), name


def test_matrices_without_a_definition_are_nan_and_not_zero():
    one_class = np.array([[5.0, 0, 5, 0, 5, 0]])
    got = agreement(one_class)
    assert np.isnan(got["cohen_kappa"][0]) and np.isnan(got["mcc"][0])
    assert got["balanced_accuracy"][0] == got["macro_f1"][0] == 1
    assert np.isnan(mean_f1(np.zeros((1, 6)))["macro_f1"][0])


def test_the_heaviest_error_is_in_the_rarest_class():
    total = np.array([90.0, 10, 90, 10, 90, 10])
    assert heaviest_error(total, agreement)["balanced_accuracy"] == pytest.approx(0.05)
    assert heaviest_error(np.array([0.0, 0, 5, 5, 5, 5]), agreement) == {}


# Calibration error

def calibrated(count, seed, gap=0.0):
    random = np.random.default_rng(seed)
    confidence = random.uniform(0.5, 1, count)
    return random.random(count) < confidence - gap, confidence


def test_plain_calibration_error_is_the_metric():
    found = answers(3, count=500)
    odds = found.probabilities
    error = calibration_error(odds.argmax(axis=1) == found.labels, odds.max(axis=1))
    assert error.plain == pytest.approx(expected_calibration_error(found.labels, odds))


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.1])
def test_debiasing_moves_the_error_towards_the_truth(gap):
    found = [calibration_error(*calibrated(1000, seed, gap)) for seed in range(200)]
    plain, less = np.mean([e.plain for e in found]), np.mean([e.debiased for e in found])
    assert abs(less - gap) < max(abs(plain - gap), 0.003)
    assert gap == 0.1 or abs(less - gap) < 0.7 * abs(plain - gap)
    inside = [e.interval()[0] <= gap <= e.interval()[1] for e in found]
    assert np.mean(inside) >= 0.92


# All metrics

def leaves(block):
    for key, value in block.items():
        if isinstance(value, dict) and "low" in value:
            yield key, value
        elif isinstance(value, dict):
            yield from ((f"{key}/{name}", entry) for name, entry in leaves(value))


def numbers(block, skip=("count", "support", "left_out")):
    for key, value in block.items():
        if isinstance(value, dict):
            yield from ((f"{key}/{name}", number) for name, number in numbers(value, skip))
        elif (value is None or isinstance(value, float | int)) and key not in skip:
            yield key, value


def grouped(found, size):
    return Predictions(found.ids, found.labels, found.logits, found.label_spec,
                       [str(i // size) for i in range(len(found))])


CASES = {
    "two classes": answers(2), "three": answers(3), "ten": answers(10, 400),
    "thousand": answers(1000, 300), "several": several(), "groups": grouped(answers(3, 400), 4),
    "several in groups": grouped(several(400), 5), "a class is absent": answers(4, absent=[2]),
    "one class": answers(3, absent=[0, 1]), "one picture": answers(3, count=1),
    "groups of different labels": grouped(answers(2, 6), 3),
    "large": answers(3, count=1200),
}


@pytest.mark.parametrize("name", CASES)
def test_every_number_has_an_entry_that_holds_it_or_says_why_not(name):
    metrics = compute_metrics(CASES[name])
    intervals = compute_intervals(CASES[name], metrics, resamples=200)
    values, entries = dict(numbers(metrics)), dict(leaves(intervals))
    assert set(entries) == set(values)
    json.dumps(intervals, allow_nan=False)
    for key, entry in entries.items():
        assert set(entry) - {"debiased"} == {"low", "high", "method", "effective_n", "clusters",
                                             "reliable", "why"}
        assert entry["reliable"] is (entry["why"] is None)
        if values[key] is None:
            assert entry["low"] is entry["high"] is None and not entry["reliable"]
        elif entry["low"] is not None and not key.endswith("ece"):
            assert entry["low"] - 1e-9 <= values[key] <= entry["high"] + 1e-9, key
            assert entry["low"] < entry["high"], key
        if entry["low"] is None:
            assert entry["method"] is None and entry["why"]


def test_conventional_zeros_are_undefined():
    found = answers(4, absent=[2])
    found.logits[:, 2] = -99  # never the answer either
    rows = compute_intervals(found, compute_metrics(found))["per_class"]["class 2"]
    for name in ("precision", "recall", "f1", "roc_auc"):
        assert rows[name]["low"] is None and "not defined" in rows[name]["why"]
    assert rows["specificity"]["high"] == 1  # all right, and flagged: the class has no picture
    constant = answers(2)
    constant.logits[:, 0] = 99
    metrics = compute_metrics(constant)
    assert metrics["mcc"] is compute_intervals(constant, metrics)["mcc"]["low"] is None


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", [LabelKind.single, LabelKind.ordinal])
def test_pictures_of_one_class_with_few_errors_leave_agreement_undefined(kind, classes):
    if kind is LabelKind.ordinal and classes < 3:
        return
    given = np.zeros(40, int)
    given[:2] = classes - 1
    found = Predictions([str(i) for i in range(40)], np.zeros(40, int),
                        3 * np.eye(classes, dtype=np.float32)[given],
                        LabelSpec(kind, tuple("abc"[:classes])))
    entries = compute_intervals(found, compute_metrics(found), resamples=100)
    assert entries["cohen_kappa"]["low"] is None and entries["mcc"]["low"] is None
    assert entries["accuracy"]["low"] < 0.95 < entries["accuracy"]["high"]


def test_all_right_is_not_certain():
    found = answers(3, count=90)
    found.logits[:] = 20 * np.eye(3)[found.labels]
    intervals = compute_intervals(found, compute_metrics(found))
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "cohen_kappa", "mcc", "roc_auc",
                 "average_precision"):
        assert 0.8 < intervals[name]["low"] < 0.99, name
        assert intervals[name]["high"] == 1, name
    assert not intervals["log_loss"]["reliable"]


def test_intervals_flag_what_is_too_little():
    rare = answers(2, count=100)
    rare.labels[:] = np.arange(100) < 8
    found = compute_intervals(rare, compute_metrics(rare))
    row = found["per_class"]["class 1"]
    assert all("8 positives, fewer than 10" in entry["why"] for entry in row.values())
    assert "8 negatives" in found["per_class"]["class 0"]["specificity"]["why"]
    assert found["per_class"]["class 0"]["recall"]["reliable"]
    assert "8 positives of 'class 1'" in found["balanced_accuracy"]["why"]
    assert found["accuracy"]["reliable"]
    few = grouped(answers(2, count=190), 10)
    found = compute_intervals(few, compute_metrics(few))
    assert found["accuracy"]["why"] == "19 groups, fewer than 20"
    assert found["accuracy"]["clusters"] == 19 and found["mcc"]["method"].startswith("percentile")


def test_a_class_in_few_groups_is_flagged_in_means_over_classes():
    labels = np.repeat([0, 1, 0, 1, 0], [100, 60, 100, 60, 80])
    spec = LabelSpec(LabelKind.single, ("a", "b"))
    logits = np.random.default_rng(0).normal(size=(400, 2)) + np.eye(2)[labels]
    found = Predictions([str(i) for i in range(400)], labels, logits, spec,
                        [str(i // 10) for i in range(400)])
    intervals = compute_intervals(found, compute_metrics(found))
    for name in ("macro_f1", "balanced_accuracy", "roc_auc"):
        assert "12 groups with positives of 'b', fewer than 20" in intervals[name]["why"]
    assert "12 groups, fewer than 20" in intervals["per_class"]["b"]["recall"]["why"]
    assert intervals["accuracy"]["reliable"] and intervals["mcc"]["reliable"]


def test_calibration_error_has_no_interval_below_a_thousand():
    small, large = answers(3, count=999), answers(3, count=1000)
    found = compute_intervals(small, compute_metrics(small))["ece"]
    assert found["low"] is None and "1000" in found["why"] and found["debiased"] >= 0
    assert compute_intervals(large, compute_metrics(large))["ece"]["reliable"]


def test_groups_widen_intervals_and_the_seed_fixes_them():
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 5)
    labels = random.integers(3, size=300)
    logits = 1.5 * np.eye(3)[labels] + 1.5 * random.normal(size=(60, 3))[clusters]
    spec = LabelSpec(LabelKind.single, ("a", "b", "c"))
    free = Predictions([str(i) for i in range(300)], labels, logits, spec)
    tied = Predictions(free.ids, labels, logits, spec, [str(c) for c in clusters])
    one, other = (compute_intervals(p, compute_metrics(p)) for p in (free, tied))
    for name in ("accuracy", "macro_f1", "log_loss"):
        width = {k: v[name]["high"] - v[name]["low"] for k, v in (("one", one), ("other", other))}
        assert width["other"] > 1.1 * width["one"], name
    assert other == compute_intervals(tied, compute_metrics(tied))
    assert other["mcc"] != compute_intervals(tied, compute_metrics(tied), seed=1)["mcc"]


def test_binary_blocks_agree():
    found = answers(2)
    intervals = compute_intervals(found, compute_metrics(found))
    row = intervals["per_class"]["class 1"]
    assert intervals["positive"] == {"sensitivity": row["recall"], "npv": row["npv"],
                                     "specificity": row["specificity"], "ppv": row["precision"]}
    assert intervals["roc_auc"]["low"] == pytest.approx(row["roc_auc"]["low"])


def test_single_entries_are_those_of_the_whole():
    found = answers(2)
    row = compute_intervals(found, compute_metrics(found))["per_class"]["class 1"]
    odds, truth = found.probabilities, found.labels == 1
    assert roc_entry(truth.astype(float), odds[:, 1]) == row["roc_auc"]
    assert proportion_entry(odds.argmax(axis=1) == 1, truth) == row["recall"]


@pytest.mark.parametrize("name", ["ten", "several", "groups"])
def test_the_size_of_chunks_changes_no_number(name, monkeypatch):
    metrics = compute_metrics(CASES[name])
    whole = compute_intervals(CASES[name], metrics)
    for module in ("bootstrap", "intervals"):
        monkeypatch.setattr(f"finetune.evaluation.{module}.CHUNK", 1000)
    assert compute_intervals(CASES[name], metrics) == whole


def test_many_classes_take_little_more_than_their_probabilities(monkeypatch):
    for module in ("bootstrap", "intervals"):
        monkeypatch.setattr(f"finetune.evaluation.{module}.CHUNK", 100_000)
    found = answers(300, 6000)
    wanted = dict.fromkeys(("accuracy", "top_5_accuracy", "balanced_accuracy", "brier", "roc_auc",
                            "average_precision", "per_class"), 1.0)
    compute_intervals(answers(3), wanted)  # libraries are loaded
    tracemalloc.start()
    intervals = compute_intervals(found, wanted, resamples=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(intervals["per_class"]) == 300
    assert peak < 2 * found.probabilities.nbytes
