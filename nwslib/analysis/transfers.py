"""Both sides of a transfer, network by network: read by a reader that learned on its own kind, and by all others."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr


def within(readings: Mapping[tuple[str, str], xr.Dataset]) -> xr.Dataset:
    """Put the diagonal of a transfer together: every network read by the reader that learned on its own kind.

    Parameters
    ----------
    readings
        By the kind learned on and the kind read: what `nwslib.meta.transfer` gives.

    Returns
    -------
    xarray.Dataset
        A reading of all test networks, as `together` gives it.
    """
    return together(one for (learned, read), one in readings.items() if learned == read)


def across(readings: Mapping[tuple[str, str], xr.Dataset]) -> xr.Dataset:
    """Put together what is off the diagonal of a transfer: every network read by all readers of other kinds.

    Parameters
    ----------
    readings
        As for `within`.

    Returns
    -------
    xarray.Dataset
        As `together` gives it, with the dimension ``reader`` besides: of each network, one for every other kind.
        `nwslib.analysis.pairs.change` compares it with `within`, network by network.
    """
    found = []
    for kind in dict.fromkeys(read for _, read in readings):
        others = [one for (learned, read), one in readings.items() if read == kind != learned]
        predictions = xr.concat([one["prediction"] for one in others], "reader", coords="minimal", compat="override")
        found.append(_with_all_learned(others[0].assign(prediction=predictions.transpose("model", ...)), others))
    return together(found)


def together(readings: Iterable[xr.Dataset]) -> xr.Dataset:
    """Put readings of different networks together as one.

    Parameters
    ----------
    readings
        Of one property, each of other test networks; their readers may differ.

    Returns
    -------
    xarray.Dataset
        ``truth`` and ``prediction`` of all of them, sorted by ``model``, with the coordinates of the networks and the
        attributes of the first. Of each class, ``train_networks`` adds up what the readers learned from.

    Raises
    ------
    ValueError
        If there is no reading, the properties differ, or a network is in two readings.

    Examples
    --------
    >>> columns = {"truth": ("model", ["on"]), "prediction": ("model", ["on"])}
    >>> halves = [xr.Dataset(columns, {"model": [n]}, {"property": "augmentation"}) for n in (1, 0)]
    >>> together(halves)["model"].values.tolist()
    [0, 1]
    """
    readings = list(readings)
    asked = sorted({one.attrs["property"] for one in readings})
    if len(asked) != 1:
        raise ValueError(f"readings of one property can be put together, not of {', '.join(asked) or 'none'}")
    networks = np.concatenate([one["model"].values for one in readings])
    if len(np.unique(networks)) < len(networks):
        raise ValueError("readings of different networks can be put together, but some networks are in two of them")
    parts = [one[["truth", "prediction"]].drop_vars(["class", "train_networks"], errors="ignore") for one in readings]
    found = xr.concat(parts, "model", coords="minimal", compat="override", join="exact").sortby("model")
    return _with_all_learned(found.assign_attrs(readings[0].attrs), readings)


def _with_all_learned(found: xr.Dataset, readings: Sequence[xr.Dataset]) -> xr.Dataset:
    """Say of each class how many networks all of the readers learned from, added up."""
    if "train_networks" not in readings[0].coords:
        return found
    columns = [one["train_networks"].reset_coords(drop=True) for one in readings]
    learned = xr.concat(columns, "reader", join="outer", fill_value=0).sum("reader")
    found = found.drop_vars(["class", "train_networks", "probability"], errors="ignore")
    return found.assign_coords({"class": learned["class"].values, "train_networks": learned})
