import cv2
import numpy as np
import pytest

from finetune.data.cue_guessing import cells_of, guess_labels
from finetune.data.cue_words import tell, tell_by_class
from finetune.data.cues import Cue, CueKind, cues_of
from finetune.data.samples import FolderSource
from finetune.data.scanning import scan_pictures
from finetune.data.shortcuts import (
    Verdict,
    choose_sample,
    find_shortcuts,
    mean_recall_interval,
)

NAMES = ("cat", "dog")
LABELS = np.array([0, 1] * 60)
ROWS = np.arange(len(LABELS))


def words(values, kind=CueKind.seen, name="colour mode"):
    return Cue(name, kind, ROWS, words=list(values))


def numbers(values, kind=CueKind.content, name="brightness"):
    return Cue(name, kind, ROWS, numbers=np.asarray(values, float)[:, None], columns=(name,))


def measured(*cues, labels=LABELS, units=ROWS, **more):
    found = find_shortcuts(cues, labels, units, NAMES, sample=ROWS.tolist(),
                           **{"permutations": 19, **more})
    return {result.name: result for result in found}


def test_a_mode_that_tells_the_class_is_a_shortcut_in_plain_words_with_counts():
    found = measured(words(np.where(LABELS, "grey", "RGB")))["colour mode"]
    assert found.verdict is Verdict.shortcut and found.balanced_accuracy == 1
    assert found.words == ("every 'cat' picture is RGB, 60 of 60; every other one is grey, "
                           "60 of 60")
    assert 0.95 < found.interval[0] < 1 == found.interval[1]  # no certainty from 60 pictures
    assert found.p_value == pytest.approx(1 / 20)


def test_noise_is_nothing_in_almost_all_collections():
    random = np.random.default_rng(0)
    alarms = 0
    for seed in range(12):
        cues = [numbers(random.normal(size=120), CueKind.seen, "picture size"),
                words(random.choice(["a", "b", "c"], 120))]
        alarms += any(r.verdict is not Verdict.nothing
                      for r in measured(*cues, seed=seed).values())
    assert alarms <= 2  # at a rate of .05, 3 or more of 12 come in 2 % of cases


def test_shuffled_labels_hide_a_planted_shortcut():
    shuffled = np.random.default_rng(1).permutation(LABELS)
    found = measured(words(np.where(LABELS, "grey", "RGB")), labels=shuffled)["colour mode"]
    assert found.verdict is Verdict.nothing and found.words == ""


@pytest.mark.parametrize(("kind", "gain", "verdict"), [
    (CueKind.seen, None, "shortcut"), (CueKind.source, None, "warning"),
    (CueKind.name, None, "note"), (CueKind.content, None, "note"),
    (CueKind.content, 0.5, "shortcut"), (CueKind.name, 0.5, "note")])
def test_what_a_cue_amounts_to_depends_on_its_kind_and_the_models_gain(kind, gain, verdict):
    found = measured(numbers(LABELS + 0.0, kind), model_gain=gain)["brightness"]
    assert found.verdict.value == verdict


def test_content_with_less_than_half_of_the_models_gain_stays_a_note():
    values = np.where(np.arange(120) % 10 < 6, LABELS, 0)  # tells about .6 of one class
    found = measured(numbers(values), model_gain=0.95)["brightness"]
    assert found.balanced_accuracy - 0.5 < 0.95 / 2 and found.verdict is Verdict.note


