"""Thresholds, sets and abstention are the references', and nothing is fitted on what it judges."""

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_curve, roc_curve
from statistics_of import drawn, several

from finetune.errors import CheckError, ConfigurationError, DataError
from finetune.evaluation.abstention import (
    area_under_risk,
    choose_confidence,
    fit_abstention,
    measure_answered,
    risk_coverage,
)
from finetune.evaluation.conformal import PredictionSets, fit_prediction_sets, set_scores
from finetune.evaluation.decision_measures import measure_decisions
from finetune.evaluation.decisions import (
    Decisions,
    DecisionSettings,
    apply_decisions,
    fit_decisions,
    part_of,
    selection_part,
)
from finetune.evaluation.halves import (
    cross_fitted,
    decision_halves,
    group_folds,
    one_per_group,
)
from finetune.evaluation.operating_points import (
    CostRule,
    choose_threshold,
    fit_operating_point,
    measure_answers,
)
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.reliability import reliability_diagram
from finetune.evaluation.shares import mean_and_error, share
from finetune.specs import LabelKind, LabelSpec

ALL = DecisionSettings(sensitivity=0.9, precision=0.7, answered_accuracy=0.9,
                       costs=((0, 1, 1), (5, 0, 1), (1, 1, 0)), set_method="lac")


def predictions(count, classes=3, *, seed=0, groups=None, factor=2.0):
    logits, labels = drawn(count, classes, seed=seed)
    spec = LabelSpec(LabelKind.single, tuple("abcdefghij"[:classes]))
    return Predictions([f"{seed}-{i}" for i in range(count)], labels, logits * factor, spec, groups)


# --- halves ---


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_halves_share_no_group_and_have_the_same_classes(grouped, kind):
    random = np.random.default_rng(0)
    labels = random.choice(3, 900, p=[0.7, 0.2, 0.1])
    targets = labels if kind == "single" else np.eye(3)[labels]
    groups = random.integers(0, 200, 900).tolist() if grouped else None
    one, other = decision_halves(targets, groups, seed=1)
    assert sorted([*one, *other]) == list(range(900))
    if grouped:
        assert not {groups[i] for i in one} & {groups[i] for i in other}
    shares = [np.bincount(labels[half], minlength=3) / np.bincount(labels) for half in (one, other)]
    np.testing.assert_allclose(shares, 0.5, atol=0.06 if grouped else 0.01)


def test_too_few_pictures_or_groups_are_not_halved():
    labels = np.arange(500) % 3
    assert decision_halves(labels[:399], seed=0) is None
    assert decision_halves(labels, [str(i % 19) for i in range(500)], seed=0) is None
    assert decision_halves(labels[:400], seed=0) is not None


