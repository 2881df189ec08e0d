import pytest
from huggingface_hub import constants

from finetune import fit
from finetune.composition import compose
from finetune.errors import ConfigurationError
from finetune.names import name_problems


def test_all_wrong_names_are_told_before_a_picture_is_read():
    with pytest.raises(ConfigurationError) as caught:
        compose(["data.root=tests_", "model.name=resnt50", "optimizer.name=adamm",
                 "data.transform=xrya", "training.select_metric=acuracy", "model.weights=x.pth"],
                check_names=name_problems)
    told = str(caught.value)
    for part in ("data.root=tests_ does not exist", "'resnet50'", "'adam'", "'xray'",
                 "'accuracy'", "model.weights=x.pth: no such file"):
        assert part in told


def test_right_names_pass():
    composed = compose(["recipe=medical"], check_names=name_problems)
    assert composed.config.model.name == "resnet12_wide"


@pytest.mark.parametrize("weights", ["", "nowhere", "./a.pth"])
def test_weights_that_are_not_there_are_told(weights):
    with pytest.raises(ConfigurationError, match=r"model\.weights"):
        compose([f"model.weights={weights}"], check_names=name_problems)


@pytest.mark.parametrize(("values", "told"), [
    ({"sead": 1}, "seed"), ({"data": {"rot": "x"}}, "data.root"), (["seed=1"], "dictionary"),
    ({"seed": object()}, "object")])
def test_fit_tells_wrong_values(values, told):
    with pytest.raises(ConfigurationError, match=told):
        fit("medical", values)


def test_weights_that_cannot_be_had_are_told_before_pictures_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match=r"can't be reached.*Ways out"):
        compose([f"data.root={tmp_path}", "model.name=resnet18"], check_names=name_problems)
    compose([f"data.root={tmp_path}", "model.weights=null"], check_names=name_problems)


def test_an_unknown_network_is_one_problem_not_two():
    with pytest.raises(ConfigurationError) as caught:
        compose(["data.root=.", "model.name=resnt50"], check_names=name_problems)
    assert len(str(caught.value).splitlines()) == 1
