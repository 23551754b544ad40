"""Designs of further families: drawn, checked, trained, stored and resumed as those of the study are."""

import re

import numpy as np
import pytest
import torch
import xarray as xr

from nwslib import snapshots, space
from nwslib.population import images, train
from nwslib.population.shared import MEASURED, Shared, finished, snapshot_steps
from nwslib.population.slots import rows
from nwslib.population.train import identity
from nwslib.snapshots.layout import Layout, Tensor
from nwslib.snapshots.schema import COORDINATES
from nwslib.space import COLLECTIONS, COLUMNS, FAMILIES, complete, family_of, image_sets, row_keys, sample

FURTHER = [name for name in COLLECTIONS if not name.startswith("nws_")]
IMAGE, NOISY = ["siren", "kan_image"], ["noisy_cnn", "noisy_mlp", "noisy_kan"]
PARAMETERS = {"precision": "float32", "snapshots": 3, "images": dict.fromkeys(space.PUBLISHED_SETS, "1")}
SHARED = Shared(
    torch.device("cpu"),
    torch.float32,
    None,
    3,
    PARAMETERS,
    lambda row: identity(row, PARAMETERS),
    "1",
    False,
)
LAYOUT = Layout("siren", (Tensor("output", "dense", "bias", ("unit",), (4,)),))


# What is drawn


@pytest.mark.parametrize("collection", FURTHER)
def test_a_longer_design_begins_with_the_shorter_one_and_drawing_again_gives_the_same(collection):
    long, short = sample(collection, 70, seed=5), sample(collection, 33, seed=5)
    assert long.isel(model=slice(0, 33)).identical(short)
    assert sample(collection, 70, seed=5).identical(long)
    assert not set(row_keys(sample(collection, 70, seed=6))) & set(row_keys(long))


@pytest.mark.parametrize("collection", FURTHER)
def test_a_design_says_everything_of_its_family_and_no_more(collection):
    design = sample(collection, 8, seed=0)
    family = family_of(design)
    assert (family.name, family.task) == tuple(COLLECTIONS[collection].values())
    assert set(design.variables) == {*family.columns, "model", "split", "shard"}
    for name, column in family.columns.items():
        assert design[name].dtype.kind == {str: "U", int: "i", float: "f"}[column.type]
    assert complete(design).identical(design)


@pytest.mark.parametrize("collection", FURTHER)
def test_what_is_held_changes_nothing_else(collection):
    design = sample(collection, 20, seed=3)
    held = sample(collection, 20, seed=3, learning_rate=0.004)
    assert (held["learning_rate"] == 0.004).all()
    assert held.drop_vars("learning_rate").identical(design.drop_vars("learning_rate"))


@pytest.mark.parametrize(
    ("collection", "name", "exponents"),
    [
        ("noisy_cnn", "learning_rate", (-3, -2)),
        *((one, "learning_rate", (np.log10(3e-4), np.log10(3e-3))) for one in ("noisy_mlp", "noisy_kan")),
        ("resnet8", "learning_rate", (np.log10(0.5) - 2, np.log10(0.5))),
        ("resnet8", "weight_decay", (-5, -1)),
    ],
)
def test_rates_and_decays_are_even_on_a_logarithmic_scale(collection, name, exponents):
    drawn = sample(collection, 2000, seed=1)[name].values
    assert all(value == float(f"{value:.6g}") for value in drawn)  # so that no machine draws another last bit
    found = np.log10(np.sort(drawn))
    assert abs(found - np.linspace(*exponents, 2000)).max() < 0.04 * np.ptp(exponents)


@pytest.mark.parametrize(
    ("collection", "name", "high"), [("noisy_kan", "label_noise", 1), ("resnet8", "label_smoothing", 0.2)]
)
def test_shares_are_uniform(collection, name, high):
    found = np.sort(sample(collection, 2000, seed=1)[name].values)
    assert found[0] >= 0
    assert found[-1] <= high
    assert abs(found - np.linspace(0, high, 2000)).max() < 0.04 * high


def test_epochs_and_image_sets_are_drawn_evenly_from_all_there_are():
    epochs = np.unique(sample("resnet8", 3100, seed=2)["epochs"], return_counts=True)
    assert epochs[0].tolist() == list(range(10, 41))
    assert abs(epochs[1] - 100).max() < 50
    names, counts = np.unique(sample("noisy_mlp", 3000, seed=2)["dataset"], return_counts=True)
    assert names.tolist() == ["fashion", "kmnist", "mnist"]
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)


@pytest.mark.parametrize("collection", IMAGE)
def test_row_n_is_for_image_n(collection):
    assert sample(collection, 9, seed=4)["image"].values.tolist() == list(range(9))


