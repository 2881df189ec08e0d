"""A run that was interrupted and continued is the run that was not interrupted."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from finetune import run as run_module
from finetune.__main__ import main
from finetune.composition import compose
from finetune.errors import InputError, Interrupted
from finetune.files import write_text
from finetune.run import fit, resume
from finetune.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("without_pages")
TIMES = {"seconds", "images_per_second"}
POLICIES = {
    "none": ["freezing.policy=none"],
    "head_only": ["freezing.policy=head_only"],
    "head_then_all": ["freezing.policy=head_then_all"],
    "gradual": ["freezing.policy=gradual"],
    "below": ["freezing.policy=below", "freezing.below=layer3"],
    "phases": ["freezing.policy=phases",
               "freezing.phases=[{epochs:1,depths:head},{epochs:2,depths:all,lr:1e-3}]"],
    "auto_rgn": ["freezing.policy=auto_rgn", "training.mixup_alpha=0.4"],
}
BUNDLED = ["model.name=resnet12_wide", "model.weights=bundled"]
OPTIONS = {
    "ema": ["training.ema_decay=0.9"],
    "mixup": ["training.mixup_alpha=0.4", "training.cutmix_alpha=1.0"],
    "workers": ["data.workers=2"],
    "reading_ahead": ["data.workers=null"],
    "pack": ["data.pack=always", "data.image_size=16"],
    "accumulation": ["training.accumulation_steps=3", "data.sampling=balanced"],
    "dropout": ["model.drop_rate=0.3", "model.drop_path_rate=0.1", "schedule.restart=true",
                "schedule.name=one_cycle", "optimizer.name=lion"],
    "patience": ["training.patience_fraction=0.3"],
    "cached": ["freezing.policy=below", "freezing.below=layer3", "data.transform=none"],
    "views": ["freezing.policy=head_only", "training.cache_views=2"],
    "exact": ["freezing.policy=head_then_all", "training.head_fit=exact"],
    "l2_sp": [*BUNDLED, "optimizer.decay_towards=start", "optimizer.start_decay=5"],
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing that handles errors sees it as one."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = random.integers(0, 120, (60, 32, 32, 3)) + labels[:, None, None, None] * 60
    path = tmp_path_factory.mktemp("pictures") / "some.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


def words(pictures, folder, *more):
    return [f"data.root={pictures}", f"output_dir={folder}", "model.name=resnet10t",
            "model.weights=null", "data.image_size=32", "data.batch_size=8", "data.workers=0",
            "training.epochs=3", "tracking.mode=disabled", "device=cpu", *more]


@pytest.fixture(scope="module")
def finished():
    """Uninterrupted runs, each trained once."""
    return {}


@pytest.fixture
def whole(pictures, tmp_path_factory, finished):
    def train(*extra):
        if extra not in finished:
            folder = tmp_path_factory.mktemp("whole")
            finished[extra] = fit(compose(words(pictures, folder, *extra)).config)
        return finished[extra]

    return train


def content(run):
    history = [{k: v for k, v in entry.items() if k not in TIMES} for entry in run.history]
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    return (history, checkpoint, run.best_weights.read_bytes(), run.metrics,
            run.familiarity.read_bytes())


def assert_same(left, right):
    for a, b in zip(content(left), content(right), strict=True):
        assert_equal(a, b)


def assert_equal(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in set(a) - TIMES:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}[{number}]")
    else:
        assert a == b, where


def killed_at(monkeypatch, batches, config, **options):
    """Train until that many batches are done in all, then die."""
    count = 0

    def batch(self, done, of):
        nonlocal count
        count += 1
        if count == batches:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_module.EpochLine, "batch", batch)
        with pytest.raises(Killed):
            fit(config, **options)


def only_run(folder):
    return RunDirectory(next(folder.glob("*/")))


@pytest.mark.parametrize("extra", [*POLICIES.values(), *OPTIONS.values()],
                         ids=[*POLICIES, *OPTIONS])
def test_a_killed_run_goes_on_bit_by_bit(extra, whole, pictures, tmp_path, monkeypatch):
    reference = whole(*extra)
    config = compose(words(pictures, tmp_path / "cut", *extra)).config
    stepped = sum(entry["fit"] is None for entry in reference.history)
    killed_at(monkeypatch, stepped * 5 - 2, config)
    cut = only_run(tmp_path / "cut")
    assert 0 < len(cut.history) < len(reference.history)
    assert_same(resume(cut), reference)


def test_killed_before_the_first_epochs_end_and_again_later(whole, pictures, tmp_path, monkeypatch):
    reference = whole()
    config = compose(words(pictures, tmp_path / "cut")).config
    killed_at(monkeypatch, 2, config)
    cut = only_run(tmp_path / "cut")
    assert cut.history == [] and cut.last_checkpoint.exists()
    killed_at(monkeypatch, 7, cut.config, run=cut)
    assert len(cut.history) == 1
    assert_same(resume(cut), reference)


@pytest.mark.parametrize("dies_in", ["save_weights", "save_checkpoint", "write_history",
                                     "write_figures", "write_report"])
def test_killed_between_two_files(dies_in, whole, pictures, tmp_path, monkeypatch):
    reference = whole()
    owner = run_module.RunDirectory if dies_in == "write_history" else run_module
    real, calls = getattr(owner, dies_in), 0

    def dying(*args, **options):
        nonlocal calls
        calls += 1
        if calls == 2 or dies_in in ("write_figures", "write_report"):
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, dies_in, dying)
        with pytest.raises(Killed):
            fit(compose(words(pictures, tmp_path / "cut")).config)
    assert_same(resume(only_run(tmp_path / "cut")), reference)


def test_history_beyond_the_checkpoint_is_cut(pictures, tmp_path, monkeypatch):
    config = compose(words(pictures, tmp_path)).config
    killed_at(monkeypatch, 8, config)
    run = only_run(tmp_path)
    run.write_history([*run.history, {**run.history[-1], "epoch": 2, "train_loss": 99.0}])
    assert [e["epoch"] for e in resume(run).history] == [1, 2, 3]
    assert 99.0 not in [e["train_loss"] for e in run.history]


def test_a_finished_run_stays_as_it_is(pictures, tmp_path):
    run = fit(compose(words(pictures, tmp_path, "training.epochs=1")).config)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.path.rglob("*") if p.is_file()}
    done = command("resume", str(run.path))
    assert done.returncode == 0 and "finished" in done.stdout + done.stderr
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in run.path.rglob("*") if p.is_file()}
    assert after == before


def test_changed_pictures_are_refused(pictures, tmp_path, monkeypatch):
    copy = tmp_path / "copy.npz"
    copy.write_bytes(pictures.read_bytes())
    killed_at(monkeypatch, 8, compose(words(copy, tmp_path / "runs")).config)
    held = dict(np.load(copy))
    held["images"][0] += 1
    np.savez(copy, **held)
    with pytest.raises(InputError, match="changed"):
        resume(only_run(tmp_path / "runs"))


def test_a_run_goes_on_from_any_folder_and_with_pictures_that_were_moved(whole, pictures, tmp_path,
                                                                         monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.npz").write_bytes(pictures.read_bytes())
    killed_at(monkeypatch, 8, compose(words("here.npz", "runs")).config)
    (tmp_path / "elsewhere").mkdir()
    only_run(tmp_path / "runs").path.rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir("/")
    cut = only_run(tmp_path / "elsewhere")
    (tmp_path / "here.npz").rename(tmp_path / "there.npz")
    with pytest.raises(InputError, match=r"here\.npz does not exist.*config\.yaml"):
        resume(cut)
    config = cut.path / "config.yaml"
    write_text(config, config.read_text().replace("here.npz", "there.npz"))
    assert_same(resume(cut), whole())


def test_the_thread_count_of_the_run_is_restored(pictures, tmp_path, monkeypatch):
    killed_at(monkeypatch, 1, compose(words(pictures, tmp_path)).config)
    before = torch.get_num_threads()

    def dying(*args, **options):
        raise Killed

    monkeypatch.setattr(run_module, "assemble_model", dying)
    torch.set_num_threads(before + 1)
    try:
        with pytest.raises(Killed):
            resume(only_run(tmp_path))
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_a_splits_file_of_the_current_folder_is_found_again(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = compose(words(pictures, "runs")).config
    killed_at(monkeypatch, 8, config)
    write_text(tmp_path / "own.csv", (only_run(tmp_path / "runs").path / "splits.csv").read_text())
    killed_at(monkeypatch, 8, compose(words(pictures, "more", "data.splits_file=own.csv")).config)
    monkeypatch.chdir("/")
    assert len(resume(only_run(tmp_path / "more")).history) == 3


def test_a_signal_in_the_last_validation_is_not_lost(whole, pictures, tmp_path, monkeypatch):
    validate = run_module.validate

    def signalled(method, data, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(method, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "validate", signalled)
        with pytest.raises(Interrupted, match="while val was measured"):
            fit(compose(words(pictures, tmp_path / "cut", "training.epochs=1")).config)
    cut = only_run(tmp_path / "cut")
    assert cut.history == [] and not cut.is_finished
    assert_same(resume(cut), whole("training.epochs=1"))


def test_a_damaged_checkpoint_is_told(pictures, tmp_path, monkeypatch, capsys):
    killed_at(monkeypatch, 8, compose(words(pictures, tmp_path)).config)
    run = only_run(tmp_path)
    run.last_checkpoint.write_bytes(run.last_checkpoint.read_bytes()[:1000])
    assert main(["resume", str(run.path)]) == 1
    assert "last.pt" in capsys.readouterr().err


def test_a_signal_in_a_notebook_raises_interrupted(pictures, tmp_path, monkeypatch):
    def batch(self, done, of):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_module.EpochLine, "batch", batch)
    with pytest.raises(Interrupted, match="resume"):
        fit(compose(words(pictures, tmp_path)).config)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def command(*given, **options):
    return subprocess.run([sys.executable, "-m", "finetune", *given], capture_output=True,
                          text=True, timeout=120, check=False, **options)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_real_signal_to_a_real_process_group(number, whole, pictures, tmp_path):
    extra = ["training.epochs=4", "data.workers=2"]
    reference = whole(*extra)
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune", *words(pictures, tmp_path / "cut", *extra)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_epochs(tmp_path / "cut", 1)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert process.returncode == 130 and "finetune resume" in error
    assert "Traceback" not in error
    cut = only_run(tmp_path / "cut")
    assert len(cut.history) < 4
    assert main(["resume", str(cut.path)]) == 0  # another process than the one that began it
    assert_same(cut, reference)


# torch raises in whatever runs when the signal of the death comes, be it a __del__
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_reading_process_that_dies_is_told_and_the_run_goes_on(whole, pictures, tmp_path,
                                                                monkeypatch, capsys):
    extra = ["data.workers=2"]

    def batch(self, done, of):
        for child in multiprocessing.active_children():
            child.kill()

    with monkeypatch.context() as patch:
        patch.setattr(run_module.EpochLine, "batch", batch)
        assert main(words(pictures, tmp_path / "cut", *extra)) == 1
    error = capsys.readouterr().err
    assert "reads pictures died" in error and "Traceback" not in error
    assert_same(resume(only_run(tmp_path / "cut")), whole(*extra))


def wait_for_epochs(folder, count):
    for _ in range(600):
        found = list(folder.glob("*/history.jsonl"))
        if found and len([json.loads(t) for t in found[0].read_text().splitlines()]) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no epoch ended within 30 s")
