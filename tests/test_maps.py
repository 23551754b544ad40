"""Arrays that figures are drawn from, on populations with known answers."""

import numpy as np
import pytest
import xarray as xr

from nwslib import snapshots, space
from nwslib.analysis import maps
from nwslib.snapshots import fake, layout_of


def stored(folder, design, **options):
    """Store a fake population, and open it."""
    snapshots.write(folder, fake.population(design, **options))
    return snapshots.open_population(folder)


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    design = space.sample("nws_small", 70, seed=0, dataset=["mnist", "fashion"])
    return stored(tmp_path_factory.mktemp("one"), design, diverged=[5])


@pytest.fixture(scope="module")
def architectures(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("several"), space.sample("nws_main", 6, seed=0), diverged=[2])


def test_summaries_are_those_of_each_kernel(population):
    node = snapshots.networks(population)
    found = maps.summaries(node, snapshot=7)
    assert found.attrs["left_out"] == 1
    assert found["model"].values.tolist() == [model for model in range(70) if model != 5]
    for model, name in ((0, "conv1.kernel"), (69, "output.kernel")):
        place = layout_of(node).slices[name]
        weights = node["weights"].sel(model=model, snapshot=7).values[place].astype(float)
        one = found.sel(model=model)
        assert one.sel(statistic=f"{name} mean").item() == pytest.approx(weights.mean())
        assert one.sel(statistic=f"{name} standard deviation").item() == pytest.approx(weights.std())
        assert one.sel(statistic=f"{name} 75 %").item() == pytest.approx(np.quantile(weights, 0.75))
    kernels = [tensor.name for tensor in layout_of(node).tensors if tensor.kind == "kernel"]
    assert found["statistic"].values.tolist() == [f"{name} {what}" for name in kernels for what in maps.STATISTICS]


def test_summaries_do_not_see_batch_norms(population):
    node = snapshots.networks(population)
    kinds = layout_of(node).labels()["kind"]
    disturbed = node["weights"].where(xr.DataArray(kinds == "kernel", dims="weight"), 1e3)
    xr.testing.assert_identical(maps.summaries(node), maps.summaries(node.assign(weights=disturbed)))


def test_the_last_snapshot_counts_unless_another_is_asked_for(population):
    xr.testing.assert_identical(maps.summaries(population), maps.summaries(population, 20))
    assert not np.allclose(maps.summaries(population), maps.summaries(population, 1))
    with pytest.raises(ValueError, match=r"has no snapshot 21\. The nearest is 20"):
        maps.summaries(population, 21)


def test_several_architectures_share_the_kernels_that_all_have(architectures):
    found = maps.summaries(architectures)
    assert len(architectures.children) > 3
    assert sorted(found["model"].values.tolist()) == [0, 1, 3, 4, 5]
    names = {str(statistic).split(" ")[0] for statistic in found["statistic"].values}
    assert names == {f"{layer}.kernel" for layer in ("conv1", "conv2", "conv3", "dense1", "dense2", "output")}
    for child in architectures.children.values():
        node = child.to_dataset()
        for model in sorted({*node["model"].values.tolist()} & {*found["model"].values.tolist()}):
            alone = maps.summaries(node).sel(model=model, statistic=found["statistic"])
            np.testing.assert_array_equal(alone, found.sel(model=model))
            assert found["filter_size"].sel(model=model).item() == node["filter_size"].sel(model=model).item()


def test_there_must_be_a_network_and_a_kernel_to_sum_up(population):
    node = snapshots.networks(population)
    with pytest.raises(ValueError, match="no network is left to sum up: all 1 diverged or failed"):
        maps.summaries(node.isel(model=[5]))
    tensors = [tensor for tensor in layout_of(node).tensors if tensor.kind != "kernel"]
    bare = node.assign_attrs(layout=snapshots.Layout("cnn", tuple(tensors)).to_json())
    with pytest.raises(ValueError, match="no kernel in common"):
        maps.summaries(bare)


def test_weights_are_read_one_kernel_of_64_networks_at_a_time(population, monkeypatch):
    node, shapes, compute = snapshots.networks(population), [], maps._statistics
    monkeypatch.setattr(maps, "_statistics", lambda weights: shapes.append(weights.shape) or compute(weights))
    maps.summaries(node)
    sizes = [tensor.size for tensor in layout_of(node).tensors if tensor.kind == "kernel"]
    assert shapes == [(networks, size) for networks in (64, 5) for size in sizes]


