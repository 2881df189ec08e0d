"""Pictures from others: bombs, lies, other files, damage; bounded memory, one clear line each."""

import csv
import os
import re
import resource
import subprocess
import sys

import hostile_files
import numpy as np
import pytest
from PIL import Image
from run_builder import SMALL, train_run

from finetune.__main__ import main
from finetune.data.announced import check_deflated, coded_size
from finetune.data.decoding import decode_image
from finetune.data.samples import FolderSource
from finetune.data.scanning import scan_pictures
from finetune.data.unreadable import MAX_DECODED, MAX_FILE, UnreadableImage
from finetune.errors import FinetuneError

READ = {"exif.jpg", "shaped.tif"}  # odd, but pictures
ODD_NAMES = ["a\nb.png", ";rm -rf x.png", "-rf.png", "$(touch owned).png", "`touch owned`.png",
             "<script>alert(1)<script>.png", "\x1b]0;owned\x07.png", "{{7*7}}.png", "=1+1.png",
             os.fsdecode(b"\xff\xfe.png"), "x" * 240 + ".png", "'; DROP TABLE facts;--.png",
             "%s%n.png", "a..png", "con.png", "\u202egnp.exe.png"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder with every hostile picture, pipes, links and odd names."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, content in hostile_files.pictures().items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "random.png").symlink_to("/dev/urandom")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "secret.png").symlink_to("/etc/passwd")
    (folder / "folder.png").mkdir()
    with open(folder / "sparse.png", "wb") as stream:
        stream.truncate(MAX_FILE + 1)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.is_dir())


def plain_pictures(folder):
    """Two classes of good pictures."""
    for number in range(24):
        place = folder / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place)
    return folder


def test_every_hostile_picture_is_refused_in_one_line(hostile):
    for name in [*names(hostile), "folder.png"]:
        if name in READ:
            assert decode_image(hostile / name).pixels.size
            continue
        with pytest.raises(UnreadableImage) as told:
            decode_image(hostile / name, name=name)
        text = str(told.value)
        assert text.startswith(f"{name}: ") and len(text) < 500, text


def test_a_scan_tells_each_and_reads_no_pipe_and_no_device(hostile, tmp_path):
    facts = scan_pictures(FolderSource(str(hostile)), names(hostile), cache=tmp_path)
    errors = {name: fact.error for name, fact in zip(names(hostile), facts, strict=True)}
    assert {name for name, error in errors.items() if error is None} == READ
    assert "a pipe or a device" in errors["pipe.png"] and "device" in errors["zero.png"]
    assert "cut it into smaller pictures" in errors["sparse.png"]


def test_memory_stays_bounded_by_what_a_picture_may_be(hostile):
    """In a process that may take 4 GiB of addresses in all, none of them fails for memory."""
    code = ("import sys\nfrom pathlib import Path\n"
            "from finetune.data.decoding import UnreadableImage, decode_image\n"
            "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
            "    try: decode_image(path)\n"
            "    except UnreadableImage as error: assert 'emory' not in str(error), error\n"
            "lines = open('/proc/self/status').read().splitlines()\n"
            "print(next(int(l.split()[1]) for l in lines if l.startswith('VmHWM')) // 1024)")
    done = subprocess.run([sys.executable, "-c", code, str(hostile)], capture_output=True,
                          text=True, check=False, preexec_fn=lambda: resource.setrlimit(
                              resource.RLIMIT_AS, (4 << 30, 4 << 30)))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 600


def test_audit_and_training_name_them_and_go_on(hostile, tmp_path, capsys):
    root = plain_pictures(tmp_path / "set")
    for name in names(hostile):
        (root / "a" / f"bad-{name}").symlink_to(hostile / name)
    audit = ["audit", str(root), "--no-near", "--output", str(tmp_path / "audit")]
    assert main(audit) == 0
    words = [*SMALL, f"data.root={root}", f"output_dir={tmp_path}"]
    assert main(["plan", *words]) == 2
    told = capsys.readouterr().err
    assert "data.unreadable=skip" in told and "bad-bomb.png" in told and "Traceback" not in told
    assert main(["plan", *words, "data.unreadable=skip", "data.duplicates=regroup"]) == 0


def test_odd_names_are_names(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = plain_pictures(tmp_path / "set")
    for number, name in enumerate(ODD_NAMES):
        pixels = np.full((9, 9, 3), number, np.uint8)
        Image.fromarray(pixels).save(root / "b" / "x.png")
        os.rename(root / "b" / "x.png", os.path.join(root, "b", name))
    assert main(["audit", str(root), "--output", str(tmp_path / "audit")]) == 0
    said = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in said.out + said.err)
    page = (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "\x1b" not in page
    assert not list(tmp_path.rglob("owned"))


def test_predict_gives_each_a_row_and_runs_nothing(hostile, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train_run(tmp_path, count=30)
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in [*ODD_NAMES, "good.png"]:
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "x.png")
        os.rename(folder / "x.png", os.path.join(folder, name))
    output = tmp_path / "p.csv"
    assert main(["predict", str(run.path), str(hostile), str(folder), "--output", str(output)]) == 3
    with output.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(names(hostile)) + len(ODD_NAMES) + 1
    failed = {row["path"].rsplit("/", 1)[1] for row in rows if row["error"]}
    assert failed == {*names(hostile)} - READ
    assert all(value.isprintable() for row in rows for value in row.values())
    assert "Traceback" not in capsys.readouterr().err and not list(tmp_path.rglob("owned"))


def test_inner_sizes_are_read_from_the_stream():
    for form in ("JPEG", "JPEG2000"):
        content = hostile_files._saved(form, size=(37, 61))
        assert coded_size(content) == (37, 61)
    assert coded_size(b"") is coded_size(b"\xff\xd8\xff") is coded_size(b"nonsense" * 9) is None
    assert coded_size(b"\xff\xd8" + b"\xff\xe0\0\0" * 9) is None


def test_ordinary_deflated_dicom_is_read_and_a_bomb_is_not(monkeypatch):
    content = hostile_files.dicom(syntax=hostile_files.DEFLATED)
    assert decode_image(content, name="a.dcm").pixels.shape == (4, 4, 1)
    with pytest.raises(ValueError, match="unpacks to more"):
        bomb = hostile_files.pictures()["deflated.dcm"]
        check_deflated(bomb[bomb.index(b"\xec\xc1"):])
    assert MAX_DECODED < 3 << 30


def test_a_dicom_number_of_half_its_bytes_is_told():
    """pydicom's own error, which is none of Python's; random damage found it."""
    content = hostile_files.dicom().replace(b"\x28\0\x10\0US\x02\0", b"\x28\0\x10\0US\x03\0")
    with pytest.raises(UnreadableImage, match="broken DICOM"):
        decode_image(content, name="a.dcm")


# random damage


@pytest.mark.parametrize("name", hostile_files.valid_pictures())
def test_random_damage_gives_a_picture_or_our_error(name):
    """Nothing but `UnreadableImage` comes out; `benchmarks/hostile.py` does the same for longer."""
    random, content = np.random.default_rng(len(name)), hostile_files.valid_pictures()[name]
    for _ in range(60):
        broken = hostile_files.damaged(content, random)
        try:
            found = decode_image(broken, name=name)
        except FinetuneError as error:
            assert isinstance(error, UnreadableImage) and re.match(re.escape(name), str(error))
        else:
            assert found.pixels.ndim == 3
