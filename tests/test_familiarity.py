"""Distances from the training pictures: what they mean, where the limit lies, and who is told."""

import json
import shutil

import cv2
import numpy as np
import onnxruntime
import pytest
import timm
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.preprocessing import StandardScaler
from torch import nn

import finetune.models.architectures  # noqa: F401  (our networks' names)
from finetune import run as run_module
from finetune.__main__ import main
from finetune.composition import compose
from finetune.errors import DataError, Interrupted
from finetune.evaluation.familiarity import (
    Familiarity,
    FarLimit,
    find_limit,
    fit_familiarity,
    fit_gaussian,
    join_distances,
    measure_far,
    read_limit,
)
from finetune.familiar import far_warnings
from finetune.models.familiarity import (
    Distance,
    NoFeatures,
    WithDistance,
    WithFeatures,
    find_feature_modules,
)
from finetune.models.ordinal import make_ordinal
from finetune.models.prefix import folded_copy
from finetune.prediction.predictor import Predictor
from finetune.run import fit, resume
from finetune.specs import OrdinalLink

NETWORKS = ["resnet12_wide", "resnet20", "resnet18", "tf_efficientnet_lite0", "convnext_atto"]


def rows(seed, count, width, *, spread=1.0):
    """Features that hang together and differ in size."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(width, width)) / width ** 0.5 + np.eye(width)
    mixing = mixing * np.linspace(1, 5, width)
    return np.random.default_rng(seed).normal(size=(count, width)) * spread @ mixing + 3


# ---- the distance


def test_without_shrinkage_it_is_the_mahalanobis_distance_of_scipy_and_scikit_learn():
    train, new = rows(1, 300, 12), rows(2, 20, 12, spread=2)
    found = fit_gaussian(train, axes=12, shrinkage=0).distance(new)
    reference = EmpiricalCovariance().fit(train)
    np.testing.assert_allclose(found ** 2, reference.mahalanobis(new), rtol=1e-4)
    inverse = np.linalg.inv(np.cov(train.T, bias=True))
    one = mahalanobis(new[0], train.mean(axis=0), inverse)
    assert found[0] == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("count", [15, 200])
def test_with_shrinkage_it_is_that_of_ledoit_and_wolf_on_standardised_features(count):
    train, new = rows(1, count, 30), rows(2, 20, 30, spread=2)
    scaler = StandardScaler().fit(train)
    reference = LedoitWolf().fit(scaler.transform(train))
    found = fit_gaussian(train, axes=30).distance(new)
    np.testing.assert_allclose(found ** 2, reference.mahalanobis(scaler.transform(new)), rtol=1e-6)


def test_without_shrinkage_invertible_linear_maps_change_nothing():
    train, new = rows(1, 300, 10), rows(2, 20, 10)
    random = np.random.default_rng(3)
    turned, shift = random.normal(size=(10, 10)) + 3 * np.eye(10), random.normal(size=10)
    found = fit_gaussian(train @ turned + shift, axes=10, shrinkage=0).distance(
        new @ turned + shift)
    np.testing.assert_allclose(found, fit_gaussian(train, axes=10, shrinkage=0).distance(new),
                               rtol=1e-3)


def test_units_of_single_features_change_nothing():
    train, new = rows(1, 40, 100), rows(2, 20, 100)
    units = 1e3 * np.linspace(0.5, 2, 100)
    np.testing.assert_allclose(fit_gaussian(train * units).distance(new * units),
                               fit_gaussian(train).distance(new), rtol=1e-6)


@pytest.mark.parametrize(("count", "width"), [(50, 300), (300, 300), (300, 100)])
def test_fewer_axes_leave_the_mean_squared_distance_of_training_pictures(count, width):
    """What lies beside the axes is neither lost nor counted twice; the total is the trace's."""
    train = rows(1, count, width)
    few, many = (fit_gaussian(train, axes=axes, shrinkage=0.2) for axes in (8, width))
    assert few.axes.shape == (width, 8)
    np.testing.assert_allclose(few.axes.T @ few.axes, np.eye(8), atol=1e-9)
    beside = rows(2, 1, width) - few.mean
    beside = (beside * few.scale) @ (np.eye(width) - few.axes @ few.axes.T)
    inside = few.mean + few.axes[:, 0] / few.scale
    assert few.distance(few.mean + beside / few.scale) == pytest.approx(
        few.rest * np.linalg.norm(beside), rel=1e-9)
    assert few.distance(inside[None]) == pytest.approx(many.distance(inside[None]), rel=1e-6)


