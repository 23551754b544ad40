"""A small plain convolutional network: strided 3x3 convolutions, relu, the mean over all pixels, a dense output.

With three convolutions of 16 channels on one input channel it has the 4,970 weights of the networks in the Small CNN
Zoo (Unterthiner et al., "Predicting neural network accuracy from weights", arXiv:2002.11448).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nwslib.population import draws, operators
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.layout import Tensor as LayoutTensor

initial_weights = draws.glorot_weights

FORWARD = ()
SCHEDULE = "constant"
STRIDE = 2

_FILTER = 3


def layout(channels: int, width: int, depth: int, classes: int) -> Layout:
    """Lay out the weight vector; it serves images of any size.

    Parameters
    ----------
    channels
        Of an image.
    width, depth
        Channels of each convolution; convolutions, each of which halves the image.
    classes
        Outputs.

    Returns
    -------
    Layout
        Layers conv1, ..., output, each a kernel and a bias.

    Examples
    --------
    >>> layout(channels=1, width=16, depth=3, classes=10).size
    4970
    """
    tensors: list[LayoutTensor] = []
    for number, source in enumerate([channels, *[width] * (depth - 1)], start=1):
        axes, shape = ("unit", "source", "row", "column"), (width, source, _FILTER, _FILTER)
        tensors.append(LayoutTensor(f"conv{number}", "convolution", "kernel", axes, shape))
        tensors.append(LayoutTensor(f"conv{number}", "convolution", "bias", ("unit",), (width,)))
    tensors.append(LayoutTensor("output", "dense", "kernel", ("unit", "source"), (classes, width)))
    tensors.append(LayoutTensor("output", "dense", "bias", ("unit",), (classes,)))
    return Layout("smallcnn", tuple(tensors))


def classifier(row: Mapping[str, Any], channels: int, classes: int) -> Layout:
    """Lay out the classifier that a row of a design describes."""
    return layout(channels, row["width"], row["depth"], classes)


def outputs(tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Compute the logits of M networks.

    Parameters
    ----------
    tensors
        By name, each of shape (m, *shape).
    images
        Shape (m, b, y, x, c).

    Returns
    -------
    torch.Tensor
        Shape (m, b, classes).
    """
    x = operators.side_by_side(images)
    for layer in [name.removesuffix(".kernel") for name in tensors if name.startswith("conv") and "kernel" in name]:
        x = F.relu(operators.convolve_maps(x, tensors[f"{layer}.kernel"], tensors[f"{layer}.bias"], STRIDE))
    means = operators.mean_pixels(x, len(images))
    return operators.dense(means, tensors["output.kernel"], tensors["output.bias"])


def to_module(layout: Layout, vector: Tensor) -> nn.Module:
    """Rebuild one network as an ordinary PyTorch module.

    Parameters
    ----------
    layout
        Of the network.
    vector
        Its weights, shape (w,): a tensor or an array.

    Returns
    -------
    torch.nn.Sequential
        Takes images of shape (b, c, y, x) in [0, 1] and gives logits of shape (b, classes).
    """
    vector = torch.as_tensor(vector)
    tensors = {t.name: vector[layout.slices[t.name]].reshape(t.shape).clone() for t in layout.tensors}
    modules: list[nn.Module] = []
    for layer in [t.layer for t in layout.tensors if t.kind == "kernel"]:
        kernel = tensors[f"{layer}.kernel"]
        if layer == "output":
            modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(kernel.shape[1], kernel.shape[0])]
        else:
            modules.append(nn.Conv2d(kernel.shape[1], kernel.shape[0], _FILTER, stride=STRIDE, padding=_FILTER // 2))
        modules[-1].weight, modules[-1].bias = nn.Parameter(kernel), nn.Parameter(tensors[f"{layer}.bias"])
        modules.append(nn.ReLU())
    return nn.Sequential(*modules[:-1]).to(vector.dtype)
