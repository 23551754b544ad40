"""The networks in training, stacked: one step or one evaluation of all of them is one tensor program."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from nwslib.population import draws, operators, optimizers
from nwslib.population.augment import augment
from nwslib.population.images import ImageSet
from nwslib.population.networks import cnn
from nwslib.snapshots.layout import Layout

#: Images of one network in one piece of an evaluation: one size, so that the same kernels compute every piece.
EVALUATION_BATCH = 64


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
    """One network in training: its row of the design, its images, and how far it is."""

    row: Mapping[str, Any]
    train: Tensor  # indices into the bank
    valid: Tensor
    test: Tensor
    labels: Tensor  # of the training images
    steps_per_epoch: int
    epoch: int = 0
    step: int = 0  # within the epoch
    evaluations: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return self.epoch * self.steps_per_epoch + self.step


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


def member(row: Mapping[str, Any], images: Bank) -> Member:
    """Prepare a network: split its images from its seed.

    Parameters
    ----------
    row
        Its row of the design.
    images
        The bank that holds its image set.

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
    return Member(row, everything[train], everything[valid], test, labels, count // row["batch_size"])


@dataclass(frozen=True)
class Sent:
    """Weight vectors on their way to the host."""

    host: Tensor  # (places, w), float32
    arrived: torch.cuda.Event | None = None

    def numpy(self) -> np.ndarray:
        """Give the vectors, as soon as they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.host.numpy()


@dataclass
class Slots:
    """Networks of one architecture and batch size, and their stacked state.

    Slots are ordered by activation, so that each activation serves neighbouring networks, and padded with idle ones to
    a multiple of `operators.slot_multiple`. Tensors have ``m`` in front.
    """

    layout: Layout
    batch: int
    images: Bank
    dtype: torch.dtype
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        device = self.images.images.device
        self.multiple = operators.slot_multiple(t.shape[0] for t in self.layout.tensors if t.kind == "gamma")
        self.units = cnn.hidden_units(self.layout)
        self.weights = torch.empty(0, self.layout.size, dtype=self.dtype, device=device)  # (m, w)
        self.a = self.weights.clone()  # the optimiser's two states, (m, w)
        self.v = self.weights.clone()
        self.correct = torch.empty(0, dtype=torch.int64, device=device)  # right answers in this epoch, (m,)
        self.loss = torch.empty(0, dtype=self.dtype, device=device)  # summed over the epoch's steps, (m,)
        self.orders = torch.empty(0, 0, dtype=torch.int64, device=device)  # (m, images of an epoch)
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
        self.orders = F.pad(self.orders, (0, max(0, longest - self.orders.shape[1])))
        for name in ("weights", "a", "v", "correct", "loss", "orders"):
            setattr(self, name, _moved(getattr(self, name), moves, count))
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

    def _describe(self, count: int) -> None:
        """Stack what the rows say; an idle slot has rate 0."""
        device = self.weights.device
        rows = [one.row for one in self.members]
        idle = count - len(rows)
        self.optimizers = np.array([row["optimizer"] for row in rows] + ["momentum"] * idle)
        self.rates = np.array([row["learning_rate"] for row in rows] + [0.0] * idle)
        self.decays = np.array([row["decay"] for row in rows] + [1.0] * idle)
        self.rules = optimizers.coefficients(self.optimizers.tolist(), self.dtype, device)
        self.segments = operators.segments([row["activation"] for row in rows] + ["relu"] * idle)
        self.seeds = torch.tensor([row["seed"] for row in rows] + [0] * idle, device=device)
        augmented = [place for place, row in enumerate(rows) if row["augmentation"] == "on"]
        self.augmented = torch.tensor(augmented, dtype=torch.int64, device=device)
        colourful = [not self.images.grey[rows[place]["dataset"]] for place in augmented]
        self.colourful = torch.tensor(colourful, dtype=torch.bool, device=device)

    def start_epoch(self, place: int) -> None:
        """Draw the order of a network's next epoch."""
        one = self.members[place]
        order = draws.epoch_order(one.row["seed"], one.epoch, one.labels)[: one.steps_per_epoch * self.batch]
        self.orders[place, : len(order)] = one.train[order]
        self.correct[place] = 0
        self.loss[place] = 0

    def step(self) -> None:
        """Take one optimiser step with every network."""
        epochs, steps, done = self._counters()
        images, labels = self._batch(epochs, steps)
        mask = draws.dropout_mask(self.seeds, epochs, steps, self.batch, self.units)
        gradient = self._gradient(images, labels, mask.to(self.dtype) * 2)
        rates = self.rates * self.decays ** epochs.cpu().numpy()
        rates = torch.from_numpy(optimizers.step_rates(rates, self.optimizers, done + 1)).to(self.weights)
        optimizers.update(self.weights, gradient, self.a, self.v, self.rules, rates[:, None])
        for one in self.members:
            one.step += 1
            if one.step == one.steps_per_epoch:
                one.epoch, one.step = one.epoch + 1, 0

    def _counters(self) -> tuple[Tensor, Tensor, np.ndarray]:
        idle = [0] * (len(self.weights) - len(self.members))
        device = self.weights.device
        epochs = torch.tensor([one.epoch for one in self.members] + idle, device=device)
        steps = torch.tensor([one.step for one in self.members] + idle, device=device)
        return epochs, steps, np.array([one.steps for one in self.members] + idle)

    def _batch(self, epochs: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Gather each network's images, (b, y, x, m, c), augmented where it says so, and labels, (m, b)."""
        places = steps[:, None] * self.batch + torch.arange(self.batch, device=steps.device)
        index = self.orders.gather(1, places)
        images = self._gather(index).to(self.dtype).div_(255)  # (m, b, y, x, c)
        if len(self.augmented):
            on = self.augmented
            draw = draws.augmentation(self.seeds[on], epochs[on], steps[on], self.batch)
            changed = augment(images.index_select(0, on), draw, self.colourful, self.images.noise)
            images.index_copy_(0, on, changed.clamp_(0, 1).to(self.dtype))
        return _networks_inside(images), self.images.labels[index]

    def _gather(self, index: Tensor) -> Tensor:
        """Give images by index: (m, b) becomes (m, b, y, x, c), uint8."""
        images = self.images.images
        return images.flatten(1).index_select(0, index.flatten()).view(*index.shape, *images.shape[1:])

    def _gradient(self, images: Tensor, labels: Tensor, dropout: Tensor) -> Tensor:
        """Compute the gradient of every network, (m, w), and bring moving statistics and epoch sums up to date."""
        leaf = self.weights.detach().requires_grad_()
        tensors = self._tensors(leaf)
        statistics: cnn.Statistics = {}
        features = cnn.features(tensors, images, self.segments, statistics)
        logits = cnn.outputs(tensors, features, self.segments, statistics, dropout)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        with torch.no_grad():
            plain = cnn.outputs(tensors, features.detach(), self.segments, {})
            self.correct += (plain.argmax(-1) == labels).sum(1)
            self.loss += losses
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
        segments = operators.segments([one.row["activation"] for one in members])
        lists = [torch.cat((one.valid, one.test)) for one in members]
        index = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True)
        index = F.pad(index, (0, -index.shape[1] % EVALUATION_BATCH))
        right = torch.cat([self._right(tensors, part, segments) for part in index.split(EVALUATION_BATCH, dim=1)], 1)
        right = right.cpu().numpy()
        ends = [(len(one.valid), len(one.valid) + len(one.test)) for one in members[: len(places)]]
        valid = [float(right[k, :end].mean()) for k, (end, _) in enumerate(ends)]
        return valid, [float(right[k, start:end].mean()) for k, (start, end) in enumerate(ends)]

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
        rows = self.weights[torch.tensor(places, device=self.weights.device)].float()
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

    def _right(self, tensors: Mapping[str, Tensor], index: Tensor, segments: operators.Segments) -> Tensor:
        images = _networks_inside(self._gather(index)).to(self.dtype).div_(255)
        features = cnn.features(tensors, images, segments, None)
        return cnn.outputs(tensors, features, segments, None).argmax(-1) == self.images.labels[index]


def _networks_inside(images: Tensor) -> Tensor:
    """Turn (m, b, y, x, c) into (b, y, x, m, c), in memory too."""
    return images.permute(1, 2, 3, 0, 4).contiguous()


def _moved(state: Tensor, moves: list[tuple[int, int]], count: int) -> Tensor:
    """Give the state of `count` slots: rows at (new place, old place), all others zero."""
    moved = state.new_zeros(count, *state.shape[1:])
    for new, old in moves:
        moved[new] = state[old]
    return moved
