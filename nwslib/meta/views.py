"""What a meta-classifier may see: networks on one side of the split, parts of their weights, statistics, and runs."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from nwslib.snapshots.schema import COORDINATES, SPLITS, UNSOUND, layout_of
from nwslib.snapshots.units import permutation
from nwslib.space import nearest

GROUPINGS = ("vector", "layer", "run")
VARIABLES = ("weights", "updates")
PARTS = ("all", "convolution", "dense")
PERCENTILES = (1, 25, 50, 75, 99)
STATISTICS = ("mean", "variance", "skewness", *(f"{percentile} %" for percentile in PERCENTILES))
_EDGES = ("kernel", "base", "spline", "coefficients")  # of one unit to another; all but the first in splines
KINDS = {
    "all": (*_EDGES, "bias", "beta", "gamma", "mean", "variance"),
    "trained": (*_EDGES, "bias", "beta", "gamma"),
    "without batch norm": (*_EDGES, "bias"),
    "kernels": _EDGES,
    "batch norm": ("beta", "gamma", "mean", "variance"),
}

_MODEL_COORDINATES = tuple(name for name, variable in COORDINATES.items() if variable.dims == ("model",))
_BLOCK = 1 << 23  # weights per block: 64 MiB in float64


def nodes(population: xr.Dataset | xr.DataTree) -> tuple[xr.Dataset, ...]:
    """Give the datasets of a population, one per architecture.

    Parameters
    ----------
    population
        One architecture's dataset, or the tree that `nwslib.snapshots.open_population` gives.

    Returns
    -------
    tuple of xarray.Dataset
        Each with dimensions ``model``, ``snapshot``, ``weight``.

    Raises
    ------
    ValueError
        If no dataset in it has weights.
    """
    if isinstance(population, xr.DataTree):
        found = tuple(node.to_dataset() for node in population.subtree if "weights" in node.data_vars)
    else:
        found = (population,) if "weights" in population.data_vars else ()
    if not found:
        raise ValueError("not a population: no dataset in it has the variable 'weights'")
    return found


def matching(
    population: xr.Dataset | xr.DataTree, *, without: bool = False, **values: object
) -> xr.Dataset | xr.DataTree:
    """Give the part of a population whose properties have some values, as lazy as before.

    Parameters
    ----------
    population
        A population or one node of it.
    without
        Give all other networks instead.
    **values
        A value, or several, for each property that counts; a network must match in all.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        As given; architectures without a matching network are left out of a tree.

    Raises
    ------
    ValueError
        If a property is unknown, or no network is left.

    Examples
    --------
    >>> from nwslib import space
    >>> from nwslib.snapshots import fake
    >>> made = list(fake.population(space.sample("nws_small", 12, seed=0)))
    >>> population = xr.concat([one.drop_dims("evaluation") for one in made], "model", data_vars="all")
    >>> sorted(set(matching(population, optimizer=["adam", "momentum"])["optimizer"].values.tolist()))
    ['adam', 'momentum']
    """
    if isinstance(population, xr.DataTree):
        found = {node.name: _matching(node.to_dataset(), values, without) for node in population.children.values()}
        found = {name: node for name, node in found.items() if node.sizes["model"]}
    else:
        found = {"": _matching(population, values, without)}
    if not sum(node.sizes["model"] for node in found.values()):
        raise ValueError(f"no network is left: {'all' if without else 'none'} of them match {values}")
    return xr.DataTree.from_dict(found) if isinstance(population, xr.DataTree) else found[""]


def _matching(node: xr.Dataset, values: Mapping[str, object], without: bool) -> xr.Dataset:
    match = np.full(node.sizes["model"], True)
    for name, wanted in values.items():
        known = [name for name in node.variables if node[name].dims == ("model",)]
        if name not in known:
            raise ValueError(f"unknown property {name!r}. {nearest(name, known)}")
        match &= np.isin(node[name].values, np.atleast_1d(wanted))
    return node.isel(model=np.flatnonzero(match != without))


def select(population: xr.Dataset, part: str = "all", kinds: str = "all") -> np.ndarray:
    """Say which weights of one architecture a meta-classifier may see.

    Parameters
    ----------
    population
        One architecture's dataset; its layout is read, no weight.
    part
        ``"all"``, ``"convolution"`` or ``"dense"``.
    kinds
        ``"all"``; ``"trained"``: without moving means and variances; ``"without batch norm"``: kernels and biases;
        ``"kernels"``; ``"batch norm"``: only beta, gamma, moving mean and variance.

    Returns
    -------
    numpy.ndarray
        Positions in the weight vector, int64, ascending. Runs of weights are consecutive in this selection.

    Raises
    ------
    ValueError
        If `part` or `kinds` is unknown, or nothing is left.
    """
    return np.concatenate([np.arange(place.start, place.stop) for place in _places(population, part, kinds).values()])


@dataclass(frozen=True)
class Networks:
    """The networks of a population that a meta-classifier may use.

    Attributes
    ----------
    nodes
        One dataset per architecture.
    positions
        For each node, the positions along ``model`` of the networks kept.
    left_out
        Number of networks left out, by reason.
    """

    nodes: tuple[xr.Dataset, ...]
    positions: tuple[np.ndarray, ...]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return sum(map(len, self.positions))

    def column(self, name: str) -> np.ndarray:
        """Give a column of the table of networks, such as a property; shape (m,).

        Of what each snapshot has, such as ``"test_accuracy"``, it is the last.

        Raises
        ------
        ValueError
            If there is no such column.
        """
        first = self.nodes[0]
        known = [name for name in first.variables if first[name].dims in (("model",), ("model", "snapshot"))]
        if name not in known:
            raise ValueError(f"unknown property {name!r}. {nearest(name, known)}")
        columns = [node[name].isel(snapshot=-1, missing_dims="ignore").values for node in self.nodes]
        return np.concatenate([column[rows] for column, rows in zip(columns, self.positions, strict=True)])

    def coordinates(self, *further: str) -> dict[str, tuple[str, np.ndarray]]:
        """Give every coordinate of the networks that the schema knows, and further columns, as xarray wants them."""
        known = [name for name in _MODEL_COORDINATES if name in self.nodes[0].variables]
        return {name: ("model", self.column(name)) for name in dict.fromkeys((*known, *further))}


def readable(
    population: xr.Dataset | xr.DataTree,
    split: str | None = None,
    *,
    length: int = 1,
    part: str = "all",
    kinds: str = "all",
    min_test_accuracy: float = 0.0,
) -> Networks:
    """Choose the networks that can be read, on one side of the split or both.

    Parameters
    ----------
    population
        A population or one node of it.
    split
        ``"train"``, ``"test"`` or None for both.
    length
        Weights in a run: networks with fewer in the selection are left out.
    part, kinds
        The selection of weights, as in `select`.
    min_test_accuracy
        Networks below it at the last snapshot are left out; 0 keeps all, those at chance too.

    Returns
    -------
    Networks
        Without the diverged and failed ones; what was left out is counted.

    Raises
    ------
    ValueError
        If `split` is unknown, or no network is left.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}. {nearest(split, SPLITS)}")
    left_out = {"diverged or failed": 0, "too short": 0, "below min_test_accuracy": 0}
    found, kept = nodes(population), []
    for node in found:
        side = np.full(node.sizes["model"], True) if split is None else node["split"].values == split
        sound = ~np.isin(node["status"].values, UNSOUND)
        left_out["diverged or failed"] += int((side & ~sound).sum())
        good = side & sound
        if min_test_accuracy > 0:
            accurate = node["test_accuracy"].isel(snapshot=-1).values >= min_test_accuracy
            left_out["below min_test_accuracy"] += int((good & ~accurate).sum())
            good &= accurate
        if length > 1 and len(select(node, part, kinds)) < length:
            left_out["too short"] += int(good.sum())
            good[:] = False
        kept.append(np.flatnonzero(good))
    if not sum(map(len, kept)):
        raise ValueError(f"no network of the {split or 'whole'} split can be read; left out: {left_out}")
    return Networks(found, tuple(kept), left_out)


