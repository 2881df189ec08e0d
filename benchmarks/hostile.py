"""Hostile files through the commands: what is refused, what runs, what it costs in memory.

    python benchmarks/hostile.py [--damaged 2000] [--seed 0]

The files are those of ``tests/hostile_files.py``: pickles with code, bombs, headers that lie, YAML
and JSON that end the stack or name code, pictures that are none. Each kind goes through the command
that takes it, in a process of its own that handles one file after the other.

- ``refused``: files that ended in a message (exit code 1, 2 or 3, or a row with an error).
- ``read``: files that are odd but sound, and were taken.
- ``tracebacks``: files that ended in anything else.
- ``executed``: a canary that all code in the files makes was there afterwards.
- ``written outside``: files that appeared or changed in the sandbox outside the output folder and
  the cache.
- ``peak MiB``: the largest resident set of the process; the first row has what the libraries and
  a sound run take.

Then ``--damaged`` files: valid ones of each kind with a few random bytes changed, cut out, doubled
or cut off, through the functions that read them. Counted are those that could still be read, those
refused by an error of ours, and all others. The exit code is 3 when anything ran, was written
outside, ended in a traceback or raised another error.
"""

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measuring import (
    ROOT,
    describe_machine,
    markdown,
    parser_of,
    peak_rss_mib,
    report,
    run_self,
    write_result,
)

SMALL = ["model.name=resnet10t", "data.image_size=32", "data.batch_size=8", "data.workers=0",
         "tracking.mode=disabled", "device=cpu", "data.transform=none", "training.epochs=1"]
KINDS = {"nothing hostile": "predict RUN", "pickles as weights": "model.weights=FILE",
         "bombs as weights": "model.weights=FILE",
         "safetensors": "model.weights=FILE", "pickles as checkpoints": "resume RUN",
         "pickles as chosen weights": "predict RUN", "arrays as data": "plan data.root=FILE",
         "arrays as predictions": "compare RUN RUN", "recipes": "plan recipe=FILE",
         "studies": "plan study=FILE", "settings of a run": "evaluate RUN",
         "JSON of a run": "predict RUN", "study.json": "resume STUDY",
         "pictures, looked at": "audit FOLDER",
         "pictures, predicted": "predict RUN FOLDER",
         "exported models": "predict FILE.onnx FOLDER"}


def main() -> int:
    """Run the benchmark; 3 when something got through."""
    options = parse()
    if options.result:
        child(options)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        run = train(folder)
        rows = [run_self(__file__, ["--kind", kind, "--folder", str(folder), "--run", str(run)],
                         env={"FINETUNE_CACHE": str(folder / "cache")}) for kind in KINDS]
        damage = run_self(__file__, ["--kind", "damage", "--folder", str(folder), "--run", str(run),
                                     "--seed", str(options.seed), "--damaged",
                                     str(options.damaged)])
    table = markdown(["kind", "handed in as", "files", "refused", "read", "tracebacks", "executed",
                      "written outside", "peak MiB", "seconds"],
                     [[r["kind"], KINDS[r["kind"]], r["files"], r["refused"], r["read"],
                       r["tracebacks"], r["executed"], r["outside"], r["peak_mib"], r["seconds"]]
                      for r in rows])
    more = markdown(["damaged files", "files", "refused", "read", "other errors", "peak MiB"],
                    [[*row, damage["peak_mib"]] for row in damage["rows"]])
    report(options, {"machine": describe_machine(("torch", "timm", "pillow", "pydicom")),
                     "rows": rows, "damage": damage}, f"{table}\n\n{more}")
    for told in [*(t for r in rows for t in r["told"]), *damage["told"]]:
        print(told, file=sys.stderr)
    wrong = sum(r["tracebacks"] + r["executed"] + r["outside"] for r in rows)
    return 3 if wrong or any(row[4] for row in damage["rows"]) else 0


def parse() -> Any:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--damaged", type=int, default=2000, help="damaged files, of all kinds")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    for name in ("--kind", "--folder", "--run", "--result"):
        parser.add_argument(name, help="used by the benchmark itself")
    return parser.parse_args()


def train(folder: Path) -> Path:
    """A finished run on a few pictures, in a process of its own."""
    import subprocess

    from measuring import environment

    code = ("import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
            "from run_builder import train_run; print(train_run(Path(sys.argv[2])).path)")
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "tests"), str(folder / "made")],
                          capture_output=True, text=True, check=True, env=environment())
    return Path(done.stdout.strip().splitlines()[-1])


