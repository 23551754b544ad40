"""The deep meta-classifier: one-dimensional convolutions over one run of consecutive weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nwslib.space import nearest

_KERNEL = 5
_POOLED_STAGES = ((16, 4), (32, 2), (64, 2))  # channels and stride; a first stride of 2 took twice the time
_HIDDEN = (1024, 1024, 1024, 1024, 64)
_TRUNCATED_STD = 0.87962566  # standard deviation of a unit normal cut at two standard deviations


@dataclass(frozen=True)
class Stage:
    """One convolution of the original network, with the pool that may follow it.

    Attributes
    ----------
    channels
        Output channels.
    pool
        Whether a pool of 2, which drops an odd end, follows.
    """

    channels: int
    pool: bool = False


def short_stages(length: int) -> tuple[Stage, ...]:
    """Give the convolutions of the short form, for runs of up to about 40,000 weights.

    Parameters
    ----------
    length
        Weights in a run.

    Returns
    -------
    tuple of Stage
        From the input.

    Notes
    -----
    Released code of Eilertsen et al., ECAI 2020: 8, 16 and 64 channels are pooled, 32, 128 and 256 are not; six more
    convolutions of 256 channels come after a pool where more than 50 positions are left; a pool closes the stack.

    Examples
    --------
    >>> flat_size(5000, short_stages(5000))
    4864
    """
    stages = [Stage(8, True), Stage(16, True), Stage(32), Stage(64, True), Stage(128), Stage(256)]
    left = length // 8
    for _ in range(6):
        if left > 50:
            stages[-1] = Stage(256, True)
            left //= 2
        stages.append(Stage(256))
    stages[-1] = Stage(256, True)
    return tuple(stages)


def long_stages() -> tuple[Stage, ...]:
    """Give the convolutions of the long form, for runs of at least 4,096 weights.

    Returns
    -------
    tuple of Stage
        From the input: twelve pools, so that 92,868 weights (a whole network of nws_fixed) leave 22 positions.

    Notes
    -----
    Released code of Eilertsen et al., ECAI 2020.

    Examples
    --------
    >>> flat_size(92_868, long_stages())
    5632
    """
    pooled = [Stage(channels, True) for channels in (8, 16, 32, 64, 128, 128, 128, 128, 128)]
    return (*pooled, Stage(128), *[Stage(256, True), Stage(256)] * 2, Stage(256, True))


def flat_size(length: int, stages: Sequence[Stage]) -> int:
    """Count the features that the convolutions hand to the dense layers.

    Parameters
    ----------
    length
        Weights in a run.
    stages
        Convolutions from the input.

    Returns
    -------
    int
        Positions left after all pools, times the channels of the last convolution.
    """
    return (length >> sum(stage.pool for stage in stages)) * stages[-1].channels


def short(length: int, outputs: int) -> nn.Sequential:
    """Build the original deep meta-classifier in its short form.

    Parameters
    ----------
    length
        Weights in a run, at least 16.
    outputs
        Classes.

    Returns
    -------
    torch.nn.Sequential
        Maps runs (b, length) to scores (b, outputs); 10.4 million parameters at 5,000 weights and 10 classes.

    Raises
    ------
    ValueError
        If `length` is too short for the pools.

    Notes
    -----
    Eilertsen et al., ECAI 2020: kernel 5, "same" borders, ReLU then batch norm; no normalisation of the input.
    """
    return _original(length, outputs, short_stages(length))


def long(length: int, outputs: int) -> nn.Sequential:
    """Build the original deep meta-classifier in its long form, for whole networks.

    Parameters
    ----------
    length
        Weights in a run, at least 4,096.
    outputs
        Classes.

    Returns
    -------
    torch.nn.Sequential
        Maps runs (b, length) to scores (b, outputs); 10.9 million parameters at 92,868 weights and 10 classes.

    Raises
    ------
    ValueError
        If `length` is too short for the pools.

    Notes
    -----
    Eilertsen et al., ECAI 2020.
    """
    return _original(length, outputs, long_stages())


class Pooled(nn.Module):
    """A small variant that summarises every level over all positions, and so takes runs of any length.

    Each weight is seen three times: as it is, as its signed logarithm, and as the logarithm of its magnitude. The mean,
    the largest value and the standard deviation over all positions, of these and of each convolution's output, go to
    one hidden layer. Pooling every level, and not the last alone, is what lets it learn from a few hundred networks:
    on 240 of nws_small, 64 runs of 500 name the activation of 60 to 85 % of the test networks, and not of 33 %.
    First weights are torch's own, which learn faster here than the original's.

    Parameters
    ----------
    outputs
        Classes.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stages, inputs = nn.ModuleList(), 3
        for channels, stride in _POOLED_STAGES:
            convolution = nn.Conv1d(inputs, channels, _KERNEL, stride=stride, padding=_KERNEL // 2)
            self.stages.append(nn.Sequential(convolution, nn.ReLU(), nn.BatchNorm1d(channels)))
            inputs = channels
        summaries = 3 * (3 + sum(channels for channels, _ in _POOLED_STAGES))
        hidden = _dense(summaries, 64, dropout=0.2)
        self.head = nn.Sequential(nn.BatchNorm1d(summaries), *hidden, nn.Linear(64, outputs))

    def forward(self, runs: torch.Tensor) -> torch.Tensor:
        """Map runs (b, any length) to scores (b, outputs)."""
        size = runs.abs()
        level = torch.stack([runs, runs.sign() * torch.log1p(1000 * size) / 4, torch.log(size + 1e-6) / 8], dim=1)
        summaries = _summaries(level)
        for stage in self.stages:
            level = stage(level)
            summaries += _summaries(level)
        return self.head(torch.cat(summaries, dim=1))


def pooled(length: int, outputs: int) -> Pooled:
    """Build the small variant that takes runs of any length.

    Parameters
    ----------
    length
        Weights in a run; not used, the network fits any.
    outputs
        Classes.

    Returns
    -------
    Pooled
        Maps runs (b, any length) to scores (b, outputs); 37 thousand parameters at 10 classes.
    """
    return Pooled(outputs)


NETWORKS = {"pooled": pooled, "short": short, "long": long}


def build(network: str, length: int, outputs: int) -> nn.Module:
    """Build a deep meta-classifier by name.

    Parameters
    ----------
    network
        ``"pooled"``, ``"short"`` or ``"long"``.
    length
        Weights in a run.
    outputs
        Classes.

    Returns
    -------
    torch.nn.Module
        Maps runs (b, length) to scores (b, outputs). Its first weights come from torch's generator.

    Raises
    ------
    ValueError
        If the name is unknown, or the runs are too short for the network.

    Examples
    --------
    >>> build("pooled", 100, 4)(torch.zeros(2, 100)).shape
    torch.Size([2, 4])
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown meta-classifier {network!r}. {nearest(network, NETWORKS)}")
    return NETWORKS[network](length, outputs)


def parameter_count(network: nn.Module) -> int:
    """Count the trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _original(length: int, outputs: int, stages: tuple[Stage, ...]) -> nn.Sequential:
    flat = flat_size(length, stages)
    if flat == 0:
        shortest = 2 ** sum(stage.pool for stage in stages)
        raise ValueError(f"runs of {length} weights are too short for this network. The shortest it takes: {shortest}.")
    layers: list[nn.Module] = [nn.Unflatten(1, (1, -1))]
    inputs = 1
    for stage in stages:
        layers += [nn.Conv1d(inputs, stage.channels, _KERNEL, padding=_KERNEL // 2), nn.ReLU()]
        layers += [nn.BatchNorm1d(stage.channels)]
        layers += [nn.MaxPool1d(2)] if stage.pool else []
        inputs = stage.channels
    layers += [nn.Flatten()]
    for units in _HIDDEN:
        layers += _dense(flat, units)
        flat = units
    return _initialised(nn.Sequential(*layers, nn.Linear(flat, outputs)))


def _summaries(level: torch.Tensor) -> list[torch.Tensor]:
    """Give mean, largest value and standard deviation over the positions of (b, channels, positions)."""
    mean = level.mean(dim=2)
    # Not torch's var: on a CPU it took a third of the whole training step. The root has no slope at 0.
    spread = (level.square().mean(dim=2) - mean.square()).clamp(min=1e-8).sqrt()
    return [mean, level.amax(dim=2), spread]


def _dense(inputs: int, units: int, dropout: float = 0.5) -> list[nn.Module]:
    return [nn.Linear(inputs, units), nn.ReLU(), nn.BatchNorm1d(units), nn.Dropout(dropout)]


def _initialised(network: nn.Module) -> nn.Module:
    """Draw weights as TensorFlow's glorot_normal, cut at two standard deviations and rescaled; biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d | nn.Linear):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            std = (2 / (fan_in + fan_out)) ** 0.5 / _TRUNCATED_STD
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)
    return network