@pytest.mark.parametrize("collection", FURTHER)
def test_one_network_in_four_is_for_testing(collection):
    split = sample(collection, 80, seed=2)["split"].values
    assert ((split == "test").reshape(20, 4).sum(1) == 1).all()


def test_a_range_a_list_or_one_value_may_be_asked_for():
    design = sample("siren", 200, seed=0, dataset=["mnist", "svhn"], learning_rate=[1e-4, 1e-2], width=[16, 32])
    assert image_sets(design) == ["mnist", "svhn"]
    assert set(design["width"].values) == {16, 32}
    assert 1e-4 <= design["learning_rate"].min() < 2e-4
    assert 5e-3 < design["learning_rate"].max() <= 1e-2
    assert space.varying(design) == ["dataset", "width", "learning_rate"]


def test_a_shard_holds_networks_of_one_shape():
    design = sample("siren", 200, seed=0, dataset=["mnist", "fashion", "svhn"])
    colour = design["dataset"].values == "svhn"
    for part in (design.isel(model=colour), design.isel(model=~colour)):
        assert part["shard"].values.tolist() == [rank // 64 for rank in range(part.sizes["model"])]


# What is refused


@pytest.mark.parametrize(
    ("collection", "fixed", "message"),
    [
        ("siren", {"optimizer": "adamw"}, "unknown optimizer 'adamw'. Did you mean 'adam'?"),
        (
            "siren",
            {"initialization": "glorot_normal"},
            "unknown initialization 'glorot_normal'. Known: 'own', 'shared'.",
        ),
        ("siren", {"frequency": 0}, "frequency must be a positive number, not 0"),
        ("siren", {"steps": 0}, "steps must be a whole number, 1 or larger, not 0. The nearest is 1."),
        ("siren", {"grid": 5}, "unknown property 'grid'. Known: 'family', 'task'"),
        ("siren", {"image": 3}, "unknown property 'image'. Did you mean 'image_size'?"),
        ("kan_image", {"order": 2.5}, "order must be a whole number, 1 or larger, not 2.5. The nearest is 2."),
        ("noisy_cnn", {"image_size": 24}, "image_size must be 14, 16, 28 or 32, not 24. The nearest is 28."),
        ("noisy_mlp", {"label_noise": 1.5}, "label_noise must be a number from 0 to 1, not 1.5. The nearest is 1."),
        ("noisy_mlp", {"dataset": "mnits"}, "unknown image set 'mnits'. Did you mean 'mnist'?"),
        ("noisy_kan", {"task": "image"}, "unknown task 'image'. Known: 'classify'."),
        ("resnet8", {"image_size": 28}, "image_size must be 16 or 32, not 28. The nearest is 32."),
        ("resnet8", {"weight_decay": -0.1}, "weight_decay must be a number, 0 or larger, not -0.1. The nearest is 0."),
        ("resnet8", {"weight_decay": [0, 0.1]}, "weight_decay is drawn evenly on a logarithmic scale"),
        ("resnet8", {"label_smoothing": [0, 0.1, 0.2]}, "label_smoothing is one value or a range [low, high], not 3"),
    ],
)
def test_a_value_without_meaning_is_refused(collection, fixed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sample(collection, 4, seed=0, **fixed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": ["kan", "mlp"]}, "a design has one family, not ['kan', 'mlp']"),
        ({"family": ["mpl"] * 2}, "unknown family 'mpl'. Did you mean 'mlp'?"),
        ({"task": ["clasify"] * 2}, "unknown task 'clasify' of the family 'kan'. Did you mean 'classify'?"),
        ({"order": [0, 3]}, "order must be a whole number, 1 or larger, not 0. The nearest is 1."),
        ({"split": ["train", "tset"]}, "unknown split 'tset'. Did you mean 'test'?"),
        ({"switch_epoch": [1, 1]}, "networks of the family 'kan' can't change course"),
    ],
)
def test_a_broken_design_is_refused(change, message):
    design = sample("noisy_kan", 2, seed=0)
    with pytest.raises(ValueError, match=re.escape(message)):
        complete(design.assign({name: ("model", values) for name, values in change.items()}))


def test_what_a_design_by_hand_leaves_out_is_filled_in_unless_it_varies():
    design = complete(xr.Dataset({"family": ("model", ["siren"] * 3), "seed": ("model", [1, 2, 3])}))
    assert design["image"].values.tolist() == [0, 1, 2]
    assert design["steps"].values.tolist() == [1000] * 3
    assert design["task"].values.tolist() == ["image"] * 3
    with pytest.raises(ValueError, match="no column 'label_noise'"):
        complete(sample("noisy_mlp", 2, seed=0).drop_vars("label_noise"))
    with pytest.raises(ValueError, match=r"'kan' have several tasks: \['image', 'classify'\]. Say which"):
        complete(sample("noisy_kan", 2, seed=0).drop_vars("task"))
    with pytest.raises(ValueError, match="networks of the family 'siren' can't change course"):
        space.switch(design, 3, learning_rate=0.1)


def test_every_column_is_described_by_the_schema_or_by_itself():
    for family in FAMILIES.values():
        for name in family.columns:
            assert (name in COORDINATES) != bool(COLUMNS[name].meaning) or name in ("family", "split")
    for column in MEASURED.values():
        assert column.meaning


def test_names_and_keys_cover_every_column_and_nothing_else():
    for collection in FURTHER:
        design = sample(collection, 1, seed=0)
        [row], [key] = rows(design), row_keys(design)
        for name, column in family_of(design).columns.items():
            if name in ("family", "task"):
                continue
            other = "fashion" if name == "dataset" else {str: "?", int: 999, float: 0.5}[column.type]
            changed = design.assign({name: ("model", [other])})
            assert identity(rows(changed)[0], PARAMETERS) != identity(row, PARAMETERS)
            assert row_keys(changed) != [key]
        moved = row | {"model": 7, "split": "test", "shard": 9}
        assert identity(moved, PARAMETERS) == identity(row, PARAMETERS)
        assert identity(row, PARAMETERS | {"snapshots": 5}) != identity(row, PARAMETERS)


# What is stored


def _fake(row, **further):
    """Give a network of which nothing was trained."""
    weights = np.random.default_rng(row["seed"]).standard_normal((3, 4))
    steps = row.get("steps", 7)
    further |= {"label": "7", "psnr": 20.5} if row["task"] == "image" else {}
    curves = {"train_loss": np.array([0.3, 0.2, 0.1])}
    if row["task"] == "classify":
        curves |= dict.fromkeys(("train_accuracy", "valid_accuracy", "test_accuracy"), np.array([0.1, 0.5, 0.6]))
    return finished(
        row, LAYOUT, weights, curves, SHARED, steps=steps, epochs=snapshot_steps(6, 3), seconds=1, **further
    )


@pytest.mark.parametrize("collection", ["siren", "noisy_kan", "resnet8"])
def test_networks_are_written_and_what_is_left_is_known(collection, tmp_path):
    design = sample(collection, 5, seed=0)
    networks = [_fake(row) for row in rows(design)]
    assert snapshots.write(tmp_path, networks[:3]) == 3
    left = snapshots.remaining(design, tmp_path)
    assert left.drop_attrs().identical(design.isel(model=[3, 4]).drop_attrs())
    assert snapshots.write(tmp_path, networks) == 2
    assert snapshots.remaining(design, tmp_path).sizes["model"] == 0
    snapshots.verify(tmp_path)
    table = snapshots.table(tmp_path)
    for name in family_of(design).columns:
        assert table[name].values.tolist() == design[name].values.tolist()
    assert row_keys(table) == row_keys(design)
    assert snapshots.remaining(table, tmp_path).sizes["model"] == 0
    one = snapshots.networks(snapshots.open_population(tmp_path))
    assert np.array_equal(one["weights"].values, np.concatenate([network["weights"] for network in networks]))


def test_a_folder_of_other_networks_is_refused(tmp_path):
    snapshots.write(tmp_path, [_fake(row) for row in rows(sample("siren", 2, seed=0))])
    for other in (sample("kan_image", 3, seed=0), sample("nws_small", 3, seed=0), sample("siren", 3, seed=1)):
        with pytest.raises(ValueError, match="holds another design: its row 0 is another network"):
            snapshots.remaining(other, tmp_path)


def test_designs_are_named_by_folder_as_those_of_the_study(tmp_path):
    design = snapshots.design_of(tmp_path / "none", "siren", 3, seed=1, image_size=14)
    assert design.identical(sample("siren", 3, seed=1, image_size=14))


def test_a_finished_network_says_what_nobody_measured_and_how_it_ended():
    [row] = rows(sample("siren", 1, seed=0))
    network = _fake(row)
    snapshots.validate(network)
    assert network.attrs["not_measured"] == '["train_accuracy", "valid_accuracy", "test_accuracy"]'
    assert (network["status"].item(), network["reason"].item()) == ("stopped", "end of its 1000 steps")
    weights = np.ones((3, 4))
    weights[1:, 2] = np.nan
    losses = {"train_loss": np.array([0.3, np.nan, np.nan])}
    lost = finished(row, LAYOUT, weights, losses, SHARED, steps=1000, epochs=np.array([0, 500, 1000]), seconds=1)
    snapshots.validate(lost)
    assert (lost["status"].item(), lost["reason"].item()) == ("diverged", "a weight was not finite after 500 epochs")


def test_snapshots_are_some_of_the_evaluations():
    [row] = rows(sample("noisy_mlp", 1, seed=0))
    curves = {"test_accuracy": np.array([0.1, 0.2, 0.3, 0.4])}
    told = {"steps": 6, "epochs": np.array([0, 3, 6]), "seconds": 1}
    network = finished(row, LAYOUT, np.ones((3, 4)), curves, SHARED, kept=np.array([0, 2, 3]), **told)
    assert network["test_accuracy"].values[0].tolist() == pytest.approx([0.1, 0.3, 0.4])
    assert network["n_exports"].item() == network.sizes["evaluation"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 999}, "network 0 was to take 1000 steps, and took 999"),
        ({"curves": {"train_los": np.ones(3)}}, "unknown curve 'train_los'. Did you mean 'train_loss'?"),
        ({"curves": {"train_loss": np.ones(4)}}, "train_loss: 4 evaluations of 3 snapshots: say with 'kept' which"),
        ({"weights": np.ones((3, 5))}, "weights have shape (3, 5), not (3, 4)"),
        ({"pnsr": 3.0}, "unknown further property 'pnsr'. Did you mean 'psnr'?"),
    ],
)
def test_a_network_that_is_not_what_its_row_says_is_refused(change, message):
    [row] = rows(sample("siren", 1, seed=0))
    told = {"weights": np.ones((3, 4)), "curves": {}, "steps": 1000, "epochs": snapshot_steps(1000, 3), "seconds": 1}
    told |= change
    with pytest.raises(ValueError, match=re.escape(message)):
        finished(row, LAYOUT, told.pop("weights"), told.pop("curves"), SHARED, **told)


