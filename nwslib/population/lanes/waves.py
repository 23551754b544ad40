"""Sine networks, compiled: the gradient of one image network after another, tile by tile of pixels.

All activations of a tile stay in the nearest cache. Between two products one pass adds the bias and takes sine and
cosine together. Angles are counted in half turns: the factor frequency / pi is part of the kernel that the product
reads, so that an angle is reduced to a quarter turn by one exact subtraction.

Units are the innermost axis, filled up to whole vectors: a unit that is not there has weights of 0, so its sine is 0
and nothing flows back from it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nwslib.population.lanes import product
from nwslib.population.lanes.arithmetic import compiled, like, power
from nwslib.population.lanes.memory import address, streams

#: Units are filled up to a multiple of this.
VECTOR = 16

#: Pixels of a tile: with 32 units and two hidden layers its activations take 36 KiB.
TILE = 56

#: In powers of r * r, for r up to 1/2: sin(pi r) / r and cos(pi r), by interpolation at Chebyshev's points to 7e-9.
_SINE = (3.1415926401, -5.1677100767, 2.5500773865, -0.59829041128, 0.077655912276)
_COSINE = (1.0, -4.9348021369, 4.0587091548, -1.3352119494, 0.2349370686, -0.024395932098)

#: The same by Taylor's series, to the last bit of float64.
_SINE_DOUBLE = tuple((-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(11))
_COSINE_DOUBLE = tuple((-1) ** k * math.pi ** (2 * k) / math.factorial(2 * k) for k in range(12))


def _polynomial(single: tuple[float, ...], double: tuple[float, ...]) -> Callable:
    """Make a polynomial for compiled functions, with other coefficients for float32 than for float64."""

    @intrinsic
    def evaluate(typingctx, x):
        coefficients = single if x == types.float32 else double

        def generate(context, builder, signature, arguments):
            number = context.get_value_type(x)
            value = number(coefficients[-1])
            for coefficient in coefficients[-2::-1]:
                value = builder.fma(value, arguments[0], number(coefficient))
            return value

        return x(x), generate

    return evaluate


_sine, _cosine = _polynomial(_SINE, _SINE_DOUBLE), _polynomial(_COSINE, _COSINE_DOUBLE)


@intrinsic
def _shifted(typingctx, x):
    """Add 1.5 * 2**23 (float64: 2**52): the last bits of the sum are the nearest whole number."""

    def generate(context, builder, signature, arguments):
        return builder.fadd(arguments[0], context.get_value_type(x)(_shift(x)))

    return x(x), generate


@intrinsic
def _unshifted(typingctx, x):
    def generate(context, builder, signature, arguments):
        return builder.fsub(arguments[0], context.get_value_type(x)(_shift(x)))

    return x(x), generate


def _shift(x: types.Float) -> float:
    return 1.5 * 2.0 ** (23 if x == types.float32 else 52)


@intrinsic
def _turned(typingctx, x, shifted):
    """Change the sign of x where the whole number in `shifted` is odd."""

    def generate(context, builder, signature, arguments):
        whole = ir.IntType(x.bitwidth)
        odd = builder.shl(builder.bitcast(arguments[1], whole), whole(x.bitwidth - 1))
        value = builder.xor(builder.bitcast(arguments[0], whole), odd)
        return builder.bitcast(value, context.get_value_type(x))

    return x(x, x), generate


@intrinsic
def _fma(typingctx, a, b, c):
    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, a, a), generate


@intrinsic
def _dot(typingctx, array, a, b, count):
    """Give the dot product of two runs of whole vectors: `count` numbers from a and as many from b."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        number = context.get_value_type(array.dtype)
        vector = ir.VectorType(number, VECTOR)

        kind = f"v{VECTOR}f{array.dtype.bitwidth}"
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.{kind}")
        add_up = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(number, [number, vector]), f"llvm.vector.reduce.fadd.{kind}"
        )

        def load(start: ir.Value, index: ir.Value) -> ir.Value:
            place = builder.gep(data, [builder.add(start, index)])
            loaded = builder.load(builder.bitcast(place, vector.as_pointer()))
            loaded.align = array.dtype.bitwidth // 8
            return loaded

        sums = cgutils.alloca_once(builder, vector)
        builder.store(vector([0.0] * VECTOR), sums)
        step = ir.IntType(64)(VECTOR)
        with cgutils.for_range_slice(builder, step.type(0), arguments[3], step, step.type) as (index, _):
            factors = load(arguments[1], index), load(arguments[2], index)
            builder.store(builder.call(fma, [*factors, builder.load(sums)]), sums)
        return builder.call(add_up, [number(-0.0), builder.load(sums)], fastmath=("reassoc",))

    return array.dtype(array, types.intp, types.intp, types.intp), generate


