"""The look that all figures share: colours, marks, ticks, names at the ends of lines."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from nwslib.snapshots.schema import UNSOUND, layout_of
from nwslib.space import nearest

#: Colours that remain distinct for colour-blind readers, from Okabe and Ito, "Color universal design", 2008.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")

MUTED = "#6B6B6B"
GRID = "#E3E3E3"
CHANCE = {"color": "#222222", "linewidth": 1.5, "linestyle": (0, (2, 1.5)), "label": "chance"}
RING = {"color": MUTED, "marker": "o", "markersize": 4.5, "markerfacecolor": "white", "linestyle": "none"}
DOT = {"color": MUTED, "marker": "o", "markersize": 4.5, "markeredgewidth": 0, "linestyle": "none"}

_PAGE = 8.0  # inches; on a page a wider figure becomes so small that its words can't be read
_LETTER, _HANDLE = 0.072, 0.42  # inches that a letter of a key takes, and what stands before and after its text


def style() -> None:
    """Set one restrained look for all figures of a session: text that reads well at 700 pixels, white, few lines."""
    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 3.6),
            "figure.dpi": 100,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.dpi": 200,
            "font.size": 10.5,
            "axes.titlesize": 10.5,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.labelsize": 10.5,
            "axes.labelcolor": "#333333",
            "axes.edgecolor": "#9A9A9A",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": False,
            "axes.prop_cycle": mpl.cycler(color=PALETTE),
            "grid.color": GRID,
            "xtick.color": "#333333",
            "ytick.color": "#333333",
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "lines.linewidth": 1.8,
        }
    )


def beside(
    draw: Callable[..., Axes],
    shown: Mapping[str, Any],
    size: tuple[float, float] | Callable[[Any], tuple[float, float]],
    *arguments: Any,
) -> np.ndarray:
    """Draw the same figure of several tables, such as those of this run and of the archived reference run.

    Parameters
    ----------
    draw
        One of the functions of `nwslib.analysis.plots`.
    shown
        What it draws, by the title of the panel; a single panel has none.
    size
        Width and height of a panel in inches; or a function that gives them for a table.
    *arguments
        What `draw` takes between the table and the axes.

    Returns
    -------
    numpy.ndarray
        The axes, one per table: below each other where a page has no room for them side by side.
    """
    widths, heights = zip(*[size(table) if callable(size) else size for table in shown.values()], strict=True)
    if sum(widths) <= _PAGE:
        grid, figure = {"ncols": len(shown), "width_ratios": widths}, (sum(widths), max(heights))
    else:
        grid, figure = {"nrows": len(shown), "height_ratios": heights}, (max(widths), sum(heights))
    _, axes = plt.subplots(**grid, figsize=figure, squeeze=False)
    for ax, (label, table) in zip(axes.flat, shown.items(), strict=True):
        draw(table, *arguments, ax)
        if len(shown) > 1:
            ax.set_title(words(label), pad=_above(ax))
    return axes.ravel()


def _above(ax: Axes) -> float:
    """Give the points that a title stays above the axes, over the key if there is one."""
    if ax.get_legend() is None:
        return 6.0
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    return 8.0 + 16.0 * ceil(len(names) / _columns(ax, names))


def _columns(ax: Axes, names: Sequence[str]) -> int:
    """Say in how many columns a key fits over its axes; a wider one would make the layout narrow them."""
    widest = _HANDLE + _LETTER * max(map(len, names))
    return min(max(1, int(ax.get_position().width * ax.figure.get_figwidth() / widest)), len(names))


def words(name: object) -> str:
    """Write a name as words."""
    return str(name).replace("_", " ")


def percent(axis: mpl.axis.Axis, ax: Axes) -> Axes:
    """Give an axis of shares ticks in percent, and a grid."""
    axis.set_major_locator(mpl.ticker.MultipleLocator(0.25))
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(True)
    return ax


def check_number(table: xr.Dataset, name: str) -> None:
    """Raise ValueError unless a variable of a table is a number."""
    if name not in table:
        raise ValueError(f"unknown variable {name!r}. {nearest(name, table.data_vars)}")
    if table[name].dtype.kind not in "fi":
        raise ValueError(f"{name} is not a number in this table: choose another x")


def tick_at(ax: Axes, values: np.ndarray) -> None:
    """Put ticks at the values where they do not collide; logarithmic where values span orders of magnitude."""
    logarithmic = values[0] > 0 and values[-1] > 20 * values[0]
    places = np.log(values) if logarithmic else values
    gap = 0.07 * (places[-1] - places[0])
    kept = [len(values) - 1]
    for place in reversed(range(1, len(values) - 1)):
        if places[kept[-1]] - places[place] > gap and places[place] - places[0] > gap:
            kept.append(place)
    kept.append(0)
    ax.set_xscale("log" if logarithmic else "linear")
    ax.set_xticks(values[kept], [f"{value:,}" for value in values[kept]])
    ax.minorticks_off()


def name_colours(ax: Axes, entries: Sequence[tuple[str, str]], lines: Sequence[dict] = ()) -> None:
    """Name the colours above the axes, in the order of drawing, and the lines or markers after them."""
    handles = [mpl.patches.Patch(color=colour, alpha=0.85, label=text) for colour, text in entries]
    handles += [mpl.lines.Line2D([], [], **line) for line in lines]
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ax.legend(
        handles=handles,
        ncols=_columns(ax, [handle.get_label() for handle in handles]),
        handlelength=1.3,
        columnspacing=1.3,
        handletextpad=0.5,
        **place,
    )


def name_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name of each line at its end, moved apart where lines end close together."""
    low, high = ax.get_ylim()
    gap = (high - low) * 0.065
    heights: list[float] = []
    ordered = sorted(ends, key=lambda end: end[1])
    for _, y, _, _ in ordered:
        heights.append(y if not heights else max(y, heights[-1] + gap))
    for place in reversed(range(len(heights))):  # push down again what was pushed over the top
        ceiling = high if place == len(heights) - 1 else heights[place + 1] - gap
        heights[place] = min(heights[place], ceiling)
    for (x, _, text, colour), height in zip(ordered, heights, strict=True):
        ax.annotate(text, (x, height), (8, 0), textcoords="offset points", va="center", color=colour)


