import pytest
import torch
import torch.nn.functional as F

from nwslib.population import operators

GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def test_convolve_is_one_convolution_per_network():
    x, kernel = randn(2, 8, 8, 3, 4), randn(3, 5, 4, 3, 3)
    ours = operators.convolve(x, kernel)
    for m in range(3):
        alone = F.conv2d(x[:, :, :, m].permute(0, 3, 1, 2), kernel[m], padding=1)
        assert torch.allclose(ours[:, :, :, m].permute(0, 3, 1, 2), alone)


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
