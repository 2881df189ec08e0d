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


def anchors(page):
    """Of the headings, as GitHub makes them: lower case, hyphens for blanks, no punctuation."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        target, _, anchor = link.partition("#")
        there = page.parent / target if target else page
        assert link.startswith("https://") or there.exists(), link
        assert not (anchor and there.suffix == ".md") or anchor in anchors(there), link


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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_scripts_in_commands_exist_and_commands_are_known(page):
    commands = "\n".join(blocks(page, "sh"))
    for script in re.findall(r"^(?:python )?((?:data_tools|benchmarks|\.ci)/\S+)", commands, re.M):
        assert (ROOT / script).exists(), script
    known = {"ls", "show", "cp", "plan", "lr-find", "resume", "evaluate", "report", "keys",
             "summary", "weights", "cache", "audit", "mislabeled", "verify", "evidence",
             "compare", "predict", "export", "card", "-m"}
    words = re.findall(r"python -m finetune (\S+)", commands)
    assert [word for word in words if word not in known and "=" not in word] == []


def run_shell(page, folder, limit):
    """All commands of a page, one after the other, in a folder with the data tools."""
    (folder / "data_tools").symlink_to(ROOT / "data_tools")
    shell = "set -e\n" + "".join(blocks(page, "sh"))
    shell = re.sub(r"^python ", f'"{sys.executable}" ', shell, flags=re.MULTILINE)
    done = subprocess.run(["bash", "-c", shell], cwd=folder, capture_output=True, text=True,
                          timeout=limit, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "told"), [("recipes", "ward"), ("method", "what would train"),
                                            ("data", "split.csv"), ("studies", "head_only"),
                                            ("from_pictures_to_use", "wrote later.json")])
def test_the_commands_of_a_page_run(name, told, tmp_path):
    assert told in run_shell(ROOT / "docs" / f"{name}.md", tmp_path, 300)


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    page = ROOT / "docs" / "tutorial.md"
    told = run_shell(page, tmp_path, 500)
    assert "agrees with the run's own predictions" in told
    assert "is finished; nothing to do" in told
    for block in blocks(page, "python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True,
                              text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert "runs/notebook" in done.stdout
