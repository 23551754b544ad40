"""The small plain CNN: as its module computes, with as many weights as those of the Small CNN Zoo."""

import pytest
import torch

from nwslib.population.networks import smallcnn


@pytest.mark.parametrize("side", [8, 7])
def test_stacked_networks_compute_what_their_modules_compute(side):
    layout = smallcnn.layout(channels=3, width=4, depth=2, classes=5)
    weights = smallcnn.initial_weights(layout, torch.tensor([1, 2, 3]))
    weights += 0.1 * torch.randn(weights.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = torch.rand(3, 7, side, side, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tensors = {t.name: weights[:, layout.slices[t.name]].unflatten(1, t.shape) for t in layout.tensors}
    found = smallcnn.outputs(tensors, images)
    alone = [smallcnn.to_module(layout, weights[k])(images[k].permute(0, 3, 1, 2)) for k in range(3)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=0, atol=1e-12)
    assert found.std() > 0.05


def test_a_row_says_the_layout():
    found = smallcnn.classifier({"width": 16, "depth": 3}, channels=1, classes=10)
    assert found.size == 4970
    shapes = [tensor.shape for tensor in found.tensors if tensor.kind == "kernel"]
    assert shapes == [(16, 1, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3), (10, 16)]


def test_each_network_starts_from_its_own_seed():
    layout = smallcnn.layout(channels=1, width=3, depth=1, classes=2)
    found = smallcnn.initial_weights(layout, torch.tensor([5, 6]))
    assert torch.equal(found[1], smallcnn.initial_weights(layout, torch.tensor([6]))[0])
    assert not torch.equal(found[0], found[1])
