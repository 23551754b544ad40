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

``IMAGES_AT_ONCE``
    Where the default does not suit: images of all networks in one pass, by kind of device. As many networks make a
    block as have a batch in it, at least two; larger batches are computed in pieces, whose gradients are added.

Networks that agree in their layout, what ``outputs`` takes and the batch size may share a block. On a CPU each core has
a block of its own. Alone and in a crowd a network is the same up to rounding, which long training makes large: most
crowds gave the same bits, but a small CNN among eight differed by 1e-8 after a few steps from the same among four.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from nwslib import space
from nwslib.population import draws
from nwslib.population.blocks import cut, in_threads, thread_count
from nwslib.population.images import ImageSet
from nwslib.population.networks import FAMILIES
from nwslib.population.shared import CURVES, EPSILON, KEEP_A, KEEP_V, Shared, Watch, finished, snapshot_steps
from nwslib.population.slots import Bank, Member, bank, member, rows
from nwslib.snapshots.layout import Layout
from nwslib.space import nearest

#: The epoch of the highest rate in a triangular schedule; half way where that comes first.
PEAK = 5

#: Images of all networks in one pass: on a CPU so few that what they leave in memory stays in the cache.
IMAGES_AT_ONCE = {"cpu": 512, "cuda": 2**16}

Rows = list[dict[str, Any]]

_VECTOR = 32  # numbers that PyTorch's loops take at once


