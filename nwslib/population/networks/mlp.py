"""A multilayer perceptron on the pixels of an image: hidden layers of one width, relu, a dense output."""

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
IMAGES_AT_ONCE = {"cpu": 2048, "cuda": 2**17}


def layout(image_size: int, channels: int, width: int, depth: int, classes: int) -> Layout:
    """Lay out the weight vector.

    Parameters
    ----------
    image_size, channels
        Side of an image in pixels, and its channels.
    width, depth
        Units of each hidden layer; hidden layers.
    classes
        Outputs.

    Returns
    -------
    Layout
        Layers dense1, ..., output, each a kernel and a bias.

    Examples
    --------
    >>> layout(28, 1, width=32, depth=2, classes=10).size
    26506
    """
    tensors: list[LayoutTensor] = []
    axes, inputs = ("unit", "row", "column", "source"), (image_size, image_size, channels)
    for layer, units in [*((f"dense{number}", width) for number in range(1, depth + 1)), ("output", classes)]:
        tensors.append(LayoutTensor(layer, "dense", "kernel", axes, (units, *inputs)))
        tensors.append(LayoutTensor(layer, "dense", "bias", ("unit",), (units,)))
        axes, inputs = ("unit", "source"), (units,)
    return Layout("mlp", tuple(tensors))


def classifier(row: Mapping[str, Any], channels: int, classes: int) -> Layout:
    """Lay out the classifier that a row of a design describes."""
    return layout(row["image_size"], channels, row["width"], row["depth"], classes)


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
    x = images.flatten(2)
    layers = [name.removesuffix(".kernel") for name in tensors if name.endswith(".kernel")]
    for layer in layers:
        x = operators.dense(x, tensors[f"{layer}.kernel"].flatten(2), tensors[f"{layer}.bias"])
        x = x if layer == "output" else F.relu(x)
    return x


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
    modules: list[nn.Module] = [nn.Flatten()]
    for layer in [t.layer for t in layout.tensors if t.kind == "kernel"]:
        kernel = tensors[f"{layer}.kernel"]
        if kernel.dim() == 4:
            kernel = kernel.permute(0, 3, 1, 2)  # inputs (y, x, channel) here, (channel, y, x) after nn.Flatten
        linear = nn.Linear(kernel[0].numel(), len(kernel))
        linear.weight, linear.bias = nn.Parameter(kernel.flatten(1)), nn.Parameter(tensors[f"{layer}.bias"])
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1]).to(vector.dtype)
