"""Tables as people have them: other columns, ids instead of paths, mistakes."""

from pathlib import Path

import pytest

from finetune.data.samples import read_samples
from tests.test_samples import labels, put, refusal, table

HAM = {"path_column": "image_id", "label_column": "dx", "group_column": "lesion_id"}


@pytest.fixture()
def lesions(tmp_path):
    put(tmp_path, "part_1/ISIC_1.jpg", "part_2/ISIC_2.jpg", "part_2/ISIC.3.jpg")
    return table(tmp_path, "lesion_id,image_id,dx\nL1,ISIC_1,nv\nL1,ISIC_2,nv\nL2,ISIC.3,mel\n",
                 "metadata.csv")


def test_ids_without_folder_and_extension_are_found_and_said(lesions):
    found = read_samples(str(lesions), **HAM)
    assert labels(found) == {"part_1/ISIC_1.jpg": "nv", "part_2/ISIC_2.jpg": "nv",
                             "part_2/ISIC.3.jpg": "mel"}
    assert found.groups == ["L1", "L1", "L2"]
    assert "3 pictures of metadata.csv were found by their names" in found.warnings[0]


def test_an_id_that_could_be_several_files_is_refused(lesions):
    put(lesions, "part_1/ISIC_2.png")
    told = refusal(lesions, **HAM)
    assert "could be several files" in told and "part_1/ISIC_2.png" in told


def test_of_several_tables_the_one_with_the_columns_is_read(lesions):
    table(lesions, "pixel,label\n0,1", "pixels.csv")
    assert len(read_samples(str(lesions), **HAM)) == 3
    table(lesions, "image_id,dx,lesion_id\n1,1,1", "more.csv")
    assert "more.csv (columns image_id, dx, lesion_id)" in refusal(lesions, **HAM)


@pytest.mark.parametrize("key", ["group_column", "split_column"])
def test_a_column_that_is_named_must_exist(key, lesions):
    assert "'lesion_id'" in refusal(lesions, **HAM | {key: "lesion"})


def test_columns_can_be_ignored(tmp_path):
    put(tmp_path, "1.png", "2.png")
    table(tmp_path, "path,label,split,group\n1.png,a,0,g\n2.png,b,1,g")
    assert "data.split_column=null" in refusal(tmp_path)
    found = read_samples(str(tmp_path), split_column=None, group_column=None)
    assert found.given_split is None and found.groups is None


def test_header_and_groups_lose_their_spaces_and_empty_groups_stay_empty(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png")
    table(tmp_path, " path , label,group \n1.png, a,g1 \n2.png,b, g1\n3.png,b,  \n\n,,\n")
    found = read_samples(str(tmp_path))
    assert found.groups == ["g1", "g1", ""] and len(found) == 3


@pytest.mark.parametrize("name", ["{root}/a/1.png", "./a/1.png", "a//1.png", "a\\1.png",
                                  "b/../a/1.png"])
def test_paths_are_brought_to_one_form(name, tmp_path):
    put(tmp_path, "a/1.png", "2.png")
    text = f"path,label\n{name.format(root=tmp_path)},a\n2.png,b\n"
    assert read_samples(str(table(tmp_path, text))).ids == ["a/1.png", "2.png"]
    assert "more than once: a/1.png" in refusal(table(tmp_path, text + "a/1.png,b\n"))


def test_a_linked_picture_belongs_to_the_folder(tmp_path):
    put(tmp_path, "store/1.png", "set/2.png")
    (tmp_path / "set" / "1.png").symlink_to(tmp_path / "store" / "1.png")
    table(tmp_path / "set", "path,label\n1.png,a\n2.png,b\n")
    assert len(read_samples(str(tmp_path / "set"))) == 2


@pytest.mark.parametrize(("text", "told"), [
    ("path,label\n1.PNG,a\n2.png,b", "did you mean '1.png' by '1.PNG'"),
    ("path,label\nx/1.png,a\n2.png,b", "did you mean '1.png' by 'x/1.png'"),
    ("path,label\n,a\n2.png,b", "1 rows of labels.csv have no path"),
    ("path,label\na,1.png,a\n2.png,b", "in quotes"),
    ("path,label,label\n1.png,a,b\n2.png,b,b", "several columns named 'label'"),
    ("path,label\n", "no rows"), ("", "no rows"),
    ("file,class\n1.png,a", "data.path_column")])
def test_mistakes_are_told_where_there_are_no_class_folders(text, told, tmp_path):
    put(tmp_path, "1.png", "2.png")
    assert told in refusal(table(tmp_path, text))


def test_another_encoding_is_told_with_what_to_do(tmp_path):
    put(tmp_path, "1.png")
    (tmp_path / "labels.csv").write_bytes("path,label\n1.png,Müll\n".encode("latin-1"))
    assert "save it as UTF-8" in refusal(tmp_path)


def test_a_label_column_named_twice_is_told(tmp_path):
    put(tmp_path, "1.png")
    assert "'a' is named 2 times" in refusal(table(tmp_path, "path,a\n1.png,1"),
                                             label_column="a,a")


def test_classes_that_differ_in_case_only_are_told(tmp_path):
    put(tmp_path, "1.png", "2.png")
    found = read_samples(str(table(tmp_path, "path,label\n1.png,Nv\n2.png,nv\n")))
    assert "Nv / nv" in found.warnings[0]


def test_the_splits_file_is_not_taken_for_the_labels(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png", "b/3.png")
    table(tmp_path, "path,label,split\na/1.png,a,train\nb/2.png,b,train", "splits.csv")
    assert len(read_samples(str(tmp_path), splits_file=Path(tmp_path / "splits.csv"))) == 3


def test_paths_and_labels_in_the_other_way_to_write_umlauts_are_found(tmp_path):
    put(tmp_path, "Mu\u0308ll/1.png", "b/2.png", "b/3.png")
    table(tmp_path, "path,label\nM\u00fcll/1.png,\u00fc\nb/2.png,u\u0308\nb/3.png,b\n")
    assert labels(read_samples(str(tmp_path))) == {
        "Mu\u0308ll/1.png": "\u00fc", "b/2.png": "\u00fc", "b/3.png": "b"}


def test_labels_that_exclude_each_other_are_told(tmp_path):
    put(tmp_path, "1.png", "2.png")
    text = "path,a,b\n1.png,1,0\n2.png,{}\n"
    read = [read_samples(str(table(tmp_path, text.format(row))), label_column="a,b").warnings
            for row in ("0,1", "1,1", "?,1", "0,0")]
    assert "exactly one of the 2 labels" in read[0][0] and read[1:] == [[], [], []]
