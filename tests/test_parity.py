"""Every implementation takes each step as the oracle does, in every setting, from the oracle's state.

Some steps are ill-conditioned, and no two programs agree on them. Under constant initialisation all outputs are alike,
so that no gradient reaches the layers below: the first step follows rounding, and Adam divides it by its own size. The
gradient of gamma before a ReLU and another batch norm is zero as long as the channels are alike, that of a dense bias
wherever its activation is straight. Pixels that are equally large share a pool. So a tensor that is further from the
oracle's may also differ as the oracle differs from itself, one ulp away; how many need that is bounded.
"""

import colorsys
import itertools
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import oracle
import pytest
import torch
import xarray as xr
from warp import warp

from nwslib import space
from nwslib.population import implementations, networks
from nwslib.population.lanes.crowd import Crowd
from nwslib.population.slots import Slots, bank, member, rows
from nwslib.snapshots.layout import Layout

pytestmark = pytest.mark.slow

VARIES = ("optimizer", "activation", "initialization", "augmentation")
CROWD, BATCH, STEPS = 16, 12, 100  # more than two epochs of the image sets in `bars`
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["lanes", "grouped", "im2col"])
SMALL = networks.cnn.layout(16, 3, 3, 2, 4, 32)
STARTS, FACTOR, SHAKE = 16, 100, 1e-3
#: Which of its two states each rule remembers.
REMEMBERED = {"adam": (True, True), "rmsprop": (False, True), "momentum": (True, False)}


@dataclass
class Course:
    """What the oracle makes of some networks, step by step."""

    layout: Layout
    rows: list[dict]
    batches: list[oracle.Batches]
    states: list[oracle.State]  # before each step, and after the last
    known: dict = field(default_factory=dict)

    def sensitivity(self, places: list[int], t: int, dtype: str) -> np.ndarray:
        """Give how far step t of some networks, computed in a type, lies from itself one ulp away: (m, 3, tensors).

        Sixteen times weights start an ulp away and each layer rounds otherwise; the largest distance counts.
        """
        missing = [k for k in places if (k, t, dtype) not in self.known]
        if missing:
            again = np.repeat(missing, STARTS)
            some = ([self.rows[k] for k in again], [self.batches[k] for k in again])
            weights, *memory = (part[again] for part in self.states[t])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(t)
                start = (nudged(weights, dtype, seed=t), *memory)
                result = oracle.Population(self.layout, *some, dtype, ulps=1).step(start, t)
            apart = distances(self.layout, result, [part[again] for part in self.states[t + 1]])
            apart = apart.reshape(len(missing), STARTS, *apart.shape[1:]).max(1)
            self.known |= {(k, t, dtype): own for k, own in zip(missing, apart, strict=True)}
        return np.stack([self.known[k, t, dtype] for k in places])


def nudged(weights: np.ndarray, dtype: str, seed: int) -> np.ndarray:
    """Move each weight by one ulp of a type, up or down."""
    signs = np.random.default_rng(seed).choice([-1, 1], weights.shape)
    return weights + signs * np.spacing(weights.astype(dtype)).astype(float)


def distances(layout: Layout, ours: oracle.State, theirs: oracle.State) -> np.ndarray:
    """Give the norm of the difference of each tensor in weights and optimiser state: (m, 3, tensors)."""
    apart = np.stack([one.astype(float) - other for one, other in zip(ours, theirs, strict=True)], 1)
    return np.sqrt(np.add.reduceat(apart**2, [layout.slices[tensor.name].start for tensor in layout.tensors], -1))


def course_of(layout: Layout, rows: list[dict], bars, steps: int) -> Course:
    """Let the oracle train networks."""
    batches = batches_of(layout, rows, bars, steps)
    population = oracle.Population(layout, rows, batches)
    states = [population.start()]
    for t in range(steps):
        states.append(population.step(states[t], t))
    return Course(layout, rows, batches, states)


def batches_of(layout: Layout, rows: list[dict], bars, steps: int) -> list[oracle.Batches]:
    units = networks.cnn.hidden_units(layout)
    return [
        oracle.switching(row, bars, units, steps)
        if "switch_epoch" in row
        else oracle.batches(row, bars[row["dataset"]], units, steps)
        for row in rows
    ]


