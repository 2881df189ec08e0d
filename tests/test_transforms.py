import pickle
import random
import subprocess
import sys
import types
import warnings
from collections import Counter

import albumentations as A
import cv2
import numpy as np
import pytest

from finetune.data.augmenting import Colour, Grey, Light, Mirror, RandomFraming, Turn, squashed
from finetune.data.decoding import resize_image, to_unit_range
from finetune.data.transforms import PRESETS, Transform, build_transform
from finetune.errors import ConfigurationError
from finetune.specs import Dtype, InputSpec, Resize


def make_spec(channels=3, dtype="uint8", size=(32, 32), resize="squash"):
    top = {"uint8": 255.0, "uint16": 4000.0, "float32": 2.0}[dtype]
    return InputSpec(size, channels, tuple(f"c{i}" for i in range(channels)), Dtype(dtype),
                     (0.0, top), (0.5,) * channels, (0.25,) * channels, "bilinear", Resize(resize))


def make_pixels(spec, height=40, width=56, seed=0):
    values = np.random.default_rng(seed).random((height, width, spec.channels))
    return (values * spec.value_range[1]).astype(spec.dtype.value)


def lopsided(height=64, width=64):
    """Bright in one corner only, so that every orientation differs from the others."""
    y, x = np.mgrid[0:height, 0:width]
    return np.where((y < height // 2) & (x < width // 4), 220, 20).astype(np.uint8)[:, :, None]


def without(transform, *kinds):
    """The transform without some of its steps."""
    return Transform(transform.spec, transform.name, tuple(
        s for s in transform.steps if not isinstance(s, kinds)))


def shape_only(transform):
    return without(transform, Colour, Light)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_preset_takes_any_channels_and_number_type(preset, channels, dtype):
    for resize in Resize:
        spec = make_spec(channels, dtype, resize=resize, size=(24, 32))
        pixels = make_pixels(spec)
        kept = pixels.copy()
        transform = build_transform(preset, spec, train=True)
        results = np.stack([transform(pixels, seed) for seed in range(5)])
        assert results.shape == (5, 24, 32, channels)
        assert results.dtype == (np.uint8 if dtype == "uint8" else np.float32)
        assert dtype == "uint8" or (results.min() >= 0 and 0.5 < results.max() <= 1)
        np.testing.assert_array_equal(pixels, kept)


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"none"}))
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_same_seed_same_picture_whatever_the_global_random_state(preset, channels):
    spec = make_spec(channels, "uint8" if channels < 13 else "uint16")
    transform, pixels = build_transform(preset, spec, train=True), make_pixels(spec)
    again = pickle.loads(pickle.dumps(transform))
    first = transform(pixels, 7)
    np.random.seed(3)
    transform(pixels, 8)
    np.testing.assert_array_equal(first, transform(pixels, 7))
    np.testing.assert_array_equal(first, again(pixels, 7))
    different = [not np.array_equal(first, transform(pixels, seed)) for seed in range(8, 16)]
    assert sum(different) >= 7


def test_global_random_state_is_not_touched():
    spec = make_spec()
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    build_transform("natural", spec, train=True)(make_pixels(spec), 3)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("resize", Resize)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_evaluation_and_none_are_the_deterministic_resize(resize, dtype):
    spec = make_spec(3, dtype, resize=resize)
    pixels = make_pixels(spec)
    expected = resize_image(pixels, spec.size, resize=resize, interpolation=spec.interpolation)
    expected = expected if dtype == "uint8" else to_unit_range(expected, spec.value_range)
    for preset, train in [("xray", False), ("natural", False), ("none", False), ("none", True)]:
        result = build_transform(preset, spec, train=train)(pixels, 11)
        np.testing.assert_array_equal(result, expected)


def orientations(preset, size=(32, 32)):
    spec = make_spec(1, size=size)
    transform = shape_only(build_transform(preset, spec, train=True))
    transform, found = without(transform, RandomFraming), set()  # parts tell less of the whole
    originals = [np.rot90(m, k) for m in (lopsided()[:, :, 0], lopsided()[:, ::-1, 0])
                 for k in range(4)]
    references = [cv2.resize(np.ascontiguousarray(o), size[::-1], interpolation=cv2.INTER_AREA)
                  for o in originals]
    for seed in range(60):
        picture = transform(lopsided(), seed)[:, :, 0].astype(float)
        found.add(int(np.argmin([np.abs(picture - r).mean() for r in references])))
    return found  # 0-3 turned by 90 degrees, 4-7 mirrored and turned


