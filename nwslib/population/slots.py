"""The networks in training, stacked: one step or one evaluation of all of them is one tensor program."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from nwslib import space
from nwslib.population import draws, operators, optimizers
from nwslib.population.augment import augment_some
from nwslib.population.cuda.graph import Recorded
from nwslib.population.images import ImageSet
from nwslib.population.networks import cnn
from nwslib.snapshots.layout import Layout

#: Images of one network in one piece of an evaluation, by kind of device: one size, so that the same kernels compute
#: every piece; on a CUDA device large, so that launching them does not take longer than they do.
EVALUATION_BATCH = {"cpu": 64, "cuda": 512}

#: What moves with a network from slot to slot.
STATE = ("weights", "a", "v", "correct", "loss", "orders", "epochs", "steps", "rates", "powers")


@dataclass(frozen=True)
class Bank:
    """All image sets in one tensor on the device, so that one gather serves networks of different sets."""

    images: Tensor  # uint8 (b, y, x, c)
    labels: Tensor  # int64 (b,)
    train: Mapping[str, Tensor]  # indices into the bank, by image set
    test: Mapping[str, Tensor]
    grey: Mapping[str, bool]
    noise: Tensor  # the bank of normal numbers for augmentation


def bank(images: Mapping[str, ImageSet], device: torch.device) -> Bank:
    """Put image sets of one size into a bank.

    Parameters
    ----------
    images
        By name.
    device
        Where the bank shall be.

    Returns
    -------
    Bank
        With the training and the test images of every set.
    """
    parts, labels, places, start = [], [], ({}, {}), 0
    for name, images_of in images.items():
        halves = (
            (images_of.train_images, images_of.train_labels),
            (images_of.test_images, images_of.test_labels),
        )
        for where, (part, part_labels) in zip(places, halves, strict=True):
            where[name] = torch.arange(start, start + len(part), device=device)
            start += len(part)
            parts.append(part.to(device))
            labels.append(part_labels.to(device))
    grey = {name: images_of.grey for name, images_of in images.items()}
    return Bank(torch.cat(parts), torch.cat(labels), *places, grey, draws.noise_bank(device))


@dataclass(eq=False)
class Member:
    """One network in training: its properties and images as they are now, and how far it is."""

    row: Mapping[str, Any]  # of the design; `switched` puts in what has changed
    train: Tensor  # indices into the bank
    valid: Tensor
    test: Tensor
    labels: Tensor  # of the training images
    steps_per_epoch: int
    updates: bool = False  # whether what the last step of each epoch changes is kept
    epoch: int = 0
    step: int = 0  # within the epoch
    evaluations: int = 0
    earlier: int = 0  # steps taken by the time of a switch, less those that its epochs have now
    begun: int = 0  # steps taken when its present optimiser began

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self.earlier + self.epoch * self.steps_per_epoch + self.step

    @property
    def optimizer_steps(self) -> int:
        """Steps taken by its present optimiser."""
        return self.steps - self.begun

    @property
    def changes(self) -> dict[str, Any]:
        """What changes at the start of this epoch: properties and their new values; mostly nothing."""
        return changes(self.row) if self.row.get("switch_epoch") == self.epoch else {}

    @property
    def ahead(self) -> int:
        """Steps that it may take in one go: to the end of its epoch, or, where that counts, to the last step of it."""
        return max(1, self.steps_per_epoch - self.step - self.updates)


def rows(design: xr.Dataset) -> list[dict[str, Any]]:
    """Give each row of a design as a dict of plain values.

    Examples
    --------
    >>> from nwslib import space
    >>> rows(space.sample("nws_small", 1, seed=0, optimizer="adam"))[0]["optimizer"]
    'adam'
    """
    columns = {name: design[name].values.tolist() for name in design.variables}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def member(row: Mapping[str, Any], images: Bank, updates: bool = False) -> Member:
    """Prepare a network: split its images from its seed.

    Parameters
    ----------
    row
        Its row of the design.
    images
        The bank that holds its image set.
    updates
        Whether what the last step of each epoch changes is kept.

    Returns
    -------
    Member
        Before its first evaluation.

    Raises
    ------
    ValueError
        If its batch is larger than an epoch.
    """
    everything = images.train[row["dataset"]]
    train, valid = draws.split(row["seed"], len(everything), everything.device)
    labels = images.labels[everything[train]]
    count = draws.balanced_count(labels)
    if count < row["batch_size"]:
        raise ValueError(
            f"network {row['model']}: batch_size {row['batch_size']} is larger than an epoch of {row['dataset']!r}, "
            f"which has {count} images after the validation split and class balance"
        )
    test = images.test[row["dataset"]]
    return Member(row, everything[train], everything[valid], test, labels, count // row["batch_size"], updates)


def changes(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give the properties that a network's switch changes, and their new values.

    Examples
    --------
    >>> changes({"optimizer": "adam", "optimizer_after": "momentum", "augmentation": "on", "augmentation_after": "on"})
    {'optimizer': 'momentum'}
    """
    after = {name: row[f"{name}_after"] for name in space.SWITCHABLE if f"{name}_after" in row}
    return {name: value for name, value in after.items() if value != row[name]}


