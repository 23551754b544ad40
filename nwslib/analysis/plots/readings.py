"""Figures of scores: bars, dots and lines, each with its interval and chance."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from nwslib.analysis.maps import where
from nwslib.analysis.plots.look import (
    CHANCE,
    PALETTE,
    check_number,
    layer_borders,
    name_colours,
    name_ends,
    percent,
    tick_at,
    words,
)
from nwslib.space import nearest


def accuracy_bars(table: xr.Dataset, ax: Axes) -> Axes:
    """Draw the accuracy of each property as bars, the methods side by side, and mark chance.

    Parameters
    ----------
    table
        From `nwslib.analysis.scores.table`, of classes; one reading per property and method.
    ax
        Axes to draw on; about half an inch of height for each property suits two methods.

    Returns
    -------
    matplotlib.axes.Axes
        Properties from the best read at the top to the worst, 95 % intervals as whiskers.

    Raises
    ------
    ValueError
        If there are two readings of one property with one method.
    """
    methods = list(dict.fromkeys(table["method"].values.tolist()))
    best = {name: rows["accuracy"].values.max() for name, rows in table.groupby("property")}
    properties = sorted(best, key=best.get)
    pairs = list(zip(table["property"].values.tolist(), table["method"].values.tolist(), strict=True))
    if len(set(pairs)) < len(pairs):
        raise ValueError("a bar is one reading: the table has two of one property with one method")
    height = 0.8 / len(methods)
    for row, (name, method) in enumerate(pairs):
        one = table.isel(reading=row)
        y = properties.index(name) + 0.4 - height * (methods.index(method) + 0.5)
        value, low, high = (one[key].item() for key in ("accuracy", "low", "high"))
        ax.barh(y, value, height * 0.9, color=PALETTE[methods.index(method)], alpha=0.85)
        ax.plot([low, high], [y, y], color="#222222", linewidth=1.2)
        ax.text(high + 0.012, y, f"{value:.0%}", va="center", color="#333333", fontsize=9)
        middle = properties.index(name)
        ax.plot([one["chance"].item()] * 2, [middle - 0.44, middle + 0.44], **CHANCE)
    name_colours(ax, [(PALETTE[place], method) for place, method in enumerate(methods)], [CHANCE])
    ax.set_yticks(range(len(properties)), [words(name) for name in properties])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 1.09), xlabel="accuracy on networks never seen", ylim=(-0.6, len(properties) - 0.4))
    return percent(ax.xaxis, ax)


def accuracy_points(table: xr.Dataset, ax: Axes) -> Axes:
    """Draw the accuracy of each property as a dot with its interval, and mark chance: for panels side by side.

    Parameters
    ----------
    table
        From `nwslib.analysis.scores.table`, of classes; one reading per property.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        Properties in the order of the table, the first at the top; filled dots are above chance, open ones are not.
    """
    for y in range(table.sizes["reading"]):
        one = {name: table[name].values[y].item() for name in ("accuracy", "low", "high", "chance", "above_chance")}
        ax.plot([one["low"], one["high"]], [y, y], color=PALETTE[0], linewidth=1.6)
        fill = PALETTE[0] if one["above_chance"] else "white"
        ax.plot(one["accuracy"], y, marker="o", markersize=6.5, color=PALETTE[0], markerfacecolor=fill)
        ax.plot([one["chance"]] * 2, [y - 0.36, y + 0.36], **CHANCE)
    ax.set_yticks(range(table.sizes["reading"]), [words(name) for name in table["property"].values])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 1.06), ylim=(table.sizes["reading"] - 0.4, -0.6), xlabel="accuracy")
    percent(ax.xaxis, ax)
    ax.xaxis.set_major_locator(mpl.ticker.MultipleLocator(0.5))
    return ax


def claims(found: xr.Dataset, ax: Axes) -> Axes:
    """Draw claims of accuracy as dots with intervals, and mark chance.

    Parameters
    ----------
    found
        From `nwslib.analysis.results.load`, some rows of it; of a claim's words, those before " is " name it.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        The best at the top.
    """
    best_first = found.sortby("number", ascending=False)
    names = [text.split(" is ")[0] for text in best_first["claim"].values.tolist()]
    table = best_first.rename({"row": "reading", "number": "accuracy"})
    table["property"], table["above_chance"] = ("reading", names), table["low"] > table["chance"]
    accuracy_points(table, ax).set_xlabel("accuracy on networks never seen")
    return ax


def accuracy_along(runs: xr.DataArray, truth: xr.DataArray, population: xr.Dataset, ax: Axes) -> Axes:
    """Draw how often a run names the right class, against where in the weight vector it begins.

    Parameters
    ----------
    runs
        From `nwslib.meta.RunReader.predict_runs` on one architecture, with every weight selected.
    truth
        The right class of each network, dimension ``model``.
    population
        The node that was read: its layout marks the layers.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        A line over the weight vector, with the borders of the layers.
    """
    found = where(runs, truth)
    ax.plot(found["start"].values, found.values, color=PALETTE[0], marker="o", markersize=3)
    layer_borders(ax, population)
    ax.set(ylim=(0, 1.1), xlabel="first weight of the run", ylabel="accuracy of one run")
    return percent(ax.yaxis, ax)


def accuracy_by(table: xr.Dataset, x: str, ax: Axes, by: str = "property") -> Axes:
    """Draw the accuracy against a parameter of the reading, one line per property, with its 95 % interval.

    Parameters
    ----------
    table
        From `nwslib.analysis.scores.table`, of classes.
    x
        A numerical variable of the table, such as ``"length"`` or ``"snapshot"``; logarithmic where its values are
        positive and span more than a factor of 20.
    ax
        Axes to draw on.
    by
        What distinguishes the lines: ``"property"``, ``"method"``, ``"part"``, ...

    Returns
    -------
    matplotlib.axes.Axes
        Lines named at their ends; each line's chance level dotted in its colour.

    Raises
    ------
    ValueError
        If `x` or `by` is no variable of the table, or `x` is not numerical.
    """
    check_number(table, x)
    if by not in table:
        raise ValueError(f"unknown variable {by!r}. {nearest(by, table.data_vars)}")
    ends, lines = [], table.groupby(by)
    shade = 0.16 if len(lines) <= 3 else 0.07  # many bands overlap
    for place, (name, rows) in enumerate(lines):
        line, colour = rows.sortby(x), PALETTE[place % len(PALETTE)]
        ax.fill_between(line[x].values, line["low"].values, line["high"].values, color=colour, alpha=shade, linewidth=0)
        ax.plot(line[x].values, line["accuracy"].values, color=colour, marker="o", markersize=4)
        ax.plot(line[x].values, line["chance"].values, color=colour, linewidth=1.2, linestyle=(0, (1, 2.5)))
        ends.append((line[x].values[-1], line["accuracy"].values[-1], words(name), colour))
    tick_at(ax, np.unique(table[x].values))
    ax.set(ylim=(0, 1.02), xlabel=words(x), ylabel="accuracy (dotted: chance)")
    name_ends(ax, ends)
    return percent(ax.yaxis, ax)


def r2_by(table: xr.Dataset, x: str, ax: Axes) -> Axes:
    """Draw how much of a number is explained, R2, against a parameter of the reading, with its 95 % interval.

    Parameters
    ----------
    table
        From `nwslib.analysis.scores.table`, of numbers; readings of one property.
    x
        A numerical variable of the table; logarithmic as in `accuracy_by`.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        One line, named at its end; dotted: 0, what the mean of the test networks explains.

    Raises
    ------
    ValueError
        If `x` is no numerical variable of the table, or there are several properties.
    """
    check_number(table, x)
    names = np.unique(table["property"].values).tolist()
    if len(names) > 1:
        raise ValueError(f"a line is one property: the table has {', '.join(names)}")
    line = table.sortby(x)
    places, colour = line[x].values, PALETTE[0]
    ax.fill_between(places, line["low"].values, line["high"].values, color=colour, alpha=0.16, linewidth=0)
    ax.plot(places, line["r2"].values, color=colour, marker="o", markersize=4)
    ax.axhline(0, color=colour, linewidth=1.2, linestyle=(0, (1, 2.5)))
    tick_at(ax, np.unique(places))
    ax.set(ylim=(min(-0.05, line["low"].min().item()), 1.02), xlabel=words(x), ylabel="R² (dotted: chance)")
    name_ends(ax, [(places[-1], line["r2"].values[-1], words(names[0]), colour)])
    ax.yaxis.grid(True)
    return ax


def confusion(matrix: xr.DataArray, ax: Axes) -> Axes:
    """Draw a confusion matrix: of the networks of each class, which share was taken for which.

    Parameters
    ----------
    matrix
        From `nwslib.analysis.scores.confusion`.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        Rows are truths, with the number of networks; shares in percent.
    """
    counts = matrix.values
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.6 else "#333333" if counts[row, column] else "#A8A8A8"
        ax.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    names = [words(name) for name in matrix["prediction"].values.tolist()]
    slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 7 else {}
    ax.set_xticks(range(len(names)), names, **slant)
    ax.set_yticks(range(len(names)), [f"{name} ({total:g})" for name, total in zip(names, totals, strict=True)])
    ax.set(xlabel="read as (% of the row)", ylabel="truth (networks)")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
