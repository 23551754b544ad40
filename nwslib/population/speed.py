"""How fast a crowd trains, and the ordinary PyTorch loop over single networks that it is measured against."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

from nwslib import space
from nwslib.population import draws
from nwslib.population.augment import augment
from nwslib.population.device import resolve_device
from nwslib.population.images import ImageSet
from nwslib.population.networks import cnn
from nwslib.population.slots import Bank, Member, bank, member, rows
from nwslib.population.train import train
from nwslib.snapshots.schema import layout_of

EVALUATION_BATCH = 1000
ALONE = 8

#: Images that one network visits at the study's nominal size: 30 epochs of 49,500.
BUDGET = 30 * 49_500


def compare(
    collection: str,
    images: Mapping[str, ImageSet],
    crowd_sizes: Sequence[int],
    *,
    batch_size: int = 32,
    epochs: int = 1,
    repeats: int = 3,
    seed: int = 0,
    device: str = "auto",
) -> xr.Dataset:
    """Measure training images per second, evaluations and snapshots included: a loop against crowds, in turn.

    Parameters
    ----------
    collection, seed
        The networks: of `nwslib.space.sample`.
    images
        Image sets, drawn uniformly.
    crowd_sizes
        Networks side by side.
    batch_size, epochs
        Of each network.
    repeats
        Times that everything is measured, all ways in turn, so that a change of the machine's speed meets all alike.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    xarray.Dataset
        ``rate`` with dimensions ``way`` (``"one at a time"``, ``"4 side by side"``, ...) and ``repeat``.

    Raises
    ------
    ValueError
        If the collection, the device or a number is not valid.
    """
    if min([repeats, epochs, *crowd_sizes]) < 1:
        raise ValueError("repeats, epochs and every crowd size must be at least 1")
    design = space.sample(collection, max(*crowd_sizes, ALONE), seed, dataset=sorted(images), batch_size=batch_size)
    ways = ["one at a time", *(f"{count} side by side" for count in crowd_sizes)]
    rates = np.empty((len(ways), repeats))
    for repeat in range(repeats):
        rates[0, repeat] = _loop_rate(design, images, epochs, device)
        for place, count in enumerate(crowd_sizes, start=1):
            rates[place, repeat] = _crowd_rate(design.isel(model=slice(0, count)), images, epochs, device)
    return xr.Dataset({"rate": (("way", "repeat"), rates, {"units": "images/s"})}, {"way": ways})


def _loop_rate(design: xr.Dataset, images: Mapping[str, ImageSet], epochs: int, device: str) -> float:
    """Measure the loop with all threads and with one, which serves small networks better; the faster counts."""
    everything = bank(images, resolve_device(device))
    members = [member(row, everything) for row in rows(design.isel(model=slice(0, ALONE)))]
    visited = epochs * sum(one.steps_per_epoch * one.row["batch_size"] for one in members)
    threads, seconds = torch.get_num_threads(), []
    try:
        for count in {1, threads}:
            torch.set_num_threads(count)
            seconds.append(sum(train_alone(one, everything, epochs)[1] for one in members))
    finally:
        torch.set_num_threads(threads)
    return visited / min(seconds)


def _crowd_rate(design: xr.Dataset, images: Mapping[str, ImageSet], epochs: int, device: str) -> float:
    start = time.perf_counter()
    finished = train(design, images, slots=design.sizes["model"], max_epochs=epochs + 1, device=device, progress=False)
    visited = sum(int(one["steps"][0]) * int(one["batch_size"][0]) for one in finished)
    return visited / (time.perf_counter() - start)


def matrix_product_rate(device: str | torch.device = "auto") -> float:
    """Measure the operations per second of a large float32 matrix product: the rate that training is held against.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    float
        The best of several products of 2,048 x 2,048 numbers.
    """
    a, b = torch.randn(2, 2048, 2048, device=resolve_device(device))
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def cost(design: xr.Dataset, images: Mapping[str, ImageSet], *, epochs: int = 2, device: str = "auto") -> xr.Dataset:
    """Measure what training a design costs: evaluations, augmentation and snapshots included, the start left out.

    Parameters
    ----------
    design, images
        As for `nwslib.population.train`.
    epochs
        Epochs that are measured.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    xarray.Dataset
        ``rate``: training images per second; ``operations`` per image, mean over the images visited; ``weights`` of one
        network, mean; ``networks``.

    Examples
    --------
    >>> from nwslib.population import images
    >>> design = space.sample("nws_small", 2, seed=0, dataset="digits", batch_size=256)
    >>> found = cost(design, {"digits": images.load("digits", size=16)}, epochs=1)
    >>> int(found["weights"])
    4828
    """
    seconds = {}
    for evaluations in (2, 1, 1 + epochs):  # the first time compiles and measures what suits, and does not count
        start = time.perf_counter()
        finished = list(train(design, images, max_epochs=evaluations, device=device, progress=False))
        seconds[evaluations] = time.perf_counter() - start
    visited = np.array([int(one["steps"][0]) * int(one["batch_size"][0]) for one in finished])
    layouts = [layout_of(one) for one in finished]
    each = [cnn.operations(layout, int(one["image_size"][0])) for layout, one in zip(layouts, finished, strict=True)]
    return xr.Dataset(
        {
            "rate": ((), visited.sum() / (seconds[1 + epochs] - seconds[1]), {"units": "images/s"}),
            "operations": ((), np.average(each, weights=visited)),
            "weights": ((), np.mean([layout.size for layout in layouts])),
            "networks": ((), len(finished)),
        }
    )


def growth(
    collection: str,
    images: Mapping[str, ImageSet],
    counts: Sequence[int],
    *,
    epochs: int = 2,
    repeats: int = 3,
    seed: int = 0,
    device: str = "auto",
) -> xr.Dataset:
    """Measure how the time to train a population grows with its networks.

    Parameters
    ----------
    collection, seed
        The networks: of `nwslib.space.sample`.
    images
        Image sets, drawn uniformly.
    counts
        Numbers of networks.
    epochs, repeats
        Of each network; times that everything is measured, all counts in turn.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    xarray.Dataset
        ``seconds`` with the dimensions ``networks`` and ``repeat``.

    Raises
    ------
    ValueError
        If the collection, the device or a number is not valid.
    """
    if min([repeats, epochs, *counts]) < 1:
        raise ValueError("repeats, epochs and every count must be at least 1")
    design = space.sample(collection, max(counts), seed, dataset=sorted(images), batch_size=32)
    seconds = np.empty((len(counts), 1 + repeats))
    for repeat in range(1 + repeats):  # the first time compiles and measures what suits, and does not count
        for place, count in enumerate(counts):
            some, start = design.isel(model=slice(0, count)), time.perf_counter()
            for _ in train(some, images, max_epochs=epochs + 1, device=device, progress=False):
                pass
            seconds[place, repeat] = time.perf_counter() - start
    return xr.Dataset({"seconds": (("networks", "repeat"), seconds[:, 1:], {"units": "s"})}, {"networks": list(counts)})


def train_alone(one: Member, images: Bank, epochs: int) -> tuple[float, float]:
    """Train one network the usual way: channels last, PyTorch's own layers and optimisers, an evaluation per epoch.

    It follows the protocol but for details that cost no time: PyTorch's constants in the optimisers, and its unbiased
    moving variance. So it serves to compare speed, and accuracy on average, not weights.

    Parameters
    ----------
    one
        From `nwslib.population.slots.member`; left as it is.
    images
        The bank that holds its images.
    epochs
        Epochs to train.

    Returns
    -------
    tuple of float
        Test accuracy at the end, and seconds.
    """
    start = time.perf_counter()
    row, device = one.row, images.images.device
    layout = cnn.layout(**{name: row[name] for name in space.ARCHITECTURE if name != "family"})
    vector = draws.initial_weights(layout, row["seed"], row["initialization"], device).float()
    module = cnn.to_module(layout, vector, activation=row["activation"]).to(memory_format=torch.channels_last)
    optimizer = _optimizer(row["optimizer"], row["learning_rate"], module)
    accuracy = _accuracy(module, one, images)
    for epoch in range(epochs):
        _train_epoch(module, optimizer, one, images, epoch)
        optimizer.param_groups[0]["lr"] *= row["decay"]
        accuracy = _accuracy(module, one, images)
    return accuracy, time.perf_counter() - start


def _optimizer(name: str, rate: float, module: nn.Module) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(module.parameters(), rate, fused=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(module.parameters(), rate, alpha=0.9, eps=1e-10, foreach=True)
    return torch.optim.SGD(module.parameters(), rate, momentum=0.95, fused=True)


def _train_epoch(module: nn.Module, optimizer: torch.optim.Optimizer, one: Member, images: Bank, epoch: int) -> None:
    module.train()
    batch, seed = one.row["batch_size"], torch.tensor([one.row["seed"]], device=images.images.device)
    order = one.train[draws.epoch_order(one.row["seed"], epoch, one.labels)]
    for step, index in enumerate(order[: one.steps_per_epoch * batch].split(batch)):
        maps = images.images[index].float().div_(255)
        if one.row["augmentation"] == "on":
            draw = draws.augmentation(seed, epoch, step, batch)
            colourful = torch.tensor([not images.grey[one.row["dataset"]]])
            maps = augment(maps[None], draw, colourful, images.noise)[0].clamp_(0, 1)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(module(maps.permute(0, 3, 1, 2)), images.labels[index]).backward()
        optimizer.step()


@torch.inference_mode()
def _accuracy(module: nn.Module, one: Member, images: Bank) -> float:
    module.eval()
    index = torch.cat((one.valid, one.test))
    right = [
        module(images.images[part].float().div_(255).permute(0, 3, 1, 2)).argmax(1) == images.labels[part]
        for part in index.split(EVALUATION_BATCH)
    ]
    return torch.cat(right)[len(one.valid) :].float().mean().item()