_wave_get, _wave_put = streams("wave")


@compiled
def _wave(work, z, bias, h, c, rows, width):
    """Take sine (into h) and cosine (into c) of z + bias, in half turns."""
    for start in range(0, width, VECTOR):
        for r in range(rows):
            place = r * width + start
            for k in range(VECTOR):
                t = _wave_get(work, z + place + k) + _wave_get(work, bias + start + k)
                shifted = _shifted(t)
                part = t - _unshifted(shifted)
                square = part * part
                _wave_put(work, h + place + k, _turned(part * _sine(square), shifted))
                _wave_put(work, c + place + k, _turned(_cosine(square), shifted))


_first_get, _first_put = streams("first wave")


@compiled
def _first_wave(work, inputs, kernel, h, c, rows, width):
    """Take sine and cosine of the first layer, whose inputs are (row, column, 1)."""
    for start in range(0, width, VECTOR):
        for r in range(rows):
            place = r * width + start
            y, x = _first_get(work, inputs + 3 * r), _first_get(work, inputs + 3 * r + 1)
            for k in range(VECTOR):
                t = _fma(y, _first_get(work, kernel + start + k), _first_get(work, kernel + 2 * width + start + k))
                t = _fma(x, _first_get(work, kernel + width + start + k), t)
                shifted = _shifted(t)
                part = t - _unshifted(shifted)
                square = part * part
                _first_put(work, h + place + k, _turned(part * _sine(square), shifted))
                _first_put(work, c + place + k, _turned(_cosine(square), shifted))


@compiled
def _outputs(work, h, kernel, bias, out, rows, width, channels):
    """Compute the last layer."""
    for r in range(rows):
        for o in range(channels):
            value = _dot(work, h + r * width, kernel + o * width, width)
            work[out + r * channels + o] = value + work[bias + o]


@compiled
def _errors(work, out, targets, start, count, factor):
    """Replace outputs by their errors times a factor; give the sum of the squared errors."""
    total = 0.0
    for k in range(count):
        error = work[out + k] - targets[start + k]
        work[out + k] = error * like(error, factor)
        total += np.float64(error * error)
    return total


_times_get, _times_put = streams("times")


@compiled
def _multiply(work, a, b, result, count):
    for j in range(count):
        _times_put(work, result + j, _times_get(work, a + j) * _times_get(work, b + j))


class Plan(NamedTuple):
    """Where the numbers of one network stand in the workspace; a layer's place is that of the first plus its number."""

    code: int  # the compiled product
    width: int  # units
    padded: int  # units, filled up to whole vectors
    hidden: int  # hidden layers
    channels: int
    frequency: float
    pixels: int
    vector: int  # numbers in a vector
    inputs: int  # (pixels, 3): row, column, 1
    z: int  # (tile, padded), one of them
    h: int  # (tile, padded), one for each hidden layer
    c: int
    errors: int  # (tile, channels)
    first: int  # (3, padded): kernel and bias in half turns
    forward: int  # (padded, padded) for each hidden layer but the first: source by unit, in half turns
    backward: int  # unit by source, times the frequency
    bias: int  # (padded,) in half turns
    last: int  # (channels, padded)
    last_bias: int  # (channels,)
    first_gradient: int
    gradient: int  # unit by source
    bias_gradient: int
    last_gradient: int
    last_bias_gradient: int
    size: int


