import numpy as np
import pytest
import xarray as xr
from readings import described

from nwslib.analysis import interventions

SNAPSHOTS = np.arange(1, 21)


def faded(switch_epoch=10, networks=60, names=("adam", "momentum"), seeds=None):
    """Give a reading that is sure of the value before until the switch, and of the value after six epochs later.

    A third of the networks goes from the first to the second value, a third back, a third stays with the first.
    """
    group = np.arange(networks) % 3
    before, after = np.array(names)[(group == 1) * 1], np.array(names)[(group == 0) * 1]
    after = np.where(group == 2, "", after)
    epoch = np.tile(2 * (SNAPSHOTS - 1), (networks, 1))
    switched = np.where(group == 2, -1, switch_epoch)
    gone = np.clip((epoch - switched[:, None]) / 6, 0, 1) * (group < 2)[:, None]  # (m, s)
    is_first = np.where((before == names[0])[:, None], 1 - gone, gone)
    probability, dims = np.stack([is_first, 1 - is_first], axis=-1), ("model", "snapshot", "class")
    if seeds:
        probability, dims = np.stack([probability] * seeds, axis=1), ("model", "seed", "snapshot", "class")
    found = xr.Dataset({"truth": ("model", before), "probability": (dims, probability)})
    found["prediction"] = (dims[:-1], np.array(names)[probability.argmax(axis=-1)])
    coordinates = {"model": np.arange(networks), "snapshot": SNAPSHOTS, "class": list(names)}
    coordinates |= {"train_networks": ("class", [30, 10])}
    coordinates |= {"optimizer_after": ("model", after), "switch_epoch": ("model", switched)}
    epochs = xr.DataArray(epoch, {"model": np.arange(networks), "snapshot": SNAPSHOTS}, ("model", "snapshot"))
    return described(found.assign_coords(coordinates), task="classification"), epochs


def test_one_footprint_fades_and_the_other_appears():
    found = interventions.course(*faded())
    assert found["group"].values.tolist() == ["adam to momentum", "momentum to adam", "adam throughout"]
    assert found["switch"].values[:2].tolist() == [6, 6]  # at epoch 10
    assert np.isnan(found["switch"].values[2])
    for name in found["group"].values[:2]:
        one = found["level"].sel(group=name)
        assert (one.sel(value="before", snapshot=slice(1, 6)) == 1).all()
        assert (one.sel(value="after", snapshot=slice(9, 20)) == 1).all()
        np.testing.assert_allclose(one.sum("value"), 1)
    assert (found["level"].sel(group="adam throughout") == 1).all()
    assert ((found["low"] <= found["level"] + 1e-9) & (found["level"] <= found["high"] + 1e-9)).all()
    np.testing.assert_allclose(found["chance"], [[0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    assert found["networks"].isel(snapshot=0).values.tolist() == [[20, 20]] * 3


def test_the_share_that_is_named_follows_the_probability():
    found = interventions.course(*faded(), of="share")
    one = found["level"].sel(group="adam to momentum", value="after")
    assert one.values.tolist() == [0] * 7 + [1] * 13  # more than half way at snapshot 8
    with pytest.raises(ValueError, match=r"does not give 'probabilty'. Did you mean 'probability'"):
        interventions.course(*faded(), of="probabilty")
    reading, epochs = faded()
    with pytest.raises(ValueError, match=r"does not give 'probability'. Known: 'share'"):
        interventions.course(reading.drop_vars("probability"), epochs)


def test_epochs_since_the_switch_bring_switches_at_different_times_together():
    reading, epochs = faded(switch_epoch=np.where(np.arange(60) < 30, 4, 20))
    found = interventions.course(reading, epochs, since=[-20, 0, 2, 4, 6, 12])
    assert found["since"].values.tolist() == [-10, 1, 3, 5, 9]
    assert found["group"].values.tolist() == ["adam to momentum", "momentum to adam"]
    assert (found["switch"] == 0).all()
    for one in found["level"].sel(value="after"):
        np.testing.assert_allclose(one, [0, 0, 1 / 3, 2 / 3, 1])
    plain = interventions.course(reading, epochs)
    assert plain["switch"].values[:2].tolist() == [7, 7]  # snapshots 3 and 11


def test_seeds_that_agree_change_nothing():
    one, several = interventions.course(*faded()), interventions.course(*faded(seeds=3))
    xr.testing.assert_allclose(one, several)


def test_what_was_not_switched_has_no_course():
    reading, epochs = faded()
    with pytest.raises(ValueError, match="have no 'optimizer_after'"):
        interventions.course(reading.drop_vars("optimizer_after"), epochs)
    with pytest.raises(ValueError, match="the reading has one snapshot"):
        interventions.course(reading.isel(snapshot=0), epochs)
    still = reading.isel(model=(reading["switch_epoch"] < 0).values)
    with pytest.raises(ValueError, match="no network was switched"):
        interventions.course(still, epochs, since=[0, 5])
