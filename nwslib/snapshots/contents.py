"""What the folder of a population holds: its manifest, and the finished networks that no shard holds yet."""

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.core.indexing import LazilyIndexedArray, MemoryCachedArray
from xarray.indexes import PandasIndex

from nwslib import __version__
from nwslib.snapshots.layout import LABELS, Layout
from nwslib.snapshots.lazy import Labels, Reader, Rows
from nwslib.snapshots.schema import (
    ATTRIBUTES,
    COORDINATES,
    OPTIONAL_ATTRIBUTES,
    OPTIONAL_VARIABLES,
    SNAPSHOTS,
    VARIABLES,
    Variable,
    check_attributes,
    check_variables,
    check_version,
    further_properties,
    layout_of,
)
from nwslib.space import SWITCH_COLUMNS

MANIFEST = "manifest.json"
RESULTS = ("train_accuracy", "valid_accuracy", "test_accuracy")
_MODEL = {name: variable for name, variable in COORDINATES.items() if variable.dims == ("model",)}
_REQUIRED = tuple(name for name, variable in _MODEL.items() if variable.required)
_FIRST = tuple(name for name in _MODEL if name not in (*_REQUIRED, *SWITCH_COLUMNS))  # what networks of schema 1.0 have
_TABLE = (*_REQUIRED, *RESULTS, "node", "file")
_SHARED = ("schema_version", "protocol_version", "parameters")
_OWN = tuple(name for name in ATTRIBUTES if name not in _SHARED)
_SHARD = re.compile(r"[a-z0-9]+-[0-9a-f]{8}\.\d{5,}\.\d{2,}\.nc")
_PART = re.compile(r"[a-z0-9]+-[0-9a-f]{8}\.\d{8,}\.nc")
_TYPES = {name: one.type for name, one in _MODEL.items()} | dict.fromkeys(RESULTS, "float64")
_TYPES |= {"node": "text", "file": "text"}
_FACTS = ("sha256", "bytes", "rows", "node")
_LATER_FACTS = ("crc32", "header")  # not in populations of schema 1.0; in the first of 1.1, no headers
_MISSING = {"text": "", "float64": np.nan, "int64": -1}


@dataclass(frozen=True)
class Shape:
    """What all networks of one architecture have alike, besides their layout.

    Attributes
    ----------
    snapshots
        How many of each network.
    properties
        The coordinates on ``model`` that a population may lack, or that only this one has.
    variables
        The optional variables.
    """

    snapshots: int = SNAPSHOTS
    properties: tuple[str, ...] = _FIRST
    variables: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: xr.Dataset) -> "Shape":
        """Give that of a network that satisfies the schema."""
        known = {name: variable for name, variable in _MODEL.items() if not variable.required}
        return cls(
            network.sizes["snapshot"],
            tuple(name for name in known | further_properties(network.attrs) if name in network.variables),
            tuple(name for name in OPTIONAL_VARIABLES if name in network.variables),
        )


