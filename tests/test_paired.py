"""Differences of two runs, and of two methods of several seeds, on the same pictures."""

import numpy as np
import pytest
from scipy import stats
from statistics_of import drawn, several
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from finetune.evaluation.crossed import Components, compare_methods, planned_error
from finetune.evaluation.delong import compare_areas
from finetune.evaluation.doubts import difference_doubts
from finetune.evaluation.influence import cluster_numbers, measure_moves, weighted_area
from finetune.evaluation.mcnemar import mcnemar
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.paired import compare_runs, difference_interval, right_answers
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.subgroups import holm
from finetune.evaluation.summed import class_key
from finetune.evaluation.verdicts import evidence_needed, judge, shown
from finetune.specs import LabelKind, LabelSpec


def answers(kind, classes, *, count=300, seed=0, noise=0.0, groups=None):
    if kind == "multi":
        logits, labels = several(count, classes, seed=seed)
    else:
        logits, labels = drawn(count, classes, seed=seed)
    logits = logits + noise * np.random.default_rng(seed + 99).normal(size=logits.shape)
    return Predictions([str(i) for i in range(count)], labels, logits.astype(np.float32),
                       LabelSpec(LabelKind(kind), tuple("abcdefgh"[:classes])), groups)


KINDS = [("single", 2), ("single", 6), ("ordinal", 4), ("multi", 3)]


@pytest.mark.parametrize(("kind", "classes"), KINDS)
def test_values_are_those_of_the_metrics_of_a_run(kind, classes):
    given = answers(kind, classes)
    metrics, found = compute_metrics(given), measure_moves(given)
    scalars = {k: v for k, v in metrics.items() if isinstance(v, float)}
    assert set(scalars) <= set(found)
    for name, value in scalars.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
    for place, row in enumerate(metrics["per_class"].values()):
        for name in ("recall", "precision", "f1", "roc_auc", "average_precision"):
            assert found[class_key(name, place)].value == pytest.approx(row[name], abs=1e-12)


@pytest.mark.parametrize(("kind", "classes"), KINDS)
def test_moves_are_what_a_picture_changes_to_first_order(kind, classes):
    given, at = answers(kind, classes), 7
    kept = np.arange(len(given)) != at
    less = Predictions([i for i in given.ids if i != str(at)], given.labels[kept],
                       given.logits[kept], given.label_spec)
    before, after = measure_moves(given), measure_moves(less)
    for name, moved in before.items():
        assert moved.moves.sum() == pytest.approx(0, abs=1e-6), name
        if name in after and "[" not in name:
            # without it: value - move * n / (n - 1), and less of second order
            assert after[name].value - moved.value == pytest.approx(
                -moved.moves[at], abs=0.1 * np.abs(moved.moves).max()), name


def test_moves_of_clusters_are_sums_of_those_of_their_pictures():
    given, of = answers("single", 3), np.arange(300) // 5
    alone, together = measure_moves(given), measure_moves(given, of)
    for name in alone:
        assert together[name].moves == pytest.approx(
            np.bincount(of, weights=alone[name].moves), abs=1e-7), name


def test_weighted_areas_are_scikit_learns():
    from sklearn.metrics import average_precision_score, roc_auc_score

    random = np.random.default_rng(0)
    truth, scores = (random.random(200) < 0.3).astype(float), random.integers(0, 9, 200) / 9
    weights = random.integers(0, 4, (3, 200)).astype(float)
    for name, known in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        assert weighted_area(name, truth, scores)(weights) == pytest.approx(
            [known(truth, scores, sample_weight=row) for row in weights])


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 0), (9, 4), (12, 12), (20, 4)])
def test_few_discordant_pictures_are_tested_as_statsmodels_does_exactly(won, lost):
    first = np.array([True] * won + [False] * lost + [True] * 30)
    second = np.array([False] * won + [True] * lost + [True] * 30)
    known = reference_mcnemar([[30, won], [lost, 0]], exact=True).pvalue if won + lost else 1.0
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (won, lost)
    assert found.p == pytest.approx(min(1, known)) and "exact" in found.test
    alone = mcnemar(first, second, np.arange(len(first)))
    assert alone.p == pytest.approx(found.p)  # groups of one picture


def test_mid_p_lies_between_the_exact_and_the_chi_squared_test():
    first = np.array([True] * 60 + [False] * 40 + [True] * 100)
    second = np.array([False] * 60 + [True] * 40 + [True] * 100)
    found, table = mcnemar(first, second), [[100, 60], [40, 0]]
    exact = reference_mcnemar(table, exact=True).pvalue
    assert found.p == pytest.approx(exact - stats.binom.pmf(40, 100, 0.5))
    assert reference_mcnemar(table, exact=False, correction=False).pvalue < found.p < exact


