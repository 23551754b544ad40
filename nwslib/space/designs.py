"""Designs: drawn, or made by hand and completed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from nwslib import __version__
from nwslib.space.columns import COLUMNS, check_value, switch_columns
from nwslib.space.families import COLLECTIONS, Family, family_of
from nwslib.space.vocabulary import PROPERTIES, SHARD_ROWS, VOCABULARY, channels, nearest

_TEST_ONE_IN = 4
_TYPES = {str: str, int: "int64", float: "float64"}


def sample(collection: str, networks: int, seed: int, **fixed: Any) -> xr.Dataset:
    """Draw a design: `networks` rows of hyper-parameters, each value independent and uniform.

    Row ``n`` depends on `seed` and ``n`` alone, so a longer design begins with the shorter one and a population
    can grow without losing a network.

    Parameters
    ----------
    collection
        ``"nws_main"`` (all twelve properties vary), ``"nws_fixed"`` or ``"nws_small"`` (one architecture each,
        seven properties vary); ``"siren"`` or ``"kan_image"`` (one network per training image, row ``n`` that of image
        ``n``); ``"noisy_cnn"``, ``"noisy_mlp"`` or ``"noisy_kan"`` (classifiers of varied quality); ``"resnet8"``.
    networks
        Number of rows, at least 1.
    seed
        Seed of the design, 0 or larger.
    **fixed
        A column of the collection's family (of the study: a property, ``image_size`` or ``decay``), held at one value
        (``optimizer="adam"``), or drawn from a list of values (``dataset=["digits", "glyphs"]``). Of numbers that are
        not whole, two values are a range; outside the study, learning rate and weight decay are drawn from it evenly on
        a logarithmic scale. Of the study, values outside its space are refused here but allowed in a design by hand.

    Returns
    -------
    xarray.Dataset
        Dimension ``model``; the family's columns, ``seed`` (of the network), ``split`` and ``shard``.

    Raises
    ------
    ValueError
        If the collection, a column or a value is unknown.

    Examples
    --------
    >>> design = sample("nws_small", 3, seed=0, dataset="digits")
    >>> design["dataset"].values.tolist()
    ['digits', 'digits', 'digits']
    >>> sample("siren", 3, seed=0)["image"].values.tolist()
    [0, 1, 2]
    """
    if collection not in COLLECTIONS:
        raise ValueError(f"unknown collection {collection!r}. {nearest(collection, COLLECTIONS)}")
    if not isinstance(networks, int | np.integer) or networks < 1:
        raise ValueError(f"a design needs a whole number of networks, at least 1, not {networks!r}")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, not {seed!r}")
    family = family_of(COLLECTIONS[collection])
    asked = {**family.drawn, **family.constants, **COLLECTIONS[collection]}
    for name in fixed:
        if name not in asked:
            raise ValueError(f"unknown property {name!r}. {nearest(name, asked)}")
    choices = {name: _choices(name, value, family) for name, value in (asked | fixed).items()}
    draws = dict(zip(family.draws, _uniform(seed, networks, len(family.draws)).T, strict=True))
    nothing = np.zeros(networks, "uint64")
    columns = {name: _pick(name, values, draws.get(name, nothing), family) for name, values in choices.items()}
    columns["seed"] = (draws["seed"] >> np.uint64(1)).astype("int64")
    columns["split"] = _split(draws["split"])
    design = xr.Dataset({name: ("model", values) for name, values in columns.items()})
    design = design.assign_coords(model=np.arange(networks))
    design.attrs = {"collection": collection, "seed": seed, "library_version": __version__}
    return complete(design)


def complete(design: xr.Dataset) -> xr.Dataset:
    """Check a design, and add what can be derived: ``model``, the constants, ``image``, ``split`` and ``shard``.

    Parameters
    ----------
    design
        Dimension ``model``; at least ``seed`` and the columns that vary in the networks' family (of the study: every
        property of `PROPERTIES`). Made by `sample` or by hand: any positive batch size, odd filter size, width and
        depth is allowed. The columns of `switch` may be there.

    Returns
    -------
    xarray.Dataset
        The same rows; columns that were there are kept, as int64, float64 or text.

    Raises
    ------
    ValueError
        If a column is missing, a value has no meaning, the networks are of several families, something is to change but
        nobody says when, or two rows share their number (``model``), or their hyper-parameters, their change and seed.

    Examples
    --------
    >>> complete(sample("nws_main", 100, seed=0))["shard"].dtype
    dtype('int64')
    """
    if "model" not in design.dims:
        raise ValueError("a design has one row per network along the dimension 'model'")
    design = design.copy()
    if "model" not in design.coords:
        design = design.assign_coords(model=np.arange(design.sizes["model"]))
    family = family_of(design)
    for name in family.required:
        if name not in design:
            raise ValueError(f"the design has no column {name!r}. {nearest(name, design.variables)}")
    rows = design.sizes["model"]
    if len(np.unique(design["model"].values)) < rows or design["model"].dtype.kind not in "iu":
        raise ValueError("the rows of a design are numbered: 'model' holds a different whole number for each")
    for name, value in {**family.constants, "split": "train"}.items():
        if name not in design:
            design[name] = ("model", np.full(rows, value))
    if "image" in family.columns and "image" not in design:
        design["image"] = ("model", design["model"].values)
    _check_columns(design, family)
    if "shard" not in design:
        design["shard"] = ("model", _shards(design, family))
    if len(set(row_keys(design))) < rows:
        raise ValueError("two rows of the design share all hyper-parameters and the seed: they are one network")
    return design


def varying(design: xr.Dataset) -> list[str]:
    """List the properties that take more than one value in a design.

    Parameters
    ----------
    design
        A design, or the table of a population.

    Returns
    -------
    list of str
        In the order of the vocabulary, or of the family's columns.

    Examples
    --------
    >>> varying(sample("nws_small", 50, seed=0, dataset="digits"))[:2]
    ['learning_rate', 'batch_size']
    """
    try:
        names = [name for name in family_of(design).draws if name not in ("seed", "split")]
    except ValueError:  # released networks may be of any family, and of several
        names = list(PROPERTIES)
    return [name for name in names if name in design and len(np.unique(design[name].values)) > 1]


def image_sets(design: xr.Dataset) -> list[str]:
    """List the image sets that a design needs, those that networks change to in mid-training among them.

    Parameters
    ----------
    design
        A design, or the table of a population.

    Returns
    -------
    list of str
        Each once, sorted.

    Examples
    --------
    >>> from nwslib.space import switch
    >>> image_sets(switch(sample("nws_small", 3, seed=0, dataset="digits"), 10, dataset="glyphs"))
    ['digits', 'glyphs']
    """
    columns = [design[name].values for name in ("dataset", "dataset_after") if name in design]
    return np.unique(np.concatenate(columns)).tolist()


def row_keys(design: xr.Dataset) -> list[tuple]:
    """Give the identity of each row: its hyper-parameters, their change and seed, as one hashable tuple per network.

    Parameters
    ----------
    design
        A completed design, or the table of a population.

    Returns
    -------
    list of tuple
        One per network, in order; equal where two rows describe the same network.
    """
    names = [*family_of(design).identity, *switch_columns(design)]
    return list(zip(*(design[name].values.tolist() for name in names), strict=True))


def _check_columns(design: xr.Dataset, family: Family) -> None:
    """Check every value of a design that is to be completed, and give its columns their types."""
    switched = switch_columns(design)
    if switched and family.task:
        raise ValueError(f"networks of the family {family.name!r} can't change course: {switched[0]!r} means nothing")
    known = family.columns | {"split": COLUMNS["split"]}
    known |= {name: known.get(name.removesuffix("_after"), COLUMNS["switch_epoch"]) for name in switched}
    for name, column in known.items():
        for value in np.unique(design[name].values).tolist():
            check_value(name, value, column)
        design[name] = design[name].astype(_TYPES[column.type])


def _uniform(seed: int, rows: int, columns: int) -> np.ndarray:
    """Give 64 random bits per row and column; row n is a function of seed and n alone."""
    # Raw Philox output: its stream is fixed by the algorithm, while numpy may change its distributions (NEP 19).
    draws = [np.random.Philox(key=[seed, row]).random_raw(columns) for row in range(rows)]
    return np.array(draws, dtype="uint64").reshape(rows, columns)


def _choices(name: str, asked: Any, family: Family) -> tuple:
    values = tuple(asked) if isinstance(asked, list | tuple | np.ndarray) else (asked,)
    if not values:
        raise ValueError(f"{name}: no value to choose from")
    column = family.columns[name]
    if _is_range(name, family) and len(values) > 2:
        raise ValueError(f"{name} is one value or a range [low, high], not {len(values)} values")
    for value in values:
        check_value(name, value, column)
        if family.task is None:
            _check_vocabulary(name, value)
    if name in family.logarithmic and len(values) == 2 and min(values) == 0:
        raise ValueError(f"{name} is drawn evenly on a logarithmic scale, so its range can't begin at 0")
    return values


def _is_range(name: str, family: Family) -> bool:
    return family.columns[name].type is float and name in family.draws


def _check_vocabulary(name: str, value: Any) -> None:
    if name in ("dataset", "learning_rate") or name not in VOCABULARY:
        return
    known = {*VOCABULARY[name], *(values[name] for values in COLLECTIONS.values() if name in values)}
    if value in known:
        return
    raise ValueError(f"{name}: {value!r} is not in the study's space. {nearest(value, known)}")


def _pick(name: str, values: tuple, draws: np.ndarray, family: Family) -> np.ndarray:
    if not _is_range(name, family):
        return np.array(values)[(draws % np.uint64(len(values))).astype("int64")]
    share = (draws >> np.uint64(11)).astype("float64") * 2.0**-53  # in [0, 1)
    low, high = min(values), max(values)
    if name in family.logarithmic and low < high:
        # The last bits of a power differ between machines, and with them a network would be another one.
        return np.clip([float(f"{value:.6g}") for value in low * (high / low) ** share], low, high)
    return low + (high - low) * share


def _split(draws: np.ndarray) -> np.ndarray:
    """Put one network of every four, drawn anew in each block of four, into the test split."""
    split = np.full(len(draws), "train", dtype="<U5")
    for start in range(0, len(draws), _TEST_ONE_IN):
        chosen = start + int(draws[start] % np.uint64(_TEST_ONE_IN))
        if chosen < len(draws):
            split[chosen] = "test"
    return split


def _shards(design: xr.Dataset, family: Family) -> np.ndarray:
    """Number each row's shard: 64 rows of one architecture, in design order."""
    columns: Mapping[str, list] = {name: design[name].values.tolist() for name in family.architecture}
    if "dataset" in columns:
        columns = {**columns, "dataset": [channels(name) for name in columns["dataset"]]}
    seen: dict[tuple, int] = {}
    shards = []
    for architecture in zip(*columns.values(), strict=True):
        rank = seen.get(architecture, 0)
        seen[architecture] = rank + 1
        shards.append(rank // SHARD_ROWS)
    return np.array(shards, dtype="int64")
