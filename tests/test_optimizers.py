import numpy as np
import pytest
import torch

from nwslib.population import optimizers

NAMES = ["adam", "rmsprop", "momentum"]


def by_hand(name, gradients, weight, rate):
    """TensorFlow 1's rules on one number, written out."""
    m = v = accumulated = 0.0
    square = 1.0
    for t, g in enumerate(gradients, start=1):
        if name == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            weight -= rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
        elif name == "rmsprop":
            square = 0.9 * square + 0.1 * g * g
            weight -= rate * g / np.sqrt(square + 1e-10)
        else:
            accumulated = 0.95 * accumulated + g
            weight -= rate * accumulated
    return weight


def run(names, gradients, rate):
    count = len(names)
    weights = torch.full((count, 3), 0.7, dtype=torch.float64)
    a = torch.zeros_like(weights)
    v = torch.tensor([[optimizers.RULES[name].start_v] for name in names], dtype=torch.float64).repeat(1, 3)
    rules = optimizers.coefficients(names, torch.float64, torch.device("cpu"))
    for t, g in enumerate(gradients, start=1):
        rates = optimizers.step_rates(np.full(count, rate), np.array(names), np.full(count, t))
        optimizers.update(weights, torch.full_like(weights, g), a, v, rules, torch.from_numpy(rates)[:, None])
    return weights


def test_each_rule_in_a_crowd_agrees_with_its_formula():
    gradients = np.random.default_rng(0).normal(size=20)
    weights = run(NAMES, gradients, rate=0.01)
    for row, name in zip(weights, NAMES, strict=True):
        assert row[0].item() == pytest.approx(by_hand(name, gradients, 0.7, 0.01), rel=1e-12)


def test_a_rule_is_bit_identical_alone_and_in_a_crowd():
    gradients = np.random.default_rng(1).normal(size=20)
    crowd = run(["momentum", "adam", "rmsprop", "adam"], gradients, rate=0.003)
    for name in NAMES:
        place = ["momentum", "adam", "rmsprop", "adam"].index(name)
        assert torch.equal(crowd[place], run([name], gradients, rate=0.003)[0])


def test_a_zero_gradient_moves_nothing():
    assert (run(NAMES, [0.0] * 5, rate=0.1) == 0.7).all()


def test_an_unknown_optimizer_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown optimizer 'adm'\. Did you mean 'adam'"):
        optimizers.coefficients(["adm"], torch.float32, torch.device("cpu"))