def test_a_feature_that_never_varied_counts_where_it_is_left_and_all_the_same_is_none():
    train = rows(1, 60, 6)
    train[:, 2] = 1.0
    gaussian = fit_gaussian(train)
    usual = train.mean(axis=0)
    left = usual + np.eye(6)[2] * train.std(axis=0).max()
    assert 20 < gaussian.distance(left[None])[0] < 1000 and gaussian.distance(usual[None])[0] < 1e-6
    assert fit_gaussian(np.full((20, 4), 7.0)) is None


def test_parts_count_by_their_spread_and_what_is_nearer_than_usual_is_usual():
    usual, spread = np.log([1, 10, 100]), (0.5, 0.25, 2)
    far = np.array([[1, 10, 100], [0.1, 1, 0], [np.e, 10, 0], [1, 10 * np.e, 1], [1, 1, np.inf]])
    assert join_distances(far, usual, spread) == pytest.approx(
        [0, 0, 2 / 3 ** 0.5, 4 / 3 ** 0.5, np.inf])


# ---- the limit


@pytest.mark.parametrize("count", [10, 98, 99, 150, 1000])
def test_of_pictures_drawn_alike_the_expected_share_is_beyond(count):
    random = np.random.default_rng(count)
    beyond = []
    for _ in range(400):
        distances = random.exponential(size=count + 50)
        limit = find_limit(distances[:count])
        beyond.append(limit.is_far(distances[count:]).mean())
    expected = limit.expected
    assert expected == pytest.approx(1 / (count + 1) if count < 99 else
                                     (count + 1 - np.ceil((count + 1) * 0.99)) / (count + 1))
    assert expected <= 0.01 or count < 99
    error = np.std(beyond) / 400 ** 0.5
    assert abs(np.mean(beyond) - expected) < 4 * error


def test_with_few_validation_pictures_the_limit_is_their_largest_and_that_is_said():
    few, many = find_limit(np.arange(50.0)), find_limit(np.arange(200.0))
    assert (few.limit, few.quantile) == (49, 1.0) and (many.limit, many.quantile) == (198, 0.99)
    assert few.warning(77.7) == ("far from the training pictures for the network: distance 77.7, "
                                 "of 50 validation pictures none is beyond 49")
    assert many.warning(1234.5) == ("far from the training pictures for the network: distance "
                                    "1.23e+03, of validation pictures 1% are beyond 198")
    assert FarLimit.from_dict(json.loads(json.dumps(many.to_dict()))) == many


def test_what_is_not_finite_is_far():
    limit = find_limit(np.arange(100.0))
    found = limit.is_far(np.array([1.0, np.nan, np.inf, 99.0]))
    assert found.tolist() == [False, True, True, False]


def test_counts_that_chance_explains_are_not_told_and_others_are():
    random = np.random.default_rng(0)
    told = []
    for _ in range(300):
        distances = random.normal(size=400)
        found = measure_far(distances[100:], find_limit(distances[:100]))
        assert found["low"] <= found["share"] <= found["high"]
        told.append(bool(far_warnings({"familiarity": {"test": found, "expected": 0.01}})))
    assert np.mean(told) <= 0.01 + 3 * (0.01 * 0.99 / 300) ** 0.5
    limit = find_limit(random.normal(size=400))
    shifted = measure_far(random.normal(size=300) + 2, limit)
    (text,) = far_warnings({"familiarity": {"test": shifted, "expected": limit.expected}})
    assert "of test pictures are far" in text and text.endswith("it would be 1.0%")
    groups = [f"p{i // 100}" for i in range(300)]
    assert measure_far(random.normal(size=300) + 2, limit, groups)["low"] < shifted["low"]
    assert not far_warnings({"familiarity": {"reason": "why"}})


# ---- the file


