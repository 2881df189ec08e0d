"""Weights: everything that can be given, what fits, what is refused, and what is said about it."""

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from timm.models import adapt_input_conv
from torch import nn

from finetune.errors import ConfigurationError
from finetune.files import hash_file
from finetune.models.building import build_model
from finetune.models.heads import keep_class_rows
from finetune.models.matching import adapt_stem, match_tensors
from finetune.models.state_dicts import read_tensors
from finetune.models.weights import load_weights

NAME = "test_resnet"


@pytest.fixture(scope="module")
def donor():
    torch.manual_seed(0)
    return randomise(timm.create_model(NAME, num_classes=10))


@pytest.fixture
def given(donor):
    return OrderedDict((n, t.clone()) for n, t in donor.state_dict().items())


@pytest.fixture
def file(tmp_path, given):
    return save(tmp_path / "weights.pth", given)


@pytest.fixture(autouse=True)
def nothing_is_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def randomise(model):
    """Norms and their statistics too, so that every tensor counts."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model.eval()


def save(path, content):
    torch.save(content, path)
    return path


def build(weights, name=NAME, **options):
    model, report = build_model(name, num_classes=options.pop("num_classes", 4),
                                weights=None if weights is None else str(weights), **options)
    return model.eval(), report


def same_features(model, other, channels=3):
    pictures = torch.randn(2, channels, 64, 64)
    with torch.no_grad():
        return torch.allclose(model.forward_features(pictures), other.forward_features(pictures),
                              atol=1e-5)


def test_a_file_gives_the_whole_backbone_and_a_new_classifier(file, donor):
    model, report = build(file)
    assert same_features(model, donor)
    counted = [n for n in donor.state_dict() if "fc" not in n and "num_batches" not in n]
    assert (report.matched, report.total) == (len(counted), len(counted))
    assert (report.source, report.sha256) == ("weights.pth", hash_file(file))
    assert "the classifier is new" in report.notes


def test_mean_std_and_interpolation_of_a_file_are_those_of_the_name(file, donor):
    report = build(file)[1]
    expected = donor.pretrained_cfg
    assert (report.mean, report.std) == (tuple(expected["mean"]), tuple(expected["std"]))
    assert report.interpolation == expected["interpolation"]
    assert report.input_size == tuple(expected["input_size"][1:])
    assert any("a file doesn't say its own" in note for note in report.notes)


def test_a_classifier_of_the_same_shape_is_kept(file, donor):
    assert torch.equal(build(file, num_classes=10)[0].fc.weight, donor.fc.weight)


def test_no_local_path_is_in_the_report(file, tmp_path):
    assert str(tmp_path) not in repr(build(file)[1])


@pytest.mark.parametrize("wrap", [
    lambda d: {"state_dict": d, "epoch": 3}, lambda d: {"model": d}, lambda d: {"model_state": d},
    lambda d: {"ema": {"module": d, "updates": 3}}, lambda d: {"model": {"state_dict": d}},
    lambda d: {"state_dict": {f"module.{n}": t for n, t in d.items()}},
    lambda d: {f"module.backbone.{n}": t for n, t in d.items()},
    lambda d: {n if "fc" in n else f"encoder.{n}": t for n, t in d.items()},
    lambda d: {n: t for n, t in d.items() if "num_batches_tracked" not in n},
    lambda d: {n: t.half() for n, t in d.items()},
])
def test_wrapped_and_prefixed_files_give_the_same_network(tmp_path, given, donor, wrap):
    plain, _ = build(save(tmp_path / "plain.pth", given))
    model, report = build(save(tmp_path / "wrapped.pth", wrap(given)))
    tolerance = 1e-2 if wrap(given).get("bn1.weight", torch.ones(1)).dtype == torch.half else 0
    assert report.matched == report.total
    assert all(torch.allclose(a, b, atol=tolerance) for (n, a), b in
               zip(model.state_dict().items(), plain.state_dict().values(), strict=True)
               if "fc" not in n and "num_batches" not in n)


def test_averaged_weights_are_preferred_and_that_is_said(tmp_path, given, donor):
    other = {n: torch.zeros_like(t) for n, t in given.items()}
    path = save(tmp_path / "both.pth", {"state_dict": other, "state_dict_ema": given})
    model, report = build(path)
    assert same_features(model, donor)
    assert any("several sets of weights" in note for note in report.notes)


def test_safetensors_and_pickle_give_the_same(tmp_path, given, file):
    save_file(dict(given), tmp_path / "weights.safetensors")
    torch.manual_seed(0)
    first, report = build(tmp_path / "weights.safetensors")
    torch.manual_seed(0)
    second, _ = build(file)
    assert all(torch.equal(a, b) for a, b in
               zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert report.sha256 == hash_file(tmp_path / "weights.safetensors")


@pytest.mark.filterwarnings("default")
def test_torchvisions_resnet_loads_unchanged(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = randomise(resnet18(num_classes=6))
    path = save(tmp_path / "tv.pth", theirs.state_dict())
    ours, report = build(path, name="resnet18", num_classes=6)
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(pictures), theirs(pictures), atol=1e-6)
    assert report.matched == report.total


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_stem_follows_timms_rule_for_other_channel_counts(file, donor, channels):
    model, report = build(file, in_channels=channels)
    expected = adapt_input_conv(channels, donor.conv1[0].weight.detach())
    assert torch.allclose(model.conv1[0].weight, expected, atol=1e-6)
    assert any("adapted" in note for note in report.notes) == (channels != 3)
    assert (report.mean is None) == (channels not in (1, 3))
    assert report.mean is None or len(report.mean) == len(report.std) == channels


@pytest.mark.parametrize("new", [1, 8, 12])
def test_any_number_of_old_channels_keeps_the_answer_to_equal_channels(new):
    weight = torch.randn(5, 4, 3, 3)
    picture = torch.randn(1, 1, 9, 9)
    adapted = adapt_stem(weight, torch.zeros(5, new, 3, 3))
    answers = [nn.functional.conv2d(picture.expand(1, c, 9, 9), w)
               for c, w in ((4, weight), (new, adapted))]
    assert torch.allclose(*answers, atol=1e-4)


def test_other_names_are_loaded_by_order_and_that_is_said(tmp_path, given, donor):
    renamed = OrderedDict((f"t{i}", t) for i, t in enumerate(given.values()))
    model, report = build(save(tmp_path / "other.pth", counters_left_out(renamed, given)))
    assert same_features(model, donor)
    assert report.matched == report.total
    assert any(note.startswith("loaded by order: 0 of") for note in report.notes)


def test_a_headless_file_is_loaded_by_order(tmp_path, given, donor):
    renamed = OrderedDict((n.replace("layer", "stage").replace("bn", "norm").replace(
        "conv", "convolution"), t) for n, t in given.items() if "fc" not in n)
    assert same_features(build(save(tmp_path / "headless.pth", renamed))[0], donor)


def counters_left_out(renamed, given):
    keep = ["num_batches" not in name for name in given]
    return OrderedDict((n, t) for (n, t), k in zip(renamed.items(), keep, strict=True) if k)


def swap(items, i, j):
    items[i], items[j] = items[j], items[i]
    return OrderedDict(items)


def renamed_items(given):
    return [(n.replace("layer", "stage").replace("bn", "norm").replace("conv", "convolution"), t)
            for n, t in given.items()]


def position(items, ending):
    return next(i for i, (n, _) in enumerate(items) if n.endswith(ending))


def test_order_is_refused_where_kinds_differ(tmp_path, given):
    items = renamed_items(given)
    swapped = swap(items, position(items, "norm1.weight"), position(items, "norm1.bias"))
    with pytest.raises(ConfigurationError, match="ambiguous, kinds of tensors differ"):
        build(save(tmp_path / "swapped.pth", swapped))


def test_order_is_refused_where_the_same_names_stand_elsewhere(tmp_path, given):
    items = [(f"x{i}", t) if i % 2 else (n, t) for i, (n, t) in enumerate(given.items())
             if "num_batches" not in n]
    names = list(OrderedDict(items))
    i = next(i for i, n in enumerate(names) if n.endswith("running_var") and i + 2 < len(names))
    renamed = OrderedDict((("bn1.weight" if k == i else n if n != "bn1.weight" else "y"), t)
                          for k, (n, t) in enumerate(items))
    with pytest.raises(ConfigurationError, match=r"ambiguous|names in both"):
        build(save(tmp_path / "moved.pth", renamed))


def test_order_of_names_sorted_as_text_is_refused():
    target = OrderedDict((f"blocks.{i}.weight", torch.zeros(2, 2)) for i in range(12))
    target["head.weight"] = torch.zeros(3, 2)
    names = sorted(f"layers.{i}.weight" for i in range(12))
    with pytest.raises(ConfigurationError, match="don't ascend"):
        match_tensors({n: torch.zeros(2, 2) for n in names}, target, heads=["head"], stems=[],
                      name="sorted.pth")


def test_order_with_negative_variances_is_refused(tmp_path, given):
    renamed = OrderedDict((f"t{i}", -t) for i, (n, t) in enumerate(given.items())
                          if "num_batches" not in n)
    with pytest.raises(ConfigurationError, match="variances would be negative"):
        build(save(tmp_path / "negative.pth", renamed))


def test_order_with_other_shapes_is_refused(tmp_path, given):
    items = renamed_items(given)
    i, j = position(items, "stage1.0.convolution1.weight"), position(
        items, "stage2.0.convolution1.weight")
    with pytest.raises(ConfigurationError, match=r"in order, \d+ shapes differ"):
        build(save(tmp_path / "shapes.pth", swap(items, i, j)))


def test_a_file_of_another_network_is_refused_with_what_matched_and_what_did_not(tmp_path):
    other = timm.create_model("resnet18", num_classes=2).state_dict()
    with pytest.raises(ConfigurationError) as caught:
        build(save(tmp_path / "other.pth", other))
    text = str(caught.value)
    assert all(part in text for part in ("tensors match", "90% are needed", "missing in the file",
                                         "not in the network", "other shape", "model.name"))


@pytest.mark.parametrize(("share", "fits"), [(0.95, True), (0.85, False)])
def test_nine_tenths_of_the_backbone_must_be_found(tmp_path, given, share, fits):
    plain = {n: t for n, t in given.items() if "num_batches" not in n and "fc" not in n}
    kept = dict(list(plain.items())[:round(share * len(plain))])
    path = save(tmp_path / "part.pth", kept)
    if fits:
        _, report = build(path)
        assert (report.matched, report.total) == (len(kept), len(plain))
        assert any("stay random" in note for note in report.notes)
    else:
        with pytest.raises(ConfigurationError, match="missing in the file"):
            build(path)


PREFIXES = ["module.", "_orig_mod.module.", "resnet.", "model.feature_extractor.", "features.",
            "backbone._orig_mod.", "student.net."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_taken_off(tmp_path, given, prefix):
    model, report = build(save(tmp_path / "w.pth", {prefix + n: t for n, t in given.items()}))
    assert report.matched == report.total
    assert not any("by order" in note for note in report.notes)
    assert torch.equal(model.layer3[0].conv1.weight, given["layer3.0.conv1.weight"])


def test_of_two_networks_in_a_file_the_first_is_taken_and_that_is_said(tmp_path, given):
    twice = {"module.encoder_q." + n: t for n, t in given.items()}
    twice |= {"module.encoder_k." + n: t + 1 for n, t in given.items()}
    twice["module.queue"] = torch.zeros(8, 4)
    model, report = build(save(tmp_path / "moco.pth", {"state_dict": twice}))
    assert torch.equal(model.conv1[0].weight, given["conv1.0.weight"])
    assert any("several networks" in note and "encoder_q" in note for note in report.notes)
    both = {"student": dict(given), "teacher": {n: t + 1 for n, t in given.items()}, "epoch": 3}
    model, report = build(save(tmp_path / "dino.pth", both))
    assert torch.equal(model.conv1[0].weight, given["conv1.0.weight"])
    assert any("student is used" in note for note in report.notes)


@pytest.mark.parametrize("beside", [
    {"args": argparse.Namespace(lr=0.1, out=Path("runs"))}, {"best": np.float64(0.5)},
    {"best": np.float32(0.5)}, {"epoch": np.int64(3)}])
def test_settings_and_scores_beside_the_weights_are_no_obstacle(tmp_path, given, beside):
    _, report = build(save(tmp_path / "w.pth", {"model": dict(given), **beside}))
    assert report.matched == report.total


def test_a_deeper_networks_file_is_refused_though_every_name_is_found(tmp_path):
    path = save(tmp_path / "deep.pth", timm.create_model("resnet26").state_dict())
    shallow = timm.create_model("resnet26", layers=(1, 1, 1, 1))
    with pytest.raises(ConfigurationError, match=r"deeper.*layer1\.1"):
        load_weights(shallow, str(path), name="resnet26", in_channels=3)


def test_layers_of_another_kind_beside_the_backbone_are_left_out_and_said(tmp_path, given):
    extra = {f"decoder.{i}.weight": torch.zeros(3, 3) for i in range(40)}
    _, report = build(save(tmp_path / "w.pth", {**given, **extra}))
    assert any("40 tensors" in note and "not used" in note for note in report.notes)


def test_a_tensor_of_another_shape_is_not_called_missing(tmp_path, given):
    given["layer3.0.conv1.weight"] = torch.zeros(1, 1, 1, 1)
    _, report = build(save(tmp_path / "w.pth", given))
    assert any("layer3.0.conv1.weight has another shape" in note for note in report.notes)


def test_counters_without_their_name_do_not_spoil_the_order(tmp_path, given):
    renamed = {f"t{i}": tensor for i, tensor in enumerate(given.values())}
    _, report = build(save(tmp_path / "w.pth", renamed))
    assert any("by order" in note for note in report.notes)


def test_a_files_ending_does_not_matter(tmp_path, given):
    wrong = save(tmp_path / "torch.safetensors", given)
    save_file(dict(given), tmp_path / "safe.pth")
    for path in (wrong, tmp_path / "safe.pth"):
        assert read_tensors(path)[0].keys() == given.keys()


@pytest.mark.parametrize("address", ["https://", "http://[bad/x.pth", "http://host:port/x.pth"])
def test_an_address_that_is_none_is_told(address):
    with pytest.raises(ConfigurationError, match="is no address"):
        build(address)


class RunsCode:
    def __reduce__(self):
        return os.system, ("exit 1",)


class Creates:
    """Creates a file when it is unpickled the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("wrap", [lambda c: {"state_dict": c}, lambda c: c, lambda c: [c]])
