"""Stacked operators: one call computes a layer of M networks, each with its own weights.

Feature maps have the axes ``b y x m c``, in memory too: then a grouped channels-last convolution computes all networks
at once, and the channels of all networks together fill the vector unit. On two cores it reached 75 to 190 GFLOP/s on
the layers of nws_small (3 to 16 channels), where one network at a time reached 25 and im2col with batched products 50.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5

#: Of every network alike; a population's manifest names it.
IMPLEMENTATION = {"convolution": "grouped", "batch_norm": "native", "dense": "batched_product"}

#: One activation and the networks it serves: name, first, one past the last.
Segments = tuple[tuple[str, int, int], ...]


def slot_multiple(channels: Iterable[int]) -> int:
    """Give the number whose multiples of slots compute a network bit for bit alike.

    PyTorch's batch norm on a CPU treats the channels that do not fill a vector (of up to 16 numbers) with other
    roundings, and oneDNN convolves a single group by another kernel than several. So the channels of all slots
    together fill whole vectors, and there are at least two slots.

    Parameters
    ----------
    channels
        Channels (or units) of every batch norm of one network.

    Returns
    -------
    int
        2, 4, 8 or 16.

    Examples
    --------
    >>> slot_multiple([4, 8, 16]), slot_multiple([8, 16, 32]), slot_multiple([5])
    (4, 2, 16)
    """
    return max(2, *(16 // math.gcd(16, count) for count in channels))


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve with zero padding so that the size is kept.

    Parameters
    ----------
    x
        Shape (b, y, x, m, i).
    kernel
        Shape (m, o, i, ky, kx), of odd size.

    Returns
    -------
    torch.Tensor
        Shape (b, y, x, m, o).
    """
    networks, out = kernel.shape[:2]
    maps = x.flatten(3).permute(0, 3, 1, 2)  # (b, m*i, y, x), channels last in memory
    maps = F.conv2d(maps, kernel.reshape(-1, *kernel.shape[2:]), padding=kernel.shape[-1] // 2, groups=networks)
    return maps.permute(0, 2, 3, 1).unflatten(3, (networks, out))


def dense(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Multiply by a kernel and add a bias.

    Parameters
    ----------
    x
        Shape (m, b, i).
    kernel, bias
        Shapes (m, o, i) and (m, o).

    Returns
    -------
    torch.Tensor
        Shape (m, b, o).
    """
    return torch.bmm(x, kernel.mT) + bias[:, None, :]


def normalize_batch(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise by the statistics of the batch.

    Parameters
    ----------
    x
        Shape (..., m, c); the statistics run over the leading axes.
    gamma, beta
        Shape (m, c).

    Returns
    -------
    tuple of torch.Tensor
        The normalised x; the batch's mean and **biased** variance, of shape (m, c), without gradient.
    """
    mean, variance = torch.zeros_like(gamma), torch.zeros_like(gamma)
    count = x.shape[:-2].numel()
    if count == 1:  # PyTorch refuses; a single value is its own mean, so that beta is all that is left
        return beta.expand(x.shape) + 0 * x, x.detach().reshape(gamma.shape), variance
    # With momentum 1 the running statistics become the batch's own; PyTorch's variance is the unbiased one.
    y = F.batch_norm(_rows(x), mean.flatten(), variance.flatten(), gamma.flatten(), beta.flatten(), True, 1.0, EPSILON)
    return _unrows(y, x), mean, variance * ((count - 1) / count)


def normalize_running(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normalise by stored statistics.

    Parameters
    ----------
    x
        Shape (..., m, c).
    gamma, beta, mean, variance
        Shape (m, c).

    Returns
    -------
    torch.Tensor
        Shape (..., m, c).
    """
    statistics = [values.reshape(-1) for values in (mean, variance, gamma, beta)]
    return _unrows(F.batch_norm(_rows(x), *statistics, False, 0.0, EPSILON), x)


def max_pool(x: Tensor) -> Tensor:
    """Take the largest of each 2x2 pixels; an odd last row or column is dropped.

    Parameters
    ----------
    x
        Shape (b, y, x, m, c).

    Returns
    -------
    torch.Tensor
        Shape (b, y // 2, x // 2, m, c).
    """
    maps = F.max_pool2d(x.flatten(3).permute(0, 3, 1, 2), 2)
    return maps.permute(0, 2, 3, 1).unflatten(3, x.shape[3:])


def segments(activations: list[str]) -> Segments:
    """Describe a list of activations, one per network, as runs of equal names.

    Examples
    --------
    >>> segments(["elu", "elu", "relu"])
    (('elu', 0, 2), ('relu', 2, 3))
    """
    runs: list[tuple[str, int, int]] = []
    for place, name in enumerate(activations):
        start = runs.pop()[1] if runs and runs[-1][0] == name else place
        runs.append((name, start, place + 1))
    return tuple(runs)


def activate(x: Tensor, activations: Segments) -> Tensor:
    """Apply to each network its own activation.

    Parameters
    ----------
    x
        Shape (..., m, c).
    activations
        From `segments`.

    Returns
    -------
    torch.Tensor
        Shape (..., m, c).
    """
    return _Activate.apply(x, activations)


class _Activate(torch.autograd.Function):
    """Keeps only the result for the backward pass: each derivative is a function of it."""

    @staticmethod
    def forward(ctx, x: Tensor, activations: Segments) -> Tensor:
        y = torch.empty_like(x)
        for name, start, stop in activations:
            _FORWARD[name](x[..., start:stop, :], y[..., start:stop, :])
        ctx.save_for_backward(y)
        ctx.activations = activations
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        result = torch.empty_like(y)
        for name, start, stop in ctx.activations:
            part = (..., slice(start, stop), slice(None))
            torch.mul(gradient[part], _SLOPE[name](y[part]), out=result[part])
        return result, None


def _relu(x: Tensor, out: Tensor) -> None:
    torch.clamp(x, min=0, out=out)


def _elu(x: Tensor, out: Tensor) -> None:
    # PyTorch's elu and sigmoid round differently inside and at the end of a vector; these do not.
    torch.add(torch.expm1(x.clamp(max=0)), x.clamp(min=0), out=out)


def _sigmoid(x: Tensor, out: Tensor) -> None:
    torch.mul(x, 0.5, out=out).tanh_().mul_(0.5).add_(0.5)


def _tanh(x: Tensor, out: Tensor) -> None:
    torch.tanh(x, out=out)


_FORWARD = {"relu": _relu, "elu": _elu, "sigmoid": _sigmoid, "tanh": _tanh}
_SLOPE = {
    "relu": lambda y: (y > 0).to(y.dtype),
    "elu": lambda y: y.clamp(max=0).add_(1),
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
}


def _rows(x: Tensor) -> Tensor:
    """View (..., m, c) as (b, m*c, y, x), channels last in memory."""
    flat = x.flatten(-2)
    return flat.permute(0, 3, 1, 2) if flat.dim() == 4 else flat[:, None, None, :].permute(0, 3, 1, 2)


def _unrows(rows: Tensor, like: Tensor) -> Tensor:
    return rows.permute(0, 2, 3, 1).reshape(like.shape)
