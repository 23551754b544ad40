import numpy as np
import pytest
import xarray as xr

from nwslib import space
from nwslib.meta import StatisticsReader, statistics_view
from nwslib.snapshots import fake, layout_of


@pytest.fixture(scope="module")
def population():
    """Give 200 networks whose optimiser widens one tensor and whose learning rate moves another, in training only."""
    design = space.sample("nws_small", 200, seed=0)
    made = [network.drop_dims("evaluation") for network in fake.population(design, signal=0.0, diverged=[0, 9])]
    one = xr.concat(made, "model", data_vars="all", coords="different", compat="equals", join="exact")
    time, places = (one["snapshot"] - 1) / 19, layout_of(one).slices
    for layer, name in zip(("conv1", "conv2", "dense1"), space.VOCABULARY["optimizer"], strict=True):
        one["weights"][..., places[f"{layer}.kernel"]] *= 1 + time * (one["optimizer"] == name)
    one["weights"][..., places["output.kernel"]] += 0.1 * np.log10(one["learning_rate"]) * time
    return one


def test_a_strong_trace_is_read_and_a_shuffled_one_is_not(population):
    features = statistics_view(population, per="layer")
    reader = StatisticsReader()
    assert reader.fit(features, "optimizer").score(features) > 0.9
    shuffled = [StatisticsReader(seed=seed).fit(features, "optimizer", shuffled=True) for seed in range(5)]
    assert np.mean([reader.score(features) for reader in shuffled]) < 0.5


def test_a_trace_that_training_leaves_is_not_there_before_training(population):
    assert StatisticsReader(snapshot=1).fit(population, "optimizer").score(population) < 0.55


def test_predictions_are_those_of_the_test_networks_alone(population):
    found = StatisticsReader().fit(population, "activation").predictions(population)
    assert set(found["split"].values) == {"test"}
    assert set(found["status"].values) == {"converged"}
    assert np.array_equal(found["truth"], found["activation"])
    expected = (population["split"] == "test") & (population["status"] == "converged")
    assert np.array_equal(found["model"], population["model"].values[expected])


def test_test_networks_have_no_influence_on_the_fit(population):
    reader = StatisticsReader().fit(population, "optimizer")
    foreign = population.copy(deep=True)
    test = (foreign["split"] == "test").values
    foreign["weights"].values[test] *= 1000
    foreign["optimizer"].values[test] = "adam"
    other = StatisticsReader().fit(foreign, "optimizer")
    assert np.array_equal(reader.pipeline[-1].coef_, other.pipeline[-1].coef_)


def test_networks_seen_in_training_are_refused(population):
    reader = StatisticsReader().fit(population, "optimizer")
    swapped = population.assign_coords(split=("model", np.where(population["split"] == "test", "train", "test")))
    with pytest.raises(ValueError, match="of these networks were seen in training, the first"):
        reader.predict(swapped)


def test_a_view_reads_like_the_population(population):
    view = statistics_view(population, 15, per="vector", part="dense", kinds="without batch norm")
    reader = StatisticsReader(snapshot=15, per="vector", part="dense", kinds="without batch norm")
    direct = reader.fit(population, "optimizer").predictions(population)
    xr.testing.assert_equal(direct, reader.fit(view, "optimizer").predictions(view))
    with pytest.raises(ValueError, match="the view has per=vector, but the reader asks for layer"):
        StatisticsReader(snapshot=15, part="dense", kinds="without batch norm").fit(view, "optimizer")


def test_rare_classes_are_not_drowned_by_frequent_ones(population):
    # Four momentum networks among some fifty adam ones, all the same but for noise: named by guessing, and as one
    # class weighs as much as the other, guesses go to both.
    names = population["optimizer"].values
    noise = population.isel(model=np.flatnonzero((names == "adam") | (names == "momentum")))
    train = np.flatnonzero((noise["split"] == "train") & (noise["optimizer"] == "momentum"))
    few = noise.isel(model=np.setdiff1d(np.arange(noise.sizes["model"]), train[4:]))
    reader = StatisticsReader(per="vector", snapshot=1).fit(few, "optimizer")
    guesses = reader.pipeline.predict(statistics_view(population, 1))
    assert 0.1 < (guesses == "momentum").mean() < 0.9


def test_a_learning_rate_is_estimated_better_than_by_the_median(population):
    reader = StatisticsReader().fit(population, "learning_rate")
    found = np.log10(reader.predictions(population)[["truth", "prediction"]])
    error = abs(found["truth"] - found["prediction"]).mean()
    assert error < 0.7 * abs(found["truth"] - np.log10(reader.median)).mean()
    assert reader.score(population) > 0.5
    assert StatisticsReader().fit(population, "learning_rate", shuffled=True).score(population) < 0.2


def test_the_median_is_that_of_the_training_networks(population):
    train = (population["split"] == "train") & (population["status"] == "converged")
    expected = np.median(population["learning_rate"].values[train])
    reader = StatisticsReader().fit(population, "learning_rate")
    assert reader.median == pytest.approx(expected, rel=1e-3)


