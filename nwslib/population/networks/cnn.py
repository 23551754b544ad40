"""The study's convolutional network: its forward pass for M networks at once.

Three blocks of convolutions, each closed by a 2x2 max-pool, then dense layers; batch norm everywhere, dropout in the
dense part; always 20 outputs, so that no shape gives the image set away (Eilertsen et al., ECAI 2020).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nwslib.population import operators
from nwslib.snapshots.cnn import BLOCKS, OUTPUTS, blocks, layout
from nwslib.snapshots.layout import Layout

__all__ = ["BLOCKS", "OUTPUTS", "blocks", "features", "hidden_units", "layout", "operations", "outputs", "to_module"]

DEFAULT = operators.Implementation()

#: Mean and biased variance of a batch, of shape (m, c), by layer.
Statistics = dict[str, tuple[Tensor, Tensor]]


def features(
    tensors: Mapping[str, Tensor],
    images: Tensor,
    activations: operators.Segments | Tensor,
    statistics: Statistics | None,
    implementation: operators.Implementation = DEFAULT,
    biased: bool = False,
) -> Tensor:
    """Compute the convolutional part.

    Parameters
    ----------
    tensors
        By name, each of shape (m, *shape).
    images
        Shape (b, y, x, m, c).
    activations
        Of the networks, from ``implementation.activations``.
    statistics
        A dict to fill: normalise by the batch and put its statistics here. None: normalise by the stored ones.
    implementation
        What computes.
    biased
        Whether to add biases in front of a batch norm, which takes them away again but for rounding.

    Returns
    -------
    torch.Tensor
        Shape (m, b, i): flattened in the order (y, x, channel).
    """
    x = images
    layers = _names(tensors, "conv")
    block_of = list(blocks(len(layers)))
    for number, layer in enumerate(layers):
        # The bias in front of a batch norm has no effect and a gradient of zero: it stays 0 and is not added.
        x = operators.convolve(x, tensors[f"{layer}.kernel"], implementation.convolution)
        x = x + tensors[f"{layer}.bias"] if biased else x
        pool = number + 1 == len(layers) or block_of[number + 1] != block_of[number]
        x = _finish(x, layer, tensors, statistics, activations, implementation.batch_norm, pool=pool)
    return x.permute(3, 0, 1, 2, 4).flatten(2)


def outputs(
    tensors: Mapping[str, Tensor],
    x: Tensor,
    activations: operators.Segments | Tensor,
    statistics: Statistics | None,
    dropout: Tensor | None = None,
    implementation: operators.Implementation = DEFAULT,
) -> Tensor:
    """Compute the dense part.

    Parameters
    ----------
    tensors, activations, statistics, implementation
        As for `features`.
    x
        Shape (m, b, i), from `features`.
    dropout
        Shape (m, b, units of all hidden dense layers): 0 where a unit is dropped, else 2. None: no dropout.

    Returns
    -------
    torch.Tensor
        Logits, shape (m, b, 20).
    """
    first = 0
    for layer in _names(tensors, "dense"):
        kernel = tensors[f"{layer}.kernel"].flatten(2)
        x = operators.dense(x, kernel, tensors[f"{layer}.bias"], implementation.dense).transpose(0, 1)  # (b, m, o)
        x = _finish(x, layer, tensors, statistics, activations, implementation.batch_norm, first=True).transpose(0, 1)
        if dropout is not None:
            x = x * dropout[..., first : first + x.shape[-1]]
            first += x.shape[-1]
    return operators.dense(x, tensors["output.kernel"].flatten(2), tensors["output.bias"], implementation.dense)


def hidden_units(layout: Layout) -> int:
    """Count the units of all hidden dense layers: the bits that one image's dropout takes."""
    return sum(t.shape[0] for t in layout.tensors if t.layer.startswith("dense") and t.kind == "bias")


