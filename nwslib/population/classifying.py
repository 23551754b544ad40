"""Train classifiers of one family for a fixed number of epochs, M networks at a time as one tensor program.

Each network has its own image set, split, order, learning rate, weight decay, label smoothing, noise in its labels and
number of epochs. Networks of one layout and batch size are sorted by their steps and cut into blocks; one whose steps
are over leaves its block.

A family is a module of `nwslib.population.networks` with

``classifier(row, channels, classes) -> Layout``
    The layout of the network that a row of the design describes; ``channels`` is 1 for grey images, else 3.
``initial_weights(layout, seeds) -> Tensor``
    float64 (m, w), from the networks' seeds, int64 (m,), by `nwslib.population.draws`, on the device of the seeds.
``outputs(tensors, images, **forward) -> Tensor``
    Logits (m, b, classes). ``tensors`` are the layout's by name, each (m, *shape); ``images`` are (m, b, y, x, c), in
    [0, 1] and contiguous, of the type of the weights. Autograd differentiates it with respect to ``tensors``.
``FORWARD``
    Columns of the design that ``outputs`` takes by name: ``("order",)`` of a KAN, mostly ``()``.
``SCHEDULE``
    ``"constant"``, or ``"triangular"``: from 0 to the learning rate at epoch 5, and linearly back to 0 at the end.

Networks that agree in their layout, what ``outputs`` takes and the batch size may share a block.
"""

import importlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from types import ModuleType
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nwslib.population import draws
from nwslib.population import progress as status_line
from nwslib.population.images import ImageSet
from nwslib.population.shared import CURVES, Shared, finished, snapshot_steps
from nwslib.population.slots import Bank, Member, bank, member, rows
from nwslib.snapshots.layout import Layout
from nwslib.space import nearest

#: Module of `nwslib.population.networks` for each family.
FAMILIES = {"mlp": "mlp", "smallcnn": "smallcnn", "kan": "kan", "resnet8": "resnet"}

#: The epoch of the highest rate in a triangular schedule; half way where that comes first.
PEAK = 5

#: A purpose for `draws.words`, beside its own.
LABEL_NOISE = 7

#: Images of each network in one piece of an evaluation.
EVALUATION_BATCH = 256

_KEEP_A, _KEEP_V, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(eq=False)
class Learner:
    """One network: what it learns from, and what is known of it so far."""

    one: Member
    targets: Tensor  # label of each training image, noise included
    layout: Layout
    at: np.ndarray  # steps at which it is evaluated
    kept: np.ndarray  # the evaluation that belongs to each snapshot
    weights: list[np.ndarray] = field(default_factory=list)  # at each evaluation
    curves: dict[str, list[float]] = field(default_factory=dict)
    steps: int = 0  # taken when it was last evaluated

    @property
    def length(self) -> int:
        """Steps from its first to its last."""
        return int(self.at[-1])


def classify_rows(design: xr.Dataset, images: Mapping[str, ImageSet], shared: Shared) -> Iterator[xr.Dataset]:
    """Train the classifiers of a design and yield each when its epochs are over.

    Parameters
    ----------
    design
        Of one family.
    images
        By name; of the design's image size.
    shared
        What all networks of the training share.

    Yields
    ------
    xarray.Dataset
        One network, as `nwslib.snapshots.schema` describes it. ``train_accuracy`` and ``train_loss`` are means over the
        batches since the evaluation before, each before its step; the labels are those that it learns, with their
        noise. Validation and test labels have none.

    Raises
    ------
    ValueError
        If the family is unknown, or the batch of a network is larger than its epoch.
    """
    every = rows(design)
    family = _family(every[0]["family"])
    everything = bank(images, shared.device)
    learners = [_learner(row, family, everything, images[row["dataset"]], shared) for row in every]
    watch = _Watch(len(learners), shared.progress)
    alike = lambda one: (one.layout.name, _forward(family, one), one.one.row["batch_size"])  # noqa: E731
    learners.sort(key=lambda one: (*map(str, alike(one)), one.length))
    for _, group in groupby(learners, alike):
        some = list(group)
        at_once = shared.slots or _at_once(some[0], shared.device)
        for start in range(0, len(some), at_once):
            yield from _train(Block(family, some[start : start + at_once], everything, shared), shared, watch)
    watch.end()


