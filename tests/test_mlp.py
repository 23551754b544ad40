"""The multilayer perceptron: as its module computes, with the weights that its layout says."""

import torch

from nwslib.population.networks import mlp


def test_stacked_networks_compute_what_their_modules_compute():
    layout = mlp.layout(6, 3, width=5, depth=2, classes=4)
    weights = mlp.initial_weights(layout, torch.tensor([1, 2, 3]))
    weights += 0.1 * torch.randn(weights.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = torch.rand(3, 7, 6, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tensors = {t.name: weights[:, layout.slices[t.name]].unflatten(1, t.shape) for t in layout.tensors}
    found = mlp.outputs(tensors, images)
    alone = [mlp.to_module(layout, weights[k])(images[k].permute(0, 3, 1, 2)) for k in range(3)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=0, atol=1e-12)
    assert found.std() > 0.1


def test_a_row_says_the_layout():
    found = mlp.classifier({"image_size": 28, "width": 32, "depth": 1}, channels=1, classes=10)
    assert [t.name for t in found.tensors] == ["dense1.kernel", "dense1.bias", "output.kernel", "output.bias"]
    assert found.tensors[0].shape == (32, 28, 28, 1)
    assert found.size == 784 * 32 + 32 + 32 * 10 + 10


def test_each_network_starts_from_its_own_seed():
    layout = mlp.layout(4, 1, width=3, depth=1, classes=2)
    found = mlp.initial_weights(layout, torch.tensor([5, 6]))
    assert torch.equal(found[1], mlp.initial_weights(layout, torch.tensor([6]))[0])
    assert not torch.equal(found[0], found[1])
    assert found[:, layout.slices["dense1.bias"]].abs().max() == 0
