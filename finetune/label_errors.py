"""Which labels of a run's pictures are probably wrong, told by features that never saw a label."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune import session
from finetune.assembly import Data, assemble_data, assemble_model, input_spec
from finetune.config import Config, Head, Loss
from finetune.console import progress_bar, say, table
from finetune.data.samples import Samples
from finetune.data.unions import joined
from finetune.devices import compute_exactly
from finetune.environment import refuse_other_data
from finetune.errors import ConfigurationError, DataError, InputError
from finetune.evaluation.label_errors import Suspect, rank_labels
from finetune.files import safe_cell, write_text
from finetune.method import build_method
from finetune.models.architectures import ARCHITECTURES
from finetune.models.depths import layer_depths
from finetune.models.prefix import CannotCut, build_prefix, find_boundary
from finetune.report.suspects import write_suspects
from finetune.run_directory import RunDirectory
from finetune.specs import LabelKind, LabelSpec
from finetune.training.head_fit import fit_head, split_folds

__all__ = ["find_mislabeled", "frozen_features", "out_of_fold_probabilities"]

COLUMNS = ("rank", "path", "part", "given", "suggested", "self_confidence", "margin", "flagged")


def find_mislabeled(run: RunDirectory, *, model: str | None = None, weights: str | None = None,
                    folds: int = 5) -> list[Suspect]:
    """Rank the labels of all pictures of a run by doubt; write ``mislabeled.csv`` and ``.html``.

    The features are those of the weights that the run started from: the chosen ones were trained
    on these very labels, wrong ones included, and would defend them. Pictures of a group, and
    identical ones, are in one fold. The pictures of all parts are judged, test too: nothing of it
    reaches the run.

    Args:
        run: Its pictures, split and network.
        model: Another network for the features.
        weights: Other weights to start from.
        folds: Of the cross-validation.

    Raises:
        InputError: The data changed, too few groups, or the run started from random weights.
    """
    config = _for_features(run.config, model, weights)
    device = session.choose_device(config.device.value)
    session.set_up_process(None)
    compute_exactly(device)
    with progress_bar("reading pictures", total=0) as done:
        data = assemble_data(config, config.data.root or str(run.path / "pictures"), progress=done)
    refuse_other_data(data, run.whole_environment)
    features, samples, parts = frozen_features(config, data, device)
    probabilities = out_of_fold_probabilities(
        features, samples.labels, label_spec=samples.label_spec, folds=folds,
        groups=_inseparable(samples, data), seed=config.seed)
    suspects = rank_labels(samples.labels, probabilities, label_spec=samples.label_spec)
    _write(run.path, data, _rows(suspects, samples, parts), config, _unjudged(probabilities))
    return suspects


def out_of_fold_probabilities(features: Tensor, labels: Any, *, label_spec: LabelSpec,
                              groups: Sequence[Any] | None = None, folds: int = 5,
                              seed: int = 0) -> np.ndarray:
    """(N, K) probabilities by logistic regressions that were fitted without the picture's group.

    The penalty is chosen once, by cross-validation over all rows: one number, which says nothing
    about any single label. NaN where the other folds never showed the class: of single labels the
    whole row, of several the entry.

    Args:
        features: (N, D).
        labels: (N,) class indices, or (N, K) of 0, 1 and NaN = unknown.
        label_spec: Decides between the two.
        groups: (N,) of anything; rows of a group stay in one fold.
        folds: At most; fewer where classes or groups are too few.
        seed: Of the folds.

    Raises:
        DataError: There are too few rows, groups or classes for two folds.
    """
    labels = np.asarray(labels)
    parts = split_folds(labels, label_spec=label_spec, groups=groups, folds=folds, seed=seed)
    if not parts:
        raise DataError("labels can't be judged: there are too few pictures, groups or classes to "
                        "predict some from others")
    strength = fit_head(features, labels, label_spec=label_spec, groups=groups, folds=folds,
                        seed=seed).strength
    found = np.full((len(labels), label_spec.output_width), np.nan)
    for fit, held in parts:
        head = fit_head(features[fit], labels[fit], label_spec=label_spec, strengths=[strength])
        logits = (features[held] @ head.weight.T + head.bias).double()
        several = label_spec.kind is LabelKind.multi
        answers = (logits.sigmoid() if several else logits.softmax(dim=1)).numpy()
        if several:
            seen = ((labels[fit] == 0).any(axis=0) & (labels[fit] == 1).any(axis=0))
            answers[:, ~seen] = np.nan
        else:
            answers[~np.isin(labels[held], labels[fit])] = np.nan
        found[held] = answers
    return found


def _for_features(config: Config, model: str | None, weights: str | None) -> Config:
    """The run's configuration with a plain classifier, and the network that is asked for."""
    start = weights or config.model.weights
    if start is None:
        raise InputError("this run started from random weights, whose features tell nothing about "
                         "labels: name others, such as --weights packaged or --model NAME "
                         "--weights FILE")
    return replace(
        config, model=replace(
            config.model, name=model or ARCHITECTURES.get(weights or "", config.model.name),
            weights=start, head=Head.linear),
        training=replace(config.training, loss=Loss.labels, ema_decay=None),
        data=replace(config.data, views=1))


