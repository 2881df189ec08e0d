"""What CLAIM asks of a study, answered from a run as far as a run knows.

CLAIM: Checklist for Artificial Intelligence in Medical Imaging, 2024 update, 44 items (Tejani,
Klontzas, Gatti, Mongan, Moy, Park, Kahn 2024, Radiology: Artificial Intelligence 6(4), e240300).
What each item asks is told in our own words; the publication decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.evaluation.per_class import measured_by_class

__all__ = ["ITEMS", "Facts", "write_claim"]


@dataclass(frozen=True)
class Facts:
    """What is known of a run: its files as plain values.

    Attributes:
        environment: ``environment.json``.
        settings: ``config.yaml``.
        metrics: ``metrics.json``.
        part: The part that the result is of, ``test`` or ``val``.
        intervals: As from `finetune.evaluation.intervals.compute_intervals`, of that part.
        weights_hash: SHA-256 of the chosen weights.
        divided_groups: How many groups have pictures in several parts.
        heat_maps: How many pictures of the report have a heat map.
        looks: Different configurations that were measured on these test pictures.
        fitted: ``decisions.json``, or nothing.
    """

    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    part: str
    intervals: Mapping[str, Any]
    weights_hash: str
    divided_groups: int = 0
    heat_maps: int = 0
    looks: int = 0
    fitted: Mapping[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Mapping[str, Any]:
        """What is known of the pictures."""
        return dict(self.environment["data"])

    @property
    def values(self) -> Mapping[str, Any]:
        """The metrics of the part."""
        return dict(self.metrics[self.part])

    def counts(self, part: str) -> int:
        """Class labels of a part."""
        return sum(int(row.get(part) or 0) for row in self.data["classes"].values())


Fill = Callable[[Facts], str]


def _technology(facts: Facts) -> str:
    return ("Deep learning: image classification by transfer learning, network "
            f"{facts.settings['model']['name']}.")


def _sources(facts: Facts) -> str:
    return (f"{facts.data['pictures']} pictures of {len(facts.data['classes'])} classes; "
            f"fingerprint of contents, labels and split (SHA-256) {facts.data['fingerprint']}.")


def _left_out(facts: Facts) -> str:
    data = facts.data
    return (f"{len(data.get('skipped') or [])} pictures could not be read and were left out, "
            f"{data.get('dropped', 0)} were dropped by the split"
            + (f" ({'; '.join(data['repairs'])})" if data.get("repairs") else "") + ".")


def _preprocessing(facts: Facts) -> str:
    spec = facts.environment["input_spec"]
    height, width = spec["size"]
    return (f"Resized to {height} x {width} px ({spec['resize']}, "
            f"{spec.get('interpolation', 'bilinear')}), {spec['channels']} channels of "
            f"{spec['dtype']}, scaled to 0..1 and normalised by mean {spec.get('mean')} and "
            f"standard deviation {spec.get('std')}. Augmentation in training: "
            f"{_setting(facts, 'data', 'transform')}.")


def _missing(facts: Facts) -> str:
    several = facts.environment.get("label_spec", {}).get("kind") == "multi"
    return ("Unknown labels are left out of loss and metrics. " if several
            else "Every picture has a label. ") + _left_out(facts)


def _partitions(facts: Facts) -> str:
    parts = ", ".join(f"{part} {facts.counts(part)}" for part in ("train", "val", "test"))
    return (f"Split {facts.data['split_method']!r}, seed {facts.data['split_seed']}; labels by "
            f"part: {parts}. Each picture's part is in splits.csv.")


def _disjoint(facts: Facts) -> str:
    groups, waiver = facts.data.get("groups"), facts.data.get("waiver")
    level = (f"{groups} groups (such as patients), {facts.divided_groups or 'none'} of them in "
             "several parts" if groups
             else "No groups (such as patients) were given: pictures are disjoint")
    return (f"{level}. Identical files: {facts.data.get('duplicates', 0)} sets; "
            + (f"allowed across parts, with this reason: {waiver}." if waiver
               else "none lies in two parts."))


def _sizes(facts: Facts) -> str:
    return f"{facts.values['count']} pictures in {facts.part}."


def _model(facts: Facts) -> str:
    model, spec = facts.settings["model"], facts.environment["input_spec"]
    total = facts.environment["parameters"]["total"]
    return (f"{model['name']}, {total:,} parameters, classifier {model.get('head', 'linear')}; "
            f"input {spec['channels']} x {spec['size'][0]} x {spec['size'][1]}, output a "
            f"score for each of {', '.join(facts.data['classes'])}. Depth by depth in "
            "environment.json.")


def _software(facts: Facts) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in facts.environment["versions"].items())
    commit = facts.environment.get("commit")
    hardware = facts.environment["hardware"]
    return (f"{versions}{f'; commit {commit}' if commit else ''}. Hardware: "
            f"{hardware['machine']}, {hardware['device']}.")


def _initialisation(facts: Facts) -> str:
    weights = facts.environment["weights"]
    hashed = f", SHA-256 {weights['sha256']}" if weights.get("sha256") else ""
    licence = f", licence {weights['licence']}" if weights.get("licence") else ""
    return (f"Backbone: {weights['source']}{hashed}{licence}. Classifier: random, seed "
            f"{facts.environment['seed']}.")


def _training(facts: Facts) -> str:
    wanted = (("training", "epochs"), ("data", "batch_size"), ("optimizer", "name"),
              ("optimizer", "lr"), ("optimizer", "weight_decay"), ("optimizer", "layer_decay"),
              ("schedule", "name"), ("freezing", "policy"), ("training", "label_smoothing"),
              ("training", "class_weights"), ("training", "mixup_alpha"),
              ("training", "precision"), ("data", "sampling"))
    told = ", ".join(f"{section}.{key}={_setting(facts, section, key)}" for section, key in wanted)
    return f"{told}. Every setting is in config.yaml, every epoch in history.jsonl."


def _setting(facts: Facts, section: str, key: str) -> Any:
    return (facts.settings.get(section) or {}).get(key, "default")


def _selection(facts: Facts) -> str:
    chosen = facts.metrics["selection"]
    return (f"Epoch {chosen['epoch']}, by {chosen['metric']} on the validation part "
            f"({_number(chosen['value'])}){_mixed(facts)}; the test part had no say in this run.")


def _mixed(facts: Facts) -> str:
    mixed = facts.metrics.get("wise_ft")
    return "" if mixed is None else (
        f"; then interpolated with the starting weights (WiSE-FT), coefficient "
        f"{mixed['coefficient']:g} of {len(mixed['val'])} tried, chosen by the same")


def _ensembling(facts: Facts) -> str:
    decay = _setting(facts, "training", "ema_decay")
    means = ([] if decay in (None, "default")
             else [f"an exponential moving average, decay {decay}"])
    means += [] if facts.metrics.get("wise_ft") is None else ["a mean with the starting ones"]
    return f"None; the weights are {', and '.join(means)}." if means else "None."


def _named_metrics(facts: Facts) -> str:
    names = [k for k, v in facts.values.items() if isinstance(v, float)]
    return f"{', '.join(names)}, and per class; epochs were chosen by " \
           f"{facts.metrics['selection']['metric']}."


def _uncertainty(facts: Facts) -> str:
    methods = sorted({entry["method"] for entry in facts.intervals.values()
                      if isinstance(entry, Mapping) and entry.get("method")})
    return (f"{100 * facts.intervals['confidence']:g} % intervals ({'; '.join(methods)}); groups "
            "are accounted for where they are known.")


def _robustness(facts: Facts) -> str:
    columns = facts.metrics.get("subgroups", {}).get("columns", {})
    lines = [f"{name}: worst {entry['worst']['value']} ("
             f"{100 * entry['worst']['against_expected']:+.1f} points against what its classes "
             f"let expect, {_chance(entry.get('test'))})"
             for name, entry in columns.items() if entry.get("worst")]
    return f"By subgroup: {'; '.join(lines)}." if lines else ""


def _chance(test: Mapping[str, Any] | None) -> str:
    if not test:
        return "not tested"
    word = "more than chance" if test["more_than_chance"] else "within chance"
    return f"{word}, p = {test['p_holm']:.2g}"


def _explained(facts: Facts) -> str:
    return (f"Grad-CAM (Selvaraju 2017): heat maps of {facts.heat_maps} pictures of the report, "
            "among its worst mistakes and surest right answers." if facts.heat_maps else "")


def _internal(facts: Facts) -> str:
    if facts.part == "val":
        return ("There is no test part: the numbers are of validation pictures, which also chose "
                "the epoch, and flatter.")
    return (f"Test part, {facts.values['count']} pictures; in this run it was measured after "
            "training and chose nothing."
            + (f" {facts.looks} different configurations were measured on these pictures so far, "
               "of which the best looks better than it is." if facts.looks > 1 else ""))


def _external(facts: Facts) -> str:
    site = _setting(facts, "data", "test_site")
    return ("" if facts.data["split_method"] != "site" else
            f"Tested on site {site}, of which no picture was trained on.")


def _numbers(facts: Facts) -> str:
    groups = facts.data.get("groups")
    return (f"{facts.data['pictures']} pictures"
            + (f" of {groups} groups" if groups else "") + f". {_left_out(facts)}")


def _classes(facts: Facts) -> str:
    rows = "; ".join(f"{name}: " + ", ".join(f"{part} {row.get(part, 0)}" for part in
                                             ("train", "val", "test"))
                     for name, row in facts.data["classes"].items())
    return f"Classes by part: {rows}."


def _performance(facts: Facts) -> str:
    wanted = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision",
              "log_loss")
    return _measured(facts.values, facts.intervals, wanted, facts.part)


def _diagnostic(facts: Facts) -> str:
    if "positive" in facts.values:
        name = facts.values["positive"]["class"]
        return _measured(facts.values["positive"], facts.intervals.get("positive", {}),
                         ("sensitivity", "specificity", "ppv", "npv"), f"{facts.part}, {name}")
    rows = [_measured(row, facts.intervals["per_class"][name], ("recall", "specificity"), name)
            for name, row in list(measured_by_class(dict(facts.values)).items())[:30]]
    left = len(facts.values["per_class"]) - len(rows)
    return " ".join([*rows, *([f"{left} more classes are in metrics.json."] if left else [])])


def _measured(values: Mapping[str, Any], intervals: Mapping[str, Any], wanted: Sequence[str],
              of: str) -> str:
    told = [f"{name.replace('_', ' ')} {_number(values[name])}{_ends(intervals.get(name))}"
            for name in wanted if name in values]
    return f"{of}: {', '.join(told)}."


def _ends(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry.get("low") is None:
        return " (no interval)"
    doubt = "" if entry.get("reliable") else f"; unreliable: {entry.get('why')}"
    return f" ({entry['low']:.3f} to {entry['high']:.3f}{doubt})"


def _number(value: Any) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _failures(facts: Facts) -> str:
    return ("The surest wrong answers are in report.html with their pictures, all answers in "
            "predictions/, the confusion matrix in metrics.json.")


def _details(facts: Facts) -> str:
    return (f"The command was: {facts.environment['command']}. Settings and split are in this "
            "archive.")


def _availability(facts: Facts) -> str:
    return f"Chosen weights: checkpoints/best.safetensors, SHA-256 {facts.weights_hash}."


# number, section, what is asked, what fills it, what a person has to add (empty: nothing)
ITEMS: tuple[tuple[int, str, str, Fill | None, str], ...] = (
    (1, "Title, abstract", "named as a study of AI, with the technology", _technology, "the title"),
    (2, "Title, abstract", "summary of design, methods, results, conclusions", None, "all of it"),
    (3, "Introduction", "background; intended use and role of the AI", None, "all of it"),
    (4, "Introduction", "aims, objectives, hypotheses", None, "all of it"),
    (5, "Study design", "prospective or retrospective", None, "which"),
    (6, "Study design", "goal of the study", None, "the goal"),
    (7, "Data", "sources of the data", _sources, "institutions, dates, access"),
    (8, "Data", "inclusion and exclusion criteria", _left_out, "the criteria"),
    (9, "Data", "preprocessing", _preprocessing, "what was done before the files were made"),
    (10, "Data", "selection of subsets of the data", _left_out, "whether files are a selection"),
    (11, "Data", "de-identification", None, "the method"),
    (12, "Data", "handling of missing data", _missing, "missing clinical data"),
    (13, "Data", "protocol of image acquisition", None, "devices, settings"),
    (14, "Reference standard", "how it was obtained", None, "the method"),
    (15, "Reference standard", "why it was chosen", None, "the reason"),
    (16, "Reference standard", "who annotated", None,
     "people, qualification, their instructions and training material"),
    (17, "Reference standard", "annotation of the test set", None, "how, and by whom"),
    (18, "Reference standard", "agreement within and between annotators", None, "measures of it"),
    (19, "Data partitions", "how data were assigned", _partitions,
     "reasons for the proportions; how imbalance of classes was handled"),
    (20, "Data partitions", "level at which partitions are disjoint", _disjoint,
     "whether the groups are patients"),
    (21, "Testing data", "intended sample size and its reason", _sizes,
     "the reason, such as a calculation of power"),
    (22, "Model", "description of the model", _model, ""),
    (23, "Model", "software and versions", _software, ""),
    (24, "Model", "initialisation of parameters", _initialisation, ""),
    (25, "Training", "details of training", _training, ""),
    (26, "Training", "selection of the final model", _selection, ""),
    (27, "Training", "ensembling", _ensembling, ""),
    (28, "Evaluation", "metrics of performance", _named_metrics,
     "why these; a comparison with published models"),
    (29, "Evaluation", "significance and uncertainty", _uncertainty, ""),
    (30, "Evaluation", "robustness or sensitivity analysis", _robustness, "further analyses"),
    (31, "Evaluation", "explainability or interpretability", _explained,
     "the method, if another; how it was validated"),
    (32, "Evaluation", "evaluation on internal data", _internal, ""),
    (33, "Evaluation", "testing on external data", _external, "external data, or their lack"),
    (34, "Evaluation", "clinical trial registration", None, "number, if any"),
    (35, "Results: data", "numbers included and excluded", _numbers,
     "numbers before the files were chosen; a flow diagram"),
    (36, "Results: data", "demographic and clinical characteristics by partition", _classes,
     "age, sex, clinical facts"),
    (37, "Results: performance", "metrics with their uncertainty", _performance, ""),
    (38, "Results: performance", "diagnostic performance and its precision", _diagnostic, ""),
    (39, "Results: performance", "analysis of failures", _failures, "what they have in common"),
    (40, "Discussion", "limitations", None, "all of it"),
    (41, "Discussion", "implications for practice, intended use", None, "all of it"),
    (42, "Other", "full protocol or additional technical details", _details, "the protocol"),
    (43, "Other", "availability of software, model, data", _availability, "where, for whom"),
    (44, "Other", "funding and the role of funders", None, "all of it"),
)

HEAD = """# CLAIM 2024

