"""The pages in a browser: clicks, keys, sorting, filters, phones; and that nothing is asked for."""

import json
import webbrowser

import numpy as np
import pytest
from run_builder import build_run

from finetune.__main__ import main
from finetune.report.html import write_report

EVIL = "<script>alert(1)</script>"
NAMES = {2: ["healthy", EVIL], 7: ["a", EVIL, "river and lake", "d", "e", "f", "g_with_a_" * 9],
         50: [f"kind {i}" for i in range(50)]}


def written(folder, count):
    """A report of so many classes, with pictures."""
    run = build_run(folder, NAMES[count], count=400)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    return write_report(run.path, lambda _: pixels.repeat(8, 0).repeat(8, 1))


@pytest.fixture(scope="module", params=NAMES, ids=str)
def each(request, tmp_path_factory):
    return written(tmp_path_factory.mktemp("run"), request.param)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return written(tmp_path_factory.mktemp("run"), 7)


def column(table, place):
    return table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()


def class_table(page):
    return page.locator("h3:text-is('By class') ~ .wide table").first


def matrix_of(path):
    return json.loads((path.parent / "metrics.json").read_text())["test"]["confusion_matrix"]


def numbers(texts):
    return [float(text.split()[0]) for text in texts]


def test_columns_sort_by_click_and_by_key(report, show):
    page = show(report)
    table = class_table(page)
    before = column(table, 2)
    button = table.locator("thead button").nth(1)
    button.click()
    assert numbers(column(table, 2)) == sorted(numbers(before), reverse=True)
    assert table.locator("th[aria-sort=descending]").count() == 1
    button.press("Enter")
    assert numbers(column(table, 2)) == sorted(numbers(before))
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_what_is_not_defined_stays_last(show, tmp_path):
    run = build_run(tmp_path, list("abcde"))
    values = run.metrics
    values["test"]["per_class"]["b"]["specificity"] = None
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    table = class_table(show(write_report(tmp_path)))
    for _ in range(2):
        table.locator("thead button", has_text="specificity").click()
        assert column(table, 4)[-1] == "–" and "–" not in column(table, 4)[:-1]


def test_many_rows_are_filtered_as_one_types(show, tmp_path):
    page = show(written(tmp_path, 50))
    table = class_table(page)
    box = table.locator("xpath=ancestor::div[1]/preceding-sibling::*[1]").locator("input")
    box.press_sequentially("KIND 4")
    shown = [text for text in column(table, 1) if text]
    assert table.locator("tbody tr:visible").count() == 11 and "kind 4" in shown
    assert page.locator(".filter [role=status]:has-text('11 of 50')").count() == 1
    box.fill("")
    assert table.locator("tbody tr:visible").count() == 50


def test_a_cell_shows_its_pictures_and_escape_leads_back(each, show):
    page = show(each)
    cell = page.locator(".cells tbody tr:nth-child(1) a").nth(1)
    target = cell.get_attribute("href")
    cell.click()
    assert page.locator(".gallery .cell:visible").count() == 1
    shown = page.locator(f"{target} img")
    assert 0 < shown.count() <= 8 and shown.first.is_visible()
    assert shown.first.evaluate("picture => picture.complete && picture.naturalWidth") > 0
    assert page.evaluate("document.activeElement.tagName") == "H4"
    page.keyboard.press("Escape")
    assert page.locator(".gallery .cell:visible").count() == 0
    assert cell.evaluate("link => link === document.activeElement")


def test_the_matrix_is_walked_by_keys(report, show):
    page = show(report)
    links = page.locator(".cells tbody tr:nth-child(1) a")
    links.first.focus()
    page.keyboard.press("ArrowRight")
    assert links.nth(1).evaluate("link => link === document.activeElement")
    assert page.locator(".tip").inner_text().startswith("true: ")
    page.keyboard.press("Enter")
    assert page.locator(".gallery .cell:visible").count() == 1


def test_a_cells_mistakes_begin_with_the_surest(report, show):
    page = show(report)
    for section in page.locator(".gallery section").all()[:9]:
        title = section.locator("h4").text_content()
        told = [float(text.split(" %")[0]) for text in section.locator("li").all_text_contents()]
        assert told == sorted(told, reverse="rightly" not in title)


def test_counts_and_percent_of_the_matrix(report, show):
    page = show(report)
    matrix = matrix_of(report)
    first = page.locator(".cells tbody tr:nth-child(1) td").first
    assert first.inner_text() == str(matrix[0][0])
    page.locator("label[for=matrix-percent]").click()
    assert first.inner_text() == str(round(100 * matrix[0][0] / sum(matrix[0])))
    page.locator("#matrix-percent").press("ArrowLeft")
    assert first.inner_text() == str(matrix[0][0])


def test_curves_tell_their_values_to_the_pointer_and_to_keys(report, show):
    page = show(report)
    chart = page.locator("svg.chart[data-x='false positive rate']")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 8)
    tip = page.locator(".tip")
    assert tip.is_visible() and "true positive rate" in tip.inner_text()
    chart.focus()
    page.keyboard.press("ArrowRight")
    before = tip.inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert tip.is_visible() and tip.inner_text() != before
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    reliability = page.locator("svg.chart[data-x=probability]").first
    reliability.focus()
    page.keyboard.press("ArrowRight")
    assert "pictures" in tip.inner_text() and " to " in tip.inner_text()


def test_light_and_dark_follow_the_system_and_the_button(report, show):
    paper = "getComputedStyle(document.body).backgroundColor"
    page = show(report, color_scheme="dark")
    dark = page.evaluate(paper)
    page.locator("#theme").click()
    light = page.evaluate(paper)
    assert dark != light == "rgb(255, 255, 255)"
    page.reload()
    assert page.evaluate(paper) == light  # it is remembered
    page.emulate_media(media="print")
    assert page.evaluate(paper) == light
    assert not page.locator("#theme").is_visible()


def test_a_phone_needs_no_sideways_scroll(each, show):
    page = show(each, viewport={"width": 390, "height": 844})
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("body").evaluate("body => body.scrollWidth") <= 390


def test_without_a_script_everything_can_be_read(each, show):
    page = show(each, java_script_enabled=False)
    assert page.locator("table:not(.cells)").count() > 2 and not page.locator("#theme").is_visible()
    assert page.locator(".cells td").first.inner_text() == str(matrix_of(each)[0][0])
    cell = page.locator(".cells a").first
    target = cell.get_attribute("href")
    page.locator(".gallery summary").click()
    assert page.locator(f"{target} img").first.is_visible()
    assert page.locator(".gallery section:visible").count() > 1


@pytest.mark.parametrize("found", [True, False])
def test_the_report_is_opened_on_request(found, tmp_path, monkeypatch, capsys):
    run = build_run(tmp_path, ["a", "b"])
    (tmp_path / "config.yaml").write_text("{}")
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or found)
    monkeypatch.setattr("finetune.launch.rewrite_report", lambda run: write_report(run.path))
    assert main(["report", str(run.path)]) == 0 and opened == []
    assert main(["report", str(run.path), "--open"]) == 0
    assert opened == [(tmp_path / "report.html").as_uri()]
    told = capsys.readouterr()
    assert ("no browser was found" in told.out + told.err) is not found