def schedule(name: str, epochs: int, steps: np.ndarray, steps_per_epoch: int) -> np.ndarray:
    """Give the factor on the learning rate in each step.

    Parameters
    ----------
    name
        ``"constant"`` or ``"triangular"``.
    epochs
        Of the whole training.
    steps
        Shape (n,): steps taken before.
    steps_per_epoch
        Of the network.

    Returns
    -------
    numpy.ndarray
        Shape (n,), from 0 to 1.

    Examples
    --------
    >>> schedule("triangular", 10, np.array([0, 5, 10, 15]), steps_per_epoch=2).tolist()
    [0.0, 0.5, 1.0, 0.5]
    """
    if name == "constant":
        return np.ones(len(steps))
    return np.interp(steps / steps_per_epoch, [0, min(PEAK, epochs / 2), epochs], [0, 1, 0])


def noisy_labels(seed: int, labels: Tensor, noise: float, classes: int) -> Tensor:
    """Replace a share of the labels by classes drawn uniformly: which, and by what, is a function of the seed.

    Parameters
    ----------
    seed
        Of the network.
    labels
        Shape (images,), int64.
    noise
        Share that is replaced, from 0 to 1; a class may be drawn that was there.
    classes
        Number of classes.

    Returns
    -------
    torch.Tensor
        Shape (images,), int64.

    Examples
    --------
    >>> noisy_labels(1, torch.full((5,), 7), noise=0.0, classes=10)
    tensor([7, 7, 7, 7, 7])
    """
    bits = draws.words(torch.tensor([seed], device=labels.device), LABEL_NOISE, 0, 0, 2 * len(labels))[0]
    replaced = torch.argsort(bits[: len(labels)], stable=True)[: round(noise * len(labels))]
    return labels.index_copy(0, replaced, (bits[len(labels) :] % classes)[replaced])


