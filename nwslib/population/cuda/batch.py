"""What surrounds a network in a step: its images, drawn and augmented; its dropout; its optimiser.

Draws are those of `nwslib.population.draws`, the same words of the same generator, computed where they are used.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from nwslib.population import draws


def load(
    images: Tensor, index: Tensor, seeds: Tensor, epochs: Tensor, steps: Tensor, augmented: Tensor, colourful: Tensor,
    noise: Tensor, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Gather each network's images and augment them where it says so.

    Parameters
    ----------
    images
        The bank, uint8, shape (images, y, x, 3), square.
    index
        Shape (m, b), int64.
    seeds, epochs, steps
        Shape (m,), int64.
    augmented, colourful
        Shape (m,), bool: whether a network augments, and whether its images have colours.
    noise
        From `nwslib.population.draws.noise_bank`.
    dtype
        Of the result.

    Returns
    -------
    torch.Tensor
        In [0, 1], shape (b, y, x, m, 3), in memory m c b y x.
    """
    networks, batch = index.shape
    size = images.shape[1]
    maps = torch.empty(networks, 3, batch, size, size, dtype=dtype, device=images.device)
    with torch.cuda.device_of(images):
        _load[batch, networks](
            images, index, seeds, epochs, steps, augmented, colourful, noise, _ranges(images.device), maps,
            SIZE=size, PURPOSE=draws.AUGMENTATION, BANK=draws.NOISE_BANK, BLOCK=triton.next_power_of_2(size**2),
            enable_fp_fusion=True,
        )  # fmt: skip
    return maps.permute(2, 3, 4, 0, 1)


def dropout(seeds: Tensor, epochs: Tensor, steps: Tensor, batch: int, units: int, dtype: torch.dtype) -> Tensor:
    """Draw `nwslib.population.draws.dropout_mask` as factors.

    Returns
    -------
    torch.Tensor
        Shape (m, b, units): 2 where a unit is kept, else 0.
    """
    factors = torch.empty(len(seeds), batch, units, dtype=dtype, device=seeds.device)
    with torch.cuda.device_of(seeds):
        _drop[triton.cdiv(batch * units, 1024), len(seeds)](
            seeds, epochs, steps, factors, batch * units,
            UNITS=units, PURPOSE=draws.DROPOUT, BLOCK=1024, enable_fp_fusion=True,
        )  # fmt: skip
    return factors


def update(weights: Tensor, gradient: Tensor, a: Tensor, v: Tensor, rules: Tensor, rates: Tensor) -> None:
    """Take one step with every network, in place, as `nwslib.population.optimizers.update` does.

    Parameters
    ----------
    weights, gradient, a, v
        Shape (m, w), contiguous.
    rules
        From `nwslib.population.optimizers.coefficients`.
    rates
        Shape (m, 1).
    """
    networks, size = weights.shape
    gradient = gradient.contiguous()
    with torch.cuda.device_of(weights):
        _update[triton.cdiv(size, 1024), networks](
            weights, gradient, a, v, rules, rates, size, networks, BLOCK=1024, enable_fp_fusion=True
        )


@functools.cache
def _ranges(device: torch.device) -> Tensor:
    return torch.tensor(list(draws.RANGES.values()), dtype=torch.float64, device=device)


@triton.jit
def _words(seed, purpose, epoch, step, block):
    """Draw four words, as `draws.words` does."""
    return tl.philox(
        seed, block.to(tl.uint32), step.to(tl.uint32), epoch.to(tl.uint32), (block * 0 + purpose).to(tl.uint32)
    )


@triton.jit
def _within(word, ranges, k):
    """Map a word to its range."""
    low, high = tl.load(ranges + 2 * k), tl.load(ranges + 2 * k + 1)
    return (low + (high - low) * ((word.to(tl.float64) + 0.5) * 2.3283064365386963e-10)).to(tl.float32)


@triton.jit
def _corner(picture, channel, y, x, weight, known, SIZE: tl.constexpr):
    inside = known & (y >= 0) & (y < SIZE) & (x >= 0) & (x < SIZE)
    place = y.to(tl.int32) * SIZE + x.to(tl.int32)
    return tl.load(picture + 3 * place + channel, mask=inside, other=0).to(weight.dtype) / 255.0 * weight


