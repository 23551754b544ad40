from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from nwslib import space
from nwslib.analysis import maps, plots
from nwslib.snapshots import fake, layout_of

PROPERTIES = ["activation", "batch_size", "initialization"]


@pytest.fixture(autouse=True)
def _figures():
    """Draw without a display, in the house's style, and leave nothing behind."""
    mpl.use("Agg")
    with mpl.rc_context():
        plots.style()
        yield
        plt.close("all")


@pytest.fixture(scope="module")
def population():
    design = space.sample("nws_small", 24, seed=0, dataset=["mnist", "fashion"])
    made = [
        network.pad(evaluation=(0, 40 - network.sizes["evaluation"]))
        for network in fake.population(design, diverged=[5])
    ]
    return xr.concat(made, "model", data_vars="all", coords="different", compat="equals", join="exact")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def table(lengths=(100,), methods=("SVM", "DMC")):
    """Give a table whose accuracies say which reading they are."""
    rows = [(name, method, length) for name in PROPERTIES for method in methods for length in lengths]
    value = 0.3 + 0.6 * np.arange(len(rows)) / len(rows)
    columns = {
        "property": [row[0] for row in rows],
        "method": [row[1] for row in rows],
        "length": [row[2] for row in rows],
    }
    columns |= {"accuracy": value, "low": value - 0.1, "high": value + 0.1, "chance": np.full(len(rows), 0.25)}
    return xr.Dataset({name: ("reading", values) for name, values in columns.items()})


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def drawn(ax):
    """Draw the figure: constrained layout, ticks and text must not warn."""
    ax.figure.canvas.draw()
    return ax


def test_bars_show_every_accuracy_the_best_at_the_top(ax):
    found = table()
    assert drawn(plots.accuracy_bars(found, ax)) is ax
    assert sorted(bar.get_width() for bar in ax.patches) == pytest.approx(sorted(found["accuracy"].values))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["activation", "batch size", "initialization"]
    assert legend(ax) == ["SVM", "DMC", "chance"]
    assert set(texts(ax)) == {f"{value:.0%}" for value in found["accuracy"].values}
    chances = [line for line in ax.lines if len(set(line.get_xdata())) == 1]
    assert {line.get_xdata()[0] for line in chances} == {0.25}
    with pytest.raises(ValueError, match="two of one property with one method"):
        plots.accuracy_bars(table(lengths=(100, 500)), ax)


def test_lines_run_through_the_accuracies_and_are_named_at_their_ends(ax):
    found = table(lengths=(5000, 100, 500), methods=("DMC",))
    drawn(plots.accuracy_by(found, "length", ax))
    assert ax.get_xscale() == "log"
    first = found.isel(reading=slice(3)).sortby("length")
    assert np.array_equal(ax.lines[0].get_xdata(), [100, 500, 5000])
    assert np.array_equal(ax.lines[0].get_ydata(), first["accuracy"])
    assert texts(ax) == ["activation", "batch size", "initialization"]
    with pytest.raises(ValueError, match=r"unknown variable 'lengths'. Did you mean 'length'"):
        plots.accuracy_by(found, "lengths", ax)
    with pytest.raises(ValueError, match="method is not a number"):
        plots.accuracy_by(found, "method", ax)


@pytest.mark.parametrize("height", [0.02, 0.5, 0.97])
def test_names_at_the_ends_of_lines_do_not_overlap(ax, height):
    found = table(methods=("DMC",), lengths=(1, 2)).assign(accuracy=("reading", np.full(6, height)))
    drawn(plots.accuracy_by(found, "length", ax))
    boxes = sorted(text.get_window_extent().bounds[1::2] for text in ax.texts)
    assert all(low + height <= above for (low, height), (above, _) in pairwise(boxes))
    assert boxes[-1][0] < ax.get_window_extent().y1


def test_ticks_do_not_collide(ax):
    lengths = (100, 500, 1000, 4000, 4500, 5000)
    drawn(plots.accuracy_by(table(lengths=lengths, methods=("DMC",)), "length", ax))
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert not any(first.overlaps(second) for place, first in enumerate(boxes) for second in boxes[place + 1 :])
    assert {100, 5000} <= set(ax.get_xticks())