def every_setting(design: xr.Dataset) -> list[dict]:
    """Give rows each optimiser x activation x initialisation x augmentation: of 96, sixteen by sixteen well mixed."""
    sizes = [len(space.VOCABULARY[name]) for name in VARIES]
    optimizer, activation, initialization, augmentation = (axis.flatten() for axis in np.indices(sizes))
    # So each crowd has every pair of activation and initialisation once.
    crowd = (2 * optimizer + augmentation + activation + initialization) % 6
    order = np.argsort(crowd, kind="stable")[:: len(crowd) // design.sizes["model"]][: design.sizes["model"]]
    settings = list(itertools.product(*(space.VOCABULARY[name] for name in VARIES)))
    for name, values in zip(VARIES, zip(*(settings[k] for k in order), strict=True), strict=True):
        design[name] = ("model", np.array(values))
    return rows(design)


def crowd_rows(number: int, bars) -> list[dict]:
    # Rates are small: chaos would hide how far free trainings stray.
    design = space.sample("nws_small", 96, seed=1, dataset=sorted(bars), learning_rate=[0.0002, 0.001])
    design["batch_size"][:] = BATCH
    return every_setting(design)[number * CROWD :][:CROWD]


@pytest.fixture(scope="module", params=range(6))
def course(request, bars) -> Course:
    return course_of(SMALL, crowd_rows(request.param, bars), bars, STEPS)


class Crew:
    """Networks in one implementation, in the order of their rows."""

    def __init__(self, implementation: str, layout: Layout, rows: list[dict], bars, dtype: str = "float64") -> None:
        images, batch = bank(bars, torch.device("cpu")), rows[0]["batch_size"]
        if implementation == "lanes":
            self.crowd = Crowd(layout, batch, images, getattr(torch, dtype))
        else:
            stacked = implementations.STACKED[implementation]
            self.crowd = Slots(layout, batch, images, getattr(torch, dtype), implementation=stacked)
        self.crowd.arrange([member(row, images) for row in rows])
        self.places = [[one.row for one in self.crowd.members].index(row) for row in rows]

    def load(self, state: oracle.State) -> None:
        for place, *parts in zip(self.places, *state, strict=True):
            self.crowd.load(place, *parts)

    def step(self) -> oracle.State:
        turning = [place for place, one in enumerate(self.crowd.members) if one.step == 0 and one.changes]
        if turning:
            self.crowd.switch(turning)
        for place, one in enumerate(self.crowd.members):
            if one.step == 0:
                self.crowd.start_epoch(place)
        self.crowd.step()
        return tuple(map(np.stack, zip(*(self.crowd.state(place) for place in self.places), strict=True)))


def compare(crew: Crew, course: Course, dtype: str, bound: float, steps: Collection[int]) -> float:
    """Take steps from the oracle's states and compare every tensor; give the share that only its condition excuses."""
    checked = excused = 0
    for t in range(max(steps) + 1):
        crew.load(course.states[t])
        ours, theirs = crew.step(), course.states[t + 1]
        if t not in steps:
            continue
        has = held(course, t)
        gaps = distances(course.layout, ours, theirs)
        far = has & ~(gaps <= bound * distances(course.layout, theirs, np.zeros_like(theirs)))
        places = np.flatnonzero(far.any((1, 2))).tolist()
        if places:
            allowed = FACTOR * course.sensitivity(places, t, dtype)
            wrong = far[places] & ~(gaps[places] <= allowed)
            assert not wrong.any(), "\n".join(described(course, t, places, gaps, allowed, wrong))
        checked, excused = checked + has.sum(), excused + far.sum()
    return excused / checked


def held(course: Course, t: int) -> np.ndarray:
    """Say what a network has after step t: every weight, and what its optimiser remembers of those that it trains.

    Shape (m, 3, tensors).
    """
    trained = np.array([tensor.kind not in oracle.MOVING for tensor in course.layout.tensors])
    every = np.ones_like(trained)
    rules = [one.optimizers[t] for one in course.batches]
    return np.array([[every, *(trained & one for one in REMEMBERED[rule])] for rule in rules])


def described(course, t, places, gaps, allowed, wrong):
    for k, part, tensor in np.argwhere(wrong):
        row, name = course.rows[places[k]], course.layout.tensors[tensor].name
        setting, what = " ".join(row[name] for name in VARIES), ("weights", "a", "v")[part]
        gap, most = gaps[places[k], part, tensor], allowed[k, part, tensor]
        yield f"step {t}, {setting}: {name}, {what}: {gap:.2g} from the oracle, at most {most:.2g}"


@IMPLEMENTATIONS
def test_every_step_agrees_with_the_oracle_in_every_setting(implementation, course, bars):
    crew = Crew(implementation, course.layout, course.rows, bars)
    assert compare(crew, course, "float64", bound=1e-9, steps=range(STEPS)) < 0.005


@IMPLEMENTATIONS
def test_single_precision_agrees_with_the_oracle_in_every_setting(implementation, course, bars):
    crew = Crew(implementation, course.layout, course.rows, bars, "float32")
    assert compare(crew, course, "float32", bound=1e-4, steps=[0]) < 0.2


@pytest.fixture(scope="module", params=range(6))
def free(request, bars):
    """Rows, a start, the oracle's weights after each step from there, and how far one ulp at the start takes them.

    The start lies a little beside the drawn one, where no two units are alike and no unit is exactly at its kink: there
    the course depends on a sign that is zero but for rounding, and no bound on the distance holds.
    """
    mine, generator = crowd_rows(request.param, bars), np.random.default_rng(request.param)
    batches = batches_of(SMALL, mine, bars, STEPS)
    start = oracle.Population(SMALL, mine, batches).start()
    start[0][:] += generator.uniform(-SHAKE, SHAKE, start[0].shape) * moved_by_rule(SMALL)
    state = tuple(np.concatenate([part] * 3) for part in start)
    state[0][CROWD:] = nudged(state[0][CROWD:], "float64", seed=request.param)
    population = oracle.Population(SMALL, 3 * mine, 3 * batches, ulps=[0] * CROWD + [1] * 2 * CROWD)
    weights, drift = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.param)
        for t in range(STEPS):
            state = population.step(state, t)
            weights.append(state[0][:CROWD])
            apart = state[0][CROWD:].reshape(2, CROWD, -1) - weights[t]
            drift.append(np.linalg.norm(apart, axis=-1).max(0))
    return mine, start, weights, drift