The 44 items of the Checklist for Artificial Intelligence in Medical Imaging, 2024 update (Tejani et
al. 2024, Radiology: Artificial Intelligence 6(4), e240300), in our own words; the publication
decides. **known**: told by the run. **partly**: told as far as the run knows, a person has to add
the rest. **open**: only a person knows.

{count}
"""


def write_claim(facts: Facts) -> str:
    """The list as Markdown: each item with what the run knows and what a person has to add."""
    answers = [(*item, "" if item[3] is None else item[3](facts)) for item in ITEMS]
    states = [_state(known, left) for *_, left, known in answers]
    lines, section = [_head(facts, states)], ""
    for (number, part, asks, _, left, known), state in zip(answers, states, strict=True):
        if part != section:
            lines.append(f"\n## {part}\n")
            section = part
        lines.append(f"- **{number}. {asks}** ({state})")
        lines += [f"  - {_plain(known)}"] if known else []
        lines += [f"  - Open: {left}."] if left else []
    return "\n".join(lines) + "\n"


def _state(known: str, left: str) -> str:
    return "open" if not known else "partly" if left else "known"


def _head(facts: Facts, states: Sequence[str]) -> str:
    count = ", ".join(f"{states.count(s)} {s}" for s in ("known", "partly", "open")) + "."
    if facts.environment.get("rehearsal"):
        count += ("\n\n**REHEARSAL on generated pictures: these numbers say nothing about real "
                  "data.**")
    return HEAD.format(count=count).rstrip()


def _plain(text: str) -> str:
    """On one line, with what Markdown would take for markup or HTML disarmed."""
    return " ".join(text.split()).replace("<", "&lt;").replace("*", "\\*").replace("`", "\\`")
