import numpy as np
import pytest
import xarray as xr
from readings import described

from nwslib import space
from nwslib.analysis import twins

SNAPSHOTS = np.arange(1, 21)
SINCE = np.arange(-7.5, 13)
AFTER = {"adam": "momentum", "momentum": "rmsprop", "rmsprop": "adam"}
NAMES = sorted(AFTER)


@pytest.fixture(scope="module")
def base():
    return space.sample("nws_small", 20, seed=1, dataset="digits")


def followers(base, delay, seeds=None):
    """Give a reading that names the optimiser of the moment, but after the switch at epoch 7 only with a delay."""
    design = twins.design(base, 7, optimizer=AFTER, augmentation={"off": "on", "on": "off"})
    epoch = np.tile(SNAPSHOTS - 1, (design.sizes["model"], 1))
    before, after = (design[name].values for name in ("optimizer", "optimizer_after"))
    named = np.where(epoch > 7 + delay, after[:, None], before[:, None])
    dims = ("model", "snapshot")
    columns = {"truth": ("model", before), "prediction": (dims, named)}
    if seeds:
        columns["prediction"] = (("model", "seed", "snapshot"), np.stack([named] * seeds, axis=1))
        design = design.rename(seed="network_seed")
    found = xr.Dataset(columns, {"model": design["model"].values, "snapshot": SNAPSHOTS, "class": NAMES})
    found = found.assign_coords({name: ("model", design[name].values) for name in design.data_vars})
    found = found.assign_coords(train_networks=("class", [30, 60, 10]))
    epochs = xr.DataArray(epoch, {"model": design["model"].values, "snapshot": SNAPSHOTS}, dims)
    return described(found, task="classification"), epochs


def test_twins_share_everything_but_one_change(base):
    design = twins.design(base, 7, optimizer=AFTER, learning_rate=0.004)
    assert design.sizes["model"] == 60
    assert set(design["split"].values) == {"test"}
    assert design["model"].values.tolist() == list(range(60))
    for name in (*space.PROPERTIES, "seed", "switch_epoch"):
        parts = design[name].values.reshape(3, 20)
        assert (parts == parts[0]).all(), name
    changed = [design[name].values != design[f"{name}_after"].values for name in ("optimizer", "learning_rate")]
    assert [one.reshape(3, 20).all(axis=1).tolist() for one in changed] == [[False, True, False], [False, False, True]]
    assert not (changed[0] & changed[1]).any()


@pytest.mark.parametrize("seeds", [None, 3])
def test_a_footprint_follows_the_change_and_stays_in_the_twins(base, seeds):
    reading, epochs = followers(base, delay=3, seeds=seeds)
    found = twins.followed(reading, epochs, SINCE)
    assert found["group"].values.tolist() == list(twins.COURSES)
    assert (found["networks"] == 20).all()
    level = found["level"]
    ours, theirs = (level.sel(group=name) for name in twins.COURSES)
    assert (theirs.sel(value="before") == 1).all()
    assert (theirs.sel(value="after") == 0).all()
    assert (ours.sel(value="before").sel(since=slice(-7, 3)) == 1).all()
    assert (ours.sel(value="after").sel(since=slice(4, 12)) == 1).all()
    np.testing.assert_allclose(ours.sum("value"), 1)
    assert found["switch"].values[0] == 0
    assert np.isnan(found["switch"].values[1])


def test_chance_is_the_mean_share_in_training(base):
    reading, epochs = followers(base, delay=0)
    chance = twins.followed(reading, epochs, SINCE)["chance"].sel(group="goes on")
    share = dict(zip(NAMES, (0.3, 0.6, 0.1), strict=True))
    before = base["optimizer"].values.tolist()
    assert chance.sel(value="before").item() == pytest.approx(np.mean([share[name] for name in before]))
    assert chance.sel(value="after").item() == pytest.approx(np.mean([share[AFTER[name]] for name in before]))


@pytest.mark.parametrize("delay", [0, 4])
def test_the_delay_is_found(base, delay):
    found = twins.overtaken(*followers(base, delay), SINCE)
    assert found == {"epochs": delay + 1, "low": delay + 1, "high": delay + 1, "networks": 20}


