"""A multilayer perceptron on the whole weight vector."""

from torch import Tensor, nn

from nwslib.meta.networks.tokens import WeightScores
from nwslib.snapshots.layout import Layout


class Flat(nn.Module):
    """Reads the weight vector as a list of numbers, each at its place.

    It breaks the first law: permuting hidden units consistently changes what it says, although the networks compute the
    same. Seeing networks permuted while it learns (`nwslib.meta.NetworkReader`, ``augmented``) makes up for some of it.
    It obeys the second: an inconsistent permutation changes what it says, too.

    Parameters
    ----------
    layout
        Of the networks.
    snapshots
        How many of each network are read together.
    outputs
        Classes, or 1.
    per_weight
        Whether every weight is scored: by what it is, where it is, and a summary of its network.
    width
        Hidden units.
    dropout
        Share of them that is left out at a time in training.
    """

    def __init__(
        self, layout: Layout, snapshots: int, outputs: int, per_weight: bool, width: int, dropout: float
    ) -> None:
        super().__init__()
        first = nn.Linear(snapshots * layout.size, width)
        self.body = nn.Sequential(
            nn.Flatten(),
            first,
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.head = WeightScores(layout, snapshots, 0, width, 32) if per_weight else nn.Linear(width, outputs)
        self.per_weight = per_weight

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (b, s, w) to scores (b, outputs), or (b, w)."""
        hidden = self.body(vectors)
        return self.head(vectors, context=hidden) if self.per_weight else self.head(hidden)


def build(
    layout: Layout,
    snapshots: int,
    outputs: int,
    *,
    per_weight: bool = False,
    width: int = 256,
    dropout: float = 0.2,
) -> Flat:
    """Build a perceptron on the whole vector, with first weights from torch's generator; as `Flat` has it.

    Examples
    --------
    >>> import torch
    >>> from nwslib.snapshots.cnn import layout
    >>> small = layout(16, 3, 3, 1, 4, 8)
    >>> build(small, 1, 3)(torch.zeros(2, 1, small.size)).shape
    torch.Size([2, 3])
    """
    return Flat(layout, snapshots, outputs, per_weight, width, dropout)