def child(options: Any) -> None:
    """Handle all files of one kind; what came of them goes to ``--result``."""
    sys.path.insert(0, str(ROOT / "tests"))
    box = Path(options.folder) / "box"
    shutil.rmtree(box, ignore_errors=True)
    (box / "here").mkdir(parents=True)
    os.chdir(box / "here")
    os.environ |= {"HOME": str(box), "MPLCONFIGDIR": str(box / "out"),
                   "FINETUNE_CACHE": str(box / "out" / "cache")}
    if options.kind == "damage":
        write_result(Path(options.result), damage(options))
        return
    counts: Counter[str] = Counter()
    told: list[str] = []
    began = time.perf_counter()
    for name, words, after in commands(options.kind, box, Path(options.run)):
        before = state(box)
        counts["files"] += 1
        what, text = outcome(words)
        if what == "read" and after is not None:
            what = "refused" if after() else "read"
        counts[what] += 1
        appeared = state(box).items() - before.items()
        counts["outside"] += len(appeared)
        told += [f"{options.kind}, {name}: wrote {path}" for path, _ in appeared]
        if what == "tracebacks":
            told.append(f"{options.kind}, {name}: {text}")
    write_result(Path(options.result), {
        "kind": options.kind, "told": told, "executed": int((box / "canary").exists()),
        "peak_mib": peak_rss_mib(), "seconds": time.perf_counter() - began,
        **{key: counts[key] for key in ("files", "refused", "read", "tracebacks", "outside")}})


