"""The pipeline that feeding is measured against: a Dataset and a DataLoader over memory maps of our shards.

Each worker opens the maps it needs, once. The main process draws which runs are read, so that workers may persist from
epoch to epoch and every way gets the same runs.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from nwslib.meta import Runs

Pairs = tuple[torch.Tensor, torch.Tensor]  # rows and starts, (n,) each, as `Runs` numbers them


class ShardRuns(Dataset):
    """Runs of weights, each cut and labelled by itself: as PyTorch's own documentation has it.

    It does nothing twice: places are looked up before, maps stay open, a run is a view of its file. It is copied once,
    where the loader puts a batch together; workers do that where the main process reads it.

    Parameters
    ----------
    folder
        A population in the working form.
    view
        Which rows there are: only its table is read, none of its weights.
    targets
        One label per row, (rows,).
    """

    def __init__(self, folder: Path, view: Runs, targets: torch.Tensor) -> None:
        places = _places(folder)
        found = [places[identity] for identity in view.networks.column("id").tolist()]
        snapshots = np.array(view.snapshots) - 1
        self.files = [path for path, _, _ in found for _ in snapshots]
        self.begins = np.concatenate([first + snapshots * weights for _, first, weights in found]).tolist()
        self.targets, self.length = targets.tolist(), view.length
        self.open = None

    def cut(self, row: int, start: int) -> np.ndarray:
        """Give one run as a view of its file."""
        if self.open is None:
            self.open = cache(_mapped)  # here, and not above: workers are to open their own
        begin = self.begins[row] + start
        return self.open(self.files[row])[begin : begin + self.length]

    def __getitem__(self, pair: tuple[int, int]) -> tuple[torch.Tensor, int]:
        """Give a run (length,) and its label."""
        return torch.from_numpy(self.cut(*pair)), self.targets[pair[0]]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"open": None}


class ShardBatches(ShardRuns):
    """The same, a whole batch per call, into memory taken for it: half of what our own feeding does."""

    def __getitem__(self, pairs: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give runs (b, length) and their labels (b,)."""
        batch = torch.empty(len(pairs), self.length)
        if get_worker_info() is not None:
            batch.share_memory_()  # written where the main process reads it
        rows = batch.numpy()
        for place, pair in enumerate(pairs):
            rows[place] = self.cut(*pair)
        return batch, torch.tensor([self.targets[row] for row, _ in pairs])


class Epoch:
    """The runs of one epoch, named anew for every one; a sampler of batches."""

    def __init__(self, batch: int) -> None:
        self.batch, self.pairs = batch, []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Give the pairs of each batch."""
        for begin in range(0, len(self.pairs), self.batch):
            yield self.pairs[begin : begin + self.batch]

    def __len__(self) -> int:
        return -(-len(self.pairs) // self.batch)


class Pipeline:
    """A DataLoader over runs that are named anew for every epoch; its workers end as soon as it is let go.

    Parameters
    ----------
    dataset
        `ShardRuns`, or `ShardBatches` for a batch per call.
    batch
        Runs in a batch.
    workers
        Processes that read, 0 for none.
    device
        Where batches are wanted; they go there through pinned memory.
    """

    def __init__(self, dataset: ShardRuns, batch: int, workers: int, device: torch.device) -> None:
        # An epoch of its own: a sampler that knew the loader would keep its workers alive until garbage is collected,
        # which takes seconds and would be somebody else's.
        self.device, self.epoch = device, Epoch(batch)
        options = {"num_workers": workers, "pin_memory": device.type == "cuda"}
        options |= {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
        if isinstance(dataset, ShardBatches):
            options |= {"sampler": self.epoch, "batch_size": None}
        else:
            options |= {"batch_sampler": self.epoch}
        self.loader = DataLoader(dataset, **options)

    def feed(self, pairs: Pairs) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Give runs (b, length) and labels (b,), batch by batch, on the device."""
        self.epoch.pairs = list(zip(*(values.tolist() for values in pairs), strict=True))
        for runs, targets in self.loader:
            yield runs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)


def _mapped(path: Path) -> np.ndarray:
    """Map the weights of a file as one vector."""
    with h5py.File(path) as file:
        weights = file["weights"]
        offset, size = weights.id.get_offset(), weights.size
    # Private, as torch takes no array that can't be written to; a plain array is cut four times faster than the map.
    return np.asarray(np.memmap(path, "<f4", "c", offset, (size,)))


def _places(folder: Path) -> dict[str, tuple[Path, int, int]]:
    """Say for each network, by its id, in which file it is, at which number it begins, and how many weights it has."""
    places = {}
    for path in sorted(folder.rglob("*.nc")):
        with h5py.File(path) as file:
            names = [b"".join(letters).decode() for letters in file["id"]]
            _, snapshots, weights = file["weights"].shape
        places |= {name: (path, number * snapshots * weights, weights) for number, name in enumerate(names)}
    return places
