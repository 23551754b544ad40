"""Layers of many networks, forward and backward, compiled: convolution, batch norm, pool, activation, dense.

Every buffer is flat. Feature maps have the axes ``b y x c m`` with m innermost; kernels ``ky kx i o m`` and, dense,
``i o m``. The two innermost axes together are the *joint* axis. Rows of feature maps that a convolution reads hold
zeros left and right of the image: its *margin*.
"""

from collections.abc import Callable

import numpy as np

from nwslib.population.lanes.arithmetic import compiled, elu, like, relu, sigmoid, tanh
from nwslib.population.lanes.memory import address, current, streams
from nwslib.population.lanes.product import call

EPSILON = 1e-5
ACTIVATIONS = ("relu", "elu", "sigmoid", "tanh")
_RELU, _ELU, _SIGMOID, _TANH = range(4)

_CONVOLUTION = """size inputs outputs filter pooled kernel bias beta gamma mean variance x z y y_margin dz dy dx turned
choice batch product vectors back_product back_vectors"""
_DENSE = """inputs outputs kernel bias beta gamma mean variance x z y dz dy dx turned batch first_unit product vectors
back_product back_vectors"""

#: One layer: its sizes; where its tensors are in the weight vector (times m), its buffers in the workspace; products.
CONVOLUTION = np.dtype([(name, np.int64) for name in _CONVOLUTION.split()])
DENSE = np.dtype([(name, np.int64) for name in _DENSE.split()])


@compiled
def convolve(layer, work, weights, count, m, biased):
    """Fill z from x; with the bias only where asked for, since the batch norm behind takes it away again."""
    size, margin, item = layer.size, layer.filter // 2, work.itemsize
    x_pixel, z_pixel = layer.inputs * m * item, layer.outputs * m * item
    x_row, taps = x_pixel * (size + 2 * margin), layer.filter * layer.inputs
    x, z = address(work) + layer.x * item, address(work) + layer.z * item
    kernel = address(weights) + layer.kernel * m * item
    if biased:
        _fill(work, layer.z, count * size * size, layer.outputs * m, weights, layer.bias * m)
    for b in range(count):
        for y in range(size):
            first, end = max(0, margin - y), min(layer.filter, size + margin - y)
            a, c = x + (b * size + y + first - margin) * x_row, z + (b * size + y) * size * z_pixel
            rows = kernel + first * taps * z_pixel
            call(
                layer.product, a, x_pixel, size, rows, c, z_pixel, layer.vectors,
                end - first, x_row, taps * z_pixel, taps, m * item, z_pixel, 1 if biased else 0,
            )  # fmt: skip


@compiled
def convolve_backward(layer, work, weights, gradient, count, m):
    """Fill the kernel's gradient, and dx where the layer has one, from dz and x."""
    size, margin, item = layer.size, layer.filter // 2, work.itemsize
    x_pixel, z_pixel = layer.inputs * m * item, layer.outputs * m * item
    x_row, z_row = x_pixel * (size + 2 * margin), z_pixel * (size + 2 * margin)
    taps = layer.filter * layer.inputs
    x, dz = address(work) + layer.x * item, address(work) + layer.dz * item
    kernel = address(gradient) + layer.kernel * m * item
    for b in range(count):
        for ky in range(layer.filter):
            first, end = max(0, margin - ky), min(size, size + margin - ky)
            a = x + (b * size + first + ky - margin) * x_row
            other = dz + (b * size + first) * z_row + margin * z_pixel
            call(
                layer.product, a, m * item, taps, other, kernel + ky * taps * z_pixel, z_pixel, layer.vectors,
                end - first, x_row, z_row, size, x_pixel, z_pixel, 1 if b > 0 else 0,
            )  # fmt: skip
    if layer.dx >= 0:
        _turn(layer, work, weights, m)
        _convolve_turned(layer, work, count, m)


