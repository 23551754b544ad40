"""Where everything is: the buffers of a crowd, laid out for one architecture, batch size and number of lanes."""

from collections.abc import Mapping
from dataclasses import astuple

import numpy as np

from nwslib.population import optimizers
from nwslib.population.lanes import layers, program
from nwslib.population.lanes.product import compiled, vector_width
from nwslib.population.networks import cnn
from nwslib.snapshots.layout import Layout, Tensor

ACTIVATIONS = layers.ACTIVATIONS
LARGEST = program.PATTERN


def lanes_for(networks: int) -> int:
    """Give the power of two that holds so many networks.

    Examples
    --------
    >>> lanes_for(5)
    8
    """
    return 1 << (networks - 1).bit_length()


def lane_order(layout: Layout) -> np.ndarray:
    """Give, for each place of a crowd's weight vector, the place of that weight in the layout.

    A crowd keeps kernels with the output channel innermost, ``ky kx i o``; the layout has it outermost.
    """
    places = np.arange(layout.size)
    for tensor in layout.tensors:
        part = places[layout.slices[tensor.name]].reshape(tensor.shape)
        if tensor.kind == "kernel":
            part = part.transpose(2, 3, 1, 0) if tensor.part == "convolution" else part.reshape(len(part), -1).T
            places[layout.slices[tensor.name]] = part.flatten()
    return places


class _Workspace:
    """Hands out places in a buffer yet to be made."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, count: int) -> int:
        start = self.size
        self.size += -(-count // 16) * 16  # buffers start on a cache line
        return start


def state(
    layout: Layout, size: int, batch: int, m: int, dtype: np.dtype, options: frozenset[str] = frozenset()
) -> program.State:
    """Make the buffers of a crowd.

    Parameters
    ----------
    layout, size, batch
        The architecture; the side of its images; images per network and step.
    m
        Lanes: a power of two, at most 16.
    dtype
        float32 or float64.
    options
        From `nwslib.population.train.OPTIONS`.

    Returns
    -------
    State
        All zero, with idle lanes.
    """
    work, choice = _Workspace(), _Workspace()
    maps = _convolutions(layout, size, batch, m, dtype, work, choice)
    units = _dense_layers(layout, batch, m, dtype, work, maps)
    hidden = cnn.hidden_units(layout)
    weights = -(-layout.size * m // program.PATTERN) * program.PATTERN
    longest = max(max(maps["outputs"]), max(units["outputs"])) * m
    lanes = np.zeros(m, program.LANE)
    lanes["decay"] = 1
    return program.State(
        maps.view(np.recarray),
        units.view(np.recarray),
        np.zeros(work.size, dtype),
        np.zeros(choice.size, np.uint8),
        *(np.zeros(weights, dtype) for _ in range(4)),
        np.zeros(batch * hidden * m, dtype),
        np.zeros((batch, m), np.int64),
        np.zeros((batch, m), np.bool_),
        lanes.view(np.recarray),
        np.zeros(longest, np.int8),
        np.zeros(len(ACTIVATIONS), np.bool_),
        np.array([astuple(rule)[:6] for rule in optimizers.RULES.values()]),
        hidden,
        m,
        "bias_noise" in options,
    )


def workspace_bytes(layout: Layout, size: int, batch: int, m: int, dtype: np.dtype) -> int:
    """Give the size of a crowd's largest buffer: feature maps and their gradients."""
    work = _Workspace()
    _dense_layers(layout, batch, m, dtype, work, _convolutions(layout, size, batch, m, dtype, work, _Workspace()))
    return work.size * dtype.itemsize


def _convolutions(
    layout: Layout, size: int, batch: int, m: int, dtype: np.dtype, work: _Workspace, choice: _Workspace
) -> np.ndarray:
    kernels = [t for t in layout.tensors if t.kind == "kernel" and t.part == "convolution"]
    blocks = [*cnn.blocks(len(kernels)), cnn.BLOCKS]
    maps = np.zeros(len(kernels), layers.CONVOLUTION)
    for number, kernel in enumerate(kernels):
        layer = maps[number]
        outputs, inputs, filter_size, _ = kernel.shape
        margin, pooled = filter_size // 2, blocks[number + 1] != blocks[number]
        side = size // 2 if pooled else size
        y_margin = margin if number + 1 < len(kernels) else 0
        _fill(
            layer, _places(layout, kernel), size=size, inputs=inputs, outputs=outputs, filter=filter_size, pooled=pooled
        )
        padded = (size + 2 * margin) * size * batch * m
        layer["x"] = work.take(padded * inputs) if number == 0 else maps[number - 1]["y"]
        layer["y"] = work.take((side + 2 * y_margin) * side * batch * outputs * m)
        _fill(
            layer, {}, y_margin=y_margin,
            z=work.take(size * size * batch * outputs * m),
            dz=work.take(padded * outputs),
            dx=-1 if number == 0 else maps[number - 1]["dy"],
            dy=work.take(side * side * batch * outputs * m),
            turned=work.take(kernel.size * m),
            choice=choice.take(side * side * batch * outputs * m if pooled else 0),
            batch=work.take(3 * outputs * m),
            **_products(inputs * m, outputs * m, m, dtype),
        )  # fmt: skip
        size = side
    return maps


def _dense_layers(
    layout: Layout, batch: int, m: int, dtype: np.dtype, work: _Workspace, maps: np.ndarray
) -> np.ndarray:
    kernels = [t for t in layout.tensors if t.kind == "kernel" and t.part == "dense"]
    units = np.zeros(len(kernels), layers.DENSE)
    x, dx, first_unit = maps[-1]["y"], maps[-1]["dy"], 0
    for number, kernel in enumerate(kernels):
        outputs, inputs = kernel.shape[0], kernel.size // kernel.shape[0]
        one = batch * outputs * m
        _fill(
            units[number], _places(layout, kernel), inputs=inputs, outputs=outputs, x=x, dx=dx, first_unit=first_unit,
            z=work.take(one), y=work.take(one), dz=work.take(one), dy=work.take(one),
            turned=work.take(kernel.size * m),
            batch=work.take(3 * outputs * m),
            **_products(inputs * m, outputs * m, m, dtype),
        )  # fmt: skip
        x, dx, first_unit = units[number]["y"], units[number]["dy"], first_unit + outputs
    return units


def _places(layout: Layout, kernel: Tensor) -> dict[str, int]:
    """Give where each tensor of a kernel's layer starts."""
    return {t.kind: layout.slices[t.name].start for t in layout.tensors if t.layer == kernel.layer}


def _products(inputs: int, outputs: int, m: int, dtype: np.dtype) -> dict[str, int]:
    """Compile what a layer needs: vectors along its outputs forward, along its inputs backward."""
    forward, back = vector_width(outputs, dtype), vector_width(inputs, dtype)
    return {
        "product": compiled(dtype, m, max(forward, m)),
        "vectors": outputs // max(forward, m),
        "back_product": compiled(dtype, m, max(back, m)),
        "back_vectors": inputs // max(back, m),
    }


def _fill(layer: np.void, places: Mapping[str, int], **values: int) -> None:
    for name, value in (*places.items(), *values.items()):
        layer[name] = value
