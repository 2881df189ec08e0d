import pickle
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from test_loading import Pictures

from finetune.data import packing
from finetune.data.decoding import decode_image
from finetune.data.loading import build_loader
from finetune.data.pack_files import clear_packs, list_packs
from finetune.data.packing import (
    PackedSource,
    PackForm,
    PackPlan,
    ShrunkSource,
    open_pack,
    plan_pack,
    shrunk_shape,
)
from finetune.data.samples import FolderSource, Samples
from finetune.data.scanning import PictureFacts, scan_pictures
from finetune.data.transforms import build_transform
from finetune.specs import Decoding, Dtype, InputSpec, LabelKind, LabelSpec

FORM = PackForm((48, 64), 3, Dtype.uint8)


class Memory(Pictures):
    name = "memory"

    def read(self, sample_id, at_least=None):
        return super().read(sample_id)


def picture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path):
    """Large, small, turned and grey pictures in files."""
    root = tmp_path / "pictures"
    root.mkdir()
    for number, shape in enumerate([(400, 600), (40, 50), (333, 201), (160, 900), (256, 256)]):
        exif = Image.Exif()
        exif[0x0112] = 1 + number
        Image.fromarray(picture(*shape, number)).save(root / f"{number}.jpg", exif=exif)
    Image.fromarray(picture(300, 300)[..., 0]).save(root / "5.png")
    return root


def opened(root, form=FORM, choice="always", cache=None, source=None, ids=None, facts=None):
    source = source or FolderSource(str(root))
    ids = ids or sorted(p.name for p in root.iterdir())
    facts = facts or scan_pictures(source, ids)
    plan = plan_pack(choice, facts=facts, form=form, epochs=10,
                     folder=cache or root.parent / "packs")
    found, told = open_pack(plan, source, ids, form)
    return found, plan, told


@pytest.mark.parametrize("shape", [(400, 600), (48, 64), (47, 2000), (1000, 65), (5000, 64)])
def test_shrinking_keeps_both_sides_large_enough_and_enlarges_nothing(shape):
    height, width = shrunk_shape(shape, (48, 64))
    assert height <= shape[0] and width <= shape[1]
    if shape[0] >= 48 and shape[1] >= 64:
        assert height >= 48 and width >= 64 and (height == 48 or width == 64)
        assert abs(height / width / (shape[0] / shape[1]) - 1) < 0.02
    else:
        assert (height, width) == shape


@pytest.mark.parametrize("decoding", list(Decoding))
@pytest.mark.parametrize("at_least", [(48, 64), None])
def test_a_pack_gives_the_pixels_that_shrinking_gives(folder, decoding, at_least):
    form = PackForm(at_least, 3, Dtype.uint8, "bilinear", decoding)
    packed, plan, told = opened(folder, form)
    shrunk = ShrunkSource(FolderSource(str(folder)), form)
    assert isinstance(packed, PackedSource) and plan.path.exists() and told == ""
    for name in sorted(p.name for p in folder.iterdir()):
        expected, found = shrunk.read(name).pixels, packed.read(name, (8, 8)).pixels
        np.testing.assert_array_equal(expected, found)
        whole = decode_image(folder / name).pixels.shape[:2]
        assert found.shape[:2] == form.shape(*whole) or decoding is Decoding.scaled
        assert not found.flags.writeable and packed.raw(name) == (folder / name).read_bytes()


@pytest.mark.parametrize(("dtype", "channels"), [("uint16", 13), ("float32", 1), ("uint8", 4)])
def test_any_number_type_and_channels_come_back_as_they_were(tmp_path, dtype, channels):
    random = np.random.default_rng(0)
    pixels = [(random.random((90 + i, 70, channels)) * 200).astype(dtype) for i in range(3)]
    source, ids = Memory(pixels), ["p_0", "p_1", "p_2"]
    form = PackForm((48, 48), channels, Dtype(dtype))
    facts = [PictureFacts(*p.shape, dtype, byte_hash=str(i)) for i, p in enumerate(pixels)]
    packed, plan, _ = opened(None, form, cache=tmp_path, source=source, ids=ids, facts=facts)
    shrunk = ShrunkSource(source, form)
    assert plan.size == sum(shrunk.read(i).pixels.nbytes for i in ids)
    for name in ids:
        found = packed.read(name).pixels
        assert found.dtype == dtype and found.shape[2] == channels and found.flags.aligned
        np.testing.assert_array_equal(found, shrunk.read(name).pixels)
        assert min(found.shape[:2]) == 48


