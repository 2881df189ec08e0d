"""What the documentation says can be done is done here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.list_settings import render
from finetune.recipes import list_recipes
from finetune.values import known_keys

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_settings_page_is_the_schemas():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == render()
    assert [key for key in known_keys() if f"| `{key}` |" not in page] == []
    assert not re.search(r"\|\s*\|$", page, re.MULTILINE)  # every key is explained


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_keys_on_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    sections = {key.split(".")[0] for key in known_keys() if "." in key}
    named = re.findall(rf"\b((?:{'|'.join(sections)})\.[a-z_]+)=", text)
    assert [key for key in named if key not in known_keys()] == []


def test_readme_has_the_two_commands_on_its_first_screen_and_every_recipe():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = "\n".join(text.splitlines()[:30])
    for command in ("finetune recipe=medical", "pytest"):
        assert f'python -m pip install -e ".[dev]" && python -m {command}\n' in first
    assert [name for name in list_recipes() if f"`{name}`" not in text] == []


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    (tmp_path / "data_tools").symlink_to(ROOT / "data_tools")
    page = ROOT / "docs" / "tutorial.md"
    shell = "set -e\n" + "".join(blocks(page, "sh"))
    shell = shell.replace("python ", f'"{sys.executable}" ')
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True,
                          timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert "agrees with the run's own predictions" in done.stdout
    assert "is finished; nothing to do" in done.stdout
    for block in blocks(page, "python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True,
                              text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert "runs/notebook" in done.stdout
