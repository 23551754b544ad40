"""Designs whose networks change course in mid-training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from nwslib.space.columns import check_value
from nwslib.space.designs import complete
from nwslib.space.families import Family, family_of
from nwslib.space.vocabulary import SWITCHABLE, VOCABULARY, nearest


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
    >>> from nwslib.space import sample
    >>> design = switch(sample("nws_small", 3, seed=0, optimizer="adam"), 10, optimizer="momentum")
    >>> design["optimizer"].values.tolist(), design["optimizer_after"].values.tolist()
    (['adam', 'adam', 'adam'], ['momentum', 'momentum', 'momentum'])
    """
    design = complete(design)
    family = family_of(design)
    if family.task:
        raise ValueError(f"networks of the family {family.name!r} can't change course, only those of the study can")
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
        design[f"{name}_after"] = ("model", _changed(name, value, design[name].values, family))
    return complete(design)


def _each(name: str, given: Any, rows: int) -> list:
    """Give one value per network."""
    if not isinstance(given, list | tuple | np.ndarray | xr.DataArray):
        return [given] * rows
    values = np.asarray(given).tolist()
    if len(values) != rows:
        raise ValueError(f"{name}: {len(values)} values for {rows} networks. Give one for all, or {rows}")
    return values


def _changed(name: str, given: Any, before: np.ndarray, family: Family) -> list:
    """Give what a property changes to, per network."""
    if not isinstance(given, Mapping):
        return _each(name, given, len(before))
    for value in given:
        check_value(name, value, family.columns[name])
    return [given.get(value, value) for value in before.tolist()]