@pytest.mark.parametrize("preset", ["natural", "none", "xray"])
@pytest.mark.parametrize("workers", [0, 1])
def test_training_sees_the_same_with_and_without_the_pack(folder, preset, workers):
    spec = InputSpec((24, 32), 3, ("r", "g", "b"), Dtype.uint8, (0.0, 255.0), (0.5,) * 3,
                     (0.2,) * 3)
    transform = build_transform(preset, spec, train=True)
    form = PackForm(transform.at_least, 3, Dtype.uint8)
    ids = sorted(p.name for p in folder.iterdir())
    samples = Samples(ids, np.arange(6) % 2, LabelSpec(LabelKind.single, ("a", "b")),
                      FolderSource(str(folder)))
    packed, _, _ = opened(folder, form)
    found = []
    for source in (packed, ShrunkSource(samples.source, form)):
        loader = build_loader(replace(samples, source=source), spec=spec, transform=transform,
                              batch_size=3, workers=workers, seed=1, train=True,
                              decoding="scaled")
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            epochs += list(loader)
        found.append(epochs)
    assert len(found[0]) == 4
    for one, two in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_pack_is_written_once_and_used_again(folder):
    _, plan, _ = opened(folder)
    before = plan.path.stat().st_mtime_ns
    again, plan, told = opened(folder)
    assert plan.path.stat().st_mtime_ns == before and "packed before" in plan.reason
    assert isinstance(again, PackedSource) and told == ""


@pytest.mark.parametrize("change", [
    {"at_least": (32, 32)}, {"channels": 1}, {"dtype": Dtype.uint16}, {"decoding": Decoding.full},
    {"interpolation": "bicubic"}])
def test_another_form_or_other_pictures_are_another_pack(folder, change):
    first = opened(folder)[1].path
    assert opened(folder, replace(FORM, **change))[1].path != first
    Image.fromarray(picture(400, 600, 9)).save(folder / "0.jpg")
    changed = opened(folder)[0]
    assert changed.path != first
    np.testing.assert_array_equal(
        changed.read("0.jpg").pixels,
        ShrunkSource(FolderSource(str(folder)), FORM).read("0.jpg").pixels)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def emptied(path):
    path.write_bytes(b"")


def table_changed(path):
    content = bytearray(path.read_bytes())
    content[-400] ^= 1
    path.write_bytes(content)


def of_other_pictures(path):
    others = [PictureFacts(8, 8, 3, "uint8", byte_hash=str(i)) for i in range(6)]
    source = Memory([np.zeros((8, 8, 3), np.uint8)] * 6)
    _, plan, _ = opened(None, cache=path.parent, source=source, facts=others,
                        ids=[f"p_{i}" for i in range(6)])
    shutil.move(plan.path, path)


@pytest.mark.parametrize("damage", [cut, emptied, table_changed, of_other_pictures])
def test_a_pack_that_is_not_whole_or_another_one_is_written_anew(folder, damage):
    plan = opened(folder)[1]
    whole = plan.path.read_bytes()
    damage(plan.path)
    found, _, told = opened(folder)
    assert "damaged" in told and str(plan.path) in told
    assert isinstance(found, PackedSource) and plan.path.read_bytes() == whole


def test_a_damaged_picture_is_read_from_the_files_and_the_pack_goes(folder):
    packed, plan, _ = opened(folder)
    content = bytearray(plan.path.read_bytes())
    content[100] ^= 255
    plan.path.write_bytes(content)
    packed = opened(folder)[0]
    expected = ShrunkSource(FolderSource(str(folder)), FORM)
    for name in ("0.jpg", "1.jpg", "0.jpg"):
        np.testing.assert_array_equal(packed.read(name).pixels, expected.read(name).pixels)
    assert not plan.path.exists()


def test_a_pack_can_be_sent_to_other_processes_even_when_its_file_is_gone(folder):
    packed, plan, _ = opened(folder)
    content = pickle.dumps(packed)
    assert len(content) < 20_000
    expected = packed.read("0.jpg").pixels.copy()
    np.testing.assert_array_equal(pickle.loads(content).read("0.jpg").pixels, expected)
    plan.path.unlink()
    np.testing.assert_array_equal(pickle.loads(content).read("0.jpg").pixels, expected)
    np.testing.assert_array_equal(packed.read("0.jpg").pixels, expected)


