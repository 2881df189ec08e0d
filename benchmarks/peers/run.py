"""finetune beside its peers: the same pictures, split, size and epochs, in turn on one machine.

    python benchmarks/peers/run.py --data rsscn7 --job A --venvs DIR --json peers_A.json
    python benchmarks/peers/run.py --data rsscn7 --job B --venvs DIR --json peers_B.json

Job A trains all of a ResNet-18 at 64 px for one epoch on 2,000 pictures and validates on 800, from
random weights or from --weights. Job B trains the classifier of EfficientNet-Lite0 with its
ImageNet weights at 128 px: five epochs with the peers, recipe=linear_probe with finetune; 2,000
pictures, 400 for validation, and 400 others give the accuracy, since finetune chooses its epoch on
validation.

Each peer runs as its user would start it ("default") and with bf16, channels-last, two workers,
passive waiting and, in job B, frozen norms in eval mode ("tuned"). All run once in each round, in
another order each time, with a seed for each round. Measured: process seconds of training and
validation with those of workers, imports and report left out; the same by the clock; the whole
command by the clock; the training process's largest resident set at the end of its loop; accuracy.
Ratios are peer / finetune within a round, the median over rounds. What each does differently stands
in its script's first lines. Nothing else may run: what other programs took is shown, and a
disturbed table says so.

--venvs holds an environment for each peer: made once, they see this environment's torch and
install the peer's requirements beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from job import Job, divide, list_pictures, write_table
from measuring import (
    describe_machine,
    disturbance,
    markdown,
    medians,
    parser_of,
    ratio_of_rounds,
    read_versions,
    report,
    run_self,
)

HERE = Path(__file__).resolve().parent
PEERS = ("plain_torch", "timm_train", "hf_trainer", "lightning_finetuning", "fastai_fine_tune")
SHARED = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors")
RATIOS = ("cpu_seconds", "seconds", "whole_seconds", "whole_cpu_seconds", "peak_rss_mib")
OURS = "finetune"


@dataclass(frozen=True)
class Entry:
    """A line of the table: a peer as it is, or tuned; or finetune."""

    script: str
    tuned: bool = False

    @property
    def name(self) -> str:
        """How the table calls it."""
        return OURS if self.script == "ours" else \
            f"{self.script} {'tuned' if self.tuned else 'default'}"


def main() -> None:
    """Run the benchmark."""
    options = parse()
    if "torch" not in read_versions(SHARED):
        raise SystemExit(f"{sys.executable} has no torch: start this with the Python that has "
                         "finetune's; the peers' environments share it")
    entries = [Entry("ours"), *(Entry(p, tuned) for tuned in options.kinds for p in options.peers)]
    pythons = {p: environment_of(p, options.venvs) for p in options.peers}
    pythons["ours"] = Path(sys.executable)
    result: dict[str, Any] = {"machine": describe_machine((*SHARED, "albumentations")),
                              "command": sys.argv[1:], "rounds": []}
    with tempfile.TemporaryDirectory() as folder:
        job = build_job(options, Path(folder))
        result["job"] = {**vars(job), "pictures": counts(job)}
        for number in range(options.rounds):
            for entry in turned(entries, number):
                row = measure(entry, replace(job, seed=options.seed + number), pythons,
                              Path(folder), options.words)
                result["rounds"].append({"round": number, "entry": entry.name, **row})
                print(f"round {number + 1}: {entry.name}: {row['cpu_seconds']:.1f} CPU s, "
                      f"{row['seconds']:.1f} s, accuracy {row['accuracy']:.3f}, others "
                      f"{row['foreign_cores']:.2f} cores",
                      file=sys.stderr, flush=True)
    result["summary"] = summarise(result["rounds"])
    report(options, result, f"{table(result['summary'])}\n\n{verdict(result['summary'])}\n"
           f"{disturbance(result['rounds'])}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", required=True, type=Path, help="a folder of class folders")
    parser.add_argument("--venvs", required=True, type=Path, help="where environments are kept")
    parser.add_argument("--job", required=True, choices=["A", "B"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--kinds", nargs="+", default=["default", "tuned"],
                        choices=["default", "tuned"])
    parser.add_argument("--train", type=int, default=2000, help="pictures")
    parser.add_argument("--val", type=int, help="pictures; unset: 800 for A, 400 for B")
    parser.add_argument("--test", type=int, help="pictures; unset: 0 for A, 400 for B")
    parser.add_argument("--size", type=int, help="pixels; unset: 64 for A, 128 for B")
    parser.add_argument("--epochs", type=int, help="unset: 1 for A, 5 for B (the peers')")
    parser.add_argument("--weights", help="job A: a state dict of ResNet-18; unset: random")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("words", nargs="*", help="key=value for finetune alone; none is fair")
    options = parser.parse_args()
    options.kinds = [kind == "tuned" for kind in options.kinds]
    return options


def build_job(options: argparse.Namespace, folder: Path) -> Job:
    """The job, its table and, for B, the peers' weights."""
    frozen = options.job == "B"
    val = options.val if options.val is not None else 400 if frozen else 800
    test = options.test if options.test is not None else 400 if frozen else 0
    rows = divide(list_pictures(options.data), {"train": options.train, "val": val, "test": test})
    job = Job(options.job, str(write_table(rows, folder / "pictures.csv")),
              str(options.data.resolve()), "tf_efficientnet_lite0" if frozen else "resnet18",
              str(Path(options.weights).resolve()) if options.weights else None,
              options.size or (128 if frozen else 64), options.epochs or (5 if frozen else 1),
              measured="test" if test else "val")
    if not frozen:
        return job
    return replace(job, weights=str(write_packaged(job, folder / "packaged.pt")), lr=3e-3,
                   weight_decay=0.01, mean=(0.5,) * 3, std=(0.5,) * 3)


