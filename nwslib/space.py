"""What varies: the hyper-parameter space of the study, its vocabulary, and designs drawn from it.

A *design* is an ``xarray.Dataset`` over the dimension ``model``: one row of hyper-parameters per network. In a design
that `switch` made, networks change course in mid-training.
The space and the collections are those of Eilertsen et al., "Classifying the classifier", ECAI 2020
(arXiv:2002.05688); ``nws_small`` is ours, for laptops and tests.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from nwslib import __version__

PUBLISHED_SETS = ("mnist", "cifar10", "svhn", "stl10", "fashion", "kmnist")
EMBEDDED_SETS = ("digits", "glyphs", "patches", "textures")
STUDY_SETS = ("mnist", "cifar10", "svhn", "stl10", "fashion")

#: The values of each property, in the order of the study's table. ``learning_rate`` is a range.
VOCABULARY: Mapping[str, tuple] = MappingProxyType(
    {
        "dataset": STUDY_SETS,
        "learning_rate": (0.0002, 0.005),
        "batch_size": (32, 64, 128, 256),
        "augmentation": ("off", "on"),
        "optimizer": ("adam", "rmsprop", "momentum"),
        "activation": ("relu", "elu", "sigmoid", "tanh"),
        "initialization": ("constant", "normal", "glorot_uniform", "glorot_normal"),
        "filter_size": (3, 5, 7),
        "depth_conv": (3, 4, 5),
        "depth_fc": (2, 3, 4),
        "width_conv": (4, 8, 12),
        "width_fc": (64, 128, 192),
    }
)
PROPERTIES = tuple(VOCABULARY)

#: What fixes the shapes of a network's tensors.
ARCHITECTURE = ("family", "image_size", "filter_size", "depth_conv", "depth_fc", "width_conv", "width_fc")

#: What a design says besides the properties, and what it says where nothing else is asked for.
CONSTANTS: Mapping[str, Any] = MappingProxyType({"family": "cnn", "image_size": 32, "decay": 0.96})

#: What may change in mid-training, and the columns that say when, and to what: only designs from `switch` have them.
SWITCHABLE = ("dataset", "learning_rate", "augmentation", "optimizer")
SWITCH_COLUMNS = ("switch_epoch", *(f"{name}_after" for name in SWITCHABLE))

_FIXED = {"filter_size": 5, "depth_conv": 3, "depth_fc": 2, "width_conv": 8, "width_fc": 128}
_SMALL = {"image_size": 16, "filter_size": 3, "depth_conv": 3, "depth_fc": 2, "width_conv": 4, "width_fc": 32}
COLLECTIONS: Mapping[str, dict] = MappingProxyType({"nws_main": {}, "nws_fixed": _FIXED, "nws_small": _SMALL})

SHARD_ROWS = 64
_TEST_ONE_IN = 4


def nearest(value: object, known: Iterable[object]) -> str:
    """Say which known value lies nearest to an unknown one, for the end of an error message.

    Parameters
    ----------
    value
        What was asked for.
    known
        What there is.

    Returns
    -------
    str
        ``"Did you mean 'adam'?"`` or, where nothing is close, ``"Known: 'adam', 'rmsprop'."``.

    Examples
    --------
    >>> nearest("adm", ["adam", "rmsprop"])
    "Did you mean 'adam'?"
    """
    names = {str(name): name for name in known}
    if not names:
        return "There is none."
    if isinstance(value, int | float) and not isinstance(value, bool):
        numbers = [name for name in names.values() if isinstance(name, int | float)]
        if numbers:
            return f"The nearest is {min(numbers, key=lambda number: abs(number - value))!r}."
    close = difflib.get_close_matches(str(value), names, n=1)
    if close:
        return f"Did you mean {names[close[0]]!r}?"
    return f"Known: {', '.join(map(repr, names.values()))}."


def sample(collection: str, networks: int, seed: int, **fixed: Any) -> xr.Dataset:
    """Draw a design: `networks` rows of hyper-parameters, each value uniform and independent.

    Row ``n`` depends on `seed` and ``n`` alone, so a longer design begins with the shorter one and a population
    can grow without losing a network.

    Parameters
    ----------
    collection
        ``"nws_main"`` (all twelve properties vary), ``"nws_fixed"`` or ``"nws_small"`` (one architecture each,
        seven properties vary).
    networks
        Number of rows, at least 1.
    seed
        Seed of the design, 0 or larger.
    **fixed
        A property, or ``image_size`` or ``decay``, held at one value (``optimizer="adam"``), or drawn from a list of
        values (``dataset=["digits", "glyphs"]``); for ``learning_rate`` a list is the range ``[low, high]``.

    Returns
    -------
    xarray.Dataset
        Dimension ``model``; one variable per property, and ``family``, ``image_size``, ``decay``, ``seed`` (of the
        network), ``split`` ("train" or "test", one network in four) and ``shard`` (its file on disk).

    Raises
    ------
    ValueError
        If the collection, a name in `fixed` or one of its values is unknown, or a number is out of range.

    Notes
    -----
    Space and collections: Eilertsen et al., ECAI 2020, arXiv:2002.05688.

    Examples
    --------
    >>> design = sample("nws_small", 3, seed=0, dataset="digits")
    >>> design["dataset"].values.tolist()
    ['digits', 'digits', 'digits']
    """
    if collection not in COLLECTIONS:
        raise ValueError(f"unknown collection {collection!r}. {nearest(collection, COLLECTIONS)}")
    if not isinstance(networks, int | np.integer) or networks < 1:
        raise ValueError(f"a design needs a whole number of networks, at least 1, not {networks!r}")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, not {seed!r}")
    for name in fixed:
        if name not in VOCABULARY and name not in CONSTANTS:
            raise ValueError(f"unknown property {name!r}. {nearest(name, [*PROPERTIES, *CONSTANTS])}")
    asked = {**CONSTANTS, **COLLECTIONS[collection], **fixed}
    choices = {name: _choices(name, asked.get(name, VOCABULARY.get(name))) for name in [*PROPERTIES, *CONSTANTS]}
    draws = _uniform(seed, networks, len(PROPERTIES) + 2)  # (row, column); the last two: network seed, split
    columns = {name: _pick(name, choices[name], draws[:, k]) for k, name in enumerate(PROPERTIES)}
    columns |= {name: _pick(name, choices[name], np.zeros(networks, "uint64")) for name in CONSTANTS}
    columns["seed"] = (draws[:, -2] >> np.uint64(1)).astype("int64")
    columns["split"] = _split(draws[:, -1])
    design = xr.Dataset({name: ("model", values) for name, values in columns.items()})
    design = design.assign_coords(model=np.arange(networks))
    design.attrs = {"collection": collection, "seed": seed, "library_version": __version__}
    return complete(design)


def switch(design: xr.Dataset, epoch: int | Sequence[int], **after: Any) -> xr.Dataset:
    """Make a design whose networks change course in mid-training: another optimiser, rate, augmentation or image set.

    A network trains as before until it has trained `epoch` epochs, is evaluated and exported, and goes on with the new
    values. Those that have them already never change: they are the controls.

    Parameters
    ----------
    design
        From `sample` or made by hand.
    epoch
        Epochs before the change, at least 1: a number for all, or one for each network.
    **after
        A property of `SWITCHABLE` and what it changes to: one value for all (``optimizer="adam"``), a value for each
        network, or a mapping from old value to new (``optimizer={"adam": "momentum", "momentum": "adam"}``), in which
        what is not named stays.

    Returns
    -------
    xarray.Dataset
        The completed design with ``switch_epoch`` and, for each property in `after`, ``<property>_after``.

    Raises
    ------
    ValueError
        If nothing changes course, a property is unknown or can't change, a value is unknown or out of range, there is
        not one for each network, or the networks change course already.

    Examples
    --------
    >>> design = switch(sample("nws_small", 3, seed=0, optimizer="adam"), 10, optimizer="momentum")
    >>> design["optimizer"].values.tolist(), design["optimizer_after"].values.tolist()
    (['adam', 'adam', 'adam'], ['momentum', 'momentum', 'momentum'])
    """
    design = complete(design)
    if "switch_epoch" in design:
        raise ValueError("networks change course once, and these do already. Switch the design that it was made from")
    if not after:
        raise ValueError(f"nothing is to change: name what does. Known: {', '.join(map(repr, SWITCHABLE))}.")
    for name in after:
        if name not in SWITCHABLE:
            what = "is fixed before training" if name in VOCABULARY else "is no property"
            raise ValueError(f"{name!r} {what}, so it can't change. {nearest(name, SWITCHABLE)}")
    design["switch_epoch"] = ("model", _each("switch_epoch", epoch, design.sizes["model"]))
    for name, value in after.items():
        design[f"{name}_after"] = ("model", _changed(name, value, design[name].values))
    return complete(design)


def complete(design: xr.Dataset) -> xr.Dataset:
    """Check a design, and add what can be derived: ``model``, the constants, ``split`` and ``shard``.

    Parameters
    ----------
    design
        Dimension ``model``; at least every property of `PROPERTIES` and ``seed``. Made by `sample` or by hand: any
        positive batch size, odd filter size, width and depth is allowed. The columns of `switch` may be there.

    Returns
    -------
    xarray.Dataset
        The same rows; columns that were there are kept, as int64, float64 or text.

    Raises
    ------
    ValueError
        If a column is missing, a value has no meaning, something is to change but nobody says when, or two rows share
        their number (``model``), or their hyper-parameters, their change and seed.

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
    for name in (*PROPERTIES, "seed"):
        if name not in design:
            raise ValueError(f"the design has no column {name!r}. {nearest(name, design.variables)}")
    rows = design.sizes["model"]
    for name, value in {**CONSTANTS, "split": "train"}.items():
        if name not in design:
            design[name] = ("model", np.full(rows, value))
    for name in (*PROPERTIES, *CONSTANTS, "seed", "split", *switch_columns(design)):
        for value in np.unique(design[name].values).tolist():
            _check(name, value)
        design[name] = design[name].astype(_type(name))
    if len(np.unique(design["model"].values)) < rows or design["model"].dtype.kind not in "iu":
        raise ValueError("the rows of a design are numbered: 'model' holds a different whole number for each")
    if "shard" not in design:
        design["shard"] = ("model", _shards(design))
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
        In the order of the vocabulary.

    Examples
    --------
    >>> varying(sample("nws_small", 50, seed=0, dataset="digits"))[:2]
    ['learning_rate', 'batch_size']
    """
    return [name for name in PROPERTIES if name in design and len(np.unique(design[name].values)) > 1]


def switch_columns(design: xr.Dataset | Mapping[str, Any]) -> list[str]:
    """List the columns that say how networks change course, those that there are.

    Parameters
    ----------
    design
        A design, one row of it, or the table of a population.

    Returns
    -------
    list of str
        Of `SWITCH_COLUMNS`, in their order; none where no network changes course.

    Raises
    ------
    ValueError
        If there is a value for afterwards, but no ``switch_epoch``.

    Examples
    --------
    >>> switch_columns(switch(sample("nws_small", 3, seed=0), 10, augmentation="on"))
    ['switch_epoch', 'augmentation_after']
    """
    found = [name for name in SWITCH_COLUMNS if name in design]
    if found and found[0] != "switch_epoch":
        raise ValueError(f"the design has {found[0]!r}, but no 'switch_epoch': say when, with nwslib.space.switch")
    return found


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
    names = [*sorted({*PROPERTIES, *CONSTANTS, "seed"}), *switch_columns(design)]
    return list(zip(*(design[name].values.tolist() for name in names), strict=True))


def base_set(dataset: str) -> str:
    """Strip the bracket from the name of a partial image set.

    Examples
    --------
    >>> base_set("cifar10[batches 1-2]")
    'cifar10'
    """
    return re.sub(r"\[[^\[\]]+\]$", "", dataset)


def _uniform(seed: int, rows: int, columns: int) -> np.ndarray:
    """Give 64 random bits per row and column; row n is a function of seed and n alone."""
    # Raw Philox output: its stream is fixed by the algorithm, while numpy may change its distributions (NEP 19).
    draws = [np.random.Philox(key=[seed, row]).random_raw(columns) for row in range(rows)]
    return np.array(draws, dtype="uint64").reshape(rows, columns)


def _choices(name: str, asked: Any) -> tuple:
    values = tuple(asked) if isinstance(asked, list | tuple | np.ndarray) else (asked,)
    if not values:
        raise ValueError(f"{name}: no value to choose from")
    if name == "learning_rate" and len(values) > 2:
        raise ValueError(f"learning_rate is one value or a range [low, high], not {len(values)} values")
    for value in values:
        _check(name, value)
        _check_vocabulary(name, value)
    return values


def _each(name: str, given: Any, rows: int) -> list:
    """Give one value per network."""
    if not isinstance(given, list | tuple | np.ndarray | xr.DataArray):
        return [given] * rows
    values = np.asarray(given).tolist()
    if len(values) != rows:
        raise ValueError(f"{name}: {len(values)} values for {rows} networks. Give one for all, or {rows}")
    return values


def _changed(name: str, given: Any, before: np.ndarray) -> list:
    """Give what a property changes to, per network."""
    if not isinstance(given, Mapping):
        return _each(name, given, len(before))
    for value in given:
        _check(name, value)
    return [given.get(value, value) for value in before.tolist()]


def _check_vocabulary(name: str, value: Any) -> None:
    if name in ("dataset", "learning_rate") or name not in VOCABULARY:
        return
    known = {*VOCABULARY[name], *(values[name] for values in COLLECTIONS.values() if name in values)}
    if value in known:
        return
    raise ValueError(f"{name}: {value!r} is not in the study's space. {nearest(value, known)}")


def _check(name: str, value: Any) -> None:
    """Check that a value has a meaning, whether or not the study used it."""
    if name.endswith("_after"):
        try:
            _check(name.removesuffix("_after"), value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    elif name == "dataset":
        known = PUBLISHED_SETS + EMBEDDED_SETS
        if base_set(str(value)) not in known:
            raise ValueError(f"unknown image set {value!r}. {nearest(value, known)}")
    elif name in ("augmentation", "optimizer", "activation", "initialization"):
        if value not in VOCABULARY[name]:
            raise ValueError(f"unknown {name} {value!r}. {nearest(value, VOCABULARY[name])}")
    elif name in ("learning_rate", "decay"):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < np.inf:
            raise ValueError(f"{name} must be a positive number, not {value!r}")
    elif name == "image_size":
        if value not in (16, 32):
            raise ValueError(f"image_size must be 16 or 32, not {value!r}. {nearest(value, (16, 32))}")
    elif name in ("family", "split"):
        known = ("cnn",) if name == "family" else ("train", "test")
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}. {nearest(value, known)}")
    elif name == "switch_epoch":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            near = max(1, round(value)) if isinstance(value, int | float) and np.isfinite(value) else 1
            raise ValueError(f"switch_epoch must be a whole number, at least 1, not {value!r}. The nearest is {near}.")
    elif name == "seed":
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"seed must be a whole number, 0 or larger, not {value!r}")
    else:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, not {value!r}")
        if name == "filter_size" and value % 2 == 0:
            raise ValueError(f"filter_size must be odd, not {value}. The nearest is {value + 1}.")
        if name == "depth_conv" and value < 3:
            raise ValueError(f"depth_conv must be at least 3, one convolution per block, not {value}")


def _type(name: str) -> type:
    name = name.removesuffix("_after")
    if name in ("learning_rate", "decay"):
        return float
    if name in ("seed", "image_size", "switch_epoch") or isinstance(VOCABULARY.get(name, ("",))[0], int):
        return int
    return str


def _pick(name: str, values: tuple, draws: np.ndarray) -> np.ndarray:
    if name == "learning_rate":
        low, high = min(values), max(values)
        return low + (high - low) * (draws >> np.uint64(11)).astype("float64") * 2.0**-53
    return np.array(values)[(draws % np.uint64(len(values))).astype("int64")]


def _split(draws: np.ndarray) -> np.ndarray:
    """Put one network of every four, drawn anew in each block of four, into the test split."""
    split = np.full(len(draws), "train", dtype="<U5")
    for start in range(0, len(draws), _TEST_ONE_IN):
        chosen = start + int(draws[start] % np.uint64(_TEST_ONE_IN))
        if chosen < len(draws):
            split[chosen] = "test"
    return split


def _shards(design: xr.Dataset) -> np.ndarray:
    """Number each row's shard: 64 rows of one architecture, in design order."""
    seen: dict[tuple, int] = {}
    shards = []
    for architecture in zip(*(design[name].values.tolist() for name in ARCHITECTURE), strict=True):
        rank = seen.get(architecture, 0)
        seen[architecture] = rank + 1
        shards.append(rank // SHARD_ROWS)
    return np.array(shards, dtype="int64")
