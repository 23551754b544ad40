import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from nwslib import space
from nwslib.analysis import plots
from nwslib.snapshots import fake, layout_of


@pytest.fixture(autouse=True)
def _figures():
    """Draw without a display, in the house's style, and leave nothing behind."""
    mpl.use("Agg")
    with mpl.rc_context():
        plots.style()
        yield
        plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def drawn(ax):
    """Draw the figure: constrained layout, ticks and text must not warn."""
    ax.figure.canvas.draw()
    return ax


def texts(ax):
    return [text.get_text() for text in ax.texts]


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def scored(rows, columns, score, chance=0.25, **coordinates):
    score = np.asarray(score, float)
    values = {"score": score, "low": score - 0.1, "high": score + 0.1, "chance": score * 0 + chance}
    (row, ticks), (column, others) = rows, columns
    found = xr.Dataset({name: ((row, column), one) for name, one in values.items()}, {row: ticks, column: others})
    return found.assign_coords(coordinates)


def lines(**columns):
    return xr.Dataset({name: ("place", np.asarray(values, float)) for name, values in columns.items()})


def test_how_much_colours_the_way_from_chance_and_brackets_what_may_be_chance(ax):
    measure = ("property", ["accuracy", "R2"])
    found = scored(
        ("property", ["batch_size", "learning_rate"]),
        ("view", ["all", "dense"]),
        [[1, 0.3], [0.625, np.nan]],
        measure=measure,
    )
    assert drawn(plots.how_much(found, ax)) is ax
    assert texts(ax) == ["100", "(30)", "62", "–"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[1, 0.05 / 0.75], [0.5, 0]])
    assert labels(ax.yaxis) == ["batch size", "learning rate (R²)"]
    assert labels(ax.xaxis) == ["all", "dense"]


def test_a_transfer_has_frames_where_both_sides_are_the_same(ax):
    found = scored(
        ("trained_on", ["mnist", "fashion"]), ("read_on", ["fashion", "svhn", "mnist"]), np.full((2, 3), 0.5)
    )
    drawn(plots.transfer(found, ax))
    assert [patch.get_xy() for patch in ax.patches] == [(1.5, -0.5), (-0.5, 0.5)]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("learned from", "read on")


def test_when_begins_at_the_lower_left_and_writes_numbers_where_they_can_be_read(ax):
    moments = [1, 5, 20]
    found = scored(("trained_at", moments), ("read_at", moments), np.eye(3))
    drawn(plots.when(found, ax))
    assert len(texts(ax)) == 9
    assert ax.get_ylim()[0] < ax.get_ylim()[1]
    every = np.arange(1, 21)
    many = drawn(plots.when(scored(("trained_at", every), ("read_at", every), np.eye(20)), plt.subplots()[1]))
    assert not texts(many)
    assert len(many.patches) == 20
    boxes = [label.get_window_extent() for label in many.get_xticklabels()]
    assert not any(first.overlaps(second) for place, first in enumerate(boxes) for second in boxes[place + 1 :])


def along(classes=("adam", "momentum", "rmsprop"), runs=4):
    probability = np.random.default_rng(0).dirichlet([1] * len(classes), size=(2, len(classes), runs))
    accuracy = np.linspace(0.2, 0.9, 2 * runs).reshape(2, runs)
    found = xr.Dataset(
        {
            "probability": (("snapshot", "truth", "run", "class"), probability),
            **{name: (("snapshot", "run"), accuracy + shift) for name, shift in (("accuracy", 0), ("low", -0.1))},
            **{name: (("snapshot", "run"), accuracy * 0 + shift) for name, shift in (("high", 1), ("chance", 0.4))},
        },
        {"class": list(classes), "truth": list(classes), "snapshot": [1, 20], "start": ("run", 100 * np.arange(runs))},
    )
    return found


