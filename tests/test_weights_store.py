"""Weights for machines without a network: fetched whole or not, checked, used, listed."""

import json
import time

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from finetune.__main__ import main
from finetune.errors import CheckError, ConfigurationError
from finetune.files import hash_file
from finetune.models import stored
from finetune.models.building import build_model
from finetune.weights_store import fetch_weights, list_weights, verify_weights

NAME = "test_resnet"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches and a hub that nobody serves."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def donor(tmp_path):
    """In the hub's cache, as if it had been downloaded."""
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    folder = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / "0123").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    save_file(model.state_dict(), folder / "snapshots" / "0123" / "model.safetensors")
    return model


@pytest.fixture
def folder(tmp_path, donor):
    fetch_weights(f"{NAME}.r160_in1k", tmp_path / "there")
    return tmp_path / "there"


def test_a_fetched_folder_is_whole_and_says_what_it_is(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["model"], manifest["licence"]) == (f"{NAME}.r160_in1k", "apache-2.0")
    assert manifest["source"] == "hf-hub:timm/test_resnet.r160_in1k"
    assert manifest["files"].keys() == {"model.safetensors", "config.json", "LICENCE.txt"}
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == hash_file(folder / name)
        assert entry["bytes"] == (folder / name).stat().st_size
    assert "apache-2.0" in (folder / "LICENCE.txt").read_text()
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".there")]
    assert "agree" in verify_weights(folder)


def test_timm_itself_loads_a_fetched_folder(folder, donor):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert all(torch.equal(a, b) for a, b in
               zip(model.state_dict().values(), donor.state_dict().values(), strict=True))


def test_a_fetched_folder_is_the_tags_weights_without_a_network(folder, donor, monkeypatch):
    _, online = build_model(NAME, num_classes=3, weights="r160_in1k")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "nowhere"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, report = build_model(NAME, num_classes=3, weights=str(folder))
    assert torch.equal(model.layer4[0].conv1.weight, donor.layer4[0].conv1.weight)
    assert report.source == "folder there" and str(folder.parent) not in repr(report)
    for what in ("licence", "tag", "mean", "std", "interpolation", "input_size", "matched"):
        assert getattr(report, what) == getattr(online, what)
    with pytest.raises(ConfigurationError, match=f"write model.name={NAME}"):
        build_model("resnet18", num_classes=3, weights=str(folder))


def flip(path, place=-3):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def without(path, name):
    tensors = load_file(path)
    tensors.pop(name)
    save_file(tensors, path)


def sign(folder):
    """The manifest says what is there now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        entry["sha256"] = hash_file(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def describe(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    sign(folder)


def other_architecture(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace(f'"{NAME}"', '"test_resnet2"'))


@pytest.mark.parametrize(("spoil", "told"), [
    (lambda f: flip(f / "model.safetensors"), "model.safetensors has another SHA-256"),
    (lambda f: flip(f / "LICENCE.txt"), "LICENCE.txt has another SHA-256"),
    (lambda f: (f / "LICENCE.txt").unlink(), "LICENCE.txt is missing"),
    (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    (lambda f: (without(f / "model.safetensors", "bn1.weight"), sign(f)), "bn1.weight"),
    (lambda f: (other_architecture(f), sign(f)), "test_resnet2"),
    (lambda f: ((f / "config.json").write_text("{}"), sign(f)), "architecture"),
    (lambda f: describe(f, pretrained_cfg=[]), "pretrained_cfg is not an object"),
    (lambda f: describe(f, model_args={"colour": 3}), "no network that can be built"),
    (lambda f: describe(f, num_classes=7), "2 tensors don't fit"),
    (lambda f: ((f / "model.safetensors").write_bytes(b"x" * 99), sign(f)), "not a whole")])
def test_what_changed_in_a_folder_is_exit_3(folder, spoil, told, capsys):
    spoil(folder)
    with pytest.raises(CheckError) as caught:
        verify_weights(folder)
    assert told in str(caught.value) and caught.value.exit_code == 3
    assert main(["weights", "verify", str(folder)]) == 3


@pytest.mark.parametrize("make", [
    lambda f: f / "nowhere", lambda f: f / "file", lambda f: f / "empty", lambda f: f / "odd"])
def test_a_folder_of_another_kind_is_exit_2(tmp_path, make, capsys):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manifest.json").write_text("[]")
    assert main(["weights", "verify", str(make(tmp_path))]) == 2
    assert "error" in capsys.readouterr().err


def test_a_damaged_folder_is_not_loaded(folder):
    flip(folder / "model.safetensors")
    with pytest.raises(ConfigurationError, match=r"another SHA-256.*Copy the folder again"):
        build_model(NAME, num_classes=3, weights=str(folder))


def test_an_existing_folder_is_never_touched(tmp_path, donor):
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, told in (("empty", "exists"), ("full", "exists"), ("link", "exists"),
                       ("no/such", "no folder")):
        with pytest.raises(ConfigurationError, match=told):
            fetch_weights(NAME, tmp_path / name)
    assert (tmp_path / "full" / "a").read_text() == "mine"


def test_a_failure_leaves_nothing_behind(tmp_path, donor, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored, "write_json", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space"):
        fetch_weights(NAME, tmp_path / "there")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("name", "told"), [
    (NAME, "can't be reached"), ("test_resnt", "did you mean 'test_resnet'"),
    (f"{NAME}.r161_in1k", "r160_in1k"), ("resnet20", "no pretrained weights")])
def test_what_cannot_be_fetched_is_told_at_once(tmp_path, name, told, capsys):
    start = time.monotonic()
    assert main(["weights", "fetch", name, "--to", str(tmp_path / "there")]) == 2
    assert time.monotonic() - start < 3
    assert told in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def test_fetch_ends_with_the_words_to_use_it(tmp_path, donor, capsys):
    assert main(["weights", "fetch", NAME, "--to", str(tmp_path / "there")]) == 0
    told = capsys.readouterr().out
    assert f"model.name={NAME} model.weights={tmp_path / 'there'}" in told and "apache-2.0" in told


def test_ls_names_what_lies_where_under_which_licence(tmp_path, donor, capsys):
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in ("resnet18-f37072fd.pth", "mine.pth"):
        (checkpoints / name).write_bytes(b"x")
    found = {entry.weights: entry for entry in list_weights()}
    assert (found["r160_in1k"].network, found["r160_in1k"].licence) == (NAME, "apache-2.0")
    known = found["resnet18-f37072fd.pth"]
    assert (known.network, known.licence) == ("resnet18.tv_in1k", "bsd-3-clause")
    assert (found["mine.pth"].licence, found["mine.pth"].size) == ("unknown", 1)
    assert all(entry.path.is_file() for entry in found.values())
    assert main(["weights", "ls"]) == 0
    assert "r160_in1k" in capsys.readouterr().out


def test_ls_of_empty_caches_names_what_is_installed_only(capsys):
    assert {entry.weights for entry in list_weights()} <= {"bundled", "packaged"}


@pytest.mark.parametrize("words", [[], ["lst"], ["fetch", NAME], ["verify"]])
def test_half_a_command_is_exit_2(words, capsys):
    assert main(["weights", *words]) == 2
    assert "usage" in capsys.readouterr().err
