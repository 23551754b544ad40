"""Rows of a variable, read where they lie in many files: lazy arrays for xarray that need no dask.

A contiguous variable is read through a memory map at its offset in the file, which is some twenty times faster than
through the NetCDF library and touches only the pages asked for; any other one goes through h5py.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import h5py
import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import (
    ExplicitIndexer,
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)

from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import COORDINATES, OPTIONAL_VARIABLES, VARIABLES

# A map holds a file descriptor; many systems allow a process 1,024 of them, some 256.
_MAPS = 128
_FILES = 16
_CHUNK_CACHE = 1 << 23  # bytes per file: runs from one snapshot unpack it once

_KNOWN = {**VARIABLES, **OPTIONAL_VARIABLES}
_SMALL = tuple(name for name, variable in VARIABLES.items() if "weight" not in variable.dims)


class Reader:
    """Finds variables in files and keeps the files mapped into memory; shared by all arrays of a population.

    Parameters
    ----------
    headers
        What `header_of` said about files, by path: as long as their first bytes are the same, those needn't be parsed.
    """

    def __init__(self, headers: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._headers = headers or {}
        self._map = lru_cache(_MAPS)(lambda path: np.memmap(path, np.uint8, "r"))
        self._file = lru_cache(_FILES)(lambda path: h5py.File(path, rdcc_nbytes=_CHUNK_CACHE))
        self._places = lru_cache(None)(_places)
        self._known = lru_cache(None)(self._unchanged)
        self._whole = lru_cache(_MAPS)(self._view_of)

    def __reduce__(self) -> tuple:
        # Maps don't travel: a copy, in this process or another, starts anew.
        return Reader, (self._headers,)

    def whole(self, path: str, name: str) -> np.ndarray | None:
        """Give a variable as a view of the file, or None where it is in chunks.

        Raises
        ------
        ValueError
            If the file is not what the schema says.
        FileNotFoundError
            If the file is gone.
        """
        return self._whole(path, name)

    def _view_of(self, path: str, name: str) -> np.ndarray | None:
        with _explained(path):
            offset, shape = self._place(path, name)
            return None if offset is None else np.ndarray(shape, _KNOWN[name].type, self._map(path), offset)

    def view(self, path: str, name: str, row: int) -> np.ndarray | None:
        """Give one network's part of a variable as a view of the file, or None where it is in chunks."""
        whole = self.whole(path, name)
        return None if whole is None else whole[row]

    def _place(self, path: str, name: str) -> tuple[int | None, tuple[int, ...]]:
        if name in (known := self._known(path)):
            return known[name]
        # To look a variable up takes as long as to open the file for it; who wants one curve wants the others too.
        return self._places(path, _SMALL if name in _SMALL else (name,))[name]

    def _unchanged(self, path: str) -> Mapping[str, tuple[int, tuple[int, ...]]]:
        """Give what is known of a file's variables, unless it was replaced by one with another header."""
        header = self._headers.get(path)
        if header is None or _checksum(self._map(path), header["variables"]) != header["crc32"]:
            return {}
        return header["variables"]

    def read(self, path: str, name: str, row: int, key: list, length: int) -> np.ndarray:
        """Read some of one network's part of a variable.

        Parameters
        ----------
        path, name, row
            File, variable, and row of the network.
        key
            A whole number, slice or array of positions for each other axis.
        length
            Of the last axis; where the file's is shorter, NaN follows.

        Returns
        -------
        numpy.ndarray
            A view of the file where that is possible.

        Raises
        ------
        ValueError, FileNotFoundError
            As `view`.
        """
        values = self.view(path, name, row)
        if values is not None:
            return cut(values, key, length)
        with _explained(path):
            variable = self._file(path)[name]
            if variable.shape[-1] == length:
                return _take_chunks(variable, row, key)
            return cut(variable[row], key, length)


