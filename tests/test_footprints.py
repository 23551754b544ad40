import numpy as np
import pytest
import readings
import xarray as xr

from nwslib.analysis import footprints, scores


def at(shares, networks=200, seed=0, moments=None, **attributes):
    """Give a reading that is right for these shares of the networks at these snapshots."""
    right = readings.often(np.array(shares), networks, seed, snapshot=len(shares))
    moments = list(moments or range(1, len(shares) + 1))
    return readings.classes(right.assign_coords(snapshot=moments), seed, **attributes)


def test_the_score_of_every_snapshot_is_that_of_a_reading_of_its_own():
    found = footprints.score(at([0.2, 0.9]))
    assert found.attrs["measure"] == "accuracy"
    for place in range(2):
        alone = at([0.2, 0.9]).isel(snapshot=place)
        row = scores.summary(alone)
        for name, other in (("score", "accuracy"), ("low", "low"), ("high", "high"), ("chance", "chance")):
            assert found[name][place].item() == pytest.approx(row[other])


def test_numbers_are_scored_by_how_much_of_them_is_explained():
    random = np.random.default_rng(0)
    noise = xr.DataArray(random.normal(size=(80, 3, 2)) * [0.1, 2], dims=("model", "seed", "snapshot"))
    reading = readings.numbers(noise.assign_coords(snapshot=[1, 20]))
    found = footprints.score(reading)
    assert found.attrs["measure"] == "R2"
    for place in range(2):
        row = scores.summary(reading.isel(snapshot=place))
        assert [found[name][place].item() for name in ("score", "low", "high")] == pytest.approx(
            [row[name] for name in ("r2", "low", "high")]
        )
    assert found["score"][0] > 0.9 > 0 > found["score"][1]


def test_how_much_is_a_matrix_of_properties_and_of_what_differs_between_views():
    right = readings.often(0.8, 50)
    made = [
        readings.classes(right, property=name, part=part, length=500)
        for name in ("activation", "optimizer")
        for part in ("all", "dense")
    ]
    rate = readings.numbers(xr.DataArray(np.zeros(50), dims="model"), part="dense", length=500)
    found = footprints.how_much([*made, rate])
    assert found["property"].values.tolist() == ["learning_rate", "optimizer", "activation"]  # as in the study
    assert found["view"].values.tolist() == ["all", "dense"]
    assert found["measure"].values.tolist() == ["R2", "accuracy", "accuracy"]
    assert found["score"].sel(property="optimizer", view="all") == pytest.approx(right.mean().item())
    assert found["score"].sel(property="learning_rate", view="dense") == 1
    assert found["score"].sel(property="learning_rate", view="all").isnull()
    with pytest.raises(ValueError, match="two readings have one place in the matrix"):
        footprints.how_much([made[0], made[0]])
    with pytest.raises(ValueError, match="at least one reading"):
        footprints.how_much([])


def test_a_view_is_not_named_by_what_it_has_not():
    right = readings.often(0.8, 50)
    whole, runs = readings.classes(right, method="SVM"), readings.classes(right, method="DMC", length=500)
    found = footprints.how_much([whole, runs])
    assert found["view"].values.tolist() == ["SVM", "DMC, 500"]


def test_views_can_be_given_names_that_methods_share():
    names, rate = readings.classes(readings.often(0.8, 50), method="SVM"), xr.DataArray(np.zeros(50), dims="model")
    found = footprints.how_much([names, readings.numbers(rate, method="ridge")], ["statistics", "statistics"])
    assert found["view"].values.tolist() == ["statistics"]
    assert found["score"].notnull().all()


def test_one_view_is_named_by_its_method():
    found = footprints.how_much([readings.classes(readings.often(0.8, 50))])
    assert found["view"].values.tolist() == ["a method"]


