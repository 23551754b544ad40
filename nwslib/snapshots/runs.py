"""Runs of consecutive weights, cut from many networks at once and straight from their files."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import xarray as xr
from xarray.core.indexing import LazilyIndexedArray

from nwslib.snapshots.lazy import Rows, networks_of


def take_runs(
    node: xr.Dataset | xr.DataTree,
    model: np.ndarray,
    snapshot: np.ndarray,
    start: np.ndarray,
    length: int,
    variable: str = "weights",
) -> np.ndarray:
    """Cut runs of consecutive weights from networks of one architecture.

    Parameters
    ----------
    node
        One architecture of a population, or some of its networks and snapshots.
    model, snapshot, start
        Where each run is: positions along ``model``, ``snapshot`` and ``weight``, from 0, each of shape (n,).
    length
        Weights in a run.
    variable
        ``"weights"`` or ``"updates"``.

    Returns
    -------
    numpy.ndarray
        Shape (n, length), float32. Nothing else is read, where the files are in the working form.

    Raises
    ------
    ValueError
        If the positions differ in shape or are no whole numbers, or there is no such variable.
    IndexError
        If a run does not lie within its network.

    Notes
    -----
    On two cores some 300,000 runs of 5,000 weights per second from files in memory, the rate of a plain copy; xarray's
    own indexing, one run at a time, does 6,000.

    Examples
    --------
    >>> import tempfile
    >>> from nwslib import snapshots
    >>> from nwslib.snapshots import fake
    >>> from nwslib.space import sample
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = snapshots.write(folder.name, fake.population(sample("nws_small", 3, seed=0)))
    >>> node = snapshots.networks(snapshots.open_population(folder.name))
    >>> take_runs(node, [0, 2], [19, 19], [0, 600], 1000).shape
    (2, 1000)
    >>> folder.cleanup()
    """
    data = node.variables.get(variable)
    if data is None or data.dims != ("model", "snapshot", "weight"):
        raise ValueError(f"take_runs needs {variable!r} with the dimensions model, snapshot, weight")
    places = np.stack([_whole(model), _whole(snapshot), _whole(start)])  # (3, n)
    room = np.array([*data.shape[:2], data.shape[2] - length + 1])[:, None]
    outside = np.flatnonzero(((places < 0) | (places >= room)).any(axis=0))
    if length < 1 or len(outside):
        which = places[:, outside[0]].tolist() if len(outside) else "any"
        raise IndexError(f"no run of {length} weights lies at model, snapshot, weight {which} of {data.shape}")
    runs = np.empty((places.shape[1], length), data.dtype)
    if (found := _in_files(data, places)) is None:
        _cut_from_networks(runs, networks_of(data), places)
    else:
        _cut_from_files(runs, *found)
    return runs


def _in_files(weights: xr.Variable, places: np.ndarray) -> tuple[Rows, np.ndarray, np.ndarray] | None:
    """Say in which file each run begins, and at which of its weights; None if these are not simply files."""
    lazy = weights._data
    if not isinstance(lazy, LazilyIndexedArray) or not isinstance(lazy.array, Rows):
        return None
    rows, (models, snapshots, span) = lazy.array, lazy.key.tuple
    steps, size = rows.shape[1:]
    network, snapshot = np.arange(rows.shape[0])[models][places[0]], np.arange(steps)[snapshots][places[1]]
    files, row = (numbers[network] for numbers in rows.files)
    simple = isinstance(span, slice) and span.step in (None, 1)
    if not simple or any(rows.flat(file) is None for file in np.unique(files).tolist()):
        return None
    return rows, files, (row * steps + snapshot) * size + span.indices(size)[0] + places[2]


def _cut_from_files(runs: np.ndarray, rows: Rows, file: np.ndarray, first: np.ndarray) -> None:
    """Go through one file after the other, each from its start to its end."""
    order, length = np.lexsort((first, file)), runs.shape[1]
    ends = [0, *(np.flatnonzero(np.diff(file[order])) + 1).tolist(), len(order)]
    for begin, end in pairwise(ends):
        if begin < end:
            some, flat = order[begin:end], rows.flat(file[order[begin]])
            for place, start in zip(some.tolist(), first[some].tolist(), strict=True):
                runs[place] = flat[start : start + length]


def _cut_from_networks(runs: np.ndarray, network: Callable[[int], np.ndarray], places: np.ndarray) -> None:
    before, values, length = -1, None, runs.shape[1]
    order = np.argsort(places[0], kind="stable")
    for place, m, s, w in zip(order.tolist(), *places[:, order].tolist(), strict=True):
        if m != before:
            before, values = m, network(m)
        runs[place] = values[s, w : w + length]


def _whole(positions: np.ndarray) -> np.ndarray:
    positions = np.asarray(positions)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise ValueError(f"positions are whole numbers in one dimension, not {positions.dtype} in {positions.ndim}")
    return positions.astype("int64")