def frozen_features(config: Config, data: Data, device: torch.device,
                    ) -> tuple[Tensor, Samples, list[str]]:
    """(N, D) what enters the classifier, the pictures in that order, and their parts.

    Raises:
        ConfigurationError: The network can't be cut before its classifier.
    """
    model, weights = assemble_model(config, channels=data.channels,
                                    class_names=data.samples.label_spec.class_names)
    say(f"features of {config.model.name}, {weights.source}, as they were before this training")
    spec = input_spec(config, data, model, weights)
    method = build_method(config, model.to(device), data, spec, device)
    model.eval()
    try:
        boundary = find_boundary(model, max(layer_depths(model).values()), method.example)
    except CannotCut as error:
        raise ConfigurationError(f"{error}: name another network with --model") from error
    prefix = build_prefix(model, boundary, images=method.example)
    order = np.concatenate([np.flatnonzero(data.split.names == part) for part in data.parts])
    rows: list[Tensor] = []
    with progress_bar("computing features", total=len(order)) as done:
        for part in data.parts:
            for images, _, _ in method.ordered(part, augmented=False):
                rows.append(prefix(method.prepare(images)).flatten(1).float().cpu())
                done(sum(map(len, rows)))
    return (torch.cat(rows), data.samples.select(order.tolist()),
            [str(name) for name in data.split.names[order]])


def _inseparable(samples: Samples, data: Data) -> list[int]:
    """A number for each picture, the same for pictures of a group and for identical ones."""
    place = {name: number for number, name in enumerate(samples.ids)}
    copies = [[place[data.samples.ids[i]] for i in group if data.samples.ids[i] in place]
              for group in data.duplicates]
    members: dict[str, list[int]] = {}
    for number, group in enumerate(samples.groups or []):
        members.setdefault(group, []).append(number)
    found = [0] * len(samples)
    sets = [chosen for chosen in [*copies, *members.values()] if chosen]
    for number, union in enumerate(joined(len(samples), sets)):
        for member in union:
            found[member] = number
    return found


def _unjudged(probabilities: np.ndarray) -> int:
    return int(np.isnan(probabilities).any(axis=1).sum())


def _rows(suspects: Sequence[Suspect], samples: Samples,
          parts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"rank": rank, "path": samples.ids[s.row], "part": parts[s.row], "given": s.given,
             "suggested": s.suggested, "self_confidence": s.self_confidence, "margin": s.margin,
             "flagged": s.flagged} for rank, s in enumerate(suspects, 1)]


def _write(folder: Path, data: Data, rows: Sequence[dict[str, Any]], config: Config,
           unjudged: int) -> None:
    """The CSV of all labels, the page of those that are flagged, and what is said."""
    text = io.StringIO()
    plain = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    plain.writeheader()
    for row in rows:
        told = {**row, "self_confidence": f"{row['self_confidence']:.4f}",
                "margin": f"{row['margin']:.4f}", "flagged": "yes" if row["flagged"] else "no"}
        plain.writerow({key: safe_cell(value) for key, value in told.items()})
    write_text(folder / "mislabeled.csv", text.getvalue())
    flagged = [row for row in rows if row["flagged"]]
    title = f"{len(flagged)} of {len(rows)} labels are probably wrong"
    notes = [f"Found by confident learning on frozen features of {config.model.name} "
             f"({config.model.weights}), cross-validated, the most doubtful first. It is a list to "
             "look through, not to delete from: pictures of rare kinds are on it too."]
    if unjudged:
        notes.append(f"{unjudged} pictures could not be judged in whole: no other fold has their "
                     "class.")
    shown = write_suspects(folder / "mislabeled.html", flagged, title=title, notes=notes,
                           read_picture=lambda name: session.picture_for_report(
                               data.samples.source, name))
    say(title)
    pairs = Counter((row["given"], row["suggested"]) for row in flagged).most_common(10)
    if pairs:
        table("most often", ["label", "looks like", "pictures"], [[*p, n] for p, n in pairs])
    say(f"wrote {folder / 'mislabeled.html'} ({shown} pictures) and {folder / 'mislabeled.csv'}")
