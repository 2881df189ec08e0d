"""Every colour mode, number type and file format becomes (H, W, C); broken ones say why."""

import io
import struct
import sys
import threading
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from finetune.data.caught import caught_warnings
from finetune.data.decoding import (
    UnreadableImage,
    conform,
    decode_image,
    is_picture,
    resize_image,
    to_unit_range,
)
from finetune.errors import DataError, InputError
from finetune.specs import Dtype, Resize

RANDOM = np.random.default_rng(0)
RGB = cv2.GaussianBlur(RANDOM.integers(0, 256, (24, 32, 3), np.uint8), (5, 5), 2)
BANDS = RANDOM.integers(0, 65536, (24, 32, 13), np.uint16)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(pixels, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def reason(content, **options):
    with pytest.raises(UnreadableImage) as caught:
        decode_image(content, **options)
    return str(caught.value)


# ---- ordinary pictures

@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_plain_modes_are_pillows_numbers(mode):
    image = Image.fromarray(RGB).convert(mode)
    expected = np.asarray(image.convert("RGB" if mode == "RGB" else "L")).reshape(24, 32, -1)
    found = decode_image(encoded(image))
    assert found.pixels.dtype == np.uint8 and found.mode == mode and found.notes == ()
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.pixels.flags.c_contiguous


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1)])
def test_alpha_is_dropped_as_pillow_does_and_said(mode, channels):
    image = Image.fromarray(RGB).convert(mode)
    image.putalpha(Image.fromarray(RGB[..., 0]))
    found = decode_image(encoded(image))
    np.testing.assert_array_equal(
        found.pixels.squeeze(), np.asarray(image.convert("RGB" if channels == 3 else "L")))
    assert found.notes == ("alpha dropped",)


def test_palette_becomes_colour_with_and_without_transparency():
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(encoded(image)).pixels, expected)
    found = decode_image(encoded(image, transparency=bytes([0, 128, 255])))
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.notes == ("alpha dropped",)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind):
    content = encoded(Image.fromarray(RGB).convert("CMYK"), kind)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB"))
    found = decode_image(content)
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.mode == "CMYK" and found.notes == ("CMYK converted to RGB",)


def test_lab_comes_back_as_the_colours_it_was_made_from():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(RGB), *profiles, outputMode="LAB")
    found = decode_image(encoded(lab, "TIFF"))
    assert np.abs(found.pixels.astype(int) - RGB).max() <= 6 and found.mode == "LAB"


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_numbers(kind):
    values = BANDS[..., 0]
    found = decode_image(encoded(Image.fromarray(values), kind))
    assert found.pixels.dtype == np.uint16
    np.testing.assert_array_equal(found.pixels[..., 0], values)


def test_big_endian_sixteen_bits_are_native_numbers():
    found = decode_image(tiff(BANDS[..., 0].astype(">u2"), byteorder=">"))
    assert found.pixels.dtype == np.dtype("=u2") and found.pixels.dtype.isnative
    np.testing.assert_array_equal(found.pixels[..., 0], BANDS[..., 0])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_colour_png_is_not_cut_to_eight_bits(channels):
    import imagecodecs

    content = imagecodecs.png_encode(np.ascontiguousarray(BANDS[..., :channels]))
    found = decode_image(content)
    assert found.pixels.dtype == np.uint16 and found.mode.endswith(";16")
    np.testing.assert_array_equal(found.pixels, BANDS[..., :3 if channels > 2 else 1])


def test_pgm_of_sixteen_bits_is_uint16():
    values = BANDS[..., 1]
    content = b"P5 32 24 65535\n" + values.astype(">u2").tobytes()
    found = decode_image(content)
    assert found.pixels.dtype == np.uint16
    np.testing.assert_array_equal(found.pixels[..., 0], values)


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32", "float16", "float64"])
def test_other_number_types_become_float32_whatever_their_values(dtype):
    values = np.arange(24 * 32).reshape(24, 32).astype(dtype)
    found = decode_image(tiff(values))
    assert found.pixels.dtype == np.float32 and f"{dtype} read as float32" in found.notes
    np.testing.assert_array_equal(found.pixels[..., 0], values.astype(np.float32))