def state(box: Path) -> dict[str, tuple[int, int]]:
    """Files of the sandbox outside the folders in which a command may write."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
            for path in box.rglob("*") if not path.is_dir()
            and not path.is_relative_to(box / "out") and not path.is_relative_to(box / "given")}


def outcome(words: list[str]) -> tuple[str, str]:
    """What became of a command: ``refused``, ``read`` or ``tracebacks``; and what it said."""
    from finetune.__main__ import main as command

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = command(words)
    except BaseException as error:
        return "tracebacks", f"{type(error).__name__}: {error}"
    text = said.getvalue()
    if "Traceback" in text:
        return "tracebacks", text
    return ("read" if code in (0, 3) else "refused"), text


Command = tuple[str, list[str], Callable[[], bool] | None]


def commands(kind: str, box: Path, run: Path) -> Iterator[Command]:
    """Each hostile file of a kind, written, and the command that takes it."""
    import hostile_files as files

    canary, given, root = box / "canary", box / "given", str(run.parents[1] / "pictures")
    given.mkdir(exist_ok=True)
    train = [*SMALL, f"data.root={root}", f"output_dir={box / 'out'}"]
    if kind in ("pickles as weights", "bombs as weights", "safetensors"):
        made = {"pickles as weights": lambda: files.pickles(canary),
                "bombs as weights": files.torch_bombs, "safetensors": lambda: {
                    f"{n}.safetensors": c for n, c in files.safetensors().items()}}[kind]()
        for name, content in made.items():
            (given / name).write_bytes(content)
            yield name, [*train, f"model.weights={given / name}"], None
    elif kind in ("pickles as checkpoints", "pickles as chosen weights"):
        for name, content in files.pickles(canary).items():
            copy = copied(run, box)
            file = "last.pt" if "checkpoints" in kind else "best.safetensors"
            (copy / "checkpoints" / file).write_bytes(content)
            (copy / "report.html").unlink()
            words = ["resume", str(copy)] if file == "last.pt" else predict(copy, root, box)
            yield name, words, None
    elif kind == "nothing hostile":
        yield "sound", predict(run, root, box), None
    elif kind == "arrays as data":
        for name, content in files.npz(canary).items():
            (given / name).write_bytes(content)
            yield name, ["plan", *SMALL, "model.weights=null", f"data.root={given / name}"], None
    elif kind == "arrays as predictions":
        for name, content in files.npz(canary).items():
            copy = copied(run, box)
            (copy / "predictions" / "test.npz").write_bytes(content)
            yield name, ["compare", str(copy), str(run), "--output", str(box / "out")], None
    elif kind in ("recipes", "studies"):
        word = {"recipes": "recipe", "studies": "study"}[kind]
        for name, text in {**files.yaml(canary), **code_in_yaml(box, canary, kind)}.items():
            (given / f"{name}.yaml").write_bytes(text.encode())
            own = [w for w in train if w.partition("=")[0] != name.removeprefix("code-")]
            yield name, ["plan", *own, "model.weights=null",
                         f"{word}={given / f'{name}.yaml'}"], None
    else:
        yield from more_commands(kind, box, run, root)


def more_commands(kind: str, box: Path, run: Path, root: str) -> Iterator[Command]:
    """The same for runs, studies and pictures."""
    import hostile_files as files

    canary = box / "canary"
    if kind == "settings of a run":
        for name, text in {**files.yaml(canary), **code_in_yaml(box, canary, "recipes")}.items():
            copy = copied(run, box)
            (copy / "config.yaml").write_bytes(text.encode())
            yield name, ["evaluate", str(copy)], None
    elif kind == "JSON of a run":
        for file in ("environment.json", "metrics.json", "decisions.json"):
            for name, text in files.json_texts().items():
                copy = copied(run, box)
                (copy / file).write_text(text)
                yield f"{file}, {name}", predict(copy, root, box), None
    elif kind == "study.json":
        for name, values in studies().items():
            folder = box / "given" / "study"
            folder.mkdir(exist_ok=True)
            (folder / "study.json").write_text(json.dumps(values))
            yield name, ["resume", str(folder)], None
    elif kind == "exported models":
        for name, content in files.exports(exported(run, box), canary).items():
            (box / "given" / "m.onnx").write_bytes(content)
            yield name, predict(box / "given" / "m.onnx", root, box), None
    else:
        yield from picture_commands(kind, box, run)


def picture_commands(kind: str, box: Path, run: Path) -> Iterator[Command]:
    """Each hostile picture beside good ones."""
    import hostile_files as files

    good = run.parents[1] / "pictures"
    for name, content in files.pictures().items():
        folder = box / "given" / "pictures"
        shutil.rmtree(folder, ignore_errors=True)
        if kind == "pictures, looked at":
            shutil.copytree(good, folder)
            place, words = folder / "a" / name, ["audit", str(folder), "--no-near", "--output",
                                                 str(box / "out")]
            found = box / "out" / "audit.json"
            check = lambda found=found: json.loads(found.read_text())["broken"] == 1  # noqa: E731
        else:
            folder.mkdir(parents=True)
            place, words = folder / name, predict(run, str(folder), box)
            rows = box / "out" / "p.jsonl"
            check = lambda rows=rows: json.loads(rows.read_text())["error"] is not None  # noqa: E731
        place.write_bytes(content)
        yield name, words, check


def exported(run: Path, box: Path) -> bytes:
    """What `export` writes of the run."""
    from finetune.exporting.exporting import export
    from finetune.run_directory import RunDirectory

    path = box / "out" / "sound.onnx"
    path.parent.mkdir(exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        export(RunDirectory(run), path)
    return path.read_bytes()


def copied(run: Path, box: Path) -> Path:
    """A fresh copy of the run."""
    copy = box / "given" / "run"
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(run, copy))


def predict(model: Path, pictures: str, box: Path) -> list[str]:
    """The command that predicts."""
    (box / "out").mkdir(exist_ok=True)
    return ["predict", str(model), pictures, "--output", str(box / "out" / "p.jsonl"),
            "--overwrite"]


def code_in_yaml(box: Path, canary: Path, kind: str) -> dict[str, str]:
    """Recipes, or studies, that name code; the module lies in the current folder."""
    Path("evil_lab.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n"
                                   "def code(*a, **k): pass\n")
    keys = {"model.name": "evil_lab:code", "data.transform": "evil_lab:code"}
    if kind == "studies":
        return {f"code-{key}": f"arms: {{a: ['{key}={path}'], b: [seed=1]}}\n"
                for key, path in keys.items()}
    return {f"code-{key}": "{}: {{{}: '{}'}}\n".format(*key.split("."), path)
            for key, path in keys.items()}


def studies() -> dict[str, Any]:
    """Files of studies that lead elsewhere or name code."""
    member = {"path": "a", "arm": "a", "role": "final", "seed": 0, "rate": None, "words": []}
    plain = {"study": "s", "words": [], "base": {}, "reference": "a", "metric": None, "rates": [],
             "seeds": [0], "search_seeds": [], "launcher": [], "members": [member],
             "arms": [{"name": "a", "folder": "a", "words": []}],
             "settled": {"words": {}, "threads": 1}}
    found = {f"member in {path}": {**plain, "members": [{**member, "path": path}]}
             for path in ("../../up", "/tmp/up", "a/../../up")}
    found |= {word: {**plain, "launcher": [word]} for word in (
        "hydra.launcher.setup=['touch owned']", "hydra.launcher._target_=os.mkdir")}
    sweep = {"choices": {"seed": ["1"]}, "intervals": {}, "trials": 1, "at_once": 1,
             "sampler": {"_target_": "os.mkdir", "path": "owned", "seed": 1}}
    found["sampler"] = {**plain, "sweep": sweep, "members": [], "arms": []}
    found["code"] = {**plain, "members": [{**member, "words": ["model.name=evil_lab:code"]}]}
    return found


def damage(options: Any) -> dict[str, Any]:
    """Read randomly damaged files of every kind; counts, and what raised anything else.

    The process may take 8 GiB of addresses.
    """
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    import warnings

    import hostile_files as files
    import numpy as np

    warnings.simplefilter("ignore")
    from finetune.errors import FinetuneError

    random, told, rows = np.random.default_rng(options.seed), [], []
    kinds = sound_files(Path(options.run) if options.run else None)
    for name, (content, read) in kinds.items():
        counts: Counter[str] = Counter()
        for _ in range(options.damaged // len(kinds)):
            broken = files.damaged(content, random)
            try:
                read(broken)
                counts["read"] += 1
            except FinetuneError:
                counts["refused"] += 1
            except BaseException as error:
                counts["other"] += 1
                told.append(f"damaged {name}: {type(error).__name__}: {error}")
        rows.append([name, sum(counts.values()), counts["refused"], counts["read"],
                     counts["other"]])
    return {"rows": rows, "told": told[:20], "peak_mib": peak_rss_mib()}


def pictures_here() -> bytes:
    """Nothing; the pictures that a table names are there afterwards."""
    import hostile_files as files

    for name in ("x.png", "y.png"):
        Path(name).write_bytes(files.valid_pictures()["a.png"])
    return b""


def sound_files(run: Path | None) -> dict[str, tuple[bytes, Callable[[bytes], Any]]]:
    """A valid file of each kind and the function that reads it."""
    import hostile_files as files
    import numpy as np
    import safetensors.torch
    import torch

    from finetune.composition import compose, load_config
    from finetune.data.decoding import decode_image
    from finetune.data.samples import read_samples
    from finetune.evaluation.predictions import Predictions
    from finetune.models.state_dicts import read_tensors
    from finetune.prediction.predictor import Predictor
    from finetune.specs import LabelKind, LabelSpec

    def by_file(ending: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        path = Path(f"damaged.{ending}")
        return lambda content: (path.write_bytes(content), read(path))

    found = {name: (content, lambda c, name=name: decode_image(c, name=name))
             for name, content in files.valid_pictures().items()}
    tensors = {"a": torch.zeros(3, 4), "b": torch.ones(5)}
    stream = io.BytesIO()
    torch.save({"state_dict": tensors}, stream)
    spec = LabelSpec(LabelKind.single, ("a", "b"), "b")
    answers = Predictions(["x", "y"], np.array([0, 1]), np.zeros((2, 2), np.float32), spec)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, images=np.zeros((4, 5, 5), np.uint8), labels=np.array([0, 1, 0, 1]))
    recipe = (ROOT / "recipes" / "medical.yaml").read_bytes()
    settings = Path("config.yaml")
    from finetune.composition import dump_config
    from finetune.config import Config

    settings.write_text(dump_config(Config()))
    if run is not None:
        found["model.onnx"] = (exported(run, Path.cwd()), by_file("onnx", Predictor.from_export))
    return found | {
        "a.safetensors": (safetensors.torch.save(tensors), by_file("safetensors", read_tensors)),
        "a.pth": (stream.getvalue(), by_file("pth", read_tensors)),
        "predictions.npz": (answers.save(Path("p.npz")).read_bytes(),
                            by_file("npz", Predictions.load)),
        "data.npz": (arrays.getvalue(), by_file("data.npz", lambda p: read_samples(str(p)))),
        "recipe.yaml": (recipe, by_file("yaml", lambda p: compose(
            [f"recipe={p}", "data.root=."]))),
        "config.yaml": (settings.read_bytes(), by_file("config.yaml", load_config)),
        "labels.csv": (pictures_here() + b"path,label\nx.png,a\ny.png,b\n", by_file(
            "csv", lambda p: read_samples(str(p))))}


if __name__ == "__main__":
    sys.exit(main())
