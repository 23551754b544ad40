import copy

import numpy as np
import pytest
import torch
import xarray as xr
from traces import traced

from nwslib import space
from nwslib.meta import RunReader, fit, read
from nwslib.meta.labels import balance, hold_out, shuffle
from nwslib.snapshots import fake, open_population, write

QUICK = {"length": 64, "epochs": 6, "visits": 4, "runs": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def population():
    return traced()


@pytest.fixture(scope="module")
def fitted(population):
    return RunReader(**QUICK).fit(population, "optimizer")


def test_a_strong_trace_is_read_from_short_runs_and_a_shuffled_one_is_not(population, fitted):
    assert fitted.score(population) > 0.9
    scores = [read(population, "optimizer", RunReader(**QUICK), shuffled=True, seed=seed) for seed in range(3)]
    assert np.mean([(found["prediction"] == found["truth"]).mean() for found in scores]) < 0.55


def test_predictions_are_probabilities_of_the_test_networks(population, fitted):
    found = fitted.predictions(population)
    assert found["probability"].dims == ("model", "class")
    np.testing.assert_allclose(found["probability"].sum("class"), 1, rtol=1e-5)
    assert set(found["split"].values) == {"test"}
    assert set(found["status"].values) == {"converged"}
    xr.testing.assert_identical(found["probability"], fitted.predict_proba(population))
    assert np.array_equal(fitted.predict(population), found["class"].values[found["probability"].argmax("class")])


def test_it_says_how_many_weights_it_has(population, fitted):
    count = sum(one.numel() for one in fitted.module.parameters())
    assert fitted.parameters == fitted.predictions(population).attrs["parameter_count"] == count


def test_a_prediction_averages_evenly_spaced_runs(population, fitted):
    runs = fitted.predict_runs(population)
    found = fitted.predictions(population)
    np.testing.assert_allclose(runs.mean("run").squeeze("snapshot"), found["probability"], rtol=1e-5)
    alone = runs["class"].values[runs.argmax("class").values[:, 0]] == found["truth"].values[:, None]
    np.testing.assert_allclose(alone.mean(axis=1), found["run_accuracy"])
    assert runs.sizes["run"] == 8
    assert (runs["start"][:, -1] == population.sizes["weight"] - 64).all()
    assert fitted.predict_runs(population, runs=100).sizes["run"] == 100


def test_networks_of_several_snapshots_are_read_at_each(population, fitted):
    found = fitted.predictions(population, (1, 20))
    assert found["prediction"].dims == ("model", "snapshot")
    right = (found["prediction"] == found["truth"]).mean("model")
    assert right.sel(snapshot=20) > 0.9
    assert right.sel(snapshot=1) < 0.6
    xr.testing.assert_equal(found["probability"].sel(snapshot=20, drop=True), fitted.predict_proba(population))


def test_training_on_several_snapshots(population):
    reader = RunReader(**QUICK | {"visits": 2}, snapshot=[18, 20]).fit(population, "optimizer")
    assert reader.score(population) > 0.9
    assert reader.predictions(population)["prediction"].sizes["snapshot"] == 2


def test_the_seed_decides_everything_and_the_session_is_left_alone(population):
    few = {**QUICK, "epochs": 1, "visits": 1}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (RunReader(**few, seed=seed).fit(population, "optimizer") for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(first.predict_proba(population), again.predict_proba(population))
    assert not np.array_equal(first.predict_proba(population), other.predict_proba(population))
    still = [RunReader(**few, rate=1e-12, seed=seed).fit(population, "optimizer").module for seed in (1, 2)]
    weights = [next(module.parameters()) for module in still]
    assert not torch.allclose(*weights, atol=1e-3)  # the first weights follow the seed too


def test_test_networks_have_no_influence_on_the_fit(population):
    few = {**QUICK, "epochs": 1, "visits": 1}
    foreign = population.copy(deep=True)
    test = (foreign["split"] == "test").values
    foreign["weights"].values[test] = 7
    foreign["optimizer"].values[test] = "adam"
    states = [RunReader(**few).fit(one, "optimizer").module.state_dict() for one in (population, foreign)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_networks_seen_in_training_are_refused(population, fitted):
    swapped = population.assign_coords(split=("model", np.where(population["split"] == "test", "train", "test")))
    with pytest.raises(ValueError, match="of these networks were seen in training, the first"):
        fitted.predict_proba(swapped)


def test_the_best_epoch_on_held_out_networks_is_kept(population):
    overdone = {**QUICK, "decay": 1.0, "visits": 8}  # there is nothing to read, so it learns the networks by heart
    reader = RunReader(**overdone | {"epochs": 12}).fit(population, "activation")
    best = int(np.argmin(reader.history))
    assert best < 11
    until = RunReader(**overdone | {"epochs": best + 1}).fit(population, "activation")
    assert reader.history[: best + 1] == until.history
    assert all(torch.equal(a, b) for a, b in zip(reader.module.parameters(), until.module.parameters(), strict=True))


def test_held_out_networks_are_a_share_of_each_class():
    labels = np.repeat(["adam", "momentum", "rmsprop"], [50, 20, 2])
    held = hold_out(labels, 0.2, seed=0)
    assert [int(held[labels == name].sum()) for name in ("adam", "momentum", "rmsprop")] == [10, 4, 1]
    assert np.array_equal(held, hold_out(labels, 0.2, seed=0))
    assert not np.array_equal(held, hold_out(labels, 0.2, seed=1))
    assert not hold_out(labels, 0.99, seed=0)[labels == "rmsprop"].all()


def test_every_class_is_drawn_as_often_as_the_rarest_and_every_network_in_time():
    labels = np.repeat([0, 1, 2], [50, 20, 5])
    generator = np.random.default_rng(0)
    draws = [balance(labels, generator) for _ in range(60)]
    assert all(np.array_equal(np.bincount(labels[draw]), [5, 5, 5]) for draw in draws)
    assert all(len(set(draw)) == 15 for draw in draws)
    assert set(np.concatenate(draws)) == set(range(75))


def test_shuffling_keeps_the_labels_and_moves_them():
    labels = np.arange(50)
    assert np.array_equal(np.sort(shuffle(labels, 0)), labels)
    assert (shuffle(labels, 0) != labels).mean() > 0.8
    assert np.array_equal(shuffle(labels, 0), shuffle(labels, 0))


def test_a_number_is_estimated_from_runs(population):
    spread = 2 * (np.log10(population["learning_rate"]) + 3) * (population["snapshot"] - 1) / 19
    rated = population.assign(weights=(population["weights"] * 10**spread).astype("float32"))
    reader = RunReader(**QUICK | {"rate": 1e-2, "epochs": 10}).fit(rated, "learning_rate")
    assert reader.score(rated) > 0.4
    shuffled = RunReader(**QUICK).fit(rated, "learning_rate", shuffled=True)
    assert shuffled.score(rated) < 0.2
    runs, found = reader.predict_runs(rated), reader.predictions(rated)
    assert runs.dims == ("model", "snapshot", "run")
    np.testing.assert_allclose(np.log10(runs).mean("run")[:, 0], np.log10(found["prediction"]), rtol=1e-6)
    with pytest.raises(ValueError, match="learning_rate is a number and has no probabilities"):
        reader.predict_proba(rated)


def test_each_estimate_meets_its_own_number():
    scores, wanted = torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 1.0])
    assert fit._loss(scores, wanted) == 0  # over all pairs it would be a half


def test_runs_read_from_the_files_teach_the_same(population, tmp_path):
    few = {**QUICK, "epochs": 2, "visits": 1}
    write(tmp_path, fake.population(space.sample("nws_small", 40, seed=0, filter_size=[3, 5])))
    tree = open_population(tmp_path)
    readers = [RunReader(**few, resident=where).fit(tree, "optimizer") for where in ("always", "never")]
    assert readers[0].history == readers[1].history
    assert np.array_equal(*(reader.predict_proba(tree) for reader in readers))


def test_the_whole_vector_is_one_run(population):
    reader = RunReader(**QUICK | {"length": None, "epochs": 2}).fit(population, "optimizer")
    runs = reader.predict_runs(population)
    assert runs.sizes["run"] == 1
    assert (runs["start"] == 0).all()


def test_batch_statistics_are_those_of_the_runs_of_one_network(population, fitted):
    alone = population.isel(model=np.flatnonzero(population["split"] == "test")[:3])
    reader = copy.copy(fitted)
    reader.batch_statistics = True
    found = reader.predict_proba(population).sel(model=alone["model"])
    np.testing.assert_allclose(reader.predict_proba(alone), found, atol=1e-5)  # whatever the company
    assert not np.allclose(found, fitted.predict_proba(alone), atol=1e-2)
    fewer = reader.predict_runs(alone, runs=4)
    more = reader.predict_runs(alone, runs=7)
    same = fewer.isel(run=0).values, more.isel(run=0).values  # one run in other company
    assert not np.allclose(*same, atol=1e-4)


def test_mixed_precision_reads_as_well(population):
    reader = RunReader(**QUICK, precision="bfloat16").fit(population, "optimizer")
    assert reader.score(population) > 0.9
    full = RunReader(**QUICK).fit(population, "optimizer")
    assert not np.array_equal(reader.predict_proba(population), full.predict_proba(population))


def test_the_original_is_that_of_the_study():
    reader = RunReader.original(length=1000)
    assert (reader.network, reader.batch, reader.rate, reader.epochs) == ("short", 64, 1e-3, 50)
    assert (reader.length, RunReader.original().length) == (1000, 5000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"length": -1}, "length must be at least 1, not -1"),
        ({"rate": 0.0}, "rate must be positive"),
        ({"validation": 1.0}, "validation must be more than 0 and less than 1"),
        ({"lenght": 5}, r"RunReader has no parameter 'lenght'. Did you mean 'length'"),
        ({"precision": "float16"}, r"unknown precision 'float16'. Did you mean 'bfloat16'"),
        ({"network": "shrot"}, r"unknown meta-classifier 'shrot'. Did you mean 'short'"),
        ({"part": "convolutions"}, r"unknown part 'convolutions'. Did you mean 'convolution'"),
        ({"snapshot": 0}, r"there is no snapshot 0. The nearest is 1"),
        ({"device": "gpu"}, "device 'gpu' is not available here"),
        ({"length": 10**6}, "no network of the train split can be read.*'too short'"),
    ],
)
def test_bad_parameters_are_refused(population, change, message):
    with pytest.raises(ValueError, match=message):
        read(population, "optimizer", RunReader(**QUICK), **change)


def test_what_cannot_be_read_is_refused(population):
    with pytest.raises(ValueError, match=r"unknown property 'optimiser'. Did you mean 'optimizer'"):
        read(population, "optimiser", RunReader(**QUICK))
    with pytest.raises(ValueError, match="not fitted: call fit first"):
        RunReader(**QUICK).predict(population)
