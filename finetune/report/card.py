"""A model card as Markdown: what a run knows, and marks where only a person does.

Sections after Mitchell et al. 2019 (arXiv 1810.03993). Whatever comes from a run is escaped: it is
shown as it is, and is never markup.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from finetune.evaluation.per_class import measured_by_class
from finetune.report.answers import HEADLINE
from finetune.report.card_limits import find_limits
from finetune.report.card_metadata import (
    base_model,
    card_metadata,
    data_name,
    licence_fields,
    metric_title,
)
from finetune.report.claim import Facts
from finetune.report.drawing import metric_titles
from finetune.report.html import SPLITS
from finetune.report.markdown import escape_markdown
from finetune.report.mistakes import find_confusions
from finetune.report.page import number

__all__ = ["MARK", "left_for_a_person", "render_card"]

MARK = "> **To be filled in by a person:** "
MOST_CLASSES = 40  # rows of a table by class
CONFUSIONS = 5
COLUMNS = {"support": "pictures", "recall": "recall (sensitivity)", "specificity": "specificity",
           "precision": "precision (PPV)", "roc_auc": "ROC-AUC"}
PARTS = {"train": "training", "val": "validation", "test": "test"}


def render_card(facts: Facts, *, name: str, history: Sequence[Mapping[str, Any]] = (),
                warnings: Sequence[str] = ()) -> str:
    """The card: metadata for the Hugging Face hub, then Markdown.

    Args:
        facts: The run's.
        name: The run's.
        history: One entry for each epoch.
        warnings: What the run warned of, without names of pictures.

    Raises:
        InputError: huggingface_hub is not installed.
    """
    values, weights = facts.values, facts.environment["weights"]
    return _environment().get_template("card.md.jinja").render(
        metadata=Markup(card_metadata(facts, name)), mark=Markup(MARK), name=name,
        environment=facts.environment, data=facts.data, settings=facts.settings,
        metrics=facts.metrics, subgroups=facts.metrics.get("subgroups", {}).get("columns", {}),
        decisions=facts.metrics.get("decisions", {}), values=values,
        intervals=facts.intervals, facts=facts, spec=facts.environment["input_spec"],
        labels=facts.environment["label_spec"], weights=weights, history=history,
        seconds=sum(entry.get("seconds") or 0.0 for entry in history),
        trained=len({d for entry in history for d in entry.get("trainable_depths", [])}),
        fits=[entry["fit"] for entry in history if entry.get("fit")], warnings=warnings,
        data_name=data_name(facts), base_model=base_model(weights),
        licence=licence_fields(weights), limits=find_limits(facts), splits=SPLITS, parts=PARTS,
        part=PARTS[facts.part], titles=metric_titles(single="balanced_accuracy" in values),
        shortcuts=facts.metrics.get("shortcuts", []), headline=_headline(facts), columns=COLUMNS,
        confusions=_confusions(values), seen=facts.data.get("training_pictures"),
        **_classes(facts))


def left_for_a_person(card: str) -> list[str]:
    """What is marked in a card as a person's to fill in, in its order."""
    lines = [line.removeprefix(MARK) for line in card.splitlines() if line.startswith(MARK)]
    return [line.partition(".")[0] for line in lines]


def _headline(facts: Facts) -> dict[str, str]:
    wanted = (*HEADLINE, "log_loss", "brier", "ece")
    return {key: metric_title(facts, key) for key in wanted if key in facts.values}


def _classes(facts: Facts) -> dict[str, Any]:
    """Rows by class; of many classes those that are recognised least."""
    measured = measured_by_class(dict(facts.values))
    worst = sorted(measured, key=lambda name: measured[name]["f1"] or 0.0)[:MOST_CLASSES]
    counts: Mapping[str, Any] = facts.data["classes"]
    return {"per_class": {name: row for name, row in measured.items() if name in set(worst)},
            "counts": dict(list(counts.items())[:MOST_CLASSES]),
            "more_classes": max(0, len(counts) - MOST_CLASSES),
            "totals": {part: facts.counts(part) for part in PARTS}}


def _confusions(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    single = "balanced_accuracy" in values
    return find_confusions(dict(values), count=CONFUSIONS) if single else []


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, finalize=_shown, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, undefined=jinja2.ChainableUndefined,
        loader=jinja2.PackageLoader("finetune", "report"))
    environment.filters |= {"number": _number, "short": lambda value: Markup(f"{value:g}")}
    return environment


def _shown(value: Any) -> Markup:
    """What an expression of the template becomes; only what is `Markup` already stays as it is."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, jinja2.Undefined):  # of an "if" without "else"
        return Markup()
    return Markup(escape_markdown(value)) if isinstance(value, str) else _number(value)


def _number(value: Any) -> Any:
    """As on every page; text stays text, which is escaped later."""
    return value if isinstance(value, str) else Markup(number(value))
