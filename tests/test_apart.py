import numpy as np
import pytest
import xarray as xr

from nwslib import space
from nwslib.analysis import footprints
from nwslib.meta import StatisticsReader, statistics_view
from nwslib.meta.apart import read_apart
from nwslib.snapshots import fake, layout_of

LAYERS = ["conv1", "conv2", "conv3", "dense1", "dense2", "output"]


@pytest.fixture(scope="module")
def population():
    """Give 120 networks whose augmentation shows in the spread of one kernel, and nowhere else."""
    design = space.sample("nws_small", 120, seed=0, initialization="glorot_normal")
    made = [network.drop_dims("evaluation") for network in fake.population(design, signal=0.0, diverged=[0, 9])]
    one = xr.concat(made, "model", data_vars="all", coords="different", compat="equals", join="exact")
    places = layout_of(one).slices["dense1.kernel"]
    one["weights"][..., places] *= 1 + (one["augmentation"] == "on")
    return one


def test_a_property_is_read_from_the_layer_that_holds_it_and_from_no_other(population):
    reading = read_apart(population, "augmentation", StatisticsReader())
    found = footprints.score(reading)
    assert found["label"].values.tolist() == LAYERS
    assert found["score"].sel(label="dense1") > 0.95
    others = found.drop_sel(label="dense1")
    assert others["score"].mean() < 0.65
    assert (others["low"] < others["chance"]).all()


def test_a_property_is_read_from_the_kind_of_weights_that_holds_it(population):
    found = footprints.score(read_apart(population, "augmentation", StatisticsReader(), "kind"))
    assert found["label"].values.tolist() == ["kernel", "bias", "beta", "gamma", "mean", "variance"]
    assert found["score"].sel(label="kernel") > 0.95
    assert found["score"].drop_sel(label="kernel").max() < 0.75


def test_a_label_is_read_as_its_features_alone_are(population):
    reader = StatisticsReader(snapshot=12)
    view = statistics_view(population, 12, per="layer")
    own = view.isel(feature=[name.startswith("conv2.") for name in view["feature"].values])
    alone = reader.fit(own, "augmentation").predictions(own)
    reading = read_apart(population, "augmentation", reader)
    assert np.array_equal(reading["prediction"].sel(label="conv2"), alone["prediction"])
    assert reading["truth"].dims == ("model",)
    assert np.array_equal(reading["truth"], alone["truth"])
    train = ((population["split"] == "train") & (population["status"] != "diverged")).sum()
    assert reading["train_networks"].sum() == train


@pytest.mark.parametrize(
    ("name", "reader", "by", "message"),
    [
        ("augmentation", StatisticsReader(), "layers", "unknown by 'layers'. Did you mean 'layer'"),
        ("augmentation", StatisticsReader(per="vector"), "layer", "one snapshot per='layer', not 20 per='vector'"),
        ("augmentation", StatisticsReader(snapshot=[19, 20]), "layer", r"one snapshot per='layer', not \[19, 20\]"),
        ("learning_rate", StatisticsReader(), "layer", "learning_rate is a number, and has no classes"),
    ],
)
def test_what_cannot_be_read_apart_is_refused(population, name, reader, by, message):
    with pytest.raises(ValueError, match=message):
        read_apart(population, name, reader, by)
