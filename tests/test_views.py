import json

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr

from nwslib import space
from nwslib.meta import runs, views
from nwslib.meta.runs import random_starts, runs_view, spaced_starts
from nwslib.meta.views import matching, readable, select, statistics, statistics_view
from nwslib.snapshots import fake, layout_of, open_population, write


def population(networks=12, diverged=(), **fixed):
    made = list(fake.population(space.sample("nws_small", networks, seed=0, **fixed), diverged=diverged))
    made = [network.drop_dims("evaluation") for network in made]
    return xr.concat(made, "model", data_vars="all", coords="different", compat="equals", join="exact")


def numbered(networks=3):
    """Give a population in which every weight says where it is: network, snapshot and place in the vector."""
    one = population(networks)
    m, s, w = np.ogrid[tuple(map(slice, one["weights"].shape))]
    return one.assign(weights=(("model", "snapshot", "weight"), (m * 10**6 + s * 10**4 + w).astype("float32")))


def test_select_splits_the_vector_into_disjoint_parts():
    one = population(1)
    everything = select(one)
    assert np.array_equal(everything, np.arange(one.sizes["weight"]))
    norms = ("without batch norm", "batch norm")
    parts = [select(one, part, kinds) for part in ("convolution", "dense") for kinds in norms]
    assert np.array_equal(np.sort(np.concatenate(parts)), everything)
    assert all(len(part) for part in parts)


def test_select_agrees_with_the_labels_of_the_weights():
    one = population(1)
    labels = layout_of(one).labels()
    norm = np.isin(labels["kind"], ["beta", "gamma", "mean", "variance"])
    convolution, moving = labels["part"] == "convolution", np.isin(labels["kind"], ["mean", "variance"])
    assert np.array_equal(select(one, "convolution", "without batch norm"), np.flatnonzero(convolution & ~norm))
    assert np.array_equal(select(one, "dense", "batch norm"), np.flatnonzero(~convolution & norm))
    assert np.array_equal(select(one, kinds="trained"), np.flatnonzero(~moving))
    assert np.array_equal(select(one, kinds="kernels"), np.flatnonzero(labels["kind"] == "kernel"))


def test_select_refuses_what_it_does_not_know():
    one = population(1)
    with pytest.raises(ValueError, match=r"unknown part 'convolutions'. Did you mean 'convolution'"):
        select(one, "convolutions")
    with pytest.raises(ValueError, match=r"unknown kinds 'kernel'. Did you mean 'kernels'"):
        select(one, kinds="kernel")
    with pytest.raises(ValueError, match="has 1676 weights, but the dataset has 10"):
        select(one.isel(weight=slice(10)))


def test_no_network_is_on_both_sides_of_the_split():
    one = population(20, diverged=[2, 3])
    train, test, both = (set(readable(one, split).column("id")) for split in ("train", "test", None))
    assert train
    assert test
    assert not train & test
    assert train | test == both == set(one["id"].values[np.setdiff1d(np.arange(20), [2, 3])])


def test_networks_that_cannot_be_read_are_left_out_and_counted():
    one = population(12, diverged=[1, 7])
    assert readable(one).left_out["diverged or failed"] == 2
    with pytest.raises(ValueError, match=r"no network of the whole split can be read.*'too short': 10"):
        readable(one, length=one.sizes["weight"] + 1)
    level = float(np.nanmedian(one["test_accuracy"].isel(snapshot=-1)))
    kept = readable(one, min_test_accuracy=level)
    assert len(kept) + kept.left_out["below min_test_accuracy"] == 10
    assert 0 < len(kept) < 10
    with pytest.raises(ValueError, match=r"unknown split 'training'. Did you mean 'train'"):
        readable(one, "training")


def test_networks_of_short_architectures_are_left_out_of_a_tree():
    small, large = population(3), population(3, filter_size=7)
    tree = xr.DataTree.from_dict({"small": small, "large": large})
    length = len(select(small, "convolution")) + 1
    view = runs_view(tree, length, part="convolution")
    assert len(view.networks) == 3
    assert view.networks.left_out["too short"] == 3
    assert set(view.networks.column("filter_size")) == {7}
    assert len(runs_view(tree, length - 1, part="convolution").networks) == 6