@dataclass(frozen=True)
class Contents:
    """What a folder holds; a writer keeps it up to date.

    Attributes
    ----------
    folder
        The folder.
    shared
        What all networks share: ``schema_version``, ``protocol_version``, ``parameters``; empty before the first.
    nodes
        The other attributes of each architecture, by its name.
    shapes
        What else its networks have alike, by its name.
    files
        ``sha256``, ``bytes``, ``rows`` and ``node`` of each shard and each part that the manifest lists, by its name,
        ``crc32`` of its networks, and ``header``, which says where its variables lie.
    table
        Columns with one entry per network: coordinates, `RESULTS`, ``node``, and ``file``, which is a shard or a part.
        None where a network has no such property.
    types
        Of the columns: a numpy type, or "text".
    """

    folder: Path
    shared: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    table: dict[str, list] = field(default_factory=lambda: {name: [] for name in _TABLE})
    types: dict[str, str] = field(default_factory=lambda: dict(_TYPES))
    _accepted: set[tuple[str, str]] = field(default_factory=set, repr=False)  # by `add`, for it meets them many times

    def headers(self) -> dict[str, Mapping[str, Any]]:
        """Give what is known of the header of each file, by its path."""
        return {f"{self.folder}/{name}": facts["header"] for name, facts in self.files.items() if facts.get("header")}

    def rows(self, **where: Any) -> list[int]:
        """Find the networks with the given values (``node="cnn-1a2b3c4d", shard=0``), in design order."""
        models = self.table["model"]
        columns = [models, *(self.table[name] for name in where)]
        wanted = tuple(where.values())
        found = [row for row, (_, *values) in enumerate(zip(*columns, strict=True)) if tuple(values) == wanted]
        return sorted(found, key=models.__getitem__)

    def groups(self, *names: str) -> dict[tuple, list[int]]:
        """Group the networks by the values of some columns; groups sorted, each in design order."""
        found: dict[tuple, list[int]] = {}
        columns = list(zip(*(self.table[name] for name in names), strict=True))
        for row in sorted(range(len(columns)), key=self.table["model"].__getitem__):
            found.setdefault(columns[row], []).append(row)
        return dict(sorted(found.items()))

    def properties(self, node: str | None = None) -> dict[str, Variable]:
        """Describe the coordinates on ``model`` of one architecture, or of all of them."""
        nodes = self.nodes if node is None else (node,)
        further = {name: one for own in nodes for name, one in further_properties(self.nodes[own]).items()}
        held = {name for own in nodes for name in self.shapes[own].properties}
        return {name: one for name, one in (_MODEL | further).items() if one.required or name in held}

    def column(self, name: str, rows: Sequence[int] | None = None) -> np.ndarray:
        """Give a column of the table as an array, for some networks or all; "", NaN and -1 where there is no value."""
        values = self.table[name] if rows is None else [self.table[name][row] for row in rows]
        kind = self.types[name]
        # JSON has no NaN: it is null in the manifest.
        if None in values:
            values = [_MISSING[kind] if value is None else value for value in values]
        # With the width known, text takes half the time.
        return np.array(values, dtype=f"U{max(map(len, values), default=0) or 1}" if kind == "text" else kind)

    def attributes(self, node: str | None = None) -> dict[str, str]:
        """Give the schema's attributes of one architecture, or only those that all of them share."""
        known = {**self.shared, "parameters": json.dumps(self.shared["parameters"]), **self.nodes.get(node, {})}
        return {name: known[name] for name in (*ATTRIBUTES, *OPTIONAL_ATTRIBUTES) if name in known}

    def begin(self, network: xr.Dataset) -> None:
        """Take what all networks share from the first of them."""
        self.shared.update({name: network.attrs[name] for name in _SHARED})
        self.shared["parameters"] = json.loads(network.attrs["parameters"])

    def refuse_others(self, parameters: Mapping[str, Any], protocol: str | None = None) -> None:
        """Refuse networks that were trained otherwise than those in the folder.

        Raises
        ------
        ValueError
            If a parameter, or the version of the training protocol, differs.
        """
        if not self.shared:
            return
        here = {"protocol_version": self.shared["protocol_version"], **_flat(self.shared["parameters"])}
        other = {"protocol_version": protocol or here["protocol_version"], **_flat(json.loads(json.dumps(parameters)))}
        for name in (*here, *other):
            if here.get(name) != other.get(name):
                raise ValueError(
                    f"the networks in {self.folder} were trained with {name} = {here.get(name)!r}, these with "
                    f"{other.get(name)!r}. Choose another folder, for example {self.folder.name}-2"
                )

    def add(self, network: xr.Dataset, file: str) -> None:
        """Add a network that lies in a file to the table.

        Raises
        ------
        ValueError
            As `refuse_others`, or if networks of its architecture have other snapshots, properties or variables.
        """
        if (network.attrs["parameters"], network.attrs["protocol_version"]) not in self._accepted:
            self.refuse_others(json.loads(network.attrs["parameters"]), network.attrs["protocol_version"])
            self._accepted.add((network.attrs["parameters"], network.attrs["protocol_version"]))
        node, shape = layout_of(network).name, Shape.of(network)
        self._refuse_other_shape(node, shape, network.attrs)
        own = {name: network.attrs[name] for name in (*_OWN, *OPTIONAL_ATTRIBUTES) if name in network.attrs}
        self.nodes[node] = joined(self.nodes[node], own) if node in self.nodes else own
        self.shapes[node] = shape
        self.types.update({name: one.type for name, one in further_properties(own).items()})
        values = {name: network.variables[name].values.tolist()[0] for name in (*_REQUIRED, *shape.properties)}
        values |= {name: network.variables[name].values[0, -1].item() for name in RESULTS}
        self._append(values | {"node": node, "file": file})

    def take(self, other: "Contents", rows: Sequence[int], file: str, changed: Mapping[str, str]) -> list[int]:
        """List some networks of one architecture of another population, unless they are there; give their rows here.

        Raises
        ------
        ValueError
            If another network has the row number of one of them, or the networks here differ in shape or attributes.
        """
        node = other.table["node"][rows[0]]
        own = {**other.nodes[node], **changed}
        self._refuse_other_shape(node, other.shapes[node], own)
        self.nodes[node] = joined(self.nodes[node], own) if node in self.nodes else own
        self.shapes[node] = other.shapes[node]
        self.types.update(other.types)
        held = {name: row for row, name in enumerate(self.table["id"])}
        models = set(self.table["model"])
        columns = (*other.properties(node), *RESULTS, "node")
        for row in rows:
            name = other.table["id"][row]
            if name in held:
                continue
            if other.table["model"][row] in models:
                raise ValueError(f"{self.folder} holds another network as row {other.table['model'][row]}")
            held[name] = len(self.table["id"])
            self._append({column: other.table[column][row] for column in columns} | {"file": file})
        return [held[other.table["id"][row]] for row in rows]

    def _append(self, values: dict[str, Any]) -> None:
        rows = len(self.table["model"])
        for name, value in values.items():
            self.table.setdefault(name, [None] * rows).append(value)
        for column in self.table.values():
            if len(column) == rows:
                column.append(None)

    def _refuse_other_shape(self, node: str, shape: Shape, own: Mapping[str, str]) -> None:
        here = self.shapes.get(node, shape)
        for name, value in vars(shape).items() if here != shape else ():
            if getattr(here, name) != value:
                raise ValueError(
                    f"the networks of {node} in {self.folder} have {name} {getattr(here, name)}, this one has {value}. "
                    f"Choose another folder, for example {self.folder.name}-2"
                )
        for name in ("properties", "not_measured", "keep_bits"):
            if node in self.nodes and self.nodes[node].get(name) != own.get(name):
                raise ValueError(f"the networks of {node} in {self.folder} have another attribute {name!r}")


