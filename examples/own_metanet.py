"""A network of your own that reads networks, in the league beside those that are there.

    python examples/own_metanet.py [NETWORKS]

It sorts the weights of every tensor and looks at some of them: what it says cannot depend on the order of the units.
"""

import sys
import tempfile

import torch
from torch import Tensor, nn

from nwslib import meta, snapshots, space
from nwslib.meta.league import Task, league
from nwslib.population import images, train
from nwslib.snapshots.layout import Layout


class Quantiles(nn.Module):
    """Reads evenly spaced quantiles of each tensor's weights, at each snapshot."""

    def __init__(self, layout: Layout, snapshots: int, outputs: int, width: int, count: int = 9) -> None:
        super().__init__()
        self.slices = list(layout.slices.values())
        self.register_buffer("shares", torch.linspace(0, 1, count))
        self.head = nn.Sequential(nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, outputs))
        self.head(torch.zeros(1, snapshots * len(self.slices) * count))  # fixes the shape of the lazy layer

    def forward(self, vectors: Tensor) -> Tensor:
        """Map networks (b, s, w) to scores (b, outputs)."""
        every = [torch.quantile(vectors[..., place], self.shares, dim=-1) for place in self.slices]
        return self.head(torch.cat(every).permute(1, 2, 0).flatten(1))


def quantiles(layout: Layout, snapshots: int, outputs: int, *, per_weight: bool = False, width: int = 64) -> nn.Module:
    """Build the network, as every module of `nwslib.meta.networks` does."""
    if per_weight:
        raise ValueError("quantiles tell nothing of a single weight: read a property, not masks")
    return Quantiles(layout, snapshots, outputs, width)


def main(networks: int) -> None:
    """Train classifiers whose labels are more or less wrong, and read from their weights how well they classify."""
    design = space.sample("noisy_mlp", networks, seed=0, dataset="digits", image_size=14, width=16)
    with tempfile.TemporaryDirectory() as folder:
        snapshots.write(folder, train(design, images.for_design(design)))
        task = Task("test accuracy, digits", snapshots.open_population(folder), "test_accuracy", score="R2")
        readers = {"quantiles": meta.NetworkReader(network=quantiles), "statistics": meta.StatisticsReader()}
        print(league([task], readers)["score"].squeeze("task").to_series().round(2).to_string())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 160)
