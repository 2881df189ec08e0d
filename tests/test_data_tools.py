import csv

import pytest

from data_tools import make_sample, make_split


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    assert make_sample.main(["medical", str(folder)]) == 0
    return folder


def rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_split_by_patients_is_written_and_can_be_read_back(samples, tmp_path, capsys):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    assert make_split.main([str(first), f"data.root={samples}"]) == 0
    parts = {}
    for row in rows(first):
        parts.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in parts.values()) and len(parts) > 20
    again = [str(second), f"data.root={samples}", f"data.splits_file={first}"]
    assert make_split.main(again) == 0
    assert second.read_text() == first.read_text()
    assert "group split" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "told"), [
    (["{new}"], "data.root"), (["{new}", "data.root=nowhere"], "nowhere"),
    (["{old}", "data.root={samples}"], "exists"), (["data.root={samples}"], "first word"),
    (["{new}", "data.root={samples}", "data.sede=1"], "data.s")])
def test_bad_input_is_exit_2_and_writes_nothing(words, told, samples, tmp_path, capsys):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text("mine")
    given = [w.format(old=old, new=new, samples=samples) for w in words]
    assert make_split.main(given) == 2
    assert told in capsys.readouterr().err
    assert old.read_text() == "mine" and not new.exists()
