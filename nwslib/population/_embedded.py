"""The image sets that need no download: one of real scans, one of real photographs, two procedural ones.

Each function gives training images, training labels, test images and test labels, the same on every call. Generated
sets take their randomness from the raw output of Philox and use no function that may round differently elsewhere
(``sin``, ``cos``), so that only the fonts' rasteriser and the JPEG decoder stand between one machine and another.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

TRAIN, TEST, SIDE = 2000, 500, 32

LETTERS = "ABDEGKMQRS"
#: Files of the faces that matplotlib ships: DejaVu, STIX and Computer Modern; upright, slanted, light and bold.
FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)

#: Region -> photograph, and (top, bottom, left, right) of the area of the training crops and of that of the test crops.
REGIONS = {
    "sky": ("china.jpg", (0, 195, 330, 460), (0, 195, 460, 560)),
    "pagoda": ("china.jpg", (60, 285, 95, 205), (60, 285, 205, 320)),
    "lake": ("china.jpg", (205, 275, 355, 450), (205, 275, 450, 540)),
    "shrubs": ("china.jpg", (335, 427, 0, 110), (335, 427, 110, 195)),
    "bushes": ("china.jpg", (305, 427, 390, 490), (305, 427, 490, 560)),
    "tree": ("china.jpg", (150, 350, 560, 640), (350, 427, 560, 640)),
    "petals": ("flower.jpg", (95, 350, 180, 255), (95, 350, 365, 435)),
    "heart": ("flower.jpg", (170, 275, 255, 315), (170, 275, 315, 360)),
    "leaf": ("flower.jpg", (80, 250, 0, 75), (80, 250, 75, 130)),
    "dusk": ("flower.jpg", (90, 215, 465, 560), (90, 215, 560, 640)),
}

_PERIOD = 1024
# A table in whole numbers: the cosine's last bit differs between processors, its rounding to 1/1000 does not.
_WAVE = np.rint(1000 * (0.5 + 0.5 * np.cos(2 * np.pi * np.arange(_PERIOD) / _PERIOD))) / 1000


def digits() -> Arrays:
    """Give scikit-learn's handwritten digits: 8x8 scans, shape (b, 8, 8, 1), 1,437 to train with and 360 to test.

    Every fifth image of each digit is a test image, so the same 13 writers stand on both sides.
    """
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = np.rint(scans.images * (255 / 16)).astype("uint8")[..., None]
    test = np.zeros(len(images), dtype=bool)
    test[np.argsort(scans.target, kind="stable")[::5]] = True
    labels = scans.target.astype("int64")
    return images[~test], labels[~test], images[test], labels[test]


def glyphs() -> Arrays:
    """Draw letters in matplotlib's faces, each at its own place, size, slant and turn, in its own ink and paper."""
    labels, draw = _labels_and_draws(stream=1, columns=16)
    face = (draw[:, 0] * len(FACES)).astype("int64")
    scale = _between(draw[:, 1], 1.45, 2.4)  # pixels of the mask per pixel of the image
    cosine, sine = _turn(_between(draw[:, 2], -0.16, 0.16))
    slant = _between(draw[:, 3], -0.2, 0.2)
    shift = _between(draw[:, 4:6], -4.0, 4.0)
    row, column = _grid()
    row, column = row - _each(shift[:, 0]), column - _each(shift[:, 1])
    u = _each(cosine) * column + _each(sine) * row
    v = _each(cosine) * row - _each(sine) * column
    image = _read(_masks(), labels * len(FACES) + face, _each(scale) * v, _each(scale) * (u + _each(slant) * v))
    return _split(_coloured(image, draw[:, 6:], noise=0.1, stream=1), labels)


