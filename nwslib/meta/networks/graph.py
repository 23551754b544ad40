"""The graph meta-network: units are nodes, weights stand on edges, messages run forth and back through the layers.

All networks of a population share one layout, so that the edges between two layers are one dense block (b, units,
sources, channels) and messages are sums over one of its axes: no lists of edges, no scatter.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nwslib.meta.networks import probe
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.wiring import Link, Nodes, Wiring, wiring

_FEATURES = 2  # of a weight in one snapshot: itself, and the logarithm of its magnitude
_LEAST = 1e-2  # smaller magnitudes, in units of the tensor's scale, look alike

#: The states of each layer's units (b, units, channels), and of each link's edges (b, units, sources, channels).
_States = tuple[list[Tensor], list[Tensor]]


class Graph(nn.Module):
    """Reads whole networks by messages between their units.

    The units of each layer, and the edges of each link between two, have their own embedding of the weights that they
    carry, and their own maps in every round: layers are no symmetric objects. A round goes forward through the layers,
    as an image does, then back, as a gradient does. What the hidden units of a layer have become is read by their mean
    and their largest value.

    Hidden units are symmetric, inputs and outputs are not. So all inputs are one node and all outputs are one, and an
    edge to it carries the weights of all of them, in order: that tells pixels, coordinates and classes apart.

    Parameters
    ----------
    layout
        Of the networks, of any family that `nwslib.snapshots.wiring` knows.
    snapshots
        Snapshots of a network that are read together.
    outputs
        Scores of a network; not used with `per_weight`.
    per_weight
        Whether to give a score for every weight instead.
    width
        Channels of a node; an edge has half as many.
    rounds
        Times that messages run forth and back.
    probes
        Learned inputs that the units answer to besides: what a unit adds up for each is part of its first state. For
        networks of dense layers (families siren, kan, mlp). Sine networks that each start on their own are hardly read
        without.
    **settings
        Passed to the family's ``outputs``: ``frequency`` of sine networks, ``order`` of splines.

    Attributes
    ----------
    raw
        With `probes` it takes weights as they are, and standardises each tensor by what it saw in training; without, it
        wants them standardised.

    Notes
    -----
    Lim et al., "Graph metanetworks for processing diverse neural architectures", ICLR 2024 (arXiv:2312.04501); Kofinas
    et al., "Graph neural networks for learning equivariant representations of neural networks", ICLR 2024
    (arXiv:2403.12143). Of the second are probes, and messages that multiply edges with nodes, as a layer does.

    Laws: hidden units permuted consistently leave the scores as they are, and permute scores of weights alike; permuted
    inconsistently, they change them. No other symmetry is built in: neither the signs of sine and tanh units, nor the
    scales of relu units.
    """

    def __init__(
        self,
        layout: Layout,
        snapshots: int,
        outputs: int,
        *,
        per_weight: bool = False,
        width: int = 32,
        rounds: int = 2,
        probes: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        wired = wiring(layout)
        self.raw = probes > 0
        self.probing = _Probing(layout, wired, snapshots, width, probes, settings) if probes else None
        seen = _FEATURES * snapshots
        nodes = list(wired.nodes.values())
        self.hidden = [number for number, one in enumerate(nodes) if one.role == "hidden"]
        self.nodes = nn.ModuleList(_Carried(_folded_units(one), seen, width) for one in nodes)
        self.edges = nn.ModuleList(_edge_embedding(link, wired, seen, width) for link in wired.links)
        sweeps = [_Sweep(wired, width, forward=forward) for _ in range(rounds) for forward in (True, False)]
        self.sweeps = nn.ModuleList(sweeps)
        summaries = width * (len(nodes) + len(self.hidden))
        head = [nn.LayerNorm(summaries), nn.Linear(summaries, 2 * width), nn.ReLU(), nn.Linear(2 * width, outputs)]
        self.head = None if per_weight else nn.Sequential(*head)
        self.readout = _Readout(wired, seen, width) if per_weight else None

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (b, s, w) to scores (b, outputs), or one for every weight (b, w)."""
        seen = _features(vectors if self.probing is None else self.probing.standardized(vectors))
        nodes, edges = [embed(seen) for embed in self.nodes], [embed(seen) for embed in self.edges]
        nodes = nodes if self.probing is None else self.probing(vectors, nodes)
        for sweep in self.sweeps:
            nodes, edges = sweep(nodes, edges)
        if self.readout is not None:
            return self.readout(seen, nodes, edges)
        summaries = [state.mean(1) for state in nodes] + [nodes[number].amax(1) for number in self.hidden]
        return self.head(torch.cat(summaries, dim=1))