@compiled
def bias_gradient(layer, work, gradient, count, m):
    """Fill the gradient of the bias in front of a batch norm: what rounding leaves of an exact zero."""
    size, margin, joint = layer.size, layer.filter // 2, layer.outputs * m
    sums = np.zeros(joint)
    _add_columns(work, layer.dz + margin * joint, count * size, size, (size + 2 * margin) * joint, joint, sums)
    for j in range(joint):
        gradient[layer.bias * m + j] = sums[j]


@compiled
def _convolve_turned(layer, work, count, m):
    size, margin, item = layer.size, layer.filter // 2, work.itemsize
    x_pixel, z_pixel = layer.inputs * m * item, layer.outputs * m * item
    z_row, taps = z_pixel * (size + 2 * margin), layer.filter * layer.outputs
    dz, dx = address(work) + layer.dz * item, address(work) + layer.dx * item
    turned = address(work) + layer.turned * item
    for b in range(count):
        for y in range(size):
            first, end = max(0, margin - y), min(layer.filter, size + margin - y)
            a, c = dz + (b * size + y + first - margin) * z_row, dx + (b * size + y) * size * x_pixel
            rows = turned + first * taps * x_pixel
            call(
                layer.back_product, a, z_pixel, size, rows, c, x_pixel, layer.back_vectors,
                end - first, z_row, taps * x_pixel, taps, m * item, x_pixel, 0,
            )  # fmt: skip


_turn_get, _turn_put = streams("turn")


@compiled
def _turn(layer, work, weights, m):
    """Turn the kernel by half a circle and exchange its channels: ky kx i o m becomes ky kx o i m."""
    taps, start = layer.filter * layer.filter, layer.kernel * m
    for tap in range(taps):
        to = layer.turned + (taps - 1 - tap) * layer.inputs * layer.outputs * m
        _exchange(weights, start + tap * layer.inputs * layer.outputs * m, work, to, layer.inputs, layer.outputs, m)


@compiled
def _exchange(weights, start, work, to, inputs, outputs, m):
    for i in range(inputs):
        for o in range(outputs):
            for lane in range(m):
                value = _turn_get(weights, start + (i * outputs + o) * m + lane)
                _turn_put(work, to + (o * inputs + i) * m + lane, value)


@compiled
def dense(layer, work, weights, count, m):
    """Fill z from x: product and bias."""
    item = work.itemsize
    x_image, z_image = layer.inputs * m * item, layer.outputs * m * item
    _fill(work, layer.z, count, layer.outputs * m, weights, layer.bias * m)
    call(
        layer.product, address(work) + layer.x * item, x_image, count,
        address(weights) + layer.kernel * m * item, address(work) + layer.z * item, z_image, layer.vectors,
        1, 0, 0, layer.inputs, m * item, z_image, 1,
    )  # fmt: skip


@compiled
def dense_backward(layer, work, weights, gradient, count, m):
    """Fill the gradients of kernel and bias, and dx, from dz and x."""
    item = work.itemsize
    x_image, z_image = layer.inputs * m * item, layer.outputs * m * item
    x, dz = address(work) + layer.x * item, address(work) + layer.dz * item
    call(
        layer.product, x, m * item, layer.inputs, dz, address(gradient) + layer.kernel * m * item, z_image,
        layer.vectors, 1, 0, 0, count, x_image, z_image, 0,
    )  # fmt: skip
    sums = np.zeros(layer.outputs * m)
    _add_columns(work, layer.dz, count, 1, layer.outputs * m, layer.outputs * m, sums)
    for j in range(len(sums)):
        gradient[layer.bias * m + j] = sums[j]
    _exchange(weights, layer.kernel * m, work, layer.turned, layer.inputs, layer.outputs, m)
    call(
        layer.back_product, dz, z_image, count, address(work) + layer.turned * item,
        address(work) + layer.dx * item, x_image, layer.back_vectors,
        1, 0, 0, layer.outputs, m * item, x_image, 0,
    )  # fmt: skip


_fill_get, _fill_put = streams("fill")


