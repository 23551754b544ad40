import json

import numpy as np
import pytest
import torch
import xarray as xr
from traces import traced

from nwslib import space
from nwslib.meta import NetworkReader, read, whole
from nwslib.snapshots import fake
from nwslib.snapshots.schema import layout_of

QUICK = {"network": "deepsets", "width": 16, "epochs": 8, "rate": 1e-2, "device": "cpu"}
FEW = {**QUICK, "epochs": 2, "width": 8}


@pytest.fixture(scope="module")
def population():
    return traced()


@pytest.fixture(scope="module")
def fitted(population):
    return NetworkReader(**QUICK).fit(population, "optimizer")


@pytest.fixture(scope="module")
def masks(population):
    """Ask of the first 300 weights whether they are larger than usual in their network."""
    size = np.abs(population["weights"].isel(snapshot=-1).values)
    keep = (size > np.median(size, axis=1, keepdims=True)).astype("float32")
    keep[:, 300:] = np.nan
    return xr.DataArray(keep, {"id": population["id"]}, ("model", "weight"), name="keep")


def test_a_strong_trace_is_read_and_a_shuffled_one_is_not(population, fitted):
    assert fitted.score(population) > 0.9
    reader = NetworkReader(**QUICK | {"network": "statistics", "epochs": 12})
    assert reader.fit(population, "optimizer").score(population) > 0.9
    # Three kinds of networks are told apart for certain, so one shuffle in 27 names all of them right: many are needed.
    scores = [read(population, "optimizer", reader, shuffled=True, seed=seed) for seed in range(8)]
    assert np.mean([(found["prediction"] == found["truth"]).mean() for found in scores]) < 0.65


@pytest.mark.parametrize("network", ["flat", "settransformer", "dmc"])
def test_every_network_is_a_reader(population, network, tmp_path):
    found = read(population, "optimizer", NetworkReader(**FEW | {"network": network}))
    assert found["probability"].dims == ("model", "class")
    np.testing.assert_allclose(found["probability"].sum("class"), 1)
    assert set(found["split"].values) == {"test"}
    assert (found["prediction"] == found["class"][found["probability"].argmax("class")]).all()
    assert found.attrs["parameter_count"] > 100
    assert found.attrs["seconds_to_train"] > 0 < found.attrs["seconds_per_network"]
    found.to_netcdf(tmp_path / "reading.nc")


def test_the_seed_decides_everything_and_the_session_is_left_alone(population):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        NetworkReader(**FEW, augmented=True, seed=seed).fit(population, "optimizer") for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(first.predict_proba(population), again.predict_proba(population))
    assert not np.array_equal(first.predict_proba(population), other.predict_proba(population))


