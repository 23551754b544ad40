"""Figures: one function per kind, axes in, axes out."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from nwslib.analysis.maps import where
from nwslib.snapshots.schema import STATUS, UNSOUND, layout_of
from nwslib.space import nearest

#: Colours that remain distinct for colour-blind readers, from Okabe and Ito, "Color universal design", 2008.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")

_MUTED = "#6B6B6B"
_GRID = "#E3E3E3"
_CHANCE = {"color": "#222222", "linewidth": 1.5, "linestyle": (0, (2, 1.5)), "label": "chance"}
_RING = {"color": _MUTED, "marker": "o", "markersize": 4.5, "markerfacecolor": "white", "linestyle": "none"}
_DOT = {"color": _MUTED, "marker": "o", "markersize": 4.5, "markeredgewidth": 0, "linestyle": "none"}
_CROSS = {"marker": "x", "markersize": 6.5, "markeredgewidth": 1.8, "linestyle": "none"}
_ENDS = {
    "converged": _DOT | {"color": PALETTE[0], "markersize": 5.5},
    "stopped": _RING | {"color": PALETTE[4], "markersize": 5.5},
    "diverged": _CROSS | {"color": PALETTE[1]},
    "failed": _CROSS | {"color": PALETTE[6], "marker": "+"},
}
_MARKS = ("o", "^", "s", "D", "v", "P", "X", "*")
_SAMPLED_NETWORKS = 64  # per value in a histogram of weights


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
            "grid.color": _GRID,
            "xtick.color": "#333333",
            "ytick.color": "#333333",
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "lines.linewidth": 1.8,
        }
    )


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
        ax.plot([one["chance"].item()] * 2, [middle - 0.44, middle + 0.44], **_CHANCE)
    _key(ax, [(PALETTE[place], method) for place, method in enumerate(methods)], [_CHANCE])
    ax.set_yticks(range(len(properties)), [_words(name) for name in properties])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 1.09), xlabel="accuracy on networks never seen", ylim=(-0.6, len(properties) - 0.4))
    return _percent(ax.xaxis, ax)


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
        ax.plot([one["chance"]] * 2, [y - 0.36, y + 0.36], **_CHANCE)
    ax.set_yticks(range(table.sizes["reading"]), [_words(name) for name in table["property"].values])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 1.06), ylim=(table.sizes["reading"] - 0.4, -0.6), xlabel="accuracy")
    _percent(ax.xaxis, ax)
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
        From `nwslib.meta.RunClassifier.predict_runs` on one architecture, with every weight selected.
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
    layout = layout_of(population)
    for layer in dict.fromkeys(tensor.layer for tensor in layout.tensors):
        places = [layout.slices[tensor.name] for tensor in layout.tensors if tensor.layer == layer]
        first, last = places[0].start, places[-1].stop
        ax.axvline(first, color=_GRID, linewidth=1, zorder=0)
        if last - first > 0.04 * layout.size:
            ax.text((first + last) / 2, 1.03, layer, ha="center", fontsize=9, color=_MUTED)
    ax.set(ylim=(0, 1.1), xlabel="first weight of the run", ylabel="accuracy of one run")
    return _percent(ax.yaxis, ax)


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
    _check_number(table, x)
    if by not in table:
        raise ValueError(f"unknown variable {by!r}. {nearest(by, table.data_vars)}")
    ends, lines = [], table.groupby(by)
    shade = 0.16 if len(lines) <= 3 else 0.07  # many bands overlap
    for place, (name, rows) in enumerate(lines):
        line, colour = rows.sortby(x), PALETTE[place % len(PALETTE)]
        ax.fill_between(line[x].values, line["low"].values, line["high"].values, color=colour, alpha=shade, linewidth=0)
        ax.plot(line[x].values, line["accuracy"].values, color=colour, marker="o", markersize=4)
        ax.plot(line[x].values, line["chance"].values, color=colour, linewidth=1.2, linestyle=(0, (1, 2.5)))
        ends.append((line[x].values[-1], line["accuracy"].values[-1], _words(name), colour))
    _scale(ax, np.unique(table[x].values))
    ax.set(ylim=(0, 1.02), xlabel=_words(x), ylabel="accuracy (dotted: chance)")
    _name_ends(ax, ends)
    return _percent(ax.yaxis, ax)


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
    names = [_words(name) for name in matrix["prediction"].values.tolist()]
    slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 7 else {}
    ax.set_xticks(range(len(names)), names, **slant)
    ax.set_yticks(range(len(names)), [f"{name} ({total})" for name, total in zip(names, totals, strict=True)])
    ax.set(xlabel="read as (% of the row)", ylabel="truth (networks)")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


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
    for place, (name, members) in enumerate(_members(population, by)):
        low, middle, high = _quartiles(values[members])
        colour, epochs = PALETTE[place % len(PALETTE)], np.arange(values.shape[1])
        ax.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0)
        ax.plot(epochs, middle, color=colour)
        ends.append((epochs[-1], middle[-1], _words(name), colour))
    ax.set(xlabel="epoch", ylabel=_words(curve))
    if curve == "train_loss":
        _name_ends(ax, ends)
        return ax
    ax.set_ylim(0, 1.02)
    _name_ends(ax, ends)
    return _percent(ax.yaxis, ax)


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
    values, status = _curve(population, curve), _property(population, "status")
    named = []
    for name in (name for name in STATUS if name in status):
        members = np.flatnonzero(status == name)
        for member in members:
            epochs = np.flatnonzero(~np.isnan(values[member]))
            ax.plot(epochs, values[member, epochs], color=_ENDS[name]["color"], linewidth=1.1, alpha=0.7)
            ax.plot(epochs[-1:], values[member, epochs[-1:]], zorder=3, **_ENDS[name])
        named.append(_ENDS[name] | {"label": f"{name} ({len(members)})"})
    _key(ax, [], named)
    ax.set(xlabel="epoch", ylabel=_words(curve))
    if curve == "train_loss":
        return ax
    ax.set_ylim(0, 1.02)
    return _percent(ax.yaxis, ax)


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
        for name, members in _members(population, by)
    }
    low, high = np.quantile(np.concatenate(list(samples.values())), [0.005, 0.995])
    edges = np.linspace(low, high, 81) if high > low else np.linspace(low - 0.5, low + 0.5, 81)
    for number, sample in enumerate(samples.values()):
        counts, _ = np.histogram(sample, edges)
        density = counts / (len(sample) * np.diff(edges))
        colour = PALETTE[number % len(PALETTE)]
        ax.stairs(np.where(density > 0, density, np.nan), edges, color=colour, linewidth=1.5, baseline=None)
    _key(ax, [(PALETTE[number % len(PALETTE)], _words(name)) for number, name in enumerate(samples)])
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
            ax.barh(row, high - low, 0.9, left=low, color=_GRID, alpha=0.8, zorder=0)
            ax.plot([middle] * 2, [row - 0.45, row + 0.45], color=_MUTED, linewidth=1.2, zorder=0)
    entries = [(PALETTE[place % len(PALETTE)], _words(name)) for place, name in enumerate(names)]
    _key(ax, entries if start is None else [*entries, ("#B4B4B4", "before training")])
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
    values, (x, y) = _property(points, by), points.values[:, :2].T
    if values.dtype.kind in "fi" and len(np.unique(values)) > len(PALETTE):
        scatter = ax.scatter(x, y, c=values, cmap="cividis", s=30, linewidths=0.5, edgecolors=_MUTED)
        bar = ax.figure.colorbar(scatter, ax=ax, label=_words(by), shrink=0.9, pad=0.02)
        bar.outline.set_visible(False)
    else:
        groups = _members(points, by)
        for place, (_, members) in enumerate(groups):
            ax.scatter(
                x[members], y[members], marker=_MARKS[place], s=26, color=PALETTE[place], alpha=0.75, linewidths=0
            )
        marks = [
            _DOT | {"color": PALETTE[place], "marker": _MARKS[place], "markersize": 6, "label": _words(name)}
            for place, (name, _) in enumerate(groups)
        ]
        _key(ax, [], marks)
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
    groups = _members(points, by)
    for place, (_, members) in enumerate(groups):
        colour = PALETTE[place % len(PALETTE)]
        for member in members:
            x, y = points.values[member, :, :2].T
            ax.plot(x, y, color=colour, linewidth=0.9, alpha=0.6)
            ax.plot(x[0], y[0], **_RING | {"color": colour})
            ax.plot(x[-1], y[-1], **_DOT | {"color": colour})
    colours = [(PALETTE[place % len(PALETTE)], _words(name)) for place, (name, _) in enumerate(groups)]
    _key(ax, colours, [_RING | {"label": "start"}, _DOT | {"label": "end"}])
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
    groups = _members(travelled, by)
    moments = travelled["snapshot"].values[1:]
    for place, (_, members) in enumerate(groups):
        colour, lines = PALETTE[place % len(PALETTE)], travelled.values[members, 1:]
        for shown, look in (
            (lines.T, {"linewidth": 0.8, "alpha": 0.35}),
            (np.median(lines, axis=0), {"linewidth": 2.6}),
        ):
            # A network that has not moved yet has no place on a logarithmic axis.
            ax.plot(moments, np.where(shown > 0, shown, np.nan), color=colour, **look)
    _key(ax, [(PALETTE[place % len(PALETTE)], _words(name)) for place, (name, _) in enumerate(groups)])
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
        values = _property(design, name)
        if values.dtype.kind == "f":
            ax.hist(values, bins=10, color=PALETTE[0], alpha=0.85, rwidth=0.92)
            ax.set_yticks([])
            ax.set_xticks([values.min(), values.max()], [f"{values.min():.1g}", f"{values.max():.1g}"])
            ax.spines["left"].set_visible(False)
        else:
            known, counts = np.unique(values, return_counts=True)
            ax.barh(range(len(known)), counts, color=PALETTE[0], alpha=0.85, height=0.75)
            ax.set_yticks(range(len(known)), [_words(value) for value in known])
            ax.invert_yaxis()
            for row, count in enumerate(counts):
                ax.text(count, row, f" {count}", va="center", fontsize=9, color="#333333")
            ax.set(xticks=[], xlim=(0, 1.25 * counts.max()))
            ax.spines["bottom"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.set_title(_words(name))
    for ax in flat[len(names) :]:
        ax.set_visible(False)
    return flat


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
        ax.barh(place, way, 0.7, color=_MUTED if place == 0 else PALETTE[0], alpha=0.85)
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
    ax.plot(counts, middle[-1] * counts / counts[-1], color=_MUTED, linewidth=1.2, label="time grows with the networks")
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
    _check_number(table, x)
    names = np.unique(table["property"].values).tolist()
    if len(names) > 1:
        raise ValueError(f"a line is one property: the table has {', '.join(names)}")
    line = table.sortby(x)
    places, colour = line[x].values, PALETTE[0]
    ax.fill_between(places, line["low"].values, line["high"].values, color=colour, alpha=0.16, linewidth=0)
    ax.plot(places, line["r2"].values, color=colour, marker="o", markersize=4)
    ax.axhline(0, color=colour, linewidth=1.2, linestyle=(0, (1, 2.5)))
    _scale(ax, np.unique(places))
    ax.set(ylim=(min(-0.05, line["low"].min().item()), 1.02), xlabel=_words(x), ylabel="R² (dotted: chance)")
    _name_ends(ax, [(places[-1], line["r2"].values[-1], _words(names[0]), colour)])
    ax.yaxis.grid(True)
    return ax


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _percent(axis: mpl.axis.Axis, ax: Axes) -> Axes:
    axis.set_major_locator(mpl.ticker.MultipleLocator(0.25))
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(True)
    return ax


def _check_number(table: xr.Dataset, name: str) -> None:
    if name not in table:
        raise ValueError(f"unknown variable {name!r}. {nearest(name, table.data_vars)}")
    if table[name].dtype.kind not in "fi":
        raise ValueError(f"{name} is not a number in this table: choose another x")


def _scale(ax: Axes, values: np.ndarray) -> None:
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


def _curve(population: xr.Dataset, name: str) -> np.ndarray:
    known = [curve.removeprefix("curve_") for curve in population.data_vars if curve.startswith("curve_")]
    if name not in known:
        raise ValueError(f"unknown curve {name!r}. {nearest(name, known)}")
    return population[f"curve_{name}"].values


def _property(data: xr.Dataset | xr.DataArray, name: str) -> np.ndarray:
    held = data.variables if isinstance(data, xr.Dataset) else data.coords
    known = [column for column in held if data[column].dims == ("model",)]
    if name not in known:
        raise ValueError(f"unknown property {name!r}. {nearest(name, known)}")
    return data[name].values


def _members(data: xr.Dataset | xr.DataArray, by: str) -> list[tuple[object, np.ndarray]]:
    """Give each value of a property with the positions of its networks, without diverged and failed ones."""
    values, status = _property(data, by), _property(data, "status")
    if len(np.unique(values)) > len(PALETTE):
        raise ValueError(f"{by} has {len(np.unique(values))} values, but there are {len(PALETTE)} colours")
    sound = ~np.isin(status, UNSOUND)
    groups = [(value, np.flatnonzero(sound & (values == value))) for value in np.unique(values)]
    return [(value, members) for value, members in groups if len(members)]


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


def _key(ax: Axes, entries: Sequence[tuple[str, str]], lines: Sequence[dict] = ()) -> None:
    """Name the colours above the axes, in the order of drawing, and the lines or markers after them."""
    handles = [mpl.patches.Patch(color=colour, alpha=0.85, label=text) for colour, text in entries]
    handles += [mpl.lines.Line2D([], [], **line) for line in lines]
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ax.legend(
        handles=handles, ncols=min(5, len(handles)), handlelength=1.3, columnspacing=1.3, handletextpad=0.5, **place
    )


def _name_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
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