class Block:
    """Networks in training side by side, and their stacked state, with ``m`` in front."""

    def __init__(self, family: ModuleType, learners: list[Learner], images: Bank, shared: Shared) -> None:
        self.family, self.learners, self.images, self.dtype = family, learners, images, shared.dtype
        row, self.layout = learners[0].one.row, learners[0].layout
        self.batch, self.forward = row["batch_size"], dict(_forward(family, learners[0]))
        self.channels = _channels(images.grey[row["dataset"]])
        seeds = torch.tensor([one.one.row["seed"] for one in learners], device=shared.device)
        self.step_number = 0
        self.weights = family.initial_weights(self.layout, seeds).to(shared.dtype)
        self.a, self.v = torch.zeros_like(self.weights), torch.zeros_like(self.weights)  # Adam's two moments
        self.correct = seeds.new_zeros(len(seeds))  # right answers since its evaluation
        self.loss = self.weights.new_zeros(len(seeds))  # summed over the steps since then
        longest = max(one.one.steps_per_epoch for one in learners) * self.batch
        self.orders = seeds.new_zeros(len(seeds), longest)  # images of this epoch
        self.targets = seeds.new_zeros(len(seeds), longest)  # and their labels
        self._describe()

    def _describe(self) -> None:
        column = lambda name: [one.one.row.get(name, 0.0) for one in self.learners]  # noqa: E731
        self.decays = np.array(column("weight_decay"))
        self.smoothing = self.weights.new_tensor(column("label_smoothing"))[:, None]
        rates = np.zeros((len(self.learners), self.learners[-1].length))
        for k, one in enumerate(self.learners):
            steps = np.arange(one.length)
            factors = schedule(self.family.SCHEDULE, one.one.row["epochs"], steps, one.one.steps_per_epoch)
            rates[k, : one.length] = one.one.row["learning_rate"] * factors
        self.rates = rates

    def keep(self, places: list[int]) -> None:
        """Go on with the networks at these places alone, at least one."""
        self.learners = [self.learners[place] for place in places]
        for name in ("weights", "a", "v", "correct", "loss", "orders", "targets"):
            setattr(self, name, getattr(self, name)[torch.tensor(places, device=self.weights.device)])
        self._describe()

    def step(self) -> None:
        """Take one optimiser step with every network."""
        for place, one in enumerate(self.learners):
            if self.step_number % one.one.steps_per_epoch == 0:
                self._start_epoch(place, one.one)
        index, targets = self._batch()
        gradient = self._gradient(index, targets)
        self._update(gradient)
        self.step_number += 1

    def _start_epoch(self, place: int, one: Member) -> None:
        epoch = self.step_number // one.steps_per_epoch
        order = draws.epoch_order(one.row["seed"], epoch, one.labels)[: one.steps_per_epoch * self.batch]
        self.orders[place, : len(order)] = one.train[order]
        self.targets[place, : len(order)] = self.learners[place].targets[order]

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Give each network's images in the bank, (m, b), and their labels."""
        steps = [self.step_number % one.one.steps_per_epoch for one in self.learners]
        places = torch.tensor(steps)[:, None] * self.batch + torch.arange(self.batch)
        places = places.to(self.orders.device)
        return self.orders.gather(1, places), self.targets.gather(1, places)

    def _gradient(self, index: Tensor, targets: Tensor) -> Tensor:
        leaf = self.weights.detach().requires_grad_()
        logits = self._outputs(leaf, index)
        shares = logits.log_softmax(-1)
        right = -shares.gather(-1, targets[..., None])[..., 0]
        losses = (1 - self.smoothing) * right - self.smoothing * shares.mean(-1)  # (m, b)
        (gradient,) = torch.autograd.grad(losses, leaf, torch.full_like(losses, 1 / self.batch))
        self.correct += (logits.argmax(-1) == targets).sum(1)
        self.loss += losses.detach().sum(1) / self.batch
        return gradient

    def _outputs(self, weights: Tensor, index: Tensor) -> Tensor:
        parts = weights.split([tensor.size for tensor in self.layout.tensors], dim=1)
        tensors = {
            tensor.name: part.unflatten(1, tensor.shape)
            for tensor, part in zip(self.layout.tensors, parts, strict=True)
        }
        images = self.images.images
        images = images.index_select(0, index.flatten())[..., : self.channels].to(self.dtype).div_(255)
        return self.family.outputs(tensors, images.unflatten(0, index.shape), **self.forward)

    def _update(self, gradient: Tensor) -> None:
        """Adam with decoupled weight decay, its epsilon added to the corrected root."""
        corrected_a, corrected_v = (1 - keep ** (self.step_number + 1) for keep in (_KEEP_A, _KEEP_V))
        rates = self.rates[:, self.step_number]
        column = lambda values: self.weights.new_tensor(values)[:, None]  # noqa: E731
        self.a.lerp_(gradient, 1 - _KEEP_A)
        self.v.mul_(_KEEP_V).addcmul_(gradient, gradient, value=1 - _KEEP_V)
        root = torch.sqrt(self.v, out=gradient).add_(_EPSILON * corrected_v**0.5)
        if self.decays.any():
            self.weights.mul_(column(1 - rates * self.decays))
        self.weights.sub_((self.a * column(rates * corrected_v**0.5 / corrected_a)).div_(root))

    def evaluate(self, places: list[int]) -> None:
        """Note the weights, accuracies and loss of some networks."""
        if not places:
            return
        chosen = torch.tensor(places, device=self.weights.device)
        weights = self.weights[chosen]
        vectors = weights.float().cpu().numpy()
        accuracies = self._accuracies(weights, [self.learners[place].one for place in places])
        for k, place in enumerate(places):
            one = self.learners[place]
            count = self.step_number - one.steps
            train = self.correct[place].item() / (count * self.batch) if count else np.nan
            loss = self.loss[place].item() / count if count else np.nan
            for name, value in zip(CURVES, (train, *accuracies[k], loss), strict=True):
                one.curves.setdefault(name, []).append(value)
            one.weights.append(vectors[k])
            one.steps = self.step_number
        self.correct[chosen] = 0
        self.loss[chosen] = 0

    @torch.no_grad()
    def _accuracies(self, weights: Tensor, members: list[Member]) -> list[tuple[float, float]]:
        """Give validation and test accuracy of each."""
        listed = [torch.cat((one.valid, one.test)) for one in members]
        index = torch.nn.utils.rnn.pad_sequence(listed, batch_first=True)
        right = [
            self._outputs(weights, part).argmax(-1) == self.images.labels[part]
            for part in index.split(EVALUATION_BATCH, dim=1)
        ]
        right = torch.cat(right, 1).cpu().numpy()
        ends = [(len(one.valid), len(one.valid) + len(one.test)) for one in members]
        return [(right[k, :valid].mean(), right[k, valid:end].mean()) for k, (valid, end) in enumerate(ends)]


