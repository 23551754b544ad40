"""A fake population for documentation and tests: random weights in which the properties leave weak traces.

Nothing is trained. The networks satisfy the schema, are cheap, and are a function of the design alone.
"""

import hashlib
import json
from collections.abc import Collection, Iterator

import numpy as np
import xarray as xr

from nwslib import __version__
from nwslib.snapshots.layout import Layout, Tensor
from nwslib.snapshots.schema import SCHEMA_VERSION, SNAPSHOTS
from nwslib.space import CONSTANTS, PROPERTIES, VOCABULARY, complete, family_of, switch_columns

_PARAMETERS = {"fake": True, "max_epochs": 40}
_CREATED = "2020-01-01T00:00:00+00:00"


def population(design: xr.Dataset, *, signal: float = 0.3, diverged: Collection[int] = ()) -> Iterator[xr.Dataset]:
    """Yield one fake network for each row of a design, in order.

    Parameters
    ----------
    design
        Dimension ``model``, from `nwslib.space.sample` or made by hand.
    signal
        Strength of the traces, see `network`; 0 leaves none.
    diverged
        Numbers (``model``) of the networks that end in NaN.

    Yields
    ------
    xarray.Dataset
        What `network` gives.

    Raises
    ------
    ValueError
        If the design is of another family than ``"cnn"``.

    Examples
    --------
    >>> from nwslib.space import sample
    >>> [network.sizes["weight"] for network in population(sample("nws_small", 2, seed=0))]
    [1676, 1676]
    """
    design = complete(design)
    if family_of(design).name != "cnn":
        raise ValueError(f"fake networks are of the family 'cnn', not {family_of(design).name!r}")
    for position in range(design.sizes["model"]):
        row = design.isel(model=[position])
        yield network(row, signal=signal, diverged=row["model"].item() in diverged)


