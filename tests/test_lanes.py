import ctypes
import functools
import os
import shutil
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba import njit
from numba.core.compiler_lock import global_compiler_lock

from nwslib import space
from nwslib.population import draws, networks, train
from nwslib.population.augment import augment
from nwslib.population.lanes import arithmetic, layers, memory, plan, product, program
from nwslib.population.lanes.crowd import Crowd
from nwslib.population.slots import bank, member, rows
from nwslib.population.train import OPTIONS

FLOATS = [np.float32, np.float64]
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


# The product.


def compile_anew(dtype, networks, width):
    """Compile a product although it may be there."""
    with global_compiler_lock:
        return product._compiled.__wrapped__(dtype, networks, width)


def multiply(code, width, a, b, c, add=False):
    """Call a compiled product with the strides of its arrays: a (rows, s1, s0, m), b (s1, s0, j), c (rows, j)."""
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 14)(code)
    call(
        a.ctypes.data, a.strides[0], len(a), b.ctypes.data, c.ctypes.data, c.strides[0], b.shape[2] // width,
        a.shape[1], a.strides[1], b.strides[0], a.shape[2], a.strides[2], b.strides[1], int(add),
    )  # fmt: skip


def factors(draw, dtype, rows, s1, s0, m, joint):
    """Two factors and a place for their product, all with gaps between their rows."""
    a = draw((rows, s1 + 1, s0 + 2, m)).astype(dtype)[:, :s1, :s0]
    b = draw((s1 + 1, s0 + 1, joint)).astype(dtype)[:s1, :s0]
    return a, b, np.full((rows + 1, joint + 3), 7, dtype)


def whole(shape):
    return np.random.default_rng(0).integers(-9, 10, shape)


def uneven(shape):
    return np.random.default_rng(0).normal(size=shape)


PAIRS = [
    (dtype, networks, width)
    for dtype, longest in (("float32", 16), ("float64", 8))
    for networks in (1, 2, 4, 8, 16)
    for width in (1, 2, 4, 8, 16)
    if networks <= width <= max(longest, networks)
]


