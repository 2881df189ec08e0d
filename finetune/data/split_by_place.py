"""Spatial blocks with a buffer: neighbouring pictures don't end up in different parts.

Roberts et al. 2017 (Ecography, doi 10.1111/ecog.02881) on blocks; Ploton et al. 2020 (Nature
Communications, doi 10.1038/s41467-020-18321-y) on what random splits of maps pretend.
"""

import numpy as np
import numpy.typing as npt

from finetune.data.assigning import Division, assign, lacking
from finetune.data.dependence import Dependence
from finetune.data.place_leaks import drop_near, nearest
from finetune.data.samples import Samples
from finetune.data.unions import joined
from finetune.errors import DataError, first_of

__all__ = ["split_by_place"]

Names = npt.NDArray[np.str_]
REMEDY = ("Try smaller blocks (data.block_size), another data.split_seed, a smaller "
          "data.block_buffer, or join or remove these classes")


def split_by_place(samples: Samples, dependence: Dependence,
                   division: Division) -> tuple[Names, list[str]]:
    """Parts of whole blocks, "" for what the buffer dropped; and what has to be said.

    The plane is cut into squares at multiples of the block size. Blocks are assigned so that
    classes are divided evenly; groups and identical pictures join the blocks in which they lie.
    Then train loses what is nearer than the buffer to val or test, and val what is nearer to test.

    Raises:
        DataError: Fewer than two blocks, or a class (or all) of a part is gone.
    """
    places, size, buffer = dependence.places, dependence.block_size, dependence.block_buffer
    assert places is not None and size is not None
    blocks = _blocks(places, size)
    units = joined(len(samples), [*blocks, *division.together])
    if len(units) < 2:
        raise DataError(_one_block(places, size, len(blocks)))
    whole = assign(samples, units, division.shares, division.seed, kind="blocks", remedy=REMEDY)
    names = drop_near(whole, places, buffer)
    _refuse_gaps(samples, names, list(division.shares), buffer)
    return names, _told(whole, names, dependence, len(blocks), len(units))


def _blocks(places: npt.NDArray[np.float64], size: float) -> list[list[int]]:
    _, number = np.unique(np.floor(places / size), axis=0, return_inverse=True)
    blocks: dict[int, list[int]] = {}
    for index, block in enumerate(number.reshape(-1).tolist()):
        blocks.setdefault(block, []).append(index)
    return list(blocks.values())


def _one_block(places: npt.NDArray[np.float64], size: float, blocks: int) -> str:
    (left, bottom), (right, top) = places.min(axis=0), places.max(axis=0)
    extent = f"the pictures lie in x {left:g} to {right:g}, y {bottom:g} to {top:g}"
    if blocks > 1:
        return (f"data.split=spatial: {blocks} blocks of {size:g} are joined to one by groups or "
                f"identical pictures that lie in several ({extent}); name groups that are smaller "
                "than a block, or ignore them with data.group_column=null")
    return (f"data.split=spatial: all pictures lie in one block: data.block_size={size:g}, and "
            f"{extent}; choose smaller blocks")


def _refuse_gaps(samples: Samples, names: Names, parts: list[str], buffer: float) -> None:
    empty = [part for part in parts if not (names == part).any()]
    if empty:
        raise DataError(f"data.block_buffer={buffer:g} leaves no picture in {' and '.join(empty)}: "
                        "choose a smaller buffer, or larger blocks")
    gone = {part: lacking(samples, names, part) for part in parts}
    lines = [f"{len(classes)} classes have no picture in {part}: {first_of(classes)}"
             for part, classes in gone.items() if classes]
    if lines:
        raise DataError("data.split=spatial: " + "; ".join(lines) + f". {REMEDY}")


def _told(whole: Names, names: Names, dependence: Dependence, blocks: int,
          units: int) -> list[str]:
    size, buffer, places = dependence.block_size, dependence.block_buffer, dependence.places
    assert places is not None
    told = [f"data.split=spatial: {blocks} blocks of {size:g} x {size:g}"]
    if units < blocks:
        told[0] += f", joined to {units} by groups or identical pictures that lie in several"
    lost = {part: int(((whole == part) & (names == "")).sum()) for part in ("train", "val")}
    if any(lost.values()):
        counts = " and ".join(f"{n} pictures of {part}" for part, n in lost.items() if n)
        told.append(f"data.block_buffer={buffer:g}: {counts} are nearer than that to another part "
                    "and were dropped")
    if not buffer:
        told.append("data.block_buffer=0: pictures on both sides of a block's edge can be "
                    "neighbours in different parts")
    last = "test" if (names == "test").any() else "val"
    distances, _ = nearest(places, names == last, names == "train")
    told.append(f"from a picture of {last}, the nearest of train is {np.median(distances):.4g} "
                f"away in the median, {distances.min():.4g} at least")
    return told
