"""How many wrong labels are found: planted ones, in a folder of class folders such as RSSCN7.

    python benchmarks/planted_labels.py --data DIR

In each round 5 % and 10 % of the pictures get a wrong label: `any` other class, all alike likely,
or the class that the network, asked with the right labels, takes for the likeliest other one
(`alike`), as a person would confuse them. Then the labels are ranked as `python -m finetune
mislabeled` does it. Recall is the share of planted errors that is flagged, precision the share of
what is flagged that was planted; "recall at n" is among as many labels as were planted, from the
top. Average precision is of the ranking, and, beside it, by margin and by self-confidence alone.
Row `none` counts what is flagged in the labels as they come: errors of the data's own, and pictures
that are hard; they make precision smaller than it is.
"""

import argparse
from pathlib import Path
from typing import Any

import measuring
import numpy as np

NETWORKS = (("packaged", 96), ("bundled", 64))
COLUMNS = ("network", "pixels", "planted", "kind", "flagged", "recall", "precision", "recall_at_n",
           "average_precision", "by_margin", "by_self_confidence", "class_named")


def main() -> None:
    """Plant, rank, print a table, write JSON."""
    options = parse()
    rows = [row for weights, size in NETWORKS for row in of_network(options, weights, size)]
    result = {"machine": measuring.describe_machine(("torch", "timm", "numpy", "scikit-learn")),
              "rounds": options.rounds, "rows": rows}
    measuring.report(options, result, measuring.markdown(
        COLUMNS, [[row.get(column) for column in COLUMNS] for row in rows]))


def parse() -> argparse.Namespace:
    """The options."""
    parser = measuring.parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--rounds", type=int, default=3, help="seeds; medians are reported")
    return parser.parse_args()


def of_network(options: argparse.Namespace, weights: str, size: int) -> list[dict[str, Any]]:
    """A row for each kind and share of planted errors."""
    from finetune.evaluation.label_errors import rank_labels
    from finetune.label_errors import out_of_fold_probabilities

    features, labels, spec = read_features(options.data, weights, size)
    clean = out_of_fold_probabilities(features, labels, label_spec=spec)
    flagged = sum(s.flagged for s in rank_labels(labels, clean, label_spec=spec))
    about = {"network": weights, "pixels": size}
    rows: list[dict[str, Any]] = [{**about, "planted": 0, "kind": "none", "flagged": flagged}]
    for share in (0.05, 0.10):
        for kind in ("any", "alike"):
            rounds = [measured(features, labels, clean, spec, share, kind, seed)
                      for seed in range(options.rounds)]
            rows.append({**about, "kind": kind, **measuring.medians(rounds), "each": rounds})
    return rows


def read_features(root: Path, weights: str, size: int) -> tuple[Any, Any, Any]:
    """Features (N, D), labels (N,), and what they are."""
    import torch

    from finetune.assembly import assemble_data
    from finetune.composition import compose
    from finetune.label_errors import frozen_features
    from finetune.models.architectures import ARCHITECTURES

    config = compose([f"data.root={root}", f"model.name={ARCHITECTURES[weights]}",
                      f"model.weights={weights}", f"data.image_size={size}", "data.workers=0",
                      "data.duplicates=regroup"]).config
    data = assemble_data(config, str(root))
    features, samples, _ = frozen_features(config, data, torch.device("cpu"))
    return features, samples.labels, samples.label_spec


def measured(features: Any, labels: Any, clean: Any, spec: Any, share: float, kind: str,
             seed: int) -> dict[str, Any]:
    """Plant errors and say how well they are found."""
    from finetune.evaluation.label_errors import rank_labels
    from finetune.label_errors import out_of_fold_probabilities

    planted, wrong = plant(labels, clean, share, kind, seed)
    found = out_of_fold_probabilities(features, planted, label_spec=spec, seed=seed)
    return score(rank_labels(planted, found, label_spec=spec), wrong, labels, spec)


def plant(labels: Any, clean: Any, share: float, kind: str, seed: int) -> tuple[Any, Any]:
    """Labels (N,) with errors, and (N,) bool where these are.

    >>> labels, wrong = plant(np.zeros(10, int), np.tile([.5, .2, .3], (10, 1)), .2, "alike", 0)
    >>> labels[wrong].tolist()
    [2, 2]
    """
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels), round(share * len(labels)), replace=False)
    other = (labels + random.integers(1, clean.shape[1], len(labels))) % clean.shape[1]
    if kind == "alike":
        rest = clean.copy()
        rest[np.arange(len(labels)), labels] = -1
        other = rest.argmax(axis=1)
    planted, wrong = labels.copy(), np.zeros(len(labels), bool)
    planted[rows], wrong[rows] = other[rows], True
    return planted, wrong


def score(suspects: Any, wrong: Any, labels: Any, spec: Any) -> dict[str, Any]:
    """Recall, precision, and average precision of a ranking."""
    from sklearn.metrics import average_precision_score

    rows = np.array([s.row for s in suspects])
    hits, flagged = wrong[rows], np.array([s.flagged for s in suspects])
    count = int(wrong.sum())
    named = [spec.class_names[labels[s.row]] == s.suggested for s in suspects
             if s.flagged and wrong[s.row]]
    return {"planted": count, "flagged": int(flagged.sum()),
            "recall": float(hits[flagged].sum() / count), "precision": float(hits[flagged].mean()),
            "recall_at_n": float(hits[:count].mean()),
            "average_precision": float(average_precision_score(hits, -np.arange(len(hits)))),
            "by_margin": float(average_precision_score(hits, [-s.margin for s in suspects])),
            "by_self_confidence": float(average_precision_score(
                hits, [-s.self_confidence for s in suspects])),
            "class_named": float(np.mean(named))}


if __name__ == "__main__":
    main()