@pytest.mark.parametrize("write", [lambda a: encoded(Image.fromarray(a), "TIFF"), tiff])
def test_float_grey_keeps_its_numbers_and_nan_is_refused(write):
    values = RANDOM.normal(size=(24, 32)).astype(np.float32)
    np.testing.assert_array_equal(decode_image(write(values)).pixels[..., 0], values)
    values[3, 4:6] = np.nan, np.inf
    assert "2 pixels are NaN or infinite" in reason(write(values))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied_as_pillow_does(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(RGB), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_image(content).pixels, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_many_channel_tiff_is_that_of_rgb(orientation):
    extra = [(274, "H", 1, orientation, True)]
    many = decode_image(tiff(BANDS, photometric="minisblack", planarconfig="contig",
                             extratags=extra)).pixels
    few = decode_image(tiff(BANDS[..., 0].astype(np.uint8), extratags=extra)).pixels
    np.testing.assert_array_equal(many[..., :1].astype(np.uint8), few)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_used_and_said(kind):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(first, kind, save_all=True, append_images=[second, first], **options)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB"))
    found = decode_image(content)
    np.testing.assert_array_equal(found.pixels, expected)
    assert "frame 1 of 3 used" in found.notes


@pytest.mark.parametrize("kind", ["BMP", "PPM", "WEBP", "JPEG2000", "GIF"])
def test_other_formats_are_pillows_numbers(kind):
    content = encoded(Image.fromarray(RGB), kind)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(content).pixels, expected)


def test_paths_in_any_case_and_script_are_read(tmp_path):
    path = tmp_path / "Röntgen 胸部.JPG"
    path.write_bytes(encoded(Image.fromarray(RGB), "JPEG"))
    assert is_picture(path) and not is_picture("a/b.txt")
    np.testing.assert_array_equal(decode_image(path).pixels,
                                  decode_image(path.read_bytes()).pixels)


# ---- TIFF

@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "predictor": True},
                                     {"compression": "lzw"}, {"tile": (16, 16)},
                                     {"bigtiff": True}, {"byteorder": ">"}])
def test_thirteen_channels_of_uint16_in_any_layout(planar, options):
    stored = BANDS if planar == "contig" else BANDS.transpose(2, 0, 1)
    found = decode_image(tiff(stored, photometric="minisblack", planarconfig=planar, **options))
    assert found.pixels.dtype == np.uint16 and found.mode == "uint16x13" and found.notes == ()
    np.testing.assert_array_equal(found.pixels, BANDS)
    assert found.pixels.flags.c_contiguous


def test_an_array_that_tifffile_wrote_as_pages_of_rows_is_one_picture():
    found = decode_image(tiff(BANDS))
    np.testing.assert_array_equal(found.pixels, BANDS)
    assert "13 channels" in found.notes[0]


def test_pages_are_frames_unless_they_are_named_channels():
    pages = BANDS.transpose(2, 0, 1)
    frames = decode_image(tiff(pages))
    np.testing.assert_array_equal(frames.pixels, BANDS[..., :1])
    assert len(frames.notes) == 1 and frames.notes[0].startswith("frame 1 of 13 used (if pages")
    for options in ({"imagej": True}, {"ome": True}):
        named = decode_image(tiff(pages, photometric="minisblack", metadata={"axes": "CYX"},
                                  **options))
        np.testing.assert_array_equal(named.pixels, BANDS)


def test_a_fourth_band_stays_and_alpha_goes():
    four = RANDOM.integers(0, 256, (24, 32, 4), np.uint8)
    kept = decode_image(tiff(four, photometric="rgb", extrasamples=["unspecified"]))
    np.testing.assert_array_equal(kept.pixels, four)
    for pixels in (four, four.astype(np.uint16)):
        dropped = decode_image(tiff(pixels, photometric="rgb", extrasamples=["unassalpha"]))
        np.testing.assert_array_equal(dropped.pixels, pixels[..., :3])
        assert "alpha dropped" in dropped.notes


