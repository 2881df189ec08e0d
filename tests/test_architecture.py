"""The shape of the house: who may import whom, and how long things may be."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "finetune"
MODULES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "torchvision", "timm", "albumentations", "sklearn", "wandb", "matplotlib"}
# Lower layers first; a module imports only from its own layer or below, strangers excepted.
LAYERS = [
    {"errors", "files", "specs", "console", "archives"},
    {"config", "ranges", "recipes", "values", "dotted"},
    {"data", "models", "composition", "rehearsal"},
    {"training", "evaluation", "run_directory", "likeness", "looks", "shortcuts"},
    {"report", "assembly", "dividing", "selection", "interruption", "names",
     "weights_store", "memory", "caches", "devices"},
    {"method", "environment", "fastest"},
    {"session", "frozen", "fitting", "results", "starting", "wise_ft", "explaining",
     "familiar"},
    {"plan", "run", "inspect_models", "folds", "random_split", "launch", "auditing",
     "label_errors", "verifying", "evidence", "tracked_runs", "runs_index", "study",
     "rate_finder", "prediction", "exporting", "card"},
    {"comparison", "runs_tree"},
    {"api", "cli", "commands", "__init__", "__main__"},
]
STRANGERS = [("data", "models"), ("models", "data"), ("training", "evaluation"),
             ("evaluation", "training"), ("training", "data"), ("training", "models"),
             ("evaluation", "data"), ("evaluation", "models")]
SEES_CONFIG = {"config", "ranges", "values", "rehearsal", "composition", "assembly", "method",
               "environment", "session", "names", "plan", "run", "run_directory", "commands", "api",
               "fastest", "fitting", "frozen", "dividing", "likeness", "results", "folds",
               "random_split", "launch", "looks", "label_errors", "verifying", "evidence",
               "auditing", "starting", "wise_ft", "study", "shortcuts", "rate_finder", "explaining"}


def unit(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def own_imports(path):
    """Units that a module imports, lazily or not, types excepted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {id(n) for i in ast.walk(tree) if isinstance(i, ast.If)
                   and ast.unparse(i.test) == "TYPE_CHECKING" for n in ast.walk(i)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names = ([a.name for a in node.names] if isinstance(node, ast.Import)
                 else [node.module] if isinstance(node, ast.ImportFrom) and node.module else [])
        if isinstance(node, ast.ImportFrom) and node.module == "finetune":
            names = [f"finetune.{a.name}" for a in node.names]
        yield from (n.split(".")[1] for n in names if n.startswith("finetune."))


def layer(name):
    return next(i for i, members in enumerate(LAYERS) if name in members)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    if path.name == "__init__.py" and path.parent == ROOT:
        return
    here = unit(path)
    for imported in own_imports(path):
        if imported.startswith("__"):
            continue
        assert layer(imported) <= layer(here), f"{here} imports {imported}"
        assert (here, imported) not in STRANGERS


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_composition_sees_the_configuration(path):
    if "config" in set(own_imports(path)):
        assert unit(path) in SEES_CONFIG


def functions():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                told = ast.get_docstring(node) and len(node.body) > 1
                body = node.body[1:] if told else node.body
                yield path, node, body[-1].end_lineno - body[0].lineno + 1


def test_functions_are_short():
    lengths = {f"{p.name}:{n.name}": length for p, n, length in functions()}
    too_long = {k: v for k, v in lengths.items()
                if v > (100 if k == "run.py:fit" else 60)}
    assert not too_long
    assert statistics.median(lengths.values()) <= 7


def test_public_names_have_docstrings_and_all_names_exist():
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        listed = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
                       and ast.unparse(n.targets[0]) == "__all__"), [])
        defined = {n.name: n for n in tree.body
                   if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        for name in listed:
            if name in defined:
                assert ast.get_docstring(defined[name]), f"{path.name}: {name}"


def test_help_and_listing_import_no_torch():
    code = ("import sys; from finetune.__main__ import main; main(['--help']); main(['ls']); "
            f"main(['keys']); print(sorted(set(sys.modules) & {HEAVY!r}), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]")


def test_specs_samples_and_decoding_import_no_torch():
    code = ("import sys, finetune.specs, finetune.data.decoding, finetune.data.samples; "
            f"print(sorted(set(sys.modules) & {HEAVY!r}))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_broad_excepts_and_no_pickle_loading():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert "except Exception" not in text and "except:" not in text, path
        assert "weights_only=False" not in text and "allow_pickle=True" not in text, path
