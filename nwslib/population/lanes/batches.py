"""Batches of many networks, compiled: gather images, augment them, drop units; the draws are `population.draws`'."""

import math

import numpy as np

from nwslib.population import draws
from nwslib.population.lanes.arithmetic import compiled, like, philox
from nwslib.population.lanes.memory import current, streams

_DROPOUT = draws.DROPOUT
_LOW = np.array([low for low, _ in draws.RANGES.values()])
_WIDTH = np.array([high - low for low, high in draws.RANGES.values()])
_BANK = draws.NOISE_BANK
(
    _SHIFT_X, _SHIFT_Y, _ROTATION, _ZOOM, _SHEAR_X, _SHEAR_Y, _BRIGHTNESS, _CONTRAST, _HUE, _SATURATION, _NOISE
) = range(len(draws.RANGES))  # fmt: skip

#: Sixteen pixels of three channels: whole vectors in which every place keeps to one channel.
_PIXELS = 48

_get, _put = streams("batch")


@compiled
def gather(images, index, work, x, size, margin, lane, m, pixels):
    """Put images, (b,) of one network, into its lane of the first layer's input."""
    for b in range(len(index)):
        source = images[index[b]]
        for k in range(len(source)):
            pixels[k] = source[k]
        for k in range(len(source)):
            pixels[k] = pixels[k] / like(pixels[k], 255.0)
        place_image(pixels, work, x, b, size, margin, lane, m)


@compiled
def place_image(pixels, work, x, b, size, margin, lane, m):
    """Put one image, (y x c), into its lane, between the margins."""
    width = (size + 2 * margin) * 3
    for y in range(size):
        start = x + ((b * size + y) * width + margin * 3) * m + lane
        for k in range(size * 3):
            _put(work, start + k * m, _get(pixels, y * size * 3 + k))


@compiled
def augment(
    images, index, colourful, noise, seed, epoch, step, purpose, per_batch, work, x, size, margin, lane, m, pixels
):
    """Put augmented images, (b,) of one network, into its lane; `per_batch` draws colour and noise once for all."""
    framed = np.zeros((size + 3) * (size + 3) * 3, work.dtype)
    shared, share = np.empty(len(_LOW) + 1), np.empty(len(_LOW) + 1)
    _draw(seed, epoch, step, purpose, 0, shared)
    for b in range(len(index)):
        _draw(seed, epoch, step, purpose, b, share)
        if per_batch:
            for k in range(_BRIGHTNESS, _NOISE + 1):
                share[k] = shared[k]
        _frame(images[index[b]], size, framed)
        _move(framed, size, share, pixels)
        _colour(pixels, size, share, colourful)
        _add_noise(pixels, like(pixels[0], share[_NOISE]), noise, np.int64(share[len(_LOW)]))
        place_image(pixels, work, x, b, size, margin, lane, m)


