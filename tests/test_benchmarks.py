"""Scripts of benchmarks/: they say what they do at once, and count, divide and compare rightly."""

import argparse
import doctest
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent / "benchmarks"
PEERS = sorted(path for path in (ROOT / "peers").glob("*.py") if path.name != "job.py")
SCRIPTS = [*(ROOT / f"{name}.py" for name in (
    "audit_scale", "calibration_and_sets", "compare_power", "coverage", "evaluation", "far",
    "frozen", "gpu", "hostile", "how_much_to_freeze", "leaks_worth", "models", "planted_labels",
    "planted_leaks", "predict", "scaling", "startup")), *PEERS]


@pytest.fixture
def load(monkeypatch):
    """Import a script as it is imported when it runs."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "peers"), str(ROOT), *sys.path])
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(ROOT) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_says_what_is_measured_and_needs_no_peer(script):
    code = ("import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit as end: assert not end.code\n"
            "heavy = {'torch', 'timm', 'fastai', 'lightning', 'transformers'} & set(sys.modules)\n"
            "assert not heavy, heavy")
    path = os.pathsep.join([str(script.parent), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", code, str(script)], capture_output=True,
                          text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and len(done.stdout) > 400


def test_every_peer_has_its_requirements(load):
    run = load("run")
    for peer in run.PEERS:
        assert (ROOT / "peers" / f"{peer}.py").exists()
        assert "torch" in (ROOT / "peers" / f"requirements-{peer}.txt").read_text().split()


def test_a_division_has_the_sizes_asked_for_no_picture_twice_and_classes_in_equal_shares(load):
    pictures = [(f"{label}/{i}.jpg", label) for label in "abcd" for i in range(50)]
    rows = load("job").divide(pictures, {"train": 100, "val": 40, "test": 20})
    parts = {part: [row for row in rows if row[2] == part] for part in ("train", "val", "test")}
    assert {part: len(found) for part, found in parts.items()} == {
        "train": 100, "val": 40, "test": 20}
    assert len({path for path, _, _ in rows}) == 160
    for found in parts.values():
        counts = [sum(label == each for _, label, _ in found) for each in "abcd"]
        assert max(counts) - min(counts) <= 1


def test_too_few_pictures_are_told(load):
    with pytest.raises(SystemExit, match="4 wanted"):
        load("job").divide([("a/1.jpg", "a")], {"train": 4})


def test_a_job_survives_its_file(load, tmp_path):
    job = load("job")
    table = job.write_table([("x/1.jpg", "x", "train"), ("y/1.jpg", "y", "val")],
                            tmp_path / "t.csv")
    before = job.Job("A", str(table), "/data", "resnet18", None, 64, 1, tuned=True)
    after = job.Job.load(str(before.save(tmp_path / "job.json")))
    assert after == before
    assert after.rows("val") == [("/data/y/1.jpg", 1)]


def rounds_of(**seconds):
    return [{"round": i, "entry": name, "accuracy": 0.5, "whole_seconds": value,
             "cpu_seconds": value, "seconds": value, "whole_cpu_seconds": value,
             "peak_rss_mib": value, "versions": {}}
            for name, values in seconds.items() for i, value in enumerate(values)]


def test_ratios_compare_within_a_round(load):
    run = load("run")
    rows = rounds_of(finetune=[1, 10, 2], peer=[2, 20, 4])  # the machine was slow in the second
    found = run.summarise(rows)
    assert found["peer"]["ratios"]["cpu_seconds"] == 2
    assert found["finetune"]["ratios"]["cpu_seconds"] == 1
    assert found["peer"]["cpu_seconds"] == 4


def test_the_verdict_names_the_fastest_peer_of_each_kind(load):
    run = load("run")
    rows = rounds_of(finetune=[1.0], **{"a default": [3.0], "plain_torch default": [2.0],
                                        "a tuned": [1.5], "b tuned": [4.0]})
    told = run.verdict(run.summarise(rows))
    assert "Fastest default peer by CPU: plain_torch default, 2.00" in told
    assert "Fastest tuned peer by CPU: a tuned, 1.50" in told
    assert "0.50 × the plain torch loop's" in told
    assert "| plain_torch default | 2 | 2 |" in run.table(run.summarise(rows))


def test_each_entry_comes_once_in_a_round_and_not_always_at_the_same_place(load):
    run = load("run")
    entries = [run.Entry(name) for name in "abcde"]
    orders = [tuple(run.turned(entries, number)) for number in range(4)]
    assert all(sorted(e.name for e in order) == sorted(e.name for e in entries)
               for order in orders)
    assert len({order[0] for order in orders}) > 2


def test_the_clock_counts_children_alive_and_ended_and_leaves_pauses_out(load):
    measuring = load("measuring")
    if not Path("/proc/self/task").exists():
        pytest.skip("children that run are seen in /proc only")
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    clock = measuring.Clock()
    clock.start()
    child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    child.stdout.readline()
    clock.stop()
    alive = clock.cpu
    clock.start()
    child.communicate(b"\n")
    with clock.paused():
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass
    clock.stop()
    assert 0.45 < alive < 3
    assert alive - 0.05 < clock.cpu < alive + 0.4  # no longer alive, not counted twice


def test_a_process_reports_its_own_peak_and_not_its_parents(load):
    measuring = load("measuring")
    ballast = bytearray(200 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import measuring as m; " \
           "print(m.peak_rss_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert measuring.peak_rss_mib() > 200
    assert float(done.stdout) < 150


def test_what_a_process_measured_comes_back_and_its_failure_is_told(load, tmp_path):
    measuring = load("measuring")
    script = tmp_path / "script.py"
    script.write_text("import json, sys\nprint('log')\n"
                      "json.dump({'a': 1}, open(sys.argv[-1], 'w'))")
    found = measuring.run_self(script, [])
    assert found["a"] == 1 and found["whole_seconds"] > 0
    script.write_text("raise ValueError('why it failed')")
    with pytest.raises(SystemExit, match="why it failed"):
        measuring.run_self(script, [])


def test_a_disturbed_measurement_is_told(load):
    told = load("measuring").disturbance
    assert "NOT VALID" in told([{"foreign_cores": 0.01}, {"foreign_cores": 0.5}])
    assert "1 of 2" in told([{"foreign_cores": 0.01}, {"foreign_cores": 0.5}])
    assert "NOT VALID" not in told([{"foreign_cores": 0.05}])


def test_a_report_is_printed_and_stored(load, tmp_path, capsys):
    measuring = load("measuring")
    result = {"machine": measuring.describe_machine(("pillow",)), "rows": [1]}
    options = argparse.Namespace(json=tmp_path / "new" / "out.json")
    measuring.report(options, result, measuring.markdown(["a"], [[1.0]]))
    assert json.loads(options.json.read_text())["rows"] == [1]
    assert "| a |" in capsys.readouterr().out
    assert {"cpu", "cores", "commit", "versions"} <= result["machine"].keys()


def test_sizes_grow_by_about_three_up_to_the_largest(load):
    assert load("scaling").sizes(1000, 100_000) == [1000, 3000, 10_000, 30_000, 100_000]
    assert load("scaling").sizes(1000, 1000) == [1000]


def test_the_doctests_hold(load):
    for name in ("how_much_to_freeze", "leaks_worth", "measuring", "scaling"):
        assert doctest.testmod(load(name)).failed == 0


def test_a_start_is_seen_on_the_terminal(load):
    startup = load("startup")
    code = ("import time, sys; print('\\nrun /somewhere', flush=True); time.sleep(0.3); "
            "print('epoch 1 ━━ 1/9 batches', file=sys.stderr, flush=True); time.sleep(60)")
    found = startup.watch([sys.executable, "-c", code], startup.MARKS, dict(os.environ))
    assert 0.25 < found["first_step"] - found["run"] < 20
    with pytest.raises(SystemExit, match="before its first step"):
        startup.watch([sys.executable, "-c", "print('no')"], startup.MARKS, dict(os.environ))


def test_the_benchmark_for_a_gpu_runs_on_a_cpu(load, tmp_path):
    words = ["--device", "cpu", "--models", "resnet10t", "--size", "32", "--batch", "4", "--steps",
             "3", "--rounds", "1", "--pictures", "40", "--epochs", "2", "--frozen-model",
             "resnet10t", "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run([sys.executable, str(ROOT / "gpu.py"), *words], capture_output=True,
                          text=True, check=False, env={**os.environ, "MPLBACKEND": "agg"})
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    sides = {row["side"]: row for row in found["training"]}
    assert set(sides) == {"finetune", "finetune, not deterministic", "plain", "tuned"}
    assert sides["plain"]["ratio"] == sides["tuned"]["ratio_to_tuned"] == 1
    assert all(row["images_per_second"] > 0 and len(row["rounds"]) == 1 for row in sides.values())
    assert [row["cache_features"] for row in found["caching"]] == ["auto", "never"]
    assert "| resnet10t | tuned |" in done.stdout and "| auto | resnet10t |" in done.stdout


def test_calibration_and_sets_are_measured_in_small(load, tmp_path, monkeypatch, capsys):
    script = load("calibration_and_sets")
    monkeypatch.setattr(script, "TEST", 500)
    monkeypatch.setattr(sys, "argv", ["script", "--fast", "--output", str(tmp_path / "out.json")])
    script.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert {row["kind"] for row in found["calibration"]} == {
        "temperature", "bias_corrected", "vector", "per_label"}
    assert all(row["coverage"] > 0.85 and row["resplits"] == 10 for row in found["sets"])
    assert "log loss rose beyond its interval in" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["any", "alike"])
def test_planted_labels_are_wrong_where_told_and_a_perfect_ranking_scores_one(load, kind):
    from finetune.evaluation.label_errors import Suspect
    from finetune.specs import LabelKind, LabelSpec

    script = load("planted_labels")
    random, spec = np.random.default_rng(0), LabelSpec(LabelKind.single, ("a", "b", "c"))
    labels, clean = random.integers(0, 3, 200), random.dirichlet((1, 1, 1), 200)
    planted, wrong = script.plant(labels, clean, 0.1, kind, 1)
    assert wrong.sum() == 20 and ((planted != labels) == wrong).all()
    order = np.argsort(~wrong, kind="stable")
    suspects = [Suspect(int(i), spec.class_names[planted[i]], spec.class_names[labels[i]],
                        rank / 200, rank / 200, rank < 10) for rank, i in enumerate(order)]
    found = script.score(suspects, wrong, labels, spec)
    assert (found["recall"], found["precision"], found["recall_at_n"]) == (0.5, 1, 1)
    assert found["average_precision"] == found["by_margin"] == found["class_named"] == 1


def test_planted_pairs_of_an_audit_are_scored_by_level_and_others_counted_apart(load):
    told = {"identical": [["a/1", "b/2"]], "near_duplicates": [
        {"first": "a/3", "second": "a/4", "certain": False},
        {"first": "a/5", "second": "a/7", "certain": True}]}
    planted = {("a/1", "b/2"): "flip", ("a/4", "a/3"): "all", ("a/5", "a/6"): "all"}
    found = load("audit_scale").score(told, planted)
    assert (found["found"], found["certain"]) == (2, 1)
    assert found["beyond"] == {"certain": 1, "likely": 0}
    assert found["kinds"]["all"] == {"copies": 2, "certain": 0, "found": 1}


def test_an_audit_is_killed_when_enough_thumbnails_are_kept(load, tmp_path, monkeypatch):
    script = load("audit_scale")
    code = ("import sqlite3, sys, time\n"
            "for table, file in (('facts', 'pictures'), ('thumbnails', 'thumbnails')):\n"
            "    base = sqlite3.connect(f'cache/{file}.sqlite')\n"
            "    base.execute(f'CREATE TABLE IF NOT EXISTS {table} (hash TEXT PRIMARY KEY)')\n"
            "    for i in range(3):\n"
            "        base.execute(f'INSERT OR REPLACE INTO {table} VALUES ({i})')\n"
            "        base.commit()\n"
            "time.sleep(float(sys.argv[1]))")
    (tmp_path / "cache").mkdir()
    for seconds, until in ((60, 3), (0, None)):
        monkeypatch.setattr(script, "audit_process", lambda folder, log, s=seconds: (
            subprocess.Popen([sys.executable, "-c", code, str(s)], cwd=folder)))
        found = script.run_audit(tmp_path, until=until)
        assert found["killed"] == (until is not None) and found["seconds"] < 30
        assert found["thumbnails_kept"] == 3 if until else found["thumbnails_kept"] > 3
    assert found["facts_kept"] > 3  # the second start wrote kept rows once more, which is seen


def test_test_pictures_with_copies_in_train_and_those_in_both_test_parts_are_told_apart(load):
    script = load("leaks_worth")
    sets = script.copies({"identical": [["a", "b"]], "near_duplicates": [
        {"first": "b", "second": "c", "certain": True},
        {"first": "c", "second": "d", "certain": False}]})
    assert sets == [["a", "b", "c"]]
    before = script.Answers({"c": True, "d": False, "e": True}, frozenset({"a", "b"}))
    after = script.Answers({"d": True, "e": True, "a": False}, frozenset({"c"}))
    rows = {(row["training"], row["pictures"]): (row["count"], row["accuracy"])
            for row in script.compared(before, after, sets)}
    assert rows[script.BEFORE, "with a copy in train or val"] == (1, 1.0)
    assert rows[script.BEFORE, "without one"] == (2, 0.5)
    assert rows[script.BEFORE, "in both test parts"] == (2, 0.5)
    assert rows[script.AFTER, "in both test parts"] == (2, 1.0)
    assert rows[script.AFTER, "all of its test part"] == (3, pytest.approx(2 / 3))
    assert rows["difference", "in both test parts"] == (2, -0.5)
    assert rows["difference", "in both test parts, had a copy"] == (0, None)
    assert rows["difference", "in both test parts, had none"] == (2, -0.5)


def test_the_interval_of_a_paired_difference_counts_a_set_of_copies_once(load):
    script, lost = load("leaks_worth"), {f"{i}": (1, 0, 0, -1, 1)[i % 5] for i in range(200)}
    alone = script.difference(lost, {})
    deviation = np.std(list(lost.values()))
    assert alone["high"] - alone["accuracy"] == pytest.approx(1.96 * deviation / 200 ** 0.5)
    doubled = {**lost, **{f"copy of {name}": value for name, value in lost.items()}}
    together = script.difference(doubled, {f"copy of {name}": name for name in lost})
    assert together["high"] == pytest.approx(alone["high"]) and together["count"] == 400
def test_a_simulated_method_has_the_accuracy_and_the_spread_that_were_asked_for(load):
    script = load("compare_power")
    design = script.Design("power", "mixed", 0.02, 40, 10, 1)
    quality, luck = script.calibrated(design, (0.85, 0.80))
    drawn = [script.draw_right(design, quality, luck, np.random.default_rng(i)) for i in range(20)]
    means = np.array([[side.mean(axis=1) for side in sides] for sides in drawn])
    assert means.mean(axis=(0, 2)) == pytest.approx([0.85, 0.80], abs=0.01)
    # of 1,000 pictures' coins a little is added
    assert means.std(axis=2, ddof=1).mean() == pytest.approx(0.02, abs=0.004)


def test_equal_methods_are_seldom_called_different_and_others_mostly(load):
    script = load("compare_power")
    random = np.random.default_rng(0)
    (equal,) = script.measure_accuracy(script.Design("equal", "mixed", 0.02, 3, 10, 400), random)
    assert equal["better"] + equal["worse"] <= 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5
    assert equal["one_run"] > 0.15  # a test of pictures alone takes luck for skill
    (power,) = script.measure_accuracy(script.Design("power", "steady", 0.01, 5, 1, 100), random)
    assert power["better"] > 0.8 and power["discordance"] < 0.25
    rows = script.measure_metrics(script.Design("metrics", "3 classes", 0.02, 3, 1, 5), random)
    assert [row["metric"] for row in rows] == list(script.METRICS)
    assert "| power | accuracy | steady | 1 points | 5 | 1 |" in script.table([power])


def test_each_part_of_the_freezing_guide_is_a_study_with_three_seeds_and_a_search(load):
    from finetune.study.making import plan_study

    script = load("how_much_to_freeze")
    for part in script.PARTS.values():
        study, _ = plan_study([*part.words, *script.COMMON])
        assert study.reference == part.reference and study.seeds == [0, 1, 2]
        assert len(study.arms) >= 2 and all(arm.searches for arm in study.arms)
        assert "freezing.policy=none" in next(
            arm.words for arm in study.arms if arm.name == part.reference)


def test_thinned_scans_keep_train_whole_and_sets_of_copies_together(load):
    rows = [{"path": f"{split}{i}", "label": "ab"[i % 2], "split": split, "group": f"{i // 4}"}
            for split in ("train", "val", "test") for i in range(48)]
    kept = load("how_much_to_freeze").thinned(rows)
    counts = {split: sum(row["split"] == split for row in kept) for split in ("train", "val")}
    assert counts == {"train": 48, "val": 16}
    for row in kept:
        same = [r for r in rows if (r["split"], r["group"]) == (row["split"], row["group"])]
        assert all(each in kept for each in same)


def test_the_freezing_guides_table_has_a_row_an_arm_and_corrects_over_all_parts(load):
    script = load("how_much_to_freeze")
    entry = {"mean": 0.8, "std": 0.012, "low": 0.75, "high": 0.85}
    pair = {"value": -0.02, "low": -0.05, "high": 0.01, "p_holm": 0.04, "words": "too few"}
    row = {"part": "scans-imagenet-220", "arm": "head_only", "rate": 0.001, "edge": "highest",
           "val": entry, "test": entry, "train": 219, "seconds": 9.6, "searched": {"0.001": 0.81}}
    rows = [{**row, "pair": {**pair, "p": 0.02}}, {**row, "pair": None},
            {**row, "pair": {**pair, "p": 0.4}}]
    script.correct_all(rows)
    assert [each["pair"]["p_all"] for each in rows if each["pair"]] == [0.04, 0.4]
    told = script.table(rows).splitlines()
    assert "| scans-imagenet-220 | head_only | 0.001: 81.0 |" in told
    assert told[2] == (
        "| 219 scans | imagenet | head_only | 0.001 (highest) | 80.0 | 75 to 85 | 1.2 "
        "| 80.0 | 75 to 85 | 1.2 | -2.0 (-5.0 to +1.0) | 0.04 | 0.04 | 10 |")
