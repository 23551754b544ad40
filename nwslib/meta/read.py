"""Read a property in one call: fit a reader on the training networks, and read those of the test split."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
import xarray as xr

from nwslib import __version__
from nwslib.meta.labels import logarithmic
from nwslib.meta.views import matching, nodes, readable
from nwslib.population.device import resolve_device
from nwslib.space import nearest


class Reader(Protocol):
    """What every reader of weights can do; each is a dataclass of its parameters."""

    method: str
    device: str
    seed: int
    task: str
    median: float

    def fit(self, data: xr.Dataset | xr.DataTree, property: str, *, shuffled: bool = False) -> Self:
        """Learn from the networks of the training split."""

    def predictions(self, data: xr.Dataset | xr.DataTree, snapshot: Any = None) -> xr.Dataset:
        """Read the property of the networks of the test split."""


def read(
    population: xr.Dataset | xr.DataTree,
    property: str,
    reader: Reader,
    *,
    shuffled: bool = False,
    at: int | Sequence[int] | None = None,
    on: xr.Dataset | xr.DataTree | None = None,
    seeds: Sequence[int] | None = None,
    keep: str | Path | None = None,
    **changes: Any,
) -> xr.Dataset:
    """Fit a reader on the training networks of a population and read the property of its test networks.

    Parameters
    ----------
    population
        A population or one node of it; its own ``split`` decides who is read and who is learned from.
    property
        What to read: any column of the networks, which names a class or is a real number; of one that each snapshot
        has, such as ``"test_accuracy"``, the last.
    reader
        A `StatisticsReader`, `RunReader`, `NetworkReader` or `TableReader`. A fresh copy is fitted.
    shuffled
        Permute the labels over the training networks: a control that must end at chance.
    at
        Other snapshots to read than those learned from.
    on
        Another population, whose test networks are read in place of the first one's.
    seeds
        Seeds of the reader, at least two, each of which is fitted; the networks and their split stay the same.
    keep
        A folder in which the reading is kept: where the same reading is there, nothing is computed.
    **changes
        Parameters of the reader to replace, such as ``snapshot=1`` or ``seed=2``.

    Returns
    -------
    xarray.Dataset
        ``truth`` and ``prediction`` (model), for some readers ``probability`` (model, class) and ``run_accuracy``; the
        coordinates of the networks; for classes ``train_networks`` (class), how many networks were learned from. With
        several seeds all but ``truth`` have the dimension ``seed``, after ``model``, and the networks' own seeds are
        called ``network_seed``; with several snapshots, ``snapshot``. The attributes say what was done; attribute
        ``task`` is ``"classification"`` or ``"regression"``, and ``scale`` is ``"linear"`` where a number is read as it
        is and not as its log10.

    Raises
    ------
    ValueError
        If a parameter, the property or a snapshot is unknown, or the property cannot be read.
    """
    names = [field.name for field in fields(reader) if field.init]
    for name in changes:
        if name not in names:
            raise ValueError(f"{type(reader).__name__} has no parameter {name!r}. {nearest(name, names)}")
    if seeds is not None and len(set(seeds)) < 2:
        raise ValueError(f"several seeds are at least two different ones, not {list(seeds)}: name one by seed=")
    reader = replace(reader, **changes)
    path = None if keep is None else _path(Path(keep), population, property, reader, shuffled, at, on, seeds)
    if path is not None and path.exists():
        return xr.load_dataset(path, engine="netcdf4")
    every = [replace(reader, seed=seed) for seed in seeds] if seeds is not None else [reader]
    parts = [_read_once(population, property, one, shuffled, at, on) for one in every]
    found = parts[0] if seeds is None else _together(parts, seeds)
    if path is not None:
        store_reading(found, path)
    return found


def transfer(
    population: xr.Dataset | xr.DataTree,
    property: str,
    reader: Reader,
    by: str,
    *,
    values: Iterable[object] | None = None,
    **options: Any,
) -> dict[tuple[str, str], xr.Dataset]:
    """Learn on the networks that have one value of another property, and read those that have another.

    Parameters
    ----------
    population
        A population or one node of it.
    property
        What to read.
    reader
        As in `read`.
    by
        The property that divides the networks, such as ``"dataset"``; or ``"snapshot"``: learn at one snapshot, and
        read at another.
    values
        Of `by`; by default all that occur.
    **options
        As in `read`.

    Returns
    -------
    dict
        By the value learned on and the value read, as text: the reading, with both in its attributes ``trained_on``
        and ``read_on``. On the diagonal are the networks of the test split as everywhere else.

    Raises
    ------
    ValueError
        If `by` is unknown or is what is read, or the property does not vary among the networks with one value.
    """
    if by == property:
        raise ValueError(f"{by} cannot both divide the networks and be read")
    if by == "snapshot":
        return _through_time(
            population, property, reader, list(values or nodes(population)[0]["snapshot"].values), options
        )
    values = np.unique(readable(population).column(by)).tolist() if values is None else list(values)
    found = {}
    for learned in values:
        every = read(matching(population, **{by: learned}), property, reader, on=population, **options)
        for other in values:
            side = np.flatnonzero(every[by].values == other)
            if not len(side):
                raise ValueError(f"no network of the test split with {by} {other} can be read")
            about = {"trained_on": f"{by}: {learned}", "read_on": f"{by}: {other}"}
            found[str(learned), str(other)] = every.isel(model=side).assign_attrs(about)
    return found


def held_out(
    population: xr.Dataset | xr.DataTree,
    property: str,
    reader: Reader,
    combination: Mapping[str, object],
    **options: Any,
) -> xr.Dataset:
    """Learn without the networks that have a combination of properties, and read those alone.

    Parameters
    ----------
    population
        A population or one node of it.
    property
        What to read.
    reader
        As in `read`.
    combination
        A value for each of some properties, such as ``{"optimizer": "adam", "activation": "relu"}``.
    **options
        As in `read`.

    Returns
    -------
    xarray.Dataset
        The reading of the test networks with the combination.

    Raises
    ------
    ValueError
        If a property is unknown, or no network has the combination.
    """
    rest, own = matching(population, without=True, **combination), matching(population, **combination)
    words = ", ".join(f"{name}: {value}" for name, value in combination.items())
    return read(rest, property, reader, on=own, **options).assign_attrs(trained_on=f"not {words}", read_on=words)


def _through_time(
    population: xr.Dataset | xr.DataTree, property: str, reader: Reader, moments: list[int], options: Mapping[str, Any]
) -> dict[tuple[str, str], xr.Dataset]:
    found = {}
    for learned in moments:
        every = read(population, property, reader, snapshot=int(learned), at=[int(one) for one in moments], **options)
        for other in moments:
            about = {"trained_on": f"snapshot: {learned}", "read_on": f"snapshot: {other}"}
            found[str(learned), str(other)] = every.sel(snapshot=other, drop=True).assign_attrs(about)
    return found


def _read_once(
    population: xr.Dataset | xr.DataTree,
    property: str,
    reader: Reader,
    shuffled: bool,
    at: int | Sequence[int] | None,
    on: xr.Dataset | xr.DataTree | None,
) -> xr.Dataset:
    began = time.perf_counter()
    reader.fit(population, property, shuffled=shuffled)
    fitted = time.perf_counter()
    found = reader.predictions(population if on is None else on, at)
    read = time.perf_counter()
    parameters = _parameters(reader)
    selection = {name: parameters[name] for name in ("part", "kinds", "min_test_accuracy") if name in parameters}
    train = readable(population, "train", length=parameters.get("length") or 1, **selection)
    labels = train.column(property)
    about = {"task": reader.task}
    if reader.task == "regression":
        about["train_median"] = float(np.median(labels))
        about |= {} if logarithmic(property) else {"scale": "linear"}
    else:
        classes, counts = np.unique(labels, return_counts=True)
        found = found.assign_coords({"class": classes, "train_networks": ("class", counts)})
    found.attrs = {
        **about,
        "property": property,
        "method": reader.method,
        "shuffled": int(shuffled),
        "seed": str(reader.seed),
        "parameters": json.dumps(parameters, default=_plain),
        "trained_on": "",
        "read_on": "",
        "networks_trained_on": len(labels),
        "left_out_of_training": json.dumps(train.left_out),
        "left_out_of_test": found.attrs["left_out"],
        "seconds": round(read - began, 3),
        "seconds_to_train": round(fitted - began, 3),
        "seconds_per_network": round((read - fitted) / found.sizes["model"], 6),
        **{name: value for name, value in found.attrs.items() if name != "left_out"},
        "device": str(resolve_device(reader.device)),
        "torch_version": torch.__version__,
        "library_version": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return found


def _parameters(reader: Reader) -> dict[str, Any]:
    return {field.name: getattr(reader, field.name) for field in fields(reader) if field.init}


def _plain(value: Any) -> Any:
    """Write a parameter that JSON does not know: a sequence, or a function by its name."""
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else list(value)


def _together(parts: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Put the readings of several seeds side by side."""
    own = [part.drop_vars("truth").rename(seed="network_seed") for part in parts]
    found = xr.concat(own, "seed", data_vars="all", coords="minimal", compat="override", join="exact")
    truth = parts[0]["truth"].variable
    found = found.assign_coords(seed=list(seeds)).assign(truth=truth)
    found = found.transpose("model", "seed", ..., "class", missing_dims="ignore")
    seconds = {"seconds": round(sum(part.attrs["seconds"] for part in parts), 3)}
    for name in ("seconds_to_train", "seconds_per_network"):
        seconds[name] = round(float(np.mean([part.attrs[name] for part in parts])), 6)
    return found.assign_attrs(parts[0].attrs | {"seed": ", ".join(map(str, seeds)), **seconds})


