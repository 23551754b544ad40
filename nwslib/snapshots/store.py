"""A population on disk: write finished networks so that nothing is lost, and open them lazily.

A folder holds

- ``<node>.<shard>.<rows>.nc``: shards, up to 64 networks of one architecture each, in design order;
- ``parts/<node>.<model>.nc``: finished networks whose shard is not complete yet;
- ``manifest.json``: the table of all networks, and size and SHA-256 of each file.

Each file appears under its name only when it is whole and on the disk, and what it replaces is removed once the
manifest lists it. So a writer may be killed at any moment.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nwslib.snapshots import files
from nwslib.snapshots.contents import (
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
from nwslib.snapshots.lazy import Reader, header_of
from nwslib.snapshots.schema import (
    ATTRIBUTES,
    COORDINATES,
    OPTIONAL_ATTRIBUTES,
    OPTIONAL_VARIABLES,
    VARIABLES,
    further_properties,
    validate,
)
from nwslib.snapshots.writer import Shelf, Writer, place
from nwslib.space import complete, family_of, nearest, row_keys, sample

try:
    import fcntl
except ImportError:  # not on Windows: there, two writers are not told apart
    fcntl = None

_DIFFER = ("seconds", "created_at", "device")  # what two runs of the same population may differ in


def write(folder: str | Path, finished: Iterable[xr.Dataset], *, seconds: float = 2.0) -> int:
    """Write networks as they finish, in the background of what makes them.

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
    seconds
        A network is safe on the disk this long after it was finished, and the time it takes to write it. 0: before the
        next is asked for.

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
    if not seconds >= 0:
        raise ValueError(f"seconds is a time, 0 or longer, not {seconds!r}")
    with _writing(Path(folder)) as contents:
        if hasattr(finished, "parameters"):
            contents.refuse_others(finished.parameters)
        # Whatever ends the writing ends the training too, which else would go on in the background.
        closed = closing(finished) if hasattr(finished, "close") else nullcontext()
        with closed, Writer(contents, seconds) as writer:
            for network in finished:
                writer.put(_checked(network))
    return writer.written


def convert(source: str | Path, target: str | Path, *, form: str = "archive", keep_bits: int | None = None) -> int:
    """Copy a population into another form.

    An archive is smaller, carries checksums, and is to be kept or sent; the working form is faster to read. Everything
    that reads populations reads both. After an interruption the same call goes on; networks that were added to the
    source meanwhile are added to the target.

    Parameters
    ----------
    source
        Where `write` wrote, finished or not; it stays as it is.
    target
        Made where it does not exist.
    form
        ``"archive"``: compressed without loss, in chunks; ``"working"``: contiguous, mapped into memory.
    keep_bits
        In an archive, round each weight to so many bits of its mantissa, 1 to 23 (BitRound); None: without loss.

    Returns
    -------
    int
        How many networks were copied.

    Raises
    ------
    FileNotFoundError
        If there is no population in `source`, or a shard is missing.
    OSError
        If the target can't be written to.
    ValueError
        If the form or `keep_bits` is unknown, more bits are to be kept than there are, both folders are one, or the
        target holds other networks.

    Examples
    --------
    >>> import tempfile
    >>> from nwslib.snapshots import fake
    >>> from nwslib.space import sample
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write(f"{folder}/working", fake.population(sample("nws_small", 3, seed=0)))
    ...     convert(f"{folder}/working", f"{folder}/archive", keep_bits=7)
    3
    """
    files.check_form(form, keep_bits)
    held = read_filled(Path(source))
    if Path(source).resolve() == Path(target).resolve():
        raise ValueError(f"source and target are one folder, {source}: choose another target")
    fewest = min([int(own["keep_bits"]) for own in held.nodes.values() if "keep_bits" in own], default=files.MANTISSA)
    if keep_bits is not None and keep_bits > fewest:
        raise ValueError(f"the weights in {source} were rounded to {fewest} bits already, so {keep_bits} can't be kept")
    with _writing(Path(target)) as contents:
        contents.refuse_others(held.shared["parameters"], held.shared["protocol_version"])
        contents.shared.update(held.shared)
        reader, known = Reader(held.headers()), set(contents.table["id"])
        changed = {} if keep_bits is None else {"keep_bits": str(keep_bits)}
        with closing(Shelf(contents, seconds=1)) as shelf:
            if not contents.table["model"]:
                shelf.write_manifest()  # shards that nobody lists are taken up, but not without a manifest
            for key, rows in held.groups("node", "shard").items():
                if known.issuperset(held.table["id"][row] for row in rows):
                    continue
                name = f"{key[0]}.{key[1]:05d}.{len(rows):02d}.nc"
                copies = contents.take(held, rows, name, changed)
                dataset = assemble(held, key[0], rows, reader)
                shelf.begin(key, dataset, copies, name, form=form, keep_bits=keep_bits)
                shelf.settle(keep=1)
                if shelf.due() <= time.monotonic():
                    shelf.write_manifest_if_due()
            shelf.settle()
            if shelf.unlisted:
                shelf.write_manifest()
    return len(contents.table["id"]) - len(known)


