"""``export``: a run's network as a file, compared with the run before it gets its name."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.assembly import read_labelled
from finetune.console import say, warn
from finetune.data.given_pictures import GivenPictures
from finetune.errors import CheckError, ConfigurationError, DataError, InputError, did_you_mean
from finetune.evaluation.predictions import Predictions
from finetune.exporting import formats
from finetune.exporting.graph import ExportedModel
from finetune.exporting.parity import BATCH, Parity, check_parity
from finetune.method import noise
from finetune.models.familiarity import WithDistance
from finetune.models.prefix import folded_copy
from finetune.prediction.model_facts import KEY, facts_to_json, measured_part, run_facts
from finetune.prediction.network import load_familiarity, load_plain_model
from finetune.prediction.onnx_model import load_onnx
from finetune.prediction.predictor import Predictor
from finetune.prediction.values import Network, Prepared
from finetune.run_directory import RunDirectory
from finetune.specs import Dtype, InputSpec, Resize

__all__ = ["FORMATS", "ExportOptions", "export"]

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "timm": ""}
PICTURES = 32  # that an export is compared on


@dataclass(frozen=True)
class ExportOptions:
    """How ``export`` goes about it.

    Attributes:
        form: ``onnx``, ``pt2`` or ``timm``; None: by the file's name.
        half: Weights and arithmetic of the network in 16-bit floats.
        overwrite: Replace what an earlier export wrote.
        pictures: What the export is compared on, as `GivenPictures` takes it; nothing: pictures of
            the run's test part.
    """

    form: str | None = None
    half: bool = False
    overwrite: bool = False
    pictures: Sequence[str] = ()


def export(run: RunDirectory, target: Path, options: ExportOptions | None = None) -> Parity:
    """Write a finished run's network as one ONNX file, a ``.pt2`` file or a folder for timm.

    The answers of what was written are compared with the run's on real pictures first, one by one
    and several at a time. Where they differ, nothing is left behind.

    Args:
        run: A finished one.
        target: The file, or for timm the folder.
        options: Unset: the defaults.

    Raises:
        InputError: The run isn't finished, the target exists, or there are no pictures.
        CheckError: The network can't be exported, or the export's answers differ.
    """
    options = options or ExportOptions()
    form = _form_of(target, options)
    _check_target(target, form, overwrite=options.overwrite)
    predictor = Predictor.from_run(run, batch_size=BATCH)
    pictures = _pictures(run, predictor, options.pictures)
    home = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        made = home / (target.name or "model")
        _write(run, made, form, half=options.half)
        with formats.refusals_told(form):
            parity = check_parity(predictor, _network_of(made, form, predictor), pictures)
        if not parity.passes(half=options.half):
            raise CheckError(parity.complaint(half=options.half))
        size = sum(f.stat().st_size for f in (made.rglob("*") if made.is_dir() else [made]))
        _put(made, target)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    _tell(target, form, size, parity, predictor)
    return parity


def _form_of(target: Path, options: ExportOptions) -> str:
    named = next((form for form, end in FORMATS.items() if end and target.suffix == end), None)
    form = options.form or named
    if form is None:
        raise ConfigurationError(f"export to {target}: which format? A name that ends with .onnx "
                                 "or .pt2, or --format timm for a folder"
                                 f"{did_you_mean(target.suffix, ['.onnx', '.pt2'])}")
    if form not in FORMATS or (named or form) != form or (FORMATS[form] and named is None):
        raise ConfigurationError(f"--format {form} does not go with {target}: an ONNX file ends "
                                 "with .onnx, one of torch.export with .pt2; timm takes a folder")
    return form


def _check_target(target: Path, form: str, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}; make it first")
    if not target.exists():
        return
    if not overwrite:
        raise InputError(f"{target} exists; --overwrite replaces it")
    ours = (target / f"{KEY}.json").is_file() if form == "timm" else target.is_file()
    if not ours:
        raise InputError(f"{target} was not made by export and is not replaced; choose another "
                         "name")


def _pictures(run: RunDirectory, predictor: Predictor, words: Sequence[str]) -> list[Prepared]:
    """Up to `PICTURES` at the network's size, spread over all that there are.

    Raises:
        DataError: None can be read.
    """
    prepared = (_given_pictures(predictor, words) if words else _own_pictures(run, predictor))
    if all(each.pixels is None for each in prepared):
        first = next((each.error for each in prepared), "there are none")
        raise DataError(f"no picture to compare the export on ({first}); --pictures PATH names "
                        "some, of the kind that the network was trained on")
    return prepared


def _given_pictures(predictor: Predictor, words: Sequence[str]) -> list[Prepared]:
    given = _spread(list(GivenPictures(words)))
    return [predictor.prepare(each.path, name=each.name) for each in given]


def _own_pictures(run: RunDirectory, predictor: Predictor) -> list[Prepared]:
    part = "test" if run.predictions_path("test").is_file() else "val"
    names = _spread(Predictions.load(run.predictions_path(part)).ids)
    data = run.config.data
    root = str(run.path / "pictures") if data.root is None else data.root
    try:
        source = read_labelled(data, root)[0].source
        return [predictor.prepare(source.read(name).pixels, name=name) for name in names]
    except (DataError, OSError) as error:
        raise DataError(f"the run's pictures can't be read ({error}); --pictures PATH names others "
                        "to compare the export on") from error


def _spread(items: list[Any]) -> list[Any]:
    rows = np.linspace(0, len(items) - 1, min(PICTURES, len(items))).round().astype(int)
    return [items[i] for i in rows]


def _write(run: RunDirectory, made: Path, form: str, *, half: bool) -> None:
    facts = run_facts(run)
    spec: InputSpec = facts["spec"]
    model = load_plain_model(run)
    about = _about(run, facts, form, half)
    if form == "timm":
        made.mkdir()
        formats.write_timm(model, spec, facts["labels"], made, about, half=half,
                           name=run.config.model.name.partition(".")[0])
        return
    calibration = facts["decisions"] and facts["decisions"].calibration
    folded = folded_copy(model, noise(spec, 2, torch.device("cpu")))
    known = load_familiarity(run)
    body = folded if known is None else WithDistance(folded, known.names, known.to_arrays())
    graph = ExportedModel(body, spec, facts["labels"], calibration, half=half).eval()
    write = formats.write_onnx if form == "onnx" else formats.write_pt2
    write(graph, spec, made, about)


def _about(run: RunDirectory, facts: dict[str, Any], form: str, half: bool) -> dict[str, str]:
    """Metadata: one document for us, and what a person looks for."""
    environment, origin = run.environment, facts["origin"]
    export = {"format": form, "precision": "fp16" if half else "fp32", "torch": version("torch"),
              "model": run.config.model.name, "data": environment["data"].get("fingerprint"),
              "files": environment.get("files", {}), "measured": measured_part(run)}
    if form == "onnx":
        export["opset"] = formats.OPSET
    stamp = {"rehearsal": "REHEARSAL: trained on generated pictures; the answers mean nothing"}
    return {KEY: facts_to_json(facts, export), "classes": ", ".join(facts["labels"].class_names),
            "licence of the starting weights": origin.licence or "unknown",
            **(stamp if origin.rehearsal else {})}


def _network_of(made: Path, form: str, predictor: Predictor) -> Network:
    """The file that was written, as its users will read it."""
    if form == "onnx":
        return load_onnx(made).network
    return formats.load_pt2(made) if form == "pt2" else _timm_network(made, predictor)


def _timm_network(made: Path, predictor: Predictor) -> Network:
    """Logits of timm, with the preparation and calibration that such a folder leaves out."""
    calibration = None if predictor.decisions is None else predictor.decisions.calibration
    return formats.as_network(ExportedModel(formats.load_timm(made), predictor.spec,
                                            predictor.labels, calibration))


def _put(made: Path, target: Path) -> None:
    """Give what was checked its name. In a folder of an earlier export only its files are replaced.

    What a person or `card` put beside them stays.
    """
    if not made.is_dir() or not target.exists():
        made.replace(target)
        return
    for file in sorted(made.iterdir(), key=lambda each: each.name == f"{KEY}.json"):
        file.replace(target / file.name)


def _tell(target: Path, form: str, size: int, parity: Parity, predictor: Predictor) -> None:
    spec = predictor.spec
    same = "as the run does" if parity.passes(half=False) else "with the run's classes"
    say(f"wrote {target}: {size / 1e6:.1f} MB; {parity.pictures} pictures, one by one and "
        f"together, are answered {same}: largest difference of a probability "
        f"{parity.difference:.1e}")
    shape = f"(batch, {spec.size[0]}, {spec.size[1]}, {spec.channels}) {spec.dtype.value}"
    if form == "timm":
        say(f'timm.create_model("local-dir:{target}", pretrained=True) gives logits; calibration, '
            f"thresholds and sets are in {target / f'{KEY}.json'}, and not applied by timm")
        if spec.resize is Resize.pad or spec.dtype is not Dtype.uint8:
            warn("timm's own transforms prepare pictures otherwise than this run: "
                 + ("borders are black here and of the mean colour there"
                    if spec.resize is Resize.pad else f"they take no {spec.dtype.value} pictures")
                 + "; prepare them as finetune.json tells")
    else:
        say(f"in: pictures {shape}, as decoded and resized; out: calibrated probabilities")
    if form == "onnx":
        say(f"use it without torch: python -m finetune predict {target} PATH ... --output FILE")
    if predictor.origin.rehearsal:
        warn("REHEARSAL: this network was trained on generated pictures; the file says so, and "
             "each row that it predicts")