def test_boosting_reads_what_is_there_and_gives_probabilities(population):
    features = statistics_view(population, per="layer")
    reader = StatisticsReader(machine="boosting").fit(features, "optimizer")
    assert reader.score(features) > 0.8
    probabilities = reader.predict_proba(features)
    np.testing.assert_allclose(probabilities.sum("class"), 1, rtol=1e-6)
    assert np.array_equal(reader.predict(features), probabilities["class"].values[probabilities.argmax("class")])
    assert StatisticsReader(machine="boosting").fit(features, "learning_rate").score(features) > 0.3
    assert StatisticsReader(machine="boosting").fit(features, "optimizer", shuffled=True).score(features) < 0.6


def test_margins_become_probabilities_on_request(population):
    features = statistics_view(population, per="layer")
    reader = StatisticsReader(probabilities=True).fit(features, "optimizer")
    probabilities = reader.predict_proba(features)
    truth = features["optimizer"].sel(model=probabilities["model"])
    right = probabilities.values[np.arange(len(truth)), np.searchsorted(probabilities["class"], truth)]
    assert right.mean() > 0.6
    plain = StatisticsReader().fit(features, "optimizer")
    with pytest.raises(ValueError, match="no probabilities: read classes, with probabilities=True"):
        plain.predict_proba(features)
    two = StatisticsReader(probabilities=True).fit(features, "augmentation").predict_proba(features)
    np.testing.assert_allclose(two.sum("class"), 1, rtol=1e-6)


def test_runs_are_read_one_by_one_and_averaged(population):
    kept = {"per": "run", "length": 400, "part": "convolution"}
    some, many = (StatisticsReader(**kept, runs=runs).fit(population, "optimizer") for runs in (2, 8))
    found = many.predictions(population)
    assert found["prediction"].dims == ("model",)
    assert found["run_accuracy"].mean() <= (found["prediction"] == found["truth"]).mean() + 0.05
    assert many.score(population) > 0.5
    assert set(np.unique(some.predictions(population)["run_accuracy"])) <= {0, 0.5, 1}


def test_several_snapshots_are_learned_from_and_read(population):
    reader = StatisticsReader(snapshot=[16, 20]).fit(population, "optimizer")
    found = reader.predictions(population, [1, 20])
    assert found["prediction"].dims == ("model", "snapshot")
    right = (found["prediction"] == found["truth"]).mean("model")
    assert right.sel(snapshot=20) > 0.9
    assert right.sel(snapshot=1) < 0.6
    assert np.array_equal(reader.predictions(population, 20)["prediction"], found["prediction"].sel(snapshot=20))


def test_units_can_be_permuted_where_networks_are_read(population):
    plain, moved = (StatisticsReader(per="run", length=60, runs=4, permuted=one) for one in (False, True))
    assert plain.fit(population, "optimizer").pipeline[-1].coef_ == pytest.approx(
        moved.fit(population, "optimizer").pipeline[-1].coef_
    )
    layers = [StatisticsReader(permuted=one).fit(population, "optimizer").predict(population) for one in (False, True)]
    assert np.array_equal(*layers)


def test_where_nothing_differs_a_guess_is_made(population):
    still = population.assign(weights=population["weights"] * 0)
    for machine in ("linear", "boosting"):
        found = StatisticsReader(machine=machine).fit(still, "optimizer").predictions(still)
        assert len(set(found["prediction"].values)) == 1
    assert StatisticsReader().fit(still, "learning_rate").score(still) < 0.05


def test_what_cannot_be_read_is_refused(population):
    with pytest.raises(ValueError, match=r"unknown property 'optimiser'. Did you mean 'optimizer'"):
        StatisticsReader().fit(population, "optimiser")
    with pytest.raises(ValueError, match="filter_size is 3 in every training network"):
        StatisticsReader().fit(population, "filter_size")
    negative = population.assign_coords(learning_rate=-population["learning_rate"])
    with pytest.raises(ValueError, match="learning_rate is read as its logarithm and must be positive, not -0"):
        StatisticsReader().fit(negative, "learning_rate")
    with pytest.raises(ValueError, match=r"unknown machine 'boost'. Did you mean 'boosting'"):
        StatisticsReader(machine="boost").fit(population, "optimizer")
    with pytest.raises(ValueError, match="not fitted: call fit first"):
        StatisticsReader().predict(population)
    lonely = population.isel(model=np.flatnonzero(population["optimizer"] == "adam"))
    names = lonely["optimizer"].values.copy()
    names[np.flatnonzero(lonely["split"] == "train")[-1]] = "rmsprop"
    with pytest.raises(ValueError, match="optimizer is rmsprop in only 1 training network"):
        StatisticsReader().fit(lonely.assign_coords(optimizer=("model", names)), "optimizer")
