"""Rows of a variable, read where they lie in many files: lazy arrays for xarray that need no dask.

A contiguous variable is read through a memory map at its offset in the file, which is some twenty times faster than
through the NetCDF library and touches only the pages asked for; any other one goes through h5py.
"""

from functools import lru_cache

import h5py
import numpy as np
from xarray.backends import BackendArray
from xarray.core.indexing import ExplicitIndexer, IndexingSupport, explicit_indexing_adapter

from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import COORDINATES, VARIABLES

# A map holds a file descriptor; many systems allow a process 1,024 of them, some 256.
_MAPS = 128


class Reader:
    """Finds variables in files and keeps the files mapped into memory; shared by all arrays of a population."""

    def __init__(self) -> None:
        self._map = lru_cache(_MAPS)(lambda path: np.memmap(path, np.uint8, "r"))
        self._places = lru_cache(None)(_places)

    def __reduce__(self) -> tuple:
        # Maps don't travel: a copy, in this process or another, starts anew.
        return Reader, ()

    def row(self, path: str, name: str, row: int) -> np.ndarray:
        """Give one network's part of a variable, as a view of the file where that is possible.

        Raises
        ------
        ValueError
            If the file is not what the schema says.
        FileNotFoundError
            If the file is gone.
        """
        try:
            offset, shape = self._places(path)[name]
            if offset is not None:
                return np.ndarray(shape, VARIABLES[name].type, self._map(path), offset)[row]
            with h5py.File(path) as file:
                return file[name][row]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} is gone: if networks were written since the population was opened, open it again"
            ) from error
        except (OSError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is truncated, or not a file of networks: {error}") from error


class Rows(BackendArray):
    """One variable of many networks, each of which lies in some row of some file.

    Parameters
    ----------
    reader
        Reads the files.
    name
        One of the schema's `VARIABLES`.
    places
        File and row of each network.
    shape
        (m, s, w), (m, s) or (m, evaluation); curves that are shorter than the last axis are padded with NaN.
    """

    def __init__(self, reader: Reader, name: str, places: list[tuple[str, int]], shape: tuple[int, ...]) -> None:
        self.reader, self.name, self.places, self.shape = reader, name, places, shape
        self.dtype = np.dtype(VARIABLES[name].type)

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        """Read what xarray asks for, axis by axis."""
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple) -> np.ndarray:
        models, *rest = key
        if isinstance(models, int | np.integer):
            return np.array(self._row(models, rest))  # a copy: the map is read-only
        positions = np.arange(self.shape[0])[models]
        one = _take(np.broadcast_to(self.dtype.type(0), self.shape[1:]), rest)
        found = np.empty((len(positions), *one.shape), self.dtype)
        for place, position in enumerate(positions):
            found[place] = self._row(position, rest)
        return found

    def _row(self, position: int, key: list) -> np.ndarray:
        path, row = self.places[position]
        values = self.reader.row(path, self.name, row)
        missing = self.shape[-1] - values.shape[-1]
        if missing:
            values = np.pad(values, (0, missing), constant_values=np.nan)
        return _take(values, key)


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


def _places(path: str) -> dict[str, tuple[int | None, tuple[int, ...]]]:
    """Look up offset (None where the variable is in chunks) and shape of each variable in a file."""
    with h5py.File(path) as file:
        for name, variable in VARIABLES.items():
            if file[name].dtype != variable.type:
                raise ValueError(f"{path}: {name} has type {file[name].dtype}, but the schema says {variable.type}")
        return {name: (file[name].id.get_offset(), file[name].shape) for name in VARIABLES}


def _take(values: np.ndarray, key: list) -> np.ndarray:
    """Index each axis by its own part of the key: whole numbers and slices first, they copy nothing."""
    values = values[tuple(slice(None) if isinstance(part, np.ndarray) else part for part in key)]
    kept = [part for part in key if not isinstance(part, int | np.integer)]
    for axis, part in enumerate(kept):
        if isinstance(part, np.ndarray):
            values = values.take(part, axis)
    return values