def property_of(data: xr.Dataset | xr.DataArray, name: str) -> np.ndarray:
    """Give a column of the networks, or raise ValueError with the nearest that there is."""
    held = data.variables if isinstance(data, xr.Dataset) else data.coords
    known = [column for column in held if data[column].dims == ("model",)]
    if name not in known:
        raise ValueError(f"unknown property {name!r}. {nearest(name, known)}")
    return data[name].values


def members_of(data: xr.Dataset | xr.DataArray, by: str) -> list[tuple[object, np.ndarray]]:
    """Give each value of a property with the positions of its networks, without diverged and failed ones."""
    values, status = property_of(data, by), property_of(data, "status")
    if len(np.unique(values)) > len(PALETTE):
        raise ValueError(f"{by} has {len(np.unique(values))} values, but there are {len(PALETTE)} colours")
    sound = ~np.isin(status, UNSOUND)
    groups = [(value, np.flatnonzero(sound & (values == value))) for value in np.unique(values)]
    return [(value, members) for value, members in groups if len(members)]


def layer_borders(ax: Axes, population: xr.Dataset) -> None:
    """Mark where layers begin along the weight vector, and name those that are wide enough."""
    layout = layout_of(population)
    for layer in dict.fromkeys(tensor.layer for tensor in layout.tensors):
        places = [layout.slices[tensor.name] for tensor in layout.tensors if tensor.layer == layer]
        first, last = places[0].start, places[-1].stop
        ax.axvline(first, color=GRID, linewidth=1, zorder=0)
        if last - first > 0.04 * layout.size:
            ax.text((first + last) / 2, 1.03, layer, ha="center", fontsize=9, color=MUTED)
