"""Figures of footprints: how much, where, when, how sure, from whom, and what becomes of it."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from nwslib.analysis.plots.look import (
    CHANCE,
    DOT,
    MUTED,
    PALETTE,
    layer_borders,
    name_colours,
    name_ends,
    percent,
    words,
)
from nwslib.space import nearest

_WRONG = {"color": PALETTE[1], "marker": "x", "markersize": 6, "markeredgewidth": 1.6, "linestyle": "none"}
_DOTTED = {"linewidth": 1.2, "linestyle": (0, (1, 2.5))}
_WRITTEN = 10  # rows or columns of a matrix whose numbers still can be read


def how_much(found: xr.Dataset, ax: Axes) -> Axes:
    """Draw how much of each property is read from each view of the weights, as a heat map.

    Parameters
    ----------
    found
        From `nwslib.analysis.footprints.how_much`.
    ax
        Axes to draw on; about 0.4 inches of height for each property.

    Returns
    -------
    matplotlib.axes.Axes
        Numbers are scores in percent, in brackets where the interval reaches chance, and a dash where nothing was read;
        colour is the share of the way from chance to certainty, so that properties with few values and with many can
        be compared.
    """
    names = [
        f"{words(name)}{' (R²)' if measure == 'R2' else ''}"
        for name, measure in zip(found["property"].values, found["measure"].values, strict=True)
    ]
    _scores(found, ax, names, found["view"].values.tolist())
    ax.set_aspect("auto")
    return ax


def transfer(found: xr.Dataset, ax: Axes) -> Axes:
    """Draw how well readers that learned from some networks read others, as a heat map.

    Parameters
    ----------
    found
        From `nwslib.analysis.footprints.transfer`.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        As for `how_much`; learned from in rows, read in columns, frames where both are the same.
    """
    rows, columns = (found[name].values.tolist() for name in ("trained_on", "read_on"))
    _scores(found, ax, rows, columns)
    _frame_same(ax, rows, columns)
    ax.set(xlabel="read on", ylabel="learned from")
    return ax


def when(found: xr.Dataset, ax: Axes) -> Axes:
    """Draw how well readers that learned from one snapshot read others, as a heat map.

    Parameters
    ----------
    found
        From `nwslib.analysis.footprints.when`.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        As for `transfer`, the first snapshot at the lower left; numbers where there are at most ten snapshots.
    """
    rows, columns = (found[name].values.tolist() for name in ("trained_at", "read_at"))
    _scores(found, ax, rows, columns)
    _frame_same(ax, rows, columns)
    ax.invert_yaxis()
    ax.set(xlabel="read at snapshot", ylabel="learned from snapshot")
    return ax


def class_probabilities(
    found: xr.Dataset, truth: object, ax: Axes, snapshot: int | None = None, population: xr.Dataset | None = None
) -> Axes:
    """Draw what runs along the weight vector take the networks of one class for.

    Parameters
    ----------
    found
        From `nwslib.analysis.places.along`.
    truth
        The class of the networks.
    ax
        Axes to draw on.
    snapshot
        Which snapshot; the last by default.
    population
        The node that was read, where every weight was selected: its layout marks the layers.

    Returns
    -------
    matplotlib.axes.Axes
        A line for each class, the right one thick; dotted: all classes alike.

    Raises
    ------
    ValueError
        If there is no network of the class.
    """
    known = found["truth"].values.tolist()
    if truth not in known:
        raise ValueError(f"no network is {truth!r}. {nearest(truth, known)}")
    one = _at(found, snapshot)["probability"].sel(truth=truth)
    classes = one["class"].values.tolist()
    for place, name in enumerate(classes):
        line = one.sel({"class": name}).values
        ax.plot(found["start"].values, line, color=PALETTE[place], linewidth=2.6 if name == truth else 1.1)
    ax.axhline(1 / len(classes), color=MUTED, **_DOTTED)
    name_colours(ax, [(PALETTE[place], words(name)) for place, name in enumerate(classes)])
    if population is not None:
        layer_borders(ax, population)
    ax.set(ylim=(0, 1.1), xlabel="first weight of the run", ylabel=f"probability, {words(truth)} networks")
    return percent(ax.yaxis, ax)


def accuracy_by_label(found: xr.Dataset, ax: Axes, snapshot: int | None = None) -> Axes:
    """Draw how often runs in a layer, a unit, or weights of a kind name the right class, with 95 % intervals.

    Parameters
    ----------
    found
        From `nwslib.analysis.places.by_label`.
    ax
        Axes to draw on.
    snapshot
        Which snapshot; the last by default.

    Returns
    -------
    matplotlib.axes.Axes
        Dots for names, the first at the top; a line with a band for the numbers of units.
    """
    one, labels = _at(found, snapshot), found["label"].values
    if labels.dtype.kind in "iu":
        _banded(ax, labels, one, "accuracy", PALETTE[0])
        ax.plot(labels, one["chance"].values, **CHANCE)
        name_colours(ax, [], [CHANCE])
        ax.set(ylim=(0, 1.02), xlabel="unit", ylabel="accuracy of one run")
        return percent(ax.yaxis, ax)
    for y in range(len(labels)):
        ax.plot([one["low"].values[y], one["high"].values[y]], [y, y], color=PALETTE[0], linewidth=1.6)
        ax.plot(one["accuracy"].values[y], y, **DOT | {"color": PALETTE[0], "markersize": 6.5})
    ax.axvline(one["chance"].values[0], **CHANCE)
    name_colours(ax, [], [CHANCE])
    ax.set_yticks(range(len(labels)), [words(name) for name in labels])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 1.04), ylim=(len(labels) - 0.4, -0.6), xlabel="accuracy of one run")
    return percent(ax.xaxis, ax)


def against_epochs(found: Mapping[str, xr.Dataset], ax: Axes) -> Axes:
    """Draw the accuracy of readings against the epochs that networks were trained, with 95 % intervals.

    Parameters
    ----------
    found
        By the name of the line, such as a property: from `nwslib.analysis.footprints.against_epochs`.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        One line each, named at its end; each line's chance level dotted in its colour. Epochs are logarithmic from 1.
    """
    ends = []
    for place, (name, one) in enumerate(found.items()):
        colour, epochs = PALETTE[place % len(PALETTE)], one["epoch"].values
        _banded(ax, epochs, one, "score", colour)
        ax.plot(epochs, one["chance"].values, color=colour, **_DOTTED)
        ends.append((epochs[-1], one["score"].values[-1], words(name), colour))
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    last = max(end[0] for end in ends)
    ticks = [0, *(10.0**power for power in range(int(np.log10(max(last, 1))) + 1))]
    ax.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    ax.minorticks_off()
    ax.set(ylim=(0, 1.02), xlabel="epochs trained", ylabel="accuracy (dotted: chance)")
    name_ends(ax, ends)
    return percent(ax.yaxis, ax)


def sure(networks: xr.Dataset, ax: Axes) -> Axes:
    """Draw how sure a reader is of each network, from the least to the most, and mark those that it gets wrong.

    Parameters
    ----------
    networks
        From `nwslib.analysis.places.sure`.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        A mark for the mean probability of the right class, a line over the middle half of the runs.
    """
    ranks, right = np.arange(networks.sizes["model"]) + 1, networks["right"].values
    for members, look in ((right, DOT | {"color": PALETTE[0]}), (~right, _WRONG)):
        ax.vlines(
            ranks[members],
            networks["quarter"].values[members],
            networks["three_quarters"].values[members],
            color=look["color"],
            alpha=0.3,
            linewidth=1,
        )
        ax.plot(ranks[members], networks["of_truth"].values[members], **look)
    ax.axhline(networks.attrs["chance"], **CHANCE)
    entries = [DOT | {"color": PALETTE[0], "label": f"right ({right.sum()})"}]
    name_colours(ax, [], [*entries, _WRONG | {"label": f"wrong ({(~right).sum()})"}, CHANCE])
    ax.set(ylim=(0, 1.02), xlabel="networks, sorted", ylabel="probability of the right class")
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    return percent(ax.yaxis, ax)


def calibration(found: xr.Dataset, ax: Axes) -> Axes:
    """Draw how often a reader is right against how sure it is, with 95 % intervals.

    Parameters
    ----------
    found
        From `nwslib.analysis.calibration.reliability`.
    ax
        Axes to draw on; best square.

    Returns
    -------
    matplotlib.axes.Axes
        A dot for each bin that is not empty, its area the number of predictions; on the line, both are the same.
    """
    filled = found.isel(bin=(found["predictions"] > 0).values)
    x, counts = filled["confidence"].values, filled["predictions"].values
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    ax.vlines(x, filled["low"].values, filled["high"].values, color=PALETTE[0], linewidth=1.6)
    ax.scatter(x, filled["accuracy"].values, s=20 + 180 * counts / counts.max(), color=PALETTE[0], linewidths=0)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability of the class named", ylabel="share that is right")
    percent(ax.xaxis, ax)
    return percent(ax.yaxis, ax)


def saliency_by_layer(found: xr.Dataset, ax: Axes) -> Axes:
    """Draw how much a weight of each layer counts for a reader, against the mean of all weights.

    Parameters
    ----------
    found
        From `nwslib.analysis.saliency.by_label`, with one label; over classes, the mean is drawn.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        A bar for each layer, the first at the top, on a logarithmic axis from the line at 1, where a weight counts as
        any other; 95 % intervals where several networks were kept apart.
    """
    [label] = found["weights"].dims
    shown = found.mean([name for name in found["ratio"].dims if name != label]).dropna(label)
    ratio, y = shown["ratio"].values, np.arange(shown.sizes[label])
    ax.barh(y, ratio - 1, 0.7, left=1, color=np.where(ratio > 1, PALETTE[0], MUTED), alpha=0.85)
    if "low" in shown:
        ax.hlines(y, shown["low"].values, shown["high"].values, color="#222222", linewidth=1.2)
    ax.axvline(1, color="#222222", linewidth=1.2)
    ax.set_xscale("log")
    ends = np.array([min(ratio.min(), 0.8), max(ratio.max(), 1.25)]) * [0.85, 1.2]
    fine = (0.3, 0.5, 0.7, 1, 1.5, 2, 3)
    ticks = fine if ends[1] < 6 * ends[0] else (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
    ticks = [tick for tick in ticks if ends[0] <= tick <= ends[1]]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_yticks(y, [words(name) for name in shown[label].values])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=ends, ylim=(len(y) - 0.4, -0.6), xlabel="saliency of a weight (1: as any other)")
    return ax


def kernel_positions(found: xr.Dataset, layer: str, ax: Axes) -> Axes:
    """Draw how much a weight counts for a reader by its place in the kernel of a convolution.

    Parameters
    ----------
    found
        From `nwslib.analysis.saliency.by_kernel_position`; over classes, the mean is drawn.
    layer
        Which layer.
    ax
        Axes to draw on; small and square.

    Returns
    -------
    matplotlib.axes.Axes
        Numbers are ratios to the mean of all weights; colours run from the least to the most that any layer has.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    known = found["layer"].values.tolist()
    if layer not in known:
        raise ValueError(f"unknown layer {layer!r}. {nearest(layer, known)}")
    ratios = found["ratio"].mean([name for name in found["ratio"].dims if name not in ("layer", "row", "column")])
    low, high = ratios.min().item(), ratios.max().item()
    grid = ratios.sel(layer=layer).transpose("row", "column").values
    ax.imshow(grid, cmap="Blues", vmin=low, vmax=high + 0.15 * (high - low) + 1e-9)
    for (row, column), ratio in np.ndenumerate(grid):
        colour = "white" if ratio - low > 0.6 * (high - low) else "#333333"
        ax.text(column, row, f"{ratio:.2f}", ha="center", va="center", color=colour, fontsize=9)
    ax.set(xticks=[], yticks=[], xlabel=words(layer))
    ax.spines[:].set_visible(False)
    return ax


