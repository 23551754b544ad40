"""ResNet-8: as its module computes, with the weights of the published network."""

import torch

from nwslib.population.networks import resnet


def _tensors(weights):
    layout = resnet.layout()
    return {t.name: weights[:, layout.slices[t.name]].unflatten(1, t.shape) for t in layout.tensors}


def test_it_has_as_many_weights_as_the_published_one():
    layout = resnet.classifier({}, channels=3, classes=10)
    assert layout.size == 78_042
    module = resnet.to_module(layout, torch.zeros(layout.size))
    assert sum(parameter.numel() for parameter in module.parameters()) == 78_042
    convolutions = [one for one in module.modules() if isinstance(one, torch.nn.Conv2d)]
    assert len(convolutions) == 9
    assert all(one.bias is None for one in convolutions)


def test_stacked_networks_compute_what_their_modules_compute():
    layout = resnet.layout()
    weights = resnet.initial_weights(layout, torch.tensor([1, 2]))
    weights += 0.1 * torch.randn(weights.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, 3, 8, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = resnet.outputs(_tensors(weights), images)
    alone = [resnet.to_module(layout, weights[k])(images[k].permute(0, 3, 1, 2)) for k in range(2)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=0, atol=1e-11)
    assert found.std() > 0.1


def test_a_skip_reads_what_its_block_reads():
    """Where the branch of a block gives zero, what is left is its skip, and in the first block its input."""
    weights = resnet.initial_weights(resnet.layout(), torch.tensor([3]))
    tensors = _tensors(weights)
    images = torch.rand(1, 2, 8, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    before = resnet.outputs(tensors, images)
    for kind in ("gamma", "beta"):
        tensors["block1.conv2." + kind] = torch.zeros_like(tensors["block1.conv2." + kind])
    without = resnet.outputs(tensors, images)
    tensors["block1.conv1.kernel"] = torch.rand_like(tensors["block1.conv1.kernel"])
    assert torch.equal(resnet.outputs(tensors, images), without)
    assert not torch.allclose(before, without)
    for kind in ("gamma", "beta"):
        tensors["block3.skip." + kind] = torch.zeros_like(tensors["block3.skip." + kind])
    assert not torch.allclose(resnet.outputs(tensors, images), without)


def test_initial_weights_are_those_of_pytorch_s_layers():
    layout = resnet.layout()
    found = dict(layout.split(resnet.initial_weights(layout, torch.tensor([5, 6])).numpy()))
    assert (found["block2.skip.gamma"] == 1).all()
    assert (found["block2.skip.beta"] == 0).all()
    for name, sources in (("stem.kernel", 27), ("block3.conv2.kernel", 576), ("block2.skip.kernel", 16)):
        assert 0.98 < abs(found[name]).max() * sources**0.5 < 1
    assert 0.8 < abs(found["output.bias"]).max() * 8 < 1
    assert (found["stem.kernel"][0] != found["stem.kernel"][1]).all()