def test_halves_follow_the_seed_alone():
    labels, groups = np.arange(600) % 4, (np.arange(600) // 3).tolist()
    first, again, other = (decision_halves(labels, groups, seed=s)[0] for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_folds_hold_classes_alike_and_nobody_is_judged_by_a_fit_with_it():
    labels = np.r_[np.zeros(50, int), np.ones(23, int), np.full(7, 2)]
    folds = group_folds(labels, seed=0)
    for label in range(3):
        sizes = np.bincount(folds[labels == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    judged = cross_fitted(lambda rows: set(rows.tolist()),
                          lambda seen, rows: np.array([len(seen & {int(i)}) for i in rows]), folds)
    assert judged.tolist() == [0] * 80
    order = cross_fitted(lambda rows: None, lambda _, rows: rows, folds)
    assert order.tolist() == list(range(80))


def test_one_picture_of_each_group():
    groups = [str(i // 4) for i in range(400)]
    rows = one_per_group(groups, 400, seed=0)
    assert [groups[i] for i in rows] == [str(i) for i in range(100)]
    assert len({int(i) % 4 for i in rows}) == 4
    assert one_per_group(None, 5, seed=0).tolist() == [0, 1, 2, 3, 4]


# --- shares ---


def hits(part, whole):
    return np.arange(whole) < part


@pytest.mark.parametrize(("part", "whole", "ends"), [  # Newcombe 1998, Statistics in Medicine 17,
    (81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611))])  # method 3
def test_a_share_has_wilsons_interval(part, whole, ends):
    found = share(hits(part, whole))
    assert (found["low"], found["high"]) == pytest.approx(ends, abs=5e-5)
    assert (found["part"], found["whole"]) == (part, whole)
    assert share(hits(part, whole), np.zeros(whole, bool))["value"] is None


def test_shares_of_few_pictures_or_groups_are_flagged_as_metrics_are():
    assert share(hits(9, 10))["reliable"] and not share(hits(9, 9))["reliable"]
    groups = np.arange(38) // 2
    assert not share(hits(20, 38), None, groups)["reliable"]  # 19 groups
    assert share(hits(20, 40), None, np.arange(40) // 2)["reliable"]
    assert not share(hits(3, 40), np.zeros(40, bool))["reliable"]


def clustered(random, clusters, *, size=10, value=0.8, alike=0.4):
    """Right answers of which those of a cluster are correlated: beta-binomial."""
    left = 1 / alike - 1
    means = random.beta(value * left, (1 - value) * left, clusters)
    return (random.random((clusters, size)) < means[:, None]).ravel()


def test_intervals_of_shares_of_clusters_cover_and_plain_ones_do_not():
    random, groups = np.random.default_rng(0), np.repeat(np.arange(40), 10)
    covers = {"groups": [], "plain": []}
    for _ in range(600):
        right = clustered(random, 40)
        for name, given in (("groups", groups), ("plain", None)):
            found = share(right, None, given)
            covers[name].append(found["low"] <= 0.8 <= found["high"])
    assert np.mean(covers["groups"]) >= 0.92 and np.mean(covers["plain"]) < 0.75


def test_every_share_of_a_decision_widens_with_groups():
    random = np.random.default_rng(1)
    right, groups = clustered(random, 40), [f"p{i}" for i in np.repeat(np.arange(40), 10)]
    sure = np.where(clustered(random, 40, value=0.7), 0.9, 0.6)
    odds = np.where(right[:, None], np.c_[sure, 1 - sure], np.c_[1 - sure, sure])
    labels = np.zeros(400, int)
    sets = PredictionSets("lac", 0.8, (0.2, 0.2))
    shares = []
    for given in (None, groups):
        answers, covered = measure_answers(np.ones(400), right, given), sets.measure(
            labels, odds, given)
        answered = measure_answered(right, sure > 0.7, given)
        bins = reliability_diagram(labels, odds, "ab", given)["top_label"]
        shares.append([answers["sensitivity"], covered["coverage"], covered["empty"],
                       covered["coverage_by_class"][0], *answered.values(),
                       *({"value": b["accuracy"], "low": b["interval"][0],
                          "high": b["interval"][1]} for b in bins)])
    for plain, wide in zip(*shares, strict=True):
        assert plain["value"] == wide["value"]
        assert wide["low"] < plain["low"] <= plain["value"] <= plain["high"] < wide["high"]


def test_a_mean_has_the_error_of_its_groups():
    values = np.random.default_rng(0).normal(size=100)
    mean, error = mean_and_error(values)
    assert error == pytest.approx(values.std(ddof=1) / 10) and mean == pytest.approx(values.mean())
    twice, groups = np.repeat(values, 2), np.repeat(np.arange(100), 2)
    assert mean_and_error(twice, groups) == pytest.approx((mean, error))
    assert mean_and_error(values, ["a"] * 100)[1] == np.inf


# --- operating points ---


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_reach_the_wish_and_lose_least_by_scikit_learns_curves(seed):
    random = np.random.default_rng(seed)
    truth = random.random(200) < 0.4
    scores = (random.random(200) * 0.7 + 0.3 * truth).round(2)
    false, true, steps = roc_curve(truth, scores, drop_intermediate=False)
    precision, _, levels = precision_recall_curve(truth, scores)
    wanted = {"sensitivity": steps[true >= 0.9].max(), "specificity": steps[1 - false >= 0.9].min(),
              "precision": levels[precision[:-1] >= 0.7].min()}
    wishes = {"sensitivity": 0.9, "specificity": 0.9, "precision": 0.7}
    for target, wish in wishes.items():
        threshold = choose_threshold(truth, scores, target=target, wish=wish)
        np.testing.assert_array_equal(scores >= threshold, scores >= wanted[target])


def test_a_threshold_out_of_reach_is_none_and_the_lowest_takes_all():
    truth, scores = np.array([True, False, False]), np.array([0.2, 0.5, 0.9])
    assert choose_threshold(truth, scores, target="specificity", wish=0.9) is None
    assert choose_threshold(truth, scores, target="sensitivity", wish=1) == pytest.approx(0.1)


def test_an_operating_point_says_why_it_is_refused_or_unstable():
    logits, labels = drawn(200, 3)
    odds, folds = softmax(logits, axis=1), group_folds(labels, seed=0)
    words = {"class_name": "b", "place": 1, "target": "precision", "folds": folds}
    none = fit_operating_point(np.zeros(200, int), odds, wish=0.5, **words)
    few = fit_operating_point(np.where(np.arange(200) < 4, 1, 0), odds, wish=0.01, **words)
    assert none.threshold is None and "0 positive" in none.reason
    assert few.unstable and "4 positive" in few.reason
    with pytest.raises(ValueError, match="0 positive"):
        none.answers(odds)
    for bad in ({"wish": 0}, {"wish": 1.5}, {"wish": 0.5, "target": "recall"}):
        with pytest.raises(ConfigurationError):
            fit_operating_point(labels, odds, **{**words, **bad})


def test_validation_counts_are_of_thresholds_fitted_without_the_picture():
    logits, labels = drawn(300, 2)
    odds, folds = softmax(logits, axis=1), group_folds(labels, seed=0)
    point = fit_operating_point(labels, odds, class_name="b", place=1, target="sensitivity",
                                wish=0.9, folds=folds)
    said = np.empty(300, bool)
    for fold in range(5):
        rest = folds != fold
        own = choose_threshold(labels[rest] == 1, odds[rest, 1], target="sensitivity", wish=0.9)
        said[~rest] = odds[~rest, 1] >= own
    tn, fp, fn, tp = confusion_matrix(labels, said).ravel()
    assert [point.validation[k] for k in ("tn", "fp", "fn", "tp")] == [tn, fp, fn, tp]


def test_unknown_labels_are_not_counted():
    found = measure_answers(np.array([1, np.nan, 0, 1]), np.array([True, True, True, False]))
    assert (found["tp"], found["fp"], found["fn"], found["tn"]) == (1, 1, 1, 0)


def test_the_least_cost_is_by_hand():
    rule = CostRule(((0, 1), (9, 0)))  # a miss costs nine alarms: positive from 0.1 on
    odds = np.array([[0.95, 0.05], [0.85, 0.15], [0.2, 0.8]])
    assert rule.answers(odds).tolist() == [0, 1, 1]
    found = rule.measure(np.array([0, 1, 1]), odds)
    assert (found["cost"], found["cost_of_likeliest"]) == (0, 3)
    assert found["cost_of_one_answer"] == pytest.approx(1 / 3) and found["saved"] == 3


def test_cost_matrices_that_do_not_fit_are_refused():
    for costs in (((0, 1),), ((0, 1, 2), (1, 0)), ((0, np.nan), (1, 0))):
        with pytest.raises(ConfigurationError, match="costs"):
            CostRule(costs)
    with pytest.raises(ConfigurationError, match="3 classes"):
        fit_decisions(predictions(100), settings=DecisionSettings(costs=((0, 1), (1, 0))),
                      biased_training=False, seed=0)


# --- prediction sets ---


def test_aps_is_the_papers_by_brute_force():
    """Romano 2020, equations 3 to 6: the smallest level at which a class is in the set."""
    odds = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
    uniform = np.array([0.3, 0.9, 0.5])

    def is_in(k, p, u, level):
        ranked = sorted(range(3), key=lambda c: -p[c])
        size = next(n for n in range(1, 4) if sum(p[c] for c in ranked[:n]) >= level - 1e-12)
        chosen = ranked[:size]
        over = (sum(p[c] for c in chosen) - level) / p[chosen[-1]]
        return k in (chosen[:-1] if u <= over else chosen)

    levels = np.linspace(0.0005, 0.9995, 1000)
    for u in (uniform, None):
        scores = set_scores(odds, "aps", u)
        for i, p in enumerate(odds):
            for k in range(3):
                entered = [t for t in levels if is_in(k, p, 1.1 if u is None else u[i], t)]
                assert scores[i, k] == pytest.approx(min(entered), abs=0.0011)


def test_scores_and_quantile_by_hand():
    odds = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    np.testing.assert_allclose(set_scores(odds, "lac"), 1 - odds)
    np.testing.assert_allclose(set_scores(odds, "aps"), [[0, 0.5, 0.8], [0.9, 0, 0.6]])
    np.testing.assert_allclose(set_scores(odds, "aps", np.array([0.5, 0.0])),
                               [[0.25, 0.65, 0.9], [1.0, 0.6, 0.9]])
    ramp = np.linspace(0.001, 0.999, 199)
    found = fit_prediction_sets(np.ones(199, int), np.stack([1 - ramp, ramp], axis=1), level=0.9,
                                seed=0, method="lac")
    assert found.quantiles[0] == pytest.approx(np.sort(1 - ramp)[179])  # 200 * 0.9 = 180th


@pytest.mark.parametrize(("method", "randomised"), [("lac", False), ("aps", False), ("aps", True)])
def test_sets_cover_as_promised(method, randomised):
    covered = []
    for seed in range(60):
        logits, labels = drawn(700, 5, seed=seed, sharp=1.5)
        odds = softmax(2 * logits, axis=1)  # overconfident: the promise needs no calibration
        sets = fit_prediction_sets(labels[:200], odds[:200], level=0.9, seed=seed, method=method,
                                   randomised=randomised)
        covered.append(sets.measure(labels[200:], odds[200:], seed=seed)["coverage"]["value"])
    spread = np.std(covered) / np.sqrt(60)
    assert np.mean(covered) > 0.9 - 3 * spread
    assert (method == "aps" and not randomised) or np.mean(covered) < 0.905 + 3 * spread


def test_every_class_is_covered_when_asked_for():
    prior, by_class = [0.7, 0.2, 0.1], {True: [], False: []}
    for seed in range(40):
        logits, labels = drawn(1500, 3, seed=seed, sharp=1.0, prior=prior)
        odds = softmax(logits, axis=1)
        for wanted, found in by_class.items():
            sets = fit_prediction_sets(labels[:500], odds[:500], level=0.9, seed=0, method="lac",
                                       by_class=wanted)
            told = sets.measure(labels[500:], odds[500:])["coverage_by_class"]
            found.append([entry["value"] for entry in told])
    assert (np.mean(by_class[True], axis=0) > 0.89).all()
    assert np.mean(by_class[False], axis=0)[2] < 0.8


def test_a_class_with_too_few_pictures_is_in_every_set():
    logits, labels = drawn(300, 3)
    labels[labels == 2] = 0
    sets = fit_prediction_sets(labels, softmax(logits, axis=1), level=0.9, seed=0, by_class=True,
                               class_names="abc")
    again = PredictionSets.from_dict(json.loads(json.dumps(sets.to_dict())))
    assert again == sets and "every set: c" in sets.reason
    assert sets.apply(softmax(logits, axis=1))[:, 2].all()


def test_sets_are_refused_in_words():
    logits, labels = drawn(300, 3)
    odds = softmax(logits, axis=1)
    few = fit_prediction_sets(labels, odds, level=0.9, seed=0, groups=[i // 4 for i in range(300)])
    several_labels = fit_prediction_sets(np.eye(3)[labels], odds, level=0.9, seed=0)
    assert few.refused and "75 calibration groups" in few.reason
    assert several_labels.refused and "any number" in several_labels.reason
    with pytest.raises(ValueError, match="75"):
        few.apply(odds)
    for bad in ({"level": 1.0}, {"level": 0.9, "method": "raps"}):
        with pytest.raises(ConfigurationError):
            fit_prediction_sets(labels, odds, seed=0, **bad)


def test_sets_without_randomisation_hold_the_likeliest_class_and_others_may_be_empty():
    logits, labels = drawn(400, 4, sharp=6)
    odds = softmax(logits, axis=1)
    plain = fit_prediction_sets(labels, odds, level=0.8, seed=0)
    assert plain.apply(odds)[np.arange(400), odds.argmax(axis=1)].all()
    for method, randomised in (("lac", False), ("aps", True)):
        sets = fit_prediction_sets(labels, odds, level=0.8, seed=0, method=method,
                                   randomised=randomised)
        assert sets.measure(labels, odds)["empty"]["part"] > 0
        np.testing.assert_array_equal(sets.apply(odds, seed=3), sets.apply(odds, seed=3))


# --- abstention ---


def test_the_area_under_risk_by_hand_and_by_chance():
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True])
    assert area_under_risk(confidence, right) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    thresholds, coverage, risk = risk_coverage(confidence, right)
    assert thresholds.tolist() == confidence.tolist() and coverage[-1] == 1
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 4])
    assert area_under_risk(np.ones(4), right) == pytest.approx(0.25)


def test_ties_count_as_random_order():
    random = np.random.default_rng(0)
    confidence, right = random.integers(0, 4, 60) / 4, random.random(60) < 0.7
    broken = [area_under_risk(confidence + random.random(60) * 0.01, right) for _ in range(3000)]
    assert area_under_risk(confidence, right) == pytest.approx(np.mean(broken), abs=0.002)


def test_a_confidence_answers_most_at_the_wished_accuracy():
    logits, labels = drawn(1000, 3, sharp=3.0)
    odds = softmax(logits, axis=1)
    confidence, right = odds.max(axis=1), odds.argmax(axis=1) == labels
    chosen = choose_confidence(confidence, right, accuracy=0.9)
    assert right[confidence >= chosen].mean() >= 0.9
    assert all(right[confidence >= lower].mean() < 0.9 for lower in confidence
               if lower < chosen)
    sure = choose_confidence(confidence, right, accuracy=0.9, guarantee=0.95)
    assert sure > chosen
    assert choose_confidence(confidence, right, accuracy=0.01) == 0
    assert choose_confidence(confidence, ~right & False, accuracy=0.5) is None


@pytest.mark.parametrize(("guarantee", "most"), [(None, 100), (0.9, 10)])
def test_a_guarantee_holds_and_needs_asking_for(guarantee, most):
    broken, answered = 0, 0
    for seed in range(100):
        logits, labels = drawn(5400, 3, seed=seed, sharp=3.0)
        odds = softmax(logits, axis=1)
        confidence, right = odds.max(axis=1), odds.argmax(axis=1) == labels
        chosen = choose_confidence(confidence[:400], right[:400], accuracy=0.9,
                                   guarantee=guarantee)
        there = confidence[400:] >= (np.inf if chosen is None else chosen)
        answered += there.any()
        broken += there.any() and right[400:][there].mean() < 0.9
    assert answered > 70 and broken <= most
    assert guarantee is not None or broken > 10


def test_abstention_is_refused_in_words():
    logits, labels = drawn(100, 3)
    odds, folds = softmax(logits, axis=1), group_folds(labels, seed=0)
    few = fit_abstention(labels[:40], odds[:40], accuracy=0.9, folds=folds[:40])
    never = fit_abstention(odds.argmin(axis=1), odds, accuracy=1.0, folds=folds)
    assert "40 validation pictures" in few.reason and "accuracy of 1" in never.reason
    with pytest.raises(ValueError, match="40"):
        few.answers(odds)
    for bad in ({"accuracy": 0}, {"accuracy": 0.9, "guarantee": 1}):
        with pytest.raises(ConfigurationError):
            fit_abstention(labels, odds, folds=folds, **bad)


# --- all of it ---


def test_decisions_survive_json_and_say_the_same_of_new_pictures():
    found = fit_decisions(predictions(1000), settings=ALL, biased_training=False, seed=0)
    again = Decisions.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found and not found.unstable and found.count == 500
    test = predictions(300, seed=1)
    one, other = (apply_decisions(d, test.logits) for d in (found, again))
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key])


def test_only_the_fitting_half_fits_and_only_the_other_selects():
    val = predictions(1000, groups=[str(i // 2) for i in range(1000)])
    chosen = selection_part(val, seed=5)
    kept = set(chosen.ids)
    changed = val.logits + np.array([[3.0, -1, 0]]) * np.isin(val.ids, list(kept))[:, None]
    other = Predictions(val.ids, val.labels, changed, val.label_spec, val.groups)
    one, two = (fit_decisions(v, settings=ALL, biased_training=False, seed=5) for v in (val, other))
    assert one == two and one.count + len(chosen) == 1000
    part = set(chosen.groups)
    assert not part & {g for i, g in zip(val.ids, val.groups, strict=True) if i not in kept}


def test_few_pictures_are_all_used_and_marked_unstable():
    val = predictions(200)
    found = fit_decisions(val, settings=ALL, biased_training=False, seed=0)
    assert found.unstable and found.count == 200
    assert "200 validation pictures" in found.reasons[0]
    assert len(selection_part(val, seed=0)) == 200


def test_biased_training_gets_biases_where_they_help():
    prior = [0.8, 0.15, 0.05]
    logits, labels = drawn(2000, 3, prior=prior)
    spec = LabelSpec(LabelKind.single, ("a", "b", "c"))
    ids = [str(i) for i in range(2000)]
    biased = Predictions(ids, labels, logits - np.log(prior), spec)
    plain = Predictions(ids, labels, 2 * logits, spec)
    settings = DecisionSettings(set_level=None)

    def kind(given, flag):
        return fit_decisions(given, settings=settings, biased_training=flag,
                             seed=0).calibration.kind

    assert kind(biased, True) == "bias_corrected" and kind(biased, False) == "temperature"
    assert fit_decisions(plain, settings=settings, biased_training=True, seed=0).calibration.kept


def test_what_is_measured_is_what_was_decided():
    found = fit_decisions(predictions(1000), settings=ALL, biased_training=False, seed=0)
    test = predictions(800, seed=1)
    done, told = apply_decisions(found, test.logits), measure_decisions(found, test)
    json.dumps(told, allow_nan=False)
    assert told["calibration"]["gain"] > 2 * told["calibration"]["gain_error"]
    assert told["calibration"]["temperature"] == pytest.approx(2, rel=0.2)
    inside = done["sets"][np.arange(800), test.labels]
    assert told["prediction_sets"]["coverage"]["part"] == inside.sum()
    assert told["prediction_sets"]["mean_size"] == pytest.approx(done["sets"].sum(axis=1).mean())
    point = told["operating_points"][0]
    assert point["tp"] + point["fn"] == (test.labels == 0).sum()
    assert point["tp"] == (done["points"][0] & (test.labels == 0)).sum()
    assert told["abstention"]["answered"]["part"] == done["answered"].sum()
    assert told["costs"]["cost"] <= told["costs"]["cost_of_one_answer"]


def test_the_positive_of_two_classes_has_the_thresholds():
    val = predictions(600, 2)
    spec = LabelSpec(LabelKind.single, ("ill", "well"), "ill")
    val = Predictions(val.ids, val.labels, val.logits, spec)
    found = fit_decisions(val, settings=DecisionSettings(sensitivity=0.9, specificity=0.9),
                          biased_training=False, seed=0)
    assert [(p.class_name, p.place, p.target) for p in found.points] == [
        ("ill", 0, "sensitivity"), ("ill", 0, "specificity")]


def test_multi_label_has_thresholds_and_no_sets():
    logits, labels = several(900, 3)
    spec = LabelSpec(LabelKind.multi, ("a", "b", "c"))
    val = Predictions([str(i) for i in range(900)], labels, 2 * logits, spec)
    found = fit_decisions(val, settings=DecisionSettings(sensitivity=0.8, answered_accuracy=0.9),
                          biased_training=False, seed=0)
    assert found.calibration.kept and found.sets.refused and len(found.points) == 3
    assert any("no abstention" in reason for reason in found.reasons)
    assert Decisions.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    told = measure_decisions(found, val)
    json.dumps(told, allow_nan=False)
    assert told["operating_points"][0]["tp"] + told["operating_points"][0]["fn"] == (
        labels[:, 0] == 1).sum()
    assert told["calibration"]["after"]["log_loss"] < told["calibration"]["before"]["log_loss"]


@pytest.mark.parametrize("count", [200, 900])
def test_each_label_has_its_best_f1_and_its_sensitivity_over_known_labels(count):
    logits, labels = several(count, 3)
    labels[::7, 1] = np.nan
    spec = LabelSpec(LabelKind.multi, ("a", "b", "c"))
    val = Predictions([str(i) for i in range(count)], labels, logits - [0, 2, -1], spec)
    settings = DecisionSettings(calibration="none", best_f1=True, sensitivity=0.8)
    found = fit_decisions(val, settings=settings, biased_training=False, seed=0)
    part = val if count < 400 else part_of(val, decision_halves(labels, None, seed=0)[1])
    assert [(p.class_name, p.target) for p in found.points] == [
        (name, target) for target in ("sensitivity", "f1") for name in "abc"]
    for place, point in enumerate(found.points[3:]):
        known = ~np.isnan(part.labels[:, place])
        truth, scores = part.labels[known, place] == 1, part.probabilities[known, place]
        best = max(f1_score(truth, scores >= level) for level in np.unique(scores))
        assert f1_score(truth, scores >= point.threshold) == pytest.approx(best)
        crossed = point.validation
        assert crossed["tp"] + crossed["fp"] + crossed["fn"] + crossed["tn"] == known.sum()
        assert 0.3 < crossed["f1"] <= best + 1e-9
    assert len({p.threshold for p in found.points[3:]}) == 3
    for place, point in enumerate(found.points[:3]):
        positives = part.labels[:, place] == 1
        assert (part.probabilities[positives, place] >= point.threshold).mean() >= 0.8
    assert Decisions.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    told = measure_decisions(found, val)["operating_points"]
    assert told[3]["wish"] is None and told[3]["f1"] > 0.3


def test_an_f1_is_not_wished_for():
    labels = np.arange(40) % 2
    with pytest.raises(ConfigurationError, match="leave it out"):
        fit_operating_point(labels, np.full((40, 2), 0.5), class_name="a", place=0, target="f1",
                            wish=0.5, folds=np.arange(40) % 5)
    with pytest.raises(ConfigurationError, match="can't be wished"):
        fit_operating_point(labels, np.full((40, 2), 0.5), class_name="a", place=0,
                            target="precision", wish=None, folds=np.arange(40) % 5)


def test_bad_predictions_and_settings_are_refused():
    val = predictions(100)
    val.logits[3, 1] = np.nan
    with pytest.raises(CheckError, match="0-3"):
        fit_decisions(val, settings=ALL, biased_training=False, seed=0)
    with pytest.raises(ConfigurationError, match="isotonic"):
        DecisionSettings(calibration="isotonic")
    found = fit_decisions(predictions(100), settings=ALL, biased_training=False, seed=0)
    with pytest.raises(DataError, match="4 classes"):
        measure_decisions(found, predictions(50, 4))


def test_eight_pictures_get_reasons_and_no_decisions():
    found = fit_decisions(predictions(8), settings=ALL, biased_training=False, seed=0)
    assert not found.calibration.kept and found.sets.refused and found.unstable
    assert found.abstention.threshold is None and len(found.reasons) >= 4
    json.dumps(measure_decisions(found, predictions(100, seed=1)), allow_nan=False)
