"""The wiring of a network: its units as nodes, and which weights stand on the edges between them."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from nwslib.snapshots.layout import Layout
from nwslib.space import nearest

INPUT = "input"

#: The layer that carries a link, and the nodes that it joins: source, target.
_Route = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class Nodes:
    """The units of one layer.

    Attributes
    ----------
    name
        Of the layer; ``"input"`` for the channels, coordinates or pixels that the first layer reads.
    role
        ``"input"``, ``"hidden"`` or, of the last layer, ``"output"``. Only hidden units may be permuted.
    part
        ``"convolution"`` or ``"dense"``; of the input ``""``.
    weights
        Shape (units, n), int64: places in the weight vector of what belongs to each unit, such as bias, gamma, beta,
        mean and variance, in the order of the layout.
    """

    name: str
    role: str
    part: str
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class Link:
    """The edges from each unit of one layer to each of another.

    Attributes
    ----------
    layer
        That the weights belong to; of a skip without weights the name that its convolution would have.
    source, target
        Names of the nodes.
    weights
        Shape (units, sources, n), int64: places in the weight vector of what each edge carries. A skip of weight 1
        carries nothing, n = 0, and joins each source to the unit of the same place alone.
    """

    layer: str
    source: str
    target: str
    weights: np.ndarray

    @property
    def is_identity(self) -> bool:
        """Whether it is a skip of weight 1."""
        return self.weights.shape[2] == 0


@dataclass(frozen=True, eq=False)
class Wiring:
    """A network as a graph; every weight of its layout belongs to one node or one edge.

    Attributes
    ----------
    nodes
        By name, the input first, in the order in which the network computes them.
    links
        In the same order.
    """

    nodes: dict[str, Nodes]
    links: tuple[Link, ...]

    def joined(self) -> dict[str, str]:
        """Give for all nodes the first ones that they are joined to by skips of weight 1, mostly themselves.

        Returns
        -------
        dict of str to str
            Nodes of the same value keep their function only if their units are permuted together.
        """
        first = {name: name for name in self.nodes}
        for link in self.links:
            if link.is_identity:
                first[link.target] = first[link.source]
        return first


@lru_cache(64)
def wiring(layout: Layout) -> Wiring:
    """Wire a network of any family as a graph, from the names and axes of its tensors.

    A tensor with the axes ``unit`` and ``source`` stands on the edges of its layer, one with ``unit`` alone on its
    nodes. All further axes are of one edge: a kernel's window, the positions of the feature map (or the image) that a
    first dense layer reads, the coefficients of a spline.

    =================================  ===============================================================================
    family                             which layer reads which
    =================================  ===============================================================================
    cnn, smallcnn, mlp, siren, inr     each the one before it, the first the input
    kan                                the same; an edge carries base weight, spline weight and coefficients
    resnet8                            ``stem`` the input; ``<block>.conv1`` the block before it, ``<block>.conv2`` the
                                       first convolution; ``<block>.skip`` leads from the block before it to the units
                                       of ``<block>.conv2``, to which it adds; a block without one has a skip of
                                       weight 1; ``output`` the last block
    =================================  ===============================================================================

    Parameters
    ----------
    layout
        Of the network.

    Returns
    -------
    Wiring
        Its arrays are shared by all callers, and read-only.

    Raises
    ------
    ValueError
        If the family is unknown, a tensor has no units, or a layer reads more or fewer units than there are.

    Notes
    -----
    Networks as graphs: Lim et al., "Graph metanetworks for processing diverse neural architectures", ICLR 2024; Kofinas
    et al., "Graph neural networks for learning equivariant representations of neural networks", ICLR 2024. There, too,
    channels are nodes; they have a node for each position behind a feature map or an edge for each, we one edge.

    Examples
    --------
    >>> from nwslib.snapshots.cnn import layout
    >>> wired = wiring(layout(32, 5, 3, 2, 8, 128))
    >>> [(link.source, link.target, link.weights.shape) for link in wired.links][2:4]
    [('conv2', 'conv3', (32, 16, 25)), ('conv3', 'dense1', (128, 32, 16))]
    >>> wired.nodes["dense1"].weights.shape
    (128, 5)
    """
    if layout.family not in _ROUTES:
        raise ValueError(f"units of family {layout.family!r} can't be wired. {nearest(layout.family, _ROUTES)}")
    on_edges, on_units = _places(layout)
    routes = _ROUTES[layout.family](list(on_units))
    needed = [layer for layer, _, _ in routes if not layer.endswith(".skip")]
    if not set(needed) <= set(on_edges) or not set(on_units) <= {layer for layer, _, _ in routes}:
        found = ", ".join(on_edges)
        raise ValueError(f"{layout.name}: family {layout.family} has kernels of {', '.join(needed)}, not of {found}")
    parts = {tensor.layer: tensor.part for tensor in layout.tensors}
    first, last = routes[0][0], routes[-1][2]
    nodes = {INPUT: Nodes(INPUT, INPUT, "", _none(on_edges[first].shape[1]))}
    for name in dict.fromkeys(target for _, _, target in routes):
        owned = [on_units[layer] for layer, _, target in routes if target == name and layer in on_units]
        role = "output" if name == last else "hidden"
        nodes[name] = Nodes(name, role, parts[name], _fixed(np.concatenate(owned, axis=1)))
    links = tuple(
        _link(layout, on_edges.get(layer), layer, nodes[source], nodes[target]) for layer, source, target in routes
    )
    return Wiring(nodes, links)


def _places(layout: Layout) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Give by layer the places of what stands on its edges, (units, sources, n), and on its units, (units, n)."""
    edges: dict[str, list[np.ndarray]] = {}
    units: dict[str, list[np.ndarray]] = {}
    places = layout.split(np.arange(layout.size, dtype="int64"))
    for tensor in layout.tensors:
        if "unit" not in tensor.axes:
            raise ValueError(f"{layout.name}: {tensor.name} has no axis unit, only {', '.join(tensor.axes)}")
        own = [axis for axis in ("unit", "source") if axis in tensor.axes]
        place = np.moveaxis(places[tensor.name], [tensor.axes.index(axis) for axis in own], range(len(own)))
        kind = edges if "source" in own else units
        kind.setdefault(tensor.layer, []).append(place.reshape(*place.shape[: len(own)], -1))
    on_edges = {layer: _fixed(np.concatenate(found, axis=2)) for layer, found in edges.items()}
    bare = {layer: _none(len(found)) for layer, found in on_edges.items()}
    return on_edges, bare | {layer: _fixed(np.concatenate(found, axis=1)) for layer, found in units.items()}


