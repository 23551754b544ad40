"""The change of the weights in the last step before each snapshot, against networks that are trained step by step."""

import json
import os
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
import torch
from bars import stripes

from nwslib import snapshots, space
from nwslib.population import draws, implementations, loop, networks, train
from nwslib.population.lanes.crowd import Crowd
from nwslib.population.slots import Sent, Slots, bank, member, rows

LAYOUT = networks.cnn.layout(16, 3, 3, 2, 4, 32)
DIMS = ("model", "snapshot", "weight")


def designed(networks, **fixed):
    return space.sample("nws_small", networks, seed=5, **{"dataset": ["digits", "textures"], "batch_size": 32, **fixed})


@pytest.fixture(scope="module")
def design():
    return designed(16)


def outcome(design, bars, **given):
    """Train a design, with updates unless told otherwise, and give the finished networks by their number."""
    training = train(design, bars, **{"updates": True, "max_epochs": 3, "progress": False, **given})
    return {int(one["model"][0]): one for one in training}


@pytest.fixture(scope="module")
def population(design, bars):
    return outcome(design, bars, slots=16)


def identical(one, other, without=("seconds",)):
    return all(one[name].variable.equals(other[name].variable) for name in set(one.variables) - set(without))


def snapshots_of(exports):
    """Give the exports that become the twenty snapshots, counted from 0."""
    return np.round(np.linspace(1, exports, 20)).astype(int) - 1


def step_by_step(row, bars, epochs, implementation="lanes", dtype=torch.float32):
    """Train one network alone, each step by itself, and give the change of its weights before each evaluation."""
    images = bank(bars, torch.device("cpu"))
    if implementation == "lanes":
        crowd = Crowd(LAYOUT, row["batch_size"], images, dtype)
    else:
        stacked = implementations.STACKED[implementation]
        crowd = Slots(LAYOUT, row["batch_size"], images, dtype, implementation=stacked)
    one = member(row, images)
    crowd.arrange([one])
    changes = [np.zeros(LAYOUT.size)]
    while one.epoch + 1 < epochs:
        if one.step == 0:
            crowd.start_epoch(0)
        before = crowd.state(0)[0]
        crowd.step()
        if one.step == 0:
            changes.append(crowd.state(0)[0] - before)
    return np.stack(changes).astype(np.float32)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("implementation", ["lanes", "grouped"])
def test_updates_are_what_the_last_step_before_each_snapshot_changed(bars, implementation, precision):
    design = designed(5, activation=["tanh", "elu"])
    lengths = {len(bars[name].train_images) for name in set(design["dataset"].values.tolist())}
    assert len(lengths) == 2  # so epochs differ, too
    finished = outcome(design, bars, max_epochs=4, slots=4, implementation=implementation, precision=precision)
    for row in rows(design):
        changes = step_by_step(row, bars, 4, implementation, getattr(torch, precision))
        updates = finished[row["model"]]["updates"]
        assert (updates.dims, updates.dtype) == (DIMS, np.float32)
        assert np.array_equal(updates.values[0], changes[snapshots_of(4)]), row


def test_updates_agree_with_the_oracle(bars):
    design = designed(3, initialization="glorot_uniform", decay=0.5)
    design["optimizer"] = ("model", np.array(["adam", "rmsprop", "momentum"]))
    finished = outcome(design, bars, precision="float64")
    for row in rows(design):
        inside, _ = draws.split(row["seed"], len(bars[row["dataset"]].train_images))
        steps = draws.balanced_count(bars[row["dataset"]].train_labels[inside]) // row["batch_size"]
        batches = oracle.batches(row, bars[row["dataset"]], networks.cnn.hidden_units(LAYOUT), 2 * steps)
        alone = oracle.Population(LAYOUT, [row], [batches])
        state = alone.start()
        for t in range(2 * steps):
            before, state = state, alone.step(state, t)
        change = state[0][0] - before[0][0]
        assert finished[row["model"]]["updates"].values[0, -1] == pytest.approx(change, rel=1e-4, abs=1e-7), row
        assert np.abs(change).max() > 1e-4


def test_the_update_of_each_of_many_exports_is_its_own(bars):
    design = designed(1, dataset="digits", batch_size=64)
    (one,) = outcome(design, bars, max_epochs=25).values()
    exports = one["n_exports"].item()
    assert exports > 20
    changes = step_by_step(rows(design)[0], bars, exports)
    assert np.array_equal(one["updates"].values[0], changes[snapshots_of(exports)])


