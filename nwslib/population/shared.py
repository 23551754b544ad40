"""What the trainers of all further families share: their settings, and how a finished network is labelled."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nwslib import __version__
from nwslib.population import progress as status_line
from nwslib.population.device import describe
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import COORDINATES, SCHEMA_VERSION
from nwslib.space import COLUMNS, Column, nearest

#: Fills the second argument with the gradients at the first, both (m, w), and gives the losses (m,).
Gradient = Callable[[Tensor, Tensor], Tensor]

#: Of Adam: what a step keeps of the gradient's mean, and of its mean square, and what it adds to the root.
KEEP_A, KEEP_V, EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba, 2015

#: How equal networks are in any company, by what computes them.
EQUALITY: Mapping[str, str] = MappingProxyType({"compiled": "exact", "stacked": "agreement"})

CURVES = ("train_accuracy", "valid_accuracy", "test_accuracy", "train_loss")

#: What is measured of finished networks that the schema does not know: type, units and meaning.
MEASURED: Mapping[str, Column] = MappingProxyType(
    {
        "label": Column(str, units="", meaning="class of the image"),
        "psnr": Column(
            float, units="dB", meaning="peak signal-to-noise ratio of the image that the network gives at the end"
        ),
    }
)
_TYPES = {str: "text", int: "int64", float: "float64"}


@dataclass(frozen=True)
class Shared:
    """What all networks of a training share.

    Attributes
    ----------
    device, dtype
        Where the networks are trained, and in which arithmetic.
    slots
        Networks side by side; None: as many as suit. Changes no result but by rounding.
    snapshots
        How many are kept of each network, at least 2.
    parameters
        What determines the networks besides their rows, as it is stored with them.
    identity
        Gives the id of a network from its row.
    protocol
        Version of the training protocol.
    progress
        Whether to show a status line where somebody watches.
    """

    device: torch.device
    dtype: torch.dtype
    slots: int | None
    snapshots: int
    parameters: Mapping[str, Any]
    identity: Callable[[Mapping[str, Any]], str]
    protocol: str
    progress: bool

    @property
    def mixed(self) -> bool:
        """Whether products are in bfloat16."""
        return self.parameters.get("precision") == "bfloat16"


@dataclass
class Watch:
    """What the status line says while networks are trained."""

    networks: int
    shown: bool
    started: float = field(default_factory=time.monotonic)
    finished: int = 0

    def report(self, count: int, further: str = "") -> None:
        """Say that so many more networks have finished, and what else there is to say."""
        self.finished += count
        if self.shown:
            rate = self.finished / (time.monotonic() - self.started)
            to_go = status_line.duration((self.networks - self.finished) / rate)
            words = f"{self.finished} of {self.networks} networks, {3600 * rate:,.0f} per hour, about {to_go} to go"
            status_line.report(words + (further and f", {further}"))

    def end(self) -> None:
        """Clear the line."""
        if self.shown:
            status_line.report("")


def snapshot_steps(steps: int, snapshots: int) -> np.ndarray:
    """Say after how many optimiser steps each snapshot is taken: evenly spaced, the first before training.

    Returns
    -------
    numpy.ndarray
        Shape (s,), int64, from 0 to `steps`.

    Examples
    --------
    >>> snapshot_steps(1000, 5).tolist()
    [0, 250, 500, 750, 1000]
    """
    return np.round(np.linspace(0, steps, snapshots)).astype("int64")


def finished(
    row: Mapping[str, Any],
    layout: Layout,
    weights: np.ndarray,
    curves: Mapping[str, np.ndarray],
    shared: Shared,
    *,
    steps: int,
    epochs: np.ndarray,
    seconds: float,
    kept: np.ndarray | None = None,
    implementation: str = "stacked",
    **further: int | float | str,
) -> xr.Dataset:
    """Label a finished network as the schema says: snapshots, curves, row, and what was measured at its end.

    Parameters
    ----------
    row
        Of the design, as plain values.
    layout
        Which weight stands where.
    weights
        Shape (s, w): the weight vector at each snapshot.
    curves
        Of `CURVES`, those that were measured: shape (e,) each, one value per evaluation. The others are declared as not
        measured, and are NaN throughout.
    shared
        What all networks of the training share.
    steps
        Optimiser steps taken.
    epochs
        Shape (s,): epochs trained when each snapshot was taken. Of training without batches, an epoch is a step.
    seconds
        Wall time of its training, in company of others.
    kept
        Shape (s,): the evaluation that belongs to each snapshot, from 0; by default there are as many of both.
    implementation
        What computed the network, a name of `EQUALITY`.
    **further
        What else was measured, by a name of `MEASURED`.

    Returns
    -------
    xarray.Dataset
        One network. Its status is ``"diverged"`` where a weight is not finite, else ``"stopped"``: it took all its
        steps.

    Raises
    ------
    ValueError
        If a curve or a further property is unknown, shapes don't fit, or the row says another number of steps.
    """
    weights = _single(weights)
    _check(weights, curves, layout, kept, shared)
    if row.get("steps", steps) != steps:
        raise ValueError(f"network {row['model']} was to take {row['steps']} steps, and took {steps}")
    properties = _properties(tuple(name for name in {**row, **further} if name not in COORDINATES))
    evaluations = max((len(values) for values in curves.values()), default=len(weights))
    kept = np.arange(len(weights)) if kept is None else kept
    complete = {name: np.full(evaluations, np.nan) for name in CURVES} | dict(curves)
    data = {"weights": (("model", "snapshot", "weight"), weights[None])}
    data["epoch"] = (("model", "snapshot"), np.asarray(epochs, "int64")[None])
    for name in CURVES:
        values = _single(complete[name])
        data[name] = (("model", "snapshot"), values[kept][None])
        data[f"curve_{name}"] = (("model", "evaluation"), values[None])
    about = {**row, **further, "id": shared.identity(row), "n_exports": evaluations, "steps": int(steps)}
    about |= {"seconds": float(seconds), **_end(weights, epochs, steps)}
    coordinates = {name: ("model", [value]) for name, value in about.items()}
    coordinates["snapshot"] = ("snapshot", np.arange(1, len(weights) + 1))
    attributes = _attributes(layout, shared, implementation)
    attributes["properties"] = properties
    if unmeasured := [name for name in CURVES if name not in curves]:
        attributes["not_measured"] = json.dumps(unmeasured)
    return xr.Dataset(data, coordinates, attributes)


@cache  # all networks of a training say the same
def _properties(names: tuple[str, ...]) -> str:
    """Declare further properties."""
    known = {**COLUMNS, **MEASURED}
    for name in names:
        if name not in known:
            raise ValueError(f"unknown further property {name!r}. {nearest(name, known)}")
    return json.dumps(
        {n: {"type": _TYPES[known[n].type], "units": known[n].units, "meaning": known[n].meaning} for n in names}
    )


def _check(
    weights: np.ndarray, curves: Mapping[str, np.ndarray], layout: Layout, kept: np.ndarray | None, shared: Shared
) -> None:
    if weights.shape != (shared.snapshots, layout.size):
        raise ValueError(f"{layout.name}: weights have shape {weights.shape}, not {(shared.snapshots, layout.size)}")
    for name, values in curves.items():
        if name not in CURVES:
            raise ValueError(f"unknown curve {name!r}. {nearest(name, CURVES)}")
        if kept is None and len(values) != len(weights):
            raise ValueError(f"{name}: {len(values)} evaluations of {len(weights)} snapshots: say with 'kept' which")
    if len({len(values) for values in curves.values()}) > 1:
        raise ValueError("all curves have one value for each evaluation, so they are of one length")


def _single(values: np.ndarray) -> np.ndarray:
    """Give numbers as float32: what diverged may be too large for it, and then is infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values, "float32")


def _end(weights: np.ndarray, epochs: np.ndarray, steps: int) -> dict[str, str]:
    sound = np.isfinite(weights).all(axis=1)
    if sound.all():
        return {"status": "stopped", "reason": f"end of its {steps} steps"}
    return {"status": "diverged", "reason": f"a weight was not finite after {epochs[np.argmin(sound)]} epochs"}


def _attributes(layout: Layout, shared: Shared, implementation: str) -> dict[str, str]:
    told = {"training": implementation, "equality": EQUALITY[implementation]}
    return {
        "schema_version": SCHEMA_VERSION,
        "library_version": __version__,
        "protocol_version": shared.protocol,
        "layout": layout.to_json(),
        "parameters": json.dumps(shared.parameters, sort_keys=True),
        "implementation": json.dumps(told, sort_keys=True),
        "device": describe(shared.device),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
