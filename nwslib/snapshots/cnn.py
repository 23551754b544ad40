"""The weight vector of the study's convolutional network: three blocks of convolutions, then dense layers.

Batch norm everywhere but in the last layer, which always has 20 outputs, so that no shape gives the image set away
(Eilertsen et al., ECAI 2020). What the network computes is in `nwslib.population.networks.cnn`.
"""

from collections.abc import Iterator

from nwslib.snapshots.layout import Layout, Tensor

OUTPUTS = 20
BLOCKS = 3


def layout(image_size: int, filter_size: int, depth_conv: int, depth_fc: int, width_conv: int, width_fc: int) -> Layout:
    """Lay out the weight vector of one architecture, in the order of the released files.

    Parameters
    ----------
    image_size, filter_size
        Side of an image and of a kernel, in pixels.
    depth_conv, depth_fc
        Convolution layers, at least 3; hidden dense layers.
    width_conv, width_fc
        Channels in the first block, doubled in each next one; units of the first dense layer, halved in each next one.

    Returns
    -------
    Layout
        Tensors in layer order; in a layer kernel, bias, beta, gamma, mean, variance.

    Examples
    --------
    >>> layout(32, 5, 3, 2, 8, 128).size
    92868
    """
    tensors: list[Tensor] = []
    channels = 3
    for number, block in enumerate(blocks(depth_conv), start=1):
        out = width_conv * 2**block
        shape = (out, channels, filter_size, filter_size)
        tensors += _layer(f"conv{number}", "convolution", ("unit", "source", "row", "column"), shape)
        channels = out
    side = image_size // 2**BLOCKS
    axes, inputs = ("unit", "row", "column", "source"), (side, side, channels)
    for number in range(1, depth_fc + 1):
        units = max(1, width_fc // 2 ** (number - 1))
        tensors += _layer(f"dense{number}", "dense", axes, (units, *inputs))
        axes, inputs = ("unit", "source"), (units,)
    tensors += _layer("output", "dense", axes, (OUTPUTS, *inputs))[:2]
    return Layout("cnn", tuple(tensors))


def blocks(depth: int) -> Iterator[int]:
    """Give the block of each convolution: 3 layers make 1, 1, 1; 4 make 1, 1, 2; 5 make 1, 2, 2."""
    for block in range(BLOCKS):
        yield from [block] * ((depth + block) // BLOCKS)


def _layer(layer: str, part: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> list[Tensor]:
    kernel = Tensor(layer, part, "kernel", axes, shape)
    rest = ("bias", "beta", "gamma", "mean", "variance")
    return [kernel, *(Tensor(layer, part, kind, ("unit",), shape[:1]) for kind in rest)]
