"""A family of networks of your own, trained side by side, kept and read like the others: radial basis functions.

    python examples/own_family.py

This module is the family: `classifier`, `initial_weights`, `outputs`, and two names that say how they are to be called.
"""

import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import torch

from nwslib import meta, snapshots, space
from nwslib.population import draws, images, networks, operators, train
from nwslib.snapshots.layout import Layout, Tensor

FORWARD, SCHEDULE = (), "constant"  # columns of the design that `outputs` takes; the learning rate over time


def classifier(row: Mapping[str, Any], channels: int, classes: int) -> Layout:
    """Lay out the weights: the centre of each unit in the space of images, its sharpness, and a dense output."""
    pixels, units = (row["image_size"], row["image_size"], channels), row["width"]
    centres = Tensor("dense1", "dense", "kernel", ("unit", "row", "column", "source"), (units, *pixels))
    sharpness = Tensor("dense1", "dense", "bias", ("unit",), (units,))
    kernel = Tensor("output", "dense", "kernel", ("unit", "source"), (classes, units))
    return Layout("rbf", (centres, sharpness, kernel, Tensor("output", "dense", "bias", ("unit",), (classes,))))


def initial_weights(layout: Layout, seeds: torch.Tensor) -> torch.Tensor:
    """Draw centres around an image of nothing, from the seed of each network alone: (m, w)."""
    return torch.stack([draws.initial_weights(layout, seed, "glorot_normal", seeds.device) for seed in seeds.tolist()])


def outputs(tensors: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """Compute the logits of m networks, (m, b, classes), from images (m, b, y, x, c)."""
    distances = torch.cdist(inputs.flatten(2), tensors["dense1.kernel"].flatten(2))
    responses = (1 - distances * tensors["dense1.bias"].exp()[:, None] / 4).exp()
    return operators.dense(responses, tensors["output.kernel"], tensors["output.bias"])


def main() -> None:
    """Name the family, train networks of it with more or less wrong labels, and read how wrong they were."""
    space.FAMILIES["rbf", "classify"] = space.FAMILIES["mlp", "classify"].renamed("rbf")
    space.COLLECTIONS["noisy_rbf"] = {"family": "rbf", "task": "classify"}
    networks.FAMILIES["rbf"] = sys.modules[__name__]
    slow = {"learning_rate": [0.01, 0.03], "epochs": 10}
    design = space.sample("noisy_rbf", 80, seed=0, dataset="digits", image_size=14, width=16, **slow)
    with tempfile.TemporaryDirectory() as folder:
        snapshots.write(folder, train(design, images.for_design(design)))
        population = snapshots.open_population(folder)
        reader = meta.StatisticsReader().fit(population, "label_noise")
        print(f"R2 of the noise in the labels, read from weights: {reader.score(population):.2f}")


if __name__ == "__main__":
    main()