def test_equal_clusters_are_tested_as_durkalski_does():
    random = np.random.default_rng(0)
    of = np.arange(600) // 6
    first = random.random(600) < random.beta(4, 1, 100)[of]
    second = random.random(600) < random.beta(4, 2, 100)[of]
    net = np.bincount(of, weights=first.astype(float) - second) / 6
    durkalski = net.sum() ** 2 / (net**2).sum()
    assert mcnemar(first, second, of).p == pytest.approx(stats.chi2.sf(durkalski * 99 / 100, 1))


def test_signs_of_few_clusters_are_counted_one_by_one():
    net = [3, -1, 2, 2, -1, 4]
    of, first, second = [], [], []
    for place, size in enumerate(net):
        of += [place] * abs(size)
        first += [size > 0] * abs(size)
        second += [size < 0] * abs(size)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    expected = np.mean(np.abs(np.abs(net) @ signs) >= abs(sum(net)))
    found = mcnemar(np.array(first), np.array(second), np.array(of))
    assert found.p == pytest.approx(expected)


def brute_delong(truth, first, second):
    """Difference and variance by the kernel of every pair (DeLong 1988, equations 4 to 6)."""
    tens, ones = [], []
    for scores in (first, second):
        positive, negative = scores[truth == 1], scores[truth == 0]
        kernel = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
        tens.append(kernel.mean(axis=1))
        ones.append(kernel.mean(axis=0))
    s10, s01 = np.cov(tens), np.cov(ones)
    contrast = np.array([1, -1])
    variance = contrast @ (s10 / len(tens[0]) + s01 / len(ones[0])) @ contrast
    return tens[0].mean() - tens[1].mean(), variance**0.5


def test_areas_are_compared_as_delong_writes_it():
    random = np.random.default_rng(1)
    truth = (random.random(150) < 0.4).astype(float)
    shared = random.normal(size=150) + truth
    first, second = (np.round(shared + random.normal(size=150), 1) for _ in range(2))
    found = compare_areas(truth, first, second)
    value, error = brute_delong(truth, first, second)
    assert (found.value, found.error) == pytest.approx((value, error))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(value / error)))


def test_areas_of_doubled_pictures_are_as_uncertain_as_the_pictures():
    random = np.random.default_rng(2)
    truth = (random.random(200) < 0.4).astype(float)
    first, second = random.normal(size=(2, 200)) + truth
    once = compare_areas(truth, first, second)
    of = np.tile(np.arange(200), 2)
    twice = compare_areas(np.tile(truth, 2), np.tile(first, 2), np.tile(second, 2), of)
    assert twice.error == pytest.approx(once.error, rel=0.02)
    assert compare_areas(np.tile(truth, 2), np.tile(first, 2), np.tile(second, 2)).error < \
        0.75 * once.error


def test_the_bootstrap_is_scipys():
    first, second = answers("single", 4, noise=0.0), answers("single", 4, noise=2.0)
    found = compare_runs(first, second, resamples=4000)
    losses = [-np.log(p.probabilities[np.arange(300), p.labels]) for p in (first, second)]
    scipys = stats.bootstrap((losses[0] - losses[1],), np.mean, n_resamples=4000, method="BCa",
                             rng=np.random.default_rng(1)).confidence_interval
    entry = found["log_loss"]
    width = scipys.high - scipys.low
    assert entry.low == pytest.approx(scipys.low, abs=0.06 * width)
    assert entry.high == pytest.approx(scipys.high, abs=0.06 * width)
    rights = [right_answers(p).astype(float) for p in (first, second)]
    scipys = stats.bootstrap(rights, lambda a, b, axis=-1: a.mean(axis=axis) - b.mean(axis=axis),
                             paired=True, n_resamples=4000, vectorized=True, method="BCa",
                             rng=np.random.default_rng(1)).confidence_interval
    width = scipys.high - scipys.low
    assert found["accuracy"].low == pytest.approx(scipys.low, abs=0.08 * width)
    assert found["accuracy"].high == pytest.approx(scipys.high, abs=0.08 * width)


@pytest.mark.parametrize(("kind", "classes"), KINDS)
def test_every_metric_of_a_run_has_a_difference(kind, classes):
    first, second = answers(kind, classes), answers(kind, classes, noise=1.0)
    found = compare_runs(first, second, resamples=200)
    one, other = compute_metrics(first), compute_metrics(second)
    for name, value in one.items():
        if isinstance(value, float):
            entry = found[name]
            assert entry.value == pytest.approx(value - other[name], abs=1e-9), name
            assert entry.low <= entry.value <= entry.high or name == "ece", name
            assert 0 <= entry.p <= 1