def switched(one: Member, images: Bank) -> Member:
    """Give a network that stands at the start of an epoch the properties and images that it goes on with.

    Parameters
    ----------
    one
        The network; left as it is.
    images
        The bank that holds its next image set.

    Returns
    -------
    Member
        As far in training. Of another image set it has its own split, drawn from its seed as that of the first.
    """
    fresh = member(one.row | one.changes, images, one.updates)
    return replace(
        fresh,
        epoch=one.epoch,
        evaluations=one.evaluations,
        earlier=one.steps - one.epoch * fresh.steps_per_epoch,
        begun=one.steps if "optimizer" in one.changes else one.begun,
    )


class Stopped(Exception):
    """A crowd was asked to stop in the middle of its work."""


@dataclass(frozen=True)
class Sent:
    """Weight vectors on their way to the host."""

    host: Tensor  # (places, w), in the precision of the training
    arrived: torch.cuda.Event | None = None

    def __getitem__(self, k: int) -> "Sent":
        """Give one of the vectors."""
        return Sent(self.host[k], self.arrived)

    def numpy(self) -> np.ndarray:
        """Give the vectors, float32, as soon as they are there."""
        return self._there().float().numpy()

    def minus(self, earlier: "Sent") -> np.ndarray:
        """Give what has changed since vectors were sent earlier, float32, rounded once."""
        with np.errstate(over="ignore", invalid="ignore"):  # a network may diverge at this moment
            return (self._there().numpy() - earlier._there().numpy()).astype(np.float32, copy=False)

    def _there(self) -> Tensor:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.host


