"""Networks that change course in mid-training: as their twins until then, as the oracle after it."""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
import torch
import xarray as xr
from bars import stripes
from test_parity import Crew, compare, course_of

from nwslib import snapshots, space
from nwslib.population import draws, images, networks, train
from nwslib.population.loop import CURVES
from nwslib.population.slots import Slots, bank, member, rows
from nwslib.population.train import PROTOCOL_VERSION, identity
from nwslib.snapshots import merging
from nwslib.snapshots.schema import validate

LAYOUT = networks.cnn.layout(16, 3, 3, 2, 4, 32)
EPOCH, EPOCHS = 2, 5
OTHER = {
    "dataset": {"digits": "textures", "textures": "digits"},
    "augmentation": {"off": "on", "on": "off"},
    "optimizer": {"adam": "momentum", "momentum": "rmsprop", "rmsprop": "adam"},
    "learning_rate": 0.0017,
}
SLOW = pytest.mark.slow
STACKED = pytest.mark.parametrize("implementation", ["lanes", "grouped"])


def designed(networks, **fixed):
    return space.sample("nws_small", networks, seed=5, **{"dataset": ["digits", "textures"], "batch_size": 32, **fixed})


def outcome(design, bars, **options):
    """Train a design and give the finished networks by their number."""
    training = train(design, bars, **{"max_epochs": EPOCHS, "progress": False, **options})
    return {int(one["model"][0]): one for one in training}


def identical(one, other, without=()):
    names = (set(one.variables) | set(other.variables)) - {"seconds", *without}
    return all(name in one and name in other and one[name].variable.equals(other[name].variable) for name in names)


@pytest.fixture(scope="module")
def plain_design():
    return designed(12)


@pytest.fixture(scope="module")
def design(plain_design):
    """Everything changes, at several times."""
    return space.switch(plain_design, [1 + k % 3 for k in range(12)], **OTHER)


@pytest.fixture(scope="module")
def plain(plain_design, bars):
    return {name: outcome(plain_design, bars, implementation=name, slots=12) for name in ("lanes", "grouped")}


@pytest.fixture(scope="module")
def population(design, bars):
    return outcome(design, bars, slots=12)


def moments_of(one):
    """Give the weights at the first snapshot of each epoch."""
    epochs = one["epoch"].values[0]
    return [one["weights"].values[0, epochs.tolist().index(epoch)] for epoch in range(epochs[-1] + 1)]


@STACKED
@pytest.mark.parametrize("name", OTHER)
def test_a_network_is_its_twin_until_it_changes_course_and_another_after_it(
    plain_design, plain, bars, implementation, name
):
    some = plain_design.isel(model=slice(0, 6))
    switched = outcome(space.switch(some, EPOCH, **{name: OTHER[name]}), bars, implementation=implementation)
    for number, one in switched.items():
        twin = plain[implementation][number]
        same = [np.array_equal(*pair) for pair in zip(moments_of(one), moments_of(twin), strict=True)]
        assert same == [epoch <= EPOCH for epoch in range(EPOCHS)], number
        for curve in CURVES:
            ours, theirs = (each[f"curve_{curve}"].values[0, : EPOCH + 1] for each in (one, twin))
            assert np.array_equal(ours, theirs, equal_nan=True), curve


@STACKED
def test_a_network_whose_values_stay_is_bit_equal_to_its_twin(plain_design, plain, bars, implementation):
    after = {name: plain_design[name].values for name in OTHER}
    controls = space.switch(plain_design, EPOCH, **after)
    controls["dataset_after"][3] = OTHER["dataset"][controls["dataset"].item(3)]  # in the company of one that changes
    ids = set()
    for number, one in outcome(controls, bars, implementation=implementation, slots=5).items():
        twin = plain[implementation][number]
        assert identical(one, twin, without={"id", *space.SWITCH_COLUMNS}) == (number != 3)
        ids |= {one["id"].item(), twin["id"].item()}
    assert len(ids) == 24


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_networks_are_the_same_for_any_number_of_slots(design, bars, population, slots):
    for number, one in outcome(design.isel(model=slice(0, 6)), bars, slots=slots).items():
        assert identical(one, population[number]), number


@STACKED
def test_networks_are_the_same_in_any_company(plain_design, design, bars, population, implementation):
    mixed = xr.concat([design, design.assign(switch_epoch=("model", np.full(12, 3)))], "model", combine_attrs="drop")
    mixed = mixed.drop_vars("shard").assign_coords(model=np.arange(24)).isel(model=[13, 4, 9, 16, 1, 22, 7, 10])
    others = outcome(mixed, bars, slots=4, implementation=implementation)
    ours = population if implementation == "lanes" else outcome(design, bars, slots=12, implementation="grouped")
    seen = [number for number, one in others.items() if number < 12 and identical(one, ours[number], ("shard",))]
    assert sorted(seen) == [1, 4, 7, 9, 10]


