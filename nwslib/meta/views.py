"""What a meta-classifier may see: networks on one side of the split, parts of their weights, statistics, and runs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from nwslib.snapshots.schema import COORDINATES, SPLITS, UNSOUND, layout_of
from nwslib.space import nearest

PARTS = ("all", "convolution", "dense")
PERCENTILES = (1, 25, 50, 75, 99)
STATISTICS = ("mean", "variance", "skewness", *(f"{percentile} %" for percentile in PERCENTILES))

_BATCH_NORM_KINDS = ("beta", "gamma", "mean", "variance")
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


def select(population: xr.Dataset, part: str = "all", batch_norm: bool | str = True) -> np.ndarray:
    """Say which weights of one architecture a meta-classifier may see.

    Parameters
    ----------
    population
        One architecture's dataset; its layout is read, no weight.
    part
        ``"all"``, ``"convolution"`` or ``"dense"``.
    batch_norm
        True: all variables; False: without those of batch norms (beta, gamma, moving mean and variance); ``"only"``:
        those alone.

    Returns
    -------
    numpy.ndarray
        Positions in the weight vector, int64, ascending. Runs of weights are consecutive in this selection.

    Raises
    ------
    ValueError
        If `part` or `batch_norm` is unknown, or nothing is left.
    """
    return np.concatenate(
        [np.arange(place.start, place.stop) for place in _places(population, part, batch_norm).values()]
    )


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

        Raises
        ------
        ValueError
            If there is no such column.
        """
        known = [name for name in self.nodes[0].variables if self.nodes[0][name].dims == ("model",)]
        if name not in known:
            raise ValueError(f"unknown property {name!r}. {nearest(name, known)}")
        pairs = zip(self.nodes, self.positions, strict=True)
        return np.concatenate([node[name].values[positions] for node, positions in pairs])

    def coordinates(self) -> dict[str, tuple[str, np.ndarray]]:
        """Give every coordinate of the networks, as xarray wants them."""
        return {name: ("model", self.column(name)) for name in _MODEL_COORDINATES if name in self.nodes[0].variables}