def test_where_an_epoch_is_one_step_updates_are_differences_of_exports(bars):
    (one,) = outcome(designed(1, dataset="digits", batch_size=256), bars, max_epochs=20).values()
    assert one["steps"].item() == 19
    weights, updates = one["weights"].values[0], one["updates"].values[0]
    assert np.array_equal(updates[1:], np.diff(weights, axis=0))
    assert updates[1:].any(axis=1).all()


def test_nothing_has_changed_before_the_first_step_and_statistics_move_with_every_step(population):
    for one in population.values():
        begun = one["epoch"].values[0] > 0
        assert begun.tolist() == [False] * 5 + [True] * 15
        updates = one["updates"].values[0]
        assert not updates[~begun].any()
        for name in ("conv1.mean", "conv1.variance", "conv1.kernel"):
            assert updates[begun][:, LAYOUT.slices[name]].any(axis=1).all(), name


def test_snapshots_of_the_same_export_have_the_same_update(population):
    for one in population.values():
        updates, epochs = one["updates"].values[0], one["epoch"].values[0]
        assert len(np.unique(updates, axis=0)) == len(np.unique(epochs)) == 3
        for epoch in range(3):
            assert (updates[epochs == epoch] == updates[epochs == epoch][0]).all()


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_updates_are_the_same_for_any_number_of_slots(design, bars, population, slots):
    for number, one in outcome(design.isel(model=slice(0, 6)), bars, slots=slots).items():
        assert identical(one, population[number]), number


@pytest.mark.parametrize("implementation", ["lanes", "grouped"])
def test_updates_are_the_same_in_any_company(design, bars, population, implementation):
    shuffled = design.isel(model=np.random.default_rng(0).permutation(16))
    others = outcome(shuffled, bars, slots=12, implementation=implementation)
    ours = population if implementation == "lanes" else outcome(design, bars, slots=16, implementation="grouped")
    assert all(identical(one, ours[number]) for number, one in others.items())


def test_updates_are_kept_on_request_and_change_nothing_else(design, bars, population):
    plain = outcome(design, bars, slots=16, updates=False)
    (default,) = train(design.isel(model=[0]), bars, max_epochs=3, progress=False)
    assert "updates" not in default
    for number, one in population.items():
        assert set(one.variables) == {*plain[number].variables, "updates"}
        assert identical(one, plain[number], without=("seconds", "updates"))


def test_parameters_tell_whether_updates_were_kept_and_ids_do_not(design, bars, population):
    (plain,) = outcome(design.isel(model=[0]), bars, updates=False).values()
    kept, default = (json.loads(one.attrs["parameters"]) for one in (population[0], plain))
    assert kept == default | {"updates": True}
    assert "updates" not in default
    assert population[0]["id"].item() == plain["id"].item()


def test_a_population_with_updates_is_stored_and_goes_on(design, bars, population, tmp_path):
    for part in (slice(0, 7), slice(None)):
        left = snapshots.remaining(design.isel(model=part), tmp_path)
        snapshots.write(tmp_path, train(left, bars, max_epochs=3, slots=4, updates=True, progress=False))
    snapshots.verify(tmp_path)
    assert json.loads(snapshots.open_population(tmp_path).attrs["parameters"])["updates"] is True
    (node,) = snapshots.open_population(tmp_path).children.values()
    assert node.sizes["model"] == 16
    for number, one in population.items():
        stored = node["updates"].sel(model=number)
        assert np.array_equal(stored, one["updates"].values[0]), number


def test_a_folder_does_not_mix_networks_with_and_without_updates(design, bars, tmp_path):
    snapshots.write(tmp_path, train(design.isel(model=[0]), bars, max_epochs=1, progress=False))
    more = train(design.isel(model=[1]), bars, max_epochs=1, progress=False, updates=True)
    with pytest.raises(ValueError, match="were trained with updates = None, these with True"):
        snapshots.write(tmp_path, more)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_network_that_diverges_keeps_what_changed_and_disturbs_nobody(design, bars, precision):
    some = design.isel(model=slice(0, 3))
    wild = some.copy(deep=True)
    wild["learning_rate"][0], wild["optimizer"][0] = 1e200, "momentum"
    calm, stormy = (outcome(each, bars, precision=precision) for each in (some, wild))
    assert stormy[0]["status"].item() == "diverged"
    assert not np.isfinite(stormy[0]["updates"].values[0, -1]).all()
    assert not stormy[0]["updates"].values[0, 0].any()
    assert all(identical(stormy[number], calm[number]) for number in (1, 2))


