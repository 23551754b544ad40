import importlib
import json

import numpy as np
import pytest
import torch
import xarray as xr

from nwslib import space
from nwslib.meta import RunReader, select
from nwslib.meta.saliency import saliency
from nwslib.snapshots import fake, layout_of
from nwslib.snapshots.layout import LABELS

QUICK = {"length": 64, "epochs": 6, "visits": 4, "runs": 8, "device": "cpu"}
LAYER = "dense2"


@pytest.fixture(scope="module")
def population():
    """Give 120 networks whose optimiser moves the weights of one kernel, which are larger than all others."""
    made = list(fake.population(space.sample("nws_small", 120, seed=0), signal=0.0, diverged=[0, 9]))
    made = [network.drop_dims("evaluation") for network in made]
    one = xr.concat(made, "model", data_vars="all", coords="different", compat="equals", join="exact")
    code = np.unique(one["optimizer"], return_inverse=True)[1]
    place = layout_of(one).slices[f"{LAYER}.kernel"]
    one["weights"].values[..., place] = 10 * one["weights"].values[..., place] + code[:, None, None]
    return one


@pytest.fixture(scope="module")
def fitted(population):
    return RunReader(**QUICK).fit(population, "optimizer")


def linear(population, coefficients, property="optimizer", **changes):
    """Give a reader whose scores are sums of the weights of a run, times known coefficients (outputs, length)."""
    few = {**QUICK, "length": coefficients.shape[1], "epochs": 1, "visits": 1, **changes}
    reader = RunReader(**few).fit(population, property)
    reader.module = torch.nn.Linear(coefficients.shape[1], len(coefficients))
    with torch.no_grad():
        reader.module.weight.copy_(torch.as_tensor(coefficients))
    return reader


def read_networks(population):
    return population.isel(model=np.flatnonzero((population["split"] == "test") & (population["status"] != "diverged")))


def test_the_layer_that_carries_the_label_is_the_most_salient(population, fitted):
    assert fitted.score(population) > 0.9
    for by_class in (True, False):
        found = saliency(fitted, population, by_class=by_class)["gradient_times_weight"]
        layers = found.groupby("layer").mean("weight")
        assert (layers.sel(layer=LAYER) > 2 * layers.drop_sel(layer=LAYER).max("layer")).all()


def test_of_a_linear_reader_the_coefficients_are_found(population):
    # A reader of whole vectors whose coefficients are the mean weights of each class.
    train = population.isel(model=np.flatnonzero((population["split"] == "train") & (population["model"] > 9)))
    last = train[["weights", "optimizer"]].sel(snapshot=20)
    centre = last["weights"].groupby(last["optimizer"]).mean() - last["weights"].mean("model")
    reader = linear(population, centre.values)
    found = saliency(reader, population)
    np.testing.assert_allclose(found["gradient"], abs(centre), rtol=1e-5)
    size = (
        abs(read_networks(population)["weights"].sel(snapshot=20))
        .groupby(read_networks(population)["optimizer"])
        .mean()
    )
    np.testing.assert_allclose(found["gradient_times_weight"], abs(centre.values) * size, rtol=1e-4)
    layers = found["gradient"].groupby("layer").mean("weight").sel({"class": ["adam", "rmsprop"]})
    assert (layers["layer"][layers.argmax("layer")] == LAYER).all()


def test_gradients_are_finite_differences(population):
    reader = linear(population, np.zeros((3, 64)))
    torch.manual_seed(0)
    reader.module = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    found = saliency(reader, population, runs=70, snapshot=15)
    ours = read_networks(population).sel(snapshot=15)
    weights = ours["weights"].values
    starts = np.rint(np.linspace(0, weights.shape[1] - 64, 70)).astype(int)
    step = 1e-2
    for place in (0, 100, 815, weights.shape[1] - 1):
        runs = [start for start in starts if start <= place < start + 64]
        assert found["runs"][place] == len(runs)
        changes = []
        for start in runs:
            run = torch.from_numpy(np.stack([weights[:, start : start + 64]] * 2))
            run[0, :, place - start] -= step
            run[1, :, place - start] += step
            with torch.no_grad():
                low, high = reader.module(run)
            changes.append(abs((high - low) / (2 * step)).numpy())
        slopes = np.mean(changes, axis=0)  # (network, class)
        for code, name in enumerate(found["class"].values):
            own = slopes[ours["optimizer"].values == name, code]
            assert found["gradient"].sel({"class": name})[place] == pytest.approx(own.mean(), rel=0.01)


