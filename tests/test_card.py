"""A card tells what its run knows, leaves the rest to a person, and is what the hub takes."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from markdown_it import MarkdownIt
from run_builder import build_run, environment

from finetune import __version__
from finetune.__main__ import main
from finetune.card import write_card
from finetune.errors import InputError
from finetune.evaluation.decision_measures import measure_decisions
from finetune.evaluation.decisions import DecisionSettings, fit_decisions
from finetune.evaluation.predictions import Predictions
from finetune.evaluation.subgroups import measure_subgroups
from finetune.report.card import MARK, left_for_a_person
from finetune.report.card_metadata import HUB_LICENCES, base_model, licence_fields
from finetune.report.markdown import escape_markdown
from finetune.run_directory import RunDirectory

SPEC = {"size": [64, 48], "channels": 3, "channel_names": ["red", "green", "blue"],
        "dtype": "uint8", "value_range": [0.0, 255.0], "mean": [0.5] * 3, "std": [0.25] * 3,
        "interpolation": "bilinear", "resize": "pad"}
HOSTILE = ["<script>alert(1)</script>", "a|b `c` \\|", "---", "x\n\n# y\r\n> z", "\\(y\\) $$x$$",
           "[x](javascript:alert(1))", "![x](http://example.org/x.png)", "&lt;b&gt; &#60;i>",
           "*b* _i_ __k__ ~~s~~", "https://example.org www.example.org a@example.org",
           "{{ 7 * 7 }}{% raw %}", "<https://example.org>", "</td></table>", "- l", "1. m", "+",
           "=",
           "\x00\x1b[31m\u2028\u202etxt", "\udce4", "<!-- c", "```", "# h", "    code", "[^1]: n",
           "'\": yes", "snake_case_name", MARK]


def finished(folder, names=("well", "ill"), *, multi=False, kind=None, columns=None, settings=None,
             **more):
    """A run with all files that a card is made of."""
    folder.mkdir(exist_ok=True)
    kind = kind or ("multi" if multi else "single")
    spec = {"kind": kind, "class_names": list(names),
            "positive_class": names[-1] if len(names) == 2 and kind == "single" else None}
    versions = {"python": "3.11", "finetune-images": __version__}
    run = build_run(folder, names, multi=multi, **{
        "input_spec": SPEC, "label_spec": spec, "versions": versions} | more)
    metrics = run.metrics
    if "test" in metrics and kind != "ordinal":
        metrics["decisions"] = decided(run)
        test = Predictions.load(run.predictions_path("test"))
        if columns:
            metrics["subgroups"] = measure_subgroups(test, columns, resamples=50)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | (settings or {})))
    (folder / "report.html").write_text("<p>report")
    (folder / "splits.csv").write_text(
        "path,label,split,group\ncases/anna.png,well,train,anna-k\nb.png,ill,test,17\n")
    run.best_weights.parent.mkdir(exist_ok=True)
    run.best_weights.write_bytes(b"weights")
    return run


def decided(run):
    val, test = (Predictions.load(run.predictions_path(part)) for part in ("val", "test"))
    wishes = DecisionSettings(sensitivity=0.9, answered_accuracy=0.8)
    decisions = fit_decisions(val, settings=wishes, seed=0, biased_training=False)
    return measure_decisions(decisions, test)


def card_of(run, **options):
    return write_card(run, None, overwrite=True, **options).read_text(encoding="utf-8")


def tokens(card):
    """Of the Markdown below the metadata, with raw HTML allowed: the worst case."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = []
    for token in parser.parse(card.split("\n---\n", 1)[1]):
        found += [token, *(token.children or [])]
    return found


def shown(card):
    return "\n".join("".join(child.content for child in token.children)
                     for token in tokens(card) if token.type == "inline")


def one_line(name):
    return " ".join(re.sub("[\x00-\x1f\x7f-\x9f\u202e]", " ",
                           " ".join(name.replace("\udce4", "\ufffd").split())).split())


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    return card_of(finished(tmp_path_factory.mktemp("run")))


# What it tells

def test_it_tells_the_runs_own_numbers(tmp_path):
    run = finished(tmp_path / "run")
    text, metrics = card_of(run), run.metrics
    assert f"Balanced accuracy | {metrics['test']['balanced_accuracy']:.3f} (" in text
    point = next(p for p in metrics["decisions"]["operating_points"])
    assert f"| {point['threshold']:.3f} | {point['sensitivity']['value']:.3f} (" in text
    assert "64 × 48 px" in text and "ab12" in text and "seed 0" in text
    assert "the longer side is brought to the size" in text and "energy and carbon" in text