@compiled
def _fill(work, start, pixels, joint, weights, source):
    for pixel in range(pixels):
        for j in range(joint):
            _fill_put(work, start + pixel * joint + j, _fill_get(weights, source + j))


_sum_get, _sum_put = streams("sum")


@compiled
def _add_columns(x, start, rows, pixels, row, joint, sums):
    """Add up each joint place over rows of pixels: a row in the type of x, the rows in float64."""
    partial = np.empty(joint, x.dtype)
    for r in range(rows):
        place = start + r * row
        for j in range(joint):
            _sum_put(partial, j, _sum_get(x, place + j))
        for pixel in range(1, pixels):
            for j in range(joint):
                _sum_put(partial, j, current(partial, j) + _sum_get(x, place + pixel * joint + j))
        for j in range(joint):
            sums[j] += partial[j]


_square_get, _square_put = streams("square")


@compiled
def _add_squares(x, start, rows, pixels, joint, mean, sums):
    partial = np.empty(joint, x.dtype)
    for r in range(rows):
        partial[:] = 0
        for pixel in range(pixels):
            place = start + (r * pixels + pixel) * joint
            for j in range(joint):
                difference = _square_get(x, place + j) - _square_get(mean, j)
                _square_put(partial, j, current(partial, j) + difference * difference)
        for j in range(joint):
            sums[j] += partial[j]


@compiled
def batch_statistics(work, start, rows, pixels, joint, batch):
    """Put mean, biased variance and 1 / root of it, each of the joint axis's length, into the workspace at `batch`."""
    count = rows * pixels
    sums = np.zeros(joint)
    _add_columns(work, start, rows, pixels, pixels * joint, joint, sums)
    mean = np.empty(joint, work.dtype)
    for j in range(joint):
        mean[j] = sums[j] / count
    sums[:] = 0
    _add_squares(work, start, rows, pixels, joint, mean, sums)
    for j in range(joint):
        work[batch + j] = mean[j]
        work[batch + joint + j] = sums[j] / count
        work[batch + 2 * joint + j] = 1 / np.sqrt(sums[j] / count + EPSILON)


@compiled
def stored_statistics(layer, work, weights, m):
    """Put the moving statistics where `batch_statistics` puts those of a batch."""
    joint = layer.outputs * m
    for j in range(joint):
        variance = weights[layer.variance * m + j]
        work[layer.batch + j] = weights[layer.mean * m + j]
        work[layer.batch + joint + j] = variance
        work[layer.batch + 2 * joint + j] = 1 / np.sqrt(np.float64(variance) + EPSILON)


@compiled
def move_statistics(layer, work, weights, m):
    """Move the moving statistics a tenth of the way to those of the batch."""
    joint = layer.outputs * m
    for k, kind in enumerate((layer.mean, layer.variance)):
        for j in range(joint):
            moving, value = weights[kind * m + j], work[layer.batch + k * joint + j]
            weights[kind * m + j] = moving * like(moving, 0.9) + value * like(value, 0.1)


@compiled
def normalize_maps(layer, work, weights, choice, count, m):
    """Fill y from z: normalise, then keep the largest of each 2x2 pixels where the layer is pooled."""
    size, joint = layer.size, layer.outputs * m
    side = size // 2 if layer.pooled else size
    scale = _scale(layer, work, weights, joint, m)
    width = side + 2 * layer.y_margin
    for b in range(count):
        for y in range(side):
            target = layer.y + ((b * side + y) * width + layer.y_margin) * joint
            if layer.pooled:
                source, chosen = (
                    layer.z + (b * size + 2 * y) * size * joint,
                    layer.choice + (b * side + y) * side * joint,
                )
                _pool_row(
                    work, source, size, side, joint, layer.batch, scale, weights, layer.beta * m, target, choice, chosen
                )
            else:
                source = layer.z + (b * size + y) * size * joint
                _normalize_row(work, source, side, joint, layer.batch, scale, weights, layer.beta * m, target)


