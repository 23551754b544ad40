"""Image networks: one network per image, thousands at a time, fitted with full-batch Adam on all pixels.

A network maps a pixel's coordinates to its value. Its *family* is a module of `nwslib.population.networks` that has

``ARCHITECTURE``
    Columns of the design that fix the tensors of a network and its program: ``("width", "depth", "frequency")``.
``layout(channels, **architecture) -> Layout``
    Of networks with so many outputs; `architecture` holds the columns named above.
``initial_weights(layout, seeds, **architecture) -> Tensor``
    Shape (m, w), float64, on the CPU: each row from its own seed alone, seeds of shape (m,), int64.
``gradient(layout, inputs, targets, **architecture) -> Gradient``
    The program of m networks. `inputs` (b, 2) are coordinates (row, column) from -1 to 1, the same for all; `targets`
    (m, b, c) are pixels from 0 to 1. Their device and precision are those of the weights. Called with weights (m, w)
    and a tensor (m, w) to fill, it gives each network's mean squared error over pixels and channels, (m,), and fills
    the tensor with the gradient of each. It keeps its buffers and belongs to one thread; the result of a network does
    not depend on its neighbours, but for rounding.
``compiled(inputs, **architecture) -> bool``
    Whether that program is compiled, so that a network has the same bits in any company.
``at_once(layout, pixels, device) -> int``
    How many networks make a block: as many as were measured to be fast.
``to_module(layout, vector, **architecture) -> nn.Module``
    One network: takes coordinates (b, 2) and gives pixels (b, c).
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nwslib import space
from nwslib.population.blocks import cut, in_threads, thread_count
from nwslib.population.images import ImageSet
from nwslib.population.lanes import waves
from nwslib.population.networks import FAMILIES
from nwslib.population.shared import EPSILON, KEEP_A, KEEP_V, Shared, Watch, finished, snapshot_steps
from nwslib.population.slots import rows
from nwslib.snapshots.layout import Layout
from nwslib.space import nearest

#: The seed of the one draw that all networks of ``initialization="shared"`` start from.
SHARED_SEED = 0


@dataclass(frozen=True)
class Block:
    """Networks of one layout that are fitted together."""

    family: ModuleType
    layout: Layout
    architecture: Mapping[str, Any]
    steps: int
    every: list[dict[str, Any]]  # their rows


@dataclass(frozen=True)
class Fit:
    """What became of a block: weights (m, s, w), squared errors of its snapshots, (m, s), and what computed them."""

    weights: np.ndarray
    losses: np.ndarray
    seconds: float
    implementation: str


def fit_rows(design: xr.Dataset, images: Mapping[str, ImageSet], shared: Shared) -> Iterator[xr.Dataset]:
    """Fit the image networks of a design, a block on each thread, and give each network when its block is done.

    Parameters
    ----------
    design
        Of one family.
    images
        By name; of the design's image size. Grey sets have one channel here.
    shared
        What all networks of the training share.

    Returns
    -------
    iterator of xarray.Dataset
        One network each. ``train_loss`` is its mean squared error at each snapshot, ``psnr`` that of the last in dB, of
        a peak of 1; no accuracy is measured.

    Raises
    ------
    ValueError
        Before anything is fitted: if a family, an optimiser or an initialisation is unknown, or an image set has no
        image of that number.
    """
    every = rows(design)
    _check(every, images)
    return _fitted(every, images, shared)


def _fitted(every: list[dict[str, Any]], images: Mapping[str, ImageSet], shared: Shared) -> Iterator[xr.Dataset]:
    threads, watch = thread_count(shared), Watch(len(every), shared.progress)
    blocks, ratios = _blocks(every, images, shared, threads), []
    fits = in_threads(blocks, lambda block, stop: _fit(block, images, shared, stop), threads)
    try:
        for block, fit in fits:
            for k, row in enumerate(block.every):
                yield _finished(block, row, k, fit, images, shared)
            ratios += signal_to_noise(fit.losses[:, -1]).tolist()
            sound = np.isfinite(ratios)  # those that diverged have no ratio
            watch.report(len(fit.losses), f"median {np.median(np.array(ratios)[sound]):.1f} dB" if sound.any() else "")
    finally:
        fits.close()
        watch.end()


def coordinates(side: int) -> Tensor:
    """Give the coordinates of an image's pixels, row by row.

    Returns
    -------
    torch.Tensor
        Shape (b, 2), float64: row and column, the centres of the outermost pixels at -1 and 1.

    Examples
    --------
    >>> coordinates(2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def signal_to_noise(losses: np.ndarray) -> np.ndarray:
    """Give the peak signal-to-noise ratio in dB of mean squared errors, for pixels from 0 to 1.

    Examples
    --------
    >>> signal_to_noise(np.array([0.01, 0.001])).tolist()
    [20.0, 30.0]
    """
    with np.errstate(divide="ignore"):
        return -10 * np.log10(np.asarray(losses, "float64"))


def initial_weights(block: Block) -> Tensor:
    """Draw the initial weights of a block: (m, w), float64; each network's own, or the one draw that all share."""
    own = [row["seed"] if row["initialization"] == "own" else SHARED_SEED for row in block.every]
    return block.family.initial_weights(block.layout, torch.tensor(own), **block.architecture)


def _check(every: list[dict[str, Any]], images: Mapping[str, ImageSet]) -> None:
    families = [name for name, task in space.FAMILIES if task == "image"]
    known = {"family": families, "optimizer": ("adam",), "initialization": ("own", "shared")}
    for row in every:
        for name, values in known.items():
            if row[name] not in values:
                raise ValueError(f"image networks have no {name} {row[name]!r}. {nearest(row[name], values)}")
        count = len(images[row["dataset"]].train_images)
        if not 0 <= row["image"] < count:
            raise ValueError(
                f"network {row['model']} needs image {row['image']} of {row['dataset']!r}, but there are {count} "
                f"training images, numbered from 0. {nearest(row['image'], (0, count - 1))}"
            )


def _blocks(
    every: list[dict[str, Any]], images: Mapping[str, ImageSet], shared: Shared, threads: int
) -> Iterator[Block]:
    """Cut the rows into blocks of networks that agree in everything but image, seed and learning rate."""

    def kind(row: dict[str, Any]) -> tuple:
        family = FAMILIES[row["family"]]
        architecture = tuple(row[name] for name in family.ARCHITECTURE)
        return row["family"], architecture, images[row["dataset"]].channels, row["image_size"], row["steps"]

    for (name, values, channels, side, steps), group in groupby(sorted(every, key=kind), kind):
        family = FAMILIES[name]
        architecture = dict(zip(family.ARCHITECTURE, values, strict=True))
        layout, some = family.layout(channels, **architecture), list(group)
        most = shared.slots // threads if shared.slots else family.at_once(layout, side * side, shared.device)
        for part in cut(some, most, threads):
            yield Block(family, layout, architecture, steps, part)


def _fit(block: Block, images: Mapping[str, ImageSet], shared: Shared, stop: threading.Event) -> Fit:
    """Fit one block."""
    started = time.monotonic()
    options = {"dtype": shared.dtype, "device": shared.device}
    inputs = coordinates(block.every[0]["image_size"]).to(**options)
    targets = torch.stack([_pixels(images[row["dataset"]], row["image"]) for row in block.every]).to(**options) / 255
    gradient = block.family.gradient(block.layout, inputs, targets, **block.architecture)
    weights = initial_weights(block).to(**options)
    at = snapshot_steps(block.steps, shared.snapshots)
    kept = np.empty((len(weights), len(at), block.layout.size), "float32")
    losses = np.empty((len(weights), len(at)))
    adam = Adam(weights, [row["learning_rate"] for row in block.every])
    for step in range(block.steps + 1):
        if stop.is_set():
            raise InterruptedError("the training was ended")
        found = gradient(weights, adam.gradient)
        for s in np.flatnonzero(at == step):
            kept[:, s], losses[:, s] = weights.float().cpu().numpy(), found.cpu().numpy()
        if step < block.steps:
            adam.step()
    implementation = "compiled" if block.family.compiled(inputs, **block.architecture) else "stacked"
    return Fit(kept, losses, time.monotonic() - started, implementation)


def _pixels(images: ImageSet, number: int) -> Tensor:
    """Give an image as uint8 (b, c)."""
    return images.train_images[number].flatten(0, 1)[:, : images.channels]


class Adam:
    """Adam on stacked weights, with a learning rate for each network.

    Parameters
    ----------
    weights
        Shape (m, w); changed in place.
    rates
        Learning rates, one per network.

    Attributes
    ----------
    gradient
        Shape (m, w): to be filled before each step, used up by it.

    Notes
    -----
    Kingma and Ba, "Adam: a method for stochastic optimization", 2015: bias-corrected, 0.9, 0.999, 1e-8. On a CPU
    compiled, so that a network has the same bits in any company.
    """

    def __init__(self, weights: Tensor, rates: list[float]) -> None:
        self.weights = weights
        self.gradient, self.a, self.v = torch.empty_like(weights), torch.zeros_like(weights), torch.zeros_like(weights)
        self.rates = torch.tensor(rates, dtype=torch.float64)
        self.steps = 0

    def step(self) -> None:
        """Take one step with every network."""
        if self.weights.device.type == "cpu":
            self.steps += 1
            state = (self.weights, self.gradient, self.a, self.v, self.rates)
            waves.adam(*(one.numpy() for one in state), self.steps)
        else:
            self.stacked_step()

    def stacked_step(self) -> None:
        """Take it with plain operations on stacked tensors, on any device."""
        self.steps += 1
        rates = (self.rates / (1 - KEEP_A**self.steps)).to(self.weights)[:, None]
        self.a.lerp_(self.gradient, 1 - KEEP_A)
        self.v.mul_(KEEP_V).addcmul_(self.gradient, self.gradient, value=1 - KEEP_V)
        root = torch.sqrt(self.v, out=self.gradient).mul_((1 - KEEP_V**self.steps) ** -0.5).add_(EPSILON)
        self.weights.sub_(torch.div(self.a, root, out=root).mul_(rates))


def _finished(
    block: Block, row: dict[str, Any], k: int, fit: Fit, images: Mapping[str, ImageSet], shared: Shared
) -> xr.Dataset:
    """Describe the k-th network of a block."""
    one, losses = images[row["dataset"]], fit.losses[k]
    return finished(
        row,
        block.layout,
        fit.weights[k],
        {"train_loss": losses},
        shared,
        steps=block.steps,
        epochs=snapshot_steps(block.steps, shared.snapshots),
        seconds=fit.seconds,
        implementation=fit.implementation,
        label=one.classes[int(one.train_labels[row["image"]])],
        psnr=float(signal_to_noise(losses[-1])),
    )