def test_what_never_fades_is_never_overtaken_and_a_few_networks_say_little(base):
    assert twins.overtaken(*followers(base, delay=99), SINCE)["epochs"] == np.inf
    reading, epochs = followers(base, delay=2)
    slow = followers(base, delay=99)[0]
    some = xr.DataArray(np.arange(60) % 20 < 9, dims="model")
    mixed = reading.assign(prediction=slow["prediction"].where(some, reading["prediction"]))
    found = twins.overtaken(mixed, epochs, SINCE)
    assert (found["epochs"], found["low"], found["high"]) == (3, 3, np.inf)


def test_a_number_counts_as_the_nearer_value(base):
    design = twins.design(base, 7, learning_rate=0.004)
    truth = design["learning_rate"].values
    estimates = np.stack([np.full(40, 0.0039), truth * 1.01], axis=1)
    found = xr.Dataset({"truth": ("model", truth), "prediction": (("model", "snapshot"), estimates)})
    found = found.assign_coords({name: ("model", design[name].values) for name in design.data_vars})
    found = found.assign_coords(model=design["model"].values, snapshot=[1, 2])
    reading = described(found, task="regression", property="learning_rate", train_median=0.004)
    parts = twins.relabelled(reading)
    clear = np.abs(np.log(base["learning_rate"].values / 0.004)) > 0.1
    for one in parts.values():
        assert one["prediction"].values[clear].tolist() == [["after", "before"]] * clear.sum()
        assert one["train_networks"].values.tolist() == [0, 1, 0]


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_way_is_the_share_of_the_logarithm_that_the_estimate_has_moved(base, share):
    design = twins.design(base, 7, learning_rate=0.01)
    before, after = (np.log10(design[name].values) for name in ("learning_rate", "learning_rate_after"))
    noise = np.tile(np.random.default_rng(0).normal(size=20), 2)  # what a reader gets wrong about both twins
    estimates = np.stack([before, before + share * (after - before) + noise], axis=1)
    found = xr.Dataset({"truth": ("model", 10**before), "prediction": (("model", "snapshot"), 10**estimates)})
    found = found.assign_coords({name: ("model", design[name].values) for name in design.data_vars})
    about = {"task": "regression", "property": "learning_rate", "train_median": 0.002}
    way = twins.way(described(found.assign_coords(model=design["model"].values, snapshot=[1, 2]), **about))
    assert [way[name] for name in ("way", "low", "high")] == pytest.approx([share] * 3)
    with pytest.raises(ValueError, match="optimizer is a class: there is no way"):
        twins.way(followers(base, delay=0)[0])


def test_a_network_whose_twin_is_missing_is_left_out(base):
    reading, epochs = followers(base, delay=0)
    some = reading.isel(model=slice(5, None))
    assert (twins.followed(some, epochs, SINCE)["networks"] == 15).all()
    with pytest.raises(ValueError, match="no network that changes its optimizer has a twin that goes on"):
        twins.relabelled(reading.isel(model=slice(20, None)))


def test_the_aftermath_is_compared_pair_by_pair(base):
    reading, _ = followers(base, delay=0)
    kept = reading.isel(snapshot=-1).assign(truth=("model", np.full(60, "adam")))
    named = np.full(60, "adam", dtype="<U8")
    named[20:30] = "momentum"  # half of those that change their optimiser
    found = twins.aftermath(kept.assign(prediction=("model", named)), "optimizer")
    assert (found["accuracy"], found["twins"], found["change"], found["networks"]) == (0.5, 1, -0.5, 20)
    assert -0.8 < found["low"] < found["high"] < -0.2
    assert twins.aftermath(kept.assign(prediction=("model", named)), "augmentation")["change"] == 0


def test_what_networks_cannot_change_is_refused(base):
    reading, _ = followers(base, delay=0)
    with pytest.raises(ValueError, match="'activation' is nothing that networks change in training"):
        twins.aftermath(reading, "activation")
    with pytest.raises(ValueError, match=r"no network changes its dataset\. Known: 'augmentation', 'optimizer'"):
        twins.aftermath(reading, "dataset")


def test_a_claim_is_of_the_end_and_has_the_twins_beside_it(base):
    reading, epochs = followers(base, delay=3)
    followed = twins.followed(reading, epochs, SINCE)
    found = twins.claim("the optimiser", followed, networks=20, figure="fig-course")
    numbers = [found[name] for name in ("number", "high", "baseline", "networks")]
    assert numbers == [1, 1, 0, 20]
    assert 0.8 < found["low"] < 1
    assert found["chance"] == followed["chance"].sel(group="changes course", value="after").item()
