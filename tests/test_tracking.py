"""What leaves the machine: numbers when asked for, and nothing else."""

import getpass
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from wandb_server import serving

from finetune.errors import ConfigurationError
from finetune.training.tracking import Tracker, hashed_id, private_config, start_tracking
from finetune.training.tracking_server import find_key, server_address

METRICS = {"accuracy": 0.75, "count": 4, "class_names": ["cat", "dog"],
           "confusion_matrix": [[2, 0], [1, 1]],
           "per_class": {"cat": {"precision": 0.67, "support": 2},
                         "dog": {"precision": 1.0, "support": 2}}}
SECRET = "very_private_folder"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    path = tmp_path / SECRET / "run-1"
    path.mkdir(parents=True)
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def server(monkeypatch):
    with serving() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        yield found


def start(folder, mode, **more):
    options = {"project": None, "entity": None, "group": None, "tags": [], "notes": None,
               "name": "run-1", "config": {"seed": 3}, "run_id": None, "pictures": False,
               "salt": "run-1", **more}
    return start_tracking(folder, mode=mode, **options)


def track(folder, mode, **more):
    tracker = start(folder, mode, **more)
    for epoch in (1, 2):
        tracker.log_epoch({"val/accuracy": epoch / 4, "lr/head": 0.1}, epoch)
    tracker.log_best({"accuracy": 0.5})
    tracker.log_results("test", METRICS)
    tracker.finish()
    return tracker


def test_an_online_run_arrives_with_numbers_config_and_tables(folder, server):
    tracker = track(folder, "online", project="mine", group="g", tags=["t"], notes="n")
    assert tracker.warnings == []
    rows = [row for row in server.history if "val/accuracy" in row]
    assert [(row["epoch"], row["val/accuracy"]) for row in rows] == [(1, 0.25), (2, 0.5)]
    assert server.summary["test/accuracy"] == 0.75 and server.summary["best/accuracy"] == 0.5
    logged = next(row for row in server.history if "test/per_class" in row)
    assert logged["test/confusion_matrix"]["nrows"] == 4
    sent = server.everything
    assert '"mine"' in sent and '"cat"' in sent and '"dog"' in sent
    assert json.dumps(json.dumps({"value": 3})[1:-1])[1:-1] in sent or '\\"seed\\"' in sent


def private_words():
    home = os.path.expanduser("~")
    words = {SECRET, socket.gethostname(), platform.node(), os.path.basename(sys.argv[0])}
    return {w for w in words | ({home} if len(home) > 5 else set()) if len(w) > 3}


def test_nothing_private_is_sent(folder, server):
    assert track(folder, "online").warnings == []
    sent = server.everything
    assert "val/accuracy" in sent
    assert [word for word in private_words() if word in sent] == []
    assert f'"{getpass.getuser()}"' not in sent and "github.com" not in sent.lower()


def test_nothing_private_is_in_the_files_of_an_offline_run(folder):
    track(folder, "offline")
    files = [p for p in (folder / "wandb").rglob("*") if p.is_file()]
    assert any(p.suffix == ".wandb" for p in files)
    for path in files:
        if path.suffix == ".log":
            continue  # stays: `wandb sync` doesn't send it
        content = path.read_bytes().decode("utf-8", "replace")
        assert [word for word in private_words() if word in content] == [], path


def test_several_labels_have_a_row_of_counts_for_each_class(folder, server):
    tracker = start(folder, "online")
    tracker.log_results("test", {
        "class_names": ["fever", "cough", "pain"], "macro_f1": None,
        "confusion_matrix": [[[5, 1], [2, 3]], [[6, 2], [1, 2]], [[1, 0], [0, 9]]],
        "per_class": {n: {"precision": 0.5, "roc_auc": None} for n in ("fever", "cough", "pain")}})
    tracker.finish()
    logged = next(row for row in server.history if "test/per_class" in row)
    assert logged["test/confusion_matrix"]["nrows"] == 3
    assert '["cough",6,2,1,2]' in server.everything.replace(" ", "")


def test_an_offline_run_can_be_sent_later(folder, server):
    track(folder, "offline")
    assert server.requests == []
    run = next((folder / "wandb").glob("offline-run-*"))
    done = subprocess.run([sys.executable, "-m", "wandb", "sync", str(run)], capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["epoch"] for row in server.history if "val/accuracy" in row] == [1, 2]


@pytest.mark.parametrize("mode", ["offline", None])
def test_offline_makes_no_request(mode, folder, server, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **b: asked.append(a) or [])
    track(folder, mode)
    assert server.requests == [] and asked == []


