"""Generated sample pictures for rehearsals, written without a download.

They stand in for real pictures so that a whole run can be tried out. No number measured on them
says anything about real pictures.
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from finetune.data import sample_chest, sample_land, sample_scenes
from finetune.errors import ConfigurationError, did_you_mean
from finetune.files import write_text

__all__ = ["DOMAINS", "generate_samples"]


@dataclass(frozen=True)
class _Domain:
    """How many groups of which classes there are, and who draws them."""

    classes: dict[str, int]                          # class -> number of pictures
    group: str                                       # what a group is called
    pictures: tuple[int, int]                        # smallest and largest group
    suffix: str
    setting: Callable[[np.random.Generator], Any]    # what a group's pictures share
    draw: Callable[..., Any]                         # (class, setting, random) -> pixels
    one_class: bool                                  # a group shows one class only


_DOMAINS = {
    "medical": _Domain({"normal": 110, "effusion": 74, "nodule": 56, "enlarged_heart": 40},
                       "patient", (2, 4), ".png", sample_chest.draw_patient,
                       sample_chest.draw_chest, True),
    "natural": _Domain({"ball": 90, "box": 75, "ring": 65, "star": 50},
                       "scene", (4, 7), ".png", sample_scenes.draw_setting,
                       sample_scenes.draw_scene, False),
    "remote_sensing": _Domain({"field": 84, "forest": 70, "residential": 56, "water": 44,
                               "industrial": 30},
                              "region", (10, 18), ".jpg", sample_land.draw_region,
                              sample_land.draw_tile, False),
}
DOMAINS = tuple(sorted(_DOMAINS))


def generate_samples(domain: str, folder: Path, *, seed: int) -> Path:
    """Write about 280 generated pictures into a folder and return the folder.

    ``<class>/<group>_<number>.png`` (or .jpg) and ``samples.csv`` with the columns path, label
    and group. Classes are unequal in size. Pictures of a group resemble each other: patients
    (``medical``), regions (``remote_sensing``), scenes (``natural``). The same seed gives the
    same bytes. ``samples.csv`` is written last: a folder that has it is whole.

    Args:
        domain: One of `DOMAINS`.
        folder: Made if missing; files of the same name are replaced.
        seed: Chooses the pictures, 0 or more.

    Raises:
        ConfigurationError: Unknown domain.
    """
    if domain not in _DOMAINS:
        raise ConfigurationError(f"no generated sample pictures for {domain!r}"
                                 f"{did_you_mean(domain, DOMAINS)}; there are {', '.join(DOMAINS)}")
    rows = [_write_picture(_DOMAINS[domain], folder, *place, (seed, DOMAINS.index(domain)))
            for place in _plan(_DOMAINS[domain], (seed, DOMAINS.index(domain)))]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("path", "label", "group"), *sorted(rows)])
    write_text(folder / "samples.csv", table.getvalue())
    return folder


def _plan(domain: _Domain, seed: tuple[int, ...]) -> list[tuple[str, int, int]]:
    """(class, group, number in the group) of every picture."""
    random = np.random.default_rng(seed)
    labels = [name for name, count in domain.classes.items() for _ in range(count)]
    if not domain.one_class:
        labels = [labels[i] for i in random.permutation(len(labels))]
    plan: list[tuple[str, int, int]] = []
    group, number, left, previous = -1, 0, 0, ""
    for label in labels:
        if left == 0 or (domain.one_class and label != previous):
            group, number = group + 1, 0
            left = int(random.integers(*domain.pictures, endpoint=True))
        plan.append((label, group, number))
        left, number, previous = left - 1, number + 1, label
    return plan


def _write_picture(domain: _Domain, folder: Path, label: str, group: int, number: int,
                   seed: tuple[int, ...]) -> tuple[str, str, str]:
    setting = domain.setting(np.random.default_rng((*seed, 1, group)))
    pixels = domain.draw(label, setting, np.random.default_rng((*seed, 2, group, number)))
    name = f"generated_{domain.group}_{group:03d}"
    path = folder / label / f"{name}_{number}{domain.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # not flushed one by one: 280 flushes take longer than the drawing
    path.write_bytes(cv2.imencode(domain.suffix, pixels[:, :, ::-1])[1].tobytes())
    return path.relative_to(folder).as_posix(), label, name
