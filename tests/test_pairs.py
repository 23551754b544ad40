import numpy as np
import pytest
import xarray as xr

from nwslib.analysis import pairs, scores

GENERATOR = np.random.default_rng(0)


def reading(prediction, truth, task="classification", name="optimizer"):
    return xr.Dataset(
        {"truth": ("model", np.asarray(truth)), "prediction": ("model", np.asarray(prediction))},
        {"model": np.arange(len(truth))},
        {"task": task, "property": name},
    )


def test_a_difference_is_that_of_the_means_and_lies_in_its_interval():
    values, reference = GENERATOR.normal(size=(2, 60))
    found = pairs.difference(values, reference)
    assert found["change"] == pytest.approx(values.mean() - reference.mean())
    assert found["low"] < found["change"] < found["high"]


def test_what_networks_share_does_not_widen_the_interval():
    hard = GENERATOR.normal(size=60)
    noise = GENERATOR.normal(size=60, scale=0.01)
    narrow = pairs.difference(hard + noise, hard)
    alone = scores.interval(lambda one: one.mean(axis=1), hard)
    assert narrow["high"] - narrow["low"] < 0.1 * (alone[1] - alone[0])


def test_the_change_of_an_accuracy_is_that_of_the_accuracies():
    truth = GENERATOR.choice(["adam", "momentum", "rmsprop"], 50)
    one, other = (reading(GENERATOR.choice(["adam", "momentum"], 50), truth) for _ in range(2))
    found = pairs.change(one, other)
    assert found["change"] == pytest.approx(scores.accuracy(one) - scores.accuracy(other))
    assert pairs.change(one, one) == {"change": 0, "low": 0, "high": 0}


def test_the_change_of_a_regression_is_that_of_r2_of_the_logarithms():
    truth = 10 ** GENERATOR.uniform(-4, -2, 50)
    one, other = (reading(truth * GENERATOR.uniform(0.5, 2, 50), truth, "regression") for _ in range(2))
    explained = [scores.r2(np.log10(truth), np.log10(each["prediction"].values)) for each in (one, other)]
    assert pairs.change(one, other)["change"] == pytest.approx(explained[0] - explained[1])


def test_readings_of_different_things_are_refused():
    one = reading(["adam", "adam"], ["adam", "momentum"])
    with pytest.raises(ValueError, match="one of optimizer and one of activation"):
        pairs.change(one, reading(["relu", "relu"], ["relu", "elu"], name="activation"))
    with pytest.raises(ValueError, match="the same test networks"):
        pairs.change(one, one.assign_coords(model=[1, 2]))


def test_seeds_are_compared_with_themselves():
    truth = GENERATOR.choice(["adam", "momentum"], 60)
    luck = GENERATOR.normal(size=3)
    right = GENERATOR.normal(size=(60, 1)) + luck > 0
    named = np.where(right, truth[:, None], "rmsprop")
    one = xr.Dataset(
        {"truth": ("model", truth), "prediction": (("model", "seed"), named)},
        {"model": np.arange(60), "seed": [0, 1, 2]},
        {"task": "classification", "property": "optimizer"},
    )
    assert pairs.change(one, one) == {"change": 0, "low": 0, "high": 0}
    best = one.isel(seed=int(luck.argmax()), drop=True)
    found = pairs.change(one, best)
    assert found["change"] == pytest.approx(right.mean() - right[:, luck.argmax()].mean())
    averaged = pairs.difference(right.mean(axis=1), right[:, luck.argmax()])
    assert found["high"] - found["low"] > averaged["high"] - averaged["low"]  # other seeds would be other readers
    with pytest.raises(ValueError, match=r"only by the same seeds, not by \[0, 1, 2\] and \[0, 1, 3\]"):
        pairs.change(one, one.assign_coords(seed=[0, 1, 3]))
    with pytest.raises(ValueError, match="not 60 networks and 3 seeds with 60 and 2"):
        pairs.difference(right, right[:, :2])


def test_enough_is_where_no_more_of_it_shows_a_loss():
    kept, lost = {"high": 0.1}, {"high": -0.1}
    assert pairs.enough({7: kept, 1: lost, 3: kept}) == 3
    assert pairs.enough({1: kept, 3: lost, 7: kept}) == 7
    assert pairs.enough({1: kept, 3: kept}) == 1
    assert pairs.enough({1: lost, 3: lost}) == 0
