"""Words of a study, its arms and members as values, the chosen rate, the ranking."""

import pytest

from finetune.composition import compose
from finetune.errors import ConfigurationError
from finetune.study.files import find_study, list_studies
from finetune.study.plan import (
    Arm,
    Study,
    best_rate,
    cross,
    final_members,
    merge,
    rank_arms,
    search_members,
    total_members,
)
from finetune.study.words import read_numbers, read_study_words, split_values

NAMES = ["backbones", "freezing", "label_fraction", "learning_rates"]


@pytest.mark.parametrize(("key", "text", "values"), [
    ("seed", "0,1,2", ["0", "1", "2"]), ("seed", "range(1,4)", ["1", "2", "3"]),
    ("seed", "5", ["5"]), ("training.epochs", "choice(2,4)", ["2", "4"]),
    ("freezing.policy", "none,head_only", ["none", "head_only"]),
    ("optimizer.lr", "1e-3,0.01", ["0.001", "0.01"]),
    ("tracking.tags", "[a,b]", ["[a,b]"]), ("tracking.tags", "[a],[b]", ["[a]", "[b]"]),
    ("optimizer.stage_lrs", "{layer4:1e-3,layer3:1e-4}", ["{layer4:1e-3,layer3:1e-4}"]),
    ("data.root", "/a, b/c", ["/a, b/c"]), ("data.group_column", "patient,lesion",
                                            ["patient,lesion"]),
    ("data.class_order", "choice(a,b)", ["a", "b"]),
    ("data.class_order", "choice('a,b',\"b,a\")", ["a,b", "b,a"]),
    ("tracking.notes", "first, 'second'", ["first, 'second'"]),
    ("model.name", "resnet18, resnet50", ["resnet18", "resnet50"]),
    ("model.name", '"a,b",c', ["a,b", "c"]), ("model.name", '"a,b"', ["a,b"]),
    ("recipe", "medical,baseline", ["medical", "baseline"]),
    ("data.transform", "natural,mein:Prüfung", ["natural", "mein:Prüfung"]),
    ("unknown.key", "1,2", ["1,2"])])
def test_lists_are_hydras_and_texts_stay_whole(key, text, values):
    assert split_values(key, text) == values


def test_a_path_with_a_comma_that_exists_is_one_value(tmp_path):
    (tmp_path / "a,b.pth").write_text("")
    assert split_values("model.weights", f"{tmp_path}/a,b.pth") == [f"{tmp_path}/a,b.pth"]


@pytest.mark.parametrize("text", ["0,1,2", "[0,1,2]", "range(3)", "choice(0,1,2)"])
def test_numbers_are_read(text):
    assert read_numbers("study.seeds", text, int) == [0, 1, 2]


@pytest.mark.parametrize(("words", "told"), [
    (["-m", "seed=0,0"], "stands twice"), (["-m", "data.split_seed=0,1"], "one for all"),
    (["-m", "data.fold=1,2"], "one for all"),
    (["-m", "optimizer.lr=interval(1e-4,1)"], "intervals need hydra"),
    (["hydra/launcher=joblib", "seed=1"], "-m"), (["study=freezing", "study.sed=1"], "study.seeds"),
    (["-m", "hydra.run.dir=x", "seed=1"], "output_dir"), (["-m", "seed"], "no key=value")])
def test_words_that_make_no_study_are_refused(words, told):
    with pytest.raises(ConfigurationError, match=told):
        read_study_words(words)


def test_words_are_sorted_by_what_they_are_for():
    found = read_study_words(["--multirun", "recipe=medical", "seed=0,1", "data.root=a,b",
                              "hydra/launcher=joblib", "hydra/launcher.n_jobs=2",
                              "study.rates=1,2"])
    assert found.typed == {"recipe": "medical", "data.root": "a,b"}
    assert found.lists == {"seed": ["0", "1"]} and found.settings == {"study.rates": "1,2"}
    assert found.hydra == ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def test_every_combination_is_an_arm_with_a_folder_of_its_own():
    arms = cross({"full": ["a=1"], "head": ["a=2"]}, {"data.transform": ["x/y", "x:y"]})
    assert [arm.name for arm in arms] == ["full,transform=x/y", "full,transform=x:y",
                                          "head,transform=x/y", "head,transform=x:y"]
    assert arms[3].words == ["a=2", "data.transform=x:y"]
    assert len({arm.folder for arm in arms}) == 4 and "/" not in "".join(a.folder for a in arms)


def build(arms):
    return Study("s", [], {"recipe": "medical", "optimizer.lr": "1"}, arms[0].name, None,
                 [0.1, 1.0], [0, 1], [2], [], arms)