def test_class_probabilities_have_a_line_each_and_the_borders_of_layers(ax):
    population = fake.network(space.complete(space.sample("nws_small", 1, seed=0)))
    found = along()
    drawn(plots.class_probabilities(found, "momentum", ax, snapshot=1, population=population))
    for line, name in zip(ax.lines, found["class"].values, strict=False):
        np.testing.assert_array_equal(
            line.get_ydata(), found["probability"].sel(snapshot=1, truth="momentum")[:, :].sel({"class": name})
        )
        assert line.get_xdata().tolist() == [0, 100, 200, 300]
    widths = [line.get_linewidth() for line in ax.lines[:3]]
    assert widths.index(max(widths)) == 1
    assert set(ax.lines[3].get_ydata()) == {1 / 3}
    borders = {line.get_xdata()[0] for line in ax.lines[4:]}
    layout = layout_of(population)
    assert borders == {layout.slices[tensor.name].start for tensor in layout.tensors if tensor.kind == "kernel"}
    assert legend(ax) == ["adam", "momentum", "rmsprop"]
    with pytest.raises(ValueError, match=r"no network is 'adm'. Did you mean 'adam'"):
        plots.class_probabilities(found, "adm", ax)
    with pytest.raises(ValueError, match=r"nothing was read at snapshot 19. The nearest is 20"):
        plots.class_probabilities(found, "adam", ax, snapshot=19)


def test_labels_that_are_names_get_dots_and_numbers_get_a_line(ax):
    named = along().drop_vars("start").rename(run="label").assign_coords(label=["conv1", "conv2", "dense1", "output"])
    drawn(plots.accuracy_by_label(named, ax))
    assert labels(ax.yaxis) == ["conv1", "conv2", "dense1", "output"]
    dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert dots == named["accuracy"].sel(snapshot=20).values.tolist()
    assert ax.lines[-1].get_xdata()[0] == 0.4
    assert legend(ax) == ["chance"]
    units = drawn(plots.accuracy_by_label(named.assign_coords(label=[0, 1, 2, 3]), plt.subplots()[1], snapshot=1))
    np.testing.assert_array_equal(units.lines[0].get_ydata(), named["accuracy"].sel(snapshot=1))
    assert set(units.lines[1].get_ydata()) == {0.4}


def test_lines_against_epochs_begin_at_0_and_are_named(ax):
    one = lines(score=[0.3, 0.5, 0.9], low=[0.2] * 3, high=[1] * 3, chance=[0.3] * 3)
    one = one.assign_coords(epoch=("place", [0, 3.0, 150])).swap_dims(place="epoch")
    drawn(plots.against_epochs({"batch_size": one, "optimizer": one.assign(score=one["score"] / 2)}, ax))
    assert ax.lines[0].get_xdata().tolist() == [0, 3, 150]
    assert ax.lines[0].get_ydata().tolist() == [0.3, 0.5, 0.9]
    assert ax.lines[1].get_ydata().tolist() == [0.3] * 3
    assert sorted(texts(ax)) == ["batch size", "optimizer"]
    assert labels(ax.xaxis) == ["0", "1", "10", "100"]


def test_networks_that_are_read_wrongly_are_marked(ax):
    values = {"of_truth": [0.1, 0.6, 0.9], "quarter": [0, 0.5, 0.8], "three_quarters": [0.2, 0.7, 1]}
    networks = xr.Dataset({name: ("model", column) for name, column in values.items()}, attrs={"chance": 0.4})
    drawn(plots.sure(networks.assign(right=("model", [False, True, True])), ax))
    right, wrong, chance = ax.lines
    assert (right.get_xdata().tolist(), right.get_ydata().tolist()) == ([2, 3], [0.6, 0.9])
    assert (wrong.get_xdata().tolist(), wrong.get_ydata().tolist()) == ([1], [0.1])
    assert (right.get_marker(), wrong.get_marker()) == ("o", "x")
    assert chance.get_ydata()[0] == 0.4
    assert legend(ax) == ["right (2)", "wrong (1)", "chance"]
    ends = [tuple(path.vertices[:, 1]) for bars in ax.collections for path in bars.get_paths()]
    assert ends == [(0.5, 0.7), (0.8, 1), (0, 0.2)]


def test_calibration_shows_filled_bins_by_their_size(ax):
    found = xr.Dataset({name: ("bin", [np.nan, 0.6, 0.9]) for name in ("confidence", "accuracy", "low", "high")})
    drawn(plots.calibration(found.assign(predictions=("bin", [0, 10, 40])), ax))
    [dots] = [shape for shape in ax.collections if isinstance(shape, mpl.collections.PathCollection)]
    assert dots.get_offsets().tolist() == [[0.6, 0.6], [0.9, 0.9]]
    assert dots.get_sizes()[1] - 20 == pytest.approx(4 * (dots.get_sizes()[0] - 20))
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0], [1, 1]])


