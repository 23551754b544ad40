"""Speed and size of the store of snapshots: ours against the other ways to keep networks on disk.

All ways are measured in turn in one run, so that a change of the machine's speed meets all alike. Reads are warm: what
is read was read just before, for memory may not hold the files of all ways at once.
"""

import argparse
import gc
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
import torch
import xarray as xr

from benchmarks import formats
from benchmarks.formats import Format, Opened, Trained
from nwslib import snapshots, space
from nwslib.population import describe, images, train
from nwslib.snapshots import cnn, fake

ROWS = {
    "write": "MB/s, from memory until durable",
    "open": "times per second: table in memory, every file checked, one run read",
    "snapshot": "MB/s, all networks at one snapshot",
    "network": "networks/s, one network through time",
    "runs": "runs/s of 5,000 weights, from all networks and snapshots",
}
LENGTH = 5000
SECONDS = 0.5
WARMING = 1.5  # seconds at most
BATCHES = 8
#: Image size, filter size, depths and widths, and how many of 16 networks: 22,000 weights on average.
ARCHITECTURES = {
    (16, 3, 3, 2, 4, 48): 6,
    (16, 3, 3, 2, 8, 64): 5,
    (32, 5, 4, 2, 4, 64): 4,
    (32, 5, 3, 2, 8, 128): 1,
}
SHARDS, SHARD_ROWS = 1000, 2
#: How many networks of each collection are trained to be archived; as a snapshot is an evaluation, 20 epochs or more.
TRAINED = {"nws_small": 64, "nws_fixed": 4}
#: Bits of the mantissa, of 23, that the archive keeps.
KEEP_BITS = (15, 11, 7)
PACKAGES = ("numpy", "xarray", "netcdf4", "h5py", "torch", "zarr")


