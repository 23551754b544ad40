"""Figures of the league: who reads what how well, with how many networks to learn from, at what cost."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from nwslib.analysis.league import TASKS, published
from nwslib.analysis.plots.look import CHANCE, DOT, MUTED, PALETTE, name_colours, name_ends, percent, tick_at, words
from nwslib.space import nearest

COSTS = {
    "seconds_per_network": "seconds to read a network",
    "seconds_to_train": "seconds to train",
    "parameters": "parameters",
}

_AXES = {
    "accuracy": "accuracy",
    "R2": "R²",
    "MSE": "mean squared error",
    "tau": "Kendall's tau",
    "AUC": "area under the curve",
}
_PUBLISHED = {"color": MUTED, "marker": "D", "markersize": 5.5, "markerfacecolor": "white", "linestyle": "none"}
_NAMED = 3  # published figures of a task: those that are drawn


def league(table: xr.Dataset, group: str, ax: Axes) -> Axes:
    """Draw the scores of a group of tasks as dots with 95 % intervals, a block for each task.

    Parameters
    ----------
    table
        From `nwslib.analysis.league.together`.
    group
        Whose tasks; all of them have the same measure.
    ax
        Axes to draw on; about a quarter of an inch of height for each reader and task.

    Returns
    -------
    matplotlib.axes.Axes
        Readers from the best to the worst; blue are the best and those whose paired interval does not tell them from
        it. The dashed line is the baseline. Hollow diamonds are published figures, of other networks.

    Raises
    ------
    ValueError
        If there is no such group, or its tasks have several measures.
    """
    tasks, measure = _grouped(table, group)
    ticks, names, y = [], [], 0.0
    for task in tasks["task"].values.tolist():
        one = tasks.sel(task=task).dropna("reader", subset=["behind"]).sortby("behind")
        ax.text(0, y, words(task), transform=ax.get_yaxis_transform(), va="center", fontweight="bold", fontsize=9.5)
        first = y + 0.6
        for reader in one["reader"].values.tolist():
            y += 1
            _dot(one.sel(reader=reader), y, ax)
            ticks.append(y)
            names.append(words(reader))
        for figure in _of_others(task, measure):
            y += 1
            ax.plot(figure.value, y, **_PUBLISHED)
            ticks.append(y)
            names.append(f"{figure.method}, published")
        ax.plot([one["baseline"].item()] * 2, [first, y + 0.4], **CHANCE)
        y += 1.4
    ax.set_yticks(ticks, names, fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.set(ylim=(y - 0.6, -0.8), xlabel=f"{_AXES[measure]} on networks never seen")
    lines = [CHANCE | {"label": "without a look"}]
    if any("published" in name for name in names):
        lines.append(_PUBLISHED | {"label": "published, other networks"})
    name_colours(ax, [(PALETTE[0], "best, or not told from it"), (MUTED, "behind")], lines)
    return _scale(ax, ax.xaxis, measure)


def league_size(table: xr.Dataset) -> tuple[float, float]:
    """Say how wide and how high a panel of `league` is that draws all tasks of a table, in inches."""
    lines = int(table["behind"].notnull().sum())
    for task, measure in zip(table["task"].values.tolist(), table["counts"].values.tolist(), strict=True):
        lines += len(_of_others(task, measure))
    return 6.2, 1.2 + 0.22 * (lines + 1.4 * table.sizes["task"])


def learning_curves(curve: xr.Dataset, ax: Axes) -> Axes:
    """Draw the score of readers against the number of networks that they learned from, with 95 % intervals.

    Parameters
    ----------
    curve
        From `nwslib.meta.league.learning_curve`.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        A line for each reader, named at its end; dotted: the baseline.
    """
    measure = np.unique(curve["counts"].values).item()
    one = curve.sel(measure=measure).sortby("trained_on")
    counts, ends = one["trained_on"].values, []
    for place, reader in enumerate(one["reader"].values.tolist()):
        line, colour = one.sel(reader=reader), PALETTE[place % len(PALETTE)]
        ax.fill_between(counts, line["low"].values, line["high"].values, color=colour, alpha=0.12, linewidth=0)
        ax.plot(counts, line["score"].values, color=colour, marker="o", markersize=4)
        ends.append((counts[-1], line["score"].values[-1], words(reader), colour))
    ax.plot(counts, one["baseline"].values, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2.5)))
    tick_at(ax, counts)
    ax.set(xlabel="networks learned from", ylabel=f"{_AXES[measure]} (dotted: without a look)")
    name_ends(ax, ends)
    return _scale(ax, ax.yaxis, measure)


def cost(table: xr.Dataset, group: str, ax: Axes, x: str = "seconds_per_network") -> Axes:
    """Draw the scores of a group of tasks against what they cost.

    Parameters
    ----------
    table
        From `nwslib.analysis.league.together`.
    group
        Whose tasks.
    ax
        Axes to draw on.
    x
        One of `COSTS`; readers without one are left out.

    Returns
    -------
    matplotlib.axes.Axes
        A dot for each reader and task, with its interval, a colour for each task; a reader is named at its best. The
        cost is logarithmic.

    Raises
    ------
    ValueError
        If the group or the cost is unknown, or the tasks of the group have several measures.
    """
    if x not in COSTS:
        raise ValueError(f"unknown cost {x!r}. {nearest(x, COSTS)}")
    tasks, measure = _grouped(table, group)
    for place, task in enumerate(tasks["task"].values.tolist()):
        one = tasks.sel(task=task).dropna("reader", subset=["behind", x])
        ax.vlines(one[x].values, one["low"].values, one["high"].values, color=PALETTE[place], alpha=0.5, linewidth=1.2)
        ax.plot(one[x].values, one["score"].values, **DOT | {"color": PALETTE[place], "markersize": 6})
    names = []
    for reader in tasks["reader"].values.tolist():
        one = tasks.sel(reader=reader).dropna("task", subset=["behind", x])
        if one.sizes["task"]:
            best = one.isel(task=int(one["score"].argmax("task")))
            names.append((best[x].item(), best["score"].item(), words(reader), MUTED))
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.margins(x=0.18, y=0.1)
    name_ends(ax, names)
    ax.set(xlabel=COSTS[x], ylabel=_AXES[measure])
    name_colours(ax, [(PALETTE[place], words(task)) for place, task in enumerate(tasks["task"].values.tolist())])
    return _scale(ax, ax.yaxis, measure)


def _grouped(table: xr.Dataset, group: str) -> tuple[xr.Dataset, str]:
    """Give the tasks of a group, at the measure that counts for all of them."""
    known = np.unique(table["group"].values).tolist()
    if group not in known:
        raise ValueError(f"there is no group {group!r} in the league. {nearest(group, known)}")
    some = table.isel(task=np.flatnonzero(table["group"].values == group))
    measures = np.unique(some["counts"].values).tolist()
    if len(measures) > 1:
        raise ValueError(f"tasks that are drawn together have one measure, not {', '.join(measures)}")
    return some.sel(measure=measures[0]), measures[0]


def _dot(one: xr.Dataset, y: float, ax: Axes) -> None:
    colour = PALETTE[0] if one["behind_low"] <= 0 else MUTED
    ax.plot([one["low"].item(), one["high"].item()], [y, y], color=colour, linewidth=1.6)
    ax.plot(one["score"].item(), y, **DOT | {"color": colour, "markersize": 6})


def _of_others(task: str, measure: str) -> list:
    """Give the best figures that others published of a task, and that of the study's own method."""
    every = published(task, measure) if task in TASKS else ()
    return [one for place, one in enumerate(every) if place < _NAMED - 1 or one.method == "DMC"]


def _scale(ax: Axes, axis: mpl.axis.Axis, measure: str) -> Axes:
    if measure != "accuracy":
        axis.grid(True)
        return ax
    percent(axis, ax)
    low, high = axis.get_view_interval()
    if high - low < 0.5:  # masks lie close together
        axis.set_major_locator(mpl.ticker.MaxNLocator(5))
    return ax
