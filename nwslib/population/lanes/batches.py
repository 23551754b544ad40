"""Batches of many networks, compiled: gather images, augment them, drop units; every draw that of `population.draws`."""

import math

import numpy as np

from nwslib.population import draws
from nwslib.population.lanes.arithmetic import compiled, like, philox
from nwslib.population.lanes.memory import current, streams

_AUGMENTATION, _DROPOUT = draws.AUGMENTATION, draws.DROPOUT
_LOW = np.array([low for low, _ in draws.RANGES.values()])
_WIDTH = np.array([high - low for low, high in draws.RANGES.values()])
_BANK = draws.NOISE_BANK
(
    _SHIFT_X, _SHIFT_Y, _ROTATION, _ZOOM, _SHEAR_X, _SHEAR_Y, _BRIGHTNESS, _CONTRAST, _HUE, _SATURATION, _NOISE
) = range(len(draws.RANGES))  # fmt: skip

_get, _put = streams("batch")


@compiled
def gather(images, index, work, x, size, margin, lane, m, pixels):  # noqa: ANN001, ANN201
    """Put images, (b,) of one network, into its lane of the first layer's input."""
    for b in range(len(index)):
        source = images[index[b]]
        for k in range(len(source)):
            pixels[k] = source[k]
        for k in range(len(source)):
            pixels[k] = pixels[k] / like(pixels[k], 255.0)
        place_image(pixels, work, x, b, size, margin, lane, m)


@compiled
def place_image(pixels, work, x, b, size, margin, lane, m):  # noqa: ANN001, ANN201
    """Put one image, (y x c), into its lane, between the margins."""
    width = (size + 2 * margin) * 3
    for y in range(size):
        start = x + ((b * size + y) * width + margin * 3) * m + lane
        for k in range(size * 3):
            _put(work, start + k * m, _get(pixels, y * size * 3 + k))


@compiled
def augment(images, index, colourful, noise, seed, epoch, step, per_batch, work, x, size, margin, lane, m, pixels):  # noqa: ANN001, ANN201
    """Put augmented images, (b,) of one network, into its lane; `per_batch` draws colour and noise once for all."""
    framed = np.zeros((size + 3) * (size + 3) * 3, np.float32)
    shared = np.empty(len(_LOW) + 1)
    share = np.empty(len(_LOW) + 1)
    _draw(seed, epoch, step, 0, shared)
    for b in range(len(index)):
        _draw(seed, epoch, step, b, share)
        if per_batch:
            share[_BRIGHTNESS : _NOISE + 1] = shared[_BRIGHTNESS : _NOISE + 1]
        _frame(images[index[b]], size, framed)
        _move(framed, size, share, pixels)
        _colour(pixels, size, share, colourful)
        start = np.int64(share[len(_LOW)])
        for k in range(len(pixels)):
            value = current(pixels, k) + np.float32(share[_NOISE]) * _get(noise, start + k)
            value = np.float32(0) if value < np.float32(0) else value
            _put(pixels, k, np.float32(1) if value > np.float32(1) else value)
        place_image(pixels, work, x, b, size, margin, lane, m)


