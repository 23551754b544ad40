"""The loop that trains networks side by side: slots that refill, exports, evaluations, and a thread for each core."""

import json
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import IO, Any

import numpy as np
import torch
import xarray as xr

from nwslib import __version__, space
from nwslib.population import implementations
from nwslib.population import progress as status_line
from nwslib.population.device import describe
from nwslib.population.networks import cnn
from nwslib.population.slots import Bank, Member, Sent, Stopped, member
from nwslib.population.stopping import Stopping
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import SCHEMA_VERSION, SNAPSHOTS

CURVES = ("train_accuracy", "valid_accuracy", "test_accuracy", "train_loss")

#: Finished networks that wait for their reader, per thread, before training waits for it.
WAITING = 16


@dataclass(frozen=True)
class Common:
    """What all networks of a training share."""

    bank: Bank
    dtype: torch.dtype
    max_epochs: int
    parameters: dict[str, Any]
    implementation: str
    identity: Callable[[Mapping[str, Any]], str]
    protocol: str


@dataclass
class Watch:
    """What the status line needs to know."""

    networks: int
    max_epochs: int
    shown: bool
    started: float = field(default_factory=time.monotonic)
    evaluations: int = 0
    accuracies: list[float] = field(default_factory=list)
    owner: int = field(default_factory=threading.get_ident)

    def report(self) -> None:
        """Show how far the training is; one thread alone writes the line."""
        if self.shown and threading.get_ident() == self.owner:
            status_line.report(self.line(time.monotonic() - self.started))

    def end(self) -> None:
        """Clear the line."""
        if self.shown:
            status_line.report("")

    def line(self, seconds: float) -> str:
        """Say how far the training is after so many seconds."""
        share = max(self.evaluations, 1) / (self.networks * self.max_epochs)
        words = [f"{len(self.accuracies)} of {self.networks} networks"]
        words.append(f"{3600 * share * self.networks / seconds:,.0f} per hour")
        words.append(f"at most {status_line.duration(seconds * (1 - share) / share)} to go")
        if self.accuracies:
            words.append(f"test accuracy up to {max(self.accuracies):.0%}, median {median(self.accuracies):.0%}")
        return ", ".join(words)


@dataclass
class Record:
    """What is kept of a network in training: its row, its curves, and every export, on disk.

    An export is a weight vector, followed by the update that led to it where updates are kept.
    """

    row: Mapping[str, Any]
    exports: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    stopping: Stopping = field(default_factory=Stopping)
    curves: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CURVES})
    started: float = field(default_factory=time.monotonic)
    status: str = ""
    reason: str = ""
    before: Sent | None = None  # its weights before the last step of an epoch

    def close(self) -> None:
        """Remove the exports."""
        with suppress(OSError):  # on a full disk, what is still to be written
            self.exports.close()

    def export(self, vector: np.ndarray) -> None:
        """Keep a weight vector or an update, float32."""
        try:
            self.exports.write(vector.tobytes())
            self.exports.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"could not keep the exports of a network in training in {tempfile.gettempdir()} ({error.strerror}). "
                "Make room there, or name another folder in TMPDIR, and start again",
            ) from error

    def export_update(self, after: Sent) -> None:
        """Keep what the last step changed; zeros before there was any."""
        self.export(after.minus(self.before or after))
        self.before = None


def train_rows(every: list[dict[str, Any]], slots: int | None, common: Common, watch: Watch) -> Iterator[xr.Dataset]:
    """Train networks and yield each when it has finished.

    Parameters
    ----------
    every
        Rows of the design.
    slots
        Networks side by side on the device; by default as many as suit each architecture.
    common, watch
        What they share; what the status line needs to know.

    Yields
    ------
    xarray.Dataset
        One network.
    """
    groups: dict[tuple, deque[dict[str, Any]]] = {}
    for row in every:
        shape = tuple(row[name] for name in (*space.ARCHITECTURE, "batch_size"))
        groups.setdefault(shape, deque()).append(row)
    # The longest first, so that no core ends alone with it; and the batch sizes of an architecture follow one another.
    waiting = sorted(map(_sorted, groups.values()), key=lambda group: -_operations(group[0]))
    threads = implementations.threads(common.implementation, common.bank.images.device)
    if slots:
        threads = min(threads, slots)
    try:
        if threads == 1:
            yield from _train_groups(waiting, 1, slots, common, watch, threading.Event())
        else:
            yield from _side_by_side(waiting, threads, slots, common, watch)
    finally:
        watch.end()


def _layout(row: Mapping[str, Any]) -> Layout:
    return cnn.layout(**{name: row[name] for name in space.ARCHITECTURE if name != "family"})


def _operations(row: Mapping[str, Any]) -> int:
    return cnn.operations(_layout(row), row["image_size"])