def known(seed=0):
    parts = [fit_gaussian(rows(1, 80, 90)), fit_gaussian(rows(1, 80, 5))]
    features = [rows(2, 120, 90), rows(2, 120, 5)]
    distances = np.stack([p.distance(f) for p, f in zip(parts, features, strict=True)], axis=1)
    return fit_familiarity(["a", "b.c"], parts, distances, trained_on=80), features


def test_a_file_gives_the_same_distances_and_the_same_bytes(tmp_path):
    familiarity, features = known()
    wanted = familiarity.distance(features)
    assert (wanted >= 0).all() and 0.2 < np.median(wanted) < 1
    assert wanted.max() == familiarity.limit.limit  # the 120th of 121
    for name in "ab":
        familiarity.save(tmp_path / name)
    found = Familiarity.load(tmp_path / "a")
    np.testing.assert_allclose(found.distance(features), wanted, atol=1e-5)
    assert (found.names, found.limit, found.trained_on) == (
        familiarity.names, familiarity.limit, 80)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_limit(tmp_path / "a") == familiarity.limit and read_limit(tmp_path / "c") is None


def test_a_damaged_file_is_told(tmp_path):
    familiarity, _ = known()
    familiarity.save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for number, bad in enumerate((content[:-10], b"", content.replace(b"trained_on", b"trained_in"),
                                  content.replace(b"1.axes", b"1.oxes"), b"x" * 100)):
        (tmp_path / str(number)).write_bytes(bad)
        with pytest.raises(DataError, match="damaged"):
            Familiarity.load(tmp_path / str(number))


def test_the_module_computes_what_the_arrays_say():
    familiarity, features = known()
    found = Distance(familiarity.to_arrays())([torch.tensor(f).float() for f in features])
    np.testing.assert_allclose(found, familiarity.distance(features), rtol=1e-4, atol=1e-5)
    assert (found > 0).sum() > 50


# ---- the network


def network(name, **options):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options).eval()
    return folded_copy(model, torch.randn(2, 3, 64, 64))


def arrays_of(model, names):
    """Fitted on features of noise."""
    with torch.inference_mode():
        _, features = WithFeatures(model, names)(torch.randn(40, 3, 64, 64))
    gaussians = [fit_gaussian(each.numpy()) for each in features]
    distances = np.stack([g.distance(each.numpy()) for g, each in zip(
        gaussians, features, strict=True)], axis=1)
    return fit_familiarity(names, gaussians, distances, trained_on=40).to_arrays()


@pytest.mark.parametrize("name", NETWORKS)
def test_distances_are_exported_with_the_network(name, tmp_path):
    model = network(name)
    names = find_feature_modules(model, torch.randn(2, 3, 64, 64))
    assert len(names) >= 3
    module = WithDistance(model, names, arrays_of(model, names)).eval()
    two, five = torch.randn(2, 3, 64, 64), torch.randn(5, 3, 64, 64) * 2
    with torch.inference_mode():
        logits, distances = (each.numpy() for each in module(five))
        plain = model(five).numpy()
    np.testing.assert_array_equal(logits, plain)
    assert distances.shape == (5,) and (distances > 1).all()
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(module, (two,), dynamic_shapes={"images": {0: batch}},
                                  strict=False)
    for found, wanted in zip(program.module()(five), (logits, distances), strict=True):
        np.testing.assert_allclose(found.detach(), wanted, rtol=1e-5, atol=1e-5)
    torch.onnx.export(module, (two,), dynamo=True, verbose=False, input_names=["images"],
                      dynamic_shapes={"images": {0: batch}}).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx",
                                           providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": five.numpy()})
    np.testing.assert_allclose(found[0], logits, rtol=0, atol=1e-4 * np.abs(logits).max())
    np.testing.assert_allclose(found[1], distances, rtol=1e-4)