def operations(layout: Layout, image_size: int) -> int:
    """Count the multiplications and additions of all products, forward and backward, for one image.

    Parameters
    ----------
    layout
        Of the network.
    image_size
        Side of an image, in pixels.

    Returns
    -------
    int
        Of the forward pass, the gradient of the kernels and, but for the first layer, that of the inputs.

    Examples
    --------
    >>> operations(layout(32, 5, 3, 2, 8, 128), 32) / 1e6
    12.738048
    """
    kernels = [t for t in layout.tensors if t.kind == "kernel"]
    depth = sum(1 for kernel in kernels if kernel.part == "convolution")
    pixels = [(image_size // 2**block) ** 2 for block in blocks(depth)] + [1] * (len(kernels) - depth)
    passes = [2] + [3] * (len(kernels) - 1)
    return sum(2 * kernel.size * n * times for kernel, n, times in zip(kernels, pixels, passes, strict=True))


def to_module(layout: Layout, vector: Tensor, activation: str = "relu") -> nn.Module:
    """Rebuild one network as an ordinary PyTorch module, in evaluation mode.

    Parameters
    ----------
    layout
        Of the network.
    vector
        Its weights, shape (w,): a tensor or an array.
    activation
        Its activation.

    Returns
    -------
    torch.nn.Sequential
        Takes images of shape (b, c, y, x) in [0, 1] and gives logits of shape (b, 20).
    """
    names = {"relu": nn.ReLU, "elu": nn.ELU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
    vector = torch.as_tensor(vector)
    tensors = {t.name: vector[layout.slices[t.name]].reshape(t.shape).clone() for t in layout.tensors}
    layers = _names(tensors, "conv")
    block_of = list(blocks(len(layers)))
    modules: list[nn.Module] = []
    for number, layer in enumerate(layers):
        kernel, bias = tensors[f"{layer}.kernel"], tensors[f"{layer}.bias"]
        convolution = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], padding="same")
        modules += [_fill(convolution, kernel, bias), _batch_norm(nn.BatchNorm2d, layer, tensors), names[activation]()]
        if number + 1 == len(layers) or block_of[number + 1] != block_of[number]:
            modules.append(nn.MaxPool2d(2))
    modules.append(nn.Flatten())
    for layer in [*_names(tensors, "dense"), "output"]:
        kernel = tensors[f"{layer}.kernel"]
        if kernel.dim() == 4:
            kernel = kernel.permute(0, 3, 1, 2)  # inputs (y, x, channel) here, (channel, y, x) after nn.Flatten
        kernel = kernel.flatten(1)
        modules.append(_fill(nn.Linear(kernel.shape[1], kernel.shape[0]), kernel, tensors[f"{layer}.bias"]))
        if layer != "output":
            modules += [names[activation](), _batch_norm(nn.BatchNorm1d, layer, tensors), nn.Dropout(0.5)]
    return nn.Sequential(*modules).to(vector.dtype).eval()


def _names(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name.removesuffix(".kernel") for name in tensors if name.startswith(prefix) and name.endswith(".kernel")]


def _finish(
    x: Tensor,
    layer: str,
    tensors: Mapping[str, Tensor],
    statistics: Statistics | None,
    activations: operators.Segments | Tensor,
    implementation: str,
    **order: bool,
) -> Tensor:
    gamma, beta, mean, variance = (tensors[f"{layer}.{kind}"] for kind in ("gamma", "beta", "mean", "variance"))
    stored = (mean, variance) if statistics is None else None
    x, *used = operators.finish(x, gamma, beta, stored, activations, implementation, **order)
    if statistics is not None:
        statistics[layer] = tuple(used)
    return x


def _fill(module: nn.Conv2d | nn.Linear, kernel: Tensor, bias: Tensor) -> nn.Module:
    module.weight, module.bias = nn.Parameter(kernel.contiguous()), nn.Parameter(bias)
    return module


def _batch_norm(kind: type, layer: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    module = kind(len(tensors[f"{layer}.gamma"]), eps=operators.EPSILON, momentum=0.1)
    module.weight, module.bias = nn.Parameter(tensors[f"{layer}.gamma"]), nn.Parameter(tensors[f"{layer}.beta"])
    module.running_mean, module.running_var = tensors[f"{layer}.mean"], tensors[f"{layer}.variance"]
    return module