def test_swapped_runs_give_the_opposite():
    first, second = answers("single", 3), answers("single", 3, noise=1.0)
    there, back = (compare_runs(a, b, resamples=500)
                   for a, b in ((first, second), (second, first)))
    for name in ("accuracy", "macro_f1", "roc_auc", "log_loss"):
        assert there[name].value == pytest.approx(-back[name].value)
        assert there[name].p == pytest.approx(back[name].p)
        assert there[name].low == pytest.approx(-back[name].high, abs=0.01)


def test_groups_make_intervals_wider_where_pictures_of_one_are_copies():
    first, second = answers("single", 3, count=100), answers("single", 3, count=100, noise=1.5)
    copies = [Predictions([str(i) for i in range(500)], np.tile(p.labels, 5),
                          np.tile(p.logits, (5, 1)), p.label_spec) for p in (first, second)]
    of = np.tile(np.arange(100), 5)
    once, clustered = compare_runs(first, second), compare_runs(*copies, of)
    blind = compare_runs(*copies)
    for name in ("accuracy", "macro_f1", "log_loss", "roc_auc"):
        width = once[name].high - once[name].low
        assert clustered[name].high - clustered[name].low == pytest.approx(width, rel=0.1), name
        assert blind[name].high - blind[name].low < 0.7 * width, name


def test_equal_answers_leave_room_for_a_difference():
    given = answers("single", 3)
    entry = compare_runs(given, given, resamples=100)["accuracy"]
    assert entry.value == 0 and entry.p == 1
    assert -0.03 < entry.low < -0.005 and 0.005 < entry.high < 0.03  # a rule of three


def sure(count, *, missed=0, classes=3):
    """Answers without a doubt; the last ones of the first class are given as the second."""
    labels = np.arange(count) % classes
    given = labels.copy()
    given[np.flatnonzero(labels == 0)[:missed]] = 1
    return Predictions([str(i) for i in range(count)], labels,
                       (4 * np.eye(classes)[given]).astype(np.float32),
                       LabelSpec(LabelKind.single, tuple("abcdefgh"[:classes])))


@pytest.mark.parametrize("count", [30, 300])
def test_two_runs_without_a_mistake_are_not_known_to_be_alike(count):
    found = compare_runs(sure(count), sure(count), resamples=100)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "roc_auc"):
        assert found[name].high == pytest.approx(3.69 / count, rel=0.01), name  # -ln 0.025
        assert found[name].low == -found[name].high and found[name].p == 1
    for name in ("recall[0]", "precision[1]", "f1[2]"):
        assert found[name].high == pytest.approx(3.69 / (count / 3), rel=0.01), name


@pytest.mark.parametrize("count", [6, 60])
def test_where_nothing_varies_the_signs_of_pictures_are_counted(count):
    each = count // 3
    entry = compare_runs(sure(count), sure(count, missed=each), resamples=100)["recall[0]"]
    assert entry.value == 1 and entry.p == pytest.approx(min(1, 2 * 0.5**each))
    assert (entry.low > 0) == (count == 60)


def test_a_single_group_moves_nothing():
    clusters = np.zeros(60, int)
    for name, moved in measure_moves(sure(60, missed=7), clusters).items():
        assert moved.moves == pytest.approx(0, abs=1e-12), name


def test_few_gains_have_poissons_interval():
    parts = np.zeros(1000)
    parts[:4] = 1e-3
    low, high = difference_interval(parts, 1e-3)
    # no loss was seen, which allows for 3.7; four gains: Garwood's 1.09 to 10.24
    assert low == pytest.approx(4e-3 - np.hypot(4e-3 - 1.09e-3, 3.69e-3), abs=1e-5)
    assert high == pytest.approx(10.24e-3, abs=1e-5)


def test_holm_is_statsmodels():
    values = np.random.default_rng(0).random(12) ** 3
    assert holm(values.tolist()) == pytest.approx(multipletests(values, method="holm")[1])