def counts(job: Job) -> dict[str, int]:
    """Pictures in each part."""
    return {part: len(job.rows(part)) for part in ("train", "val", "test")}


def write_packaged(job: Job, path: Path) -> Path:
    """The state dict that model.weights=packaged loads, by timm's names."""
    code = ("import sys, timm, torch; from finetune.models import packaged as p; torch.save("
            "p.read_packaged(p.packaged_file(), timm.create_model(sys.argv[1]).state_dict()),"
            " sys.argv[2])")
    subprocess.run([sys.executable, "-c", code, job.model, str(path)], check=True,
                   env={**os.environ, "PYTHONPATH": str(HERE.parents[1])})
    return path


def environment_of(peer: str, venvs: Path) -> Path:
    """The Python of a peer's environment, made where it isn't there or its requirements changed."""
    home, wanted = venvs.resolve() / peer, HERE / f"requirements-{peer}.txt"
    python, stamp = home / "bin" / "python", home / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    print(f"making {home}", file=sys.stderr, flush=True)
    venv.create(home, with_pip=True)
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    Path(site, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    fixed = home / "constraints.txt"  # a peer that wants another torch fails here, and is told
    fixed.write_text("".join(f"{n}=={v}\n" for n, v in read_versions(SHARED).items()))
    subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(wanted), "-c",
                    str(fixed)], check=True)
    stamp.write_text(wanted.read_text())
    return python


def turned(entries: Sequence[Entry], number: int) -> Iterator[Entry]:
    """The entries, beginning elsewhere in each round, every other round backwards."""
    start = number * 3 % len(entries)
    order = [*entries[start:], *entries[:start]]
    return iter(order[::-1] if number % 2 else order)


def measure(entry: Entry, job: Job, pythons: Mapping[str, Path], folder: Path,
            words: Sequence[str]) -> dict[str, Any]:
    """One run of an entry in a process of its own, with empty caches."""
    described = replace(job, tuned=entry.tuned).save(folder / "job.json")
    more = {"OMP_WAIT_POLICY": "PASSIVE"} if entry.tuned else {}
    with tempfile.TemporaryDirectory() as cache:
        if entry.script == "ours":
            values = dict(word.split("=", 1) for word in words)
            more = {"FINETUNE_CACHE": cache, "FINETUNE_WORDS": json.dumps(values)}
        return run_self(HERE / f"{entry.script}.py", [str(described)], env=more,
                        python=pythons[entry.script])


def summarise(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each entry: medians, mean accuracy, and the ratios to finetune."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rounds, key=lambda row: row["round"]):
        by_name.setdefault(row["entry"], []).append(row)
    ours = by_name[OURS]
    return {name: {
        **{key: value for key, value in medians(rows).items() if key in RATIOS},
        "accuracy": statistics.mean(row["accuracy"] for row in rows),
        "ratios": {key: ratio_of_rounds([r[key] for r in rows], [r[key] for r in ours])
                   for key in RATIOS}} for name, rows in by_name.items()}


def table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary as Markdown."""
    rows = [[name, v["cpu_seconds"], v["ratios"]["cpu_seconds"], v["seconds"],
             v["ratios"]["seconds"], v["whole_seconds"], v["ratios"]["whole_seconds"],
             v["peak_rss_mib"], f"{v['accuracy']:.3f}"] for name, v in summary.items()]
    return markdown(["", "CPU s", "ratio", "s", "ratio", "whole command s", "ratio",
                     "peak MiB", "accuracy"], rows)


def verdict(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """What the targets ask: the fastest peer of each kind, the best accuracy, the memory."""
    lines = []
    for kind in ("default", "tuned"):
        peers = {n: v["ratios"]["cpu_seconds"] for n, v in summary.items() if n.endswith(kind)}
        if peers:
            fastest = min(peers, key=lambda name: peers[name])
            lines.append(f"Fastest {kind} peer by CPU: {fastest}, {peers[fastest]:.2f} × ours.")
    others = {n: v["accuracy"] for n, v in summary.items() if n != OURS}
    best = max(others, key=lambda name: others[name])
    lines.append(f"Accuracy: ours {summary[OURS]['accuracy']:.3f}, best peer {best} "
                 f"{others[best]:.3f}.")
    if "plain_torch default" in summary:
        share = 1 / summary["plain_torch default"]["ratios"]["peak_rss_mib"]
        lines.append(f"Peak memory: {share:.2f} × the plain torch loop's.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