# What is trained


@pytest.fixture(scope="module")
def digits():
    return {"digits": images.load("digits", size=14, train_limit=400, test_limit=50)}


SMALL = [("siren", {"steps": 4, "width": 4}), ("noisy_mlp", {"epochs": 1, "width": 4})]


@pytest.mark.parametrize(("collection", "fixed"), SMALL)
def test_a_training_goes_on_where_it_was_interrupted(collection, fixed, digits, tmp_path):
    design = sample(collection, 3, seed=0, dataset="digits", image_size=14, **fixed)
    begun = train(design.isel(model=[0]), digits, device="cpu", snapshots=3)
    snapshots.write(tmp_path, begun)
    left = snapshots.remaining(design, tmp_path)
    assert left["model"].values.tolist() == [1, 2]
    snapshots.write(tmp_path, train(left, digits, device="cpu", snapshots=3))
    done = snapshots.remaining(design, tmp_path)
    assert snapshots.write(tmp_path, train(done, digits, device="cpu", snapshots=3)) == 0
    whole = {one["model"].item(): one for one in train(design, digits, device="cpu", snapshots=3)}
    table = snapshots.table(tmp_path)
    assert table["id"].values.tolist() == [whole[number]["id"].item() for number in range(3)]
    assert snapshots.networks(snapshots.open_population(tmp_path)).sizes["snapshot"] == 3
    with pytest.raises(ValueError, match="trained with snapshots = 3, these with 4"):
        snapshots.write(tmp_path, train(left, digits, device="cpu", snapshots=4))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"max_epochs": 3}, "max_epochs means nothing for networks of the family 'siren'"),
        ({"options": ["bias_noise"]}, "options means nothing for networks of the family 'siren'"),
        ({"updates": True}, "updates means nothing for networks of the family 'siren'"),
        ({"implementation": "lanes"}, "implementation means nothing for networks of the family 'siren'"),
        ({"snapshots": 1}, "snapshots must be a whole number, at least 2, not 1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_before_work_starts(argument, message, digits):
    with pytest.raises(ValueError, match=message):
        train(sample("siren", 2, seed=0, dataset="digits", image_size=14), digits, device="cpu", **argument)


def test_the_study_keeps_20_snapshots_and_every_network_needs_images_of_its_size(digits):
    study = {"digits": images.load("digits", size=16)}
    with pytest.raises(ValueError, match="networks of the study keep 20 snapshots, not 5"):
        train(sample("nws_small", 2, seed=0, dataset="digits"), study, device="cpu", snapshots=5)
    with pytest.raises(ValueError, match="is 14x14, but the design says image_size 28"):
        train(sample("siren", 2, seed=0, dataset="digits"), digits, device="cpu")
