"""What is gained when the answers of several runs of a network are averaged."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nwslib.analysis.scores import chance_level, share


def averaged(runs: xr.DataArray, truth: xr.DataArray, counts: Sequence[int]) -> xr.Dataset:
    """Score one reader on the mean over few and over many of the same evenly spaced runs.

    Parameters
    ----------
    runs
        Probabilities (model, snapshot, run, class) at one snapshot: from `nwslib.meta.RunReader.predict_runs`.
    truth
        The right class of each network, dimension ``model``.
    counts
        How many of the runs are averaged: evenly spaced among them, a single one in the middle.

    Returns
    -------
    xarray.Dataset
        Dimension ``reading``, one per count: ``runs``, ``property``, ``accuracy``, ``low`` and ``high`` of its 95 %
        interval, ``chance``, ``networks``.

    Raises
    ------
    ValueError
        If there are fewer runs than are to be averaged, or several snapshots.

    Examples
    --------
    >>> runs = xr.DataArray([[[[0.9, 0.1], [0.4, 0.6], [0.6, 0.4]]]], dims=("model", "snapshot", "run", "class"))
    >>> truth = xr.DataArray(["adam"], dims="model", name="optimizer")
    >>> averaged(runs.assign_coords({"class": ["adam", "momentum"]}), truth, [1, 3])["accuracy"].values.tolist()
    [0.0, 1.0]
    """
    if runs.sizes["snapshot"] != 1:
        raise ValueError(f"runs of one snapshot can be averaged, not of {runs.sizes['snapshot']}")
    if max(counts) > runs.sizes["run"]:
        raise ValueError(f"{max(counts)} runs cannot be averaged where there are {runs.sizes['run']}")
    names, last = runs["class"].values, runs.sizes["run"] - 1
    rows = []
    for count in counts:
        places = np.rint(np.linspace(0, last, count) if count > 1 else [last / 2]).astype(int)
        answers = names[runs.isel(run=places, snapshot=0).mean("run").argmax("class").values]
        found = share(xr.DataArray(answers == truth.values, dims="model")).rename(mean="accuracy").reset_coords()
        rows.append(found.assign(runs=count))
    level = chance_level(truth.values, truth.values)
    return xr.concat(rows, "reading").assign(
        chance=("reading", [level] * len(rows)), property=("reading", [str(truth.name)] * len(rows))
    )
