"""A network rebuilt from the population computes what the population says it did."""

import pytest
import torch

from nwslib import snapshots, space
from nwslib.population import images, rebuild, train

VARIED = ("activation", "initialization", "optimizer", "dataset", "augmentation")
TOLERANCE = 2e-4  # 2 in 10,000


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """Train networks of every activation, initialisation and optimiser, in two architectures, on two image sets."""
    design = space.sample("nws_small", 14, seed=1, dataset=["digits", "textures"], batch_size=32, learning_rate=0.005)
    design["depth_conv"][-3:], design["filter_size"][-3:] = 5, 5
    for number, name in enumerate(VARIED[:3]):
        values = space.VOCABULARY[name]
        design[name] = ("model", [values[(row // (number + 1)) % len(values)] for row in range(14)])
    sets = images.for_design(design, train_images=300)
    folder = tmp_path_factory.mktemp("population")
    snapshots.write(folder, train(design.drop_vars("shard"), sets, max_epochs=8, device="cpu", progress=False))
    return snapshots.open_population(folder), sets


def rows(tree):
    return [node.to_dataset().isel(model=k) for node in tree.children.values() for k in range(node.sizes["model"])]


def test_the_population_varies_in_what_a_network_computes(population):
    tree, _ = population
    for name in VARIED:
        assert len({row[name].item() for row in rows(tree)}) > 1, name
    assert {row["activation"].item() for row in rows(tree)} == set(space.VOCABULARY["activation"])
    assert len(tree.children) == 2


@pytest.mark.parametrize("snapshot", [2, 11, 20])
def test_a_rebuilt_network_is_as_accurate_as_the_stored_one(population, snapshot):
    tree, sets = population
    for row in rows(tree):
        one = sets[row["dataset"].item()]
        network = rebuild.module(tree, row["model"].item(), snapshot)
        found = rebuild.accuracy(network, one.test_images, one.test_labels)
        assert found == pytest.approx(row["test_accuracy"].sel(snapshot=snapshot).item(), abs=TOLERANCE)


def test_the_accuracy_is_that_of_this_network_at_this_snapshot(population):
    tree, sets = population
    row = max(rows(tree), key=lambda row: row["test_accuracy"][-1].item())
    one, model = sets[row["dataset"].item()], row["model"].item()
    stored = row["test_accuracy"].values
    early = rebuild.accuracy(rebuild.module(tree, model, 1), one.test_images, one.test_labels)
    late = rebuild.accuracy(rebuild.module(tree, model), one.test_images, one.test_labels)
    assert (early, late) == pytest.approx((stored[0], stored[-1]), abs=TOLERANCE)
    assert late > early + 0.1
    turned = rebuild.accuracy(rebuild.module(tree, model), one.test_images.flip(2), one.test_labels)
    assert abs(turned - late) > TOLERANCE  # the images count, pixel by pixel
    assert rebuild.accuracy(rebuild.module(tree, model), one.test_images, one.test_labels, batch=7) == late


def test_it_is_an_ordinary_module_that_can_be_trained_on(population):
    tree, sets = population
    model = rows(tree)[0]["model"].item()
    network = rebuild.module(tree, model)
    assert isinstance(network, torch.nn.Module)
    assert not network.training
    weights = sum(parameter.numel() for parameter in network.parameters())
    statistics = sum(buffer.numel() for name, buffer in network.named_buffers() if not name.endswith("tracked"))
    assert weights + statistics == rows(tree)[0].sizes["weight"]
    images_seen = sets["digits"].test_images[:4].permute(0, 3, 1, 2) / 255
    network.train()(images_seen).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_node_serves_as_well_as_the_tree(population):
    tree, _ = population
    node = next(iter(tree.children.values())).to_dataset()
    model = node["model"].values[-1].item()
    first, second = rebuild.module(tree, model).state_dict(), rebuild.module(node, model, 20).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_cannot_be_rebuilt_is_refused(population):
    tree, sets = population
    node = next(iter(tree.children.values())).to_dataset()
    with pytest.raises(ValueError, match=r"no network 99\. The nearest is 13"):
        rebuild.module(tree, 99)
    with pytest.raises(ValueError, match=r"no snapshot 21\. The nearest is 20"):
        rebuild.module(tree, 0, 21)
    with pytest.raises(ValueError, match="has no 'activation'"):
        rebuild.module(node.drop_vars("activation"), node["model"].values[0].item())
    foreign = node.assign_attrs(layout=node.attrs["layout"].replace('"cnn"', '"siran"'))
    with pytest.raises(ValueError, match=r"family 'siran' can't be rebuilt\. Did you mean 'siren'"):
        rebuild.module(foreign, node["model"].values[0].item())
    one = sets["digits"]
    with pytest.raises(ValueError, match=r"one label for each of at least one image, not 3, 4"):
        rebuild.accuracy(rebuild.module(tree, 0), one.test_images[:4], one.test_labels[:3])


@pytest.mark.parametrize("collection", ["noisy_cnn", "noisy_mlp", "noisy_kan"])
def test_a_rebuilt_classifier_of_any_family_is_as_good_as_it_was(collection):
    design = space.sample(collection, 1, seed=0, dataset="digits", image_size=14, epochs=1, width=4)
    digits = images.load("digits", size=14)
    trained = next(train(design, {"digits": digits}, progress=False))
    found = rebuild.accuracy(rebuild.module(trained, 0), digits.test_images[..., :1], digits.test_labels)
    assert abs(found - trained["test_accuracy"].values[0, -1]) < 2e-4


@pytest.mark.parametrize("collection", ["siren", "kan_image"])
def test_a_rebuilt_image_network_gives_its_image(collection):
    design = space.sample(collection, 1, seed=0, dataset="digits", image_size=14, steps=40)
    digits = images.load("digits", size=14)
    trained = next(train(design, {"digits": digits}, progress=False))
    rows = torch.linspace(-1, 1, 14)
    with torch.no_grad():
        pixels = rebuild.module(trained, 0)(torch.cartesian_prod(rows, rows))
    error = (pixels[:, 0] - digits.train_images[0, :, :, 0].flatten() / 255).square().mean().item()
    assert error == pytest.approx(trained["train_loss"].values[0, -1], rel=1e-3)