def test_an_update_beyond_single_precision_is_infinite_and_no_warning(bars):
    design = designed(1, dataset="digits", batch_size=256, learning_rate=1e200, optimizer="momentum")
    (one,) = outcome(design, bars, precision="float64").values()
    assert (one["status"].item(), one["steps"].item()) == ("diverged", 1)
    weights, updates = one["weights"].values[0, -1], one["updates"].values[0, -1]
    assert np.isinf(updates).any()
    assert np.array_equal(np.isinf(updates), np.isinf(weights))


def test_networks_that_are_begun_again_have_the_same_updates(design, bars, population):
    training = train(design, bars, max_epochs=3, slots=4, updates=True, progress=False)
    first = [next(training) for _ in range(5)]
    training.close()
    left = design.isel(model=~np.isin(design["model"], [one["model"].item() for one in first]))
    finished = {one["model"].item(): one for one in first} | outcome(left, bars, slots=3)
    assert sorted(finished) == sorted(population)
    assert all(identical(one, population[number]) for number, one in finished.items())


def test_a_crowd_without_memory_starts_again_with_the_same_updates(monkeypatch, design, bars, population):
    step, calls = Slots.step, []
    expected = outcome(design.isel(model=slice(0, 4)), bars, implementation="grouped")

    def sometimes(crowd):
        calls.append(len(crowd.members))
        if len(calls) == 15:
            raise MemoryError
        step(crowd)

    monkeypatch.setattr(Slots, "step", sometimes)
    finished = outcome(design.isel(model=slice(0, 4)), bars, implementation="grouped", slots=4)
    assert {*calls} >= {4, 2}
    assert all(identical(one, expected[number]) for number, one in finished.items())


def test_updates_of_a_network_in_training_lie_on_the_disk(monkeypatch, bars):
    close, seen = loop.Record.close, []

    def note(record):
        if not record.exports.closed:
            seen.append((os.fstat(record.exports.fileno()).st_size, len(record.curves["test_accuracy"]), record.before))
        close(record)

    monkeypatch.setattr(loop.Record, "close", note)
    outcome(designed(2, dataset="digits"), bars, max_epochs=7)
    assert seen == [(7 * 2 * 4 * LAYOUT.size, 7, None)] * 2


def test_a_go_ends_before_the_last_step_of_an_epoch_and_after_it(bars):
    images = bank(bars, torch.device("cpu"))
    crowd = Crowd(LAYOUT, 32, images, torch.float32)
    crowd.arrange([member(row, images, updates=True) for row in rows(designed(6))])
    lengths = [one.steps_per_epoch for one in crowd.members]
    assert len(set(lengths)) == 2
    ends = []
    while crowd.members[0].epoch < 2:
        for place, one in enumerate(crowd.members):
            if one.step == 0:
                crowd.start_epoch(place)
        crowd._steps = 100
        crowd.advance()
        ends.append(crowd.members[0].steps)
    short, long = sorted(set(lengths))
    looks = {k * n + part for n in (short, long) for k in range(1, 3) for part in (-1, 0)}
    assert ends == sorted(end for end in looks if end <= 2 * lengths[0])


def test_vectors_on_their_way_from_a_device_are_not_read_before_they_have_arrived():
    earlier, later = torch.zeros(2, 3), torch.zeros(2, 3)
    arrivals = [
        SimpleNamespace(synchronize=lambda: earlier.fill_(1)),
        SimpleNamespace(synchronize=lambda: later.fill_(5)),
    ]
    before, after = (Sent(host, arrived) for host, arrived in zip((earlier, later), arrivals, strict=True))
    assert after[1].minus(before[0]).tolist() == [4, 4, 4]


def test_workers_of_a_cluster_keep_updates(design, bars, population):
    cluster = pytest.importorskip("nwslib.population.cluster")
    (one,) = cluster.train(design.isel(model=[3]), bars, max_epochs=3, device="cpu", updates=True, progress=False)
    assert identical(one, population[3])


@pytest.mark.parametrize("updates", [True, False])
def test_a_network_that_failed_on_a_cluster_has_the_variables_of_the_others(design, bars, updates):
    cluster = pytest.importorskip("nwslib.population.cluster")
    training = train(design.isel(model=[0]), bars, max_epochs=1, updates=updates, progress=False)
    plan = SimpleNamespace(
        parameters=training.parameters, implementation=training.implementation, facts={"device": "cpu"}
    )
    (one,) = training
    failed = cluster._failed(rows(design)[0], plan, "for a test")
    assert set(failed.variables) == set(one.variables)
    assert not updates or np.isnan(failed["updates"].values).all()
    assert not updates or failed["updates"].dims == DIMS


def test_updates_are_wanted_or_not():
    with pytest.raises(ValueError, match="updates must be True or False, not 'no'"):
        train(designed(1, dataset="digits"), {"digits": stripes("digits")}, updates="no")
