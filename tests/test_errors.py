import finetune.errors as errors


def test_all_names_exactly_what_is_public():
    public = {n for n, v in vars(errors).items()
              if not n.startswith("_") and getattr(v, "__module__", "") == errors.__name__}
    assert public == set(errors.__all__)


def test_exit_codes_are_those_of_the_documentation():
    assert errors.FinetuneError("").exit_code == 1
    assert errors.DataError("").exit_code == errors.ConfigurationError("").exit_code == 2
    assert errors.CheckError("").exit_code == 3
    assert errors.Interrupted("").exit_code == 130


def test_closest_ignores_case_and_far_names():
    assert errors.closest("RESNET50", ["resnet50", "vit"]) == ["resnet50"]
    assert errors.closest("abc", ["xyz"]) == []
