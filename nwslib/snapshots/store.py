"""A population on disk: write finished networks so that nothing is lost, and open them lazily.

A folder holds

- ``<node>.<shard>.<rows>.nc``: shards, up to 64 networks of one architecture each, in design order;
- ``parts/<node>.<model>.nc``: finished networks whose shard is not complete yet;
- ``manifest.json``: the table of all networks in shards, and size and SHA-256 of each shard.

Each file appears under its name only when it is whole and on the disk, a shard counts from the moment the manifest
lists it, and what it replaces is removed after that. So a writer may be killed at any moment.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr

from nwslib.snapshots.contents import (
    COLUMNS,
    MANIFEST,
    RESULTS,
    Contents,
    assemble,
    check_sizes,
    implementation,
    manifest,
    opened,
    read,
    read_filled,
    shards_in,
)
from nwslib.snapshots.layout import LABELS
from nwslib.snapshots.lazy import Reader
from nwslib.snapshots.schema import ATTRIBUTES, COORDINATES, VARIABLES, layout_of, validate
from nwslib.space import SHARD_ROWS, complete, nearest, row_keys

try:
    import fcntl
except ImportError:  # not on Windows: there, two writers are not told apart
    fcntl = None

_DIFFER = ("seconds", "created_at", "device")  # what two runs of the same population may differ in


def write(folder: str | Path, finished: Iterable[xr.Dataset]) -> int:
    """Write networks as they finish; each is safe on the disk before the next is asked for.

    A network that the folder holds already is not written again. After an interruption, `remaining` says what is left
    to train, and the next call goes on.

    Parameters
    ----------
    folder
        Made where it does not exist.
    finished
        Networks, each a dataset with one ``model``, ``snapshot``, ``weight`` and ``evaluation``, all trained with the
        same parameters. An attribute ``parameters`` (a dict) of the iterator is compared with the folder's before the
        first network is asked for.

    Returns
    -------
    int
        How many were written.

    Raises
    ------
    OSError
        If the folder can't be written to (known before the first network is asked for), or the disk fills up.
    BlockingIOError
        If another process is writing to the folder.
    ValueError
        If a network is not what the schema says, or was trained with other parameters, or another one has its row.

    Examples
    --------
    >>> import tempfile
    >>> from nwslib.snapshots import fake
    >>> from nwslib.space import sample
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder, fake.population(sample("nws_small", 3, seed=0)))
    3
    """
    with _writing(Path(folder)) as contents:
        if hasattr(finished, "parameters"):
            contents.refuse_others(finished.parameters)
        written = 0
        # Whatever ends the writing ends the training too, which else would go on in the background.
        with closing(finished) if hasattr(finished, "close") else nullcontext():
            for network in finished:
                written += _write_network(contents, network)
        places = zip(*(contents.table[name] for name in ("node", "shard", "file")), strict=True)
        for node, shard in sorted({(node, shard) for node, shard, file in places if file.startswith("parts/")}):
            _merge(contents, node, shard)
    return written


def remaining(design: xr.Dataset, folder: str | Path) -> xr.Dataset:
    """Give the rows of a design that a folder does not hold yet.

    Parameters
    ----------
    design
        Dimension ``model``, from `nwslib.space.sample` or made by hand.
    folder
        Where the population is, or is to be.

    Returns
    -------
    xarray.Dataset
        Rows of the completed design, possibly none. The attribute ``implementation`` says, as JSON, what computed the
        networks that are there, so that what remains can be computed alike.

    Raises
    ------
    ValueError
        If the design is not one, or the folder holds another network in one of its rows.

    Examples
    --------
    >>> from nwslib.space import sample
    >>> remaining(sample("nws_small", 3, seed=0), "no/such/folder").sizes["model"]
    3
    """
    design, folder = complete(design), Path(folder)
    if not folder.exists():
        return design
    contents = read(folder)
    held = set(row_keys(_table(contents)))
    keep = [position for position, key in enumerate(row_keys(design)) if key not in held]
    taken = set(contents.table["model"]).intersection(design["model"].values[keep].tolist())
    if taken:
        raise ValueError(
            f"{folder} holds another design: its row {min(taken)} is another network. Choose another folder, for "
            f"example {folder.name}-2"
        )
    left = design.isel(model=keep)
    known = implementation(contents)
    return left.assign_attrs(implementation=json.dumps(known, sort_keys=True)) if known else left


def open_population(folder: str | Path) -> xr.DataTree:
    """Open a population; weights and curves are read when they are used, and only as much as is used.

    Parameters
    ----------
    folder
        Where `write` wrote, finished or not.

    Returns
    -------
    xarray.DataTree
        One node per architecture, named as its layout, with the variables, coordinates and attributes of the schema;
        networks in design order.

    Raises
    ------
    FileNotFoundError
        If there is no population, or a shard is missing.
    ValueError
        If a file is truncated, foreign, or of another schema.

    Examples
    --------
    >>> import tempfile
    >>> from nwslib.snapshots import fake
    >>> from nwslib.space import sample
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = write(folder.name, fake.population(sample("nws_small", 3, seed=0)))
    >>> [node] = open_population(folder.name).children.values()
    >>> node["weights"].isel(snapshot=-1, weight=slice(0, 100)).shape
    (3, 100)
    >>> folder.cleanup()
    """
    contents = read_filled(Path(folder))
    reader = Reader()
    nodes = {node: assemble(contents, node, contents.rows(node=node), reader) for node in sorted(contents.nodes)}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=contents.attributes()), **nodes})


def table(folder: str | Path) -> xr.Dataset:
    """Give hyper-parameters and results of every network, without opening a shard.

    Parameters
    ----------
    folder
        Where `write` wrote, finished or not.

    Returns
    -------
    xarray.Dataset
        Dimension ``model``, in design order; every coordinate of the schema on ``model``, and ``node``, the name of the
        architecture; variables ``train_accuracy``, ``valid_accuracy`` and ``test_accuracy`` at the last snapshot.

    Raises
    ------
    FileNotFoundError
        If there is no population.
    ValueError
        If the manifest or a part is truncated, foreign, or of another schema.
    """
    contents = read_filled(Path(folder))
    return _table(contents).assign_attrs(contents.attributes())


def networks(population: xr.DataTree) -> xr.Dataset:
    """Give the networks of a population that has only one architecture.

    Parameters
    ----------
    population
        From `open_population`.

    Returns
    -------
    xarray.Dataset
        That of its only node, as lazy as before.

    Raises
    ------
    ValueError
        If there are several architectures.
    """
    nodes = list(population.children)
    if len(nodes) != 1:
        raise ValueError(f"the population has {len(nodes)} architectures, choose one of its nodes: {', '.join(nodes)}")
    return population[nodes[0]].to_dataset()


def verify(folder: str | Path) -> None:
    """Read every file of a population and check it: size, SHA-256, schema, and that the manifest tells the same.

    Parameters
    ----------
    folder
        Where `write` wrote, finished or not.

    Raises
    ------
    FileNotFoundError
        If there is no population, or a shard is missing.
    ValueError
        At the first file that was changed or is not what the schema says; it names the file, and the network if one
        is to blame.
    """
    contents = read_filled(Path(folder))
    for name, facts in contents.files.items():
        if _sha256(contents.folder / name) != facts["sha256"]:
            raise ValueError(f"{contents.folder / name} was changed: its SHA-256 is not the one in {MANIFEST}")
    for name in sorted(set(contents.table["file"])):
        path = contents.folder / name
        with opened(path) as dataset:
            validate(dataset, str(path))
            for column in COLUMNS:
                if not _equal(dataset[column].values, contents.column(column, contents.rows(file=name))):
                    raise ValueError(f"{path}: {column} is not what {MANIFEST} says")


def same(first: xr.DataTree, second: xr.DataTree) -> list[str]:
    """Compare two populations bit for bit, except for ``seconds``, ``created_at`` and ``device``.

    Parameters
    ----------
    first, second
        From `open_population`. Weights are read one network at a time.

    Returns
    -------
    list of str
        What differs, one sentence each; empty if the populations are the same.
    """
    differences = [
        f"architecture {node} is only in the {'first' if node in first.children else 'second'}"
        for node in sorted(set(first.children) ^ set(second.children))
    ]
    for node in sorted(set(first.children) & set(second.children)):
        differences += [f"{node}: {text}" for text in _differences(first[node].dataset, second[node].dataset)]
    return differences


@contextmanager
def _writing(folder: Path) -> Iterator[Contents]:
    """Hold a folder for one writer, make sure that it can be written to, and mend what a killed writer left."""
    try:
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise _unwritable(folder, error) from error
    with lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"another process is writing to {folder}: wait until it ends, or choose another folder"
                raise BlockingIOError(error.errno, message) from error
        try:
            _probe(folder)
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield _recovered(folder)


def _unwritable(folder: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot write to {folder}: {error.strerror}. Choose a folder that can be written to")


def _probe(folder: Path) -> None:
    probe = folder / ".probe.tmp"
    probe.write_bytes(bytes(2**16))
    _sync(probe)
    os.remove(probe)


def _recovered(folder: Path) -> Contents:
    """Remove what a killed writer left unfinished, or had already replaced, and read the rest."""
    for leftover in [*folder.glob(".*.tmp"), *folder.glob("parts/.*.tmp")]:
        os.remove(leftover)
    contents = read(folder)
    check_sizes(contents)
    for path in [*sorted(folder.glob("parts/*.nc")), *shards_in(folder)]:
        if path.relative_to(folder).as_posix() not in contents.table["file"]:
            _remove_unlisted(contents, path)
    return contents


def _remove_unlisted(contents: Contents, path: Path) -> None:
    """Remove a file that does not count, once it is sure that its networks lie in another one."""
    with opened(path) as dataset:
        lost = set(dataset["id"].values.tolist()) - set(contents.table["id"])
    if lost:
        raise ValueError(f"{path} is not in {MANIFEST}, and holds networks that are nowhere else: move it away")
    os.remove(path)


def _write_network(contents: Contents, network: xr.Dataset) -> bool:
    """Write one finished network, unless it is there, and merge its shard when that is complete."""
    network = _checked(network)
    contents.refuse_others(json.loads(network.attrs["parameters"]), network.attrs["protocol_version"])
    node, shard, model = layout_of(network).name, network["shard"].item(), network["model"].item()
    if network["id"].item() in contents.table["id"]:
        return False
    if model in contents.table["model"]:
        raise ValueError(f"{contents.folder} holds another network as row {model}. Choose another folder")
    if not contents.shared:
        contents.begin(network)
        _write_manifest(contents)
    file = f"parts/{node}.{model:08d}.nc"
    _save(network, contents.folder / file)
    contents.add(network, file)
    if len(contents.rows(node=node, shard=shard)) % SHARD_ROWS == 0:
        _merge(contents, node, shard)
    return True


def _checked(network: xr.Dataset) -> xr.Dataset:
    """Check a finished network, and leave only what is stored: no labels, no padding, text as text."""
    validate(network, "finished network")
    if network.sizes["model"] != 1:
        raise ValueError(f"networks are written one by one, not {network.sizes['model']} in one dataset")
    known = {**VARIABLES, **COORDINATES}
    for name in network.variables:
        if name not in known:
            raise ValueError(f"finished network: {name!r} is not in the schema. {nearest(name, known)}")
    network = network.drop_vars(LABELS, errors="ignore").drop_encoding()
    network = network.isel(evaluation=slice(0, max(1, network["n_exports"].item())))
    loose = [name for name in COLUMNS if network[name].dtype.kind in "OT"]
    return network.assign_coords({name: network[name].astype(str) for name in loose})


def _merge(contents: Contents, node: str, shard: int) -> None:
    """Put the parts of a shard, and what the shard held before, into one file."""
    rows = contents.rows(node=node, shard=shard)
    replaced = {contents.table["file"][row] for row in rows}
    name = f"{node}.{shard:05d}.{len(rows):02d}.nc"
    path = contents.folder / name
    contents.nodes[node]["created_at"] = _now()
    _save(assemble(contents, node, rows, Reader()), path)
    facts = {"sha256": _sha256(path), "bytes": path.stat().st_size, "rows": len(rows), "node": node}
    for row in rows:
        contents.table["file"][row] = name
    for old in replaced & contents.files.keys():
        del contents.files[old]
    contents.files[name] = facts
    _write_manifest(contents)
    for old in sorted(replaced):
        os.remove(contents.folder / old)


def _save(dataset: xr.Dataset, path: Path) -> None:
    """Write a NetCDF file that xarray reads back: contiguous variables, text as characters of fixed width."""
    # Through the NetCDF library: xarray's to_netcdf took four times as long for a small network, and all weights of a
    # shard at once in memory.
    values = {name: _characters(name, variable) for name, variable in dataset.variables.items()}
    labels = [name for name in dataset.coords if name not in dataset.dims]
    with _durable(path) as temporary, netCDF4.Dataset(temporary, "w") as file:
        file.setncatts({**dataset.attrs, "coordinates": " ".join(labels)})
        sizes = {axis: size for variable in values.values() for axis, size in variable.sizes.items()}
        for axis, size in sizes.items():
            file.createDimension(axis, size)
        # All definitions before all data: going back and forth costs a flush each time.
        for name, variable in values.items():
            stored = file.createVariable(name, variable.dtype, variable.dims, contiguous=True, fill_value=False)
            stored.setncatts(variable.attrs)
            stored.set_auto_chartostring(False)
        for name, variable in values.items():
            for rows in range(variable.shape[0]) if name == "weights" else [slice(None)]:
                file[name][rows] = variable[rows].values


def _characters(name: str, variable: xr.Variable) -> xr.Variable:
    """Turn text into an array of characters, and leave everything else as it is."""
    if (VARIABLES | COORDINATES)[name].type != "text":
        return variable
    text = np.char.encode(variable.values.astype(str), "utf-8")
    letters = text.view("S1").reshape(*text.shape, -1)
    attributes = {**variable.attrs, "_Encoding": "utf-8"}
    return xr.Variable((*variable.dims, f"string{text.itemsize}"), letters, attributes)


def _write_manifest(contents: Contents) -> None:
    with _durable(contents.folder / MANIFEST) as temporary:
        temporary.write_text(manifest(contents), encoding="utf-8")


@contextmanager
def _durable(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; afterwards the file is on the disk, whole, under its name."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError to the NetCDF library
        with suppress(OSError):
            os.remove(temporary)
        free = shutil.disk_usage(path.parent).free / 2**20
        message = f"could not write {path} ({error}), {free:.0f} MiB are free there"
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"{message}. Every network that had finished before is kept: make room and start again",
        ) from error


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows can't
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _table(contents: Contents) -> xr.Dataset:
    rows = contents.rows()
    columns = {name: ("model", contents.column(name, rows)) for name in (*COLUMNS, "node", *RESULTS)}
    return xr.Dataset(columns).set_coords([*COLUMNS, "node"])


def _differences(first: xr.Dataset, second: xr.Dataset) -> list[str]:
    """List what differs between two datasets of one architecture."""
    if not _equal(first["model"].values, second["model"].values):
        return ["the networks are not the same rows of a design"]
    found = [
        f"attribute {name} differs"
        for name in ATTRIBUTES
        if name not in _DIFFER and first.attrs.get(name) != second.attrs.get(name)
    ]
    for name in COORDINATES:
        if name not in _DIFFER and not _equal(first[name].values, second[name].values):
            found.append(f"{name} differs")
    for name in VARIABLES:
        pairs = zip(first["model"].values, first[name], second[name], strict=True)
        unequal = [str(model) for model, one, other in pairs if not _equal(one.values, other.values)]
        if unequal:
            found.append(f"{name} differs in network{'s' * (len(unequal) > 1)} {', '.join(unequal)}")
    return found


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Compare two arrays bit for bit, or text by text."""
    if first.dtype.kind in "OTU":
        return first.tolist() == second.tolist()
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