@compiled
def _draw(seed, epoch, step, purpose, b, share):
    """Draw one image's augmentation: as `population.draws.augmentation`, twelve words an image."""
    words = len(_LOW) + 1
    for block in range(words // 4):
        four = philox(b * (words // 4) + block, step, epoch, purpose, seed)
        for k in range(4):
            place = 4 * block + k
            if place == words - 1:
                share[place] = four[k] % np.uint64(_BANK)
            else:
                uniform = (np.float64(four[k]) + 0.5) * 2.0**-32
                share[place] = np.float32(_LOW[place] + _WIDTH[place] * uniform)


@compiled
def _frame(source, size, framed):
    """Copy an image into a frame of zeros, one pixel before it and two behind, in [0, 1]."""
    row, whole = size * 3, like(framed[0], 255.0)
    for y in range(size):
        target = (y + 1) * (row + 9) + 3
        for k in range(row):
            _put(framed, target + k, like(whole, _get(source, y * row + k)) / whole)


@compiled
def _move(framed, size, share, pixels):
    """Zoom, shear, turn and shift about the centre; zeros come in from outside."""
    cos, sin = math.cos(share[_ROTATION]), math.sin(share[_ROTATION])
    shear_x, shear_y, zoom = math.tan(share[_SHEAR_X]), math.tan(share[_SHEAR_Y]), share[_ZOOM]
    xx, xy = (cos - sin * shear_y) / zoom, (cos * shear_x - sin) / zoom
    yx, yy = (sin + cos * shear_y) / zoom, (sin * shear_x + cos) / zoom
    shift, centre, one = size / 32, (size - 1) / 2, framed[0]
    places, parts = np.empty(size, np.int32), np.empty(2 * size, framed.dtype)
    for y in range(size):
        # Positions are offset by one pixel, the frame, so that what lies outside falls onto its zeros.
        x0 = like(one, xy * (y - centre) - xx * centre - share[_SHIFT_X] * shift + centre + 1)
        y0 = like(one, yy * (y - centre) - yx * centre - share[_SHIFT_Y] * shift + centre + 1)
        _move_row(framed, size, x0, y0, like(one, xx), like(one, yx), pixels, y * size * 3, places, parts)


_place_get, _place_put = streams("place")
_move_get, _move_put = streams("move")


@compiled
def _move_row(framed, size, x0, y0, dx, dy, pixels, target, places, parts):
    """Sample one row bilinearly: first where its pixels come from, in whole vectors, then what is there."""
    frame = (size + 3) * 3
    for x in range(size):
        column, row = _within(x0 + like(x0, np.int32(x)) * dx, size), _within(y0 + like(x0, np.int32(x)) * dy, size)
        left, top = np.int32(column), np.int32(row)
        _place_put(places, x, top * np.int32(frame) + left * np.int32(3))
        _place_put(parts, x, column - like(x0, left))
        _place_put(parts, size + x, row - like(x0, top))
    for x in range(size):
        place, right_part, lower_part = np.int64(_place_get(places, x)), _move_get(parts, x), _move_get(parts, size + x)
        for c in range(3):
            upper_left, upper_right = _move_get(framed, place + c), _move_get(framed, place + 3 + c)
            lower_left, lower_right = _move_get(framed, place + frame + c), _move_get(framed, place + frame + 3 + c)
            upper = upper_left + right_part * (upper_right - upper_left)
            lower = lower_left + right_part * (lower_right - lower_left)
            _move_put(pixels, target + x * 3 + c, upper + lower_part * (lower - upper))


@compiled
def _within(position, size):
    first, last = like(position, 0.0), like(position, size + 1)
    position = first if position < first else position
    return last if position > last else position


_tone_get, _tone_put = streams("tone")


@compiled
def _colour(pixels, size, share, colourful):
    """Change brightness, contrast about the channel means, hue and saturation."""
    count, one = size * size, pixels[0]
    brightness, contrast = like(one, share[_BRIGHTNESS]), like(one, share[_CONTRAST])
    sums, mean = np.zeros(_PIXELS, pixels.dtype), np.empty(_PIXELS, pixels.dtype)
    for start in range(0, len(pixels), _PIXELS):
        for k in range(_PIXELS):
            value = current(pixels, start + k) + brightness
            _tone_put(pixels, start + k, value)
            _tone_put(sums, k, current(sums, k) + value)
    for c in range(3):
        total = 0.0
        for k in range(c, _PIXELS, 3):
            total += sums[k]
        for k in range(c, _PIXELS, 3):
            mean[k] = total / count
    for start in range(0, len(pixels), _PIXELS):
        for k in range(_PIXELS):
            centre = _tone_get(mean, k)
            _tone_put(pixels, start + k, (current(pixels, start + k) - centre) * contrast + centre)
    if colourful:
        _turn_colours(pixels, count, like(one, share[_HUE]), like(one, share[_SATURATION]))


_hue_get, _hue_put = streams("hue")


@compiled
def _turn_colours(pixels, count, hue, saturation):
    """Turn the hue and scale the saturation of each pixel; the formula of `population.augment.turn_colours`."""
    for pixel in range(count):
        red, green, blue = current(pixels, pixel * 3), current(pixels, pixel * 3 + 1), current(pixels, pixel * 3 + 2)
        zero, one = like(red, 0.0), like(red, 1.0)
        value = red if red > green else green
        value = value if value > blue else blue
        low = red if red < green else green
        low = low if low < blue else blue
        chroma = value - low
        safe = chroma if chroma > zero else one
        by_red, by_green = (green - blue) / safe, like(red, 2.0) + (blue - red) / safe
        by_blue = like(red, 4.0) + (red - green) / safe
        sixths = by_red if value == red else (by_green if value == green else by_blue)
        sixths = sixths + like(red, 6.0) * hue
        top = value if value > zero else zero
        chroma = chroma * saturation
        chroma = chroma if chroma < top else top
        _hue_put(pixels, pixel * 3, _shade(value, chroma, sixths + like(red, 5.0)))
        _hue_put(pixels, pixel * 3 + 1, _shade(value, chroma, sixths + like(red, 3.0)))
        _hue_put(pixels, pixel * 3 + 2, _shade(value, chroma, sixths + like(red, 1.0)))


@compiled
def _shade(value, chroma, place):
    place = place - like(place, 6.0) * like(place, math.floor(place / like(place, 6.0)))
    other = like(place, 4.0) - place
    share = place if place < other else other
    share = like(place, 0.0) if share < like(place, 0.0) else share
    return value - chroma * (like(place, 1.0) if share > like(place, 1.0) else share)


@compiled
def _add_noise(pixels, deviation, noise, start):
    zero, one = like(deviation, 0.0), like(deviation, 1.0)
    for k in range(len(pixels)):
        value = current(pixels, k) + deviation * like(deviation, _get(noise, start + k))
        value = zero if value < zero else value
        _put(pixels, k, one if value > one else value)


@compiled
def drop_out(dropout, seed, epoch, step, count, units, lane, m):
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
