import json

import cv2
import numpy as np
import pytest
from scipy.stats import chi2_contingency
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.multitest import multipletests

from finetune.assembly import assemble_data
from finetune.composition import compose
from finetune.errors import ConfigurationError, DataError
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.subgroups import choose_columns, holm, measure_subgroups, spread_test
from finetune.specs import LabelKind, LabelSpec

TWO = LabelSpec(LabelKind.single, ("well", "ill"), "ill")


def answered(labels, right, spec=TWO, groups=None, seed=0):
    """Predictions that are right where told."""
    labels = np.asarray(labels)
    answer = np.where(right, labels, (labels + 1) % spec.output_width)
    noise = np.random.default_rng(seed).uniform(0, 1, (len(labels), spec.output_width))
    logits = 2 * np.eye(spec.output_width)[answer] + noise
    return Predictions([str(i) for i in range(len(labels))], labels, logits.astype(np.float32),
                       spec, groups)


@pytest.fixture(scope="module")
def planted():
    """600 pictures; answers of site C are right in 60 %, of A and B in 90 %."""
    random = np.random.default_rng(1)
    sites = random.choice(["A", "B", "C"], 600)
    labels = random.integers(0, 2, 600)
    right = random.random(600) < np.where(sites == "C", 0.6, 0.9)
    sexes = random.choice(["f", "m"], 600)
    found = answered(labels, right)
    return found, sites, measure_subgroups(found, {"site": sites.tolist(), "sex": sexes.tolist()},
                                           resamples=200)


def test_the_planted_site_is_the_worst_and_the_other_column_is_chance(planted):
    _, _, found = planted
    site, sex = found["columns"]["site"], found["columns"]["sex"]
    assert site["worst"]["value"] == "C" and site["worst"]["against_expected"] < -0.1
    assert site["test"]["more_than_chance"] and site["test"]["p_holm"] < 1e-6
    assert not sex["test"]["more_than_chance"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_numbers_of_a_value_are_the_metrics_of_its_pictures(planted):
    predictions, sites, found = planted
    for row in found["columns"]["site"]["values"]:
        chosen = np.flatnonzero(sites == row["value"])
        part = Predictions([predictions.ids[i] for i in chosen], predictions.labels[chosen],
                           predictions.logits[chosen], TWO)
        metrics = compute_metrics(part)
        assert row["count"] == len(chosen) and not row["small"]
        for key in ("accuracy", "balanced_accuracy", "roc_auc"):
            entry = row["metrics"][key]
            assert entry["value"] == metrics[key]
            assert entry["low"] <= entry["value"] <= entry["high"]
        assert row["metrics"]["sensitivity"]["value"] == metrics["positive"]["sensitivity"]


def test_rare_values_are_merged_and_what_stays_small_is_neither_worst_nor_tested():
    labels = np.arange(140) % 2
    sites = ["A"] * 60 + ["B"] * 60 + [f"tiny{i % 4}" for i in range(19)] + [" "]
    right = np.array([s in "AB" for s in sites])
    right[:5] = False
    found = measure_subgroups(answered(labels, right), {"site": sites}, resamples=50)
    site = found["columns"]["site"]
    other = site["values"][-1]
    assert (other["value"], other["count"], other["small"]) == ("(other)", 20, True)
    assert other["merged"] == ["(no value)", "tiny0", "tiny1", "tiny2", "tiny3"]
    assert other["against_expected"] < -0.5 and site["worst"]["value"] == "A"
    alone = measure_subgroups(answered(labels[:125], right[:125]), {"s": sites[:120] + ["x"] * 5},
                              resamples=50)["columns"]["s"]["values"][-1]
    assert (alone["value"], alone["small"], alone["merged"]) == ("x", True, [])
    assert not alone["metrics"]["accuracy"]["reliable"]


def test_a_site_of_hard_pictures_is_not_taken_for_a_bad_one():
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 2000)
    sites = np.where(random.random(2000) < np.where(labels == 1, 0.8, 0.2), "hard", "easy")
    right = random.random(2000) < np.where(labels == 1, 0.6, 0.95)
    site = measure_subgroups(answered(labels, right), {"site": sites.tolist()},
                             resamples=50)["columns"]["site"]
    accuracy = {row["value"]: row["metrics"]["accuracy"]["value"] for row in site["values"]}
    assert accuracy["easy"] - accuracy["hard"] > 0.1
    assert site["test"]["p"] > 0.05 and abs(site["worst"]["against_expected"]) < 0.03


def test_a_class_that_a_value_lacks_is_named():
    labels = np.array([0] * 40 + [0, 1] * 20)
    rows = measure_subgroups(answered(labels, np.ones(80, bool)),
                             {"site": ["A"] * 40 + ["B"] * 40},
                             resamples=50)["columns"]["site"]["values"]
    by_value = {row["value"]: row for row in rows}
    assert by_value["A"]["absent"] == ["ill"] and by_value["B"]["absent"] == []
    assert by_value["A"]["metrics"]["roc_auc"]["value"] is None