def test_a_confusion_matrix_shows_shares_of_its_rows(ax):
    matrix = xr.DataArray([[3, 1], [0, 4]], {"truth": ["adam", "rmsprop"], "prediction": ["adam", "rmsprop"]})
    drawn(plots.confusion(matrix, ax))
    assert texts(ax) == ["75", "25", "0", "100"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["adam (4)", "rmsprop (4)"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.75, 0.25], [0, 1]])


def test_curves_show_the_median_and_hold_the_last_value(population, ax):
    drawn(plots.curves(population, ax, by="dataset"))
    assert texts(ax) in (["fashion", "mnist"], ["mnist", "fashion"])
    sound = population.isel(
        model=np.flatnonzero((population["status"] != "diverged") & (population["dataset"] == "fashion"))
    )
    held = sound["curve_test_accuracy"].to_series().unstack("evaluation").ffill(axis=1).to_numpy()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(held, axis=0), rtol=1e-6)
    drawn(plots.curves(population, plt.subplots()[1], curve="train_loss"))
    with pytest.raises(ValueError, match=r"unknown curve 'tset_accuracy'. Did you mean 'test_accuracy'"):
        plots.curves(population, ax, curve="tset_accuracy")
    with pytest.raises(ValueError, match=r"unknown property 'optimiser'. Did you mean 'optimizer'"):
        plots.curves(population, ax, by="optimiser")
    with pytest.raises(ValueError, match="learning_rate has 24 values, but there are 8 colours"):
        plots.curves(population, ax, by="learning_rate")


def test_weight_histograms_are_densities(population, ax):
    drawn(plots.weight_histogram(population, ax, by="activation", tensor="conv1.kernel"))
    assert legend(ax) == ["elu", "relu", "sigmoid", "tanh"]
    for outline in ax.patches:
        density, edges, _ = outline.get_data()
        assert 0.95 < np.nansum(density * np.diff(edges)) <= 1
    with pytest.raises(ValueError, match=r"unknown tensor 'conv1.kernels'. Did you mean 'conv1.kernel'"):
        plots.weight_histogram(population, ax, tensor="conv1.kernels")


def test_weights_that_are_all_equal_still_make_a_histogram(population, ax):
    drawn(plots.weight_histogram(population.assign(weights=population["weights"] * 0), ax))
    assert len(ax.patches) > 1


def test_the_projection_keeps_distances_and_is_that_of_scikit_learn(population):
    from sklearn.decomposition import PCA

    points = maps.project(population, components=30, batch_norm=True)
    vectors = population["weights"].values[population["status"] != "diverged"].reshape(-1, population.sizes["weight"])
    model = PCA(30, svd_solver="full").fit(vectors.astype(float))
    np.testing.assert_allclose(points["share"], model.explained_variance_ratio_, rtol=1e-5)
    expected = np.abs(model.transform(vectors.astype(float)))
    np.testing.assert_allclose(np.abs(points.values.reshape(-1, 30)[:, :5]), expected[:, :5], atol=1e-5)
    assert 5 not in points["model"]
    names = layout_of(population).labels()["kind"]
    foreign = population["weights"].where(xr.DataArray(np.isin(names, ["kernel", "bias"]), dims="weight"), 1e3)
    xr.testing.assert_equal(maps.project(population), maps.project(population.assign(weights=foreign)))
    own = maps.project(population, own_start=True)
    assert np.abs(own.sel(snapshot=1)).max() < 1e-12
    moved = (population["weights"] - population["weights"].sel(snapshot=1)).isel(
        weight=np.isin(names, ["kernel", "bias"])
    )
    everything = maps.project(population, components=460, own_start=True)
    np.testing.assert_allclose(
        (everything**2).sum("component").sel(model=0), (moved.sel(model=0) ** 2).sum("weight"), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"no network of cnn-.* is left to project"):
        maps.project(population, models=[5])


def test_trajectories_begin_in_rings_and_end_in_dots(population, ax):
    points = maps.project(population, models=[0, 1, 2, 5])
    drawn(plots.trajectory(points, ax, by="optimizer"))
    assert points.sizes["model"] == 3
    assert len(ax.lines) == 9
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), points[0, :, 0])
    assert (ax.lines[1].get_xdata()[0], ax.lines[2].get_xdata()[0]) == (points[0, 0, 0], points[0, -1, 0])
    assert legend(ax)[-2:] == ["start", "end"]


