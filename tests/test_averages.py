import numpy as np
import pytest
import xarray as xr

from nwslib.analysis.averages import averaged


def noisy(networks=400, runs=16, signal=0.15):
    """Give runs each of which is right a little more often than not."""
    generator = np.random.default_rng(0)
    truth = generator.choice(["a", "b"], networks)
    right = np.where(generator.random((networks, 1, runs)) < 0.5 + signal, 0.8, 0.2)
    of_b = np.where((truth == "b")[:, None, None], right, 1 - right)
    dims = ("model", "snapshot", "run", "class")
    one = xr.DataArray(np.stack([1 - of_b, of_b], axis=-1), {"class": ["a", "b"]}, dims)
    return one, xr.DataArray(truth, dims="model", name="optimizer")


def test_more_runs_are_surer_and_one_is_the_middle_one():
    runs, truth = noisy()
    table = averaged(runs, truth, [1, 5, 15])
    assert (table["accuracy"].diff("reading") > 0).all()
    assert ((table["low"] < table["accuracy"]) & (table["accuracy"] < table["high"])).all()
    middle = runs["class"].values[runs[:, 0, 8].argmax("class")] == truth.values
    assert table["accuracy"].values[0] == middle.mean()
    assert table["networks"].values.tolist() == [400] * 3
    assert set(table["property"].values) == {"optimizer"}
    assert table["chance"].values[0] == pytest.approx(max(np.mean(truth == "a"), np.mean(truth == "b")))


def test_what_cannot_be_averaged_is_refused():
    runs, truth = noisy(10)
    with pytest.raises(ValueError, match="17 runs cannot be averaged where there are 16"):
        averaged(runs, truth, [1, 17])
    with pytest.raises(ValueError, match="runs of one snapshot can be averaged, not of 2"):
        averaged(xr.concat([runs, runs], "snapshot"), truth, [1])