def test_statistics_agree_with_numpy_and_scipy():
    weights = np.random.default_rng(0).standard_gamma(2, size=(7, 501)).astype("float32") * 1e-4
    exact = weights.astype("float64")
    found = statistics(weights)
    np.testing.assert_allclose(found[:, 0], exact.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found[:, 1], exact.var(1), rtol=1e-12)
    np.testing.assert_allclose(found[:, 2], scipy.stats.skew(exact, axis=1), rtol=1e-9)
    np.testing.assert_allclose(found[:, 3:], np.percentile(exact, views.PERCENTILES, axis=1).T, rtol=1e-12)


def test_statistics_of_constant_weights_have_no_spread():
    found = statistics(np.full((2, 999), 0.1, dtype="float32"))
    assert np.array_equal(found[:, 1:3], np.zeros((2, 2)))
    assert np.array_equal(found[:, 0], found[:, 5])
    assert np.isfinite(statistics(np.ones((1, 1)))).all()


def test_statistics_do_not_depend_on_the_order_of_the_weights():
    one = population(5)
    order = np.random.default_rng(0).permutation(one.sizes["weight"])
    mixed = one.assign(weights=(one["weights"].dims, one["weights"].values[:, :, order]))
    xr.testing.assert_allclose(statistics_view(one), statistics_view(mixed), rtol=1e-9)
    layers = statistics_view(one, per="layer"), statistics_view(mixed, per="layer")
    assert not np.allclose(*layers)


def test_statistics_in_blocks_are_those_of_the_whole(monkeypatch):
    one = population(9, diverged=[4])
    whole = statistics_view(one, per="layer", part="dense", kinds="without batch norm")
    monkeypatch.setattr(views, "_BLOCK", 2 * one.sizes["weight"])
    xr.testing.assert_identical(whole, statistics_view(one, per="layer", part="dense", kinds="without batch norm"))
    assert json.loads(whole.attrs["left_out"])["diverged or failed"] == 1


def test_statistics_per_layer_are_those_of_each_tensor():
    one = population(3)
    view = statistics_view(one, 7, per="layer")
    for tensor in layout_of(one).tensors:
        weights = one["weights"].sel(snapshot=7).values[:, layout_of(one).slices[tensor.name]]
        features = [f"{tensor.name} {name}" for name in views.STATISTICS]
        np.testing.assert_allclose(view.sel(feature=features), statistics(weights), rtol=1e-12)
    assert view.sizes["feature"] == 8 * len(layout_of(one).tensors)


def test_statistics_of_a_change_and_of_updates():
    one = population(3)
    weights = one["weights"].values
    change = statistics_view(one, 20, since=1)
    np.testing.assert_allclose(change, statistics(weights[:, 19] - weights[:, 0]), rtol=1e-12)
    stepped = one.assign(updates=(one["weights"].dims, 7 * weights))
    np.testing.assert_allclose(statistics_view(stepped, variable="updates"), statistics(7 * weights[:, 19]), rtol=1e-12)
    with pytest.raises(ValueError, match="the population keeps no updates: train it with updates=True"):
        statistics_view(one, variable="updates")
    with pytest.raises(ValueError, match=r"unknown variable 'update'. Did you mean 'updates'"):
        statistics_view(stepped, variable="update")


def test_statistics_of_runs_are_those_of_consecutive_weights():
    one = population(3)
    place = select(one, "dense", "without batch norm")
    view = statistics_view(one, (5, 20), per="run", length=250, runs=3, part="dense", kinds="without batch norm")
    assert view.dims == ("model", "snapshot", "run", "feature")
    last = np.array([0, (len(place) - 250) / 2, len(place) - 250]).round().astype(int)
    for number, start in enumerate(last):
        weights = one["weights"].sel(snapshot=5).values[:, place[start : start + 250]]
        np.testing.assert_allclose(view.sel(snapshot=5).isel(run=number), statistics(weights), rtol=1e-12)
    single = statistics_view(one, per="run", length=250, part="dense", kinds="without batch norm")
    np.testing.assert_array_equal(single.isel(run=0), view.sel(snapshot=20).isel(run=1))