def test_xray_never_mirrors_or_turns():
    assert orientations("xray") == {0}


def test_natural_mirrors_left_to_right_only():
    assert orientations("natural") == {0, 4}


@pytest.mark.parametrize("preset", ["histology", "aerial"])
def test_slides_and_tiles_come_in_all_eight_orientations(preset):
    assert orientations(preset) == set(range(8))
    assert len(orientations(preset, size=(24, 32))) == 4  # those that keep an oblong's shape


def test_transforms_with_one_probability_do_not_always_happen_together():
    def two_coins(spec):
        return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]

    module = types.ModuleType("coins_for_test")
    module.two_coins = two_coins
    sys.modules["coins_for_test"] = module
    try:
        transform = build_transform("coins_for_test:two_coins", make_spec(1), train=True)
    finally:
        del sys.modules["coins_for_test"]
    pixels = lopsided(32, 32)
    seen = {transform(pixels, seed).tobytes() for seed in range(40)}
    assert len(seen) == 4


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_framing_of_everything_is_what_evaluation_sees(resize):
    spec = make_spec(3, resize=resize)
    y, x = np.mgrid[0:40, 0:60]
    pixels = np.stack([y * 6, x * 4, y + x], axis=-1).astype(np.uint8)
    whole = RandomFraming(spec, (1.0, 1.0), (1.0, 1.0))
    expected = resize_image(pixels, spec.size, resize=spec.resize, interpolation="bilinear")
    shown = [whole(pixels, random.Random(seed)).astype(int) for seed in range(12)]
    if resize == "squash":
        assert all(np.abs(s - expected).max() <= 1 for s in shown)
    else:  # full height, any place: brightness down the rows is evaluation's
        assert all(np.abs(s[:, :, 0] - expected[:, :, 0]).max() <= 2 for s in shown)
        assert len({s.tobytes() for s in shown}) > 3


def test_crop_in_training_is_random_and_in_evaluation_central():
    spec = make_spec(1, resize="crop")
    pixels = np.tile(np.arange(120, dtype=np.uint8), (40, 1))[:, :, None]
    shown = [shape_only(build_transform("natural", spec, train=True))(pixels, s) for s in range(30)]
    middles = [float(np.median(s[s > 0])) for s in shown]
    assert min(middles) < 40 and max(middles) > 80
    central = build_transform("natural", spec, train=False)(pixels)
    assert abs(float(central.mean()) - 59.5) < 1.5


def test_pad_shows_the_whole_picture_in_training_too():
    spec = make_spec(1, resize="pad")
    pixels = np.full((20, 80, 1), 30, np.uint8)
    pixels[:, :8], pixels[:, -8:] = 250, 150  # both ends must stay in the picture
    transform = shape_only(build_transform("aerial", spec, train=True))
    for seed in range(30):
        shown = transform(pixels, seed)
        assert (shown > 230).any() and ((shown > 140) & (shown < 160)).any()
        assert (shown == 0).any(axis=2).sum() > 200


def test_outside_of_a_padded_float_picture_is_the_same_in_training_and_evaluation():
    spec = InputSpec((32, 32), 1, ("ct",), Dtype.float32, (-1000.0, 1000.0), (0.5,), (0.2,),
                     "bilinear", Resize.pad)
    pixels = np.full((16, 64, 1), 500.0, np.float32)
    plain = build_transform("xray", spec, train=False)(pixels)
    trained = Transform(spec, "mine", (A.Compose([A.HorizontalFlip(p=1.0)]),))(pixels)
    np.testing.assert_array_equal(plain[:, ::-1], trained)


def test_colour_is_left_alone_where_channels_are_no_colours():
    def kinds(spec):
        return {type(s) for s in build_transform("natural", spec, train=True).steps}

    assert Colour in kinds(make_spec(3))
    for channels, dtype in [(1, "uint8"), (4, "uint8"), (13, "uint16"), (3, "float32")]:
        assert Colour not in kinds(make_spec(channels, dtype))
        assert Light in kinds(make_spec(channels, dtype))


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_augment.py").write_text(
        "import albumentations as A\n"
        "def one(spec): return A.VerticalFlip(p=1.0)\n"
        "def darker(spec): return [A.VerticalFlip(p=1.0), lambda p: p // 2]\n"
        "def typo(spec): return A.HorizontalFlip(probability=0.5)\n"
        "def no_spec(): return A.VerticalFlip(p=1.0)\n"
        "def wrong_value(spec): return A.HorizontalFlip(p=7)\n"
        "def nothing(spec): return 3\n"
        "def loses_channels(spec): return lambda p: p[:, :, 0]\n"
        "def changes_type(spec): return lambda p: p / 255\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_augment"
    sys.modules.pop("own_augment", None)