def network(row: xr.Dataset, *, signal: float = 0.3, diverged: bool = False) -> xr.Dataset:
    """Make one fake network from one row of a design.

    Parameters
    ----------
    row
        Dimension ``model`` of length 1, from a design that `nwslib.space.complete` has seen.
    signal
        Strength of the traces. Each value of each property moves the mean and the spread of the kernel weights of one
        layer: by nothing at snapshot 1 and by at most `signal` standard deviations at snapshot 20. The trace of
        ``initialization`` is there from the first snapshot.
    diverged
        Whether weights and accuracies are NaN from the middle of the training on.

    Returns
    -------
    xarray.Dataset
        Dimensions ``model`` (1), ``snapshot`` (20), ``weight`` and ``evaluation``, as a trainer yields it: without
        labels on ``weight``.

    Examples
    --------
    >>> from nwslib.snapshots import validate
    >>> from nwslib.space import sample
    >>> validate(network(sample("nws_fixed", 1, seed=0)))
    """
    row = row.reset_coords()
    values = {name: row[name].item() for name in (*PROPERTIES, *CONSTANTS, "seed", "split", "shard", "model")}
    values |= {name: row[name].item() for name in switch_columns(row)}
    shape = layout(values)
    random = np.random.default_rng(values["seed"])
    exports = int(random.integers(SNAPSHOTS, 2 * SNAPSHOTS))
    kept = np.round(np.linspace(1, exports, SNAPSHOTS)).astype("int64") - 1  # (s,)
    curves = _curves(random, exports, values["dataset"])
    weights = _weights(random, shape, values, signal)  # (s, w)
    if diverged:
        weights[SNAPSHOTS // 2 :] = np.nan
        for curve in curves.values():
            curve[kept[SNAPSHOTS // 2] :] = np.nan
    variables = {"weights": (("snapshot", "weight"), weights), "epoch": ("snapshot", kept)}
    variables |= {name: ("snapshot", curve[kept]) for name, curve in curves.items()}
    variables |= {f"curve_{name}": ("evaluation", curve) for name, curve in curves.items()}
    values |= {"id": _identity(values), "n_exports": exports, "steps": 100 * (exports - 1), "seconds": 0.5 * exports}
    values |= {"status": "diverged", "reason": "weights are not finite"} if diverged else {"status": "converged"}
    values = {"reason": "validation accuracy stopped rising"} | values
    dataset = xr.Dataset(variables, coords={"snapshot": np.arange(1, SNAPSHOTS + 1), **values}).expand_dims("model")
    dataset = dataset.assign_coords({name: ("model", np.array([value])) for name, value in values.items()})
    return dataset.assign_attrs(_attributes(shape))


def layout(values: dict) -> Layout:
    """Give the layout of a fake network: small, with as many layers as the hyper-parameters say.

    Parameters
    ----------
    values
        ``filter_size``, ``depth_conv``, ``depth_fc``, ``width_conv`` and ``width_fc``, by name.
    """
    size, width = values["filter_size"], values["width_conv"]
    tensors: list[Tensor] = []
    source = 3
    for number in range(1, values["depth_conv"] + 1):
        axes = ("unit", "source", "row", "column")
        tensors += _layer(f"conv{number}", "convolution", axes, (width, source, size, size))
        source = width
    for number in range(1, values["depth_fc"] + 1):
        units = max(1, values["width_fc"] >> (number - 1))
        tensors += _layer(f"dense{number}", "dense", ("unit", "source"), (units, source))
        source = units
    tensors += _layer("output", "dense", ("unit", "source"), (20, source), norm=False)
    return Layout(values["family"], tuple(tensors))


def _layer(name: str, part: str, axes: tuple, shape: tuple, norm: bool = True) -> list[Tensor]:
    vectors = ("bias", "beta", "gamma", "mean", "variance") if norm else ("bias",)
    kernel = Tensor(name, part, "kernel", axes, shape)
    return [kernel, *(Tensor(name, part, kind, ("unit",), shape[:1]) for kind in vectors)]


def _weights(random: np.random.Generator, shape: Layout, values: dict, signal: float) -> np.ndarray:
    """Draw a start and a walk away from it, then add the traces: (s, w)."""
    progress = np.linspace(0, 1, SNAPSHOTS)[:, None]
    start, walk = 0.1 * random.standard_normal((2, shape.size))
    weights = np.sqrt(1 - progress / 2) * start + np.sqrt(progress / 2) * walk  # the spread stays 0.1
    kernels = [tensor.name for tensor in shape.tensors if tensor.kind == "kernel"]
    for number, name in enumerate(PROPERTIES):
        trace = signal * _place(name, values[name]) * (1 if name == "initialization" else progress)
        kernel = shape.slices[kernels[number % len(kernels)]]
        weights[:, kernel] = weights[:, kernel] * (1 + trace) + 0.1 * trace
    variances = [shape.slices[tensor.name] for tensor in shape.tensors if tensor.kind in ("gamma", "variance")]
    for place in variances:
        weights[:, place] = 1 + np.abs(weights[:, place])
    return weights.astype("float32")


def _place(name: str, value: object) -> float:
    """Place a value between -1 and 1 among those the property can have."""
    known = VOCABULARY[name]
    if name == "learning_rate":
        return float(np.clip(np.log(value / np.sqrt(known[0] * known[1])) / np.log(known[1] / known[0]) * 2, -1, 1))
    if value in known:
        return 2 * known.index(value) / (len(known) - 1) - 1
    return 2 * hashlib.sha256(str(value).encode()).digest()[0] / 255 - 1


def _curves(random: np.random.Generator, evaluations: int, dataset: str) -> dict[str, np.ndarray]:
    """Draw learning curves that rise from chance to a level of the image set's own."""
    level = 0.8 + 0.15 * _place("dataset", dataset)
    rise = 1 - np.exp(-np.arange(evaluations) / 5)
    noise = 0.02 * random.standard_normal((3, evaluations))
    train, valid, test = np.clip(0.1 + (level - 0.1) * rise + noise, 0, 1).astype("float32")
    train[0] = np.nan
    return {"train_accuracy": train, "valid_accuracy": valid, "test_accuracy": test, "train_loss": 2.3 * (1 - train)}


def _identity(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _attributes(shape: Layout) -> dict[str, str]:
    return {
        "schema_version": SCHEMA_VERSION,
        "library_version": __version__,
        "protocol_version": "fake",
        "layout": shape.to_json(),
        "parameters": json.dumps(_PARAMETERS),
        "implementation": json.dumps({"weights": "fake"}),
        "device": "none",
        "created_at": _CREATED,
    }
