"""The contract of a population file: names, dimensions, types, units and meaning, and the check of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr

from nwslib.snapshots.layout import LABELS, Layout
from nwslib.space import PROPERTIES, nearest

SCHEMA_VERSION = "1.0"
SNAPSHOTS = 20
STATUS = ("converged", "stopped", "diverged", "failed")


@dataclass(frozen=True)
class Variable:
    """One variable or coordinate of a population file: where it lives, its type, and what it means."""

    dims: tuple[str, ...]
    kind: str  # numpy kind: f float, i integer, U text
    units: str
    meaning: str


_CURVES = {
    "train_accuracy": "mean over the past epoch's batches, each before its step, without dropout; NaN before training",
    "valid_accuracy": "share of the network's own validation images that it names correctly",
    "test_accuracy": "share of the image set's test images that it names correctly",
    "train_loss": "mean cross-entropy over the past epoch's batches, with dropout; NaN before training",
}
_PROPERTIES = {
    "dataset": ("U", "", "image set, with its part in brackets where it is partial"),
    "learning_rate": ("f", "", "learning rate in the first epoch"),
    "batch_size": ("i", "images", "images per step"),
    "augmentation": ("U", "", "off, or on: geometry, colour and noise"),
    "optimizer": ("U", "", "adam, rmsprop or momentum"),
    "activation": ("U", "", "relu, elu, sigmoid or tanh"),
    "initialization": ("U", "", "constant, normal, glorot_uniform or glorot_normal"),
    "filter_size": ("i", "pixels", "side of a convolution kernel"),
    "depth_conv": ("i", "layers", "convolution layers"),
    "depth_fc": ("i", "layers", "hidden dense layers"),
    "width_conv": ("i", "channels", "channels in the first block, doubled in each next one"),
    "width_fc": ("i", "units", "units of the first dense layer, halved in each next one"),
}
_MODEL = {
    "model": ("i", "", "row of the design"),
    "id": ("U", "", "hash of row, seed, image set, training parameters and protocol: equal ids, equal networks"),
    **_PROPERTIES,
    "family": ("U", "", "network family"),
    "image_size": ("i", "pixels", "side of an input image"),
    "decay": ("f", "", "factor on the learning rate after each epoch"),
    "seed": ("i", "", "seed of the network: of its initial weights and every draw of its training"),
    "split": ("U", "", "train or test: on which side meta-classifiers may see the network"),
    "shard": ("i", "", "number of the file, among those of the architecture, that holds the network"),
    "n_exports": ("i", "", "evaluations, and so exports, until the network stopped"),
    "steps": ("i", "", "optimiser steps until the network stopped"),
    "seconds": ("f", "s", "wall time from the network's first step to its last, in company of others"),
    "status": ("U", "", "converged, stopped (epoch limit), diverged (non-finite) or failed"),
    "reason": ("U", "", "the stopping rule, or what went wrong"),
}
_LABELS = {
    "layer": ("U", "", "layer, from the input: conv1, ..., dense1, ..., output"),
    "part": ("U", "", "convolution or dense"),
    "kind": ("U", "", "kernel, bias, or of a batch norm: beta, gamma, mean, variance"),
    "unit": ("i", "", "output channel or unit; -1 where there is none"),
    "source": ("i", "", "input channel or unit; -1 where there is none"),
    "row": ("i", "", "row in the kernel, or in the feature map that a first dense layer reads; else -1"),
    "column": ("i", "", "column, likewise"),
}

#: Data variables of one architecture's file.
VARIABLES: Mapping[str, Variable] = MappingProxyType(
    {
        "weights": Variable(("model", "snapshot", "weight"), "f", "", "the weight vector at each snapshot, float32"),
        **{name: Variable(("model", "snapshot"), "f", "", text) for name, text in _CURVES.items()},
        "epoch": Variable(("model", "snapshot"), "i", "epochs", "epochs trained when the snapshot was taken"),
        **{
            f"curve_{name}": Variable(("model", "evaluation"), "f", "", f"{text}; padded with NaN")
            for name, text in _CURVES.items()
        },
    }
)

#: Coordinates of one architecture's file.
COORDINATES: Mapping[str, Variable] = MappingProxyType(
    {
        "snapshot": Variable(("snapshot",), "i", "", "1 (initialisation) to 20 (end): a fraction of the network's run"),
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

assert tuple(_PROPERTIES) == PROPERTIES
assert tuple(_LABELS) == LABELS


def validate(dataset: xr.Dataset, source: str = "population") -> None:
    """Check one architecture's dataset against the schema.

    Parameters
    ----------
    dataset
        Dimensions ``model``, ``snapshot``, ``weight``, ``evaluation``; labels on ``weight`` may be absent (they follow
        from the layout).
    source
        What an error message calls it: usually a file name.

    Raises
    ------
    ValueError
        If an attribute or variable is missing, has other dimensions or another type, the vector's length is not the
        layout's, a status is unknown, or a network that did not diverge or fail has a weight that is not finite.
    """
    for name in ATTRIBUTES:
        if name not in dataset.attrs:
            raise ValueError(f"{source}: not a population: attribute {name!r} is missing")
    version = str(dataset.attrs["schema_version"])
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise ValueError(f"{source}: schema version {version}, but this library reads {SCHEMA_VERSION}")
    for name, variable in (VARIABLES | COORDINATES).items():
        if name in LABELS and name not in dataset.variables:
            continue
        _check_variable(dataset, name, variable, source)
    layout = Layout.from_json(dataset.attrs["layout"])
    if dataset.sizes["weight"] != layout.size or dataset.sizes["snapshot"] != SNAPSHOTS:
        raise ValueError(
            f"{source}: {dataset.sizes['snapshot']} snapshots of {dataset.sizes['weight']} weights, but "
            f"{layout.name} has {SNAPSHOTS} of {layout.size}"
        )
    for name in ("parameters", "implementation"):
        json.loads(dataset.attrs[name])
    _check_networks(dataset, source)


def _check_variable(dataset: xr.Dataset, name: str, variable: Variable, source: str) -> None:
    if name not in dataset.variables:
        raise ValueError(f"{source}: variable {name!r} is missing. {nearest(name, dataset.variables)}")
    found = dataset[name]
    if found.dims != variable.dims:
        raise ValueError(f"{source}: {name} has dimensions {found.dims}, but the schema says {variable.dims}")
    kind = "U" if found.dtype.kind in "OTU" else found.dtype.kind
    if kind != variable.kind:
        raise ValueError(f"{source}: {name} has type {found.dtype}, but the schema says kind {variable.kind!r}")


def _check_networks(dataset: xr.Dataset, source: str) -> None:
    ids = dataset["id"].values
    if len(set(ids)) < len(ids):
        raise ValueError(f"{source}: two networks share an id")
    for number, status in zip(dataset["model"].values, dataset["status"].values, strict=True):
        if status not in STATUS:
            raise ValueError(f"{source}: network {number} has status {status!r}. {nearest(status, STATUS)}")
    sound = ~np.isin(dataset["status"].values, ["diverged", "failed"])
    for position in np.flatnonzero(sound):
        if not np.isfinite(dataset["weights"].values[position]).all():
            number = dataset["model"].values[position]
            raise ValueError(f"{source}: network {number} did not diverge, but has weights that are not finite")