@pytest.mark.parametrize(("dtype", "networks", "width"), PAIRS)
def test_a_product_of_any_vector_shape_is_the_sum_over_both_loops(monkeypatch, dtype, networks, width):
    monkeypatch.setattr(product, "_tiles", lambda registers: ((2, (2, 1)), (1, (2, 1))))  # compiles in a tenth
    code = compile_anew(np.dtype(dtype), networks, width)
    for rows_, s1, s0, vectors in ((1, 1, 1, 1), (7, 3, 2, 3), (4, 1, 5, 2), (3, 0, 4, 1), (0, 2, 2, 2)):
        a, b, c = factors(whole, dtype, rows_, s1, s0, networks, vectors * width)
        expected = c.copy()
        sums = np.einsum("rstj,stj->rj", np.tile(a, vectors * width // networks), b)
        for add in (False, True, True):
            multiply(code, width, a, b, c, add)
            expected[:rows_, : vectors * width] = sums + (expected[:rows_, : vectors * width] if add else 0)
            assert np.array_equal(c, expected), (rows_, s1, s0, vectors, add)


@pytest.mark.parametrize("registers", [16, 32])
def test_tiles_of_every_shape_cover_the_product_once(monkeypatch, registers):
    shapes = product._tiles(registers)
    monkeypatch.setattr(product, "_tiles", lambda _: shapes)
    code = compile_anew(np.dtype("float32"), 2, 4)
    for rows_ in (1, 2, 3, 5, 15, 31):
        for vectors in (1, 2, 3, 4, 7):
            a, b, c = factors(whole, "float32", rows_, 2, 3, 2, vectors * 4)
            multiply(code, 4, a, b, c)
            assert np.array_equal(c[:rows_, :-3], np.einsum("rstj,stj->rj", np.tile(a, 2 * vectors), b))
            assert (c[rows_:] == 7).all()
            assert (c[:, -3:] == 7).all()


def test_each_sum_is_a_chain_of_fused_multiply_adds():
    a, b, c = factors(uneven, "float64", 2, 3, 4, 1, 4)
    multiply(product.compiled(np.dtype("float64"), 1, 4), 4, a, b, c)
    for row in range(2):
        for j in range(4):
            total = 0.0
            for s1 in range(3):
                for s0 in range(4):
                    total = float(Fraction(a[row, s1, s0, 0]) * Fraction(b[s1, s0, j]) + Fraction(total))
            assert c[row, j] == total


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_s_product_has_the_same_bits_in_any_company(dtype):
    """Four networks of six channels: alone, in pairs, all four, in other vectors and beside other rows."""
    a, b, _ = factors(uneven, dtype, 9, 3, 5, 4, 4 * 8)
    kernels, alone = b.reshape(3, 5, 8, 4), {}
    for m, width in ((1, 1), (1, 4), (1, 8), (2, 2), (2, 8), (4, 4), (4, 8)):
        together = {}
        for first in range(0, 4, m):
            part, kernel = a[..., first : first + m].copy(), kernels[..., first : first + m].reshape(3, 5, -1).copy()
            sums = np.zeros((9, 8 * m), dtype)
            code = product.compiled(np.dtype(dtype), m, width)
            multiply(code, width, part[:4], kernel, sums[:4])
            multiply(code, width, part[4:], kernel, sums[4:])
            together |= {first + k: sums.reshape(9, 8, m)[..., k].copy() for k in range(m)}
        alone = alone or together
        assert all(np.array_equal(together[k], alone[k]) for k in range(4)), (m, width)


def test_threads_that_need_the_same_product_compile_it_once(monkeypatch):
    emitted, emitter = [], product._Emitter

    def noted(*arguments):
        emitted.append(arguments[1:])
        return emitter(*arguments)

    monkeypatch.setattr(product, "_tiles", lambda registers: ((1, (1,)),))
    monkeypatch.setattr(product, "_Emitter", noted)
    monkeypatch.setattr(product, "_compiled", functools.cache(product._compiled.__wrapped__))
    arguments, codes = (np.dtype("float32"), 1, 2), []
    threads = [threading.Thread(target=lambda: codes.append(product.compiled(*arguments))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert emitted == [arguments]
    assert len(codes) == 4
    assert len(set(codes)) == 1


def test_a_vector_is_no_longer_than_the_processor_s_and_divides_its_axis():
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        for joint in range(1, 200):
            width = product.vector_width(joint, dtype)
            assert joint % width == 0
            assert width * dtype.itemsize <= product.vector_bytes()
            assert joint % (2 * width) or 2 * width * dtype.itemsize > product.vector_bytes()


# Arithmetic.


def activated(name, x, mixed=False):
    """Apply an activation to a vector; mixed: beside networks of another one."""
    x, kind = x.copy(), layers.ACTIVATIONS.index(name)
    present = np.array([k == kind or mixed for k in range(4)])
    layers.activate(x, 0, 1, 0, 1, len(x), np.full(len(x), kind, np.int8), present)
    return x


def exponentiated(x):
    x = x.copy()
    program._exponentiate(x, 0, len(x))
    return x


def many(dtype):
    r = np.random.default_rng(1)
    spread = [r.normal(size=20_000) * scale for scale in (1e-30, 1e-6, 1e-3, 0.1, 1, 5, 30)]
    return np.concatenate([*spread, [0, -0.0, 0.5 * np.log(2), -0.5 * np.log(2), 20, -20, 86, -86]]).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", layers.ACTIVATIONS)
def test_activations_are_right_to_the_last_bits(dtype, name):
    x = many(dtype)
    exact = ACTIVATIONS[name](x.astype(np.longdouble))
    # The sigmoid is half a tanh plus a half: right to the last bits of one half, not of its small values.
    unit = np.spacing(dtype(0.5)) if name == "sigmoid" else np.spacing(np.abs(exact).astype(dtype))
    worst = np.max(np.abs(activated(name, x) - exact) / np.maximum(unit, np.finfo(dtype).tiny))
    assert worst <= {"relu": 0, "elu": 2, "sigmoid": 1.5, "tanh": 4}[name]


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_exponential_is_right_to_the_last_bits_and_cut_off(dtype):
    x = many(dtype)
    exact = np.exp(np.clip(x, -86, 86).astype(np.longdouble))
    unit = np.spacing(np.maximum(exact, 1).astype(dtype))  # exp(x) - 1 is what is computed
    x = np.clip(x, -86, 86)
    assert np.max(np.abs(exponentiated(x) - exact) / unit) <= 1.5
    end = {np.float32: 87, np.float64: 700}[dtype]
    ends = exponentiated(np.array([end, 2 * end, np.inf, -end, -2 * end, -np.inf], dtype))
    assert np.array_equal(ends, np.repeat(ends[[0, 3]], 3))
    assert ends[0] == pytest.approx(np.exp(end), rel=1e-5)
    assert ends[3] == 0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("name", "limits"), [("relu", (0, np.inf)), ("elu", (-1, np.inf)), ("sigmoid", (0, 1)), ("tanh", (-1, 1))]
)
def test_activations_reach_their_limits_and_pass_nan_on(dtype, name, limits):
    far = activated(name, np.array([-np.inf, -1e30, np.inf, np.nan, 1e30], dtype))
    assert far[:3].tolist() == [limits[0], limits[0], limits[1]]
    assert np.isnan(far[3])
    assert far[4] == min(limits[1], dtype(1e30))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [*layers.ACTIVATIONS, "exp"])
def test_a_vector_of_any_length_gives_the_same_bits(dtype, name):
    x = np.random.default_rng(2).normal(size=40).astype(dtype) * 4
    compute = exponentiated if name == "exp" else lambda part: activated(name, part)
    alone = np.concatenate([compute(x[k : k + 1]) for k in range(40)])
    assert len(set(alone.tolist())) > 15
    for length in range(1, 41):
        assert np.array_equal(compute(x[:length]), alone[:length]), length
    if name != "exp":
        assert np.array_equal(activated(name, x, mixed=True), alone)


@pytest.mark.parametrize("base", [0.9, 0.999, 0.96, 1.0, 0.5, 1.25])
def test_powers_are_products(base):
    for exponent in (0, 1, 2, 3, 7, 64, 1000):
        exact = Fraction(base) ** exponent
        assert abs(Fraction(arithmetic.power(base, exponent)) - exact) <= exact * exponent * Fraction(2) ** -53
    assert arithmetic.power(0.9, 10**9) == 0


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 5, 2**62 + 12345, 2**63 - 1])
def test_philox_is_that_of_the_draws(seed):
    for purpose, epoch, step in ((draws.DROPOUT, 0, 0), (draws.EVALUATION, 999, 12345), (draws.AUGMENTATION, 3, 2**31)):
        expected = draws.words(torch.tensor([seed]), purpose, epoch, step, 12)[0].tolist()
        blocks = [arithmetic.philox(index, step, epoch, purpose, seed) for index in range(3)]
        assert [int(word) for block in blocks for word in block] == expected