def plan(width: int, depth: int, channels: int, frequency: float, pixels: int, dtype: np.dtype) -> Plan:
    """Lay out the workspace of one thread.

    Parameters
    ----------
    width, depth, channels, frequency
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
    padded = -(-width // VECTOR) * VECTOR
    vector = product.vector_width(VECTOR, dtype)
    square = padded * padded
    sizes = {"inputs": 3 * pixels, "z": TILE * padded, "h": depth * TILE * padded}
    sizes |= {"c": depth * TILE * padded, "errors": TILE * channels, "first": 3 * padded}
    sizes |= {"forward": depth * square, "backward": depth * square, "bias": depth * padded}
    sizes |= {"last": channels * padded, "last_bias": channels, "first_gradient": 3 * padded}
    sizes |= {"gradient": depth * square, "bias_gradient": depth * padded, "last_gradient": channels * padded}
    sizes |= {"last_bias_gradient": channels}
    sizes = {name: -(-size // VECTOR) * VECTOR for name, size in sizes.items()}  # each begins with a whole vector
    ends = np.cumsum([*sizes.values()]).tolist()
    places = {name: end - size for (name, size), end in zip(sizes.items(), ends, strict=True)}
    code = product.compiled(np.dtype(dtype), 1, vector)
    return Plan(code, width, padded, depth, channels, frequency, pixels, vector, **places, size=ends[-1])


@compiled
def _product(work, plan, a, a_row, a0, rows, b, c, n0, add):
    """Compute c[r, j] (+)= sum over s of a[r, s] * b[s, j], j over all units; places and strides in numbers."""
    size, start, row = work.itemsize, address(work), plan.padded * work.itemsize
    product.call(
        plan.code, start + a * size, a_row * size, rows, start + b * size, start + c * size, row,
        plan.padded // plan.vector, 1, 0, 0, n0, a0 * size, row, add,
    )  # fmt: skip


@compiled
def _pack(weights, work, plan):
    """Put one network's weights where products read them."""
    width, padded, channels = plan.width, plan.padded, plan.channels
    turns, factor = plan.frequency / math.pi, plan.frequency
    for unit in range(width):
        work[plan.first + unit] = weights[2 * unit] * turns
        work[plan.first + padded + unit] = weights[2 * unit + 1] * turns
        work[plan.first + 2 * padded + unit] = weights[2 * width + unit] * turns
    start = 3 * width
    for layer in range(1, plan.hidden):
        square = layer * padded * padded
        for unit in range(width):
            for source in range(width):
                weight = weights[start + unit * width + source]
                work[plan.forward + square + source * padded + unit] = weight * turns
                work[plan.backward + square + unit * padded + source] = weight * factor
            work[plan.bias + layer * padded + unit] = weights[start + width * width + unit] * turns
        start += width * width + width
    for o in range(channels):
        for unit in range(width):
            work[plan.last + o * padded + unit] = weights[start + o * width + unit]
        work[plan.last_bias + o] = weights[start + channels * width + o]


@compiled
def _unpack(work, gradient, plan):
    """Put the gradient of one network where its weights are."""
    width, padded, channels, factor = plan.width, plan.padded, plan.channels, plan.frequency
    for unit in range(width):
        for k in range(2):
            gradient[2 * unit + k] = work[plan.first_gradient + k * padded + unit] * factor
        gradient[2 * width + unit] = work[plan.first_gradient + 2 * padded + unit] * factor
    start = 3 * width
    for layer in range(1, plan.hidden):
        square = plan.gradient + layer * padded * padded
        for unit in range(width):
            for source in range(width):
                gradient[start + unit * width + source] = work[square + unit * padded + source] * factor
            gradient[start + width * width + unit] = work[plan.bias_gradient + layer * padded + unit] * factor
        start += width * width + width
    for o in range(channels):
        for unit in range(width):
            gradient[start + o * width + unit] = work[plan.last_gradient + o * padded + unit]
        gradient[start + channels * width + o] = work[plan.last_bias_gradient + o]


