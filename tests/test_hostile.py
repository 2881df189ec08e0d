"""Files from others are read, never obeyed: no code runs, nothing leaves, and errors are told."""

import json
import os
import shutil
import subprocess
import sys

import hostile_files
import numpy as np
import pytest
from run_builder import SMALL, train_run

from finetune import dotted
from finetune.__main__ import main
from finetune.archives import read_npz
from finetune.composition import load_config
from finetune.data.samples import read_samples
from finetune.data.splits import read_splits
from finetune.errors import ConfigurationError, DataError, FinetuneError, InputError
from finetune.evaluation.predictions import Predictions
from finetune.models.building import build_model
from finetune.models.state_dicts import read_tensors
from finetune.run_directory import RunDirectory
from finetune.study.plan import Sweep
from finetune.study.store import read_study
from finetune.study.sweep import _quietly, _sampler
from finetune.training.checkpoints import load_checkpoint, load_tensors, read_metadata

MODULE = "import os\nos.mkdir({canary!r})\ndef code(*args, **more): return []\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(trained, tmp_path):
    """A copy that may be damaged."""
    return RunDirectory(shutil.copytree(trained.path, tmp_path / "runs" / "copy"))


@pytest.fixture
def canary(tmp_path):
    """A folder that code of a hostile file would make; it isn't there afterwards."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def refused(capsys):
    """Runs a command that is refused; what it says is printable and no traceback."""
    def told(*words, codes=(2,)):
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert code in codes, (words, said)
        assert "Traceback" not in said.err and "error: " in said.err, said
        assert all(c.isprintable() or c == "\n" for c in said.out + said.err)
        return said.err

    return told


def training(*words):
    return [*SMALL, *words]


def pictures_of(run):
    return load_config(run.path / "config.yaml").data.root


# code in weights and checkpoints


def test_code_in_weights_never_runs(tmp_path, canary, refused, run):
    root = f"data.root={pictures_of(run)}"
    for name, content in hostile_files.pickles(canary).items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=name):
            read_tensors(path)
        with pytest.raises(FinetuneError):
            load_checkpoint(path, model=None, optimizer=None)
    words = [word for word in training(root) if not word.startswith("model.weights")]
    assert "could run code" in refused(*words, f"model.weights={tmp_path / 'whole-zip.pth'}")


@pytest.mark.parametrize("name", hostile_files.pickles("x"))
def test_code_in_a_runs_own_files_never_runs(name, tmp_path, canary, refused, run):
    content = hostile_files.pickles(canary)[name]
    for path in (run.best_weights, run.predictions_path("test")):
        before = path.read_bytes()
        path.write_bytes(content)
        words = (["predict", run.path, pictures_of(run), "--output", tmp_path / "p.csv"]
                 if path == run.best_weights else ["compare", run.path, run.path])
        refused(*words, codes=(1, 2))
        path.write_bytes(before)
    run.last_checkpoint.write_bytes(content)
    (run.path / "report.html").unlink()
    assert "can't be resumed" in refused("resume", run.path, codes=(1, 2))


def test_few_bytes_do_not_become_gigabytes_of_weights(tmp_path):
    for name, content in hostile_files.torch_bombs().items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match=name):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize("name", hostile_files.safetensors())
def test_headers_of_safetensors_that_lie_are_told(name, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(hostile_files.safetensors()[name])
    if name != "metadata-numbers":
        with pytest.raises(ConfigurationError, match=r"weights\.safetensors"):
            read_tensors(path)
    if name != "nan":
        for read in (load_tensors, read_metadata):
            with pytest.raises(FinetuneError):
                read(path)


@pytest.mark.parametrize("described", [
    {"model_args": {"checkpoint_path": "evil.pth"}},
    {"model_args": {"pretrained_cfg_overlay": {"file": "evil.pth"}}},
    {"pretrained_cfg": {"file": "evil.pth"}}, {"pretrained_cfg": {"custom_load": True}},
    {"pretrained_cfg": {"state_dict": {"a": 1}}}, {"pretrained_cfg": {"url": "http://localhost:9"}},
    {"architecture": "os:system"}, {"num_classes": "x"}, {"num_classes": 10**12}])
def test_timms_folders_lead_to_no_other_file(described, tmp_path, canary):
    from safetensors.torch import save_file

    model = build_model("test_resnet", num_classes=3)[0]
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "evil.pth").write_bytes(hostile_files.pickles(canary)["whole-zip.pth"])
    whole = {"architecture": "test_resnet", "num_classes": 3, **described}
    text = json.dumps(whole).replace("evil.pth", str(tmp_path / "evil.pth"))
    (tmp_path / "config.json").write_text(text)
    try:
        build_model("test_resnet", num_classes=3, weights=str(tmp_path))
    except ConfigurationError:
        return
    assert set(described.get("pretrained_cfg", {})) & {"file", "state_dict", "url"}  # not looked at


# arrays


@pytest.mark.parametrize("name", [n for n in hostile_files.npz("x") if n != "up.npz"])
def test_archives_of_arrays_hold_no_code_and_no_bombs(name, tmp_path, canary):
    path = tmp_path / name
    path.write_bytes(hostile_files.npz(canary)[name])
    for read in (lambda: read_samples(str(path)), lambda: Predictions.load(path)):
        with pytest.raises(DataError, match=name):
            read()


def test_names_inside_archives_are_not_paths(tmp_path):
    path = tmp_path / "a" / "b" / "up.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(hostile_files.npz("x")["up.npz"])
    before = sorted(tmp_path.rglob("*"))
    assert set(read_npz(path)) >= {"../../images"}
    assert sorted(tmp_path.rglob("*")) == before


def test_caches_that_somebody_changed_are_made_anew(tmp_path, canary, monkeypatch, capsys, trained):
    """All of the cache folder is replaced by pickles; the run trains as if it were empty."""
    home = tmp_path / "cache"
    monkeypatch.setenv("FINETUNE_CACHE", str(home))
    words = training(f"data.root={pictures_of(trained)}", f"output_dir={tmp_path}",
                     "freezing.policy=head_only", "training.precision=auto")
    content = hostile_files.pickles(canary)["plain.pt"]
    assert main(words) == 0
    files = [path for path in home.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(content)
    assert main(words) == 0
    assert main(["cache", "ls"]) == 0 and "Traceback" not in capsys.readouterr().err


# settings


@pytest.mark.parametrize("name", hostile_files.yaml("x"))
def test_recipes_and_studies_run_nothing_grow_to_nothing_and_read_no_variables(
        name, tmp_path, canary, refused, monkeypatch):
    monkeypatch.setenv("SECRET_WORD", "my-secret-word")
    path = tmp_path / "mine.yaml"
    path.write_bytes(hostile_files.yaml(canary)[name].encode())
    for words in ([f"recipe={path}", "data.root=."], [f"study={path}", "data.root=."]):
        told = refused("plan", *words)
        assert "my-secret-word" not in told and len(told) < 20_000 and "mine.yaml" in told


@pytest.mark.parametrize("name", [n for n in hostile_files.yaml("x") if n != "nothing"])
def test_a_runs_settings_neither(name, canary, refused, run, monkeypatch):
    monkeypatch.setenv("SECRET_WORD", "my-secret-word")
    (run.path / "config.yaml").write_bytes(hostile_files.yaml(canary)[name].encode())
    for command in ("evaluate", "resume", "verify"):
        told = refused(command, run.path)
        assert "my-secret-word" not in told and len(told) < 20_000


def test_a_typed_word_reads_no_variable_either(refused, monkeypatch):
    monkeypatch.setenv("SECRET_WORD", "my-secret-word")
    word = "tracking.tags=[${oc.env:SECRET_WORD}]"
    assert "my-secret" not in refused("plan", "data.root=.", word)
    refused("plan", "data.root=.", "seed=" + "9" * 6000)


@pytest.mark.parametrize("line", [
    "data: {labels_file: /etc/passwd}", "data: {splits_file: ../../x.csv}", "output_dir: ~/x",
    "output_dir: a/../../b", "model: {weights: /tmp/x.pt}", "tracking: {pictures: true}",
    "tracking: {upload_model: true}"])
def test_a_recipe_reaches_no_other_folder_and_no_other_machine(line, tmp_path, refused):
    path = tmp_path / "mine.yaml"
    path.write_text(line + "\n")
    told = refused("plan", f"recipe={path}", f"data.root={tmp_path}")
    assert "if you want that, type" in told


@pytest.mark.parametrize("place", ["common", "arm"])
@pytest.mark.parametrize("word", [
    "data.labels_file=/etc/passwd", "data.splits_file=../../x.csv", "output_dir=~/x",
    "model.weights=/tmp/x.pt", "tracking.pictures=true", "tracking.upload_model=True"])
def test_a_study_reaches_no_other_folder_and_no_other_machine(word, place, trained, tmp_path,
                                                              refused):
    """Unless the same was typed."""
    common, own = ([word], ["freezing.policy=none"]) if place == "common" else ([], [word])
    (tmp_path / "s.yaml").write_text(json.dumps(
        {"arms": {"a": own, "b": ["freezing.policy=head_only"]}, "common": common}))
    words = ["plan", f"study={tmp_path / 's.yaml'}", f"data.root={pictures_of(trained)}"]
    assert word.partition("=")[0] in refused(*words)



@pytest.mark.parametrize("name", hostile_files.json_texts())
def test_damaged_json_of_a_run_is_told(name, tmp_path, run, capsys):
    predict = ["predict", str(run.path), pictures_of(run), "--output", str(tmp_path / "p.csv")]
    compare = ["compare", str(run.path), str(run.path)]
    for file, words in (("environment.json", predict), ("decisions.json", predict),
                        ("metrics.json", compare), ("history.jsonl", compare),
                        ("environment.json", ["evaluate", str(run.path)]),
                        ("environment.json", ["verify", str(run.path)])):
        path = run.path / file
        before = path.read_text() if path.exists() else None
        path.write_text(hostile_files.json_texts()[name])
        assert main(words) == 2, (file, words)
        said = capsys.readouterr().err
        assert "error: " in said and "Traceback" not in said
        path.unlink() if before is None else path.write_text(before)


# studies


def study_values(**more):
    member = {"path": "a-seed-0", "arm": "a", "role": "final", "seed": 0, "rate": None,
              "words": ["data.root=x"]}
    return {"study": "s", "words": [], "base": {"data.root": "x"}, "reference": "a",
            "metric": None, "rates": [], "seeds": [0], "search_seeds": [], "launcher": [],
            "arms": [{"name": "a", "folder": "a", "words": ["seed=1"]}],
            "members": [member | more.pop("member", {})],
            "settled": {"words": {}, "threads": 1}} | more


@pytest.mark.parametrize("change", [
    {"member": {"path": "../../x"}}, {"member": {"path": "/tmp/x"}}, {"member": {"path": 7}},
    {"arms": [{"name": "a", "folder": "../x", "words": []}]}, {"seeds": ["../../x"]},
    {"member": {"words": [7]}}, {"member": {"words": ["nonsense"]}}, {"base": 7}, {"arms": 7},
    {"sweep": {"choices": {}}}, {"members": None}, {"member": {"path": "a\0"}}])
def test_a_studys_file_leads_nowhere(change, tmp_path, refused):
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(study_values(**change)))
    with pytest.raises(InputError, match=r"study\.json"):
        read_study(folder)
    assert "study.json" in refused("resume", folder)
    assert sorted(tmp_path.rglob("*")) == [folder, folder / "study.json"]


@pytest.mark.parametrize("word", [
    "hydra.launcher.setup=['touch x']", "hydra.launcher.submitit_folder=/tmp/x",
    "hydra/launcher=a/b",
    "hydra.launcher.python=evil", "hydra.launcher.partition='a b'", "hydra.run.dir=/tmp",
    "hydra.launcher._target_=os.system", "hydra.launcher.partition=${oc.env:HOME}"])
def test_a_studys_file_gives_no_commands_to_launchers(word, tmp_path, refused, monkeypatch):
    (tmp_path / "study.json").write_text(json.dumps(study_values(launcher=[word])))
    assert "which could run commands" in refused("resume", tmp_path)
    monkeypatch.setenv("FINETUNE_TRUST", word.partition("=")[0])
    assert "which could run commands" not in refused("resume", tmp_path, codes=(1, 2))


@pytest.mark.parametrize("sampler", [
    {"_target_": "os.mkdir"}, {"_target_": "optuna.samplers.GridSampler"}, {"_target_": 7}, {},
    {"_target_": "optuna.samplers.TPESampler", "gamma": {"_target_": "os.mkdir", "path": "x"},
     "no_such": 1}])
def test_a_sampler_is_one_of_optunas_whatever_the_file_says(sampler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="sampler"), _quietly():
        _sampler(Sweep({}, {}, 1, 1, {"seed": 1, **sampler}), 0)
    assert list(tmp_path.iterdir()) == []


# code by its dotted path


@pytest.fixture
def evil(tmp_path, monkeypatch, canary):
    """A module in the current folder; importing it makes the canary."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(dotted, "_told", set())
    monkeypatch.setenv(dotted.TRUST, "")
    (tmp_path / "evil_lab").mkdir()
    (tmp_path / "evil_lab" / "augment.py").write_text(MODULE.format(canary=str(canary)))
    yield "evil_lab.augment:code"
    for name in ("evil_lab", "evil_lab.augment"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("key", ["data.transform", "model.name"])
def test_code_that_a_recipe_names_runs_only_when_it_is_typed(key, evil, tmp_path, canary, refused):
    section, name = key.split(".")
    (tmp_path / "mine.yaml").write_text(f"{section}: {{{name}: '{evil}'}}\n")
    told = refused("plan", "recipe=mine.yaml", "data.root=.")
    assert f"add {key}={evil} to the command" in told and "evil_lab/augment.py" in told
    (tmp_path / "s.yaml").write_text(f"arms: {{a: ['{key}={evil}'], b: ['seed=1']}}\n")
    assert "FINETUNE_TRUST" in refused("plan", "study=s.yaml", "data.root=.")
    (tmp_path / "s.yaml").write_text(f"common: ['{key}={evil}']\narms: {{a: [], b: ['seed=1']}}\n")
    assert "FINETUNE_TRUST" in refused("plan", "study=s.yaml", "data.root=.")


def test_what_was_typed_is_shown_before_it_runs(evil, tmp_path, canary, capsys):
    (tmp_path / "mine.yaml").write_text(f"data: {{transform: '{evil}'}}\n")
    main(["plan", "recipe=mine.yaml", "data.root=nowhere", f"data.transform={evil}"])
    told = capsys.readouterr().err
    assert f"runs code: data.transform={evil} from {tmp_path / 'evil_lab' / 'augment.py'}" in told
    assert canary.exists()
    canary.rmdir()


@pytest.mark.parametrize("key", ["data.transform", "model.name"])
def test_code_that_a_run_names_runs_only_when_it_is_trusted(key, evil, run, canary, refused,
                                                             monkeypatch, capsys, tmp_path):
    text = (run.path / "config.yaml").read_text()
    before = {"data.transform": "transform: none", "model.name": "name: resnet10t"}[key]
    assert before in text
    (run.path / "config.yaml").write_text(text.replace(before, before.split(":")[0] + f": {evil}"))
    root = pictures_of(run)
    (run.path / "report.html").unlink()
    commands = [["resume", run.path], ["evaluate", run.path], ["verify", run.path, "--twice"]]
    if key == "model.name":
        commands.append(["predict", run.path, root, "--output", tmp_path / "p.csv"])
    for words in commands:
        told = refused(*words, codes=(1, 2))
        assert f"FINETUNE_TRUST={evil}" in told, (words, told)
    monkeypatch.setenv("FINETUNE_TRUST", f"other:thing, {evil}")
    main(["evaluate", str(run.path)])
    assert "runs code" in capsys.readouterr().err and canary.exists()
    canary.rmdir()


def test_a_members_code_in_another_process_is_trusted_when_it_was_typed_in_the_first(
        evil, tmp_path, canary, monkeypatch):
    code = ("from finetune.composition import compose\nfrom finetune.names import name_problems\n"
            f"words = ['data.root=.', 'data.transform={evil}']\n"
            "try: compose(words, typed_by_user=False, check_names=name_problems)\n"
            "except Exception as error: print(error)")
    asked = [sys.executable, "-c", code]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "names code" in done.stdout and not canary.exists()
    from finetune.study.words import read_study_words

    monkeypatch.setenv("FINETUNE_TRUST", "")
    read_study_words(["-m", f"data.transform={evil},none"])
    assert os.environ["FINETUNE_TRUST"] == evil
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "names code" not in done.stdout
    canary.rmdir()


@pytest.mark.parametrize("word", ["data.transform=os:mkdir/..", "data.transform=.evil:code",
                                  "model.name=../evil:code", "model.name=evil/../x:code",
                                  "model.name=os:no_such", "data.transform=:"])
def test_what_is_no_modules_name_is_told(word, evil, refused):
    assert word.partition("=")[0] in refused("plan", "data.root=.", word)


def test_files_of_the_current_folder_hide_no_library(tmp_path, canary):
    for name in ("yaml", "torch", "numpy", "hydra", "rich", "PIL", "timm", "tifffile", "zlib"):
        (tmp_path / f"{name}.py").write_text(MODULE.format(canary=str(canary)))
    done = subprocess.run([sys.executable, "-m", "finetune", "plan", "data.root=nowhere"],
                          capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "nowhere does not exist" in done.stderr, done.stderr


# tables


def table(folder, *names):
    (folder / "data").mkdir(exist_ok=True)
    for name in ("a.png", "b.png", "../outside.png"):
        path = folder / "data" / name
        if not path.exists():
            from PIL import Image
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, "xyxyxy", strict=False))
    (folder / "data" / "labels.csv").write_text(f"path,label\n{rows}")
    return str(folder / "data")


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../outside.png",
                                  "..\\outside.png", "{root}/outside.png", "~/x.png", "a.png\0"])