OFFLINE = """
import sys, urllib.request
from pathlib import Path
from finetune.training.tracking import start_tracking
tracker = start_tracking(
    Path("."), mode=sys.argv[1], project=None, entity=None, group=None, tags=[], notes=None,
    name="x", config={}, run_id=None, pictures=True, salt="")
tracker.log_epoch({"val/accuracy": 0.5}, 1)
tracker.finish()
urllib.request.urlopen("http://the-last-word.invalid", timeout=5)
"""


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_no_process_of_an_offline_run_asks_any_host(mode, folder, server, monkeypatch):
    monkeypatch.delenv("WANDB_BASE_URL")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, server.url)  # what any process asks arrives here
    subprocess.run([sys.executable, "-c", OFFLINE, mode], check=True, timeout=60)
    assert [path for _, path, *_ in server.requests] == ["http://the-last-word.invalid"]


def test_disabled_imports_nothing_and_writes_nothing(folder):
    code = ("import sys; from pathlib import Path; from finetune.training.tracking import *\n"
            "t = start_tracking(Path('.'), mode='disabled', project=None, entity=None, group=None,"
            " tags=[], notes=None, name='x', config={}, run_id=None, pictures=False, salt='')\n"
            "t.log_epoch({'a': 1.0}, 1); t.log_results('test', {}); t.finish()\n"
            "assert 'wandb' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(folder.iterdir()) == []


def test_variables_of_the_user_count_where_no_key_is_set(folder, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    names = ("PROJECT", "RUN_GROUP", "TAGS", "NOTES", "NAME", "ENTITY")
    for name in names:
        monkeypatch.setenv(f"WANDB_{name}", f"their-{name.lower()}")
    before = dict(os.environ)
    track(folder, None)
    os.environ.pop("WANDB_SERVICE", None)  # wandb's own, of its first run in a process
    assert [n for n in names if f'"their-{n.lower()}"' not in server.everything] == []
    assert dict(os.environ) == before


def test_keys_go_before_the_users_variables(folder, server, monkeypatch):
    for name in ("PROJECT", "RUN_GROUP", "TAGS", "NOTES", "ENTITY"):
        monkeypatch.setenv(f"WANDB_{name}", "theirs")
    track(folder, "online", project="p", group="g", tags=["t"], notes="n", entity="e")
    assert "theirs" not in server.everything


@pytest.mark.parametrize(("word", "pattern"), [("dryrun", "offline-run-*"), ("disabled", None)])
def test_words_of_the_users_variable(word, pattern, folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", word)
    track(folder, None)
    assert (folder / "wandb").exists() is (pattern is not None)
    assert pattern is None or list((folder / "wandb").glob(pattern))


def test_an_unknown_word_in_the_users_variable_is_told_and_a_key_goes_before_it(
        folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(ConfigurationError, match=r"WANDB_MODE=ofline.*'offline'"):
        start(folder, None)
    start(folder, "disabled").finish()


def test_online_without_a_key_is_offline_and_said(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    tracker = track(folder, "online")
    assert "WANDB_API_KEY" in tracker.warnings[0] and "offline" in tracker.warnings[0]
    assert list((folder / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize("answers", [False, True], ids=["nothing listens", "never answers"])
def test_a_server_that_cannot_be_reached_means_offline_soon(answers, folder, monkeypatch):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if not answers:
        listener.close()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    started = time.monotonic()
    tracker = track(folder, "online")
    listener.close()
    assert time.monotonic() - started < 30
    assert "can't be reached" in tracker.warnings[0]
    assert list((folder / "wandb").glob("offline-run-*"))


DYING = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from wandb_server import serving
from finetune.training.tracking import start_tracking
with serving() as server:
    os.environ["WANDB_BASE_URL"] = server.url
    tracker = start_tracking(
        Path("."), mode="online", project=None, entity=None, group=None, tags=[], notes=None,
        name="x", config={}, run_id=None, pictures=False, salt="", finish_timeout=3)
assert tracker.run_id and not tracker.warnings
tracker.log_epoch({"val/accuracy": 0.5}, 1)
tracker.finish()
print("the training is done")
"""


def test_a_server_that_dies_does_not_stop_the_training(folder, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    done = subprocess.run([sys.executable, "-c", DYING, os.path.dirname(__file__)], timeout=60,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "the training is done" in done.stdout, done.stderr


def test_a_resumed_run_goes_on_under_its_id(folder, server):
    first = start(folder, "online")
    name = first.run_id
    first.log_epoch({"val/accuracy": 0.25}, 1)
    first.finish(1)
    second = start(folder, "online", run_id=name)
    assert second.run_id == name
    second.log_epoch({"val/accuracy": 0.5}, 2)
    second.finish()
    assert [row["epoch"] for row in server.history if "val/accuracy" in row] == [1, 2]


@pytest.mark.parametrize("allowed", [True, False])
def test_pictures_leave_only_when_allowed(allowed, folder, server):
    tracker = start(folder, "online", pictures=allowed)
    tracker.log_pictures("mistakes", [np.zeros((8, 8, 3), np.uint8)],
                         [hashed_id("patient/7.png", "run-1")])
    tracker.finish()
    assert (".png" in server.everything) is allowed
    assert (hashed_id("patient/7.png", "run-1") in server.everything) is allowed
    assert "patient" not in server.everything


def test_the_model_is_an_artifact_on_request(folder, server, monkeypatch):
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(folder / name))
    path = folder / "best.safetensors"
    path.write_bytes(b"weights of mine")
    tracker = start(folder, "online")
    tracker.log_model(path)
    tracker.finish()
    assert "weights of mine" in server.everything
    assert SECRET not in server.everything
    (told,) = set(re.findall(r'"local_path": ?"([^"]*)"', server.everything))
    assert not os.path.exists(told)


def test_ids_are_hashed_with_the_runs_salt():
    assert hashed_id("a", "x") != hashed_id("a", "y") != hashed_id("b", "y")
    assert "a.png" not in hashed_id("a.png", "x")


def test_the_salt_of_a_run_is_its_own_stays_and_does_not_leave(folder, server):
    salts = []
    for path in (folder, folder, folder / "other"):
        tracker = start(path, "online")
        tracker.log_epoch({"val/accuracy": 0.5}, 1)
        tracker.finish()
        salts.append(tracker.salt)
    assert salts[0] == salts[1] != salts[2] and "val/accuracy" in server.everything
    secrets = [salt.removeprefix("run-1") for salt in salts]
    assert all(len(word) > 20 and word not in server.everything for word in secrets)


def test_paths_are_left_out_of_the_configuration(tmp_path):
    kept, dropped = private_config({
        "seed": 1, "output_dir": "runs", "data": {"root": "/home/me/x", "transform": "xray",
                                                  "group_from": "p(.*)", "splits_file": "s.csv"},
        "model": {"weights": str(tmp_path), "name": "resnet50"}})
    assert kept == {"seed": 1, "data": {"transform": "xray"}, "model": {"name": "resnet50"}}
    assert set(dropped) == {"output_dir", "data.root", "data.group_from", "data.splits_file",
                            "model.weights"}
    public, none = private_config({"model": {"weights": "https://host/a.pth", "name": "a"}})
    assert public["model"]["weights"] == "https://host/a.pth" and none == []


@pytest.mark.parametrize(("key", "value"), [
    ("weights", "ward_7_gone.pth"), ("weights", "old-run"), ("weights", "D:\\ward\\a.pth"),
    ("weights", "https://me:word@host/a.pth"), ("weights", "https://host/a.pth?token=1"),
    ("weights", "file:///ward/a.pth"), ("waiver", "Dr Who agreed")])
def test_names_of_files_reasons_and_passwords_are_left_out_too(key, value, folder):
    (folder / "old-run").mkdir()
    assert private_config({key: value, "transform": "xray"}) == ({"transform": "xray"}, [key])


@pytest.mark.parametrize("value", ["resnet50.a1_in1k", "hf-hub:timm/resnet18", "pretrained"])
def test_public_names_of_weights_stay(value):
    assert private_config({"weights": value}) == ({"weights": value}, [])


def test_a_tracker_that_is_off_does_nothing():
    tracker = Tracker()
    tracker.log_epoch({"a": 1.0}, 1)
    tracker.log_results("test", METRICS)
    assert tracker.run_id is None
    tracker.finish()
    tracker.finish()


def test_a_key_of_wandb_login_is_found_under_either_name_of_the_hosted_server(
        tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert find_key(server_address()) is None
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert find_key(server_address()) == "secret"
    assert find_key("https://other.example.org") is None
    monkeypatch.setenv("WANDB_API_KEY", "of the variable")
    assert find_key(server_address()) == "of the variable"


def test_without_a_variable_the_address_is_the_one_that_wandb_itself_uses(monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert server_address() == wandb.Settings().base_url