class Rows(BackendArray):
    """One variable of many networks, each of which lies in some row of some file.

    Parameters
    ----------
    reader
        Reads the files.
    name
        One of the schema's variables.
    places
        File and row of each network.
    shape
        (m, s, w), (m, s) or (m, evaluation); curves that are shorter than the last axis are padded with NaN.
    """

    def __init__(self, reader: Reader, name: str, places: list[tuple[str, int]], shape: tuple[int, ...]) -> None:
        self.reader, self.name, self.places, self.shape = reader, name, places, shape
        self.dtype = np.dtype(_KNOWN[name].type)

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        """Read what xarray asks for, axis by axis."""
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._read)

    def view(self, position: int) -> np.ndarray | None:
        """Give one network as a view of its file, (s, w), or None where the file holds it in chunks."""
        return self.reader.view(*self._place(position))

    def _read(self, key: tuple) -> np.ndarray:
        models, *rest = key
        if isinstance(models, int | np.integer):
            return np.array(self._row(int(models), rest))  # a copy: the map is read-only
        positions = np.arange(self.shape[0])[models]
        one = _take(np.broadcast_to(self.dtype.type(0), self.shape[1:]), rest)
        found = np.empty((len(positions), *one.shape), self.dtype)
        file, _ = self.files
        ends = [*(np.flatnonzero(np.diff(file[positions])) + 1).tolist(), len(positions)]
        for first, last in zip([0, *ends], ends, strict=False):
            self._fill(found[first:last], positions[first:last], rest)
        return found

    def _fill(self, found: np.ndarray, positions: np.ndarray, key: list) -> None:
        """Read networks that lie in one file: at once where they are a stretch of it."""
        whole = self._stretch(positions) if len(positions) > 1 else None
        if whole is not None:
            found[:] = _take(whole, [slice(None), *key])
        else:
            for place, position in enumerate(positions.tolist()):
                found[place] = self._row(position, key)

    def _stretch(self, positions: np.ndarray) -> np.ndarray | None:
        """Give some networks of one file as a view of it, or None where there is none."""
        _, row = self.files
        rows = row[positions]
        whole = self.reader.whole(self.places[positions[0]][0], self.name)
        if whole is None or whole.shape[-1] != self.shape[-1] or (np.diff(rows) != 1).any():
            return None
        return whole[rows[0] : rows[-1] + 1]

    def flat(self, file: int) -> np.ndarray | None:
        """Give all that the variable has in a file, one after the other, or None where the file holds it in chunks."""
        whole = self.reader.whole(self._paths[file], self.name)
        return None if whole is None else whole.reshape(-1)

    @cached_property
    def _paths(self) -> list[str]:
        return list(dict.fromkeys(path for path, _ in self.places))

    @cached_property
    def files(self) -> tuple[np.ndarray, np.ndarray]:
        """Number the files; give that of each network, and its row, each (m,)."""
        numbers = {path: number for number, path in enumerate(self._paths)}
        files = [numbers[path] for path, _ in self.places]
        return np.array(files, "int64"), np.array([row for _, row in self.places], "int64")

    def _row(self, position: int, key: list) -> np.ndarray:
        return self.reader.read(*self._place(position), key, self.shape[-1])

    def _place(self, position: int) -> tuple[str, str, int]:
        path, row = self.places[position]
        return path, self.name, row