def test_an_image_grid_shows_every_image_in_its_row(ax):
    images = np.arange(5, dtype="uint8")[:, None, None, None] * np.ones((16, 16, 3), "uint8")
    drawn(plots.image_grid(images, ["b", "a", "b", "a", "b"], ax, columns=2))
    sheet = ax.images[0].get_array()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a"]
    assert sheet[0, 0, 0] == 0
    assert sheet[0, -1, 0] == 2
    assert sheet[-1, 0, 0] == 1
    assert sheet[-1, -1, 0] == 3
    with pytest.raises(ValueError, match="5 images, but 1 labels"):
        plots.image_grid(images, ["a"], ax)


def test_a_design_overview_counts_every_value():
    design = space.sample("nws_small", 50, seed=0)
    axes = plots.design_overview(design, plt.subplots(2, 2)[1], ["optimizer", "batch_size", "learning_rate"])
    drawn(axes[0])
    for ax, name in zip(axes, ("optimizer", "batch_size"), strict=False):
        counts = np.unique(design[name], return_counts=True)[1]
        assert [bar.get_width() for bar in ax.patches] == counts.tolist()
    assert sum(bar.get_height() for bar in axes[2].patches) == 50
    assert not axes[3].get_visible()
    with pytest.raises(ValueError, match="3 properties need as many axes, not 1"):
        plots.design_overview(design, [axes[0]], ["optimizer", "batch_size", "activation"])


def test_colours_are_distinct_for_the_colour_blind():
    # Machado et al., 2009: what a person without red, or without green, cones sees of linear light.
    blind = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    }
    colours = np.array([mpl.colors.to_rgb(colour) for colour in plots.PALETTE[:6]])
    for matrix in blind.values():
        seen = np.clip(colours**2.2 @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen, axis=2)
        assert apart[np.triu_indices(6, 1)].min() > 0.15


def test_dots_are_filled_above_chance_and_marks_stand_at_chance(ax):
    found = table(methods=["SVM"]).assign(above_chance=("reading", [True, False, True]))
    plots.accuracy_points(found, ax)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == found["accuracy"].values.tolist()
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, False]
    marks = [line for line in ax.lines if line.get_label() == "chance"]
    assert [mark.get_xdata()[0] for mark in marks] == found["chance"].values.tolist()