def statistics_view(
    population: xr.Dataset | xr.DataTree,
    snapshot: int | Sequence[int] = 20,
    *,
    per: str = "vector",
    part: str = "all",
    kinds: str = "all",
    variable: str = "weights",
    length: int | None = None,
    runs: int = 1,
    since: int | None = None,
    permuted: bool = False,
    split: str | None = None,
    min_test_accuracy: float = 0.0,
    columns: Sequence[str] = (),
) -> xr.DataArray:
    """Summarise the weights of every network by mean, variance, skewness and five percentiles.

    Parameters
    ----------
    population
        A population or one node of it; read in blocks, so that memory does not grow with the number of networks.
    snapshot
        Which snapshot, 1 to 20, or several.
    per
        ``"vector"``: over the whole selection; ``"layer"``: for each layer and kind apart (one architecture only);
        ``"run"``: over runs of consecutive weights.
    part, kinds
        The selection of weights, as in `select`.
    variable
        ``"weights"``, or ``"updates"``: what the last step before the snapshot changed, where the population has it.
    length, runs
        For ``per="run"``: weights in a run, and how many evenly spaced runs of each network; a single one lies in the
        middle. Networks with fewer weights in the selection are left out and counted.
    since
        An earlier snapshot: summarise the change since then, not the weights.
    permuted
        Whether the hidden units of each network are first permuted, consistently: the same function, other places.
    split, min_test_accuracy
        Which networks, as in `readable`.
    columns
        Further columns of the networks that are to be coordinates, as in `Networks.column`.

    Returns
    -------
    xarray.DataArray
        Dimensions ``model``, ``feature`` (``"conv1.kernel mean"``), float64, with every coordinate of the networks;
        between them ``snapshot``, where several were asked for, and ``run``, where there are runs. The skewness of
        constant weights is 0.

    Raises
    ------
    ValueError
        If an argument is unknown, `per` and `length` do not go together, the population does not keep the variable, or
        `per` is ``"layer"`` and the architectures differ.

    Notes
    -----
    The set of statistics is that of Unterthiner et al., "Predicting neural network accuracy from weights", 2020
    (arXiv:2002.11448), widened to tail percentiles as in Eilertsen et al., ECAI 2020.
    """
    _check_grouping(per, length, runs)
    named = {"part": part, "kinds": kinds, "min_test_accuracy": min_test_accuracy}
    chosen = readable(population, split, length=length or 1, **named)
    sequence = np.ndim(snapshot) > 0
    source = {"variable": variable, "since": since, "permuted": permuted}
    features, parts = None, []
    for node, positions in zip(chosen.nodes, chosen.positions, strict=True):
        if not len(positions):
            continue
        weights, groups = _groups(node, per, part, kinds, length, runs)
        names = (
            [f"{name} {statistic}" for name in groups for statistic in STATISTICS] if per == "layer" else [*STATISTICS]
        )
        if features not in (None, names):
            raise ValueError("statistics per layer need networks of one architecture: choose a node, or per='vector'")
        features = names
        moments = [
            np.concatenate(
                [_summed_up(block, groups) for _, block in blocks(node, positions, number, weights, **source)]
            )
            for number in np.atleast_1d(snapshot).tolist()
        ]
        parts.append(np.stack(moments, axis=1))  # (m, s, groups, statistics)
    values = np.concatenate(parts)
    values = values if per == "run" else values.reshape(*values.shape[:2], 1, -1)
    found = xr.DataArray(
        values,
        {**chosen.coordinates(*columns), "snapshot": np.atleast_1d(snapshot), "feature": features},
        ("model", "snapshot", "run", "feature"),
        name="statistics",
    )
    found = found if per == "run" else found.isel(run=0)
    arguments = {"snapshot": snapshot, "per": per, **named, "length": length, "runs": runs, **source}
    found.attrs = described(arguments) | {"left_out": json.dumps(chosen.left_out)}
    return found if sequence else found.isel(snapshot=0, drop=True)


