import numpy as np
import pytest
import readings
import xarray as xr

from nwslib.analysis import pairs, scores, transfers


def cell(networks, right, kept=None, **attributes):
    """Give a reading of some networks, right of the share that is asked for."""
    found = readings.classes(readings.often(right, 40, seed=len(attributes)), **attributes).isel(model=networks)
    return found if kept is None else found.isel({"class": kept})


@pytest.fixture
def grid():
    """Give a transfer between two kinds, the odd and the even networks, good within a kind and bad across."""
    kinds = {"odd": slice(1, None, 2), "even": slice(0, None, 2)}
    return {(a, b): cell(kinds[b], 0.9 if a == b else 0.4) for a in kinds for b in kinds}


def test_each_side_holds_every_network_once(grid):
    inside, outside = transfers.within(grid), transfers.across(grid)
    for side in (inside, outside):
        assert side["model"].values.tolist() == list(range(40))
        assert side["truth"].equals(inside["truth"])
    assert dict(outside["prediction"].sizes) == {"model": 40, "reader": 1}


def test_the_scores_of_the_sides_are_those_of_their_cells(grid):
    for side, pairs_of in ((transfers.within, ("odd odd", "even even")), (transfers.across, ("odd even", "even odd"))):
        cells = [scores.accuracy(grid[tuple(pair.split())]) for pair in pairs_of]
        assert scores.accuracy(side(grid)) == pytest.approx(np.mean(cells))


def test_the_sides_are_compared_network_by_network(grid):
    inside, outside = transfers.within(grid), transfers.across(grid)
    found = pairs.change(outside, inside)
    assert found["change"] == pytest.approx(scores.accuracy(outside) - scores.accuracy(inside))
    assert found["high"] < 0


def test_three_kinds_give_two_readers_of_each_network():
    third = {name: slice(place, None, 3) for place, name in enumerate("abc")}
    grid = {(a, b): cell(third[b], 0.5) for a in third for b in third}
    assert transfers.across(grid).sizes["reader"] == 2
    assert scores.summary(transfers.across(grid))["networks"] == 40


def test_what_was_learned_from_adds_up_over_readers_and_classes():
    whole, lacking = cell(slice(0, 20), 0.5), cell(slice(20, None), 0.5, kept=[0, 1])
    found = transfers.together([whole, lacking])
    assert found["class"].values.tolist() == list(readings.NAMES)
    assert found["train_networks"].values.tolist() == [80, 80, 40]


def test_numbers_have_no_classes():
    noise = xr.DataArray(np.zeros(6), dims="model")
    found = readings.numbers(noise)
    halves = [found.isel(model=slice(3, 6)), found.isel(model=slice(0, 3))]
    assert scores.summary(transfers.together(halves))["r2"] == 1


def test_readings_that_do_not_belong_together_are_refused(grid):
    one = grid["odd", "odd"]
    with pytest.raises(ValueError, match="some networks are in two of them"):
        transfers.together([one, one])
    with pytest.raises(ValueError, match="readings of one property can be put together, not of dataset, optimizer"):
        transfers.together([one, grid["even", "even"].assign_attrs(property="dataset")])
    with pytest.raises(ValueError, match="not of none"):
        transfers.together([])
