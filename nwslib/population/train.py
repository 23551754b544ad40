"""Train a whole design: networks of many kinds side by side in one tensor program, each as if it were alone.

Rows that share an architecture and a batch size form a group. Its networks train in lockstep in M slots; each has its
own image set, order, learning rate, optimiser, activation, augmentation and moment of stopping. A network that has
finished leaves its slot to the next row. M changes speed and memory, never a result.
"""

import hashlib
import json
import platform
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import IO, Any, Self

import numpy as np
import torch
import xarray as xr

from nwslib import __version__, space
from nwslib.population import draws, operators
from nwslib.population import progress as status_line
from nwslib.population.device import resolve_device
from nwslib.population.images import ImageSet
from nwslib.population.networks import cnn
from nwslib.population.slots import Bank, Member, Slots, bank, member, rows
from nwslib.population.stopping import Stopping
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import SCHEMA_VERSION, SNAPSHOTS

PROTOCOL_VERSION = "1"
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
CLASS_IMAGES = 20
CURVES = ("train_accuracy", "valid_accuracy", "test_accuracy", "train_loss")


class Training:
    """A training under way: an iterator of finished networks that also says what it does.

    Attributes
    ----------
    design
        The completed design.
    parameters
        What all its networks share: ``max_epochs``, ``precision``, and the version of each image set.
    """

    def __init__(self, design: xr.Dataset, parameters: dict[str, Any], finished: Iterator[xr.Dataset]) -> None:
        self.design = design
        self.parameters = parameters
        self._finished = finished

    def __iter__(self) -> Iterator[xr.Dataset]:
        return self

    def __next__(self) -> xr.Dataset:
        return next(self._finished)


def train(
    design: xr.Dataset,
    images: Mapping[str, ImageSet],
    *,
    device: str = "auto",
    slots: int | None = None,
    precision: str = "float32",
    max_epochs: int = 1000,
    progress: bool = True,
) -> Training:
    """Train every network of a design and yield each when it has finished.

    Parameters
    ----------
    design
        From `nwslib.space.sample` or by hand; one row per network.
    images
        An image set for each name in ``design["dataset"]``, of the design's image size.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    slots
        Networks trained side by side; by default as many as suit the architecture. Changes no result.
    precision
        ``"float32"`` or ``"float64"``.
    max_epochs
        Evaluations after which a network stops at the latest; the first comes before the first step.
    progress
        Whether to show a status line where somebody watches.

    Returns
    -------
    Training
        An iterator of one-network datasets, as `nwslib.snapshots.schema` describes them, in the order of finishing.

    Raises
    ------
    ValueError
        Before anything is trained: if the design, the device or the precision is not valid, an image set is missing, of
        another size or short of a class, or a batch is larger than an epoch.

    Notes
    -----
    The protocol of Eilertsen et al., ECAI 2020, with the corrections that the book lists.

    Examples
    --------
    >>> from nwslib.population import images
    >>> design = space.sample("nws_small", 2, seed=0, dataset="digits", batch_size=256)
    >>> network = next(train(design, {"digits": images.load("digits", size=16)}, max_epochs=2))
    >>> network["weights"].shape
    (1, 20, 4828)
    """
    design = space.complete(design)
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}. {space.nearest(precision, PRECISIONS)}")
    for name, number in (("max_epochs", max_epochs), ("slots", slots)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"{name} must be a whole number, at least 1, not {number!r}")
    if design.sizes["model"]:
        _check_images(design, images)
    parameters = {
        "max_epochs": max_epochs,
        "precision": precision,
        "images": {name: images[name].version for name in sorted(images)},
    }
    place = resolve_device(device)
    if design.sizes["model"] == 0:
        return Training(design, parameters, iter(()))
    needed = {name: images[name] for name in np.unique(design["dataset"].values).tolist()}
    common = _Common(bank(needed, place), PRECISIONS[precision], max_epochs, parameters)
    every = rows(design)
    _check_epochs(every, common.bank)
    return Training(design, parameters, _train(every, slots, common, _Watch(len(every), max_epochs, progress)))


@dataclass(frozen=True)
class _Common:
    """What all networks of a training share."""

    bank: Bank
    dtype: torch.dtype
    max_epochs: int
    parameters: dict[str, Any]


@dataclass
class _Watch:
    """What the status line needs to know."""

    networks: int
    max_epochs: int
    shown: bool
    started: float = field(default_factory=time.monotonic)
    evaluations: int = 0
    accuracies: list[float] = field(default_factory=list)

    def report(self) -> None:
        if self.shown:
            status_line.report(self.line(time.monotonic() - self.started))

    def end(self) -> None:
        if self.shown:
            status_line.report("")

    def line(self, seconds: float) -> str:
        share = max(self.evaluations, 1) / (self.networks * self.max_epochs)
        words = [f"{len(self.accuracies)} of {self.networks} networks"]
        words.append(f"{3600 * share * self.networks / seconds:,.0f} per hour")
        words.append(f"at most {status_line.duration(seconds * (1 - share) / share)} to go")
        if self.accuracies:
            words.append(f"test accuracy up to {max(self.accuracies):.0%}, median {median(self.accuracies):.0%}")
        return ", ".join(words)