@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_eight_bit_bands_stay_all(channels, planar):
    pixels = RANDOM.integers(0, 256, (24, 32, channels), np.uint8)
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    found = decode_image(tiff(stored, photometric="minisblack", planarconfig=planar))
    np.testing.assert_array_equal(found.pixels, pixels)


def test_white_is_zero_is_turned_round_as_pillow_does():
    grey = RGB[..., 0]
    eight = decode_image(tiff(grey, photometric="miniswhite")).pixels
    sixteen = decode_image(tiff(grey.astype(np.uint16) * 257, photometric="miniswhite")).pixels
    np.testing.assert_array_equal(eight[..., 0], 255 - grey)
    np.testing.assert_array_equal(sixteen[..., 0], 65535 - grey.astype(np.uint16) * 257)


def test_sixteen_bit_cmyk_is_refused_rather_than_taken_for_bands():
    assert "CMYK" in reason(tiff(BANDS[..., :4], photometric="separated"))


@pytest.mark.parametrize(("dtype", "value"), [
    ("float32", "-9999"), ("float32", "nan"), ("uint16", "65535"), ("int16", "-32768"),
    ("float32", "-3.4028234663852886e+38"), ("uint16", "-9999"), ("uint16", "0")])
def test_what_gdal_marks_as_no_data_is_zero_and_said(dtype, value):
    pixels = np.arange(1, 81).reshape(4, 5, 4).astype(dtype)
    fits = not (dtype == "uint16" and value == "-9999")
    pixels[1, 2] = float(value) if fits else 7
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, photometric="minisblack", planarconfig="contig",
                     metadata=None, extratags=[(42113, "s", 0, value, True)])
    found = decode_image(stream.getvalue())
    assert (found.pixels[1, 2] == (0 if fits else 7)).all()
    rest = np.ones((4, 5), bool)
    rest[1, 2] = False
    np.testing.assert_array_equal(found.pixels[rest], pixels[rest])
    assert any("no data" in note for note in found.notes) == (fits and value != "0")


def test_complex_numbers_are_no_picture():
    assert "complex64" in reason(tiff(RGB[..., 0].astype(np.complex64)))


# ---- broken files

