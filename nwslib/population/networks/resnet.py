"""ResNet-8: a stem and three residual blocks of 16, 32 and 64 channels, GroupNorm with one group, a dense output.

Convolutions have no bias; each is followed by its norm, that in a skip as well. A block adds what it computed to what
it read, and the relu comes after; where the number of channels changes, the first convolution and the skip, of 1x1
pixels, have stride 2. So ten classes and three input channels make 78,042 weights, as in Lim et al., "The empirical
impact of neural parameter symmetries, or lack thereof", NeurIPS 2024 (arXiv:2405.20231); the blocks are those of He et
al., "Deep residual learning for image recognition", CVPR 2016.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nwslib.population import draws, operators
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.layout import Tensor as LayoutTensor

FORWARD = ()
SCHEDULE = "triangular"
IMAGES_AT_ONCE = {"cpu": 64, "cuda": 2**14}
WIDTHS = (16, 32, 64)

_EPSILON = 1e-5


def layout(channels: int = 3, classes: int = 10) -> Layout:
    """Lay out the weight vector; it serves images of any size.

    Parameters
    ----------
    channels
        Of an image.
    classes
        Outputs.

    Returns
    -------
    Layout
        Layers stem, block1.conv1, block1.conv2, block2.conv1, block2.conv2, block2.skip, ..., output; of a convolution
        kernel, gamma, beta.

    Examples
    --------
    >>> layout().size
    78042
    """
    tensors = _convolution("stem", WIDTHS[0], channels, 3)
    source = WIDTHS[0]
    for number, width in enumerate(WIDTHS, start=1):
        tensors += _convolution(f"block{number}.conv1", width, source, 3)
        tensors += _convolution(f"block{number}.conv2", width, width, 3)
        if width != source:
            tensors += _convolution(f"block{number}.skip", width, source, 1)
        source = width
    tensors.append(LayoutTensor("output", "dense", "kernel", ("unit", "source"), (classes, source)))
    tensors.append(LayoutTensor("output", "dense", "bias", ("unit",), (classes,)))
    return Layout("resnet8", tuple(tensors))


def classifier(row: Mapping[str, Any], channels: int, classes: int) -> Layout:
    """Lay out the classifier that a row of a design describes."""
    return layout(channels, classes)


def initial_weights(layout: Layout, seeds: Tensor) -> Tensor:
    """Draw initial weights as PyTorch does: uniform up to one over the root of the sources; gammas 1, betas 0.

    Parameters
    ----------
    layout
        Of the networks.
    seeds
        Shape (m,), int64.

    Returns
    -------
    torch.Tensor
        Shape (m, w), float64, on the device of the seeds.
    """
    vectors = 2 * draws.uniform(draws.words(seeds, draws.WEIGHTS, 0, 0, layout.size)) - 1
    sources = 1
    for tensor in layout.tensors:
        if tensor.kind == "kernel":
            sources = tensor.size // tensor.shape[0]
        if tensor.kind in ("gamma", "beta"):
            vectors[:, layout.slices[tensor.name]] = float(tensor.kind == "gamma")
        else:
            vectors[:, layout.slices[tensor.name]] *= sources**-0.5
    return vectors


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
    x = F.relu(_normalized(operators.side_by_side(images), "stem", tensors))
    for number in range(1, len(WIDTHS) + 1):
        stride = 2 if f"block{number}.skip.kernel" in tensors else 1
        y = F.relu(_normalized(x, f"block{number}.conv1", tensors, stride))
        y = _normalized(y, f"block{number}.conv2", tensors)
        x = F.relu(y + (_normalized(x, f"block{number}.skip", tensors, stride) if stride > 1 else x))
    means = operators.mean_pixels(x, len(images))
    return operators.dense(means, tensors["output.kernel"], tensors["output.bias"])


class ResNet8(nn.Module):
    """One network as an ordinary PyTorch module.

    Takes images of shape (b, c, y, x) in [0, 1] and gives logits of shape (b, classes).
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = _normed(channels, WIDTHS[0], 3, 1)
        sources = (WIDTHS[0], *WIDTHS)
        self.blocks = nn.ModuleList(_block(*pair) for pair in zip(sources, WIDTHS, strict=False))
        self.output = nn.Linear(WIDTHS[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        x = F.relu(self.stem(images))
        for block in self.blocks:
            y = block["conv2"](F.relu(block["conv1"](x)))
            x = F.relu(y + block["skip"](x)) if "skip" in block else F.relu(y + x)
        return self.output(x.mean((2, 3)))


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
    ResNet8
        With these weights.
    """
    vector = torch.as_tensor(vector)
    shapes = {tensor.name: tensor.shape for tensor in layout.tensors}
    module = ResNet8(shapes["stem.kernel"][1], shapes["output.bias"][0]).to(vector.dtype)
    # The module registers its parameters in the order of the layout: of each layer kernel, gamma, beta.
    nn.utils.vector_to_parameters(vector.clone(), module.parameters())
    return module


def _convolution(layer: str, width: int, source: int, size: int) -> list[LayoutTensor]:
    axes = ("unit", "source", "row", "column")
    kernel = LayoutTensor(layer, "convolution", "kernel", axes, (width, source, size, size))
    return [kernel, *(LayoutTensor(layer, "convolution", kind, ("unit",), (width,)) for kind in ("gamma", "beta"))]


def _normalized(x: Tensor, layer: str, tensors: Mapping[str, Tensor], stride: int = 1) -> Tensor:
    """Convolve and normalise: a group for each network."""
    x = operators.convolve_maps(x, tensors[f"{layer}.kernel"], stride=stride)
    gamma, beta = tensors[f"{layer}.gamma"], tensors[f"{layer}.beta"]
    return F.group_norm(x, len(gamma), gamma.flatten(), beta.flatten(), _EPSILON)


def _normed(source: int, width: int, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(source, width, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(1, width, _EPSILON))


def _block(source: int, width: int) -> nn.ModuleDict:
    stride = 1 if source == width else 2
    layers = {"conv1": _normed(source, width, 3, stride), "conv2": _normed(width, width, 3, 1)}
    return nn.ModuleDict(layers | ({} if stride == 1 else {"skip": _normed(source, width, 1, stride)}))
