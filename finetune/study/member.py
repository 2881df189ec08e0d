"""What a launcher runs: one member of a study, or the measurement that settles them all."""

import dataclasses
import hashlib
import os
import shlex
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.assembly import assemble_data, assemble_model, check_forward, domain_of, input_spec
from finetune.composition import compose
from finetune.config import Config, MemoryFormat, Precision
from finetune.console import say
from finetune.data.splits import read_splits
from finetune.devices import compute_exactly
from finetune.errors import CheckError, FinetuneError, InputError, Interrupted
from finetune.fastest import settle_arithmetic
from finetune.fitting import settle_batch_size
from finetune.folds import train_in
from finetune.run_directory import RunDirectory
from finetune.session import choose_device
from finetune.study.plan import Member, Study, total_members
from finetune.study.store import read_study

__all__ = ["LOGS", "SETTLE", "Failure", "StudyTask", "duration", "evaluated_pictures"]

LOGS = "logs"
SETTLE = -1  # the job that measures


@dataclass(frozen=True)
class Failure:
    """Why a member failed.

    Attributes:
        error: The message.
        is_input: Whether something given was wrong.
        is_interruption: Whether a signal stopped it.
    """

    error: str
    is_input: bool = False
    is_interruption: bool = False


@dataclass(frozen=True)
class StudyTask:
    """Trains the member whose number it is called with, or settles what all share.

    Attributes:
        folder: Of the study.
        process: The one in which a signal is to end the whole study.
        settling: Words to settle by; read by the job `SETTLE` alone.
    """

    folder: str
    process: int
    settling: tuple[tuple[str, ...], ...] = ()

    def __call__(self, given: Any) -> Any:
        """Values to settle by, None for a member that finished, or a `Failure`."""
        try:
            if given.job == SETTLE:
                return settle(self.settling)
            return _train(Path(self.folder), given.job)
        except (Interrupted, KeyboardInterrupt) as error:
            if os.getpid() == self.process:
                raise KeyboardInterrupt from error  # no launcher goes on after it
            return Failure(str(error), is_interruption=True)
        except FinetuneError as error:
            return Failure(str(error), isinstance(error, InputError))
        except SystemExit as error:  # of somebody's own builder: it would end all members
            return Failure(f"SystemExit({error.code})")


def settle(settling: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Words and threads that are the same for all members.

    The arithmetic is measured with the first words; ``data.batch_size=auto`` becomes the largest
    batch that fits with all of them.
    """
    configs = [compose(words, typed_by_user=False).config for words in settling]
    first = _settled(configs[0])
    words = {"training.precision": first.training.precision.value,
             "training.memory_format": first.training.memory_format.value}
    if configs[0].data.batch_size is None:
        sizes = [first, *(_settled(_computing_as(first, config)) for config in configs[1:])]
        words["data.batch_size"] = str(min(each.data.batch_size or 2 for each in sizes))
    return {"words": words, "threads": torch.get_num_threads()}


def _computing_as(first: Config, config: Config) -> Config:
    training = dataclasses.replace(config.training, precision=first.training.precision,
                                   memory_format=first.training.memory_format)
    return dataclasses.replace(config, training=training)


def _settled(config: Config) -> Config:
    """The configuration with everything measured that is ``auto``."""
    training = config.training
    if (training.precision is not Precision.auto and config.data.batch_size is not None
            and training.memory_format is not MemoryFormat.auto):
        return config
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        data = assemble_data(config, _root(config, folder))
        device = choose_device(config.device.value)
        compute_exactly(device)
        torch.manual_seed(config.seed)
        names = data.samples.label_spec.class_names
        model, weights = assemble_model(config, class_names=names, channels=data.channels)
        spec = input_spec(config, data, model, weights)
        check_forward(config, model, spec, len(names))
        given: dict[str, Any] = {"model": model.to(device), "spec": spec, "device": device,
                                 "say": say, "pictures": len(data.part("train"))}
        return settle_batch_size(settle_arithmetic(config, **given), **given)


def _root(config: Config, folder: str) -> str:
    if config.data.root is not None:
        return config.data.root
    from finetune.data.sample_data import generate_samples

    generate_samples(domain_of(config), Path(folder, "pictures"), seed=config.data.split_seed)
    return str(Path(folder, "pictures"))


def _train(folder: Path, number: int) -> None:
    study = read_study(folder)
    member = study.members[number]
    composed = compose(member.words, typed_by_user=False)
    torch.set_num_threads(study.settled["threads"])
    say(_progress(folder, study, number))
    with _logged(folder / LOGS / f"{member.path}.txt"):
        run = train_in(folder / member.path, composed.config, composed.overrides,
                       replaced=composed.replaced)
        _check_pictures(folder, study, run)
    selection = run.metrics["selection"]
    say(f"  val {selection['metric']} {selection['value']:.4f} in epoch {selection['epoch']}"
        if selection["value"] is not None else "  its metric is undefined")


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What a member says, test numbers of every arm among it, goes to a file."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _progress(folder: Path, study: Study, number: int) -> str:
    """Which member it is, how to train the same alone, and about how long the rest takes."""
    member, total = study.members[number], total_members(study)
    rate = "" if member.rate is None else f", rate {member.rate:g}"
    kind = " (search)" if member.role == "search" else ""
    left = _left(folder, study.members, total)
    return (f"\nmember {number + 1} of {total}: {member.arm}{kind}, seed {member.seed}{rate}"
            f"{'' if left is None else f'; about {duration(left)} left'}\n"
            f"  {shlex.join(['python', '-m', 'finetune', *member.words])}")


def _left(folder: Path, members: Sequence[Member], total: int) -> float | None:
    """Seconds, by what the finished ones took and how many train at a time; None before one is."""
    runs = [RunDirectory(folder / member.path) for member in members]
    finished = [run for run in runs if run.is_finished]
    took = [(run.path / "report.html").stat().st_mtime
            - (run.path / "config.yaml").stat().st_mtime for run in finished]
    at_once = sum(run.last_checkpoint.exists() for run in runs) - len(finished)
    return statistics.median(took) * (total - len(took)) / max(1, at_once) if took else None


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as one reads them.

    >>> duration(40), duration(360), duration(9000)
    ('40 s', '6 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def evaluated_pictures(run: RunDirectory) -> str:
    """SHA-256 over names, labels and parts of the validation and test pictures of a run."""
    rows = [(row["path"], row["label"], row["split"])
            for row in read_splits(run.path / "splits.csv") if row["split"] in ("val", "test")]
    return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()


def _check_pictures(folder: Path, study: Study, run: RunDirectory) -> None:
    own = evaluated_pictures(run)
    for member in study.members:
        other = RunDirectory(folder / member.path)
        if other.is_finished and evaluated_pictures(other) != own:
            raise CheckError(f"validation or test pictures are not those of {member.path}: members "
                             "of a study are compared on the same ones, so the data changed")