@compiled
def _scale(layer, work, weights, joint, m):
    scale = np.empty(joint, work.dtype)
    for j in range(joint):
        scale[j] = weights[layer.gamma * m + j] * work[layer.batch + 2 * joint + j]
    return scale


_pool_get, _pool_put = streams("pool")


@compiled
def _pool_row(work, source, size, side, joint, mean, scale, weights, beta, target, choice, chosen):
    below = size * joint
    for x in range(side):
        for j in range(joint):
            place, centre, factor = source + 2 * x * joint + j, _pool_get(work, mean + j), _pool_get(scale, j)
            first = (_pool_get(work, place) - centre) * factor
            second = (_pool_get(work, place + joint) - centre) * factor
            third = (_pool_get(work, place + below) - centre) * factor
            fourth = (_pool_get(work, place + below + joint) - centre) * factor
            best, which = first, np.uint8(0)
            which = np.uint8(1) if second > best else which
            best = second if second > best else best
            which = np.uint8(2) if third > best else which
            best = third if third > best else best
            which = np.uint8(3) if fourth > best else which
            best = fourth if fourth > best else best
            _pool_put(work, target + x * joint + j, best + _pool_get(weights, beta + j))
            _pool_put(choice, chosen + x * joint + j, which)


_norm_get, _norm_put = streams("norm")


@compiled
def _normalize_row(work, source, pixels, joint, mean, scale, weights, beta, target):
    for x in range(pixels):
        for j in range(joint):
            value = (_norm_get(work, source + x * joint + j) - _norm_get(work, mean + j)) * _norm_get(scale, j)
            _norm_put(work, target + x * joint + j, value + _norm_get(weights, beta + j))


@compiled
def normalize_units(layer, work, weights, dropout, units, count, m, dropped):
    """Fill y from z: normalise, then drop units out where asked for."""
    joint = layer.outputs * m
    scale = _scale(layer, work, weights, joint, m)
    for b in range(count):
        target = layer.y + b * joint
        _normalize_row(work, layer.z + b * joint, 1, joint, layer.batch, scale, weights, layer.beta * m, target)
        if dropped:
            _multiply(work, target, dropout, (b * units + layer.first_unit) * m, joint)


_multiply_get, _multiply_put = streams("multiply")


@compiled
def _multiply(work, start, other, place, count):
    for j in range(count):
        _multiply_put(work, start + j, current(work, start + j) * _multiply_get(other, place + j))


_back_get, _back_put = streams("back")


@compiled
def normalize_maps_backward(layer, work, weights, gradient, choice, count, m):
    """Fill dz, with its margin, and the gradients of gamma and beta, from dy (of the value before the activation)."""
    size, joint = layer.size, layer.outputs * m
    side, margin = size // 2 if layer.pooled else size, layer.filter // 2
    sums, products = np.zeros(joint), np.zeros(joint)
    part, product_part = np.empty(joint, work.dtype), np.empty(joint, work.dtype)
    for row in range(count * side):
        part[:] = 0
        product_part[:] = 0
        dy, chosen = layer.dy + row * side * joint, layer.choice + row * side * joint
        if layer.pooled:
            source = layer.z + 2 * row * size * joint
            _pooled_sums(work, source, size, side, joint, layer.batch, dy, choice, chosen, part, product_part)
        else:
            _plain_sums(work, layer.z + row * size * joint, side, joint, layer.batch, dy, part, product_part)
        for j in range(joint):
            sums[j] += part[j]
            products[j] += product_part[j]
    scale, shift, slope = _back_coefficients(layer, work, weights, gradient, count * size * size, m, sums, products)
    for row in range(count * side):
        dy, chosen = layer.dy + row * side * joint, layer.choice + row * side * joint
        if layer.pooled:
            source, target = 2 * row * size * joint, (2 * row * (size + 2 * margin) + margin) * joint
            _pooled_dz(
                work, layer.z + source, size, side, joint, layer.batch, dy, choice, chosen,
                scale, shift, slope, layer.dz + target, (size + 2 * margin) * joint,
            )  # fmt: skip
        else:
            source, target = row * size * joint, (row * (size + 2 * margin) + margin) * joint
            _plain_dz(work, layer.z + source, side, joint, layer.batch, dy, scale, shift, slope, layer.dz + target)


