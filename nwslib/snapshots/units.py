"""Networks with their hidden units in another order: other weight vectors that compute the same."""

from itertools import pairwise

import numpy as np

from nwslib.snapshots.layout import Layout
from nwslib.space import nearest

_FAMILIES = ("cnn",)
_PARTS = ("all", "convolution", "dense")


def permutation(layout: Layout, seed: int, within: str = "all", *, consistent: bool = True) -> np.ndarray:
    """Permute the hidden units of a network at random: the channels of its convolutions, and its dense units.

    The weights into a unit move with its bias and batch-norm variables, and so do the weights that the next layer puts
    on it. The channels of the images and the outputs of the network stay.

    Parameters
    ----------
    layout
        Of the network.
    seed
        Seed of the permutation, 0 to 2**64 - 1: the same on every machine.
    within
        Whose units are permuted: those of ``"all"`` layers, or of the ``"convolution"`` or ``"dense"`` ones.
    consistent
        Whether the next layer follows. If not, each tensor holds the same weights as before, but the network computes
        something else: a control.

    Returns
    -------
    numpy.ndarray
        Shape (w,), int64: ``vector[index]`` is the weight vector of the permuted network.

    Raises
    ------
    ValueError
        If the layout is not that of a convolutional network whose layers follow each other, `within` is unknown, or the
        seed is out of range.

    Notes
    -----
    The symmetry: Hecht-Nielsen, "On the algebraic structure of feedforward network weight spaces", 1990.

    Examples
    --------
    >>> from nwslib.snapshots.cnn import layout
    >>> small = layout(16, 3, 3, 2, 4, 32)
    >>> index = permutation(small, seed=3)
    >>> index[small.slices["conv1.gamma"]] - index[small.slices["conv1.bias"]]
    array([8, 8, 8, 8])
    """
    layers = _layers(layout)
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, not {seed!r}")
    if within not in _PARTS:
        raise ValueError(f"unknown part {within!r}. {nearest(within, _PARTS)}")
    orders = {
        layer: _order(units, [int(seed), number]) if within in ("all", part) else np.arange(units)
        for number, (layer, (units, part)) in enumerate(list(layers.items())[:-1])
    }
    read = {later: orders[earlier] for earlier, later in pairwise(layers)} if consistent else {}
    places = layout.split(np.arange(layout.size))
    for tensor in layout.tensors:
        for axis, order in (("unit", orders.get(tensor.layer)), ("source", read.get(tensor.layer))):
            if axis in tensor.axes and order is not None:
                places[tensor.name] = places[tensor.name].take(order, tensor.axes.index(axis))
    return np.concatenate([places[tensor.name].ravel() for tensor in layout.tensors])


def _layers(layout: Layout) -> dict[str, tuple[int, str]]:
    """Give the units and the part of each layer, in order."""
    if layout.family not in _FAMILIES:
        raise ValueError(f"units of family {layout.family!r} can't be permuted. {nearest(layout.family, _FAMILIES)}")
    kernels = [tensor for tensor in layout.tensors if tensor.kind == "kernel"]
    layers = {kernel.layer: (dict(zip(kernel.axes, kernel.shape, strict=True)), kernel.part) for kernel in kernels}
    for (earlier, (axes, _)), (later, (following, _)) in pairwise(layers.items()):
        if axes["unit"] != following["source"]:
            raise ValueError(
                f"{layout.name}: {earlier} has {axes['unit']} units, but {later} reads {following['source']}"
            )
    return {layer: (axes["unit"], part) for layer, (axes, part) in layers.items()}


def _order(units: int, key: list[int]) -> np.ndarray:
    # Raw Philox output: its stream is fixed by the algorithm, while numpy may change its permutations (NEP 19).
    return np.argsort(np.random.Philox(key=key).random_raw(units), kind="stable")
