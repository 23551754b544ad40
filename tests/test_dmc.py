import math

import pytest
import torch
from torch import nn

from nwslib.meta.networks import dmc


def sizes(network, kind):
    return [layer.weight.shape[0] for layer in network if isinstance(layer, kind)]


def test_the_flat_size_at_5000_weights_is_that_of_the_study():
    assert dmc.flat_size(5000, dmc.short_stages(5000)) == 4864
    assert next(layer for layer in dmc.short(5000, 4) if isinstance(layer, nn.Linear)).in_features == 4864


@pytest.mark.parametrize("length", [16, 99, 100, 500, 1000, 1677, 5000, 40_000])
def test_the_short_form_takes_runs_of_many_lengths(length):
    network = dmc.short(length, 3).eval()
    assert sizes(network, nn.Conv1d) == [8, 16, 32, 64, 128, *[256] * 7]
    with torch.inference_mode():
        assert network(torch.randn(2, length)).shape == (2, 3)


def test_the_short_form_pools_while_more_than_50_positions_are_left():
    left = 5000
    stages = dmc.short_stages(5000)
    sizes_left = []
    for stage in stages:
        left = left // 2 if stage.pool else left
        sizes_left.append(left)
    assert sizes_left == [2500, 1250, 1250, 625, 625, 312, 156, 78, 39, 39, 39, 19]
    assert [stage.pool for stage in dmc.short_stages(100)[5:-1]] == [False] * 6


def test_the_long_form_reads_a_whole_network_of_nws_fixed():
    network = dmc.long(92_868, 5).eval()
    assert sizes(network, nn.Conv1d) == [8, 16, 32, 64, *[128] * 6, *[256] * 5]
    assert sum(isinstance(layer, nn.MaxPool1d) for layer in network) == 12
    with torch.inference_mode():
        assert network(torch.randn(1, 92_868)).shape == (1, 5)


@pytest.mark.parametrize(("form", "length"), [(dmc.short, 500), (dmc.long, 5000)])
def test_the_dense_layers_are_those_of_the_study(form, length):
    network = form(length, 7)
    assert sizes(network, nn.Linear) == [1024, 1024, 1024, 1024, 64, 7]
    assert [layer.p for layer in network if isinstance(layer, nn.Dropout)] == [0.5] * 5
    kinds = [type(layer).__name__ for layer in network]
    assert kinds[kinds.index("Linear") :][:4] == ["Linear", "ReLU", "BatchNorm1d", "Dropout"]
    assert kinds[1:4] == ["Conv1d", "ReLU", "BatchNorm1d"]


def test_the_documented_numbers_of_parameters_are_right():
    assert dmc.parameter_count(dmc.short(5000, 10)) == 10_395_610
    assert dmc.parameter_count(dmc.long(92_868, 10)) == 10_936_666
    assert dmc.parameter_count(dmc.pooled(500, 10)) == 36_988


def test_runs_too_short_for_the_pools_are_refused():
    with pytest.raises(ValueError, match=r"runs of 15 weights are too short.*The shortest it takes: 16"):
        dmc.short(15, 2)
    with pytest.raises(ValueError, match=r"The shortest it takes: 4096"):
        dmc.long(4095, 2)
    with pytest.raises(ValueError, match=r"unknown meta-classifier 'shorter'. Did you mean 'short'"):
        dmc.build("shorter", 100, 2)


def test_the_pooled_variant_takes_any_length():
    network = dmc.pooled(500, 4).eval()
    with torch.inference_mode():
        assert all(network(torch.randn(3, length)).shape == (3, 4) for length in (1, 17, 500, 4828))


@pytest.mark.parametrize("name", ["pooled", "short"])
def test_the_order_of_the_weights_matters(name):
    torch.manual_seed(0)
    network, runs = dmc.build(name, 200, 4).eval(), torch.randn(2, 200)
    with torch.inference_mode():
        assert not torch.allclose(network(runs), network(runs[:, torch.randperm(200)]), rtol=1e-3)


@pytest.mark.parametrize("name", ["pooled", "short"])
def test_every_weight_of_a_run_is_read(name):
    torch.manual_seed(0)
    network, runs = dmc.build(name, 112, 4).eval(), torch.randn(1, 112, requires_grad=True)
    network(runs)[0, 0].backward()
    assert (runs.grad != 0).sum() > 100


def test_the_pooled_variant_summarises_constant_runs_without_a_broken_slope():
    network = dmc.pooled(64, 3)
    network(torch.ones(4, 64)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_summaries_are_mean_largest_value_and_standard_deviation():
    level = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0))
    mean, largest, spread = dmc._summaries(level)
    torch.testing.assert_close(mean, level.mean(2))
    assert torch.equal(largest, level.amax(2))
    torch.testing.assert_close(spread, level.std(2, correction=0))


def test_first_weights_are_truncated_glorot_normal_and_biases_zero():
    torch.manual_seed(0)
    network = dmc.short(5000, 4)
    convolution = [layer for layer in network if isinstance(layer, nn.Conv1d)][-1]
    std = math.sqrt(2 / (5 * 256 + 5 * 256))
    assert convolution.weight.std().item() == pytest.approx(std, rel=0.01)
    assert convolution.weight.abs().max() <= 2 * std / 0.8796
    dense = next(layer for layer in network if isinstance(layer, nn.Linear))
    assert dense.weight.std().item() == pytest.approx(math.sqrt(2 / (4864 + 1024)), rel=0.01)
    assert not any(layer.bias.any() for layer in network if isinstance(layer, nn.Conv1d | nn.Linear))
