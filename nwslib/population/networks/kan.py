"""Kolmogorov-Arnold networks: a learned function on every edge, computed for M networks at once.

An edge turns its input ``x`` into ``base * silu(x) + spline * sum over k of coefficients[k] * B_k(x)``, and a unit adds
up its edges; there is no bias. The ``B_k`` are the B-splines of one order on a uniform grid over [-1, 1], extended by
as many knots on both sides, and the grid stays as it is. After Liu et al., "KAN: Kolmogorov-Arnold networks", 2024
(arXiv:2404.19756). What an edge weighs depends on its input alone, so a layer is two steps: `expand` every input into
``silu`` and its ``grid + order`` B-splines, then one product with all weights of the edges.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nwslib.population import draws
from nwslib.population.lanes import splines
from nwslib.population.shared import Gradient
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.layout import Tensor as LayoutTensor

__all__ = [
    "ARCHITECTURE",
    "FORWARD",
    "GRID",
    "ORDER",
    "SCHEDULE",
    "at_once",
    "basis",
    "classifier",
    "expand",
    "gradient",
    "initial_weights",
    "layout",
    "outputs",
    "stacked",
    "to_module",
]

ARCHITECTURE = ("width", "depth", "grid", "order")
FORWARD = ("order",)
SCHEDULE = "constant"

GRID = 5  # intervals over [-1, 1]
ORDER = 3  # cubic

_COEFFICIENT_DEVIATION = 0.1  # of the initial coefficients: the splines begin near 0, as Liu et al. have it


def layout(
    outputs: int, width: int = 32, depth: int = 1, grid: int = GRID, order: int = ORDER, *, inputs: int = 2
) -> Layout:
    """Lay out a network: every layer has base weights, spline weights and coefficients.

    Parameters
    ----------
    outputs
        Channels of an image, or classes.
    width, depth
        Units of a hidden layer, and hidden layers.
    grid, order
        Intervals over [-1, 1], and order of the B-splines (3: cubic).
    inputs
        2 coordinates, or the pixels of an image.

    Returns
    -------
    Layout
        Layers ``kan1``, ... and ``output``; kinds ``base`` and ``spline`` (unit, source), ``coefficients`` (unit,
        source, row), where row counts the ``grid + order`` B-splines from the left.

    Raises
    ------
    ValueError
        If a number is below 1.

    Examples
    --------
    >>> layout(1).size, layout(1, depth=2).size, layout(10, inputs=28 * 28).size
    (960, 11200, 254080)
    """
    asked = {"inputs": inputs, "outputs": outputs, "width": width, "depth": depth, "grid": grid, "order": order}
    for name, value in asked.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, not {value!r}")
    units = [inputs, *[width] * depth, outputs]
    names = [*(f"kan{number}" for number in range(1, depth + 1)), "output"]
    tensors = []
    for layer, source, unit in zip(names, units[:-1], units[1:], strict=True):
        edges = (unit, source)
        tensors += [LayoutTensor(layer, "dense", kind, ("unit", "source"), edges) for kind in ("base", "spline")]
        tensors.append(LayoutTensor(layer, "dense", "coefficients", ("unit", "source", "row"), (*edges, grid + order)))
    return Layout("kan", tuple(tensors))


def classifier(row: Mapping[str, Any], channels: int, classes: int) -> Layout:
    """Lay out the classifier that a row of a design describes; see `layout`.

    Parameters
    ----------
    row
        With ``image_size``, ``width``, ``depth``, ``grid`` and ``order``.
    channels, classes
        Of the image set.

    Examples
    --------
    >>> row = {"image_size": 14, "width": 32, "depth": 1, "grid": 5, "order": 3}
    >>> classifier(row, channels=1, classes=10).size
    65920
    """
    architecture = {name: row[name] for name in ARCHITECTURE}
    return layout(classes, **architecture, inputs=channels * row["image_size"] ** 2)


def initial_weights(layout: Layout, seeds: Tensor, **architecture: int) -> Tensor:
    """Draw the initial weights of several networks.

    Parameters
    ----------
    layout
        Of the networks.
    seeds
        Of the networks, shape (m,), int64.
    **architecture
        Of no consequence: the layout says all.

    Returns
    -------
    torch.Tensor
        Shape (m, w), float64, on the device of the seeds: base weights by Glorot's uniform rule, spline weights 1,
        coefficients normal with standard deviation 0.1.

    Notes
    -----
    Liu et al., 2024, section 2.2.

    Examples
    --------
    >>> initial_weights(layout(1), torch.tensor([7, 8])).shape
    torch.Size([2, 960])
    """
    bits = draws.words(seeds, draws.WEIGHTS, 0, 0, layout.size)
    return torch.cat([_initial(tensor, bits[:, layout.slices[tensor.name]]) for tensor in layout.tensors], dim=1)


def basis(x: Tensor, grid: int = GRID, order: int = ORDER) -> Tensor:
    """Evaluate every B-spline of the extended uniform grid at every point; differentiable once.

    Parameters
    ----------
    x
        Shape (..., b).
    grid, order
        As for `layout`.

    Returns
    -------
    torch.Tensor
        Shape (..., grid + order, b). Over [-1, 1] they add up to 1; from ``1 + 2 * order / grid`` on, all are 0.

    Notes
    -----
    On a uniform grid all B-splines are one bump in other places, and a bump of order n is a sum of truncated powers
    (Schoenberg, "Contributions to the problem of approximation of equidistant data", 1946). Taken from the bump's
    middle, only half of them differ from 0, so nothing cancels outside it.

    Examples
    --------
    >>> basis(torch.tensor([0.2]), grid=5, order=1).flatten().round(decimals=3).tolist()
    [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    """
    return _Expand.apply(x, grid, order)[..., 1:, :]


def expand(inputs: Tensor, grid: int = GRID, order: int = ORDER) -> Tensor:
    """Compute what the edges of a layer weigh: of each input, ``silu`` and its B-splines.

    Parameters
    ----------
    inputs
        Shape (..., b, i).
    grid, order
        As for `layout`.

    Returns
    -------
    torch.Tensor
        Shape (..., i * (1 + grid + order), b).

    Examples
    --------
    >>> expand(torch.zeros(100, 2)).shape
    torch.Size([18, 100])
    """
    return _expand(inputs.transpose(-1, -2).contiguous(), grid, order)


def outputs(tensors: Mapping[str, Tensor], inputs: Tensor, *, order: int = ORDER) -> Tensor:
    """Compute M networks at once.

    Parameters
    ----------
    tensors
        By name, each of shape (m, *shape), layers in the order of the layout.
    inputs
        Shape (m, b, i), in [-1, 1], or (b, i) where all networks read the same; or images (m, b, y, x, c) in [0, 1],
        which are stretched to [-1, 1].
    order
        Of the B-splines; the grid follows from the number of coefficients.

    Returns
    -------
    torch.Tensor
        Shape (m, b, o). Networks are multiplied in one batch: a network in a crowd is the same as alone to rounding.
    """
    inputs = (2 * inputs - 1).flatten(2) if inputs.dim() == 5 else inputs
    return _outputs(tensors, expand(inputs, _grid(tensors, order), order), order).transpose(1, 2)


def compiled(inputs: Tensor, *, order: int = ORDER, **architecture: int) -> bool:
    """Say whether `gradient` is compiled for inputs of this device and precision, and this architecture."""
    return inputs.device.type == "cpu" and inputs.dtype == torch.float32 and order == 3


def gradient(layout: Layout, inputs: Tensor, targets: Tensor, *, order: int = ORDER, **architecture: int) -> Gradient:
    """Prepare the losses of M image networks and their gradients.

    Parameters
    ----------
    layout
        Of the networks.
    inputs, targets
        Coordinates (b, 2) from -1 to 1, and pixels (m, b, c).
    order
        Of the B-splines.
    **architecture
        Of no consequence: the layout says the rest.

    Returns
    -------
    Gradient
        On a CPU cubic splines in float32 are compiled: one network after another, each with the same bits in any
        company. All else are stacked tensor operations, whose products may round differently in another company.
    """
    if compiled(inputs, order=order):
        return _compiled(layout, inputs, targets)
    return stacked(layout, inputs, targets, order=order)


def _compiled(layout: Layout, inputs: Tensor, targets: Tensor) -> Gradient:
    first = layout.tensors[2].shape  # unit, source, row
    images, losses = targets.flatten(1).numpy(), torch.empty(len(targets))
    plan = splines.plan(first[0], len(layout.tensors) // 3 - 1, first[2] - 3, targets.shape[2], len(inputs), "float32")
    work = np.zeros(plan.size, "float32")
    planes = expand(inputs, first[2] - 3, 3).unflatten(0, (2, -1)).permute(1, 2, 0)
    work[plan.inputs : plan.inputs + planes.numel()] = planes.flatten().numpy()

    def compute(weights: Tensor, result: Tensor) -> Tensor:
        splines.gradient(weights.numpy(), images, losses.numpy(), result.numpy(), work, plan)
        return losses

    return compute


def stacked(layout: Layout, inputs: Tensor, targets: Tensor, *, order: int = ORDER) -> Gradient:
    """Prepare the same program as plain operations on stacked tensors, for any device and order of B-splines."""
    expanded = expand(inputs, layout.tensors[2].shape[-1] - order, order)  # the same in every step
    pixels = targets.mT

    def compute(weights: Tensor, result: Tensor) -> Tensor:
        leaves = {
            t.name: weights[:, layout.slices[t.name]].detach().unflatten(1, t.shape).requires_grad_()
            for t in layout.tensors
        }
        losses = (_outputs(leaves, expanded, order) - pixels).square().mean((1, 2))
        for name, found in zip(leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True):
            result[:, layout.slices[name]] = found.flatten(1)
        return losses.detach()

    return compute


def at_once(layout: Layout, pixels: int, device: torch.device) -> int:
    """Say how many image networks make a block.

    Notes
    -----
    On a CPU planes belong to one network at a time, so that a block is what keeps weights, gradients and Adam's states
    in a core's cache. On a GPU the planes of all hidden units, and what flows back, take 4 GiB.
    """
    if device.type == "cpu":
        return 32
    planes = sum(math.prod(t.shape[1:]) for t in layout.tensors[3:] if t.kind == "coefficients")
    return max(1, 2**32 // (8 * 4 * planes * pixels))


def to_module(layout: Layout, vector: Tensor, *, order: int = ORDER, **architecture: int) -> nn.Module:
    """Rebuild one network as an ordinary PyTorch module.

    Parameters
    ----------
    layout
        Of the network.
    vector
        Its weights, shape (w,): a tensor or an array.
    order
        Of its B-splines.
    **architecture
        Of no consequence: the layout says the rest.

    Returns
    -------
    torch.nn.Sequential
        Takes inputs of shape (b, i), or images (b, c, y, x) in [0, 1], and gives outputs of shape (b, o); its B-splines
        are those of the recursion of de Boor and Cox.
    """
    vector = torch.as_tensor(vector)
    tensors = {t.name: vector[layout.slices[t.name]].reshape(t.shape).clone() for t in layout.tensors}
    kinds = ("base", "spline", "coefficients")
    layers = [_Edges(*(tensors[f"{layer}.{kind}"] for kind in kinds), order) for layer in _layers(tensors)]
    return nn.Sequential(_Pixels(), *layers).eval()


class _Pixels(nn.Module):
    """Flatten images, with channels last, and stretch them to [-1, 1]; let other inputs pass."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.dim() == 2 else 2 * x.permute(0, 2, 3, 1).flatten(1) - 1


class _Edges(nn.Module):
    """One layer, written out from the definition."""

    def __init__(self, base: Tensor, spline: Tensor, coefficients: Tensor, order: int) -> None:
        super().__init__()
        self.base, self.spline, self.coefficients = map(nn.Parameter, (base, spline, coefficients))
        self.order = order
        grid = coefficients.shape[-1] - order
        knots = torch.arange(-order, grid + order + 1, dtype=base.dtype, device=base.device) * (2 / grid) - 1
        self.register_buffer("knots", knots)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, None]  # (b, i, 1)
        knots = self.knots
        bumps = ((knots[:-1] <= x) & (x < knots[1:])).to(x.dtype)
        for n in range(1, self.order + 1):
            left = (x - knots[: -n - 1]) / (knots[n:-1] - knots[: -n - 1])
            right = (knots[n + 1 :] - x) / (knots[n + 1 :] - knots[1:-n])
            bumps = left * bumps[..., :-1] + right * bumps[..., 1:]
        curves = torch.einsum("oik,bik->boi", self.coefficients, bumps)
        return (self.base * nn.functional.silu(x[:, None, :, 0]) + self.spline * curves).sum(-1)


