"""Names and labels from folders, tables and arrays; a clear answer to whatever is wrong."""

import numpy as np
import pytest

from finetune.data.samples import read_samples
from finetune.errors import ConfigurationError, DataError
from finetune.specs import LabelKind

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082")


def put(folder, *names, content=PNG):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def table(folder, text, name="labels.csv"):
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def labels(samples):
    names = samples.label_spec.class_names
    return {i: names[k] for i, k in zip(samples.ids, samples.labels.tolist(), strict=True)}


def refusal(*args, error=DataError, **options):
    with pytest.raises(error) as caught:
        read_samples(*map(str, args), **options)
    return str(caught.value)


# ---- folders

def test_a_folder_is_a_class(tmp_path):
    put(tmp_path, "b/1.png", "a/2.JPG", "a/deep/er/3.tif", "ä/肺炎.png")
    found = read_samples(str(tmp_path))
    assert labels(found) == {"a/2.JPG": "a", "a/deep/er/3.tif": "a", "b/1.png": "b",
                             "ä/肺炎.png": "ä"}
    assert found.given_split is None and found.label_spec.kind is LabelKind.single
    assert found.source.read("b/1.png").pixels.shape == (1, 1, 1)


def test_wrapping_folders_are_walked_through(tmp_path):
    put(tmp_path, "EuroSAT/2750/Forest/Forest_1.jpg", "EuroSAT/2750/River/River_1.jpg")
    assert set(labels(read_samples(str(tmp_path))).values()) == {"Forest", "River"}


@pytest.mark.parametrize(("train", "val", "test"), [
    ("train", "val", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "valid", "Test"),
    ("train", "dev", "tst")])
def test_split_folders_in_any_spelling(train, val, test, tmp_path):
    for part in (train, val, test):
        put(tmp_path, f"set/{part}/cat/{part}1.png", f"set/{part}/dog/{part}2.png")
    found = read_samples(str(tmp_path))
    parts = {i.split("/")[1]: p for i, p in zip(found.ids, found.given_split, strict=True)}
    assert parts == {train: "train", val: "val", test: "test"}
    assert found.label_spec.class_names == ("cat", "dog")


def test_numbers_are_sorted_as_numbers(tmp_path):
    put(tmp_path, "10/a.png", "9/a.png", "2/a.png")
    assert read_samples(str(tmp_path)).label_spec.class_names == ("2", "9", "10")


def test_what_is_no_picture_or_in_no_class_is_counted(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "a/notes.txt", "loose.png", "a/.hidden.png",
        "__MACOSX/a/1.png")
    found = read_samples(str(tmp_path))
    assert found.ids == ["a/1.png", "b/1.png"]
    assert "1 files that are no pictures" in found.warnings[0]
    assert "1 pictures outside any class folder" in found.warnings[1]


def test_folders_that_make_no_set_are_told(tmp_path):
    assert "did you mean" in refusal(put(tmp_path / "pics", "a/1.png").parent / "pic")
    assert "only one class, 'a'" in refusal(tmp_path / "pics")
    (tmp_path / "pics" / "empty").mkdir()
    assert "empty" in refusal(tmp_path / "pics")
    (tmp_path / "bare").mkdir()
    assert "no pictures" in refusal(tmp_path / "bare")
    assert "unknown kind" in refusal(put(tmp_path, "some.zip") / "some.zip")


# ---- tables

@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_has_a_row_for_each_picture(separator, mark, tmp_path):
    put(tmp_path, "x/1.png", "x/2.png", "x/3, with comma.png")
    rows = [["path", "label", "split", "group", "age"], ["x/1.png", "a", "train", "p1", "61"],
            ["x/2.png", "b", "Testing", "p2", '"5\n0"'],
            ['"x/3, with comma.png"', "a", "valid", "p1", ""]]
    table(tmp_path, mark + "\r\n".join(separator.join(r) for r in rows))
    found = read_samples(str(tmp_path))
    assert labels(found) == {"x/1.png": "a", "x/2.png": "b", "x/3, with comma.png": "a"}
    assert found.given_split == ["train", "test", "val"] and found.groups == ["p1", "p2", "p1"]
    assert found.metadata == {"group": ["p1", "p2", "p1"], "age": ["61", "5\n0", ""]}
    assert read_samples(str(tmp_path / "labels.csv")).ids == found.ids


