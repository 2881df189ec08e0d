"""Members of a study through Hydra's launchers: here one after the other, or side by side.

Hydra's plugins (joblib, submitit, Ray) take a function and words for each job. Nothing but the
study's folder and a member's number travels to a job; all else is read from the folder.
"""

import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from finetune.dotted import TRUST, trusted
from finetune.errors import ConfigurationError, FinetuneError, did_you_mean
from finetune.run_directory import STUDY

__all__ = ["LAUNCHERS", "check_kept_launcher", "check_launcher", "is_local", "read_sweeper",
           "run_jobs"]

_PLAIN_WORD = re.compile(
    r"hydra/launcher=\w+|hydra\.launcher\.(n_jobs|backend|prefer|require|verbose|batch_size|timeout|"
    r"timeout_min|cpus_per_task|gpus_per_node|nodes|tasks_per_node|mem_gb|name|partition|qos|account|"
    r"constraint|exclude|gres|cpus_per_gpu|gpus_per_task|mem_per_gpu|mem_per_cpu|signal_delay_s|"
    r"max_num_timeout|array_parallelism|stderr_to_stdout)=[\w.:,-]*")
LAUNCHERS = {"basic": "", "joblib": "sweep", "submitit_local": "slurm", "submitit_slurm": "slurm",
             "ray": "ray"}
"""Launchers that a study knows, and the extra that brings each."""


def is_local(words: Sequence[str]) -> bool:
    """Whether jobs run in this process, one after the other."""
    return _name(words) == "basic"


def check_launcher(words: Sequence[str]) -> None:
    """Raise unless the launcher is installed and has the keys that are given.

    Raises:
        ConfigurationError: It isn't, or hasn't.
    """
    name = _name(words)
    there = _loader().get_group_options("hydra/launcher")
    if name not in there:
        extra = LAUNCHERS.get(name)
        raise ConfigurationError(
            f"hydra/launcher={name} is not installed: python -m pip install "
            f"\"finetune-images[{extra}]\"" if extra else
            f"hydra/launcher={name} is not known{did_you_mean(name, LAUNCHERS)}; there are "
            f"{', '.join(LAUNCHERS)}")
    try:
        _configuration(_loader(), Path("."), words)
    except HydraException as error:
        raise ConfigurationError(f"{' '.join(words)}: {str(error).splitlines()[0]}") from error


def check_kept_launcher(words: Sequence[str]) -> None:
    """Raise unless a study's own file asks a launcher for nothing but numbers and names.

    Words such as ``hydra.launcher.setup=[…]`` run commands; whoever typed them may list their keys
    in FINETUNE_TRUST.

    Raises:
        ConfigurationError: It does.
    """
    wrong = [word for word in words if not _PLAIN_WORD.fullmatch(word)
             and word.partition("=")[0] not in trusted()]
    if wrong:
        raise ConfigurationError(f"{STUDY} holds {wrong[0]}, which could run commands, and which "
                                 f"you didn't type now: if it is yours, set {TRUST}="
                                 f"{wrong[0].partition('=')[0]}")


def read_sweeper(words: Sequence[str]) -> dict[str, Any]:
    """The settings of Hydra's sweeper, as its own schema reads the words.

    Raises:
        ConfigurationError: It isn't Optuna's, isn't installed, or hasn't a key that is given.
    """
    names = [word.partition("=")[2] for word in words if word.startswith("hydra/sweeper=")]
    if names[-1:] != ["optuna"]:
        raise ConfigurationError(f"{' '.join(words)}: expected hydra/sweeper=optuna; lists are "
                                 "trained by -m without a sweeper")
    loader = _loader()
    if "optuna" not in loader.get_group_options("hydra/sweeper"):
        raise ConfigurationError("hydra/sweeper=optuna is not installed: python -m pip install "
                                 '"finetune-images[sweep]"')
    try:
        sweeper = _configuration(loader, Path("."), words).hydra.sweeper
    except HydraException as error:
        raise ConfigurationError(f"{' '.join(words)}: {str(error).splitlines()[0]}") from error
    return dict(OmegaConf.to_container(sweeper))  # type: ignore[arg-type]


def run_jobs(task: Callable[[DictConfig], Any], folder: Path, words: Sequence[str],
             jobs: Sequence[int]) -> list[Any]:
    """What the task answered for each job, or the exception that ended it.

    Args:
        task: Can be pickled; is given a configuration with ``job``, the number.
        folder: Of the study: the launcher's own files go there, and nowhere else.
        words: Of Hydra, such as ``hydra/launcher=joblib``.
        jobs: Numbers.

    Raises:
        FinetuneError: The launcher itself failed.
        KeyboardInterrupt: As the task raised it, in this process.
    """
    loader = _loader()
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    try:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task, config=_configuration(loader, folder, words))
        with warnings.catch_warnings(), _jobs_end_with_us(words):
            if not is_local(words):
                warnings.simplefilter("ignore")  # of the plugins' own
            returned = launcher.launch([[f"+job={job}"] for job in jobs], initial_job_idx=0)
    except RuntimeError as error:  # a worker that was killed
        raise FinetuneError(f"hydra/launcher={_name(words)} failed: {error}") from error
    return [_answer(each) for each in returned]


@contextmanager
def _jobs_end_with_us(words: Sequence[str]) -> Iterator[None]:
    """Cancel submitit's jobs when this process is stopped.

    They would outlive it, and a resumed study would train beside them.
    """
    if not _name(words).startswith("submitit"):
        yield
        return
    from submitit import AutoExecutor

    started: list[Any] = []
    map_array = AutoExecutor.map_array

    def noted(self: Any, *args: Any) -> Any:
        started.extend(map_array(self, *args))
        return list(started)

    AutoExecutor.map_array = noted  # type: ignore[method-assign,assignment]
    try:
        yield
    except KeyboardInterrupt:
        for job in started:
            job.cancel()
        for _ in range(60):
            if all(job.done(force_check=True) for job in started):
                break
            time.sleep(1)
        raise
    finally:
        AutoExecutor.map_array = map_array  # type: ignore[method-assign]


def _answer(job: JobReturn) -> Any:
    return job.return_value if job.status is JobStatus.COMPLETED else job._return_value


def _name(words: Sequence[str]) -> str:
    named = [word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")]
    return named[-1] if named else "basic"


def _loader() -> ConfigLoaderImpl:
    return ConfigLoaderImpl(config_search_path=create_config_search_path(None))


def _configuration(loader: ConfigLoaderImpl, folder: Path, words: Sequence[str]) -> DictConfig:
    """Hydra's own settings: it writes no logs, saves no configuration, changes no folder."""
    place = str(folder.resolve()).replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    own = [f"hydra.sweep.dir='{place}'", "hydra.sweep.subdir=.", "hydra.output_subdir=null",
           "hydra.job.chdir=false", "hydra.job.name=finetune", "hydra/job_logging=none",
           "hydra/hydra_logging=none"]
    return loader.load_configuration(config_name=None, overrides=[*own, *words],
                                     run_mode=RunMode.MULTIRUN)