def test_stored_intervals_are_told_not_computed_anew(tmp_path):
    run = finished(tmp_path / "run")
    from finetune.evidence import read_facts

    metrics = run.metrics
    metrics["intervals"] = {"test": dict(read_facts(run).intervals)}
    metrics["intervals"]["test"]["accuracy"] |= {"low": 0.1234, "high": 0.8765, "reliable": False}
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    assert "(0.123\u00a0to\u00a00.876 ≈)" in card_of(run)
    value = next(m for m in ModelCard(card_of(run)).data.eval_results
                 if m.metric_type == "accuracy")
    assert value.metric_name == ("Accuracy (95 % interval 0.123 to 0.876, not to be relied on)")


@pytest.mark.parametrize(("names", "more", "told"), [
    (("x", "y", "z"), {"multi": True}, "whether a picture has it"),
    (("mild", "moderate", "severe"), {"kind": "ordinal"}, "from the lowest up"),
    (tuple("abcde"), {"groups": True}, "| by group ("),
    (tuple(map(str, range(60))), {}, "20 more")])
def test_all_kinds_of_labels_have_a_card(tmp_path, names, more, told):
    text = card_of(finished(tmp_path / "run", names, **more))
    assert told in text and "None" not in text.replace("None of", "")
    assert not re.search(r"\bnan\b|Undefined|\{\{|\{%|\n\n\n\n", text)
    assert all(f"| {name} |" in text for name in names[:5]) or len(names) == 60
    head = text.index("### By class")
    assert text[head:].split("### ", 2)[1].count("\n|") == 2 + min(len(names), 40)


def test_a_person_has_marks_and_they_are_counted(tmp_path, capsys):
    run = finished(tmp_path / "run")
    text = card_of(run)
    printed = capsys.readouterr().out
    assert text.count(MARK) == len(left_for_a_person(text)) == 7
    assert "7 places are left for a person" in printed and "what the model is for" in printed
    for title in ("Intended use", "Out of scope", "People and ethics", "Contact"):
        assert f"## {title}\n\n{MARK}" in text


def test_people_are_not_named_and_folders_not_told(tmp_path):
    run = finished(tmp_path / "run", data={"root": "/home/anna/secret/chest"}, warnings=[
        "2 sets have conflicting labels: cases/anna.png = b.png",
        "17 groups stay together: anna-k, 17", "the classifier is new", "shortcut: size: told"],
        command="python -m finetune data.root=/home/anna/secret/chest",
        weights={"source": "random", "licence": None, "notes": ["the classifier is new"]})
    text = card_of(run)
    assert "anna" not in text and "b.png" not in text and "secret" not in text
    assert "chest: 600 pictures" in text and "labels: … = …" in text
    assert "- 17 groups stay together: …, 17" in text  # counts stay
    assert "shortcut: size" not in text and text.count("the classifier is new") == 1


@pytest.mark.parametrize(("more", "told"), [
    ({}, "No groups"), ({"data": {"groups": 9}}, "come from one collection"),
    ({"data": {"waiver": "to see"}}, "with the reason: to see"), ({"part": "val"}, "no test part"),
    ({"count": 40}, "Fewer than 30 test pictures are of well (20), ill (20)"),
    ({"data": {"split_method": "site"}, "settings": {"data": {"test_site": "B"}}}, "One site (B)"),
    ({"weights": {"source": "f", "licence": "cc-by-nc-4.0"}}, "not for commercial use"),
    ({"weights": {"source": "f", "licence": None}}, "licence of the weights that training started"),
    ({"columns": {"sex": ["f", "m"] * 100}}, "trained once"),
    ({"rehearsal": {"command": "c", "replaced": {}}}, "This is a rehearsal")])
def test_limits_follow_from_the_facts(tmp_path, more, told):
    text = card_of(finished(tmp_path / "run", **more))
    limits = text.split("## Limits")[1].split("\n## ")[0]
    assert told in limits
    assert ("No groups" in limits) == ("groups" not in more.get("data", {}))
    assert ("subgroups (sites" in limits) == ("columns" not in more)