# Memory.

_get, _put = memory.streams("test")


@njit
def _running_sums(x):
    for k in range(1, len(x)):
        _put(x, k, memory.current(x, k - 1) + _get(x, k))


@njit
def _doubled(x, y, start):
    for k in range(len(y)):
        _put(y, k, _get(x, start + k) + _get(x, start + k))


def test_a_loop_sees_what_it_wrote():
    x = np.arange(100, dtype=np.float32)
    _running_sums(x)
    assert np.array_equal(x, np.cumsum(np.arange(100)))


def test_loads_and_stores_reach_the_place_that_is_named():
    y = np.zeros(20, np.float32)
    _doubled(np.arange(50, dtype=np.float64), y, 30)
    assert np.array_equal(y, 2 * np.arange(30, 50))


def test_an_address_is_that_of_the_first_number():
    @njit
    def first(x):
        return memory.address(x)

    x = np.zeros(10)
    assert first(x) == x.ctypes.data
    assert first(x[3:]) == x.ctypes.data + 24


# The plan.

LAYOUT = networks.cnn.layout(16, 3, 3, 2, 4, 32)


def test_lanes_are_powers_of_two_that_hold_all():
    assert [plan.lanes_for(n) for n in (1, 2, 3, 4, 5, 8, 9, 16)] == [1, 2, 4, 4, 8, 8, 16, 16]


@pytest.mark.parametrize("layout", [LAYOUT, networks.cnn.layout(16, 5, 5, 4, 3, 7)], ids=["small", "odd"])
def test_the_order_of_lanes_names_every_weight_once_and_turns_kernels(layout):
    order = plan.lane_order(layout)
    assert sorted(order.tolist()) == list(range(layout.size))
    kernel = layout.tensors[0]
    inside = np.arange(layout.size)[order][layout.slices["conv1.kernel"]]  # ky kx i o
    o, i, ky, kx = kernel.shape
    assert np.array_equal(
        inside.reshape(ky, kx, i, o), np.arange(kernel.size).reshape(o, i, ky, kx).transpose(2, 3, 1, 0)
    )


# Crowds. A helper makes one with every kind of network in it.


def crowd_of(bars, count=4, batch=8, dtype=torch.float64, options=(), seed=3, **fixed):
    """A crowd at the start of its first epoch; activations and optimisers in turn, every other network augmented."""
    images = bank(bars, torch.device("cpu"))
    members = members_of(images, count, batch, seed, **fixed)
    crowd = Crowd(networks.cnn.layout(16, *shape_of(members[0].row)), batch, images, dtype, frozenset(options))
    crowd.arrange(members)
    for place in range(count):
        crowd.start_epoch(place)
    return crowd


def members_of(images, count, batch=8, seed=3, **fixed):
    design = space.sample("nws_small", count, seed, dataset=["digits", "textures"])
    turns = {
        "activation": layers.ACTIVATIONS,
        "optimizer": ("adam", "rmsprop", "momentum"),
        "augmentation": ("on", "off"),
    }
    for name, values in turns.items():
        design[name] = ("model", np.resize(np.array(values), count))
    for name, value in {"batch_size": batch, "initialization": "glorot_normal", **fixed}.items():
        design[name] = ("model", np.full(count, value))
    return [member(row, images) for row in rows(space.complete(design))]


def shape_of(row):
    return [row[name] for name in space.ARCHITECTURE if name not in ("family", "image_size")]


def first_maps(crowd):
    """The images that a crowd has loaded, with their margins: (b, y, x, c, m)."""
    first, state = crowd._state.maps[0], crowd._state
    size, margin = int(first["size"]), int(first["filter"]) // 2
    shape = (crowd.batch, size, size + 2 * margin, 3, state.m)
    return state.work[first.x :][: np.prod(shape)].reshape(shape), margin


def load_batch(crowd, per_batch=False):
    program.load(crowd._state, crowd._images, crowd._orders, len(crowd.members), crowd.batch, per_batch)