WHOLE = {
    "JPEG": encoded(Image.fromarray(RGB), "JPEG"), "PNG": encoded(Image.fromarray(RGB), "PNG"),
    "GIF": encoded(Image.fromarray(RGB), "GIF"), "BMP": encoded(Image.fromarray(RGB), "BMP"),
    "WEBP": encoded(Image.fromarray(RGB), "WEBP"), "PPM": encoded(Image.fromarray(RGB), "PPM"),
    "TIFF": encoded(Image.fromarray(RGB), "TIFF"),
    "JP2": encoded(Image.fromarray(RGB), "JPEG2000"),
    "TIFF-13": tiff(BANDS, photometric="minisblack", planarconfig="contig"),
    "TIFF-13-zlib": tiff(BANDS, photometric="minisblack", planarconfig="contig",
                         compression="zlib", rowsperstrip=4),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated_pictures_are_unreadable(kind, part):
    content = WHOLE[kind]
    assert "scan7.x" in reason(content[:int(len(content) * part)], name="scan7.x")


@pytest.mark.parametrize("kind", WHOLE)
def test_random_damage_raises_nothing_but_unreadable(kind):
    random = np.random.default_rng(1)
    for _ in range(25):
        content = np.frombuffer(WHOLE[kind], np.uint8).copy()
        content[random.integers(8, min(len(content), 600), 6)] = random.integers(0, 256, 6)
        try:
            decode_image(content.tobytes())
        except UnreadableImage:
            pass


def test_empty_missing_and_foreign_files_say_so(tmp_path):
    assert "empty (0 bytes)" in reason(b"", name="a.png")
    assert "No such file" in reason(tmp_path / "none.png")
    assert "not a picture" in reason(b"<html>not found</html>" * 20, name="a.jpg")


def test_postscript_is_not_handed_to_an_outside_program():
    assert "not a picture" in reason(encoded(Image.fromarray(RGB), "EPS"), name="a.jpg")


def bomb_png():
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    body = b"IHDR" + header
    return (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body
            + struct.pack(">I", __import__("zlib").crc32(body)) + b"\0\0\0\0IDAT\0\0\0\0")


def test_bombs_are_refused_before_they_are_unpacked():
    assert "too large" in reason(bomb_png())
    small = bytearray(tiff(np.zeros((8, 8), np.uint16)))
    with tifffile.TiffFile(io.BytesIO(bytes(small))) as file:
        places = [file.pages.first.tags[n].valueoffset for n in (256, 257)]
    for place in places:
        small[place:place + 4] = struct.pack("<I", 60000)[:4]
    assert "more than 178956970" in reason(bytes(small))


def test_warnings_of_pillow_become_notes_and_filters_are_left_alone(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # 24 x 32 pixels are between it and twice
    before = list(warnings.filters)
    found = decode_image(WHOLE["PNG"])
    assert any("decompression bomb" in note for note in found.notes)
    assert warnings.filters == before


def test_threads_keep_their_warnings_apart():
    before, shown, ready = list(warnings.filters), {}, threading.Barrier(4)

    def work(number):
        for _ in range(50):
            with caught_warnings() as notes:
                ready.wait()
                warnings.warn(f"from {number}", stacklevel=1)
            shown.setdefault(number, []).extend(notes)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shown == {n: [f"from {n}"] * 50 for n in range(4)}
    assert warnings.filters == before


# ---- DICOM

def dicom_path(name):
    data = pytest.importorskip("pydicom.data")
    path = Path(data.__file__).parent / "test_files" / name
    if not path.is_file():
        pytest.skip(f"{name} does not come with pydicom")
    return path


def stored(path):
    import pydicom
    from pydicom.pixels import apply_modality_lut

    file = pydicom.dcmread(path)
    return file, apply_modality_lut(file.pixel_array, file)


def changed(path, **values):
    file, stream = stored(path)[0], io.BytesIO()
    for key, value in values.items():
        setattr(file, key, value)
    file.save_as(stream)
    return stream.getvalue()


def test_dicom_window_is_that_of_pydicom_on_sixteen_bits():
    from pydicom.pixels import apply_windowing

    path = dicom_path("MR_small.dcm")
    file, values = stored(path)
    shown = apply_windowing(values, file)  # its result spans the range of what is stored
    ends = apply_windowing(np.array([-1e6, 1e6]), file)
    expected = (shown - ends[0]) / (ends[1] - ends[0]) * 65535
    found = decode_image(path)
    assert found.pixels.dtype == np.uint16 and found.mode == "MONOCHROME2"
    assert np.abs(found.pixels[..., 0] - expected).max() <= 1


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions_put_the_centre_in_the_middle(function):
    path = dicom_path("CT_small.dcm")
    values = stored(path)[1]
    centre = float(np.median(values))
    content = changed(path, WindowCenter=[centre, 5], WindowWidth=[400, 1],
                      VOILUTFunction=function)
    pixels = decode_image(content, name="x").pixels[..., 0]
    assert abs(pixels[values == centre].mean() / 65535 - 0.5) < 0.002
    order = np.argsort(values, axis=None)
    assert (np.diff(pixels.ravel()[order].astype(int)) >= 0).all()


def test_without_a_window_the_whole_range_is_used_and_said():
    path = dicom_path("CT_small.dcm")
    found, values = decode_image(path), stored(path)[1]
    expected = (values - values.min()) / (values.max() - values.min()) * 65535
    assert np.abs(found.pixels[..., 0] - expected).max() <= 0.51
    assert found.notes == ("no VOI window: smallest to largest value used",)


def test_monochrome1_is_inverted():
    path = dicom_path("CT_small.dcm")
    inverted = decode_image(changed(path, PhotometricInterpretation="MONOCHROME1"))
    assert set(np.unique(inverted.pixels.astype(int) + decode_image(path).pixels)) == {65535}


@pytest.mark.parametrize(("name", "dtype"), [
    ("SC_rgb_small_odd.dcm", "uint8"), ("SC_rgb_rle_16bit.dcm", "uint16"),
    ("SC_rgb_rle_32bit.dcm", "uint16"), ("SC_rgb_dcmtk_+eb+cy+np.dcm", "uint8"),
    ("examples_palette.dcm", "uint16")])
def test_colour_dicom_is_rgb_and_never_wraps(name, dtype):
    found = decode_image(dicom_path(name))
    assert found.pixels.shape[-1] == 3 and found.pixels.dtype == dtype
    assert np.iinfo(dtype).max * 0.6 < found.pixels.max()  # the whole range is in use


def test_ybr_dicom_has_the_colours_of_its_rgb_twin():
    rgb, ybr = (decode_image(dicom_path(f"SC_rgb_dcmtk_+eb+{kind}.dcm")).pixels.astype(int)
                for kind in ("cr", "cy+n1"))
    assert np.abs(rgb - ybr).mean() < 4  # JPEG of reduced chroma; unconverted it would be 80


@pytest.mark.parametrize(("name", "twin", "tolerance"), [
    ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm", 0),
    ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_gdcm_KY.dcm", 0),  # lossless JPEG; the other is JPEG 2000
    ("SC_rgb_jls_lossy_line.dcm", "SC_rgb_gdcm_KY.dcm", 8),
    ("SC_rgb_jls_lossy_sample.dcm", "SC_rgb_gdcm_KY.dcm", 8)])
def test_compressed_dicom_is_its_plain_twin(name, twin, tolerance):
    found, plain = (decode_image(dicom_path(n)).pixels.astype(int) for n in (name, twin))
    assert np.abs(found - plain).max() <= tolerance


def test_twelve_bit_jpeg_in_dicom_is_read():
    found = decode_image(dicom_path("JPGExtended.dcm"))
    assert found.pixels.shape == (1024, 256, 1) and found.pixels.dtype == np.uint16
    assert len(np.unique(found.pixels)) > 200


def test_dicom_without_pixels_truncated_or_not_dicom_is_unreadable():
    assert "no DICOM picture" in reason(dicom_path("rtplan.dcm"))
    assert "less than expected" in reason(dicom_path("MR_truncated.dcm"))
    assert "no DICOM at all" in reason(b"no medical picture" * 30, name="a.dcm")
    assert "more than" in reason(changed(dicom_path("CT_small.dcm"), Rows=60000, Columns=60000))


def test_dicom_is_known_by_its_magic_too():
    path = dicom_path("CT_small.dcm")
    by_magic = decode_image(path.read_bytes(), name="no extension")
    np.testing.assert_array_equal(by_magic.pixels, decode_image(path).pixels)


def test_dicom_without_pydicom_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"finetune-images\[medical\]"):
        decode_image(b"\0" * 128 + b"DICM" + b"\0" * 50, name="scan")


# ---- conform, ranges, sizes

def test_conform_leaves_the_same_type_alone():
    for pixels, dtype in ((RGB, Dtype.uint8), (BANDS, Dtype.uint16)):
        assert conform(pixels, channels=pixels.shape[-1], dtype=dtype) is pixels


def test_conform_of_integers_is_exact_at_every_value():
    all16 = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    all8 = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(conform(all16, channels=1, dtype=Dtype.uint8),
                                  np.rint(all16 / 257).astype(np.uint8))
    up = conform(all8, channels=1, dtype=Dtype.uint16)
    np.testing.assert_array_equal(up, all8.astype(int) * 257)
    np.testing.assert_array_equal(conform(up, channels=1, dtype=Dtype.uint8), all8)
    for pixels, top in ((all8, 255), (all16, 65535)):
        unit = conform(pixels, channels=1, dtype=Dtype.float32)
        np.testing.assert_allclose(unit, pixels / top, rtol=1e-6)
        assert unit.dtype == np.float32


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0.0, 1.0, (0, 255)), (0.2, 0.6, (51, 153)), (0.0, 200.4, (0, 200)), (30.0, 255.0, (30, 255)),
    (-5.0, 1.0, (0, 255)), (0.0, 4095.0, (0, 255)), (7000.0, 7000.0, (0, 0))])
