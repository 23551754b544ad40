"""Read a label of every weight: fit a reader on masks, score it network by network; and the plain readers to beat."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import xarray as xr
from scipy.sparse import csr_matrix, diags
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from nwslib import __version__
from nwslib.meta.labels import refuse_seen, shuffle
from nwslib.meta.read import store_reading
from nwslib.meta.views import Networks, blocks, readable
from nwslib.population.device import resolve_device
from nwslib.snapshots import layout_of
from nwslib.snapshots.layout import Layout
from nwslib.space import nearest

MACHINES = ("place", "boosting")

_GROUPS = {
    "unit": ("layer", "unit"),
    "source": ("layer", "source", "row", "column"),
    "edge": ("layer", "unit", "source"),
    "pixel": ("layer", "row", "column"),
}
_FEATURES = 1 << 23  # numbers in memory at once: 32 MiB
_LEAST = 1e-8  # below it, magnitudes look alike


class MaskReader(Protocol):
    """A reader of masks: `nwslib.meta.NetworkReader`, or a `WeightReader`."""

    method: str
    device: str
    seed: int

    def fit(self, data: xr.Dataset | xr.DataTree, property: xr.DataArray, *, shuffled: bool = False) -> Self:
        """Learn from the masks of the networks of the training split."""

    def predictions(self, data: xr.Dataset | xr.DataTree) -> xr.Dataset:
        """Give ``probability`` (model, weight), of the networks of the test split, that a weight is kept."""


@dataclass
class WeightReader:
    """Says whether a weight is kept from what is seen of it alone: the plain reader that any deep one has to beat.

    Attributes
    ----------
    machine
        ``"place"``: the share of the training networks that keep the weight at its place, without a look at the weight.
        ``"boosting"``: gradient boosting of that share and of magnitudes on a logarithmic scale, each against the mean
        of its tensor: of the weight, and the means over the weights of its unit, of its source, of its edge, and of its
        place in the kernel.
    snapshot
        Which snapshot.
    samples
        Weights that boosting learns from, drawn from all networks alike.
    seed
        Of that draw, and of the permutation where masks are shuffled.
    """

    machine: str = "boosting"
    snapshot: int = 20
    samples: int = 200_000
    seed: int = 0
    trees: HistGradientBoostingClassifier | None = field(default=None, init=False, repr=False)
    shares: np.ndarray | None = field(default=None, init=False, repr=False)
    seen: frozenset[str] = field(default=frozenset(), init=False, repr=False)

    device = "cpu"

    @property
    def method(self) -> str:
        """What a table calls it."""
        return f"weight, {self.machine}"

    def fit(self, data: xr.Dataset | xr.DataTree, property: xr.DataArray, *, shuffled: bool = False) -> Self:
        """Learn from the masks of the networks of the training split.

        Parameters
        ----------
        data
            A population of one architecture.
        property
            Masks, from `nwslib.population.pruning.masks`.
        shuffled
            Permute the masks over the training networks: a control.

        Returns
        -------
        WeightReader
            Itself, fitted.

        Raises
        ------
        ValueError
            If a parameter is unknown, or a network has no mask.
        """
        if self.machine not in MACHINES:
            raise ValueError(f"unknown machine {self.machine!r}. {nearest(self.machine, MACHINES)}")
        networks = readable(data, "train")
        keep = labels_of(networks, property)
        keep = keep[shuffle(np.arange(len(keep)), self.seed)] if shuffled else keep
        asked = np.isfinite(keep)
        counts = asked.sum(axis=0)
        self.shares = np.divide(np.nansum(keep, axis=0), counts, out=np.full(len(counts), 0.5), where=counts > 0)
        if self.machine == "boosting":
            self.trees = self._boosted(networks, keep, asked)
        self.seen = frozenset(networks.column("id").tolist())
        return self

    def predictions(self, data: xr.Dataset | xr.DataTree) -> xr.Dataset:
        """Give for each weight of the networks of the test split how probably it is kept.

        Returns
        -------
        xarray.Dataset
            ``probability`` (model, weight).

        Raises
        ------
        ValueError
            If the reader is not fitted, or has seen one of the networks.
        """
        if self.shares is None:
            raise ValueError("the reader is not fitted: call fit first")
        networks = readable(data, "test")
        refuse_seen(networks.column("id"), self.seen)
        found = np.empty((len(networks), len(self.shares)), "float32")
        if self.trees is None:
            found[:] = self.shares
        else:
            for rows, features in _features(networks, self.snapshot, self.shares):
                found[rows] = self._probability(features).reshape(-1, len(self.shares))
        about = {name: ("model", networks.column(name)) for name in ("model", "id")}
        return xr.Dataset({"probability": (("model", "weight"), found)}, about)

    def _boosted(self, networks: Networks, keep: np.ndarray, asked: np.ndarray) -> HistGradientBoostingClassifier:
        places = np.flatnonzero(asked)
        random = np.random.default_rng([self.seed, 5])
        chosen = np.sort(random.choice(places, min(self.samples, len(places)), replace=False))
        labels, rows, width = keep.ravel()[chosen], chosen // keep.shape[1], keep.shape[1]
        # The share of a weight's place counts its own network, too: that one is left out.
        counts = asked.sum(axis=0)[chosen % width]
        own = (self.shares[chosen % width] * counts - labels) / np.maximum(counts - 1, 1)
        parts = []
        for block, features in _features(networks, self.snapshot, self.shares):
            inside = chosen[(rows >= block.start) & (rows < block.stop)] - block.start * width
            parts.append(features.reshape(-1, features.shape[-1])[inside])
        samples = np.concatenate(parts)
        samples[:, 0] = own
        trees = HistGradientBoostingClassifier(early_stopping=False, random_state=self.seed)
        with threadpool_limits(1, "openmp"):
            return trees.fit(samples, labels)

    def _probability(self, features: np.ndarray) -> np.ndarray:
        with threadpool_limits(1, "openmp"):
            return self.trees.predict_proba(features.reshape(-1, features.shape[-1]))[:, 1]


def read_masks(
    population: xr.Dataset | xr.DataTree,
    masks: xr.DataArray,
    reader: MaskReader,
    *,
    seeds: Sequence[int] = (0,),
    shuffled: bool = False,
    keep: str | Path | None = None,
) -> xr.Dataset:
    """Fit a reader on the masks of the training networks, and score those that it gives the test networks.

    Parameters
    ----------
    population
        Of one architecture; its own ``split`` decides who is learned from.
    masks
        From `nwslib.population.pruning.masks`.
    reader
        A `NetworkReader` or a `WeightReader`; a fresh copy is fitted for each seed.
    seeds
        Of the reader.
    shuffled
        Permute the masks over the training networks: a control.
    keep
        A folder in which the reading is kept: where the same reading is there, nothing is computed.

    Returns
    -------
    xarray.Dataset
        ``accuracy`` and ``AUC`` (model, or model and seed): over the weights of a network that are asked about, the
        share named right, and how often a kept one gets a higher probability than a dropped one, NaN where all are
        alike. ``base_rate`` (model), the share right of a reader that always names the label that is commoner among the
        training networks. Attributes as of a reading (`nwslib.meta.read`), with ``task`` ``"mask"``, and those of the
        masks that say how they were made.

    Raises
    ------
    ValueError
        If a network has no mask, the training masks are all alike, or the reader reads only a part of the weights.
    """
    path = None if keep is None else _path(Path(keep), population, masks, reader, seeds, shuffled)
    if path is not None and path.exists():
        return xr.load_dataset(path, engine="netcdf4")
    train = labels_of(readable(population, "train"), masks)
    test = readable(population, "test")
    truth = labels_of(test, masks)
    if np.nanmin(train) == np.nanmax(train):
        raise ValueError(f"every training mask is {np.nanmin(train):g} throughout: there is nothing to tell apart")
    parts = [_read_once(population, masks, replace(reader, seed=seed), truth, shuffled) for seed in seeds]
    commoner = float(np.nanmean(train, dtype="float64") > 0.5)
    about = {name: ("model", test.column(name)) for name in ("model", "id")}
    found = xr.concat(parts, "seed").assign_coords(seed=list(seeds), **about).transpose("model", "seed")
    found["base_rate"] = ("model", _share(truth == commoner, truth))
    found.attrs |= {"networks_trained_on": len(train), "seed": ", ".join(map(str, seeds)), **masks.attrs}
    for name in ("seconds_to_train", "seconds_per_network"):
        found.attrs[name] = round(float(np.mean([part.attrs[name] for part in parts])), 6)
    found = found if len(seeds) > 1 else found.isel(seed=0, drop=True)
    if path is not None:
        store_reading(found, path)
    return found


def labels_of(networks: Networks, masks: xr.DataArray) -> np.ndarray:
    """Give the mask of each network, float32 (m, w), NaN where nobody asks.

    Raises
    ------
    ValueError
        If masks have other dimensions, a network has none, or one that asks nothing.
    """
    if set(masks.dims) != {"model", "weight"} or "id" not in masks.coords:
        raise ValueError(f"masks have the dimensions model and weight, and the coordinate id, not {masks.dims}")
    ids, rows = networks.column("id").tolist(), {name: row for row, name in enumerate(masks["id"].values.tolist())}
    missing = [name for name in ids if name not in rows]
    if missing:
        raise ValueError(f"{len(missing)} of {len(ids)} networks have no mask, the first {missing[0]!r}")
    found = masks.transpose("model", "weight").values[[rows[name] for name in ids]].astype("float32", copy=False)
    empty = np.flatnonzero(np.isnan(found).all(axis=1))
    if len(empty):
        raise ValueError(f"masks of {len(empty)} of {len(ids)} networks ask nothing, the first {ids[empty[0]]!r}")
    return found


def _read_once(
    population: xr.Dataset | xr.DataTree, masks: xr.DataArray, reader: MaskReader, truth: np.ndarray, shuffled: bool
) -> xr.Dataset:
    began = time.perf_counter()
    reader.fit(population, masks, shuffled=shuffled)
    fitted = time.perf_counter()
    found = reader.predictions(population)
    read = time.perf_counter()
    probability = found["probability"].values
    if probability.shape != truth.shape:
        raise ValueError(f"masks are of all {truth.shape[1]} weights, but the reader sees {probability.shape[1]}")
    columns = {"accuracy": _share((probability > 0.5) == (truth > 0.5), truth), "AUC": _curves(probability, truth)}
    return xr.Dataset({name: ("model", column) for name, column in columns.items()}).assign_attrs(
        task="mask",
        property=str(masks.name or "mask"),
        method=reader.method,
        shuffled=int(shuffled),
        parameters=json.dumps(_parameters(reader), default=_plain),
        **{name: found.attrs[name] for name in ("parameter_count",) if name in found.attrs},
        seconds_to_train=round(fitted - began, 3),
        seconds_per_network=round((read - fitted) / len(truth), 6),
        device=str(resolve_device(reader.device)),
        library_version=__version__,
    )


def _share(right: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Give the share of the weights that are asked about, (m, w), of which something is true: (m,)."""
    asked = np.isfinite(truth)
    return (right & asked).sum(axis=1) / asked.sum(axis=1)


