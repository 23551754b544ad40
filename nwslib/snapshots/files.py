"""Files of a population: whole, on the disk and under their name, or not there at all."""

import errno
import hashlib
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from nwslib.snapshots.checksums import crc32
from nwslib.snapshots.layout import LABELS, Layout
from nwslib.snapshots.lazy import header_of, networks_of
from nwslib.snapshots.schema import ATTRIBUTES, CONVENTIONS, OPTIONAL_ATTRIBUTES, OPTIONAL_VARIABLES, VARIABLES, VECTORS
from nwslib.space import nearest

FORMS = ("working", "archive")
MANTISSA = 23  # bits of a float32

# On 64 trained nws_small networks, of raw: one snapshot in a chunk .80, all of them .71, and .70 at level 4; at level 9
# .68, at half the speed. All snapshots of some weights resemble each other, so a chunk holds those.
_CHUNK = 4096
_LEVEL = 4


def save(dataset: xr.Dataset, path: Path, form: str = "working", keep_bits: int | None = None) -> dict[str, Any]:
    """Write a NetCDF file that any NetCDF library reads; one network in memory at a time.

    Parameters
    ----------
    dataset
        Networks of one architecture, as the schema says.
    path
        Of the file; what is there is replaced once the new one is on the disk.
    form
        ``"working"``: contiguous, to be mapped into memory; ``"archive"``: in compressed chunks with checksums.
    keep_bits
        Of each mantissa of weights and updates; None keeps all. In the archive form only.

    Returns
    -------
    dict
        ``sha256``, ``bytes`` and ``header`` of the file (`nwslib.snapshots.lazy.header_of`), and ``crc32`` of each
        network, by variable, in the file's order.

    Raises
    ------
    OSError
        If it can't be written.
    """
    return begin(dataset, path, form, keep_bits)()


def begin(
    dataset: xr.Dataset, path: Path, form: str = "working", keep_bits: int | None = None
) -> Callable[[], dict[str, Any]]:
    """Write a file as `save` does, and give what is left to do, which needs no processor: wait for the disk.

    Until that is done the file does not count, and it may be done in another thread.
    """
    check_form(form, keep_bits)
    temporary = path.with_name(f".{path.name}.tmp")
    with _explained(path, temporary):
        sums = _write(dataset, temporary, form, keep_bits)

    def finish() -> dict[str, Any]:
        with _explained(path, temporary), ThreadPoolExecutor(1) as beside:
            digest = beside.submit(facts_of, temporary)  # takes as long as the rest
            summed = _summed(sums)
            sync(temporary)
            with NETCDF4_PYTHON_LOCK:  # where both libraries share one HDF5, it is not made for threads
                header = header_of(str(temporary))
            facts = digest.result() | {"header": header}
            _rename(temporary, path)
            return facts | {"crc32": summed}

    return finish


def check_form(form: str, keep_bits: int | None) -> None:
    """Refuse a form or a number of bits that is not known.

    Raises
    ------
    ValueError
        If it is not.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}. {nearest(form, FORMS)}")
    if keep_bits is None:
        return
    if not isinstance(keep_bits, int | np.integer) or not 1 <= keep_bits <= MANTISSA:
        raise ValueError(f"keep_bits is a whole number from 1 to {MANTISSA}, or None for all, not {keep_bits!r}")
    if form != "archive":
        raise ValueError("keep_bits makes compressed files smaller: it needs the form 'archive'")


def bit_round(values: np.ndarray, keep_bits: int) -> np.ndarray:
    """Round to the nearest number whose mantissa ends after some bits, so that what follows compresses away.

    Parameters
    ----------
    values
        float32, any shape.
    keep_bits
        From 1 to 23, the first, implicit bit not counted.

    Returns
    -------
    numpy.ndarray
        Of the same shape; ties go to the even one; what is not finite stays as it is.

    Notes
    -----
    BitRound: Klöwer et al., "Compressing atmospheric data into its real information content", Nature Computational
    Science 1, 2021.

    Examples
    --------
    >>> bit_round(np.array([1.0, 1.1, 1.3, np.inf], "float32"), 2).tolist()
    [1.0, 1.0, 1.25, inf]
    """
    drop = np.uint32(MANTISSA - keep_bits)
    if drop == 0:
        return values
    bits = values.view("uint32")
    one = np.uint32(1)
    half = (one << (drop - one)) - one + ((bits >> drop) & one)
    rounded = ((bits + half) & ~((one << drop) - one)).view("float32")
    return np.where(np.isfinite(values), rounded, values)


def write_text(path: Path, text: str) -> None:
    """Replace a text file, durably."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _explained(path, temporary):
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        _rename(temporary, path)