class Labels(BackendArray):
    """One label of every weight, computed from the layout when it is asked for."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.layout, self.name, self.shape = layout, name, (layout.size,)
        words = [getattr(tensor, name, "") for tensor in layout.tensors]
        self.dtype = np.array(words).dtype if COORDINATES[name].type == "text" else np.dtype(COORDINATES[name].type)

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        """Compute the label, and give what xarray asks for."""
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple) -> np.ndarray:
        return self.layout.label(self.name)[key]


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is gone: if networks were written since the population was opened, open it again"
        ) from error
    except (OSError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is truncated, or not a file of networks: {error}") from error


def header_of(path: str) -> dict[str, Any]:
    """Say where the variables of a file lie, so that nobody need parse it to find them.

    To parse it takes a millisecond; to see that its header is still the same, a tenth of that.

    Returns
    -------
    dict
        ``variables``, offset and shape of each, and ``crc32`` of the bytes before the first, which hold all that HDF5
        knows of them. Empty where a variable is in chunks.
    """
    with h5py.File(path) as file:
        names = [name for name in _KNOWN if name in file]
    found = {name: [offset, list(shape)] for name, (offset, shape) in _places(path, tuple(names)).items()}
    if any(offset is None for offset, _ in found.values()):
        return {}
    return {"crc32": _checksum(np.memmap(path, np.uint8, "r"), found), "variables": found}


def _checksum(file: np.ndarray, variables: Mapping[str, tuple[int, tuple[int, ...]]]) -> int:
    return zlib.crc32(file[: min(offset for offset, _ in variables.values())])


def _places(path: str, names: tuple[str, ...]) -> dict[str, tuple[int | None, tuple[int, ...]]]:
    """Look up offset (None where the variable is in chunks) and shape of some variables in a file."""
    with h5py.File(path) as file:
        found = {}
        for name in names:
            stored = file[name]
            if stored.dtype != _KNOWN[name].type:
                raise ValueError(f"{path}: {name} has type {stored.dtype}, but the schema says {_KNOWN[name].type}")
            found[name] = stored.id.get_offset(), stored.shape
        return found


def networks_of(weights: xr.Variable) -> Callable[[int], np.ndarray | xr.Variable]:
    """Give a function from position to one network, (s, w), that reads nothing where there is a view of it.

    Parameters
    ----------
    weights
        Dimensions ``model``, ``snapshot``, ``weight``.
    """
    lazy = weights._data
    if isinstance(lazy, np.ndarray):
        return lazy.__getitem__
    if isinstance(lazy, LazilyIndexedArray) and isinstance(lazy.array, Rows):
        rows, (models, snapshots, span) = lazy.array, lazy.key.tuple
        models = np.arange(rows.shape[0])[models]
        if isinstance(span, slice) and span.step in (None, 1):
            return lambda position: _seen(rows.view(models[position]), snapshots, span, weights, position)
    return weights.__getitem__


def _seen(
    view: np.ndarray | None, snapshots: slice | np.ndarray, span: slice, weights: xr.Variable, position: int
) -> np.ndarray | xr.Variable:
    return weights[position] if view is None else view[snapshots, span]


def cut(values: np.ndarray, key: list, length: int) -> np.ndarray:
    """Index each axis by its own part of the key, the last one as if it went on with NaN up to some length."""
    if values.shape[-1] < length:
        longer = np.full((*values.shape[:-1], length), np.nan, values.dtype)
        longer[..., : values.shape[-1]] = values
        values = longer
    return _take(values, key)


def _take_chunks(variable: h5py.Dataset, row: int, key: list) -> np.ndarray:
    """Index a variable in chunks: read the least box around what is asked for, and take from that."""
    box, rest = [], []
    for size, part in zip(variable.shape[1:], key, strict=True):
        if isinstance(part, int | np.integer):
            box.append(part)
            continue
        positions = np.arange(size)[part]
        first, last = (positions.min(), positions.max() + 1) if len(positions) else (0, 0)
        box.append(slice(first, last))
        rest.append(positions - first)
    return _take(variable[(row, *box)], rest)


def _take(values: np.ndarray, key: list) -> np.ndarray:
    """Index each axis by its own part of the key: whole numbers and slices first, they copy nothing."""
    values = values[tuple(slice(None) if isinstance(part, np.ndarray) else part for part in key)]
    kept = [part for part in key if not isinstance(part, int | np.integer)]
    for axis, part in enumerate(kept):
        if isinstance(part, np.ndarray):
            values = values.take(part, axis)
    return values
