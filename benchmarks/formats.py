"""Other ways to keep snapshots of networks on disk, which the store is measured against, each as an expert would.

All write the same float32 weights from memory and the same table of hyper-parameters as CSV, and are done when every
file is on the disk. Opened, all give copies in memory, never views of a file; what is kept open stays open. Networks
are found by the name of their architecture and their place among its networks, counted from 0 in design order.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.lib.stride_tricks import sliding_window_view

from nwslib import snapshots

TABLE = "table.csv"
RAW = "weights.raw"


@dataclass(frozen=True)
class Trained:
    """Networks in memory, as a trainer yields them, and what the others need of them: made before time is taken.

    Attributes
    ----------
    networks
        One dataset each, in design order.
    vectors
        Their weights, (s, w).
    table
        A row for each: every coordinate on ``model``, ``node`` (its architecture), ``snapshots`` and ``weights`` (how
        many).
    """

    networks: Sequence[xr.Dataset]
    vectors: Sequence[np.ndarray]
    table: pd.DataFrame


@dataclass(frozen=True)
class Opened:
    """A population that was opened, one way.

    Attributes
    ----------
    table
        Every hyper-parameter and result of each network, in memory, as labelled columns: one table, or one for each
        architecture.
    network
        Gives one network through time, (s, w), from its architecture and place.
    snapshot
        Gives all networks of an architecture at one snapshot, (m, w), from the snapshot's place.
    runs
        Gives runs of consecutive weights, (n, length), from architecture, places, snapshots, starts and length.
    """

    table: pd.DataFrame | dict[str, xr.Dataset]
    network: Callable[[str, int], np.ndarray]
    snapshot: Callable[[str, int], np.ndarray]
    runs: Callable[[str, np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Format:
    """One way to keep networks: `write` makes a folder durable, `open` checks that every file has its size."""

    write: Callable[[Path, Trained], None]
    open: Callable[[Path], Opened]


def gather(networks: Sequence[xr.Dataset]) -> Trained:
    """Take weights and hyper-parameters out of datasets of one network each."""
    nodes = {text: snapshots.Layout.from_json(text).name for text in {one.attrs["layout"] for one in networks}}
    rows = []
    for one in networks:
        facts = {name: values.item() for name, values in one.coords.items() if values.dims == ("model",)}
        sizes = {"snapshots": one.sizes["snapshot"], "weights": one.sizes["weight"]}
        rows.append(facts | {"node": nodes[one.attrs["layout"]]} | sizes)
    return Trained(networks, [one["weights"].values[0] for one in networks], pd.DataFrame(rows))


def write_ours(folder: Path, trained: Trained) -> None:
    """Write with the store: validated, hashed, resumable."""
    snapshots.write(folder, iter(trained.networks))


def open_ours(folder: Path) -> Opened:
    """Open with the store."""
    population = snapshots.open_population(folder)
    nodes = {name: child.dataset for name, child in population.children.items()}
    # Without coordinates, as the others give it: to cut those along takes half a millisecond.
    weights = {name: node.variables["weights"] for name, node in nodes.items()}
    return Opened(
        nodes,
        lambda node, place: weights[node][place].values,
        lambda node, snapshot: weights[node][:, snapshot].values,
        lambda node, *where: snapshots.take_runs(nodes[node], *where),
    )


def write_raw(folder: Path, trained: Trained) -> None:
    """Write all weights one after another into one file without a header."""
    with (folder / RAW).open("wb", buffering=0) as file:
        for vectors in trained.vectors:
            file.write(vectors)
    _write_table(folder, trained.table)
    sync([folder / RAW, folder / TABLE, folder])


def open_raw(folder: Path) -> Opened:
    """Map the one file; runs are one gather from all its windows."""
    table = _read_table(folder)
    ends = (table["weights"] * table["snapshots"]).cumsum()
    _check_sizes([(f"{folder}/{RAW}", 4 * int(ends.iloc[-1]))])
    flat = np.asarray(np.memmap(folder / RAW, np.float32, "r"))
    starts = _by_node(table.assign(start=ends - table["weights"] * table["snapshots"]), "start")
    shapes = _shapes(table)

    def network(node: str, place: int) -> np.ndarray:
        _, steps, weights = shapes[node]
        return np.array(flat[starts[node][place] :][: steps * weights].reshape(steps, weights))

    def one_snapshot(node: str, snapshot: int) -> np.ndarray:
        weights = shapes[node][2]
        return sliding_window_view(flat, weights)[starts[node] + snapshot * weights]

    def runs(node: str, place: np.ndarray, snapshot: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
        return sliding_window_view(flat, length)[starts[node][place] + snapshot * shapes[node][2] + start]

    return Opened(table, network, one_snapshot, runs)


def write_bin(folder: Path, trained: Trained) -> None:
    """Write a file per snapshot in a folder per network, as the released sets are laid out, but float32."""
    written = [folder]
    for name, vectors in zip(trained.table["id"], trained.vectors, strict=True):
        inside = folder / name
        inside.mkdir()
        written.append(inside)
        for number, vector in enumerate(vectors, start=1):
            path = f"{inside}/{number:03d}.bin"
            vector.tofile(path)
            written.append(path)
    _write_table(folder, trained.table)
    sync([*written, folder / TABLE])


def open_bin(folder: Path) -> Opened:
    """Open the table; each read opens a file, for there are more of them than a process may hold open."""
    table = _read_table(folder)
    paths = {node: [f"{folder}/{name}" for name in names] for node, names in _by_node(table, "id").items()}
    for node, (_, steps, weights) in _shapes(table).items():
        _check_sizes((f"{path}/{step:03d}.bin", 4 * weights) for path in paths[node] for step in range(1, steps + 1))

    def fill(row: np.ndarray, node: str, place: int, snapshot: int, start: int = 0) -> None:
        with open(f"{paths[node][place]}/{snapshot + 1:03d}.bin", "rb", buffering=0) as file:
            file.seek(4 * start)
            file.readinto(row)

    return _filled(table, fill)


def write_npy(folder: Path, trained: Trained) -> None:
    """Write an array (s, w) per network."""
    paths = [folder / f"{name}.npy" for name in trained.table["id"]]
    for path, vectors in zip(paths, trained.vectors, strict=True):
        np.save(path, vectors)
    _write_table(folder, trained.table, paths)
    sync([*paths, folder / TABLE, folder])


def open_npy(folder: Path) -> Opened:
    """Open arrays as memory maps, and keep them."""
    return _mapped(folder, ".npy", lambda path: np.asarray(np.load(path, mmap_mode="r")))


def write_torch(folder: Path, trained: Trained) -> None:
    """Save a tensor (s, w) per network."""
    paths = [folder / f"{name}.pt" for name in trained.table["id"]]
    for path, vectors in zip(paths, trained.vectors, strict=True):
        torch.save({"weights": torch.from_numpy(vectors)}, path)
    _write_table(folder, trained.table, paths)
    sync([*paths, folder / TABLE, folder])


def open_torch(folder: Path) -> Opened:
    """Load tensors as memory maps, and keep them."""
    return _mapped(folder, ".pt", lambda path: torch.load(path, mmap=True, weights_only=True)["weights"].numpy())


def zarr_format(snapshots_per_chunk: int | None) -> Format:
    """Make an array (m, s, w) per architecture with zarr, uncompressed, which is its fastest.

    Parameters
    ----------
    snapshots_per_chunk
        Of one network, all its weights. None: all of them.

    Raises
    ------
    ModuleNotFoundError
        If zarr is not installed.
    """
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("zarr is not installed: pip install 'nwslib[benchmark]'") from error
    # Weights are never all zero: to look for chunks that are would only take time.
    zarr.config.set({"array.write_empty_chunks": True})

    def write(folder: Path, trained: Trained) -> None:
        group = zarr.create_group(folder / "weights")
        for node, places in trained.table.groupby("node", sort=False).indices.items():
            shape = (len(places), *trained.vectors[places[0]].shape)
            chunks = (1, snapshots_per_chunk or shape[1], shape[2])
            array = group.create_array(node, shape=shape, chunks=chunks, dtype="float32", compressors=None)
            for place, number in enumerate(places):
                array[place] = trained.vectors[number]
        _write_table(folder, trained.table)
        sync([folder, folder / TABLE, *(folder / "weights").rglob("*")])

    def open_(folder: Path) -> Opened:
        table = _read_table(folder)
        group = zarr.open_group(folder / "weights", mode="r")
        arrays = {node: group[node] for node in table["node"].unique()}
        for node, array in arrays.items():
            stem, (_, steps, weights) = f"{folder}/weights/{node}/c", array.chunks
            places, chunks = range(array.shape[0]), range(array.shape[1] // steps)
            _check_sizes((f"{stem}/{place}/{chunk}/0", 4 * steps * weights) for place in places for chunk in chunks)

        def fill(row: np.ndarray, node: str, place: int, snapshot: int, start: int = 0) -> None:
            row[:] = arrays[node][place, snapshot, start : start + len(row)]

        whole = {
            "network": lambda node, place: arrays[node][place],
            "snapshot": lambda node, step: arrays[node][:, step],
        }
        return replace(_filled(table, fill), **whole)

    return Format(write, open_)


#: Ours first; those that need no further package.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "ours": Format(write_ours, open_ours),
        "raw": Format(write_raw, open_raw),
        "bin": Format(write_bin, open_bin),
        "npy": Format(write_npy, open_npy),
        "torch": Format(write_torch, open_torch),
    }
)


def sync(paths: Iterable[str | Path]) -> None:
    """Wait until files and folders are on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _mapped(folder: Path, ending: str, load: Callable[[str], np.ndarray]) -> Opened:
    table = _read_table(folder)
    paths = {node: [f"{folder}/{name}{ending}" for name in names] for node, names in _by_node(table, "id").items()}
    sizes = _by_node(table, "bytes")
    _check_sizes((path, size) for node in paths for path, size in zip(paths[node], sizes[node].tolist(), strict=True))

    @cache
    def view(node: str, place: int) -> np.ndarray:
        return load(paths[node][place])

    def fill(row: np.ndarray, node: str, place: int, snapshot: int, start: int = 0) -> None:
        row[:] = view(node, place)[snapshot, start : start + len(row)]

    filled = _filled(table, fill)
    return replace(filled, network=lambda node, place: np.array(view(node, place)))


