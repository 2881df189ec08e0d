"""Leave one site out: train on some hospitals, cameras or regions, test on another."""

import numpy as np
import numpy.typing as npt

from finetune.data.assigning import Division, class_vector, cut_val, lacking
from finetune.data.dependence import Dependence
from finetune.data.samples import Samples
from finetune.data.unions import joined
from finetune.errors import DataError, did_you_mean, first_of

__all__ = ["split_by_site"]

Names = npt.NDArray[np.str_]


def split_by_site(samples: Samples, dependence: Dependence,
                  division: Division) -> tuple[Names, list[str]]:
    """Test is one site; "" for what was dropped; and what has to be said.

    Val is whole sites where three others or more are left and every class is in two of them, else
    it is cut from the others by groups. Pictures of other sites that share a group with the test
    site, or are identical to one of its pictures, are dropped.

    Raises:
        DataError: Fewer than two sites, an unknown one, or train lacks a class.
    """
    assert dependence.sites is not None and dependence.test_site is not None
    sites, test_site = np.array(dependence.sites), dependence.test_site
    _check_sites(sorted(set(dependence.sites)), test_site)
    names = np.where(sites == test_site, "test", "train").astype("<U5")
    dropped = [i for unit in joined(len(samples), division.together)
               if len(set(names[unit])) > 1 for i in unit if names[i] == "train"]
    names[dropped] = ""
    _refuse_untrained(samples, names, test_site)
    others = [np.flatnonzero((sites == site) & (names == "train")).tolist()
              for site in sorted({*sites[names == "train"]})]
    whole = Division(division.seed, division.val_fraction, 0.0, [*division.together, *others])
    told = [f"data.split=site: test is {test_site}, {int((names == 'test').sum())} pictures; "
            f"{len(others)} other sites are left"]
    if dropped:
        told.append(f"{len(dropped)} pictures of other sites share a group with {test_site}, or "
                    "are identical to one of its pictures, and were dropped")
    if len(others) >= 3 and _coverable(samples, names, whole):
        names = cut_val(samples, names, whole)
        told.append(f"val is whole sites: {first_of(sorted({*sites[names == 'val']}))}")
        return names, told
    few = "fewer than three" if len(others) < 3 else "not every class is in two"
    told.append(f"val is cut from the other sites by {_units(samples)}, not by whole sites: {few} "
                "of them; the choice of the epoch sees no new site")
    return cut_val(samples, names, division), told


def _check_sites(there: list[str], test_site: str) -> None:
    if len(there) < 2:
        raise DataError(f"data.split=site: all pictures are of one site, {there[0]}; expected two "
                        "or more in data.site_column")
    if test_site not in there:
        raise DataError(f"data.test_site={test_site}: there is no such site"
                        f"{did_you_mean(test_site, there)}; there are {first_of(there, count=10)}")


def _refuse_untrained(samples: Samples, names: Names, test_site: str) -> None:
    untrained = lacking(samples, names, "train")
    if untrained:
        raise DataError(f"data.split=site: {len(untrained)} classes are in no site but "
                        f"{test_site}: {first_of(untrained)}. Choose another data.test_site, or "
                        "leave these classes out")


def _coverable(samples: Samples, names: Names, division: Division) -> bool:
    """Whether every class is in two sites (joined by groups) or more."""
    units = [[i for i in unit if names[i] == "train"]
             for unit in joined(len(samples), division.together)]
    counts = np.stack([class_vector(samples, unit) for unit in units if unit])
    return bool(((counts > 0).sum(axis=0) >= 2).all())


def _units(samples: Samples) -> str:
    return "pictures" if samples.groups is None else "groups"
