"""Finished networks on their way to the disk, in the background of whatever makes them."""

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from nwslib.snapshots import files
from nwslib.snapshots.contents import MANIFEST, Contents, assemble, manifest
from nwslib.snapshots.lazy import Reader, cut
from nwslib.snapshots.schema import layout_of
from nwslib.space import SHARD_ROWS

_MEMORY = 1 / 16  # of the machine's, for networks that wait
_MANIFEST_TIME = 0.05  # of all time may go into writing the manifest
_BATCH, _PAUSE = 16, 0.01  # networks, or seconds: to wake a thread for each network took as long as to check it
_BEGUN = 3  # files that wait for the disk while the next is written
_COMPANY = 4  # networks that share a new file of their shard, not one each: to make a file takes 13 ms


class Writer:
    """Writes networks to a folder in a thread of its own, to be used in a ``with`` statement.

    A network whose shard is complete goes into the shard at once. Others wait for company until `seconds` are over, or
    the memory that they may take; then they are written, many of one shard into one file, else as parts. At the end
    all parts go into shards. If the block ends with an error, everything handed over before is written, as parts.

    Parameters
    ----------
    contents
        Of the folder, of which this is the only writer.
    seconds
        How long a network may wait in memory; 0: it is on the disk when `put` returns.
    """

    def __init__(self, contents: Contents, seconds: float) -> None:
        self.written = 0
        self._limit = _memory() if seconds else 0
        self._shelf = Shelf(contents, seconds)
        self._queue: deque[tuple[xr.Dataset, int]] = deque()
        self._queued = 0  # bytes
        self._changed = threading.Condition()
        self._ending = self._failed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="snapshots-writer", daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        with self._changed:
            self._ending, self._failed = True, kind is not None
            self._changed.notify_all()
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, network: xr.Dataset) -> None:
        """Hand over one network, checked and in memory; waits while too much waits already.

        Raises
        ------
        OSError, ValueError
            If this network, or one handed over before, could not be written.
        """
        size = sum(network.variables[name].nbytes for name in network.data_vars)
        with self._changed:
            self._queue.append((network, size))
            self._queued += size
            full = self._queued + self._shelf.bytes > self._limit
            if full or len(self._queue) in (1, _BATCH):
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._error is not None or self._queued + self._shelf.bytes <= self._limit)
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            while self._step():
                pass
            if not self._failed:
                self._shelf.merge_parts()
        except BaseException as found:
            error = found
        try:
            if error is None or isinstance(error, Exception):
                self._shelf.rescue()
        except BaseException as found:
            error = error or found
        finally:
            self._shelf.close()
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _step(self) -> bool:
        """Take the networks that have come, and commit what has waited long enough; say whether there may be more."""
        with self._changed:
            left = min(self._shelf.due() - time.monotonic(), threading.TIMEOUT_MAX)
            self._changed.wait_for(lambda: self._queue or self._ending, timeout=max(0, left))
            if self._queue and self._limit:
                self._changed.wait_for(self._enough, timeout=_PAUSE)
            batch, ending = list(self._queue), self._ending
            self._queue.clear()
        for network, size in batch:
            self.written += self._shelf.add(network, size)
            if self._shelf.bytes > self._limit / 2:
                self._shelf.settle(keep=1)
            if self._shelf.idle > self._limit / 2 or self._shelf.due() <= time.monotonic():
                self._shelf.commit()
            with self._changed:
                self._queued -= size
                self._changed.notify_all()
        if self._shelf.due() <= time.monotonic():
            self._shelf.commit()
        elif self._shelf.bytes > self._limit / 2 and not self._queue:
            self._shelf.settle()
            with self._changed:
                self._changed.notify_all()
        return bool(batch) or not ending

    def _enough(self) -> bool:
        return len(self._queue) >= _BATCH or self._ending or self._queued + self._shelf.bytes > self._limit