def test_members_are_the_search_of_each_arm_and_then_its_seeds():
    arms = cross({"full": ["freezing.policy=none"], "head": ["freezing.policy=head_only"]}, {})
    arms[0].lr, arms[0].searches = 0.003, True
    study = build(arms)
    study.settled = {"words": {"training.precision": "fp32"}, "threads": 1}
    searches, finals = search_members(study), final_members(study)
    assert total_members(study) == len(searches) + len(finals) == 6
    assert [m.rate for m in searches] == [0.0003, 0.003] and {m.seed for m in searches} == {2}
    assert searches[0].words == [
        "tracking.job_type=full search", "recipe=medical", "training.precision=fp32",
        "freezing.policy=none", "seed=2", "optimizer.lr=0.0003", "data.measure_test=false"]
    assert all("data.measure_test=false" not in m.words for m in finals)
    assert "optimizer.lr=1" in finals[0].words and (finals[0].path, finals[0].role) == (
        "full-seed-0", "final")
    assert Study.from_dict(study.to_dict()) == study


@pytest.mark.parametrize(("results", "metric", "best"), [
    ({0.1: (0.7, 1.0), 0.3: (0.9, 1.0), 1.0: (0.8, 1.0)}, "accuracy", (0.3, None)),
    ({0.1: (0.9, 1.0), 0.3: (0.9, 0.5), 1.0: (0.8, 0.1)}, "accuracy", (0.3, None)),
    ({0.1: (0.9, 1.0), 0.3: (0.9, 1.0)}, "accuracy", (0.1, "lowest")),
    ({0.1: (0.9, 1.0), 0.3: (0.7, 1.0)}, "log_loss", (0.3, None)),
    ({0.1: (0.9, 1.0), 1.0: (0.95, 1.0)}, "accuracy", (1.0, "highest")),
    ({0.1: (None, None), 0.3: (0.5, None), 1.0: (None, None)}, "accuracy", (0.3, None)),
    ({0.1: (None, None)}, "accuracy", None)])
def test_the_best_rate_and_whether_the_grid_ends_there(results, metric, best):
    assert best_rate(results, metric=metric, grid=[0.1, 0.3, 1.0]) == best


def test_arms_are_ranked_by_the_mean_of_their_seeds_in_the_metrics_direction():
    def arms():
        return [Arm(name, name, [], values=dict(zip("01", values, strict=True))) for name, values in
                {"a": (0.5, 0.7), "b": (0.9, None), "c": (None, None)}.items()]

    assert [arm.name for arm in rank_arms(arms(), "accuracy")] == ["b", "a", "c"]
    ranked = rank_arms(arms(), "log_loss")
    assert [(arm.name, arm.rank) for arm in ranked] == [("a", 1), ("b", 2), ("c", None)]
    assert ranked[0].std == pytest.approx(0.02 ** 0.5) and ranked[1].std is None


def test_later_words_win():
    assert merge({"a": "1", "b": "2"}, ["a=3=4"]) == ["b=2", "a=3=4"]


# ---- prepared studies

def test_all_studies_are_found():
    assert sorted(list_studies()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_prepared_study_composes_and_says_what_it_is_for(name):
    study, values = find_study(name), find_study(name).values()
    header = [line for line in study.text.splitlines() if line.startswith("#")]
    assert len(header) >= 3 and "arXiv" in " ".join(header) and study.summary
    assert 10 <= len(study.text.splitlines()) <= 30
    assert values.reference in values.arms and len(values.rates) >= 4 and 1 in values.rates
    for words in values.arms.values():
        assert compose(["recipe=medical", "data.root=r", *merge(values.common, words)])


@pytest.mark.parametrize(("text", "told"), [
    ("arms: [a]", "expected arms"), ("arms: {a: b=1}", "arm a"), ("x: 1\narms: {}", "unknown key"),
    ("arms: {a: []}\nreference: b", "no arm"), ("arms: {a: []}\nseeds: [x]", "numbers"),
    ("arms: {a: [}", "can't be read"), ("arms: {a: []}\narms: {}", "stands twice")])
def test_a_broken_study_file_is_told(text, told, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        find_study(str(tmp_path / "s.yaml")).values()


def test_a_study_of_ones_own_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("# Mine\narms: {a: []}")
    monkeypatch.setenv("FINETUNE_STUDY_PATH", str(tmp_path))
    assert find_study("mine").summary == "Mine"
    with pytest.raises(ConfigurationError, match="did you mean 'freezing'"):
        find_study("freezin")


def test_a_study_that_cannot_be_read_does_not_hide_the_others(tmp_path, monkeypatch):
    (tmp_path / "broken.yaml").write_bytes(b"# caf\xe9")
    monkeypatch.setenv("FINETUNE_STUDY_PATH", str(tmp_path))
    told = {name: study.summary for name, study in list_studies().items()}
    assert told["broken"] == "(can't be read)" and told["freezing"].startswith("How much to freeze")
    with pytest.raises(ConfigurationError, match="broken"):
        find_study("broken").values()
