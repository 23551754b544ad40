"""Sine networks of images (SIREN): from a pixel's coordinates to its value, M networks at once.

Hidden layers give ``sin(frequency * (W x + b))``, the last one is linear. Initial weights as in Sitzmann et al.,
"Implicit neural representations with periodic activation functions", NeurIPS 2020 (arXiv:2006.09661).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from nwslib.population import draws
from nwslib.population.lanes import waves
from nwslib.population.shared import Gradient
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.layout import Tensor as LayoutTensor

__all__ = ["ARCHITECTURE", "at_once", "gradient", "initial_weights", "layout", "operations", "outputs", "to_module"]

ARCHITECTURE = ("width", "depth", "frequency")


def layout(outputs: int, width: int = 32, depth: int = 2, frequency: float = 30.0) -> Layout:
    """Lay out a network: two inputs, `depth` hidden layers of `width` units, one output per channel.

    Parameters
    ----------
    outputs
        Channels of the image.
    width, depth
        Units of a hidden layer, and hidden layers.
    frequency
        Of the sines; changes nothing here.

    Returns
    -------
    Layout
        Layers ``dense1``, ... and ``output``; kinds ``kernel`` (unit, source) and ``bias`` (unit).

    Raises
    ------
    ValueError
        If a number is below 1.

    Examples
    --------
    >>> layout(1).size, layout(3).size
    (1185, 1251)
    """
    for name, value in {"outputs": outputs, "width": width, "depth": depth}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, not {value!r}")
    units = [2, *[width] * depth, outputs]
    names = [*(f"dense{number}" for number in range(1, depth + 1)), "output"]
    tensors = []
    for layer, source, unit in zip(names, units[:-1], units[1:], strict=True):
        tensors.append(LayoutTensor(layer, "dense", "kernel", ("unit", "source"), (unit, source)))
        tensors.append(LayoutTensor(layer, "dense", "bias", ("unit",), (unit,)))
    return Layout("siren", tuple(tensors))


def initial_weights(layout: Layout, seeds: Tensor, frequency: float = 30.0, **architecture: int) -> Tensor:
    """Draw the initial weights of several networks.

    Parameters
    ----------
    layout
        Of the networks.
    seeds
        Shape (m,), int64: each row of the result depends on its own seed alone.
    frequency
        Of the sines.
    **architecture
        Of no consequence: the layout says the rest.

    Returns
    -------
    torch.Tensor
        Shape (m, w), float64.

    Notes
    -----
    Uniform about 0. Kernels up to 1 / inputs in the first layer and sqrt(6 / inputs) / frequency in the others; biases
    up to 1 / sqrt(inputs), as PyTorch's linear layers have them and the authors' code leaves them.

    Examples
    --------
    >>> initial_weights(layout(1), torch.tensor([7, 8])).shape
    torch.Size([2, 1185])
    """
    share = 2 * draws.uniform(draws.words(seeds, draws.WEIGHTS, 0, 0, layout.size)) - 1
    for kernel, bias in zip(layout.tensors[::2], layout.tensors[1::2], strict=True):
        inputs = kernel.shape[1]
        share[:, layout.slices[kernel.name]] *= 1 / inputs if inputs == 2 else (6 / inputs) ** 0.5 / frequency
        share[:, layout.slices[bias.name]] *= inputs**-0.5
    return share


def outputs(tensors: Mapping[str, Tensor], inputs: Tensor, frequency: float = 30.0) -> Tensor:
    """Compute the images of M networks; autograd differentiates it.

    Parameters
    ----------
    tensors
        By name, each of shape (m, *shape).
    inputs
        Coordinates, shape (b, 2).
    frequency
        Of the sines.

    Returns
    -------
    torch.Tensor
        Shape (m, b, c).
    """
    layers = [name.removesuffix(".kernel") for name in tensors if name.endswith(".kernel")]
    x = inputs.expand(len(tensors["output.bias"]), *inputs.shape)
    for layer in layers:
        kernel, bias = tensors[f"{layer}.kernel"], tensors[f"{layer}.bias"]
        z = torch.baddbmm(bias[:, None], x, kernel.mT)
        x = torch.sin(frequency * z) if layer != "output" else z
    return x


def compiled(inputs: Tensor, **architecture: float) -> bool:
    """Say whether `gradient` is compiled for inputs of this device and precision, and this architecture."""
    return inputs.device.type == "cpu"


def gradient(
    layout: Layout, inputs: Tensor, targets: Tensor, *, frequency: float = 30.0, **architecture: int
) -> Gradient:
    """Prepare the program of m networks that gives each one's squared error and the gradient of it.

    Parameters
    ----------
    layout
        Of the networks.
    inputs
        Coordinates, shape (b, 2), the same for all.
    targets
        Images, shape (m, b, c).
    frequency
        Of the sines.
    **architecture
        Of no consequence: the layout says the rest.

    Returns
    -------
    Gradient
        On a CPU compiled, one network after another, each with the same bits in any company; on other devices stacked
        tensor operations, whose products may round differently in another company.
    """
    if compiled(inputs):
        return _compiled(layout, inputs, targets, frequency)
    return stacked(layout, inputs, targets, frequency)


def _compiled(layout: Layout, inputs: Tensor, targets: Tensor, frequency: float) -> Gradient:
    width, depth = _shape(layout)
    images, losses = targets.flatten(1).numpy(), torch.empty(len(targets), dtype=inputs.dtype)
    plan = waves.plan(width, depth, targets.shape[2], float(frequency), len(inputs), images.dtype)
    work = np.zeros(plan.size, images.dtype)
    with_ones = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
    work[plan.inputs : plan.inputs + with_ones.numel()] = with_ones.flatten().numpy()

    def compute(weights: Tensor, result: Tensor) -> Tensor:
        waves.gradient(weights.numpy(), images, losses.numpy(), result.numpy(), work, plan)
        return losses

    return compute


def stacked(layout: Layout, inputs: Tensor, targets: Tensor, frequency: float = 30.0) -> Gradient:
    """Prepare the same program as plain operations on stacked tensors, for any device."""
    m, pixels, channels = targets.shape
    width, hidden = _shape(layout)
    sines, cosines = ([inputs.new_empty(m, pixels, width) for _ in range(hidden)] for _ in range(2))
    products, errors = inputs.new_empty(m, pixels, width), torch.empty_like(targets)
    ones = inputs.new_ones(m, 1, pixels)
    x = inputs.expand(m, pixels, 2)

    def compute(weights: Tensor, result: Tensor) -> Tensor:
        kernels, biases = _layers(layout, weights)
        for k in range(hidden):
            torch.baddbmm(biases[k], sines[k - 1] if k else x, kernels[k].mT, out=products).mul_(frequency)
            torch.sin(products, out=sines[k])
            torch.cos(products, out=cosines[k]).mul_(frequency)
        torch.baddbmm(biases[hidden], sines[-1], kernels[hidden].mT, out=errors).sub_(targets)
        losses = errors.square().mean(dim=(1, 2))
        d = errors.mul_(2 / (pixels * channels))
        kernel_gradients, bias_gradients = _layers(layout, result)
        for k in range(hidden, -1, -1):
            kernel_gradients[k].copy_(torch.bmm(d.mT, sines[k - 1] if k else x))
            bias_gradients[k].copy_(torch.bmm(ones, d))
            if k:
                d = cosines[k - 1].mul_(torch.bmm(d, kernels[k], out=products))
        return losses

    return compute


def at_once(layout: Layout, pixels: int, device: torch.device) -> int:
    """Say how many networks make a block.

    Notes
    -----
    On a CPU activations belong to one network at a time, so that a block is what keeps weights, gradients and Adam's
    states (600 KB for 32 networks) in a core's cache. On a GPU activations of all take 2 GiB.
    """
    if device.type == "cpu":
        return 32
    width, hidden = _shape(layout)
    return max(1, 2**31 // (4 * pixels * width * (2 * hidden + 1)))


def operations(layout: Layout, pixels: int) -> int:
    """Count the multiplications and additions of all products of one step: forward, and backward but for the inputs.

    Examples
    --------
    >>> operations(layout(1), 28 * 28) / 1e6
    5.168128
    """
    kernels = [tensor.size for tensor in layout.tensors if tensor.kind == "kernel"]
    return 2 * pixels * (3 * sum(kernels) - kernels[0])


def to_module(layout: Layout, vector: Tensor, *, frequency: float = 30.0, **architecture: int) -> nn.Sequential:
    """Rebuild one network as an ordinary PyTorch module.

    Parameters
    ----------
    layout
        Of the network.
    vector
        Its weights, shape (w,): a tensor or an array.
    frequency
        Of its sines.
    **architecture
        Of no consequence: the layout says the rest.

    Returns
    -------
    torch.nn.Sequential
        Takes coordinates (row, column) from -1 to 1, shape (b, 2), and gives pixels, shape (b, c).
    """
    vector = torch.as_tensor(vector)
    kernels, biases = _layers(layout, vector[None])
    modules: list[nn.Module] = []
    for kernel, bias in zip(kernels, biases, strict=True):
        linear = nn.Linear(kernel.shape[2], kernel.shape[1], dtype=vector.dtype)
        linear.weight, linear.bias = nn.Parameter(kernel[0].clone()), nn.Parameter(bias[0, 0].clone())
        modules += [linear, Sine(frequency)]
    return nn.Sequential(*modules[:-1]).eval()


class Sine(nn.Module):
    """The activation ``sin(frequency * x)``."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return torch.sin(self.frequency * x)


def _shape(layout: Layout) -> tuple[int, int]:
    """Give width and depth."""
    return layout.tensors[0].shape[0], len(layout.tensors) // 2 - 1


def _layers(layout: Layout, weights: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Give views of all kernels, (m, unit, source), and of all biases, (m, 1, unit)."""
    tensors = [weights[:, layout.slices[one.name]].unflatten(1, one.shape) for one in layout.tensors]
    return tensors[::2], [bias[:, None] for bias in tensors[1::2]]
