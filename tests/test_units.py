import numpy as np
import pytest
import torch
from families import LAYOUTS

from nwslib.population import draws, networks
from nwslib.population.networks import cnn, kan, mlp, resnet, siren, smallcnn
from nwslib.snapshots import Layout, fake
from nwslib.snapshots.cnn import OUTPUTS, layout
from nwslib.snapshots.units import permutation
from nwslib.space import sample

ARCHITECTURES = [(32, 3, 3, 2, 4, 64), (32, 5, 4, 3, 8, 64), (16, 7, 5, 4, 8, 64), (16, 3, 5, 2, 12, 192)]
SMALL = layout(16, 3, 3, 2, 4, 32)


def random_vector(shape):
    """Give weights that are all different, with batch norms that are used."""
    vector = draws.initial_weights(shape, 1, "glorot_uniform").double().numpy()
    random = np.random.default_rng(0)
    for tensor in shape.tensors:
        if tensor.kind != "kernel":
            vector[shape.slices[tensor.name]] = random.uniform(0.5, 1.5, tensor.size)
    return vector


def outputs(shape, vector, activation="relu"):
    size = next(tensor.shape[1] for tensor in shape.tensors if tensor.layer == "dense1") * 8
    images = torch.rand(4, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return networks.to_module(shape, vector, activation=activation)(images).numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("within", ["all", "convolution", "dense"])
def test_a_network_computes_the_same_with_its_units_permuted(architecture, within):
    shape = layout(*architecture)
    vector, index = random_vector(shape), permutation(shape, 7, within)
    expected = outputs(shape, vector, "elu")
    np.testing.assert_allclose(outputs(shape, vector[index], "elu"), expected, rtol=0, atol=1e-10)
    assert expected.std() > 1e-3  # it computes something


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("within", ["all", "convolution", "dense"])
def test_it_computes_something_else_where_the_next_layer_does_not_follow(architecture, within):
    shape = layout(*architecture)
    vector, index = random_vector(shape), permutation(shape, 7, within, consistent=False)
    assert abs(outputs(shape, vector[index]) - outputs(shape, vector)).max() > 1e-3


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_keeps_its_weights(architecture, consistent):
    shape = layout(*architecture)
    index = permutation(shape, 7, consistent=consistent)
    assert (index.dtype, index.shape) == (np.dtype("int64"), (shape.size,))
    for place in shape.slices.values():
        assert np.array_equal(np.sort(index[place]), np.arange(place.start, place.stop))


def test_all_that_belongs_to_a_unit_moves_with_it():
    units, sources = SMALL.label("unit"), SMALL.label("source")
    index = permutation(SMALL, 7)
    for layer in ("conv1", "conv2", "conv3", "dense1", "dense2"):
        for kind in ("bias", "beta", "gamma", "mean", "variance"):
            moved = units[index[SMALL.slices[f"{layer}.{kind}"]]]
            kernel = units[index[SMALL.slices[f"{layer}.kernel"]]].reshape(len(moved), -1)
            assert (kernel == moved[:, None]).all()
            assert (moved != np.arange(len(moved))).any()
    assert np.array_equal(index[SMALL.slices["output.bias"]], np.arange(SMALL.size)[SMALL.slices["output.bias"]])
    output = units[index[SMALL.slices["output.kernel"]]].reshape(OUTPUTS, -1)
    assert (output == np.arange(OUTPUTS)[:, None]).all()
    assert np.array_equal(sources[index[SMALL.slices["conv1.kernel"]]], sources[SMALL.slices["conv1.kernel"]])


def test_only_the_asked_part_is_permuted():
    still = np.arange(SMALL.size)
    for within, moved, kept in (("convolution", "conv2.bias", "dense2.bias"), ("dense", "dense2.bias", "conv2.bias")):
        index = permutation(SMALL, 7, within)
        assert (index[SMALL.slices[moved]] != still[SMALL.slices[moved]]).any()
        assert np.array_equal(index[SMALL.slices[kept]], still[SMALL.slices[kept]])


def test_orders_are_uniform_and_those_of_layers_are_independent():
    first = np.array([permutation(SMALL, seed)[SMALL.slices["conv1.bias"]] for seed in range(600)])
    first -= first.min()
    counts = np.array([np.bincount(first[:, place], minlength=4) for place in range(4)])
    assert abs(counts - 150).max() < 50  # 4.7 standard deviations
    wide = layout(16, 3, 5, 2, 12, 192)
    pair = [permutation(wide, 3)[wide.slices[f"{name}.bias"]] for name in ("conv2", "conv3")]
    assert not np.array_equal(pair[0] - pair[0].min(), pair[1] - pair[1].min())


def test_the_seed_decides_alone():
    # The order of the first four words of Philox4x64-10 with the key (1, 0), which every machine computes alike.
    assert (permutation(SMALL, 3)[SMALL.slices["conv1.bias"]] - SMALL.slices["conv1.bias"].start).tolist() == [
        1,
        2,
        3,
        0,
    ]
    assert np.array_equal(permutation(SMALL, 3), permutation(SMALL, np.int64(3)))
    assert not np.array_equal(permutation(SMALL, 3), permutation(SMALL, 4))


def test_fake_networks_are_permuted_too():
    design = sample("nws_small", 1, seed=0)
    shape = fake.layout({name: design[name].item() for name in design.data_vars})
    assert np.array_equal(np.sort(permutation(shape, 0)), np.arange(shape.size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"within": "convolutions"}, r"unknown part 'convolutions'\. Did you mean 'convolution'"),
        ({"seed": -1}, r"seed must be a whole number from 0 to 2\*\*64 - 1, not -1"),
        ({"seed": 0.5}, r"seed must be a whole number .* not 0\.5"),
        (
            {"layout": Layout("sirens", SMALL.tensors)},
            r"units of family 'sirens' can't be wired\. Did you mean 'siren'",
        ),
        ({"layout": Layout("cnn", SMALL.tensors[:6] + SMALL.tensors[12:])}, "conv1 has 4 units, but conv3 reads 8"),
    ],
)
def test_what_cannot_be_permuted_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        permutation(**{"layout": SMALL, "seed": 0} | change)


