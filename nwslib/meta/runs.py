"""Runs of consecutive weights, cut from many networks at once, on the device or straight from the files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import psutil
import torch
import xarray as xr

from nwslib.meta.views import Networks, blocks, readable, select
from nwslib.snapshots import take_runs
from nwslib.space import nearest

RESIDENT = ("auto", "always", "never")

_SHARE = 0.5  # of the device's free memory that weights may take


class Runs(Protocol):
    """Runs of the selected weights of many snapshots.

    One row is one snapshot of one network; row = network * number of snapshots + snapshot.

    Attributes
    ----------
    room
        At how many places of each row a run can start, int64, on the CPU: no run leaves its row.
    length
        Weights in a run.
    networks
        The networks, in the order of the rows.
    snapshots
        The snapshots of each.
    device
        Where runs are given.
    """

    room: torch.Tensor
    length: int
    networks: Networks
    snapshots: tuple[int, ...]
    device: torch.device

    def gather(self, rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Cut one run from each of some rows (b,), each starting at less than its `room`: (b, length)."""


@dataclass(frozen=True)
class ResidentRuns:
    """Runs cut from weights that lie on the device, in one gather; attributes as `Runs`.

    Attributes
    ----------
    weights
        Selected weights of all rows, one after the other, float32, shape (sum over rows of w,).
    offset
        Where each row begins, int64, on the device.
    """

    weights: torch.Tensor
    offset: torch.Tensor
    room: torch.Tensor
    length: int
    networks: Networks
    snapshots: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.device

    def gather(self, rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Cut one run from each of some rows.

        Parameters
        ----------
        rows
            Which rows, int64, shape (b,).
        starts
            Where in its row each run starts, less than its `room`, shape (b,).

        Returns
        -------
        torch.Tensor
            Shape (b, length), on the device.
        """
        places = self.offset[rows.to(self.device)] + starts.to(self.device)
        # Rows of an overlapping view: 10 to 20 times faster on a CPU than an index for every weight, and no such index.
        return self.weights.unfold(0, self.length, 1).index_select(0, places)


@dataclass(frozen=True)
class StreamedRuns:
    """Runs read from the files when they are asked for, for populations larger than memory; attributes as `Runs`.

    Attributes
    ----------
    node, place
        Of each network, the number of its architecture, and its position there, int64, shape (m,).
    first
        For each architecture, where in the vector the selection begins.
    moments
        Positions along ``snapshot`` of the snapshots, by architecture.
    variable
        ``"weights"`` or ``"updates"``.
    """

    node: np.ndarray
    place: np.ndarray
    first: tuple[int, ...]
    moments: tuple[np.ndarray, ...]
    variable: str
    room: torch.Tensor
    length: int
    networks: Networks
    snapshots: tuple[int, ...]
    device: torch.device

    def gather(self, rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Read one run from each of some rows; as `ResidentRuns.gather`."""
        network, moment = np.divmod(rows.cpu().numpy(), len(self.snapshots))
        starts = starts.cpu().numpy()
        present = np.unique(self.node[network]).tolist()
        if len(present) == 1:
            return torch.from_numpy(self._taken(present[0], network, moment, starts)).to(self.device)
        runs = torch.empty(len(rows), self.length)
        for number in present:
            some = np.flatnonzero(self.node[network] == number)
            found = self._taken(number, network[some], moment[some], starts[some])
            runs[torch.from_numpy(some)] = torch.from_numpy(found)
        return runs.to(self.device)

    def _taken(self, number: int, network: np.ndarray, moment: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Read runs of networks of one architecture."""
        where = (self.place[network], self.moments[number][moment], self.first[number] + starts)
        return take_runs(self.networks.nodes[number], *where, self.length, self.variable)


def random_starts(view: Runs, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw where runs start, each place of a row equally likely; rows and result on the CPU, shape (b,)."""
    draws = torch.rand(len(rows), dtype=torch.float64, generator=generator)
    return (draws * view.room[rows]).long()


def spaced_starts(view: Runs, rows: torch.Tensor, runs: int) -> torch.Tensor:
    """Space runs evenly, the first at the start and the last at the end of each row; CPU, shape (b, runs)."""
    fractions = torch.linspace(0, 1, runs, dtype=torch.float64) if runs > 1 else torch.tensor([0.5]).double()
    return (fractions * (view.room[rows, None] - 1)).round().long()


def runs_view(
    population: xr.Dataset | xr.DataTree,
    length: int | None,
    *,
    split: str | None = None,
    snapshots: int | Sequence[int] = 20,
    part: str = "all",
    kinds: str = "all",
    variable: str = "weights",
    permuted: bool = False,
    min_test_accuracy: float = 0.0,
    device: str | torch.device = "cpu",
    resident: str = "auto",
) -> Runs:
    """Make the selected weights ready to be cut into runs.

    Parameters
    ----------
    population
        A population or one node of it.
    length
        Weights in a run; networks with fewer in the selection are left out and counted. None: the whole selection,
        which must be as long in all networks.
    split, min_test_accuracy
        Which networks, as in `nwslib.meta.readable`.
    snapshots
        Which snapshots of each.
    part, kinds
        The selection of weights, as in `nwslib.meta.select`; a run never leaves it, and never joins two networks.
    variable, permuted
        As in `nwslib.meta.statistics_view`.
    device
        Where runs are to be.
    resident
        ``"always"``: the weights lie on the device and take four bytes each; ``"never"``: each run is read from the
        files, which needs a selection without gaps; ``"auto"``: the latter only where the device's free memory does
        not suffice.

    Returns
    -------
    Runs
        One row per network and snapshot.

    Raises
    ------
    ValueError
        If an argument is unknown, no network is long enough, or the selection cannot be read from the files.
    """
    if length is not None and length < 1:
        raise ValueError(f"a run needs at least 1 weight, not {length}")
    if resident not in RESIDENT:
        raise ValueError(f"unknown resident {resident!r}. {nearest(resident, RESIDENT)}")
    chosen = readable(
        population, split, length=length or 1, part=part, kinds=kinds, min_test_accuracy=min_test_accuracy
    )
    numbers = tuple(int(number) for number in np.atleast_1d(snapshots))
    selections = [
        select(node, part, kinds) if len(positions) else np.arange(0)
        for node, positions in zip(chosen.nodes, chosen.positions, strict=True)
    ]
    counts = [len(positions) * len(numbers) for positions in chosen.positions]
    sizes = torch.tensor(np.repeat([len(selection) for selection in selections], counts))
    if length is None and len(sizes.unique()) > 1:
        raise ValueError("the whole vector needs networks of one length: choose an architecture, or a run's length")
    length = int(sizes[0]) if length is None else length
    about = {"room": sizes - length + 1, "length": length, "networks": chosen, "snapshots": numbers}
    device = torch.device(device)
    if resident == "never" or (resident == "auto" and 4 * int(sizes.sum()) > _SHARE * _free_memory(device)):
        return _streamed(chosen, selections, numbers, variable, permuted, device, about)
    weights = _loaded(chosen, selections, numbers, int(sizes.sum()), device, variable=variable, permuted=permuted)
    return ResidentRuns(weights, (sizes.cumsum(0) - sizes).to(device), **about)


def _loaded(
    chosen: Networks, selections: list[np.ndarray], numbers: tuple[int, ...], size: int, device: torch.device, **source
) -> torch.Tensor:
    """Load the selected weights of all rows, one after the other."""
    weights = _empty(size, device)
    end = 0
    for node, positions, selection in zip(chosen.nodes, chosen.positions, selections, strict=True):
        shape = (len(positions), len(numbers), len(selection))
        start, end = end, end + int(np.prod(shape))
        target = weights[start:end].view(shape)
        for place, number in enumerate(numbers if len(positions) else ()):
            for rows, block in blocks(node, positions, number, selection, **source):
                target[rows, place] = torch.from_numpy(block).to(device)
    return weights


def _empty(size: int, device: torch.device) -> torch.Tensor:
    """Take memory for weights."""
    if device.type != "cpu":
        return torch.empty(size, device=device)
    # numpy asks the system for large pages, torch does not: a tenth to a third less time for a run at a random place.
    memory = np.empty(size + 16, "float32")
    begin = -memory.ctypes.data % 64 // 4  # aligned as torch's own, on which the last bit of a product may depend
    return torch.from_numpy(memory[begin : begin + size])


def _streamed(
    chosen: Networks,
    selections: list[np.ndarray],
    numbers: tuple[int, ...],
    variable: str,
    permuted: bool,
    device: torch.device,
    about: dict,
) -> StreamedRuns:
    if permuted or any(len(one) and one[-1] - one[0] + 1 != len(one) for one in selections):
        raise ValueError(
            "runs can be read from the files only from a selection without gaps, and not permuted: kinds='all'"
        )
    moments = []
    for node, positions in zip(chosen.nodes, chosen.positions, strict=True):
        known = node["snapshot"].values.tolist()
        unknown = [number for number in numbers if number not in known] if len(positions) else []
        if unknown:
            raise ValueError(f"there is no snapshot {unknown[0]!r}. {nearest(unknown[0], known)}")
        moments.append(np.array([known.index(number) for number in numbers if number in known]))
    return StreamedRuns(
        node=np.repeat(np.arange(len(chosen.nodes)), [len(positions) for positions in chosen.positions]),
        place=np.concatenate(chosen.positions),
        first=tuple(int(selection[0]) if len(selection) else 0 for selection in selections),
        moments=tuple(moments),
        variable=variable,
        device=device,
        **about,
    )


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