def test_without_variance_of_pictures_it_is_welchs_test():
    random = np.random.default_rng(3)
    one, other = random.normal(0.8, 0.02, 5), random.normal(0.78, 0.01, 3)
    found = compare_methods(np.repeat(one[:, None], 50, 1), np.repeat(other[:, None], 50, 1))
    welch = stats.ttest_ind(one, other, equal_var=False)
    interval = welch.confidence_interval()
    assert found.freedom == pytest.approx(welch.df)
    assert found.p == pytest.approx(welch.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_without_variance_of_seeds_it_is_a_paired_test_of_pictures():
    random = np.random.default_rng(4)
    one, other = random.normal(size=(2, 200))
    found = compare_methods(np.tile(one, (3, 1)), np.tile(other, (4, 1)))
    paired = stats.ttest_rel(one, other)
    assert found.p == pytest.approx(paired.pvalue)
    assert found.freedom == pytest.approx(199)


def test_of_a_class_its_own_pictures_count():
    random = np.random.default_rng(8)
    hits, others = (random.random((2, 6)) < 0.5).astype(float), 200
    one, other = (np.concatenate([row.mean() + (others + 6) / 6 * (row - row.mean()),
                                  np.full(others, row.mean())]) for row in hits)  # 6 tell anything
    found = compare_methods(np.tile(one, (3, 1)), np.tile(other, (3, 1)), units=6)
    paired = stats.ttest_rel(*hits)
    interval = paired.confidence_interval()
    assert found.p == pytest.approx(paired.pvalue) and found.freedom == pytest.approx(5)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.clusters == 6


@pytest.mark.parametrize(("units", "clear"), [(3, False), (12, True)])
def test_seeds_that_all_answer_alike_have_the_sign_test_of_their_pictures(units, clear):
    found = compare_methods(np.ones((3, 100)), np.zeros((3, 100)), units=units)
    assert found.value == 1 and found.error == 0
    assert found.p == pytest.approx(2 * 0.5**units)
    assert (found.low > 0) == clear and found.low < 1


def test_degrees_of_freedom_are_not_fewer_than_those_of_the_least_certain_part():
    random = np.random.default_rng(9)
    for _ in range(200):
        first, second = random.normal(size=(2, 3, 8))
        assert compare_methods(first, second).freedom >= 2
        assert compare_methods(first, second[:1]).freedom >= 2


def test_a_crossed_table_computed_by_hand():
    first = np.array([[1, 1, 0, 1], [1, 0, 0, 1.0]])
    second = np.array([[0, 1, 0, 0], [0, 0, 0, 0.0]])
    found = compare_methods(first, second)
    # seeds' means 3/4, 1/2 and 1/4, 0: variance 1/32 each; rest 3/8 over 3 each; differences
    # 1, 0, 0, 1: variance 1/3. V = 1/64 + 1/64 + (1/3 - 1/16 - 1/16) / 4 = 1/12
    assert found.value == 0.5 and found.error == pytest.approx((1 / 12) ** 0.5)
    spread = 2 / 64**2 + (1 / 12) ** 2 / 3 + 2 * (1 / 64) ** 2 / 3
    assert found.freedom == pytest.approx((1 / 12) ** 2 / spread)
    assert found.components == Components((0, 0), pytest.approx(5 / 24),
                                          (pytest.approx(1 / 8),) * 2)


def test_components_are_recovered_from_a_large_table():
    random = np.random.default_rng(5)
    pictures = random.normal(size=2000)
    sides = [2 * random.normal(size=(60, 1)) * scale + pictures + random.normal(size=2000) * 0.5
             + random.normal(size=(60, 2000)) for scale in (1, 0)]
    found = compare_methods(*sides).components
    assert found.seeds[0] == pytest.approx(4, rel=0.4) and found.seeds[1] < 1e-3
    assert found.clusters == pytest.approx(2 * 0.25, rel=0.15)
    assert found.rest == pytest.approx((1, 1), rel=0.05)


def test_one_run_against_several_takes_their_spread():
    random = np.random.default_rng(6)
    several_runs = random.normal(0.8, 0.05, (4, 1)) * np.ones((4, 30))
    single = np.full((1, 30), 0.7)
    found = compare_methods(several_runs, single)
    spread = several_runs[:, 0].var(ddof=1)
    assert found.error == pytest.approx((spread * (1 / 4 + 1)) ** 0.5)
    assert found.freedom == pytest.approx(3)
    with pytest.raises(ValueError, match="two runs of one"):
        compare_methods(single, single)


def test_planned_errors_are_those_of_the_study_itself():
    random = np.random.default_rng(7)
    first, second = (random.normal(size=(5, 1)) * 0.3 + random.normal(size=(5, 400))
                     + random.normal(size=400) for _ in range(2))
    found = compare_methods(first, second)
    error, freedom = planned_error(found.components, found.runs, found.clusters)
    assert error == pytest.approx(found.error, rel=1e-9)
    assert freedom == pytest.approx(found.freedom, rel=0.1)


def test_what_is_needed_is_enough_by_its_own_reckoning():
    components = Components((4e-4, 4e-4), 0.05, (0.05, 0.05))
    found = evidence_needed(components, runs=(3, 3), clusters=500, pictures=500, target=0.04)
    assert found.seeds is not None
    error, freedom = planned_error(components, (found.seeds,) * 2, 500)
    far = stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)
    assert far * error <= 0.04
    assert found.pictures is None  # the seeds' spread alone hides it
    alone = evidence_needed(Components((0, 0), 0.2, (0, 0)), runs=(1, 1), clusters=100,
                            pictures=1000, target=0.05)
    assert alone.seeds is None
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * 0.2 / 0.05**2
    assert alone.pictures == pytest.approx(10 * normal, rel=0.02)  # in groups of ten


