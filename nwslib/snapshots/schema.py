"""The contract of a population file: names, dimensions, types, units and meaning, and the check of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr

from nwslib.snapshots.layout import LABELS, Layout
from nwslib.space import nearest

SCHEMA_VERSION = "1.0"
SNAPSHOTS = 20
STATUS = ("converged", "stopped", "diverged", "failed")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Variable:
    """One variable or coordinate of a population file: where it lives, its type, and what it means."""

    dims: tuple[str, ...]
    type: str  # a numpy type, or "text"
    units: str
    meaning: str


_CURVES = {
    "train_accuracy": "mean over the past epoch's batches, each before its step, without dropout; NaN before training",
    "valid_accuracy": "share of the network's own validation images that it names correctly",
    "test_accuracy": "share of the image set's test images that it names correctly",
    "train_loss": "mean cross-entropy over the past epoch's batches, with dropout; NaN before training",
}
_PROPERTIES = {
    "dataset": ("text", "", "image set, with its part in brackets where it is partial"),
    "learning_rate": ("float64", "", "learning rate in the first epoch"),
    "batch_size": ("int64", "images", "images per step"),
    "augmentation": ("text", "", "off, or on: geometry, colour and noise"),
    "optimizer": ("text", "", "adam, rmsprop or momentum"),
    "activation": ("text", "", "relu, elu, sigmoid or tanh"),
    "initialization": ("text", "", "constant, normal, glorot_uniform or glorot_normal"),
    "filter_size": ("int64", "pixels", "side of a convolution kernel"),
    "depth_conv": ("int64", "layers", "convolution layers"),
    "depth_fc": ("int64", "layers", "hidden dense layers"),
    "width_conv": ("int64", "channels", "channels in the first block, doubled in each next one"),
    "width_fc": ("int64", "units", "units of the first dense layer, halved in each next one"),
}
_MODEL = {
    "model": ("int64", "", "row of the design"),
    "id": ("text", "", "hash of row, seed, image set, training parameters and protocol: equal ids, equal networks"),
    **_PROPERTIES,
    "family": ("text", "", "network family"),
    "image_size": ("int64", "pixels", "side of an input image"),
    "decay": ("float64", "", "factor on the learning rate after each epoch"),
    "seed": ("int64", "", "seed of the network: of its initial weights and every draw of its training"),
    "split": ("text", "", "train or test: on which side meta-classifiers may see the network"),
    "shard": ("int64", "", "number of the file, among those of the architecture, that holds the network"),
    "n_exports": ("int64", "evaluations", "evaluations, and so exports, until the network stopped"),
    "steps": ("int64", "steps", "optimiser steps until the network stopped"),
    "seconds": ("float64", "s", "wall time from the network's first step to its last, in company of others"),
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
        "weights": Variable(("model", "snapshot", "weight"), "float32", "", "the weight vector at each snapshot"),
        **{name: Variable(("model", "snapshot"), "float32", "", text) for name, text in _CURVES.items()},
        "epoch": Variable(("model", "snapshot"), "int64", "epochs", "epochs trained when the snapshot was taken"),
        **{
            f"curve_{name}": Variable(("model", "evaluation"), "float32", "", f"{text}; padded with NaN")
            for name, text in _CURVES.items()
        },
    }
)

#: Coordinates of one architecture's file.
COORDINATES: Mapping[str, Variable] = MappingProxyType(
    {
        "snapshot": Variable(
            ("snapshot",), "int64", "", "1 (initialisation) to 20 (end): a share of the network's run"
        ),
        **{name: Variable(("model",), *fields) for name, fields in _MODEL.items()},
        **{name: Variable(("weight",), *fields) for name, fields in _LABELS.items()},
    }
)

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
        If an attribute or variable is missing, has other dimensions or another type, the vector's length or its labels
        are not the layout's, two networks share a row or an id, a status or split is unknown, an accuracy is no share,
        or a network that did not diverge or fail has a weight or an accuracy that is not finite.
    """
    check_attributes(dataset, source)
    check_variables(dataset, source)
    layout = layout_of(dataset)
    if dataset.sizes["weight"] != layout.size or dataset["snapshot"].values.tolist() != [*range(1, SNAPSHOTS + 1)]:
        raise ValueError(
            f"{source}: {dataset.sizes['snapshot']} snapshots of {dataset.sizes['weight']} weights, but "
            f"{layout.name} has snapshots 1 to {SNAPSHOTS} of {layout.size} weights"
        )
    for name in LABELS:
        if name in dataset.variables and not np.array_equal(dataset[name].values, layout.label(name)):
            raise ValueError(f"{source}: the labels {name!r} are not those of the layout {layout.name}")
    _check_table(dataset, source)
    for position in range(dataset.sizes["model"]):
        _check_network(dataset.isel(model=position), source)


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
            Layout.from_json(dataset.attrs[name]) if name == "layout" else dict(json.loads(dataset.attrs[name]))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{source}: attribute {name!r} is unreadable: {error}") from error


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
    """Check names, dimensions and types of the variables, without reading them; labels on ``weight`` may be absent.

    Raises
    ------
    ValueError
        If a variable is missing, or has other dimensions or another type.
    """
    for name, variable in (VARIABLES | COORDINATES).items():
        if name not in LABELS or name in dataset.variables:
            _check_variable(dataset, name, variable, source)


def _check_variable(dataset: xr.Dataset, name: str, variable: Variable, source: str) -> None:
    if name not in dataset.variables:
        raise ValueError(f"{source}: variable {name!r} is missing. {nearest(name, dataset.variables)}")
    found = dataset[name]
    if found.dims != variable.dims:
        raise ValueError(f"{source}: {name} has dimensions {found.dims}, but the schema says {variable.dims}")
    kind = "text" if found.dtype.kind in "OTU" else str(found.dtype)
    if kind != variable.type:
        raise ValueError(f"{source}: {name} has type {kind}, but the schema says {variable.type}")


def _check_table(dataset: xr.Dataset, source: str) -> None:
    for name in ("model", "id"):
        values, counts = np.unique(dataset[name].values.astype(str), return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"{source}: two networks share the {name} {values[counts > 1][0]}")
    for name, known in (("status", STATUS), ("split", SPLITS)):
        for number, value in zip(dataset["model"].values.tolist(), dataset[name].values.tolist(), strict=True):
            if value not in known:
                raise ValueError(f"{source}: network {number} has {name} {value!r}. {nearest(value, known)}")


def _check_network(network: xr.Dataset, source: str) -> None:
    who = f"{source}: network {network['model'].item()}"
    exports = network["n_exports"].item()
    if not 0 <= exports <= network.sizes["evaluation"]:
        raise ValueError(f"{who} has {exports} exports, but curves of {network.sizes['evaluation']} evaluations")
    for name in _CURVES:
        if not np.isnan(network[f"curve_{name}"].values[exports:]).all():
            raise ValueError(f"{who}: curve_{name} goes on after its {exports} evaluations")
    sound = network["status"].item() not in ("diverged", "failed")
    if sound and not np.isfinite(network["weights"].values).all():
        raise ValueError(f"{who} did not diverge, but has weights that are not finite")
    for name in ("train_accuracy", "valid_accuracy", "test_accuracy"):
        values = network[name].values
        if ((values < 0) | (values > 1)).any():
            raise ValueError(f"{who}: {name} is a share between 0 and 1, not {np.nanmax(np.abs(values)):.3g}")
        if sound and name != "train_accuracy" and not np.isfinite(values).all():
            raise ValueError(f"{who} did not diverge, but has a {name} that is not finite")
