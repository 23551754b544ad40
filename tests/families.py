"""The smallest layout of each family that has all its parts."""

from nwslib.snapshots import Layout, Tensor
from nwslib.snapshots import cnn as cnn_layout

DENSE, CONVOLUTION = ("unit", "source"), ("unit", "source", "row", "column")
ON_IMAGE = ("unit", "row", "column", "source")


def _layers(family, *layers):
    """Lay out layers given as name, part, axes and shape of the kernel, and the kinds on its units."""
    tensors = []
    for name, part, axes, shape, kinds in layers:
        tensors.append(Tensor(name, part, "kernel", axes, shape))
        tensors += [Tensor(name, part, kind, ("unit",), shape[:1]) for kind in kinds]
    return Layout(family, tuple(tensors))


def _kan(*sizes, functions):
    tensors, names = [], [*(f"kan{number}" for number in range(1, len(sizes) - 1)), "output"]
    for name, source, unit in zip(names, sizes[:-1], sizes[1:], strict=True):
        tensors += [Tensor(name, "dense", kind, DENSE, (unit, source)) for kind in ("base", "spline")]
        tensors.append(Tensor(name, "dense", "coefficients", (*DENSE, "row"), (unit, source, functions)))
    return Layout("kan", tuple(tensors))


def _resnet8():
    def convolution(name, unit, source, size=3):
        return name, "convolution", CONVOLUTION, (unit, source, size, size), ("gamma", "beta")

    layers = [convolution("stem", 4, 3)]
    for block, (source, unit) in enumerate([(4, 4), (4, 6), (6, 8)], start=1):
        layers += [convolution(f"block{block}.conv1", unit, source), convolution(f"block{block}.conv2", unit, unit)]
        layers += [convolution(f"block{block}.skip", unit, source, 1)] if unit != source else []
    return _layers("resnet8", *layers, ("output", "dense", DENSE, (5, 8), ("bias",)))


LAYOUTS = {
    "cnn": cnn_layout.layout(16, 3, 3, 2, 4, 16),
    "smallcnn": _layers(
        "smallcnn",
        ("conv1", "convolution", CONVOLUTION, (6, 1, 3, 3), ("bias",)),
        ("conv2", "convolution", CONVOLUTION, (7, 6, 3, 3), ("bias",)),
        ("output", "dense", DENSE, (10, 7), ("bias",)),
    ),
    "mlp": _layers(
        "mlp",
        ("dense1", "dense", ON_IMAGE, (6, 5, 5, 1), ("bias",)),
        ("dense2", "dense", DENSE, (5, 6), ("bias",)),
        ("output", "dense", DENSE, (10, 5), ("bias",)),
    ),
    "siren": _layers(
        "siren",
        ("dense1", "dense", DENSE, (6, 2), ("bias",)),
        ("dense2", "dense", DENSE, (5, 6), ("bias",)),
        ("output", "dense", DENSE, (1, 5), ("bias",)),
    ),
    "kan": _kan(2, 5, 4, 1, functions=6),
    "resnet8": _resnet8(),
}