def test_a_crowd_without_memory_starts_again_with_the_same_networks(monkeypatch, design, bars):
    switch, calls = Slots.switch, []
    some = design.isel(model=slice(0, 4))
    expected = outcome(some, bars, implementation="grouped")

    def sometimes(crowd, places):
        calls.append(len(crowd.members))
        switch(crowd, places)
        if len(calls) == 2:
            raise MemoryError

    monkeypatch.setattr(Slots, "switch", sometimes)
    finished = outcome(some, bars, implementation="grouped", slots=4)
    assert {*calls} >= {4, 2}
    assert all(identical(one, expected[number]) for number, one in finished.items())


def test_updates_are_those_of_the_network_that_changed_course(bars):
    design = space.switch(designed(3, batch_size=256), EPOCH, **{name: OTHER[name] for name in OTHER})
    for one in outcome(design, bars, updates=True, max_epochs=20).values():
        assert one["steps"].item() == 19  # an epoch is a step
        assert np.array_equal(one["updates"].values[0, 1:], np.diff(one["weights"].values[0], axis=0))


@STACKED
def test_an_epoch_of_other_images_may_be_longer_than_all_before(bars, implementation):
    design = space.switch(designed(3, dataset="digits"), EPOCH, dataset="textures")
    finished = outcome(design, bars, implementation=implementation)
    for row in rows(design):
        short, long = (oracle.steps_of(each, bars[each["dataset"]]) for each in (row, oracle.afterwards(row)))
        assert short < long
        assert finished[row["model"]]["steps"].item() == EPOCH * short + (EPOCHS - 1 - EPOCH) * long


def test_what_is_stored_is_the_row_of_the_design(design, population):
    for row in rows(design):
        one = population[row["model"]]
        validate(one)
        assert {name: one[name].item() for name in row} == row


@pytest.mark.parametrize(
    "implementation", ["lanes", *(pytest.param(name, marks=SLOW) for name in ("grouped", "im2col"))]
)
def test_whole_trainings_agree_with_the_oracle(implementation, bars):
    design = designed(6, batch_size=64, initialization="glorot_uniform", decay=0.5, activation=["tanh", "elu", "relu"])
    design["optimizer"] = ("model", np.array(["adam", "adam", "rmsprop", "rmsprop", "momentum", "momentum"]))
    design = space.switch(design, [1, 2, 1, 2, 1, 2], **OTHER)
    design["optimizer_after"][1] = "adam"  # which goes on in its count of steps, on other images
    finished = outcome(design, bars, max_epochs=4, slots=4, precision="float64", implementation=implementation)
    for row in rows(design):
        one = finished[row["model"]]
        curves, weights, steps = train_by_oracle(row, bars, epochs=4)
        assert one["steps"].item() == steps
        for name in CURVES:
            assert one[f"curve_{name}"].values[0] == pytest.approx(curves[name], rel=1e-5, nan_ok=True), (name, row)
        assert one["weights"].values[0, -1] == pytest.approx(weights, rel=1e-4, abs=1e-5), row


def train_by_oracle(row, bars, epochs):
    """Train one network alone in float64, everything from its seed; give curves, final weights and steps."""
    now = [row if epoch < row["switch_epoch"] else oracle.afterwards(row) for epoch in range(epochs)]
    lengths = [oracle.steps_of(each, bars[each["dataset"]]) for each in now[:-1]]
    batches = oracle.switching(row, bars, networks.cnn.hidden_units(LAYOUT), sum(lengths))
    population, curves = oracle.Population(LAYOUT, [row], [batches]), {name: [] for name in CURVES}
    state, seen, t = population.start(), [(np.nan, np.nan)], 0
    for epoch, steps in enumerate([*lengths, 0]):
        # An evaluation belongs to the epoch that it follows.
        valid, test = accuracies(row, state[0][0], bars[now[max(0, epoch - 1)]["dataset"]])
        loss, right = np.mean(seen, axis=0)
        for name, value in zip(CURVES, (right, valid, test, loss), strict=True):
            curves[name].append(value)
        seen = []
        for _ in range(steps):
            seen.append([value.item() for value in population.look(state[0], t)])
            state, t = population.step(state, t), t + 1
    return curves, state[0][0], t


def accuracies(row, weights, sets):
    """Measure a network on its validation images of a set, and on the set's test images."""
    _, outside = draws.split(row["seed"], len(sets.train_images))
    module = networks.to_module(LAYOUT, torch.from_numpy(weights), activation=row["activation"])
    halves = ((sets.train_images[outside], sets.train_labels[outside]), (sets.test_images, sets.test_labels))
    with torch.no_grad():
        return [
            (module(part.permute(0, 3, 1, 2).double() / 255).argmax(1) == labels).double().mean().item()
            for part, labels in halves
        ]


