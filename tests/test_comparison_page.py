"""The page of a comparison: verdicts, plots, filters; it asks for nothing."""

import json
import re
import webbrowser

import numpy as np
import pytest
from PIL import Image
from test_comparing import train

from finetune.__main__ import main
from finetune.comparison.comparing import compare
from finetune.report.comparison_charts import cost_units
from finetune.report.comparison_page import write_comparison_page
from finetune.report.forest import scale_of, told

EVIL = "<script>alert(1)</script>"
NAMES = {2: ["healthy", EVIL], 7: ["a", EVIL, "river, lake", "d", "e", "f", "g_with_a_" * 9],
         50: [f"kind {i}" for i in range(50)]}


def compared(folder, count, *, seeds=(0,), policies=(("none", 0.5), ("gradual", 2.5)), pictures=240,
             shown=20, **more):
    """The page, and what ``comparison.json`` holds; the first pictures are there to be shown."""
    ids = [f"part {EVIL[1:7]}/{i:03d} & more.png" for i in range(pictures)]
    random = np.random.default_rng(0)
    for name in ids[:shown]:
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (30, 40, 3), np.uint8)).save(path)
    runs = []
    for policy, noise in policies:
        for seed in seeds:
            run = train(folder / f"{policy}{seed}", policy=policy, seed=seed, noise=noise, ids=ids,
                        names=NAMES[count], count=pictures, **more)
            config = (run / "config.yaml").read_text()
            (run / "config.yaml").write_text(f"{config}data: {{root: '{folder / 'data'}'}}\n")
            (run / "report.html").write_text("")
            runs.append(str(run))
    path = compare(runs, output=folder / "out", metric="accuracy")
    return path.with_name("comparison.html"), json.loads(path.read_text())


@pytest.fixture(scope="module", params=NAMES, ids=str)
def each(request, tmp_path_factory):
    return compared(tmp_path_factory.mktemp("compared"), request.param)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("three"), 7, seeds=(0, 1), policies=(
        ("none", 0.5), ("gradual", 0.8), ("head_only", 3.0)))


def column(table, place):
    return table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()


def test_the_page_is_small_and_names_all_that_was_found(each):
    page, found = each
    text = page.read_text()
    assert page.stat().st_size < 3_000_000 and EVIL not in text
    assert found["comparisons"][0]["metrics"]["accuracy"]["verdict"]["words"] in text
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text.partition("<body>")[2].partition(
        "<script>")[0])
    counts = found["comparisons"][0]["changed"]["counts"]
    assert f"{counts['won']} won, {counts['lost']} lost" in text
    assert 'class="note rehearsal"' not in text


def test_a_rehearsal_is_stamped_and_what_differs_is_told(tmp_path):
    runs = [train(tmp_path / name, policy=name, rehearsal={"replaced": {}}, threads=threads)
            for name, threads in (("none", 1), ("gradual", 2))]
    page = compare([str(run) for run in runs], output=tmp_path / "out").with_name("comparison.html")
    text = page.read_text()
    assert 'class="note rehearsal"' in text and "threads differs: 1 (none); 2 (gradual)" in text
    assert "freezing.<wbr>policy" in text or "freezing.policy" in text


def test_one_method_alone_has_a_page_too(tmp_path):
    runs = [train(tmp_path / str(seed), seed=seed) for seed in (0, 1, 2)]
    path = compare([str(run) for run in runs], output=tmp_path)
    text = path.with_name("comparison.html").read_text()
    assert "3 seeds" in text and "Verdict" not in text


def test_several_labels_a_picture_are_filtered_by_each(tmp_path, show):
    page, _ = compared(tmp_path, 2, multi=True, shown=0)
    opened = show(page)
    options = opened.locator("select[name=class] option").all_inner_texts()
    assert options == ["any class", EVIL, "healthy", "none"] and "lost" not in opened.locator(
        ".forest").last.locator("thead").inner_text()
    opened.locator("select[name=class]").select_option("healthy")
    assert all("healthy" in text for text in
               opened.locator(".pictures > li:visible").all_inner_texts())


def test_very_many_pairs_and_classes_stay_small(each, tmp_path):
    found = dict(each[1])
    pair = found["comparisons"][0]
    better = json.loads(json.dumps(pair))
    better["first"] = "the last one"
    better["metrics"]["accuracy"]["verdict"] = {"kind": "better", "words": "better by a lot"}
    pair["metrics"]["accuracy"]["verdict"]["kind"] = "untold"
    found["comparisons"] = [pair] * 400 + [better]
    text = write_comparison_page(found, tmp_path).read_text()
    assert len(text) < 3_000_000 and "341 more pairs are in" in text
    assert "the last one" in text  # what was decided comes first


