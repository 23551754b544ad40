"""Finished networks on their way to the disk, in the background of whatever makes them."""

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
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

MEMORY = 1 << 29  # bytes of networks that wait to be written
_MANIFEST_SHARE = 0.05  # of the time may go into writing the manifest


class Writer:
    """Writes networks to a folder in a thread of its own, to be used in a ``with`` statement.

    A network whose shard is complete goes into the shard at once; the others are written as parts when the oldest has
    waited for `seconds`, or together they take more than `MEMORY`. At the end all parts go into shards. If the block
    ends with an error, everything handed over before is written, as parts.

    Parameters
    ----------
    contents
        Of the folder, of which this is the only writer.
    seconds
        How long a network may wait in memory; 0: it is on the disk when `put` returns.
    """

    def __init__(self, contents: Contents, seconds: float) -> None:
        self.written = 0
        self._seconds = seconds
        self._shelf = _Shelf(contents, seconds)
        self._waiting: deque[xr.Dataset] = deque()
        self._bytes = 0  # of what waits, here or on the shelf
        self._changed = threading.Condition()
        self._ending = self._failed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="snapshots writer", daemon=True)

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
        with self._changed:
            self._waiting.append(network)
            self._bytes += network.nbytes
            self._changed.notify_all()
            limit = MEMORY if self._seconds else 0
            self._changed.wait_for(lambda: self._error is not None or self._bytes <= limit)
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while self._step():
                pass
            self._shelf.finish(merge=not self._failed)
        except BaseException as error:
            try:
                if isinstance(error, Exception):
                    self._shelf.finish(merge=False)
            except (OSError, ValueError):
                pass  # the first error says why
            finally:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()

    def _step(self) -> bool:
        """Write one network, or commit what has waited long enough; say whether there may be more."""
        with self._changed:
            left = self._shelf.began + self._seconds - time.monotonic()
            self._changed.wait_for(lambda: self._waiting or self._ending, timeout=max(0, min(left, 3600)))
            network = self._waiting.popleft() if self._waiting else None
            ending = self._ending
        if network is not None:
            self.written += self._shelf.add(network)
        full = self._shelf.bytes > MEMORY // 2
        if full or self._shelf.began + self._seconds <= time.monotonic():
            self._shelf.commit()
        with self._changed:
            self._bytes = self._shelf.bytes + sum(network.nbytes for network in self._waiting)
            self._changed.notify_all()
        return network is not None or not ending


class _Shelf:
    """Networks that no shard holds yet, and what is to be done about them."""

    def __init__(self, contents: Contents, seconds: float) -> None:
        self.contents, self.seconds = contents, seconds
        self.held = set(contents.table["id"])
        self.models = set(contents.table["model"])
        self.shards = {key: list(rows) for key, rows in contents.groups("node", "shard").items()}
        self.networks: dict[str, xr.Dataset] = {}  # by file, which is not written yet
        self.replaced: set[str] = set()
        self.began = np.inf  # when the first network came that is not safe yet
        self.bytes = 0
        self.listed = self.cost = 0.0
        self.unlisted = True  # whether the manifest lacks something: a killed writer may have left that

    def add(self, network: xr.Dataset) -> bool:
        """Take a network, unless it is there, and write its shard when that is complete."""
        contents, model = self.contents, network["model"].item()
        if network["id"].item() in self.held:
            return False
        if model in self.models:
            raise ValueError(f"{contents.folder} holds another network as row {model}. Choose another folder")
        if not contents.shared:
            contents.begin(network)
            self.list()
        key = layout_of(network).name, network["shard"].item()
        file = f"parts/{key[0]}.{model:08d}.nc"
        contents.add(network, file)
        self.networks[file] = network
        self.bytes += network.nbytes
        self.unlisted = True
        self.began = min(self.began, time.monotonic())
        self.held.add(network["id"].item())
        self.models.add(model)
        rows = self.shards.setdefault(key, [])
        rows.append(len(contents.table["model"]) - 1)
        if len(rows) % SHARD_ROWS == 0:
            self.merge(*key)
        return True

    def commit(self) -> None:
        """Make everything safe: parts on the disk, and shards in the manifest, unless that was written just now."""
        self.save_parts()
        due = self.listed + self.cost / _MANIFEST_SHARE if self.seconds else 0
        if time.monotonic() >= due and self.contents.shared:
            self.list()
        self.began = due - self.seconds if self.unlisted else np.inf

    def finish(self, *, merge: bool) -> None:
        """Put every part into a shard, or at least every network on the disk."""
        files_of = self.contents.table["file"]
        for key, rows in sorted(self.shards.items()) if merge else ():
            if any(files_of[row].startswith("parts/") for row in rows):
                self.merge(*key)
        self.save_parts()
        if self.unlisted and self.contents.shared:
            self.list()

    def save_parts(self) -> None:
        """Write each network that no shard has taken to a file of its own."""
        for file, network in list(self.networks.items()):
            facts = files.save(network, self.contents.folder / file)
            self.contents.files[file] = facts | {"rows": 1, "node": layout_of(network).name}
            self._drop(file)

    def merge(self, node: str, shard: int) -> None:
        """Put the networks of a shard, wherever they lie, into one file."""
        contents = self.contents
        rows = sorted(self.shards[node, shard], key=contents.table["model"].__getitem__)
        name = f"{node}.{shard:05d}.{len(rows):02d}.nc"
        contents.nodes[node]["created_at"] = now()
        waiting = {str(contents.folder / file): network for file, network in self.networks.items()}
        facts = files.save(assemble(contents, node, rows, _Waiting(waiting)), contents.folder / name)
        self.replaced |= place(contents, rows, name, facts) - self.networks.keys() - {name}
        for file in [file for file in self.networks if file not in contents.table["file"]]:
            self._drop(file)

    def list(self) -> None:
        """Write the manifest; what it no longer lists can go."""
        began = time.monotonic()
        files.write_text(self.contents.folder / MANIFEST, manifest(self.contents))
        self.listed = time.monotonic()
        self.cost = self.listed - began
        self.unlisted = False
        for old in sorted(self.replaced):
            with suppress(FileNotFoundError):
                os.remove(self.contents.folder / old)
        self.replaced.clear()

    def _drop(self, file: str) -> None:
        self.bytes -= self.networks.pop(file).nbytes


class _Waiting:
    """Reads networks that wait in memory, and others from their files."""

    def __init__(self, networks: dict[str, xr.Dataset]) -> None:
        self.networks, self.reader = networks, Reader()

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
