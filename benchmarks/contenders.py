"""Other ways to train many small networks, which the population engine is measured against.

`loop`, `vmap` and `modelbatch` train networks of one architecture, batch size, optimiser and rate: all that the latter
two can do. Each gives a `Contender`: one call is one optimiser step for every network, on batches that already lie on
the device. `mixed_loop` trains any design, one network after another, with its images, augmentation and evaluations.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, cycle, islice

import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from nwslib import space
from nwslib.population import draws
from nwslib.population.device import resolve_device
from nwslib.population.images import ImageSet
from nwslib.population.networks import cnn
from nwslib.population.slots import Member, bank, member, rows
from nwslib.population.speed import train_alone
from nwslib.snapshots.layout import Layout

SHAPES = {name: {**space.CONSTANTS, **space.COLLECTIONS[f"nws_{name}"]} for name in ("fixed", "small")}
CLASSES = 10
RATE = 0.001
OPTIMIZERS = {
    "adam": partial(torch.optim.Adam, lr=RATE, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, lr=RATE, alpha=0.9, eps=1e-10, foreach=True),
    "momentum": partial(torch.optim.SGD, lr=RATE, momentum=0.95, fused=True),
}


@dataclass(frozen=True)
class Contender:
    """Networks in training, one way.

    Attributes
    ----------
    images
        Trained on in one call: networks x batch.
    threads
        That a call uses; afterwards there are as many as before.
    advance
        Takes as many optimiser steps as there are networks, and gives the loss before each, shape (m,).
    state
        Gives the parameters and moving statistics by name, each of shape (m, ...).
    note
        What a reader of its figures should know, or nothing.
    """

    images: int
    threads: int
    advance: Callable[[], Tensor]
    state: Callable[[], Mapping[str, Tensor]]
    note: str = ""

    def __call__(self) -> Tensor:
        """Take one optimiser step for every network; on a GPU, wait for it yourself."""
        with _threads(self.threads):
            return self.advance()


def loop(
    shape: str,
    networks: int,
    batch: int,
    device: str | torch.device,
    seed: int,
    *,
    threads: int | None = None,
    consecutive: int = 64,
    optimizers: Sequence[str] = ("adam",),
    activations: Sequence[str] = ("relu",),
    dropout: float = 0.5,
    dtype: torch.dtype = torch.float32,
) -> Contender:
    """Train one network at a time: channels last, PyTorch's own layers and its fused optimisers.

    Parameters
    ----------
    shape
        ``"fixed"`` or ``"small"``: the architecture of nws_fixed or nws_small.
    networks, batch
        How many, and images in the batch of each.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    seed
        Of the images and of the first network; the next ones follow.
    threads
        None: as many as torch uses now.
    consecutive
        Steps that a network takes before the next one has its turn: its weights stay in the cache, as they do where a
        network is trained to its end.
    optimizers, activations
        Given out to the networks in turn.
    dropout
        Chance that a unit is dropped.
    dtype
        Of everything but the labels.

    Returns
    -------
    Contender
        One call takes `networks` steps in all, of as many networks as `consecutive` allows.

    Raises
    ------
    ValueError
        If the shape, an optimiser or the device is unknown, or a number is not positive.
    """
    if consecutive < 1:
        raise ValueError(f"consecutive must be at least 1, not {consecutive}")
    for name in optimizers:
        if name not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {name!r}. {space.nearest(name, OPTIMIZERS)}")
    images, labels = _batches(shape, networks, batch, device, seed, dtype)
    images = [one.contiguous(memory_format=torch.channels_last) for one in images]
    modules = [
        module.to(memory_format=torch.channels_last)
        for module in _modules(shape, networks, device, seed, activations, dropout, dtype)
    ]
    rules = [OPTIMIZERS[name](module.parameters()) for name, module in zip(cycle(optimizers), modules, strict=False)]
    turns = (number for _ in count() for number in range(networks) for _ in range(consecutive))

    def advance() -> Tensor:
        losses = []
        for number in islice(turns, networks):
            rules[number].zero_grad(set_to_none=True)
            loss = F.cross_entropy(modules[number](images[number]), labels[number])
            loss.backward()
            rules[number].step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return Contender(networks * batch, threads or torch.get_num_threads(), advance, lambda: _stacked(modules))


def vmap(
    shape: str,
    networks: int,
    batch: int,
    device: str | torch.device,
    seed: int,
    *,
    threads: int | None = None,
    compiled: bool = False,
    dropout: float = 0.5,
    dtype: torch.dtype = torch.float32,
) -> Contender:
    """Train all networks at once with torch.func: stacked weights, one fused Adam over the stacks.

    Parameters
    ----------
    shape, networks, batch, device, seed, threads, dropout, dtype
        As for `loop`.
    compiled
        Compile the vectorised forward and backward pass: half a minute in the first call.

    Returns
    -------
    Contender
        With batch norm's moving statistics kept, one set per network.

    Raises
    ------
    ValueError
        If the shape or the device is unknown, or a number is not positive.

    Notes
    -----
    The usual recipe differentiates inside, ``vmap(grad(loss))``. Differentiating the sum of the vectorised losses gives
    the same gradients, 10 to 25 % faster on 2 cores. Images that lie networks beside channels in memory, so that the
    grouped convolutions run channels last, make it another 5 to 15 % faster.
    """
    images, labels = _batches(shape, networks, batch, device, seed, dtype)
    images = _networks_beside_channels(images)
    modules = _modules(shape, networks, device, seed, ("relu",), dropout, dtype)
    parameters, buffers = stack_module_state(modules)
    optimizer = OPTIMIZERS["adam"](parameters.values())

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(modules[0], (parameters, buffers), (images,)), labels)

    every_loss = torch.func.vmap(loss, randomness="different")
    if compiled:
        every_loss = torch.compile(every_loss)

    def advance() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        losses = every_loss(parameters, buffers, images, labels)
        losses.sum().backward()
        optimizer.step()
        return losses.detach()

    return Contender(networks * batch, threads or torch.get_num_threads(), advance, lambda: {**parameters, **buffers})


def modelbatch(
    shape: str,
    networks: int,
    batch: int,
    device: str | torch.device,
    seed: int,
    *,
    threads: int | None = None,
    fused: bool = False,
    dropout: float = 0.5,
    dtype: torch.dtype = torch.float32,
) -> Contender:
    """Train all networks at once with the package modelbatch, as its own examples use it.

    Parameters
    ----------
    shape, networks, batch, device, seed, threads, dropout, dtype
        As for `loop`.
    fused
        Ask its Adam for PyTorch's fused kernels; its examples do not.

    Returns
    -------
    Contender
        It runs the network as it is, moving statistics included.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed.
    ValueError
        If the shape or the device is unknown, or a number is not positive.

    Notes
    -----
    Version 0.1.0: https://github.com/Rock-Z/ModelBatch. One parameter group per network, so that rates may differ.
    """
    try:
        from modelbatch import ModelBatch, OptimizerFactory
        from modelbatch.optimizer import create_adam_configs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("modelbatch is not installed: pip install 'nwslib[benchmark]'") from error

    images, labels = _batches(shape, networks, batch, device, seed, dtype)
    images = _networks_beside_channels(images)
    together = ModelBatch(_modules(shape, networks, device, seed, ("relu",), dropout, dtype), shared_input=False)
    factory = OptimizerFactory(torch.optim.Adam, {"fused": True} if fused else None)
    optimizer = factory.create_optimizer(together, create_adam_configs([RATE] * networks))

    def advance() -> Tensor:
        optimizer.zero_grad()
        together.compute_loss(together(images), labels, F.cross_entropy).backward()
        optimizer.step()
        return together.latest_losses

    return Contender(
        networks * batch,
        threads or torch.get_num_threads(),
        advance,
        lambda: {**together.stacked_params, **together.stacked_buffers},
        note="its forward pass puts the random state back, so that every step drops the same units",
    )


def mixed_loop(
    design: xr.Dataset,
    images: Mapping[str, ImageSet],
    epochs: int = 5,
    images_per_epoch: int | None = 2000,
    *,
    device: str | torch.device = "auto",
    threads: int | None = None,
    evaluate: bool = True,
) -> tuple[int, float]:
    """Train the networks of a design one after another, each as its row says.

    Parameters
    ----------
    design
        Of any architectures, batch sizes, optimisers, activations, augmentations and image sets.
    images
        Image sets by name, of the design's image size.
    epochs
        Of each network.
    images_per_epoch
        Cut down to whole batches; a set that holds fewer shows them again. None: what the set holds.
    device, threads
        As for `loop`.
    evaluate
        Whether all validation and test images are evaluated before the first epoch and after each.

    Returns
    -------
    tuple of int and float
        Images trained on, and seconds.

    Raises
    ------
    ValueError
        If an epoch is smaller than a batch, or the device is unknown.
    """
    everything = bank(images, resolve_device(device))
    members = [member(row, everything) for row in rows(design)]
    if images_per_epoch is not None:
        members = [_with_epoch(one, images_per_epoch) for one in members]
    if not evaluate:
        members = [replace(one, valid=one.valid[:0], test=one.test[:1]) for one in members]
    start = time.perf_counter()
    with _threads(threads or torch.get_num_threads()):
        for one in members:
            train_alone(one, everything, epochs)
    seconds = time.perf_counter() - start
    return epochs * sum(one.steps_per_epoch * one.row["batch_size"] for one in members), seconds


def _with_epoch(one: Member, images: int) -> Member:
    batch = one.row["batch_size"]
    if images < batch:
        raise ValueError(
            f"network {one.row['model']}: an epoch of {images} images is smaller than its batch of {batch}"
        )
    times = -(-images // draws.balanced_count(one.labels))
    return replace(one, train=one.train.repeat(times), labels=one.labels.repeat(times), steps_per_epoch=images // batch)


def _layout(shape: str) -> Layout:
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}. {space.nearest(shape, SHAPES)}")
    return cnn.layout(**{name: SHAPES[shape][name] for name in space.ARCHITECTURE if name != "family"})


def _modules(
    shape: str,
    networks: int,
    device: str | torch.device,
    seed: int,
    activations: Sequence[str],
    dropout: float,
    dtype: torch.dtype,
) -> list[nn.Module]:
    layout, modules = _layout(shape), []
    for number, activation in zip(range(networks), cycle(activations), strict=False):
        vector = draws.initial_weights(layout, seed + number, "glorot_uniform").to(dtype)
        module = cnn.to_module(layout, vector, activation=activation)
        for part in module:
            if isinstance(part, nn.Conv2d):
                part.bias = None  # in front of a batch norm it has no effect: nobody spends time on it
            if isinstance(part, nn.Dropout):
                part.p = dropout
        modules.append(module.train().to(resolve_device(device)))
    return modules


def _batches(
    shape: str, networks: int, batch: int, device: str | torch.device, seed: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Draw a batch for each network: noise over one pattern per class, (m, b, c, y, x) in [0, 1], and labels (m, b)."""
    _layout(shape)
    if min(networks, batch) < 1:
        raise ValueError(f"networks and batch must be at least 1, not {networks} and {batch}")
    generator, side = torch.Generator().manual_seed(seed), SHAPES[shape]["image_size"]
    patterns = torch.rand(CLASSES, 3, side, side, generator=generator, dtype=dtype)
    labels = torch.randint(CLASSES, (networks, batch), generator=generator)
    noise = torch.rand(networks, batch, 3, side, side, generator=generator, dtype=dtype)
    return noise.add_(patterns[labels]).div_(2).to(resolve_device(device)), labels.to(resolve_device(device))


def _networks_beside_channels(images: Tensor) -> Tensor:
    """Lay (m, b, c, y, x) out in memory as b, y, x, m, c: grouped convolution under vmap then runs channels last."""
    return images.permute(1, 3, 4, 0, 2).contiguous().permute(3, 0, 4, 1, 2)


def _stacked(modules: list[nn.Module]) -> dict[str, Tensor]:
    parameters, buffers = stack_module_state(modules)
    return {**parameters, **buffers}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