def test_own_function_by_dotted_path(own_module):
    spec = make_spec()
    pixels = make_pixels(spec, 32, 32)
    one = build_transform(f"{own_module}:one", spec, train=True)
    np.testing.assert_array_equal(one(pixels, 0), pixels[::-1])
    darker = build_transform(f"{own_module}:darker", spec, train=True)
    np.testing.assert_array_equal(darker(pixels, 0), pixels[::-1] // 2)
    plain = build_transform(f"{own_module}:darker", spec, train=False)
    np.testing.assert_array_equal(plain(pixels, 0), pixels)
    assert one(make_pixels(spec, 50, 20), 0).shape == (32, 32, 3)


@pytest.mark.parametrize(("preset", "words"), [
    ("x-ray", "did you mean 'xray'"), ("nothing_like_it", "natural, strong, xray, histology"),
    ("no_such_module_here:f", "no_such_module_here"), ("own_augment:onne", "did you mean 'one'"),
    ("own_augment:typo", "probability"), ("own_augment:no_spec", "0 positional arguments"),
    ("own_augment:wrong_value", "less than or equal to 1"),
    ("own_augment:nothing", "returned int"), (":f", ":f"), ("own_augment:", "no function")])
def test_wrong_presets_are_explained(own_module, preset, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        build_transform(preset, make_spec(), train=True)
    assert f"data.transform={preset}" in str(caught.value)


def test_preset_name_is_checked_for_evaluation_too():
    with pytest.raises(ConfigurationError, match="no such preset"):
        build_transform("naturall", make_spec(), train=False)


@pytest.mark.parametrize("name", ["loses_channels", "changes_type"])
def test_own_step_must_keep_channels_and_number_type(own_module, name):
    transform = build_transform(f"{own_module}:{name}", make_spec(), train=True)
    with pytest.raises(ConfigurationError, match="a step returned"):
        transform(make_pixels(make_spec()), 0)


def test_shipped_presets_use_only_arguments_that_exist():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for preset in PRESETS:
            for channels in (1, 3):
                build_transform(preset, make_spec(channels), train=True)


def photograph(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "area", "nearest"])
@pytest.mark.parametrize("shape", [(20, 24), (40, 24), (64, 64), (100, 90), (333, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_quick_resizing_is_that_of_evaluation_but_for_rounding(interpolation, shape, channels):
    spec = InputSpec((64, 64), channels, ("c",) * channels, Dtype.uint8, (0.0, 255.0),
                     (0.5,) * channels, (0.2,) * channels, interpolation)
    pixels = photograph(400, 400)[:shape[0], 3:3 + shape[1], :channels]
    pixels.flags.writeable = False
    quick = squashed(pixels, spec)
    expected = resize_image(np.ascontiguousarray(pixels), spec.size, resize=Resize.squash,
                            interpolation=interpolation)
    difference = np.abs(quick.astype(int) - expected)
    assert quick.shape == expected.shape and quick.flags.writeable
    assert difference.max() <= (3 if interpolation == "bicubic" else 1) and difference.mean() < 0.25


def test_shrinking_by_little_without_the_filter_is_nearly_the_same():
    spec = make_spec(3, size=(224, 224))
    pixels = photograph(256, 256)
    expected = resize_image(pixels, spec.size, resize=Resize.squash, interpolation="bilinear")
    assert 0 < np.abs(squashed(pixels, spec).astype(int) - expected).mean() < 2
    larger = photograph(260, 256)
    expected = resize_image(larger, spec.size, resize=Resize.squash, interpolation="bilinear")
    assert np.abs(squashed(larger, spec).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"none"}))
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_no_part_of_a_picture_that_is_large_enough_is_enlarged(preset, resize):
    spec = make_spec(3, size=(32, 48), resize=resize)
    transform = build_transform(preset, spec, train=True)
    height, width = transform.at_least
    boxes = [transform.steps[0]._box((height, width + 30 * (resize == "crop")),
                                     random.Random(seed)) for seed in range(2000)]
    smallest = np.min([box[2:] for box in boxes], axis=0)
    assert (smallest >= np.array(spec.size) - 1).all()  # a row is lost to rounding
    assert (smallest <= np.array(spec.size) * 1.15).all()  # nor is more asked for than needed


@pytest.mark.parametrize("preset", ["natural", "xray"])
def test_a_seed_shows_the_same_part_of_a_picture_at_any_scale(preset):
    transform = build_transform(preset, make_spec(3, size=(32, 32)), train=True)
    whole = cv2.resize(photograph(24, 32), (480, 400), interpolation=cv2.INTER_CUBIC)
    half = cv2.resize(whole, (240, 200), interpolation=cv2.INTER_AREA)
    for seed in range(20):
        one, two = (transform(p, seed).astype(int) for p in (whole, half))
        assert np.abs(one - two).mean() < 4


def test_whole_pictures_are_asked_for_where_the_steps_are_unknown(own_module):
    assert build_transform(f"{own_module}:one", make_spec(), train=True).at_least is None
    assert build_transform("none", make_spec(), train=True).at_least is None
    assert build_transform("natural", make_spec(), train=False).at_least == (64, 64)


def shown_colours(step, pixels, count=400):
    return [step(pixels, random.Random(seed)) for seed in range(count)]


def test_colour_keeps_grey_grey_and_changes_no_more_than_it_says():
    grey = np.full((8, 8, 3), 100, np.uint8)
    values = np.array([p[0, 0].astype(int) for p in shown_colours(Colour(0.25, 0.2, 0.02), grey)])
    assert (np.ptp(values, axis=1) <= 1).all()
    assert 74 <= values.min() < 80 and 120 < values.max() <= 126
    unchanged = sum((p == grey).all() for p in shown_colours(Colour(0.25, 0.2, 0.02), grey))
    assert 60 <= unchanged <= 110  # a fifth of 400 and some by chance


def test_hue_and_saturation_turn_and_stretch_the_colour_around_its_luma():
    red = np.zeros((4, 4, 3), np.uint8)
    red[...] = (150, 90, 90)
    for step, same in ((Colour(0, 0, 0.1, p=1.0), "length"), (Colour(0, 0.4, 0, p=1.0), "angle")):
        planes = []
        for shown in shown_colours(step, red, 50):
            r, g, b = shown[0, 0].astype(float)
            assert abs(0.299 * r + 0.587 * g + 0.114 * b - 107.9) < 1.2
            i, q = 0.5959 * r - 0.2746 * g - 0.3213 * b, 0.2115 * r - 0.5227 * g + 0.3112 * b
            planes.append((np.hypot(i, q), np.arctan2(q, i)))
        length, angle = np.std(planes, axis=0)
        assert (length < 1 and angle > 0.15) if same == "length" else (length > 4 and angle < 0.03)


def test_light_is_the_stated_line_clipped_for_every_number_type():
    spread = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16, 1)
    eight = (spread * 255).round().astype(np.uint8)
    for seed in range(20):
        as_float = Light(0.3)(spread, random.Random(seed))
        as_eight = Light(0.3)(eight, random.Random(seed))
        assert as_float.dtype == np.float32 and as_eight.shape == eight.shape
        assert np.abs(as_float * 255 - as_eight).max() <= 0.51
        assert as_float.min() >= 0 and as_float.max() <= 1


def test_grey_is_luma_in_three_channels_in_the_stated_share():
    pixels = photograph(16, 16)
    shown = shown_colours(Grey(0.2), pixels)
    grey = [s for s in shown if not np.array_equal(s, pixels)]
    assert 50 <= len(grey) <= 110
    luma = (pixels @ np.array([0.299, 0.587, 0.114])).round()
    assert all(np.abs(g - luma[..., None]).max() <= 1 for g in grey)


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_orientations_come_equally_often_and_leave_the_picture_alone(channels):
    pixels = np.arange(4 * 4 * channels, dtype=np.uint8).reshape(4, 4, channels)
    for step, count in ((Mirror(), 2), (Turn(square=False), 4), (Turn(square=True), 8)):
        kept = pixels.copy()
        found = Counter(step(pixels, random.Random(s)).tobytes() for s in range(800))
        np.testing.assert_array_equal(pixels, kept)
        assert len(found) == count and min(found.values()) > 800 / count * 0.7


def test_shipped_presets_but_one_do_without_albumentations():
    code = ("import sys; from finetune.data.transforms import PRESETS, build_transform\n"
            "from finetune.specs import Dtype, InputSpec\n"
            "spec = InputSpec((8, 8), 3, ('r', 'g', 'b'), Dtype.uint8, (0., 255.), (0.,) * 3, "
            "(1.,) * 3)\n"
            "[build_transform(p, spec, train=True) for p in PRESETS if p != 'xray']\n"
            "print('albumentations' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