def test_a_landscape_keeps_the_distances_between_ranks(population):
    summaries = maps.summaries(population)
    points = maps.landscape(summaries, components=60)
    assert points["share"].sum() == pytest.approx(1)
    ranks = summaries.values.argsort(0).argsort(0)  # no two are equal
    ranks = (ranks - ranks.mean(0)) / ranks.std(0)
    expected = ((ranks[3] - ranks[9]) ** 2).sum()
    assert ((points[3] - points[9]) ** 2).sum().item() == pytest.approx(expected)
    stretched = maps.landscape(summaries**3)  # no order changes
    np.testing.assert_allclose(maps.landscape(summaries), stretched, atol=1e-9)
    np.testing.assert_array_equal(points["dataset"], summaries["dataset"])


def test_a_landscape_needs_networks_that_differ(population):
    summaries = maps.summaries(population)
    with pytest.raises(ValueError, match="2 components need more networks than that, not 2"):
        maps.landscape(summaries[:2])
    with pytest.raises(ValueError, match="all networks are alike"):
        maps.landscape(summaries * 0)


def test_neighbours_find_what_decides_the_map_and_nothing_else():
    random = np.random.default_rng(0)
    value = random.permutation(np.repeat(["a", "b", "c", "d"], 100))
    places = random.normal(size=(400, 2)) + 20 * (
        np.char.equal(value, "a")[:, None] + 2 * np.char.equal(value, "b")[:, None]
    )
    columns = {
        "shaping": ("model", np.where(np.isin(value, ["a", "b"]), value, "rest")),
        "other": ("model", random.permutation(value)),
    }
    points = xr.DataArray(places, columns, ("model", "component"))
    near, accident = maps.neighbours(points, "shaping")
    assert near == 1
    assert accident == pytest.approx((2 * 100 * 99 + 200 * 199) / (400 * 399))
    near, accident = maps.neighbours(points, "other")
    assert abs(near - accident) < 0.1
    with pytest.raises(ValueError, match=r"unknown property 'shapin'\. Did you mean 'shaping'"):
        maps.neighbours(points, "shapin")
    with pytest.raises(ValueError, match="only where there are two"):
        maps.neighbours(points[:1], "other")


def test_a_network_is_not_its_own_neighbour_even_where_all_lie_in_one_point():
    points = xr.DataArray(np.zeros((3, 2)), {"name": ("model", ["a", "b", "c"])}, ("model", "component"))
    assert maps.neighbours(points, "name") == (0, 0)


def test_spreads_are_percentiles_of_the_median_network(population):
    node = snapshots.networks(population)
    found = maps.spreads(node, "optimizer", snapshot=1)
    assert found["networks"].sum() == 69
    members = (node["optimizer"] == "adam").values & (node["status"] != "diverged").values
    weights = node["weights"].sel(snapshot=1).values[members][:, layout_of(node).slices["dense1.kernel"]]
    expected = np.median(np.percentile(weights.astype(float), [1, 25, 50, 75, 99], axis=1), axis=1)
    np.testing.assert_allclose(found.sel(value="adam", layer="dense1"), expected)
    with pytest.raises(ValueError, match=r"unknown property 'optimiser'\. Did you mean 'optimizer'"):
        maps.spreads(node, "optimiser")


def test_distances_are_those_of_all_components_of_the_way(population):
    node = snapshots.networks(population)
    found = maps.distances(node, [0, 1, 5])
    assert found["model"].values.tolist() == [0, 1]
    ways = maps.project(node, [0, 1], components=40, own_start=True)
    np.testing.assert_allclose(found, np.sqrt((ways**2).sum("component")), rtol=1e-5, atol=1e-6)
    moved = node["weights"].sel(model=0, snapshot=20).values - node["weights"].sel(model=0, snapshot=1).values
    everything = maps.distances(node, [0], batch_norm=True)
    assert everything.sel(model=0, snapshot=20).item() == pytest.approx(np.linalg.norm(moved.astype(float)))
    assert everything[0, -1] > found[0, -1]


def test_ways_of_own_length_end_at_a_distance_of_one(population):
    node = snapshots.networks(population)
    ways = maps.project(node, [0, 1, 2], components=60, own_length=True)
    reach = np.sqrt((ways**2).sum("component"))
    travelled = maps.distances(node, [0, 1, 2])
    np.testing.assert_allclose(reach, travelled / travelled.isel(snapshot=-1), rtol=1e-5, atol=1e-6)
    still = node.assign(weights=node["weights"] * 0 + 1)
    assert not maps.project(still, [0], components=1, own_length=True).any()
