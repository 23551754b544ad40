"""Set Transformer: units look at each other before what is seen is summed up."""

import torch
from torch import Tensor, nn

from nwslib.meta.networks.tokens import Tokens, WeightScores, perceptron
from nwslib.snapshots.layout import Layout


class Attention(nn.Module):
    """Lets tokens look at tokens, with several heads.

    Parameters
    ----------
    width
        Numbers in a token.
    heads
        Of which there are as many as divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.seen, self.last = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Give for each asking token (b, n, width) what it finds among those asked (b, units, width)."""
        query = self.query(asking).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.seen(asked).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.last(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention and a perceptron for each token, each behind a layer norm and added to what there was."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.each = Attention(width, heads), perceptron(width, 2 * width, width, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, units, width) to as many."""
        normed = self.before(tokens)
        tokens = tokens + self.attention(normed, normed)
        return tokens + self.each(self.between(tokens))


class SetTransformer(nn.Module):
    """Reads the set of units of a network, each by the weights into it and by the other units.

    It breaks both laws, as `nwslib.meta.networks.deepsets` does and for the same reasons: the order of a layer's units
    is also that of the next layer's weights, so a consistent permutation of hidden units changes what it says; and of a
    layer permuted alone it sees nothing.

    Parameters
    ----------
    layout
        Of the networks.
    snapshots
        How many of each network are read together.
    outputs
        Classes, or 1.
    per_weight
        Whether every weight is scored: by what it is, where it is, its unit, and the summary.
    width
        Numbers in a token.
    blocks
        How often units look at each other.
    heads
        Of the attention; divides `width`.
    dropout
        Share of the hidden units that is left out at a time in training.

    Notes
    -----
    Lee et al., "Set Transformer", ICML 2019 (arXiv:1810.00825), whose norms come before and not after, as is usual now.
    A learned token asks all units for the summary.
    """

    def __init__(
        self,
        layout: Layout,
        snapshots: int,
        outputs: int,
        per_weight: bool,
        width: int,
        blocks: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(layout, snapshots, width)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(blocks)), nn.LayerNorm(width))
        self.question = nn.Parameter(torch.randn(1, 1, width))
        self.pooling, self.after = Attention(width, heads), nn.LayerNorm(width)
        self.head = (
            WeightScores(layout, snapshots, width, width, 32)
            if per_weight
            else perceptron(width, 2 * width, outputs, dropout)
        )
        self.per_weight = per_weight

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (b, s, w) to scores (b, outputs), or (b, w)."""
        tokens = self.blocks(self.tokens(vectors))
        summary = self.after(self.pooling(self.question.expand(len(vectors), -1, -1), tokens).squeeze(1))
        return self.head(vectors, tokens, self.tokens.owner, summary) if self.per_weight else self.head(summary)


def build(
    layout: Layout,
    snapshots: int,
    outputs: int,
    *,
    per_weight: bool = False,
    width: int = 64,
    blocks: int = 2,
    heads: int = 4,
    dropout: float = 0.0,
) -> SetTransformer:
    """Build a Set Transformer on units, with first weights from torch's generator; as `SetTransformer` has it.

    Examples
    --------
    >>> import torch
    >>> from nwslib.snapshots.cnn import layout
    >>> small = layout(16, 3, 3, 1, 4, 8)
    >>> build(small, 1, 3)(torch.zeros(2, 1, small.size)).shape
    torch.Size([2, 3])
    """
    return SetTransformer(layout, snapshots, outputs, per_weight, width, blocks, heads, dropout)
