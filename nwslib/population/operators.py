"""Stacked operators: one call computes a layer of M networks, each with its own weights.

Feature maps have the axes ``b y x m c``, in memory too: then a grouped channels-last convolution computes all networks
at once, and the channels of all networks together fill the vector unit. On two cores it reached 75 to 190 GFLOP/s on
the layers of nws_small (3 to 16 channels), where one network at a time reached 25 and im2col with batched products 50.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nwslib.space import nearest

EPSILON = 1e-5

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


def convolve(x: Tensor, kernel: Tensor, implementation: str = "grouped") -> Tensor:
    """Convolve with zero padding so that the size is kept.

    Parameters
    ----------
    x
        Shape (b, y, x, m, i).
    kernel
        Shape (m, o, i, ky, kx), of odd size.
    implementation
        A name in ``IMPLEMENTATIONS["convolution"]``.

    Returns
    -------
    torch.Tensor
        Shape (b, y, x, m, o).
    """
    return IMPLEMENTATIONS["convolution"][implementation](x, kernel)


def _convolve_grouped(x: Tensor, kernel: Tensor) -> Tensor:
    maps = x.flatten(3).permute(0, 3, 1, 2)  # (b, m*i, y, x), channels last in memory
    return convolve_maps(maps, kernel).permute(0, 2, 3, 1).unflatten(3, kernel.shape[:2])


def _convolve_im2col(x: Tensor, kernel: Tensor) -> Tensor:
    """Write out every pixel's patch, then multiply: one batched product for all networks.

    On a CPU the product rounds by the place of a matrix in memory: with 9 channels of 7 images of 6x6 pixels a network
    differed from itself in another crowd. So this is no choice for networks of any shape.
    """
    size = kernel.shape[-1]
    maps = F.pad(x, (0, 0, 0, 0, size // 2, size // 2, size // 2, size // 2))
    patches = maps.unfold(1, size, 1).unfold(2, size, 1).permute(3, 0, 1, 2, 4, 5, 6)  # (m, b, y, x, i, ky, kx)
    product = torch.bmm(patches.reshape(len(kernel), -1, kernel[0, 0].numel()), kernel.flatten(2).mT)
    return product.view(len(kernel), *x.shape[:3], -1).permute(1, 2, 3, 0, 4)


def _convolve_triton(x: Tensor, kernel: Tensor, precision: str) -> Tensor:
    from nwslib.population.cuda import convolution  # Triton is there with CUDA builds of torch only

    return convolution.convolve(x, kernel, precision)


def side_by_side(images: Tensor) -> Tensor:
    """Put the channels of all networks into one image: (m, b, y, x, c) becomes (b, m*c, y, x), channels last in memory.

    So a grouped convolution computes all networks at once.
    """
    return images.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


def convolve_maps(maps: Tensor, kernel: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Convolve maps that stand side by side, with zero padding, so that the stride alone changes the size.

    Parameters
    ----------
    maps
        Shape (b, m*i, y, x), as from `side_by_side`.
    kernel, bias
        Shapes (m, o, i, ky, kx), of odd size, and (m, o).
    stride
        Pixels from one place of the kernel to the next.

    Returns
    -------
    torch.Tensor
        Shape (b, m*o, y', x').
    """
    bias = None if bias is None else bias.flatten()
    return F.conv2d(maps, kernel.flatten(0, 1), bias, stride, kernel.shape[-1] // 2, groups=len(kernel))


def mean_pixels(maps: Tensor, networks: int) -> Tensor:
    """Average maps that stand side by side over their pixels: (b, m*c, y, x) becomes (m, b, c)."""
    return maps.mean((2, 3)).unflatten(1, (networks, -1)).transpose(0, 1)


def dense(x: Tensor, kernel: Tensor, bias: Tensor, implementation: str = "batched_product") -> Tensor:
    """Multiply by a kernel and add a bias.

    Parameters
    ----------
    x
        Shape (m, b, i).
    kernel, bias
        Shapes (m, o, i) and (m, o).
    implementation
        A name in ``IMPLEMENTATIONS["dense"]``.

    Returns
    -------
    torch.Tensor
        Shape (m, b, o).
    """
    return IMPLEMENTATIONS["dense"][implementation](x, kernel, bias)


def _dense_product(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return torch.bmm(x, kernel.mT) + bias[:, None, :]


def _dense_triton(x: Tensor, kernel: Tensor, bias: Tensor, precision: str) -> Tensor:
    from nwslib.population.cuda import convolution

    return convolution.dense(x, kernel, bias, precision)


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


def segments(activations: Sequence[str]) -> Segments:
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


def finish(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    stored: tuple[Tensor, Tensor] | None,
    activations: Segments | Tensor,
    implementation: str = "native",
    *,
    pool: bool = False,
    first: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what follows a layer's products: batch norm, pooling and activation.

    The pool comes before the activation, which is monotone: the same result for a quarter of the work.

    Parameters
    ----------
    x
        Shape (b, y, x, m, c), or (b, m, c) without pooling.
    gamma, beta
        Shape (m, c).
    stored
        Mean and variance to normalise by, of shape (m, c). None: those of the batch.
    activations
        From `activations`, for the same implementation.
    implementation
        A name in ``IMPLEMENTATIONS["batch_norm"]``.
    pool
        Whether to take the largest of each 2x2 pixels.
    first
        Whether the activation comes before the batch norm, as in dense layers.

    Returns
    -------
    tuple of torch.Tensor
        The result, and the mean and biased variance that it was normalised by, of shape (m, c), without gradient.
    """
    return IMPLEMENTATIONS["batch_norm"][implementation](x, gamma, beta, stored, activations, pool, first)


def _finish_native(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    stored: tuple[Tensor, Tensor] | None,
    activations: Segments,
    pool: bool,
    first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if first:
        x = activate(x, activations)
    if stored is None:
        x, *stored = normalize_batch(x, gamma, beta)
    else:
        x = normalize_running(x, gamma, beta, *stored)
    if pool:
        x = max_pool(x)
    return x if first else activate(x, activations), *stored


def _finish_triton(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    stored: tuple[Tensor, Tensor] | None,
    activations: Tensor,
    pool: bool,
    first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from nwslib.population.cuda import norm

    maps = x if x.dim() == 5 else x[:, None, None]
    if stored is None:
        y, *stored = norm.normalize_batch(maps, gamma, beta, activations, pool, first)
    else:
        y = norm.normalize_running(maps, gamma, beta, *stored, activations, pool, first)
    return y if x.dim() == 5 else y[:, 0, 0], *stored


#: By part of a network and by name, what computes it.
IMPLEMENTATIONS: dict[str, dict[str, Callable]] = {
    "convolution": {
        "grouped": _convolve_grouped,
        "im2col": _convolve_im2col,
        "triton": partial(_convolve_triton, precision="ieee"),
        "triton_tf32x3": partial(_convolve_triton, precision="tf32x3"),
    },
    "batch_norm": {"native": _finish_native, "triton": _finish_triton},
    "dense": {
        "batched_product": _dense_product,
        "triton": partial(_dense_triton, precision="ieee"),
        "triton_tf32x3": partial(_dense_triton, precision="tf32x3"),
    },
}


@dataclass(frozen=True)
class Implementation:
    """What computes each part of a network, by name; a population's manifest names it.

    ``step`` is what surrounds the network: images and their augmentation, dropout, the optimiser; ``"native"`` or
    ``"triton"``.

    Raises
    ------
    ValueError
        If a name is not in `IMPLEMENTATIONS`.

    Examples
    --------
    >>> Implementation(convolution="im2col")
    Implementation(convolution='im2col', batch_norm='native', dense='batched_product', step='native')
    """

    convolution: str = "grouped"
    batch_norm: str = "native"
    dense: str = "batched_product"
    step: str = "native"

    def __post_init__(self) -> None:
        for part in fields(self):
            name, known = getattr(self, part.name), IMPLEMENTATIONS.get(part.name, ("native", "triton"))
            if name not in known:
                raise ValueError(f"unknown implementation {name!r} of {part.name}. {nearest(name, known)}")

    def slot_multiple(self, channels: Iterable[int]) -> int:
        """Give the number whose multiples of slots compute a network bit for bit alike; see `slot_multiple`."""
        if self.convolution == "grouped" or self.batch_norm == "native":
            return slot_multiple(channels)
        # A batched product of a single network is a plain one, which may sum in another order.
        return 2 if self.convolution == "im2col" or self.dense == "batched_product" else 1

    def activations(self, names: Sequence[str], device: torch.device | str = "cpu") -> "Segments | Tensor":
        """Describe the networks' activations as this implementation needs them."""
        if self.batch_norm == "native":
            return segments(names)
        from nwslib.population.cuda import norm

        return norm.numbers(names, device)


#: What computes a network unless something else is chosen.
IMPLEMENTATION = asdict(Implementation())

#: For CUDA devices: equal for any number of networks by construction.
TRITON = Implementation("triton", "triton", "triton", "triton")


def _rows(x: Tensor) -> Tensor:
    """View (..., m, c) as (b, m*c, y, x), channels last in memory."""
    flat = x.flatten(-2)
    return flat.permute(0, 3, 1, 2) if flat.dim() == 4 else flat[:, None, None, :].permute(0, 3, 1, 2)


def _unrows(rows: Tensor, like: Tensor) -> Tensor:
    return rows.permute(0, 2, 3, 1).reshape(like.shape)
