"""All faults of a population on disk: one sentence each, naming file and network; one fault hides no other."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tqdm import tqdm

from nwslib.snapshots.checksums import crc32
from nwslib.snapshots.contents import MANIFEST, RESULTS, read, shards_in
from nwslib.snapshots.layout import LABELS, Layout
from nwslib.snapshots.lazy import header_of
from nwslib.snapshots.schema import (
    ATTRIBUTES,
    COORDINATES,
    OPTIONAL_VARIABLES,
    SPLITS,
    STATUS,
    UNSOUND,
    VARIABLES,
    VECTORS,
    Variable,
    check_version,
    further_properties,
    not_measured,
)
from nwslib.space import nearest

_FILE = re.compile(
    r"(?P<node>[a-z0-9]+-[0-9a-f]{8})\.(?P<shard>\d{5,})\.(?P<rows>\d{2,})\.nc"
    r"|parts/(?P<part_node>[a-z0-9]+-[0-9a-f]{8})\.(?P<model>\d{8,})\.nc"
)
_SHARED = ("schema_version", "protocol_version", "parameters")
_FACTS = ("sha256", "bytes", "rows", "node")
# A weight that leaves its path by this many powers of two for one snapshot was not trained there.
_LEAP_UP, _LEAP_DOWN = 20, 60


def faults(folder: str | Path) -> Iterator[str]:
    """Find every fault of a population; every byte is read, and one network at a time is in memory.

    Parameters
    ----------
    folder
        Where `nwslib.snapshots.write` wrote, finished or not.

    Returns
    -------
    iterator of str
        One sentence per fault, as soon as it is found: the file, the network (row and id) where one is to blame, and
        what is wrong. Empty if the population is sound. Progress is shown on stderr if that is a terminal.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it holds neither a manifest nor networks.

    Examples
    --------
    >>> import tempfile
    >>> from nwslib.snapshots import fake, write
    >>> from nwslib.space import sample
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write(folder, fake.population(sample("nws_small", 3, seed=0)))
    ...     [shard] = Path(folder).glob("*.nc")
    ...     _ = shard.write_bytes(shard.read_bytes()[:-1])
    ...     first, *_ = faults(folder)
    >>> "truncated" in first
    True
    """
    folder = Path(folder)
    if not folder.is_dir():
        read(folder)  # raises, and names the nearest folder
    if not (folder / MANIFEST).is_file() and not [*shards_in(folder), *folder.glob("parts/*.nc")]:
        raise FileNotFoundError(f"no population in {folder}: it holds no finished network yet")
    return _faults(folder)


@dataclass(frozen=True)
class _Manifest:
    """What the manifest says, as far as it can be used: as in `nwslib.snapshots.contents.Contents`, but unchecked."""

    shared: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, dict] = field(default_factory=dict)
    files: dict[str, dict] = field(default_factory=dict)
    table: dict[str, list] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)  # rows of the table, by file

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "_Manifest":
        """Take what has the right form; a table whose columns do not fit together is of no use."""
        nodes, files, table = (
            {name: value for name, value in fields[part].items() if isinstance(value, kind)}
            if isinstance(fields.get(part), dict)
            else {}
            for part, kind in (("nodes", dict), ("files", dict), ("table", list))
        )
        if len({len(column) for column in table.values()}) > 1 or not {"model", "id", "file"} <= table.keys():
            table = {}
        rows: dict[str, list[int]] = {}
        for row, file in enumerate(table.get("file", [])):
            rows.setdefault(str(file), []).append(row)
        shared = {name: fields[name] for name in _SHARED if name in fields}
        return cls(shared, nodes, {name: facts for name, facts in files.items() if _FILE.fullmatch(name)}, table, rows)

    def who(self, row: int) -> str:
        """Name a network by its number and id."""
        return f"network {self.table['model'][row]} ({self.table['id'][row]})"

    def networks(self, file: str) -> str:
        """Name the networks that a file is to hold."""
        rows = self.rows.get(file, [])
        if len(rows) < 4:
            return ", ".join(map(self.who, rows))
        return f"{len(rows)} networks, from {self.who(rows[0])} to {self.who(rows[-1])}"


@dataclass(frozen=True)
class _Seen:
    """Where each row number, each id and each vector of final weights was met first; attributes of the first file."""

    model: dict[int, str] = field(default_factory=dict)
    id: dict[str, str] = field(default_factory=dict)
    weights: dict[bytes, str] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    """A shard or a part that could be opened.

    Attributes
    ----------
    name
        Relative to the folder.
    dataset
        Opened lazily.
    columns
        The coordinates on ``model`` that are what the schema says and can be read.
    variables
        Names of the variables that are what the schema says.
    changed
        Whether its bytes are known to be others than those that were written.
    sums
        What the manifest says of the checksums of its networks, as `crc32`; empty if it says nothing.
    """

    name: str
    dataset: xr.Dataset
    columns: dict[str, np.ndarray]
    variables: tuple[str, ...]
    changed: bool
    sums: dict[str, list[int]]

    @property
    def layout(self) -> Layout | None:
        """The layout, unless it is unreadable or the weights have another length."""
        try:
            layout = Layout.from_json(self.dataset.attrs["layout"])
        except (KeyError, ValueError, TypeError):
            return None
        return layout if layout.size == self.dataset.sizes.get("weight") else None

    def who(self, row: int) -> str:
        """Name a network by its number and id, as far as they are known."""
        if "model" not in self.columns:
            return f"{self.name}: the network in place {row + 1}"
        identity = f" ({self.columns['id'][row]})" if "id" in self.columns else ""
        return f"{self.name}: network {self.columns['model'][row]}{identity}"

    def value(self, name: str, row: int) -> Any:
        """Give one entry of a column, None if the column can't be used."""
        return self.columns[name][row].item() if name in self.columns else None