def facts_of(height, width, count=10):
    return [PictureFacts(height, width, 3, "uint8", byte_hash=str(i)) for i in range(count)]


@pytest.mark.parametrize(("side", "at_least", "epochs", "words"), [
    (90, (48, 48), 10, "times the pixels that training needs"),
    (480, None, 10, "whole pictures"), (480, (48, 48), 2, "2 epochs"),
    (40, (48, 48), 10, "1.0 times")])
def test_auto_says_why_it_does_not_pack(tmp_path, side, at_least, epochs, words):
    form = PackForm(at_least, 3, Dtype.uint8)
    plan = plan_pack("auto", facts=facts_of(side, side), form=form, epochs=epochs,
                     folder=tmp_path)
    assert not plan.shrink and plan.path is None and words in plan.reason
    always = plan_pack("always", facts=facts_of(side, side), form=form, epochs=epochs,
                       folder=tmp_path)
    assert always.shrink and always.path is not None


def test_auto_packs_large_pictures_and_never_packs_nothing(tmp_path):
    options = {"facts": facts_of(480, 480), "form": PackForm((48, 48), 3, Dtype.uint8),
               "epochs": 3, "folder": tmp_path / "not" / "yet"}
    plan = plan_pack("auto", **options)
    assert plan.shrink and plan.size == 10 * 48 * 48 * 3 and "100.0 times" in plan.reason
    assert plan_pack("never", **options) == PackPlan()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", ["auto", "always"])
def test_without_room_it_says_how_much_and_training_sees_the_same(folder, choice, monkeypatch):
    expected = opened(folder)[0].read("0.jpg").pixels.copy()
    clear_packs(folder.parent / "packs")
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    small = replace(FORM, at_least=(24, 32)) if choice == "auto" else FORM
    found, plan, _ = opened(folder, small, choice)
    assert plan.shrink and plan.path is None and not list_packs(folder.parent / "packs")
    assert f"{2 * plan.size / 1e6:.1f} MB free" in plan.reason and "no room" in plan.reason
    if choice == "always":
        np.testing.assert_array_equal(found.read("0.jpg").pixels, expected)


def test_a_disk_that_fills_up_leaves_nothing_and_training_goes_on(folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("finetune.data.pack_files._append", full)
    found, plan, told = opened(folder)
    assert isinstance(found, ShrunkSource) and "No space left" in told and str(plan.path) in told
    assert not list(plan.path.parent.iterdir())


def test_an_interrupted_writing_leaves_nothing(folder):
    def stop(done):
        raise KeyboardInterrupt

    source, ids = FolderSource(str(folder)), sorted(p.name for p in folder.iterdir())
    plan = plan_pack("always", facts=scan_pictures(source, ids), form=FORM, epochs=3,
                     folder=folder.parent / "packs")
    with pytest.raises(KeyboardInterrupt):
        open_pack(plan, source, ids, FORM, progress=stop)
    assert not list(plan.path.parent.iterdir())


def test_progress_counts_the_pictures(folder):
    counted = []
    source, ids = FolderSource(str(folder)), sorted(p.name for p in folder.iterdir())
    plan = plan_pack("always", facts=scan_pictures(source, ids), form=FORM, epochs=3,
                     folder=folder.parent / "packs")
    open_pack(plan, source, ids, FORM, progress=counted.append)
    assert counted[-1] == 6


def test_packs_are_listed_and_cleared_with_what_a_kill_left(folder):
    packs = folder.parent / "packs"
    assert list_packs(packs) == [] and clear_packs(packs) == 0
    _, plan, _ = opened(folder)
    (packs / f".{plan.path.name}.ab12").write_bytes(b"half")
    (packs / "notes.txt").write_text("mine")
    listed = {p.path.name: p for p in list_packs(packs)}
    assert len(listed) == 2
    assert listed[plan.path.name].what == "6 pictures, at least 48 x 64 px, 3 channels, uint8"
    assert "unfinished" in listed[f".{plan.path.name}.ab12"].what
    assert clear_packs(packs) == sum(p.size for p in listed.values())
    assert [p.name for p in packs.iterdir()] == ["notes.txt"]