class Shelf:
    """Networks that are not on the disk yet, and what is to be done about them.

    Parameters
    ----------
    contents
        Of the folder. The manifest is written only when all files that have been begun are on the disk.
    seconds
        How long a network may wait.
    """

    def __init__(self, contents: Contents, seconds: float) -> None:
        self.contents, self.seconds = contents, seconds
        self.held = set(contents.table["id"])
        self.models = set(contents.table["model"])
        self.shards = {key: list(rows) for key, rows in contents.groups("node", "shard").items()}
        self.waiting: dict[tuple[str, int], list[int]] = {}  # rows that no file has been begun for, by shard
        self.networks: dict[int, tuple[xr.Dataset, int]] = {}  # in memory, with their bytes, by row
        self.bytes = self.idle = 0  # of all networks in memory, and of those that wait
        self.oldest = np.inf  # when the first of those that wait came
        self.disk = ThreadPoolExecutor(1)  # waits for the disk while the next file is written
        self.begun: deque[tuple[Future, tuple[str, int], list[int], str]] = deque()
        self.replaced: set[str] = set()
        self.unlisted = False  # whether there is something that the manifest does not tell
        self.listed = self.cost = 0.0

    def due(self) -> float:
        """Give the time by which something is to be made safe, or listed."""
        pause = max(self.seconds, self.cost / _MANIFEST_TIME) if self.seconds else 0
        return min(self.oldest + self.seconds, self.listed + pause if self.unlisted else np.inf)

    def add(self, network: xr.Dataset, size: int) -> bool:
        """Take a network, unless it is there, and write its shard when that is complete."""
        contents, model = self.contents, network.variables["model"].item()
        if network.variables["id"].item() in self.held:
            return False
        if model in self.models:
            raise ValueError(f"{contents.folder} holds another network as row {model}. Choose another folder")
        if not contents.shared:
            contents.begin(network)
            self.write_manifest()
        key, row = (layout_of(network).name, network.variables["shard"].item()), len(contents.table["model"])
        contents.add(network, f"parts/{key[0]}.{model:08d}.nc")
        self.held.add(network.variables["id"].item())
        self.models.add(model)
        self.networks[row] = network, size
        self.bytes += size
        self.idle += size
        self.oldest = min(self.oldest, time.monotonic())
        self.waiting.setdefault(key, []).append(row)
        self.shards.setdefault(key, []).append(row)
        if len(self.shards[key]) % SHARD_ROWS == 0:
            self.merge(key)
        return True

    def commit(self) -> None:
        """Put everything on the disk, and into the manifest unless that was written just now."""
        for key, rows in list(self.waiting.items()):
            # A file that is written anew only when it doubles is written twice in all.
            if len(rows) >= max(_COMPANY, len(self.shards[key]) / 2):
                self.merge(key)
        self.save_parts()
        self.write_manifest_if_due()

    def merge_parts(self) -> None:
        """Put every part into a shard."""
        self.settle()
        for key, rows in sorted(self.shards.items()):
            if any(self.contents.table["file"][row].startswith("parts/") for row in rows):
                self.merge(key)

    def rescue(self) -> None:
        """Get everything safe and listed, as far as possible after an error."""
        while self.begun:
            with suppress(OSError):
                self.settle()
        for row in self.networks:  # those of a file that could not be written
            key = self.contents.table["node"][row], self.contents.table["shard"][row]
            if row not in self.waiting.setdefault(key, []):
                self.waiting[key].append(row)
        self.save_parts()
        self.settle()
        if self.unlisted:
            self.write_manifest()

    def merge(self, key: tuple[str, int]) -> None:
        """Put the networks of a shard, wherever they lie, into one file."""
        # The next file is written while the last one waits for the disk; but a shard's own files come one by one.
        self.settle(keep=0 if key in [begun for _, begun, _, _ in self.begun] else _BEGUN)
        contents, (node, shard) = self.contents, key
        rows = sorted(self.shards[key], key=contents.table["model"].__getitem__)
        contents.nodes[node]["created_at"] = now()
        path = {row: str(contents.folder / contents.table["file"][row]) for row in rows if row in self.networks}
        reader = _Waiting({path[row]: self.networks[row][0] for row in path})
        self.begin(key, assemble(contents, node, rows, reader), rows, f"{node}.{shard:05d}.{len(rows):02d}.nc")

    def save_parts(self) -> None:
        """Write each network that waits to a file of its own."""
        for key, rows in list(self.waiting.items()):
            for row in list(rows):
                self.begin(key, self.networks[row][0], [row], self.contents.table["file"][row])

    def begin(self, key: tuple[str, int], dataset: xr.Dataset, rows: list[int], name: str, **form: Any) -> None:
        """Write a file, and have somebody else wait for the disk."""
        finish = files.begin(dataset, self.contents.folder / name, **form)
        self.begun.append((self.disk.submit(finish), key, rows, name))
        waiting = self.waiting.pop(key, [])
        if left := [row for row in waiting if row not in rows]:
            self.waiting[key] = left
        self.idle -= sum(self.networks[row][1] for row in waiting if row not in left)
        self.oldest = self.oldest if self.waiting else np.inf
        self.unlisted = True

    def settle(self, keep: int = 0) -> None:
        """Wait until all but some of the files that were begun are on the disk, and let their networks go."""
        while len(self.begun) > keep:
            future, _, rows, name = self.begun.popleft()
            facts = future.result()
            parts = {self.contents.table["file"][row] for row in rows if row in self.networks}
            self.replaced |= place(self.contents, rows, name, facts) - parts - {name}
            for row in rows:
                self.bytes -= self.networks.pop(row, (None, 0))[1]

    def close(self) -> None:
        """Wait until no file is being written any more, whatever has become of it."""
        self.disk.shutdown()

    def write_manifest_if_due(self) -> None:
        """Wait for all files, and write the manifest unless that was done just now."""
        self.settle()
        if self.due() <= time.monotonic():
            self.write_manifest()

    def write_manifest(self) -> None:
        """Write the manifest, and remove what it no longer lists."""
        began = time.monotonic()
        files.write_text(self.contents.folder / MANIFEST, manifest(self.contents))
        self.listed = time.monotonic()
        self.cost = self.listed - began
        self.unlisted = False
        for old in sorted(self.replaced):
            with suppress(FileNotFoundError):
                os.remove(self.contents.folder / old)
        self.replaced.clear()