def test_a_table_names_pictures_below_its_root_alone(name, tmp_path):
    root = table(tmp_path, "a.png", "b.png", name.replace("{root}", str(tmp_path)))
    with pytest.raises(DataError, match=r"outside the data's folder|do not exist"):
        read_samples(root)


def test_a_splits_file_names_known_pictures_alone(tmp_path, refused):
    root = table(tmp_path, "a.png", "b.png")
    (tmp_path / "s.csv").write_text("path,label,split\n../outside.png,x,train\n/etc/passwd,y,val\n")
    told = refused("plan", *training(f"data.root={root}"),
                   f"data.splits_file={tmp_path / 's.csv'}")
    assert "unknown paths: ../outside.png, /etc/passwd" in told


def test_formulas_in_a_split_are_text_and_come_back(tmp_path):
    from finetune.data.samples import read_splits_file
    from finetune.data.splits import Split, write_splits

    names = ["=1+1.png", "'=1.png", "-2.png", "a.png", "@x.png", "\t.png", "''a.png"]
    folder = tmp_path / "d"
    folder.mkdir()
    samples = read_samples(table(tmp_path, "a.png", "b.png"))
    from dataclasses import replace
    whole = replace(samples, ids=names, labels=np.array([0, 1, 0, 1, 0, 1, 0]),
                    groups=["=A1", "", "+x", "b", "c", "d", "e"])
    split = Split(np.array(["train", "val", "test", "train", "val", "", "train"]), "given")
    path = write_splits(tmp_path / "splits.csv", whole, split)
    cells = [line.split(",")[0] for line in path.read_text().splitlines()]
    assert not any(cell.strip('"').startswith(("=", "@", "+", "\t")) for cell in cells)
    rows = read_splits(path)
    assert [row["path"] for row in rows] == names
    assert [row["group"] for row in rows] == whole.groups
    again, _ = read_splits_file(replace(whole, groups=None), path)
    assert again.ids == [n for n in names if n != "\t.png"]
    assert again.groups == ["=A1", "", "+x", "b", "c", "e"]