@compiled
def _draw(seed, epoch, step, b, share):  # noqa: ANN001, ANN202
    """Draw one image's augmentation: as `population.draws.augmentation`, twelve words an image."""
    words = len(_LOW) + 1
    for block in range(words // 4):
        four = philox(b * (words // 4) + block, step, epoch, _AUGMENTATION, seed)
        for k in range(4):
            place = 4 * block + k
            if place == words - 1:
                share[place] = four[k] % np.uint64(_BANK)
            else:
                uniform = (np.float64(four[k]) + 0.5) * 2.0**-32
                share[place] = np.float32(_LOW[place] + _WIDTH[place] * uniform)


@compiled
def _frame(source, size, framed):  # noqa: ANN001, ANN202
    """Copy an image into a frame of zeros, one pixel before it and two behind, in [0, 1]."""
    width = (size + 3) * 3
    for y in range(size):
        for k in range(size * 3):
            framed[(y + 1) * width + 3 + k] = np.float32(source[y * size * 3 + k]) / np.float32(255)


@compiled
def _move(framed, size, share, pixels):  # noqa: ANN001, ANN202
    """Zoom, shear, turn and shift about the centre; zeros come in from outside."""
    cos, sin = math.cos(share[_ROTATION]), math.sin(share[_ROTATION])
    shear_x, shear_y, zoom = math.tan(share[_SHEAR_X]), math.tan(share[_SHEAR_Y]), share[_ZOOM]
    xx, xy = (cos - sin * shear_y) / zoom, (cos * shear_x - sin) / zoom
    yx, yy = (sin + cos * shear_y) / zoom, (sin * shear_x + cos) / zoom
    shift = size / 32
    centre = (size - 1) / 2
    for y in range(size):
        # Positions are offset by one pixel, the frame, so that what lies outside falls onto its zeros.
        x0 = np.float32(xy * (y - centre) - xx * centre - share[_SHIFT_X] * shift + centre + 1)
        y0 = np.float32(yy * (y - centre) - yx * centre - share[_SHIFT_Y] * shift + centre + 1)
        _move_row(framed, size, x0, y0, np.float32(xx), np.float32(yx), pixels, y * size * 3)


_move_get, _move_put = streams("move")


@compiled
def _move_row(framed, size, x0, y0, dx, dy, pixels, target):  # noqa: ANN001, ANN202
    last = np.float32(size + 1)
    width = size + 3
    for x in range(size):
        column = x0 + np.float32(x) * dx
        row = y0 + np.float32(x) * dy
        column = np.float32(0) if column < np.float32(0) else column
        column = last if column > last else column
        row = np.float32(0) if row < np.float32(0) else row
        row = last if row > last else row
        left, top = np.int32(column), np.int32(row)
        right_part, lower_part = column - np.float32(left), row - np.float32(top)
        place = np.int64(top * width + left) * 3
        for c in range(3):
            upper_left, upper_right = _move_get(framed, place + c), _move_get(framed, place + 3 + c)
            lower_left = _move_get(framed, place + width * 3 + c)
            lower_right = _move_get(framed, place + width * 3 + 3 + c)
            upper = upper_left + right_part * (upper_right - upper_left)
            lower = lower_left + right_part * (lower_right - lower_left)
            _move_put(pixels, target + x * 3 + c, upper + lower_part * (lower - upper))


@compiled
def _colour(pixels, size, share, colourful):  # noqa: ANN001, ANN202
    """Change brightness, contrast about the channel means, hue and saturation."""
    count = size * size
    mean = np.zeros(3)
    brightness, contrast = np.float32(share[_BRIGHTNESS]), np.float32(share[_CONTRAST])
    for pixel in range(count):
        for c in range(3):
            pixels[pixel * 3 + c] += brightness
            mean[c] += pixels[pixel * 3 + c]
    for c in range(3):
        mean[c] /= count
    m0, m1, m2 = np.float32(mean[0]), np.float32(mean[1]), np.float32(mean[2])
    for pixel in range(count):
        pixels[pixel * 3] = (pixels[pixel * 3] - m0) * contrast + m0
        pixels[pixel * 3 + 1] = (pixels[pixel * 3 + 1] - m1) * contrast + m1
        pixels[pixel * 3 + 2] = (pixels[pixel * 3 + 2] - m2) * contrast + m2
    if colourful:
        _turn_colours(pixels, count, np.float32(share[_HUE]), np.float32(share[_SATURATION]))


_hue_get, _hue_put = streams("hue")


@compiled
def _turn_colours(pixels, count, hue, saturation):  # noqa: ANN001, ANN202
    """Turn the hue and scale the saturation of each pixel; the formula of `population.augment.turn_colours`."""
    zero, one = np.float32(0), np.float32(1)
    for pixel in range(count):
        red, green, blue = current(pixels, pixel * 3), current(pixels, pixel * 3 + 1), current(pixels, pixel * 3 + 2)
        value = red if red > green else green
        value = value if value > blue else blue
        low = red if red < green else green
        low = low if low < blue else blue
        chroma = value - low
        safe = chroma if chroma > zero else one
        by_red, by_green = (green - blue) / safe, np.float32(2) + (blue - red) / safe
        by_blue = np.float32(4) + (red - green) / safe
        sixths = by_red if value == red else (by_green if value == green else by_blue)
        sixths = sixths + np.float32(6) * hue
        top = value if value > zero else zero
        chroma = chroma * saturation
        chroma = chroma if chroma < top else top
        _hue_put(pixels, pixel * 3, _shade(value, chroma, sixths + np.float32(5)))
        _hue_put(pixels, pixel * 3 + 1, _shade(value, chroma, sixths + np.float32(3)))
        _hue_put(pixels, pixel * 3 + 2, _shade(value, chroma, sixths + np.float32(1)))


@compiled
def _shade(value, chroma, place):  # noqa: ANN001, ANN202
    place = place - np.float32(6) * np.float32(math.floor(place / np.float32(6)))
    other = np.float32(4) - place
    share = place if place < other else other
    share = np.float32(0) if share < np.float32(0) else share
    return value - chroma * (np.float32(1) if share > np.float32(1) else share)


@compiled
def drop_out(dropout, seed, epoch, step, count, units, lane, m):  # noqa: ANN001, ANN201
    """Draw one network's dropout of a step, 0 or 2 per image and unit: as `population.draws.dropout_mask`."""
    words = (units + 31) // 32
    for block in range((count * words + 3) // 4):
        four = philox(block, step, epoch, _DROPOUT, seed)
        for k in range(4):
            word = 4 * block + k
            if word < count * words:
                b, first = word // words, (word % words) * 32
                bits = four[k]
                for bit in range(min(32, units - first)):
                    kept = (bits >> np.uint64(bit)) & np.uint64(1)
                    dropout[(b * units + first + bit) * m + lane] = 2 * np.int64(kept)