def _faults(folder: Path) -> Iterator[str]:
    before = _bytes(folder / MANIFEST)
    fields, found = _read_manifest(folder, before)
    yield from found
    manifest, seen = _Manifest.of(fields), _Seen()
    there = [path.relative_to(folder).as_posix() for path in [*folder.glob("*.nc"), *folder.glob("parts/*.nc")]]
    there = [name for name in there if not Path(name).name.startswith(".")]  # a writer's unfinished business
    with tqdm(total=_expected(manifest, there), unit=" networks", disable=None, leave=False) as bar:
        for name in sorted({*there, *manifest.files}):
            yield from _file_faults(folder, name, manifest, seen, bar)
    if _bytes(folder / MANIFEST) != before:
        yield f"{MANIFEST} was replaced while it was checked: check again when nobody writes to the population"


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _expected(manifest: _Manifest, there: list[str]) -> int:
    listed = len(manifest.table.get("model", []))
    return listed + sum(name.startswith("parts/") and name not in manifest.files for name in there)


# The manifest


def _read_manifest(folder: Path, text: bytes) -> tuple[dict[str, Any], list[str]]:
    """Read the manifest, {} if that is impossible, and say what is wrong with it."""
    if not (folder / MANIFEST).is_file():
        return {}, [f"{MANIFEST} is missing, but the folder holds networks: put it back"]
    try:
        fields = json.loads(text)
        check_version(str(fields["schema_version"]), MANIFEST)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return {}, [f"{MANIFEST} is truncated, or not JSON: {error}"]
    except (KeyError, TypeError):
        return {}, [f"{MANIFEST} is not the manifest of a population: it has no schema version"]
    except ValueError as error:
        return {}, [str(error)]
    return fields, [f"{MANIFEST}: {text}" for text in _manifest_faults(fields)]


def _manifest_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    for name in ("protocol_version", "parameters", "nodes", "files", "table"):
        kind = str if name == "protocol_version" else dict
        if not isinstance(fields.get(name), kind):
            yield f"{name!r} is missing, or not what it should be"
    manifest = _Manifest.of(fields)
    for node, attributes in manifest.nodes.items():
        yield from _node_faults(node, attributes)
    if isinstance(fields.get("table"), dict):
        yield from _columns_faults(fields["table"], fields.get("nodes"))
    if isinstance(fields.get("files"), dict):
        for name, facts in fields["files"].items():
            yield from _listed_faults(name, facts, manifest)
    for name, rows in manifest.rows.items():
        if name not in manifest.files:
            example = manifest.who(rows[0])
            yield f"the table says that {example} lies in {name!r}, which is not among the files of this folder"