def test_test_networks_have_no_influence_on_the_fit(population):
    foreign = population.copy(deep=True)
    test = (foreign["split"] == "test").values
    foreign["weights"].values[test] = 7
    foreign["optimizer"].values[test] = "adam"
    states = [NetworkReader(**FEW).fit(one, "optimizer").module.state_dict() for one in (population, foreign)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_networks_seen_in_training_are_refused(population, fitted):
    swapped = population.assign_coords(split=("model", np.where(population["split"] == "test", "train", "test")))
    with pytest.raises(ValueError, match="of these networks were seen in training, the first"):
        fitted.predict(swapped)


def test_the_best_epoch_on_held_out_networks_is_kept(population):
    # There is nothing to read, so that it learns the networks by heart.
    reader = NetworkReader(**QUICK | {"network": "flat"}).fit(population, "activation")
    best = int(np.argmin(reader.history))
    assert best < 7
    held = whole.hold_out(np.unique(_train(population)["activation"], return_inverse=True)[1], 0.2, 0)
    vectors = torch.from_numpy(_train(population)["weights"].isel(snapshot=-1).values[held][:, None])
    codes = torch.from_numpy(np.searchsorted(reader.classes, _train(population)["activation"].values[held]))
    inputs = whole._prepared(reader, reader.module, vectors)
    assert whole._validate(reader, reader.module, inputs, codes, torch.arange(len(codes))) == pytest.approx(
        reader.history[best], rel=1e-5
    )


def test_an_epoch_that_diverged_is_not_kept(population):
    class Diverging(torch.nn.Linear):
        """Give no numbers when it is asked for the first time after training, and its own later."""

        asked = 0

        def forward(self, vectors):
            self.asked += 1 - self.training
            return super().forward(vectors[:, 0]) * (float("nan") if self.asked == 1 and not self.training else 1)

    def diverging(layout, snapshots, outputs, **more):
        return Diverging(layout.size, outputs)

    reader = NetworkReader(**FEW | {"network": diverging, "width": None, "epochs": 3, "batch": 1000})
    reader.fit(population, "optimizer")
    assert np.isnan(reader.history).tolist() == [True, False, False]
    first = torch.nn.Linear(*reader.module.weight.shape[::-1])
    with torch.random.fork_rng():
        torch.manual_seed(reader.seed)
        first.reset_parameters()
    assert not torch.equal(reader.module.weight, first.weight)


def test_every_tensor_is_brought_to_mean_0_and_spread_1_by_the_training_networks(population, fitted):
    weights = torch.from_numpy(_train(population)["weights"].isel(snapshot=-1).values[:, None])
    inputs = whole._prepared(fitted, fitted.module, weights)
    for place in layout_of(population).slices.values():
        assert inputs[..., place].mean() == pytest.approx(0, abs=1e-3)
        assert inputs[..., place].std() == pytest.approx(1, abs=1e-2)
    constant = whole._scale(torch.full_like(weights, 3), fitted.layout)
    assert torch.equal(constant[1], torch.ones(weights.shape[2]))


def test_a_module_may_ask_for_raw_weights(population):
    class Raw(torch.nn.Module):
        raw = True

        def __init__(self, size, outputs):
            super().__init__()
            self.last, self.largest = torch.nn.Linear(1, outputs), 0.0

        def forward(self, vectors):
            self.largest = max(self.largest, float(vectors.abs().max()))
            return self.last(vectors.std(dim=2))

    def own(layout, snapshots, outputs, *, per_weight=False):
        return Raw(layout.size, outputs)

    found = read(population, "optimizer", NetworkReader(network=own, epochs=1, device="cpu"))
    assert found.attrs["method"] == "own"
    assert "own" in json.loads(found.attrs["parameters"])["network"]
    reader = NetworkReader(network=own, epochs=1, device="cpu").fit(population, "optimizer")
    assert reader.module.largest == float(np.abs(_train(population)["weights"].isel(snapshot=-1)).max())


def test_augmented_networks_come_in_another_consistent_order_at_every_visit(population):
    layout = layout_of(population)
    orders = whole._orders(layout, np.arange(layout.size), seed=0)
    inputs = torch.arange(layout.size).repeat(2, 1, 1)
    draws = np.random.default_rng(0)
    rows = torch.tensor([1, 0])
    seen, masks = whole._visited(inputs, inputs[:, 0], rows, orders, draws)
    assert torch.equal(seen[:, 0], masks)  # the mask of a weight goes with it
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen, whole._visited(inputs, inputs[:, 0], rows, orders, draws)[0])
    places = {name: layout.split(seen[0, 0].numpy())[name] for name in ("conv1.bias", "conv1.gamma", "conv2.kernel")}
    offsets = {name: place.start for name, place in layout.slices.items()}
    order = places["conv1.bias"] - offsets["conv1.bias"]
    assert np.array_equal(order, places["conv1.gamma"] - offsets["conv1.gamma"])
    sources = np.array(layout.label("source"))[places["conv2.kernel"]]
    assert (sources == order[None, :, None, None]).all()


def test_augmentation_reaches_a_part_of_the_weights(population):
    reader = NetworkReader(**FEW, kinds="kernels", augmented=True).fit(population, "optimizer")
    assert {tensor.kind for tensor in reader.layout.tensors} == {"kernel"}
    layout, selected = whole._layout(whole.readable(population), "all", "kernels")
    orders = whole._orders(layout_of(population), selected, seed=0).numpy()
    assert (np.sort(orders, axis=1) == np.arange(layout.size)).all()


def test_a_control_reads_test_networks_with_their_units_permuted(population, fitted):
    control = read(population, "optimizer", NetworkReader(**QUICK), permuted=True)
    assert not np.allclose(control["probability"], fitted.predict_proba(population), atol=1e-4)
    same = [
        read(population, "optimizer", NetworkReader(**FEW | {"network": "statistics"}), permuted=permuted)
        for permuted in (True, False)
    ]
    np.testing.assert_allclose(*(found["probability"] for found in same), atol=1e-5)


def test_estimates_of_a_fit_that_diverged_are_numbers(population):
    reader = NetworkReader(**QUICK | {"network": "statistics"}).fit(population, "learning_rate")
    with torch.no_grad():
        reader.module.body[-1][-1].bias += 1000
    assert reader.predict(population).values.max() == 1e300
    with torch.no_grad():
        reader.module.body[-1][-1].bias -= 2000
    assert reader.predict(population).values.min() == 1e-300


def test_numbers_are_estimated_on_their_scale(population):
    spread = 2 * (np.log10(population["learning_rate"]) + 3) * (population["snapshot"] - 1) / 19
    rated = population.assign(weights=(population["weights"] * 10**spread).astype("float32"))
    options = QUICK | {"network": "statistics", "epochs": 20}
    assert NetworkReader(**options).fit(rated, "learning_rate").score(rated) > 0.5
    accuracy = xr.where(population["snapshot"] == 20, 1 + np.log10(population["learning_rate"]) / 4, np.nan)
    rated["test_accuracy"] = (("model", "snapshot"), accuracy.transpose("model", "snapshot").values)
    found = read(rated, "test_accuracy", NetworkReader(**options))
    assert (found.attrs["task"], found.attrs["scale"]) == ("regression", "linear")
    assert np.array_equal(found["truth"], found["test_accuracy"])
    assert 1 - ((found["truth"] - found["prediction"]) ** 2).mean() / found["truth"].var() > 0.5