def test_shortcuts_and_unlike_pictures_are_told(tmp_path):
    seen = {"count": 20, "modes": {"L": 20}, "sides": [50, 90], "values": {"uint8": [0, 9, 255]}}
    run = finished(tmp_path / "run", data={"training_pictures": seen})
    row = {"cue": "colour mode", "kind": "seen", "level": "shortcut", "balanced_accuracy": 0.9,
           "low": 0.8, "high": 0.95, "chance": 0.5, "p": 0.01}
    (run.path / "metrics.json").write_text(json.dumps({**run.metrics, "shortcuts": [row]}))
    text = card_of(run)
    assert "| colour mode | 0.900 (0.800 to 0.950) | **shortcut** |" in text
    assert "from colour mode: the model may have learned that" in text
    assert "another colour mode than L" in text and "50 to 90 px" in text


def test_a_rehearsal_is_stamped_and_claims_nothing(tmp_path, capsys):
    run = finished(tmp_path / "run", data={"root": None}, rehearsal={
        "command": "python -m finetune recipe=medical data.root=DIR", "replaced": {}})
    text = card_of(run)
    data = ModelCard(text).data
    assert text.split("\n---\n", 1)[1].startswith("\n# REHEARSAL: ")
    assert "> **REHEARSAL on generated pictures.**" in text and "rehearsal" in data.tags
    assert data.eval_results is None and "model-index" not in text and data.metrics is None
    assert "REHEARSAL" in capsys.readouterr().out


# Metadata

def test_metadata_come_back_as_they_were_written(card, tmp_path):
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert str(loaded) == card  # and a second time, the same
    data = loaded.data.to_dict()
    assert data == yaml.safe_load(card.split("---\n")[1])
    assert data["model-index"] == eval_results_to_model_index(
        loaded.data.model_name, loaded.data.eval_results)
    assert {key: data[key] for key in ("library_name", "license", "pipeline_tag")} == {
        "library_name": "finetune", "license": "apache-2.0", "pipeline_tag": "image-classification"}
    assert not problems(card)


def test_results_in_the_metadata_are_those_of_the_test_part(tmp_path):
    run = finished(tmp_path / "run")
    values = run.metrics["test"]
    data = ModelCard(card_of(run)).data
    found = {each.metric_type: each.metric_value for each in data.eval_results}
    assert found == {
        "accuracy": round(values["accuracy"], 4), "f1": round(values["macro_f1"], 4),
        "balanced_accuracy": round(values["balanced_accuracy"], 4),
        "average_precision": round(values["average_precision"], 4),
        "roc_auc": round(values["roc_auc"], 4)}
    assert {each.dataset_split for each in data.eval_results} == {"test"}
    assert data.metrics == ["accuracy", "f1", "roc_auc"]
    assert ModelCard(card_of(finished(tmp_path / "v", part="val"))).data.eval_results is None


@pytest.mark.parametrize(("weights", "expected"), [
    ({"source": "random", "licence": None}, {}),
    ({"source": "x.pth", "licence": None}, {"license": "unknown"}),
    ({"source": "x.pth", "licence": "Apache-2.0"}, {"license": "apache-2.0"}),
    ({"source": "x.pth", "licence": "apple-ascl"}, {"license": "apple-ascl"}),
    ({"source": "x.pth", "licence": "dinov3-license"},
     {"license": "other", "license_name": "dinov3-license", "license_link": "LICENSE"}),
    ({"source": "x.pth", "licence": "other"},
     {"license": "other", "license_name": "licence-of-the-weights", "license_link": "LICENSE"})])
def test_the_licence_is_that_of_the_weights(tmp_path, weights, expected):
    assert licence_fields(weights) == expected
    text = card_of(finished(tmp_path / "run", weights=weights))
    data = ModelCard(text).data.to_dict()
    assert {key: data[key] for key in data if key.startswith("license")} == expected
    assert not problems(text)


def test_timms_licences_are_listed_or_named():
    from timm.models import get_pretrained_cfg, list_models

    told = {get_pretrained_cfg(name).license for name in list_models(pretrained=True)}
    for licence in told:
        fields = licence_fields({"source": "hub", "licence": licence})
        assert fields["license"] in HUB_LICENCES or (
            fields["license_name"] == licence and fields["license_link"] == "LICENSE")


@pytest.mark.parametrize(("source", "expected"), [
    ("hf-hub:timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"), ("random", None),
    ("https://example.org/a/b.pth", None), ("hf-hub:a", None), ("hf-hub:a/b\n- c", None)])
