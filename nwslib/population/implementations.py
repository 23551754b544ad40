"""What computes a population: which implementation, on how many threads, how many networks side by side.

=============  =======  ==============  ===============================================================================
name           device   equality        what it is
=============  =======  ==============  ===============================================================================
lanes          CPU      exact           one compiled program per core; its vectors hold channels and networks together
grouped        any      exact on a CPU  PyTorch: one grouped channels-last convolution for all networks
im2col         any      agreement       PyTorch: unfolded images and batched products
triton         CUDA     exact           kernels written for many small networks, the step recorded as one graph
triton_tf32x3  CUDA     exact           the same with products on tensor units, three roundings to 11 bits for each
=============  =======  ==============  ===============================================================================

Where equality is exact, a network has the same bits alone and in any crowd; agreement means up to rounding, which
training makes large. Between two implementations rounding differs, too: so a population has one, which its manifest
names, with its equality, and a resumed training takes.
How many networks train side by side changes no bit: it is measured on the machine at hand and remembered.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from nwslib.population import operators
from nwslib.population.lanes import arithmetic, plan, program
from nwslib.population.lanes.crowd import Crowd
from nwslib.population.lanes.product import processor
from nwslib.population.networks import cnn
from nwslib.population.slots import Slots
from nwslib.snapshots.layout import Layout
from nwslib.space import nearest

STACKED = {
    "grouped": operators.Implementation(),
    "im2col": operators.Implementation(convolution="im2col"),
    "triton": operators.TRITON,
    "triton_tf32x3": operators.Implementation("triton_tf32x3", "triton", "triton_tf32x3", "triton"),
}
NAMES = ("lanes", *STACKED)
EQUALITY = {"grouped": "exact on a CPU", "im2col": "agreement"}

#: Bytes of buffers that one crowd may take while the best number of networks is searched.
SEARCHED = 2**30

_lock = threading.Lock()


def choose(name: str, device: torch.device, design: xr.Dataset) -> str:
    """Choose what computes a design.

    Parameters
    ----------
    name
        An implementation, or ``"auto"``: what the population was begun with (`nwslib.snapshots.remaining` says so in
        the design's attributes), else lanes on a CPU and triton on a CUDA device.
    device
        Where to compute.
    design
        The design.

    Returns
    -------
    str
        A name.

    Raises
    ------
    ValueError
        If the implementation is unknown, is not the one the population was begun with, or cannot serve the device.

    Examples
    --------
    >>> choose("auto", torch.device("cpu"), xr.Dataset())
    'lanes'
    """
    if name not in ("auto", *NAMES):
        raise ValueError(f"unknown implementation {name!r}. {nearest(name, ('auto', *NAMES))}")
    begun = _begun(design)
    if begun and name not in ("auto", begun):
        raise ValueError(f"the population was begun with implementation {begun!r}, so {name!r} cannot go on with it")
    sizes = np.unique(design["image_size"].values).tolist() if "image_size" in design else []
    fits = device.type == "cpu" and all(size % 2**cnn.BLOCKS == 0 for size in sizes)
    chosen = begun or name
    if chosen == "auto":
        return "lanes" if fits else "triton" if device.type == "cuda" else "grouped"
    if chosen == "lanes" and not fits:
        raise ValueError(f"implementation 'lanes' needs a CPU and image sizes that divide by 8, not {device}, {sizes}")
    if chosen.startswith("triton") and device.type != "cuda":
        raise ValueError(f"implementation {chosen!r} needs a CUDA device, not {device}. Use 'auto'")
    return chosen


def _begun(design: xr.Dataset) -> str | None:
    known = json.loads(design.attrs.get("implementation", "{}"))
    for name in NAMES:
        if known == described(name):
            return name
    if known:
        raise ValueError(
            f"the population was begun with an implementation that this version does not have: {known}. "
            "Train into another folder"
        )
    return None


def described(name: str) -> dict[str, str]:
    """Say what computes each part, and how equal networks are in any company, for the manifest.

    Examples
    --------
    >>> described("lanes")["convolution"]
    'lanes'
    """
    parts = asdict(STACKED[name]) if name in STACKED else dict.fromkeys(asdict(operators.TRITON), name)
    return {**parts, "equality": EQUALITY.get(name, "exact")}


def threads(name: str, device: torch.device) -> int:
    """Give how many crowds train at once: one per thread that PyTorch would use, or one for the device."""
    return torch.get_num_threads() if name == "lanes" and device.type == "cpu" else 1


def crowd_maker(
    name: str, layout: Layout, batch: int, common: Any, stop: threading.Event
) -> Callable[[], Crowd | Slots]:
    """Give a function that makes an empty crowd of one architecture and batch size; `stop` ends its evaluations."""
    options = frozenset(common.parameters["options"])
    if name == "lanes":
        return lambda: Crowd(layout, batch, common.bank, common.dtype, options, stop)
    return lambda: Slots(layout, batch, common.bank, common.dtype, implementation=STACKED[name], options=options)


def capacity(
    name: str, layout: Layout, row: Mapping[str, Any], crowds: int, networks: int, slots: int | None = None
) -> int:
    """Choose how many networks one crowd trains side by side.

    Parameters
    ----------
    name
        The implementation.
    layout, row
        The architecture, and one of its rows.
    crowds
        Crowds that train at once.
    networks
        How many there are to train.
    slots
        Networks side by side in all crowds together, if somebody wants so many; else as many as suit.

    Returns
    -------
    int
        At least one.
    """
    share = -(-networks // crowds)
    most = plan.LARGEST if name == "lanes" else share
    if slots:
        return min(-(-slots // crowds), share, most)
    if name == "lanes":
        return measured_lanes(layout, row["image_size"], row["batch_size"], min(plan.lanes_for(share), most))
    channels = max(layout.tensors[0].shape[0], 3)
    bytes_per_network = 4 * row["batch_size"] * row["image_size"] ** 2 * channels
    if name.startswith("triton"):
        return min(share, max(16, min(1024, 2**33 // (20 * bytes_per_network))))
    # Two cores reached 160 to 185 GFLOP/s when the largest feature maps took 16 MiB, 38 when they took 64.
    return min(share, max(4, min(64, 2**24 // bytes_per_network)))


def measured_lanes(layout: Layout, size: int, batch: int, most: int) -> int:
    """Find the number of networks in a crowd that trains the most images per second on one core.

    Parameters
    ----------
    layout, size, batch
        The architecture, the side of its images, the batch size.
    most
        A power of two, at most 16.

    Returns
    -------
    int
        A power of two up to `most`. Found by a few steps on empty images, then remembered for this processor.
    """
    counts = [1 << k for k in range(most.bit_length())]
    if len(counts) == 1:
        return 1
    key = f"{processor()} {arithmetic.SOURCES[:8]} {layout.name} {batch}"
    with _lock:
        known = _remembered()
        rates = known.get(key, {})
        missing = [m for m in counts if str(m) not in rates]
        if missing:
            rates |= {str(m): _rate(layout, size, batch, m) for m in missing}
            _remember(known | {key: rates})
    return max(counts, key=lambda m: rates[str(m)])


def _rate(layout: Layout, size: int, batch: int, m: int) -> float:
    """Measure images per second of one core; 0 for a crowd whose buffers are too large to be worth it."""
    if m > 1 and plan.workspace_bytes(layout, size, batch, m, np.dtype("float32")) > SEARCHED:
        return 0.0
    try:
        state = plan.state(layout, size, batch, m, np.dtype("float32"))
    except MemoryError:
        return 0.0
    state.present[0] = True
    state.weights[:] = 0.01
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        program.learn(state, batch)
        best = max(best, m * batch / (time.perf_counter() - start))
    return best


def _memory() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "nwslib" / "lanes.json"


def _remembered() -> dict[str, dict[str, float]]:
    """Read what was measured before; nothing where the file cannot be read or holds something else."""
    try:
        known = json.loads(_memory().read_text())
        return {key: {m: float(rate) for m, rate in rates.items()} for key, rates in known.items()}
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError):
        return {}


def _remember(known: dict[str, dict[str, float]]) -> None:
    """Write the file whole or not at all; a machine without a place for it measures again."""
    try:
        _memory().parent.mkdir(parents=True, exist_ok=True)
        draft = _memory().with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(known))
        draft.replace(_memory())
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        pass