def build(
    layout: Layout,
    snapshots: int,
    outputs: int,
    *,
    per_weight: bool = False,
    width: int = 32,
    rounds: int = 2,
    probes: int = 0,
    **settings: Any,
) -> Graph:
    """Build a graph meta-network.

    Parameters
    ----------
    layout, snapshots, outputs, per_weight, width, rounds, probes, **settings
        As for `Graph`.

    Returns
    -------
    Graph
        Maps vectors (b, s, w), standardised per tensor but for `probes`, to scores (b, outputs), or with `per_weight`
        to (b, w). Its first weights come from torch's generator.

    Raises
    ------
    ValueError
        If the layout can't be wired, a number is too small, layers that are not dense are to be probed, or there are
        `settings` without probes.

    Examples
    --------
    >>> from nwslib.snapshots.cnn import layout
    >>> small = layout(16, 3, 3, 2, 4, 32)
    >>> build(small, 1, 4)(torch.zeros(2, 1, small.size)).shape
    torch.Size([2, 4])
    """
    numbers = {"snapshots": snapshots, "outputs": outputs, "width": width, "rounds": rounds, "probes": probes}
    for name, value in numbers.items():
        least = {"width": 2, "probes": 0}.get(name, 1)
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if settings and not probes:
        raise ValueError(f"{', '.join(settings)}: only probed networks compute something. Give probes too.")
    if probes and layout.family not in probe.DENSE_FAMILIES:
        raise ValueError(
            f"units of family {layout.family!r} can't be probed, dense ones can: {', '.join(probe.DENSE_FAMILIES)}"
        )
    options = {"per_weight": per_weight, "width": width, "rounds": rounds, "probes": probes}
    return Graph(layout, snapshots, outputs, **options, **settings)


def _features(vectors: Tensor) -> Tensor:
    """Give of each weight what is seen of it, (b, w, features of all snapshots)."""
    # An unstandardised logarithm would mostly say that weights are not 0: of a normal number it has mean -0.6.
    return torch.stack([vectors, torch.log(vectors.abs() + _LEAST) + 0.6], dim=3).transpose(1, 2).flatten(2)


def _folded_edges(link: Link, wired: Wiring) -> np.ndarray:
    """Give the places of what edges carry, with one node for all inputs and one for all outputs."""
    places = link.weights
    if wired.nodes[link.source].role == "input":
        places = places.reshape(len(places), 1, -1)
    if wired.nodes[link.target].role == "output":
        places = places.swapaxes(0, 1).reshape(1, places.shape[1], -1)
    return places


def _folded_units(nodes: Nodes) -> np.ndarray:
    """Give the places of what units carry, all inputs or outputs as one."""
    return nodes.weights if nodes.role == "hidden" else nodes.weights.reshape(1, -1)


