"""Networks that change course beside their twins, which are the same networks trained on as they began."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from nwslib.analysis import results
from nwslib.analysis.interventions import course
from nwslib.analysis.moments import binned, epochs_of, snapshot_by_snapshot
from nwslib.analysis.pairs import difference
from nwslib.analysis.scores import interval, per_network
from nwslib.space import SWITCHABLE, complete, nearest, switch

COURSES = ("changes course", "goes on")

_OTHER = "another"
_NEVER = 1e9  # epochs; finite, so that quantiles next to it are numbers


def design(base: xr.Dataset, epoch: int, **after: Any) -> xr.Dataset:
    """Let every network of a design be trained several times: as it is, and once with each change of course.

    Parameters
    ----------
    base
        From `nwslib.space.sample`; of other seeds than the networks that readers learn from.
    epoch
        Epochs before the change.
    **after
        A property and what it changes to, as in `nwslib.space.switch`: one change each.

    Returns
    -------
    xarray.Dataset
        First all networks as they are, then all with the first change, ...; twins share everything but what changes.
        All are of the test split.

    Raises
    ------
    ValueError
        As `nwslib.space.switch` does.

    Examples
    --------
    >>> from nwslib.space import sample
    >>> made = design(sample("nws_small", 2, seed=1, optimizer="adam"), 10, optimizer="momentum", augmentation="on")
    >>> made["optimizer_after"].values.tolist()
    ['adam', 'adam', 'momentum', 'momentum', 'adam', 'adam']
    """
    own = {name: base[name].values for name in after}
    parts = [switch(base, epoch, **own), *(switch(base, epoch, **own | {name: value}) for name, value in after.items())]
    made = xr.concat(parts, "model", combine_attrs="override").drop_vars("shard")
    rows = made.sizes["model"]
    return complete(made.assign_coords(model=np.arange(rows)).assign(split=("model", ["test"] * rows)))


def relabelled(reading: xr.Dataset) -> dict[str, xr.Dataset]:
    """Say of each network whether a reader names the value before, the value after, or another; twins apart.

    Parameters
    ----------
    reading
        Of the property, read at several snapshots of networks from `design`. An estimate of a number counts as the one
        of the two values that is nearer by its logarithm.

    Returns
    -------
    dict
        ``"changes course"`` and ``"goes on"``, its twins in the same order: a reading of the classes ``"before"``,
        ``"after"`` and ``"another"`` for `nwslib.analysis.interventions.course`, the truth of which is ``"before"``.
        For the twins, after is what the other one changes to; a network whose twin is missing, as it diverged, is left
        out. ``train_networks``: what the value before, and that after, are on average over networks in training; for
        numbers, how often the training median counts as each.

    Raises
    ------
    ValueError
        If there is no such change, or no network that changes has a twin.
    """
    name = reading.attrs["property"]
    changed, twin = _pairs(reading, name)
    before, after = (reading[one].values[changed] for one in (name, f"{name}_after"))
    found = {}
    for label, members in zip(COURSES, (changed, twin), strict=True):
        one = reading.isel(model=members).drop_vars(["probability", "class", "train_networks"], errors="ignore")
        one["prediction"] = _named(one["prediction"], before, after, reading)
        one["truth"] = ("model", np.full(len(members), "before"))
        one = one.assign_coords({f"{name}_after": ("model", np.full(len(members), "after"))})
        counts = ("class", _in_training(reading, before, after))
        found[label] = one.assign_coords({"class": ["before", "after", _OTHER], "train_networks": counts})
    return found


def followed(reading: xr.Dataset, epoch: xr.DataArray, since: Sequence[float]) -> xr.Dataset:
    """Follow the value before and the value after through networks that change course, and through their twins.

    Parameters
    ----------
    reading
        As for `relabelled`.
    epoch
        ``epoch`` (model, snapshot) of the population.
    since
        Borders of bins of the epochs since the switch, negative before it.

    Returns
    -------
    xarray.Dataset
        As `nwslib.analysis.interventions.course` gives it, of shares, with the groups ``"changes course"`` and
        ``"goes on"``; ``switch`` is NaN for the latter.
    """
    parts = [course(one, epoch, of="share", since=since) for one in relabelled(reading).values()]
    found = xr.concat(parts, "group").assign_coords(group=list(COURSES), switch=("group", [0.0, np.nan]))
    return found.assign_attrs(parts[0].attrs)


def overtaken(reading: xr.Dataset, epoch: xr.DataArray, since: Sequence[float]) -> dict[str, float]:
    """Say how long after the switch more networks are named for the value after than for the value before.

    Parameters
    ----------
    reading, epoch, since
        As for `followed`.

    Returns
    -------
    dict
        ``epochs`` since the switch, from the first bin after it from which on that holds until the end, with ``low``
        and ``high`` of the 95 % interval over networks; infinite where it does not hold at the end; ``networks``.
    """
    switched = relabelled(reading)[COURSES[0]]
    moments = epochs_of(switched, epoch) - xr.DataArray(switched["switch_epoch"].values, dims="model")
    ahead = snapshot_by_snapshot(switched["prediction"] == "after") - (switched["prediction"] == "before")
    lead, _ = binned(snapshot_by_snapshot(ahead), moments, since)
    middles = (np.asarray(since[:-1]) + np.asarray(since[1:])) / 2
    later = np.flatnonzero((middles > 0) & lead.notnull().any([name for name in lead.dims if name != "bin"]).values)
    columns = np.moveaxis(np.nan_to_num(lead.transpose("model", ..., "bin").values[..., later]), -1, 0)
    ends = np.append(middles[later], _NEVER)

    def first(*leads: np.ndarray) -> np.ndarray:
        behind = np.stack([one.sum(axis=1) for one in leads]) <= 0  # (bin, draws)
        return ends[np.where(behind.any(axis=0), len(later) - behind[::-1].argmax(axis=0), 0)]

    bounds = [first(*(column.reshape(1, -1) for column in columns))[0], *interval(first, *columns)]
    epochs, low, high = (float(value) if value <= middles[-1] else np.inf for value in bounds)
    return {"epochs": epochs, "low": low, "high": high, "networks": float(switched.sizes["model"])}


def aftermath(reading: xr.Dataset, changed: str) -> dict[str, float]:
    """Say what a change of one property does to how well another is read.

    Parameters
    ----------
    reading
        Of classes, of a property that the networks of `design` keep, at one snapshot.
    changed
        The property that some networks changed.

    Returns
    -------
    dict
        The accuracy on those that changed course, ``accuracy``, and on their twins, ``twins``; ``change``, ``low`` and
        ``high`` as `nwslib.analysis.pairs.difference` gives them, pair by pair; ``networks``.

    Raises
    ------
    ValueError
        If there is no such change, or no network that changes has a twin.
    """
    right = per_network(reading["prediction"] == reading["truth"]).values.astype(float)
    ours, theirs = (right[members] for members in _pairs(reading, changed))
    means = {"accuracy": float(ours.mean()), "twins": float(theirs.mean()), "networks": float(len(ours))}
    return means | difference(ours, theirs)


def way(reading: xr.Dataset) -> dict[str, float]:
    """Say how far the estimate of a number has moved at the end, from the value before to the one after.

    Parameters
    ----------
    reading
        Of a number, as for `relabelled`.

    Returns
    -------
    dict
        ``way``: the difference between the estimated logarithms of a network that changed and of its twin, as a share
        of that between the two true values, on average; 0 is none, 1 all of it. ``low`` and ``high`` of its 95 %
        interval over networks, and seeds; ``networks``.

    Raises
    ------
    ValueError
        If the reading is of classes, there is no such change, or no network that changes has a twin.
    """
    name = reading.attrs["property"]
    if reading.attrs["task"] != "regression":
        raise ValueError(f"{name} is a class: there is no way between classes")
    changed, twin = _pairs(reading, name)
    last = np.log10(
        snapshot_by_snapshot(reading["prediction"]).isel(snapshot=-1).values.reshape(len(reading["model"]), -1)
    )
    before, after = (np.log10(reading[one].values[changed]) for one in (name, f"{name}_after"))
    ours, theirs = (last[members] / (after - before)[:, None] for members in (changed, twin))
    moved = difference(ours, theirs)
    return {"way": moved["change"], "low": moved["low"], "high": moved["high"], "networks": float(len(changed))}


def told(found: Mapping[str, float]) -> str:
    """Write down what `overtaken` gives.

    Examples
    --------
    >>> told({"epochs": 3.0, "low": 1.0, "high": np.inf})
    '3 (1 to never)'
    """
    epochs, low, high = (
        f"{found[key]:.0f}" if np.isfinite(found[key]) else "never" for key in ("epochs", "low", "high")
    )
    return f"{epochs} ({low} to {high})"


def claim(text: str, change: xr.Dataset, *, networks: float, figure: str) -> dict[str, Any]:
    """State how often the value after is named at the end, with that of the twins as the baseline.

    Parameters
    ----------
    text
        The finding in words.
    change
        Of one change: from `followed`.
    networks
        Networks behind it.
    figure
        Name of the figure that shows it.

    Returns
    -------
    dict
        For `nwslib.analysis.results.save`.
    """
    ours, theirs = (change.isel(since=-1).sel(group=name, value="after") for name in COURSES)
    about = {"chance": ours["chance"].item(), "baseline": theirs["level"].item(), "unit": "share named"}
    bounds = (ours["low"].item(), ours["high"].item())
    return results.claim(text, ours["level"].item(), bounds, networks=networks, figure=figure, **about)


def _pairs(reading: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the places of the networks that change in a property, and of the twin of each, which changes in nothing."""
    if name not in SWITCHABLE:
        raise ValueError(f"{name!r} is nothing that networks change in training. {nearest(name, SWITCHABLE)}")
    columns = [one for one in SWITCHABLE if f"{one}_after" in reading.coords]
    if name not in columns:
        raise ValueError(f"no network changes its {name}. {nearest(name, columns)}")
    same = {one: reading[one].values == reading[f"{one}_after"].values for one in columns}
    steady = np.flatnonzero(np.all([*same.values()], axis=0))
    seeds = reading["network_seed" if "network_seed" in reading.coords else "seed"].values
    twins = dict(zip(seeds[steady].tolist(), steady.tolist(), strict=True))
    changed = [place for place in np.flatnonzero(~same[name]).tolist() if seeds[place].item() in twins]
    if not changed:
        raise ValueError(f"no network that changes its {name} has a twin that goes on: train those of twins.design")
    return np.array(changed), np.array([twins[seeds[place].item()] for place in changed])