@dataclass(eq=False)
class Learner:
    """One network: what it learns from, and what is known of it so far."""

    one: Member
    images: Bank  # that holds them
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

    def rates(self, name: str) -> np.ndarray:
        """Give its learning rate in each step, by the schedule of this name."""
        factors = schedule(name, self.one.row["epochs"], np.arange(self.length), self.one.steps_per_epoch)
        return self.one.row["learning_rate"] * factors


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

    Returns
    -------
    iterator of xarray.Dataset
        One network each, as `nwslib.snapshots.schema` describes it. ``train_accuracy`` and ``train_loss`` are means
        over the batches since the evaluation before, each before its step; the labels are those that it learns, with
        their noise. Validation and test labels have none.

    Raises
    ------
    ValueError
        If the family is unknown, or the batch of a network is larger than its epoch.
    """
    every = rows(design)
    _check(every, images, shared.device)
    return _trained(every, images, shared)


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
    bits = draws.words(torch.tensor([seed], device=labels.device), draws.LABEL_NOISE, 0, 0, 2 * len(labels))[0]
    replaced = torch.argsort(bits[: len(labels)], stable=True)[: round(noise * len(labels))]
    return labels.index_copy(0, replaced, (bits[len(labels) :] % classes)[replaced])


def banks(images: Mapping[str, ImageSet], device: torch.device) -> dict[int, Bank]:
    """Put image sets into banks, one for each number of channels: 1 for grey images, else 3.

    Parameters
    ----------
    images
        By name.
    device
        Where the banks shall be.

    Returns
    -------
    dict of int to Bank
        By channels.
    """
    found = {}
    for channels in sorted({one.channels for one in images.values()}):
        some = bank({name: one for name, one in images.items() if one.channels == channels}, device)
        found[channels] = replace(some, images=some.images[..., :channels].contiguous())
    return found


def learner(
    row: Mapping[str, Any],
    family: ModuleType,
    images: Mapping[str, ImageSet],
    found: Mapping[int, Bank],
    shared: Shared,
) -> Learner:
    """Prepare a network: its split, the noise in its labels, and the steps at which it is evaluated.

    Parameters
    ----------
    row
        Of the design.
    family
        Its module.
    images
        By name.
    found
        From `banks`, of these images.
    shared
        What all networks of the training share.

    Returns
    -------
    Learner
        Before its first step.
    """
    its = images[row["dataset"]]
    one = member(row, found[its.channels])
    targets = noisy_labels(row["seed"], one.labels, row.get("label_noise", 0.0), len(its.classes))
    at, kept = np.unique(snapshot_steps(row["epochs"] * one.steps_per_epoch, shared.snapshots), return_inverse=True)
    return Learner(one, found[its.channels], targets, _layout(row, family, its), at, kept)


class Block:
    """Networks in training side by side, and their stacked state, with ``m`` in front.

    So that a network rounds alike in most company, two are there at least, the second one idle if need be: a single
    group is convolved by another kernel than several. And weight vectors are padded to whole vectors of the processor.

    Parameters
    ----------
    family
        Module of their family.
    learners
        The networks, of one layout and batch size.
    shared
        What all networks of the training share.
    """

    def __init__(self, family: ModuleType, learners: list[Learner], shared: Shared) -> None:
        self.family, self.learners = family, learners
        first = learners[0]
        self.layout, self.images, self.batch = first.layout, first.images, first.one.row["batch_size"]
        self.forward = dict(_forward(family, first.one.row))
        self.piece = _piece(family, self.batch, shared.device)
        self.mixed = shared.mixed
        self.white = torch.tensor(255, dtype=shared.dtype, device=shared.device)
        self.steps = 0
        seeds = torch.tensor([learner.one.row["seed"] for learner in self._padded(learners)], device=shared.device)
        weights = family.initial_weights(self.layout, seeds).to(shared.dtype)
        self.weights = F.pad(weights, (0, -self.layout.size % _VECTOR))
        self.a, self.v = torch.zeros_like(self.weights), torch.zeros_like(self.weights)  # Adam's two moments
        self.correct = torch.zeros_like(seeds)  # right answers since its evaluation
        self.loss = self.weights.new_zeros(len(seeds))  # summed over the steps since then
        longest = max(learner.one.steps_per_epoch for learner in learners) * self.batch
        self.orders = seeds.new_zeros(len(seeds), longest)  # images of this epoch
        self.targets = seeds.new_zeros(len(seeds), longest)  # and their labels
        self._describe()

    @staticmethod
    def _padded(some: list[Any]) -> list[Any]:
        """Repeat what is alone."""
        return some * 2 if len(some) == 1 else some

    @property
    def vectors(self) -> Tensor:
        """The weight vectors, (m, w)."""
        return self.weights[:, : self.layout.size]

    def _describe(self) -> None:
        every = [learner.one.row for learner in self._padded(self.learners)]
        self.decays = np.array([row.get("weight_decay", 0.0) for row in every])
        self.smoothing = self.weights.new_tensor([row.get("label_smoothing", 0.0) for row in every])[:, None]
        self.rates = np.zeros((len(every), max(learner.length for learner in self.learners)))
        for place, learner in enumerate(self.learners):
            self.rates[place, : learner.length] = learner.rates(self.family.SCHEDULE)

    def keep(self, places: list[int]) -> None:
        """Go on with the networks at these places alone, at least one."""
        self.learners = [self.learners[place] for place in places]
        index = torch.tensor(self._padded(places), device=self.weights.device)
        for name in ("weights", "a", "v", "correct", "loss", "orders", "targets"):
            setattr(self, name, getattr(self, name)[index])
        self._describe()

    def step(self) -> None:
        """Take one optimiser step with every network."""
        for place, learner in enumerate(self.learners):
            if self.steps % learner.one.steps_per_epoch == 0:
                self._start_epoch(place, learner)
        self._update(self._gradient(*self._batch()))
        self.steps += 1

    def _start_epoch(self, place: int, learner: Learner) -> None:
        one = learner.one
        order = draws.epoch_order(one.row["seed"], self.steps // one.steps_per_epoch, one.labels)
        order = order[: one.steps_per_epoch * self.batch]
        self.orders[place, : len(order)] = one.train[order]
        self.targets[place, : len(order)] = learner.targets[order]

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Give each network's images, as places in the bank, and their labels: (m, b) both."""
        lengths = [learner.one.steps_per_epoch for learner in self._padded(self.learners)]
        starts = torch.tensor([self.steps % length * self.batch for length in lengths])
        places = (starts[:, None] + torch.arange(self.batch)).to(self.orders.device)
        return self.orders.gather(1, places), self.targets.gather(1, places)

    def _gradient(self, index: Tensor, targets: Tensor) -> Tensor:
        """Give the gradient of every network, (m, w), and count right answers and losses."""
        pieces = zip(index.split(self.piece, 1), targets.split(self.piece, 1), strict=True)
        gradients = [self._piece_gradient(*piece) for piece in pieces]
        return torch.stack(gradients).sum(0) if len(gradients) > 1 else gradients[0]

    def _piece_gradient(self, index: Tensor, targets: Tensor) -> Tensor:
        leaf = self.weights.detach().requires_grad_()
        logits = self._outputs(leaf, index)
        shares = logits.log_softmax(-1)
        wrong = -shares.gather(-1, targets[..., None])[..., 0]
        losses = (1 - self.smoothing) * wrong - self.smoothing * shares.mean(-1)  # (m, b)
        (gradient,) = torch.autograd.grad(losses, leaf, torch.full_like(losses, 1 / self.batch))
        self.correct += (logits.argmax(-1) == targets).sum(1)
        self.loss += losses.detach().sum(1) / self.batch
        return gradient

    def _outputs(self, weights: Tensor, index: Tensor) -> Tensor:
        sizes = [tensor.size for tensor in self.layout.tensors]
        *parts, _ = weights.split([*sizes, weights.shape[1] - self.layout.size], dim=1)
        tensors = {
            tensor.name: part.unflatten(1, tensor.shape)
            for tensor, part in zip(self.layout.tensors, parts, strict=True)
        }
        images = self.images.images.index_select(0, index.flatten()) / self.white
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            return self.family.outputs(tensors, images.unflatten(0, index.shape), **self.forward).to(images.dtype)

    def _update(self, gradient: Tensor) -> None:
        """Adam with decoupled weight decay, its epsilon added to the corrected root."""
        corrected_a, corrected_v = (1 - keep ** (self.steps + 1) for keep in (KEEP_A, KEEP_V))
        rates = self.rates[:, self.steps]
        column = lambda values: self.weights.new_tensor(values)[:, None]  # noqa: E731
        self.a.lerp_(gradient, 1 - KEEP_A)
        self.v.mul_(KEEP_V).addcmul_(gradient, gradient, value=1 - KEEP_V)
        root = torch.sqrt(self.v, out=gradient).add_(EPSILON * corrected_v**0.5)
        if self.decays.any():
            self.weights.mul_(column(1 - rates * self.decays))
        self.weights.sub_((self.a * column(rates * corrected_v**0.5 / corrected_a)).div_(root))

    def evaluate(self, places: list[int]) -> None:
        """Note the weights, the accuracies and the loss of the networks at these places."""
        chosen = torch.tensor(self._padded(places), device=self.weights.device)
        weights = self.weights[chosen]
        vectors = self.vectors[chosen].float().cpu().numpy()
        accuracies = self._accuracies(weights, self._padded([self.learners[place].one for place in places]))
        right, loss = self.correct.tolist(), self.loss.tolist()
        for k, place in enumerate(places):
            learner = self.learners[place]
            steps = self.steps - learner.steps
            means = (right[place] / (steps * self.batch), loss[place] / steps) if steps else (np.nan, np.nan)
            for name, value in zip(CURVES, (means[0], *accuracies[k], means[1]), strict=True):
                learner.curves.setdefault(name, []).append(value)
            learner.weights.append(vectors[k])
            learner.steps = self.steps
        self.correct[chosen] = 0
        self.loss[chosen] = 0

    @torch.no_grad()
    def _accuracies(self, weights: Tensor, members: list[Member]) -> list[tuple[float, float]]:
        """Give validation and test accuracy of each."""
        listed = [torch.cat((one.valid, one.test)) for one in members]
        index = torch.nn.utils.rnn.pad_sequence(listed, batch_first=True)
        pieces = F.pad(index, (0, -index.shape[1] % self.piece)).split(self.piece, 1)
        right = [self._outputs(weights, part).argmax(-1) == self.images.labels[part] for part in pieces]
        right = torch.cat(right, 1).cpu().numpy()
        ends = [(len(one.valid), len(one.valid) + len(one.test)) for one in members]
        return [(right[k, :valid].mean(), right[k, valid:end].mean()) for k, (valid, end) in enumerate(ends)]


