import pytest
import yaml

from finetune.composition import compose, dump_config, known_keys, load_config
from finetune.config import FreezingPolicy, Resize
from finetune.errors import ConfigurationError


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
    assert medical.data.resize is Resize.pad and medical.model.name == "resnet50"
    rehearsal = compose(["recipe=medical"])
    assert rehearsal.config.model.name == "resnet10t" and rehearsal.config.data.image_size == 64
    assert rehearsal.config.freezing.policy is FreezingPolicy.head_then_all
    typed = compose(["recipe=medical", "model.name=resnet18", "training.epochs=2",
                     "data.resize=squash"]).config
    assert (typed.model.name, typed.training.epochs, typed.data.resize) == ("resnet18", 2, "squash")


def test_a_rehearsal_lists_what_it_replaced_and_nothing_else():
    composed = compose(["recipe=medical", "training.epochs=2"])
    assert composed.replaced == {
        "model.name": ("resnet50", "resnet10t"), "model.weights": ("pretrained", None),
        "data.image_size": (None, 64), "data.batch_size": (32, 8)}
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


def test_bundled_weights_bring_their_own_network():
    assert "model.name" in problems("model.weights=bundled", "model.name=resnet18")


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
