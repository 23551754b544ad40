import itertools

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nwslib import space
from nwslib.population import draws, networks, operators
from nwslib.population.networks import cnn
from nwslib.snapshots.layout import Layout


def test_sizes_are_those_of_the_study():
    names = ("filter_size", "depth_conv", "depth_fc", "width_conv", "width_fc")
    every = [
        cnn.layout(32, **dict(zip(names, values, strict=True))).size
        for values in itertools.product(*(space.VOCABULARY[name] for name in names))
    ]
    assert len(every) == 243
    assert (min(every), max(every), np.median(every)) == (21_260, 388_172, 95_844)
    assert np.mean(every) == pytest.approx(125_270, abs=1)
    fixed = cnn.layout(32, 5, 3, 2, 8, 128)
    assert fixed.size == 92_868
    assert sum(t.size for t in fixed.tensors if t.kind in ("kernel", "bias")) == 91_876


def test_thirty_six_architectures_have_fewer_than_5000_convolution_weights():
    names = ("filter_size", "depth_conv", "depth_fc", "width_conv", "width_fc")
    layouts = [
        cnn.layout(32, **dict(zip(names, values, strict=True)))
        for values in itertools.product(*(space.VOCABULARY[name] for name in names))
    ]
    convolution = [sum(t.size for t in layout.tensors if t.part == "convolution") for layout in layouts]
    assert sum(size < 5000 for size in convolution) == 36


@pytest.mark.parametrize(("depth", "widths"), [(3, [4, 8, 16]), (4, [4, 8, 16, 16]), (5, [4, 8, 8, 16, 16])])
def test_blocks_hold_the_convolutions_that_the_study_gives_them(depth, widths):
    layout = cnn.layout(32, 3, depth, 2, 4, 64)
    assert [t.shape[0] for t in layout.tensors if t.part == "convolution" and t.kind == "kernel"] == widths


def test_tensors_stand_in_the_released_order():
    layout = cnn.layout(16, 3, 3, 2, 4, 32)
    kinds = [t.kind for t in layout.tensors if t.layer == "dense1"]
    assert kinds == ["kernel", "bias", "beta", "gamma", "mean", "variance"]
    assert [t.name for t in layout.tensors][-2:] == ["output.kernel", "output.bias"]
    assert layout.tensors[-1].shape == (20,)


def random_network(layout, seed):
    vector = draws.initial_weights(layout, seed, "glorot_uniform").numpy()
    rng = np.random.default_rng(seed)
    for kind in ("bias", "beta", "mean"):
        for tensor in layout.tensors:
            if tensor.kind == kind and not (kind == "bias" and tensor.part == "convolution"):
                vector[layout.slices[tensor.name]] = rng.normal(size=tensor.size)
    return vector


@pytest.mark.parametrize("activation", ["relu", "elu", "sigmoid", "tanh"])
@pytest.mark.parametrize("depth_conv", [3, 5])
def test_a_rebuilt_module_computes_what_the_crowd_computes(activation, depth_conv):
    layout = cnn.layout(16, 3, depth_conv, 3, 4, 32)
    vectors = torch.from_numpy(np.stack([random_network(layout, seed) for seed in range(2)]))
    images = torch.rand(5, 16, 16, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tensors = {t.name: vectors[:, layout.slices[t.name]].unflatten(1, t.shape) for t in layout.tensors}
    segments = operators.segments([activation] * 2)
    logits = cnn.outputs(tensors, cnn.features(tensors, images, segments, None), segments, None)
    for m in range(2):
        module = networks.to_module(layout, vectors[m], activation=activation)
        assert torch.allclose(module(images[:, :, :, m].permute(0, 3, 1, 2)), logits[m], atol=1e-9)


def test_a_rebuilt_module_trains_by_the_protocol():
    layout = cnn.layout(16, 3, 3, 3, 4, 32)
    module = networks.to_module(layout, torch.from_numpy(random_network(layout, 1))).train()
    assert [part.p for part in module if isinstance(part, torch.nn.Dropout)] == [0.5] * 3
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = module[1].running_mean.clone()
    module(images)
    batch = module[0](images).mean((0, 2, 3))
    assert torch.allclose(module[1].running_mean, 0.9 * before + 0.1 * batch)


def test_a_layout_survives_its_json():
    layout = cnn.layout(16, 3, 4, 2, 4, 32)
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert again.name == layout.name


@pytest.mark.parametrize(("depth_conv", "depth_fc"), [(3, 2), (4, 1), (5, 3)])
def test_operations_are_those_of_the_products(depth_conv, depth_fc):
    layout = cnn.layout(16, 3, depth_conv, depth_fc, 4, 32)
    module = cnn.to_module(layout, torch.randn(layout.size))
    with FlopCounterMode(display=False) as counter:
        module(torch.rand(3, 3, 16, 16)).sum().backward()
    assert counter.get_total_flops() == 3 * cnn.operations(layout, 16)