def test_one_scale_holds_all_intervals_and_zero():
    rows = [{"value": 0.02, "low": 0.01, "high": 0.05}, {"value": -0.1, "low": None, "high": None}]
    scale = scale_of(rows)
    assert 0 < scale.place(-0.1) < scale.place(0) < scale.place(0.05) < 100
    assert told("accuracy", rows[0]) == ("+2.0", "1.0 to 5.0")
    assert told("log_loss", rows[1]) == ("-0.1", "")
    none = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert 0 < scale_of([none]).place(0) < 100 and told("accuracy", none)[0] == "0.0"


def test_units_of_costs_suit_their_size():
    costs = {"seconds": 7200.0, "trained_parameters": 23e6, "peak_memory_mb": None}
    assert cost_units([{"cost": costs}])["seconds"] == ("minutes of training", 60.0)
    assert cost_units([{"cost": costs}])["trained_parameters"][0].endswith("millions")
    assert cost_units([{"cost": dict.fromkeys(costs)}])["seconds"] == ("seconds of training", 1.0)


def test_methods_sort_and_pairs_are_drawn_on_one_scale(three, show):
    page, found = three
    opened = show(page)
    table = opened.locator("#methods")
    table.locator("thead button", has_text="Accuracy").click()
    values = [float(text.split()[0]) for text in column(table, 3)]
    assert values == sorted(values, reverse=True) and len(values) == 3
    drawn = opened.locator(".forest").first
    zeros = {round(float(each.get_attribute("x1").rstrip("%")), 1)
             for each in drawn.locator("line.zero").all()}
    assert len(zeros) == 1 and drawn.locator("circle").count() == len(found["comparisons"])
    labels = [each.get_attribute("aria-label") for each in drawn.locator("tbody svg").all()]
    assert labels[0].startswith(told("accuracy", found["comparisons"][0]["metrics"]["accuracy"])[0])


def test_pictures_are_filtered_by_change_and_by_class(three, show):
    page, found = three
    opened = show(page)
    opened.locator("details.pair-detail > summary").nth(1).click()
    place = opened.locator("details.pair-detail").nth(1)
    pictures = place.locator(".pictures > li")
    before = pictures.count()
    place.locator("select[name=change]").select_option("lost")
    lost = place.locator(".pictures > li:visible")
    assert 0 < lost.count() < before
    assert all(text.startswith("lost") for text in lost.all_inner_texts())
    place.locator("select[name=class]").select_option(EVIL)
    assert all(f"true {EVIL}" in text for text in lost.all_inner_texts())
    assert f"of {before}" in place.locator(".filter [role=status]").last.inner_text()
    place.locator("select[name=change]").select_option("")
    place.locator("select[name=class]").select_option("")
    assert lost.count() == before
    rows = {row["id"]: row for row in found["comparisons"][1]["changed"]["pictures"]}
    assert {rows[key]["change"] for key in rows} >= {"won", "lost"}


def test_pictures_that_are_there_are_shown(each, show):
    page, _ = each
    images = show(page).locator(".pictures img")
    assert images.count() > 0
    assert images.first.evaluate("picture => picture.complete && picture.naturalWidth") > 0


def test_curves_and_costs_say_their_values(three, show):
    opened = show(three[0])
    for name in ("epoch", "seconds of training"):
        chart = opened.locator(f"svg.chart[data-x='{name}']").first
        chart.focus()
        opened.keyboard.press("ArrowDown")
        opened.keyboard.press("ArrowRight")
        assert "policy=" in opened.locator(".tip").inner_text()
        opened.keyboard.press("Escape")


def test_a_phone_needs_no_sideways_scroll(each, show):
    opened = show(each[0], viewport={"width": 390, "height": 844})
    opened.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    assert opened.locator("body").evaluate("body => body.scrollWidth") <= 390


def test_without_a_script_everything_can_be_read(three, show):
    opened = show(three[0], java_script_enabled=False)
    assert opened.locator(".verdicts li").count() == 3
    opened.locator("details.pair-detail > summary").first.click()
    assert opened.locator(".pictures > li:visible").count() > 0
    assert opened.locator("select").count() == 0


def test_runs_lead_to_their_reports(three, show):
    page, found = three
    opened = show(page)
    links = [link.evaluate("link => link.href") for link in opened.locator("#runs a").all()]
    expected = [f"file://{run['path']}/report.html" for row in found["methods"]
                for run in row["runs"]]
    assert links == expected


def test_the_page_is_opened_on_request(tmp_path, monkeypatch):
    runs = [str(train(tmp_path / name, policy=name)) for name in ("none", "gradual")]
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    words = ["compare", *runs, "--output", str(tmp_path / "out")]
    assert main(words) == 0 and opened == []
    assert main([*words, "--open"]) == 0
    assert opened == [(tmp_path / "out" / "comparison.html").as_uri()]
