"""What, where and when: arrays that figures are drawn from."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nwslib.snapshots.schema import layout_of


def project(
    population: xr.Dataset,
    models: Sequence[int] | None = None,
    components: int = 2,
    *,
    batch_norm: bool = False,
    own_start: bool = False,
) -> xr.DataArray:
    """Project the snapshots of some networks of one architecture on their principal components.

    Parameters
    ----------
    population
        One architecture's dataset.
    models
        Numbers (``model``) of the networks; all by default. Diverged and failed ones are left out. All their snapshots
        are in memory at once, so choose a few hundred at most.
    components
        Number of components.
    batch_norm
        Whether the variables of batch norms count. A few moving variances reach hundreds in some networks, and are then
        all that there is to see.
    own_start
        Whether each network is measured from its own initialisation, so that all begin at the origin. Without it, the
        distance between random initialisations, which is far longer than any training, decides the picture.

    Returns
    -------
    xarray.DataArray
        Dimensions ``model``, ``snapshot``, ``component``, with the coordinates of the networks and ``share``
        (component), the share of the variance along each. The largest coordinate of each component is positive.

    Raises
    ------
    KeyError
        If a network is not in the population.
    ValueError
        If no network is left.
    """
    chosen = population if models is None else population.sel(model=list(models))
    chosen = chosen.isel(model=np.flatnonzero(~np.isin(chosen["status"].values, ["diverged", "failed"])))
    if not chosen.sizes["model"]:
        raise ValueError(f"no network of {layout_of(population).name} is left to project: all diverged or failed")
    shape = (chosen.sizes["model"], chosen.sizes["snapshot"])
    kinds = np.repeat(*zip(*((tensor.kind, tensor.size) for tensor in layout_of(population).tensors), strict=True))
    counted = np.flatnonzero(batch_norm | np.isin(kinds, ["kernel", "bias"]))
    vectors = chosen["weights"].values[:, :, counted].astype("float64")
    origin = vectors[:, :1] if own_start else vectors.mean(axis=(0, 1))
    vectors = (vectors - origin).reshape(shape[0] * shape[1], -1)
    # Far fewer snapshots than weights: the eigenvectors of the small product of the two give the coordinates.
    values, vectors = np.linalg.eigh(vectors @ vectors.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    points = vectors[:, :components] * np.sqrt(np.maximum(values[:components], 0))
    points *= np.sign(points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])])
    coordinates = {name: place for name, place in chosen.coords.items() if place.dims in (("model",), ("snapshot",))}
    coordinates["share"] = ("component", values[:components] / values.sum())
    return xr.DataArray(points.reshape(*shape, -1), coordinates, ("model", "snapshot", "component"), name="projection")


def where(runs: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    """Give how often a run names the right class, for each place that runs begin at.

    Parameters
    ----------
    runs
        Probabilities (model, snapshot, run, class) with the coordinate ``start`` (model, run), of networks of one
        architecture: from `nwslib.meta.RunClassifier.predict_runs`.
    truth
        The right class of each network, dimension ``model``.

    Returns
    -------
    xarray.DataArray
        Dimension ``run``, with the coordinate ``start``: the first weight of the run.
    """
    right = runs["class"].values[runs.argmax("class").values] == truth.values[:, None, None]
    return xr.DataArray(right.mean(axis=(0, 1)), {"start": ("run", runs["start"].values[0])}, ("run",), name="accuracy")
