"""The contract of a population file: names, dimensions, types, units and meaning, and the check of it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
import xarray as xr

from nwslib.snapshots.layout import LABELS, Layout
from nwslib.space import nearest

SCHEMA_VERSION = "1.1"
CONVENTIONS = "CF-1.11"
SNAPSHOTS = 20  # of a network that is trained here; others may have any number, at least 1
STATUS = ("converged", "stopped", "diverged", "failed")
UNSOUND = ("diverged", "failed")  # only these may hold values that are not finite
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Variable:
    """One variable or coordinate of a population file: where it lives, its type, and what it means."""

    dims: tuple[str, ...]
    type: str  # a numpy type, or "text"
    units: str  # of UDUNITS; "1" for counts and shares, "" for text and labels
    meaning: str
    required: bool = True


_CURVES = {
    "train_accuracy": "mean over the past epoch's batches, each before its step, without dropout; NaN before training",
    "valid_accuracy": "share of the network's own validation images that it names correctly",
    "test_accuracy": "share of the image set's test images that it names correctly",
    "train_loss": "mean cross-entropy over the past epoch's batches, with dropout; NaN before training",
}
_PROPERTIES = {
    "dataset": ("text", "", "image set, with its part in brackets where it is partial"),
    "learning_rate": ("float64", "1", "learning rate in the first epoch"),
    "batch_size": ("int64", "1", "images per step"),
    "augmentation": ("text", "", "off, or on: geometry, colour and noise"),
    "optimizer": ("text", "", "adam, rmsprop or momentum"),
    "activation": ("text", "", "relu, elu, sigmoid or tanh"),
    "initialization": ("text", "", "constant, normal, glorot_uniform or glorot_normal"),
    "filter_size": ("int64", "1", "side of a convolution kernel, in pixels"),
    "depth_conv": ("int64", "1", "convolution layers"),
    "depth_fc": ("int64", "1", "hidden dense layers"),
    "width_conv": ("int64", "1", "channels in the first block, doubled in each next one"),
    "width_fc": ("int64", "1", "units of the first dense layer, halved in each next one"),
}
_PROPERTIES |= {
    "image_size": ("int64", "1", "side of an input image, in pixels"),
    "decay": ("float64", "1", "factor on the learning rate after each epoch"),
}
#: Only there where networks change course in mid-training.
_SWITCH = {
    "switch_epoch": ("int64", "1", "epochs trained when the values after it took effect, if the network got so far"),
    "dataset_after": ("text", "", "image set from then on, of which the accuracies after it are"),
    "learning_rate_after": ("float64", "1", "learning rate from then on, as it would have been in the first epoch"),
    "augmentation_after": ("text", "", "augmentation from then on"),
    "optimizer_after": ("text", "", "optimiser from then on; another one starts with empty state"),
}
_MODEL = {
    "model": ("int64", "", "row of the design"),
    "id": ("text", "", "hash of row, seed, image set, training parameters and protocol: equal ids, equal networks"),
    **_PROPERTIES,
    **_SWITCH,
    "family": ("text", "", "network family"),
    "seed": ("int64", "", "seed of the network: of its initial weights and every draw of its training; -1: unknown"),
    "split": ("text", "", "train or test: on which side meta-classifiers may see the network"),
    "shard": ("int64", "", "number of the file, among those of the architecture, that holds the network"),
    "n_exports": ("int64", "1", "evaluations, and so exports, until the network stopped"),
    "steps": ("int64", "1", "optimiser steps until the network stopped; -1: unknown"),
    "seconds": ("float64", "s", "wall time from first step to last, in company of others; NaN: unknown"),
    "status": ("text", "", "converged, stopped (epoch limit), diverged (non-finite) or failed"),
    "reason": ("text", "", "the stopping rule, or what went wrong"),
}
_LABELS = {
    "layer": ("text", "", "layer, from the input: conv1, ..., dense1, ..., output"),
    "part": ("text", "", "convolution or dense"),
    "kind": ("text", "", "kernel, bias, or of a batch norm: beta, gamma, mean, variance"),
    "unit": ("int32", "", "output channel or unit; -1 where there is none"),
    "source": ("int32", "", "input channel or unit; -1 where there is none"),
    "row": ("int32", "", "row in the kernel, or in the feature map that a first dense layer reads; else -1"),
    "column": ("int32", "", "column, likewise"),
}

#: Data variables of one architecture's file.
VARIABLES: Mapping[str, Variable] = MappingProxyType(
    {
        "weights": Variable(("model", "snapshot", "weight"), "float32", "1", "the weight vector at each snapshot"),
        **{name: Variable(("model", "snapshot"), "float32", "1", text) for name, text in _CURVES.items()},
        "epoch": Variable(("model", "snapshot"), "int64", "1", "epochs trained when the snapshot was taken"),
        **{
            f"curve_{name}": Variable(("model", "evaluation"), "float32", "1", f"{text}; padded with NaN")
            for name, text in _CURVES.items()
        },
    }
)

#: Data variables that a file may have.
OPTIONAL_VARIABLES: Mapping[str, Variable] = MappingProxyType(
    {
        "updates": Variable(
            ("model", "snapshot", "weight"),
            "float32",
            "1",
            "change of the weight vector in the last step before each snapshot; 0 where there was none",
            required=False,
        )
    }
)

#: The variables that hold one number for every weight.
VECTORS = ("weights", *OPTIONAL_VARIABLES)

#: Coordinates of one architecture's file. A property is there if it means something for these networks; labels on
#: ``weight`` may be absent, since they follow from the layout.
COORDINATES: Mapping[str, Variable] = MappingProxyType(
    {
        "snapshot": Variable(
            ("snapshot",), "int64", "", "1 (initialisation) to the last, here 20 (end): a share of the network's run"
        ),
        **{name: Variable(("model",), *fields, name not in _PROPERTIES | _SWITCH) for name, fields in _MODEL.items()},
        **{name: Variable(("weight",), *fields, False) for name, fields in _LABELS.items()},
    }
)

_KNOWN = {**VARIABLES, **OPTIONAL_VARIABLES, **COORDINATES}

#: Attributes of one architecture's file; those marked JSON hold JSON text.
ATTRIBUTES: Mapping[str, str] = MappingProxyType(
    {
        "schema_version": "version of this schema",
        "library_version": "version of nwslib that trained the networks",
        "protocol_version": "version of the training protocol",
        "layout": "JSON: family, and the tensors of the weight vector in order",
        "parameters": "JSON: training parameters that all networks share, and the version of each image set",
        "implementation": "JSON: which implementation of each operator computed the networks",
        "device": "the device that trained them, in words",
        "created_at": "time of writing, ISO 8601, UTC",
    }
)

#: Attributes that a file may have.
OPTIONAL_ATTRIBUTES: Mapping[str, str] = MappingProxyType(
    {
        "properties": "JSON: further coordinates on model; for each its type, units and meaning",
        "not_measured": "JSON: accuracies and losses that nobody measured, NaN throughout",
        "source": "where the networks come from, if they were not trained here",
        "keep_bits": "bits of each mantissa that were kept (BitRound), if not all 23",
    }
)


def layout_of(dataset: xr.Dataset) -> Layout:
    """Give the layout of one architecture's weight vectors.

    Parameters
    ----------
    dataset
        One architecture of a population, or one network: anything with the attribute ``layout``.

    Returns
    -------
    Layout
        Which weight stands where.

    Raises
    ------
    ValueError
        If the attribute is missing, or not the JSON of a layout.
    """
    if "layout" not in dataset.attrs:
        raise ValueError("not a population: attribute 'layout' is missing")
    return Layout.from_json(dataset.attrs["layout"])


def further_properties(attributes: Mapping[str, str]) -> dict[str, Variable]:
    """Give the properties that a population has besides those that the schema knows.

    Parameters
    ----------
    attributes
        Of one architecture, or of one network.

    Returns
    -------
    dict of str to Variable
        By name; from the attribute ``properties``.

    Raises
    ------
    ValueError
        If the attribute is unreadable, a name is taken by the schema, or a type is unknown.

    Examples
    --------
    >>> text = '{"dropout": {"type": "float64", "units": "1", "meaning": "share of units that are dropped"}}'
    >>> further_properties({"properties": text})["dropout"].type
    'float64'
    """
    return dict(_further_properties(attributes.get("properties", "{}")))


@cache  # each network of a population brings the same text
def _further_properties(text: str) -> dict[str, Variable]:
    try:
        found = {
            str(name): Variable(("model",), entry["type"], str(entry["units"]), str(entry["meaning"]), False)
            for name, entry in json.loads(text).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"attribute 'properties' is unreadable: {error!r}") from error
    for name, variable in found.items():
        if name in _KNOWN or not name.isidentifier():
            raise ValueError(
                f"a further property can't be called {name!r}: the schema uses this name, or it is no name"
            )
        if variable.type not in ("float64", "int64", "text"):
            raise ValueError(
                f"{name} has type {variable.type!r}. {nearest(variable.type, ('float64', 'int64', 'text'))}"
            )
    return found


def not_measured(attributes: Mapping[str, str]) -> tuple[str, ...]:
    """List the accuracies and losses that nobody measured, from the attribute ``not_measured``.

    Raises
    ------
    ValueError
        If the attribute is unreadable or names anything else.
    """
    try:
        names = tuple(json.loads(attributes.get("not_measured", "[]")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"attribute 'not_measured' is unreadable: {error}") from error
    for name in names:
        if name not in _CURVES:
            raise ValueError(f"attribute 'not_measured' names {name!r}. {nearest(name, _CURVES)}")
    return names


def validate(dataset: xr.Dataset, source: str = "population") -> None:
    """Check one architecture's dataset against the schema.

    Parameters
    ----------
    dataset
        Dimensions ``model``, ``snapshot``, ``weight``, ``evaluation``; labels on ``weight`` may be absent (they follow
        from the layout). Weights are read one network at a time.
    source
        What an error message calls it: usually a file name.

    Raises
    ------
    ValueError
        At the first of the `faults`.
    """
    for fault in faults(dataset, source):
        raise ValueError(fault)


def faults(dataset: xr.Dataset, source: str = "population") -> Iterator[str]:
    """Find everything in one architecture's dataset that is against the schema.

    Parameters
    ----------
    dataset, source
        As for `validate`.

    Yields
    ------
    str
        One sentence each: an attribute or variable is missing, has other dimensions or another type, the vector's
        length or its labels are not the layout's, two networks share a row or an id, a status or split is unknown, an
        accuracy is no share, or a network that did not diverge or fail has a weight or an accuracy that is not finite.
    """
    try:
        check_attributes(dataset, source)
        check_variables(dataset, source)
    except ValueError as error:  # without these, nothing else can be looked at
        yield str(error)
        return
    layout = layout_of(dataset)
    numbers = dataset.variables["snapshot"].values.tolist()
    if dataset.sizes["weight"] != layout.size or numbers != [*range(1, max(2, len(numbers) + 1))]:
        yield (
            f"{source}: snapshots {numbers[:1]} to {numbers[-1:]}, {len(numbers)} in all, of {dataset.sizes['weight']} "
            f"weights, but {layout.name} has snapshots 1, 2, 3, ... of {layout.size} weights"
        )
        return
    variables = dataset.variables
    for name in LABELS:
        if name in variables and not np.array_equal(variables[name].values, layout.label(name)):
            yield f"{source}: the labels {name!r} are not those of the layout {layout.name}"
    yield from _table_faults(dataset, source)
    for position in range(dataset.sizes["model"]):
        yield from _network_faults(dataset, position, source)


def check_attributes(dataset: xr.Dataset, source: str) -> None:
    """Check the attributes of a dataset, without its variables.

    Raises
    ------
    ValueError
        If one is missing, the schema has another major version, or what is to be JSON is not.
    """
    for name in ATTRIBUTES:
        if name not in dataset.attrs:
            raise ValueError(f"{source}: not a population: attribute {name!r} is missing")
    check_version(str(dataset.attrs["schema_version"]), source)
    for name in ("layout", "parameters", "implementation"):
        try:
            Layout.from_json(dataset.attrs[name]) if name == "layout" else _check_json(dataset.attrs[name])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{source}: attribute {name!r} is unreadable: {error}") from error
    try:
        further_properties(dataset.attrs)
        not_measured(dataset.attrs)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


@cache
def _check_json(text: str) -> None:
    dict(json.loads(text))


def check_version(version: str, source: str) -> None:
    """Refuse a file whose schema has another major version than this library's.

    Raises
    ------
    ValueError
        If the number before the first dot differs.
    """
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise ValueError(f"{source}: schema version {version}, but this library reads {SCHEMA_VERSION}")


def check_variables(dataset: xr.Dataset, source: str) -> None:
    """Check names, dimensions and types of the variables, without reading them.

    Raises
    ------
    ValueError
        If a variable that must be there is missing, or one has other dimensions or another type.
    """
    found = {name: (variable.dims, _type(variable.dtype)) for name, variable in dataset.variables.items()}
    for name, variable in (_KNOWN | further_properties(dataset.attrs)).items():
        dims, kind = found.get(name, (None, None))
        if dims is None:
            if variable.required or name not in _KNOWN:
                raise ValueError(f"{source}: variable {name!r} is missing. {nearest(name, found)}")
        elif dims != variable.dims:
            raise ValueError(f"{source}: {name} has dimensions {dims}, but the schema says {variable.dims}")
        elif kind != variable.type:
            raise ValueError(f"{source}: {name} has type {kind}, but the schema says {variable.type}")


@cache  # numpy takes longer to spell a type than everything else here
def _type(dtype: np.dtype) -> str:
    return "text" if dtype.kind in "OTU" else str(dtype)


def _table_faults(dataset: xr.Dataset, source: str) -> Iterator[str]:
    variables = dataset.variables
    columns = {name: variables[name].values.tolist() for name in ("model", "id", "status", "split")}
    for name in ("model", "id"):
        for value in (value for value, count in Counter(columns[name]).items() if count > 1):
            yield f"{source}: two networks share the {name} {value}"
    for name, known in (("status", STATUS), ("split", SPLITS)):
        for number, value in zip(columns["model"], columns[name], strict=True):
            if value not in known:
                yield f"{source}: network {number} has {name} {value!r}. {nearest(value, known)}"


def _network_faults(dataset: xr.Dataset, position: int, source: str) -> Iterator[str]:
    variables, alone = dataset.variables, dataset.sizes["model"] == 1

    def values(name: str) -> np.ndarray:
        return np.asarray(variables[name].values[0] if alone else variables[name][position].values)

    who = f"{source}: network {values('model').item()}"
    exports, evaluations = values("n_exports").item(), dataset.sizes["evaluation"]
    sound = values("status").item() not in UNSOUND
    if not 0 <= exports <= evaluations:
        yield f"{who} has {exports} exports, but curves of {evaluations} evaluations"
        exports = evaluations
    for name in _CURVES:
        if not np.isnan(values(f"curve_{name}")[exports:]).all():
            yield f"{who}: curve_{name} goes on after its {exports} evaluations"
    for name in (name for name in VECTORS if name in variables):
        if sound and not all_finite(values(name)):
            yield f"{who} did not diverge, but has {name} that are not finite"
    unknown = not_measured(dataset.attrs)
    for name in ("train_accuracy", "valid_accuracy", "test_accuracy"):
        found = values(name)
        if name in unknown:
            if not np.isnan(found).all():
                yield f"{who}: {name} is said to be not measured, but has values"
        elif ((found < 0) | (found > 1)).any():
            yield f"{who}: {name} is a share between 0 and 1, not {np.nanmax(np.abs(found)):.3g}"
        elif sound and name != "train_accuracy" and not np.isfinite(found).all():
            yield f"{who} did not diverge, but has a {name} that is not finite"


def all_finite(values: np.ndarray) -> bool:
    """Say whether no value is infinite or NaN."""
    flat = values.reshape(-1)
    # A sum of squares is three times as fast, and finite only if all are; but it may overflow.
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(flat, flat)) or np.isfinite(flat).all())
