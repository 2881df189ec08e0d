"""Shared by all tests: no network, no leftovers of a user's settings, real data where it is."""

import os
import shutil
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
    for name in ("FINETUNE_RECIPE_PATH", "FINETUNE_STUDY_PATH", "FINETUNE_TRUST"):
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


@pytest.fixture(scope="module")
def browser():
    """Chromium, or skip. Of a module: its event loop must not be there for other tests."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser):
    """Opens a page; in the end nothing was said on its console and no other file was asked for."""
    said, asked, contexts = [], [], []

    def opened(path, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == [] and all(url.startswith(("file:", "data:")) for url in asked)