def test_several_snapshots_are_those_one_by_one():
    one = population(4)
    both = statistics_view(one, [3, 20], per="layer")
    for number in (3, 20):
        assert np.array_equal(both.sel(snapshot=number), statistics_view(one, number, per="layer"))


def test_permuted_units_are_the_same_weights_in_other_places():
    one = population(4)
    plain, moved = (runs_view(one, None, permuted=permuted).weights.view(4, -1).numpy() for permuted in (False, True))
    assert not np.array_equal(plain, moved)
    for place in layout_of(one).slices.values():
        assert np.array_equal(np.sort(plain[:, place]), np.sort(moved[:, place]))
    orders = [np.argsort(row, kind="stable") for row in moved]
    assert not np.array_equal(orders[0], orders[1])  # each network has an order of its own
    expected = statistics_view(one, per="layer", permuted=True)
    np.testing.assert_allclose(expected, statistics_view(one, per="layer"), rtol=1e-9, atol=1e-12)


def test_networks_are_chosen_by_their_properties():
    tree = xr.DataTree.from_dict({"small": population(12), "large": population(12, filter_size=7)})
    names = ["adam", "momentum"]
    some = matching(tree, optimizer=names, augmentation="on")
    columns = {name: readable(some).column(name) for name in ("optimizer", "augmentation", "filter_size")}
    assert set(columns["optimizer"]) <= set(names)
    assert set(columns["augmentation"]) == {"on"}
    rest = matching(tree, without=True, optimizer=names, augmentation="on")
    assert len(readable(some)) + len(readable(rest)) == 24
    assert list(matching(tree, filter_size=7).children) == ["large"]
    with pytest.raises(ValueError, match=r"unknown property 'optimiser'. Did you mean 'optimizer'"):
        matching(tree, optimiser="adam")
    with pytest.raises(ValueError, match="no network is left: none of them match"):
        matching(tree, optimizer="sgd")


def test_statistics_refuse_what_they_cannot_do():
    one = population(2)
    with pytest.raises(ValueError, match=r"there is no snapshot 21. The nearest is 20"):
        statistics_view(one, 21)
    with pytest.raises(ValueError, match=r"unknown grouping 'layers'. Did you mean 'layer'"):
        statistics_view(one, per="layers")
    with pytest.raises(ValueError, match="a length goes with per='run', and only with it, not length=10"):
        statistics_view(one, per="layer", length=10)
    with pytest.raises(ValueError, match="length and runs must be at least 1, not 10 and 0"):
        statistics_view(one, per="run", length=10, runs=0)
    with pytest.raises(ValueError, match="'too short': 2"):
        statistics_view(one, per="run", length=1700)
    tree = xr.DataTree.from_dict({"small": one, "large": population(2, filter_size=7)})
    assert statistics_view(tree).shape == (4, 8)
    deeper = xr.DataTree.from_dict({"small": one, "deep": population(2, depth_conv=4)})
    with pytest.raises(ValueError, match="networks of one architecture"):
        statistics_view(deeper, per="layer")