class _Expand(torch.autograd.Function):
    """Expanded inputs with their own derivative: autograd would keep a dozen tensors of the size of the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: int, order: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid, ctx.order = grid, order
        found = x.new_empty(*x.shape[:-1], 1 + grid + order, x.shape[-1])
        found[..., 0, :] = nn.functional.silu(x)
        _fill_basis(found[..., 1:, :], x, grid, order)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(x)
        found = _basis_gradient(gradient[..., 1:, :], x, ctx.grid, ctx.order)
        return found.addcmul_(gradient[..., 0, :], share * (1 + x * (1 - share))), None, None


def _outputs(tensors: Mapping[str, Tensor], expanded: Tensor, order: int) -> Tensor:
    """Compute M networks from their expanded inputs, points last: (m, o, b)."""
    layers = _layers(tensors)
    for layer in layers:
        base, spline, coefficients = (tensors[f"{layer}.{kind}"] for kind in ("base", "spline", "coefficients"))
        edges = torch.cat([base[..., None], spline[..., None] * coefficients], dim=-1).flatten(2)
        x = _product(edges, expanded)
        if layer != layers[-1]:
            expanded = _expand(x, coefficients.shape[-1] - order, order)
    return x


def _product(edges: Tensor, expanded: Tensor) -> Tensor:
    """Multiply edges (m, o, e) and expanded inputs (m, e, b), or (e, b) for all: then it is one product."""
    if expanded.dim() == 3:
        return edges @ expanded
    return (edges.flatten(0, 1) @ expanded).unflatten(0, edges.shape[:2])


def _layers(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name.removesuffix(".base") for name in tensors if name.endswith(".base")]


def _grid(tensors: Mapping[str, Tensor], order: int) -> int:
    return tensors[f"{_layers(tensors)[0]}.coefficients"].shape[-1] - order


def _expand(x: Tensor, grid: int, order: int) -> Tensor:
    """Expand inputs of shape (..., i, b), points last: then every B-spline is computed along contiguous numbers."""
    return _Expand.apply(x, grid, order).flatten(-3, -2)


def _fill_basis(found: Tensor, x: Tensor, grid: int, order: int) -> None:
    """Write the B-splines at x (..., b) into found (..., grid + order, b)."""
    for some, offset in _offsets(x, grid, order):
        found[..., some, :] = _truncated_powers(offset.abs_(), order, order)


def _basis_gradient(gradient: Tensor, x: Tensor, grid: int, order: int) -> Tensor:
    """Give the gradient of x (..., b), from that of its B-splines (..., grid + order, b)."""
    found = torch.zeros_like(x)
    for some, offset in _offsets(x, grid, order):
        falls = offset.sign()
        slopes = _truncated_powers(offset.abs_(), order, order - 1).mul_(falls).mul_(gradient[..., some, :])
        found -= slopes.sum(-2)
    return found.mul_(order * grid / 2)


def _offsets(x: Tensor, grid: int, order: int) -> Iterator[tuple[slice, Tensor]]:
    """Give how far every x lies from the middles of some B-splines at a time, in intervals of the grid."""
    # On a CPU one at a time: what is worked on stays in the cache, 8 to 15 times as fast. A GPU wants few, large steps.
    step = 1 if x.device.type == "cpu" else grid + order
    places = (x[..., None, :] + 1) * (grid / 2)
    for start in range(0, grid + order, step):
        some = slice(start, min(start + step, grid + order))
        middles = torch.arange(some.start, some.stop, dtype=x.dtype, device=x.device) + (1 - order) / 2
        yield some, places - middles[:, None]


def _truncated_powers(distance: Tensor, order: int, power: int) -> Tensor:
    """Sum up the powers of what is left of each reach at this distance: the bump, or its slope but for a factor."""
    found = torch.zeros_like(distance)
    for reach, factor in _reaches(order):
        left = (reach - distance).clamp_(min=0)
        found.add_(left.pow_(power) if power else left.sign_(), alpha=factor)
    return found


@cache
def _reaches(order: int) -> tuple[tuple[float, float], ...]:
    """Give reach and factor of each truncated power of a bump of this order."""
    middle = (order + 1) / 2
    return tuple(
        (middle - j, (-1) ** j * math.comb(order + 1, j) / math.factorial(order)) for j in range(math.ceil(middle))
    )


def _initial(tensor: LayoutTensor, bits: Tensor) -> Tensor:
    if tensor.kind == "base":
        units, sources = tensor.shape
        return (2 * draws.uniform(bits) - 1) * math.sqrt(6 / (units + sources))
    if tensor.kind == "spline":
        return torch.ones(bits.shape, dtype=torch.float64, device=bits.device)
    return _COEFFICIENT_DEVIATION * draws.normal(bits)