def described(arguments: Mapping[str, object]) -> dict[str, str]:
    """Give arguments as text that is equal where they mean the same, for the attributes of a view."""
    return {name: str(np.asarray(value).tolist()) for name, value in arguments.items()}


def statistics(weights: np.ndarray) -> np.ndarray:
    """Compute the statistics of each row.

    Parameters
    ----------
    weights
        Shape (m, w), any float type, finite.

    Returns
    -------
    numpy.ndarray
        Shape (m, 8), float64, in the order of `STATISTICS`. Variance and skewness are the biased ones; percentiles
        interpolate linearly.

    Examples
    --------
    >>> statistics(np.array([[1.0, 2.0, 3.0]]))[0, [0, 2, 5]].tolist()
    [2.0, 0.0, 2.0]
    """
    ordered = np.sort(weights, axis=1)  # one sort serves all percentiles, and in float32 it is exact
    constant = ordered[:, 0] == ordered[:, -1]
    mean = np.where(constant, ordered[:, 0], weights.mean(axis=1, dtype="float64"))
    deviation = weights - mean[:, None]
    square = deviation * deviation
    variance = square.mean(axis=1)
    third = np.multiply(square, deviation, out=square).mean(axis=1)
    skewness = np.where(constant, 0.0, third / np.where(constant, 1.0, variance) ** 1.5)
    place = np.array(PERCENTILES) / 100 * (weights.shape[1] - 1)
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, weights.shape[1] - 1)
    low, high = ordered[:, below].astype("float64"), ordered[:, above].astype("float64")
    return np.column_stack([mean, variance, skewness, low + (high - low) * (place - below)])