def test_features_are_what_passes_and_the_network_is_as_before():
    model = network("resnet18")
    names = find_feature_modules(model, torch.randn(2, 3, 64, 64))
    assert names == ["act1", "layer1", "layer2", "layer3", "fc"]
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        _, features = WithFeatures(model, names)(images)
        maps = model.forward_features(images)
        torch.testing.assert_close(features[-1], maps.mean((2, 3)))
        stem = model.act1(model.bn1(model.conv1(images)))
        torch.testing.assert_close(features[0], stem.mean((2, 3)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_transformers_have_features_too(name):
    model = timm.create_model(name, num_classes=3, img_size=64).eval()
    names = find_feature_modules(model, torch.randn(2, 3, 64, 64))
    with torch.inference_mode():
        _, features = WithFeatures(model, names)(torch.randn(4, 3, 64, 64))
    assert names[-1].startswith("head") and len(names) >= 2
    assert all(each.shape[0] == 4 and each.ndim == 2 for each in features)


def test_classifiers_of_other_kinds_and_networks_without_one_features_input():
    model = timm.create_model("resnet10t", num_classes=1).eval()
    make_ordinal(model, OrdinalLink.cumulative_link, 3)
    assert find_feature_modules(model, torch.randn(2, 3, 64, 64))[-1] == "fc"
    two = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, img_size=64).eval()
    with pytest.raises(NoFeatures, match="2 classifiers"):
        find_feature_modules(two, torch.randn(2, 3, 64, 64))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, images):
            return self.fc(self.fc(images.mean((2, 3))))

    with pytest.raises(NoFeatures, match="2 times"):
        find_feature_modules(Twice(), torch.randn(2, 3, 8, 8))


# ---- a run


def draw(folder, *, poisoned=False):
    """Soft textures, brighter for each class, in given parts; a poisoned test part is of noise."""
    names = []
    for number in range(240):
        part = ("train", "train", "val", "test")[number // 3 % 4]
        random = np.random.default_rng(number)
        noise = random.integers(0, 256, (36, 40, 3)).astype(np.float32)
        soft = cv2.GaussianBlur(noise, (0, 0), 3) + 30 * (number % 3 - 1)
        pixels = noise if poisoned and part == "test" else soft
        cv2.imwrite(str(folder / f"{number:03d}.png"), pixels.clip(0, 255).astype(np.uint8))
        names.append((f"{number:03d}.png", "abc"[number % 3], part))
    rows = ["path,label,split", *(",".join(each) for each in names)]
    (folder / "table.csv").write_text("\n".join(rows))
    return names


def words(root, *more):
    return [f"data.root={root}", "data.labels_file=table.csv", f"output_dir={root / 'runs'}",
            "model.name=resnet20", "model.weights=null", "data.image_size=32",
            "data.batch_size=16", "data.workers=0", "training.epochs=1",
            "tracking.mode=disabled", "device=cpu", "training.precision=fp32",
            "training.memory_format=channels_last", *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    draw(folder)
    with pytest.MonkeyPatch.context() as patch:
        quiet(patch)
        return fit(compose(words(folder)).config)


def quiet(patch):
    from finetune.files import write_text

    patch.setattr(run_module, "write_figures", lambda path: [])
    patch.setattr(run_module, "write_report",
                  lambda path, reader=None: write_text(path / "report.html", ""))
    patch.setattr(run_module.session, "write_batch_figures", lambda *args: None)
    patch.setattr(run_module, "heat_maps", lambda *args: [])


def test_a_run_keeps_it_and_warns_of_noise_not_of_its_own_test_pictures(trained, tmp_path):
    told = trained.metrics["familiarity"]
    assert (told["trained_on"], told["count"], told["test"]["count"]) == (120, 60, 60)
    assert told["test"]["share"] <= 0.1 and told["parts"][-1] == "fc"
    predictor = Predictor.from_run(trained, batch_size=7)
    root = trained.path.parent.parent
    test = [root / name for name, _, part in parts_of(root) if part == "test"]
    far = [any("far from" in text for text in each.warnings) for each in predictor(test)]
    assert sum(far) == told["test"]["beyond"]
    noise = np.random.default_rng(0).integers(0, 256, (6, 36, 40, 3), dtype=np.uint8)
    assert all("far from the training pictures" in each.warnings[-1]
               for each in predictor(noise))


def parts_of(root):
    return [line.split(",") for line in (root / "table.csv").read_text().splitlines()[1:]]


def test_views_have_the_distance_of_the_picture_as_it_is(trained):
    predictor = Predictor.from_run(trained)
    batch = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = predictor.with_views("d4").network(batch)
    np.testing.assert_array_equal(found.distances, predictor.network(batch).distances)
    assert found.distances.shape == (3,) and found.probabilities.shape == (3, 3)
    assert Predictor.from_run(trained, precision="bf16").network(batch).distances is None


def test_a_run_of_before_says_so_and_answers(trained, tmp_path, capsys):
    shutil.copytree(trained.path, tmp_path / "run")
    (tmp_path / "run" / "familiarity.safetensors").unlink()
    picture = trained.path.parent.parent / "000.png"
    words = ["predict", str(tmp_path / "run"), str(picture), "--output", str(tmp_path / "o.csv")]
    assert main(words) == 0
    assert "far from them is not told" in capsys.readouterr().err.replace("\n", " ")
    assert Predictor.from_run(tmp_path / "run").network(
        np.zeros((2, 32, 32, 3), np.uint8)).distances is None


def test_new_labelled_pictures_have_a_share_that_is_far(trained, tmp_path, capsys):
    random = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "new" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 256, (36, 40, 3)))
    out = tmp_path / "o.json"
    assert main(["evaluate", str(trained.path), str(tmp_path / "new"), "--output", str(out)]) == 0
    assert json.loads(out.read_text())["familiarity"]["share"] == 1
    assert "far from the training pictures: 100.0%" in capsys.readouterr().out


