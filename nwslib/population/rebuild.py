"""Back from labelled weights to a running network: an ordinary PyTorch module, and its accuracy on images."""

import torch
import xarray as xr
from torch import nn

from nwslib.population.networks import to_module
from nwslib.snapshots import layout_of
from nwslib.space import nearest

#: What the weights of a family don't tell.
_NEEDED = {"cnn": ("activation",), "kan": ("order",), "siren": ("frequency",)}


def module(population: xr.Dataset | xr.DataTree, model: int, snapshot: int | None = None) -> nn.Module:
    """Rebuild one network of a population as it was at one snapshot, in evaluation mode.

    Parameters
    ----------
    population
        From `nwslib.snapshots.open_population`, or one architecture of it; only this one weight vector is read.
    model
        Number of the network, its row in the design.
    snapshot
        Number of the snapshot; the last by default.

    Returns
    -------
    torch.nn.Module
        Takes images of shape (b, c, y, x) with values in [0, 1] and gives logits, of the study's networks (b, 20). It
        can be trained on: batch norm and dropout are those of the protocol. An image network takes coordinates (b, 2),
        from -1 to 1, and gives pixels (b, c).

    Raises
    ------
    ValueError
        If there is no such network or snapshot, or it is of a family that cannot be rebuilt.

    Examples
    --------
    >>> from nwslib import space
    >>> from nwslib.population import images, train
    >>> design = space.sample("nws_small", 1, seed=0, dataset="digits", batch_size=64)
    >>> digits = images.load("digits", size=16)
    >>> trained = next(train(design, {"digits": digits}, max_epochs=2))
    >>> found = accuracy(module(trained, model=0), digits.test_images, digits.test_labels)
    >>> bool(abs(found - trained["test_accuracy"].item(-1)) < 2e-4)
    True
    """
    node = _architecture(population, model)
    layout = layout_of(node)
    needed = _NEEDED.get(layout.family, ())
    for name in ("weights", *needed):
        if name not in node.variables:
            raise ValueError(f"{layout.name} has no {name!r}, without which no network can be rebuilt")
    moments = node["snapshot"].values.tolist()
    moment = moments[-1] if snapshot is None else snapshot
    if moment not in moments:
        raise ValueError(f"{layout.name} has no snapshot {moment!r}. {nearest(moment, moments)}")
    place = {"model": _numbers(node).index(model), "snapshot": moments.index(moment)}
    one = node[["weights", *needed]].isel(place)
    return to_module(layout, one["weights"].values, **{name: one[name].item() for name in needed})


@torch.no_grad()
def accuracy(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch: int = 1000) -> float:
    """Give the share of images that a network names correctly.

    Parameters
    ----------
    module
        From `module`, in evaluation mode, on the device of the images.
    images
        uint8, shape (b, y, x, c), as `nwslib.population.images.load` gives them; but classifiers of other families
        than the study's see one channel of grey sets, ``images[..., :1]``.
    labels
        int64, shape (b,).
    batch
        Images at a time: changes memory, not the result.

    Returns
    -------
    float
        Between 0 and 1. Of equal logits the first counts: a network whose weights are all alike, as constant
        initialisation makes them, names one class for every image, and which one may depend on rounding.

    Raises
    ------
    ValueError
        If there is not one label for each image, or none at all.
    """
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"accuracy needs one label for each of at least one image, not {len(labels)}, {len(images)}")
    kind = next(module.parameters()).dtype
    right = 0
    for part, truth in zip(images.split(batch), labels.split(batch), strict=True):
        pixels = part.permute(0, 3, 1, 2).to(kind) / 255  # (b, c, y, x)
        right += (module(pixels).argmax(1) == truth).sum().item()
    return right / len(images)


def _architecture(population: xr.Dataset | xr.DataTree, model: int) -> xr.Dataset:
    """Give the architecture that holds a network."""
    if isinstance(population, xr.DataTree):
        nodes = [child.to_dataset() for child in population.children.values()]
    else:
        nodes = [population]
    for node in nodes:
        if model in _numbers(node):
            return node
    known = [number for node in nodes for number in _numbers(node)]
    raise ValueError(f"the population has no network {model!r}. {nearest(model, known)}")


def _numbers(node: xr.Dataset) -> list[int]:
    return node["model"].values.tolist()
