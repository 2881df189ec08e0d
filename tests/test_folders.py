"""Class folders as archives have them: wrapped, divided, linked, with other things beside."""

import pytest

from finetune.data.samples import read_samples
from finetune.errors import DataError
from tests.test_samples import labels, put, refusal, table


def parts(folder):
    found = read_samples(str(folder))
    return dict(zip(found.ids, found.given_split or [], strict=False)), found


@pytest.mark.parametrize("form", [
    "{}/{}_set", "{}_set/{}_set", "{}set", "{} Data", "seg_{}/seg_{}", "cats-{}", "{}_images"])
def test_parts_are_known_with_what_archives_add_to_their_names(form, tmp_path):
    for part in ("train", "test"):
        folder = form.format(*[part] * form.count("{}"))
        put(tmp_path, f"{folder}/a/{part}1.png", f"{folder}/b/{part}2.png")
    given, found = parts(tmp_path)
    assert found.label_spec.class_names == ("a", "b")
    assert all(part in name.rsplit("/", 1)[1] for name, part in given.items()) and len(given) == 4


def test_classes_whose_names_hold_a_part_stay_classes(tmp_path):
    put(tmp_path, "train_station/1.png", "test_tube/1.png", "river/1.png", "train/1.png")
    assert len(parts(tmp_path)[1].label_spec.class_names) == 4


def test_folders_beside_parts_are_skipped_and_named(tmp_path):
    for part in ("train", "val", "test"):
        put(tmp_path, f"{part}/a/1.png", f"{part}/b/1.png", f"set/{part}/a/1.png")
    given, found = parts(tmp_path)
    assert len(given) == 6 and "set" in found.warnings[-1] and "skipped" in found.warnings[-1]


def test_pictures_of_a_part_without_classes_are_counted(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png")
    given, found = parts(tmp_path)
    assert len(given) == 2
    assert any("2 pictures outside any class folder" in w and "test/1.png" in w
               for w in found.warnings)


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    put(tmp_path / "set", "a/1.png", "b/1.png")
    put(tmp_path / "store", "x/2.png")
    (tmp_path / "set" / "b" / "more").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "x").symlink_to(tmp_path / "set" / "y")
    (tmp_path / "set" / "y").symlink_to(tmp_path / "set" / "x")
    assert labels(read_samples(str(tmp_path / "set"))) == {
        "a/1.png": "a", "b/1.png": "b", "b/more/2.png": "b"}


def test_two_sets_side_by_side_are_told_from_classes(tmp_path):
    put(tmp_path, "RGB/forest/1.png", "RGB/river/2.png", "bands/forest/1.png", "bands/river/2.png")
    assert any("forest, river" in w and "data.root" in w for w in parts(tmp_path)[1].warnings)
    put(tmp_path, "RGB/3.png")
    assert not parts(tmp_path)[1].warnings


def test_pictures_without_class_folders_are_told(tmp_path):
    put(tmp_path, "1.png", "2.png")
    told = refusal(tmp_path)
    assert "2 pictures are there, but in no class folder" in told and "CSV" in told


def test_columns_where_there_is_no_table_are_refused(tmp_path):
    put(tmp_path, "a/p1.png", "b/p2.png")
    assert "data.group_from" in refusal(tmp_path, group_column="patient")
    assert "label_separator" in refusal(tmp_path, label_separator="|")
    with pytest.raises(DataError, match="no CSV file with columns image, dx"):
        read_samples(str(tmp_path), path_column="image", label_column="dx")


def test_a_table_beside_class_folders_that_was_not_read_is_told(tmp_path):
    put(tmp_path, "part_1/1.png", "part_2/2.png")
    table(tmp_path, "image_id,dx\n1,nv", "metadata.csv")
    warning = parts(tmp_path)[1].warnings[-1]
    assert "metadata.csv (columns image_id, dx)" in warning and "data.label_column" in warning


def test_both_ways_to_write_an_umlaut_are_one_class(tmp_path):
    put(tmp_path, "train/M\u00fcll/1.png", "train/b/1.png", "test/Mu\u0308ll/1.png", "test/b/1.png")
    found = parts(tmp_path)[1]
    assert found.label_spec.class_names == ("M\u00fcll", "b")
    assert found.source.read("test/Mu\u0308ll/1.png").pixels.size


def test_kinds_of_files_that_are_skipped_are_named(tmp_path):
    put(tmp_path, "a/1.png", "a/Thumbs.db", "b/2.png", "b/IM0001", "b/.hidden")
    assert parts(tmp_path)[1].warnings == [
        "2 files that are no pictures were skipped (.db, no extension)"]
