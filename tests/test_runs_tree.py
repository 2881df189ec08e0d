"""The page of all runs: members below what they belong to, links that lead somewhere."""

import json
import webbrowser

import pytest
from run_builder import build_run
from test_comparing import train

from finetune.__main__ import main
from finetune.comparison.comparing import compare
from finetune.composition import dump_config
from finetune.config import Config
from finetune.errors import InputError
from finetune.runs_index import list_runs, parse_filters
from finetune.runs_tree import group_rows, write_index

EVIL = "<i>&#x 50 %"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, model, seed, accuracy in (
            (EVIL, "resnet18", 0, 0.7), ("study/x-seed-0", "resnet50", 1, 0.9),
            ("study/y-seed-0", "resnet18", 2, 0.5), ("alone", "resnet18", 3, 0.6),
            ("folds", "resnet34", 4, 0.8), ("folds/fold-1", "resnet34", 4, 0.75),
            ("folds/fold-2", "resnet34", 4, 0.85)):
        run = build_run(folder / name, ["cat", "dog"], count=20, seed=seed,
                        **({"rehearsal": {"replaced": {}}} if name == "alone" else {}))
        config = Config()
        config.model.name, config.seed = model, seed
        run.write_config(config)
        metrics = run.metrics
        metrics["test"]["accuracy"] = accuracy
        (run.path / "metrics.json").write_text(json.dumps(metrics))
        (run.path / "report.html").write_text("")
    (folder / "study" / "study.json").write_text("{}")
    (folder / "stopped").mkdir()
    (folder / "stopped" / "config.yaml").write_text(dump_config(Config()))
    (folder / "stopped" / "environment.json").write_text('{"rehearsal": null}')
    (folder / "broken").mkdir()
    (folder / "broken" / "config.yaml").write_text("model: 7")
    return folder


def grouped(folder, *words, sort=None):
    rows = list_runs(folder, filters=parse_filters(words), sort=sort)
    return group_rows(folder, rows, metric="accuracy")


def test_members_follow_what_they_belong_to(runs):
    rows = grouped(runs)
    names = [row["name"] for row in rows]
    for row in rows:
        if row["parent"]:
            before = rows[:names.index(row["name"])]
            place = max(i for i, each in enumerate(before) if not each["depth"])
            assert before[place]["name"] == row["parent"] and row["depth"] == 1
    assert {row["label"] for row in rows if row["parent"] == "folds"} == {"fold-1", "fold-2"}
    study = rows[names.index("study")]
    assert (study["is_run"], study["state"], study["members"]) == (False, "study", 2)
    assert sum(row["is_run"] for row in rows) == len(list_runs(runs)) == 9


def test_the_order_of_rows_is_kept_and_what_was_filtered_out_is_a_heading(runs):
    rows = grouped(runs, "state=finished", sort="accuracy")
    assert [row["label"] for row in rows] == [
        "study", "x-seed-0", "y-seed-0", "folds", "fold-2", "fold-1", EVIL, "alone"]
    only = grouped(runs, "model.name=resnet50", "seed=1")
    assert [(row["name"], row["is_run"]) for row in only] == [
        ("study", False), ("study/x-seed-0", True)]


def test_links_lead_to_reports_and_comparisons(runs, tmp_path, show):
    pair = [train(tmp_path / name, policy=name) for name in ("none", "gradual")]
    compare([str(run) for run in pair], output=runs / "comparison # 1")
    (runs / "comparison-broken").mkdir()
    for name in ("comparison.json", "comparison.html"):
        (runs / "comparison-broken" / name).write_text("[]")
    page = write_index(runs, list_runs(runs), metric="accuracy")
    opened = show(page)
    links = [link.evaluate("link => link.href") for link in opened.locator("td a, th a").all()]
    reports = {path.as_uri() for path in runs.rglob("report.html")}
    assert set(links) == reports | {(runs / "comparison # 1" / "comparison.html").as_uri()}
    assert "policy=none, policy=gradual" in opened.locator("#comparisons").inner_text()
    assert opened.locator(".stamp").all_inner_texts() == ["rehearsal"]
    assert EVIL in opened.locator(".runs").inner_text()


def shown(opened):
    return [text.split("\n")[0].removesuffix(" rehearsal")
            for text in opened.locator(".runs tbody tr:visible > th").all_inner_texts()]


def test_sorting_keeps_members_together(runs, show):
    opened = show(write_index(runs, list_runs(runs), metric="accuracy"))
    opened.locator(".runs thead button", has_text="Accuracy").click()
    assert shown(opened)[:8] == ["study", "x-seed-0", "y-seed-0", "folds", "fold-2", "fold-1",
                                 EVIL, "alone"]
    opened.locator(".runs thead button", has_text="Accuracy").click()
    assert shown(opened)[:8] == ["study", "y-seed-0", "x-seed-0", "alone", EVIL, "folds",
                                 "fold-1", "fold-2"]


def test_a_filter_shows_what_matches_and_what_it_belongs_to(runs, show):
    opened = show(write_index(runs, list_runs(runs), metric="accuracy"))
    opened.locator("select[name=network]").select_option("resnet34")
    assert set(shown(opened)) == {"folds", "fold-1", "fold-2"}
    opened.locator("select[name=network]").select_option("resnet50")
    assert set(shown(opened)) == {"stopped", "study", "x-seed-0"}
    opened.locator("select[name=network]").select_option("")
    opened.locator("select[name=state]").select_option("broken")
    assert shown(opened) == ["broken"]
    opened.locator("select[name=state]").select_option("")
    opened.locator(".filter input").first.fill("fold-2")
    assert shown(opened) == ["folds", "fold-2"]


def test_a_phone_needs_no_sideways_scroll_and_no_script(runs, show):
    page = write_index(runs, list_runs(runs), metric="accuracy")
    for script in (True, False):
        opened = show(page, viewport={"width": 390, "height": 844}, java_script_enabled=script)
        assert opened.locator(".runs tbody tr:visible").count() == 10
        assert opened.evaluate("document.documentElement.scrollWidth") == 390


def test_the_command_writes_and_opens_it(runs, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    (runs / "index.html").unlink(missing_ok=True)
    assert main(["ls", "runs", str(runs)]) == 0 and not (runs / "index.html").exists()
    assert main(["ls", "runs", str(runs), "--html"]) == 0
    assert "index.html" in capsys.readouterr().out and opened == []
    assert main(["ls", "runs", str(runs), "model.name=none", "--open"]) == 0
    assert opened == [(runs / "index.html").as_uri()]
    assert "No run matches" in (runs / "index.html").read_text()


def test_a_page_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "index.html").write_text("<title>mine</title>")
    with pytest.raises(InputError, match="is no index of runs"):
        write_index(tmp_path, [], metric="accuracy")
    assert (tmp_path / "index.html").read_text() == "<title>mine</title>"