def test_when_has_a_row_for_each_snapshot_learned_from_in_order():
    found = footprints.when([at([0.3, 0.9], snapshot=20), at([0.95, 0.4], seed=1, snapshot=1)])
    assert found["trained_at"].values.tolist() == [1, 20]
    assert found["score"].dims == ("trained_at", "read_at")
    assert (found["score"].sel(trained_at=20, read_at=2) > found["score"].sel(trained_at=20, read_at=1)).item()
    assert found["score"].sel(trained_at=1, read_at=1) == pytest.approx(0.95, abs=0.05)
    assert ((found["low"] <= found["score"]) & (found["score"] <= found["high"])).all()
    assert found["chance"].notnull().all()
    with pytest.raises(ValueError, match="one snapshot learned from, read at several"):
        footprints.when([at([0.3, 0.9], snapshot=[1, 2])])
    with pytest.raises(ValueError, match="one snapshot learned from, read at several"):
        footprints.when([at([0.3, 0.9]).isel(snapshot=0)])
    with pytest.raises(ValueError, match="one property, not of dataset, optimizer"):
        footprints.when([at([0.3], snapshot=1), at([0.3], snapshot=2, property="dataset")])


def test_epochs_take_the_place_of_shares_of_a_run():
    # Half of the networks run ten times as long; the reader is right from the tenth epoch on.
    epoch = np.concatenate([np.tile(np.arange(10), (50, 1)), np.tile(10 * np.arange(10), (50, 1))])
    epoch = xr.DataArray(epoch, {"model": np.arange(100), "snapshot": np.arange(1, 11)}, ("model", "snapshot"))
    right = (epoch >= 10).drop_vars("model").assign_coords(snapshot=epoch["snapshot"])
    found = footprints.against_epochs(readings.classes(right), epoch[::-1], [0, 5, 10, 50, 1000, 2000])
    assert found["score"].values.tolist() == [0, 0, 1, 1]
    assert found["networks"].values.tolist() == [100, 50, 50, 50]
    assert found["epoch"].values.tolist() == pytest.approx([(50 * 5 * 2 + 0) / 300, 7, 25, 70])
    assert found["high"][0] < found["high"][1] < 0.1  # the exact bound knows how many networks there are
    doubling = footprints.against_epochs(readings.classes(right), epoch)
    assert doubling["left"].values.tolist() == [0, 1, 2, 4, 8, 16, 32, 64]
    assert doubling["right"][-1] > epoch.max()
    with pytest.raises(ValueError, match=r"lacks network 99\. The nearest is 98"):
        footprints.against_epochs(readings.classes(right), epoch[:99])
    with pytest.raises(ValueError, match=r"lack snapshot 10\. The nearest is 9"):
        footprints.against_epochs(readings.classes(right), epoch[:, :9])
    with pytest.raises(ValueError, match="two borders that rise"):
        footprints.against_epochs(readings.classes(right), epoch, [5, 5])
    with pytest.raises(ValueError, match="learning_rate is a number"):
        footprints.against_epochs(readings.numbers(right * 0.0), epoch)


def test_transfer_has_a_row_for_what_was_learned_from_and_keeps_the_order():
    made = {("mnist", "mnist"): 0.9, ("mnist", "fashion"): 0.5, ("fashion", "fashion"): 0.8}
    grid = {pair: readings.classes(readings.often(share, 100)) for pair, share in made.items()}
    found = footprints.transfer(grid)
    assert found["trained_on"].values.tolist() == found["read_on"].values.tolist() == ["mnist", "fashion"]
    for (trained, read), reading in grid.items():
        one = found.sel(trained_on=trained, read_on=read)
        assert one["score"].item() == scores.accuracy(reading)
        assert (one["low"].item(), one["high"].item()) == pytest.approx(scores.accuracy_interval(reading))
        assert one["chance"].item() == scores.chance(reading)
    assert found["score"].sel(trained_on="fashion", read_on="mnist").isnull()
    assert found.attrs["measure"] == "accuracy"
    with pytest.raises(ValueError, match="at least one reading"):
        footprints.transfer({})