def _check(every: Rows, images: Mapping[str, ImageSet], device: torch.device) -> None:
    known = [name for name, task in space.FAMILIES if task == "classify"]
    for row in every:
        if row["family"] not in known:
            raise ValueError(f"family {row['family']!r} has no classifiers. {nearest(row['family'], known)}")
        # Only where a batch may be larger than an epoch is the split drawn for that.
        if row["batch_size"] > draws.balanced_count(images[row["dataset"]].train_labels) // 2:
            member(row, bank({row["dataset"]: images[row["dataset"]]}, device))


def _trained(every: Rows, images: Mapping[str, ImageSet], shared: Shared) -> Iterator[xr.Dataset]:
    family = FAMILIES[every[0]["family"]]
    threads = thread_count(shared)
    watch = Watch(len(every), shared.progress)
    results = _results(_blocks(every, family, images, shared, threads), family, images, shared, threads)
    try:
        for result in results:
            yield result
            watch.report(1)
    finally:
        results.close()
        watch.end()


def _blocks(
    every: Rows, family: ModuleType, images: Mapping[str, ImageSet], shared: Shared, threads: int
) -> Iterator[Rows]:
    """Cut rows that agree in shape into blocks, the longest first, so that no core ends alone with them."""

    def kind(row: dict[str, Any]) -> tuple:
        return _layout(row, family, images[row["dataset"]]).name, _forward(family, row), row["batch_size"]

    kinds = {row["model"]: kind(row) for row in every}
    ordered = sorted(every, key=lambda row: (kinds[row["model"]], -row["epochs"]))
    for (_, _, batch), group in groupby(ordered, lambda row: kinds[row["model"]]):
        some = list(group)
        most = max(1, shared.slots // threads) if shared.slots else _networks(family, batch, shared.device)
        yield from cut(some, most, threads)


def _at_once(family: ModuleType, device: torch.device) -> int:
    return getattr(family, "IMAGES_AT_ONCE", IMAGES_AT_ONCE)["cpu" if device.type == "cpu" else "cuda"]


def _networks(family: ModuleType, batch: int, device: torch.device) -> int:
    """Give the networks of a block, unless the user says it."""
    return max(2, _at_once(family, device) // batch)


def _piece(family: ModuleType, batch: int, device: torch.device) -> int:
    """Give the images of each network in one pass: as many however many networks there are."""
    return max(1, _at_once(family, device) // _networks(family, batch, device))


def _forward(family: ModuleType, row: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, row[name]) for name in family.FORWARD)


def _layout(row: Mapping[str, Any], family: ModuleType, images: ImageSet) -> Layout:
    return family.classifier(row, images.channels, len(images.classes))


def _results(
    blocks: Iterator[Rows], family: ModuleType, images: Mapping[str, ImageSet], shared: Shared, threads: int
) -> Iterator[xr.Dataset]:
    """Train blocks: on a CPU one on each thread, else one after another, whose networks come as they end."""
    found = banks(images, shared.device)

    def trained(some: Rows, stop: threading.Event) -> Iterator[xr.Dataset]:
        learners = [learner(row, family, images, found, shared) for row in some]
        yield from _train(Block(family, learners, shared), shared, stop)

    if shared.device.type != "cpu":
        for some in blocks:
            yield from trained(some, threading.Event())
        return
    with closing(in_threads(blocks, lambda some, stop: list(trained(some, stop)), threads)) as results:
        for _, networks in results:
            yield from networks


def _train(block: Block, shared: Shared, stop: threading.Event) -> Iterator[xr.Dataset]:
    """Train a block to the end and give each network when its epochs are over."""
    started = time.monotonic()
    while not stop.is_set():
        due = [k for k, learner in enumerate(block.learners) if block.steps in learner.at]
        if due:
            block.evaluate(due)
        over = [k for k in due if block.learners[k].length == block.steps]
        for k in over:
            yield _result(block.learners[k], shared, time.monotonic() - started)
            block.learners[k].weights.clear()
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
