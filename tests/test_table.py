import json

import numpy as np
import pytest
import xarray as xr

from nwslib import space
from nwslib.analysis import scores
from nwslib.meta import read
from nwslib.meta.table import TableReader
from nwslib.snapshots import fake
from nwslib.snapshots.cnn import layout


def joined(design, diverged=()):
    made = [network.drop_dims("evaluation") for network in fake.population(design, signal=0.0, diverged=diverged)]
    return xr.concat(made, "model", data_vars="all", coords="different", compat="equals", join="exact")


@pytest.fixture(scope="module")
def population():
    """Give 180 networks of three filter sizes, and so of three lengths; accuracies differ by image set."""
    parts = {}
    for number, size in enumerate(space.VOCABULARY["filter_size"]):
        design = space.sample("nws_small", 60, seed=number, filter_size=size)
        design = design.assign_coords(model=design["model"] + 1000 * number)
        parts[f"filters{size}"] = joined(design, diverged=[1000 * number + 3])
    return xr.DataTree.from_dict(parts)


def changed(population, change):
    """Give a population with every architecture changed."""
    return xr.DataTree.from_dict({name: change(node.to_dataset()) for name, node in population.children.items()})


def mean_score(population, property, seeds=3, shuffled=False, **options):
    readers = [TableReader(seed=seed, **options) for seed in range(seeds)]
    return np.mean([reader.fit(population, property, shuffled=shuffled).score(population) for reader in readers])


def test_what_decides_the_length_is_read_from_it_and_nothing_else_is(population):
    assert TableReader().fit(population, "filter_size").score(population) == 1
    assert mean_score(population, "optimizer", seeds=1) < 0.5
    assert mean_score(population, "activation", seeds=1) < 0.45


def test_every_architecture_of_the_study_is_named_by_its_length():
    # Six networks of each of the 243; a table alone, in which the steps stand for the length.
    names = ("filter_size", "depth_conv", "depth_fc", "width_conv", "width_fc")
    design = space.sample("nws_main", 1458, seed=0)
    grid = np.stack(np.meshgrid(*(space.VOCABULARY[name] for name in names), indexing="ij"), -1).reshape(243, -1)
    for place, name in enumerate(names):
        design[name] = ("model", np.repeat(grid[:, place], 6))
    lengths = np.repeat([layout(32, *row).size for row in grid.tolist()], 6)
    split = np.tile(["train"] * 4 + ["test"] * 2, 243)
    about = {name: ("model", design[name].values) for name in (*names, "dataset")}
    about |= {"split": ("model", split), "status": ("model", np.full(1458, "converged")), "steps": ("model", lengths)}
    about |= {"id": ("model", design["model"].values.astype(str)), "model": design["model"].values, "snapshot": [20]}
    node = xr.Dataset({"weights": (("model", "snapshot", "weight"), np.empty((1458, 1, 0), "float32"))}, about)
    for name in names:
        assert TableReader(columns=("steps",)).fit(node, name).score(node) == 1
    assert TableReader(columns=("steps",)).fit(node, "dataset").score(node) < 0.3


def test_an_accuracy_gives_away_what_it_depends_on_once_it_does(population):
    assert mean_score(population, "dataset", seeds=1, columns=("test_accuracy",)) > 0.7
    assert mean_score(population, "dataset", seeds=1, columns=("test_accuracy",), snapshot=1) < 0.4
    assert mean_score(population, "optimizer", seeds=1, columns=("test_accuracy",)) < 0.5


def test_shuffled_labels_end_at_chance(population):
    assert mean_score(population, "dataset", shuffled=True, columns=("test_accuracy",)) < 0.32  # of five sets
    assert mean_score(population, "learning_rate", shuffled=True, columns=("test_accuracy",)) < 0.05


def test_several_columns_are_read_together(population):
    both = TableReader(columns=("weights", "test_accuracy"))
    assert both.fit(population, "filter_size").score(population) == 1
    assert both.fit(population, "dataset").score(population) > 0.7


def test_a_number_is_estimated_by_its_logarithm(population):
    leaking = changed(population, lambda node: node.assign_coords(steps=(1e6 * node["learning_rate"]).astype("int64")))
    reader = TableReader(columns=("steps",)).fit(leaking, "learning_rate")
    found = reader.predictions(leaking)
    assert reader.score(leaking) > 0.98
    assert abs(np.log10(found["prediction"] / found["truth"])).max() < 0.2
    assert TableReader().fit(population, "learning_rate").score(population) < 0.1
    train = np.concatenate(
        [
            node["learning_rate"].values[(node["split"] == "train") & (node["status"] != "diverged")]
            for node in population.children.values()
        ]
    )
    assert reader.median == pytest.approx(np.median(train), rel=1e-2)
    with pytest.raises(ValueError, match="learning_rate is a number and has no probabilities"):
        reader.predict_proba(leaking)


