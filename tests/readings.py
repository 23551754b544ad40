"""Invented readings, whose truth is known."""

import json

import numpy as np
import xarray as xr

NAMES = ("adam", "momentum", "rmsprop")


def classes(right, seed=0, names=NAMES, **attributes):
    """Give a reading of classes that is right where `right` (model, ...) says so, and elsewhere names the next class.

    `right` is a DataArray with dimension ``model``, and perhaps ``seed`` and ``snapshot``.
    """
    random = np.random.default_rng(seed)
    networks, names = right.sizes["model"], np.array(names)
    code = xr.DataArray(random.integers(len(names), size=networks), dims="model")
    named = (code + ~right.astype(bool)) % len(names)
    found = xr.Dataset({"truth": ("model", names[code]), "prediction": named.copy(data=names[named])})
    found = found.assign_coords({"class": names, "train_networks": ("class", [40] * len(names))})
    return described(numbered(found), task="classification", **attributes)


def numbers(noise, seed=0, **attributes):
    """Give a reading of a learning rate whose logarithm is off by `noise` (model, ...)."""
    truth = xr.DataArray(10 ** np.random.default_rng(seed).uniform(-4, -2, noise.sizes["model"]), dims="model")
    found = xr.Dataset({"truth": truth, "prediction": truth * 10**noise})
    attributes = {"property": "learning_rate", "train_median": 1e-3} | attributes
    return described(numbered(found), task="regression", **attributes)


def numbered(found):
    """Number the networks, and give them columns as a population has them, a seed of their own too."""
    numbers = np.arange(found.sizes["model"])
    own = "network_seed" if "seed" in found.dims else "seed"
    return found.assign_coords(
        {"model": numbers, own: ("model", 7 * numbers), "dataset": ("model", numbers.astype(str))}
    )


def described(found, **attributes):
    """Add the attributes of a reading; those that are no attribute are parameters of the reader."""
    words = {"property": "optimizer", "method": "a method", "seed": "0", "shuffled": 0, "trained_on": "", "read_on": ""}
    own = {name: attributes.pop(name) for name in [*attributes] if name in (*words, "task", "train_median")}
    parameters = {"snapshot": 20, "part": "all", "kinds": "all", "variable": "weights", **attributes}
    return found.assign_attrs({**words, **own, "parameters": json.dumps(parameters)})


def often(share, networks, seed=0, **sizes):
    """Say at random, for a share of the networks, that a reader is right; snapshots may differ in the share."""
    shape = (networks, *sizes.values())
    return xr.DataArray(np.random.default_rng(seed).random(shape) < share, dims=("model", *sizes))