def told(metric="accuracy", **values):
    return judge(metric, **{"first": 0.9, "second": 0.879, "low": 0.004, "high": 0.039, "p": 0.01,
                            **values})


def test_verdicts_in_words():
    assert told().words == "better by 2.1 points, 95 % interval 0.4 to 3.9"
    worse = told(first=0.879, second=0.9, low=-0.039, high=-0.004)
    assert (worse.kind, worse.words) == ("worse", "worse by 2.1 points, 95 % interval -3.9 to -0.4")
    alike = told(second=0.899, low=-0.013, high=0.015, p=0.9)
    assert alike.words.startswith("a difference above 1.5 points is unlikely")
    assert told(second=0.899, low=-0.013, high=0.015, p=0.9, reliable=False).kind == "untold"
    needed = evidence_needed(Components((0, 0), 0.1, (0, 0)), runs=(1, 1), clusters=300,
                             pictures=300, target=0.03)
    few = told(second=0.87, low=-0.01, high=0.07, p=0.2, needed=needed)
    assert few.words == ("too few to tell: 3.0 points, 95 % interval -1.0 to 7.0; about 880 "
                         "pictures would be needed to show a true difference of 3.0 points in 80 "
                         "of 100 such studies")
    assert told(first=0.9, second=0.9, low=0.0, high=0.0, p=1.0).kind == "same"


def test_nothing_is_said_of_what_would_show_no_difference_or_of_seeds_of_one_run():
    def untold(target):
        needed = evidence_needed(Components((0, 0), 0.5, (0, 0)), runs=(1, 1), clusters=300,
                                 pictures=300, target=target)
        return told(first=0.9, second=0.9 - target, low=-0.05, high=0.05, p=0.9, needed=needed)
    assert untold(1e-9).words == "too few to tell: 0.0 points, 95 % interval -5.0 to 5.0"
    assert untold(5e-4).words.endswith("; 10,000,000 pictures would not be enough to show a true "
                                       "difference of 0.1 points")


def test_lower_is_better_where_it_is():
    found = told("log_loss", first=0.4, second=0.6, low=-0.3, high=-0.1)
    assert found.words == "better by 0.2, 95 % interval 0.1 to 0.3"
    assert told("ece", first=0.1, second=0.05, low=0.02, high=0.08).kind == "worse"
    assert shown("mean_absolute_error", 0.25) == "0.25"


def test_a_difference_that_holm_takes_back_is_not_called_one():
    found = told(p=0.06, comparisons=6)
    assert found.kind == "untold" and "after Holm's correction for 6 comparisons" in found.words


def test_doubts_are_told():
    given = answers("single", 3, count=15)
    assert difference_doubts(given, None, {"accuracy": np.inf}) == {
        "accuracy": ["15 pictures, fewer than 20"]}
    many = answers("single", 3, count=300)
    told = difference_doubts(many, None, {"macro_f1": 50, "accuracy": 4, "ece": np.inf})
    assert told["macro_f1"] == [] and "fewer than 10 pictures" in told["accuracy"][0]
    assert "biased" in told["ece"][0]
    assert difference_doubts(many, np.arange(300) // 20, {"accuracy": 50})["accuracy"] == [
        "15 groups, fewer than 20"]
    rare = Predictions(many.ids, np.where(many.labels == 2, 0, many.labels), many.logits,
                       many.label_spec)
    rare.labels[:4] = 2
    told = difference_doubts(rare, None, {"macro_f1": np.inf, "f1[2]": np.inf, "f1[0]": np.inf})
    assert "4 positives of 'c'" in told["macro_f1"][0] and told["f1[0]"] == []
    assert told["f1[2]"] == ["4 positives, fewer than 10"]


def test_groups_of_one_picture_are_none():
    assert cluster_numbers(["a", "b"]) is None and cluster_numbers(None) is None
