import os
import shlex
import subprocess
import sys

import pytest

from finetune.__main__ import main
from finetune.recipes import find_recipe


def test_bare_call_says_what_to_do_next(capsys):
    assert main([]) == 0
    assert "recipe=medical data.root=DIR" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "told"), [
    (["plam"], "'plan'"), (["show", "medcal"], "'medical'"), (["cp", "medical"], "FILE"),
    (["resume", "nowhere"], "nowhere"), (["sead=1"], "seed"), (["-m", "sead=1,2"], "seed"),
    (["medical"], "recipe=medical"), (["recipe=medicl", "-m", "seed=1,2"], "medical"),
    (["cp", "medical", "no/such/folder/mine"], "folder"), (["show", "no/such.yaml"], "no/such"),
    (["evaluate", "nowhere", "--split", "training"], "invalid choice")])
def test_bad_input_is_exit_2_with_a_hint_and_no_traceback(words, told, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error


def test_similar_runs_are_named(tmp_path, capsys):
    (tmp_path / "medical-20260101-000000-ab12").mkdir()
    (tmp_path / "medical-20260101-000000-ab12" / "config.yaml").write_text("seed: 0\n")
    assert main(["report", str(tmp_path / "medical-20260101-000000-ab13")]) == 2
    assert "ab12" in capsys.readouterr().err


def test_show_prints_the_file_and_cp_copies_it_once(tmp_path, capsys):
    assert main(["show", "medical"]) == 0
    assert capsys.readouterr().out == find_recipe("medical").text
    assert main(["cp", "medical", str(tmp_path / "mine.yaml")]) == 0
    assert (tmp_path / "mine.yaml").read_text() == find_recipe("medical").text
    assert main(["cp", "medical", str(tmp_path / "mine.yaml")]) == 2


def test_ls_names_every_recipe(capsys):
    assert main(["ls"]) == 0
    out = capsys.readouterr().out
    assert "gradual_unfreezing" in out and "linear_probe" in out


def test_a_refusal_ends_with_commands_that_can_be_pasted(tmp_path, capsys):
    for part, names in (("train", "1234"), ("test", "14")):
        for name in names:
            target = tmp_path / "my set" / part / ("a" if name < "3" else "b") / f"{name}.pgm"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"P5 2 2 255\n" + name.encode() * 4)
    words = ["recipe=medical", "model.weights=null", f"data.root={tmp_path / 'my set'}",
             "data.duplicates=refuse"]
    assert main(["plan", *words]) == 2
    lines = [shlex.split(line) for line in capsys.readouterr().err.splitlines()
             if line.startswith("  python -m finetune")]
    assert [line[-1] for line in lines] == [
        "data.duplicates=drop_from_train", "data.duplicates=regroup", "data.waiver=REASON"]
    for line in lines:
        assert line[:7] == ["python", "-m", "finetune", "plan", *words[:3]]
        assert "data.duplicates=refuse" not in line


@pytest.mark.parametrize("words", [
    ["-h"], ["recipe=medical", "--help"], ["plan", "--help"], ["plan", "seed=1", "-h"]])
def test_help_is_printed_whatever_stands_before_it(words, capsys):
    assert main(words) == 0
    assert "Exit codes" in capsys.readouterr().out


def test_a_broken_recipe_stops_no_other(tmp_path, monkeypatch, capsys):
    (tmp_path / "latin.yaml").write_bytes(b"# caf\xe9\nseed: 1\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "good.yaml").write_text("# a good one\nseed: 1\n")
    monkeypatch.setenv("FINETUNE_RECIPE_PATH", str(tmp_path))
    assert main(["ls"]) == 0 and "a good one" in capsys.readouterr().out
    assert main(["show", "latin"]) == 2 and "latin.yaml" in capsys.readouterr().err


def test_cp_takes_a_folder_and_never_cuts_a_name(tmp_path):
    assert main(["cp", "medical", str(tmp_path)]) == 0
    assert main(["cp", "medical", str(tmp_path / "mine.v2")]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["medical.yaml", "mine.v2.yaml"]


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_give_up_their_core_unless_told_otherwise(given, expected):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    code = "import finetune, os; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                          text=True, check=True)
    assert done.stdout.strip() == expected
