from pathlib import Path

import numpy as np
import pytest
import yaml

from finetune.composition import compose, dump_config, load_config, override
from finetune.config import FreezingPolicy, Resize
from finetune.errors import ConfigurationError
from finetune.models.architectures import ARCHITECTURES
from finetune.values import known_keys


def problems(*words):
    with pytest.raises(ConfigurationError) as caught:
        compose(words)
    return str(caught.value)


@pytest.mark.parametrize("text", [
    "/a b/ü [1], b=c?'x'", "it's", "back\\", "a\\'b", "${oc.env:HOME}", "a\\${b", "",
    r"^(\d+)_.*\.png$", "{a:b}", "null ", "https://host/a?b=c&d=e#f", "肺炎", '"quoted"', "1e5"])
def test_text_is_taken_literally(text, tmp_path):
    config = compose(["data.root=r", f"data.group_from={text}"]).config
    assert config.data.group_from == text
    (tmp_path / "c.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "c.yaml") == config


def test_a_tilde_in_a_path_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert compose(["data.root=~/x"]).config.data.root == "/home/somebody/x"
    assert compose(["data.root=r", "tracking.notes=~/x"]).config.tracking.notes == "~/x"


def test_precedence_is_schema_recipe_rehearsal_command_line():
    assert compose(["data.root=r"]).config.data.resize is Resize.squash
    medical = compose(["recipe=medical", "data.root=r"]).config
    assert medical.data.resize is Resize.pad and medical.model.name == "resnet50.a1_in1k"
    rehearsal = compose(["recipe=medical"])
    assert rehearsal.config.model.name == "resnet12_wide"
    assert rehearsal.config.model.weights == "bundled" and rehearsal.config.data.image_size == 32
    assert rehearsal.config.freezing.policy is FreezingPolicy.head_then_all
    typed = compose(["recipe=medical", "model.name=resnet18", "training.epochs=2",
                     "data.resize=squash"]).config
    assert (typed.model.name, typed.training.epochs, typed.data.resize) == ("resnet18", 2, "squash")


def test_a_rehearsal_takes_another_network_or_start_when_asked():
    other = compose(["recipe=medical", "model.name=resnet10t"])
    assert (other.config.model.name, other.config.model.weights) == ("resnet10t", None)
    assert other.replaced["model.weights"] == ("pretrained", None)
    random = compose(["recipe=medical", "model.weights=null"]).config.model
    assert (random.name, random.weights) == ("resnet12_wide", None)
    assert compose(["recipe=pretrain_small"]).config.model.weights is None


def test_a_rehearsal_lists_what_it_replaced_and_nothing_else():
    composed = compose(["recipe=medical", "training.epochs=2"])
    assert composed.replaced == {
        "model.name": ("resnet50.a1_in1k", "resnet12_wide"),
        "model.weights": ("pretrained", "bundled"), "data.image_size": (None, 32),
        "data.batch_size": (32, 8)}
    assert compose(["recipe=medical", "data.root=r"]).replaced is None


def test_all_problems_come_at_once_with_near_names():
    text = problems("recipe=medicl", "sead=1", "training.epochs=x", "data.resize=padd", "+new=1")
    for part in ("'medical'", "did you mean seed", "whole number", "'pad'", "new=1"):
        assert part in text


@pytest.mark.parametrize(("word", "told"), [
    ("optimizer.lr=0", "more than 0"), ("training.epochs=0", "at least 1"),
    ("data.val_fraction=1", "less than 1"), ("seed=-1", "at least 0"),
    ("training.ema_decay=1", "less than 1"), ("data.batch_size=1", "at least 2")])
def test_values_out_of_range_are_told_with_the_range(word, told):
    assert told in problems("data.root=r", word)


def test_a_table_that_would_not_be_read_is_told():
    told = problems("data.root=.", "data.labels_file=a.csv", "data.format=folders")
    assert "data.labels_file=a.csv does nothing with data.format=folders" in told


def test_contradictions_are_told():
    assert "freezing.below" in problems("freezing.policy=below")
    assert "freezing.phases" in problems("freezing.policy=phases")
    assert "does nothing" in problems("freezing.below=layer4")
    assert "data.waiver" in problems("data.root=r", "data.duplicates=allow")
    assert "does nothing" in problems("data.root=r", "data.waiver=why")


def test_lists_and_mappings_are_read():
    config = compose(["data.root=r", "freezing.policy=phases", "tracking.tags=[a,b]",
                      "freezing.phases=[{epochs:2,depths:head},{depths:all,lr:1e-4}]",
                      "optimizer.stage_lrs={layer4:1e-4}"]).config
    assert [(p.epochs, p.depths, p.lr) for p in config.freezing.phases] == [
        (2, "head", None), (1, "all", 1e-4)]
    assert config.optimizer.stage_lrs == {"layer4": 1e-4} and config.tracking.tags == ["a", "b"]


@pytest.mark.parametrize("word", ["data.root=", "data.splits_file=s.csv", "data.group_from=x",
                                  "data.labels_file=a.csv", "data.format=csv"])
def test_half_a_data_source_is_an_error_never_a_rehearsal(word):
    assert word.split("=")[0] in problems(word)


def test_several_values_need_m():
    assert "-m" in problems("seed=1,2")


@pytest.mark.parametrize("weights", ARCHITECTURES)
@pytest.mark.parametrize("words", [[], ["data.root=r"]])
def test_weights_that_bring_their_own_network_take_no_other(weights, words):
    told = problems(f"model.weights={weights}", "model.name=resnet18", *words)
    expected = f"brings its own network, {ARCHITECTURES[weights]}: leave out model.name=resnet18"
    assert expected in told


@pytest.mark.parametrize("weights", ARCHITECTURES)
@pytest.mark.parametrize("words", [[], ["data.root=r"]])
@pytest.mark.parametrize("recipe", ["recipe=null", "recipe=medical"])
def test_the_network_of_the_weights_stands_in_the_configuration(weights, words, recipe):
    name = ARCHITECTURES[weights]
    composed = compose([recipe, f"model.weights={weights}", *words])
    assert (composed.config.model.name, composed.config.model.weights) == (name, weights)
    typed = compose([recipe, f"model.weights={weights}", f"model.name={name}", *words])
    assert typed.config == composed.config
    if composed.replaced is not None:
        assert composed.replaced["model.name"][1] == name and not composed.notes
    else:
        assert any(name in note for note in composed.notes) == (recipe == "recipe=medical")


def test_a_name_typed_beside_a_recipes_own_weights_is_an_error(tmp_path):
    word = recipe_file(tmp_path, "model: {weights: packaged}\n")
    assert compose([word, "data.root=r"]).config.model.name == "tf_efficientnet_lite0"
    assert "brings its own network" in problems(word, "data.root=r", "model.name=resnet18")
    plain = compose([word, "data.root=r", "model.name=resnet18", "model.weights=null"]).config
    assert (plain.model.name, plain.model.weights) == ("resnet18", None)


def test_ranges_are_told_beside_unknown_keys_and_recipes():
    told = problems("recipe=medicl", "sead=1", "training.epochs=0", "optimizer.lr=nan")
    for part in ("'medical'", "seed", "training.epochs=0", "optimizer.lr=nan"):
        assert part in told


def test_names_are_checked_beside_everything_else():
    def check(config, keys):
        assert config.model.name == "resnt" and "model.name" in keys
        return ["no network resnt"]

    with pytest.raises(ConfigurationError) as caught:
        compose(["sead=1", "model.name=resnt"], check_names=check)
    assert "seed" in str(caught.value) and "no network resnt" in str(caught.value)


@pytest.mark.parametrize(("word", "told"), [
    ("data.root", "is no key=value"), ("=5", "is no key=value"), ("~seed", "added or removed"),
    ("seed==3", "expected a whole number"), ("seed=1e3", "seed=1e3: expected a whole number"),
    ("seed=null", "seed=null: expected a whole number"), ("SEED=1", "did you mean seed?"),
    ("batch_size=3", "did you mean data.batch_size?"), ("model=resnet18", "model.name"),
    ("recipe=", "recipe= is empty"), ("output_dir=", "expected a text"),
    ("model.name=null", "expected a text"), ("tracking.tags=a", "[first,second]"),
    ("optimizer.stage_lrs={head:nan}", "head=nan"),
    ("optimizer.stage_lrs={head:x}", "{layer4:1e-3"),
    ("freezing.phases=[{epoch:2}]", "'epoch' is none of epochs, depths, lr"),
    ("freezing.phases=[{lr:nan}]", "lr above 0")])
def test_one_problem_is_told_once_in_the_words_that_were_typed(word, told):
    text = problems(word)
    assert told in text and len(text.splitlines()) == 1


def test_a_depth_can_be_a_number_and_tags_any_text():
    config = compose(["optimizer.stage_lrs={1:1e-4}", "tracking.tags=[ä, b c,3]"]).config
    assert config.optimizer.stage_lrs == {"1": 1e-4} and config.tracking.tags == ["ä", "b c", "3"]


def test_a_repeated_key_is_said_and_the_last_counts():
    composed = compose(["seed=1", "seed=2"])
    assert composed.config.seed == 2 and "seed=2" in composed.notes[0]
    assert compose(["seed=1"]).notes == ()


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("data.root", Path("a b/ü"), "a b/ü"), ("seed", np.int64(3), 3),
    ("optimizer.lr", np.float32(0.5), 0.5), ("data.resize", Resize.pad, Resize.pad),
    ("tracking.tags", ["a, b", 'c"d\\', "null"], ["a, b", 'c"d\\', "null"]),
    ("optimizer.stage_lrs", {"layer4": 0.1, 2: np.float64(0.2)}, {"layer4": 0.1, "2": 0.2}),
    ("training.ema_decay", None, None), ("data.waiver", None, None)])