def course(found: xr.Dataset, group: str, ax: Axes) -> Axes:
    """Draw how the footprint of one value fades and that of another appears after a switch, with 95 % intervals.

    Parameters
    ----------
    found
        From `nwslib.analysis.interventions.course`.
    group
        Which networks, such as ``"adam to momentum"``.
    ax
        Axes to draw on.

    Returns
    -------
    matplotlib.axes.Axes
        A line for the value before and one for the value after, named at their ends, against snapshots or the epochs
        since the switch; the switch is marked, and the share of each value in training is dotted in its colour.

    Raises
    ------
    ValueError
        If there is no such group.
    """
    known = found["group"].values.tolist()
    if group not in known:
        raise ValueError(f"unknown group {group!r}. {nearest(group, known)}")
    one, x = found.sel(group=group), "since" if "since" in found.dims else "snapshot"
    drawn, ends = ("before",) if one["before"].item() == one["after"].item() else ("before", "after"), []
    for place, value in enumerate(drawn):
        line = one.sel(value=value).dropna(x, subset=["level"])
        _banded(ax, line[x].values, line, "level", PALETTE[place])
        ax.axhline(line["chance"].item(), color=PALETTE[place], **_DOTTED)
        ends.append((line[x].values[-1], line["level"].values[-1], words(one[value].item()), PALETTE[place]))
    if np.isfinite(one["switch"].item()):
        ax.axvline(one["switch"].item(), color="#222222", linewidth=1.2)
        ax.annotate("switch", (one["switch"].item(), 1.04), ha="center", fontsize=9, annotation_clip=False)
    level = "probability" if found.attrs["of"] == "probability" else "share named"
    label = "snapshot" if x == "snapshot" else "epochs since the switch"
    ax.set(ylim=(0, 1.02), xlabel=label, ylabel=f"{level} (dotted: in training)")
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    name_ends(ax, ends)
    return percent(ax.yaxis, ax)


