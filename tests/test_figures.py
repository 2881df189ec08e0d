"""Figures and their numbers."""

import csv
import io
import re
import warnings

import numpy as np
import pytest
from matplotlib.legend import Legend
from matplotlib.text import Text
from PIL import Image
from run_builder import build_run
from sklearn import metrics as reference

from finetune.report.figures import FIGURES, write_figures
from finetune.report.fonts import find_families
from finetune.report.sheet import write_sheet


def rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


@pytest.mark.parametrize(("names", "multi"), [
    (["no", "yes"], False), (list("abcdefg"), False), ([f"k{i}" for i in range(50)], False),
    (list("abcd"), True)], ids=["2", "7", "50", "several"])
def test_every_figure_is_there_thrice(names, multi, tmp_path):
    run = build_run(tmp_path, names, multi=multi)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write_figures(run.path) == []
    for name in FIGURES:
        with Image.open(tmp_path / "figures" / f"{name}.png") as image:
            assert image.width > 300 and len(image.convert("L").getcolors(maxcolors=10**6)) > 5
        assert (tmp_path / "figures" / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        assert len(rows(tmp_path / "figures" / f"{name}.csv")) > 2


def test_the_matrix_of_the_table_is_that_of_the_metrics(tmp_path):
    run = build_run(tmp_path, list("abc"))
    write_figures(run.path)
    table = rows(tmp_path / "figures" / "confusion_matrix.csv")
    assert table[0][1:] == list("abc")
    counts = [[int(v) for v in row[1:]] for row in table[1:]]
    assert counts == run.metrics["test"]["confusion_matrix"]
    shares = rows(tmp_path / "figures" / "confusion_matrix_normalised.csv")[1:]
    np.testing.assert_allclose([[float(v) for v in r[1:]] for r in shares],
                               np.array(counts) / np.sum(counts, axis=1, keepdims=True))


def test_the_area_under_the_roc_table_is_the_roc_auc(tmp_path):
    run = build_run(tmp_path, list("abc"))
    write_figures(run.path)
    table = rows(tmp_path / "figures" / "roc.csv")[1:]
    for name, row in run.metrics["test"]["per_class"].items():
        x, y = (np.array([float(r[i]) for r in table if r[0] == name]) for i in (1, 2))
        assert reference.auc(x, y) == pytest.approx(row["roc_auc"])


def test_curves_tell_epochs_unfreezings_and_the_choice(tmp_path):
    run = build_run(tmp_path, list("abc"))
    write_figures(run.path)
    head, *table = rows(tmp_path / "figures" / "curves.csv")
    assert [row[head.index("epoch")] for row in table] == ["1", "2", "3"]
    assert [row[head.index("chosen")] for row in table] == ["0", "1", "0"]
    assert [row[head.index("opened")] for row in table] == ["2", "0 1", ""]


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    one, two = (build_run(tmp_path / n, list("abc")) for n in "12")
    for run in (one, two):
        write_figures(run.path)
    for name in FIGURES:
        for kind in ("png", "svg", "csv"):
            first, second = (r.path / "figures" / f"{name}.{kind}" for r in (one, two))
            assert first.read_bytes() == second.read_bytes(), (name, kind)


def test_chinese_names_are_drawn_or_the_missing_font_is_told_once(tmp_path):
    names = ["肺炎", "正常", "結核"]
    run = build_run(tmp_path, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = write_figures(run.path)
    families, missing = find_families("".join(names))
    assert len(told) == (1 if missing else 0)
    if missing:
        assert "font" in told[0]
    else:
        assert families
    assert rows(tmp_path / "figures" / "confusion_matrix.csv")[0][1:] == names


@pytest.mark.parametrize("names", [["n", "y"], list("abcdefg"), ["x" * 90, "y" * 90],
                                   list("abcdefghij"), [f"k{i}" for i in range(13)]],
                         ids=["2", "7", "long", "10", "13"])
def test_no_text_is_cut_and_a_rehearsal_says_so_in_every_figure(names, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("finetune.report.figures._save", lambda figure, stem: drawn.append(figure))
    write_figures(build_run(tmp_path, names, part="val", rehearsal={"command": "x"}).path)
    for figure in drawn:
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150)
        with Image.open(stream) as image:
            pixels = np.asarray(image.convert("L"))
        edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
        assert min(edge.min() for edge in edges) == 255
        figure.draw_without_rendering()
        texts = [t for t in figure.findobj(Text) if re.search(r"[a-zA-Z]", t.get_text())]
        assert any("REHEARSAL" in text.get_text() for text in texts)
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, text
    assert len(drawn) == len(FIGURES)


def test_no_legend_lies_on_a_curve(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("finetune.report.figures._save", lambda figure, stem: drawn.append(figure))
    write_figures(build_run(tmp_path / "several", list("abcd"), multi=True).path)
    write_figures(build_run(tmp_path / "ten", list("abcdefghij")).path)
    for figure in drawn:
        figure.draw_without_rendering()
        taken = [item.get_window_extent() for axes in figure.axes
                 for item in (axes, axes.xaxis.label, axes.yaxis.label)]
        for legend in figure.findobj(Legend):
            assert not any(legend.get_window_extent().overlaps(box) for box in taken)


def test_a_run_without_predictions_has_its_curves_only(tmp_path):
    run = build_run(tmp_path, list("abc"))
    for path in (tmp_path / "predictions").iterdir():
        path.unlink()
    write_figures(run.path)
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == {"curves"}


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint8"), (13, "float32"),
                                                 (2, "float32")])
def test_a_batch_of_any_channels_is_drawn(channels, dtype, tmp_path):
    random = np.random.default_rng(0)
    images = [(random.random((20, 30, channels)) * (255 if dtype == "uint8" else 1)).astype(dtype)
              for _ in range(5)]
    path = write_sheet(tmp_path / "batch.png", images, ["a", "肺", "<b>", "", "x" * 80],
                       title="train")
    with Image.open(path) as image:
        assert image.width > 100