@compiled
def normalize_units_backward(layer, work, weights, gradient, dropout, units, count, m):
    """Fill dz (of the activated value) and the gradients of gamma and beta, from dy (of the value after dropout)."""
    joint = layer.outputs * m
    sums, products = np.zeros(joint), np.zeros(joint)
    part, product_part = np.empty(joint, work.dtype), np.empty(joint, work.dtype)
    for b in range(count):
        dy = layer.dy + b * joint
        _multiply(work, dy, dropout, (b * units + layer.first_unit) * m, joint)
        part[:] = 0
        product_part[:] = 0
        _plain_sums(work, layer.z + b * joint, 1, joint, layer.batch, dy, part, product_part)
        for j in range(joint):
            sums[j] += part[j]
            products[j] += product_part[j]
    scale, shift, slope = _back_coefficients(layer, work, weights, gradient, count, m, sums, products)
    for b in range(count):
        place = b * joint
        _plain_dz(work, layer.z + place, 1, joint, layer.batch, layer.dy + place, scale, shift, slope, layer.dz + place)


@compiled
def _back_coefficients(layer, work, weights, gradient, count, m, sums, products):
    """Give a, b, c of dz = a * dy - b - c * (z - mean), and store the gradients of beta and gamma."""
    joint = layer.outputs * m
    scale = _scale(layer, work, weights, joint, m)
    shift, slope = np.empty_like(scale), np.empty_like(scale)
    for j in range(joint):
        inverse = work[layer.batch + 2 * joint + j]
        gradient[layer.beta * m + j] = sums[j]
        gradient[layer.gamma * m + j] = products[j] * inverse
        shift[j] = scale[j] * sums[j] / count
        slope[j] = scale[j] * products[j] * inverse * inverse / count
    return scale, shift, slope


@compiled
def _plain_sums(work, source, pixels, joint, mean, dy, part, product_part):
    for x in range(pixels):
        for j in range(joint):
            g = _back_get(work, dy + x * joint + j)
            centred = _back_get(work, source + x * joint + j) - _back_get(work, mean + j)
            _back_put(part, j, current(part, j) + g)
            _back_put(product_part, j, current(product_part, j) + g * centred)


@compiled
def _pooled_sums(work, source, size, side, joint, mean, dy, choice, chosen, part, product_part):
    below = size * joint
    for x in range(side):
        for j in range(joint):
            place, which = source + 2 * x * joint + j, _back_get(choice, chosen + x * joint + j)
            upper = _back_get(work, place + joint) if which == 1 else _back_get(work, place)
            lower = _back_get(work, place + below + joint) if which == 3 else _back_get(work, place + below)
            g = _back_get(work, dy + x * joint + j)
            centred = (lower if which > 1 else upper) - _back_get(work, mean + j)
            _back_put(part, j, current(part, j) + g)
            _back_put(product_part, j, current(product_part, j) + g * centred)


_dz_get, _dz_put = streams("dz")


@compiled
def _plain_dz(work, source, pixels, joint, mean, dy, scale, shift, slope, target):
    for x in range(pixels):
        for j in range(joint):
            centred = _dz_get(work, source + x * joint + j) - _dz_get(work, mean + j)
            value = _dz_get(work, dy + x * joint + j) * _dz_get(scale, j) - _dz_get(shift, j)
            _dz_put(work, target + x * joint + j, value - centred * _dz_get(slope, j))


