"""``audit DIR``: what is wrong with pictures, in the terminal, as JSON and as a page."""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.assembly import cache_folder, read_labelled
from finetune.composition import compose
from finetune.config import DataConfig, Duplicates, SplitChoice
from finetune.console import progress_bar, say, table
from finetune.data.audit import find_faults, same_units, tables
from finetune.data.cue_words import MOST_CLASSES
from finetune.data.cues import cues_of
from finetune.data.descriptors import describe_pictures
from finetune.data.findings import Collection, Finding, Level
from finetune.data.hashing import Descriptors
from finetune.data.keeping_together import keep_together
from finetune.data.near_duplicates import NearPair, find_near_duplicates, near_duplicate_groups
from finetune.data.place_leaks import near_sets
from finetune.data.samples import Samples
from finetune.data.scanning import PictureFacts, duplicate_groups, scan_pictures
from finetune.data.shortcuts import PERMUTATIONS, CueResult, choose_sample, find_shortcuts
from finetune.data.splits import class_counts, write_splits
from finetune.dividing import divide, places_of
from finetune.errors import ConfigurationError, DataError, InputError, first_of
from finetune.files import write_json
from finetune.report.audit_page import write_audit_page

__all__ = ["audit", "collect", "write_fixed_splits"]

_THREADS = min(16, os.cpu_count() or 2)


def audit(root: str, words: Sequence[str] = (), *, labels: str | None = None,
          output: Path | None = None, fix_splits: Path | None = None, near: bool = True) -> Path:
    """Look at pictures, print findings, write ``audit.json`` and ``audit.html``.

    Args:
        root: As ``data.root``.
        words: ``data.*=value``, as for training.
        labels: A CSV file with labels.
        output: Folder of both files; None: ``audit/NAME`` in the current one.
        fix_splits: A new splits file in which duplicates and groups are kept together.
        near: Whether near-duplicates are looked for.

    Returns:
        The page.

    Raises:
        InputError: The words, the folder or a target make no sense; nothing was written.
    """
    config = _settings(root, words, labels)
    folder = output or Path("audit") / (Path(root).resolve().name or "root")
    _check_targets(folder, fix_splits)
    data = collect(config, root, near=near)
    findings = find_faults(data)
    _print(data, findings)
    write_json(folder / "audit.json", _plain(root, data, findings))
    page = write_audit_page(folder / "audit.html", Path(root).resolve().name, data, findings,
                            tables(data))
    say(f"wrote {page} and {folder / 'audit.json'}")
    if fix_splits is not None:
        write_fixed_splits(fix_splits, config, data)
    return page


def _settings(root: str, words: Sequence[str], labels: str | None) -> DataConfig:
    keys = [word.partition("=")[0] for word in words]
    idle = [key for key in keys if key.partition(".")[0] not in ("data", "recipe")]
    if idle:
        raise ConfigurationError(f"{', '.join(idle)} can't change an audit: expected keys of "
                                 "data.*, or recipe=NAME")
    if "data.root" in keys:
        raise ConfigurationError(f"data.root is given twice: as {root} and as a word")
    file = [] if labels is None else [f"data.labels_file={_found_labels(labels, root)}"]
    config = compose([f"data.root={root}", *file, *words]).config.data
    if config.split is SplitChoice.kfold and config.fold is None:
        return replace(config, fold=1)
    return config


def _found_labels(labels: str, root: str) -> str:
    """A path in the current folder, else relative to the root."""
    here = Path(labels).expanduser()
    if not here.is_file() and not (Path(root) / labels).is_file():
        raise DataError(f"--labels {labels} is neither in the current folder nor in {root}")
    return str(here.resolve()) if here.is_file() else labels


def _check_targets(folder: Path, fix_splits: Path | None) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file; expected a folder, or a new name")
    if fix_splits is not None and fix_splits.exists():
        raise InputError(f"--fix-splits {fix_splits} exists; choose another name or remove it "
                         "first")


def collect(config: DataConfig, root: str, *, near: bool = True) -> Collection:
    """Read, compare and measure everything; shows progress on a terminal.

    Raises:
        DataError: No pictures, no labels, or none that can be read.
    """
    samples, notes = read_labelled(config, root)
    cache = cache_folder()
    with _bar("reading", len(samples)) as done:
        facts = scan_pictures(samples.source, samples.ids, cache=cache, progress=done,
                              threads=_THREADS)
    broken = [(_printable(samples.ids[i]), f.error) for i, f in enumerate(facts)
              if f.error is not None]
    good = [i for i, fact in enumerate(facts) if fact.error is None]
    if not good:
        raise DataError(f"none of the {len(facts)} pictures can be read, the first because: "
                        f"{broken[0][0]}: {broken[0][1]}")
    samples, facts = samples.select(good), [facts[i] for i in good]
    duplicates = duplicate_groups(facts)
    descriptors, pairs = (_near(samples, facts, duplicates, cache) if near else (None, None))
    together = [*duplicates, *near_duplicate_groups(pairs or [], len(samples))]
    return Collection(samples, facts, duplicates, broken, pairs, descriptors,
                      _cues(samples, facts, together), [*notes, *_left_out(samples, near)],
                      places_of(config, samples), config.block_buffer)


@contextmanager
def _bar(text: str, total: int) -> Iterator[Callable[[int], object]]:
    with progress_bar(text, total) as done:
        yield done


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _left_out(samples: Samples, near: bool) -> list[str]:
    told = [] if near else ["near-duplicates, blank and outlying pictures were not looked for "
                            "(--no-near)"]
    if not samples.label_spec.is_exclusive:
        told.append("shortcuts were not looked for: pictures have several labels")
    return told