@dataclass(frozen=True)
class Requests:
    """What is read, the same for all ways: architectures, networks, and runs of weights, in batches.

    Attributes
    ----------
    nodes
        Name, and shape (m, s, w).
    networks
        Batches of (architecture, place).
    runs
        Batches of (architecture, places, snapshots, starts).
    """

    nodes: Mapping[str, tuple[int, int, int]]
    networks: Sequence[Sequence[tuple[str, int]]]
    runs: Sequence[Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--networks", type=_positive, default=1000)
    parser.add_argument("--repeats", type=_positive, default=3)
    parser.add_argument("--only", nargs="+", choices=[*ROWS, "open_1000", "archive"], help="parts to run")
    parser.add_argument("--folder", type=_folder, help="where to make a temporary folder: on the disk to be measured")


def run(networks: int, repeats: int, only: list[str] | None, folder: Path | None) -> None:
    """Print one table for each row and, as the last line, one JSON object."""
    wanted = only or [*ROWS, "open_1000", "archive"]
    found: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory(prefix="nwslib-benchmark-", dir=folder) as temporary:
        place = Path(temporary)
        print(f"{_device()}; {place.parent}; {repeats} repeats in turn; median (least to most)")
        if set(wanted) & ROWS.keys():
            found |= _compare(place, networks, repeats, [row for row in ROWS if row in wanted])
        if "open_1000" in wanted:
            found["open_1000_s"] = _open_1000(place / "shards", repeats)
        if "archive" in wanted:
            found |= _archive(place / "archives")
    print(json.dumps(found | {"device": _device()} | _versions()))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, not {text!r}")
    return int(text)


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {text!r}")
    return Path(text)


def _compare(place: Path, networks: int, repeats: int, rows: Sequence[str]) -> dict[str, float | str]:
    """Measure all ways, row by row, and compare ours with each of the others."""
    ways = _ways()
    _check_room(place, len(ways) * networks)
    _allow_open_files(2 * networks)
    trained = formats.gather(population(networks))
    size = sum(vectors.nbytes for vectors in trained.vectors)
    print(f"{networks} networks of {trained.table['node'].nunique()} architectures, {size / 1e9:.2f} GB of weights")
    rounds = [
        {label: size / 1e6 / _write(way, place / label, trained) for label, way in ways.items()}
        for _ in range(repeats if "write" in rows else 1)
    ]
    ratios, asked = {}, _requests(trained)
    if "write" in rows:
        ratios["write"] = _table("write", rounds)
    del trained  # the files need the memory
    opened = {label: way.open(place / label) for label, way in ways.items()}
    found: dict[str, float | str] = {}
    for row in [row for row in rows if row != "write"]:
        calls = {label: _call(row, opened[label], way, place / label, asked) for label, way in ways.items()}
        rounds = [{label: _rate(call, asked, row) for label, call in calls.items()} for _ in range(repeats)]
        ratios[row] = _table(row, rounds)
    if "runs" in rows:
        found["runs_per_s"] = round(median(one["ours"] for one in rounds))
    least = {row: min(_contenders(row, others).values()) for row, others in ratios.items()}
    found |= {f"{row}_vs_{label}": round(ratio, 3) for row in rows for label, ratio in ratios[row].items()}
    return found | {"worst_vs_fastest": round(min(least.values()), 3), "worst_row": min(least, key=least.__getitem__)}


def _contenders(row: str, ratios: Mapping[str, float]) -> dict[str, float]:
    """Leave out the one file of nothing but weights where it is a yardstick, and nobody's way to keep networks."""
    return {label: ratio for label, ratio in ratios.items() if label != "raw" or row == "write"}


def _ways() -> dict[str, Format]:
    try:
        return {**formats.FORMATS, "zarr": formats.zarr_format(1), "zarr_whole": formats.zarr_format(None)}
    except ModuleNotFoundError as error:
        print(f"zarr is left out: {error}")
        return dict(formats.FORMATS)


def _check_room(folder: Path, networks: int) -> None:
    """Check that so many networks find room, and ours a second time while they are put into shards."""
    share = sum(count * cnn.layout(*shape).size for shape, count in ARCHITECTURES.items()) / sum(ARCHITECTURES.values())
    needed, free = 1.2 * 80 * share * networks + 2e9, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{needed / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free: choose --folder")


def _allow_open_files(number: int) -> None:
    """Let memory maps stay open, one for each network."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        number = min(number + 256, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), hard))


def population(networks: int) -> list[xr.Dataset]:
    """Make networks of the architectures above whose weights move as in training.

    Parameters
    ----------
    networks
        How many.

    Returns
    -------
    list of xarray.Dataset
        As a trainer yields them.
    """
    order = [shape for shape, count in ARCHITECTURES.items() for _ in range(count)]
    order = [order[number % len(order)] for number in np.random.default_rng(0).permutation(networks)]
    return [_moving(network, shape) for network, shape in zip(_fakes(order), order, strict=True)]


def _fakes(shapes: Sequence[tuple[int, ...]], shards: np.ndarray | None = None) -> Sequence[xr.Dataset]:
    """Make fake networks whose hyper-parameters are those of the given architectures."""
    names = space.ARCHITECTURE[1:]
    design = space.sample("nws_main", len(shapes), seed=0)
    design = design.assign({name: ("model", values) for name, values in zip(names, np.transpose(shapes), strict=True)})
    design = design.drop_vars("shard") if shards is None else design.assign(shard=("model", shards))
    return list(fake.population(design))


def _moving(network: xr.Dataset, shape: tuple[int, ...]) -> xr.Dataset:
    """Give a fake network the true layout of its architecture, and weights that settle: a tenth of the units rest."""
    layout, random = cnn.layout(*shape), np.random.default_rng(network["seed"].item())
    steps = np.linspace(0, 3, network.sizes["snapshot"], dtype="float32")[:, None]
    start, end, detour = random.standard_normal((3, layout.size), dtype="float32")
    for tensor, values in ((tensor, layout.slices[tensor.name]) for tensor in layout.tensors):
        fan = tensor.size // tensor.shape[0] + tensor.shape[0]
        centre, spread = {"kernel": (0, (2 / fan) ** 0.5), "gamma": (1, 0.002), "variance": (1, 0)}.get(
            tensor.kind, (0, 0)
        )
        start[values] = centre + spread * start[values]
        moves = np.repeat(random.random(tensor.shape[0]) > 0.1, tensor.size // tensor.shape[0])
        for direction in (end, detour):
            direction[values] *= 0.05 * moves
    weights = start + (1 - np.exp(-steps)) * end + 0.2 * np.sin(steps) * detour
    moved = network.drop_vars("weights").assign(weights=(("model", "snapshot", "weight"), weights[None]))
    return moved.assign_attrs(layout=layout.to_json())


def _write(way: Format, folder: Path, trained: Trained) -> float:
    """Write anew, and give the seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.sync()  # what others left to be written is not charged to this one
    start = time.perf_counter()
    way.write(folder, trained)
    return time.perf_counter() - start


def _requests(trained: Trained, networks: int = 32) -> Requests:
    """Draw networks, and a run of each network's weights, for a number of batches."""
    random, table = np.random.default_rng(0), trained.table
    nodes = {
        node: (len(group), int(group["snapshots"].iloc[0]), int(group["weights"].iloc[0]))
        for node, group in table.groupby("node", sort=False)
    }
    everyone = [(node, place) for node, (m, _, _) in nodes.items() for place in range(m)]
    chosen = [[everyone[k] for k in random.integers(0, len(everyone), networks)] for _ in range(BATCHES)]

    def runs(node: str) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
        m, s, w = nodes[node]
        return node, random.permutation(m), random.integers(0, s, m), random.integers(0, w - LENGTH + 1, m)

    return Requests(nodes, chosen, [[runs(node) for node in nodes] for _ in range(BATCHES)])


def _call(row: str, opened: Opened, way: Format, folder: Path, asked: Requests) -> Callable[[], object]:
    """Give what is called again and again: the next batch of a row, each read into memory."""
    first = next(iter(asked.nodes))
    if row == "open":
        nowhere = np.zeros(1, "int64")
        return lambda: way.open(folder).runs(first, nowhere, nowhere, nowhere, LENGTH)
    if row == "snapshot":
        steps = cycle(np.linspace(0, asked.nodes[first][1] - 1, BATCHES).astype(int).tolist())
        return lambda: (step := next(steps), [opened.snapshot(node, step) for node in asked.nodes])
    if row == "network":
        networks = cycle(asked.networks)
        return lambda: [opened.network(*one) for one in next(networks)]
    runs = cycle(asked.runs)
    return lambda: [opened.runs(*one, LENGTH) for one in next(runs)]


def _rate(call: Callable[[], object], asked: Requests, row: str) -> float:
    """Measure over about half a second, in the unit of the row, after each batch was read once."""
    start = time.perf_counter()
    for _ in range(BATCHES):
        if time.perf_counter() - start < WARMING:
            call()
    gc.collect()
    gc.disable()  # as timeit does: the garbage of a thousand calls is no part of any of them
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        call()
        calls += 1
    seconds = time.perf_counter() - start
    gc.enable()
    size = {
        "open": 1,
        "snapshot": sum(4 * m * w for m, _, w in asked.nodes.values()) / 1e6,
        "network": len(asked.networks[0]),
        "runs": sum(m for m, _, _ in asked.nodes.values()),
    }
    return calls * size[row] / seconds


def _table(row: str, rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Print the rates of a row, and give ours over each of the others: the median of the ratios within a round."""
    print(f"\n{row}: {ROWS[row]}")
    ratios = {}
    for label in rounds[0]:
        rates = [one[label] for one in rounds]
        ratios[label] = median(one["ours"] / one[label] for one in rounds)
        spread = f"{median(rates):>10,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
        print(f"{label:>12} {spread}, ours over it {ratios[label]:.2f}", flush=True)
    return {label: ratio for label, ratio in ratios.items() if label != "ours"}


def _open_1000(folder: Path, repeats: int, shards: int = SHARDS) -> float:
    """Give the seconds to open 1,000 shards of the study's 243 architectures, here tiny, and to read a first weight."""
    shapes = np.stack(np.meshgrid((1, 3, 5), (3, 4, 5), (2, 3, 4), (1, 2, 3), (2, 4, 6), indexing="ij"), -1)
    shapes = [(32, *shape) for shape in shapes.reshape(-1, 5).tolist()]
    number = np.repeat(np.arange(shards), SHARD_ROWS)
    networks = _fakes([shapes[k % len(shapes)] for k in number], number // len(shapes))
    snapshots.write(folder, iter(networks))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        node = next(iter(snapshots.open_population(folder).children.values()))
        node["weights"][-1, -1, :1].values  # noqa: B018
        seconds.append(time.perf_counter() - start)
    files, seconds = len([*folder.glob("*.nc")]), seconds[1:]
    spread = f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
    print(f"\nopen: {files} shards of {len(shapes)} architectures, {len(networks)} networks in {spread}")
    return round(median(seconds), 3)


def _archive(folder: Path, collections: Mapping[str, int] = TRAINED, max_epochs: int = 25) -> dict[str, float]:
    """Train networks, and give the size of their archive, with all its files, as a share of their float32 weights."""
    size = 0
    for collection, networks in collections.items():
        design = space.sample(collection, networks, seed=0, dataset="digits")
        finished = train(design, images.for_design(design), max_epochs=max_epochs, progress=False)
        snapshots.write(folder / collection, finished)
        size += snapshots.networks(snapshots.open_population(folder / collection))["weights"].nbytes
    print(f"\narchive: {size / 1e6:.1f} MB of weights of trained networks")
    found = {}
    for name, bits in {"archive_ratio": None, **{f"archive_ratio_{bits}_bits": bits for bits in KEEP_BITS}}.items():
        for collection in collections:
            snapshots.convert(folder / collection, folder / name / collection, form="archive", keep_bits=bits)
        found[name] = round(_bytes(folder / name) / size, 4)
        print(f"{'lossless' if bits is None else f'{bits} bits kept':>14} {found[name]:.3f} of float32", flush=True)
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _device() -> str:
    return f"{describe(torch.device('cpu'))}, {platform.system()}, Python {platform.python_version()}"


def _versions() -> dict[str, dict[str, str]]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {"versions": found}