def test_columns_can_have_other_names(tmp_path):
    put(tmp_path, "1.png", "2.png")
    table(tmp_path, "file,diagnosis,fold,patient\n1.png,a,train,x\n2.png,b,val,y")
    found = read_samples(str(tmp_path), path_column="file", label_column="diagnosis",
                         split_column="fold", group_column="patient")
    assert found.given_split == ["train", "val"] and found.groups == ["x", "y"]


def test_a_folder_with_a_foreign_table_is_read_as_folders(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    table(tmp_path, "Filename,Label\na/1.png,b")
    assert labels(read_samples(str(tmp_path))) == {"a/1.png": "a", "b/1.png": "b"}


def test_columns_of_yes_and_no_are_several_labels(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png")
    table(tmp_path, "path,fever,cough\n1.png,1,no\n2.png,,true\n3.png,0.0,-1")
    found = read_samples(str(tmp_path), labels_file="labels.csv", label_column="fever, cough")
    assert found.label_spec.kind is LabelKind.multi
    assert found.label_spec.class_names == ("fever", "cough")
    np.testing.assert_array_equal(found.labels, [[1, 0], [np.nan, 1], [0, np.nan]])


def test_one_column_of_several_names(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png")
    table(tmp_path, "path,label\n1.png,b|a\n2.png,\n3.png, c ")
    found = read_samples(str(tmp_path), label_separator="|")
    assert found.label_spec.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(found.labels, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    table(tmp_path, "path,label\n1.png,b|a\n2.png,nan\n3.png, c ")
    assert "says nan in 1 rows" in refusal(tmp_path, label_separator="|")


@pytest.mark.parametrize(("text", "told"), [
    ("pth,label\n1.png,a", "'path'"), ("path,lable\n1.png,a", "lable"),
    ("path,label\n1.png,a\n2.png,", "no label (nothing, or nan): 2.png"),
    ("path,label\n1.png,a\n2.png,NaN", "no label (nothing, or nan): 2.png"),
    ("path,label\n1.png,a\n9.png,b", "do not exist: 9.png"),
    ("path,label\n1.png,a\n1.png,b\n2.png,b", "more than once: 1.png"),
    ("path,label\n1.png,a\n../secret.png,b", "outside"),
    ("path,label,split\n1.png,a,train\n2.png,b,trian", "trian"), ("path,label\n", "no rows"),
    ("path,label\n1.png,a\n2.png,a", "only one class")])
def test_a_table_that_is_wrong_is_told(text, told, tmp_path):
    put(tmp_path / "d", "1.png", "2.png")
    put(tmp_path, "secret.png")
    table(tmp_path / "d", text)
    assert told in refusal(tmp_path / "d", labels_file="labels.csv")


def test_several_tables_have_to_be_named(tmp_path):
    put(tmp_path, "1.png")
    table(tmp_path, "path,label\n1.png,a"), table(tmp_path, "path,label\n1.png,a", "more.csv")
    assert "2 CSV files" in refusal(tmp_path, format="csv")
    assert "did you mean" in refusal(tmp_path, labels_file="label.csv")


# ---- arrays

@pytest.mark.parametrize(("shape", "dtype"), [
    ((8, 5), "uint8"), ((8, 5, 1), "uint8"), ((8, 5, 3), "uint8"), ((8, 5, 13), "uint16"),
    ((8, 5, 2), "float32")])
def test_medmnists_layout(shape, dtype, tmp_path):
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 6), ("val", 2), ("test", 4)):
        arrays[f"{part}_images"] = random.integers(0, 99, (count, *shape)).astype(dtype)
        arrays[f"{part}_labels"] = np.arange(count)[:, None] % 2
    np.savez(tmp_path / "a.npz", **arrays)
    found = read_samples(str(tmp_path / "a.npz"))
    assert found.given_split == ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    pixels = found.source.read(found.ids[7]).pixels
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels, arrays["val_images"][1].reshape(8, 5, -1))


@pytest.mark.parametrize("arrays", [
    {"images": np.zeros((3, 4, 4))}, {"images": np.zeros((3, 4, 4)), "labels": np.zeros(2)},
    {"pictures": np.zeros(3)}, {"images": np.zeros((3, 4)), "labels": np.arange(3)}])
def test_arrays_that_do_not_fit_are_told(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    assert "a.npz" in refusal(tmp_path / "a.npz")


def test_a_broken_archive_is_told(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    assert "can't be read as .npz" in refusal(tmp_path / "a.npz")


# ---- groups and the positive class

def test_groups_are_found_in_the_path(tmp_path):
    put(tmp_path, "a/p1_x.png", "a/p2_x.png", "b/p1_y.png")
    assert read_samples(str(tmp_path), group_from=r"(p\d+)_").groups == ["p1", "p2", "p1"]
    assert read_samples(str(tmp_path), group_from=r"p\d").groups == ["p1", "p2", "p1"]


@pytest.mark.parametrize(("pattern", "told"), [("(p", "data.group_from"), ("q", "q")])
def test_a_pattern_that_finds_nothing_is_told(pattern, told, tmp_path):
    put(tmp_path, "a/p1.png", "b/p2.png")
    error = refusal(tmp_path, group_from=pattern, error=(DataError, ConfigurationError))
    assert told in error


def test_the_positive_class_is_the_last_or_the_chosen(tmp_path):
    put(tmp_path, "no/1.png", "yes/1.png")
    assert read_samples(str(tmp_path)).label_spec.positive_class == "yes"
    chosen = read_samples(str(tmp_path), positive_class="no")
    assert chosen.label_spec.positive_class == "no"
    assert "'yes'" in refusal(tmp_path, positive_class="yess", error=(DataError,
                                                                      ConfigurationError))


# ---- more of arrays

def archive(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


@pytest.mark.parametrize(("images", "told"), [
    (np.zeros((4, 3, 8, 8), np.uint8), "channels first"), (np.zeros((4, 8)), "(N, H, W[, C])")])
def test_pictures_of_another_layout_are_told(images, told, tmp_path):
    assert told in refusal(archive(tmp_path, images=images, labels=np.arange(4) % 2))


@pytest.mark.parametrize("dtype", ["bool", "int64", ">u2", "float64", "int16"])
def test_other_number_types_become_one_of_the_three(dtype, tmp_path):
    images = (np.arange(64).reshape(4, 4, 4) % 2).astype(dtype)
    found = read_samples(str(archive(tmp_path, images=images, labels=np.arange(4) % 2)))
    pixels = found.source.read(found.ids[1]).pixels[..., 0]
    assert pixels.dtype in (np.uint8, np.uint16, np.float32) and pixels.dtype.isnative
    np.testing.assert_array_equal(pixels > 0, images[1] > 0)


@pytest.mark.parametrize(("values", "names", "told"), [
    ([0, 1, 2, 2], ["a", "b"], "class_names"), ([0, 1, 1, -1], ["a", "b"], "class_names"),
    ([0, 1, 1, 0], ["a", "a"], "class_names"), (["a", "x", "a", "a"], ["a", "b"], "class_names"),
    ([0, 1, np.nan, 1], [], "NaN"), ([[0, 2]] * 4, [], "0, 1 or NaN"),
    ([[0, 1]] * 4, ["a"], "1 different names for 2 labels")])
def test_labels_that_do_not_fit_are_told(values, names, told, tmp_path):
    more = {"class_names": np.array(names)} if names else {}
    path = archive(tmp_path, images=np.zeros((4, 3, 3), np.uint8), labels=np.array(values), **more)
    assert told in refusal(path)


def test_whole_numbers_stored_as_floats_are_their_numbers(tmp_path):
    path = archive(tmp_path, images=np.zeros((4, 3, 3), np.uint8), labels=np.array([0., 1, 10, 2]))
    assert read_samples(str(path)).label_spec.class_names == ("0", "1", "2", "10")


def test_a_pattern_that_finds_only_nothing_is_told(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png")
    assert "empty text" in refusal(tmp_path, group_from="(q)?")
    assert read_samples(str(tmp_path), group_from="a/(1)|b").groups == ["1", ""]
