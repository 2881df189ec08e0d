"""What the pages draw from data: the numbers are the data's, and pictures keep to their room."""

import json
import re
from html import unescape

import numpy as np
import pytest
from run_builder import build_run

from finetune.evaluation.predictions import Predictions
from finetune.evaluation.reliability import reliability_diagram
from finetune.report.answers import describe_answers
from finetune.report.charts import (
    class_charts,
    history_charts,
    reliability_charts,
    risk_chart,
    worst_calibrated,
)
from finetune.report.matrix import MOST_PICTURES, PER_CELL, cell_pictures, matrix_rows
from finetune.report.page import Thumbnails
from finetune.report.svg import Axis, Line, draw_chart, nice_ticks


def polylines(svg):
    """Name, points, and what else is told of each, of every line."""
    found = re.findall(r'<polyline data-name="([^"]*)"(?: data-lead="[^"]*" '
                       r'data-extra="([^"]*)")? points="([^"]*)"/>', svg)
    return [(unescape(name), [tuple(map(float, p.split(","))) for p in points.split()],
             json.loads(unescape(extra)) if extra else []) for name, extra, points in found]


def grey(_):
    return np.zeros((40, 30, 1), np.uint8)


def predictions(folder, names, **more):
    run = build_run(folder, names, **more)
    return run, Predictions.load(run.predictions_path("test"))


def test_lines_keep_the_units_of_the_data():
    x, y = [1, 2, 30], [0.25, 1e-4, 3]
    svg = draw_chart([Line('a "b" <c>', x, y, extra=["<", "", "x"])], Axis("epoch", 1, 30),
                     Axis("loss", 0, 3), title="t")
    assert polylines(svg) == [('a "b" <c>', [(1, 0.25), (2, 1e-4), (30, 3)], ["<", "", "x"])]
    assert "<c>" not in svg


def test_the_corners_of_a_chart_are_where_the_axes_end():
    svg = draw_chart([], Axis("x", 10, 20), Axis("y", -1, 1), title="t", width=400, height=300)
    a, d, e, f = map(float, re.search(r"matrix\((\S+) 0 0 (\S+) (\S+) (\S+)\)", svg).groups())
    frame = re.search(r'class="axis" d="M(\S+) (\S+)H(\S+)"', svg)
    left, bottom, right = map(float, frame.groups())
    assert (10 * a + e, 20 * a + e, -1 * d + f) == pytest.approx((left, right, bottom), abs=0.01)
    assert d < 0


@pytest.mark.parametrize(("axis", "ticks"), [
    (Axis("", 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]), (Axis("", 1, 1, whole=True), [1]),
    (Axis("", 1, 4, whole=True), [1, 2, 3, 4]), (Axis("", 0.31, 0.33), [0.31, 0.315, 0.32, 0.325,
                                                                        0.33])])
def test_ticks_are_round_and_inside(axis, ticks):
    assert nice_ticks(axis, count=5) == ticks


def test_the_history_has_every_epoch_and_leaves_out_what_is_not_defined(tmp_path):
    history = build_run(tmp_path, list("abc")).history
    history[1]["val"]["macro_f1"] = None
    loss, metrics = history_charts(history, metric="macro_f1", chosen=2)
    assert polylines(loss.svg)[0] == ("training", [(1, 1), (2, 0.5), (3, 0.33333)], [])
    name, points, _ = polylines(metrics.svg)[0]
    assert name == "Macro F1" and [epoch for epoch, _ in points] == [1, 3]
    assert "chosen: 2" in loss.svg and "opens 0–1" in loss.svg
    assert history_charts([], metric="macro_f1", chosen=None) == []


def test_curves_are_those_of_the_figures(tmp_path):
    _, found = predictions(tmp_path, list("abc"))
    roc, precision = class_charts(found)
    assert len(polylines(roc.svg)) == len(polylines(precision.svg)) == 4  # and the mean
    from sklearn.metrics import auc, average_precision_score, roc_auc_score

    for k, name in enumerate("abc"):
        told, points, _ = polylines(roc.svg)[k]
        area = roc_auc_score(found.labels == k, found.probabilities[:, k])
        assert told == f"{name} {area:.3f}"
        assert auc(*np.array(points).T) == pytest.approx(area, abs=1e-3)
        told, points, _ = polylines(precision.svg)[k]
        area = average_precision_score(found.labels == k, found.probabilities[:, k])
        assert told == f"{name} {area:.3f}"
        assert auc(*np.array(points).T) == pytest.approx(area, abs=5e-3)


def test_many_classes_have_bounded_curves(tmp_path):
    _, found = predictions(tmp_path, [f"k{i}" for i in range(50)], count=3_000)
    assert sum(len(chart.svg) for chart in class_charts(found)) < 700_000


