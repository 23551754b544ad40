import importlib
import json

import numpy as np
import pytest
import xarray as xr
from traces import traced

from nwslib import space
from nwslib.meta import RunReader, StatisticsReader, held_out, matching, read, readable, transfer
from nwslib.snapshots import fake

reading = importlib.import_module("nwslib.meta.read")  # the function of the package hides the module

QUICK = {"length": 64, "epochs": 2, "visits": 2, "runs": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def population():
    return traced()


def test_a_reading_says_what_was_done(population, tmp_path):
    reader = RunReader(**QUICK | {"epochs": 1})
    found = read(population, "optimizer", reader, length=50, seed=3)
    assert reader.module is None
    assert json.loads(found.attrs["parameters"])["length"] == 50
    assert (found.attrs["task"], found.attrs["property"], found.attrs["seed"]) == ("classification", "optimizer", "3")
    train = population.isel(
        model=np.flatnonzero((population["split"] == "train") & (population["status"] != "diverged"))
    )
    for name, count in zip(found["class"].values, found["train_networks"].values, strict=True):
        assert count == (train["optimizer"] == name).sum()
    assert found.attrs["networks_trained_on"] == train.sizes["model"]
    found.to_netcdf(tmp_path / "reading.nc")
    xr.testing.assert_identical(found, xr.load_dataset(tmp_path / "reading.nc"))


def test_every_reader_reads_and_is_stored(population, tmp_path):
    for reader in (StatisticsReader(per="vector"), StatisticsReader(machine="boosting"), RunReader(**QUICK)):
        for name in ("optimizer", "learning_rate"):
            found = read(population, name, reader, at=15)
            assert np.array_equal(found["truth"], found[name])
            found.to_netcdf(tmp_path / f"{name}.nc")
    assert found.attrs["task"] == "regression"
    assert 0.0002 < found.attrs["train_median"] < 0.005


def test_a_tree_of_architectures_is_read_and_short_networks_are_counted(population):
    made = fake.population(space.sample("nws_small", 24, seed=1, width_conv=8), signal=0.0)
    wide = xr.concat(
        [network.drop_dims("evaluation") for network in made],
        "model",
        data_vars="all",
        coords="different",
        compat="equals",
        join="exact",
    )
    tree = xr.DataTree.from_dict({"small": population, "wide": wide.assign_coords(model=wide["model"] + 1000)})
    reader = RunReader(**QUICK | {"epochs": 1, "length": population.sizes["weight"] + 1})
    found = read(tree, "optimizer", reader)
    assert set(found["width_conv"].values) == {8}
    assert json.loads(found.attrs["left_out_of_training"])["too short"] > 80
    assert read(tree, "optimizer", reader, length=20).sizes["model"] > found.sizes["model"]


def test_several_seeds_are_those_one_by_one(population):
    both = read(population, "optimizer", RunReader(**QUICK), seeds=(3, 5), at=[1, 20])
    assert both["prediction"].dims == ("model", "seed", "snapshot")
    assert both["probability"].dims == ("model", "seed", "snapshot", "class")
    assert both["truth"].dims == ("model",)
    for seed in (3, 5):
        alone = read(population, "optimizer", RunReader(**QUICK), seed=seed, at=20)
        assert np.array_equal(both["probability"].sel(seed=seed, snapshot=20), alone["probability"])
    assert both.attrs["seed"] == "3, 5"
    with pytest.raises(ValueError, match=r"several seeds are at least two different ones, not \[1, 1\]"):
        read(population, "optimizer", RunReader(**QUICK), seeds=[1, 1])


def test_a_reading_that_is_kept_is_not_computed_again(population, tmp_path, monkeypatch):
    reader = StatisticsReader(per="vector")
    first = read(population, "optimizer", reader, keep=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_read_once", None)
        xr.testing.assert_identical(first, read(population, "optimizer", reader, keep=tmp_path))
    others = [
        read(population, "activation", reader, keep=tmp_path),
        read(population, "optimizer", reader, keep=tmp_path, kinds="kernels"),
        read(population, "optimizer", reader, keep=tmp_path, shuffled=True),
        read(population, "optimizer", reader, keep=tmp_path, at=3),
        read(population, "optimizer", reader, keep=tmp_path, on=matching(population, activation="relu")),
        read(matching(population, activation="relu"), "optimizer", reader, keep=tmp_path),
    ]
    assert not any(first.identical(other) for other in others)
    assert len(list(tmp_path.iterdir())) == 7


def test_another_population_is_read(population):
    relu, rest = matching(population, activation="relu"), matching(population, without=True, activation="relu")
    found = read(rest, "optimizer", StatisticsReader(), on=relu)
    assert set(found["activation"].values) == {"relu"}
    assert set(found["split"].values) == {"test"}
    assert found.attrs["networks_trained_on"] == len(readable(rest, "train"))


def test_what_is_learned_on_one_side_is_read_on_the_other(population):
    grid = transfer(population, "optimizer", StatisticsReader(), "augmentation")
    assert set(grid) == {(a, b) for a in ("off", "on") for b in ("off", "on")}
    for (learned, other), found in grid.items():
        assert set(found["augmentation"].values) == {other}
        sides = (f"augmentation: {learned}", f"augmentation: {other}")
        assert (found.attrs["trained_on"], found.attrs["read_on"]) == sides
        own, others = (matching(population, augmentation=side) for side in (learned, other))
        alone = read(own, "optimizer", StatisticsReader(), on=others)
        assert np.array_equal(found["prediction"], alone["prediction"])
    with pytest.raises(ValueError, match="optimizer cannot both divide the networks and be read"):
        transfer(population, "optimizer", StatisticsReader(), "optimizer")


def test_learned_at_one_snapshot_and_read_at_another(population):
    grid = transfer(population, "optimizer", StatisticsReader(), "snapshot", values=[1, 20])
    assert set(grid) == {("1", "1"), ("1", "20"), ("20", "1"), ("20", "20")}
    right = {key: float((found["prediction"] == found["truth"]).mean()) for key, found in grid.items()}
    assert right["20", "20"] > 0.65
    assert max(right["1", "1"], right["20", "1"]) < 0.5
    alone = read(population, "optimizer", StatisticsReader(snapshot=1), at=20)
    assert np.array_equal(grid["1", "20"]["prediction"], alone["prediction"])


def test_networks_with_a_combination_are_read_by_one_that_never_saw_it(population):
    combination = {"activation": "relu", "augmentation": "on"}
    found = held_out(population, "optimizer", StatisticsReader(), combination)
    assert set(found["activation"].values) == {"relu"}
    assert set(found["augmentation"].values) == {"on"}
    own = matching(population, **combination)
    assert found.sizes["model"] == len(readable(own, "test"))
    assert found.attrs["networks_trained_on"] == len(readable(population, "train")) - len(readable(own, "train"))
    assert found.attrs["read_on"] == "activation: relu, augmentation: on"
