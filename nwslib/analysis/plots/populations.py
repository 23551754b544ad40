"""Figures of populations: curves, weights, maps, images."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from nwslib.analysis.plots.look import (
    DOT,
    GRID,
    MUTED,
    PALETTE,
    RING,
    members_of,
    name_colours,
    name_ends,
    percent,
    property_of,
    words,
)
from nwslib.snapshots.schema import STATUS, layout_of
from nwslib.space import nearest

_CROSS = {"marker": "x", "markersize": 6.5, "markeredgewidth": 1.8, "linestyle": "none"}
_ENDS = {
    "converged": DOT | {"color": PALETTE[0], "markersize": 5.5},
    "stopped": RING | {"color": PALETTE[4], "markersize": 5.5},
    "diverged": _CROSS | {"color": PALETTE[1]},
    "failed": _CROSS | {"color": PALETTE[6], "marker": "+"},
}
_MARKS = ("o", "^", "s", "D", "v", "P", "X", "*")
_SAMPLED_NETWORKS = 64  # per value in a histogram of weights


def curves(population: xr.Dataset, ax: Axes, by: str = "optimizer", curve: str = "test_accuracy") -> Axes:
    """Draw accuracy against epoch: the median network of each value of a property, and the middle half as a band.

    Parameters
    ----------
    population
        One architecture's dataset, or any with ``curve_*`` on ``(model, evaluation)``.
    ax
        Axes to draw on.
    by
        A property.
    curve
        ``"test_accuracy"``, ``"valid_accuracy"``, ``"train_accuracy"`` or ``"train_loss"``.

    Returns
    -------
    matplotlib.axes.Axes
        A network that has stopped counts on with its last value.

    Raises
    ------
    ValueError
        If the property or the curve is unknown.
    """
    values = _hold(_curve(population, curve))
    ends = []
    for place, (name, members) in enumerate(members_of(population, by)):
        low, middle, high = _quartiles(values[members])
        colour, epochs = PALETTE[place % len(PALETTE)], np.arange(values.shape[1])
        ax.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0)
        ax.plot(epochs, middle, color=colour)
        ends.append((epochs[-1], middle[-1], words(name), colour))
    ax.set(xlabel="epoch", ylabel=words(curve))
    if curve == "train_loss":
        name_ends(ax, ends)
        return ax
    ax.set_ylim(0, 1.02)
    name_ends(ax, ends)
    return percent(ax.yaxis, ax)


def status_curves(population: xr.Dataset, ax: Axes, curve: str = "test_accuracy") -> Axes:
    """Draw the curve of every single network, coloured by its status, and mark where and how it ends.

    Parameters
    ----------
    population
        One architecture's dataset, or any with ``curve_*`` on ``(model, evaluation)``; a few dozen networks at most.
    ax
        Axes to draw on.
    curve
        As for `curves`.

    Returns
    -------
    matplotlib.axes.Axes
        Each status that occurs, with the number of its networks; diverged and failed ones are drawn as far as they got.

    Raises
    ------
    ValueError
        If the curve is unknown.
    """
    values, status = _curve(population, curve), property_of(population, "status")
    named = []
    for name in (name for name in STATUS if name in status):
        members = np.flatnonzero(status == name)
        for member in members:
            epochs = np.flatnonzero(~np.isnan(values[member]))
            ax.plot(epochs, values[member, epochs], color=_ENDS[name]["color"], linewidth=1.1, alpha=0.7)
            ax.plot(epochs[-1:], values[member, epochs[-1:]], zorder=3, **_ENDS[name])
        named.append(_ENDS[name] | {"label": f"{name} ({len(members)})"})
    name_colours(ax, [], named)
    ax.set(xlabel="epoch", ylabel=words(curve))
    if curve == "train_loss":
        return ax
    ax.set_ylim(0, 1.02)
    return percent(ax.yaxis, ax)


def weight_histogram(
    population: xr.Dataset, ax: Axes, by: str = "initialization", snapshot: int = 20, tensor: str | None = None
) -> Axes:
    """Draw how weights are distributed, one outline per value of a property.

    Parameters
    ----------
    population
        One architecture's dataset; at most 64 networks of each value are read.
    ax
        Axes to draw on.
    by
        A property.
    snapshot
        Which snapshot.
    tensor
        One tensor, such as ``"conv1.kernel"``; all weights by default.

    Returns
    -------
    matplotlib.axes.Axes
        Densities on a logarithmic axis; the outermost 0.5 % of the weights on either side are not shown.

    Raises
    ------
    ValueError
        If the property or the tensor is unknown.
    """
    layout = layout_of(population)
    if tensor is not None and tensor not in layout.slices:
        raise ValueError(f"unknown tensor {tensor!r}. {nearest(tensor, layout.slices)}")
    place = slice(None) if tensor is None else layout.slices[tensor]
    weights = population["weights"].sel(snapshot=snapshot).isel(weight=place)
    samples = {
        name: weights.isel(model=members[:_SAMPLED_NETWORKS]).values.ravel()
        for name, members in members_of(population, by)
    }
    low, high = np.quantile(np.concatenate(list(samples.values())), [0.005, 0.995])
    edges = np.linspace(low, high, 81) if high > low else np.linspace(low - 0.5, low + 0.5, 81)
    for number, sample in enumerate(samples.values()):
        counts, _ = np.histogram(sample, edges)
        density = counts / (len(sample) * np.diff(edges))
        colour = PALETTE[number % len(PALETTE)]
        ax.stairs(np.where(density > 0, density, np.nan), edges, color=colour, linewidth=1.5, baseline=None)
    name_colours(ax, [(PALETTE[number % len(PALETTE)], words(name)) for number, name in enumerate(samples)])
    ax.set(yscale="log", xlabel=f"{'weight' if tensor is None else tensor} at snapshot {snapshot}", ylabel="density")
    return ax


def layer_spreads(end: xr.DataArray, ax: Axes, start: xr.DataArray | None = None) -> Axes:
    """Draw how far the weights of each layer's kernel spread, one bar per value of a property.

    Parameters
    ----------
    end
        From `nwslib.analysis.maps.spreads`.
    ax
        Axes to draw on; about half an inch of height for each layer suits three values.
    start
        The same before training: drawn in grey behind, with a line at the median; the mean over its values.

    Returns
    -------
    matplotlib.axes.Axes
        Layers from the input at the top; thin bars from the 1st to the 99th percentile, thick ones from the 25th to
        the 75th, a mark at the median.
    """
    names, layers = end["value"].values.tolist(), end["layer"].values.tolist()
    height = 0.8 / len(names)
    for row, layer in enumerate(layers):
        for place, name in enumerate(names):
            low, first, middle, third, high = end.sel(layer=layer, value=name).values
            y, colour = row - 0.4 + height * (place + 0.5), PALETTE[place % len(PALETTE)]
            ax.barh(y, high - low, height * 0.26, left=low, color=colour, alpha=0.55)
            ax.barh(y, third - first, height * 0.78, left=first, color=colour, alpha=0.9)
            for ink, width in ((colour, 3.2), ("white", 1.2)):  # a bar without width is seen as well
                ax.plot([middle] * 2, [y - 0.39 * height, y + 0.39 * height], color=ink, linewidth=width)
        if start is not None:
            low, _, middle, _, high = start.sel(layer=layer).mean("value").values
            ax.barh(row, high - low, 0.9, left=low, color=GRID, alpha=0.8, zorder=0)
            ax.plot([middle] * 2, [row - 0.45, row + 0.45], color=MUTED, linewidth=1.2, zorder=0)
    entries = [(PALETTE[place % len(PALETTE)], words(name)) for place, name in enumerate(names)]
    name_colours(ax, entries if start is None else [*entries, ("#B4B4B4", "before training")])
    ax.set_yticks(range(len(layers)), layers)
    ax.tick_params(axis="y", length=0)
    ax.set(ylim=(len(layers) - 0.5, -0.5), xlabel="weight (thin: 98 % of the kernel, thick: half of it)")
    return ax


def landscape(points: xr.DataArray, ax: Axes, by: str) -> Axes:
    """Draw a map of networks, one mark for each.

    Parameters
    ----------
    points
        From `nwslib.analysis.maps.landscape`.
    ax
        Axes to draw on.
    by
        A column of the networks. Names get a colour and a mark each; numbers of more than eight values a scale.

    Returns
    -------
    matplotlib.axes.Axes
        First against second component, each with its share of the variance.

    Raises
    ------
    ValueError
        If the column is unknown, or there are more than eight names.
    """
    values, (x, y) = property_of(points, by), points.values[:, :2].T
    if values.dtype.kind in "fi" and len(np.unique(values)) > len(PALETTE):
        scatter = ax.scatter(x, y, c=values, cmap="cividis", s=30, linewidths=0.5, edgecolors=MUTED)
        bar = ax.figure.colorbar(scatter, ax=ax, label=words(by), shrink=0.9, pad=0.02)
        bar.outline.set_visible(False)
    else:
        groups = members_of(points, by)
        for place, (_, members) in enumerate(groups):
            ax.scatter(
                x[members], y[members], marker=_MARKS[place], s=26, color=PALETTE[place], alpha=0.75, linewidths=0
            )
        marks = [
            DOT | {"color": PALETTE[place], "marker": _MARKS[place], "markersize": 6, "label": words(name)}
            for place, (name, _) in enumerate(groups)
        ]
        name_colours(ax, [], marks)
    return _name_components(points, ax)


def trajectory(points: xr.DataArray, ax: Axes, by: str = "optimizer") -> Axes:
    """Draw the way of each network through weight space, from its initialisation (ring) to its end (dot).

    Parameters
    ----------
    points
        From `nwslib.analysis.maps.project`.
    ax
        Axes to draw on.
    by
        The property that gives the colour.

    Returns
    -------
    matplotlib.axes.Axes
        First against second component, each with its share of the variance.
    """
    groups = members_of(points, by)
    for place, (_, members) in enumerate(groups):
        colour = PALETTE[place % len(PALETTE)]
        for member in members:
            x, y = points.values[member, :, :2].T
            ax.plot(x, y, color=colour, linewidth=0.9, alpha=0.6)
            ax.plot(x[0], y[0], **RING | {"color": colour})
            ax.plot(x[-1], y[-1], **DOT | {"color": colour})
    colours = [(PALETTE[place % len(PALETTE)], words(name)) for place, (name, _) in enumerate(groups)]
    name_colours(ax, colours, [RING | {"label": "start"}, DOT | {"label": "end"}])
    return _name_components(points, ax)


def distances(travelled: xr.DataArray, ax: Axes, by: str = "optimizer") -> Axes:
    """Draw how far each network has come from its initialisation, snapshot by snapshot, on a logarithmic axis.

    Parameters
    ----------
    travelled
        From `nwslib.analysis.maps.distances`.
    ax
        Axes to draw on.
    by
        The property that gives the colour.

    Returns
    -------
    matplotlib.axes.Axes
        One thin line per network from the second snapshot on, and a thick one for the median of each value.
    """
    groups = members_of(travelled, by)
    moments = travelled["snapshot"].values[1:]
    for place, (_, members) in enumerate(groups):
        colour, lines = PALETTE[place % len(PALETTE)], travelled.values[members, 1:]
        for shown, look in (
            (lines.T, {"linewidth": 0.8, "alpha": 0.35}),
            (np.median(lines, axis=0), {"linewidth": 2.6}),
        ):
            # A network that has not moved yet has no place on a logarithmic axis.
            ax.plot(moments, np.where(shown > 0, shown, np.nan), color=colour, **look)
    name_colours(ax, [(PALETTE[place % len(PALETTE)], words(name)) for place, (name, _) in enumerate(groups)])
    ax.set(yscale="log", xlabel="snapshot", ylabel="distance from the start")
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.yaxis.grid(True)
    return ax


def image_grid(images: np.ndarray, labels: Sequence[str], ax: Axes, columns: int = 10) -> Axes:
    """Draw images in rows, one row per label.

    Parameters
    ----------
    images
        uint8, shape (b, y, x, c).
    labels
        What each image is: its class, or the set it is from; rows follow their first appearance.
    ax
        Axes to draw on.
    columns
        Images in a row at most.

    Returns
    -------
    matplotlib.axes.Axes
        Labels on the left, no other ink.

    Raises
    ------
    ValueError
        If there is not one label for each image.
    """
    images = np.asarray(images)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images, but {len(labels)} labels")
    names = list(dict.fromkeys(labels))
    side, gap = images.shape[1], max(1, images.shape[1] // 16)
    step = side + gap
    sheet = np.full((len(names) * step - gap, columns * step - gap, 3), 255, dtype="uint8")
    for row, name in enumerate(names):
        chosen = [image for image, label in zip(images, labels, strict=True) if label == name]
        for column, image in enumerate(chosen[:columns]):
            sheet[row * step : row * step + side, column * step : column * step + side] = image
    ax.imshow(sheet, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([row * step + (side - 1) / 2 for row in range(len(names))], [str(name) for name in names])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def design_overview(design: xr.Dataset, axes: Sequence[Axes] | np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draw how often each value of some properties occurs in a design, one axes per property.

    Parameters
    ----------
    design
        From `nwslib.space.sample`, or the table of a population.
    axes
        As many axes as properties, or more; those left over are hidden.
    names
        Properties.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes
        The axes given, flattened. Continuous values are counted in ten bins.

    Raises
    ------
    ValueError
        If there are too few axes, or a property is unknown.
    """
    flat = np.ravel(np.asarray(axes, dtype=object))
    if len(flat) < len(names):
        raise ValueError(f"{len(names)} properties need as many axes, not {len(flat)}")
    for name, ax in zip(names, flat, strict=False):
        values = property_of(design, name)
        if values.dtype.kind == "f":
            ax.hist(values, bins=10, color=PALETTE[0], alpha=0.85, rwidth=0.92)
            ax.set_yticks([])
            ax.set_xticks([values.min(), values.max()], [f"{values.min():.1g}", f"{values.max():.1g}"])
            ax.spines["left"].set_visible(False)
        else:
            known, counts = np.unique(values, return_counts=True)
            ax.barh(range(len(known)), counts, color=PALETTE[0], alpha=0.85, height=0.75)
            ax.set_yticks(range(len(known)), [words(value) for value in known])
            ax.invert_yaxis()
            for row, count in enumerate(counts):
                ax.text(count, row, f" {count}", va="center", fontsize=9, color="#333333")
            ax.set(xticks=[], xlim=(0, 1.25 * counts.max()))
            ax.spines["bottom"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.set_title(words(name))
    for ax in flat[len(names) :]:
        ax.set_visible(False)
    return flat


def _curve(population: xr.Dataset, name: str) -> np.ndarray:
    known = [curve.removeprefix("curve_") for curve in population.data_vars if curve.startswith("curve_")]
    if name not in known:
        raise ValueError(f"unknown curve {name!r}. {nearest(name, known)}")
    return population[f"curve_{name}"].values


def _hold(values: np.ndarray) -> np.ndarray:
    """Repeat the last number of each row over the padding behind it."""
    places = np.where(np.isnan(values), 0, np.arange(values.shape[1]))
    return np.take_along_axis(values, np.maximum.accumulate(places, axis=1), axis=1)


def _quartiles(values: np.ndarray) -> np.ndarray:
    """Give the quartiles of each column; NaN where a column has no number."""
    filled = ~np.isnan(values).all(axis=0)
    found = np.full((3, values.shape[1]), np.nan)
    found[:, filled] = np.nanquantile(values[:, filled], [0.25, 0.5, 0.75], axis=0)
    return found


def _name_components(points: xr.DataArray, ax: Axes) -> Axes:
    shares = points["share"].values
    ax.set(xlabel=f"first component ({shares[0]:.0%} of the variance)", ylabel=f"second component ({shares[1]:.0%})")
    return ax