@triton.jit
def _sample(picture, channel, y, x, known, SIZE: tl.constexpr):
    """Read a picture between its pixels, zero outside."""
    top, left = tl.floor(y), tl.floor(x)
    down, right = y - top, x - left
    value = _corner(picture, channel, top, left, (1.0 - down) * (1.0 - right), known, SIZE)
    value += _corner(picture, channel, top, left + 1.0, (1.0 - down) * right, known, SIZE)
    value += _corner(picture, channel, top + 1.0, left, down * (1.0 - right), known, SIZE)
    return value + _corner(picture, channel, top + 1.0, left + 1.0, down * right, known, SIZE)


@triton.jit
def _contrast(value, brightness, contrast, known, SIZE: tl.constexpr):
    value = value + brightness
    mean = tl.sum(tl.where(known, value, value * 0), 0) / (SIZE * SIZE)
    return (value - mean) * contrast + mean


@triton.jit
def _shade(value, chroma, sixths, offset):
    place = sixths + offset
    place = place - 6.0 * tl.floor(place / 6.0)
    return value - chroma * tl.minimum(tl.maximum(tl.minimum(place, 4.0 - place), 0.0), 1.0)


@triton.jit
def _turn(red, green, blue, hue, saturation):
    """Turn the hue and scale the saturation, as `augment.turn_colours` does."""
    value, low = tl.maximum(tl.maximum(red, green), blue), tl.minimum(tl.minimum(red, green), blue)
    chroma = value - low
    safe = tl.where(chroma > 0, chroma, chroma * 0 + 1.0)
    others = tl.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe)
    sixths = tl.where(value == red, (green - blue) / safe, others) + 6.0 * hue
    chroma = tl.minimum(chroma * saturation, tl.maximum(value, 0.0))
    return _shade(value, chroma, sixths, 5.0), _shade(value, chroma, sixths, 3.0), _shade(value, chroma, sixths, 1.0)


