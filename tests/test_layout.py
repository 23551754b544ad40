import json

import numpy as np
import pytest

from nwslib.snapshots import Layout, Tensor
from nwslib.snapshots.layout import LABELS

KERNEL = Tensor("conv1", "convolution", "kernel", ("unit", "source", "row", "column"), (4, 3, 5, 5))
BIAS = Tensor("conv1", "convolution", "bias", ("unit",), (4,))
DENSE = Tensor("dense1", "dense", "kernel", ("unit", "row", "column", "source"), (6, 2, 2, 4))
LAYOUT = Layout("cnn", (KERNEL, BIAS, DENSE))


def test_tensors_tile_the_vector_without_gap_or_overlap():
    places = np.concatenate([np.arange(LAYOUT.size)[place] for place in LAYOUT.slices.values()])
    assert places.tolist() == list(range(LAYOUT.size))


def test_split_gives_views_that_flatten_back_to_the_vector():
    vectors = np.random.default_rng(0).standard_normal((2, 20, LAYOUT.size))
    tensors = LAYOUT.split(vectors)
    assert tensors["dense1.kernel"].shape == (2, 20, 6, 2, 2, 4)
    assert all(np.shares_memory(tensor, vectors) for tensor in tensors.values())
    np.testing.assert_array_equal(np.concatenate([t.reshape(2, 20, -1) for t in tensors.values()], -1), vectors)


def test_labels_point_back_to_the_weight():
    vector = np.arange(LAYOUT.size)
    tensors, labels = LAYOUT.split(vector), LAYOUT.labels()
    assert tuple(labels) == LABELS
    for weight in vector:
        tensor = next(
            t for t in LAYOUT.tensors if t.layer == labels["layer"][weight] and t.kind == labels["kind"][weight]
        )
        assert labels["part"][weight] == tensor.part
        place = tuple(labels[axis][weight] for axis in tensor.axes)
        assert tensors[tensor.name][place] == weight


def test_a_label_is_minus_one_where_a_weight_has_none():
    labels = LAYOUT.labels()
    bias = LAYOUT.slices["conv1.bias"]
    assert (labels["unit"][bias] == range(4)).all()
    assert all((labels[name][bias] == -1).all() for name in ("source", "row", "column"))


def test_json_round_trip_keeps_the_layout_and_its_name():
    again = Layout.from_json(LAYOUT.to_json())
    assert again == LAYOUT
    assert again.name == LAYOUT.name
    assert Layout.from_json(json.dumps(json.loads(LAYOUT.to_json()), indent=2)).name == LAYOUT.name


def test_the_name_tells_layouts_apart():
    wider = Tensor("conv1", "convolution", "bias", ("unit",), (5,))
    turned = Tensor("dense1", "dense", "kernel", ("unit", "source", "row", "column"), (6, 4, 2, 2))
    layouts = [
        LAYOUT,
        Layout("cnn", (KERNEL, wider, DENSE)),
        Layout("cnn", (KERNEL, BIAS, turned)),
        Layout("kan", (BIAS,)),
    ]
    assert len({layout.name for layout in layouts}) == 4


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ValueError, match=f"has {LAYOUT.size} weights, but the vector has 7"):
        LAYOUT.split(np.zeros(7))


def test_an_unknown_label_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'column'"):
        LAYOUT.label("colum")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": (4, 3)}, "one axis each"),
        ({"axes": ("unit", "source", "row", "depth")}, "one axis each"),
        ({"shape": (4, 3, 5, 0)}, "positive whole numbers"),
        ({"shape": (4, 3, 5, 2.5)}, "positive whole numbers"),
    ],
)
def test_an_impossible_tensor_is_refused(fields, message):
    tensor = {"layer": "conv1", "part": "convolution", "kind": "kernel", "axes": KERNEL.axes, "shape": KERNEL.shape}
    with pytest.raises(ValueError, match=message):
        Tensor(**tensor | fields)


def test_a_layout_can_neither_leave_its_folder_nor_repeat_a_tensor():
    with pytest.raises(ValueError, match="one word"):
        Layout("../../cnn", (BIAS,))
    with pytest.raises(ValueError, match="no two of the same name"):
        Layout("cnn", (BIAS, BIAS))
    with pytest.raises(ValueError, match="at least one tensor"):
        Layout("cnn", ())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"family": "cnn"}', '{"family": "cnn", "tensors": [{"layer": 1}]}']
)
def test_text_that_is_no_layout_is_refused(text):
    with pytest.raises(ValueError, match="not the JSON of a layout"):
        Layout.from_json(text)