@pytest.mark.parametrize("write", [lambda p, c: torch.save(c, p), lambda p, c: torch.save(
    c, p, _use_new_zipfile_serialization=False), lambda p, c: p.write_bytes(pickle.dumps(c))])
def test_code_in_a_file_is_not_run(tmp_path, wrap, write):
    target, path = tmp_path / "created", tmp_path / "evil.pth"
    write(path, wrap(Creates(target)))
    with pytest.raises(ConfigurationError, match="code"):
        build(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Creates(target))).close()
    assert target.exists()  # what would have happened


BROKEN = {
    "empty": (lambda p, good: p.write_bytes(b""), "is empty"),
    "cut": (lambda p, good: p.write_bytes(good[:len(good) // 2]), "broken"),
    "text": (lambda p, good: p.write_bytes(b"<!DOCTYPE html><html>"), "not a weights file"),
    "pickle": (lambda p, good: p.write_bytes(b"\x80\x02nonsense"), "broken"),
    "code": (lambda p, good: save(p, {"state_dict": RunsCode()}), "system"),
    "raw pickle": (lambda p, good: p.write_bytes(pickle.dumps({"a": RunsCode()})), "run code"),
    "module": (lambda p, good: save(p, nn.Linear(2, 2)), "holds more than tensors"),
    "list": (lambda p, good: save(p, [torch.zeros(2)]), "a list"),
    "nothing": (lambda p, good: save(p, {"epoch": 3}), "epoch"),
    "nan": (lambda p, good: save(p, {"a": torch.tensor(float("nan"))}), "NaN"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_and_files_with_code_are_refused(tmp_path, file, kind):
    write, expected = BROKEN[kind]
    path = tmp_path / "broken.pth"
    write(path, file.read_bytes())
    with pytest.raises(ConfigurationError, match=expected):
        read_tensors(path)


def test_a_cut_safetensors_file_is_refused(tmp_path, given):
    path = tmp_path / "cut.safetensors"
    save_file(dict(given), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigurationError, match=r"not a whole \.safetensors"):
        read_tensors(path)


@pytest.mark.parametrize(("weights", "expected"), [
    ("bundled", "model.name=resnet12_wide"), ("packaged", "model.name=tf_efficientnet_lite0"),
    ("r161_in2k", "did you mean 'r160_in1k'"),
    ("none", "is no timm tag and no file"), ("nowhere/weights.pth", "no folder nowhere"),
])
def test_unknown_weights_are_refused(weights, expected):
    with pytest.raises(ConfigurationError, match=expected):
        build(weights)


def test_a_missing_file_names_the_nearest_one(file):
    with pytest.raises(ConfigurationError, match=r"did you mean weights\.pth"):
        build(file.with_name("weigths.pth"))


def test_two_different_tags_are_refused():
    with pytest.raises(ConfigurationError, match="name different weights"):
        build("a2_in1k", name="resnet18.a1_in1k")


def test_a_network_without_pretrained_weights_says_so():
    with pytest.raises(ConfigurationError, match="no pretrained weights"):
        build("pretrained", name="resnetblur18")


def cache(tmp_path, repository, donor, config=None):
    """What huggingface_hub leaves behind after a download."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    save_file(donor.state_dict(), snapshot / "model.safetensors")
    if config is not None:
        (snapshot / "config.json").write_text(json.dumps(config))
    return snapshot / "model.safetensors"


@pytest.mark.parametrize("weights", ["pretrained", "r160_in1k"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_cached_tag_is_used_without_network(tmp_path, weights, channels):
    donor = randomise(timm.create_model(NAME))
    path = cache(tmp_path, "timm/test_resnet.r160_in1k", donor)
    before = torch.random.get_rng_state()
    model, report = build(weights, in_channels=channels)
    torch.random.set_rng_state(before)
    fresh, _ = build(None, in_channels=channels)
    assert torch.equal(model.fc.weight, fresh.fc.weight)
    assert channels != 3 or same_features(model, donor)
    assert torch.equal(model.layer4[0].conv1.weight, donor.layer4[0].conv1.weight)
    assert (report.source, report.tag) == ("hf-hub:timm/test_resnet.r160_in1k", "r160_in1k")
    assert (report.licence, report.sha256) == ("apache-2.0", hash_file(path))
    assert report.matched == report.total > 0


def hub_config(**changes):
    return {"architecture": NAME, "num_classes": 7, "pretrained_cfg": {
        "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "nearest",
        "input_size": [3, 96, 64], "license": "mit", "first_conv": "conv1.0", "classifier": "fc",
        "num_classes": 7, "tag": "cells"}, **changes}


def test_a_hub_repository_gives_weights_and_its_own_statistics(tmp_path):
    donor = randomise(timm.create_model(NAME, num_classes=7))
    cache(tmp_path, "lab/cells", donor, hub_config())
    model, report = build("hf-hub:lab/cells")
    assert same_features(model, donor)
    assert (report.mean, report.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (report.interpolation, report.input_size) == ("nearest", (96, 64))
    assert (report.source, report.licence, report.tag) == ("hf-hub:lab/cells", "mit", "cells")


@pytest.mark.parametrize(("config", "expected"), [
    (hub_config(architecture="resnet18"), "write model.name=resnet18"),
    ({"model_type": "bert"}, "not a timm network"),
    (hub_config(num_classes=8), "don't fit timm"),
])
def test_a_hub_repository_of_something_else_is_refused(tmp_path, donor, config, expected):
    cache(tmp_path, "lab/cells", donor, config)
    with pytest.raises(ConfigurationError, match=expected):
        build("hf-hub:lab/cells")


@pytest.mark.parametrize("weights", ["pretrained", "r160_in1k", "hf-hub:lab/cells",
                                     "http://127.0.0.1:9/weights.pth"])
def test_without_network_the_answer_comes_at_once_with_the_ways_out(weights):
    start = time.monotonic()
    with pytest.raises(ConfigurationError) as caught:
        build(weights)
    assert time.monotonic() - start < 2
    assert all(way in str(caught.value) for way in ("model.weights=FILE", "model.weights=null",
                                                    "HF_HOME", "can't be reached"))


def test_a_server_that_swallows_connections_costs_less_than_two_seconds(monkeypatch):
    monkeypatch.setattr("finetune.models.downloads._connects", lambda *_: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(ConfigurationError, match="can't be reached"):
        build("pretrained")
    assert time.monotonic() - start < 2


def test_offline_mode_is_obeyed_and_named(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="HF_HUB_OFFLINE is set"):
        build("pretrained")


@pytest.mark.slow
def test_environment_variables_decide_where_the_hub_is(tmp_path):
    code = ("import time; from finetune.models.building import build_model\n"
            "start = time.monotonic()\n"
            "try: build_model('test_resnet', num_classes=2, weights='pretrained')\n"
            "except Exception as e: print(type(e).__name__, time.monotonic() - start < 2, e)")
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path),
                   "HF_ENDPOINT": "http://127.0.0.1:9"}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, text=True,
                            capture_output=True, check=True)
    assert answer.stdout.startswith("ConfigurationError True")
    assert "http://127.0.0.1:9 can't be reached" in answer.stdout


@pytest.fixture
def server(file):
    """Serves the file; counts requests; ``/hub`` speaks enough of the hub's protocol."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            httpd.requests.append(f"{self.command} {self.path}")
            known = self.path.split("?")[0].endswith((".pth", "pytorch_model.bin", ".cut"))
            content = file.read_bytes() if known else b"<html></html>"
            page = self.path.endswith(".html")
            self.send_response(200 if known or page else 404)
            self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
            self.send_header("Content-Length", str(len(content) + 5 * self.path.endswith(".cut")))
            self.send_header("ETag", '"abc"')
            self.send_header("X-Repo-Commit", "0" * 40)
            if not known:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.requests, httpd.address = [], f"http://127.0.0.1:{httpd.server_port}"
    thread = Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_an_address_is_fetched_once_and_reported_without_secrets(server, file, donor):
    url = server.address + "/a/weights.pth?token=hidden"
    model, report = build(url)
    build(url)
    assert same_features(model, donor)
    assert server.requests == ["GET /a/weights.pth?token=hidden"]
    assert (report.source, report.sha256) == (f"{server.address}/a/weights.pth", hash_file(file))


def test_files_of_the_same_name_at_two_addresses_are_apart(server):
    build(server.address + "/a/weights.pth")
    build(server.address + "/b/weights.pth")
    assert len(server.requests) == 2


def test_an_address_with_a_password_is_refused_without_showing_it(server):
    with pytest.raises(ConfigurationError, match="user or password") as caught:
        build(server.address.replace("//", "//me:secret@") + "/a/weights.pth")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("path", "expected"), [
    ("missing", "404"), ("page.html", "web page"), ("a.cut", "bytes arrived"),
    ("resnet-01234567.pth", "another SHA-256"),
])
def test_a_failed_download_is_told_and_leaves_nothing(server, tmp_path, path, expected):
    with pytest.raises(ConfigurationError, match=expected):
        build(f"{server.address}/{path}")
    assert not [p for p in (tmp_path / "torch").rglob("*") if p.is_file()]


def test_a_hash_in_the_files_name_is_checked(server, file, tmp_path):
    name = f"net-{hash_file(file)[:8]}.pth"
    build(f"{server.address}/{name}")
    assert (tmp_path / "torch" / "hub" / "checkpoints" / name).is_file()


def test_a_file_in_torchs_own_cache_is_found_by_its_name(tmp_path, given, donor):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = save(folder / "weights.pth", given)
    name = f"resnet-{hash_file(path)[:8]}.pth"
    path.rename(folder / name)
    model, report = build(name)
    assert same_features(model, donor) and report.source == name
    with pytest.raises(ConfigurationError, match="no such file"):
        build(f"somewhere/{name}")


@pytest.mark.parametrize(("name", "fits"), [
    ("net-00000000.pth", False), ("net-0123abcdef.safetensors", False), ("net-20240131.pth", True),
    ("best-a.pth", True), ("run-3f.pth", True), ("00000000.pth", True)])
def test_a_hash_in_a_files_name_must_be_its_own(tmp_path, given, name, fits):
    path = save(tmp_path / name, given)
    if fits:
        build(path)
    else:
        with pytest.raises(ConfigurationError, match=r"begins with .*rename the file"):
            build(path)


def test_the_hub_is_asked_for_safetensors_first_and_honours_the_endpoint(
        server, donor, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"  # built at import
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(ConfigurationError, match=r"pytorch_model\.bin\) don't fit timm"):
        build("pretrained")  # the served file has 10 classes, the tag 1000
    paths = [request.split("/")[-1] for request in server.requests]
    assert paths.index("model.safetensors") < paths.index("pytorch_model.bin")


def make_run(folder, model, names, **changes):
    (folder / "checkpoints").mkdir(parents=True)
    state = {n: t.contiguous() for n, t in model.state_dict().items()}
    save_file(state, folder / "checkpoints" / "best.safetensors")
    environment = {
        "label_spec": {"kind": "single", "class_names": names, "positive_class": None},
        "input_spec": {"size": [80, 96], "mean": [0.1] * 3, "std": [0.2] * 3,
                       "interpolation": "area"},
        "weights": {"licence": "cc-by-4.0", "tag": "a1_in1k"}, **changes}
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_run_keeps_classifier_rows_by_class_name(tmp_path, head):
    earlier, _ = build(None, num_classes=3, head=head)
    folder = make_run(tmp_path / "run-7", randomise(earlier), ["cat", "dog", "owl"])
    torch.manual_seed(5)
    model, report = build(folder, num_classes=4, head=head,
                          class_names=["owl", "hen", "cat", "pig"])
    torch.manual_seed(5)
    fresh, _ = build(None, num_classes=4, head=head)
    old, now, new = (list(m.fc.modules())[-1] for m in (earlier, model, fresh))
    for tensor in ("weight", "bias"):
        expected = [getattr(old, tensor)[2], getattr(new, tensor)[1], getattr(old, tensor)[0],
                    getattr(new, tensor)[3]]
        assert torch.equal(getattr(now, tensor), torch.stack(expected))
    assert same_features(model, earlier)
    assert "classifier rows kept by class name: owl, cat; new: hen, pig" in report.notes
    assert (report.source, report.licence, report.tag) == ("run run-7", "cc-by-4.0", "a1_in1k")
    assert (report.mean, report.input_size, report.interpolation) == ((0.1,) * 3, (80, 96), "area")


@pytest.mark.parametrize("options", [{"head": "mlp"}, {"class_names": ["x", "y", "z"]}, {}])
def test_a_run_whose_classifier_has_no_use_gives_its_backbone(tmp_path, donor, options):
    earlier, _ = build(None, num_classes=3)
    folder = make_run(tmp_path / "run", earlier, ["cat", "dog", "owl"])
    names = options.pop("class_names", None if not options else ["cat", "dog", "owl"])
    model, report = build(folder, num_classes=3, class_names=names, **options)
    assert same_features(model, earlier)
    assert "the classifier is new" in report.notes
    assert not (isinstance(model.fc, nn.Linear) and torch.equal(model.fc.weight, earlier.fc.weight))


def test_an_unfinished_run_is_said_to_be_one(tmp_path, donor):
    folder = make_run(tmp_path / "run", donor, [str(i) for i in range(10)])
    _, report = build(folder)
    assert any("not finished" in note for note in report.notes)
    (folder / "metrics.json").write_text("{}")
    _, report = build(folder)
    assert not any("not finished" in note for note in report.notes)


def test_a_run_of_another_network_names_it(tmp_path):
    folder = make_run(tmp_path / "run", timm.create_model("resnet10t", num_classes=2), ["a", "b"])
    with pytest.raises(ConfigurationError) as caught:
        build(folder)
    assert "That run trained" not in str(caught.value)
    path = folder / "checkpoints" / "best.safetensors"
    save_file(load_file(path), path, metadata={"finetune": json.dumps({"model": "resnet10t"})})
    with pytest.raises(ConfigurationError, match=r"write model\.name=resnet10t"):
        build(folder)


def test_a_run_with_other_input_channels_keeps_its_stem(tmp_path):
    earlier, _ = build(None, num_classes=2, in_channels=4)
    model, report = build(make_run(tmp_path / "run", earlier, ["a", "b"]), num_classes=2,
                          in_channels=2, class_names=["b", "a"])
    weight = earlier.conv1[0].weight
    assert torch.allclose(model.conv1[0].weight, weight[:, :2] * 2)
    assert torch.equal(model.fc.weight, earlier.fc.weight.flip(0))
    assert report.mean is None


@pytest.mark.parametrize(("spoil", "expected"), [
    (lambda f: (f / "environment.json").unlink(), "without environment.json"),
    (lambda f: (f / "environment.json").write_text("{"), "as JSON"),
    (lambda f: (f / "environment.json").write_text("{}"), "label_spec"),
    (lambda f: (f / "checkpoints" / "best.safetensors").unlink(), "without checkpoints"),
])
def test_a_folder_that_is_no_finished_run_is_refused(tmp_path, donor, spoil, expected):
    folder = make_run(tmp_path / "run", donor, ["a"])
    spoil(folder)
    with pytest.raises(ConfigurationError, match=expected):
        build(folder)


def test_keeping_rows_changes_neither_side(donor, given):
    fresh, _ = build(None)
    before = {n: t.clone() for n, t in fresh.state_dict().items()}
    keep_class_rows(given, fresh, old=list("abcdefghij"), new=["a", "x", "b", "c"])
    assert all(torch.equal(t, before[n]) for n, t in fresh.state_dict().items())
    assert given["fc.weight"].shape == (10, fresh.num_features)
