"""What is wrong with a command, its pictures or its output is told, and costs nobody anything."""

import csv
import json
import os
import resource
import stat
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune.data.decoding import UnreadableImage, decode_image
from finetune.data.given_pictures import GivenPictures
from finetune.errors import DataError, InputError
from finetune.prediction import predicting
from finetune.prediction.files import RowFile, partial_of, side_of
from finetune.prediction.predicting import PredictOptions, predict
from finetune.prediction.predictor import Predictor
from finetune.prediction.values import Answers, Origin
from finetune.specs import Dtype, InputSpec, LabelKind, LabelSpec

SPEC = InputSpec((8, 8), 3, ("r", "g", "b"), Dtype.uint8, (0, 255), (0, 0, 0), (1, 1, 1))
FEW = PredictOptions(batch_size=1)  # read ahead three pictures
LABELS = LabelSpec(LabelKind.single, ("dark", "light"))


def brightness(batch):
    light = batch.mean(axis=(1, 2, 3)) / 255
    odds = np.column_stack([1 - light, light])
    return Answers(odds, np.log(odds + 1e-9))


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """A network that any machine has: how light is the picture?"""
    made = Predictor(spec=SPEC, labels=LABELS, decisions=None, seen=None, far=None,
                     network=brightness,
                     origin=Origin("run", "hash", None, None, rehearsal=False), batch_size=4)
    monkeypatch.setattr(predicting, "load_predictor", lambda *words, **options: made)
    return made


@pytest.fixture
def pictures(tmp_path):
    for number in range(12):
        draw(tmp_path / "p" / f"{number:02d}.png", 20 * number)
    return tmp_path / "p"


def draw(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((9, 11, 3), value, np.uint8))
    return path


def rows_of(output):
    with output.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def named(*words, **options):
    return [each.name for each in GivenPictures([str(word) for word in words], **options)]


# ---- files that are no pictures


def test_a_pipe_is_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match="pipe or a device"):
        decode_image(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match="pipe or a device"):
        decode_image("/dev/zero")  # would fill the memory


def test_heic_is_told_by_its_name():
    for brand in (b"heic", b"mif1"):
        with pytest.raises(UnreadableImage, match="HEIC, which is not decoded here"):
            decode_image(b"\0\0\0\x18ftyp" + brand + bytes(40))


# ---- words and tables


def test_an_empty_word_is_told():
    with pytest.raises(DataError, match="unset variable"):
        GivenPictures([""])


def test_a_pattern_finds_a_picture_once_whatever_links_there_are(pictures, tmp_path, monkeypatch):
    (pictures / "loop").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(pictures)
    own = sorted(map(str, pictures.glob("*.png")))
    assert named(f"{tmp_path}/p/**/*.png") == own
    assert named(f"{tmp_path}/p/**") == named(f"{tmp_path}/p/**/*") == own
    assert len(named(f"{tmp_path}/*/*.png")) == 24  # a link that is no loop is followed
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").unlink()
    draw(tmp_path / "q" / "[a]" / ".hidden" / "1.png", 0)
    draw(tmp_path / "q" / "[a]" / "2.png", 0)
    assert named("**/2.png") == named("q/**/2.png") == ["q/[a]/2.png"]
    assert named("**/q/**/*.png") == named("q/*/*.png") == ["q/[a]/2.png"]


@pytest.mark.parametrize(("text", "told"), [
    ("path,x,path\na.png,1,b.png\n", "2 columns 'path'"),
    ("path,x\n\"a.png,1\nb.png,2\n", "can't be read as a table"),
    ("", "no column 'path'")])
def test_a_table_of_which_rows_would_be_lost_is_refused(tmp_path, text, told):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        named(tmp_path / "t.csv")


def test_a_row_without_a_path_has_its_error(tmp_path):
    draw(tmp_path / "a.png", 3)
    (tmp_path / "t.csv").write_text("number,path\n1,\n2,a.png\n3\n")
    assert predict("run", [str(tmp_path / "t.csv")], tmp_path / "o.csv") == 3
    rows = rows_of(tmp_path / "o.csv")
    assert [row["path"] for row in rows] == ["", "a.png", ""]
    assert [row["error"] for row in rows] == ["No such file or directory", "",
                                              "No such file or directory"]