def _curves(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Give the area under the curve of each network, from the ranks of the kept weights among all: (m,)."""
    found = np.full(len(truth), np.nan)
    for row, labels in enumerate(truth):
        asked = np.isfinite(labels)
        kept = labels[asked] > 0.5
        pairs = kept.sum() * (~kept).sum()
        if pairs:
            ranks = rankdata(probability[row, asked])[kept]
            found[row] = (ranks.sum() - len(ranks) * (len(ranks) + 1) / 2) / pairs
    return found


def _features(networks: Networks, snapshot: int, shares: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Give what a weight reader sees of some networks at a time: rows, and float32 (m, w, features)."""
    [(node, positions)] = [pair for pair in zip(networks.nodes, networks.positions, strict=True) if len(pair[1])]
    layout = layout_of(node)
    groups = [_means(layout, names) for names in _GROUPS.values()]
    tensors = np.repeat(np.arange(len(layout.tensors)), [tensor.size for tensor in layout.tensors])
    step = max(1, _FEATURES // (layout.size * (len(groups) + 3)))
    for start in range(0, len(positions), step):
        some = slice(start, min(start + step, len(positions)))
        [(_, weights)] = blocks(node, positions[some], snapshot, np.arange(layout.size))
        sizes = np.abs(weights)
        means = np.stack([sizes[:, place].mean(axis=1) for place in layout.slices.values()], axis=1)
        relative = sizes / np.maximum(means[:, tensors], _LEAST)
        seen = [relative, *((relative @ down) @ up for down, up in groups)]
        fixed = [np.broadcast_to(column, sizes.shape) for column in (shares, tensors)]
        yield some, np.stack([*fixed, *(np.log(one + _LEAST) for one in seen)], axis=-1).astype("float32")


def _means(layout: Layout, names: Sequence[str]) -> tuple[csr_matrix, csr_matrix]:
    """Give matrices that average over the weights of equal labels, (w, groups), and hand means back, (groups, w)."""
    columns = [np.unique(layout.label(name), return_inverse=True)[1] for name in names]
    codes = np.unique(np.stack(columns), axis=1, return_inverse=True)[1].ravel()
    belongs = csr_matrix((np.ones(len(codes), "float32"), (np.arange(len(codes)), codes)))
    return belongs @ diags(1 / np.bincount(codes).astype("float32")), belongs.T.tocsr()


def _parameters(reader: MaskReader) -> dict[str, Any]:
    return {one.name: getattr(reader, one.name) for one in fields(reader) if one.init and one.name != "seed"}


def _plain(value: Any) -> str:
    """Write what JSON does not know: a function by its name, since its address changes from run to run."""
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else str(value)


def _path(
    folder: Path,
    population: xr.Dataset | xr.DataTree,
    masks: xr.DataArray,
    reader: MaskReader,
    seeds: Sequence[int],
    shuffled: bool,
) -> Path:
    """Name the file of a reading by all that it depends on."""
    networks = readable(population)
    asked = [networks.column(name).tolist() for name in ("id", "split")]
    asked += [type(reader).__name__, _parameters(reader), list(seeds), shuffled, masks.attrs, __version__]
    asked += [str(resolve_device(reader.device)), hashlib.sha256(labels_of(networks, masks).tobytes()).hexdigest()]
    name = hashlib.sha256(json.dumps(asked, sort_keys=True, default=_plain).encode()).hexdigest()[:16]
    return folder / f"mask-{name}.nc"
