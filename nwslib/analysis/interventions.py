"""What becomes of the footprint of a property when its value is switched in mid-training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from nwslib.analysis.moments import binned, epochs_of, snapshot_by_snapshot
from nwslib.analysis.scores import share
from nwslib.space import nearest


def course(
    reading: xr.Dataset, epoch: xr.DataArray, *, of: str = "probability", since: Sequence[float] | None = None
) -> xr.Dataset:
    """Follow the footprint of a property through networks whose value was switched in mid-training.

    Parameters
    ----------
    reading
        Of the property, read at several snapshots of a population with the coordinates ``switch_epoch`` and
        ``<property>_after`` on ``model``; a network whose value after is the one before, or ``""``, was not switched.
    epoch
        ``epoch`` (model, snapshot) of the population.
    of
        ``"probability"``: the mean probability of a value; ``"share"``: the share of the networks that it is named for.
    since
        Borders of bins of the epochs since the switch, negative before it; without them, snapshots are kept.

    Returns
    -------
    xarray.Dataset
        Dimensions ``group`` (``"adam to momentum"``, ``"adam throughout"``), ``value`` (``"before"``, ``"after"``) and
        ``snapshot``, or ``since``, the middle of each bin: ``level``, ``low``, ``high``, ``networks``, and ``chance``,
        the share of the value in training. Coordinates ``before``, ``after`` and ``switch`` (group): the values, and
        where on the axis the switch is, by snapshot the mean over the networks; NaN where there was none. Against
        epochs since the switch, networks that were not switched have no place and are left out.

    Raises
    ------
    ValueError
        If the reading has one snapshot, no such coordinates, or no probability where it is asked for.
    """
    epochs, groups = epochs_of(reading, epoch), _groups(reading, with_unswitched=since is None)
    found = xr.concat([_followed(reading, epochs, group, of, since) for group in groups], "group")
    if since is not None:
        middles = (np.asarray(since[:-1]) + np.asarray(since[1:])) / 2
        found = found.rename(bin="since").assign_coords(since=middles)
    names = [
        f"{one.before} throughout" if one.before == one.after else f"{one.before} to {one.after}" for one in groups
    ]
    found = found.assign_coords(value=["before", "after"], group=names)
    for name in ("before", "after"):
        found[name] = ("group", [getattr(one, name) for one in groups])
    found["switch"] = ("group", [_switch(reading, epochs, one) if since is None else 0.0 for one in groups])
    about = {"property": reading.attrs["property"], "of": of}
    return found.set_coords(["before", "after", "switch"]).assign_attrs(about)


@dataclass(frozen=True)
class _Group:
    """Networks that were switched from one value to another, or kept theirs: their places in the reading."""

    before: Any
    after: Any
    members: np.ndarray


def _groups(reading: xr.Dataset, with_unswitched: bool) -> list[_Group]:
    """Give the pairs of values that occur; those of networks that were not switched come last."""
    name = f"{reading.attrs['property']}_after"
    before, after = reading["truth"].values, _column(reading, name).values
    after = np.where(after.astype(str) == "", before, after)
    pairs = sorted(set(zip(before.tolist(), after.tolist(), strict=True)), key=lambda pair: (pair[0] == pair[1], pair))
    found = [_Group(*pair, np.flatnonzero((before == pair[0]) & (after == pair[1]))) for pair in pairs]
    found = [one for one in found if with_unswitched or one.before != one.after]
    if not found:
        raise ValueError(f"no network was switched: {name} is the value before in all of them")
    return found


def _followed(
    reading: xr.Dataset, epochs: xr.DataArray, group: _Group, of: str, since: Sequence[float] | None
) -> xr.Dataset:
    """Follow both values through the networks of a group."""
    chosen, moments = reading.isel(model=group.members), epochs.isel(model=group.members)
    parts = []
    for value in (group.before, group.after):
        level = snapshot_by_snapshot(_level(chosen, value, of))
        if since is not None:
            level, _ = binned(level, moments - _column(chosen, "switch_epoch"), since)
        parts.append(share(level).rename(mean="level").assign(chance=_share_in_training(reading, value)))
    return xr.concat(parts, "value")


def _column(reading: xr.Dataset, name: str) -> xr.DataArray:
    known = [name for name in reading.variables if reading[name].dims == ("model",)]
    if name not in known:
        raise ValueError(f"the networks of this reading have no {name!r}. {nearest(name, known)}")
    return xr.DataArray(reading[name].values, dims="model")


def _level(reading: xr.Dataset, value: str, of: str) -> xr.DataArray:
    """Give how sure the reader is of a value, or whether it names it."""
    known = ["share", *(["probability"] if "probability" in reading else [])]
    if of not in known:
        raise ValueError(f"this reading does not give {of!r}. {nearest(of, known)}")
    if of == "share":
        return reading["prediction"] == value
    return (reading["probability"] * (reading["class"] == value)).sum("class")


def _share_in_training(reading: xr.Dataset, value: str) -> float:
    counts = reading["train_networks"]
    return (counts.where(reading["class"] == value, 0).sum() / counts.sum()).item()


def _switch(reading: xr.Dataset, epochs: xr.DataArray, group: _Group) -> float:
    """Give the snapshot at which networks were switched, between two of them where it fell there, on average."""
    if group.before == group.after:
        return np.nan
    moments, numbers = _column(reading, "switch_epoch").values, reading["snapshot"].values
    return float(np.mean([np.interp(moments[one], epochs.values[one], numbers) for one in group.members]))
