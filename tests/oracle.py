"""The study's networks trained by other code: batches pixel by pixel, an nn.Module, TensorFlow 1's updates written out.

Only words, splits, orders, masks and first weights are the library's, from `population.draws`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from nwslib.population import draws
from nwslib.population.images import ImageSet
from nwslib.snapshots.layout import Layout

#: Each function, and its slope from its value, as TensorFlow 1 computes it.
ACTIVATIONS = {
    "relu": (F.relu, lambda y: (y > 0).to(y.dtype)),
    "elu": (F.elu, lambda y: 1 + y.clamp(max=0)),
    "sigmoid": (torch.sigmoid, lambda y: y * (1 - y)),
    "tanh": (torch.tanh, lambda y: 1 - y**2),
}
POOLED = {3: (1, 2, 3), 4: (1, 2, 4), 5: (1, 3, 5)}  # convolutions in front of a pool, by depth

MOVING = ("mean", "variance")

TURN, SHEAR = math.pi / 12, math.pi / 60
RANGES = {
    "shift_x": (-3, 3), "shift_y": (-3, 3), "rotation": (-TURN, TURN), "zoom": (0.901, 1.099),
    "shear_x": (-SHEAR, SHEAR), "shear_y": (-SHEAR, SHEAR), "brightness": (-0.2, 0.2), "contrast": (0.5, 1.5),
    "hue": (-0.08, 0.08), "saturation": (0.3, 1.5), "noise": (0, 0.03),
}  # fmt: skip


Rounding = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batches:
    """What one network learns from, step by step."""

    images: Tensor  # (t, b, c, y, x)
    labels: Tensor  # (t, b)
    masks: Tensor  # (t, b, units of all hidden layers), 0 where dropped
    rates: np.ndarray  # (t,): learning rates, decay included
    optimizers: np.ndarray  # (t,): names
    ages: np.ndarray  # (t,): steps that the optimiser has behind it


def batches(row: Mapping[str, Any], images: ImageSet, units: int, steps: int, first: int = 0) -> Batches:
    """Give the batches of a network's first steps, or of those from an epoch on."""
    size, seed = row["batch_size"], row["seed"]
    inside, _ = draws.split(seed, len(images.train_images))
    labels = images.train_labels[inside]
    epoch_steps = steps_of(row, images)
    epochs, within = first + torch.arange(steps) // epoch_steps, torch.arange(steps) % epoch_steps
    every = range(first, int(epochs[-1]) + 1)
    orders = [draws.epoch_order(seed, epoch, labels)[: epoch_steps * size] for epoch in every]
    index = inside[torch.cat(orders)[: steps * size]]
    pixels = images.train_images[index].numpy() / 255
    seeds = torch.full((steps,), seed)
    if row["augmentation"] == "on":
        words = draws.words(seeds, draws.AUGMENTATION, epochs, within, (len(RANGES) + 1) * size)
        pixels = augmented(pixels, words.view(len(pixels), -1).numpy())
    maps = torch.from_numpy(pixels).view(steps, size, *pixels.shape[1:]).permute(0, 1, 4, 2, 3)
    masks = draws.dropout_mask(seeds, epochs, within, size, units).double()
    rates = row["learning_rate"] * row["decay"] ** epochs.numpy()
    labels = images.train_labels[index].view(steps, size)
    return Batches(maps.contiguous(), labels, masks, rates, np.full(steps, row["optimizer"]), np.arange(steps))


def steps_of(row: Mapping[str, Any], images: ImageSet) -> int:
    """Count the steps of an epoch."""
    inside, _ = draws.split(row["seed"], len(images.train_images))
    return draws.balanced_count(images.train_labels[inside]) // row["batch_size"]


