import numpy as np
import pytest
from families import LAYOUTS

from nwslib.snapshots import Layout, Tensor
from nwslib.snapshots import cnn as cnn_layout
from nwslib.snapshots.wiring import wiring

FAMILIES = pytest.mark.parametrize("family", LAYOUTS)


def route(family):
    return [(link.layer, link.source, link.target, link.weights.shape) for link in wiring(LAYOUTS[family]).links]


@FAMILIES
def test_every_weight_belongs_to_exactly_one_edge_or_node(family):
    wired = wiring(LAYOUTS[family])
    places = [one.weights.ravel() for one in (*wired.nodes.values(), *wired.links)]
    assert np.array_equal(np.sort(np.concatenate(places)), np.arange(LAYOUTS[family].size))


@FAMILIES
def test_an_edge_carries_the_weights_between_its_two_units(family):
    layout, wired = LAYOUTS[family], wiring(LAYOUTS[family])
    layers, units, sources = (layout.label(name) for name in ("layer", "unit", "source"))
    for link in wired.links:
        unit, source = np.indices(link.weights.shape[:2])
        assert (layers[link.weights] == link.layer).all()
        assert (units[link.weights] == unit[..., None]).all()
        assert (sources[link.weights] == source[..., None]).all()
    for nodes in wired.nodes.values():
        assert (units[nodes.weights] == np.arange(len(nodes.weights))[:, None]).all()
        assert (sources[nodes.weights] == -1).all()


@FAMILIES
def test_nodes_come_before_those_that_read_them(family):
    wired = wiring(LAYOUTS[family])
    order = list(wired.nodes)
    assert [nodes.role for nodes in wired.nodes.values()] == ["input", *["hidden"] * (len(order) - 2), "output"]
    assert all(order.index(link.source) < order.index(link.target) for link in wired.links)


def test_layers_of_a_chain_read_each_other():
    assert route("cnn")[2:4] == [("conv3", "conv2", "conv3", (16, 8, 9)), ("dense1", "conv3", "dense1", (16, 16, 4))]
    assert route("mlp")[0] == ("dense1", "input", "dense1", (6, 1, 25))
    assert route("siren")[0] == ("dense1", "input", "dense1", (6, 2, 1))
    assert route("kan")[1] == ("kan2", "kan1", "kan2", (4, 5, 8))


def test_the_windows_of_edges_stand_in_the_order_of_rows_and_columns():
    link = wiring(LAYOUTS["mlp"]).links[0]
    rows, columns = (LAYOUTS["mlp"].label(name)[link.weights[3, 0]] for name in ("row", "column"))
    assert np.array_equal(5 * rows + columns, np.arange(25))


def test_axes_may_stand_in_any_order():
    shapes = {"conv1": (3, 3, 2, 4), "output": (4, 5)}
    axes = ("row", "column", "source", "unit")  # as a released set has them
    tensors = (Tensor(layer, "dense", "kernel", axes[-len(shape) :], shape) for layer, shape in shapes.items())
    first, last = wiring(Layout("smallcnn", tuple(tensors))).links
    assert np.array_equal(first.weights[1, 0], [8 * window + 1 for window in range(9)])
    assert np.array_equal(last.weights[..., 0], 72 + np.arange(20).reshape(4, 5).T)


def test_skips_lead_around_a_block():
    found = route("resnet8")
    assert found[3] == ("block1.skip", "stem", "block1.conv2", (4, 4, 0))
    assert found[6] == ("block2.skip", "block1.conv2", "block2.conv2", (6, 4, 1))
    assert found[-1] == ("output", "block3.conv2", "output", (5, 8, 1))
    wired = wiring(LAYOUTS["resnet8"])
    assert [link.is_identity for link in wired.links if link.layer.endswith("skip")] == [True, False, False]
    assert {name for name, first in wired.joined().items() if name != first} == {"block1.conv2"}
    assert wired.joined()["block1.conv2"] == "stem"
    # A unit after a skip owns the norm of its convolution and that of the skip.
    assert wired.nodes["block2.conv2"].weights.shape == (6, 4)


def test_arrays_are_shared_and_not_written_to():
    wired = wiring(LAYOUTS["siren"])
    assert wiring(LAYOUTS["siren"]) is wired
    with pytest.raises(ValueError, match="read-only"):
        wired.links[0].weights[0] = 0


CNN = cnn_layout.layout(16, 3, 3, 2, 4, 32).tensors
STEM, *BLOCKS = LAYOUTS["resnet8"].tensors


@pytest.mark.parametrize(
    ("family", "tensors", "message"),
    [
        ("sirens", CNN, r"units of family 'sirens' can't be wired\. Did you mean 'siren'"),
        ("cnn", CNN[:6] + CNN[12:], "conv1 has 4 units, but conv3 reads 8"),
        ("mlp", (Tensor("dense1", "dense", "kernel", ("row",), (4,)),), "dense1.kernel has no axis unit, only row"),
        ("resnet8", CNN, "family resnet8 has kernels of stem, output, not of conv1, conv2"),
        ("resnet8", tuple(BLOCKS), "has kernels of stem, block1.conv1, .*, not of block1.conv1"),
    ],
)
def test_what_is_no_network_of_its_family_is_refused(family, tensors, message):
    with pytest.raises(ValueError, match=message):
        wiring(Layout(family, tensors))