def _link(layout: Layout, places: np.ndarray | None, layer: str, source: Nodes, target: Nodes) -> Link:
    units, sources = len(target.weights), len(source.weights)
    if places is None:
        places = _none(units, units)
    if places.shape[1] != sources:
        raise ValueError(f"{layout.name}: {source.name} has {sources} units, but {layer} reads {places.shape[1]}")
    if len(places) != units:
        raise ValueError(f"{layout.name}: {layer} has {len(places)} units, but adds to {units} of {target.name}")
    return Link(layer, source.name, target.name, places)


def _none(*units: int) -> np.ndarray:
    return _fixed(np.empty((*units, 0), "int64"))


def _fixed(places: np.ndarray) -> np.ndarray:
    places.setflags(write=False)
    return places


def _chain(layers: list[str]) -> list[_Route]:
    return [(layer, source, layer) for source, layer in pairwise([INPUT, *layers])]


def _residual(layers: list[str]) -> list[_Route]:
    routes, source = [("stem", INPUT, "stem")], "stem"
    for block in dict.fromkeys(layer.partition(".")[0] for layer in layers if "." in layer):
        first, second, skip = (f"{block}.{step}" for step in ("conv1", "conv2", "skip"))
        routes += [(first, source, first), (second, first, second), (skip, source, second)]
        source = second
    return [*routes, ("output", source, "output")]


_ROUTES = dict.fromkeys(("cnn", "smallcnn", "mlp", "siren", "inr", "kan"), _chain) | {"resnet8": _residual}
