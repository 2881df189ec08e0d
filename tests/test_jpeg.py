"""Plain JPEG is Pillow's to the bit, decoded smaller only as far as asked, and else left to it."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune.data.decoding import UnreadableImage, decode_image, resize_image
from finetune.data.jpeg import read_jpeg, shrink_factor
from finetune.data.loading import ImageDataset
from finetune.data.samples import FolderSource, Samples
from finetune.data.transforms import build_transform
from finetune.specs import Dtype, InputSpec, LabelKind, LabelSpec, Resize


def scene(height, width, seed=0):
    """Smooth areas with edges and some noise, like a photograph."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(random.uniform(3, 40) * x + random.uniform(3, 40) * y + c) for c in range(3)]
    pixels = 128 + 70 * np.stack(waves, -1) + 50 * (x + y > 0.8)[..., None]
    return (pixels + random.normal(0, 6, (height, width, 1))).clip(0, 255).astype(np.uint8)


def encoded(pixels, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


def pillows(content):
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright).reshape(upright.height, upright.width, -1)


def oriented(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (7, 9), (201, 333), (512, 300)])
@pytest.mark.parametrize("options", [
    {}, {"quality": 30}, {"quality": 100}, {"subsampling": 0}, {"subsampling": 1},
    {"subsampling": 2}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("grey", [False, True])
def test_pixels_are_pillows_to_the_bit(shape, options, grey):
    pixels = scene(*shape)
    content = encoded(pixels[..., 0] if grey else pixels, **options)
    assert read_jpeg(content) is not None
    found = decode_image(content)
    assert found.mode == ("L" if grey else "RGB") and found.notes == ()
    np.testing.assert_array_equal(found.pixels, pillows(content))


def test_real_pictures_are_pillows_to_the_bit(real_data):
    files = [f for name in ("rsscn7", "brain_tumor_mri")
             for f in sorted((real_data / name).rglob("*.jpg"))[::150]]
    assert len(files) > 20
    taken = 0
    for file in files:
        taken += read_jpeg(file.read_bytes()) is not None
        np.testing.assert_array_equal(decode_image(file).pixels, pillows(file.read_bytes()))
    assert taken > 0.9 * len(files)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("at_least", [None, (40, 20), (20, 40)])
def test_orientation_is_applied_and_sizes_are_meant_upright(orientation, at_least):
    content = encoded(scene(96, 200), exif=oriented(orientation))
    found, whole = decode_image(content, at_least=at_least), pillows(content)
    factor = 1 if at_least is None else shrink_factor(whole.shape[:2], at_least)
    assert found.pixels.shape[:2] == tuple(-(-side // factor) for side in whole.shape[:2])
    if factor == 1:
        np.testing.assert_array_equal(found.pixels, whole)
    else:
        small = resize_image(whole, found.pixels.shape[:2], resize=Resize.squash,
                             interpolation="area")
        assert np.abs(found.pixels.astype(int) - small).mean() < 3
    assert found.pixels.flags.c_contiguous


def test_an_orientation_in_xmp_alone_counts_as_it_does_for_pillow():
    xmp = b'<x:xmpmeta xmlns:tiff="t"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    content = encoded(scene(16, 24), xmp=xmp)
    assert decode_image(content).pixels.shape == pillows(content).shape == (24, 16, 3)


def test_what_is_no_plain_jpeg_is_left_to_pillow():
    pixels = scene(40, 48)
    plain = encoded(pixels)
    cmyk = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    several = io.BytesIO()
    Image.fromarray(pixels).save(several, "MPO", save_all=True,
                                 append_images=[Image.fromarray(pixels)])
    as_rgb = encoded(pixels, keep_rgb=True)
    for content in (cmyk.getvalue(), several.getvalue(), as_rgb, plain[:-40], plain[:200], b"",
                    b"\xff\xd8\xff", b"\x89PNG", plain[:2] + b"\x00" * 50):
        assert read_jpeg(content) is None
    assert decode_image(cmyk.getvalue()).notes == ("CMYK converted to RGB",)
    assert decode_image(several.getvalue()).notes == ("frame 1 of 2 used",)
    np.testing.assert_array_equal(decode_image(as_rgb).pixels, pillows(as_rgb))
    with pytest.raises(UnreadableImage, match="truncated"):
        decode_image(plain[:-40])


def test_damage_ends_as_it_does_with_pillow_alone(monkeypatch):
    content, random = encoded(scene(64, 80), exif=oriented(3)), np.random.default_rng(0)
    changed = []
    for _ in range(150):
        broken = bytearray(content)
        for place in random.integers(2, len(content), 3):
            broken[place] = random.integers(256)
        changed.append(bytes(broken))
    ours = [outcome(each) for each in changed]
    monkeypatch.setattr("finetune.data.decoding.read_jpeg", lambda *args: None)
    assert ours == [outcome(each) for each in changed]


def outcome(content):
    try:
        found = decode_image(content)
    except UnreadableImage as error:
        return str(error)
    return found.pixels.tobytes(), found.pixels.shape, found.mode, found.notes


def test_large_pictures_keep_pillows_warning_and_limit(monkeypatch):
    content = encoded(scene(64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert read_jpeg(content) is None and "exceeds limit" in decode_image(content).notes[0]


@pytest.mark.parametrize("shape", [(1024, 768), (449, 448), (448, 448), (447, 5000), (8000, 30)])
@pytest.mark.parametrize("at_least", [(224, 224), (56, 300), (1, 1)])
def test_the_factor_is_the_largest_that_leaves_enough(shape, at_least):
    factor = shrink_factor(shape, at_least)
    fits = [f for f in (1, 2, 4, 8) if all(s >= f * a for s, a in zip(shape, at_least,
                                                                     strict=True))]
    assert factor == max(fits, default=1)


@pytest.mark.parametrize("shape", [(300, 400), (301, 403), (1000, 161), (150, 150), (79, 600)])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_scaled_decoding_never_falls_below_and_is_whole_where_nothing_can_be_saved(shape, options):
    content, wanted = encoded(scene(*shape), **options), (80, 40)
    found, whole = decode_image(content, at_least=wanted).pixels, decode_image(content).pixels
    factor = shrink_factor(shape, wanted)
    assert found.shape[:2] == tuple(-(-side // factor) for side in shape)
    if factor == 1:
        np.testing.assert_array_equal(found, whole)
    else:
        assert found.shape[0] >= wanted[0] and found.shape[1] >= wanted[1]


def difference(content, size, enough):
    """Mean absolute difference, of 255, at ``size`` between scaled and full decoding."""
    at_least = tuple(int(side * enough) for side in size)
    small, whole = decode_image(content, at_least=at_least).pixels, decode_image(content).pixels
    options = {"resize": Resize.squash, "interpolation": "bilinear"}
    shown = [resize_image(p, size, **options).astype(int) for p in (small, whole)]
    return small.shape[0] / whole.shape[0], np.abs(shown[0] - shown[1]).mean()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("subsampling", [0, 2])
def test_scaled_decoding_shows_nearly_the_same_generated_picture(seed, subsampling):
    content = encoded(scene(512, 512, seed), quality=90, subsampling=subsampling)
    shrunk, apart = difference(content, (100, 100), 1.95)
    assert shrunk == 0.5 and apart < 1.0
    shrunk, apart = difference(content, (60, 60), 2.0)
    assert shrunk == 0.25 and apart < 1.0


def test_scaled_decoding_shows_nearly_the_same_real_picture(real_data):
    files = sorted((real_data / "rsscn7").rglob("*.jpg"))[::100]
    apart = [difference(f.read_bytes(), (40, 40), 1.95) for f in files]
    assert len(files) > 15 and {shrunk for shrunk, _ in apart} == {0.5}
    assert np.mean([mean for _, mean in apart]) < 1.0 and max(m for _, m in apart) < 2.0


def dataset(folder, preset, *, train=True, decoding="scaled", dtype="uint8"):
    spec = InputSpec((32, 32), 3, ("r", "g", "b"), Dtype(dtype), (0.0, 255.0), (0.5,) * 3,
                     (0.2,) * 3)
    samples = Samples(["a.jpg"], np.zeros(1, np.int64), LabelSpec(LabelKind.single, ("a", "b")),
                      FolderSource(str(folder)))
    return ImageDataset(samples, spec=spec, decoding=decoding,
                        transform=build_transform(preset, spec, train=train))


def test_only_shipped_augmentation_of_eight_bits_decodes_smaller(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(encoded(scene(300, 300)))
    (tmp_path / "own_steps.py").write_text("def steps(spec): return lambda pixels: pixels\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert dataset(tmp_path, "natural").at_least == (63, 63)
    assert dataset(tmp_path, "natural", train=False).at_least == (64, 64)
    for whole in (dataset(tmp_path, "none"), dataset(tmp_path, "own_steps:steps"),
                  dataset(tmp_path, "natural", decoding="full"),
                  dataset(tmp_path, "natural", dtype="uint16")):
        assert whole.at_least is None
    shown = [dataset(tmp_path, "natural", decoding=d)[0, 5][0].numpy().astype(int)
             for d in ("scaled", "full")]
    assert 0 < np.abs(shown[0] - shown[1]).mean() < 3