def _near(samples: Samples, facts: Sequence[PictureFacts], duplicates: Sequence[Sequence[int]],
          cache: Path) -> tuple[Descriptors, list[NearPair]]:
    """Descriptors, and pairs beyond identical pictures."""
    with _bar("describing", len(samples)) as done:
        described = describe_pictures(samples.source, samples.ids, [f.byte_hash for f in facts],
                                      cache=cache, threads=_THREADS, progress=done)
    with _bar("comparing", 2 * len(samples)) as done:
        pairs = find_near_duplicates(described, progress=lambda now, whole: done(now))
    known = {index: number for number, members in enumerate(duplicates) for index in members}
    return described, [p for p in pairs
                       if known.get(p.first, -1) != known.get(p.second, -2)]


def _cues(samples: Samples, facts: Sequence[PictureFacts],
          together: Sequence[Sequence[int]]) -> list[CueResult]:
    if not samples.label_spec.is_exclusive:
        return []
    sample = choose_sample(samples.ids, samples.labels)
    cues = cues_of(samples.ids, facts)
    with _bar("looking for shortcuts", PERMUTATIONS) as done:
        return find_shortcuts(cues, samples.labels, same_units(samples, together),
                              samples.label_spec.class_names, sample=sample, progress=done)


def _print(data: Collection, findings: Sequence[Finding]) -> None:
    counts = tables(data)["classes"]
    parts = list(next(iter(counts.values())))
    table(f"{len(data.samples):,} pictures", ["class", *parts],
          [[name, *row.values()] for name, row in list(counts.items())[:40]])
    if len(counts) > 40:
        say(f"and {len(counts) - 40} more classes")
    if data.cues:
        table("how well the label can be told without content", [
            "from", "balanced accuracy", "95 % interval", "chance", "p", "verdict"],
            [[c.name, f"{c.balanced_accuracy:.2f}", f"{c.interval[0]:.2f}-{c.interval[1]:.2f}",
              f"{c.chance:.2f}", f"{c.p_value:.2g}", c.verdict.value] for c in data.cues])
    for finding in findings:
        say(f"{finding.level.value}: {finding.text}")
        for line in finding.details[:8]:
            say(f"    {line}")
        if len(finding.details) > 8:
            say(f"    and {len(finding.details) - 8} more")
    counts_of = {level.value: sum(f.level is level for f in findings) for level in Level}
    say(", ".join(f"{n} {level}{'s' * (n != 1)}" for level, n in counts_of.items()))


def _plain(root: str, data: Collection, findings: Sequence[Finding]) -> dict[str, Any]:
    """What ``audit.json`` holds."""
    ids = [_printable(name) for name in data.samples.ids]
    return {
        "root": str(Path(root).resolve()), "pictures": len(ids), "broken": len(data.broken),
        "findings": [{"level": f.level.value, "key": f.key, "text": f.text,
                      "details": list(f.details),
                      "pictures": [[ids[i] for i in members] for members in f.pictures]}
                     for f in findings],
        "cues": [{**asdict(c), "interval": list(c.interval)} for c in data.cues],
        "identical": [[ids[i] for i in members] for members in data.duplicates],
        "near_duplicates": None if data.pairs is None else [
            {"first": ids[p.first], "second": ids[p.second], "certain": p.certain,
             "correlation": round(p.correlation, 4), "detail": round(p.detail, 4),
             "transform": p.transform} for p in data.pairs],
        "tables": tables(data)}


def write_fixed_splits(path: Path, config: DataConfig, data: Collection) -> Path:
    """Write a splits file with duplicates, certain near ones, groups and near places together.

    A given split is changed as little as possible: what lies across goes where most of it is; val
    is cut from train where there is none. Undivided pictures are divided as training would.

    Raises:
        DataError: Classes too small to be divided, or missing from train; or chains of near places
            that leave a part empty.
    """
    together = [*data.duplicates, *near_duplicate_groups(data.pairs or [], len(data.samples))]
    is_new = config.split is not None and config.split is not SplitChoice.provided
    samples, moved = (data.samples, 0) if is_new else _kept_together(data, together)
    split = divide(replace(config, duplicates=Duplicates.regroup, waiver=None), samples, together)
    write_splits(path, samples, split)
    rows = class_counts(samples, split)
    parts = list(next(iter(rows.values())))
    counts = {part: int(np.sum(split.names == part)) for part in parts}
    if len(rows) <= MOST_CLASSES:
        table(f"{path.name}", ["class", *parts], [[n, *row.values()] for n, row in rows.items()])
    for text in split.warnings:
        if "identical" not in text:  # they were told, and near ones are no identical ones
            say(f"    {text}")
    if data.broken:
        say(f"    left out, because they can't be read: "
            f"{first_of([name for name, _ in data.broken], count=3)}")
    say(f"wrote {path}: {', '.join(f'{n:,} {part}' for part, n in counts.items() if n)}; "
        f"{moved:,} pictures changed their part; use it with "
        f"{shlex.quote(f'data.splits_file={path.resolve()}')}")
    return path


def _kept_together(data: Collection, together: Sequence[Sequence[int]]) -> tuple[Samples, int]:
    """`keep_together` of copies, groups and what chains of near places join."""
    chains = [] if data.places is None else near_sets(data.places, data.block_buffer)
    samples, moved = keep_together(data.samples, [*together, *chains])
    gone = {*(data.samples.given_split or [])} - {*(samples.given_split or [])}
    if chains and gone:
        raise DataError(
            f"--fix-splits: places too near to each other (data.block_buffer="
            f"{data.block_buffer:g}) join {max(map(len, chains)):,} of {len(samples):,} pictures "
            f"to one set, and with it in one part {' and '.join(sorted(gone))} would be empty. "
            "Choose a smaller data.block_buffer, or a new split by blocks: data.split=spatial "
            "data.block_size=SIZE")
    return samples, moved
