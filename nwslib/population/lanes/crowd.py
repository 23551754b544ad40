"""A crowd: up to sixteen networks of one architecture and batch size that one processor core trains side by side."""

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import torch

from nwslib.population import draws, optimizers
from nwslib.population.lanes import plan, program
from nwslib.population.slots import Bank, Member, Sent, Stopped, switched
from nwslib.snapshots.layout import Layout

#: Seconds between two looks at whether to go on, about.
MOMENT = 0.1

_OPTIMIZERS = tuple(optimizers.RULES)


@dataclass(eq=False)
class Crowd:
    """Networks in training and their stacked state, with the same face as `nwslib.population.slots.Slots`.

    The results are those of each network alone: nothing that a network computes depends on how many others there are.
    """

    layout: Layout
    batch: int
    images: Bank
    dtype: torch.dtype
    options: frozenset[str] = frozenset()
    stop: threading.Event = field(default_factory=threading.Event)
    members: list[Member] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._type = np.dtype(str(self.dtype).removeprefix("torch."))
        self._order = plan.lane_order(self.layout)
        pixels = self.images.images
        self._size = pixels.shape[1]
        flat = (pixels.flatten(1), self.images.labels, self.images.noise)
        self._images = program.Images(*(tensor.numpy() for tensor in flat))
        self._evaluations: dict[int, program.State] = {}
        self._steps = 1

    def arrange(self, members: list[Member]) -> None:
        """Take these networks and no others: who stays keeps its state, who joins starts at its beginning.

        Parameters
        ----------
        members
            At least one.
        """
        leaving = {id(one): self._taken_out(k) for k, one in enumerate(self.members)}
        self.members = members
        self._state = plan.state(
            self.layout, self._size, self.batch, plan.lanes_for(len(members)), self._type, self.options
        )
        self._orders = np.zeros((len(members), max(one.steps_per_epoch for one in members) * self.batch), np.int64)
        for k, one in enumerate(members):
            if id(one) in leaving:
                self._put_in(k, *leaving[id(one)])
            else:
                self._start(k, one)
            self._describe(self._state, k, one)
        self._evaluations = {self._state.m: self._state}

    def _start(self, place: int, one: Member) -> None:
        weights = draws.initial_weights(self.layout, one.row["seed"], one.row["initialization"]).numpy()
        start_v = optimizers.RULES[one.row["optimizer"]].start_v
        self.load(place, weights, np.zeros(len(weights)), np.full(len(weights), start_v))

    def _taken_out(self, place: int) -> tuple[np.ndarray, ...]:
        state = self._state
        columns = [_columns(flat, self.layout, state.m)[:, place].copy() for flat in (state.weights, state.a, state.v)]
        return *columns, self._orders[place], state.lanes[place].copy()

    def _put_in(
        self, place: int, weights: np.ndarray, a: np.ndarray, v: np.ndarray, order: np.ndarray, lane: np.void
    ) -> None:
        state = self._state
        for flat, column in zip((state.weights, state.a, state.v), (weights, a, v), strict=True):
            _columns(flat, self.layout, state.m)[:, place] = column
        length = min(len(order), self._orders.shape[1])
        self._orders[place, :length] = order[:length]
        state.lanes[place] = lane

    def _describe(self, state: program.State, place: int, one: Member) -> None:
        """Write down what the compiled program needs to know of a network."""
        row, lane = one.row, state.lanes[place]
        about = {
            "seed": row["seed"],
            "epoch": one.epoch,
            "step": one.step,
            "done": one.optimizer_steps,
            "augmented": row["augmentation"] == "on",
            "colourful": not self.images.grey[row["dataset"]],
            "optimizer": _OPTIMIZERS.index(row["optimizer"]),
            "rate": row["learning_rate"],
            "decay": row["decay"],
        }
        for name, value in about.items():
            lane[name] = value
        kind = plan.ACTIVATIONS.index(row["activation"])
        state.kinds[place :: state.m] = kind
        state.present[kind] = True

    def state(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give a network's weights and the two states of its optimiser.

        Returns
        -------
        tuple of numpy.ndarray
            Each of shape (w,), float64, in the order of the layout.
        """
        flat = (self._state.weights, self._state.a, self._state.v)
        return tuple(self._released(one, [place])[0].astype(np.float64) for one in flat)

    def load(self, place: int, weights: np.ndarray, a: np.ndarray, v: np.ndarray) -> None:
        """Set what `state` gives."""
        state = self._state
        for flat, vector in zip((state.weights, state.a, state.v), (weights, a, v), strict=True):
            _columns(flat, self.layout, state.m)[:, place] = vector[self._order]

    def vectors(self, places: list[int]) -> np.ndarray:
        """Give the weights of some networks, shape (places, w), float32, in the order of the layout."""
        return self.send(places).numpy()

    def send(self, places: list[int]) -> Sent:
        """Give the weights of some networks, as `nwslib.population.slots.Slots.send` does."""
        return Sent(torch.from_numpy(self._released(self._state.weights, places)))

    def _released(self, flat: np.ndarray, places: list[int]) -> np.ndarray:
        vectors = np.empty((len(places), self.layout.size), flat.dtype)
        vectors[:, self._order] = _columns(flat, self.layout, self._state.m)[:, places].T
        return vectors

    def switch(self, places: list[int]) -> None:
        """Let networks that stand at the start of an epoch change course, as `nwslib.population.slots.Slots.switch`."""
        state = self._state
        for place in places:
            one = self.members[place]
            if "optimizer" in one.changes:
                start_v = optimizers.RULES[one.changes["optimizer"]].start_v
                for flat, start in ((state.a, 0), (state.v, start_v)):
                    _columns(flat, self.layout, state.m)[:, place] = start
            self.members[place] = switched(one, self.images)
            self._describe(state, place, self.members[place])
        longest = max(one.steps_per_epoch for one in self.members) * self.batch
        self._orders = np.pad(self._orders, ((0, 0), (0, max(0, longest - self._orders.shape[1]))))

    def start_epoch(self, place: int) -> None:
        """Draw the order of a network's next epoch."""
        one, lane = self.members[place], self._state.lanes[place]
        order = draws.epoch_order(one.row["seed"], one.epoch, one.labels)[: one.steps_per_epoch * self.batch]
        self._orders[place, : len(order)] = one.train[order].numpy()
        lane["epoch"], lane["step"], lane["correct"], lane["loss"] = one.epoch, 0, 0, 0

    def step(self) -> None:
        """Take one optimiser step with every network."""
        self._run(1)

    def advance(self) -> None:
        """Train on for a moment: some steps, unless a network must be looked at before."""
        start, steps = time.perf_counter(), min(self._steps, *(one.ahead for one in self.members))
        self._run(steps)
        self._steps = max(1, min(256, int(MOMENT * steps / (time.perf_counter() - start))))

    def _run(self, steps: int) -> None:
        per_batch = "colour_per_batch" in self.options
        program.run(self._state, self._images, self._orders, len(self.members), steps, self.batch, per_batch)
        for one in self.members:
            one.step += steps
            if one.step == one.steps_per_epoch:
                one.epoch, one.step = one.epoch + 1, 0

    def sums(self, places: list[int]) -> list[tuple[int, float]]:
        """Give how many images of their last epoch networks recognised, and their losses summed over the steps."""
        lanes = self._state.lanes
        return [(int(lanes["correct"][place]), float(lanes["loss"][place])) for place in places]

    def evaluate(self, places: list[int]) -> tuple[list[float], list[float]]:
        """Measure accuracy with stored statistics, on images as they are.

        Parameters
        ----------
        places
            Networks to evaluate, ascending.

        Returns
        -------
        tuple of list of float
            Validation and test accuracy of each.
        """
        members = [self.members[place] for place in places]
        lists = [[self._filled(part.numpy()) for part in (one.valid, one.test)] for one in members]
        index = np.zeros((len(lists), max(len(valid) + len(test) for valid, test in lists)), np.int64)
        for k, parts in enumerate(lists):
            joined = np.concatenate(parts)
            index[k, : len(joined)] = joined
        state = self._evaluated(places)
        for k, one in enumerate(members):
            state.lanes["epoch"][k] = one.epoch
        right = np.zeros((index.shape[1], state.m), np.bool_)
        options = ("batch_statistics" in self.options, "augmented_evaluation" in self.options)
        for start in range(0, index.shape[1], self.batch):
            if self.stop.is_set():
                raise Stopped
            step = start // self.batch
            end = start + self.batch
            program.evaluate(state, self._images, index[:, start:end], right[start:end], step, *options)
        valid, test = [], []
        for k, (one, (first, _)) in enumerate(zip(members, lists, strict=True)):
            valid.append(float(right[: len(one.valid), k].mean()))
            test.append(float(right[len(first) : len(first) + len(one.test), k].mean()))
        return valid, test

    def _filled(self, index: np.ndarray) -> np.ndarray:
        """Fill the last batch up with the first images, where statistics of a batch count, so that all are whole."""
        if "batch_statistics" not in self.options:
            return index
        return np.resize(index, -(-len(index) // self.batch) * self.batch)

    def _evaluated(self, places: list[int]) -> program.State:
        """Give buffers that hold just these networks: a few that are due need not wait for the width of all."""
        m = plan.lanes_for(len(places))
        if len(places) == len(self.members):
            return self._state
        if m not in self._evaluations or m == self._state.m:
            self._evaluations[m] = plan.state(self.layout, self._size, self.batch, m, self._type, self.options)
        state = self._evaluations[m]
        _columns(state.weights, self.layout, m)[:, : len(places)] = _columns(
            self._state.weights, self.layout, self._state.m
        )[:, places]
        state.present[:] = False
        for k, place in enumerate(places):
            self._describe(state, k, self.members[place])
        return state


def _columns(flat: np.ndarray, layout: Layout, m: int) -> np.ndarray:
    """View a flat buffer as (w, m)."""
    return flat[: layout.size * m].reshape(layout.size, m)
