import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from sklearn import metrics

from nwslib.analysis import scores


def reading(truth, prediction, train=None, **attributes):
    classes, counts = np.unique(train if train is not None else truth, return_counts=True)
    found = xr.Dataset({"truth": ("model", truth), "prediction": ("model", prediction)})
    found = found.assign_coords({"class": classes, "train_networks": ("class", counts)})
    parameters = {"snapshot": 20, "part": "all", "kinds": "trained", "variable": "weights", "permuted": True}
    words = {"task": "classification", "property": "optimizer", "method": "a method", "seed": "0", "shuffled": 0}
    words |= {"trained_on": "", "read_on": ""}
    return found.assign_attrs({**words, "parameters": json.dumps(parameters), **attributes})


def simulated(networks, share, seed, names=("adam", "momentum", "rmsprop")):
    """Give a reading that is right for a share of the networks and guesses wrongly for the rest."""
    random = np.random.default_rng(seed)
    truth = random.integers(len(names), size=networks)
    wrong = (truth + random.integers(1, len(names), size=networks)) % len(names)
    prediction = np.where(random.random(networks) < share, truth, wrong)
    return reading(np.array(names)[truth], np.array(names)[prediction])


def test_accuracy_and_confusion_agree_with_scikit_learn():
    found = simulated(200, 0.6, seed=0)
    truth, prediction = found["truth"].values, found["prediction"].values
    assert scores.accuracy(found) == metrics.accuracy_score(truth, prediction)
    assert np.array_equal(scores.confusion(found), metrics.confusion_matrix(truth, prediction))


def test_confusion_knows_classes_that_occur_on_one_side_only():
    found = reading(["a", "a", "z"], ["a", "b", "a"], train=["a", "b", "c"])
    matrix = scores.confusion(found)
    assert matrix["truth"].values.tolist() == ["a", "b", "c", "z"]
    assert matrix.sel(truth="a", prediction="b") == matrix.sel(truth="z", prediction="a") == 1
    assert matrix.sum() == 3


def test_r2_and_mae_agree_with_scikit_learn():
    truth, prediction = np.random.default_rng(0).normal(size=(2, 5, 40))
    for row in range(5):
        assert scores.r2(truth, prediction)[row] == pytest.approx(metrics.r2_score(truth[row], prediction[row]))
        assert scores.mae(truth, prediction)[row] == pytest.approx(
            metrics.mean_absolute_error(truth[row], prediction[row])
        )


def test_chance_is_the_better_of_two_ways_to_guess():
    train = ["adam"] * 5 + ["momentum"] * 3
    assert scores.chance_level(train, ["adam"] * 6 + ["momentum"] * 2) == 0.75
    assert scores.chance_level(train, ["adam"] * 2 + ["momentum"] * 6) == 0.5
    test = ["adam"] * 6 + ["momentum"] * 2
    always = reading(test, ["adam"] * 8, train=train)
    assert scores.accuracy(always) == scores.chance(always) == 0.75


def test_the_interval_is_that_of_the_binomial_for_large_samples():
    found = simulated(2000, 0.7, seed=1)
    share = scores.accuracy(found)
    half = 1.96 * np.sqrt(share * (1 - share) / 2000)
    np.testing.assert_allclose(scores.accuracy_interval(found), (share - half, share + half), atol=0.003)


@pytest.mark.parametrize(("networks", "share"), [(60, 0.5), (60, 0.8), (200, 0.35)])
def test_the_interval_covers_the_truth_about_95_times_in_100(networks, share):
    bounds = np.array([scores.accuracy_interval(simulated(networks, share, seed), draws=500) for seed in range(400)])
    covered = ((bounds[:, 0] <= share) & (share <= bounds[:, 1])).mean()
    assert 0.90 < covered < 0.985


def test_the_interval_of_r2_covers_the_truth():
    covered = 0
    for seed in range(200):
        truth, noise = np.random.default_rng(seed).normal(size=(2, 150))
        low, high = scores.interval(scores.r2, truth, truth + 0.5 * noise, draws=500)
        covered += low <= 0.75 <= high
    assert 0.88 < covered / 200 < 0.99


def test_certainty_has_an_exact_bound():
    right = reading(["adam", "momentum"] * 30, ["adam", "momentum"] * 30)
    low, high = scores.accuracy_interval(right)
    exact = scipy.stats.binomtest(60, 60).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))
    wrong = reading(["adam", "momentum"] * 30, ["momentum", "adam"] * 30)
    assert scores.accuracy_interval(wrong) == pytest.approx((1 - high, 1 - low))


