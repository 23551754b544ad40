"""The deep meta-classifier on whole weight vectors, one channel for each snapshot."""

from dataclasses import replace
from itertools import pairwise

from torch import Tensor, nn

from nwslib.meta.networks.dmc import flat_size, long_stages, short_stages
from nwslib.meta.networks.tokens import WeightScores
from nwslib.snapshots.layout import Layout

_KERNEL = 5
_PUBLISHED = 256  # channels of the widest convolution
_LONGEST = 40_000  # weights from which on the long form is used
_DENSE = (1024, 1024, 64)
_PER_WEIGHT = 4  # convolutions without a pool


class WholeDMC(nn.Module):
    """Reads the weight vector as a signal: neighbours in the vector are seen together.

    It breaks the first law: permuting hidden units consistently changes what it says, although the networks compute the
    same. It obeys the second: an inconsistent permutation changes what it says, too.

    The convolutions and pools are those of the published network, of which `nwslib.meta.networks.dmc` has the original
    on one snapshot: its short form up to 40,000 weights, its long form beyond. The dense layers are three of its five,
    and first weights are torch's own.

    Parameters
    ----------
    layout
        Of the networks.
    snapshots
        How many of each network are read together: channels of the signal.
    outputs
        Classes, or 1.
    per_weight
        Whether every weight is scored: then four convolutions follow each other without pools, so that the length
        stays, and a weight is scored by what is around it.
    width
        Channels of the widest convolution; those of the others, and the dense layers, are in proportion.
    dropout
        Share of the hidden units of the dense layers that is left out at a time in training.

    Notes
    -----
    Eilertsen et al., ECAI 2020 (arXiv:2002.05688).
    """

    def __init__(
        self, layout: Layout, snapshots: int, outputs: int, per_weight: bool, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.per_weight = per_weight
        if per_weight:
            channels = [snapshots, *[max(1, width // 8)] * _PER_WEIGHT]
            self.body = nn.Sequential(
                *(
                    nn.Sequential(nn.Conv1d(before, after, _KERNEL, padding=_KERNEL // 2), nn.GELU())
                    for before, after in pairwise(channels)
                )
            )
            self.head = WeightScores(layout, snapshots, channels[-1], 0, 32)
            return
        stages = short_stages(layout.size) if layout.size < _LONGEST else long_stages()
        stages = [replace(stage, channels=max(1, stage.channels * width // _PUBLISHED)) for stage in stages]
        layers: list[nn.Module] = []
        before = snapshots
        for stage in stages:
            layers += [nn.Conv1d(before, stage.channels, _KERNEL, padding=_KERNEL // 2), nn.ReLU()]
            layers += [nn.BatchNorm1d(stage.channels), *([nn.MaxPool1d(2)] if stage.pool else [])]
            before = stage.channels
        layers.append(nn.Flatten())
        before = flat_size(layout.size, stages)
        for units in _DENSE:
            units = max(1, units * width // _PUBLISHED)
            layers += [nn.Linear(before, units), nn.ReLU(), nn.BatchNorm1d(units), nn.Dropout(dropout)]
            before = units
        self.body, self.head = nn.Sequential(*layers), nn.Linear(before, outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (b, s, w) to scores (b, outputs), or (b, w)."""
        hidden = self.body(vectors)
        if not self.per_weight:
            return self.head(hidden)
        return self.head(vectors, hidden.transpose(1, 2))


def build(
    layout: Layout,
    snapshots: int,
    outputs: int,
    *,
    per_weight: bool = False,
    width: int = _PUBLISHED,
    dropout: float = 0.5,
) -> WholeDMC:
    """Build the deep meta-classifier on whole vectors, with first weights from torch's generator; as `WholeDMC` has it.

    Raises
    ------
    ValueError
        If the vector is too short for the pools.

    Examples
    --------
    >>> import torch
    >>> from nwslib.snapshots.cnn import layout
    >>> small = layout(16, 3, 3, 1, 4, 8)
    >>> build(small, 1, 3, width=32)(torch.zeros(2, 1, small.size)).shape
    torch.Size([2, 3])
    """
    if not per_weight and not flat_size(layout.size, short_stages(layout.size)):
        raise ValueError(f"vectors of {layout.size} weights are too short for this network. The shortest it takes: 16.")
    return WholeDMC(layout, snapshots, outputs, per_weight, width, dropout)