def test_float_to_eight_bits_follows_the_stated_rule(low, high, expected):
    pixels = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8, 1)
    found = conform(pixels, channels=1, dtype=Dtype.uint8)
    assert (found.min(), found.max()) == expected
    assert (np.diff(found.ravel().astype(int)) >= 0).all()  # nothing wrapped


def test_conform_of_channels():
    np.testing.assert_array_equal(conform(RGB[..., :1], channels=3, dtype=Dtype.uint8),
                                  np.repeat(RGB[..., :1], 3, axis=-1))
    luma = conform(RGB, channels=1, dtype=Dtype.uint8)[..., 0].astype(int)
    assert np.abs(luma - np.asarray(Image.fromarray(RGB).convert("L"))).max() <= 1
    np.testing.assert_array_equal(conform(np.dstack([RGB, RGB[..., 0]]), channels=3,
                                          dtype=Dtype.uint8), RGB)
    with pytest.raises(DataError, match=r"13 channels and 3 are wanted; use data.channels=13"):
        conform(BANDS, channels=3, dtype=Dtype.uint16)


def test_unit_range_is_linear_and_clipped():
    pixels = np.array([-100, 0, 500, 1000, 2000], np.float32).reshape(1, 5, 1)
    found = to_unit_range(pixels, (0, 1000))
    np.testing.assert_allclose(found.ravel(), [0, 0, 0.5, 1, 1])
    assert found.dtype == np.float32
    assert np.isfinite(to_unit_range(pixels, (3, 3))).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "area", "nearest"])
