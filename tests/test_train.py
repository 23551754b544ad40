import json
import os
import sys
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
import xarray as xr
from bars import stripes

from nwslib import space
from nwslib.population import draws, networks, progress, train
from nwslib.population.loop import CURVES, Watch
from nwslib.population.slots import bank, member, rows
from nwslib.population.stopping import Stopping
from nwslib.population.train import identity
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import validate


def outcome(design, bars, **options):
    """Train a design and give the finished networks by their number."""
    return {int(one.model[0]): one for one in train(design, bars, progress=False, **options)}


def identical(one, other):
    names = set(one.variables) - {"seconds"}
    return all(one[name].variable.equals(other[name].variable) for name in names)


def train_by_oracle(row, images, epochs):
    """Train one network alone in float64, everything from its seed; give its curves and its final weights."""
    inside, outside = draws.split(row["seed"], len(images.train_images))
    steps = draws.balanced_count(images.train_labels[inside]) // row["batch_size"]
    layout = networks.cnn.layout(16, 3, 3, 2, 4, 32)
    batches = oracle.batches(row, images, networks.cnn.hidden_units(layout), (epochs - 1) * steps)
    population, curves = oracle.Population(layout, [row], [batches]), {name: [] for name in CURVES}
    state, seen = population.start(), [(np.nan, np.nan)]
    for epoch in range(epochs):
        weights = torch.from_numpy(state[0][0])
        valid = oracle_accuracy(row, layout, weights, images.train_images[outside], images.train_labels[outside])
        test = oracle_accuracy(row, layout, weights, images.test_images, images.test_labels)
        loss, right = np.mean(seen, axis=0)
        for name, value in zip(CURVES, (right, valid, test, loss), strict=True):
            curves[name].append(value)
        if epoch + 1 == epochs:
            return curves, weights
        seen = []
        for t in range(epoch * steps, (epoch + 1) * steps):
            seen.append([value.item() for value in population.look(state[0], t)])
            state = population.step(state, t)


