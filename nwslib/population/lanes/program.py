"""The whole training step of a crowd of networks, compiled as one function that holds no lock of the interpreter."""

import math
from typing import NamedTuple

import numpy as np

from nwslib.population import draws
from nwslib.population.lanes import batches, layers
from nwslib.population.lanes.arithmetic import compiled, expm1, like, power

OUTPUTS = 20
PATTERN = 16

_LANE = """seed epoch step done augmented colourful optimizer correct"""

#: What the network in a lane is at the moment; `done` counts the steps of its optimiser.
LANE = np.dtype([*((name, np.int64) for name in _LANE.split()), *((n, np.float64) for n in ("rate", "decay", "loss"))])


class Images(NamedTuple):
    """Every image set in one array, and the bank of normal numbers."""

    pixels: np.ndarray  # uint8 (image, y * x * c)
    labels: np.ndarray  # int64 (image,)
    noise: np.ndarray  # float32


class State(NamedTuple):
    """A crowd of m networks: flat buffers, m innermost."""

    maps: np.ndarray  # layers.CONVOLUTION
    units: np.ndarray  # layers.DENSE
    work: np.ndarray
    choice: np.ndarray  # uint8: which of 2x2 pixels was the largest
    weights: np.ndarray
    gradient: np.ndarray
    a: np.ndarray  # the optimisers' two states
    v: np.ndarray
    dropout: np.ndarray  # (b, hidden, m), 0 or 2
    labels: np.ndarray  # (b, m)
    right: np.ndarray  # (b, m), bool
    lanes: np.ndarray  # LANE
    kinds: np.ndarray  # activation of each joint place
    present: np.ndarray  # bool, by activation: whether any network has it
    rules: np.ndarray  # the optimisers' coefficients
    hidden: int
    m: int
    biased: bool  # whether biases in front of a batch norm move by rounding noise


@compiled
def features(state, count, training):
    """Compute the convolutional part; normalise by the batch in training, else by the stored statistics."""
    work, weights, m = state.work, state.weights, state.m
    for number in range(len(state.maps)):
        layer = state.maps[number]
        joint = layer.outputs * m
        layers.convolve(layer, work, weights, count, m, state.biased)
        if training:
            layers.batch_statistics(work, layer.z, count * layer.size, layer.size, joint, layer.batch)
        else:
            layers.stored_statistics(layer, work, weights, m)
        layers.normalize_maps(layer, work, weights, state.choice, count, m)
        side, start, row = _output_rows(layer, joint)
        layers.activate(work, start, count * side, row, side, joint, state.kinds, state.present)


@compiled
def _output_rows(layer, joint):
    side = layer.size // 2 if layer.pooled else layer.size
    return side, layer.y + layer.y_margin * joint, (side + 2 * layer.y_margin) * joint


@compiled
def outputs(state, count, training, dropped):
    """Compute the dense part, up to the logits in the last layer's z."""
    work, weights, m = state.work, state.weights, state.m
    for number in range(len(state.units)):
        layer = state.units[number]
        joint = layer.outputs * m
        layers.dense(layer, work, weights, count, m)
        if number < len(state.units) - 1:
            layers.activate(work, layer.z, 1, 0, count, joint, state.kinds, state.present)
            if training:
                layers.batch_statistics(work, layer.z, count, 1, joint, layer.batch)
            else:
                layers.stored_statistics(layer, work, weights, m)
            layers.normalize_units(layer, work, weights, state.dropout, state.hidden, count, m, dropped)


@compiled
def backward(state, count):
    """Fill the gradient of every weight from the gradient of the logits."""
    work, weights, gradient, m = state.work, state.weights, state.gradient, state.m
    for number in range(len(state.units) - 1, -1, -1):
        layer = state.units[number]
        joint = layer.outputs * m
        if number < len(state.units) - 1:
            layers.normalize_units_backward(layer, work, weights, gradient, state.dropout, state.hidden, count, m)
            layers.activate_backward(work, layer.dz, layer.z, 1, 0, count, joint, state.kinds, state.present)
        layers.dense_backward(layer, work, weights, gradient, count, m)
    for number in range(len(state.maps) - 1, -1, -1):
        layer = state.maps[number]
        joint = layer.outputs * m
        side, y, row = _output_rows(layer, joint)
        layers.activate_backward(work, layer.dy, y, count * side, row, side, joint, state.kinds, state.present)
        layers.normalize_maps_backward(layer, work, weights, gradient, state.choice, count, m)
        layers.convolve_backward(layer, work, weights, gradient, count, m)
        if state.biased:
            layers.bias_gradient(layer, work, gradient, count, m)


@compiled
def cross_entropy(state, count):
    """Put the gradient of each network's mean loss into the last layer's dz, and add the loss to its lane."""
    work, m, layer = state.work, state.m, state.units[len(state.units) - 1]
    total = np.zeros(m)
    for b in range(count):
        z, dz = layer.z + b * OUTPUTS * m, layer.dz + b * OUTPUTS * m
        _centre(work, z, dz, m)
        for lane in range(m):
            # Of the logit, since the share of an unlikely class rounds to 0.
            total[lane] -= work[dz + state.labels[b, lane] * m + lane]
        _exponentiate(work, dz, OUTPUTS * m)
        for lane in range(m):
            label = dz + state.labels[b, lane] * m + lane
            share, whole = work[label], like(work[z], 0.0)
            for c in range(OUTPUTS):
                whole += work[dz + c * m + lane]
            total[lane] += math.log(np.float64(whole))
            for c in range(OUTPUTS):
                work[dz + c * m + lane] = work[dz + c * m + lane] / whole / count
            work[label] = (share / whole - like(share, 1.0)) / count
    for lane in range(m):
        state.lanes[lane].loss += total[lane] / count