@dataclass
class _Record:
    """What is kept of a network in training: its curves, and every export, on disk."""

    exports: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    stopping: Stopping = field(default_factory=Stopping)
    curves: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CURVES})
    started: float = field(default_factory=time.monotonic)
    status: str = ""
    reason: str = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.exports.close()


def _check_images(design: xr.Dataset, images: Mapping[str, ImageSet]) -> None:
    sizes = np.unique(design["image_size"].values).tolist()
    if len(sizes) > 1:
        raise ValueError(f"one training has one image size, but the design has {sizes}")
    for name in np.unique(design["dataset"].values).tolist():
        if name not in images:
            raise ValueError(f"the design needs the image set {name!r}. {space.nearest(name, images)}")
        _check_set(name, images[name], sizes[0])


def _check_set(name: str, one: ImageSet, size: int) -> None:
    for part, labels in ((one.train_images, one.train_labels), (one.test_images, one.test_labels)):
        shape = tuple(part.shape)
        if shape[1:3] != (size, size):
            raise ValueError(f"image set {name!r} is {shape[1]}x{shape[2]}, but the design says image_size {size}")
        if part.dtype != torch.uint8 or labels.dtype != torch.int64 or not 0 < len(part) == len(labels):
            raise ValueError(
                f"image set {name!r} needs uint8 images and an int64 label for each, not {part.dtype} images "
                f"{shape} and {labels.dtype} labels {tuple(labels.shape)}"
            )
    counts = torch.bincount(one.train_labels, minlength=len(one.classes))
    if counts.min() < CLASS_IMAGES:
        raise ValueError(
            f"image set {name!r} has {counts.min()} training images of class {one.classes[counts.argmin()]!r}; every "
            f"class needs at least {CLASS_IMAGES}, so that every network's training part holds some"
        )


def _check_epochs(every: list[dict[str, Any]], bank: Bank) -> None:
    """Refuse a batch larger than an epoch before work starts; only where it may be is the split drawn for that."""
    whole = {name: draws.balanced_count(bank.labels[places]) for name, places in bank.train.items()}
    for row in every:
        if row["batch_size"] > whole[row["dataset"]] // 2:
            member(row, bank)


def _train(every: list[dict[str, Any]], slots: int | None, common: _Common, watch: _Watch) -> Iterator[xr.Dataset]:
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in every:
        shape = tuple(row[name] for name in (*space.ARCHITECTURE, "batch_size"))
        groups.setdefault(shape, []).append(row)
    for group in groups.values():
        yield from _train_group(group, slots, common, watch)
    watch.end()


def _train_group(
    waiting: list[dict[str, Any]], slots: int | None, common: _Common, watch: _Watch
) -> Iterator[xr.Dataset]:
    """Train networks of one architecture and batch size; a slot that falls free goes to the next one waiting."""
    row = waiting[0]
    layout = cnn.layout(**{name: row[name] for name in space.ARCHITECTURE if name != "family"})
    crowd = Slots(layout, row["batch_size"], common.bank, common.dtype)
    capacity = slots or suitable_slots(layout, row["image_size"], row["batch_size"])
    queue, records = deque(waiting), {}
    try:
        while True:
            staying = [one for one in crowd.members if one.row["model"] in records]
            free = min(capacity - len(staying), len(queue))
            joining = [member(queue.popleft(), common.bank) for _ in range(free)]
            records |= {one.row["model"]: _Record() for one in joining}
            if not records:
                return
            if joining or len(staying) < len(crowd.members):
                crowd.arrange(staying + joining)
            finished = _evaluate_due(crowd, records, common.max_epochs, watch)
            for one in finished:
                with records.pop(one.row["model"]) as record:
                    result = _result(one, record, layout, common)
                yield result
            if not finished:
                _step(crowd)
    finally:
        for record in records.values():
            record.exports.close()


def _step(crowd: Slots) -> None:
    for place, one in enumerate(crowd.members):
        if one.step == 0:
            crowd.start_epoch(place)
    crowd.step()


