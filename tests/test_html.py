"""The page: everything that a reader has to know, in one file that asks nothing of anybody."""

import base64
import hashlib
import html
import json
import re

import numpy as np
import pytest
from run_builder import build_run

from finetune.data.cues import CueKind
from finetune.data.shortcuts import CueResult, Verdict
from finetune.errors import DataError
from finetune.evaluation.decision_measures import measure_decisions
from finetune.evaluation.decisions import DecisionSettings, fit_decisions
from finetune.evaluation.predictions import Predictions
from finetune.report.heat_maps import LARGEST, HeatMap, write_heat_maps
from finetune.report.html import write_report
from finetune.report.mistakes import find_mistakes
from finetune.report.sheet import write_sheet
from finetune.results import measure_answers
from finetune.shortcuts import weigh_cues

EVIL = ["<script>alert(1)</script>", "\"a\" & 'b'", "</style>{{ 7 * 7 }}"]


def page(run, **options):
    return write_report(run.path, **options).read_text(encoding="utf-8")


def first_screen(text):
    return text.split("<h2>")[0]


@pytest.mark.parametrize("names", [["no", "yes"], list("abcdefg"), [f"kind {i}" for i in range(50)],
                                   EVIL], ids=["2", "7", "50", "evil"])
def test_one_file_with_no_outside_request(names, tmp_path):
    text = page(build_run(tmp_path, names))
    for source in re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", text):
        assert source.startswith(("data:", "#")), source
    assert "http:" not in text and "https:" not in text
    assert "default-src 'none'" in text and text.count("<script") == text.count("</script") == 1
    small = min(len(names), 10)
    assert text.count('<svg class="chart"') == 2 + 2 + 2 + small  # epochs, classes, probabilities


@pytest.mark.parametrize("kind", ["style", "script"])
def test_only_the_pages_own_style_and_script_are_allowed(kind, tmp_path):
    text = page(build_run(tmp_path, EVIL))
    inside = text.split(f"<{kind}>")[1].split(f"</{kind}>")[0]
    told = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)
    assert f"{kind}-src 'sha256-{told}';" in policy and "unsafe" not in policy
    assert " style=" not in text and not re.search(r"\son\w+=", text)  # it would forbid them


def test_names_are_escaped_everywhere(tmp_path):
    run = build_run(tmp_path, EVIL, data={"waiver": EVIL[0]}, warnings=[EVIL[0]])
    text = page(run, read_picture=lambda _: np.zeros((8, 8, 3), np.uint8))
    assert EVIL[0] not in text and "</style>{{" not in text
    assert all(n in html.unescape(text) for n in EVIL)
    assert html.escape(EVIL[0]) in text.split('class="gallery"')[1]  # and pictures' names


def test_a_rehearsal_cannot_be_taken_for_a_result(tmp_path):
    run = build_run(tmp_path, ["a", "b"], rehearsal={
        "command": "python -m finetune recipe=medical data.root=DIR",
        "replaced": {"training.epochs": [15, 8], "model.weights": ["pretrained", None]}})
    top = first_screen(page(run))
    assert "REHEARSAL" in top and "recipe=medical data.root=DIR" in top
    assert top.index("REHEARSAL") < top.index("Accuracy") and "training.epochs" in top


def test_waiver_repairs_and_warnings_are_on_the_first_screen(tmp_path):
    run = build_run(tmp_path, ["a", "b"], warnings=["the left eye only"],
                    data={"waiver": "we know", "repairs": ["dropped 7 pictures"]})
    top = first_screen(page(run))
    assert "we know" in top and "dropped 7 pictures" in top and "the left eye only" in top


def test_validation_is_never_called_test(tmp_path):
    text = page(build_run(tmp_path, ["a", "b"], part="val"))
    assert "Validation, also used for selection" in first_screen(text)
    assert "Test pictures" not in text


