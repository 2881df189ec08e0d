"""Signals: a run stops where it can go on again, or leaves nothing behind."""

import os
import signal

import pytest

from finetune.errors import Interrupted
from finetune.interruption import interruption, several_runs
from finetune.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(str(tmp_path), "a run")


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def write_checkpoint(run):
    run.last_checkpoint.parent.mkdir()
    run.last_checkpoint.write_bytes(b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_checkpoint_it_stops_at_once_and_leaves_nothing(number, run):
    with pytest.raises(Interrupted, match="nothing is kept"), interruption(None) as signals:
        signals.run = run
        send(number)
        raise AssertionError("not at once")
    assert not run.path.exists()


def test_an_error_before_the_first_checkpoint_leaves_nothing(run):
    with pytest.raises(KeyError), interruption(None) as signals:
        signals.run = run
        raise KeyError
    assert not run.path.exists()


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_a_run_that_is_continued_is_never_removed(has_checkpoint, run):
    if has_checkpoint:
        write_checkpoint(run)
    with pytest.raises(Interrupted), interruption(run):
        send()
    assert run.path.exists()


def test_the_first_signal_is_remembered_and_the_second_stops_and_both_tell_how_to_go_on(run):
    write_checkpoint(run)
    told = r"finetune resume '.*a run-"
    with pytest.raises(Interrupted, match=told), interruption(run) as signals:
        signals.patient = True
        send()
        assert signals.requested()
        signals.check("in epoch 3")
    with pytest.raises(Interrupted, match=told), interruption(run) as signals:
        signals.patient = True
        send(signal.SIGTERM)
        send()
        raise AssertionError("not at once")


def test_batches_end_at_the_next_one(run):
    write_checkpoint(run)
    seen = []
    with pytest.raises(Interrupted, match="while val was measured"), interruption(run) as signals:
        signals.patient = True
        for batch in signals.watched(range(9), "while val was measured"):
            seen.append(batch)
            if batch == 2:
                send()
    assert seen == [0, 1, 2]


def test_workers_that_die_of_the_same_signal_are_part_of_it(run):
    write_checkpoint(run)
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    with pytest.raises(Interrupted), interruption(run) as signals:
        signals.patient = True
        send(signal.SIGTERM)
        raise error
    with pytest.raises(RuntimeError), interruption(run):
        raise error


def test_handlers_come_back(run):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruption(run):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_run_finished_in_spite_of_stops_the_runs_after_it(run, number):
    began = []
    with pytest.raises(KeyboardInterrupt), several_runs():
        for name in "ab":
            began.append(name)
            with interruption(run) as signals:
                signals.patient = True
                send(number)  # while the report is written
    assert began == ["a"]


def test_a_run_alone_is_finished_in_spite_of_a_late_signal(run):
    with interruption(run) as signals:
        signals.patient = True
        send()
    assert signals.requested()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_between_runs_both_signals_stop_at_once_and_handlers_come_back(number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), several_runs():
        send(number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
