"""One population from several: parts of one design that were trained apart, or several designs one after the other."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import xarray as xr
from tqdm import tqdm

from nwslib.snapshots.contents import Contents, read, read_filled
from nwslib.snapshots.layout import LABELS
from nwslib.snapshots.store import open_population, write
from nwslib.space import SHARD_ROWS


def merge(target: str | Path, folders: Iterable[str | Path], *, renumber: bool = False) -> int:
    """Copy the networks of several populations into one; each network once, one in memory at a time.

    After an interruption the same call goes on. The sources are only read.

    Parameters
    ----------
    target
        Made where it does not exist. What it holds stays.
    folders
        Populations whose networks were trained with the same parameters. A network (id) that several of them hold is
        taken from the first in which it did not fail.
    renumber
        Give networks new row numbers, in the order of the folders, after those that the target holds; ids stay.

    Returns
    -------
    int
        How many networks were written.

    Raises
    ------
    FileNotFoundError
        If one of the folders holds no population.
    ValueError
        If there is no folder, or the target is one of them; if training parameters, protocol or the form of an
        architecture's networks differ; if two networks have the same row number and `renumber` is False. All known
        before anything is written.
    OSError
        As `nwslib.snapshots.write`.

    Examples
    --------
    >>> import tempfile
    >>> from nwslib.snapshots import fake, table
    >>> from nwslib.space import sample
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for seed in (0, 1):
    ...         _ = write(f"{folder}/{seed}", fake.population(sample("nws_small", 2, seed=seed)))
    ...     merge(f"{folder}/both", [f"{folder}/0", f"{folder}/1"], renumber=True)
    ...     table(f"{folder}/both")["model"].values.tolist()
    4
    [0, 1, 2, 3]
    """
    target, sources = Path(target), [Path(folder) for folder in folders]
    if not sources:
        raise ValueError("nothing to merge: name at least one population")
    for source in sources:
        if source.resolve() == target.resolve():
            raise ValueError(f"{target} can't be the target and a source. Choose another target")
    contents = [read_filled(source) for source in sources]
    held = read(target) if target.is_dir() else Contents(target)
    first = held if held.table["model"] else contents[0]
    for other in contents:
        _check_alike(first, other)
    return write(target, _networks(_planned(_chosen(contents), _entries(held), renumber)))


@dataclass(frozen=True)
class _Entry:
    """A network: where it lies (its place among those of its architecture), and the numbers that it is to have."""

    folder: Path
    node: str
    place: int
    id: str
    failed: bool
    model: int
    shard: int


def _entries(contents: Contents) -> list[_Entry]:
    """List the networks of a folder in design order."""
    places: Counter[str] = Counter()
    entries = []
    for row in contents.rows():
        node, identity, status, model, shard = (
            contents.table[name][row] for name in ("node", "id", "status", "model", "shard")
        )
        entries.append(_Entry(contents.folder, node, places[node], identity, status == "failed", model, shard))
        places[node] += 1
    return entries


def _chosen(contents: Iterable[Contents]) -> list[_Entry]:
    """Take each network once, from the first folder in which it did not fail."""
    chosen: dict[str, _Entry] = {}
    for entry in (entry for one in contents for entry in _entries(one)):
        if entry.id not in chosen or (chosen[entry.id].failed and not entry.failed):
            chosen[entry.id] = entry
    return list(chosen.values())


def _check_alike(first: Contents, other: Contents) -> None:
    """Refuse populations that can't be one.

    Raises
    ------
    ValueError
        If training parameters or protocol differ, or the networks of an architecture have another form.
    """
    here, there = (
        {"protocol_version": one.shared["protocol_version"]} | one.shared["parameters"] for one in (first, other)
    )
    for name in (*here, *there):
        if here.get(name) != there.get(name):
            raise ValueError(
                f"{first.folder} and {other.folder} can't be merged: their networks were trained with {name} = "
                f"{here.get(name)!r} and {there.get(name)!r}"
            )
    for node in first.nodes.keys() & other.nodes.keys():
        here, there = (asdict(one.shapes[node]) | _fixed(one.nodes[node]) for one in (first, other))
        for name, value in here.items():
            if there[name] != value:
                raise ValueError(
                    f"{first.folder} and {other.folder} can't be merged: the networks of {node} have {name} {value!r} "
                    f"and {there[name]!r}"
                )


def _fixed(attributes: Mapping[str, str]) -> dict[str, str | None]:
    """Give the attributes that all networks of an architecture must share."""
    return {f"attribute {name}": attributes.get(name) for name in ("properties", "not_measured", "keep_bits")}


def _planned(entries: list[_Entry], held: list[_Entry], renumber: bool) -> list[_Entry]:
    """Give the networks that the target lacks, with the row numbers and shards that they are to have.

    Whatever the target got before an interruption, the others get the numbers that they would have got without it.
    """
    known, ids = {entry.id: entry for entry in held}, {entry.id for entry in entries}
    others = [entry for entry in held if entry.id not in ids]
    numbered = _numbered(entries, others) if renumber else _sorted(entries, held)
    planned = numbered if not renumber and _fitting([*numbered, *others]) else _sharded(numbered, others)
    missing = [entry for entry in planned if entry.id not in known]
    places = {(entry.id, entry.model, entry.shard) for entry in held}
    if all((entry.id, entry.model, entry.shard) in places for entry in planned if entry.id in known):
        return missing
    # The target was filled in another order: what it lacks comes behind what it has.
    return _sharded(_numbered(missing, held) if renumber else missing, held)


def _sorted(entries: list[_Entry], held: list[_Entry]) -> list[_Entry]:
    """Keep all row numbers, in design order.

    Raises
    ------
    ValueError
        If two networks have the same row number.
    """
    taken = {entry.model: entry for entry in held}
    known = {entry.id for entry in held}
    for entry in entries:
        other = taken.setdefault(entry.model, entry)
        if entry.id not in known and other.id != entry.id:
            raise ValueError(
                f"row {entry.model} is network {other.id} in {other.folder}, but network {entry.id} in {entry.folder}. "
                f"With --renumber (in Python renumber=True) networks get new row numbers"
            )
    return sorted(entries, key=lambda entry: entry.model)


def _numbered(entries: list[_Entry], before: list[_Entry]) -> list[_Entry]:
    """Number networks in their order, behind others."""
    start = 1 + max((entry.model for entry in before), default=-1)
    return [replace(entry, model=start + number) for number, entry in enumerate(entries)]


def _fitting(entries: list[_Entry]) -> bool:
    """Say whether no shard has too many rows."""
    return max(Counter((entry.node, entry.shard) for entry in entries).values()) <= SHARD_ROWS


def _sharded(entries: list[_Entry], held: list[_Entry]) -> list[_Entry]:
    """Fill the last shard of each architecture, then the next one."""
    filled = Counter((entry.node, entry.shard) for entry in held)
    last: dict[str, int] = {}
    for node, shard in filled:
        last[node] = max(shard, last.get(node, 0))
    placed = []
    for entry in entries:
        shard = last.get(entry.node, 0)
        shard += filled[entry.node, shard] >= SHARD_ROWS
        last[entry.node] = shard
        filled[entry.node, shard] += 1
        placed.append(replace(entry, shard=shard))
    return placed


def _networks(entries: list[_Entry]) -> Iterator[xr.Dataset]:
    """Read one network after the other, with the numbers that it is to have."""
    opened = {folder: open_population(folder) for folder in {entry.folder for entry in entries}}
    nodes = {(entry.folder, entry.node) for entry in entries}
    datasets = {(folder, node): opened[folder][node].to_dataset().drop_vars(LABELS) for folder, node in nodes}
    for entry in tqdm(entries, desc="merging", unit=" networks", disable=None, leave=False):
        network = datasets[entry.folder, entry.node].isel(model=[entry.place]).load()
        numbers = {name: network[name].copy(data=[getattr(entry, name)]) for name in ("model", "shard")}
        yield network.assign_coords(numbers)
