"""Are copies that were changed found, and are other pictures left alone?

    python benchmarks/planted_leaks.py --data rsscn7 [--copies 600] [--sheet FILE.png]
    python benchmarks/planted_leaks.py --data brain_tumor_mri --copies 0 --sheet FILE.png --shown 60

Copies of pictures drawn at random are made in memory and added to the data: resized by 0.5 to 2,
JPEG at quality 30 to 95, flipped, turned by quarters, brightened by 20 % either way, cropped to
95 % of each side at a random place, several of these, and all of them. Recall is the share of
copies that are paired with their original, by the level `certain` and by both levels. Precision is
the share of pairs that are planted or, among the data's own pictures, byte for byte identical;
pairs of the data's own pictures beyond these are counted apart, for the eye to judge: the sheet
shows 40 of them (--shown) at random, another one 40 around the threshold. A lower bound of the
precision counts all of them as false.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import describe_machine, markdown, peak_rss_mib, report

Pixels = np.ndarray
Random = np.random.Generator


def main() -> None:
    """Run the benchmark."""
    options = parse()
    import cv2

    from finetune.data.hashing import describe, stack_descriptors
    from finetune.data.near_duplicates import find_near_duplicates

    cv2.setNumThreads(1)
    files = picked(options.data, options.pictures, options.seed, options.leave_out)
    originals = drawn(len(files), options.copies, options.seed)
    started = time.perf_counter()
    described = [describe(read(file)) for file in files]
    describing = time.perf_counter() - started
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(len(originals))]
    random = np.random.default_rng(options.seed + 1)
    for original, kind in zip(originals, kinds, strict=True):
        described.append(describe(changed(read(files[original]), kind, random)))
    started = time.perf_counter()
    descriptors = stack_descriptors(described)
    pairs = find_near_duplicates(descriptors, threads=options.threads)
    finding = time.perf_counter() - started
    result = {
        "machine": describe_machine(("numpy", "opencv-python-headless")), "data": options.data.name,
        "pictures": len(files), "copies": len(originals), "threads": options.threads,
        "blank": int(descriptors.blank.sum()),
        "describe_seconds_per_1000": 1000 * describing / len(files),
        "find_seconds_per_1000": 1000 * finding / len(described), "peak_rss_mib": peak_rss_mib(),
        "kinds": recalls(pairs, originals, kinds, len(files)),
        **precisions(pairs, originals, files)}
    if options.sheet:
        write_sheets(options.sheet, pairs, files, options.seed, options.shown)
    report(options, result, table(result))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder, searched in depth")
    parser.add_argument("--pictures", type=int, help="use that many, drawn at random")
    parser.add_argument("--leave-out", metavar="WORD", help="pictures with it in their path")
    parser.add_argument("--copies", type=int, default=600, help="planted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the registration")
    parser.add_argument("--sheet", type=Path, help="write found pairs here, and those around the "
                        "threshold beside it (FILE-threshold.png)")
    parser.add_argument("--shown", type=int, default=40, help="pairs on the first sheet")
    parser.add_argument("--output", "--json", dest="json", type=Path,
                        help="write every number here too")
    return parser.parse_args()


def picked(folder: Path, count: int | None, seed: int, leave_out: str | None) -> list[Path]:
    """Pictures under a folder, in the order of their names."""
    from finetune.data.decoding import is_picture

    files = sorted(path for path in folder.rglob("*") if is_picture(path) and not (
        leave_out and leave_out in str(path.relative_to(folder))))
    if not files:
        sys.exit(f"no pictures under {folder}")
    if count is None or count >= len(files):
        return files
    return [files[i] for i in sorted(np.random.default_rng(seed).permutation(len(files))[:count])]


def drawn(count: int, copies: int, seed: int) -> list[int]:
    """Indices of the pictures to copy, each at most once."""
    return np.random.default_rng(seed).permutation(count)[:copies].tolist()


def read(file: Path) -> Pixels:
    """Pixels (H, W, 1 or 3)."""
    from finetune.data.decoding import decode_image

    return decode_image(file).pixels


def _resized(pixels: Pixels, random: Random) -> Pixels:
    import cv2

    factor = 2 ** random.uniform(-1, 1)
    by = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return deep(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=by))


def _compressed(pixels: Pixels, random: Random) -> Pixels:
    import cv2

    quality = int(random.integers(30, 96))
    content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return deep(cv2.imdecode(content, cv2.IMREAD_UNCHANGED))


def _flipped(pixels: Pixels, random: Random) -> Pixels:
    return pixels[::-1] if random.random() < 0.5 else pixels[:, ::-1]


def _turned(pixels: Pixels, random: Random) -> Pixels:
    return np.rot90(pixels, int(random.integers(1, 4)))


def _brightened(pixels: Pixels, random: Random) -> Pixels:
    return (pixels * random.uniform(0.8, 1.2)).round().clip(0, 255).astype(np.uint8)


def _cropped(pixels: Pixels, random: Random) -> Pixels:
    height, width = (round(0.95 * side) for side in pixels.shape[:2])
    top = int(random.integers(0, pixels.shape[0] - height + 1))
    left = int(random.integers(0, pixels.shape[1] - width + 1))
    return pixels[top:top + height, left:left + width]


Change = Callable[[Pixels, Random], Pixels]
KINDS: dict[str, tuple[Change, ...]] = {
    "resize 0.5-2": (_resized,), "JPEG 30-95": (_compressed,), "flip": (_flipped,),
    "quarter turn": (_turned,), "brightness ±20 %": (_brightened,), "crop 5 %": (_cropped,),
    "resize, JPEG": (_resized, _compressed), "crop, flip": (_cropped, _flipped),
    "crop, resize, JPEG": (_cropped, _resized, _compressed),
    "all": (_cropped, _flipped, _turned, _brightened, _resized, _compressed)}


def deep(pixels: Pixels) -> Pixels:
    """With the axis of channels, which OpenCV drops from grey pictures."""
    return pixels[..., None] if pixels.ndim == 2 else pixels


def changed(pixels: Pixels, kind: str, random: Random) -> Pixels:
    """A copy after the changes of one kind."""
    for change in KINDS[kind]:
        pixels = np.ascontiguousarray(change(pixels, random))
    return pixels


def recalls(pairs: Sequence[Any], originals: Sequence[int], kinds: Sequence[str],
            count: int) -> dict[str, dict[str, float]]:
    """Share of copies that are paired with their original, by kind and over all."""
    level = {(p.first, p.second): p.certain for p in pairs}
    found = [(kind, level.get((original, count + number)))
             for number, (original, kind) in enumerate(zip(originals, kinds, strict=True))]
    rows = {kind: [value for each, value in found if each == kind] for kind in KINDS}
    rows["all copies"] = [value for _, value in found]
    return {kind: {"copies": len(values), "certain": sum(v is True for v in values) / len(values),
                   "certain_or_likely": sum(v is not None for v in values) / len(values)}
            for kind, values in rows.items() if values}


def precisions(pairs: Sequence[Any], originals: Sequence[int],
               files: Sequence[Path]) -> dict[str, Any]:
    """Pairs by what they are, and the precision of those with a planted copy."""
    hashes = [hashlib.blake2b(file.read_bytes()).hexdigest() for file in files]
    source = [*range(len(files)), *originals]
    counts = {level: {"planted": 0, "identical_files": 0, "own_beyond": 0, "other": 0}
              for level in ("certain", "likely")}
    own = {(p.first, p.second) for p in pairs if p.second < len(files)}
    for pair in pairs:
        one, two = source[pair.first], source[pair.second]
        kind = ("planted" if one == two else "identical_files" if hashes[one] == hashes[two]
                else "own_beyond" if pair.second < len(files) or _paired(own, one, two)
                else "other")
        counts["certain" if pair.certain else "likely"][kind] += 1
    groups = {h: [i for i, each in enumerate(hashes) if each == h] for h in set(hashes)}
    return {"pairs": counts,
            "identical_file_groups": sum(len(members) > 1 for members in groups.values()),
            "precision": {"certain": _precision([counts["certain"]]),
                          "certain_or_likely": _precision(list(counts.values()))}}


def _paired(own: set[tuple[int, int]], one: int, two: int) -> bool:
    return (min(one, two), max(one, two)) in own


def _precision(counts: Sequence[dict[str, int]]) -> dict[str, float | None]:
    """Own pairs beyond identical files are left out, or all false."""
    right = sum(c["planted"] + c["identical_files"] for c in counts)
    other, own = (sum(c[kind] for c in counts) for kind in ("other", "own_beyond"))
    return {"without_own": right / (right + other) if right + other else None,
            "own_counted_false": right / (right + other + own) if right + other + own else None}


def write_sheets(path: Path, pairs: Sequence[Any], files: Sequence[Path], seed: int,
                 shown: int = 40) -> None:
    """Some of the data's own pairs that aren't identical files, and 20 + 20 around the threshold.

    These show each picture once at most.
    """
    from finetune.data.pair_sheet import contact_sheet

    own = [p for p in pairs if p.second < len(files) and p.correlation < 1]
    names = ["/".join(file.parts[-3:]) for file in files]
    certain = [p for p in own if p.certain]
    order = np.random.default_rng(seed).permutation(len(certain))[:shown]
    above = apart(sorted(certain, key=lambda p: p.detail))[:20]
    below = apart(sorted((p for p in own if not p.certain), key=lambda p: -p.detail))[:20]
    for target, chosen in ((path, [certain[i] for i in order]),
                           (path.with_stem(f"{path.stem}-threshold"), [*above, *below])):
        contact_sheet(chosen, names, lambda index: read(files[index]), target)


def apart(pairs: Sequence[Any]) -> list[Any]:
    """Those whose pictures are in no pair before them."""
    seen: set[int] = set()
    kept = []
    for pair in pairs:
        if not seen & {pair.first, pair.second}:
            kept.append(pair)
        seen |= {pair.first, pair.second}
    return kept


def table(result: dict[str, Any]) -> str:
    """Recall by kind; precision, pairs and time below."""
    rows = [[kind, row["copies"], row["certain"], row["certain_or_likely"]]
            for kind, row in result["kinds"].items()]
    recall = markdown(["change", "copies", "recall, certain", "recall, certain or likely"], rows)
    pairs = markdown(
        ["level", "planted", "identical files", "own pairs beyond", "other"],
        [[level, *counts.values()] for level, counts in result["pairs"].items()])
    levels = result["precision"].items()
    precision = markdown(
        ["level", "precision, own pairs left out", "precision, own pairs all false"],
        [[level, *values.values()] for level, values in levels])
    return (f"{recall}\n\n{pairs}\n\n{precision}\n\n{result['pictures']} pictures of "
            f"{result['data']}, {result['identical_file_groups']} groups of identical files; "
            f"{result['blank']} blank with the copies. Seconds per 1,000 pictures: decoding and "
            f"describing {result['describe_seconds_per_1000']:.2f}, search and registration "
            f"{result['find_seconds_per_1000']:.2f}, {result['threads']} thread(s); peak "
            f"{result['peak_rss_mib']:.0f} MiB.")


if __name__ == "__main__":
    main()