def test_the_slope_of_a_number_is_that_of_its_logarithm(population):
    reader = linear(population, np.full((1, 64), 0.5), "learning_rate")
    found = saliency(reader, population)
    assert found["gradient"].dims == ("weight",)
    np.testing.assert_allclose(found["gradient"], 0.5 * reader.spread, rtol=1e-6)
    assert (found.attrs["property"], found.attrs["networks"]) == (
        "learning_rate",
        read_networks(population).sizes["model"],
    )


def test_each_weight_lies_in_about_as_many_runs_and_none_counts_more(population):
    found = saliency(linear(population, np.ones((3, 64))), population)
    inner = found["runs"][64:-64]
    assert (inner.min(), inner.max()) == (4, 5)
    assert found["runs"].min() == 1
    np.testing.assert_allclose(found["gradient"], 1)


def test_weights_that_no_run_covers_are_unknown(population):
    found = saliency(linear(population, np.ones((3, 64))), population, runs=3)
    covered = np.zeros(population.sizes["weight"], bool)
    for start in (0, (population.sizes["weight"] - 64) // 2, population.sizes["weight"] - 64):
        covered[start : start + 64] = True
    assert np.array_equal(found["gradient"].notnull().all("class"), covered)
    assert np.array_equal(found["gradient"].notnull().any("class"), covered)
    assert np.array_equal(found["runs"] > 0, covered)
    assert found.attrs["runs"] == 3


def test_weights_that_the_reader_does_not_see_are_unknown(population):
    reader = linear(population, np.ones((3, 64)), part="dense", kinds="without batch norm")
    found = saliency(reader, population)
    seen = select(population, "dense", "without batch norm")
    assert np.array_equal(np.flatnonzero(found["gradient"].notnull().all("class")), seen)
    assert set(found["kind"][seen].values) == {"kernel", "bias"}


def test_classes_are_averaged_apart(population):
    coefficients = np.arange(1, 4)[:, None] * np.ones((3, 64))
    reader = linear(population, coefficients)
    apart, together = saliency(reader, population), saliency(reader, population, by_class=False)
    np.testing.assert_allclose(apart["gradient"], coefficients[:, :1] * np.ones(population.sizes["weight"]), rtol=1e-6)
    names, counts = np.unique(read_networks(population)["optimizer"], return_counts=True)
    assert apart["class"].values.tolist() == names.tolist()
    assert apart["networks"].values.tolist() == counts.tolist()
    np.testing.assert_allclose(together["gradient"], (counts @ [1, 2, 3]) / counts.sum(), rtol=1e-6)
    rare = population.isel(
        model=np.flatnonzero((population["split"] == "train") | (population["optimizer"] != "rmsprop"))
    )
    assert saliency(reader, rare)["gradient"].isnull().all("weight").values.tolist() == [False, False, True]


def test_it_is_labelled_and_stored(population, fitted, tmp_path):
    found = saliency(fitted, population, snapshot=10, runs=20)
    layout = layout_of(population)
    assert all(np.array_equal(found[name], layout.label(name)) for name in LABELS)
    assert json.loads(found.attrs["parameters"])["length"] == 64
    assert (found.attrs["snapshot"], found.attrs["method"]) == (10, "DMC, pooled")
    late = saliency(fitted, population, runs=20)
    assert not np.allclose(found["gradient"], late["gradient"], equal_nan=True)
    found.to_netcdf(tmp_path / "saliency.nc")
    xr.testing.assert_identical(found, xr.load_dataset(tmp_path / "saliency.nc"))


def test_batches_do_not_count(population, fitted, monkeypatch):
    whole = saliency(fitted, population, runs=20)
    monkeypatch.setattr(importlib.import_module("nwslib.meta.saliency"), "_BATCH", 7)  # the function hides the module
    xr.testing.assert_allclose(whole, saliency(fitted, population, runs=20), rtol=1e-4)


def test_what_cannot_be_shown_is_refused(population, fitted):
    with pytest.raises(ValueError, match="not fitted: call fit first"):
        saliency(RunReader(**QUICK), population)
    swapped = population.assign_coords(split=("model", np.where(population["split"] == "test", "train", "test")))
    with pytest.raises(ValueError, match="of these networks were seen in training, the first"):
        saliency(fitted, swapped)
    with pytest.raises(ValueError, match="runs must be at least 1, not 0"):
        saliency(fitted, population, runs=0)
    with pytest.raises(ValueError, match="one architecture, but there are 2: choose a node"):
        saliency(fitted, xr.DataTree.from_dict({"a": population, "b": population}))
    with pytest.raises(ValueError, match=r"no snapshot 21\. The nearest is 20"):
        saliency(fitted, population, snapshot=21)
    names = np.where(population["split"] == "test", "adamw", population["optimizer"])
    with pytest.raises(ValueError, match=r"the reader knows no optimizer 'adamw'\. Did you mean 'adam'"):
        saliency(fitted, population.assign_coords(optimizer=("model", names)))