def design_of(folder: str | Path, collection: str, networks: int, seed: int, **fixed: Any) -> xr.Dataset:
    """Give the design of a population: drawn, or, where others trained and released its networks, their table.

    Parameters
    ----------
    folder
        Where the population is, or is to be.
    collection
        As in `nwslib.space.sample`; or ``"released"``, for networks that a reader of `nwslib.snapshots.released` wrote
        to the folder. `seed` and `fixed` then say nothing, and the split is that of the release.
    networks
        Number of rows. Of released networks 0 takes as many as there are; any other number is what there must be.
    seed, **fixed
        As in `nwslib.space.sample`.

    Returns
    -------
    xarray.Dataset
        Dimension ``model``. `remaining` finds none of the released networks left to train.

    Raises
    ------
    FileNotFoundError
        If released networks are asked for, and the folder holds none.
    ValueError
        If there is another number of them, or `nwslib.space.sample` refuses what is asked for.

    Examples
    --------
    >>> design_of("no/such/folder", "nws_small", 3, seed=0, dataset="digits")["dataset"].values.tolist()
    ['digits', 'digits', 'digits']
    """
    if collection != "released":
        return sample(collection, networks, seed, **fixed)
    try:
        design = table(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no released networks in {folder}: they are not trained but converted, with python -m nwslib.snapshots "
            f"read-nws NWS_FOLDER {folder} TRAIN_CSV TEST_CSV"
        ) from error
    if networks not in (0, design.sizes["model"]):
        raise ValueError(
            f"{folder} holds {design.sizes['model']:,} networks, not {networks:,}. The command that converts them goes "
            "on where it was interrupted; networks = 0 takes as many as there are"
        )
    return design


