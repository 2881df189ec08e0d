"""What is kept can be seen and deleted."""

import pytest
import torch

from finetune.__main__ import main
from finetune.assembly import cache_folder
from finetune.caches import clear_kept, list_kept
from finetune.files import write_text
from finetune.training.features import write_features


@pytest.fixture
def kept():
    write_features(cache_folder() / "features" / "one", [torch.zeros(4, 3)], pictures=2, views=2,
                   about={"network": ["resnet18", None], "boundary": "fc"})
    write_text(cache_folder() / "arithmetic.json", "{}")


def test_ls_tells_kind_size_and_what(kept, capsys):
    assert main(["cache", "ls"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "features" in told and "resnet18" in told and "arithmetic" in told
    assert [k.kind for k in list_kept()] == ["features", "arithmetic"]
    assert list_kept()[0].size > 4 * 3 * 4


def test_clear_deletes_what_it_is_told(kept, capsys):
    assert main(["cache", "clear", "features"]) == 0
    assert "MB deleted" in capsys.readouterr().out
    assert [k.kind for k in list_kept()] == ["arithmetic"]
    assert clear_kept() == 2 and list_kept() == []
    assert main(["cache", "clear"]) == 0, "nothing there is no mistake"


def test_a_damaged_cache_is_listed_and_deleted(kept, capsys):
    (cache_folder() / "features" / "one" / "about.json").write_text("[1")
    assert main(["cache", "ls"]) == 0
    assert "damaged" in capsys.readouterr().out
    assert main(["cache", "clear", "features"]) == 0
    assert [k.kind for k in list_kept()] == ["arithmetic"]


def test_an_unknown_kind_is_refused(kept, capsys):
    assert main(["cache", "clear", "feature"]) == 2
    assert "did you mean 'features'" in capsys.readouterr().err
    assert len(list_kept()) == 2