def test_guesses_are_those_of_scikit_learns_naive_bayes():
    bayes = pytest.importorskip("sklearn.naive_bayes")
    random = np.random.default_rng(7)
    for columns, classes in ((1, 2), (3, 4), (2, 3)):
        labels = random.choice(classes, 300, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
        cells = (random.normal(size=(300, columns)) + labels[:, None]).clip(-2, 5).round() + 2
        cells, folds = cells.astype(int), random.integers(0, 5, 300)
        expected = np.empty(300, int)
        for fold in range(5):
            inside = folds == fold
            counts = np.bincount(labels[~inside])
            model = bayes.CategoricalNB(alpha=1, fit_prior=False, min_categories=8)
            model.fit(cells[~inside], labels[~inside],
                      sample_weight=(counts.sum() / counts / classes)[labels[~inside]])
            expected[inside] = model.predict(cells[inside])
        assert (guess_labels(cells, labels, folds) == expected).mean() > 0.99  # but for ties


def test_values_are_put_into_cells_of_one_size_and_frequent_ones_have_their_own():
    values = np.concatenate([np.arange(100.0), np.full(80, 200.0), np.full(20, np.nan)])
    cue = Cue("brightness", CueKind.content, np.arange(200), numbers=values[:, None])
    cells = cells_of(cue, np.arange(200), classes=2)[:, 0]
    sizes = np.bincount(cells)
    assert len(set(cells[100:180])) == 1 == len(set(cells[180:]))
    assert sorted(sizes)[-1] == 80 and sizes[cells[199]] == 20
    assert max(sorted(sizes)[:-2]) <= 2 * 200 // 20 and len(sizes) <= 22


def test_a_colour_of_the_border_is_told_whatever_its_brightness():
    """Red alone and blue alone tell nothing; their difference tells everything."""
    bright = np.random.default_rng(8).uniform(40, 200, 120)
    border = np.column_stack([bright + 6 * LABELS, bright, bright - 6 * LABELS])
    cue = Cue("border colours", CueKind.content, ROWS, numbers=border, columns=("r", "g", "b"))
    assert measured(cue)["border colours"].balanced_accuracy > 0.8


def test_with_many_classes_fewer_permutations_are_made():
    labels = np.repeat(np.arange(60), 6)
    made = []
    find_shortcuts([Cue("size", CueKind.seen, np.arange(360), words=[str(v % 7) for v in labels])],
                   labels, np.arange(360), [str(i) for i in range(60)], sample=list(range(360)),
                   progress=made.append)
    assert made[-1] == 19


def test_what_only_tells_patients_apart_is_no_shortcut():
    patients = np.repeat(np.arange(12), 10)
    labels = np.random.default_rng(2).permutation(np.repeat([0, 1], 6))[patients]
    cue = numbers(patients * 1.0, CueKind.seen)
    assert measured(cue, labels=labels)["brightness"].balanced_accuracy > 0.9
    apart = measured(cue, labels=labels, units=patients)["brightness"]
    assert apart.verdict is Verdict.nothing and apart.units == 12


def test_results_follow_names_and_not_the_order_of_pictures():
    random = np.random.default_rng(3)
    ids = [f"{i:03}.png" for i in range(120)]
    values = LABELS + random.normal(size=120)

    def result(order):
        cue = Cue("size", CueKind.seen, ROWS, numbers=values[order][:, None], columns=("px",))
        sample = choose_sample([ids[i] for i in order], LABELS[order])
        return find_shortcuts([cue], LABELS[order], ROWS[order], NAMES, sample=sample,
                              permutations=9)

    assert result(ROWS) == result(random.permutation(120))


def test_the_sample_has_as_many_pictures_of_a_rare_class():
    labels = np.array([0] * 500 + [1] * 50)
    sample = choose_sample([str(i) for i in range(550)], labels, limit=80)
    assert np.bincount(labels[sample]).tolist() == [40, 40] and len(set(sample)) == 80


def test_too_few_pictures_measure_nothing():
    assert find_shortcuts([numbers(np.arange(120.0))], LABELS, ROWS % 2, NAMES,
                          sample=ROWS.tolist()) == []


def test_the_interval_of_one_class_is_wilsons():
    stats = pytest.importorskip("scipy.stats")
    labels, guess = np.zeros(40, int), np.repeat([0, 1], [33, 7])
    expected = stats.binomtest(33, 40).proportion_ci(method="wilson")
    assert mean_recall_interval(labels, guess, np.arange(40)) == pytest.approx(
        (expected.low, expected.high), abs=1e-6)
    wide = mean_recall_interval(labels, guess, np.arange(40) // 4)
    assert wide[0] < expected.low and wide[1] > expected.high


def test_a_threshold_is_told_with_what_lies_beyond_it():
    told = tell(numbers(np.where(LABELS, 30.0, 10.0 + ROWS % 3), name="width|px"), LABELS, NAMES)
    assert told == ("every 'cat' picture has a width of 12 px or less, 60 of 60; none of the 60 "
                    "others has")


def test_a_property_is_counted_in_each_of_some_classes():
    labels = np.arange(120) % 3
    cue = words(np.where(labels == 2, "grey", "RGB"))
    assert tell_by_class(cue, labels, ("a", "b", "c")) == "grey: 0 of 40 'a', 0 of 40 'b', " \
                                                          "40 of 40 'c'"
    assert tell_by_class(words(np.where(LABELS, "grey", "RGB")), LABELS, NAMES) == ""


@pytest.fixture
def pictures(tmp_path):
    """Twelve each: cats are grey PNGs, dogs JPEGs with a bright border and another size."""
    random = np.random.default_rng(4)
    for number in range(12):
        cat = random.integers(0, 120, (40, 40), np.uint8)
        dog = random.integers(0, 120, (50, 40, 3), np.uint8)
        dog[:3] = dog[-3:] = dog[:, :3] = dog[:, -3:] = 250
        cv2.imwrite(str(tmp_path / f"cat{number}.png"), cat)
        cv2.imwrite(str(tmp_path / f"dog{number}.jpg"), dog)
    return tmp_path, sorted(p.name for p in tmp_path.iterdir())


def test_cues_are_read_from_files(pictures):
    folder, ids = pictures
    source = FolderSource(str(folder))
    facts = scan_pictures(source, ids)
    every = list(range(len(ids)))
    cues = {c.name: c for c in cues_of(ids, facts)}
    assert set(cues) == {"colour mode", "picture size", "file format", "JPEG compression",
                         "colours", "brightness", "border colours", "corner patches", "file size",
                         "name pattern", "number in the name"}
    labels = np.array([name.startswith("dog") for name in ids]).astype(int)
    found = {r.name: r for r in find_shortcuts(
        list(cues.values()), labels, np.arange(24), NAMES, sample=every, permutations=19)}
    seen = {n for n, r in found.items() if r.verdict is Verdict.shortcut}
    assert seen == {"colour mode", "picture size", "file format", "JPEG compression"}
    assert found["border colours"].verdict is Verdict.note
    assert found["number in the name"].verdict is Verdict.nothing
    assert "height" in found["picture size"].words  # the width is the same


def test_cues_that_do_not_vary_are_left_out_and_broken_files_have_no_glance(tmp_path):
    picture = np.random.default_rng(5).integers(0, 255, (20, 20, 3), np.uint8)
    for name in ("a1.png", "a2.png"):
        cv2.imwrite(str(tmp_path / name), picture)
    (tmp_path / "a3.png").write_bytes(b"no picture")
    source = FolderSource(str(tmp_path))
    facts = scan_pictures(source, ["a1.png", "a2.png", "a3.png"])
    assert [f.glance is None for f in facts] == [False, False, True]
    cues = cues_of(["a1.png", "a2.png"], facts[:2])
    assert [c.name for c in cues] == ["number in the name"]
