"""Kolmogorov-Arnold networks of cubic splines, compiled: the gradient of one image network after another.

A layer reads *planes*: one of silu(x) and one of each B-spline, points by sources, of a tile of pixels that stays in
the nearest cache with the slopes of all. Sources are the innermost axis, filled up to whole vectors; one that is not
there has weights of 0. The planes of the coordinates are the same for all networks and steps, and are computed before.
"""

from typing import NamedTuple

import numpy as np

from nwslib.population.lanes import product
from nwslib.population.lanes.arithmetic import compiled, like, sigmoid
from nwslib.population.lanes.memory import address, current, streams

#: Units are filled up to a multiple of this; outputs to a multiple of the other.
VECTOR, FEW = 16, 4

#: Pixels of a tile: with 32 units and a grid of 5, planes and slopes take 63 KiB.
TILE = 28


_silu_get, _silu_put = streams("silu")
_bump_get, _bump_put = streams("bump")
_chain_get, _chain_put = streams("chain")


@compiled
def _expand(work, x, values, slopes, plane, count, splines):
    """Compute silu and every B-spline of `count` numbers, and their slopes."""
    for e in range(count):
        z = _silu_get(work, x + e)
        share = sigmoid(z)
        value = z * share
        _silu_put(work, values + e, value)
        _silu_put(work, slopes + e, share + value * (like(z, 1.0) - share))
    half = (splines - 3) / 2
    for k in range(1, splines + 1):
        for e in range(count):
            z = _bump_get(work, x + e)
            offset = (z + like(z, 1.0)) * like(z, half) - like(z, k - 2.0)  # from the middle, in intervals
            distance = -offset if offset < like(z, 0.0) else offset
            outer, inner = like(z, 2.0) - distance, like(z, 1.0) - distance
            outer = like(z, 0.0) if outer < like(z, 0.0) else outer
            inner = like(z, 0.0) if inner < like(z, 0.0) else inner
            outer2, inner2 = outer * outer, inner * inner
            slope = (inner2 * like(z, 4.0) - outer2) * like(z, half / 2)
            _bump_put(work, values + k * plane + e, outer2 * outer * like(z, 1 / 6) - inner2 * inner * like(z, 2 / 3))
            _bump_put(work, slopes + k * plane + e, -slope if offset < like(z, 0.0) else slope)


@compiled
def _chain(work, flow, slopes, result, count, add):
    """Multiply what flows back by the slopes of one plane, and put it, or add it, to the result."""
    for e in range(count):
        before = current(work, result + e) if add else like(_chain_get(work, flow + e), 0.0)
        _chain_put(work, result + e, before + _chain_get(work, flow + e) * _chain_get(work, slopes + e))


class Plan(NamedTuple):
    """Where the numbers of one network stand in the workspace."""

    code: int  # the compiled product for vectors of units
    few: int  # and for vectors of outputs
    vector: int  # numbers in a vector of units
    width: int  # units
    padded: int  # units, filled up to whole vectors
    depth: int  # hidden layers
    channels: int
    outputs: int  # channels, filled up
    splines: int  # of each edge: a layer has one plane more
    pixels: int
    square: int  # weights of a plane between two hidden layers
    inputs: int  # (plane, pixels, 2)
    z: int  # (tile, padded)
    errors: int  # (tile, outputs)
    values: int  # (depth, plane, tile, padded)
    slopes: int
    flow: int  # (tile, padded)
    down: int  # (2, tile, padded): what flows into the units of a layer, and of the one before
    first: int  # (plane, 2, padded)
    forward: int  # (depth, plane, source, unit)
    backward: int  # (depth, plane, unit, source)
    first_gradient: int  # as first
    gradient: int  # as backward
    size: int


