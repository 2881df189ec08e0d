"""Kill runs with SIGKILL at random moments, resume them, and compare with uninterrupted ones.

Every freezing policy is trained once without interruption and then several times with one kill
each, at a moment drawn uniformly over the time from the first checkpoint to the end. A resume is
bit-identical when history (times apart), last checkpoint, chosen weights and metrics are equal.

    python benchmarks/kill_and_resume.py --kills 20 --data DIR

Prints a table as Markdown; exit code 3 when a resume differs.
"""

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from finetune.run_directory import RunDirectory

POLICIES = {
    "none": ["freezing.policy=none"],
    "head_only": ["freezing.policy=head_only", "training.ema_decay=0.9"],
    "head_then_all": ["freezing.policy=head_then_all", "training.mixup_alpha=0.4"],
    "gradual": ["freezing.policy=gradual", "data.workers=2"],
    "below": ["freezing.policy=below", "freezing.below=layer3", "model.drop_rate=0.2"],
    "phases": ["freezing.policy=phases",
               "freezing.phases=[{epochs:1,depths:head},{epochs:2,depths:all,lr:1e-4}]"],
    "cached": ["freezing.policy=gradual", "data.transform=none"],
    "views": ["freezing.policy=below", "freezing.below=layer4", "training.cache_views=2"],
    "exact": ["freezing.policy=head_then_all", "training.head_fit=exact"],
}
TIMES = ("seconds", "images_per_second")


def main() -> int:
    """Run the benchmark; 0 when all resumes are bit-identical, else 3."""
    options = parse()
    chance = random.Random(options.seed)
    rows, whole = [], {}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        policies = itertools.islice(itertools.cycle(POLICIES), options.kills)
        for number, policy in enumerate(policies):
            if policy not in whole:
                whole[policy] = uninterrupted(policy, base / f"whole_{policy}", options)
            rows.append(kill(policy, base / f"kill_{number}", *whole[policy], chance, options))
            print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
    same = sum(row[-1] == "yes" for row in rows)
    print(f"\n{same} of {len(rows)} resumes bit-identical")
    return 0 if same == len(rows) else 3


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--data", help="a folder of pictures; unset: generated ones")
    options = parser.parse_args()
    print("| policy | killed after | in epoch | identical |\n|---|---|---|---|")
    return options


def command(policy: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """The words of a run."""
    data = [f"data.root={Path(options.data).resolve()}"] if options.data else []
    return [sys.executable, "-m", "finetune", *data, f"output_dir={folder}",
            "model.name=resnet10t", "model.weights=null", "data.image_size=32",
            "data.batch_size=16", f"training.epochs={options.epochs}", "tracking.mode=disabled",
            "device=cpu", "training.precision=fp32", *POLICIES[policy]]


def own_cache(folder: Path) -> dict[str, str]:
    """An environment in which a run and its resume share a cache with no other run."""
    return {**os.environ, "FINETUNE_CACHE": str(folder.parent / f"{folder.name}_cache")}


def uninterrupted(policy: str, folder: Path, options: argparse.Namespace,
                  ) -> tuple[RunDirectory, float]:
    """The run to compare with, and the seconds from its first checkpoint to its end."""
    process = subprocess.Popen(command(policy, folder, options), stdout=subprocess.DEVNULL,
                               env=own_cache(folder))
    wait_for_checkpoint(folder, process)
    started = time.monotonic()
    if process.wait() != 0:
        raise SystemExit("the uninterrupted run failed")
    return RunDirectory(next(folder.glob("*/"))), time.monotonic() - started


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when the run has its first checkpoint."""
    while not list(folder.glob("*/checkpoints/last.pt")):
        if process.poll() is not None:
            raise SystemExit("a run ended before its first checkpoint")
        time.sleep(0.02)


def kill(policy: str, folder: Path, reference: RunDirectory, seconds: float,
         chance: random.Random, options: argparse.Namespace) -> tuple[str, str, str, str]:
    """Kill one run, resume it, compare."""
    for attempt in range(10):
        place = folder / str(attempt)
        process = subprocess.Popen(command(policy, place, options), stdout=subprocess.DEVNULL,
                                   env=own_cache(place))
        wait_for_checkpoint(place, process)
        wait = chance.uniform(0, seconds)
        time.sleep(wait)
        if process.poll() is None:
            break  # else it was faster than the uninterrupted one: again
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = RunDirectory(next(place.glob("*/")))
    epoch = str(len(run.history) + 1)
    again = subprocess.run([sys.executable, "-m", "finetune", "resume", str(run.path)],
                           stdout=subprocess.DEVNULL, check=False, env=own_cache(place))
    same = again.returncode == 0 and content(run) == content(reference)
    return policy, f"{wait:.1f} s", epoch, "yes" if same else "NO"


def content(run: RunDirectory) -> tuple[str, str, bytes, str]:
    """What has to be equal, times left out."""
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    history = json.dumps([without_times(entry) for entry in run.history], sort_keys=True)
    return (history, digest({**checkpoint, "state": None}), run.best_weights.read_bytes(),
            json.dumps(run.metrics, sort_keys=True))


def without_times(entry: dict[str, object]) -> dict[str, object]:
    """An epoch's record without what depends on the clock."""
    return {k: v for k, v in entry.items() if k not in TIMES}


def digest(value: object) -> str:
    """Every number of nested tensors, exactly."""
    if isinstance(value, torch.Tensor):
        return value.contiguous().numpy().tobytes().hex() + str(value.dtype) + str(value.shape)
    if isinstance(value, dict):
        return "".join(f"{k}:{digest(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return "".join(map(digest, value))
    return repr(value)


if __name__ == "__main__":
    sys.exit(main())