def _filled(table: pd.DataFrame, fill: Callable[..., None]) -> Opened:
    """Make every read from one that fills a row with weights of a network and snapshot, from a start on."""
    shapes = _shapes(table)  # (m, s, w)

    def network(node: str, place: int) -> np.ndarray:
        found = np.empty(shapes[node][1:], "float32")
        for snapshot, row in enumerate(found):
            fill(row, node, place, snapshot)
        return found

    def one_snapshot(node: str, snapshot: int) -> np.ndarray:
        found = np.empty(shapes[node][::2], "float32")
        for place, row in enumerate(found):
            fill(row, node, place, snapshot)
        return found

    def runs(node: str, place: np.ndarray, snapshot: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
        found = np.empty((len(place), length), "float32")
        for row, *where in zip(found, place.tolist(), snapshot.tolist(), start.tolist(), strict=True):
            fill(row, node, *where)
        return found

    return Opened(table, network, one_snapshot, runs)


def _write_table(folder: Path, table: pd.DataFrame, paths: Sequence[Path] = ()) -> None:
    sizes = {"bytes": [path.stat().st_size for path in paths]} if paths else {}
    table.assign(**sizes).to_csv(folder / TABLE, index=False)


def _read_table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / TABLE, dtype={"id": str}, keep_default_na=False)


def _by_node(table: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    return {node: values.to_numpy() for node, values in table[column].groupby(table["node"], sort=False)}


def _shapes(table: pd.DataFrame) -> dict[str, tuple[int, int, int]]:
    sizes = _by_node(table, "weights")
    return {
        node: (len(sizes[node]), int(steps[0]), int(sizes[node][0]))
        for node, steps in _by_node(table, "snapshots").items()
    }


def _check_sizes(files: Iterable[tuple[str, int]]) -> None:
    for path, size in files:
        found = os.stat(path).st_size
        if found != size:
            raise ValueError(f"{path} has {found} bytes, not {size}")
