import json

import cv2
import numpy as np
import pytest

from finetune.__main__ import main


@pytest.fixture
def words(tmp_path):
    random = np.random.default_rng(0)
    for number in range(36):
        path = tmp_path / "pictures" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 255, (32, 32, 3), np.uint8))
    return [f"data.root={tmp_path / 'pictures'}", "model.name=resnet10t", "model.weights=null",
            "data.image_size=32", "data.batch_size=8", "data.workers=0", "training.epochs=3",
            "tracking.mode=disabled", "freezing.policy=phases", "schedule.name=constant",
            "schedule.warmup_fraction=0", "optimizer.stage_lrs={layer4:1e-5}",
            "freezing.phases=[{epochs:1,depths:head,lr:2e-3},{epochs:2,depths:layer4 head}]"]


def test_the_plans_rates_and_epochs_are_those_of_the_training(words, tmp_path, capsys):
    assert main(["plan", *words]) == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()
            if line.strip()[:1].isdigit() and len(line.split()) > 4}
    assert main([*words, f"output_dir={tmp_path / 'runs'}"]) == 0
    history = next(tmp_path.glob("runs/*/history.jsonl")).read_text().splitlines()
    trained = [json.loads(line) for line in history]
    assert [sorted(epoch["lr"]) for epoch in trained] == [["fc"], ["fc", "layer4"],
                                                          ["fc", "layer4"]]
    assert "0.002, 0.001" in rows["fc"] and rows["fc"].rstrip().endswith("1-3")
    assert "1e-05" in rows["layer4"] and rows["layer4"].rstrip().endswith("2-3")
    assert [epoch["lr"]["fc"] for epoch in trained] == pytest.approx([2e-3, 1e-3, 1e-3])
    assert trained[1]["lr"]["layer4"] == pytest.approx(1e-5)