def facts_of(path: Path) -> dict[str, Any]:
    """Give ``sha256`` and ``bytes`` of a file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        # As one piece, for which no other thread is asked to make room; there is no map of an empty file.
        content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": size}


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows can't
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(dataset: xr.Dataset, path: Path, form: str, keep_bits: int | None) -> dict[str, list[int | np.ndarray]]:
    attributes = {"Conventions": CONVENTIONS}
    attributes |= {name: dataset.attrs[name] for name in (*ATTRIBUTES, *OPTIONAL_ATTRIBUTES) if name in dataset.attrs}
    attributes |= {} if keep_bits is None else {"keep_bits": str(keep_bits)}
    values = {
        name: _label(dataset.attrs["layout"], name, tuple(variable.attrs.items()))
        if name in LABELS and "layout" in dataset.attrs
        else _characters(variable)
        for name, variable in dataset.variables.items()
    }
    labels = {name: dataset.variables[name].dims for name in dataset.coords if name not in dataset.dims}
    # Through the NetCDF library: xarray's to_netcdf took four times as long for a small network, and all weights of a
    # shard at once in memory. The library is not made for threads.
    with NETCDF4_PYTHON_LOCK, netCDF4.Dataset(path, "w") as file:
        file.setncatts(attributes)
        for axis, size in {axis: size for one in values.values() for axis, size in one.sizes.items()}.items():
            file.createDimension(axis, size)
        # All definitions before all data: going back and forth costs a flush each time.
        for name, variable in values.items():
            _define(file, name, variable, labels, form, keep_bits)
        sums: dict[str, list[int | np.ndarray]] = {}
        for name, variable in values.items():
            if name in VECTORS:
                sums[name] = _write_vectors(file[name], variable, keep_bits)
                continue
            file[name][:] = found = variable.values
            if name in VARIABLES:
                more = [crc32({name: row})["curves"] for row in found]
                sums["curves"] = [
                    one ^ other for one, other in zip(sums.get("curves", [0] * len(more)), more, strict=True)
                ]
    return sums


def _define(
    file: netCDF4.Dataset,
    name: str,
    variable: xr.Variable,
    labels: dict[str, tuple],
    form: str,
    keep_bits: int | None,
) -> None:
    options: dict[str, Any] = {"contiguous": True}
    # Labels too: of many small architectures they are more bytes than the weights.
    if form == "archive" and (name in VARIABLES | OPTIONAL_VARIABLES or variable.dims[0] == "weight"):
        chunk = (1, *variable.shape[1:-1], min(_CHUNK, variable.shape[-1])) if name in VECTORS else variable.shape
        options = {"compression": "zlib", "complevel": _LEVEL, "shuffle": True, "fletcher32": True, "chunksizes": chunk}
    stored = file.createVariable(name, variable.dtype, variable.dims, fill_value=False, **options)
    stored.setncatts(variable.attrs)
    beside = [label for label, dims in labels.items() if set(dims) <= set(variable.dims)]
    if beside and name in VARIABLES | OPTIONAL_VARIABLES:
        stored.coordinates = " ".join(beside)
    if keep_bits is not None and name in VECTORS:
        stored.setncattr("_QuantizeBitRoundNumberOfSignificantBits", np.int32(keep_bits))
    stored.set_auto_chartostring(False)


def _write_vectors(stored: netCDF4.Variable, variable: xr.Variable, keep_bits: int | None) -> list[int | np.ndarray]:
    """Write one network after the other; give the checksum of each, or a view of what it is to be made from."""
    network, sums = networks_of(variable), []
    for row in range(variable.shape[0]):
        found = network(row)
        values = np.asarray(found)
        stored[row] = values = values if keep_bits is None else bit_round(values, keep_bits)
        sums.append(values if values is found else crc32({stored.name: values})[stored.name])
    return sums


def _summed(sums: dict[str, list[int | np.ndarray]]) -> dict[str, list[int]]:
    return {
        name: [one if isinstance(one, int) else crc32({name: one})[name] for one in found]
        for name, found in sums.items()
    }


@lru_cache(64)  # text of every weight, and the same in each shard of an architecture
def _label(layout: str, name: str, attributes: tuple[tuple[str, str], ...]) -> xr.Variable:
    return _characters(xr.Variable("weight", Layout.from_json(layout).label(name), dict(attributes)))


def _characters(variable: xr.Variable) -> xr.Variable:
    """Turn text into an array of characters, and leave everything else as it is."""
    if variable.dtype.kind not in "OTU":
        return variable
    try:
        text = variable.values.astype(str).astype("S")  # thirty times as fast, for ASCII
    except UnicodeEncodeError:
        text = np.char.encode(variable.values.astype(str), "utf-8")
    text = text.astype(f"S{max(1, text.itemsize)}")  # empty text still takes a character
    letters = text.view("S1").reshape(*text.shape, -1)
    attributes = {**variable.attrs, "_Encoding": "utf-8"}
    return xr.Variable((*variable.dims, f"string{text.itemsize}"), letters, attributes)


def _rename(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)
    sync(path.parent)


@contextmanager
def _explained(path: Path, temporary: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError to the NetCDF library
        with suppress(OSError):
            os.remove(temporary)
        free = shutil.disk_usage(path.parent).free / 2**20
        message = f"could not write {path} ({error}), {free:.0f} MiB are free there"
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"{message}. Every network that was on the disk before is kept: make room and start again",
        ) from error
