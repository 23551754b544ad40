"""Laws of the programs in `nwslib.population.cuda`, which `test_triton.py` runs in Triton's interpreter.

On a machine with a CUDA device: ``python -m pytest tests/triton_laws.py`` runs them compiled.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from bars import stripes

from nwslib import space
from nwslib.population import draws, operators, optimizers
from nwslib.population.augment import augment
from nwslib.population.cuda import batch, convolution, norm
from nwslib.population.networks import cnn
from nwslib.population.slots import Slots, bank, member, rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GENERATOR = torch.Generator().manual_seed(0)
ACTIVATIONS = ("relu", "elu", "sigmoid", "tanh")
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-13}


def randn(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64).to(DEVICE, dtype)


def gradients(y, inputs, slope):
    return torch.autograd.grad(y, inputs, slope)


def close(ours, theirs, dtype):
    for one, other in zip(ours, theirs, strict=True):
        gap = (one.double() - other).detach().norm() / other.detach().norm()
        assert gap < CLOSE[dtype], float(gap)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("images", "height", "width", "inputs", "outputs", "size"),
    [(3, 6, 5, 3, 4, 3), (2, 8, 8, 4, 9, 5), (5, 1, 1, 33, 40, 1), (7, 7, 5, 2, 4, 7)],
)
def test_a_convolution_and_its_gradients_are_those_of_each_network_alone(
    dtype, images, height, width, inputs, outputs, size, monkeypatch
):
    monkeypatch.setattr(convolution, "CHUNK", 64)  # many chunks
    x, kernel = randn(images, height, width, 2, inputs, dtype=dtype), randn(2, outputs, inputs, size, size, dtype=dtype)
    x.requires_grad_(), kernel.requires_grad_()
    maps, kernels = x.detach().double().requires_grad_(), kernel.detach().double().requires_grad_()
    alone = [F.conv2d(maps[:, :, :, m].permute(0, 3, 1, 2), kernels[m], padding=size // 2) for m in range(2)]
    expected = torch.stack(alone, -1).permute(0, 2, 3, 4, 1)
    y, slope = convolution.convolve(x, kernel), randn(*expected.shape, dtype=dtype)
    close([y], [expected], dtype)
    close(gradients(y, (x, kernel), slope), gradients(expected, (maps, kernels), slope.double()), dtype)


def test_a_dense_layer_and_its_gradients_are_products():
    inputs = [randn(3, 33, 40).requires_grad_(), randn(3, 70, 40).requires_grad_(), randn(3, 70).requires_grad_()]
    ours, slope = convolution.dense(*inputs), randn(3, 33, 70)
    theirs = operators.dense(*inputs)
    close([ours], [theirs], torch.float64)
    close(gradients(ours, inputs, slope), gradients(theirs, inputs, slope), torch.float64)


def test_kernels_are_read_where_they_stand_in_the_weights():
    weights, x = randn(2, 200).requires_grad_(), randn(2, 4, 4, 2, 3)
    kernel = weights[:, 31 : 31 + 4 * 3 * 9].unflatten(1, (4, 3, 3, 3))
    close([convolution.convolve(x, kernel)], [operators.convolve(x, kernel)], torch.float64)
    ours, theirs = (
        gradients(run(x, kernel).sum(), weights, None) for run in (convolution.convolve, operators.convolve)
    )
    close(ours, theirs, torch.float64)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.int32])
def test_other_types_are_refused(kind):
    with pytest.raises(TypeError, match=r"both be float32, or both be float64.*choose precision"):
        convolution.convolve(torch.ones(1, 2, 2, 1, 3, dtype=kind), torch.ones(1, 4, 3, 3, 3, dtype=kind))


def finish_inputs(shape, dtype):
    x, gamma, beta = randn(*shape, dtype=dtype), randn(*shape[-2:], dtype=dtype), randn(*shape[-2:], dtype=dtype)
    return [x.requires_grad_(), gamma.requires_grad_(), beta.requires_grad_()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "order"),
    [((3, 6, 5, 4, 2), {"pool": True}), ((3, 6, 5, 4, 2), {}), ((70, 4, 5), {"first": True})],
)
def test_norm_pool_and_activation_and_their_gradients_are_pytorch_s(dtype, shape, order, monkeypatch):
    monkeypatch.setattr(norm, "BLOCK", 64)  # many chunks
    inputs = finish_inputs(shape, dtype)
    segments, numbers = operators.segments(ACTIVATIONS), norm.numbers(ACTIVATIONS, DEVICE)
    expected = [tensor.detach().double().requires_grad_() for tensor in inputs]
    theirs = operators.finish(*expected, None, segments, **order)
    ours = operators.finish(*inputs, None, numbers, "triton", **order)
    close(ours[:2], theirs[:2], dtype)
    assert torch.allclose(ours[2].double(), theirs[2], rtol=10 * CLOSE[dtype])
    slope = randn(*theirs[0].shape, dtype=dtype)
    found, right = gradients(ours[0], inputs, slope), gradients(theirs[0], expected, slope.double())
    assert all(torch.allclose(a.double(), b, atol=100 * CLOSE[dtype]) for a, b in zip(found, right, strict=True))
    stored = [value.detach() for value in ours[1:]]
    again = operators.finish(*(tensor.detach() for tensor in inputs), stored, numbers, "triton", **order)
    assert torch.equal(again[0], ours[0])


def test_of_a_single_value_beta_is_left():
    x, gamma, beta = finish_inputs((1, 4, 5), torch.float64)
    y, mean, variance = operators.finish(x, gamma, beta, None, norm.numbers(["tanh"] * 4, DEVICE), "triton", first=True)
    assert torch.equal(y[0], beta)
    assert torch.allclose(mean, x[0].tanh())
    assert not variance.any()
    assert not gradients(y.sum(), x, None)[0].any()


def test_activations_are_exact_near_zero_and_far_from_it():
    x = torch.tensor([-300.0, -30.0, -0.6, -0.4, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.4, 30.0, 300.0], dtype=torch.float64)
    maps = x.to(DEVICE)[:, None, None].expand(12, 4, 1)
    zero, one = (
        torch.zeros(4, 1, dtype=torch.float64, device=DEVICE),
        torch.ones(4, 1, dtype=torch.float64, device=DEVICE),
    )
    y = operators.finish(maps, one, zero, (zero, one - 1e-5), norm.numbers(ACTIVATIONS, DEVICE), "triton")[0]
    for m, theirs in enumerate((F.relu, F.elu, torch.sigmoid, torch.tanh)):
        assert torch.allclose(y[:, m, 0].cpu(), theirs(x), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_not_a_number_is_not_hidden(name):
    x = randn(2, 4, 4, 2, 3)
    x[1, 2, 3, 0, 1] = torch.nan
    gamma = torch.ones(2, 3, dtype=torch.float64, device=DEVICE)
    numbers = norm.numbers([name] * 2, DEVICE)
    y, mean, variance = norm.normalize_batch(x, gamma, 0 * gamma, numbers, pool=True)
    assert y[..., 0, 1].isnan().all()
    assert mean[0, 1].isnan()
    assert variance[0, 1].isnan()
    assert y.isnan().sum() == y[..., 0, 1].numel()
    stored = norm.normalize_running(x, gamma, 0 * gamma, 0 * gamma, gamma, numbers, pool=True)
    assert stored[1, 1, 1, 0, 1].isnan()
    assert stored.isnan().sum() == 1


def test_a_network_is_bit_for_bit_the_same_in_any_crowd_and_place(monkeypatch):
    monkeypatch.setattr(convolution, "CHUNK", 64)  # sums over two chunks
    shapes = [(5, 4, 4, 16, 2), (16, 3, 2, 3, 3), (16, 3), (16, 3), (16, 5, 12), (16, 5)]
    tensors = [randn(*shape, dtype=torch.float32) for shape in shapes]
    names = [ACTIVATIONS[place % 4] for place in range(16)]

    def layers(places):
        at = torch.tensor(places, device=DEVICE)
        inputs = [t.index_select(3 if t.dim() == 5 and t.shape[3] == 16 else 0, at).requires_grad_() for t in tensors]
        x, kernel, gamma, beta, units, bias = inputs
        numbers = norm.numbers([names[place] for place in places], DEVICE)
        y, *statistics = norm.normalize_batch(convolution.convolve(x, kernel), gamma, beta, numbers, pool=True)
        z = convolution.dense(y.permute(3, 0, 1, 2, 4).flatten(2), units, bias)
        last, *others = operators.finish(
            z.transpose(0, 1), gamma[:, :1] + 0 * bias, bias, None, numbers, "triton", first=True
        )
        found = torch.autograd.grad(last.square().sum(), inputs)
        by_network = [
            y.movedim(3, 0),
            *statistics,
            z,
            last.transpose(0, 1),
            *others,
            found[0].movedim(3, 0),
            *found[1:],
        ]
        return [tensor.detach() for tensor in by_network]

    everyone = layers(list(range(16)))
    shuffled = torch.randperm(16, generator=GENERATOR).tolist()
    for places in ([7], [3, 12], [1, 15, 4, 8, 2], shuffled):
        for all_of_it, part in zip(everyone, layers(places), strict=True):
            assert torch.equal(all_of_it[places], part), places


def counters(*values):
    return [torch.tensor(list(value), device=DEVICE) for value in values]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_images_are_drawn_and_augmented_as_elsewhere(dtype, bound):
    images = torch.randint(0, 256, (20, 12, 12, 3), generator=GENERATOR, dtype=torch.uint8).to(DEVICE)
    index = torch.randint(0, 20, (3, 5), generator=GENERATOR).to(DEVICE)
    about = counters((2**40 + 7, 5, 9), (0, 3, 9), (1, 0, 77))
    augmented, colourful = counters((True, False, True), (True, True, False))
    noise = draws.noise_bank(DEVICE)
    ours = batch.load(images, index, *about, augmented, colourful, noise, dtype).permute(3, 0, 1, 2, 4)
    plain = images[index].to(dtype) / 255
    changed = augment(plain.clone(), draws.augmentation(*about, 5), colourful, noise).clamp(0, 1).to(dtype)
    assert (ours[1] - plain[1]).abs().max() <= bound / 100
    alone = batch.load(images, index[2:], *(one[2:] for one in (*about, augmented, colourful)), noise, dtype)
    assert torch.equal(alone[:, :, :, 0], ours[2])
    for m in (0, 2):
        assert (ours[m] - changed[m]).abs().max() < bound
        assert (ours[m] - plain[m]).abs().max() > 0.1


@pytest.mark.parametrize("units", [31, 32, 70])
def test_dropout_is_drawn_as_elsewhere(units):
    about = counters((2**40 + 7, 5, 9), (0, 3, 9), (1, 0, 77))
    ours = batch.dropout(*about, 40, units, torch.float32)
    assert torch.equal(ours, 2 * draws.dropout_mask(*about, 40, units).float())


def test_an_update_is_that_of_the_optimisers():
    rules = optimizers.coefficients(["adam", "rmsprop", "momentum"], torch.float64, torch.device(DEVICE))
    ours = [randn(3, 2000), randn(3, 2000), randn(3, 2000), randn(3, 2000).abs()]
    theirs, rates = [state.clone() for state in ours], randn(3, 1)
    batch.update(*ours, rules, rates)
    optimizers.update(*theirs, rules, rates)
    for k in (0, 2, 3):
        close([ours[k]], [theirs[k]], torch.float64)


def test_a_training_step_is_that_of_the_other_implementations_and_needs_no_company():
    sets = {"digits": stripes("digits", size=8, grey=True), "textures": stripes("textures", size=8)}
    images = bank(sets, torch.device(DEVICE))
    design = space.sample("nws_small", 2, seed=4, dataset=sorted(sets), batch_size=32, augmentation="on")
    design["batch_size"][:] = 4
    design["optimizer"][:] = "momentum"  # which does not make rounding large
    members = [member(row, images) for row in rows(design)]

    def step(implementation, members):
        crowd = Slots(cnn.layout(8, 3, 3, 2, 4, 16), 4, images, torch.float64, implementation=implementation)
        crowd.arrange([replace(one) for one in members])
        for place in range(len(members)):
            crowd.start_epoch(place)
        before = crowd.weights.clone()
        crowd.step()
        assert not torch.equal(crowd.weights[0], before[0])
        return {one.row["model"]: crowd.weights[place] for place, one in enumerate(crowd.members)}

    ours, others = (step(one, members) for one in (operators.TRITON, operators.Implementation("im2col")))
    for number in (0, 1):
        assert torch.allclose(ours[number], others[number], rtol=1e-9, atol=1e-9)
    assert torch.equal(step(operators.TRITON, members[1:])[1], ours[1])


def test_a_change_of_course_is_that_of_the_other_implementations():
    sets = {"digits": stripes("digits", size=8, train=70, grey=True), "textures": stripes("textures", size=8, train=70)}
    images = bank(sets, torch.device(DEVICE))
    design = space.sample("nws_small", 2, seed=4, dataset=sorted(sets), batch_size=32, augmentation=["on", "off"])
    design["batch_size"][:] = 25
    other = {"digits": "textures", "textures": "digits"}
    after = {"optimizer": ["rmsprop", "momentum"], "augmentation": {"on": "off", "off": "on"}, "dataset": other}
    design = space.switch(design.assign(optimizer=("model", ["momentum", "adam"])), 1, **after, learning_rate=0.001)

    def trained(implementation):
        crowd = Slots(cnn.layout(8, 3, 3, 2, 4, 16), 25, images, torch.float64, implementation=implementation)
        crowd.arrange([member(row, images) for row in rows(design)])
        for place, one in enumerate(crowd.members):
            one.epoch = 1
            crowd.epochs[place] = 1
            crowd.rates[place] = one.row["learning_rate"] * one.row["decay"]
        crowd.a.fill_(1), crowd.v.fill_(1)
        crowd.switch([0, 1])
        for place in (0, 1):
            crowd.start_epoch(place)
        crowd.step()
        return {one.row["model"]: crowd.weights[place] for place, one in enumerate(crowd.members)}

    ours, others = (trained(one) for one in (operators.TRITON, operators.Implementation("im2col")))
    for number in (0, 1):
        assert torch.allclose(ours[number], others[number], rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("implementation", [operators.TRITON, operators.Implementation()])
def test_a_recorded_step_is_the_step_itself(implementation):
    sets = {"digits": stripes("digits", train=350, grey=True), "textures": stripes("textures")}
    images = bank(sets, torch.device(DEVICE))
    design = space.sample("nws_small", 8, seed=4, dataset=sorted(sets), batch_size=32)
    ends = []
    for recorded in (True, False):
        crowd = Slots(cnn.layout(16, 3, 3, 2, 4, 32), 32, images, torch.float32, implementation=implementation)
        crowd.arrange([member(row, images) for row in rows(design)])
        for place in range(8):
            crowd.start_epoch(place)
        for _ in range(5):
            crowd.step() if recorded else crowd._program()
        ends.append(crowd.weights.clone())
    assert torch.equal(*ends)
