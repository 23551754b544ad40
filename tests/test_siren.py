"""Sine networks: the gradient, and what belongs to a network alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nwslib.population.fitting import coordinates
from nwslib.population.networks import siren

ARCHITECTURES = {"usual": (1, 32, 2, 9), "narrow, deep, colour": (3, 5, 3, 5), "wide, flat": (1, 40, 1, 4)}


def _problem(name: str, m: int = 3) -> tuple:
    """Give a layout, weights (m, w), inputs and images, float64."""
    channels, width, depth, side = ARCHITECTURES[name]
    layout = siren.layout(channels, width, depth)
    weights = siren.initial_weights(layout, torch.arange(m))
    images = torch.rand(m, side**2, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return layout, weights, coordinates(side), images


def _autograd(layout, weights: Tensor, inputs: Tensor, images: Tensor, frequency: float) -> tuple[Tensor, Tensor]:
    leaf = weights.clone().requires_grad_()
    tensors = {one.name: leaf[:, layout.slices[one.name]].unflatten(1, one.shape) for one in layout.tensors}
    losses = (siren.outputs(tensors, inputs, frequency) - images).square().mean((1, 2))
    losses.sum().backward()
    return losses.detach(), leaf.grad


@pytest.mark.parametrize("kind", ["compiled", "stacked"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradient_is_that_of_autograd(name: str, kind: str) -> None:
    layout, weights, inputs, images = _problem(name)
    if kind == "compiled":
        program = siren.gradient(layout, inputs, images, frequency=20.0)
    else:
        program = siren.stacked(layout, inputs, images, frequency=20.0)
    found = torch.empty_like(weights)
    program(weights, found)
    losses = program(weights, found)  # nothing of an earlier step is left in its buffers
    expected_losses, expected = _autograd(layout, weights, inputs, images, 20.0)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * expected.abs().max().item())


def test_single_precision_errs_as_little_as_pytorch_does() -> None:
    layout, weights, inputs, images = _problem("usual")
    _, exact = _autograd(layout, weights, inputs, images, 30.0)
    ours = torch.empty_like(weights, dtype=torch.float32)
    siren.gradient(layout, inputs.float(), images.float())(weights.float(), ours)
    _, theirs = _autograd(layout, weights.float(), inputs.float(), images.float(), 30.0)
    assert 0 < (ours - exact).abs().max() < 4 * (theirs - exact).abs().max()


def test_neighbours_change_no_bit() -> None:
    layout, weights, inputs, images = _problem("usual")
    crowd, alone = torch.empty_like(weights), torch.empty_like(weights[:1])
    losses = siren.gradient(layout, inputs, images)(weights, crowd)
    loss = siren.gradient(layout, inputs, images[2:])(weights[2:].clone(), alone)
    assert torch.equal(alone[0], crowd[2])
    assert loss[0] == losses[2]


def test_module_gives_the_same_image() -> None:
    layout, weights, inputs, _ = _problem("narrow, deep, colour")
    tensors = {one.name: weights[:, layout.slices[one.name]].unflatten(1, one.shape) for one in layout.tensors}
    expected = siren.outputs(tensors, inputs, 20.0)
    for k in range(len(weights)):
        module = siren.to_module(layout, weights[k], frequency=20.0)
        torch.testing.assert_close(module(inputs).detach(), expected[k])


def test_initial_weights_follow_the_bounds_of_the_paper_and_belong_to_their_seed() -> None:
    layout = siren.layout(1, width=64, depth=2)
    drawn = siren.initial_weights(layout, torch.tensor([3, 4]), frequency=10.0)
    assert torch.equal(siren.initial_weights(layout, torch.tensor([4]), frequency=10.0)[0], drawn[1])
    bounds = {"dense1.kernel": 1 / 2, "dense2.kernel": (6 / 64) ** 0.5 / 10, "output.kernel": (6 / 64) ** 0.5 / 10}
    for name, bound in (bounds | {"dense1.bias": 2**-0.5, "dense2.bias": 64**-0.5}).items():
        largest = drawn[:, layout.slices[name]].abs().max().item()
        assert 0.9 * bound < largest < bound


def test_a_sine_layer_varies_its_pixels_as_much_as_the_paper_says() -> None:
    layout = siren.layout(1)
    tensors = siren.initial_weights(layout, torch.arange(20))
    kernel = tensors[:, layout.slices["dense2.kernel"]].unflatten(1, (32, 32))
    angles = 30 * np.sqrt(32 / 2) * kernel.std()  # of sines whose mean square is 1/2: deviation 1 (section 3.2)
    assert abs(angles - 1) < 0.05


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="width must be a whole number, at least 1, not 0"):
        siren.layout(1, width=0)
