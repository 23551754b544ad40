"""A multilayer perceptron on statistics of every tensor."""

import torch
from torch import Tensor, nn

from nwslib.meta.networks.tokens import perceptron
from nwslib.snapshots.layout import Layout

PERCENTILES = (1, 25, 50, 75, 99)  # as in `nwslib.meta.views`


class Statistics(nn.Module):
    """Reads mean, variance, skewness and percentiles of every tensor of a network.

    It obeys the first law: permuting hidden units consistently changes nothing. It breaks the second: an inconsistent
    permutation changes nothing either, nor does any other order of the weights of a tensor.

    Parameters
    ----------
    layout
        Of the networks.
    snapshots
        How many of each network are read together.
    outputs
        Classes, or 1.
    width
        Hidden units.
    dropout
        Share of them that is left out at a time in training.

    Notes
    -----
    Unterthiner et al., "Predicting neural network accuracy from weights", 2020 (arXiv:2002.11448); with a perceptron:
    Lim et al., "The empirical impact of neural parameter symmetries, or lack thereof", NeurIPS 2024 (arXiv:2405.20231).
    """

    def __init__(self, layout: Layout, snapshots: int, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.sizes = [tensor.size for tensor in layout.tensors]
        features = snapshots * len(self.sizes) * (4 + len(PERCENTILES))
        self.body = nn.Sequential(
            nn.BatchNorm1d(features, affine=False),
            nn.Linear(features, width),
            nn.GELU(),
            nn.Dropout(dropout),
            perceptron(width, width, outputs, dropout),
        )

    def prepare(self, vectors: Tensor) -> Tensor:
        """Sum up vectors (b, s, w) once, before training: (b, features)."""
        return torch.cat([_summed_up(tensor) for tensor in vectors.split(self.sizes, dim=2)], dim=2).flatten(1)

    def read(self, features: Tensor) -> Tensor:
        """Map features (b, features) to scores (b, outputs)."""
        return self.body(features)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (b, s, w) to scores (b, outputs)."""
        return self.read(self.prepare(vectors))


def build(
    layout: Layout,
    snapshots: int,
    outputs: int,
    *,
    per_weight: bool = False,
    width: int = 128,
    dropout: float = 0.1,
) -> Statistics:
    """Build a perceptron on statistics, with first weights from torch's generator; as `Statistics` has it.

    Raises
    ------
    ValueError
        If every weight is to be scored: statistics know of none.

    Examples
    --------
    >>> import torch
    >>> from nwslib.snapshots.cnn import layout
    >>> small = layout(16, 3, 3, 1, 4, 8)
    >>> build(small, 1, 3)(torch.ones(2, 1, small.size)).shape
    torch.Size([2, 3])
    """
    if per_weight:
        raise ValueError("statistics of a tensor say nothing of one weight: choose another network")
    return Statistics(layout, snapshots, outputs, width, dropout)


def _summed_up(weights: Tensor) -> Tensor:
    """Give mean, variance and its logarithm, skewness and percentiles of weights (b, s, w): (b, s, 9)."""
    mean = weights.mean(dim=2, keepdim=True)
    rest = weights - mean
    variance = rest.square().mean(dim=2, keepdim=True)
    constant = variance < 1e-12
    skewness = (rest**3).mean(dim=2, keepdim=True) / variance.where(~constant, 1).pow(1.5)
    moments = [mean, variance, torch.log(variance + 1e-8), skewness.masked_fill(constant, 0)]
    return torch.cat([*moments, _percentiles(weights)], dim=2)


def _percentiles(weights: Tensor) -> Tensor:
    """Interpolate between the sorted weights, as torch.quantile does, which takes no more than 16 million of them."""
    ordered = weights.sort(dim=2).values
    places = torch.tensor(PERCENTILES, device=weights.device) / 100 * (weights.shape[2] - 1)
    lower = places.floor().long()
    upper = (lower + 1).clamp(max=weights.shape[2] - 1)
    return torch.lerp(ordered[..., lower], ordered[..., upper], (places - lower).to(weights.dtype))