def _sorted(group: deque[dict[str, Any]]) -> deque[dict[str, Any]]:
    """Bring networks of one activation and one image set together: they share loops and end their epochs together."""
    return deque(sorted(group, key=lambda row: (row["activation"], row["dataset"], row["augmentation"])))


def _side_by_side(
    waiting: list[deque], threads: int, slots: int | None, common: Common, watch: Watch
) -> Iterator[xr.Dataset]:
    """Let each thread train a crowd of its own; the reader of the results works meanwhile."""
    results: queue.Queue = queue.Queue(WAITING * threads)
    stop = threading.Event()

    def work() -> None:
        try:
            for finished in _train_groups(waiting, threads, slots, common, watch, stop):
                _hand_over(results, finished, stop)
        except Stopped:
            pass
        except MemoryError:
            pass  # other crowds need it; what was put back waits for them, or for the end
        except BaseException as error:
            _hand_over(results, error, stop)
        _hand_over(results, None, stop)

    workers = [threading.Thread(target=work, daemon=True, name=f"nws-{k}") for k in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield from _received(results, threads, watch)
        yield from _train_groups(waiting, 1, slots, common, watch, stop)
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def _hand_over(results: queue.Queue, item: object, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            return results.put(item, timeout=0.2)
        except queue.Full:
            continue


def _received(results: queue.Queue, threads: int, watch: Watch) -> Iterator[xr.Dataset]:
    while threads:
        try:
            item = results.get(timeout=0.5)
        except queue.Empty:
            watch.report()
            continue
        if isinstance(item, BaseException):
            raise item
        if item is None:
            threads -= 1
        else:
            yield item
            watch.report()


def _train_groups(
    waiting: list[deque], threads: int, slots: int | None, common: Common, watch: Watch, stop: threading.Event
) -> Iterator[xr.Dataset]:
    """Train what waits, group after group; several threads may take from the same groups."""
    for group in waiting:
        while group and not stop.is_set():
            yield from _train_crowd(group, threads, slots, common, watch, stop)


def _train_crowd(
    group: deque, threads: int, slots: int | None, common: Common, watch: Watch, stop: threading.Event
) -> Iterator[xr.Dataset]:
    """Train networks of one architecture and batch size until none waits; out of memory, train fewer side by side."""
    try:
        row = group[0]
    except IndexError:  # another thread took the last one
        return
    layout = _layout(row)
    make = implementations.crowd_maker(common.implementation, layout, row["batch_size"], common, stop)
    capacity = implementations.capacity(common.implementation, layout, row, threads, max(1, len(group)), slots)
    while True:
        held: dict[int, Record] = {}
        crowd = make()
        try:
            return (yield from _train_until_empty(crowd, group, held, capacity, layout, common, watch, stop))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            group.extendleft(record.row for record in reversed(held.values()))
            watch.evaluations -= sum(len(record.curves["test_accuracy"]) for record in held.values())
            capacity = _halved(capacity, layout, error)
        finally:
            for record in held.values():
                record.close()


def out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory ran out; on a CPU, PyTorch says so in words only."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _halved(capacity: int, layout: Layout, error: Exception) -> int:
    if capacity == 1:
        raise MemoryError(f"not enough memory for a single network of {layout.size:,} weights: {error}") from error
    return capacity // 2


def _train_until_empty(
    crowd: Any, group: deque, held: dict, capacity: int, layout: Layout, common: Common, watch: Watch, stop: Any
) -> Iterator[xr.Dataset]:
    """Fill free slots, evaluate what is due, yield what has finished, step; until none is left."""
    while not stop.is_set():
        staying = [one for one in crowd.members if one.row["model"] in held]
        joining = _taken(group, held, capacity - len(staying), common)
        if not held:
            return
        if joining or len(staying) < len(crowd.members):
            crowd.arrange(staying + joining)
        finished = _evaluate_due(crowd, held, common.max_epochs, watch)
        for one in finished:
            result = _result(one, held[one.row["model"]], layout, common)
            held.pop(one.row["model"]).close()
            yield result
        if not finished:
            _advance(crowd, held)


def _taken(group: deque, held: dict[int, Record], count: int, common: Common) -> list[Member]:
    """Take rows from the front into `held`; another thread may take the last one first."""
    taken = []
    for _ in range(count):
        try:
            row = group.popleft()
        except IndexError:
            break
        held[row["model"]] = Record(row)
        taken.append(member(row, common.bank, "updates" in common.parameters))
    return taken


def _advance(crowd: Any, records: dict[int, Record]) -> None:
    for place, one in enumerate(crowd.members):
        if one.step == 0:
            crowd.start_epoch(place)
    _look_before_the_last_step(crowd, records)
    crowd.advance()


def _look_before_the_last_step(crowd: Any, records: dict[int, Record]) -> None:
    """Remember the weights of each network whose coming step ends its epoch, where updates are kept."""
    last = [place for place, one in enumerate(crowd.members) if one.updates and one.step + 1 == one.steps_per_epoch]
    if last:
        sent = crowd.send(last)
        for k, place in enumerate(last):
            records[crowd.members[place].row["model"]].before = sent[k]


def _evaluate_due(crowd: Any, records: dict[int, Record], max_epochs: int, watch: Watch) -> list[Member]:
    """Evaluate and export each network that stands at the start of an epoch; give those that stop here.

    Whose switch is due changes course now: what was measured still belongs to the old one.
    """
    due = [place for place, one in enumerate(crowd.members) if one.step == 0 and one.evaluations == one.epoch]
    if not due:
        return []
    sent = crowd.send(due)  # on its way to the host while the device evaluates
    valid, test = crowd.evaluate(due)
    vectors, sums = sent.numpy(), crowd.sums(due)
    finished = []
    for k, place in enumerate(due):
        one = crowd.members[place]
        record = records[one.row["model"]]
        _note(record, one, crowd.batch, *sums[k], valid[k], test[k])
        record.export(vectors[k])
        if one.updates:
            record.export_update(sent[k])
        one.evaluations += 1
        _decide(record, one, np.isfinite(vectors[k]).all(), max_epochs)
        if record.status:
            finished.append(one)
            watch.accuracies.append(test[k])
        watch.evaluations += max_epochs - one.evaluations + 1 if record.status else 1
    turning = [place for place in due if crowd.members[place].changes]
    if turning:
        crowd.switch(turning)
    watch.report()
    return finished


def _note(record: Record, one: Member, batch: int, right: int, losses: float, valid: float, test: float) -> None:
    steps = one.steps_per_epoch
    train, loss = (right / (steps * batch), losses / steps) if one.epoch > 0 else (np.nan, np.nan)
    for name, value in zip(CURVES, (train, valid, test, loss), strict=True):
        record.curves[name].append(value)


def _decide(record: Record, one: Member, finite: bool, max_epochs: int) -> None:
    rule = record.stopping.update(record.curves["valid_accuracy"][-1])
    if not finite:
        record.status, record.reason = "diverged", f"a weight was not finite after {one.epoch} epochs"
    elif rule:
        record.status, record.reason = "converged", rule
    elif one.evaluations >= max_epochs:
        record.status, record.reason = "stopped", f"limit of {max_epochs} evaluations"


def _result(one: Member, record: Record, layout: Layout, common: Common) -> xr.Dataset:
    """Label a finished network: twenty of its exports, its curves and its row."""
    kept = np.round(np.linspace(1, one.evaluations, SNAPSHOTS)).astype("int64") - 1
    curves = {name: np.array(values, dtype="float32") for name, values in record.curves.items()}
    apart = 1 + one.updates  # vectors from one export to the next
    vectors = {"weights": kept * apart} | ({"updates": kept * apart + 1} if one.updates else {})
    data = {
        name: (("model", "snapshot", "weight"), _read(record.exports, places, layout.size)[None])
        for name, places in vectors.items()
    }
    data |= {name: (("model", "snapshot"), values[kept][None]) for name, values in curves.items()}
    data["epoch"] = (("model", "snapshot"), kept[None])
    data |= {f"curve_{name}": (("model", "evaluation"), values[None]) for name, values in curves.items()}
    about = dict(record.row) | {
        "id": common.identity(record.row),
        "n_exports": one.evaluations,
        "steps": one.steps,
        "seconds": time.monotonic() - record.started,
        "status": record.status,
        "reason": record.reason,
    }
    coordinates = {name: ("model", [value]) for name, value in about.items()}
    coordinates["snapshot"] = ("snapshot", np.arange(1, SNAPSHOTS + 1))
    return xr.Dataset(data, coordinates, _attributes(layout, common))


def _read(exports: IO[bytes], places: np.ndarray, size: int) -> np.ndarray:
    vectors = np.empty((len(places), size), dtype="float32")
    for place, number in enumerate(places.tolist()):
        exports.seek(number * size * 4)
        vectors[place] = np.frombuffer(exports.read(size * 4), dtype="float32")
    return vectors


def _attributes(layout: Layout, common: Common) -> dict[str, str]:
    return {
        "schema_version": SCHEMA_VERSION,
        "library_version": __version__,
        "protocol_version": common.protocol,
        "layout": layout.to_json(),
        "parameters": json.dumps(common.parameters, sort_keys=True),
        "implementation": json.dumps(implementations.described(common.implementation), sort_keys=True),
        "device": describe(common.bank.images.device),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
