"""Deep Sets: every unit is looked at alone, and what is seen is added up."""

from torch import Tensor, nn

from nwslib.meta.networks.tokens import Tokens, WeightScores, perceptron
from nwslib.snapshots.layout import Layout


class DeepSets(nn.Module):
    """Reads the set of units of a network, each by the weights into it.

    It breaks both laws. The order of a layer's units alone changes nothing; but it is also the order in which the
    weights of the next layer's units come, so a consistent permutation of hidden units changes what it says. And an
    inconsistent permutation changes nothing, although the network computes something else: which unit of the next layer
    reads which is lost.

    Parameters
    ----------
    layout
        Of the networks.
    snapshots
        How many of each network are read together.
    outputs
        Classes, or 1.
    per_weight
        Whether every weight is scored: by what it is, where it is, its unit, and the sum.
    width
        Numbers in a token.
    dropout
        Share of the hidden units that is left out at a time in training.

    Notes
    -----
    Zaheer et al., "Deep Sets", NeurIPS 2017 (arXiv:1703.06114).
    """

    def __init__(
        self, layout: Layout, snapshots: int, outputs: int, per_weight: bool, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.tokens = Tokens(layout, snapshots, width)
        self.each = nn.Sequential(
            nn.LayerNorm(width), nn.GELU(), perceptron(width, 2 * width, width, dropout), nn.GELU()
        )
        self.after = nn.LayerNorm(width)
        self.head = (
            WeightScores(layout, snapshots, width, width, 32)
            if per_weight
            else perceptron(width, 2 * width, outputs, dropout)
        )
        self.per_weight = per_weight

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (b, s, w) to scores (b, outputs), or (b, w)."""
        tokens = self.each(self.tokens(vectors))
        total = self.after(tokens.mean(dim=1))  # the sum, in a size that does not grow with the units
        return self.head(vectors, tokens, self.tokens.owner, total) if self.per_weight else self.head(total)


def build(
    layout: Layout,
    snapshots: int,
    outputs: int,
    *,
    per_weight: bool = False,
    width: int = 128,
    dropout: float = 0.0,
) -> DeepSets:
    """Build Deep Sets on units, with first weights from torch's generator; as `DeepSets` has it.

    Examples
    --------
    >>> import torch
    >>> from nwslib.snapshots.cnn import layout
    >>> small = layout(16, 3, 3, 1, 4, 8)
    >>> build(small, 1, 3)(torch.zeros(2, 1, small.size)).shape
    torch.Size([2, 3])
    """
    return DeepSets(layout, snapshots, outputs, per_weight, width, dropout)
