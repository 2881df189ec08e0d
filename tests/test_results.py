"""What a run's answers amount to: intervals, decisions, and which pictures choose the epoch."""

import json

import numpy as np
import pytest

from finetune.composition import compose, dump_config, load_config
from finetune.errors import ConfigurationError
from finetune.evaluation.decisions import Decisions
from finetune.evaluation.metrics import compute_metrics
from finetune.evaluation.predictions import Predictions
from finetune.looks import count_looks
from finetune.results import decide, for_selection, measure_answers
from finetune.run import fit, resume
from finetune.run_directory import RunDirectory
from finetune.specs import LabelKind, LabelSpec


def answers(count=600, seed=0, sharpness=3.0, classes=("a", "b")):
    """Answers of a network that is too sure: calibrated logits times ``sharpness``."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (count, len(classes)))
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([random.choice(len(classes), p=row) for row in odds])
    return Predictions([f"{seed}-{i}" for i in range(count)], labels,
                       (logits * sharpness).astype(np.float32),
                       LabelSpec(LabelKind.single, classes))


@pytest.fixture(scope="module")
def both():
    return {"val": answers(800, 1), "test": answers(900, 2)}


def configured(*words):
    return compose(["data.root=somewhere", *words]).config


def decided(both, *words):
    found, measured = decide(configured(*words), both)
    return found, json.loads(json.dumps(measured, allow_nan=False))


def test_metrics_are_as_ever_and_each_lies_in_its_interval(both):
    found = measure_answers(both)
    assert found["test"] == compute_metrics(both["test"])
    for key in ("accuracy", "balanced_accuracy", "roc_auc", "log_loss"):
        entry = found["intervals"]["test"][key]
        assert entry["low"] < found["test"][key] < entry["high"]
    recall = found["intervals"]["test"]["per_class"]["a"]["recall"]
    assert recall["low"] < found["test"]["per_class"]["a"]["recall"] < recall["high"]


def test_half_of_validation_chooses_and_the_other_half_is_fitted_on(both):
    chosen = for_selection(configured(), both["val"])
    found, _ = decided(both)
    assert len(chosen) + found.count == len(both["val"]) and not found.unstable
    assert set(for_selection(configured("seed=5"), both["val"]).ids) == set(chosen.ids)
    small = answers(60, 3)
    assert for_selection(configured(), small) is small
    nothing = configured("decisions.calibration=none", "decisions.set_level=null")
    assert for_selection(nothing, both["val"]) is both["val"]
    assert decide(nothing, both) == (None, {})


def test_a_sure_network_is_calibrated_and_sets_cover(both):
    found, measured = decided(both)
    assert found.calibration.kept and 2.4 < found.calibration.temperature < 3.6
    calibration = measured["calibration"]
    assert calibration["after"]["log_loss"] < calibration["before"]["log_loss"]
    assert measured["prediction_sets"]["coverage"]["value"] > 0.85
    assert Decisions.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(("words", "place"), [
    (["decisions.calibration=vector"], ("calibration", "kind")),
    (["decisions.calibration=bias_corrected"], ("calibration", "kind")),
    (["decisions.calibration=none"], ("calibration", "kept")),
    (["decisions.sensitivity=0.95"], ("operating_points",)),
    (["decisions.specificity=0.95"], ("operating_points",)),
    (["decisions.precision=0.8"], ("operating_points",)),
    (["decisions.best_f1=true"], ("operating_points",)),
    (["decisions.costs=[[0,1],[9,0]]"], ("costs",)),
    (["decisions.set_level=0.7"], ("prediction_sets", "level")),
    (["decisions.set_level=null"], ("prediction_sets",)),
    (["decisions.set_method=lac"], ("prediction_sets", "method")),
    (["decisions.sets_by_class=true"], ("prediction_sets",)),
    (["decisions.sets_randomised=true"], ("prediction_sets",)),
    (["decisions.answered_accuracy=0.9"], ("abstention",)),
])
def test_each_key_changes_what_is_decided(both, words, place):
    def look(measured):
        for key in place:
            measured = measured.get(key) if measured else None
        return measured
    base = [word for word in words if word.startswith("training.")]
    assert look(decided(both, *words)[1]) != look(decided(both, *base)[1])


@pytest.mark.parametrize("word", ["training.class_weights=balanced", "data.sampling=balanced",
                                  "training.logit_adjustment=1"])
def test_after_training_on_other_frequencies_biases_are_corrected(word):
    shifted = {part: answers(1200, seed, sharpness=1.0) for part, seed in
               (("val", 1), ("test", 2))}
    for given in shifted.values():
        given.logits[:, 0] += 1.5
    assert decided(shifted, word)[0].calibration.kind == "bias_corrected"
    assert decided(shifted)[0].calibration.kind == "temperature"


def test_a_guarantee_answers_less(both):
    wish = ["decisions.answered_accuracy=0.85"]
    plain, sure = (decided(both, *wish, *more)[1]["abstention"]["answered"]["value"]
                   for more in ([], ["decisions.guarantee=0.95"]))
    assert sure < plain


def test_a_wished_sensitivity_is_about_reached_on_test(both):
    _, measured = decided(both, "decisions.sensitivity=0.9")
    (point,) = measured["operating_points"]
    assert point["class"] == "b" and point["sensitivity"]["low"] < 0.9 < 0.97


@pytest.mark.parametrize(("words", "told"), [
    (["decisions.guarantee=0.9"], "nothing without decisions.answered_accuracy"),
    (["decisions.sets_randomised=true", "decisions.set_method=lac"], "set_method=lac"),
    (["decisions.costs=[[0,1],[1]]"], "as many in each as"),
    (["decisions.costs=much"], "something like"),
    (["decisions.sensitivity=1.5"], "out of range"),
    (["decisions.set_level=1"], "out of range"),
    (["decisions.calibration=platt"], "expected one of auto"),
])
def test_wishes_that_make_no_sense_are_refused(words, told):
    with pytest.raises(ConfigurationError, match=told.replace("[", r"\[")):
        configured(*words)


def test_costs_of_other_classes_are_refused_before_training(words):
    with pytest.raises(ConfigurationError, match="one for each of 2 classes"):
        fit(compose([*words, "decisions.costs=[[0,1,1],[1,0,1],[1,1,0]]"]).config)


def test_costs_survive_the_file(tmp_path):
    config = configured("decisions.costs=[[0,1],[9,0]]")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml").decisions.costs == [[0.0, 1.0], [9.0, 0.0]]


# ---- in a run

@pytest.fixture
def words(tmp_path):
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2
    images = random.integers(0, 150, (120, 24, 24, 3)) + labels[:, None, None, None] * 40
    np.savez(tmp_path / "some.npz", images=images.astype(np.uint8), labels=labels)
    return [f"data.root={tmp_path / 'some.npz'}", f"output_dir={tmp_path / 'runs'}",
            "model.name=resnet10t", "model.weights=null", "data.image_size=32",
            "training.epochs=1", "training.precision=fp32", "tracking.mode=disabled"]


def test_a_run_keeps_its_decisions_beside_and_in_the_weights(words):
    from safetensors import safe_open

    run = fit(compose(words).config)
    stored = Decisions.from_dict(json.loads((run.path / "decisions.json").read_text()))
    with safe_open(run.best_weights, "np") as file:
        inside = json.loads(json.loads(file.metadata()["finetune"])["decisions"])
    assert Decisions.from_dict(inside) == stored and stored.unstable
    assert run.metrics["intervals"]["test"]["accuracy"]["low"] is not None
    assert run.metrics["selection"]["pictures"] == len(Predictions.load(
        run.predictions_path("val")))
    page = (run.path / "report.html").read_text()
    assert "Probabilities and decisions" in page and "95 % interval" in page


def test_looks_at_a_test_part_are_counted_by_configuration(words):
    def looks(*more):
        return count_looks(fit(compose([*words, *more]).config))
    assert looks() == 1
    assert looks("seed=1") == 1, "a seed is no other configuration"
    assert looks("optimizer.lr=0.01") == 2
    assert looks("optimizer.lr=0.02") == 3
    run = fit(compose([*words, "optimizer.lr=0.02"]).config)
    (run.path / "report.html").unlink()
    assert count_looks(resume(RunDirectory(run.path))) == 3
    assert "3 different configurations" in (run.path / "report.html").read_text()
    assert looks("data.split_seed=4") == 1, "another test part"


def test_torn_lines_of_looks_are_passed_over(words):
    run = fit(compose(words).config)
    with (run.path.parent / "test_looks.jsonl").open("a") as stream:
        stream.write('{"data": "cut off\n[]\n')
    assert count_looks(run) == 1


def test_a_run_says_for_whom_it_fails(tmp_path, words):
    random = np.random.default_rng(3)
    rows = ["path,label,site"]
    for i in range(160):
        image = random.integers(0, 150, (24, 24, 3)) + (i % 2) * 60
        from PIL import Image
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]},{'north' if i % 3 else 'south <b>'}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    run = fit(compose([*words[1:], f"data.root={tmp_path}", "data.labels_file=table.csv",
                       "data.subgroup_columns=site", "data.test_fraction=0.5"]).config)
    found = run.metrics["subgroups"]["columns"]["site"]
    assert {row["value"] for row in found["values"]} >= {"north"}
    page = (run.path / "report.html").read_text()
    assert "For whom it fails" in page and "<b>south" not in page and "north" in page