@pytest.mark.parametrize(("part", "kinds"), [("all", "all"), ("convolution", "all"), ("dense", "kernels")])
def test_runs_are_consecutive_and_cross_no_border(part, kinds):
    one, length = numbered(), 150
    place = select(one, part, kinds)
    view = runs_view(one, length, snapshots=(3, 20), part=part, kinds=kinds)
    rows = torch.arange(len(view.room)).repeat(2000)
    starts = random_starts(view, rows, torch.Generator().manual_seed(0))
    cut = view.gather(rows, starts).numpy().astype(int)
    network, snapshot, weight = cut // 10**6, cut // 10**4 % 100, cut % 10**4
    assert np.array_equal(network, np.broadcast_to(rows.numpy()[:, None] // 2, cut.shape))
    assert np.array_equal(snapshot, np.broadcast_to(np.array([2, 19])[rows.numpy()[:, None] % 2], cut.shape))
    assert np.array_equal(weight, place[starts.numpy()[:, None] + np.arange(length)])
    assert starts.min() == 0
    assert starts.max() == len(place) - length


def test_spaced_runs_begin_at_the_start_and_end_at_the_end():
    one = numbered()
    view = runs_view(one, 100)
    rows = torch.arange(3)
    starts = spaced_starts(view, rows, 64)
    assert starts.shape == (3, 64)
    assert (starts[:, 0] == 0).all()
    assert (starts[:, -1] == one.sizes["weight"] - 100).all()
    assert (starts.diff(dim=1) - starts.diff(dim=1).double().mean()).abs().max() < 1
    whole = runs_view(one, one.sizes["weight"])
    assert torch.equal(spaced_starts(whole, rows, 1), torch.zeros(3, 1, dtype=torch.long))


def test_random_starts_are_uniform_and_follow_the_seed():
    view = runs_view(population(1), 1667)  # ten places to start
    rows = torch.zeros(20_000, dtype=torch.long)
    first, again, other = (random_starts(view, rows, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert scipy.stats.chisquare(torch.bincount(first, minlength=10)).pvalue > 1e-3


def test_runs_in_blocks_are_those_of_the_whole(monkeypatch):
    one = population(9, diverged=[4])
    whole = runs_view(one, 50, snapshots=(1, 20), part="dense")
    monkeypatch.setattr(views, "_BLOCK", 2 * one.sizes["weight"])
    assert torch.equal(whole.weights, runs_view(one, 50, snapshots=(1, 20), part="dense").weights)
    with pytest.raises(ValueError, match="a run needs at least 1 weight, not 0"):
        runs_view(one, 0)


def test_a_stored_population_reads_like_one_in_memory(tmp_path):
    design = space.sample("nws_small", 6, seed=0)
    write(tmp_path, fake.population(design))
    stored = statistics_view(open_population(tmp_path), per="layer")
    np.testing.assert_array_equal(stored.sortby("model"), statistics_view(population(6), per="layer"))


@pytest.mark.parametrize("part", ["all", "convolution", "dense"])
def test_streamed_runs_are_the_resident_ones(tmp_path, part):
    write(tmp_path, fake.population(space.sample("nws_small", 24, seed=0, filter_size=[3, 5])))
    tree = open_population(tmp_path)
    views = [runs_view(tree, 60, snapshots=(2, 20), part=part, resident=where) for where in ("always", "never")]
    rows = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    starts = random_starts(views[0], rows, torch.Generator().manual_seed(0))
    assert torch.equal(views[0].gather(rows, starts), views[1].gather(rows, starts))
    assert torch.equal(views[0].room, views[1].room)


def test_weights_that_do_not_fit_are_streamed(tmp_path, monkeypatch):
    write(tmp_path, fake.population(space.sample("nws_small", 4, seed=0)))
    tree = open_population(tmp_path)
    assert isinstance(runs_view(tree, 60), runs.ResidentRuns)
    monkeypatch.setattr(runs, "_free_memory", lambda device: 1000)
    assert isinstance(runs_view(tree, 60), runs.StreamedRuns)
    with pytest.raises(ValueError, match="only from a selection without gaps"):
        runs_view(tree, 60, kinds="without batch norm")
    with pytest.raises(ValueError, match=r"there is no snapshot 21. The nearest is 20"):
        runs_view(tree, 60, snapshots=21)
    with pytest.raises(ValueError, match=r"unknown resident 'alway'. Did you mean 'always'"):
        runs_view(tree, 60, resident="alway")


def test_the_whole_vector_needs_one_length():
    small, large = population(3), population(3, filter_size=7)
    assert runs_view(small, None).length == small.sizes["weight"]
    with pytest.raises(ValueError, match="the whole vector needs networks of one length"):
        runs_view(xr.DataTree.from_dict({"small": small, "large": large}), None)


def test_what_holds_no_weights_is_refused():
    with pytest.raises(ValueError, match="not a population: no dataset in it has the variable 'weights'"):
        readable(xr.Dataset())
    with pytest.raises(ValueError, match=r"unknown property 'optimiser'. Did you mean 'optimizer'"):
        readable(population(1)).column("optimiser")