def remaining(design: xr.Dataset, folder: str | Path) -> xr.Dataset:
    """Give the rows of a design that a folder does not hold yet.

    Parameters
    ----------
    design
        Dimension ``model``, from `nwslib.space.sample` or made by hand; or the `table` of a population.
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
    folder = Path(folder)
    if "id" in design and folder.exists():  # released networks have no seed to be known by
        design = design.isel(model=~np.isin(design["id"].values, read(folder).table["id"]))
    design = complete(design)
    if not folder.exists():
        return design
    contents = read(folder)
    if not contents.table["model"]:
        return design
    check_sizes(contents)
    held = _held(contents, design)
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
    reader = Reader(contents.headers())
    columns = {name: contents.column(name) for name in contents.properties()}
    groups = contents.groups("node").items()
    nodes = {node: assemble(contents, node, rows, reader, columns) for (node,), rows in groups}
    return _tree(xr.Dataset(attrs=contents.attributes()), nodes)


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
        if files.facts_of(contents.folder / name)["sha256"] != facts["sha256"]:
            raise ValueError(f"{contents.folder / name} was changed: its SHA-256 is not the one in {MANIFEST}")
    for (name,), rows in contents.groups("file").items():
        path = contents.folder / name
        with opened(path) as dataset:
            validate(dataset, str(path))
            for column in contents.properties(contents.table["node"][rows[0]]):
                if not _equal(dataset[column].values, contents.column(column, rows)):
                    raise ValueError(f"{path}: {column} is not what {MANIFEST} says")
        if (known := contents.files.get(name, {}).get("header")) and known != header_of(str(path)):
            raise ValueError(f"{path}: its variables do not lie where {MANIFEST} says")


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


def _tree(root: xr.Dataset, nodes: dict[str, xr.Dataset]) -> xr.DataTree:
    """Join datasets that have nothing in common with their root."""
    tree = xr.DataTree.from_dict({"/": root, **dict.fromkeys(nodes)})
    try:
        # To hand them to `from_dict` copies each of their variables twice: 1.6 in place of 0.2 ms.
        for name, dataset in nodes.items():
            tree.children[name]._set_node_data(dataset)
    except AttributeError:  # it is not public
        return xr.DataTree.from_dict({"/": root, **nodes})
    return tree


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
    files.sync(probe)
    os.remove(probe)


def _recovered(folder: Path) -> Contents:
    """Remove what a killed writer left unfinished, or had already replaced, and read the rest."""
    for leftover in [*folder.glob(".*.tmp"), *folder.glob("parts/.*.tmp")]:
        os.remove(leftover)
    contents = read(folder)
    check_sizes(contents)
    listed, there = dict(contents.files), contents.table["file"]
    for path in shards_in(folder):
        if path.name not in contents.files:
            _take_up(contents, path)
    for path in sorted(folder.glob("parts/*.nc")):
        name = f"parts/{path.name}"
        if name not in there:
            _take_up(contents, path)
        elif name not in contents.files:
            place(contents, [there.index(name)], name, files.facts_of(path))
    if contents.files != listed:
        files.write_text(folder / MANIFEST, manifest(contents))
    return contents


def _take_up(contents: Contents, path: Path) -> None:
    """List a file that a killed writer had not listed yet, or remove it if its networks lie in another one."""
    known = dict(zip(contents.table["id"], contents.table["model"], strict=True))
    with opened(path) as dataset:
        ids = dataset["id"].values.tolist()
        new = [row for row, name in enumerate(ids) if name not in known]
        if set(dataset["model"].values[new].tolist()) & set(known.values()):
            raise ValueError(f"{path} is not in {MANIFEST}, and holds networks that are nowhere else: move it away")
        for row in new:
            contents.add(dataset.isel(model=[row]), path.name)
    if not new:
        os.remove(path)
        return
    rows = {name: row for row, name in enumerate(contents.table["id"])}
    place(contents, [rows[name] for name in ids], path.name, files.facts_of(path))


def _checked(network: xr.Dataset) -> xr.Dataset:
    """Check a finished network, and leave only what is stored: no labels, no padding, text as text."""
    validate(network, "finished network")
    if network.sizes["model"] != 1:
        raise ValueError(f"networks are written one by one, not {network.sizes['model']} in one dataset")
    known = {**VARIABLES, **OPTIONAL_VARIABLES, **COORDINATES, **further_properties(network.attrs)}
    for name in network.variables:
        if name not in known:
            raise ValueError(
                f"finished network: {name!r} is not in the schema. {nearest(name, known)} A further property is "
                "declared in the attribute 'properties'"
            )
    # What a training yields is so already; to make it so once more would take as long as to write it.
    return network if _is_tidy(network) else _tidy(network)


def _exports(network: xr.Dataset) -> int:
    return max(1, network.variables["n_exports"].item())  # an axis of length 0 can't be stored


def _is_tidy(network: xr.Dataset) -> bool:
    return (
        not any(name in network.variables for name in LABELS)
        and not any(variable.dtype.kind in "OT" for variable in network.variables.values())
        and all(isinstance(network.variables[name]._data, np.ndarray) for name in network.data_vars)
        and network.sizes["evaluation"] == _exports(network)
    )


def _tidy(network: xr.Dataset) -> xr.Dataset:
    network = network.drop_vars(LABELS, errors="ignore").isel(evaluation=slice(0, _exports(network))).compute()
    loose = [name for name in network.coords if network[name].dtype.kind in "OT"]
    return network.assign_coords({name: network[name].astype(str) for name in loose})


def _held(contents: Contents, design: xr.Dataset) -> set[tuple]:
    """Give the identities of the networks that are there, those of the design's family."""
    family, found = family_of(design), _table(contents)
    alike = found["family"].values == family.name
    if family.task and "task" in found:
        alike &= found["task"].values == family.task
    if not alike.any():
        return set()
    for name in family.columns:
        if name not in found:
            raise ValueError(
                f"the networks in {contents.folder} have no property {name!r}, so they were not trained from a design. "
                f"Choose another folder, for example {contents.folder.name}-2"
            )
    return set(row_keys(found.isel(model=alike)))


def _table(contents: Contents) -> xr.Dataset:
    rows = contents.rows()
    known = contents.properties()
    columns = {name: ("model", contents.column(name, rows)) for name in (*known, "node", *RESULTS)}
    return xr.Dataset(columns).set_coords([*known, "node"])


def _differences(first: xr.Dataset, second: xr.Dataset) -> list[str]:
    """List what differs between two datasets of one architecture."""
    if not _equal(first["model"].values, second["model"].values):
        return ["the networks are not the same rows of a design"]
    found = [
        f"attribute {name} differs"
        for name in (*ATTRIBUTES, *OPTIONAL_ATTRIBUTES)
        if name not in _DIFFER and first.attrs.get(name) != second.attrs.get(name)
    ]
    for name in (first.variables.keys() ^ second.variables.keys()) - set(LABELS):
        found.append(f"only one has {name}")
    both = [name for name in first.variables if name in second.variables]
    for name in (name for name in both if name in first.coords and name not in _DIFFER):
        if not _equal(first[name].values, second[name].values):
            found.append(f"{name} differs")
    for name in (name for name in both if name in first.data_vars):
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
