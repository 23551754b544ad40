"""Adam, RMSprop and momentum on stacked weights: one rate and one rule per network, one update for all.

With coefficients per network the three rules are one program::

    a = keep_a * a + take_a * g
    v = keep_v * v + take_v * g * g
    w = w - rate * a / (sqrt(v + inside) + outside)

For momentum ``v`` stays 0 and ``inside`` is 1, so that the root is exactly 1.
"""

from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

from nwslib.space import nearest


@dataclass(frozen=True)
class Rule:
    """Coefficients of one optimiser, and where its second state starts."""

    keep_a: float
    take_a: float
    keep_v: float
    take_v: float
    inside: float
    outside: float
    start_v: float


#: TensorFlow 1's optimisers: Adam(0.9, 0.999, 1e-8), RMSProp(decay 0.9, epsilon 1e-10), Momentum(0.95).
RULES = {
    "adam": Rule(0.9, 1 - 0.9, 0.999, 1 - 0.999, 0.0, 1e-8, 0.0),
    "rmsprop": Rule(0.0, 1.0, 0.9, 1 - 0.9, 1e-10, 0.0, 1.0),
    "momentum": Rule(0.95, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0),
}


def coefficients(optimizers: list[str], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Stack the coefficients of each network's rule.

    Parameters
    ----------
    optimizers
        One name per network.
    dtype, device
        Of the weights.

    Returns
    -------
    torch.Tensor
        Shape (7, m, 1), in the order of `Rule`'s fields.

    Raises
    ------
    ValueError
        If an optimiser is unknown.
    """
    for name in optimizers:
        if name not in RULES:
            raise ValueError(f"unknown optimizer {name!r}. {nearest(name, RULES)}")
    table = torch.tensor([astuple(RULES[name]) for name in optimizers], dtype=dtype, device=device)
    return table.T[..., None].contiguous()


def step_rates(rates: np.ndarray, optimizers: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Give the factor of each network's step: the learning rate, for Adam with its bias correction.

    Parameters
    ----------
    rates
        Shape (m,): learning rate now, decay included.
    optimizers
        Shape (m,): names.
    steps
        Shape (m,): steps done, this one included, from 1.

    Returns
    -------
    numpy.ndarray
        Shape (m,), float64.

    Notes
    -----
    TensorFlow 1: rate * sqrt(1 - 0.999**t) / (1 - 0.9**t), epsilon added to the uncorrected root.
    """
    correction = np.sqrt(1 - 0.999**steps) / (1 - 0.9**steps)
    return np.where(optimizers == "adam", rates * correction, rates)


def update(weights: Tensor, gradient: Tensor, a: Tensor, v: Tensor, rules: Tensor, rates: Tensor) -> None:
    """Take one step with every network, in place.

    Parameters
    ----------
    weights, gradient, a, v
        Shape (m, w): the weights, the gradient (used up), and the two states.
    rules
        From `coefficients`.
    rates
        Shape (m, 1), from `step_rates`.
    """
    keep_a, take_a, keep_v, take_v, inside, outside, _ = rules
    a.mul_(keep_a).addcmul_(gradient, take_a)
    v.mul_(keep_v).addcmul_(gradient.square_(), take_v)
    root = torch.add(v, inside, out=gradient).sqrt_().add_(outside)
    weights.sub_((a * rates).div_(root))
