"""What set networks read: a token for every unit, made of the weights that belong to it."""

from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from nwslib.snapshots.layout import Layout

_SMALLEST = 1e-2  # magnitude of a standardised weight below which all are alike


def units(layout: Layout) -> list[np.ndarray]:
    """Say which weights belong to each unit: those that it puts on its sources, its bias, and its norm.

    Parameters
    ----------
    layout
        Of the networks. Tensors of one layer follow each other; one without units counts as a single unit.

    Returns
    -------
    list of numpy.ndarray
        For each layer the positions in the weight vector, int64, shape (units, weights of a unit).

    Examples
    --------
    >>> from nwslib.snapshots.cnn import layout
    >>> [layer.shape for layer in units(layout(16, 3, 3, 1, 4, 8))]
    [(4, 32), (8, 41), (16, 77), (8, 69), (20, 9)]
    """
    places = layout.split(np.arange(layout.size))
    rows = []
    for tensor in layout.tensors:
        counted = "unit" in tensor.axes
        ordered = np.moveaxis(places[tensor.name], tensor.axes.index("unit"), 0) if counted else places[tensor.name]
        rows.append((tensor.layer, ordered.reshape(len(ordered) if counted else 1, -1)))
    layers = groupby(rows, key=lambda row: (row[0], len(row[1])))
    return [np.concatenate([own for _, own in several], axis=1) for _, several in layers]


def magnified(vectors: Tensor) -> Tensor:
    """Put the logarithm of the magnitude of every weight beside it: (b, s, w) becomes (b, 2 s, w).

    With it, Deep Sets named the activation of 0.93 and not 0.89 of 120 networks of nws_small.
    """
    return torch.cat([vectors, torch.log(vectors.abs() + _SMALLEST) / 2], dim=1)


class Tokens(nn.Module):
    """Makes a token of every unit: a linear map of its weights, one for each layer, since layers differ in length.

    Parameters
    ----------
    layout
        Of the networks.
    snapshots
        How many of each network are read together.
    width
        Numbers in a token.
    """

    def __init__(self, layout: Layout, snapshots: int, width: int) -> None:
        super().__init__()
        layers = units(layout)
        self.shapes = [layer.shape for layer in layers]
        self.embeddings = nn.ModuleList(nn.Linear(2 * snapshots * weights, width) for _, weights in self.shapes)
        owner = np.empty(layout.size, dtype="int64")
        for number, weights in enumerate(weights for layer in layers for weights in layer):
            owner[weights] = number
        order = np.concatenate([layer.ravel() for layer in layers])
        self.register_buffer("owner", torch.from_numpy(owner), persistent=False)  # (w,): the token of each weight
        self.register_buffer("order", torch.from_numpy(order), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (b, s, w) to tokens (b, units, width)."""
        layers = (
            magnified(vectors)
            .index_select(2, self.order)
            .split([count * weights for count, weights in self.shapes], dim=2)
        )
        rows = (
            layer.unflatten(2, shape).transpose(1, 2).flatten(2)
            for layer, shape in zip(layers, self.shapes, strict=True)
        )
        return torch.cat([embedding(own) for embedding, own in zip(self.embeddings, rows, strict=True)], dim=1)


def perceptron(inputs: int, width: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Build a hidden layer and an output layer."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, outputs))


class WeightScores(nn.Module):
    """Scores every weight by its value, the tensor it stands in, its unit's token and a summary of its network.

    Parameters
    ----------
    layout
        Of the networks.
    snapshots
        How many of each network are read together.
    token, context
        Numbers in a token and in a summary; 0: there is none.
    width
        Hidden units, for every weight: they take most of the memory.
    """

    def __init__(self, layout: Layout, snapshots: int, token: int, context: int, width: int) -> None:
        super().__init__()
        sizes = torch.tensor([tensor.size for tensor in layout.tensors])
        places = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.register_buffer("tensor", places, persistent=False)  # (w,): the tensor of each weight
        self.value = nn.Linear(2 * snapshots, width)
        self.place = nn.Embedding(len(sizes), width)
        nn.init.zeros_(self.place.weight)  # at first, what a weight is counts more than where it is
        self.token = nn.Linear(token, width, bias=False) if token else None
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.last = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(
        self, vectors: Tensor, tokens: Tensor | None = None, owner: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Score every weight.

        Parameters
        ----------
        vectors
            Shape (b, s, w).
        tokens
            Shape (b, units, token); (b, w, token) without `owner`.
        owner
            The token of each weight, shape (w,).
        context
            Shape (b, context).

        Returns
        -------
        torch.Tensor
            Shape (b, w).
        """
        hidden = self.value(magnified(vectors).transpose(1, 2)) + self.place(self.tensor)
        if self.token is not None:
            known = self.token(tokens)
            hidden = hidden + (known if owner is None else known.index_select(1, owner))
        if self.context is not None:
            hidden = hidden + self.context(context)[:, None]
        return self.last(hidden).squeeze(2)