def _places(node: xr.Dataset, part: str, kinds: str) -> dict[str, slice]:
    """Give the place in the vector of each selected tensor, by name."""
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}. {nearest(part, PARTS)}")
    if kinds not in KINDS:
        raise ValueError(f"unknown kinds {kinds!r}. {nearest(kinds, KINDS)}")
    layout = layout_of(node)
    if layout.size != node.sizes["weight"]:
        raise ValueError(f"{layout.name} has {layout.size} weights, but the dataset has {node.sizes['weight']}")
    places = {
        tensor.name: layout.slices[tensor.name]
        for tensor in layout.tensors
        if part in ("all", tensor.part) and tensor.kind in KINDS[kinds]
    }
    if not places:
        raise ValueError(f"{layout.name} has no weight with part={part!r} and kinds={kinds!r}")
    return places


def blocks(
    node: xr.Dataset,
    positions: np.ndarray,
    snapshot: int,
    weights: np.ndarray,
    *,
    variable: str = "weights",
    since: int | None = None,
    permuted: bool = False,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Read one snapshot of some networks of one architecture in blocks of bounded size.

    Parameters
    ----------
    node
        One architecture's dataset.
    positions
        Of the networks, along ``model``.
    snapshot
        Its number.
    weights
        Positions in the weight vector, from `select`.
    variable, since, permuted
        As in `statistics_view`.

    Yields
    ------
    tuple of slice and numpy.ndarray
        Which of `positions`, and their weights (m, w), float32.

    Raises
    ------
    ValueError
        If there is no such snapshot, or the population does not keep the variable.
    """
    if variable not in VARIABLES:
        raise ValueError(f"unknown variable {variable!r}. {nearest(variable, VARIABLES)}")
    if variable not in node.variables:
        raise ValueError(f"the population keeps no {variable}: train it with {variable}=True")
    current = node[variable].isel(snapshot=_snapshot(node, snapshot))
    earlier = None if since is None else node[variable].isel(snapshot=_snapshot(node, since))
    whole = len(weights) == node.sizes["weight"]
    step = max(1, _BLOCK // node.sizes["weight"])
    for start in range(0, len(positions), step):
        rows = slice(start, min(start + step, len(positions)))
        block = current.isel(model=positions[rows]).values
        if earlier is not None:
            block = block - earlier.isel(model=positions[rows]).values
        if permuted:
            block = _permuted(block, node, node["id"].values[positions[rows]].tolist())
        yield rows, np.ascontiguousarray(block if whole else block[:, weights], dtype="float32")


def _permuted(block: np.ndarray, node: xr.Dataset, names: Sequence[str]) -> np.ndarray:
    """Permute the hidden units of each network by a draw of its own."""
    layout = layout_of(node)
    orders = np.stack([permutation(layout, zlib.crc32(name.encode())) for name in names])
    return np.take_along_axis(block, orders, axis=1)


def _check_grouping(per: str, length: int | None, runs: int) -> None:
    if per not in GROUPINGS:
        raise ValueError(f"unknown grouping {per!r}. {nearest(per, GROUPINGS)}")
    if (per == "run") != (length is not None):
        raise ValueError(f"a length goes with per='run', and only with it, not length={length} with per={per!r}")
    if min(1 if length is None else length, runs) < 1:
        raise ValueError(f"length and runs must be at least 1, not {length} and {runs}")


def _groups(
    node: xr.Dataset, per: str, part: str, kinds: str, length: int | None, runs: int
) -> tuple[np.ndarray, dict[str, slice]]:
    """Give the weights to read, and the groups among them that are summarised apart."""
    weights = select(node, part, kinds)
    if per == "vector":
        return weights, {"vector": slice(None)}
    if per == "run":
        starts = spaced(len(weights) - length + 1, runs).tolist()
        return weights, {f"run {number}": slice(start, start + length) for number, start in enumerate(starts)}
    places = _places(node, part, kinds)
    ends = np.cumsum([place.stop - place.start for place in places.values()])
    starts = np.concatenate([[0], ends[:-1]])
    return weights, {name: slice(start, end) for name, start, end in zip(places, starts, ends, strict=True)}


def spaced(room: int, runs: int) -> np.ndarray:
    """Space runs evenly over the places where one can start, the first at 0; a single one in the middle.

    Examples
    --------
    >>> spaced(11, 3), spaced(11, 1)
    (array([ 0,  5, 10]), array([5]))
    """
    fractions = np.linspace(0, 1, runs) if runs > 1 else np.array([0.5])
    return np.rint(fractions * (room - 1)).astype(int)


def _summed_up(block: np.ndarray, groups: Mapping[str, slice]) -> np.ndarray:
    """Sum up each group of weights (m, w) of a block: (m, groups, statistics)."""
    return np.stack([statistics(block[:, place]) for place in groups.values()], axis=1)


def _snapshot(node: xr.Dataset, number: int) -> int:
    known = node["snapshot"].values.tolist()
    if number not in known:
        raise ValueError(f"there is no snapshot {number!r}. {nearest(number, known)}")
    return known.index(number)
