"""The study's geometry, written pixel by pixel, as an oracle for the batched one."""

import math

import numpy as np


def warp(image, rotation=0.0, zoom=1.0, shear_x=0.0, shear_y=0.0, shift_x=0.0, shift_y=0.0):
    """Sample an image (y, x, c) bilinearly at rotation @ shear / zoom of each position, zeros outside."""
    size = len(image)
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    matrix = turn @ np.array([[1, math.tan(shear_x)], [math.tan(shear_y), 1]]) / zoom
    centre = (size - 1) / 2
    shift = np.array([shift_x, shift_y]) * size / 32
    result = np.zeros_like(image)
    for y in range(size):
        for x in range(size):
            at_x, at_y = matrix @ np.array([x - centre, y - centre]) + centre - shift
            result[y, x] = bilinear(image, at_y, at_x)
    return result


def bilinear(image, y, x):
    total = np.zeros(image.shape[-1])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < len(image) and 0 <= column < len(image):
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return total