def test_claims_are_drawn_the_best_first(ax):
    rows = {"number": [0.3, 0.9], "low": [0.2, 0.8], "high": [0.4, 1.0], "chance": [0.25, 0.25]}
    found = xr.Dataset({name: ("row", values) for name, values in rows.items()})
    found["claim"] = ("row", ["batch size is read", "optimizer is read"])
    plots.claims(found, ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["optimizer", "batch size"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first at the top


def test_growth_is_drawn_against_the_line_through_the_origin(ax):
    values = [[1.0, 3.0, 2.0], [8.0, 8.0, 8.0]]
    plots.growth(xr.Dataset({"seconds": (("networks", "repeat"), values)}, {"networks": [16, 64]}), ax)
    line, points = ax.lines[0], ax.containers[0].lines[0]
    assert points.get_ydata().tolist() == [2.0, 8.0]
    assert line.get_ydata().tolist() == [2.0, 8.0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["16", "64"]


def test_rates_are_medians_with_the_ratio_to_the_first_way(ax):
    measured = xr.Dataset({"rate": (("way", "repeat"), [[10.0, 20, 90], [50.0, 60, 70]])}, {"way": ["loop", "crowd"]})
    plots.rates(measured, ax)
    assert [bar.get_width() for bar in ax.patches] == [20, 60]
    assert [text.get_text() for text in ax.texts] == ["20", "60  (3.0 times)"]
    assert [tuple(line.get_xdata()) for line in ax.lines] == [(10, 90), (50, 70)]


def test_accuracy_along_the_vector_is_that_of_each_place(population, ax):
    probability = np.zeros((2, 1, 3, 2))
    probability[0, 0, :, 0] = [0.9, 0.2, 0.8]  # the first network is an "a": right at the first and the last place
    probability[1, 0, :, 0] = [0.1, 0.6, 0.7]  # the second is a "b": right at the first place only
    probability[..., 1] = 1 - probability[..., 0]
    coordinates = {"class": ["a", "b"], "start": (("model", "run"), [[0, 50, 100]] * 2)}
    runs = xr.DataArray(probability, coordinates, ("model", "snapshot", "run", "class"))
    truth = xr.DataArray(["a", "b"], dims="model")
    assert maps.where(runs, truth).values.tolist() == [1.0, 0.0, 0.5]
    plots.accuracy_along(runs, truth, population, ax)
    assert ax.lines[0].get_xdata().tolist() == [0, 50, 100]
    assert ax.lines[0].get_ydata().tolist() == [1.0, 0.0, 0.5]
    assert len(ax.lines) - 1 == len({tensor.layer for tensor in layout_of(population).tensors})


def test_every_status_that_occurs_has_its_own_curves_and_ends(population, ax):
    few = population.isel(model=slice(0, 8)).copy(deep=True)
    few["status"][:2] = "stopped"
    drawn(plots.status_curves(few, ax))
    assert legend(ax) == ["converged (5)", "stopped (2)", "diverged (1)"]
    curves, marks = ax.lines[::2], ax.lines[1::2]
    assert len(curves) == 8
    order = [2, 3, 4, 6, 7, 0, 1, 5]
    for curve, mark, place in zip(curves, marks, order, strict=True):
        values = few["curve_test_accuracy"].values[place]
        np.testing.assert_array_equal(curve.get_ydata(), values[~np.isnan(values)])
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (curve.get_xdata()[-1], curve.get_ydata()[-1])
    assert [mark.get_marker() for mark in marks] == ["o"] * 7 + ["x"]
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == [False] * 5 + [True] * 2 + [False]
    assert curves[-1].get_xdata()[-1] < few["n_exports"].values[5] - 1  # as far as it got
    alone = drawn(plots.status_curves(few.isel(model=[2, 3]), plt.subplots()[1], "train_loss"))
    assert legend(alone) == ["converged (2)"]
    with pytest.raises(ValueError, match=r"unknown curve 'test_acuracy'. Did you mean 'test_accuracy'"):
        plots.status_curves(few, ax, "test_acuracy")


def test_a_network_that_was_never_evaluated_is_counted_but_has_no_curve(population, ax):
    one = (
        population.isel(model=[0])
        .copy(deep=True)
        .assign(curve_test_accuracy=population["curve_test_accuracy"][:1] * np.nan)
    )
    one["status"][:] = "failed"
    drawn(plots.status_curves(one, ax))
    assert legend(ax) == ["failed (1)"]
    assert all(len(line.get_xdata()) == 0 for line in ax.lines)


def test_spreads_are_bars_between_percentiles(population, ax):
    end, start = (maps.spreads(population, "optimizer", snapshot) for snapshot in (20, 1))
    drawn(plots.layer_spreads(end, ax, start))
    assert [label.get_text() for label in ax.get_yticklabels()] == end["layer"].values.tolist()
    assert legend(ax) == ["adam", "momentum", "rmsprop", "before training"]
    low, first, _, third, high = end.sel(value="adam", layer="conv1").values
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]
    assert spans[0] == pytest.approx((low, high))
    assert spans[1] == pytest.approx((first, third))
    behind = start.sel(layer="conv1").mean("value").values
    assert spans[6] == pytest.approx((behind[0], behind[-1]))
    assert (
        len(drawn(plots.layer_spreads(end, plt.subplots()[1])).patches) == 2 * end.sizes["value"] * end.sizes["layer"]
    )


def test_a_landscape_has_a_mark_for_every_network(population, ax):
    points = maps.landscape(maps.summaries(population))
    drawn(plots.landscape(points, ax, by="optimizer"))
    assert legend(ax) == ["adam", "momentum", "rmsprop"]
    for name, marks in zip(legend(ax), ax.collections, strict=True):
        np.testing.assert_array_equal(marks.get_offsets(), points[(points["optimizer"] == name).values, :2])
    assert (
        len({marks.get_paths()[0].vertices.tobytes() for marks in ax.collections}) == 3
    )  # shapes differ, not only colours
    assert f"{points['share'][0].item():.0%}" in ax.get_xlabel()
    with pytest.raises(ValueError, match=r"unknown property 'optimiser'. Did you mean 'optimizer'"):
        plots.landscape(points, ax, by="optimiser")


def test_a_landscape_of_numbers_has_a_scale(population, ax):
    points = maps.landscape(maps.summaries(population))
    drawn(plots.landscape(points, ax, by="learning_rate"))
    [marks] = ax.collections
    np.testing.assert_array_equal(marks.get_array(), points["learning_rate"])
    [scale] = [other for other in ax.figure.axes if other is not ax]
    assert scale.get_ylabel() == "learning rate"


def test_distances_are_drawn_from_the_second_snapshot_on(population, ax):
    travelled = maps.distances(population)
    travelled[:, 1] = 0  # nobody has moved at the second snapshot
    drawn(plots.distances(travelled, ax))
    assert ax.get_yscale() == "log"
    adam = travelled[(travelled["optimizer"] == "adam").values]
    thin, thick = ax.lines[: len(adam)], ax.lines[len(adam)]
    assert thin[0].get_xdata().tolist() == [*range(2, 21)]
    assert np.isnan([line.get_ydata()[0] for line in (*thin, thick)]).all()
    np.testing.assert_array_equal([line.get_ydata()[1:] for line in thin], adam[:, 2:])
    np.testing.assert_array_equal(thick.get_ydata()[1:], adam[:, 2:].median("model"))
    assert len(ax.lines) == travelled.sizes["model"] + 3


def test_an_explained_share_is_one_line_over_a_dotted_zero(ax):
    found = table(lengths=(7, 1, 3), methods=("ridge",)).isel(reading=slice(3)).rename(accuracy="r2")
    found["low"][0] = -0.6
    drawn(plots.r2_by(found, "length", ax))
    line, zero = ax.lines
    assert line.get_xdata().tolist() == [1, 3, 7]
    np.testing.assert_array_equal(line.get_ydata(), found.sortby("length")["r2"])
    assert set(zero.get_ydata()) == {0}
    assert ax.get_ylim()[0] == -0.6
    assert texts(ax) == ["activation"]
    with pytest.raises(ValueError, match=r"unknown variable 'lenght'. Did you mean 'length'"):
        plots.r2_by(found, "lenght", ax)
    with pytest.raises(ValueError, match="property is not a number"):
        plots.r2_by(found, "property", ax)
    found["property"][1] = "dataset"
    with pytest.raises(ValueError, match="one property: the table has activation, dataset"):
        plots.r2_by(found, "length", ax)


def test_a_key_is_no_wider_than_its_axes_and_titles_stand_above_it():
    table = xr.Dataset(
        {
            "property": ("reading", ["optimizer"] * 4),
            "method": ("reading", [f"a reader with a long name {number}" for number in range(4)]),
            **{name: ("reading", [0.2, 0.4, 0.6, 0.8]) for name in ("accuracy", "low", "high", "chance")},
        }
    )
    axes = plots.beside(plots.accuracy_bars, {"this run": table, "reference run": table}, (4, 3))
    figure = axes[0].figure
    figure.draw_without_rendering()
    for ax, title in zip(axes, ("this run", "reference run"), strict=True):
        key, name = ax.get_legend().get_window_extent(), ax._left_title.get_window_extent()
        assert key.x1 < ax.get_window_extent().x1 + 1
        assert name.y0 >= key.y1 - 4
        assert ax.get_title(loc="left") == title
    (alone,) = plots.beside(plots.accuracy_bars, {"this run": table}, (5, 3))
    assert alone.get_title(loc="left") == ""
    plt.close("all")


def test_panels_that_are_too_wide_for_a_page_stand_below_each_other():
    draw = lambda table, ax: ax  # noqa: E731
    for width, across in ((4.0, True), (5.6, False)):
        first, second = plots.beside(draw, {"this run": None, "reference run": None}, (width, 2))
        assert (first.get_position().y0 == second.get_position().y0) == across
        assert first.figure.get_figwidth() <= 8
    plt.close("all")
