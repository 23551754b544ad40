import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from nwslib.population import draws
from nwslib.population.networks import cnn

SEEDS = torch.tensor([3, 2**62 + 5, 12345678901])


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, expected):
    words = draws.philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_a_draw_belongs_to_its_network_and_not_to_the_batch():
    together = draws.words(SEEDS, draws.ORDER, torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]), 10)
    alone = draws.words(SEEDS[1:2], draws.ORDER, 2, 5, 10)
    assert torch.equal(together[1:2], alone)
    longer = draws.words(SEEDS[1:2], draws.ORDER, 2, 5, 99)
    assert torch.equal(longer[:, :10], alone)


def test_streams_differ_by_seed_purpose_epoch_and_step():
    base = draws.words(SEEDS[:1], draws.ORDER, 1, 2, 64)
    others = [
        draws.words(SEEDS[1:2], draws.ORDER, 1, 2, 64),
        draws.words(SEEDS[:1], draws.DROPOUT, 1, 2, 64),
        draws.words(SEEDS[:1], draws.ORDER, 2, 2, 64),
        draws.words(SEEDS[:1], draws.ORDER, 1, 3, 64),
    ]
    assert all((base == other).float().mean() < 0.1 for other in others)


def test_every_kind_of_draw_has_a_stream_of_its_own(monkeypatch):
    purposes, words = [], draws.words
    monkeypatch.setattr(draws, "words", lambda *values: purposes.append(values[1]) or words(*values))
    draws.initial_weights(cnn.layout(16, 3, 3, 2, 4, 32), 1, "normal")
    draws.split(1, 100)
    draws.epoch_order(1, 0, torch.tensor([0, 1]))
    draws.augmentation(SEEDS, 0, 0, 2)
    draws.dropout_mask(SEEDS, 0, 0, 2, 8)
    draws.noise_bank.__wrapped__()
    assert len(purposes) == len(set(purposes)) == 6


@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 0)])
def test_each_step_has_its_own_augmentation_and_dropout(epoch, step):
    first, other = (draws.augmentation(SEEDS, *when, 8) for when in ((0, 0), (epoch, step)))
    assert all((getattr(first, field.name) != getattr(other, field.name)).all() for field in fields(first))
    masks = [draws.dropout_mask(SEEDS, *when, 8, 48) for when in ((0, 0), (epoch, step))]
    assert 0.4 < (masks[0] != masks[1]).float().mean() < 0.6


def test_the_upper_half_of_a_seed_counts():
    low, high = draws.words(torch.tensor([5, 5 + 2**32]), draws.ORDER, 0, 0, 8)
    assert not torch.equal(low, high)


def test_normal_numbers_have_the_moments_of_their_distribution():
    bits = draws.words(torch.tensor([1]), draws.NOISE, 0, 0, 200_000)
    for numbers, fourth in ((draws.normal(bits), 3.0), (draws.truncated_normal(bits), 2.366)):
        assert numbers.mean().abs() < 0.01
        assert abs(numbers.var().item() - 1) < 0.02
        assert abs((numbers**4).mean().item() - fourth) < 0.1
    assert draws.truncated_normal(bits).abs().max() <= 2 / 0.8796


@pytest.mark.parametrize("initialization", ["constant", "normal", "glorot_uniform", "glorot_normal"])
def test_initial_weights_follow_their_distribution(initialization):
    layout = cnn.layout(32, 5, 3, 2, 8, 128)
    vector = draws.initial_weights(layout, 11, initialization)
    parts = layout.split(vector.numpy())
    kernel = parts["dense1.kernel"]
    fans = 512 + 128
    spread = {
        "constant": 0,
        "normal": 1,
        "glorot_uniform": math.sqrt(2 / fans),
        "glorot_normal": math.sqrt(2 / fans),
    }[initialization]
    assert kernel.std() == pytest.approx(spread, rel=0.02, abs=1e-12)
    assert kernel.mean() == pytest.approx(0.1 if initialization == "constant" else 0, abs=0.01)
    convolution = parts["conv2.kernel"]
    if initialization == "glorot_uniform":
        assert abs(convolution).max() == pytest.approx(math.sqrt(6 / (25 * 8 + 25 * 16)), rel=0.01)
    assert (parts["dense1.bias"] == 0).all()
    assert (parts["conv1.beta"] == 0).all()
    assert (parts["conv1.mean"] == 0).all()
    assert (parts["conv1.variance"] == 1).all()
    gammas = np.concatenate([parts[name] for name in parts if name.endswith("gamma")])
    assert (gammas - 1).std() == pytest.approx(0.002, rel=0.2)
    assert gammas.mean() == pytest.approx(1, abs=0.0005)


def test_split_is_nine_to_one_disjoint_and_the_seed_s_own():
    train, valid = draws.split(4, 1003)
    assert len(valid) == 100
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(1003))
    assert not torch.equal(valid, draws.split(5, 1003)[1])


def test_an_epoch_visits_every_class_equally_often_and_no_image_twice():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 41)
    order = draws.epoch_order(9, 0, labels)
    assert len(order) == draws.balanced_count(labels) == 90
    assert len(set(order.tolist())) == 90
    assert torch.bincount(labels[order]).tolist() == [30, 30, 30]


def test_the_sub_sample_is_drawn_anew_in_each_epoch_and_shuffled():
    labels = torch.tensor([0] * 500 + [1] * 100)
    first, second = (draws.epoch_order(9, epoch, labels) for epoch in (0, 1))
    assert len(set(first.tolist()) & set(second.tolist())) < 150
    assert (labels[first][:100] == 0).float().mean() == pytest.approx(0.5, abs=0.2)
    assert torch.equal(first, draws.epoch_order(9, 0, labels))


def test_dropout_keeps_half_of_the_units_independently():
    mask = draws.dropout_mask(SEEDS, torch.tensor([0, 1, 2]), 3, batch=500, units=48)
    assert mask.shape == (3, 500, 48)
    assert mask.float().mean(dim=(1, 2)) == pytest.approx(torch.full((3,), 0.5), abs=0.01)
    assert torch.corrcoef(mask[0].float().T).fill_diagonal_(0).abs().max() < 0.2


def test_augmentation_draws_stay_in_their_ranges_and_differ_by_image():
    draw = draws.augmentation(SEEDS, torch.tensor([0, 1, 2]), torch.tensor([0, 0, 7]), batch=400)
    for values, low, high in (
        (draw.shift_x, -3, 3),
        (draw.shift_y, -3, 3),
        (draw.rotation, -math.pi / 12, math.pi / 12),
        (draw.zoom, 0.901, 1.099),
        (draw.shear_x, -math.pi / 60, math.pi / 60),
        (draw.shear_y, -math.pi / 60, math.pi / 60),
        (draw.brightness, -0.2, 0.2),
        (draw.contrast, 0.5, 1.5),
        (draw.hue, -0.08, 0.08),
        (draw.saturation, 0.3, 1.5),
        (draw.noise, 0, 0.03),
    ):
        assert values.shape == (3, 400)
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
    assert len(draw.noise_start.unique()) > 1100
