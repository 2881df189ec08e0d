"""What runs cost, how they learnt, and in what they differ beside their method."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.comparison.runs import ComparedRun, Method

__all__ = ["find_flags", "pareto_front", "run_cost", "run_curve"]

ARITHMETIC = ("training.precision", "training.memory_format", "training.convolutions",
              "training.compile")
BUDGET = ("training.epochs", "data.batch_size", "data.split_seed")


def run_cost(run: ComparedRun) -> dict[str, Any]:
    """Seconds of training, parameters, trained ones, and peak memory; ``None`` where not known.

    ``trained_parameters`` are those of depths that were open in any epoch; ``peak_memory_mb`` is
    the largest that ``history.jsonl`` or ``environment.json`` hold under that name.
    """
    history, environment = run.history, run.environment
    depths = {int(d["depth"]): int(d["parameters"]) for d in environment.get("depths", [])}
    opened = {int(depth) for epoch in history for depth in epoch.get("trainable_depths", [])}
    memory = [each["peak_memory_mb"] for each in (environment, *history)
              if each.get("peak_memory_mb") is not None]
    return {"seconds": sum(e["seconds"] for e in history) if history else None,
            "epochs": len(history) or None,
            "parameters": environment.get("parameters", {}).get("total"),
            "trained_parameters": (sum(depths.get(d, 0) for d in opened)
                                   if depths and opened else None),
            "peak_memory_mb": max(memory) if memory else None}


def run_curve(run: ComparedRun) -> list[dict[str, Any]]:
    """For each epoch its number, training loss, seconds, validation metrics, whether chosen."""
    return [{"epoch": e["epoch"], "train_loss": e.get("train_loss"), "seconds": e.get("seconds"),
             "trainable_depths": e.get("trainable_depths"), "selected": e.get("selected"),
             "val": {k: v for k, v in e.get("val", {}).items() if k != "count"}}
            for e in run.history]


def find_flags(methods: Sequence[Method]) -> list[dict[str, str]]:
    """What differs between runs and isn't the method: ``{"kind", "text"}``, kind by kind.

    Kinds are ``data``, ``arithmetic``, ``versions``, ``hardware``, ``budget`` and ``weights``; the
    last is told only within a method: between methods it may be what is compared.
    """
    runs = [run for method in methods for run in method.runs]
    found = []
    for kind, read in (("data", _data), ("arithmetic", _arithmetic), ("versions", _versions),
                       ("hardware", _hardware), ("budget", _budget)):
        found += [{"kind": kind, "text": text} for text in _differing(runs, read)]
    for method in methods:
        found += [{"kind": "weights", "text": f"within {method.name}: {text}"}
                  for text in _differing(method.runs, _weights)]
    return found


def _differing(runs: Sequence[ComparedRun], read: Any) -> list[str]:
    facts = [read(run) for run in runs]
    return [text for name in dict.fromkeys(key for each in facts for key in each)
            if (text := _told(name, runs, [each.get(name) for each in facts]))]


def _told(name: str, runs: Sequence[ComparedRun], values: Sequence[Any]) -> str | None:
    """Which run has which value; nothing when all have one."""
    by_value: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        by_value.setdefault(_short(value), []).append(run.name)
    if len(by_value) < 2:
        return None
    parts = [f"{value} ({', '.join(names[:2])}{f' and {len(names) - 2} more' * (len(names) > 2)})"
             for value, names in by_value.items()]
    return f"{name} differs: {'; '.join(parts)}"


def _short(value: Any) -> str:
    text = "not told" if value is None else str(value)
    is_hash = len(text) >= 40 and set(text) <= set("0123456789abcdef")
    return text[:8] if is_hash else text


def _data(run: ComparedRun) -> dict[str, Any]:
    data = run.environment.get("data", {})
    return {name: data.get(key) for name, key in (
        ("the data's fingerprint", "fingerprint"), ("data.split_method", "split_method"),
        ("the waiver", "waiver"), ("pictures in all", "pictures"))}


def _arithmetic(run: ComparedRun) -> dict[str, Any]:
    return {**{key: run.settings.get(key) for key in ARITHMETIC},
            "threads": run.environment.get("threads")}


def _versions(run: ComparedRun) -> dict[str, Any]:
    return {**run.environment.get("versions", {}), "commit": run.environment.get("commit")}


def _hardware(run: ComparedRun) -> dict[str, Any]:
    return {**run.environment.get("hardware", {}), "device used": run.environment.get("device")}


def _weights(run: ComparedRun) -> dict[str, Any]:
    return {"starting weights": run.environment.get("weights", {}).get("sha256")}


def _budget(run: ComparedRun) -> dict[str, Any]:
    classes = run.environment.get("data", {}).get("classes", {})
    trained = sum(counts.get("train", 0) for counts in classes.values()) or None
    return {**{key: run.settings.get(key) for key in BUDGET}, "training pictures": trained}


def pareto_front(quality: Mapping[str, float | None],
                 cost: Mapping[str, float | None]) -> list[str]:
    """Names to which no other is better in one and at least as good in the other.

    Args:
        quality: More is better; what has none is not on the front.
        cost: Less is better; likewise.

    >>> pareto_front({"a": 0.9, "b": 0.8, "c": 0.7}, {"a": 20.0, "b": 5.0, "c": 6.0})
    ['a', 'b']
    """
    known = [(name, value, price) for name, value in quality.items()
             if value is not None and (price := cost.get(name)) is not None]
    return [name for name, value, price in known
            if not any(v >= value and p <= price and (v > value or p < price)
                       for _, v, p in known)]
