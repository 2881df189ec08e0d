import json

import pytest

from finetune.files import write_json, write_text, write_with


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")

    def fail(stream):
        stream.write(b"new")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_with(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_refuses_nan_because_other_readers_do(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_json_keeps_letters_of_any_script(tmp_path):
    path = write_json(tmp_path / "a.json", {"klasse": "肺炎"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"klasse": "肺炎"}
    assert "肺炎" in path.read_text(encoding="utf-8")
