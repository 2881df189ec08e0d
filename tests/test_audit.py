import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from data_tools import audit as tool
from data_tools import make_split
from finetune.__main__ import main
from finetune.data.hashing import SIDE, Descriptors
from finetune.data.keeping_together import keep_together
from finetune.data.outliers import find_outliers
from finetune.data.samples import FolderSource, single_label

EVIL = "<script>alert(1)"


def draw(random, *, tone=0):
    """A picture of blobs that no other one looks like."""
    field = cv2.GaussianBlur(random.normal(size=(48, 48)).astype(np.float32), (0, 0), 3)
    field = (field - field.min()) / (field.max() - field.min())
    noise = random.integers(0, 40, (48, 48))
    return (field * 170 + noise + tone).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes in train and test: leaks, wrong labels, odd files; cats are colour files."""
    root, random = tmp_path_factory.mktemp("audited") / "set", np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 12)):
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                grey = draw(random)
                shown = np.dstack([grey] * 3) if name == "cat" else grey
                cv2.imwrite(str(folder / f"{part}{number:02}.png"), shown)
    for number in range(2):
        shutil.copy(root / f"train/dog/train{number:02}.png", root / f"test/dog/copy{number}.png")
    shutil.copy(root / "train/dog/train05.png", root / "train/cat/wrong.png")
    flipped = cv2.imread(str(root / "train/cat/train07.png"))[:, ::-1]
    cv2.imwrite(str(root / "test/cat/flipped.png"), flipped)
    (root / "train/cat/broken.png").write_bytes(b"no picture")
    cv2.imwrite(str(root / "train/dog/black.png"), np.zeros((48, 48), np.uint8))
    (root / "test/dog/copy1.png").rename(root / f"test/dog/{EVIL}.png")
    return root


@pytest.fixture(scope="module")
def audited(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    code = main(["audit", str(pictures), "--output", str(folder / "a"), "--fix-splits",
                 str(folder / "fixed.csv")])
    return code, folder


def findings(folder):
    return {f["key"]: f for f in json.loads((folder / "audit.json").read_text())["findings"]}


def test_everything_that_was_planted_is_found(audited):
    code, folder = audited
    found = findings(folder / "a")
    assert code == 0
    assert found["broken"]["details"][0].startswith("train/cat/broken.png: ")
    assert found["identical"]["text"] == ("3 groups of identical files (6 pictures), 2 of them "
                                          "across train and test")
    assert "1 groups" in found["conflicting_labels"]["text"]
    near = found["near_duplicates_certain"]
    assert near["level"] == "error"
    assert sorted(near["pictures"][0]) == ["test/cat/flipped.png", "train/cat/train07.png"]
    assert "train/dog/black.png" in found["constant"]["text"]
    mode = found["cue:colour mode"]
    assert mode["level"] == "shortcut" and "'cat'" in mode["text"] and " of " in mode["text"]


def test_findings_come_by_severity(audited):
    levels = [f["level"] for f in json.loads((audited[1] / "a/audit.json").read_text())["findings"]]
    rank = ["error", "shortcut", "warning", "note"].index
    assert levels == sorted(levels, key=rank) and set(levels) > {"error", "shortcut", "note"}


def test_the_terminal_has_the_word_and_the_counts(pictures, tmp_path, capsys):
    assert tool.main([str(pictures), "--output", str(tmp_path / "b"), "--no-near"]) == 0
    told = capsys.readouterr().out
    assert "shortcut: colour mode: " in told and " of 30 " in told
    assert "error: 3 groups of identical files" in told
    assert "near-duplicates, blank and outlying pictures were not looked for" in told
    assert json.loads((tmp_path / "b/audit.json").read_text())["near_duplicates"] is None


def test_the_page_escapes_names_and_asks_nobody(audited):
    page = (audited[1] / "a/audit.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1 and "&lt;script&gt;" in page  # the page's own
    assert "http" not in page.replace("http-equiv", "") and "data:image/jpeg;base64," in page
    assert len(page) < 3_000_000


def test_a_fixed_split_keeps_copies_together_and_trains_by_it(audited, pictures, tmp_path):
    file = audited[1] / "fixed.csv"
    with file.open(newline="", encoding="utf-8") as stream:
        part = {row["path"]: row["split"] for row in csv.DictReader(stream)}
    assert part["train/dog/train00.png"] == part["test/dog/copy0.png"] == "test"
    assert part["train/cat/train07.png"] == part["test/cat/flipped.png"] == "test"
    assert part["train/dog/train05.png"] == part["train/cat/wrong.png"] != "test"
    assert "train/cat/broken.png" not in part and set(part.values()) == {"train", "val", "test"}
    new = tmp_path / "read.csv"
    words = [str(new), f"data.root={pictures}", "data.unreadable=skip"]
    assert make_split.main(words) == 2  # the data's own split is refused
    assert make_split.main([*words, f"data.splits_file={file}"]) == 0
    with new.open(newline="", encoding="utf-8") as stream:
        assert {r["path"]: r["split"] for r in csv.DictReader(stream)} == part


@pytest.mark.parametrize(("words", "told"), [
    (["nowhere"], "nowhere does not exist"), ([], "required: DIR"),
    (["{set}", "training.epochs=1"], "training.epochs"),
    (["{set}", "data.rot=1"], "data.rot"), (["{set}", "data.root=x"], "data.root"),
    (["{set}", "--fix-splits", "{file}"], "exists"), (["{set}", "--output", "{file}"], "is a file"),
    (["{set}", "--labels", "none.csv"], "none.csv"), (["data.root={set}"], "the first word"),
    (["{empty}"], "empty")])
def test_bad_input_is_exit_2_with_one_message(words, told, pictures, tmp_path, capsys):
    file, empty = tmp_path / "there.csv", tmp_path / "empty"
    file.write_text("mine")
    empty.mkdir()
    given = [w.format(set=pictures, file=file, empty=empty) for w in words]
    assert main(["audit", *given]) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error and file.read_text() == "mine"


def test_labels_and_groups_come_from_where_they_are_named(pictures, tmp_path):
    names = [f"train/cat/train{i:02}.png" for i in range(8)]
    table = tmp_path / "mine.csv"
    table.write_text("path,label,split\n" + "".join(
        f"{n},{'ab'[i % 2]},{'train' if i < 4 else 'test'}\n" for i, n in enumerate(names)))
    assert main(["audit", str(pictures), "--labels", str(table), "--output", str(tmp_path / "c"),
                 r"data.group_from=\d\.png"]) == 0
    found = json.loads((tmp_path / "c/audit.json").read_text())
    assert found["pictures"] == 8 and list(found["tables"]["classes"]) == ["a", "b"]
    assert main(["audit", str(pictures), "--labels", str(table), "--output", str(tmp_path / "d"),
                 "data.group_from=cat"]) == 0
    assert "1 of 1 groups" in findings(tmp_path / "d")["groups_across"]["text"]


def samples(given, groups=None):
    ids = [f"{i}.png" for i in range(len(given))]
    return single_label(ids, ["a", "b"] * (len(given) // 2), source=FolderSource("."),
                        given=list(given), groups=groups)


def test_a_set_goes_where_most_of_it_is_and_a_tie_to_test():
    given = ["train", "train", "test", "train", "test", "val"]
    fixed, moved = keep_together(samples(given), [[0, 1, 2], [3, 4]])
    assert fixed.given_split == ["train", "train", "train", "test", "test", "val"] and moved == 2
    chained, _ = keep_together(samples(given), [[0, 1], [1, 2], [2, 4]])
    assert len({chained.given_split[i] for i in (0, 1, 2, 4)}) == 1


def test_groups_are_kept_together_too_and_what_has_no_part_gets_none():
    fixed, moved = keep_together(samples(["train", "test", "", "val"], ["p", "p", "p", ""]), [])
    assert fixed.given_split == ["test", "test", "", "val"] and moved == 1


def test_a_picture_of_something_else_is_unlike_and_variety_is_not():
    random = np.random.default_rng(1)
    base = [cv2.resize(draw(random), (SIDE, SIDE)) for _ in range(4)]
    alike = [(0.6 * base[i % 4] + 0.4 * base[(i + 1) % 4] * random.uniform(0.5, 1)
              + random.normal(0, 4, (SIDE, SIDE))).clip(0, 255) for i in range(80)]
    alike[17] = np.kron(random.integers(0, 2, (12, 12)) * 255, np.ones((8, 8)))
    thumbnails = np.array(alike).astype(np.uint8)
    assert find_outliers(Descriptors(thumbnails, np.full(80, 20, np.float32))) == [17]
    varied = np.array([cv2.resize(draw(random), (SIDE, SIDE)) for _ in range(80)])
    assert find_outliers(Descriptors(varied, np.full(80, 20, np.float32))) == []


def test_brain_tumor_mri_has_its_copies_and_its_shortcut(real_data, tmp_path, capsys):
    assert main(["audit", str(real_data / "brain_tumor_mri"), "--no-near", "--output",
                 str(tmp_path / "e")]) == 0
    told = capsys.readouterr().out
    assert ("300 groups of identical files (726 pictures), 189 of them across train and test"
            in told)
    assert ("shortcut: colour mode: 1,967 of 1,996 'notumor' pictures (98.5 %) are RGB; of all "
            "others 1,959 of 5,023 (39.0 %)") in told
