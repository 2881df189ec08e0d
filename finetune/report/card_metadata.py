"""The metadata of a model card, as the Hugging Face hub reads them.

After https://github.com/huggingface/hub-docs, ``modelcard.md`` and
``docs/hub/repositories-licenses.md`` (commit 242f4a1e, 2026-08-22).
"""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from finetune.errors import InputError
from finetune.report.answers import HEADLINE
from finetune.report.claim import Facts
from finetune.report.drawing import metric_titles
from finetune.report.markdown import on_one_line

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

__all__ = ["HUB_LICENCES", "base_model", "card_metadata", "data_name", "licence_fields",
           "metric_title"]

TASK = "image-classification"
# Ours, by the hub's identifiers; the hub has none for the others, which keep their names.
HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1", "roc_auc": "roc_auc",
               "mean_absolute_error": "mae"}
HUB_LICENCES = frozenset("""
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0
odc-by odbl openmdw-1.0 openmdw-1.1 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl
lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2
llama3.3 llama4 grok2-community gemma unknown""".split())


def card_metadata(facts: Facts, name: str) -> str:
    """The YAML between the two ``---`` at a card's top.

    A rehearsal has no results there, and neither has a run without a test part: its numbers are of
    pictures that chose the epoch.

    Args:
        facts: The run's.
        name: The model's, for its results.

    Raises:
        InputError: huggingface_hub is not installed.
    """
    return str(_card_data(facts, on_one_line(name)).to_yaml())


def _card_data(facts: Facts, name: str) -> "ModelCardData":
    try:
        from huggingface_hub import ModelCardData
    except ImportError as error:
        raise InputError('a card needs huggingface_hub: python -m pip install '
                         '"finetune-images[train]"') from error
    shown = facts.part == "test" and not facts.environment.get("rehearsal")
    results = _results(facts) if shown else []
    known = [each.metric_type for each in results if each.metric_type in HUB_METRICS.values()]
    licence = licence_fields(facts.environment["weights"])
    return ModelCardData(
        license=licence.get("license"), license_name=licence.get("license_name"),
        license_link=licence.get("license_link"), library_name="finetune",
        pipeline_tag=TASK, tags=_tags(facts), base_model=base_model(facts.environment["weights"]),
        metrics=list(dict.fromkeys(known)) or None, model_name=name if results else None,
        eval_results=results or None)


def _results(facts: Facts) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    return [EvalResult(
        task_type=TASK, dataset_type="custom", dataset_name=data_name(facts), dataset_split="test",
        metric_type=HUB_METRICS.get(key, key), metric_value=round(float(facts.values[key]), 4),
        metric_name=_named(facts, key)) for key in HEADLINE if facts.values.get(key) is not None]


def _named(facts: Facts, key: str) -> str:
    """A metric's title, and its interval: the hub has no field for one."""
    entry = facts.intervals.get(key) or {}
    if entry.get("low") is None:
        return metric_title(facts, key)
    doubt = "" if entry.get("reliable") else ", not to be relied on"
    return (f"{metric_title(facts, key)} ({100 * facts.intervals['confidence']:g} % interval "
            f"{entry['low']:.3f} to {entry['high']:.3f}{doubt})")


def metric_title(facts: Facts, key: str) -> str:
    """What a metric is called for this kind of labels."""
    return metric_titles(single="balanced_accuracy" in facts.values)[key]


def data_name(facts: Facts) -> str:
    """The name of the folder or file that held the pictures, without where it was."""
    root = facts.data.get("root")
    return on_one_line(PurePath(root).name) or "pictures" if root else "generated sample pictures"


def _tags(facts: Facts) -> list[str]:
    kind = {"multi": ["multi-label"], "ordinal": ["ordinal"]}
    found = ["transfer-learning", *kind.get(facts.environment["label_spec"]["kind"], [])]
    return [*found, "rehearsal"] if facts.environment.get("rehearsal") else found


def base_model(weights: Mapping[str, Any]) -> str | None:
    """The hub's repository that the weights came from, if they came from there.

    >>> base_model({"source": "hf-hub:timm/resnet18.a1_in1k"})
    'timm/resnet18.a1_in1k'
    """
    found = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)", str(weights.get("source")))
    return found.group(1) if found else None


def licence_fields(weights: Mapping[str, Any]) -> dict[str, str]:
    """The hub's three fields for the licence of the weights that training started from.

    Random weights have none, so that there is nothing to say; of others it may be ``unknown``. One
    that the hub doesn't list is ``other``, and its text belongs into a file ``LICENSE``.

    >>> licence_fields({"source": "a file", "licence": "My Licence 1.0"})
    {'license': 'other', 'license_name': 'my-licence-1.0', 'license_link': 'LICENSE'}
    """
    if weights.get("source") == "random":
        return {}
    slug = re.sub(r"[^a-z0-9.+]+", "-", str(weights.get("licence") or "unknown").lower()).strip("-")
    if slug in HUB_LICENCES:
        return {"license": slug}
    name = slug if slug not in ("", "other") else "licence-of-the-weights"
    return {"license": "other", "license_name": name, "license_link": "LICENSE"}