def oracle_accuracy(row, layout, weights, images, labels):
    module = networks.to_module(layout, weights, activation=row["activation"])
    with torch.no_grad():
        logits = module(images.permute(0, 3, 1, 2).double() / 255)
    return (logits.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("implementation", ["lanes", "grouped", "im2col"])
def test_whole_trainings_agree_with_the_oracle(implementation, bars):
    """Rates, counters, orders, augmentation and statistics over epochs, while slots empty and fill."""
    design = space.sample("nws_small", 6, seed=3, batch_size=32, initialization="glorot_uniform", decay=0.5)
    design["dataset"] = ("model", np.array(["digits", "textures", "textures", "digits", "textures", "digits"]))
    design["optimizer"] = ("model", np.array(["adam", "adam", "rmsprop", "rmsprop", "momentum", "momentum"]))
    design["activation"] = ("model", np.array(["tanh", "elu", "relu", "tanh", "sigmoid", "elu"]))
    design["augmentation"] = ("model", np.array(["off", "on", "on", "on", "off", "on"]))
    finished = outcome(design, bars, max_epochs=4, slots=4, precision="float64", implementation=implementation)
    for row in rows(design):
        one = finished[row["model"]]
        curves, weights = train_by_oracle(row, bars[row["dataset"]], epochs=4)
        for name in CURVES:
            assert one[f"curve_{name}"].values[0] == pytest.approx(curves[name], rel=1e-5, nan_ok=True), (name, row)
        assert one["weights"].values[0, -1] == pytest.approx(weights.numpy(), rel=1e-4, abs=1e-5), row


@pytest.fixture(scope="module")
def small_design(bars):
    return space.sample("nws_small", 16, seed=5, dataset=sorted(bars), batch_size=32)


@pytest.fixture(scope="module")
def population(small_design, bars):
    return outcome(small_design, bars, max_epochs=3, slots=16)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_a_network_is_the_same_for_any_number_of_slots(small_design, bars, population, slots):
    rows = small_design.isel(model=slice(0, 6))
    for number, one in outcome(rows, bars, max_epochs=3, slots=slots).items():
        assert identical(one, population[number]), number


def test_a_network_is_the_same_in_any_company(small_design, bars, population):
    shuffled = small_design.isel(model=np.random.default_rng(0).permutation(16))
    others = outcome(shuffled, bars, max_epochs=3, slots=12)
    assert all(identical(one, population[number]) for number, one in others.items())


def test_other_seeds_give_other_networks(population):
    starts = {number: one["weights"].values[0, -1].tobytes() for number, one in population.items()}
    assert len(set(starts.values())) == 16


def test_finished_networks_follow_the_schema_and_say_what_made_them(population, small_design, bars):
    for number, one in population.items():
        validate(one)
        row = small_design.sel(model=number)
        assert all(one[name].item() == row[name].item() for name in (*space.PROPERTIES, "seed", "split"))
        assert json.loads(one.attrs["parameters"])["images"] == {name: bars[name].version for name in sorted(bars)}


def test_ids_change_with_what_makes_a_network_and_only_with_that(small_design, bars, population):
    first = small_design.isel(model=[0])
    again = outcome(first, {**bars, "unused": bars["digits"]}, max_epochs=3)[0]
    assert again["id"].item() == population[0]["id"].item()
    longer = outcome(first, bars, max_epochs=4)[0]
    assert longer["id"].item() != population[0]["id"].item()


def test_an_id_depends_on_all_of_the_row_the_images_and_the_protocol(small_design, monkeypatch):
    row = rows(small_design)[0]
    parameters = {"precision": "float32", "images": {row["dataset"]: "v1", 2 * row["dataset"]: "v1"}}
    ids = [identity(row, parameters)]
    ids += [identity(row | {name: 2 * row[name]}, parameters) for name in (*space.PROPERTIES, *space.CONSTANTS, "seed")]
    ids.append(identity(row, parameters | {"images": {row["dataset"]: "v2"}}))
    assert identity(row | {"model": 99, "split": "?", "shard": 9}, parameters) == ids[0]
    monkeypatch.setattr(sys.modules["nwslib.population.train"], "PROTOCOL_VERSION", "0")
    ids.append(identity(row, parameters))
    assert len(set(ids)) == len(ids)


def test_snapshots_stand_at_the_protocol_s_points(population, small_design, bars):
    few = population[0]
    assert few["n_exports"].item() == 3
    assert few["epoch"].values[0].tolist() == [0] * 5 + [1] * 10 + [2] * 5
    many = outcome(small_design.isel(model=[0]), bars, max_epochs=25)[0]
    exports = many["n_exports"].item()
    expected = np.round(np.linspace(1, exports, 20)).astype(int) - 1
    assert many["epoch"].values[0].tolist() == expected.tolist()
    assert many.sizes["evaluation"] == exports
    assert np.array_equal(many["test_accuracy"].values[0], many["curve_test_accuracy"].values[0][expected])


def test_the_first_snapshot_is_the_initialisation(population):
    one = population[3]
    layout = Layout.from_json(one.attrs["layout"])
    start = draws.initial_weights(layout, one["seed"].item(), one["initialization"].item())
    assert np.array_equal(one["weights"].values[0, 0], start.float().numpy())
    assert np.isnan(one["train_accuracy"].values[0, 0])


def test_stored_accuracy_is_that_of_the_network_rebuilt_from_its_weights(population, bars):
    for one in population.values():
        module = networks.to_module(
            Layout.from_json(one.attrs["layout"]), one["weights"].values[0, -1], activation=one["activation"].item()
        )
        images = bars[one["dataset"].item()]
        with torch.no_grad():
            logits = module(images.test_images.permute(0, 3, 1, 2).float() / 255)
        accuracy = (logits.argmax(1) == images.test_labels).float().mean().item()
        assert accuracy == pytest.approx(one["test_accuracy"].values[0, -1], abs=1.01 / len(images.test_labels))


@pytest.mark.slow
def test_networks_learn(bars):
    rows = space.sample("nws_small", 6, seed=2, dataset="textures", batch_size=32, initialization="glorot_uniform")
    scores = [one["test_accuracy"].values[0, -1] for one in outcome(rows, bars, max_epochs=15).values()]
    assert np.median(scores) > 0.6


def test_a_network_stops_by_the_rules(bars):
    rows = space.sample("nws_small", 1, seed=2, dataset="digits", batch_size=256, learning_rate=1e-9)
    one = outcome(rows, bars, max_epochs=60)[0]
    assert one["status"].item() == "converged"
    assert "unchanged 30 times" in one["reason"].item()
    assert one["n_exports"].item() < 60


def test_networks_stop_where_their_validation_curves_say(bars):
    design = space.sample("nws_small", 4, seed=4, dataset="digits", batch_size=256)
    for one in outcome(design, bars, max_epochs=80).values():
        stopping = Stopping()
        rules = [stopping.update(accuracy) for accuracy in one["curve_valid_accuracy"].values[0].tolist()]
        assert rules[:-1] == [None] * (len(rules) - 1)
        assert one["reason"].item() == (rules[-1] or "limit of 80 evaluations")


def test_the_status_line_says_how_much_is_left(bars, monkeypatch):
    lines = []
    monkeypatch.setattr(progress, "report", lines.append)
    watch = Watch(networks=4, max_epochs=10, shown=True, evaluations=10)
    assert watch.line(seconds=100) == "0 of 4 networks, 36 per hour, at most 5:00 to go"
    early = space.sample("nws_small", 2, seed=2, dataset="digits", batch_size=256, learning_rate=1e-9)
    assert max(one["n_exports"].item() for one in train(early, bars, max_epochs=60)) < 60
    assert lines[-2].startswith("2 of 2 networks")
    assert "at most 0:00 to go" in lines[-2]
    assert lines[-1] == ""


def test_a_diverged_network_is_kept_and_disturbs_nobody(small_design, bars, population):
    rows = small_design.isel(model=slice(0, 4)).copy(deep=True)
    rows["learning_rate"][0], rows["optimizer"][0] = 1e30, "momentum"
    networks_ = outcome(rows, bars, max_epochs=3)
    wild = networks_.pop(0)
    assert wild["status"].item() == "diverged"
    assert "not finite" in wild["reason"].item()
    validate(wild)
    assert all(identical(one, population[number]) for number, one in networks_.items())


def test_architectures_and_batch_sizes_mix_in_one_design(bars):
    designs = [
        space.sample("nws_main", 3, seed=1, dataset="textures", image_size=16, batch_size=[32, 64], width_conv=4),
        space.sample("nws_small", 2, seed=1, dataset="textures", batch_size=32),
    ]
    design = xr.concat([part.drop_vars(["model", "shard"]) for part in designs], "model", combine_attrs="drop")
    design["filter_size"][0], design["batch_size"][4] = 9, 33
    design = space.complete(design)
    finished = outcome(design, bars, max_epochs=2)
    assert sorted(finished) == [0, 1, 2, 3, 4]
    images = bank(bars, torch.device("cpu"))
    for row in rows(design):
        validate(finished[row["model"]])
        assert finished[row["model"]]["steps"].item() == member(row, images).steps_per_epoch
    assert identical(finished[4], outcome(design.isel(model=[4]), bars, max_epochs=2)[4])


def test_double_precision_is_the_same_protocol(small_design, bars):
    rows = small_design.isel(model=slice(0, 2))
    single, double = (outcome(rows, bars, max_epochs=2, precision=name) for name in ("float32", "float64"))
    assert np.allclose(single[0]["weights"].values[0, 0], double[0]["weights"].values[0, 0])
    assert single[0]["id"].item() != double[0]["id"].item()


def test_batches_of_one_image_train(bars):
    rows = space.sample("nws_small", 2, seed=3, dataset="digits", batch_size=32)
    rows["batch_size"][:] = 1
    for one in outcome(rows, {"digits": stripes("digits", train=300)}, max_epochs=2).values():
        validate(one)
        assert one["status"].item() == "stopped"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: {"train_labels": one.train_labels.int()}, "needs uint8 images and an int64 label for each"),
        (lambda one: {"test_images": one.test_images[:0], "test_labels": one.test_labels[:0]}, "label for each"),
        (lambda one: {"train_images": one.train_images[:, :, :12]}, "is 16x12, but the design says image_size 16"),
        (lambda one: {"train_labels": one.train_labels.clamp(max=8)}, "0 training images of class 'bar 9'"),
    ],
)
def test_an_unsound_image_set_is_refused_before_training(bars, change, message):
    design = space.sample("nws_small", 2, seed=0, dataset="textures")
    with pytest.raises(ValueError, match=message):
        train(design, {"textures": replace(bars["textures"], **change(bars["textures"]))})