def afterwards(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a row says of the time after its switch."""
    return row | {name.removesuffix("_after"): value for name, value in row.items() if name.endswith("_after")}


def switching(row: Mapping[str, Any], sets: Mapping[str, ImageSet], units: int, steps: int) -> Batches:
    """Give the batches of a network that changes course: those of two networks, one after the other."""
    after, epoch = afterwards(row), row["switch_epoch"]
    turn = epoch * steps_of(row, sets[row["dataset"]])
    one = batches(row, sets[row["dataset"]], units, turn)
    other = batches(after, sets[after["dataset"]], units, steps - turn, first=epoch)
    goes_on = row["optimizer"] == after["optimizer"]
    return Batches(
        *(torch.cat((getattr(one, name), getattr(other, name))) for name in ("images", "labels", "masks")),
        np.concatenate((one.rates, other.rates)),
        np.concatenate((one.optimizers, other.optimizers)),
        np.concatenate((one.ages, other.ages + turn * goes_on)),
    )


def augmented(images: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Augment images (b, y, x, c), each by its twelve words: geometry, colour, noise, clip."""
    shares = (words + 0.5) / 2**32
    draw = {name: np.float32(low + (high - low) * shares[:, k]) for k, (name, (low, high)) in enumerate(RANGES.items())}
    draw = {name: values.astype(float)[:, None, None] for name, values in draw.items()}
    noise = draw.pop("noise")[..., None]
    images = warped(images, *(draw[name] for name in list(RANGES)[:6])) + draw["brightness"][..., None]
    means = images.mean((1, 2), keepdims=True)
    images = turned(means + draw["contrast"][..., None] * (images - means), draw["hue"], draw["saturation"])
    bank, length = draws.noise_bank().numpy(), images[0].size
    starts = words[:, -1] % draws.NOISE_BANK
    images = images + noise * np.stack([bank[start:][:length].reshape(images[0].shape) for start in starts])
    return images.clip(0, 1)


def warped(
    images: np.ndarray,
    shift_x: np.ndarray,
    shift_y: np.ndarray,
    rotation: np.ndarray,
    zoom: np.ndarray,
    shear_x: np.ndarray,
    shear_y: np.ndarray,
) -> np.ndarray:
    """Sample images (b, y, x, c) bilinearly at rotation @ shear / zoom of each position, zeros outside."""
    size = images.shape[1]
    y, x = np.indices((1, size, size))[1:] - (size - 1) / 2
    sheared_x, sheared_y = (x + np.tan(shear_x) * y) / zoom, (y + np.tan(shear_y) * x) / zoom
    at_x = np.cos(rotation) * sheared_x - np.sin(rotation) * sheared_y + (size - 1) / 2 - shift_x * size / 32
    at_y = np.sin(rotation) * sheared_x + np.cos(rotation) * sheared_y + (size - 1) / 2 - shift_y * size / 32
    result, number = np.zeros(images.shape), np.arange(len(images))[:, None, None]
    for row in (np.floor(at_y), np.floor(at_y) + 1):
        for column in (np.floor(at_x), np.floor(at_x) + 1):
            share = (1 - abs(at_y - row)) * (1 - abs(at_x - column))
            share = np.where((row >= 0) & (row < size) & (column >= 0) & (column < size), share, 0)
            inside = (part.clip(0, size - 1).astype(int) for part in (row, column))
            result += share[..., None] * images[number, *inside]
    return result


def turned(images: np.ndarray, hue: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """Turn the hue and scale the saturation of images (b, y, x, 3), through hue, saturation, value and back."""
    red, green, blue = np.moveaxis(images, -1, 0)
    value, chroma = images.max(-1), np.ptp(images, -1)
    part = np.where(chroma > 0, chroma, 1)
    sextant = np.where(
        red == value, (green - blue) / part, np.where(green == value, 2 + (blue - red) / part, 4 + (red - green) / part)
    )
    angle = (sextant / 6 + hue) % 1 * 6
    strength = np.where(value > 0, chroma / np.where(value > 0, value, 1) * saturation, 0).clip(0, 1)
    number, rest = np.floor(angle).astype(int) % 6, angle - np.floor(angle)
    low, falling, rising = (value * (1 - strength * x) for x in (1, rest, 1 - rest))
    return np.stack(
        [
            np.choose(number, [value, falling, low, low, rising, value]),
            np.choose(number, [rising, value, value, falling, low, low]),
            np.choose(number, [low, low, rising, value, value, falling]),
        ],
        axis=-1,
    )


def activate(x: Tensor, kind: Tensor, rounded: Rounding) -> Tensor:
    """Apply the activation of this number: all are computed, one is taken."""
    y = rounded(sum(torch.where(kind == k, value(x), 0) for k, (value, _) in enumerate(ACTIVATIONS.values()))).detach()
    slopes = sum(torch.where(kind == k, slope(y), 0) for k, (_, slope) in enumerate(ACTIVATIONS.values()))
    return y + slopes * (x - x.detach())


class Layer(nn.Module):
    """A convolution or a dense layer, and its batch norm where it has one, under the names of the layout."""

    def __init__(self, tensors: Iterable) -> None:
        super().__init__()
        for tensor in tensors:
            values = torch.empty(tensor.shape)
            if tensor.kind in MOVING:
                self.register_buffer(tensor.kind, values)
            else:
                self.register_parameter(tensor.kind, nn.Parameter(values))

    def convolve(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, self.bias, padding=self.kernel.shape[-1] // 2)

    def multiply(self, x: Tensor) -> Tensor:
        return F.linear(x, self.kernel.flatten(1), self.bias)

    def normalize(self, x: Tensor, rounded: Rounding) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise by the batch; give its mean and biased variance too."""
        dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        mean = rounded(x.mean(dims))
        variance = rounded(((x - mean.detach().view(shape)) ** 2).mean(dims))  # it does not change with the mean
        x = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
        return x * self.gamma.view(shape) + self.beta.view(shape), mean.detach(), variance.detach()


class Network(nn.Module):
    """The study's network on images (b, c, y, x), in training mode."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        for name in dict.fromkeys(tensor.layer for tensor in layout.tensors):
            self.add_module(name, Layer(tensor for tensor in layout.tensors if tensor.layer == name))
        self.convolutions = [name for name, _ in self.named_children() if name.startswith("conv")]
        self.hidden = [name for name, _ in self.named_children() if name.startswith("dense")]

    def forward(self, x: Tensor, mask: Tensor, kind: Tensor, rounded: Rounding) -> tuple[Tensor, dict[str, Tensor]]:
        """Give logits, and each batch statistic under its tensor's name."""
        x = x + x.shape[-1] * (rounded(x) - x)  # where a pixel comes from rounds with the size of the image
        statistics, used = {}, 0
        for number, name in enumerate(self.convolutions, start=1):
            layer = self.get_submodule(name)
            x, *statistics[name] = layer.normalize(rounded(layer.convolve(x)), rounded)
            if number in POOLED[len(self.convolutions)]:
                x = F.max_pool2d(x, 2)  # before the activation: after it, a saturated one makes ties
            x = activate(x, kind, rounded)
        x = x.permute(0, 2, 3, 1).flatten(1)
        for name in self.hidden:
            layer = self.get_submodule(name)
            x, *statistics[name] = layer.normalize(activate(layer.multiply(x), kind, rounded), rounded)
            x = x * mask[:, used : used + x.shape[1]] / 0.5
            used += x.shape[1]
        named = {f"{n}.{kind}": x for n, both in statistics.items() for kind, x in zip(MOVING, both, strict=True)}
        return self.output.multiply(x), named


#: Weights and the two states of the optimiser, each (m, w).
State = tuple[np.ndarray, np.ndarray, np.ndarray]


class Population:
    """Networks of one layout, each with its row and its batches: one module, vectorised over their tensors."""

    def __init__(
        self,
        layout: Layout,
        rows: list[dict],
        batches: list[Batches],
        dtype: str = "float64",
        ulps: float | list[float] = 0,
    ) -> None:
        """Make networks that compute in a type, each with results of layers that are off by up to so many ulps."""
        self.layout, self.rows, self.batches, self.dtype = layout, rows, batches, dtype
        errors = np.broadcast_to(ulps, len(rows)) * np.finfo(dtype).eps
        self.errors = torch.from_numpy(errors.astype(dtype))
        self.network = Network(layout)
        self.kinds = torch.tensor([list(ACTIVATIONS).index(row["activation"]) for row in rows])

    def start(self) -> State:
        weights = [draws.initial_weights(self.layout, row["seed"], row["initialization"]) for row in self.rows]
        weights = torch.stack(weights).numpy()
        v = [np.full(self.layout.size, float(row["optimizer"] == "rmsprop")) for row in self.rows]
        return weights, np.zeros(weights.shape), np.stack(v)

    def step(self, state: State, t: int) -> State:
        """Take step t, counted from 0, from a state."""
        state = tuple(part.astype(self.dtype) for part in state)
        tensors = self._tensors(state[0])
        trained = {name: tensor.requires_grad_() for name, tensor in tensors.items() if not _moves(name)}
        logits, labels, statistics = self._logits(tensors, t)
        losses = vmap(F.cross_entropy)(logits, labels)
        gradients = dict(zip(trained, torch.autograd.grad(losses.sum(), list(trained.values())), strict=True))
        result = tuple(part.copy() for part in state)
        for tensor in self.layout.tensors:
            at = self.layout.slices[tensor.name]
            if _moves(tensor.name):
                result[0][:, at] = 0.9 * state[0][:, at] + 0.1 * statistics[tensor.name].numpy()
                continue
            gradient = gradients[tensor.name].flatten(1).numpy()
            if tensor.part == "convolution" and tensor.kind == "bias":
                gradient = np.zeros_like(gradient)  # its true value; autograd gives rounding noise
            for k, one in enumerate(self.batches):
                rule, age, (w, a, v) = one.optimizers[t], int(one.ages[t]), (part[k, at] for part in state)
                if age == 0:
                    a, v = np.zeros_like(a), np.full_like(v, rule == "rmsprop")
                updated = update(rule, gradient[k], w, a, v, float(one.rates[t]), age)
                for part, values in zip(result, updated, strict=True):
                    part[k, at] = values
        return result

    def look(self, weights: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the loss, and the accuracy with dropout off, of each network on the batch of step t."""
        with torch.no_grad():
            logits, labels, _ = self._logits(self._tensors(weights), t)
            plain = self._logits(self._tensors(weights), t, dropout=False)[0]
            right = (plain.argmax(-1) == labels).double().mean(1)
            return vmap(F.cross_entropy)(logits, labels).numpy(), right.numpy()

    def _tensors(self, weights: np.ndarray) -> dict[str, Tensor]:
        return {name: torch.tensor(part) for name, part in self.layout.split(weights).items()}

    def _logits(
        self, tensors: dict[str, Tensor], t: int, dropout: bool = True
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        exact = not self.errors.any()

        def forward(tensors, images, mask, kind, error):
            rounded = (lambda x: x) if exact else (lambda x: x * (1 + error * (2 * torch.rand_like(x) - 1)))
            return functional_call(self.network, tensors, (images, mask, kind, rounded))

        images, labels, masks = (
            torch.stack([getattr(one, name)[t] for one in self.batches]) for name in ("images", "labels", "masks")
        )
        images, masks = (part.to(tensors["output.bias"].dtype) for part in (images, masks))
        masks = masks if dropout else torch.full_like(masks, 0.5)
        logits, statistics = vmap(forward, randomness="different")(tensors, images, masks, self.kinds, self.errors)
        return logits, labels, statistics


def update(
    optimizer: str, g: np.ndarray, w: np.ndarray, a: np.ndarray, v: np.ndarray, rate: float, t: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply TensorFlow 1's rule to one tensor in the rule's step t, counted from 0."""
    if optimizer == "adam":
        a, v = 0.9 * a + 0.1 * g, 0.999 * v + 0.001 * g**2
        corrected = rate * math.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        return w - corrected * a / (np.sqrt(v) + 1e-8), a, v
    if optimizer == "rmsprop":
        v = 0.9 * v + 0.1 * g**2
        return w - rate * g / np.sqrt(v + 1e-10), a, v
    a = 0.95 * a + g
    return w - rate * a, a, v


def _moves(name: str) -> bool:
    return name.endswith(MOVING)