def test_rare_classes_are_not_drowned_by_frequent_ones(population):
    def with_few_of_adam(node):
        kept = (node["optimizer"] != "adam") | (node["split"] == "test") | (node["model"] % 1000 < 12)
        return node.isel(model=np.flatnonzero(kept))

    rare = changed(population, with_few_of_adam)
    guesses = [
        TableReader(columns=("train_loss",), seed=seed).fit(rare, "optimizer").predict(rare) for seed in range(3)
    ]
    assert 0.1 < np.mean([(guess == "adam").mean() for guess in guesses]) < 0.6


def test_no_weight_is_read(population):
    reader = TableReader(columns=("weights", "test_accuracy"))
    found = reader.fit(population, "dataset").predictions(population)
    blind = changed(population, lambda node: node.assign(weights=node["weights"] * np.nan))
    xr.testing.assert_equal(found, reader.fit(blind, "dataset").predictions(blind))


def test_test_networks_have_no_influence_on_the_fit_and_seen_ones_are_refused(population):
    reader = TableReader(columns=("test_accuracy",)).fit(population, "dataset")
    swapped = changed(
        population,
        lambda node: node.assign_coords(split=("model", np.where(node["split"] == "test", "train", "test"))),
    )
    with pytest.raises(ValueError, match="of these networks were seen in training, the first"):
        reader.predict(swapped)

    def with_other_accuracies(node):
        return node.assign(test_accuracy=node["test_accuracy"].where(node["split"] == "train", 0.5))

    foreign = changed(population, with_other_accuracies)
    again = TableReader(columns=("test_accuracy",)).fit(foreign, "dataset")
    grid = np.linspace(0, 1, 50)[:, None]
    assert np.array_equal(reader.trees.predict_proba(grid), again.trees.predict_proba(grid))


def test_it_is_read_and_stored_as_every_reading(population, tmp_path):
    reader = TableReader(columns=("test_accuracy",))
    found = read(population, "dataset", reader, at=[1, 20], seeds=(0, 1))
    assert found["prediction"].dims == ("model", "seed", "snapshot")
    right = (found["prediction"] == found["truth"]).mean(("model", "seed"))
    assert right.sel(snapshot=20) > right.sel(snapshot=1) + 0.3
    np.testing.assert_allclose(found["probability"].sum("class"), 1)
    assert set(found["split"].values) == {"test"}
    assert set(found["status"].values) == {"converged"}
    assert (
        json.loads(found.attrs["left_out_of_test"])["diverged or failed"]
        + json.loads(found.attrs["left_out_of_training"])["diverged or failed"]
        == 3
    )
    found.to_netcdf(tmp_path / "reading.nc")
    row = scores.summary(found.sel(snapshot=20))
    assert (row["method"], row["part"], row["above_chance"]) == ("table, test_accuracy", "", True)
    assert scores.summary(read(population, "learning_rate", reader))["gain"] < 0.1
    assert read(population, "dataset", reader, min_test_accuracy=0.8).sizes["model"] < found.sizes["model"]


def test_the_seed_decides_everything(population):
    first, again, other = (
        TableReader(columns=("test_accuracy",), seed=seed).fit(population, "dataset").predict_proba(population)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("property", "change", "message"),
    [
        ("filter_size", {"columns": ("filter_size",)}, "filter_size can't be read from filter_size, which holds it"),
        ("batch_size", {"columns": ("steps", "batch_size_after")}, "can't be read from batch_size_after"),
        ("batch_size_after", {"columns": ("batch_size",)}, "batch_size_after can't be read from batch_size"),
        ("optimizer", {"columns": ("seed",)}, "seed names a network, and measures nothing of it"),
        ("optimizer", {"columns": ("dataset",)}, "'dataset' is no column of numbers"),
        ("optimizer", {"columns": ("test_acuracy",)}, r"no column of numbers\. Did you mean 'test_accuracy'"),
        ("optimizer", {"columns": "weights"}, "columns are several names, at least one, not 'weights'"),
        ("optimizer", {"columns": ()}, r"columns are several names, at least one, not \(\)"),
        ("optimizer", {"columns": ("train_accuracy",), "snapshot": 1}, "train_accuracy is not known .* at snapshot 1"),
        ("optimizer", {"columns": ("epoch",), "snapshot": 21}, r"no snapshot 21\. The nearest is 20"),
        ("optimizer", {"snapshot": [1, 20]}, r"a table is learned from at one snapshot, not at \[1, 20\]"),
        ("optimiser", {}, r"unknown property 'optimiser'\. Did you mean 'optimizer'"),
        ("width_conv", {}, "width_conv is 4 in every training network"),
    ],
)
def test_what_cannot_be_read_is_refused(population, property, change, message):
    with pytest.raises(ValueError, match=message):
        TableReader(**change).fit(population, property)


def test_a_reader_that_has_not_learned_is_refused(population):
    with pytest.raises(ValueError, match="not fitted: call fit first"):
        TableReader().predict(population)
