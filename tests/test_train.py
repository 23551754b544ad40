import itertools
import json
import os

import numpy as np
import oracle
import pytest
import torch
import xarray as xr
from bars import stripes

from nwslib import space
from nwslib.population import draws, networks, train
from nwslib.population.slots import Slots, bank, member, rows
from nwslib.snapshots.layout import Layout
from nwslib.snapshots.schema import validate

VARIES = ("optimizer", "activation", "initialization", "augmentation")


def every_setting(bars):
    """A design with each optimiser x activation x initialisation x augmentation once."""
    settings = list(itertools.product(*(space.VOCABULARY[name] for name in VARIES)))
    design = space.sample("nws_small", len(settings), seed=1, dataset=sorted(bars), batch_size=32)
    for name, values in zip(VARIES, zip(*settings, strict=True), strict=True):
        design[name] = ("model", np.array(values))
    return design


def crowd_of(design, bars, dtype):
    """Slots that hold every network of a design, at the start of their first epoch."""
    images = bank(bars, torch.device("cpu"))
    members = [member(row, images) for row in rows(design)]
    layout = networks.cnn.layout(16, 3, 3, 2, 4, 32)
    crowd = Slots(layout, members[0].row["batch_size"], images, dtype)
    crowd.arrange(members)
    for place in range(len(members)):
        crowd.start_epoch(place)
    return crowd


def oracle_step(crowd, place, before, batch):
    """Let the oracle take the step that the crowd is about to take, from a given state; give its weights after it."""
    one = crowd.members[place]
    network = oracle.Network(one.row, crowd.layout)
    network.load(before[0][place])
    states = {}
    for (name, parameter), tensor in zip(named(network), parameter_tensors(crowd.layout), strict=True):
        states[name] = tuple(shaped(state[place], crowd.layout, tensor, parameter) for state in before[1:])
    images, labels, mask = batch
    rate = one.row["learning_rate"] * one.row["decay"] ** one.epoch
    maps = images[:, :, :, place].permute(0, 3, 1, 2).double()
    oracle.step(network, maps, labels[place], mask[place].double(), states, rate, one.steps + 1)
    return network.vector()


def parameter_tensors(layout):
    return [t for t in layout.tensors if t.kind in ("kernel", "bias", "beta", "gamma")]


def named(network):
    """Parameters in the order of the layout, with their names."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [
        (names[id(target)], target) for tensor, target in network.targets() if tensor.kind not in ("mean", "variance")
    ]


def shaped(state, layout, tensor, parameter):
    values = state[layout.slices[tensor.name]].reshape(tensor.shape).double()
    if values.dim() == 4 and tensor.part == "dense":
        values = values.permute(0, 3, 1, 2)
    return values.reshape(parameter.shape).clone()


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound", "steps"), [(torch.float64, 1e-9, 6), (torch.float32, 1e-4, 1)])
def test_every_step_agrees_with_the_oracle_in_every_setting(bars, dtype, bound, steps):
    design = every_setting(bars)
    if dtype == torch.float32:  # Adam's first step is the sign of the gradient, which rounding may turn
        design = design.isel(model=np.flatnonzero(design["optimizer"] != "adam"))
    crowd = crowd_of(design, bars, dtype)
    for _ in range(steps):
        before = [state.clone() for state in (crowd.weights, crowd.a, crowd.v)]
        nudged = [before[0] * (1 + torch.finfo(dtype).eps * torch.randn(before[0].shape).sign()), *before[1:]]
        epochs, step, _ = crowd._counters()
        mask = draws.dropout_mask(crowd.seeds, epochs, step, crowd.batch, crowd.units)
        batch = (*crowd._batch(epochs, step), mask)
        places = range(len(crowd.members))
        expected = [oracle_step(crowd, k, before, batch) for k in places]
        backwards = (batch[0].flip(0), batch[1].flip(1), batch[2].flip(1))
        sensitive = [oracle_step(crowd, k, nudged, backwards) for k in places]
        crowd.step()
        for k in places:
            close(crowd.layout, crowd.weights[k].double(), expected[k], sensitive[k], bound, crowd.members[k].row)
            if crowd.members[k].step == 0:
                crowd.start_epoch(k)


def close(layout, ours, theirs, sensitive, bound, row):
    """Compare each tensor with the oracle's.

    The bound is relative to the tensor or, where that is smaller, to one step. Adam divides a gradient by its own size:
    where a true gradient is zero, as under constant initialisation, rounding decides its step. There the bound is 100
    times what one ulp in the start and another order of the images do to the oracle.
    """
    for tensor in layout.tensors:
        place = layout.slices[tensor.name]
        gap, own = (ours[place] - theirs[place]).norm(), (sensitive[place] - theirs[place]).norm()
        step = row["learning_rate"] * tensor.size**0.5
        allowed = max(bound * max(theirs[place].norm().item(), step), 100 * own.item())
        assert gap <= allowed, (tensor.name, float(gap), allowed, [row[name] for name in VARIES])


def outcome(design, bars, **options):
    """Train a design and give the finished networks by their number."""
    return {int(one.model[0]): one for one in train(design, bars, progress=False, **options)}


def identical(one, other):
    names = set(one.variables) - {"seconds"}
    return all(one[name].variable.equals(other[name].variable) for name in names)


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
    finished = outcome(design, bars, max_epochs=2)
    assert sorted(finished) == [0, 1, 2, 3, 4]
    for one in finished.values():
        validate(one)


def test_double_precision_is_the_same_protocol(small_design, bars):
    rows = small_design.isel(model=slice(0, 2))
    single, double = (outcome(rows, bars, max_epochs=2, precision=name) for name in ("float32", "float64"))
    assert np.allclose(single[0]["weights"].values[0, 0], double[0]["weights"].values[0, 0])
    assert single[0]["id"].item() != double[0]["id"].item()


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"precision": "float31"}, {}, "unknown precision 'float31'. Did you mean 'float32'"),
        ({"device": "cudaa"}, {}, "cudaa"),
        ({"max_epochs": 0}, {}, "at least 1, not 0"),
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
