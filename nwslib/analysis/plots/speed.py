"""Figures of speed and size."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from nwslib.analysis.plots.look import (
    MUTED,
    PALETTE,
)


def rates(measured: xr.Dataset, ax: Axes) -> Axes:
    """Draw how fast several ways are: a bar for the median of the repeats, a whisker from the slowest to the fastest.

    Parameters
    ----------
    measured
        ``rate`` with the dimensions ``way`` and ``repeat``, from `nwslib.population.speed.compare`.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        Each bar with its ratio to the first way.
    """
    values = measured["rate"].transpose("way", "repeat").values
    middle = np.median(values, axis=1)
    for place, (way, repeats) in enumerate(zip(middle, values, strict=True)):
        ax.barh(place, way, 0.7, color=MUTED if place == 0 else PALETTE[0], alpha=0.85)
        ax.plot([repeats.min(), repeats.max()], [place, place], color="#222222", linewidth=1.2)
        text = f"{way:,.0f}" if place == 0 else f"{way:,.0f}  ({way / middle[0]:.1f} times)"
        ax.text(repeats.max() + 0.02 * values.max(), place, text, va="center", color="#333333", fontsize=9.5)
    ax.set_yticks(range(len(middle)), measured["way"].values.tolist())
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 1.35 * values.max()), xlabel="training images per second")
    return ax


def growth(seconds: xr.Dataset, ax: Axes) -> Axes:
    """Draw time against the number of networks, with the straight line through the origin and the largest population.

    Parameters
    ----------
    seconds
        ``seconds`` with the dimensions ``networks`` and ``repeat``.
    ax
        Axes to draw on, both logarithmic afterwards.

    Returns
    -------
    matplotlib.axes.Axes
        A point for the median of the repeats, a whisker from the fastest to the slowest.
    """
    values = seconds["seconds"].transpose("networks", "repeat").values
    counts, middle = seconds["networks"].values, np.median(values, axis=1)
    ax.plot(counts, middle[-1] * counts / counts[-1], color=MUTED, linewidth=1.2, label="time grows with the networks")
    ax.errorbar(
        counts, middle, (middle - values.min(axis=1), values.max(axis=1) - middle), fmt="o", color=PALETTE[0],
        label="measured",
    )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="networks", ylabel="seconds")
    ax.set_xticks(counts, [f"{count:,}" for count in counts])
    ax.set_yticks(middle, [f"{value:.2g}" for value in middle])
    ax.minorticks_off()
    ax.legend()
    return ax