def test_a_status_line_that_is_not_wanted_is_not_touched(small_design, bars, tmp_path, monkeypatch):
    channel = tmp_path / "progress"
    channel.write_text("somebody else's")
    monkeypatch.setenv("NWS_PROGRESS", str(channel))
    outcome(small_design.isel(model=[0]), bars, max_epochs=1)
    assert channel.read_text() == "somebody else's"


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"precision": "float31"}, {}, "unknown precision 'float31'. Did you mean 'float32'"),
        ({"precision": "bfloat16"}, {}, "family 'cnn' have no mixed precision 'bfloat16'. Nearest: 'float32'"),
        ({"device": "cudaa"}, {}, "cudaa"),
        ({"max_epochs": 0}, {}, "at least 1, not 0"),
        ({"slots": 2.5}, {}, "slots must be a whole number, at least 1, not 2.5"),
        ({}, {"dataset": "glyphs"}, "needs the image set 'glyphs'"),
        ({}, {"dataset": "imagenet"}, "unknown image set 'imagenet'"),
        ({}, {"batch_size": 4096}, "batch_size 4096 is larger than an epoch of 'textures', which has 3"),
        ({}, {"optimizer": "adagrad"}, "unknown optimizer 'adagrad'"),
        ({}, {"image_size": 32}, "'textures' is 16x16, but the design says image_size 32"),
    ],
)
def test_bad_input_is_refused_before_training(bars, options, change, message):
    design = space.sample("nws_small", 2, seed=0, dataset="textures")
    for name, value in change.items():
        design[name] = ("model", np.full(2, value))
    with pytest.raises(ValueError, match=message):
        train(design, bars, **options)


def test_a_larger_set_of_images_changes_nothing_for_others(small_design, bars, population):
    only = small_design.where(small_design["dataset"] == "digits", drop=True)
    rows = small_design.sel(model=only["model"].values[:2])
    finished = outcome(rows, {**bars, "glyphs": stripes("glyphs")}, max_epochs=3)
    for number, one in finished.items():
        assert np.array_equal(one["weights"].values, population[number]["weights"].values)


def test_a_training_that_is_given_up_leaves_no_file_open(small_design, bars):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("needs /proc")
    training = train(small_design, bars, max_epochs=3, slots=8, progress=False)
    next(training)
    assert len(os.listdir("/proc/self/fd")) > before
    del training
    assert len(os.listdir("/proc/self/fd")) == before
