import io

import cv2
import numpy as np
import pytest
from PIL import Image

from finetune.__main__ import main
from finetune.evaluation.predictions import Predictions
from finetune.explaining import choose_shown
from finetune.report.heat_maps import (
    LARGEST,
    SIDE,
    HeatMap,
    draw_overlay,
    read_heat_maps,
    write_heat_maps,
)
from finetune.report.mistakes import find_mistakes
from finetune.specs import LabelKind, LabelSpec

NAMES = ("a", "b", "c")


def single(logits, labels):
    return Predictions([f"{i}.png" for i in range(len(labels))], np.array(labels),
                       np.array(logits, dtype=np.float32),
                       LabelSpec(LabelKind.single, NAMES, None))


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_mistakes_are_asked_about_their_answer_and_hits_about_their_class():
    found = single([[5, 0, 0], [4, 0, 0], [0, 3, 0], [0, 9, 0], [2, 0, 0]], [0, 1, 1, 1, 2])
    shown = choose_shown(found, mistakes=12, hits=4)
    assert [(s.id, s.class_index, s.kind) for s in shown] == [
        ("1.png", 0, "mistake"), ("4.png", 0, "mistake"),  # the surest first
        ("3.png", 1, "hit"), ("0.png", 0, "hit")]          # one for each class that was hit


def test_the_mistakes_are_those_of_the_report_in_its_order():
    random = np.random.default_rng(0)
    found = single(random.normal(size=(60, 3)), random.integers(0, 3, 60))
    shown = [s.id for s in choose_shown(found, mistakes=12, hits=2)]
    assert shown[:12] == [m["id"] for m in find_mistakes(found, count=12)] and len(shown) == 14


def test_several_labels_ask_about_the_class_that_was_missed_or_invented():
    labels = np.array([[1, 0, np.nan], [0, 1, 0]], dtype=np.float32)
    logits = np.array([[-3, 2, 9], [-5, 4, -5]], dtype=np.float32)
    found = Predictions(["x", "y"], labels, logits, LabelSpec(LabelKind.multi, NAMES, None))
    shown = {(s.id, s.class_index, s.kind) for s in choose_shown(found)}
    assert shown == {("x", 0, "mistake"), ("x", 1, "mistake"), ("y", 1, "hit")}


@pytest.mark.parametrize("shape", [(300, 200, 3), (20, 40, 1), (64, 64, 2), (500, 500, 5)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_overlays_are_small_whatever_the_picture(shape, kind):
    image = np.random.default_rng(0).random(shape)
    image = (image * 255).astype(np.uint8) if kind is np.uint8 else image.astype(kind)
    content = draw_overlay(image, np.random.default_rng(1).random((7, 7)).astype(np.float32))
    seen = opened(content)
    assert max(seen.shape[:2]) == SIDE and len(content) <= LARGEST
    assert seen.shape[0] / seen.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.02)


def test_colour_is_where_the_heat_is_and_nowhere_else():
    image, heat = np.full((96, 96, 3), 128, np.uint8), np.zeros((6, 6), np.float32)
    heat[1, 4] = 1  # rows 16 to 32, columns 64 to 80
    seen = opened(draw_overlay(image, heat)).astype(int)
    coloured = seen.max(axis=2) - seen.min(axis=2)
    assert coloured[24, 72] > 60 and coloured[60:, :40].max() < 10
    plain = opened(draw_overlay(image, np.zeros((6, 6), np.float32))).astype(int)
    assert abs(plain - 128).max() <= 3


def test_what_is_written_is_read_and_a_run_without_maps_has_none(tmp_path):
    assert read_heat_maps(tmp_path) == []
    maps = [(HeatMap("x/ä 1.png", "b", "mistake", "01.jpg"), b"one"),
            (HeatMap("x/ä 1.png", "a", "hit", "02.jpg"), b"two")]
    write_heat_maps(tmp_path, maps)
    assert read_heat_maps(tmp_path) == maps
    (tmp_path / "figures" / "grad_cam" / "01.jpg").unlink()
    assert read_heat_maps(tmp_path) == maps[1:]


@pytest.mark.parametrize(("more", "has"), [
    (["model.name=resnet10t", "data.transform=none"], True),
    (["model.name=vit_tiny_patch16_224", "freezing.policy=head_only"], False)])
def test_a_run_has_maps_of_mistakes_and_hits_where_its_network_has_a_map(more, has, tmp_path,
                                                                         capsys):
    made = np.random.default_rng(0)
    for number in range(45):
        path = tmp_path / "pictures" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), made.integers(0, 255, (32, 40, 3), np.uint8))
    size = 32 if has else 224
    assert main([f"data.root={tmp_path / 'pictures'}", "model.weights=null", "data.workers=0",
                 f"data.image_size={size}", "data.batch_size=8", "training.epochs=1",
                 "data.near_duplicates=ignore", "training.precision=fp32",
                 "tracking.mode=disabled", f"output_dir={tmp_path / 'runs'}", *more]) == 0
    run = next(tmp_path.glob("runs/*/metrics.json")).parent
    found = read_heat_maps(run)
    assert ("no heat maps" in capsys.readouterr().out) != has
    if not has:
        assert found == []
        return
    answers = Predictions.load(run / "predictions" / "test.npz")
    wanted = choose_shown(answers)
    assert [(told.id, told.kind) for told, _ in found] == [(s.id, s.kind) for s in wanted]
    assert all(opened(content).shape == (SIDE, SIDE, 3) for _, content in found)