def readable(
    population: xr.Dataset | xr.DataTree,
    split: str | None = None,
    *,
    length: int = 1,
    part: str = "all",
    batch_norm: bool | str = True,
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
    part, batch_norm
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
        if length > 1 and len(select(node, part, batch_norm)) < length:
            left_out["too short"] += int(good.sum())
            good[:] = False
        kept.append(np.flatnonzero(good))
    if not sum(map(len, kept)):
        raise ValueError(f"no network of the {split or 'whole'} split can be read; left out: {left_out}")
    return Networks(found, tuple(kept), left_out)


def statistics_view(
    population: xr.Dataset | xr.DataTree,
    snapshot: int = 20,
    *,
    per: str = "vector",
    part: str = "all",
    batch_norm: bool | str = True,
    run: tuple[int, int] | None = None,
    since: int | None = None,
    split: str | None = None,
    min_test_accuracy: float = 0.0,
) -> xr.DataArray:
    """Summarise the weights of every network by mean, variance, skewness and five percentiles.

    Parameters
    ----------
    population
        A population or one node of it; read in blocks, so that memory does not grow with the number of networks.
    snapshot
        Which snapshot, 1 to 20.
    per
        ``"vector"``: over the whole selection; ``"layer"``: for each layer and kind apart (one architecture only).
    part, batch_norm
        The selection of weights, as in `select`.
    run
        Start and length of one run within the selection, in place of all of it.
    since
        An earlier snapshot: summarise the change since then, not the weights.
    split, min_test_accuracy
        Which networks, as in `readable`.

    Returns
    -------
    xarray.DataArray
        Dimensions ``model``, ``feature`` (``"conv1.kernel mean"``), float64, with every coordinate of the networks.
        The skewness of constant weights is 0.

    Raises
    ------
    ValueError
        If an argument is unknown, the run does not fit, or `per` is ``"layer"`` and the architectures differ.

    Notes
    -----
    The set of statistics is that of Unterthiner et al., "Predicting neural network accuracy from weights", 2020
    (arXiv:2002.11448), widened to tail percentiles as in Eilertsen et al., ECAI 2020.
    """
    length = 1 if run is None else run[0] + run[1]
    chosen = readable(
        population,
        split,
        length=length,
        part=part,
        batch_norm=batch_norm,
        min_test_accuracy=min_test_accuracy,
    )
    blocks, names = [], None
    for node, positions in zip(chosen.nodes, chosen.positions, strict=True):
        if not len(positions):
            continue
        weights, groups = _groups(node, per, part, batch_norm, run)
        if names is not None and list(groups) != names:
            raise ValueError("statistics per layer need networks of one architecture: choose a node, or per='vector'")
        names = list(groups)
        for _, block in _blocks(node, positions, snapshot, weights, since):
            blocks.append(np.concatenate([statistics(block[:, place]) for place in groups.values()], axis=1))
    features = [f"{name} {statistic}" for name in names for statistic in STATISTICS]
    coordinates = {**chosen.coordinates(), "feature": features}
    view = xr.DataArray(np.concatenate(blocks), coordinates, ("model", "feature"), name="statistics")
    arguments = {"snapshot": snapshot, "per": per, "part": part, "batch_norm": batch_norm, "run": run, "since": since}
    arguments["min_test_accuracy"] = min_test_accuracy
    view.attrs = {name: str(value) for name, value in arguments.items()} | {"left_out": json.dumps(chosen.left_out)}
    return view


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


@dataclass(frozen=True)
class Runs:
    """The selected weights of many snapshots, resident on a device, and runs of consecutive ones cut from them.

    One row is one snapshot of one network; row = network * number of snapshots + snapshot.

    Attributes
    ----------
    weights
        Selected weights of all rows, one after the other, float32, shape (sum over rows of w,).
    offset
        Where each row begins, int64, on the device of the weights.
    room
        At how many places of each row a run can start, int64, on the CPU: no run leaves its row.
    length
        Weights in a run.
    networks
        The networks, in the order of the rows.
    snapshots
        The snapshots of each.
    """

    weights: torch.Tensor
    offset: torch.Tensor
    room: torch.Tensor
    length: int
    networks: Networks
    snapshots: tuple[int, ...]

    def gather(self, rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Cut one run from each of some rows, in one gather on the device.

        Parameters
        ----------
        rows
            Which rows, int64, shape (b,), on the device of the weights.
        starts
            Where in its row each run starts, less than its `room`, shape (b,), likewise.

        Returns
        -------
        torch.Tensor
            Shape (b, length).
        """
        # Rows of an overlapping view: 10 to 20 times faster on a CPU than an index for every weight, and no such index.
        return self.weights.unfold(0, self.length, 1).index_select(0, self.offset[rows] + starts)

    def random_starts(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw where runs start, each place equally likely; rows and result on the CPU, shape (b,)."""
        draws = torch.rand(len(rows), dtype=torch.float64, generator=generator)
        return (draws * self.room[rows]).long()

    def spaced_starts(self, rows: torch.Tensor, runs: int) -> torch.Tensor:
        """Space runs evenly, the first at the start and the last at the end of each row; CPU, shape (b, runs)."""
        fractions = torch.linspace(0, 1, runs, dtype=torch.float64) if runs > 1 else torch.tensor([0.5]).double()
        return (fractions * (self.room[rows, None] - 1)).round().long()


def runs_view(
    population: xr.Dataset | xr.DataTree,
    length: int,
    *,
    split: str | None = None,
    snapshots: int | Sequence[int] = 20,
    part: str = "all",
    batch_norm: bool | str = True,
    min_test_accuracy: float = 0.0,
    device: str | torch.device = "cpu",
) -> Runs:
    """Load the selected weights to a device, ready to be cut into runs.

    Parameters
    ----------
    population
        A population or one node of it.
    length
        Weights in a run; networks with fewer in the selection are left out and counted.
    split, min_test_accuracy
        Which networks, as in `readable`.
    snapshots
        Which snapshots of each.
    part, batch_norm
        The selection of weights, as in `select`; a run never leaves it, and never joins two networks.
    device
        Where the weights are to be; they take four bytes each.

    Returns
    -------
    Runs
        One row per network and snapshot.

    Raises
    ------
    ValueError
        If an argument is unknown or no network is long enough.
    """
    if length < 1:
        raise ValueError(f"a run needs at least 1 weight, not {length}")
    chosen = readable(
        population,
        split,
        length=length,
        part=part,
        batch_norm=batch_norm,
        min_test_accuracy=min_test_accuracy,
    )
    numbers = tuple(int(number) for number in np.atleast_1d(snapshots))
    selections = [
        select(node, part, batch_norm) if len(positions) else np.arange(0)
        for node, positions in zip(chosen.nodes, chosen.positions, strict=True)
    ]
    counts = [len(positions) * len(numbers) for positions in chosen.positions]
    sizes = torch.tensor(np.repeat([len(selection) for selection in selections], counts))
    weights = torch.empty(int(sizes.sum()), device=device)
    end = 0
    for node, positions, selection in zip(chosen.nodes, chosen.positions, selections, strict=True):
        shape = (len(positions), len(numbers), len(selection))
        start, end = end, end + int(np.prod(shape))
        target = weights[start:end].view(shape)
        for place, number in enumerate(numbers if len(positions) else ()):
            for rows, block in _blocks(node, positions, number, selection):
                target[rows, place] = torch.from_numpy(block).to(device)
    return Runs(weights, (sizes.cumsum(0) - sizes).to(device), sizes - length + 1, length, chosen, numbers)


def _places(node: xr.Dataset, part: str, batch_norm: bool | str) -> dict[str, slice]:
    """Give the place in the vector of each selected tensor, by name."""
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}. {nearest(part, PARTS)}")
    if batch_norm not in (True, False, "only"):
        raise ValueError(f"batch_norm must be True, False or 'only', not {batch_norm!r}")
    layout = layout_of(node)
    if layout.size != node.sizes["weight"]:
        raise ValueError(f"{layout.name} has {layout.size} weights, but the dataset has {node.sizes['weight']}")
    wanted = {True: (True, False), False: (False,), "only": (True,)}[batch_norm]
    places = {
        tensor.name: layout.slices[tensor.name]
        for tensor in layout.tensors
        if part in ("all", tensor.part) and (tensor.kind in _BATCH_NORM_KINDS) in wanted
    }
    if not places:
        raise ValueError(f"{layout.name} has no weight with part={part!r} and batch_norm={batch_norm!r}")
    return places


def _groups(
    node: xr.Dataset, per: str, part: str, batch_norm: bool | str, run: tuple[int, int] | None
) -> tuple[np.ndarray, dict[str, slice]]:
    """Give the weights to read, and the groups among them that are summarised apart."""
    weights = select(node, part, batch_norm)
    if per not in ("vector", "layer"):
        raise ValueError(f"unknown grouping {per!r}. {nearest(per, ('vector', 'layer'))}")
    if run is not None:
        if per == "layer" or run[0] < 0 or run[1] < 1:
            raise ValueError(f"a run needs a start of at least 0, a length of at least 1 and per='vector', not {run}")
        return weights[run[0] : run[0] + run[1]], {"run": slice(None)}
    if per == "vector":
        return weights, {"vector": slice(None)}
    places = _places(node, part, batch_norm)
    ends = np.cumsum([place.stop - place.start for place in places.values()])
    starts = np.concatenate([[0], ends[:-1]])
    return weights, {name: slice(start, end) for name, start, end in zip(places, starts, ends, strict=True)}


def _blocks(
    node: xr.Dataset, positions: np.ndarray, snapshot: int, weights: np.ndarray, since: int | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Read one snapshot of some networks in blocks of bounded size: rows, and weights (m, w) in float32."""
    current = node["weights"].isel(snapshot=_snapshot(node, snapshot))
    earlier = None if since is None else node["weights"].isel(snapshot=_snapshot(node, since))
    whole = len(weights) == node.sizes["weight"]
    step = max(1, _BLOCK // node.sizes["weight"])
    for start in range(0, len(positions), step):
        rows = slice(start, min(start + step, len(positions)))
        block = current.isel(model=positions[rows]).values
        if earlier is not None:
            block = block - earlier.isel(model=positions[rows]).values
        yield rows, np.ascontiguousarray(block if whole else block[:, weights], dtype="float32")


def _snapshot(node: xr.Dataset, number: int) -> int:
    known = node["snapshot"].values.tolist()
    if number not in known:
        raise ValueError(f"there is no snapshot {number!r}. {nearest(number, known)}")
    return known.index(number)
