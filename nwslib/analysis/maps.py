"""What, where and when: arrays that figures are drawn from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import cKDTree

from nwslib.snapshots.schema import UNSOUND, layout_of
from nwslib.space import nearest

PERCENTILES = (1, 25, 50, 75, 99)
STATISTICS = ("mean", "standard deviation", *(f"{percentile} %" for percentile in PERCENTILES))

_BLOCK = 64  # networks whose weights are in memory at once


def project(
    population: xr.Dataset,
    models: Sequence[int] | None = None,
    components: int = 2,
    *,
    batch_norm: bool = False,
    own_start: bool = False,
    own_length: bool = False,
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
    own_length
        Whether, besides, each network's way is divided by the distance between its start and its end: then directions
        count, and not the few networks that go much farther than all others. One that did not move stays at the origin.

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
    chosen, counted = _chosen(population, models, batch_norm)
    shape = (chosen.sizes["model"], chosen.sizes["snapshot"])
    vectors = chosen["weights"].values[:, :, counted].astype("float64")
    vectors -= vectors[:, :1].copy() if own_start or own_length else vectors.mean(axis=(0, 1))
    if own_length:
        lengths = np.linalg.norm(vectors[:, -1:], axis=2, keepdims=True)
        vectors /= np.where(lengths > 0, lengths, 1)
    vectors = vectors.reshape(shape[0] * shape[1], -1)
    # Far fewer snapshots than weights: the eigenvectors of the small product of the two give the coordinates.
    values, vectors = np.linalg.eigh(vectors @ vectors.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    points = vectors[:, :components] * np.sqrt(np.maximum(values[:components], 0))
    points *= np.sign(points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])])
    coordinates = _coordinates(chosen) | {"share": ("component", values[:components] / (values.sum() or 1))}
    return xr.DataArray(points.reshape(*shape, -1), coordinates, ("model", "snapshot", "component"), name="projection")


def distances(population: xr.Dataset, models: Sequence[int] | None = None, *, batch_norm: bool = False) -> xr.DataArray:
    """Give how far some networks of one architecture have come from their initialisation, at each snapshot.

    Parameters
    ----------
    population, models, batch_norm
        As for `project`; the weights of one network are in memory at a time.

    Returns
    -------
    xarray.DataArray
        Dimensions ``model``, ``snapshot``, with the coordinates of the networks: the Euclidean distance of the weights
        from those at the first snapshot.

    Raises
    ------
    KeyError
        If a network is not in the population.
    ValueError
        If no network is left.
    """
    chosen, counted = _chosen(population, models, batch_norm)
    travelled = np.empty((chosen.sizes["model"], chosen.sizes["snapshot"]))
    for place in range(chosen.sizes["model"]):
        vectors = chosen["weights"].isel(model=place).values[:, counted].astype("float64")
        travelled[place] = np.linalg.norm(vectors - vectors[0], axis=1)
    return xr.DataArray(travelled, _coordinates(chosen), ("model", "snapshot"), name="distance")


def where(runs: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    """Give how often a run names the right class, for each place that runs begin at.

    Parameters
    ----------
    runs
        Probabilities (model, snapshot, run, class) with the coordinate ``start`` (model, run), of networks of one
        architecture: from `nwslib.meta.RunReader.predict_runs`.
    truth
        The right class of each network, dimension ``model``.

    Returns
    -------
    xarray.DataArray
        Dimension ``run``, with the coordinate ``start``: the first weight of the run.
    """
    right = runs["class"].values[runs.argmax("class").values] == truth.values[:, None, None]
    return xr.DataArray(right.mean(axis=(0, 1)), {"start": ("run", runs["start"].values[0])}, ("run",), name="accuracy")


def summaries(population: xr.Dataset | xr.DataTree, snapshot: int | None = None) -> xr.DataArray:
    """Sum up the kernels of every network, reading the weights of 64 networks at a time.

    Parameters
    ----------
    population
        One architecture, or several: then the kernels that all of them have are summed up. Variables of batch norms
        never count: moving statistics describe the images that passed through, not what was learned from them.
    snapshot
        Number of the snapshot; the last by default.

    Returns
    -------
    xarray.DataArray
        Dimensions ``model``, ``statistic`` (``"conv1.kernel mean"``, ...), with the coordinates of the networks.
        Diverged and failed ones are left out; the attribute ``left_out`` counts them.

    Raises
    ------
    ValueError
        If no network is left, the architectures have no kernel in common, or there is no such snapshot.
    """
    tree = isinstance(population, xr.DataTree)
    nodes = [child.to_dataset() for child in population.children.values()] if tree else [population]
    layouts = [layout_of(node) for node in nodes]
    shared = [t.name for t in layouts[0].tensors if t.kind == "kernel" and all(t.name in one.slices for one in layouts)]
    if not shared:
        raise ValueError(f"the {len(nodes)} architectures have no kernel in common: choose one of them")
    sound = [node.isel(model=_sound(node)) for node in nodes]
    left_out = sum(node.sizes["model"] for node in nodes) - sum(node.sizes["model"] for node in sound)
    parts = [_summed_up(node, shared, snapshot) for node in sound if node.sizes["model"]]
    if not parts:
        raise ValueError(f"no network is left to sum up: all {left_out} diverged or failed")
    found = xr.concat(parts, "model", coords="minimal", compat="override", join="override", combine_attrs="drop")
    return found.assign_attrs(left_out=left_out)


def landscape(summaries: xr.DataArray, components: int = 2) -> xr.DataArray:
    """Place networks on a map: the principal components of their summaries.

    Parameters
    ----------
    summaries
        From `summaries`, or some networks of it. Each statistic is replaced by its rank among the networks, because
        single networks lie orders of magnitude away from all others.
    components
        Number of components.

    Returns
    -------
    xarray.DataArray
        Dimensions ``model``, ``component``, with the coordinates of the networks and ``share`` (component), the share
        of the variance along each. The largest coordinate of each component is positive.

    Raises
    ------
    ValueError
        If there are fewer networks than components and one, or they are all alike.
    """
    if summaries.sizes["model"] <= components:
        raise ValueError(f"{components} components need more networks than that, not {summaries.sizes['model']}")
    ranks = pd.DataFrame(summaries.values).rank().values
    ranks = ranks[:, np.ptp(ranks, axis=0) > 0]
    if not ranks.size:
        raise ValueError("all networks are alike: there is nothing to map")
    ranks = (ranks - ranks.mean(axis=0)) / ranks.std(axis=0)
    left, scales, _ = np.linalg.svd(ranks, full_matrices=False)
    points = (left * scales)[:, :components]
    points *= np.sign(points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])])
    coordinates = {name: column for name, column in summaries.coords.items() if column.dims == ("model",)}
    coordinates["share"] = ("component", (scales**2 / (scales**2).sum())[: points.shape[1]])
    return xr.DataArray(points, coordinates, ("model", "component"), name="landscape", attrs=summaries.attrs)


def neighbours(points: xr.DataArray, by: str) -> tuple[float, float]:
    """Say how often the nearest neighbour on a map has the same value of a property.

    Parameters
    ----------
    points
        From `landscape`: at least two networks.
    by
        A property.

    Returns
    -------
    tuple of float
        The share of the networks whose nearest neighbour has their value, and the share that a neighbour drawn at
        random has.

    Raises
    ------
    ValueError
        If the property is unknown, or there is only one network.

    Examples
    --------
    >>> places = [[0.0, 0], [0, 1], [5, 5], [5, 6]]
    >>> names = ["adam", "adam", "momentum", "adam"]
    >>> points = xr.DataArray(places, {"optimizer": ("model", names)}, ("model", "component"))
    >>> neighbours(points, "optimizer")
    (0.5, 0.5)
    """
    known = [name for name, column in points.coords.items() if column.dims == ("model",)]
    if by not in known:
        raise ValueError(f"unknown property {by!r}. {nearest(by, known)}")
    if points.sizes["model"] < 2:
        raise ValueError("a network has a neighbour only where there are two of them")
    values = points[by].values
    _, nearby = cKDTree(points.values).query(points.values, 2)
    # Where networks lie in one point, either of the two may be the network itself.
    other = np.where(nearby[:, 0] == np.arange(len(values)), nearby[:, 1], nearby[:, 0])
    _, counts = np.unique(values, return_counts=True)
    random = (counts * (counts - 1)).sum() / (len(values) * (len(values) - 1))
    return float((values[other] == values).mean()), float(random)


def spreads(population: xr.Dataset, by: str, snapshot: int | None = None) -> xr.DataArray:
    """Give the percentiles of the kernel weights, layer by layer, for each value of a property.

    Parameters
    ----------
    population
        One architecture's dataset; the weights of 64 networks and one layer are in memory at a time.
    by
        A property.
    snapshot
        Number of the snapshot; the last by default.

    Returns
    -------
    xarray.DataArray
        Dimensions ``value``, ``layer``, ``percentile`` (1, 25, 50, 75, 99): the median, over the networks with the
        value, of each network's own percentile. ``networks`` (value) counts them.

    Raises
    ------
    ValueError
        If the property or the snapshot is unknown, or no network is left.
    """
    known = [name for name, column in population.coords.items() if column.dims == ("model",)]
    if by not in known:
        raise ValueError(f"unknown property {by!r}. {nearest(by, known)}")
    found = summaries(population, snapshot)
    values, counts = np.unique(found[by].values, return_counts=True)
    layers = [tensor.layer for tensor in layout_of(population).tensors if tensor.kind == "kernel"]
    columns = found.values.reshape(found.sizes["model"], len(layers), len(STATISTICS))[..., -len(PERCENTILES) :]
    middle = [np.median(columns[found[by].values == value], axis=0) for value in values]
    coordinates = {"value": values, "layer": layers, "percentile": list(PERCENTILES), "networks": ("value", counts)}
    return xr.DataArray(np.array(middle), coordinates, ("value", "layer", "percentile"), attrs={"by": by})


def _chosen(population: xr.Dataset, models: Sequence[int] | None, batch_norm: bool) -> tuple[xr.Dataset, np.ndarray]:
    """Give the networks asked for that neither diverged nor failed, and which of their weights count."""
    chosen = population if models is None else population.sel(model=list(models))
    chosen = chosen.isel(model=_sound(chosen))
    if not chosen.sizes["model"]:
        raise ValueError(f"no network of {layout_of(population).name} is left to project: all diverged or failed")
    kinds = np.repeat(*zip(*((tensor.kind, tensor.size) for tensor in layout_of(population).tensors), strict=True))
    return chosen, np.flatnonzero(batch_norm | np.isin(kinds, ["kernel", "bias"]))


def _coordinates(population: xr.Dataset) -> dict[str, xr.DataArray]:
    """Give what is known of the networks and of the snapshots."""
    return {name: column for name, column in population.coords.items() if column.dims in (("model",), ("snapshot",))}


def _sound(population: xr.Dataset) -> np.ndarray:
    """Give the positions of the networks that neither diverged nor failed."""
    return np.flatnonzero(~np.isin(population["status"].values, UNSOUND))


def _summed_up(node: xr.Dataset, tensors: Sequence[str], snapshot: int | None) -> xr.DataArray:
    """Sum up some tensors of the networks of one architecture."""
    layout, moments = layout_of(node), node["snapshot"].values.tolist()
    if snapshot is not None and snapshot not in moments:
        raise ValueError(f"{layout.name} has no snapshot {snapshot!r}. {nearest(snapshot, moments)}")
    weights = node["weights"].isel(snapshot=-1 if snapshot is None else moments.index(snapshot))
    blocks = [slice(start, start + _BLOCK) for start in range(0, node.sizes["model"], _BLOCK)]
    found = [
        [_statistics(weights.isel(model=block, weight=layout.slices[name]).values) for name in tensors]
        for block in blocks
    ]
    values = np.concatenate([np.concatenate(block, axis=1) for block in found])
    coordinates = {name: column.variable for name, column in node.coords.items() if column.dims == ("model",)}
    coordinates["statistic"] = [f"{name} {statistic}" for name in tensors for statistic in STATISTICS]
    return xr.DataArray(values, coordinates, ("model", "statistic"))


def _statistics(weights: np.ndarray) -> np.ndarray:
    """Give the `STATISTICS` of each row: (m, 7)."""
    weights = weights.astype("float64")
    percentiles = np.percentile(weights, PERCENTILES, axis=1)
    return np.stack([weights.mean(axis=1), weights.std(axis=1), *percentiles], axis=1)
