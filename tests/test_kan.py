import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from nwslib import space
from nwslib.population import fitting, images, train
from nwslib.population.networks import kan
from nwslib.snapshots.layout import Layout

SMALL = {"width": 5, "depth": 2, "grid": 4, "order": 3}


def split(layout, vectors):
    return {t.name: vectors[:, layout.slices[t.name]].unflatten(1, t.shape) for t in layout.tensors}


def random_networks(layout, networks=3):
    """Draw networks whose weights are all of about one size, so that none is lost beside another."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(networks, layout.size, generator=generator, dtype=torch.float64) * 0.5


def coordinates(side):
    places = (torch.arange(side) + 0.5) / side * 2 - 1
    return torch.stack(torch.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2)


def descend(gradient, weights, steps, rate):
    """Fit with Adam, written out; give the last losses."""
    found, first, second = (torch.zeros_like(weights) for _ in range(3))
    for step in range(1, steps + 1):
        gradient(weights, found)
        first.lerp_(found, 0.1)
        second.lerp_(found.square(), 0.001)
        weights -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return gradient(weights, found)


@pytest.mark.parametrize(("grid", "order"), [(5, 3), (8, 1), (3, 2), (1, 4)])
def test_the_basis_is_that_of_scipy(grid, order):
    x = torch.linspace(-1 - 2 * order / grid - 1, 1 + 2 * order / grid + 1, 997, dtype=torch.float64)
    knots = -1 + 2 / grid * np.arange(-order, grid + order + 1)
    found = kan.basis(x, grid, order).numpy()
    assert found.shape == (grid + order, 997)
    for k in range(grid + order):
        bump = BSpline.basis_element(knots[k : k + order + 2], extrapolate=False)
        np.testing.assert_allclose(found[k], np.nan_to_num(bump(x.numpy())), atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_basis_adds_up_to_1_on_the_grid_and_is_0_far_from_it(order):
    inside = torch.linspace(-1, 1, 101, dtype=torch.float64)
    assert kan.basis(inside, 5, order).sum(0).numpy() == pytest.approx(1)
    reach = 1 + 2 * order / 5
    assert not kan.basis(torch.tensor([-reach - 1e-5, reach + 1e-5, 9.0, -9.0]), 5, order).any()
    assert kan.basis(torch.tensor([reach - 0.1]), 5, order).any()


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_gradients_are_those_of_finite_differences(order):
    # No point lies on a knot, where a spline of order 1 has no derivative.
    x = torch.linspace(-1.93, 1.87, 12, dtype=torch.float64).reshape(2, 6, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kan.basis(x[..., 0], 5, order), x)
    assert torch.autograd.gradcheck(lambda x: kan.expand(x, 5, order), x)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_rebuilt_module_computes_what_the_crowd_computes(order):
    architecture = {**SMALL, "order": order}
    layout = kan.layout(3, **architecture)
    vectors, inputs = random_networks(layout), coordinates(6).double()
    found = kan.outputs(split(layout, vectors), inputs, order=order)
    assert found.shape == (3, 36, 3)
    for vector, one in zip(vectors, found, strict=True):
        module = kan.to_module(layout, vector, **architecture)
        assert torch.allclose(module(inputs), one, atol=1e-12)
        assert sum(parameter.numel() for parameter in module.parameters()) == layout.size


def test_images_are_stretched_and_each_network_reads_its_own():
    row = {"image_size": 4, **SMALL}
    layout = kan.classifier(row, channels=3, classes=7)
    vectors = random_networks(layout)
    batch = torch.rand(3, 5, 4, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = kan.outputs(split(layout, vectors), batch)
    stretched = kan.outputs(split(layout, vectors), 2 * batch.flatten(2) - 1)
    assert torch.equal(found, stretched)
    for vector, its, one in zip(vectors, batch, found, strict=True):
        assert torch.allclose(kan.to_module(layout, vector)(its.permute(0, 3, 1, 2)), one, atol=1e-12)


def test_shared_inputs_are_those_of_every_network():
    layout = kan.layout(1, **SMALL)
    tensors, inputs = split(layout, random_networks(layout)), coordinates(5).double()
    assert torch.allclose(kan.outputs(tensors, inputs), kan.outputs(tensors, inputs.expand(3, -1, -1)), atol=1e-13)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gradient_is_that_of_the_module(channels):
    layout = kan.layout(channels, **SMALL)
    vectors, inputs = random_networks(layout), coordinates(6).double()
    targets = torch.rand(3, 36, channels, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = torch.full_like(vectors, np.nan)
    losses = kan.gradient(layout, inputs, targets, **SMALL)(vectors, found)
    for vector, target, loss, one in zip(vectors, targets, losses, found, strict=True):
        module = kan.to_module(layout, vector)
        expected = (module(inputs) - target).square().mean()
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert torch.allclose(torch.cat([p.grad.flatten() for p in module.parameters()]), one, atol=1e-13)


@pytest.mark.parametrize(("channels", "width", "depth", "grid"), [(1, 20, 1, 5), (3, 5, 3, 2)])
def test_the_compiled_gradient_is_the_stacked_one(channels, width, depth, grid):
    layout = kan.layout(channels, width, depth, grid)
    vectors, inputs = random_networks(layout).float(), coordinates(7)  # 49 pixels: the last tile is not full
    targets = torch.rand(3, 49, channels, generator=torch.Generator().manual_seed(2))
    found, expected = torch.full_like(vectors, np.nan), torch.empty_like(vectors, dtype=torch.float64)
    losses = kan.gradient(layout, inputs, targets, order=3)(vectors, found)
    exact = kan.stacked(layout, inputs.double(), targets.double())(vectors.double(), expected)
    assert torch.allclose(losses.double(), exact, rtol=1e-5)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_alone_is_the_network_in_a_crowd(dtype):
    layout = kan.layout(1, **SMALL)
    seeds = torch.tensor([5, 2**40, 7, 8])
    weights = kan.initial_weights(layout, seeds).to(dtype)
    assert torch.equal(kan.initial_weights(layout, seeds[1:2]).to(dtype), weights[1:2])
    targets = torch.rand(4, 36, 1, generator=torch.Generator().manual_seed(2)).to(dtype)
    crowd, alone = weights.clone(), weights[1:2].clone()
    inputs = coordinates(6).to(dtype)
    descend(kan.gradient(layout, inputs, targets, **SMALL), crowd, 10, 1e-2)
    descend(kan.gradient(layout, inputs, targets[1:2], **SMALL), alone, 10, 1e-2)
    if dtype == torch.float32:  # compiled
        assert torch.equal(crowd[1], alone[0])
    assert torch.allclose(crowd[1], alone[0], atol=1e-12)
    assert (crowd[1] - weights[1]).abs().max() > 1e-3


def test_hidden_units_may_be_permuted_with_all_their_edges():
    layout = kan.layout(1, **SMALL)
    tensors, inputs = split(layout, random_networks(layout)), coordinates(5).double()
    order = torch.tensor([2, 0, 1, 4, 3])
    half = {name: value[:, order] if name.startswith("kan1") else value for name, value in tensors.items()}
    whole = {name: value[:, :, order] if name.startswith("kan2") else value for name, value in half.items()}
    assert torch.allclose(kan.outputs(whole, inputs), kan.outputs(tensors, inputs), atol=1e-12)
    assert not torch.allclose(kan.outputs(half, inputs), kan.outputs(tensors, inputs), atol=1e-2)


def test_networks_start_as_the_authors_start_them():
    layout = kan.layout(10, inputs=64)
    tensors = split(layout, kan.initial_weights(layout, torch.arange(4)))
    for layer, (units, sources) in {"kan1": (32, 64), "output": (10, 32)}.items():
        bound = (6 / (units + sources)) ** 0.5
        base = tensors[f"{layer}.base"]
        assert base.abs().max() < bound
        assert base.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert (tensors[f"{layer}.spline"] == 1).all()
        coefficients = tensors[f"{layer}.coefficients"]
        assert (coefficients.mean().item(), coefficients.std().item()) == pytest.approx((0, 0.1), abs=0.003)


def test_layouts_name_every_edge():
    layout = kan.layout(3, **SMALL)
    assert Layout.from_json(layout.to_json()) == layout
    assert {t.layer: t.shape for t in layout.tensors if t.kind == "coefficients"} == {
        "kan1": (5, 2, 7),
        "kan2": (5, 5, 7),
        "output": (3, 5, 7),
    }
    with pytest.raises(ValueError, match="order must be a whole number, at least 1, not 0"):
        kan.layout(1, order=0)


def test_an_image_network_is_fitted_far_beyond_the_best_constant():
    design = space.sample("kan_image", 2, seed=1, dataset="digits", image_size=16, width=8, grid=8, steps=250)
    sets = images.for_design(design)
    for image, one in enumerate(train(design, sets, device="cpu", progress=False)):
        pixels = sets["digits"].train_images[image, ..., :1].flatten(0, 1).double() / 255
        constant = -10 * math.log10(pixels.var(correction=0))
        psnr = one["psnr"].item()
        assert psnr > constant + 7
        layout = Layout.from_json(one.attrs["layout"])
        module = kan.to_module(layout, torch.from_numpy(one["weights"].values[0, -1]).double())
        error = (module(fitting.coordinates(16)) - pixels).square().mean().item()
        assert -10 * math.log10(error) == pytest.approx(psnr, abs=1e-3)


def test_a_classifier_learns_digits():
    fixed = {"width": 8, "epochs": 4, "label_noise": [0.0], "learning_rate": [3e-3]}
    design = space.sample("noisy_kan", 2, seed=1, dataset="digits", image_size=16, **fixed)
    sets = images.for_design(design)
    tests = sets["digits"].test_images[..., :1].permute(0, 3, 1, 2).float() / 255
    for one in train(design, sets, device="cpu", progress=False):
        stored = one["test_accuracy"].values[0]
        assert stored[-1] > 0.7 > 0.3 > stored[0]
        module = kan.to_module(Layout.from_json(one.attrs["layout"]), one["weights"].values[0, -1])
        found = (module(tests).argmax(1) == sets["digits"].test_labels).float().mean().item()
        assert found == pytest.approx(stored[-1], abs=1 / 360)