# ---- the output


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_ordinary_file_is_never_replaced(pictures, tmp_path, overwrite):
    os.mkfifo(tmp_path / "pipe")
    options = PredictOptions(overwrite=overwrite)
    for output in (tmp_path / "pipe", Path("-")):
        with pytest.raises(InputError, match="no ordinary file"):
            predict("run", [str(pictures)], output, options)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_place_without_room_for_files_is_bad_input(pictures, tmp_path):
    for output in (Path("/proc/o.csv"), tmp_path / f"{'n' * 250}.csv"):
        with pytest.raises(InputError, match="can't be made"):
            predict("run", [str(pictures)], output)


def test_two_commands_do_not_write_one_file(pictures, tmp_path, model):
    output = tmp_path / "o.csv"
    first = RowFile.open(output, "csv", "path\n", {"a": 1}, resume=False)
    first.write(["x\n"])
    for resume in (True, False):
        with pytest.raises(InputError, match="another command is writing"):
            predict("run", [str(pictures)], output, PredictOptions(resume=resume, overwrite=True))
    assert json.loads(side_of(output).read_text()) == {"a": 1}
    first.finish()
    assert output.read_text() == "path\nx\n" and not partial_of(output).exists()


def test_a_command_killed_before_its_first_row_is_continued(pictures, tmp_path):
    output = tmp_path / "o.csv"
    partial_of(output).write_bytes(b"")
    assert predict("run", [str(pictures)], output, PredictOptions(resume=True)) == 0
    assert len(rows_of(output)) == 12


def test_a_whole_file_has_nothing_to_go_on_with(pictures, tmp_path):
    output = tmp_path / "o.csv"
    predict("run", [str(pictures)], output)
    with pytest.raises(InputError, match="exists and is whole"):
        predict("run", [str(pictures)], output, PredictOptions(resume=True))


def test_a_full_disk_loses_no_row(pictures, tmp_path):
    whole, output = tmp_path / "whole.csv", tmp_path / "o.csv"
    predict("run", [str(pictures)], whole)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole.stat().st_size - 200, before[1]))
    try:
        with pytest.raises(OSError):
            predict("run", [str(pictures)], output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not output.exists() and partial_of(output).read_bytes().count(b"\n") > 4
    assert predict("run", [str(pictures)], output, PredictOptions(resume=True)) == 0
    assert output.read_bytes() == whole.read_bytes()


# ---- standard input


def test_how_many_names_standard_input_has_is_unknown(pictures, tmp_path, monkeypatch):
    told = []

    @contextmanager
    def bar(text, total):
        told.append(total)
        yield lambda done: None

    monkeypatch.setattr(predicting, "progress_bar", bar)
    lines = [f"{each}\r\n" for each in sorted(pictures.iterdir())] + ["\n", "\r\n", "none.png"]
    assert predict("run", ["-"], tmp_path / "o.csv", lines=lines) == 3
    assert [row["path"] for row in rows_of(tmp_path / "o.csv")] == [
        *map(str, sorted(pictures.iterdir())), "none.png"]
    predict("run", [str(pictures)], tmp_path / "p.csv")
    assert told == [None, 12]


def test_rows_that_are_there_survive_a_table_that_is_wrong(pictures, tmp_path):
    (tmp_path / "wrong.csv").write_text("file\nx.png\n")
    names = [str(path) for path in sorted(pictures.iterdir())]
    with pytest.raises(DataError):
        predict("m", ["-", str(tmp_path / "wrong.csv")], tmp_path / "o.csv", FEW, lines=names)
    assert len(partial_of(tmp_path / "o.csv").read_text().splitlines()) > 2


def test_a_partial_file_that_is_no_text_is_told(pictures, tmp_path):
    (tmp_path / "wrong.csv").write_text("file\nx.png\n")
    with pytest.raises(DataError):
        predict("m", ["-", str(tmp_path / "wrong.csv")], tmp_path / "o.csv", FEW,
                lines=[str(pictures / "00.png")] * 12)
    partial = partial_of(tmp_path / "o.csv")
    partial.write_bytes(partial.read_bytes() + b"\xff\xfe,x\n")
    with pytest.raises(InputError, match="damaged"):
        predict("m", ["-", str(tmp_path / "wrong.csv")], tmp_path / "o.csv",
                replace(FEW, resume=True), lines=[str(pictures / "00.png")] * 12)