def disturb(crowd):
    """Give every network weights of its own that no training gave it: betas, means and variances too."""
    variance = np.concatenate([np.full(t.size, t.kind == "variance") for t in crowd.layout.tensors])
    bias = np.concatenate([np.full(t.size, t.kind == "bias" and t.part == "convolution") for t in crowd.layout.tensors])
    for place in range(len(crowd.members)):
        weights, a, v = crowd.state(place)
        weights += np.random.default_rng(place).normal(size=weights.shape) * np.where(bias, 0, 0.1)
        crowd.load(place, np.where(variance, np.abs(weights), weights), a, v)


# Batches.


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_batches_are_those_of_the_draws_and_the_augmentation(bars, dtype, bound):
    crowd = crowd_of(bars, 6, dtype=dtype)
    for place, one in enumerate(crowd.members):
        one.epoch, one.step = 5 - place, min(2 * place, one.steps_per_epoch - 1)
        crowd.start_epoch(place)
        crowd._describe(crowd._state, place, one)
    load_batch(crowd)
    maps, margin = first_maps(crowd)
    for place, one in enumerate(crowd.members):
        index, seed = crowd._orders[place, one.step * 8 :][:8], torch.tensor([one.row["seed"]])
        expected = crowd.images.images[index].double() / 255
        if one.row["augmentation"] == "on":
            draw = draws.augmentation(seed, one.epoch, one.step, 8)
            coloured = torch.tensor([not crowd.images.grey[one.row["dataset"]]])
            expected = augment(expected[None], draw, coloured, crowd.images.noise)[0].clamp(0, 1)
        assert np.allclose(maps[:, :, margin : margin + 16, :, place], expected, rtol=0, atol=bound), one.row
        assert np.array_equal(crowd._state.labels[:, place], crowd.images.labels[index])
        kept = draws.dropout_mask(seed, one.epoch, one.step, 8, 48)[0]
        assert np.array_equal(crowd._state.dropout.reshape(8, 48, -1)[..., place], 2 * kept.numpy())


def test_images_that_are_not_augmented_are_their_bytes_over_255(bars):
    crowd = crowd_of(bars, 2, dtype=torch.float32)
    load_batch(crowd)
    maps, margin = first_maps(crowd)
    exact = crowd.images.images[crowd._orders[1, :8]].numpy().astype(np.float32) / np.float32(255)
    assert np.array_equal(maps[:, :, margin : margin + 16, :, 1], exact)


def test_grey_images_stay_grey_but_for_their_noise(bars):
    crowd = crowd_of(bars, 4, activation="relu", augmentation="on")
    greys = [crowd.images.grey[one.row["dataset"]] for one in crowd.members]
    assert set(greys) == {True, False}
    load_batch(crowd)
    maps, margin = first_maps(crowd)
    for place, grey in enumerate(greys):
        one = maps[:, :, margin : margin + 16, :, place]
        assert (np.abs(one - one.mean(-1, keepdims=True)).mean() < 0.03) == grey


@pytest.mark.parametrize("filter_size", [1, 3, 7])
def test_margins_and_idle_lanes_stay_zero(bars, filter_size):
    crowd = crowd_of(bars, 3, filter_size=filter_size)
    assert crowd._state.m == 4
    for _ in range(3):
        crowd.step()
    crowd.evaluate([0, 1, 2])
    maps, margin = first_maps(crowd)
    assert maps[..., :3].any()
    assert not maps[..., 3].any()
    assert not maps[:, :, :margin].any()
    assert not maps[:, :, maps.shape[2] - margin :].any()
    weights = crowd._state.weights[: crowd.layout.size * 4].reshape(-1, 4)
    assert weights[:, :3].any()
    assert not weights[:, 3].any()
    for layer, after in zip(crowd._state.maps, crowd._state.maps[1:], strict=False):
        size = int(after["size"])
        shape = (8, size, size + 2 * margin, int(layer["outputs"]), 4)
        inside = crowd._state.work[layer["y"] :][: np.prod(shape)].reshape(shape)
        assert inside[:, :, margin : margin + size].any()
        assert not inside[:, :, :margin].any()
        assert not inside[:, :, margin + size :].any()


# Layers: forward and backward, against autograd.