def test_saliency_bars_begin_at_the_mean_of_all_weights(ax):
    ratio = (("class", "layer"), [[4, 0.5, np.nan], [2, 0.3, np.nan]])
    found = xr.Dataset({"ratio": ratio, "weights": ("layer", [9, 9, 0])}, {"layer": ["conv1", "dense1", "output"]})
    drawn(plots.saliency_by_layer(found, ax))
    assert [bar.get_x() for bar in ax.patches] == [1, 1]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([2, -0.6])
    assert labels(ax.yaxis) == ["conv1", "dense1"]
    assert ax.get_xscale() == "log"
    assert labels(ax.xaxis) == ["0.5", "1", "2"]
    close = plots.saliency_by_layer(found.assign(ratio=found["ratio"] ** 0.1), plt.subplots()[1])
    assert {"0.7", "1"} <= {*labels(close.xaxis)}
    assert not ax.collections
    several = found.assign(low=found["ratio"] - 0.1, high=found["ratio"] + 0.1)
    whiskers = drawn(plots.saliency_by_layer(several, plt.subplots()[1])).collections[0]
    assert whiskers.get_paths()[0].vertices[:, 0].tolist() == pytest.approx([2.9, 3.1])


def test_kernels_of_all_layers_share_their_colours(ax):
    ratio = np.arange(18.0).reshape(2, 3, 3)
    found = xr.Dataset({"ratio": (("layer", "row", "column"), ratio)}, {"layer": ["conv1", "conv2"]})
    drawn(plots.kernel_positions(found, "conv2", ax))
    np.testing.assert_array_equal(ax.images[0].get_array(), ratio[1])
    assert texts(ax)[:3] == ["9.00", "10.00", "11.00"]
    other = plots.kernel_positions(found, "conv1", plt.subplots()[1])
    assert other.images[0].get_clim() == ax.images[0].get_clim()
    with pytest.raises(ValueError, match=r"unknown layer 'conv3'"):
        plots.kernel_positions(found, "conv3", ax)


def followed(x, switch):
    level = np.array([[[0.9, 0.5, 0.1], [0.1, 0.5, 0.9]], [[0.9, 0.9, 0.9]] * 2])
    dims = ("group", "value", x)
    found = xr.Dataset({name: (dims, level + shift) for name, shift in (("level", 0), ("low", -0.1), ("high", 0.1))})
    found["chance"] = (("group", "value"), [[0.4, 0.3], [0.4, 0.4]])
    before, after = ("group", ["adam", "adam"]), ("group", ["momentum", "adam"])
    coordinates = {"group": ["adam to momentum", "adam throughout"], "value": ["before", "after"], x: [1, 2, 3]}
    coordinates |= {"switch": ("group", [switch, np.nan]), "before": before, "after": after}
    return found.assign_coords(coordinates).assign_attrs(of="probability", property="optimizer")


def test_a_course_names_both_values_and_marks_the_switch(ax):
    drawn(plots.course(followed("snapshot", 1.5), "adam to momentum", ax))
    assert ax.lines[0].get_ydata().tolist() == [0.9, 0.5, 0.1]
    assert ax.lines[2].get_ydata().tolist() == [0.1, 0.5, 0.9]
    assert [ax.lines[place].get_ydata()[0] for place in (1, 3)] == [0.4, 0.3]
    assert ax.lines[4].get_xdata()[0] == 1.5
    assert sorted(texts(ax)) == ["adam", "momentum", "switch"]
    assert ax.get_xlabel() == "snapshot"
    since = plots.course(followed("since", 0.0), "adam to momentum", plt.subplots()[1])
    assert since.get_xlabel() == "epochs since the switch"
    with pytest.raises(ValueError, match=r"unknown group 'adam to momentun'. Did you mean 'adam to momentum'"):
        plots.course(followed("since", 0.0), "adam to momentun", ax)


def test_networks_that_were_not_switched_have_one_line_and_no_switch(ax):
    drawn(plots.course(followed("snapshot", 1.5), "adam throughout", ax))
    assert texts(ax) == ["adam"]
    assert len(ax.lines) == 2