def moved_by_rule(layout: Layout) -> np.ndarray:
    """Say which weights an optimiser moves: no statistic, and no bias in front of a batch norm, (w,)."""
    still = [t.kind in oracle.MOVING or (t.part, t.kind) == ("convolution", "bias") for t in layout.tensors]
    return ~np.repeat(still, [tensor.size for tensor in layout.tensors])


@IMPLEMENTATIONS
def test_a_free_training_strays_no_further_than_the_oracle_from_itself(implementation, free, bars):
    mine, start, weights, drift = free
    crew = Crew(implementation, SMALL, mine, bars)
    crew.load(start)
    for t in range(STEPS if implementation == "lanes" else STEPS // 4):
        ratio = np.linalg.norm(crew.step()[0] - weights[t], axis=1) / drift[t]
        assert (ratio <= FACTOR).all(), (t, ratio)


@pytest.fixture(scope="module")
def deep_course(bars) -> Course:
    design = space.sample("nws_main", 5, seed=2, image_size=16, dataset=sorted(bars))
    for name, value in {"batch_size": 7, "width_conv": 3, "width_fc": 21, "depth_conv": 5, "filter_size": 5}.items():
        design[name][:] = value
    design["depth_fc"][:] = 4
    return course_of(networks.cnn.layout(16, 5, 5, 4, 3, 21), every_setting(design), bars, 20)


@IMPLEMENTATIONS
@pytest.mark.parametrize(("dtype", "bound", "steps"), [("float64", 1e-9, range(20)), ("float32", 1e-4, [0])])
def test_deep_networks_of_odd_shapes_agree_with_the_oracle(implementation, deep_course, bars, dtype, bound, steps):
    crew = Crew(implementation, deep_course.layout, deep_course.rows, bars, dtype)
    assert compare(crew, deep_course, dtype, bound, steps) < 0.3


def test_the_oracle_s_geometry_agrees_with_a_warp_written_pixel_by_pixel():
    generator = np.random.default_rng(0)
    images = generator.random((6, 16, 16, 3))
    names = ("shift_x", "shift_y", "rotation", "zoom", "shear_x", "shear_y")
    draw = np.array([generator.uniform(*oracle.RANGES[name], len(images)) for name in names])
    theirs = [
        warp(image, **dict(zip(names, values, strict=True))) for image, values in zip(images, draw.T, strict=True)
    ]
    assert oracle.warped(images, *draw[..., None, None]) == pytest.approx(np.stack(theirs), abs=1e-13)


def test_the_oracle_turns_colours_as_colorsys():
    generator = np.random.default_rng(0)
    images, hue, saturation = (
        generator.random((4, 5, 5, 3)),
        generator.uniform(-0.08, 0.08),
        generator.uniform(0.3, 1.5),
    )
    for before, after in zip(images.reshape(-1, 3), oracle.turned(images, hue, saturation).reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), v), abs=1e-13)