def suitable_slots(layout: Layout, image_size: int, batch: int) -> int:
    """Choose how many networks to train side by side: few enough to stay in a processor's cache.

    On two cores the fixed network reached 160 to 185 GFLOP/s with 16 networks of 32 images, whose largest feature maps
    take 16 MiB, and 38 with 32 networks of 64 images.

    Parameters
    ----------
    layout, image_size, batch
        Of the networks.

    Returns
    -------
    int
        From 4 to 64.
    """
    channels = max(layout.tensors[0].shape[0], 3)
    bytes_per_network = 4 * batch * image_size**2 * channels
    return max(4, min(64, 2**24 // bytes_per_network))


def _evaluate_due(crowd: Slots, records: dict[int, _Record], max_epochs: int, watch: _Watch) -> list[Member]:
    """Evaluate and export each network that stands at the start of an epoch; give those that stop here."""
    due = [place for place, one in enumerate(crowd.members) if one.step == 0 and one.evaluations == one.epoch]
    if not due:
        return []
    valid, test = crowd.evaluate(due)
    vectors = crowd.weights[due].float().cpu().numpy()
    finished = []
    for k, place in enumerate(due):
        one = crowd.members[place]
        record = records[one.row["model"]]
        _note(crowd, place, record, valid[k], test[k])
        record.exports.write(vectors[k].tobytes())
        one.evaluations += 1
        _decide(record, one, np.isfinite(vectors[k]).all(), max_epochs)
        if record.status:
            finished.append(one)
            watch.accuracies.append(test[k])
        watch.evaluations += max_epochs - one.evaluations + 1 if record.status else 1
    watch.report()
    return finished


def _note(crowd: Slots, place: int, record: _Record, valid: float, test: float) -> None:
    one = crowd.members[place]
    trained = one.epoch > 0
    steps = one.steps_per_epoch
    train = int(crowd.correct[place]) / (steps * crowd.batch) if trained else np.nan
    loss = float(crowd.loss[place]) / steps if trained else np.nan
    for name, value in zip(CURVES, (train, valid, test, loss), strict=True):
        record.curves[name].append(value)


def _decide(record: _Record, one: Member, finite: bool, max_epochs: int) -> None:
    rule = record.stopping.update(record.curves["valid_accuracy"][-1])
    if not finite:
        record.status, record.reason = "diverged", f"a weight was not finite after {one.epoch} epochs"
    elif rule:
        record.status, record.reason = "converged", rule
    elif one.evaluations >= max_epochs:
        record.status, record.reason = "stopped", f"limit of {max_epochs} evaluations"


def _result(one: Member, record: _Record, layout: Layout, common: _Common) -> xr.Dataset:
    """Label a finished network: twenty of its exports, its curves and its row."""
    kept = np.round(np.linspace(1, one.evaluations, SNAPSHOTS)).astype("int64") - 1
    curves = {name: np.array(values, dtype="float32") for name, values in record.curves.items()}
    data = {"weights": (("model", "snapshot", "weight"), _read(record.exports, kept, layout.size)[None])}
    data |= {name: (("model", "snapshot"), values[kept][None]) for name, values in curves.items()}
    data["epoch"] = (("model", "snapshot"), kept[None])
    data |= {f"curve_{name}": (("model", "evaluation"), values[None]) for name, values in curves.items()}
    about = dict(one.row) | {
        "id": identity(one.row, common.parameters),
        "n_exports": one.evaluations,
        "steps": one.steps,
        "seconds": time.monotonic() - record.started,
        "status": record.status,
        "reason": record.reason,
    }
    coordinates = {name: ("model", [value]) for name, value in about.items()}
    coordinates["snapshot"] = ("snapshot", np.arange(1, SNAPSHOTS + 1))
    return xr.Dataset(data, coordinates, _attributes(layout, common))


def _read(exports: IO[bytes], kept: np.ndarray, size: int) -> np.ndarray:
    vectors = np.empty((len(kept), size), dtype="float32")
    for place, number in enumerate(kept.tolist()):
        exports.seek(number * size * 4)
        vectors[place] = np.frombuffer(exports.read(size * 4), dtype="float32")
    return vectors


def identity(row: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Name a network by what determines it: its row, its image set's version, the training, the protocol.

    Parameters
    ----------
    row
        Of the design.
    parameters
        Of the training.

    Returns
    -------
    str
        Sixteen hexadecimal digits: equal where two networks must be equal.
    """
    names = sorted({*space.PROPERTIES, *space.CONSTANTS, "seed"})
    fields = {name: row[name] for name in names}
    fields |= {**parameters, "images": parameters["images"][row["dataset"]], "protocol": PROTOCOL_VERSION}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _attributes(layout: Layout, common: _Common) -> dict[str, str]:
    return {
        "schema_version": SCHEMA_VERSION,
        "library_version": __version__,
        "protocol_version": PROTOCOL_VERSION,
        "layout": layout.to_json(),
        "parameters": json.dumps(common.parameters, sort_keys=True),
        "implementation": json.dumps(operators.IMPLEMENTATION, sort_keys=True),
        "device": describe(common.bank.images.device),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe(device: torch.device) -> str:
    """Say in words what a device is.

    Examples
    --------
    >>> describe(torch.device("cpu")).startswith("CPU")
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return device.type