def test_every_number_of_every_class_is_there(tmp_path):
    run = build_run(tmp_path, list("abcdefg"), groups=True)
    text = page(run)
    for row in run.metrics["test"]["per_class"].values():
        for name in ("precision", "recall", "specificity", "f1", "roc_auc", "average_precision"):
            assert f"<td>{row[name]:.3f}</td>" in text
    assert f"<td>{run.metrics['test']['groups']['accuracy']:.3f}</td>" in text
    assert html.escape(run.metrics["test"]["classification_report"]) in text
    assert "<td>20</td><td>5</td><td>7</td><td>32</td>" in text


def test_two_classes_have_sensitivity_and_predictive_values(tmp_path):
    run = build_run(tmp_path, ["healthy", "ill"])
    positive = run.metrics["test"]["positive"]
    top = first_screen(page(run))
    assert f"sensitivity {positive['sensitivity']:.3f}" in top and "<b>ill</b>" in top
    assert f"positive predictive value {positive['ppv']:.3f}" in top


def test_two_classes_have_both_predictive_values_and_those_of_groups(tmp_path):
    run = build_run(tmp_path, ["healthy", "ill"], groups=True)
    text, test = page(run), run.metrics["test"]
    assert f"<td>{test['per_class']['ill']['npv']:.3f}</td>" in text and ">NPV<" in text
    told = first_screen(text).split("By group")[1]
    assert f"sensitivity {test['groups']['positive']['sensitivity']:.3f}" in told
    assert ">NPV<" not in page(build_run(tmp_path / "many", list("abc")))


def test_sentences_and_tables_of_groups_have_their_intervals(tmp_path):
    run = build_run(tmp_path, ["healthy", "ill"], groups=True)
    metrics = measure_answers({part: Predictions.load(run.predictions_path(part))
                               for part in ("val", "test")})
    (tmp_path / "metrics.json").write_text(json.dumps({**run.metrics, **metrics}))
    text, found = page(run), metrics["intervals"]["test"]
    for entry in (found["positive"]["sensitivity"], found["positive"]["npv"],
                  found["groups"]["positive"]["specificity"], found["groups"]["balanced_accuracy"]):
        assert f"({entry['low']:.3f} to {entry['high']:.3f}" in first_screen(text)
    entry = found["groups"]["per_class"]["ill"]["recall"]
    assert f"{entry['low']:.3f} to {entry['high']:.3f}" in text.split("<h3>By group")[1]


def test_what_is_not_defined_is_a_dash_never_a_number(tmp_path):
    run = build_run(tmp_path, list("abc"))
    values = run.metrics
    entry = {"precision": 0.0, "recall": 0.0, "specificity": 1.0, "f1": 0.0, "npv": 0.8,
             "support": 0, "roc_auc": None, "average_precision": None}
    values["test"]["per_class"]["b"] = entry
    values["test"]["confusion_matrix"] = [[5, 0, 1], [0, 0, 0], [2, 0, 9]]
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    text = page(run)
    row = re.search(r'class="long">b</th>(<td>–.*?)</tr>', text.split("By class")[1]).group(1)
    assert re.findall(r"<td>(.*?)</td>", row) == ["–", "–", "1.000", "–", "–", "–", "0"]
    assert "No test picture is of b." in text


def test_accuracy_of_several_labels_says_that_all_have_to_be_right(tmp_path):
    top = first_screen(page(build_run(tmp_path, list("abc"), multi=True)))
    assert "Subset accuracy" in top and ">Accuracy<" not in top


def test_many_classes_and_pictures_stay_one_small_file(tmp_path):
    names = [f"kind {i}" for i in range(50)]
    run = build_run(tmp_path, names, count=3_000)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (16, 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
                for _ in range(16)]
    for part in ("train", "val"):
        write_sheet(tmp_path / "figures" / f"batch_{part}.png", pictures, names[:16],
                    title=part)
    assert page(run, read_picture=lambda _: pictures[0]).count("data:image/jpeg") > 14
    assert (tmp_path / "report.html").stat().st_size < 3e6


