import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
import xarray as xr

from nwslib import snapshots, space
from nwslib.population import implementations, networks, operators, train
from nwslib.population.implementations import capacity, choose, described, measured_lanes
from nwslib.population.lanes import plan, program
from nwslib.snapshots import schema

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DESIGN = space.sample("nws_small", 3, seed=0, dataset="digits", batch_size=32)
LAYOUT = networks.cnn.layout(16, 3, 3, 2, 4, 32)


def begun(known):
    return DESIGN.assign_attrs(implementation=json.dumps(known))


# Which.


def test_the_fastest_of_a_device_is_chosen_where_nothing_else_is_asked_for():
    assert choose("auto", CPU, DESIGN) == "lanes"
    assert choose("auto", CUDA, DESIGN) == "triton"
    assert choose("auto", CPU, DESIGN.assign(image_size=("model", [16, 16, 20]))) == "grouped"
    assert choose("grouped", CPU, DESIGN) == "grouped"


@pytest.mark.parametrize("name", implementations.NAMES)
def test_a_population_goes_on_as_it_was_begun(name):
    device = CUDA if name.startswith("triton") else CPU
    assert choose("auto", device, begun(described(name))) == name
    assert choose(name, device, begun(described(name))) == name
    other = "im2col" if name == "grouped" else "grouped"
    with pytest.raises(ValueError, match=f"begun with implementation '{name}', so '{other}' cannot go on with it"):
        choose(other, device, begun(described(name)))


@pytest.mark.parametrize(
    ("name", "device", "design", "message"),
    [
        ("groupd", CPU, DESIGN, r"unknown implementation 'groupd'\. Did you mean 'grouped'"),
        ("triton", CPU, DESIGN, r"'triton' needs a CUDA device, not cpu\. Use 'auto'"),
        ("lanes", CUDA, DESIGN, "'lanes' needs a CPU and image sizes that divide by 8, not cuda"),
        ("lanes", CPU, DESIGN.assign(image_size=("model", [20] * 3)), r"divide by 8, not cpu, \[20\]"),
        ("auto", CPU, begun({"convolution": "abacus"}), "an implementation that this version does not have.*abacus"),
        ("auto", CPU, begun(described("triton")), "'triton' needs a CUDA device"),
    ],
)
def test_what_cannot_compute_a_design_is_refused(name, device, design, message):
    with pytest.raises(ValueError, match=message):
        choose(name, device, design)


def test_every_implementation_is_described_part_by_part_and_no_two_alike():
    texts = [json.dumps(described(name), sort_keys=True) for name in implementations.NAMES]
    assert len(set(texts)) == len(texts)
    for name in implementations.NAMES:
        assert asdict(operators.Implementation()).keys() <= described(name).keys()
        assert set(map(type, described(name).values())) == {str}


# How many side by side.