class _Waiting:
    """Reads networks that wait in memory, and others from their files."""

    def __init__(self, networks: dict[str, xr.Dataset]) -> None:
        self.networks, self.reader = networks, Reader()

    def whole(self, path: str, name: str) -> np.ndarray | None:
        """Give a variable of a file, as `Reader.whole`."""
        return self.networks[path].variables[name].values if path in self.networks else self.reader.whole(path, name)

    def view(self, path: str, name: str, row: int) -> np.ndarray | None:
        """Give one network's part of a variable, as `Reader.view`."""
        if path in self.networks:
            return self.networks[path].variables[name].values[0]
        return self.reader.view(path, name, row)

    def read(self, path: str, name: str, row: int, key: list, length: int) -> np.ndarray:
        """Read some of one network's part of a variable, as `Reader.read`."""
        if path in self.networks:
            return cut(self.view(path, name, row), key, length)
        return self.reader.read(path, name, row, key, length)


def place(contents: Contents, rows: Sequence[int], name: str, facts: dict[str, Any]) -> set[str]:
    """Say that some networks of one architecture lie in one file; give the files where they lay before."""
    before = {contents.table["file"][row] for row in rows}
    for row in rows:
        contents.table["file"][row] = name
    contents.files[name] = facts | {"rows": len(rows), "node": contents.table["node"][rows[0]]}
    for old in before - {name}:
        contents.files.pop(old, None)
    return before


def now() -> str:
    """Give the time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _memory() -> float:
    """Give how many bytes may wait to be written."""
    try:
        return _MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return float(1 << 28)
