import pytest
import torch
import torch.nn.functional as F

from nwslib.population import operators

GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("implementation", ["grouped", "im2col"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_convolve_is_one_convolution_per_network(implementation, size):
    x, kernel = randn(2, 8, 7, 3, 4).requires_grad_(), randn(3, 5, 4, size, size).requires_grad_()
    ours = operators.convolve(x, kernel, implementation)
    alone = [F.conv2d(x[:, :, :, m].permute(0, 3, 1, 2), kernel[m], padding=size // 2) for m in range(3)]
    alone = torch.stack(alone, -1).permute(0, 2, 3, 4, 1)
    assert torch.allclose(ours, alone)
    slope = randn(*ours.shape)
    found, expected = (torch.autograd.grad(y, (x, kernel), slope) for y in (ours, alone))
    assert all(torch.allclose(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(32, 16, 3, 4, 3), (32, 8, 4, 8, 3), (33, 4, 8, 16, 5)])
def test_im2col_is_bit_identical_in_crowds_where_channels_are_many_of_four(shape):
    images, side, inputs, outputs, size = shape
    x, kernel = randn(images, side, side, 16, inputs).float(), randn(16, outputs, inputs, size, size).float()

    def layer(places):
        parts = [x[:, :, :, places].contiguous().requires_grad_(), kernel[places].contiguous().requires_grad_()]
        y = operators.convolve(*parts, "im2col")
        found = torch.autograd.grad(y.square().sum(), parts)
        return [y.movedim(3, 0), found[0].movedim(3, 0), found[1]]

    everyone = layer(list(range(16)))
    for places in ([3, 12], [1, 15, 4, 8, 2], torch.randperm(16, generator=GENERATOR).tolist()):
        for all_of_it, part in zip(everyone, layer(places), strict=True):
            assert torch.equal(all_of_it[places], part), places


def test_only_programs_that_work_on_one_network_at_a_time_need_no_company():
    channels = [4, 8, 16]
    assert operators.TRITON.slot_multiple(channels) == 1
    assert operators.Implementation("im2col", "triton", "triton").slot_multiple(channels) == 2
    assert operators.Implementation("triton", "triton", "batched_product").slot_multiple(channels) == 2
    assert operators.Implementation("im2col").slot_multiple(channels) == 4
    assert operators.Implementation("grouped", "triton", "triton").slot_multiple(channels) == 4


def test_unknown_implementations_are_refused():
    with pytest.raises(ValueError, match=r"unknown implementation 'im2row' of convolution. Did you mean 'im2col'"):
        operators.Implementation(convolution="im2row")
    with pytest.raises(ValueError, match=r"unknown implementation 'tritn' of dense. Did you mean 'triton'"):
        operators.Implementation(dense="tritn")


def test_dense_is_one_product_per_network():
    x, kernel, bias = randn(3, 7, 4), randn(3, 5, 4), randn(3, 5)
    ours = operators.dense(x, kernel, bias)
    assert all(torch.allclose(ours[m], F.linear(x[m], kernel[m], bias[m])) for m in range(3))


@pytest.mark.parametrize("shape", [(6, 4, 4, 3, 5), (6, 3, 5)])
def test_batch_statistics_are_the_batch_s_mean_and_biased_variance(shape):
    x, gamma, beta = randn(*shape), randn(3, 5), randn(3, 5)
    y, mean, variance = operators.normalize_batch(x, gamma, beta)
    dims = tuple(range(len(shape) - 2))
    assert torch.allclose(mean, x.mean(dims))
    assert torch.allclose(variance, x.var(dims, correction=0))
    assert torch.allclose(y, (x - mean) / torch.sqrt(variance + 1e-5) * gamma + beta)
    assert torch.allclose(operators.normalize_running(x, gamma, beta, mean, variance), y)


def test_pooling_takes_the_largest_of_four_and_drops_an_odd_end():
    x = randn(2, 5, 6, 3, 4)
    y = operators.max_pool(x)
    assert y.shape == (2, 2, 3, 3, 4)
    assert torch.equal(y[:, 1, 2], x[:, 2:4, 4:6].amax((1, 2)))


def test_each_network_gets_its_own_activation():
    names = ["elu", "relu", "sigmoid", "sigmoid", "tanh"]
    x = randn(3, 5, 4)
    y = operators.activate(x, operators.segments(names))
    for m, name in enumerate(names):
        assert torch.allclose(y[:, m], oracle_activation(name)(x[:, m]))


def oracle_activation(name):
    return {"relu": F.relu, "elu": F.elu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}[name]


@pytest.mark.parametrize("name", ["relu", "elu", "sigmoid", "tanh"])
def test_activations_have_the_right_slope(name):
    x = randn(4, 2, 3).requires_grad_()
    segments = operators.segments([name] * 2)
    assert torch.autograd.gradcheck(lambda x: operators.activate(x, segments), x)


@pytest.mark.parametrize("channels", [3, 4, 6, 12, 20])
@pytest.mark.parametrize("batch", [32, 33])
def test_a_layer_is_bit_identical_in_crowds_of_suitable_size(channels, batch):
    multiple = operators.slot_multiple([channels])
    crowd = 3 * multiple
    x, kernel = randn(batch, 8, 8, crowd, channels).float(), randn(crowd, channels, channels, 3, 3).float()
    gamma, names = torch.ones(crowd, channels), ["elu", "relu", "sigmoid", "tanh"] * crowd

    def layer(places):
        inputs = [
            tensor.contiguous().requires_grad_() for tensor in (x[:, :, :, places], kernel[places], gamma[places])
        ]
        y, mean, variance = operators.normalize_batch(operators.convolve(*inputs[:2]), inputs[2], inputs[2] * 0)
        y = operators.activate(operators.max_pool(y), operators.segments(sorted(names[p] for p in places)))
        return [y, mean, variance, *torch.autograd.grad(y.square().sum(), inputs)]

    whole = sorted(range(crowd), key=lambda place: names[place])
    part = [place for place in whole if place % 3 == 1][:multiple]
    together, apart = layer(whole), layer(part)
    at = [whole.index(place) for place in part]
    for everyone, some, axis in zip(together, apart, (3, 0, 0, 3, 0, 0), strict=True):
        assert torch.equal(everyone.index_select(axis, torch.tensor(at)), some)