@dataclass
class Slots:
    """Networks of one architecture and batch size, and their stacked state.

    Slots are ordered by activation, so that each activation serves neighbouring networks, and padded with idle ones to
    a multiple of `operators.slot_multiple`. Tensors have ``m`` in front.

    A step reads and writes nothing but tensors of fixed shape on the device. On a CUDA device it is recorded as a graph
    and replayed, which costs one launch instead of hundreds.
    """

    layout: Layout
    batch: int
    images: Bank
    dtype: torch.dtype
    members: list[Member] = field(default_factory=list)
    implementation: operators.Implementation = cnn.DEFAULT
    options: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        device = self.images.images.device
        channels = [t.shape[0] for t in self.layout.tensors if t.kind == "gamma"]
        self.multiple = self.implementation.slot_multiple(channels)
        self.units = cnn.hidden_units(self.layout)
        self.weights = torch.empty(0, self.layout.size, dtype=self.dtype, device=device)  # (m, w)
        self.a = self.weights.clone()  # the optimiser's two states, (m, w)
        self.v = self.weights.clone()
        self.correct = torch.empty(0, dtype=torch.int64, device=device)  # right answers in this epoch, (m,)
        self.loss = torch.empty(0, dtype=self.dtype, device=device)  # summed over the epoch's steps, (m,)
        self.orders = torch.empty(0, 0, dtype=torch.int64, device=device)  # (m, images of an epoch)
        self.epochs = self.correct.clone()  # (m,)
        self.steps = self.correct.clone()  # within the epoch, (m,)
        self.rates = torch.empty(0, dtype=torch.float64, device=device)  # learning rates now, decay included, (m,)
        self.powers = torch.empty(0, 2, dtype=torch.float64, device=device)  # Adam's, after the steps taken, (m, 2)
        adam = optimizers.RULES["adam"]
        self.bases = torch.tensor([adam.keep_a, adam.keep_v], dtype=torch.float64, device=device)
        self.recorded: Recorded | None = None
        self.sending: torch.cuda.Stream | None = None

    def arrange(self, members: list[Member]) -> None:
        """Give the slots to these networks; those that were there keep their state, new ones start.

        Parameters
        ----------
        members
            In any order.
        """
        members = sorted(members, key=lambda one: one.row["activation"])
        count = -(-len(members) // self.multiple) * self.multiple
        old = {id(one): place for place, one in enumerate(self.members)}
        moves = [(place, old[id(one)]) for place, one in enumerate(members) if id(one) in old]
        longest = max(one.steps_per_epoch for one in members) * self.batch
        for name in STATE:
            state = getattr(self, name)
            if name == "orders":
                state = F.pad(state, (0, max(0, longest - state.shape[1])))
            self._put(name, _moved(state, moves, count))
        self.members = members
        for place, one in enumerate(members):
            if id(one) not in old:
                self._start(place, one)
        self._describe(count)

    def _start(self, place: int, one: Member) -> None:
        row = one.row
        start = draws.initial_weights(self.layout, row["seed"], row["initialization"], self.weights.device)
        self.weights[place] = start.to(self.dtype)
        self.v[place] = optimizers.RULES[row["optimizer"]].start_v
        self.rates[place] = row["learning_rate"]
        self.powers[place] = 1

    def _describe(self, count: int) -> None:
        """Stack what the rows say; an idle slot has rate 0 and epochs of one step."""
        rows = [one.row for one in self.members]
        idle = count - len(rows)
        names = [row["optimizer"] for row in rows] + ["momentum"] * idle
        activations = [row["activation"] for row in rows] + ["relu"] * idle
        self._put("activations", self.implementation.activations(activations, self.weights.device))
        self._put("rules", optimizers.coefficients(names, self.dtype, self.weights.device))
        self._put("adam", [name == "adam" for name in names])
        self._put("decays", [row["decay"] for row in rows] + [1.0] * idle)
        self._put("seeds", [row["seed"] for row in rows] + [0] * idle)
        self._put("lengths", [one.steps_per_epoch for one in self.members] + [1] * idle)
        augments = [row["augmentation"] == "on" for row in rows] + [False] * idle
        colourful = [not self.images.grey[row["dataset"]] for row in rows] + [False] * idle
        if self.implementation.step == "triton":
            self._put("augments", augments)
            self._put("colourful", colourful)
        else:
            augmented = self._rounded(np.flatnonzero(augments).tolist())
            self._put("augmented", augmented)
            self._put("coloured", self._rounded([k for k, place in enumerate(augmented) if colourful[place]]))

    def _put(self, name: str, value: "Tensor | list | operators.Segments") -> None:
        """Set what a step reads: in place where the shape stays, so that the recorded step remains right."""
        old = getattr(self, name, None)
        if isinstance(value, list):
            kind = torch.bool if name in ("adam", "augments", "colourful") else torch.int64
            kind = torch.float64 if name == "decays" else kind
            value = torch.tensor(value, dtype=kind, device=self.weights.device)
        if isinstance(value, Tensor) and isinstance(old, Tensor) and old.shape == value.shape:
            old.copy_(value)
        elif isinstance(value, Tensor) or value != old:
            setattr(self, name, value)
            self.recorded = None

    def _rounded(self, places: list[int]) -> list[int]:
        """Name the last place repeatedly, on a CUDA device, so that few changes of networks change a shape."""
        return places + places[-1:] * (-len(places) % 8 if self.weights.is_cuda else 0)

    def switch(self, places: list[int]) -> None:
        """Let networks that stand at the start of an epoch change course: a new optimiser starts with empty state."""
        for place in places:
            one, change = self.members[place], self.members[place].changes
            if "optimizer" in change:
                self.a[place], self.v[place] = 0, optimizers.RULES[change["optimizer"]].start_v
                self.powers[place] = 1
            if "learning_rate" in change:
                self.rates[place] = _decayed(change["learning_rate"], one)
            self.members[place] = switched(one, self.images)
        longest = max(one.steps_per_epoch for one in self.members) * self.batch
        self._put("orders", F.pad(self.orders, (0, max(0, longest - self.orders.shape[1]))))
        self._describe(len(self.weights))

    def start_epoch(self, place: int) -> None:
        """Draw the order of a network's next epoch."""
        one = self.members[place]
        order = draws.epoch_order(one.row["seed"], one.epoch, one.labels)[: one.steps_per_epoch * self.batch]
        self.orders[place, : len(order)] = one.train[order]
        self.correct[place] = 0
        self.loss[place] = 0

    def step(self) -> None:
        """Take one optimiser step with every network."""
        if self.weights.is_cuda:
            self.recorded = self.recorded or Recorded(self._program, self.weights.device)
            self.recorded()
        else:
            self._program()
        for one in self.members:
            one.step += 1
            if one.step == one.steps_per_epoch:
                one.epoch, one.step = one.epoch + 1, 0

    def advance(self) -> None:
        """Train on for a moment: one step."""
        self.step()

    def _program(self) -> None:
        """Compute a step: from tensors of fixed shape and place to such tensors, without waiting for the device."""
        epochs, steps, rates = self._counters()
        images, labels = self._batch(epochs, steps)
        gradient = self._gradient(images, labels, self._dropout(epochs, steps))
        update = _programs().update if self.implementation.step == "triton" else optimizers.update
        update(self.weights, gradient, self.a, self.v, self.rules, rates.to(self.dtype)[:, None])
        self._count()

    def _dropout(self, epochs: Tensor, steps: Tensor) -> Tensor:
        """Draw 0 where a unit is dropped, else 2: (m, b, units of all hidden layers)."""
        if self.implementation.step == "triton":
            return _programs().dropout(self.seeds, epochs, steps, self.batch, self.units, self.dtype)
        return draws.dropout_mask(self.seeds, epochs, steps, self.batch, self.units).to(self.dtype) * 2

    def _counters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give epochs, steps within them, and the factors of the coming step, with Adam's bias correction.

        Powers and decayed rates are running products, as in TensorFlow 1: a product rounds alike on every device.
        """
        power_a, power_v = (self.powers * self.bases).unbind(1)
        corrected = self.rates * ((1 - power_v).sqrt() / (1 - power_a))
        return self.epochs, self.steps, torch.where(self.adam, corrected, self.rates)

    def _count(self) -> None:
        self.powers.mul_(self.bases)
        self.steps.add_(1)
        ended = self.steps == self.lengths
        self.epochs.add_(ended)
        self.steps.mul_(~ended)
        self.rates.copy_(torch.where(ended, self.rates * self.decays, self.rates))

    def _batch(self, epochs: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Gather each network's images, (b, y, x, m, c), augmented where it says so, and labels, (m, b)."""
        places = steps[:, None] * self.batch + torch.arange(self.batch, device=steps.device)
        index = self.orders.gather(1, places)
        labels = self.images.labels[index]
        if self.implementation.step == "triton" and "colour_per_batch" not in self.options:
            about = (self.seeds, epochs, steps, self.augments, self.colourful, self.images.noise)
            return _programs().load(self.images.images, index, *about, self.dtype), labels
        images = self._gather(index).to(self.dtype).div_(255)  # (m, b, y, x, c)
        if len(self.augmented):
            on = self.augmented
            draw = draws.augmentation(self.seeds[on], epochs[on], steps[on], self.batch)
            draw = draws.colour_per_batch(draw) if "colour_per_batch" in self.options else draw
            changed = augment_some(images.index_select(0, on), draw, self.coloured, self.images.noise)
            images.index_copy_(0, on, changed.clamp_(0, 1).to(self.dtype))
        return self._inside(images), labels

    def _inside(self, images: Tensor) -> Tensor:
        """Turn (m, b, y, x, c) into (b, y, x, m, c), in memory as the convolution reads it."""
        if self.implementation.convolution == "grouped":
            return images.permute(1, 2, 3, 0, 4).contiguous()
        return images.permute(0, 4, 1, 2, 3).contiguous().permute(2, 3, 4, 0, 1)

    def _gather(self, index: Tensor) -> Tensor:
        """Give images by index: (m, b) becomes (m, b, y, x, c), uint8."""
        images = self.images.images
        return images.flatten(1).index_select(0, index.flatten()).view(*index.shape, *images.shape[1:])

    def _gradient(self, images: Tensor, labels: Tensor, dropout: Tensor) -> Tensor:
        """Compute the gradient of every network, (m, w), and bring moving statistics and epoch sums up to date."""
        leaf = self.weights.detach().requires_grad_()
        tensors = self._tensors(leaf)
        statistics: cnn.Statistics = {}
        features = cnn.features(
            tensors, images, self.activations, statistics, self.implementation, "bias_noise" in self.options
        )
        logits = cnn.outputs(tensors, features, self.activations, statistics, dropout, self.implementation)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        (gradient,) = torch.autograd.grad(losses, leaf, torch.full_like(losses, 1 / self.batch))
        with torch.no_grad():
            plain = cnn.outputs(tensors, features.detach(), self.activations, {}, None, self.implementation)
            self.correct += (plain.argmax(-1) == labels).sum(1)
            self.loss += _sum_in_pairs(losses) / self.batch
            self._move_statistics(statistics)
        return gradient

    def _tensors(self, weights: Tensor) -> dict[str, Tensor]:
        parts = weights.split([tensor.size for tensor in self.layout.tensors], dim=1)
        return {
            tensor.name: part.unflatten(1, tensor.shape)
            for tensor, part in zip(self.layout.tensors, parts, strict=True)
        }

    def _move_statistics(self, statistics: cnn.Statistics) -> None:
        for layer, batch in statistics.items():
            for kind, value in zip(("mean", "variance"), batch, strict=True):
                moving = self.weights[:, self.layout.slices[f"{layer}.{kind}"]]
                moving.mul_(0.9).add_(value * 0.1)

    def sums(self, places: list[int]) -> list[tuple[int, float]]:
        """Give how many images of their last epoch networks recognised, and their losses summed over the steps."""
        right, loss = self.correct.tolist(), self.loss.tolist()
        return [(right[place], loss[place]) for place in places]

    @torch.no_grad()
    def evaluate(self, places: list[int]) -> tuple[list[float], list[float]]:
        """Measure accuracy with stored statistics, on images as they are.

        Parameters
        ----------
        places
            Slots to evaluate, ascending.

        Returns
        -------
        tuple of list of float
            Validation and test accuracy of each.
        """
        padded = places + places[-1:] * (-len(places) % self.multiple)
        members = [self.members[place] for place in padded]
        tensors = self._tensors(self.weights[torch.tensor(padded, device=self.weights.device)])
        activations = self.implementation.activations([one.row["activation"] for one in members], self.weights.device)
        pieces = torch.nn.utils.rnn.pad_sequence([self._listed(one) for one in members], batch_first=True)
        pieces = F.pad(pieces, (0, -pieces.shape[1] % self._piece)).split(self._piece, dim=1)
        right = [self._right(tensors, part, activations, members, step) for step, part in enumerate(pieces)]
        right = torch.cat(right, 1).cpu().numpy()
        valid, test = [], []
        for k, one in enumerate(members[: len(places)]):
            start = len(self._filled(one.valid))
            valid.append(float(right[k, : len(one.valid)].mean()))
            test.append(float(right[k, start : start + len(one.test)].mean()))
        return valid, test

    @property
    def _piece(self) -> int:
        """Images of each network in one piece of an evaluation; a batch, where it counts which images are in one."""
        by_batch = self.options & {"batch_statistics", "augmented_evaluation"}
        return self.batch if by_batch else EVALUATION_BATCH["cuda" if self.weights.is_cuda else "cpu"]

    def _listed(self, one: Member) -> Tensor:
        return torch.cat((self._filled(one.valid), self._filled(one.test)))

    def _filled(self, index: Tensor) -> Tensor:
        """Fill the last batch up with the first images, where statistics of a batch count, so that all are whole."""
        if "batch_statistics" not in self.options:
            return index
        length = -(-len(index) // self.batch) * self.batch
        return index.repeat(-(-length // len(index)))[:length]

    def vectors(self, places: list[int]) -> np.ndarray:
        """Copy the weights of some networks to the host.

        Parameters
        ----------
        places
            Slots.

        Returns
        -------
        numpy.ndarray
            Shape (len(places), w), float32, in the order of the layout.
        """
        return self.send(places).numpy()

    def send(self, places: list[int]) -> "Sent":
        """Start to copy the weights of some networks to the host; on a CUDA device, beside what is computed next."""
        rows = self.weights[torch.tensor(places, device=self.weights.device)]
        if rows.device.type != "cuda":
            return Sent(rows.cpu())
        computed = torch.cuda.current_stream(rows.device)
        self.sending = self.sending or torch.cuda.Stream(rows.device)
        self.sending.wait_stream(computed)
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        with torch.cuda.stream(self.sending):
            host.copy_(rows, non_blocking=True)
            rows.record_stream(self.sending)  # the memory of the rows is not given away before they are copied
            return Sent(host, self.sending.record_event())

    def state(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give a network's weights and the two states of its optimiser.

        Parameters
        ----------
        place
            Its slot.

        Returns
        -------
        tuple of numpy.ndarray
            Three copies of shape (w,), float64, in the order of the layout.
        """
        return tuple(state[place].double().cpu().numpy().copy() for state in (self.weights, self.a, self.v))

    def load(self, place: int, weights: np.ndarray, a: np.ndarray, v: np.ndarray) -> None:
        """Set what `state` gives.

        Parameters
        ----------
        place
            The network's slot.
        weights, a, v
            Shape (w,), in the order of the layout.
        """
        for state, values in ((self.weights, weights), (self.a, a), (self.v, v)):
            state[place] = torch.from_numpy(np.asarray(values)).to(state)

    def _right(
        self,
        tensors: Mapping[str, Tensor],
        index: Tensor,
        activations: operators.Segments | Tensor,
        members: list[Member],
        step: int,
    ) -> Tensor:
        images = self._gather(index).to(self.dtype).div_(255)
        if "augmented_evaluation" in self.options:
            images = self._augmented_for_evaluation(images, members, step)
        statistics: cnn.Statistics | None = {} if "batch_statistics" in self.options else None
        biased = "bias_noise" in self.options
        features = cnn.features(tensors, self._inside(images), activations, statistics, self.implementation, biased)
        logits = cnn.outputs(tensors, features, activations, statistics, None, self.implementation)
        return logits.argmax(-1) == self.images.labels[index]

    def _augmented_for_evaluation(self, images: Tensor, members: list[Member], step: int) -> Tensor:
        on = [k for k, one in enumerate(members) if one.row["augmentation"] == "on"]
        if not on:
            return images
        rows, device = [members[k].row for k in on], images.device
        seeds = torch.tensor([row["seed"] for row in rows], device=device)
        epochs = torch.tensor([members[k].epoch for k in on], device=device)
        draw = draws.augmentation(seeds, epochs, step, self.batch, purpose=draws.EVALUATION)
        coloured = [k for k, row in enumerate(rows) if not self.images.grey[row["dataset"]]]
        coloured = torch.tensor(coloured, dtype=torch.int64, device=device)
        changed = augment_some(images[on], draw, coloured, self.images.noise).clamp_(0, 1)
        return images.index_copy(0, torch.tensor(on, device=device), changed.to(self.dtype))


def _programs() -> ModuleType:
    from nwslib.population.cuda import batch  # Triton is there with CUDA builds of torch only

    return batch


def _sum_in_pairs(x: Tensor) -> Tensor:
    """Sum (m, b) over b by halves: the order, and so the rounding, never depends on m, as a reduction's may."""
    while x.shape[1] > 1:
        x = F.pad(x, (0, x.shape[1] % 2)).unflatten(1, (-1, 2))
        x = x[..., 0] + x[..., 1]
    return x[:, 0]


def _decayed(rate: float, one: Member) -> float:
    """Give a learning rate after as many epochs as a network has had: a running product, as in `Slots`."""
    for _ in range(one.epoch):
        rate *= one.row["decay"]
    return rate


def _moved(state: Tensor, moves: list[tuple[int, int]], count: int) -> Tensor:
    """Give the state of `count` slots: rows at (new place, old place), all others zero."""
    moved = state.new_zeros(count, *state.shape[1:])
    for new, old in moves:
        moved[new] = state[old]
    return moved