def test_several_snapshots_are_fed_together_and_one_is_read_at_several(population, fitted):
    both = NetworkReader(**QUICK | {"snapshot": (20, 1)}).fit(population, "optimizer")
    assert both.module.tokens.embeddings[0].in_features == 2 * fitted.module.tokens.embeddings[0].in_features
    assert both.predictions(population)["prediction"].dims == ("model",)
    swapped = both.predictions(population, (1, 20))
    assert not np.allclose(swapped["probability"], both.predict_proba(population))
    with pytest.raises(ValueError, match="the reader sees 2 snapshots together, not 3"):
        both.predictions(population, (1, 2, 3))
    several = fitted.predictions(population, (1, 20))
    assert several["prediction"].dims == ("model", "snapshot")
    np.testing.assert_allclose(several["probability"].sel(snapshot=20), fitted.predict_proba(population))
    assert (several["prediction"] == several["truth"]).mean("model").sel(snapshot=1) < 0.6


@pytest.mark.parametrize("network", ["deepsets", "flat", "settransformer", "dmc"])
def test_weights_are_scored_after_masks_where_they_ask(population, masks, network):
    reader = NetworkReader(**QUICK | {"network": network, "epochs": 4, "batch": 8}).fit(population, masks)
    found = reader.predictions(population)
    assert found["probability"].dims == ("model", "weight")
    asked = masks.isel(model=np.isin(masks["id"], found["id"]), weight=slice(300))
    right = (found["prediction"].isel(weight=slice(300)).values == (asked.values > 0.5)).mean()
    assert right > (0.6 if network == "dmc" else 0.8)  # convolutions see the neighbours, not how wide the network is
    assert found.attrs["parameter_count"] == reader.parameters


def test_masks_are_found_by_the_id_of_a_network(population, masks):
    mixed = masks.isel(model=np.random.default_rng(0).permutation(masks.sizes["model"]))
    same = [NetworkReader(**FEW | {"epochs": 1}).fit(population, one).history for one in (masks, mixed)]
    assert same[0] == same[1]
    with pytest.raises(ValueError, match=r"networks have no mask, the first"):
        NetworkReader(**FEW).fit(population, masks.isel(model=slice(20)))
    with pytest.raises(ValueError, match=r"the networks have 1676 weights, but the masks 9"):
        NetworkReader(**FEW).fit(population, masks.isel(weight=slice(9)))
    with pytest.raises(ValueError, match="a population holds no masks"):
        NetworkReader(**FEW | {"epochs": 1}).fit(population, masks).score(population)


def test_masks_of_test_networks_have_no_influence(population, masks):
    test = masks["id"].isin(population["id"].values[population["split"].values == "test"])
    found = [NetworkReader(**FEW).fit(population, one).predict_proba(population) for one in (masks, abs(masks - test))]
    xr.testing.assert_equal(*found)


def test_one_architecture_is_read(population, fitted):
    made = [one.drop_dims("evaluation") for one in fake.population(space.sample("nws_small", 24, seed=1, width_conv=8))]
    wide = xr.concat(made, "model", data_vars="all", coords="different", compat="equals", join="exact")
    tree = xr.DataTree.from_dict({"small": population, "wide": wide.assign_coords(model=wide["model"] + 1000)})
    with pytest.raises(ValueError, match="whole networks are read of one architecture, not of 2"):
        NetworkReader(**FEW).fit(tree, "optimizer")
    with pytest.raises(ValueError, match="learned on networks of another architecture"):
        fitted.predictions(wide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"rate": 0.0}, "rate must be positive"),
        ({"validation": 1.0}, "validation must be more than 0 and less than 1"),
        ({"precision": "float16"}, r"unknown precision 'float16'. Did you mean 'bfloat16'"),
        ({"network": "deepset"}, r"unknown network 'deepset'. Did you mean 'deepsets'"),
        ({"snapshot": 0}, r"there is no snapshot 0. The nearest is 1"),
    ],
)
def test_bad_parameters_are_refused(population, change, message):
    with pytest.raises(ValueError, match=message):
        read(population, "optimizer", NetworkReader(**FEW), **change)


def test_what_cannot_be_read_is_refused(population):
    with pytest.raises(ValueError, match=r"unknown property 'optimiser'. Did you mean 'optimizer'"):
        NetworkReader(**FEW).fit(population, "optimiser")
    with pytest.raises(ValueError, match="not fitted: call fit first"):
        NetworkReader(**FEW).predict(population)


def _train(population):
    kept = (population["split"] == "train") & (population["status"] != "diverged")
    return population.isel(model=np.flatnonzero(kept))