@pytest.mark.parametrize(
    ("filter_size", "depth_conv", "depth_fc", "width_conv", "width_fc", "batch"),
    [
        (1, 3, 1, 1, 1, 5),
        (3, 4, 2, 4, 32, 8),
        (5, 5, 3, 3, 12, 7),
        (7, 3, 4, 12, 8, 2),
        (3, 3, 2, 4, 32, 1),
        (11, 4, 1, 2, 4, 3),
    ],
)
def test_loss_and_gradients_are_those_of_autograd(bars, filter_size, depth_conv, depth_fc, width_conv, width_fc, batch):
    crowd = crowd_of(
        bars, 4, batch, filter_size=filter_size, depth_conv=depth_conv, depth_fc=depth_fc, width_conv=width_conv,
        width_fc=width_fc,
    )  # fmt: skip
    disturb(crowd)
    before = [crowd.state(place)[0] for place in range(4)]
    load_batch(crowd)
    maps, margin = first_maps(crowd)
    maps = torch.tensor(maps[:, :, margin : margin + 16]).permute(4, 0, 3, 1, 2)
    program.learn(crowd._state, batch)
    gradients = crowd._released(crowd._state.gradient, [0, 1, 2, 3])
    for place, one in enumerate(crowd.members):
        labels = torch.tensor(crowd._state.labels[:, place])
        mask = torch.tensor(crowd._state.dropout.reshape(batch, -1, 4)[..., place])
        tensors = {
            name: torch.tensor(values, requires_grad=True) for name, values in crowd.layout.split(before[place]).items()
        }
        moved = crowd.layout.split(crowd.state(place)[0])
        logits, statistics = forward(tensors, maps[place], mask, one.row)
        right = (forward(tensors, maps[place], torch.ones_like(mask), one.row)[0].argmax(1) == labels).sum().item()
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        assert crowd.sums([place]) == [(right, pytest.approx(loss.item(), rel=1e-10))]
        for name, value in statistics.items():
            expected = 0.9 * tensors[name].detach() + 0.1 * value.detach()
            assert moved[name] == pytest.approx(expected.numpy(), rel=1e-9, abs=1e-12), name
        for name, ours in crowd.layout.split(gradients[place]).items():
            theirs = tensors[name].grad
            if theirs is not None:
                assert np.linalg.norm(ours - theirs.numpy()) <= 1e-9 * theirs.norm() + 1e-11, (
                    name,
                    one.row["activation"],
                )


def forward(tensors, x, mask, row):
    """Give the logits of one network on images (b, c, y, x), and the statistics of its batch."""
    activation, statistics, used = getattr(F, row["activation"]), {}, 0

    def normalize(x, layer, axes):
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, keepdim=True, unbiased=False)
        statistics.update({f"{layer}.mean": mean.flatten(), f"{layer}.variance": variance.flatten()})
        gamma, beta = (tensors[f"{layer}.{kind}"].view(mean.shape) for kind in ("gamma", "beta"))
        return (x - mean) / torch.sqrt(variance + 1e-5) * gamma + beta

    blocks = [*networks.cnn.blocks(row["depth_conv"]), 3]
    for number in range(row["depth_conv"]):
        layer = f"conv{number + 1}"
        x = normalize(F.conv2d(x, tensors[f"{layer}.kernel"], padding="same"), layer, (0, 2, 3))
        x = activation(F.max_pool2d(x, 2) if blocks[number] != blocks[number + 1] else x)
    x = x.permute(0, 2, 3, 1).flatten(1)
    for number in range(row["depth_fc"]):
        layer = f"dense{number + 1}"
        x = activation(F.linear(x, tensors[f"{layer}.kernel"].flatten(1), tensors[f"{layer}.bias"]))
        x = normalize(x, layer, (0,)) * mask[:, used : used + x.shape[1]]
        used += x.shape[1]
    return F.linear(x, tensors["output.kernel"].flatten(1), tensors["output.bias"]), statistics


@pytest.mark.parametrize("depth_conv", [3, 4, 5])
def test_evaluation_is_that_of_the_module_with_stored_statistics(bars, depth_conv):
    crowd = crowd_of(bars, 4, batch=7, depth_conv=depth_conv)
    disturb(crowd)
    valid, test = crowd.evaluate([0, 1, 2, 3])
    for place, one in enumerate(crowd.members):
        module = networks.to_module(crowd.layout, crowd.state(place)[0], activation=one.row["activation"])
        for part, ours in ((one.valid, valid[place]), (one.test, test[place])):
            with torch.no_grad():
                logits = module(crowd.images.images[part].permute(0, 3, 1, 2).double() / 255)
            assert ours == (logits.argmax(1) == crowd.images.labels[part]).double().mean().item()


def test_the_pool_keeps_the_largest_and_of_equal_ones_the_first(bars):
    crowd = crowd_of(bars, 2)
    state, layer = crowd._state, crowd._state.maps[0]
    shape = (8, 16, 16, 4, 2)  # b y x c m
    z = np.random.default_rng(0).integers(0, 3, shape).astype(float)
    state.work[layer.z :][: z.size] = z.ravel()
    layers.stored_statistics(layer, state.work, state.weights, 2)  # mean 0, variance 1
    layers.normalize_maps(layer, state.work, state.weights, state.choice, 8, 2)
    windows = z.reshape(8, 8, 2, 8, 2, 4, 2).transpose(0, 1, 3, 5, 6, 2, 4).reshape(8, 8, 8, 4, 2, 4)
    chosen = state.choice[layer.choice :][: windows[..., 0].size].reshape(8, 8, 8, 4, 2)
    assert np.array_equal(chosen, windows.argmax(-1))
    y = state.work[layer.y :][: 8 * 8 * 10 * 4 * 2].reshape(8, 8, 10, 4, 2)[:, :, 1:-1]
    gamma = state.weights[layer.gamma * 2 :][:8].reshape(4, 2)
    assert np.allclose(y, windows.max(-1) * gamma / np.sqrt(1 + layers.EPSILON), rtol=1e-14)