@compiled
def _centre(work, z, dz, m):
    for lane in range(m):
        largest = work[z + lane]
        for c in range(1, OUTPUTS):
            value = work[z + c * m + lane]
            largest = value if value > largest else largest
        for c in range(OUTPUTS):
            work[dz + c * m + lane] = work[z + c * m + lane] - largest


@compiled
def _exponentiate(work, start, count):
    one = like(work[start], 1.0)
    for j in range(count):
        work[start + j] = expm1(work[start + j]) + one


@compiled
def mark_right(state, right, count):
    """Mark for each image and lane whether the largest logit is that of the label."""
    work, m, layer = state.work, state.m, state.units[len(state.units) - 1]
    for b in range(count):
        for lane in range(m):
            place = layer.z + b * OUTPUTS * m + lane
            best, largest = 0, work[place]
            for c in range(1, OUTPUTS):
                if work[place + c * m] > largest:
                    best, largest = c, work[place + c * m]
            right[b, lane] = best == state.labels[b, lane]


@compiled
def update(state):
    """Take each network's optimiser step: one formula, with the coefficients of its rule (see `optimizers`)."""
    weights, gradient, a, v, m = state.weights, state.gradient, state.a, state.v, state.m
    given = np.empty((7, PATTERN), weights.dtype)
    for k in range(PATTERN):
        lane = state.lanes[k % m]
        rate = lane.rate * power(lane.decay, lane.epoch)
        if lane.optimizer == 0:
            rate *= np.sqrt(1 - power(0.999, lane.done + 1)) / (1 - power(0.9, lane.done + 1))
        given[0, k] = rate
        for c in range(6):
            given[1 + c, k] = state.rules[lane.optimizer, c]
    for start in range(0, len(weights), PATTERN):
        for k in range(PATTERN):
            j = np.uint64(start + k)
            g = gradient[j]
            first = a[j] * given[1, k] + g * given[2, k]
            second = v[j] * given[3, k] + g * g * given[4, k]
            a[j], v[j] = first, second
            weights[j] -= given[0, k] * first / (np.sqrt(second + given[5, k]) + given[6, k])


@compiled
def load(state, images, orders, members, count, per_batch):
    """Prepare the next batch of every network: images, augmented where it says so, labels and dropout."""
    first, work, m = state.maps[0], state.work, state.m
    size, margin = first.size, first.filter // 2
    pixels = np.empty(size * size * 3, work.dtype)
    for k in range(members):
        lane = state.lanes[k]
        index = orders[k, lane.step * count : (lane.step + 1) * count]
        for b in range(count):
            state.labels[b, k] = images.labels[index[b]]
        if lane.augmented:
            batches.augment(
                images.pixels, index, lane.colourful, images.noise, lane.seed, lane.epoch, lane.step,
                draws.AUGMENTATION, per_batch, work, first.x, size, margin, k, m, pixels,
            )  # fmt: skip
        else:
            batches.gather(images.pixels, index, work, first.x, size, margin, k, m, pixels)
        batches.drop_out(state.dropout, lane.seed, lane.epoch, lane.step, count, state.hidden, k, m)


@compiled
def learn(state, count):
    """Take one optimiser step of every network on the batch that is loaded."""
    work, weights, m = state.work, state.weights, state.m
    features(state, count, True)
    # Accuracy of the batch before its step, with dropout off: the dense part runs twice.
    outputs(state, count, True, False)
    mark_right(state, state.right, count)
    for lane in range(m):
        for b in range(count):
            state.lanes[lane].correct += state.right[b, lane]
    outputs(state, count, True, True)
    cross_entropy(state, count)
    backward(state, count)
    for number in range(len(state.maps)):
        layers.move_statistics(state.maps[number], work, weights, m)
    for number in range(len(state.units) - 1):
        layers.move_statistics(state.units[number], work, weights, m)
    update(state)


@compiled
def run(state, images, orders, members, steps, count, per_batch):
    """Take several steps; no network may reach the end of its epoch before the last of them."""
    for _ in range(steps):
        load(state, images, orders, members, count, per_batch)
        learn(state, count)
        for lane in range(members):
            state.lanes[lane].step += 1
            state.lanes[lane].done += 1


@compiled
def evaluate(state, images, index, right, step, batch_statistics, augmented):
    """Mark which images of one batch, index (lane, b), are recognised, in right (b, m).

    With the stored statistics, or as an option those of the batch; `augmented` networks as an option on augmented
    images, with draws of their own.
    """
    first, m, found = state.maps[0], state.m, index.shape[1]
    size, margin = first.size, first.filter // 2
    pixels = np.empty(size * size * 3, state.work.dtype)
    for k in range(len(index)):
        lane, part = state.lanes[k], index[k]
        if augmented and lane.augmented:
            batches.augment(
                images.pixels, part, lane.colourful, images.noise, lane.seed, lane.epoch, step,
                draws.EVALUATION, False, state.work, first.x, size, margin, k, m, pixels,
            )  # fmt: skip
        else:
            batches.gather(images.pixels, part, state.work, first.x, size, margin, k, m, pixels)
        for b in range(found):
            state.labels[b, k] = images.labels[part[b]]
    features(state, found, batch_statistics)
    outputs(state, found, batch_statistics, False)
    mark_right(state, right, found)