def test_only_a_repository_of_the_hub_is_a_base_model(tmp_path, source, expected):
    weights = {"source": source, "licence": "mit"}
    assert base_model(weights) == expected
    text = card_of(finished(tmp_path / "run", weights=weights))
    assert ModelCard(text).data.base_model == expected


def problems(text):
    """What the hub's documentation (`modelcard.md`, `repositories-licenses.md`) forbids."""
    data = yaml.safe_load(text.split("---\n")[1])
    licence = data.get("license", "unknown")
    found = [] if licence in HUB_LICENCES | {"other"} else ["license"]
    if licence == "other":
        found += [key for key in ("license_name", "license_link") if not data.get(key)]
        found += [] if re.fullmatch(r"[a-z0-9.+-]+", data.get("license_name", "")) else ["an id"]
    known = {"library_name", "license", "license_name", "license_link", "metrics", "base_model",
             "pipeline_tag", "tags", "model-index"}
    found += sorted(data.keys() - known)
    for entry in data.get("model-index", []):
        found += [] if isinstance(entry["name"], str) and entry["results"] else ["model-index"]
        for result in entry["results"]:
            needed = [result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"],
                      *(metric["type"] for metric in result["metrics"])]
            found += [] if all(isinstance(n, str) and n for n in needed) else ["names"]
            found += [m["type"] for m in result["metrics"] if not isinstance(m["value"], float)]
    return found