def test_the_test_part_changes_nothing_that_is_kept(trained, tmp_path, monkeypatch):
    draw(tmp_path, poisoned=True)
    quiet(monkeypatch)
    spoilt = fit(compose(words(tmp_path)).config)
    assert spoilt.familiarity.read_bytes() == trained.familiarity.read_bytes()
    assert spoilt.metrics["familiarity"]["test"]["share"] > 0.9
    assert any("of test pictures are far" in text for text in spoilt.environment["warnings"])


def test_a_resumed_run_keeps_the_same_bytes(trained, tmp_path, monkeypatch):
    draw(tmp_path)
    quiet(monkeypatch)
    with monkeypatch.context() as patch:
        def die(*args, **options):
            raise Interrupted("now")

        patch.setattr(run_module, "learn_features", die)
        with pytest.raises(Interrupted):
            fit(compose(words(tmp_path)).config)
    (path,) = (tmp_path / "runs").glob("*/config.yaml")
    again = resume(run_module.RunDirectory.open(path.parent))
    assert again.familiarity.read_bytes() == trained.familiarity.read_bytes()
    assert again.metrics == trained.metrics


def test_nothing_is_kept_where_it_is_not_wanted(trained, tmp_path, monkeypatch):
    draw(tmp_path)
    quiet(monkeypatch)
    run = fit(compose(words(tmp_path, "data.familiarity=false")).config)
    assert run.metrics["familiarity"] == {"reason": "data.familiarity=false"}
    assert not run.familiarity.exists()
    own, without = ({k: v for k, v in r.metrics.items() if k != "familiarity"}
                    for r in (trained, run))
    assert own == without


def test_several_labels_and_a_network_without_features(tmp_path, monkeypatch, capsys):
    names = draw(tmp_path)
    rows = [f"{name},{int(c != 'a')},{int(c == 'b')},{part}" for name, c, part in names]
    (tmp_path / "table.csv").write_text("path,one,two,split\n" + "\n".join(rows))
    quiet(monkeypatch)
    more = ["data.label_kind=multi", "data.label_column=one,two", "training.epochs=1"]
    run = fit(compose(words(tmp_path, *more)).config)
    assert run.metrics["familiarity"]["trained_on"] == 120

    def none(*args):
        raise NoFeatures("it has two classifiers")

    monkeypatch.setattr("finetune.familiar.find_feature_modules", none)
    bare = fit(compose(words(tmp_path, *more)).config)
    assert bare.metrics["familiarity"] == {"reason": "it has two classifiers"}
    assert "can't be told: it has two classifiers" in capsys.readouterr().out
    assert not bare.familiarity.exists() and Predictor.from_run(bare).far is None