def patches() -> Arrays:
    """Cut crops of 32x32 pixels out of scikit-learn's two photographs; the class is the region they were cut from.

    Training and test crops come from areas that share no pixel; crops of one area may overlap. Half are mirrored.
    """
    from sklearn.datasets import load_sample_images

    samples = load_sample_images()
    photographs = {Path(name).name: image for name, image in zip(samples.filenames, samples.images, strict=True)}
    labels, draw = _labels_and_draws(stream=2, columns=3)
    regions = list(REGIONS.values())
    images = np.empty((len(labels), SIDE, SIDE, 3), dtype="uint8")
    for n, label in enumerate(labels):
        name, train_area, test_area = regions[label]
        top, bottom, left, right = train_area if n < TRAIN else test_area
        y = top + int(draw[n, 0] * (bottom - top - SIDE + 1))
        x = left + int(draw[n, 1] * (right - left - SIDE + 1))
        crop = photographs[name][y : y + SIDE, x : x + SIDE]
        images[n] = crop[:, ::-1] if draw[n, 2] < 0.5 else crop
    return _split(images, labels)


def textures() -> Arrays:
    """Make patterns of ten families, each with its own wavelength, turn, phase, two colours and amount of noise."""
    labels, draw = _labels_and_draws(stream=3, columns=16)
    wavelength = _between(draw[:, 0], 5.5, 10.0)
    cosine, sine = _turn(_between(draw[:, 1], -0.12, 0.12))
    row, column = _grid()
    u = (_each(cosine) * column + _each(sine) * row) / _each(wavelength) + _each(_between(draw[:, 2], -1, 1))
    v = (_each(cosine) * row - _each(sine) * column) / _each(wavelength) + _each(_between(draw[:, 3], -1, 1))
    image = np.empty(u.shape)
    for label, family in enumerate(TEXTURES.values()):
        chosen = labels == label
        image[chosen] = family(u[chosen], v[chosen])
    image = 0.5 + _each(_between(draw[:, 4], 0.35, 1.0)) * (image - 0.5)
    return _split(_coloured(image, draw[:, 6:], noise=0.2, stream=3), labels)


def _rings(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _wave(np.sqrt(u * u + v * v))


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 12 * (_wave(u / 1.5) - 0.5) * (_wave(v / 1.5) - 0.5), 0, 1)


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return np.clip(0.5 + 8 * (0.3 - np.sqrt(x * x + y * y)), 0, 1)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    course = np.floor(v)
    x, y = u / 1.6 + course / 2, v - course
    joint = np.minimum(np.abs(y - 0.5), np.abs(x - np.floor(x) - 0.5) * 1.6)
    return np.clip(6 * joint - 0.4, 0, 1)


def _zigzag(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _wave(v + 1.2 * np.abs(u / 1.6 - np.floor(u / 1.6) - 0.5))


def _clouds(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 1.6 * (_noise(u, v, stream=4) - 0.5), 0, 1)


def _grain(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 1.2 * (_noise(3 * u, 3 * v, stream=5) - 0.5), 0, 1)


#: Family -> brightness from 0 to 1 at (u, v), the turned coordinates in wavelengths.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "rows": lambda u, v: _wave(v),
    "columns": lambda u, v: _wave(u),
    "diagonals": lambda u, v: _wave(0.7 * (u + v)),
    "checks": _checks,
    "dots": _dots,
    "rings": _rings,
    "bricks": _bricks,
    "zigzag": _zigzag,
    "clouds": _clouds,
    "grain": _grain,
}


def _uniform(stream: int, *shape: int) -> np.ndarray:
    """Give random numbers in [0, 1) from raw Philox output, which the algorithm fixes; one stream per purpose."""
    raw = np.random.Philox(key=[20200516, stream]).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(11)).astype("float64") * 2.0**-53).reshape(shape)