def test_risk_ends_at_the_error_rate(tmp_path):
    _, found = predictions(tmp_path, list("abc"))
    odds = found.probabilities
    chart = risk_chart({"as answered": odds, "calibrated": odds ** 2}, found.labels)
    error = float((odds.argmax(axis=1) != found.labels).mean())
    for _, points, extra in polylines(chart.svg):
        assert points[-1] == pytest.approx((1, error), abs=1e-4) and len(extra) == len(points)


def test_classes_that_are_furthest_off_are_shown():
    rng = np.random.default_rng(0)
    labels, odds = rng.integers(0, 12, 4000), np.full((4000, 12), 1 / 12)
    odds[:, 7] += 0.3  # said far more often than it is so
    found = {"as answered": reliability_diagram(labels, odds, [f"k{i}" for i in range(12)])}
    assert worst_calibrated(found["as answered"]["per_class"], count=3)[0] == "k7"
    _, small = reliability_charts(found, count=3)
    assert len(small) == 3 and small[0].title == "k7"
    (_, points, extra), = polylines(small[0].svg)
    row = found["as answered"]["per_class"]["k7"][0]
    assert points[0] == pytest.approx((row["confidence"], row["accuracy"]), abs=1e-4)
    assert f"{row['count']} pictures" in extra[0]
    few = {name: [] for name in "cab"}
    assert worst_calibrated(few, count=3) == ["c", "a", "b"]


def test_cells_hold_the_matrix(tmp_path):
    run, _ = predictions(tmp_path, list("abc"))
    matrix = run.metrics["test"]["confusion_matrix"]
    columns, rows = matrix_rows(run.metrics["test"])
    assert columns == list("abc")
    assert [[cell["count"] for cell in row] for row in rows] == matrix
    assert all(abs(sum(cell["percent"] for cell in row) - 100) <= 1 for row in rows)
    assert all((cell["shade"] == 0) == (cell["count"] == 0) and cell["shade"] <= 9
               for row in rows for cell in row)


def test_a_class_without_pictures_has_an_empty_row():
    _, rows = matrix_rows({"class_names": ["a", "b"], "confusion_matrix": [[2, 1], [0, 0]]})
    assert [cell["percent"] for cell in rows[1]] == [0, 0]


def test_every_cell_of_mistakes_comes_before_a_second_one(tmp_path):
    _, found = predictions(tmp_path, list("abc"))
    odds, answer = found.probabilities, found.probabilities.argmax(axis=1)
    asked = []
    cells = cell_pictures(found, Thumbnails(lambda name: asked.append(name) or grey(name),
                                            room=10**6))
    wrong = {(int(t), int(p)) for t, p in zip(found.labels, answer, strict=True) if t != p}
    place = [found.ids.index(name) for name in asked]
    first = [(int(found.labels[i]), int(answer[i])) for i in place[:len(wrong)]]
    assert set(first) == wrong and len(first) == len(wrong)
    for cell in wrong:
        rows = np.flatnonzero((found.labels == cell[0]) & (answer == cell[1]))
        surest = sorted((float(odds[i, cell[1]]) for i in rows), reverse=True)[:PER_CELL]
        assert [p["probability"] for p in cells[cell]["pictures"]] == surest
        assert cells[cell]["total"] == len(rows)
    assert {(k, k) for k in range(3)} <= set(cells) and len(asked) <= MOST_PICTURES


def test_several_labels_have_their_cells_too(tmp_path):
    run, found = predictions(tmp_path, list("abc"), multi=True)
    columns, rows = matrix_rows(run.metrics["test"])
    assert columns[1] == "false positive" and len(rows[0]) == 4
    cells = cell_pictures(found, Thumbnails(grey, room=10**6))
    assert {column for _, column in cells} == {1, 2, 3}
    for (label, column), cell in cells.items():
        assert cell["total"] == rows[label][column]["count"]
        for picture in cell["pictures"]:
            row = found.ids.index(picture["id"])
            assert found.labels[row, label] == (column >= 2)


def test_pictures_stop_where_there_is_no_room():
    one = len(Thumbnails(grey, room=10**6).uri("a", side=32) or "")
    thumbnails = Thumbnails(grey, room=2 * one + 10)
    assert [thumbnails.uri("a", side=32) is not None for _ in range(4)] == [True, True, False,
                                                                           False]
    assert thumbnails.are_full
    assert Thumbnails(None, room=100).uri("a", side=32) is None


def test_bars_of_reliability_are_those_of_groups_where_there_are_groups(tmp_path):
    run = build_run(tmp_path, list("ab"), groups=True)
    found = Predictions.load(run.predictions_path("test"))
    charts = describe_answers(tmp_path, found, run.metrics["test"], thumbnails=Thumbnails(
        None, room=0), decided={})["reliability"]
    wanted, plain = [reliability_charts({"as answered": reliability_diagram(
        found.labels, found.probabilities, found.label_spec.class_names, groups)})[0]
        for groups in (found.groups, None)]
    assert charts == wanted != plain