def _node_faults(node: str, attributes: Mapping[str, Any]) -> Iterator[str]:
    for name in ATTRIBUTES:
        if name not in _SHARED and name not in attributes:
            yield f"{node} has no attribute {name!r}"
    try:
        layout = Layout.from_json(attributes.get("layout", ""))
    except (ValueError, TypeError) as error:
        yield f"the layout of {node} is unreadable: {error}"
        return
    if layout.name != node:
        yield f"{node} has the layout of {layout.name}"


def _columns_faults(table: Mapping[str, Any], nodes: Any) -> Iterator[str]:
    required = [name for name, known in COORDINATES.items() if known.dims == ("model",) and known.required]
    for name in (*required, *RESULTS, "node", "file"):
        if not isinstance(table.get(name), list):
            yield f"the table has no column {name!r}. {nearest(name, table)}"
    lengths = {name: len(column) for name, column in table.items() if isinstance(column, list)}
    usual, _ = Counter(lengths.values()).most_common(1)[0] if lengths else (0, 0)
    for name, length in lengths.items():
        if length != usual:
            yield f"column {name!r} of the table has {length} entries, the others have {usual}"
    known = set(nodes) if isinstance(nodes, dict) else set()
    for node in sorted({str(node) for node in table.get("node") or []} - known):
        yield f"the table names the architecture {node!r}, which is not among the nodes"


def _listed_faults(name: str, facts: Any, manifest: _Manifest) -> Iterator[str]:
    if not _FILE.fullmatch(name):
        yield f"it lists {name!r}, which is not named like a shard or part of this folder"
        return
    for fact in _FACTS:
        if not isinstance(facts, dict) or fact not in facts:
            yield f"it does not say {fact} of {name}"
    rows = len(manifest.rows.get(name, []))
    if isinstance(facts, dict) and manifest.table and facts.get("rows", rows) != rows:
        yield f"{name} is to hold {facts['rows']} networks, but the table has {rows}"


# A file


def _file_faults(folder: Path, name: str, manifest: _Manifest, seen: _Seen, bar: tqdm) -> Iterator[str]:
    facts, path = manifest.files.get(name), folder / name
    lost = f", and with it {manifest.networks(name)}" if name in manifest.rows else ""
    if not path.is_file():
        yield f"{name} is missing{lost}: {MANIFEST} lists it"
        return
    if not _FILE.fullmatch(name):
        yield f"{name} is not named like a shard or a part, and not listed in {MANIFEST}"
    elif manifest.files and facts is None and not name.startswith("parts/"):
        yield f"{name} is not listed in {MANIFEST}"
    changes = list(_byte_faults(path, name, facts or {}))
    yield from changes  # before the file is opened: a damaged one may be more than a library can take
    if facts is not None and not changes:
        yield from _header_faults(path, name, facts)
    with _opened(path) as dataset:
        if not isinstance(dataset, xr.Dataset):
            yield f"{name} is truncated, or not a NetCDF file{lost}: {dataset}"
            return
        try:
            check_version(str(dataset.attrs.get("schema_version", "1")), name)
        except ValueError as error:
            yield str(error)
            return
        count = 0
        for fault in _dataset_faults(dataset, name, bool(changes), manifest, seen, bar):
            count += 1
            yield fault
        if changes and not count:
            known = "every network is as it was written" if facts.get("crc32") else "no value is impossible"
            yield f"{name}: {known}, so where it was changed can't be told: restore the file"