def test_capacity_is_what_is_asked_for_in_all_crowds_together():
    row = {"image_size": 16, "batch_size": 32}
    ask = lambda name, crowds, networks, slots: capacity(name, LAYOUT, row, crowds, networks, slots)  # noqa: E731
    assert [ask("lanes", 2, 100, slots) for slots in (1, 2, 5, 100)] == [1, 1, 3, plan.LARGEST]
    assert [ask("grouped", 1, 100, slots) for slots in (1, 5, 200)] == [1, 5, 100]
    assert ask("lanes", 2, 5, 16) == 3  # as many as there are, divided among the crowds
    assert 1 <= ask("triton", 1, 7, None) <= 7
    assert ask("grouped", 1, 1000, None) == 64
    assert capacity("grouped", LAYOUT, row | {"batch_size": 4096}, 1, 1000) == 4


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """Where speeds are remembered; and rates that a test decides."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nwslib" / "lanes.json"


@pytest.fixture
def asked(monkeypatch):
    """A stopwatch that a test reads: eight lanes are the fastest."""
    asked = []

    def rate(layout, size, batch, m):
        asked.append(m)
        return {1: 1.0, 2: 3.0, 4: 5.0, 8: 7.0, 16: 6.0}[m]

    monkeypatch.setattr(implementations, "_rate", rate)
    return asked


def test_the_fastest_number_of_lanes_is_measured_once_and_remembered(memory, asked):
    assert measured_lanes(LAYOUT, 16, 32, 4) == 4
    assert asked == [1, 2, 4]
    assert measured_lanes(LAYOUT, 16, 32, 16) == 8
    assert asked == [1, 2, 4, 8, 16]
    assert measured_lanes(LAYOUT, 16, 32, 2) == 2
    assert len(asked) == 5
    assert measured_lanes(LAYOUT, 16, 64, 2) == 2  # another batch size
    assert measured_lanes(networks.cnn.layout(16, 5, 3, 2, 4, 32), 16, 32, 2) == 2
    assert asked[5:] == [1, 2, 1, 2]
    assert len(json.loads(memory.read_text())) == 3
    assert [path.name for path in memory.parent.iterdir()] == ["lanes.json"]


def test_one_network_needs_no_measurement(memory, asked):
    assert measured_lanes(LAYOUT, 16, 32, 1) == 1
    assert not asked
    assert not memory.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 3}', '{"a": {"1": "fast"}}', "\x00\xff"])
def test_a_broken_memory_is_measured_anew(memory, asked, text):
    memory.parent.mkdir(parents=True)
    memory.write_text(text)
    assert measured_lanes(LAYOUT, 16, 32, 4) == 4
    assert measured_lanes(LAYOUT, 16, 32, 4) == 4
    assert asked == [1, 2, 4]


def test_without_a_place_to_remember_every_training_measures(memory, asked):
    memory.parent.parent.write_text("a file where a folder should be")
    assert [measured_lanes(LAYOUT, 16, 32, 4) for _ in range(2)] == [4, 4]
    assert asked == [1, 2, 4] * 2


def test_without_a_home_every_training_measures(monkeypatch, asked):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(implementations.Path, "home", homeless)
    assert measured_lanes(LAYOUT, 16, 32, 4) == 4


def test_another_program_is_measured_anew(memory, asked, monkeypatch):
    measured_lanes(LAYOUT, 16, 32, 2)
    monkeypatch.setattr(implementations.arithmetic, "SOURCES", "0" * 64)
    measured_lanes(LAYOUT, 16, 32, 2)
    monkeypatch.setattr(implementations, "processor", lambda: "abacus")
    measured_lanes(LAYOUT, 16, 32, 2)
    assert asked == [1, 2] * 3


def test_rates_are_images_per_second_and_crowds_that_are_too_large_are_not_tried(monkeypatch):
    steps, times = [], iter(range(0, 100, 2))
    monkeypatch.setattr(program, "learn", lambda state, batch: steps.append((state.m, batch)))
    monkeypatch.setattr(implementations.time, "perf_counter", lambda: next(times))
    assert implementations._rate(LAYOUT, 16, 32, 4) == 4 * 32 / 2
    assert set(steps) == {(4, 32)}
    monkeypatch.setattr(implementations, "SEARCHED", 2**20)
    assert implementations._rate(LAYOUT, 16, 32, 4) == 0
    assert implementations._rate(LAYOUT, 16, 32, 1) > 0


def test_a_crowd_for_which_there_is_no_memory_is_not_taken(monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(plan, "state", no_memory)
    assert implementations._rate(LAYOUT, 16, 32, 2) == 0


def test_the_real_stopwatch_runs(memory):
    assert measured_lanes(LAYOUT, 16, 8, 2) in (1, 2)
    [rates] = json.loads(memory.read_text()).values()
    assert all(10 < rate < 1e7 for rate in rates.values())
    assert set(rates) == {"1", "2"}


# In a population.


def test_finished_networks_and_their_folder_say_what_computed_them(bars, tmp_path):
    for name in ("lanes", "grouped", "im2col"):
        training = train(DESIGN, bars, max_epochs=1, implementation=name, progress=False)
        assert training.implementation == name
        finished = list(training)
        assert all(json.loads(one.attrs["implementation"]) == described(name) for one in finished)
        snapshots.write(tmp_path / name, finished[:1])
        left = snapshots.remaining(DESIGN, tmp_path / name)
        assert train(left, bars, max_epochs=1, progress=False).implementation == name
        [node] = snapshots.open_population(tmp_path / name).children.values()
        assert json.loads(node.attrs["implementation"]) == described(name)
        schema.validate(finished[0])


def test_where_nothing_is_left_to_train_the_implementation_is_still_checked(bars, tmp_path):
    snapshots.write(tmp_path, train(DESIGN, bars, max_epochs=1, implementation="grouped", progress=False))
    left = snapshots.remaining(DESIGN, tmp_path)
    assert left.sizes["model"] == 0
    assert list(train(left, bars, max_epochs=1, progress=False)) == []
    with pytest.raises(ValueError, match="begun with implementation 'grouped', so 'lanes' cannot go on"):
        train(left, bars, implementation="lanes")


def test_implementations_agree_until_rounding_grows(bars):
    """One epoch in float64: the same draws, orders, augmentation and statistics, from other programs."""
    design = space.sample("nws_small", 4, seed=2, dataset=sorted(bars), batch_size=64, initialization="glorot_normal")
    design["optimizer"] = ("model", np.array(["momentum", "rmsprop", "momentum", "rmsprop"]))
    design["augmentation"] = ("model", np.array(["on", "on", "off", "off"]))
    lanes, grouped = (
        xr.concat(
            sorted(
                train(design, bars, max_epochs=2, precision="float64", implementation=name, progress=False),
                key=lambda one: one.model.item(),
            ),
            "model",
            combine_attrs="drop",
        )
        for name in ("lanes", "grouped")
    )
    assert np.array_equal(lanes["weights"][:, 0], grouped["weights"][:, 0])
    moved = np.abs(lanes["weights"][:, -1] - lanes["weights"][:, 0]).mean("weight")
    apart = np.abs(lanes["weights"][:, -1] - grouped["weights"][:, -1]).mean("weight")
    assert (apart < 1e-5 * moved).all()
    for name in ("curve_train_loss", "curve_valid_accuracy", "curve_test_accuracy", "curve_train_accuracy"):
        assert np.allclose(lanes[name], grouped[name], rtol=1e-5, equal_nan=True)


def test_threads_are_those_of_pytorch_for_lanes_alone():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert implementations.threads("lanes", CPU) == 3
        assert implementations.threads("grouped", CPU) == 1
        assert implementations.threads("triton", CUDA) == 1
    finally:
        torch.set_num_threads(before)
