import pytest

from finetune.composition import compose
from finetune.config import Config
from finetune.errors import ConfigurationError
from finetune.recipes import find_recipe, list_recipes
from finetune.values import known_keys

NAMES = ["baseline", "full_finetune", "gradual_unfreezing", "linear_probe", "medical",
         "pretrain_small", "remote_sensing"]


def test_all_recipes_are_found():
    assert sorted(list_recipes()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_composes_with_and_without_data_and_with_one_epoch(name):
    assert compose([f"recipe={name}"]).config.recipe == name
    assert compose([f"recipe={name}", "data.root=r", "training.epochs=1"]).replaced is None


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_when_to_use_it_and_where_it_comes_from(name):
    header = [line for line in find_recipe(name).text.splitlines() if line.startswith("#")]
    assert len(header) >= 3 and "arXiv" in " ".join(header)
    assert 10 <= len(find_recipe(name).text.splitlines()) <= 45


def test_every_key_of_a_recipe_is_in_the_schema():
    for recipe in list_recipes().values():
        assert set(recipe.values()) <= set(known_keys(Config))


def test_a_key_that_stands_twice_is_refused(tmp_path):
    recipe = tmp_path / "twice.yaml"
    recipe.write_text("# twice\noptimizer:\n  lr: 1.0\n  lr: 2.0\n")
    with pytest.raises(ConfigurationError, match=r"twice\.yaml.*line 4: lr stands twice"):
        compose([f"recipe={recipe}"])
