import hashlib
import json
import subprocess
import zipfile
from dataclasses import replace

import pytest
import yaml
from run_builder import build_run

from finetune.__main__ import main
from finetune.errors import InputError
from finetune.evidence import read_facts, write_evidence
from finetune.report.claim import ITEMS, write_claim
from finetune.report.heat_maps import HeatMap, write_heat_maps


def finished(folder, names=("well", "ill"), **more):
    run = build_run(folder, names, **more)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings |= {"optimizer": {"lr": 0.25}, "data": {"transform": "xray"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "report.html").write_text("<p>report")
    (folder / "splits.csv").write_text(
        "path,label,split,group\na,well,train,p1\nb,ill,test,p1\nc,ill,test,p2\nd,ill,,p2\n")
    run.best_weights.parent.mkdir()
    run.best_weights.write_bytes(b"weights")
    return run


def test_the_same_run_gives_the_same_bytes(tmp_path):
    (tmp_path / "run").mkdir()
    run = finished(tmp_path / "run")
    first = write_evidence(run, tmp_path / "first.zip")
    for path in run.path.rglob("*"):
        path.touch()
    second = write_evidence(run, tmp_path / "second.zip")
    assert first.read_bytes() == second.read_bytes()


def test_it_holds_what_a_reviewer_needs_with_sums_that_hold(tmp_path):
    (tmp_path / "run").mkdir()
    run = finished(tmp_path / "run")
    with zipfile.ZipFile(write_evidence(run, tmp_path / "e.zip")) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "out")
    assert names == sorted([
        "CLAIM.md", "SHA256SUMS", "config.yaml", "environment.json", "history.jsonl",
        "metrics.json", "predictions/test.npz", "predictions/val.npz", "report.html",
        "splits.csv"])
    for name in set(names) - {"CLAIM.md", "SHA256SUMS"}:
        assert (tmp_path / "out" / name).read_bytes() == (run.path / name).read_bytes()
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out",
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count(": OK") == len(names) - 1
    claim = (tmp_path / "out" / "CLAIM.md").read_text()
    assert hashlib.sha256(b"weights").hexdigest() in claim


@pytest.mark.parametrize(("name", "told"), [
    ("there.zip", "exists"), ("no/such/e.zip", "no folder"), ("e.tar", ".zip")])
def test_a_file_is_not_overwritten_and_a_wrong_name_is_told(tmp_path, name, told):
    (tmp_path / "run").mkdir()
    run = finished(tmp_path / "run")
    (tmp_path / "there.zip").write_text("mine")
    with pytest.raises(InputError, match=told):
        write_evidence(run, tmp_path / name)
    assert (tmp_path / "there.zip").read_text() == "mine"


def test_an_unfinished_run_leaves_no_archive(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    run = finished(tmp_path / "run")
    (run.path / "report.html").unlink()
    assert main(["evidence", str(run.path), str(tmp_path / "e.zip")]) == 2
    assert "report.html is missing" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_claim_has_44_items_in_order():
    assert [item[0] for item in ITEMS] == list(range(1, 45))
    assert all(item[3] is not None or item[4] for item in ITEMS)


def claim_of(run):
    facts = read_facts(run)
    return write_claim(facts), facts


def test_claim_tells_what_is_known_and_leaves_the_rest_open(tmp_path):
    run = finished(tmp_path)
    text, facts = claim_of(run)
    items = {int(line.split(".")[0].strip("- *")): line for line in text.splitlines()
             if line.startswith("- **")}
    assert len(items) == 44
    assert [n for n, line in items.items() if line.endswith("(open)")] == [
        2, 3, 4, 5, 6, 11, 13, 14, 15, 16, 17, 18, 30, 31, 33, 34, 40, 41, 44]
    low = facts.intervals["positive"]["sensitivity"]["low"]
    sensitivity = facts.values["positive"]["sensitivity"]
    assert f"sensitivity {sensitivity:.3f} ({low:.3f} to" in text
    assert "optimizer.lr=0.25" in text and "resnet50" in text and "ab12" in text
    assert text.count("  - Open: ") == sum(bool(item[4]) for item in ITEMS)


def test_claim_tells_groups_that_are_divided(tmp_path):
    run = finished(tmp_path, data={"groups": 2})
    text, facts = claim_of(run)
    assert facts.divided_groups == 1 and "2 groups (such as patients), 1 of them in several" in text


def test_claim_tells_heat_maps_interpolated_weights_and_looks(tmp_path):
    run = finished(tmp_path)
    text, facts = claim_of(run)
    assert "interpretability** (open)" in text and "Grad-CAM" not in text
    assert "WiSE-FT" not in text and "configurations" not in text
    write_heat_maps(tmp_path, [(HeatMap("a", "ill", "hit", "01.jpg"), b"jpeg")])
    mixed = {"wise_ft": {"coefficient": 0.5, "val": {"0": 0.1, "0.5": 0.3, "1": 0.2}}}
    (run.path / "metrics.json").write_text(json.dumps({**facts.metrics, **mixed}))
    text = write_claim(replace(read_facts(run), looks=3))
    assert "interpretability** (partly)" in text
    assert "Grad-CAM (Selvaraju 2017): heat maps of 1 pictures" in text
    assert "coefficient 0.5 of 3 tried" in text and "a mean with the starting ones" in text
    assert "3 different configurations" in text


def test_claim_says_not_defined_where_a_class_is_absent(tmp_path):
    run = finished(tmp_path, names=("x", "y", "z"))
    metrics = run.metrics
    metrics["test"]["per_class"]["y"] |= {"recall": 0.0, "support": 0}
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    assert "y: recall not defined" in claim_of(run)[0]


def test_claim_tells_a_waiver_a_rehearsal_and_a_missing_test_part(tmp_path):
    run = finished(tmp_path, part="val", rehearsal={"replaced": {}, "command": "c"},
                   data={"waiver": "same <b>patients*"})
    text, _ = claim_of(run)
    assert "REHEARSAL" in text and "There is no test part" in text
    assert "same &lt;b>patients\\*" in text


@pytest.mark.parametrize("more", [{"names": ("x", "y", "z"), "multi": True},
                                  {"names": tuple("abcde"), "groups": True}])
def test_claim_is_written_for_all_kinds_of_labels(tmp_path, more):
    spec = {"size": [32, 32], "channels": 3, "dtype": "uint8", "resize": "pad",
            "mean": [0.5], "std": [0.2]}
    text, facts = claim_of(finished(tmp_path, input_spec=spec, **more))
    assert "None" not in text.replace("None.", "") and "nan" not in text
    assert all(f"{name}: recall" in text for name in facts.values["class_names"])


def test_claim_tells_subgroups_and_a_site_that_was_left_out(tmp_path):
    run = finished(tmp_path, data={"split_method": "site"})
    text, facts = claim_of(run)
    assert "no picture was trained on" in text
    subgroups = {"columns": {"sex": {"worst": {"value": "f", "against_expected": -0.05}, "test": {
        "more_than_chance": True, "p_holm": 0.001}}}}
    (run.path / "metrics.json").write_text(json.dumps({**facts.metrics, "subgroups": subgroups}))
    assert "sex: worst f (-5.0 points" in claim_of(run)[0]
