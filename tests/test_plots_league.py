import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from nwslib.analysis import league, plots

READERS = ("graph", "statistics", "DMC")


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def row(task, scores, counts="accuracy", group="images"):
    """Give a row of the league with made-up scores, known to 0.02."""
    scores = np.array(scores)
    behind = np.nanmax(scores) - scores
    columns = {"score": scores, "low": scores - 0.02, "high": scores + 0.02}
    found = xr.Dataset({name: (("reader", "measure"), values[:, None]) for name, values in columns.items()})
    for name, values in {"behind": behind, "behind_low": behind - 0.03, "behind_high": behind + 0.03}.items():
        found[name] = ("reader", values)
    for place, name in enumerate(("parameters", "seconds_to_train", "seconds_per_network")):
        found[name] = ("reader", [10.0**place, np.nan, 3 * 10.0**place])
    found["baseline"] = ("measure", [0.1])
    found = found.assign_coords(reader=list(READERS), measure=[counts]).expand_dims(task=[task])
    about = {"counts": counts, "group": group, "networks": 50, "trained_on": 150}
    return found.assign_coords({name: ("task", [value]) for name, value in about.items()})


@pytest.fixture
def table():
    one, other = row("image class, mnist", [0.9, 0.5, 0.89]), row("our own", [0.3, 0.4, np.nan])
    return league.together(one, other, row("test accuracy, mnist", [0.9, 0.8, 0.7], "R2", "accuracy"))


def texts(labels):
    return [label.get_text() for label in labels]


def marks(ax, marker):
    """Give the places (x, y) of the markers of one shape."""
    return [tuple(float(line.get_data()[k][0]) for k in (0, 1)) for line in ax.lines if line.get_marker() == marker]


def test_the_league_lists_readers_from_the_best_on_with_what_others_published(table, ax):
    plots.league(table, "images", ax)
    named = texts(ax.get_yticklabels())
    assert named[:3] == ["graph", "DMC", "statistics"]
    assert named[-2:] == ["statistics", "graph"]  # of the second task, which DMC did not read
    assert "DMC, published" in named[3:-2]
    assert texts(ax.texts)[:2] == ["image class, mnist", "our own"]
    assert [round(x, 2) for x, _ in marks(ax, "o")] == [0.9, 0.89, 0.5, 0.4, 0.3]
    heights = ax.get_yticks().tolist()
    assert heights == sorted(heights)
    assert "published, other networks" in texts(ax.get_legend().get_texts())


def test_published_figures_are_hollow_and_of_the_same_measure(table, ax):
    plots.league(table, "images", ax)
    figures = {one.value for one in league.published("image class, mnist", "accuracy")}
    places = [x for x, _ in marks(ax, "D")]
    assert len(places) == 3
    assert set(places) <= figures
    assert max(figures) in places
    hollow = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "D"]
    assert hollow == ["white"] * 3


def test_figures_of_another_measure_are_not_drawn(table, ax):
    plots.league(table, "accuracy", ax)
    drawn = [x for x, _ in marks(ax, "D")]
    assert drawn == [one.value for one in league.published("test accuracy, mnist", "R2")]


def test_those_that_the_interval_does_not_tell_from_the_best_share_its_colour(table, ax):
    plots.league(table, "images", ax)
    colours = [line.get_color() for line in ax.lines if line.get_marker() == "o"]
    assert colours[0] == colours[1] == plots.PALETTE[0]  # 0.90 and 0.89
    assert colours[2] != plots.PALETTE[0]


def test_without_published_figures_none_are_named(table, ax):
    plots.league(table.sel(task=["our own"]), "images", ax)
    assert marks(ax, "D") == []
    assert "published, other networks" not in texts(ax.get_legend().get_texts())


def test_learning_curves_end_with_the_names_of_readers(table, ax):
    one = table.sel(task="image class, mnist").drop_vars("trained_on")
    curve = xr.concat([one.assign(score=one["score"] - less) for less in (0.2, 0.1, 0)], "trained_on")
    plots.learning_curves(curve.assign_coords(trained_on=[50, 100, 200]), ax)
    assert sorted(texts(ax.texts)) == sorted(READERS)
    drawn = [line.get_data() for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(drawn[0], ([50, 100, 200], [0.7, 0.8, 0.9]))
    assert "accuracy" in ax.get_ylabel()


def test_cost_leaves_out_readers_whose_cost_is_unknown(table, ax):
    plots.cost(table, "images", ax)
    assert sorted(texts(ax.texts)) == ["DMC", "graph"]
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "seconds to read a network"
    plots.cost(table, "accuracy", ax, "parameters")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("parameters", "R²")


def test_unknown_groups_costs_and_mixed_measures_are_refused(table, ax):
    with pytest.raises(ValueError, match=r"no group 'image' in the league\. Did you mean 'images'"):
        plots.league(table, "image", ax)
    with pytest.raises(ValueError, match=r"unknown cost 'seconds_per_networks'\. Did you mean 'seconds_per_network'"):
        plots.cost(table, "images", ax, "seconds_per_networks")
    with pytest.raises(ValueError, match="one measure, not R2, accuracy"):
        plots.league(table.assign_coords(group=("task", ["images"] * 3)), "images", ax)


def test_a_panel_has_room_for_every_line(table, ax):
    images = table.sel(task=["image class, mnist", "our own"])
    (_, one), (_, both) = plots.league_size(images.isel(task=[1])), plots.league_size(images)
    assert one < both
    plots.league(images, "images", ax)
    lines = len(ax.get_yticks())
    assert both == pytest.approx(1.2 + 0.22 * (lines + 1.4 * 2))


def test_panels_below_each_other_are_as_high_as_they_need_be(table):
    shown = {"this run": table.isel(task=[1]), "reference run": table.isel(task=[0, 1])}
    axes = plots.beside(plots.league, shown, plots.league_size, "images")
    heights = [plots.league_size(one)[1] for one in shown.values()]
    figure = axes[0].figure
    assert figure.get_figheight() == pytest.approx(sum(heights))
    small, large = (one.get_subplotspec().get_position(figure).height for one in axes)
    assert large / small == pytest.approx(heights[1] / heights[0], rel=0.02)
    plt.close(figure)
