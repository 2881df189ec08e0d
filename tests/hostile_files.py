"""Files that somebody with bad intentions would hand in, as bytes by name; `damaged` makes more."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import tifffile
import torch
from PIL import Image

MANY = 60_000  # pixels of a side that no picture has
LATIN = "1.2.840.10008.1.2.1"
DEFLATED = f"{LATIN}.99"


class Canary:
    """An object whose pickle, when it is loaded, makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickles(canary):
    """Weights with code in them, as torch writes them and as it never does."""
    evil, found = Canary(canary), {}
    for name, content in (("whole", evil), ("inside", {"state_dict": {"a": torch.zeros(2)},
                                                       "more": [evil]})):
        for form, is_zip in (("zip", True), ("legacy", False)):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=is_zip)
            found[f"{name}-{form}.pth"] = stream.getvalue()
    found["plain.pt"] = pickle.dumps(evil)
    found["protocol-0.bin"] = pickle.dumps(evil, protocol=0)
    found["named.safetensors"] = pickle.dumps(evil)
    found["joined.ckpt"] = pickle.dumps({}) + pickle.dumps(evil)
    return found


def torch_bombs():
    """Few bytes that stand for many numbers."""
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(1).expand(40_000, 40_000)}, stream)
    packed = io.BytesIO()
    small = io.BytesIO()
    torch.save({"weight": torch.zeros(4_000_000)}, small)
    with zipfile.ZipFile(small) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return {"spread.pth": stream.getvalue(), "packed.pth": packed.getvalue()}