def plan(width: int, depth: int, grid: int, channels: int, pixels: int, dtype: np.dtype) -> Plan:
    """Lay out the workspace of one thread.

    Parameters
    ----------
    width, depth, grid, channels
        Of the network.
    pixels
        Of its image.
    dtype
        float32 or float64.

    Returns
    -------
    Plan
        Places in an array of ``plan.size`` numbers of that type.
    """
    dtype, splines = np.dtype(dtype), grid + 3
    padded, outputs = -(-width // VECTOR) * VECTOR, -(-channels // FEW) * FEW
    tile, square, planes = TILE * padded, padded * max(padded, outputs), splines + 1
    sizes = {"inputs": planes * pixels * 2, "z": tile, "errors": TILE * outputs}
    sizes |= {"values": depth * planes * tile, "slopes": depth * planes * tile, "flow": tile, "down": 2 * tile}
    sizes |= {"first": planes * 2 * padded, "forward": depth * planes * square, "backward": depth * planes * square}
    sizes |= {"first_gradient": planes * 2 * padded, "gradient": depth * planes * square}
    sizes = {name: -(-size // VECTOR) * VECTOR for name, size in sizes.items()}  # each begins with a whole vector
    ends = np.cumsum([*sizes.values()]).tolist()
    places = {name: end - size for (name, size), end in zip(sizes.items(), ends, strict=True)}
    vector = product.vector_width(VECTOR, dtype)
    code, few = (product.compiled(dtype, 1, length) for length in (vector, product.vector_width(FEW, dtype)))
    of_network = (width, padded, depth, channels, outputs, splines, pixels, square)
    return Plan(code, few, vector, *of_network, **places, size=ends[-1])


@compiled
def _product(work, plan, a, a_row, a1, a0, rows, b, b1, b0, c, columns, n1, n0, add):
    """Compute c[r, j] (+)= sum over s, t of a[r, s, t] * b[s, t, j]; places and strides in numbers."""
    size, start = work.itemsize, address(work)
    few = columns < VECTOR
    product.call(
        plan.few if few else plan.code, start + a * size, a_row * size, rows, start + b * size, start + c * size,
        columns * size, columns // (FEW if few else plan.vector), n1, a1 * size, b1 * size, n0, a0 * size, b0 * size,
        add,
    )  # fmt: skip


@compiled
def _pack(weights, start, units, sources, splines, work, place, plane, unit_stride, source_stride):
    """Put what the edges of a layer multiply their planes by where products read it."""
    edges = units * sources
    for unit in range(units):
        for source in range(sources):
            edge = unit * sources + source
            to = place + unit * unit_stride + source * source_stride
            work[to] = weights[start + edge]
            spline, coefficients = weights[start + edges + edge], start + 2 * edges + edge * splines
            for k in range(splines):
                work[to + (k + 1) * plane] = spline * weights[coefficients + k]


@compiled
def _unpack(work, place, plane, unit_stride, source_stride, weights, result, start, units, sources, splines):
    """Turn the gradient of what the edges of a layer multiply by into that of their weights."""
    edges = units * sources
    for unit in range(units):
        for source in range(sources):
            edge = unit * sources + source
            at = place + unit * unit_stride + source * source_stride
            result[start + edge] = work[at]
            spline, coefficients = weights[start + edges + edge], start + 2 * edges + edge * splines
            total = like(spline, 0.0)
            for k in range(splines):
                slope = work[at + (k + 1) * plane]
                total += slope * weights[coefficients + k]
                result[coefficients + k] = slope * spline
            result[start + edges + edge] = total


@compiled
def _units(plan, layer):
    """Give the units of a layer that reads hidden units, as they are and filled up."""
    return (plan.width, plan.padded) if layer + 1 < plan.depth else (plan.channels, plan.outputs)


@compiled
def _pack_all(weights, work, plan):
    splines, padded, stack = plan.splines, plan.padded, (plan.splines + 1) * plan.square
    _pack(weights, 0, plan.width, 2, splines, work, plan.first, 2 * padded, 1, padded)
    start = 2 * plan.width * (splines + 2)
    for layer in range(plan.depth):
        units, filled = _units(plan, layer)
        forward, backward = plan.forward + layer * stack, plan.backward + layer * stack
        _pack(weights, start, units, plan.width, splines, work, forward, plan.square, 1, filled)
        _pack(weights, start, units, plan.width, splines, work, backward, plan.square, padded, 1)
        start += units * plan.width * (splines + 2)


@compiled
def _unpack_all(work, weights, result, plan):
    splines, padded, stack = plan.splines, plan.padded, (plan.splines + 1) * plan.square
    _unpack(work, plan.first_gradient, 2 * padded, 1, padded, weights, result, 0, plan.width, 2, splines)
    start = 2 * plan.width * (splines + 2)
    for layer in range(plan.depth):
        units, _ = _units(plan, layer)
        place = plan.gradient + layer * stack
        _unpack(work, place, plan.square, padded, 1, weights, result, start, units, plan.width, splines)
        start += units * plan.width * (splines + 2)


@compiled
def _forward(work, plan, first, rows):
    """Compute the outputs of a tile."""
    padded, planes, plane = plan.padded, plan.splines + 1, TILE * plan.padded
    _product(
        work, plan, plan.inputs + 2 * first, 2, 2 * plan.pixels, 1, rows, plan.first, 2 * padded, padded,
        plan.z, padded, planes, 2, 0,
    )  # fmt: skip
    for layer in range(plan.depth):
        values, slopes = plan.values + layer * planes * plane, plan.slopes + layer * planes * plane
        _expand(work, plan.z, values, slopes, plane, rows * padded, plan.splines)
        _, filled = _units(plan, layer)
        result = plan.z if layer + 1 < plan.depth else plan.errors
        _product(
            work, plan, values, padded, plane, 1, rows, plan.forward + layer * planes * plan.square, plan.square,
            filled, result, filled, planes, plan.width, 0,
        )  # fmt: skip


@compiled
def _errors(work, plan, targets, first, rows, factor):
    """Replace outputs by their errors times a factor; give the sum of the squared errors."""
    total = 0.0
    for r in range(rows):
        for o in range(plan.channels):
            place = plan.errors + r * plan.outputs + o
            error = work[place] - targets[(first + r) * plan.channels + o]
            work[place] = error * like(error, factor)
            total += np.float64(error * error)
    return total


@compiled
def _backward(work, plan, first, rows):
    """Add a tile's share to the gradient, from its errors."""
    padded, planes, plane, add = plan.padded, plan.splines + 1, TILE * plan.padded, 1 if first else 0
    above = plan.errors
    for layer in range(plan.depth - 1, -1, -1):
        units, filled = _units(plan, layer)
        below = plan.down + (layer % 2) * plane
        for k in range(planes):
            number = layer * planes + k
            values, weights = plan.values + number * plane, number * plan.square
            to = plan.gradient + weights
            _product(work, plan, above, 1, 0, filled, units, values, 0, padded, to, padded, 1, rows, add)
            back = plan.backward + weights
            _product(work, plan, above, filled, 0, 1, rows, back, 0, padded, plan.flow, padded, 1, units, 0)
            _chain(work, plan.flow, plan.slopes + number * plane, below, rows * padded, k > 0)
        above = below
    for k in range(planes):
        inputs, result = plan.inputs + 2 * (k * plan.pixels + first), plan.first_gradient + k * 2 * padded
        _product(work, plan, inputs, 1, 0, 2, 2, above, 0, padded, result, padded, 1, rows, add)


@compiled
def gradient(weights, targets, losses, result, work, plan):
    """Compute each network's mean squared error and its gradient.

    Parameters
    ----------
    weights
        Shape (m, w).
    targets
        Shape (m, pixels * channels).
    losses, result
        To fill: (m,), (m, w).
    work
        Shape (plan.size,), zeros but for the inputs.
    plan
        From `plan`.
    """
    for m in range(len(weights)):
        _pack_all(weights[m], work, plan)
        count, total = plan.pixels * plan.channels, 0.0
        for first in range(0, plan.pixels, TILE):
            rows = min(TILE, plan.pixels - first)
            _forward(work, plan, first, rows)
            total += _errors(work, plan, targets[m], first, rows, 2 / count)
            _backward(work, plan, first, rows)
        losses[m] = total / count
        _unpack_all(work, weights[m], result[m], plan)
