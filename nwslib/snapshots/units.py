"""Networks with their hidden units in another order: other weight vectors that compute the same."""

import numpy as np

from nwslib.snapshots.layout import Layout
from nwslib.snapshots.wiring import Wiring, wiring
from nwslib.space import nearest

_PARTS = ("all", "convolution", "dense")


def permutation(layout: Layout, seed: int, within: str = "all", *, consistent: bool = True) -> np.ndarray:
    """Permute the hidden units of a network at random: the channels of its convolutions, and its dense units.

    The weights into a unit move with its bias and batch-norm variables, and so do the weights that the next layer puts
    on it. Units that a skip of weight 1 joins are permuted alike. The inputs (channels of the images, coordinates,
    pixels) and the outputs of the network stay.

    Parameters
    ----------
    layout
        Of the network, of any family that `nwslib.snapshots.wiring` knows.
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
        If the layout can't be wired, `within` is unknown, or the seed is out of range.

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
    wired = wiring(layout)
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1, not {seed!r}")
    if within not in _PARTS:
        raise ValueError(f"unknown part {within!r}. {nearest(within, _PARTS)}")
    orders = _orders(wired, int(seed), within)
    index = np.empty(layout.size, "int64")
    for nodes in wired.nodes.values():
        index[nodes.weights] = nodes.weights[orders[nodes.name]]
    for link in wired.links:
        moved = link.weights[orders[link.target]]
        index[link.weights] = moved[:, orders[link.source]] if consistent else moved
    return index


def _orders(wired: Wiring, seed: int, within: str) -> dict[str, np.ndarray]:
    """Draw an order for the units of all hidden nodes, the same for those that are joined."""
    joined = wired.joined()
    hidden = [name for name, nodes in wired.nodes.items() if nodes.role == "hidden"]
    drawn = {name: _order(len(wired.nodes[name].weights), [seed, number]) for number, name in enumerate(hidden)}
    return {
        name: drawn[joined[name]]
        if joined[name] in drawn and within in ("all", nodes.part)
        else np.arange(len(nodes.weights))
        for name, nodes in wired.nodes.items()
    }


def _order(units: int, key: list[int]) -> np.ndarray:
    # Raw Philox output: its stream is fixed by the algorithm, while numpy may change its permutations (NEP 19).
    return np.argsort(np.random.Philox(key=key).random_raw(units), kind="stable")
