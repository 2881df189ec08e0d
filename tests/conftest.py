"""Shared by all tests: no network, no leftovers of a user's settings, real data where it is."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(autouse=True)
def _apart_from_the_users_settings(tmp_path_factory, monkeypatch):
    """Caches, tracking, recipes and studies of the person who runs the tests stay out."""
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name in ("FINETUNE_RECIPE_PATH", "FINETUNE_STUDY_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def without_pages(monkeypatch):
    """Runs draw nothing and write an empty page: for tests of training alone."""
    from finetune import folds, run
    from finetune.files import write_text

    for module, name in ((run, "write_report"), (folds, "write_folds_report")):
        monkeypatch.setattr(module, "write_figures", lambda path: [])
        monkeypatch.setattr(module, name,
                            lambda path, reader=None: write_text(path / "report.html", ""))
    monkeypatch.setattr(run.session, "write_batch_figures", lambda *args: None)
    monkeypatch.setattr(run, "heat_maps", lambda *args: [])


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, or skip."""
    folder = os.environ.get("FINETUNE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FINETUNE_TEST_DATA names no folder of real data")
    return Path(folder)
