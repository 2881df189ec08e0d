"""Names of classes, files, groups, runs are text: in pages, tables, paths and on the terminal."""

import csv
import html.parser
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_builder import SMALL

import finetune.tracked_runs
from finetune.__main__ import main
from finetune.data.splits import read_splits
from finetune.files import plain_cell, safe_cell
from finetune.report.page import render_page
from finetune.run_directory import RunDirectory
from finetune.tracked_runs import TrackedRun

EVIL = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>',
        "</script><marquee>x</marquee>", "{{7*7}}{% raw %}", "../../up", "/etc/passwd",
        "=cmd|' /C calc'!A0", "[red]x[/red]",
        "\x1b]0;owned\x07", "$\\frac{$", "-x" * 150, "@SUM(A1)", "' onload='alert(1)", "con",
        "javascript:alert(1)", "\u202etxt"]
COMMANDS = ("train", "report", "audit", "mislabeled", "compare", "ls", "evidence", "predict")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Everything that the commands write about pictures whose every name is hostile; and said."""
    folder = tmp_path_factory.mktemp("names")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FINETUNE_CACHE", str(folder / "cache"))
        root = pictures(folder / "data")
        before = {*folder.rglob("*")}
        said = run_all(folder, root)
    return folder, said, {*folder.rglob("*")} - before


def pictures(root):
    root.mkdir()
    rows, random = [], np.random.default_rng(0)
    for number in range(8 * len(EVIL)):
        name = EVIL[number % len(EVIL)]
        file = f"{number}<img src=x onerror=alert(1)>{{{{7*7}}}}.png"
        pixels = random.integers(0, 255, (20, 20, 3)).astype(np.uint8)
        pixels[:, :, 0] = 255 * (number % len(EVIL)) // len(EVIL)
        Image.fromarray(pixels).save(root / file)
        rows.append([file, name, f"{EVIL[number % 3]}{number // 2}", EVIL[number // 8 % 2]])
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["path", "label", "group", "site"], *rows])
    return str(root)


def run_all(folder, root):
    words = [word for word in SMALL if not word.startswith(("model.", "data.image_size"))]
    data = ["data.near_duplicates=ignore", "data.subgroup_columns=site", "data.split=stratified",
            "data.group_column=null"]
    code = {"train": main([*words, "model.weights=bundled", "data.image_size=32",
                           f"data.root={root}", *data, "output_dir=runs"])}
    run = str(next((folder / "runs").glob("run-*")))
    other = str(folder / "runs" / EVIL[1].replace("/", ""))
    shutil.copytree(run, other)
    settings = Path(other) / "config.yaml"
    settings.write_text(settings.read_text().replace("lr: 0.001\n", "lr: 0.002\n"))
    code["report"] = main(["report", other])
    code["audit"] = main(["audit", root, "--no-near", "--output", "audit", "--fix-splits",
                          "fixed.csv",
                          "data.split=stratified", "data.group_column=null"])
    code["mislabeled"] = main(["mislabeled", other, "--folds", "2"])
    code["compare"] = main(["compare", run, other, "--output", "compared"])
    code["ls"] = main(["ls", "runs", "runs", "--html"])
    code["evidence"] = main(["evidence", other, "evidence.zip"])
    code["predict"] = main(["predict", other, root, "--output", "p.csv"])
    return code


class Page(html.parser.HTMLParser):
    """Elements and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = Counter(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text.append(data)


def pages(folder):
    return sorted(path for path in folder.rglob("*.html"))


def test_every_command_takes_such_names(made):
    folder, codes, _ = made
    assert codes == dict.fromkeys(COMMANDS, 0)
    kinds = {path.name for path in pages(folder)}
    assert kinds == {"report.html", "audit.html", "mislabeled.html", "comparison.html",
                     "index.html"}


def test_no_element_attribute_or_script_of_a_page_comes_from_a_name(made):
    shown = set()
    for path in pages(made[0]):
        page = Page(path.read_text(encoding="utf-8"))
        assert page.tags["script"] == 1 and page.tags["style"] == 1
        assert not {"marquee", "iframe", "object", "embed", "form", "base"} & set(page.tags)
        for tag, name, value in page.attributes:
            assert not name.startswith("on"), (path, tag, name)
            assert name not in ("src", "srcset", "xlink:href") or value.startswith("data:image/")
            assert name != "href" or tag == "link" or not value.strip().lower().startswith(
                ("javascript:", "data:"))
            assert name != "style" or "url(" not in value
        text = " ".join(page.text)
        shown |= {name for name in EVIL[:4] if name in text}
        assert "49" not in text or "7*7" in text
        assert "\x1b" not in text and "\u202e" not in text
    assert set(EVIL[:4]) <= shown  # they are there, as text


def test_a_browser_sees_no_dialog_and_asks_for_nothing(made, show):
    for path in pages(made[0]):
        page = show(path)
        page.wait_for_timeout(50)
        assert page.evaluate("document.querySelectorAll('[onerror],[onload],marquee').length") == 0


def test_values_of_a_page_are_escaped_wherever_a_template_puts_them():
    """The template of doubtful labels with nothing but hostile values."""
    row = {"id": EVIL[1], "path": EVIL[1], "given": EVIL[0], "suggested": EVIL[2],
           "picture": None, "rank": 1, "part": EVIL[3], "margin": 0.5, "self_confidence": 0.1}
    page = Page(render_page("suspects.html.jinja", title=EVIL[0], notes=[EVIL[2]], rows=[row],
                            total=1))
    assert page.tags["script"] == 1 and "img" not in page.tags
    assert "marquee" not in page.tags


def test_no_cell_of_any_table_is_a_formula(made):
    tables = [*sorted(made[0].glob("[!d]*/**/*.csv")), made[0] / "p.csv", made[0] / "fixed.csv"]
    assert {"splits.csv", "mislabeled.csv", "confusion_matrix.csv", "p.csv", "fixed.csv"} <= {
        path.name for path in tables}
    for path in tables:
        with path.open(newline="", encoding="utf-8") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        for cell in cells:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or float(cell) == float(
                cell) or cell == "nan", (path, cell)


def test_a_split_names_the_classes_as_they_are(made):
    run = RunDirectory(next((made[0] / "runs").glob("run-*")))
    assert {row["label"] for row in read_splits(run.path / "splits.csv")} == set(EVIL)


def test_nothing_is_written_outside(made):
    folder, _, new = made
    tops = {path.relative_to(folder).parts[0] for path in new}
    assert tops == {"runs", "cache", "audit", "compared", "fixed.csv", "evidence.zip", "p.csv"}
    for path in new:
        assert all((len(part) < 100 and "alert" not in part) or part.startswith('">')
                   for part in path.relative_to(folder).parts), path
    with zipfile.ZipFile(folder / "evidence.zip") as archive:
        assert all(".." not in name and not name.startswith("/") for name in archive.namelist())


def test_the_terminal_is_told_text(made, capsys, monkeypatch):
    monkeypatch.chdir(made[0])
    root = str(made[0] / "data")
    assert main(["audit", root, "--no-near", "--output", "again", "data.group_column=null"]) == 0
    assert main(["ls", "runs", "runs"]) == 0
    said = capsys.readouterr()
    assert all(c.isprintable() or c in "\n\u2009" for c in said.out + said.err)
    assert "[red]x[/red]" in said.out and "\\x1b]0;owned\\x07" in said.out


def test_what_a_tracking_server_answers_is_text(capsys, monkeypatch):
    names = ["\x1b]0;owned\x07", "[link=http://x]a[/link]", "<script>", "\u202etxt", "a\nb"]
    runs = [TrackedRun(name, name, name, name, "finished" if number else "\x1b[2J", {"seed": name},
                       {"test/accuracy": 0.5, "test/\x1b[31m": 1.0, "best/val/accuracy": 1.0})
            for number, name in enumerate(names)]
    monkeypatch.setattr(finetune.tracked_runs, "read_tracked", lambda place: runs)
    assert main(["compare", "--wandb", "me/\x1b[2Jmine"]) == 0
    assert main(["compare", "--wandb", "me/mine", "--metric", "\x1b[31n"]) == 2
    said = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in said.out + said.err)
    assert "[link=http://x]a[/link]" in said.out


@pytest.mark.parametrize("text", [*EVIL, "", "'", "''=", "'=1", "-1.5", "-1_0", "+", "=", "a=1",
                                  "\t=1", "'-1", "-inf", "-nan"])
def test_an_escaped_cell_comes_back(text):
    assert plain_cell(safe_cell(text)) == text
    assert not safe_cell(text).startswith(("=", "@", "\t", "\r", "+"))