@pytest.mark.parametrize("resize", list(Resize))
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4, 13])
def test_resizing_keeps_type_and_channels(dtype, channels, resize, interpolation):
    pixels = BANDS[..., :channels].astype(dtype)
    for size in ((10, 10), (48, 20)):
        found = resize_image(pixels, size, resize=resize, interpolation=interpolation)
        assert found.shape == (*size, channels) and found.dtype == dtype


def test_squash_is_pillows_resize_and_all_types_agree():
    expected = np.asarray(Image.fromarray(RGB).resize((9, 7), Image.Resampling.BICUBIC))
    options = {"resize": Resize.squash, "interpolation": "bicubic"}
    np.testing.assert_array_equal(resize_image(RGB, (7, 9), **options), expected)
    for dtype, scale in (("uint16", 256), ("float32", 1)):
        found = resize_image(RGB.astype(dtype) * scale, (7, 9), **options)
        assert np.abs(found.astype(float) / scale - expected).max() <= 1
    stacked = resize_image(np.dstack([RGB, RGB[..., :1]]), (7, 9), **options)
    assert np.abs(stacked[..., :3].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area", "lanczos"])
def test_shrinking_is_antialiased(dtype, interpolation):
    board = ((np.indices((64, 64)).sum(0) % 2) * 200).astype(dtype)[..., None]
    for channels in (1, 5):
        found = resize_image(np.repeat(board, channels, -1), (16, 16), resize=Resize.squash,
                             interpolation=interpolation)
        assert np.abs(found[2:-2, 2:-2].astype(float) - 100).max() <= 6


def test_overshoot_does_not_wrap():
    edge = np.zeros((16, 16, 2), np.uint16)
    edge[:, 8:] = 65535
    found = resize_image(edge, (40, 40), resize=Resize.squash, interpolation="lanczos")
    assert set(np.unique(found[:, :10])) == {0} and set(np.unique(found[:, -10:])) == {65535}


def test_crop_takes_the_centre_and_pad_shows_all():
    pixels = np.zeros((20, 40, 1), np.uint8)
    pixels[:, 10:30] = 200
    cropped = resize_image(pixels, (20, 20), resize=Resize.crop, interpolation="bilinear")
    assert (cropped == 200).all()
    padded = resize_image(pixels, (20, 20), resize=Resize.pad, interpolation="area")
    np.testing.assert_array_equal(padded[5:15], resize_image(
        pixels, (10, 20), resize=Resize.squash, interpolation="area"))
    assert padded[:5].max() == padded[15:].max() == 0


def test_crop_of_a_very_long_picture_takes_no_memory():
    long = np.full((2, 60000, 1), 9, np.uint8)
    found = resize_image(long, (224, 224), resize=Resize.crop, interpolation="bilinear")
    assert (found == 9).all()