@dataclass
class _Watch:
    """What the status line needs to know."""

    networks: int
    shown: bool
    started: float = field(default_factory=time.monotonic)
    finished: int = 0

    def report(self) -> None:
        if self.shown:
            hours = (time.monotonic() - self.started) / 3600
            status_line.report(f"{self.finished} of {self.networks} networks, {self.finished / hours:,.0f} per hour")

    def end(self) -> None:
        if self.shown:
            status_line.report("")


def _family(name: str) -> ModuleType:
    if name not in FAMILIES:
        raise ValueError(f"family {name!r} has no classifiers. {nearest(name, FAMILIES)}")
    return importlib.import_module(f"nwslib.population.networks.{FAMILIES[name]}")


def _learner(row: Mapping[str, Any], family: ModuleType, everything: Bank, images: ImageSet, shared: Shared) -> Learner:
    one = member(row, everything)
    classes = len(images.classes)
    targets = noisy_labels(row["seed"], one.labels, row.get("label_noise", 0.0), classes)
    layout = family.classifier(row, _channels(images.grey), classes)
    at, kept = np.unique(snapshot_steps(row["epochs"] * one.steps_per_epoch, shared.snapshots), return_inverse=True)
    return Learner(one, targets, layout, at, kept)


def _channels(grey: bool) -> int:
    return 1 if grey else 3


def _forward(family: ModuleType, one: Learner) -> tuple[tuple[str, Any], ...]:
    return tuple((name, one.one.row[name]) for name in family.FORWARD)


def _at_once(one: Learner, device: torch.device) -> int:
    return 16 if device.type == "cpu" else 512


def _train(block: Block, shared: Shared, watch: _Watch) -> Iterator[xr.Dataset]:
    started = time.monotonic()
    while True:
        due = [k for k, one in enumerate(block.learners) if block.step_number in one.at]
        block.evaluate(due)
        over = [k for k in due if block.learners[k].length == block.step_number]
        for k in over:
            watch.finished += 1
            yield _result(block.learners[k], shared, time.monotonic() - started)
        watch.report()
        if len(over) == len(block.learners):
            return
        if over:
            block.keep([k for k in range(len(block.learners)) if k not in over])
        block.step()


def _result(learner: Learner, shared: Shared, seconds: float) -> xr.Dataset:
    one = learner.one
    return finished(
        one.row,
        learner.layout,
        np.stack(learner.weights)[learner.kept],
        learner.curves,
        shared,
        steps=learner.length,
        epochs=learner.at[learner.kept] // one.steps_per_epoch,
        seconds=seconds,
        kept=learner.kept,
    )