@pytest.fixture
def hub():
    """Stands in for the hub's check, by the rules that it documents; keeps what it was sent."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            wrong = problems(body["content"])
            self.send_response(400 if wrong else 200)
            self.end_headers()
            self.wfile.write("; ".join(wrong).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def ask(address, path):
    """huggingface_hub reads its address when it is loaded: in a process of its own."""
    code = f"from huggingface_hub import ModelCard; ModelCard.load({str(path)!r}).validate()"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"})


def test_the_hubs_own_check_is_sent_the_card(card, hub, tmp_path):
    address, asked = hub
    path = tmp_path / "README.md"
    path.write_text(card, encoding="utf-8")
    done = ask(address, path)
    assert done.returncode == 0, done.stderr
    assert asked == [("/api/validate-yaml", {"repoType": "model", "content": card})]
    path.write_text(card.replace("license: apache-2.0", "license: my own"), encoding="utf-8")
    assert "ValueError: license" in ask(address, path).stderr


# Names that want to be more than names

@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("around", ["%s", "- %s", "| a | b |\n|---|---|\n| %s | c |", "# A %s b",
                                    "> %s.", "1. x: %s; y", "**t**: %s"])
def test_a_name_is_shown_as_it_is(name, around):
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    def types(text):
        return [(t.type, [c.type for c in t.children or [] if c.type != "text_special"])
                for t in parser.parse(around.replace("%s", text))]

    assert types(escape_markdown(name)) == types("plain")
    html = parser.render(around.replace("%s", escape_markdown(name)))
    plain = parser.render(around.replace("%s", "plain"))
    kept = one_line(name).translate({38: "&amp;", 60: "&lt;", 62: "&gt;", 34: "&quot;"})
    assert html == plain.replace("plain", kept)


def test_no_link_is_made_where_bare_addresses_become_links():
    text = escape_markdown("https://example.org WWW.example.org ftp://x a@b.org")
    assert "://" not in text and "www." not in text.lower() and "\\@" in text


def test_hostile_names_change_nothing_but_the_text(tmp_path):
    evil, plain = [], []
    for place, names in ((evil, HOSTILE), (plain, [f"name {i}" for i in range(len(HOSTILE))])):
        odd = names[0], names[3], names[6]
        columns = {names[1]: [names[i % 3] for i in range(200)]}
        run = finished(tmp_path / f"run{len(names[0])}", names, columns=columns, warnings=list(odd),
                       data={"root": f"/data/{names[5].replace('/', ' ')}", "waiver": names[0],
                             "repairs": [names[2]]},
                       weights={"source": names[6], "licence": names[0], "notes": [names[7]]},
                       settings={"model": {"name": names[8]}, "recipe": names[1]})
        text = card_of(run)
        place += [text, [t.type for t in tokens(text) if t.type not in ("text", "text_special")]]
    assert evil[1] == plain[1]  # neither more elements nor others
    types = set(evil[1])
    assert not types & {"html_block", "html_inline", "link_open", "image", "s_open"}
    assert left_for_a_person(evil[0]) == left_for_a_person(plain[0])
    text = shown(evil[0])
    assert [name for name in HOSTILE if one_line(name) not in text] == []
    data = ModelCard(evil[0]).data
    assert data.eval_results[0].dataset_name == one_line(HOSTILE[5].replace("/", " "))
    assert not problems(evil[0])


@pytest.mark.slow
def test_a_real_rehearsal_has_a_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["recipe=medical", "training.epochs=1", "output_dir=runs", "device=cpu"]) == 0
    run = RunDirectory.open(next((tmp_path / "runs").glob("rehearsal-*")))
    text = card_of(run)
    assert "# REHEARSAL: " in text and "generated sample pictures" in text
    assert not re.search("[(]train[)]|Undefined|None,", text.replace("… (train)", ""))
    assert not problems(text) and str(ModelCard(text)) == text


# What it refuses

def newer(run):
    told = environment(("well", "ill"), 200, {"versions": {"finetune-images": "99.0.0"}})
    (run.path / "environment.json").write_text(json.dumps(told))


def folds(run):
    run.best_weights.unlink()
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["data"] = {"split": "kfold"}
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(("harm", "told"), [
    (lambda run: run.best_weights.unlink(), "is not finished"),
    (lambda run: (run.path / "report.html").unlink(), "report.html is missing"),
    (lambda run: (run.path / "metrics.json").unlink(), "is not finished"),
    (newer, "was made by finetune 99.0.0"), (folds, "name one of them, such as")])
def test_what_is_not_a_finished_run_of_this_version_is_refused(tmp_path, harm, told):
    run = finished(tmp_path / "run")
    harm(run)
    with pytest.raises(InputError, match=re.escape(told)):
        write_card(run, None, overwrite=False)
    assert not (run.path / "MODEL_CARD.md").exists()


def test_a_card_that_is_there_stays_unless_it_may_be_replaced(tmp_path):
    run = finished(tmp_path / "run")
    assert write_card(run, None, overwrite=False) == run.path / "MODEL_CARD.md"
    (run.path / "MODEL_CARD.md").write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        write_card(run, None, overwrite=False)
    assert (run.path / "MODEL_CARD.md").read_text() == "mine"
    assert "# Image" in write_card(run, None, overwrite=True).read_text()


def test_a_folder_gets_the_name_that_the_hub_wants(tmp_path):
    run = finished(tmp_path / "run")
    (tmp_path / "hub").mkdir()
    assert write_card(run, tmp_path / "hub", overwrite=False) == tmp_path / "hub" / "README.md"
    assert write_card(run, tmp_path / "own.md", overwrite=False) == tmp_path / "own.md"
    for output, told in ((tmp_path / "no" / "c.md", "no folder"), (tmp_path / "c.txt", ".md")):
        with pytest.raises(InputError, match=told):
            write_card(run, output, overwrite=False)


def test_the_same_run_gives_the_same_card(tmp_path):
    run = finished(tmp_path / "run", columns={"sex": np.array(["f", "m"] * 100).tolist()})
    assert card_of(run) == card_of(run)


def test_a_card_says_what_is_told_of_far_pictures(tmp_path):
    run = finished(tmp_path)
    assert "no warning tells" in write_card(run, None, overwrite=False).read_text()
    far = {"limit": 2.5, "quantile": 0.99, "count": 200, "expected": 0.01,
           "test": {"beyond": 3, "count": 150, "share": 0.02}}
    (tmp_path / "metrics.json").write_text(json.dumps({**run.metrics, "familiarity": far}))
    card = write_card(run, None, overwrite=True).read_text()
    assert "99 % of 200 validation pictures" in card and "3 of 150" in card
    assert "no warning tells" not in card


def test_what_was_fitted_and_not_measured_is_told(tmp_path):
    """A run without a test part; its predictions are calibrated and have thresholds."""
    run = finished(tmp_path)
    answers = Predictions.load(run.predictions_path("val"))
    fitted = fit_decisions(answers, settings=DecisionSettings(sensitivity=0.8), seed=0,
                           biased_training=False).to_dict()
    fitted["calibration"] |= {"kept": True, "kind": "temperature"}
    (tmp_path / "decisions.json").write_text(json.dumps(fitted))
    metrics = {key: value for key, value in run.metrics.items() if key != "decisions"}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    card = write_card(run, None, overwrite=True).read_text()
    assert "not measured on others" in card and "**Calibrated** (temperature)" in card
    assert "from " in card and "Nothing was fitted" not in card
    assert "not calibrated" not in card
