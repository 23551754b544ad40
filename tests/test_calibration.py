import numpy as np
import pytest
import xarray as xr
from sklearn import metrics

from nwslib.analysis import calibration

CLASSES = ["adam", "momentum", "rmsprop"]


def reading(networks, seed, sharpen=1.0, seeds=None):
    """Give a reading whose truths are drawn from its probabilities, which are then sharpened."""
    random = np.random.default_rng(seed)
    honest = random.dirichlet([1, 1, 1], size=networks)
    truth = [random.choice(CLASSES, p=row) for row in honest]
    stated = honest**sharpen / (honest**sharpen).sum(axis=1, keepdims=True)
    dims = ("model", "class")
    if seeds:
        stated, dims = np.stack([stated] * seeds, axis=1), ("model", "seed", "class")
    coordinates = {"class": CLASSES, "train_networks": ("class", [20, 20, 40])}
    coordinates |= {"model": np.arange(networks), "optimizer": ("model", truth)}
    return xr.Dataset({"truth": ("model", truth), "probability": (dims, stated)}, coordinates)


def test_bins_hold_every_prediction_and_their_means_are_those_of_all():
    found, made = calibration.reliability(reading(300, 0), bins=7), reading(300, 0)
    counts = found["predictions"]
    confidence = made["probability"].max("class").mean().item()
    right = (made["class"].values[made["probability"].argmax("class")] == made["truth"]).mean().item()
    assert counts.sum() == 300
    assert (found["confidence"] * counts).sum().item() / 300 == pytest.approx(confidence)
    assert (found["accuracy"] * counts).sum().item() / 300 == pytest.approx(right)
    filled = found.isel(bin=(counts > 0).values)
    assert ((filled["left"] <= filled["confidence"]) & (filled["confidence"] <= filled["right"])).all()
    assert ((filled["low"] <= filled["accuracy"]) & (filled["accuracy"] <= filled["high"])).all()
    assert found["accuracy"][0].isnull()  # the largest of three probabilities exceeds 1/7


def test_an_honest_reader_has_the_error_of_chance_and_a_boaster_a_larger_one():
    honest, boasting = (calibration.error(reading(400, 2, sharpen)) for sharpen in (1, 5))
    assert honest["error"] < 2 * honest["chance"]
    assert honest["error"] < honest["chance_high"]
    assert boasting["low"] > boasting["chance_high"] > boasting["chance"]
    assert boasting["low"] < boasting["error"] < boasting["high"]


def test_the_interval_of_the_error_holds_the_truth():
    truth = calibration.error(reading(20_000, 0, 3), draws=1)["error"]
    found = [calibration.error(reading(200, seed, 3), draws=200) for seed in range(1, 61)]
    assert np.mean([one["low"] <= truth <= one["high"] for one in found]) > 0.84


def test_few_honest_readers_exceed_what_chance_allows():
    found = [calibration.error(reading(200, seed), draws=100) for seed in range(100)]
    assert np.mean([one["low"] == 0 for one in found]) > 0.5
    assert 0.005 < np.mean([one["error"] > one["chance_high"] for one in found]) < 0.13
    assert np.mean([one["error"] for one in found]) == pytest.approx(np.mean([one["chance"] for one in found]), rel=0.1)


def test_certainty_that_is_always_right_has_no_error():
    made = reading(50, 0)
    sure = made.assign(probability=(made["class"] == made["truth"]).astype(float).transpose("model", "class"))
    assert calibration.error(sure) == {"error": 0, "low": 0, "high": 0, "chance": 0, "chance_high": 0}
    assert calibration.brier(sure)["brier"] == 0
    assert calibration.reliability(sure)["predictions"].values.tolist() == [0] * 9 + [50]


def test_the_brier_score_agrees_with_scikit_learn_and_has_that_of_the_shares_beside_it():
    made = reading(200, 0)
    found = calibration.brier(made)
    expected = metrics.brier_score_loss(made["truth"].values, made["probability"].values, labels=CLASSES)
    assert found["brier"] == pytest.approx(expected)
    assert found["low"] < found["brier"] < found["high"]
    shares = np.tile([0.25, 0.25, 0.5], (200, 1))
    assert found["baseline"] == pytest.approx(metrics.brier_score_loss(made["truth"].values, shares, labels=CLASSES))


def test_equal_seeds_change_no_score_and_no_interval():
    one, thrice = reading(150, 0), reading(150, 0, seeds=3)
    for measure in (calibration.error, calibration.brier):
        assert measure(thrice) == pytest.approx(measure(one))
    found, again = calibration.reliability(one), calibration.reliability(thrice)
    np.testing.assert_allclose(again["accuracy"], found["accuracy"])
    np.testing.assert_array_equal(again["predictions"], 3 * found["predictions"])


def test_what_has_no_calibration_says_so():
    made = reading(20, 0)
    with pytest.raises(ValueError, match="a ridge gives none"):
        calibration.brier(made.drop_vars("probability").assign_attrs(method="a ridge"))
    with pytest.raises(ValueError, match="at least 1 bin, not 0"):
        calibration.reliability(made, bins=0)
    with pytest.raises(ValueError, match="one snapshot at a time"):
        calibration.error(made.assign(probability=made["probability"].expand_dims(snapshot=2)))