def _at(found: xr.Dataset, snapshot: int | None) -> xr.Dataset:
    known = found["snapshot"].values.tolist()
    if snapshot is not None and snapshot not in known:
        raise ValueError(f"nothing was read at snapshot {snapshot!r}. {nearest(snapshot, known)}")
    return found.isel(snapshot=-1 if snapshot is None else known.index(snapshot))


def _banded(ax: Axes, x: np.ndarray, line: xr.Dataset, name: str, colour: str) -> None:
    """Draw a line with a band over its interval."""
    ax.fill_between(x, line["low"].values, line["high"].values, color=colour, alpha=0.16, linewidth=0)
    ax.plot(x, line[name].values, color=colour, marker="o", markersize=4)


def _scores(found: xr.Dataset, ax: Axes, rows: list, columns: list) -> Axes:
    """Draw a matrix of scores: colour from chance to certainty, numbers where there is room for them."""
    score, low, chance = (found[name].values for name in ("score", "low", "chance"))
    way = np.clip((score - chance) / np.maximum(1 - chance, 1e-9), 0, 1)
    image = ax.imshow(np.where(np.isnan(score), 0, way), cmap="Blues", vmin=0, vmax=1.15)
    if max(score.shape) <= _WRITTEN or min(score.shape) <= 3:
        for (row, column), value in np.ndenumerate(score):
            if np.isnan(value):
                ax.text(column, row, "–", ha="center", va="center", color=MUTED)
                continue
            text = f"{100 * value:.0f}" if low[row, column] > chance[row, column] else f"({100 * value:.0f})"
            colour = "white" if way[row, column] > 0.6 else "#333333"
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=9.5)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, pad=0.02, boundaries=np.linspace(0, 1, 101), ticks=[0, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.set_label("from chance\nto certainty")
    bar.outline.set_visible(False)
    names = [words(name) for name in columns]
    slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 4 else {}
    for set_ticks, values, look in ((ax.set_xticks, names, slant), (ax.set_yticks, [*map(words, rows)], {})):
        step = 1 if score.shape != (len(values),) * 2 else -(-len(values) // _WRITTEN)  # many snapshots, all alike
        set_ticks(range(0, len(values), step), values[::step], **look)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _frame_same(ax: Axes, rows: list, columns: list) -> None:
    for row, name in enumerate(rows):
        if name in columns:
            corner = (columns.index(name) - 0.5, row - 0.5)
            ax.add_patch(mpl.patches.Rectangle(corner, 1, 1, fill=False, edgecolor="#222222", linewidth=1))
