import numpy as np
import pytest
import xarray as xr

from nwslib import space
from nwslib.analysis import saliency
from nwslib.snapshots import fake

LABELS = fake.layout({name: values[0] for name, values in space.VOCABULARY.items()} | {"family": "cnn"}).labels()


def of_weights(values, dims=("weight",), **coordinates):
    return xr.DataArray(values, {name: ("weight", LABELS[name]) for name in LABELS} | coordinates, dims)


SIZE = len(LABELS["layer"])
NOISE = of_weights(np.random.default_rng(0).random((3, SIZE)), ("class", "weight"), **{"class": ["a", "b", "c"]})


@pytest.mark.parametrize("labels", [("layer",), ("kind",), ("layer", "kind"), ("part", "kind")])
def test_shares_add_up_and_ratios_are_means_against_the_mean_of_all(labels):
    found = saliency.by_label(NOISE, *labels)
    np.testing.assert_allclose(found["share"].sum(labels), 1)
    assert found["weights"].sum() == SIZE
    first = {label: found[label].values[0] for label in labels}
    carried = np.all([LABELS[label] == value for label, value in first.items()], axis=0)
    one = NOISE.sel({"class": "b"}).values
    assert found["ratio"].sel({"class": "b", **first}).item() == pytest.approx(one[carried].mean() / one.mean())
    np.testing.assert_allclose((found["ratio"].fillna(0) * found["weights"]).sum(labels), SIZE)


def test_weights_that_all_count_alike_have_a_ratio_of_one_everywhere():
    found = saliency.by_label(of_weights(np.full(SIZE, 0.3)), "layer", "kind")
    assert np.nanmax(np.abs(found["ratio"] - 1)) < 1e-12
    assert found["ratio"].sel(layer="output", kind="beta").isnull()
    np.testing.assert_allclose(found["share"], found["weights"] / SIZE)


def test_layers_keep_the_order_of_the_vector():
    assert saliency.by_label(NOISE, "layer")["layer"].values.tolist() == list(dict.fromkeys(LABELS["layer"]))


def test_the_middle_of_a_kernel_is_found_where_it_counts_and_dense_layers_do_not_disturb():
    middle = (LABELS["row"] == 1) & (LABELS["column"] == 1) & (LABELS["part"] == "convolution")
    found = saliency.by_kernel_position(of_weights(np.where(middle, 5.0, 1.0)))
    assert found.sizes == {"layer": 3, "row": 3, "column": 3}
    ratio = found["ratio"] / found["ratio"].isel(row=0, column=0)
    expected = np.ones((3, 3))
    expected[1, 1] = 5
    for layer in ratio:
        np.testing.assert_allclose(layer, expected)
    dense = of_weights(np.where(middle, 5.0, np.where(LABELS["part"] == "dense", 100.0, 1.0)))
    np.testing.assert_allclose(saliency.by_kernel_position(dense)["share"].sum(), 0, atol=0.2)
    assert saliency.by_kernel_position(dense)["ratio"].max() < 0.2  # of the mean of all weights


def test_several_networks_give_an_interval_that_covers_the_ratio():
    random, held = np.random.default_rng(1), 0
    conv = LABELS["layer"] == "conv1"
    truth = SIZE * 2 / (SIZE + conv.sum())  # conv1 counts twice
    for _ in range(60):
        values = random.gamma(2, size=(30, SIZE)) * np.where(conv, 2, 1)
        found = saliency.by_label(of_weights(values, ("model", "weight")), "layer").sel(layer="conv1")
        held += found["low"].item() <= truth <= found["high"].item()
    assert 0.85 < held / 60 <= 1
    assert "low" not in saliency.by_label(NOISE, "layer")


def test_weights_that_no_run_covered_and_classes_without_a_network_count_for_nothing():
    values = NOISE.values.copy()
    values[:, LABELS["layer"] == "output"] = np.nan
    values[1] = np.nan
    found = saliency.by_label(NOISE.copy(data=values), "layer")
    assert found["weights"].sel(layer="output") == 0
    assert found["ratio"].sel(layer="output").isnull().all()
    assert found["ratio"].sel({"class": "b"}).isnull().all()
    np.testing.assert_allclose(found["share"].sel({"class": ["a", "c"]}).sum("layer"), 1)
    covered = saliency.by_label(NOISE[:, LABELS["layer"] != "output"], "layer")
    xr.testing.assert_allclose(found["ratio"].sel({"class": "a"})[:-1], covered["ratio"].sel({"class": "a"}))


def test_what_is_no_saliency_is_refused():
    with pytest.raises(ValueError, match=r"no label 'layers'. Did you mean 'layer'"):
        saliency.by_label(NOISE, "layers")
    with pytest.raises(ValueError, match="cannot be negative"):
        saliency.by_label(-NOISE, "layer")
    with pytest.raises(ValueError, match="0 throughout"):
        saliency.by_label(NOISE * 0, "layer")
    with pytest.raises(ValueError, match="no weight of this saliency is in the kernel of a convolution"):
        saliency.by_kernel_position(NOISE[:, LABELS["part"] == "dense"])
