"""The columns of designs: what may stand in each, and what it means."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

import xarray as xr

from nwslib.space.vocabulary import EMBEDDED_SETS, PUBLISHED_SETS, SWITCH_COLUMNS, VOCABULARY, base_set, nearest


@dataclass(frozen=True)
class Column:
    """One column of a design.

    Attributes
    ----------
    type
        ``str``, ``int`` or ``float``.
    known
        All values that have a meaning; empty where a range says so.
    low, high
        The range of a number, both ends included.
    positive
        Whether 0, the lower end, is left out.
    units, meaning
        Of what `nwslib.snapshots.schema` doesn't know.
    """

    type: type
    known: tuple = ()
    low: float = 1
    high: float = math.inf
    positive: bool = False
    units: str = "1"
    meaning: str = ""


def _real(meaning: str = "", **rule: Any) -> Column:
    return Column(float, low=0, meaning=meaning, **rule)


def _whole(meaning: str = "", low: int = 1, units: str = "1") -> Column:
    return Column(int, low=low, meaning=meaning, units=units)


#: Every column that a family may have; `nwslib.space.FAMILIES` says which it has, and narrows what may stand there.
COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "family": Column(str),
        "task": Column(str, units="", meaning="image (to give the pixels of one image), or classify"),
        "dataset": Column(str),
        "image_size": Column(int, known=(14, 16, 28, 32)),
        "seed": _whole(low=0),
        "split": Column(str, known=("train", "test")),
        "image": _whole("which training image of the image set, from 0", low=0, units=""),
        "learning_rate": _real(positive=True),
        "decay": _real(positive=True),
        "batch_size": _whole(),
        "epochs": _whole("epochs that the network is trained"),
        "steps": _whole(),
        "optimizer": Column(str, known=(*VOCABULARY["optimizer"], "adamw")),
        "initialization": Column(str, known=(*VOCABULARY["initialization"], "own", "shared")),
        "augmentation": Column(str, known=VOCABULARY["augmentation"]),
        "activation": Column(str, known=VOCABULARY["activation"]),
        "filter_size": _whole(),
        "depth_conv": _whole(low=3),  # one convolution per block
        "depth_fc": _whole(),
        "width_conv": _whole(),
        "width_fc": _whole(),
        "width": _whole("units of a hidden layer, or channels of a convolution"),
        "depth": _whole("hidden layers"),
        "frequency": _real("factor on what the sine of a layer is taken of", positive=True),
        "grid": _whole("intervals between the knots of a spline"),
        "order": _whole("polynomial degree of a spline"),
        "label_noise": _real("share of the training labels that are replaced by classes drawn at random", high=1),
        "weight_decay": _real("decoupled weight decay, per step and unit of the learning rate"),
        "label_smoothing": _real("share of the target that is spread evenly over all classes", high=1),
        "switch_epoch": _whole(),
    }
)


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
    >>> from nwslib.space import sample, switch
    >>> switch_columns(switch(sample("nws_small", 3, seed=0), 10, augmentation="on"))
    ['switch_epoch', 'augmentation_after']
    """
    found = [name for name in SWITCH_COLUMNS if name in design]
    if found and found[0] != "switch_epoch":
        raise ValueError(f"the design has {found[0]!r}, but no 'switch_epoch': say when, with nwslib.space.switch")
    return found


def check_value(name: str, value: Any, column: Column) -> None:
    """Check that a value has a meaning, whether or not anybody drew it.

    Parameters
    ----------
    name
        Of the column; ``<name>_after`` holds what ``name`` changes to.
    value
        A plain value.
    column
        What may stand there.

    Raises
    ------
    ValueError
        If it has none; the message gives the rule and the nearest value that has.

    Examples
    --------
    >>> check_value("depth_conv", 4, COLUMNS["depth_conv"])
    """
    if name.endswith("_after"):
        try:
            check_value(name.removesuffix("_after"), value, column)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    elif name == "dataset":
        if base_set(str(value)) not in PUBLISHED_SETS + EMBEDDED_SETS:
            raise ValueError(f"unknown image set {value!r}. {nearest(value, PUBLISHED_SETS + EMBEDDED_SETS)}")
    elif column.known:
        if isinstance(value, bool) or value not in column.known:
            raise ValueError(f"{_unknown(name, value, column)}. {nearest(value, column.known)}")
    elif not _is_in_range(value, column):
        raise ValueError(f"{name} must be {_rule(column)}, not {value!r}{_nearest_number(value, column)}")
    elif name == "filter_size" and value % 2 == 0:
        raise ValueError(f"filter_size must be odd, not {value}. The nearest is {value + 1}.")


def _unknown(name: str, value: Any, column: Column) -> str:
    if column.type is str:
        return f"unknown {name} {value!r}"
    *first, last = map(str, column.known)
    return f"{name} must be {', '.join(first)} or {last}, not {value!r}"


def _is_number(value: Any, column: Column) -> bool:
    return isinstance(value, Integral if column.type is int else Real) and not isinstance(value, bool)


def _is_in_range(value: Any, column: Column) -> bool:
    if not _is_number(value, column) or not math.isfinite(value):
        return False
    return column.low <= value <= column.high and not (column.positive and value == 0)


def _rule(column: Column) -> str:
    kind = "whole number" if column.type is int else "number"
    if column.high < math.inf:
        return f"a {kind} from {column.low} to {column.high}"
    return f"a positive {kind}" if column.positive else f"a {kind}, {column.low} or larger"


def _nearest_number(value: Any, column: Column) -> str:
    """Name the nearest number within a range that has ends."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or column.positive:
        return ""
    near = min(max(value, column.low), column.high)
    return f". The nearest is {round(near) if column.type is int else near}."
