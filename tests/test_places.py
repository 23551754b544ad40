import numpy as np
import pytest
import xarray as xr

from nwslib.analysis import places, scores

NAMES = np.array(["adam", "momentum", "rmsprop"])


def invented(right, sharpness=0.8, seed=0):
    """Give runs (model, snapshot, run, class) that name the right class where `right` (m, s, r), and truths."""
    random = np.random.default_rng(seed)
    networks, _, runs = right.shape
    truth = random.integers(3, size=networks)
    named = (truth[:, None, None] + np.where(right, 0, random.integers(1, 3, size=right.shape))) % 3
    probability = np.full((*right.shape, 3), (1 - sharpness) / 2)
    np.put_along_axis(probability, named[..., None], sharpness, axis=-1)
    coordinates = {"class": NAMES, "model": np.arange(networks), "snapshot": np.arange(right.shape[1]) + 1}
    coordinates["start"] = (("model", "run"), np.tile(10 * np.arange(runs), (networks, 1)))
    coordinates["optimizer"] = ("model", NAMES[truth])
    found = xr.DataArray(probability, coordinates, ("model", "snapshot", "run", "class"))
    return found, found["optimizer"]


def test_a_perfect_reader_gives_the_identity_everywhere():
    found = places.along(*invented(np.ones((40, 2, 5), bool), sharpness=1.0))
    probability = found["probability"].transpose("snapshot", "run", "truth", "class")
    np.testing.assert_array_equal(probability, np.broadcast_to(np.eye(3), (2, 5, 3, 3)))
    assert (found["accuracy"] == 1).all()
    assert found["start"].values.tolist() == [0, 10, 20, 30, 40]
    assert found["networks"].sum() == 40


def test_probabilities_add_up_and_accuracies_are_those_of_each_place():
    right = np.random.default_rng(1).random((90, 2, 6)) < np.linspace(0.2, 0.9, 6)
    runs, truth = invented(right)
    found = places.along(runs, truth)
    np.testing.assert_allclose(found["probability"].sum("class"), 1)
    np.testing.assert_allclose(found["accuracy"], right.mean(axis=0))
    assert ((found["low"] < found["accuracy"]) & (found["accuracy"] < found["high"])).all()
    one = runs.values[(truth == "momentum").values, 1, 3].mean(axis=0)
    np.testing.assert_allclose(found["probability"].sel(truth="momentum", snapshot=2, run=3), one)
    assert (found["chance"] == np.unique(truth, return_counts=True)[1].max() / 90).all()


def test_runs_that_begin_elsewhere_in_another_network_have_no_common_place():
    runs, truth = invented(np.ones((4, 1, 3), bool))
    runs["start"][2, 1] += 1
    with pytest.raises(ValueError, match="choose networks of one architecture"):
        places.along(runs, truth)


def test_a_layer_is_credited_with_the_runs_that_lie_in_it():
    right = np.zeros((50, 1, 10), bool)
    right[..., 5:] = True  # the second half of the vector gives it away
    labels = np.repeat(["conv1", "", "dense1", "output"], [50, 5, 45, 10])
    found = places.by_label(*invented(right), labels, 10)
    assert found["label"].values.tolist() == ["conv1", "dense1"]  # no run reaches the output
    assert found["accuracy"].values.tolist() == [[0, 1]]
    np.testing.assert_allclose(found["runs"], [5, 4.5])
    np.testing.assert_allclose(found["probability"].sum("class"), 1)


def test_a_run_counts_for_a_label_by_its_share():
    right = np.zeros((50, 1, 2), bool)
    right[..., 1] = True
    labels = np.array([*["a"] * 6, *["b"] * 14])  # runs of ten: 6 a, 4 b; then b alone
    found = places.by_label(*invented(right), labels, 10)
    np.testing.assert_allclose(found["accuracy"], [[0, 10 / 14]])
    np.testing.assert_allclose(found["runs"], [0.6, 1.4])


def test_units_are_labels_and_what_has_none_does_not_count():
    units = np.repeat([-1, 0, 1, -1], [10, 10, 10, 10])
    found = places.by_label(*invented(np.ones((9, 1, 4), bool)), units, 10)
    assert found["label"].values.tolist() == [0, 1]
    with pytest.raises(ValueError, match="a run ends at weight 40, but there are 39 labels"):
        places.by_label(*invented(np.ones((9, 1, 4), bool)), units[:39], 10)


def test_networks_are_sorted_from_the_least_to_the_most_sure():
    random = np.random.default_rng(2)
    right = random.random((30, 2, 64)) < random.random((30, 1, 1))
    runs, truth = invented(right)
    own = xr.DataArray(random.random(40), {"model": np.arange(40)}, ("model",))
    found = places.sure(runs, truth, own)
    assert (np.diff(found["of_truth"]) >= 0).all()
    assert (found["of_prediction"] >= found["of_truth"] - 1e-12).all()
    assert (found["quarter"] <= found["three_quarters"]).all()
    one = found.sel(model=7)
    assert one["of_truth"] == pytest.approx(runs.sel(model=7).sel({"class": truth[7].item()}).mean().item())
    assert one["right"].item() == (one["of_truth"].item() == pytest.approx(one["of_prediction"].item()))
    np.testing.assert_array_equal(found["test_accuracy"], own.sel(model=found["model"]))
    matrix = scores.confusion(found)
    assert matrix.sum() == 30
    assert np.trace(matrix) == found["right"].sum()


def test_a_class_that_was_never_learned_has_no_probability():
    runs, truth = invented(np.ones((5, 1, 2), bool))
    other = xr.DataArray(np.array(["adamax"] * 5), {"model": truth["model"]}, ("model",))
    found = places.sure(runs, other)
    assert not found["of_truth"].any()
    assert not found["right"].any()


def test_networks_are_grouped_by_how_well_they_do_their_own_work():
    own = xr.DataArray(np.linspace(0, 1, 41), {"model": np.arange(41)}, ("model",))
    right = np.broadcast_to((own.values > 0.5)[:, None, None], (41, 1, 8))
    networks = places.sure(*invented(right), own)
    found = places.by_test_accuracy(networks, 4)
    assert found["score"].values.tolist() == pytest.approx([0, 0, 9.5 / 10, 1], abs=0.06)
    assert (np.diff(found["test_accuracy"]) > 0).all()
    assert found["networks"].values.tolist() == [11, 10, 10, 10]
    assert found["chance"].values[0] == networks.attrs["chance"]
    with pytest.raises(ValueError, match="41 networks do not make 42 groups"):
        places.by_test_accuracy(networks, 42)
    with pytest.raises(ValueError, match="give test_accuracy to sure"):
        places.by_test_accuracy(networks.drop_vars("test_accuracy"))