def test_each_optimiser_takes_its_own_step_with_its_own_rate(bars):
    crowd = crowd_of(bars, 3, learning_rate=0.01, decay=0.5)
    state, random = crowd._state, np.random.default_rng(0)
    for place, one in enumerate(crowd.members):
        one.epoch, one.step = 2, place
        crowd._describe(state, place, one)
        weights, a, v = random.uniform(0.5, 1, (3, crowd.layout.size))
        crowd.load(place, weights, a, v * (one.row["optimizer"] != "momentum"))
    before = [crowd.state(place) for place in range(3)]
    state.gradient[:] = random.normal(size=state.gradient.shape)
    gradients = crowd._released(state.gradient, [0, 1, 2])
    program.update(state)
    for place, one in enumerate(crowd.members):
        (w, a, v), g, rate = before[place], gradients[place], 0.01 * 0.5**2
        if one.row["optimizer"] == "adam":
            t = 2 * one.steps_per_epoch + place + 1
            a, v = 0.9 * a + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * a / (np.sqrt(v) + 1e-8)
        elif one.row["optimizer"] == "rmsprop":
            a, v = g, 0.9 * v + 0.1 * g**2
            w = w - rate * g / np.sqrt(v + 1e-10)
        else:
            a = 0.95 * a + g
            w = w - rate * a
        for ours, expected in zip(crowd.state(place), (w, a, v), strict=True):
            assert np.allclose(ours, expected, rtol=1e-13, atol=1e-15), one.row["optimizer"]


def test_the_loss_of_an_unlikely_class_is_finite(bars):
    crowd = crowd_of(bars, 1, dtype=torch.float32)
    state, layer = crowd._state, crowd._state.units[-1]
    logits = np.zeros((8, 20), np.float32)
    logits[:, 0] = 60
    state.work[layer.z :][: logits.size] = logits.ravel()
    state.labels[:, 0] = 1
    program.cross_entropy(state, 8)
    assert crowd.sums([0])[0][1] == pytest.approx(60)
    gradient = state.work[layer.dz :][: logits.size].reshape(8, 20)
    assert gradient[:, 0] == pytest.approx(1 / 8)
    assert gradient[:, 1] == pytest.approx(-1 / 8)


# Buffers.


def test_no_layer_reads_or_writes_beyond_its_buffers(bars, monkeypatch):
    plain, fenced = crowd_of(bars, 3, depth_conv=5, filter_size=5), None
    fences, take = [], plan._Workspace.take

    def take_fenced(workspace, count):
        start = take(workspace, count)
        fences.append((id(workspace), take(workspace, 256)))
        return start

    with monkeypatch.context() as patch:
        patch.setattr(plan._Workspace, "take", take_fenced)
        fenced = crowd_of(bars, 3, depth_conv=5, filter_size=5)
    state, order = fenced._state, list(dict.fromkeys(owner for owner, _ in fences))
    poison = [(state.work if owner == order[0] else state.choice)[at : at + 256] for owner, at in fences[: len(fences)]]
    for fence in poison:
        fence[:] = np.nan if fence.dtype.kind == "f" else 77
    for crowd in (plain, fenced):
        for _ in range(3):
            crowd.step()
    assert len(poison) > 40
    assert np.array_equal(fenced._state.weights, plain._state.weights)
    assert fenced.evaluate([0, 1, 2]) == plain.evaluate([0, 1, 2])
    assert all(np.isnan(fence).all() if fence.dtype.kind == "f" else (fence == 77).all() for fence in poison)


