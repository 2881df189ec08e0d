"""An exported ONNX file in use, through onnxruntime; no torch here."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError, InputError
from finetune.prediction.model_facts import KEY, json_to_facts
from finetune.prediction.predictor import Predictor
from finetune.prediction.values import Answers, Network

__all__ = ["INPUT", "OUTPUTS", "load_onnx", "read_onnx"]

# of the graph; the last may lack
INPUT, OUTPUTS = "pictures", ("probabilities", "logits", "distances")
_OUTSIDE = "session.model_external_initializers_file_folder_path"
_TYPES = {"uint8": "tensor(uint8)", "uint16": "tensor(uint16)", "float32": "tensor(float)"}


def load_onnx(path: str | os.PathLike[str], *, batch_size: int = 32) -> Predictor:
    """A model that ``export`` wrote.

    Args:
        path: The file.
        batch_size: Pictures at a time.

    Raises:
        InputError: It can't be read, isn't ours, is of a newer version, or onnxruntime isn't
            installed.
    """
    return read_onnx(path, batch_size=batch_size)[0]


def read_onnx(path: str | os.PathLike[str], *,
              batch_size: int = 32) -> tuple[Predictor, dict[str, Any]]:
    """As `load_onnx`, and how the file was made: format, versions, what was measured of the run."""
    file = Path(path)
    session = _open(file)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise InputError(f"{file} was not exported by finetune: it does not say which classes it "
                         "knows and how pictures are prepared")
    facts, export = json_to_facts(text, str(file))
    _check_graph(session, facts, file)
    return Predictor(**facts, network=_network(session, file), batch_size=batch_size,
                     precision=str(export["precision"])), export


def _open(file: Path) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise InputError(f"{file} needs the package onnxruntime, which is not installed: "
                         'python -m pip install "finetune-images[predict]"') from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    # a model is one file: where data outside of it would be looked for, there is nothing
    options.add_session_config_entry(_OUTSIDE, str(file.resolve() / "nothing"))
    found = set(onnxruntime.get_available_providers())
    wanted: list[Any] = [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
    try:
        content = file.read_bytes()
        return onnxruntime.InferenceSession(
            content, options, providers=[each for each in wanted if each[0] in found])
    except OSError as error:
        raise InputError(f"{file} can't be read: {error.strerror or error}") from error
    except _failures() as error:
        raise InputError(f"{file} is no ONNX model that can be used: {_first_line(error)}"
                         ) from error


def _failures() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its errors have no class in common but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values()
           if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)


def _check_graph(session: Any, facts: dict[str, Any], file: Path) -> None:
    """Refuse a graph that isn't what its document says.

    Raises:
        InputError: Other names, types or shapes.
    """
    spec = facts["spec"]
    taken = {each.name: (each.type, list(each.shape)) for each in session.get_inputs()}
    given = {each.name: list(each.shape)[1:] for each in session.get_outputs()}
    sides = [*spec.size, spec.channels]
    wanted = {name: [facts["labels"].output_width] for name in OUTPUTS[:2]}
    wanted |= {OUTPUTS[2]: []} if facts["far"] is not None else {}
    kind, shape = taken.get(INPUT, ("", []))
    same = (kind, shape[1:], given) == (_TYPES[spec.dtype.value], sides, wanted)
    if set(taken) != {INPUT} or not same:
        raise InputError(f"{file}: the network takes {taken} and gives {given}, and not "
                         f"{spec.dtype.value} pictures (batch, {', '.join(map(str, sides))}) for "
                         f"{wanted}: the file was changed")


def _network(session: Any, file: Path) -> Network:
    failures = _failures()
    names = [each.name for each in session.get_outputs()]

    def network(batch: np.ndarray) -> Answers:
        try:
            found = session.run(names, {INPUT: np.ascontiguousarray(batch)})
        except failures as error:
            raise FinetuneError(f"{file}: {_first_line(error)}") from error
        told = dict(zip(names, found, strict=True))
        return Answers(np.asarray(told[OUTPUTS[0]], np.float64), told[OUTPUTS[1]],
                       told.get(OUTPUTS[2]))

    return network


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