@compiled
def _forward(work, plan, first, rows):
    """Compute the outputs of a tile."""
    padded, tile = plan.padded, TILE * plan.padded
    _first_wave(work, plan.inputs + 3 * first, plan.first, plan.h, plan.c, rows, padded)
    for layer in range(1, plan.hidden):
        h, square = plan.h + layer * tile, layer * padded * padded
        _product(work, plan, h - tile, padded, 1, rows, plan.forward + square, plan.z, padded, 0)
        _wave(work, plan.z, plan.bias + layer * padded, h, plan.c + layer * tile, rows, padded)
    h = plan.h + (plan.hidden - 1) * tile
    _outputs(work, h, plan.last, plan.last_bias, plan.errors, rows, padded, plan.channels)


@compiled
def _backward(work, plan, first, rows):
    """Add a tile's share to the gradient, from its errors; sines make room for what flows back."""
    padded, tile, channels, add = plan.padded, TILE * plan.padded, plan.channels, 1 if first else 0
    top, ones = (plan.hidden - 1) * tile, plan.inputs + 2
    _product(work, plan, plan.errors, 1, channels, channels, plan.h + top, plan.last_gradient, rows, add)
    for o in range(channels):
        for r in range(rows):
            work[plan.last_bias_gradient + o] += work[plan.errors + r * channels + o]
    _product(work, plan, plan.errors, channels, 1, rows, plan.last, plan.z, channels, 0)
    _multiply(work, plan.c + top, plan.z, plan.h + top, rows * padded)
    for layer in range(plan.hidden - 1, 0, -1):
        d, square = plan.h + layer * tile, layer * padded * padded
        _product(work, plan, d, 1, padded, padded, d - tile, plan.gradient + square, rows, add)
        _product(work, plan, ones, 0, 0, 1, d, plan.bias_gradient + layer * padded, rows, add)
        _product(work, plan, d, padded, 1, rows, plan.backward + square, plan.z, padded, 0)
        _multiply(work, plan.c + (layer - 1) * tile, plan.z, d - tile, rows * padded)
    _product(work, plan, plan.inputs + 3 * first, 1, 3, 3, plan.h, plan.first_gradient, rows, add)


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
        _pack(weights[m], work, plan)
        work[plan.last_bias_gradient : plan.last_bias_gradient + plan.channels] = 0
        count, total = plan.pixels * plan.channels, 0.0
        for first in range(0, plan.pixels, TILE):
            rows = min(TILE, plan.pixels - first)
            _forward(work, plan, first, rows)
            total += _errors(work, plan.errors, targets[m], first * plan.channels, rows * plan.channels, 2 / count)
            _backward(work, plan, first, rows)
        losses[m] = total / count
        _unpack(work, result[m], plan)


@compiled
def adam(weights, gradient, a, v, rates, step):
    """Take one step of Adam with every network, in place.

    Parameters
    ----------
    weights, gradient, a, v
        Shape (m, w): the weights, the gradient, and the means of it and of its square.
    rates
        Shape (m,), float64: learning rates.
    step
        From 1.

    Notes
    -----
    Kingma and Ba, "Adam: a method for stochastic optimization", 2015: 0.9, 0.999, 1e-8, added to the corrected root.
    """
    for m in range(len(weights)):
        one = like(weights[m, 0], 1.0)
        keep_a, keep_v, epsilon = like(one, 0.9), like(one, 0.999), like(one, 1e-8)
        correction = like(one, 1 / math.sqrt(1 - power(0.999, step)))
        rate = like(one, rates[m] / (1 - power(0.9, step)))
        for k in range(weights.shape[1]):
            g = gradient[m, k]
            first = keep_a * a[m, k] + (one - keep_a) * g
            second = keep_v * v[m, k] + (one - keep_v) * g * g
            a[m, k], v[m, k] = first, second
            weights[m, k] -= rate * first / (np.sqrt(second) * correction + epsilon)