def with_all_sections(run, names):
    """What 50 classes can have: decisions, subgroups, shortcuts, heat maps, all sheets full."""
    random = np.random.default_rng(0)
    found = {part: Predictions.load(run.predictions_path(part)) for part in ("val", "test")}
    decisions = fit_decisions(found["val"], settings=DecisionSettings(
        sensitivity=0.9, specificity=0.9, precision=0.5, best_f1=True, set_level=0.9,
        answered_accuracy=0.5), seed=0, biased_training=False)
    (run.path / "decisions.json").write_text(json.dumps(decisions.to_dict()))
    metrics = measure_answers(found, {"hospital": [
        f"hospital number {v}" for v in random.integers(10, size=len(found["test"]))]})
    words = "; ".join(f"1,234 of 1,234 {name!r} pictures (98.5 %) are RGB" for name in names)
    cues = [CueResult(f"cue {i}", CueKind.seen, Verdict.shortcut, 0.4, (0.3, 0.5), 1 / len(names),
                      0.01, 2000, 2000, words, words, words) for i in range(11)]
    metrics |= {"decisions": measure_decisions(decisions, found["test"]),
                "selection": run.metrics["selection"],
                "shortcuts": weigh_cues(cues, metrics["test"])}
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    largest = random.bytes(LARGEST)
    worst, right = find_mistakes(found["test"], count=12), found["test"].ids[:12]
    write_heat_maps(run.path, [
        *((HeatMap(m["id"], m["asked"], "mistake", f"m{i}.jpg"), largest)
          for i, m in enumerate(worst)),
        *((HeatMap(name, names[0], "hit", f"h{i}.jpg"), largest) for i, name in enumerate(right))])
    noise = [random.integers(0, 256, (256, 256, 3), np.uint8) for _ in range(24)]
    for name, count in (("batch_train", 16), ("batch_val", 16), ("near_duplicates", 24)):
        write_sheet(run.path / "figures" / f"{name}.png", noise[:count], ["title"] * count,
                    title=name)
    return noise[0]


def test_all_sections_of_many_classes_and_noise_stay_one_small_file(tmp_path):
    names = [f"kind of picture {i}" for i in range(50)]
    run = build_run(tmp_path, names, count=1_000)
    picture = with_all_sections(run, names)
    text = page(run, read_picture=lambda _: picture)
    assert (tmp_path / "report.html").stat().st_size < 3e6
    for heading in ("Operating points", "Prediction sets", "Leaving pictures to people",
                    "For whom it fails", "What could be told", "Grad-CAM", "much alike",
                    "What the network sees", "Surest right answers"):
        assert heading in text, heading


def test_the_worst_subgroup_is_named_in_words(tmp_path):
    names = ["healthy", "ill"]
    run = build_run(tmp_path, names, count=400)
    found = {part: Predictions.load(run.predictions_path(part)) for part in ("val", "test")}
    hospital = [f"hospital {i % 3}" for i in range(400)]
    metrics = measure_answers(found, {"hospital": hospital}) | {
        "selection": run.metrics["selection"]}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    worst = metrics["subgroups"]["columns"]["hospital"]["worst"]
    text = page(run)
    assert f"{worst['value']}, {100 * worst['against_expected']:+.1f} points" in text
    assert "against_expected" not in text and "{&#39;" not in text


def test_shares_of_decisions_on_few_pictures_are_flagged(tmp_path):
    run = build_run(tmp_path, ["healthy", "ill"])
    few, many = [{"value": 0.5, "low": 0.1, "high": 0.9, "reliable": r} for r in (False, True)]
    points = [{"class": "ill", "target": "sensitivity", "wish": 0.5, "threshold": 0.4,
               "sensitivity": few, "specificity": many, "precision": many}]
    (tmp_path / "metrics.json").write_text(json.dumps(
        {**run.metrics, "decisions": {"operating_points": points}}))
    table = page(run).split("Operating points")[1].split("</table>")[0]
    assert table.count("0.100 to 0.900 ≈") == 1 and table.count("0.100 to 0.900") == 3