def test_intervals_follow_the_seed():
    column = np.random.default_rng(0).random(50)
    mean = [scores.interval(lambda x: x.mean(axis=1), column, seed=seed) for seed in (0, 0, 1)]
    assert mean[0] == mean[1]
    assert mean[0] != mean[2]


def crossed(networks, seeds, share, seed, spread=0.05):
    """Give a reading by several seeds: some networks are hard for all of them, and some seeds are better."""
    random = np.random.default_rng(seed)
    ease = random.normal(size=(networks, 1)) + random.normal(size=(networks, seeds))
    threshold = scipy.stats.norm.isf(share, scale=2**0.5)
    right = ease + random.normal(size=seeds) * spread > threshold
    found = reading(["adam", "momentum"] * (networks // 2), ["adam"] * networks, seed=str([*range(seeds)])[1:-1])
    other = np.where(found["truth"].values == "adam", "momentum", "adam")[:, None]
    named = np.where(right, found["truth"].values[:, None], other)
    return found.assign(prediction=(("model", "seed"), named))


def test_the_interval_over_networks_and_seeds_covers_the_truth():
    bounds = np.array([scores.accuracy_interval(crossed(60, 3, 0.7, seed), draws=300) for seed in range(200)])
    assert 0.92 < ((bounds[:, 0] <= 0.7) & (bounds[:, 1] >= 0.7)).mean() < 0.995
    # With seeds that differ much, the intervals of networks alone hold the truth far less often.
    both, alone = [], []
    for seed in range(100):
        found = crossed(60, 3, 0.7, seed, spread=0.5)
        both.append(scores.accuracy_interval(found, draws=300))
        right = (found["prediction"] == found["truth"]).mean("seed").values
        alone.append(scores.interval(lambda x: x.mean(axis=1), right, draws=300))
    expected = scipy.stats.norm.sf(scipy.stats.norm.isf(0.7, scale=2**0.5), scale=2.25**0.5)
    held = [np.mean([low <= expected <= high for low, high in each]) for each in (both, alone)]
    assert held[0] > 0.88 > held[1] + 0.1


def test_the_interval_of_a_mean_is_the_same_by_products_and_by_resampled_columns():
    values = np.random.default_rng(0).random((40, 3, 2, 5))
    found = scores.mean(xr.DataArray(values, dims=("model", "seed", "a", "b")), draws=300)
    np.testing.assert_allclose(found["mean"], values.mean(axis=(0, 1)))
    for place in np.ndindex(2, 5):
        one = scores.interval(lambda x: x.mean(axis=1), values[:, :, *place], draws=300)
        assert (found["low"].values[place], found["high"].values[place]) == pytest.approx(one)


def test_a_mean_leaves_out_networks_without_a_number():
    values = np.random.default_rng(0).random((30, 4))
    values[:20, 1], values[:, 3] = np.nan, np.nan
    found = scores.mean(xr.DataArray(values, {"x": list("abcd")}, dims=("model", "x")))
    assert found["networks"].values.tolist() == [30, 10, 30, 0]
    assert found["mean"][1] == pytest.approx(values[20:, 1].mean())
    assert found["high"][1] - found["low"][1] > found["high"][0] - found["low"][0]
    assert found.sel(x="d").to_array()[:3].isnull().all()


def test_large_samples_are_resampled_in_blocks_with_one_result(monkeypatch):
    truth, prediction = np.random.default_rng(0).normal(size=(2, 50))
    whole = scores.interval(scores.r2, truth, truth + prediction, draws=200)
    monkeypatch.setattr(scores, "_BLOCK", 500)
    assert scores.interval(scores.r2, truth, truth + prediction, draws=200) == whole


def test_balanced_accuracy_agrees_with_scikit_learn_and_lies_in_its_interval():
    random = np.random.default_rng(0)
    truth = random.choice(["a", "b", "c"], 300, p=[0.8, 0.15, 0.05])
    found = reading(truth, np.where(random.random(300) < 0.8, "a", truth))
    assert scores.balanced_accuracy(found) == pytest.approx(
        metrics.balanced_accuracy_score(truth, found["prediction"].values)
    )
    low, high = scores.balanced_interval(found)
    assert low < scores.balanced_accuracy(found) < high < scores.accuracy(found)
    always = reading(truth, ["a"] * 300)
    assert scores.balanced_accuracy(always) == pytest.approx(1 / 3)
    assert scores.balanced_interval(always) == pytest.approx((1 / 3, 1 / 3))
    right = reading(truth, truth)
    assert scores.balanced_interval(right) == scores.accuracy_interval(right)


def test_p_values_are_uniform_without_a_trace_and_tiny_with_one():
    random = np.random.default_rng(0)
    null = []
    for seed in range(150):
        truth, prediction = random.choice(["a", "b", "c", "d"], size=(2, 80))
        null.append(scores.p_value(reading(truth, prediction), draws=400, seed=seed))
    assert np.mean(np.array(null) < 0.05) < 0.11
    assert 0.4 < np.mean(null) < 0.7
    assert scores.p_value(simulated(60, 0.8, seed=0), draws=999) == pytest.approx(0.001)
    assert scores.p_value(reading(["a", "b"] * 10, ["a"] * 20)) == 1


def test_several_seeds_count_as_one_network_each():
    one = simulated(60, 0.7, seed=0)
    thrice = one.assign(prediction=one["prediction"].expand_dims(seed=3).transpose("model", "seed"))
    assert scores.accuracy(thrice) == pytest.approx(scores.accuracy(one))
    assert scores.accuracy_interval(thrice) == pytest.approx(scores.accuracy_interval(one))
    assert scores.p_value(thrice) == scores.p_value(one)
    assert scores.balanced_interval(thrice) == pytest.approx(scores.balanced_interval(one))
    np.testing.assert_allclose(scores.confusion(thrice), scores.confusion(one))


def test_a_summary_calls_only_what_is_significant_above_chance():
    row = scores.summary(simulated(60, 0.9, seed=0))
    assert row["above_chance"]
    assert row["low"] < row["accuracy"] < row["high"]
    assert (row["property"], row["networks"], row["classes"], row["length"]) == ("optimizer", 60, 3, 0)
    assert (row["kinds"], row["variable"], row["permuted"], row["seeds"]) == ("trained", "weights", True, 1)
    several = scores.summary(crossed(60, 3, 0.9, 0))
    assert (several["seed"], several["seeds"]) == ("0, 1, 2", 3)
    # A class that is absent from the test: naming the other two at random beats chance without knowing anything.
    guess = reading(["b", "c"] * 30, ["b", "b", "c", "c"] * 15, train=["a"] * 9 + ["b", "c"])
    row = scores.summary(guess)
    assert row["low"] > row["chance"] == pytest.approx(1 / 3)
    assert not row["above_chance"]


def test_a_summary_of_numbers_compares_with_the_median():
    truth = 10 ** np.random.default_rng(0).uniform(-4, -2, 80)
    attributes = {"task": "regression", "train_median": 1e-3}
    found = xr.Dataset({"truth": ("model", truth), "prediction": ("model", truth * 1.1)})
    row = scores.summary(found.assign_attrs(reading(["a"], ["a"]).attrs | attributes))
    assert row["mae"] == pytest.approx(np.log10(1.1))
    assert row["baseline"] == pytest.approx(np.abs(np.log10(truth) + 3).mean())
    assert row["low"] < row["r2"] < 1
    assert row["gain"] == pytest.approx(row["baseline"] - row["mae"])
    assert 0 < row["gain_low"] < row["gain"] < row["gain_high"]
    perfect = xr.Dataset({"truth": ("model", truth), "prediction": ("model", truth)})
    assert scores.summary(perfect.assign_attrs(found.attrs | reading(["a"], ["a"]).attrs | attributes))["r2"] == 1


def test_a_number_read_by_several_seeds_counts_with_the_mean_of_their_scores():
    random = np.random.default_rng(0)
    truth, noise = 10 ** random.uniform(-4, -2, 80), random.normal(size=(80, 3)) * [0.1, 0.2, 0.6]
    attributes = reading(["a"], ["a"]).attrs | {"task": "regression", "train_median": 1e-3}
    found = xr.Dataset({"truth": ("model", truth)}, attrs=attributes)
    found["prediction"] = (("model", "seed"), truth[:, None] * 10**noise)
    row, alone = scores.summary(found), [scores.summary(found.isel(seed=place)) for place in range(3)]
    for name in ("r2", "mae", "gain"):
        assert row[name] == pytest.approx(np.mean([one[name] for one in alone]))
    assert row["baseline"] == pytest.approx(alone[0]["baseline"])
    # The seeds differ, so that three of them say less about a fourth than 80 networks about an eighty-first.
    assert row["high"] - row["low"] > 2 * (alone[0]["high"] - alone[0]["low"])
    assert row["low"] < row["r2"] < row["high"]


def test_tau_agrees_with_scipy_ties_and_all():
    truth, prediction = np.random.default_rng(0).integers(8, size=(2, 3, 40)).astype(float)
    for row in range(3):
        assert scores.tau(truth, prediction)[row] == pytest.approx(
            scipy.stats.kendalltau(truth[row], prediction[row]).statistic
        )
    assert scores.tau(truth, np.ones(40)).tolist() == [0, 0, 0]


def test_the_interval_of_tau_is_that_of_resampled_networks_and_seeds():
    random = np.random.default_rng(0)
    truth = random.normal(size=60)
    prediction = truth[:, None] + random.normal(size=(60, 3))
    networks, seeds = scores._resampled(60, 3, 200, seed=4)
    by_hand = [
        np.mean([scipy.stats.kendalltau(truth[some], prediction[some, one]).statistic for one in chosen])
        for some, chosen in zip(networks, seeds, strict=True)
    ]
    expected = np.quantile(by_hand, [0.025, 0.975])
    np.testing.assert_allclose(scores.tau_interval(truth, prediction, draws=200, seed=4), expected)


def test_a_number_as_it_is_may_be_zero_and_is_scored_by_error_and_order():
    random = np.random.default_rng(0)
    truth = np.round(random.uniform(size=80), 1)
    attributes = {"task": "regression", "property": "test_accuracy", "train_median": 0.0, "scale": "linear"}
    found = xr.Dataset({"truth": ("model", truth)}, attrs=reading(["a"], ["a"]).attrs | attributes)
    found["prediction"] = (("model", "seed"), truth[:, None] + random.normal(size=(80, 2)) * [0.05, 0.1])
    row, alone = scores.summary(found), [found["prediction"].values[:, place] for place in range(2)]
    assert (truth == 0).any()
    assert row["r2"] == pytest.approx(np.mean([metrics.r2_score(truth, one) for one in alone]))
    assert row["mse"] == pytest.approx(np.mean([metrics.mean_squared_error(truth, one) for one in alone]))
    assert row["tau"] == pytest.approx(np.mean([scipy.stats.kendalltau(truth, one).statistic for one in alone]))
    assert row["baseline"] == pytest.approx(truth.mean())  # of always saying 0
    for name in ("mse", "tau"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    rates = found.assign(truth=found["truth"] + 1, prediction=found["prediction"] + 1)
    with pytest.raises(ValueError, match="all of classes or all of numbers on one scale"):
        scores.table([found, rates.assign_attrs(scale="log10", train_median=1.0)])


def test_a_table_has_a_row_per_reading(tmp_path):
    readings = [simulated(60, share, seed=1) for share in (0.9, 0.2)]
    found = scores.table(readings)
    assert found["accuracy"].values.tolist() == [scores.accuracy(one) for one in readings]
    found.to_netcdf(tmp_path / "table.nc")
    xr.testing.assert_identical(found, xr.load_dataset(tmp_path / "table.nc"))
    several = readings[0].assign_attrs(
        parameters=json.dumps({"snapshot": [11, 20], "part": "all", "kinds": "batch norm"})
    )
    assert scores.table([several])["snapshot"].item() == "11 to 20"
    with pytest.raises(ValueError, match="a table needs at least one reading"):
        scores.table([])
    with pytest.raises(ValueError, match="not a reading: the attribute 'task'"):
        scores.summary(xr.Dataset())


def test_tables_are_put_together_and_list_what_they_find():
    tables = [scores.table([simulated(60, share, seed=1).assign_attrs(property=str(share))]) for share in (0.9, 0.3)]
    both = scores.together(*tables)
    assert both.sizes["reading"] == 2
    assert scores.above_chance(both) == ["0.9"]
    late, several = (tables[0].assign(snapshot=("reading", [moments])) for moments in (20, "16 to 20"))
    assert scores.together(late, several)["snapshot"].values.tolist() == ["20", "16 to 20"]


def test_analysis_works_without_torch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import matplotlib; matplotlib.use('Agg')\n"
        "import nwslib.analysis\n"
        "from nwslib.analysis import maps, plots, scores\n"
        "plots.style()\n"
        "assert scores.chance_level(['a'], ['a']) == 1\n"
        "assert not [name for name in sys.modules if name.startswith(('nwslib.meta', 'nwslib.population'))]\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