@compiled
def _pooled_dz(work, source, size, side, joint, mean, dy, choice, chosen, scale, shift, slope, target, row):
    for half in range(2):
        for x in range(2 * side):
            number = np.uint8(2 * half + x % 2)
            z, dz = source + (half * size + x) * joint, target + half * row + x * joint
            for j in range(joint):
                place = (x // 2) * joint + j
                own = _dz_get(choice, chosen + place) == number
                g = _dz_get(work, dy + place)
                g = g if own else like(g, 0.0)
                centred = _dz_get(work, z + j) - _dz_get(work, mean + j)
                value = g * _dz_get(scale, j) - _dz_get(shift, j)
                _dz_put(work, dz + j, value - centred * _dz_get(slope, j))


@compiled
def _count(present):
    count = 0
    for occurs in present:
        count += occurs
    return count


@compiled
def activate(work, start, rows, row, pixels, joint, kinds, present):
    """Apply to each network its activation, in place; `kinds` says which at each joint place, `present` which occur."""
    alone = _count(present) == 1
    for r in range(rows):
        place = start + r * row
        # One loop for each function: a choice inside the loop would keep it from becoming vector instructions.
        if present[_RELU]:
            _map_relu(work, place, pixels, joint, kinds, _RELU, alone)
        if present[_ELU]:
            _map_elu(work, place, pixels, joint, kinds, _ELU, alone)
        if present[_SIGMOID]:
            _map_sigmoid(work, place, pixels, joint, kinds, _SIGMOID, alone)
        if present[_TANH]:
            _map_tanh(work, place, pixels, joint, kinds, _TANH, alone)


_map_get, _map_put = streams("map")


def _mapping(function: Callable) -> Callable:
    @compiled
    def _map(work, start, pixels, joint, kinds, kind, alone):
        if alone:
            for j in range(pixels * joint):
                _map_put(work, start + j, function(current(work, start + j)))
            return
        for x in range(pixels):
            for j in range(joint):
                value = current(work, start + x * joint + j)
                changed = function(value)
                _map_put(work, start + x * joint + j, changed if _map_get(kinds, j) == kind else value)

    return _map


_map_relu, _map_elu, _map_sigmoid, _map_tanh = (_mapping(function) for function in (relu, elu, sigmoid, tanh))


@compiled
def activate_backward(work, dy, y, rows, row, pixels, joint, kinds, present):
    """Multiply dy by the slope of each network's activation, found from its value y, whose rows are `row` apart."""
    alone = _count(present) == 1
    for r in range(rows):
        to, place = dy + r * pixels * joint, y + r * row
        if present[_RELU]:
            _slope_relu(work, to, place, pixels, joint, kinds, _RELU, alone)
        if present[_ELU]:
            _slope_elu(work, to, place, pixels, joint, kinds, _ELU, alone)
        if present[_SIGMOID]:
            _slope_sigmoid(work, to, place, pixels, joint, kinds, _SIGMOID, alone)
        if present[_TANH]:
            _slope_tanh(work, to, place, pixels, joint, kinds, _TANH, alone)


_slope_get, _slope_put = streams("slope")


def _sloping(slope: Callable) -> Callable:
    @compiled
    def _map(work, dy, y, pixels, joint, kinds, kind, alone):
        if alone:
            for j in range(pixels * joint):
                _slope_put(work, dy + j, current(work, dy + j) * slope(_slope_get(work, y + j)))
            return
        for x in range(pixels):
            for j in range(joint):
                place = x * joint + j
                g = current(work, dy + place)
                changed = g * slope(_slope_get(work, y + place))
                _slope_put(work, dy + place, changed if _slope_get(kinds, j) == kind else g)

    return _map


@compiled
def _relu_slope(y):
    return like(y, 1.0) if y > like(y, 0.0) else like(y, 0.0)


@compiled
def _elu_slope(y):
    return (y if y < like(y, 0.0) else like(y, 0.0)) + like(y, 1.0)


@compiled
def _sigmoid_slope(y):
    return y * (like(y, 1.0) - y)


@compiled
def _tanh_slope(y):
    return like(y, 1.0) - y * y


_slope_relu, _slope_elu, _slope_sigmoid, _slope_tanh = (
    _sloping(slope) for slope in (_relu_slope, _elu_slope, _sigmoid_slope, _tanh_slope)
)