def _edge_embedding(link: Link, wired: Wiring, seen: int, width: int) -> nn.Module:
    # A skip of weight 1 carries nothing: whatever stands for its state is not read.
    return nn.Identity() if link.is_identity else _Carried(_folded_edges(link, wired), seen, width // 2)


class _Carried(nn.Module):
    """Embeds what each node or edge carries, at places (..., n) of the vector."""

    def __init__(self, places: np.ndarray, seen: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("places", torch.from_numpy(places.copy()), persistent=False)
        # A linear map of nothing is its constant, but torch warns of it.
        self.map = nn.Linear(places.shape[-1] * seen, channels) if places.size else None
        self.start = None if places.size else nn.Parameter(torch.randn(channels))

    def forward(self, seen: Tensor) -> Tensor:
        """Give (b, ..., channels)."""
        if self.map is None:
            return self.start.expand(len(seen), *self.places.shape[:-1], -1)
        return self.map(seen[:, self.places].flatten(-2))


class _Probing(nn.Module):
    """Adds to each unit what it answers to learned inputs."""

    def __init__(
        self, layout: Layout, wired: Wiring, snapshots: int, width: int, probes: int, settings: dict[str, Any]
    ) -> None:
        super().__init__()
        self.layout, self.settings, self.hidden = (
            layout,
            settings,
            [one.role == "hidden" for one in wired.nodes.values()],
        )
        self.inputs = probe.learned_inputs(layout, probes)
        folded = [len(one.weights) if one.role == "output" else 1 for one in wired.nodes.values()]
        self.maps = nn.ModuleList(nn.Linear(count * snapshots * probes, width) for count in folded[1:])
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("moments", torch.zeros(2, len(layout.tensors)))

    def forward(self, vectors: Tensor, nodes: list[Tensor]) -> list[Tensor]:
        """Give the states of all nodes, with those of units changed."""
        answers = probe.layer_answers(self.layout, vectors, self.inputs(), **self.settings).values()
        told = [torch.asinh(answer).flatten(1, 2).transpose(1, 2) for answer in answers]  # (b, units, s * probes)
        told = [one if hidden else one.flatten(1)[:, None] for one, hidden in zip(told, self.hidden[1:], strict=True)]
        heard = [read(one) for read, one in zip(self.maps, told, strict=True)]
        return [nodes[0], *(state + one for state, one in zip(nodes[1:], heard, strict=True))]

    def standardized(self, vectors: Tensor) -> Tensor:
        """Bring each tensor to mean 0 and spread 1 by what was seen in training."""
        blocks = [vectors[..., place] for place in self.layout.slices.values()]
        if self.training:
            self.count += 1
            now = torch.stack([torch.stack([one.mean(), one.square().mean()]) for one in blocks], dim=1).detach()
            self.moments += (now - self.moments) / self.count
        mean, spread = self.moments[0], (self.moments[1] - self.moments[0].square()).clamp(min=0).sqrt()
        spread = torch.where(spread > 0, spread, 1.0)
        return torch.cat([(one - mean[n]) / spread[n] for n, one in enumerate(blocks)], dim=-1)


class _Sweep(nn.Module):
    """Takes messages through all layers in one direction: the units of each hear those before them, then speak."""

    def __init__(self, wired: Wiring, width: int, *, forward: bool) -> None:
        super().__init__()
        names = list(wired.nodes)
        ends = [(names.index(link.source), names.index(link.target)) for link in wired.links]
        self.ends = ends if forward else [(target, source) for source, target in ends]
        self.order = range(1, len(names)) if forward else range(len(names) - 2, -1, -1)
        self.axis = 2 if forward else 1
        self.messages = nn.ModuleList(
            _Skip(width) if link.is_identity else _Messages(width, changes=forward) for link in wired.links
        )
        self.updates = nn.ModuleList(_update(width) for _ in self.order)

    def forward(self, nodes: list[Tensor], edges: list[Tensor]) -> _States:
        """Give the states after the sweep."""
        nodes, edges = list(nodes), list(edges)
        for receiver, update in zip(self.order, self.updates, strict=True):
            heard = []
            for link, (sender, hears) in enumerate(self.ends):
                if hears == receiver:
                    message, edges[link] = self.messages[link](edges[link], nodes[sender], nodes[receiver], self.axis)
                    heard.append(message)
            nodes[receiver] = nodes[receiver] + update(torch.cat([nodes[receiver], sum(heard)], dim=-1))
        return nodes, edges


class _Messages(nn.Module):
    """Sends messages along the edges of one link, and changes the edges if asked to."""

    def __init__(self, width: int, *, changes: bool) -> None:
        super().__init__()
        inner = width // 2
        self.edge, self.receiver = nn.Linear(inner, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.sender, self.factor = nn.Linear(width, inner), nn.Linear(width, inner)
        self.change = nn.Linear(inner, inner) if changes else None
        self.mixed = nn.Linear(2 * inner, width)

    def forward(self, edges: Tensor, sender: Tensor, receiver: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Sum over the axis of the senders; give what each receiver hears, and the edges after it."""
        other = 3 - axis
        told = self.sender(sender).unsqueeze(other) + self.receiver(receiver).unsqueeze(axis)
        told = torch.relu(self.edge(edges) + told)
        products = (edges * self.factor(sender).unsqueeze(other)).sum(axis) / math.sqrt(edges.shape[axis])
        heard = self.mixed(torch.cat([told.mean(axis), products], dim=-1))
        return heard, edges if self.change is None else edges + self.change(told)


class _Skip(nn.Module):
    """Sends messages between units of the same place, along edges of weight 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sender = nn.Linear(width, width)

    def forward(self, edges: Tensor, sender: Tensor, receiver: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Give what each receiver hears, and the edges as they were."""
        return self.sender(sender), edges


def _update(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width))


class _Readout(nn.Module):
    """Gives a score for every weight, from the last states and from all that its node or edge carries."""

    def __init__(self, wired: Wiring, seen: int, width: int) -> None:
        super().__init__()
        names = list(wired.nodes)
        self.units = [number for number, one in enumerate(wired.nodes.values()) if one.weights.size]
        self.links = [number for number, link in enumerate(wired.links) if not link.is_identity]
        self.ends = [(names.index(link.source), names.index(link.target)) for link in wired.links]
        nodes, links = list(wired.nodes.values()), wired.links
        units = [(nodes[number].weights[:, None], _folded_units(nodes[number])[:, None]) for number in self.units]
        edges = [(links[number].weights, _folded_edges(links[number], wired)) for number in self.links]
        self.of_units = nn.ModuleList(_Scores(*one, width, seen, width) for one in units)
        self.of_edges = nn.ModuleList(_Scores(*one, 2 * width + width // 2, seen, width) for one in edges)
        order = np.concatenate([places.ravel() for places, _ in units + edges])
        self.register_buffer("order", torch.from_numpy(np.argsort(order)), persistent=False)

    def forward(self, seen: Tensor, nodes: list[Tensor], edges: list[Tensor]) -> Tensor:
        """Give (b, w)."""
        found = [one(seen, nodes[number][:, :, None]) for number, one in zip(self.units, self.of_units, strict=True)]
        for number, one in zip(self.links, self.of_edges, strict=True):
            source, target = (nodes[end] for end in self.ends[number])
            shape = edges[number].shape[:3]
            ends = source[:, None].expand(*shape, -1), target[:, :, None].expand(*shape, -1)
            found.append(one(seen, torch.cat([edges[number], *ends], dim=-1)))
        return torch.cat(found, dim=1)[:, self.order]


class _Scores(nn.Module):
    """Scores the weights at places (units, sources, n), from states of all of them or of folded ones."""

    def __init__(self, places: np.ndarray, folded: np.ndarray, state: int, seen: int, inner: int) -> None:
        super().__init__()
        self.register_buffer("places", torch.from_numpy(places.copy()), persistent=False)
        (units, sources, carried), (own_units, own_sources, _) = places.shape, folded.shape
        self.shape, self.folds = (own_units, own_sources), (units // own_units, sources // own_sources)
        self.state = nn.Sequential(nn.Linear(state, inner), nn.ReLU(), nn.Linear(inner, math.prod(self.folds) * inner))
        self.carried = nn.Linear(carried * seen, inner, bias=False)
        self.mixed = nn.Sequential(nn.ReLU(), nn.Linear(inner, inner), nn.ReLU())
        self.factors = nn.Linear(inner, carried * (1 + seen))

    def forward(self, seen: Tensor, state: Tensor) -> Tensor:
        """Give (b, units * sources * n)."""
        own = seen[:, self.places]  # (b, units, sources, n, seen)
        # Axes: units as they are or folded into one, then those that were folded; the same of sources.
        unfolded = self.state(state).unflatten(-1, (*self.folds, -1)).permute(0, 1, 3, 2, 4, 5)
        mixed = self.mixed(self.carried(own.flatten(-2)) + unfolded.flatten(3, 4).flatten(1, 2))
        factors = self.factors(mixed).unflatten(-1, (*own.shape[-2:-1], 1 + own.shape[-1]))
        return (factors[..., 0] + (factors[..., 1:] * own).sum(-1)).flatten(1)