def _path(
    folder: Path,
    population: xr.Dataset | xr.DataTree,
    property: str,
    reader: Reader,
    shuffled: bool,
    at: int | Sequence[int] | None,
    on: xr.Dataset | xr.DataTree | None,
    seeds: Sequence[int] | None,
) -> Path:
    """Name the file of a reading by all that it depends on."""
    asked = {
        "population": _networks(population),
        "on": None if on is None else _networks(on),
        "property": property,
        "reader": type(reader).__name__,
        "parameters": _parameters(reader),
        "shuffled": shuffled,
        "at": at,
        "seeds": seeds,
        "device": str(resolve_device(reader.device)),
        "library": __version__,
    }
    name = hashlib.sha256(json.dumps(asked, sort_keys=True, default=_plain).encode()).hexdigest()[:16]
    return folder / f"{property}-{name}.nc"


def _networks(population: xr.Dataset | xr.DataTree) -> str:
    """Name the networks of a population, and their sides of the split."""
    digest = hashlib.sha256()
    for node in nodes(population):
        for name in ("id", "split", "status"):
            digest.update("\n".join(node[name].values.tolist()).encode())
    return digest.hexdigest()


def store_reading(found: xr.Dataset, path: Path) -> None:
    """Write a reading whole or not at all.

    Parameters
    ----------
    found
        What `read` gives.
    path
        Of the file; its folder is made where it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    found.to_netcdf(draft, engine="netcdf4")
    draft.replace(path)