def read(folder: Path) -> Contents:
    """Read the manifest, and the parts that it does not list.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If the manifest is missing while there are networks, or the manifest or a part is truncated, foreign, or of
        another schema.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no population in {folder}: no such folder. {_nearest_folder(folder)}")
    before = _manifest_bytes(folder)
    contents = _without_lost_parts(_parse(folder, before))
    listed = {file for file in contents.table["file"] if file.startswith("parts/")}
    held = set(contents.table["model"])
    try:
        for path in _parts(folder):
            if f"parts/{path.name}" not in listed and model_of(path) not in held:
                with opened(path) as network:
                    contents.add(network, f"parts/{path.name}")
    except FileNotFoundError:
        if _manifest_bytes(folder) == before:
            raise
    # A writer that merged parts meanwhile removed them after it had replaced the manifest.
    return contents if _manifest_bytes(folder) == before else read(folder)


def read_filled(folder: Path) -> Contents:
    """Read a folder that must hold at least one network, and all its shards.

    Raises
    ------
    FileNotFoundError
        If it holds none, or a shard is missing.
    ValueError
        As `read`, and if a shard has another size than the manifest says.
    """
    contents = read(folder)
    if not contents.table["model"]:
        raise FileNotFoundError(f"no population in {folder}: it holds no finished network yet")
    check_sizes(contents)
    return contents


def opened(path: Path) -> xr.Dataset:
    """Open a shard or a part with xarray, to be used in a ``with`` statement.

    Raises
    ------
    ValueError
        If it is truncated, not NetCDF, or lacks the attributes of the schema.
    """
    try:
        dataset = xr.open_dataset(path, engine="netcdf4")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        advice = ". Remove it to train the network again" if path.parent.name == "parts" else ""
        raise ValueError(f"{path} is truncated, or not a NetCDF file: {error}{advice}") from error
    try:
        check_attributes(dataset, str(path))
        check_variables(dataset, str(path))
    except ValueError:
        dataset.close()
        raise
    return dataset


def assemble(
    contents: Contents,
    node: str,
    rows: Sequence[int],
    reader: Reader,
    columns: Mapping[str, np.ndarray] | None = None,
) -> xr.Dataset:
    """Make a dataset of networks of one architecture, whose variables and labels are read when they are used.

    Parameters
    ----------
    contents
        Of the folder.
    node
        The architecture.
    rows
        Networks, in design order: all that share a file, or none of them.
    reader
        Shared by all datasets of a population.
    columns
        The whole table, where many datasets are made from it.
    """
    attributes = contents.attributes(node)
    layout = Layout.from_json(attributes["layout"])
    shape = contents.shapes[node]
    exports = max(1, *(contents.table["n_exports"][row] for row in rows))  # an axis of length 0 can't be stored
    sizes = {"model": len(rows), "snapshot": shape.snapshots, "evaluation": exports, "weight": layout.size}
    places = _places(contents, rows)
    known = {**VARIABLES, **{name: OPTIONAL_VARIABLES[name] for name in shape.variables}}
    variables = {
        name: Rows(reader, name, places, tuple(sizes[axis] for axis in variable.dims))
        for name, variable in known.items()
    }
    known |= COORDINATES | contents.properties(node)
    among = np.array(rows)
    coordinates = {
        name: contents.column(name, rows) if columns is None else columns[name][among]
        for name in contents.properties(node)
    }
    # Labels are kept once they were asked for; weights are not, or memory would fill up.
    coordinates |= {name: MemoryCachedArray(LazilyIndexedArray(Labels(layout, name))) for name in LABELS}
    labelled = {name: _variable(known[name], values) for name, values in coordinates.items()}
    described = {name: _variable(known[name], LazilyIndexedArray(values)) for name, values in variables.items()}
    return _dataset(described, labelled, attributes, shape.snapshots)


def _dataset(
    variables: dict[str, xr.Variable], coordinates: dict[str, xr.Variable], attributes: dict[str, str], snapshots: int
) -> xr.Dataset:
    """Put together what is known to fit together."""
    snapshot, index = _snapshots(snapshots)
    indexes = {"model": PandasIndex(coordinates["model"].values, "model"), "snapshot": index}
    numbered = indexes["model"].create_variables({"model": coordinates["model"]})
    coordinates = coordinates | numbered | {"snapshot": snapshot.copy(deep=False)}
    try:
        # Twice as fast as the constructor, which looks for conflicts: 0.4 in place of 0.8 ms for each architecture.
        return xr.Dataset._construct_direct(
            variables | coordinates, set(coordinates), attrs=dict(attributes), indexes=indexes
        )
    except (AttributeError, TypeError):  # it is not public
        return xr.Dataset(variables, xr.Coordinates(coordinates, indexes), attributes)


def manifest(contents: Contents) -> str:
    """Write everything as JSON."""
    order = sorted(range(len(contents.table["model"])), key=contents.table["model"].__getitem__)
    table = {name: [_null(values[row]) for row in order] for name, values in contents.table.items()}
    nodes = {node: own | {"shape": asdict(contents.shapes[node])} for node, own in contents.nodes.items()}
    fields = {"library_version": __version__, **contents.shared, "implementation": implementation(contents)}
    fields |= {"nodes": nodes, "files": contents.files, "table": table}
    return json.dumps(fields, allow_nan=False, separators=(",", ":"))


def implementation(contents: Contents) -> dict[str, Any]:
    """Give what computed the networks, by operator; empty before the first network."""
    return _union(json.loads(own["implementation"]) for own in contents.nodes.values())


def joined(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """Join the attributes of networks of one architecture: what differs is listed, the later date is kept."""
    if all(first.get(name) == text for name, text in second.items() if name != "created_at"):
        return {**first, "created_at": max(first["created_at"], second["created_at"])}
    both = dict(first)
    for name in ("library_version", "device", *(["source"] if "source" in first and "source" in second else [])):
        both[name] = "; ".join(dict.fromkeys([*first[name].split("; "), *second[name].split("; ")]))
    both["implementation"] = json.dumps(_union([json.loads(own["implementation"]) for own in (first, second)]))
    both["created_at"] = max(first["created_at"], second["created_at"])
    return both


def model_of(part: Path) -> int:
    """Read the number of the network from the name of its part.

    Raises
    ------
    ValueError
        If the file is not named like a part.
    """
    if not _PART.fullmatch(part.name):
        raise ValueError(f"{part} is not named like a finished network, <node>.<model>.nc: remove it")
    return int(part.name.split(".")[1])


def shards_in(folder: Path) -> list[Path]:
    """List the files that are named like shards."""
    return sorted(path for path in folder.glob("*.nc") if _SHARD.fullmatch(path.name))


def check_sizes(contents: Contents) -> None:
    """Check that all shards are there and have the size that the manifest says.

    Raises
    ------
    FileNotFoundError
        If a shard is missing.
    ValueError
        If a size differs.
    """
    for name, facts in contents.files.items():
        path = f"{contents.folder}/{name}"
        try:
            size = os.stat(path).st_size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{path} is missing, but {MANIFEST} lists it") from error
        if size != facts["bytes"]:
            advice = ". Remove it to train the network again" if name.startswith("parts/") else ""
            raise ValueError(
                f"{path} is truncated or was changed: it has {size} bytes, but {MANIFEST} says {facts['bytes']}{advice}"
            )


def _parse(folder: Path, text: bytes) -> Contents:
    path = folder / MANIFEST
    if not text:
        if shards_in(folder) or [*folder.glob("parts/*.nc")]:
            raise FileNotFoundError(f"{path} is missing, but the folder holds networks: put it back")
        return Contents(folder)
    try:
        fields = json.loads(text)
        check_version(str(fields["schema_version"]), str(path))
        shapes = {node: own.get("shape") for node, own in fields["nodes"].items()}
        contents = Contents(
            folder,
            {name: fields[name] for name in _SHARED},
            {node: _attributes(own) for node, own in fields["nodes"].items()},
            {node: Shape() if shape is None else _shape(shape) for node, shape in shapes.items()},
            {
                name: {key: facts[key] for key in _FACTS} | {key: facts.get(key, {}) for key in _LATER_FACTS}
                for name, facts in fields["files"].items()
            },
            {name: fields["table"][name] for name in dict.fromkeys([*_TABLE, *fields["table"]])},
        )
        for own in contents.nodes.values():
            contents.types.update({name: one.type for name, one in further_properties(own).items()})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated, or not the manifest of a population: {error!r}") from error
    _check_names(contents, path)
    return contents


def _attributes(own: Mapping[str, Any]) -> dict[str, str]:
    return {name: own[name] for name in _OWN} | {name: own[name] for name in OPTIONAL_ATTRIBUTES if name in own}


def _shape(fields: Mapping[str, Any]) -> Shape:
    return Shape(int(fields["snapshots"]), tuple(fields["properties"]), tuple(fields["variables"]))


def _check_names(contents: Contents, path: Path) -> None:
    """Check that the manifest agrees with itself, and leads nowhere outside its folder."""
    for name in contents.files:
        if not _SHARD.fullmatch(name) and not (name.startswith("parts/") and _PART.fullmatch(name[len("parts/") :])):
            raise ValueError(f"{path} lists {name!r}, which is not named like a shard, <node>.<shard>.<rows>.nc")
    if len({len(values) for values in contents.table.values()}) != 1:
        raise ValueError(f"{path}: the columns of the table differ in length")
    rows = Counter(contents.table["file"])
    if rows != {name: facts["rows"] for name, facts in contents.files.items()}:
        raise ValueError(f"{path}: files and table don't tell the same number of networks")
    if not set(contents.table["node"]) <= contents.nodes.keys():
        raise ValueError(f"{path}: the table names an architecture that is not among the nodes")
    for node, shape in contents.shapes.items():
        for name in (*shape.properties, *shape.variables):
            if name not in contents.table and name not in OPTIONAL_VARIABLES:
                raise ValueError(f"{path}: {node} is said to have {name!r}, but the table has no such column")
    for name in contents.table:
        if name not in contents.types:
            raise ValueError(f"{path}: the table has a column {name!r} that is not in the schema")


def _without_lost_parts(contents: Contents) -> Contents:
    """Forget the networks whose part is gone: whoever removes a damaged part has its network trained again."""
    lost = {name for name in contents.files if name.startswith("parts/") and not (contents.folder / name).is_file()}
    if not lost:
        return contents
    kept = [row for row, file in enumerate(contents.table["file"]) if file not in lost]
    files = {name: facts for name, facts in contents.files.items() if name not in lost}
    table = {name: [values[row] for row in kept] for name, values in contents.table.items()}
    return replace(contents, files=files, table=table)


def _parts(folder: Path) -> list[Path]:
    """List the files of single networks; most populations have none, and then this takes no time."""
    try:
        names = sorted(name for name in os.listdir(folder / "parts") if name.endswith(".nc") and name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / "parts" / name for name in names]


def _manifest_bytes(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return b""


def _places(contents: Contents, rows: Sequence[int]) -> list[tuple[str, int]]:
    """Give file and row of each network: the rows of a file are in design order too."""
    folder, seen = str(contents.folder), Counter[str]()
    places = []
    for row in rows:
        name = contents.table["file"][row]
        places.append((f"{folder}/{name}", seen[name]))
        seen[name] += 1
    return places


def _variable(known: Variable, values: Any) -> xr.Variable:
    described = {"long_name": known.meaning, "units": known.units}
    # The values are arrays already, and need no looking at: a quarter of the time.
    return xr.Variable(known.dims, values, {key: text for key, text in described.items() if text}, fastpath=True)


@lru_cache(8)
def _snapshots(number: int) -> tuple[xr.Variable, PandasIndex]:
    """Number the snapshots, and index them: the same for all architectures that have as many."""
    variable = _variable(COORDINATES["snapshot"], np.arange(1, number + 1))
    index = PandasIndex(variable.values, "snapshot")
    return index.create_variables({"snapshot": variable})["snapshot"], index


def _union(implementations: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Give the implementation of each operator, or a list where several were used."""
    used: dict[str, list] = {}
    for implementation in implementations:
        for operator, names in implementation.items():
            for name in names if isinstance(names, list) else [names]:
                if name not in used.setdefault(operator, []):
                    used[operator].append(name)
    return {operator: names[0] if len(names) == 1 else names for operator, names in used.items()}


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries: ``{"images": {"digits": 1}}`` becomes ``{"images.digits": 1}``."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value


def _nearest_folder(folder: Path) -> str:
    """Name the nearest folder that exists: one with a similar name, else the first parent that is there."""
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    wanted = folder.absolute().relative_to(parent).parts[0]
    known = sorted(path.name for path in parent.iterdir() if path.is_dir())
    close = difflib.get_close_matches(wanted, known, n=1)
    return f"The nearest that exists is {parent / close[0] if close else parent}"