def test_a_state_that_is_loaded_is_the_one_that_was_given(bars):
    crowd = crowd_of(bars, 3)
    crowd.step()
    states = [crowd.state(place) for place in range(3)]
    assert all(len(vector) == crowd.layout.size for vector in states[0])
    crowd.load(0, *states[2])
    for ours, theirs in zip(crowd.state(0), states[2], strict=True):
        assert np.array_equal(ours, theirs)
    for ours, theirs in zip(crowd.state(1), states[1], strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(crowd.vectors([2, 0, 1])[1], states[2][0].astype(np.float32))
    assert np.array_equal(crowd.vectors([2, 0, 1])[2], states[1][0].astype(np.float32))


def test_a_network_starts_with_its_draws(bars):
    crowd = crowd_of(bars, 3, initialization="normal")
    for place, one in enumerate(crowd.members):
        weights, a, v = crowd.state(place)
        assert np.array_equal(weights, draws.initial_weights(crowd.layout, one.row["seed"], "normal").numpy())
        assert not a.any()
        assert (v == (one.row["optimizer"] == "rmsprop")).all()


# The same alone and in any crowd.


def train_on(crowd, steps):
    for _ in range(steps):
        for place, one in enumerate(crowd.members):
            if one.step == 0:
                crowd.start_epoch(place)
        crowd.step()


def everything(crowd, place):
    return [*crowd.state(place), *crowd.sums([place])[0]]


def equal(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def taken(bars, order, dtype, steps=3, seed=3):
    """Train some of sixteen networks together; give all that is known of each, by its number."""
    images = bank(bars, torch.device("cpu"))
    everyone = members_of(images, 16, seed=seed)
    crowd = Crowd(LAYOUT, 8, images, dtype)
    crowd.arrange([everyone[k] for k in order])
    train_on(crowd, steps)
    valid, test = crowd.evaluate(list(range(len(order))))
    return {k: [*everything(crowd, place), valid[place], test[place]] for place, k in enumerate(order)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_is_the_same_for_any_number_and_order_of_members(bars, dtype):
    together = taken(bars, range(16), dtype)
    for order in ([5], [2], [9, 5], [5, 2, 9], [15, 2, 5, 0, 9], [*range(15, -1, -1)]):
        for number, one in taken(bars, order, dtype).items():
            assert equal(one, together[number]), (number, order)


def test_a_network_is_the_same_through_moves_leaving_and_joining(bars):
    images = bank(bars, torch.device("cpu"))
    everyone = members_of(images, 7)
    crowd = Crowd(LAYOUT, 8, images, torch.float32)
    for steps, who in ((2, [0, 1, 2]), (3, [2, 0, 3, 4, 1]), (1, [4]), (40, [5, 4, 6, 3])):
        crowd.arrange([everyone[k] for k in who])
        train_on(crowd, steps)
    assert everyone[4].epoch == 1  # it moved in mid-epoch and went on into the next one
    kept = everything(crowd, 1)
    alone = members_of(images, 7)[4]
    single = Crowd(LAYOUT, 8, images, torch.float32)
    single.arrange([alone])
    train_on(single, 44)
    assert alone.steps == everyone[4].steps == 44
    assert equal(everything(single, 0), kept)


def test_several_steps_in_one_go_are_the_single_steps(bars):
    one, other = crowd_of(bars, 3, dtype=torch.float32), crowd_of(bars, 3, dtype=torch.float32)
    one._steps = 5
    one.advance()
    train_on(other, 5)
    assert one.members[0].step == 5
    for place in range(3):
        assert equal(everything(one, place), everything(other, place))
    one.members[1].step = one.members[1].steps_per_epoch - 2
    one._steps = 5
    one.advance()
    assert one.members[1].epoch == 1
    assert one.members[1].step == 0


def test_a_few_are_evaluated_as_all_are(bars):
    crowd = crowd_of(bars, 7, dtype=torch.float32)
    train_on(crowd, 20)
    before = [everything(crowd, place) for place in range(7)]
    valid, test = crowd.evaluate(list(range(7)))
    for places in ([3], [1, 6], [0, 2, 5], [0, 1, 2, 3, 4], [4]):
        assert crowd.evaluate(places) == ([valid[k] for k in places], [test[k] for k in places])
    assert len(set(test)) > 2
    assert all(equal(everything(crowd, place), before[place]) for place in range(7))


def test_evaluation_changes_nothing_of_the_training(bars):
    one, other = crowd_of(bars, 5, dtype=torch.float32), crowd_of(bars, 5, dtype=torch.float32)
    for _ in range(3):
        train_on(one, 2)
        one.evaluate([0, 3])
        one.evaluate([0, 1, 2, 3, 4])
    train_on(other, 6)
    assert all(equal(everything(one, place), everything(other, place)) for place in range(5))


@pytest.mark.parametrize("wild", [np.nan, np.inf, 1e38])
def test_a_network_that_diverges_disturbs_nobody(bars, wild):
    calm, stormy = crowd_of(bars, 4, dtype=torch.float32), crowd_of(bars, 4, dtype=torch.float32)
    weights, a, v = stormy.state(1)
    stormy.load(1, np.full_like(weights, wild), a, v)
    for crowd in (calm, stormy):
        train_on(crowd, 2)
    assert not np.isfinite(stormy.state(1)[0]).all()
    assert all(equal(everything(stormy, place), everything(calm, place)) for place in (0, 2, 3))
    assert [part[::3] for part in calm.evaluate([0, 1, 2, 3])] == [part[::3] for part in stormy.evaluate([0, 1, 2, 3])]


# The cache of machine code.


def answer(folder, cache):
    """Call a function of a copied package in a process of its own; give its answer and how often the cache served."""
    code = (
        "from package.caller import answer; print(answer(2.0), sum(answer.stats.cache_hits.values()), "
        "sum(answer.stats.cache_misses.values()))"
    )
    own = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def test_machine_code_is_kept_until_any_file_of_the_package_changes(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\n')
    shutil.copy(Path(arithmetic.__file__), package)
    (package / "called.py").write_text(
        "from package.arithmetic import compiled\n\n@compiled\ndef change(x):\n    return x + 1\n"
    )
    (package / "caller.py").write_text(
        "from package.arithmetic import compiled\nfrom package.called import change\n\n"
        "@compiled\ndef answer(x):\n    return 10 * change(x)\n"
    )
    cache = tmp_path / "cache"
    assert answer(tmp_path, cache) == [30, 0, 1]
    assert answer(tmp_path, cache) == [30, 1, 0]
    (package / "called.py").write_text((package / "called.py").read_text().replace("x + 1", "x + 2"))
    assert answer(tmp_path, cache) == [40, 0, 1]
    assert answer(tmp_path, cache) == [40, 1, 0]


# What the released code did otherwise.


@pytest.fixture(scope="module")
def design(bars):
    design = space.sample("nws_small", 4, seed=7, dataset=sorted(bars), batch_size=32, initialization="glorot_uniform")
    design["augmentation"] = ("model", np.array(["on", "off", "on", "off"]))
    return design


@pytest.fixture(scope="module", params=["lanes", "grouped"])
def outcome(request, design, bars):
    """Train with some options; every implementation has them."""

    @functools.cache
    def finished(*options):
        given = {"max_epochs": 4, "options": options, "implementation": request.param, "progress": False}
        return {int(one.model[0]): one for one in train(design, bars, **given)}

    return finished


def changed(one, other):
    names = (
        "weights",
        *(f"curve_{part}" for part in ("train_accuracy", "valid_accuracy", "test_accuracy", "train_loss")),
    )
    return {name for name in names if not np.array_equal(one[name].values, other[name].values, equal_nan=True)}


MEASURED = {"curve_valid_accuracy", "curve_test_accuracy"}


def test_batch_statistics_change_accuracies_and_nothing_else(outcome):
    plain = outcome()
    differences = [changed(one, plain[k]) for k, one in outcome("batch_statistics").items()]
    assert set().union(*differences) == MEASURED


def test_augmented_evaluation_changes_the_accuracies_of_augmented_networks(outcome):
    plain = outcome()
    others = outcome("augmented_evaluation")
    assert [bool(changed(others[k], plain[k])) for k in range(4)] == [True, False, True, False]
    assert set().union(*(changed(others[k], plain[k]) for k in range(4))) == MEASURED


def test_colours_per_batch_change_augmented_networks_only(outcome):
    plain = outcome()
    others = outcome("colour_per_batch")
    assert ["weights" in changed(others[k], plain[k]) for k in range(4)] == [True, False, True, False]
    assert not changed(others[1], plain[1])


def test_colours_per_batch_are_those_of_the_first_image(bars):
    crowd = crowd_of(bars, 2, augmentation="on")
    load_batch(crowd, per_batch=True)
    maps, margin = first_maps(crowd)
    for place, one in enumerate(crowd.members):
        draw = draws.augmentation(torch.tensor([one.row["seed"]]), 0, 0, 8)
        for name in ("brightness", "contrast", "hue", "saturation", "noise"):
            getattr(draw, name)[:] = getattr(draw, name)[:, :1].clone()
        images = crowd.images.images[crowd._orders[place, :8]].double()[None] / 255
        coloured = torch.tensor([not crowd.images.grey[one.row["dataset"]]])
        expected = augment(images, draw, coloured, crowd.images.noise)[0].clamp(0, 1)
        assert np.allclose(maps[:, :, margin : margin + 16, :, place], expected, rtol=0, atol=1e-12)


def test_bias_noise_moves_the_biases_of_convolutions(outcome):
    plain = outcome()
    where = LAYOUT.slices["conv1.bias"]
    for k, one in outcome("bias_noise").items():
        assert not plain[k]["weights"].values[0, -1, where].any()
        assert one["weights"].values[0, -1, where].any()
        assert not one["weights"].values[0, 0, where].any()


def test_batch_statistics_are_those_of_each_batch(bars):
    """The last batch is filled up with the first images, so that every batch is whole."""
    crowd = crowd_of(bars, 3, batch=32, options=["batch_statistics"])
    disturb(crowd)
    valid, test = crowd.evaluate([0, 1, 2])
    for place, one in enumerate(crowd.members):
        tensors = {name: torch.tensor(part) for name, part in crowd.layout.split(crowd.state(place)[0]).items()}
        for part, ours in ((one.valid, valid[place]), (one.test, test[place])):
            index = np.resize(part.numpy(), -(-len(part) // 32) * 32).reshape(-1, 32)
            right = []
            for batch in index:
                images = crowd.images.images[batch].permute(0, 3, 1, 2).double() / 255
                logits, _ = forward(tensors, images, torch.ones(32, 48), one.row)
                right += (logits.argmax(1) == crowd.images.labels[batch]).tolist()
            assert ours == np.mean(right[: len(part)])


def test_batch_statistics_do_not_depend_on_who_else_is_evaluated(bars):
    crowd = crowd_of(bars, 3, dtype=torch.float32, options=["batch_statistics", "augmented_evaluation"])
    train_on(crowd, 10)
    valid, test = crowd.evaluate([0, 1, 2])
    assert crowd.evaluate([1]) == (valid[1:2], test[1:2])
    assert crowd.evaluate([0, 2]) == (valid[::2], test[::2])


def test_options_are_known_by_name_and_recorded(design, bars):
    with pytest.raises(ValueError, match=r"unknown option 'bias_nois'\. Did you mean 'bias_noise'"):
        train(design, bars, options=["bias_nois"])
    training = train(design, bars, options=[*OPTIONS, "bias_noise"], progress=False)
    assert training.parameters["options"] == sorted(OPTIONS)
