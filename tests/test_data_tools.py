import csv

import cv2
import numpy as np
import pytest
import timm
import torch

from data_tools import bundle_network, make_sample, make_split, unpack_jpegs


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


@pytest.fixture
def packed(tmp_path):
    """Six JPEG files of two classes in one file, two of them for testing."""
    blobs = [cv2.imencode(".jpg", np.full((8, 8, 3), 40 * i, np.uint8))[1].ravel()
             for i in range(6)]
    arrays = {"jpeg": np.concatenate(blobs), "offsets": np.cumsum([0, *map(len, blobs)]),
              "labels": np.array([0, 1, 0, 1, 0, 1]), "class_names": np.array(["cat", "dog"]),
              "is_test": np.array([0, 0, 0, 0, 1, 1], dtype=bool)}
    np.savez(tmp_path / "packed.npz", **arrays)
    return tmp_path / "packed.npz", blobs


def test_pictures_are_unpacked_as_they_are(packed, tmp_path):
    file, blobs = packed
    assert unpack_jpegs.main([str(file), str(tmp_path / "all")]) == 0
    found = sorted(p.relative_to(tmp_path / "all").as_posix()
                   for p in (tmp_path / "all").rglob("*.jpg"))
    assert found == ["test/cat/00004.jpg", "test/dog/00005.jpg", "train/cat/00000.jpg",
                     "train/cat/00002.jpg", "train/dog/00001.jpg", "train/dog/00003.jpg"]
    assert (tmp_path / "all/train/dog/00003.jpg").read_bytes() == blobs[3].tobytes()


def test_a_part_and_a_number_can_be_chosen(packed, tmp_path):
    assert unpack_jpegs.main([str(packed[0]), str(tmp_path / "few"), "--part", "train",
                              "--per-class", "1"]) == 0
    assert sorted(p.name for p in (tmp_path / "few").rglob("*.jpg")) == ["00000.jpg", "00001.jpg"]


@pytest.mark.parametrize(("spoil", "told"), [
    (lambda file, target: target.mkdir(), "exists"),
    (lambda file, target: file.write_bytes(b"PK nothing"), "can't be read as .npz"),
    (lambda file, target: np.savez(file, jpeg=np.zeros(1)), "has no offsets, labels, class_names"),
])
def test_unpacking_tells_what_is_wrong_and_leaves_nothing(packed, tmp_path, capsys, spoil, told):
    target = tmp_path / "there"
    spoil(packed[0], target)
    assert unpack_jpegs.main([str(packed[0]), str(target)]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jpg"))


def test_rescaled_features_give_the_same_answers():
    torch.manual_seed(0)
    model = timm.create_model("resnet12_wide").eval()
    images = torch.randn(4, 3, 32, 32)
    before, rms = bundle_network.answers(model, images)
    bundle_network.rescale(model, 3 / rms)
    after, scaled = bundle_network.answers(model, images)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert scaled == pytest.approx(3, rel=1e-4)
