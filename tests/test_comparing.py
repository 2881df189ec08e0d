"""compare: finished runs in, a verdict out, from their directories alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
from run_builder import build_run
from statistics_of import drawn, several

from finetune.__main__ import main
from finetune.comparison.comparing import compare
from finetune.comparison.facts import pareto_front
from finetune.comparison.runs import group_methods, list_members, read_runs
from finetune.errors import ConfigurationError, DataError, InputError
from finetune.evaluation.intervals import compute_intervals
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions
from finetune.specs import LabelKind, LabelSpec

NAMES = ("cat", "dog", "owl")


def train(folder, *, policy="none", seed=0, noise=1.0, count=240, names=NAMES, multi=False,
          groups=None, shuffle=False, part="test", ids=None, labels=None, precision="fp32", **more):
    """A finished run whose answers get worse by noise; all of them are of the same pictures."""
    build_run(folder, names, count=20, part=part, multi=multi, seed=seed,
              **{"hardware": {"machine": "x86_64", "device": "cpu"}, **more})
    config = f"recipe: medical\nseed: {seed}\nfreezing: {{policy: {policy}}}\n"
    (folder / "config.yaml").write_text(
        config + f"model: {{name: resnet50}}\ntraining: {{precision: {precision}}}\n")
    logits, truth = (several if multi else drawn)(count, len(names), seed=1)
    own = np.random.default_rng([seed, len(policy), int(100 * noise)])
    logits = logits + noise * own.normal(size=logits.shape)
    order = own.permutation(count) if shuffle else np.arange(count)
    kind = LabelKind.multi if multi else LabelKind.single
    given = Predictions([(ids or [f"{i:03d}.png" for i in range(count)])[i] for i in order],
                        (truth if labels is None else labels)[order],
                        logits[order].astype(np.float32), LabelSpec(kind, tuple(names)),
                        None if groups is None else [groups[i] for i in order])
    given.save(folder / "predictions" / f"{part}.npz")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics[part] = compute_metrics(given)
    metrics["intervals"] = {part: compute_intervals(given, metrics[part], resamples=100)}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def compared(*runs, **options):
    output = runs[0].parent / "out"
    path = compare([str(run) for run in runs], output=output, **options)
    return json.loads(path.read_text())


@pytest.fixture
def two(tmp_path):
    return (train(tmp_path / "a", policy="none", noise=0.3),
            train(tmp_path / "b", policy="gradual", noise=3.0))


def test_one_run_a_side_compares_models_and_says_that_retraining_may_reverse_it(two, capsys):
    found = compared(*two, metric="accuracy")
    (pair,) = found["comparisons"]
    assert (pair["first"], pair["second"]) == ("policy=gradual", "policy=none")
    assert pair["kind"] == "runs" and pair["runs"] == [1, 1]
    entry = pair["metrics"]["accuracy"]
    values = [json.loads((run / "metrics.json").read_text())["test"]["accuracy"] for run in two]
    assert entry["value"] == pytest.approx(values[1] - values[0])
    assert entry["verdict"]["kind"] == "worse" and entry["low"] < entry["value"] < entry["high"] < 0
    assert entry["test"].startswith("mcnemar") and pair["tests"]["mcnemar"]["p"] == entry["p"]
    assert pair["metrics"]["roc_auc"]["test"] == "delong"
    assert pair["metrics"]["log_loss"]["verdict"]["words"].startswith("worse by")
    told = capsys.readouterr().out
    assert "Retraining may reverse it" in told and "accuracy: worse by" in told


def test_changed_pictures_are_counted_and_named(two):
    found = compared(*two)
    changed = found["comparisons"][0]["changed"]
    mcnemar = found["comparisons"][0]["tests"]["mcnemar"]
    assert changed["counts"]["won"] == mcnemar["first_only"] > 0
    assert changed["counts"]["lost"] == mcnemar["second_only"] > 0
    assert sum(changed["counts"].values()) == found["pictures"] == 240
    row = next(row for row in changed["pictures"] if row["change"] == "lost")
    assert row["second"] == {"right": 1.0, "answers": {row["label"]: 1}}
    assert row["label"] not in row["first"]["answers"]


def test_runs_that_differ_in_their_seed_alone_are_one_method(tmp_path, capsys):
    runs = [train(tmp_path / f"{policy}-{seed}", policy=policy, seed=seed, noise=noise)
            for policy, noise in (("none", 0.3), ("gradual", 3.0)) for seed in (0, 1, 2)]
    found = compared(*runs)
    assert [row["seeds"] for row in found["methods"]] == [[0, 1, 2]] * 2
    (pair,) = found["comparisons"]
    assert pair["kind"] == "methods" and pair["runs"] == [3, 3]
    entry, rows = pair["metrics"]["macro_f1"], found["methods"]
    means = [np.mean([run["value"] for run in row["runs"]]) for row in rows]
    assert entry["value"] == pytest.approx(means[1] - means[0])
    assert rows[0]["metrics"]["macro_f1"]["std"] > 0
    assert entry["test"] == "crossed, satterthwaite" and entry["verdict"]["kind"] == "worse"
    assert "Retraining" not in capsys.readouterr().out
    row = pair["changed"]["pictures"][0]
    assert sum(row["first"]["answers"].values()) == 3


def test_one_run_against_several_is_told(tmp_path):
    runs = [train(tmp_path / f"a{seed}", seed=seed) for seed in (0, 1, 2)]
    single = train(tmp_path / "b", policy="gradual")
    (pair,) = compared(*runs, single)["comparisons"]
    assert pair["kind"] == "methods" and "has one run" in pair["notes"][0]


def test_order_of_pictures_does_not_matter(tmp_path):
    runs = [train(tmp_path / "a"), train(tmp_path / "b", policy="gradual")]
    before = compared(*runs)
    train(tmp_path / "b", policy="gradual", shuffle=True)
    after = compared(*runs)["comparisons"][0]["metrics"]
    assert set(after) == set(before["comparisons"][0]["metrics"])
    shuffled = read_runs(list_members(runs[1])[0])[0].predictions
    assert shuffled.ids == sorted(shuffled.ids)


def refused(error, *runs, **options):
    with pytest.raises(error) as caught:
        compare([str(run) for run in runs], **options)
    return str(caught.value)


def test_other_pictures_labels_classes_and_kinds_are_refused_by_name(tmp_path):
    first = train(tmp_path / "a")
    ids = ["new.png", *(f"{i:03d}.png" for i in range(1, 240))]
    told = refused(DataError, first, train(tmp_path / "b", ids=ids))
    assert "1 are only in it (new.png), 1 are lacking (000.png)" in told and "/b" in told
    labels = drawn(240, 3, seed=1)[1]
    labels[5] = (labels[5] + 1) % 3
    told = refused(DataError, first, train(tmp_path / "c", labels=labels))
    assert "1 pictures have other labels (005.png)" in told
    told = refused(DataError, first, train(tmp_path / "d", names=("dog", "cat", "owl")))
    assert "another order: dog, cat, owl; expected cat, dog, owl" in told
    told = refused(DataError, first, train(tmp_path / "e", names=("cat", "dog", "elk")))
    assert "other classes" in told
    told = refused(DataError, first, train(tmp_path / "f", multi=True))
    assert "of kind multi, not single" in told


def test_rehearsals_are_compared_with_rehearsals_only(tmp_path, capsys):
    rehearsals = [train(tmp_path / name, policy=name, rehearsal={"replaced": {}})
                  for name in ("none", "gradual")]
    told = refused(InputError, rehearsals[0], train(tmp_path / "real"))
    assert "is a rehearsal" in told
    assert compared(*rehearsals)["rehearsal"] is True
    assert "nothing here says anything of real data" in capsys.readouterr().out


def test_one_run_unfinished_runs_and_broken_ones_are_refused_all_at_once(tmp_path):
    first = train(tmp_path / "a")
    assert "one run only" in refused(InputError, first)
    assert "one run only" in refused(InputError, first, first)
    begun, broken = train(tmp_path / "b"), train(tmp_path / "c")
    (begun / "metrics.json").unlink()
    assert "none of its 1 runs is finished" not in refused(InputError, first, begun)
    assert f"resume {begun}" in refused(InputError, first, begun)
    (broken / "metrics.json").write_text("{")
    told = refused(InputError, first, begun, broken)
    assert "can't be read" in told and "not finished" in told
    (broken / "metrics.json").write_text('{"test": {}}')
    (broken / "predictions" / "test.npz").write_bytes(b"x")
    assert "not a file of predictions" in refused(InputError, first, broken)
    assert "no run in" in refused(InputError, first, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no finished run" in refused(InputError, tmp_path / "empty")


def test_test_pictures_are_not_compared_with_validation_pictures(tmp_path):
    first, second = train(tmp_path / "a"), train(tmp_path / "b", part="val")
    assert "no test part was measured" in refused(InputError, first, second)
    other = train(tmp_path / "c", part="val", policy="gradual")
    assert any("also chose the epochs" in note for note in compared(second, other)["notes"])


def test_a_repeated_seed_is_no_second_draw(tmp_path):
    runs = [train(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    other = train(tmp_path / "d", policy="gradual")
    found = compared(*runs, other)
    assert found["methods"][0]["seeds"] == [0, 1]
    assert any("repeats seed 0" in note for note in found["notes"])
    assert "one run only is left" in refused(InputError, *runs[:2])


def test_two_seeds_of_one_method_are_two_models_and_three_a_spread(tmp_path, capsys):
    runs = [train(tmp_path / str(seed), seed=seed) for seed in (0, 1, 2)]
    found = compared(*runs[:2])
    assert [row["name"] for row in found["methods"]] == ["seed=0", "seed=1"]
    assert found["comparisons"][0]["kind"] == "runs"
    found = compared(*runs)
    assert found["comparisons"] == [] and found["methods"][0]["metrics"]["accuracy"]["std"] > 0
    assert "only its spread over seeds" in capsys.readouterr().out


def test_measured_arithmetic_makes_no_method_but_is_flagged_and_typed_one_does(tmp_path):
    runs = [train(tmp_path / "a", seed=0), train(tmp_path / "b", seed=1, precision="bf16"),
            train(tmp_path / "c", policy="gradual")]
    found = compared(*runs)
    assert [row["seeds"] for row in found["methods"]] == [[0, 1], [0]]
    assert [flag["kind"] for flag in found["flags"]] == ["arithmetic"]
    words = "python -m finetune training.precision="
    typed = [train(tmp_path / p, precision=p, command=words + p) for p in ("fp32", "bf16")]
    assert [row["name"] for row in compared(*typed)["methods"]] == [
        "precision=fp32", "precision=bf16"]


def test_equal_answers_are_called_so(tmp_path):
    """Whatever the seed, as an exact fit gives them."""
    runs = [train(tmp_path / f"{p}{s}", policy=p, seed=s, noise=0.0)
            for p in ("none", "gradual") for s in (0, 1)]
    (pair,) = compared(*runs, metric="accuracy")["comparisons"]
    assert pair["metrics"]["accuracy"]["verdict"] == {
        "kind": "same", "words": "no picture tells them apart"}
    assert pair["metrics"]["accuracy"]["p"] == 1 and pair["changed"]["pictures"] == []
    (pair,) = compared(runs[0], runs[2], metric="accuracy")["comparisons"]
    assert pair["metrics"]["accuracy"]["verdict"]["kind"] == "alike"
    assert pair["metrics"]["accuracy"]["low"] < 0 < pair["metrics"]["accuracy"]["high"]


def test_holm_counts_the_comparisons_and_a_reference_makes_them_fewer(tmp_path):
    runs = [train(tmp_path / policy, policy=policy, noise=noise) for policy, noise in
            (("none", 0.5), ("gradual", 0.6), ("head_only", 2.0))]
    found = compared(*runs)["comparisons"]
    assert len(found) == 3
    values = [pair["metrics"]["accuracy"]["p"] for pair in found]
    corrected = [pair["metrics"]["accuracy"]["p_holm"] for pair in found]
    assert min(corrected) == pytest.approx(min(1, 3 * min(values)))
    for reference in ("policy=gradual", str(runs[1]), "gradual"):
        found = compared(*runs, reference=reference)["comparisons"]
        assert [(p["first"], p["second"]) for p in found] == [
            ("policy=none", "policy=gradual"), ("policy=head_only", "policy=gradual")]
    told = refused(ConfigurationError, *runs, reference="policy=gradul")
    assert "did you mean 'policy=gradual'" in told


def test_the_metric_is_one_that_all_have(two):
    told = refused(ConfigurationError, *two, metric="acuracy")
    assert "did you mean 'accuracy'" in told
    assert "quadratic_kappa" not in told  # these labels have none
    assert "between 0.5 and 1" in refused(ConfigurationError, *two, confidence=95)


def test_groups_widen_the_interval(tmp_path):
    count = 240
    groups = [f"p{i // 8}" for i in range(count)]
    plain = [train(tmp_path / n, policy=n, noise=s) for n, s in (("none", 0.5), ("gradual", 2.0))]
    own = [train(tmp_path / f"{n}g", policy=n, noise=s, groups=groups)
           for n, s in (("none", 0.5), ("gradual", 2.0))]
    one, other = compared(*plain), compared(*own)
    assert (one["groups"], other["groups"]) == (None, 30)
    pair = other["comparisons"][0]
    assert pair["metrics"]["accuracy"]["clusters"] == 30
    assert "signs of clusters" in pair["tests"]["mcnemar"]["test"] or (
        "obuchowski" in pair["tests"]["mcnemar"]["test"])


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_group_or_picture_tells_nothing_of_others(seeds, tmp_path):
    runs = [train(tmp_path / f"{policy}{seed}", policy=policy, seed=seed, count=30,
                  groups=["p"] * 30) for policy in ("none", "gradual") for seed in range(seeds)]
    assert "test part is one group" in refused(InputError, *runs)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("multi", [False, True])
def test_intervals_of_eight_pictures_stay_within_what_is_possible(seeds, multi, tmp_path):
    runs = [train(tmp_path / f"{policy}{seed}", policy=policy, seed=seed, count=8, multi=multi,
                  noise=noise)
            for policy, noise in (("none", 0.1), ("gradual", 9.0)) for seed in range(seeds)]
    found = compared(*runs, metric="accuracy")
    for entry in found["comparisons"][0]["metrics"].values():
        assert entry["freedom"] >= 2 and "e+" not in entry["verdict"]["words"]
    of = found["comparisons"][0]["metrics"] | found["comparisons"][0]["per_class"]["0"]
    for name in of.keys() & {"accuracy", "macro_f1", "roc_auc", "recall", "precision", "f1"}:
        assert -1 <= of[name]["low"] <= of[name]["high"] <= 1, name
    for row in found["methods"]:
        assert 0 <= row["metrics"]["accuracy"]["low"] < row["metrics"]["accuracy"]["high"] <= 1


def test_a_method_without_a_mistake_is_not_known_to_make_none(tmp_path):
    runs = [train(tmp_path / f"{policy}{seed}", policy=policy, seed=seed, count=30, noise=noise,
                  labels=None if noise else drawn(30, 3, seed=1)[0].argmax(axis=1))
            for policy, noise in (("none", 0.0), ("gradual", 0.0)) for seed in (0, 1)]
    entry = compared(*runs, metric="accuracy")["methods"][0]["metrics"]["accuracy"]
    assert entry["mean"] == 1 and 0.8 < entry["low"] < 0.95 and entry["high"] == 1


def test_several_labels_a_picture_are_compared(tmp_path):
    runs = [train(tmp_path / n, policy=n, noise=s, multi=True)
            for n, s in (("none", 0.3), ("gradual", 3.0))]
    found = compared(*runs)
    (pair,) = found["comparisons"]
    assert pair["metrics"]["micro_f1"]["verdict"]["kind"] == "worse"
    assert set(pair["per_class"]["0"]) >= {"recall", "f1", "roc_auc"}


def test_what_is_no_method_but_differs_is_flagged(tmp_path, capsys):
    runs = [train(tmp_path / "a"),
            train(tmp_path / "b", policy="gradual", threads=8, data={"fingerprint": "e11"},
                  versions={"python": "3.11", "torch": "2.15"},
                  hardware={"machine": "arm64", "device": "cpu"})]
    kinds = {flag["kind"]: flag["text"] for flag in compared(*runs)["flags"]}
    assert set(kinds) == {"data", "arithmetic", "versions", "hardware"}
    assert kinds["versions"] == "torch differs: 2.14 (a); 2.15 (b)"
    assert "torch differs" in capsys.readouterr().err


def test_cost_curves_and_the_front_are_there(two):
    found = compared(*two)
    row = found["methods"][0]
    assert row["cost"]["seconds"] == 3.0 and row["cost"]["parameters"] == 23_500_000
    assert row["cost"]["trained_parameters"] == 6000 and row["cost"]["peak_memory_mb"] is None
    assert [e["epoch"] for e in row["runs"][0]["curve"]] == [1, 2, 3]
    assert "macro_f1" in row["runs"][0]["curve"][0]["val"]
    assert found["front"]["seconds"] == ["policy=none"]
    assert pareto_front({"a": 1.0, "b": None}, {"a": 1.0, "b": 0.5}) == ["a"]


def study(folder, members, **more):
    rows = [{"path": name, "arm": arm, "role": role, "seed": seed}
            for name, arm, role, seed in members]
    (folder / "study.json").write_text(json.dumps({"members": rows, **more}))
    return folder


def test_a_studys_final_runs_are_compared_under_its_names(tmp_path):
    members = []
    for arm, noise in (("none", 1.0), ("gradual", 0.3), ("head_only", 3.0)):
        for seed in (0, 1):
            train(tmp_path / f"{arm}-{seed}", policy=arm, seed=seed, noise=noise)
            members.append((f"{arm}-{seed}", f"arm {arm}", "final", seed))
        train(tmp_path / f"search-{arm}", policy=arm, seed=9)
        members.append((f"search-{arm}", f"arm {arm}", "search", 9))
    folder = study(tmp_path, [*members, ("lost", "arm none", "final", 5)],
                   chosen="arm gradual", reference="arm none")
    found = json.loads(compare([str(folder)], metric="accuracy").read_text())
    names = ["arm none", "arm gradual", "arm head_only"]
    assert [row["name"] for row in found["methods"]] == names
    assert all(row["seeds"] == [0, 1] for row in found["methods"])
    (pair,) = found["comparisons"]
    assert (pair["first"], pair["second"]) == ("arm gradual", "arm none")
    assert any("3 runs that searched" in note for note in found["notes"])
    assert any("not finished" in note and "lost" in note for note in found["notes"])
    ranks = {"arm none": 1, "arm head_only": 2, "arm gradual": 3}
    study(tmp_path, members, chosen="arm none", reference="arm none",
          arms=[{"name": name, "rank": rank} for name, rank in ranks.items()])
    (pair,) = json.loads(compare([str(folder)]).read_text())["comparisons"]
    assert (pair["first"], pair["second"]) == ("arm head_only", "arm none")
    path = compare([str(folder)], reference="arm none")
    assert path.parent.parent == folder and path.parent.name.startswith("comparison-")
    assert len(json.loads(path.read_text())["comparisons"]) == 2


def test_a_broken_study_and_one_whose_members_failed_are_refused(tmp_path):
    (tmp_path / "study.json").write_text("[")
    assert "can't be read" in refused(InputError, tmp_path)
    study(tmp_path, [("gone", "a", "final", 0)])
    assert "none of its 1 runs is finished" in refused(InputError, tmp_path)


def test_runs_of_any_folder_are_found_and_runs_inside_runs_are_not(tmp_path):
    train(tmp_path / "x" / "a")
    train(tmp_path / "b", policy="gradual")
    train(tmp_path / "b" / "random_split")
    members, notes = list_members(tmp_path)
    assert [m.path.name for m in members] == ["b", "a"] and notes == []


def test_methods_of_equal_name_are_told_apart(tmp_path):
    runs = read_runs([m for name, policy in (("a", "x" * 90), ("b", "y" * 90))
                      for m in list_members(train(tmp_path / name, policy=policy))[0]])
    methods, _ = group_methods(runs)
    assert [method.name for method in methods] == ["a", "b"]


def test_the_file_is_standard_json_and_lies_beside_the_first_run(two):
    path = compare([str(run) for run in two])
    assert path.parent.parent == two[0].parent

    def refuse(word):
        raise AssertionError(word)

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found["schema"] == 1 and found["higher_is_better"] is True
    assert {"methods", "comparisons", "flags", "notes", "front", "classes"} <= set(found)


def test_the_command_exits_with_two_where_runs_cant_be_compared(two, capsys):
    assert main(["compare", *map(str, two), "--metric", "accuracy", "--output",
                 str(two[0].parent / "o")]) == 0
    assert (two[0].parent / "o" / "comparison.json").exists()
    assert "worse by" in capsys.readouterr().out
    assert main(["compare", str(two[0])]) == 2
    assert main(["compare"]) == 2
    assert "one run only" in capsys.readouterr().err


def test_comparing_needs_no_torch(two):
    heavy = {"torch", "torchvision", "timm", "albumentations", "sklearn", "wandb"}
    code = ("import sys; from finetune.__main__ import main; "
            f"code = main(['compare', *sys.argv[1:]]); print(code, set(sys.modules) & {heavy!r})")
    done = subprocess.run([sys.executable, "-c", code, *map(str, two)], capture_output=True,
                          text=True, check=True)
    assert done.stdout.strip().endswith("0 set()")
