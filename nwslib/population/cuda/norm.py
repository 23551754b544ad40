"""Batch norm, pooling and activation of M networks, fused, so that feature maps are read as seldom as can be.

Forward: one pass for the statistics, one that normalises, takes the largest of 2x2 pixels and applies the activation.
Backward: one pass for the sums that batch norm needs, one for the gradient; both find the largest pixel again.
In dense layers the activation comes first.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from nwslib.population.cuda.convolution import _power, of_planes, planes
from nwslib.population.operators import EPSILON

#: A program knows an activation by its position here.
ACTIVATIONS = ("relu", "elu", "sigmoid", "tanh")

#: Pixels of one channel that one program reads.
BLOCK = 2048


def numbers(activations: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """Give each network's activation as programs know it.

    Returns
    -------
    torch.Tensor
        Shape (m,), int32.
    """
    return torch.tensor([ACTIVATIONS.index(name) for name in activations], dtype=torch.int32, device=device)


def normalize_batch(
    x: Tensor, gamma: Tensor, beta: Tensor, activations: Tensor, pool: bool = False, first: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise by the statistics of the batch, pool, activate.

    Parameters
    ----------
    x
        Shape (b, y, x, m, c), float32 or float64, in any memory layout.
    gamma, beta
        Shape (m, c).
    activations
        Shape (m,), from `numbers`.
    pool
        Whether to take the largest of each 2x2 pixels; an odd last row or column is dropped.
    first
        Whether the activation comes before everything else; then there is no pooling.

    Returns
    -------
    tuple of torch.Tensor
        Shape (b, y, x, m, c), in memory m c b y x; the batch's mean and **biased** variance, of shape (m, c), without
        gradient.
    """
    y, mean, variance = _Normalize.apply(planes(x), gamma, beta, activations, 2 if pool else 1, first)
    return of_planes(y), mean, variance


def normalize_running(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    activations: Tensor,
    pool: bool = False,
    first: bool = False,
) -> Tensor:
    """Normalise by stored statistics, pool, activate; without gradient.

    Parameters
    ----------
    x, gamma, beta, activations, pool, first
        As for `normalize_batch`.
    mean, variance
        Shape (m, c).

    Returns
    -------
    torch.Tensor
        Shape (b, y, x, m, c), in memory m c b y x.
    """
    statistics = [values.detach().contiguous() for values in (mean, variance, gamma, beta)]
    return of_planes(_forward(planes(x.detach()), *statistics, activations, 2 if pool else 1, first))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, gamma: Tensor, beta: Tensor, activations: Tensor, step: int, first: bool
    ) -> tuple[Tensor, ...]:
        statistics = (*_statistics(x, activations, first), gamma.contiguous(), beta.contiguous())
        ctx.save_for_backward(x, *statistics, activations)
        ctx.step, ctx.first = step, first
        ctx.mark_non_differentiable(*statistics[:2])
        return _forward(x, *statistics, activations, step, first), *statistics[:2]

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *_backward(gradient.contiguous(), *ctx.saved_tensors, ctx.step, ctx.first), None, None, None


def _statistics(x: Tensor, activations: Tensor, first: bool) -> tuple[Tensor, Tensor]:
    networks, channels, images, height, width = x.shape
    pixels = images * height * width
    block = _power(pixels, 16, BLOCK)
    chunks = triton.cdiv(pixels, block)
    parts = x.new_empty(networks * channels, chunks, 2)
    mean, variance = x.new_empty(2, networks, channels)
    with torch.cuda.device_of(x):
        _moments[chunks, channels, networks](
            x, activations, parts, pixels, FIRST=first, BLOCK=block, enable_fp_fusion=True,
        )  # fmt: skip
        _merge_moments[(networks * channels,)](parts, mean, variance, chunks, pixels, block, enable_fp_fusion=True)
    return mean, variance