def test_one_stratum_and_independent_pictures_give_pearsons_test():
    random = np.random.default_rng(3)
    of, right = random.integers(0, 3, 4000), random.random(4000) < 0.8
    right[of == 2] &= random.random((of == 2).sum()) < 0.97
    found = spread_test(right.astype(float), of, np.zeros(4000, int), np.arange(4000))
    table = np.array([[(right[of == g] == r).sum() for r in (0, 1)] for g in range(3)])
    expected = chi2_contingency(table, correction=False)
    assert found["freedom"] == expected.dof == 2
    assert found["statistic"] == pytest.approx(expected.statistic, rel=0.05)


def test_strata_give_the_test_of_mantel_and_haenszel():
    random = np.random.default_rng(4)
    stratum = random.integers(0, 3, 6000)
    of = (random.random(6000) < 0.2 + 0.3 * stratum).astype(int)
    right = random.random(6000) < 0.95 - 0.2 * stratum - 0.03 * of
    found = spread_test(right.astype(float), of, stratum, np.arange(6000))
    tables = [[[((of == g) & (right == r) & (stratum == s)).sum() for r in (1, 0)]
               for g in (0, 1)] for s in range(3)]
    expected = StratifiedTable([np.array(t, float) for t in tables]).test_null_odds()
    assert found["statistic"] == pytest.approx(expected.statistic, rel=0.05)


@pytest.mark.parametrize("clusters", [12, 60])
def test_the_level_holds_for_pictures_of_patients_and_not_if_they_were_independent(clusters):
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(clusters), 10)
    of = (groups % 3)
    hits = {"patients": 0, "pictures": 0}
    for _ in range(400):
        skill = random.beta(2, 0.5, clusters)
        right = (random.random(len(groups)) < skill[groups]).astype(float)
        for name, units in (("patients", groups), ("pictures", np.arange(len(groups)))):
            found = spread_test(right, of, np.zeros(len(groups), int), units)
            hits[name] += bool(found and found["p"] < 0.05)
    assert hits["patients"] < 0.08 * 400 < 0.2 * 400 < hits["pictures"]


def test_nothing_is_tested_where_every_answer_is_right():
    labels = np.arange(80) % 2
    site = measure_subgroups(answered(labels, np.ones(80, bool)),
                             {"site": ["A", "A", "B", "B"] * 20}, resamples=50)["columns"]["site"]
    assert site["test"] is None and site["worst"]["against_expected"] == 0


def test_several_labels_with_unknown_ones_are_measured():
    random = np.random.default_rng(6)
    labels = (random.random((300, 3)) < 0.4).astype(np.float32)
    logits = 4 * labels - 2 + random.normal(size=labels.shape)
    sites = random.choice(["A", "B"], 300)
    logits[sites == "B", 1] *= -1
    labels[random.random(labels.shape) < 0.1] = np.nan
    spec = LabelSpec(LabelKind.multi, ("x", "y", "z"))
    found = Predictions([str(i) for i in range(300)], labels, logits.astype(np.float32), spec,
                        [str(i // 2) for i in range(300)])
    site = measure_subgroups(found, {"site": sites.tolist()}, resamples=50)["columns"]["site"]
    assert site["worst"]["value"] == "B" and site["test"]["more_than_chance"]
    assert {row["clusters"] for row in site["values"]} != {None}
    assert set(site["values"][0]["metrics"]) == {"accuracy", "macro_f1", "roc_auc",
                                                 "average_precision"}


def test_holm_is_statsmodels():
    values = np.random.default_rng(7).random(9) ** 3
    assert holm(values.tolist()) == pytest.approx(multipletests(values, method="holm")[1])
    assert holm([]) == []


def test_columns_are_chosen_by_name():
    metadata = {"site": ["a"], "sex": ["f"], "age": ["7"]}
    assert list(choose_columns(metadata, " sex, site")) == ["sex", "site"]
    assert choose_columns(metadata, None) == {}
    with pytest.raises(ConfigurationError, match="did you mean 'site'"):
        choose_columns(metadata, "sit")
    with pytest.raises(ConfigurationError, match="CSV"):
        choose_columns({}, "site")
    with pytest.raises(ConfigurationError, match="twice"):
        choose_columns(metadata, "site,site")


def test_a_column_of_another_length_is_refused():
    with pytest.raises(DataError, match="2 values for 80 pictures"):
        measure_subgroups(answered(np.arange(80) % 2, np.ones(80, bool)), {"site": ["A", "B"]})


def test_a_column_that_is_not_there_is_told_before_training(tmp_path):
    random = np.random.default_rng(8)
    for i in range(20):
        cv2.imwrite(str(tmp_path / f"{i}.png"), random.integers(0, 255, (8, 8)).astype(np.uint8))
    rows = "".join(f"{i}.png,{'ab'[i % 2]},{'xy'[i // 10]}\n" for i in range(20))
    (tmp_path / "labels.csv").write_text(f"path,label,site\n{rows}")
    words = [f"data.root={tmp_path}", "data.subgroup_columns=site"]
    config = compose(words).config
    data = assemble_data(config, str(tmp_path))
    chosen = choose_columns(data.part("test").metadata, config.data.subgroup_columns)
    assert [len(values) for values in chosen.values()] == [len(data.part("test"))]
    with pytest.raises(ConfigurationError, match="no column 'sex'"):
        assemble_data(compose([words[0], "data.subgroup_columns=site,sex"]).config, str(tmp_path))