def safetensors():
    """Headers that lie."""
    def file(header, data=b"\0" * 8, length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def tensor(shape=(2,), kind="F32", offsets=(0, 8)):
        return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}

    return {
        "length-huge": file({"a": tensor()}, length=2**63),
        "length-200-mb": file({"a": tensor()}, length=200 << 20),
        "length-zero": file(b""),
        "truncated": file({"a": tensor()})[:20],
        "overlapping": file({"a": tensor(), "b": tensor()}),
        "negative-shape": file({"a": tensor((-2,))}),
        "huge-shape": file({"a": tensor((2**62, 2**62), offsets=(0, 8))}),
        "offsets-outside": file({"a": tensor(offsets=(0, 2**40))}),
        "offsets-backwards": file({"a": tensor(offsets=(8, 0))}),
        "unknown-type": file({"a": tensor(kind="OBJECT")}),
        "deep": file(b'{"a":' + b"[" * 100_000),
        "twice": file(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                      b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
        "no-json": file(b"{nonsense"), "a-list": file(b"[1,2]"),
        "metadata-numbers": file({"__metadata__": {"finetune": 7}, "a": tensor()}),
        "nan": file({"a": tensor()}, np.array([np.nan, 1], np.float32).tobytes()),
        "nothing": b"", "eight": b"\0" * 8}


def npz(canary):
    """Archives of arrays: objects, bombs, odd names."""
    def archive(members, kind=zipfile.ZIP_DEFLATED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", kind) as file:
            for name, content in members.items():
                file.writestr(name, content)
        return stream.getvalue()

    def bomb(name, size):
        """An array of zeros, without having them in memory."""
        stream = io.BytesIO()
        with (zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file,
              file.open(name, "w") as member):
            member.write(header((size,)))
            for _ in range(size >> 20):
                member.write(b"\0" * (1 << 20))
        return stream.getvalue()

    def header(shape, descr="'|u1'"):
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()

    objects, plain = io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    np.save(plain, np.zeros(3))
    names = ("images", "labels", "ids", "logits", "label_spec")
    return {
        "objects.npz": archive({f"{n}.npy": objects.getvalue() for n in names}),
        "bomb.npz": bomb("images.npy", 300 << 20),
        "promise.npz": archive({f"{n}.npy": header((10**13,)) for n in names}),
        "negative.npz": archive({f"{n}.npy": header((-5,)) for n in names}),
        "up.npz": archive({f"../../{n}.npy": plain.getvalue() for n in names}),
        "no-array.npz": archive({f"{n}.npy": b"nonsense" for n in names}),
        "code-header.npz": archive({f"{n}.npy": header("__import__('os').getcwd()")
                                    for n in names}),
        "torn.npz": archive({"images.npy": plain.getvalue()})[:60], "no-zip.npz": b"nonsense",
        "pickle.npz": pickle.dumps(Canary(canary))}


def laughs(levels=12):
    """Ten lines of YAML that stand for a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines) + f"\nseed: *a{levels - 1}\n"


def yaml(canary):
    """Settings that would run, grow, or stand for something else."""
    return {
        "laughs": laughs(), "alias-to-itself": "seed: &a [*a]\n", "merge": "a: &a {b: 1}\n<<: *a\n",
        "object": f"seed: !!python/object/apply:os.mkdir ['{canary}']\n",
        "module": "seed: !!python/module:os\n", "name": "seed: !!python/name:os.system\n",
        "deep": "seed: " + "[" * 5000, "deep-mapping": "seed: " + "{a: " * 400 + "1" + "}" * 400,
        "long-number": "seed: " + "9" * 6000, "no-date": "seed: 2001-99-99\n",
        "list-as-key": "? [a]\n: b\n", "target": f"_target_: os.mkdir\npath: {canary}\n",
        "inner-target": f"optimizer: {{_target_: os.mkdir, path: {canary}}}\n",
        "environment": "tracking: {tags: ['${oc.env:SECRET_WORD}']}\n",
        "environment-number": "seed: ${oc.env:SECRET_WORD}\n",
        "decode": "tracking: {tags: ['${oc.decode:${oc.env:SECRET_WORD}}']}\n",
        "bytes": "\x07\x1b", "control": "seed: \"\\0\"\n", "text": "nonsense", "nothing": "",
        "list": "- a\n- b\n"}


def json_texts():
    """JSON that ends the stack, or is not what it should be."""
    return {"deep": "[" * 100_000, "deep-object": '{"a":' * 50_000, "number": "9" * 10_000,
            "list": "[]", "text": '"x"', "null": "null", "nothing": "", "torn": '{"val": {',
            "empty": "{}", "huge": '{"val": {"accuracy": 1e999}}', "constant": '{"val": NaN}',
            "bytes": "\x00\x01"}


def exports(sound, canary):
    """Exported models that hold code, lead to other files, or lie; made from a sound one."""
    import onnx

    stream = io.BytesIO()
    torch.save(Canary(canary), stream)
    found = {"pickle": pickle.dumps(Canary(canary)), "torch": stream.getvalue(), "empty": b"",
             "cut": sound[:len(sound) // 2], "noise": np.random.default_rng(0).bytes(4000),
             "repeated": sound + sound}
    model = onnx.load_from_string(sound)
    for name, location in (("up", "../../secret"), ("root", "/etc/passwd"), ("beside", "w.bin")):
        twin = _copy_of(model)
        first = max(twin.graph.initializer, key=lambda each: len(each.raw_data))
        first.ClearField("raw_data")
        first.data_location = onnx.TensorProto.EXTERNAL
        first.external_data.add(key="location", value=location)
        found[f"data {name}"] = twin.SerializeToString()
    twin = _copy_of(model)
    twin.graph.node[0].domain, twin.graph.node[0].op_type = "evil", "Shell"
    twin.opset_import.add(domain="evil", version=1)
    found["foreign operator"] = twin.SerializeToString()
    for name, text in {**json_texts(), "nothing": None}.items():
        found[f"document {name}"] = _told(model, text)
    whole = json.loads(next(e.value for e in model.metadata_props if e.key == "finetune"))
    for name, (part, key, value) in {
            "size": ("spec", "size", [10**7, 10**7]), "negative": ("spec", "size", [-8, -8]),
            "channels": ("spec", "channels", 10**9), "resize": ("spec", "resize", "evil"),
            "interpolation": ("spec", "interpolation", "__class__"),
            "classes": ("labels", "class_names", ["x"] * 3),
            "kind": ("labels", "kind", "os.mkdir")}.items():
        found[f"lies: {name}"] = _told(model, json.dumps(
            {**whole, part: {**whole[part], key: value}}))
    return found


def _copy_of(model):
    twin = type(model)()
    twin.CopyFrom(model)
    return twin


def _told(model, text):
    """The model with another document; None: without one."""
    twin = _copy_of(model)
    for place, entry in enumerate(twin.metadata_props):
        if entry.key == "finetune":
            if text is None:
                del twin.metadata_props[place]
                break
            entry.value = text
    return twin.SerializeToString()


def _png(width, height, *chunks, depth=8, colour=2):
    def chunk(kind, content):
        return (struct.pack(">I", len(content)) + kind + content
                + struct.pack(">I", zlib.crc32(kind + content)))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunk(*c) for c in chunks)
            + chunk(b"IEND", b""))


def _zeros(count):
    """So many zero bytes, packed, without having them in memory."""
    pack, found = zlib.compressobj(9), b""
    for _ in range(count >> 24):
        found += pack.compress(b"\0" * (1 << 24))
    return found + pack.compress(b"\0" * (count & 0xFFFFFF)) + pack.flush()


def _saved(form, size=(40, 30), **options):
    stream = io.BytesIO()
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (*size, 3)).astype(np.uint8)).save(stream, form,
                                                                              **options)
    return stream.getvalue()


def _tiff(**options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, options.pop("data", np.zeros((8, 8), np.uint16)), **options)
    return stream.getvalue()


def _retagged(content, tag, value, inside=None):
    """A TIFF with one number of its first page changed, and other data at its end."""
    whole, start = bytearray(content), struct.unpack("<I", content[4:8])[0]
    for number in range(struct.unpack("<H", content[start:start + 2])[0]):
        at = start + 2 + 12 * number
        found = struct.unpack("<H", content[at:at + 2])[0]
        if found == tag:
            whole[at:at + 12] = struct.pack("<HHII", tag, 4, 1, value)
        if inside is not None and found in (273, 279):
            place = len(content) if found == 273 else len(inside)
            whole[at:at + 12] = struct.pack("<HHII", found, 4, 1, place)
    return bytes(whole) + (inside or b"")


def dicom(rows=4, columns=4, syntax=LATIN, pixels=b"\0" * 32, **more):
    """A DICOM file with any lies."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = FileDataset("x.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {"Rows": rows, "Columns": columns, "SamplesPerPixel": 1, "BitsAllocated": 16,
              "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0, "PixelData": pixels,
              "PhotometricInterpretation": "MONOCHROME2"} | more
    for name, value in values.items():
        setattr(file, name, value)
    if "PixelData" in values:
        file["PixelData"].VR = "OW"
    stream = io.BytesIO()
    with pydicom.config.disable_value_validation():
        file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _deflated_dicom(size):
    plain = dicom(syntax=DEFLATED)
    start = plain.index(DEFLATED.encode())
    start += len(DEFLATED) + len(DEFLATED) % 2
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    piece = pack.compress(b"\0" * (1 << 24)) + pack.flush(zlib.Z_FULL_FLUSH)
    return plain[:start] + piece * (size >> 24) + pack.flush()


def valid_pictures():
    """One small picture of each kind, for damage."""
    return {"a.png": _saved("PNG"), "a.jpg": _saved("JPEG"), "a.gif": _saved("GIF"),
            "a.webp": _saved("WEBP"), "a.bmp": _saved("BMP"), "a.jp2": _saved("JPEG2000"),
            "progressive.jpg": _saved("JPEG", progressive=True),
            "a.tif": _tiff(data=np.arange(240, dtype=np.uint16).reshape(6, 8, 5),
                           photometric="minisblack", planarconfig="contig", compression="zlib"),
            "pages.tif": _tiff(data=np.zeros((2, 8, 8), np.float32), metadata={"axes": "CYX"},
                               photometric="minisblack"),
            "a.dcm": dicom()}


def pictures():
    """Bombs, polyglots, lies and other files under the names of pictures."""
    head = _saved("JPEG")
    frame = head.index(b"\xff\xc0")
    jpeg = head[:frame + 5] + struct.pack(">HH", 65500, 65500) + head[frame + 9:]
    whole = zlib.compress(b"\0" * (64 << 20), 9)
    gif = bytearray(_saved("GIF"))
    gif[6:10] = struct.pack("<HH", 65500, 65500)
    return {
        "bomb.png": _png(MANY, MANY, (b"IDAT", _zeros(64 << 20))),
        "bomb-16.png": _png(MANY, MANY, (b"IDAT", _zeros(1 << 20)), depth=16),
        "wide.png": _png(2**31 - 1, 1, (b"IDAT", _zeros(1 << 20))),
        "no-size.png": _png(0, 0, (b"IDAT", b"")),
        "profile.png": _png(4, 4, (b"iCCP", b"x\0\0" + whole),
                            (b"IDAT", zlib.compress(b"\0" * 52))),
        "text.png": _png(4, 4, (b"zTXt", b"x\0\0" + whole), (b"IDAT", zlib.compress(b"\0" * 52))),
        "international.png": _png(4, 4, (b"iTXt", b"x\0\1\0\0\0" + whole),
                                  (b"IDAT", zlib.compress(b"\0" * 52))),
        "bomb.jpg": jpeg, "bomb.gif": bytes(gif),
        "bomb.bmp": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack(
            "<IiiHHIIiiII", 40, MANY, MANY, 1, 24, 0, 0, 0, 0, 0, 0),
        "bomb.ppm": b"P6 60000 60000 255\n\0", "digits.ppm": b"P6 " + b"9" * 5000 + b" 1 255\n",
        "bomb.jp2": _saved("JPEG2000").replace(struct.pack(">II", 40, 30)[:4],
                                               struct.pack(">I", 2**30)),
        "bomb.tif": _retagged(_tiff(), 256, 2**31),
        "samples.tif": _retagged(_tiff(data=np.zeros((99, 99), np.uint16), compression="zlib"), 277,
                                 2**31),
        "shaped.tif": _tiff(data=np.zeros((2, 4, 4), np.uint16), metadata=None, contiguous=False,
                            description='{"shape": [9, 99999, 99999], "axes": "CYX"}'),
        "jpeg-inside.tif": _retagged(_tiff(data=np.zeros((16, 16), np.uint8), compression="jpeg",
                                           photometric="minisblack"), 258, 12, inside=jpeg),
        "no-tags.tif": b"II*\0" + struct.pack("<IHI", 8, 0, 8),
        "rows.dcm": dicom(65535, 65535), "bits.dcm": dicom(13000, 13000, BitsAllocated=64,
                                                          SamplesPerPixel=3),
        "deflated.dcm": _deflated_dicom(3 << 30),
        "report.dcm": b"\0" * 128 + b"DICM" + b"\xff" * 64,
        "truncated.png": _saved("PNG")[:200], "truncated.jpg": _saved("JPEG")[:200],
        "empty.png": b"", "page.png": b"<html><script>alert(1)</script></html>",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "script.png": b"#!/bin/sh\ntouch owned\n", "pickle.png": pickle.dumps({"a": 1}),
        "archive.png": npz("x")["up.npz"], "post.png": b"%!PS-Adobe-3.0 EPSF-3.0\n(owned) print\n",
        "heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pdf.png": b"%PDF-1.7\n",
        "exif.jpg": head[:2] + b"\xff\xe1" + struct.pack(">H", 65000) + b"Exif\0\0MM\0*"
        + b"\xff" * 64988 + head[2:]}


def damaged(content, random):
    """A few bytes changed, cut out, doubled or cut off."""
    whole = bytearray(content)
    for _ in range(random.integers(1, 6)):
        end = min(len(whole), 400) if random.random() < 0.7 else len(whole)
        at = int(random.integers(0, max(1, end)))
        kind = random.integers(0, 5)
        if kind == 0:
            whole[at:at + 1] = bytes([random.integers(0, 256)])
        elif kind == 1:
            whole[at:at + 4] = random.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff",
                                              b"\0\0\0\x80"])
        elif kind == 2:
            del whole[at:at + int(random.integers(1, 40))]
        elif kind == 3:
            whole[at:at] = whole[at:at + int(random.integers(1, 40))]
        else:
            del whole[max(4, at):]
    return bytes(whole)