def test_interpolated_weights_are_told(tmp_path):
    run = build_run(tmp_path, ["a", "b"])
    assert "WiSE-FT" not in page(run)
    (tmp_path / "metrics.json").write_text(json.dumps(
        {**run.metrics, "wise_ft": {"coefficient": 0.5, "val": {"0": 0.1, "0.5": 0.3, "1": 0.2}}}))
    assert "(WiSE-FT), coefficient 0.500" in first_screen(page(run))


def test_depths_tell_when_they_trained(tmp_path):
    text = page(build_run(tmp_path, ["a", "b"]))
    assert re.search(r">2</th><td[^>]*>fc</td>.*?1–3</td>", text)
    assert re.search(r">0</th><td[^>]*>conv1 bn1</td>.*?2–3</td>", text)


def test_the_worst_mistakes_are_the_surest_wrong_answers(tmp_path):
    run = build_run(tmp_path, list("abc"))
    found = Predictions.load(run.predictions_path("test"))
    odds = found.probabilities
    wrong = [i for i in range(len(found)) if odds[i].argmax() != found.labels[i]]
    wrong.sort(key=lambda i: -odds[i].max())
    assert [m["id"] for m in find_mistakes(found, count=5)] == [found.ids[i] for i in wrong[:5]]
    asked = []

    def read(sample_id):
        asked.append(sample_id)
        if len(asked) == 2:
            raise DataError("gone")
        return np.zeros((300, 200, len(asked) % 2 * 2 + 1), np.uint8)

    text = page(run, read_picture=read)
    assert asked[:12] == [found.ids[i] for i in wrong[:12]]
    assert text.count("data:image/jpeg") == len(asked) - 1


def test_heat_maps_stand_beneath_their_mistakes_and_hits_have_a_list(tmp_path):
    run = build_run(tmp_path, list("abc"))
    found = Predictions.load(run.predictions_path("test"))
    worst = find_mistakes(found, count=2)
    right = next(i for i in range(len(found)) if found.probabilities[i].argmax() == found.labels[i])
    told = [HeatMap(worst[0]["id"], worst[0]["predicted"], "mistake", "01.jpg"),
            HeatMap(worst[1]["id"], worst[1]["true"], "mistake", "02.jpg"),  # of another class
            HeatMap(found.ids[right], "abc"[found.labels[right]], "hit", "03.jpg")]
    assert "Grad-CAM" not in page(run)
    write_heat_maps(tmp_path, [(each, each.file.encode()) for each in told])
    text = page(run)
    shown = {each.file: base64.b64encode(each.file.encode()).decode() in text for each in told}
    assert shown == {"01.jpg": True, "02.jpg": False, "03.jpg": True}
    assert "Grad-CAM" in text and "Surest right answers" in text


def test_several_labels_have_their_mistakes_too(tmp_path):
    run = build_run(tmp_path, list("abc"), multi=True)
    found = Predictions.load(run.predictions_path("test"))
    worst = find_mistakes(found, count=3)
    for mistake in worst:
        row = found.ids.index(mistake["id"])
        name = mistake["true"].removeprefix("not ")
        assert found.labels[row, "abc".index(name)] == (mistake["true"] == name)
    assert "Average precision" in first_screen(page(run))


def test_a_run_without_results_says_how_to_continue(tmp_path):
    run = build_run(tmp_path, ["a", "b"])
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "environment.json").unlink()
    assert "finetune resume" in page(run)


def test_how_to_repeat_it(tmp_path):
    text = page(build_run(tmp_path, ["a", "b"]))
    for told in ("recipe=medical data.root=pictures", "finetune evaluate", "ab12", "apache-2.0",
                 "torch 2.14", "f00"):
        assert told in text