def _byte_faults(path: Path, name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Compare size and SHA-256 with those in the manifest."""
    size = path.stat().st_size
    if size != facts.get("bytes", size):
        yield f"{name} is truncated or was changed: it has {size} bytes, but {MANIFEST} says {facts['bytes']}"
    elif "sha256" in facts:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                yield f"{name} was changed: its SHA-256 is not the one in {MANIFEST}"


def _header_faults(path: Path, name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Compare where the manifest says that the variables lie, which readers rely on, with the file."""
    try:
        if facts.get("header") and facts["header"] != header_of(str(path)):
            yield f"{name}: its variables do not lie where {MANIFEST} says"
    except (OSError, KeyError, ValueError):  # told when it is opened
        return


@contextmanager
def _opened(path: Path) -> Iterator[xr.Dataset | Exception]:
    """Open a file lazily, or give the error."""
    try:
        dataset = xr.open_dataset(path, engine="netcdf4", decode_times=False)
    except Exception as error:  # what a library raises at damaged bytes is anybody's guess
        yield error
        return
    with dataset:
        yield dataset


def _dataset_faults(
    dataset: xr.Dataset, name: str, changed: bool, manifest: _Manifest, seen: _Seen, bar: tqdm
) -> Iterator[str]:
    yield from (f"{name}: {text}" for text in _attribute_faults(dataset.attrs, manifest, seen))
    known = {**VARIABLES, **OPTIONAL_VARIABLES, **COORDINATES, **_further(dataset.attrs)}
    wrong = {variable: _misfit(dataset, variable, meant) for variable, meant in known.items()}
    yield from (f"{name}: {text}" for text in wrong.values() if text)
    for variable in dataset.variables:
        if variable not in known:
            yield f"{name}: variable {variable!r} is not in the schema. {nearest(variable, known)}"
    fit = [variable for variable in known if variable in dataset.variables and not wrong[variable]]
    columns: dict[str, np.ndarray] = {}
    for column in (variable for variable in fit if known[variable].dims == ("model",)):
        values = _values(dataset, column)
        if isinstance(values, np.ndarray):
            columns[column] = values
        else:
            yield f"{name}: {column} can't be read: {values}"
    variables = tuple(variable for variable in fit if variable in VARIABLES or variable in OPTIONAL_VARIABLES)
    sums = manifest.files.get(name, {}).get("crc32", {})
    file = _File(name, dataset, columns, variables, changed, sums if isinstance(sums, dict) else {})
    yield from (f"{name}: {text}" for text in _shape_faults(file, manifest))
    yield from _label_faults(file)
    yield from _column_faults(file)
    yield from _table_faults(file, manifest)
    for row in range(dataset.sizes.get("model", 0)):
        yield from _network_faults(file, row, seen)
        bar.update()


def _attribute_faults(attributes: Mapping[str, Any], manifest: _Manifest, seen: _Seen) -> Iterator[str]:
    for name in ATTRIBUTES:
        if name not in attributes:
            yield f"attribute {name!r} is missing"
    for name, parse in {"layout": Layout.from_json, "parameters": _parsed, "implementation": _parsed}.items():
        try:
            parse(attributes[name]) if name in attributes else None
        except (ValueError, TypeError) as error:
            yield f"attribute {name!r} is unreadable: {error}"
    for parse in (further_properties, not_measured):
        try:
            parse(attributes)
        except ValueError as error:
            yield str(error)
    here = {name: _told(attributes[name]) for name in ("protocol_version", "parameters") if name in attributes}
    first = manifest.shared or seen.shared or here
    for name, value in here.items():
        if name in first and _told(first[name]) != value:
            yield f"{name} is {value!r}, but {_told(first[name])!r} elsewhere: networks of two populations"
    if not seen.shared:
        seen.shared.update(here)


def _parsed(text: str) -> dict:
    return dict(json.loads(text))


def _told(value: Any) -> Any:
    """Give parameters as a dictionary, whether they are JSON text or not."""
    try:
        return _parsed(value)
    except (ValueError, TypeError):
        return value


def _further(attributes: Mapping[str, Any]) -> dict[str, Variable]:
    try:
        return further_properties(attributes)
    except ValueError:  # told among the attributes
        return {}


def _misfit(dataset: xr.Dataset, name: str, known: Variable) -> str:
    """Say in what a variable is not what the schema says; nothing if it is, or may be absent and is."""
    if name not in dataset.variables:
        # A further property is declared, so it must be there.
        needed = known.required or name not in {**COORDINATES, **OPTIONAL_VARIABLES}
        return f"variable {name!r} is missing. {nearest(name, dataset.variables)}" if needed else ""
    found = dataset.variables[name]
    if found.dims != known.dims:
        return f"{name} has dimensions {found.dims}, but the schema says {known.dims}"
    kind = "text" if found.dtype.kind in "OTU" else str(found.dtype)
    return "" if kind == known.type else f"{name} has type {kind}, but the schema says {known.type}"


def _values(dataset: xr.Dataset, name: str, row: int | None = None) -> np.ndarray | Exception:
    """Read a variable, or one network's part of it, or give the error."""
    try:
        variable = dataset.variables[name]
        values = variable.values if row is None else variable[row].values
        return values.astype(str) if values.dtype.kind in "OS" else values
    except Exception as error:  # as in `_opened`
        return error


def _shape_faults(file: _File, manifest: _Manifest) -> Iterator[str]:
    """Compare lengths with layout, manifest and each other, and what the name of the file says with what is in it."""
    sizes, attributes = file.dataset.sizes, file.dataset.attrs
    if file.layout is None and "layout" in attributes:
        with suppress(ValueError, TypeError):
            layout = Layout.from_json(attributes["layout"])
            yield f"vectors of {sizes.get('weight')} weights, but the layout {layout.name} has {layout.size}"
    named = _FILE.fullmatch(file.name)
    node = (named["node"] or named["part_node"]) if named else None
    if file.layout is not None and node not in (None, file.layout.name):
        yield f"the layout is that of {file.layout.name}, but the file is named after {node}"
    rows = sizes.get("model", 0)
    if named and rows != int(named["rows"] or 1):
        yield f"it holds {rows} networks, but is named after {int(named['rows'] or 1)}"
    shape = manifest.nodes.get(node, {}).get("shape", {})
    if shape.get("snapshots", sizes.get("snapshot")) != sizes.get("snapshot"):
        yield f"{sizes.get('snapshot')} snapshots, but {MANIFEST} says {shape['snapshots']}"
    numbers = _values(file.dataset, "snapshot") if "snapshot" in file.dataset.variables else np.empty(0)
    if isinstance(numbers, np.ndarray) and numbers.tolist() != [*range(1, max(2, numbers.size + 1))]:
        yield f"snapshots are numbered 1, 2, 3, ..., not {', '.join(map(str, numbers.tolist()[:20]))}"
    longest = max(1, *file.columns["n_exports"].tolist(), 1) if "n_exports" in file.columns else None
    if longest is not None and sizes.get("evaluation", longest) != longest:
        yield f"curves of {sizes['evaluation']} evaluations, but the longest run has {longest} exports"


def _label_faults(file: _File) -> Iterator[str]:
    if file.layout is None:
        return
    for name in LABELS:
        if name not in file.dataset.variables:
            continue
        found, meant = _values(file.dataset, name), file.layout.label(name)
        if isinstance(found, Exception):
            yield f"{file.name}: the labels {name!r} can't be read: {found}"
        elif found.shape == meant.shape and (found != meant).any():
            place = np.flatnonzero(found != meant)[0]
            yield (
                f"{file.name}: the labels {name!r} are not those of the layout: weight {place} is labelled "
                f"{found[place].item()!r}, not {meant[place].item()!r}"
            )


def _column_faults(file: _File) -> Iterator[str]:
    """Check each network's entries for themselves."""
    for name, known in (("status", STATUS), ("split", SPLITS)):
        for row, value in enumerate(file.columns.get(name, np.empty(0)).tolist()):
            if value not in known:
                yield f"{file.who(row)} has {name} {value!r}. {nearest(value, known)}"
    named = _FILE.fullmatch(file.name)
    for name, meant in (("shard", named and named["shard"]), ("model", named and named["model"])):
        for row, value in enumerate(file.columns.get(name, np.empty(0)).tolist()):
            if meant is not None and value != int(meant):
                yield f"{file.who(row)} has {name} {value}, but the file is named after {int(meant)}"
    models = file.columns.get("model", np.empty(0))
    for row in np.flatnonzero(np.diff(models) < 0).tolist():
        yield f"{file.who(row + 1)} stands after network {models[row]}: networks are stored in design order"


def _table_faults(file: _File, manifest: _Manifest) -> Iterator[str]:
    """Hold the networks of a file against the table in the manifest."""
    listed = {manifest.table["model"][row]: row for row in manifest.rows.get(file.name, [])}
    if not listed or "model" not in file.columns:
        return
    models = file.columns["model"].tolist()
    for model in sorted(listed.keys() - set(models), key=str):
        yield f"{file.name}: {manifest.who(listed[model])} is not in it, but {MANIFEST} says so"
    results = {name: _values(file.dataset, name) for name in RESULTS if name in file.variables}
    found = file.columns | {name: values[:, -1] for name, values in results.items() if isinstance(values, np.ndarray)}
    told = {name: column for name, column in manifest.table.items() if name not in ("node", "file")}
    for row, model in enumerate(models):
        if model not in listed:
            yield f"{file.who(row)} is not listed for this file in {MANIFEST}"
            continue
        for name in dict.fromkeys([*told, *found]):
            one = found[name][row].item() if name in found else None
            other = told[name][listed[model]] if name in told else None
            absent = name in file.dataset.variables and name not in found  # unreadable, which was told
            if not absent and not _alike(one, other):
                yield f"{file.who(row)}: {name} is {one!r}, but {MANIFEST} says {other!r}"


def _alike(one: Any, other: Any) -> bool:
    """Compare a value with its JSON, in which NaN, and what a network does not have, is null."""
    if other is None:
        return one is None or one != one
    return type(one) is type(other) and one == other


# A network


def _network_faults(file: _File, row: int, seen: _Seen) -> Iterator[str]:
    for name, known in (("model", seen.model), ("id", seen.id)):
        value = file.value(name, row)
        if value is not None and known.setdefault(value, file.who(row)) != file.who(row):
            yield f"{file.who(row)} has the same {'row' if name == 'model' else name} as {known[value]}"
    values = {}
    for name in file.variables:
        found = _values(file.dataset, name, row)
        if isinstance(found, np.ndarray):
            values[name] = found
        else:
            yield f"{file.who(row)}: {name} can't be read: {found}"
    who, sound = file.who(row), file.value("status", row) not in UNSOUND
    altered = _altered(file, row, values)
    for name in VECTORS:
        if name in values:
            suspected = name in altered if file.sums else file.changed
            found = list(_vector_faults(name, values[name], sound, suspected, file)) or altered.get(name, [])
            yield from (f"{who}: {text}" for text in found)
    if "weights" in values:
        yield from _twin_faults(file, row, values["weights"], seen)
    found = list(_curve_faults(values, file.value("n_exports", row), sound, file)) or altered.get("curves", [])
    yield from (f"{who}: {text}" for text in found)


def _altered(file: _File, row: int, values: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Say what is not as it was written, by the checksums that were taken then."""
    if len(values) < len(file.variables):  # the rest can't be read, which was told
        values = {name: found for name, found in values.items() if name in VECTORS}
    found, altered = crc32(values), {}
    for name, sums in file.sums.items():
        if name in found and isinstance(sums, list) and row < len(sums) and sums[row] != found[name]:
            what = "accuracies, losses or epochs" if name == "curves" else name
            altered[name] = [f"its {what} are not those that were written: their CRC-32 is another"]
    return altered


def _vector_faults(name: str, vectors: np.ndarray, sound: bool, suspected: bool, file: _File) -> Iterator[str]:
    """Check weights, or updates, of shape (s, w); look for single odd ones only where damage is suspected."""
    if sound and not np.isfinite(vectors).all():
        places = np.argwhere(~np.isfinite(vectors))
        yield (
            f"{len(places)} of its {name} are not finite, from {_place(file, places[0])} on, though it neither "
            f"diverged nor failed"
        )
    elif suspected and (leaps := _leaps(vectors)).size:
        snapshot, weight = leaps[0]
        yield f"{name} are impossible, {vectors[snapshot, weight]:.3g} in {_place(file, leaps[0])}: changed there?"


def _place(file: _File, place: np.ndarray) -> str:
    """Name a place in weight vectors, (s, w): ``"conv1.kernel (weight 17) at snapshot 4"``."""
    snapshot, weight = place.tolist()
    if file.layout is None:
        return f"weight {weight} at snapshot {snapshot + 1}"
    tensor = next(name for name, part in file.layout.slices.items() if part.start <= weight < part.stop)
    return f"{tensor} (weight {weight}) at snapshot {snapshot + 1}"


def _leaps(vectors: np.ndarray) -> np.ndarray:
    """Find weights that are far off for one snapshot, as after a flipped bit of the exponent: places, (n, 2)."""
    if len(vectors) < 2:
        return np.empty((0, 2), int)
    exponents = np.pad(np.frexp(vectors)[1], ((1, 1), (0, 0)), mode="reflect")
    before, here, after = exponents[:-2], exponents[1:-1], exponents[2:]
    up = here - np.maximum(before, after) > _LEAP_UP
    down = (np.minimum(before, after) - here > _LEAP_DOWN) & (vectors != 0)
    return np.argwhere(up | down)


def _twin_faults(file: _File, row: int, weights: np.ndarray, seen: _Seen) -> Iterator[str]:
    """Find two networks that ended with the same weights, bit for bit."""
    last = weights[-1]
    if not last.size or not np.isfinite(last).any():  # all networks that failed look the same
        return
    digest = hashlib.sha256(last.tobytes()).digest()
    first = seen.weights.setdefault(digest, file.who(row))
    if first != file.who(row):
        yield f"{file.who(row)} has the same weights at its last snapshot, bit for bit, as {first}"


def _curve_faults(values: Mapping[str, np.ndarray], exports: int | None, sound: bool, file: _File) -> Iterator[str]:
    """Check accuracies, losses and epochs, shapes (s,) and (evaluation,)."""
    unknown = _unmeasured(file.dataset.attrs)
    for name in (name for name in values if name.removeprefix("curve_") in unknown):
        if not np.isnan(values[name]).all():
            yield f"{name} has values, but is said to be not measured"
    for name, found in values.items():
        if name.endswith("accuracy") and name.removeprefix("curve_") not in unknown:
            yield from _accuracy_faults(name, found, sound)
    if "epoch" in values and (np.diff(values["epoch"]) < 0).any():
        place = np.flatnonzero(np.diff(values["epoch"]) < 0)[0]
        yield f"epoch falls from {values['epoch'][place]} to {values['epoch'][place + 1]} at snapshot {place + 2}"
    if exports is not None:
        curves = {name: curve for name, curve in values.items() if name.startswith("curve_")}
        measured = {name: curve for name, curve in curves.items() if name.removeprefix("curve_") not in unknown}
        yield from _length_faults(curves, measured, exports, sound)


def _accuracy_faults(name: str, found: np.ndarray, sound: bool) -> Iterator[str]:
    outside = found[(found < 0) | (found > 1)]
    if outside.size:
        yield f"{name} is a share between 0 and 1, not {outside[0]:.3g}"
    # Before the first step nothing was trained on, and curves end where the network stopped.
    elif sound and name in ("valid_accuracy", "test_accuracy") and not np.isfinite(found).all():
        snapshot = np.flatnonzero(~np.isfinite(found))[0] + 1
        yield f"{name} is not finite at snapshot {snapshot}, though it neither diverged nor failed"


def _length_faults(
    curves: Mapping[str, np.ndarray], measured: Mapping[str, np.ndarray], exports: int, sound: bool
) -> Iterator[str]:
    """Compare the length of each curve with the number of exports."""
    for name, curve in curves.items():
        length = (np.flatnonzero(~np.isnan(curve))[-1:] + 1).sum()
        if not 0 <= exports <= curve.size:
            yield f"{exports} exports, but {name} has room for {curve.size} evaluations"
        elif length > exports:
            yield f"{name} goes on to evaluation {length}, but it has {exports} exports"
        elif sound and length < exports and name in measured and name != "curve_train_loss" and exports > 1:
            yield f"{name} ends at evaluation {length}, but it has {exports} exports"


def _unmeasured(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return not_measured(attributes)
    except ValueError:  # told among the attributes
        return ()