@pytest.fixture(scope="module")
def course(bars):
    """Networks under the oracle through a switch of everything: each pair of optimisers, augmented before or after."""
    design = designed(12, learning_rate=[0.0002, 0.001], initialization=["glorot_uniform", "glorot_normal"], decay=0.7)
    rules = list(space.VOCABULARY["optimizer"])
    pairs = [(one, other) for one in rules for other in rules]
    design["optimizer"] = ("model", np.array([pairs[k % 9][0] for k in range(12)]))
    design["augmentation"] = ("model", np.array(["off", "on"] * 6))
    after = {name: OTHER[name] for name in ("augmentation", "dataset")}
    after["optimizer"] = [pairs[k % 9][1] for k in range(12)]
    after["learning_rate"] = [0.0003 + 0.0001 * k for k in range(12)]
    design = space.switch(design, [1, 2] * 6, **after)
    for name in ("dataset", "learning_rate", "augmentation"):  # one of them changes nothing else
        keep = 9 + space.SWITCHABLE.index(name) % 3
        design[f"{name}_after"][keep] = design[name].item(keep)
    return course_of(LAYOUT, rows(design), bars, 40)


@pytest.mark.parametrize("implementation", ["lanes", "grouped", "im2col"])
def test_every_step_agrees_with_the_oracle_through_the_switch(implementation, course, bars):
    crew = Crew(implementation, LAYOUT, course.rows, bars)
    assert compare(crew, course, "float64", bound=1e-9, steps=range(40)) < 0.005
    assert all(one.row["switch_epoch"] <= one.epoch and not one.changes for one in crew.crowd.members)


def test_an_id_names_how_a_network_changes_course_and_only_then(design, plain_design):
    parameters = {"precision": "float32", "images": {"digits": "v1", "textures": "v2"}}
    before, row = rows(plain_design)[0], rows(design)[0]
    names = {*space.PROPERTIES, *space.CONSTANTS, "seed"}
    fields = {name: before[name] for name in names} | parameters | {"protocol": PROTOCOL_VERSION}
    fields["images"] = parameters["images"][before["dataset"]]
    told = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
    assert identity(before, parameters) == told
    ids = [told, identity(row, parameters)]
    ids += [identity(row | {name: 2 * row[name]}, twice(parameters)) for name in space.SWITCH_COLUMNS]
    for name in ("digits", "textures"):  # the version of either set
        ids.append(identity(row, parameters | {"images": parameters["images"] | {name: "v3"}}))
    assert len(set(ids)) == len(ids)


def twice(parameters):
    return parameters | {"images": parameters["images"] | {2 * name: "v1" for name in parameters["images"]}}


def test_a_network_that_stops_before_its_switch_never_changes(bars):
    slow = designed(1, dataset="digits", batch_size=256, learning_rate=1e-9, activation="elu")
    one, twin = (outcome(each, bars, max_epochs=90)[0] for each in (space.switch(slow, 80, learning_rate=1.0), slow))
    assert one["status"].item() == "converged"
    assert one["n_exports"].item() <= 80
    assert identical(one, twin, without={"id", *space.SWITCH_COLUMNS})


def test_a_network_that_diverges_by_its_switch_disturbs_nobody(design, bars, population):
    wild = design.isel(model=slice(0, 3)).copy(deep=True)
    wild["learning_rate_after"][0], wild["optimizer_after"][0] = 1e30, "momentum"
    finished = outcome(wild, bars)
    assert (finished[0]["status"].item(), finished[0]["n_exports"].item()) == ("diverged", 3)
    assert all(identical(finished[number], population[number]) for number in (1, 2))


def test_a_population_is_stored_and_goes_on(design, bars, population, tmp_path):
    for part in (slice(0, 5), slice(None)):
        left = snapshots.remaining(design.isel(model=part), tmp_path)
        snapshots.write(tmp_path, train(left, bars, max_epochs=EPOCHS, slots=4, progress=False))
    snapshots.verify(tmp_path)
    assert snapshots.remaining(design, tmp_path).sizes["model"] == 0
    table = snapshots.table(tmp_path)
    (node,) = snapshots.open_population(tmp_path).children.values()
    for name in space.SWITCH_COLUMNS:
        assert table[name].values.tolist() == node[name].values.tolist() == design[name].values.tolist()
    for number, one in population.items():
        assert np.array_equal(node["weights"].sel(model=number), one["weights"].values[0]), number


