"""One network of a released set, labelled as the schema says."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from nwslib import __version__
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import SCHEMA_VERSION, VARIABLES
from nwslib.space import SHARD_ROWS

_PATH = {"path": {"type": "text", "units": "", "meaning": "where the network lies in the released set"}}


@dataclass(frozen=True)
class Source:
    """A released set.

    Attributes
    ----------
    name
        One word, in place of the version of a training protocol.
    text
        What it is, and where it is described.
    not_measured
        Accuracies and losses that it does not have.
    properties
        Type, units and meaning of its further properties; ``path`` is always one.
    """

    name: str
    text: str
    not_measured: tuple[str, ...]
    properties: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)

    def attributes(self, layout: Layout) -> dict[str, str]:
        """Give the schema's attributes of one architecture."""
        further = {
            name: dict(zip(("type", "units", "meaning"), own, strict=True)) for name, own in self.properties.items()
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "library_version": __version__,
            "protocol_version": self.name,
            "layout": layout.to_json(),
            "parameters": json.dumps({"released": self.name}),
            "implementation": "{}",
            "device": "unknown",
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "properties": json.dumps(_PATH | further),
            "not_measured": json.dumps(self.not_measured),
            "source": self.text,
        }


class Places:
    """Gives each network its row, and its shard among those of its architecture.

    Parameters
    ----------
    first
        Number of the first row; its shards come after those that earlier rows can have filled.
    """

    def __init__(self, first: int) -> None:
        if first < 0:
            raise ValueError(f"the first network has a number from 0 on, not {first}")
        self._next, self._first_shard = first, math.ceil(first / SHARD_ROWS)
        self._ranks: Counter[Layout] = Counter()

    def next(self, layout: Layout) -> dict[str, int]:
        """Give ``model`` and ``shard`` of the next network."""
        place = {"model": self._next, "shard": self._first_shard + self._ranks[layout] // SHARD_ROWS}
        self._ranks[layout] += 1
        self._next += 1
        return place


def network(
    source: Source, layout: Layout, known: Mapping[str, Any], about: Mapping[str, Any], data: Mapping[str, np.ndarray]
) -> xr.Dataset:
    """Label one network.

    Parameters
    ----------
    source
        The set that it is of.
    layout
        Of its weights.
    known
        What identifies it: properties and ``path``.
    about
        Everything else along ``model``; what is unknown may be left out.
    data
        ``weights`` (s, w), ``epoch`` (s,), and accuracies and losses by checkpoint (s,) and by evaluation, as
        ``curve_...``; what was not measured is filled with NaN.

    Returns
    -------
    xarray.Dataset
        One ``model``, as a trainer yields it.
    """
    snapshots, evaluations = len(data["weights"]), about["n_exports"]
    missing = {name: np.full(snapshots, np.nan, "float32") for name in source.not_measured}
    missing |= {f"curve_{name}": np.full(evaluations, np.nan, "float32") for name in source.not_measured}
    variables = {name: (VARIABLES[name].dims, values[None]) for name, values in (missing | data).items()}
    columns = {"seed": -1, "steps": -1, "seconds": math.nan, "reason": "", "family": layout.family, **known, **about}
    columns["id"] = _identity(source, known, data["weights"])
    coordinates: dict[str, Any] = {name: ("model", np.array([value])) for name, value in columns.items()}
    return xr.Dataset(variables, coordinates | {"snapshot": np.arange(1, snapshots + 1)}, source.attributes(layout))


def as_float32(values: np.ndarray, exact: bool = True) -> np.ndarray:
    """Convert to float32.

    Parameters
    ----------
    values
        Of any shape; NaN and infinity stay what they are.
    exact
        Whether to refuse to round.

    Raises
    ------
    ValueError
        If a finite value is too large, or would have to be rounded and must not be.
    """
    with np.errstate(over="ignore"):
        converted = values.astype("float32")
    changed = converted != values
    if not changed.any():
        return converted
    changed &= ~np.isnan(values)
    if np.isinf(converted[changed]).any():
        raise ValueError(f"{values[changed][np.isinf(converted[changed])][0]:.3g} is too large for float32")
    if exact and changed.any():
        raise ValueError(
            f"{changed.sum()} of {values.size} weights are no float32 numbers and would have to be rounded"
        )
    return converted


def layer_names(parts: Mapping[str, str]) -> dict[str, str]:
    """Name layers as the study's are: conv1, ..., dense1, ..., and output where the last one is dense.

    Parameters
    ----------
    parts
        "convolution" or "dense", by the name that a layer has in the released set; in order.
    """
    counts: Counter[str] = Counter()
    names = {}
    for layer, part in parts.items():
        counts[part] += 1
        names[layer] = f"{'conv' if part == 'convolution' else 'dense'}{counts[part]}"
    last = next(reversed(parts))
    return names | ({last: "output"} if parts[last] == "dense" else {})


def _identity(source: Source, known: Mapping[str, Any], weights: np.ndarray) -> str:
    """Hash what identifies a network, and its last weights."""
    digest = hashlib.sha256(json.dumps([source.name, known], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(weights[-1]))
    return digest.hexdigest()[:16]