def _forward(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, activations: Tensor, step: int, first: bool
) -> Tensor:
    networks, channels, images, height, width = x.shape
    y = x.new_empty(networks, channels, images, height // step, width // step)
    pixels = images * (height // step) * (width // step)
    block = _power(pixels, 16, BLOCK // step**2)
    with torch.cuda.device_of(x):
        _normalize[triton.cdiv(pixels, block), channels, networks](
            x, mean, variance, gamma, beta, activations, y, pixels,
            HEIGHT=height, WIDTH=width, STEP=step, FIRST=first, EPSILON=EPSILON, BLOCK=block, enable_fp_fusion=True,
        )  # fmt: skip
    return y


def _backward(
    gradient: Tensor, x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, activations: Tensor,
    step: int, first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Give the gradients of x, gamma and beta."""
    networks, channels, images, height, width = x.shape
    windows = images * triton.cdiv(height, step) * triton.cdiv(width, step)
    block = _power(windows, 16, BLOCK // step**2)
    grid = (triton.cdiv(windows, block), channels, networks)
    parts = x.new_empty(networks * channels, grid[0], 2)
    of_gamma, of_beta = x.new_empty(2, networks, channels)
    of_x = torch.empty_like(x)
    inputs = (x, mean, variance, gamma, beta, activations, gradient)
    shape = {"HEIGHT": height, "WIDTH": width, "STEP": step, "FIRST": first, "EPSILON": EPSILON, "BLOCK": block}
    with torch.cuda.device_of(x):
        _gradient_sums[grid](*inputs, parts, windows, **shape, enable_fp_fusion=True)
        _merge_sums[(networks * channels,)](parts, of_gamma, of_beta, grid[0], enable_fp_fusion=True)
        _spread[grid](*inputs, of_gamma, of_beta, of_x, windows, **shape, enable_fp_fusion=True)
    return of_x, of_gamma, of_beta


@triton.jit
def _expm1(x):
    """Compute exp(x) - 1 for x <= 0, without the cancellation near 0."""
    series = x * 0 + 1.0
    for n in tl.static_range(14, 1, -1):  # next term: 0.5**14 / 15!, below the precision of float64
        series = 1.0 + series * x / n
    return tl.where(x > -0.5, series * x, tl.exp(x) - 1.0)


@triton.jit
def _tanh(x):
    small = _expm1(-2.0 * tl.abs(x))
    return tl.where(x < 0, small, -small) / (small + 2.0)


@triton.jit
def _activate(x, number):
    """Apply one network's activation; what is not a number stays so."""
    if number == 0:
        y = tl.where(x < 0, x * 0, x)
    elif number == 1:
        y = tl.where(x < 0, _expm1(tl.where(x < 0, x, x * 0)), x)
    elif number == 2:
        y = 0.5 * _tanh(0.5 * x) + 0.5
    else:
        y = _tanh(x)
    return y


@triton.jit
def _slope(y, number):
    """Give the derivative of an activation from its result."""
    if number == 0:
        slope = tl.where(y > 0, y * 0 + 1.0, y * 0)
    elif number == 1:
        slope = tl.where(y < 0, y + 1.0, y * 0 + 1.0)
    elif number == 2:
        slope = y * (1.0 - y)
    else:
        slope = 1.0 - y * y
    return slope


@triton.jit
def _read(x, place, known, number, FIRST: tl.constexpr):
    value = tl.load(x + place, mask=known, other=0.0)
    if FIRST:
        value = _activate(value, number)
    return value


@triton.jit
def _moments(
    x, activations, parts, pixels, FIRST: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Compute the mean of one chunk of a channel, and the sum of squared deviations from it."""
    chunk, network = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = network * tl.num_programs(1) + tl.program_id(1)
    pixel = chunk * BLOCK + tl.arange(0, BLOCK)
    value = _read(x, channel * pixels + pixel, pixel < pixels, tl.load(activations + network), FIRST)
    count = tl.minimum(BLOCK, pixels - chunk * BLOCK).to(value.dtype)
    mean = tl.sum(tl.where(pixel < pixels, value, value * 0), 0) / count
    gap = tl.where(pixel < pixels, value - mean, value * 0)
    part = parts + (channel * tl.num_programs(0) + chunk) * 2
    tl.store(part, mean)
    tl.store(part + 1, tl.sum(gap * gap, 0))


@triton.jit
def _merge_moments(parts, mean, variance, chunks, pixels, block):
    """Merge the chunks of one channel in their order (Chan, Golub, LeVeque, 1979)."""
    channel = tl.program_id(0).to(tl.int64)
    parts += channel * chunks * 2
    total = tl.load(parts) * 0
    for chunk in range(chunks):
        count = tl.minimum(block, pixels - chunk * block).to(total.dtype)
        total += tl.load(parts + 2 * chunk) * count
    middle = total / pixels.to(total.dtype)
    total = tl.load(parts) * 0
    for chunk in range(chunks):
        count = tl.minimum(block, pixels - chunk * block).to(total.dtype)
        gap = tl.load(parts + 2 * chunk) - middle
        total += tl.load(parts + 2 * chunk + 1) + count * gap * gap
    tl.store(mean + channel, middle)
    tl.store(variance + channel, total / pixels.to(total.dtype))


@triton.jit
def _peak(
    x, image, row, column, known, mean, scale, beta, number,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Find the largest normalised pixel of each window: its value, its deviation from the mean, where it stands."""
    place = (image * HEIGHT + row * STEP) * WIDTH + column * STEP
    gap = _read(x, place, known, number, FIRST) - mean
    best, best_gap, which = gap * scale + beta, gap, row * 0
    for k in tl.static_range(1, STEP * STEP):
        at = place + k // STEP * WIDTH + k % STEP
        gap = _read(x, at, known, number, FIRST) - mean
        value = gap * scale + beta
        more = (value > best) | (value != value)  # what is not a number wins
        best, best_gap = tl.where(more, value, best), tl.where(more, gap, best_gap)
        which = tl.where(more, k, which)
    return best, best_gap, which


@triton.jit
def _normalize(
    x, mean, variance, gamma, beta, activations, y, pixels,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr, EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK pixels of one channel of one network."""
    network = tl.program_id(2).to(tl.int64)
    channel = network * tl.num_programs(1) + tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows: tl.constexpr = HEIGHT // STEP
    columns: tl.constexpr = WIDTH // STEP
    number = tl.load(activations + network)
    scale = tl.load(gamma + channel) / tl.sqrt(tl.load(variance + channel) + EPSILON)
    images = pixels // (rows * columns)
    best, _, _ = _peak(
        x + channel * images * (HEIGHT * WIDTH), pixel // (rows * columns), pixel // columns % rows,
        pixel % columns, pixel < pixels, tl.load(mean + channel), scale, tl.load(beta + channel), number,
        HEIGHT, WIDTH, STEP, FIRST,
    )  # fmt: skip
    if not FIRST:
        best = _activate(best, number)
    tl.store(y + channel * pixels + pixel, best, mask=pixel < pixels)


@triton.jit
def _window_slope(
    x, mean, variance, gamma, beta, activations, gradient, windows,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr, EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Give the gradient at each window's largest pixel, before batch norm; windows at an odd end have none."""
    network = tl.program_id(2).to(tl.int64)
    channel = network * tl.num_programs(1) + tl.program_id(1)
    window = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns: tl.constexpr = (WIDTH + STEP - 1) // STEP
    rows: tl.constexpr = (HEIGHT + STEP - 1) // STEP
    image, row, column = window // (rows * columns), window // columns % rows, window % columns
    whole = (window < windows) & (row < HEIGHT // STEP) & (column < WIDTH // STEP)
    number = tl.load(activations + network)
    root = tl.sqrt(tl.load(variance + channel) + EPSILON)
    images = windows // (rows * columns)
    best, gap, which = _peak(
        x + channel * images * (HEIGHT * WIDTH), image, row, column, whole, tl.load(mean + channel),
        tl.load(gamma + channel) / root, tl.load(beta + channel), number,
        HEIGHT, WIDTH, STEP, FIRST,
    )  # fmt: skip
    place = (image * (HEIGHT // STEP) + row) * (WIDTH // STEP) + column
    slope = tl.load(gradient + channel * images * ((HEIGHT // STEP) * (WIDTH // STEP)) + place, mask=whole, other=0.0)
    if not FIRST:
        slope = slope * _slope(_activate(best, number), number)
    slope = tl.where(whole, slope, slope * 0)
    return slope, gap / root, which, image, row, column


@triton.jit
def _gradient_sums(
    x, mean, variance, gamma, beta, activations, gradient, parts,
    windows,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr, EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the gradient over one chunk of a channel, times the normalised pixel and alone."""
    slope, normal, _, _, _, _ = _window_slope(
        x, mean, variance, gamma, beta, activations, gradient,
        windows, HEIGHT, WIDTH, STEP, FIRST, EPSILON, BLOCK,
    )  # fmt: skip
    channel = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    part = parts + (channel * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(part, tl.sum(slope * normal, 0))
    tl.store(part + 1, tl.sum(slope, 0))


@triton.jit
def _merge_sums(parts, of_gamma, of_beta, chunks):
    """Sum the chunks of one channel, in their order."""
    channel = tl.program_id(0).to(tl.int64)
    parts += channel * chunks * 2
    with_normal, alone = tl.load(parts), tl.load(parts + 1)
    for chunk in range(1, chunks):
        with_normal += tl.load(parts + 2 * chunk)
        alone += tl.load(parts + 2 * chunk + 1)
    tl.store(of_gamma + channel, with_normal)
    tl.store(of_beta + channel, alone)


@triton.jit
def _spread(
    x, mean, variance, gamma, beta, activations, gradient, of_gamma, of_beta, of_x,
    windows,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr, EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the gradient at every pixel of BLOCK windows of one channel."""
    slope, _, which, image, row, column = _window_slope(
        x, mean, variance, gamma, beta, activations, gradient,
        windows, HEIGHT, WIDTH, STEP, FIRST, EPSILON, BLOCK,
    )  # fmt: skip
    network = tl.program_id(2).to(tl.int64)
    channel = network * tl.num_programs(1) + tl.program_id(1)
    columns: tl.constexpr = (WIDTH + STEP - 1) // STEP
    rows: tl.constexpr = (HEIGHT + STEP - 1) // STEP
    images = windows // (rows * columns)
    number, middle = tl.load(activations + network), tl.load(mean + channel)
    root = tl.sqrt(tl.load(variance + channel) + EPSILON)
    pixels = (images * HEIGHT * WIDTH).to(slope.dtype)
    mean_slope, mean_product = tl.load(of_beta + channel) / pixels, tl.load(of_gamma + channel) / pixels
    scale = tl.load(gamma + channel) / root
    for k in tl.static_range(STEP * STEP):
        y, across = row * STEP + k // STEP, column * STEP + k % STEP
        known = (image < images) & (y < HEIGHT) & (across < WIDTH)
        place = (channel * images + image) * (HEIGHT * WIDTH) + y * WIDTH + across
        value = _read(x, place, known, number, FIRST)
        result = (tl.where(which == k, slope, slope * 0) - mean_slope - (value - middle) / root * mean_product) * scale
        if FIRST:
            result = result * _slope(value, number)
        tl.store(of_x + place, result, mask=known)