def test_values_from_python_arrive_as_they_are(key, value, expected):
    word = override(key, value)
    config = compose([word] if key == "data.root" else ["data.root=r", word]).config
    for part in key.split("."):
        config = getattr(config, part)
    assert config == expected


def test_a_value_that_no_key_takes_is_told():
    with pytest.raises(ConfigurationError, match="a object can't be a value"):
        override("seed", object())


def recipe_file(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return f"recipe={path}"


def test_texts_in_a_recipe_are_literal_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = compose([recipe_file(tmp_path, """
data: {root: ~/x, group_from: '(\\d+)_\\${a}', waiver: 'a ${b}', duplicates: allow}
tracking: {tags: ['a, b', ü]}
optimizer: {stage_lrs: {1: 1.0e-4}}
model:
""")]).config
    assert config.data.root == "/home/somebody/x" and config.data.waiver == "a ${b}"
    assert config.data.group_from == r"(\d+)_\${a}" and config.tracking.tags == ["a, b", "ü"]
    assert config.optimizer.stage_lrs == {"1": 1e-4}


@pytest.mark.parametrize("name", ["null.yaml", "nan.yaml", "ünï.yaml", "a,b=c.yaml", "1.yaml"])
def test_a_recipe_file_may_have_any_name(name, tmp_path):
    config = compose([recipe_file(tmp_path, "seed: 4\n", name), "data.root=r"]).config
    assert config.seed == 4 and config.recipe == name.removesuffix(".yaml")


def test_every_problem_of_a_recipe_names_its_file(tmp_path):
    told = problems(recipe_file(tmp_path, """
data: {rot: x, transform: no}
training: {epochs: 0}
optimizer: {lr: .nan, layer_decay: high}
"""), "sead=1").splitlines()
    assert len(told) == 6 and sum("in recipe mine.yaml" in line for line in told) == 5


def test_a_rehearsal_leaves_out_where_a_recipe_finds_its_own_data(tmp_path):
    word = recipe_file(tmp_path, "data: {labels_file: a.csv, label_column: diagnosis}\n")
    rehearsal = compose([word])
    assert rehearsal.config.data.labels_file is None
    assert rehearsal.replaced["data.label_column"] == ("diagnosis", "label")
    assert compose([word, "data.root=r"]).config.data.label_column == "diagnosis"


def test_the_configuration_of_a_run_is_a_recipe(tmp_path):
    config = compose(["recipe=medical", "data.root=a ${b}", "optimizer.stage_lrs={1:1e-4}"]).config
    assert compose([recipe_file(tmp_path, dump_config(config), "config.yaml")]).config == config


def test_a_recipe_file_of_ones_own_is_checked_too(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\ntraining:\n  epochs: 3\n")
    assert compose([f"recipe={path}", "data.root=r"]).config.training.epochs == 3
    assert compose([f"recipe={path}", "data.root=r"]).config.recipe == "mine"
    monkeypatch.setenv("FINETUNE_RECIPE_PATH", str(tmp_path))
    assert compose(["recipe=mine", "data.root=r"]).config.training.epochs == 3
    path.write_text("trainin:\n  epochs: 3\n")
    assert "mine.yaml" in problems("recipe=mine", "data.root=r")
    path.write_text("a: [")
    assert "mine.yaml" in problems("recipe=mine", "data.root=r")


def test_every_key_is_in_the_dump():
    config = yaml.safe_load(dump_config(compose([]).config))
    for key in known_keys():
        value = config
        for part in key.split("."):
            value = value[part]
