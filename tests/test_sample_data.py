import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from finetune.data.sample_data import DOMAINS, generate_samples
from finetune.data.samples import read_samples
from finetune.errors import ConfigurationError


def read_rows(folder):
    with (folder / "samples.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module", params=DOMAINS)
def sample_set(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, generate_samples(request.param, folder / "set", seed=0)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_other_seed_other_pictures(sample_set, tmp_path):
    domain, folder = sample_set
    again = contents(generate_samples(domain, tmp_path / "again", seed=0))
    assert again == contents(folder)
    other = contents(generate_samples(domain, tmp_path / "other", seed=1))
    pictures = {v for k, v in again.items() if not k.endswith(".csv")}
    assert not pictures & set(other.values())


def test_table_lists_exactly_the_pictures(sample_set):
    _, folder = sample_set
    rows = read_rows(folder)
    assert list(rows[0]) == ["path", "label", "group"]
    assert sorted(r["path"] for r in rows) == sorted(
        k for k in contents(folder) if k != "samples.csv")
    for row in rows:
        assert row["path"].startswith(f"{row['label']}/{row['group']}_")
        assert "generated" in row["group"]


def test_classes_are_unequal_and_groups_hold_several_pictures(sample_set):
    domain, folder = sample_set
    rows = read_rows(folder)
    sizes = sorted([r["label"] for r in rows].count(c) for c in {r["label"] for r in rows})
    assert 250 <= len(rows) <= 300 and len(sizes) >= 4
    assert sizes[-1] >= 1.7 * sizes[0] and sizes[0] >= 30
    groups = {r["group"] for r in rows}
    assert 15 <= len(groups) < len(rows) / 2
    if domain == "medical":  # a finding belongs to a patient
        assert all(len({r["label"] for r in rows if r["group"] == g}) == 1 for g in groups)


def test_pictures_have_the_domains_shape(sample_set):
    domain, folder = sample_set
    for row in read_rows(folder):
        pixels = cv2.imread(str(folder / row["path"]), cv2.IMREAD_UNCHANGED)
        assert pixels.dtype == np.uint8 and 64 <= min(pixels.shape[:2])
        assert max(pixels.shape[:2]) <= 96
        assert pixels.ndim == (2 if domain == "medical" else 3)
        assert pixels.std() > 2


def test_pictures_of_a_group_resemble_each_other(sample_set):
    _, folder = sample_set
    rows = read_rows(folder)
    vectors = np.array([cv2.resize(cv2.imread(str(folder / r["path"])), (8, 8),
                                   interpolation=cv2.INTER_AREA).ravel() for r in rows], float)
    apart = np.abs(vectors[:, None] - vectors[None]).mean(axis=2)
    labels, groups = (np.array([r[k] for r in rows]) for k in ("label", "group"))
    same_class = (labels[:, None] == labels) & ~np.eye(len(rows), dtype=bool)
    same_group = groups[:, None] == groups
    assert apart[same_class & same_group].mean() < 0.93 * apart[same_class & ~same_group].mean()


def test_classes_can_be_told_apart_but_not_by_average_colour_alone(sample_set):
    domain, folder = sample_set
    rows = read_rows(folder)
    labels, groups = (np.array([r[k] for r in rows]) for k in ("label", "group"))
    colour = np.array([cv2.imread(str(folder / r["path"])).mean(axis=(0, 1)) for r in rows]) / 64
    held_out = np.isin(groups, sorted(set(groups))[::3])
    linear = LogisticRegression(max_iter=1000).fit(colour[~held_out], labels[~held_out])
    assert linear.score(colour[held_out], labels[held_out]) < 0.8, domain


def test_generating_is_fast(tmp_path):
    started = time.process_time()
    generate_samples("remote_sensing", tmp_path, seed=5)
    assert time.process_time() - started < 5


def test_samples_are_read_with_their_groups(sample_set):
    _, folder = sample_set
    samples, rows = read_samples(str(folder), labels_file="samples.csv"), read_rows(folder)
    assert sorted(samples.ids) == sorted(r["path"] for r in rows)
    by_path = {r["path"]: r for r in rows}
    names = samples.label_spec.class_names
    assert samples.groups == [by_path[i]["group"] for i in samples.ids]
    assert [names[k] for k in samples.labels] == [by_path[i]["label"] for i in samples.ids]


def test_unknown_domain_names_the_nearest(tmp_path):
    with pytest.raises(ConfigurationError, match="did you mean 'medical'"):
        generate_samples("medicl", tmp_path, seed=0)
    assert not list(tmp_path.iterdir())


def run_script(*arguments):
    root = Path(__file__).parent.parent
    return subprocess.run([sys.executable, str(root / "data_tools" / "make_sample.py"), *arguments],
                          capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(root)})


def test_script_writes_the_same_pictures(tmp_path):
    folder = generate_samples("medical", tmp_path / "called", seed=2)
    done = run_script("medical", str(tmp_path / "new"), "--seed", "2")
    assert done.returncode == 0, done.stderr
    assert "generated pictures" in done.stdout
    assert contents(tmp_path / "new") == contents(folder)


def test_script_refuses_a_negative_seed(tmp_path):
    done = run_script("medical", str(tmp_path), "--seed=-1")
    assert done.returncode == 2 and "expected 0 or more" in done.stderr