@triton.jit
def _positions(pixel, turn, zoom, shear_x, shear_y, shift_x, shift_y, SIZE: tl.constexpr):
    """Give where each pixel comes from, y and x, as `augment.geometry` does; float64."""
    turn, zoom = turn.to(tl.float64), zoom.to(tl.float64)
    shear_x, shear_y = shear_x.to(tl.float64), shear_y.to(tl.float64)
    shear_x, shear_y = tl.sin(shear_x) / tl.cos(shear_x), tl.sin(shear_y) / tl.cos(shear_y)
    cos, sin = tl.cos(turn), tl.sin(turn)
    column = (pixel % SIZE * 2 + 1 - SIZE).to(tl.float64) / SIZE
    row = (pixel // SIZE * 2 + 1 - SIZE).to(tl.float64) / SIZE
    x = (cos - sin * shear_y) / zoom * column + (cos * shear_x - sin) / zoom * row - shift_x.to(tl.float64) / 16.0
    y = (sin + cos * shear_y) / zoom * column + (sin * shear_x + cos) / zoom * row - shift_y.to(tl.float64) / 16.0
    return y, x


@triton.jit
def _load(
    images, index, seeds, epochs, steps, augmented, colourful, noise, ranges, maps,
    SIZE: tl.constexpr, PURPOSE: tl.constexpr, BANK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute one image of one network."""
    image, batch, network = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    pixel = tl.arange(0, BLOCK)
    known = pixel < SIZE * SIZE
    picture = images + tl.load(index + network * batch + image) * (SIZE * SIZE * 3)
    to = maps + (network * 3 * batch + image) * (SIZE * SIZE) + pixel
    kind = maps.dtype.element_ty
    if tl.load(augmented + network):
        seed, epoch, step = tl.load(seeds + network), tl.load(epochs + network), tl.load(steps + network)
        w0, w1, w2, w3 = _words(seed, PURPOSE, epoch, step, image * 3)
        w4, w5, w6, w7 = _words(seed, PURPOSE, epoch, step, image * 3 + 1)
        w8, w9, w10, w11 = _words(seed, PURPOSE, epoch, step, image * 3 + 2)
        y, x = _positions(
            pixel, _within(w2, ranges, 2), _within(w3, ranges, 3), _within(w4, ranges, 4), _within(w5, ranges, 5),
            _within(w0, ranges, 0), _within(w1, ranges, 1), SIZE,
        )  # fmt: skip
        y, x = ((y.to(kind) + 1.0) * SIZE - 1.0) / 2.0, ((x.to(kind) + 1.0) * SIZE - 1.0) / 2.0
        brightness, contrast = _within(w6, ranges, 6), _within(w7, ranges, 7)
        red = _contrast(_sample(picture, 0, y, x, known, SIZE), brightness, contrast, known, SIZE)
        green = _contrast(_sample(picture, 1, y, x, known, SIZE), brightness, contrast, known, SIZE)
        blue = _contrast(_sample(picture, 2, y, x, known, SIZE), brightness, contrast, known, SIZE)
        if tl.load(colourful + network):
            hue, saturation = _within(w8, ranges, 8).to(kind), _within(w9, ranges, 9).to(kind)
            red, green, blue = _turn(red, green, blue, hue, saturation)
        grain = noise + w11 % BANK + 3 * pixel
        strength = _within(w10, ranges, 10).to(kind)
        red += strength * tl.load(grain, mask=known, other=0.0)
        green += strength * tl.load(grain + 1, mask=known, other=0.0)
        blue += strength * tl.load(grain + 2, mask=known, other=0.0)
        red, green = tl.minimum(tl.maximum(red, 0.0), 1.0), tl.minimum(tl.maximum(green, 0.0), 1.0)
        blue = tl.minimum(tl.maximum(blue, 0.0), 1.0)
    else:
        red = tl.load(picture + 3 * pixel, mask=known, other=0).to(kind) / 255.0
        green = tl.load(picture + 3 * pixel + 1, mask=known, other=0).to(kind) / 255.0
        blue = tl.load(picture + 3 * pixel + 2, mask=known, other=0).to(kind) / 255.0
    tl.store(to, red, mask=known)
    tl.store(to + batch * (SIZE * SIZE), green, mask=known)
    tl.store(to + 2 * batch * (SIZE * SIZE), blue, mask=known)


@triton.jit
def _drop(
    seeds, epochs, steps, factors, count, UNITS: tl.constexpr, PURPOSE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Draw the factors of BLOCK units of one network; each image's bits start with a word of their own."""
    network = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    unit = place % UNITS
    word = place // UNITS * ((UNITS + 31) // 32) + unit // 32
    seed, epoch, step = tl.load(seeds + network), tl.load(epochs + network), tl.load(steps + network)
    w0, w1, w2, w3 = _words(seed, PURPOSE, epoch, step, word // 4)
    lane = word % 4
    bits = tl.where(lane == 0, w0, tl.where(lane == 1, w1, tl.where(lane == 2, w2, w3)))
    kept = (bits >> (unit % 32).to(tl.uint32)) & 1
    tl.store(factors + network * count + place, (2 * kept).to(factors.dtype.element_ty), mask=place < count)


@triton.jit
def _update(weights, gradient, a, v, rules, rates, size, networks, BLOCK: tl.constexpr):
    """Update BLOCK weights of one network."""
    network = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known, place = place < size, network * size + place
    keep_a, take_a = tl.load(rules + network), tl.load(rules + networks + network)
    keep_v, take_v = tl.load(rules + 2 * networks + network), tl.load(rules + 3 * networks + network)
    inside, outside = tl.load(rules + 4 * networks + network), tl.load(rules + 5 * networks + network)
    slope = tl.load(gradient + place, mask=known, other=0.0)
    first = keep_a * tl.load(a + place, mask=known, other=0.0) + take_a * slope
    second = keep_v * tl.load(v + place, mask=known, other=0.0) + take_v * slope * slope
    change = tl.load(rates + network) * first / (tl.sqrt(second + inside) + outside)
    tl.store(a + place, first, mask=known)
    tl.store(v + place, second, mask=known)
    tl.store(weights + place, tl.load(weights + place, mask=known, other=0.0) - change, mask=known)