def _named(prediction: xr.DataArray, before: np.ndarray, after: np.ndarray, reading: xr.Dataset) -> xr.DataArray:
    """Name each prediction by the value that it is, or to which a number is nearer."""
    before, after = (xr.DataArray(one, dims="model") for one in (before, after))
    values = prediction.drop_vars([name for name in prediction.coords if name not in ("seed", "snapshot")])
    if reading.attrs["task"] == "regression":
        distance = abs(np.log10(values) - np.log10(before)) - abs(np.log10(values) - np.log10(after))
        named = xr.where(distance <= 0, "before", "after")
    else:
        named = xr.where(values == before, "before", xr.where(values == after, "after", _OTHER))
    return named.transpose(*prediction.dims)


def _in_training(reading: xr.Dataset, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Give the mean share of the values before, of those after, and of others, among the training networks."""
    if reading.attrs["task"] == "regression":
        median = np.log10(reading.attrs["train_median"])
        old = (abs(median - np.log10(before)) <= abs(median - np.log10(after))).mean()
        return np.array([old, 1 - old, 0.0])
    counts = dict(zip(reading["class"].values.tolist(), reading["train_networks"].values.tolist(), strict=True))
    old, new = (np.mean([counts[value] for value in one.tolist()]) / sum(counts.values()) for one in (before, after))
    return np.array([old, new, 1 - old - new])