MODULES = {"cnn": cnn, "kan": kan, "mlp": mlp, "resnet8": resnet, "siren": siren, "smallcnn": smallcnn}


def answers(family, shape, vector):
    """Give the outputs of one network of any family."""
    inputs = torch.linspace(0, 1, 3 * 3 * 16 * 16, dtype=torch.float64).view(3, 3, 16, 16)
    inputs = torch.sin(17 * inputs) / 2 + 0.5
    if family in ("siren", "kan"):
        inputs = inputs[:, 0, 0, :2]
    elif family in ("mlp", "smallcnn"):
        inputs = inputs[:, :1, :5, :5]
    with torch.no_grad():
        return MODULES[family].to_module(shape, vector)(inputs).numpy()


@pytest.mark.parametrize("family", MODULES)
@pytest.mark.parametrize("consistent", [True, False])
def test_networks_of_every_family_compute_the_same_if_the_next_layer_follows(family, consistent):
    shape = resnet.layout(3, 5) if family == "resnet8" else LAYOUTS[family]
    vector = np.random.default_rng(3).normal(size=shape.size) / 2
    for tensor in shape.tensors:
        vector[shape.slices[tensor.name]] += tensor.kind == "variance"
    vector[np.flatnonzero(shape.label("kind") == "variance")] **= 2
    index = permutation(shape, 11, consistent=consistent)
    change = abs(answers(family, shape, vector[index]) - answers(family, shape, vector)).max()
    assert change < 1e-10 if consistent else change > 1e-3
    units, sources = (shape.label(name) for name in ("unit", "source"))
    last, first = shape.tensors[-1].layer, shape.tensors[0].layer
    assert np.array_equal(units[index][shape.label("layer") == last], units[shape.label("layer") == last])
    assert np.array_equal(sources[index][shape.label("layer") == first], sources[shape.label("layer") == first])


def test_units_that_a_skip_joins_are_permuted_together():
    shape = LAYOUTS["resnet8"]
    units, index = shape.label("unit"), permutation(shape, 11)
    orders = {
        layer: units[index[shape.slices[f"{layer}.gamma"]]].tolist()
        for layer in dict.fromkeys(shape.label("layer"))
        if layer != "output"
    }
    assert orders["stem"] == orders["block1.conv2"] != orders["block1.conv1"]
    assert orders["block2.conv2"] == orders["block2.skip"]
    assert all(sorted(order) == list(range(len(order))) for order in orders.values())