def _between(draw: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * draw


def _labels_and_draws(stream: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the label and the random numbers of every image; any first n labels are balanced to within one."""
    labels = np.arange(TRAIN + TEST, dtype="int64") % 10
    return labels, _uniform(stream, TRAIN + TEST, columns)


def _split(images: np.ndarray, labels: np.ndarray) -> Arrays:
    return images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:]


def _each(values: np.ndarray) -> np.ndarray:
    """Spread one value per image over its pixels: (b,) to (b, 1, 1)."""
    return values[:, None, None]


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Give row and column of every pixel's middle, from the middle of the image, shape (1, y, x)."""
    steps = np.arange(SIDE) + 0.5 - SIDE / 2
    row, column = np.meshgrid(steps, steps, indexing="ij")
    return row[None], column[None]


def _turn(half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give cosine and sine of the angle whose half has this tangent, by arithmetic that rounds alike everywhere."""
    return (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)


def _wave(turns: np.ndarray) -> np.ndarray:
    """Give a cosine from 0 to 1, one period per unit."""
    return _WAVE[np.floor(turns * _PERIOD).astype("int64") % _PERIOD]


def _noise(u: np.ndarray, v: np.ndarray, stream: int) -> np.ndarray:
    """Interpolate between random numbers on the whole (u, v), another lattice for every image."""
    side = 32
    lattice = _uniform(stream, len(u), side, side)
    image = np.arange(len(u))[:, None, None]
    left, top = np.floor(u).astype("int64"), np.floor(v).astype("int64")
    across, down = u - left, v - top
    left, right, top, bottom = left % side, (left + 1) % side, top % side, (top + 1) % side
    upper = lattice[image, top, left] * (1 - across) + lattice[image, top, right] * across
    lower = lattice[image, bottom, left] * (1 - across) + lattice[image, bottom, right] * across
    return upper * (1 - down) + lower * down


def _masks() -> np.ndarray:
    """Rasterise every letter in every face, shape (letters * faces, 64, 64), from 0 to 1, centred, softened."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(folder / f"{face}.ttf", 50, layout_engine=ImageFont.Layout.BASIC) for face in FACES]
    masks = np.zeros((len(LETTERS) * len(FACES), 64, 64))
    for n, (letter, font) in enumerate((letter, font) for letter in LETTERS for font in fonts):
        mask = Image.new("L", (64, 64))
        ImageDraw.Draw(mask).text((32, 32), letter, fill=255, font=font, anchor="mm")
        masks[n] = np.asarray(mask) / 255
    # Images read about every second pixel of a mask: the 3x3 binomial keeps thin strokes from breaking up.
    for axis in (1, 2):
        masks = (np.roll(masks, 1, axis) + 2 * masks + np.roll(masks, -1, axis)) / 4
    return masks


def _read(masks: np.ndarray, chosen: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Read image n from mask ``chosen[n]`` at points (b, y, x) given from the mask's middle, bilinearly."""
    side = masks.shape[1]
    row, column = np.clip(row + side / 2 - 0.5, 0, side - 2), np.clip(column + side / 2 - 0.5, 0, side - 2)
    top, left = row.astype("int64"), column.astype("int64")
    down, across = row - top, column - left
    corner = (_each(chosen) * side + top) * side + left
    upper = masks.take(corner) * (1 - across) + masks.take(corner + 1) * across
    lower = masks.take(corner + side) * (1 - across) + masks.take(corner + side + 1) * across
    return upper * (1 - down) + lower * down


def _coloured(image: np.ndarray, draw: np.ndarray, noise: float, stream: int) -> np.ndarray:
    """Mix a dark and a light colour of each image's own by its brightness (b, y, x), and add noise.

    Which of the two stands for 1 is drawn too, so brightness alone says nothing about the class.
    """
    dark, light = _between(draw[:, 0:3], 0.0, 0.45), _between(draw[:, 3:6], 0.55, 1.0)
    swap = draw[:, 6, None] < 0.5
    paper, ink = np.where(swap, light, dark), np.where(swap, dark, light)
    speckle = noise * _each(draw[:, 7]) * (2 * _uniform(stream + 100, *image.shape) - 1)
    coloured = np.empty((*image.shape, 3), dtype="uint8")
    for c in range(3):
        shade = _each(paper[:, c]) + _each(ink[:, c] - paper[:, c]) * image + speckle
        coloured[..., c] = np.rint(255 * np.clip(shade, 0, 1))
    return coloured
