"""The moments at which networks were read: epochs of their snapshots, and bins of them."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nwslib.space import nearest


def of_networks(column: xr.DataArray, networks: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """Choose the networks of a reading from a column of the population, by their number.

    Parameters
    ----------
    column
        Any array with the dimension and coordinate ``model``.
    networks
        The reading, or one of its variables.

    Returns
    -------
    xarray.DataArray
        The column, in the order of the reading.

    Raises
    ------
    ValueError
        If one of them does not number its networks, or the column lacks one.

    Examples
    --------
    >>> accuracy = xr.DataArray([0.1, 0.2, 0.3], {"model": [0, 1, 2]}, ("model",))
    >>> of_networks(accuracy, xr.Dataset(coords={"model": [2, 0]})).values.tolist()
    [0.3, 0.1]
    """
    if "model" not in column.coords or "model" not in networks.coords:
        raise ValueError("networks are found by their number: both need the coordinate 'model'")
    known, asked = column["model"].values.tolist(), networks["model"].values.tolist()
    for number in asked:
        if number not in known:
            raise ValueError(f"{column.name or 'the column'} lacks network {number}. {nearest(number, known)}")
    return column.sel(model=asked)


def epochs_of(reading: xr.Dataset, epoch: xr.DataArray) -> xr.DataArray:
    """Give how many epochs each network had been trained when it was read.

    Parameters
    ----------
    reading
        With the dimension ``snapshot``.
    epoch
        ``epoch`` (model, snapshot) of the population.

    Returns
    -------
    xarray.DataArray
        Dimensions ``model``, ``snapshot``, as in the reading; float, without coordinates.

    Raises
    ------
    ValueError
        If the reading has one snapshot, or `epoch` lacks one of its networks or snapshots.
    """
    if "snapshot" not in reading.dims:
        raise ValueError("the reading has one snapshot: read several, with read(..., at=[1, 2, ...])")
    known, asked = epoch["snapshot"].values.tolist(), reading["snapshot"].values.tolist()
    for number in asked:
        if number not in known:
            raise ValueError(f"the epochs lack snapshot {number}. {nearest(number, known)}")
    moments = of_networks(epoch, reading).sel(snapshot=asked).transpose("model", "snapshot")
    return xr.DataArray(moments.values.astype(float), dims=("model", "snapshot"))


def snapshot_by_snapshot(values: xr.DataArray) -> xr.DataArray:
    """Keep the dimensions ``model``, ``seed`` and ``snapshot``, and of the coordinates the numbers of the snapshots."""
    kept = values.drop_vars([name for name in values.coords if name != "snapshot"])
    return kept.transpose("model", ..., "snapshot").astype(float)


def binned(values: xr.DataArray, places: xr.DataArray, edges: Sequence[float]) -> tuple[xr.DataArray, xr.DataArray]:
    """Average the snapshots of each network that fall into the same bin.

    Parameters
    ----------
    values
        Dimensions ``model``, ``snapshot``, and any others.
    places
        What decides on the bin, dimensions ``model``, ``snapshot``.
    edges
        Borders of the bins, rising; each bin has its left border.

    Returns
    -------
    tuple of xarray.DataArray
        The means, with ``bin`` in place of ``snapshot``, NaN where a network has nothing in a bin; and whether a
        snapshot is in a bin (model, snapshot, bin).

    Raises
    ------
    ValueError
        If there are fewer than two borders, or they do not rise.

    Examples
    --------
    >>> values = xr.DataArray([[0.0, 1.0, 5.0]], dims=("model", "snapshot"))
    >>> binned(values, values, [0, 2, 4, 6])[0].values.tolist()
    [[0.5, nan, 5.0]]
    """
    edges = np.asarray(edges, float)
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise ValueError(f"bins need at least two borders that rise, not {edges.tolist()}")
    left, right = (xr.DataArray(side, dims="bin") for side in (edges[:-1], edges[1:]))
    inside = (places >= left) & (places < right)
    return values.drop_vars("snapshot", errors="ignore").where(inside).mean("snapshot"), inside


def half_way(course: xr.Dataset) -> dict[str, int]:
    """Give the first snapshot at which a property is read half as far above chance as at the last.

    Parameters
    ----------
    course
        From `nwslib.analysis.scores.table`, of classes: for each property a reading at each of several snapshots.

    Returns
    -------
    dict
        Snapshot by property, in the table's order.

    Examples
    --------
    >>> columns = {"property": ["optimizer"] * 3, "snapshot": [1, 2, 20]}
    >>> columns |= {"accuracy": [0.3, 0.7, 0.9], "chance": [0.3] * 3}
    >>> half_way(xr.Dataset({name: ("reading", column) for name, column in columns.items()}))
    {'optimizer': 2}
    """
    found = {}
    for name in dict.fromkeys(course["property"].values.tolist()):
        own = course.isel(reading=(course["property"] == name).values).sortby("snapshot")
        above = (own["accuracy"] - own["chance"]).values
        found[name] = int(own["snapshot"].values[(above >= above[-1] / 2).argmax()])
    return found