def test_populations_that_change_course_merge(design, bars, tmp_path):
    for name, part in (("a", slice(0, 2)), ("b", slice(2, 4))):
        snapshots.write(tmp_path / name, train(design.isel(model=part), bars, max_epochs=EPOCHS, progress=False))
    assert merging.merge(tmp_path / "both", [tmp_path / "a", tmp_path / "b"]) == 4
    assert snapshots.remaining(design.isel(model=slice(0, 4)), tmp_path / "both").sizes["model"] == 0
    snapshots.verify(tmp_path / "both")


@pytest.mark.parametrize("switching_first", [True, False])
def test_a_folder_does_not_mix_courses(design, plain_design, bars, tmp_path, switching_first):
    one, other = (design, plain_design) if switching_first else (plain_design, design)
    snapshots.write(tmp_path, train(one.isel(model=[0]), bars, max_epochs=EPOCHS, progress=False))
    with pytest.raises(ValueError, match=r"holds another design: its row 0 is another network\. Choose another folder"):
        snapshots.remaining(other, tmp_path)
    more = train(other.isel(model=[1]), bars, max_epochs=EPOCHS, progress=False)
    with pytest.raises(ValueError, match=r"have properties .*, this one has .*Choose another folder"):
        snapshots.write(tmp_path, more)


def test_image_sets_for_afterwards_are_given_too(design):
    only = space.switch(designed(2, dataset="digits"), 3, dataset="glyphs")
    assert space.image_sets(only) == list(images.for_design(only, train_images=300, test_images=50))
    assert space.image_sets(design) == ["digits", "textures"]


def short_of_a_class():
    one = stripes("glyphs")
    return replace(one, train_labels=one.train_labels.clamp(max=8))


@pytest.mark.parametrize(
    ("after", "sets", "options", "message"),
    [
        ({"dataset": "glyphs"}, {}, {}, "the design needs the image set 'glyphs'"),
        ({"dataset": "glyphs"}, {"glyphs": stripes("glyphs", size=32)}, {}, "'glyphs' is 32x32, but the design says"),
        ({"dataset": "glyphs"}, {"glyphs": short_of_a_class()}, {}, "has 0 training images of class 'bar 9'"),
        ({"dataset": "glyphs"}, {"glyphs": stripes("glyphs", train=250)}, {}, "larger than an epoch of 'glyphs'"),
        ({"optimizer": "adam"}, {}, {"max_epochs": 4}, "switch_epoch 3 is never trained, since 4 .* Needed are 5"),
    ],
)
def test_what_can_not_be_trained_after_the_switch_is_refused_before_training(bars, after, sets, options, message):
    design = space.switch(designed(2, batch_size=256, optimizer="momentum"), 3, **after)
    with pytest.raises(ValueError, match=message):
        train(design, bars | sets, **options)


def test_a_cluster_trains_the_same_networks(design, bars, population):
    cluster = pytest.importorskip("nwslib.population.cluster")
    digits = {"digits": bars["digits"]}
    lacking = space.switch(designed(1, dataset="digits"), 2, dataset="textures")
    with pytest.raises(ValueError, match="needs the image set 'textures'"):  # known before a scheduler is looked for
        cluster.train(lacking, digits, client="tcp://[::1]:1")
    (one,) = cluster.train(design.isel(model=[3]), bars, max_epochs=EPOCHS, device="cpu", progress=False)
    assert identical(one, population[3])


def test_a_network_that_failed_on_a_cluster_says_how_it_was_to_change(design, population):
    cluster = pytest.importorskip("nwslib.population.cluster")
    parameters = json.loads(population[0].attrs["parameters"])
    plan = SimpleNamespace(parameters=parameters, implementation="lanes", facts={"device": "cpu"})
    failed = cluster._failed(rows(design)[0], plan, "for a test")
    assert set(failed.variables) == set(population[0].variables)
    assert failed["id"].item() == population[0]["id"].item()


def test_a_change_of_course_leaves_tensors_in_place_where_it_can(bars):
    """So that a step that was recorded on a CUDA device remains right."""
    pictures = bank(bars, torch.device("cpu"))
    design = space.switch(designed(4, dataset="textures", activation="tanh", augmentation="on"), 1, **OTHER)
    design["augmentation_after"][:] = "on"
    crowd = Slots(LAYOUT, 32, pictures, torch.float32)
    crowd.arrange([member(row, pictures) for row in rows(design)])
    names = ("weights", "a", "v", "orders", "epochs", "steps", "rates", "powers", "rules", "adam", "seeds", "lengths")
    before = {name: getattr(crowd, name).data_ptr() for name in names}
    while crowd.members[0].epoch < 1:
        for place, one in enumerate(crowd.members):
            if one.step == 0:
                crowd.start_epoch(place)
        crowd.step()
    crowd.switch([0, 1, 2, 3])
    assert {name: getattr(crowd, name).data_ptr() for name in names} == before
    assert crowd.lengths.tolist() == [one.steps_per_epoch for one in crowd.members]
